/*
 * Acceptance cases of protection, guard pages and stacks (nt-behaviour 5): PR-1 to PR-4, and what they say of pages
 * that are not in memory, of several threads, and of calls that fail.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

static tide_region query(tide_space *space, tide_address address)
{
    tide_region region;

    assert_success(tide_virtual_query(space, address, &region));
    return region;
}

static uint32_t protect(tide_space *space, tide_address base, uint64_t pages, uint32_t protection)
{
    uint32_t old = 0;

    assert_success(tide_virtual_protect(space, base, pages * PG, protection, &old));
    return old;
}

static void commit(tide_space *space, tide_address base, uint64_t pages, uint32_t protection)
{
    uint64_t bytes = pages * PG;

    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, protection));
}

static void PR_1_a_guard_page_tells_once(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t guard = TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD;
    uint64_t bytes = PG, word = 7;
    tide_address base = 0;

    fixture_page_file(fixture, 64);
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, guard));
    assert_int_equal(query(space, base).protection, guard);
    assert_int_equal(query(space, base).allocation_protection, guard);
    assert_status(tide_write(space, base, &word, sizeof word), TIDE_GUARD_PAGE_VIOLATION);
    assert_int_equal(tide_last_error()->address, base);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_READWRITE);
    assert_int_equal(query(space, base).allocation_protection, guard);
    assert_success(tide_write(space, base, &word, sizeof word));
    assert_int_equal(space_now(space).faults.access_violations, 0);

    /*
     * Wherever the page is - in the working set, on modified, on standby, in the page file - and whatever the access.
     */
    for (unsigned place = 0; place < 8; place++) {
        assert_success(stamp_put(space, base, 1, place));
        assert_int_equal(protect(space, base, 1, guard), TIDE_PAGE_READWRITE);
        if (place % 4 >= 1)
            trim_all(space);
        if (place % 4 >= 2)
            write_modified(fixture);
        if (place % 4 >= 3)
            empty_standby(fixture);
        const tide_access_kind kind = place < 4 ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ;
        assert_status(tide_touch(space, base + 5, kind), TIDE_GUARD_PAGE_VIOLATION);
        assert_int_equal(query(space, base).protection, TIDE_PAGE_READWRITE);
        assert_success(stamp_check(space, base, 1, place));
    }
    /* A write to a read-only guard page: the guard tells, then the protection refuses. */
    protect(space, base, 1, TIDE_PAGE_READONLY | TIDE_PAGE_GUARD);
    assert_status(tide_touch(space, base, TIDE_ACCESS_WRITE), TIDE_GUARD_PAGE_VIOLATION);
    assert_status(tide_touch(space, base, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    assert_success(stamp_check(space, base, 1, 7));
    fixture_close(fixture);
}

/* Every kind of access meets the guard: pins and pointers too. */
static void PR_1_pins_and_pointers_meet_the_guard(void **state)
{
    struct fixture *fixture = *state;
    tide_pin *pin;
    tide_access access;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    stamp_pages(space, base, 4, 1, 1);
    protect(space, base, 4, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    assert_status(tide_pin_create(space, base, PG, TIDE_ACCESS_WRITE, &pin), TIDE_GUARD_PAGE_VIOLATION);
    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_WRITE, &pin));
    assert_status(tide_pin_create(space, base + PG, PG, TIDE_ACCESS_READ, &(tide_pin *){ NULL }),
                  TIDE_GUARD_PAGE_VIOLATION);
    tide_pin_destroy(pin);
    assert_success(tide_access_begin(space, &access));
    assert_null(tide_access_pointer(&access, base + 2 * PG, TIDE_ACCESS_READ));
    assert_int_equal(access.status, TIDE_GUARD_PAGE_VIOLATION);
    assert_non_null(tide_access_pointer(&access, base + 2 * PG, TIDE_ACCESS_WRITE));
    tide_access_end(&access);
    check_pages(space, base, 3, 1, 1);
    assert_status(tide_touch_range(space, base, 4 * PG, TIDE_ACCESS_READ), TIDE_GUARD_PAGE_VIOLATION);
    assert_int_equal(tide_last_error()->address, base + 3 * PG);
    check_pages(space, base, 4, 1, 1);
    fixture_close(fixture);
}

struct guard_race {
    tide_space *space;
    tide_address base;
    atomic_uint told;
};

enum { GUARD_PAGES = 64, GUARD_ROUNDS = 20 };

static void guard_member(struct crew_member *member)
{
    struct guard_race *race = member->context;

    for (unsigned round = 0; round < GUARD_ROUNDS; round++) {
        crew_barrier(member);
        if (member->index == 0) {
            uint32_t old;
            CREW_NOTE(member, tide_virtual_protect(race->space, race->base, GUARD_PAGES * PG,
                                                   TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD, &old) == TIDE_SUCCESS);
        }
        crew_barrier(member);
        for (unsigned i = 0; i < GUARD_PAGES; i++) {
            const tide_status status = tide_touch(race->space, race->base + i * PG, TIDE_ACCESS_WRITE);
            if (status == TIDE_GUARD_PAGE_VIOLATION)
                atomic_fetch_add(&race->told, 1);
            else
                CREW_NOTE(member, !tide_failed(status));
        }
        crew_barrier(member);
        if (member->index == 0) {
            CREW_NOTE(member, atomic_exchange(&race->told, 0) == GUARD_PAGES);
            if (round % 2) /* untouched pages, whose guard is in the region alone */
                CREW_NOTE(member, tide_virtual_free(race->space, race->base, 0, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
            tide_address base = race->base;
            uint64_t bytes = GUARD_PAGES * PG;
            CREW_NOTE(member, tide_virtual_alloc(race->space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) ==
                                  TIDE_SUCCESS);
        }
    }
}

/* Of many threads that touch a guard page at once exactly one is told. */
static void PR_1_a_guard_tells_one_of_many_threads(void **state)
{
    struct fixture *fixture = *state;
    struct guard_race race = { 0 };

    fixture_open(fixture, 256);
    race.space = space_new(fixture);
    race.base = region_new(race.space, GUARD_PAGES);
    crew_run(8, guard_member, &race);
    fixture_close(fixture);
}

static void PR_2_protect_is_all_or_nothing(void **state)
{
    struct fixture *fixture = *state;
    uint64_t bytes = 16 * PG;
    tide_address base = 0;
    uint32_t old = 0xABCD;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    commit(space, base, 4, TIDE_PAGE_READWRITE);
    commit(space, base + 5 * PG, 4, TIDE_PAGE_READWRITE);
    stamp_pages(space, base, 4, 1, 1);
    const tide_statistics before = statistics_now(fixture);
    assert_status(tide_virtual_protect(space, base, 6 * PG, TIDE_PAGE_READONLY, &old), TIDE_NOT_COMMITTED);
    assert_int_equal(old, 0xABCD);
    assert_int_equal(query(space, base).bytes, 4 * PG);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_READWRITE);
    assert_int_equal(query(space, base + 5 * PG).protection, TIDE_PAGE_READWRITE);
    stamp_pages(space, base, 4, 1, 2);
    /* over the end of the region, over two regions, in no region */
    region_new_at(space, base + 16 * PG, 16);
    assert_status(tide_virtual_protect(space, base + 15 * PG, 2 * PG, TIDE_PAGE_READONLY, &old),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_protect(space, base + 64 * PG, PG, TIDE_PAGE_READONLY, &old),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_protect(space, base, PG, TIDE_PAGE_READONLY, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_protect(space, base, 0, TIDE_PAGE_READONLY, &old), TIDE_INVALID_PARAMETER);
    assert_int_equal(old, 0xABCD);
    assert_int_equal(statistics_now(fixture).table_pages, before.table_pages);
    /* two bytes over a border change both pages; the old protection is that of the first */
    assert_int_equal(protect(space, base + 2 * PG, 1, TIDE_PAGE_EXECUTE_READ), TIDE_PAGE_READWRITE);
    assert_success(tide_virtual_protect(space, base + 2 * PG - 1, 2, TIDE_PAGE_READONLY, &old));
    assert_int_equal(old, TIDE_PAGE_READWRITE);
    assert_int_equal(query(space, base + PG).bytes, 2 * PG);
    assert_int_equal(query(space, base + PG).protection, TIDE_PAGE_READONLY);
    assert_status(tide_touch(space, base + PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    check_pages(space, base, 4, 1, 2);
    fixture_close(fixture);
}

/* Part of a region that was committed as a whole: touched pages, untouched ones, and what follows them. */
static void PR_2_protect_of_a_part_and_of_the_whole(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 32);
    const uint64_t charged = space_now(space).private_pages;
    stamp_pages(space, base + 4 * PG, 4, 1, 1);
    assert_int_equal(protect(space, base + 6 * PG, 8, TIDE_PAGE_READONLY), TIDE_PAGE_READWRITE);
    assert_int_equal(query(space, base).bytes, 6 * PG);
    assert_int_equal(query(space, base + 6 * PG).bytes, 8 * PG);
    assert_int_equal(query(space, base + 14 * PG).bytes, 18 * PG);
    for (unsigned page = 6; page < 14; page++)
        assert_status(tide_touch(space, base + page * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    touch_pages(space, base + 8 * PG, 6, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_DEMAND_ZERO);
    touch_pages(space, base + 14 * PG, 2, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(protect(space, base, 32, TIDE_PAGE_NOACCESS), TIDE_PAGE_READWRITE);
    assert_int_equal(query(space, base).bytes, 32 * PG);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_NOACCESS);
    for (unsigned page = 0; page < 32; page++)
        assert_status(tide_touch(space, base + page * PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    assert_int_equal(protect(space, base, 32, TIDE_PAGE_READWRITE | TIDE_PAGE_NOCACHE), TIDE_PAGE_NOACCESS);
    check_pages(space, base + 4 * PG, 4, 1, 1);
    touch_pages(space, base + 16 * PG, 16, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(query(space, base).bytes, 32 * PG);
    assert_int_equal(space_now(space).private_pages, charged); /* pages without access are charged like others */
    /* after the whole was decommitted and committed anew, the protection is that of the commit */
    region_decommit(space, base, 32);
    commit(space, base, 32, TIDE_PAGE_READONLY);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_READONLY);
    assert_status(tide_touch(space, base, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    fixture_close(fixture);
}

static void PR_3_write_copy_is_for_views(void **state)
{
    struct fixture *fixture = *state;
    static const uint32_t wrong[] = { TIDE_PAGE_WRITECOPY,
                                      TIDE_PAGE_EXECUTE_WRITECOPY,
                                      0,
                                      TIDE_PAGE_GUARD,
                                      TIDE_PAGE_READONLY | TIDE_PAGE_READWRITE,
                                      TIDE_PAGE_NOACCESS | TIDE_PAGE_GUARD,
                                      TIDE_PAGE_NOACCESS | TIDE_PAGE_NOCACHE,
                                      TIDE_PAGE_NOACCESS | TIDE_PAGE_WRITECOMBINE,
                                      TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD | TIDE_PAGE_NOCACHE,
                                      TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD | TIDE_PAGE_WRITECOMBINE,
                                      TIDE_PAGE_READWRITE | TIDE_PAGE_NOCACHE | TIDE_PAGE_WRITECOMBINE,
                                      0x80000000u | TIDE_PAGE_READWRITE };

    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    const tide_space_statistics before = space_now(space);
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        tide_address at = 0;
        uint64_t bytes = PG;
        uint32_t old = 1;
        assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, wrong[i]),
                      TIDE_INVALID_PAGE_PROTECTION);
        at = base;
        assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, wrong[i]), TIDE_INVALID_PAGE_PROTECTION);
        assert_status(tide_virtual_protect(space, base, PG, wrong[i], &old), TIDE_INVALID_PAGE_PROTECTION);
        assert_int_equal(old, 1);
    }
    const tide_space_statistics after = space_now(space);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_READWRITE);
    fixture_close(fixture);
}

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

static void PR_4_a_stack_grows_page_by_page(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const uint64_t before = space_now(space).private_pages;
    assert_success(tide_stack_create(space, 16 * PG, PG, &stack));
    assert_int_equal(stack.base - stack.allocation_base, 16 * PG);
    assert_int_equal(stack.limit, stack.base - PG);
    assert_int_equal(space_now(space).private_pages - before, 2);
    assert_int_equal(query(space, stack.limit - PG).protection, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    /* jumping over the guard page is a violation, and grows nothing */
    assert_status(tide_touch(space, stack.limit - 2 * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    assert_int_equal(space_now(space).private_pages - before, 2);
    assert_status(tide_touch(space, stack.limit, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
    /* pages 14 to 2 grow the stack by one each; page 1 is the last guard, page 0 is never committed */
    for (unsigned page = 14; page >= 2; page--) {
        const tide_address at = stack.allocation_base + page * PG;
        assert_status(tide_touch(space, at, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_GUARD_PAGE);
        assert_int_equal(space_now(space).private_pages - before, 2 + (15 - page));
        assert_success(stamp_put(space, at, 1, page));
        assert_int_equal(query(space, at).protection, TIDE_PAGE_READWRITE);
        assert_int_equal(query(space, at - PG).protection, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    }
    const uint64_t full = space_now(space).private_pages;
    assert_status(tide_touch(space, stack.allocation_base + PG, TIDE_ACCESS_WRITE), TIDE_STACK_OVERFLOW);
    assert_int_equal(tide_last_error()->address, stack.allocation_base + PG);
    assert_status(tide_touch(space, stack.allocation_base + PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_status(tide_touch(space, stack.allocation_base, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    assert_int_equal(space_now(space).private_pages, full);
    for (unsigned page = 14; page >= 2; page--)
        assert_success(stamp_check(space, stack.allocation_base + page * PG, 1, page));
    assert_success(tide_virtual_free(space, stack.allocation_base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).private_pages, before);
    fixture_close(fixture);
}

/* A stack that cannot be charged stays as it is, and grows once it can. */
static void PR_4_a_stack_at_the_commit_limit(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    assert_success(tide_stack_create(space, 0, 0, &stack));
    assert_int_equal(stack.base - stack.allocation_base, 1 << 20);
    assert_success(tide_space_set_commit_limit(space, space_now(space).private_pages));
    for (unsigned i = 0; i < 3; i++)
        assert_status(tide_touch(space, stack.limit - 1, TIDE_ACCESS_WRITE), TIDE_STACK_OVERFLOW);
    assert_int_equal(query(space, stack.limit - PG).protection, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    assert_success(tide_space_set_commit_limit(space, TIDE_NO_COMMIT_LIMIT));
    assert_status(tide_touch(space, stack.limit - 1, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_GUARD_PAGE);
    fixture_close(fixture);
}

/* What the error names is the byte that was accessed, as with every refused access. */
static void PR_4_overflow_names_the_byte(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack;
    char bytes[8];

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    assert_success(tide_stack_create(space, 16 * PG, 14 * PG, &stack));
    assert_status(tide_read(space, stack.limit - 100, bytes, sizeof bytes), TIDE_STACK_OVERFLOW);
    assert_int_equal(tide_last_error()->address, stack.limit - 100);
    assert_success(tide_stack_create(space, 0, 0, &stack));
    assert_success(tide_space_set_commit_limit(space, space_now(space).private_pages));
    assert_status(tide_read(space, stack.limit - 100, bytes, sizeof bytes), TIDE_STACK_OVERFLOW);
    assert_int_equal(tide_last_error()->address, stack.limit - 100);
    fixture_close(fixture);
}

/* A stack does not take what was offered below it: it cannot grow until that is reclaimed. */
static void PR_4_a_stack_above_an_offered_page(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    assert_success(tide_stack_create(space, 16 * PG, PG, &stack));
    const tide_address below = stack.limit - 2 * PG;
    commit(space, below, 1, TIDE_PAGE_READWRITE);
    assert_success(stamp_put(space, below, 1, 7));
    assert_success(tide_virtual_offer(space, below, PG, TIDE_OFFER_NORMAL));
    assert_status(tide_touch(space, stack.limit - 1, TIDE_ACCESS_WRITE), TIDE_STACK_OVERFLOW);
    assert_int_equal(query(space, stack.limit - PG).protection, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    assert_success(tide_virtual_reclaim(space, below, PG));
    assert_status(tide_touch(space, stack.limit - 1, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_GUARD_PAGE);
    assert_int_equal(query(space, below).protection, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    fixture_close(fixture);
}

static void PR_4_bad_stacks_are_refused(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack = { 1, 2, 3 };

    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    const tide_space_statistics before = space_now(space);
    static const struct {
        uint64_t reserve, commit;
    } wrong[] = { { 16 * PG, 15 * PG }, { 16 * PG, 16 * PG },    { 0, 1 << 20 },
                  { UINT64_MAX, PG },   { 16 * PG, UINT64_MAX }, { 1ull << 47, PG } };
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_status(tide_stack_create(space, wrong[i].reserve, wrong[i].commit, &stack), TIDE_INVALID_PARAMETER);
    assert_status(tide_stack_create(space, 16 * PG, PG, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_stack_create(space, 1 << 20, 100 * PG, &stack), TIDE_COMMITMENT_LIMIT);
    assert_int_equal(stack.base, 3);
    const tide_space_statistics after = space_now(space);
    assert_int_equal(before.private_pages, after.private_pages);
    assert_int_equal(before.virtual_bytes, after.virtual_bytes);
    assert_int_equal(before.regions, after.regions);
    assert_success(tide_stack_create(space, 16 * PG, 14 * PG, &stack));
    assert_status(tide_touch(space, stack.limit - 1, TIDE_ACCESS_WRITE), TIDE_STACK_OVERFLOW);
    fixture_close(fixture);
}

/* Committed anew as a whole with a guard on every page, untouched pages have no table: the stack grows all the same. */
static void PR_4_a_stack_of_guards_without_tables(void **state)
{
    struct fixture *fixture = *state;
    tide_stack stack;

    fixture_open(fixture, 256);
    tide_space *space = space_new(fixture);
    assert_success(tide_stack_create(space, 16 * PG, PG, &stack));
    region_decommit(space, stack.allocation_base, 16);
    commit(space, stack.allocation_base, 16, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    for (unsigned page = 15; page >= 2; page--)
        assert_status(tide_touch(space, stack.allocation_base + page * PG, TIDE_ACCESS_WRITE),
                      TIDE_PAGE_FAULT_GUARD_PAGE);
    assert_status(tide_touch(space, stack.allocation_base + PG, TIDE_ACCESS_WRITE), TIDE_STACK_OVERFLOW);
    fixture_close(fixture);
}

struct stacks {
    tide_space *space;
    atomic_uint grown;
};

enum { STACK_PAGES = 32 };

static void stack_member(struct crew_member *member)
{
    struct stacks *stacks = member->context;
    tide_stack stack;

    CREW_CHECK(member, tide_stack_create(stacks->space, STACK_PAGES * PG, PG, &stack) == TIDE_SUCCESS);
    for (tide_address at = stack.limit; at > stack.allocation_base + PG; at -= PG) {
        const tide_status status = tide_touch(stacks->space, at, TIDE_ACCESS_WRITE);
        CREW_CHECK(member, status == (at == stack.limit ? TIDE_PAGE_FAULT_DEMAND_ZERO : TIDE_PAGE_FAULT_GUARD_PAGE));
        CREW_CHECK(member, stamp_put(stacks->space, at, member->index, at) == TIDE_SUCCESS);
    }
    for (tide_address at = stack.limit; at > stack.allocation_base + PG; at -= PG)
        CREW_CHECK(member, stamp_check(stacks->space, at, member->index, at) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_touch(stacks->space, stack.allocation_base + PG, TIDE_ACCESS_READ) == TIDE_STACK_OVERFLOW);
    if (member->index % 2)
        CREW_CHECK(member,
                   tide_virtual_free(stacks->space, stack.allocation_base, 0, TIDE_MEM_RELEASE) == TIDE_SUCCESS);
}

/* Each thread on a stack of its own, all at once. */
static void PR_4_stacks_in_threads(void **state)
{
    struct fixture *fixture = *state;
    struct stacks stacks = { 0 };

    fixture_open(fixture, 2048);
    stacks.space = space_new(fixture);
    const uint64_t before = space_now(stacks.space).private_pages;
    crew_run(16, stack_member, &stacks);
    assert_int_equal(space_now(stacks.space).private_pages - before, 8 * (STACK_PAGES - 1));
    assert_int_equal(space_now(stacks.space).regions, 8);
    fixture_close(fixture);
}

static void shared_stack_member(struct crew_member *member)
{
    const struct guard_race *race = member->context;

    for (unsigned page = STACK_PAGES - 1; page >= 2; page--) {
        /* Together, so that all meet the same guard page. */
        crew_barrier(member);
        const tide_status status = tide_touch(race->space, race->base + page * PG, TIDE_ACCESS_WRITE);
        CREW_NOTE(member, !tide_failed(status));
        if (status == TIDE_PAGE_FAULT_GUARD_PAGE)
            atomic_fetch_add((atomic_uint *)&race->told, 1);
    }
}

/* Several threads meet at one stack's guard page: it moves down by one page, for one of them. */
static void PR_4_one_stack_grows_once_for_many_threads(void **state)
{
    struct fixture *fixture = *state;
    struct guard_race race = { 0 };
    tide_stack stack;

    fixture_open(fixture, 256);
    race.space = space_new(fixture);
    assert_success(tide_stack_create(race.space, STACK_PAGES * PG, PG, &stack));
    race.base = stack.allocation_base;
    crew_run(6, shared_stack_member, &race);
    assert_int_equal(atomic_load(&race.told), STACK_PAGES - 3);
    assert_int_equal(space_now(race.space).private_pages, STACK_PAGES - 1);
    fixture_close(fixture);
}

static const struct CMUnitTest protection[] = {
    API_TEST(PR_1_a_guard_page_tells_once),
    API_TEST(PR_1_pins_and_pointers_meet_the_guard),
    API_TEST(PR_1_a_guard_tells_one_of_many_threads),
    API_TEST(PR_2_protect_is_all_or_nothing),
    API_TEST(PR_2_protect_of_a_part_and_of_the_whole),
    API_TEST(PR_3_write_copy_is_for_views),
    API_TEST(PR_4_a_stack_grows_page_by_page),
    API_TEST(PR_4_a_stack_at_the_commit_limit),
    API_TEST(PR_4_overflow_names_the_byte),
    API_TEST(PR_4_a_stack_above_an_offered_page),
    API_TEST(PR_4_bad_stacks_are_refused),
    API_TEST(PR_4_a_stack_of_guards_without_tables),
    API_TEST(PR_4_stacks_in_threads),
    API_TEST(PR_4_one_stack_grows_once_for_many_threads),
};

API_MAIN(protection)

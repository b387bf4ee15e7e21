/*
 * Access sections and the grace period: a frame that left a working set is neither written out nor reused until every
 * access section that could still hold a pointer to it has ended.
 *
 * The main thread holds a section with a pointer to one page; another thread, the adversary, does its worst to that
 * page's frame: trims or deletes the page, runs the writer, empties standby, and demands every other frame, stamping
 * what it gets. Without the grace period the writer would write the page at once, or the adversary would get its
 * frame, and both are seen: the page's state and frame are asked for, and the memory behind the pointer is compared
 * byte by byte.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FRAMES = 200, GREED_PAGES = 400, OWNER = 1, ADVERSARY = 2 };

struct attack {
    struct fixture *fixture;
    tide_space *space; /* of the page held */
    tide_address page;
    tide_page_state expected; /* where the page must stay once it is out of the working set */
    bool delete_page;
    tide_space *other;
    tide_address greed;
    uint64_t taken; /* pages of the adversary's */
};

/* Demands frames until there are none. */
static void demand_all(struct crew_member *member, struct attack *attack)
{
    for (attack->taken = 0; attack->taken < GREED_PAGES; attack->taken++) {
        const tide_status status =
            stamp_put(attack->other, attack->greed + attack->taken * PG, ADVERSARY, attack->taken);
        if (status == TIDE_TIMEOUT)
            return;
        CREW_CHECK(member, status == TIDE_SUCCESS);
    }
    /* more pages than frames: some were written out in spite of the section */
    CREW_NOTE(member, attack->taken < GREED_PAGES);
}

static void attack_page(struct crew_member *member)
{
    struct attack *attack = member->context;
    tide_engine *engine = attack->fixture->engine;
    tide_page_info before, after;
    CREW_CHECK(member, tide_page_query(attack->space, attack->page, &before) == TIDE_SUCCESS);
    CREW_CHECK(member, before.state == TIDE_PAGE_STATE_ACTIVE);
    if (attack->delete_page) {
        CREW_CHECK(member, tide_virtual_free(attack->space, attack->page, PG, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
    } else {
        CREW_CHECK(member, tide_working_set_empty(attack->space) == TIDE_SUCCESS);
        CREW_CHECK(member, tide_page_query(attack->space, attack->page, &after) == TIDE_SUCCESS);
        CREW_CHECK(member, after.state == attack->expected);
    }
    for (unsigned i = 0; i < 3; i++) {
        CREW_CHECK(member, !tide_failed(tide_worker_step(engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL)));
        CREW_CHECK(member, !tide_failed(tide_engine_empty(engine, TIDE_EMPTY_MODIFIED)));
        CREW_CHECK(member, !tide_failed(tide_engine_empty(engine, TIDE_EMPTY_STANDBY)));
        CREW_CHECK(member, !tide_failed(tide_engine_empty(engine, TIDE_EMPTY_FREE)));
    }
    demand_all(member, attack);
    if (!attack->delete_page) {
        CREW_CHECK(member, tide_page_query(attack->space, attack->page, &after) == TIDE_SUCCESS);
        CREW_CHECK(member, after.state == attack->expected);
        CREW_CHECK(member, after.frame == before.frame);
    }
}

/* The adversary's next demand, with the section ended, gets its frame. */
static void attack_again(struct crew_member *member)
{
    struct attack *attack = member->context;
    CREW_CHECK(member,
               stamp_put(attack->other, attack->greed + attack->taken * PG, ADVERSARY, attack->taken) == TIDE_SUCCESS);
    attack->taken++;
    for (uint64_t i = 0; i < attack->taken; i++)
        CREW_CHECK(member, stamp_check(attack->other, attack->greed + i * PG, ADVERSARY, i) == TIDE_SUCCESS);
}

/* A fixture whose waits for frames end soon, a space with two stamped pages, of which the first will be held. */
static struct attack *attack_new(struct fixture *fixture)
{
    static struct attack attack;
    memset(&attack, 0, sizeof(attack));
    fixture->config.frame_wait_ms = 50;
    fixture_page_file(fixture, 2 * GREED_PAGES);
    fixture_open(fixture, FRAMES);
    attack.fixture = fixture;
    attack.space = space_new(fixture);
    attack.page = region_new(attack.space, 2);
    attack.other = space_new(fixture);
    attack.greed = region_new_at(attack.other, TIDE_LOWEST_ADDRESS, GREED_PAGES);
    stamp_pages(attack.space, attack.page, 2, OWNER, 1);
    return &attack;
}

static void assert_section_named(struct fixture *fixture)
{
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.open_sections, 1);
    assert_int_equal(now.stale_sections, 1);
    assert_int_equal(now.longest_section_tid, syscall(SYS_gettid));
}

static void assert_no_section(struct fixture *fixture)
{
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.open_sections, 0);
    assert_int_equal(now.stale_sections, 0);
    assert_int_equal(now.longest_section_tid, 0);
}

static void a_dirty_page_is_not_written_nor_reused_under_a_section(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    struct attack *attack = attack_new(fixture);
    attack->expected = TIDE_PAGE_STATE_MODIFIED;
    assert_no_section(fixture);

    tide_access access;
    assert_success(tide_access_begin(attack->space, &access));
    const void *pointer = tide_access_pointer(&access, attack->page, TIDE_ACCESS_READ);
    assert_non_null(pointer);
    assert_true(stamp_matches(pointer, OWNER, attack->page, 1));
    crew_run(1, attack_page, attack);
    assert_true(stamp_matches(pointer, OWNER, attack->page, 1));
    assert_section_named(fixture);
    assert_int_equal(statistics_now(fixture).pages_output, 0);
    fixture_verify(fixture);
    tide_access_end(&access);

    assert_no_section(fixture);
    write_modified(fixture);
    assert_int_equal(page_now(attack->space, attack->page).state, TIDE_PAGE_STATE_STANDBY);
    empty_standby(fixture);
    assert_int_equal(page_now(attack->space, attack->page).state, TIDE_PAGE_STATE_PAGE_FILE);
    crew_run(1, attack_again, attack);
    check_pages(attack->space, attack->page, 2, OWNER, 1);
    fixture_close(fixture);
}

static void a_clean_page_is_not_reused_under_a_section(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    struct attack *attack = attack_new(fixture);
    attack->expected = TIDE_PAGE_STATE_STANDBY;
    trim_all(attack->space);
    write_modified(fixture);

    tide_access access;
    assert_success(tide_access_begin(attack->space, &access));
    const void *pointer = tide_access_pointer(&access, attack->page, TIDE_ACCESS_READ);
    assert_non_null(pointer);
    assert_int_equal(statistics_now(fixture).faults.transition_standby, 1);
    crew_run(1, attack_page, attack);
    assert_true(stamp_matches(pointer, OWNER, attack->page, 1));
    assert_section_named(fixture);
    fixture_verify(fixture);
    /* refaulting it is the same frame, and still soft */
    assert_ptr_equal(tide_access_pointer(&access, attack->page, TIDE_ACCESS_READ), pointer);
    tide_access_end(&access);

    trim_all(attack->space);
    empty_standby(fixture);
    assert_int_equal(page_now(attack->space, attack->page).state, TIDE_PAGE_STATE_PAGE_FILE);
    crew_run(1, attack_again, attack);
    check_pages(attack->space, attack->page, 2, OWNER, 1);
    fixture_close(fixture);
}

/* Deleted means free for all, and so the frame of another space next: but not while somebody looks at it. */
static void a_deleted_page_is_not_reused_under_a_section(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    struct attack *attack = attack_new(fixture);
    attack->delete_page = true;

    tide_access access;
    assert_success(tide_access_begin(attack->space, &access));
    const void *pointer = tide_access_pointer(&access, attack->page, TIDE_ACCESS_READ);
    assert_non_null(pointer);
    crew_run(1, attack_page, attack);
    assert_true(stamp_matches(pointer, OWNER, attack->page, 1));
    assert_null(tide_access_pointer(&access, attack->page, TIDE_ACCESS_READ));
    assert_int_equal(access.status, TIDE_ACCESS_VIOLATION);
    tide_access_end(&access);

    crew_run(1, attack_again, attack);
    assert_success(stamp_check(attack->space, attack->page + PG, OWNER, 1));
    fixture_close(fixture);
}

/*
 * What a section remembers of where tables lie must go with them: their frames become pages, here of words that would
 * be good entries of a table.
 */
static void tables_that_are_gone_are_not_read(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    tide_access access;
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture), *other = space_new(fixture);
    const tide_address stays = region_new(space, 1);
    for (unsigned round = 0; round < 20; round++) {
        tide_address gone = stays + (1ull << 30), base = 0;
        uint64_t bytes = PG;
        assert_success(
            tide_virtual_alloc(space, &gone, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        assert_success(tide_access_begin(space, &access));
        for (unsigned i = 0; i < 3; i++) { /* by a fault, by the tables, and by what is remembered */
            assert_non_null(tide_access_pointer(&access, stays, TIDE_ACCESS_WRITE));
            assert_non_null(tide_access_pointer(&access, gone, TIDE_ACCESS_WRITE));
        }
        tide_access_end(&access);
        assert_success(tide_virtual_free(space, gone, 0, TIDE_MEM_RELEASE));
        bytes = 40 * PG; /* nearly all frames */
        assert_success(
            tide_virtual_alloc(other, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        for (tide_address at = base; at < base + bytes; at += 8) {
            const uint64_t word = 0xFFF;
            assert_success(tide_write(other, at, &word, sizeof word));
        }
        assert_success(tide_access_begin(space, &access));
        assert_non_null(tide_access_pointer(&access, stays, TIDE_ACCESS_READ));
        assert_null(tide_access_pointer(&access, gone, TIDE_ACCESS_READ));
        assert_status(access.status, TIDE_ACCESS_VIOLATION);
        tide_access_end(&access);
        assert_success(tide_virtual_free(other, base, 0, TIDE_MEM_RELEASE));
    }
    fixture_close(fixture);
}

/* A pointer got for writing before the trim, written through after it: the write is part of the page. */
static void a_write_after_the_trim_is_not_lost(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    struct attack *attack = attack_new(fixture);
    attack->expected = TIDE_PAGE_STATE_MODIFIED;
    for (unsigned clean = 0; clean < 2; clean++) {
        if (clean != 0) { /* the pointer dirties the page, whether it is written through yet or not */
            trim_all(attack->space);
            write_modified(fixture);
        }
        tide_access access;
        assert_success(tide_access_begin(attack->space, &access));
        void *pointer = tide_access_pointer(&access, attack->page, TIDE_ACCESS_WRITE);
        assert_non_null(pointer);
        assert_true(page_now(attack->space, attack->page).dirty);
        crew_run(1, attack_page, attack);
        stamp_fill(pointer, OWNER, attack->page, 2 + clean);
        tide_access_end(&access);

        page_out(fixture, attack->space);
        assert_int_equal(page_now(attack->space, attack->page).state, TIDE_PAGE_STATE_PAGE_FILE);
        assert_success(stamp_check(attack->space, attack->page, OWNER, 2 + clean));
        region_decommit(attack->other, attack->greed, GREED_PAGES);
        attack->greed = region_new(attack->other, GREED_PAGES);
    }
    fixture_close(fixture);
}

struct held_write {
    struct fixture *fixture;
    tide_status status;
};

static void writer_thread(struct crew_member *member)
{
    struct held_write *write = member->context;
    write->status = tide_worker_step(write->fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL);
}

/* A pointer got for writing while the page is being written out, written through when that is done. */
static void a_write_after_the_write_out_is_not_lost(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    static struct held_write write;
    struct attack *attack = attack_new(fixture);
    assert_success(tide_working_set_empty(attack->space));
    write = (struct held_write){ .fixture = fixture };
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    struct crew *crew = crew_start(1, writer_thread, &write);
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    tide_access access;
    assert_success(tide_access_begin(attack->space, &access));
    void *pointer = tide_access_pointer(&access, attack->page, TIDE_ACCESS_WRITE);
    assert_non_null(pointer);
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    crew_join(crew);
    assert_success(write.status);
    stamp_fill(pointer, OWNER, attack->page, 2);
    tide_access_end(&access);
    assert_true(page_now(attack->space, attack->page).dirty);
    page_out(fixture, attack->space);
    assert_success(stamp_check(attack->space, attack->page, OWNER, 2));
    assert_success(stamp_check(attack->space, attack->page + PG, OWNER, 1));
    fixture_close(fixture);
}

/* Sections nest: only the end of the outermost ends what it holds. */
static void sections_nest(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    struct attack *attack = attack_new(fixture);
    attack->expected = TIDE_PAGE_STATE_MODIFIED;
    tide_access outer, inner, beside;
    assert_success(tide_access_begin(attack->space, &outer));
    const void *pointer = tide_access_pointer(&outer, attack->page, TIDE_ACCESS_READ);
    assert_non_null(pointer);
    assert_success(tide_access_begin(attack->space, &inner));
    assert_ptr_equal(tide_access_pointer(&inner, attack->page, TIDE_ACCESS_READ), pointer);
    assert_success(tide_access_begin(attack->other, &beside));
    assert_int_equal(statistics_now(fixture).open_sections, 1); /* threads, not sections */
    tide_access_end(&beside);
    tide_access_end(&inner);
    crew_run(1, attack_page, attack);
    assert_true(stamp_matches(pointer, OWNER, attack->page, 1));
    assert_section_named(fixture);
    assert_status(tide_space_destroy(attack->space), TIDE_DEVICE_BUSY);
    tide_access_end(&outer);
    assert_no_section(fixture);
    crew_run(1, attack_again, attack);
    fixture_close(fixture);
}

/* Pointers fault, dirty and refuse as touches do. */
static void a_pointer_takes_the_fault(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    tide_address fixed = base + 3 * PG;
    uint64_t bytes = PG;
    assert_success(tide_virtual_alloc(space, &fixed, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY));
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    char *first = tide_access_pointer(&access, base, TIDE_ACCESS_READ);
    assert_non_null(first);
    assert_int_equal(*first, 0);
    assert_int_equal(statistics_now(fixture).faults.demand_zero, 1);
    assert_ptr_equal(tide_access_pointer(&access, base + 123, TIDE_ACCESS_WRITE), first + 123);
    assert_int_equal(statistics_now(fixture).faults.page_faults, 1);
    assert_non_null(tide_access_pointer(&access, fixed, TIDE_ACCESS_READ));
    assert_null(tide_access_pointer(&access, fixed, TIDE_ACCESS_WRITE));
    assert_int_equal(access.status, TIDE_ACCESS_VIOLATION);
    assert_int_equal(tide_last_error()->address, fixed);
    assert_null(tide_access_pointer(&access, base + 4 * PG, TIDE_ACCESS_READ));
    tide_access_end(&access);

    assert_success(stamp_put(space, base, OWNER, 1));
    page_out(fixture, space);
    assert_success(tide_access_begin(space, &access));
    const void *back = tide_access_pointer(&access, base, TIDE_ACCESS_READ);
    assert_non_null(back);
    assert_true(stamp_matches(back, OWNER, base, 1));
    assert_false(page_now(space, base).dirty);
    assert_int_equal(statistics_now(fixture).faults.hard, 1);
    assert_non_null(tide_access_pointer(&access, base, TIDE_ACCESS_WRITE));
    assert_true(page_now(space, base).dirty);
    tide_access_end(&access);
    fixture_close(fixture);
}

enum { LONG_PAGES = 700 };

/*
 * One section wants more pages than there are frames. It is told so, its pointers stay good to the end, and a new
 * section goes on where it stopped. Returns how often that happened. `exact`: no thread but this one moves pages, so
 * a new section gets on by one page at least; else the frames that the old one let go may still be on their way to
 * the disk.
 */
static unsigned long_sections(tide_space *space, tide_address base, tide_access_kind kind, bool exact)
{
    unsigned told = 0;
    uint64_t first = 0; /* of this section */
    const void *first_pointer = NULL;
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    for (uint64_t i = 0; i < LONG_PAGES;) {
        const tide_address page = base + i * PG;
        void *pointer = tide_access_pointer(&access, page, kind);
        if (pointer == NULL) {
            assert_status(access.status, TIDE_ACCESS_SECTION_TOO_LONG);
            if (i > first)
                assert_true(stamp_matches(first_pointer, OWNER, base + first * PG, 1));
            if (exact) {
                assert_true(i > first);
                assert_status(tide_touch(space, page, kind), TIDE_ACCESS_SECTION_TOO_LONG);
            }
            tide_access_end(&access);
            assert_success(tide_access_begin(space, &access));
            first = i;
            told++;
            continue;
        }
        if (kind == TIDE_ACCESS_WRITE)
            stamp_fill(pointer, OWNER, page, 1);
        else
            assert_true(stamp_matches(pointer, OWNER, page, 1));
        if (i == first)
            first_pointer = pointer;
        i++;
    }
    tide_access_end(&access);
    return told;
}

static void a_section_larger_than_memory_is_told_so(struct fixture *fixture, bool exact)
{
    fixture_page_file(fixture, 2 * LONG_PAGES);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, LONG_PAGES);
    assert_true(long_sections(space, base, TIDE_ACCESS_WRITE, exact) >= LONG_PAGES / FRAMES);
    assert_true(long_sections(space, base, TIDE_ACCESS_READ, exact) >= LONG_PAGES / FRAMES);
    check_pages(space, base, LONG_PAGES, OWNER, 1);
    fixture_close(fixture);
}

static void a_section_larger_than_memory_ends_with_a_status(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    a_section_larger_than_memory_is_told_so(*state, true);
}

static void a_section_larger_than_memory_ends_with_a_status_with_worker_threads(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    a_section_larger_than_memory_is_told_so(fixture, false);
}

enum { READERS = 6, OWN_PAGES = 40, ROUNDS = 400 };

struct traffic {
    tide_engine *engine;
    tide_space *space;
    tide_address base;
    atomic_uint ended;
};

/*
 * Members below READERS rewrite their own pages through pointers, in sections that lose the CPU half way; the last one
 * takes the pages away from them all the time.
 */
static void traffic_thread(struct crew_member *member)
{
    struct traffic *traffic = member->context;
    if (member->index == READERS) {
        while (atomic_load(&traffic->ended) < READERS) {
            CREW_NOTE(member, tide_working_set_empty(traffic->space) == TIDE_SUCCESS);
            CREW_NOTE(member, !tide_failed(tide_engine_empty(traffic->engine, TIDE_EMPTY_MODIFIED)));
            CREW_NOTE(member, !tide_failed(tide_engine_empty(traffic->engine, TIDE_EMPTY_STANDBY)));
        }
        return;
    }
    const tide_address own = traffic->base + member->index * (tide_address)OWN_PAGES * PG;
    uint64_t versions[OWN_PAGES] = { 0 };
    uint64_t random = member->index;
    for (unsigned round = 0; round < ROUNDS && member->failure[0] == '\0';) {
        const unsigned index[2] = { (unsigned)(random_step(&random) % OWN_PAGES),
                                    (unsigned)(random_step(&random) % OWN_PAGES) };
        tide_access access;
        void *pointers[2] = { NULL, NULL };
        CREW_NOTE(member, tide_access_begin(traffic->space, &access) == TIDE_SUCCESS);
        for (unsigned i = 0; i < 2; i++) {
            pointers[i] = tide_access_pointer(&access, own + index[i] * (tide_address)PG, TIDE_ACCESS_WRITE);
            if (pointers[i] == NULL)
                break;
        }
        if (pointers[0] == NULL || pointers[1] == NULL) {
            CREW_NOTE(member, access.status == TIDE_ACCESS_SECTION_TOO_LONG);
            tide_access_end(&access);
            continue;
        }
        if (round % 8 == 0)
            sleep_ms(1);
        for (unsigned i = 0; i < 2; i++) {
            const tide_address address = own + index[i] * (tide_address)PG;
            uint64_t *version = &versions[index[i]];
            CREW_NOTE(member, *version == 0 || stamp_matches(pointers[i], OWNER, address, *version));
            stamp_fill(pointers[i], OWNER, address, ++*version);
        }
        tide_access_end(&access);
        round++;
    }
    atomic_fetch_add(&traffic->ended, 1);
    for (unsigned i = 0; i < OWN_PAGES; i++)
        CREW_NOTE(member, versions[i] == 0 || stamp_check(traffic->space, own + i * (tide_address)PG, OWNER,
                                                          versions[i]) == TIDE_SUCCESS);
}

static void writes_through_pointers_survive_constant_trimming(void **state)
{
    struct fixture *fixture = *state;
    static struct traffic traffic;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, FRAMES);
    memset(&traffic, 0, sizeof(traffic));
    traffic.engine = fixture->engine;
    traffic.space = space_new(fixture);
    traffic.base = region_new(traffic.space, READERS * OWN_PAGES);
    crew_run(READERS + 1, traffic_thread, &traffic);
    fixture_close(fixture);
}

/*
 * Many pointers at once are the pointers that one call each gives: valid pages, pages out of the working set, pages
 * of two gigabytes, and addresses that fail in between, which leave the others alone.
 */
static void many_pointers_at_once_are_those_of_single_calls(void **state)
{
    enum { MANY = 75, REGION_PAGES = 50 };
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 500);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address near = region_new(space, REGION_PAGES);
    tide_address far = near + (3ull << 30);
    uint64_t bytes = REGION_PAGES * PG;
    assert_success(tide_virtual_alloc(space, &far, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    stamp_pages(space, near, REGION_PAGES, OWNER, 1);
    stamp_pages(space, far, REGION_PAGES, OWNER, 1);
    trim_all(space);

    tide_address addresses[MANY];
    void *pointers[MANY];
    for (unsigned i = 0; i < MANY; i++)
        addresses[i] = (i % 3 == 0 ? far : near) + i * 7 % REGION_PAGES * PG;
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    assert_success(tide_access_pointers(&access, addresses, MANY, TIDE_ACCESS_READ, pointers));
    for (unsigned i = 0; i < MANY; i++) {
        assert_true(stamp_matches(pointers[i], OWNER, addresses[i], 1));
        assert_ptr_equal(pointers[i], tide_access_pointer(&access, addresses[i], TIDE_ACCESS_READ));
    }
    addresses[40] = near + REGION_PAGES * PG; /* past the region */
    assert_status(tide_access_pointers(&access, addresses, MANY, TIDE_ACCESS_WRITE, pointers), TIDE_ACCESS_VIOLATION);
    assert_status(access.status, TIDE_ACCESS_VIOLATION);
    for (unsigned i = 0; i < MANY; i++)
        assert_true(i == 40 ? pointers[i] == NULL : stamp_matches(pointers[i], OWNER, addresses[i], 1));
    assert_true(page_now(space, addresses[39]).dirty);
    assert_success(tide_access_pointers(&access, NULL, 0, TIDE_ACCESS_READ, NULL));
    assert_status(tide_access_pointers(&access, NULL, 1, TIDE_ACCESS_READ, pointers), TIDE_INVALID_PARAMETER);
    tide_access_end(&access);
    fixture_close(fixture);
}

static const struct CMUnitTest access_sections[] = {
    API_TEST(a_dirty_page_is_not_written_nor_reused_under_a_section),
    API_TEST(a_clean_page_is_not_reused_under_a_section),
    API_TEST(a_deleted_page_is_not_reused_under_a_section),
    API_TEST(tables_that_are_gone_are_not_read),
    API_TEST(a_write_after_the_trim_is_not_lost),
    API_TEST(a_write_after_the_write_out_is_not_lost),
    API_TEST(sections_nest),
    API_TEST(a_pointer_takes_the_fault),
    API_TEST(many_pointers_at_once_are_those_of_single_calls),
    API_TEST(a_section_larger_than_memory_ends_with_a_status),
    API_TEST(a_section_larger_than_memory_ends_with_a_status_with_worker_threads),
    API_TEST(writes_through_pointers_survive_constant_trimming),
};

API_MAIN(access_sections)

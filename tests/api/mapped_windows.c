/*
 * Parts of a window that the program unmaps, moves or maps over by mistake: accesses there are SIGSEGV, nobody else's
 * memory is touched, what the space knows goes on as before, and the addresses can be had again. By each delivery.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <signal.h>
#include <sys/mman.h>

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

static tide_space *opened(struct fixture *fixture, tide_delivery delivery, uint64_t frames, uint64_t slots)
{
    tide_mapped_options options;
    tide_space *space = NULL;
    pointer_signals_take();
    fixture_page_file(fixture, slots);
    fixture_open(fixture, frames);
    tide_mapped_options_init(&options);
    options.window_bytes = 1ull << 30;
    options.delivery = delivery;
    assert_success(tide_mapped_space_create(fixture->engine, &options, &space));
    fixture->spaces[0] = space;
    return space;
}

/* 0, or the signal that the access got. */
static int access_try(char *at, bool write)
{
    char byte = 1;
    return pointer_try(at, write, &byte);
}

static char *pages_new(tide_space *space, uint64_t pages)
{
    return tide_pointer(region_new(space, pages));
}

static tide_address address_of(const void *memory)
{
    return (uintptr_t)memory;
}

static void stamp(char *memory, uint64_t first, uint64_t pages, uint64_t version)
{
    for (uint64_t i = first; i < first + pages; i++)
        stamp_fill(memory + i * PG, 1, address_of(memory + i * PG), version);
}

static bool stamped(const char *memory, uint64_t first, uint64_t pages, uint64_t version)
{
    for (uint64_t i = first; i < first + pages; i++)
        if (!stamp_matches(memory + i * PG, 1, address_of(memory + i * PG), version))
            return false;
    return true;
}

/* Pages leave the working set, and at times memory too. */
static void move_out(struct fixture *fixture, tide_space *space, bool far)
{
    assert_success(tide_working_set_empty(space));
    if (far) {
        write_modified(fixture);
        empty_standby(fixture);
    }
}

#define EACH_DELIVERY(name)                                                                                            \
    static void name##_by_signal(void **state)                                                                         \
    {                                                                                                                  \
        name(*state, TIDE_DELIVERY_SIGNAL);                                                                            \
    }                                                                                                                  \
    static void name##_by_threads(void **state)                                                                        \
    {                                                                                                                  \
        if (tide_mapped_check(TIDE_DELIVERY_THREADS) != TIDE_SUCCESS)                                                  \
            skip();                                                                                                    \
        name(*state, TIDE_DELIVERY_THREADS);                                                                           \
    }
#define EACH_TEST(name) API_TEST(name##_by_signal), API_TEST(name##_by_threads)

/* ---- holes ------------------------------------------------------------------------------------------------------ */

static void assert_hole(char *memory, uint64_t first, uint64_t pages)
{
    for (uint64_t at = first; at < first + pages; at += 7)
        assert_int_equal(access_try(memory + at * PG + at, at % 2 == 0), SIGSEGV);
}

/*
 * Accesses to what was unmapped are SIGSEGV; calls go on as if nothing had happened, since the content is the engine's;
 * nothing beside it is touched. A call that gives rights brings it back.
 */
static void a_part_unmapped_is_gone_for_pointers_alone(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = opened(fixture, delivery, 400, 1000);
    char *memory = pages_new(space, 150), page[PG];
    uint32_t old;
    stamp(memory, 0, 150, 1);
    assert_int_equal(munmap(memory + 50 * PG, 50 * PG), 0);
    for (unsigned i = 0; i < 3; i++) {
        assert_hole(memory, 50, 50);
        assert_true(stamped(memory, 0, 50, 1) && stamped(memory, 100, 50, 1));
        move_out(fixture, space, i == 1);
    }
    for (unsigned at = 50; at < 100; at++) {
        assert_success(tide_read(space, address_of(memory + at * PG), page, PG));
        assert_true(stamp_matches(page, 1, address_of(memory + at * PG), 1));
    }
    fixture_verify(fixture);
    assert_success(tide_virtual_protect(space, address_of(memory + 60 * PG), 30 * PG, TIDE_PAGE_READWRITE, &old));
    assert_true(stamped(memory, 60, 30, 1));
    assert_hole(memory, 50, 10);
    assert_hole(memory, 90, 10);
    fixture_close(fixture);
}
EACH_DELIVERY(a_part_unmapped_is_gone_for_pointers_alone)

/* The hole is nobody else's: the next region may lie there, and its memory works; also after all of it was moved. */
static void what_was_unmapped_can_be_had_again(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = opened(fixture, delivery, 400, 1000);
    for (unsigned turn = 0; turn < 20; turn++) {
        char *memory = pages_new(space, 200), *moved = NULL;
        stamp(memory, 0, 200, turn);
        if (turn % 3 == 0) {
            moved = mremap(memory + 20 * PG, 40 * PG, 40 * PG, MREMAP_MAYMOVE | MREMAP_FIXED,
                           mmap(NULL, 40 * PG, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
            assert_true(moved != MAP_FAILED);
            assert_hole(memory, 20, 40);
        } else {
            assert_int_equal(munmap(memory + turn * PG, (size_t)(turn % 3 == 1 ? 200 - turn : 100) * PG), 0);
            assert_hole(memory, turn, 100);
        }
        assert_success(tide_virtual_free(space, address_of(memory), 0, TIDE_MEM_RELEASE));
        char *again = tide_pointer(region_new_at(space, 0, 300));
        assert_ptr_equal(again, memory); /* the first free place */
        stamp(again, 0, 300, turn + 100);
        move_out(fixture, space, turn % 2 == 0);
        assert_true(stamped(again, 0, 300, turn + 100));
        assert_success(tide_virtual_free(space, address_of(again), 0, TIDE_MEM_RELEASE));
        if (moved != NULL)
            munmap(moved, 40 * PG);
    }
    fixture_close(fixture);
}
EACH_DELIVERY(what_was_unmapped_can_be_had_again)

/*
 * Memory that the program maps over a part of the window is the program's: nothing that is done to the region, or the
 * space, reaches it. What else lies there is not given out again while it is there.
 */
static void memory_mapped_over_a_window_is_left_alone(struct fixture *fixture, tide_delivery delivery)
{
    enum { FIRST = 30, COUNT = 40, PAGES = 160 };
    tide_space *space = opened(fixture, delivery, 400, 1000);
    char *memory = pages_new(space, PAGES);
    uint32_t old;
    stamp(memory, 0, PAGES, 1);
    char *mine =
        mmap(memory + FIRST * PG, COUNT * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    assert_ptr_equal(mine, memory + FIRST * PG);
    stamp(mine, 0, COUNT, 77);
    for (unsigned turn = 0; turn < 8; turn++) {
        move_out(fixture, space, turn % 2 == 1);
        assert_true(stamped(mine, 0, COUNT, 77));
        assert_true(stamped(memory, 0, FIRST, 1) && stamped(memory, FIRST + COUNT, PAGES - FIRST - COUNT, 1));
        assert_success(tide_virtual_protect(space, address_of(memory), PAGES * PG,
                                            turn % 2 == 0 ? TIDE_PAGE_READONLY : TIDE_PAGE_READWRITE, &old));
        stamp(mine, 0, COUNT, 77); /* it may be written still */
        assert_int_equal(access_try(memory, true), turn % 2 == 0 ? SIGSEGV : 0);
        stamp_fill(page_now(space, address_of(memory)).protection == TIDE_PAGE_READWRITE ? memory : mine, 1,
                   turn % 2 == 0 ? address_of(mine) : address_of(memory), turn % 2 == 0 ? 77 : 1);
    }
    for (unsigned i = 0; i < COUNT; i += 3) /* what a call makes of such a page is one thing or the other, and an end */
        (void)!tide_touch(space, address_of(mine + i * PG), TIDE_ACCESS_WRITE);
    fixture_verify(fixture);
    region_decommit(space, address_of(memory), PAGES);
    assert_true(stamped(mine, 0, COUNT, 77));
    assert_success(tide_virtual_free(space, address_of(memory), 0, TIDE_MEM_RELEASE));
    assert_true(stamped(mine, 0, COUNT, 77));

    /* Asked for by address it is refused; a place of the engine's choice lies before it or behind. */
    tide_address base = address_of(memory);
    uint64_t bytes = PAGES * PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_int_equal(tide_last_error()->address, address_of(mine));
    char *other = pages_new(space, PAGES);
    assert_true(other >= mine + COUNT * PG || other + PAGES * PG <= mine);
    stamp(other, 0, PAGES, 5);
    base = 0;
    bytes = PAGES * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_TOP_DOWN,
                                      TIDE_PAGE_READWRITE));
    assert_true(stamped(mine, 0, COUNT, 77));

    /* Gone, it is the window's again. */
    assert_int_equal(munmap(mine, COUNT * PG), 0);
    assert_ptr_equal(tide_pointer(region_new_at(space, address_of(memory), FIRST + COUNT)), memory);
    stamp(memory, 0, FIRST + COUNT, 6);
    move_out(fixture, space, true);
    assert_true(stamped(memory, 0, FIRST + COUNT, 6) && stamped(other, 0, PAGES, 5));

    /* And it outlives the space. */
    mine = mmap(memory + 4 * PG, 2 * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    stamp(mine, 0, 2, 78);
    space_close(fixture, space);
    assert_true(stamped(mine, 0, 2, 78));
    assert_int_equal(access_try(memory, false), SIGSEGV);
    assert_int_equal(access_try(memory + 6 * PG, false), SIGSEGV);
    munmap(mine, 2 * PG);
    fixture_close(fixture);
}
EACH_DELIVERY(memory_mapped_over_a_window_is_left_alone)

/* ---- while others work ------------------------------------------------------------------------------------------ */

enum { WORKERS = 4, OWN = 60, TURNS = 150 };

struct race {
    struct fixture *fixture;
    tide_space *space;
    char *memory; /* OWN pages of each member */
    char *torn;   /* a region that is unmapped in parts, again and again */
    bool exact;   /* what hides pages just then knows of the hole too; by threads it may not (docs/mapped-spaces.md) */
    atomic_uint left;
};

/* Stamps and checks its own pages. */
static void work(struct crew_member *member, struct race *race)
{
    char *const mine = race->memory + member->index * OWN * (size_t)PG;
    for (unsigned turn = 0; turn < TURNS; turn++) {
        for (unsigned i = 0; i < OWN; i++)
            stamp_fill(mine + i * PG, member->index, i, turn);
        if (turn % 16 == member->index)
            CREW_NOTE(member, tide_working_set_empty(race->space) == TIDE_SUCCESS);
        for (unsigned i = 0; i < OWN; i++)
            CREW_NOTE(member, stamp_matches(mine + i * PG, member->index, i, turn));
    }
    atomic_fetch_sub(&race->left, 1);
}

/* Tears the window, and maps memory of its own meanwhile, as any thread of the program does. */
static void tear(struct crew_member *member, struct race *race)
{
    uint64_t seed = 9;
    while (atomic_load(&race->left) != 0) {
        const uint64_t first = random_step(&seed) % 100, count = 1 + random_step(&seed) % 20;
        char *const part = race->torn + first * PG;
        if (random_step(&seed) % 4 == 0) {
            CREW_NOTE(member, mmap(part, count * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                                   -1, 0) == part);
            stamp_fill(part, 3, 3, first);
            (void)!tide_working_set_empty(race->space);
            CREW_NOTE(member, !race->exact || stamp_matches(part, 3, 3, first));
        }
        CREW_NOTE(member, munmap(part, count * PG) == 0);
        char *other = mmap(NULL, count * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        stamp_fill(other, 4, 4, first);
        uint32_t old;
        (void)!tide_virtual_protect(race->space, address_of(part), PG, TIDE_PAGE_READWRITE, &old);
        (void)access_try(part, true);
        CREW_NOTE(member, !race->exact || stamp_matches(other, 4, 4, first));
        munmap(other, count * PG);
    }
}

static void race_member(struct crew_member *member)
{
    struct race *race = member->context;
    if (member->index < WORKERS)
        work(member, race);
    else
        tear(member, race);
}

static void a_window_is_torn_while_others_fault(struct fixture *fixture, tide_delivery delivery)
{
    fixture->config.workers = TIDE_WORKERS_THREADS;
    struct race race = { .fixture = fixture,
                         .space = opened(fixture, delivery, 250, 2000),
                         .exact = delivery == TIDE_DELIVERY_SIGNAL };
    race.memory = pages_new(race.space, WORKERS * OWN);
    race.torn = pages_new(race.space, 128);
    atomic_store(&race.left, WORKERS);
    crew_run(WORKERS + 1, race_member, &race);
    fixture_close(fixture);
}
EACH_DELIVERY(a_window_is_torn_while_others_fault)

static const struct CMUnitTest mapped_windows[] = {
    EACH_TEST(a_part_unmapped_is_gone_for_pointers_alone),
    EACH_TEST(what_was_unmapped_can_be_had_again),
    EACH_TEST(memory_mapped_over_a_window_is_left_alone),
    EACH_TEST(a_window_is_torn_while_others_fault),
};

API_MAIN_MAPPED(mapped_windows)

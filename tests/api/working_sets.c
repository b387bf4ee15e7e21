/*
 * Acceptance cases of working sets and their trimmer (nt-behaviour 15: WS-1 to WS-4, WS-6; WS-5 by API belongs to
 * locking, and is a unit test of the trimmer here), their limits, and watching them. Time is the engine's virtual
 * clock: a tick is a second, and the trimmer's step that is due in it. In the cases with eight threads half of them use
 * pages and half demand new ones; with the engine's workers as threads time is the real one, and the test waits for
 * ages.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One second of the balance set manager. */
static void tick(struct fixture *fixture)
{
    assert_success(tide_clock_advance(fixture->engine, 1000));
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
}

static void WS_1_working_set_grows_and_empties(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 1000 };
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(space_now(space).peak_working_set_pages, 0);
    const uint64_t private_pages = space_now(space).private_pages;

    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(space_now(space).working_set_pages, PAGES);
    assert_int_equal(space_now(space).peak_working_set_pages, PAGES);
    const tide_node_statistics node = node_now(fixture, 0);
    const uint64_t trimmed = statistics_now(fixture).trimmed;

    assert_success(tide_working_set_empty(space));
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(space_now(space).peak_working_set_pages, PAGES);
    assert_int_equal(space_now(space).private_pages, private_pages);
    assert_int_equal(node_now(fixture, 0).modified - node.modified, PAGES);
    assert_int_equal(node.active - node_now(fixture, 0).active, PAGES);
    assert_int_equal(statistics_now(fixture).trimmed - trimmed, PAGES);

    /* A page that is deleted leaves the working set too, and is not trimmed. */
    touch_pages(space, base, 10, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    region_decommit(space, base, 10);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(statistics_now(fixture).trimmed - trimmed, PAGES);
    fixture_close(fixture);
}

/* At a hard maximum a space replaces its own pages, and nobody else's. */
static void WS_2_a_hard_maximum_replaces_locally(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 200, MAXIMUM = 100, ROUNDS = 3 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, 1000);
    tide_space *space = space_new(fixture);
    tide_space *other = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    const tide_address of_other = region_new(other, PAGES);
    stamp_pages(other, of_other, PAGES, 2, 1);
    assert_success(tide_working_set_set_limits(space, 20, MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM));

    const tide_statistics before = statistics_now(fixture);
    for (unsigned round = 1; round <= ROUNDS; round++) {
        for (unsigned i = 0; i < PAGES; i++) {
            if (round > 1)
                assert_success(stamp_check(space, base + i * PG, 1, round - 1));
            assert_success(stamp_put(space, base + i * PG, 1, round));
            const uint64_t size = space_now(space).working_set_pages;
            assert_between(size, round == 1 && i < MAXIMUM ? i + 1 : 1, MAXIMUM);
        }
    }
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(space_now(space).peak_working_set_pages, MAXIMUM);
    assert_int_equal(space_now(other).working_set_pages, PAGES);
    assert_int_equal(pages_in_state(other, of_other, PAGES, TIDE_PAGE_STATE_ACTIVE), PAGES);
    /* all that was trimmed came in by a fault of this space and is no longer there */
    const uint64_t came_in = after.faults.demand_zero + after.faults.transition + after.faults.hard -
                             before.faults.demand_zero - before.faults.transition - before.faults.hard;
    assert_int_equal(after.trimmed - before.trimmed, came_in - space_now(space).working_set_pages);
    assert_true(came_in >= PAGES + (ROUNDS - 1) * (PAGES - MAXIMUM));
    assert_int_equal(space_now(other).faults.page_faults, PAGES);
    check_pages(other, of_other, PAGES, 2, 1);
    fixture_close(fixture);
}

static void WS_2_a_soft_maximum_gives_way_to_free_memory(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 200 };
    fixture_open(fixture, 1000);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_working_set_set_limits(space, 20, 100, 0));
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_int_equal(space_now(space).working_set_pages, PAGES);
    tick(fixture);
    assert_int_equal(space_now(space).working_set_pages, PAGES);
    assert_int_equal(statistics_now(fixture).trimmed, 0);
    fixture_close(fixture);
}

enum { AGED_PAGES = 400, AGED_HOT = AGED_PAGES / 2 };

/* A space of AGED_PAGES pages, every second of which was touched in each of the last four ticks. */
static tide_space *half_hot_half_cold(struct fixture *fixture, tide_address *base)
{
    tide_space *space = space_new(fixture);
    *base = region_new(space, AGED_PAGES);
    stamp_pages(space, *base, AGED_PAGES, 1, 1);
    for (unsigned i = 0; i < 4; i++) {
        tick(fixture);
        for (unsigned page = 0; page < AGED_PAGES; page += 2)
            assert_success(tide_touch(space, *base + page * PG, TIDE_ACCESS_READ));
    }
    assert_int_equal(space_now(space).working_set_pages, AGED_PAGES);
    assert_true(page_now(space, *base + PG).age > page_now(space, *base).age);
    return space;
}

/* Of the pages that are gone, at least 90 % are cold ones. Returns how many are gone. */
static uint64_t assert_cold_went(tide_space *space, tide_address base)
{
    uint64_t gone[2] = { 0, 0 };
    for (unsigned page = 0; page < AGED_PAGES; page++)
        gone[page % 2] += !page_now(space, base + page * PG).valid;
    print_message("gone: %llu hot, %llu cold\n", (unsigned long long)gone[0], (unsigned long long)gone[1]);
    assert_true(gone[1] * 10 >= (gone[0] + gone[1]) * 9);
    return gone[0] + gone[1];
}

/* Demand: the frames run short and the trimmer makes room. */
static void WS_4_cold_pages_go_first_on_demand(void **state)
{
    SOFT_SPACES_ONLY(ONLY_AGE);
    struct fixture *fixture = *state;
    enum { FRAMES = 640, DEMAND = 120 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, FRAMES);
    tide_address base;
    tide_space *space = half_hot_half_cold(fixture, &base);
    tide_space *other = space_new(fixture);
    const tide_address fresh = region_new(other, 400);
    /* no more than is left, and then DEMAND more: those come out of the first space, or not at all */
    const uint64_t frames = statistics_now(fixture).available_pages;
    for (uint64_t i = 0; i < frames + DEMAND && space_now(space).working_set_pages > AGED_PAGES - DEMAND; i++)
        assert_false(tide_failed(tide_touch(other, fresh + i * PG, TIDE_ACCESS_WRITE)));
    assert_true(assert_cold_went(space, base) > 0);
    check_pages(space, base, AGED_PAGES, 1, 1);
    fixture_close(fixture);
}

/* The same by request: oldest first, and exactly as many as asked for. */
static void WS_4_cold_pages_go_first_on_request(void **state)
{
    SOFT_SPACES_ONLY(ONLY_AGE);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, 640);
    tide_address base;
    tide_space *space = half_hot_half_cold(fixture, &base);
    uint64_t trimmed = 0;
    assert_success(tide_working_set_trim(space, AGED_HOT, &trimmed));
    assert_int_equal(trimmed, AGED_HOT);
    assert_int_equal(space_now(space).working_set_pages, AGED_PAGES - AGED_HOT);
    assert_int_equal(assert_cold_went(space, base), AGED_HOT);
    check_pages(space, base, AGED_PAGES, 1, 1);
    fixture_close(fixture);
}

static void WS_6_without_pressure_no_page_leaves(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 1000 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, 4 * PAGES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    const tide_statistics before = statistics_now(fixture);
    for (unsigned i = 0; i < 100; i++)
        tick(fixture);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(space_now(space).working_set_pages, PAGES);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_ACTIVE), PAGES);
    assert_int_equal(after.trimmed, before.trimmed);
    assert_int_equal(after.pages_output, 0);
    assert_true(page_now(space, base).age > 0);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_SUCCESS);
    assert_int_equal(statistics_now(fixture).faults.page_faults, before.faults.page_faults);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/*
 * A hard minimum holds under pressure that goes below soft ones: the pages of the space are the oldest, and the other
 * space never gets as many frames as its own, soft minimum. Whichever of the two the trimmer comes to first.
 */
static void hard_minimum(struct fixture *fixture, bool kept_first)
{
    enum { KEPT = 150, DEMAND = 400 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, 200);
    tide_space *first = space_new(fixture);
    tide_space *second = space_new(fixture);
    tide_space *kept = kept_first ? first : second;
    tide_space *other = kept_first ? second : first;
    const tide_address base = region_new(kept, KEPT);
    const tide_address fresh = region_new(other, DEMAND);
    assert_success(tide_working_set_set_limits(kept, KEPT, KEPT + 20, TIDE_WORKING_SET_HARD_MINIMUM));
    stamp_pages(kept, base, KEPT, 1, 1);
    for (unsigned i = 0; i < 4; i++)
        tick(fixture);
    for (unsigned i = 0; i < DEMAND; i++) {
        assert_success(stamp_put(other, fresh + i * PG, 2, 1));
        assert_int_equal(space_now(kept).working_set_pages, KEPT);
        assert_true(space_now(other).working_set_pages < 50);
    }
    check_pages(kept, base, KEPT, 1, 1);
    check_pages(other, fresh, DEMAND, 2, 1);
    assert_int_equal(space_now(kept).working_set_pages, KEPT);
    fixture_close(fixture);
}

static void WS_a_hard_minimum_of_the_older_space_stops_the_trimmer(void **state)
{
    hard_minimum(*state, true);
}

static void WS_a_hard_minimum_of_the_younger_space_stops_the_trimmer(void **state)
{
    hard_minimum(*state, false);
}

/* A soft one does not: with fewer frames than the minimums of two spaces together both go on. */
static void WS_a_soft_minimum_gives_way_to_pressure(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 200, MINIMUM = 150 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, FRAMES);
    tide_space *spaces[2];
    tide_address bases[2];
    for (unsigned i = 0; i < 2; i++) {
        spaces[i] = space_new(fixture);
        bases[i] = region_new(spaces[i], MINIMUM);
        assert_success(tide_working_set_set_limits(spaces[i], MINIMUM, MINIMUM, 0));
        stamp_pages(spaces[i], bases[i], MINIMUM, i, 1);
        assert_true(space_now(spaces[i]).peak_working_set_pages > FRAMES / 2);
    }
    assert_true(space_now(spaces[0]).working_set_pages + space_now(spaces[1]).working_set_pages < FRAMES);
    for (unsigned i = 0; i < 2; i++)
        check_pages(spaces[i], bases[i], MINIMUM, i, 1);
    fixture_close(fixture);
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static void assert_limits(tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t flags)
{
    uint64_t least = 0, most = 0;
    uint32_t hard = 0;
    assert_success(tide_working_set_get_limits(space, &least, &most, &hard));
    assert_int_equal(least, minimum);
    assert_int_equal(most, maximum);
    assert_int_equal(hard, flags);
}

static void WS_limits_are_checked_raised_and_told(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 8192 };
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    assert_limits(space, 50, 345, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 1, 100, 0));
    assert_limits(space, 20, 100, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 5, 13, 0));
    assert_limits(space, 13, 13, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 30, 60, TIDE_WORKING_SET_HARD_MINIMUM));
    assert_limits(space, 30, 60, TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    /* 0 leaves as they are what no flag names */
    assert_success(tide_working_set_set_limits(space, 31, 61, TIDE_WORKING_SET_HARD_MAXIMUM));
    assert_limits(space, 31, 61, TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 32, 62, 0));
    assert_limits(space, 32, 62, TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 32, 62, TIDE_WORKING_SET_SOFT_MINIMUM));
    assert_limits(space, 32, 62, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 32, 62, TIDE_WORKING_SET_SOFT_MAXIMUM));
    assert_limits(space, 32, 62, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    /* available less 512 */
    assert_status(tide_working_set_set_limits(space, 32, FRAMES - 511, 0), TIDE_INVALID_PARAMETER);
    assert_limits(space, 32, 62, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_success(tide_working_set_set_limits(space, 32, FRAMES - 512, 0));
    fixture_close(fixture);
}

static void WS_both_limits_minus_one_empty_the_set(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 60 };
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_working_set_set_limits(space, 30, 100, TIDE_WORKING_SET_HARD_MINIMUM));
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_set_limits(space, UINT64_MAX, UINT64_MAX, 0));
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_MODIFIED), PAGES);
    assert_limits(space, 30, 100, TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    fixture_close(fixture);
}

/* Together they must leave room for others, or nobody could be helped any more. */
static void WS_hard_minimums_together_have_a_bound(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 800); /* 700 at most */
    tide_space *first = space_new(fixture);
    tide_space *second = space_new(fixture);
    assert_success(tide_working_set_set_limits(first, 400, 400, TIDE_WORKING_SET_HARD_MINIMUM));
    assert_status(tide_working_set_set_limits(second, 301, 400, TIDE_WORKING_SET_HARD_MINIMUM),
                  TIDE_INSUFFICIENT_RESOURCES);
    assert_limits(second, 50, 345, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_success(tide_working_set_set_limits(second, 301, 400, 0));
    assert_success(tide_working_set_set_limits(first, 399, 400, 0));
    assert_success(tide_working_set_set_limits(second, 301, 400, TIDE_WORKING_SET_HARD_MINIMUM));
    assert_status(tide_working_set_set_limits(first, 400, 400, 0), TIDE_INSUFFICIENT_RESOURCES);
    space_close(fixture, second);
    assert_success(tide_working_set_set_limits(first, 700, 700, 0));
    assert_success(tide_working_set_set_limits(first, 700, 700, TIDE_WORKING_SET_SOFT_MINIMUM));
    second = space_new(fixture);
    assert_success(tide_working_set_set_limits(second, 700, 700, TIDE_WORKING_SET_HARD_MINIMUM));
    fixture_close(fixture);
}

/* ---- a hard maximum under eight threads ------------------------------------------------------------------------- */

enum { CROWD = 8, CROWD_PAGES = 40, CROWD_MAXIMUM = 100, CROWD_ROUNDS = 400 };

struct crowd {
    struct fixture *fixture;
    tide_space *space;
    tide_address base;
    atomic_uint left; /* members that still fault */
};

/* Each member has pages of its own, all over the region, and finds in them what it put there. */
static void crowd_fault(struct crew_member *member, struct crowd *crowd)
{
    uint64_t state = member->index + 1;
    uint64_t versions[CROWD_PAGES] = { 0 };
    for (unsigned i = 0; i < CROWD_ROUNDS; i++) {
        const uint64_t page = random_step(&state) % CROWD_PAGES;
        const tide_address address = crowd->base + (page * CROWD + member->index) * PG;
        if (versions[page] != 0)
            CREW_NOTE(member, stamp_check(crowd->space, address, member->index, versions[page]) == TIDE_SUCCESS);
        CREW_NOTE(member, stamp_put(crowd->space, address, member->index, ++versions[page]) == TIDE_SUCCESS);
    }
    atomic_fetch_sub(&crowd->left, 1);
}

static uint64_t pages_of(tide_space *space)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof(statistics) };
    return tide_space_statistics_get(space, &statistics) == TIDE_SUCCESS ? statistics.working_set_pages : UINT64_MAX;
}

/* The statistics never show more than the maximum; and the verifier counts the valid pages in a stopped world. */
static void crowd_hard(struct crew_member *member)
{
    struct crowd *crowd = member->context;
    if (member->index < CROWD) {
        crowd_fault(member, crowd);
        return;
    }
    while (atomic_load(&crowd->left) != 0) {
        for (unsigned i = 0; i < 20; i++)
            CREW_NOTE(member, pages_of(crowd->space) <= CROWD_MAXIMUM);
        CREW_NOTE(member, tide_engine_verify(crowd->fixture->engine, NULL) == TIDE_SUCCESS);
    }
}

/*
 * The zero-page thread runs at idle priority: on a busy machine it may lose its CPU for many seconds with the lock of
 * the fixture's only list shard held. It has no part in these cases.
 */
static void zero_page_hold(struct fixture *fixture)
{
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, true));
}

static void crowd_open(struct fixture *fixture, struct crowd *crowd, bool threads)
{
    fixture->config.workers = threads ? TIDE_WORKERS_THREADS : TIDE_WORKERS_MANUAL;
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, 1000);
    zero_page_hold(fixture);
    *crowd = (struct crowd){ .fixture = fixture, .space = space_new(fixture), .left = CROWD };
    crowd->base = region_new(crowd->space, CROWD * CROWD_PAGES);
}

static void hard_maximum_under_threads(struct fixture *fixture, bool threads)
{
    struct crowd crowd;
    crowd_open(fixture, &crowd, threads);
    tide_space *other = space_new(fixture);
    const tide_address of_other = region_new(other, 200);
    stamp_pages(other, of_other, 200, 99, 1);
    assert_success(tide_working_set_set_limits(crowd.space, 20, CROWD_MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM));
    crew_run(CROWD + 1, crowd_hard, &crowd);
    assert_between(space_now(crowd.space).peak_working_set_pages, CROWD_MAXIMUM - CROWD, CROWD_MAXIMUM);
    assert_between(space_now(crowd.space).working_set_pages, CROWD_MAXIMUM - CROWD, CROWD_MAXIMUM);
    assert_int_equal(space_now(other).working_set_pages, 200);
    assert_int_equal(space_now(other).faults.page_faults, 200);
    fixture_close(fixture);
}

static void WS_2_a_hard_maximum_holds_under_8_threads(void **state)
{
    hard_maximum_under_threads(*state, false);
}

static void WS_2_a_hard_maximum_holds_under_8_threads_and_workers(void **state)
{
    hard_maximum_under_threads(*state, true);
}

/* Two threads to each set of pages, and each page is to be read from a slow file. */
static void crowd_read(struct crew_member *member)
{
    struct crowd *crowd = member->context;
    for (unsigned i = 0; i < CROWD_PAGES; i++)
        CREW_NOTE(member, stamp_check(crowd->space, crowd->base + (i * CROWD + member->index % CROWD) * PG, 7, 1) ==
                              TIDE_SUCCESS);
}

/* Fewer pages than threads that fault at once: some wait for the others. */
static void WS_2_the_least_hard_maximum_lets_16_threads_go_on(void **state)
{
    struct fixture *fixture = *state;
    struct crowd crowd;
    crowd_open(fixture, &crowd, true);
    stamp_pages(crowd.space, crowd.base, CROWD * CROWD_PAGES, 7, 1);
    trim_all(crowd.space);
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    empty_standby(fixture);
    atomic_store(&fixture->device.delay_us[TIDE_IO_READ][0], 200);
    assert_success(tide_working_set_set_limits(crowd.space, 13, 13, TIDE_WORKING_SET_HARD_MAXIMUM));
    crew_run(2 * CROWD, crowd_read, &crowd);
    assert_between(space_now(crowd.space).working_set_pages, 1, 13);
    atomic_store(&fixture->device.delay_us[TIDE_IO_READ][0], 0);
    fixture_close(fixture);
}

/* Made hard in the middle of faults, the maximum holds from the moment that the call returns. */
static void crowd_toggled(struct crew_member *member)
{
    struct crowd *crowd = member->context;
    if (member->index < CROWD) {
        crowd_fault(member, crowd);
        return;
    }
    while (atomic_load(&crowd->left) != 0) {
        CREW_NOTE(member, tide_working_set_set_limits(crowd->space, 20, CROWD_MAXIMUM, TIDE_WORKING_SET_SOFT_MAXIMUM) ==
                              TIDE_SUCCESS);
        while (atomic_load(&crowd->left) != 0 && pages_of(crowd->space) < CROWD_MAXIMUM + 50)
            sched_yield();
        CREW_NOTE(member, tide_working_set_set_limits(crowd->space, 20, CROWD_MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM) ==
                              TIDE_SUCCESS);
        for (unsigned i = 0; i < 3; i++) {
            CREW_NOTE(member, pages_of(crowd->space) <= CROWD_MAXIMUM);
            CREW_NOTE(member, tide_engine_verify(crowd->fixture->engine, NULL) == TIDE_SUCCESS);
        }
    }
}

static void WS_2_a_maximum_made_hard_holds_at_once(void **state)
{
    struct fixture *fixture = *state;
    struct crowd crowd;
    crowd_open(fixture, &crowd, false);
    crew_run(CROWD + 1, crowd_toggled, &crowd);
    fixture_close(fixture);
}

/* What a space gives back by itself is room again: nothing is replaced for it. */
static void WS_2_room_made_by_deleting_is_used(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 200, MAXIMUM = 100, GIVEN_BACK = 60 };
    fixture_open(fixture, 1000);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_working_set_set_limits(space, 20, MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM));
    touch_pages(space, base, MAXIMUM, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    region_decommit(space, base, GIVEN_BACK);
    touch_pages(space, base + MAXIMUM * PG, GIVEN_BACK, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(space_now(space).working_set_pages, MAXIMUM);
    assert_int_equal(statistics_now(fixture).trimmed, 0);
    touch_pages(space, base + (MAXIMUM + GIVEN_BACK) * PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(space_now(space).working_set_pages, MAXIMUM);
    assert_int_equal(statistics_now(fixture).trimmed, 1);
    fixture_close(fixture);
}

/* ---- who gives, with eight threads running ---------------------------------------------------------------------- */

enum { USERS = 4, DEMANDERS = 4, OLD = 240 /* of 255: older than what was used once and is new */ };

struct rush {
    struct fixture *fixture;
    tide_space *used; /* pages that the users touch all the time */
    tide_address base;
    uint64_t pages;    /* of it, */
    unsigned stride;   /* and of these every so many */
    tide_space *fresh; /* where the demanders touch new pages */
    tide_address next;
    uint64_t demand;  /* by each */
    tide_address old; /* page that nobody touches, in the space */
    tide_space *of_old;
    atomic_bool aged; /* the ages say who is used */
    atomic_uint demanding;
    atomic_ulong touches;
};

static unsigned age_of(tide_space *space, tide_address address)
{
    tide_page_info info = { 0 };
    return tide_failed(tide_page_query(space, address, &info)) ? 0 : info.age;
}

static void rush_member(struct crew_member *member)
{
    struct rush *rush = member->context;
    bool seen_young = false;
    if (member->index >= USERS) {
        while (!atomic_load(&rush->aged))
            sched_yield();
        const tide_address base = rush->next + (member->index - USERS) * rush->demand * PG;
        for (uint64_t i = 0; i < rush->demand; i++)
            CREW_NOTE(member, !tide_failed(tide_touch(rush->fresh, base + i * PG, TIDE_ACCESS_WRITE)));
        atomic_fetch_sub(&rush->demanding, 1);
        return;
    }
    while (atomic_load(&rush->demanding) != 0) {
        for (uint64_t page = 0; page < rush->pages; page += rush->stride)
            CREW_NOTE(member, !tide_failed(tide_touch(rush->used, rush->base + page * PG, TIDE_ACCESS_READ)));
        atomic_fetch_add(&rush->touches, rush->pages / rush->stride);
        if (member->index == 0) {
            const unsigned age = age_of(rush->of_old, rush->old);

            seen_young |= age < OLD; /* until its first look a page has the age of an old one */
            if (seen_young && age >= OLD && age > age_of(rush->used, rush->base) + 100)
                atomic_store(&rush->aged, true);
        }
        sleep_ms(1); /* or the demand would take long on few CPUs, and its own pages be idle for many ticks too */
    }
}

/* Four ticks, in each of which the used pages are touched; with worker threads the users do the same in real time. */
static void rush_run(struct rush *rush, bool threads)
{
    if (!threads) {
        for (unsigned i = 0; i < 12; i++) {
            tick(rush->fixture);
            for (uint64_t page = 0; page < rush->pages; page += rush->stride)
                assert_success(tide_touch(rush->used, rush->base + page * PG, TIDE_ACCESS_READ));
        }
        assert_true(age_of(rush->of_old, rush->old) > age_of(rush->used, rush->base) + 100);
        atomic_store(&rush->aged, true);
    }
    atomic_store(&rush->demanding, DEMANDERS);
    assert_int_equal(statistics_now(rush->fixture).trimmed, 0);
    crew_run(USERS + DEMANDERS, rush_member, rush);
}

static void rush_open(struct fixture *fixture, struct rush *rush, uint64_t frames, bool threads)
{
    fixture->config.workers = threads ? TIDE_WORKERS_THREADS : TIDE_WORKERS_MANUAL;
    fixture->config.trimmer_period_ms = threads ? 150 : 1000;
    fixture_page_file(fixture, 2 * frames);
    fixture_open(fixture, frames);
    zero_page_hold(fixture);
    *rush = (struct rush){ .fixture = fixture, .used = space_new(fixture), .stride = 1, .fresh = space_new(fixture) };
}

/* A loops over 500 pages, B is idle with 5,000; of what a demand of 3,000 frames takes, at least 95 % are B's. */
static void ws_3(struct fixture *fixture, bool threads)
{
    enum { HOT = 500, IDLE = 5000, DEMAND = 3000, FRAMES = 6200 };
    struct rush rush;
    rush_open(fixture, &rush, FRAMES, threads);
    tide_space *idle = space_new(fixture);
    rush.pages = HOT;
    rush.base = region_new(rush.used, HOT);
    rush.of_old = idle;
    const tide_address base = region_new(idle, IDLE);
    rush.old = base + (IDLE - 1) * PG; /* a mapped set looks at one table after the other: this is of the last */
    rush.demand = DEMAND / DEMANDERS;
    rush.next = region_new(rush.fresh, DEMAND);
    stamp_pages(idle, base, IDLE, 2, 1);
    stamp_pages(rush.used, rush.base, HOT, 1, 1);
    rush_run(&rush, threads);

    const uint64_t trimmed = statistics_now(fixture).trimmed;
    const uint64_t of_idle = IDLE - space_now(idle).working_set_pages;
    const uint64_t refaults = space_now(rush.used).faults.page_faults - HOT;
    print_message("trimmed %llu, of the idle space %llu; %llu faults in %lu touches of used pages\n",
                  (unsigned long long)trimmed, (unsigned long long)of_idle, (unsigned long long)refaults,
                  (unsigned long)atomic_load(&rush.touches));
    assert_true(trimmed >= DEMAND - (FRAMES - HOT - IDLE));
    assert_true(of_idle * 100 >= trimmed * 95);
    assert_true(refaults * 100 <= HOT);
    check_pages(rush.used, rush.base, HOT, 1, 1);
    check_pages(idle, base, IDLE, 2, 1);
    fixture_close(fixture);
}

static void WS_3_the_idle_space_gives_to_8_threads(void **state)
{
    ws_3(*state, false);
}

static void WS_3_the_idle_space_gives_to_8_threads_and_workers(void **state)
{
    SOFT_SPACES_ONLY(ONLY_AGE);
    ws_3(*state, true);
}

/* Within one space, half of it used: at least 90 % of what goes is of the other half. */
static void ws_4(struct fixture *fixture, bool threads)
{
    enum { PAGES = 2000, FRAMES = 2700, DEMAND = 1200 };
    struct rush rush;
    rush_open(fixture, &rush, FRAMES, threads);
    rush.pages = PAGES;
    rush.stride = 2;
    rush.base = region_new(rush.used, PAGES);
    rush.of_old = rush.used;
    rush.old = rush.base + PG;
    rush.demand = DEMAND / DEMANDERS;
    rush.next = region_new(rush.fresh, DEMAND);
    stamp_pages(rush.used, rush.base, PAGES, 1, 1);
    rush_run(&rush, threads);

    /* used pages that went may have come back */
    uint64_t gone[2] = { space_now(rush.used).faults.page_faults - PAGES, 0 };
    for (unsigned page = 0; page < PAGES; page++)
        gone[page % 2] += !page_now(rush.used, rush.base + page * PG).valid;
    print_message("gone: %llu hot, %llu cold\n", (unsigned long long)gone[0], (unsigned long long)gone[1]);
    assert_true(gone[1] > 0); /* or new pages that were idle for many ticks went */
    assert_true(gone[1] * 10 >= (gone[0] + gone[1]) * 9);
    check_pages(rush.used, rush.base, PAGES, 1, 1);
    fixture_close(fixture);
}

static void WS_4_cold_pages_go_first_under_8_threads(void **state)
{
    SOFT_SPACES_ONLY(ONLY_AGE);
    ws_4(*state, false);
}

static void WS_4_cold_pages_go_first_under_8_threads_and_workers(void **state)
{
    SOFT_SPACES_ONLY(ONLY_AGE);
    ws_4(*state, true);
}

/* ---- watching --------------------------------------------------------------------------------------------------- */

static void touch_two(struct crew_member *member)
{
    struct crowd *crowd = member->context;
    CREW_NOTE(member,
              tide_touch(crowd->space, crowd->base + 3 * PG + 17, TIDE_ACCESS_WRITE) == TIDE_PAGE_FAULT_DEMAND_ZERO);
    CREW_NOTE(member, tide_touch(crowd->space, crowd->base + 3 * PG, TIDE_ACCESS_WRITE) == TIDE_SUCCESS);
}

static void WS_watch_tells_address_thread_and_class_of_faults(void **state)
{
    struct fixture *fixture = *state;
    tide_working_set_change changes[8];
    uint64_t count = 8, lost = 1;
    fixture_page_file(fixture, 400);
    fixture_open(fixture, 400);
    struct crowd crowd = { .fixture = fixture, .space = space_new(fixture) };
    tide_space *space = crowd.space, *other = space_new(fixture);
    const tide_address base = crowd.base = region_new(space, 8);
    const tide_address of_other = region_new(other, 8);
    touch_pages(space, base, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO); /* before the watch */
    assert_success(tide_working_set_watch_begin(space, 8));
    touch_pages(other, of_other, 8, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_changes_get(space, changes, &count, &lost));
    assert_int_equal(count, 0);
    assert_int_equal(lost, 0);

    page_out(fixture, space);
    assert_status(tide_touch(space, base + 5, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    trim_all(space);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_SUCCESS);
    assert_status(tide_touch(space, base + 20 * PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    struct crew *crew = crew_start(1, touch_two, &crowd);
    while (!atomic_load(&crew_member_get(crew, 0)->done))
        sched_yield();
    const int tid = atomic_load(&crew_member_get(crew, 0)->tid);
    crew_join(crew);

    count = 2;
    assert_status(tide_working_set_changes_get(space, changes, &count, &lost), TIDE_BUFFER_TOO_SMALL);
    assert_int_equal(count, 3);
    assert_success(tide_working_set_changes_get(space, changes, &count, &lost));
    assert_int_equal(count, 3);
    assert_int_equal(lost, 0);
    const tide_working_set_change expected[3] = {
        { .address = base + 5, .thread_id = (uint64_t)syscall(SYS_gettid), .fault = TIDE_PAGE_FAULT_PAGING_FILE },
        { .address = base, .thread_id = (uint64_t)syscall(SYS_gettid), .fault = TIDE_PAGE_FAULT_TRANSITION },
        { .address = base + 3 * PG + 17, .thread_id = (uint64_t)tid, .fault = TIDE_PAGE_FAULT_DEMAND_ZERO },
    };
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(changes[i].address, expected[i].address);
        assert_int_equal(changes[i].thread_id, expected[i].thread_id);
        assert_int_equal(changes[i].fault, expected[i].fault);
    }
    /* They are told once. */
    assert_success(tide_working_set_changes_get(space, changes, &count, &lost));
    assert_int_equal(count, 0);
    assert_success(tide_working_set_watch_end(space));
    assert_status(tide_working_set_changes_get(space, changes, &count, &lost), TIDE_INVALID_PARAMETER);
    assert_success(tide_working_set_watch_end(space));
    fixture_close(fixture);
}

static void WS_watch_counts_what_it_cannot_hold(void **state)
{
    struct fixture *fixture = *state;
    tide_working_set_change changes[4];
    uint64_t count = 4, lost = 0;
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 20);
    assert_success(tide_working_set_watch_begin(space, 4));
    touch_pages(space, base, 10, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_changes_get(space, changes, &count, &lost));
    assert_int_equal(count, 4);
    assert_int_equal(lost, 6);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(changes[i].address, base + i * PG);
    touch_pages(space, base + 10 * PG, 2, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_changes_get(space, changes, &count, &lost));
    assert_int_equal(count, 2);
    assert_int_equal(lost, 0);
    assert_int_equal(changes[0].address, base + 10 * PG);
    /* Begun again, it starts over. */
    touch_pages(space, base + 12 * PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_working_set_watch_begin(space, 1));
    count = 0;
    assert_success(tide_working_set_changes_get(space, NULL, &count, NULL));
    touch_pages(space, base + 13 * PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_status(tide_working_set_changes_get(space, NULL, &count, NULL), TIDE_BUFFER_TOO_SMALL);
    assert_int_equal(count, 1);
    fixture_close(fixture); /* watched to its end */
}

/* Every fault of every thread is there once, while the records are fetched in between. */
static void watch_fault(struct crew_member *member)
{
    struct crowd *crowd = member->context;
    for (unsigned i = 0; i < CROWD_PAGES; i++)
        CREW_NOTE(member, tide_touch(crowd->space, crowd->base + (i * CROWD + member->index) * PG, TIDE_ACCESS_WRITE) ==
                              TIDE_PAGE_FAULT_DEMAND_ZERO);
    atomic_fetch_sub(&crowd->left, 1);
}

static void WS_watch_misses_no_fault_of_8_threads(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = CROWD * CROWD_PAGES };
    static tide_working_set_change changes[PAGES];
    unsigned seen[PAGES] = { 0 };
    struct crowd crowd;
    crowd_open(fixture, &crowd, true);
    assert_success(tide_working_set_watch_begin(crowd.space, PAGES));
    struct crew *crew = crew_start(CROWD, watch_fault, &crowd);
    for (bool last = false; !last;) {
        last = atomic_load(&crowd.left) == 0;
        uint64_t count = PAGES, lost = 0;
        assert_success(tide_working_set_changes_get(crowd.space, changes, &count, &lost));
        assert_int_equal(lost, 0);
        for (uint64_t i = 0; i < count; i++)
            seen[(changes[i].address - crowd.base) / PG]++;
        sched_yield();
    }
    crew_join(crew);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(seen[i], 1);
    fixture_close(fixture);
}

static const struct CMUnitTest working_sets[] = {
    API_TEST(WS_1_working_set_grows_and_empties),
    API_TEST(WS_2_a_hard_maximum_replaces_locally),
    API_TEST(WS_2_a_soft_maximum_gives_way_to_free_memory),
    API_TEST(WS_2_a_hard_maximum_holds_under_8_threads),
    API_TEST(WS_2_a_hard_maximum_holds_under_8_threads_and_workers),
    API_TEST(WS_2_the_least_hard_maximum_lets_16_threads_go_on),
    API_TEST(WS_2_a_maximum_made_hard_holds_at_once),
    API_TEST(WS_2_room_made_by_deleting_is_used),
    API_TEST(WS_3_the_idle_space_gives_to_8_threads),
    API_TEST(WS_3_the_idle_space_gives_to_8_threads_and_workers),
    API_TEST(WS_4_cold_pages_go_first_under_8_threads),
    API_TEST(WS_4_cold_pages_go_first_under_8_threads_and_workers),
    API_TEST(WS_limits_are_checked_raised_and_told),
    API_TEST(WS_both_limits_minus_one_empty_the_set),
    API_TEST(WS_hard_minimums_together_have_a_bound),
    API_TEST(WS_watch_tells_address_thread_and_class_of_faults),
    API_TEST(WS_watch_counts_what_it_cannot_hold),
    API_TEST(WS_watch_misses_no_fault_of_8_threads),
    API_TEST(WS_4_cold_pages_go_first_on_demand),
    API_TEST(WS_4_cold_pages_go_first_on_request),
    API_TEST(WS_6_without_pressure_no_page_leaves),
    API_TEST(WS_a_hard_minimum_of_the_older_space_stops_the_trimmer),
    API_TEST(WS_a_hard_minimum_of_the_younger_space_stops_the_trimmer),
    API_TEST(WS_a_soft_minimum_gives_way_to_pressure),
};

API_MAIN(working_sets)

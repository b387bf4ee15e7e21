/*
 * Acceptance cases of working sets and their trimmer (nt-behaviour 15: WS-1, WS-2, WS-4, WS-6). Time is the engine's
 * virtual clock: a tick is a second, and the trimmer's step that is due in it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>

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
    assert_success(tide_working_set_set_limits(kept, KEPT, 2 * KEPT, TIDE_WORKING_SET_HARD_MINIMUM));
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

/* A soft one does not: with fewer frames than its minimum the space goes on. */
static void WS_a_soft_minimum_gives_way_to_pressure(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 200, DEMAND = 400 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, DEMAND);
    assert_success(tide_working_set_set_limits(space, 2 * FRAMES, 4 * FRAMES, 0));
    stamp_pages(space, base, DEMAND, 1, 1);
    assert_true(space_now(space).working_set_pages < FRAMES);
    check_pages(space, base, DEMAND, 1, 1);
    fixture_close(fixture);
}

static const struct CMUnitTest working_sets[] = {
    API_TEST(WS_1_working_set_grows_and_empties),
    API_TEST(WS_2_a_hard_maximum_replaces_locally),
    API_TEST(WS_2_a_soft_maximum_gives_way_to_free_memory),
    API_TEST(WS_4_cold_pages_go_first_on_demand),
    API_TEST(WS_4_cold_pages_go_first_on_request),
    API_TEST(WS_6_without_pressure_no_page_leaves),
    API_TEST(WS_a_hard_minimum_of_the_older_space_stops_the_trimmer),
    API_TEST(WS_a_hard_minimum_of_the_younger_space_stops_the_trimmer),
    API_TEST(WS_a_soft_minimum_gives_way_to_pressure),
};

API_MAIN(working_sets)

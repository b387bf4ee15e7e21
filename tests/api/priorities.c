/*
 * Acceptance cases of memory priorities (nt-behaviour 13: PR-P1, PR-P2; 11: LS-3 by threads; LS-3 by spaces is in
 * page_lists.c), of threads and spaces, and background mode.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

static unsigned thread_priority(struct fixture *fixture)
{
    unsigned priority = 99;
    assert_success(tide_thread_get_priority(fixture->engine, &priority));
    return priority;
}

static unsigned space_priority(tide_space *space)
{
    unsigned priority = 99;
    assert_success(tide_space_get_priority(space, &priority));
    return priority;
}

/* A at priority 1 and B at 5, all on standby: a demand of as many frames as A has takes A's, and B pays nothing. */
static void pr_p1(struct fixture *fixture, bool by_thread)
{
    enum { PAGES = 2000 };
    fixture_page_file(fixture, 3 * PAGES);
    fixture_open(fixture, 2 * PAGES + 200);
    tide_space *high = space_new(fixture);
    tide_space *low = space_new(fixture);
    tide_space *other = space_new(fixture);
    const tide_address of_high = region_new(high, PAGES);
    const tide_address of_low = region_new(low, PAGES);
    if (!by_thread)
        assert_success(tide_space_set_priority(low, 1));
    stamp_pages(high, of_high, PAGES, 5, 1); /* the older ones: age must not decide */
    if (by_thread)
        assert_success(tide_thread_set_priority(fixture->engine, 1));
    stamp_pages(low, of_low, PAGES, 1, 1);
    if (by_thread)
        assert_success(tide_thread_set_priority(fixture->engine, TIDE_PRIORITY_DEFAULT));
    trim_all(high);
    write_modified(fixture);
    trim_all(low);
    write_modified(fixture);
    tide_address fresh = region_new(other, PAGES + 400);
    consume_frames(fixture, other, &fresh, 0);
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(node.standby[1], PAGES);
    assert_int_equal(node.standby[5], PAGES);
    const tide_statistics before = statistics_now(fixture);

    /* But for what the trimmer would keep available by trimming the demander itself. */
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_TRIMMER, true));
    uint64_t taken = 0, tables = statistics_now(fixture).table_pages;
    while (taken < PAGES) {
        assert_status(tide_touch(other, fresh + taken * PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
        taken = statistics_now(fixture).repurposed[1] - before.repurposed[1];
        if (statistics_now(fixture).repurposed[5] != before.repurposed[5])
            break;
    }
    assert_true(statistics_now(fixture).table_pages - tables < 10);
    assert_int_equal(statistics_now(fixture).repurposed[1] - before.repurposed[1], PAGES);
    assert_int_equal(statistics_now(fixture).repurposed[5] - before.repurposed[5], 0);
    assert_int_equal(pages_in_state(low, of_low, PAGES, TIDE_PAGE_STATE_PAGE_FILE), PAGES);
    touch_pages(high, of_high, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(space_now(high).faults.hard, 0);
    space_close(fixture, other);
    check_pages(high, of_high, PAGES, 5, 1);
    check_pages(low, of_low, PAGES, 1, 1);
    assert_true(space_now(low).faults.hard > 0);
    fixture_close(fixture);
}

static void PR_P1_pages_of_a_low_space_are_repurposed_first(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    pr_p1(*state, false);
}

static void PR_P1_pages_of_a_low_thread_are_repurposed_first(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    pr_p1(*state, true);
}

static void PR_P2_6_and_above_cannot_be_set(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    for (unsigned priority = 0; priority <= 5; priority++) {
        assert_success(tide_space_set_priority(space, priority));
        assert_int_equal(space_priority(space), priority);
        assert_success(tide_thread_set_priority(fixture->engine, priority));
        assert_int_equal(thread_priority(fixture), priority);
    }
    static const unsigned refused[] = { 6, 7, 8, 1000, 0x80000000u, TIDE_PRIORITY_DEFAULT };
    for (unsigned i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_status(tide_space_set_priority(space, refused[i]), TIDE_INVALID_PARAMETER);
        if (refused[i] != TIDE_PRIORITY_DEFAULT)
            assert_status(tide_thread_set_priority(fixture->engine, refused[i]), TIDE_INVALID_PARAMETER);
    }
    assert_int_equal(space_priority(space), 5);
    assert_int_equal(thread_priority(fixture), 5);
    assert_success(tide_thread_set_priority(fixture->engine, TIDE_PRIORITY_DEFAULT));
    assert_int_equal(thread_priority(fixture), TIDE_PRIORITY_DEFAULT);
    fixture_close(fixture);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

enum { PRIORITIES = 6, OF_EACH = 10 };

struct load {
    struct fixture *fixture;
    tide_space *space;
    tide_address base;
};

/* Each thread faults its pages at its own priority, into one space. */
static void fault_at_priority(struct crew_member *member)
{
    struct load *load = member->context;
    CREW_CHECK(member, tide_thread_set_priority(load->fixture->engine, member->index) == TIDE_SUCCESS);
    for (unsigned i = 0; i < OF_EACH; i++)
        CREW_CHECK(member, stamp_put(load->space, load->base + (member->index * OF_EACH + i) * PG, member->index, 1) ==
                               TIDE_SUCCESS);
}

/* Six of the eight lists: 6 and 7 cannot be set. */
static void LS_3_priorities_of_threads_order_the_standby_lists(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 400);
    fixture_open(fixture, 240);
    struct load load = { .fixture = fixture, .space = space_new(fixture) };
    load.base = region_new(load.space, PRIORITIES * OF_EACH);
    crew_run(PRIORITIES, fault_at_priority, &load);
    for (unsigned i = 0; i < PRIORITIES * OF_EACH; i++)
        assert_int_equal(page_now(load.space, load.base + i * PG).priority, i / OF_EACH);
    trim_all(load.space);
    write_modified(fixture);
    tide_space *other = space_new(fixture);
    tide_address fresh = region_new_at(other, TIDE_LOWEST_ADDRESS, 250);
    consume_frames(fixture, other, &fresh, 0);
    const tide_node_statistics full = node_now(fixture, 0);
    for (unsigned priority = 0; priority < 8; priority++)
        assert_int_equal(full.standby[priority], priority < PRIORITIES ? OF_EACH : 0);

    touch_pages(other, fresh, 25, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    static const unsigned left[8] = { 0, 0, 5, 10, 10, 10, 0, 0 };
    const tide_node_statistics node = node_now(fixture, 0);
    for (unsigned priority = 0; priority < 8; priority++)
        assert_int_equal(node.standby[priority], left[priority]);
    /* Who kept his pages refaults soft, the others hard. */
    touch_pages(load.space, load.base + 3 * OF_EACH * PG, 3 * OF_EACH, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    space_close(fixture, other);
    assert_status(tide_touch(load.space, load.base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    assert_status(tide_touch(load.space, load.base + OF_EACH * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    for (unsigned i = 0; i < PRIORITIES; i++)
        check_pages(load.space, load.base + i * OF_EACH * PG, OF_EACH, i, 1);
    fixture_close(fixture);
}

static void a_thread_counts_for_more_than_its_space(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 100);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    assert_int_equal(thread_priority(fixture), TIDE_PRIORITY_DEFAULT);
    assert_success(tide_space_set_priority(space, 2));
    touch_pages(space, base, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base).priority, 2);
    assert_success(tide_thread_set_priority(fixture->engine, 4));
    touch_pages(space, base + PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base + PG).priority, 4);
    assert_success(tide_thread_set_priority(fixture->engine, 0));
    touch_pages(space, base + 2 * PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base + 2 * PG).priority, 0);

    /* A soft fault gives the page the toucher's present priority: from the modified list, from standby; so does a hard
     * one. */
    assert_success(tide_thread_set_priority(fixture->engine, 3));
    trim_all(space);
    assert_int_equal(page_now(space, base).priority, 2);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(page_now(space, base).priority, 3);
    write_modified(fixture);
    assert_int_equal(node_now(fixture, 0).standby[4], 1);
    assert_status(tide_touch(space, base + PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(page_now(space, base + PG).priority, 3);
    page_out(fixture, space);
    assert_success(tide_thread_set_priority(fixture->engine, 1));
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    assert_int_equal(page_now(space, base).priority, 1);
    /* A page that is valid keeps what it has. */
    assert_success(tide_thread_set_priority(fixture->engine, TIDE_PRIORITY_DEFAULT));
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_SUCCESS);
    assert_int_equal(page_now(space, base).priority, 1);
    trim_all(space);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(page_now(space, base).priority, 2);
    fixture_close(fixture);
}

static void leave_low_priority(struct crew_member *member)
{
    struct load *load = member->context;
    CREW_CHECK(member, tide_thread_set_priority(load->fixture->engine, 1) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_thread_background_begin(load->fixture->engine) == TIDE_SUCCESS);
}

static void find_default_priority(struct crew_member *member)
{
    struct load *load = member->context;
    unsigned priority = 99;
    CREW_CHECK(member, tide_thread_get_priority(load->fixture->engine, &priority) == TIDE_SUCCESS);
    CREW_CHECK(member, priority == TIDE_PRIORITY_DEFAULT);
    CREW_CHECK(member, tide_thread_background_end(load->fixture->engine) == TIDE_THREAD_MODE_NOT_BACKGROUND);
}

/* A thread's priority ends with it, though its record is used again. */
static void a_new_thread_has_no_priority_of_its_own(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 100);
    struct load load = { .fixture = fixture };
    for (unsigned i = 0; i < 4; i++) {
        crew_run(2, leave_low_priority, &load);
        crew_run(2, find_default_priority, &load);
    }
    assert_int_equal(thread_priority(fixture), TIDE_PRIORITY_DEFAULT);
    fixture_close(fixture);
}

/* ---- background mode -------------------------------------------------------------------------------------------- */

static void background_mode_of_a_space_lowers_and_restores(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 100);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    assert_status(tide_space_background_end(space), TIDE_PROCESS_MODE_NOT_BACKGROUND);
    assert_success(tide_space_set_priority(space, 4));
    assert_success(tide_space_background_begin(space));
    assert_int_equal(space_priority(space), 1);
    touch_pages(space, base, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base).priority, 1);
    assert_status(tide_space_background_begin(space), TIDE_PROCESS_MODE_ALREADY_BACKGROUND);
    assert_int_equal(space_priority(space), 1);
    assert_success(tide_space_background_end(space));
    assert_int_equal(space_priority(space), 4);
    touch_pages(space, base + PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base + PG).priority, 4);
    assert_status(tide_space_background_end(space), TIDE_PROCESS_MODE_NOT_BACKGROUND);
    /* What is set meanwhile counts afterwards; what is lower counts at once. */
    assert_success(tide_space_background_begin(space));
    assert_success(tide_space_set_priority(space, 2));
    assert_int_equal(space_priority(space), 1);
    assert_success(tide_space_set_priority(space, 0));
    assert_int_equal(space_priority(space), 0);
    assert_success(tide_space_set_priority(space, 3));
    assert_success(tide_space_background_end(space));
    assert_int_equal(space_priority(space), 3);
    assert_success(tide_space_background_begin(space));
    fixture_close(fixture);
}

static void background_mode_of_a_thread_lowers_and_restores(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 100);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 8);
    assert_status(tide_thread_background_end(fixture->engine), TIDE_THREAD_MODE_NOT_BACKGROUND);
    assert_success(tide_thread_background_begin(fixture->engine));
    assert_status(tide_thread_background_begin(fixture->engine), TIDE_THREAD_MODE_ALREADY_BACKGROUND);
    assert_int_equal(thread_priority(fixture), 1);
    touch_pages(space, base, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base).priority, 1);
    assert_success(tide_thread_background_end(fixture->engine));
    assert_int_equal(thread_priority(fixture), TIDE_PRIORITY_DEFAULT);
    touch_pages(space, base + PG, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(page_now(space, base + PG).priority, 5);
    assert_success(tide_thread_set_priority(fixture->engine, 4));
    assert_success(tide_thread_background_begin(fixture->engine));
    assert_int_equal(thread_priority(fixture), 1);
    assert_success(tide_thread_set_priority(fixture->engine, 0));
    assert_int_equal(thread_priority(fixture), 0);
    assert_success(tide_thread_set_priority(fixture->engine, 3));
    assert_int_equal(thread_priority(fixture), 1);
    assert_success(tide_thread_background_end(fixture->engine));
    assert_int_equal(thread_priority(fixture), 3);
    assert_status(tide_thread_background_end(fixture->engine), TIDE_THREAD_MODE_NOT_BACKGROUND);
    assert_success(tide_thread_set_priority(fixture->engine, TIDE_PRIORITY_DEFAULT));
    fixture_close(fixture);
}

/* ---- which pages are trimmed ------------------------------------------------------------------------------------ */

/* Of pages of one age, those of low priority are trimmed first, wherever they lie. */
static void PR_pages_of_low_priority_are_trimmed_first(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 100 };
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    for (unsigned i = 0; i < PAGES; i++) {
        assert_success(tide_thread_set_priority(fixture->engine, i % 4 == 3 ? 2 : 5));
        assert_success(stamp_put(space, base + i * PG, 1, 1));
    }
    assert_success(tide_thread_set_priority(fixture->engine, TIDE_PRIORITY_DEFAULT));
    uint64_t trimmed = 0;
    assert_success(tide_working_set_trim(space, PAGES / 4, &trimmed));
    assert_int_equal(trimmed, PAGES / 4);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(page_now(space, base + i * PG).valid, i % 4 != 3);
    fixture_close(fixture);
}

static const struct CMUnitTest priorities[] = {
    API_TEST(PR_P1_pages_of_a_low_space_are_repurposed_first),
    API_TEST(PR_P1_pages_of_a_low_thread_are_repurposed_first),
    API_TEST(PR_P2_6_and_above_cannot_be_set),
    API_TEST(LS_3_priorities_of_threads_order_the_standby_lists),
    API_TEST(a_thread_counts_for_more_than_its_space),
    API_TEST(a_new_thread_has_no_priority_of_its_own),
    API_TEST(background_mode_of_a_space_lowers_and_restores),
    API_TEST(background_mode_of_a_thread_lowers_and_restores),
    API_TEST(PR_pages_of_low_priority_are_trimmed_first),
};

API_MAIN(priorities)

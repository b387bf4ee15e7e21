/*
 * The grace period: what an open section holds back, when it lets go, wrap-around of the stamp; records of threads;
 * stopping the world.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <pthread.h>

#define ONE_NODE "numa:1 core:2 pu:1"

static struct frames *frames; /* of the running test */
static struct grace_thread *self;
static int space, other_space;

static int setup(void **state)
{
    const tide_config config = small_config(16);

    (void)state;
    frames = frames_good(ONE_NODE, &config);
    self = grace_thread_get(&frames->grace);
    return self == NULL;
}

static int teardown(void **state)
{
    (void)state;
    grace_thread_put(self);
    frames_close(frames);
    return 0;
}

/* Takes every frame that can be had. */
static unsigned take_all(void)
{
    unsigned count = 0;

    for (frame_t frame; !frame_is_none(frame = frames_allocate(frames, 0, FRAMES_ANY, 0)); count++)
        make_active(frames, frame, true, 0, 5);
    return count;
}

static void test_freed_frame_waits_for_the_section(void **state)
{
    const frame_t frame = take_active(frames, 0, true, 0, 5);

    (void)state;
    assert_int_equal(take_all(), 15);
    assert_true(grace_section_begin(self, &space));
    frames_free(frames, frame);
    for (unsigned i = 0; i < 20; i++)
        assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    assert_int_equal(frames_zero_free(frames, 0, 1), 0);
    grace_section_end(self, &space);
    assert_int_equal(frames_allocate(frames, 0, FRAMES_ANY, 0).number, frame.number);
}

static void test_standby_waits_for_the_section(void **state)
{
    const frame_t frame = take_active(frames, 0, false, 0x77, 5);

    (void)state;
    assert_int_equal(take_all(), 15);
    assert_true(grace_section_begin(self, &space));
    trim(frames, frame);
    for (unsigned i = 0; i < 20; i++)
        assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    assert_int_equal(frames_repurpose(frames, 0, 7, 1), 0);
    grace_section_end(self, &space);
    assert_int_equal(frames_allocate(frames, 0, FRAMES_ANY, 0).number, frame.number);
}

static void test_modified_waits_for_the_section(void **state)
{
    const frame_t frame = take_active(frames, 0, true, 0, 5);

    (void)state;
    assert_true(grace_section_begin(self, &space));
    trim(frames, frame);
    for (unsigned i = 0; i < 20; i++) {
        (void)grace_advance(&frames->grace);
        assert_true(frame_is_none(frames_take_modified(frames, 0)));
    }
    grace_section_end(self, &space);
    grace_pass(frames);
    assert_int_equal(frames_take_modified(frames, 0).number, frame.number);
}

/* A section that begins when the period has passed cannot know the frame, and does not hold it. */
static void test_later_section_holds_nothing(void **state)
{
    const frame_t frame = take_active(frames, 0, true, 0, 5);

    (void)state;
    assert_int_equal(take_all(), 15);
    frames_free(frames, frame);
    grace_pass(frames);
    assert_true(grace_section_begin(self, &space));
    assert_int_equal(frames_allocate(frames, 0, FRAMES_ANY, 0).number, frame.number);
    grace_section_end(self, &space);
}

/*
 * One observed step is not enough: the section may have begun before the page was taken and still be seen at that
 * epoch.
 */
static void test_two_steps(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);

    (void)state;
    assert_false(grace_passed(&frames->grace, stamp));
    assert_true(grace_section_begin(self, &space)); /* observes this epoch, so it lets one step happen */
    assert_true(grace_advance(&frames->grace));
    assert_int_equal((uint16_t)(grace_now(&frames->grace) - stamp), 1);
    assert_false(grace_passed(&frames->grace, stamp));
    assert_true(grace_section_is_stale(self));
    for (unsigned i = 0; i < 10; i++)
        assert_false(grace_advance(&frames->grace));
    assert_false(grace_passed(&frames->grace, stamp));
    grace_section_end(self, &space);
    assert_true(grace_advance(&frames->grace));
    assert_true(grace_passed(&frames->grace, stamp));
    assert_true(grace_passed(&frames->grace, grace_long_ago(&frames->grace)));
}

static void test_nested_sections_hold_until_the_outermost_ends(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);

    (void)state;
    assert_true(grace_section_begin(self, &space));
    assert_true(grace_section_begin(self, &other_space));
    grace_enter(self);
    (void)grace_advance(&frames->grace);
    grace_section_end(self, &space);
    assert_true(grace_section_is_stale(self));
    assert_false(grace_advance(&frames->grace));
    grace_leave(self);
    assert_false(grace_advance(&frames->grace));
    assert_false(grace_passed(&frames->grace, stamp));
    grace_section_end(self, &other_space);
    assert_true(grace_advance(&frames->grace));
    assert_true(grace_passed(&frames->grace, stamp));
}

/* A thread inside a call holds the period back as a section does; around I/O it does not, yet counts as operating. */
static void test_calls_and_io(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);

    (void)state;
    grace_enter(self);
    grace_enter(self);
    (void)grace_advance(&frames->grace);
    (void)grace_advance(&frames->grace);
    assert_false(grace_passed(&frames->grace, stamp));
    grace_leave(self);
    assert_int_equal(self->operating, 1);
    (void)grace_advance(&frames->grace);
    assert_false(grace_passed(&frames->grace, stamp));
    grace_io_begin(self);
    assert_int_equal(self->operating, 1);
    assert_true(grace_advance(&frames->grace));
    assert_true(grace_passed(&frames->grace, stamp));
    grace_io_end(self);
    grace_leave(self);
    assert_int_equal(self->operating, 0);
}

/* Sections that have given no pointer are no reason to wait for oneself. */
static void test_suspended_sections(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);

    (void)state;
    assert_true(grace_section_begin(self, &space));
    assert_true(grace_section_begin(self, &other_space));
    (void)grace_advance(&frames->grace);
    assert_false(grace_holds_pointers(self));
    grace_sections_suspend(self);
    assert_true(grace_advance(&frames->grace));
    assert_true(grace_passed(&frames->grace, stamp));
    grace_sections_resume(self);
    self->pointers = 1; /* from now on it holds some */
    assert_true(grace_holds_pointers(self));
    const uint16_t second = grace_now(&frames->grace);
    (void)grace_advance(&frames->grace);
    grace_sections_suspend(self);
    (void)grace_advance(&frames->grace);
    assert_false(grace_passed(&frames->grace, second));
    grace_sections_resume(self);
    grace_section_end(self, &space);
    grace_section_end(self, &other_space);
    assert_false(grace_holds_pointers(self));
    /* The next outermost section begins without pointers. */
    assert_true(grace_section_begin(self, &space));
    assert_false(grace_holds_pointers(self));
    grace_section_end(self, &space);
}

/*
 * The stamp has 16 bits: after each 65,536 steps an old stamp looks young for two steps, and never the other way round.
 */
static void test_stamp_wraps(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);
    const uint32_t begin = ck_epoch_value(&frames->grace.epoch);
    uint32_t steps = 0;

    (void)state;
    while (steps < 2 * 65536 + 10) {
        const bool passed = grace_passed(&frames->grace, stamp);
        if (passed != ((steps & 0xFFFF) >= 2))
            fail_msg("after %u steps the period has %spassed", steps, passed ? "" : "not ");
        assert_true(grace_advance(&frames->grace));
        const uint32_t now = ck_epoch_value(&frames->grace.epoch) - begin;
        assert_in_range(now, steps + 1, steps + 2);
        steps = now;
    }
}

/* A free frame that the wrap made look young comes back after a short wait. */
static void test_frame_survives_the_wrap(void **state)
{
    const frame_t frame = take_active(frames, 0, true, 0, 5);

    (void)state;
    assert_int_equal(take_all(), 15);
    frames_free(frames, frame);
    for (unsigned i = 0; i < 65536 / 2; i++)
        assert_true(grace_advance(&frames->grace));
    assert_int_equal(frames_allocate(frames, 0, FRAMES_ANY, 0).number, frame.number);
}

/* ---- other threads ---------------------------------------------------------------------------------------------- */

static struct {
    struct sync_event moved;
    uint32_t stage; /* [A] */
    int tid;
} meeting;

static void stage_set(uint32_t stage)
{
    sync_store_32(&meeting.stage, stage);
    sync_event_signal(&meeting.moved);
}

static void stage_wait(uint32_t stage)
{
    for (;;) {
        const uint32_t value = sync_event_value(&meeting.moved);
        if (sync_load_32(&meeting.stage) >= stage)
            return;
        (void)sync_event_wait(&meeting.moved, value, UINT64_MAX);
    }
}

static void *holder_main(void *context)
{
    struct grace_thread *thread = grace_thread_get(&frames->grace);

    (void)context;
    meeting.tid = os_thread_id();
    (void)grace_section_begin(thread, &other_space);
    stage_set(1);
    stage_wait(2);
    grace_section_end(thread, &other_space);
    grace_thread_put(thread);
    return NULL;
}

static void test_report(void **state)
{
    struct grace_report report;
    pthread_t holder;

    (void)state;
    sync_event_init(&meeting.moved);
    meeting.stage = 0;
    grace_report(&frames->grace, &report);
    assert_int_equal(report.open_sections + report.stale_sections + report.longest_tid, 0);
    assert_int_equal(pthread_create(&holder, NULL, holder_main, NULL), 0);
    stage_wait(1);
    assert_true(grace_space_in_use(&frames->grace, &other_space));
    assert_false(grace_space_in_use(&frames->grace, &space));
    grace_report(&frames->grace, &report);
    assert_int_equal(report.open_sections, 1);
    assert_int_equal(report.stale_sections, 0); /* it has seen the present epoch */
    (void)grace_advance(&frames->grace);
    assert_true(grace_section_begin(self, &space)); /* a younger one beside it */
    grace_report(&frames->grace, &report);
    assert_int_equal(report.epoch, ck_epoch_value(&frames->grace.epoch));
    assert_int_equal(report.open_sections, 2);
    assert_int_equal(report.stale_sections, 1);
    assert_int_equal(report.longest_tid, meeting.tid);
    grace_section_end(self, &space);
    stage_set(2);
    pthread_join(holder, NULL);
    assert_false(grace_space_in_use(&frames->grace, &other_space));
    grace_report(&frames->grace, &report);
    assert_int_equal(report.open_sections + report.longest_tid, 0);
}

static void test_most_sections(void **state)
{
    static int spaces[GRACE_SPACES_MAX + 1];

    (void)state;
    for (unsigned i = 0; i < GRACE_SPACES_MAX; i++)
        assert_true(grace_section_begin(self, &spaces[i]));
    assert_false(grace_section_begin(self, &spaces[GRACE_SPACES_MAX]));
    assert_false(grace_space_in_use(&frames->grace, &spaces[GRACE_SPACES_MAX]));
    grace_section_end(self, &spaces[3]);
    assert_true(grace_section_begin(self, &spaces[GRACE_SPACES_MAX]));
    for (unsigned i = 0; i <= GRACE_SPACES_MAX; i++)
        if (i != 3)
            grace_section_end(self, &spaces[i]);
    grace_pass(frames);
}

static void test_use_of_a_space_holds_nothing_back(void **state)
{
    const uint16_t stamp = grace_now(&frames->grace);

    (void)state;
    assert_true(grace_space_use(self, &space));
    assert_true(grace_space_in_use(&frames->grace, &space));
    assert_false(grace_section_is_stale(self));
    grace_pass(frames);
    assert_true(grace_passed(&frames->grace, stamp));
    grace_space_leave(self, &space);
    assert_false(grace_space_in_use(&frames->grace, &space));
}

/* Records are used again; a thread that ended with a section open holds nothing. */
static void test_records(void **state)
{
    struct grace_thread *first = grace_thread_get(&frames->grace);

    (void)state;
    assert_non_null(first);
    assert_ptr_not_equal(first, self);
    assert_true(grace_section_begin(first, &other_space));
    assert_true(grace_section_begin(first, &other_space));
    (void)grace_advance(&frames->grace);
    grace_thread_put(first);
    grace_pass(frames);
    assert_false(grace_space_in_use(&frames->grace, &other_space));
    struct grace_thread *second = grace_thread_get(&frames->grace);
    assert_ptr_equal(second, first);
    assert_int_equal(second->tid, os_thread_id());
    assert_int_equal(second->sections, 0);
    grace_enter(second);
    grace_leave(second);
    grace_thread_put(second);
}

static struct {
    uint32_t inside; /* [A] threads that are in a call and not waiting */
    uint32_t calls;  /* [A] */
    uint32_t end;    /* [A] */
} operations;

static void *operator_main(void *context)
{
    struct grace_thread *thread = grace_thread_get(&frames->grace);
    const bool in_section = context != NULL;

    if (in_section)
        (void)grace_section_begin(thread, &space);
    while (sync_load_32(&operations.end) == 0) {
        grace_enter(thread);
        (void)sync_add_32(&operations.inside, 1);
        (void)sync_add_32(&operations.calls, 1);
        grace_enter(thread);
        grace_leave(thread);
        (void)sync_add_32(&operations.inside, (uint32_t)-1);
        grace_leave(thread);
    }
    if (in_section)
        grace_section_end(thread, &space);
    grace_thread_put(thread);
    return NULL;
}

static void calls_wait(uint32_t more)
{
    const uint32_t before = sync_load_32(&operations.calls);

    while (sync_load_32(&operations.calls) - before < more)
        sched_yield();
}

static void test_world_stops(void **state)
{
    pthread_t threads[4];

    (void)state;
    sync_store_32(&operations.end, 0);
    sync_store_32(&operations.inside, 0);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, operator_main, i % 2 ? &space : NULL), 0);
    for (unsigned round = 0; round < 200 / EFFORT_DIVISOR; round++) {
        calls_wait(50);
        grace_world_stop(&frames->grace);
        assert_int_equal(sync_load_32(&operations.inside), 0);
        const uint32_t calls = sync_load_32(&operations.calls);
        for (unsigned i = 0; i < 20; i++)
            sched_yield();
        assert_int_equal(sync_load_32(&operations.calls), calls);
        assert_int_equal(sync_load_32(&operations.inside), 0);
        grace_world_resume(&frames->grace);
    }
    calls_wait(50);
    sync_store_32(&operations.end, 1);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_freed_frame_waits_for_the_section),
        TEST(test_standby_waits_for_the_section),
        TEST(test_modified_waits_for_the_section),
        TEST(test_later_section_holds_nothing),
        TEST(test_two_steps),
        TEST(test_nested_sections_hold_until_the_outermost_ends),
        TEST(test_calls_and_io),
        TEST(test_suspended_sections),
        TEST(test_stamp_wraps),
        TEST(test_frame_survives_the_wrap),
        TEST(test_report),
        TEST(test_most_sections),
        TEST(test_use_of_a_space_holds_nothing_back),
        TEST(test_use_of_a_space_holds_nothing_back),
        TEST(test_records),
        TEST(test_world_stops),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

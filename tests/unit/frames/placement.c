/*
 * Frames of one node alone, what goes first when it has none, and whose workers are told of the shortage that follows.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>
#include <string.h>

#define TWO_NODES "numa:2 core:1 pu:1"

enum { NODE_FRAMES = 128 };

static bool stay_on(unsigned cpu, cpu_set_t *before)
{
    cpu_set_t one;

    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    return sched_getaffinity(0, sizeof *before, before) == 0 && sched_setaffinity(0, sizeof one, &one) == 0;
}

static uint64_t at_hand(const struct frames *frames, unsigned node)
{
    return frames_list_count(frames, node, FRAME_LIST_ZEROED) + frames_list_count(frames, node, FRAME_LIST_FREE);
}

static struct frames *two_nodes(bool prefer_local_standby)
{
    tide_config config = small_config(2 * NODE_FRAMES);

    config.prefer_local_standby = prefer_local_standby;
    return frames_good(TWO_NODES, &config);
}

static void test_strict_takes_all_of_its_node_and_no_more(void **state)
{
    struct frames *frames = two_nodes(false);

    (void)state;
    for (unsigned i = 0; i < 20; i++)
        (void)take_standby(frames, 1, 0, 5);
    grace_pass(frames);
    for (unsigned i = 0; i < NODE_FRAMES; i++) {
        const frame_t frame = frames_allocate(frames, 1, i % 2 ? FRAMES_ZERO : FRAMES_ANY, FRAMES_STRICT);
        assert_false(frame_is_none(frame));
        assert_int_equal(frame_node(frames, frame), 1);
    }
    assert_true(frame_is_none(frames_allocate(frames, 1, FRAMES_ANY, FRAMES_STRICT)));
    assert_true(frame_is_none(frames_allocate(frames, 1, FRAMES_ANY, FRAMES_STRICT | FRAMES_AT_HAND)));
    assert_true(frame_is_none(frames_allocate(frames, 1, FRAMES_ANY, FRAMES_STRICT | FRAMES_LOCAL_STANDBY)));
    assert_int_equal(at_hand(frames, 0), NODE_FRAMES);
    frames_close(frames);
}

/*
 * Frames of its node that were just freed are waited for by moving the grace period; standby is not touched for that.
 */
static void test_strict_moves_the_grace_period_for_its_own(void **state)
{
    struct frames *frames = two_nodes(false);
    frame_t taken[NODE_FRAMES];

    (void)state;
    for (unsigned i = 0; i < 10; i++)
        (void)take_standby(frames, 1, 0, 5);
    for (unsigned i = 0; i < NODE_FRAMES - 10; i++)
        taken[i] = take_active(frames, 1, true, 0, 5);
    grace_pass(frames);
    frames_free(frames, taken[0]);
    assert_int_equal(frames_allocate(frames, 1, FRAMES_ANY, FRAMES_STRICT).number, taken[0].number);
    frames_close(frames);
}

/* What is in caches of the node's CPUs comes back for it; what another node's CPUs keep stays where it is. */
static void test_strict_drains_the_caches_of_its_node(void **state)
{
    tide_config config = small_config(2 * NODE_FRAMES);
    struct frames_counts counts;
    cpu_set_t cpus;

    (void)state;
    config.cpu_cache_pages = 8;
    struct frames *frames = frames_good(TWO_NODES, &config);
    for (unsigned cpu = 0; cpu < 2; cpu++) {
        if (!stay_on(cpu, &cpus))
            skip();
        (void)take_active(frames, frames->topology->cpu_node[cpu], true, 0, 5);
        assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    }
    for (unsigned node = 0; node < 2; node++) {
        frames_counts(frames, node, &counts);
        assert_int_equal(counts.cached_zeroed, 7);
    }
    assert_true(stay_on(0, &cpus)); /* a CPU of node 0 empties node 1: */
    for (unsigned i = 0; i < NODE_FRAMES - 1; i++) {
        const frame_t frame = frames_allocate(frames, 1, FRAMES_ZERO, FRAMES_STRICT);
        assert_false(frame_is_none(frame));
        assert_int_equal(frame_node(frames, frame), 1);
    }
    assert_true(frame_is_none(frames_allocate(frames, 1, FRAMES_ZERO, FRAMES_STRICT)));
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.cached_zeroed, 7);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

static void test_unused_leaves_standby(void **state)
{
    struct frames *frames = two_nodes(true);

    (void)state;
    for (unsigned i = 0; i < 40; i++)
        (void)take_standby(frames, i % 2, 0, 5);
    grace_pass(frames);
    for (unsigned i = 0; i < 2 * NODE_FRAMES - 40; i++)
        assert_false(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, FRAMES_UNUSED)));
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, FRAMES_UNUSED)));
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, FRAMES_UNUSED | FRAMES_BY_DISTANCE)));
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_STANDBY + 5), 20);
    assert_int_equal(frames_list_count(frames, 1, FRAME_LIST_STANDBY + 5), 20);
    frames_close(frames);
}

/* Node 0 has standby pages only. What goes first, by the engine's wish and by that of the caller. */
static void test_the_callers_order_goes_before_the_engines(void **state)
{
    static const struct {
        bool engine;
        unsigned flags;
        bool local;
    } rows[] = {
        { false, 0, false },
        { true, 0, true },
        { false, FRAMES_LOCAL_STANDBY, true },
        { true, FRAMES_LOCAL_STANDBY, true },
        { false, FRAMES_BY_DISTANCE, false },
        { true, FRAMES_BY_DISTANCE, false },
    };

    (void)state;
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct frames *frames = two_nodes(rows[i].engine);

        for (unsigned f = 0; f < NODE_FRAMES; f++)
            (void)take_standby(frames, 0, 0, 5);
        grace_pass(frames);
        const frame_t frame = frames_allocate(frames, 0, FRAMES_ANY, rows[i].flags);
        assert_int_equal(frame_node(frames, frame), rows[i].local ? 0 : 1);
        frames_close(frames);
    }
}

/* A node that helps out is short some day, and nobody asks it for frames of its own. */
static void test_the_workers_of_the_node_that_gave_are_told(void **state)
{
    struct frames *frames = two_nodes(false);
    struct frames_node *giver = &frames->nodes[1];

    (void)state;
    for (unsigned i = 0; i < NODE_FRAMES; i++)
        (void)take_active(frames, 0, true, 0, 5);
    giver->trimmer.sleeping = 1;
    while (frames_available(frames, 1) > giver->low) {
        assert_int_equal(giver->trimmer.sleeping, 1);
        assert_int_equal(frame_node(frames, take_active(frames, 0, true, 0, 5)), 1);
    }
    (void)take_active(frames, 0, true, 0, 5);
    assert_int_equal(giver->trimmer.sleeping, 0);
    frames_close(frames);
}

/* Who takes its frames from another node's lists, one by one, sees that they get short in time. */
static void test_frames_past_the_caches_are_watched(void **state)
{
    tide_config config = small_config(4 * NODE_FRAMES);
    cpu_set_t cpus;

    (void)state;
    config.cpu_cache_pages = 8;
    config.low_available_pages = 2 * NODE_FRAMES - 60;
    struct frames *frames = frames_good(TWO_NODES, &config);
    if (!stay_on(0, &cpus))
        skip();
    struct frames_node *other = &frames->nodes[1];
    assert_int_equal(frames->topology->cpu_node[0], 0);
    other->trimmer.sleeping = 1;
    for (unsigned i = 0; i < 130; i++)
        assert_int_equal(frame_node(frames, take_active(frames, 1, true, 0, 5)), 1);
    assert_int_equal(other->trimmer.sleeping, 0);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strict_takes_all_of_its_node_and_no_more),
        cmocka_unit_test(test_strict_moves_the_grace_period_for_its_own),
        cmocka_unit_test(test_strict_drains_the_caches_of_its_node),
        cmocka_unit_test(test_unused_leaves_standby),
        cmocka_unit_test(test_the_callers_order_goes_before_the_engines),
        cmocka_unit_test(test_the_workers_of_the_node_that_gave_are_told),
        cmocka_unit_test(test_frames_past_the_caches_are_watched),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Bells of sleeping workers, thresholds, and waiting for a frame: no ring and no wake-up is lost.
 *
 * A lost ring shows as a test that never ends: waits here have no time limit where a ring must come.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <pthread.h>

#define ONE_NODE "numa:1 core:2 pu:1"
#define NO_LIMIT UINT64_MAX

static struct frames_bell bell;

static bool rings_and_declines(void *context)
{
    (*(unsigned *)context)++;
    frames_bell_ring(&bell); /* as another thread would between the look and the sleep */
    return false;
}

static bool is_due(void *context)
{
    return *(const bool *)context;
}

static void test_ring_between_look_and_sleep(void **state)
{
    unsigned looks = 0;

    (void)state;
    sync_event_init(&bell.event);
    frames_bell_wait(&bell, rings_and_declines, &looks, NO_LIMIT);
    assert_int_equal(looks, 1);
    assert_int_equal(bell.sleeping, 0);
}

/* Who rings before the worker announces its sleep writes nothing; the worker sees the work when it looks. */
static void test_ring_before_the_look(void **state)
{
    bool due = true;

    (void)state;
    sync_event_init(&bell.event);
    const uint32_t value = sync_event_value(&bell.event);
    frames_bell_ring(&bell);
    assert_int_equal(sync_event_value(&bell.event), value);
    frames_bell_wait(&bell, is_due, &due, NO_LIMIT);
    assert_int_equal(bell.sleeping, 0);
}

static void test_nobody_rings(void **state)
{
    bool due = false;

    (void)state;
    sync_event_init(&bell.event);
    frames_bell_wait(&bell, is_due, &due, 1000000);
    frames_bell_wait(&bell, NULL, NULL, 1000000);
    frames_bell_wait(&bell, NULL, NULL, 0);
    assert_int_equal(bell.sleeping, 0);
}

/* One ring wakes, the next ones find nobody asleep and cost nothing. */
static void test_ring_once(void **state)
{
    (void)state;
    sync_event_init(&bell.event);
    bell.sleeping = 1;
    const uint32_t value = sync_event_value(&bell.event);
    frames_bell_ring(&bell);
    const uint32_t rung = sync_event_value(&bell.event);
    assert_true(rung != value);
    assert_int_equal(bell.sleeping, 0);
    frames_bell_ring(&bell);
    assert_int_equal(sync_event_value(&bell.event), rung);
}

static struct {
    uint32_t made; /* [A] work */
    uint32_t done; /* [A] */
} work;

static bool work_is_due(void *context)
{
    (void)context;
    return sync_load_32(&work.made) != sync_load_32(&work.done);
}

static void *worker_main(void *context)
{
    const uint32_t rounds = *(const uint32_t *)context;

    while (sync_load_32(&work.done) < rounds) {
        frames_bell_wait(&bell, work_is_due, NULL, NO_LIMIT);
        const uint32_t made = sync_load_32(&work.made);
        sync_store_32(&work.done, made);
    }
    return NULL;
}

static void test_no_ring_is_lost(void **state)
{
    uint32_t rounds = 20000 / EFFORT_DIVISOR;
    pthread_t worker;

    (void)state;
    sync_event_init(&bell.event);
    work.made = work.done = 0;
    assert_int_equal(pthread_create(&worker, NULL, worker_main, &rounds), 0);
    for (uint32_t i = 0; i < rounds; i++) {
        (void)sync_add_32(&work.made, 1); /* the full barrier before the look at `sleeping` */
        frames_bell_ring(&bell);
        while (i % 3 == 0 && sync_load_32(&work.done) != sync_load_32(&work.made))
            sched_yield();
    }
    pthread_join(worker, NULL);
    assert_int_equal(work.done, rounds);
}

/* ---- thresholds ------------------------------------------------------------------------------------------------- */

/* Who would be woken now? */
static bool rings(struct frames *frames, struct frames_bell *of)
{
    of->sleeping = 1;
    frames_check_thresholds(frames, 0);
    return of->sleeping == 0;
}

static void test_thresholds(void **state)
{
    tide_config config = small_config(64);
    frame_t taken[64];
    unsigned count = 0;

    (void)state;
    config.low_available_pages = 10;
    config.high_available_pages = 20;
    config.modified_trigger_pages = 5;
    struct frames *frames = frames_good(ONE_NODE, &config);
    struct frames_node *node = &frames->nodes[0];
    while (frames_available(frames, 0) > 20)
        taken[count++] = take_active(frames, 0, true, 0, 5);
    assert_false(rings(frames, &node->trimmer));
    assert_false(rings(frames, &node->writer));
    /* Plenty available: the writer waits until there is more than its trigger. */
    for (unsigned i = 0; i < 5; i++) {
        trim(frames, taken[--count]);
        assert_false(rings(frames, &node->writer));
    }
    trim(frames, taken[--count]);
    assert_true(rings(frames, &node->writer));
    assert_false(rings(frames, &node->trimmer));
    /* Less than the goal: any modified page is worth writing. */
    uint64_t word;
    for (unsigned i = 0; i < 5; i++)
        assert_true(
            frames_unlink(frames, taken[count + i], word_of(frames, taken[count + i]), FRAME_ACTIVE, 0, 5, &word));
    assert_false(rings(frames, &node->writer));
    (void)take_active(frames, 0, true, 0, 5);
    assert_true(rings(frames, &node->writer));
    while (frames_available(frames, 0) > 10)
        (void)take_active(frames, 0, true, 0, 5);
    assert_false(rings(frames, &node->trimmer));
    (void)take_active(frames, 0, true, 0, 5);
    assert_true(rings(frames, &node->trimmer));
    frames_close(frames);
}

/* ZT-1: the eighth free frame wakes the zero-page thread. */
static void test_zero_page_bell(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    frame_t taken[9];

    (void)state;
    for (unsigned i = 0; i < 9; i++)
        taken[i] = take_active(frames, 0, true, 0, 5);
    frames->nodes[0].zero_page.sleeping = 1;
    for (unsigned i = 0; i < 7; i++)
        frames_free(frames, taken[i]);
    assert_int_equal(frames->nodes[0].zero_page.sleeping, 1);
    frames_free(frames, taken[7]);
    assert_int_equal(frames->nodes[0].zero_page.sleeping, 0);
    frames_close(frames);
}

/* ---- waiting for a frame ---------------------------------------------------------------------------------------- */

static void free_one(struct frames *frames, frame_t frame, uint64_t *unused)
{
    (void)unused;
    frames_free(frames, frame);
}

static void give_back_one(struct frames *frames, frame_t frame, uint64_t *unused)
{
    (void)unused;
    frames_give_back(frames, frame, false);
}

static void insert_one(struct frames *frames, frame_t frame, uint64_t *seen)
{
    const uint64_t word = word_of(frames, frame);

    assert_true(frames_insert(frames, frame, word,
                              pfn_with_state(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, FRAME_STANDBY), seen));
}

static void repurpose_one(struct frames *frames, frame_t frame, uint64_t *seen)
{
    (void)frame;
    (void)seen;
    assert_int_equal(frames_repurpose(frames, 0, 7, 1), 1);
}

static void zero_one(struct frames *frames, frame_t frame, uint64_t *seen)
{
    (void)frame;
    (void)seen;
    assert_int_equal(frames_zero_free(frames, 0, 1), 1);
}

/*
 * Every way in which a frame comes free wakes a waiter that announced itself before, and moves nothing if there is
 * none.
 */
static void test_wait_sees_each_way_to_a_frame(void **state)
{
    void (*const ways[])(struct frames *, frame_t, uint64_t *) = { free_one, give_back_one, insert_one, repurpose_one,
                                                                   zero_one };
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    uint64_t seen;

    (void)state;
    (void)take_standby(frames, 0, 0x77, 5);
    (void)take_standby(frames, 0, 0x77, 5);
    for (int announced = 0; announced < 2; announced++) {
        for (unsigned i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            const frame_t frame = take_active(frames, 0, false, 0x77, 5);
            frames_free(frames, take_active(frames, 0, true, 0, 5)); /* for zero_one() */
            const uint32_t before = announced ? frames_wait_announce(frames) : sync_event_value(&frames->available);

            grace_pass(frames);
            ways[i](frames, frame, &seen);
            if ((sync_event_value(&frames->available) != before) != announced)
                fail_msg("way %u: the event has %smoved", i, announced ? "not " : "");
            if (announced) {
                assert_true(frames_wait(frames, before, NO_LIMIT));
                frames_wait_end(frames);
            }
        }
    }
    assert_int_equal(frames->waiters, 0);
    const uint32_t value = frames_wait_announce(frames);
    assert_false(frames_wait(frames, value, 1000000)); /* nothing comes: time-out */
    frames_wait_end(frames);
    frames_close(frames);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_between_look_and_sleep),
        cmocka_unit_test(test_ring_before_the_look),
        cmocka_unit_test(test_nobody_rings),
        cmocka_unit_test(test_ring_once),
        cmocka_unit_test(test_no_ring_is_lost),
        cmocka_unit_test(test_thresholds),
        cmocka_unit_test(test_zero_page_bell),
        cmocka_unit_test(test_wait_sees_each_way_to_a_frame),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

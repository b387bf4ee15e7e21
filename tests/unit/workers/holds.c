/*
 * Holding workers: the thread of a held worker does nothing, a forced step does what it always does, and a worker that
 * is let go makes up for what it missed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>

static uint64_t run(const struct scene *scene, tide_worker kind, enum worker_occasion occasion)
{
    int error = 0;
    const uint64_t done = worker_run(workers_get(scene->engine->workers, kind, 0), engine_thread(scene->engine),
                                     UINT64_MAX, occasion, &error);

    assert_int_equal(error, 0);
    return done;
}

/* What the loop of a thread calls, for each kind with work that is due. */
static void a_held_worker_does_nothing_for_its_thread(void **state)
{
    struct scene *scene = *state;

    scene->config.modified_trigger_pages = 4;
    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 80);
    for (unsigned kind = 0; kind < TIDE_WORKER_COUNT; kind++)
        assert_status(tide_worker_hold(scene->engine, (tide_worker)kind, true), TIDE_SUCCESS);
    for (unsigned round = 0; round < 2; round++) {
        stamp(space, base, 80);
        decommit(space, base + (64 + round * 8) * PAGE, 8);
        assert_int_equal(run(scene, TIDE_WORKER_ZERO_PAGE, WORKER_THREAD), 0);
        assert_int_equal(run(scene, TIDE_WORKER_ZERO_PAGE, round == 0 ? WORKER_DUE : WORKER_FORCED), 8);
        uint64_t bytes = 8 * PAGE;
        tide_address again = base + (64 + round * 8) * PAGE;
        assert_status(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS);

        struct frames_node *node = &scene->frames->nodes[0];
        const uint64_t low = node->low, high = node->high;
        node->low = node->high = frames_available(scene->frames, 0) + 10;
        assert_int_equal(run(scene, TIDE_WORKER_TRIMMER, WORKER_THREAD), 0);
        assert_int_equal(run(scene, TIDE_WORKER_TRIMMER, round == 0 ? WORKER_DUE : WORKER_FORCED), 10);
        node->low = low;
        node->high = high;

        assert_int_equal(run(scene, TIDE_WORKER_MODIFIED_WRITER, WORKER_THREAD), 0);
        assert_int_equal(run(scene, TIDE_WORKER_MODIFIED_WRITER, round == 0 ? WORKER_DUE : WORKER_FORCED), 10);
    }
    assert_status(tide_worker_hold(scene->engine, TIDE_WORKER_ZERO_PAGE, false), TIDE_SUCCESS);
    decommit(space, base + 40 * PAGE, 8);
    assert_int_equal(run(scene, TIDE_WORKER_ZERO_PAGE, WORKER_THREAD), 8);
    scene_close(scene);
}

/* With real threads: held, the free list stays as it is; let go, it is emptied without another ring. */
static void a_thread_that_is_let_go_takes_up_its_work(void **state)
{
    struct scene *scene = *state;

    scene->config.workers = TIDE_WORKERS_THREADS;
    scene_open(scene, 256, 0);
    assert_status(tide_worker_hold(scene->engine, TIDE_WORKER_ZERO_PAGE, true), TIDE_SUCCESS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 64);
    stamp(space, base, 64);
    decommit(space, base, 64);
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(statistics_now(scene).background_zeroed, 0);
        sched_yield();
    }
    assert_status(tide_worker_hold(scene->engine, TIDE_WORKER_ZERO_PAGE, false), TIDE_SUCCESS);
    while (statistics_now(scene).background_zeroed < 64)
        sched_yield();
    scene_close(scene);
}

/* A hold returns only when the step that was running has ended. */
static void a_hold_waits_for_the_running_step(void **state)
{
    struct scene *scene = *state;

    scene->config.workers = TIDE_WORKERS_THREADS;
    scene->config.modified_trigger_pages = 4;
    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 64);
    for (unsigned round = 0; round < 20; round++) {
        stamp(space, base, 64);
        assert_status(tide_working_set_empty(space), TIDE_SUCCESS);
        frames_check_thresholds(scene->frames, 0);
        if (round % 2 == 0)
            sched_yield();
        assert_status(tide_worker_hold(scene->engine, TIDE_WORKER_MODIFIED_WRITER, true), TIDE_SUCCESS);
        assert_int_equal(counts_now(scene).transition, 0);
        const uint64_t written = statistics_now(scene).pages_output;
        for (unsigned i = 0; i < 50; i++)
            sched_yield();
        assert_int_equal(statistics_now(scene).pages_output, written);
        assert_status(tide_worker_hold(scene->engine, TIDE_WORKER_MODIFIED_WRITER, false), TIDE_SUCCESS);
    }
    check_stamps(space, base, 64);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(a_held_worker_does_nothing_for_its_thread),
        SCENE_TEST(a_thread_that_is_let_go_takes_up_its_work),
        SCENE_TEST(a_hold_waits_for_the_running_step),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * The zero-page worker: its trigger, its budget, and that it leaves alone what a section may still look at.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

enum { PAGES = 16 };

static struct worker *zero_page_worker(const struct scene *scene)
{
    return workers_get(scene->engine->workers, TIDE_WORKER_ZERO_PAGE, 0);
}

static uint64_t run(const struct scene *scene, uint64_t budget, enum worker_occasion occasion)
{
    int error = 0;
    const uint64_t done = worker_run(zero_page_worker(scene), engine_thread(scene->engine), budget, occasion, &error);

    assert_int_equal(error, 0);
    return done;
}

static uint64_t free_count(const struct scene *scene)
{
    return counts_now(scene).lists[FRAME_LIST_FREE];
}

static void eight_free_frames_start_it_and_seven_do_not(void **state)
{
    struct scene *scene = *state;
    frame_t frames[PAGES];

    scene_open(scene, 128, 0);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    for (unsigned i = 0; i < PAGES; i++)
        frames[i] = pte_frame(pte_load(pte_at(space, base + i * PAGE)));
    assert_int_equal(free_count(scene), 0);
    decommit(space, base, 7);
    assert_int_equal(free_count(scene), 7);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_DUE), 0);
    assert_int_equal(free_count(scene), 7);
    decommit(space, base + 7 * PAGE, 1);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_DUE), 8);
    assert_int_equal(free_count(scene), 0);
    for (unsigned i = 0; i < 8; i++) {
        const uint64_t *words = frame_memory(scene->frames, frames[i]);

        assert_int_equal(pfn_state(frame_pfn(scene->frames, frames[i])->word), FRAME_ZEROED);
        for (unsigned w = 0; w < PAGE / sizeof *words; w++)
            assert_int_equal(words[w], 0);
    }
    assert_int_equal(statistics_now(scene).background_zeroed, 8);
    check_stamps(space, base + 8 * PAGE, PAGES - 8);
    scene_close(scene);
}

static void the_trigger_is_configured(void **state)
{
    struct scene *scene = *state;

    scene->config.zero_trigger_pages = 3;
    scene_open(scene, 128, 0);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    decommit(space, base, 2);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_DUE), 0);
    decommit(space, base + 2 * PAGE, 1);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_DUE), 3);
    scene_close(scene);
}

static void a_forced_step_zeroes_below_the_trigger_and_keeps_its_budget(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 0);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 128);
    stamp(space, base, 128);
    decommit(space, base, 7);
    assert_int_equal(run(scene, 3, WORKER_FORCED), 3);
    assert_int_equal(free_count(scene), 4);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_FORCED), 4);
    decommit(space, base + 7 * PAGE, 100);
    /* More than one batch of the zeroer, and no multiple of it. */
    assert_int_equal(run(scene, 65, WORKER_DUE), 65);
    assert_int_equal(free_count(scene), 35);
    scene_close(scene);
}

static void what_an_open_section_may_look_at_is_not_zeroed(void **state)
{
    struct scene *scene = *state;
    tide_access access;

    scene_open(scene, 128, 0);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    assert_status(tide_access_begin(space, &access), TIDE_SUCCESS);
    const uint64_t *words = tide_access_pointer(&access, base, TIDE_ACCESS_READ);
    assert_non_null(words);
    decommit(space, base, PAGES);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_FORCED), 0);
    assert_int_equal(free_count(scene), PAGES);
    assert_int_equal(words[100], base);
    tide_access_end(&access);
    assert_int_equal(run(scene, UINT64_MAX, WORKER_DUE), PAGES);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(eight_free_frames_start_it_and_seven_do_not),
        SCENE_TEST(the_trigger_is_configured),
        SCENE_TEST(a_forced_step_zeroes_below_the_trigger_and_keeps_its_budget),
        SCENE_TEST(what_an_open_section_may_look_at_is_not_zeroed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * What each class of fault returns, counts and leaves behind; what a first write to a clean page does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

enum { FRAMES = 256, SLOTS = 64 };

/* The counters of a space, all of them, since the last look. */
static tide_fault_counters since(tide_space *space, tide_fault_counters *last)
{
    const tide_fault_counters now = faults_of(space);
    const uint64_t *a = (const uint64_t *)(const void *)&now, *b = (const uint64_t *)(const void *)last;
    tide_fault_counters difference;
    uint64_t *out = (uint64_t *)(void *)&difference;

    for (unsigned i = 0; i < sizeof now / sizeof *a; i++)
        out[i] = a[i] - b[i];
    *last = now;
    return difference;
}

static void assert_counters_are(tide_fault_counters got, tide_fault_counters expected, int line)
{
    if (memcmp(&got, &expected, sizeof got) != 0)
        fail_msg("line %d: all %lu, zero %lu, soft %lu (standby %lu, modified %lu, writing %lu), hard %lu, collided "
                 "%lu, violations %lu, errors %lu, local %lu",
                 line, got.page_faults, got.demand_zero, got.transition, got.transition_standby,
                 got.transition_modified, got.transition_write_in_progress, got.hard, got.collided,
                 got.access_violations, got.in_page_errors, got.local);
}
#define assert_counted(space, last, ...)                                                                               \
    assert_counters_are(since((space), (last)), (tide_fault_counters){ __VA_ARGS__ }, __LINE__)

/* ---- classes ---------------------------------------------------------------------------------------------------- */

static void each_class_has_its_status_and_its_counters(void **state)
{
    struct scene *scene = *state;
    tide_fault_counters last = { 0 };

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 4);
    assert_counted(space, &last, 0);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_counted(space, &last, .page_faults = 1, .demand_zero = 1, .local = 1);
    touch(space, base, TIDE_ACCESS_READ, TIDE_SUCCESS);
    touch(space, base, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_counted(space, &last, 0);

    trim_page(space, base);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_counted(space, &last, .page_faults = 1, .transition = 1, .transition_modified = 1, .local = 1);

    trim_page(space, base);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 1);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_counted(space, &last, .page_faults = 1, .transition = 1, .transition_standby = 1, .local = 1);

    page_out(scene, space);
    assert_state(space, base, TIDE_PAGE_STATE_PAGE_FILE);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_counted(space, &last, .page_faults = 1, .hard = 1, .local = 1);

    touch(space, base + 4 * PAGE, TIDE_ACCESS_READ, TIDE_ACCESS_VIOLATION);
    assert_counted(space, &last, .page_faults = 1, .access_violations = 1);
    scene_close(scene);
}

/* Every page that must not be touched, by form of its PTE; and the error names the address. */
static void what_is_not_allowed_is_a_violation_and_changes_nothing(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 5);
    tide_address at = base;
    uint64_t bytes = 5 * PAGE;
    stamp(space, base, 4);
    trim_page(space, base);
    trim_page(space, base + PAGE);
    assert_int_equal(writer_run(scene, 1, TIDE_SUCCESS), 1);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY), TIDE_SUCCESS);
    decommit(space, base + 3 * PAGE, 1);
    for (unsigned i = 0; i < 5; i++) {
        const uint64_t before = *pte_at(space, base + i * PAGE);

        touch(space, base + i * PAGE + 9, TIDE_ACCESS_WRITE, TIDE_ACCESS_VIOLATION);
        assert_int_equal(tide_last_error()->address, base + i * PAGE + 9);
        assert_int_equal(*pte_at(space, base + i * PAGE), before);
        assert_status(tide_touch(space, base + i * PAGE, TIDE_ACCESS_READ), i == 0   ? TIDE_PAGE_FAULT_PAGING_FILE
                                                                            : i == 1 ? TIDE_PAGE_FAULT_TRANSITION
                                                                            : i == 2 ? TIDE_SUCCESS
                                                                            : i == 3 ? TIDE_ACCESS_VIOLATION
                                                                                     : TIDE_PAGE_FAULT_DEMAND_ZERO);
    }
    check_stamps(space, base, 3);
    scene_close(scene);
}

static void a_soft_fault_gives_the_page_the_priority_of_its_space(void **state)
{
    struct scene *scene = *state;
    struct helper writer = { .scene = scene };

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 1);
    stamp(space, base, 1);
    assert_int_equal(page_now(space, base).priority, 5);
    trim_page(space, base);
    assert_status(tide_space_set_priority(space, 2), TIDE_SUCCESS);
    assert_int_equal(page_now(space, base).priority, 5);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION); /* from modified */
    assert_int_equal(page_now(space, base).priority, 2);
    trim_page(space, base);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 1);
    assert_int_equal(counts_now(scene).lists[FRAME_LIST_STANDBY + 2], 1);
    assert_status(tide_space_set_priority(space, 4), TIDE_SUCCESS);
    touch(space, base, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_TRANSITION); /* from standby */
    assert_int_equal(page_now(space, base).priority, 4);
    trim_page(space, base);
    assert_status(tide_space_set_priority(space, 1), TIDE_SUCCESS);
    device_hold(&scene->device, TIDE_IO_WRITE, true);
    helper_start(&writer);
    device_wait_held(&scene->device, TIDE_IO_WRITE);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION); /* from under the writer */
    assert_int_equal(page_now(space, base).priority, 1);
    device_hold(&scene->device, TIDE_IO_WRITE, false);
    helper_join(&writer);
    trim_page(space, base);
    assert_int_equal(counts_now(scene).lists[FRAME_LIST_STANDBY + 1], 1);
    scene_close(scene);
}

/* ---- first writes ----------------------------------------------------------------------------------------------- */

static void the_first_write_to_a_clean_page_gives_its_slot_back(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 48);
    /* Far apart, so that no read brings a neighbour. */
    const tide_address valid = base, standby = base + 20 * PAGE, in_file = base + 40 * PAGE;
    stamp(space, valid, 1);
    stamp(space, standby, 1);
    stamp(space, in_file, 1);
    page_out(scene, space);
    touch(space, valid, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    touch(space, standby, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    trim_page(space, standby);
    assert_state(space, standby, TIDE_PAGE_STATE_STANDBY);
    assert_int_equal(slots_used(scene), 3);
    assert_true(page_now(space, valid).slot != 0);
    assert_false(page_now(space, valid).dirty);

    const uint64_t faults = faults_of(space).page_faults;
    touch(space, valid, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_int_equal(faults_of(space).page_faults, faults); /* no fault in NT's count */
    assert_int_equal(slots_used(scene), 2);
    assert_int_equal(page_now(space, valid).slot, 0);
    assert_true(page_now(space, valid).dirty);
    assert_true(word_at(space, valid) & PFN_DIRTY);
    touch(space, standby, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(slots_used(scene), 1);
    assert_int_equal(page_now(space, standby).slot, 0);
    touch(space, in_file, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_int_equal(slots_used(scene), 0);
    assert_int_equal(page_now(space, in_file).slot, 0);
    check_stamps(space, valid, 1);
    check_stamps(space, standby, 1);
    check_stamps(space, in_file, 1);
    /* Only the first: a slot that is not the page's any more is not released again. */
    touch(space, valid, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_int_equal(slots_used(scene), 0);
    scene_close(scene);
}

/* Pages used while they are being written: read only, written at once, read and then written. */
static void a_write_during_the_write_makes_it_void(void **state)
{
    enum { READ, WRITTEN, BOTH, LEFT, PAGES };
    struct scene *scene = *state;
    struct helper writer = { .scene = scene };
    uint64_t word;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    assert_status(tide_working_set_empty(space), TIDE_SUCCESS);
    device_hold(&scene->device, TIDE_IO_WRITE, true);
    helper_start(&writer);
    device_wait_held(&scene->device, TIDE_IO_WRITE);
    assert_int_equal(counts_now(scene).transition, PAGES);
    touch(space, base + READ * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    touch(space, base + WRITTEN * PAGE, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_TRANSITION);
    touch(space, base + BOTH * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_false(pte_load(pte_at(space, base + BOTH * PAGE)).bits & PTE_DIRTY);
    touch(space, base + BOTH * PAGE, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_int_equal(faults_of(space).transition_write_in_progress, 3);
    assert_int_equal(counts_now(scene).transition, 1);
    for (unsigned i = 0; i < LEFT; i++) {
        word = word_at(space, base + i * PAGE);
        assert_int_equal(pfn_state(word), FRAME_ACTIVE);
        assert_true(word & PFN_WRITE_IN_PROGRESS);
        assert_int_equal(pfn_reference_count(word), 2);
    }
    assert_int_equal(slots_used(scene), PAGES);
    device_hold(&scene->device, TIDE_IO_WRITE, false);
    helper_join(&writer);
    assert_status(writer.status, TIDE_SUCCESS);
    for (unsigned i = 0; i < LEFT; i++) {
        word = word_at(space, base + i * PAGE);
        assert_int_equal(pfn_state(word), FRAME_ACTIVE);
        assert_false(word & PFN_WRITE_IN_PROGRESS);
        assert_int_equal(pfn_reference_count(word), 1);
        assert_int_equal((word & PFN_DIRTY) != 0, i != READ);
        assert_int_equal(page_now(space, base + i * PAGE).slot != 0, i == READ);
    }
    assert_state(space, base + LEFT * PAGE, TIDE_PAGE_STATE_STANDBY);
    assert_int_equal(slots_used(scene), 2);
    check_stamps(space, base, PAGES);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(each_class_has_its_status_and_its_counters),
        SCENE_TEST(what_is_not_allowed_is_a_violation_and_changes_nothing),
        SCENE_TEST(a_soft_fault_gives_the_page_the_priority_of_its_space),
        SCENE_TEST(the_first_write_to_a_clean_page_gives_its_slot_back),
        SCENE_TEST(a_write_during_the_write_makes_it_void),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * The modified-page writer: what it puts into one write, how much it does in a step, and what becomes of pages whose
 * write has no room, fails, or is overtaken by the page's owner.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>

static uint64_t modified_count(const struct scene *scene)
{
    return counts_now(scene).lists[FRAME_LIST_MODIFIED];
}

static uint64_t run_due(const struct scene *scene)
{
    int error = 0;
    const uint64_t done = worker_run(workers_get(scene->engine->workers, TIDE_WORKER_MODIFIED_WRITER, 0),
                                     engine_thread(scene->engine), UINT64_MAX, WORKER_DUE, &error);

    assert_int_equal(error, 0);
    return done;
}

/* Modified pages, trimmed in address order. */
static tide_address modified_new(tide_space *space, uint64_t first, uint64_t pages)
{
    const tide_address base = region_new(space, first, pages);

    stamp(space, base, pages);
    for (uint64_t i = 0; i < pages; i++)
        trim_page(space, base + i * PAGE);
    return base;
}

/* Takes every slot, and gives back those of the runs { first, length, ..., 0 }. Returns how many stay taken. */
static unsigned slots_fragment(const struct scene *scene, unsigned slots, const unsigned *runs)
{
    struct stores *stores = scene->partition->stores;
    struct stores_slot slot;
    unsigned taken = 0;

    for (unsigned got; (got = stores_slots_allocate(stores, STORES_CLUSTER_MAX, 0, &slot)) != 0;)
        taken += got;
    assert_int_equal(taken, slots);
    for (; runs[0] != 0; runs += 2) {
        for (unsigned i = 0; i < runs[1]; i++, taken--)
            stores_slot_release(stores, (struct stores_slot){ 0, runs[0] + i });
    }
    stores_released_flush(stores);
    return taken;
}

/* Gives back what slots_fragment() kept. */
static void slots_mend(const struct scene *scene, unsigned slots, const unsigned *runs)
{
    for (unsigned slot = 1; slot <= slots; slot++) {
        bool kept = true;

        for (const unsigned *run = runs; run[0] != 0; run += 2)
            kept = kept && slot - run[0] >= run[1];
        if (kept)
            stores_slot_release(scene->partition->stores, (struct stores_slot){ 0, (uint32_t)slot });
    }
}

/* ---- clusters --------------------------------------------------------------------------------------------------- */

static void pages_trimmed_in_any_order_are_written_in_address_order(void **state)
{
    enum { PAGES = 64 };
    struct scene *scene = *state;
    uint64_t order[PAGES];
    uint64_t seed = 7;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    for (uint64_t i = 0; i < PAGES; i++) {
        const uint64_t j = random_below(&seed, i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (uint64_t i = 0; i < PAGES; i++)
        trim_page(space, base + order[i] * PAGE);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), PAGES);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 16, 16, 16, 16);
    /* The window of the page that was trimmed first went first, and in each the slots ascend with the addresses. */
    assert_int_equal(scene->device.notes[0].slot, page_now(space, base + order[0] / 16 * 16 * PAGE).slot);
    for (uint64_t i = 0; i < PAGES; i++) {
        assert_state(space, base + i * PAGE, TIDE_PAGE_STATE_STANDBY);
        assert_int_equal(page_now(space, base + i * PAGE).slot,
                         page_now(space, base + i / 16 * 16 * PAGE).slot + i % 16);
    }
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.pages_output, PAGES);
    assert_int_equal(statistics.page_writes, 4);
    assert_int_equal(slots_used(scene), PAGES);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, PAGES);
    scene_close(scene);
}

/* Trimmed and written one page at a time, in any order: each finds the slot that adjoins its neighbours'. */
static void pages_written_one_by_one_lie_as_if_written_together(void **state)
{
    enum { PAGES = 64 };
    struct scene *scene = *state;
    uint64_t seed = 11;

    scene_open(scene, 256, 256);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    for (unsigned left = PAGES; left != 0; left--) {
        uint64_t nth = random_below(&seed, left), i = 0;
        while (page_now(space, base + i * PAGE).state != TIDE_PAGE_STATE_ACTIVE || nth-- != 0)
            i++;
        trim_page(space, base + i * PAGE);
        assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 1);
        if (left % 3 == 0) /* the neighbours' slots may be read from PTEs, too */
            assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
        scene_verify(scene);
    }
    for (uint64_t i = 0; i < PAGES; i++)
        assert_int_equal(page_now(space, base + i * PAGE).slot,
                         page_now(space, base + i / 16 * 16 * PAGE).slot + i % 16);
    assert_int_equal(statistics_now(scene).page_file_reserved_slots, 0);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, PAGES);
    scene_close(scene);
}

static void a_window_that_is_split_in_one_batch_stays_together(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16);
    stamp(space, base, 16);
    for (unsigned i = 0; i < 16; i++)
        if (i != 7)
            trim_page(space, base + i * PAGE);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 15);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 7, 8);
    assert_int_equal(page_now(space, base + 8 * PAGE).slot, page_now(space, base).slot + 8);
    assert_int_equal(statistics_now(scene).page_file_reserved_slots, 1);
    /* The window's slots are all free again: nothing stays reserved. */
    decommit(space, base, 7);
    assert_int_equal(statistics_now(scene).page_file_reserved_slots, 1);
    decommit(space, base + 8 * PAGE, 8);
    assert_int_equal(statistics_now(scene).page_file_reserved_slots, 0);
    scene_close(scene);
}

static void a_page_that_is_not_modified_ends_the_run(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16);
    stamp(space, base, 16);
    for (unsigned i = 16; i-- > 0;)
        if (i != 7)
            trim_page(space, base + i * PAGE);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 15);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 8, 7);
    assert_state(space, base + 7 * PAGE, TIDE_PAGE_STATE_ACTIVE);
    assert_int_equal(page_now(space, base + 6 * PAGE).slot, page_now(space, base).slot + 6);
    scene_close(scene);
}

/*
 * With windows that do not divide a table, the neighbour past its end lies in another table. Here that one's frame
 * comes next in memory, so that who walks on finds modified pages there.
 */
static void a_run_ends_with_its_table(void **state)
{
    struct scene *scene = *state;
    tide_address base = 480 * PAGE;
    uint64_t bytes = 80 * PAGE;

    scene->config.cluster_pages = 48;
    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
    bytes = 64 * PAGE; /* a part of the region: its tables are made at once */
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
    assert_ptr_equal(pte_at(space, base + 31 * PAGE) + 1, pte_at(space, base + 32 * PAGE));
    stamp(space, base, 64);
    for (unsigned i = 0; i < 64; i++)
        trim_page(space, base + i * PAGE);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 64);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 32, 32);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, 64);
    scene_close(scene);
}

static void a_run_is_split_where_the_slots_are(void **state)
{
    static const unsigned room[] = { 10, 5, 30, 11, 0 };
    struct scene *scene = *state;

    scene_open(scene, 256, 64);
    (void)slots_fragment(scene, 64, room);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 16);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 16);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 11, 5);
    for (unsigned i = 0; i < 16; i++) {
        assert_state(space, base + i * PAGE, TIDE_PAGE_STATE_STANDBY);
        assert_int_equal(page_now(space, base + i * PAGE).slot, i < 11 ? 30 + i : 10 + i - 11);
    }
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, 16);
    slots_mend(scene, 64, room);
    scene_close(scene);
}

/* ---- how much --------------------------------------------------------------------------------------------------- */

static void a_step_writes_its_budget_and_not_a_page_more(void **state)
{
    enum { PAGES = 200 };
    struct scene *scene = *state;
    uint64_t left = PAGES, seed = 3;

    scene_open(scene, 400, 256);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, PAGES);
    while (left != 0) {
        const uint64_t budget = 1 + random_below(&seed, 40);
        const uint64_t expected = budget < left ? budget : left;

        assert_int_equal(writer_run(scene, budget, TIDE_SUCCESS), expected);
        left -= expected;
        assert_int_equal(modified_count(scene), left);
        assert_int_equal(counts_now(scene).transition, 0);
        assert_int_equal(slots_used(scene), PAGES - left);
    }
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, PAGES);
    scene_close(scene);
}

static void it_is_due_above_the_trigger_or_when_frames_are_short(void **state)
{
    struct scene *scene = *state;

    scene->config.modified_trigger_pages = 4;
    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 32);
    stamp(space, base, 32);
    for (unsigned i = 0; i < 4; i++)
        trim_page(space, base + i * PAGE);
    assert_int_equal(run_due(scene), 0);
    trim_page(space, base + 4 * PAGE);
    assert_int_equal(run_due(scene), 5);
    scene->frames->nodes[0].high = counts_now(scene).available + 1;
    assert_int_equal(run_due(scene), 0);
    trim_page(space, base + 5 * PAGE);
    assert_int_equal(run_due(scene), 1);
    scene_close(scene);
}

static void without_page_files_modified_pages_stay(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 0);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 40);
    assert_int_equal(run_due(scene), 0);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 0);
    assert_int_equal(modified_count(scene), 40);
    check_stamps(space, base, 40);
    scene_close(scene);
}

/* ---- no room ---------------------------------------------------------------------------------------------------- */

static void a_full_page_file_puts_pages_back(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 10);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 32);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 10);
    assert_lengths(&scene->device, TIDE_IO_WRITE, 10);
    assert_int_equal(modified_count(scene), 22);
    assert_int_equal(counts_now(scene).transition, 0);
    for (unsigned i = 10; i < 32; i++) {
        assert_state(space, base + i * PAGE, TIDE_PAGE_STATE_MODIFIED);
        assert_true(word_at(space, base + i * PAGE) & PFN_DIRTY);
        assert_int_equal(page_now(space, base + i * PAGE).slot, 0);
    }
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 0);
    scene_verify(scene);
    /* A write to a page that was written gives its slot back, and so room for another. */
    stamp(space, base, 1);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 1);
    assert_int_equal(modified_count(scene), 21);
    check_stamps(space, base, 32);
    scene_close(scene);
}

/* Slots that lie apart make a write of each page; a batch of writes is full in the middle of a run. */
static void a_full_batch_is_no_full_page_file(void **state)
{
    enum { SLOTS = 200, PAGES = 48 };
    struct scene *scene = *state;
    unsigned room[2 * SLOTS + 1] = { 0 };

    for (unsigned i = 0; i < SLOTS / 2; i++) {
        room[2 * i] = 2 * i + 1;
        room[2 * i + 1] = 1;
    }
    scene->config.cluster_pages = 12;
    scene_open(scene, 256, SLOTS);
    (void)slots_fragment(scene, SLOTS, room);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 48, PAGES); /* four runs of 12 */
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), PAGES);
    assert_int_equal(statistics_now(scene).page_writes, PAGES);
    assert_int_equal(modified_count(scene), 0);
    assert_int_equal(counts_now(scene).transition, 0);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, PAGES);
    slots_mend(scene, SLOTS, room);
    scene_close(scene);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

/* One bad slot in a cluster: found by writing the pages alone, and no other slot is given up for it. */
static void a_bad_slot_costs_itself_and_no_page(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 32);
    const uint64_t limit = statistics_now(scene).commit_limit_pages;
    device_fail(&scene->device, TIDE_IO_WRITE, EIO, 0, 16 + 5, 1000); /* the first block begins at slot 16 */
    assert_int_equal(writer_run(scene, 0, TIDE_IO_ERROR), 31);
    assert_int_equal(tide_last_error()->io_error, EIO);
    tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.write_errors, 2); /* the cluster, and the page alone */
    assert_int_equal(statistics.page_writes, 2 + 16);
    assert_int_equal(statistics.pages_output, 31);
    assert_int_equal(statistics.page_file_bad_slots, 1);
    assert_int_equal(statistics.page_file_used_slots, 31);
    assert_int_equal(statistics.commit_limit_pages, limit - 1);
    assert_int_equal(statistics.commit_limit_maximum_pages, limit - 1);
    assert_int_equal(modified_count(scene), 1);
    assert_int_equal(counts_now(scene).transition, 0);
    for (unsigned i = 0; i < 32; i++) {
        assert_state(space, base + i * PAGE, i == 5 ? TIDE_PAGE_STATE_MODIFIED : TIDE_PAGE_STATE_STANDBY);
        assert_int_equal((word_at(space, base + i * PAGE) & PFN_DIRTY) != 0, i == 5);
        assert_int_equal(page_now(space, base + i * PAGE).slot, i == 5 ? 0 : 16 + i);
    }
    scene_verify(scene);
    /* Its next write goes to another slot, although the one at its place is the bad one. */
    device_forget(&scene->device);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 1);
    assert_int_not_equal(page_now(space, base + 5 * PAGE).slot, 16 + 5);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, 32);
    scene_close(scene);
}

/* A cluster that fails once and not again, page by page, costs no slot and is no error. */
static void a_failure_that_passes_costs_nothing(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 32);
    device_fail(&scene->device, TIDE_IO_WRITE, EIO, 0, 0, 2); /* all that there is: the file shows life only then */
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 32);
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.write_errors, 2);
    assert_int_equal(statistics.page_file_bad_slots, 0);
    assert_int_equal(statistics.page_file_used_slots, 32);
    assert_int_equal(modified_count(scene), 0);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, 32);
    scene_close(scene);
}

/* Nothing of the batch reached the disk: the device is at fault and not the slots. */
static void a_device_that_fails_altogether_costs_no_slot(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 40);
    const uint64_t limit = statistics_now(scene).commit_limit_pages;
    device_fail(&scene->device, TIDE_IO_WRITE, EIO, 0, 0, 1000);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(writer_run(scene, 0, TIDE_IO_ERROR), 0);
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.page_file_bad_slots, 0);
    assert_int_equal(statistics.page_file_used_slots, 0);
    assert_int_equal(statistics.commit_limit_pages, limit);
    assert_int_equal(modified_count(scene), 40);
    device_fail(&scene->device, TIDE_IO_WRITE, 0, 0, 0, 0);
    assert_int_equal(writer_run(scene, 0, TIDE_SUCCESS), 40);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    check_stamps(space, base, 40);
    scene_close(scene);
}

/* ---- overtaken -------------------------------------------------------------------------------------------------- */

static void a_page_deleted_during_its_write_is_freed_at_the_end(void **state)
{
    struct scene *scene = *state;
    struct helper writer = { .scene = scene };

    scene_open(scene, 256, 64);
    tide_space *space = space_new(scene);
    const tide_address base = modified_new(space, 16, 16);
    const frame_t frame = pte_frame(pte_load(pte_at(space, base + 5 * PAGE)));
    device_hold(&scene->device, TIDE_IO_WRITE, true);
    helper_start(&writer);
    device_wait_held(&scene->device, TIDE_IO_WRITE);
    assert_true(word_at(space, base + 5 * PAGE) & PFN_WRITE_IN_PROGRESS);
    decommit(space, base + 5 * PAGE, 1);
    assert_int_equal(pfn_state(sync_load_64(&frame_pfn(scene->frames, frame)->word)), FRAME_TRANSITION);
    device_hold(&scene->device, TIDE_IO_WRITE, false);
    helper_join(&writer);
    assert_status(writer.status, TIDE_SUCCESS);
    assert_int_equal(pfn_state(sync_load_64(&frame_pfn(scene->frames, frame)->word)), FRAME_FREE);
    assert_int_equal(slots_used(scene), 15);
    assert_int_equal(counts_now(scene).transition, 0);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(pages_trimmed_in_any_order_are_written_in_address_order),
        SCENE_TEST(a_page_that_is_not_modified_ends_the_run),
        SCENE_TEST(a_run_ends_with_its_table),
        SCENE_TEST(a_run_is_split_where_the_slots_are),
        SCENE_TEST(a_step_writes_its_budget_and_not_a_page_more),
        SCENE_TEST(it_is_due_above_the_trigger_or_when_frames_are_short),
        SCENE_TEST(without_page_files_modified_pages_stay),
        SCENE_TEST(a_full_page_file_puts_pages_back),
        SCENE_TEST(a_full_batch_is_no_full_page_file),
        SCENE_TEST(a_bad_slot_costs_itself_and_no_page),
        SCENE_TEST(a_failure_that_passes_costs_nothing),
        SCENE_TEST(pages_written_one_by_one_lie_as_if_written_together),
        SCENE_TEST(a_window_that_is_split_in_one_batch_stays_together),
        SCENE_TEST(a_device_that_fails_altogether_costs_no_slot),
        SCENE_TEST(a_page_deleted_during_its_write_is_freed_at_the_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

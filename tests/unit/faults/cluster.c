/*
 * Clustered reads: how many neighbours come with a page, where a cluster ends, and what a failed read costs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>

enum { FRAMES = 512, SLOTS = 256 };

/* Pages that are in the page file only, in consecutive slots if there was room. */
static tide_address paged_out_new(struct scene *scene, tide_space *space, uint64_t first, uint64_t pages)
{
    const tide_address base = region_new(space, first, pages);

    stamp(space, base, pages);
    page_out(scene, space);
    for (uint64_t i = 0; i < pages; i++)
        assert_state(space, base + i * PAGE, TIDE_PAGE_STATE_PAGE_FILE);
    return base;
}

static void assert_consecutive(tide_space *space, tide_address base, uint64_t pages)
{
    const uint64_t first = page_now(space, base).slot;

    for (uint64_t i = 0; i < pages; i++)
        assert_int_equal(page_now(space, base + i * PAGE).slot, first + i);
}

/* Operation `note` of the device was for so many slots from `first` on. */
static void assert_read(const struct scene *scene, unsigned note, uint64_t first, uint64_t pages)
{
    assert_true(note < scene->device.count);
    assert_int_equal(scene->device.notes[note].slot, first);
    assert_int_equal(scene->device.notes[note].pages, pages);
}

/* ---- the window ------------------------------------------------------------------------------------------------- */

static void a_lone_access_reads_one_page(void **state)
{
    struct scene *scene = *state;
    static const unsigned lone[] = { 32, 5, 60, 16, 47 };

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 64);
    assert_consecutive(space, base, 64);
    for (unsigned i = 0; i < sizeof lone / sizeof *lone; i++)
        touch(space, base + lone[i] * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 1, 1, 1, 1);
    scene_close(scene);
}

static void a_scan_reaches_full_clusters(void **state)
{
    struct scene *scene = *state;

    scene->config.cluster_pages = 16;
    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 64);
    assert_consecutive(space, base, 64);
    check_stamps(space, base, 64);
    /* Twice the track of pages in memory and one more; the last ends with the region. */
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 3, 9, 16, 16, 16, 3);
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.faults.hard, 7);
    assert_int_equal(statistics.faults.transition_standby, 57);
    assert_int_equal(statistics.page_reads, 7);
    assert_int_equal(statistics.pages_input, 64);
    scene_close(scene);
}

static void a_backward_scan_does_too(void **state)
{
    struct scene *scene = *state;

    scene->config.cluster_pages = 8;
    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 32);
    const uint64_t slot = page_now(space, base).slot;
    assert_consecutive(space, base, 32);
    for (unsigned i = 32; i-- > 0;)
        check_stamps(space, base + i * PAGE, 1);
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 3, 8, 8, 8, 4);
    assert_read(scene, 1, slot + 28, 3);
    assert_read(scene, 2, slot + 20, 8);
    scene_close(scene);
}

static void neighbours_wait_on_standby(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 8);
    assert_status(tide_space_set_priority(space, 3), TIDE_SUCCESS);
    touch(space, base, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    touch(space, base + PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    for (unsigned i = 2; i < 4; i++) {
        assert_state(space, base + i * PAGE, TIDE_PAGE_STATE_STANDBY);
        assert_int_equal(page_now(space, base + i * PAGE).priority, 3);
        assert_true(page_now(space, base + i * PAGE).slot != 0);
        assert_int_equal(word_at(space, base + i * PAGE) & (PFN_DIRTY | PFN_READ_IN_PROGRESS), 0);
    }
    assert_int_equal(space_working_set_pages(space), 2);
    assert_int_equal(counts_now(scene).standby, 2);
    assert_int_equal(counts_now(scene).transition, 0);
    scene_close(scene);
}

/* ---- its ends --------------------------------------------------------------------------------------------------- */

/* The frame of the next table comes next in memory, so that who walks on finds pages with adjoining slots there. */
static void a_cluster_ends_with_its_table(void **state)
{
    enum { FIRST = 496, PAGES = 48, END = 512 - FIRST };
    struct scene *scene = *state;

    for (int backward = 0; backward < 2; backward++) {
        tide_address base = FIRST * PAGE;
        uint64_t bytes = (PAGES + 16) * PAGE;
        unsigned longest = 0;

        scene_open(scene, FRAMES, SLOTS);
        tide_space *space = space_new(scene);
        assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
        bytes = PAGES * PAGE; /* a part of the region: its tables are made at once */
        assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
        assert_ptr_equal(pte_at(space, base + (END - 1) * PAGE) + 1, pte_at(space, base + END * PAGE));
        stamp(space, base, PAGES);
        page_out(scene, space);
        assert_consecutive(space, base, PAGES);
        const uint64_t slot = page_now(space, base).slot;
        for (unsigned i = 0; i < PAGES; i++)
            check_stamps(space, base + (backward ? PAGES - 1 - i : i) * PAGE, 1);
        for (unsigned i = 0; i < scene->device.count; i++) {
            const uint64_t first = scene->device.notes[i].slot - slot;
            const uint64_t last = first + scene->device.notes[i].pages - 1;

            assert_int_equal(first < END, last < END);
            if (scene->device.notes[i].pages > longest)
                longest = scene->device.notes[i].pages;
        }
        assert_true(longest > 3);
        scene_close(scene);
    }
}

static void a_cluster_ends_where_the_slots_do(void **state)
{
    struct scene *scene = *state;
    struct stores_slot gap;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16);
    stamp(space, base, 8);
    page_out(scene, space);
    /* Somebody takes the slot that belongs to the ninth page. */
    const struct stores_slot first = { 0, (uint32_t)page_now(space, base).slot };
    assert_int_equal(stores_window_join(scene->partition->stores, 8, 1, first, -8, 0, &gap), 1);
    stamp(space, base + 8 * PAGE, 8);
    page_out(scene, space);
    assert_consecutive(space, base, 8);
    assert_consecutive(space, base + 8 * PAGE, 8);
    assert_int_equal(gap.slot, page_now(space, base).slot + 8);
    assert_true(page_now(space, base + 8 * PAGE).slot > gap.slot);
    check_stamps(space, base, 16);
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 3, 4, 8);
    stores_slot_release(scene->partition->stores, gap);
    scene_close(scene);
}

static void a_page_in_memory_ends_the_cluster_and_keeps_its_content(void **state)
{
    struct scene *scene = *state;
    uint64_t word;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 16);
    const tide_address newer = base + 3 * PAGE;
    assert_status(tide_write(space, newer, &(uint64_t){ 77 }, sizeof(uint64_t)), TIDE_SUCCESS);
    device_forget(&scene->device);
    check_stamps(space, base, 3);
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 2);
    assert_status(tide_read(space, newer, &word, sizeof word), TIDE_SUCCESS);
    assert_int_equal(word, 77);
    scene_close(scene);
}

/* ---- errors ----------------------------------------------------------------------------------------------------- */

static uint64_t frames_at_hand(const struct scene *scene)
{
    const struct frames_counts counts = counts_now(scene);

    assert_int_equal(counts.transition, 0);
    return counts.available;
}

static void a_failed_read_leaves_everything_as_it_was(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 16);
    const uint64_t before = *pte_at(space, base + PAGE), frames = frames_at_hand(scene);
    device_fail(&scene->device, TIDE_IO_READ, ENXIO, 0, 0, 1);
    touch(space, base + PAGE + 5, TIDE_ACCESS_WRITE, TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, ENXIO);
    assert_int_equal(tide_last_error()->address, base + PAGE + 5);
    assert_int_equal(*pte_at(space, base + PAGE), before);
    assert_int_equal(frames_at_hand(scene), frames);
    assert_int_equal(slots_used(scene), 16);
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.read_errors, 1);
    assert_int_equal(statistics.faults.in_page_errors, 1);
    assert_int_equal(statistics.faults.hard, 0);
    assert_int_equal(statistics.pages_input, 0);
    scene_verify(scene);
    touch(space, base + PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    check_stamps(space, base, 16);
    scene_close(scene);
}

/* All fails: also the neighbours, which nobody had asked for, are as they were. */
static void a_failed_cluster_leaves_its_neighbours_as_they_were(void **state)
{
    struct scene *scene = *state;
    uint64_t before[16];

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 16);
    check_stamps(space, base, 1);
    for (unsigned i = 0; i < 16; i++)
        before[i] = *pte_at(space, base + i * PAGE);
    const uint64_t frames = frames_at_hand(scene);
    device_forget(&scene->device);
    device_fail(&scene->device, TIDE_IO_READ, EIO, 0, 0, 2);
    touch(space, base + PAGE, TIDE_ACCESS_READ, TIDE_IN_PAGE_ERROR);
    assert_lengths(&scene->device, TIDE_IO_READ, 3, 1);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(*pte_at(space, base + i * PAGE), before[i]);
    assert_int_equal(frames_at_hand(scene), frames);
    assert_int_equal(statistics_now(scene).faults.in_page_errors, 1);
    check_stamps(space, base, 16);
    scene_close(scene);
}

static void a_failing_neighbour_harms_only_itself(void **state)
{
    enum { BAD = 2 };
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 16);
    const uint64_t bad = page_now(space, base + BAD * PAGE).slot;
    device_fail(&scene->device, TIDE_IO_READ, EIO, 0, bad, 1000);
    check_stamps(space, base, 1);
    const uint64_t frames = frames_at_hand(scene);
    check_stamps(space, base + PAGE, 1);
    assert_lengths(&scene->device, TIDE_IO_READ, 1, 3, 1);
    assert_state(space, base + BAD * PAGE, TIDE_PAGE_STATE_PAGE_FILE);
    assert_int_equal(page_now(space, base + BAD * PAGE).slot, bad);
    assert_state(space, base + (BAD + 1) * PAGE, TIDE_PAGE_STATE_PAGE_FILE);
    assert_int_equal(frames_at_hand(scene), frames - 1);
    touch(space, base + BAD * PAGE, TIDE_ACCESS_READ, TIDE_IN_PAGE_ERROR);
    check_stamps(space, base + (BAD + 1) * PAGE, 16 - BAD - 1);
    assert_int_equal(statistics_now(scene).faults.in_page_errors, 1);
    device_fail(&scene->device, TIDE_IO_READ, 0, 0, 0, 0);
    check_stamps(space, base, 16);
    scene_close(scene);
}

/* A device that cannot do more than a page at a time is slow, and no more. */
static void a_device_that_fails_every_cluster_still_serves(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = paged_out_new(scene, space, 16, 24);
    device_fail(&scene->device, TIDE_IO_READ, EIO, 1, 0, 1000);
    check_stamps(space, base, 24);
    const tide_statistics statistics = statistics_now(scene);
    assert_int_equal(statistics.faults.hard, 24);
    assert_int_equal(statistics.faults.in_page_errors, 0);
    assert_int_equal(statistics.pages_input, 24);
    assert_int_equal(statistics.page_reads, 24 + statistics.read_errors);
    assert_int_equal(space_working_set_pages(space), 24);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(a_lone_access_reads_one_page),
        SCENE_TEST(a_scan_reaches_full_clusters),
        SCENE_TEST(a_backward_scan_does_too),
        SCENE_TEST(neighbours_wait_on_standby),
        SCENE_TEST(a_cluster_ends_with_its_table),
        SCENE_TEST(a_cluster_ends_where_the_slots_do),
        SCENE_TEST(a_page_in_memory_ends_the_cluster_and_keeps_its_content),
        SCENE_TEST(a_failed_read_leaves_everything_as_it_was),
        SCENE_TEST(a_failed_cluster_leaves_its_neighbours_as_they_were),
        SCENE_TEST(a_failing_neighbour_harms_only_itself),
        SCENE_TEST(a_device_that_fails_every_cluster_still_serves),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

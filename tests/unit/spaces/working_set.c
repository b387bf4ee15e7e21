/*
 * Working sets: admission and replacement at a hard maximum, ranks, what a trim keeps.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../faults/support.h"

#include <sched.h>
#include <string.h>

enum { PAGES = 60, MAXIMUM = 20 };

static uint64_t valid_pages(const tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t valid = 0;

    for (uint64_t i = 0; i < pages; i++)
        valid += pte_is_valid(pte_load(pte_at(space, base + i * PAGE)));
    return valid;
}

static tide_space *space_at_maximum(struct scene *scene, tide_address *base)
{
    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    *base = region_new(space, 16, PAGES);
    assert_status(tide_working_set_set_limits(space, 13, MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM), TIDE_SUCCESS);
    stamp(space, *base, MAXIMUM);
    return space;
}

static void accessed_clear(const tide_space *space, tide_address address)
{
    uint64_t *pte = pte_at(space, address);

    sync_store_64(pte, *pte & ~PTE_ACCESSED);
}

/* From the hand on the first page that was not accessed goes; those passed by have had their chance. */
static void replacement_gives_a_second_chance(void **state)
{
    struct scene *scene = *state;
    tide_address base;
    tide_space *space = space_at_maximum(scene, &base);

    accessed_clear(space, base + 5 * PAGE);
    accessed_clear(space, base + 9 * PAGE);
    stamp(space, base + MAXIMUM * PAGE, 1);
    for (unsigned i = 0; i < MAXIMUM; i++)
        assert_int_equal(pte_is_valid(pte_load(pte_at(space, base + i * PAGE))), i != 5);
    for (unsigned i = 0; i < 5; i++)
        assert_false(*pte_at(space, base + i * PAGE) & PTE_ACCESSED);
    assert_true(*pte_at(space, base + 6 * PAGE) & PTE_ACCESSED);
    stamp(space, base + (MAXIMUM + 1) * PAGE, 1);
    assert_false(pte_is_valid(pte_load(pte_at(space, base + 9 * PAGE))));
    /* All accessed: once round, and then the next one all the same. */
    for (unsigned i = 0; i < PAGES; i++)
        if (pte_is_valid(pte_load(pte_at(space, base + i * PAGE))))
            touch(space, base + i * PAGE, TIDE_ACCESS_READ, TIDE_SUCCESS);
    stamp(space, base + (MAXIMUM + 2) * PAGE, 1);
    assert_int_equal(valid_pages(space, base, PAGES), MAXIMUM);
    assert_false(pte_is_valid(pte_load(pte_at(space, base + 10 * PAGE))));
    check_stamps(space, base, MAXIMUM);
    scene_close(scene);
}

/* What was admitted counts until it is settled: then there is no room, and nothing to replace. */
static void admissions_count_until_they_are_settled(void **state)
{
    struct scene *scene = *state;
    tide_address base;
    tide_space *space = space_at_maximum(scene, &base);

    for (unsigned i = 0; i < MAXIMUM; i++) {
        assert_true(working_set_admit(space));
        assert_int_equal(valid_pages(space, base, PAGES), MAXIMUM - 1 - i);
    }
    assert_false(working_set_admit(space));
    working_set_settle(space);
    assert_true(working_set_admit(space));
    for (unsigned i = 0; i < MAXIMUM; i++)
        working_set_settle(space);
    assert_int_equal(space->working_set.coming, 0);
    scene_verify(scene);
    stamp(space, base, MAXIMUM);
    assert_int_equal(valid_pages(space, base, PAGES), MAXIMUM);
    scene_close(scene);
}

/* A page that another thread has claimed is passed by, and is no reason to let one in. */
static void claimed_pages_are_no_room(void **state)
{
    struct scene *scene = *state;
    tide_address base;
    tide_space *space = space_at_maximum(scene, &base);
    pte_t seen[MAXIMUM];

    for (unsigned i = 0; i < MAXIMUM; i++) {
        uint64_t *pte = pte_at(space, base + i * PAGE);
        seen[i] = pte_load(pte);
        sync_store_64(pte, pte_busy_form(seen[i]).bits);
    }
    assert_false(working_set_admit(space));
    pte_release(scene->partition->waits, pte_at(space, base + 7 * PAGE), seen[7]);
    assert_true(working_set_admit(space));
    assert_false(pte_is_valid(pte_load(pte_at(space, base + 7 * PAGE))));
    working_set_settle(space);
    for (unsigned i = 0; i < MAXIMUM; i++)
        if (i != 7)
            pte_release(scene->partition->waits, pte_at(space, base + i * PAGE), seen[i]);
    scene_close(scene);
}

struct limiter {
    tide_space *space;
    tide_status status;
    uint32_t done; /* [A] */
};

static void *limit(void *context)
{
    struct limiter *limiter = context;

    limiter->status = tide_working_set_set_limits(limiter->space, 13, MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM);
    sync_store_32(&limiter->done, 1);
    return NULL;
}

/* A fault that began when the maximum was soft comes in while it becomes hard: the maximum waits for it. */
static void a_maximum_becomes_hard_when_no_fault_is_under_way(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, MAXIMUM);
    stamp(space, base + 40 * PAGE, 1);
    page_out(scene, space);
    check_stamps(space, base, MAXIMUM);
    assert_int_equal(valid_pages(space, base, PAGES), MAXIMUM);
    device_hold(&scene->device, TIDE_IO_READ, true);
    struct helper helper = { .scene = scene, .space = space, .address = base + 40 * PAGE };
    helper_start(&helper);
    device_wait_held(&scene->device, TIDE_IO_READ);

    struct limiter limiter = { .space = space };
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, limit, &limiter), 0);
    while (sync_load_32(&limiter.done) == 0 && sync_load_32(&scene->frames->grace.stop) == 0)
        sched_yield();
    device_hold(&scene->device, TIDE_IO_READ, false);
    pthread_join(thread, NULL);
    helper_join(&helper);
    assert_status(limiter.status, TIDE_SUCCESS);
    assert_status(helper.status, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_int_equal(valid_pages(space, base, PAGES), MAXIMUM);
    check_stamps(space, base + 40 * PAGE, 1);
    scene_close(scene);
}

static struct {
    partition_reclaim *reclaim;
    const tide_space *space;
    unsigned waits;
    uint64_t coming; /* most that was seen */
} noted;

static bool reclaim_note(struct partition *partition, struct grace_thread *thread, struct frames_place place)
{
    const uint64_t coming = sync_load_64(&noted.space->working_set.coming);

    noted.waits++;
    noted.coming = coming > noted.coming ? coming : noted.coming;
    return noted.reclaim(partition, thread, place);
}

/* A fault that waits for a frame keeps no room from others meanwhile. */
static void who_waits_for_a_frame_is_not_admitted(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 64, 200);
    tide_space *space = space_new(scene);
    tide_space *other = space_new(scene);
    const tide_address base = region_new(space, 16, 45), of_other = region_new(other, 16, 40);
    assert_status(tide_working_set_set_limits(space, 13, 50, TIDE_WORKING_SET_HARD_MAXIMUM), TIDE_SUCCESS);
    stamp(other, of_other, 40);
    noted.reclaim = scene->partition->reclaim;
    noted.space = space;
    noted.waits = 0;
    noted.coming = 0;
    scene->partition->reclaim = reclaim_note;
    stamp(space, base, 45); /* demand zero */
    check_stamps(other, of_other, 40);
    check_stamps(space, base, 45); /* hard */
    scene->partition->reclaim = noted.reclaim;
    assert_true(noted.waits > 0);
    assert_int_equal(noted.coming, 0);
    scene_close(scene);
}

/* The verifier, which the tests with threads rely on, finds a page too many. */
static void the_verifier_finds_a_set_over_its_maximum(void **state)
{
    struct scene *scene = *state;
    tide_verify_report report;
    tide_address base;
    tide_space *space = space_at_maximum(scene, &base);

    scene_verify(scene);
    sync_store_64(&space->working_set.maximum, MAXIMUM - 1);
    assert_int_equal(tide_engine_verify(scene->engine, &report), TIDE_INVARIANT_VIOLATED);
    assert_non_null(strstr(report.first, "I12"));
    sync_store_64(&space->working_set.maximum, MAXIMUM);
    scene_close(scene);
}

static void a_trim_keeps_what_it_is_told_to(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    const struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE, .accessed_too = true, .keep = 33 };
    assert_int_equal(working_set_trim(space, choice, 7), 7);
    assert_int_equal(working_set_trim(space, choice, 1000), PAGES - 33 - 7);
    assert_int_equal(working_set_trim(space, choice, 1000), 0);
    assert_int_equal(valid_pages(space, base, PAGES), 33);
    scene_close(scene);
}

static void the_rank_for_a_need_is_the_highest_that_yields_it(void **state)
{
    static struct working_set_ranks ranks;
    (void)state;

    assert_int_equal(working_set_rank_for(&ranks, 0), WORKING_SET_RANKS);
    assert_int_equal(working_set_rank_for(&ranks, 1), 0);
    ranks.pages[2000] = 5;
    ranks.pages[100] = 10;
    assert_int_equal(working_set_rank_for(&ranks, 1), 2000);
    assert_int_equal(working_set_rank_for(&ranks, 5), 2000);
    assert_int_equal(working_set_rank_for(&ranks, 6), 100);
    assert_int_equal(working_set_rank_for(&ranks, 15), 100);
    assert_int_equal(working_set_rank_for(&ranks, 16), 0);
}

/* A look counts the pages that could go, and changes nothing; a pass of ageing does both. */
static void a_look_ages_nothing(void **state)
{
    static struct working_set_ranks looked, aged;
    struct scene *scene = *state;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, PAGES);
    stamp(space, base, PAGES);
    for (unsigned i = 0; i < 10; i++)
        accessed_clear(space, base + i * PAGE);
    const uint64_t before = *pte_at(space, base), other = *pte_at(space, base + 20 * PAGE);
    assert_int_equal(working_set_look(space, TIDE_NO_PREFERRED_NODE, &looked), 10 * (PTE_AGE_MAX + 1));
    assert_int_equal(*pte_at(space, base), before);
    assert_int_equal(*pte_at(space, base + 20 * PAGE), other);
    assert_int_equal(looked.pages[PTE_AGE_MAX * WORKING_SET_PRIORITIES + 2], 10); /* priority 5 */
    (void)working_set_age(space, TIDE_NO_PREFERRED_NODE, false, &aged);
    assert_int_equal(aged.pages[PTE_AGE_MAX * WORKING_SET_PRIORITIES + 2], 10);
    assert_int_equal(aged.pages[204 * WORKING_SET_PRIORITIES + 2], PAGES - 10);
    assert_false(*pte_at(space, base + 20 * PAGE) & PTE_ACCESSED);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(replacement_gives_a_second_chance),
        SCENE_TEST(admissions_count_until_they_are_settled),
        SCENE_TEST(claimed_pages_are_no_room),
        SCENE_TEST(a_maximum_becomes_hard_when_no_fault_is_under_way),
        SCENE_TEST(who_waits_for_a_frame_is_not_admitted),
        SCENE_TEST(the_verifier_finds_a_set_over_its_maximum),
        SCENE_TEST(a_trim_keeps_what_it_is_told_to),
        cmocka_unit_test(the_rank_for_a_need_is_the_highest_that_yields_it),
        SCENE_TEST(a_look_ages_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

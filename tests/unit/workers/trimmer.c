/*
 * The working-set trimmer: when it ages, when it trims, whom it takes pages from, and which.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

static uint64_t step(const struct scene *scene, unsigned node, uint64_t budget)
{
    uint64_t done = 0;

    assert_status(tide_worker_step(scene->engine, TIDE_WORKER_TRIMMER, node, budget, &done), TIDE_SUCCESS);
    return done;
}

/* From now on the node is so many pages short of its goal. */
static void shortage_make(const struct scene *scene, unsigned node, uint64_t pages)
{
    struct frames_node *at = &scene->frames->nodes[node];

    at->low = at->high =
        frames_available(scene->frames, node) + frames_list_count(scene->frames, node, FRAME_LIST_MODIFIED) + pages;
}

static void age_set(const tide_space *space, tide_address address, unsigned age)
{
    uint64_t *pte = pte_at(space, address);

    sync_store_64(pte, (*pte & ~(PTE_ACCESSED | PTE_AGE_MASK)) | ((uint64_t)age << PTE_AGE_SHIFT));
}

static uint64_t valid_pages(const tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t valid = 0;

    for (uint64_t i = 0; i < pages; i++)
        valid += pte_is_valid(pte_load(pte_at(space, base + i * PAGE)));
    return valid;
}

static void limits_set(tide_space *space, uint64_t minimum, uint32_t flags)
{
    assert_status(tide_working_set_set_limits(space, minimum, 100, flags), TIDE_SUCCESS);
}

/* A space with stamped pages that are all of one age. */
static tide_space *space_aged(struct scene *scene, tide_address *base, uint64_t pages, unsigned age)
{
    tide_space *space = space_new(scene);

    *base = region_new(space, 16, pages);
    stamp(space, *base, pages);
    for (uint64_t i = 0; i < pages; i++)
        age_set(space, *base + i * PAGE, age);
    return space;
}

/* ---- when ------------------------------------------------------------------------------------------------------- */

static void pages_age_once_a_period(void **state)
{
    struct scene *scene = *state;

    scene->config.trimmer_period_ms = 50;
    scene_open(scene, 128, 64);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 2);
    const uint64_t *pte = (stamp(space, base, 2), pte_at(space, base));
    const uint64_t fresh = *pte;
    assert_true(fresh & PTE_ACCESSED);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(*pte, fresh);
    assert_status(tide_clock_advance(scene->engine, 49), TIDE_SUCCESS);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(*pte, fresh);
    assert_status(tide_clock_advance(scene->engine, 1), TIDE_SUCCESS);
    assert_int_equal(step(scene, 0, 0), 0);
    const unsigned used = pte_age(pte_load(pte));
    assert_false(*pte & PTE_ACCESSED);
    assert_true(used < pte_age((pte_t){ fresh }));
    /* It was this period's pass; and the next finds the page unused. */
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(pte_age(pte_load(pte)), used);
    assert_status(tide_clock_advance(scene->engine, 50), TIDE_SUCCESS);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_true(pte_age(pte_load(pte)) > used);
    scene_close(scene);
}

static void nothing_goes_without_a_shortage(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 128, 64);
    tide_space *space = space_aged(scene, &base, 40, PTE_AGE_MAX);
    /* Just enough: available pages are at `low`. */
    scene->frames->nodes[0].low = frames_available(scene->frames, 0);
    scene->frames->nodes[0].high = scene->frames->nodes[0].low + 30;
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(step(scene, 0, 0), 0);
        assert_status(tide_clock_advance(scene->engine, 1000), TIDE_SUCCESS);
    }
    assert_int_equal(valid_pages(space, base, 40), 40);
    scene->frames->nodes[0].low++;
    assert_int_equal(step(scene, 0, 0), 30);
    scene_close(scene);
}

static void what_the_writer_will_bring_counts(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 128, 64);
    tide_space *space = space_aged(scene, &base, 40, PTE_AGE_MAX);
    shortage_make(scene, 0, 10);
    assert_int_equal(step(scene, 0, 0), 10);
    assert_int_equal(frames_list_count(scene->frames, 0, FRAME_LIST_MODIFIED), 10);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(valid_pages(space, base, 40), 30);
    scene_close(scene);
}

/* ---- which ------------------------------------------------------------------------------------------------------ */

static void the_oldest_go_first_and_no_more_than_needed(void **state)
{
    static const unsigned ages[] = { 120, 0, 200, 60 };
    struct scene *scene = *state;

    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 64);
    stamp(space, base, 64);
    for (unsigned i = 0; i < 64; i++)
        age_set(space, base + i * PAGE, ages[i % 4]);
    shortage_make(scene, 0, 20);
    assert_int_equal(step(scene, 0, 0), 20);
    unsigned valid[4] = { 0 };
    for (unsigned i = 0; i < 64; i++)
        valid[i % 4] += pte_is_valid(pte_load(pte_at(space, base + i * PAGE)));
    assert_int_equal(valid[2], 0);  /* age 200 */
    assert_int_equal(valid[0], 12); /* age 120 */
    assert_int_equal(valid[3], 16);
    assert_int_equal(valid[1], 16);
    assert_int_equal(statistics_now(scene).trimmed, 20);
    scene_close(scene);
}

static void used_pages_stay_while_unused_ones_are_there(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 256, 128);
    tide_space *space = space_aged(scene, &base, 40, 100);
    for (unsigned i = 0; i < 20; i++)
        touch(space, base + 2 * i * PAGE, TIDE_ACCESS_READ, TIDE_SUCCESS);
    shortage_make(scene, 0, 20);
    assert_int_equal(step(scene, 0, 0), 20);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(pte_is_valid(pte_load(pte_at(space, base + i * PAGE))), i % 2 == 0);
    scene_close(scene);
}

static void a_step_keeps_its_budget(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 256, 128);
    tide_space *space = space_aged(scene, &base, 64, 100);
    shortage_make(scene, 0, 30);
    assert_int_equal(step(scene, 0, 7), 7);
    assert_int_equal(valid_pages(space, base, 64), 57);
    assert_int_equal(step(scene, 0, 0), 23);
    scene_close(scene);
}

static void only_pages_of_the_node_go(void **state)
{
    struct scene *scene = *state;
    tide_address base[2];
    uint64_t bytes = 40 * PAGE;

    scene->config.topology_synthetic = "numa:2 core:1 pu:1";
    scene_open(scene, 256, 128);
    tide_space *space = space_new(scene);
    for (unsigned node = 0; node < 2; node++) {
        base[node] = (16 + 64 * (tide_address)node) * PAGE;
        assert_status(tide_virtual_alloc_numa(space, &base[node], &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                              TIDE_PAGE_READWRITE, node),
                      TIDE_SUCCESS);
        stamp(space, base[node], 40);
        assert_int_equal(page_now(space, base[node]).node, node);
        for (unsigned i = 0; i < 40; i++)
            age_set(space, base[node] + i * PAGE, node == 0 ? PTE_AGE_MAX : 200);
    }
    shortage_make(scene, 1, 10);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(step(scene, 1, 0), 10);
    assert_int_equal(valid_pages(space, base[0], 40), 40);
    assert_int_equal(valid_pages(space, base[1], 40), 30);
    scene_close(scene);
}

/* ---- whose ------------------------------------------------------------------------------------------------------ */

/* Spaces of pages of one age give in the order of their claims, and no more than is needed. */
static void of_one_age_the_largest_set_gives_first(void **state)
{
    static const unsigned pages[3] = { 40, 80, 60 };
    struct scene *scene = *state;
    tide_address base[3];
    tide_space *spaces[3];

    scene_open(scene, 512, 256);
    for (unsigned i = 0; i < 3; i++) {
        spaces[i] = space_aged(scene, &base[i], pages[i], PTE_AGE_MAX);
        limits_set(spaces[i], 20, 0);
    }
    shortage_make(scene, 0, 70);
    assert_int_equal(step(scene, 0, 0), 70);
    assert_int_equal(valid_pages(spaces[1], base[1], 80), 20); /* down to its minimum, */
    assert_int_equal(valid_pages(spaces[2], base[2], 60), 50); /* then the next */
    assert_int_equal(valid_pages(spaces[0], base[0], 40), 40);
    scene_close(scene);
}

/* A small set that is long idle goes before a large one in use. */
static void idle_pages_go_before_those_of_a_larger_set(void **state)
{
    struct scene *scene = *state;
    tide_address base[2];

    scene_open(scene, 512, 256);
    tide_space *large = space_aged(scene, &base[0], 100, 100);
    tide_space *idle = space_aged(scene, &base[1], 50, 200);
    limits_set(idle, 20, 0);
    shortage_make(scene, 0, 30);
    assert_int_equal(step(scene, 0, 0), 30);
    assert_int_equal(valid_pages(idle, base[1], 50), 20);
    assert_int_equal(valid_pages(large, base[0], 100), 100);
    scene_close(scene);
}

static void background_gives_before_foreground(void **state)
{
    struct scene *scene = *state;
    tide_address base[3];
    tide_space *spaces[3];

    /* The one in background mode is the smallest, its pages are younger, and of the same priority. */
    scene_open(scene, 512, 256);
    for (unsigned i = 0; i < 3; i++)
        spaces[i] = space_aged(scene, &base[i], i == 1 ? 40 : 60, i == 1 ? 100 : 120);
    assert_status(tide_space_background_begin(spaces[1]), TIDE_SUCCESS);
    shortage_make(scene, 0, 20);
    limits_set(spaces[1], 20, 0);
    assert_int_equal(step(scene, 0, 0), 20);
    assert_int_equal(valid_pages(spaces[1], base[1], 40), 20);
    assert_int_equal(valid_pages(spaces[0], base[0], 60), 60);
    assert_int_equal(valid_pages(spaces[2], base[2], 60), 60);
    assert_status(tide_space_background_end(spaces[1]), TIDE_SUCCESS);
    scene_close(scene);
}

/* At the highest age, where it adds nothing, the mode decides all the same. */
static void background_gives_first_among_the_oldest(void **state)
{
    struct scene *scene = *state;
    tide_address base[2];

    scene_open(scene, 512, 256);
    tide_space *large = space_aged(scene, &base[0], 100, PTE_AGE_MAX);
    tide_space *background = space_aged(scene, &base[1], 40, PTE_AGE_MAX);
    limits_set(background, 20, 0);
    assert_status(tide_space_background_begin(background), TIDE_SUCCESS);
    shortage_make(scene, 0, 20);
    assert_int_equal(step(scene, 0, 0), 20);
    assert_int_equal(valid_pages(background, base[1], 40), 20);
    assert_int_equal(valid_pages(large, base[0], 100), 100);
    scene_close(scene);
}

static void of_one_age_low_priority_goes_first(void **state)
{
    static const unsigned priorities[4] = { 5, 1, 3, 1 };
    struct scene *scene = *state;

    scene_open(scene, 512, 256);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 80);
    for (unsigned i = 0; i < 80; i++) {
        assert_status(tide_thread_set_priority(scene->engine, priorities[i % 4]), TIDE_SUCCESS);
        stamp(space, base + i * PAGE, 1);
    }
    assert_status(tide_thread_set_priority(scene->engine, TIDE_PRIORITY_DEFAULT), TIDE_SUCCESS);
    /* Age counts for more: the first eight pages are younger, whatever their priority. */
    for (unsigned i = 0; i < 80; i++)
        age_set(space, base + i * PAGE, i < 8 ? 100 : 150);
    limits_set(space, 20, 0);
    shortage_make(scene, 0, 46);
    assert_int_equal(step(scene, 0, 0), 46);
    unsigned valid[6] = { 0 };
    for (unsigned i = 8; i < 80; i++)
        valid[priorities[i % 4]] += pte_is_valid(pte_load(pte_at(space, base + i * PAGE)));
    assert_int_equal(valid_pages(space, base, 8), 8);
    assert_int_equal(valid[1], 0);
    assert_int_equal(valid[3], 18 - 10);
    assert_int_equal(valid[5], 18);
    scene_close(scene);
}

/* Locked pages and large ones stay through every kind of trim, are not aged, and locked ones count in the set. */
static void WS_5_fixed_pages_stay_through_every_trim(void **state)
{
    static const uint64_t marks[2] = { PTE_LOCKED, PTE_LARGE };
    struct scene *scene = *state;
    tide_address base;
    uint64_t trimmed;

    scene_open(scene, 256, 128);
    tide_space *space = space_aged(scene, &base, 60, PTE_AGE_MAX - 1);
    for (unsigned i = 0; i < 20; i++)
        sync_store_64(pte_at(space, base + 3 * i * PAGE), *pte_at(space, base + 3 * i * PAGE) | marks[i % 2]);
    /* Demand: more than can be had, below the minimum too. */
    shortage_make(scene, 0, 50);
    assert_int_equal(step(scene, 0, 0), 40);
    assert_int_equal(step(scene, 0, 0), 0);
    for (unsigned i = 0; i < 60; i++)
        assert_int_equal(pte_is_valid(pte_load(pte_at(space, base + i * PAGE))), i % 3 == 0);
    /* Request. */
    assert_status(tide_working_set_trim(space, 60, &trimmed), TIDE_SUCCESS);
    assert_int_equal(trimmed, 0);
    assert_status(tide_working_set_empty(space), TIDE_SUCCESS);
    assert_status(tide_working_set_set_limits(space, UINT64_MAX, UINT64_MAX, 0), TIDE_SUCCESS);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_WORKING_SETS), TIDE_SUCCESS);
    assert_int_equal(valid_pages(space, base, 60), 20);
    assert_int_equal(space_working_set_pages(space), 20);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(pte_age(pte_load(pte_at(space, base + 3 * i * PAGE))), PTE_AGE_MAX - 1);
    /* From here on all are locked: the counters leave out what is really a large page. */
    for (unsigned i = 0; i < 20; i++)
        sync_store_64(pte_at(space, base + 3 * i * PAGE),
                      (*pte_at(space, base + 3 * i * PAGE) & ~PTE_LARGE) | PTE_LOCKED);
    assert_status(lock_quota_take(space, 20), TIDE_SUCCESS);
    /* Replacement at a hard maximum, and the maximum being made hard: the others go; without any, the page comes in. */
    scene->frames->nodes[0].low = 0;
    assert_status(tide_working_set_set_limits(space, 20, 30, TIDE_WORKING_SET_HARD_MAXIMUM), TIDE_SUCCESS);
    for (unsigned i = 0; i < 60; i++)
        if (i % 3 != 0)
            touch(space, base + i * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(space_working_set_pages(space), 30);
    assert_status(tide_working_set_set_limits(space, 13, 13, 0), TIDE_SUCCESS);
    assert_int_equal(space_working_set_pages(space), 20);
    touch(space, base + PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    touch(space, base + 2 * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(space_working_set_pages(space), 21);
    scene_verify(scene);
    for (unsigned i = 0; i < 20; i++)
        assert_true(pte_is_valid(pte_load(pte_at(space, base + 3 * i * PAGE))));
    /* A change of protection keeps the marks; unlocked, they go like others and the maximum holds again. */
    uint64_t bytes = 60 * PAGE;
    tide_address again = base;
    assert_status(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t *pte = pte_at(space, base + 3 * i * PAGE);
        assert_true(*pte & PTE_LOCKED);
        sync_store_64(pte, *pte & ~PTE_LOCKED);
    }
    lock_quota_return(space, 20);
    touch(space, base + 4 * PAGE, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(space_working_set_pages(space), 13);
    check_stamps(space, base, 60);
    scene_close(scene);
}

/* Under pressure a set ages by the pages that were taken, however often the trimmer looks. */
static void pressure_ages_by_what_it_took(void **state)
{
    enum { MUCH = 20 };
    struct scene *scene = *state;
    struct frames_node *node;
    tide_address base;

    scene_open(scene, 512, 256);
    node = &scene->frames->nodes[0];
    tide_space *space = space_aged(scene, &base, 200, 200);
    limits_set(space, 20, 0);
    age_set(space, base, 10);
    shortage_make(scene, 0, 150);
    node->high += MUCH;
    assert_int_equal(step(scene, 0, 1), 1); /* the first time it ages at once */
    const unsigned aged = pte_age(pte_load(pte_at(space, base)));
    assert_true(aged > 10);
    for (unsigned i = 1; i < MUCH; i++)
        assert_int_equal(step(scene, 0, 1), 1);
    assert_int_equal(pte_age(pte_load(pte_at(space, base))), aged);
    assert_int_equal(step(scene, 0, 1), 1);
    assert_true(pte_age(pte_load(pte_at(space, base))) > aged);
    scene_close(scene);
}

/* ---- minimums --------------------------------------------------------------------------------------------------- */

static void sets_at_their_minimum_give_only_what_others_cannot(void **state)
{
    struct scene *scene = *state;
    tide_address base[3];
    tide_space *spaces[3];

    scene_open(scene, 512, 256);
    /* One in front of the large set in the list of spaces, and one behind. */
    for (unsigned i = 0; i < 3; i++) {
        spaces[i] = space_aged(scene, &base[i], i == 1 ? 60 : 30, 100);
        limits_set(spaces[i], i == 1 ? 20 : 30, 0);
    }
    shortage_make(scene, 0, 25);
    assert_int_equal(step(scene, 0, 0), 25);
    assert_int_equal(valid_pages(spaces[0], base[0], 30), 30);
    assert_int_equal(valid_pages(spaces[1], base[1], 60), 35);
    assert_int_equal(valid_pages(spaces[2], base[2], 30), 30);
    shortage_make(scene, 0, 25);
    assert_int_equal(step(scene, 0, 0), 25);
    const uint64_t left =
        valid_pages(spaces[0], base[0], 30) + valid_pages(spaces[1], base[1], 60) + valid_pages(spaces[2], base[2], 30);
    assert_int_equal(left, 70);
    assert_true(valid_pages(spaces[1], base[1], 60) <= 20);
    scene_close(scene);
}

static void a_soft_minimum_gives_way_and_a_hard_one_never(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 256, 128);
    tide_space *space = space_aged(scene, &base, 64, 100);
    limits_set(space, 24, TIDE_WORKING_SET_HARD_MINIMUM);
    shortage_make(scene, 0, 50);
    assert_int_equal(step(scene, 0, 0), 40);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(valid_pages(space, base, 64), 24);
    limits_set(space, 24, TIDE_WORKING_SET_SOFT_MINIMUM);
    assert_int_equal(step(scene, 0, 0), 10);
    assert_int_equal(valid_pages(space, base, 64), 14);
    scene_close(scene);
}

/* ---- full page files -------------------------------------------------------------------------------------------- */

static void dirty_pages_stay_when_the_page_files_are_full(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, 128, 4);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 24);
    limits_set(space, 20, 0);
    stamp(space, base, 4);
    page_out(scene, space);
    check_stamps(space, base, 4); /* clean */
    stamp(space, base + 4 * PAGE, 20);
    for (unsigned i = 0; i < 24; i++)
        age_set(space, base + i * PAGE, i < 4 ? 1 : 200);
    assert_int_equal(slots_used(scene), 4);
    shortage_make(scene, 0, 10);
    assert_int_equal(step(scene, 0, 0), 4);
    assert_int_equal(valid_pages(space, base, 4), 0);
    assert_int_equal(valid_pages(space, base + 4 * PAGE, 20), 20);
    assert_int_equal(step(scene, 0, 0), 0);
    scene_close(scene);
}

/* Slots that cannot be written are no room either. */
static void bad_slots_count_as_full(void **state)
{
    struct scene *scene = *state;
    struct stores_slot slot;
    tide_address base;

    scene_open(scene, 128, 8);
    tide_space *space = space_aged(scene, &base, 40, 200);
    shortage_make(scene, 0, 10);
    const unsigned got = stores_slots_allocate(scene->partition->stores, 8, 0, &slot);
    assert_int_equal(got, 8);
    for (unsigned i = 0; i < got; i++)
        stores_slot_mark_bad(scene->partition->stores, (struct stores_slot){ 0, slot.slot + i });
    commit_limit_lower(&scene->partition->commit, got);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(valid_pages(space, base, 40), 40);
    scene_close(scene);
}

static void dirty_pages_stay_when_there_is_no_page_file(void **state)
{
    struct scene *scene = *state;
    tide_address base;

    scene_open(scene, 128, 0);
    tide_space *space = space_aged(scene, &base, 40, 200);
    shortage_make(scene, 0, 10);
    assert_int_equal(step(scene, 0, 0), 0);
    assert_int_equal(valid_pages(space, base, 40), 40);
    scene_close(scene);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(pages_age_once_a_period),
        SCENE_TEST(nothing_goes_without_a_shortage),
        SCENE_TEST(what_the_writer_will_bring_counts),
        SCENE_TEST(the_oldest_go_first_and_no_more_than_needed),
        SCENE_TEST(used_pages_stay_while_unused_ones_are_there),
        SCENE_TEST(a_step_keeps_its_budget),
        SCENE_TEST(only_pages_of_the_node_go),
        SCENE_TEST(of_one_age_the_largest_set_gives_first),
        SCENE_TEST(idle_pages_go_before_those_of_a_larger_set),
        SCENE_TEST(background_gives_before_foreground),
        SCENE_TEST(background_gives_first_among_the_oldest),
        SCENE_TEST(of_one_age_low_priority_goes_first),
        SCENE_TEST(WS_5_fixed_pages_stay_through_every_trim),
        SCENE_TEST(pressure_ages_by_what_it_took),
        SCENE_TEST(sets_at_their_minimum_give_only_what_others_cannot),
        SCENE_TEST(a_soft_minimum_gives_way_and_a_hard_one_never),
        SCENE_TEST(dirty_pages_stay_when_the_page_files_are_full),
        SCENE_TEST(bad_slots_count_as_full),
        SCENE_TEST(dirty_pages_stay_when_there_is_no_page_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Faults that meet others: collisions, and regions that go away under a fault.
 *
 * The second kind is made exact by sync_point_hook, which builds with TIDE_SYNC_POINTS call before each atomic operation
 * (debug and the sanitizers): at a chosen operation of the fault the test releases the region, on the same thread, as
 * another thread would that ran just then. Other builds skip these.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>

enum { FRAMES = 256, SLOTS = 64 };

/* ---- collisions ------------------------------------------------------------------------------------------------- */

static void many_faults_on_a_page_are_one_read(void **state)
{
    enum { THREADS = 4 };
    struct scene *scene = *state;
    struct helper helpers[THREADS];
    unsigned hard = 0, soft = 0;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 1);
    stamp(space, base, 1);
    page_out(scene, space);
    device_hold(&scene->device, TIDE_IO_READ, true);
    for (unsigned i = 0; i < THREADS; i++) {
        helpers[i] = (struct helper){ .scene = scene, .space = space, .address = base + i };
        helper_start(&helpers[i]);
    }
    device_wait_held(&scene->device, TIDE_IO_READ);
    while (faults_of(space).collided < THREADS - 1)
        sched_yield();
    device_hold(&scene->device, TIDE_IO_READ, false);
    for (unsigned i = 0; i < THREADS; i++) {
        helper_join(&helpers[i]);
        hard += helpers[i].status == TIDE_PAGE_FAULT_PAGING_FILE;
        soft += helpers[i].status == TIDE_PAGE_FAULT_TRANSITION;
    }
    assert_int_equal(hard, 1);
    assert_int_equal(soft, THREADS - 1);
    const tide_fault_counters faults = faults_of(space);
    assert_int_equal(faults.hard, 1);
    assert_int_equal(faults.collided, THREADS - 1);
    assert_int_equal(faults.transition, 0);
    assert_int_equal(statistics_now(scene).page_reads, 1);
    check_stamps(space, base, 1);
    scene_close(scene);
}

/* Woken for nothing, the waiter looks again and waits again: still one collision. */
static void a_collision_is_counted_once_however_often_it_waits(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 1);
    stamp(space, base, 1);
    page_out(scene, space);
    struct helper reader = { .scene = scene, .space = space, .address = base }, other = reader;
    uint64_t *pte = pte_at(space, base);
    device_hold(&scene->device, TIDE_IO_READ, true);
    helper_start(&reader);
    device_wait_held(&scene->device, TIDE_IO_READ);
    helper_start(&other);
    for (unsigned i = 0; i < 5; i++) {
        wait_until_waited_for(pte);
        assert_int_equal(faults_of(space).collided, 1);
        /* The mark goes, and comes back when the waiter has been round. */
        sync_store_64(pte, *pte & ~PTE_WAITED);
        pte_wake(scene->partition->waits, pte);
    }
    wait_until_waited_for(pte);
    assert_int_equal(faults_of(space).collided, 1);
    device_hold(&scene->device, TIDE_IO_READ, false);
    helper_join(&reader);
    helper_join(&other);
    assert_status(reader.status, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_status(other.status, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(faults_of(space).collided, 1);
    scene_close(scene);
}

static void waiting_for_a_claim_that_is_no_read_is_no_collision(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 1);
    stamp(space, base, 1);
    struct helper helper = { .scene = scene, .space = space, .address = base };
    uint64_t *pte = pte_at(space, base);
    const pte_t seen = pte_load(pte);
    /* As the trimmer does for a moment. */
    assert_true(pte_cas(pte, seen, pte_busy_form(seen)));
    helper_start(&helper);
    wait_until_waited_for(pte);
    pte_release(scene->partition->waits, pte, seen);
    helper_join(&helper);
    assert_status(helper.status, TIDE_SUCCESS);
    assert_int_equal(faults_of(space).collided, 0);
    assert_int_equal(faults_of(space).page_faults, 1);
    scene_close(scene);
}

/* ---- what a fault undoes ---------------------------------------------------------------------------------------- */

static void tables_beyond_the_charge_are_charged(void **state)
{
    struct scene *scene = *state;
    unsigned made = 0;

    scene_open(scene, FRAMES, 0);
    tide_space *space = space_new(scene);
    struct grace_thread *thread = engine_thread(scene->engine);
    const uint64_t charge = statistics_now(scene).commit_total_pages;
    assert_int_equal(space->tables_charged, 1); /* the root */
    grace_enter(thread);
    assert_non_null(page_table_make(&space->table, 1ull << 30, 0, &made));
    grace_leave(thread);
    assert_int_equal(made, 3);
    region_tables_charge(space, made);
    assert_int_equal(space->tables_charged, 4);
    assert_int_equal(statistics_now(scene).commit_total_pages, charge + 3);
    scene_close(scene);
}

#ifdef TIDE_SYNC_POINTS
/* At the `skip`-th next operation of this thread on a word of [from, to) the region goes. */
static struct {
    const char *from, *to;
    unsigned skip;
    tide_space *space;
    tide_address base;
    uint64_t bytes; /* to decommit; 0: the region is released */
    bool recommit;  /* and committed and touched again */
    tide_status status;
} ambush;

static void ambush_hook(const void *address)
{
    if (ambush.space == NULL || (const char *)address < ambush.from || (const char *)address >= ambush.to)
        return;
    if (ambush.skip-- != 0)
        return;
    tide_space *space = ambush.space;
    ambush.space = NULL;
    ambush.status = tide_virtual_free(space, ambush.base, ambush.bytes,
                                      ambush.bytes == 0 ? TIDE_MEM_RELEASE : TIDE_MEM_DECOMMIT);
    if (ambush.recommit && ambush.status == TIDE_SUCCESS) {
        ambush.status = tide_virtual_alloc(space, &ambush.base, &ambush.bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
        if (ambush.status == TIDE_SUCCESS)
            ambush.status = tide_write(space, ambush.base, "new", 4);
    }
}

/* One fault with the ambush set. Returns its status; the ambush must have sprung. */
static tide_status ambushed_touch(const void *word, size_t bytes, unsigned skip, tide_space *space, tide_address base,
                                  uint64_t decommitted, bool recommit)
{
    ambush.from = word;
    ambush.to = ambush.from + bytes;
    ambush.skip = skip;
    ambush.base = base;
    ambush.bytes = decommitted;
    ambush.recommit = recommit;
    ambush.status = TIDE_INVARIANT_VIOLATED;
    ambush.space = space;
    sync_point_hook = ambush_hook;
    const tide_status status = tide_touch(space, base, TIDE_ACCESS_WRITE);
    sync_point_hook = NULL;
    ambush.space = NULL;
    assert_status(ambush.status, TIDE_SUCCESS);
    return status;
}

/* The table is there (another region lies in it); the fault looks at the PTE, then puts its page there. */
static void a_fault_leaves_nothing_in_a_region_that_went_away(void **state)
{
    struct scene *scene = *state;

    for (unsigned released = 0; released < 2; released++) {
        scene_open(scene, FRAMES, SLOTS);
        tide_space *space = space_new(scene);
        const tide_address base = region_new(space, 16, 16), neighbour = region_new(space, 32, 16);
        stamp(space, neighbour, 1);
        uint64_t *pte = pte_at(space, base);
        const uint64_t available = counts_now(scene).available;
        assert_int_equal(*pte, 0);
        /* Operations on the PTE: the access path's look, the fault's look, the swap. */
        assert_status(ambushed_touch(pte, sizeof *pte, 2, space, base, released ? 0 : 16 * PAGE, false),
                      TIDE_ACCESS_VIOLATION);
        assert_int_equal(*pte, 0);
        assert_int_equal(counts_now(scene).available, available);
        assert_int_equal(space_working_set_pages(space), 1);
        scene_close(scene);
    }
}

/* After the swap, before the fault looks again at the region: what is in the PTE by then is another page. */
static void a_fault_leaves_alone_what_came_after_it(void **state)
{
    struct scene *scene = *state;
    char text[4];

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16), neighbour = region_new(space, 32, 16);
    stamp(space, neighbour, 1);
    struct grace_thread *thread = engine_thread(scene->engine);
    grace_enter(thread);
    struct vad *vad = vad_find(&space->vads, base / PAGE);
    grace_leave(thread);
    assert_non_null(vad);
    /* Recommitted as before: the region looks the same again, and the fault's own page is gone. */
    const tide_status status =
        ambushed_touch(&vad->commit_state, sizeof vad->commit_state, 1, space, base, 16 * PAGE, true);
    assert_status(status, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_status(tide_read(space, base, text, sizeof text), TIDE_SUCCESS);
    assert_string_equal(text, "new");
    assert_int_equal(space_working_set_pages(space), 2);
    scene_close(scene);
}

/* No table is there; the region goes just before the fault makes them. */
static void tables_of_a_fault_that_came_too_late_are_charged(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const uint64_t charge = statistics_now(scene).commit_total_pages;
    const tide_address base = region_new(space, 16, 16);
    /* Operations on the root: the access path's look, the fault's look, then the making. */
    assert_status(ambushed_touch(space->table.root, PAGE, 2, space, base, 0, false), TIDE_ACCESS_VIOLATION);
    assert_int_equal(space->table.table_pages, 4);
    assert_int_equal(space->tables_promised, 0);
    assert_int_equal(space->tables_charged, 4);
    assert_int_equal(statistics_now(scene).commit_total_pages, charge + 3);
    scene_close(scene);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCENE_TEST(many_faults_on_a_page_are_one_read),
        SCENE_TEST(a_collision_is_counted_once_however_often_it_waits),
        SCENE_TEST(waiting_for_a_claim_that_is_no_read_is_no_collision),
        SCENE_TEST(tables_beyond_the_charge_are_charged),
#ifdef TIDE_SYNC_POINTS
        SCENE_TEST(a_fault_leaves_nothing_in_a_region_that_went_away),
        SCENE_TEST(a_fault_leaves_alone_what_came_after_it),
        SCENE_TEST(tables_of_a_fault_that_came_too_late_are_charged),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

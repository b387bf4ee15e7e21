/*
 * Faults that meet others: collisions, and regions that go away under a fault.
 *
 * The second kind is made exact by sync_point_hook, which builds with TIDE_SYNC_POINTS (debug and the sanitizers) call
 * before each atomic operation: at a chosen operation of the fault the test takes the region away, as another thread
 * would that ran just then. Other builds do without these tests.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "faults/fault.h"

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

/* ---- regions that go away --------------------------------------------------------------------------------------- */

static void tables_beyond_the_charge_are_charged(void **state)
{
    struct scene *scene = *state;
    unsigned made = 0;

    scene_open(scene, FRAMES, 0);
    tide_space *space = space_new(scene);
    struct grace_thread *thread = engine_thread(scene->engine);
    struct commit *commit = &scene->partition->commit;
    const uint64_t charge = commit_total(commit), charged = space->tables_charged;
    const uint64_t spare = sync_load_64(&commit->limit) - charge;
    /* Beyond the limit, too: the tables are there. */
    commit_limit_lower(commit, spare);
    grace_enter(thread);
    assert_non_null(page_table_make(&space->table, 1ull << 30, 0, &made));
    grace_leave(thread);
    assert_int_equal(made, 3);
    region_tables_charge(space, made);
    assert_int_equal(space->tables_charged, charged + 3);
    assert_int_equal(commit_total(commit), charge + 3);
    commit_limit_raise(commit, spare);
    commit_maximum_raise(commit, spare);
    scene_close(scene);
}

#ifdef TIDE_SYNC_POINTS
enum ambush_deed {
    AMBUSH_RELEASE,     /* the region goes */
    AMBUSH_DECOMMIT,    /* its pages go */
    AMBUSH_RENEW,       /* it goes, and another comes at its place */
    AMBUSH_DECOMMITTER, /* another thread decommits and has to wait for this one's claim */
    AMBUSH_WATCH_FRESH, /* a region with write watch comes behind it, of which nothing was touched */
    AMBUSH_WATCH /* a region with write watch comes behind it, and a page of it is written, trimmed and reported */
};

/* What happens before an operation of this thread on a word of [from, to), after `skip` that are let pass. */
static _Thread_local struct ambush {
    const char *from, *to;
    unsigned skip;
    enum ambush_deed deed;
    tide_space *space; /* NULL: no ambush */
    tide_address base;
    uint64_t pages;
    bool sprung;
    tide_status status;
    pthread_t decommitter;
} ambush;

static void *decommitter_main(void *context)
{
    struct ambush *of = context;

    of->status = tide_virtual_free(of->space, of->base, of->pages * PAGE, TIDE_MEM_DECOMMIT);
    return NULL;
}

/* So many pages of a watched region are reported. */
static uint64_t reported(tide_space *space, tide_address base)
{
    tide_address pages[16];
    uint64_t count = 16;

    if (tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, 16 * PAGE, pages, &count, NULL) != TIDE_SUCCESS)
        return UINT64_MAX;
    return count;
}

static tide_status watched_region(tide_space *space, tide_address base)
{
    const uint64_t word = 1;
    uint64_t bytes = 16 * PAGE;
    tide_address at = base;
    tide_status status = tide_virtual_alloc(
        space, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH, TIDE_PAGE_READWRITE);

    if (status == TIDE_SUCCESS)
        status = tide_write(space, base, &word, sizeof word);
    if (!tide_failed(status))
        status = tide_working_set_empty(space);
    return !tide_failed(status) && reported(space, base) == 1 ? TIDE_SUCCESS : TIDE_INVARIANT_VIOLATED;
}

/* Committed in parts, so that the pages say so themselves. */
static tide_status committed_in_parts(tide_space *space, tide_address base, uint32_t type)
{
    uint64_t bytes = 16 * PAGE;
    tide_status status = tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | type, TIDE_PAGE_READWRITE);

    for (unsigned i = 0; i < 2 && status == TIDE_SUCCESS; i++) {
        tide_address part = base + i * 8 * PAGE;

        bytes = 8 * PAGE;
        status = tide_virtual_alloc(space, &part, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
    }
    return status;
}

static void ambush_hook(const void *address)
{
    if (ambush.space == NULL || ambush.sprung || (const char *)address < ambush.from ||
        (const char *)address >= ambush.to || ambush.skip-- != 0)
        return;
    ambush.sprung = true;
    if (ambush.deed == AMBUSH_DECOMMITTER) {
        const uint64_t *pte = page_table_find(&ambush.space->table, ambush.base / PAGE);

        if (pthread_create(&ambush.decommitter, NULL, decommitter_main, &ambush) == 0)
            wait_until_waited_for(pte);
        return;
    }
    if (ambush.deed == AMBUSH_WATCH_FRESH) {
        ambush.status = committed_in_parts(ambush.space, ambush.base + ambush.pages * PAGE, TIDE_MEM_WRITE_WATCH);
        return;
    }
    if (ambush.deed == AMBUSH_WATCH) {
        ambush.status = watched_region(ambush.space, ambush.base + ambush.pages * PAGE);
        return;
    }
    const bool release = ambush.deed != AMBUSH_DECOMMIT;
    ambush.status = tide_virtual_free(ambush.space, ambush.base, release ? 0 : ambush.pages * PAGE,
                                      release ? TIDE_MEM_RELEASE : TIDE_MEM_DECOMMIT);
    if (ambush.deed == AMBUSH_RENEW && ambush.status == TIDE_SUCCESS) {
        uint64_t bytes = ambush.pages * PAGE;
        ambush.status = tide_virtual_alloc(ambush.space, &ambush.base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                           TIDE_PAGE_READWRITE);
    }
}

/*
 * A fault for writing on one of 16 pages, ambushed. Returns its status. The fault is called as the engine's
 * access functions do, whose own looks at the PTE are not counted.
 */
static tide_status ambushed_fault(struct scene *scene, enum ambush_deed deed, const void *word, size_t bytes,
                                  unsigned skip, tide_space *space, tide_address base, unsigned page)
{
    struct grace_thread *thread = engine_thread(scene->engine);
    pte_t valid;

    ambush = (struct ambush){ .from = word,
                              .to = (const char *)word + bytes,
                              .skip = skip,
                              .deed = deed,
                              .space = space,
                              .base = base,
                              .pages = 16,
                              .status = TIDE_INVARIANT_VIOLATED };
    sync_point_hook_set(ambush_hook);
    grace_enter(thread);
    const tide_status status = fault_resolve(space, thread, base + page * PAGE, TIDE_ACCESS_WRITE, &valid);
    grace_leave(thread);
    assert_true(ambush.sprung);
    if (deed == AMBUSH_DECOMMITTER)
        assert_int_equal(pthread_join(ambush.decommitter, NULL), 0);
    sync_point_hook_set(NULL);
    ambush.space = NULL;
    assert_status(ambush.status, TIDE_SUCCESS);
    return status;
}

/*
 * The table is there, since another region lies in it. The region goes between the fault's look at the PTE and its
 * swap.
 */
static void a_fault_leaves_nothing_in_a_region_that_went_away(void **state)
{
    static const enum ambush_deed deeds[] = { AMBUSH_RELEASE, AMBUSH_DECOMMIT };
    struct scene *scene = *state;

    for (unsigned i = 0; i < 2; i++) {
        scene_open(scene, FRAMES, SLOTS);
        tide_space *space = space_new(scene);
        const tide_address base = region_new(space, 16, 16), neighbour = region_new(space, 32, 16);
        stamp(space, neighbour, 1);
        uint64_t *pte = pte_at(space, base);
        const uint64_t available = counts_now(scene).available;
        assert_status(ambushed_fault(scene, deeds[i], pte, sizeof *pte, 1, space, base, 0), TIDE_ACCESS_VIOLATION);
        assert_int_equal(*pte, 0);
        assert_int_equal(counts_now(scene).available, available);
        assert_int_equal(space_working_set_pages(space), 1);
        assert_int_equal(faults_of(space).demand_zero, 1);
        scene_close(scene);
    }
}

/* The fault has claimed the PTE: a decommit waits for what comes of it, and the fault sees that it came. */
static void a_decommit_waits_for_a_claim_and_nothing_is_left(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16), neighbour = region_new(space, 32, 16);
    stamp(space, neighbour, 1);
    struct grace_thread *thread = engine_thread(scene->engine);
    grace_enter(thread);
    const struct vad *vad = vad_find(&space->vads, base / PAGE);
    grace_leave(thread);
    assert_non_null(vad);
    const uint64_t available = counts_now(scene).available;
    assert_status(
        ambushed_fault(scene, AMBUSH_DECOMMITTER, &vad->commit_state, sizeof vad->commit_state, 1, space, base, 0),
        TIDE_ACCESS_VIOLATION);
    assert_int_equal(*pte_at(space, base), 0);
    assert_int_equal(counts_now(scene).available, available);
    assert_int_equal(space_working_set_pages(space), 1);
    scene_close(scene);
}

/* The PTE that the fault found lies in a table that went with the old region; the new region has another. */
static void a_page_is_put_where_the_new_region_looks_for_it(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const tide_address base = region_new(space, 16, 16);
    stamp(space, base + PAGE, 1);
    uint64_t *old = pte_at(space, base);
    assert_status(ambushed_fault(scene, AMBUSH_RENEW, old, sizeof *old, 0, space, base, 0),
                  TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_state(space, base, TIDE_PAGE_STATE_ACTIVE);
    assert_state(space, base + PAGE, TIDE_PAGE_STATE_DEMAND_ZERO);
    touch(space, base, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_int_equal(space_working_set_pages(space), 1);
    scene_close(scene);
}

/* No table is there; the region goes just before the fault makes them. */
static void tables_of_a_fault_that_came_too_late_are_charged(void **state)
{
    struct scene *scene = *state;

    scene_open(scene, FRAMES, SLOTS);
    tide_space *space = space_new(scene);
    const uint64_t charge = statistics_now(scene).commit_total_pages, tables = space->table.table_pages;
    const tide_address base = region_new(space, 16, 16);
    /* Two looks for the PTE, then the making. */
    assert_status(ambushed_fault(scene, AMBUSH_RELEASE, space->table.root, PAGE, 2, space, base, 0),
                  TIDE_ACCESS_VIOLATION);
    assert_int_equal(space->table.table_pages, tables + 3);
    assert_int_equal(space->tables_charged, tables + 3);
    assert_int_equal(statistics_now(scene).commit_total_pages, charge + 3);
    scene_close(scene);
}
/*
 * In a mapped space a soft fault in the track of a scan shows the pages that follow. They may be of a region that was
 * not there when the fault asked whether any is watched: a write to one must still be seen.
 */
static void pages_of_a_new_watched_region_are_not_shown_for_writing(void **state)
{
    struct scene *scene = *state;
    const uint64_t word = 2;
    tide_space *space;

    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS)
        skip();
    scene_open(scene, FRAMES, SLOTS);
    assert_status(tide_mapped_space_create(scene->engine, NULL, &space), TIDE_SUCCESS);
    tide_address base = 0;
    uint64_t bytes = 16 * PAGE;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_SUCCESS);
    for (unsigned i = 0; i < 16; i++)
        assert_false(tide_failed(tide_write(space, base + i * PAGE, &word, sizeof word)));
    assert_status(tide_working_set_empty(space), TIDE_SUCCESS);
    for (unsigned i = 15; i-- > 0;) /* downwards: nothing follows */
        assert_status(tide_touch(space, base + i * PAGE, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    const uint64_t *follower = pte_at(space, base + 16 * PAGE);
    (void)ambushed_fault(scene, AMBUSH_WATCH, follower, sizeof *follower, 0, space, base, 15);
    assert_false(tide_failed(tide_write(space, base + 16 * PAGE, &word, sizeof word)));
    assert_int_equal(reported(space, base + 16 * PAGE), 1);
    assert_status(tide_space_destroy(space), TIDE_SUCCESS);
    scene_close(scene);
}

/* The same of fresh pages, which come with the faulting one. */
static void fresh_pages_of_a_new_watched_region_are_not_for_writing(void **state)
{
    struct scene *scene = *state;
    const uint64_t word = 2;
    tide_space *space;

    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS)
        skip();
    scene_open(scene, FRAMES, SLOTS);
    assert_status(tide_mapped_space_create(scene->engine, NULL, &space), TIDE_SUCCESS);
    tide_address base = 0, highest = 0;
    assert_status(tide_space_range(space, &base, &highest), TIDE_SUCCESS);
    assert_status(committed_in_parts(space, base, 0), TIDE_SUCCESS);
    for (unsigned i = 15; i-- > 0;) /* downwards, and nothing beside them */
        if (page_now(space, base + i * PAGE).state != TIDE_PAGE_STATE_ACTIVE)
            assert_false(tide_failed(tide_touch(space, base + i * PAGE, TIDE_ACCESS_WRITE)));
    const uint64_t *follower = pte_at(space, base + 16 * PAGE);
    assert_status(ambushed_fault(scene, AMBUSH_WATCH_FRESH, follower, sizeof *follower, 0, space, base, 15),
                  TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_false(tide_failed(tide_write(space, base + 16 * PAGE, &word, sizeof word)));
    assert_int_equal(reported(space, base + 16 * PAGE), 1);
    assert_status(tide_space_destroy(space), TIDE_SUCCESS);
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
        SCENE_TEST(a_decommit_waits_for_a_claim_and_nothing_is_left),
        SCENE_TEST(a_page_is_put_where_the_new_region_looks_for_it),
        SCENE_TEST(tables_of_a_fault_that_came_too_late_are_charged),
        SCENE_TEST(pages_of_a_new_watched_region_are_not_shown_for_writing),
        SCENE_TEST(fresh_pages_of_a_new_watched_region_are_not_for_writing),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Creating and destroying spaces, their counters, and waiting for frames.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"
#include "base/error.h"
#include "base/random.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Bits of randomness in units of 64 KiB: where searches for a free range begin (nt-behaviour 21, high entropy). */
enum { BOTTOM_UP_BITS = 24, TOP_DOWN_BITS = 17 };

/* Sleep between two looks for a frame. Frames that come free signal an event; sections that end do not. */
#define FRAME_WAIT_SLICE_NS 2000000u
/*
 * What a slice counts at most: a process that was stopped for a while, or a machine, has not waited in vain meanwhile.
 */
#define FRAME_WAIT_COUNTED_NS 100000000u
/* How long a fault waits for its own node before it goes to another, where that is the fallback. */
#define SPILL_WAIT_NS 20000000u
/* Looks in a row at which a strict node had nothing, and nothing was coming, before it has nothing. */
#define STRICT_LOOKS 4u

/*
 * Destroyed spaces, to be used again: their memory is never given back to the process, so that the magic of a handle
 * that was destroyed can be read at any time, and is wrong until the memory becomes another space.
 */
static struct sync_lock pool_lock = { .rank = SYNC_RANK_space_pool };
static tide_space *pool; /* [L:space_pool] by `next` */

static tide_space *pool_get(void)
{
    sync_lock(&pool_lock);
    tide_space *space = pool;
    if (space != NULL)
        pool = space->next;
    sync_unlock(&pool_lock);
    if (space == NULL)
        space = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *space);
    if (space != NULL)
        memset(space, 0, sizeof *space);
    return space;
}

/* Its magic is 0. */
static void pool_put(tide_space *space)
{
    sync_lock(&pool_lock);
    space->next = pool;
    pool = space;
    sync_unlock(&pool_lock);
}

uint64_t space_counter(const tide_space *space, enum space_counter counter)
{
    uint64_t sum = 0;

    for (unsigned c = 0; c < space->cpu_count; c++)
        sum += sync_load_relaxed_64(&space->counters[c].values[counter]);
    return sum;
}

/* What every kind of fault brought, on one CPU. */
static uint64_t came_on(const struct space_counters *counters)
{
    const uint64_t *values = counters->values;

    return sync_load_relaxed_64(&values[SPACE_DEMAND_ZERO]) + sync_load_relaxed_64(&values[SPACE_STANDBY]) +
           sync_load_relaxed_64(&values[SPACE_MODIFIED]) + sync_load_relaxed_64(&values[SPACE_WRITE_IN_PROGRESS]) +
           sync_load_relaxed_64(&values[SPACE_HARD]);
}

uint64_t space_pages_came(const tide_space *space)
{
    uint64_t sum = 0;

    for (unsigned c = 0; c < space->cpu_count; c++)
        sum += came_on(&space->counters[c]);
    return sum;
}

uint64_t space_working_set_pages(const tide_space *space)
{
    /* Removals last: what goes in between makes the result too small, never too large. */
    const uint64_t came = space_pages_came(space);
    const uint64_t removed = space_counter(space, SPACE_REMOVED);

    return came > removed ? came - removed : 0;
}

void space_resolved_add(const tide_space *space, uint64_t *by_node)
{
    for (unsigned c = 0; c < space->cpu_count; c++)
        by_node[space->partition->topology->cpu_node[c]] += came_on(&space->counters[c]);
}

void space_peak_update(tide_space *space)
{
    const uint64_t now = space_working_set_pages(space);
    uint64_t peak = sync_load_relaxed_64(&space->working_set.peak);

    while (now > peak && !sync_cas_value_64(&space->working_set.peak, peak, now, &peak))
        ;
}

void space_virtual_peak_update(tide_space *space)
{
    if (space->vads.pages > space->peak_virtual_pages)
        sync_store_relaxed_64(&space->peak_virtual_pages, space->vads.pages);
}

/* Random starts of the searches for free ranges, from the engine's seed and the number of the space. */
static void starts_choose(tide_space *space, uint64_t seed)
{
    const uint64_t random = random_mix(seed + space->id * 0x9E3779B97F4A7C15ull);

    space->bottom_up_start = space->lowest_page;
    space->top_down_start = space->highest_page;
    /* Where a window lies is for the system to say, which has its own randomness. */
    if (seed != 0 && space->mapping == NULL) {
        space->bottom_up_start += (random & ((1u << BOTTOM_UP_BITS) - 1)) * VAD_UNIT_PAGES;
        space->top_down_start -= (random >> (64 - TOP_DOWN_BITS)) * VAD_UNIT_PAGES;
    }
}

static void mapping_end(tide_space *space)
{
    if (space->mapping == NULL)
        return;
    mapping_destroy(space->mapping);
    space->mapping = NULL;
    (void)sync_add_32(&space_frames(space)->grace.mapped, (uint32_t)-1);
}

tide_status space_create(struct partition *partition, struct grace_thread *thread, const tide_mapped_options *mapped,
                         tide_space **out)
{
    const unsigned cpus = partition->topology->cpu_count;
    tide_space *space = pool_get();
    struct space_counters *counters = aligned_alloc(SYNC_CACHE_LINE_BYTES, cpus * sizeof *counters);
    const unsigned node = partition_thread_node(partition, thread);
    struct frame_wait wait = { 0 };
    bool charged = false;
    tide_status status;

    if (space == NULL || counters == NULL) {
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for a space of %zu bytes",
                           sizeof *space + cpus * sizeof *counters);
        goto out;
    }
    memset(counters, 0, cpus * sizeof *counters);
    status = commit_init(&space->commit, TIDE_NO_COMMIT_LIMIT, cpus);
    if (tide_failed(status))
        goto out;
    space->partition = partition;
    space->lowest_page = TIDE_LOWEST_ADDRESS / TIDE_PAGE_BYTES;
    space->highest_page = TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES;
    if (mapped != NULL) {
        status = mapping_create(mapped, partition->waits, space, &space->mapping);
        if (tide_failed(status))
            goto out;
        (void)sync_add_32(&partition->frames->grace.mapped, 1);
        space->lowest_page = space->mapping->first_page;
        space->highest_page = space->mapping->first_page + space->mapping->pages - 1;
        space->cluster_most = mapped->cluster_pages;
    }
    space->counters = counters;
    space->cpu_count = cpus;
    space->priority = TIDE_PRIORITY_NORMAL;
    space_placement_set(space, placement_none());
    space->commit_limit = TIDE_NO_COMMIT_LIMIT;
    sync_lock_init(&space->lock, SYNC_RANK_space);
    space->vad_memory = slab_make(sizeof(struct vad));
    working_set_init(space);
    sync_event_init(&space->lock_gate_open);
    status = commit_charge(&partition->commit, 1);
    if (tide_failed(status))
        goto out;
    charged = true;
    for (;;) {
        status = page_table_init(&space->table, partition->frames, node);
        if (status != TIDE_NO_MEMORY)
            break;
        status = space_frame_wait(space, thread, (struct frames_place){ .node = node }, &wait);
        if (tide_failed(status))
            goto out;
    }
    if (space->mapping == NULL)
        page_table_index_make(&space->table); /* without one pointers are slower */
    space->tables_charged = 1;
    sync_lock_init(&space->tables_lock, SYNC_RANK_space_tables);
    sync_lock(&partition->lock);
    space->id = ++partition->next_space_id;
    vad_tree_init(&space->vads, &partition->frames->grace);
    starts_choose(space, partition->aslr_seed);
    space->next = partition->spaces;
    if (space->next != NULL)
        space->next->previous = space;
    partition->spaces = space;
    partition->space_count++;
    sync_unlock(&partition->lock);
    space->magic = SPACE_MAGIC;
    *out = space;
    return TIDE_SUCCESS;
out:
    if (charged)
        commit_return(&partition->commit, 1);
    if (space != NULL) {
        mapping_end(space);
        commit_destroy(&space->commit);
        pool_put(space);
    }
    free(counters);
    return status;
}

void space_destroy(tide_space *space, struct grace_thread *thread)
{
    struct partition *partition = space->partition;
    uint64_t counted[SPACE_COUNTER_COUNT];
    struct vad *vad;

    /* No longer found by the trimmer; a pass that is under way ends before the lock is had. */
    sync_lock(&partition->lock);
    if (space->previous != NULL)
        space->previous->next = space->next;
    else
        partition->spaces = space->next;
    if (space->next != NULL)
        space->next->previous = space->previous;
    partition->space_count--;
    if (space->working_set.flags & TIDE_WORKING_SET_HARD_MINIMUM)
        partition->hard_minimum_pages -= space->working_set.minimum;
    /* What it counted so far is there without a gap for whoever adds up all spaces; the rest follows at the end. */
    for (unsigned c = 0; c < SPACE_COUNTER_COUNT; c++) {
        counted[c] = space_counter(space, (enum space_counter)c);
        partition->retired.values[c] += counted[c];
    }
    space_resolved_add(space, partition->retired_resolved);
    sync_unlock(&partition->lock);
    while ((vad = vad_first(&space->vads)) != NULL)
        ASSERT_ALWAYS(region_free(space, thread, vad->first_page * TIDE_PAGE_BYTES, 0, TIDE_MEM_RELEASE) ==
                      TIDE_SUCCESS);
    mapping_end(space);
    page_table_destroy(&space->table);
    commit_return(&partition->commit, space->tables_charged);
    sync_lock(&partition->lock);
    for (unsigned c = 0; c < SPACE_COUNTER_COUNT; c++)
        partition->retired.values[c] += space_counter(space, (enum space_counter)c) - counted[c];
    sync_unlock(&partition->lock);
    region_retired_free_all(space);
    vad_tree_destroy(&space->vads);
    slab_destroy(&space->vad_memory);
    working_set_watch_end(space);
    space->magic = 0;
    commit_destroy(&space->commit);
    free(space->counters);
    pool_put(space);
}

/*
 * Can frames of a node come free without anybody doing more than is on its way? They are there and wait for their grace
 * period or lie in somebody's cache, or are being zeroed; they are being read, written or pinned; or they are modified,
 * and there is room to write them to.
 */
static bool node_may_bring(struct partition *partition, unsigned n)
{
    struct frames_counts counts;
    struct stores_statistics stores;

    frames_counts(partition->frames, n, &counts);
    if (counts.available + sync_load_relaxed_64(&partition->frames->nodes[n].zeroing) >
            partition->frames->nodes[n].reserve ||
        counts.transition != 0)
        return true;
    stores_statistics_get(partition->stores, &stores);
    return counts.lists[FRAME_LIST_MODIFIED] != 0 && stores.used_slots + stores.bad_slots < stores.total_slots;
}

/* What the spaces hold that no trimmer and no writer takes, and what they do. */
struct held {
    uint64_t tables, fixed, trimmable; /* pages */
};

static struct held held_by_all(struct partition *partition)
{
    struct held held = { .fixed = sync_load_64(&partition->resident_pages) };

    sync_lock(&partition->lock);
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next) {
        const uint64_t pages = space_working_set_pages(space), locked = sync_load_64(&space->locked_pages);

        held.tables += sync_load_relaxed_64(&space->table.table_pages);
        held.trimmable += pages > locked ? pages - locked : 0;
    }
    sync_unlock(&partition->lock);
    return held;
}

static bool any_may_bring(struct partition *partition)
{
    for (unsigned n = 0; n < partition->frames->node_count; n++)
        if (node_may_bring(partition, n))
            return true;
    return held_by_all(partition).trimmable != 0;
}

/* Page tables, and what is locked, have filled the budget. */
static tide_status all_exhausted(struct partition *partition)
{
    const struct held held = held_by_all(partition);

    return error_set(TIDE_NO_MEMORY, 0, 0,
                     "none of the %lu frames can come free: %lu are page tables, one for each 2 MiB with a page that "
                     "was touched, and %lu are locked or large pages",
                     partition->frames->total, held.tables, held.fixed);
}

/*
 * A strict place, and its node has no frame: the node's own trimmer and writer brought nothing, and nothing is coming.
 */
static tide_status node_exhausted(struct partition *partition, unsigned n)
{
    struct frames_counts counts;
    struct stores_statistics stores;

    frames_counts(partition->frames, n, &counts);
    stores_statistics_get(partition->stores, &stores);
    return error_set(TIDE_NO_MEMORY, 0, 0,
                     "node %u has none of its %u frames to give, and the placement allows no other node: %lu modified "
                     "pages, %lu of %lu slots of page files used",
                     n, partition->frames->nodes[n].count, counts.lists[FRAME_LIST_MODIFIED],
                     stores.used_slots + stores.bad_slots, stores.total_slots);
}

/* From then on a wait for a frame of any node looks whether there is hope. It has the rest of its time for that. */
static uint64_t hope_wait_ns(const struct partition *partition)
{
    return partition->frame_wait_ns / 2;
}

/* After a look: TIDE_SUCCESS while there is a reason to wait on. */
static tide_status wait_verdict(struct partition *partition, const struct grace_thread *thread,
                                struct frames_place place, const struct frame_wait *wait)
{
    const struct frames *frames = partition->frames;
    const bool strict = (place.flags & FRAMES_STRICT) != 0, spills = (place.flags & FRAMES_SPILL) != 0;
    struct grace_report report;

    if (wait->fruitless == STRICT_LOOKS)
        return node_exhausted(partition, place.node);
    if (wait->ns != 0 && grace_holds_pointers(thread) && grace_section_is_stale(thread))
        return spills
                   ? node_exhausted(partition, place.node)
                   : error_set(TIDE_ACCESS_SECTION_TOO_LONG, 0, 0,
                               "no frame is left among %lu that this thread's open access section does not hold back",
                               frames->total);
    if (strict && wait->ns >= (spills ? SPILL_WAIT_NS : partition->frame_wait_ns))
        return node_exhausted(partition, place.node);
    if (wait->ns < partition->frame_wait_ns)
        return TIDE_SUCCESS;
    grace_report(&partition->frames->grace, &report);
    if (report.stale_sections == 0 && wait->ns - wait->hope_ns >= hope_wait_ns(partition) / 2)
        return all_exhausted(partition);
    if (report.stale_sections == 0)
        return error_set(TIDE_TIMEOUT, 0, 0,
                         "no frame came free in %lu ms: the %lu frames hold page tables, and pages that are locked, "
                         "pinned or cannot be written out",
                         partition->frame_wait_ns / 1000000u, frames->total);
    return error_set(
        TIDE_TIMEOUT, 0, 0,
        "no frame came free in %lu ms; %lu open access sections hold memory back, the oldest in thread %lu",
        partition->frame_wait_ns / 1000000u, report.stale_sections, report.longest_tid);
}

tide_status space_frame_wait(tide_space *space, struct grace_thread *thread, struct frames_place place,
                             struct frame_wait *wait)
{
    struct partition *partition = space->partition;
    struct frames *frames = partition->frames;
    const bool first = wait->ns == 0;
    const uint64_t begin = os_clock_ns();
    struct quiet quiet;

    sync_assert_unlocked();
    const uint32_t depth = grace_outside_begin(thread);
    quiet_begin(&quiet); /* but not while it sleeps */
    const uint32_t value = frames_wait_announce(frames);
    const bool strict = (place.flags & FRAMES_STRICT) != 0;
    /*
     * Asked on both sides of the workers' steps, and whether anything came free meanwhile, and more than once: what
     * comes and goes in between, by other threads' steps and faults, is somebody else's turn and not the end.
     */
    const bool hope = !strict || node_may_bring(partition, place.node);
    const bool again = partition->reclaim(partition, thread, place);
    (void)grace_advance(thread->grace); /* from outside: inside it moves one step at most */
    if (strict && !hope && !again && !node_may_bring(partition, place.node) && !frames_wait_is_over(frames, value))
        wait->fruitless++;
    else
        wait->fruitless = 0;
    if (wait->ns < hope_wait_ns(partition) || any_may_bring(partition))
        wait->hope_ns = wait->ns;
    const tide_status status = wait_verdict(partition, thread, place, wait);
    quiet_end(&quiet);
    if (!tide_failed(status) && wait->fruitless != 0) {
        (void)sched_yield(); /* there is nothing to wait for: others' turn, and another look */
    } else if (!tide_failed(status) && !first && !again) {
        (void)sync_add_64(&frames->waits, 1);
        (void)frames_wait(frames, value, FRAME_WAIT_SLICE_NS);
    }
    frames_wait_end(frames);
    const uint64_t elapsed = os_clock_ns() - begin;
    wait->ns += elapsed < FRAME_WAIT_COUNTED_NS ? elapsed + 1 : FRAME_WAIT_COUNTED_NS;
    grace_outside_end(thread, depth);
    return status;
}

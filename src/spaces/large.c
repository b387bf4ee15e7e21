/*
 * Large pages: 512 frames that lie together, as 512 valid PTEs that no trim takes (nt-behaviour 7 rule 1).
 *
 * What a large page is worth in a soft space is that it is there and stays, that it is contiguous, for I/O and for the
 * TLB behind it, and that pointers to it come by a shorter way: the directory entry above its PTEs says where it lies
 * (tables/page_table.h), until it is released. It is found and zeroed at the call,
 * before any lock of the space is taken.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

/* Rounds in which frames may come out of their grace period. */
enum { ROUNDS = 3 };

/* There is nothing to wait for here, so a place that may spill does. */
static frame_t run_take(struct frames *frames, struct frames_place wanted)
{
    const struct frames_place place = frames_place_spilled(wanted);
    const unsigned *order = frames->topology->nodes[place.node].order;
    const unsigned nodes = frames_nodes_allowed(frames, place.flags);

    for (int standby = 0; standby < 2; standby++) {
        for (unsigned i = 0; i < nodes; i++) {
            frame_t first = frames_take_run(frames, order[i], standby != 0);
            if (frame_is_none(first) && (place.flags & FRAMES_LOCAL_STANDBY))
                first = frames_take_run(frames, order[i], true);
            if (!frame_is_none(first))
                return first;
        }
        /* What CPUs keep, and what only waits for its grace period, may complete a block. */
        if (standby == 0) {
            (void)grace_advance(&frames->grace);
            frames_drain_caches(frames);
        }
    }
    return FRAME_NONE;
}

/*
 * Outside of the engine for a moment, so that the grace period can move: inside, the caller's own section holds it
 * back, and what was just freed could not be had.
 */
static void grace_let_pass(struct grace_thread *thread)
{
    const uint32_t depth = grace_outside_begin(thread);

    (void)grace_advance_outside(thread);
    (void)grace_advance_outside(thread);
    grace_outside_end(thread, depth);
}

static void large_frames_give_back_unused(tide_space *space, const frame_t *first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        for (uint32_t f = 0; f < FRAMES_RUN; f++) {
            const frame_t frame = { first[i].number + f };
            const uint64_t word = sync_load_relaxed_64(&frame_pfn(space_frames(space), frame)->word);

            frames_give_back(space_frames(space), frame, pfn_state(word) == FRAME_ZEROED);
        }
}

/* The pages take turns by their place in the region: where it will lie is not known yet. */
static uint64_t runs_take(struct region_retry *retry, uint64_t count, struct placement placement, frame_t *first)
{
    uint64_t taken = 0;

    if (count > 1) {
        frames_drain_caches(space_frames(retry->space));
        frames_run_seek(space_frames(retry->space), space_frames_place(retry->space, placement, 0, retry->node).node,
                        count);
    }
    while (taken < count &&
           !frame_is_none(first[taken] = run_take(space_frames(retry->space),
                                                  space_frames_place(retry->space, placement, taken, retry->node))))
        taken++;
    return taken;
}

/* False if one of the frames is bad. */
static bool run_zero(const struct frames *frames, frame_t first)
{
    for (uint32_t f = 0; f < FRAMES_RUN; f++) {
        const frame_t frame = { first.number + f };

        if (frames_bad_is_noted(frames, frame) ||
            (pfn_state(sync_load_relaxed_64(&frame_pfn(frames, frame)->word)) != FRAME_ZEROED &&
             !frame_zero_by(frames, frame, frame_zero_streaming)))
            return false;
    }
    return true;
}

tide_status large_frames_take(struct region_retry *retry, uint64_t count, struct placement wanted, frame_t *first)
{
    tide_space *space = retry->space;
    const struct placement placement = space_placement_of(space, wanted);
    struct frames *frames = space_frames(space);
    uint64_t taken = 0;

    /* What was just freed may be in the row that the pages are to lie in. */
    if (count > 1)
        grace_let_pass(retry->thread);
    for (unsigned round = 0; round < ROUNDS && taken < count; round++) {
        if (round != 0) {
            large_frames_give_back_unused(space, first, taken);
            grace_let_pass(retry->thread);
        }
        taken = runs_take(retry, count, placement, first);
    }
    if (taken < count) {
        large_frames_give_back_unused(space, first, taken);
        return error_set(TIDE_NO_MEMORY, 0, 0,
                         "%lu of %lu large pages found: no other %u frames lie together and are free", taken, count,
                         FRAMES_RUN);
    }
    for (uint64_t i = 0; i < count; i++) {
        if (!run_zero(frames, first[i])) {
            /* Its bad frame goes to the bad list, and another run is looked for. */
            large_frames_give_back_unused(space, first, count);
            return large_frames_take(retry, count, wanted, first);
        }
    }
    frames_check_all_thresholds(frames);
    return TIDE_SUCCESS;
}

void large_frames_give_back(tide_space *space, const frame_t *first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        for (uint32_t f = 0; f < FRAMES_RUN; f++)
            frames_give_back(space_frames(space), (frame_t){ first[i].number + f }, true);
}

void large_pages_install(tide_space *space, const struct vad *vad, const frame_t *first)
{
    struct frames *frames = space_frames(space);

    (void)sync_add_64(&space->partition->resident_pages, vad->last_page - vad->first_page + 1);
    for (uint64_t page = vad->first_page; page <= vad->last_page; page++) {
        const uint64_t index = page - vad->first_page;
        const frame_t frame = { first[index / FRAMES_RUN].number + (uint32_t)(index % FRAMES_RUN) };
        struct pfn *pfn = frame_pfn(frames, frame);
        uint64_t *pte = page_table_find(&space->table, page);

        pfn_pte_set(pfn, pte);
        sync_store_relaxed_64(&pfn->original, 0);
        frame_state_set(pfn, pfn_with_priority((uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_REFERENCE_ONE | PFN_SHARE_ONE |
                                                   ((uint64_t)FRAME_USE_LARGE_PAGE << PFN_USE_SHIFT),
                                               sync_load_relaxed_32(&space->priority)));
        /*
         * A fault of an older region at this address may hold a claim for a moment; it puts back the 0 that it found.
         */
        const pte_t valid = { pte_make_valid(frame, PTE_READWRITE, true).bits | PTE_LARGE };
        while (!pte_cas(pte, (pte_t){ 0 }, valid)) {
            ASSERT_ALWAYS(pte_is_busy(pte_load(pte)) || pte_load(pte).bits == 0);
            pte_wait(space->partition->waits, NULL, pte);
        }
        if (index % FRAMES_RUN == FRAMES_RUN - 1)
            page_table_large_set(&space->table, page - (FRAMES_RUN - 1), first[index / FRAMES_RUN]);
    }
}

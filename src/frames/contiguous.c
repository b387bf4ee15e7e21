/*
 * Runs of frames that lie together: 512 frames from a multiple of 512 on, 2 MiB.
 *
 * Large pages need them by nature. Page tables profit: a walk touches the leaf table before the page, and tables
 * scattered over gigabytes cost a TLB miss each, where those of a gigabyte of pages fit in one run.
 *
 * Taking a run. There is no buddy allocator behind the lists: blocks break up within seconds of use anyway, and keeping
 * order would cost every fault. So a block is found by looking at its records without a lock, and then taken frame by
 * frame, each under the lock of its shard, 64 neighbours to a lock. Whoever took a frame in between spoils the block:
 * what was taken goes back to where it was, and the next block is tried. The search begins where the last one ended.
 *
 * Tables. Each node keeps one run from which tables are cut, all of it zeroed when it is taken. What is left of it
 * counts as zeroed memory, as the CPU caches do, and is given back to the list when frames run out
 * (frames_drain_caches()). Nodes with less than RUN_NODE_FRAMES have no run: it would be too large a part of them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/frames_impl.h"

enum { RUN_NODE_FRAMES = 64 * FRAMES_RUN };

static bool state_serves(uint64_t word, bool standby)
{
    const enum frame_state state = pfn_state(word);

    return state == FRAME_ZEROED || state == FRAME_FREE || (standby && state == FRAME_STANDBY);
}

/* A look without a lock: might every frame of the block be had? */
static bool block_serves(const struct frames *frames, uint32_t first, bool standby)
{
    for (uint32_t i = 0; i < FRAMES_RUN; i++)
        if (!state_serves(sync_load_relaxed_64(&frames->pfns[first + i].word), standby))
            return false;
    return true;
}

/* Takes one listed frame whose shard is locked: afterwards it is ZEROED or FREE and the caller's. */
static bool frame_take(struct frames *frames, struct frame_shard *shard, frame_t frame, uint64_t word)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    if (!frame_is_listed(frames, frame))
        return false;
    if (pfn_state(word) != FRAME_ZEROED && !grace_passed(&frames->grace, pfn_grace(word)))
        return false;
    if (pfn_state(word) == FRAME_STANDBY) {
        if (!frames->detach(pfn, frame))
            return false;
        pfn->pte = NULL;
        sync_store_relaxed_64(&pfn->original, 0);
        shard_remove(frames, shard, frame);
        frame_state_set(pfn, pfn_with_grace((uint64_t)FRAME_FREE, pfn_grace(word)));
        return true;
    }
    shard_remove(frames, shard, frame);
    return true;
}

/* Takes the frames of a block from its first on; returns how many before one could not be had. */
static uint32_t block_take(struct frames *frames, unsigned node, uint32_t first, bool standby)
{
    struct frame_shard *locked = NULL;
    uint32_t taken = 0;

    while (taken < FRAMES_RUN) {
        const frame_t frame = { first + taken };
        const uint64_t seen = sync_load_64(&frame_pfn(frames, frame)->word);

        if (!state_serves(seen, standby))
            break;
        struct frame_shard *shard = frames_shard(frames, node, frame_list_of(seen), frame);
        if (shard != locked) {
            if (locked != NULL)
                sync_unlock(&locked->lock);
            sync_lock(&shard->lock);
            locked = shard;
        }
        /* Under the lock of the list that it should be on, the word cannot leave that state. */
        const uint64_t word = sync_load_64(&frame_pfn(frames, frame)->word);
        if (!state_serves(word, standby) || frames_shard(frames, node, frame_list_of(word), frame) != shard ||
            !frame_take(frames, shard, frame, word))
            break;
        taken++;
    }
    if (locked != NULL)
        sync_unlock(&locked->lock);
    return taken;
}

/* Frames that were taken and nobody used go back in the order in which they came, keeping state and stamp. */
static void frames_put_back(struct frames *frames, unsigned node, uint32_t first, uint32_t count)
{
    for (uint32_t i = count; i-- > 0;) {
        const frame_t frame = { first + i };
        const uint64_t word = sync_load_relaxed_64(&frame_pfn(frames, frame)->word);
        struct frame_shard *shard = frames_shard(frames, node, frame_list_of(word), frame);

        sync_lock(&shard->lock);
        shard_push_head(frames, shard, frame);
        sync_unlock(&shard->lock);
    }
    if (count != 0 && sync_load_relaxed_32(&frames->waiters) != 0)
        sync_event_signal(&frames->available);
}

frame_t frames_take_run(struct frames *frames, unsigned n, bool standby)
{
    struct frames_node *node = &frames->nodes[n];
    const uint32_t blocks = node->count / FRAMES_RUN;
    const uint32_t hint = sync_load_relaxed_32(&node->run_hint);

    for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t block = (hint + i) % blocks;
        const uint32_t first = node->first + block * FRAMES_RUN;

        if (!block_serves(frames, first, standby))
            continue;
        const uint32_t taken = block_take(frames, n, first, standby);
        if (taken == FRAMES_RUN) {
            sync_store_relaxed_32(&node->run_hint, (block + 1) % blocks);
            return (frame_t){ first };
        }
        frames_put_back(frames, n, first, taken);
    }
    return FRAME_NONE;
}

/* ---- page tables ------------------------------------------------------------------------------------------------ */

void frames_table_run_drain(struct frames *frames, unsigned n)
{
    struct frames_table_run *run = &frames->nodes[n].table_run;

    if (sync_load_relaxed_32(&run->left) == 0)
        return;
    sync_lock(&run->lock);
    frames_put_back(frames, n, run->next, run->left);
    sync_store_relaxed_32(&run->left, 0);
    sync_unlock(&run->lock);
}

/*
 * A run for tables, if the node is far from its thresholds: no page is repurposed for it. The zeroing is done by the
 * caller, outside of the lock.
 */
static frame_t run_find(struct frames *frames, unsigned n)
{
    const struct frames_node *node = &frames->nodes[n];

    if (node->count < RUN_NODE_FRAMES || frames_list_count(frames, n, FRAME_LIST_ZEROED) < node->high + 4 * FRAMES_RUN)
        return FRAME_NONE;
    return frames_take_run(frames, n, false);
}

static frame_t run_pop(struct frames_table_run *run)
{
    frame_t frame = FRAME_NONE;

    sync_lock(&run->lock);
    if (run->left != 0) {
        frame.number = run->next++;
        sync_store_relaxed_32(&run->left, run->left - 1);
    }
    sync_unlock(&run->lock);
    return frame;
}

/* Zeroes what is not, and makes the run the node's; if another thread brought one meanwhile, this one goes back. */
static void run_offer(struct frames *frames, unsigned n, frame_t first)
{
    struct frames_table_run *run = &frames->nodes[n].table_run;

    for (uint32_t i = 0; i < FRAMES_RUN; i++) {
        const frame_t frame = { first.number + i };
        struct pfn *pfn = frame_pfn(frames, frame);

        if (pfn_state(sync_load_relaxed_64(&pfn->word)) == FRAME_ZEROED)
            continue;
        frame_zero_streaming(frame_memory(frames, frame));
        frame_state_set(pfn, pfn_with_state(sync_load_relaxed_64(&pfn->word), FRAME_ZEROED));
    }
    sync_lock(&run->lock);
    const bool taken = run->left == 0;
    if (taken) {
        run->next = first.number;
        sync_store_relaxed_32(&run->left, FRAMES_RUN);
    }
    sync_unlock(&run->lock);
    if (!taken)
        frames_put_back(frames, n, first.number, FRAMES_RUN);
}

frame_t frames_allocate_table(struct frames *frames, unsigned node)
{
    struct frames_table_run *run = &frames->nodes[node].table_run;

    if (frames->nodes[node].count >= RUN_NODE_FRAMES) {
        frame_t frame = run_pop(run);

        if (frame_is_none(frame)) {
            const frame_t first = run_find(frames, node);
            if (!frame_is_none(first)) {
                run_offer(frames, node, first);
                frame = run_pop(run);
            }
        }
        if (!frame_is_none(frame))
            return frame;
    }
    return frames_allocate(frames, node, FRAMES_ZERO, 0);
}

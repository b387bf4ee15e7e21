/*
 * Runs of frames that lie together: 512 frames from a multiple of 512 on, 2 MiB, for large pages.
 *
 * There is no buddy allocator behind the lists: blocks break up within seconds of use anyway, and keeping order would
 * cost every fault. So a block is found by looking at its records without a lock, and then taken frame by frame, each
 * under the lock of its shard, 64 neighbours to a lock. Whoever took a frame in between spoils the block: what was
 * taken goes back to where it was, and the next block is tried. The search begins where the last one ended.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/frames_impl.h"

static bool state_serves(uint64_t word, bool standby)
{
    const enum frame_state state = pfn_state(word);

    /* A page of a mapped space is let go by a system call, which is none of a search's business. */
    return state == FRAME_ZEROED || state == FRAME_FREE || (standby && state == FRAME_STANDBY && !pfn_is_hollow(word));
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

    if (!frame_is_listed(frames, frame, word))
        return false;
    if (pfn_state(word) != FRAME_ZEROED && !grace_passed(&frames->grace, pfn_grace(word)))
        return false;
    if (pfn_state(word) == FRAME_STANDBY) {
        if (!frames->detach(pfn, frame))
            return false;
        shard_remove(frames, shard, frame);
        standby_detached(frames, pfn, word);
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

void frames_run_seek(struct frames *frames, unsigned n, uint64_t wanted)
{
    struct frames_node *node = &frames->nodes[n];
    const uint32_t blocks = node->count / FRAMES_RUN;
    uint32_t longest = 0, hint = 0;

    for (uint32_t block = 0, length = 0; block < blocks && longest < wanted; block++) {
        length = block_serves(frames, node->first + block * FRAMES_RUN, false) ? length + 1 : 0;
        if (length > longest) {
            longest = length;
            hint = block + 1 - length;
        }
    }
    if (longest != 0)
        sync_store_relaxed_32(&node->run_hint, hint);
}

frame_t frames_take_run(struct frames *frames, unsigned n, bool standby)
{
    struct frames_node *node = &frames->nodes[n];
    const uint32_t blocks = node->count / FRAMES_RUN;
    const uint32_t hint = sync_load_relaxed_32(&node->run_hint);

    if (frames_available(frames, n) < FRAMES_RUN + node->reserve)
        return FRAME_NONE;
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

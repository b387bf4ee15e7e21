/*
 * Zero-page thread (nt-behaviour 12): when the free list reaches its trigger, zeroes until it is empty. Batches are
 * taken off the list, zeroed without a lock and past the caches, and put on the zeroed list. Each batch waits until a
 * CPU is idle: when all have something better to do, faults zero for themselves.
 *
 * So it is not the zeroing thread that runs at idle priority, as NT's does, but one that it asks (idle.h): who zeroes
 * takes locks of page lists, and has frames in its hands that others may wait for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

bool zero_page_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const bool begun = sync_load_relaxed_32(&worker->begun) != 0;

    return frames_list_count(frames, worker->node, FRAME_LIST_FREE) >=
           (begun ? 1 : frames->nodes[worker->node].zero_trigger);
}

uint64_t zero_page_step(struct worker *worker, uint64_t budget)
{
    struct frames *frames = worker->workers->partition->frames;
    const uint64_t done = frames_zero_free(frames, worker->node, budget);

    /* What is left may be the rest of a long list, or frames that wait for their grace period. */
    sync_store_relaxed_32(&worker->begun, frames_list_count(frames, worker->node, FRAME_LIST_FREE) != 0);
    return done;
}

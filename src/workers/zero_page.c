/*
 * Zero-page thread (nt-behaviour 12): when the free list reaches its trigger, zeroes until it is empty. Batches are
 * taken off the list, zeroed without a lock and past the caches, and put on the zeroed list. It runs at idle
 * priority: when every CPU has something better to do, faults zero for themselves.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

bool zero_page_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;

    return frames_list_count(frames, worker->node, FRAME_LIST_FREE) >= frames->nodes[worker->node].zero_trigger;
}

uint64_t zero_page_step(struct worker *worker, uint64_t budget)
{
    return frames_zero_free(worker->workers->partition->frames, worker->node, budget);
}

/*
 * Zero-page thread (nt-behaviour 12): when the free list reaches its trigger, zeroes until it is empty. Batches are
 * taken off the list, zeroed without a lock and past the caches, and put on the zeroed list. Each batch waits until a
 * CPU is idle: when all have something better to do, faults zero for themselves.
 *
 * Who zeroes takes locks of page lists, and has frames in its hands that others may wait for. So it must not lose its
 * CPU for as long as others are busy, as a thread of idle priority does; and a thread without privileges that has
 * taken idle priority cannot leave it again for the while that it holds something. Therefore two threads: the one that
 * works has ordinary priority, and before each batch it asks the other, at idle priority, which holds nothing and does
 * nothing but answer (workers.c). When all CPUs are busy the answer is long in coming, and that is all.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

bool zero_page_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;

    const uint64_t trigger = sync_load_relaxed_32(&worker->more) != 0 ? 1 : frames->nodes[worker->node].zero_trigger;

    return frames_list_count(frames, worker->node, FRAME_LIST_FREE) >= trigger;
}

uint64_t zero_page_step(struct worker *worker, uint64_t budget)
{
    return frames_zero_free(worker->workers->partition->frames, worker->node, budget);
}

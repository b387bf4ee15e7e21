/*
 * Locking pages in the working set (VirtualLock): each page is faulted in, and its valid PTE marked, by one
 * compare-and- swap from the form that the fault left. Quota and unlocking are in spaces/lock.c.
 *
 * All or nothing. The checks and the quota come first; after them a page can still fail, for want of a frame, for a
 * read error, or because another thread decommits it. Then the pages that this call locked are unlocked again. So that
 * they are this call's alone, calls that lock go one at a time in a space: the others wait at a gate, outside of the
 * engine, as the faults inside may take long. Unlocking does not pass the gate.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "faults/fault_impl.h"

#include <stdlib.h>

static void gate_enter(tide_space *space, struct grace_thread *thread)
{
    while (!sync_cas_32(&space->lock_gate, 0, 1)) {
        const uint32_t value = sync_event_value(&space->lock_gate_open);

        if (sync_load_32(&space->lock_gate) == 0)
            continue;
        const uint32_t depth = grace_outside_begin(thread);
        (void)sync_event_wait(&space->lock_gate_open, value, UINT64_MAX);
        grace_outside_end(thread, depth);
    }
}

static void gate_leave(tide_space *space)
{
    (void)sync_swap_32(&space->lock_gate, 0);
    sync_event_signal(&space->lock_gate_open);
}

/* Faults one page in and locks it. *fresh: it was not locked before, and a page of the request's quota is used. */
static tide_status page_lock(tide_space *space, struct grace_thread *thread, uint64_t page,
                             struct lock_request *request, bool *fresh)
{
    *fresh = false;
    for (;;) {
        pte_t valid;
        tide_status status = fault_resolve(space, thread, page * TIDE_PAGE_BYTES, TIDE_ACCESS_READ, &valid);

        if (tide_failed(status))
            return status;
        if (pte_is_fixed(valid))
            return TIDE_SUCCESS;
        if (request->quota == 0) {
            /* Another page of the range, locked when quota was taken, was unlocked and locked again here. */
            status = lock_quota_take(space, 1);
            if (tide_failed(status))
                return status;
            request->quota = 1;
        }
        uint64_t *pte = page_table_find(&space->table, page);
        /* It may have been trimmed in between; then its fault is taken again. */
        if (pte != NULL && pte_cas(pte, valid, (pte_t){ valid.bits | PTE_LOCKED })) {
            *fresh = true;
            request->quota--;
            return TIDE_SUCCESS;
        }
    }
}

static bool bit_test(const uint64_t *bits, uint64_t i)
{
    return (bits[i / 64] >> (i % 64) & 1) != 0;
}

tide_status fault_lock(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes)
{
    struct lock_request request;
    uint64_t *fresh = NULL; /* bit per page: locked by this call */
    uint64_t page;

    gate_enter(space, thread);
    tide_status status = lock_prepare(space, base, bytes, &request);
    if (tide_failed(status))
        goto out;
    fresh = calloc((request.last - request.first) / 64 + 1, sizeof *fresh);
    if (fresh == NULL)
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, 0, base, "no memory to note %lu pages",
                           request.last - request.first + 1);
    for (page = request.first; page <= request.last && !tide_failed(status); page++) {
        bool locked;

        status = page_lock(space, thread, page, &request, &locked);
        if (locked)
            fresh[(page - request.first) / 64] |= 1ull << ((page - request.first) % 64);
    }
    if (tide_failed(status) && fresh != NULL) {
        for (page = request.first; page <= request.last; page++) {
            uint64_t *pte = bit_test(fresh, page - request.first) ? page_table_find(&space->table, page) : NULL;

            if (pte != NULL && page_unlock(space, pte))
                lock_quota_return(space, 1);
        }
    }
    lock_quota_return(space, request.quota);
    if (!tide_failed(status)) {
        status = TIDE_SUCCESS;
        if (space->mapping != NULL)
            fault_show_held(space, request.first, request.last);
    }
out:
    gate_leave(space);
    free(fresh);
    return status;
}

/*
 * Resolving a fault: making the page of an address valid for an access (nt-behaviour 9).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FAULTS_FAULT_H
#define FAULTS_FAULT_H

#include <pagetide/access.h>

#include "spaces/space.h"

/* What the fast path tests: all these bits set means no fault. */
static inline uint64_t fault_rights(tide_access_kind kind)
{
    return kind == TIDE_ACCESS_WRITE ? PTE_VALID | PTE_ACCESSED | PTE_WRITE | PTE_DIRTY
                                     : PTE_VALID | PTE_ACCESSED | PTE_READ;
}

/*
 * The valid PTE of an address if the access needs no fault; else a form without PTE_VALID. Inside the engine or a
 * section.
 */
static inline pte_t fault_lookup(const tide_space *space, tide_address address, tide_access_kind kind)
{
    const uint64_t *pte = page_table_find(&space->table, address / TIDE_PAGE_BYTES);
    const uint64_t rights = fault_rights(kind);

    if (__builtin_expect(pte != NULL, 1)) {
        const pte_t seen = pte_load(pte);
        if (__builtin_expect((seen.bits & rights) == rights, 1))
            return seen;
    }
    return (pte_t){ 0 };
}

/*
 * Resolves. The caller is inside the engine (grace_enter), holding nothing; the engine may be left and entered again
 * while the thread waits, so pointers got before are good only if the thread has an access section of its own.
 * @param[out] valid the PTE as it was valid for this access, in the section that the caller is in on return.
 * @return TIDE_SUCCESS or the class of fault; TIDE_ACCESS_VIOLATION, TIDE_IN_PAGE_ERROR, TIDE_TIMEOUT,
 *   TIDE_ACCESS_SECTION_TOO_LONG, with the last error set.
 */
TIDE_MUST_CHECK tide_status fault_resolve(tide_space *space, struct grace_thread *thread, tide_address address,
                                          tide_access_kind kind, pte_t *valid);

/* The same for a write of the whole page, which makes one that was lost with a bad frame good again. */
TIDE_MUST_CHECK tide_status fault_overwrite(tide_space *space, struct grace_thread *thread, tide_address address,
                                            pte_t *valid);

/* Locks every page of a range, or none (VirtualLock). Inside the engine, holding nothing. lock.c */
TIDE_MUST_CHECK tide_status fault_lock(tide_space *space, struct grace_thread *thread, tide_address base,
                                       uint64_t bytes);

/*
 * Pages of a mapped space that were just locked or pinned: shown, whatever a pass of ageing that began before has
 * hidden, and from now on not hidden any more. Inside the engine. mapped.c
 */
void fault_show_held(tide_space *space, uint64_t first, uint64_t last);
/* mapping_clear() for a page in any form. Inside the engine. */
void fault_clear(tide_space *space, uint64_t page);

/* The frames that prefetching may take: those that are free, and half of the standby pages of each node. */
struct prefetch_budget {
    uint64_t unused[TIDE_MAX_NODES];
    uint64_t standby[TIDE_MAX_NODES];
    bool spent; /* there was no frame for a page: it ends */
};
void fault_prefetch_budget(const tide_space *space, struct prefetch_budget *budget);
/*
 * Reads what is in the page file of a range, checked by the caller, to standby. The budget falls by what it used. Stops
 * quietly when frames are short. Inside the engine, holding nothing. prefetch.c
 */
void fault_prefetch(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                    struct prefetch_budget *budget);

/* As fault_resolve(), and takes a reference on the frame before anybody can trim it. */
TIDE_MUST_CHECK tide_status fault_pin(tide_space *space, struct grace_thread *thread, tide_address address,
                                      tide_access_kind kind, frame_t *frame);

#endif

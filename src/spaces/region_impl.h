/*
 * Inside spaces/: what the files on regions share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_REGION_IMPL_H
#define SPACES_REGION_IMPL_H

#include "base/error.h"
#include "spaces/space.h"

struct range {
    uint64_t first, last; /* pages, inclusive */
};

static inline uint64_t range_pages(struct range range)
{
    return range.last - range.first + 1;
}

/* Rounds outwards, the base to `granularity`. TIDE_INVALID_PARAMETER for no bytes, or beyond the address space. */
TIDE_MUST_CHECK tide_status range_of(tide_address base, uint64_t bytes, uint64_t granularity, struct range *range);

/* ---- regions and their locks (region.c) ------------------------------------------------------------------------- */

/*
 * The region that holds a page, locked, or NULL. Inside the engine. It cannot go, split or change its pages' commit
 * and protection until it is unlocked; its pages fault as ever.
 */
struct vad *region_lock(tide_space *space, uint64_t page);

/* The same for a range that must lie in it; NULL with the last error set to TIDE_CONFLICTING_ADDRESSES. */
struct vad *region_lock_range(tide_space *space, struct range range);
/* The same, for range_commit(). The first time for a region it takes the space's lock for a moment. */
struct vad *region_lock_to_commit(tide_space *space, struct range range);

/*
 * Can a call that failed with `status`, holding nothing now, be tried again? It waited for a frame (TIDE_NO_MEMORY), or
 * the page files grew (TIDE_COMMITMENT_LIMIT). Else *status is what the call returns.
 */
struct region_retry {
    tide_space *space;
    struct grace_thread *thread;
    unsigned node;          /* of the running CPU: for page tables */
    struct frame_wait wait; /* for frames */
    uint64_t wanted_pages;  /* charge that did not fit the engine's limit; 0 if none failed so */
};
void region_retry_begin(struct region_retry *retry, tide_space *space, struct grace_thread *thread);
bool region_retry(struct region_retry *retry, tide_status *status);

/* ---- descriptors of regions (region.c) -------------------------------------------------------------------------- */

/*
 * Descriptors of a space's regions. All with the space locked. A new one is of no kind and in no tree, or has what the
 * parts of `like` have in common with it; NULL with the last error set. One that was never in the tree, or has left it
 * for long, is freed at once (NULL is allowed); one that just left it is retired, and freed by a later call when its
 * grace period has passed.
 */
struct vad *region_vad_create(tide_space *space, struct range range, const struct vad *like);
void region_vad_free(tide_space *space, struct vad *vad);
void region_retire(tide_space *space, struct vad *vad);
/* Frees retired ones whose grace period has passed. */
void region_retired_free(tide_space *space);

/* ---- taking addresses (region_reserve.c) ------------------------------------------------------------------------ */

/* What a region is to be. */
struct reservation {
    struct range range;
    bool anywhere;
    uint32_t type;
    uint32_t protection;
    struct placement placement;
    uint64_t lowest, highest; /* pages within which it must lie, if anywhere */
    uint64_t alignment;       /* pages, a power of two */
    enum vad_kind kind;
    frame_t *large; /* first frames of its large pages, which are charged */
    bool no_frame;  /* out: the last try failed for want of a frame for a table */
    struct write_watch *watch;
};
/* Takes addresses for a region, and what else it is to have: pages, large pages, a write watch. All or nothing. */
TIDE_MUST_CHECK tide_status region_reserve(struct region_retry *retry, struct reservation *want);

/* ---- charges (charge.c) ----------------------------------------------------------------------------------------- */

/*
 * Charges pages to the space and the engine, and tables to the engine, all or nothing. May be called under the locks
 * of the space and of a region.
 */
TIDE_MUST_CHECK tide_status pages_charge(struct region_retry *retry, uint64_t pages, uint64_t tables);
/* Gives the charge of pages back. */
void pages_uncharge(tide_space *space, uint64_t pages);
/* The same for large pages, which the space's own limit does not count. Space not locked. */
TIDE_MUST_CHECK tide_status large_charge(struct region_retry *retry, uint64_t pages);
void large_uncharge(tide_space *space, uint64_t pages);
void large_uncharge_locked(tide_space *space, uint64_t pages); /* space locked */
/*
 * Tables that were charged are kept for the space until the promise is dropped: then, as many as do not exist go back.
 */
void tables_promise(tide_space *space, uint64_t tables);
void tables_promise_drop(tide_space *space, uint64_t tables);

/* ---- ranges of pages (range.c). All with the region locked. ------------------------------------------------------ */

/* Calls for each PTE of a range whose leaf exists. */
typedef void pte_visit(tide_space *space, uint64_t *pte, void *context);
void range_visit(tide_space *space, struct range range, pte_visit *visit, void *context);

/* The PTE of a page, 0 without a leaf. Waits while it is claimed; not for a page that is being read. */
pte_t range_settled(const tide_space *space, uint64_t page);
/* How many pages of a range are committed. Waits for claimed PTEs. */
uint64_t range_committed(tide_space *space, const struct vad *vad, struct range range);
/* TIDE_NOT_COMMITTED if not all are. */
TIDE_MUST_CHECK tide_status range_committed_check(tide_space *space, const struct vad *vad, struct range range);
/* Deletes every page of a range, leaving 0 in its PTEs. No charge is given back. */
void range_clear(tide_space *space, struct range range);
/* Deletes every page of a region and gives their charge back. `state` is the new commit_state. */
void region_clear(tide_space *space, struct vad *vad, uint32_t state);
/* Makes all leaf tables of a range, which somebody has paid for. TIDE_NO_MEMORY: there was no frame. */
TIDE_MUST_CHECK tide_status leaves_make(tide_space *space, struct range range, unsigned node);
/* The region was locked by region_lock_to_commit(), or has committed pages. */
TIDE_MUST_CHECK tide_status range_commit(struct region_retry *retry, struct vad *vad, struct range range,
                                         unsigned protection);
TIDE_MUST_CHECK tide_status range_decommit(struct region_retry *retry, struct vad *vad, struct range range);
TIDE_MUST_CHECK tide_status range_protect(struct region_retry *retry, struct vad *vad, struct range range,
                                          unsigned protection, unsigned *old);
/* Software protection of one page, 0 if it is not committed. */
unsigned range_protection(tide_space *space, const struct vad *vad, uint64_t page);

/* ---- large pages (large.c) -------------------------------------------------------------------------------------- */

/*
 * Frames for `count` large pages of a region with this placement, zeroed. On TIDE_NO_MEMORY none is kept. Takes no lock
 * of the space. Leaves the engine for a moment if frames wait for their grace period, so whatever was looked up before
 * is void.
 */
TIDE_MUST_CHECK tide_status large_frames_take(struct region_retry *retry, uint64_t count, struct placement placement,
                                              frame_t *first);
void large_frames_give_back(tide_space *space, const frame_t *first, uint64_t count);
/* Makes them the pages of a region whose leaf tables exist and that nobody sees yet. */
void large_pages_install(tide_space *space, const struct vad *vad, const frame_t *first);

/* ---- write watch (watch.c) -------------------------------------------------------------------------------------- */

/* Its first_page is set when the region's is known. */
TIDE_MUST_CHECK tide_status watch_create(struct range range, struct write_watch **watch);
void watch_put(struct write_watch *watch); /* space locked; NULL is allowed */

#endif

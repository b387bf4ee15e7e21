/*
 * Address spaces: a page table, the regions in it, a working set, charges and counters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_SPACE_H
#define SPACES_SPACE_H

#include "spaces/partition.h"
#include "spaces/vad.h"

#define SPACE_MAGIC 0x7469646573706163ull /* "tidespac" */

struct working_set {
    struct sync_lock lock; /* rank working_set */
    uint64_t minimum;      /* [A] pages; written under the lock */
    uint64_t maximum;      /* [A] written under the lock */
    uint32_t flags;        /* [A] TIDE_WORKING_SET_HARD_* */
    uint64_t hand;         /* [L:working_set] page at which the next trim begins */
    uint64_t peak;         /* [A] highest size seen: looked at before each removal and at each query */
};

struct tide_space {
    uint64_t magic;              /* [I] SPACE_MAGIC while alive */
    struct partition *partition; /* [I] */
    uint64_t id;                 /* [I] */
    struct page_table table;
    struct vad_tree vads;
    uint64_t bottom_up_start;     /* [I] page at which a search for a free range begins, so that addresses are random */
    uint64_t top_down_start;      /* [I] the same from the top: last page of the range */
    uint32_t priority;            /* [A] memory priority of pages faulted from now on */
    uint32_t has_preferred_nodes; /* [A] some region names a node */
    uint32_t has_write_watch;     /* [A] some region has write watch */
    uint32_t hard_maximum;        /* [A] the working set has a hard maximum */
    unsigned cpu_count;           /* [I] */
    struct space_counters *counters;                 /* [I] one per CPU */
    struct commit commit;                            /* private commit, and its limit (charge.c) */
    struct sync_lock lock SYNC_CACHE_ALIGNED;        /* rank space: the VAD tree */
    struct vad *retired, *retired_last;              /* [L:space] removed VADs in their grace period, oldest first */
    uint64_t retired_count;                          /* [L:space] */
    uint64_t peak_virtual_pages;                     /* [L:space] */
    struct sync_lock tables_lock SYNC_CACHE_ALIGNED; /* rank space_tables */
    uint64_t tables_charged;                         /* [L:space_tables] pages charged for tables */
    uint64_t tables_promised;                        /* [L:space_tables] tables that may still be made */
    struct working_set working_set;
    uint64_t pins;               /* [A] */
    tide_space *next, *previous; /* [L:engine] */
};

static inline struct frames *space_frames(const tide_space *space)
{
    return space->partition->frames;
}

static inline void space_count(tide_space *space, enum space_counter counter, uint64_t by)
{
    const unsigned cpu = os_cpu_current();

    (void)sync_add_64(&space->counters[cpu < space->cpu_count ? cpu : 0].values[counter], by);
}

uint64_t space_counter(const tide_space *space, enum space_counter counter);
/* Valid pages: everything that came by a fault less everything removed. Exact when quiet. */
uint64_t space_working_set_pages(const tide_space *space);
/* The highest virtual size: after each reservation, with the space locked. */
void space_virtual_peak_update(tide_space *space);
/* Moves the peak up to the present size. Called before pages leave, so that the peak is not missed. */
void space_peak_update(tide_space *space);

TIDE_MUST_CHECK tide_status space_create(struct partition *partition, struct grace_thread *thread, tide_space **space);
/* Gives everything back. No other thread uses it. */
void space_destroy(tide_space *space, struct grace_thread *thread);

/*
 * Waits for a frame after an allocation on `node` failed, or does the work that brings one. The caller holds no lock,
 * no claim and no frame, and is inside the engine (which is left meanwhile, so whatever was looked up is void).
 * `deadline_ns` is 0 at the first call of one access and kept by the caller between calls. TIDE_SUCCESS: look again;
 * TIDE_TIMEOUT; TIDE_ACCESS_SECTION_TOO_LONG.
 */
TIDE_MUST_CHECK tide_status space_frame_wait(tide_space *space, struct grace_thread *thread, unsigned node,
                                             uint64_t *deadline_ns);

/* ---- pages (page.c) --------------------------------------------------------------------------------------------- */

/*
 * Deletes whatever a PTE holds - frame, slot - and leaves `leave` in it. Waits while it is busy. The caller is inside
 * the engine and its table cannot go away. Returns true if the page was committed by its PTE or, for a zero PTE, if
 * `zero_is_committed`.
 */
bool page_delete(tide_space *space, uint64_t *pte, pte_t leave, bool zero_is_committed);
/*
 * Sets the protection of a committed page in whatever form its PTE is; a zero PTE becomes demand zero. Waits while it
 * is busy.
 */
void page_protect(tide_space *space, uint64_t *pte, unsigned protection, bool watched);
/*
 * Makes a clean page whose PTE the caller has claimed dirty: its slot is released, unless a write is in flight, which
 * then does so.
 */
void page_dirty_claimed(tide_space *space, frame_t frame);

/* ---- working sets (working_set.c) ------------------------------------------------------------------------------- */

enum { WORKING_SET_AGES = PTE_AGE_MAX + 1 };

/* Pages by age, on one node. */
struct working_set_ages {
    uint64_t pages[WORKING_SET_AGES];
};

/*
 * One pass of ageing over the space: accessed pages become younger and unaccessed again, others older. Adds to `ages`
 * the pages on `node` (TIDE_NO_PREFERRED_NODE: on all).
 */
void working_set_age(tide_space *space, unsigned node, struct working_set_ages *ages);
/* Which pages a trim takes. */
struct working_set_choice {
    unsigned node;     /* pages on this node; TIDE_NO_PREFERRED_NODE: on all */
    unsigned age;      /* of at least this age */
    bool accessed_too; /* also those accessed since the last ageing, whatever their age */
    bool clean_only;   /* not those that would have to be written */
};
/* Removes up to `budget` pages from the working set, from the hand on, once around at most. Returns the count. */
uint64_t working_set_trim(tide_space *space, struct working_set_choice choice, uint64_t budget);
/* Local replacement: removes one page, giving each accessed page on the way a second chance. True if one went. */
bool working_set_replace(tide_space *space);
/* At a hard maximum, makes room for one more page. */
void working_set_make_room(tide_space *space);

/* ---- regions (region.c): what tide_virtual_* do, with arguments checked by the caller against NULL -------------- */

/* What is to be allocated. */
struct region_request {
    uint32_t type;
    uint32_t protection;
    uint32_t node;
    bool extended;                           /* VirtualAlloc2: nothing is rounded, placeholders are known */
    const tide_alloc_parameters *parameters; /* extended; may be NULL */
    enum vad_kind kind;                      /* VAD_PRIVATE or VAD_STACK */
};
TIDE_MUST_CHECK tide_status region_allocate(tide_space *space, struct grace_thread *thread,
                                            const struct region_request *request, tide_address *base, uint64_t *bytes);
TIDE_MUST_CHECK tide_status region_free(tide_space *space, struct grace_thread *thread, tide_address base,
                                        uint64_t bytes, uint32_t type);
TIDE_MUST_CHECK tide_status region_free_native(tide_space *space, struct grace_thread *thread, tide_address *base,
                                               uint64_t *bytes, uint32_t type);
TIDE_MUST_CHECK tide_status region_protect(tide_space *space, struct grace_thread *thread, tide_address base,
                                           uint64_t bytes, uint32_t protection, uint32_t *old);
TIDE_MUST_CHECK tide_status region_query(tide_space *space, tide_address address, tide_region *region);
/*
 * A fault made `made` tables for a region that was decommitted or released meanwhile. They are charged here, beyond the
 * limit if need be: a few pages, which the engine's reserve covers, until the space next settles its charge.
 */
void region_tables_charge(tide_space *space, unsigned made);
/* Frees the VADs that left the tree, whatever their grace period: nobody uses the space any more. */
void region_retired_free_all(tide_space *space);

/* ---- stacks (stack.c) ------------------------------------------------------------------------------------------- */

TIDE_MUST_CHECK tide_status stack_create(tide_space *space, struct grace_thread *thread, uint64_t reserve_bytes,
                                         uint64_t commit_bytes, tide_stack *stack);
/*
 * The guard page of a stack was touched, with no lock and no claim held: it becomes an ordinary page, and the next lower
 * one the guard. TIDE_PAGE_FAULT_GUARD_PAGE; TIDE_STACK_OVERFLOW; TIDE_SUCCESS if it is no guard page any more.
 */
TIDE_MUST_CHECK tide_status stack_grow(tide_space *space, struct grace_thread *thread, uint64_t page);

/* ---- write watch (watch.c) -------------------------------------------------------------------------------------- */

/* A write to a page is about to be allowed; its PTE is claimed. */
void watch_mark(struct write_watch *watch, uint64_t page);
TIDE_MUST_CHECK tide_status watch_get(tide_space *space, struct grace_thread *thread, uint32_t flags, tide_address base,
                                      uint64_t bytes, tide_address *addresses, uint64_t *count);
TIDE_MUST_CHECK tide_status watch_reset(tide_space *space, struct grace_thread *thread, tide_address base,
                                        uint64_t bytes);

#endif

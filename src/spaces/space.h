/*
 * Address spaces: a page table, the regions in it, a working set, charges and counters.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_SPACE_H
#define SPACES_SPACE_H

#include <pagetide/priority.h>
#include <pagetide/working_set.h>

#include "spaces/partition.h"
#include "spaces/vad.h"

#define SPACE_MAGIC 0x7469646573706163ull /* "tidespac" */

struct working_set {
    struct sync_lock lock; /* rank working_set */
    uint64_t minimum;      /* [A] pages; written under the lock */
    uint64_t maximum;      /* [A] written under the lock */
    uint32_t flags;        /* [A] TIDE_WORKING_SET_HARD_* */
    uint32_t passed;       /* [A] with everything locked a page was let past the hard maximum; until it fits again */
    uint64_t hand;         /* [L:working_set] page at which the next trim begins */
    uint64_t sample_hand;  /* [L:working_set] page from which on a table is sampled next, in a mapped space */
    uint64_t peak;         /* [A] highest size seen: looked at before each removal and at each query */
    /* At a hard maximum only. Admission is in working_set.c. */
    uint64_t bound;         /* [L:working_set] the set and `coming` together are no more than this */
    uint64_t coming;        /* [A] pages admitted that may not be counted yet */
    uint32_t waiters;       /* [A] threads that wait for `coming` to fall */
    struct sync_event room; /* signalled when it does and somebody waits */
    unsigned priority;      /* [L:working_set] of the space, when it is not in background mode */
};

/* The faults of a watched space (watch of working sets: NT's WsWatch). */
struct working_set_watch {
    struct sync_lock lock;            /* rank working_set_watch */
    uint64_t capacity, count, lost;   /* [L:working_set_watch] */
    tide_working_set_change *changes; /* [L:working_set_watch] NULL: not watched */
};

struct tide_space {
    uint64_t magic;              /* [I] SPACE_MAGIC while alive */
    struct partition *partition; /* [I] */
    uint64_t id;                 /* [I] */
    struct mapping *mapping;     /* [I] of a mapped space; NULL: a soft one */
    struct delivery *delivery;   /* [I] threads that read of its window (engine/mapped.c); NULL: none */
    uint64_t lowest_page;        /* [I] addresses that can be used */
    uint64_t highest_page;       /* [I] */
    struct page_table table;
    struct vad_tree vads;
    uint64_t bottom_up_start; /* [I] page at which a search for a free range begins, so that addresses are random */
    uint64_t top_down_start;  /* [I] the same from the top: last page of the range */
    uint64_t placement;       /* [A] struct placement of pages whose region has none (placement.c) */
    uint32_t priority;        /* [A] memory priority of pages faulted from now on */
    uint32_t has_placement;   /* [A] some region, or the space, has a placement of its own */
    uint32_t has_write_watch; /* [A] some region has write watch */
    uint32_t hard_maximum;    /* [A] the working set has a hard maximum */
    uint32_t watched;         /* [A] faults are noted in `watch` */
    uint32_t background;      /* [A] in background mode; written under the working set's lock */
    unsigned cluster_most;    /* [I] of a mapped space: pages that one fault shows at most */
    unsigned cpu_count;       /* [I] */
    struct space_counters *counters;                 /* [I] one per CPU */
    struct commit commit;                            /* private commit, and its limit (charge.c) */
    uint64_t commit_limit;                           /* [L:space] as the user set it: large pages do not count */
    uint64_t large_pages;                            /* [L:space] pages charged for large pages */
    struct sync_lock lock SYNC_CACHE_ALIGNED;        /* rank space: the VAD tree */
    struct slab vad_memory;                          /* [L:space] */
    struct vad *retired, *retired_last;              /* [L:space] removed VADs in their grace period, oldest first */
    uint64_t retired_count;                          /* [L:space] */
    uint64_t peak_virtual_pages;                     /* [L:space] */
    struct sync_lock tables_lock SYNC_CACHE_ALIGNED; /* rank space_tables */
    uint64_t tables_charged;                         /* [L:space_tables] pages charged for tables */
    uint64_t tables_promised;                        /* [L:space_tables] tables that may still be made */
    struct working_set working_set;
    struct working_set_watch watch;
    uint64_t pins;          /* [A] */
    uint64_t locked_pages;  /* [A] pages with PTE_LOCKED, and those that a call of lock has a quota for (lock.c) */
    uint64_t offered_pages; /* [A] pages with PTE_OFFERED */
    uint32_t lock_gate;     /* [A] a call that locks pages is under way */
    struct sync_event lock_gate_open; /* signalled when it has ended */
    tide_space *next, *previous;      /* [L:engine] */
};

static inline struct frames *space_frames(const tide_space *space)
{
    return space->partition->frames;
}

/* The CPU that runs the caller, as counters know it. */
static inline unsigned space_cpu(const tide_space *space)
{
    const unsigned cpu = os_cpu_current();

    return cpu < space->cpu_count ? cpu : 0;
}

static inline void space_count_on(tide_space *space, unsigned cpu, enum space_counter counter, uint64_t by)
{
    (void)sync_add_64(&space->counters[cpu].values[counter], by);
}

static inline void space_count(tide_space *space, enum space_counter counter, uint64_t by)
{
    space_count_on(space, space_cpu(space), counter, by);
}

uint64_t space_counter(const tide_space *space, enum space_counter counter);
/* How many pages came into the working set: what every kind of fault brought. SPACE_REMOVED is the other side. */
uint64_t space_pages_came(const tide_space *space);
/* Adds the faults that were resolved to `by_node`, by the node of the CPU that did it. */
void space_resolved_add(const tide_space *space, uint64_t *by_node);
/*
 * Valid pages: everything that came by a fault less everything removed. Exact when quiet; else as many as there were at
 * some moment, or fewer by what was removed meanwhile: so never above a hard maximum, and who keeps a minimum by it
 * keeps at least that.
 */
uint64_t space_working_set_pages(const tide_space *space);
/* The highest virtual size: after each reservation, with the space locked. */
void space_virtual_peak_update(tide_space *space);
/* Moves the peak up to the present size. Called before pages leave, so that the peak is not missed. */
void space_peak_update(tide_space *space);

/* `mapped`: NULL for a soft space, else checked options. */
TIDE_MUST_CHECK tide_status space_create(struct partition *partition, struct grace_thread *thread,
                                         const tide_mapped_options *mapped, tide_space **space);
/* Gives everything back. No other thread uses it. */
void space_destroy(tide_space *space, struct grace_thread *thread);

/* What a fault, or another call, has waited for frames so far. */
struct frame_wait {
    uint64_t ns;
    unsigned fruitless; /* looks in a row that showed no hope; of a strict place */
    uint64_t hope_ns;   /* of `ns`, when there was last something that may bring a frame; of any other place */
};

/*
 * Waits for a frame after an allocation at `place` failed, or does the work that brings one. The caller holds no lock,
 * no claim and no frame, and is inside the engine (which is left meanwhile, so whatever was looked up is void).
 * `wait` is all 0 at the first call of one access and kept by the caller between calls. TIDE_SUCCESS: look again;
 * TIDE_TIMEOUT; TIDE_ACCESS_SECTION_TOO_LONG; TIDE_NO_MEMORY if the place is strict and its node cannot bring one
 * (at FRAMES_SPILL: within a while), or if after all that time nothing is left that could bring one anywhere.
 */
TIDE_MUST_CHECK tide_status space_frame_wait(tide_space *space, struct grace_thread *thread, struct frames_place place,
                                             struct frame_wait *wait);

/* ---- placement (placement.c) ------------------------------------------------------------------------------------ */

void space_placement_set(tide_space *space, struct placement placement);
struct placement space_placement(const tide_space *space);
/* What counts in a region that has this one, or placement_none(): nothing is left at its default. */
struct placement space_placement_of(const tide_space *space, struct placement region);
/* Where that wants the frame of a page whose turn it is, when a thread of node `toucher` needs it. */
struct frames_place space_frames_place(const tide_space *space, struct placement placement, uint64_t turn,
                                       unsigned toucher);

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
/* The page of a PTE that was claimed from the form `seen`, which has a frame or a slot, goes, and `leave` stays. */
void page_delete_claimed(tide_space *space, uint64_t *pte, pte_t seen, pte_t leave);
/*
 * Makes a clean page whose PTE the caller has claimed dirty: its slot is released, unless a write is in flight, which
 * then does so.
 */
void page_dirty_claimed(tide_space *space, frame_t frame);
/*
 * What goes back into the PTE when the frame is taken: releases a slot that was noted. By whom `original` belongs to.
 */
void page_original_set(tide_space *space, struct pfn *pfn, uint64_t original);
/*
 * The frame of a valid PTE, which the caller has claimed and publishes in transition form, leaves the working set. The
 * caller counts.
 */
void page_frame_remove(struct frames *frames, frame_t frame);
/* The same for one of several; the epoch was read after all claims. */
void page_frame_remove_batched(struct frames_batch *lists, frame_t frame, uint16_t epoch);
/*
 * Waits while a PTE is busy. One that has a frame is claimed then, and its form returned, for pte_release(); of any
 * other only the form is returned.
 */
pte_t page_claim(tide_space *space, uint64_t *pte);

/* ---- pages of a mapped space (mapped.c); in a soft space all of it does nothing --------------------------------- */

/* The page of a PTE that the caller has claimed is hidden from the program. */
void mapped_page_hide(const tide_space *space, const uint64_t *pte);
/* And lets its memory go, if `seen` is the form of a page in memory. */
void mapped_page_drop(const tide_space *space, const uint64_t *pte, pte_t seen);
/*
 * The PTEs of these pages have lost rights: what the program still has is taken away. Locked and pinned pages stay
 * shown, so that system calls on them go on working, and lose the right to be written.
 */
void mapped_range_weaken(tide_space *space, uint64_t first, uint64_t last);
/* Is the page of a valid PTE pinned? Then it is not hidden, since system calls may be at work on it. */
bool mapped_page_is_held(const tide_space *space, pte_t pte);

/*
 * Pages of one leaf that are to be hidden, gathered in ascending order: as few calls as spare what is locked or held.
 */
struct mapped_hiding {
    tide_space *space;
    const uint64_t *leaf;
    uint64_t page;        /* of its first entry */
    unsigned first, last; /* gathered so far; none if `last` is less */
};
void mapped_hiding_begin(struct mapped_hiding *hiding, tide_space *space, const uint64_t *leaf, uint64_t page);
void mapped_hiding_add(struct mapped_hiding *hiding, unsigned index);
void mapped_hiding_end(struct mapped_hiding *hiding);

/* Pages that are to be deleted, claimed and gathered: their memory goes in as few calls as they lie together. */
struct mapped_deletion {
    tide_space *space;
    pte_t leave;
    uint64_t *first;
    unsigned count;
    pte_t seen[MAPPING_DROP];
};
void mapped_deletion_begin(struct mapped_deletion *deletion, tide_space *space, pte_t leave);
/* As page_delete(), which it is in a soft space. */
bool mapped_deletion_add(struct mapped_deletion *deletion, uint64_t *pte, bool zero_is_committed);
void mapped_deletion_end(struct mapped_deletion *deletion);

/* ---- pages of bad frames (bad_page.c) --------------------------------------------------------------------------- */

enum bad_page_outcome {
    BAD_PAGE_NONE,   /* the frame held no page */
    BAD_PAGE_BACKED, /* its page is clean: it is read again, or was not needed */
    BAD_PAGE_LOST,
    BAD_PAGE_PINNED, /* nothing has changed: it waits for its pins */
    BAD_PAGE_TABLE   /* nothing has changed: it is a page table */
};
/*
 * Takes the page from a noted frame and puts the frame on the bad list, if that can be done. The world is stopped, and
 * the CPUs' caches are drained. *space and *page are those of the page, NULL if there is none or the frame is a table.
 */
enum bad_page_outcome bad_page_take(struct partition *partition, frame_t frame, tide_space **space, uint64_t *page);
/*
 * A page of a mapped space, whose frame the caller is writing, cannot be read from the file: EHWPOISON. It is lost, and
 * the frame is free when the write ends; unless the program has it by now, or somebody is at it. The caller holds the
 * mapping, and is inside the engine.
 */
void bad_page_unreadable(struct mapping *mapping, uint64_t *pte, frame_t frame);

/* ---- working sets (working_set.c) ------------------------------------------------------------------------------- */

/*
 * The order in which pages are taken: by rank, the highest first. A page's rank is its age - in a space in background
 * mode half way from there to the highest - and, between pages of one age, its lack of priority.
 */
enum { WORKING_SET_PRIORITIES = 8, WORKING_SET_RANKS = (PTE_AGE_MAX + 1) * WORKING_SET_PRIORITIES };

/* Pages by rank that a trim could take, on one node, accessed ones not among them. */
struct working_set_ranks {
    uint64_t pages[WORKING_SET_RANKS];
};

/* The least and the largest limit that can be set. */
enum { WORKING_SET_LEAST_MINIMUM = 20, WORKING_SET_LEAST_MAXIMUM = 13 };
uint64_t working_set_largest(const struct partition *partition);
/* The limits of a new space. */
void working_set_init(tide_space *space);

/*
 * One pass of ageing over the space's pages on `node` (TIDE_NO_PREFERRED_NODE: on all): accessed pages become younger
 * and unaccessed again, others older. If `ranks` is not NULL, adds them to it. Returns the sum of the ages of these
 * pages, one more for each: the space's claim to be trimmed, large if the set is large and long idle. In a mapped space
 * only a few accessed pages are looked at unless pages are short.
 */
uint64_t working_set_age(tide_space *space, unsigned node, bool pages_are_short, struct working_set_ranks *ranks);
/* The same figures, of pages not accessed since the last pass, and no page becomes older or younger. */
uint64_t working_set_look(tide_space *space, unsigned node, struct working_set_ranks *ranks);
/* The highest rank such that the pages of it and above are at least `need`; 0 if all are fewer. */
unsigned working_set_rank_for(const struct working_set_ranks *ranks, uint64_t need);
/* Which pages a trim takes. Fixed ones (pte_is_fixed()) never. */
struct working_set_choice {
    unsigned node;     /* pages on this node; TIDE_NO_PREFERRED_NODE: on all */
    unsigned rank;     /* of at least this rank, and not accessed since the last ageing */
    bool accessed_too; /* also those accessed, whatever their rank */
    bool clean_only;   /* not those that would have to be written */
    uint64_t keep;     /* so many pages stay in the working set, also if two trim it at once */
};
/* Removes up to `budget` pages from the working set, from the hand on, once around at most. Returns the count. */
uint64_t working_set_trim(tide_space *space, struct working_set_choice choice, uint64_t budget);
/* Removes up to `budget` pages, highest rank first, then accessed ones. Ages the set once. Returns the count. */
uint64_t working_set_trim_oldest(tide_space *space, uint64_t budget);

/*
 * At a hard maximum: asks for room for one more page, replacing pages of the space if need be. True: the page may come
 * in; working_set_settle() follows when it has come in and was counted, or will not come. False: everything that could
 * make room is in motion in other threads; the caller waits (working_set_room_wait()) and looks at its page again.
 * The caller is inside the engine, has read space->hard_maximum there, and holds no claim.
 */
TIDE_MUST_CHECK bool working_set_admit(tide_space *space);
void working_set_settle(tide_space *space);
/* Leaves the engine meanwhile. */
void working_set_room_wait(tide_space *space, struct grace_thread *thread);
/*
 * Sets limits that were checked. In a stopped world, unless no hard maximum is set: then nobody is between
 * working_set_admit() and working_set_settle(), and the set is trimmed to the maximum before anybody goes on.
 */
void working_set_limits_set(tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t flags);
/* How many pages the set may have when the world is stopped: the hard maximum, if it has one and was never passed. */
uint64_t working_set_most(const tide_space *space);

/* ---- watching working sets (ws_watch.c) ------------------------------------------------------------------------- */

/* Slow path of a fault: notes it, if the space is still watched. */
void working_set_watch_note(tide_space *space, const struct grace_thread *thread, tide_address address,
                            tide_status fault);
TIDE_MUST_CHECK tide_status working_set_watch_begin(tide_space *space, uint64_t capacity);
void working_set_watch_end(tide_space *space);
TIDE_MUST_CHECK tide_status working_set_watch_take(tide_space *space, tide_working_set_change *changes, uint64_t *count,
                                                   uint64_t *lost);

/* ---- regions (region*.c): what tide_virtual_* do, with arguments checked by the caller against NULL ------------- */

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
/* Limits the private commit of the space, large pages aside (nt-behaviour 7 rule 1). */
void space_commit_limit_set(tide_space *space, uint64_t pages);
/* Frees the VADs that left the tree, whatever their grace period: nobody uses the space any more. */
void region_retired_free_all(tide_space *space);

/* ---- stacks (stack.c) ------------------------------------------------------------------------------------------- */

TIDE_MUST_CHECK tide_status stack_create(tide_space *space, struct grace_thread *thread, uint64_t reserve_bytes,
                                         uint64_t commit_bytes, tide_stack *stack);
/*
 * The guard page of a stack was touched at this address, with no lock and no claim held: it becomes an ordinary page,
 * and the next lower one the guard. TIDE_PAGE_FAULT_GUARD_PAGE; TIDE_STACK_OVERFLOW; TIDE_SUCCESS if it is no guard
 * page any more.
 */
TIDE_MUST_CHECK tide_status stack_grow(tide_space *space, struct grace_thread *thread, tide_address address);

/* ---- contents that may be dropped (contents.c) ------------------------------------------------------------------ */

enum contents_call {
    CONTENTS_RESET,   /* whole pages inside of the range */
    CONTENTS_UNDO,    /* the same */
    CONTENTS_DISCARD, /* this and the next two: base and size are multiples of the page size */
    CONTENTS_OFFER,
    CONTENTS_RECLAIM
};
/* `priority` of an offer, 1 to 4. TIDE_CONTENTS_LOST from undo and reclaim. */
TIDE_MUST_CHECK tide_status contents_change(tide_space *space, struct grace_thread *thread, enum contents_call call,
                                            tide_address base, uint64_t bytes, unsigned priority);
/* The whole pages inside of a range, as first and one past the last. TIDE_INVALID_PARAMETER as for any range. */
TIDE_MUST_CHECK tide_status contents_whole_pages(tide_address base, uint64_t bytes, uint64_t *first, uint64_t *end);

/* ---- locking pages in the working set (lock.c; the rest is faults/lock.c) ---------------------------------------- */

/* Pages of a space's minimum working set that cannot be locked (nt-behaviour 6 rule 5). */
enum { WORKING_SET_LOCK_OVERHEAD_PAGES = 8 };

/* One call that locks pages, all or none. */
struct lock_request {
    uint64_t first, last; /* pages */
    uint64_t quota;       /* pages that it may still lock */
};
/* Checks the range, and takes quota for the pages of it that are not locked. */
TIDE_MUST_CHECK tide_status lock_prepare(tide_space *space, tide_address base, uint64_t bytes,
                                         struct lock_request *request);
/* TIDE_WORKING_SET_QUOTA, TIDE_NO_MEMORY. Holding no lock. */
TIDE_MUST_CHECK tide_status lock_quota_take(tide_space *space, uint64_t pages);
void lock_quota_return(tide_space *space, uint64_t pages);
/* Takes the lock of one page away, if it has one; true if so. The quota stays taken. */
bool page_unlock(tide_space *space, uint64_t *pte);
TIDE_MUST_CHECK tide_status unlock_range(tide_space *space, tide_address base, uint64_t bytes);

/* ---- write watch (watch.c) -------------------------------------------------------------------------------------- */

/* A write to a page is about to be allowed; its PTE is claimed. */
void watch_mark(struct write_watch *watch, uint64_t page);
TIDE_MUST_CHECK tide_status watch_get(tide_space *space, struct grace_thread *thread, uint32_t flags, tide_address base,
                                      uint64_t bytes, tide_address *addresses, uint64_t *count);
TIDE_MUST_CHECK tide_status watch_reset(tide_space *space, struct grace_thread *thread, tide_address base,
                                        uint64_t bytes);

#endif

/*
 * VADs: the regions of an address space, in a B+-tree keyed by virtual page number (nt-behaviour 8.1).
 *
 * Writers (reserve, release) hold the space's lock. Readers (faults, queries) take no lock, write nothing and wait for
 * nobody: they walk the tree inside an epoch section, and each change becomes visible to them by one store. A VAD that
 * left the tree is freed by the caller only after a grace period; so are nodes, by the tree. Nodes carry the largest
 * gap of each subtree, so that finding room is O(log n) too. How it works and why it is right: vad.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_VAD_H
#define SPACES_VAD_H

#include <pagetide/virtual.h>

#include "base/sync.h"
#include "frames/grace.h"
#include "spaces/placement.h"
#include "spaces/slab.h"

/* A region begins at a multiple of this many pages: the allocation granularity of 64 KiB. */
enum { VAD_UNIT_PAGES = 16 };

/* Flags in commit_state of a VAD that left the tree. */
#define VAD_DELETED 0x80000000u  /* released */
#define VAD_REPLACED 0x40000000u /* other VADs took its place: look again */
#define VAD_GONE (VAD_DELETED | VAD_REPLACED)

enum vad_kind {
    VAD_PRIVATE,
    VAD_WRITE_WATCH,
    VAD_STACK,
    VAD_LARGE_PAGES,
    VAD_PLACEHOLDER, /* nothing can be committed in it */
};

/* Which pages of a region were written: one bit each. Regions that were one when it was reserved share it. */
struct write_watch {
    uint64_t first_page; /* [I] page of bit 0 */
    uint64_t users;      /* [L:space] VADs that point to it, retired ones included */
    uint64_t bits[];     /* [A] */
};

struct vad {
    /* What a fault reads, together: one cache line. */
    uint64_t first_page;        /* [I] virtual page numbers, inclusive; a region changes its bounds by being replaced */
    uint64_t last_page;         /* [I] */
    uint32_t protection;        /* [I] TIDE_PAGE_ value at reserve time */
    uint32_t commit_state;      /* [A] written under L:region; software protection with which a zero PTE counts as
                                 committed, 0 if it does not (NT's flag MemCommit); VAD_GONE flags */
    uint32_t commit_generation; /* [A] written under L:region; moves after each change of commit_state that takes pages
                                   away */
    struct placement placement; /* [I] */
    struct write_watch *watch;  /* [I] VAD_WRITE_WATCH */
    uint16_t kind;              /* [I] enum vad_kind */
    bool was_placeholder;       /* [I] it replaced one */
    bool reserved_only;         /* [L:space] and [L:region] to write, either to read; nothing was ever committed in it.
                                   Its entry in the tree says so too */
    uint16_t retired_epoch;     /* [L:space] */
    /* What writers alone touch. */
    struct sync_lock lock SYNC_CACHE_ALIGNED; /* rank region: commit, decommit, protect, and the end of the region */
    uint64_t committed_pages;                 /* [A] written under L:region; pages charged */
    uint64_t table_charge;                    /* [L:region] pages charged for tables that the region may still need */
    struct vad *retired_next;                 /* [L:space] after removal: waits for its grace period */
}; /* two lines; regions share none: committed_pages is written at each commit */
_Static_assert(sizeof(struct vad) == 2 * SYNC_CACHE_LINE_BYTES, "a VAD has two cache lines");

struct vad_node; /* vad_impl.h */

struct vad_tree {
    struct vad_node *root;      /* [A] [E] stored with release under L:space, loaded with acquire; NULL if empty */
    uint64_t sequence;          /* [A] moves after each change, and never without one */
    uint64_t count;             /* [L:space] */
    uint64_t pages;             /* [L:space] sum of all lengths */
    struct grace *grace;        /* [I] */
    uint32_t capacity;          /* [I] entries of a node; tests lower it, before the first insertion */
    uint32_t missed;            /* [L:space] nodes that were left with too few entries since there was no memory */
    struct slab leaves, inners; /* [L:space] all nodes: in the tree, retired and free */
    struct vad_node *dropped;   /* [L:space] replaced in the change that is under way */
    struct vad_node *retired, *retired_last; /* [L:space] replaced nodes in their grace period, oldest first */
    uint64_t retired_count;                  /* [L:space] */
    uint64_t retired_bound;                  /* [L:space] count from which on to move the grace period */
};

void vad_tree_init(struct vad_tree *tree, struct grace *grace);
/* Frees all nodes, whatever their grace period: nobody uses the tree any more. The VADs are the caller's. */
void vad_tree_destroy(struct vad_tree *tree);

/*
 * Under the space's lock: gets the memory that the next insertion, or replacement of `old_count` VADs, may need, so
 * that it cannot fail. TIDE_INSUFFICIENT_RESOURCES: there is none, and nothing has changed.
 */
TIDE_MUST_CHECK tide_status vad_prepare(struct vad_tree *tree, uint64_t old_count);

/*
 * Under the space's lock, after vad_prepare(). Inserts a VAD whose range is known to be free (asserted in every build).
 * The caller has set the [I] fields and reserved_only. A VAD lies at a multiple of 64 bytes, and is inserted once in
 * its life.
 */
void vad_insert(struct vad_tree *tree, struct vad *vad);
/*
 * Under the space's lock. Unlinks a VAD of this tree (asserted); the caller frees it after a grace period. Cannot fail,
 * and needs no preparation.
 */
void vad_remove(struct vad_tree *tree, struct vad *vad);

/*
 * Under the space's lock, after vad_prepare(). The new VADs, in ascending order, take the place of the old one, or of
 * the old ones, in one change: a reader finds all of the old or all of the new. Either there is one old VAD and all new
 * ones, at most VAD_PARTS_MAX, lie inside of it; or there are several old ones, all those of a range, and one new one,
 * which begins in the first, or none. Old and new ones are under the conditions of remove and insert.
 */
enum { VAD_PARTS_MAX = 3 };
void vad_replace(struct vad_tree *tree, struct vad *const *old, uint64_t old_count, struct vad *const *fresh,
                 unsigned fresh_count);

/*
 * Lock-free, inside an epoch section: the VAD that holds a page, or NULL. The answer was true at some moment of the
 * call, which waits for nobody. Also right under the space's lock.
 */
struct vad *vad_find(const struct vad_tree *tree, uint64_t page);

/* What the tree itself knows of a region. */
struct vad_summary {
    uint64_t first_page, last_page;
    uint32_t protection; /* TIDE_PAGE_ value at reserve time, if nothing was ever committed in it; else 0 */
};
/*
 * The same as vad_find(), and tells what the tree knows, all of one moment. The VAD itself is touched only if its
 * region is longer than VAD_ENTRY_PAGES_MAX pages.
 */
enum { VAD_ENTRY_PAGES_MAX = UINT16_MAX };
struct vad *vad_find_summary(const struct vad_tree *tree, uint64_t page, struct vad_summary *summary);
/*
 * Under the locks of the space and of the region: clears reserved_only of a VAD of this tree, before the first commit.
 */
void vad_committing(struct vad_tree *tree, struct vad *vad);

/* Under the space's lock: the first VAD that overlaps [first, last], else the first one after it; NULL if none. */
struct vad *vad_find_first(const struct vad_tree *tree, uint64_t first, uint64_t last);

/* What vad_find_gap() looks for. */
struct vad_gap {
    uint64_t pages;           /* > 0 */
    uint64_t lowest, highest; /* pages, inclusive, that the whole range lies within */
    uint64_t alignment;       /* of the base, in pages: a power of two, at least VAD_UNIT_PAGES */
    bool top_down;            /* the highest that fits, else the lowest */
};

/*
 * Under the space's lock: finds free pages such that no unit of VAD_UNIT_PAGES that any VAD touches is used: the rest
 * of the last unit of a region is lost (nt-behaviour 4 rule 2). O(log n); with an alignment above the unit the result
 * may be another than the lowest (highest) that would fit, and if only gaps are left that hold the range by the luck
 * of their own alignment, O(n). Returns false if there is none.
 */
bool vad_find_gap(const struct vad_tree *tree, const struct vad_gap *gap, uint64_t *first_page);

/* Under the space's lock: in order, for verification and teardown; NULL at the end. O(log n) a step. */
struct vad *vad_first(const struct vad_tree *tree);
struct vad *vad_next(const struct vad_tree *tree, const struct vad *vad);

/*
 * Under the space's lock: checks order, disjointness, separators, fill, height, gaps, totals, and that no node is lost
 * (I10). Returns false and fills `why` on the first violation. O(n).
 */
bool vad_tree_check(const struct vad_tree *tree, char *why, size_t why_bytes);

#endif

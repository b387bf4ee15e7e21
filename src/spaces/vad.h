/*
 * VADs: the regions of an address space, as a balanced tree keyed by virtual page number (nt-behaviour 8.1).
 *
 * Writers (reserve, release) hold the space's lock. Readers (faults) take no lock and write nothing: they walk the tree
 * inside an epoch section, and a sequence count that writers move tells them whether "there is none" can be believed. A
 * VAD that left the tree is freed only after a grace period. Nodes carry the largest gap of their subtree, so that
 * finding room is O(log n) too. How it works and why it is right: vad.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_VAD_H
#define SPACES_VAD_H

#include <pagetide/virtual.h>

#include "base/sync.h"

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
    /* What a reader's walk and a fault touch, together: one cache line. */
    uint64_t first_page;        /* [I] virtual page numbers, inclusive; a region changes its bounds by being replaced */
    uint64_t last_page;         /* [I] */
    struct vad *left, *right;   /* [A] [E] stored with release under L:space, loaded with acquire */
    uint32_t protection;        /* [I] TIDE_PAGE_ value at reserve time */
    uint32_t preferred_node;    /* [I] or TIDE_NO_PREFERRED_NODE */
    uint32_t commit_state;      /* [A] written under L:region; software protection with which a zero PTE counts as
                                 committed, 0 if it does not (NT's flag MemCommit); VAD_GONE flags */
    uint32_t commit_generation; /* [A] written under L:region; moves after each change of commit_state that takes pages
                                   away */
    struct write_watch *watch;  /* [I] VAD_WRITE_WATCH */
    uint16_t kind;              /* [I] enum vad_kind */
    bool was_placeholder;       /* [I] it replaced one */
    uint16_t retired_epoch;     /* [L:space] */
    /* What writers alone touch. */
    struct sync_lock lock;    /* rank region: commit, decommit, protect, and the end of the region */
    uint64_t committed_pages; /* [L:region] pages charged */
    uint64_t table_charge;    /* [L:region] pages charged for tables that the region may still need */
    uint64_t priority;        /* [I] set at insertion; unique in the tree, higher than those of both children */
    uint64_t subtree_first;   /* [L:space] first page of the leftmost VAD of the subtree */
    uint64_t subtree_last;    /* [L:space] last page of the rightmost */
    uint64_t subtree_gap;     /* [L:space] longest run of untouched units between two neighbours of the subtree */
    struct vad *retired_next; /* [L:space] after removal: waits for its grace period */
} SYNC_CACHE_ALIGNED;         /* two lines; regions share none: committed_pages is written at each commit */
_Static_assert(sizeof(struct vad) == 2 * SYNC_CACHE_LINE_BYTES, "a VAD has two cache lines");

struct vad_tree {
    struct vad *root;  /* [A] [E] as vad.left */
    uint64_t sequence; /* [A] odd while a writer changes the tree */
    uint64_t count;    /* [L:space] */
    uint64_t pages;    /* [L:space] sum of all lengths */
    uint64_t random;   /* [L:space] state of the generator of priorities */
};

void vad_tree_init(struct vad_tree *tree, uint64_t seed);

/*
 * Under the space's lock. Inserts a VAD whose range is known to be free (asserted in every build). The caller has set
 * the [I] fields other than the priority. A VAD is inserted once in its life.
 */
void vad_insert(struct vad_tree *tree, struct vad *vad);
/* Under the space's lock. Unlinks a VAD of this tree (asserted); the caller frees it after a grace period. */
void vad_remove(struct vad_tree *tree, struct vad *vad);

/*
 * Under the space's lock. The new VADs, in ascending order, take the place of the old one, or of the old ones, in one
 * change: no reader misses a page that is in both. Old and new ones are under the conditions of remove and insert.
 */
void vad_replace(struct vad_tree *tree, struct vad *const *old, unsigned old_count, struct vad *const *fresh,
                 unsigned fresh_count);

/*
 * Lock-free, inside an epoch section: the VAD that holds a page, or NULL. The answer was true at some moment of the
 * call. Waits (spins, then yields) only for a writer that is inside the tree at this moment, and only if the walk did
 * not meet the page. Also right under the space's lock, where it never waits.
 */
struct vad *vad_find(const struct vad_tree *tree, uint64_t page);
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
 * Under the space's lock: checks order, disjointness, heap order, augmentation and totals (I10). Returns false and
 * fills `why` on the first violation. O(n).
 */
bool vad_tree_check(const struct vad_tree *tree, char *why, size_t why_bytes);

#endif

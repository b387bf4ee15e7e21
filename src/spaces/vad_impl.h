/*
 * Inside spaces/vad*.c: the nodes of the tree of VADs. The ideas are in vad.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_VAD_IMPL_H
#define SPACES_VAD_IMPL_H

#include "spaces/vad.h"

enum {
    VAD_FANOUT = 32,     /* entries that a node has room for: each array of them has four cache lines */
    VAD_KEYS_A_LINE = 8, /* keys in a cache line */
    VAD_HEIGHT_MAX = 24, /* levels; with the lowest capacity, 4, still more than memory for VADs */
};

/* The VADs of a subtree. If there are none, first is above last. */
struct vad_span {
    uint64_t first, last; /* pages: the first one of the first VAD, the last one of the last */
    uint64_t gap;         /* longest run of units between two neighbours that neither touches */
};

/*
 * A leaf (level 0) holds VADs by first page, an inner node holds nodes of the level below. Entry i of an inner node has
 * the VADs of the pages from key[i] to key[i + 1] - 1; its key[0] is 0, which stands for "whatever is below".
 */
struct vad_node {
    uint16_t level;         /* [I] */
    uint16_t count;         /* [I] entries */
    uint16_t live;          /* [L:space] a leaf's: entries with a VAD */
    uint16_t retired_epoch; /* [L:space] */
    uint64_t born;          /* [L:space] sequence of the tree when it was made */
    struct vad_node *next;  /* [L:space] dropped or retired */
    /* What readers search: UINT64_MAX past the last entry. */
    uint64_t key[VAD_FANOUT] SYNC_CACHE_ALIGNED; /* leaf: [I] first pages. Inner: [A] raised under L:space */
    union {
        uint64_t entry[VAD_FANOUT];         /* [A] [E] leaf, see below: store release, load acquire */
        struct vad_node *child[VAD_FANOUT]; /* [A] [E] store release, load acquire */
    };
    /* Inner nodes only, the span of each child; the memory of a leaf ends here. */
    uint64_t first[VAD_FANOUT]; /* [L:space] */
    uint64_t last[VAD_FANOUT];  /* [L:space] */
    uint64_t gap[VAD_FANOUT];   /* [L:space] */
};
_Static_assert(VAD_FANOUT % VAD_KEYS_A_LINE == 0 && VAD_KEYS_A_LINE * sizeof(uint64_t) == SYNC_CACHE_LINE_BYTES,
               "keys fill their lines");

/*
 * An entry of a leaf is one word, which readers load at once: 0 if the VAD was removed, else its address, and in the
 * bits that no address uses what most readers want of it, so that they need not wait for its cache line too.
 *   63..48  its length in pages; 0: too long, and it is the VAD's to tell
 *   47..6   address of the VAD
 *   5..0    what a query says if nothing was ever committed: 1 | bit number of the access << 1 | modifier << 4; else 0
 */
#define VAD_ENTRY_PAGES_SHIFT 48
#define VAD_ENTRY_RESERVED 0x3Full
#define VAD_ENTRY_ADDRESS (((1ull << VAD_ENTRY_PAGES_SHIFT) - 1) & ~VAD_ENTRY_RESERVED)

static inline struct vad *vad_entry_vad(uint64_t entry)
{
    return (struct vad *)(uintptr_t)(entry & VAD_ENTRY_ADDRESS); /* NOLINT(performance-no-int-to-ptr) */
}

/* The last page of an entry with the key `first`; `first` if it holds no VAD. */
static inline uint64_t vad_entry_last(uint64_t first, uint64_t entry)
{
    const uint64_t pages = entry >> VAD_ENTRY_PAGES_SHIFT;
    const struct vad *vad = vad_entry_vad(entry);

    if (__builtin_expect(pages != 0, 1))
        return first + pages - 1;
    return vad != NULL ? vad->last_page : first;
}

static inline uint64_t vad_leaf_last(const struct vad_node *leaf, unsigned i)
{
    return vad_entry_last(leaf->key[i], leaf->entry[i]);
}

/* The entry for a VAD. */
uint64_t vad_entry_make(const struct vad *vad);

/* The way from the root to a leaf: at[level] is the entry taken in node[level]; in the leaf, the one after the page. */
struct vad_path {
    unsigned top; /* level of the root */
    struct vad_node *node[VAD_HEIGHT_MAX];
    unsigned at[VAD_HEIGHT_MAX];
};

static inline uint64_t vad_max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static inline uint64_t vad_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t vad_unit(uint64_t page)
{
    return page / VAD_UNIT_PAGES;
}

/* Free units in [start, end); 0 if two regions share a unit and the bounds cross. */
static inline uint64_t vad_gap_length(uint64_t start, uint64_t end)
{
    return end > start ? end - start : 0;
}

static inline bool vad_span_is_empty(struct vad_span span)
{
    return span.first > span.last;
}

/*
 * How many keys are not above a page. First the keys that begin a cache line, then those of one line: two rounds of
 * loads that do not wait for each other, instead of the five of a binary search. The line with the count is not looked
 * at: past the last key stands what no page is as high as.
 */
static inline unsigned vad_rank(const struct vad_node *node, uint64_t page)
{
    unsigned line = 0, found = 0;

    page -= page == UINT64_MAX; /* no region begins there */
    for (unsigned i = VAD_KEYS_A_LINE; i < VAD_FANOUT; i += VAD_KEYS_A_LINE)
        line += sync_load_relaxed_64(&node->key[i]) <= page;
    const uint64_t *keys = &node->key[line * VAD_KEYS_A_LINE];
    for (unsigned i = 0; i < VAD_KEYS_A_LINE; i++)
        found += sync_load_relaxed_64(&keys[i]) <= page;
    return line * VAD_KEYS_A_LINE + found;
}

static inline struct vad_span vad_child_span(const struct vad_node *node, unsigned i)
{
    return (struct vad_span){ node->first[i], node->last[i], node->gap[i] };
}

/* Fewest entries of a node that is not the root. */
static inline unsigned vad_least(const struct vad_tree *tree)
{
    return tree->capacity / 8 > 2 ? tree->capacity / 8 : 2;
}

static inline uint16_t vad_height(const struct vad_tree *tree)
{
    return tree->root == NULL ? 0 : (uint16_t)(tree->root->level + 1);
}

/* ---- walks (vad_search.c), space locked ------------------------------------------------------------------------- */

/* The way to where a page is or would be, from a root that is not NULL. */
void vad_descend(struct vad_node *root, uint64_t page, struct vad_path *path);
/*
 * The leaf with the first VAD whose last page is not below `page`, the way to which is given, and is lost; *at is its
 * entry. NULL if there is none.
 */
const struct vad_node *vad_from(struct vad_path *path, uint64_t page, unsigned *at);
/* What a parent must know of a node, from its entries. */
struct vad_span vad_node_span(const struct vad_node *node);

/* ---- memory (vad_node.c), space locked -------------------------------------------------------------------------- */

/* Makes sure of so many free nodes; false if there is no memory. */
bool vad_nodes_have(struct vad_tree *tree, uint64_t leaves, uint64_t inners);
/* A free node. Never fails: vad_nodes_have() was asked before. */
struct vad_node *vad_node_take(struct vad_tree *tree, unsigned level);
/* A node is replaced in the change that is under way. */
void vad_node_drop(struct vad_tree *tree, struct vad_node *node);
/* The change is visible: what it dropped begins its grace period. */
void vad_nodes_retire(struct vad_tree *tree);

#endif

/*
 * The tree of VADs: a B+-tree with lock-free readers.
 *
 * What. One tree per space holds its regions, disjoint, ordered by page number. Every fault asks it "which region is
 * this page in", from any thread, so a lookup takes no lock and writes no memory; reserve and release, which are rare
 * beside faults, change it under the lock of the space.
 *
 * Why a B+-tree. What a lookup costs in a large space is the cache misses that wait for each other. A binary tree of
 * 100,000 regions makes its readers wait for about 20, a B+-tree with 32 entries a node for two a level and four
 * levels, the upper ones of which stay in the cache. The VADs of 100,000 regions are 12 MB, more than the cache that a
 * program has to itself; the leaves, 2 MB, are not. So a leaf tells all that most lookups want: where each region ends,
 * and the answer of a query in a region that nothing was ever committed in (vad_impl.h). A lookup touches no VAD,
 * unless that of a long region.
 *
 * Nodes. All leaves have the same depth. A node has between an eighth and the whole of its capacity of entries; the
 * root may have fewer. A full node is split in two, a node with too few is joined with a neighbour, or takes entries
 * from it. Appending leaves seven eighths of each node full, since programs reserve in ascending order.
 *
 * Changes. A reader sees each change as one store, of one of three kinds:
 *   - A VAD is removed, or takes the place of one with the same first page, or its first commit is about to come: the
 *     store of its entry in the leaf. The entry of a removed VAD holds 0, "no region here", until its leaf is rewritten,
 *     or a region that begins there comes back, which programs often do. So a removal needs no memory and cannot fail.
 *   - Everything else writes new nodes instead of those whose keys or entries change, up to the first node in which one
 *     entry changes to one: the store of that entry, or of the root, puts them into the tree. The nodes that they
 *     replace are left alone from then on and are used again after a grace period.
 *   - When several old VADs are replaced (placeholders are joined), all nodes on the way to them are written anew, and
 *     the store of the root shows it all at once.
 * What only writers read - the bounds and gaps of subtrees in inner nodes - is changed in place.
 *
 * Why a reader is right. The keys of a leaf never change, those of an inner node hardly (see below). Claim: each node
 * that a walk for page p reaches was, at some moment of the call, in the tree as the node of its level for p. The root
 * was. Let inner node N have been so at moment t of the call, and let the reader then load N's entry for p, child C. If
 * N was still in the tree then, C was N's child at that moment. If N had been replaced, at a moment r after t, N's
 * entries have not changed since, so C was the node for p just before r. In a leaf the keys stand, and an entry is one
 * word: VAD, length and whether anything was ever committed belong together. If the leaf was still in the tree when the
 * reader loaded the entry for p, that was the answer at that moment, else the answer just before the leaf was replaced.
 * So the answer, a VAD or NULL, was true at a moment of the call, and the reader neither waits nor looks twice.
 * "Moment" is the order of the writers' stores, which the lock makes total; a reader's loads see it monotonically, on
 * x86 because loads keep their order and so do stores, under C11 because each entry is stored with release and loaded
 * with acquire. A removal may be followed by a rewriting of nodes; it changes no answer.
 *
 * Separators. A key of an inner node says where one child ends and the next begins. No VAD may lie across a key, or the
 * pages behind the key would not find it. A new VAD may, if keys were left behind by VADs that are gone: then these
 * keys are first raised to the page after it, in place (first_raise()). All pages between the old key and the new one
 * are free at that moment, and until the VAD is put in: a reader that goes right by the old key, rather than left by
 * the new one, finds nothing, which was true when it read the key. In nodes that nobody sees yet, keys are raised at
 * leisure.
 *
 * The sequence moves after each change, by a locked instruction, so that the epoch which the replaced nodes and VADs
 * are stamped with is read after the change was visible. Whoever found a VAD and sees the sequence as it was before the
 * lookup knows that the VAD is still in the tree, or leaves it just now and is not freed before the section of this
 * look ends (fault_vad()).
 *
 * The first commit. That nothing was ever committed in a region is said by its entry, and so goes there before the
 * first page is committed (vad_committing()): under the space's lock, so that no rewriting of the leaf brings back what
 * the old one said, and under the region's, whose holder commits right after. It does not come back when the pages are
 * decommitted; then the VAD is asked. So a region pays once in its life, and threads that commit and decommit in
 * regions of their own still write no common line.
 *
 * Gaps. Space is given out in units of 16 pages (64 KiB): a unit that any VAD touches is taken whole. An inner node
 * knows of each child the bounds of its VADs and the longest run of free units between two of them. The search goes
 * into a child only if a run that is long enough lies in it. Such a child can then disappoint only when it straddles
 * one end of the range asked for, and at each level there is at most one that straddles an end: O(height) nodes in all.
 *
 * Memory. Nodes come from a pool of the tree (vad_node.c), which vad_prepare() fills before a change that may need
 * some: for each level two, for a join of several more. A removal that finds no memory to join a node with its
 * neighbour lets it have too few entries and counts that in `missed`; nothing but the height bound suffers.
 *
 * Invariants, all checked by vad_tree_check() (vad_search.c): VADs disjoint, sorted, told truly by their entries,
 * between the separators of their leaf; fill, order of keys, one depth; bounds and gaps of each child follow from it;
 * count and pages are the sums; each node is in the tree, free or retired.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/vad_impl.h"

#include "base/error.h"

/* A change of the tree. If it is whole, its nodes are shown by a store of the root at its end, and none before. */
struct change {
    struct vad_tree *tree;
    struct vad_node *root; /* as it will be */
    bool whole;
};

/* An entry of a node outside of it. */
struct item {
    uint64_t key;
    union {
        uint64_t entry;
        struct vad_node *child;
    };
    struct vad_span span;
};

/* Two nodes, and what comes in. */
enum { ITEMS_MAX = 2 * VAD_FANOUT + VAD_PARTS_MAX };

/* ---- lookup, without a lock ------------------------------------------------------------------------------------- */

/* Which line of keys and which entry is wanted is known only when the keys have come: all are fetched at once. */
static void node_prefetch(const struct vad_node *node)
{
    for (unsigned i = 0; i < VAD_FANOUT; i += VAD_KEYS_A_LINE) {
        __builtin_prefetch(&node->key[i]);
        __builtin_prefetch(&node->child[i]);
    }
}

/* The leaf for a page, at *at the entry that begins at or last before it; NULL if there is none. */
static inline const struct vad_node *leaf_find(const struct vad_tree *tree, uint64_t page, unsigned *at)
{
    const struct vad_node *node = sync_load_ptr(&tree->root);

    if (node == NULL)
        return NULL;
    for (unsigned level = node->level; level > 0; level--) {
        node = sync_load_ptr(&node->child[vad_rank(node, page) - 1]);
        node_prefetch(node);
    }
    const unsigned after = vad_rank(node, page);
    *at = after - 1;
    return after > 0 ? node : NULL;
}

struct vad *vad_find(const struct vad_tree *tree, uint64_t page)
{
    unsigned at;
    const struct vad_node *leaf = leaf_find(tree, page, &at);
    const uint64_t entry = leaf != NULL ? sync_load_64(&leaf->entry[at]) : 0;
    struct vad *vad = vad_entry_vad(entry);

    return vad != NULL && page <= vad_entry_last(leaf->key[at], entry) ? vad : NULL;
}

struct vad *vad_find_summary(const struct vad_tree *tree, uint64_t page, struct vad_summary *summary)
{
    unsigned at;
    const struct vad_node *leaf = leaf_find(tree, page, &at);
    const uint64_t entry = leaf != NULL ? sync_load_64(&leaf->entry[at]) : 0;
    struct vad *vad = vad_entry_vad(entry);

    if (vad == NULL)
        return NULL;
    const unsigned access = entry >> 1 & 7, modifier = entry >> 4 & 3;
    summary->first_page = leaf->key[at];
    summary->last_page = vad_entry_last(leaf->key[at], entry);
    summary->protection =
        (entry & VAD_ENTRY_RESERVED) == 0 ? 0 : 1u << access | (modifier == 0 ? 0 : TIDE_PAGE_GUARD << (modifier - 1));
    return page <= summary->last_page ? vad : NULL;
}

/* ---- entries ---------------------------------------------------------------------------------------------------- */

uint64_t vad_entry_make(const struct vad *vad)
{
    const uint64_t address = (uint64_t)(uintptr_t)vad, pages = vad->last_page - vad->first_page + 1;
    uint64_t entry = address;

    ASSERT_ALWAYS((address & ~VAD_ENTRY_ADDRESS) == 0);
    if (pages <= VAD_ENTRY_PAGES_MAX)
        entry |= pages << VAD_ENTRY_PAGES_SHIFT;
    /* The access is one bit of the lowest eight, the modifier none or one of the next three. */
    if (vad->reserved_only)
        entry |= 1 | (uint64_t)__builtin_ctz(vad->protection) << 1 |
                 (uint64_t)__builtin_ffs((int)(vad->protection / TIDE_PAGE_GUARD)) << 4;
    return entry;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

static struct item vad_item(struct vad *vad)
{
    return (struct item){ .key = vad->first_page,
                          .entry = vad_entry_make(vad),
                          .span = { vad->first_page, vad->last_page, 0 } };
}

static struct item node_item(struct vad_node *node, uint64_t key)
{
    return (struct item){ .key = key, .child = node, .span = vad_node_span(node) };
}

/* Appends the entries [from, to) of a node; of a leaf, those that hold a VAD. Returns how many the items are now. */
static unsigned gather(const struct vad_node *node, unsigned from, unsigned to, struct item *items, unsigned count)
{
    for (unsigned i = from; i < to; i++) {
        if (node->level == 0 && vad_entry_vad(node->entry[i]) == NULL)
            continue;
        if (node->level == 0)
            items[count] = (struct item){ .key = node->key[i],
                                          .entry = node->entry[i],
                                          .span = { node->key[i], vad_leaf_last(node, i), 0 } };
        else
            items[count] =
                (struct item){ .key = node->key[i], .child = node->child[i], .span = vad_child_span(node, i) };
        count++;
    }
    return count;
}

static struct vad_node *node_make(struct vad_tree *tree, unsigned level, const struct item *items, unsigned count)
{
    struct vad_node *node = vad_node_take(tree, level);

    node->level = (uint16_t)level;
    node->count = (uint16_t)count;
    node->live = (uint16_t)count;
    node->born = tree->sequence;
    for (unsigned i = 0; i < count; i++) {
        sync_store_relaxed_64(&node->key[i], items[i].key);
        if (level == 0) {
            sync_store_64(&node->entry[i], items[i].entry);
            continue;
        }
        sync_store_ptr(&node->child[i], items[i].child);
        node->first[i] = items[i].span.first;
        node->last[i] = items[i].span.last;
        node->gap[i] = items[i].span.gap;
    }
    for (unsigned i = count; i < VAD_FANOUT; i++)
        sync_store_relaxed_64(&node->key[i], UINT64_MAX);
    if (level > 0)
        sync_store_relaxed_64(&node->key[0], 0);
    return node;
}

/* One node or two of the items; their first key stays that of the first. Returns how many. */
static unsigned nodes_make(struct vad_tree *tree, unsigned level, const struct item *items, unsigned count,
                           unsigned left, struct item *made)
{
    made[0] = node_item(node_make(tree, level, items, left), items[0].key);
    if (left == count)
        return 1;
    made[1] = node_item(node_make(tree, level, items + left, count - left), items[left].key);
    return 2;
}

static bool is_fresh(const struct change *change, const struct vad_node *node)
{
    return node->born == change->tree->sequence;
}

static void root_set(struct change *change, struct vad_node *root)
{
    change->root = root;
    /* Release: pairs with the first load of vad_find(). */
    if (!change->whole)
        sync_store_ptr(&change->tree->root, root);
}

/* A node's entries changed: tells its parents, as far as it matters to them. */
static void spans_update(struct vad_path *path, unsigned level)
{
    struct vad_span span = vad_node_span(path->node[level]);

    for (; level < path->top; level++) {
        struct vad_node *parent = path->node[level + 1];
        const unsigned at = path->at[level + 1];
        const struct vad_span before = vad_child_span(parent, at);
        const bool same_bounds = before.first == span.first && before.last == span.last;

        if (same_bounds && before.gap == span.gap)
            return;
        parent->first[at] = span.first;
        parent->last[at] = span.last;
        parent->gap[at] = span.gap;
        if (level + 1 == path->top)
            return;
        /* A gap inside of a child that grew is all that the parent's own can follow: no need to look at the others. */
        const uint64_t gap = span.gap;
        span = vad_child_span(path->node[level + 2], path->at[level + 2]);
        if (same_bounds && gap >= before.gap)
            span.gap = vad_max(span.gap, gap);
        else if (!same_bounds || before.gap == span.gap)
            span = vad_node_span(parent);
    }
}

/* ---- the shape of the tree -------------------------------------------------------------------------------------- */

static void children_replace(struct change *change, struct vad_path *path, unsigned level, unsigned at, unsigned old,
                             const struct item *fresh, unsigned count);

/*
 * The node of the path at a level, which is no root and is written anew anyhow, would get too few of the items: it is
 * joined with a neighbour, or takes from it.
 */
static void join(struct change *change, struct vad_path *path, unsigned level, struct item *items, unsigned count)
{
    struct vad_tree *tree = change->tree;
    const struct vad_node *parent = path->node[level + 1];
    const unsigned at = path->at[level + 1];
    const unsigned left = at > 0 ? at - 1 : at;
    struct vad_node *other = parent->child[at > 0 ? at - 1 : at + 1];
    struct item all[ITEMS_MAX], made[2];
    unsigned total = 0;

    ASSERT_ALWAYS(parent->count > 1);
    if (at > 0)
        total = gather(other, 0, other->count, all, total);
    for (unsigned i = 0; i < count; i++)
        all[total + i] = items[i];
    const unsigned second = at > 0 ? total : count;
    total += count;
    if (at == 0)
        total = gather(other, 0, other->count, all, total);
    /* The key 0 of an inner node stands for the node's own, which the parent knows. */
    if (level > 0 && second < total)
        all[second].key = parent->key[left + 1];
    vad_node_drop(tree, path->node[level]);
    vad_node_drop(tree, other);
    /* Some room is left, lest the next insertion splits it again. */
    const unsigned made_count =
        nodes_make(tree, level, all, total, total <= tree->capacity * 3 / 4 ? total : total / 2, made);
    children_replace(change, path, level + 1, left, 2, made, made_count);
}

/*
 * Puts new nodes into the place of `old` children of the path's node at a level, from child `at` on. The first of them
 * inherits the key. A level above the root: they replace the root.
 */
static void children_replace(struct change *change, struct vad_path *path, unsigned level, unsigned at, unsigned old,
                             const struct item *fresh, unsigned count)
{
    struct vad_tree *tree = change->tree;
    struct item items[ITEMS_MAX], made[2];

    if (level > path->top) {
        root_set(change, count == 1 ? fresh[0].child : node_make(tree, level, fresh, count));
        return;
    }
    struct vad_node *node = path->node[level];
    if (old == 1 && count == 1 && (!change->whole || is_fresh(change, node))) {
        /* Release: pairs with the load of the entry in vad_find(). */
        sync_store_ptr(&node->child[at], fresh[0].child);
        path->node[level - 1] = fresh[0].child;
        spans_update(path, level - 1);
        return;
    }
    unsigned total = gather(node, 0, at, items, 0);
    for (unsigned i = 0; i < count; i++)
        items[total + i] = fresh[i];
    items[total].key = node->key[at];
    total = gather(node, at + old, node->count, items, total + count);
    if (level == path->top && total == 1) {
        vad_node_drop(tree, node);
        root_set(change, items[0].child);
    } else if (level < path->top && total < vad_least(tree)) {
        join(change, path, level, items, total);
    } else {
        const bool appended = at + old == node->count && total > tree->capacity;
        const unsigned left = total <= tree->capacity ? total : appended ? total - vad_least(tree) : total / 2;

        vad_node_drop(tree, node);
        const unsigned made_count = nodes_make(tree, level, items, total, left, made);
        children_replace(change, path, level + 1, level < path->top ? path->at[level + 1] : 0, 1, made, made_count);
    }
}

/* Writes the path's leaf anew, with the items in it. `appended`: they were put behind all others. */
static void leaf_replace(struct change *change, struct vad_path *path, struct item *items, unsigned count,
                         bool appended)
{
    struct vad_tree *tree = change->tree;
    struct item made[2];

    if (path->top > 0 && count < vad_least(tree)) {
        join(change, path, 0, items, count);
        return;
    }
    vad_node_drop(tree, path->node[0]);
    if (count == 0) {
        root_set(change, NULL);
        return;
    }
    const unsigned left = count <= tree->capacity ? count : appended ? count - vad_least(tree) : count / 2;
    const unsigned made_count = nodes_make(tree, 0, items, count, left, made);
    children_replace(change, path, 1, path->top > 0 ? path->at[1] : 0, 1, made, made_count);
}

/*
 * Raises all keys to the right of the path that lie inside of a VAD on it, whose place is free or which nobody sees
 * yet. Children without VADs may lose all their pages so.
 */
static void first_raise(struct vad_path *path, const struct vad *vad)
{
    for (unsigned level = 1; level <= path->top; level++) {
        struct vad_node *node = path->node[level];

        for (unsigned i = path->at[level] + 1; i < node->count; i++) {
            if (node->key[i] > vad->last_page)
                return;
            sync_store_64(&node->key[i], vad->last_page + 1);
        }
    }
}

/* ---- changes, under the space's lock ---------------------------------------------------------------------------- */

static struct change change_begin(struct vad_tree *tree, bool whole)
{
    return (struct change){ .tree = tree, .root = tree->root, .whole = whole };
}

static void change_end(struct change *change)
{
    struct vad_tree *tree = change->tree;

    /* Release: pairs with the first load of vad_find(). */
    if (change->whole)
        sync_store_ptr(&tree->root, change->root);
    (void)sync_add_64(&tree->sequence, 1); /* a full barrier */
    vad_nodes_retire(tree);
}

static uint64_t pages_of(const struct vad *vad)
{
    return vad->last_page - vad->first_page + 1;
}

/* The way to a VAD that must be in the tree; at[0] is its entry. */
static void descend_to(struct vad_node *root, const struct vad *vad, struct vad_path *path)
{
    ASSERT_ALWAYS(root != NULL);
    vad_descend(root, vad->first_page, path);
    ASSERT_ALWAYS(path->at[0] > 0 && vad_entry_vad(path->node[0]->entry[path->at[0] - 1]) == vad);
    path->at[0]--;
}

/* Puts a VAD into a leaf's entry, or takes the one in it away: one store, seen at once. */
static void entry_set(struct vad_path *path, struct vad *vad)
{
    struct vad_node *leaf = path->node[0];
    uint64_t *entry = &leaf->entry[path->at[0]];

    leaf->live = (uint16_t)(leaf->live + (vad != NULL) - (vad_entry_vad(*entry) != NULL));
    /* Release: pairs with the load of the entry in vad_find(). */
    sync_store_64(entry, vad != NULL ? vad_entry_make(vad) : 0);
    spans_update(path, 0);
}

void vad_committing(struct vad_tree *tree, struct vad *vad)
{
    struct vad_path path;

    descend_to(tree->root, vad, &path);
    vad->reserved_only = false;
    uint64_t *entry = &path.node[0]->entry[path.at[0]];
    /* Release: pairs with the load of the entry in vad_find_summary(). */
    sync_store_64(entry, *entry & ~VAD_ENTRY_RESERVED);
}

static void insert_changing(struct change *change, struct vad *vad)
{
    struct item items[ITEMS_MAX], made[1];
    struct vad_path path;

    ASSERT_ALWAYS(vad->first_page <= vad->last_page && vad->first_page != UINT64_MAX);
    if (change->root == NULL) {
        items[0] = vad_item(vad);
        (void)nodes_make(change->tree, 0, items, 1, 1, made);
        root_set(change, made[0].child);
        return;
    }
    vad_descend(change->root, vad->first_page, &path);
    struct vad_path walk = path;
    unsigned next;
    const struct vad_node *next_leaf = vad_from(&walk, vad->first_page, &next);
    ASSERT_ALWAYS(next_leaf == NULL || next_leaf->key[next] > vad->last_page);
    first_raise(&path, vad);
    const struct vad_node *leaf = path.node[0];
    const unsigned at = path.at[0];
    /* It may not reach past a key, though that be of a VAD that was removed: the pages behind it are asked there. */
    if (at > 0 && leaf->key[at - 1] == vad->first_page && (at == leaf->count || leaf->key[at] > vad->last_page)) {
        path.at[0] = at - 1;
        entry_set(&path, vad);
        return;
    }
    unsigned count = gather(leaf, 0, at, items, 0);
    items[count++] = vad_item(vad);
    const unsigned before = count;
    count = gather(leaf, at, leaf->count, items, count);
    leaf_replace(change, &path, items, count, before == count);
}

static void remove_changing(struct change *change, struct vad *vad)
{
    struct vad_tree *tree = change->tree;
    struct item items[ITEMS_MAX];
    struct vad_path path;

    descend_to(change->root, vad, &path);
    entry_set(&path, NULL);
    const struct vad_node *leaf = path.node[0];
    if (leaf->live >= vad_least(tree) || (path.top == 0 && leaf->live > 0))
        return;
    if (path.top > 0 && !vad_nodes_have(tree, 2, 2 * (uint64_t)path.top + 1)) {
        tree->missed++;
        return;
    }
    leaf_replace(change, &path, items, gather(leaf, 0, leaf->count, items, 0), false);
}

/* The new VADs, inside the old one or, if the change is whole, one that begins with it, take its place in its leaf. */
static void replace_changing(struct change *change, struct vad *old, struct vad *const *fresh, unsigned fresh_count)
{
    struct item items[ITEMS_MAX];
    struct vad_path path;

    descend_to(change->root, old, &path);
    const struct vad_node *leaf = path.node[0];
    const unsigned at = path.at[0];
    if (fresh_count == 1 && !change->whole && fresh[0]->first_page == old->first_page) {
        entry_set(&path, fresh[0]);
        return;
    }
    unsigned count = gather(leaf, 0, at, items, 0);
    for (unsigned i = 0; i < fresh_count; i++)
        items[count++] = vad_item(fresh[i]);
    const unsigned before = count;
    count = gather(leaf, at + 1, leaf->count, items, count);
    leaf_replace(change, &path, items, count, before == count);
}

/* Takes a VAD out of a leaf that is written anew for it: what readers see stays as it is until the end. */
static void remove_whole(struct change *change, struct vad *vad)
{
    struct item items[ITEMS_MAX];
    struct vad_path path;

    descend_to(change->root, vad, &path);
    const struct vad_node *leaf = path.node[0];
    unsigned count = gather(leaf, 0, path.at[0], items, 0);
    count = gather(leaf, path.at[0] + 1, leaf->count, items, count);
    leaf_replace(change, &path, items, count, false);
}

tide_status vad_prepare(struct vad_tree *tree, uint64_t old_count)
{
    const uint64_t levels = vad_height(tree);
    /*
     * Two nodes a level, and a root. A join leaves at most two nodes of each level on each side of its range, and two
     * on the way; what it writes for the VADs in between it uses again at once.
     */
    const uint64_t a_level = old_count > 1 ? 8 : 2;

    if (vad_nodes_have(tree, a_level, a_level * levels + 1))
        return TIDE_SUCCESS;
    return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for %lu nodes of a tree of %lu regions",
                     a_level * (levels + 1) + 1, tree->count);
}

void vad_insert(struct vad_tree *tree, struct vad *vad)
{
    vad_replace(tree, NULL, 0, &vad, 1);
}

void vad_remove(struct vad_tree *tree, struct vad *vad)
{
    vad_replace(tree, &vad, 1, NULL, 0);
}

void vad_replace(struct vad_tree *tree, struct vad *const *old, uint64_t old_count, struct vad *const *fresh,
                 unsigned fresh_count)
{
    struct change change = change_begin(tree, old_count > 1);
    struct vad_path path;

    ASSERT_ALWAYS(old_count == 1 ? fresh_count <= VAD_PARTS_MAX
                                 : fresh_count == 1 || (old_count > 1 && fresh_count == 0));
    for (uint64_t i = 0; i < old_count; i++)
        tree->pages -= pages_of(old[i]);
    for (unsigned i = 0; i < fresh_count; i++)
        tree->pages += pages_of(fresh[i]);
    tree->count = tree->count - old_count + fresh_count;
    if (old_count == 0) {
        insert_changing(&change, fresh[0]);
    } else if (fresh_count == 0) {
        for (uint64_t i = 0; i < old_count && change.whole; i++)
            remove_whole(&change, old[i]);
        if (!change.whole)
            remove_changing(&change, old[0]);
    } else {
        ASSERT_ALWAYS(fresh[0]->first_page >= old[0]->first_page && fresh[0]->first_page <= old[0]->last_page &&
                      fresh[fresh_count - 1]->last_page <= old[old_count - 1]->last_page);
        for (uint64_t i = 1; i < old_count; i++)
            remove_whole(&change, old[i]);
        replace_changing(&change, old[0], fresh, fresh_count);
        if (change.whole) {
            vad_descend(change.root, fresh[0]->first_page, &path);
            first_raise(&path, fresh[0]);
        }
    }
    change_end(&change);
}

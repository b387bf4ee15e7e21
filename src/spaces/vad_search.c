/*
 * Walks over the tree of VADs under the space's lock: in order, for gaps, and the check of the whole tree. The tree is
 * explained in vad.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/vad_impl.h"

#include <inttypes.h>
#include <stdio.h>

/* No page number has a unit this high. */
#define UNIT_END (UINT64_MAX / VAD_UNIT_PAGES + 1)

static const struct vad_span NO_SPAN = { UINT64_MAX, 0, 0 };

/* ---- in order --------------------------------------------------------------------------------------------------- */

void vad_descend(struct vad_node *root, uint64_t page, struct vad_path *path)
{
    struct vad_node *node = root;

    path->top = root->level;
    for (unsigned level = root->level; level > 0; level--) {
        path->node[level] = node;
        path->at[level] = vad_rank(node, page) - 1;
        node = node->child[path->at[level]];
    }
    path->node[0] = node;
    path->at[0] = vad_rank(node, page);
}

/* The first entry of a leaf from *i on that has a VAD. */
static bool leaf_from(const struct vad_node *leaf, unsigned *i)
{
    while (*i < leaf->count && vad_entry_vad(leaf->entry[*i]) == NULL)
        ++*i;
    return *i < leaf->count;
}

/* Goes on to the next child that has VADs, at the lowest level where there is one. Returns the level, 0 if none. */
static unsigned next_child(struct vad_path *path)
{
    for (unsigned level = 1; level <= path->top; level++) {
        const struct vad_node *node = path->node[level];

        while (++path->at[level] < node->count)
            if (!vad_span_is_empty(vad_child_span(node, path->at[level])))
                return level;
    }
    return 0;
}

const struct vad_node *vad_from(struct vad_path *path, uint64_t page, unsigned *at)
{
    const struct vad_node *leaf = path->node[0];

    *at = path->at[0];
    if (*at > 0 && vad_leaf_last(leaf, *at - 1) >= page)
        --*at;
    if (leaf_from(leaf, at))
        return leaf;
    unsigned level = next_child(path);
    if (level == 0)
        return NULL;
    struct vad_node *node = path->node[level]->child[path->at[level]];
    while (node->level > 0) {
        unsigned i = 0;
        while (vad_span_is_empty(vad_child_span(node, i)))
            i++;
        node = node->child[i];
    }
    *at = 0;
    return leaf_from(node, at) ? node : NULL;
}

struct vad *vad_find_first(const struct vad_tree *tree, uint64_t first, uint64_t last)
{
    struct vad_path path;
    unsigned at;

    ASSERT_DEBUG(first <= last);
    if (tree->root == NULL)
        return NULL;
    vad_descend(tree->root, first, &path);
    const struct vad_node *leaf = vad_from(&path, first, &at);
    return leaf == NULL ? NULL : vad_entry_vad(leaf->entry[at]);
}

struct vad *vad_first(const struct vad_tree *tree)
{
    return vad_find_first(tree, 0, UINT64_MAX);
}

struct vad *vad_next(const struct vad_tree *tree, const struct vad *vad)
{
    return vad->last_page == UINT64_MAX ? NULL : vad_find_first(tree, vad->last_page + 1, UINT64_MAX);
}

/* ---- gaps ------------------------------------------------------------------------------------------------------- */

static struct vad_span entry_span(const struct vad_node *node, unsigned i)
{
    if (node->level > 0)
        return vad_child_span(node, i);
    return vad_entry_vad(node->entry[i]) == NULL ? NO_SPAN
                                                 : (struct vad_span){ node->key[i], vad_leaf_last(node, i), 0 };
}

static struct vad_span leaf_span(const struct vad_node *leaf)
{
    struct vad_span all = NO_SPAN;
    uint64_t after = UINT64_MAX; /* unit after the entry before */

    for (unsigned i = 0; i < leaf->count; i++) {
        if (vad_entry_vad(leaf->entry[i]) == NULL)
            continue;
        all.gap = vad_max(all.gap, vad_gap_length(after, vad_unit(leaf->key[i])));
        all.first = vad_min(all.first, leaf->key[i]);
        all.last = vad_leaf_last(leaf, i);
        after = vad_unit(all.last) + 1;
    }
    return all;
}

struct vad_span vad_node_span(const struct vad_node *node)
{
    struct vad_span all = NO_SPAN;

    if (node->level == 0)
        return leaf_span(node);
    for (unsigned i = 0; i < node->count; i++) {
        const struct vad_span one = vad_child_span(node, i);
        if (vad_span_is_empty(one))
            continue;
        if (vad_span_is_empty(all))
            all.first = one.first;
        else
            all.gap = vad_max(all.gap, vad_gap_length(vad_unit(all.last) + 1, vad_unit(one.first)));
        all.gap = vad_max(all.gap, one.gap);
        all.last = one.last;
    }
    return all;
}

/* A search for `length` free units from a unit in [lowest, highest] on that is a multiple of `alignment`. */
struct gap_request {
    uint64_t length, lowest, highest, alignment;
    uint64_t surely; /* a gap of this length holds `length` units at any alignment */
    bool top_down;
};

/* One gap, the units [start, end): the fitting base in it that the request likes best. */
static bool gap_fit(const struct gap_request *request, uint64_t start, uint64_t end, uint64_t *base)
{
    if (vad_gap_length(start, end) < request->length)
        return false;
    const uint64_t at_least = vad_max(start, request->lowest);
    const uint64_t at_most = end - request->length < request->highest ? end - request->length : request->highest;
    const uint64_t low = (at_least + request->alignment - 1) & ~(request->alignment - 1);
    const uint64_t high = at_most & ~(request->alignment - 1);
    if (low > high || high < at_least)
        return false;
    *base = request->top_down ? high : low;
    return true;
}

/*
 * Searches the gaps of a subtree and on its borders, from unit `start` to before unit `end`: of each entry first the
 * gap on its near side, in the direction of the search, then those inside. A child is given its own bounds, so that
 * what it borders on is looked at here alone.
 */
static bool gap_search(const struct gap_request *request, const struct vad_node *node, uint64_t start, uint64_t end,
                       uint64_t *base)
{
    for (unsigned n = 0; n < node->count; n++) {
        const unsigned i = request->top_down ? node->count - 1 - n : n;
        const struct vad_span span = entry_span(node, i);

        if (vad_span_is_empty(span))
            continue;
        const uint64_t first = vad_unit(span.first), after = vad_unit(span.last) + 1;
        if (request->top_down) {
            if (after <= request->highest && gap_fit(request, after, end, base))
                return true;
            end = first;
        } else {
            if (first > request->lowest && gap_fit(request, start, first, base))
                return true;
            start = after;
        }
        if (span.gap >= request->surely && first <= request->highest && after > request->lowest &&
            gap_search(request, node->child[i], first, after, base))
            return true;
        if (request->top_down ? end <= request->lowest : start > request->highest)
            return false;
    }
    return gap_fit(request, start, end, base);
}

bool vad_find_gap(const struct vad_tree *tree, const struct vad_gap *gap, uint64_t *first_page)
{
    ASSERT_ALWAYS(gap->pages > 0 && gap->alignment >= VAD_UNIT_PAGES && (gap->alignment & (gap->alignment - 1)) == 0);
    if (gap->lowest > gap->highest || gap->pages - 1 > gap->highest - gap->lowest)
        return false;

    struct gap_request request = {
        .length = vad_unit(gap->pages - 1) + 1,
        .lowest = vad_unit(gap->lowest) + (gap->lowest % VAD_UNIT_PAGES != 0),
        .highest = vad_unit(gap->highest - (gap->pages - 1)),
        .alignment = gap->alignment / VAD_UNIT_PAGES,
        .top_down = gap->top_down,
    };
    uint64_t base;
    if (request.lowest > request.highest)
        return false;
    bool found = false;
    if (tree->root == NULL) {
        found = gap_fit(&request, 0, UNIT_END, &base);
    } else {
        /* First only where the length alone tells that it fits; then wherever it may. */
        request.surely = request.length + request.alignment - 1;
        found = gap_search(&request, tree->root, 0, UNIT_END, &base);
        if (!found && request.alignment > 1) {
            request.surely = request.length;
            found = gap_search(&request, tree->root, 0, UNIT_END, &base);
        }
    }
    if (found)
        *first_page = base * VAD_UNIT_PAGES;
    return found;
}

/* ---- verification ----------------------------------------------------------------------------------------------- */

struct check {
    const struct vad_tree *tree;
    const struct vad *previous; /* in order */
    uint64_t count, pages, leaves, inners;
    char *why;
    size_t why_bytes;
};

#define VAD_FORMAT "VAD 0x%" PRIx64 "-0x%" PRIx64
#define VAD_ARGUMENTS(vad) (vad)->first_page, (vad)->last_page
#define NODE_FORMAT "node of level %u from page 0x%" PRIx64 " on"

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)snprintf(check->why, check->why_bytes, __VA_ARGS__);                                                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

/* The VADs of a leaf that stands for the pages [lowest, highest]. */
static bool check_leaf(struct check *check, const struct vad_node *leaf, uint64_t lowest, uint64_t highest)
{
    unsigned live = 0;

    for (unsigned i = 0; i < leaf->count; i++) {
        const struct vad *vad = vad_entry_vad(leaf->entry[i]);

        CHECK(i == 0 || vad_leaf_last(leaf, i - 1) < leaf->key[i], NODE_FORMAT ": entry %u overlaps the one before", 0u,
              lowest, i);
        if (vad == NULL)
            continue;
        CHECK(vad->first_page <= vad->last_page, VAD_FORMAT " ends before it begins", VAD_ARGUMENTS(vad));
        CHECK(check->previous == NULL || check->previous->last_page < vad->first_page,
              VAD_FORMAT " does not lie after " VAD_FORMAT, VAD_ARGUMENTS(vad), VAD_ARGUMENTS(check->previous));
        CHECK(vad->first_page == leaf->key[i] && vad->last_page == vad_leaf_last(leaf, i),
              VAD_FORMAT " lies in an entry for 0x%" PRIx64 "-0x%" PRIx64, VAD_ARGUMENTS(vad), leaf->key[i],
              vad_leaf_last(leaf, i));
        CHECK(leaf->entry[i] == vad_entry_make(vad), VAD_FORMAT " lies in an entry 0x%" PRIx64 " that tells otherwise",
              VAD_ARGUMENTS(vad), leaf->entry[i]);
        CHECK(!vad->reserved_only || (vad->commit_state == 0 && vad->committed_pages == 0),
              VAD_FORMAT " has %" PRIu64 " committed pages, but is said never to have had any", VAD_ARGUMENTS(vad),
              vad->committed_pages);
        CHECK(vad->first_page >= lowest && vad->last_page <= highest,
              VAD_FORMAT " lies in a node for 0x%" PRIx64 "-0x%" PRIx64, VAD_ARGUMENTS(vad), lowest, highest);
        check->previous = vad;
        check->pages += vad->last_page - vad->first_page + 1;
        live++;
    }
    CHECK(live == leaf->live, NODE_FORMAT " has %u VADs and counts %u", 0u, lowest, live, leaf->live);
    check->count += live;
    return true;
}

/* Levels are looked at on the way down, so that the walk ends even in a tree whose links went wrong. */
static bool check_node(struct check *check, const struct vad_node *node, unsigned level, uint64_t lowest,
                       uint64_t highest)
{
    const struct vad_tree *tree = check->tree;

    CHECK(node != NULL && node->level == level, NODE_FORMAT " is none, or has another level", level, lowest);
    CHECK(node->count <= tree->capacity, NODE_FORMAT " has %u entries; the most is %u", level, lowest, node->count,
          tree->capacity);
    /* The root has what there is: a leaf that holds VADs, or two children. */
    const unsigned filled = level == 0 ? node->live : node->count;
    const unsigned least = node != tree->root ? vad_least(tree) : level == 0 ? 1 : 2;
    CHECK(filled >= least || tree->missed != 0, NODE_FORMAT " has %u entries; the least is %u", level, lowest, filled,
          least);
    for (unsigned i = 0; i < VAD_FANOUT; i++)
        CHECK(i < node->count ? i == 0 || node->key[i - 1] < node->key[i] || tree->missed != 0
                              : node->key[i] == UINT64_MAX,
              NODE_FORMAT ": key %u of %u, 0x%" PRIx64 ", is out of order", level, lowest, i, node->count,
              node->key[i]);
    if (level == 0) {
        check->leaves++;
        return check_leaf(check, node, lowest, highest);
    }
    check->inners++;
    CHECK(node->key[0] == 0, NODE_FORMAT ": its key 0 is not 0", level, lowest);
    for (unsigned i = 0; i < node->count; i++) {
        const uint64_t from = i == 0 ? lowest : node->key[i];
        const uint64_t to = i + 1 == node->count || node->key[i + 1] > highest ? highest : node->key[i + 1] - 1;

        if (!check_node(check, node->child[i], level - 1, from, to))
            return false;
        const struct vad_span is = vad_child_span(node, i), must = vad_node_span(node->child[i]);
        CHECK(is.first == must.first && is.last == must.last,
              NODE_FORMAT ": bounds 0x%" PRIx64 "-0x%" PRIx64 " of child %u, but 0x%" PRIx64 "-0x%" PRIx64 " by it",
              level, lowest, is.first, is.last, i, must.first, must.last);
        CHECK(is.gap == must.gap, NODE_FORMAT ": gap of %" PRIu64 " units in child %u, but %" PRIu64 " by it", level,
              lowest, is.gap, i, must.gap);
    }
    return true;
}

static uint64_t list_count(const struct vad_node *node, unsigned level)
{
    uint64_t count = 0;

    for (; node != NULL; node = node->next)
        count += (node->level != 0) == (level != 0);
    return count;
}

bool vad_tree_check(const struct vad_tree *tree, char *why, size_t why_bytes)
{
    struct check state = { .tree = tree, .why = why, .why_bytes = why_bytes };
    struct check *check = &state;

    if (tree->root != NULL) {
        CHECK(tree->root->level < VAD_HEIGHT_MAX, "VAD tree: a root of level %u", tree->root->level);
        if (!check_node(check, tree->root, tree->root->level, 0, UINT64_MAX))
            return false;
    }
    CHECK(check->count == tree->count, "VAD tree: %" PRIu64 " VADs in it, but a count of %" PRIu64, check->count,
          tree->count);
    CHECK(check->pages == tree->pages, "VAD tree: %" PRIu64 " pages in it, but a sum of %" PRIu64, check->pages,
          tree->pages);
    for (unsigned level = 0; level < 2; level++) {
        const struct slab *slab = level == 0 ? &tree->leaves : &tree->inners;
        const uint64_t used = level == 0 ? check->leaves : check->inners;
        const uint64_t unused = slab->free_count + list_count(tree->retired, level);

        CHECK(tree->dropped == NULL && used + unused == slab->total,
              "VAD tree: of %" PRIu64 " nodes %" PRIu64 " are in it and %" PRIu64 " free or retired", slab->total, used,
              unused);
    }
    return true;
}

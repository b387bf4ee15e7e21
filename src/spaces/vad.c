/*
 * The VAD tree: a treap with lock-free readers.
 *
 * What. One tree per space holds its regions, disjoint, ordered by page number. Every fault asks it "which region is
 * this page in", from any thread, so a lookup takes no lock and writes no memory; reserve and release, which are rare
 * beside faults, change it under the lock of the space.
 *
 * Why a treap. Each VAD gets a random priority at insertion; the tree is ordered by page and a heap by priority, which
 * fixes its shape as that of a search tree filled in random order: expected depth of a node under 2 ln n (23 for
 * 100,000 regions, the deepest about 45), whatever the order in which a program reserves. An AVL tree is a third
 * shallower. The treap is chosen for what it gives the lock-free reader:
 *   - Every link that was ever stored leads from a higher priority to a lower one, priorities never change, and no two
 *     are equal (the generator is a permutation of a counter). So a reader that races with writers, and mixes links of
 *     different moments, still descends strictly in priority: it cannot loop, and needs no bound on its steps.
 *   - Insertion is one split and removal one merge, which pass less than two nodes on average: no rotations, no balance
 *     to repair.
 *
 * Readers. The sequence is odd while a writer is inside. A reader notes it, walks, and
 *   - if it meets a VAD that holds the page, returns it at once, whatever the sequence does;
 *   - if it falls off the tree, returns NULL when the sequence was even and has not moved, and else tries again.
 *
 * Why a VAD that is met may be returned without a look at the sequence. A VAD is in the tree from the store that links
 * it in to the store that takes its only link away, which is the first link store of its removal. Claim: each node that
 * a walk reaches was in the tree at some moment of the call. The root was. Let node N have been in the tree at moment t
 * of the call, and let the reader then load its link to X. If N was still in the tree then, so was X. If N had been
 * removed, at a moment r after t, its links have not changed since (a removed VAD's links are left alone, and it is
 * never inserted again), so X was in the tree just before r. "Moment" is the order of the writers' stores, which the
 * lock makes total; the loads of one reader see it monotonically, on x86 because loads keep their order and so do
 * stores, under C11 because every link is stored with release and loaded with acquire. So a reader whose page lies in a
 * region that stands does not wait for a writer that lost its CPU in mid-change, unless that very change hides the
 * path.
 *
 * Why NULL with an unmoved sequence s (even) is right. The first load of s acquires the release store that ended the
 * change which led to s: no load of the walk sees anything older than that state. Had a load of the walk seen a link of
 * a later change, that link was stored with release after the store of s + 1 and loaded with acquire before the second
 * look at the sequence, and that look would have seen at least s + 1. So every link was of the state s exactly, and in
 * that state the page is in no VAD. This needs no fence: the acquire and the release of the links themselves are the
 * fences of the usual sequence lock. first_page and last_page are plain: written before the VAD's first publication,
 * never after.
 *
 * A VAD is freed by the caller after a grace period, so the memory that a reader stands on is there until its section
 * ends.
 *
 * Gaps. Space is given out in units of 16 pages (64 KiB): a unit that any VAD touches is taken whole. Each node carries
 * the bounds of its subtree and the longest run of free units between two neighbours in it. The search visits a subtree
 * only if a run that is long enough lies in it or on its borders. Such a subtree can then disappoint only when it
 * straddles one end of the range asked for, and at each depth there is at most one subtree that straddles an end:
 * O(depth) in all.
 *
 * Invariants, all checked by vad_tree_check(): disjoint and sorted; heap order with unequal priorities; the three
 * subtree fields of each node follow from its children; count and pages are the sums; the sequence is even. Nothing
 * here can fail: memory for the VAD comes from the caller.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/vad.h"

#include "base/random.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>

/* Failed looks of a reader before it gives its CPU away: the writer that it waits for may need it. */
enum { READER_SPINS = 32 };

/* No page number has a unit this high. */
#define UNIT_END (UINT64_MAX / VAD_UNIT_PAGES + 1)

static uint64_t unit_of(uint64_t page)
{
    return page / VAD_UNIT_PAGES;
}

/* Free units in [start, end); 0 if two regions share a unit and the bounds cross. */
static uint64_t gap_length(uint64_t start, uint64_t end)
{
    return end > start ? end - start : 0;
}

static uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- changes, under the space's lock ---------------------------------------------------------------------------- */

/* The relaxed store is ordered before the change by the release of each link stored after it. */
static void change_begin(struct vad_tree *tree)
{
    ASSERT_DEBUG((tree->sequence & 1) == 0);
    sync_store_relaxed_64(&tree->sequence, tree->sequence + 1);
}

/* Release: pairs with the first load of the sequence in vad_find(). */
static void change_end(struct vad_tree *tree)
{
    sync_store_64(&tree->sequence, tree->sequence + 1);
}

/* Release: pairs with the load of the link in walk(). An unchanged link is not written: its line stays shared. */
static void link_set(struct vad **link, struct vad *vad)
{
    if (*link != vad)
        sync_store_ptr(link, vad);
}

struct augmentation {
    uint64_t first, last, gap;
};

/* What the subtree fields of a VAD must be, from those of its children. */
static struct augmentation augmentation_of(const struct vad *vad)
{
    struct augmentation a = { vad->first_page, vad->last_page, 0 };

    if (vad->left != NULL) {
        a.first = vad->left->subtree_first;
        a.gap =
            max_u64(vad->left->subtree_gap, gap_length(unit_of(vad->left->subtree_last) + 1, unit_of(vad->first_page)));
    }
    if (vad->right != NULL) {
        a.last = vad->right->subtree_last;
        a.gap = max_u64(a.gap, vad->right->subtree_gap);
        a.gap = max_u64(a.gap, gap_length(unit_of(vad->last_page) + 1, unit_of(vad->right->subtree_first)));
    }
    return a;
}

static void augment(struct vad *vad)
{
    const struct augmentation a = augmentation_of(vad);

    vad->subtree_first = a.first;
    vad->subtree_last = a.last;
    vad->subtree_gap = a.gap;
}

/* Parts a subtree into the VADs below `page` and those above; no VAD of it holds `page`. */
static void split(struct vad *vad, uint64_t page, struct vad **below, struct vad **above)
{
    if (vad == NULL) {
        link_set(below, NULL);
        link_set(above, NULL);
        return;
    }
    if (vad->first_page < page) {
        link_set(below, vad);
        split(vad->right, page, &vad->right, above);
    } else {
        link_set(above, vad);
        split(vad->left, page, below, &vad->left);
    }
    augment(vad);
}

/* Joins two subtrees, all of `below` before all of `above`, into a link. */
static void merge(struct vad *below, struct vad *above, struct vad **link)
{
    if (below == NULL || above == NULL) {
        link_set(link, below == NULL ? above : below);
    } else if (below->priority > above->priority) {
        link_set(link, below);
        merge(below->right, above, &below->right);
        augment(below);
    } else {
        link_set(link, above);
        merge(below, above->left, &above->left);
        augment(above);
    }
}

/* Puts a VAD where its priority belongs on the path to its page; what was there is split beneath it. */
static void insert_below(struct vad **link, struct vad *vad)
{
    struct vad *here = *link;

    if (here != NULL && here->priority > vad->priority) {
        insert_below(vad->first_page < here->first_page ? &here->left : &here->right, vad);
        augment(here);
        return;
    }
    split(here, vad->first_page, &vad->left, &vad->right);
    augment(vad);
    link_set(link, vad);
}

/* Joins the subtrees of a VAD in its place. The VAD's own links stay as they are, for readers that stand on it. */
static void remove_below(struct vad **link, struct vad *vad)
{
    struct vad *here = *link;

    ASSERT_ALWAYS(here != NULL);
    if (here == vad) {
        merge(vad->left, vad->right, link);
        return;
    }
    remove_below(vad->first_page < here->first_page ? &here->left : &here->right, vad);
    augment(here);
}

void vad_tree_init(struct vad_tree *tree, uint64_t seed)
{
    *tree = (struct vad_tree){ .random = seed };
}

/* Inside a change. */
static void insert_changing(struct vad_tree *tree, struct vad *vad)
{
    const struct vad *next = vad_find_first(tree, vad->first_page, vad->last_page);

    ASSERT_ALWAYS(vad->first_page <= vad->last_page);
    ASSERT_ALWAYS(next == NULL || next->first_page > vad->last_page);
    vad->left = NULL;
    vad->right = NULL;
    vad->priority = random_next(&tree->random);
    insert_below(&tree->root, vad);
    tree->count++;
    tree->pages += vad->last_page - vad->first_page + 1;
}

static void remove_changing(struct vad_tree *tree, struct vad *vad)
{
    remove_below(&tree->root, vad);
    tree->count--;
    tree->pages -= vad->last_page - vad->first_page + 1;
}

void vad_insert(struct vad_tree *tree, struct vad *vad)
{
    vad_replace(tree, NULL, 0, &vad, 1);
}

void vad_remove(struct vad_tree *tree, struct vad *vad)
{
    vad_replace(tree, &vad, 1, NULL, 0);
}

void vad_replace(struct vad_tree *tree, struct vad *const *old, unsigned old_count, struct vad *const *fresh,
                 unsigned fresh_count)
{
    change_begin(tree);
    for (unsigned i = 0; i < old_count; i++)
        remove_changing(tree, old[i]);
    for (unsigned i = 0; i < fresh_count; i++)
        insert_changing(tree, fresh[i]);
    change_end(tree);
}

/* ---- lookup, without a lock ------------------------------------------------------------------------------------- */

static struct vad *walk(const struct vad_tree *tree, uint64_t page)
{
    struct vad *vad = sync_load_ptr(&tree->root);

    while (vad != NULL) {
        if (page < vad->first_page)
            vad = sync_load_ptr(&vad->left);
        else if (page > vad->last_page)
            vad = sync_load_ptr(&vad->right);
        else
            break;
    }
    return vad;
}

struct vad *vad_find(const struct vad_tree *tree, uint64_t page)
{
    for (unsigned attempt = 0;; attempt++) {
        const uint64_t sequence = sync_load_64(&tree->sequence);
        struct vad *vad = walk(tree, page);

        if (vad != NULL || ((sequence & 1) == 0 && sync_load_64(&tree->sequence) == sequence))
            return vad;
        if (attempt < READER_SPINS)
            sync_pause();
        else
            (void)sched_yield();
    }
}

/* ---- searches, under the space's lock --------------------------------------------------------------------------- */

struct vad *vad_find_first(const struct vad_tree *tree, uint64_t first, uint64_t last)
{
    struct vad *found = NULL;

    ASSERT_DEBUG(first <= last);
    for (struct vad *vad = tree->root; vad != NULL;) {
        if (vad->last_page >= first) {
            found = vad;
            vad = vad->left;
        } else {
            vad = vad->right;
        }
    }
    return found;
}

struct vad *vad_first(const struct vad_tree *tree)
{
    return vad_find_first(tree, 0, UINT64_MAX);
}

struct vad *vad_next(const struct vad_tree *tree, const struct vad *vad)
{
    return vad->last_page == UINT64_MAX ? NULL : vad_find_first(tree, vad->last_page + 1, UINT64_MAX);
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
    if (gap_length(start, end) < request->length)
        return false;
    const uint64_t at_least = max_u64(start, request->lowest);
    const uint64_t at_most = end - request->length < request->highest ? end - request->length : request->highest;
    const uint64_t low = (at_least + request->alignment - 1) & ~(request->alignment - 1);
    const uint64_t high = at_most & ~(request->alignment - 1);
    if (low > high || high < at_least)
        return false;
    *base = request->top_down ? high : low;
    return true;
}

/* Searches the gaps in a subtree and on its borders: from the unit after its predecessor to that of its successor. */
static bool gap_search(const struct gap_request *request, const struct vad *vad, uint64_t start, uint64_t end,
                       uint64_t *base)
{
    if (vad == NULL)
        return gap_fit(request, start, end, base);
    if (start > request->highest || end <= request->lowest ||
        (vad->subtree_gap < request->surely && gap_length(start, unit_of(vad->subtree_first)) < request->surely &&
         gap_length(unit_of(vad->subtree_last) + 1, end) < request->surely))
        return false;

    const uint64_t left_end = unit_of(vad->first_page);
    const uint64_t right_start = unit_of(vad->last_page) + 1;
    if (request->top_down)
        return gap_search(request, vad->right, right_start, end, base) ||
               gap_search(request, vad->left, start, left_end, base);
    return gap_search(request, vad->left, start, left_end, base) ||
           gap_search(request, vad->right, right_start, end, base);
}

bool vad_find_gap(const struct vad_tree *tree, const struct vad_gap *gap, uint64_t *first_page)
{
    ASSERT_ALWAYS(gap->pages > 0 && gap->alignment >= VAD_UNIT_PAGES && (gap->alignment & (gap->alignment - 1)) == 0);
    if (gap->lowest > gap->highest || gap->pages - 1 > gap->highest - gap->lowest)
        return false;

    struct gap_request request = {
        .length = unit_of(gap->pages - 1) + 1,
        .lowest = unit_of(gap->lowest) + (gap->lowest % VAD_UNIT_PAGES != 0),
        .highest = unit_of(gap->highest - (gap->pages - 1)),
        .alignment = gap->alignment / VAD_UNIT_PAGES,
        .top_down = gap->top_down,
    };
    uint64_t base;
    if (request.lowest > request.highest)
        return false;
    /* First only where the length alone tells that it fits; then wherever it may. */
    request.surely = request.length + request.alignment - 1;
    bool found = gap_search(&request, tree->root, 0, UNIT_END, &base);
    if (!found && request.alignment > 1) {
        request.surely = request.length;
        found = gap_search(&request, tree->root, 0, UNIT_END, &base);
    }
    if (found)
        *first_page = base * VAD_UNIT_PAGES;
    return found;
}

/* ---- verification ----------------------------------------------------------------------------------------------- */

struct check {
    const struct vad *previous; /* in order */
    uint64_t count, pages;
    char *why;
    size_t why_bytes;
};

#define VAD_FORMAT "VAD 0x%" PRIx64 "-0x%" PRIx64
#define VAD_ARGUMENTS(vad) (vad)->first_page, (vad)->last_page

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            (void)snprintf(check->why, check->why_bytes, __VA_ARGS__);                                                 \
            return false;                                                                                              \
        }                                                                                                              \
    } while (0)

/* In order. Heap order is looked at on the way down, so that the walk ends even in a tree whose links went wrong. */
static bool check_subtree(struct check *check, const struct vad *vad, const struct vad *parent)
{
    if (vad == NULL)
        return true;
    CHECK(parent == NULL || parent->priority > vad->priority,
          VAD_FORMAT ": priority 0x%" PRIx64 " is not below its parent's 0x%" PRIx64, VAD_ARGUMENTS(vad), vad->priority,
          parent->priority);
    if (!check_subtree(check, vad->left, vad))
        return false;
    CHECK(vad->first_page <= vad->last_page, VAD_FORMAT " ends before it begins", VAD_ARGUMENTS(vad));
    CHECK(check->previous == NULL || check->previous->last_page < vad->first_page,
          VAD_FORMAT " does not lie after " VAD_FORMAT, VAD_ARGUMENTS(vad), VAD_ARGUMENTS(check->previous));
    check->previous = vad;
    check->count++;
    check->pages += vad->last_page - vad->first_page + 1;
    if (!check_subtree(check, vad->right, vad))
        return false;

    const struct augmentation a = augmentation_of(vad);
    CHECK(a.first == vad->subtree_first && a.last == vad->subtree_last,
          VAD_FORMAT ": subtree bounds 0x%" PRIx64 "-0x%" PRIx64 ", but 0x%" PRIx64 "-0x%" PRIx64 " by its children",
          VAD_ARGUMENTS(vad), vad->subtree_first, vad->subtree_last, a.first, a.last);
    CHECK(a.gap == vad->subtree_gap, VAD_FORMAT ": subtree gap of %" PRIu64 " units, but %" PRIu64 " by its children",
          VAD_ARGUMENTS(vad), vad->subtree_gap, a.gap);
    return true;
}

bool vad_tree_check(const struct vad_tree *tree, char *why, size_t why_bytes)
{
    struct check state = { .why = why, .why_bytes = why_bytes };
    struct check *check = &state;

    CHECK((tree->sequence & 1) == 0, "VAD tree: sequence %" PRIu64 " is odd without a writer", tree->sequence);
    if (!check_subtree(check, tree->root, NULL))
        return false;
    CHECK(check->count == tree->count, "VAD tree: %" PRIu64 " VADs in it, but a count of %" PRIu64, check->count,
          tree->count);
    CHECK(check->pages == tree->pages, "VAD tree: %" PRIu64 " pages in it, but a sum of %" PRIu64, check->pages,
          tree->pages);
    return true;
}

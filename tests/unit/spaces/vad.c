/*
 * The VAD tree: against a sorted array, with small nodes and large ones, in adverse orders, at 100,000 regions (VAD-1),
 * its gap search against brute force, what readers see in the midst of each change, and readers against writers that
 * never rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/vad_impl.h"

#include "base/random.h"

#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW_BUILD 1
#endif
#endif
#ifdef SLOW_BUILD
enum { EFFORT_DIVISOR = 10 };
#else
enum { EFFORT_DIVISOR = 1 };
#endif

static void assert_tree_sound(const struct vad_tree *tree)
{
    char why[256] = "";

    if (!vad_tree_check(tree, why, sizeof why))
        fail_msg("%s", why);
}

/* A gap at the alignment of a region. */
static bool gap_of(const struct vad_tree *tree, uint64_t pages, uint64_t lowest, uint64_t highest, bool top_down,
                   uint64_t *first_page)
{
    const struct vad_gap gap = {
        .pages = pages, .lowest = lowest, .highest = highest, .alignment = VAD_UNIT_PAGES, .top_down = top_down
    };

    return vad_find_gap(tree, &gap, first_page);
}

static struct vad *vad_new(uint64_t first, uint64_t last)
{
    struct vad *vad = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *vad);

    assert_non_null(vad);
    memset(vad, 0, sizeof *vad);
    vad->first_page = first;
    vad->last_page = last;
    return vad;
}

/* One grace period for all tests; with nobody in a section it passes as soon as it is moved. */
static struct grace test_grace;

static int group_setup(void **state)
{
    (void)state;
    grace_init(&test_grace);
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    grace_destroy(&test_grace);
    return 0;
}

enum { SMALLEST = 4 };

static void tree_init(struct vad_tree *tree, unsigned capacity)
{
    vad_tree_init(tree, &test_grace);
    tree->capacity = capacity;
}

static void insert(struct vad_tree *tree, struct vad *vad)
{
    assert_int_equal(vad_prepare(tree, 0), TIDE_SUCCESS);
    vad_insert(tree, vad);
}

static void replace(struct vad_tree *tree, struct vad *const *old, unsigned old_count, struct vad *const *fresh,
                    unsigned fresh_count)
{
    assert_int_equal(vad_prepare(tree, old_count), TIDE_SUCCESS);
    vad_replace(tree, old, old_count, fresh, fresh_count);
}

static void tree_free(struct vad_tree *tree)
{
    for (struct vad *vad; (vad = vad_first(tree)) != NULL;) {
        vad_remove(tree, vad);
        free(vad);
    }
    assert_null(tree->root);
    assert_int_equal(tree->count, 0);
    assert_int_equal(tree->pages, 0);
    vad_tree_destroy(tree);
}

/* The highest that a tree of so many VADs can be: the root has 2 children, each other node the least. */
static unsigned height_bound(const struct vad_tree *tree)
{
    unsigned height = 1;

    for (uint64_t most = tree->count / 2; most >= vad_least(tree); most /= vad_least(tree))
        height++;
    return height;
}

/* ---- against a sorted array ------------------------------------------------------------------------------------- */

enum { ORACLE_MAX = 512, ORACLE_PAGES = 6000 };

struct oracle {
    struct vad *sorted[ORACLE_MAX];
    unsigned count;
    uint64_t pages;
};

/* Index of the first VAD whose last page is not below `page`. */
static unsigned oracle_at(const struct oracle *oracle, uint64_t page)
{
    unsigned i = 0;

    while (i < oracle->count && oracle->sorted[i]->last_page < page)
        i++;
    return i;
}

static void oracle_compare(const struct oracle *oracle, const struct vad_tree *tree)
{
    const struct vad *vad = vad_first(tree);

    assert_int_equal(tree->count, oracle->count);
    assert_int_equal(tree->pages, oracle->pages);
    for (unsigned i = 0; i < oracle->count; i++) {
        assert_ptr_equal(vad, oracle->sorted[i]);
        vad = vad_next(tree, vad);
    }
    assert_null(vad);
    for (uint64_t page = 0; page < ORACLE_PAGES; page++) {
        const unsigned i = oracle_at(oracle, page);
        struct vad *expected = i < oracle->count ? oracle->sorted[i] : NULL;
        assert_ptr_equal(vad_find_first(tree, page, page + 3), expected);
        if (expected != NULL && expected->first_page > page)
            expected = NULL;
        assert_ptr_equal(vad_find(tree, page), expected);
    }
}

static void oracle_remove(struct oracle *oracle, unsigned at, unsigned count)
{
    for (unsigned i = at; i < at + count; i++) {
        oracle->pages -= oracle->sorted[i]->last_page - oracle->sorted[i]->first_page + 1;
        free(oracle->sorted[i]);
    }
    memmove(&oracle->sorted[at], &oracle->sorted[at + count], (oracle->count - at - count) * sizeof(struct vad *));
    oracle->count -= count;
}

static void oracle_insert(struct oracle *oracle, unsigned at, struct vad *vad)
{
    memmove(&oracle->sorted[at + 1], &oracle->sorted[at], (oracle->count - at) * sizeof vad);
    oracle->sorted[at] = vad;
    oracle->count++;
    oracle->pages += vad->last_page - vad->first_page + 1;
}

/* A VAD is cut into up to three parts, one of which may go, or becomes another of the same bounds. */
static void random_parts(struct oracle *oracle, struct vad_tree *tree, unsigned at, uint64_t *random)
{
    struct vad *old = oracle->sorted[at], *parts[VAD_PARTS_MAX];
    const uint64_t first = old->first_page, last = old->last_page;
    const uint64_t a = first + random_below(random, last - first + 1), b = a + random_below(random, last - a + 1);
    const bool keep = random_below(random, 2) != 0;
    unsigned count = 0;

    if (a > first)
        parts[count++] = vad_new(first, a - 1);
    if (keep || (a == first && b == last))
        parts[count++] = vad_new(a, b);
    if (b < last)
        parts[count++] = vad_new(b + 1, last);
    replace(tree, &old, 1, parts, count);
    oracle_remove(oracle, at, 1);
    for (unsigned i = 0; i < count; i++)
        oracle_insert(oracle, at + i, parts[i]);
}

/* VADs next to each other become one, whatever lies free between them, which stays free at the ends. */
static void random_join(struct oracle *oracle, struct vad_tree *tree, unsigned at, unsigned count)
{
    struct vad *fresh = vad_new(oracle->sorted[at]->first_page, oracle->sorted[at + count - 1]->last_page);

    replace(tree, &oracle->sorted[at], count, &fresh, 1);
    oracle_remove(oracle, at, count);
    oracle_insert(oracle, at, fresh);
}

/* Phases of growth and of decay, so that nodes split and join at all levels. */
static void random_operations_match_a_sorted_array(void **state)
{
    static const unsigned capacities[] = { SMALLEST, 5, 8, VAD_FANOUT };

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct oracle oracle = { .count = 0 };
        struct vad_tree tree;
        uint64_t random = seed;

        tree_init(&tree, capacities[seed % 4]);
        oracle_compare(&oracle, &tree);
        for (unsigned step = 1; step <= 4000 / EFFORT_DIVISOR; step++) {
            const bool growing = step / 400 % 2 == 0;
            const uint64_t first = random_below(&random, ORACLE_PAGES);
            const uint64_t last = first + random_below(&random, 12);
            const unsigned i = oracle_at(&oracle, first);
            const uint64_t dice = random_below(&random, 100);
            const uint64_t before = tree.sequence;

            if (dice < 10 && i < oracle.count && oracle.count + VAD_PARTS_MAX < ORACLE_MAX) {
                random_parts(&oracle, &tree, i, &random);
            } else if (dice < 12 && i + 2 < oracle.count) {
                const unsigned most = oracle.count - i < 40 ? oracle.count - i : 40;
                random_join(&oracle, &tree, i, 2 + (unsigned)random_below(&random, most - 1));
            } else if (i < oracle.count && (oracle.sorted[i]->first_page <= last || (!growing && dice < 90))) {
                vad_remove(&tree, oracle.sorted[i]);
                oracle_remove(&oracle, i, 1);
            } else if (oracle.count < ORACLE_MAX && (i == oracle.count || oracle.sorted[i]->first_page > last)) {
                struct vad *vad = vad_new(first, last);
                insert(&tree, vad);
                oracle_insert(&oracle, i, vad);
            } else {
                continue;
            }
            assert_int_equal(tree.sequence, before + 1);
            assert_tree_sound(&tree);
            assert_in_range(vad_height(&tree), 0, height_bound(&tree));
            if (step % 100 == 0)
                oracle_compare(&oracle, &tree);
        }
        assert_int_equal(tree.missed, 0);
        tree_free(&tree);
    }
}

/* A join over thousands of VADs: whole subtrees go. */
static void joins_over_many_nodes(void **state)
{
    enum { COUNT = 3000 };
    static struct vad *vads[COUNT];

    (void)state;
    for (unsigned capacity = SMALLEST; capacity <= VAD_FANOUT; capacity *= 2) {
        for (unsigned from = 0; from < COUNT; from += COUNT / 3 - 1) {
            struct vad_tree tree;

            tree_init(&tree, capacity);
            for (unsigned i = 0; i < COUNT; i++)
                insert(&tree, vads[i] = vad_new(16 * (uint64_t)i, 16 * (uint64_t)i + 15));
            const unsigned count = from + COUNT / 2 <= COUNT ? COUNT / 2 : COUNT - from;
            struct vad *fresh = vad_new(16 * (uint64_t)from, 16 * (uint64_t)(from + count) - 1);
            replace(&tree, &vads[from], count, &fresh, 1);
            assert_tree_sound(&tree);
            assert_int_equal(tree.count, COUNT - count + 1);
            for (unsigned i = 0; i < COUNT; i++)
                assert_ptr_equal(vad_find(&tree, 16 * (uint64_t)i + 7),
                                 i < from || i >= from + count ? vads[i] : fresh);
            for (unsigned i = from; i < from + count; i++)
                free(vads[i]);
            tree_free(&tree);
        }
    }
}

static void regions_at_both_ends_of_the_page_numbers(void **state)
{
    struct vad_tree tree;
    uint64_t base;

    (void)state;
    tree_init(&tree, VAD_FANOUT);
    struct vad *high = vad_new(UINT64_MAX - 15, UINT64_MAX);
    struct vad *low = vad_new(0, 0);
    insert(&tree, high);
    insert(&tree, low);
    assert_tree_sound(&tree);
    assert_ptr_equal(vad_find(&tree, UINT64_MAX), high);
    assert_ptr_equal(vad_find(&tree, 0), low);
    assert_null(vad_find(&tree, 1));
    assert_null(vad_find(&tree, UINT64_MAX - 16));
    assert_ptr_equal(vad_next(&tree, low), high);
    assert_null(vad_next(&tree, high));
    assert_true(gap_of(&tree, 1, 0, UINT64_MAX, false, &base));
    assert_int_equal(base, 16);
    assert_true(gap_of(&tree, 1, 0, UINT64_MAX, true, &base));
    assert_int_equal(base, UINT64_MAX - 31);
    assert_true(gap_of(&tree, UINT64_MAX - 31, 0, UINT64_MAX, true, &base));
    assert_int_equal(base, 16);
    assert_false(gap_of(&tree, UINT64_MAX - 30, 0, UINT64_MAX, false, &base));
    tree_free(&tree);
}

/* ---- 100,000 regions -------------------------------------------------------------------------------------------- */

enum { MANY = 100000 };

enum order { ASCENDING, DESCENDING, INWARD, SHUFFLED, ORDER_COUNT };

static uint64_t order_index(enum order order, uint64_t i)
{
    switch (order) {
    case ASCENDING:
        return i;
    case DESCENDING:
        return MANY - 1 - i;
    case INWARD:
        return i % 2 == 0 ? i / 2 : MANY - 1 - i / 2;
    default:
        return i * 38197 % MANY; /* no common factor with MANY */
    }
}

static void a_hundred_thousand_regions_stay_balanced(void **state)
{
    (void)state;
    for (enum order order = ASCENDING; order < ORDER_COUNT; order++) {
        struct vad_tree tree;

        tree_init(&tree, order == SHUFFLED ? 8 : VAD_FANOUT);
        for (uint64_t i = 0; i < MANY; i++) {
            const uint64_t first = 16 * order_index(order, i) * 3;
            insert(&tree, vad_new(first, first + 15 + i % 17));
        }
        assert_int_equal(tree.count, MANY);
        assert_tree_sound(&tree);
        assert_in_range(vad_height(&tree), 4, height_bound(&tree));
        if (order == ASCENDING) /* seven eighths full */
            assert_in_range(tree.leaves.total - tree.leaves.free_count, MANY / VAD_FANOUT, MANY / 28 + 100);

        /* Half away, every second one first, then a run in the middle. */
        for (uint64_t i = 0; i < MANY; i++) {
            if (i % 2 == 0 || (i > MANY / 3 && i < MANY / 2)) {
                struct vad *vad = vad_find(&tree, 48 * i);
                assert_non_null(vad);
                vad_remove(&tree, vad);
                free(vad);
            }
        }
        assert_tree_sound(&tree);
        assert_in_range(vad_height(&tree), 3, height_bound(&tree));
        for (uint64_t i = 0; i < MANY; i++)
            assert_true((vad_find(&tree, 48 * i) != NULL) == !(i % 2 == 0 || (i > MANY / 3 && i < MANY / 2)));
        tree_free(&tree);
    }
}

/* ---- what leaves tell ------------------------------------------------------------------------------------------- */

static void assert_summary(const struct vad_tree *tree, struct vad *vad, uint32_t protection)
{
    const uint64_t pages[] = { vad->first_page, vad->first_page + (vad->last_page - vad->first_page) / 2,
                               vad->last_page };
    struct vad_summary summary;

    for (unsigned i = 0; i < 3; i++) {
        assert_ptr_equal(vad_find(tree, pages[i]), vad);
        assert_ptr_equal(vad_find_summary(tree, pages[i], &summary), vad);
        assert_int_equal(summary.first_page, vad->first_page);
        assert_int_equal(summary.last_page, vad->last_page);
        assert_int_equal(summary.protection, protection);
    }
    assert_null(vad_find_summary(tree, vad->last_page + 1, &summary));
    assert_null(vad_find(tree, vad->last_page + 1));
}

/*
 * Regions of each protection and of lengths around the longest that an entry holds: what a lookup tells, before and
 * after the first commit, when leaves were rewritten, and when a region comes back to its place.
 */
static void a_lookup_tells_length_and_protection(void **state)
{
    static const uint64_t lengths[] = { 1,
                                        2,
                                        VAD_ENTRY_PAGES_MAX - 1,
                                        VAD_ENTRY_PAGES_MAX,
                                        VAD_ENTRY_PAGES_MAX + 1,
                                        3 * (VAD_ENTRY_PAGES_MAX + 1),
                                        1ull << 33 };
    enum { LENGTHS = sizeof lengths / sizeof lengths[0], ACCESSES = 8, MODIFIERS = 4 };
    static const uint32_t modifiers[MODIFIERS] = { 0, TIDE_PAGE_GUARD, TIDE_PAGE_NOCACHE, TIDE_PAGE_WRITECOMBINE };
    static struct vad *vads[LENGTHS * ACCESSES * MODIFIERS];
    struct vad_tree tree;
    uint64_t page = 16;
    unsigned count = 0;

    (void)state;
    tree_init(&tree, SMALLEST);
    for (unsigned m = 0; m < MODIFIERS; m++)
        for (unsigned a = 0; a < ACCESSES; a++)
            for (unsigned l = 0; l < LENGTHS; l++) {
                struct vad *vad = vads[count++] = vad_new(page, page + lengths[l] - 1);
                vad->protection = 1u << a | modifiers[m];
                vad->reserved_only = true;
                insert(&tree, vad);
                page += lengths[l] + 17;
            }
    assert_tree_sound(&tree);
    for (unsigned i = 0; i < count; i++)
        assert_summary(&tree, vads[i], vads[i]->protection);
    for (unsigned i = 0; i < count; i += 2)
        vad_committing(&tree, vads[i]);
    assert_tree_sound(&tree);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < count; i++)
            assert_summary(&tree, vads[i], i % 2 == 0 ? 0 : vads[i]->protection);
        /* Away and back, one by one and then in runs, in which leaves are rewritten. */
        const unsigned run = 1 + round * 5;
        for (unsigned from = 0; from < count; from += run) {
            const unsigned to = from + run < count ? from + run : count;
            for (unsigned i = from; i < to; i++) {
                vad_remove(&tree, vads[i]);
                assert_null(vad_find(&tree, vads[i]->first_page));
                assert_null(vad_find(&tree, vads[i]->last_page));
            }
            assert_tree_sound(&tree);
            for (unsigned i = from; i < to; i++)
                insert(&tree, vads[i]);
            assert_tree_sound(&tree);
        }
    }
    tree_free(&tree);
}

/*
 * VAD-1: random regions, half released, reserved again by the gap search, and no overlap. A search that walked the
 * regions one by one would take 10^10 steps here and in the next test, and run into the time limit of the test.
 */
static void a_hundred_thousand_random_regions_never_overlap(void **state)
{
    static struct vad *regions[MANY];
    struct vad_tree tree;
    uint64_t random = 99;
    const uint64_t lowest = TIDE_LOWEST_ADDRESS >> 12, highest = TIDE_HIGHEST_ADDRESS >> 12;

    (void)state;
    tree_init(&tree, VAD_FANOUT);
    for (unsigned i = 0; i < MANY; i++) {
        const uint64_t pages = 1 + random_below(&random, 64);
        uint64_t first = lowest + random_below(&random, highest - lowest - 64) / 16 * 16;
        const struct vad *in_the_way = vad_find_first(&tree, first, first + pages - 1);
        if (in_the_way != NULL && in_the_way->first_page <= first + pages - 1)
            assert_true(gap_of(&tree, pages, lowest, highest, false, &first));
        insert(&tree, regions[i] = vad_new(first, first + pages - 1));
    }
    assert_tree_sound(&tree);
    for (unsigned i = 0; i < MANY; i += 2) {
        vad_remove(&tree, regions[i]);
        free(regions[i]);
    }
    for (unsigned i = 0; i < MANY; i += 2) {
        const uint64_t pages = 1 + random_below(&random, 64);
        const uint64_t from = i % 3 == 0 ? lowest : lowest + random_below(&random, highest - lowest - 64);
        uint64_t first;
        assert_true(gap_of(&tree, pages, from, highest, i % 4 == 0, &first));
        assert_true(first >= from && first + pages - 1 <= highest && first % 16 == 0);
        insert(&tree, regions[i] = vad_new(first, first + pages - 1)); /* asserts that it is free */
    }
    assert_int_equal(tree.count, MANY);
    assert_tree_sound(&tree);
    tree_free(&tree);
}

/* Holes of 3 units everywhere, wide ones outside the range asked for: the worst for a search that prunes badly. */
static void gap_search_among_a_hundred_thousand_regions(void **state)
{
    const uint64_t middle = 64ull * (MANY / 2), end = 64ull * MANY;
    struct vad_tree tree;
    uint64_t base;

    (void)state;
    tree_init(&tree, VAD_FANOUT);
    for (uint64_t i = 0; i < MANY; i++)
        if (i % (MANY / 100) != 7) /* one missing in each thousand: a hole of 7 units */
            insert(&tree, vad_new(64 * i, 64 * i + i % 16));
    for (uint64_t i = 0; i < MANY / EFFORT_DIVISOR; i++) {
        /* Nothing of 4 units between two missing ones, in either direction, though both sides have it. */
        const uint64_t hole = 64ull * (MANY / 100) * (i % 99) + 64 * 7;
        const uint64_t next = hole + 64ull * (MANY / 100);
        assert_false(gap_of(&tree, 64, hole + 64, next - 1, i % 2 == 0, &base));
        assert_true(gap_of(&tree, 64, hole + 64, end - 1, false, &base));
        assert_int_equal(base, next - 48);
        assert_true(gap_of(&tree, 64, 0, next - 49, true, &base));
        assert_int_equal(base, hole);
        assert_false(gap_of(&tree, 7 * 16 + 1, 0, end - 1, i % 2 == 0, &base));
    }
    assert_true(gap_of(&tree, 7 * 16, middle, end + 1000, false, &base));
    assert_int_equal(base, middle + 7 * 64 - 48);
    assert_true(gap_of(&tree, 7 * 16 + 1, middle, end + 1000, false, &base));
    assert_int_equal(base, end - 48);
    tree_free(&tree);
}

/* ---- gaps against brute force ----------------------------------------------------------------------------------- */

enum { GAP_UNITS = 40, GAP_PAGES = GAP_UNITS * 16 };

static bool brute_fits(const bool *unit_taken, uint64_t base, uint64_t pages)
{
    for (uint64_t unit = base / 16; unit <= (base + pages - 1) / 16; unit++)
        if (unit_taken[unit])
            return false;
    return true;
}

static bool brute_find_gap(const struct vad_tree *tree, uint64_t pages, uint64_t lowest, uint64_t highest,
                           bool top_down, uint64_t *first_page)
{
    bool unit_taken[GAP_UNITS * 3] = { false };
    bool found = false;

    for (const struct vad *vad = vad_first(tree); vad != NULL; vad = vad_next(tree, vad))
        for (uint64_t page = vad->first_page; page <= vad->last_page; page++)
            unit_taken[page / 16] = true;
    for (uint64_t base = 0; base + pages - 1 <= highest; base += 16) {
        if (base >= lowest && brute_fits(unit_taken, base, pages)) {
            *first_page = base;
            if (!top_down)
                return true;
            found = true;
        }
    }
    return found;
}

static void gap_search_matches_brute_force(void **state)
{
    unsigned found_count = 0, none_count = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 400 / EFFORT_DIVISOR; seed++) {
        const bool aligned = seed % 4 != 0; /* regions that begin in mid-unit count with the whole unit as well */
        const uint64_t longest = 1 + seed % 60;
        struct vad_tree tree;
        uint64_t random = seed;

        tree_init(&tree, seed % 3 == 0 ? VAD_FANOUT : SMALLEST + seed % 5);
        for (unsigned i = 0; i < seed % 30; i++) {
            const uint64_t first = random_below(&random, GAP_PAGES) & (aligned ? ~15ull : ~0ull);
            const uint64_t last = first + random_below(&random, longest);
            const struct vad *in_the_way = vad_find_first(&tree, first, last);
            if (in_the_way == NULL || in_the_way->first_page > last)
                insert(&tree, vad_new(first, last));
        }
        assert_tree_sound(&tree);
        for (unsigned i = 0; i < 2000; i++) {
            const uint64_t pages = 1 + random_below(&random, i % 2 == 0 ? 40 : GAP_PAGES);
            const uint64_t lowest = random_below(&random, GAP_PAGES);
            const uint64_t highest =
                i % 16 == 0 ? random_below(&random, GAP_PAGES) : lowest + random_below(&random, GAP_PAGES - lowest);
            const bool top_down = i / 2 % 2 == 0;
            uint64_t got = UINT64_MAX, expected = UINT64_MAX;

            const bool found = gap_of(&tree, pages, lowest, highest, top_down, &got);
            if (found != brute_find_gap(&tree, pages, lowest, highest, top_down, &expected) || got != expected)
                fail_msg("seed %lu: %lu pages in %lu-%lu %s: got %ld, expected %ld", seed, pages, lowest, highest,
                         top_down ? "top down" : "bottom up", (long)got, (long)expected);
            found_count += found;
            none_count += !found;
        }
        tree_free(&tree);
    }
    assert_true(found_count > 10000 / EFFORT_DIVISOR && none_count > 10000 / EFFORT_DIVISOR);
}

/* nt-behaviour 4 rule 2: the rest of the last unit of a region is lost. */
static void the_rest_of_a_unit_is_lost(void **state)
{
    struct vad_tree tree;
    uint64_t base;

    (void)state;
    tree_init(&tree, VAD_FANOUT);
    insert(&tree, vad_new(16, 16));
    insert(&tree, vad_new(64, 80));
    assert_true(gap_of(&tree, 1, 16, 1000, false, &base));
    assert_int_equal(base, 32);
    assert_true(gap_of(&tree, 32, 16, 1000, false, &base));
    assert_int_equal(base, 32);
    assert_true(gap_of(&tree, 33, 16, 1000, false, &base));
    assert_int_equal(base, 96);
    assert_false(gap_of(&tree, 33, 16, 96 + 31, false, &base));
    assert_true(gap_of(&tree, 33, 16, 96 + 32, false, &base));
    assert_true(gap_of(&tree, 5, 17, 95, true, &base));
    assert_int_equal(base, 48);
    assert_false(gap_of(&tree, 1, 17, 31, false, &base)); /* no unit begins in it */
    assert_false(gap_of(&tree, 1, 31, 17, false, &base));
    assert_false(gap_of(&tree, UINT64_MAX, 1, UINT64_MAX, false, &base));
    tree_free(&tree);
}

/* ---- readers against writers ------------------------------------------------------------------------------------ */

/*
 * The address range is a row of slots of 64 pages. Every 8th slot always holds a region, every 8th + 1 never does; the
 * others belong to one of two writers each. A writer marks a slot before and after each change, so that a reader that
 * sees the same mark before and after its lookup knows what the lookup must have said.
 */
enum { SLOTS = 512, SLOT_PAGES = 64, READERS = 4, WRITERS = 2 };
enum { MARK_ABSENT, MARK_COMING, MARK_PRESENT, MARK_GOING, MARK_COUNT };

struct race {
    struct vad_tree tree;
    struct sync_lock lock; /* plays the lock of the space */
    uint64_t marks[SLOTS]; /* [A] state modulo MARK_COUNT */
    struct vad *vads[SLOTS];
    struct vad *retired[WRITERS]; /* the grace period lasts until the end of the test */
    uint32_t writers_left;        /* [A] */
};

struct race_thread {
    struct race *race;
    unsigned index;
    uint64_t lookups, known, wrong, missing, phantom;
};

/* Memory of VADs is as lasting as that of the test, that of nodes is used again and again. */
static struct grace_thread *race_enter(void)
{
    struct grace_thread *thread = grace_thread_get(&test_grace);

    if (thread == NULL)
        abort();
    return thread;
}

static void *race_writer(void *argument)
{
    struct race_thread *self = argument;
    struct race *race = self->race;
    struct grace_thread *thread = race_enter();
    uint64_t random = 1000 + self->index;

    for (unsigned step = 0; step < 200000 / EFFORT_DIVISOR; step++) {
        const uint64_t slot = random_below(&random, SLOTS);
        if (slot % 8 < 2 || slot % WRITERS != self->index)
            continue;
        const uint64_t first = slot * SLOT_PAGES;

        (void)sync_add_64(&race->marks[slot], 1);
        grace_enter(thread);
        sync_lock(&race->lock);
        if (race->vads[slot] == NULL) {
            struct vad *vad = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *vad);
            if (vad == NULL)
                abort();
            memset(vad, 0, sizeof *vad);
            vad->first_page = first;
            vad->last_page = first + random_below(&random, SLOT_PAGES);
            race->vads[slot] = vad;
            if (vad_prepare(&race->tree, 0) != TIDE_SUCCESS)
                abort();
            vad_insert(&race->tree, vad);
        } else {
            vad_remove(&race->tree, race->vads[slot]);
            race->vads[slot]->retired_next = race->retired[self->index];
            race->retired[self->index] = race->vads[slot];
            race->vads[slot] = NULL;
        }
        sync_unlock(&race->lock);
        grace_leave(thread);
        (void)sync_add_64(&race->marks[slot], 1);
    }
    grace_thread_put(thread);
    (void)sync_add_32(&race->writers_left, (uint32_t)-1);
    return NULL;
}

static void *race_reader(void *argument)
{
    struct race_thread *self = argument;
    struct race *race = self->race;
    struct grace_thread *thread = race_enter();
    uint64_t random = 2000 + self->index;

    while (sync_load_32(&race->writers_left) != 0) {
        const uint64_t slot = random_below(&random, SLOTS);
        const uint64_t page = slot * SLOT_PAGES; /* the first page is in every region of the slot */
        const uint64_t before = sync_load_64(&race->marks[slot]);
        grace_enter(thread);
        const struct vad *vad = vad_find(&race->tree, page);
        grace_leave(thread);
        const uint64_t after = sync_load_64(&race->marks[slot]);

        self->lookups++;
        if (vad != NULL && (vad->first_page > page || vad->last_page < page))
            self->wrong++;
        if (before != after)
            continue;
        self->known += before % 2 == 0;
        self->missing += before % MARK_COUNT == MARK_PRESENT && vad == NULL;
        self->phantom += before % MARK_COUNT == MARK_ABSENT && vad != NULL;
    }
    grace_thread_put(thread);
    return NULL;
}

static void readers_race_writers(void **state)
{
    static struct race race;
    struct race_thread threads[WRITERS + READERS] = { 0 };
    pthread_t ids[WRITERS + READERS];
    uint64_t lookups = 0, known = 0;

    (void)state;
    memset(&race, 0, sizeof race);
    tree_init(&race.tree, SMALLEST);
    sync_lock_init(&race.lock, SYNC_RANK_test);
    race.writers_left = WRITERS;
    for (uint64_t slot = 0; slot < SLOTS; slot += 8) {
        insert(&race.tree, vad_new(slot * SLOT_PAGES, slot * SLOT_PAGES + 5));
        race.marks[slot] = MARK_PRESENT;
    }
    for (unsigned i = 0; i < WRITERS + READERS; i++) {
        threads[i].race = &race;
        threads[i].index = i < WRITERS ? i : i - WRITERS;
        assert_int_equal(pthread_create(&ids[i], NULL, i < WRITERS ? race_writer : race_reader, &threads[i]), 0);
    }
    for (unsigned i = 0; i < WRITERS + READERS; i++)
        assert_int_equal(pthread_join(ids[i], NULL), 0);

    for (unsigned i = 0; i < WRITERS + READERS; i++) {
        assert_int_equal(threads[i].wrong, 0);
        assert_int_equal(threads[i].missing, 0);
        assert_int_equal(threads[i].phantom, 0);
        lookups += threads[i].lookups;
        known += threads[i].known;
    }
    assert_true(lookups > 0 && known > 0);
    assert_tree_sound(&race.tree);
    tree_free(&race.tree);
    for (unsigned i = 0; i < WRITERS; i++) {
        for (struct vad *vad = race.retired[i], *next; vad != NULL; vad = next) {
            next = vad->retired_next;
            free(vad);
        }
    }
}

/* ---- what readers see in the midst of a change ------------------------------------------------------------------ */

#ifdef TIDE_SYNC_POINTS

enum { MIDST_PAGES = 16 * 200 };

/* Looks all pages up before each atomic operation of a writer: as of before the change, or as of after it. */
static struct {
    const struct vad_tree *tree;
    const struct vad *before[MIDST_PAGES], *after[MIDST_PAGES];
    bool is_after, busy, failed;
    unsigned looks;
} midst;

static void midst_look(const void *address)
{
    bool old = true, new = true;

    (void)address;
    if (midst.busy || midst.tree == NULL)
        return;
    midst.busy = true;
    for (unsigned page = 0; page < MIDST_PAGES; page++) {
        const struct vad *vad = vad_find(midst.tree, page);
        old = old && vad == midst.before[page];
        new = new &&vad == midst.after[page];
    }
    midst.failed = midst.failed || (!new && (midst.is_after || !old));
    midst.is_after = midst.is_after || !old;
    midst.looks++;
    midst.busy = false;
}

static void midst_watch(struct vad_tree *tree, struct vad *const *old, unsigned old_count, struct vad *const *fresh,
                        unsigned fresh_count)
{
    for (unsigned page = 0; page < MIDST_PAGES; page++)
        midst.before[page] = midst.after[page] = vad_find(tree, page);
    for (unsigned i = 0; i < old_count; i++)
        for (uint64_t page = old[i]->first_page; page <= old[i]->last_page; page++)
            midst.after[page] = NULL;
    for (unsigned i = 0; i < fresh_count; i++)
        for (uint64_t page = fresh[i]->first_page; page <= fresh[i]->last_page; page++)
            midst.after[page] = fresh[i];
    midst.is_after = false;
    assert_int_equal(vad_prepare(tree, old_count), TIDE_SUCCESS);
    midst.tree = tree;
    vad_replace(tree, old, old_count, fresh, fresh_count);
    midst_look(NULL);
    midst.tree = NULL;
    assert_false(midst.failed);
    assert_true(midst.is_after);
    assert_tree_sound(tree);
}

static void a_change_is_seen_as_one(void **state)
{
    enum { COUNT = 120 };

    (void)state;
    memset(&midst, 0, sizeof midst);
    sync_point_hook_set(midst_look);
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct vad *vads[COUNT] = { NULL };
        struct vad_tree tree;
        uint64_t random = seed;

        tree_init(&tree, seed % 3 == 0 ? VAD_FANOUT : SMALLEST);
        for (unsigned step = 0; step < 600 / EFFORT_DIVISOR; step++) {
            const unsigned i = (unsigned)random_below(&random, COUNT);
            struct vad *old = vads[i];

            if (old == NULL) {
                /* Sometimes over the place of neighbours that are gone, and so over their keys. */
                unsigned end = i;
                while (end + 1 < COUNT && vads[end + 1] == NULL && end < i + 3)
                    end++;
                vads[i] = vad_new(16 * (uint64_t)i, 16 * (uint64_t)end + 3 + random_below(&random, 13));
                midst_watch(&tree, NULL, 0, &vads[i], 1);
                for (unsigned k = i + 1; k <= end; k++)
                    vads[k] = vads[i];
                continue;
            }
            unsigned first = i, end = i;
            while (first > 0 && vads[first - 1] == old)
                first--;
            while (end + 1 < COUNT && vads[end + 1] == old)
                end++;
            if (step % 3 == 0) {
                /* Joined with what follows. */
                struct vad *list[COUNT] = { old };
                unsigned count = 1;
                for (unsigned k = end + 1; k < COUNT && vads[k] != NULL && count < 30; k++) {
                    if (vads[k] != list[count - 1])
                        list[count++] = vads[k];
                }
                if (count > 1) {
                    struct vad *fresh = vad_new(old->first_page, list[count - 1]->last_page);
                    /* What lay free between them counts as before and after: only their own pages are watched. */
                    struct vad *pieces = fresh;
                    midst_watch(&tree, list, count, &pieces, 1);
                    for (unsigned k = 0; k < COUNT; k++)
                        for (unsigned n = 0; n < count; n++)
                            if (vads[k] == list[n])
                                vads[k] = fresh;
                    for (unsigned n = 0; n < count; n++)
                        free(list[n]);
                    continue;
                }
            }
            if (step % 3 == 1) {
                /* Another with the same bounds. */
                struct vad *fresh = vad_new(old->first_page, old->last_page);
                midst_watch(&tree, &old, 1, &fresh, 1);
                for (unsigned k = first; k <= end; k++)
                    vads[k] = fresh;
            } else {
                /* Parts, of which one page in the middle goes; then all of them, one by one. */
                const uint64_t hole = (old->first_page + old->last_page) / 2;
                struct vad *parts[2];
                unsigned count = 0;
                if (hole > old->first_page)
                    parts[count++] = vad_new(old->first_page, hole - 1);
                if (hole < old->last_page)
                    parts[count++] = vad_new(hole + 1, old->last_page);
                if (count > 0)
                    midst_watch(&tree, &old, 1, parts, count);
                else
                    midst_watch(&tree, &old, 1, NULL, 0);
                for (unsigned n = 0; n < count; n++) {
                    midst_watch(&tree, &parts[n], 1, NULL, 0);
                    free(parts[n]);
                }
                for (unsigned k = first; k <= end; k++)
                    vads[k] = NULL;
            }
            free(old);
        }
        tree_free(&tree);
    }
    sync_point_hook_set(NULL);
    assert_true(midst.looks > 1000 / EFFORT_DIVISOR);
}

#endif

/* ---- memory ----------------------------------------------------------------------------------------------------- */

/* Nodes that readers may be in are not used again; as soon as the reader is gone they are. */
static void replaced_nodes_wait_for_readers(void **state)
{
    struct grace_thread *reader = grace_thread_get(&test_grace);
    struct vad *vads[64];
    struct vad_tree tree;

    (void)state;
    assert_non_null(reader);
    tree_init(&tree, SMALLEST);
    for (unsigned i = 0; i < 64; i++)
        insert(&tree, vads[i] = vad_new(64 * (uint64_t)i, 64 * (uint64_t)i + 3));
    grace_enter(reader);
    const uint64_t held_since = tree.retired_count;
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < 64; i++) {
            vad_remove(&tree, vads[i]);
            vads[i]->first_page ^= 1; /* another key: the old entry does not do */
            insert(&tree, vads[i]);
        }
    assert_tree_sound(&tree);
    assert_true(tree.retired_count > held_since + 20 * 64 - 64);
    const uint64_t most = tree.leaves.total;
    grace_leave(reader);
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < 64; i++) {
            vad_remove(&tree, vads[i]);
            vads[i]->first_page ^= 1;
            insert(&tree, vads[i]);
        }
    assert_true(tree.retired_count < 200);
    assert_int_equal(tree.leaves.total, most);
    assert_tree_sound(&tree);
    grace_thread_put(reader);
    tree_free(&tree);
}

/* A removal needs no memory, only the shape suffers; later changes make it whole or live with it. */
static void a_removal_without_memory_succeeds(void **state)
{
    struct vad *vads[400];
    struct vad_tree tree;
    uint64_t random = 5, base;

    (void)state;
    tree_init(&tree, SMALLEST);
    for (unsigned i = 0; i < 400; i++)
        insert(&tree, vads[i] = vad_new(64 * (uint64_t)i, 64 * (uint64_t)i + 20));
    /* No limit of the process is needed: a slab whose objects are larger than a chunk cannot grow. */
    const size_t bytes = tree.leaves.object_bytes;
    tree.leaves.object_bytes = (size_t)1 << 40;
    void *const kept = tree.leaves.free;
    const uint64_t kept_count = tree.leaves.free_count;
    struct grace_thread *reader = grace_thread_get(&test_grace);
    grace_enter(reader);
    tree.leaves.free = NULL;
    tree.leaves.free_count = 0;
    tree.leaves.total -= kept_count;
    assert_int_equal(vad_prepare(&tree, 0), TIDE_INSUFFICIENT_RESOURCES);
    for (unsigned i = 0; i < 400; i++) {
        if (i / 40 % 2 == 0 || i % 7 == 0) {
            vad_remove(&tree, vads[i]);
            free(vads[i]);
            vads[i] = NULL;
            assert_tree_sound(&tree);
        }
    }
    assert_true(tree.missed > 20);
    for (unsigned i = 0; i < 400; i++)
        assert_ptr_equal(vad_find(&tree, 64 * (uint64_t)i + 20), vads[i]);
    assert_true(gap_of(&tree, 64 * 40, 0, 64 * 400, true, &base));
    grace_leave(reader);
    grace_thread_put(reader);
    tree.leaves.object_bytes = bytes;
    tree.leaves.free = kept;
    tree.leaves.free_count = kept_count;
    tree.leaves.total += kept_count;
    /* Over the empty nodes, and all the others. */
    insert(&tree, vads[0] = vad_new(0, 64 * 39));
    assert_tree_sound(&tree);
    for (unsigned step = 0; step < 4000; step++) {
        const unsigned i = 40 + (unsigned)random_below(&random, 360);
        if (vads[i] == NULL) {
            insert(&tree, vads[i] = vad_new(64 * (uint64_t)i, 64 * (uint64_t)i + random_below(&random, 64)));
        } else {
            vad_remove(&tree, vads[i]);
            free(vads[i]);
            vads[i] = NULL;
        }
        assert_tree_sound(&tree);
        for (unsigned k = 40; k < 400 && step % 100 == 0; k++)
            assert_ptr_equal(vad_find(&tree, 64 * (uint64_t)k), vads[k]);
    }
    tree_free(&tree);
}

/* ---- verification ----------------------------------------------------------------------------------------------- */

static void assert_tree_refused(const struct vad_tree *tree, const char *word)
{
    char why[256] = "";

    assert_false(vad_tree_check(tree, why, sizeof why));
    if (strstr(why, word) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", why, word);
}

/* Plants a wrong value, wants it found, and takes it back. */
#define PLANT(field, value, word)                                                                                      \
    do {                                                                                                               \
        const __typeof__(field) kept = (field);                                                                        \
        (field) = (value);                                                                                             \
        assert_tree_refused(&tree, word);                                                                              \
        (field) = kept;                                                                                                \
        assert_tree_sound(&tree);                                                                                      \
    } while (0)

static void check_finds_each_planted_corruption(void **state)
{
    struct vad_tree tree;

    (void)state;
    tree_init(&tree, SMALLEST);
    for (uint64_t i = 0; i < 50; i++) {
        struct vad *vad = vad_new(100 * i, 100 * i + 20);
        vad->protection = TIDE_PAGE_READWRITE;
        vad->reserved_only = true;
        insert(&tree, vad);
    }
    assert_tree_sound(&tree);
    for (struct vad *vad = vad_first(&tree); vad != NULL; vad = vad_next(&tree, vad)) {
        struct vad *next = vad_next(&tree, vad);
        struct vad_path path;

        if (next != NULL) {
            PLANT(vad->last_page, next->first_page, "in an entry for");
            PLANT(next->first_page, vad->last_page, "does not lie after");
        }
        if (vad->first_page != 0)
            PLANT(vad->last_page, vad->first_page - 1, "ends before");
        vad_descend(tree.root, vad->first_page, &path);
        struct vad_node *leaf = path.node[0];
        const unsigned at = path.at[0] - 1;
        PLANT(leaf->entry[at], 0, "VADs and counts");
        PLANT(leaf->key[at], leaf->key[at] + 1, "");
        PLANT(leaf->entry[at], leaf->entry[at] + (1ull << VAD_ENTRY_PAGES_SHIFT), "in an entry for");
        PLANT(leaf->entry[at], leaf->entry[at] ^ 1, "tells otherwise");
        PLANT(vad->reserved_only, !vad->reserved_only, "tells otherwise");
        PLANT(vad->committed_pages, 1, "never to have had any");
        PLANT(vad->commit_state, 1, "never to have had any");
        PLANT(leaf->key[VAD_FANOUT - 1], 0, "out of order");
        PLANT(leaf->live, (uint16_t)(leaf->live + 1), "VADs and counts");
        PLANT(leaf->live, 1, "the least is");
        PLANT(leaf->count, SMALLEST + 1, "the most is");
        PLANT(leaf->level, 1, "another level");
        for (unsigned level = 1; level <= path.top; level++) {
            struct vad_node *node = path.node[level];
            const unsigned i = path.at[level];

            PLANT(node->first[i], node->first[i] + 1, "bounds");
            PLANT(node->last[i], node->last[i] + 1, "bounds");
            PLANT(node->gap[i], node->gap[i] + 1, "gap of");
            PLANT(node->child[i], NULL, "is none");
            PLANT(node->child[i], tree.root, "another level"); /* a cycle */
            PLANT(node->count, 1, "");
            PLANT(node->key[0], 1, "");
            if (i > 0) {
                PLANT(node->key[i], node->key[i - 1], "out of order");
                PLANT(node->key[i], node->first[i] + 1, ""); /* a separator inside of a VAD */
            }
        }
    }
    PLANT(tree.count, 49, "count of 49");
    PLANT(tree.pages, tree.pages + 1, "pages");
    PLANT(tree.leaves.total, tree.leaves.total + 1, "free or retired");
    PLANT(tree.inners.free_count, tree.inners.free_count + 1, "free or retired");
    PLANT(tree.root, NULL, "count of 50");
    tree_free(&tree);
}

/* Runs a function that must stop the process by an assertion. */
static void assert_stops(void (*function)(void))
{
    int status;
    const pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit no_core = { 0, 0 };
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)signal(SIGABRT, SIG_DFL);
        (void)!freopen("/dev/null", "w", stderr);
        function();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
}

static void insert_overlapping(void)
{
    static struct vad a = { .first_page = 16, .last_page = 40 }, b = { .first_page = 40, .last_page = 50 };
    struct vad_tree tree;

    tree_init(&tree, VAD_FANOUT);
    insert(&tree, &a);
    insert(&tree, &b);
}

static void insert_reversed(void)
{
    static struct vad a = { .first_page = 16, .last_page = 15 };
    struct vad_tree tree;

    tree_init(&tree, VAD_FANOUT);
    insert(&tree, &a);
}

static void remove_absent(void)
{
    static struct vad a = { .first_page = 16, .last_page = 40 }, b = { .first_page = 48, .last_page = 50 };
    struct vad_tree tree;

    tree_init(&tree, VAD_FANOUT);
    insert(&tree, &a);
    vad_remove(&tree, &b);
}

static void wrong_use_is_an_assertion(void **state)
{
    (void)state;
    assert_stops(insert_overlapping);
    assert_stops(insert_reversed);
    assert_stops(remove_absent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_operations_match_a_sorted_array),
        cmocka_unit_test(joins_over_many_nodes),
        cmocka_unit_test(regions_at_both_ends_of_the_page_numbers),
        cmocka_unit_test(a_lookup_tells_length_and_protection),
        cmocka_unit_test(a_hundred_thousand_regions_stay_balanced),
        cmocka_unit_test(a_hundred_thousand_random_regions_never_overlap),
        cmocka_unit_test(gap_search_among_a_hundred_thousand_regions),
        cmocka_unit_test(gap_search_matches_brute_force),
        cmocka_unit_test(the_rest_of_a_unit_is_lost),
        cmocka_unit_test(readers_race_writers),
#ifdef TIDE_SYNC_POINTS
        cmocka_unit_test(a_change_is_seen_as_one),
#endif
        cmocka_unit_test(replaced_nodes_wait_for_readers),
        cmocka_unit_test(a_removal_without_memory_succeeds),
        cmocka_unit_test(check_finds_each_planted_corruption),
        cmocka_unit_test(wrong_use_is_an_assertion),
    };
    const char *filter = getenv("TIDE_TEST_FILTER");

    if (filter != NULL)
        cmocka_set_test_filter(filter);
    return cmocka_run_group_tests_name("spaces/vad", tests, group_setup, group_teardown) != 0;
}

/*
 * VADs that take the place of others in one change, under readers; and gaps at alignments above the unit, against an
 * oracle that tries every base.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "spaces/vad.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct vad *vad_new(uint64_t first, uint64_t last)
{
    struct vad *vad = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *vad);

    assert_non_null(vad);
    *vad = (struct vad){ .first_page = first, .last_page = last };
    return vad;
}

static struct grace test_grace;

static void replace(struct vad_tree *tree, struct vad *const *old, unsigned old_count, struct vad *const *fresh,
                    unsigned fresh_count)
{
    assert_int_equal(vad_prepare(tree, old_count), TIDE_SUCCESS);
    vad_replace(tree, old, old_count, fresh, fresh_count);
}

static void insert(struct vad_tree *tree, struct vad *vad)
{
    replace(tree, NULL, 0, &vad, 1);
}

static void assert_tree_sound(const struct vad_tree *tree)
{
    char why[200];

    if (!vad_tree_check(tree, why, sizeof why))
        fail_msg("%s", why);
}

static void parts_take_the_place_of_the_whole(void **state)
{
    struct vad_tree tree;
    struct vad *whole = vad_new(0x100, 0x1FF), *left = vad_new(0x80, 0x8F), *right = vad_new(0x200, 0x20F);
    struct vad *parts[3] = { vad_new(0x100, 0x13F), vad_new(0x140, 0x14F), vad_new(0x150, 0x1FF) };
    struct vad *old[4];

    (void)state;
    vad_tree_init(&tree, &test_grace);
    insert(&tree, whole);
    insert(&tree, left);
    insert(&tree, right);
    replace(&tree, &whole, 1, parts, 3);
    assert_tree_sound(&tree);
    assert_int_equal(tree.count, 5);
    assert_int_equal(tree.pages, 0x120);
    assert_ptr_equal(vad_find(&tree, 0x13F), parts[0]);
    assert_ptr_equal(vad_find(&tree, 0x140), parts[1]);
    assert_ptr_equal(vad_find(&tree, 0x1FF), parts[2]);
    /* all three and a neighbour become one */
    for (unsigned i = 0; i < 3; i++)
        old[i] = parts[i];
    old[3] = right;
    struct vad *joined = vad_new(0x100, 0x20F);
    replace(&tree, old, 4, &joined, 1);
    assert_tree_sound(&tree);
    assert_int_equal(tree.count, 2);
    assert_ptr_equal(vad_find(&tree, 0x205), joined);
    /* a hole: two parts with a gap between */
    struct vad *ends[2] = { vad_new(0x100, 0x107), vad_new(0x209, 0x20F) };
    replace(&tree, &joined, 1, ends, 2);
    assert_tree_sound(&tree);
    assert_null(vad_find(&tree, 0x108));
    assert_null(vad_find(&tree, 0x208));
    assert_ptr_equal(vad_find(&tree, 0x209), ends[1]);
    assert_int_equal(tree.pages, 0x10 + 8 + 7);
    replace(&tree, ends, 2, NULL, 0);
    assert_tree_sound(&tree);
    assert_int_equal(tree.count, 1);
    free(whole);
    free(left);
    free(right);
    free(joined);
    for (unsigned i = 0; i < 3; i++)
        free(parts[i]);
    free(ends[0]);
    free(ends[1]);
    vad_tree_destroy(&tree);
}

/* ---- readers ---------------------------------------------------------------------------------------------------- */

enum { REGIONS = 64, SPAN = 64, READERS = 3, ROUNDS = 20000 };

static struct vad_tree shared;
static uint32_t stop, missed; /* [A] */

/* Every page is in some region at all times: a reader that finds none has missed a change. */
static void *reader(void *context)
{
    struct grace_thread *thread = grace_thread_get(&test_grace);
    uint64_t random = (uintptr_t)context;

    if (thread == NULL)
        abort();
    while (sync_load_32(&stop) == 0) {
        const uint64_t page = random_below(&random, REGIONS * SPAN);
        grace_enter(thread);
        const struct vad *vad = vad_find(&shared, page);
        grace_leave(thread);
        if (vad == NULL || page < vad->first_page || page > vad->last_page)
            (void)sync_add_32(&missed, 1);
    }
    grace_thread_put(thread);
    return NULL;
}

static void no_reader_misses_a_page_that_stays(void **state)
{
    struct vad **garbage = calloc(ROUNDS * 3 + REGIONS, sizeof *garbage);
    uint64_t count = 0, random = 5;
    pthread_t threads[READERS];

    (void)state;
    assert_non_null(garbage);
    vad_tree_init(&shared, &test_grace);
    for (uint64_t i = 0; i < REGIONS; i++)
        insert(&shared, vad_new(i * SPAN, i * SPAN + SPAN - 1));
    for (uintptr_t i = 0; i < READERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, (void *)(i + 1)), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        const uint64_t first = random_below(&random, REGIONS) * SPAN;
        struct vad *whole = vad_find(&shared, first);
        if (whole->last_page - whole->first_page + 1 == SPAN) { /* split it, or join what an earlier round split */
            const uint64_t cut = first + 1 + random_below(&random, SPAN - 1);
            struct vad *parts[2] = { vad_new(first, cut - 1), vad_new(cut, first + SPAN - 1) };
            replace(&shared, &whole, 1, parts, 2);
            garbage[count++] = whole;
        } else {
            struct vad *old[2] = { whole, vad_find(&shared, first + SPAN - 1) };
            struct vad *joined = vad_new(first, first + SPAN - 1);
            replace(&shared, old, 2, &joined, 1);
            garbage[count++] = old[0];
            garbage[count++] = old[1];
        }
    }
    sync_store_32(&stop, 1);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(missed, 0);
    assert_tree_sound(&shared);
    assert_int_equal(shared.pages, REGIONS * SPAN);
    for (struct vad *vad; (vad = vad_first(&shared)) != NULL;) {
        vad_remove(&shared, vad);
        free(vad);
    }
    vad_tree_destroy(&shared);
    for (uint64_t i = 0; i < count; i++)
        free(garbage[i]);
    free(garbage);
}

/* ---- gaps ------------------------------------------------------------------------------------------------------- */

enum { PLACE_UNITS = 256 };

/* Is a base right: aligned, inside, and no unit of it touched? */
static bool fits(const struct vad_tree *tree, const struct vad_gap *gap, uint64_t base)
{
    const uint64_t last = base + gap->pages - 1, unit_end = last | (VAD_UNIT_PAGES - 1);

    if (base % gap->alignment != 0 || base < gap->lowest || last > gap->highest)
        return false;
    const struct vad *other = vad_find_first(tree, base, unit_end);
    return other == NULL || other->first_page > unit_end;
}

static void an_aligned_gap_is_found_if_there_is_one(void **state)
{
    uint64_t random = 9;

    (void)state;
    for (unsigned run = 0; run < 300; run++) {
        struct vad_tree tree;
        vad_tree_init(&tree, &test_grace);
        for (unsigned i = 0; i < 40; i++) { /* at pages, not units: parts of regions that were cut lie so */
            const uint64_t first = 16 + random_below(&random, PLACE_UNITS * VAD_UNIT_PAGES);
            const uint64_t last = first + random_below(&random, 60);
            const struct vad *other = vad_find_first(&tree, first, last);
            if (other == NULL || other->first_page > last)
                insert(&tree, vad_new(first, last));
        }
        for (unsigned i = 0; i < 60; i++) {
            struct vad_gap gap = { .pages = 1 + random_below(&random, 200),
                                   .lowest = random_below(&random, PLACE_UNITS * VAD_UNIT_PAGES / 2),
                                   .alignment = (uint64_t)VAD_UNIT_PAGES << random_below(&random, 6),
                                   .top_down = random_below(&random, 2) };
            gap.highest = gap.lowest + gap.pages + random_below(&random, PLACE_UNITS * VAD_UNIT_PAGES / 2);
            uint64_t found = UINT64_MAX, first = UINT64_MAX, last = UINT64_MAX;
            for (uint64_t base = 0; base <= gap.highest; base += gap.alignment)
                if (fits(&tree, &gap, base)) {
                    first = first == UINT64_MAX ? base : first;
                    last = base;
                }
            assert_int_equal(vad_find_gap(&tree, &gap, &found), first != UINT64_MAX);
            if (first == UINT64_MAX)
                continue;
            assert_true(fits(&tree, &gap, found));
            if (gap.alignment == VAD_UNIT_PAGES) /* the lowest, or the highest */
                assert_int_equal(found, gap.top_down ? last : first);
        }
        for (struct vad *vad; (vad = vad_first(&tree)) != NULL;) {
            vad_remove(&tree, vad);
            free(vad);
        }
        vad_tree_destroy(&tree);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_take_the_place_of_the_whole),
        cmocka_unit_test(no_reader_misses_a_page_that_stays),
        cmocka_unit_test(an_aligned_gap_is_found_if_there_is_one),
    };

    grace_init(&test_grace);
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    grace_destroy(&test_grace);
    return failed != 0;
}

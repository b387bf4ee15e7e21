/*
 * Soft page tables: sparse pages up to the highest, missing tables against brute force, leaves that come and go, makers
 * that race.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct frames *frames; /* of the running test */
static struct grace_thread *self;
static struct page_table table;

static int setup(void **state)
{
    (void)state;
    frames = frames_good(256);
    self = grace_thread_get(&frames->grace);
    grace_enter(self);
    if (tide_failed(page_table_init(&table, frames, 0)))
        return -1;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    page_table_destroy(&table);
    const uint64_t out = frames_out(frames);
    grace_leave(self);
    grace_thread_put(self);
    frames_close(frames);
    return out != 0; /* every table came back */
}

static uint64_t *make(uint64_t page, unsigned expected)
{
    unsigned made = 0;
    uint64_t *pte = page_table_make(&table, page, 0, &made);

    assert_non_null(pte);
    assert_int_equal(made, expected);
    return pte;
}

static void test_empty(void **state)
{
    uint64_t page = 0;

    (void)state;
    assert_int_equal(table.table_pages, 1);
    assert_null(page_table_find(&table, 0));
    assert_null(page_table_find(&table, HIGHEST_PAGE));
    assert_null(page_table_directory(&table, 12345));
    assert_null(page_table_next_leaf(&table, &page, HIGHEST_PAGE));
    page_table_free_leaf(&table, 12345); /* nothing there: nothing happens */
    assert_int_equal(table.table_pages, 1);
    assert_int_equal(frames_out(frames), 1);
}

static void test_sparse_pages(void **state)
{
    const uint64_t third = 1ull << 27, second = 1ull << 18, first = 1ull << 9;
    const struct {
        uint64_t page;
        unsigned made;
    } pages[] = {
        { 16, 3 },
        { 17, 0 },
        { 511, 0 },
        { 512, 1 },    /* the next leaf */
        { second, 2 }, /* the next directory */
        { third, 3 },  /* the next directory's parent */
        { third + second + first, 2 },
        { HIGHEST_PAGE, 3 },
        { HIGHEST_PAGE - 495, 0 },
        { HIGHEST_PAGE / third * third + 5, 2 }, /* under the same top entry, in another directory */
    };
    uint64_t *ptes[sizeof pages / sizeof pages[0]];
    unsigned sum = 1;

    (void)state;
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        ptes[i] = make(pages[i].page, pages[i].made);
        assert_int_equal(*ptes[i], 0);
        sync_store_64(ptes[i], 0x100 + i);
        sum += pages[i].made;
        assert_int_equal(table.table_pages, sum);
        assert_int_equal(frames_out(frames), sum);
        assert_ptr_equal(page_table_directory(&table, pages[i].page) == NULL, 0);
    }
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        assert_ptr_equal(page_table_find(&table, pages[i].page), ptes[i]);
        assert_int_equal(*ptes[i], 0x100 + i);
        make(pages[i].page, 0);
        const uint64_t entry = page_table_directory(&table, pages[i].page)[table_index(pages[i].page, 1)];
        assert_ptr_equal(table_entry_memory(frames, entry) + pages[i].page % TABLE_ENTRIES, ptes[i]);
    }
    /* Beside them there is nothing. */
    assert_null(page_table_find(&table, 1024));
    assert_null(page_table_find(&table, second - 1));
    assert_null(page_table_find(&table, HIGHEST_PAGE - 512));
    assert_null(page_table_find(&table, 2 * third));
    for (unsigned i = 0; i < sizeof pages / sizeof pages[0]; i++)
        sync_store_64(ptes[i], 0);
}

/* A table's record says what it is and where it hangs. */
static void test_table_records(void **state)
{
    const uint64_t *pte = make(16, 3);
    const frame_t leaf = { (uint32_t)(((const char *)pte - frames->memory) / PAGE) };
    const uint64_t word = sync_load_64(&frame_pfn(frames, leaf)->word);

    (void)state;
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_int_equal(pfn_use(word), FRAME_USE_PAGE_TABLE);
    assert_int_equal(pfn_reference_count(word), 1);
    assert_int_equal(pfn_share_count(word), 1);
    assert_ptr_equal(frame_pfn(frames, leaf)->pte, &page_table_directory(&table, 16)[0]);
}

static int compare_pages(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static uint64_t random_page(uint64_t *seed)
{
    /* Bits of each level on their own, small choices, so that pages share tables. */
    const uint64_t page = (random_below(seed, 3) << 27) | (random_below(seed, 3) << 18) | (random_below(seed, 4) << 9) |
                          random_below(seed, 512);

    return random_below(seed, 4) == 0 ? HIGHEST_PAGE - page : page;
}

enum { SPARSE = 30 };

/* The first pages of the leaves of some pages, in order, each once. */
static unsigned make_random_leaves(uint64_t *seed, uint64_t *leaves)
{
    unsigned count = 0;

    for (unsigned i = 0; i < SPARSE; i++) {
        unsigned made = 0;
        leaves[i] = random_page(seed) / TABLE_ENTRIES * TABLE_ENTRIES;
        assert_non_null(page_table_make(&table, leaves[i] + random_below(seed, 512), 0, &made));
    }
    qsort(leaves, SPARSE, sizeof *leaves, compare_pages);
    for (unsigned i = 0; i < SPARSE; i++)
        if (count == 0 || leaves[i] != leaves[count - 1])
            leaves[count++] = leaves[i];
    return count;
}

static void test_next_leaf(void **state)
{
    uint64_t leaves[SPARSE], seed = 5;
    const unsigned count = make_random_leaves(&seed, leaves);
    uint64_t page = 0;
    uint64_t *leaf;
    unsigned at = 0;

    (void)state;
    while ((leaf = page_table_next_leaf(&table, &page, HIGHEST_PAGE)) != NULL) {
        assert_true(at < count);
        assert_int_equal(page, leaves[at]);
        assert_ptr_equal(leaf, page_table_find(&table, page));
        page += TABLE_ENTRIES;
        at++;
    }
    assert_int_equal(at, count);
    for (unsigned i = 0; i < 2000; i++) {
        const uint64_t from = random_page(&seed), last = from + random_below(&seed, 1ull << random_below(&seed, 30));
        uint64_t found = from;

        leaf = page_table_next_leaf(&table, &found, last < HIGHEST_PAGE ? last : HIGHEST_PAGE);
        for (at = 0; at < count && leaves[at] + TABLE_ENTRIES - 1 < from; at++)
            ;
        if (at == count || leaves[at] > last) {
            assert_null(leaf);
        } else {
            assert_non_null(leaf);
            assert_int_equal(found, leaves[at]);
        }
    }
}

/* Brute force: every table that [first, last] may need, looked up one by one. */
static uint64_t missing_slowly(uint64_t first, uint64_t last)
{
    uint64_t missing = 0;

    for (unsigned l = 1; l < TABLE_LEVELS; l++) {
        const unsigned shift = l * TABLE_INDEX_BITS;

        for (uint64_t at = first >> shift; at <= last >> shift; at++) {
            const uint64_t *level = table.root;

            for (unsigned up = TABLE_LEVELS - 1; up >= l && level != NULL; up--) {
                const uint64_t entry = level[table_index(at << shift, up)];
                level = entry == 0 ? NULL : table_entry_memory(frames, entry);
            }
            missing += level == NULL;
        }
    }
    return missing;
}

static void test_missing(void **state)
{
    uint64_t leaves[SPARSE], seed = 11;

    (void)state;
    assert_int_equal(page_table_missing(&table, 0, 0), 3);
    assert_int_equal(page_table_missing(&table, 511, 512), 4);
    assert_int_equal(page_table_missing(&table, HIGHEST_PAGE, HIGHEST_PAGE), 3);
    /* All: 512 + 512 x 512 + 512 x 512 x 512 tables. */
    assert_int_equal(page_table_missing(&table, 0, (1ull << 36) - 1), 512ull + 512 * 512 + 512ull * 512 * 512);
    make_random_leaves(&seed, leaves);
    for (unsigned i = 0; i < 3000 / EFFORT_DIVISOR; i++) {
        const uint64_t first = random_page(&seed), pages = random_below(&seed, 1ull << random_below(&seed, 22)) + 1;
        const uint64_t last = first + pages - 1 < HIGHEST_PAGE ? first + pages - 1 : HIGHEST_PAGE;

        if (page_table_missing(&table, first, last) != missing_slowly(first, last))
            fail_msg("pages 0x%lx to 0x%lx: %lu missing, not %lu", first, last, page_table_missing(&table, first, last),
                     missing_slowly(first, last));
    }
    /* What is missing is what making makes. */
    for (unsigned i = 0; i < 10; i++) {
        const uint64_t first = random_page(&seed) & ~0x1FFull,
                       last = first + 3 * 512 < HIGHEST_PAGE ? first + 3 * 512 : HIGHEST_PAGE;
        const uint64_t missing = page_table_missing(&table, first, last);
        unsigned made = 0;

        for (uint64_t page = first; page <= last; page += 512)
            assert_non_null(page_table_make(&table, page, 0, &made));
        assert_int_equal(made, missing);
        assert_int_equal(page_table_missing(&table, first, last), 0);
    }
}

static void test_free_leaf(void **state)
{
    uint64_t *pte = make(16, 3);
    const frame_t leaf = { (uint32_t)(((char *)pte - frames->memory) / PAGE) };

    (void)state;
    make(600, 1);
    assert_int_equal(table.table_pages, 5);
    page_table_free_leaf(&table, 300);
    assert_int_equal(table.table_pages, 4);
    assert_null(page_table_find(&table, 16));
    assert_non_null(page_table_find(&table, 600));
    assert_int_equal(pfn_state(sync_load_64(&frame_pfn(frames, leaf)->word)), FRAME_FREE);
    page_table_free_leaf(&table, 300); /* gone already */
    assert_int_equal(table.table_pages, 4);
    /* This thread is inside the engine and may walk the old leaf: it is not used again before it leaves. */
    (void)grace_advance(&frames->grace);
    (void)grace_advance(&frames->grace);
    for (frame_t frame; !frame_is_none(frame = frames_allocate(frames, 0, FRAMES_ANY, 0)); frames_free(frames, frame)) {
        assert_int_not_equal(frame.number, leaf.number);
        frame_state_set(frame_pfn(frames, frame), (uint64_t)FRAME_ACTIVE | PFN_REFERENCE_ONE | PFN_SHARE_ONE);
    }
    assert_int_equal(*pte, 0);
    grace_leave(self);
    assert_true(grace_advance(&frames->grace));
    grace_enter(self);
    assert_int_equal(*make(16, 1), 0);
    assert_int_equal(table.table_pages, 5);
}

/* A large page is said in the directory, and the tables are found as before. */
static void test_large_page_in_the_directory(void **state)
{
    uint64_t *pte = make(1024, 3);
    uint64_t *other = make(512, 1);
    const frame_t first = { 5 * FRAMES_RUN };
    const uint64_t *entry = &page_table_directory(&table, 1024)[2];
    const uint64_t before = *entry;

    (void)state;
    assert_int_equal(before & TABLE_LARGE_MASK, 0);
    page_table_large_set(&table, 1024, first);
    assert_int_equal(*entry & (TABLE_LARGE_READ | TABLE_LARGE_WRITE), TABLE_LARGE_READ | TABLE_LARGE_WRITE);
    assert_int_equal(*entry >> TABLE_LARGE_SHIFT, 5);
    assert_int_equal(*entry & ~TABLE_LARGE_MASK, before);
    assert_ptr_equal(page_table_find(&table, 1024), pte);
    assert_ptr_equal(page_table_find(&table, 1535), pte + 511);
    assert_ptr_equal(page_table_find(&table, 512), other);
    uint64_t page = 600;
    assert_ptr_equal(page_table_next_leaf(&table, &page, 2000), other);
    page_table_large_clear(&table, other); /* has none */
    assert_int_equal(*entry >> TABLE_LARGE_SHIFT, 5);
    page_table_large_clear(&table, pte + 300);
    assert_int_equal(*entry, before);
    /* One whose number does not fit is not said. */
    page_table_large_set(&table, 1024, (frame_t){ (1u << 20) * FRAMES_RUN });
    assert_int_equal(*entry, before);
    /* A leaf may go with it. */
    page_table_large_set(&table, 1024, (frame_t){ ((1u << 20) - 1) * FRAMES_RUN });
    page_table_free_leaf(&table, 1024);
    assert_null(page_table_find(&table, 1024));
}

/* The index repeats the directories, where there is one: it gets leaves that are asked for, and loses what goes. */
static void test_index_of_leaves(void **state)
{
    const frame_t first = { 5 * FRAMES_RUN };
    uint64_t *pte = make(1024, 3);

    (void)state;
    page_table_index_leaf(&table, 1024); /* there is no index: nothing happens */
    assert_null(table.leaves);
    page_table_index_make(&table);
    assert_non_null(table.leaves);
    assert_int_equal(table.leaves[2], 0);
    page_table_index_leaf(&table, 512); /* no such leaf */
    page_table_index_leaf(&table, 1ull << 34);
    assert_int_equal(table.leaves[1] | table.leaves[1 << 25], 0);
    page_table_index_leaf(&table, 1500);
    assert_int_equal(table.leaves[2], (uintptr_t)pte | TABLE_LEAF);
    page_table_large_set(&table, 1024, first);
    const uint64_t large = table.leaves[2];
    assert_int_equal(large & 7, TABLE_LEAF_LARGE_READ | TABLE_LEAF_LARGE_WRITE);
    assert_int_equal(1024ull * TIDE_PAGE_BYTES + (large & ~7ull),
                     (uintptr_t)(frames->memory + 5ull * FRAMES_RUN * TIDE_PAGE_BYTES));
    page_table_index_leaf(&table, 1024); /* no leaf takes a large page's place */
    assert_int_equal(table.leaves[2], large);
    page_table_large_clear(&table, pte + 300);
    assert_int_equal(table.leaves[2], 0);
    page_table_index_leaf(&table, 1024);
    assert_int_equal(table.leaves[2], (uintptr_t)pte | TABLE_LEAF);
    page_table_free_leaf(&table, 1024);
    assert_int_equal(table.leaves[2], 0);
    page_table_index_leaf(&table, 1024);
    assert_int_equal(table.leaves[2], 0);
}

/* No frame: what was made on the way stays, nothing is lost, and the next call goes on from there. */
static void test_out_of_frames(void **state)
{
    frame_t taken[256];
    unsigned count = 0, made = 0;

    (void)state;
    while (frames_available(frames, 0) > 2 + frames->nodes[0].reserve)
        taken[count++] = frames_allocate(frames, 0, FRAMES_ZERO, 0);
    assert_null(page_table_make(&table, 16, 0, &made));
    assert_int_equal(made, 2);
    assert_int_equal(table.table_pages, 3);
    assert_null(page_table_find(&table, 16));
    frames_give_back(frames, taken[--count], true);
    made = 0;
    assert_non_null(page_table_make(&table, 16, 0, &made));
    assert_int_equal(made, 1);
    struct page_table second;
    assert_int_equal(page_table_init(&second, frames, 0), TIDE_NO_MEMORY);
    assert_non_null(strstr(tide_last_error()->message, "256"));
    while (count != 0)
        frames_give_back(frames, taken[--count], true);
}

/* ---- racing makers ---------------------------------------------------------------------------------------------- */

enum { MAKERS = 4, ROUNDS = 300 };

static struct {
    uint32_t arrived; /* [A] */
    uint64_t pages[ROUNDS];
    uint64_t *found[MAKERS][ROUNDS];
    unsigned made[MAKERS];
} race;

static void *maker_main(void *context)
{
    const unsigned index = *(const unsigned *)context;
    struct grace_thread *thread = grace_thread_get(&frames->grace);

    for (unsigned i = 0; i < ROUNDS; i++) {
        (void)sync_add_32(&race.arrived, 1);
        while (sync_load_32(&race.arrived) < (i + 1) * MAKERS)
            sync_pause();
        grace_enter(thread);
        race.found[index][i] = page_table_make(&table, race.pages[i], 0, &race.made[index]);
        grace_leave(thread);
    }
    grace_thread_put(thread);
    return NULL;
}

static void test_racing_makers(void **state)
{
    static unsigned indexes[MAKERS];
    pthread_t makers[MAKERS];
    unsigned made = 0;
    uint64_t seed = 3;

    (void)state;
    memset(&race, 0, sizeof race);
    for (unsigned i = 0; i < ROUNDS; i++)
        race.pages[i] = random_page(&seed);
    for (unsigned i = 0; i < MAKERS; i++) {
        indexes[i] = i;
        assert_int_equal(pthread_create(&makers[i], NULL, maker_main, &indexes[i]), 0);
    }
    for (unsigned i = 0; i < MAKERS; i++)
        pthread_join(makers[i], NULL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        assert_non_null(race.found[0][i]);
        for (unsigned m = 0; m < MAKERS; m++)
            assert_ptr_equal(race.found[m][i], race.found[0][i]);
        assert_ptr_equal(page_table_find(&table, race.pages[i]), race.found[0][i]);
    }
    for (unsigned m = 0; m < MAKERS; m++)
        made += race.made[m];
    assert_int_equal(table.table_pages, made + 1);
    assert_int_equal(frames_out(frames), made + 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_empty),
        TEST(test_sparse_pages),
        TEST(test_table_records),
        TEST(test_next_leaf),
        TEST(test_missing),
        TEST(test_free_leaf),
        TEST(test_large_page_in_the_directory),
        TEST(test_index_of_leaves),
        TEST(test_out_of_frames),
        TEST(test_racing_makers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

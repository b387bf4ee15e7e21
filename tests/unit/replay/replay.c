/*
 * Page-access traces and the policies beside which the replay is judged: LRU and Belady's optimum against slow,
 * obviously right versions on small random traces; traces through a file and back; damaged files; the carried traces.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "policy.h"
#include "trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PAGES_MAX = 24, ACCESSES_MAX = 400, ROUNDS = 300 };

static uint64_t random_state = 20240607;

static uint32_t random_below(uint32_t bound)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)((random_state >> 33) % bound);
}

/* A trace with some locality in one region of up to PAGES_MAX pages. */
static void random_trace(struct trace *trace)
{
    uint64_t accesses[ACCESSES_MAX];
    char error[256];
    const uint32_t pages = 1 + random_below(PAGES_MAX);
    const uint64_t count = 1 + random_below(ACCESSES_MAX);

    for (uint64_t i = 0; i < count; i++) {
        const uint32_t page = random_below(3) == 0 ? random_below(pages) : random_below(1 + pages / 4);
        accesses[i] = (uint64_t)(1000 + page) << 1 | random_below(2);
    }
    assert_true(trace_build(accesses, count, trace, error, sizeof error));
}

/* ---- policies --------------------------------------------------------------------------------------------------- */

/* Index of the access after `from` (or before, if `backwards`) that is to `page`; far away if there is none. */
static int64_t use_distance(const struct trace *trace, int64_t from, uint32_t page, bool backwards)
{
    const int64_t count = (int64_t)trace->access_count;

    for (int64_t i = from, distance = 0; i >= 0 && i < count; i += backwards ? -1 : 1, distance++)
        if (trace_access_page(trace->accesses[i]) == page)
            return distance;
    return INT64_MAX;
}

/* Evicts the page whose last (LRU) or next (Belady) use is farthest, found by looking at the whole trace each time. */
static void slow_policy(const struct trace *trace, uint32_t frames, bool belady, struct policy_result *result)
{
    bool resident[2 * PAGES_MAX] = { false }, seen[2 * PAGES_MAX] = { false };
    uint32_t count = 0;

    memset(result, 0, sizeof *result);
    for (int64_t i = 0; i < (int64_t)trace->access_count; i++) {
        const uint32_t page = trace_access_page(trace->accesses[i]);
        if (resident[page]) {
            result->hits++;
            continue;
        }
        *(seen[page] ? &result->misses : &result->cold) += 1;
        seen[page] = true;
        if (count == frames) {
            int64_t farthest = -1;
            uint32_t victim = 0;
            for (uint32_t p = 0; p < trace->page_count; p++) {
                const int64_t distance = use_distance(trace, belady ? i + 1 : i - 1, p, !belady);
                if (resident[p] && distance > farthest) {
                    farthest = distance;
                    victim = p;
                }
            }
            resident[victim] = false;
            count--;
        }
        resident[page] = true;
        count++;
    }
}

static void check_policy(bool belady)
{
    for (int round = 0; round < ROUNDS; round++) {
        struct policy_result fast, slow;
        struct trace trace;
        random_trace(&trace);
        const uint32_t frames = 1 + random_below(trace.page_count + 1);
        assert_true(belady ? policy_belady(&trace, frames, &fast) : policy_lru(&trace, frames, &fast));
        slow_policy(&trace, frames, belady, &slow);
        assert_int_equal(fast.hits, slow.hits);
        assert_int_equal(fast.cold, slow.cold);
        assert_int_equal(fast.misses, slow.misses);
        assert_int_equal(fast.cold, trace.touched_pages);
        trace_free(&trace);
    }
}

static void lru_equals_the_slow_one(void **state)
{
    (void)state;
    check_policy(false);
}

static void belady_equals_the_slow_one(void **state)
{
    (void)state;
    check_policy(true);
}

/* The textbook's example: 1 2 3 4 1 2 5 1 2 3 4 5 with 3 frames gives 10 faults by LRU and 7 by the optimum. */
static void textbook_example(void **state)
{
    static const uint8_t string[] = { 1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5 };
    uint64_t accesses[sizeof string];
    struct policy_result result;
    struct trace trace;
    char error[256];

    (void)state;
    for (size_t i = 0; i < sizeof string; i++)
        accesses[i] = (uint64_t)string[i] << 1;
    assert_true(trace_build(accesses, sizeof string, &trace, error, sizeof error));
    assert_true(policy_lru(&trace, 3, &result));
    assert_int_equal(result.cold + result.misses, 10);
    assert_true(policy_belady(&trace, 3, &result));
    assert_int_equal(result.cold + result.misses, 7);
    trace_free(&trace);
}

/* ---- traces ----------------------------------------------------------------------------------------------------- */

static void regions_keep_distances(void **state)
{
    /* Two pages with a gap of two between them, one just near enough, one just too far, one far up. */
    static const uint64_t pages[] = {
        5000, 100, 103, 103 + TRACE_REGION_GAP_PAGES - 1, 103 + 2 * TRACE_REGION_GAP_PAGES - 1, 1ull << 51
    };
    static const uint32_t numbers[] = { 20, 0, 3, 18, 19, 21 };
    uint64_t accesses[6];
    struct trace trace;
    char error[256];

    (void)state;
    for (size_t i = 0; i < 6; i++)
        accesses[i] = pages[i] << 1 | (i & 1);
    assert_true(trace_build(accesses, 6, &trace, error, sizeof error));
    assert_int_equal(trace.region_count, 4);
    assert_int_equal(trace.region_pages[0], 19);
    assert_int_equal(trace.page_count, 22);
    assert_int_equal(trace.touched_pages, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(trace_access_page(trace.accesses[i]), numbers[i]);
        assert_int_equal(trace_access_writes(trace.accesses[i]), i & 1);
    }
    trace_free(&trace);
}

/* Reads a whole file. */
static uint8_t *file_bytes(const char *path, size_t *count)
{
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc(1 << 20);

    assert_non_null(file);
    assert_non_null(bytes);
    *count = fread(bytes, 1, 1 << 20, file);
    fclose(file);
    return bytes;
}

static void file_round_trip_and_damage(void **state)
{
    char path[] = "/tmp/tide-trace-test.XXXXXX", error[256];
    const int descriptor = mkstemp(path);
    struct trace trace, loaded;
    uint8_t *bytes;
    size_t count;

    (void)state;
    assert_true(descriptor >= 0);
    close(descriptor);
    random_trace(&trace);
    assert_true(trace_save(path, &trace, error, sizeof error));
    assert_true(trace_load(path, &loaded, error, sizeof error));
    assert_int_equal(loaded.region_count, trace.region_count);
    assert_int_equal(loaded.page_count, trace.page_count);
    assert_int_equal(loaded.touched_pages, trace.touched_pages);
    assert_int_equal(loaded.access_count, trace.access_count);
    assert_memory_equal(loaded.accesses, trace.accesses, trace.access_count * sizeof *trace.accesses);
    trace_free(&loaded);

    bytes = file_bytes(path, &count);
    for (size_t length = 0; length < count; length++) /* cut anywhere */
        assert_false(trace_decode(bytes, length, &loaded, error, sizeof error));
    for (size_t i = 0; i < 8 * count; i++) { /* any bit flipped: refused, or a bit that means nothing */
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        if (trace_decode(bytes, count, &loaded, error, sizeof error)) {
            assert_int_equal(loaded.access_count, trace.access_count);
            assert_memory_equal(loaded.accesses, trace.accesses, trace.access_count * sizeof *trace.accesses);
            trace_free(&loaded);
        }
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    trace_free(&trace);
    free(bytes);
    unlink(path);
    assert_false(trace_load(path, &loaded, error, sizeof error));
    assert_non_null(strstr(error, path));
}

static void carried_traces_load(void **state)
{
    glob_t found;
    char error[256];

    (void)state;
    assert_int_equal(glob(TEST_TRACES "/*.trace", 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= 3);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct trace trace;
        if (!trace_load(found.gl_pathv[i], &trace, error, sizeof error))
            fail_msg("%s: %s", found.gl_pathv[i], error);
        assert_true(trace.touched_pages >= 500);
        assert_true(trace.access_count >= 10 * (uint64_t)trace.touched_pages);
        trace_free(&trace);
    }
    globfree(&found);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_equals_the_slow_one),    cmocka_unit_test(belady_equals_the_slow_one),
        cmocka_unit_test(textbook_example),           cmocka_unit_test(regions_keep_distances),
        cmocka_unit_test(file_round_trip_and_damage), cmocka_unit_test(carried_traces_load),
    };

    return cmocka_run_group_tests_name("replay", tests, NULL, NULL) == 0 ? 0 : 1;
}

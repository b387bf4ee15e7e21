/*
 * Choosing a frame (nt-behaviour 11): which list, which node, which priority; the reserve; CPU caches; zeroing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>
#include <string.h>

#define ONE_NODE "numa:1 core:2 pu:1"
#define TWO_NODES "numa:2 core:1 pu:1"
#define FOUR_NODES "numa:4 core:1 pu:1"

static uint64_t inline_zeroed(const struct frames *frames)
{
    uint64_t sum = 0;

    for (unsigned c = 0; c < frames->cpu_count; c++)
        sum += frames->cpus[c].inline_zeroed;
    return sum;
}

static uint64_t repurposed(const struct frames *frames, unsigned priority)
{
    uint64_t sum = 0;

    for (unsigned c = 0; c < frames->cpu_count; c++)
        sum += frames->cpus[c].repurposed[priority];
    return sum;
}

static bool is_zero(const struct frames *frames, frame_t frame)
{
    const char *memory = frame_memory(frames, frame);

    return memory[0] == 0 && memcmp(memory, memory + 1, PAGE - 1) == 0;
}

/* Puts `count` frames of the node on the free list, full of old data, with their grace period passed. */
static void make_free(struct frames *frames, unsigned node, unsigned count)
{
    frame_t taken[64];

    assert_true(count <= 64);
    for (unsigned i = 0; i < count; i++) {
        taken[i] = take(frames, node, FRAMES_ZERO);
        assert_int_equal(frame_node(frames, taken[i]), node);
        make_active(frames, taken[i], true, 0, 5);
        memset(frame_memory(frames, taken[i]), 0xA5, PAGE);
    }
    for (unsigned i = 0; i < count; i++)
        frames_free(frames, taken[i]);
    grace_pass(frames);
}

/* Takes every zeroed and free frame of the node. */
static void exhaust(struct frames *frames, unsigned node)
{
    while (frames_list_count(frames, node, FRAME_LIST_ZEROED) + frames_list_count(frames, node, FRAME_LIST_FREE) != 0)
        make_active(frames, take(frames, node, FRAMES_ANY), true, 0, 5);
}

/*
 * LS-1, LS-2: free before zeroed for a page that will be overwritten; zeroed before free, then zeroed inline, for one
 * that must be zero.
 */
static void test_free_and_zeroed(void **state)
{
    const tide_config config = small_config(40);
    struct frames *frames = frames_good(ONE_NODE, &config);

    (void)state;
    make_free(frames, 0, 20);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(state_of(frames, take(frames, 0, FRAMES_ANY)), FRAME_FREE);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 15);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_ZEROED), 20);
    for (unsigned i = 0; i < 20; i++) {
        const frame_t frame = take(frames, 0, FRAMES_ZERO);
        assert_int_equal(state_of(frames, frame), FRAME_ZEROED);
        assert_true(is_zero(frames, frame));
    }
    assert_int_equal(inline_zeroed(frames), 0);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 15);
    for (unsigned i = 0; i < 10; i++)
        assert_true(is_zero(frames, take(frames, 0, FRAMES_ZERO)));
    assert_int_equal(inline_zeroed(frames), 10);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(state_of(frames, take(frames, 0, FRAMES_ANY)), FRAME_FREE);
    assert_int_equal(inline_zeroed(frames), 10); /* what is overwritten is not zeroed */
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ZERO, FRAMES_RESERVE)));
    frames_close(frames);
}

static void test_zeroed_for_any_when_nothing_is_free(void **state)
{
    const tide_config config = small_config(16);
    struct frames *frames = frames_good(ONE_NODE, &config);

    (void)state;
    make_free(frames, 0, 1);
    assert_int_equal(state_of(frames, take(frames, 0, FRAMES_ANY)), FRAME_FREE);
    for (unsigned i = 0; i < 15; i++)
        assert_int_equal(state_of(frames, take(frames, 0, FRAMES_ANY)), FRAME_ZEROED);
    frames_close(frames);
}

/* LS-4: the preferred node, then the others in its order of distance; none fails while any has frames. */
static void test_nodes_by_distance(void **state)
{
    const tide_config config = small_config(64);
    const unsigned order[] = { 2, 3, 0, 1 };
    struct frames *frames = frames_good(FOUR_NODES, &config);

    (void)state;
    memcpy(frames->topology->nodes[2].order, order, sizeof order);
    for (unsigned i = 0; i < 64; i++) {
        const frame_t frame = take(frames, 2, i % 2 ? FRAMES_ZERO : FRAMES_ANY);
        assert_int_equal(frame_node(frames, frame), order[i / 16]);
    }
    assert_true(frame_is_none(frames_allocate(frames, 2, FRAMES_ANY, 0)));
    frames_close(frames);
}

static void test_nodes_without_frames_are_passed_by(void **state)
{
    const uint64_t bytes[] = { 0, 20 * PAGE };
    tide_config config = small_config(0);

    (void)state;
    config.node_bytes = bytes;
    config.node_count = 2;
    struct frames *frames = frames_good(TWO_NODES, &config);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(frame_node(frames, take(frames, 0, FRAMES_ZERO)), 1);
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    frames_close(frames);
}

/* LS-3: standby from the lowest priority, inside a priority from the head; what must be zero is zeroed then. */
static void test_standby_by_priority(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    static const unsigned priorities[] = { 6, 1, 3, 1, 0, 6, 3 };
    static const unsigned expected[] = { 4, 1, 3, 2, 6, 0, 5 };
    frame_t taken[7];

    (void)state;
    for (unsigned i = 0; i < 7; i++) {
        taken[i] = take_standby(frames, 0, 0x100 + i, priorities[i]);
        memset(frame_memory(frames, taken[i]), 0xA5, PAGE);
    }
    exhaust(frames, 0);
    grace_pass(frames);
    const uint64_t before = inline_zeroed(frames);
    for (unsigned i = 0; i < 7; i++) {
        const frame_t frame = take(frames, 0, i % 2 ? FRAMES_ZERO : FRAMES_ANY);

        assert_int_equal(frame.number, taken[expected[i]].number);
        assert_true(owner_ptes[frame.number] == 0x100 + expected[i]);
        assert_int_equal(is_zero(frames, frame), i % 2);
        assert_int_equal(state_of(frames, frame), FRAME_FREE);
        assert_null(frame_pfn(frames, frame)->pte);
        assert_true(frame_pfn(frames, frame)->original == 0);
    }
    assert_int_equal(inline_zeroed(frames), before + 3);
    assert_int_equal(repurposed(frames, 0), 1);
    assert_int_equal(repurposed(frames, 1), 2);
    assert_int_equal(repurposed(frames, 3), 2);
    assert_int_equal(repurposed(frames, 6), 2);
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    frames_close(frames);
}

/* Free frames that only wait for their grace period come before standby pages: somebody has to move it, and does. */
static void test_young_free_before_standby(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    const frame_t standby = take_standby(frames, 0, 0x100, 5);

    (void)state;
    grace_pass(frames); /* the standby page could be taken */
    const frame_t freed = take_active(frames, 0, true, 0, 5);
    exhaust(frames, 0);
    frames_free(frames, freed);
    assert_int_equal(take(frames, 0, FRAMES_ZERO).number, freed.number);
    assert_int_equal(repurposed(frames, 5), 0);
    assert_int_equal(take(frames, 0, FRAMES_ZERO).number, standby.number);
    assert_int_equal(repurposed(frames, 5), 1);
    frames_close(frames);
}

/* A page that a fault has claimed stays where it is, and the next one is taken. */
static void test_claimed_standby_stays(void **state)
{
    const tide_config config = small_config(16);
    struct frames *frames = frames_good(ONE_NODE, &config);
    const frame_t claimed = take_standby(frames, 0, 0x100, 5);
    const frame_t other = take_standby(frames, 0, 0x101, 5);

    (void)state;
    exhaust(frames, 0);
    owner_ptes[claimed.number] = OWNER_CLAIMED;
    grace_pass(frames);
    assert_int_equal(take(frames, 0, FRAMES_ANY).number, other.number);
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, 0)));
    assert_int_equal(state_of(frames, claimed), FRAME_STANDBY);
    frames_close(frames);
}

static void test_modified_is_never_taken(void **state)
{
    const tide_config config = small_config(16);
    struct frames *frames = frames_good(ONE_NODE, &config);

    (void)state;
    for (unsigned i = 0; i < 16; i++)
        trim(frames, take_active(frames, 0, true, 0, 5));
    grace_pass(frames);
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ANY, FRAMES_RESERVE)));
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_MODIFIED), 16);
    frames_close(frames);
}

/* Another node's free frames before local standby, or the other way round, as the policy says. */
static void test_prefer_local_standby(void **state)
{
    tide_config config = small_config(32);

    (void)state;
    for (int local = 0; local < 2; local++) {
        config.prefer_local_standby = local != 0;
        struct frames *frames = frames_good(TWO_NODES, &config);
        frame_t standby = FRAME_NONE;

        for (unsigned i = 0; i < 16; i++)
            standby = take_standby(frames, 0, 0x100, 5);
        assert_int_equal(frame_node(frames, standby), 0);
        grace_pass(frames);
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(frame_node(frames, take(frames, 0, FRAMES_ZERO)), local ? 0 : 1);
        for (unsigned i = 0; i < 16; i++)
            assert_int_equal(frame_node(frames, take(frames, 0, FRAMES_ZERO)), local ? 1 : 0);
        assert_int_equal(repurposed(frames, 5), 16);
        frames_close(frames);
    }
}

/* Takes what an ordinary caller can get. */
static unsigned take_all(struct frames *frames, unsigned flags)
{
    unsigned count = 0;

    for (frame_t frame; !frame_is_none(frame = frames_allocate(frames, 0, FRAMES_ZERO, flags)); count++)
        make_active(frames, frame, true, 0, 5);
    return count;
}

static void test_reserve(void **state)
{
    tide_config config = small_config(32);

    (void)state;
    config.writer_reserve_pages = 4;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_int_equal(take_all(frames, 0), 28);
    assert_int_equal(take_all(frames, FRAMES_RESERVE), 4);
    frames_close(frames);
}

/* ---- CPU caches ------------------------------------------------------------------------------------------------- */

/* Keeps the thread on one CPU, the `nth` that it may use. False if there are not so many. */
static bool stay_on(unsigned nth, cpu_set_t *before)
{
    cpu_set_t one;

    assert_int_equal(sched_getaffinity(0, sizeof *before, before), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, before) || nth-- != 0)
            continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
        return true;
    }
    return false;
}

static void test_cache_is_bounded_counted_and_drained(void **state)
{
    tide_config config = small_config(256);
    struct frames_counts counts;
    frame_t taken[64];
    cpu_set_t cpus;

    (void)state;
    config.cpu_cache_pages = 8;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_true(stay_on(0, &cpus));
    taken[0] = take(frames, 0, FRAMES_ZERO);
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.cached_zeroed, 7); /* one refill moved a batch */
    assert_int_equal(counts.lists[FRAME_LIST_ZEROED], 248);
    assert_int_equal(counts.available, 255);
    assert_int_equal(lists_walk(frames), 255);
    for (unsigned i = 1; i < 64; i++)
        taken[i] = take(frames, 0, FRAMES_ZERO);
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.available, 192);
    const frame_t last = taken[63];
    for (unsigned i = 0; i < 64; i++)
        frames_give_back(frames, taken[i], true);
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.cached_zeroed, 8); /* the batch, not more */
    assert_int_equal(counts.available, 256);
    assert_int_equal(lists_walk(frames), 256);
    assert_int_equal(state_of(frames, last), FRAME_ZEROED);
    frames_drain_caches(frames);
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.cached_zeroed + counts.cached_free, 0);
    assert_int_equal(counts.lists[FRAME_LIST_ZEROED], 256);
    assert_int_equal(lists_walk(frames), 256);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

/* The reserve holds behind CPU caches too. */
static void test_reserve_with_cpu_caches(void **state)
{
    tide_config config = small_config(64);
    cpu_set_t cpus;

    (void)state;
    assert_true(stay_on(0, &cpus));
    config.writer_reserve_pages = 8;
    config.cpu_cache_pages = 4;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_int_equal(take_all(frames, 0), 56);
    assert_int_equal(take_all(frames, FRAMES_RESERVE), 8);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

/* The last frames lie in another CPU's cache: nobody fails for want of them. */
static void test_frames_in_other_caches_are_found(void **state)
{
    tide_config config = small_config(64);
    cpu_set_t cpus, same;

    (void)state;
    config.cpu_cache_pages = 32;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_true(stay_on(0, &cpus));
    (void)take(frames, 0, FRAMES_ZERO);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    if (!stay_on(1, &same))
        print_message("one CPU: the other half of this test needs two\n");
    for (unsigned i = 1; i < 64; i++)
        make_active(frames, take(frames, 0, FRAMES_ZERO), true, 0, 5);
    assert_true(frame_is_none(frames_allocate(frames, 0, FRAMES_ZERO, 0)));
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

/* Who counts as running on another node than the CPU's own does not mix the two nodes' frames in the CPU's cache. */
static void test_cache_holds_frames_of_its_node_only(void **state)
{
    tide_config config = small_config(256);
    struct frames_counts counts[2];
    cpu_set_t cpus;

    (void)state;
    config.cpu_cache_pages = 8;
    struct frames *frames = frames_good(TWO_NODES, &config);
    assert_true(stay_on(0, &cpus));
    for (unsigned node = 0; node < 2; node++) {
        topology_thread_node_set(node);
        for (unsigned i = 0; i < 3; i++) {
            const frame_t frame = take(frames, node, FRAMES_ZERO);
            assert_int_equal(frame_node(frames, frame), node);
            make_active(frames, frame, true, 0, 5);
        }
    }
    topology_thread_node_set(TIDE_NO_PREFERRED_NODE);
    for (unsigned node = 0; node < 2; node++) {
        frames_counts(frames, node, &counts[node]);
        assert_int_equal(counts[node].available, 125);
    }
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

/* A frame for another node does not come from, or go to, this node's cache. */
static void test_other_nodes_bypass_the_cache(void **state)
{
    tide_config config = small_config(256);
    struct frames_counts counts;
    cpu_set_t cpus;

    (void)state;
    config.cpu_cache_pages = 8;
    struct frames *frames = frames_good(TWO_NODES, &config);
    assert_true(stay_on(0, &cpus));
    const unsigned own = topology_cpu_node(frames->topology, os_cpu_current());
    const frame_t frame = take(frames, 1 - own, FRAMES_ZERO);
    assert_int_equal(frame_node(frames, frame), 1 - own);
    for (unsigned node = 0; node < 2; node++) {
        frames_counts(frames, node, &counts);
        assert_int_equal(counts.cached_zeroed, 0);
    }
    frames_give_back(frames, frame, true);
    frames_counts(frames, 1 - own, &counts);
    assert_int_equal(counts.cached_zeroed, 0);
    assert_int_equal(counts.lists[FRAME_LIST_ZEROED], 128);
    assert_int_equal(sched_setaffinity(0, sizeof cpus, &cpus), 0);
    frames_close(frames);
}

/* A frame given back can be had again at once: nobody saw it, so no grace period is due. */
static void test_give_back(void **state)
{
    const tide_config config = small_config(16);
    struct frames *frames = frames_good(ONE_NODE, &config);
    struct grace_thread *thread = grace_thread_get(&frames->grace);

    (void)state;
    assert_true(grace_section_begin(thread, &config));
    for (int zeroed = 0; zeroed < 2; zeroed++) {
        const frame_t frame = take(frames, 0, FRAMES_ZERO);

        make_active(frames, frame, true, 0x100, 5);
        frames_give_back(frames, frame, zeroed != 0);
        assert_int_equal(state_of(frames, frame), zeroed ? FRAME_ZEROED : FRAME_FREE);
        assert_int_equal(pfn_reference_count(word_of(frames, frame)), 0);
        assert_null(frame_pfn(frames, frame)->pte);
        assert_true(frame_pfn(frames, frame)->original == 0);
        assert_int_equal(take(frames, 0, zeroed ? FRAMES_ZERO : FRAMES_ANY).number, frame.number);
    }
    grace_section_end(thread, &config);
    grace_thread_put(thread);
    frames_close(frames);
}

/* ---- background zeroing ----------------------------------------------------------------------------------------- */

static void test_zero_free(void **state)
{
    tide_config config = small_config(256);
    struct frames *frames = frames_good(ONE_NODE, &config);

    (void)state;
    make_free(frames, 0, 64);
    make_free(frames, 0, 36);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 100);
    assert_int_equal(frames_zero_free(frames, 0, 10), 10);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 90);
    assert_int_equal(frames->nodes[0].background_zeroed, 10);
    assert_int_equal(frames_zero_free(frames, 0, UINT64_MAX), 90);
    assert_int_equal(frames_zero_free(frames, 0, UINT64_MAX), 0);
    assert_int_equal(frames->nodes[0].background_zeroed, 100);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_ZEROED), 256);
    assert_int_equal(lists_walk(frames), 256);
    for (uint32_t number = 0; number < 256; number++)
        assert_true(is_zero(frames, (frame_t){ number }));
    frames_close(frames);
}

static void test_zero_streaming(void **state)
{
    static _Alignas(PAGE) char pages[3][PAGE];

    (void)state;
    memset(pages, 0xA5, sizeof pages);
    frame_zero_streaming(pages[1]);
    for (unsigned i = 0; i < PAGE; i++)
        assert_true(pages[0][i] == (char)0xA5 && pages[1][i] == 0 && pages[2][i] == (char)0xA5);
    memset(pages, 0xA5, sizeof pages);
    frame_zero(pages[1]);
    for (unsigned i = 0; i < PAGE; i++)
        assert_true(pages[0][i] == (char)0xA5 && pages[1][i] == 0 && pages[2][i] == (char)0xA5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_and_zeroed),
        cmocka_unit_test(test_zeroed_for_any_when_nothing_is_free),
        cmocka_unit_test(test_nodes_by_distance),
        cmocka_unit_test(test_nodes_without_frames_are_passed_by),
        cmocka_unit_test(test_standby_by_priority),
        cmocka_unit_test(test_young_free_before_standby),
        cmocka_unit_test(test_claimed_standby_stays),
        cmocka_unit_test(test_modified_is_never_taken),
        cmocka_unit_test(test_prefer_local_standby),
        cmocka_unit_test(test_reserve),
        cmocka_unit_test(test_reserve_with_cpu_caches),
        cmocka_unit_test(test_cache_is_bounded_counted_and_drained),
        cmocka_unit_test(test_frames_in_other_caches_are_found),
        cmocka_unit_test(test_cache_holds_frames_of_its_node_only),
        cmocka_unit_test(test_other_nodes_bypass_the_cache),
        cmocka_unit_test(test_give_back),
        cmocka_unit_test(test_zero_free),
        cmocka_unit_test(test_zero_streaming),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Arenas: sizes, alignment, thresholds, and every budget that is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

#define ONE_NODE "numa:1 core:2 pu:1"
#define FOUR_NODES "numa:4 core:2 pu:1"
#define LARGE_NODE "numa:1(memory=35184372088832) core:2 pu:1"
#define MOST_BYTES "17592049729536" /* 16 TiB less 65 times 512 frames */

static void test_even_split(void **state)
{
    const tide_config config = small_config(103);
    struct frames *frames = frames_good(FOUR_NODES, &config);
    uint64_t sum = 0;

    (void)state;
    assert_int_equal(frames->node_count, 4);
    assert_int_equal(frames->total, 103);
    for (unsigned n = 0; n < 4; n++) {
        assert_int_equal(frames->nodes[n].first % 512, 0);
        assert_in_range(frames->nodes[n].count, 25, 26);
        sum += frames->nodes[n].count;
        assert_int_equal(frames_list_count(frames, n, FRAME_LIST_ZEROED), frames->nodes[n].count);
    }
    assert_int_equal(sum, 103);
    assert_int_equal(lists_walk(frames), 103);
    frames_close(frames);
}

static void test_budget_by_node(void **state)
{
    const uint64_t bytes[] = { 600 * PAGE, 0, 20 * PAGE };
    tide_config config = small_config(0);

    (void)state;
    config.node_bytes = bytes;
    config.node_count = 3; /* the fourth gets nothing */
    struct frames *frames = frames_good(FOUR_NODES, &config);
    assert_int_equal(frames->nodes[0].count, 600);
    assert_int_equal(frames->nodes[1].count, 0);
    assert_int_equal(frames->nodes[2].count, 20);
    assert_int_equal(frames->nodes[3].count, 0);
    /* The next node begins at the next multiple of 512 frames after the end of the one before. */
    assert_int_equal(frames->nodes[0].first, 0);
    assert_int_equal(frames->nodes[2].first, 1024);
    for (uint32_t number = 0; number < 600; number += 599)
        assert_int_equal(frame_node(frames, (frame_t){ number }), 0);
    assert_int_equal(frame_node(frames, (frame_t){ 1024 + 19 }), 2);
    assert_false(frame_is_on_node(frames, (frame_t){ 600 }, 0));
    assert_false(frame_is_on_node(frames, (frame_t){ 0 }, 1));
    frames_close(frames);
}

static void test_memory_is_real_zeroed_and_aligned(void **state)
{
    const tide_config config = small_config(64);
    struct frames *frames = frames_good("numa:2 core:1 pu:1", &config);

    (void)state;
    assert_int_equal((uintptr_t)frames->memory % (2u << 20), 0);
    assert_int_equal((char *)&frames->pfns[1] - (char *)&frames->pfns[0], 32);
    for (unsigned n = 0; n < 2; n++) {
        char *memory = frame_memory(frames, (frame_t){ frames->nodes[n].first });

        assert_int_equal((uintptr_t)memory % (2u << 20), 0);
        assert_int_equal((uintptr_t)frame_pfn(frames, (frame_t){ frames->nodes[n].first }) % PAGE, 0);
        for (size_t i = 0; i < (size_t)frames->nodes[n].count * PAGE; i++)
            if (memory[i] != 0)
                fail_msg("byte %zu of node %u is %d", i, n, memory[i]);
        memset(memory, 0x55, (size_t)frames->nodes[n].count * PAGE);
    }
    frames_close(frames);
}

static void test_start_free(void **state)
{
    tide_config config = small_config(40);
    uint32_t numbers[40];

    (void)state;
    config.start_free = true;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_FREE), 40);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_ZEROED), 0);
    assert_int_equal(shard_frames(frames, frames->nodes[0].lists[FRAME_LIST_FREE], numbers, 40), 40);
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(numbers[i], i);
    /* They were nobody's, so they can be used at once. */
    assert_int_equal(take(frames, 0, FRAMES_ANY).number, 0);
    frames_close(frames);
}

static void test_defaults(void **state)
{
    tide_config config = small_config(4096);

    (void)state;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_int_equal(frames->nodes[0].low, 4096 / 32);
    assert_int_equal(frames->nodes[0].high, 4096 / 16);
    assert_int_equal(frames->nodes[0].modified_trigger, 4096 / 8 + 1);
    assert_int_equal(frames->nodes[0].zero_trigger, 8);
    assert_int_equal(frames->nodes[0].reserve, 8);
    assert_int_equal(frames->cache_batch, 0);
    frames_close(frames);
    config.low_available_pages = 100;
    config.high_available_pages = 200;
    config.writer_reserve_pages = 1024; /* a quarter, the most */
    config.cpu_cache_pages = 64;
    config.list_shards = 16;
    frames = frames_good(ONE_NODE, &config);
    assert_int_equal(frames->nodes[0].reserve, 1024);
    assert_int_equal(frames->nodes[0].low, 1026);  /* the trimmer wakes before allocations stop at the reserve */
    assert_int_equal(frames->nodes[0].high, 1026); /* never below low */
    assert_int_equal(frames->cache_batch, 64);
    assert_int_equal(frames->shard_mask, 15);
    assert_int_equal(lists_walk(frames), 4096);
    frames_close(frames);
    /* The goal alone: the default of where the trimmer wakes is no higher. */
    config = small_config(4096);
    config.high_available_pages = 50;
    frames = frames_good(ONE_NODE, &config);
    assert_int_equal(frames->nodes[0].low, 50);
    assert_int_equal(frames->nodes[0].high, 50);
    frames_close(frames);
    /* A small engine keeps one shard, so that its lists are exactly FIFO, and its caches hold little. */
    config = small_config(16);
    config.list_shards = 0;
    config.cpu_cache_pages = 0;
    frames = frames_good(ONE_NODE, &config);
    assert_int_equal(frames->shard_mask, 0);
    assert_true((uint64_t)frames->cache_batch * 2 * frames->cpu_count <= 16 / 8);
    frames_close(frames);
}

static void test_sizes_refused(void **state)
{
    tide_config config = small_config(0);

    (void)state;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "budget of 0 bytes", "65536 bytes");
    config.memory_bytes = 15 * PAGE;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "61440", "65536");
    config.memory_bytes = 100 * PAGE + 1;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "memory_bytes 409601", "4096");
    config.memory_bytes = 2ull << 30; /* a synthetic node has 1 GiB unless it says otherwise */
    assert_budget_refused(ONE_NODE, &config, TIDE_NO_MEMORY, "2147483648 bytes on node 0", "1073741824");
    config.memory_bytes = 1ull << 43;
    assert_budget_refused(LARGE_NODE, &config, TIDE_NO_MEMORY, "8796093022208", "bytes available");
    config.memory_bytes = 1ull << 45;
    assert_budget_refused(LARGE_NODE, &config, TIDE_INVALID_PARAMETER, "35184372088832", MOST_BYTES);
    config.memory_bytes = (1ull << 63) + PAGE;
    assert_budget_refused(LARGE_NODE, &config, TIDE_INVALID_PARAMETER, "9223372036854779904", MOST_BYTES);
}

static void test_nodes_refused(void **state)
{
    uint64_t bytes[] = { 64 * PAGE, 64 * PAGE, 64 * PAGE };
    tide_config config = small_config(0);

    (void)state;
    config.node_bytes = bytes;
    config.node_count = 3;
    assert_budget_refused("numa:2 core:1 pu:1", &config, TIDE_INVALID_PARAMETER, "node 2", "highest node is 1");
    config.node_count = 2;
    bytes[1] = 64 * PAGE + 100;
    assert_budget_refused("numa:2 core:1 pu:1", &config, TIDE_INVALID_PARAMETER, "node_bytes[1] 262244", "4096");
    config.node_count = 0;
    assert_budget_refused("numa:2 core:1 pu:1", &config, TIDE_INVALID_PARAMETER, "budget of 0 bytes", "65536 bytes");
}

/* Budgets whose sum wraps round are too large, not small. */
static void test_sum_of_nodes_refused(void **state)
{
    const uint64_t bytes[] = { 1ull << 63, (1ull << 63) + 256 * PAGE };
    tide_config config = small_config(0);

    (void)state;
    config.node_bytes = bytes;
    config.node_count = 2;
    assert_budget_refused("numa:2 core:1 pu:1", &config, TIDE_INVALID_PARAMETER, "9223372036854775808", MOST_BYTES);
}

static void test_tunables_refused(void **state)
{
    tide_config config = small_config(64);

    (void)state;
    config.list_shards = 3;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "list_shards 3", "1 to 64");
    config.list_shards = 128;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "list_shards 128", "1 to 64");
    config.list_shards = 1;
    config.cpu_cache_pages = 65;
    assert_budget_refused(ONE_NODE, &config, TIDE_INVALID_PARAMETER, "cpu_cache_pages 65", "64");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_even_split),
        cmocka_unit_test(test_budget_by_node),
        cmocka_unit_test(test_memory_is_real_zeroed_and_aligned),
        cmocka_unit_test(test_start_free),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_sizes_refused),
        cmocka_unit_test(test_nodes_refused),
        cmocka_unit_test(test_sum_of_nodes_refused),
        cmocka_unit_test(test_tunables_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

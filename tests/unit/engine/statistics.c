/*
 * Statistics while frames move. What a reader of the lists can see then is put there by hand: a frame that was counted
 * on its list, and again in the cache of the CPU that took it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { FRAMES = 4096, TWICE = 16 };

static void frames_counted_twice_are_left_out(void **state)
{
    tide_config config;
    tide_engine *engine;
    tide_statistics all = { .struct_bytes = sizeof all };
    tide_node_statistics node;

    (void)state;
    tide_config_init(&config);
    config.memory_bytes = (uint64_t)FRAMES * TIDE_PAGE_BYTES;
    config.topology_synthetic = "numa:1 core:1 pu:1";
    config.workers = TIDE_WORKERS_MANUAL;
    config.cpu_cache_pages = 32;
    assert_int_equal(tide_engine_open(&config, &engine), TIDE_SUCCESS);
    struct frames_cache *cache = &engine->partition.frames->cpus[0].caches[0];
    cache->zeroed_count = TWICE;

    assert_int_equal(tide_node_statistics_get(engine, 0, &node), TIDE_SUCCESS);
    assert_int_equal(node.available, FRAMES);
    assert_int_equal(node.zeroed + node.free, FRAMES);
    assert_int_equal(node.active, 0);
    assert_int_equal(tide_statistics_get(engine, &all), TIDE_SUCCESS);
    assert_int_equal(all.available_pages, FRAMES);
    assert_int_equal(all.zeroed_pages, FRAMES);
    assert_int_equal(all.active_pages, 0);

    cache->zeroed_count = 0;
    assert_int_equal(tide_engine_close(engine), TIDE_SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_counted_twice_are_left_out),
    };

    return cmocka_run_group_tests_name("statistics", tests, NULL, NULL) != 0;
}

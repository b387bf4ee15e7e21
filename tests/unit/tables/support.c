/*
 * What the tests of the tables share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

struct frames *frames_good(uint64_t count)
{
    const tide_config config = { .struct_bytes = sizeof config,
                                 .memory_bytes = count * PAGE,
                                 .disable_huge_pages = true,
                                 .list_shards = 1,
                                 .cpu_cache_pages = TIDE_NO_CPU_CACHE };
    struct topology *topology = NULL;
    struct frames *frames = NULL;

    assert_int_equal(topology_create("numa:1 core:2 pu:1", NULL, &topology), TIDE_SUCCESS);
    const struct frames_options options = { .config = &config, .topology = topology, .detach = page_table_detach };
    if (tide_failed(frames_create(&options, &frames)))
        fail_msg("%s", tide_last_error()->message);
    return frames;
}

void frames_close(struct frames *frames)
{
    struct topology *topology = (struct topology *)(uintptr_t)frames->topology;

    frames_destroy(frames);
    topology_destroy(topology);
}

uint64_t frames_out(const struct frames *frames)
{
    uint64_t listed = 0;

    for (unsigned list = 0; list < FRAME_LIST_COUNT; list++)
        listed += frames_list_count(frames, 0, (enum frame_list)list);
    return frames->total - listed;
}

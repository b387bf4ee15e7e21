/*
 * 64 MiB of memory, 96 MiB of data, and a page file for what does not fit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pagetide/pagetide.h>
#include <stdio.h>
#include <stdlib.h>

static void check(tide_status status)
{
    if (!tide_failed(status))
        return;
    fprintf(stderr, "%s: %s\n", tide_status_name(status), tide_last_error()->message);
    exit(1);
}

int main(void)
{
    const tide_page_file_config page_file = { .path = "hello.pagefile", .minimum_bytes = 128u << 20 };
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_config config;
    tide_engine *engine;
    tide_space *space;
    tide_address base = 0;
    uint64_t bytes = 96u << 20, value;

    tide_config_init(&config);
    config.memory_bytes = 64u << 20;
    config.page_files = &page_file;
    config.page_file_count = 1;
    check(tide_engine_open(&config, &engine));
    check(tide_space_create(engine, &space));
    check(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));

    for (uint64_t at = 0; at < bytes; at += TIDE_PAGE_BYTES)
        check(tide_write(space, base + at, &at, sizeof at));
    for (uint64_t at = 0; at < bytes; at += TIDE_PAGE_BYTES) {
        check(tide_read(space, base + at, &value, sizeof value));
        if (value != at)
            abort();
    }

    check(tide_statistics_get(engine, &statistics));
    printf("%llu faults: %llu demand zero, %llu soft, %llu hard; %llu pages written, %llu read\n",
           (unsigned long long)statistics.faults.page_faults, (unsigned long long)statistics.faults.demand_zero,
           (unsigned long long)statistics.faults.transition, (unsigned long long)statistics.faults.hard,
           (unsigned long long)statistics.pages_output, (unsigned long long)statistics.pages_input);
    check(tide_space_destroy(space));
    check(tide_engine_close(engine));
    return 0;
}

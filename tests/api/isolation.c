/*
 * Acceptance cases of isolation (nt-behaviour 3: ISO-1, ISO-2): no byte of one space is ever seen in another, nor in a
 * page committed again, whatever way its frame took in between.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

enum { SECRET_PAGES = 10000, READ_PAGES = 20000, FRAMES = 12000 };

/* Memory pressure: fewer frames than pages read. The zero-page thread is held, so that most frames are dirty. */
static void open_under_pressure(struct fixture *fixture)
{
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    fixture_page_file(fixture, READ_PAGES + SECRET_PAGES);
    fixture_open(fixture, FRAMES);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, true));
}

static void fill_secret(tide_space *space, tide_address base, uint64_t pages)
{
    char secret[PG];
    memset(secret, 0xA5, sizeof(secret));
    for (uint64_t i = 0; i < pages; i++)
        assert_success(tide_write(space, base + i * PG, secret, PG));
}

static void assert_zero(tide_space *space, tide_address base, uint64_t pages)
{
    char page[PG];
    char zero[PG];
    memset(zero, 0, sizeof(zero));
    for (uint64_t i = 0; i < pages; i++) {
        memset(page, 1, sizeof(page));
        assert_success(tide_read(space, base + i * PG, page, PG));
        if (memcmp(page, zero, PG) != 0)
            fail_msg("page %llu holds old data", (unsigned long long)i);
    }
}

static void ISO_1_memory_of_an_ended_space_reads_zero(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    open_under_pressure(fixture);
    tide_space *first = space_new(fixture);
    fill_secret(first, region_new(first, SECRET_PAGES), SECRET_PAGES);
    space_close(fixture, first);
    const tide_statistics before = statistics_now(fixture);
    tide_space *second = space_new(fixture);
    const tide_address base = region_new(second, READ_PAGES);
    assert_zero(second, base, READ_PAGES);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.faults.demand_zero - before.faults.demand_zero, READ_PAGES);
    assert_true(after.inline_zeroed - before.inline_zeroed >= SECRET_PAGES); /* frames of the first were used again */
    assert_int_equal(after.background_zeroed, before.background_zeroed);
    assert_zero(second, base, READ_PAGES); /* and from the page file */
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, false));
    fixture_close(fixture);
}

static void ISO_1_memory_decommitted_and_committed_again_reads_zero(void **state)
{
    struct fixture *fixture = *state;
    open_under_pressure(fixture);
    tide_space *space = space_new(fixture);
    tide_address base = region_new(space, READ_PAGES);
    fill_secret(space, base, SECRET_PAGES);
    assert_success(tide_working_set_trim(space, SECRET_PAGES / 2, NULL)); /* some valid, some modified or written */
    region_decommit(space, base, READ_PAGES);
    uint64_t bytes = READ_PAGES * (uint64_t)PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_zero(space, base, READ_PAGES);
    fill_secret(space, base, 1000);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    base = region_new(space, READ_PAGES);
    assert_zero(space, base, READ_PAGES);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, false));
    fixture_close(fixture);
}

/* A partly written fresh page: the rest of it is zero. Pages repurposed from one space serve another. */
static void ISO_1_the_rest_of_a_written_page_is_zero(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, 200);
    tide_space *first = space_new(fixture);
    const tide_address secret = region_new(first, 150);
    fill_secret(first, secret, 150);
    trim_all(first);
    write_modified(fixture); /* standby: the next frames come from here */
    tide_space *second = space_new(fixture);
    const tide_address base = region_new(second, 150);
    for (unsigned i = 0; i < 150; i++) {
        char page[PG];
        char expected[PG];
        memset(expected, 0, sizeof(expected));
        expected[i] = 7;
        assert_success(tide_write(second, base + i * PG + i, &expected[i], 1));
        assert_success(tide_read(second, base + i * PG, page, PG));
        assert_memory_equal(page, expected, PG);
    }
    assert_true(statistics_now(fixture).repurposed[5] > 50);
    fixture_close(fixture);
}

static void ISO_2_an_address_of_another_space_is_a_violation(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 128);
    tide_space *first = space_new(fixture);
    tide_space *second = space_new(fixture);
    const tide_address address = region_new_at(first, 0x40000000, 1);
    assert_success(stamp_put(first, address, 1, 1));
    char byte = 5;
    assert_status(tide_read(second, address, &byte, 1), TIDE_ACCESS_VIOLATION);
    assert_int_equal(byte, 5);
    assert_int_equal(tide_last_error()->address, address);
    assert_status(tide_write(second, address, &byte, 1), TIDE_ACCESS_VIOLATION);
    assert_status(tide_touch(second, address, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    tide_access access;
    assert_success(tide_access_begin(second, &access));
    assert_null(tide_access_pointer(&access, address, TIDE_ACCESS_READ));
    assert_int_equal(access.status, TIDE_ACCESS_VIOLATION);
    tide_access_end(&access);
    tide_pin *pin = NULL;
    assert_status(tide_pin_create(second, address, PG, TIDE_ACCESS_READ, &pin), TIDE_ACCESS_VIOLATION);
    assert_success(stamp_check(first, address, 1, 1));
    fixture_close(fixture);
}

static const struct CMUnitTest isolation[] = {
    API_TEST(ISO_1_memory_of_an_ended_space_reads_zero),
    API_TEST(ISO_1_memory_decommitted_and_committed_again_reads_zero),
    API_TEST(ISO_1_the_rest_of_a_written_page_is_zero),
    API_TEST(ISO_2_an_address_of_another_space_is_a_violation),
};

API_MAIN(isolation)

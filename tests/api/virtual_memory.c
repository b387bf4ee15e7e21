/*
 * Acceptance cases of virtual memory: what a range costs (nt-behaviour 2: VA-1, VA-2) and the rules of reserve, commit,
 * decommit and release (nt-behaviour 4: RC-1 to RC-6).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

enum { UNIT = TIDE_ALLOCATION_GRANULARITY_BYTES };

/* Everything is lazy: a gigabyte reserved costs no frame, two pages at its ends cost two frames and their tables. */
static void VA_1_a_sparse_gigabyte_costs_two_pages(void **state)
{
    SOFT_SPACES_ONLY(ONLY_TABLE);
    struct fixture *fixture = *state;
    const uint64_t gigabyte = 1ull << 30;
    fixture_open(fixture, 1024);
    tide_space *space = space_new(fixture);
    const tide_space_statistics before = space_now(space);
    const tide_statistics engine_before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);

    const tide_address start = space_at(space, gigabyte); /* aligned, so that one page directory spans it */
    tide_address base = start;
    uint64_t bytes = gigabyte;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(base, start);
    assert_int_equal(bytes, gigabyte);
    assert_int_equal(space_now(space).virtual_bytes - before.virtual_bytes, gigabyte);
    assert_int_equal(space_now(space).table_pages, before.table_pages);
    assert_int_equal(statistics_now(fixture).commit_total_pages, engine_before.commit_total_pages);
    assert_int_equal(node_now(fixture, 0).available, node_before.available);

    const tide_address ends[2] = { base, base + gigabyte - PG };
    for (unsigned i = 0; i < 2; i++) {
        tide_address page = ends[i];
        bytes = PG;
        assert_success(tide_virtual_alloc(space, &page, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        assert_int_equal(page, ends[i]);
        assert_int_equal(bytes, PG);
    }
    assert_int_equal(space_now(space).working_set_pages, 0);
    for (unsigned i = 0; i < 2; i++)
        assert_status(tide_touch(space, ends[i], TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);

    const tide_space_statistics after = space_now(space);
    const tide_statistics engine_after = statistics_now(fixture);
    const tide_node_statistics node_after = node_now(fixture, 0);
    const uint64_t tables = after.table_pages - before.table_pages;
    assert_int_equal(after.working_set_pages, 2);
    assert_between(tables, 2, 4); /* two leaves, at most two upper levels */
    assert_int_equal(engine_after.table_pages - engine_before.table_pages, tables);
    assert_int_equal(after.private_pages - before.private_pages, 2);
    assert_between(engine_after.commit_total_pages - engine_before.commit_total_pages, 2, 2 + tables);
    assert_int_equal(after.virtual_bytes - before.virtual_bytes, gigabyte);
    assert_int_equal(node_after.active - node_before.active, 2 + tables);
    assert_int_equal(node_before.available - node_after.available, 2 + tables);
    fixture_close(fixture);
}

static void VA_2_one_address_in_two_spaces_is_two_pages(void **state)
{
    SOFT_SPACES_ONLY("the addresses of mapped spaces are those of the process");
    struct fixture *fixture = *state;
    const tide_address address = 0x10000000;
    fixture_open(fixture, 128);
    tide_space *first = space_new(fixture);
    tide_space *second = space_new(fixture);
    assert_int_equal(region_new_at(first, address, 1), address);
    assert_int_equal(region_new_at(second, address, 1), address);
    assert_success(stamp_put(first, address, 1, 1));
    assert_success(stamp_put(second, address, 2, 1));
    assert_success(stamp_check(first, address, 1, 1));
    assert_success(stamp_check(second, address, 2, 1));
    const tide_page_info one = page_now(first, address);
    const tide_page_info two = page_now(second, address);
    assert_int_equal(one.state, TIDE_PAGE_STATE_ACTIVE);
    assert_int_equal(two.state, TIDE_PAGE_STATE_ACTIVE);
    assert_int_not_equal(one.frame, two.frame);
    fixture_close(fixture);
}

/* The first and last 64 KiB are never given out, and an address past the end is a violation, never a fault. */
static void VA_addresses_outside_user_space_are_violations(void **state)
{
    SOFT_SPACES_ONLY("a mapped space has the addresses of its window");
    struct fixture *fixture = *state;
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    const tide_address outside[] = { 0, TIDE_LOWEST_ADDRESS - 1, TIDE_HIGHEST_ADDRESS + 1, UINT64_MAX - PG };
    for (unsigned i = 0; i < sizeof(outside) / sizeof(outside[0]); i++) {
        assert_status(tide_touch(space, outside[i], TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
        assert_int_equal(tide_last_error()->address, outside[i]);
    }
    const tide_address last = TIDE_HIGHEST_ADDRESS + 1 - UNIT;
    region_new_at(space, TIDE_LOWEST_ADDRESS, 1);
    region_new_at(space, last, UNIT / PG);
    assert_success(stamp_put(space, TIDE_LOWEST_ADDRESS, 1, 1));
    assert_success(stamp_put(space, TIDE_HIGHEST_ADDRESS + 1 - PG, 1, 1));
    assert_success(stamp_check(space, TIDE_LOWEST_ADDRESS, 1, 1));
    assert_success(stamp_check(space, TIDE_HIGHEST_ADDRESS + 1 - PG, 1, 1));
    fixture_close(fixture);
}

static void RC_1_reservations_are_rounded_as_nt_rounds_them(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        uint64_t base, bytes, expected_base, expected_bytes;
    } vectors[] = {
        { 0x50000000, 1, 0x50000000, 0x1000 },      { 0x50008000, 1, 0x50000000, 0x9000 },
        { 0x50000010, 0x1000, 0x50000000, 0x2000 }, { 0x5000FFFF, 0x3000, 0x50000000, 0x13000 },
        { 0x50001010, 0xC000, 0x50000000, 0xE000 },
    };
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    for (unsigned i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        tide_address base = space_at(space, vectors[i].base);
        uint64_t bytes = vectors[i].bytes;
        tide_region region;
        assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
        assert_int_equal(base, space_at(space, vectors[i].expected_base));
        assert_int_equal(bytes, vectors[i].expected_bytes);
        assert_success(tide_virtual_query(space, base, &region));
        assert_int_equal(region.base, base);
        assert_int_equal(region.allocation_base, base);
        assert_int_equal(region.bytes, bytes);
        assert_int_equal(region.state, TIDE_MEM_RESERVE);
        assert_int_equal(region.allocation_protection, TIDE_PAGE_READWRITE);
        assert_int_equal(region.type, TIDE_MEM_PRIVATE);
        assert_success(tide_virtual_query(space, base + bytes, &region));
        assert_int_equal(region.base, base + bytes);
        assert_int_equal(region.state, TIDE_MEM_FREE);
        assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    }
    fixture_close(fixture);
}

/* The rest of the last 64 KiB of a reservation belongs to nobody. */
static void RC_2_the_rest_of_a_granule_cannot_be_reserved(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    const tide_address x = space_at(space, 0x50000000);
    tide_address base = x;
    uint64_t bytes = PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(bytes, PG);
    base = x + 0x8000;
    bytes = PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE),
                  TIDE_CONFLICTING_ADDRESSES);
    base = 0; /* and a search does not give it out either */
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(base % UNIT, 0);
    assert_true(base < x || base >= x + UNIT);
    base = x + UNIT;
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(base, x + UNIT);
    fixture_close(fixture);
}

/* Commit over committed pages: data kept, charged once, and the new protection holds. */
static void RC_3_commit_again_keeps_data_and_sets_protection(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address x = space_at(space, 0x50000000);
    tide_address base = x;
    uint64_t bytes = 16 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    const tide_space_statistics before = space_now(space);
    const tide_statistics engine_before = statistics_now(fixture);
    bytes = 4 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_int_equal(space_now(space).private_pages - before.private_pages, 4);
    stamp_pages(space, x, 4, 1, 1);
    bytes = 8 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY));
    assert_int_equal(space_now(space).private_pages - before.private_pages, 8);
    const tide_statistics engine_after = statistics_now(fixture);
    assert_between(engine_after.commit_total_pages - engine_before.commit_total_pages, 8,
                   8 + engine_after.table_pages - engine_before.table_pages);
    check_pages(space, x, 4, 1, 1);
    for (unsigned i = 0; i < 8; i++) {
        const char byte = 1;
        assert_status(tide_touch(space, x + i * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
        assert_status(tide_write(space, x + i * PG, &byte, 1), TIDE_ACCESS_VIOLATION);
        assert_int_equal(tide_last_error()->address, x + i * PG);
    }
    char zero[PG];
    char expected[PG];
    memset(expected, 0, sizeof(expected));
    assert_success(tide_read(space, x + 7 * PG, zero, sizeof(zero)));
    assert_memory_equal(zero, expected, sizeof(zero));
    check_pages(space, x, 4, 1, 1);

    tide_region region;
    assert_success(tide_virtual_query(space, x, &region));
    assert_int_equal(region.bytes, 8 * PG);
    assert_int_equal(region.state, TIDE_MEM_COMMIT);
    assert_int_equal(region.protection, TIDE_PAGE_READONLY);
    assert_int_equal(region.allocation_protection, TIDE_PAGE_READWRITE);
    assert_success(tide_virtual_query(space, x + 8 * PG, &region));
    assert_int_equal(region.bytes, 8 * PG);
    assert_int_equal(region.state, TIDE_MEM_RESERVE);

    /* The new protection follows a page out of memory and back, and can be taken back with the data still there. */
    trim_all(space);
    assert_status(tide_touch(space, x, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    bytes = 4 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_int_equal(space_now(space).private_pages - before.private_pages, 8);
    check_pages(space, x, 4, 1, 1);
    stamp_pages(space, x, 4, 1, 2);
    check_pages(space, x, 4, 1, 2);
    fixture_close(fixture);
}

static void RC_4_a_commit_never_crosses_reservations(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address x = space_at(space, 0x50000000);
    for (unsigned i = 0; i < 2; i++) {
        tide_address base = x + i * UNIT;
        uint64_t bytes = UNIT;
        assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
        assert_int_equal(base, x + i * UNIT);
    }
    tide_address kept = x + UNIT;
    uint64_t bytes = PG;
    assert_success(tide_virtual_alloc(space, &kept, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(stamp_put(space, kept, 1, 1));
    const tide_statistics before = statistics_now(fixture);
    const tide_space_statistics space_before = space_now(space);

    tide_address base = x + UNIT - 2 * PG;
    bytes = 4 * PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY),
                  TIDE_CONFLICTING_ADDRESSES);
    base = x + 2 * UNIT - 2 * PG; /* over the end into free space */
    bytes = 4 * PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY),
                  TIDE_CONFLICTING_ADDRESSES);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.commit_total_pages, before.commit_total_pages);
    assert_int_equal(after.table_pages, before.table_pages);
    assert_int_equal(space_now(space).private_pages, space_before.private_pages);
    tide_region region;
    assert_success(tide_virtual_query(space, x, &region));
    assert_int_equal(region.state, TIDE_MEM_RESERVE);
    assert_int_equal(region.bytes, UNIT);
    assert_success(tide_virtual_query(space, kept, &region));
    assert_int_equal(region.state, TIDE_MEM_COMMIT);
    assert_int_equal(region.bytes, PG);
    assert_int_equal(region.protection, TIDE_PAGE_READWRITE);
    assert_status(tide_touch(space, x + UNIT - PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    assert_success(stamp_check(space, kept, 1, 1));
    assert_success(stamp_put(space, kept, 1, 2));
    fixture_close(fixture);
}

static void RC_5_decommit_takes_what_is_committed(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address x = space_at(space, 0x50000000);
    tide_address base = x;
    uint64_t bytes = 16 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    base = x + 3 * PG;
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    /* wherever the page is: valid, on the modified list, on standby with a slot, in the page file */
    for (unsigned place = 0; place < 4; place++) {
        assert_success(stamp_put(space, base, 1, place));
        if (place >= 1)
            trim_all(space);
        if (place >= 2)
            write_modified(fixture);
        if (place >= 3)
            empty_standby(fixture);
        assert_int_equal(statistics_now(fixture).page_file_used_slots, place >= 2);
        const tide_space_statistics before = space_now(space);
        const tide_statistics engine_before = statistics_now(fixture);
        region_decommit(space, x + 2 * PG, 4);
        const tide_statistics engine_after = statistics_now(fixture);
        assert_int_equal(before.private_pages - space_now(space).private_pages, 1);
        assert_between(engine_before.commit_total_pages - engine_after.commit_total_pages, 1,
                       1 + engine_before.table_pages - engine_after.table_pages);
        assert_int_equal(engine_after.page_file_used_slots, 0);
        assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
        region_decommit(space, x + 2 * PG, 4); /* nothing committed is fine */

        bytes = PG;
        assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        char page[PG];
        char zero[PG];
        memset(zero, 0, sizeof(zero));
        memset(page, 1, sizeof(page));
        assert_success(tide_read(space, base, page, sizeof(page)));
        assert_memory_equal(page, zero, sizeof(page));
    }
    /* two bytes over a page border take both pages */
    base = x + 3 * PG;
    bytes = 2 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    const uint64_t private_pages = space_now(space).private_pages;
    assert_success(tide_virtual_free(space, x + 4 * PG - 1, 2, TIDE_MEM_DECOMMIT));
    assert_int_equal(private_pages - space_now(space).private_pages, 2);
    fixture_close(fixture);
}

static void RC_6_release_takes_the_base_and_no_size(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    stamp_pages(space, base, 4, 1, 1);
    const tide_space_statistics before = space_now(space);
    assert_true(tide_failed(tide_virtual_free(space, base + PG, 0, TIDE_MEM_RELEASE)));
    assert_true(tide_failed(tide_virtual_free(space, base, PG, TIDE_MEM_RELEASE)));
    const tide_space_statistics after = space_now(space);
    assert_int_equal(after.private_pages, before.private_pages);
    assert_int_equal(after.virtual_bytes, before.virtual_bytes);
    assert_int_equal(after.regions, before.regions);
    check_pages(space, base, 4, 1, 1);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).private_pages, before.private_pages - 4);
    assert_int_equal(space_now(space).virtual_bytes, before.virtual_bytes - 4 * PG);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    assert_status(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE), TIDE_MEMORY_NOT_ALLOCATED);
    fixture_close(fixture);
}

static const struct CMUnitTest virtual_memory[] = {
    API_TEST(VA_1_a_sparse_gigabyte_costs_two_pages),
    API_TEST(VA_2_one_address_in_two_spaces_is_two_pages),
    API_TEST(VA_addresses_outside_user_space_are_violations),
    API_TEST(RC_1_reservations_are_rounded_as_nt_rounds_them),
    API_TEST(RC_2_the_rest_of_a_granule_cannot_be_reserved),
    API_TEST(RC_3_commit_again_keeps_data_and_sets_protection),
    API_TEST(RC_4_a_commit_never_crosses_reservations),
    API_TEST(RC_5_decommit_takes_what_is_committed),
    API_TEST(RC_6_release_takes_the_base_and_no_size),
};

API_MAIN(virtual_memory)

/*
 * Large pages and placeholders (nt-behaviour 7): LP-1, LP-2, PL-2, PL-3.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdio.h>
#include <string.h>

enum { LARGE = TIDE_LARGE_PAGE_BYTES, RUN = LARGE / PG, UNIT = TIDE_ALLOCATION_GRANULARITY_BYTES };

static const uint32_t large_type = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES;

static tide_region query(tide_space *space, tide_address address)
{
    tide_region region;

    assert_success(tide_virtual_query(space, address, &region));
    return region;
}

/* Enough is free, but no two megabytes lie together. */
static void LP_1_scattered_frames_are_no_large_page(void **state)
{
    struct fixture *fixture = *state;
    tide_address base = 0;
    uint64_t bytes = LARGE;

    fixture_open(fixture, 3 * RUN);
    tide_space *space = space_new(fixture);
    const uint64_t all = 3 * RUN - 40;
    const tide_address pages = region_new(space, all);
    stamp_pages(space, pages, all, 1, 1);
    for (uint64_t i = 0; i < all; i++) /* every 64th stays */
        if (i % 64 != 0)
            region_decommit(space, pages + i * PG, 1);
    zero_free(fixture);
    const tide_statistics before = statistics_now(fixture);
    assert_true(before.available_pages > 2 * RUN);
    const tide_space_statistics space_before = space_now(space);
    assert_status(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE), TIDE_NO_MEMORY);
    assert_int_equal(base, 0);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.commit_total_pages, before.commit_total_pages);
    assert_int_equal(after.available_pages, before.available_pages);
    assert_int_equal(space_now(space).private_pages, space_before.private_pages);
    assert_int_equal(space_now(space).regions, space_before.regions);
    for (uint64_t i = 0; i < all; i += 64)
        assert_success(stamp_check(space, pages + i * PG, 1, 1));
    fixture_verify(fixture);
    /* with the rest gone, they lie together again, though they were freed only now */
    assert_success(tide_virtual_free(space, pages, 0, TIDE_MEM_RELEASE));
    assert_success(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE));
    fixture_close(fixture);
}

static void LP_2_a_large_page_is_there_and_stays(void **state)
{
    struct fixture *fixture = *state;
    tide_address base = 0;
    uint64_t bytes = 2 * LARGE;
    static char zero[PG];

    fixture_page_file(fixture, 64);
    fixture_open(fixture, 4 * RUN);
    tide_space *space = space_new(fixture);
    /* frames with old content, so that zeroing shows */
    const tide_address old = region_new(space, 3 * RUN);
    stamp_pages(space, old, 3 * RUN, 1, 1);
    assert_success(tide_virtual_free(space, old, 0, TIDE_MEM_RELEASE));
    const tide_space_statistics before = space_now(space);
    const tide_statistics engine_before = statistics_now(fixture);
    assert_success(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE));
    assert_int_equal(base % LARGE, 0);
    assert_int_equal(bytes, 2 * LARGE);
    assert_int_equal(query(space, base).bytes, 2 * LARGE);
    assert_int_equal(query(space, base).protection, TIDE_PAGE_READWRITE);
    assert_int_equal(space_now(space).private_pages - before.private_pages, 2 * RUN);
    const uint64_t tables = space_now(space).table_pages - before.table_pages;
    assert_int_equal(statistics_now(fixture).commit_total_pages - engine_before.commit_total_pages, 2 * RUN + tables);
    uint64_t frame = 0;
    for (unsigned i = 0; i < 2 * RUN; i++) {
        char page[PG];
        const tide_page_info info = page_now(space, base + i * PG);
        assert_int_equal(info.state, TIDE_PAGE_STATE_ACTIVE);
        if (i % RUN == 0)
            frame = info.frame;
        assert_int_equal(info.frame, frame + i % RUN);
        assert_int_equal(frame % RUN, 0);
        assert_status(tide_touch(space, base + i * PG, i % 2 ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE), TIDE_SUCCESS);
        assert_success(tide_read(space, base + i * PG, page, PG));
        assert_memory_equal(page, zero, PG);
    }
    assert_int_equal(space_now(space).working_set_pages, before.working_set_pages);
    assert_int_equal(space_now(space).faults.demand_zero, before.faults.demand_zero);
    stamp_pages(space, base, 2 * RUN, 2, 2);
    trim_all(space); /* takes none of them */
    assert_int_equal(pages_in_state(space, base, 2 * RUN, TIDE_PAGE_STATE_ACTIVE), 2 * RUN);
    fixture_verify(fixture);
    /* what cannot be done to them */
    uint32_t old_protection;
    tide_address at = base;
    uint64_t size = PG;
    assert_status(tide_virtual_free(space, base, PG, TIDE_MEM_DECOMMIT), TIDE_UNABLE_TO_FREE_VM);
    assert_status(tide_virtual_free(space, base, 0, TIDE_MEM_DECOMMIT), TIDE_UNABLE_TO_FREE_VM);
    assert_status(tide_virtual_free_native(space, &at, &size, TIDE_MEM_RELEASE), TIDE_UNABLE_TO_FREE_VM);
    assert_status(tide_virtual_alloc(space, &at, &size, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_protect(space, base, PG, TIDE_PAGE_READONLY, &old_protection),
                  TIDE_INVALID_PAGE_PROTECTION);
    check_pages(space, base, 2 * RUN, 2, 2);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).private_pages, before.private_pages);
    /* and again at once, from frames that were just given back */
    assert_success(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE));
    fixture_close(fixture);
}

/* A pointer into a large page comes from the directory, without a look at its PTEs, and is as right as by them. */
static void LP_pointers_into_large_pages(void **state)
{
    struct fixture *fixture = *state;
    tide_address base = 0;
    uint64_t bytes = 2 * LARGE;
    tide_access access;
    char seen[8];

    fixture_open(fixture, 4 * RUN);
    tide_space *space = space_new(fixture);
    assert_success(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE));
    const tide_address small = region_new(space, 1);
    assert_success(tide_write(space, small, "ordinary", 8));
    assert_success(tide_access_begin(space, &access));
    /* The first pointer makes the section remember the directory. */
    assert_non_null(tide_access_pointer(&access, small, TIDE_ACCESS_READ));
    for (unsigned large = 0; large < 2; large++) {
        char *first = tide_access_pointer(&access, base + large * LARGE, TIDE_ACCESS_WRITE);
        assert_non_null(first);
        for (unsigned i = 0; i < RUN; i++) {
            const tide_address at = base + large * LARGE + i * PG + i;
            tide_address both[2] = { at, small };
            void *pointers[2];
            char text[8];
            assert_ptr_equal(tide_access_pointer(&access, at, TIDE_ACCESS_READ), first + i * PG + i);
            assert_ptr_equal(tide_access_pointer(&access, at, TIDE_ACCESS_WRITE), first + i * PG + i);
            assert_ptr_equal(tide_access_resolve(&access, at, TIDE_ACCESS_READ), first + i * PG + i);
            assert_success(tide_access_pointers(&access, both, 2, TIDE_ACCESS_WRITE, pointers));
            assert_ptr_equal(pointers[0], first + i * PG + i);
            assert_memory_equal(pointers[1], "ordinary", 8);
            snprintf(text, sizeof text, "%u.%u", large, i);
            memcpy(pointers[0], text, sizeof text);
            assert_success(tide_read(space, at, seen, sizeof seen));
            assert_memory_equal(seen, text, sizeof text);
        }
    }
    /* Extents: a large page at least, and both if they lie together. */
    const bool together = (char *)tide_access_pointer(&access, base + LARGE, TIDE_ACCESS_READ) -
                              (char *)tide_access_pointer(&access, base, TIDE_ACCESS_READ) ==
                          LARGE;
    for (unsigned i = 0; i < 2 * RUN; i += 5) {
        const tide_address at = base + i * PG + i;
        tide_extent extent;
        assert_success(tide_access_extent(&access, at, i % 2 ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE, &extent));
        assert_int_equal(extent.begin, together ? base : base + i / RUN * LARGE);
        assert_int_equal(extent.bytes, together ? 2 * LARGE : LARGE);
        assert_ptr_equal(tide_extent_pointer(&extent, at), tide_access_pointer(&access, at, TIDE_ACCESS_READ));
        assert_null(tide_extent_pointer(&extent, extent.begin - 1));
        assert_null(tide_extent_pointer(&extent, extent.begin + extent.bytes));
    }
    fixture_verify(fixture);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    tide_extent none;
    assert_status(tide_access_extent(&access, base, TIDE_ACCESS_READ, &none), TIDE_ACCESS_VIOLATION);
    assert_null(tide_extent_pointer(&none, base));
    assert_null(tide_extent_pointer(&none, 0));
    for (unsigned i = 0; i < 2 * RUN; i += 7) {
        void *pointer = &access;
        const tide_address at = base + i * PG;
        assert_null(tide_access_pointer(&access, at, TIDE_ACCESS_READ));
        assert_status(access.status, TIDE_ACCESS_VIOLATION);
        assert_status(tide_access_pointers(&access, &at, 1, TIDE_ACCESS_WRITE, &pointer), TIDE_ACCESS_VIOLATION);
        assert_null(pointer);
    }
    tide_access_end(&access);
    /* Ordinary pages in its place, whose leaf is another. */
    uint64_t size = 2 * LARGE;
    tide_address again = base;
    assert_success(tide_virtual_alloc(space, &again, &size, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(tide_access_begin(space, &access));
    for (unsigned i = 0; i < 2 * RUN; i += 63) {
        const char *pointer = tide_access_pointer(&access, base + i * PG, TIDE_ACCESS_READ);
        assert_non_null(pointer);
        assert_int_equal(*pointer, 0);
    }
    tide_access_end(&access);
    fixture_close(fixture);
}

/* Of ordinary pages an extent is what may be accessed and lies together, as the pages one by one say. */
static void LP_extents_of_ordinary_pages(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 100 };
    tide_access access;
    unsigned longest = 0;

    fixture_open(fixture, 3 * RUN);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    for (unsigned i = 0; i < PAGES; i++)
        if (i % 10 != 9) /* one in ten is not there */
            assert_status(tide_touch(space, base + i * PG, i % 20 == 4 ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE),
                          TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_success(tide_access_begin(space, &access));
    for (unsigned i = 0; i < PAGES; i++) {
        tide_extent extent;
        if (i % 10 == 9)
            continue;
        assert_success(tide_access_extent(&access, base + i * PG + 5, TIDE_ACCESS_READ, &extent));
        assert_true(extent.bytes % PG == 0 && extent.bytes >= PG && extent.bytes <= 9 * PG);
        assert_non_null(tide_extent_pointer(&extent, base + i * PG + 5));
        for (tide_address at = extent.begin; at < extent.begin + extent.bytes; at += PG)
            assert_ptr_equal(tide_extent_pointer(&extent, at), tide_access_pointer(&access, at, TIDE_ACCESS_READ));
        /* Not longer, because the neighbours lie elsewhere or are not there. */
        const uint64_t after = (extent.begin + extent.bytes - base) / PG;
        if (after < PAGES && after % 10 != 9)
            assert_ptr_not_equal(tide_access_pointer(&access, base + after * PG, TIDE_ACCESS_READ),
                                 extent.memory + extent.bytes);
        longest = extent.bytes / PG > longest ? (unsigned)(extent.bytes / PG) : longest;
    }
    assert_true(longest > 1);                                                  /* or nothing was tested */
    assert_int_equal(space_now(space).faults.demand_zero, PAGES - PAGES / 10); /* no neighbour was faulted in */
    tide_access_end(&access);
    /* Two of ten may be read only, one not at all: no stretch goes over what the access may not. */
    uint32_t old;
    for (unsigned i = 0; i < PAGES; i++)
        if (i % 10 == 2 || i % 10 == 4 || i % 10 == 6)
            assert_success(tide_virtual_protect(space, base + i * PG, PG,
                                                i % 10 == 6 ? TIDE_PAGE_NOACCESS : TIDE_PAGE_READONLY, &old));
    assert_success(tide_access_begin(space, &access));
    for (unsigned i = 0; i < 2 * PAGES; i++) {
        const tide_access_kind kind = i < PAGES ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
        const tide_address page = base + i % PAGES * PG;
        const bool no_write = i % 10 == 2 || i % 10 == 4;
        tide_extent extent;
        if (i % 10 == 9)
            continue;
        if (i % 10 == 6 || (no_write && kind == TIDE_ACCESS_WRITE)) {
            assert_status(tide_access_extent(&access, page, kind, &extent), TIDE_ACCESS_VIOLATION);
            continue;
        }
        assert_success(tide_access_extent(&access, page, kind, &extent));
        for (tide_address at = extent.begin; at < extent.begin + extent.bytes; at += PG)
            assert_ptr_equal(tide_extent_pointer(&extent, at), tide_access_pointer(&access, at, kind));
    }
    tide_access_end(&access);
    fixture_close(fixture);
}

static void LP_bad_large_pages_are_refused(void **state)
{
    struct fixture *fixture = *state;
    static const struct {
        tide_address base;
        uint64_t bytes;
        uint32_t type, protection;
        tide_status expected;
    } wrong[] = {
        { 0, LARGE, TIDE_MEM_RESERVE | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { 0, LARGE, TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { 0, LARGE + PG, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { 0, 0, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { 0x40010000, LARGE, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { 0, LARGE, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES | TIDE_MEM_WRITE_WATCH,
          TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { 0, LARGE, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READONLY,
          TIDE_INVALID_PAGE_PROTECTION },
        { 0x40000000, LARGE, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_CONFLICTING_ADDRESSES },
        { 0, 1ull << 40, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_NO_MEMORY },
        { 0, 4 * LARGE, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_COMMITMENT_LIMIT },
    };

    fixture->config.frame_wait_ms = 600000; /* who waits, hangs */
    fixture_page_file(fixture, 8);
    fixture_open(fixture, 4 * RUN);
    tide_space *space = space_new(fixture);
    region_new_at(space, 0x40000000, 8);
    const tide_address full = region_new(space, 64);
    stamp_pages(space, full, 64, 1, 1);
    trim_all(space);
    write_modified(fixture); /* eight pages on standby, which a refused call must not take */
    const tide_space_statistics before = space_now(space);
    const tide_statistics engine_before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        tide_address base = wrong[i].base;
        uint64_t bytes = wrong[i].bytes;
        assert_status(tide_virtual_alloc(space, &base, &bytes, wrong[i].type, wrong[i].protection), wrong[i].expected);
        assert_int_equal(base, wrong[i].base);
        assert_int_equal(bytes, wrong[i].bytes);
    }
    /* no address range is no matter of waiting */
    const tide_alloc_parameters nowhere = {
        sizeof nowhere, 0x40000000, 0x400FFFFF, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT
    };
    tide_address base = 0;
    uint64_t bytes = LARGE;
    assert_status(tide_virtual_alloc2(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE, &nowhere), TIDE_NO_MEMORY);
    const tide_space_statistics after = space_now(space);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(statistics_now(fixture).commit_total_pages, engine_before.commit_total_pages);
    const tide_node_statistics node_after = node_now(fixture, 0);
    assert_int_equal(standby_pages(&node_before), standby_pages(&node_after));
    fixture_close(fixture);
}

/* Large pages count as private, but not against the limit of the space. */
static void LP_large_pages_are_outside_the_commit_limit(void **state)
{
    struct fixture *fixture = *state;
    tide_address base = 0, small = 0;
    uint64_t bytes = LARGE;

    fixture_open(fixture, 4 * RUN);
    tide_space *space = space_new(fixture);
    assert_success(tide_space_set_commit_limit(space, 20));
    region_new(space, 10);
    assert_success(tide_virtual_alloc(space, &base, &bytes, large_type, TIDE_PAGE_READWRITE));
    assert_int_equal(space_now(space).private_pages, RUN + 10);
    bytes = 11 * PG;
    assert_status(tide_virtual_alloc(space, &small, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_COMMITMENT_LIMIT);
    bytes = 10 * PG;
    assert_success(tide_virtual_alloc(space, &small, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    base = 0;
    bytes = PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_COMMITMENT_LIMIT);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* ---- placeholders ----------------------------------------------------------------------------------------------- */

static tide_address placeholder_new(tide_space *space, uint64_t bytes)
{
    tide_address base = 0;

    assert_success(tide_virtual_alloc2(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER,
                                       TIDE_PAGE_NOACCESS, NULL));
    return base;
}

static tide_status replace(tide_space *space, tide_address base, uint64_t bytes, uint32_t more)
{
    return tide_virtual_alloc2(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_REPLACE_PLACEHOLDER | more,
                               TIDE_PAGE_READWRITE, NULL);
}

static void PL_2_a_placeholder_is_replaced_exactly(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = placeholder_new(space, UNIT);
    const uint64_t virtual_bytes = space_now(space).virtual_bytes;
    assert_int_equal(query(space, base).state, TIDE_MEM_RESERVE);
    assert_int_equal(query(space, base).allocation_protection, TIDE_PAGE_NOACCESS);
    assert_status(replace(space, base, UNIT / 2, TIDE_MEM_COMMIT), TIDE_CONFLICTING_ADDRESSES);
    assert_status(replace(space, base, 2 * UNIT, 0), TIDE_CONFLICTING_ADDRESSES);
    assert_status(replace(space, base + UNIT / 2, UNIT / 2, 0), TIDE_CONFLICTING_ADDRESSES);
    assert_status(replace(space, 0, UNIT, 0), TIDE_INVALID_PARAMETER);
    assert_status(replace(space, base, UNIT, TIDE_MEM_TOP_DOWN), TIDE_INVALID_PARAMETER);
    assert_status(replace(space, base, UNIT, TIDE_MEM_RESERVE_PLACEHOLDER), TIDE_INVALID_PARAMETER);
    /* nothing can be done in it */
    tide_address at = base;
    uint64_t bytes = PG;
    uint32_t old;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_free(space, base, PG, TIDE_MEM_DECOMMIT), TIDE_UNABLE_TO_FREE_VM);
    assert_status(tide_virtual_protect(space, base, PG, TIDE_PAGE_READWRITE, &old), TIDE_NOT_COMMITTED);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    /* replaced, it is a region like any; given back, a placeholder again */
    for (unsigned round = 0; round < 3; round++) {
        assert_success(replace(space, base, UNIT, round == 1 ? 0 : TIDE_MEM_COMMIT));
        assert_status(replace(space, base, UNIT, 0), TIDE_CONFLICTING_ADDRESSES);
        at = base;
        bytes = UNIT;
        assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        for (unsigned page = 0; page < UNIT / PG; page++) /* zeros each time */
            assert_status(tide_touch(space, base + page * PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
        stamp_pages(space, base, UNIT / PG, 1, round);
        assert_status(tide_virtual_free(space, base, UNIT / 2, TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER),
                      TIDE_CONFLICTING_ADDRESSES);
        check_pages(space, base, UNIT / PG, 1, round);
        assert_success(tide_virtual_free(space, base, UNIT, TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER));
        assert_int_equal(space_now(space).private_pages, 0);
        assert_int_equal(space_now(space).virtual_bytes, virtual_bytes);
        assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
        fixture_verify(fixture);
    }
    /* a region that replaced nothing cannot become a placeholder */
    const tide_address plain = region_new(space, 16);
    assert_status(tide_virtual_free(space, plain, UNIT, TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER),
                  TIDE_CONFLICTING_ADDRESSES);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(query(space, base).state, TIDE_MEM_FREE);
    fixture_close(fixture);
}

static void PL_3_placeholders_are_joined_without_a_gap(void **state)
{
    struct fixture *fixture = *state;
    const uint32_t keep = TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER;
    const uint32_t join = TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = placeholder_new(space, 4 * UNIT);
    assert_status(tide_virtual_free(space, base, 4 * UNIT, join), TIDE_CONFLICTING_ADDRESSES); /* one already */
    assert_success(tide_virtual_free(space, base + UNIT, UNIT, keep));                         /* out of the middle */
    assert_int_equal(space_now(space).regions, 3);
    assert_int_equal(query(space, base + UNIT).allocation_base, base + UNIT);
    assert_int_equal(query(space, base + UNIT).bytes, UNIT);
    assert_int_equal(query(space, base + 2 * UNIT).bytes, 2 * UNIT);
    assert_success(tide_virtual_free(space, base + 2 * UNIT, UNIT, keep));
    assert_int_equal(space_now(space).regions, 4);
    assert_success(replace(space, base + UNIT, UNIT, TIDE_MEM_COMMIT));
    stamp_pages(space, base + UNIT, 16, 1, 1);
    assert_status(tide_virtual_free(space, base, 4 * UNIT, join), TIDE_CONFLICTING_ADDRESSES); /* a region between */
    assert_success(tide_virtual_free(space, base + UNIT, 0, TIDE_MEM_RELEASE));
    assert_status(tide_virtual_free(space, base, 4 * UNIT, join), TIDE_CONFLICTING_ADDRESSES); /* a gap */
    assert_status(tide_virtual_free(space, base + 2 * UNIT, UNIT + PG, join), TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_free(space, base + 2 * UNIT, 3 * UNIT, join), TIDE_CONFLICTING_ADDRESSES);
    assert_status(tide_virtual_free(space, base + 2 * UNIT, 0, join), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_free(space, base + 2 * UNIT + 1, UNIT, join), TIDE_INVALID_PARAMETER);
    assert_int_equal(space_now(space).regions, 3);
    assert_success(tide_virtual_free(space, base + 2 * UNIT, 2 * UNIT, join));
    assert_int_equal(space_now(space).regions, 2);
    assert_success(replace(space, base + 2 * UNIT, 2 * UNIT, TIDE_MEM_COMMIT));
    /* parts need not be units: split at a page, and replaced where they lie */
    const tide_address odd = placeholder_new(space, UNIT);
    assert_success(tide_virtual_free(space, odd + 3 * PG, 2 * PG, keep));
    assert_success(replace(space, odd + 3 * PG, 2 * PG, TIDE_MEM_COMMIT));
    assert_success(stamp_put(space, odd + 4 * PG, 1, 1));
    assert_int_equal(query(space, odd + 3 * PG).allocation_base, odd + 3 * PG);
    assert_success(tide_virtual_free(space, odd + 3 * PG, 2 * PG, keep));
    assert_success(tide_virtual_free(space, odd, UNIT, join));
    assert_int_equal(query(space, odd).bytes, UNIT);
    fixture_verify(fixture);
    fixture_close(fixture);
}

struct ring {
    tide_space *space;
    tide_address base;
};

/* Each thread replaces, uses and gives back its own part, while the last one splits and joins beside them. */
static void placeholder_member(struct crew_member *member)
{
    const struct ring *ring = member->context;
    const tide_address part = ring->base + member->index * 2 * UNIT;

    for (unsigned round = 0; round < 200; round++) {
        CREW_CHECK(member, tide_virtual_free(ring->space, part, UNIT,
                                             TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER) == TIDE_SUCCESS);
        CREW_CHECK(member, replace(ring->space, part, UNIT, round % 2 ? TIDE_MEM_COMMIT : 0) == TIDE_SUCCESS);
        tide_address at = part + PG;
        uint64_t bytes = PG;
        CREW_CHECK(member,
                   tide_virtual_alloc(ring->space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
        CREW_CHECK(member, tide_touch(ring->space, at, TIDE_ACCESS_WRITE) == TIDE_PAGE_FAULT_DEMAND_ZERO);
        CREW_CHECK(member, stamp_put(ring->space, at, member->index, round) == TIDE_SUCCESS);
        CREW_CHECK(member, stamp_check(ring->space, at, member->index, round) == TIDE_SUCCESS);
        CREW_CHECK(member, tide_virtual_free(ring->space, part, UNIT,
                                             TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER) == TIDE_SUCCESS);
        CREW_CHECK(member, tide_virtual_free(ring->space, part, 2 * UNIT,
                                             TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS) == TIDE_SUCCESS);
    }
}

static void PL_threads_split_replace_and_join(void **state)
{
    struct fixture *fixture = *state;
    enum { MEMBERS = 8 };
    struct ring ring;

    fixture_open(fixture, 512);
    ring.space = space_new(fixture);
    ring.base = placeholder_new(ring.space, MEMBERS * 2 * UNIT);
    for (unsigned i = 0; i + 1 < MEMBERS; i++)
        assert_success(tide_virtual_free(ring.space, ring.base + i * 2 * UNIT, 2 * UNIT,
                                         TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER));
    crew_run(MEMBERS, placeholder_member, &ring);
    assert_int_equal(space_now(ring.space).regions, MEMBERS);
    fixture_verify(fixture);
    fixture_close(fixture);
}

static const struct CMUnitTest large_pages[] = {
    API_TEST(LP_1_scattered_frames_are_no_large_page),
    API_TEST(LP_2_a_large_page_is_there_and_stays),
    API_TEST(LP_pointers_into_large_pages),
    API_TEST(LP_extents_of_ordinary_pages),
    API_TEST(LP_bad_large_pages_are_refused),
    API_TEST(LP_large_pages_are_outside_the_commit_limit),
    API_TEST(PL_2_a_placeholder_is_replaced_exactly),
    API_TEST(PL_3_placeholders_are_joined_without_a_gap),
    API_TEST(PL_threads_split_replace_and_join),
};

API_MAIN(large_pages)

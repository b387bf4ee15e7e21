/*
 * Regions as a whole: native release with splitting (RC-7), many regions and many threads (VAD-1, VAD-2), where regions
 * lie (AS-1, AS-3, address requirements), and what a space may commit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

enum { UNIT = TIDE_ALLOCATION_GRANULARITY_BYTES };

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { EFFORT_DIVISOR = 10 };
#else
enum { EFFORT_DIVISOR = 1 };
#endif

static tide_region query(tide_space *space, tide_address address)
{
    tide_region region;

    assert_success(tide_virtual_query(space, address, &region));
    return region;
}

static void release_native(tide_space *space, tide_address base, uint64_t bytes)
{
    assert_success(tide_virtual_free_native(space, &base, &bytes, TIDE_MEM_RELEASE));
}

static void RC_7_a_native_release_cuts_and_splits(void **state)
{
    struct fixture *fixture = *state;

    fixture_page_file(fixture, 128);
    fixture_open(fixture, 256);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 48);
    const tide_space_statistics before = space_now(space);
    stamp_pages(space, base, 48, 1, 1);
    tide_address at = base + UNIT;
    uint64_t bytes = UNIT;
    assert_success(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE));
    assert_int_equal(at, base + UNIT);
    assert_int_equal(bytes, UNIT);
    assert_int_equal(before.private_pages - space_now(space).private_pages, 16);
    assert_int_equal(before.virtual_bytes - space_now(space).virtual_bytes, UNIT);
    assert_int_equal(space_now(space).regions, before.regions + 1);
    static const uint32_t states[] = { TIDE_MEM_COMMIT, TIDE_MEM_FREE, TIDE_MEM_COMMIT };
    for (unsigned i = 0; i < 3; i++) {
        const tide_region region = query(space, base + i * UNIT);
        assert_int_equal(region.state, states[i]);
        assert_int_equal(region.bytes, UNIT);
        if (i == 1)
            continue;
        assert_int_equal(region.allocation_base, base + i * UNIT);
        assert_int_equal(region.allocation_protection, TIDE_PAGE_READWRITE);
        assert_int_equal(region.type, TIDE_MEM_PRIVATE);
        check_pages(space, base + i * UNIT, 16, 1, 1);
    }
    assert_status(tide_touch(space, base + UNIT, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    /* what the parts hold survives a trip through the page file */
    page_out(fixture, space);
    check_pages(space, base, 16, 1, 1);
    check_pages(space, base + 2 * UNIT, 16, 1, 1);
    /* the hole can be reserved by others, the parts are released by their own bases */
    assert_int_equal(region_new_at(space, base + UNIT, 16), base + UNIT);
    assert_status(tide_virtual_free(space, base + 2 * UNIT + PG, 0, TIDE_MEM_RELEASE), TIDE_FREE_VM_NOT_AT_BASE);
    assert_success(tide_virtual_free(space, base + 2 * UNIT, 0, TIDE_MEM_RELEASE));
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).regions, 1);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* Cuts at the ends, at pages, and of regions that are committed in part; the rest of a unit stays unusable. */
static void RC_7_cuts_of_every_kind(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 512);
    tide_space *space = space_new(fixture);
    for (unsigned whole = 0; whole < 2; whole++) {
        tide_address base = space_at(space, 0x40000000);
        uint64_t bytes = 64 * PG;
        assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | (whole ? TIDE_MEM_COMMIT : 0),
                                          TIDE_PAGE_READWRITE));
        if (!whole) { /* pages 4 to 11 and 40 to 47 */
            for (unsigned i = 4; i <= 40; i += 36) {
                tide_address at = base + i * PG;
                bytes = 8 * PG;
                assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
                stamp_pages(space, at, 8, 1, i);
            }
        } else {
            stamp_pages(space, base + 4 * PG, 8, 1, 4);
            stamp_pages(space, base + 40 * PG, 8, 1, 40);
        }
        uint64_t committed = whole ? 64 : 16;
        assert_int_equal(space_now(space).private_pages, committed);
        release_native(space, base, 5 * PG); /* off the low end: page 4 goes */
        committed -= whole ? 5 : 1;
        assert_int_equal(space_now(space).private_pages, committed);
        assert_int_equal(query(space, base + 5 * PG).allocation_base, base + 5 * PG);
        assert_int_equal(query(space, base).state, TIDE_MEM_FREE);
        release_native(space, base + 60 * PG + 7, 4 * PG - 7); /* off the high end, rounded outwards */
        committed -= whole ? 4 : 0;
        release_native(space, base + 10 * PG + 1, 30 * PG); /* out of the middle: pages 10 to 40 */
        committed -= whole ? 31 : 3;
        assert_int_equal(space_now(space).private_pages, committed);
        assert_int_equal(space_now(space).regions, 2);
        check_pages(space, base + 5 * PG, 5, 1, 4);
        for (unsigned i = 41; i < 48; i++)
            assert_success(stamp_check(space, base + i * PG, 1, 40));
        /* pages 0 to 4 lie in a unit that a region touches */
        tide_address at = base;
        bytes = PG;
        assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE),
                      TIDE_CONFLICTING_ADDRESSES);
        /* errors change nothing */
        at = base + 9 * PG;
        bytes = 2 * PG;
        assert_status(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE), TIDE_UNABLE_TO_FREE_VM);
        at = base + 20 * PG;
        assert_status(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE), TIDE_MEMORY_NOT_ALLOCATED);
        at = base + 6 * PG;
        bytes = 0;
        assert_status(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE), TIDE_FREE_VM_NOT_AT_BASE);
        assert_status(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_DECOMMIT | TIDE_MEM_RELEASE),
                      TIDE_INVALID_PARAMETER);
        assert_int_equal(at, base + 6 * PG);
        assert_int_equal(space_now(space).private_pages, committed);
        fixture_verify(fixture);
        at = base + 5 * PG;
        bytes = 0;
        assert_success(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE)); /* the whole by its base */
        assert_int_equal(bytes, 5 * PG);
        at = base + 41 * PG;
        assert_success(tide_virtual_free(space, at, 0, TIDE_MEM_RELEASE));
        assert_int_equal(space_now(space).private_pages, 0);
        assert_int_equal(space_now(space).virtual_bytes, 0);
    }
    fixture_close(fixture);
}

/*
 * Untouched parts of a large region keep the promise of their tables: after a split at the limit every touch succeeds.
 */
static void RC_7_a_split_charges_the_tables_it_needs(void **state)
{
    SOFT_SPACES_ONLY(ONLY_TABLE);
    struct fixture *fixture = *state;
    const uint64_t pages = 1024; /* two leaves */

    fixture_page_file(fixture, 2048);
    fixture_open(fixture, 256);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new_at(space, (1ull << 39) - 512 * PG, pages); /* over a border of every level */
    /* untouched, with no table yet: both parts may need all of them, and promise so */
    const tide_address sparse = region_new_at(space, 5ull << 40, 64);
    release_native(space, sparse + 8 * PG, 48 * PG);
    fixture_verify(fixture);
    release_native(space, sparse, 8 * PG);
    release_native(space, sparse + 56 * PG, 8 * PG);
    fixture_verify(fixture);
    const tide_address filler = region_new(space, 16);
    tide_statistics now = statistics_now(fixture);
    const uint64_t left = now.commit_limit_pages - now.commit_total_pages;
    tide_address rest = filler + UNIT;
    uint64_t bytes = (left - 1) * PG;
    assert_success(tide_virtual_alloc(space, &rest, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    for (bool fits = true; fits;) { /* up to the limit, page by page */
        tide_address at = rest + space_now(space).private_pages * PG - (pages + 16) * PG;
        bytes = PG;
        fits = tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) == TIDE_SUCCESS;
    }
    release_native(space, base + 100 * PG, 824 * PG);
    for (unsigned i = 0; i < 100; i++) {
        assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
        assert_status(tide_touch(space, base + (924 + i) * PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
    }
    now = statistics_now(fixture);
    assert_true(now.commit_total_pages <= now.commit_limit_pages);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* ---- many regions, many threads --------------------------------------------------------------------------------- */

static int address_compare(const void *a, const void *b)
{
    const tide_address x = *(const tide_address *)a, y = *(const tide_address *)b;

    return x < y ? -1 : x > y;
}

/* The oracle is a sorted list of all regions: none overlaps, each is found by a query. */
static void VAD_1_many_random_regions_never_overlap(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    enum { REGIONS = 100000 / EFFORT_DIVISOR };
    tide_address *bases = calloc(REGIONS, sizeof *bases);
    uint64_t *sizes = calloc(REGIONS, sizeof *sizes), random = 11;
    struct entry {
        tide_address base;
        uint64_t bytes;
    } *sorted = calloc(REGIONS, sizeof *sorted);

    assert_non_null(sorted);
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < REGIONS; i++) {
            if (sizes[i] != 0)
                continue;
            bases[i] = random_step(&random) % 3 ? 0 : UNIT * (1 + random_step(&random) % (1u << 24));
            sizes[i] = PG * (1 + random_step(&random) % 40);
            const uint32_t type = TIDE_MEM_RESERVE | (random_step(&random) % 2 ? TIDE_MEM_TOP_DOWN : 0);
            const tide_status status = tide_virtual_alloc(space, &bases[i], &sizes[i], type, TIDE_PAGE_READWRITE);
            if (status == TIDE_CONFLICTING_ADDRESSES) {
                sizes[i] = 0;
                i--;
                continue;
            }
            assert_success(status);
        }
        uint64_t virtual_bytes = 0;
        for (unsigned i = 0; i < REGIONS; i++) {
            sorted[i] = (struct entry){ bases[i], sizes[i] };
            virtual_bytes += sizes[i];
        }
        qsort(sorted, REGIONS, sizeof *sorted, address_compare);
        for (unsigned i = 1; i < REGIONS; i++)
            assert_true(sorted[i - 1].base + sorted[i - 1].bytes <= sorted[i].base);
        for (unsigned i = 0; i < REGIONS; i += 17) {
            const tide_region region = query(space, sorted[i].base + sorted[i].bytes - 1);
            assert_int_equal(region.allocation_base, sorted[i].base);
            assert_int_equal(region.bytes, PG);
            assert_int_equal(region.base % UNIT == 0 ? 0 : 1, (region.base - sorted[i].base) % UNIT != 0);
        }
        assert_int_equal(space_now(space).regions, REGIONS);
        assert_int_equal(space_now(space).virtual_bytes, virtual_bytes);
        fixture_verify(fixture);
        for (unsigned i = 0; i < REGIONS && pass == 0; i++)
            if (random_step(&random) % 2) {
                assert_success(tide_virtual_free(space, bases[i], 0, TIDE_MEM_RELEASE));
                sizes[i] = 0;
            }
    }
    free(bases);
    free(sizes);
    free(sorted);
    fixture_close(fixture);
}

enum { VAD_THREADS = 16, OWN = 24, VAD_ROUNDS = 4000 / EFFORT_DIVISOR };

/*
 * Reserves, commits, faults, splits, decommits, protects and releases in regions of its own; each page carries a stamp
 * that nobody else may change, and each region is asked for before it goes.
 */
static void disjoint_member(struct crew_member *member)
{
    tide_space *space = member->context;
    tide_address bases[OWN] = { 0 };
    uint64_t random = member->index + 1;
    uint32_t old;

    for (unsigned round = 0; round < VAD_ROUNDS; round++) {
        const unsigned slot = (unsigned)(random_step(&random) % OWN);
        uint64_t bytes = 32 * PG;

        if (bases[slot] == 0) {
            const bool whole = random_step(&random) % 2;
            CREW_CHECK(member,
                       tide_virtual_alloc(space, &bases[slot], &bytes, TIDE_MEM_RESERVE | (whole ? TIDE_MEM_COMMIT : 0),
                                          TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
            tide_address at = bases[slot];
            bytes = 4 * PG;
            CREW_CHECK(member, whole || tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) ==
                                            TIDE_SUCCESS);
            for (unsigned i = 0; i < 4; i++)
                CREW_CHECK(member, stamp_put(space, bases[slot] + i * PG, member->index, slot) == TIDE_SUCCESS);
            continue;
        }
        const tide_address base = bases[slot];
        tide_region region;
        CREW_CHECK(member, tide_virtual_query(space, base, &region) == TIDE_SUCCESS);
        CREW_CHECK(member, region.allocation_base == base && region.state == TIDE_MEM_COMMIT);
        for (unsigned i = 0; i < 4; i++)
            CREW_CHECK(member, stamp_check(space, base + i * PG, member->index, slot) == TIDE_SUCCESS);
        switch (random_step(&random) % 4) {
        case 0:
            CREW_CHECK(member, tide_virtual_protect(space, base, 4 * PG, TIDE_PAGE_READONLY, &old) == TIDE_SUCCESS);
            CREW_CHECK(member, tide_touch(space, base + PG, TIDE_ACCESS_WRITE) == TIDE_ACCESS_VIOLATION);
            CREW_CHECK(member, tide_virtual_protect(space, base, 4 * PG, TIDE_PAGE_READWRITE, &old) == TIDE_SUCCESS);
            CREW_CHECK(member, old == TIDE_PAGE_READONLY);
            break;
        case 1: { /* off with the rest of it: what is left is pages 0 to 15 */
            tide_address at = base + 16 * PG;
            bytes = 16 * PG;
            if (tide_virtual_query(space, at, &region) == TIDE_SUCCESS && region.allocation_base == base)
                CREW_CHECK(member, tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE) == TIDE_SUCCESS);
            break;
        }
        case 2:
            (void)tide_working_set_trim(space, 8, NULL);
            break;
        default:
            CREW_CHECK(member, tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE) == TIDE_SUCCESS);
            bases[slot] = 0;
        }
    }
}

static void VAD_2_threads_in_disjoint_regions_lose_nothing(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.disable_aslr = false;
    fixture->config.aslr_seed = 7;
    fixture_page_file(fixture, 20000);
    fixture_open(fixture, 4096);
    tide_space *space = space_new(fixture);
    crew_run(VAD_THREADS, disjoint_member, space);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* ---- where regions lie ------------------------------------------------------------------------------------------ */

/* Upper bound of chi-square with `cells - 1` degrees of freedom at p = 1e-6, by Wilson and Hilferty. */
static double chi_square_bound(unsigned cells)
{
    const double k = cells - 1, z = 4.75;
    const double term = 1.0 - 2.0 / (9.0 * k) + z * __builtin_sqrt(2.0 / (9.0 * k));

    return k * term * term * term;
}

/* The values below 2^bits fall evenly into 64 cells by their highest bits, and by their lowest. */
static void assert_uniform(const uint64_t *values, unsigned count, unsigned bits, const char *what)
{
    enum { CELLS = 64 };

    for (unsigned low = 0; low < 2; low++) {
        unsigned cells[CELLS] = { 0 };
        double chi = 0;

        for (unsigned i = 0; i < count; i++) {
            assert_true(values[i] >> bits == 0);
            cells[low ? values[i] % CELLS : values[i] >> (bits - 6)]++;
        }
        for (unsigned i = 0; i < CELLS; i++) {
            const double expected = (double)count / CELLS, difference = cells[i] - expected;
            chi += difference * difference / expected;
        }
        if (chi > chi_square_bound(CELLS))
            fail_msg("%s: chi-square of the %s six bits is %f, the bound %f", what, low ? "lowest" : "highest", chi,
                     chi_square_bound(CELLS));
    }
}

enum { STARTS = 4096, BOTTOM_UP_BITS = 24, TOP_DOWN_BITS = 17 };

/* By many spaces of one engine, and by many engine starts. */
static void AS_1_bases_are_uniform_over_the_stated_bits(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ASLR);
    struct fixture *fixture = *state;
    static uint64_t bottom[STARTS], stacks[STARTS], top[STARTS];
    const unsigned per_engine[] = { STARTS, 8 };

    fixture->config.disable_aslr = false;
    for (unsigned kind = 0; kind < 2; kind++) {
        const unsigned count = kind == 0 ? STARTS : STARTS / EFFORT_DIVISOR;

        for (unsigned i = 0; i < count; i++) {
            if (i % per_engine[kind] == 0) {
                fixture->config.aslr_seed = kind == 0 ? 12345 : i + 1;
                fixture_open(fixture, 64);
            }
            tide_space *space = space_new(fixture);
            tide_stack stack;
            tide_address base = 0, high = 0;
            uint64_t bytes = PG, high_bytes = PG;
            assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
            assert_success(tide_virtual_alloc(space, &high, &high_bytes, TIDE_MEM_RESERVE | TIDE_MEM_TOP_DOWN,
                                              TIDE_PAGE_READWRITE));
            assert_success(tide_stack_create(space, UNIT, PG, &stack));
            assert_int_equal((base | high | stack.allocation_base) % UNIT, 0);
            assert_true(stack.allocation_base >= base + UNIT);
            assert_true(high >= stack.base);
            bottom[i] = (base - TIDE_LOWEST_ADDRESS) / UNIT;
            stacks[i] = (stack.allocation_base - UNIT - TIDE_LOWEST_ADDRESS) / UNIT;
            top[i] = (TIDE_HIGHEST_ADDRESS + 1 - UNIT - high) / UNIT;
            space_close(fixture, space);
            if (i % per_engine[kind] == per_engine[kind] - 1 || i + 1 == count)
                fixture_close(fixture);
        }
        assert_uniform(bottom, count, BOTTOM_UP_BITS, "bottom-up");
        assert_uniform(stacks, count, BOTTOM_UP_BITS, "stacks");
        assert_uniform(top, count, TOP_DOWN_BITS, "top-down");
    }
}

static void AS_3_addresses_repeat_without_randomisation(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ASLR);
    struct fixture *fixture = *state;
    tide_address seen[3][4];

    for (unsigned run = 0; run < 3; run++) {
        fixture->config.disable_aslr = run < 2;
        fixture->config.aslr_seed = 99;
        fixture_open(fixture, 64);
        for (unsigned i = 0; i < 4; i++)
            seen[run][i] = region_new(space_new(fixture), 2);
        fixture_close(fixture);
    }
    assert_memory_equal(seen[0], seen[1], sizeof seen[0]);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(seen[0][i], TIDE_LOWEST_ADDRESS);
        assert_int_not_equal(seen[2][i], TIDE_LOWEST_ADDRESS);
    }
    /* a seed repeats too */
    fixture_open(fixture, 64);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(region_new(space_new(fixture), 2), seen[2][i]);
    fixture_close(fixture);
}

static tide_status alloc2(tide_space *space, tide_address *base, uint64_t bytes, uint32_t type,
                          const tide_alloc_parameters *parameters)
{
    return tide_virtual_alloc2(space, base, &bytes, type, TIDE_PAGE_READWRITE, parameters);
}

static void address_requirements_are_kept(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    uint64_t random = 3;

    for (unsigned aslr = 0; aslr < 2; aslr++) {
        fixture->config.disable_aslr = aslr == 0;
        fixture->config.aslr_seed = 5;
        fixture_open(fixture, 64);
        tide_space *space = space_new(fixture);
        for (unsigned i = 0; i < 500; i++) {
            tide_alloc_parameters want = { .struct_bytes = sizeof want, .node = TIDE_NO_PREFERRED_NODE };
            const uint64_t pages = 1 + random_step(&random) % 64;
            if (random_step(&random) % 2)
                want.lowest_address = UNIT * (1 + random_step(&random) % (1u << 28));
            if (random_step(&random) % 2)
                want.highest_address = want.lowest_address + UNIT * (64 + random_step(&random) % (1u << 28)) - 1;
            if (random_step(&random) % 2)
                want.alignment_bytes = UNIT << (random_step(&random) % 5);
            const uint32_t type = TIDE_MEM_RESERVE | (random_step(&random) % 2 ? TIDE_MEM_TOP_DOWN : 0);
            tide_address base = 0;
            assert_success(alloc2(space, &base, pages * PG, type, &want));
            assert_int_equal(base % (want.alignment_bytes != 0 ? want.alignment_bytes : UNIT), 0);
            assert_true(base >= want.lowest_address);
            assert_true(want.highest_address == 0 || base + pages * PG - 1 <= want.highest_address);
        }
        fixture_close(fixture);
    }
    fixture_open(fixture, 64);
    tide_space *space = space_new(fixture);
    /* room for exactly one */
    const tide_alloc_parameters exact = {
        sizeof exact, 0x70000000, 0x7000FFFF, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT
    };
    tide_address base = 0;
    assert_success(alloc2(space, &base, UNIT, TIDE_MEM_RESERVE, &exact));
    assert_int_equal(base, 0x70000000);
    base = 0;
    assert_status(alloc2(space, &base, PG, TIDE_MEM_RESERVE, &exact), TIDE_NO_MEMORY);
    /* an alignment that only one of the gaps can hold */
    const tide_alloc_parameters aligned = {
        sizeof aligned,         0x70010000,           0x7FFFFFFF, 0x8000000, TIDE_NO_PREFERRED_NODE,
        TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT
    };
    assert_success(alloc2(space, &base, PG, TIDE_MEM_RESERVE, &aligned));
    assert_int_equal(base, 0x78000000);
    base = 0;
    assert_status(alloc2(space, &base, PG, TIDE_MEM_RESERVE, &aligned), TIDE_NO_MEMORY);

    const tide_space_statistics before = space_now(space);
    static const tide_alloc_parameters wrong[] = {
        { 0, 0, 0, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact - 1, 0, 0, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0x1000, 0, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0, 0x10000, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0x20000, 0xFFFF, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0, UINT64_MAX, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, TIDE_HIGHEST_ADDRESS + 1, 0, 0, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT,
          TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0, 0, 0x1000, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0, 0, 0x30000, TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
        { sizeof exact, 0, 0, 0, 64, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT },
    };
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        base = 0;
        assert_status(alloc2(space, &base, PG, TIDE_MEM_RESERVE, &wrong[i]), TIDE_INVALID_PARAMETER);
        assert_int_equal(base, 0);
    }
    base = 0x60000000; /* requirements want base 0, and nothing is rounded */
    assert_status(alloc2(space, &base, PG, TIDE_MEM_RESERVE, &exact), TIDE_INVALID_PARAMETER);
    base = 0x60001000;
    assert_status(alloc2(space, &base, PG, TIDE_MEM_RESERVE, NULL), TIDE_INVALID_PARAMETER);
    base = 0x60000000;
    assert_status(alloc2(space, &base, PG + 1, TIDE_MEM_RESERVE, NULL), TIDE_INVALID_PARAMETER);
    assert_success(alloc2(space, &base, PG, TIDE_MEM_RESERVE, NULL));
    assert_int_equal(space_now(space).regions, before.regions + 1);
    fixture_close(fixture);
}

/* ---- what a space may commit ------------------------------------------------------------------------------------ */

enum { LIMIT_THREADS = 64, LIMIT = 5000, LIMIT_ROUNDS = 300 / EFFORT_DIVISOR };

struct limited {
    tide_space *space;
    tide_address base;
    atomic_llong committed; /* sum over all threads of what succeeded and was not given back; never below the truth */
};

static void limit_member(struct crew_member *member)
{
    struct limited *limited = member->context;
    const uint64_t own = 128;
    uint64_t random = member->index, held = 0;
    tide_address base = limited->base + member->index * own * PG;

    for (unsigned round = 0; round < LIMIT_ROUNDS; round++) {
        uint64_t bytes = (1 + random_step(&random) % (own - held > 40 ? 40 : own - held + 1)) * PG;
        tide_address at = base + held * PG;
        if (held + bytes / PG <= own && random_step(&random) % 3) {
            const tide_status status =
                tide_virtual_alloc(limited->space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            CREW_CHECK(member, status == TIDE_SUCCESS || status == TIDE_COMMITMENT_LIMIT);
            if (status != TIDE_SUCCESS)
                continue;
            held += bytes / PG;
            CREW_CHECK(member,
                       atomic_fetch_add(&limited->committed, (long long)(bytes / PG)) + (long long)(bytes / PG) <=
                           LIMIT);
        } else if (held != 0) {
            const uint64_t pages = 1 + random_step(&random) % held;
            held -= pages;
            atomic_fetch_sub(&limited->committed, (long long)pages);
            CREW_CHECK(member, tide_virtual_free(limited->space, base + held * PG, pages * PG, TIDE_MEM_DECOMMIT) ==
                                   TIDE_SUCCESS);
        }
    }
}

static void a_commit_limit_is_exact_under_64_threads(void **state)
{
    struct fixture *fixture = *state;
    struct limited limited = { 0 };
    uint64_t bytes = LIMIT_THREADS * 128 * PG;

    fixture_page_file(fixture, 20000);
    fixture_open(fixture, 256);
    limited.space = space_new(fixture);
    assert_success(tide_virtual_alloc(limited.space, &limited.base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_success(tide_space_set_commit_limit(limited.space, LIMIT));
    crew_run(LIMIT_THREADS, limit_member, &limited);
    const uint64_t held = space_now(limited.space).private_pages;
    assert_int_equal(held, (uint64_t)atomic_load(&limited.committed));
    /* and to the page: what is left can be had, one page more cannot */
    tide_address at = 0;
    bytes = (LIMIT - held + 1) * PG;
    assert_status(
        tide_virtual_alloc(limited.space, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
        TIDE_COMMITMENT_LIMIT);
    bytes -= PG;
    if (bytes != 0)
        assert_success(
            tide_virtual_alloc(limited.space, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* A limit that is lowered, below what is committed too, holds for the very next page, whatever the CPUs keep ahead. */
static void a_lowered_commit_limit_holds_at_once(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 1024);
    tide_space *space = space_new(fixture), *other = space_new(fixture);
    const tide_address base = region_new(space, 16);
    tide_address at = 0;
    uint64_t bytes = 400 * PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(tide_space_set_commit_limit(space, 17));
    at += PG;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_COMMITMENT_LIMIT);
    assert_success(tide_space_set_commit_limit(space, 4)); /* what is committed stays */
    assert_int_equal(space_now(space).private_pages, 17);
    region_decommit(space, base, 12);
    assert_int_equal(space_now(space).private_pages, 5);
    for (unsigned i = 0; i < 3; i++)
        assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                      TIDE_COMMITMENT_LIMIT);
    region_decommit(space, base + 12 * PG, 2);
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    at += PG;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_COMMITMENT_LIMIT);
    region_new(other, 100); /* others are not concerned */
    assert_success(tide_space_set_commit_limit(space, TIDE_NO_COMMIT_LIMIT));
    bytes = 300 * PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(tide_space_set_commit_limit(space, 0));
    bytes = PG;
    at = 0;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_COMMITMENT_LIMIT);
    fixture_verify(fixture);
    fixture_close(fixture);
}

static const struct CMUnitTest regions[] = {
    API_TEST(RC_7_a_native_release_cuts_and_splits),          API_TEST(RC_7_cuts_of_every_kind),
    API_TEST(RC_7_a_split_charges_the_tables_it_needs),       API_TEST(VAD_1_many_random_regions_never_overlap),
    API_TEST(VAD_2_threads_in_disjoint_regions_lose_nothing), API_TEST(AS_1_bases_are_uniform_over_the_stated_bits),
    API_TEST(AS_3_addresses_repeat_without_randomisation),    API_TEST(address_requirements_are_kept),
    API_TEST(a_commit_limit_is_exact_under_64_threads),       API_TEST(a_lowered_commit_limit_holds_at_once),
};

API_MAIN(regions)

/*
 * Acceptance cases of the commit charge (nt-behaviour 16: CC-1, CC-5, CC-6): the limit is memory and page files, commit
 * is the one moment that fails, and what was charged comes back to the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>

enum { FRAMES = 1000, SLOTS = 1000 };

static void CC_1_commit_fails_at_memory_plus_page_files(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    const uint64_t overhead = FRAMES + SLOTS - limit; /* stated by the statistics, and small */
    assert_int_equal(fixture->at_open.page_file_total_slots, SLOTS);
    assert_between(overhead, 0, FRAMES / 50);

    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 4000 * PG;
    const uint64_t reserved = statistics_now(fixture).commit_total_pages;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(statistics_now(fixture).commit_total_pages, reserved); /* a reservation costs nothing */

    bytes = 1900 * PG;
    assert_success(
        tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_NOACCESS)); /* charged all the same */
    const tide_statistics full = statistics_now(fixture);
    assert_between(full.commit_total_pages - reserved, 1900, limit);
    assert_int_equal(space_now(space).private_pages, 1900);

    tide_address next = base + 1900 * PG;
    bytes = 200 * PG;
    assert_status(tide_virtual_alloc(space, &next, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_COMMITMENT_LIMIT);
    assert_non_null(strstr(tide_last_error()->message, "200")); /* names the value and the limit */
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.commit_total_pages, full.commit_total_pages);
    assert_int_equal(after.commit_limit_pages, limit);
    assert_int_equal(after.table_pages, full.table_pages);
    assert_true(after.commit_peak_pages >= full.commit_total_pages && after.commit_peak_pages <= limit);
    assert_int_equal(space_now(space).private_pages, 1900);
    assert_status(tide_touch(space, next, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);

    /* what decommit gives back can be had again at once */
    region_decommit(space, base, 200);
    next = base + 1900 * PG;
    bytes = 200 * PG;
    assert_success(tide_virtual_alloc(space, &next, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(stamp_put(space, next, 1, 1));
    fixture_close(fixture);
}

/* Commits until not one page more fits; returns the pages. The region is reserved for more than the limit. */
static uint64_t commit_all(struct fixture *fixture, tide_space *space, tide_address *base)
{
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    uint64_t bytes = 2 * limit * PG;
    uint64_t pages = 0;
    *base = TIDE_LOWEST_ADDRESS;
    assert_success(tide_virtual_alloc(space, base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    for (uint64_t chunk = 256; chunk > 0;) {
        tide_address next = *base + pages * PG;
        bytes = chunk * PG;
        const tide_status status = tide_virtual_alloc(space, &next, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
        if (status == TIDE_SUCCESS) {
            pages += chunk;
        } else {
            assert_status(status, TIDE_COMMITMENT_LIMIT);
            chunk /= 2;
        }
    }
    const tide_statistics now = statistics_now(fixture);
    assert_between(now.commit_total_pages, limit - 1, limit); /* one page and its leaf table may not fit together */
    assert_int_equal(space_now(space).private_pages, pages);
    return pages;
}

/* What was promised is kept: everything committed, nothing touched; then all of it in random order, and read again. */
static void all_committed_memory_can_be_touched(struct fixture *fixture)
{
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_address base;
    const uint64_t pages = commit_all(fixture, space, &base);
    assert_true(pages >= FRAMES + SLOTS - 100);
    uint64_t *order = random_order(pages, 5);
    for (uint64_t i = 0; i < pages; i++)
        assert_success(stamp_put(space, base + order[i] * PG, 1, 1));
    free(order);
    assert_int_equal(statistics_now(fixture).faults.demand_zero, pages);
    order = random_order(pages, 6);
    for (uint64_t i = 0; i < pages; i++)
        assert_success(stamp_check(space, base + order[i] * PG, 1, 1));
    free(order);
    assert_int_equal(space_now(space).faults.in_page_errors, 0);
    fixture_close(fixture);
}

static void CC_5_all_committed_memory_can_be_touched(void **state)
{
    all_committed_memory_can_be_touched(*state);
}

static void CC_5_all_committed_memory_can_be_touched_with_worker_threads(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    all_committed_memory_can_be_touched(fixture);
}

enum { RACERS = 64, RACE_ROUNDS = 40, RACE_CHUNKS = 16, SPARE = 40 };

struct race {
    tide_space *space;
    tide_address base;
    uint64_t limit;
    atomic_ulong held; /* pages that are committed for sure: less than the true sum, never more */
    atomic_ulong most;
    atomic_ulong successes;
    atomic_ulong refusals;
};

static void commit_racer(struct crew_member *member)
{
    struct race *race = member->context;
    uint64_t random = member->index;
    const tide_address base = race->base + member->index * (tide_address)RACE_CHUNKS * 8 * PG;
    for (unsigned round = 0; round < RACE_ROUNDS; round++) {
        uint64_t pages[RACE_CHUNKS] = { 0 };
        for (unsigned i = 0; i < RACE_CHUNKS; i++) {
            tide_address address = base + i * (tide_address)8 * PG;
            uint64_t bytes = (1 + random_step(&random) % 8) * PG;
            const tide_status status =
                tide_virtual_alloc(race->space, &address, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            CREW_CHECK(member, status == TIDE_SUCCESS || status == TIDE_COMMITMENT_LIMIT);
            if (status != TIDE_SUCCESS) {
                atomic_fetch_add(&race->refusals, 1);
                continue;
            }
            pages[i] = bytes / PG;
            atomic_fetch_add(&race->successes, 1);
            const uint64_t held = atomic_fetch_add(&race->held, pages[i]) + pages[i];
            CREW_CHECK(member, held <= race->limit);
            uint64_t most = atomic_load(&race->most);
            while (held > most && !atomic_compare_exchange_weak(&race->most, &most, held))
                ;
        }
        for (unsigned i = 0; i < RACE_CHUNKS; i++) {
            if (pages[i] == 0)
                continue;
            atomic_fetch_sub(&race->held, pages[i]);
            CREW_CHECK(member, tide_virtual_free(race->space, base + i * (tide_address)8 * PG, pages[i] * PG,
                                                 TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
        }
    }
}

/* 64 threads want far more than there is: never more than the limit, and nothing is lost on the way. */
static void CC_6_racing_commits_respect_the_limit(void **state)
{
    struct fixture *fixture = *state;
    static struct race race;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    memset(&race, 0, sizeof(race));
    race.space = space_new(fixture);
    race.limit = fixture->at_open.commit_limit_pages;
    uint64_t bytes = (uint64_t)RACERS * RACE_CHUNKS * 8 * PG;
    assert_success(tide_virtual_alloc(race.space, &race.base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    /* Another space holds all but SPARE pages: less than one racer wants, so the limit is met even by one at a time. */
    tide_address other;
    tide_space *holder = space_new(fixture);
    const uint64_t all = commit_all(fixture, holder, &other);
    region_decommit(holder, other, SPARE);
    const uint64_t start = statistics_now(fixture).commit_total_pages;
    const uint64_t spare = race.limit - start;
    assert_between(spare, SPARE, SPARE + 4); /* perhaps with a table */
    race.limit = spare;

    crew_run(RACERS, commit_racer, &race);

    assert_true(atomic_load(&race.successes) > 0);
    assert_true(atomic_load(&race.refusals) > 0);
    assert_true(atomic_load(&race.most) <= spare);
    tide_statistics now = statistics_now(fixture);
    assert_true(now.commit_peak_pages <= now.commit_limit_pages);
    assert_int_equal(space_now(race.space).private_pages, 0);
    space_close(fixture, race.space);
    now = statistics_now(fixture);
    assert_between(now.commit_total_pages, 0, start);
    assert_int_equal(space_now(holder).private_pages, all - SPARE);

    /* Exact: with nothing lost, the spare pages fit again, and with all gone the charge is what it was at open. */
    tide_address again = other;
    bytes = SPARE * PG;
    assert_success(tide_virtual_alloc(holder, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    fixture_close(fixture);
}

static const struct CMUnitTest commit_charge[] = {
    API_TEST(CC_1_commit_fails_at_memory_plus_page_files),
    API_TEST(CC_5_all_committed_memory_can_be_touched),
    API_TEST(CC_5_all_committed_memory_can_be_touched_with_worker_threads),
    API_TEST(CC_6_racing_commits_respect_the_limit),
};

API_MAIN(commit_charge)

/*
 * Acceptance cases of the commit charge (nt-behaviour 16: CC-1, CC-2, CC-5, CC-6): the limit is memory and page files,
 * which grow when it is met and shrink when they are not needed; commit is the one moment that fails, and what was
 * charged comes back to the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

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

/* ---- CC-2 ------------------------------------------------------------------------------------------------------- */

static tide_address reserve(tide_space *space, uint64_t pages)
{
    tide_address base = 0;
    uint64_t bytes = pages * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    return base;
}

static tide_status commit(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t bytes = pages * PG;
    return tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
}

static uint64_t extender_step(struct fixture *fixture)
{
    uint64_t done = 0;
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_EXTENDER, 0, 0, &done));
    return done;
}

/* What the file has on disk is what the engine says that it has. */
static void assert_file_bytes(const struct fixture *fixture, unsigned index)
{
    struct stat status;
    assert_int_equal(stat(fixture->paths[index], &status), 0);
    assert_int_equal(status.st_size, (page_file_now(fixture, index).total_slots + 1) * PG);
    assert_true((uint64_t)status.st_blocks * 512 >= (uint64_t)status.st_size); /* really allocated */
}

static void CC_2_a_commit_that_does_not_fit_makes_the_page_file_grow(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file_growing(fixture, SLOTS, 3 * SLOTS);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    assert_int_equal(fixture->at_open.commit_limit_maximum_pages, limit + 2 * SLOTS);
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    assert_success(commit(space, base, 1900));
    assert_int_equal(statistics_now(fixture).commit_limit_pages, limit);
    assert_int_equal(statistics_now(fixture).page_file_extensions, 0);
    assert_file_bytes(fixture, 0);

    assert_success(commit(space, base + 1900 * PG, 200)); /* the call that fails in CC-1 */
    tide_statistics now = statistics_now(fixture);
    assert_true(now.commit_limit_pages > limit);
    assert_true(now.commit_total_pages <= now.commit_limit_pages);
    assert_int_equal(now.page_file_extensions, 1);
    assert_int_equal(now.commit_limit_pages - limit, page_file_now(fixture, 0).total_slots - SLOTS);
    assert_int_equal(now.page_file_total_slots, page_file_now(fixture, 0).total_slots);
    assert_int_equal(now.commit_limit_maximum_pages, limit + 2 * SLOTS);
    assert_file_bytes(fixture, 0);
    fixture_verify(fixture);

    /* One that needs far more than a step. */
    assert_success(commit(space, base + 2100 * PG, 1500));
    now = statistics_now(fixture);
    assert_true(now.commit_total_pages <= now.commit_limit_pages);
    assert_int_equal(now.page_file_extensions, 2);
    assert_file_bytes(fixture, 0);
    /* The new slots are real: all that was committed can be used. */
    stamp_pages(space, base, 3600, 1, 1);
    check_pages(space, base, 3600, 1, 1);
    assert_true(page_file_now(fixture, 0).peak_used_slots > SLOTS);
    fixture_close(fixture);
}

static void CC_2_growth_ends_at_the_maximum(void **state)
{
    struct fixture *fixture = *state;
    char limit_text[32], maximum_text[32], charge_text[32];
    fixture_page_file_growing(fixture, 100, 500);
    fixture_page_file(fixture, 100); /* cannot grow */
    fixture_page_file_growing(fixture, 50, 250);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages, maximum = fixture->at_open.commit_limit_maximum_pages;
    assert_int_equal(maximum - limit, 400 + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    assert_success(commit(space, base, limit - 20));

    /* Not even the maximum would do: nothing grows in vain, and the error names the charge and both limits. */
    const tide_statistics before = statistics_now(fixture);
    assert_status(commit(space, base + limit * PG, 700), TIDE_COMMITMENT_LIMIT);
    snprintf(charge_text, sizeof(charge_text), "%lu are charged", before.commit_total_pages);
    snprintf(limit_text, sizeof(limit_text), "limit is %lu pages", limit);
    snprintf(maximum_text, sizeof(maximum_text), "%lu with all page files", maximum);
    assert_non_null(strstr(tide_last_error()->message, charge_text));
    assert_non_null(strstr(tide_last_error()->message, limit_text));
    assert_non_null(strstr(tide_last_error()->message, maximum_text));
    assert_int_equal(statistics_now(fixture).commit_limit_pages, limit);
    assert_int_equal(statistics_now(fixture).commit_total_pages, before.commit_total_pages);
    assert_int_equal(statistics_now(fixture).page_file_extensions, 0);

    /* Page by page up to the maximum; one more than that is refused. */
    uint64_t pages = limit - 20;
    while (commit(space, base + pages * PG, 1) == TIDE_SUCCESS) {
        pages++;
        const tide_statistics now = statistics_now(fixture);
        assert_true(now.commit_total_pages <= now.commit_limit_pages && now.commit_limit_pages <= maximum);
    }
    assert_status(commit(space, base + pages * PG, 1), TIDE_COMMITMENT_LIMIT);
    const tide_statistics after = statistics_now(fixture);
    assert_between(after.commit_total_pages, maximum - 1, maximum); /* a page and its table may not fit together */
    assert_int_equal(after.commit_limit_pages, maximum);
    assert_int_equal(after.page_file_extension_failures, 0);
    assert_int_equal(page_file_now(fixture, 0).total_slots, 500);
    assert_int_equal(page_file_now(fixture, 1).total_slots, 100);
    assert_int_equal(page_file_now(fixture, 2).total_slots, 250);
    for (unsigned i = 0; i < 3; i++)
        assert_file_bytes(fixture, i);
    /* Nothing to grow: no space can be made either, and none is left half made. */
    tide_space *other = NULL;
    region_decommit(space, base + (pages - 1) * PG, 1);
    while (commit(space, base + (pages - 1) * PG, 1) == TIDE_SUCCESS)
        pages++;
    const tide_status status = tide_space_create(fixture->engine, &other);
    if (status == TIDE_SUCCESS)
        assert_success(tide_space_destroy(other));
    else
        assert_status(status, TIDE_COMMITMENT_LIMIT);
    fixture_close(fixture);
}

/* At 90 % of the limit the extender grows a file, before anybody needs it. */
static void CC_2_the_page_file_grows_at_90_percent(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file_growing(fixture, SLOTS, 3 * SLOTS);
    fixture->config.page_file_growth_pages = 100;
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    uint64_t pages = 0;
    for (;;) { /* just below: nothing to do */
        const uint64_t total = statistics_now(fixture).commit_total_pages;
        if (total + 2 >= limit * 9 / 10)
            break;
        assert_success(commit(space, base + pages * PG, 1));
        pages++;
        assert_int_equal(pages % 100 == 0 ? extender_step(fixture) : 0, 0);
    }
    assert_int_equal(extender_step(fixture), 0);
    assert_int_equal(statistics_now(fixture).commit_limit_pages, limit);
    assert_success(commit(space, base + pages * PG, 3));
    assert_int_equal(extender_step(fixture), 100);
    assert_int_equal(statistics_now(fixture).commit_limit_pages, limit + 100);
    assert_int_equal(extender_step(fixture), 0); /* below 90 % again */
    assert_file_bytes(fixture, 0);
    fixture_close(fixture);
}

/* The same by the extender's thread, woken by the commits. */
static void CC_2_the_extender_thread_grows_the_page_file(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file_growing(fixture, SLOTS, 3 * SLOTS);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    for (uint64_t page = 0; page < limit * 95 / 100; page++)
        assert_success(commit(space, base + page * PG, 1));
    while (statistics_now(fixture).commit_limit_pages == limit)
        sleep_ms(1);
    const tide_statistics now = statistics_now(fixture);
    assert_true(now.page_file_extensions >= 1 && now.extender_cpu_ns > 0);
    fixture_close(fixture);
}

/* No room on the disk: what can be had is had, the rest is refused, and when there is room again it is used. */
static void CC_2_a_full_disk_refuses_and_recovers(void **state)
{
    struct fixture *fixture = *state;
    struct rlimit before, full;
    fixture_page_file_growing(fixture, SLOTS, 3 * SLOTS);
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    assert_success(commit(space, base, limit - 50));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    full = before;
    full.rlim_cur = (SLOTS + 1 + 300) * PG; /* 300 pages more than it has */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &full), 0);

    const tide_statistics start = statistics_now(fixture);
    assert_status(commit(space, base + limit * PG, 800), TIDE_COMMITMENT_LIMIT);
    tide_statistics now = statistics_now(fixture);
    assert_true(now.page_file_extension_failures >= 1);
    assert_int_equal(now.commit_total_pages, start.commit_total_pages);
    assert_true(now.commit_limit_pages <= limit + 300);
    assert_file_bytes(fixture, 0);
    fixture_verify(fixture);
    assert_success(commit(space, base + limit * PG, 200)); /* this much there is */
    now = statistics_now(fixture);
    assert_true(now.commit_total_pages <= now.commit_limit_pages);
    const uint64_t committed = now.commit_limit_pages - now.commit_total_pages;
    if (committed >
        4) /* the tables: two leaves, and one of each level above where the base makes them cross its bounds */
        assert_success(commit(space, base + 4000 * PG, committed - 4));

    /* In the background it is tried again after a while only, which doubles. */
    uint64_t failures = statistics_now(fixture).page_file_extension_failures;
    assert_success(tide_clock_advance(fixture->engine, 100000));
    while (extender_step(fixture) != 0) /* the last pages that the disk has */
        continue;
    failures = statistics_now(fixture).page_file_extension_failures;
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(extender_step(fixture), 0);
    assert_int_equal(statistics_now(fixture).page_file_extension_failures, failures);
    assert_success(tide_clock_advance(fixture->engine, 100000));
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(extender_step(fixture), 0);
    assert_int_equal(statistics_now(fixture).page_file_extension_failures, failures + 1);

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_success(commit(space, base + 6000 * PG, 800)); /* who is in need does not wait for the while to pass */
    stamp_pages(space, base + 6000 * PG, 800, 1, 1);
    check_pages(space, base + 6000 * PG, 800, 1, 1);
    assert_file_bytes(fixture, 0);
    fixture_close(fixture);
}

/* ---- shrinking -------------------------------------------------------------------------------------------------- */

static void CC_2_what_is_not_needed_is_given_back(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file_growing(fixture, SLOTS, 3 * SLOTS);
    fixture->config.page_file_shrink_delay_ms = 5000;
    fixture_open(fixture, FRAMES);
    const uint64_t limit = fixture->at_open.commit_limit_pages;
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 8000);
    assert_success(commit(space, base, 3200));
    const uint64_t grown = statistics_now(fixture).commit_limit_pages;
    assert_true(grown > limit + 1000);
    /* Just after growing it is at rest, however long: well used is not low. */
    while (extender_step(fixture) != 0)
        continue;
    const uint64_t at_rest = statistics_now(fixture).commit_limit_pages;
    for (unsigned i = 0; i < 10; i++) {
        assert_success(tide_clock_advance(fixture->engine, 5000));
        assert_int_equal(extender_step(fixture), 0);
    }
    assert_int_equal(statistics_now(fixture).commit_limit_pages, at_rest);

    /* The charge falls: after the delay, not before, the limit comes down to where the charge is 75 % of it. */
    region_decommit(space, base + 2000 * PG, 1200);
    assert_int_equal(extender_step(fixture), 0);
    assert_success(tide_clock_advance(fixture->engine, 4999));
    assert_int_equal(extender_step(fixture), 0);
    assert_success(tide_clock_advance(fixture->engine, 1));
    const uint64_t cut = extender_step(fixture);
    tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.commit_limit_pages, at_rest - cut);
    assert_between(now.commit_limit_pages, now.commit_total_pages * 4 / 3, now.commit_total_pages * 4 / 3 + 2);
    assert_int_equal(now.page_file_shrinks, 1);
    assert_file_bytes(fixture, 0);
    fixture_verify(fixture);
    for (unsigned i = 0; i < 10; i++) { /* and there it stays */
        assert_success(tide_clock_advance(fixture->engine, 5000));
        assert_int_equal(extender_step(fixture), 0);
    }
    assert_int_equal(now.page_file_extensions, statistics_now(fixture).page_file_extensions);

    /* A short fall is no reason. */
    region_decommit(space, base, 1000);
    assert_int_equal(extender_step(fixture), 0);
    assert_success(tide_clock_advance(fixture->engine, 3000));
    assert_success(commit(space, base, 1000));
    assert_int_equal(extender_step(fixture), 0);
    region_decommit(space, base, 1000);
    assert_success(tide_clock_advance(fixture->engine, 3000));
    assert_int_equal(extender_step(fixture), 0);

    /* Down to the minimum, and not below. */
    region_decommit(space, base + 1000 * PG, 1000);
    assert_success(tide_clock_advance(fixture->engine, 5000));
    assert_true(extender_step(fixture) != 0);
    now = statistics_now(fixture);
    assert_int_equal(now.commit_limit_pages, limit);
    assert_int_equal(page_file_now(fixture, 0).total_slots, SLOTS);
    assert_file_bytes(fixture, 0);
    assert_success(tide_clock_advance(fixture->engine, 100000));
    assert_int_equal(extender_step(fixture), 0);
    fixture_close(fixture);
}

/* Slots in use keep the end of the file; only what lies behind them goes. Bad ones go with it, and come back good. */
static void CC_2_used_slots_stay(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file_growing(fixture, 100, 3000);
    fixture->config.page_file_shrink_delay_ms = 1;
    fixture_open(fixture, 300);
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 4000);
    assert_success(commit(space, base, 2000));
    device_wear(&fixture->device, TIDE_IO_WRITE, EIO, 60, 3, 2);
    stamp_pages(space, base, 2000, 1, 1);
    trim_all(space);
    assert_between(page_file_now(fixture, 0).bad_slots, 1, 2);
    device_wear(&fixture->device, TIDE_IO_WRITE, 0, 0, 0, 0);
    write_modified(fixture);
    empty_standby(fixture);
    uint64_t highest = 0, last = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        const tide_page_info info = page_now(space, base + i * PG);
        if (info.slot > highest) {
            highest = info.slot;
            last = i;
        }
    }
    for (uint64_t i = 0; i < 2000; i++)
        if (i != last)
            region_decommit(space, base + i * PG, 1);
    for (unsigned i = 0; i < 20; i++) {
        (void)extender_step(fixture);
        assert_success(tide_clock_advance(fixture->engine, 10));
    }
    assert_int_equal(page_file_now(fixture, 0).total_slots, highest);
    assert_file_bytes(fixture, 0);
    fixture_verify(fixture);
    assert_success(stamp_check(space, base + last * PG, 1, 1));
    region_decommit(space, base + last * PG, 1);
    for (unsigned i = 0; i < 20; i++) {
        (void)extender_step(fixture);
        assert_success(tide_clock_advance(fixture->engine, 10));
    }
    assert_int_equal(page_file_now(fixture, 0).total_slots, 100);
    assert_int_equal(page_file_now(fixture, 0).bad_slots, 0);
    assert_int_equal(statistics_now(fixture).commit_limit_pages, fixture->at_open.commit_limit_pages);
    assert_int_equal(statistics_now(fixture).commit_limit_maximum_pages, fixture->at_open.commit_limit_maximum_pages);
    fixture_close(fixture);
}

/* ---- CC-5, CC-6 ------------------------------------------------------------------------------------------------- */

/* Commits until not one page more fits; returns the pages. The region is reserved for more than the limit. */
static uint64_t commit_all(struct fixture *fixture, tide_space *space, tide_address *base)
{
    const uint64_t limit = fixture->at_open.commit_limit_maximum_pages;
    uint64_t bytes = 2 * limit * PG;
    uint64_t pages = 0;
    *base = space_at(space, TIDE_LOWEST_ADDRESS);
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
static void all_committed_memory_can_be_touched(struct fixture *fixture, uint64_t least_slots)
{
    fixture_page_file_growing(fixture, least_slots, SLOTS);
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
    all_committed_memory_can_be_touched(*state, SLOTS);
}

static void CC_5_all_committed_memory_can_be_touched_with_a_growing_page_file(void **state)
{
    all_committed_memory_can_be_touched(*state, 100);
}

static void CC_5_all_committed_memory_can_be_touched_with_worker_threads(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    all_committed_memory_can_be_touched(fixture, SLOTS / 2);
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

struct swing {
    tide_space *space;
    tide_address base;
    uint64_t pages;
    unsigned times;
};

/* Member 0 lets the charge swing from low to nearly all there can be; the others race. */
static void swing_or_race(struct crew_member *member)
{
    struct swing *swing = ((void **)member->context)[0];
    if (member->index != 0) {
        struct crew_member racer = *member;
        racer.index--;
        racer.context = ((void **)member->context)[1];
        commit_racer(&racer);
        memcpy(member->failure, racer.failure, sizeof(racer.failure));
        return;
    }
    for (unsigned i = 0; i < 150; i++) {
        const uint64_t pages = i % 2 == 0 ? swing->pages : swing->pages / 2;
        const tide_status status = commit(swing->space, swing->base, pages);
        CREW_CHECK(member, status == TIDE_SUCCESS || status == TIDE_COMMITMENT_LIMIT);
        sleep_ms(1);
        if (status != TIDE_SUCCESS)
            continue;
        swing->times++;
        CREW_CHECK(member, tide_virtual_free(swing->space, swing->base, pages * PG, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
        sleep_ms(1);
    }
}

/*
 * The same where the limit moves all the time: files grow for those who are refused, and for 90 %, and shrink as soon
 * as they can.
 */
static void CC_6_racing_commits_respect_a_limit_that_moves(void **state)
{
    struct fixture *fixture = *state;
    static struct race race;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.page_file_growth_pages = 64;
    fixture->config.page_file_shrink_delay_ms = 1;
    fixture_page_file_growing(fixture, 100, 300);
    fixture_page_file_growing(fixture, 50, 150);
    fixture_open(fixture, FRAMES);
    memset(&race, 0, sizeof(race));
    race.space = space_new(fixture);
    uint64_t bytes = (uint64_t)RACERS * RACE_CHUNKS * 8 * PG;
    assert_success(tide_virtual_alloc(race.space, &race.base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    struct swing swing = { .space = space_new(fixture) };
    void *both[2] = { &swing, &race };
    swing.base = reserve(swing.space, 2000);
    race.limit = fixture->at_open.commit_limit_maximum_pages - statistics_now(fixture).commit_total_pages;
    swing.pages = race.limit - SPARE; /* less is left than one racer wants */
    /* The racers may all be done before the first swing is high: then once more. */
    for (unsigned round = 0; round < 3 || (round < 60 && atomic_load(&race.refusals) == 0); round++) {
        crew_run(1 + RACERS, swing_or_race, both);
        fixture_verify(fixture);
    }
    print_message("%u swings, %lu commits of racers, %lu refused\n", swing.times, atomic_load(&race.successes),
                  atomic_load(&race.refusals));
    assert_success(commit(swing.space, swing.base, swing.pages)); /* alone, the largest swing of all fits */
    region_decommit(swing.space, swing.base, swing.pages);
    assert_true(atomic_load(&race.successes) > 0);
    assert_true(atomic_load(&race.refusals) > 0);
    const tide_statistics now = statistics_now(fixture);
    assert_true(now.page_file_extensions > 0);
    assert_int_equal(now.page_file_extension_failures, 0);
    assert_true(now.commit_peak_pages <= now.commit_limit_maximum_pages);
    /* At rest, everything that was grown goes again. */
    space_close(fixture, race.space);
    space_close(fixture, swing.space);
    assert_true(swing.times > 0 || atomic_load(&race.refusals) > 0);
    while (statistics_now(fixture).commit_limit_pages != fixture->at_open.commit_limit_pages)
        sleep_ms(1);
    fixture_close(fixture);
}

/* ---- page tables ------------------------------------------------------------------------------------------------ */

enum { FEW_FRAMES = 64, PAGES_OF_TABLE = 512 };

/*
 * Page tables are never written out: what those in half of the frames can map is the most that can be committed,
 * whatever the page files hold. So each page of it can be touched.
 */
static void tables_bound_what_is_committed(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t most = FEW_FRAMES / 2 * PAGES_OF_TABLE;
    fixture_page_file_growing(fixture, 100, most * 2);
    fixture_open(fixture, FEW_FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = reserve(space, 2 * most);
    const uint64_t before = statistics_now(fixture).commit_total_pages;
    assert_status(commit(space, base, most + 1), TIDE_COMMITMENT_LIMIT);
    assert_non_null(strstr(tide_last_error()->message, "16385"));
    assert_non_null(strstr(tide_last_error()->message, "page tables"));
    tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.page_file_extensions, 0); /* no disk is filled in vain */
    assert_int_equal(now.commit_total_pages, before);
    assert_int_equal(space_now(space).private_pages, 0);
    assert_int_equal(space_now(space).peak_private_pages, 0);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);

    const uint64_t fits = most - 600; /* what is charged counts too: tables, and what the CPUs have taken ahead */
    assert_success(commit(space, base, fits));
    assert_true(statistics_now(fixture).page_file_extensions > 0);
    for (unsigned turn = 0; turn < 2; turn++)
        for (uint64_t page = 0; page < fits; page += PAGES_OF_TABLE)
            assert_success(turn == 0 ? stamp_put(space, base + page * PG, 1, page)
                                     : stamp_check(space, base + page * PG, 1, page));
    fixture_close(fixture);
}

/*
 * Where regions lie far apart they need a table each, and may fill the budget with them. A touch says so then, and
 * works again once regions are released.
 */
static void tables_that_fill_the_budget_are_told(void **state)
{
    struct fixture *fixture = *state;
    enum { MOST = 2 * FEW_FRAMES };
    tide_address pages[MOST];
    unsigned count = 0;
    fixture->config.frame_wait_ms = 200;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, FEW_FRAMES);
    tide_space *space = space_new(fixture);
    tide_status status = TIDE_SUCCESS;
    while (!tide_failed(status) && count < MOST) {
        pages[count] = region_new_at(space, (0x100000ull + count * (uint64_t)PAGES_OF_TABLE) * PG, 1);
        status = tide_touch(space, pages[count++], TIDE_ACCESS_WRITE);
    }
    assert_status(status, TIDE_NO_MEMORY);
    assert_int_equal(tide_last_error()->address, 0);
    assert_non_null(strstr(tide_last_error()->message, "page tables"));
    assert_between(count, FEW_FRAMES / 2, FEW_FRAMES);
    fixture_verify(fixture);
    for (unsigned i = 0; i + 1 < count; i += 2)
        assert_success(tide_virtual_free(space, pages[i], 0, TIDE_MEM_RELEASE));
    assert_success(stamp_put(space, pages[count - 1], 1, 1));
    assert_success(stamp_check(space, pages[count - 1], 1, 1));
    fixture_close(fixture);
}

static const struct CMUnitTest commit_charge[] = {
    API_TEST(CC_1_commit_fails_at_memory_plus_page_files),
    API_TEST(CC_2_a_commit_that_does_not_fit_makes_the_page_file_grow),
    API_TEST(CC_2_growth_ends_at_the_maximum),
    API_TEST(CC_2_the_page_file_grows_at_90_percent),
    API_TEST(CC_2_the_extender_thread_grows_the_page_file),
    API_TEST(CC_2_a_full_disk_refuses_and_recovers),
    API_TEST(CC_2_what_is_not_needed_is_given_back),
    API_TEST(CC_2_used_slots_stay),
    API_TEST(CC_5_all_committed_memory_can_be_touched),
    API_TEST(CC_5_all_committed_memory_can_be_touched_with_a_growing_page_file),
    API_TEST(CC_5_all_committed_memory_can_be_touched_with_worker_threads),
    API_TEST(CC_6_racing_commits_respect_the_limit),
    API_TEST(CC_6_racing_commits_respect_a_limit_that_moves),
    API_TEST(tables_bound_what_is_committed),
    API_TEST(tables_that_fill_the_budget_are_told),
};

API_MAIN(commit_charge)

/*
 * Each class of fault with eight threads in one shared space: every page is resolved once, whoever comes first, and
 * holds what belongs there. The counters are exact where no memory is short; under pressure the stamps are.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

enum { THREADS = 8, PAGES = 4000, ROUNDS = 3 };

enum phase { DEMAND_ZERO, SOFT, HARD };

struct shared {
    tide_space *space;
    tide_address base;
    enum phase phase;
    atomic_ulong by_class[3]; /* statuses of touches: demand zero, soft, hard */
};

/* All threads touch all pages, each from another place on, so that they meet everywhere. */
static void touch_all(struct crew_member *member)
{
    struct shared *shared = member->context;
    for (uint64_t i = 0; i < PAGES; i++) {
        const tide_address page = shared->base + (i + member->index * 3) % PAGES * PG;
        const tide_status status = tide_touch(shared->space, page, TIDE_ACCESS_READ);
        CREW_CHECK(member, !tide_failed(status));
        if (status == TIDE_PAGE_FAULT_DEMAND_ZERO)
            atomic_fetch_add(&shared->by_class[DEMAND_ZERO], 1);
        else if (status == TIDE_PAGE_FAULT_TRANSITION)
            atomic_fetch_add(&shared->by_class[SOFT], 1);
        else if (status == TIDE_PAGE_FAULT_PAGING_FILE)
            atomic_fetch_add(&shared->by_class[HARD], 1);
        if (shared->phase == DEMAND_ZERO) {
            uint64_t word = 1;
            CREW_CHECK(member, tide_read(shared->space, page + 8 * (i % 512), &word, sizeof(word)) == TIDE_SUCCESS);
            CREW_CHECK(member, word == 0);
        } else {
            CREW_CHECK(member, stamp_check(shared->space, page, 1, 1) == TIDE_SUCCESS);
        }
    }
}

/* More frames than pages, the workers held: nothing but the faults moves pages. */
static struct shared *shared_open(struct fixture *fixture)
{
    static struct shared shared;
    memset(&shared, 0, sizeof(shared));
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, PAGES + 1000);
    for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
        assert_success(tide_worker_hold(fixture->engine, (tide_worker)worker, true));
    shared.space = space_new(fixture);
    shared.base = region_new(shared.space, PAGES);
    return &shared;
}

static void eight_threads_share_demand_zero_faults(void **state)
{
    struct fixture *fixture = *state;
    struct shared *shared = shared_open(fixture);
    const tide_statistics before = statistics_now(fixture);
    crew_run(THREADS, touch_all, shared);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.faults.demand_zero - before.faults.demand_zero, PAGES);
    assert_int_equal(after.faults.transition + after.faults.hard, 0);
    assert_between(atomic_load(&shared->by_class[DEMAND_ZERO]), 1, PAGES); /* tide_read() may be first */
    assert_int_equal(space_now(shared->space).working_set_pages, PAGES);
    assert_true(after.faults.page_faults - before.faults.page_faults >= PAGES);
    fixture_close(fixture);
}

static void eight_threads_share_soft_faults(void **state)
{
    struct fixture *fixture = *state;
    struct shared *shared = shared_open(fixture);
    shared->phase = SOFT;
    stamp_pages(shared->space, shared->base, PAGES, 1, 1);
    for (unsigned round = 0; round < 2 * ROUNDS; round++) {
        const bool standby = round % 2 == 1;
        trim_all(shared->space);
        if (standby)
            write_modified(fixture);
        const tide_statistics before = statistics_now(fixture);
        crew_run(THREADS, touch_all, shared);
        const tide_statistics after = statistics_now(fixture);
        assert_int_equal(after.faults.transition - before.faults.transition, PAGES);
        assert_int_equal(after.faults.transition_standby - before.faults.transition_standby, standby ? PAGES : 0);
        assert_int_equal(after.faults.transition_modified - before.faults.transition_modified, standby ? 0 : PAGES);
        assert_int_equal(after.pages_input, 0);
        assert_int_equal(space_now(shared->space).working_set_pages, PAGES);
        stamp_pages(shared->space, shared->base, PAGES, 1, 1); /* dirty again */
    }
    fixture_close(fixture);
}

static void eight_threads_share_hard_faults(void **state)
{
    struct fixture *fixture = *state;
    struct shared *shared = shared_open(fixture);
    shared->phase = HARD;
    stamp_pages(shared->space, shared->base, PAGES, 1, 1);
    for (unsigned round = 0; round < ROUNDS; round++) {
        page_out(fixture, shared->space);
        assert_int_equal(pages_in_state(shared->space, shared->base, PAGES, TIDE_PAGE_STATE_PAGE_FILE), PAGES);
        const tide_statistics before = statistics_now(fixture);
        crew_run(THREADS, touch_all, shared);
        const tide_statistics after = statistics_now(fixture);
        assert_int_equal(after.pages_input - before.pages_input, PAGES); /* no page is read twice */
        assert_int_equal(after.faults.hard + after.faults.transition - before.faults.hard - before.faults.transition,
                         PAGES);
        assert_int_equal(after.page_reads - before.page_reads, after.faults.hard - before.faults.hard);
        assert_int_equal(space_now(shared->space).working_set_pages, PAGES);
    }
    fixture_close(fixture);
}

enum { CROWDED_FRAMES = 700, CROWDED_PAGES = 250, CROWDED_OPERATIONS = 8000 };

/* Own pages in a space that all share, three times as many as there are frames, workers running. */
static void rewrite_own(struct crew_member *member)
{
    struct shared *shared = member->context;
    uint64_t versions[CROWDED_PAGES] = { 0 };
    uint64_t random = member->index;
    for (unsigned i = 0; i < CROWDED_OPERATIONS; i++) {
        const uint64_t page = random_step(&random) % CROWDED_PAGES;
        /* interleaved, so that neighbours in a cluster belong to different threads */
        const tide_address address = shared->base + (page * THREADS + member->index) * PG;
        if (versions[page] != 0)
            CREW_CHECK(member, stamp_check(shared->space, address, member->index, versions[page]) == TIDE_SUCCESS);
        if (versions[page] == 0 || random_step(&random) % 2 == 0)
            CREW_CHECK(member, stamp_put(shared->space, address, member->index, ++versions[page]) == TIDE_SUCCESS);
    }
    for (uint64_t page = 0; page < CROWDED_PAGES; page++) {
        const tide_address address = shared->base + (page * THREADS + member->index) * PG;
        if (versions[page] != 0)
            CREW_CHECK(member, stamp_check(shared->space, address, member->index, versions[page]) == TIDE_SUCCESS);
    }
}

static void eight_threads_keep_their_data_under_pressure(void **state)
{
    struct fixture *fixture = *state;
    static struct shared shared;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0; /* the defaults */
    fixture->config.list_shards = 0;
    fixture_page_file(fixture, 2 * THREADS * CROWDED_PAGES);
    fixture_open(fixture, CROWDED_FRAMES);
    memset(&shared, 0, sizeof(shared));
    shared.space = space_new(fixture);
    shared.base = region_new(shared.space, THREADS * CROWDED_PAGES);
    crew_run(THREADS, rewrite_own, &shared);
    const tide_statistics after = statistics_now(fixture);
    assert_true(after.faults.hard > 0);
    assert_true(after.pages_output > 0);
    assert_int_equal(after.faults.in_page_errors, 0);
    fixture_close(fixture);
}

static const struct CMUnitTest concurrency[] = {
    API_TEST(eight_threads_share_demand_zero_faults),
    API_TEST(eight_threads_share_soft_faults),
    API_TEST(eight_threads_share_hard_faults),
    API_TEST(eight_threads_keep_their_data_under_pressure),
};

API_MAIN(concurrency)

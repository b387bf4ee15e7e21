/*
 * Regions that change under faults, made likely: before every atomic operation of the engine a thread may give up its
 * CPU (yields.c). What is cut, protected, watched or released is never what the faulting threads are promised to keep.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"
#include "engine/engine_impl.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { THREADS = 3, PAGES = 48, CUT = 16, ROUNDS = 600, PG = TIDE_PAGE_BYTES };

struct crew {
    tide_engine *engine;
    tide_space *space;
    tide_address base;
    uint32_t failed;         /* [A] */
    uint32_t stop;           /* [A] */
    uint32_t members;        /* [A] */
    uint64_t written[PAGES]; /* [A] what each page was last written with; 0 before */
};

static _Thread_local uint64_t yield_state;

static void yield_sometimes(const void *address)
{
    (void)address;
    if (yield_state != 0 && random_below(&yield_state, 16) == 0)
        sched_yield();
}

static void hook_set(bool on)
{
#ifdef TIDE_SYNC_POINTS
    sync_point_hook_set(on ? yield_sometimes : NULL);
#else
    (void)on;
    (void)yield_sometimes;
#endif
}

static void crew_fail(struct crew *crew, const char *what, tide_status status)
{
    if (sync_swap_32(&crew->failed, 1) == 0)
        fprintf(stderr, "%s: %s: %s\n", what, tide_status_name(status), tide_last_error()->message);
}

static void expect(struct crew *crew, tide_status got, tide_status expected, const char *what)
{
    if (got != expected)
        crew_fail(crew, what, got);
}

static tide_status allocate(struct crew *crew, uint64_t page, uint64_t pages, uint32_t type, uint32_t protection)
{
    tide_address base = crew->base + page * PG;
    uint64_t bytes = pages * PG;

    return tide_virtual_alloc(crew->space, &base, &bytes, type, protection);
}

static void crew_open(struct crew *crew, uint32_t type)
{
    tide_config config;
    uint64_t bytes = PAGES * PG;

    hook_set(true);
    *crew = (struct crew){ .base = 0x40000000 };
    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = 512 * PG;
    assert_int_equal(tide_engine_open(&config, &crew->engine), TIDE_SUCCESS);
    assert_int_equal(tide_space_create(crew->engine, &crew->space), TIDE_SUCCESS);
    if (type != 0)
        assert_int_equal(tide_virtual_alloc(crew->space, &crew->base, &bytes, type, TIDE_PAGE_READWRITE), TIDE_SUCCESS);
}

/* Runs `member` in threads while `change` runs ROUNDS times in this one; then all is verified and closed. */
static void crew_run(struct crew *crew, void *(*member)(void *), void (*change)(struct crew *crew, unsigned round),
                     void (*end)(struct crew *crew))
{
    pthread_t threads[THREADS];
    tide_verify_report report;

    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, member, crew), 0);
    yield_state = 4711;
    for (unsigned round = 0; round < ROUNDS && sync_load_32(&crew->failed) == 0; round++)
        change(crew, round);
    yield_state = 0;
    sync_store_32(&crew->stop, 1);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    if (end != NULL && crew->failed == 0)
        end(crew);
    assert_int_equal(crew->failed, 0);
    if (tide_engine_verify(crew->engine, &report) != TIDE_SUCCESS)
        fail_msg("%s", report.first);
    assert_int_equal(tide_space_destroy(crew->space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_close(crew->engine), TIDE_SUCCESS);
    hook_set(false);
}

static unsigned member_begin(struct crew *crew)
{
    const unsigned index = (unsigned)sync_add_32(&crew->members, 1);

    yield_state = random_mix(index + 99) | 1;
    return index;
}

/* A page of this member's own among those from `from` on. */
static uint64_t own_page(unsigned index, uint64_t *random, uint64_t from, uint64_t count)
{
    return from + index + THREADS * random_below(random, count / THREADS);
}

static void write_own(struct crew *crew, uint64_t page, uint64_t *version)
{
    uint64_t seen = 0, word = ++*version;

    expect(crew, tide_read(crew->space, crew->base + page * PG, &seen, sizeof seen), TIDE_SUCCESS, "read");
    if (seen != sync_load_64(&crew->written[page]))
        crew_fail(crew, "a page lost what was written", TIDE_SUCCESS);
    expect(crew, tide_write(crew->space, crew->base + page * PG, &word, sizeof word), TIDE_SUCCESS, "write");
    sync_store_64(&crew->written[page], word);
}

/* ---- splits ----------------------------------------------------------------------------------------------------- */

/* Writes in the parts that stay, and touches the part that comes and goes. */
static void *split_member(void *context)
{
    struct crew *crew = context;
    const unsigned index = member_begin(crew);
    uint64_t random = index, version = 0;

    while (sync_load_32(&crew->stop) == 0 && sync_load_32(&crew->failed) == 0) {
        write_own(crew, own_page(index, &random, random_below(&random, 2) ? 0 : 2 * CUT, CUT - 1), &version);
        const tide_status status =
            tide_touch(crew->space, crew->base + (CUT + random_below(&random, CUT)) * PG, TIDE_ACCESS_WRITE);
        if (tide_failed(status) && status != TIDE_ACCESS_VIOLATION)
            crew_fail(crew, "touch of the part that goes", status);
    }
    return NULL;
}

static void split_change(struct crew *crew, unsigned round)
{
    tide_address base = crew->base + CUT * PG;
    uint64_t bytes = CUT * PG, word = 0;

    expect(crew, tide_virtual_free_native(crew->space, &base, &bytes, TIDE_MEM_RELEASE), TIDE_SUCCESS, "split");
    /* Nothing of it is left: what is reserved there next begins with zeros. */
    expect(crew, allocate(crew, CUT, CUT, TIDE_MEM_RESERVE | (round % 2 ? TIDE_MEM_COMMIT : 0), TIDE_PAGE_READWRITE),
           TIDE_SUCCESS, "reserve in the gap");
    if (round % 2 == 0)
        expect(crew, allocate(crew, CUT, CUT / 2, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS, "commit");
    expect(crew, tide_read(crew->space, crew->base + CUT * PG, &word, sizeof word), TIDE_SUCCESS, "read of the new");
    if (word != 0)
        crew_fail(crew, "a new page holds an old one's content", TIDE_SUCCESS);
    word = round + 1;
    expect(crew, tide_write(crew->space, crew->base + CUT * PG, &word, sizeof word), TIDE_SUCCESS, "write of the new");
}

static void a_split_takes_nothing_that_stays(void **state)
{
    struct crew crew;

    (void)state;
    crew_open(&crew, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    crew_run(&crew, split_member, split_change, NULL);
}

/* ---- protection ------------------------------------------------------------------------------------------------- */

static void *protect_member(void *context)
{
    struct crew *crew = context;
    const unsigned index = member_begin(crew);
    uint64_t random = index, version = 0;

    while (sync_load_32(&crew->stop) == 0 && sync_load_32(&crew->failed) == 0) {
        const uint64_t page = own_page(index, &random, 0, PAGES), word = version + 1;
        const tide_address at = crew->base + page * PG;
        const tide_status status = tide_write(crew->space, at, &word, sizeof word);

        if (status == TIDE_SUCCESS)
            sync_store_64(&crew->written[page], version = word);
        else if (status != TIDE_ACCESS_VIOLATION)
            crew_fail(crew, "write", status);
        uint64_t seen = 0;
        const tide_status reading = tide_read(crew->space, at, &seen, sizeof seen);
        if (reading == TIDE_SUCCESS && seen != sync_load_64(&crew->written[page]))
            crew_fail(crew, "a page lost what was written", reading);
        if (tide_failed(reading) && reading != TIDE_ACCESS_VIOLATION)
            crew_fail(crew, "read", reading);
    }
    return NULL;
}

/* What this call forbids stays forbidden until the next: no fault from before brings a right back. */
static void protect_change(struct crew *crew, unsigned round)
{
    const bool whole = round % 3 == 0;
    const uint64_t first = whole ? 0 : round % 7, pages = whole ? PAGES : 20;
    uint32_t old;

    if (round % 50 == 49) { /* untouched pages again */
        expect(crew, tide_virtual_protect(crew->space, crew->base, PAGES * PG, TIDE_PAGE_NOACCESS, &old), TIDE_SUCCESS,
               "no access");
    }
    expect(crew, tide_virtual_protect(crew->space, crew->base + first * PG, pages * PG, TIDE_PAGE_READONLY, &old),
           TIDE_SUCCESS, "read only");
    for (uint64_t page = first; page < first + pages; page += 3) {
        expect(crew, tide_touch(crew->space, crew->base + page * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION,
               "write to a read-only page");
        tide_region region;
        expect(crew, tide_virtual_query(crew->space, crew->base + page * PG, &region), TIDE_SUCCESS, "query");
        if (region.protection != TIDE_PAGE_READONLY || region.state != TIDE_MEM_COMMIT)
            crew_fail(crew, "query of a read-only page", TIDE_SUCCESS);
    }
    expect(crew, tide_virtual_protect(crew->space, crew->base, PAGES * PG, TIDE_PAGE_READWRITE, &old), TIDE_SUCCESS,
           "read and write");
}

static void no_fault_brings_back_a_right_that_was_taken(void **state)
{
    struct crew crew;

    (void)state;
    crew_open(&crew, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    crew_run(&crew, protect_member, protect_change, NULL);
}

/* ---- write watch ------------------------------------------------------------------------------------------------ */

static uint64_t reported[PAGES]; /* what each page held when last reported */

static void *watch_member(void *context)
{
    struct crew *crew = context;
    const unsigned index = member_begin(crew);
    uint64_t random = index, version = 0;

    while (sync_load_32(&crew->stop) == 0 && sync_load_32(&crew->failed) == 0)
        write_own(crew, own_page(index, &random, 0, PAGES), &version);
    return NULL;
}

static void watch_change(struct crew *crew, unsigned round)
{
    tide_address pages[PAGES];
    uint64_t count = PAGES;

    expect(crew, tide_write_watch_get(crew->space, TIDE_WRITE_WATCH_RESET, crew->base, PAGES * PG, pages, &count, NULL),
           TIDE_SUCCESS, "reset");
    for (uint64_t i = 0; i < count; i++)
        expect(crew, tide_read(crew->space, pages[i], &reported[(pages[i] - crew->base) / PG], sizeof(uint64_t)),
               TIDE_SUCCESS, "read of a reported page");
    if (round % 8 == 0)
        (void)tide_working_set_empty(crew->space);
}

static void watch_end(struct crew *crew)
{
    watch_change(crew, 1);
    for (uint64_t page = 0; page < PAGES; page++)
        if (reported[page] != crew->written[page])
            crew_fail(crew, "a write was not reported", TIDE_SUCCESS);
}

static void a_reset_reports_every_write_once_at_least(void **state)
{
    struct crew crew;

    (void)state;
    memset(reported, 0, sizeof reported);
    crew_open(&crew, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH);
    crew_run(&crew, watch_member, watch_change, watch_end);
}

/* ---- query ------------------------------------------------------------------------------------------------------ */

enum { PHASE_FREE = 0, PHASE_RESERVED = 2, PHASE_COMMITTED = 4, PHASE_RESERVED_AGAIN = 6, PHASE_COUNT = 8 };

static uint64_t phase; /* [A] of the region that is queried; odd while it changes */

/* One reserves and releases neighbours, so that leaves are rewritten; the others query. */
static void *query_member(void *context)
{
    struct crew *crew = context;
    const unsigned index = member_begin(crew);
    uint64_t random = index;

    while (sync_load_32(&crew->stop) == 0 && sync_load_32(&crew->failed) == 0) {
        if (index == 0) {
            const tide_address at = crew->base + (1 + random_below(&random, 60)) * TIDE_ALLOCATION_GRANULARITY_BYTES;
            tide_address base = at;
            uint64_t bytes = (1 + random_below(&random, CUT)) * PG;

            if (tide_failed(tide_virtual_alloc(crew->space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READONLY)))
                expect(crew, tide_virtual_free(crew->space, at, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "neighbour");
            continue;
        }
        tide_region region;
        const uint64_t before = sync_load_64(&phase);
        expect(crew, tide_virtual_query(crew->space, crew->base, &region), TIDE_SUCCESS, "query");
        if (sync_load_64(&phase) != before || before % 2 != 0)
            continue;
        const uint64_t is = before % PHASE_COUNT;
        const uint32_t state = is == PHASE_FREE        ? TIDE_MEM_FREE
                               : is == PHASE_COMMITTED ? TIDE_MEM_COMMIT
                                                       : TIDE_MEM_RESERVE;
        if (region.state != state || (is != PHASE_FREE && region.bytes != (is == PHASE_COMMITTED ? 1 : CUT) * PG))
            crew_fail(crew, "a query told what was not", TIDE_SUCCESS);
    }
    return NULL;
}

static void query_change(struct crew *crew, unsigned round)
{
    (void)round;
    (void)sync_add_64(&phase, 1);
    expect(crew, allocate(crew, 0, CUT, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE), TIDE_SUCCESS, "reserve");
    (void)sync_add_64(&phase, 1);
    sched_yield();
    (void)sync_add_64(&phase, 1);
    expect(crew, allocate(crew, 0, 1, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), TIDE_SUCCESS, "first commit");
    (void)sync_add_64(&phase, 1);
    sched_yield();
    (void)sync_add_64(&phase, 1);
    expect(crew, tide_virtual_free(crew->space, crew->base, 0, TIDE_MEM_DECOMMIT), TIDE_SUCCESS, "decommit");
    (void)sync_add_64(&phase, 1);
    sched_yield();
    (void)sync_add_64(&phase, 1);
    expect(crew, tide_virtual_free(crew->space, crew->base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release");
    (void)sync_add_64(&phase, 1);
}

static void a_query_tells_what_is(void **state)
{
    struct crew crew;

    (void)state;
    phase = PHASE_FREE;
    crew_open(&crew, 0);
    crew_run(&crew, query_member, query_change, NULL);
}

/* ---- release ---------------------------------------------------------------------------------------------------- */

/* Commits, decommits and protects in a region that comes and goes; whatever it is told must be one of the answers. */
static void *release_member(void *context)
{
    struct crew *crew = context;
    uint64_t random = member_begin(crew);
    uint32_t old;

    while (sync_load_32(&crew->stop) == 0 && sync_load_32(&crew->failed) == 0) {
        const uint64_t page = random_below(&random, PAGES), pages = 1 + random_below(&random, PAGES - page);
        const tide_address at = crew->base + page * PG;
        tide_status status;

        switch (random_below(&random, 4)) {
        case 0:
            status = allocate(crew, page, pages, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            break;
        case 1:
            status = tide_virtual_free(crew->space, at, pages * PG, TIDE_MEM_DECOMMIT);
            break;
        case 2:
            status = tide_virtual_protect(crew->space, at, pages * PG, TIDE_PAGE_READWRITE, &old);
            break;
        default:
            status = tide_touch(crew->space, at, TIDE_ACCESS_WRITE);
        }
        if (tide_failed(status) && status != TIDE_CONFLICTING_ADDRESSES && status != TIDE_MEMORY_NOT_ALLOCATED &&
            status != TIDE_NOT_COMMITTED && status != TIDE_ACCESS_VIOLATION && status != TIDE_UNABLE_TO_FREE_VM)
            crew_fail(crew, "in a region that comes and goes", status);
    }
    return NULL;
}

static void release_change(struct crew *crew, unsigned round)
{
    tide_address base = crew->base + 8 * PG;
    uint64_t bytes = 8 * PG;

    expect(crew, allocate(crew, 0, PAGES, TIDE_MEM_RESERVE | (round % 2 ? TIDE_MEM_COMMIT : 0), TIDE_PAGE_READWRITE),
           TIDE_SUCCESS, "reserve");
    if (round % 3 == 0) {
        expect(crew, tide_virtual_free_native(crew->space, &base, &bytes, TIDE_MEM_RELEASE), TIDE_SUCCESS, "split");
        expect(crew, tide_virtual_free(crew->space, crew->base + 16 * PG, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS,
               "release of the upper part");
    }
    expect(crew, tide_virtual_free(crew->space, crew->base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release");
}

static void release_end(struct crew *crew)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };

    expect(crew, tide_space_statistics_get(crew->space, &statistics), TIDE_SUCCESS, "statistics");
    if (statistics.private_pages != 0 || statistics.virtual_bytes != 0)
        crew_fail(crew, "something is left charged", TIDE_SUCCESS);
}

static void a_release_ends_what_is_under_way(void **state)
{
    struct crew crew;

    (void)state;
    crew_open(&crew, 0);
    crew_run(&crew, release_member, release_change, release_end);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_split_takes_nothing_that_stays),
        cmocka_unit_test(no_fault_brings_back_a_right_that_was_taken),
        cmocka_unit_test(a_reset_reports_every_write_once_at_least),
        cmocka_unit_test(a_query_tells_what_is),
        cmocka_unit_test(a_release_ends_what_is_under_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Races made likely: before every atomic operation of the engine a thread may give up its CPU (sync_point_hook, in
 * builds with TIDE_SYNC_POINTS: debug and the sanitizers). Six threads fault, trim, write out, decommit and recommit,
 * reset, offer, lock, prefetch, pin and read a few pages of one space in an engine of few frames, so that every page is
 * fought over; each page carries a stamp of its address, which every reader checks, and the engine is verified at the
 * end of each round. In builds without the hook the same runs without injected yields.
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
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Mapped spaces take system calls, and ThreadSanitizer its time: what is enough there. */
#ifdef __SANITIZE_THREAD__
#define OF_MAPPED(times) ((times) / 4)
#else
#define OF_MAPPED(times) (times)
#endif

enum { FRAMES = 64, PAGES = 96, THREADS = 6, ROUNDS = 6, OPERATIONS = 4000, SLOTS = 256 };

struct crew {
    tide_engine *engine;
    tide_space *space;
    bool mapped;
    tide_address base;
    uint32_t failed; /* [A] */
    uint64_t seed;
};

static _Thread_local uint64_t yield_state;

static void yield_sometimes(const void *address)
{
    (void)address;
    if (yield_state != 0 && random_below(&yield_state, 24) == 0)
        sched_yield();
}

static void crew_fail(struct crew *crew, const char *what, tide_status status)
{
    if (sync_swap_32(&crew->failed, 1) == 0)
        fprintf(stderr, "%s: %s: %s\n", what, tide_status_name(status), tide_last_error()->message);
}

/* A page holds zeros, or its own address in every word that was ever written. */
static bool stamp_right(const uint64_t *words, tide_address page)
{
    return (words[0] == 0 || words[0] == page) && (words[511] == 0 || words[511] == page);
}

static void write_page(struct crew *crew, tide_address page)
{
    const uint64_t word = page;
    tide_status status = tide_write(crew->space, page, &word, sizeof word);

    if (status == TIDE_SUCCESS)
        status = tide_write(crew->space, page + 511 * sizeof word, &word, sizeof word);
    if (status != TIDE_SUCCESS && status != TIDE_ACCESS_VIOLATION)
        crew_fail(crew, "write", status);
}

static void read_page(struct crew *crew, tide_address page)
{
    uint64_t words[512];
    const tide_status status = tide_read(crew->space, page, words, sizeof words);

    if (status == TIDE_SUCCESS && !stamp_right(words, page))
        crew_fail(crew, "a page holds another page's stamp", status);
    if (status != TIDE_SUCCESS && status != TIDE_ACCESS_VIOLATION)
        crew_fail(crew, "read", status);
}

/* A pointer stays good for the section, whatever becomes of the page. */
static void hold_page(struct crew *crew, tide_address page)
{
    tide_access access;

    if (tide_access_begin(crew->space, &access) != TIDE_SUCCESS) {
        crew_fail(crew, "begin", TIDE_SUCCESS);
        return;
    }
    const uint64_t *words = tide_access_pointer(&access, page, TIDE_ACCESS_READ);
    for (unsigned i = 0; words != NULL && i < 20; i++) {
        const uint64_t first = sync_load_64(&words[0]), last = sync_load_64(&words[511]);
        if ((first != 0 && first != page) || (last != 0 && last != page))
            crew_fail(crew, "a frame was reused under an open section", TIDE_SUCCESS);
        sched_yield();
    }
    if (words == NULL && access.status != TIDE_ACCESS_VIOLATION)
        crew_fail(crew, "pointer", access.status);
    tide_access_end(&access);
}

/* What is told of a page fits together, whatever becomes of it meanwhile. */
static void query_page(struct crew *crew, tide_address page)
{
    tide_page_info info;
    const tide_status status = tide_page_query(crew->space, page, &info);

    if (status != TIDE_SUCCESS || info.valid != (info.state == TIDE_PAGE_STATE_ACTIVE) ||
        (info.valid && info.frame == UINT64_MAX))
        crew_fail(crew, "page query", status);
}

static void recommit(struct crew *crew, tide_address page, uint64_t pages)
{
    tide_address base = page;
    uint64_t bytes = pages * TIDE_PAGE_BYTES;
    tide_status status = tide_virtual_free(crew->space, page, bytes, TIDE_MEM_DECOMMIT);

    if (status == TIDE_SUCCESS)
        status = tide_virtual_alloc(crew->space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
    /* Another thread may have offered pages between the two. */
    if (status != TIDE_SUCCESS && status != TIDE_INVALID_PAGE_PROTECTION)
        crew_fail(crew, "recommit", status);
}

static void pin_page(struct crew *crew, tide_address page)
{
    tide_pin *pin;
    const tide_status status = tide_pin_create(crew->space, page, TIDE_PAGE_BYTES, TIDE_ACCESS_READ, &pin);

    if (status == TIDE_SUCCESS) {
        sched_yield();
        /* A pointer into a mapped space is one to its page, which may be decommitted, pinned or not. */
        if (!crew->mapped && !stamp_right(tide_pin_iovec(pin, NULL)[0].iov_base, page))
            crew_fail(crew, "a pinned frame holds another page's stamp", status);
        tide_pin_destroy(pin);
    } else if (status != TIDE_ACCESS_VIOLATION) {
        crew_fail(crew, "pin", status);
    }
}

/* Content that may be dropped, and back; locks. What the pages are meanwhile is the others' doing too. */
static void contents_change_some(struct crew *crew, tide_address page, uint64_t pages, uint64_t call)
{
    static const tide_status fine[] = { TIDE_SUCCESS,     TIDE_CONTENTS_LOST,           TIDE_NOT_COMMITTED,
                                        TIDE_DEVICE_BUSY, TIDE_INVALID_PAGE_PROTECTION, TIDE_INVALID_PARAMETER,
                                        TIDE_NOT_LOCKED,  TIDE_ACCESS_VIOLATION,        TIDE_WORKING_SET_QUOTA,
                                        TIDE_NO_MEMORY };
    const uint64_t bytes = pages * TIDE_PAGE_BYTES;
    const tide_memory_range range = { page, bytes };
    tide_status status;
    unsigned i = 0;

    switch (call) {
    case 0:
        status = tide_virtual_reset(crew->space, page, bytes);
        break;
    case 1:
        status = tide_virtual_reset_undo(crew->space, page, bytes);
        break;
    case 2:
        status = tide_virtual_offer(crew->space, page, bytes, 1 + (unsigned)(page / TIDE_PAGE_BYTES) % 4);
        break;
    case 3:
        status = tide_virtual_discard(crew->space, page, bytes);
        break;
    case 4:
        status = tide_virtual_lock(crew->space, page, bytes);
        break;
    case 5:
        status = tide_virtual_unlock(crew->space, page, bytes);
        break;
    case 6:
        status = tide_virtual_prefetch(crew->space, &range, 1, 0);
        break;
    default:
        /* One by one, as a range that holds a page which is not offered is refused. */
        status = TIDE_SUCCESS;
        for (uint64_t p = 0; p < PAGES; p++)
            (void)!tide_virtual_reclaim(crew->space, crew->base + p * TIDE_PAGE_BYTES, TIDE_PAGE_BYTES);
    }
    while (i < sizeof fine / sizeof fine[0] && status != fine[i])
        i++;
    if (i == sizeof fine / sizeof fine[0])
        crew_fail(crew, "contents", status);
}

static void *member(void *context)
{
    struct crew *crew = context;
    uint64_t state = sync_add_64(&crew->seed, 1);

    yield_state = random_mix(state + 77) | 1;
    for (unsigned i = 0; i < OPERATIONS && sync_load_32(&crew->failed) == 0; i++) {
        const uint64_t index = random_below(&state, PAGES);
        const tide_address page = crew->base + index * TIDE_PAGE_BYTES;

        switch (random_below(&state, 20)) {
        case 0:
            (void)tide_working_set_trim(crew->space, 1 + random_below(&state, 16), NULL);
            break;
        case 1:
            (void)tide_worker_step(crew->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 1 + random_below(&state, 32), NULL);
            break;
        case 2:
            (void)tide_engine_empty(crew->engine, TIDE_EMPTY_STANDBY);
            break;
        case 3:
            recommit(crew, page, 1 + random_below(&state, PAGES - index < 8 ? PAGES - index : 8));
            break;
        case 4:
            if (!crew->mapped)
                hold_page(crew, page);
            break;
        case 5:
            /*
             * A pin is exempt from deletion and not from replacement of content, so only its own page's stamp is
             * asked for.
             */
            pin_page(crew, page);
            break;
        case 6:
            recommit(crew, crew->base, PAGES);
            break;
        case 7:
        case 8:
        case 9:
        case 10:
            write_page(crew, page);
            break;
        case 11:
        case 12:
        case 13:
        case 14:
            contents_change_some(crew, page, 1 + random_below(&state, PAGES - index < 4 ? PAGES - index : 4),
                                 random_below(&state, 8));
            break;
        case 15:
        case 16:
        case 17:
            query_page(crew, page);
            break;
        default:
            read_page(crew, page);
        }
    }
    return NULL;
}

/* The hook is set while no other thread runs. */
static void hook_set(bool on)
{
#ifdef TIDE_SYNC_POINTS
    sync_point_hook_set(on ? yield_sometimes : NULL);
#else
    (void)on;
    (void)yield_sometimes;
#endif
}

static void verify_good(struct crew *crew)
{
    tide_verify_report report;

    if (tide_engine_verify(crew->engine, &report) != TIDE_SUCCESS)
        fail_msg("%s", report.first);
}

static void mapped_or_skip(void)
{
    if (tide_failed(tide_mapped_check(TIDE_DELIVERY_SIGNAL)))
        skip();
}

/* The crew's engine, and its space; one of mapped pages comes with at most so many a fault, 0: as many as it likes. */
static void crew_open(struct crew *crew, const tide_config *config, unsigned cluster_pages)
{
    tide_mapped_options options;

    tide_mapped_options_init(&options);
    options.cluster_pages = cluster_pages;
    assert_int_equal(tide_engine_open(config, &crew->engine), TIDE_SUCCESS);
    assert_int_equal(crew->mapped ? tide_mapped_space_create(crew->engine, &options, &crew->space)
                                  : tide_space_create(crew->engine, &crew->space),
                     TIDE_SUCCESS);
}

static void crew_close(struct crew *crew)
{
    assert_int_equal(tide_space_destroy(crew->space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_close(crew->engine), TIDE_SUCCESS);
}

static void races_run(bool mapped)
{
    char path[] = "yields-XXXXXX";
    const tide_page_file_config file = { .path = path, .minimum_bytes = SLOTS * TIDE_PAGE_BYTES };
    struct crew crew = { .seed = 1, .mapped = mapped };
    pthread_t threads[THREADS];
    tide_config config;
    uint64_t bytes = PAGES * TIDE_PAGE_BYTES;

    hook_set(true);
    assert_int_equal(close(mkstemp(path)), 0);
    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = FRAMES * TIDE_PAGE_BYTES;
    config.page_files = &file;
    config.page_file_count = 1;
    config.frame_wait_ms = 60000;
    crew_open(&crew, &config, 0);
    assert_int_equal(
        tide_virtual_alloc(crew.space, &crew.base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
        TIDE_SUCCESS);
    const unsigned rounds = mapped ? OF_MAPPED(ROUNDS) : ROUNDS;
    for (unsigned round = 0; round < rounds && crew.failed == 0; round++) {
        for (unsigned i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, member, &crew), 0);
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        verify_good(&crew);
    }
    assert_int_equal(crew.failed, 0);
    crew_close(&crew);
    hook_set(false);
}

static void races_are_decided_the_same_way_whoever_yields(void **state)
{
    (void)state;
    races_run(false);
}

static void races_over_a_mapped_space(void **state)
{
    (void)state;
    mapped_or_skip();
    races_run(true);
}

/* ---- regions that come and go under faults ---------------------------------------------------------------------- */

enum { TOUCHERS = 3, REGION_PAGES = 4, REGIONS = 4000 };

/* Touches pages of an address at which regions come and go; how often it finds one does not matter. */
static void *toucher(void *context)
{
    struct crew *crew = context;
    uint64_t state = sync_add_64(&crew->seed, 1);

    yield_state = random_mix(state + 99) | 1;
    while (sync_load_32(&crew->failed) == 0) {
        const tide_address page = crew->base + random_below(&state, REGION_PAGES) * TIDE_PAGE_BYTES;
        const tide_status status = tide_touch(crew->space, page, TIDE_ACCESS_WRITE);

        if (tide_failed(status) && status != TIDE_ACCESS_VIOLATION)
            crew_fail(crew, "touch", status);
    }
    return NULL;
}

/*
 * One thread reserves, writes, reads back and releases at one address, again and again, while others fault there. A
 * fault that began under one region must not end in the next one's table or take its page away: what was written is
 * read. Every other page is left to the others, so that pages come as their region goes. With a neighbour in the same
 * leaf table, the table outlives the regions; without one, it goes with each.
 */
static void regions_run(bool mapped)
{
    for (unsigned with_neighbour = 0; with_neighbour < 2; with_neighbour++) {
        struct crew crew = { .seed = 5, .base = 0x40000000, .mapped = mapped };
        pthread_t threads[TOUCHERS];
        tide_config config;
        uint64_t bytes = TIDE_PAGE_BYTES;
        tide_address lowest, highest;

        hook_set(true);
        tide_config_init(&config);
        config.disable_aslr = true;
        config.memory_bytes = 512 * TIDE_PAGE_BYTES;
        crew_open(&crew, &config, 0);
        assert_int_equal(tide_space_range(crew.space, &lowest, &highest), TIDE_SUCCESS);
        if (mapped)
            crew.base = (lowest + (1 << 30)) >> 21 << 21;
        tide_address neighbour = crew.base + (1 << 20);
        if (with_neighbour)
            assert_int_equal(tide_virtual_alloc(crew.space, &neighbour, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                                TIDE_PAGE_READWRITE),
                             TIDE_SUCCESS);
        for (unsigned i = 0; i < TOUCHERS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, toucher, &crew), 0);
        yield_state = 12345;
        const uint64_t regions = mapped ? OF_MAPPED(REGIONS) : REGIONS;
        for (uint64_t round = 1; round <= regions && sync_load_32(&crew.failed) == 0; round++) {
            tide_address base = crew.base;

            bytes = REGION_PAGES * TIDE_PAGE_BYTES;
            tide_status status =
                tide_virtual_alloc(crew.space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            for (uint64_t page = 0; page < REGION_PAGES && status == TIDE_SUCCESS; page += 2)
                status = tide_write(crew.space, base + page * TIDE_PAGE_BYTES, &round, sizeof round);
            for (uint64_t page = 0; page < REGION_PAGES && status == TIDE_SUCCESS; page += 2) {
                uint64_t read = 0;
                status = tide_read(crew.space, base + page * TIDE_PAGE_BYTES, &read, sizeof read);
                if (read != round)
                    crew_fail(&crew, "a write was lost", status);
            }
            if (status == TIDE_SUCCESS)
                status = tide_virtual_free(crew.space, base, 0, TIDE_MEM_RELEASE);
            if (status != TIDE_SUCCESS)
                crew_fail(&crew, "a region comes and goes", status);
        }
        const bool failed = sync_swap_32(&crew.failed, 1) != 0;
        yield_state = 0;
        for (unsigned i = 0; i < TOUCHERS; i++)
            pthread_join(threads[i], NULL);
        assert_false(failed);
        verify_good(&crew);
        crew_close(&crew);
        hook_set(false);
    }
}

static void a_fault_of_an_old_region_harms_no_new_one(void **state)
{
    (void)state;
    regions_run(false);
}

static void a_fault_of_an_old_region_over_a_mapped_space(void **state)
{
    (void)state;
    mapped_or_skip();
    regions_run(true);
}

/*
 * A page that comes while the range that it is in is decommitted goes too: not its frame alone, but the window's page.
 */
static void a_fault_beside_a_decommit_leaves_nothing(void **state)
{
    struct crew crew = { .seed = 9, .mapped = true };
    pthread_t threads[TOUCHERS];
    tide_config config;
    uint64_t bytes = (REGION_PAGES + 1) * TIDE_PAGE_BYTES; /* one more, so that it is a part that goes */

    (void)state;
    mapped_or_skip();
    hook_set(true);
    tide_config_init(&config);
    config.memory_bytes = 512 * TIDE_PAGE_BYTES;
    crew_open(&crew, &config, 1); /* the page that stays comes with nobody's fault */
    assert_int_equal(
        tide_virtual_alloc(crew.space, &crew.base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
        TIDE_SUCCESS);
    for (unsigned i = 0; i < TOUCHERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, toucher, &crew), 0);
    yield_state = 54321;
    for (unsigned round = 0; round < OF_MAPPED(2 * REGIONS) && sync_load_32(&crew.failed) == 0; round++) {
        bytes = REGION_PAGES * TIDE_PAGE_BYTES;
        if (tide_virtual_free(crew.space, crew.base, bytes, TIDE_MEM_DECOMMIT) != TIDE_SUCCESS)
            crew_fail(&crew, "decommit", TIDE_INVARIANT_VIOLATED);
        if (mapping_pages(crew.space->mapping) != 0)
            crew_fail(&crew, "a page that is not committed is still in the window", TIDE_INVARIANT_VIOLATED);
        tide_address base = crew.base;
        if (tide_virtual_alloc(crew.space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) != TIDE_SUCCESS)
            crew_fail(&crew, "commit", TIDE_INVARIANT_VIOLATED);
    }
    const bool failed = sync_swap_32(&crew.failed, 1) != 0;
    yield_state = 0;
    for (unsigned i = 0; i < TOUCHERS; i++)
        pthread_join(threads[i], NULL);
    assert_false(failed);
    crew_close(&crew);
    hook_set(false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(races_are_decided_the_same_way_whoever_yields),
        cmocka_unit_test(races_over_a_mapped_space),
        cmocka_unit_test(a_fault_of_an_old_region_harms_no_new_one),
        cmocka_unit_test(a_fault_of_an_old_region_over_a_mapped_space),
        cmocka_unit_test(a_fault_beside_a_decommit_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

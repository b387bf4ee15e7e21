/*
 * Write watch (nt-behaviour 6 rule 8): RS-7, alone and with 16 writers, trimming and writing out under way. No write is
 * lost: what a reset does not report, the next one does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

static tide_address watched_new(tide_space *space, uint64_t pages)
{
    tide_address base = 0;
    uint64_t bytes = pages * PG;

    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH,
                                      TIDE_PAGE_READWRITE));
    return base;
}

/* The call must report exactly these pages of the region. */
static void assert_written(tide_space *space, uint32_t flags, tide_address base, uint64_t pages,
                           const unsigned *expected, unsigned count)
{
    tide_address got[256];
    uint64_t room = 256;
    uint32_t granularity = 0;

    assert_success(tide_write_watch_get(space, flags, base, pages * PG, got, &room, &granularity));
    assert_int_equal(granularity, PG);
    assert_int_equal(room, count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(got[i], base + (uint64_t)expected[i] * PG);
}

static void RS_7_written_pages_are_listed_and_reset(void **state)
{
    struct fixture *fixture = *state;
    static const unsigned three[] = { 3, 7, 9 };
    tide_address few[2];
    uint64_t room = 2;

    fixture_page_file(fixture, 128);
    fixture_open(fixture, 256);
    tide_space *space = space_new(fixture);
    const tide_address base = watched_new(space, 100);
    assert_written(space, 0, base, 100, NULL, 0);
    touch_pages(space, base, 100, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_DEMAND_ZERO); /* reading is no writing */
    assert_written(space, 0, base, 100, NULL, 0);
    for (unsigned i = 0; i < 3; i++)
        assert_success(stamp_put(space, base + three[2 - i] * PG, 1, 1));
    assert_written(space, 0, base, 100, three, 3);
    assert_written(space, 0, base, 100, three, 3); /* without the flag nothing is reset */
    assert_written(space, 0, base + 4 * PG, 5, (unsigned[]){ 3 }, 1);
    /* a full array stops the list, and a reset takes no more than what it reported */
    assert_success(tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, 100 * PG, few, &room, NULL));
    assert_int_equal(room, 2);
    assert_int_equal(few[0], base + 3 * PG);
    assert_int_equal(few[1], base + 7 * PG);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, &three[2], 1);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, NULL, 0);
    /* written again after a reset, wherever the page is meanwhile */
    for (unsigned place = 0; place < 4; place++) {
        if (place >= 1)
            trim_all(space);
        if (place >= 2)
            write_modified(fixture);
        if (place >= 3)
            empty_standby(fixture);
        assert_false(tide_failed(tide_touch(space, base + 7 * PG, TIDE_ACCESS_READ)));
        assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, NULL, 0);
        assert_success(stamp_put(space, base + 7 * PG, 1, place));
        assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, (unsigned[]){ 7 }, 1);
        assert_success(stamp_check(space, base + 7 * PG, 1, place));
    }
    /* first write of all: untouched, of a page that was decommitted, after a change of protection */
    region_decommit(space, base + 20 * PG, 2);
    tide_address at = base + 20 * PG;
    uint64_t bytes = 2 * PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, NULL, 0);
    uint32_t old;
    assert_success(tide_virtual_protect(space, base + 21 * PG, PG, TIDE_PAGE_READONLY, &old));
    assert_success(tide_virtual_protect(space, base + 21 * PG, PG, TIDE_PAGE_READWRITE, &old));
    assert_success(stamp_put(space, base + 20 * PG, 1, 1));
    assert_success(stamp_put(space, base + 21 * PG, 1, 1));
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 100, (unsigned[]){ 20, 21 }, 2);
    /* the reset alone */
    assert_success(stamp_put(space, base + 99 * PG, 1, 1));
    assert_success(tide_write_watch_reset(space, base, 100 * PG));
    assert_written(space, 0, base, 100, NULL, 0);
    fixture_close(fixture);
}

static void RS_7_pointers_and_pins_write_too(void **state)
{
    struct fixture *fixture = *state;
    tide_access access;
    tide_pin *pin;
    tide_address got[4];
    uint64_t room = 4;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = watched_new(space, 70);
    assert_success(tide_access_begin(space, &access));
    assert_non_null(tide_access_pointer(&access, base + 65 * PG, TIDE_ACCESS_WRITE));
    /* the thread's own pointer could write on unseen */
    if (!support_mapped()) /* where it would be a fault again */
        assert_status(tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, 70 * PG, got, &room, NULL),
                      TIDE_DEVICE_BUSY);
    assert_int_equal(room, 4);
    assert_written(space, 0, base, 70, (unsigned[]){ 65 }, 1);
    tide_access_end(&access);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 70, (unsigned[]){ 65 }, 1);
    assert_success(tide_access_begin(space, &access));
    assert_non_null(tide_access_pointer(&access, base + 65 * PG, TIDE_ACCESS_READ));
    assert_non_null(tide_access_pointer(&access, base + 65 * PG, TIDE_ACCESS_WRITE));
    tide_access_end(&access);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 70, (unsigned[]){ 65 }, 1);
    assert_success(tide_pin_create(space, base + 3 * PG, PG, TIDE_ACCESS_WRITE, &pin));
    /* as long as it is pinned, it may be written at any time */
    for (unsigned i = 0; i < 3; i++)
        assert_written(space, TIDE_WRITE_WATCH_RESET, base, 70, (unsigned[]){ 3 }, 1);
    tide_pin_destroy(pin);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 70, (unsigned[]){ 3 }, 1);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base, 70, NULL, 0);
    fixture_close(fixture);
}

static void RS_7_bad_calls_are_refused(void **state)
{
    struct fixture *fixture = *state;
    tide_address got[4];
    uint64_t room = 4;

    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    const tide_address base = watched_new(space, 16), plain = region_new(space, 16);
    const struct {
        uint32_t flags;
        tide_address base;
        uint64_t bytes;
    } wrong[] = { { 2, base, PG },          { 0, plain, PG },        { 0, base, 17 * PG },
                  { 0, base, 0 },           { 0, base, UINT64_MAX }, { 0, UINT64_MAX, PG },
                  { 0, base - PG, 2 * PG }, { 0, 0x7000000000, PG }, { 0x80000000u, base, PG } };
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_status(tide_write_watch_get(space, wrong[i].flags, wrong[i].base, wrong[i].bytes, got, &room, NULL),
                      TIDE_INVALID_PARAMETER);
        assert_int_equal(room, 4);
        if (wrong[i].flags == 0)
            assert_status(tide_write_watch_reset(space, wrong[i].base, wrong[i].bytes), TIDE_INVALID_PARAMETER);
    }
    assert_status(tide_write_watch_get(space, 0, base, PG, got, NULL, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_write_watch_get(space, 0, base, PG, NULL, &room, NULL), TIDE_INVALID_PARAMETER);
    room = 0;
    assert_success(stamp_put(space, base, 1, 1));
    assert_success(tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, PG, NULL, &room, NULL));
    assert_written(space, 0, base, 16, (unsigned[]){ 0 }, 1);
    fixture_close(fixture);
}

static void holder(struct crew_member *member)
{
    tide_space *space = ((void **)member->context)[0];
    const tide_address base = *(tide_address *)((void **)member->context)[1];
    tide_address got[4];
    uint64_t room = 4;

    if (member->index == 0) { /* holds a pointer for writing */
        tide_access access;
        CREW_NOTE(member, tide_access_begin(space, &access) == TIDE_SUCCESS);
        volatile char *pointer = tide_access_pointer(&access, base, TIDE_ACCESS_WRITE);
        CREW_NOTE(member, pointer != NULL);
        crew_barrier(member);
        crew_barrier(member);
        if (pointer != NULL)
            *pointer = 1;
        tide_access_end(&access);
        crew_barrier(member);
        return;
    }
    crew_barrier(member);
    CREW_NOTE(member, tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, PG, got, &room, NULL) == TIDE_TIMEOUT);
    CREW_NOTE(member, room == 4);
    CREW_NOTE(member, tide_write_watch_reset(space, base, PG) == TIDE_TIMEOUT);
    crew_barrier(member);
    crew_barrier(member);
    CREW_NOTE(member, tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, PG, got, &room, NULL) == TIDE_SUCCESS);
    CREW_NOTE(member, room == 1 && got[0] == base);
}

/* While another thread could write through a pointer from before, a reset does not end; and it resets nothing. */
static void RS_7_a_reset_waits_for_sections(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;

    fixture->config.frame_wait_ms = 20;
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    tide_address base = watched_new(space, 4);
    void *context[2] = { space, &base };
    crew_run(2, holder, context);
    fixture_close(fixture);
}

/* The parts of a watched region that was cut go on being watched, with what was marked before. */
static void RS_7_a_split_region_goes_on(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 256);
    tide_space *space = space_new(fixture);
    const tide_address base = watched_new(space, 128);
    assert_success(stamp_put(space, base + 5 * PG, 1, 1));
    assert_success(stamp_put(space, base + 50 * PG, 1, 1));
    assert_success(stamp_put(space, base + 100 * PG, 1, 1));
    tide_address at = base + 40 * PG;
    uint64_t bytes = 40 * PG;
    assert_success(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE));
    assert_written(space, 0, base, 40, (unsigned[]){ 5 }, 1);
    assert_written(space, TIDE_WRITE_WATCH_RESET, base + 80 * PG, 48, (unsigned[]){ 20 }, 1);
    assert_success(stamp_put(space, base + 81 * PG, 1, 1));
    assert_written(space, TIDE_WRITE_WATCH_RESET, base + 80 * PG, 48, (unsigned[]){ 1 }, 1);
    tide_address got[4];
    uint64_t room = 4;
    assert_status(tide_write_watch_get(space, 0, base, 128 * PG, got, &room, NULL), TIDE_INVALID_PARAMETER);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_success(stamp_put(space, base + 127 * PG, 1, 1));
    assert_written(space, TIDE_WRITE_WATCH_RESET, base + 80 * PG, 48, (unsigned[]){ 47 }, 1);
    fixture_close(fixture);
}

/* ---- with writers ----------------------------------------------------------------------------------------------- */

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { ROUNDS = 150 };
#else
enum { ROUNDS = 1200 };
#endif
enum { WRITERS = 16, OWNED = 24, PAGES = WRITERS * OWNED };

struct watch_race {
    tide_space *space;
    tide_address base;
    tide_engine *engine;
    uint64_t seen[PAGES]; /* version of each page when last reported; of the resetter alone */
    uint64_t reports;
    atomic_uint running;
};

/* Looks at what the pages hold after a reset reported them. False if the call failed. */
static bool reset_once(struct crew_member *member, struct watch_race *race)
{
    static _Thread_local tide_address got[PAGES];
    uint64_t room = PAGES;

    if (tide_write_watch_get(race->space, TIDE_WRITE_WATCH_RESET, race->base, PAGES * PG, got, &room, NULL) !=
        TIDE_SUCCESS) {
        CREW_NOTE(member, !"the reset failed");
        return false;
    }
    for (uint64_t i = 0; i < room; i++) {
        uint64_t version;
        CREW_NOTE(member, tide_read(race->space, got[i], &version, sizeof version) == TIDE_SUCCESS);
        race->seen[(got[i] - race->base) / PG] = version;
    }
    race->reports += room;
    return true;
}

/*
 * A writer raises the version of its pages, by every way to write. The resetter copies the version of each page that is
 * reported; whatever is written later must be reported again, so at the end its copies are the truth.
 */
static void watch_member(struct crew_member *member)
{
    struct watch_race *race = member->context;

    if (member->index == WRITERS + 1) { /* trims, writes out, empties standby */
        while (atomic_load(&race->running) != 0) {
            (void)tide_working_set_trim(race->space, 32, NULL);
            (void)tide_worker_step(race->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 64, NULL);
            (void)tide_engine_empty(race->engine, TIDE_EMPTY_STANDBY);
            sleep_ms(1);
        }
        return;
    }
    if (member->index == WRITERS) {
        while (atomic_load(&race->running) != 0)
            if (!reset_once(member, race))
                break;
        return;
    }
    uint64_t random = member->index;
    for (uint64_t version = 1; version <= ROUNDS; version++) {
        const tide_address page = race->base + (member->index * OWNED + random_step(&random) % OWNED) * PG;
        uint64_t word = version << 8 | member->index;
        tide_access access;
        tide_pin *pin;

        switch (version % 4) {
        case 0:
            CREW_NOTE(member, tide_access_begin(race->space, &access) == TIDE_SUCCESS);
            uint64_t *pointer = tide_access_pointer(&access, page, TIDE_ACCESS_WRITE);
            CREW_NOTE(member, pointer != NULL);
            if (pointer != NULL)
                __atomic_store_n(pointer, word, __ATOMIC_RELAXED);
            tide_access_end(&access);
            break;
        case 1:
            if (tide_pin_create(race->space, page, PG, TIDE_ACCESS_WRITE, &pin) == TIDE_SUCCESS) {
                __atomic_store_n((uint64_t *)tide_pin_iovec(pin, NULL)[0].iov_base, word, __ATOMIC_RELAXED);
                tide_pin_destroy(pin);
            } else {
                CREW_NOTE(member, !"pinned");
            }
            break;
        default:
            CREW_NOTE(member, tide_write(race->space, page, &word, sizeof word) == TIDE_SUCCESS);
        }
    }
    atomic_fetch_sub(&race->running, 1);
}

static void watch_run(struct fixture *fixture, bool trimming)
{
    static struct watch_race race;
    struct crew_member self = { 0 };
    uint64_t written = 0;

    race = (struct watch_race){ .space = space_new(fixture), .engine = fixture->engine, .running = WRITERS };
    race.base = watched_new(race.space, PAGES);
    crew_run(WRITERS + 1 + trimming, watch_member, &race);
    assert_true(reset_once(&self, &race));
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t version;
        assert_success(tide_read(race.space, race.base + i * PG, &version, sizeof version));
        written += version != 0;
        if (version != race.seen[i])
            fail_msg("page %u holds version 0x%llx, and the last that was reported is 0x%llx", i,
                     (unsigned long long)version, (unsigned long long)race.seen[i]);
    }
    assert_written(race.space, 0, race.base, PAGES, NULL, 0);
    assert_true(written > PAGES / 2 && race.reports >= written);
}

static void RS_7_resets_lose_no_write_of_16_writers(void **state)
{
    struct fixture *fixture = *state;

    fixture_open(fixture, 1024);
    watch_run(fixture, false);
    fixture_close(fixture);
}

static void RS_7_resets_lose_no_write_while_pages_are_trimmed(void **state)
{
    struct fixture *fixture = *state;

    fixture_page_file(fixture, 1024);
    fixture_open(fixture, 300);
    watch_run(fixture, true);
    fixture_close(fixture);
}

static const struct CMUnitTest write_watch[] = {
    API_TEST(RS_7_written_pages_are_listed_and_reset),
    API_TEST(RS_7_pointers_and_pins_write_too),
    API_TEST(RS_7_bad_calls_are_refused),
    API_TEST(RS_7_a_reset_waits_for_sections),
    API_TEST(RS_7_a_split_region_goes_on),
    API_TEST(RS_7_resets_lose_no_write_of_16_writers),
    API_TEST(RS_7_resets_lose_no_write_while_pages_are_trimmed),
};

API_MAIN(write_watch)

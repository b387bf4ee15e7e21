/*
 * Memory that goes bad: what tide_frame_retire() does to a frame in each state and to the page in it, that nothing uses
 * a bad frame again, and how SIGBUS is taken. Real poisoned memory is tests/numa/hwpoison.c; here SIGBUS comes from a
 * file that is mapped over a frame's memory and is too short, or is sent.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FRAMES = 256, SLOTS = 512, PAGES = 8, OWNER = 7 };

static tide_retirement retire(const struct fixture *fixture, uint64_t frame, tide_status expected)
{
    tide_retirement retirement = { .outcome = (tide_retire_outcome)99 };

    assert_status(tide_frame_retire(fixture->engine, frame, &retirement), expected);
    return retirement;
}

static uint64_t frame_of(tide_space *space, tide_address address)
{
    const tide_page_info info = page_now(space, address);

    assert_int_not_equal(info.frame, UINT64_MAX);
    return info.frame;
}

static tide_frame_state state_of(const struct fixture *fixture, uint64_t frame)
{
    tide_frame_info info;

    assert_success(tide_frame_query(fixture->engine, frame, &info));
    return info.state;
}

/* The frame is on the bad list, `bad` in all, and every figure that counts memory has fallen by that. */
static void assert_bad(const struct fixture *fixture, uint64_t frame, uint64_t bad)
{
    const tide_statistics now = statistics_now(fixture);
    const tide_node_statistics node = node_now(fixture, 0);
    tide_performance_information information = { .struct_bytes = sizeof information };

    assert_int_equal(state_of(fixture, frame), TIDE_FRAME_BAD);
    assert_int_equal(now.bad_pages, bad);
    assert_int_equal(node.bad, bad);
    assert_int_equal(node_sum(&node), node.frames);
    assert_int_equal(now.commit_limit_pages, fixture->at_open.commit_limit_pages - bad);
    assert_int_equal(now.commit_limit_maximum_pages, fixture->at_open.commit_limit_maximum_pages - bad);
    assert_int_equal(now.total_pages, fixture->at_open.total_pages);
    assert_success(tide_performance_information_get(fixture->engine, &information));
    assert_int_equal(information.physical_total, fixture->at_open.total_pages - bad);
}

static void assert_poisoned(tide_status got, tide_address address)
{
    assert_status(got, TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EHWPOISON);
    assert_int_equal(tide_last_error()->address, address);
}

/* An engine with a page file, and a region whose pages hold stamps of version 1. */
static tide_space *stamped(struct fixture *fixture, tide_address *base)
{
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    *base = region_new(space, PAGES);
    stamp_pages(space, *base, PAGES, OWNER, 1);
    return space;
}

/* Makes all pages clean: in the page file and on standby. */
static void clean(struct fixture *fixture, tide_space *space)
{
    trim_all(space);
    write_modified(fixture);
}

/* ---- frames without a page -------------------------------------------------------------------------------------- */

static void use_everything(struct fixture *fixture)
{
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FRAMES);

    for (unsigned i = 0; i < FRAMES; i++)
        assert_true(tide_touch(space, base + (uint64_t)i * PG, TIDE_ACCESS_WRITE) >= 0);
    space_close(fixture, space);
}

static void BF_1_free_and_zeroed_frames_are_never_given_out_again(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    const uint64_t freed = frame_of(space, base);

    region_decommit(space, base, 1);
    assert_int_equal(state_of(fixture, freed), TIDE_FRAME_FREE);
    uint64_t zeroed = tide_frame_number_end(fixture->engine) - 1;
    while (state_of(fixture, zeroed) != TIDE_FRAME_ZEROED)
        zeroed--;
    const uint64_t available = statistics_now(fixture).available_pages;

    assert_int_equal(retire(fixture, zeroed, TIDE_SUCCESS).outcome, TIDE_RETIRE_UNUSED);
    assert_bad(fixture, zeroed, 1);
    const tide_retirement second = retire(fixture, freed, TIDE_SUCCESS);
    assert_int_equal(second.outcome, TIDE_RETIRE_UNUSED);
    assert_int_equal(second.space, 0);
    assert_bad(fixture, freed, 2);
    assert_int_equal(statistics_now(fixture).available_pages, available - 2);
    assert_int_equal(retire(fixture, freed, TIDE_SUCCESS).outcome, TIDE_RETIRE_ALREADY);
    assert_bad(fixture, freed, 2);
    fixture_verify(fixture);

    use_everything(fixture);
    for (unsigned what = 0; what <= TIDE_EMPTY_FREE; what++)
        assert_success(tide_engine_empty(fixture->engine, (tide_empty)what));
    assert_bad(fixture, zeroed, 2);
    assert_bad(fixture, freed, 2);
    check_pages(space, base + PG, PAGES - 1, OWNER, 1);
    fixture_close(fixture);
}

/* With CPU caches a free frame may lie in one of them, which no list shows. */
static void BF_1_frames_in_cpu_caches_too(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.cpu_cache_pages = 16;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    const uint64_t end = tide_frame_number_end(fixture->engine);
    uint64_t bad = 0;

    for (uint64_t frame = 0; frame < end && bad < 100; frame += 2) {
        if (state_of(fixture, frame) != TIDE_FRAME_ZEROED && state_of(fixture, frame) != TIDE_FRAME_FREE)
            continue;
        assert_int_equal(retire(fixture, frame, TIDE_SUCCESS).outcome, TIDE_RETIRE_UNUSED);
        assert_bad(fixture, frame, ++bad);
    }
    fixture_verify(fixture);
    assert_int_equal(bad, 100);
    /* What is left can be used to the last frame. */
    const uint64_t room = statistics_now(fixture).available_pages / 2;
    const tide_address more = region_new(space, room);
    touch_pages(space, more, room, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(statistics_now(fixture).bad_pages, bad);
    fixture_close(fixture);
}

/* ---- pages that are not lost ------------------------------------------------------------------------------------ */

static void BF_2_a_standby_page_is_read_again(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    clean(fixture, space);
    const uint64_t frame = frame_of(space, base + 3 * PG);
    tide_space_statistics statistics = space_now(space);

    assert_int_equal(state_of(fixture, frame), TIDE_FRAME_STANDBY);
    const tide_retirement found = retire(fixture, frame, TIDE_SUCCESS);
    assert_int_equal(found.outcome, TIDE_RETIRE_BACKED);
    assert_int_equal(found.space, statistics.id);
    assert_int_equal(found.address, base + 3 * PG);
    assert_bad(fixture, frame, 1);
    assert_int_equal(page_now(space, base + 3 * PG).state, TIDE_PAGE_STATE_PAGE_FILE);
    fixture_verify(fixture);
    assert_status(tide_touch(space, base + 3 * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    check_pages(space, base, PAGES, OWNER, 1);
    assert_int_not_equal(frame_of(space, base + 3 * PG), frame);
    assert_int_equal(statistics_now(fixture).pages_lost, 0);
    fixture_close(fixture);
}

static void BF_3_an_active_clean_page_is_read_again(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    clean(fixture, space);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    const uint64_t frame = frame_of(space, base);
    tide_access access;

    /* A pointer in an open section stays good, and no grace period stands in the way. */
    assert_success(tide_access_begin(space, &access));
    const char *pointer = tide_access_pointer(&access, base, TIDE_ACCESS_READ);
    assert_non_null(pointer);
    tide_retirement found;
    assert_success(tide_frame_retire_at(fixture->engine, pointer + 100, &found));
    assert_int_equal(found.outcome, TIDE_RETIRE_BACKED);
    assert_int_equal(found.address, base);
    assert_true(stamp_matches(pointer, OWNER, base, 1));
    assert_int_equal(space_now(space).working_set_pages, PAGES - 1);
    assert_bad(fixture, frame, 1);
    const char *again = tide_access_pointer(&access, base, TIDE_ACCESS_READ);
    assert_non_null(again);
    assert_ptr_not_equal(again, pointer);
    assert_true(stamp_matches(again, OWNER, base, 1));
    tide_access_end(&access);
    assert_int_equal(space_now(space).working_set_pages, PAGES);
    check_pages(space, base, PAGES, OWNER, 1);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* A page that was reset is clean, and nobody needs it: its frame takes nothing with it. */
static void BF_3_a_reset_page_is_zeros(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);

    assert_success(tide_virtual_reset(space, base, 2 * PG));
    trim_all(space);
    assert_status(tide_touch(space, base + PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(retire(fixture, frame_of(space, base + (uint64_t)i * PG), TIDE_SUCCESS).outcome,
                         TIDE_RETIRE_BACKED);
    fixture_verify(fixture);
    assert_int_equal(statistics_now(fixture).reset_pages_lost, 2);
    assert_int_equal(statistics_now(fixture).pages_lost, 0);
    assert_status(tide_virtual_reset_undo(space, base, 2 * PG), TIDE_CONTENTS_LOST);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_DEMAND_ZERO);
    fixture_close(fixture);
}

/* ---- pages that are lost ---------------------------------------------------------------------------------------- */

/* Every kind of access, each time: the same answer. Nothing of it changes anything. */
static void assert_lost(struct fixture *fixture, tide_space *space, tide_address page)
{
    char buffer[64] = "unchanged";
    tide_working_set_entry entry = { .address = page };
    const tide_statistics before = statistics_now(fixture);
    tide_access access;
    tide_pin *pin;

    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_LOST);
    assert_int_equal(page_now(space, page).protection, TIDE_PAGE_READWRITE);
    for (unsigned round = 0; round < 2; round++) {
        assert_poisoned(tide_read(space, page + 5, buffer, sizeof buffer), page + 5);
        assert_string_equal(buffer, "unchanged");
        assert_poisoned(tide_write(space, page, buffer, sizeof buffer), page);
        assert_poisoned(tide_touch(space, page, TIDE_ACCESS_READ), page);
        assert_poisoned(tide_touch(space, page + 1, TIDE_ACCESS_WRITE), page + 1);
        assert_success(tide_access_begin(space, &access));
        assert_null(tide_access_pointer(&access, page, TIDE_ACCESS_WRITE));
        assert_poisoned(access.status, page);
        tide_access_end(&access);
        assert_poisoned(tide_pin_create(space, page, PG, TIDE_ACCESS_READ, &pin), page);
        assert_poisoned(tide_virtual_lock(space, page, PG), page);
    }
    assert_success(tide_working_set_query(space, &entry, 1));
    assert_true(entry.bad && !entry.valid);
    assert_int_equal(statistics_now(fixture).faults.in_page_errors - before.faults.in_page_errors, 14);
    assert_int_equal(statistics_now(fixture).available_pages, before.available_pages);
    assert_int_equal(statistics_now(fixture).commit_total_pages, before.commit_total_pages);
    fixture_verify(fixture);
}

static void lose(struct fixture *fixture, tide_space *space, tide_address page)
{
    const uint64_t frame = frame_of(space, page);
    const tide_statistics before = statistics_now(fixture);
    const tide_retirement found = retire(fixture, frame, TIDE_SUCCESS);

    assert_int_equal(found.outcome, TIDE_RETIRE_LOST);
    assert_int_equal(found.space, space_now(space).id);
    assert_int_equal(found.address, page);
    assert_bad(fixture, frame, before.bad_pages + 1);
    assert_int_equal(statistics_now(fixture).pages_lost, before.pages_lost + 1);
}

static void assert_zeros(tide_space *space, tide_address page)
{
    static const char zeros[PG];
    char buffer[PG];

    assert_success(tide_read(space, page, buffer, PG));
    assert_memory_equal(buffer, zeros, PG);
}

static void BF_4_an_active_dirty_page_is_lost_until_it_is_written_as_a_whole(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);

    lose(fixture, space, base + 2 * PG);
    assert_int_equal(space_now(space).working_set_pages, PAGES - 1);
    assert_lost(fixture, space, base + 2 * PG);
    /* A write that covers the page in two calls is not enough, nor is one to a page that may not be written. */
    char half[PG / 2];
    memset(half, 1, sizeof half);
    assert_poisoned(tide_write(space, base + 2 * PG, half, sizeof half), base + 2 * PG);
    assert_poisoned(tide_write(space, base + 2 * PG + PG / 2, half, sizeof half), base + 2 * PG + PG / 2);
    uint32_t old;
    char whole[3 * PG] = { 0 };
    assert_success(tide_virtual_protect(space, base + 2 * PG, PG, TIDE_PAGE_READONLY, &old));
    assert_status(tide_write(space, base + 2 * PG, whole, PG), TIDE_ACCESS_VIOLATION);
    assert_int_equal(page_now(space, base + 2 * PG).state, TIDE_PAGE_STATE_LOST);
    assert_success(tide_virtual_protect(space, base + 2 * PG, PG, TIDE_PAGE_READWRITE, &old));
    /* In the middle of a longer one, it is. */
    for (unsigned i = 0; i < 3; i++)
        stamp_fill(whole + (size_t)i * PG, OWNER, base + (uint64_t)(i + 1) * PG, 2);
    assert_success(tide_write(space, base + PG, whole, sizeof whole));
    check_pages(space, base + PG, 3, OWNER, 2);
    check_pages(space, base, 1, OWNER, 1);
    page_out(fixture, space);
    check_pages(space, base + PG, 3, OWNER, 2);
    fixture_close(fixture);
}

static void BF_5_a_modified_page_is_lost_until_its_content_is_given_up(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);

    trim_all(space);
    for (unsigned i = 0; i < PAGES; i++) {
        assert_int_equal(page_now(space, base + (uint64_t)i * PG).state, TIDE_PAGE_STATE_MODIFIED);
        lose(fixture, space, base + (uint64_t)i * PG);
    }
    assert_lost(fixture, space, base);
    /* Reset: zeros, and undo tells that it was lost. */
    assert_success(tide_virtual_reset(space, base, PG));
    assert_zeros(space, base);
    assert_status(tide_virtual_reset_undo(space, base, PG), TIDE_CONTENTS_LOST);
    /* Undo without a reset: told, and zeros from then on. */
    assert_status(tide_virtual_reset_undo(space, base + PG, PG), TIDE_CONTENTS_LOST);
    assert_zeros(space, base + PG);
    assert_success(tide_virtual_reset_undo(space, base + PG, PG));
    assert_success(tide_virtual_discard(space, base + 2 * PG, PG));
    assert_zeros(space, base + 2 * PG);
    assert_success(tide_virtual_offer(space, base + 3 * PG, PG, 2));
    assert_status(tide_virtual_reclaim(space, base + 3 * PG, PG), TIDE_CONTENTS_LOST);
    assert_zeros(space, base + 3 * PG);
    region_decommit(space, base + 4 * PG, 1);
    tide_address at = base + 4 * PG;
    uint64_t bytes = PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_zeros(space, base + 4 * PG);
    /* Committing what is committed changes nothing. */
    at = base + 5 * PG;
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_lost(fixture, space, base + 5 * PG);
    assert_int_equal(statistics_now(fixture).pages_lost, PAGES);
    fixture_close(fixture);
}

/* That a page was lost after its reset is told by undo, also if what came after it went with a bad frame. */
static void BF_5_an_earlier_loss_is_not_forgotten(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);

    for (unsigned round = 0; round < 2; round++) {
        assert_success(tide_virtual_reset(space, base, PG));
        trim_all(space);
        empty_standby(fixture);
        assert_zeros(space, base); /* lost, and begun anew */
        lose(fixture, space, base);
        if (round == 0) /* made anew by hand */
            stamp_pages(space, base, 1, OWNER, 2);
        assert_status(tide_virtual_reset_undo(space, base, PG), TIDE_CONTENTS_LOST);
        assert_success(tide_virtual_reset_undo(space, base, PG)); /* told */
        assert_success(round == 0 ? stamp_check(space, base, OWNER, 2) : tide_virtual_reset_undo(space, base, PG));
    }
    assert_zeros(space, base);
    assert_success(tide_virtual_reset_undo(space, base, PG));
    fixture_close(fixture);
}

/* ---- frames that are held --------------------------------------------------------------------------------------- */

static void BF_6_a_pinned_frame_waits_for_its_last_pin(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    tide_pin *first, *second;
    unsigned count;

    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_WRITE, &first));
    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_READ, &second));
    const uint64_t frame = frame_of(space, base);
    for (unsigned round = 0; round < 2; round++) {
        const tide_retirement found = retire(fixture, frame, TIDE_PENDING);
        assert_int_equal(found.outcome, TIDE_RETIRE_PINNED);
        assert_int_equal(found.address, base);
        assert_int_equal(statistics_now(fixture).bad_pages_pending, 1);
        assert_int_equal(statistics_now(fixture).bad_pages, 0);
        trim_all(space); /* the second round: in transition */
    }
    fixture_verify(fixture);
    stamp_fill(tide_pin_iovec(first, &count)->iov_base, OWNER, base, 3);
    assert_success(stamp_check(space, base, OWNER, 3)); /* the page is the pinned frame, as ever */
    tide_pin_destroy(first);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 1);
    tide_pin_destroy(second);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 0);
    assert_bad(fixture, frame, 1);
    assert_lost(fixture, space, base);

    /* A clean one is read again; one that is deleted under its pin goes to the bad list from there. */
    clean(fixture, space);
    assert_success(tide_pin_create(space, base + PG, PG, TIDE_ACCESS_READ, &first));
    assert_success(tide_pin_create(space, base + 2 * PG, PG, TIDE_ACCESS_READ, &second));
    const uint64_t kept = frame_of(space, base + PG), deleted = frame_of(space, base + 2 * PG);
    assert_int_equal(retire(fixture, kept, TIDE_PENDING).outcome, TIDE_RETIRE_PINNED);
    region_decommit(space, base + 2 * PG, 1);
    assert_int_equal(retire(fixture, deleted, TIDE_PENDING).outcome, TIDE_RETIRE_PINNED);
    fixture_verify(fixture);
    tide_pin_destroy(first);
    assert_bad(fixture, kept, 2);
    tide_pin_destroy(second);
    assert_bad(fixture, deleted, 3);
    assert_success(stamp_check(space, base + PG, OWNER, 1));
    assert_int_equal(statistics_now(fixture).pages_lost, 1);
    fixture_close(fixture);
}

/* Its page file does not answer; meanwhile the page can be used, and at the end of the write nothing of it is lost. */
static void BF_6_a_frame_under_write_waits_for_its_end(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;

    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, SLOTS);
    tide_space *space = stamped(fixture, &base);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, true);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 1, true);
    trim_all(space);
    while (node_now(fixture, 0).transition != PAGES)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    const uint64_t left = frame_of(space, base), used = frame_of(space, base + PG);
    assert_int_equal(retire(fixture, left, TIDE_PENDING).outcome, TIDE_RETIRE_PINNED);
    assert_int_equal(retire(fixture, used, TIDE_PENDING).outcome, TIDE_RETIRE_PINNED);
    assert_success(stamp_check(space, base + PG, OWNER, 1));
    assert_int_equal(frame_of(space, base + PG), used);
    fixture_verify(fixture);

    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    while (statistics_now(fixture).commit_limit_pages != fixture->at_open.commit_limit_pages - 2)
        sleep_ms(1);
    assert_bad(fixture, left, 2);
    assert_bad(fixture, used, 2);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 0);
    assert_int_equal(statistics_now(fixture).pages_lost, 0);
    check_pages(space, base, PAGES, OWNER, 1);
    fixture_close(fixture);
}

static void BF_7_a_lock_ends_with_its_page(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    clean(fixture, space);

    assert_success(tide_virtual_lock(space, base, 4 * PG));
    stamp_pages(space, base + PG, 1, OWNER, 2);
    assert_int_equal(retire(fixture, frame_of(space, base), TIDE_SUCCESS).outcome, TIDE_RETIRE_BACKED);
    assert_int_equal(retire(fixture, frame_of(space, base + PG), TIDE_SUCCESS).outcome, TIDE_RETIRE_LOST);
    assert_int_equal(space_now(space).locked_pages, 2);
    assert_int_equal(statistics_now(fixture).locked_pages, 2);
    fixture_verify(fixture);
    assert_success(stamp_check(space, base, OWNER, 1));
    assert_status(tide_virtual_unlock(space, base, PG), TIDE_NOT_LOCKED);
    assert_success(tide_virtual_unlock(space, base + 2 * PG, 2 * PG));
    fixture_close(fixture);
}

static void BF_8_a_page_of_a_large_page(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t pages = TIDE_LARGE_PAGE_BYTES / PG;
    fixture_open(fixture, 2048);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = TIDE_LARGE_PAGE_BYTES;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                                      TIDE_PAGE_READWRITE));
    stamp_pages(space, base, pages, OWNER, 1);
    const tide_address page = base + 77 * PG;

    lose(fixture, space, page);
    assert_poisoned(tide_touch(space, page, TIDE_ACCESS_READ), page);
    fixture_verify(fixture);
    tide_access access;
    tide_extent extent;
    assert_success(tide_access_begin(space, &access));
    assert_non_null(tide_access_pointer(&access, base, TIDE_ACCESS_READ));
    assert_null(tide_access_pointer(&access, page, TIDE_ACCESS_READ));
    assert_poisoned(access.status, page);
    assert_success(tide_access_extent(&access, base, TIDE_ACCESS_READ, &extent));
    assert_int_equal(extent.bytes, 77 * PG);
    tide_access_end(&access);
    check_pages(space, base, 77, OWNER, 1);
    check_pages(space, page + PG, pages - 78, OWNER, 1);
    stamp_pages(space, page, 1, OWNER, 2); /* as a whole: now an ordinary page among large ones */
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    assert_int_equal(page_now(space, page + PG).state, TIDE_PAGE_STATE_ACTIVE);
    check_pages(space, page, 1, OWNER, 2);
    fixture_verify(fixture);
    fixture_close(fixture);
}

static void BF_9_a_page_table_stays_until_it_is_freed(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped(fixture, &base);
    const uint64_t end = tide_frame_number_end(fixture->engine);
    uint64_t tables[8], count = 0;

    for (uint64_t frame = 0; frame < end; frame++) {
        tide_frame_info info;
        assert_success(tide_frame_query(fixture->engine, frame, &info));
        if (info.use == TIDE_USE_PAGE_TABLE) {
            assert_in_range(count, 0, 7);
            tables[count++] = frame;
        }
    }
    assert_int_equal(count, 4);
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(retire(fixture, tables[i], TIDE_HARDWARE_MEMORY_ERROR).outcome, TIDE_RETIRE_TABLE);
        assert_int_equal(statistics_now(fixture).bad_pages_pending, i + 1);
    }
    fixture_verify(fixture);
    check_pages(space, base, PAGES, OWNER, 1);
    page_out(fixture, space);
    check_pages(space, base, PAGES, OWNER, 1);
    space_close(fixture, space);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL)); /* the limits follow */
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 0);
    for (uint64_t i = 0; i < count; i++)
        assert_bad(fixture, tables[i], 4);
    use_everything(fixture);
    assert_bad(fixture, tables[0], 4);
    fixture_close(fixture);
}

static void BF_10_what_is_left_can_be_committed_and_locked(void **state)
{
    struct fixture *fixture = *state;
    bool set = true;
    int fd;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const uint64_t end = tide_frame_number_end(fixture->engine);

    assert_success(tide_memory_event_query(fixture->engine, TIDE_EVENT_MEMORY_ERRORS, &set));
    assert_false(set);
    assert_success(tide_memory_event_fd(fixture->engine, TIDE_EVENT_MEMORY_ERRORS, &fd));
    struct pollfd poller = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&poller, 1, 0), 0);
    uint64_t bad = 0;
    for (uint64_t frame = end; frame-- > 0 && bad < 100;)
        bad += retire(fixture, frame, TIDE_SUCCESS).outcome == TIDE_RETIRE_UNUSED;
    assert_int_equal(poll(&poller, 1, 0), 1);
    assert_success(tide_memory_event_query(fixture->engine, TIDE_EVENT_MEMORY_ERRORS, &set));
    assert_true(set);
    const tide_statistics now = statistics_now(fixture);
    assert_int_equal(now.commit_limit_pages, fixture->at_open.commit_limit_pages - 100);
    tide_address base = 0;
    uint64_t bytes = (now.commit_limit_pages - now.commit_total_pages + 1) * PG;
    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_COMMITMENT_LIMIT);
    /* All of it but the tables of the region can be committed, and then be touched. */
    const uint64_t pages = now.commit_limit_pages - now.commit_total_pages - 3;
    base = region_new(space, pages);
    touch_pages(space, base, pages, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    fixture_close(fixture);
}

/* Resident available pages: as many can be locked as there are usable frames beside the reserve (9) and the tables. */
static void BF_10_bad_frames_cannot_be_promised_to_locks(void **state)
{
    enum { BAD = 100, MINIMUM = 70, LOCKED = MINIMUM - 8 };
    struct fixture *fixture = *state;
    tide_space *spaces[3];
    tide_address bases[3];
    uint64_t bad = 0;
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, FRAMES);
    for (unsigned i = 0; i < 3; i++) {
        spaces[i] = space_new(fixture);
        bases[i] = region_new(spaces[i], LOCKED);
        assert_success(tide_touch_range(spaces[i], bases[i], PG, TIDE_ACCESS_WRITE));
        assert_success(tide_working_set_set_limits(spaces[i], MINIMUM, MINIMUM, TIDE_WORKING_SET_SOFT_MAXIMUM));
    }
    for (uint64_t frame = tide_frame_number_end(fixture->engine); frame-- > 0 && bad < BAD;)
        bad += retire(fixture, frame, TIDE_SUCCESS).outcome == TIDE_RETIRE_UNUSED;
    const uint64_t limit = FRAMES - 9 - BAD - statistics_now(fixture).table_pages;
    assert_success(tide_virtual_lock(spaces[0], bases[0], LOCKED * PG));
    assert_success(tide_virtual_lock(spaces[1], bases[1], LOCKED * PG));
    assert_status(tide_virtual_lock(spaces[2], bases[2], (limit - 2 * LOCKED + 1) * PG), TIDE_NO_MEMORY);
    assert_success(tide_virtual_lock(spaces[2], bases[2], (limit - 2 * LOCKED) * PG));
    fixture_close(fixture);
}

static void BF_11_what_is_no_frame_is_refused(void **state)
{
    struct fixture *fixture = *state;
    static const uint64_t sizes[] = { 100 * PG, 100 * PG };
    int local;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture->config.node_bytes = sizes;
    fixture->config.node_count = 2;
    fixture_open(fixture, 200);
    tide_retirement found = { .outcome = (tide_retire_outcome)99 };

    assert_status(tide_frame_retire(fixture->engine, 100, &found), TIDE_INVALID_PARAMETER); /* between the nodes */
    assert_status(tide_frame_retire(fixture->engine, UINT64_MAX, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_frame_retire_at(fixture->engine, &local, &found), TIDE_INVALID_PARAMETER);
    assert_status(tide_frame_retire_at(fixture->engine, NULL, &found), TIDE_INVALID_PARAMETER);
    assert_int_equal(found.outcome, 99);
    assert_success(tide_frame_retire(fixture->engine, 512 + 5, NULL));
    assert_int_equal(node_now(fixture, 0).bad, 0);
    assert_int_equal(node_now(fixture, 1).bad, 1);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 0);
    fixture_close(fixture);
}

/* ---- SIGBUS ----------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t chained;
static sigjmp_buf chained_out;
static volatile sig_atomic_t jump;

static void program_handler(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    chained++;
    if (jump)
        siglongjmp(chained_out, 1);
}

static void program_handler_install(struct sigaction *before)
{
    struct sigaction action = { .sa_sigaction = program_handler, .sa_flags = SA_SIGINFO };

    chained = 0;
    jump = 0;
    assert_int_equal(sigaction(SIGBUS, &action, before), 0);
}

/* SIGBUS as the kernel sends it for memory that somebody else found bad. */
static void send_action_optional(void *address)
{
    siginfo_t info = { .si_signo = SIGBUS, .si_code = BUS_MCEERR_AO };

    info.si_addr = address;
    info.si_addr_lsb = 12;
    assert_int_equal(syscall(SYS_rt_tgsigqueueinfo, getpid(), (pid_t)syscall(SYS_gettid), SIGBUS, &info), 0);
}

/* Whoever reads or writes this memory from now on gets SIGBUS: what is behind it is a file that is too short. */
static void break_memory(void *page)
{
    const int fd = memfd_create("short", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_ptr_equal(mmap(page, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), page);
    close(fd);
}

static void *pointer_to(tide_space *space, tide_address address)
{
    tide_pin *pin;
    unsigned count;

    assert_success(tide_pin_create(space, address, 1, TIDE_ACCESS_READ, &pin));
    void *pointer = tide_pin_iovec(pin, &count)->iov_base;
    tide_pin_destroy(pin);
    return pointer;
}

static void BF_12_action_optional_is_settled_by_a_worker(void **state)
{
    struct fixture *fixture = *state;
    struct sigaction before, now;
    tide_address base;
    int elsewhere;

    program_handler_install(&before);
    fixture->config.handle_memory_errors = true;
    tide_space *space = stamped(fixture, &base);
    void *pointer = pointer_to(space, base);
    const uint64_t frame = frame_of(space, base);

    send_action_optional(pointer);
    send_action_optional(pointer); /* told twice */
    assert_int_equal(chained, 0);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 1);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_bad(fixture, frame, 1);
    assert_lost(fixture, space, base);
    send_action_optional(&elsewhere); /* not ours: the program's handler */
    assert_int_equal(chained, 1);
    send_action_optional((char *)pointer + 64); /* known by now */
    assert_int_equal(chained, 1);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 0);
    fixture_close(fixture);
    /* The handler from before is back. */
    assert_int_equal(sigaction(SIGBUS, NULL, &now), 0);
    assert_ptr_equal(now.sa_sigaction, program_handler);
    assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);
}

/* A frame that was noted while it lies on a list is not given out before a worker has come round. */
static void BF_12_a_noted_frame_is_not_given_out(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;

    fixture->config.handle_memory_errors = true;
    tide_space *space = stamped(fixture, &base);
    void *pointer = pointer_to(space, base);
    const uint64_t frame = frame_of(space, base);
    region_decommit(space, base, 2); /* it is the first to be taken, and not the last, which the writers keep */
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_STANDBY_LOWEST)); /* its grace period passes */
    send_action_optional(pointer);
    assert_int_equal(state_of(fixture, frame), TIDE_FRAME_FREE);
    use_everything(fixture);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_bad(fixture, frame, 1);
    assert_int_equal(statistics_now(fixture).pages_lost, 0); /* no page was in it */
    fixture_close(fixture);
}

static void BF_13_a_copy_goes_on_after_bad_memory(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    char buffer[PAGES * PG], expected[PG];

    fixture->config.handle_memory_errors = true;
    tide_space *space = stamped(fixture, &base);
    clean(fixture, space);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    const uint64_t frame = frame_of(space, base + PG);
    break_memory(pointer_to(space, base + PG));
    /* Clean: the reader does not notice. */
    assert_success(tide_read(space, base, buffer, sizeof buffer));
    for (unsigned i = 0; i < PAGES; i++) {
        stamp_fill(expected, OWNER, base + (uint64_t)i * PG, 1);
        assert_memory_equal(buffer + (size_t)i * PG, expected, PG);
    }
    assert_bad(fixture, frame, 1);
    /* Dirty: told, up to there copied. */
    stamp_pages(space, base + 2 * PG, 3, OWNER, 2);
    break_memory(pointer_to(space, base + 3 * PG));
    assert_poisoned(tide_read(space, base + 2 * PG, buffer, 2 * PG), base + 3 * PG);
    stamp_fill(expected, OWNER, base + 2 * PG, 2);
    assert_memory_equal(buffer, expected, PG);
    assert_lost(fixture, space, base + 3 * PG);
    /* A write of a part is told, one of the whole page succeeds. */
    break_memory(pointer_to(space, base + 4 * PG));
    assert_poisoned(tide_write(space, base + 4 * PG + 8, "abc", 3), base + 4 * PG + 8);
    stamp_pages(space, base + 5 * PG, 1, OWNER, 2);
    break_memory(pointer_to(space, base + 5 * PG));
    stamp_pages(space, base + 5 * PG, 1, OWNER, 3);
    check_pages(space, base + 5 * PG, 1, OWNER, 3);
    assert_int_equal(statistics_now(fixture).bad_pages, 4);
    assert_int_equal(statistics_now(fixture).pages_lost, 3);
    /* A pinned one stays, and the copy is told all the same. */
    tide_pin *pin;
    stamp_pages(space, base + 6 * PG, 1, OWNER, 2);
    assert_success(tide_pin_create(space, base + 6 * PG, PG, TIDE_ACCESS_READ, &pin));
    break_memory(pointer_to(space, base + 6 * PG));
    assert_poisoned(tide_read(space, base + 6 * PG, buffer, 8), base + 6 * PG);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 1);
    tide_pin_destroy(pin);
    assert_int_equal(statistics_now(fixture).bad_pages, 5);
    fixture_close(fixture);
}

static void BF_14_zeroing_goes_on_after_bad_memory(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;

    fixture->config.handle_memory_errors = true;
    tide_space *space = stamped(fixture, &base);
    const uint64_t first = frame_of(space, base), second = frame_of(space, base + PG);
    break_memory(pointer_to(space, base));
    region_decommit(space, base, 1);
    zero_free(fixture); /* the zero-page thread */
    assert_bad(fixture, first, 1);
    break_memory(pointer_to(space, base + PG));
    region_decommit(space, base + PG, 1);
    assert_int_equal(state_of(fixture, second), TIDE_FRAME_FREE);
    use_everything(fixture); /* faults that zero inline */
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_bad(fixture, second, 2);
    check_pages(space, base + 2 * PG, PAGES - 2, OWNER, 1);
    fixture_close(fixture);
}

/* A run of frames with a bad one in it is no large page: the next is taken. */
static void BF_14_large_pages_are_found_beside_bad_memory(void **state)
{
    enum { RUN = TIDE_LARGE_PAGE_BYTES / PG, TOUCHED = 800 };
    struct fixture *fixture = *state;
    fixture->config.handle_memory_errors = true;
    fixture_open(fixture, 4 * RUN);
    tide_space *space = space_new(fixture);
    const tide_address scratch = region_new(space, TOUCHED);
    touch_pages(space, scratch, TOUCHED, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    uint64_t frame = 0;
    for (unsigned i = 0; i < TOUCHED && frame / RUN != 1; i++) {
        frame = frame_of(space, scratch + (uint64_t)i * PG);
        if (frame / RUN == 1)
            break_memory(pointer_to(space, scratch + (uint64_t)i * PG));
    }
    assert_int_equal(frame / RUN, 1);
    assert_success(tide_virtual_free(space, scratch, 0, TIDE_MEM_RELEASE));
    tide_address base = 0;
    uint64_t bytes = 3ull * TIDE_LARGE_PAGE_BYTES;
    const uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES;
    /* Page tables lie in the first run, so three are left to be had, and one of them is bad. */
    assert_status(tide_virtual_alloc(space, &base, &bytes, type, TIDE_PAGE_READWRITE), TIDE_NO_MEMORY);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_bad(fixture, frame, 1);
    bytes = 2ull * TIDE_LARGE_PAGE_BYTES;
    base = 0;
    assert_success(tide_virtual_alloc(space, &base, &bytes, type, TIDE_PAGE_READWRITE));
    stamp_pages(space, base, 2 * RUN, OWNER, 1);
    check_pages(space, base, 2 * RUN, OWNER, 1);
    fixture_close(fixture);
}

/* The writer cannot read the page, the fault cannot fill the frame: neither is the page file's fault. */
static void BF_14_page_file_io_goes_on_after_bad_memory(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;

    fixture->config.handle_memory_errors = true;
    fixture->config.disable_io_uring = true;
    fixture->config.disable_direct_io = true;
    tide_space *space = stamped(fixture, &base);
    const uint64_t frame = frame_of(space, base + 3 * PG);
    break_memory(pointer_to(space, base + 3 * PG));
    trim_all(space);
    write_modified(fixture);
    assert_bad(fixture, frame, 1);
    assert_int_equal(statistics_now(fixture).page_file_bad_slots, 0);
    assert_int_equal(statistics_now(fixture).pages_output, PAGES - 1);
    assert_lost(fixture, space, base + 3 * PG);
    check_pages(space, base, 3, OWNER, 1);
    check_pages(space, base + 4 * PG, PAGES - 4, OWNER, 1);
    stamp_pages(space, base + 3 * PG, 1, OWNER, 2);

    page_out(fixture, space);
    /* The next frame that is taken to be overwritten is the one that was freed first. */
    tide_space *other = space_new(fixture);
    const tide_address page = region_new(other, 2);
    touch_pages(other, page, 2, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    void *pointer = pointer_to(other, page);
    zero_free(fixture);
    const uint64_t target = frame_of(other, page);
    break_memory(pointer);
    region_decommit(other, page, 1);
    assert_int_equal(state_of(fixture, target), TIDE_FRAME_FREE);
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_STANDBY_LOWEST)); /* its grace period passes */
    check_pages(space, base, 3, OWNER, 1);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_bad(fixture, target, 2);
    check_pages(space, base + 4 * PG, PAGES - 4, OWNER, 1);
    check_pages(space, base + 3 * PG, 1, OWNER, 2);
    fixture_close(fixture);
}

static void BF_15_the_programs_own_access_is_the_programs_to_handle(void **state)
{
    struct fixture *fixture = *state;
    struct sigaction before;
    tide_address base;
    tide_access access;

    program_handler_install(&before);
    fixture->config.handle_memory_errors = true;
    tide_space *space = stamped(fixture, &base);
    assert_success(tide_access_begin(space, &access));
    volatile char *pointer = tide_access_pointer(&access, base, TIDE_ACCESS_WRITE);
    assert_non_null(pointer);
    break_memory((void *)(uintptr_t)pointer);
    jump = 1;
    if (sigsetjmp(chained_out, 1) == 0) {
        *pointer = 1;
        fail_msg("a write to memory that is gone came through");
    }
    tide_access_end(&access);
    assert_int_equal(chained, 1);
    assert_int_equal(statistics_now(fixture).bad_pages_pending, 1);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_lost(fixture, space, base);
    fixture_close(fixture);
    assert_int_equal(sigaction(SIGBUS, &before, NULL), 0);

    /* Without a handler of the program's own the process ends as it would without the library's. */
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        tide_config config;
        tide_engine *engine;
        void *memory;
        tide_space *own = NULL;
        tide_address at = 0;
        uint64_t bytes = PG;

        (void)signal(SIGBUS, SIG_DFL); /* cmocka has one */
        tide_config_init(&config);
        config.memory_bytes = 64 * PG;
        config.workers = TIDE_WORKERS_MANUAL;
        config.handle_memory_errors = true;
        if (tide_engine_open(&config, &engine) != TIDE_SUCCESS || tide_space_create(engine, &own) != TIDE_SUCCESS ||
            tide_virtual_alloc(own, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) !=
                TIDE_SUCCESS ||
            tide_access_begin(own, &access) != TIDE_SUCCESS)
            _exit(1);
        memory = tide_access_pointer(&access, at, TIDE_ACCESS_WRITE);
        const int fd = memfd_create("short", MFD_CLOEXEC);
        if (memory == NULL || mmap(memory, PG, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != memory)
            _exit(2);
        *(volatile char *)memory = 1;
        _exit(3);
    }
    int ended = 0;
    assert_int_equal(waitpid(child, &ended, 0), child);
    assert_true(WIFSIGNALED(ended));
    assert_int_equal(WTERMSIG(ended), SIGBUS);
}

/* With worker threads nobody need do anything: a trimmer thread settles what a signal brought. */
static void BF_16_worker_threads_settle_by_themselves(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;

    fixture->config.handle_memory_errors = true;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    tide_space *space = stamped(fixture, &base);
    stamp_pages(space, base, PAGES, OWNER, 2);
    void *pointer = pointer_to(space, base);
    const uint64_t frame = frame_of(space, base);
    send_action_optional(pointer);
    while (state_of(fixture, frame) != TIDE_FRAME_BAD)
        sleep_ms(1);
    stamp_pages(space, base, 1, OWNER, 3);
    check_pages(space, base, 1, OWNER, 3);
    check_pages(space, base + PG, PAGES - 1, OWNER, 2);
    while (statistics_now(fixture).commit_limit_pages != fixture->at_open.commit_limit_pages - 1)
        sleep_ms(1);
    fixture_close(fixture);
}

/* ---- many at once ----------------------------------------------------------------------------------------------- */

struct storm {
    struct fixture *fixture;
    tide_space *space;
    tide_address base;
};

enum { STORM_PAGES = 200, STORM_ROUNDS = 60, STORM_THREADS = 4 };

static void storm_member(struct crew_member *member)
{
    const struct storm *storm = member->context;
    const tide_address own = storm->base + (uint64_t)member->index * STORM_PAGES * PG;
    uint64_t versions[STORM_PAGES] = { 0 }, seed = member->index + 1;

    for (unsigned round = 0; round < STORM_ROUNDS * STORM_PAGES; round++) {
        const unsigned page = (unsigned)(random_step(&seed) % STORM_PAGES);
        const tide_address at = own + (uint64_t)page * PG;

        if (versions[page] != 0) {
            const tide_status status = stamp_check(storm->space, at, member->index, versions[page]);
            const bool lost = status == TIDE_IN_PAGE_ERROR && tide_last_error()->io_error == EHWPOISON;
            CREW_CHECK(member, status == TIDE_SUCCESS || lost);
        }
        CREW_CHECK(member, stamp_put(storm->space, at, member->index, ++versions[page]) == TIDE_SUCCESS);
        if (round % 400 == member->index) {
            const uint64_t frame = random_step(&seed) % tide_frame_number_end(storm->fixture->engine);
            const tide_status status = tide_frame_retire(storm->fixture->engine, frame, NULL);
            CREW_CHECK(member, status == TIDE_SUCCESS || status == TIDE_HARDWARE_MEMORY_ERROR);
        }
    }
}

static void BF_17_frames_go_bad_under_threads(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.cpu_cache_pages = 0;
    fixture->config.list_shards = 0;
    fixture_page_file(fixture, 2048);
    fixture_open(fixture, 1024);
    struct storm storm = { .fixture = fixture, .space = space_new(fixture) };
    storm.base = region_new(storm.space, STORM_THREADS * STORM_PAGES);
    crew_run(STORM_THREADS, storm_member, &storm);
    fixture_verify(fixture);
    assert_true(statistics_now(fixture).bad_pages > 50);
    fixture_close(fixture);
}

static const struct CMUnitTest bad_frames[] = {
    API_TEST(BF_1_free_and_zeroed_frames_are_never_given_out_again),
    API_TEST(BF_1_frames_in_cpu_caches_too),
    API_TEST(BF_2_a_standby_page_is_read_again),
    API_TEST(BF_3_an_active_clean_page_is_read_again),
    API_TEST(BF_3_a_reset_page_is_zeros),
    API_TEST(BF_4_an_active_dirty_page_is_lost_until_it_is_written_as_a_whole),
    API_TEST(BF_5_a_modified_page_is_lost_until_its_content_is_given_up),
    API_TEST(BF_5_an_earlier_loss_is_not_forgotten),
    API_TEST(BF_6_a_pinned_frame_waits_for_its_last_pin),
    API_TEST(BF_6_a_frame_under_write_waits_for_its_end),
    API_TEST(BF_7_a_lock_ends_with_its_page),
    API_TEST(BF_8_a_page_of_a_large_page),
    API_TEST(BF_9_a_page_table_stays_until_it_is_freed),
    API_TEST(BF_10_what_is_left_can_be_committed_and_locked),
    API_TEST(BF_10_bad_frames_cannot_be_promised_to_locks),
    API_TEST(BF_11_what_is_no_frame_is_refused),
    API_TEST(BF_12_action_optional_is_settled_by_a_worker),
    API_TEST(BF_12_a_noted_frame_is_not_given_out),
    API_TEST(BF_13_a_copy_goes_on_after_bad_memory),
    API_TEST(BF_14_zeroing_goes_on_after_bad_memory),
    API_TEST(BF_14_large_pages_are_found_beside_bad_memory),
    API_TEST(BF_14_page_file_io_goes_on_after_bad_memory),
    API_TEST(BF_15_the_programs_own_access_is_the_programs_to_handle),
    API_TEST(BF_16_worker_threads_settle_by_themselves),
    API_TEST(BF_17_frames_go_bad_under_threads),
};

API_MAIN(bad_frames)

/*
 * Acceptance cases of contents that may be dropped, locked or fetched ahead (nt-behaviour 6: RS-1 to RS-6; 15: WS-5),
 * what else these calls promise, their bad arguments, and all of them at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool page_is_zero(tide_space *space, tide_address address)
{
    static const char zeros[PG];
    char page[PG];

    assert_success(tide_read(space, address, page, PG));
    return memcmp(page, zeros, PG) == 0;
}

static uint32_t protection_at(tide_space *space, tide_address address)
{
    tide_region region;

    assert_success(tide_virtual_query(space, address, &region));
    assert_int_equal(region.state, TIDE_MEM_COMMIT);
    return region.protection;
}

/* ---- reset ------------------------------------------------------------------------------------------------------ */

static void rs_1_reset_pages_are_never_written(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 1000 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    /* A part in the working set, a part on the modified list. */
    assert_success(tide_working_set_trim(space, PAGES / 2, NULL));
    const uint64_t private_pages = space_now(space).private_pages;
    const uint64_t writes = statistics_now(fixture).page_writes;

    assert_success(tide_virtual_reset(space, base, PAGES * PG));
    assert_int_equal(node_now(fixture, 0).modified, 0);
    assert_int_equal(space_now(space).working_set_pages, PAGES / 2);
    assert_int_equal(space_now(space).private_pages, private_pages);
    check_pages(space, base, PAGES, 1, 1); /* nothing needed a frame yet */
    fixture_verify(fixture);
    trim_all(space);
    assert_int_equal(node_now(fixture, 0).modified, 0);
    write_modified(fixture);
    empty_standby(fixture);
    fixture_verify(fixture);
    assert_int_equal(statistics_now(fixture).reset_pages_lost, PAGES);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(page_is_zero(space, base + i * PG));
    assert_int_equal(statistics_now(fixture).page_writes, writes);
    assert_int_equal(statistics_now(fixture).pages_input, 0);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    fixture_close(fixture);
}

static void rs_2_undo_without_pressure_keeps_every_byte(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 90 };
    fixture_page_file(fixture, 200);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES + 10);
    stamp_pages(space, base, PAGES, 1, 1);
    /* The first third: clean, with a slot; the second: modified; the third: in the working set. */
    page_out(fixture, space);
    check_pages(space, base, PAGES, 1, 1);
    stamp_pages(space, base + PAGES / 3 * PG, PAGES / 3 * 2, 1, 2);
    trim_all(space);
    touch_pages(space, base + PAGES / 3 * 2 * PG, PAGES / 3, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES / 3);

    assert_success(tide_virtual_reset(space, base, (PAGES + 10) * PG));
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    fixture_verify(fixture);
    assert_success(tide_virtual_reset_undo(space, base, (PAGES + 10) * PG));
    fixture_verify(fixture);
    page_out(fixture, space);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES);
    check_pages(space, base, PAGES / 3, 1, 1);
    check_pages(space, base + PAGES / 3 * PG, PAGES / 3 * 2, 1, 2);
    assert_true(page_is_zero(space, base + PAGES * PG));
    /* Undo of what was not reset. */
    assert_success(tide_virtual_reset_undo(space, base, (PAGES + 10) * PG));
    check_pages(space, base, PAGES / 3, 1, 1);
    fixture_close(fixture);
}

static void rs_2_reset_and_undo_are_allocation_types(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 10);
    stamp_pages(space, base, 10, 1, 1);
    /* Whole pages only: of 4 pages and a half from the middle of the first on, the 4 behind it. */
    tide_address at = base + PG / 2;
    uint64_t bytes = 4 * PG + PG / 2;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET, TIDE_PAGE_NOACCESS));
    assert_int_equal(at, base + PG);
    assert_int_equal(bytes, 4 * PG);
    trim_all(space);
    empty_standby(fixture);
    check_pages(space, base, 1, 1, 1);
    for (unsigned i = 1; i < 5; i++)
        assert_true(page_is_zero(space, base + i * PG));
    check_pages(space, base + 5 * PG, 5, 1, 1);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET_UNDO, TIDE_PAGE_READONLY), TIDE_CONTENTS_LOST);
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET_UNDO, TIDE_PAGE_READONLY));
    at = base;
    bytes = 10;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET, TIDE_PAGE_READWRITE));
    assert_int_equal(bytes, 0);
    /* Not combinable, and the protection is one. */
    bytes = PG;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET | TIDE_MEM_RESET_UNDO, TIDE_PAGE_READWRITE),
                  TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET, 0), TIDE_INVALID_PAGE_PROTECTION);
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_RESET, TIDE_PAGE_WRITECOPY),
                  TIDE_INVALID_PAGE_PROTECTION);
    trim_all(space);
    empty_standby(fixture);
    check_pages(space, base, 1, 1, 1);
    fixture_close(fixture);
}

static void rs_3_undo_under_pressure_tells_what_was_lost(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 100 };
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, 300);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    assert_success(tide_virtual_reset(space, base, PAGES * PG));
    /* All of memory, three times over. */
    tide_space *other = space_new(fixture);
    const tide_address fresh = region_new(other, 900);
    stamp_pages(other, fresh, 900, 2, 1);
    assert_true(statistics_now(fixture).reset_pages_lost > 0);

    assert_status(tide_virtual_reset_undo(space, base, PAGES * PG), TIDE_CONTENTS_LOST);
    unsigned lost = 0;
    for (unsigned i = 0; i < PAGES; i++) {
        const bool zero = page_is_zero(space, base + i * PG);
        lost += zero;
        if (!zero)
            assert_success(stamp_check(space, base + i * PG, 1, 1));
    }
    assert_int_equal(lost, statistics_now(fixture).reset_pages_lost);
    /* Told once; and they are ordinary pages again. */
    assert_success(tide_virtual_reset_undo(space, base, PAGES * PG));
    stamp_pages(space, base, PAGES, 1, 2);
    stamp_pages(other, fresh, 900, 2, 2);
    check_pages(space, base, PAGES, 1, 2);
    check_pages(other, fresh, 900, 2, 2);
    fixture_close(fixture);
}

/* That a page was lost is not forgotten by touching it, nor on its way through the page file and back. */
static void rs_3_a_lost_page_that_was_touched_is_still_lost(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 8);
    stamp_pages(space, base, 8, 1, 1);
    assert_success(tide_virtual_reset(space, base, 4 * PG));
    trim_all(space);
    empty_standby(fixture);
    for (unsigned i = 0; i < 4; i++)
        assert_true(page_is_zero(space, base + i * PG));
    fixture_verify(fixture);
    assert_status(tide_virtual_reset_undo(space, base, PG), TIDE_CONTENTS_LOST); /* valid */
    trim_all(space);
    assert_status(tide_virtual_reset_undo(space, base + PG, PG), TIDE_CONTENTS_LOST); /* modified */
    write_modified(fixture);
    fixture_verify(fixture);
    empty_standby(fixture);
    fixture_verify(fixture);
    assert_status(tide_virtual_reset_undo(space, base + 2 * PG, PG), TIDE_CONTENTS_LOST); /* page file */
    assert_true(page_is_zero(space, base + 3 * PG));                                      /* and back, clean */
    assert_status(tide_virtual_reset_undo(space, base + 3 * PG, PG), TIDE_CONTENTS_LOST);
    assert_success(tide_virtual_reset_undo(space, base, 8 * PG));
    check_pages(space, base + 4 * PG, 4, 1, 1);
    /* A new reset begins anew. */
    assert_success(tide_virtual_reset(space, base + 4 * PG, PG));
    trim_all(space);
    empty_standby(fixture);
    stamp_pages(space, base + 4 * PG, 1, 1, 2);
    assert_success(tide_virtual_reset(space, base + 4 * PG, PG));
    assert_success(tide_virtual_reset_undo(space, base + 4 * PG, PG));
    check_pages(space, base + 4 * PG, 1, 1, 2);
    fixture_close(fixture);
}

static void rs_a_write_makes_a_reset_page_needed_again(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 30 };
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    assert_success(tide_virtual_reset(space, base, PAGES * PG));
    stamp_pages(space, base, 10, 1, 2); /* valid */
    trim_all(space);
    stamp_pages(space, base + 10 * PG, 10, 1, 2); /* standby */
    fixture_verify(fixture);
    page_out(fixture, space);
    fixture_verify(fixture);
    check_pages(space, base, 20, 1, 2);
    for (unsigned i = 20; i < PAGES; i++)
        assert_true(page_is_zero(space, base + i * PG));
    fixture_close(fixture);
}

static void rs_pinned_pages_and_writes_in_flight_are_not_reset(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    stamp_pages(space, base, 4, 1, 1);
    tide_pin *pin;
    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_WRITE, &pin));
    assert_success(tide_virtual_reset(space, base, 4 * PG));
    unsigned count;
    stamp_fill(tide_pin_iovec(pin, &count)[0].iov_base, 1, base, 2);
    trim_all(space);
    fixture_verify(fixture);
    tide_pin_destroy(pin);
    page_out(fixture, space);
    check_pages(space, base, 1, 1, 2);
    for (unsigned i = 1; i < 4; i++)
        assert_true(page_is_zero(space, base + i * PG));
    fixture_close(fixture);
}

/* What is in the page file only is dropped at once, and its slots are free. */
static void rs_reset_frees_the_page_file(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 20);
    stamp_pages(space, base, 20, 1, 1);
    page_out(fixture, space);
    assert_int_equal(pages_in_state(space, base, 20, TIDE_PAGE_STATE_PAGE_FILE), 20);
    assert_success(tide_virtual_reset(space, base, 10 * PG));
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 10);
    assert_int_equal(pages_in_state(space, base, 20, TIDE_PAGE_STATE_DEMAND_ZERO), 10);
    fixture_verify(fixture);
    assert_status(tide_virtual_reset_undo(space, base, 20 * PG), TIDE_CONTENTS_LOST);
    check_pages(space, base + 10 * PG, 10, 1, 1);
    /* Other calls on such pages: commit anew, protect, decommit. */
    assert_success(tide_virtual_reset(space, base, 10 * PG));
    uint32_t old;
    assert_success(tide_virtual_protect(space, base, 2 * PG, TIDE_PAGE_READONLY, &old));
    assert_int_equal(old, TIDE_PAGE_READWRITE);
    tide_address at = base;
    uint64_t bytes = 4 * PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    region_decommit(space, base, 3);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* ---- discard ---------------------------------------------------------------------------------------------------- */

static void rs_discard_drops_at_once_and_keeps_the_charge(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture->config.cluster_pages = 1;
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 40);
    stamp_pages(space, base, 30, 1, 1);
    page_out(fixture, space);
    check_pages(space, base, 20, 1, 1);
    trim_all(space);
    stamp_pages(space, base, 10, 1, 2);
    const uint64_t charge = statistics_now(fixture).commit_total_pages;
    const tide_node_statistics node = node_now(fixture, 0);
    assert_success(tide_virtual_discard(space, base, 40 * PG));
    assert_int_equal(statistics_now(fixture).commit_total_pages, charge);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(node_now(fixture, 0).free, node.free + 20);
    assert_int_equal(pages_in_state(space, base, 40, TIDE_PAGE_STATE_DEMAND_ZERO), 40);
    assert_int_equal(protection_at(space, base), TIDE_PAGE_READWRITE);
    fixture_verify(fixture);
    for (unsigned i = 0; i < 40; i++)
        assert_true(page_is_zero(space, base + i * PG));
    fixture_close(fixture);
}

/* ---- offer ------------------------------------------------------------------------------------------------------ */

static void rs_4_offer_and_reclaim(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 100 };
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES + 20);
    stamp_pages(space, base, PAGES, 1, 1);
    assert_success(tide_working_set_trim(space, 30, NULL));
    const uint64_t private_pages = space_now(space).private_pages;

    assert_success(tide_virtual_offer(space, base, (PAGES + 20) * PG, TIDE_OFFER_LOW));
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(space_now(space).offered_pages, PAGES + 20);
    assert_int_equal(space_now(space).private_pages, private_pages);
    assert_int_equal(node_now(fixture, 0).standby[1], PAGES);
    assert_int_equal(node_now(fixture, 0).modified, 0);
    assert_int_equal(protection_at(space, base), TIDE_PAGE_NOACCESS);
    for (unsigned i = 0; i < PAGES + 20; i++) {
        assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
        assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    }
    write_modified(fixture);
    fixture_verify(fixture);
    assert_success(tide_virtual_reclaim(space, base, (PAGES + 20) * PG));
    assert_int_equal(space_now(space).offered_pages, 0);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(protection_at(space, base), TIDE_PAGE_READWRITE);
    fixture_verify(fixture);
    page_out(fixture, space); /* they are needed again, and so written */
    check_pages(space, base, PAGES, 1, 1);

    /* With pressure. */
    assert_success(tide_virtual_offer(space, base, PAGES * PG, TIDE_OFFER_NORMAL));
    const uint64_t writes = statistics_now(fixture).page_writes;
    empty_standby(fixture);
    assert_int_equal(statistics_now(fixture).page_writes, writes);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    fixture_verify(fixture);
    assert_status(tide_touch(space, base, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
    assert_status(tide_virtual_reclaim(space, base, PAGES * PG), TIDE_CONTENTS_LOST);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(page_is_zero(space, base + i * PG));
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    assert_success(tide_virtual_reset_undo(space, base, PAGES * PG)); /* that was another matter */
    stamp_pages(space, base, PAGES, 1, 3);
    page_out(fixture, space);
    check_pages(space, base, PAGES, 1, 3);
    fixture_close(fixture);
}

/* Before ordinary pages of like rank, and the lower the offer the sooner. */
static void rs_4_offered_pages_are_taken_by_priority(void **state)
{
    struct fixture *fixture = *state;
    static const unsigned list[] = { 0, 0, 1, 3, 4 };
    fixture_page_file(fixture, 200);
    fixture_open(fixture, 300);
    tide_space *space = space_new(fixture);
    const tide_address ordinary = region_new(space, 20), base = region_new(space, 50);
    stamp_pages(space, ordinary, 20, 1, 1);
    trim_all(space);
    write_modified(fixture); /* standby, priority 5 */
    stamp_pages(space, base, 50, 1, 1);
    for (unsigned priority = 1; priority <= 4; priority++) {
        assert_success(tide_virtual_offer(space, base + (priority - 1) * 10 * PG, 10 * PG, priority));
        assert_int_equal(node_now(fixture, 0).standby[list[priority]], 10);
    }
    assert_int_equal(node_now(fixture, 0).standby[5], 20);
    write_modified(fixture); /* there is nothing to write, but the grace period moves on */
    tide_address fresh = region_new(space, 400);
    consume_frames(fixture, space, &fresh, 0);
    for (unsigned i = 0; i < 25; i++, fresh += PG)
        assert_false(tide_failed(tide_touch(space, fresh, TIDE_ACCESS_WRITE)));
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(node.standby[0] + node.standby[1], 0);
    assert_true(node.standby[3] <= 5);
    assert_int_equal(node.standby[4], 10);
    assert_int_equal(node.standby[5], 20);
    assert_status(tide_virtual_reclaim(space, base, 20 * PG), TIDE_CONTENTS_LOST);
    assert_success(tide_virtual_reclaim(space, base + 30 * PG, 10 * PG));
    check_pages(space, base + 30 * PG, 10, 1, 1);
    check_pages(space, ordinary, 20, 1, 1);
    fixture_close(fixture);
}

static void rs_4_what_else_may_be_done_to_offered_pages(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture->config.cluster_pages = 1;
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 20);
    uint32_t old = 0;
    stamp_pages(space, base, 10, 1, 1);
    page_out(fixture, space);
    check_pages(space, base, 5, 1, 1); /* 5 clean, 5 in the page file only, 10 never touched */
    tide_pin *pin;
    assert_success(tide_pin_create(space, base, PG, TIDE_ACCESS_READ, &pin));
    assert_status(tide_virtual_offer(space, base, 20 * PG, 1), TIDE_DEVICE_BUSY);
    assert_int_equal(space_now(space).offered_pages, 0);
    tide_pin_destroy(pin);
    assert_success(tide_virtual_lock(space, base, 2 * PG));
    assert_success(tide_virtual_offer(space, base, 20 * PG, 1));
    assert_int_equal(space_now(space).locked_pages, 0);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    assert_status(tide_virtual_offer(space, base, PG, 1), TIDE_INVALID_PAGE_PROTECTION);
    assert_status(tide_virtual_discard(space, base, PG), TIDE_INVALID_PAGE_PROTECTION);
    assert_status(tide_virtual_protect(space, base, PG, TIDE_PAGE_READONLY, &old), TIDE_INVALID_PAGE_PROTECTION);
    assert_status(tide_virtual_protect(space, base, 20 * PG, TIDE_PAGE_READONLY, &old), TIDE_INVALID_PAGE_PROTECTION);
    tide_address at = base;
    uint64_t bytes = 20 * PG;
    assert_status(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_INVALID_PAGE_PROTECTION);
    assert_status(tide_virtual_lock(space, base, PG), TIDE_ACCESS_VIOLATION);
    assert_status(tide_virtual_unlock(space, base, PG), TIDE_NOT_LOCKED);
    assert_success(tide_virtual_reset(space, base, 20 * PG));
    assert_success(tide_virtual_reset_undo(space, base, 20 * PG));
    assert_int_equal(node_now(fixture, 0).modified, 0); /* undo is not reclaim */
    assert_success(tide_virtual_prefetch(space, &(tide_memory_range){ base, 20 * PG }, 1, 0));
    fixture_verify(fixture);
    /* In the page file only: lost. Never touched, or in memory: not. */
    assert_status(tide_virtual_reclaim(space, base + 5 * PG, 5 * PG), TIDE_CONTENTS_LOST);
    assert_success(tide_virtual_reclaim(space, base, 5 * PG));
    check_pages(space, base, 5, 1, 1);
    assert_success(tide_virtual_reclaim(space, base + 10 * PG, 5 * PG));
    assert_status(tide_virtual_reclaim(space, base + 10 * PG, 10 * PG), TIDE_INVALID_PARAMETER);
    assert_int_equal(space_now(space).offered_pages, 5);
    region_decommit(space, base + 15 * PG, 2);
    assert_int_equal(space_now(space).offered_pages, 3);
    assert_status(tide_virtual_reclaim(space, base + 15 * PG, 5 * PG), TIDE_NOT_COMMITTED);
    fixture_verify(fixture);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).offered_pages, 0);
    fixture_close(fixture);
}

/* A page that is being written when it is offered. */
static void *write_modified_thread(void *context)
{
    write_modified(context);
    return NULL;
}

static void rs_4_a_page_offered_during_its_write_is_intact(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    stamp_pages(space, base, 4, 1, 1);
    trim_all(space);
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_modified_thread, fixture), 0);
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    assert_success(tide_virtual_reset(space, base, 2 * PG));
    assert_success(tide_virtual_reset_undo(space, base, 2 * PG));
    assert_success(tide_virtual_offer(space, base + 2 * PG, 2 * PG, 1));
    assert_status(tide_touch(space, base + 2 * PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    pthread_join(thread, NULL);
    fixture_verify(fixture);
    empty_standby(fixture);
    fixture_verify(fixture);
    assert_success(tide_virtual_reclaim(space, base + 2 * PG, 2 * PG));
    check_pages(space, base, 4, 1, 1);
    fixture_close(fixture);
}

/* ---- lock ------------------------------------------------------------------------------------------------------- */

static void rs_5_locks_are_limited_by_the_minimum(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 200);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 100);
    assert_status(tide_virtual_lock(space, base, 60 * PG), TIDE_WORKING_SET_QUOTA);
    assert_non_null(strstr(tide_last_error()->message, "60"));
    assert_non_null(strstr(tide_last_error()->message, "50"));
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(space_now(space).locked_pages, 0);
    assert_status(tide_virtual_lock(space, base, 43 * PG), TIDE_WORKING_SET_QUOTA);
    assert_success(tide_virtual_lock(space, base, 42 * PG));
    assert_int_equal(space_now(space).working_set_pages, 42);
    assert_status(tide_virtual_lock(space, base + 42 * PG, 1), TIDE_WORKING_SET_QUOTA);
    assert_success(tide_virtual_lock(space, base, 42 * PG)); /* locked already: no more quota */
    assert_success(tide_working_set_set_limits(space, 100, 345, 0));
    assert_success(tide_virtual_lock(space, base, 60 * PG));
    assert_int_equal(space_now(space).locked_pages, 60);
    assert_int_equal(statistics_now(fixture).locked_pages, 60);
    /* Locked twice, unlocked once: trim can take them. */
    assert_success(tide_virtual_lock(space, base, 60 * PG));
    assert_success(tide_virtual_unlock(space, base, 60 * PG));
    assert_int_equal(space_now(space).locked_pages, 0);
    assert_int_equal(space_now(space).working_set_pages, 60);
    trim_all(space);
    /* Decommit, discard and release give the quota back. */
    assert_success(tide_virtual_lock(space, base, 92 * PG));
    region_decommit(space, base, 10);
    assert_success(tide_virtual_discard(space, base + 10 * PG, 10 * PG));
    assert_int_equal(space_now(space).locked_pages, 72);
    fixture_verify(fixture);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_int_equal(space_now(space).locked_pages, 0);
    fixture_close(fixture);
}

static void rs_5_unlock_of_pages_not_locked_trims_them(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 200);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 30);
    stamp_pages(space, base, 30, 1, 1);
    assert_success(tide_virtual_lock(space, base, 10 * PG));
    assert_status(tide_virtual_unlock(space, base, 20 * PG), TIDE_NOT_LOCKED);
    assert_int_equal(space_now(space).working_set_pages, 20);
    assert_int_equal(space_now(space).locked_pages, 10);
    assert_int_equal(pages_in_state(space, base + 10 * PG, 10, TIDE_PAGE_STATE_MODIFIED), 10);
    assert_success(tide_virtual_unlock(space, base, 10 * PG));
    assert_status(tide_virtual_unlock(space, base, 30 * PG), TIDE_NOT_LOCKED);
    assert_int_equal(space_now(space).working_set_pages, 0);
    check_pages(space, base, 30, 1, 1);
    fixture_close(fixture);
}

/* Whatever fails in the middle, nothing stays locked that was not before. */
static void rs_5_a_lock_that_fails_locks_nothing(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 200);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 40);
    stamp_pages(space, base, 40, 1, 1);
    page_out(fixture, space);
    check_pages(space, base, 10, 1, 1);
    assert_success(tide_virtual_lock(space, base, 3 * PG));
    device_fail(&fixture->device, TIDE_IO_READ, 5, 0, DEVICE_ALWAYS);
    assert_status(tide_virtual_lock(space, base, 40 * PG), TIDE_IN_PAGE_ERROR);
    device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
    assert_int_equal(space_now(space).locked_pages, 3);
    fixture_verify(fixture);
    assert_success(tide_virtual_lock(space, base, 40 * PG));
    assert_int_equal(space_now(space).locked_pages, 40);
    assert_success(tide_virtual_unlock(space, base, 40 * PG));
    fixture_close(fixture);
}

/* However large the minimums, the engine keeps frames to go on with. */
static void rs_5_locks_leave_frames_for_others(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 300, MINIMUM = 250 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, FRAMES);
    tide_space *first = space_new(fixture), *second = space_new(fixture), *other = space_new(fixture);
    const tide_address in_first = region_new(first, FRAMES), in_second = region_new(second, FRAMES);
    const tide_address fresh = region_new(other, 600);
    assert_success(tide_working_set_set_limits(first, MINIMUM, MINIMUM, 0));
    assert_success(tide_working_set_set_limits(second, MINIMUM, MINIMUM, 0));
    assert_success(tide_virtual_lock(first, in_first, 150 * PG));
    assert_status(tide_virtual_lock(second, in_second, 200 * PG), TIDE_NO_MEMORY);
    assert_int_equal(space_now(second).locked_pages, 0);
    uint64_t locked = 0;
    while (tide_virtual_lock(second, in_second + locked * PG, PG) == TIDE_SUCCESS)
        locked++;
    assert_int_equal(tide_last_error()->status, TIDE_NO_MEMORY);
    assert_int_equal(space_now(second).locked_pages, locked);
    assert_between(150 + locked, FRAMES / 2, FRAMES - 8);
    stamp_pages(other, fresh, 600, 2, 1);
    check_pages(other, fresh, 600, 2, 1);
    assert_int_equal(pages_in_state(first, in_first, 150, TIDE_PAGE_STATE_ACTIVE), 150);
    assert_int_equal(pages_in_state(second, in_second, locked, TIDE_PAGE_STATE_ACTIVE), locked);
    fixture_close(fixture);
}

static void ws_5_locked_pages_survive_every_trim(void **state)
{
    struct fixture *fixture = *state;
    enum { LOCKED = 40, OTHERS = 160 };
    fixture_page_file(fixture, 3000);
    fixture_open(fixture, 500);
    tide_space *space = space_new(fixture), *other = space_new(fixture);
    const tide_address base = region_new(space, LOCKED + OTHERS), fresh = region_new(other, 1500);
    stamp_pages(space, base, LOCKED + OTHERS, 1, 1);
    page_out(fixture, space);
    assert_success(tide_virtual_lock(space, base, LOCKED * PG)); /* brings them in */
    stamp_pages(space, base + LOCKED * PG, OTHERS, 1, 2);
    uint64_t trimmed = 0;

    tide_working_set_statistics set = { 0 };
    assert_success(tide_working_set_statistics_get(space, &set));
    assert_int_equal(set.locked_pages, LOCKED);
    tide_working_set_entry entries[] = { { .address = base }, { .address = base + LOCKED * PG } };
    assert_success(tide_working_set_query(space, entries, 2));
    assert_true(entries[0].locked && !entries[1].locked);
    assert_success(tide_working_set_trim(space, UINT64_MAX, &trimmed));
    assert_int_equal(trimmed, OTHERS);
    assert_int_equal(space_now(space).working_set_pages, LOCKED);
    check_pages(space, base + LOCKED * PG, OTHERS, 1, 2);
    assert_success(tide_working_set_empty(space));
    assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_WORKING_SETS));
    assert_int_equal(space_now(space).working_set_pages, LOCKED);
    /* The trimmer, under pressure. */
    for (unsigned i = 0; i < 10; i++)
        assert_success(tide_clock_advance(fixture->engine, 1000));
    stamp_pages(other, fresh, 1500, 2, 1);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    assert_int_equal(pages_in_state(space, base, LOCKED, TIDE_PAGE_STATE_ACTIVE), LOCKED);
    /* Local replacement at a hard maximum. */
    assert_success(tide_working_set_set_limits(space, 50, 60, TIDE_WORKING_SET_HARD_MAXIMUM));
    for (unsigned round = 0; round < 2; round++)
        check_pages(space, base + LOCKED * PG, OTHERS, 1, 2);
    assert_true(space_now(space).working_set_pages <= 60);
    const uint64_t faults = space_now(space).faults.page_faults;
    check_pages(space, base, LOCKED, 1, 1);
    assert_int_equal(space_now(space).faults.page_faults, faults);
    fixture_verify(fixture);
    assert_success(tide_virtual_unlock(space, base, LOCKED * PG));
    trim_all(space);
    fixture_close(fixture);
}

/* ---- prefetch --------------------------------------------------------------------------------------------------- */

static void rs_6_prefetch_reads_clusters_to_standby(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 256 };
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, 1000);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 2 * PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    page_out(fixture, space);
    const tide_statistics before = statistics_now(fixture);
    /* Two halves, an uncommitted place, and pages that were never touched. */
    const tide_memory_range ranges[] = { { base + PAGES / 2 * PG, PAGES * PG },
                                         { 0x10000, PG },
                                         { base + 100, PAGES / 2 * PG - 100 } };
    assert_success(tide_virtual_prefetch(space, ranges, 3, 0));
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.pages_input - before.pages_input, PAGES);
    assert_int_equal(after.pages_prefetched, PAGES);
    assert_between(after.page_reads - before.page_reads, 1, PAGES / 8);
    assert_int_equal(after.faults.page_faults, before.faults.page_faults);
    assert_int_equal(space_now(space).working_set_pages, 0);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_STANDBY), PAGES);
    fixture_verify(fixture);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    const tide_statistics touched = statistics_now(fixture);
    assert_int_equal(touched.faults.transition - after.faults.transition, PAGES);
    assert_int_equal(touched.faults.hard, 0);
    assert_int_equal(touched.pages_input, after.pages_input);
    check_pages(space, base, PAGES, 1, 1);
    /* Again: there is nothing to do. */
    assert_success(tide_virtual_prefetch(space, ranges, 3, 0));
    assert_int_equal(statistics_now(fixture).pages_input, after.pages_input);
    fixture_close(fixture);
}

enum { SINGLES = 8 };
static struct {
    atomic_uint reads;
    atomic_bool go_on;
} last_read;

/* A device that takes its time, and for the last read until it is told. */
static int last_read_waits(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    (void)context, (void)file, (void)slot, (void)pages;
    if (kind != TIDE_IO_READ)
        return 0;
    if (atomic_fetch_add(&last_read.reads, 1) + 1 < SINGLES)
        sleep_ms(20);
    else
        while (!atomic_load(&last_read.go_on))
            sleep_ms(1);
    return 0;
}

struct prefetch_call {
    tide_space *space;
    tide_memory_range range;
};

static void prefetch_thread(struct crew_member *member)
{
    const struct prefetch_call *call = member->context;

    CREW_CHECK(member, tide_virtual_prefetch(call->space, &call->range, 1, 0) == TIDE_SUCCESS);
}

/* Of pages that are read each on its own, the first can be used before the last is read. */
static void rs_6_prefetched_pages_do_not_wait_for_each_other(void **state)
{
    struct fixture *fixture = *state;
    static struct prefetch_call call;
    atomic_store(&last_read.reads, 0);
    atomic_store(&last_read.go_on, false);
    fixture->config.io_filter = last_read_waits;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, 1000);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 2 * SINGLES);
    for (uint64_t i = 0; i < SINGLES; i++)
        assert_success(stamp_put(space, base + 2 * i * PG, 1, 1));
    page_out(fixture, space);
    call = (struct prefetch_call){ space, { base, 2 * SINGLES * PG } };
    struct crew *crew = crew_start(1, prefetch_thread, &call);
    for (unsigned i = 0; i < 20000 && statistics_now(fixture).pages_prefetched < SINGLES / 2; i++)
        sleep_ms(1);
    const uint64_t prefetched = statistics_now(fixture).pages_prefetched;
    if (prefetched >= SINGLES / 2)
        assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    atomic_store(&last_read.go_on, true);
    crew_join(crew);
    assert_between(prefetched, SINGLES / 2, SINGLES - 1);
    assert_int_equal(statistics_now(fixture).pages_prefetched, SINGLES);
    assert_int_equal(statistics_now(fixture).page_reads, SINGLES);
    for (uint64_t i = 0; i < SINGLES; i++)
        assert_success(stamp_check(space, base + 2 * i * PG, 1, 1));
    assert_int_equal(statistics_now(fixture).page_reads, SINGLES);
    fixture_close(fixture);
}

/* One read of several fails: its pages are as before, the others are there. Runs of many lengths, more than at once. */
static void rs_6_prefetch_forgets_errors(void **state)
{
    struct fixture *fixture = *state;
    enum { RUNS = 40, STRIDE = 24 };
    fixture_page_file(fixture, 2 * RUNS * STRIDE);
    fixture_open(fixture, 2 * RUNS * STRIDE);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, RUNS * STRIDE);
    uint64_t pages = 0;
    for (uint64_t r = 0; r < RUNS; r++) {
        stamp_pages(space, base + r * STRIDE * PG, 1 + r % (STRIDE - 1), 1, 1);
        pages += 1 + r % (STRIDE - 1);
    }
    page_out(fixture, space);
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 10, 3);
    assert_success(tide_virtual_prefetch(space, &(tide_memory_range){ base, RUNS * STRIDE * PG }, 1, 0));
    assert_int_equal(device_failed(&fixture->device, TIDE_IO_READ), 3);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.read_errors, 3);
    assert_between(after.pages_prefetched, pages - 3 * STRIDE, pages - 3);
    assert_int_equal(pages_in_state(space, base, RUNS * STRIDE, TIDE_PAGE_STATE_STANDBY), after.pages_prefetched);
    assert_int_equal(pages_in_state(space, base, RUNS * STRIDE, TIDE_PAGE_STATE_PAGE_FILE),
                     pages - after.pages_prefetched);
    fixture_verify(fixture);
    for (uint64_t r = 0; r < RUNS; r++)
        check_pages(space, base + r * STRIDE * PG, 1 + r % (STRIDE - 1), 1, 1);
    fixture_close(fixture);
}

/* More than there is memory for: it stops, and does not take back what it read. */
static void rs_6_prefetch_stops_when_frames_are_short(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 600 };
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, 300);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    page_out(fixture, space);
    const uint64_t input = statistics_now(fixture).pages_input;
    assert_success(tide_virtual_prefetch(space, &(tide_memory_range){ base, PAGES * PG }, 1, 0));
    const uint64_t read = statistics_now(fixture).pages_input - input;
    assert_between(read, 100, 300);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_STANDBY), read);
    assert_int_equal(pages_in_state(space, base, read, TIDE_PAGE_STATE_STANDBY), read);
    fixture_verify(fixture);
    /* A read that fails is nobody's error. */
    page_out(fixture, space);
    device_fail(&fixture->device, TIDE_IO_READ, 5, 0, DEVICE_ALWAYS);
    assert_success(tide_virtual_prefetch(space, &(tide_memory_range){ base, PAGES * PG }, 1, 0));
    assert_true(statistics_now(fixture).read_errors > 0);
    device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
    fixture_verify(fixture);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/* ---- bad arguments ---------------------------------------------------------------------------------------------- */

enum call { RESET, UNDO, DISCARD, OFFER, RECLAIM, LOCK, UNLOCK, CALLS };
static const char *const call_names[] = { "reset", "undo", "discard", "offer", "reclaim", "lock", "unlock" };

static tide_status call_make(enum call call, tide_space *space, tide_address base, uint64_t bytes)
{
    switch (call) {
    case RESET:
        return tide_virtual_reset(space, base, bytes);
    case UNDO:
        return tide_virtual_reset_undo(space, base, bytes);
    case DISCARD:
        return tide_virtual_discard(space, base, bytes);
    case OFFER:
        return tide_virtual_offer(space, base, bytes, TIDE_OFFER_NORMAL);
    case RECLAIM:
        return tide_virtual_reclaim(space, base, bytes);
    case LOCK:
        return tide_virtual_lock(space, base, bytes);
    default:
        return tide_virtual_unlock(space, base, bytes);
    }
}

static void bad_arguments_are_refused_and_change_nothing(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    enum {
        UNALIGNED = 1 << DISCARD | 1 << OFFER | 1 << RECLAIM,
        ALL = (1 << CALLS) - 1,
        WRITES = 1 << DISCARD | 1 << OFFER
    };
    static const tide_address at = 0x50000000;
    static const tide_address read_only = at + 8 * PG, no_access = at + 9 * PG, guard = at + 10 * PG,
                              last = at + 11 * PG;
    /* 8 pages READWRITE, READONLY, NOACCESS, GUARD, READWRITE; 4 reserved; then nothing; large pages at 0x60000000 */
    static const struct {
        const char *name;
        unsigned calls;
        tide_address base;
        uint64_t bytes;
        tide_status expected;
    } rows[] = {
        { "no bytes", ALL, at, 0, TIDE_INVALID_PARAMETER },
        { "past the highest address", ALL, TIDE_HIGHEST_ADDRESS + 1, PG, TIDE_INVALID_PARAMETER },
        { "over the highest address", ALL, TIDE_HIGHEST_ADDRESS + 1 - PG, 2 * PG, TIDE_INVALID_PARAMETER },
        { "a range that wraps", ALL, at, 0 - at, TIDE_INVALID_PARAMETER },
        { "huge", ALL, at, 1ull << 60, TIDE_INVALID_PARAMETER },
        { "a base in a page", UNALIGNED, at + 8, PG, TIDE_INVALID_PARAMETER },
        { "a size in a page", UNALIGNED, at, PG + 8, TIDE_INVALID_PARAMETER },
        { "address 0", ALL, 0, PG, TIDE_CONFLICTING_ADDRESSES },
        { "no region", ALL, at + 64 * PG, PG, TIDE_CONFLICTING_ADDRESSES },
        { "over the end of a region", ALL, last, 6 * PG, TIDE_CONFLICTING_ADDRESSES },
        { "from before a region", ALL, at - PG, 2 * PG, TIDE_CONFLICTING_ADDRESSES },
        { "a reserved page", ALL, last + PG, PG, TIDE_NOT_COMMITTED },
        { "reserved pages behind", ALL, last, 2 * PG, TIDE_NOT_COMMITTED },
        { "a decommitted page", ALL, at + 16 * PG * 16 + PG, PG, TIDE_NOT_COMMITTED },
        { "read-only", WRITES, at, 9 * PG, TIDE_INVALID_PAGE_PROTECTION },
        { "no access", WRITES, no_access, PG, TIDE_INVALID_PAGE_PROTECTION },
        { "a guard", WRITES, guard, PG, TIDE_INVALID_PAGE_PROTECTION },
        { "no access", 1 << LOCK, read_only, 2 * PG, TIDE_ACCESS_VIOLATION },
        { "a guard", 1 << LOCK, guard, PG, TIDE_ACCESS_VIOLATION },
        { "not offered", 1 << RECLAIM, at, PG, TIDE_INVALID_PARAMETER },
        { "large pages", ALL & ~(1 << LOCK | 1 << UNLOCK), 0x60000000, PG, TIDE_CONFLICTING_ADDRESSES },
        { "a placeholder", ALL, 0x70000000, PG, TIDE_NOT_COMMITTED },
    };
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 2048);
    tide_space *space = space_new(fixture);
    tide_address base = at;
    uint64_t bytes = 16 * PG;
    uint32_t old;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    bytes = 12 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    stamp_pages(space, at, 12, 1, 1);
    assert_success(tide_virtual_protect(space, read_only, PG, TIDE_PAGE_READONLY, &old));
    assert_success(tide_virtual_protect(space, no_access, PG, TIDE_PAGE_NOACCESS, &old));
    assert_success(tide_virtual_protect(space, guard, PG, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD, &old));
    (void)region_new_at(space, at + 256 * PG, 4);
    region_decommit(space, at + 257 * PG, 1);
    base = 0x60000000;
    bytes = TIDE_LARGE_PAGE_BYTES;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                                      TIDE_PAGE_READWRITE));
    base = 0x70000000;
    bytes = 0x10000;
    assert_success(tide_virtual_alloc2(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER,
                                       TIDE_PAGE_NOACCESS, NULL));
    const tide_space_statistics before = space_now(space);
    const tide_statistics engine = statistics_now(fixture);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (unsigned call = 0; call < CALLS; call++) {
            if (!(rows[i].calls >> call & 1))
                continue;
            const tide_status status = call_make((enum call)call, space, rows[i].base, rows[i].bytes);
            if (status != rows[i].expected)
                fail_msg("%s, %s: %s, not %s (%s)", call_names[call], rows[i].name, tide_status_name(status),
                         tide_status_name(rows[i].expected), tide_last_error()->message);
            assert_int_equal(tide_last_error()->status, status);
            const tide_space_statistics after = space_now(space);
            assert_memory_equal(&after, &before, sizeof(after));
        }
    }
    for (unsigned call = 0; call < CALLS; call++) {
        assert_status(call_make((enum call)call, NULL, at, PG), TIDE_INVALID_HANDLE);
        assert_status(call_make((enum call)call, (tide_space *)(void *)fixture->engine, at, PG), TIDE_INVALID_HANDLE);
    }
    assert_status(tide_virtual_offer(space, at, PG, 0), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_offer(space, at, PG, 5), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_offer(space, at, PG, 0xFFFFFFFFu), TIDE_INVALID_PARAMETER);
    /* Resident as they are: locks have nothing to do. */
    assert_success(tide_virtual_lock(space, 0x60000000, TIDE_LARGE_PAGE_BYTES));
    assert_success(tide_virtual_unlock(space, 0x60000000, TIDE_LARGE_PAGE_BYTES));
    assert_int_equal(space_now(space).locked_pages, 0);

    const tide_memory_range good = { at, PG };
    static const tide_memory_range bad[] = {
        { at, 0 }, { at, 0 - at }, { TIDE_HIGHEST_ADDRESS + 1, 1 }, { TIDE_HIGHEST_ADDRESS, 2 }, { 0, UINT64_MAX }
    };
    assert_status(tide_virtual_prefetch(space, NULL, 1, 0), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_prefetch(space, &good, 0, 0), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_prefetch(space, &good, 1, 1), TIDE_INVALID_PARAMETER);
    assert_status(tide_virtual_prefetch(NULL, &good, 1, 0), TIDE_INVALID_HANDLE);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        const tide_memory_range two[] = { good, bad[i] };
        assert_status(tide_virtual_prefetch(space, two, 2, 0), TIDE_INVALID_PARAMETER);
    }
    assert_success(tide_virtual_prefetch(space, &good, 1, 0));
    const tide_memory_range whole = { 0, TIDE_HIGHEST_ADDRESS + 1 };
    assert_success(tide_virtual_prefetch(space, &whole, 1, 0));
    assert_int_equal(statistics_now(fixture).pages_input, engine.pages_input);
    check_pages(space, at, 8, 1, 1);
    fixture_close(fixture);
}

/* ---- all at once ------------------------------------------------------------------------------------------------ */

enum { RACERS = 16, RACE_PAGES = 24, RACE_SHARED = 16, RACE_SLICES = 12 };

struct race {
    struct fixture *fixture;
    tide_space *space;
    tide_address own;    /* RACE_PAGES for each thread */
    tide_address shared; /* RACE_SHARED that all work on */
    unsigned rounds;
};

static bool is_one_of(tide_status status, tide_status a, tide_status b)
{
    return status == TIDE_SUCCESS || status == a || status == b;
}

/* Calls on pages that all threads work on: any of the statuses that such a mess may have, and no other. */
static void race_shared(struct crew_member *member, const struct race *race, uint64_t *random)
{
    const unsigned first = random_step(random) % RACE_SHARED;
    const unsigned pages = 1 + random_step(random) % (RACE_SHARED - first);
    const tide_address base = race->shared + (uint64_t)first * PG;
    const tide_memory_range range = { base, (uint64_t)pages * PG };
    tide_status status;
    char byte = 1;

    switch (random_step(random) % 10) {
    case 0:
        status = tide_virtual_reset(race->space, base, range.bytes);
        CREW_CHECK(member, status == TIDE_SUCCESS);
        break;
    case 1:
        status = tide_virtual_reset_undo(race->space, base, range.bytes);
        CREW_CHECK(member, is_one_of(status, TIDE_CONTENTS_LOST, TIDE_CONTENTS_LOST));
        break;
    case 2:
        status = tide_virtual_offer(race->space, base, range.bytes, 1 + random_step(random) % 4);
        CREW_CHECK(member, is_one_of(status, TIDE_INVALID_PAGE_PROTECTION, TIDE_DEVICE_BUSY));
        break;
    case 3:
        status = tide_virtual_reclaim(race->space, base, range.bytes);
        CREW_CHECK(member, is_one_of(status, TIDE_CONTENTS_LOST, TIDE_INVALID_PARAMETER));
        break;
    case 4:
        status = tide_virtual_discard(race->space, base, range.bytes);
        CREW_CHECK(member, is_one_of(status, TIDE_INVALID_PAGE_PROTECTION, TIDE_INVALID_PAGE_PROTECTION));
        break;
    case 5:
        status = tide_virtual_lock(race->space, base, range.bytes);
        CREW_CHECK(member,
                   is_one_of(status, TIDE_WORKING_SET_QUOTA, TIDE_ACCESS_VIOLATION) || status == TIDE_NO_MEMORY);
        break;
    case 6:
        status = tide_virtual_unlock(race->space, base, range.bytes);
        CREW_CHECK(member, is_one_of(status, TIDE_NOT_LOCKED, TIDE_NOT_LOCKED));
        break;
    case 7:
        CREW_CHECK(member, tide_virtual_prefetch(race->space, &range, 1, 0) == TIDE_SUCCESS);
        break;
    default:
        status = tide_write(race->space, base, &byte, 1);
        CREW_CHECK(member, is_one_of(status, TIDE_ACCESS_VIOLATION, TIDE_ACCESS_VIOLATION));
    }
}

/* A page of the thread's own: what its calls promise holds, whatever the others do. */
static void race_own(struct crew_member *member, const struct race *race, unsigned page, uint64_t *version,
                     uint64_t *random)
{
    const tide_address at = race->own + ((uint64_t)member->index * RACE_PAGES + page) * PG;
    const tide_memory_range range = { at, PG };
    const unsigned what = random_step(random) % 6;
    char byte;
    tide_status status;

    /* 0: not known, or zeros. */
    if (*version != 0)
        CREW_CHECK(member, stamp_check(race->space, at, member->index, *version) == TIDE_SUCCESS);
    if (what == 0) {
        /* Reset, undone: every byte, or told. */
        CREW_CHECK(member, tide_virtual_reset(race->space, at, PG) == TIDE_SUCCESS);
        if (random_step(random) % 2)
            CREW_CHECK(member, !tide_failed(tide_touch(race->space, at, TIDE_ACCESS_READ)));
        status = tide_virtual_reset_undo(race->space, at, PG);
        CREW_CHECK(member, is_one_of(status, TIDE_CONTENTS_LOST, TIDE_CONTENTS_LOST));
        if (status == TIDE_CONTENTS_LOST)
            *version = 0;
    } else if (what == 1) {
        CREW_CHECK(member, tide_virtual_offer(race->space, at, PG, 1 + random_step(random) % 4) == TIDE_SUCCESS);
        CREW_CHECK(member, tide_read(race->space, at, &byte, 1) == TIDE_ACCESS_VIOLATION);
        status = tide_virtual_reclaim(race->space, at, PG);
        CREW_CHECK(member, is_one_of(status, TIDE_CONTENTS_LOST, TIDE_CONTENTS_LOST));
        if (status == TIDE_CONTENTS_LOST)
            *version = 0;
    } else if (what == 2) {
        CREW_CHECK(member, tide_virtual_reset(race->space, at, PG) == TIDE_SUCCESS);
        CREW_CHECK(member, stamp_put(race->space, at, member->index, ++*version) == TIDE_SUCCESS);
    } else if (what == 3) {
        CREW_CHECK(member, tide_virtual_discard(race->space, at, PG) == TIDE_SUCCESS);
        *version = 0;
    } else if (what == 4) {
        status = tide_virtual_lock(race->space, at, PG);
        CREW_CHECK(member, is_one_of(status, TIDE_WORKING_SET_QUOTA, TIDE_NO_MEMORY));
        if (status == TIDE_SUCCESS)
            CREW_CHECK(member, tide_virtual_unlock(race->space, at, PG) == TIDE_SUCCESS);
    } else {
        CREW_CHECK(member, tide_virtual_prefetch(race->space, &range, 1, 0) == TIDE_SUCCESS);
        CREW_CHECK(member, stamp_put(race->space, at, member->index, ++*version) == TIDE_SUCCESS);
    }
}

static void racer(struct crew_member *member)
{
    const struct race *race = member->context;
    uint64_t random = member->index + 1;
    uint64_t versions[RACE_PAGES] = { 0 };

    for (unsigned round = 0; round < race->rounds; round++) {
        const unsigned page = (unsigned)(random_step(&random) % RACE_PAGES);

        race_own(member, race, page, &versions[page], &random);
        if (member->failure[0] != '\0')
            return;
        race_shared(member, race, &random);
        if (member->failure[0] != '\0')
            return;
        if (round % 16 == member->index)
            CREW_CHECK(member, !tide_failed(tide_working_set_trim(race->space, 20, NULL)));
        if (round % 64 == member->index)
            CREW_CHECK(member, !tide_failed(tide_engine_empty(race->fixture->engine, TIDE_EMPTY_STANDBY)));
    }
}

static void sixteen_threads_reset_offer_lock_and_touch(void **state)
{
    struct fixture *fixture = *state;
    const char *rounds = getenv("TIDE_RACE_ROUNDS");
    fixture_page_file(fixture, 2000);
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_open(fixture, 256);
    struct race race = { .fixture = fixture, .rounds = rounds == NULL ? 400 : (unsigned)atoi(rounds) };
    race.space = space_new(fixture);
    race.own = region_new(race.space, RACERS * RACE_PAGES);
    race.shared = region_new(race.space, RACE_SHARED);
    assert_success(tide_working_set_set_limits(race.space, 60, 200, 0));
    for (unsigned slice = 0; slice < RACE_SLICES; slice++) {
        crew_run(RACERS, racer, &race);
        fixture_verify(fixture);
        assert_success(tide_virtual_discard(race.space, race.own, RACERS * RACE_PAGES * PG));
    }
    const tide_statistics now = statistics_now(fixture);
    print_message("lost %llu, prefetched %llu, trimmed %llu, written %llu\n", (unsigned long long)now.reset_pages_lost,
                  (unsigned long long)now.pages_prefetched, (unsigned long long)now.trimmed,
                  (unsigned long long)now.pages_output);
    fixture_close(fixture);
}

static const struct CMUnitTest contents[] = {
    API_TEST(rs_1_reset_pages_are_never_written),
    API_TEST(rs_2_undo_without_pressure_keeps_every_byte),
    API_TEST(rs_2_reset_and_undo_are_allocation_types),
    API_TEST(rs_3_undo_under_pressure_tells_what_was_lost),
    API_TEST(rs_3_a_lost_page_that_was_touched_is_still_lost),
    API_TEST(rs_a_write_makes_a_reset_page_needed_again),
    API_TEST(rs_pinned_pages_and_writes_in_flight_are_not_reset),
    API_TEST(rs_reset_frees_the_page_file),
    API_TEST(rs_discard_drops_at_once_and_keeps_the_charge),
    API_TEST(rs_4_offer_and_reclaim),
    API_TEST(rs_4_offered_pages_are_taken_by_priority),
    API_TEST(rs_4_what_else_may_be_done_to_offered_pages),
    API_TEST(rs_4_a_page_offered_during_its_write_is_intact),
    API_TEST(rs_5_locks_are_limited_by_the_minimum),
    API_TEST(rs_5_unlock_of_pages_not_locked_trims_them),
    API_TEST(rs_5_a_lock_that_fails_locks_nothing),
    API_TEST(rs_5_locks_leave_frames_for_others),
    API_TEST(ws_5_locked_pages_survive_every_trim),
    API_TEST(rs_6_prefetch_reads_clusters_to_standby),
    API_TEST(rs_6_prefetched_pages_do_not_wait_for_each_other),
    API_TEST(rs_6_prefetch_forgets_errors),
    API_TEST(rs_6_prefetch_stops_when_frames_are_short),
    API_TEST(bad_arguments_are_refused_and_change_nothing),
    API_TEST(sixteen_threads_reset_offer_lock_and_touch),
};

API_MAIN(contents)

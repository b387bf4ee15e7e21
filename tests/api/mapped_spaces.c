/*
 * Mapped spaces as a program uses them: all calls on spaces, and plain pointers between them. What calls do is tested
 * by the other programs here, which run a second time with mapped spaces (support.h); these tests look at what the
 * hardware shows: after each call a load or a store does what the call says, and finds what was there.
 *
 * Where both kinds must do the same, the test runs on both (EACH_KIND): on a soft space the accesses are tide_read()
 * and tide_write().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- both kinds ------------------------------------------------------------------------------------------------- */

static tide_space *space_of_kind(struct fixture *fixture, bool mapped)
{
    tide_space *space = NULL;
    if (mapped)
        assert_success(tide_mapped_space_create(fixture->engine, NULL, &space));
    else
        assert_success(tide_space_create(fixture->engine, &space));
    for (unsigned i = 0; i < FIXTURE_SPACES; i++) {
        if (fixture->spaces[i] == NULL) {
            fixture->spaces[i] = space;
            break;
        }
    }
    return space;
}

/* A byte is read or written, by pointer or by call. False: refused; by pointer with the right address. */
static bool byte_access(tide_space *space, bool mapped, tide_address address, bool write, char *byte)
{
    if (!mapped)
        return !tide_failed(write ? tide_write(space, address, byte, 1) : tide_read(space, address, byte, 1));
    const int number = pointer_try(tide_pointer(address), write, byte);
    assert_int_not_equal(number, -1);
    return number == 0;
}

static bool put(tide_space *space, bool mapped, tide_address address, char byte)
{
    return byte_access(space, mapped, address, true, &byte);
}

/* The byte, or -1. */
static int get(tide_space *space, bool mapped, tide_address address)
{
    char byte = 0;
    return byte_access(space, mapped, address, false, &byte) ? (unsigned char)byte : -1;
}

/* A test that runs on a soft space, and then on a mapped one. */
#define EACH_KIND(name)                                                                                                \
    static void name##_soft(void **state)                                                                              \
    {                                                                                                                  \
        name(*state, false);                                                                                           \
    }                                                                                                                  \
    static void name##_mapped(void **state)                                                                            \
    {                                                                                                                  \
        name(*state, true);                                                                                            \
    }
#define EACH_TEST(name) API_TEST(name##_soft), API_TEST(name##_mapped)

static tide_space *opened(struct fixture *fixture, bool mapped, uint64_t frames, uint64_t slots)
{
    pointer_signals_take();
    if (slots != 0)
        fixture_page_file(fixture, slots);
    fixture_open(fixture, frames);
    return space_of_kind(fixture, mapped);
}

/* ---- the calls -------------------------------------------------------------------------------------------------- */

static void memory_comes_and_goes(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 400, 400);
    tide_address base = 0;
    uint64_t bytes = 64 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    assert_int_equal(get(space, mapped, base), -1); /* reserved */
    tide_address part = base + 8 * PG;
    bytes = 40 * PG;
    assert_success(tide_virtual_alloc(space, &part, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    for (unsigned i = 0; i < 64; i++) {
        const bool committed = i >= 8 && i < 48;
        assert_int_equal(get(space, mapped, base + i * PG + i), committed ? 0 : -1);
        assert_int_equal(put(space, mapped, base + i * PG + i, (char)i), committed);
    }
    region_decommit(space, base + 10 * PG, 5);
    for (unsigned i = 8; i < 48; i++)
        assert_int_equal(get(space, mapped, base + i * PG + i), i >= 10 && i < 15 ? -1 : (int)i);
    page_out(fixture, space);
    for (unsigned i = 8; i < 48; i++)
        assert_int_equal(get(space, mapped, base + i * PG + i), i >= 10 && i < 15 ? -1 : (int)i);
    part = base + 10 * PG;
    bytes = 5 * PG;
    assert_success(tide_virtual_alloc(space, &part, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    for (unsigned i = 10; i < 15; i++)
        assert_int_equal(get(space, mapped, base + i * PG + i), 0); /* nothing of before */
    tide_region region;
    assert_success(tide_virtual_query(space, base + 9 * PG, &region));
    assert_int_equal(region.state, TIDE_MEM_COMMIT);
    assert_int_equal(region.allocation_base, base);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    for (unsigned i = 0; i < 64; i += 5)
        assert_int_equal(get(space, mapped, base + i * PG + i), -1);
    base = region_new_at(space, base, 64); /* the same addresses again */
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(get(space, mapped, base + i * PG + i), 0);
    fixture_close(fixture);
}
EACH_KIND(memory_comes_and_goes)

static void rights_hold_for_pointers(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 400, 400);
    const tide_address base = region_new(space, 40);
    uint32_t old = 0;
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned i = 0; i < 40; i++)
            assert_true(put(space, mapped, base + i * PG, (char)(turn + i)));
        if (turn == 1)
            trim_all(space);
        if (turn == 2)
            page_out(fixture, space);
        assert_success(tide_virtual_protect(space, base, 10 * PG, TIDE_PAGE_READONLY, &old));
        assert_success(tide_virtual_protect(space, base + 10 * PG, 10 * PG, TIDE_PAGE_NOACCESS, &old));
        assert_success(tide_virtual_protect(space, base + 20 * PG, PG, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD, &old));
        for (unsigned i = 0; i < 20; i++) {
            assert_false(put(space, mapped, base + i * PG + 1, 1));
            assert_int_equal(get(space, mapped, base + i * PG), i < 10 ? (int)(turn + i) : -1);
            assert_int_equal(get(space, mapped, base + i * PG + 1) > 0, false);
        }
        assert_int_equal(get(space, mapped, base + 20 * PG), -1); /* once */
        assert_int_equal(get(space, mapped, base + 20 * PG), turn + 20);
        if (turn == 3)
            page_out(fixture, space);
        assert_success(tide_virtual_protect(space, base, 21 * PG, TIDE_PAGE_READWRITE, &old));
        for (unsigned i = 0; i < 40; i++) {
            assert_int_equal(get(space, mapped, base + i * PG), turn + i);
            assert_true(put(space, mapped, base + i * PG + 2, 1));
        }
        fixture_verify(fixture);
    }
    fixture_close(fixture);
}
EACH_KIND(rights_hold_for_pointers)

static void a_stack_grows_by_touching(struct fixture *fixture, bool mapped)
{
    enum { PAGES = 32 };
    tide_space *space = opened(fixture, mapped, 400, 0);
    tide_stack stack;
    assert_success(tide_stack_create(space, PAGES * PG, PG, &stack));
    unsigned grown = 0;
    for (unsigned i = 1; i < PAGES - 1; i++)
        grown += put(space, mapped, stack.base - i * PG, (char)i);
    assert_int_equal(grown, PAGES - 2);
    for (unsigned i = 1; i < PAGES - 1; i++)
        assert_int_equal(get(space, mapped, stack.base - i * PG), i);
    assert_false(put(space, mapped, stack.base - (PAGES - 1) * PG, 1)); /* overflow */
    assert_true(put(space, mapped, stack.base - (PAGES - 1) * PG, 1));  /* and room to handle it */
    assert_false(put(space, mapped, stack.base - PAGES * PG, 1));
    fixture_close(fixture);
}
EACH_KIND(a_stack_grows_by_touching)

static void contents_given_up_and_kept(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 400, 400);
    const tide_address base = region_new(space, 40);
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 40; i++)
            assert_true(put(space, mapped, base + i * PG, (char)(i + 1)));
        if (round == 1)
            page_out(fixture, space);
        assert_success(tide_virtual_discard(space, base, 10 * PG));
        if (round == 0) { /* those in the page file would be lost */
            assert_success(tide_virtual_offer(space, base + 10 * PG, 10 * PG, TIDE_OFFER_LOW));
            assert_int_equal(get(space, mapped, base + 12 * PG), -1); /* until it is reclaimed */
            assert_success(tide_virtual_reclaim(space, base + 10 * PG, 10 * PG));
        }
        for (unsigned i = 0; i < 40; i++)
            assert_int_equal(get(space, mapped, base + i * PG), i < 10 ? 0 : (int)(i + 1));
        /* Reset and undone in time: nothing is lost, and a store in between counts. */
        tide_address reset = base + 20 * PG;
        uint64_t bytes = 10 * PG;
        assert_success(tide_virtual_alloc(space, &reset, &bytes, TIDE_MEM_RESET, TIDE_PAGE_READWRITE));
        assert_true(put(space, mapped, base + 25 * PG + 7, 77));
        assert_success(tide_virtual_alloc(space, &reset, &bytes, TIDE_MEM_RESET_UNDO, TIDE_PAGE_READWRITE));
        for (unsigned i = 20; i < 30; i++)
            assert_int_equal(get(space, mapped, base + i * PG), i + 1);
        assert_int_equal(get(space, mapped, base + 25 * PG + 7), 77);
        fixture_verify(fixture);
    }
    fixture_close(fixture);
}
EACH_KIND(contents_given_up_and_kept)

static void a_page_written_after_reset_is_kept(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 400, 400);
    const tide_address base = region_new(space, 20);
    for (unsigned i = 0; i < 20; i++)
        assert_true(put(space, mapped, base + i * PG, 1));
    tide_address reset = base;
    uint64_t bytes = 20 * PG;
    assert_success(tide_virtual_alloc(space, &reset, &bytes, TIDE_MEM_RESET, TIDE_PAGE_READWRITE));
    for (unsigned i = 0; i < 20; i += 2)
        assert_true(put(space, mapped, base + i * PG, 2));
    page_out(fixture, space);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(get(space, mapped, base + i * PG), i % 2 == 0 ? 2 : 0);
    fixture_close(fixture);
}
EACH_KIND(a_page_written_after_reset_is_kept)

static void write_watch_names_what_pointers_wrote(struct fixture *fixture, bool mapped)
{
    enum { PAGES = 200 };
    tide_space *space = opened(fixture, mapped, 600, 400);
    tide_address base = 0;
    uint64_t bytes = PAGES * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH,
                                      TIDE_PAGE_READWRITE));
    uint64_t seed = 5;
    for (unsigned turn = 0; turn < 6; turn++) {
        bool written[PAGES] = { false };
        tide_address found[PAGES];
        uint64_t count = PAGES, expected = 0;
        for (unsigned i = 0; i < PAGES; i++) /* reading is not writing */
            assert_true(get(space, mapped, base + i * PG) >= 0);
        for (unsigned i = 0; i < 60; i++) {
            const unsigned page = (unsigned)(random_step(&seed) % PAGES);
            assert_true(put(space, mapped, base + page * PG + 9, (char)i));
            expected += !written[page];
            written[page] = true;
            if (i == 30 && turn % 2 == 1)
                trim_all(space);
            if (i == 40 && turn % 3 == 2)
                page_out(fixture, space);
        }
        assert_success(tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, PAGES * PG, found, &count, NULL));
        assert_int_equal(count, expected);
        for (uint64_t i = 0; i < count; i++)
            assert_true(written[(found[i] - base) / PG]);
        count = PAGES;
        assert_success(tide_write_watch_get(space, 0, base, PAGES * PG, found, &count, NULL));
        assert_int_equal(count, 0);
    }
    fixture_close(fixture);
}
EACH_KIND(write_watch_names_what_pointers_wrote)

static void a_hard_maximum_holds(struct fixture *fixture, bool mapped)
{
    enum { PAGES = 400, MAXIMUM = 60 };
    tide_space *space = opened(fixture, mapped, 800, 800);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_working_set_set_limits(space, 20, MAXIMUM, TIDE_WORKING_SET_HARD_MAXIMUM));
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < PAGES; i++) {
            assert_true(put(space, mapped, base + i * PG + turn, (char)(i + turn)));
            assert_true(space_now(space).working_set_pages <= MAXIMUM);
        }
        for (unsigned i = 0; i < PAGES; i++) {
            assert_int_equal(get(space, mapped, base + i * PG + turn), (unsigned char)(i + turn));
            assert_true(space_now(space).working_set_pages <= MAXIMUM);
        }
    }
    fixture_close(fixture);
}
EACH_KIND(a_hard_maximum_holds)

static void a_locked_page_stays(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 600, 600);
    const tide_address base = region_new(space, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_true(put(space, mapped, base + i * PG, (char)i));
    page_out(fixture, space);
    assert_success(tide_working_set_set_limits(space, 60, 300, 0));
    assert_success(tide_virtual_lock(space, base, 20 * PG));
    const uint64_t reads = statistics_now(fixture).page_reads;
    assert_success(tide_working_set_empty(space));
    write_modified(fixture);
    empty_standby(fixture);
    assert_int_equal(space_now(space).working_set_pages, 20);
    const uint64_t faults = space_now(space).faults.page_faults;
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(get(space, mapped, base + i * PG), i);
        assert_true(put(space, mapped, base + i * PG, (char)(i + 1)));
    }
    assert_int_equal(statistics_now(fixture).page_reads, reads);
    assert_int_equal(space_now(space).faults.page_faults, faults);
    assert_success(tide_virtual_unlock(space, base, 20 * PG));
    page_out(fixture, space);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(get(space, mapped, base + i * PG), i < 20 ? i + 1 : i);
    fixture_close(fixture);
}
EACH_KIND(a_locked_page_stays)

static void prefetched_pages_are_soft(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 600, 600);
    const tide_address base = region_new(space, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_true(put(space, mapped, base + i * PG, (char)i));
    page_out(fixture, space);
    const tide_memory_range range = { base, 100 * PG };
    assert_success(tide_virtual_prefetch(space, &range, 1, 0));
    const tide_statistics before = statistics_now(fixture);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(get(space, mapped, base + i * PG), i);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.page_reads, before.page_reads);
    assert_int_equal(after.faults.hard, before.faults.hard);
    assert_int_equal(after.faults.transition - before.faults.transition, 100);
    fixture_close(fixture);
}
EACH_KIND(prefetched_pages_are_soft)

/* Written once, read for ever: what is clean goes without being written, whoever takes it and however it was read. */
static void a_clean_page_is_never_written_again(struct fixture *fixture, bool mapped)
{
    enum { PAGES = 300 };
    tide_space *space = opened(fixture, mapped, 600, 900);
    const tide_address base = region_new(space, PAGES);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(put(space, mapped, base + i * PG, (char)i));
    page_out(fixture, space);
    const uint64_t output = statistics_now(fixture).pages_output;
    assert_int_equal(output, PAGES);
    for (unsigned turn = 0; turn < 6; turn++) {
        for (unsigned i = 0; i < PAGES; i++)
            assert_int_equal(get(space, mapped, base + i * PG), (unsigned char)i);
        if (turn % 2 == 0)
            page_out(fixture, space);
        else
            trim_all(space);
    }
    write_modified(fixture);
    assert_int_equal(statistics_now(fixture).pages_output, output);
    for (unsigned i = 0; i < PAGES; i += 10) { /* and what is not clean is written */
        assert_int_equal(get(space, mapped, base + i * PG), (unsigned char)i);
        assert_true(put(space, mapped, base + i * PG, (char)(i + 1)));
    }
    page_out(fixture, space);
    assert_int_equal(statistics_now(fixture).pages_output, output + PAGES / 10);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(get(space, mapped, base + i * PG), (unsigned char)(i % 10 == 0 ? i + 1 : i));
    fixture_close(fixture);
}
EACH_KIND(a_clean_page_is_never_written_again)

static void emptied_working_sets_are_touched_again(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 600, 600);
    const tide_address base = region_new(space, 100);
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned i = 0; i < 100; i++) {
            assert_int_equal(get(space, mapped, base + i * PG), turn == 0 ? 0 : turn - 1 + i);
            assert_true(put(space, mapped, base + i * PG, (char)(turn + i)));
        }
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_WORKING_SETS));
        assert_int_equal(space_now(space).working_set_pages, 0);
        fixture_verify(fixture);
    }
    fixture_close(fixture);
}
EACH_KIND(emptied_working_sets_are_touched_again)

static void priorities_go_with_pages(struct fixture *fixture, bool mapped)
{
    tide_space *space = opened(fixture, mapped, 600, 600);
    const tide_address base = region_new(space, 100);
    assert_success(tide_space_set_priority(space, 2));
    for (unsigned i = 0; i < 50; i++)
        assert_true(put(space, mapped, base + i * 2 * PG, 1));
    assert_success(tide_space_set_priority(space, 5));
    for (unsigned i = 0; i < 50; i++)
        assert_true(put(space, mapped, base + (i * 2 + 1) * PG, 1));
    trim_all(space);
    write_modified(fixture);
    uint64_t second = 0, fifth = 0; /* wherever the thread has run */
    for (unsigned i = 0; i < statistics_now(fixture).node_count; i++) {
        const tide_node_statistics node = node_now(fixture, i);
        second += node.standby[2];
        fifth += node.standby[5];
    }
    assert_int_equal(second + fifth, 100);
    assert_true(second > 0 && fifth >= 50);
    fixture_close(fixture);
}
EACH_KIND(priorities_go_with_pages)

/* Four times the budget, by stores, loads and memcpy, in every order, beside the calls. */
static void more_than_memory_holds(struct fixture *fixture, bool mapped)
{
    enum { FRAMES = 500, PAGES = 4 * FRAMES };
    tide_space *space = opened(fixture, mapped, FRAMES, 2 * PAGES);
    const tide_address base = region_new(space, PAGES);
    char page[PG];
    for (unsigned turn = 0; turn < 3; turn++) {
        uint64_t *order = random_order(PAGES, turn);
        for (unsigned i = 0; i < PAGES; i++) {
            const tide_address at = base + (turn == 0 ? i : order[i]) * PG;
            stamp_fill(page, 1, at, turn);
            if (mapped && i % 3 != 0)
                memcpy(tide_pointer(at), page, PG);
            else
                assert_success(tide_write(space, at, page, PG));
        }
        for (unsigned i = 0; i < PAGES; i++) {
            const tide_address at = base + order[PAGES - 1 - i] * PG;
            if (mapped && i % 3 != 1) {
                assert_true(stamp_matches(tide_pointer(at), 1, at, turn));
            } else {
                assert_success(tide_read(space, at, page, PG));
                assert_true(stamp_matches(page, 1, at, turn));
            }
        }
        free(order);
        fixture_verify(fixture);
    }
    assert_true(statistics_now(fixture).pages_input > PAGES);
    fixture_close(fixture);
}
EACH_KIND(more_than_memory_holds)

/* ---- mapped alone ----------------------------------------------------------------------------------------------- */

/* The buffers of calls may lie in mapped memory themselves, of the same space too, and not be there. */
static void buffers_of_calls_may_be_mapped(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = opened(fixture, true, 500, 1000);
    tide_space *soft = space_of_kind(fixture, false);
    const tide_address from = region_new(space, 100), to = region_new(space, 100), other = region_new(soft, 100);
    for (unsigned i = 0; i < 100; i++)
        stamp_fill(tide_pointer(from + i * PG), 3, i, 3);
    for (unsigned turn = 0; turn < 4; turn++) {
        page_out(fixture, space);
        if (turn % 2 == 0)
            page_out(fixture, soft);
        assert_success(tide_write(soft, other, tide_pointer(from), 100 * PG)); /* mapped to soft */
        page_out(fixture, space);
        assert_success(tide_read(soft, other, tide_pointer(to), 100 * PG)); /* soft to mapped */
        for (unsigned i = 0; i < 100; i++)
            assert_true(stamp_matches(tide_pointer(to + i * PG), 3, i, 3));
        page_out(fixture, space);
        assert_success(tide_virtual_discard(space, to, 100 * PG));
        assert_success(tide_write(space, to, tide_pointer(from), 100 * PG)); /* within one */
        page_out(fixture, space);
        assert_success(tide_read(space, to + 7, tide_pointer(from + 7), 99 * PG));
        for (unsigned i = 0; i < 100; i++)
            assert_true(stamp_matches(tide_pointer(from + i * PG), 3, i, 3));
    }
    fixture_close(fixture);
}

/* A section's pointer is the address; it holds nothing back, and is good for as long as the memory. */
static void sections_give_addresses(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = opened(fixture, true, 300, 1000);
    const tide_address base = region_new(space, 600);
    tide_access access;
    tide_extent extent;
    assert_success(tide_access_begin(space, &access));
    for (unsigned i = 0; i < 600; i++) {
        char *pointer = tide_access_pointer(&access, base + i * PG + 5, TIDE_ACCESS_WRITE);
        assert_ptr_equal(pointer, tide_pointer(base + i * PG + 5));
        *pointer = (char)i;
    }
    for (unsigned i = 0; i < 600; i++) /* twice the budget, in one section */
        assert_int_equal(*(char *)tide_pointer(base + i * PG + 5), (char)i);
    assert_success(tide_access_extent(&access, base + 9 * PG + 3, TIDE_ACCESS_READ, &extent));
    assert_true(extent.bytes >= PG);
    assert_ptr_equal(tide_extent_pointer(&extent, base + 9 * PG + 3), tide_pointer(base + 9 * PG + 3));
    uint32_t old = 0;
    assert_success(tide_virtual_protect(space, base, PG, TIDE_PAGE_READONLY, &old));
    assert_null(tide_access_pointer(&access, base, TIDE_ACCESS_WRITE));
    assert_status(access.status, TIDE_ACCESS_VIOLATION);
    tide_access_end(&access);
    fixture_close(fixture);
}

static void statistics_tell_what_was_asked_of_the_kernel(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = opened(fixture, true, 600, 600);
    const tide_address base = region_new(space, 200);
    tide_mapped_statistics now = { .struct_bytes = sizeof(now) };
    assert_success(tide_mapped_query(space, &now));
    assert_int_equal(now.faults, 0);
    for (unsigned i = 0; i < 200; i++)
        assert_true(put(space, true, base + i * PG, 1));
    assert_success(tide_mapped_query(space, &now));
    assert_between(now.faults, 4, 199); /* several at a time */
    assert_int_equal(now.pages_filled, 200);
    assert_true(now.fault_ns > 0);
    const uint64_t faults = now.faults;
    trim_all(space);
    assert_success(tide_mapped_query(space, &now));
    assert_between(now.pages_hidden, 200, 220);
    assert_between(now.hides, 1, 20); /* together */
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(get(space, true, base + i * PG), 1);
    assert_success(tide_mapped_query(space, &now));
    assert_true(now.faults > faults && now.pages_shown >= 200 && now.pages_filled == 200);
    page_out(fixture, space);
    assert_success(tide_mapped_query(space, &now));
    assert_true(now.pages_dropped >= 200);
    /* A resident page costs nothing: no fault. */
    assert_true(put(space, true, base, 1));
    assert_success(tide_mapped_query(space, &now));
    const uint64_t resident = now.faults;
    for (unsigned i = 0; i < 1000; i++)
        assert_true(put(space, true, base + i, 1));
    assert_success(tide_mapped_query(space, &now));
    assert_int_equal(now.faults, resident);
    fixture_close(fixture);
}

/* 64 are the most in a process, over all engines; the next one is refused, and a place that is given back is used. */
static void windows_come_and_go(void **state)
{
    struct fixture *fixture = *state;
    enum { MOST = 64 };
    tide_mapped_options options;
    tide_space *spaces[MOST], *one_more = NULL;
    pointer_signals_take();
    fixture_open(fixture, 400);
    tide_mapped_options_init(&options);
    options.window_bytes = 1ull << 30;
    for (unsigned turn = 0; turn < 2; turn++) {
        for (unsigned i = 0; i < MOST; i++) {
            tide_address lowest = 0, highest = 0;
            assert_success(tide_mapped_space_create(fixture->engine, &options, &spaces[i]));
            assert_success(tide_space_range(spaces[i], &lowest, &highest));
            assert_int_equal(highest - lowest + 1, 1ull << 30);
            assert_int_equal(lowest % TIDE_LARGE_PAGE_BYTES, 0);
            assert_true(put(spaces[i], true, region_new(spaces[i], 1), (char)i));
        }
        assert_status(tide_mapped_space_create(fixture->engine, &options, &one_more), TIDE_INSUFFICIENT_RESOURCES);
        fixture_verify(fixture);
        for (unsigned i = 0; i < MOST; i++)
            assert_success(tide_space_destroy(spaces[(i * 7 + turn) % MOST]));
    }
    fixture_close(fixture);
}

/*
 * A load that finds no frame waits for one, however long it takes; but not where page tables have filled the budget, so
 * that none can come. That is SIGBUS.
 */
static void a_budget_full_of_tables_is_a_bus_error(void **state)
{
    struct fixture *fixture = *state;
    enum { MOST = 128, BYTES_OF_TABLE = 512 * PG };
    tide_address pages[MOST];
    unsigned count = 0;
    fixture->config.frame_wait_ms = 200;
    fixture_page_file(fixture, 1000);
    tide_space *space = opened(fixture, true, 64, 0);
    bool done = true;
    while (done && count < MOST) {
        pages[count] = region_new_at(space, TIDE_LOWEST_ADDRESS + count * (tide_address)BYTES_OF_TABLE, 1);
        done = put(space, true, pages[count++], 1);
    }
    assert_false(done);
    assert_int_equal(tide_last_error()->status, TIDE_NO_MEMORY);
    fixture_verify(fixture);
    for (unsigned i = 0; i + 1 < count; i += 2)
        assert_success(tide_virtual_free(space, pages[i], 0, TIDE_MEM_RELEASE));
    assert_true(put(space, true, pages[count - 1], 7));
    assert_int_equal(get(space, true, pages[count - 1]), 7);
    for (unsigned i = 1; i + 1 < count; i += 2)
        assert_int_equal(get(space, true, pages[i]), 1);
    fixture_close(fixture);
}

/* What lies behind the window ends with it: the address is no memory at all. */
static void the_window_goes_with_its_space(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = opened(fixture, true, 400, 0);
    const tide_address base = region_new(space, 4);
    assert_true(put(space, true, base, 1));
    space_close(fixture, space);
    assert_int_equal(get(NULL, true, base), -1);
    fixture_close(fixture);
}

static const struct CMUnitTest mapped_spaces[] = {
    EACH_TEST(memory_comes_and_goes),
    EACH_TEST(rights_hold_for_pointers),
    EACH_TEST(a_stack_grows_by_touching),
    EACH_TEST(contents_given_up_and_kept),
    EACH_TEST(a_page_written_after_reset_is_kept),
    EACH_TEST(write_watch_names_what_pointers_wrote),
    EACH_TEST(a_hard_maximum_holds),
    EACH_TEST(a_locked_page_stays),
    EACH_TEST(prefetched_pages_are_soft),
    EACH_TEST(a_clean_page_is_never_written_again),
    EACH_TEST(emptied_working_sets_are_touched_again),
    EACH_TEST(priorities_go_with_pages),
    EACH_TEST(more_than_memory_holds),
    API_TEST(buffers_of_calls_may_be_mapped),
    API_TEST(sections_give_addresses),
    API_TEST(statistics_tell_what_was_asked_of_the_kernel),
    API_TEST(windows_come_and_go),
    API_TEST(a_budget_full_of_tables_is_a_bus_error),
    API_TEST(the_window_goes_with_its_space),
};

API_MAIN_MAPPED(mapped_spaces)

/*
 * Where pages lie in a page file: beside their neighbours, or, while the program touches pages at random, beside
 * whatever is written at the same time (tide_config.keep_page_order).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { STRIDE = 8, LONE = 256, PAGES = LONE * STRIDE, FEW_WRITES = 3 * LONE / 64 /* of 64 pages, and some parts */ };

/* A region whose pages are all in the page file, in the order of their addresses, and of which every page holds 1. */
static tide_address region_in_order(struct fixture *fixture, tide_space **space)
{
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, PAGES + 200);
    *space = space_new(fixture);
    const tide_address base = region_new(*space, PAGES);
    stamp_pages(*space, base, PAGES, 1, 1);
    page_out(fixture, *space);
    return base;
}

/* One page of each STRIDE is read and then written to, and goes out. Returns the writes that it took. */
static uint64_t lone_pages_pass(struct fixture *fixture, tide_space *space, tide_address base, uint64_t version)
{
    for (uint64_t i = 0; i < LONE; i++) {
        const tide_address page = base + i * STRIDE * PG;
        assert_success(stamp_check(space, page, 1, version - 1));
        assert_success(stamp_put(space, page, 1, version));
    }
    const tide_statistics before = statistics_now(fixture);
    page_out(fixture, space);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.pages_output - before.pages_output, LONE);
    fixture_verify(fixture);
    return after.page_writes - before.page_writes;
}

/* Pages whose copy lies right behind that of the page before them. */
static uint64_t pages_in_order(tide_space *space, tide_address base)
{
    uint64_t count = 0;
    for (uint64_t i = 1; i < PAGES; i++)
        count += page_now(space, base + i * PG).slot == page_now(space, base + (i - 1) * PG).slot + 1;
    return count;
}

static void check_all(tide_space *space, tide_address base, uint64_t lone_version)
{
    for (uint64_t i = 0; i < PAGES; i++)
        assert_success(stamp_check(space, base + i * PG, 1, i % STRIDE == 0 ? lone_version : 1));
}

static void lone_pages_are_written_together_while_reads_are_random(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    assert_int_equal(statistics_now(fixture).pages_together, 0);
    const uint64_t in_order = pages_in_order(space, base);
    assert_true(in_order >= PAGES / 16 * 15);
    assert_between(lone_pages_pass(fixture, space, base, 2), 1, FEW_WRITES);
    assert_int_equal(statistics_now(fixture).pages_together, LONE);
    assert_true(pages_in_order(space, base) < in_order - LONE);
    check_all(space, base, 2);
    fixture_close(fixture);
}

static void pages_keep_their_order_if_the_program_says_so(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    fixture->config.keep_page_order = true;
    const tide_address base = region_in_order(fixture, &space);
    const uint64_t in_order = pages_in_order(space, base);
    assert_int_equal(lone_pages_pass(fixture, space, base, 2), LONE);
    assert_int_equal(statistics_now(fixture).pages_together, 0);
    assert_int_equal(pages_in_order(space, base), in_order);
    check_all(space, base, 2);
    fixture_close(fixture);
}

/* Scans are read in clusters, and so the order matters, whatever is written. */
static void pages_keep_their_order_while_reads_are_scans(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    const uint64_t in_order = pages_in_order(space, base);
    for (unsigned round = 0; round < 4; round++) {
        check_pages(space, base, PAGES, 1, 1);
        page_out(fixture, space);
    }
    for (uint64_t i = 0; i < 64; i++) /* too few to say anything else */
        assert_success(stamp_put(space, base + i * STRIDE * PG, 1, 2));
    const uint64_t writes = statistics_now(fixture).page_writes;
    page_out(fixture, space);
    assert_int_equal(statistics_now(fixture).page_writes - writes, 64);
    assert_int_equal(statistics_now(fixture).pages_together, 0);
    assert_int_equal(pages_in_order(space, base), in_order);
    fixture_close(fixture);
}

/* What random writes put out of order, a scan and the writes after it bring back into it. */
static void order_comes_back_with_scans(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    const uint64_t in_order = pages_in_order(space, base);
    assert_between(lone_pages_pass(fixture, space, base, 2), 1, FEW_WRITES);
    const uint64_t out_of_order = pages_in_order(space, base);
    check_all(space, base, 2); /* a scan */
    stamp_pages(space, base, PAGES, 1, 3);
    page_out(fixture, space);
    assert_true(pages_in_order(space, base) > out_of_order);
    assert_true(pages_in_order(space, base) >= in_order / 16 * 15);
    check_pages(space, base, PAGES, 1, 3);
    fixture_close(fixture);
}

/* A scan takes what comes next, wherever its copy lies, unless that would be one read after the other. */
static void scan_out_of_order(struct fixture *fixture, uint64_t faults_least, uint64_t faults_most)
{
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    assert_between(lone_pages_pass(fixture, space, base, 2), 1, FEW_WRITES);
    const tide_statistics before = statistics_now(fixture);
    check_all(space, base, 2);
    const tide_statistics after = statistics_now(fixture);
    assert_between(after.faults.hard - before.faults.hard, faults_least, faults_most);
    assert_int_equal(after.pages_input - before.pages_input, PAGES);
    assert_true(after.page_reads - before.page_reads >= LONE);
    fixture_verify(fixture);
    fixture_close(fixture);
}

static void scans_read_what_lies_apart(void **state)
{
    if (syscall(SYS_io_uring_setup, 1, NULL) != -1 || errno != EFAULT) {
        print_message("skipped: this system has no io_uring\n");
        skip();
    }
    scan_out_of_order(*state, 1, LONE * 3 / 2);
}

static void scans_without_io_uring_read_what_adjoins(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.disable_io_uring = true;
    scan_out_of_order(fixture, 2 * LONE - 1, PAGES);
}

static void scans_read_past_a_bad_slot(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    assert_between(lone_pages_pass(fixture, space, base, 2), 1, FEW_WRITES);
    for (uint64_t i = 0; i < LONE / 2; i++)
        assert_success(stamp_check(space, base + i * PG, 1, i % STRIDE == 0 ? 2 : 1));
    device_wear(&fixture->device, TIDE_IO_READ, EIO, 1, 0, 1);
    unsigned bad = 0;
    for (uint64_t i = LONE / 2; i < PAGES; i++) {
        const tide_status status = stamp_check(space, base + i * PG, 1, i % STRIDE == 0 ? 2 : 1);
        bad += status == TIDE_IN_PAGE_ERROR;
        if (status != TIDE_IN_PAGE_ERROR)
            assert_success(status);
    }
    assert_int_equal(bad, 1);
    fixture_verify(fixture);
    device_wear(&fixture->device, TIDE_IO_READ, 0, 0, 0, 0);
    check_all(space, base, 2);
    fixture_close(fixture);
}

/* Of a write that fails each page is tried alone, and only what failed then is modified as before. */
static void lone_pages_fail_alone(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    const tide_address base = region_in_order(fixture, &space);
    assert_between(lone_pages_pass(fixture, space, base, 2), 1, FEW_WRITES);
    for (uint64_t i = 0; i < LONE; i++)
        assert_success(stamp_put(space, base + i * STRIDE * PG, 1, 3));
    trim_all(space);
    device_wear(&fixture->device, TIDE_IO_WRITE, EIO, 1, 9, 1);
    assert_status(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL), TIDE_IO_ERROR);
    assert_int_equal(page_file_now(fixture, 0).bad_slots, 1);
    fixture_verify(fixture);
    page_out(fixture, space);
    assert_int_equal(page_file_now(fixture, 0).bad_slots, 1);
    assert_int_equal(node_now(fixture, 0).modified, 0);
    assert_between(statistics_now(fixture).pages_together, 2 * LONE - 4, 2 * LONE);
    check_all(space, base, 3);
    fixture_close(fixture);
}

/* A page file with hardly any room: what does not fit together goes where there is a slot. */
static void lone_pages_take_what_room_there_is(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space;
    fixture_page_file(fixture, PAGES + 3);
    fixture_open(fixture, PAGES + 200);
    space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    page_out(fixture, space);
    for (uint64_t version = 2; version < 6; version++)
        assert_between(lone_pages_pass(fixture, space, base, version), 1, LONE);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES);
    check_all(space, base, 5);
    fixture_close(fixture);
}

/* Pages of several spaces in one write. */
static void lone_pages_of_several_spaces(void **state)
{
    struct fixture *fixture = *state;
    enum { SPACES = 3, EACH = 100 };
    tide_space *spaces[SPACES];
    tide_address bases[SPACES];
    fixture_page_file(fixture, 2 * SPACES * PAGES);
    fixture_open(fixture, SPACES * PAGES + 200);
    for (unsigned s = 0; s < SPACES; s++) {
        spaces[s] = space_new(fixture);
        bases[s] = region_new(spaces[s], PAGES);
        stamp_pages(spaces[s], bases[s], PAGES, s, 1);
        page_out(fixture, spaces[s]);
    }
    for (unsigned s = 0; s < SPACES; s++) {
        for (uint64_t i = 0; i < EACH; i++) {
            assert_success(stamp_check(spaces[s], bases[s] + i * STRIDE * PG, s, 1));
            assert_success(stamp_put(spaces[s], bases[s] + i * STRIDE * PG, s, 2));
        }
        trim_all(spaces[s]);
    }
    const uint64_t writes = statistics_now(fixture).page_writes;
    write_modified(fixture);
    assert_between(statistics_now(fixture).page_writes - writes, 1, FEW_WRITES);
    empty_standby(fixture);
    fixture_verify(fixture);
    for (unsigned s = 0; s < SPACES; s++)
        for (uint64_t i = 0; i < PAGES; i++)
            assert_success(stamp_check(spaces[s], bases[s] + i * PG, s, i % STRIDE == 0 && i / STRIDE < EACH ? 2 : 1));
    fixture_close(fixture);
}

static const struct CMUnitTest page_file_order[] = {
    API_TEST(lone_pages_are_written_together_while_reads_are_random),
    API_TEST(pages_keep_their_order_if_the_program_says_so),
    API_TEST(pages_keep_their_order_while_reads_are_scans),
    API_TEST(order_comes_back_with_scans),
    API_TEST(scans_read_what_lies_apart),
    API_TEST(scans_without_io_uring_read_what_adjoins),
    API_TEST(scans_read_past_a_bad_slot),
    API_TEST(lone_pages_fail_alone),
    API_TEST(lone_pages_take_what_room_there_is),
    API_TEST(lone_pages_of_several_spaces),
};

API_MAIN(page_file_order)

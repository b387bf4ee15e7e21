/*
 * Acceptance cases of the modified-page writer and the page files (nt-behaviour 14: PW-1 to PW-5).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Slots are given at write time, not at commit time, and pages go out in full clusters. */
static void PW_1_slots_are_given_when_pages_are_written(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 10000 };
    fixture_page_file(fixture, PAGES + 100);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_int_equal(space_now(space).private_pages, PAGES);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);

    stamp_pages(space, base, PAGES, 1, 1);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    trim_all(space);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    const tide_statistics before = statistics_now(fixture);
    write_modified(fixture);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.page_file_used_slots, PAGES);
    assert_int_equal(after.pages_output - before.pages_output, PAGES);
    assert_between(after.page_writes - before.page_writes, 1, PAGES / 16);
    assert_int_equal(after.page_writes - before.page_writes,
                     atomic_load(&fixture->device.operations[TIDE_IO_WRITE][0]));
    assert_int_equal(atomic_load(&fixture->device.pages[TIDE_IO_WRITE][0]), PAGES);
    assert_int_equal(after.commit_total_pages, before.commit_total_pages); /* a slot is no charge */
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    region_decommit(space, base, PAGES / 2);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES / 2);
    fixture_close(fixture);
}

/* Slots can run out long before commit does: then the file grows for the writer, if it can. */
static void PW_1_a_full_page_file_that_can_grow_does(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file_growing(fixture, 50, 1000);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 200);
    stamp_pages(space, base, 200, 1, 1);
    trim_all(space);
    uint64_t done = 0;
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_EXTENDER, 0, 0, &done));
    assert_int_equal(done, 0);
    write_modified(fixture);
    assert_int_equal(node_now(fixture, 0).modified, 150);
    assert_int_equal(page_file_now(fixture, 0).total_slots, 50);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_EXTENDER, 0, 0, &done));
    assert_true(done >= 150);
    assert_int_equal(page_file_now(fixture, 0).total_slots, 50 + done);
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_EXTENDER, 0, 0, &done));
    assert_int_equal(done, 0); /* not again for the same want */
    write_modified(fixture);
    assert_int_equal(node_now(fixture, 0).modified, 0);
    empty_standby(fixture);
    check_pages(space, base, 200, 1, 1);
    fixture_close(fixture);
}

/*
 * Pages leave the working set in random order, and the writer gets them in small steps; still neighbours in virtual
 * address get consecutive slots, so that they can be read back together.
 */
static void PW_2_neighbours_get_consecutive_slots(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 1024 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    uint64_t *order = random_order(PAGES, 1);
    for (uint64_t i = 0; i < PAGES; i++) { /* soft fault and trim: to the tail of the modified list */
        assert_status(tide_touch(space, base + order[i] * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
        trim_all(space);
    }
    free(order);
    assert_int_equal(node_now(fixture, 0).modified, PAGES);
    for (uint64_t total = 0, done = 1; done > 0; total += done) {
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 16, &done));
        assert_between(total + done, total, PAGES);
    }
    assert_int_equal(node_now(fixture, 0).modified, 0);

    uint64_t runs = 1;
    tide_page_info previous = page_now(space, base);
    for (uint64_t i = 1; i < PAGES; i++) {
        const tide_page_info info = page_now(space, base + i * PG);
        assert_int_not_equal(info.slot, 0);
        runs += info.page_file != previous.page_file || info.slot != previous.slot + 1;
        previous = info;
    }
    assert_between(runs, 1, PAGES / 8); /* mean run of 8 slots at least */

    empty_standby(fixture);
    const tide_statistics before = statistics_now(fixture);
    check_pages(space, base, PAGES, 1, 1);
    const tide_statistics after = statistics_now(fixture);
    assert_between(after.page_reads - before.page_reads, 1, PAGES / 8);
    fixture_close(fixture);
}

/*
 * The same where each page is written alone, as it happens to come: only reserved slots bring the neighbours together.
 */
static void PW_2_pages_written_alone_get_the_slots_kept_for_them(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 1024 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    uint64_t *order = random_order(PAGES, 1);
    for (uint64_t i = 0; i < PAGES; i++) {
        assert_status(tide_touch(space, base + order[i] * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
        trim_all(space);
    }
    free(order);
    for (uint64_t i = 0; i < PAGES; i++) {
        uint64_t done = 0;
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 1, &done));
        assert_int_equal(done, 1);
        if (i == PAGES / 2)
            assert_true(page_file_now(fixture, 0).reserved_slots > 0);
    }
    assert_int_equal(statistics_now(fixture).page_writes, PAGES);
    assert_int_equal(page_file_now(fixture, 0).used_slots, PAGES);
    assert_int_equal(page_file_now(fixture, 0).reserved_slots, 0); /* all that was kept was asked for */

    uint64_t runs = 1;
    for (uint64_t i = 1; i < PAGES; i++)
        runs += page_now(space, base + i * PG).slot != page_now(space, base + (i - 1) * PG).slot + 1;
    print_message("%d pages in %llu runs of slots\n", PAGES, (unsigned long long)runs);
    assert_between(runs, 1, PAGES / 8);
    empty_standby(fixture);
    const tide_statistics before = statistics_now(fixture);
    check_pages(space, base, PAGES, 1, 1);
    const tide_statistics after = statistics_now(fixture);
    print_message("read back in %llu reads\n", (unsigned long long)(after.page_reads - before.page_reads));
    assert_between(after.page_reads - before.page_reads, 1, PAGES / 8);

    /* A page that is written again goes back to its place. */
    for (uint64_t i = 0; i < PAGES; i += 5)
        assert_success(stamp_put(space, base + i * PG, 1, 2));
    assert_int_equal(page_file_now(fixture, 0).used_slots, PAGES - (PAGES + 4) / 5);
    page_out(fixture, space);
    runs = 1;
    for (uint64_t i = 1; i < PAGES; i++)
        runs += page_now(space, base + i * PG).slot != page_now(space, base + (i - 1) * PG).slot + 1;
    assert_between(runs, 1, PAGES / 8);
    fixture_close(fixture);
}

/* Reserved slots are no slots lost: a file that is too small for all windows holds as many pages as it has slots. */
static void PW_2_reservations_give_way_when_slots_are_short(void **state)
{
    struct fixture *fixture = *state;
    enum { WINDOWS = 60, SLOTS = 300 };
    fixture_page_file(fixture, SLOTS);
    fixture_open(fixture, WINDOWS * 16 + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, WINDOWS * 16);
    for (uint64_t i = 0; i < SLOTS; i++) { /* one page of each window, then another of each */
        const tide_address page = base + (i % WINDOWS * 16 + i / WINDOWS * 3) * PG;
        assert_success(stamp_put(space, page, 1, 1));
        trim_all(space);
        write_modified(fixture);
        assert_int_equal(statistics_now(fixture).page_file_used_slots, i + 1);
        const tide_page_file_statistics file = page_file_now(fixture, 0);
        assert_true(file.used_slots + file.reserved_slots <= SLOTS);
    }
    assert_int_equal(page_file_now(fixture, 0).reserved_slots, 0);
    fixture_verify(fixture);
    empty_standby(fixture);
    for (uint64_t i = 0; i < SLOTS; i++)
        assert_success(stamp_check(space, base + (i % WINDOWS * 16 + i / WINDOWS * 3) * PG, 1, 1));
    fixture_close(fixture);
}

struct write_call {
    tide_engine *engine;
    tide_status status;
};

static void writer_thread(struct crew_member *member)
{
    struct write_call *call = member->context;
    call->status = tide_worker_step(call->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL);
}

/* The writer's write of all modified pages stands before the device; the caller lets it go on by device_hold(). */
static struct crew *start_write(struct fixture *fixture, struct write_call *call)
{
    *call = (struct write_call){ .engine = fixture->engine };
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    struct crew *crew = crew_start(1, writer_thread, call);
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    return crew;
}

static void end_write(struct fixture *fixture, struct crew *crew)
{
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    crew_join(crew);
}

/* All lists of the node are empty but zeroed and free: the pages of the test are valid and nowhere else. */
static void assert_on_no_list(struct fixture *fixture)
{
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(node.modified + node.modified_no_write + standby_pages(&node) + node.transition, 0);
}

static void PW_3_a_page_faulted_during_its_write_is_active(void **state)
{
    struct fixture *fixture = *state;
    static struct write_call call;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    trim_all(space);
    const uint64_t frame = page_now(space, page).frame;

    struct crew *crew = start_write(fixture, &call);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_TRANSITION);
    assert_int_equal(node_now(fixture, 0).transition, 1);
    assert_status(tide_touch(space, page, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(statistics_now(fixture).faults.transition_write_in_progress, 1);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_ACTIVE);
    assert_int_equal(page_now(space, page).frame, frame); /* used at once, not copied */
    assert_success(stamp_check(space, page, 1, 1));
    end_write(fixture, crew);

    assert_success(call.status);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_ACTIVE);
    assert_int_equal(page_now(space, page).frame, frame);
    assert_on_no_list(fixture);
    assert_success(stamp_check(space, page, 1, 1));
    assert_int_equal(statistics_now(fixture).pages_output, 1);
    assert_int_equal(statistics_now(fixture).pages_input, 0);
    fixture_verify(fixture);

    /* Nobody wrote to it, so what was written is what it holds: it leaves as standby, and comes back as it was. */
    assert_false(page_now(space, page).dirty);
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_STANDBY);
    empty_standby(fixture);
    assert_success(stamp_check(space, page, 1, 1));
    fixture_close(fixture);
}

static void PW_3_a_page_dirtied_during_its_write_is_modified_again(void **state)
{
    struct fixture *fixture = *state;
    static struct write_call call;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    trim_all(space);

    struct crew *crew = start_write(fixture, &call);
    assert_status(tide_touch(space, page, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_TRANSITION);
    assert_success(stamp_put(space, page, 1, 2));
    end_write(fixture, crew);

    assert_success(call.status);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_ACTIVE);
    assert_true(page_now(space, page).dirty);
    assert_on_no_list(fixture);
    fixture_verify(fixture);
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    assert_int_equal(node_now(fixture, 0).modified, 1);
    write_modified(fixture);
    empty_standby(fixture);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_PAGE_FILE);
    assert_success(stamp_check(space, page, 1, 2));
    fixture_close(fixture);
}

/* Read back first, dirtied only after the completion: the first write to a clean page must be seen. */
static void PW_3_a_page_dirtied_after_its_write_is_modified_again(void **state)
{
    struct fixture *fixture = *state;
    static struct write_call call;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    trim_all(space);
    struct crew *crew = start_write(fixture, &call);
    assert_status(tide_touch(space, page, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    end_write(fixture, crew);
    assert_success(call.status);
    assert_success(stamp_put(space, page, 1, 2));
    assert_true(page_now(space, page).dirty);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 0); /* the first new write releases the slot */
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    page_out(fixture, space);
    assert_success(stamp_check(space, page, 1, 2));
    fixture_close(fixture);
}

/* Two page files, one ten times slower: what answers first gets more. */
static void PW_4_the_faster_page_file_holds_more(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 4000, STEP = 400 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    atomic_store(&fixture->device.delay_us[TIDE_IO_WRITE][0], 3000);
    atomic_store(&fixture->device.delay_us[TIDE_IO_WRITE][1], 300);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    for (unsigned i = 0; i < PAGES / STEP; i++)
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, STEP, NULL));
    write_modified(fixture);
    assert_int_equal(node_now(fixture, 0).modified, 0);

    uint64_t in_file[2] = { 0, 0 };
    for (uint64_t i = 0; i < PAGES; i++) {
        const tide_page_info info = page_now(space, base + i * PG);
        assert_int_not_equal(info.slot, 0);
        assert_in_range(info.page_file, 0, 1);
        in_file[info.page_file]++;
    }
    assert_int_equal(in_file[0], atomic_load(&fixture->device.pages[TIDE_IO_WRITE][0]));
    assert_int_equal(in_file[1], atomic_load(&fixture->device.pages[TIDE_IO_WRITE][1]));
    print_message("slow file %llu pages, fast file %llu pages\n", (unsigned long long)in_file[0],
                  (unsigned long long)in_file[1]);
    assert_true(in_file[1] > in_file[0]);
    for (unsigned i = 0; i < 2; i++) {
        const tide_page_file_statistics file = page_file_now(fixture, i);
        assert_int_equal(file.used_slots, in_file[i]);
        assert_int_equal(file.pages_output, in_file[i]);
        assert_int_equal(file.writes, atomic_load(&fixture->device.operations[TIDE_IO_WRITE][i]));
    }
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    for (unsigned i = 0; i < 2; i++) {
        const tide_page_file_statistics file = page_file_now(fixture, i);
        assert_int_equal(file.pages_input, in_file[i]);
        assert_int_equal(file.reads, atomic_load(&fixture->device.operations[TIDE_IO_READ][i]));
    }
    fixture_close(fixture);
}

/* The same page by page: places that are kept in the slow file do not make it the larger one. */
static void PW_4_reservations_leave_the_choice_to_speed(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 320 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    atomic_store(&fixture->device.delay_us[TIDE_IO_WRITE][0], 5000);
    atomic_store(&fixture->device.delay_us[TIDE_IO_WRITE][1], 500);
    fixture_open(fixture, PAGES + 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    for (unsigned i = 0; i < PAGES; i++)
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 1, NULL));
    const tide_page_file_statistics slow = page_file_now(fixture, 0), fast = page_file_now(fixture, 1);
    assert_int_equal(slow.used_slots + fast.used_slots, PAGES);
    print_message("slow file %llu pages, fast file %llu pages\n", (unsigned long long)slow.used_slots,
                  (unsigned long long)fast.used_slots);
    assert_true(fast.used_slots > slow.used_slots);
    fixture_close(fixture);
}

/* A slot that cannot be written: its page is modified as before, its neighbours are written, and only it is lost. */
static void PW_5_an_error_on_a_slot_costs_the_slot_alone(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 64 };
    fixture_page_file(fixture, 4 * PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    const uint64_t limit = statistics_now(fixture).commit_limit_pages;
    device_wear(&fixture->device, TIDE_IO_WRITE, EIO, 1, 9, 1);
    assert_status(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL), TIDE_IO_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    const tide_page_file_statistics file = page_file_now(fixture, 0);
    assert_int_equal(node_now(fixture, 0).modified, 1);
    assert_int_equal(file.bad_slots, 1);
    assert_int_equal(file.used_slots, PAGES - 1);
    assert_int_equal(file.pages_output, PAGES - 1);
    assert_int_equal(file.writes, PAGES / 16 + 16);
    assert_int_equal(statistics_now(fixture).commit_limit_pages, limit - 1);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_MODIFIED), 1);
    fixture_verify(fixture);
    check_pages(space, base, PAGES, 1, 1);

    /* It is written elsewhere, and the slot is never used again. */
    trim_all(space);
    write_modified(fixture);
    for (unsigned round = 2; round < 6; round++) {
        stamp_pages(space, base, PAGES, 1, round);
        trim_all(space);
        write_modified(fixture);
        empty_standby(fixture);
        check_pages(space, base, PAGES, 1, round);
        assert_int_equal(page_file_now(fixture, 0).bad_slots, 1);
    }
    fixture_close(fixture);
}

/* One dead file of two: its slots are no worse for it, and the pages go to the other one in the end. */
static void PW_5_a_dead_file_costs_no_slot(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 256 };
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, 400);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    device_wear(&fixture->device, TIDE_IO_WRITE, EIO, 0, 0, 1000000); /* all of the file that is written first */
    for (unsigned i = 0; i < 200 && node_now(fixture, 0).modified != 0; i++)
        (void)tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL);
    assert_int_equal(node_now(fixture, 0).modified, 0);
    assert_int_equal(statistics_now(fixture).page_file_bad_slots, 0);
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/* Steps of the writer, until no page of the node is modified that could be written. */
static void write_until(struct fixture *fixture, uint64_t modified)
{
    while (node_now(fixture, 0).modified > modified)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
}

/*
 * A page file whose device does not answer: the others are written, pages come and go, and what is under write to it is
 * the program's to use, change and delete. Of mapped files the same is to be shown when there are any.
 */
static void PW_6_a_file_that_does_not_answer_holds_up_no_other(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 800, PAGES = 3000, UNDER_WRITE_MAX = 64 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, true);
    stamp_pages(space, base, PAGES, 1, 1); /* nearly four times the memory: each page goes out, and most come back */
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    check_pages(space, base, PAGES, 1, 1);
    stamp_pages(space, base, PAGES, 1, 2);
    trim_all(space);
    write_until(fixture, 0);
    while (node_now(fixture, 0).transition !=
           page_file_now(fixture, 0).used_slots) /* the other one may be overdue too */
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));

    const uint64_t under_write = node_now(fixture, 0).transition;
    assert_between(under_write, 1, UNDER_WRITE_MAX);
    assert_int_equal(page_file_now(fixture, 0).pages_output, 0);
    assert_true(page_file_now(fixture, 1).pages_output >= PAGES - FRAMES);
    fixture_verify(fixture);
    check_pages(space, base, PAGES, 1, 2);
    trim_all(space);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_TRANSITION), under_write);

    /* Of those under write the first is deleted, and the last is written to. */
    tide_address first = 0, last = 0;
    for (uint64_t i = 0; i < PAGES; i++) {
        if (page_now(space, base + i * PG).state != TIDE_PAGE_STATE_TRANSITION)
            continue;
        first = first == 0 ? base + i * PG : first;
        last = base + i * PG;
    }
    region_decommit(space, first, 1);
    if (last != first)
        assert_success(stamp_put(space, last, 1, 3));
    fixture_verify(fixture);

    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, false);
    while (node_now(fixture, 0).transition != 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    assert_between(page_file_now(fixture, 0).pages_output, under_write, PAGES);
    fixture_verify(fixture);
    trim_all(space);
    write_until(fixture, 0);
    empty_standby(fixture);
    for (uint64_t i = 0; i < PAGES; i++) {
        const tide_address page = base + i * PG;
        if (page != first)
            assert_success(stamp_check(space, page, 1, page == last ? 3 : 2));
    }
    fixture_close(fixture);
}

/* Where the others are full, pages wait for the file in memory; the writer is there for them when it answers. */
static void PW_6_pages_wait_for_the_only_file_with_room(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 1000, PAGES = 600, SMALL = 40 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, SMALL);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, true);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    while (page_file_now(fixture, 1).used_slots != SMALL || node_now(fixture, 0).transition == 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, true)); /* it takes pages and looks */
    const tide_node_statistics node = node_now(fixture, 0);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, false));
    assert_int_equal(node.modified + node.transition + standby_pages(&node), PAGES);
    fixture_verify(fixture);
    check_pages(space, base, PAGES, 1, 1);
    trim_all(space);

    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, false);
    while (node_now(fixture, 0).transition != 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    write_until(fixture, 0);
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/*
 * The only page file does not answer: that keeps the pages that are under write to it, and nobody who stops the world,
 * holds the writer, or wants pages written.
 */
static void PW_6_the_only_file_does_not_answer(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 800, PAGES = 200, ROUND = 64 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES), other = region_new(space, PAGES);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, true)); /* it takes pages and looks */
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    while (node_now(fixture, 0).transition == 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    assert_between(node_now(fixture, 0).transition, 1, ROUND);
    assert_int_equal(node_now(fixture, 0).modified, PAGES - node_now(fixture, 0).transition);
    assert_int_equal(page_file_now(fixture, 0).writes, 0);

    fixture_verify(fixture);
    assert_success(tide_working_set_set_limits(space, 10, FRAMES / 2, TIDE_WORKING_SET_HARD_MAXIMUM));
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL));
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, false));
    check_pages(space, base, PAGES, 1, 1);
    stamp_pages(space, other, PAGES, 2, 1);
    region_decommit(space, base, 1);
    assert_success(stamp_put(space, base + PG, 1, 2));
    trim_all(space);
    fixture_verify(fixture);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, true));
    assert_between(node_now(fixture, 0).transition, 1, ROUND);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, false));

    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    while (node_now(fixture, 0).transition + node_now(fixture, 0).modified != 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    empty_standby(fixture);
    assert_success(stamp_check(space, base + PG, 1, 2));
    check_pages(space, base + 2 * PG, PAGES - 2, 1, 1);
    check_pages(space, other, PAGES, 2, 1);
    fixture_close(fixture);
}

/* Slow is not dead: who wants all modified pages written gets that, from a file that takes longer than a step waits. */
static void PW_6_all_is_written_by_a_slow_file(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 2000, PAGES = 120 /* less than the writer wakes for, and one batch */, DELAY_US = 30000 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    atomic_store(&fixture->device.delay_us[TIDE_IO_WRITE][0], DELAY_US);
    do { /* a page that was trimmed just now may have to wait for the next call */
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
        assert_int_equal(node_now(fixture, 0).transition, 0);
    } while (node_now(fixture, 0).modified != 0);
    assert_true(page_file_now(fixture, 0).writes * DELAY_US > 100000);
    assert_int_equal(page_file_now(fixture, 0).pages_output, PAGES);
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

static void device_let_go(struct crew_member *member)
{
    const struct timespec pause = { .tv_nsec = 200000000 };

    nanosleep(&pause, NULL);
    device_hold((struct device *)member->context, TIDE_IO_WRITE, false);
}

/* An engine is not closed over a write that is under way: its memory is still being read. */
static void PW_6_close_waits_for_what_is_under_write(void **state)
{
    struct fixture *fixture = *state;
    enum { PAGES = 100 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, 4 * PAGES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, true);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    while (node_now(fixture, 0).transition == 0)
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
    space_close(fixture, space); /* does not wait */
    fixture_verify(fixture);
    struct crew *crew = crew_start(1, device_let_go, &fixture->device);
    assert_success(tide_engine_close(fixture->engine));
    fixture->engine = NULL;
    assert_int_not_equal(atomic_load(&fixture->device.operations[TIDE_IO_WRITE][0]), 0);
    crew_join(crew);
}

/* One step of a worker that is held, whatever is to be done. */
static uint64_t step_now(struct fixture *fixture, tide_worker worker)
{
    uint64_t done = 0;
    assert_success(tide_worker_step(fixture->engine, worker, 0, 0, &done));
    return done;
}

/* Neighbours draw pages to a file. When it hangs, a step does not end with the first round, which is all for that file. */
static void PW_6_a_step_goes_on_with_the_other_files(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 2000, WINDOW = 16, PAGES = 100 * WINDOW, ROUND = FRAMES / 16 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, true));
    for (uint64_t i = 0; i < PAGES; i += WINDOW)
        stamp_pages(space, base + i * PG, 1, 1, 1);
    trim_all(space);
    while (node_now(fixture, 0).modified + node_now(fixture, 0).transition != 0) /* several on a busy machine */
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
    uint64_t windows = 0;
    for (uint64_t i = 0; i < PAGES; i += WINDOW) {
        if (page_now(space, base + i * PG).page_file != 0)
            continue;
        stamp_pages(space, base + (i + 1) * PG, WINDOW - 1, 1, 1);
        windows++;
    }
    assert_true(windows * (WINDOW - 1) > 2 * ROUND);
    trim_all(space);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, true);
    const uint64_t before = page_file_now(fixture, 1).used_slots;
    (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
    assert_int_not_equal(page_file_now(fixture, 1).used_slots, before);
    /* On a busy machine the other file may be overdue too. */
    while (node_now(fixture, 0).modified != 0 || node_now(fixture, 0).transition > ROUND)
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
    assert_int_not_equal(node_now(fixture, 0).transition, 0);
    fixture_verify(fixture);

    device_hold_file(&fixture->device, TIDE_IO_WRITE, 0, false);
    while (node_now(fixture, 0).transition != 0)
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
    empty_standby(fixture);
    for (uint64_t i = 0; i < PAGES; i += WINDOW)
        check_pages(space, base + i * PG, page_now(space, base + (i + 1) * PG).slot == 0 ? 1 : WINDOW, 1, 1);
    fixture_close(fixture);
}

/* What can be had from a file that does not answer is no room; the other one grows instead. Nor is it cut. */
static void PW_6_a_file_that_does_not_answer_keeps_its_size(void **state)
{
    struct fixture *fixture = *state;
    enum { FRAMES = 800, SLOTS = 50, MAXIMUM = 1000, PAGES = 300 };
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.page_file_shrink_delay_ms = 1;
    fixture_page_file_growing(fixture, SLOTS, MAXIMUM);
    fixture_page_file_growing(fixture, SLOTS, MAXIMUM);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, true));
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_EXTENDER, true));
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(step_now(fixture, TIDE_WORKER_MODIFIED_WRITER), 0);
        assert_int_equal(step_now(fixture, TIDE_WORKER_EXTENDER), 0); /* neither file would be written */
    }
    assert_int_not_equal(node_now(fixture, 0).modified, 0);
    device_hold_file(&fixture->device, TIDE_IO_WRITE, 1, false);
    while (page_file_now(fixture, 1).total_slots == SLOTS) {
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
        (void)step_now(fixture, TIDE_WORKER_EXTENDER);
        assert_int_equal(page_file_now(fixture, 0).total_slots, SLOTS);
    }
    /* On a busy machine the other file may be overdue too, and then counts no more than the first. */
    while (node_now(fixture, 0).modified != 0 ||
           node_now(fixture, 0).transition != page_file_now(fixture, 0).used_slots)
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);

    /* Who is in need gets room in the other one as long as there is any, and then all the same. */
    const uint64_t limit = statistics_now(fixture).commit_limit_pages;
    const tide_address more = region_new(space, limit);
    assert_int_equal(page_file_now(fixture, 0).total_slots, SLOTS);
    assert_int_not_equal(page_file_now(fixture, 1).total_slots, MAXIMUM);
    const tide_address most = region_new(space, MAXIMUM - SLOTS);
    assert_int_equal(page_file_now(fixture, 1).total_slots, MAXIMUM);
    const uint64_t slots = page_file_now(fixture, 0).total_slots;
    assert_between(slots, SLOTS + 1, MAXIMUM);

    assert_success(tide_virtual_free(space, most, 0, TIDE_MEM_RELEASE));
    assert_success(tide_virtual_free(space, more, 0, TIDE_MEM_RELEASE));
    while (page_file_now(fixture, 1).total_slots == MAXIMUM) {
        (void)step_now(fixture, TIDE_WORKER_EXTENDER);
        sleep_ms(2);
    }
    assert_int_equal(page_file_now(fixture, 0).total_slots, slots);
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    while (node_now(fixture, 0).transition != 0)
        (void)step_now(fixture, TIDE_WORKER_MODIFIED_WRITER);
    while (page_file_now(fixture, 0).total_slots == slots) {
        (void)step_now(fixture, TIDE_WORKER_EXTENDER);
        sleep_ms(2);
    }
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/* ---- figures of one file ---------------------------------------------------------------------------------------- */

static void page_file_statistics_refuse_what_is_not_there(void **state)
{
    struct fixture *fixture = *state;
    tide_page_file_statistics statistics = { .struct_bytes = sizeof(statistics) };
    fixture_page_file_growing(fixture, 30, 50);
    fixture_page_file(fixture, 20);
    fixture_open(fixture, 200);
    assert_success(tide_page_file_statistics_get(fixture->engine, 0, &statistics));
    assert_int_equal(statistics.total_slots, 30);
    assert_int_equal(statistics.minimum_slots, 30);
    assert_int_equal(statistics.maximum_slots, 50);
    assert_int_equal(page_file_now(fixture, 1).maximum_slots, 20);
    assert_status(tide_page_file_statistics_get(fixture->engine, 2, &statistics), TIDE_INVALID_PARAMETER);
    assert_non_null(strstr(tide_last_error()->message, "2"));
    assert_status(tide_page_file_statistics_get(fixture->engine, UINT32_MAX, &statistics), TIDE_INVALID_PARAMETER);
    assert_status(tide_page_file_statistics_get(fixture->engine, 0, NULL), TIDE_INVALID_PARAMETER);
    assert_status(tide_page_file_statistics_get(NULL, 0, &statistics), TIDE_INVALID_HANDLE);
    statistics.struct_bytes = 8;
    assert_status(tide_page_file_statistics_get(fixture->engine, 0, &statistics), TIDE_INVALID_PARAMETER);
    fixture_close(fixture);
}

/* A full page file is no error of the writer's that loses pages: what does not fit stays modified. */
static void PW_a_full_page_file_leaves_pages_modified(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 30);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 50);
    stamp_pages(space, base, 50, 1, 1);
    trim_all(space);
    (void)tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED);
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(standby_pages(&node), 30);
    assert_int_equal(node.modified, 20);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 30);
    assert_int_equal(statistics_now(fixture).page_file_total_slots, 30);
    empty_standby(fixture);
    fixture_verify(fixture);
    check_pages(space, base, 50, 1, 1);
    fixture_close(fixture);
}

static const struct CMUnitTest page_files[] = {
    API_TEST(PW_1_slots_are_given_when_pages_are_written),
    API_TEST(PW_1_a_full_page_file_that_can_grow_does),
    API_TEST(PW_2_neighbours_get_consecutive_slots),
    API_TEST(PW_2_pages_written_alone_get_the_slots_kept_for_them),
    API_TEST(PW_2_reservations_give_way_when_slots_are_short),
    API_TEST(PW_3_a_page_faulted_during_its_write_is_active),
    API_TEST(PW_3_a_page_dirtied_during_its_write_is_modified_again),
    API_TEST(PW_3_a_page_dirtied_after_its_write_is_modified_again),
    API_TEST(PW_4_the_faster_page_file_holds_more),
    API_TEST(PW_4_reservations_leave_the_choice_to_speed),
    API_TEST(PW_5_an_error_on_a_slot_costs_the_slot_alone),
    API_TEST(PW_5_a_dead_file_costs_no_slot),
    API_TEST(PW_6_a_file_that_does_not_answer_holds_up_no_other),
    API_TEST(PW_6_pages_wait_for_the_only_file_with_room),
    API_TEST(PW_6_a_step_goes_on_with_the_other_files),
    API_TEST(PW_6_a_file_that_does_not_answer_keeps_its_size),
    API_TEST(PW_6_the_only_file_does_not_answer),
    API_TEST(PW_6_all_is_written_by_a_slow_file),
    API_TEST(PW_6_close_waits_for_what_is_under_write),
    API_TEST(page_file_statistics_refuse_what_is_not_there),
    API_TEST(PW_a_full_page_file_leaves_pages_modified),
};

API_MAIN(page_files)

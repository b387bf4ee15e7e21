/*
 * Acceptance cases of page states (nt-behaviour 10: ST-1, ST-2), of page lists and the choice of a frame (nt-behaviour
 * 11: LS-1 to LS-4) and of the zero-page thread (nt-behaviour 12: ZT-1, ZT-2).
 *
 * The list cases begin with exact lengths of the lists. Each keeps all its pages under one page-table leaf, whose table
 * frames the first touch takes, so that from then on a page is a frame. Engines below 256 frames keep no reserve for
 * the writers, so that lists run down to 0.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEAF_PAGES = 480 }; /* from the lowest address, 64 KiB, to just below 2 MiB */

/* ---- ST-1 ------------------------------------------------------------------------------------------------------- */

enum { RANDOM_THREADS = 8, RANDOM_SPACES = 3, RANDOM_PAGES = 64, RANDOM_OPERATIONS = 3000, RANDOM_FRAMES = 640 };

struct random_load {
    tide_space *spaces[RANDOM_SPACES];
    tide_address bases[RANDOM_SPACES][RANDOM_THREADS];
    uint64_t versions[RANDOM_SPACES][RANDOM_THREADS][RANDOM_PAGES]; /* 0: fresh, reads zero */
    atomic_uint ended;
};

static tide_status random_check(struct random_load *load, unsigned space, unsigned thread, unsigned page)
{
    const tide_address address = load->bases[space][thread] + page * (tide_address)PG;
    const uint64_t version = load->versions[space][thread][page];
    if (version != 0)
        return stamp_check(load->spaces[space], address, space, version);
    uint64_t words[PG / sizeof(uint64_t)];
    const tide_status status = tide_read(load->spaces[space], address, words, PG);
    for (unsigned i = 0; i < PG / sizeof(uint64_t) && status == TIDE_SUCCESS; i++) {
        if (words[i] != 0)
            return TIDE_INVARIANT_VIOLATED;
    }
    return status;
}

/* Each thread has pages of its own in every space; the spaces, lists, frames and slots are everybody's. */
static void random_thread(struct crew_member *member)
{
    struct random_load *load = member->context;
    uint64_t random = member->index + 1;
    for (unsigned i = 0; i < RANDOM_OPERATIONS && member->failure[0] == '\0'; i++) {
        const unsigned space = (unsigned)(random_step(&random) % RANDOM_SPACES);
        const unsigned page = (unsigned)(random_step(&random) % RANDOM_PAGES);
        const unsigned dice = (unsigned)(random_step(&random) % 100);
        tide_address address = load->bases[space][member->index] + page * (tide_address)PG;
        uint64_t *version = &load->versions[space][member->index][page];
        if (dice < 45) {
            CREW_NOTE(member, stamp_put(load->spaces[space], address, space, ++*version) == TIDE_SUCCESS);
        } else if (dice < 90) {
            CREW_NOTE(member, random_check(load, space, member->index, page) == TIDE_SUCCESS);
        } else if (dice < 94) {
            uint64_t bytes = PG;
            CREW_NOTE(member, tide_virtual_free(load->spaces[space], address, PG, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
            CREW_NOTE(member, tide_virtual_alloc(load->spaces[space], &address, &bytes, TIDE_MEM_COMMIT,
                                                 TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
            *version = 0;
        } else if (dice < 98) {
            CREW_NOTE(member, tide_working_set_trim(load->spaces[space], 16, NULL) == TIDE_SUCCESS);
        } else if (dice < 99) {
            CREW_NOTE(member, tide_working_set_empty(load->spaces[space]) == TIDE_SUCCESS);
        } else {
            CREW_NOTE(member, tide_space_set_priority(load->spaces[space], page % 6) == TIDE_SUCCESS);
        }
    }
    atomic_fetch_add(&load->ended, 1);
}

static void ST_1_states_add_up_after_a_random_workload(void **state)
{
    struct fixture *fixture = *state;
    static struct random_load load;
    memset(&load, 0, sizeof(load));
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture->config.cpu_cache_pages = 4;
    fixture->config.list_shards = 4;
    fixture_page_file(fixture, 1500);
    fixture_page_file(fixture, 1500);
    fixture_open(fixture, RANDOM_FRAMES);
    for (unsigned i = 0; i < RANDOM_SPACES; i++) {
        load.spaces[i] = space_new(fixture);
        for (unsigned j = 0; j < RANDOM_THREADS; j++)
            load.bases[i][j] = region_new(load.spaces[i], RANDOM_PAGES);
    }

    struct crew *crew = crew_start(RANDOM_THREADS, random_thread, &load);
    unsigned verifications = 0;
    bool sound = true;
    tide_verify_report report;
    memset(&report, 0, sizeof(report));
    while (atomic_load(&load.ended) < RANDOM_THREADS) {
        if (sound && tide_engine_verify(fixture->engine, &report) != TIDE_SUCCESS)
            sound = false;
        verifications++;
        sleep_ms(20);
    }
    crew_join(crew);
    if (!sound)
        print_error("verification %u under load: %s\n", verifications, report.first);
    assert_true(sound);

    for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
        assert_success(tide_worker_hold(fixture->engine, (tide_worker)worker, true));
    assert_success(tide_engine_verify(fixture->engine, &report));
    assert_int_equal(report.frames_checked, RANDOM_FRAMES);
    assert_true(report.ptes_checked > 0);
    const tide_statistics statistics = statistics_now(fixture);
    assert_int_equal(report.slots_checked, statistics.page_file_used_slots);
    uint64_t frames = 0;
    uint64_t active = 0;
    uint64_t available = 0;
    for (unsigned node = 0; node < statistics.node_count; node++) {
        const tide_node_statistics now = node_now(fixture, node);
        assert_int_equal(node_sum(&now), now.frames);
        assert_int_equal(now.available, now.zeroed + now.free + standby_pages(&now));
        assert_int_equal(now.transition, 0);
        frames += now.frames;
        active += now.active;
        available += now.available;
    }
    assert_int_equal(frames, RANDOM_FRAMES);
    assert_int_equal(available, statistics.available_pages);
    uint64_t valid = 0;
    for (unsigned i = 0; i < RANDOM_SPACES; i++) {
        uint64_t of_space = 0;
        for (unsigned j = 0; j < RANDOM_THREADS; j++)
            of_space += pages_in_state(load.spaces[i], load.bases[i][j], RANDOM_PAGES, TIDE_PAGE_STATE_ACTIVE);
        assert_int_equal(space_now(load.spaces[i]).working_set_pages, of_space);
        valid += of_space;
    }
    assert_int_equal(active, valid + statistics.table_pages);
    for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
        assert_success(tide_worker_hold(fixture->engine, (tide_worker)worker, false));

    for (unsigned i = 0; i < RANDOM_SPACES; i++)
        for (unsigned j = 0; j < RANDOM_THREADS; j++)
            for (unsigned page = 0; page < RANDOM_PAGES; page++)
                assert_success(random_check(&load, i, j, page));
    fixture_close(fixture);
}

/* ---- ST-2 ------------------------------------------------------------------------------------------------------- */

enum { FAULTY_PAGES = 64, FAULTY_CLUSTERS = FAULTY_PAGES / 16 };

/* Row 19, a write failed: each write of a series in turn. Its pages go back to modified with their data, others out. */
static void ST_2_a_failed_write_returns_the_page_to_modified(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 4 * FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FAULTY_PAGES);
    for (unsigned k = 0; k < FAULTY_CLUSTERS; k++) {
        stamp_pages(space, base, FAULTY_PAGES, 1, k);
        trim_all(space);
        const tide_statistics before = statistics_now(fixture);
        device_wear(&fixture->device, TIDE_IO_WRITE, EIO, k, 5, 3);
        uint64_t written = 0;
        assert_status(tide_worker_step(fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, FAULTY_PAGES, &written),
                      TIDE_IO_ERROR);
        assert_int_equal(tide_last_error()->io_error, EIO);
        device_wear(&fixture->device, TIDE_IO_WRITE, 0, 0, 0, 0);
        const tide_node_statistics node = node_now(fixture, 0);
        const tide_statistics after = statistics_now(fixture);
        assert_int_equal(after.write_errors - before.write_errors, 1 + 3); /* the cluster; three of its pages alone */
        assert_int_equal(node.transition, 0);
        assert_int_equal(node.modified, 3);
        assert_int_equal(node.modified + standby_pages(&node), FAULTY_PAGES);
        assert_int_equal(after.pages_output - before.pages_output, standby_pages(&node));
        /* never to be used again (14.1 rule 6) */
        assert_int_equal(after.page_file_bad_slots - before.page_file_bad_slots, 3);
        assert_int_equal(after.page_file_used_slots, standby_pages(&node));
        fixture_verify(fixture);

        write_modified(fixture);
        assert_int_equal(node_now(fixture, 0).modified, 0);
        empty_standby(fixture);
        check_pages(space, base, FAULTY_PAGES, 1, k);
    }
    fixture_close(fixture);
}

/*
 * Row 7, a read failed: from each read of a series on, until the device is repaired. The frames go back to free, all
 * pages of the cluster stay out, and the next access works.
 */
static void ST_2_a_failed_read_returns_the_frames(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 2 * FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FAULTY_PAGES);
    stamp_pages(space, base, FAULTY_PAGES, 1, 1);
    for (unsigned k = 0; k < FAULTY_CLUSTERS; k++) {
        page_out(fixture, space);
        device_fail(&fixture->device, TIDE_IO_READ, EIO, k, DEVICE_ALWAYS);
        unsigned failures = 0;
        for (uint64_t i = 0; i < FAULTY_PAGES; i++) {
            const tide_statistics before = statistics_now(fixture);
            const uint64_t in_file = pages_in_state(space, base, FAULTY_PAGES, TIDE_PAGE_STATE_PAGE_FILE);
            const tide_status status = stamp_check(space, base + i * PG, 1, 1);
            if (status == TIDE_SUCCESS)
                continue;
            failures++;
            assert_status(status, TIDE_IN_PAGE_ERROR);
            assert_int_equal(tide_last_error()->io_error, EIO);
            assert_int_equal(tide_last_error()->address, base + i * PG);
            const tide_statistics after = statistics_now(fixture);
            assert_between(after.read_errors - before.read_errors, 1, 2); /* a cluster, and the page alone */
            assert_int_equal(after.faults.in_page_errors - before.faults.in_page_errors, 1);
            assert_int_equal(after.available_pages, before.available_pages);
            assert_int_equal(after.page_file_used_slots, FAULTY_PAGES);
            assert_int_equal(pages_in_state(space, base, FAULTY_PAGES, TIDE_PAGE_STATE_PAGE_FILE), in_file);
            device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
            fixture_verify(fixture);
            assert_success(stamp_check(space, base + i * PG, 1, 1));
        }
        assert_int_equal(failures, 1);
    }
    check_pages(space, base, FAULTY_PAGES, 1, 1);
    fixture_close(fixture);
}

/* A clustered read that fails once is no error of the faulting page's, which can still be read alone. */
static void ST_2_a_failed_cluster_harms_no_other_page(void **state)
{
    struct fixture *fixture = *state;
    SOFT_SPACES_ONLY(ONLY_CLUSTERS);
    fixture_page_file(fixture, 2 * FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, FAULTY_PAGES);
    stamp_pages(space, base, FAULTY_PAGES, 1, 1);
    for (unsigned k = 2; k < FAULTY_CLUSTERS; k++) {
        page_out(fixture, space);
        const tide_statistics before = statistics_now(fixture);
        device_fail(&fixture->device, TIDE_IO_READ, EIO, k, 1);
        check_pages(space, base, FAULTY_PAGES, 1, 1);
        const tide_statistics after = statistics_now(fixture);
        assert_int_equal(after.read_errors - before.read_errors, 1);
        assert_int_equal(after.faults.in_page_errors, 0);
        assert_int_equal(after.pages_input - before.pages_input, FAULTY_PAGES);
        fixture_verify(fixture);
    }
    fixture_close(fixture);
}

struct page_call {
    struct fixture *fixture;
    tide_space *space;
    tide_address address;
    tide_status status;
};

static void touch_thread(struct crew_member *member)
{
    struct page_call *call = member->context;
    atomic_store(&member->entered, true);
    call->status = tide_touch(call->space, call->address, TIDE_ACCESS_READ);
}

static void decommit_thread(struct crew_member *member)
{
    struct page_call *call = member->context;
    atomic_store(&member->entered, true);
    call->status = tide_virtual_free(call->space, call->address, PG, TIDE_MEM_DECOMMIT);
}

static void writer_thread(struct crew_member *member)
{
    struct page_call *call = member->context;
    atomic_store(&member->entered, true);
    call->status = tide_worker_step(call->fixture->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, NULL);
}

/* Row 7, page deleted meanwhile: a decommit meets the read of the page, and of its cluster neighbours. */
static void ST_2_a_page_deleted_during_its_read_frees_the_frame(void **state)
{
    struct fixture *fixture = *state;
    static struct page_call touch, decommit, neighbour;
    fixture_page_file(fixture, 2 * FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 16);
    stamp_pages(space, base, 16, 1, 1);
    page_out(fixture, space);

    const uint64_t available = statistics_now(fixture).available_pages;
    touch = (struct page_call){ .fixture = fixture, .space = space, .address = base + 4 * PG };
    decommit = touch;
    neighbour = touch;
    neighbour.address = base + 7 * PG;
    device_hold(&fixture->device, TIDE_IO_READ, true);
    struct crew *reader = crew_start(1, touch_thread, &touch);
    device_wait_held(&fixture->device, TIDE_IO_READ, 1);
    struct crew *deleter = crew_start(1, decommit_thread, &decommit);
    struct crew *second = crew_start(1, decommit_thread, &neighbour);
    crew_wait_asleep(deleter); /* waits for the read, or is done */
    crew_wait_asleep(second);
    device_hold(&fixture->device, TIDE_IO_READ, false);
    crew_join(reader);
    crew_join(deleter);
    crew_join(second);

    assert_true(touch.status == TIDE_PAGE_FAULT_PAGING_FILE || touch.status == TIDE_ACCESS_VIOLATION);
    assert_success(decommit.status);
    assert_success(neighbour.status);
    assert_int_equal(page_now(space, base + 4 * PG).state, TIDE_PAGE_STATE_FREE);
    assert_int_equal(page_now(space, base + 7 * PG).state, TIDE_PAGE_STATE_FREE);
    assert_status(tide_touch(space, base + 4 * PG, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, 14);
    assert_int_equal(node_now(fixture, 0).transition, 0);
    for (uint64_t i = 0; i < 16; i++) {
        if (i != 4 && i != 7)
            assert_success(stamp_check(space, base + i * PG, 1, 1));
    }
    trim_all(space);
    assert_int_equal(statistics_now(fixture).available_pages, available);
    fixture_close(fixture);
}

/* Row 18, and its write fails: the page was taken back during the write and must still count as dirty. */
static void ST_2_a_page_faulted_during_a_failing_write_stays_dirty(void **state)
{
    struct fixture *fixture = *state;
    static struct page_call writer;
    fixture_page_file(fixture, FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    trim_all(space);
    writer = (struct page_call){ .fixture = fixture };
    device_fail(&fixture->device, TIDE_IO_WRITE, EIO, 0, 2); /* and when it is tried again */
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    struct crew *crew = crew_start(1, writer_thread, &writer);
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    assert_status(tide_touch(space, page, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    crew_join(crew);
    assert_status(writer.status, TIDE_IO_ERROR);

    const tide_page_info info = page_now(space, page);
    assert_int_equal(info.state, TIDE_PAGE_STATE_ACTIVE);
    assert_true(info.dirty);
    assert_int_equal(info.slot, 0);
    fixture_verify(fixture);
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    write_modified(fixture);
    empty_standby(fixture);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_PAGE_FILE);
    assert_success(stamp_check(space, page, 1, 1));
    fixture_close(fixture);
}

/* Row 19, dirtied again and released during the write: back to modified, and the new content goes out. */
static void ST_2_a_page_dirtied_and_trimmed_during_its_write_is_modified(void **state)
{
    struct fixture *fixture = *state;
    static struct page_call writer;
    fixture_page_file(fixture, FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    for (unsigned fails = 0; fails < 2; fails++) {
        assert_success(stamp_put(space, page, 1, 1));
        trim_all(space);
        writer = (struct page_call){ .fixture = fixture };
        device_fail(&fixture->device, TIDE_IO_WRITE, EIO, 0, fails);
        device_hold(&fixture->device, TIDE_IO_WRITE, true);
        struct crew *crew = crew_start(1, writer_thread, &writer);
        device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
        assert_success(stamp_put(space, page, 1, 2));
        trim_all(space);
        assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_TRANSITION);
        assert_int_equal(node_now(fixture, 0).transition, 1);
        device_hold(&fixture->device, TIDE_IO_WRITE, false);
        crew_join(crew);
        assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
        assert_true(page_now(space, page).dirty);
        assert_int_equal(node_now(fixture, 0).transition, 0);
        fixture_verify(fixture);
        page_out(fixture, space);
        assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_PAGE_FILE);
        assert_success(stamp_check(space, page, 1, 2));
    }
    fixture_close(fixture);
}

/* A page deleted during its write: the frame is freed at completion and the slot with it. */
static void ST_2_a_page_deleted_during_its_write_is_freed(void **state)
{
    struct fixture *fixture = *state;
    static struct page_call writer, decommit;
    fixture_page_file(fixture, FAULTY_PAGES);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 2);
    assert_success(stamp_put(space, page, 1, 1));
    assert_success(stamp_put(space, page + PG, 1, 1)); /* keeps the table */
    const uint64_t available = statistics_now(fixture).available_pages;
    assert_success(tide_working_set_trim(space, 2, NULL));
    assert_status(tide_touch(space, page + PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    writer = (struct page_call){ .fixture = fixture };
    decommit = (struct page_call){ .fixture = fixture, .space = space, .address = page };
    device_hold(&fixture->device, TIDE_IO_WRITE, true);
    struct crew *crew = crew_start(1, writer_thread, &writer);
    device_wait_held(&fixture->device, TIDE_IO_WRITE, 1);
    struct crew *deleter = crew_start(1, decommit_thread, &decommit);
    crew_wait_asleep(deleter); /* waits for the write, or is done */
    device_hold(&fixture->device, TIDE_IO_WRITE, false);
    crew_join(crew);
    crew_join(deleter);
    assert_success(decommit.status);
    assert_success(writer.status);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_FREE);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.page_file_used_slots, 0);
    assert_int_equal(after.available_pages, available + 1);
    assert_int_equal(node_now(fixture, 0).transition, 0);
    fixture_close(fixture);
}

/* ---- LS-1 to LS-4 ----------------------------------------------------------------------------------------------- */

/*
 * One region under one leaf: 50 pages in the page file from `base` on, fresh pages from `fresh` on, 100 frames free and
 * 100 zeroed. Clusters of one page, so that a hard fault takes one frame.
 */
static tide_space *hundred_free_hundred_zeroed(struct fixture *fixture, tide_address *base, tide_address *fresh)
{
    fixture->config.start_free = true;
    fixture->config.cluster_pages = 1;
    fixture_page_file(fixture, 500);
    fixture_open(fixture, 250);
    tide_space *space = space_new(fixture);
    *base = region_new_at(space, TIDE_LOWEST_ADDRESS, LEAF_PAGES);
    stamp_pages(space, *base, 50, 1, 1);
    page_out(fixture, space);
    *fresh = *base + 50 * PG;
    consume_frames(fixture, space, fresh, 200);
    uint64_t zeroed = 0;
    assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_ZERO_PAGE, 0, 100, &zeroed));
    assert_int_equal(zeroed, 100);
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(node.free, 100);
    assert_int_equal(node.zeroed, 100);
    return space;
}

/* A frame that will be overwritten comes from free, one that must be zero from zeroed. */
static void LS_1_reads_take_free_and_demand_zero_takes_zeroed(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    tide_address base, fresh;
    tide_space *space = hundred_free_hundred_zeroed(fixture, &base, &fresh);
    const tide_statistics before = statistics_now(fixture);

    touch_pages(space, base, 50, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    assert_int_equal(node_now(fixture, 0).free, 50);
    assert_int_equal(node_now(fixture, 0).zeroed, 100);
    touch_pages(space, fresh, 50, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_int_equal(node_now(fixture, 0).free, 50);
    assert_int_equal(node_now(fixture, 0).zeroed, 50);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.inline_zeroed, before.inline_zeroed);
    assert_int_equal(after.table_pages, before.table_pages);
    check_pages(space, base, 50, 1, 1);
    fixture_close(fixture);
}

static void LS_2_demand_zero_past_zeroed_zeroes_inline(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    tide_address base, fresh;
    tide_space *space = hundred_free_hundred_zeroed(fixture, &base, &fresh);
    const tide_statistics before = statistics_now(fixture);

    for (unsigned i = 0; i < 150; i++) {
        char page[PG];
        char zero[PG];
        memset(zero, 0, sizeof(zero));
        assert_status(tide_touch(space, fresh + i * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_DEMAND_ZERO);
        assert_success(tide_read(space, fresh + i * PG, page, PG));
        assert_memory_equal(page, zero, PG);
        assert_int_equal(node_now(fixture, 0).zeroed, i < 100 ? 99 - i : 0); /* zeroed first */
    }

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.inline_zeroed - before.inline_zeroed, 50);
    assert_int_equal(node_now(fixture, 0).free, 50);
    fixture_close(fixture);
}

enum { PRIORITIES = 6, OF_EACH = 10 };

/*
 * The sheet's case has all eight priorities; the public call sets 0 to 5 (6 and 7 belong to SuperFetch), so the case
 * has six. Each page becomes standby by itself, so that the order in each list is the order of addresses.
 */
static void LS_3_standby_is_repurposed_by_priority_and_age(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    struct fixture *fixture = *state;
    tide_space *owners[PRIORITIES];
    tide_address bases[PRIORITIES];
    fixture->config.cluster_pages = 1;
    fixture_page_file(fixture, 400);
    fixture_open(fixture, 240);
    for (unsigned priority = PRIORITIES; priority-- > 0;) { /* lowest priority youngest: age must not decide */
        owners[priority] = space_new(fixture);
        assert_success(tide_space_set_priority(owners[priority], priority));
        bases[priority] = region_new(owners[priority], OF_EACH);
        for (unsigned i = 0; i < OF_EACH; i++) {
            assert_success(stamp_put(owners[priority], bases[priority] + i * PG, priority, 1));
            trim_all(owners[priority]);
            write_modified(fixture);
        }
    }
    tide_space *other = space_new(fixture);
    tide_address fresh = region_new_at(other, TIDE_LOWEST_ADDRESS, 250);
    consume_frames(fixture, other, &fresh, 0);
    const tide_node_statistics full = node_now(fixture, 0);
    for (unsigned priority = 0; priority < 8; priority++)
        assert_int_equal(full.standby[priority], priority < PRIORITIES ? OF_EACH : 0);
    assert_int_equal(full.available, PRIORITIES * OF_EACH);
    const tide_statistics before = statistics_now(fixture);

    touch_pages(other, fresh, 25, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);

    const tide_node_statistics node = node_now(fixture, 0);
    const tide_statistics after = statistics_now(fixture);
    static const unsigned left[8] = { 0, 0, 5, 10, 10, 10, 0, 0 };
    for (unsigned priority = 0; priority < 8; priority++) {
        assert_int_equal(node.standby[priority], left[priority]);
        assert_int_equal(after.repurposed[priority] - before.repurposed[priority],
                         full.standby[priority] - left[priority]);
    }
    assert_int_equal(pages_in_state(owners[2], bases[2], 5, TIDE_PAGE_STATE_PAGE_FILE), 5); /* the oldest went */
    assert_int_equal(pages_in_state(owners[2], bases[2] + 5 * PG, 5, TIDE_PAGE_STATE_STANDBY), 5);

    /* Who kept his pages refaults soft; then, with frames given back, the others hard. */
    touch_pages(owners[2], bases[2] + 5 * PG, 5, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    for (unsigned priority = 3; priority < PRIORITIES; priority++)
        touch_pages(owners[priority], bases[priority], OF_EACH, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    space_close(fixture, other);
    touch_pages(owners[0], bases[0], OF_EACH, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    touch_pages(owners[1], bases[1], OF_EACH, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    touch_pages(owners[2], bases[2], 5, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_PAGING_FILE);
    for (unsigned priority = 0; priority < PRIORITIES; priority++)
        check_pages(owners[priority], bases[priority], OF_EACH, priority, 1);
    fixture_close(fixture);
}

/*
 * The same rule for an engine of usual size, whose lists are in shards: what goes first is what is oldest, not what lies
 * in the first shard. Runs of 64 frames take turns over the shards, so the heads of the shards are of one age but for a
 * run or two, and nine in ten is what has to be.
 */
static void LS_3_the_oldest_go_first_in_lists_of_many_shards(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    enum { PAGES = 6000, STEP = 250, TAKEN = PAGES / 2 };
    struct fixture *fixture = *state;
    fixture->config.list_shards = 16;
    fixture->config.cpu_cache_pages = TIDE_NO_CPU_CACHE;
    fixture_page_file(fixture, 2 * PAGES);
    fixture_open(fixture, 8192);
    tide_space *owner = space_new(fixture);
    const tide_address base = region_new(owner, PAGES);
    for (unsigned i = 0; i < PAGES; i += STEP) {
        touch_pages(owner, base + i * PG, STEP, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
        trim_all(owner);
        write_modified(fixture);
    }
    tide_space *other = space_new(fixture);
    tide_address fresh = region_new_at(other, TIDE_LOWEST_ADDRESS, 8192);
    consume_frames(fixture, other, &fresh, 0);
    const uint64_t standby = statistics_now(fixture).repurposed[TIDE_PRIORITY_NORMAL];
    touch_pages(other, fresh, TAKEN, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    assert_in_range(statistics_now(fixture).repurposed[TIDE_PRIORITY_NORMAL] - standby, TAKEN, TAKEN + TAKEN / 100);

    const unsigned old_gone = pages_in_state(owner, base, TAKEN, TIDE_PAGE_STATE_PAGE_FILE);
    assert_in_range(old_gone, TAKEN * 9 / 10, TAKEN);
    fixture_close(fixture);
}

struct node_load {
    tide_space *space;
    tide_address base;
    uint64_t pages;
    uint64_t start;
};

static void touch_load_thread(struct crew_member *member)
{
    struct node_load *load = member->context;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(1, &cpus);
    CREW_CHECK(member, sched_setaffinity(0, sizeof(cpus), &cpus) == 0);
    for (uint64_t i = 0; i < load->pages; i++)
        CREW_CHECK(member, tide_touch(load->space, load->base + (load->start + i) * PG, TIDE_ACCESS_WRITE) ==
                               TIDE_PAGE_FAULT_DEMAND_ZERO);
}

/* All pages on node 1 until it has no frame left, then node 0 down to its last frame, and no failure on the way. */
static void node_runs_over(struct fixture *fixture, bool by_region)
{
    static struct node_load load;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 240);
    assert_int_equal(fixture->at_open.node_count, 2);
    load.space = space_new(fixture);
    load.base = space_at(load.space, TIDE_LOWEST_ADDRESS);
    uint64_t bytes = 250 * PG;
    assert_success(tide_virtual_alloc_numa(load.space, &load.base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                           TIDE_PAGE_READWRITE, by_region ? 1 : TIDE_NO_PREFERRED_NODE));
    load.start = 0;
    load.pages = 1; /* takes the table frames too */
    if (by_region)
        touch_pages(load.space, load.base, 1, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    else
        crew_run(1, touch_load_thread, &load);
    assert_int_equal(page_now(load.space, load.base).node, 1);
    const uint64_t on_node[2] = { node_now(fixture, 0).available, node_now(fixture, 1).available };
    const tide_fault_counters before = statistics_now(fixture).faults;

    load.start = 1;
    load.pages = on_node[0] + on_node[1];
    if (by_region)
        touch_pages(load.space, load.base + PG, load.pages, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    else
        crew_run(1, touch_load_thread, &load);

    for (uint64_t i = 1; i <= load.pages; i++)
        assert_int_equal(page_now(load.space, load.base + i * PG).node, i <= on_node[1] ? 1 : 0);
    assert_int_equal(node_now(fixture, 0).available, 0);
    assert_int_equal(node_now(fixture, 1).available, 0);
    const tide_fault_counters after = statistics_now(fixture).faults;
    assert_int_equal(after.demand_zero - before.demand_zero, load.pages);
    assert_int_equal(after.local - before.local, on_node[1]);
    assert_int_equal(space_now(load.space).working_set_pages, 1 + load.pages); /* nothing was trimmed for it */
    fixture_close(fixture);
}

static void LS_4_a_full_node_overflows_region_node(void **state)
{
    node_runs_over(*state, true);
}

static void LS_4_a_full_node_overflows_thread_node(void **state)
{
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || !CPU_ISSET(1, &cpus))
        skip(); /* no second CPU to run on */
    node_runs_over(*state, false);
}

/* ---- ZT-1, ZT-2 ------------------------------------------------------------------------------------------------- */

static void ZT_1_the_eighth_free_page_wakes_the_zero_page_thread(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 8);
    touch_pages(space, base, 8, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
    const tide_node_statistics before = node_now(fixture, 0);
    assert_int_equal(before.free, 0);

    region_decommit(space, base, 7);
    sleep_ms(200); /* the thread could not miss this; what never happens cannot be waited for */
    assert_int_equal(node_now(fixture, 0).free, 7);
    assert_int_equal(node_now(fixture, 0).zeroed, before.zeroed);

    region_decommit(space, base + 7 * PG, 1);
    while (node_now(fixture, 0).free != 0 || node_now(fixture, 0).zeroed != before.zeroed + 8)
        sleep_ms(1); /* idle priority: as long as it takes */
    assert_int_equal(statistics_now(fixture).background_zeroed, 8);
    assert_int_equal(statistics_now(fixture).inline_zeroed, 0);
    fixture_close(fixture);
}

/* Threads of this process with such a name and policy. */
static unsigned threads_named(const char *prefix, int policy)
{
    unsigned count = 0;
    DIR *directory = opendir("/proc/self/task");
    assert_non_null(directory);
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        char path[300];
        char name[64] = "";
        snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
        FILE *file = fopen(path, "r");
        if (file == NULL)
            continue;
        const bool named = fgets(name, sizeof(name), file) != NULL && strncmp(name, prefix, strlen(prefix)) == 0;
        fclose(file);
        count += named && sched_getscheduler(atoi(entry->d_name)) == policy;
    }
    closedir(directory);
    return count;
}

/* A new thread takes a while to name itself; it is given a hundred thousand looks. */
static void assert_threads_named(const char *prefix, int policy, unsigned count)
{
    for (unsigned i = 0; i < 100000 && threads_named(prefix, policy) != count; i++)
        sched_yield();
    assert_int_equal(threads_named(prefix, policy), count);
}

/*
 * The case in virtual form, without a clock. That zeroing gives way to all other work is the scheduler's doing: each
 * zero-page thread waits for one that runs under SCHED_IDLE, and nothing else of the engine runs so, for it would hold
 * locks and frames while it is off its CPU. And with zeroing starved altogether (held), the zeroed list does not grow
 * by a page and no work fails or waits for it.
 */
static void ZT_2_zeroing_gives_way_and_may_starve(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_open(fixture, 400);
    /* Those of an engine that was closed may be there still: nobody waits for them. */
    for (unsigned i = 0; i < 100000 && threads_named("tide-idle-", SCHED_IDLE) < 2; i++)
        sched_yield();
    assert_true(threads_named("tide-idle-", SCHED_IDLE) >= 2);
    assert_threads_named("tide-zero-", SCHED_OTHER, 2);
    assert_threads_named("tide-writer-", SCHED_OTHER, 2);
    assert_threads_named("tide-trimmer-", SCHED_OTHER, 2);
    assert_int_equal(threads_named("tide-zero-", SCHED_IDLE), 0);
    assert_int_equal(threads_named("tide-writer-", SCHED_IDLE), 0);
    assert_int_equal(threads_named("tide-trimmer-", SCHED_IDLE), 0);

    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, true));
    const tide_statistics before = statistics_now(fixture);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 100);
    uint64_t zeroed = node_now(fixture, 0).zeroed + node_now(fixture, 1).zeroed;
    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < 100; i++) {
            uint64_t word = 1;
            assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_WRITE), TIDE_PAGE_FAULT_DEMAND_ZERO);
            assert_success(tide_read(space, base + i * PG + 2048, &word, sizeof(word)));
            assert_int_equal(word, 0);
            assert_success(stamp_put(space, base + i * PG, 1, round));
        }
        region_decommit(space, base, 100);
        tide_address again = base;
        uint64_t bytes = 100 * PG;
        assert_success(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        const uint64_t now = node_now(fixture, 0).zeroed + node_now(fixture, 1).zeroed;
        assert_true(now <= zeroed);
        zeroed = now;
    }
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.background_zeroed, before.background_zeroed);
    assert_int_equal(after.faults.demand_zero - before.faults.demand_zero, 1000);
    assert_int_equal(after.frame_waits, before.frame_waits);
    assert_true(after.inline_zeroed - before.inline_zeroed >= 1000 - 400);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_ZERO_PAGE, false));
    fixture_close(fixture);
}

static const struct CMUnitTest page_lists[] = {
    API_TEST(ST_1_states_add_up_after_a_random_workload),
    API_TEST(ST_2_a_failed_write_returns_the_page_to_modified),
    API_TEST(ST_2_a_failed_read_returns_the_frames),
    API_TEST(ST_2_a_failed_cluster_harms_no_other_page),
    API_TEST(ST_2_a_page_deleted_during_its_read_frees_the_frame),
    API_TEST(ST_2_a_page_faulted_during_a_failing_write_stays_dirty),
    API_TEST(ST_2_a_page_dirtied_and_trimmed_during_its_write_is_modified),
    API_TEST(ST_2_a_page_deleted_during_its_write_is_freed),
    API_TEST(LS_1_reads_take_free_and_demand_zero_takes_zeroed),
    API_TEST(LS_2_demand_zero_past_zeroed_zeroes_inline),
    API_TEST(LS_3_standby_is_repurposed_by_priority_and_age),
    API_TEST(LS_3_the_oldest_go_first_in_lists_of_many_shards),
    API_TEST(LS_4_a_full_node_overflows_region_node),
    API_TEST(LS_4_a_full_node_overflows_thread_node),
    API_TEST(ZT_1_the_eighth_free_page_wakes_the_zero_page_thread),
    API_TEST(ZT_2_zeroing_gives_way_and_may_starve),
};

API_MAIN(page_lists)

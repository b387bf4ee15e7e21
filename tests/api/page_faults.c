/*
 * Acceptance cases of page faults (nt-behaviour 9: PF-1 to PF-5): each class of fault does its work once and is counted
 * in its own class. 1,000 pages go through all places where a page can be: never touched, in the working set, on the
 * modified list, on standby, in the page file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <string.h>

enum { PAGES = 1000, FRAMES = 1200, COLLIDING = 32 };

/* A space with one region of PAGES pages, each stamped and so in the working set. */
static tide_space *stamped_space(struct fixture *fixture, tide_address *base)
{
    fixture_page_file(fixture, PAGES + 200);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    *base = region_new(space, PAGES);
    stamp_pages(space, *base, PAGES, 1, 1);
    return space;
}

/* A real frame is given at the first read already, dirty from birth: one fault a page, none at the write. */
static void PF_1_demand_zero_faults_once(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    const tide_fault_counters before = statistics_now(fixture).faults;

    for (uint64_t i = 0; i < PAGES; i++) {
        char byte = 1;
        assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_DEMAND_ZERO);
        assert_true(page_now(space, base + i * PG).dirty);
        assert_success(tide_read(space, base + i * PG + i, &byte, 1));
        assert_int_equal(byte, 0);
    }
    touch_pages(space, base, PAGES, TIDE_ACCESS_WRITE, TIDE_SUCCESS);
    for (uint64_t i = 0; i < PAGES; i++) {
        const char byte = (char)i;
        assert_success(tide_write(space, base + i * PG, &byte, 1));
    }

    const tide_fault_counters after = statistics_now(fixture).faults;
    assert_int_equal(after.demand_zero - before.demand_zero, PAGES);
    assert_int_equal(after.page_faults - before.page_faults, PAGES);
    assert_int_equal(after.transition - before.transition, 0);
    assert_int_equal(after.hard - before.hard, 0);
    assert_int_equal(after.collided - before.collided, 0);
    assert_int_equal(after.access_violations - before.access_violations, 0);
    assert_int_equal(space_now(space).faults.demand_zero, PAGES);
    fixture_close(fixture);
}

static void PF_2_a_trimmed_page_is_soft_from_modified(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped_space(fixture, &base);
    const tide_statistics before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);

    trim_all(space);
    assert_int_equal(node_now(fixture, 0).modified - node_before.modified, PAGES);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_MODIFIED), PAGES);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.faults.transition - before.faults.transition, PAGES);
    assert_int_equal(after.faults.transition_modified - before.faults.transition_modified, PAGES);
    assert_int_equal(after.faults.page_faults - before.faults.page_faults, PAGES);
    assert_int_equal(after.pages_input, 0);
    assert_int_equal(after.pages_output, 0);
    assert_int_equal(node_now(fixture, 0).modified, node_before.modified);
    for (uint64_t i = 0; i < PAGES; i++)
        assert_true(page_now(space, base + i * PG).dirty); /* still dirty (10.3, row 15) */
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

static void PF_3_a_written_page_is_soft_from_standby(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped_space(fixture, &base);
    const tide_statistics before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);

    trim_all(space);
    write_modified(fixture);
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(standby_pages(&node) - standby_pages(&node_before), PAGES);
    assert_int_equal(node.standby[5] - node_before.standby[5], PAGES); /* normal priority */
    assert_int_equal(node.modified, 0);
    assert_int_equal(statistics_now(fixture).pages_output - before.pages_output, PAGES);
    touch_pages(space, base, PAGES, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.faults.transition - before.faults.transition, PAGES);
    assert_int_equal(after.faults.transition_standby - before.faults.transition_standby, PAGES);
    assert_int_equal(after.pages_input, 0);
    for (uint64_t i = 0; i < PAGES; i++)
        assert_false(page_now(space, base + i * PG).dirty); /* clean, and keeps its slot (10.3, rule e) */
    assert_int_equal(after.page_file_used_slots, PAGES);
    check_pages(space, base, PAGES, 1, 1);

    /* The first write releases the slot; a read does not. */
    assert_success(stamp_put(space, base, 1, 2));
    assert_true(page_now(space, base).dirty);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES - 1);
    fixture_close(fixture);
}

static void PF_4_hard_faults_are_clustered(void **state)
{
    struct fixture *fixture = *state;
    tide_address base;
    tide_space *space = stamped_space(fixture, &base);
    page_out(fixture, space);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_PAGE_FILE), PAGES);
    const tide_statistics before = statistics_now(fixture);

    uint64_t hard = 0;
    uint64_t soft = 0;
    for (uint64_t i = 0; i < PAGES; i++) {
        const tide_status status = tide_touch(space, base + i * PG, TIDE_ACCESS_READ);
        hard += status == TIDE_PAGE_FAULT_PAGING_FILE;
        soft += status == TIDE_PAGE_FAULT_TRANSITION;
        /* neighbours go to standby, not into the working set */
        assert_int_equal(space_now(space).working_set_pages, i + 1);
    }

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(hard + soft, PAGES);
    assert_int_equal(after.faults.hard - before.faults.hard, hard);
    assert_int_equal(after.faults.transition - before.faults.transition, soft);
    assert_int_equal(after.faults.page_faults - before.faults.page_faults, PAGES);
    assert_between(after.page_reads - before.page_reads, 1, PAGES / 8);
    assert_int_equal(after.page_reads - before.page_reads, hard);
    assert_int_equal(after.pages_input - before.pages_input, PAGES); /* at least; no page was read twice */
    assert_int_equal(atomic_load(&fixture->device.pages[TIDE_IO_READ][0]), PAGES);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

struct collision {
    tide_space *space;
    tide_address address;
    tide_status status[COLLIDING];
    uint64_t frame[COLLIDING];
};

static void collide(struct crew_member *member)
{
    struct collision *collision = member->context;
    tide_page_info info;
    atomic_store(&member->entered, true);
    collision->status[member->index] = tide_touch(collision->space, collision->address, TIDE_ACCESS_READ);
    do /* another may have it in its hands: in a mapped space each that comes shows it */
        CREW_CHECK(member, tide_page_query(collision->space, collision->address, &info) == TIDE_SUCCESS);
    while (info.state == TIDE_PAGE_STATE_BUSY);
    collision->frame[member->index] = info.frame;
}

/*
 * The sheet's absent file page is a page of the page file here. The device holds the one read until all 32 threads wait
 * for it, so that each of them has faulted.
 */
static void PF_5_collided_faults_share_one_read(void **state)
{
    struct fixture *fixture = *state;
    static struct collision collision;
    memset(&collision, 0, sizeof(collision));
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 128);
    collision.space = space_new(fixture);
    collision.address = region_new(collision.space, 1);
    assert_success(stamp_put(collision.space, collision.address, 1, 1));
    page_out(fixture, collision.space);
    const tide_statistics before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);

    device_hold(&fixture->device, TIDE_IO_READ, true);
    struct crew *crew = crew_start(COLLIDING, collide, &collision);
    crew_wait_asleep(crew);
    assert_int_equal(page_now(collision.space, collision.address).valid, false);
    device_hold(&fixture->device, TIDE_IO_READ, false);
    crew_join(crew);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.page_reads - before.page_reads, 1);
    assert_int_equal(after.pages_input - before.pages_input, 1);
    assert_int_equal(after.faults.page_faults - before.faults.page_faults, COLLIDING);
    assert_int_equal(after.faults.hard - before.faults.hard, 1);
    assert_int_equal(after.faults.collided - before.faults.collided, COLLIDING - 1);
    assert_int_equal(node_before.available - node_now(fixture, 0).available, 1);
    unsigned hard = 0;
    for (unsigned i = 0; i < COLLIDING; i++) {
        assert_false(tide_failed(collision.status[i]));
        assert_int_equal(collision.frame[i], collision.frame[0]);
        hard += collision.status[i] == TIDE_PAGE_FAULT_PAGING_FILE;
    }
    assert_int_equal(hard, 1);
    assert_int_equal(space_now(collision.space).working_set_pages, 1);
    assert_success(stamp_check(collision.space, collision.address, 1, 1));
    fixture_close(fixture);
}

/*
 * PF-6 with a page of the page file: the read fails while 32 threads wait for it. Each gets the error with its errno,
 * no frame is lost, the page stays where it is, and the next touch after the repair works.
 */
static void PF_6_a_failed_read_reaches_every_waiter(void **state)
{
    struct fixture *fixture = *state;
    static struct collision collision;
    memset(&collision, 0, sizeof(collision));
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 128);
    collision.space = space_new(fixture);
    collision.address = region_new(collision.space, 1);
    assert_success(stamp_put(collision.space, collision.address, 1, 1));
    page_out(fixture, collision.space);
    const tide_statistics before = statistics_now(fixture);
    const tide_node_statistics node_before = node_now(fixture, 0);

    device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, DEVICE_ALWAYS);
    device_hold(&fixture->device, TIDE_IO_READ, true);
    struct crew *crew = crew_start(COLLIDING, collide, &collision);
    crew_wait_asleep(crew);
    device_hold(&fixture->device, TIDE_IO_READ, false);
    crew_join(crew);

    for (unsigned i = 0; i < COLLIDING; i++)
        assert_status(collision.status[i], TIDE_IN_PAGE_ERROR);
    const tide_statistics after = statistics_now(fixture);
    assert_between(after.read_errors - before.read_errors, 1, COLLIDING);
    assert_int_equal(after.read_errors - before.read_errors, device_failed(&fixture->device, TIDE_IO_READ));
    assert_int_equal(after.pages_input, before.pages_input);
    assert_int_equal(node_now(fixture, 0).available, node_before.available);
    assert_int_equal(page_now(collision.space, collision.address).state, TIDE_PAGE_STATE_PAGE_FILE);
    assert_status(tide_touch(collision.space, collision.address, TIDE_ACCESS_READ), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_int_equal(tide_last_error()->address, collision.address);

    device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
    assert_status(tide_touch(collision.space, collision.address, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_PAGING_FILE);
    assert_success(stamp_check(collision.space, collision.address, 1, 1));
    fixture_close(fixture);
}

/* Violations are faults too (9.1), in a class of their own, and touch nothing. */
static void PF_violations_are_counted(void **state)
{
    struct fixture *fixture = *state;
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 4 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    tide_address no_access = base + PG;
    bytes = PG;
    assert_success(tide_virtual_alloc(space, &no_access, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_NOACCESS));
    const tide_statistics before = statistics_now(fixture);
    assert_status(tide_touch(space, base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);            /* reserved */
    assert_status(tide_touch(space, no_access, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION);       /* no right */
    assert_status(tide_touch(space, base + 64 * PG, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION); /* no region */
    assert_int_equal(tide_last_error()->address, base + 64 * PG);
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.faults.access_violations - before.faults.access_violations, 3);
    assert_int_equal(after.faults.page_faults - before.faults.page_faults, 3);
    assert_int_equal(space_now(space).working_set_pages, 0);
    fixture_close(fixture);
}

/* Wherever the page is: valid, on the modified list, on standby, in the page file. */
static void PF_a_violation_is_one_in_every_place(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 128);
    tide_space *space = space_new(fixture);
    static const tide_page_state places[] = { TIDE_PAGE_STATE_ACTIVE, TIDE_PAGE_STATE_MODIFIED, TIDE_PAGE_STATE_STANDBY,
                                              TIDE_PAGE_STATE_PAGE_FILE };
    tide_address page = region_new(space, 1);
    uint64_t bytes = PG;
    for (unsigned place = 0; place < 4; place++) {
        assert_success(tide_virtual_alloc(space, &page, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        assert_success(stamp_put(space, page, 1, place));
        if (place >= 1)
            trim_all(space);
        if (place >= 2)
            write_modified(fixture);
        if (place >= 3)
            empty_standby(fixture);
        assert_success(tide_virtual_alloc(space, &page, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY));
        assert_int_equal(page_now(space, page).state, places[place]);
        const tide_statistics before = statistics_now(fixture);
        assert_status(tide_touch(space, page, TIDE_ACCESS_WRITE), TIDE_ACCESS_VIOLATION);
        assert_int_equal(tide_last_error()->address, page);
        const tide_statistics after = statistics_now(fixture);
        assert_int_equal(after.faults.access_violations - before.faults.access_violations, 1);
        assert_int_equal(after.faults.page_faults - before.faults.page_faults, 1);
        assert_int_equal(page_now(space, page).state, places[place]);
        assert_success(stamp_check(space, page, 1, place));
    }
    fixture_close(fixture);
}

static const struct CMUnitTest page_faults[] = {
    API_TEST(PF_1_demand_zero_faults_once),
    API_TEST(PF_2_a_trimmed_page_is_soft_from_modified),
    API_TEST(PF_3_a_written_page_is_soft_from_standby),
    API_TEST(PF_4_hard_faults_are_clustered),
    API_TEST(PF_5_collided_faults_share_one_read),
    API_TEST(PF_6_a_failed_read_reaches_every_waiter),
    API_TEST(PF_violations_are_counted),
    API_TEST(PF_a_violation_is_one_in_every_place),
};

API_MAIN(page_faults)

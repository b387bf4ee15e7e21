/*
 * Pins (nt-behaviour 10: ST-3, where they are MDLs): frames that keep their place and content for I/O, whatever happens
 * to the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdio.h>
#include <unistd.h>

/* The one byte range of a pin of one page. */
static char *pinned_memory(const tide_pin *pin, size_t bytes)
{
    unsigned count = 0;
    const struct iovec *iovec = tide_pin_iovec(pin, &count);
    assert_int_equal(count, 1);
    assert_int_equal(iovec[0].iov_len, bytes);
    return iovec[0].iov_base;
}

static void ST_3_a_trimmed_pinned_page_is_in_transition(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    const tide_page_info valid = page_now(space, page);
    const tide_node_statistics before = node_now(fixture, 0);

    tide_pin *pin = NULL;
    assert_success(tide_pin_create(space, page, PG, TIDE_ACCESS_WRITE, &pin));
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_ACTIVE);
    char *memory = pinned_memory(pin, PG);
    assert_true(stamp_matches(memory, 1, page, 1));
    trim_all(space);
    const tide_page_info trimmed = page_now(space, page);
    assert_int_equal(trimmed.state, TIDE_PAGE_STATE_TRANSITION);
    assert_int_equal(trimmed.frame, valid.frame);
    tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(node.transition, 1);
    assert_int_equal(node.modified, 0);
    assert_int_equal(node.available, before.available); /* not in Available */

    /* Nothing takes it: not the writer, not the emptying of lists, not the demand for every other frame. */
    write_modified(fixture);
    empty_standby(fixture);
    assert_int_equal(statistics_now(fixture).pages_output, 0);
    tide_space *other = space_new(fixture);
    tide_address fresh = region_new_at(other, TIDE_LOWEST_ADDRESS, 230);
    consume_frames(fixture, other, &fresh, 0);
    assert_int_equal(page_now(space, page).frame, valid.frame);
    stamp_fill(memory, 1, page, 2); /* the device writes */
    fixture_verify(fixture);

    tide_pin_destroy(pin);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    node = node_now(fixture, 0);
    assert_int_equal(node.transition, 0);
    assert_int_equal(node.modified, 1);
    page_out(fixture, space);
    assert_success(stamp_check(space, page, 1, 2));
    fixture_close(fixture);
}

/* The sheet's unlock of a clean page, pinned for reading: standby again, and available. */
static void ST_3_a_clean_page_pinned_for_reading_returns_to_standby(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    assert_success(stamp_put(space, page, 1, 1));
    trim_all(space);
    write_modified(fixture);
    const uint64_t available = node_now(fixture, 0).available;
    tide_pin *pin = NULL;
    assert_success(tide_pin_create(space, page, PG, TIDE_ACCESS_READ, &pin));
    assert_false(page_now(space, page).dirty);
    trim_all(space);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_TRANSITION);
    assert_int_equal(node_now(fixture, 0).available, available - 1);
    assert_true(stamp_matches(pinned_memory(pin, PG), 1, page, 1));
    /* a soft fault under the pin, and out again */
    assert_status(tide_touch(space, page, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
    trim_all(space);
    tide_pin_destroy(pin);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_STANDBY);
    assert_int_equal(node_now(fixture, 0).available, available);
    fixture_close(fixture);
}

/* The pin keeps its frame when the page is deleted; it is freed, and only then, with the pin. */
static void ST_3_a_page_deleted_under_a_pin_keeps_its_frame(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    tide_address page = region_new(space, 2);
    for (unsigned trimmed = 0; trimmed < 2; trimmed++) {
        assert_success(stamp_put(space, page, 1, 1));
        assert_success(stamp_put(space, page + PG, 1, 1)); /* keeps the table */
        const uint64_t frame = page_now(space, page).frame;
        const uint64_t available = node_now(fixture, 0).available;
        tide_pin *pin = NULL;
        assert_success(tide_pin_create(space, page, PG, TIDE_ACCESS_READ, &pin));
        const char *memory = pinned_memory(pin, PG);
        if (trimmed != 0) {
            trim_all(space);
            assert_status(tide_touch(space, page + PG, TIDE_ACCESS_READ), TIDE_PAGE_FAULT_TRANSITION);
        }
        region_decommit(space, page, 1);
        assert_int_equal(node_now(fixture, 0).available, available);
        assert_int_equal(node_now(fixture, 0).transition, 1);
        assert_true(stamp_matches(memory, 1, page, 1));
        tide_address again = page;
        uint64_t bytes = PG;
        assert_success(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
        assert_success(stamp_put(space, page, 1, 2));
        assert_int_not_equal(page_now(space, page).frame, frame);
        assert_true(stamp_matches(memory, 1, page, 1));
        fixture_verify(fixture);
        tide_pin_destroy(pin);
        assert_int_equal(node_now(fixture, 0).transition, 0);
        assert_int_equal(node_now(fixture, 0).available, available);
        region_decommit(space, page, 1);
        bytes = PG;
        assert_success(tide_virtual_alloc(space, &again, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    }
    fixture_close(fixture);
}

/* Deleted under a pin, the copy in the page file is nobody's: its slot is given back. */
static void ST_3_a_clean_page_deleted_under_a_pin_returns_its_slot(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 2);
    for (unsigned trimmed = 0; trimmed < 2; trimmed++) {
        const tide_address held = page + trimmed * PG;
        assert_success(stamp_put(space, held, 1, 1));
        trim_all(space);
        write_modified(fixture);
        assert_int_equal(statistics_now(fixture).page_file_used_slots, 1);
        tide_pin *pin = NULL;
        assert_success(tide_pin_create(space, held, PG, TIDE_ACCESS_READ, &pin));
        assert_int_equal(statistics_now(fixture).page_file_used_slots, 1); /* clean, and keeps it */
        if (trimmed != 0)
            trim_all(space);
        region_decommit(space, held, 1);
        assert_true(stamp_matches(pinned_memory(pin, PG), 1, held, 1));
        fixture_verify(fixture);
        tide_pin_destroy(pin);
        assert_int_equal(statistics_now(fixture).page_file_used_slots, 0);
    }
    fixture_close(fixture);
}

/* A range over several pages, not aligned, in address order; written through by a real read(2). */
static void pin_of_a_range_is_an_iovec_for_io(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    enum { PAGES = 20, OFFSET = 100, BYTES = 18 * PG + 33 };
    fixture_page_file(fixture, 64);
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    char source[BYTES];
    char back[BYTES];
    for (unsigned i = 0; i < BYTES; i++)
        source[i] = (char)(i * 7 + i / 251);

    tide_pin *pin = NULL;
    assert_success(tide_pin_create(space, base + OFFSET, BYTES, TIDE_ACCESS_WRITE, &pin));
    unsigned count = 0;
    const struct iovec *iovec = tide_pin_iovec(pin, &count);
    assert_between(count, 1, PAGES);
    size_t total = 0;
    for (unsigned i = 0; i < count; i++)
        total += iovec[i].iov_len;
    assert_int_equal(total, BYTES);

    char path[512];
    snprintf(path, sizeof(path), "%s/source", fixture->folder);
    FILE *file = fopen(path, "w+");
    assert_non_null(file);
    assert_int_equal(fwrite(source, 1, BYTES, file), BYTES);
    rewind(file);
    assert_int_equal(fflush(file), 0);
    trim_all(space); /* the device writes while the pages are out of the working set */
    assert_int_equal(preadv(fileno(file), iovec, (int)count, 0), BYTES);
    fclose(file);
    assert_int_equal(unlink(path), 0);
    tide_pin_destroy(pin);
    page_out(fixture, space);
    assert_success(tide_read(space, base + OFFSET, back, BYTES));
    assert_memory_equal(back, source, BYTES);
    tide_pin_destroy(NULL);
    fixture_close(fixture);
}

/* A space with a pin on it cannot go; two pins on one page are two references. */
static void pins_count(void **state)
{
    SOFT_SPACES_ONLY(ONLY_PIN);
    struct fixture *fixture = *state;
    fixture_open(fixture, 200);
    tide_space *space = space_new(fixture);
    const tide_address page = region_new(space, 1);
    tide_pin *first = NULL;
    tide_pin *second = NULL;
    assert_success(tide_pin_create(space, page, PG, TIDE_ACCESS_READ, &first));
    assert_success(tide_pin_create(space, page, 10, TIDE_ACCESS_WRITE, &second));
    assert_status(tide_space_destroy(space), TIDE_DEVICE_BUSY);
    assert_status(tide_engine_close(fixture->engine), TIDE_DEVICE_BUSY);
    trim_all(space);
    tide_pin_destroy(first);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_TRANSITION);
    assert_status(tide_space_destroy(space), TIDE_DEVICE_BUSY);
    tide_pin_destroy(second);
    assert_int_equal(page_now(space, page).state, TIDE_PAGE_STATE_MODIFIED);
    fixture_close(fixture);
}

static const struct CMUnitTest pins[] = {
    API_TEST(ST_3_a_trimmed_pinned_page_is_in_transition),
    API_TEST(ST_3_a_clean_page_pinned_for_reading_returns_to_standby),
    API_TEST(ST_3_a_page_deleted_under_a_pin_keeps_its_frame),
    API_TEST(ST_3_a_clean_page_deleted_under_a_pin_returns_its_slot),
    API_TEST(pin_of_a_range_is_an_iovec_for_io),
    API_TEST(pins_count),
};

API_MAIN(pins)

/*
 * Uncorrectable memory errors in pages of a mapped space, as the kernel tells them to who reads the page from its memory
 * file: this program's pread() says EIO for a page that is marked bad, as that of a memfd does, until the page is
 * dropped.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WINDOW_BYTES (1ull << 30) /* no other file of this program has this size */

/* Offset in the memory file, -1: no page is bad. */
static atomic_long bad_page = -1;
static atomic_uint bad_reads;

static bool is_memory_file(int file)
{
    struct stat found;
    return fstat(file, &found) == 0 && (uint64_t)found.st_size == WINDOW_BYTES;
}

ssize_t pread(int file, void *buffer, size_t bytes, off_t offset)
{
    const off_t bad = atomic_load(&bad_page);
    if (bad >= 0 && offset < bad + (off_t)PG && bad < offset + (off_t)bytes && is_memory_file(file)) {
        if (offset >= bad) {
            atomic_fetch_add(&bad_reads, 1);
            errno = EIO;
            return -1;
        }
        bytes = (size_t)(bad - offset); /* as much as can be read */
    }
    return syscall(SYS_pread64, file, buffer, bytes, offset);
}

int fallocate(int file, int mode, off_t offset, off_t bytes)
{
    const off_t bad = atomic_load(&bad_page);
    if (bad >= offset && bad < offset + bytes && (mode & FALLOC_FL_PUNCH_HOLE) && is_memory_file(file))
        atomic_store(&bad_page, -1);
    return (int)syscall(SYS_fallocate, file, mode, offset, bytes);
}

static tide_space *mapped_new(struct fixture *fixture)
{
    tide_mapped_options options;
    tide_mapped_options_init(&options);
    options.window_bytes = WINDOW_BYTES;
    assert_success(tide_mapped_space_create(fixture->engine, &options, &fixture->spaces[0]));
    return fixture->spaces[0];
}

static void mark_bad(const tide_space *space, tide_address address)
{
    tide_address lowest = 0, highest = 0;
    assert_success(tide_space_range(space, &lowest, &highest));
    atomic_store(&bad_reads, 0);
    atomic_store(&bad_page, (long)(address - lowest));
}

/* The writer meets it, alone or among others: it is lost, its neighbours are written, and its frame is used again. */
static void a_modified_page_that_cannot_be_read_is_lost(void **state)
{
    enum { PAGES = 40 };
    struct fixture *fixture = *state;
    static const unsigned bad[] = { 0, 17, PAGES - 1, 5 };
    fixture_page_file(fixture, 300);
    fixture_open(fixture, 200);
    tide_space *space = mapped_new(fixture);
    const tide_address base = region_new(space, PAGES);
    char page[PG];
    for (unsigned turn = 0; turn < 4; turn++) {
        const tide_address address = base + bad[turn] * PG;
        stamp_pages(space, base, PAGES, 1, turn);
        page_out(fixture, space);
        if (turn == 3) /* the only one that is modified */
            assert_success(stamp_put(space, address, 1, turn));
        else
            stamp_pages(space, base, PAGES, 1, turn);
        trim_all(space);
        mark_bad(space, address);
        write_modified(fixture);
        assert_between(atomic_load(&bad_reads), 1, 2);
        assert_int_equal(atomic_load(&bad_page), -1);
        write_modified(fixture); /* the others, if the first one ended there */
        assert_int_equal(statistics_now(fixture).pages_lost, turn + 1);
        assert_int_equal(statistics_now(fixture).bad_pages, 0);
        assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_LOST), 1);
        fixture_verify(fixture);
        empty_standby(fixture);
        for (unsigned i = 0; i < PAGES; i++) {
            if (i == bad[turn]) {
                assert_status(tide_read(space, base + i * PG, page, PG), TIDE_IN_PAGE_ERROR);
                assert_int_equal(tide_last_error()->io_error, EHWPOISON);
                assert_status(tide_touch(space, base + i * PG, TIDE_ACCESS_READ), TIDE_IN_PAGE_ERROR);
            } else {
                assert_success(stamp_check(space, base + i * PG, 1, turn));
            }
        }
        /* Written as a whole it is good again. */
        assert_success(stamp_put(space, address, 1, turn));
        assert_success(stamp_check(space, address, 1, turn));
        assert_int_equal(*(uint64_t *)tide_pointer(address) != 0, true);
        assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_LOST), 0);
    }
    fixture_close(fixture);
}

/* A call that reads such a page says so, and no other page is worse for it. */
static void a_call_tells_of_a_page_that_cannot_be_read(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 300);
    fixture_open(fixture, 200);
    tide_space *space = mapped_new(fixture);
    const tide_address base = region_new(space, 10);
    char pages[10 * PG];
    stamp_pages(space, base, 10, 1, 1);
    mark_bad(space, base + 4 * PG);
    assert_status(tide_read(space, base, pages, sizeof(pages)), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EHWPOISON);
    assert_success(tide_virtual_discard(space, base + 4 * PG, PG));
    assert_int_equal(atomic_load(&bad_page), -1);
    assert_success(tide_read(space, base, pages, sizeof(pages)));
    for (unsigned i = 0; i < 10; i++)
        assert_true(i == 4 ? pages[4 * PG + i] == 0 : stamp_matches(pages + i * PG, 1, base + i * PG, 1));
    fixture_close(fixture);
}

static const struct CMUnitTest mapped_bad_memory[] = {
    API_TEST(a_modified_page_that_cannot_be_read_is_lost),
    API_TEST(a_call_tells_of_a_page_that_cannot_be_read),
};

int main(int argc, char **argv)
{
    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {
        print_message("skipped: %s\n", tide_last_error()->message);
        return SUPPORT_SKIPPED;
    }
    return support_main(argc, argv, "mapped_bad_memory", mapped_bad_memory,
                        sizeof(mapped_bad_memory) / sizeof(mapped_bad_memory[0]));
}

/*
 * Several reads at the same time: by a ring and without, whole and cut short, refused by the kernel, by the filter, by
 * the device.
 *
 * io_uring_submit of this file takes the place of the library's, so that it can misbehave.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = TIDE_PAGE_BYTES, CLUSTERS = 6, PAGES = 5 };

static struct {
    bool refuse;        /* submissions get -EAGAIN */
    bool cut;           /* reads by the ring get one page */
    unsigned submitted; /* entries that the ring took */
    unsigned filtered;  /* calls of the filter */
    uint32_t bad_slot;  /* the filter makes the read from here fail; 0: none */
} faults;

int io_uring_submit(struct io_uring *ring)
{
    static int (*real)(struct io_uring *);

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit");
    if (faults.refuse)
        return -EAGAIN;
    for (unsigned i = 0; i < io_uring_sq_ready(ring); i++) {
        struct io_uring_sqe *entry = &ring->sq.sqes[(ring->sq.sqe_tail - 1 - i) & *ring->sq.kring_mask];
        if (faults.cut && entry->opcode == IORING_OP_READV)
            entry->len = 1;
        faults.submitted++;
    }
    return real(ring);
}

static int filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    (void)context;
    (void)file;
    (void)pages;
    faults.filtered += kind == TIDE_IO_READ;
    return kind == TIDE_IO_READ && slot == faults.bad_slot ? EIO : 0;
}

static void page_fill(unsigned char *page, unsigned cluster, unsigned i)
{
    memset(page, (int)(1 + cluster * PAGES + i), PAGE);
}

/* Clusters of pages that lie apart, written one by one. */
static void clusters_write(struct stores *stores, struct stores_request *requests, unsigned char *memory)
{
    struct stores_queue *queue;

    assert_int_equal(stores_queue_create(stores, 1, &queue), TIDE_SUCCESS);
    for (unsigned c = 0; c < CLUSTERS; c++) {
        struct stores_write write = { .count = PAGES };
        struct stores_write *const writes[] = { &write };

        assert_int_equal(stores_slots_allocate(stores, PAGES, 0, &write.first), PAGES);
        for (unsigned i = 0; i < PAGES; i++) {
            unsigned char *page = memory + (c * PAGES + i) * PAGE;
            page_fill(page, c, i);
            write.pages[i] = (struct iovec){ page, PAGE };
            /* Read to where the last cluster's last page comes first. */
            requests[c].pages[i] = (struct iovec){ memory + ((CLUSTERS * PAGES - 1 - c * PAGES - i) * PAGE), PAGE };
        }
        stores_queue_write(queue, writes, 1);
        assert_int_equal(write.error, 0);
        requests[c].first = write.first;
        requests[c].count = PAGES;
    }
    stores_queue_destroy(queue);
}

static void assert_read(const struct stores_request *request, unsigned cluster)
{
    static unsigned char expected[PAGE];

    assert_int_equal(request->error, 0);
    for (unsigned i = 0; i < PAGES; i++) {
        page_fill(expected, cluster, i);
        assert_memory_equal(request->pages[i].iov_base, expected, PAGE);
    }
}

static void reads(bool disable_io_uring)
{
    tide_page_file_config file = { .path = in_folder("file"), .minimum_bytes = 100 * PAGE };
    const struct stores_options options = {
        .files = &file, .file_count = 1, .filter = filter, .disable_io_uring = disable_io_uring
    };
    struct stores *stores = stores_good(&options);
    unsigned char *memory = aligned_alloc(PAGE, CLUSTERS * PAGES * PAGE);
    struct stores_request requests[CLUSTERS] = { 0 };
    struct io_uring probe;
    const bool ring = !disable_io_uring && io_uring_queue_init(1, &probe, 0) == 0;

    if (ring)
        io_uring_queue_exit(&probe);
    assert_non_null(memory);
    clusters_write(stores, requests, memory);
    for (unsigned round = 0; round < 4; round++) {
        memset(&faults, 0, sizeof faults);
        faults.refuse = round == 1;
        faults.cut = round == 2;
        faults.bad_slot = round == 3 ? requests[2].first.slot : 0;
        memset(memory, 0, CLUSTERS * PAGES * PAGE);
        stores_read_many(stores, requests, CLUSTERS);
        for (unsigned c = 0; c < CLUSTERS; c++) {
            if (round == 3 && c == 2)
                assert_int_equal(requests[c].error, EIO);
            else
                assert_read(&requests[c], c);
        }
        /* With a ring all at once; each is asked for once, unless it is read again. */
        assert_int_equal(faults.submitted, !ring || round == 1 ? 0 : round == 3 ? CLUSTERS - 1 : CLUSTERS);
        assert_int_equal(faults.filtered, ring && (round == 1 || round == 2) ? 2 * CLUSTERS : CLUSTERS);
    }
    memset(&faults, 0, sizeof faults);
    stores_read_many(stores, requests, 1); /* one needs no ring */
    assert_read(&requests[0], 0);
    assert_int_equal(faults.submitted, 0);
    stores_read_many(stores, requests, 0);
    free(memory);
    stores_destroy(stores);
}

static void test_many_reads_by_a_ring(void **state)
{
    (void)state;
    reads(false);
}

static void test_many_reads_without_a_ring(void **state)
{
    (void)state;
    reads(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_many_reads_by_a_ring, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_many_reads_without_a_ring, folder_setup, folder_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Page-file I/O: round trips by ring and by pwritev, with and without O_DIRECT; short reads and writes; I/O errors; a
 * ring that fails; the filter; and which file gets how much.
 *
 * pwritev, pread and io_uring_submit_and_wait of this file take the place of the system's, so that results can be cut
 * short or made to fail where the system would not.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = TIDE_PAGE_BYTES };

/* ---- the system, and how it misbehaves -------------------------------------------------------------------------- */

static struct {
    size_t cut_bytes;         /* no I/O longer than this; 0: no limit */
    unsigned submit_refusals; /* times that a submission gets -EAGAIN */
    unsigned submit_failure;  /* number of the submission from which on all get -EIO; 0: never */
    unsigned submissions;
    int failing_descriptor; /* writes to it fail; 0: none */
    uint32_t transfers;     /* [A] pread and pwritev calls, and ring entries */
} faults;

ssize_t pwritev(int descriptor, const struct iovec *pieces, int count, off_t offset)
{
    struct iovec cut = pieces[0];

    sync_add_32(&faults.transfers, 1);
    if (descriptor == faults.failing_descriptor) {
        errno = EBADF;
        return -1;
    }
    if (faults.cut_bytes != 0) {
        if (cut.iov_len > faults.cut_bytes)
            cut.iov_len = faults.cut_bytes;
        return (ssize_t)syscall(SYS_pwritev, descriptor, &cut, 1L, offset, 0L);
    }
    return (ssize_t)syscall(SYS_pwritev, descriptor, pieces, (long)count, offset, 0L);
}

ssize_t pread(int descriptor, void *memory, size_t bytes, off_t offset)
{
    sync_add_32(&faults.transfers, 1);
    return (ssize_t)syscall(SYS_pread64, descriptor, memory,
                            faults.cut_bytes != 0 && bytes > faults.cut_bytes ? faults.cut_bytes : bytes, offset);
}

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
    static int (*real)(struct io_uring *, unsigned);

    if (real == NULL)
        *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    if (++faults.submissions >= faults.submit_failure && faults.submit_failure != 0)
        return -EIO;
    if (faults.submit_refusals > 0) {
        faults.submit_refusals--;
        return -EAGAIN;
    }
    for (unsigned i = 0; i < io_uring_sq_ready(ring); i++) {
        struct io_uring_sqe *entry = &ring->sq.sqes[(ring->sq.sqe_tail - 1 - i) & *ring->sq.kring_mask];
        sync_add_32(&faults.transfers, 1);
        if (entry->fd == faults.failing_descriptor)
            entry->fd = -1;
        if (faults.cut_bytes == 0)
            continue;
        if (entry->opcode == IORING_OP_WRITEV)
            entry->len = 1;
        else if (entry->len > faults.cut_bytes)
            entry->len = (unsigned)faults.cut_bytes;
    }
    /* Before the one that fails there is no wait, so that it meets writes in flight. */
    return real(ring, faults.submissions + 1 == faults.submit_failure ? 0 : wait);
}

/* ---- what the tests share --------------------------------------------------------------------------------------- */

/* Ways of I/O that every test of data goes through. */
static const struct way {
    bool disable_io_uring, disable_direct_io;
} ways[] = { { false, false }, { false, true }, { true, false }, { true, true } };
enum { WAY_COUNT = sizeof ways / sizeof ways[0] };

static tide_page_file_config two_files[2];

/* Stores of `count` files of `pages` pages each. */
static struct stores_options options_of(const struct way *way, unsigned count, uint64_t pages)
{
    for (unsigned i = 0; i < 2; i++)
        two_files[i] =
            (tide_page_file_config){ .path = in_folder(i == 0 ? "first" : "second"), .minimum_bytes = pages * PAGE };
    return (struct stores_options){ .files = two_files,
                                    .file_count = count,
                                    .disable_io_uring = way->disable_io_uring,
                                    .disable_direct_io = way->disable_direct_io };
}

static struct stores_queue *queue_good(struct stores *stores, unsigned depth)
{
    struct stores_queue *queue = NULL;

    if (stores_queue_create(stores, depth, &queue) != TIDE_SUCCESS)
        fail_msg("%s", tide_last_error()->message);
    return queue;
}

static char *pages_allocate(size_t count)
{
    char *memory = aligned_alloc(PAGE, count * PAGE);

    assert_non_null(memory);
    return memory;
}

/* Every word of a page says which slot, version and word it is. */
static void stamp(void *page, struct stores_slot slot, uint64_t version)
{
    uint64_t *words = page;

    for (unsigned i = 0; i < PAGE / 8; i++)
        words[i] = random_mix(version << 48 | (uint64_t)slot.file << 44 | (uint64_t)slot.slot << 9 | i);
}

static bool stamped(const void *page, struct stores_slot slot, uint64_t version)
{
    uint64_t expected[PAGE / 8];

    stamp(expected, slot, version);
    return memcmp(page, expected, PAGE) == 0;
}

static struct stores_slot slot_after(struct stores_slot slot, unsigned pages)
{
    return (struct stores_slot){ slot.file, slot.slot + pages };
}

/* Reads one page, and says whether it holds that version. */
static bool holds(struct stores *stores, struct stores_slot slot, uint64_t version)
{
    char *page = pages_allocate(1);
    const struct iovec piece = { page, PAGE };
    const bool right = stores_read(stores, slot, &piece, 1) == 0 && stamped(page, slot, version);

    free(page);
    return right;
}

/*
 * Clusters with stamped pages: `count` of 1 to 64 pages each. Every other cluster lies in one piece of memory, the
 * others have their pages in reverse or every second one, so that both ways of merging are there.
 */
struct batch {
    unsigned count;
    struct stores_write **writes;
    char *memory;
};

static struct batch batch_make(struct stores *stores, unsigned count, uint64_t version, uint64_t seed)
{
    struct batch batch = { count, calloc(count, sizeof(void *)), pages_allocate((size_t)count * STORES_CLUSTER_MAX) };

    for (unsigned i = 0; i < count; i++) {
        struct stores_write *write = batch.writes[i] = calloc(1, sizeof *write);
        char *memory = batch.memory + (size_t)i * STORES_CLUSTER_MAX * PAGE;
        const unsigned wanted = 1 + (unsigned)random_below(&seed, STORES_CLUSTER_MAX);
        write->count = stores_slots_allocate(stores, wanted, 0, &write->first);
        assert_int_equal(write->count, wanted);
        write->error = -1;
        for (unsigned page = 0; page < write->count; page++) {
            const unsigned place = i % 3 == 0 ? page : i % 3 == 1 ? write->count - 1 - page : page / 2 + page % 2 * 32;
            write->pages[page] = (struct iovec){ memory + (size_t)place * PAGE, PAGE };
            stamp(write->pages[page].iov_base, slot_after(write->first, page), version);
        }
    }
    return batch;
}

static void batch_restamp(const struct batch *batch, uint64_t version)
{
    for (unsigned i = 0; i < batch->count; i++) {
        batch->writes[i]->error = -1;
        for (unsigned page = 0; page < batch->writes[i]->count; page++)
            stamp(batch->writes[i]->pages[page].iov_base, slot_after(batch->writes[i]->first, page), version);
    }
}

static void batch_free(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++)
        free(batch->writes[i]);
    free(batch->writes);
    free(batch->memory);
}

/* Reads a cluster back in reads of several lengths, with memory in one piece and in many. */
static void assert_cluster(struct stores *stores, const struct stores_write *write, uint64_t version)
{
    static const unsigned lengths[] = { 16, 5, 40, 64 };
    char *memory = pages_allocate(2 * STORES_CLUSTER_MAX);
    struct iovec pages[STORES_CLUSTER_MAX];

    for (unsigned i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (unsigned begin = 0; begin < write->count; begin += lengths[i]) {
            const unsigned count = write->count - begin < lengths[i] ? write->count - begin : lengths[i];
            memset(memory, 0xA5, 2 * STORES_CLUSTER_MAX * PAGE);
            for (unsigned page = 0; page < count; page++)
                pages[page] = (struct iovec){ memory + (size_t)page * (i % 2 == 0 ? 1 : 2) * PAGE, PAGE };
            assert_int_equal(stores_read(stores, slot_after(write->first, begin), pages, count), 0);
            for (unsigned page = 0; page < count; page++)
                assert_true(stamped(pages[page].iov_base, slot_after(write->first, begin + page), version));
            assert_int_equal((uint8_t)memory[(i % 2 == 0 ? count : 1) * PAGE],
                             0xA5); /* what lies beside is left alone */
        }
    }
    free(memory);
}

static void assert_written(struct stores *stores, const struct batch *batch, uint64_t version)
{
    for (unsigned i = 0; i < batch->count; i++) {
        assert_int_equal(batch->writes[i]->error, 0);
        assert_cluster(stores, batch->writes[i], version);
    }
}

static int io_setup(void **state)
{
    memset(&faults, 0, sizeof faults);
    return folder_setup(state);
}

/* ---- round trips ------------------------------------------------------------------------------------------------ */

static bool ring_available(void)
{
    struct io_uring ring;

    if (io_uring_queue_init(4, &ring, 0) != 0)
        return false;
    io_uring_queue_exit(&ring);
    return true;
}

static void test_round_trip(void **state)
{
    static const unsigned depths[] = { 1, 3, 32 };

    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 2, 2000);
        struct stores *stores = stores_good(&options);
        struct batch batch = batch_make(stores, 50, 0, 7);
        for (unsigned i = 0; i < 3; i++) {
            struct stores_queue *queue = queue_good(stores, depths[i]);
            assert_int_equal(stores_queue_is_ring(queue), !way->disable_io_uring && ring_available());
            batch_restamp(&batch, i);
            stores_queue_write(queue, batch.writes, batch.count);
            assert_written(stores, &batch, i);
            /* Fewer than the depth, one, none. */
            batch_restamp(&batch, i + 10);
            stores_queue_write(queue, batch.writes, 2);
            stores_queue_write(queue, batch.writes + 2, 1);
            stores_queue_write(queue, batch.writes, 0);
            for (unsigned j = 0; j < 5; j++)
                assert_true(holds(stores, batch.writes[j]->first, j < 3 ? i + 10 : i));
            assert_int_equal(stores_queue_is_ring(queue), !way->disable_io_uring && ring_available());
            stores_queue_destroy(queue);
        }
        batch_free(&batch);
        stores_destroy(stores);
    }
}

/* Memory in one piece is one entry, whatever the way; one page of it is one read. */
static void test_merging(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 1, 200);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 4);
        struct batch batch = batch_make(stores, 1, 1, 3);
        faults.transfers = 0;
        stores_queue_write(queue, batch.writes, 1);
        assert_int_equal(faults.transfers, 1);
        assert_int_equal(batch.writes[0]->error, 0);
        assert_int_equal(stores_read(stores, batch.writes[0]->first, batch.writes[0]->pages, batch.writes[0]->count),
                         0);
        assert_int_equal(faults.transfers, 2); /* pread, not preadv: that one is not counted */
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

static void test_queue_depth_refused(void **state)
{
    const struct stores_options options = options_of(&ways[0], 1, 10);
    struct stores *stores = stores_good(&options);
    struct stores_queue *queue;

    (void)state;
    assert_int_equal(stores_queue_create(stores, 0, &queue), TIDE_INVALID_PARAMETER);
    assert_null(queue);
    assert_non_null(strstr(tide_last_error()->message, "queue of 0"));
    assert_int_equal(stores_queue_create(stores, 4097, &queue), TIDE_INVALID_PARAMETER);
    assert_non_null(strstr(tide_last_error()->message, "4097"));
    assert_non_null(strstr(tide_last_error()->message, "4096"));
    stores_queue_destroy(NULL);
    stores_destroy(stores);
}

/* ---- short and failed I/O --------------------------------------------------------------------------------------- */

static void test_short_transfers_are_finished(void **state)
{
    static const size_t cuts[] = { PAGE, 3 * PAGE, 2 * PAGE + 512 };

    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 2, 2000);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        struct batch batch = batch_make(stores, 30, 0, 9);
        for (unsigned i = 0; i < 3; i++) {
            faults.cut_bytes = cuts[i];
            faults.transfers = 0;
            batch_restamp(&batch, i);
            stores_queue_write(queue, batch.writes, batch.count);
            assert_true(faults.transfers > 2 * batch.count);
            assert_written(stores, &batch, i);
            faults.cut_bytes = 0;
            assert_written(stores, &batch, i);
        }
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* Less than a page at a time is no progress that O_DIRECT could go on from: an error, and not a loop without end. */
static void test_crumbs_are_an_error(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 1, 100);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        struct batch batch = batch_make(stores, 1, 0, 3);
        faults.cut_bytes = 512;
        stores_queue_write(queue, batch.writes, 1);
        assert_int_equal(batch.writes[0]->error, EIO);
        assert_int_equal(stores_read(stores, batch.writes[0]->first, batch.writes[0]->pages, 1), EIO);
        faults.cut_bytes = 0;
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* Somebody cuts the file short: reads of what is gone fail with EIO, the rest can be read. */
static void test_truncated_file(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 1, 300);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        struct batch batch = batch_make(stores, 4, 5, 11);
        stores_queue_write(queue, batch.writes, 4);
        assert_written(stores, &batch, 5);
        const struct stores_write *last = batch.writes[3];
        assert_true(last->count >= 2);
        assert_int_equal(truncate(in_folder("first"), (off_t)(last->first.slot + 1) * PAGE), 0);
        assert_int_equal(stores_read(stores, last->first, last->pages, last->count), EIO);
        assert_true(holds(stores, last->first, 5));
        assert_false(holds(stores, slot_after(last->first, 1), 5));
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* ---- rings that fail -------------------------------------------------------------------------------------------- */

static void test_ring_refuses_for_a_while(void **state)
{
    const struct stores_options options = options_of(&ways[0], 1, 2000);
    struct stores *stores = stores_good(&options);
    struct stores_queue *queue = queue_good(stores, 8);

    (void)state;
    if (!stores_queue_is_ring(queue)) {
        print_message("no io_uring here\n");
    } else {
        struct batch batch = batch_make(stores, 30, 1, 13);
        faults.submit_refusals = 20;
        stores_queue_write(queue, batch.writes, batch.count);
        assert_int_equal(faults.submit_refusals, 0);
        assert_true(stores_queue_is_ring(queue));
        assert_written(stores, &batch, 1);
        batch_free(&batch);
    }
    stores_queue_destroy(queue);
    stores_destroy(stores);
}

/* From whichever submission on the ring fails: every write is done once, and the queue goes on without the ring. */
static void test_ring_that_fails_is_given_up(void **state)
{
    (void)state;
    if (!ring_available()) {
        print_message("no io_uring here\n");
        skip();
    }
    /* 30 writes, 4 in flight: at least 8 submissions. */
    for (unsigned failure = 1; failure <= 8; failure++) {
        for (unsigned cut = 0; cut < 2; cut++) {
            const struct stores_options options = options_of(&ways[failure % 2], 2, 2000);
            struct stores *stores = stores_good(&options);
            struct stores_queue *queue = queue_good(stores, 4);
            struct batch batch = batch_make(stores, 30, 1, failure);
            memset(&faults, 0, sizeof faults);
            faults.submit_failure = failure;
            faults.cut_bytes = cut * 5 * PAGE;
            stores_queue_write(queue, batch.writes, batch.count);
            assert_false(stores_queue_is_ring(queue));
            if (cut == 0)
                assert_int_equal(faults.transfers, batch.count); /* each was issued once */
            assert_written(stores, &batch, 1);
            batch_restamp(&batch, 2);
            stores_queue_write(queue, batch.writes, batch.count);
            assert_written(stores, &batch, 2);
            assert_int_equal(faults.submissions, failure);
            batch_free(&batch);
            stores_queue_destroy(queue);
            stores_destroy(stores);
        }
    }
}

/* ---- the filter ------------------------------------------------------------------------------------------------- */

struct filter {
    unsigned calls[2];     /* by kind */
    unsigned fail_call[2]; /* number of the call that fails; 0: none */
    int error;
    unsigned file, pages;
    uint64_t slot;            /* of the last call */
    struct timespec delay[2]; /* by file; for writes */
};

static int filter_io(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    struct filter *filter = context;

    filter->file = file;
    filter->slot = slot;
    filter->pages = pages;
    if (kind == TIDE_IO_WRITE)
        (void)nanosleep(&filter->delay[file], NULL);
    return ++filter->calls[kind] == filter->fail_call[kind] ? filter->error : 0;
}

static void test_filter_fails_one_io(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        struct filter filter = { .error = EIO };
        struct stores_options options = options_of(way, 2, 2000);
        options.filter = filter_io;
        options.filter_context = &filter;
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 4);
        struct batch batch = batch_make(stores, 20, 1, 5);
        assert_int_equal(filter.calls[TIDE_IO_READ] + filter.calls[TIDE_IO_WRITE],
                         0); /* the header is no I/O of a page */
        stores_queue_write(queue, batch.writes, batch.count);
        assert_int_equal(filter.calls[TIDE_IO_WRITE], 20);
        assert_written(stores, &batch, 1);

        /* One call fails, and only it: its slots keep what they held. */
        for (unsigned which = 1; which <= 20; which += which < 4 ? 1 : 8) {
            batch_restamp(&batch, 2);
            filter =
                (struct filter){ .fail_call = { [TIDE_IO_WRITE] = which }, .error = which % 2 == 0 ? EIO : ENOSPC };
            stores_queue_write(queue, batch.writes, batch.count);
            for (unsigned i = 0; i < 20; i++)
                assert_int_equal(batch.writes[i]->error, i != which - 1 ? 0 : filter.error);
            assert_true(holds(stores, batch.writes[which - 1]->first, 1));
            assert_true(holds(stores, batch.writes[which % 20]->first, 2));
            batch_restamp(&batch, 1);
            stores_queue_write(queue, batch.writes, batch.count);
            for (unsigned i = 0; i < 20; i++)
                assert_int_equal(batch.writes[i]->error, 0);
        }

        const struct stores_write *write = batch.writes[4];
        filter = (struct filter){ .fail_call = { [TIDE_IO_READ] = 2 }, .error = EIO };
        assert_int_equal(stores_read(stores, write->first, write->pages, write->count), 0);
        assert_int_equal(filter.file, write->first.file);
        assert_int_equal(filter.slot, write->first.slot);
        assert_int_equal(filter.pages, write->count);
        memset(write->pages[0].iov_base, 0x5A, PAGE);
        assert_int_equal(stores_read(stores, write->first, write->pages, write->count), EIO);
        assert_int_equal(*(uint8_t *)write->pages[0].iov_base, 0x5A); /* not issued */
        assert_int_equal(stores_read(stores, write->first, write->pages, write->count), 0);
        assert_true(stamped(write->pages[0].iov_base, write->first, 1));
        assert_int_equal(filter.calls[TIDE_IO_READ], 3);
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* ---- which file ------------------------------------------------------------------------------------------------- */

/* Allocates single slots; returns how many came from file 0. */
static unsigned allocate_slots(struct stores *stores, unsigned count)
{
    struct stores_slot slot;
    unsigned from_first = 0;

    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(stores_slots_allocate(stores, 1, 0, &slot), 1);
        from_first += slot.file == 0;
    }
    return from_first;
}

static void test_share_follows_speed(void **state)
{
    const struct stores_options options = options_of(&ways[0], 2, 20000);
    struct stores *stores = stores_good(&options);

    (void)state;
    /* Not measured yet: half each. */
    assert_in_range(allocate_slots(stores, 100), 49, 51);
    /* 10 to 1, then 1 to 4. */
    for (unsigned i = 0; i < 100; i++) {
        stores_speed_note(stores, 0, 64, 64 * 1000);
        stores_speed_note(stores, 1, 64, 64 * 10000);
    }
    assert_in_range(allocate_slots(stores, 1100), 990, 1010);
    for (unsigned i = 0; i < 100; i++) {
        stores_speed_note(stores, 0, 64, 64 * 4000);
        stores_speed_note(stores, 1, 64, 64 * 1000);
    }
    (void)allocate_slots(stores, 100);
    assert_in_range(allocate_slots(stores, 1000), 190, 210);
    /* So fast that it takes no time. */
    for (unsigned i = 0; i < 100; i++)
        stores_speed_note(stores, 0, 64, 0);
    assert_in_range(allocate_slots(stores, 2000), 1990, 2000);
    stores_destroy(stores);
}

/* A file that was full for long does not get everything once it has room. */
static void test_full_file_comes_back(void **state)
{
    struct stores_options options = options_of(&ways[0], 2, 20000);
    struct stores_slot slot;

    (void)state;
    two_files[0].minimum_bytes = 101 * PAGE;
    struct stores *stores = stores_good(&options);
    assert_int_equal(allocate_slots(stores, 5000), 100);
    for (slot = (struct stores_slot){ 0, 1 }; slot.slot <= 100; slot.slot++)
        stores_slot_release(stores, slot);
    assert_in_range(allocate_slots(stores, 100), 49, 51);
    /* Both full. */
    const uint64_t left = stores_capacity_pages(stores) - 5000;
    (void)allocate_slots(stores, (unsigned)left);
    assert_int_equal(stores_slots_allocate(stores, 1, 0, &slot), 0);
    stores_slot_release(stores, (struct stores_slot){ 1, 7777 });
    assert_int_equal(stores_slots_allocate(stores, 64, 0, &slot), 1);
    assert_int_equal(slot.file, 1);
    assert_int_equal(slot.slot, 7777);
    stores_destroy(stores);
}

/*
 * The whole way, PW-4: a filter that makes one file slow, and the queue that measures it. In memory, so that no real
 * disk makes the other one slow.
 */
static void test_slow_file_gets_less(void **state)
{
    (void)state;
    if (!folder_mount("tmpfs", 0, "size=200m"))
        skip();
    for (unsigned i = 0; i < 4; i++) {
        const unsigned slow = i % 2;
        struct filter filter = { .error = 0 };
        filter.delay[slow].tv_nsec = 20000000;
        struct stores_options options = options_of(&ways[i], 2, 20000);
        options.filter = filter_io;
        options.filter_context = &filter;
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        uint64_t share[2] = { 0, 0 };
        for (unsigned round = 0; round < 12; round++) {
            struct batch batch = batch_make(stores, 10, 1, round);
            stores_queue_write(queue, batch.writes, batch.count);
            for (unsigned n = 0; n < batch.count; n++)
                share[batch.writes[n]->first.file] += batch.writes[n]->count;
            batch_free(&batch);
        }
        if (share[slow] * 4 > share[!slow] || share[slow] == 0)
            fail_msg("way %u: the slow file got %lu pages, the fast one %lu", i, (unsigned long)share[slow],
                     (unsigned long)share[!slow]);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* Writes that fail at once do not make a file look fast; nor do they hurt those of another file. */
static void test_failures_are_not_speed(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 2, 20000);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        const uint64_t before = 1ull << 40; /* slower than any */
        struct batch batch = batch_make(stores, 40, 1, 3);
        stores->files[0].page_ns = stores->files[1].page_ns = before;
        faults.failing_descriptor = stores->files[0].file.fd;
        stores_queue_write(queue, batch.writes, batch.count);
        faults.failing_descriptor = 0;
        for (unsigned i = 0; i < batch.count; i++)
            assert_int_equal(batch.writes[i]->error, batch.writes[i]->first.file == 0 ? EBADF : 0);
        assert_int_equal(stores->files[0].page_ns, before);
        assert_int_not_equal(stores->files[1].page_ns, before);
        stores_queue_write(queue, batch.writes, batch.count);
        assert_written(stores, &batch, 1);
        assert_int_not_equal(stores->files[0].page_ns, before);
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

/* ---- statistics ------------------------------------------------------------------------------------------------- */

static void test_statistics(void **state)
{
    const struct stores_options options = options_of(&ways[0], 2, 1001);
    struct stores *stores = stores_good(&options);
    struct stores_statistics statistics;
    struct stores_slot first, other;

    (void)state;
    assert_int_equal(stores_slots_allocate(stores, 40, 0, &first), 40);
    assert_true(stores_slot_allocated(stores, first));
    assert_true(stores_slot_allocated(stores, slot_after(first, 39)));
    assert_false(stores_slot_allocated(stores, slot_after(first, 40)));
    assert_false(stores_slot_allocated(stores, (struct stores_slot){ 2, 1 }));
    assert_int_equal(stores_slots_allocate(stores, 1000, 0, &other),
                     STORES_CLUSTER_MAX); /* the most there is at once */
    assert_int_not_equal(other.file, first.file);
    stores_slot_mark_bad(stores, slot_after(first, 3));
    stores_slot_release(stores, first);
    assert_false(stores_slot_allocated(stores, slot_after(first, 3)));
    stores_statistics_get(stores, &statistics);
    assert_int_equal(statistics.total_slots, 2000);
    assert_int_equal(statistics.used_slots, 102);
    assert_int_equal(statistics.bad_slots, 1);
    assert_int_equal(statistics.peak_used_slots, 104);
    stores_destroy(stores);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

enum { READERS = 4, CLUSTERS = 40 };

struct readers {
    struct stores *stores;
    const struct batch *batch;
    uint32_t mistakes; /* [A] */
    uint32_t stop;     /* [A] */
};

static void *reader_thread(void *argument)
{
    struct readers *readers = argument;
    char *memory = aligned_alloc(PAGE, STORES_CLUSTER_MAX * PAGE);
    uint64_t seed = (uint64_t)(uintptr_t)memory;
    struct iovec pages[STORES_CLUSTER_MAX];

    for (unsigned i = 0; i < STORES_CLUSTER_MAX; i++)
        pages[i] = (struct iovec){ memory + (size_t)i * PAGE, PAGE };
    while (sync_load_32(&readers->stop) == 0) {
        const struct stores_write *write = readers->batch->writes[random_below(&seed, CLUSTERS / 2)];
        if (stores_read(readers->stores, write->first, pages, write->count) != 0)
            sync_add_32(&readers->mistakes, 1);
        for (unsigned i = 0; i < write->count; i++)
            if (!stamped(pages[i].iov_base, slot_after(write->first, i), 1))
                sync_add_32(&readers->mistakes, 1);
    }
    free(memory);
    return NULL;
}

/* Readers of one half of the clusters, while a writer writes the other half and slots come and go. */
static void test_readers_beside_a_writer(void **state)
{
    (void)state;
    for (const struct way *way = ways; way < ways + WAY_COUNT; way++) {
        const struct stores_options options = options_of(way, 2, 5000);
        struct stores *stores = stores_good(&options);
        struct stores_queue *queue = queue_good(stores, 8);
        struct batch batch = batch_make(stores, CLUSTERS, 1, 21);
        stores_queue_write(queue, batch.writes, CLUSTERS);
        struct readers readers = { .stores = stores, .batch = &batch };
        pthread_t threads[READERS];
        for (unsigned i = 0; i < READERS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, reader_thread, &readers), 0);
        for (uint64_t version = 2; version < 12; version++) {
            struct stores_slot first;
            for (unsigned i = CLUSTERS / 2; i < CLUSTERS; i++)
                for (unsigned page = 0; page < batch.writes[i]->count; page++)
                    stamp(batch.writes[i]->pages[page].iov_base, slot_after(batch.writes[i]->first, page), version);
            stores_queue_write(queue, batch.writes + CLUSTERS / 2, CLUSTERS / 2);
            assert_int_equal(stores_slots_allocate(stores, 5, 0, &first), 5);
            for (unsigned page = 0; page < 5; page++)
                stores_slot_release(stores, slot_after(first, page));
        }
        sync_store_32(&readers.stop, 1);
        for (unsigned i = 0; i < READERS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(readers.mistakes, 0);
        for (unsigned i = CLUSTERS / 2; i < CLUSTERS; i++)
            assert_cluster(stores, batch.writes[i], 11);
        batch_free(&batch);
        stores_queue_destroy(queue);
        stores_destroy(stores);
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, io_setup, folder_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_merging),
        TEST(test_queue_depth_refused),
        TEST(test_short_transfers_are_finished),
        TEST(test_crumbs_are_an_error),
        TEST(test_truncated_file),
        TEST(test_ring_refuses_for_a_while),
        TEST(test_ring_that_fails_is_given_up),
        TEST(test_filter_fails_one_io),
        TEST(test_share_follows_speed),
        TEST(test_full_file_comes_back),
        TEST(test_slow_file_gets_less),
        TEST(test_failures_are_not_speed),
        TEST(test_statistics),
        TEST(test_readers_beside_a_writer),
    };

    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}

/*
 * Several clustered reads at the same time, for whoever reads ahead: by a ring that lives as long as the call, or one
 * after the other where there is no io_uring. What the ring does not deliver whole - a short read, a refusal of the
 * kernel's - is read again as a single read, which knows how to go on and whose error counts.
 *
 * Threads: any number; nothing is shared. No lock is held during I/O (asserted).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/stores_impl.h"

#include <errno.h>
#include <liburing.h>
#include <sched.h>

enum { UNREAD = -1 };

/*
 * A ring's memory is mapped and unmapped by liburing's own system calls, which ThreadSanitizer does not see: without a
 * word it takes two rings that had the same addresses one after the other for one.
 */
#ifdef __SANITIZE_THREAD__
void __tsan_acquire(void *address);
void __tsan_release(void *address);
static char ring_addresses;
#define RING_TSAN_MAPPED() __tsan_acquire(&ring_addresses)
#define RING_TSAN_UNMAPS() __tsan_release(&ring_addresses)
#else
#define RING_TSAN_MAPPED() ((void)0)
#define RING_TSAN_UNMAPS() ((void)0)
#endif

/* Puts a read into the ring. False if the filter made it fail, or there is no room: then its error is set. */
static bool read_prepare(struct stores *stores, struct io_uring *ring, struct stores_request *request)
{
    const struct stores_slot first = request->first;

    ASSERT_ALWAYS(first.file < stores->file_count && first.slot != 0 && request->count >= 1 &&
                  request->count <= STORES_CLUSTER_MAX);
    if (stores->filter != NULL) {
        request->error = stores->filter(stores->filter_context, TIDE_IO_READ, first.file, first.slot, request->count);
        if (request->error != 0)
            return false;
    }
    struct io_uring_sqe *entry = io_uring_get_sqe(ring);
    request->error = UNREAD;
    if (entry == NULL)
        return false;
    io_uring_prep_readv(entry, stores->files[first.file].file.fd, request->pages, request->count,
                        (uint64_t)first.slot * TIDE_PAGE_BYTES);
    io_uring_sqe_set_data(entry, request);
    return true;
}

/* Submits what is prepared. Returns how many the kernel took. */
static unsigned ring_submit(struct io_uring *ring, unsigned prepared)
{
    unsigned taken = 0;

    while (taken < prepared) {
        const int result = io_uring_submit(ring);

        if (result > 0)
            taken += (unsigned)result;
        else if (result != -EINTR)
            break; /* the rest never began, and ends with the ring */
    }
    return taken;
}

/* Waits for all that the kernel took: until then it may write to the pages. */
static void ring_complete(struct io_uring *ring, unsigned taken)
{
    while (taken != 0) {
        struct io_uring_cqe *completion;

        if (io_uring_wait_cqe(ring, &completion) != 0) {
            (void)sched_yield();
            continue;
        }
        struct stores_request *request = io_uring_cqe_get_data(completion);
        if (completion->res == (int)(request->count * TIDE_PAGE_BYTES))
            request->error = 0;
        io_uring_cqe_seen(ring, completion);
        taken--;
    }
}

bool stores_reads_overlap(const struct stores *stores)
{
    return !stores->disable_io_uring && sync_load_relaxed_32(&stores->no_ring) == 0;
}

/* A ring of so many entries; false if there is none to be had, of which some reasons stay. */
static bool ring_open(struct stores *stores, struct io_uring *ring, unsigned count)
{
    const int error = stores_reads_overlap(stores) ? -io_uring_queue_init(count, ring, 0) : ENOSYS;

    if (error == ENOSYS || error == EPERM || error == EACCES)
        sync_store_relaxed_32(&stores->no_ring, 1);
    return error == 0;
}

void stores_read_many(struct stores *stores, struct stores_request *requests, unsigned count)
{
    struct io_uring ring;
    unsigned prepared = 0;

    sync_assert_unlocked();
    for (unsigned i = 0; i < count; i++)
        requests[i].error = UNREAD;
    if (count > 1 && ring_open(stores, &ring, count)) {
        RING_TSAN_MAPPED();
        for (unsigned i = 0; i < count; i++)
            prepared += read_prepare(stores, &ring, &requests[i]);
        ring_complete(&ring, ring_submit(&ring, prepared));
        RING_TSAN_UNMAPS();
        io_uring_queue_exit(&ring);
    }
    for (unsigned i = 0; i < count; i++) {
        struct store *store = &stores->files[requests[i].first.file];

        if (requests[i].error == UNREAD) {
            requests[i].error = stores_read(stores, requests[i].first, requests[i].pages, requests[i].count);
            continue;
        }
        (void)sync_add_64(&store->io.reads, 1);
        if (requests[i].error == 0)
            (void)sync_add_64(&store->io.pages_input, requests[i].count);
    }
}

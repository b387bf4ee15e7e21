/*
 * Several reads at the same time, for whoever reads ahead: by a ring, or one after the other where there is none.
 * What the ring does not deliver whole - a short read, a refusal of the kernel's - is read again as a single read, which
 * knows how to go on and whose error counts.
 *
 * Rings are kept: making one and closing it costs more than the reads that it is for. There are a few for each CPU, made
 * when they are first needed and closed with the stores, so neither threads nor their number matter. Who reads holds a
 * ring until it has nothing under way any more. Who finds none that is idle reads one after the other: then as many
 * others are reading, each with up to STORES_READS_MAX reads, as keep any disk busy. A ring that refuses is closed, and
 * another one made when it is needed. A child of fork() makes rings of its own: to the kernel those that it inherits are
 * its parent's, with whose reads it would interfere.
 *
 * A filter may sleep, to play a slow device; so what was begun before is submitted before it is asked, and what is done
 * is handed out before it is asked again.
 *
 * Threads: any number. A struct stores_reads belongs to one, and so does the ring that it holds. No lock is held during
 * I/O (asserted), and none is waited for: all of it may run in a signal handler.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/stores_impl.h"

#include "base/error.h"
#include "base/os.h"

#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { UNREAD = -1, RINGS_PER_CPU = 4, RINGS_LEAST = 8, RINGS_MOST = 64 };

struct reads_ring {
    struct sync_flag flag; /* whoever has it owns the rest */
    pid_t owner;           /* the process that made the ring; 0: there is none */
    struct io_uring ring;
} SYNC_CACHE_ALIGNED;

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

/* ---- rings ------------------------------------------------------------------------------------------------------ */

tide_status rings_create(struct stores *stores)
{
    const unsigned wanted = stores->cpu_count * RINGS_PER_CPU;

    stores->ring_count = wanted < RINGS_LEAST ? RINGS_LEAST : wanted > RINGS_MOST ? RINGS_MOST : wanted;
    stores->rings = aligned_alloc(_Alignof(struct reads_ring), stores->ring_count * sizeof *stores->rings);
    if (stores->rings == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, ENOMEM, 0, "no memory for %u rings", stores->ring_count);
    memset(stores->rings, 0, stores->ring_count * sizeof *stores->rings);
    return TIDE_SUCCESS;
}

static void ring_close(struct reads_ring *ring)
{
    if (ring->owner == 0)
        return;
    RING_TSAN_UNMAPS();
    io_uring_queue_exit(&ring->ring);
    ring->owner = 0;
}

void rings_destroy(struct stores *stores)
{
    for (unsigned i = 0; stores->rings != NULL && i < stores->ring_count; i++)
        ring_close(&stores->rings[i]);
    free(stores->rings);
}

bool stores_reads_overlap(const struct stores *stores)
{
    return !stores->disable_io_uring && sync_load_relaxed_32(&stores->no_ring) == 0;
}

/* Makes the ring, unless it is there. False if there is none to be had, of which some reasons stay. */
static bool ring_open(struct stores *stores, struct reads_ring *ring)
{
    const pid_t self = getpid();

    if (ring->owner == self)
        return true;
    ring_close(ring);
    const int error = -io_uring_queue_init(STORES_READS_MAX, &ring->ring, 0);
    if (error == ENOSYS || error == EPERM || error == EACCES)
        sync_store_relaxed_32(&stores->no_ring, 1);
    if (error != 0)
        return false;
    RING_TSAN_MAPPED();
    ring->owner = self;
    return true;
}

/* An idle ring, those of this CPU first. NULL if there is none. */
static struct reads_ring *ring_get(struct stores *stores)
{
    const unsigned first = os_cpu_current() * RINGS_PER_CPU;

    for (unsigned i = 0; i < stores->ring_count && stores_reads_overlap(stores); i++) {
        struct reads_ring *ring = &stores->rings[(first + i) % stores->ring_count];

        if (!sync_flag_try(&ring->flag))
            continue;
        if (ring_open(stores, ring))
            return ring;
        sync_flag_clear(&ring->flag);
        break;
    }
    return NULL;
}

/* ---- lists of requests, first in, first out --------------------------------------------------------------------- */

static void list_put(struct stores_request_list *list, struct stores_request *request)
{
    request->next = NULL;
    if (list->first == NULL)
        list->first = request;
    else
        list->last->next = request;
    list->last = request;
}

static struct stores_request *list_take(struct stores_request_list *list)
{
    struct stores_request *request = list->first;

    if (request != NULL)
        list->first = request->next;
    return request;
}

/* ---- reads ------------------------------------------------------------------------------------------------------ */

void stores_reads_begin(struct stores *stores, struct stores_reads *reads)
{
    *reads = (struct stores_reads){ .stores = stores };
}

void stores_reads_add(struct stores_reads *reads, struct stores_request *request)
{
    ASSERT_ALWAYS(request->first.file < reads->stores->file_count && request->first.slot != 0 && request->count >= 1 &&
                  request->count <= STORES_CLUSTER_MAX);
    request->error = UNREAD;
    list_put(&reads->added, request);
}

/* Puts the next request into the ring, which has room, or makes it fail as the filter says. */
static void read_start(struct stores_reads *reads)
{
    const struct stores *stores = reads->stores;
    struct stores_request *request = list_take(&reads->added);
    const struct stores_slot first = request->first;

    if (stores->filter != NULL) {
        request->error = stores->filter(stores->filter_context, TIDE_IO_READ, first.file, first.slot, request->count);
        if (request->error != 0) {
            list_put(&reads->over, request);
            return;
        }
        request->error = UNREAD;
    }
    struct io_uring_sqe *entry = io_uring_get_sqe(&reads->ring->ring);
    ASSERT_ALWAYS(entry != NULL);
    io_uring_prep_readv(entry, stores->files[first.file].file.fd, request->pages, request->count,
                        (uint64_t)first.slot * TIDE_PAGE_BYTES);
    io_uring_sqe_set_data(entry, request);
    list_put(&reads->prepared, request);
    reads->in_ring++;
}

/* What the kernel did not take of what is prepared is read alone, and the ring is not used again. */
static void ring_give_up(struct stores_reads *reads)
{
    struct stores_request *request;

    while ((request = list_take(&reads->prepared)) != NULL) {
        list_put(&reads->alone, request);
        reads->in_ring--;
    }
    reads->refused = true;
}

/* Submits what is prepared and waits until `wait` of what is in the ring are read; sooner if the kernel refuses. */
static void ring_submit(struct stores_reads *reads, unsigned wait)
{
    const bool submits = reads->prepared.first != NULL;
    const int taken = io_uring_submit_and_wait(&reads->ring->ring, wait);

    for (int i = 0; i < taken; i++)
        (void)list_take(&reads->prepared);
    if (submits && taken <= 0 && taken != -EINTR)
        ring_give_up(reads);
    else if (taken < 0)
        (void)sched_yield();
}

/*
 * ring_submit(), and takes in what is read. What the kernel took is waited for, come what may: until then it may write
 * to the pages.
 */
static void ring_turn(struct stores_reads *reads, unsigned wait)
{
    struct io_uring_cqe *completions[STORES_READS_MAX];

    if (!reads->refused)
        ring_submit(reads, wait);
    else if (io_uring_wait_cqe(&reads->ring->ring, completions) != 0) /* submits nothing */
        (void)sched_yield();
    const unsigned count = io_uring_peek_batch_cqe(&reads->ring->ring, completions, STORES_READS_MAX);
    for (unsigned i = 0; i < count; i++) {
        struct stores_request *request = io_uring_cqe_get_data(completions[i]);

        if (completions[i]->res == (int)(request->count * TIDE_PAGE_BYTES))
            request->error = 0;
        list_put(request->error == 0 ? &reads->over : &reads->alone, request);
    }
    io_uring_cq_advance(&reads->ring->ring, count);
    reads->in_ring -= count;
}

/* Begins what was added, as far as there is room; one, if there is a filter. False if there is no ring for it. */
static bool reads_start(struct stores_reads *reads)
{
    const bool several = reads->added.first != NULL && reads->added.first->next != NULL;

    if (reads->ring == NULL && several && !reads->no_ring) {
        reads->ring = ring_get(reads->stores);
        reads->no_ring = reads->ring == NULL;
    }
    if (reads->ring == NULL || reads->refused)
        return false;
    while (reads->added.first != NULL && reads->in_ring < STORES_READS_MAX) {
        read_start(reads);
        if (reads->stores->filter != NULL)
            break;
    }
    return true;
}

static void request_count(struct stores *stores, const struct stores_request *request)
{
    struct store *store = &stores->files[request->first.file];

    (void)sync_add_64(&store->io.reads, 1);
    if (request->error == 0)
        (void)sync_add_64(&store->io.pages_input, request->count);
}

/* A request that is over; NULL if none is under way. `together`: woken when all are. */
static struct stores_request *reads_next(struct stores_reads *reads, bool together)
{
    struct stores_request *request;

    sync_assert_unlocked();
    for (;;) {
        request = list_take(&reads->over);
        if (request != NULL) {
            request_count(reads->stores, request);
            return request;
        }
        const bool starts = reads_start(reads);
        const bool more = starts && reads->added.first != NULL && reads->in_ring < STORES_READS_MAX;
        if (reads->in_ring != 0)
            ring_turn(reads, more ? 0 : together ? reads->in_ring : 1);
        else if (reads->over.first == NULL)
            break;
    }
    request = list_take(&reads->alone);
    if (request == NULL)
        request = list_take(&reads->added);
    if (request != NULL)
        request->error = stores_read(reads->stores, request->first, request->pages, request->count);
    return request;
}

struct stores_request *stores_reads_next(struct stores_reads *reads)
{
    return reads_next(reads, false);
}

void stores_reads_end(struct stores_reads *reads)
{
    ASSERT_ALWAYS(reads->in_ring == 0 && reads->added.first == NULL && reads->over.first == NULL &&
                  reads->alone.first == NULL);
    if (reads->ring == NULL)
        return;
    if (reads->refused)
        ring_close(reads->ring);
    sync_flag_clear(&reads->ring->flag);
}

void stores_read_many(struct stores *stores, struct stores_request *requests, unsigned count)
{
    struct stores_reads reads;

    stores_reads_begin(stores, &reads);
    for (unsigned i = 0; i < count; i++)
        stores_reads_add(&reads, &requests[i]);
    while (reads_next(&reads, true) != NULL)
        continue;
    stores_reads_end(&reads);
}

/*
 * Page-file I/O: synchronous reads on the faulting thread, and the writers' queues.
 *
 * A transfer is what is left of one I/O: memory, offset, bytes. Whatever the system answers goes through
 * transfer_advance(): bytes (all, or fewer: the rest is issued again), or an error (a transient one a bounded number of
 * times again). Reads, plain writes and the ring share it. Neighbours in memory are one piece, so most I/Os have one.
 *
 * Queue. It has `depth` flights, each a transfer with room of its own, so that nothing is allocated on the way out: the
 * writer runs when memory is short. With io_uring the flights are in flight together; without, one flight is used, with
 * pwritev. If the ring fails while in use (io_uring_enter gives an error that does not pass), what the kernel has taken
 * is waited for in the completion ring, the ring is closed, and the rest of this call and all later ones go by pwritev:
 * a write is never lost, reported twice, or still running when stores_queue_write() returns.
 *
 * Speed. For each file the queue measures the time in which the file had at least one write in flight. The filter runs
 * on this thread and may sleep to play a slow device. Its time is charged to the file that it was called for, and the
 * clock of the other files stands still meanwhile, since their completions cannot be seen.
 *
 * Threads. stores_read(): any number, no lock; of shared lines only that with the file's counters is written. A queue:
 * one thread at a time, all fields [T] but answered_ns, which anybody may read.
 * No lock is held during I/O (asserted).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/stores_impl.h"

#include "base/error.h"
#include "base/os.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    DEPTH_MAX = 4096,
    STALLS_MAX = 64,        /* results without progress before an I/O fails */
    REAP_MAX = 32,          /* completions taken in at once */
    RING_STALLS_MAX = 1000, /* refused submissions, 1 ms apart, before the ring is given up */
};

/* ---- transfers -------------------------------------------------------------------------------------------------- */

struct transfer {
    struct iovec pieces[STORES_CLUSTER_MAX];
    unsigned first, count; /* pieces left: first .. count - 1 */
    unsigned stalls;       /* results without progress since the last progress */
    int fd;
    size_t bytes; /* left */
    off_t offset;
};

/*
 * Slots that do not exist, the header among them, must never be reached: that would be another page's data, or the lock
 * on the file.
 */
static void transfer_begin(struct transfer *transfer, const struct stores *stores, struct stores_slot slot,
                           const struct iovec *pages, unsigned count)
{
    ASSERT_ALWAYS(slot.file < stores->file_count && slot.slot != 0 && count >= 1 && count <= STORES_CLUSTER_MAX &&
                  slot.slot + (uint64_t)count <= slot_map_limit(&stores->files[slot.file].slots));
    transfer->pieces[0] = pages[0];
    transfer->first = 0;
    transfer->count = 1;
    transfer->stalls = 0;
    transfer->fd = stores->files[slot.file].file.fd;
    transfer->bytes = (size_t)count * TIDE_PAGE_BYTES;
    transfer->offset = (off_t)slot.slot * TIDE_PAGE_BYTES;
    for (unsigned i = 0; i < count; i++)
        ASSERT_DEBUG(pages[i].iov_len == TIDE_PAGE_BYTES && (uintptr_t)pages[i].iov_base % TIDE_PAGE_BYTES == 0);
    for (unsigned i = 1; i < count; i++) {
        struct iovec *last = &transfer->pieces[transfer->count - 1];
        if ((char *)last->iov_base + last->iov_len == (char *)pages[i].iov_base)
            last->iov_len += TIDE_PAGE_BYTES;
        else
            transfer->pieces[transfer->count++] = pages[i];
    }
}

/*
 * Takes in a result: bytes transferred or a negated errno. True if the transfer is over, with *error 0 or an errno;
 * false if the rest is to be issued. Progress counts in whole pages, since O_DIRECT could not go on from the middle of
 * one.
 */
static bool transfer_advance(struct transfer *transfer, ssize_t result, int *error)
{
    size_t progress = result > 0 ? (size_t)result & ~(size_t)(TIDE_PAGE_BYTES - 1) : 0;

    *error = 0;
    if (progress >= transfer->bytes)
        return true;
    if (progress == 0) {
        const bool transient = result > 0 || result == -EINTR || result == -EAGAIN;
        if (transient && ++transfer->stalls < STALLS_MAX)
            return false;
        /* 0 bytes: the file has been cut short, or the device takes no more. */
        *error = result < 0 ? (int)-result : EIO;
        return true;
    }
    transfer->stalls = 0;
    transfer->bytes -= progress;
    transfer->offset += (off_t)progress;
    while (progress >= transfer->pieces[transfer->first].iov_len)
        progress -= transfer->pieces[transfer->first++].iov_len;
    struct iovec *const piece = &transfer->pieces[transfer->first];
    piece->iov_base = (char *)piece->iov_base + progress;
    piece->iov_len -= progress;
    return false;
}

/* Both: one system call for what is left; bytes or a negated errno. */
static ssize_t transfer_read(const struct transfer *transfer)
{
    const struct iovec *const pieces = &transfer->pieces[transfer->first];
    const int count = (int)(transfer->count - transfer->first);
    const ssize_t got = count == 1 ? pread(transfer->fd, pieces->iov_base, pieces->iov_len, transfer->offset)
                                   : preadv(transfer->fd, pieces, count, transfer->offset);
    return got < 0 ? -errno : got;
}

static ssize_t transfer_write(const struct transfer *transfer)
{
    const ssize_t put = pwritev(transfer->fd, &transfer->pieces[transfer->first],
                                (int)(transfer->count - transfer->first), transfer->offset);
    return put < 0 ? -errno : put;
}

/* ---- reads ------------------------------------------------------------------------------------------------------ */

int stores_peek(struct stores *stores, struct stores_slot first, const struct iovec *pages, unsigned count)
{
    struct transfer transfer;
    int error;

    sync_assert_unlocked();
    transfer_begin(&transfer, stores, first, pages, count);
    if (stores->filter != NULL) {
        error = stores->filter(stores->filter_context, TIDE_IO_READ, first.file, first.slot, count);
        if (error != 0)
            return error;
    }
    while (!transfer_advance(&transfer, transfer_read(&transfer), &error))
        continue;
    return error;
}

int stores_read(struct stores *stores, struct stores_slot first, const struct iovec *pages, unsigned count)
{
    const int error = stores_peek(stores, first, pages, count);
    struct store *const store = &stores->files[first.file];

    (void)sync_add_64(&store->io.reads, 1);
    if (error == 0)
        (void)sync_add_64(&store->io.pages_input, count);
    return error;
}

/* ---- queue ------------------------------------------------------------------------------------------------------ */

struct flight {
    struct transfer transfer;
    struct stores_write *write; /* NULL: the flight is free */
    struct flight *next_free;
    uint64_t sequence; /* number of its last entry in the submission ring; UINT64_MAX: none there */
};

/* What one file did during one stores_queue_write(). */
struct load {
    unsigned in_flight;
    uint64_t since_ns; /* device clock at which in_flight became 1 */
    uint64_t busy_ns;
    uint64_t pages; /* written without an error */
};

struct stores_queue {
    struct stores *stores;
    unsigned depth;
    unsigned in_flight;
    bool is_ring;
    struct io_uring ring;
    uint64_t prepared;    /* entries put into the submission ring so far */
    uint64_t submitted;   /* of these, taken by the kernel: those with a lower sequence */
    uint64_t filter_ns;   /* time spent in the filter so far */
    uint64_t answered_ns; /* [A] relaxed: when a write was last over */
    struct flight *free_flights;
    struct flight *flights;
    struct load loads[TIDE_MAX_PAGE_FILES];
};

tide_status stores_queue_create(struct stores *stores, unsigned depth, struct stores_queue **queue)
{
    struct stores_queue *new = NULL;

    *queue = NULL;
    if (depth < 1 || depth > DEPTH_MAX)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a queue of %u writes is not in 1 to %d", depth, DEPTH_MAX);
    new = calloc(1, sizeof *new);
    if (new != NULL)
        new->flights = calloc(depth, sizeof *new->flights);
    if (new == NULL || new->flights == NULL) {
        free(new);
        return error_set(TIDE_INSUFFICIENT_RESOURCES, ENOMEM, 0, "no memory for a queue of %u writes", depth);
    }
    new->stores = stores;
    new->depth = depth;
    for (unsigned i = depth; i-- > 0;) {
        new->flights[i].next_free = new->free_flights;
        new->free_flights = &new->flights[i];
    }
    /* Not there, not allowed, or too little lockable memory: all the same, pwritev it is. */
    if (!stores->disable_io_uring)
        new->is_ring = io_uring_queue_init(depth, &new->ring, 0) == 0;
    *queue = new;
    return TIDE_SUCCESS;
}

void stores_queue_destroy(struct stores_queue *queue)
{
    if (queue == NULL)
        return;
    ASSERT_ALWAYS(queue->in_flight == 0);
    if (queue->is_ring)
        io_uring_queue_exit(&queue->ring);
    free(queue->flights);
    free(queue);
}

uint64_t stores_queue_answered_ns(const struct stores_queue *queue)
{
    return sync_load_relaxed_64(&queue->answered_ns);
}

bool stores_queue_is_ring(const struct stores_queue *queue)
{
    return queue->is_ring;
}

/* Time that stands still inside the filter. */
static uint64_t device_clock_ns(const struct stores_queue *queue)
{
    return os_clock_ns() - queue->filter_ns;
}

/*
 * Asks the filter and makes the write a flight, ready to be issued. NULL, with the write's error set, if the filter
 * says no. There must be a free flight.
 */
static struct flight *flight_begin(struct stores_queue *queue, struct stores_write *write)
{
    const struct stores *const stores = queue->stores;
    struct flight *const flight = queue->free_flights;

    transfer_begin(&flight->transfer, stores, write->first, write->pages, write->count);
    struct load *const load = &queue->loads[write->first.file];
    if (stores->filter != NULL) {
        const uint64_t begin = os_clock_ns();
        write->error =
            stores->filter(stores->filter_context, TIDE_IO_WRITE, write->first.file, write->first.slot, write->count);
        const uint64_t spent = os_clock_ns() - begin;
        queue->filter_ns += spent;
        if (write->error != 0) {
            sync_store_relaxed_64(&queue->answered_ns, begin + spent);
            return NULL;
        }
        load->busy_ns += spent;
    }
    queue->free_flights = flight->next_free;
    flight->write = write;
    flight->sequence = UINT64_MAX;
    if (load->in_flight++ == 0)
        load->since_ns = device_clock_ns(queue);
    queue->in_flight++;
    return flight;
}

static void flight_end(struct stores_queue *queue, struct flight *flight, int error)
{
    struct stores_write *const write = flight->write;
    struct load *const load = &queue->loads[write->first.file];

    sync_store_relaxed_64(&queue->answered_ns, os_clock_ns());
    if (--load->in_flight == 0)
        load->busy_ns += device_clock_ns(queue) - load->since_ns;
    if (error == 0)
        load->pages += write->count;
    flight->write = NULL;
    flight->next_free = queue->free_flights;
    queue->free_flights = flight;
    queue->in_flight--;
    write->error = error;
}

/* Does what is left of a flight on this thread. */
static void flight_finish(struct stores_queue *queue, struct flight *flight)
{
    int error;

    while (!transfer_advance(&flight->transfer, transfer_write(&flight->transfer), &error))
        continue;
    flight_end(queue, flight, error);
}

/* ---- ring ------------------------------------------------------------------------------------------------------- */

static void pause_1ms(void)
{
    const struct timespec pause = { .tv_nsec = 1000000 };

    (void)nanosleep(&pause, NULL);
}

/* Puts what is left of a flight into the submission ring, which has room for every flight. */
static void ring_prepare(struct stores_queue *queue, struct flight *flight)
{
    const struct transfer *const transfer = &flight->transfer;
    const struct iovec *const pieces = &transfer->pieces[transfer->first];
    const unsigned count = transfer->count - transfer->first;
    struct io_uring_sqe *const entry = io_uring_get_sqe(&queue->ring);

    ASSERT_ALWAYS(entry != NULL);
    if (count == 1)
        io_uring_prep_write(entry, transfer->fd, pieces->iov_base, (unsigned)pieces->iov_len,
                            (uint64_t)transfer->offset);
    else
        io_uring_prep_writev(entry, transfer->fd, pieces, count, (uint64_t)transfer->offset);
    io_uring_sqe_set_data(entry, flight);
    flight->sequence = queue->prepared++;
}

/*
 * Takes in the completions that are there. What is not done yet goes back into the ring, or without `again` waits
 * outside.
 */
static unsigned ring_reap(struct stores_queue *queue, bool again)
{
    struct io_uring_cqe *completions[REAP_MAX];
    const unsigned count = io_uring_peek_batch_cqe(&queue->ring, completions, REAP_MAX);
    int error;

    for (unsigned i = 0; i < count; i++) {
        struct flight *const flight = io_uring_cqe_get_data(completions[i]);
        flight->sequence = UINT64_MAX;
        if (transfer_advance(&flight->transfer, completions[i]->res, &error))
            flight_end(queue, flight, error);
        else if (again)
            ring_prepare(queue, flight);
    }
    io_uring_cq_advance(&queue->ring, count);
    return count;
}

/*
 * Submits what is prepared and waits until so many, of what is in flight, have completed. False if the ring cannot be
 * used any more: an error that does not pass, or that has not passed for a second.
 */
static bool ring_turn(struct stores_queue *queue, unsigned completions)
{
    unsigned stalls = 0;

    for (;;) {
        const int taken = io_uring_submit_and_wait(&queue->ring, completions);
        const bool refused = taken == -EAGAIN || taken == -EBUSY; /* for want of kernel memory, or of reaping */
        if (taken < 0 && taken != -EINTR && !refused)
            return false;
        if (taken > 0)
            queue->submitted += (unsigned)taken;
        if (ring_reap(queue, true) != 0)
            return true;
        if (refused) {
            if (++stalls == RING_STALLS_MAX)
                return false;
            pause_1ms();
        }
    }
}

static bool ring_has_submitted(const struct stores_queue *queue)
{
    for (unsigned i = 0; i < queue->depth; i++)
        if (queue->flights[i].write != NULL && queue->flights[i].sequence < queue->submitted)
            return true;
    return false;
}

/*
 * Gives the ring up. The kernel completes what it took, whether or not it takes calls on the ring, and must be waited
 * for: closing the ring does not stop a write that is on its way to the disk. The rest is done here.
 */
static void ring_abandon(struct stores_queue *queue)
{
    while (ring_has_submitted(queue))
        if (ring_reap(queue, false) == 0)
            pause_1ms();
    io_uring_queue_exit(&queue->ring);
    queue->is_ring = false;
    for (unsigned i = 0; i < queue->depth; i++)
        if (queue->flights[i].write != NULL)
            flight_finish(queue, &queue->flights[i]);
}

/* Writes by the ring. Returns how many writes are done: all, unless the ring was given up. */
static unsigned ring_write(struct stores_queue *queue, struct stores_write *const *writes, unsigned count)
{
    unsigned next = 0;

    while (next < count || queue->in_flight > 0) {
        while (next < count && queue->in_flight < queue->depth) {
            struct flight *const flight = flight_begin(queue, writes[next++]);
            if (flight != NULL)
                ring_prepare(queue, flight);
        }
        /* Woken once for several: to refill a quarter, or when all is done. */
        const unsigned completions = next == count ? queue->in_flight : (queue->depth + 3) / 4;
        if (queue->in_flight > 0 && !ring_turn(queue, completions)) {
            ring_abandon(queue);
            break;
        }
    }
    return next;
}

void stores_queue_write(struct stores_queue *queue, struct stores_write *const *writes, unsigned count)
{
    unsigned done = 0;

    sync_assert_unlocked();
    memset(queue->loads, 0, sizeof queue->loads);
    if (queue->is_ring)
        done = ring_write(queue, writes, count);
    for (; done < count; done++) {
        struct flight *const flight = flight_begin(queue, writes[done]);
        if (flight != NULL)
            flight_finish(queue, flight);
    }
    ASSERT_ALWAYS(queue->in_flight == 0);
    for (unsigned i = 0; i < queue->stores->file_count; i++)
        if (queue->loads[i].pages != 0)
            stores_speed_note(queue->stores, i, queue->loads[i].pages, queue->loads[i].busy_ns);
    uint32_t failed = 0, written = 0; /* bits by file */
    for (unsigned i = 0; i < count; i++) {
        struct store *const store = &queue->stores->files[writes[i]->first.file];
        (void)sync_add_64(&store->io.writes, 1);
        if (writes[i]->error != 0) {
            failed |= 1u << writes[i]->first.file;
            continue;
        }
        written |= 1u << writes[i]->first.file;
        (void)sync_add_64(&store->io.pages_output, writes[i]->count);
    }
    for (unsigned i = 0; i < queue->stores->file_count; i++)
        if ((failed & ~written & 1u << i) != 0)
            stores_failure_note(queue->stores, i);
}

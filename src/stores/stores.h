/*
 * Stores: where pages go when they leave memory. Here: page files (nt-behaviour 14.2). Up to 16 real files, created,
 * locked, sized and removed by the engine. Slot 0 of a file is its header and never given out, so a PTE that names a
 * slot cannot look like demand zero.
 *
 * Slots. A slot is given when a page is written (not at commit) and released on the first new write, on decommit and on
 * release of the address. Slot maps are bitmaps in groups of 65,536 slots, each with its own lock (rank slot_group) and
 * a next-fit hint; runs of consecutive slots are searched for so that clusters are written and read in one I/O.
 *
 * Reservation. Pages that adjoin in virtual address form windows. The first page of a window that is written gets a
 * block of slots for the whole window: its own slot is allocated, the others are reserved, so that the neighbours find
 * theirs whenever they are written (stores_window_allocate). Reserved slots are given to others when nothing else is
 * left.
 *
 * Size. Each file has a minimum, which it has from open to close, and a maximum. One thread at a time may grow a file,
 * or cut unused slots off its end, beside everything else that goes on (stores_file_grow, stores_file_cut).
 *
 * I/O. Synchronous reads on the faulting thread, several at once by one of a few rings; writes in batches by one io_uring
 * per lane of a writer, O_DIRECT, with pwritev where either is missing. Every I/O first asks the filter (tide_io_filter). No lock is held during I/O.
 *
 * All calls are thread-safe unless they say otherwise.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STORES_STORES_H
#define STORES_STORES_H

#include <pagetide/engine.h>

#include <sys/uio.h>

enum { STORES_CLUSTER_MAX = 64 }; /* most pages of one I/O */

struct stores;

struct stores_options {
    const tide_page_file_config *files;
    unsigned file_count;
    tide_io_filter *filter;
    void *filter_context;
    bool disable_io_uring;
    bool disable_direct_io;
    unsigned window_pages; /* pages of a window, 1 to STORES_CLUSTER_MAX; 0: 16 */
};

/* A slot of a page file. slot 0 means "none". */
struct stores_slot {
    unsigned file;
    uint32_t slot;
};

struct stores_statistics {
    uint64_t total_slots; /* usable, headers excluded */
    uint64_t used_slots;
    uint64_t bad_slots;
    uint64_t peak_used_slots; /* most at once, summed over the files */
    uint64_t reserved_slots;
};

/* One file. Slots without the header. */
struct stores_file_statistics {
    uint64_t slots, minimum_slots, maximum_slots;
    uint64_t used_slots, peak_used_slots, reserved_slots, bad_slots;
    uint64_t reads, writes;             /* operations, failed ones included */
    uint64_t pages_input, pages_output; /* without errors */
};

/*
 * Creates all page files or none. Errors as tide_engine_open() documents; messages name the path, the value and the
 * limit. A path that exists: a page file of a living engine (locked) is TIDE_SHARING_VIOLATION; a page file left by a
 * dead engine (header magic, not locked) is taken over; an empty file is taken; anything else is
 * TIDE_OBJECT_NAME_COLLISION and is not touched. On failure, files that this call created are removed again. Space is
 * really allocated (fallocate), so a full disk is found here: TIDE_DISK_FULL.
 */
TIDE_MUST_CHECK tide_status stores_create(const struct stores_options *options, struct stores **stores);
void stores_destroy(struct stores *stores); /* closes and removes the files; NULL is allowed */

unsigned stores_file_count(const struct stores *stores);
/* Pages that the files can hold now (headers excluded); what they add to the commit limit. */
uint64_t stores_capacity_pages(const struct stores *stores);
/* The same with every file at its maximum. */
uint64_t stores_maximum_pages(const struct stores *stores);
void stores_statistics_get(struct stores *stores, struct stores_statistics *statistics);
/* `file` is one of stores_file_count(). */
void stores_file_statistics_get(struct stores *stores, unsigned file, struct stores_file_statistics *statistics);
/* Only slots, minimum_slots and maximum_slots. */
void stores_file_size(const struct stores *stores, unsigned file, struct stores_file_statistics *statistics);
/* Verification: whether the slot maps are sound in themselves. No other thread is in the stores. */
bool stores_check(struct stores *stores);

/*
 * Allocates a run of up to `wanted` consecutive slots of one file (at least 1). The longest run near the hint is taken;
 * the result may be shorter than wanted, and the caller asks again for the rest. Returns the count, 0 if all files are
 * full. Files are chosen so that the one which completes writes faster gets more (nt-behaviour 14.2 rule 3). Reserved
 * slots are given out only when no file has others. No file of `closed` (bits by file) is chosen.
 */
unsigned stores_slots_allocate(struct stores *stores, unsigned wanted, uint32_t closed, struct stores_slot *first);
/*
 * The same for pages `position` to `position` + `wanted` - 1 of a window: takes a block for the window, and reserves
 * the slots of the window's other pages in it. Where the chosen file has no free block, just the slots.
 */
unsigned stores_window_allocate(struct stores *stores, unsigned position, unsigned wanted, uint32_t closed,
                                struct stores_slot *first);
/*
 * The slots for the same pages, if another page of the window has one: page `position` + `distance` has `neighbour`.
 * Returns how many of the slots that lie where they should are to be had, from the first on; 0 if that one is not,
 * or if the file is one of `closed`. `neighbour` may be out of date, or anything.
 */
unsigned stores_window_join(struct stores *stores, unsigned position, unsigned wanted, struct stores_slot neighbour,
                            int distance, uint32_t closed, struct stores_slot *first);
/* Nobody names the slot any more. It may take until the next flush before its map knows: see released.c. */
void stores_slot_release(struct stores *stores, struct stores_slot slot);
/* Brings all released slots into their maps. Statistics and an allocation that finds no room do so themselves. */
void stores_released_flush(struct stores *stores);
/*
 * A slot that could not be written: never given out again; counted in bad_slots, not in used_slots. The slot must be
 * allocated.
 */
void stores_slot_mark_bad(struct stores *stores, struct stores_slot slot);
/* Verification: is the slot allocated now? (bad and header slots are not) */
bool stores_slot_allocated(struct stores *stores, struct stores_slot slot);

/*
 * Reads consecutive slots into page-aligned pages on the calling thread. Returns 0 or an errno (EIO for a short read).
 * One read operation.
 */
int stores_read(struct stores *stores, struct stores_slot first, const struct iovec *pages, unsigned count);
/* The same, not counted: for verification. */
int stores_peek(struct stores *stores, struct stores_slot first, const struct iovec *pages, unsigned count);

/* ---- size: all of these one thread at a time; I/O, so no lock is held ------------------------------------------- */

/*
 * Makes a file `pages` larger; it stays within its maximum. The new slots can be allocated when this returns: the space
 * on disk is allocated first. TIDE_DISK_FULL or TIDE_IO_ERROR, and nothing has changed.
 */
TIDE_MUST_CHECK tide_status stores_file_grow(struct stores *stores, unsigned file, uint64_t pages);
/*
 * How many slots could be cut off a file's end now, at most `most` and down to its minimum: those after the last
 * allocated one. *bad: of these, how many are bad.
 */
uint64_t stores_file_tail(struct stores *stores, unsigned file, uint64_t most, uint64_t *bad);
/* Cuts them off, as many as are still free, and gives the space back. Returns how many went. */
uint64_t stores_file_cut(struct stores *stores, unsigned file, uint64_t most, uint64_t *bad);

/* ---- several reads at the same time: reads.c -------------------------------------------------------------------- */

/* One clustered read of several. */
struct stores_request {
    struct stores_slot first;
    unsigned count;                         /* pages, 1 .. STORES_CLUSTER_MAX */
    struct iovec pages[STORES_CLUSTER_MAX]; /* one page each */
    int error;                              /* set at completion: 0 or an errno */
    struct stores_request *next;            /* of the stores while the read is under way */
};
struct stores_request_list {
    struct stores_request *first, *last; /* `last` counts if there is a first */
};
enum { STORES_READS_MAX = 16 }; /* at the same time; more may be added, and begin when others are over */

/* Reads under way, of one thread; to be looked at by reads.c alone. It holds no memory but a ring. */
struct stores_reads {
    struct stores *stores;
    struct reads_ring *ring;             /* held from the first two reads to the end; NULL: none */
    bool no_ring;                        /* there was none to be had */
    bool refused;                        /* it takes nothing any more */
    unsigned in_ring;                    /* reads in it, prepared or under way */
    struct stores_request_list added;    /* not begun */
    struct stores_request_list prepared; /* in the ring, and not taken by the kernel */
    struct stores_request_list over;
    struct stores_request_list alone; /* to be read without the ring */
};
void stores_reads_begin(struct stores *stores, struct stores_reads *reads);
/* The read is begun by stores_reads_next() at the latest; the request stays where it is until that has given it back. */
void stores_reads_add(struct stores_reads *reads, struct stores_request *request);
/*
 * Begins what was added, as far as it can be read at the same time, and waits for one read, whichever is over first. Gives back
 * its request, with the error that stores_read() would have returned; NULL if there is none.
 */
struct stores_request *stores_reads_next(struct stores_reads *reads);
/* All requests were given back. */
void stores_reads_end(struct stores_reads *reads);

/* Each as stores_read(), all at the same time where that can be, and waits for all. */
void stores_read_many(struct stores *stores, struct stores_request *requests, unsigned count);
/* Are they read at the same time? Not without io_uring, as far as is known. */
bool stores_reads_overlap(const struct stores *stores);

/* ---- batched writes --------------------------------------------------------------------------------------------- */

/* One clustered write. `error` is set at completion: 0 or an errno. */
struct stores_write {
    struct stores_slot first;
    unsigned count;                         /* pages, 1 .. STORES_CLUSTER_MAX */
    struct iovec pages[STORES_CLUSTER_MAX]; /* one page each; neighbours in memory become one piece */
    int error;
};

/* A writer's queue: owned by one thread at a time. */
struct stores_queue;
TIDE_MUST_CHECK tide_status stores_queue_create(struct stores *stores, unsigned depth, struct stores_queue **queue);
void stores_queue_destroy(struct stores_queue *queue);
/*
 * Issues all writes and waits for all, at most `depth` in flight. They are begun in their order: a file that does not answer
 * keeps those behind its own, whatever their file, so the writer has a queue for each file. Each write's error is set. Measures each file's speed
 * for stores_slots_allocate(). Without io_uring the writes are done one after the other with pwritev.
 */
void stores_queue_write(struct stores_queue *queue, struct stores_write *const *writes, unsigned count);
/* When a write of the queue was last over, well or not, by os_clock_ns(); 0: none has been. Any thread. */
uint64_t stores_queue_answered_ns(const struct stores_queue *queue);
/* Whether the queue uses io_uring (for statistics and tests). */
bool stores_queue_is_ring(const struct stores_queue *queue);

#endif

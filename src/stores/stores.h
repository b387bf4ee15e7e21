/*
 * Stores: where pages go when they leave memory. Here: page files (nt-behaviour 14.2). Up to 16 real files, created,
 * locked, sized and removed by the engine. Slot 0 of a file is its header and never given out, so a PTE that names a
 * slot cannot look like demand zero.
 *
 * Slots. A slot is given when a page is written (not at commit) and released on the first new write, on decommit and on
 * release of the address. Slot maps are bitmaps in groups of 65,536 slots, each with its own lock (rank slot_group) and
 * a next-fit hint; runs of consecutive slots are searched for so that clusters are written and read in one I/O.
 *
 * I/O. Synchronous reads on the faulting thread; writes in batches by one io_uring per writer, O_DIRECT, with
 * pwritev where either is missing. Every I/O first asks the filter (tide_io_filter). No lock is held during I/O.
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
void stores_statistics_get(struct stores *stores, struct stores_statistics *statistics);

/*
 * Allocates a run of up to `wanted` consecutive slots of one file (at least 1). The longest run near the hint is taken;
 * the result may be shorter than wanted, and the caller asks again for the rest. Returns the count, 0 if all files are
 * full. Files are chosen so that the one which completes writes faster gets more (nt-behaviour 14.2 rule 3).
 */
unsigned stores_slots_allocate(struct stores *stores, unsigned wanted, struct stores_slot *first);
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

/* ---- batched writes --------------------------------------------------------------------------------------------- */

/* One clustered write. `error` is set at completion: 0 or an errno. */
struct stores_write {
    struct stores_slot first;
    unsigned count;                         /* pages, 1 .. STORES_CLUSTER_MAX */
    struct iovec pages[STORES_CLUSTER_MAX]; /* one page each; neighbours in memory become one piece */
    int error;
    void *owner; /* the caller's */
};

/* A writer's queue: owned by one thread at a time. */
struct stores_queue;
TIDE_MUST_CHECK tide_status stores_queue_create(struct stores *stores, unsigned depth, struct stores_queue **queue);
void stores_queue_destroy(struct stores_queue *queue);
/*
 * Issues all writes and waits for all, at most `depth` in flight. Each write's error is set. Measures each file's speed
 * for stores_slots_allocate(). Without io_uring the writes are done one after the other with pwritev.
 */
void stores_queue_write(struct stores_queue *queue, struct stores_write *const *writes, unsigned count);
/* Whether the queue uses io_uring (for statistics and tests). */
bool stores_queue_is_ring(const struct stores_queue *queue);

#endif

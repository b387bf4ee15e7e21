/*
 * A memory partition (NT's MI_PARTITION): everything that would be global in a memory manager with one instance -
 * frames, stores, commit, waits, the list of spaces - in one structure, so that a process can hold many engines.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_PARTITION_H
#define SPACES_PARTITION_H

#include "frames/frames.h"
#include "spaces/commit.h"
#include "spaces/placement.h"
#include "stores/stores.h"
#include "tables/page_table.h"
#include "topology/topology.h"

/* What destroyed spaces counted, and what is counted once for all. */
enum space_counter {
    SPACE_DEMAND_ZERO,
    SPACE_STANDBY,
    SPACE_MODIFIED,
    SPACE_WRITE_IN_PROGRESS,
    SPACE_HARD,
    SPACE_COLLIDED,
    SPACE_REMOTE,  /* faults resolved with a frame of another node than the preferred one */
    SPACE_REMOVED, /* pages that left the working set */
    SPACE_TRIMMED, /* of these, by trim or replacement, not by deletion */
    SPACE_VIOLATIONS,
    SPACE_IN_PAGE_ERRORS,
    SPACE_GUARD_HITS,        /* accesses to guard pages, stacks that grew included */
    SPACE_HARDWARE_FAULTS,   /* of a mapped space */
    SPACE_HARDWARE_FAULT_NS, /* time spent in these */
    SPACE_COUNTER_COUNT = 16
};

struct space_counters {
    uint64_t values[SPACE_COUNTER_COUNT]; /* [A] */
} SYNC_CACHE_ALIGNED;

struct partition;

/*
 * Called by a thread that found no frame, outside of the engine, holding nothing. In an engine without threads it
 * does the trimmer's and the writer's work at once; else it wakes them. True if frames may have come free, so that
 * the caller should look again before it sleeps. For this place's node first; if the place is strict, for that node
 * alone, and at once in any engine (unless its workers are held), so that false says that they brought nothing.
 */
typedef bool partition_reclaim(struct partition *partition, struct grace_thread *thread, struct frames_place place);

/*
 * Called by a thread whose charge of `pages` did not fit under the commit limit, holding nothing: makes the page files
 * grow, and waits for that (nt-behaviour 16 rule 4). The engine is left meanwhile, so whatever was looked up is void.
 * True if the charge fits now, so that the caller should try again; false if it cannot be made to.
 */
typedef bool partition_extend(struct partition *partition, struct grace_thread *thread, uint64_t pages);

/*
 * Settles what became known of bad frames (frames_bad_changed()). Called by a thread outside of the engine, holding
 * nothing; stops the world.
 */
typedef void partition_bad_settle(struct partition *partition);

/*
 * So many pages in memory side by side, before a page or behind it, are the track of a scan. Fewer may be chance where
 * pages are touched at random.
 */
enum { PAGE_TRACK_LEAST = 3 };

struct partition {
    struct topology *topology; /* [I] */
    struct frames *frames;     /* [I] */
    struct stores *stores;     /* [I] */
    struct pte_waits *waits;   /* [I] */
    struct commit commit;
    partition_reclaim *reclaim;  /* [I] */
    partition_extend *extend;    /* [I] */
    struct frames_bell extender; /* rung when the charge comes near the limit (commit.c), and for want of slots */
    uint32_t slots_short;        /* [A] a writer found no slot since the extender looked last */
    struct interleave interleave;
    struct node_pairs pairs;
    uint64_t aslr_seed;            /* [I] of the spaces' random starts; 0: none */
    unsigned cluster_pages;        /* [I] */
    bool keep_page_order;          /* [I] lone pages too are written beside their neighbours */
    uint64_t frame_wait_ns;        /* [I] */
    uint64_t resident_limit;       /* [A] frames that locked pages, large pages and page tables may have together */
    uint64_t resident_pages;       /* [A] locked pages, those that have a quota (lock.c), and pages of large pages */
    struct sync_lock lock;         /* rank engine */
    tide_space *spaces;            /* [L:engine] */
    uint64_t space_count;          /* [L:engine] */
    uint64_t next_space_id;        /* [L:engine] */
    uint64_t hard_minimum_pages;   /* [L:engine] sum over the spaces that have a hard minimum */
    uint32_t priorities_used;      /* [A] some page may have another priority than the normal one; never taken back */
    struct space_counters retired; /* [L:engine] of destroyed spaces */
    uint64_t retired_resolved[TIDE_MAX_NODES]; /* [L:engine] the faults that these resolved, by node of the CPU */

    partition_bad_settle *bad_settle; /* [I] */
    uint64_t bad_frames_lowered;      /* [A] by how much the limits were lowered for bad frames */
    uint64_t bad_pages_lost;          /* [A] pages whose content went with bad memory */
    struct {
        uint64_t pages_input, page_reads, pages_output, page_writes, read_errors, write_errors,
            pages_prefetched;    /* [A] I/O paths only */
        uint64_t scan_reads;     /* [A] of page_reads: in the track of a scan, or of a range that was asked for */
        uint64_t pages_together; /* [A] of pages_output: lone pages, written together */
    } io SYNC_CACHE_ALIGNED;
};

/* The node that a thread counts as running on. */
static inline unsigned partition_thread_node(const struct partition *partition, const struct grace_thread *thread)
{
    return __builtin_expect(thread->ideal_node != 0, 0) ? thread->ideal_node - 1
                                                        : topology_cpu_node(partition->topology, os_cpu_current());
}

/* From time to time: brings the descriptors of all memory events in line with what is true now. Holds no lock. */
static inline void partition_events_look(struct partition *partition)
{
    frames_events_look(partition->frames);
    commit_events_look(&partition->commit);
}

#endif

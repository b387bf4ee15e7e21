/*
 * The workers: one zero-page thread, modified-page writer and working-set trimmer per node (nt-behaviour 12, 14.1,
 * 15.2), and one page-file extender for all nodes (14.2), which counts as node 0's.
 *
 * Each policy is a step: one bounded unit of work on one node, a function of the partition's state and a clock. The
 * threads are short loops around the steps; tests, and engines without threads, call the steps themselves. One step
 * of one worker on one node runs at a time (rank worker), so a step may be called beside the threads. A worker never
 * resolves a fault.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORKERS_WORKERS_H
#define WORKERS_WORKERS_H

#include "spaces/space.h"

#include <pthread.h>

struct workers;
struct trimmer_candidate;
struct writer_lane;
struct idle; /* idle.h */

struct worker {
    struct workers *workers;   /* [I] */
    tide_worker kind;          /* [I] */
    unsigned node;             /* [I] */
    struct sync_lock lock;     /* rank worker: one step at a time */
    struct writer_lane *lanes; /* [I] the writer's, by page file (lanes.h) */
    unsigned lane_count;       /* [I] */
    struct sync_event written; /* moves when a lane's thread is done */
    struct {
        uint64_t all, scans;              /* page reads when the writer looked last */
        bool random;                      /* they were mostly of pages touched at random */
    } reads;                              /* [L:worker] the writer's */
    void *scratch;                        /* [L:worker] what a step needs and a signal's stack may not have room for */
    size_t scratch_bytes;                 /* [I] */
    uint64_t last_ageing_ns;              /* [L:worker] the trimmer's */
    struct trimmer_candidate *candidates; /* [L:worker] the trimmer's: spaces in the order of their claims */
    uint64_t candidate_capacity;          /* [L:worker] */
    uint64_t trimmed_since_ageing;        /* [L:worker] the trimmer's: pages */
    uint64_t cpu_ns;                      /* [A] CPU time of all its steps */
    struct grace_thread *record;          /* [I] the thread's, if there are threads */
    pthread_t thread;                     /* [I] if there are threads */
    bool started;                         /* [I] */
    struct idle *idle;                    /* [I] the zero-page thread's, if there are threads */
    uint32_t begun; /* [A] the zero-page thread's: it has begun, and not seen the list empty since */
} SYNC_CACHE_ALIGNED;

/* The extender's; extender.c. */
struct extender {
    struct {
        uint64_t retry_ns;   /* [A] written under the worker's lock: not before, unless somebody is in need */
        uint64_t backoff_ns; /* [L:worker] how long to wait after the last failure; 0: it did not fail */
    } files[TIDE_MAX_PAGE_FILES];
    uint64_t low_since_ns;                  /* [A] written under the lock: since when files could be cut; UINT64_MAX */
    uint64_t extensions, failures, shrinks; /* [A] */
};

struct workers {
    struct partition *partition;      /* [I] */
    tide_worker_mode mode;            /* [I] */
    unsigned node_count;              /* [I] */
    uint64_t period_ns;               /* [I] of ageing */
    uint64_t growth_pages;            /* [I] the extender's step, 0 for its default */
    uint64_t shrink_delay_ns;         /* [I] how long the charge stays low before files are cut */
    uint64_t virtual_ns;              /* [A] the clock of an engine without threads */
    uint32_t stop;                    /* [A] */
    uint32_t held[TIDE_WORKER_COUNT]; /* [A] */
    struct extender extender;
    struct worker *workers; /* [I] node_count x TIDE_WORKER_COUNT; of the extenders the first one alone is used */
};

TIDE_MUST_CHECK tide_status workers_create(struct partition *partition, const tide_config *config,
                                           struct workers **workers);
/* Starts the threads, if the mode has any. On failure workers_destroy() stops those that were started. */
TIDE_MUST_CHECK tide_status workers_start(struct workers *workers);
/* Stops the threads and frees everything; NULL is allowed. */
void workers_destroy(struct workers *workers);

static inline struct worker *workers_get(const struct workers *workers, tide_worker kind, unsigned node)
{
    return &workers->workers[(kind == TIDE_WORKER_EXTENDER ? 0 : node) * TIDE_WORKER_COUNT + (unsigned)kind];
}

/* Holds a kind or lets it go on; returns when no step of a thread runs. */
void workers_hold(struct workers *workers, tide_worker kind, bool hold);
uint64_t workers_clock_ns(const struct workers *workers);
uint64_t workers_cpu_ns(const struct workers *workers, tide_worker kind);

enum worker_occasion {
    WORKER_FORCED, /* what could be done: the writer writes whatever is modified */
    WORKER_DUE,    /* what the policy asks for now */
    WORKER_THREAD  /* the same, if the worker is not held */
};
/*
 * Runs one step on the calling thread, which is outside of the engine. Returns the pages handled; *error is set to
 * the errno of a write that failed.
 */
uint64_t worker_run(struct worker *worker, struct grace_thread *thread, uint64_t budget, enum worker_occasion occasion,
                    int *error);

/*
 * Waits until something is written of what a node's writer has left under way, for as long as its page file goes on
 * writing: true if another step has something to take in. The calling thread is outside of the engine.
 */
bool workers_write_wait(struct workers *workers, unsigned node);

/*
 * For partition.extend. A charge of so many pages was refused: makes the page files larger until it fits. True if the
 * charge should be tried again; false if it cannot be made to fit now.
 */
bool workers_extend(struct workers *workers, struct grace_thread *thread, uint64_t pages);

/*
 * What is under write although no step runs, since its page file does not answer: calls `see` for each page and the
 * slot that it goes to. The world is stopped.
 */
typedef void workers_see_write(void *context, frame_t frame, struct stores_slot slot);
void workers_under_write(const struct workers *workers, workers_see_write *see, void *context);

/* For partition.reclaim. */
bool workers_reclaim(struct workers *workers, struct grace_thread *thread, struct frames_place place);

#endif

/*
 * Lanes of the modified-page writer: one for each page file; lanes.c says why. Inside workers/. Unless it says
 * otherwise a call is the writer's, with the worker's lock held.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORKERS_LANES_H
#define WORKERS_LANES_H

#include "workers/workers.h"

/*
 * Of one batch. Pages that lie alone are a write each, and a batch has enough of those to keep a disk busy; its pages
 * are few enough that copies of them do not matter beside any budget.
 */
enum { WRITER_BATCH_WRITES = 128, WRITER_BATCH_PAGES = 512 };

/* Modified pages that go to adjoining slots: neighbours in virtual address, or lone pages (window NULL). */
struct writer_run {
    frame_t frames[STORES_CLUSTER_MAX];
    unsigned count;
    const uint64_t *window;         /* PTE of the first page of the window */
    unsigned position;              /* of the run's first page in it */
    int errors[STORES_CLUSTER_MAX]; /* by page, once it is written: 0 or an errno */
};

struct writer_batch {
    struct stores_write writes[WRITER_BATCH_WRITES]; /* all to one file */
    struct writer_run runs[WRITER_BATCH_WRITES];     /* what each write writes */
    unsigned count;                                  /* of writes */
    unsigned pages;                                  /* in them */
    bool dead; /* once it is written: the file is to blame for what failed, and not the slots */
};

enum lane_state {
    LANE_IDLE, /* the writer fills the batch */
    LANE_BUSY, /* the lane's thread writes it; to be read by others, but for errors */
    LANE_DONE  /* the writer takes in what became of it */
};

struct writer_lane {
    struct worker *worker;      /* [I] */
    unsigned file;              /* [I] */
    struct stores_queue *queue; /* [I] used by who writes the batch */
    struct writer_batch *batch; /* [I] its content belongs as `state` says */
    char *copies;               /* [I] the same, WRITER_BATCH_PAGES pages: of those that have no memory in the arena */
    uint64_t begun_ns;          /* [A] written before the lane is BUSY; os_clock_ns() */
    uint32_t state;             /* [A] enum lane_state */
    uint32_t stop;              /* [A] */
    struct sync_event begin;    /* moves when there is a batch to write, or `stop` */
    pthread_t thread;           /* [I] */
    bool started;               /* [I] the lane has a thread */
};

/* One for each page file, without threads yet. On failure lanes_destroy() frees what there is. One thread at a time. */
TIDE_MUST_CHECK tide_status lanes_create(struct worker *worker);
/* A thread for each. On failure lanes_destroy() stops those that were started. */
TIDE_MUST_CHECK tide_status lanes_start(struct worker *worker);
/* The writer's steps have ended. Waits for every write that is under way, however long it takes. */
void lanes_destroy(struct worker *worker);

bool lane_is_idle(const struct writer_lane *lane);
bool lane_is_done(const struct writer_lane *lane);
/* Busy, and nothing of it has been written for so long that nobody should count on its file. Any thread, no lock. */
bool lane_is_overdue(const struct writer_lane *lane);
/* Writes the batch of an idle lane: it is done when this returns, or some time later. */
void lane_start(struct writer_lane *lane);
/* The batch of a lane that is done has been looked through: idle again. */
void lane_taken_in(struct writer_lane *lane);
/* How long to wait for lanes that are busy. */
enum lanes_patience {
    LANES_STEP,     /* 100 ms from the lane's start: so long does a step wait */
    LANES_ANSWERING /* as long as the file goes on writing what it was given, and not a second without */
};
/*
 * Waits until a lane is done; false if none is busy, or none that is worth the wait. It waits for I/O. With
 * LANES_ANSWERING any thread may, outside of the engine and without the lock.
 */
bool lanes_wait(struct worker *worker, enum lanes_patience patience);
/* workers_under_write(), for one writer. */
void lanes_under_write(const struct worker *worker, workers_see_write *see, void *context);
/* Is a lane done? Any thread, no lock. */
bool lanes_have_news(const struct worker *worker);

#endif

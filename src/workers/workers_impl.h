/*
 * Inside workers/: the policies. Each is called with the worker's lock held, inside the engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORKERS_WORKERS_IMPL_H
#define WORKERS_WORKERS_IMPL_H

#include "workers/workers.h"

/*
 * Of one batch of the writer. Pages that lie alone are a write each, and a batch has enough of those to keep a disk
 * busy; its pages are few enough that copies of them do not matter beside any budget.
 */
enum { WRITER_BATCH_WRITES = 128, WRITER_BATCH_PAGES = 512, WRITER_QUEUE_DEPTH = 64 };
#define WRITER_COPIES_BYTES ((size_t)WRITER_BATCH_PAGES * TIDE_PAGE_BYTES)

/* Is there something to do for the policy? Lock-free; also asked by a worker that is about to sleep. */
bool zero_page_due(const struct worker *worker);
bool writer_due(const struct worker *worker);
bool trimmer_due(const struct worker *worker);
bool extender_due(const struct worker *worker);

/* What the writer's and the trimmer's steps have in worker->scratch. */
extern const size_t writer_scratch_bytes, trimmer_scratch_bytes;

uint64_t zero_page_step(struct worker *worker, uint64_t budget);
uint64_t writer_step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error);
void trimmer_candidates_free(struct worker *worker);
uint64_t trimmer_step(struct worker *worker, uint64_t budget);
uint64_t extender_step(struct worker *worker, struct grace_thread *thread, uint64_t budget);

#endif

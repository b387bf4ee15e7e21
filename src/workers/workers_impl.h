/*
 * Inside workers/: the policies. Each is called with the worker's lock held, inside the engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORKERS_WORKERS_IMPL_H
#define WORKERS_WORKERS_IMPL_H

#include "workers/workers.h"

/* Is there something to do for the policy? Lock-free; also asked by a worker that is about to sleep. */
bool zero_page_due(const struct worker *worker);
bool writer_due(const struct worker *worker);
bool trimmer_due(const struct worker *worker);
bool extender_due(const struct worker *worker);

/* What the trimmer's steps have in worker->scratch. */
extern const size_t trimmer_scratch_bytes;

/* Page files whose writes are overdue at one node or more, bits by file: better not grown or cut now. Lock-free. */
uint32_t workers_files_overdue(const struct workers *workers);

uint64_t zero_page_step(struct worker *worker, uint64_t budget);
uint64_t writer_step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error);
void trimmer_candidates_free(struct worker *worker);
uint64_t trimmer_step(struct worker *worker, uint64_t budget);
uint64_t extender_step(struct worker *worker, struct grace_thread *thread, uint64_t budget);

#endif

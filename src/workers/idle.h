/*
 * Asking whether a CPU is idle.
 *
 * A thread at idle priority runs when its CPU has nothing better to do; on a busy machine it may not run for seconds.
 * So it must not hold a lock, or pages, or anything else that others may wait for; and without privileges a thread that
 * has taken idle priority cannot leave it for the while that it holds something. Hence this one, which holds nothing
 * and does nothing but answer. Whoever has work for idle times asks it, waits for the answer, and does a bounded piece
 * of the work at ordinary priority.
 *
 * Not even its end is waited for: it owns a share of what it uses, and goes when it comes to run again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef WORKERS_IDLE_H
#define WORKERS_IDLE_H

#include "topology/topology.h"

struct idle;

/* Starts the thread, on the CPUs of a node. An error number, or 0. */
TIDE_MUST_CHECK int idle_start(const struct topology *topology, unsigned node, struct idle **idle);
/* Tells the thread to end. Nobody waits in idle_wait() any more, or will. NULL is allowed. */
void idle_end(struct idle *idle);

/* Waits until a CPU of the node is idle, or idle_cancel() was called. By one thread at a time. */
void idle_wait(struct idle *idle);
/* From now on idle_wait() returns at once. */
void idle_cancel(struct idle *idle);

#endif

/*
 * What two textbook policies make of a trace: LRU, which a pager is expected to reach, and Belady's optimum, which no
 * policy without prefetching can pass.
 *
 * Both page on demand, one page at a time, into `frames` frames that start empty, and see every access. A hit is an
 * access to a page in memory; the first access to each page is a miss for every policy and counted apart (cold).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef REPLAY_POLICY_H
#define REPLAY_POLICY_H

#include "trace.h"

struct policy_result {
    uint64_t hits;
    uint64_t cold;   /* first accesses */
    uint64_t misses; /* accesses to pages that had been evicted */
};

/* Each returns false without memory. `frames` is at least 1. */
bool policy_lru(const struct trace *trace, uint32_t frames, struct policy_result *result);
bool policy_belady(const struct trace *trace, uint32_t frames, struct policy_result *result);

/* Share of accesses that were hits, 0 to 1. */
double policy_hit_share(const struct policy_result *result);

#endif

/*
 * Commit charge (nt-behaviour 16): a promise that every committed page can be held somewhere, counted against a limit
 * of memory plus page files. Commit is the one moment that can fail; a touch never fails for want of it.
 *
 * The global charge is one word that small charges do not write: each CPU keeps a credit, charged but unused, taken and
 * returned in batches. Charge = global - sum of credits. Near the limit the credits are called in under a lock and the
 * decision is exact: a charge that fits under the limit succeeds, one that does not fails. The argument: commit.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_COMMIT_H
#define SPACES_COMMIT_H

#include <pagetide/status.h>

#include "base/notification.h"
#include "base/os.h"
#include "base/sync.h"

/* Pages that a CPU takes ahead; it keeps up to two batches of what is returned to it. */
enum { COMMIT_CREDIT_BATCH = 64, COMMIT_CREDIT_MAX = 2 * COMMIT_CREDIT_BATCH };

struct commit_credit {
    uint64_t word; /* [A] pages charged in the global word and not used; or closed, and then without pages */
} SYNC_CACHE_ALIGNED;

/* Low, high and maximum commit: see commit_events.c. */
enum { COMMIT_EVENT_LOW, COMMIT_EVENT_HIGH, COMMIT_EVENT_MAXIMUM };
struct commit_events {
    struct notifications notifications;
    unsigned low_percent;  /* [I] of the limit: low commit below it */
    unsigned high_percent; /* [I] of the limit, and of the maximum limit: high and maximum commit from it on */
};

struct commit {
    /* Written by large charges and by refills. */
    uint64_t charged
        SYNC_CACHE_ALIGNED; /* [A] credits included; above the limit only by commit_force() or a lowered limit */
    uint64_t peak;          /* [A] highest true charge seen */
    struct sync_lock lock;  /* rank commit: refills, calling in the credits, sums over them */
    /* Read-mostly. */
    uint64_t limit SYNC_CACHE_ALIGNED; /* [A] may be raised at any time */
    unsigned cpu_count;                /* [I] */
    struct commit_credit *credits;     /* [I] one per CPU */
    struct commit_events events;
};

/* TIDE_INSUFFICIENT_RESOURCES if there is no memory for `cpu_count` (> 0) credits. */
TIDE_MUST_CHECK tide_status commit_init(struct commit *commit, uint64_t limit_pages, unsigned cpu_count);
void commit_destroy(struct commit *commit);

/*
 * Charges or fails with TIDE_COMMITMENT_LIMIT (error names pages asked, charge and limit) and no change. Exact. Takes
 * the commit lock when the CPU's credit is used up; no I/O, no allocation.
 */
TIDE_MUST_CHECK tide_status commit_charge(struct commit *commit, uint64_t pages);
/* Charges without asking, beyond the limit if need be: for what exists already and cannot be refused. */
void commit_force(struct commit *commit, uint64_t pages);
/*
 * The engine can hold that many pages less from now on (bad slots). The charge may then be over the limit until it
 * falls.
 */
void commit_limit_lower(struct commit *commit, uint64_t pages);
/* Another limit, as high or low as one likes. What is charged stays. */
void commit_limit_set(struct commit *commit, uint64_t pages);
/* Gives a charge back. Takes no lock, never waits. Surplus credit beyond two batches goes back to the global word. */
void commit_return(struct commit *commit, uint64_t pages);
/*
 * The true charge; moves the peak. Exact when quiet; else each call that runs at the same time is counted or not. Never
 * above the limit. O(CPUs) under the commit lock; moves no credit.
 */
uint64_t commit_total(struct commit *commit);
/*
 * The highest true charge seen by refills, large charges, decisions at the limit, commit_total() and this call. What
 * single CPUs took from their credits and returned between two such looks can be missed: at most two batches per CPU.
 */
uint64_t commit_peak(struct commit *commit);

/* ---- events (commit_events.c) ----------------------------------------------------------------------------------- */

/* The limit that there would be with every page file at its maximum. */
uint64_t commit_maximum_limit(const struct commit *commit);
/* After commit_init(). Percentages of the limits, 0 for the default. TIDE_INVALID_PARAMETER. */
TIDE_MUST_CHECK tide_status commit_events_init(struct commit *commit, unsigned low_percent, unsigned high_percent);
/* In pages, for the limits of now: low commit is below `low`, high and maximum from theirs on. */
struct commit_thresholds {
    uint64_t low, high, maximum;
};
void commit_events_thresholds(const struct commit *commit, struct commit_thresholds *thresholds);
/* Which commit events are set now, by bit; brings their descriptors in line. */
uint32_t commit_events_update(struct commit *commit);
/* From time to time, if anybody watches: finds what stayed in the CPUs' credits. */
void commit_events_look(struct commit *commit);
/* Wherever the global word or the limit moved. The caller holds no lock from rank notification on. */
static inline void commit_events_check(struct commit *commit)
{
    if (notifications_watched(&commit->events.notifications))
        (void)commit_events_update(commit);
}

#endif

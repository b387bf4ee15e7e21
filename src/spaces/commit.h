/*
 * Commit charge (nt-behaviour 16): a promise that every committed page can be held somewhere, counted against a limit
 * of memory plus page files. Commit is the one moment that can fail; a touch never fails for want of it.
 *
 * The global charge is one word that small charges do not write: each CPU keeps a credit, charged but unused, taken and
 * returned in batches. Charge = global - sum of credits. Near the limit the credits are called in under a lock and the
 * decision is exact: a charge that fits under the limit succeeds, one that does not fails. The argument: commit.c.
 *
 * The limit moves when page files grow and shrink (workers/extender.c); it never falls below the charge by that.
 * Whoever may wait, and holds nothing, asks for more room when a charge was refused (partition.extend). Charges that
 * come near the limit ring the extender's bell; only refills and large charges look whether they do.
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

struct frames_bell;

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
        SYNC_CACHE_ALIGNED; /* [A] pages, credits included, and cuts of the limit (commit.c); above the limit only by
                               commit_force() or bad slots */
    uint64_t peak;          /* [A] highest true charge seen */
    struct sync_lock lock;  /* rank commit: refills, calling in the credits, sums over them, changes of the limit */
    bool credits_closed;    /* [L:commit] */
    /* Read-mostly. */
    uint64_t limit SYNC_CACHE_ALIGNED; /* [A] may be raised at any time */
    uint64_t maximum;                  /* [A] what the limit can rise to */
    uint64_t extend_at;                /* [A] charge at which the extender's bell is rung; UINT64_MAX: never */
    unsigned cpu_count;                /* [I] */
    struct commit_credit *credits;     /* [I] one per CPU */
    struct commit_events events;
    struct frames_bell *bell; /* [I] the extender's; NULL where the limit does not rise */
};

/* NT lets page files grow when the charge reaches this part of the limit (nt-behaviour 16 rule 4). */
enum { COMMIT_EXTEND_PERCENT = 90 };

/* TIDE_INSUFFICIENT_RESOURCES if there is no memory for `cpu_count` (> 0) credits. */
/* The limit does not rise by itself unless commit_extension_set() says so. */
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
/* ---- by the extender alone ---- */
/* At open: what the limit can rise to, and the bell that calls for it. */
void commit_extension_set(struct commit *commit, uint64_t maximum_pages, struct frames_bell *bell);
/* The engine can hold that many pages more from now on. */
void commit_limit_raise(struct commit *commit, uint64_t pages);
/*
 * The engine is to hold that many pages less. False, and nothing has changed, if the charge does not stay under the
 * limit then (by the global word, unused credits included).
 */
bool commit_limit_cut(struct commit *commit, uint64_t pages);
/* Slots that were bad went with the end of a file. The limit counts them no more already; the maximum does again. */
void commit_maximum_raise(struct commit *commit, uint64_t pages);
/* Whether charges near the limit are to ring the bell. */
void commit_extend_arm(struct commit *commit, bool armed);
/* Gives a charge back. Takes no lock, never waits. Surplus credit beyond two batches goes back to the global word. */
void commit_return(struct commit *commit, uint64_t pages);
/* What the true charge is at most: credits included. One load. */
uint64_t commit_charged_bound(const struct commit *commit);
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

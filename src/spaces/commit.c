/*
 * Commit charge: one global word, a credit per CPU in front of it.
 *
 * How. `charged` counts, in its lower bits, what is promised and what lies unused in the credits; it moves only by CAS
 * under the limit, so
 *     true charge = charged - sum of credits  <=  charged  <=  limit        always.
 * A small charge takes from the credit of the CPU it runs on: one CAS on a line that other CPUs leave alone. When the
 * credit does not suffice, the thread takes the lock and charges its pages and one batch more for the next ones. A
 * charge of a batch or more goes straight to the global word, without lock or credit. What is returned fills the CPU's
 * credit up to two batches; the rest leaves the global word at once.
 *
 * Near the limit the credits may hold what a charge needs. Then the thread, holding the lock, closes every credit: it
 * swaps in the mark CREDIT_CLOSED, and takes what was there off the global word. A closed credit gives nothing and
 * takes nothing: small charges queue at the lock, returns go to the global word. With all closed there is nothing but
 * the global word, and the charge is decided by CAS on it. Then the credits are opened again, empty.
 *
 * Why no charge passes the limit (commit_force() aside): every increase of `charged` is a CAS from a value that it
 * fits on. Credits only ever hold pages that `charged` counts: a refill counts first and fills later, closing empties
 * first and uncounts later, and a return moves pages from used to credit without touching the global word.
 *
 * Why a charge that fits never fails, also while others run: it fails only with all credits closed, and then no charged
 * but unused page exists: not in a credit (all closed), not between the global word and a credit (refills do both under
 * the lock that we hold), not in a large charge (which counts no more than it uses). So `charged` is the true charge at
 * the moment when it is read, where a return counts from the moment that its pages reach the credit or the global word.
 * In a quiet engine that is exact. Collecting without closing would not do: what one CPU returns after its credit was
 * emptied and another CPU takes before its credit is reached makes a charge fail that fits at every moment.
 *
 * Why the limit can fall without a charge passing it: a taker compares with a limit that it read a moment ago. So
 * commit_limit_cut() first charges the pages that it wants to cut, to nobody, which succeeds only if they fit; then it
 * lowers the limit; then it uncharges them and, by the same atomic addition, counts one cut more in the upper bits of
 * the word. Let a taker's CAS succeed from a word that it read at R, with a limit that it read after R. If the CAS
 * comes after the uncharging, R does too, since the count is in the word, and the limit is the new one. If it comes
 * before, either the cut's own CAS follows and sees it, or the word held the pages to be cut, so that even compared
 * with the old limit the true charge fits under the new one. The lock keeps everybody who sums or decides exactly from
 * seeing the pages that are charged to nobody. 65,536 cuts between a taker's read and its CAS do not happen.
 *
 * A limit may be set below the charge, or be passed by commit_force(). From then on, until a charge fits again, the
 * credits stay closed: else what a credit holds, or what is returned to one, could be charged without a look at the
 * limit.
 *
 * Progress: returns never wait. A charge that a credit covers does not either. Others may wait for the lock (large ones
 * that fit only while the charge climbs to a new peak), under which the work is O(CPUs) at most and waits for nobody. A
 * system that stays full pays O(CPUs) for each charge that fails, and one CAS under the lock for each that succeeds.
 *
 * Orders: all that moves pages is a sequentially consistent read-modify-write. Nothing is published through these
 * words.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/commit.h"

#include "base/error.h"
#include "frames/frames.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define CREDIT_CLOSED (1ull << 63)

/* The global word: pages, and above them how often the limit was cut. */
#define CHARGED_CUT (1ull << 48)
#define CHARGED_PAGES (CHARGED_CUT - 1)

enum {
    CREDIT_MAX = COMMIT_CREDIT_MAX,
    TOTAL_ATTEMPTS = 8, /* to meet a moment in which the global word stands still */
};

static struct commit_credit *credit_current(struct commit *commit)
{
    const unsigned cpu = os_cpu_current();

    return &commit->credits[cpu < commit->cpu_count ? cpu : cpu % commit->cpu_count];
}

/* Takes pages from a credit, or nothing if it has not all of them. */
static bool credit_take(struct commit_credit *credit, uint64_t pages)
{
    for (uint64_t word = sync_load_64(&credit->word); (word & CREDIT_CLOSED) == 0 && word >= pages;)
        if (sync_cas_value_64(&credit->word, word, word - pages, &word))
            return true;
    return false;
}

/* Puts pages into a credit, up to what it may hold; returns the rest. */
static uint64_t credit_put(struct commit_credit *credit, uint64_t pages)
{
    for (uint64_t word = sync_load_64(&credit->word); word < CREDIT_MAX;) { /* closed is above it */
        const uint64_t room = CREDIT_MAX - word;
        const uint64_t put = pages < room ? pages : room;
        if (sync_cas_value_64(&credit->word, word, word + put, &word))
            return pages - put;
    }
    return pages;
}

uint64_t commit_charged_bound(const struct commit *commit)
{
    return sync_load_64(&commit->charged) & CHARGED_PAGES;
}

/*
 * Raises the global word if that keeps it under the limit. On failure `seen` is the charge that was too high. The limit
 * is read after the word: see on top.
 */
static bool global_take(struct commit *commit, uint64_t pages, uint64_t *seen)
{
    for (uint64_t word = sync_load_64(&commit->charged);;) {
        const uint64_t limit = sync_load_64(&commit->limit);

        *seen = word & CHARGED_PAGES;
        if (*seen > limit || pages > limit - *seen)
            return false;
        if (sync_cas_value_64(&commit->charged, word, word + pages, &word))
            return true;
    }
}

static void global_put(struct commit *commit, uint64_t pages)
{
    if (pages != 0) {
        const uint64_t before = sync_add_64(&commit->charged, -pages);
        ASSERT_ALWAYS((before & CHARGED_PAGES) >= pages); /* else more was returned than charged */
    }
}

static void peak_raise(struct commit *commit, uint64_t charge)
{
    for (uint64_t peak = sync_load_64(&commit->peak); peak < charge;)
        if (sync_cas_value_64(&commit->peak, peak, charge, &peak))
            break;
}

/*
 * Under the lock, so that no refill and no calling in is half done. The global word is read before and after the
 * credits: if it did not move, the sum is the true charge but for what single CPUs did to their credits meanwhile. If
 * that makes the credits seem more than the global word, or the word moves all the time, the answer is clamped to what
 * can be.
 */
static uint64_t total_locked(struct commit *commit)
{
    uint64_t total = 0;

    for (unsigned attempt = 0; attempt < TOTAL_ATTEMPTS; attempt++) {
        const uint64_t charged = commit_charged_bound(commit);
        uint64_t credits = 0;

        for (unsigned i = 0; i < commit->cpu_count; i++)
            credits += sync_load_64(&commit->credits[i].word) & ~CREDIT_CLOSED;
        total = charged > credits ? charged - credits : 0;
        if (commit_charged_bound(commit) == charged) {
            peak_raise(commit, total);
            break;
        }
    }
    return total;
}

/* The global word bounds the true charge from above, so the credits are looked at only while the charge climbs. */
static bool peak_is_near(const struct commit *commit)
{
    return commit_charged_bound(commit) > sync_load_64(&commit->peak);
}

/* Tells the extender, if it wants to know. Two reads of lines that change seldom; no write unless it sleeps. */
static void near_limit_check(struct commit *commit)
{
    if (__builtin_expect(commit_charged_bound(commit) >= sync_load_64(&commit->extend_at), 0))
        frames_bell_ring(commit->bell);
}

/* Under the lock: what the credits hold goes back, and they give and take nothing until they are opened. */
static void credits_close(struct commit *commit)
{
    for (unsigned i = 0; i < commit->cpu_count; i++)
        global_put(commit, sync_swap_64(&commit->credits[i].word, CREDIT_CLOSED) & ~CREDIT_CLOSED);
    commit->credits_closed = true;
}

/* Under the lock: the credits are opened again, empty, unless more is charged than the limit allows. */
static void credits_open(struct commit *commit)
{
    if (!commit->credits_closed || commit_charged_bound(commit) > sync_load_64(&commit->limit))
        return;
    for (unsigned i = 0; i < commit->cpu_count; i++)
        sync_store_64(&commit->credits[i].word, 0);
    commit->credits_closed = false;
}

/* Under the lock, after the limit was changed, or may have been passed. */
static void limit_settle(struct commit *commit)
{
    credits_close(commit);
    credits_open(commit);
}

/* Under the lock, with all credits called in: the decision at the limit. */
static tide_status charge_exact(struct commit *commit, uint64_t pages)
{
    uint64_t charge;

    credits_close(commit);
    const bool taken = global_take(commit, pages, &charge);
    peak_raise(commit, commit_charged_bound(commit));
    credits_open(commit);
    if (taken)
        return TIDE_SUCCESS;
    return error_set(TIDE_COMMITMENT_LIMIT, 0, 0,
                     "cannot commit %" PRIu64 " pages: %" PRIu64 " are charged, the limit is %" PRIu64
                     " pages, and %" PRIu64 " with all page files at their maximum",
                     pages, charge, sync_load_64(&commit->limit), sync_load_64(&commit->maximum));
}

/* The credit was not enough, or the global word is too near the limit for a large charge. */
static tide_status charge_slow(struct commit *commit, uint64_t pages)
{
    tide_status status = TIDE_SUCCESS;
    uint64_t seen;

    sync_lock(&commit->lock);
    credits_open(commit);
    if (pages < COMMIT_CREDIT_BATCH && credit_take(credit_current(commit), pages))
        goto out; /* who held the lock before refilled it */
    if (pages < COMMIT_CREDIT_BATCH && global_take(commit, pages + COMMIT_CREDIT_BATCH, &seen))
        global_put(commit, credit_put(credit_current(commit), COMMIT_CREDIT_BATCH));
    else if (!global_take(commit, pages, &seen))
        status = charge_exact(commit, pages);
    if (peak_is_near(commit))
        (void)total_locked(commit);
out:
    sync_unlock(&commit->lock);
    near_limit_check(commit);
    return status;
}

tide_status commit_charge(struct commit *commit, uint64_t pages)
{
    uint64_t seen;

    if (pages < COMMIT_CREDIT_BATCH) {
        if (credit_take(credit_current(commit), pages))
            return TIDE_SUCCESS;
    } else if (global_take(commit, pages, &seen)) {
        if (peak_is_near(commit))
            (void)commit_total(commit);
        commit_events_check(commit);
        near_limit_check(commit);
        return TIDE_SUCCESS;
    }
    const tide_status status = charge_slow(commit, pages);
    commit_events_check(commit);
    return status;
}

void commit_force(struct commit *commit, uint64_t pages)
{
    (void)sync_add_64(&commit->charged, pages);
    if (commit_charged_bound(commit) > sync_load_64(&commit->limit)) {
        sync_lock(&commit->lock);
        limit_settle(commit);
        sync_unlock(&commit->lock);
    }
    commit_events_check(commit);
}

void commit_limit_lower(struct commit *commit, uint64_t pages)
{
    sync_lock(&commit->lock);
    (void)sync_add_64(&commit->limit, -pages);
    limit_settle(commit);
    sync_unlock(&commit->lock);
    (void)sync_add_64(&commit->maximum, -pages);
    commit_events_check(commit);
}

void commit_extension_set(struct commit *commit, uint64_t maximum_pages, struct frames_bell *bell)
{
    sync_store_64(&commit->maximum, maximum_pages);
    commit->bell = bell;
    commit_events_check(commit);
}

void commit_maximum_raise(struct commit *commit, uint64_t pages)
{
    (void)sync_add_64(&commit->maximum, pages);
    commit_events_check(commit);
}

void commit_limit_raise(struct commit *commit, uint64_t pages)
{
    (void)sync_add_64(&commit->limit, pages);
    commit_events_check(commit);
}

bool commit_limit_cut(struct commit *commit, uint64_t pages)
{
    uint64_t seen;

    sync_lock(&commit->lock);
    const bool fits = global_take(commit, pages, &seen);
    if (fits) {
        (void)sync_add_64(&commit->limit, -pages);
        (void)sync_add_64(&commit->charged, CHARGED_CUT - pages);
    }
    sync_unlock(&commit->lock);
    commit_events_check(commit);
    return fits;
}

void commit_extend_arm(struct commit *commit, bool armed)
{
    const uint64_t limit = sync_load_64(&commit->limit);
    const uint64_t at = armed ? (limit * COMMIT_EXTEND_PERCENT + 99) / 100 : UINT64_MAX;

    if (sync_load_64(&commit->extend_at) != at)
        sync_store_64(&commit->extend_at, at);
}

void commit_limit_set(struct commit *commit, uint64_t pages)
{
    sync_lock(&commit->lock);
    sync_store_64(&commit->limit, pages);
    limit_settle(commit);
    sync_unlock(&commit->lock);
    commit_events_check(commit);
}

void commit_return(struct commit *commit, uint64_t pages)
{
    const uint64_t rest = credit_put(credit_current(commit), pages);

    global_put(commit, rest);
    if (rest != 0)
        commit_events_check(commit);
}

uint64_t commit_total(struct commit *commit)
{
    sync_lock(&commit->lock);
    const uint64_t total = total_locked(commit);
    sync_unlock(&commit->lock);
    return total;
}

uint64_t commit_peak(struct commit *commit)
{
    (void)commit_total(commit);
    return sync_load_64(&commit->peak);
}

tide_status commit_init(struct commit *commit, uint64_t limit_pages, unsigned cpu_count)
{
    const size_t bytes = cpu_count * sizeof(struct commit_credit);

    ASSERT_ALWAYS(cpu_count > 0);
    memset(commit, 0, sizeof *commit);
    commit->credits = aligned_alloc(_Alignof(struct commit_credit), bytes);
    if (commit->credits == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0,
                         "cannot allocate %zu bytes for the commit credits of %u CPUs", bytes, cpu_count);
    memset(commit->credits, 0, bytes);
    commit->limit = limit_pages;
    commit->maximum = limit_pages;
    commit->extend_at = UINT64_MAX;
    commit->cpu_count = cpu_count;
    sync_lock_init(&commit->lock, SYNC_RANK_commit);
    notifications_init(&commit->events.notifications);
    return TIDE_SUCCESS;
}

void commit_destroy(struct commit *commit)
{
    if (commit->credits != NULL)
        notifications_destroy(&commit->events.notifications);
    free(commit->credits);
    commit->credits = NULL;
}

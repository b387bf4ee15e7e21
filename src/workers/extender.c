/*
 * Page-file extender (nt-behaviour 14.2 rule 6, 16 rule 4; NT does this in its segment-dereference thread).
 *
 * Grows page files when the commit charge comes near its limit, and cuts what nobody uses off their ends when it has
 * been far below for a while. There is one for the engine. Its step is run by its thread, by tide_worker_step(), and by
 * callers whose charge was refused, who do not wait for the thread but do the work themselves (workers_extend()); the
 * worker's lock keeps it to one at a time, so a second caller waits for the first and then often finds enough.
 *
 * Growing. Wanted when the true charge is at 90 % of the limit or above, until it is below again; and by a step when a
 * writer found no slot, since pages in memory may have slots too, and then the files are full before the charge says
 * so. A file grows by its step, or by what is missing if that is more: the space on disk first, then the slots, then
 * the limit. Of several files the one that has used the least part of its maximum grows next. A disk that has not so
 * much is asked for half, and half of that. A file that could not grow at all is left alone by the thread for a second,
 * which doubles each time it fails; a caller in need tries all files at once, since its disk may have room again. A
 * request that not even the maximum would satisfy grows nothing. A file that does not answer the writer (lanes.c) might
 * not answer the extender either, and everybody whose charge is refused would wait behind it: it is neither grown nor
 * cut, unless a caller is in need and no other file can grow.
 *
 * Cutting. Wanted when the charge is at most 75 % of the limit, so that what is left is not grown again by the next
 * page; only down to 75 %, and only after the charge has stayed there for a delay. So after a cut the charge must rise
 * by a fifth before a file grows. The order: look what could go, lower the limit by that if the charge stays under it,
 * take the slots away, give back to the limit what was allocated in between, cut the file. A caller that is refused
 * meanwhile waits for the lock and looks again.
 *
 * When no growth can be had, the commit charge is told not to ring (commit_extend_arm()), so a full disk costs a look
 * now and then and not one at each refill.
 *
 * Invariant, when no step runs: limit = frames + slots - bad slots - the engine's reserve, and the same for the
 * maximum.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

enum {
    LOW_PERCENT = 75,      /* charge of the limit at which files may be cut */
    STEP_PAGES_LEAST = 256 /* default step: this, or a part of what the file may grow */
};
enum { STEP_PARTS = 16, GROW_PAGES_LEAST = 64 };

#define BACKOFF_NS_FIRST 1000000000u
#define BACKOFF_NS_MOST (64ull * BACKOFF_NS_FIRST)

/* What one file may do, read once. */
struct file_look {
    uint64_t slots, minimum, maximum;
};

static struct file_look look_at(const struct worker *worker, unsigned file)
{
    struct stores_file_statistics statistics;

    stores_file_size(worker->workers->partition->stores, file, &statistics);
    return (struct file_look){ statistics.slots, statistics.minimum_slots, statistics.maximum_slots };
}

/* ---- growing ---------------------------------------------------------------------------------------------------- */

/* Pages by which the limit must rise so that the charge is below 90 % of it; at least one if slots are short. */
static uint64_t pages_wanted(struct partition *partition)
{
    struct commit *const commit = &partition->commit;
    const uint64_t charge = commit_total(commit), limit = sync_load_64(&commit->limit);
    const uint64_t enough = charge * 100 / COMMIT_EXTEND_PERCENT + 1;

    return charge != 0 && enough > limit ? enough - limit : sync_load_32(&partition->slots_short);
}

/* Of the files that may grow and are not left out, the one with the least part of its maximum. */
static unsigned least_file(const struct worker *worker, uint32_t left_out, bool urgent)
{
    const struct extender *extender = &worker->workers->extender;
    const unsigned count = stores_file_count(worker->workers->partition->stores);
    const uint64_t now = workers_clock_ns(worker->workers);
    struct file_look least = { 0 };
    unsigned best = count;

    for (unsigned i = 0; i < count; i++) {
        const struct file_look file = look_at(worker, i);

        if (file.slots == file.maximum || (left_out & 1u << i) != 0)
            continue;
        if (best != count && file.slots * least.maximum >= least.slots * file.maximum) /* both have 32 bits */
            continue;
        if (!urgent && now < sync_load_relaxed_64(&extender->files[i].retry_ns))
            continue;
        least = file;
        best = i;
    }
    return best;
}

/*
 * The file to grow next: of those that may and are not in `tried`, the one with the least part of its maximum.
 * `urgent`: also those that failed a moment ago, and at last those that do not answer. file_count if there is none.
 */
static unsigned choose_file(const struct worker *worker, uint32_t tried, bool urgent)
{
    const unsigned file = least_file(worker, tried | workers_files_overdue(worker->workers), urgent);

    return urgent && file == stores_file_count(worker->workers->partition->stores) ? least_file(worker, tried, true)
                                                                                   : file;
}

static bool can_grow(const struct worker *worker)
{
    return choose_file(worker, 0, false) != stores_file_count(worker->workers->partition->stores);
}

static bool grow_file(struct worker *worker, struct grace_thread *thread, unsigned file, uint64_t pages)
{
    struct partition *partition = worker->workers->partition;

    grace_io_begin(thread);
    const bool grown = !tide_failed(stores_file_grow(partition->stores, file, pages));
    grace_io_end(thread);
    if (!grown)
        return false;
    commit_limit_raise(&partition->commit, pages);
    (void)sync_add_64(&worker->workers->extender.extensions, 1);
    worker->workers->extender.files[file].backoff_ns = 0;
    return true;
}

static void note_failure(struct worker *worker, unsigned file)
{
    struct extender *extender = &worker->workers->extender;
    uint64_t *const backoff = &extender->files[file].backoff_ns;

    (void)sync_add_64(&extender->failures, 1);
    *backoff = *backoff == 0 ? BACKOFF_NS_FIRST : *backoff < BACKOFF_NS_MOST ? *backoff * 2 : *backoff;
    sync_store_relaxed_64(&extender->files[file].retry_ns, workers_clock_ns(worker->workers) + *backoff);
}

/* Makes one file larger, by `need` if it can, and by a step if that is more. Returns the pages, 0 if no file could. */
static uint64_t grow(struct worker *worker, struct grace_thread *thread, uint64_t need, uint64_t budget, bool urgent)
{
    const unsigned count = stores_file_count(worker->workers->partition->stores);
    uint32_t tried = 0;

    for (unsigned file; (file = choose_file(worker, tried, urgent)) != count; tried |= 1u << file) {
        const struct file_look look = look_at(worker, file);
        const uint64_t room = look.maximum - look.slots;
        const uint64_t part = (look.maximum - look.minimum) / STEP_PARTS;
        const uint64_t step = worker->workers->growth_pages != 0 ? worker->workers->growth_pages
                              : part > STEP_PAGES_LEAST          ? part
                                                                 : STEP_PAGES_LEAST;
        uint64_t pages = need > step ? need : step;

        if (pages > room)
            pages = room;
        if (pages > budget)
            pages = budget;
        for (; pages != 0; pages = pages > GROW_PAGES_LEAST ? pages / 2 : 0)
            if (grow_file(worker, thread, file, pages))
                return pages;
        note_failure(worker, file);
    }
    return 0;
}

/* ---- cutting ---------------------------------------------------------------------------------------------------- */

/* Pages by which the limit may fall so that the charge is at most 75 % of it. */
static uint64_t pages_spare(struct commit *commit)
{
    const uint64_t charge = commit_total(commit), limit = sync_load_64(&commit->limit);
    const uint64_t keep = (charge * 100 + LOW_PERCENT - 1) / LOW_PERCENT;

    return limit > keep ? limit - keep : 0;
}

static bool can_cut(const struct worker *worker)
{
    const unsigned count = stores_file_count(worker->workers->partition->stores);

    for (unsigned i = 0; i < count; i++) {
        const struct file_look file = look_at(worker, i);
        if (file.slots > file.minimum)
            return true;
    }
    return false;
}

/* Cuts up to `most` slots off one file. Returns how many went. */
static uint64_t cut_file(struct worker *worker, struct grace_thread *thread, unsigned file, uint64_t most)
{
    struct partition *partition = worker->workers->partition;
    uint64_t bad, cut_bad = 0;
    const uint64_t tail = stores_file_tail(partition->stores, file, most, &bad);

    /* Bad slots are in no limit. */
    if (tail == 0 || !commit_limit_cut(&partition->commit, tail - bad))
        return 0;
    grace_io_begin(thread);
    const uint64_t cut = stores_file_cut(partition->stores, file, tail, &cut_bad);
    grace_io_end(thread);
    commit_limit_raise(&partition->commit, (tail - bad) - (cut - cut_bad));
    commit_maximum_raise(&partition->commit, cut_bad);
    if (cut != 0)
        (void)sync_add_64(&worker->workers->extender.shrinks, 1);
    return cut;
}

/* Is it time to cut? Keeps the clock of how long the charge has been low. */
static bool cut_is_due(struct worker *worker)
{
    struct extender *extender = &worker->workers->extender;
    const uint64_t now = workers_clock_ns(worker->workers);

    if (!can_cut(worker) || pages_spare(&worker->workers->partition->commit) == 0) {
        sync_store_relaxed_64(&extender->low_since_ns, UINT64_MAX);
        return false;
    }
    if (sync_load_relaxed_64(&extender->low_since_ns) == UINT64_MAX)
        sync_store_relaxed_64(&extender->low_since_ns, now);
    return now - extender->low_since_ns >= worker->workers->shrink_delay_ns;
}

static uint64_t cut(struct worker *worker, struct grace_thread *thread, uint64_t budget)
{
    struct workers *workers = worker->workers;
    const uint32_t overdue = workers_files_overdue(workers);
    uint64_t done = 0;

    for (unsigned i = 0; i < stores_file_count(workers->partition->stores); i++) {
        const struct file_look file = look_at(worker, i);
        uint64_t most = pages_spare(&workers->partition->commit);

        if ((overdue & 1u << i) != 0)
            continue;
        if (most > file.slots - file.minimum)
            most = file.slots - file.minimum;
        if (most > budget - done)
            most = budget - done;
        if (most != 0)
            done += cut_file(worker, thread, i, most);
    }
    /* Whether or not anything could go: the next look is a delay away. */
    sync_store_relaxed_64(&workers->extender.low_since_ns, workers_clock_ns(workers));
    return done;
}

/* ---- the worker ------------------------------------------------------------------------------------------------- */

bool extender_due(const struct worker *worker)
{
    const struct workers *workers = worker->workers;
    const uint64_t low_since = sync_load_relaxed_64(&workers->extender.low_since_ns);

    if (pages_wanted(workers->partition) != 0)
        return can_grow(worker);
    return low_since != UINT64_MAX && workers_clock_ns(workers) - low_since >= workers->shrink_delay_ns &&
           can_cut(worker) && pages_spare(&workers->partition->commit) != 0;
}

uint64_t extender_step(struct worker *worker, struct grace_thread *thread, uint64_t budget)
{
    struct commit *commit = &worker->workers->partition->commit;
    const uint64_t wanted = pages_wanted(worker->workers->partition);
    const bool due = cut_is_due(worker);
    uint64_t done = 0;

    if (wanted != 0)
        done = grow(worker, thread, wanted, budget, false);
    else if (due)
        done = cut(worker, thread, budget);
    sync_store_32(&worker->workers->partition->slots_short, 0);
    commit_extend_arm(commit, can_grow(worker));
    return done;
}

bool workers_extend(struct workers *workers, struct grace_thread *thread, uint64_t pages)
{
    struct worker *const worker = workers_get(workers, TIDE_WORKER_EXTENDER, 0);
    struct commit *const commit = &workers->partition->commit;
    struct quiet quiet;
    bool enough = false;

    sync_assert_unlocked();
    const uint32_t depth = grace_outside_begin(thread);
    quiet_lock(&worker->lock, &quiet);
    grace_enter(thread);
    for (;;) {
        const uint64_t charge = commit_total(commit), limit = sync_load_64(&commit->limit);

        enough = charge <= limit && pages <= limit - charge;
        /* Too much even for files at their maximum: it would fill a disk in vain. */
        if (enough || pages > sync_load_64(&commit->maximum) || charge > sync_load_64(&commit->maximum) - pages)
            break;
        if (grow(worker, thread, charge + pages - limit, UINT64_MAX, true) == 0)
            break;
    }
    commit_extend_arm(commit, can_grow(worker));
    grace_leave(thread);
    quiet_unlock(&worker->lock, &quiet);
    grace_outside_end(thread, depth);
    return enough;
}

/*
 * Working-set trimmer, the balance-set manager's part in memory (nt-behaviour 15.2).
 *
 * In an engine with mapped spaces it also lets standby pages go ahead of need, so that some frames are always unused:
 * frames_ahead() has why.
 *
 * Once a period it ages all working sets on its node: pages accessed since the last pass become younger, others
 * older. When the node's available pages fall below `low` it trims up to `high`, and ages once more for each `high` -
 * `low` pages that it took: under pressure time passes faster, by what is needed and not by how often it looks. What
 * is on the modified list counts as on its way, since the writer brings it, but if anything is missing beside that, the
 * trimmer takes half of `high` - `low` at least; if the page files are full it does not count, and only clean pages are
 * taken: dirty ones could go nowhere.
 *
 * Who gives. Pages go by rank over all spaces (spaces/space.h): the oldest first, of one age those of lower priority
 * first, and those of a space in background mode as if they had been idle for longer. The rank that yields what is
 * missing is read off a histogram: all pages above it go, and of just that rank as many as are still missing, from the
 * spaces in order of their claims - in background mode before others, then the largest and longest idle first. This in
 * rounds, each only for what is still missing: first from what spaces have above their minimums, by lower and lower
 * ranks; then below soft minimums in the same way; then pages accessed since they were aged. Hard minimums, locked
 * pages and large pages are never touched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

#include <string.h>

static bool page_files_full(struct partition *partition)
{
    struct stores_statistics statistics;

    stores_statistics_get(partition->stores, &statistics);
    return statistics.used_slots + statistics.bad_slots >= statistics.total_slots;
}

/* frames_ahead(), where there are threads to do it. */
static uint64_t threads_ahead(const struct worker *worker)
{
    const struct workers *workers = worker->workers;

    return workers->mode == TIDE_WORKERS_THREADS ? frames_ahead(workers->partition->frames, worker->node) : 0;
}

static uint64_t shortage(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const struct frames_node *node = &frames->nodes[worker->node];
    struct frames_counts counts;

    /*
     * What is kept at hand for mapped spaces is kept beside what is on standby, where pages have their second chance.
     */
    const uint64_t ahead = threads_ahead(worker);

    frames_counts(frames, worker->node, &counts);
    if (counts.available >= node->low + ahead)
        return 0;
    const bool writable = !page_files_full(worker->workers->partition);
    const uint64_t coming = counts.available + (writable ? counts.lists[FRAME_LIST_MODIFIED] : 0);
    if (coming >= node->high + ahead)
        return 0;
    /* While the writer is busy little is missing at a time, and each time costs a look at all the sets. */
    const uint64_t missing = node->high + ahead - coming, worthwhile = (node->high - node->low) / 2;
    return missing > worthwhile ? missing : worthwhile;
}

/* Is it time to let standby pages go, ahead of those who need their frames? */
static bool ahead_is_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const uint64_t ahead = threads_ahead(worker);

    return ahead != 0 && frames_unused(frames, worker->node) < ahead / 2;
}

/* Lets up to `budget` pages on standby go, those of least priority and the oldest first. */
static uint64_t ahead_fill(const struct worker *worker, uint64_t budget)
{
    struct frames *frames = worker->workers->partition->frames;
    const uint64_t ahead = threads_ahead(worker);
    uint64_t done = 0;

    while (done < budget && frames_unused(frames, worker->node) < ahead &&
           frames_repurpose(frames, worker->node, 7, 1) != 0)
        done++;
    return done;
}

bool trimmer_due(const struct worker *worker)
{
    return shortage(worker) != 0 || ahead_is_due(worker);
}

/* A space and its claim to be trimmed. */
struct trimmer_candidate {
    tide_space *space;
    uint64_t claim;
    bool background;
};

/* Does `x` give before `y`? */
static bool candidate_before(const struct trimmer_candidate *x, const struct trimmer_candidate *y)
{
    return x->background != y->background ? x->background : x->claim > y->claim;
}

/* Shell's sort: in place, and without a memory of its own as qsort() may take it. */
static void candidates_sort(struct trimmer_candidate *candidates, unsigned count)
{
    unsigned gap = 1;

    while (gap < count / 3)
        gap = 3 * gap + 1;
    for (; gap != 0; gap /= 3) {
        for (unsigned i = gap; i < count; i++) {
            const struct trimmer_candidate one = candidates[i];
            unsigned at = i;

            for (; at >= gap && candidate_before(&one, &candidates[at - gap]); at -= gap)
                candidates[at] = candidates[at - gap];
            candidates[at] = one;
        }
    }
}

/*
 * Room for so many candidates; without memory for it the trimmer makes do with what it has. Not by malloc(): a fault of
 * a mapped space may do the trimmer's step in a signal handler.
 */
static void candidates_reserve(struct worker *worker, uint64_t spaces)
{
    if (spaces <= worker->candidate_capacity)
        return;
    struct trimmer_candidate *more = os_memory_reserve(2 * spaces * sizeof *more, TIDE_PAGE_BYTES);
    if (more == NULL)
        return;
    trimmer_candidates_free(worker);
    worker->candidates = more;
    worker->candidate_capacity = 2 * spaces;
}

void trimmer_candidates_free(struct worker *worker)
{
    os_memory_free(worker->candidates, worker->candidate_capacity * sizeof *worker->candidates);
}

static void aged(struct worker *worker)
{
    worker->last_ageing_ns = workers_clock_ns(worker->workers);
    worker->trimmed_since_ageing = 0;
}

/* Ages all spaces, with the list of spaces locked. */
static void age_all(struct worker *worker)
{
    for (tide_space *space = worker->workers->partition->spaces; space != NULL; space = space->next)
        (void)working_set_age(space, worker->node, false, NULL);
    aged(worker);
}

/*
 * Gathers the spaces that have something to give, in the order in which they are to, and their pages by rank; `age`:
 * ages them on the way, since pages are short.
 */
static unsigned candidates_gather(struct worker *worker, bool age, struct working_set_ranks *ranks)
{
    struct partition *partition = worker->workers->partition;
    unsigned count = 0;

    memset(ranks, 0, sizeof *ranks);
    candidates_reserve(worker, partition->space_count);
    for (tide_space *space = partition->spaces; space != NULL; space = space->next) {
        const uint64_t claim =
            age ? working_set_age(space, worker->node, true, ranks) : working_set_look(space, worker->node, ranks);

        if (count < worker->candidate_capacity)
            worker->candidates[count++] =
                (struct trimmer_candidate){ space, claim, sync_load_relaxed_32(&space->background) != 0 };
    }
    if (count > 1)
        candidates_sort(worker->candidates, count);
    if (age)
        aged(worker);
    return count;
}

/* Once over all candidates. `below_minimum`: soft minimums do not count. */
static uint64_t trim_pass(struct worker *worker, unsigned count, struct working_set_choice choice, bool below_minimum,
                          uint64_t need)
{
    uint64_t done = 0;

    for (unsigned i = 0; i < count && done < need; i++) {
        tide_space *space = worker->candidates[i].space;
        const bool hard = (sync_load_relaxed_32(&space->working_set.flags) & TIDE_WORKING_SET_HARD_MINIMUM) != 0;

        choice.keep = hard || !below_minimum ? sync_load_relaxed_64(&space->working_set.minimum) : 0;
        done += working_set_trim(space, choice, need - done);
    }
    return done;
}

/* Passes of lower and lower ranks, from the one that yields enough if no minimum stands against it. */
static uint64_t trim_round(struct worker *worker, unsigned count, struct working_set_choice choice, bool below_minimum,
                           uint64_t need)
{
    uint64_t done = 0;

    choice.rank++;
    done += trim_pass(worker, count, choice, below_minimum, need);
    for (choice.rank--; done < need; choice.rank /= 2) {
        done += trim_pass(worker, count, choice, below_minimum, need - done);
        if (choice.rank == 0)
            break;
    }
    return done;
}

const size_t trimmer_scratch_bytes = sizeof(struct working_set_ranks);

static uint64_t trim(struct worker *worker, uint64_t need)
{
    struct partition *partition = worker->workers->partition;
    const struct frames_node *node = &partition->frames->nodes[worker->node];
    struct working_set_ranks *const ranks = worker->scratch;
    struct working_set_choice choice = { .node = worker->node, .clean_only = page_files_full(partition) };
    uint64_t done = 0;

    /* No space goes away meanwhile. */
    sync_lock(&partition->lock);
    const bool much = worker->trimmed_since_ageing >= node->high - node->low;
    unsigned count = candidates_gather(worker, much, ranks);
    choice.rank = working_set_rank_for(ranks, need);
    if (choice.rank == 0 && !much) {
        /* Too few that were not accessed: which of the others were, of late? */
        count = candidates_gather(worker, true, ranks);
        choice.rank = working_set_rank_for(ranks, need);
    }
    for (int below_minimum = 0; below_minimum < 2 && done < need; below_minimum++)
        done += trim_round(worker, count, choice, below_minimum != 0, need - done);
    choice.accessed_too = true;
    if (done < need)
        done += trim_pass(worker, count, choice, true, need - done);
    worker->trimmed_since_ageing += done;
    sync_unlock(&partition->lock);
    return done;
}

uint64_t trimmer_step(struct worker *worker, uint64_t budget)
{
    struct workers *workers = worker->workers;
    struct partition *partition = workers->partition;
    const uint64_t need = shortage(worker);
    uint64_t done = ahead_is_due(worker) ? ahead_fill(worker, budget) : 0;

    budget -= done;
    if (need == 0) {
        if (workers_clock_ns(workers) - worker->last_ageing_ns >= workers->period_ns) {
            sync_lock(&partition->lock);
            age_all(worker);
            sync_unlock(&partition->lock);
        }
        return done;
    }
    done += trim(worker, need < budget ? need : budget);
    frames_check_thresholds(partition->frames, worker->node);
    return done;
}

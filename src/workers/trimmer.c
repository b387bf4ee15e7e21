/*
 * Working-set trimmer, the balance-set manager's part in memory (nt-behaviour 15.2).
 *
 * Once a period it ages all working sets on its node: pages accessed since the last pass become younger, others
 * older. When the node's available pages fall below `low` it ages once more - under pressure time passes faster - and
 * trims: the age that yields what is missing up to `high` is read off the histogram, and pages at least that old go,
 * first from spaces above their minimum, then from all but hard minimums. What is on the modified list counts as on
 * its way, since the writer brings it; if the page files are full it does not, and only clean pages are taken: dirty
 * ones could go nowhere.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

static bool page_files_full(struct partition *partition)
{
    struct stores_statistics statistics;

    stores_statistics_get(partition->stores, &statistics);
    return statistics.used_slots + statistics.bad_slots >= statistics.total_slots;
}

static uint64_t shortage(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const struct frames_node *node = &frames->nodes[worker->node];
    struct frames_counts counts;

    frames_counts(frames, worker->node, &counts);
    if (counts.available >= node->low)
        return 0;
    const bool writable = !page_files_full(worker->workers->partition);
    const uint64_t coming = counts.available + (writable ? counts.lists[FRAME_LIST_MODIFIED] : 0);
    return coming < node->high ? node->high - coming : 0;
}

bool trimmer_due(const struct worker *worker)
{
    return shortage(worker) != 0;
}

static void age_all(struct worker *worker, struct working_set_ages *ages)
{
    struct partition *partition = worker->workers->partition;

    sync_lock(&partition->lock);
    for (tide_space *space = partition->spaces; space != NULL; space = space->next)
        working_set_age(space, worker->node, ages);
    sync_unlock(&partition->lock);
    worker->last_ageing_ns = workers_clock_ns(worker->workers);
}

/* The highest age such that the pages of it and above are at least `need`. */
static unsigned age_for(const struct working_set_ages *ages, uint64_t need)
{
    uint64_t pages = 0;
    unsigned age = WORKING_SET_AGES;

    while (age > 0 && pages < need)
        pages += ages->pages[--age];
    return age;
}

/* One round over all spaces. `below_minimum`: soft minimums do not count. */
static uint64_t trim_round(struct partition *partition, struct working_set_choice choice, bool below_minimum,
                           uint64_t need)
{
    uint64_t done = 0;

    sync_lock(&partition->lock);
    for (tide_space *space = partition->spaces; space != NULL && done < need; space = space->next) {
        const uint64_t pages = space_working_set_pages(space);
        const bool hard = (sync_load_relaxed_32(&space->working_set.flags) & TIDE_WORKING_SET_HARD_MINIMUM) != 0;
        const uint64_t keep = hard || !below_minimum ? sync_load_relaxed_64(&space->working_set.minimum) : 0;

        if (pages > keep)
            done += working_set_trim(space, choice, need - done < pages - keep ? need - done : pages - keep);
    }
    sync_unlock(&partition->lock);
    return done;
}

uint64_t trimmer_step(struct worker *worker, uint64_t budget)
{
    struct workers *workers = worker->workers;
    struct partition *partition = workers->partition;
    struct working_set_ages ages = { { 0 } };
    uint64_t need = shortage(worker);
    uint64_t done = 0;

    if (need == 0) {
        if (workers_clock_ns(workers) - worker->last_ageing_ns >= workers->period_ns)
            age_all(worker, &ages);
        return 0;
    }
    if (need > budget)
        need = budget;
    age_all(worker, &ages);
    struct working_set_choice choice = { .node = worker->node,
                                         .age = age_for(&ages, need),
                                         .clean_only = page_files_full(partition) };
    /* The older ones, then as many of just that age as are still missing. */
    if (choice.age < PTE_AGE_MAX) {
        choice.age++;
        done = trim_round(partition, choice, false, need);
        choice.age--;
    }
    if (done < need)
        done += trim_round(partition, choice, false, need - done);
    /* Not enough that old above the minimums: younger ones, then below soft minimums by age, then accessed ones. */
    static const struct {
        bool young, below_minimum, accessed;
    } rounds[] = { { true, false, false }, { false, true, false }, { true, true, false }, { true, true, true } };
    const unsigned age = choice.age;
    for (unsigned round = 0; round < sizeof rounds / sizeof rounds[0] && done < need; round++) {
        choice.age = rounds[round].young ? 0 : age;
        choice.accessed_too = rounds[round].accessed;
        done += trim_round(partition, choice, rounds[round].below_minimum, need - done);
    }
    frames_check_thresholds(partition->frames, worker->node);
    return done;
}

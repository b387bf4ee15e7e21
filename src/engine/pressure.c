/*
 * Telling a leak from a thrash, and both from much reading (nt-behaviour 29). Snapshots of counters go in, a verdict
 * comes out; the engine is not asked. What each verdict means and rests on: include/pagetide/pressure.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- snapshots -------------------------------------------------------------------------------------------------- */

static void sample_fill(tide_space *space, tide_space_sample *sample)
{
    *sample = (tide_space_sample){ .id = space->id,
                                   .working_set_pages = space_working_set_pages(space),
                                   .private_pages = commit_total(&space->commit),
                                   .peak_private_pages = commit_peak(&space->commit) };
    space_faults_fill(space, &sample->faults);
}

/* The caller's snapshot, and the memory that it gets, may lie in a mapped space: they are filled without a lock. */
static tide_status snapshot_fill(tide_engine *engine, const tide_space_sample *samples, uint64_t count,
                                 tide_pressure_snapshot *snapshot)
{
    tide_space_sample *copy = malloc((count + 1) * sizeof *copy);

    if (copy == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for a snapshot of %lu spaces", count);
    snapshot->statistics.struct_bytes = sizeof snapshot->statistics;
    const tide_status status = tide_statistics_get(engine, &snapshot->statistics);
    if (tide_failed(status)) {
        free(copy);
        return status;
    }
    if (count != 0)
        memcpy(copy, samples, count * sizeof *copy);
    snapshot->spaces = copy;
    snapshot->space_count = count;
    return TIDE_SUCCESS;
}

tide_status tide_pressure_snapshot_take(tide_engine *engine, tide_pressure_snapshot *snapshot)
{
    struct quiet quiet;
    tide_status status = engine_check(engine);
    tide_space_sample *samples = NULL;
    uint64_t room = 0, count;

    if (tide_failed(status))
        return status;
    if (snapshot == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the snapshot is NULL");
    struct partition *partition = &engine->partition;
    for (;;) {
        quiet_lock(&partition->lock, &quiet);
        count = partition->space_count;
        if (count <= room)
            break;
        quiet_unlock(&partition->lock, &quiet);
        os_memory_free(samples, room * sizeof *samples);
        room = count + 16;
        samples = os_memory_reserve(room * sizeof *samples, TIDE_PAGE_BYTES);
        if (samples == NULL)
            return TIDE_INSUFFICIENT_RESOURCES;
    }
    uint64_t at = count; /* the newest space, with the highest id, is first on the list */
    for (tide_space *space = partition->spaces; space != NULL; space = space->next)
        sample_fill(space, &samples[--at]);
    quiet_unlock(&partition->lock, &quiet);
    status = snapshot_fill(engine, samples, count, snapshot);
    os_memory_free(samples, room * sizeof *samples);
    return status;
}

void tide_pressure_snapshot_free(tide_pressure_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    free(snapshot->spaces);
    snapshot->spaces = NULL;
    snapshot->space_count = 0;
}

/* ---- the verdict ------------------------------------------------------------------------------------------------ */

static const char *const names[] = { "none", "streaming", "leak suspect", "thrash", "commit near its end" };

const char *tide_pressure_name(tide_pressure_kind kind)
{
    return (unsigned)kind < sizeof names / sizeof names[0] ? names[kind] : "unknown";
}

static tide_pressure_thresholds thresholds_of(const tide_pressure_thresholds *given)
{
    tide_pressure_thresholds t = given != NULL ? *given : (tide_pressure_thresholds){ 0 };

    t.hard_faults_per_second = t.hard_faults_per_second > 0 ? t.hard_faults_per_second : 20;
    t.thrash_spaces = t.thrash_spaces != 0 ? t.thrash_spaces : 2;
    t.available_low_percent = t.available_low_percent != 0 ? t.available_low_percent : 10;
    t.repurposed_percent = t.repurposed_percent != 0 ? t.repurposed_percent : 50;
    t.leak_growth_pages = t.leak_growth_pages != 0 ? t.leak_growth_pages : 256;
    t.leak_working_set_percent = t.leak_working_set_percent != 0 ? t.leak_working_set_percent : 25;
    t.leak_peak_percent = t.leak_peak_percent != 0 ? t.leak_peak_percent : 99;
    t.commit_percent = t.commit_percent != 0 ? t.commit_percent : 90;
    return t;
}

/* What one space did between the snapshots. */
struct change {
    uint64_t id;
    uint64_t hard;
    int64_t private_growth, working_set_growth;
    uint64_t private_pages, peak_private_pages;
};

static struct change change_of(const tide_space_sample *before, const tide_space_sample *after)
{
    static const tide_space_sample nothing;

    if (before == NULL)
        before = &nothing;
    return (struct change){ .id = after->id,
                            .hard = after->faults.hard - before->faults.hard,
                            .private_growth = (int64_t)(after->private_pages - before->private_pages),
                            .working_set_growth = (int64_t)(after->working_set_pages - before->working_set_pages),
                            .private_pages = after->private_pages,
                            .peak_private_pages = after->peak_private_pages };
}

static bool is_leak(const struct change *change, const tide_pressure_thresholds *t)
{
    return change->private_growth >= (int64_t)t->leak_growth_pages &&
           change->working_set_growth * 100 <= change->private_growth * (int64_t)t->leak_working_set_percent &&
           change->private_pages * 100 >= change->peak_private_pages * t->leak_peak_percent;
}

/* The changes that matter, of all spaces. */
struct changes {
    struct change leaker; /* private_growth 0 if there is none */
    struct change grower; /* whose commit grew most, leak or not */
    struct change reader; /* with the most hard faults */
    uint64_t readers;
    uint64_t hard;
};

static void changes_collect(const tide_pressure_snapshot *before, const tide_pressure_snapshot *after,
                            const tide_pressure_thresholds *t, double seconds, struct changes *changes)
{
    uint64_t b = 0;

    memset(changes, 0, sizeof *changes);
    for (uint64_t a = 0; a < after->space_count; a++) {
        while (b < before->space_count && before->spaces[b].id < after->spaces[a].id)
            b++;
        const bool known = b < before->space_count && before->spaces[b].id == after->spaces[a].id;
        const struct change change = change_of(known ? &before->spaces[b] : NULL, &after->spaces[a]);

        changes->hard += change.hard;
        changes->readers += (double)change.hard >= t->hard_faults_per_second * seconds;
        if (change.hard > changes->reader.hard)
            changes->reader = change;
        if (change.private_growth > changes->grower.private_growth)
            changes->grower = change;
        if (is_leak(&change, t) && change.private_growth > changes->leaker.private_growth)
            changes->leaker = change;
    }
}

static void explain(const struct changes *changes, tide_pressure_verdict *v)
{
    const double available = 100.0 * (double)v->available_pages / (double)(v->total_pages == 0 ? 1 : v->total_pages);
    const double mib = TIDE_PAGE_BYTES / 1048576.0;
    char who[96] = "";

    switch (v->kind) {
    case TIDE_PRESSURE_COMMIT_NEAR:
        if (v->space != 0)
            (void)snprintf(who, sizeof who, "; space %lu grew most, by %.1f MiB in %.1f s", v->space,
                           (double)v->private_growth_pages * mib, v->seconds);
        (void)snprintf(v->explanation, sizeof v->explanation,
                       "Commit is nearly exhausted: %lu of at most %lu pages are charged (%.0f %%)%s.", v->commit_pages,
                       v->commit_limit_maximum_pages,
                       100.0 * (double)v->commit_pages /
                           (double)(v->commit_limit_maximum_pages == 0 ? 1 : v->commit_limit_maximum_pages),
                       who);
        break;
    case TIDE_PRESSURE_THRASH:
        (void)snprintf(
            v->explanation, sizeof v->explanation,
            "Thrash: %lu spaces took %.0f hard faults a second together while %.1f %% of memory was available "
            "and %lu pages were repurposed for %lu read; they need more memory than there is.",
            v->reading_spaces, v->hard_faults_per_second, available, v->repurposed_pages, v->pages_input);
        break;
    case TIDE_PRESSURE_LEAK_SUSPECT:
        (void)snprintf(v->explanation, sizeof v->explanation,
                       "Leak suspect: private commit of space %lu grew by %.1f MiB in %.1f s to its peak of %.1f MiB, "
                       "while its working set changed by %+.1f MiB.",
                       v->space, (double)v->private_growth_pages * mib, v->seconds,
                       (double)changes->leaker.peak_private_pages * mib, (double)v->working_set_growth_pages * mib);
        break;
    case TIDE_PRESSURE_STREAMING:
        (void)snprintf(v->explanation, sizeof v->explanation,
                       "No pressure: %lu space(s) read much (%.0f hard faults a second, most of them space %lu), "
                       "%.1f %% of memory is available and %lu pages were repurposed for %lu read.",
                       v->reading_spaces, v->hard_faults_per_second, v->space, available, v->repurposed_pages,
                       v->pages_input);
        break;
    default:
        (void)snprintf(v->explanation, sizeof v->explanation,
                       "No pressure: %.1f %% of memory is available, %.0f hard faults a second, %lu of %lu pages of "
                       "commit are charged.",
                       available, v->hard_faults_per_second, v->commit_pages, v->commit_limit_maximum_pages);
    }
}

tide_status tide_pressure_classify(const tide_pressure_snapshot *before, const tide_pressure_snapshot *after,
                                   const tide_pressure_thresholds *thresholds, tide_pressure_verdict *v)
{
    const tide_pressure_thresholds t = thresholds_of(thresholds);
    struct changes changes;
    tide_rates rates;

    if (before == NULL || after == NULL || v == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a snapshot or the place for the verdict is NULL");
    const tide_status status = tide_statistics_rates(&before->statistics, &after->statistics, &rates);
    if (tide_failed(status))
        return status;
    const tide_statistics *now = &after->statistics;
    changes_collect(before, after, &t, rates.seconds, &changes);
    memset(v, 0, sizeof *v);
    v->seconds = rates.seconds;
    v->reading_spaces = changes.readers;
    v->hard_faults_per_second = (double)changes.hard / rates.seconds;
    v->available_pages = now->available_pages;
    v->total_pages = now->total_pages;
    v->pages_input = now->pages_input - before->statistics.pages_input;
    v->repurposed_pages = now->transition_pages_repurposed - before->statistics.transition_pages_repurposed;
    v->commit_pages = now->commit_total_pages;
    v->commit_limit_maximum_pages = now->commit_limit_maximum_pages;

    const bool few = v->available_pages * 100 < v->total_pages * t.available_low_percent;
    const bool many_repurposed =
        v->repurposed_pages != 0 && v->repurposed_pages * 100 >= v->pages_input * t.repurposed_percent;
    if (v->commit_pages * 100 >= v->commit_limit_maximum_pages * t.commit_percent)
        v->kinds |= 1u << TIDE_PRESSURE_COMMIT_NEAR;
    if (changes.readers >= t.thrash_spaces && few && many_repurposed)
        v->kinds |= 1u << TIDE_PRESSURE_THRASH;
    else if (changes.readers != 0)
        v->kinds |= 1u << TIDE_PRESSURE_STREAMING;
    if (changes.leaker.private_growth > 0)
        v->kinds |= 1u << TIDE_PRESSURE_LEAK_SUSPECT;
    v->kind = TIDE_PRESSURE_NONE;
    for (unsigned kind = TIDE_PRESSURE_STREAMING; kind <= TIDE_PRESSURE_COMMIT_NEAR; kind++)
        if (v->kinds & (1u << kind))
            v->kind = (tide_pressure_kind)kind;
    const struct change *about = v->kind == TIDE_PRESSURE_COMMIT_NEAR    ? &changes.grower
                                 : v->kind == TIDE_PRESSURE_LEAK_SUSPECT ? &changes.leaker
                                                                         : &changes.reader;
    v->space = about->id;
    v->private_growth_pages = about->private_growth;
    v->working_set_growth_pages = about->working_set_growth;
    explain(&changes, v);
    return TIDE_SUCCESS;
}

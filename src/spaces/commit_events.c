/*
 * Low, high and maximum commit (nt-behaviour 17): the conditions over the commit charge.
 *
 * Evaluated where the charge leaves the CPUs' credits: refills, large charges, the decision at the limit, returns that
 * a credit has no room for, changes of the limit. The true charge lies between the global word less what all credits
 * could hold and the global word itself. Where both ends give the same answer, as they do but near a threshold, no
 * credit is read.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "spaces/commit.h"

uint64_t commit_maximum_limit(const struct commit *commit)
{
    return sync_load_64(&commit->maximum);
}

tide_status commit_events_init(struct commit *commit, unsigned low_percent, unsigned high_percent)
{
    enum { LOW_DEFAULT = 50, HIGH_DEFAULT = 90 };
    struct commit_events *events = &commit->events;

    events->low_percent = low_percent != 0 ? low_percent : LOW_DEFAULT;
    events->high_percent = high_percent != 0 ? high_percent : HIGH_DEFAULT;
    if (events->high_percent > 100 || events->low_percent > events->high_percent)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "low_commit_event_percent %u, high_commit_event_percent %u; they must ascend and the most is "
                         "100",
                         events->low_percent, events->high_percent);
    return TIDE_SUCCESS;
}

void commit_events_thresholds(const struct commit *commit, struct commit_thresholds *thresholds)
{
    const struct commit_events *events = &commit->events;
    const uint64_t limit = sync_load_64(&commit->limit);
    const uint64_t maximum = commit_maximum_limit(commit);

    /* Rounded up: a charge has reached a share of the limit when it is not below it. */
    thresholds->low = (limit * events->low_percent + 99) / 100;
    thresholds->high = (limit * events->high_percent + 99) / 100;
    thresholds->maximum = (maximum * events->high_percent + 99) / 100;
}

static uint32_t conditions(const struct commit_thresholds *thresholds, uint64_t charge)
{
    return (charge < thresholds->low ? 1u << COMMIT_EVENT_LOW : 0) |
           (charge >= thresholds->high ? 1u << COMMIT_EVENT_HIGH : 0) |
           (charge >= thresholds->maximum ? 1u << COMMIT_EVENT_MAXIMUM : 0);
}

static uint32_t evaluate(void *context)
{
    struct commit *commit = context;
    const uint64_t in_credits = commit->cpu_count * (uint64_t)COMMIT_CREDIT_MAX;
    const uint64_t most = commit_charged_bound(commit);
    struct commit_thresholds thresholds;

    commit_events_thresholds(commit, &thresholds);
    const uint32_t now = conditions(&thresholds, most);
    if (conditions(&thresholds, most > in_credits ? most - in_credits : 0) == now)
        return now;
    return conditions(&thresholds, commit_total(commit));
}

uint32_t commit_events_update(struct commit *commit)
{
    return notifications_update(&commit->events.notifications, evaluate, commit);
}

void commit_events_look(struct commit *commit)
{
    if (notifications_watched(&commit->events.notifications))
        notifications_look(&commit->events.notifications, evaluate, commit);
}

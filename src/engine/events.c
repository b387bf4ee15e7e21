/*
 * Memory events as the program sees them. The lists own low and high memory (frames/events.c), the charge owns those of
 * commit (spaces/commit_events.c); here is only which of them an event is.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

static tide_status event_check(const tide_engine *engine, tide_memory_event event, const void *out)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if ((unsigned)event >= TIDE_MEMORY_EVENT_COUNT)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "memory event %u; the highest is %u", (unsigned)event,
                         TIDE_MEMORY_EVENT_COUNT - 1);
    if (out == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the answer on memory event %u is NULL",
                         (unsigned)event);
    return TIDE_SUCCESS;
}

static bool is_of_memory(tide_memory_event event)
{
    return event <= TIDE_EVENT_HIGH_MEMORY || event == TIDE_EVENT_MEMORY_ERRORS;
}

/* The event's bit in its group. */
static unsigned index_of(tide_memory_event event)
{
    switch (event) {
    case TIDE_EVENT_LOW_MEMORY:
        return FRAMES_EVENT_LOW;
    case TIDE_EVENT_HIGH_MEMORY:
        return FRAMES_EVENT_HIGH;
    case TIDE_EVENT_MEMORY_ERRORS:
        return FRAMES_EVENT_ERRORS;
    case TIDE_EVENT_LOW_COMMIT:
        return COMMIT_EVENT_LOW;
    case TIDE_EVENT_HIGH_COMMIT:
        return COMMIT_EVENT_HIGH;
    default:
        return COMMIT_EVENT_MAXIMUM;
    }
}

static uint32_t update(tide_engine *engine, tide_memory_event event)
{
    return is_of_memory(event) ? frames_events_update(engine->partition.frames)
                               : commit_events_update(&engine->partition.commit);
}

tide_status tide_memory_event_fd(tide_engine *engine, tide_memory_event event, int *fd)
{
    tide_status status = event_check(engine, event, fd);
    int made;

    if (tide_failed(status))
        return status;
    status = notifications_fd(is_of_memory(event) ? &engine->partition.frames->events.notifications
                                                  : &engine->partition.commit.events.notifications,
                              index_of(event), &made);
    if (tide_failed(status))
        return status;
    (void)update(engine, event);
    *fd = made;
    return TIDE_SUCCESS;
}

tide_status tide_memory_event_query(tide_engine *engine, tide_memory_event event, bool *set)
{
    const tide_status status = event_check(engine, event, set);

    if (!tide_failed(status)) {
        partition_events_look(&engine->partition);
        *set = ((update(engine, event) >> index_of(event)) & 1) != 0;
    }
    return status;
}

tide_status tide_memory_thresholds_get(tide_engine *engine, tide_memory_thresholds *thresholds)
{
    const tide_status status = engine_check(engine);
    struct commit_thresholds commit;

    if (tide_failed(status))
        return status;
    if (thresholds == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the thresholds is NULL");
    commit_events_thresholds(&engine->partition.commit, &commit);
    *thresholds = (tide_memory_thresholds){ .low_memory_pages = engine->partition.frames->events.low_pages,
                                            .high_memory_pages = engine->partition.frames->events.high_pages,
                                            .low_commit_pages = commit.low,
                                            .high_commit_pages = commit.high,
                                            .maximum_commit_pages = commit.maximum };
    return TIDE_SUCCESS;
}

/*
 * Public calls on working sets: arguments are checked here, then spaces/ does the work.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

enum {
    HARD = TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM,
    SOFT = TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM,
};

/* ---- limits ----------------------------------------------------------------------------------------------------- */

static tide_status limits_check(const tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t flags)
{
    const uint64_t largest = working_set_largest(space->partition);

    if ((flags & ~(uint32_t)(HARD | SOFT)) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "working set flags 0x%x; known are 0x%x", flags, HARD | SOFT);
    if ((flags & HARD & (flags >> 1)) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "working set flags 0x%x make one limit hard and soft at once",
                         flags);
    if (minimum == UINT64_MAX && maximum == UINT64_MAX)
        return TIDE_SUCCESS;
    if (minimum == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a minimum of 0 pages; the least is 1");
    if (maximum < WORKING_SET_LEAST_MAXIMUM)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a maximum of %lu pages; the least is %u", maximum,
                         WORKING_SET_LEAST_MAXIMUM);
    if (maximum < minimum)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a maximum of %lu pages below the minimum of %lu", maximum,
                         minimum);
    if (maximum > largest)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a maximum of %lu pages; the most is %lu in an engine of %lu",
                         maximum, largest, frames_usable(space_frames(space)));
    return TIDE_SUCCESS;
}

/*
 * Checks what all hard minimums come to, and changes the limits; `after` says which are hard then. The engine's list of
 * spaces is locked.
 */
static tide_status limits_set_locked(tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t after)
{
    struct partition *partition = space->partition;
    const struct working_set *set = &space->working_set;
    const uint64_t largest = working_set_largest(partition);
    const uint32_t before = sync_load_32(&set->flags);
    const uint64_t others =
        partition->hard_minimum_pages - (before & TIDE_WORKING_SET_HARD_MINIMUM ? sync_load_64(&set->minimum) : 0);
    const uint64_t own = after & TIDE_WORKING_SET_HARD_MINIMUM ? minimum : 0;

    if (own > largest - others)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0,
                         "a hard minimum of %lu pages beside %lu of other spaces; all together may be %lu", own, others,
                         largest);
    working_set_limits_set(space, minimum, maximum, after);
    partition->hard_minimum_pages = others + own;
    return TIDE_SUCCESS;
}

static tide_status limits_set(tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t flags)
{
    tide_engine *engine = engine_of(space);
    struct partition *partition = space->partition;
    struct grace *grace = &space_frames(space)->grace;
    struct quiet quiet;

    /*
     * Two calls on one space go one after the other, by the world's lock; so what is read here of the flags stays.
     * The world is stopped for a hard maximum only: without one nobody counts on where the others are.
     */
    quiet_lock(&engine->world, &quiet);
    const uint32_t after = ((sync_load_32(&space->working_set.flags) | flags) & HARD) & ~(flags >> 1);
    const bool stop = (after & TIDE_WORKING_SET_HARD_MAXIMUM) != 0;
    if (stop)
        grace_world_stop(grace);
    sync_lock(&partition->lock);
    const tide_status status = limits_set_locked(space, minimum, maximum, after);
    sync_unlock(&partition->lock);
    if (stop)
        grace_world_resume(grace);
    quiet_unlock(&engine->world, &quiet);
    return status;
}

tide_status tide_working_set_set_limits(tide_space *space, uint64_t minimum_pages, uint64_t maximum_pages,
                                        uint32_t flags)
{
    tide_status status = space_check(space);

    if (!tide_failed(status))
        status = limits_check(space, minimum_pages, maximum_pages, flags);
    if (tide_failed(status))
        return status;
    if (maximum_pages == UINT64_MAX)
        return tide_working_set_empty(space);
    if (minimum_pages < WORKING_SET_LEAST_MINIMUM)
        minimum_pages = maximum_pages < WORKING_SET_LEAST_MINIMUM ? maximum_pages : WORKING_SET_LEAST_MINIMUM;
    status = limits_set(space, minimum_pages, maximum_pages, flags);
    if (!tide_failed(status))
        frames_check_all_thresholds(space_frames(space));
    return status;
}

tide_status tide_working_set_get_limits(tide_space *space, uint64_t *minimum_pages, uint64_t *maximum_pages,
                                        uint32_t *flags)
{
    struct quiet quiet;
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (minimum_pages == NULL || maximum_pages == NULL || flags == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a place for the limits is NULL");
    struct working_set *set = &space->working_set;
    quiet_lock(&set->lock, &quiet);
    const uint64_t minimum = set->minimum, maximum = set->maximum;
    const uint32_t now = set->flags;
    quiet_unlock(&set->lock, &quiet);
    *minimum_pages = minimum;
    *maximum_pages = maximum;
    *flags = now | (~now & HARD) << 1;
    return TIDE_SUCCESS;
}

/* ---- trimming --------------------------------------------------------------------------------------------------- */

tide_status tide_working_set_trim(tide_space *space, uint64_t pages, uint64_t *trimmed)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread == NULL)
        return status;
    const uint64_t done = working_set_trim_oldest(space, pages);
    frames_check_all_thresholds(space_frames(space));
    grace_leave(thread);
    if (trimmed != NULL)
        *trimmed = done;
    return TIDE_SUCCESS;
}

tide_status tide_working_set_empty(tide_space *space)
{
    const struct working_set_choice all = { .node = TIDE_NO_PREFERRED_NODE, .accessed_too = true };
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        (void)working_set_trim(space, all, UINT64_MAX);
        frames_check_all_thresholds(space_frames(space));
        grace_leave(thread);
    }
    return status;
}

/* ---- watching --------------------------------------------------------------------------------------------------- */

tide_status tide_working_set_watch_begin(tide_space *space, uint64_t capacity)
{
    QUIET_SCOPE();
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (capacity == 0 || capacity > TIDE_WORKING_SET_WATCH_MAX)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a watch of %lu records; 1 to %u are possible", capacity,
                         TIDE_WORKING_SET_WATCH_MAX);
    return working_set_watch_begin(space, capacity);
}

tide_status tide_working_set_watch_end(tide_space *space)
{
    QUIET_SCOPE();
    const tide_status status = space_check(space);

    if (!tide_failed(status))
        working_set_watch_end(space);
    return status;
}

tide_status tide_working_set_changes_get(tide_space *space, tide_working_set_change *changes, uint64_t *count,
                                         uint64_t *lost)
{
    QUIET_SCOPE();
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (count == NULL || (changes == NULL && *count != 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the %s is NULL",
                         count == NULL ? "count" : "records");
    return working_set_watch_take(space, changes, count, lost);
}

/*
 * Public calls on spaces: arguments are checked here, then the layers do the work.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

tide_status tide_space_create(tide_engine *engine, tide_space **out)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (out == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the space is NULL");
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    grace_enter(thread);
    const tide_status created = space_create(&engine->partition, thread, out);
    grace_leave(thread);
    return created;
}

tide_status tide_space_destroy(tide_space *space)
{
    tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    const uint64_t pins = sync_load_64(&space->pins);
    if (pins != 0)
        return error_set(TIDE_DEVICE_BUSY, 0, 0, "%lu pins on the space are held; there must be 0", pins);
    if (grace_space_in_use(&space_frames(space)->grace, space))
        return error_set(TIDE_DEVICE_BUSY, 0, 0, "an access section on the space is open; there must be 0");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        space_destroy(space, thread);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_working_set_set_limits(tide_space *space, uint64_t minimum_pages, uint64_t maximum_pages,
                                        uint32_t flags)
{
    enum { LEAST_MINIMUM = 20, LEAST_MAXIMUM = 13 };
    const uint32_t known = TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM;
    tide_status status;

    if ((flags & ~known) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "working set flags 0x%x; known are 0x%x", flags, known);
    if (maximum_pages < LEAST_MAXIMUM)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a maximum of %lu pages; the least is %u", maximum_pages,
                         LEAST_MAXIMUM);
    if (maximum_pages < minimum_pages)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a maximum of %lu pages below the minimum of %lu", maximum_pages,
                         minimum_pages);
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    struct working_set *set = &space->working_set;
    sync_lock(&set->lock);
    sync_store_64(&set->minimum, minimum_pages < LEAST_MINIMUM ? LEAST_MINIMUM : minimum_pages);
    sync_store_64(&set->maximum, maximum_pages);
    sync_store_32(&set->flags, flags);
    sync_store_32(&space->hard_maximum, (flags & TIDE_WORKING_SET_HARD_MAXIMUM) != 0);
    sync_unlock(&set->lock);
    if (flags & TIDE_WORKING_SET_HARD_MAXIMUM) {
        const struct working_set_choice all = { .node = TIDE_NO_PREFERRED_NODE, .accessed_too = true };
        const uint64_t pages = space_working_set_pages(space);
        if (pages > maximum_pages)
            (void)working_set_trim(space, all, pages - maximum_pages);
    }
    grace_leave(thread);
    return TIDE_SUCCESS;
}

/* Trimmed on request: the writers may have something to do now. */
static void writers_check(tide_space *space)
{
    struct frames *frames = space_frames(space);

    for (unsigned n = 0; n < frames->node_count; n++)
        frames_check_thresholds(frames, n);
}

tide_status tide_working_set_trim(tide_space *space, uint64_t pages, uint64_t *trimmed)
{
    struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE, .age = PTE_AGE_MAX };
    tide_status status;
    uint64_t done = 0;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread == NULL)
        return status;
    /* Oldest first: by age from the highest down to 0, then accessed ones. */
    struct working_set_ages ages = { { 0 } };
    working_set_age(space, TIDE_NO_PREFERRED_NODE, &ages);
    for (unsigned age = WORKING_SET_AGES; age-- > 0 && done < pages;) {
        if (ages.pages[age] == 0)
            continue;
        choice.age = age;
        done += working_set_trim(space, choice, pages - done);
    }
    choice.accessed_too = true;
    if (done < pages)
        done += working_set_trim(space, choice, pages - done);
    writers_check(space);
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
        writers_check(space);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_space_set_priority(tide_space *space, unsigned priority)
{
    const unsigned highest = 5;
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (priority > highest)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "memory priority %u; the highest that can be set is %u",
                         priority, highest);
    sync_store_32(&space->priority, priority);
    return TIDE_SUCCESS;
}

tide_status tide_space_set_commit_limit(tide_space *space, uint64_t pages)
{
    const tide_status status = space_check(space);

    if (!tide_failed(status))
        commit_limit_set(&space->commit, pages);
    return status;
}

/*
 * Public calls on spaces: arguments are checked here, then the layers do the work.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

tide_status engine_space_create(tide_engine *engine, const tide_mapped_options *mapped, tide_space **out)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (out == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the space is NULL");
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    tide_space *space;
    tide_status created;
    do { /* a space is charged its first table */
        grace_enter(thread);
        created = space_create(&engine->partition, thread, mapped, &space);
        grace_leave(thread);
    } while (created == TIDE_COMMITMENT_LIMIT && engine->partition.extend(&engine->partition, thread, 1));
    if (!tide_failed(created))
        *out = space;
    return created;
}

tide_status tide_space_create(tide_engine *engine, tide_space **out)
{
    return engine_space_create(engine, NULL, out);
}

tide_status tide_space_range(const tide_space *space, tide_address *lowest, tide_address *highest)
{
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (lowest == NULL || highest == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the %s address is NULL",
                         lowest == NULL ? "lowest" : "highest");
    *lowest = space->lowest_page * TIDE_PAGE_BYTES;
    *highest = (space->highest_page + 1) * TIDE_PAGE_BYTES - 1;
    return TIDE_SUCCESS;
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
        struct frames *frames = space_frames(space);
        const bool mapped = space->mapping != NULL;

        if (mapped)
            engine_delivery_end(space);
        space_destroy(space, thread);
        grace_leave(thread);
        frames_events_freed(frames);
    }
    return status;
}

tide_status tide_space_set_commit_limit(tide_space *space, uint64_t pages)
{
    QUIET_SCOPE();
    const tide_status status = space_check(space);

    if (!tide_failed(status))
        space_commit_limit_set(space, pages);
    return status;
}

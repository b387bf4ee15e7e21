/*
 * Bad frames, from a note to the bad list: the engine's part (frames/bad.c has the idea, spaces/bad_page.c the pages).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <errno.h>

/* The limits count the memory that there is. World stopped, or locked: one at a time. */
static void limits_lower(struct partition *partition)
{
    const uint64_t listed = sync_load_64(&partition->frames->bad.listed);

    for (uint64_t left = listed - sync_load_64(&partition->bad_frames_lowered); left > 0; left--) {
        const uint64_t resident = sync_load_64(&partition->resident_limit);

        /* An engine that has nothing left but its reserve has no limit left to lower. */
        if (sync_load_64(&partition->commit.limit) == 0)
            break;
        if (resident != 0)
            sync_store_64(&partition->resident_limit, resident - 1);
        commit_limit_lower(&partition->commit, 1);
        (void)sync_add_64(&partition->bad_frames_lowered, 1);
    }
}

/* One noted frame, in a stopped world. */
static void frame_settle(struct partition *partition, frame_t frame, tide_retirement *retirement)
{
    static const tide_retire_outcome outcomes[] = { [BAD_PAGE_NONE] = TIDE_RETIRE_UNUSED,
                                                    [BAD_PAGE_BACKED] = TIDE_RETIRE_BACKED,
                                                    [BAD_PAGE_LOST] = TIDE_RETIRE_LOST,
                                                    [BAD_PAGE_PINNED] = TIDE_RETIRE_PINNED,
                                                    [BAD_PAGE_TABLE] = TIDE_RETIRE_TABLE };
    tide_space *space;
    uint64_t page;
    const enum bad_page_outcome outcome = bad_page_take(partition, frame, &space, &page);

    *retirement = (tide_retirement){ .outcome = outcomes[outcome],
                                     .space = space == NULL ? 0 : space->id,
                                     .address = space == NULL ? 0 : page * TIDE_PAGE_BYTES };
}

/*
 * Settles all that are noted, and `wanted`, unless it is FRAME_NONE; *retirement is that of `wanted`, and stays as it
 * is if that was on the bad list. It is noted only here, so that nobody else settles it first.
 */
static void settle(tide_engine *engine, frame_t wanted, tide_retirement *retirement)
{
    struct partition *partition = &engine->partition;
    struct frames *frames = partition->frames;
    struct quiet quiet;

    quiet_lock(&engine->world, &quiet);
    grace_world_stop(&frames->grace);
    (void)frames_bad_changed(frames);
    if (!frame_is_none(wanted))
        (void)frames_bad_note(frames, wanted);
    if (sync_load_32(&frames->bad.pending) != 0)
        frames_drain_caches(frames);
    for (uint32_t from = 0; sync_load_32(&frames->bad.pending) != 0;) {
        const frame_t frame = frames_bad_next(frames, from);
        tide_retirement found;

        if (frame_is_none(frame))
            break;
        frame_settle(partition, frame, &found);
        if (frame.number == wanted.number)
            *retirement = found;
        from = frame.number + 1;
    }
    limits_lower(partition);
    (void)frames_bad_changed(frames);
    grace_world_resume(&frames->grace);
    quiet_unlock(&engine->world, &quiet);
    partition_events_look(partition);
    frames_check_all_thresholds(frames);
}

void engine_bad_settle(struct partition *partition)
{
    tide_retirement unused;

    settle((tide_engine *)(void *)partition, FRAME_NONE, &unused);
}

tide_status engine_bad_access(tide_space *space, frame_t frame, tide_address address)
{
    struct frames *frames = space_frames(space);

    engine_bad_settle(space->partition);
    if (pfn_state(sync_load_64(&frame_pfn(frames, frame)->word)) == FRAME_BAD)
        return TIDE_SUCCESS;
    return error_set(TIDE_IN_PAGE_ERROR, EHWPOISON, address,
                     "the memory of address 0x%lx is bad, in frame %u, which is pinned", address, frame.number);
}

tide_status tide_frame_retire(tide_engine *engine, uint64_t number, tide_retirement *out)
{
    tide_status status = engine_check(engine);
    tide_retirement retirement = { .outcome = TIDE_RETIRE_ALREADY };

    if (!tide_failed(status))
        status = engine_frame_check(engine, number);
    if (tide_failed(status))
        return status;
    const frame_t frame = { (uint32_t)number };
    settle(engine, frame, &retirement);
    if (out != NULL)
        *out = retirement;
    if (retirement.outcome == TIDE_RETIRE_TABLE)
        return error_set(
            TIDE_HARDWARE_MEMORY_ERROR, EHWPOISON, 0,
            "frame %u is a page table, which cannot be made good; its frame stays in use until it is freed",
            frame.number);
    return retirement.outcome == TIDE_RETIRE_PINNED ? TIDE_PENDING : TIDE_SUCCESS;
}

tide_status tide_frame_retire_at(tide_engine *engine, const void *pointer, tide_retirement *out)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    const struct frames *frames = engine->partition.frames;
    const uint64_t offset = (uint64_t)(uintptr_t)pointer - (uint64_t)(uintptr_t)frames->memory;
    if ((uintptr_t)pointer < (uintptr_t)frames->memory || !frames_number_exists(frames, offset / TIDE_PAGE_BYTES))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%p lies in no frame of the engine", pointer);
    return tide_frame_retire(engine, offset / TIDE_PAGE_BYTES, out);
}

/*
 * Watching working sets: a record of each fault of a space, for who wants to know which pages a program uses
 * (nt-behaviour 15: InitializeProcessForWsWatch, GetWsChangesEx).
 *
 * The records are an array of a size given at the begin; what comes when it is full is counted and lost, as in NT. A
 * fault looks at space->watched, which is read by all and nearly never written; only then does it come here, and takes
 * the watch's lock, which is the last one but those of commit and frames and held for a store of 24 bytes. The flag
 * may be late either way: what counts is whether there is an array once the lock is held.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "spaces/space.h"

#include <string.h>

void working_set_watch_note(tide_space *space, const struct grace_thread *thread, tide_address address,
                            tide_status fault)
{
    struct working_set_watch *watch = &space->watch;

    sync_lock(&watch->lock);
    if (watch->changes != NULL && watch->count < watch->capacity)
        watch->changes[watch->count++] =
            (tide_working_set_change){ .address = address, .thread_id = (uint64_t)thread->tid, .fault = fault };
    else if (watch->changes != NULL)
        watch->lost++;
    sync_unlock(&watch->lock);
}

/* Puts another array, or none, in the place of the one that is there, which is freed. */
static void watch_exchange(tide_space *space, tide_working_set_change *changes, uint64_t capacity)
{
    struct working_set_watch *watch = &space->watch;

    sync_lock(&watch->lock);
    tide_working_set_change *old = watch->changes;
    watch->changes = changes;
    const size_t old_bytes = watch->capacity * sizeof *old;
    watch->capacity = capacity;
    watch->count = watch->lost = 0;
    sync_store_32(&space->watched, changes != NULL);
    sync_unlock(&watch->lock);
    os_memory_free(old, old_bytes);
}

tide_status working_set_watch_begin(tide_space *space, uint64_t capacity)
{
    /* Not by malloc(): faults write there, and its memory may lie in a mapped space. */
    tide_working_set_change *changes = os_memory_reserve(capacity * sizeof *changes, TIDE_PAGE_BYTES);

    if (changes == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for %lu records of faults", capacity);
    watch_exchange(space, changes, capacity);
    return TIDE_SUCCESS;
}

void working_set_watch_end(tide_space *space)
{
    watch_exchange(space, NULL, 0);
}

/* The records go by way of a copy: the caller's place for them may fault, which is a record of its own. */
tide_status working_set_watch_take(tide_space *space, tide_working_set_change *changes, uint64_t *count, uint64_t *lost)
{
    struct working_set_watch *watch = &space->watch;
    const uint64_t room = *count < TIDE_WORKING_SET_WATCH_MAX ? *count : TIDE_WORKING_SET_WATCH_MAX;
    const size_t copy_bytes = (room + 1) * sizeof *changes;
    tide_working_set_change *copy = os_memory_reserve(copy_bytes, TIDE_PAGE_BYTES);
    uint64_t noted_lost = 0;
    tide_status status = TIDE_SUCCESS;

    if (copy == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    sync_lock(&watch->lock);
    const uint64_t noted = watch->count;
    const bool is_watched = watch->changes != NULL;
    if (is_watched && noted <= room) {
        if (noted != 0)
            memcpy(copy, watch->changes, noted * sizeof *copy);
        noted_lost = watch->lost;
        watch->count = watch->lost = 0;
    }
    sync_unlock(&watch->lock);
    if (!is_watched)
        status = error_set(TIDE_INVALID_PARAMETER, 0, 0, "the working set is not watched");
    else if (room < noted)
        status = error_set(TIDE_BUFFER_TOO_SMALL, 0, 0, "room for %lu records; %lu are needed", room, noted);
    else if (noted != 0)
        memcpy(changes, copy, noted * sizeof *copy);
    os_memory_free(copy, copy_bytes);
    if (is_watched)
        *count = noted;
    if (!tide_failed(status) && lost != NULL)
        *lost = noted_lost;
    return status;
}

/*
 * Public calls on memory priorities and background mode (nt-behaviour 13).
 *
 * What a fault reads is one word: of the thread (one more than its priority, 0 for none of its own), or of the space.
 * What was set lies beside it, and background mode is worked into the word when either changes. A thread's are its
 * own; a space's change under its working set's lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

enum { HIGHEST_SETTABLE = TIDE_PRIORITY_NORMAL, BACKGROUND = TIDE_PRIORITY_VERY_LOW };

static tide_status priority_check(unsigned priority)
{
    if (priority > HIGHEST_SETTABLE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "memory priority %u; the highest that can be set is %u",
                         priority, HIGHEST_SETTABLE);
    return TIDE_SUCCESS;
}

/* Before the first page can have it: from now on whoever chooses pages looks at their priorities. */
static void priorities_use(struct partition *partition)
{
    if (sync_load_32(&partition->priorities_used) == 0)
        sync_store_32(&partition->priorities_used, 1);
}

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

/* With the working set's lock held. */
static void space_priority_publish(tide_space *space)
{
    const unsigned own = space->working_set.priority;
    const unsigned now = space->background && own > BACKGROUND ? BACKGROUND : own;

    if (now != TIDE_PRIORITY_NORMAL)
        priorities_use(space->partition);
    sync_store_32(&space->priority, now);
}

tide_status tide_space_set_priority(tide_space *space, unsigned priority)
{
    struct quiet quiet;
    tide_status status = space_check(space);

    if (!tide_failed(status))
        status = priority_check(priority);
    if (tide_failed(status))
        return status;
    quiet_lock(&space->working_set.lock, &quiet);
    space->working_set.priority = priority;
    space_priority_publish(space);
    quiet_unlock(&space->working_set.lock, &quiet);
    return TIDE_SUCCESS;
}

tide_status tide_space_get_priority(tide_space *space, unsigned *priority)
{
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (priority == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the priority is NULL");
    *priority = sync_load_32(&space->priority);
    return TIDE_SUCCESS;
}

static tide_status space_background(tide_space *space, bool on)
{
    struct quiet quiet;
    tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    quiet_lock(&space->working_set.lock, &quiet);
    if ((space->background != 0) == on) {
        status = on ? error_set(TIDE_PROCESS_MODE_ALREADY_BACKGROUND, 0, 0, "the space is in background mode already")
                    : error_set(TIDE_PROCESS_MODE_NOT_BACKGROUND, 0, 0, "the space is not in background mode");
    } else {
        sync_store_32(&space->background, on);
        space_priority_publish(space);
    }
    quiet_unlock(&space->working_set.lock, &quiet);
    return status;
}

tide_status tide_space_background_begin(tide_space *space)
{
    return space_background(space, true);
}

tide_status tide_space_background_end(tide_space *space)
{
    return space_background(space, false);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

/* The calling thread's record, or NULL with *status set. */
static struct grace_thread *self(tide_engine *engine, tide_status *status)
{
    *status = engine_check(engine);
    if (tide_failed(*status))
        return NULL;
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        *status = TIDE_INSUFFICIENT_RESOURCES;
    return thread;
}

static void thread_priority_publish(tide_engine *engine, struct grace_thread *thread)
{
    /* With and without one of its own: 0 is "none", and more than any other in background mode. */
    const bool lower = thread->own_priority != 0 && thread->own_priority <= BACKGROUND + 1;

    if (thread->own_priority != 0 || thread->background)
        priorities_use(&engine->partition);
    thread->priority = thread->background && !lower ? BACKGROUND + 1 : thread->own_priority;
}

tide_status tide_thread_set_priority(tide_engine *engine, unsigned priority)
{
    tide_status status;
    struct grace_thread *thread = self(engine, &status);

    if (thread != NULL && priority != TIDE_PRIORITY_DEFAULT)
        status = priority_check(priority);
    if (tide_failed(status))
        return status;
    thread->own_priority = priority == TIDE_PRIORITY_DEFAULT ? 0 : priority + 1;
    thread_priority_publish(engine, thread);
    return TIDE_SUCCESS;
}

tide_status tide_thread_get_priority(tide_engine *engine, unsigned *priority)
{
    tide_status status;
    const struct grace_thread *thread = self(engine, &status);

    if (thread == NULL)
        return status;
    if (priority == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the priority is NULL");
    *priority = thread->priority == 0 ? TIDE_PRIORITY_DEFAULT : thread->priority - 1;
    return TIDE_SUCCESS;
}

static tide_status thread_background(tide_engine *engine, bool on)
{
    tide_status status;
    struct grace_thread *thread = self(engine, &status);

    if (thread == NULL)
        return status;
    if (thread->background == on)
        return on ? error_set(TIDE_THREAD_MODE_ALREADY_BACKGROUND, 0, 0, "the thread is in background mode already")
                  : error_set(TIDE_THREAD_MODE_NOT_BACKGROUND, 0, 0, "the thread is not in background mode");
    thread->background = on;
    thread_priority_publish(engine, thread);
    return TIDE_SUCCESS;
}

tide_status tide_thread_background_begin(tide_engine *engine)
{
    return thread_background(engine, true);
}

tide_status tide_thread_background_end(tide_engine *engine)
{
    return thread_background(engine, false);
}

/**
 * @file
 * Memory priorities and background mode (nt-behaviour 13).
 *
 * Each page carries a priority, taken from the thread that faults it: the thread's own, or else the space's. A soft
 * fault gives the page the toucher's present priority. It decides which standby list the page goes to, and so how soon
 * its frame is used for something else (lowest first), and which of two pages of one age is trimmed first. It reserves
 * no memory and does not touch the commit charge.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_PRIORITY_H
#define PAGETIDE_PRIORITY_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/* MEMORY_PRIORITY_ values. 6 and 7 belong to SuperFetch and cannot be set. */
#define TIDE_PRIORITY_LOWEST 0u
#define TIDE_PRIORITY_VERY_LOW 1u /**< of background mode */
#define TIDE_PRIORITY_LOW 2u
#define TIDE_PRIORITY_MEDIUM 3u
#define TIDE_PRIORITY_BELOW_NORMAL 4u
#define TIDE_PRIORITY_NORMAL 5u
#define TIDE_PRIORITY_DEFAULT 0xFFFFFFFFu /**< a thread without a priority of its own: the space's counts */

/**
 * Memory priority of the pages that the space faults from now on: SetProcessInformation(ProcessMemoryPriority). 0 to 5,
 * TIDE_PRIORITY_NORMAL at first. Takes effect at the end of background mode if the space is in it.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (6 and above); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_set_priority(tide_space *space, unsigned priority);

/**
 * The priority that pages of the space get now, background mode included: GetProcessInformation.
 * @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER (NULL), TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_get_priority(tide_space *space, unsigned *priority);

/**
 * Puts a space into background mode, or ends it: SetPriorityClass with PROCESS_MODE_BACKGROUND_BEGIN and _END. In it
 * the space's priority is 1 (or 0, if that was set), and the trimmer comes to it before others. Only the memory side
 * of the mode is here: threads are scheduled as before.
 * @return TIDE_SUCCESS; TIDE_PROCESS_MODE_ALREADY_BACKGROUND, TIDE_PROCESS_MODE_NOT_BACKGROUND; TIDE_INVALID_HANDLE.
 *   Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_background_begin(tide_space *space);
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_background_end(tide_space *space);

/**
 * Memory priority of what the calling thread faults in the engine from now on, in any space:
 * SetThreadInformation(ThreadMemoryPriority). It counts for more than a space's.
 * @param priority 0 to 5, or TIDE_PRIORITY_DEFAULT, as each thread is at first.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (6 and above); TIDE_INSUFFICIENT_RESOURCES (first call of the thread in
 *   the engine); TIDE_INVALID_HANDLE.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_set_priority(tide_engine *engine, unsigned priority);

/**
 * The calling thread's, background mode included; TIDE_PRIORITY_DEFAULT if it has none: GetThreadInformation.
 * @return also TIDE_INVALID_PARAMETER (NULL).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_get_priority(tide_engine *engine, unsigned *priority);

/**
 * Puts the calling thread into background mode in the engine, or ends it: SetThreadPriority with
 * THREAD_MODE_BACKGROUND_BEGIN and _END. In it the thread's priority is 1 (or 0, if that was set); afterwards it is
 * what it was, or what was set meanwhile.
 * @return TIDE_SUCCESS; TIDE_THREAD_MODE_ALREADY_BACKGROUND, TIDE_THREAD_MODE_NOT_BACKGROUND;
 *   TIDE_INSUFFICIENT_RESOURCES; TIDE_INVALID_HANDLE.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_background_begin(tide_engine *engine);
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_background_end(tide_engine *engine);

#ifdef __cplusplus
}
#endif
#endif

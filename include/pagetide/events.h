/**
 * @file
 * Memory events: how a program learns that memory or commit is short or ample, without asking all the time.
 *
 * Level-triggered: an event is set while its condition holds, and no waiter resets it. Between the low and the high
 * threshold of memory neither of its two events is set. Thresholds: tide_config.low_memory_event_pages and those after
 * it; tide_memory_thresholds_get() tells them.
 *
 * When conditions are looked at: on the engine's slow paths (a CPU's frame cache or commit credit is refilled or gives
 * back, thresholds of lists are looked at, memory is freed), by the trimmer threads at least every tenth of a second,
 * and at each query. So a descriptor follows its condition at once where the change is large, and within a tenth of a
 * second always. With TIDE_WORKERS_MANUAL the look-around is done by tide_worker_step(), tide_clock_advance(),
 * tide_engine_empty() and tide_memory_event_query() instead.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_EVENTS_H
#define PAGETIDE_EVENTS_H

#include <pagetide/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

/** NT's events of the same names under \\KernelObjects; the first two are MEMORY_RESOURCE_NOTIFICATION_TYPE. */
typedef enum tide_memory_event {
    TIDE_EVENT_LOW_MEMORY = 0,     /**< available pages of all nodes are below the low threshold */
    TIDE_EVENT_HIGH_MEMORY = 1,    /**< they are at or above the high threshold */
    TIDE_EVENT_LOW_COMMIT = 2,     /**< the charge is low against the limit: plenty can be committed */
    TIDE_EVENT_HIGH_COMMIT = 3,    /**< the charge is near the limit; page files may still grow */
    TIDE_EVENT_MAXIMUM_COMMIT = 4, /**< the charge is near the limit that all page files at their maximum would give */
    TIDE_EVENT_MEMORY_ERRORS = 5   /**< frames are known to be bad; stays set */
} tide_memory_event;

#define TIDE_MEMORY_EVENT_COUNT 6u

/**
 * A descriptor that is readable (POLLIN) exactly while the event is set: CreateMemoryResourceNotification, for poll,
 * epoll or io_uring's poll, from any number of threads. It is made at the first call and the same at each later one.
 * It belongs to the engine and is valid until tide_engine_close(); do not close it. There is no need to read it; a
 * reader gets no data of use, and who reads it takes the level away from the other waiters until the next look-around.
 * @param[out] fd the descriptor.
 * @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (unknown event, fd is NULL);
 *   TIDE_INSUFFICIENT_RESOURCES (no descriptor is left; io_error says why). Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_memory_event_fd(tide_engine *engine, tide_memory_event event, int *fd);

/**
 * Whether an event is set, evaluated now: QueryMemoryResourceNotification. Never waits for the condition. Brings the
 * descriptors in line with the answer.
 * @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (unknown event, set is NULL). Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_memory_event_query(tide_engine *engine, tide_memory_event event,
                                                                bool *set);

/** At which figures the events change, in pages. Those of commit move with the limits. */
typedef struct tide_memory_thresholds {
    uint64_t low_memory_pages;     /**< low memory: available below this */
    uint64_t high_memory_pages;    /**< high memory: available at or above this */
    uint64_t low_commit_pages;     /**< low commit: charge below this */
    uint64_t high_commit_pages;    /**< high commit: charge at or above this */
    uint64_t maximum_commit_pages; /**< maximum commit: charge at or above this */
} tide_memory_thresholds;

/** The thresholds now. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INVALID_PARAMETER (NULL). Thread-safe. */
TIDE_EXPORT tide_status tide_memory_thresholds_get(tide_engine *engine, tide_memory_thresholds *thresholds);

#ifdef __cplusplus
}
#endif
#endif

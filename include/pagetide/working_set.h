/**
 * @file
 * Working sets: limits, emptying, trimming, and which pages faulted.
 *
 * The working set of a space is its valid pages. It grows by faults; the trimmer takes from it when memory is short,
 * the oldest pages first.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_WORKING_SET_H
#define PAGETIDE_WORKING_SET_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Flags of the limits: QUOTA_LIMITS_HARDWS_MIN_ENABLE, _MIN_DISABLE, _MAX_ENABLE, _MAX_DISABLE. */
#define TIDE_WORKING_SET_HARD_MINIMUM 0x1u
#define TIDE_WORKING_SET_SOFT_MINIMUM 0x2u
#define TIDE_WORKING_SET_HARD_MAXIMUM 0x4u
#define TIDE_WORKING_SET_SOFT_MAXIMUM 0x8u

/**
 * Sets the working-set limits in pages: SetProcessWorkingSetSizeEx. Both UINT64_MAX: empties the set instead, and the
 * limits and flags stay.
 *
 * Limits are soft until made hard: with memory to spare a set may be above its maximum, and under pressure it is
 * trimmed below its minimum, after all others. At a hard maximum each new page replaces one of the space's own, never
 * another space's, and the set never passes the maximum, however many threads fault at once; a set that is larger is
 * trimmed to it by this call. Locked pages are not replaced: if nothing else is left, a page comes in all the same. The
 * trimmer stops at a hard minimum.
 *
 * Making a maximum hard, or setting a hard one anew, stops all calls and workers of the engine for a moment, as
 * tide_engine_verify() does.
 *
 * @param minimum_pages from 1 to @p maximum_pages; below 20 it is raised to 20, or to the maximum if that is less.
 * @param maximum_pages from 13 to the frames of the engine less 512, or less an eighth of them if that is fewer (NT:
 *   available pages less 512; the frames of an engine are all available when it opens).
 * @param flags TIDE_WORKING_SET_ values, or 0 to leave hard what is hard and soft what is soft.
 *
 * A new space has 50 and 345, or what the engine allows if that is less, both soft.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (a limit out of its range, unknown flags, hard and soft at once);
 *   TIDE_INSUFFICIENT_RESOURCES (all hard minimums together would be more than the largest maximum);
 *   TIDE_INVALID_HANDLE. Thread-safe. A call that fails changes nothing.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_set_limits(tide_space *space, uint64_t minimum_pages,
                                                                    uint64_t maximum_pages, uint32_t flags);

/**
 * The limits as they are: GetProcessWorkingSetSizeEx. @param[out] flags one of HARD_MINIMUM and SOFT_MINIMUM, and one
 * of HARD_MAXIMUM and SOFT_MAXIMUM. @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER (NULL), TIDE_INVALID_HANDLE.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_get_limits(tide_space *space, uint64_t *minimum_pages,
                                                                    uint64_t *maximum_pages, uint32_t *flags);

/**
 * Removes every page from the working set but locked ones: EmptyWorkingSet. Content stays, on the modified and standby
 * lists; limits are not asked.
 */
TIDE_EXPORT tide_status tide_working_set_empty(tide_space *space);

/**
 * Removes up to @p pages pages, oldest first, and of one age those of lower priority first. Locked pages stay.
 * @param[out] trimmed pages removed; may be NULL.
 */
TIDE_EXPORT tide_status tide_working_set_trim(tide_space *space, uint64_t pages, uint64_t *trimmed);

/** A page that came into the working set: PSAPI_WS_WATCH_INFORMATION_EX. */
typedef struct tide_working_set_change {
    tide_address address; /**< that faulted */
    uint64_t thread_id;   /**< Linux thread id of the thread that faulted */
    tide_status fault;    /**< TIDE_PAGE_FAULT_DEMAND_ZERO, _TRANSITION or _PAGING_FILE */
    uint32_t reserved;    /**< 0 */
} tide_working_set_change;

#define TIDE_WORKING_SET_WATCH_MAX 0x1000000u /**< most records of a watch */

/**
 * Notes the faults of a space from now on, for tide_working_set_changes_get(): InitializeProcessForWsWatch. Begun
 * again, it starts over. While a space is watched its faults share a lock; unwatched spaces pay nothing.
 * @param capacity records kept between two calls of tide_working_set_changes_get(), 1 to TIDE_WORKING_SET_WATCH_MAX;
 *   what happens beyond is counted and lost, as in NT.
 * @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER, TIDE_INSUFFICIENT_RESOURCES, TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_watch_begin(tide_space *space, uint64_t capacity);

/** Notes no more, and forgets. @return TIDE_SUCCESS, also if there was no watch; TIDE_INVALID_HANDLE. Thread-safe. */
TIDE_EXPORT tide_status tide_working_set_watch_end(tide_space *space);

/**
 * The faults since the watch began or since the last call, oldest first, and forgets them: GetWsChangesEx.
 * @param[out] changes may be NULL if *count is 0.
 * @param[in,out] count in: room in @p changes; out: records given, or needed with TIDE_BUFFER_TOO_SMALL.
 * @param[out] lost faults beyond the capacity; may be NULL.
 * @return TIDE_SUCCESS; TIDE_BUFFER_TOO_SMALL (nothing is given and nothing forgotten); TIDE_INVALID_PARAMETER (NULL,
 *   or the space is not watched); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_changes_get(tide_space *space,
                                                                     tide_working_set_change *changes, uint64_t *count,
                                                                     uint64_t *lost);

#ifdef __cplusplus
}
#endif
#endif

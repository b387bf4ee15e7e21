/**
 * @file
 * Diagnosis: is memory short, and what for? Compares two snapshots of an engine and tells a leak from a thrash, and
 * both from a program that just reads much (nt-behaviour 29). How to read it: docs/counters.md.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_PRESSURE_H
#define PAGETIDE_PRESSURE_H

#include <pagetide/statistics.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What a snapshot keeps of one space. */
typedef struct tide_space_sample {
    uint64_t id; /**< tide_space_statistics.id */
    tide_fault_counters faults;
    uint64_t working_set_pages;
    uint64_t private_pages;
    uint64_t peak_private_pages;
} tide_space_sample;

/** An engine and all its spaces at one time. */
typedef struct tide_pressure_snapshot {
    tide_statistics statistics;
    uint64_t space_count;
    tide_space_sample *spaces; /**< by ascending id */
} tide_pressure_snapshot;

/**
 * Takes a snapshot. Cheap: no page is looked at. End it with tide_pressure_snapshot_free().
 * @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (NULL); TIDE_INSUFFICIENT_RESOURCES. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_pressure_snapshot_take(tide_engine *engine,
                                                                    tide_pressure_snapshot *snapshot);

/** Frees what a snapshot holds; the structure is the caller's. NULL and a zeroed one are allowed. */
TIDE_EXPORT void tide_pressure_snapshot_free(tide_pressure_snapshot *snapshot);

/** When a figure counts as much. 0 means the default, given in brackets. */
typedef struct tide_pressure_thresholds {
    double hard_faults_per_second;  /**< a space with at least as many reads much [20] */
    unsigned thrash_spaces;         /**< that many spaces that read much at a time can be a thrash; an engine that only
                                            ever has one space wants 1 [2] */
    unsigned available_low_percent; /**< of all frames: fewer available are few [10] */
    unsigned repurposed_percent;    /**< of the pages read: as many repurposed are many [50] */
    uint64_t leak_growth_pages;     /**< private commit has to grow by that much between the snapshots [256] */
    unsigned leak_working_set_percent; /**< of that growth: if the working set grew by more, it is in use [25] */
    unsigned leak_peak_percent; /**< of its peak that private commit must be at: growth and no ups and downs [99] */
    unsigned commit_percent;    /**< of the maximum limit: from there on commit is nearly exhausted [90] */
} tide_pressure_thresholds;

typedef enum tide_pressure_kind {
    TIDE_PRESSURE_NONE = 0,
    TIDE_PRESSURE_STREAMING = 1,    /**< spaces read much, and memory is not what they lack: no pressure */
    TIDE_PRESSURE_LEAK_SUSPECT = 2, /**< a space commits more and more and does not use it */
    TIDE_PRESSURE_THRASH = 3,       /**< spaces push out each other's pages and read them back */
    TIDE_PRESSURE_COMMIT_NEAR = 4   /**< commit will soon be refused */
} tide_pressure_kind;

typedef struct tide_pressure_verdict {
    tide_pressure_kind kind; /**< the gravest that holds: the highest number */
    uint32_t kinds;          /**< all that hold: bit 1 << kind */
    uint64_t space; /**< id of the space that it is about: that leaks, that reads most, or whose commit grew most
                                  before the limit; 0 if none is */
    double seconds; /**< between the snapshots */
    /* The figures that decided. */
    uint64_t reading_spaces;       /**< spaces that read much */
    double hard_faults_per_second; /**< of all spaces */
    uint64_t available_pages;
    uint64_t total_pages;
    uint64_t pages_input; /**< between the snapshots, as are the next three */
    uint64_t repurposed_pages;
    int64_t private_growth_pages;     /**< of `space` */
    int64_t working_set_growth_pages; /**< of `space` */
    uint64_t commit_pages;
    uint64_t commit_limit_maximum_pages;
    char explanation[320]; /**< one sentence with the figures */
} tide_pressure_verdict;

/**
 * Compares two snapshots of one engine, taken some time apart: a second for a thrash, for a slow leak as long as it
 * takes to grow by leak_growth_pages. A space that is in one of them only counts from or to nothing.
 *
 * - Commit near: the charge is at commit_percent of the maximum limit or above.
 * - Thrash: at least thrash_spaces spaces read much, few pages are available, and many are repurposed for what is read.
 * - Leak suspect: a space's private commit grew, its working set did not grow with it, and commit is at its peak. The
 *   one that grew most is named. A growing working set is no proof of a leak, nor is a flat one against: the trimmer
 *   keeps it flat; so a leak that touches its pages is seen as soon as the working set has reached its plateau.
 * - Streaming: spaces read much, and the above does not hold.
 * @param thresholds NULL for the defaults.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, or as tide_statistics_rates()). Pure; thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_pressure_classify(const tide_pressure_snapshot *before,
                                                               const tide_pressure_snapshot *after,
                                                               const tide_pressure_thresholds *thresholds,
                                                               tide_pressure_verdict *verdict);

/** "none", "streaming", "leak suspect", "thrash", "commit near its end" or "unknown"; never NULL. */
TIDE_EXPORT const char *tide_pressure_name(tide_pressure_kind kind);

#ifdef __cplusplus
}
#endif
#endif

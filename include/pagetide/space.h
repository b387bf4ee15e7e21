/**
 * @file
 * Soft address spaces: their life and commit limits. What is in them: virtual.h; how much of it in memory:
 * working_set.h.
 *
 * A soft space has virtual addresses that only the engine translates. Addresses run from TIDE_LOWEST_ADDRESS up to
 * TIDE_HIGHEST_ADDRESS, as in a 64-bit Windows process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_SPACE_H
#define PAGETIDE_SPACE_H

#include <pagetide/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tide_space tide_space;
typedef uint64_t tide_address; /**< an address in a soft space, in bytes */

#define TIDE_LOWEST_ADDRESS 0x10000ull         /**< the first 64 KiB are never given out */
#define TIDE_HIGHEST_ADDRESS 0x7FFFFFFEFFFFull /**< last usable byte: 128 TiB less 64 KiB */

/**
 * Creates an empty space. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_NO_MEMORY, TIDE_COMMITMENT_LIMIT (its
 * root table).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_create(tide_engine *engine, tide_space **space);

/**
 * Releases everything in the space and the space itself. No other thread may be in a call on it.
 * @return TIDE_SUCCESS; TIDE_DEVICE_BUSY while an access section or pin on it is open (nothing changes);
 *   TIDE_INVALID_HANDLE.
 */
TIDE_EXPORT tide_status tide_space_destroy(tide_space *space);

#define TIDE_NO_COMMIT_LIMIT UINT64_MAX

/**
 * Limits the private commit of a space: JOB_OBJECT_LIMIT_PROCESS_MEMORY. Page tables and large pages do not count. A
 * limit below what is committed takes nothing away: the next commit fails.
 * @param pages the limit, or TIDE_NO_COMMIT_LIMIT (the default). A commit beyond it is TIDE_COMMITMENT_LIMIT, exact
 *   under any concurrency, and page files do not grow for it.
 * @return TIDE_SUCCESS, TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_set_commit_limit(tide_space *space, uint64_t pages);

#ifdef __cplusplus
}
#endif
#endif

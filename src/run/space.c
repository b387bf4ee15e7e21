/*
 * The mapped space, as malloc and the kernel's calls see memory.
 *
 * Regions are made of 64 KiB of addresses and pages of 4 KiB. The space knows them all, so nothing is kept here: a
 * range that spans several regions is walked by tide_virtual_query().
 *
 * Freezing: a fork() copies all regions to the child after the kernel has made it. `frozen` is a lock that the copy
 * holds for writing, and each call that allocates or takes memory away for reading, so that what is copied stays there.
 * It is the innermost lock of this library.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>

static pthread_rwlock_t frozen = PTHREAD_RWLOCK_INITIALIZER;

void space_freeze(void)
{
    (void)pthread_rwlock_wrlock(&frozen);
}

void space_thaw(void)
{
    (void)pthread_rwlock_unlock(&frozen);
}

static int enter(void)
{
    const int error = errno;

    run_enter();
    (void)pthread_rwlock_rdlock(&frozen);
    return error;
}

static bool leave(int error, tide_status status)
{
    (void)pthread_rwlock_unlock(&frozen);
    run_leave();
    errno = tide_failed(status) ? ENOMEM : error;
    return !tide_failed(status);
}

static size_t pages_round(size_t bytes)
{
    return (bytes + TIDE_PAGE_BYTES - 1) & ~(size_t)(TIDE_PAGE_BYTES - 1);
}

void *space_allocate(size_t bytes, size_t reserve_bytes, size_t alignment, uint32_t protection)
{
    const tide_alloc_parameters parameters = {
        .struct_bytes = sizeof parameters,
        .alignment_bytes = alignment > TIDE_ALLOCATION_GRANULARITY_BYTES ? alignment : 0,
        .node = TIDE_NO_PREFERRED_NODE,
    };
    const bool whole = pages_round(bytes) == pages_round(reserve_bytes);
    tide_address base = 0;
    uint64_t reserved = pages_round(reserve_bytes), committed = pages_round(bytes);

    if (bytes > SIZE_MAX / 2 || reserve_bytes > SIZE_MAX / 2) {
        errno = ENOMEM;
        return NULL;
    }
    const int error = enter();
    tide_status status =
        tide_virtual_alloc2(run.space, &base, &reserved, whole ? TIDE_MEM_RESERVE | TIDE_MEM_COMMIT : TIDE_MEM_RESERVE,
                            protection, &parameters);
    if (!tide_failed(status) && !whole && committed != 0) {
        tide_address at = base;
        status = tide_virtual_alloc(run.space, &at, &committed, TIDE_MEM_COMMIT, protection);
        if (tide_failed(status))
            (void)!tide_virtual_free(run.space, base, 0, TIDE_MEM_RELEASE); /* tide_last_error() keeps the failure */
    }
    return leave(error, status) ? tide_pointer(base) : NULL;
}

bool space_commit(void *base, size_t bytes, uint32_t protection)
{
    tide_address at = (uintptr_t)base;
    uint64_t length = bytes;

    const int error = enter();
    return leave(error, tide_virtual_alloc(run.space, &at, &length, TIDE_MEM_COMMIT, protection));
}

bool space_decommit(void *base, size_t bytes)
{
    const int error = enter();

    return leave(error, tide_virtual_free(run.space, (uintptr_t)base, pages_round(bytes), TIDE_MEM_DECOMMIT));
}

/* ---- ranges that may span regions -------------------------------------------------------------------------------- */

/* What is done with a stretch of pages of one region that are alike. */
typedef tide_status stretch_work(tide_address base, uint64_t bytes, const tide_region *region, void *argument);

/* Calls `work` for each stretch of a range that is in a region. *holes: there was something else too. */
static tide_status range_walk(void *base, size_t bytes, bool *holes, stretch_work *work, void *argument)
{
    const tide_address end = (uintptr_t)base + pages_round(bytes);
    tide_status status = TIDE_SUCCESS;
    tide_region region;

    *holes = false;
    for (tide_address at = (uintptr_t)base; at < end && !tide_failed(status); at = region.base + region.bytes) {
        status = tide_virtual_query(run.space, at, &region);
        if (tide_failed(status))
            break;
        const tide_address stop = region.base + region.bytes < end ? region.base + region.bytes : end;
        if (region.state == TIDE_MEM_FREE)
            *holes = true;
        else
            status = work(at, stop - at, &region, argument);
    }
    return status;
}

static tide_status discard_work(tide_address base, uint64_t bytes, const tide_region *region, void *argument)
{
    (void)argument;
    if (region->state != TIDE_MEM_COMMIT)
        return TIDE_SUCCESS;
    if (region->protection == TIDE_PAGE_READWRITE)
        return tide_virtual_discard(run.space, base, bytes);
    /* Only pages that can be written can be discarded: others are given back, and committed anew as they were. */
    const tide_status status = tide_virtual_free(run.space, base, bytes, TIDE_MEM_DECOMMIT);
    return tide_failed(status) ? status
                               : tide_virtual_alloc(run.space, &base, &bytes, TIDE_MEM_COMMIT, region->protection);
}

bool space_discard(void *base, size_t bytes)
{
    bool holes;
    const int error = enter();

    return leave(error, range_walk(base, bytes, &holes, discard_work, NULL));
}

static tide_status release_work(tide_address base, uint64_t bytes, const tide_region *region, void *argument)
{
    (void)region;
    (void)argument;
    return tide_virtual_free_native(run.space, &base, &bytes, TIDE_MEM_RELEASE);
}

bool space_release(void *base, size_t bytes)
{
    tide_address at = (uintptr_t)base;
    uint64_t length = pages_round(bytes);
    bool holes;

    const int error = enter();
    tide_status status = tide_virtual_free_native(run.space, &at, &length, TIDE_MEM_RELEASE);
    if (tide_failed(status)) /* not inside one region */
        status = range_walk(base, bytes, &holes, release_work, NULL);
    return leave(error, status);
}

static uint32_t protection_of(int protection)
{
    static const uint32_t table[8] = {
        TIDE_PAGE_NOACCESS, TIDE_PAGE_READONLY,     TIDE_PAGE_READWRITE,         TIDE_PAGE_READWRITE,
        TIDE_PAGE_EXECUTE,  TIDE_PAGE_EXECUTE_READ, TIDE_PAGE_EXECUTE_READWRITE, TIDE_PAGE_EXECUTE_READWRITE,
    };
    static_assert(PROT_READ == 1 && PROT_WRITE == 2 && PROT_EXEC == 4, "the table is ordered by the kernel's bits");

    return table[protection & 7];
}

static tide_status protect_work(tide_address base, uint64_t bytes, const tide_region *region, void *argument)
{
    const uint32_t protection = *(const uint32_t *)argument;
    uint32_t old;

    if (region->state == TIDE_MEM_RESERVE)
        return tide_virtual_alloc(run.space, &base, &bytes, TIDE_MEM_COMMIT, protection);
    return region->protection == protection ? TIDE_SUCCESS
                                            : tide_virtual_protect(run.space, base, bytes, protection, &old);
}

bool space_protect(void *base, size_t bytes, int protection)
{
    uint32_t wanted = protection_of(protection);
    bool holes;

    const int error = enter();
    const tide_status status = range_walk(base, bytes, &holes, protect_work, &wanted);
    return leave(error, tide_failed(status) || !holes ? status : TIDE_MEMORY_NOT_ALLOCATED);
}

/*
 * Large blocks of malloc: each a region of the space.
 *
 * A block that has been resized once may be again, so its new region reserves twice the addresses that it needs, and
 * grows there by committing. A list of Python that grows by an eighth at a time is copied at each doubling and not at
 * each step; with memory that is paged, a copy reads and writes the whole block.
 *
 * The blocks are known by a tree of the C library (tsearch()), outside the space: free() and realloc() need not bring a
 * page in. Lock: `lock`, taken before the space's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

struct block {
    uintptr_t base;
    size_t bytes;         /* committed */
    size_t reserve_bytes; /* addresses */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *tree; /* [L:lock] struct block by base */

static int compare(const void *a, const void *b)
{
    const uintptr_t left = ((const struct block *)a)->base, right = ((const struct block *)b)->base;

    return left < right ? -1 : left > right;
}

static struct block *find_locked(void *block)
{
    const struct block key = { .base = (uintptr_t)block };
    struct block *const *const found = tfind(&key, &tree, compare);

    return found != NULL ? *found : NULL;
}

static size_t pages_round(size_t bytes)
{
    return (bytes + TIDE_PAGE_BYTES - 1) & ~(size_t)(TIDE_PAGE_BYTES - 1);
}

void blocks_lock(void)
{
    (void)pthread_mutex_lock(&lock);
}

void blocks_unlock(void)
{
    (void)pthread_mutex_unlock(&lock);
}

/* Enters a region into the tree. The record is the C library's, as for all that is allocated inside. */
static bool enter_block(void *base, size_t bytes, size_t reserve_bytes)
{
    run_enter();
    struct block *const record = malloc(sizeof *record);
    bool entered = false;
    if (record != NULL) {
        *record = (struct block){ (uintptr_t)base, bytes, reserve_bytes };
        blocks_lock();
        entered = tsearch(record, &tree, compare) != NULL;
        blocks_unlock();
        if (!entered)
            free(record);
    }
    run_leave();
    return entered;
}

static void *allocate(size_t bytes, size_t reserve_bytes, size_t alignment)
{
    void *const base = space_allocate(bytes, reserve_bytes, alignment, TIDE_PAGE_READWRITE);

    if (base == NULL || enter_block(base, pages_round(bytes), pages_round(reserve_bytes)))
        return base;
    (void)space_release(base, reserve_bytes);
    errno = ENOMEM;
    return NULL;
}

void *blocks_allocate(size_t bytes, size_t alignment)
{
    void *const base = allocate(bytes, bytes, alignment);

    if (base == NULL)
        run_refused("an allocation", bytes);
    return base;
}

size_t blocks_size(void *block)
{
    blocks_lock();
    const struct block *const found = find_locked(block);
    const size_t bytes = found != NULL ? found->bytes : 0;
    blocks_unlock();
    return bytes;
}

void blocks_free(void *block)
{
    run_enter();
    blocks_lock();
    struct block *const found = find_locked(block);
    if (found != NULL)
        (void)tdelete(found, &tree, compare);
    blocks_unlock();
    if (found != NULL) {
        if (run_phase() == PHASE_CHILD)
            (void)kernel_munmap(block, found->reserve_bytes);
        else
            (void)space_release(block, found->reserve_bytes);
        free(found);
    }
    run_leave();
}

/* The record changes under the lock; only the block's owner resizes it. */
static void bytes_set(void *block, size_t bytes)
{
    blocks_lock();
    find_locked(block)->bytes = bytes;
    blocks_unlock();
}

void *blocks_resize(void *block, size_t bytes)
{
    if (bytes > SIZE_MAX / 4) {
        run_refused("an allocation", bytes);
        return NULL;
    }
    blocks_lock();
    const struct block now = *find_locked(block);
    blocks_unlock();
    const size_t wanted = pages_round(bytes);
    char *const base = block;

    if (wanted == now.bytes)
        return block;
    if (wanted < now.bytes) {
        if (space_decommit(base + wanted, now.bytes - wanted))
            bytes_set(block, wanted);
        return block;
    }
    if (wanted <= now.reserve_bytes) {
        if (!space_commit(base + now.bytes, wanted - now.bytes, TIDE_PAGE_READWRITE)) {
            run_refused("an allocation", bytes);
            return NULL;
        }
        bytes_set(block, wanted);
        return block;
    }
    void *moved = allocate(bytes, 2 * wanted, 0);
    if (moved == NULL) /* perhaps there are too few addresses */
        moved = blocks_allocate(bytes, 0);
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, now.bytes);
    blocks_free(block);
    return moved;
}

void blocks_child(void)
{
    (void)pthread_mutex_init(&lock, NULL);
}

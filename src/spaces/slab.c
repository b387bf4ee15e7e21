/*
 * Slabs. The idea is in slab.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/slab.h"

#include <stdlib.h>
#include <sys/mman.h>

#define HUGE_BYTES ((size_t)2 << 20)

/* Before the objects of a chunk. */
struct chunk {
    struct chunk *next;
} SYNC_CACHE_ALIGNED;

void slab_destroy(struct slab *slab)
{
    for (struct chunk *chunk = slab->chunks, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    *slab = slab_make(slab->object_bytes);
}

bool slab_have(struct slab *slab, uint64_t objects)
{
    if (slab->free_count >= objects)
        return true;
    const uint64_t least = objects - slab->free_count;
    const size_t bytes = sizeof(struct chunk) + (slab->total > least ? slab->total : least) * slab->object_bytes;
    const bool huge = bytes >= HUGE_BYTES / 2;
    uint64_t count = ((huge ? HUGE_BYTES : bytes) - sizeof(struct chunk)) / slab->object_bytes;
    if (count == 0)
        return false;
    struct chunk *chunk = huge ? aligned_alloc(HUGE_BYTES, HUGE_BYTES) : aligned_alloc(SYNC_CACHE_LINE_BYTES, bytes);

    if (chunk == NULL && count > least) {
        count = least;
        chunk = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *chunk + count * slab->object_bytes);
    } else if (chunk != NULL && huge) {
        (void)madvise(chunk, HUGE_BYTES, MADV_HUGEPAGE); /* a wish */
    }
    if (chunk == NULL)
        return false;
    chunk->next = slab->chunks;
    slab->chunks = chunk;
    /* The first one is taken first. */
    for (uint64_t i = count; i-- > 0;)
        slab_put(slab, (char *)(chunk + 1) + i * slab->object_bytes);
    slab->total += count;
    return slab_have(slab, objects);
}

/*
 * Objects of one size that lie close together: VADs and the nodes of their tree.
 *
 * A large space has 100,000 of them and is asked for one at random, so what they cost is cache and TLB misses. Chunks
 * double with the number of objects, up to that of a huge page, which the kernel is asked for. A freed object is used
 * again first; memory goes back when the slab is destroyed. Whoever owns the slab locks it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_SLAB_H
#define SPACES_SLAB_H

#include "base/sync.h"

/* AddressSanitizer finds whoever uses a free object. */
#if defined(__SANITIZE_ADDRESS__)
#define SLAB_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SLAB_ASAN 1
#endif
#endif
#ifdef SLAB_ASAN
#include <sanitizer/asan_interface.h>
#define SLAB_POISON(object, bytes) ASAN_POISON_MEMORY_REGION(object, bytes)
#define SLAB_UNPOISON(object, bytes) ASAN_UNPOISON_MEMORY_REGION(object, bytes)
#else
#define SLAB_POISON(object, bytes) ((void)0)
#define SLAB_UNPOISON(object, bytes) ((void)0)
#endif

struct slab {
    size_t object_bytes; /* [I] a multiple of a cache line */
    void *free;          /* objects, each with the address of the next one in its first word */
    uint64_t free_count;
    uint64_t total; /* objects that exist */
    void *chunks;
};

static inline struct slab slab_make(size_t object_bytes)
{
    return (struct slab){ .object_bytes = object_bytes };
}

/* Frees all memory, objects in use included. */
void slab_destroy(struct slab *slab);
/* Makes sure of so many free objects. False if there is no memory. */
bool slab_have(struct slab *slab, uint64_t objects);

/* A free object, its content undefined; NULL if there is no memory. */
static inline void *slab_take(struct slab *slab)
{
    if (slab->free == NULL && !slab_have(slab, 1))
        return NULL;
    void **object = slab->free;
    SLAB_UNPOISON(object, slab->object_bytes);
    slab->free = *object;
    slab->free_count--;
    return object;
}

static inline void slab_put(struct slab *slab, void *object)
{
    *(void **)object = slab->free;
    slab->free = object;
    slab->free_count++;
    SLAB_POISON(object, slab->object_bytes);
}

#endif

/*
 * Small blocks: jemalloc, on memory of the space.
 *
 * jemalloc is made for this: an arena takes its memory from a table of functions (extent hooks), and keeps every record
 * of it elsewhere. Blocks are freed, and looked up, without a touch of their page; an allocator that chains free blocks
 * through themselves would read each page back that a program has left behind. It is linked into this library under
 * names of its own (CMakeLists.txt), whatever allocator the program brings.
 *
 * All arenas lie in one region, so that extents can be merged across any border: addresses are handed out from its low
 * end up, and jemalloc keeps for reuse what it no longer needs, decommitted. Threads are bound to arenas in turn.
 *
 * In a child of fork() the region is plain memory of the kernel (fork.c), and the hooks speak with the kernel.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* jemalloc by the names that it has here. */
extern void *jemalloc_malloc(size_t bytes);
extern void *jemalloc_calloc(size_t count, size_t bytes);
extern void *jemalloc_aligned_alloc(size_t alignment, size_t bytes);
extern void *jemalloc_realloc(void *block, size_t bytes);
extern void jemalloc_free(void *block);
extern size_t jemalloc_malloc_usable_size(void *block);
extern int jemalloc_mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes);

/*
 * One arena of its own for what jemalloc needs itself. What is not used goes back after a second: it would take part in
 * the budget. No arena of another kind for huge blocks. It asks the kernel for no huge pages.
 */
extern const char *jemalloc_malloc_conf;
const char *jemalloc_malloc_conf = "narenas:1,oversize_threshold:0,dirty_decay_ms:1000,muzzy_decay_ms:0,"
                                   "background_thread:false,percpu_arena:disabled,thp:never,metadata_thp:disabled";

enum { ARENAS_MAX = 8 };

static unsigned arena_indices[ARENAS_MAX], arena_count;
static _Atomic(unsigned) arena_next;
static _Atomic(uintptr_t) top; /* first address of the region that was not handed out yet */
static __thread bool bound __attribute__((tls_model("initial-exec")));

/* ---- hooks: false is success ------------------------------------------------------------------------------------- */

static void *extent_alloc(extent_hooks_t *hooks, void *wanted, size_t bytes, size_t alignment, bool *zero, bool *commit,
                          unsigned arena)
{
    uintptr_t old = atomic_load_explicit(&top, memory_order_relaxed), base;

    (void)hooks;
    (void)arena;
    do {
        base = (old + alignment - 1) & ~(uintptr_t)(alignment - 1);
        if ((wanted != NULL && base != (uintptr_t)wanted) || base < old || base - run.arenas > run.arenas_bytes ||
            bytes > run.arenas_bytes - (base - run.arenas))
            return NULL;
    } while (
        !atomic_compare_exchange_weak_explicit(&top, &old, base + bytes, memory_order_relaxed, memory_order_relaxed));
    if (*commit) {
        if (run_phase() != PHASE_CHILD && !space_commit((void *)base, bytes, TIDE_PAGE_READWRITE)) {
            run_refused("memory for small blocks", bytes);
            return NULL; /* the addresses are lost: they cost nothing */
        }
    } else if (run_phase() == PHASE_CHILD) {
        *commit = true;
    }
    *zero = true;
    return (void *)base;
}

/* Keep it: it will be decommitted. */
static bool extent_dalloc(extent_hooks_t *hooks, void *base, size_t bytes, bool committed, unsigned arena)
{
    (void)hooks;
    (void)base;
    (void)bytes;
    (void)committed;
    (void)arena;
    return true;
}

static bool extent_commit(extent_hooks_t *hooks, void *base, size_t bytes, size_t offset, size_t length, unsigned arena)
{
    (void)hooks;
    (void)bytes;
    (void)arena;
    if (run_phase() == PHASE_CHILD || space_commit((char *)base + offset, length, TIDE_PAGE_READWRITE))
        return false;
    run_refused("memory for small blocks", length);
    return true;
}

static bool extent_decommit(extent_hooks_t *hooks, void *base, size_t bytes, size_t offset, size_t length,
                            unsigned arena)
{
    (void)hooks;
    (void)bytes;
    (void)arena;
    if (run_phase() == PHASE_CHILD)
        return kernel_madvise((char *)base + offset, length, MADV_DONTNEED) != 0;
    return !space_decommit((char *)base + offset, length);
}

static bool extent_purge(extent_hooks_t *hooks, void *base, size_t bytes, size_t offset, size_t length, unsigned arena)
{
    (void)hooks;
    (void)bytes;
    (void)arena;
    if (run_phase() == PHASE_CHILD)
        return kernel_madvise((char *)base + offset, length, MADV_DONTNEED) != 0;
    return !space_discard((char *)base + offset, length);
}

static bool extent_split(extent_hooks_t *hooks, void *base, size_t bytes, size_t left, size_t right, bool committed,
                         unsigned arena)
{
    (void)hooks;
    (void)base;
    (void)bytes;
    (void)left;
    (void)right;
    (void)committed;
    (void)arena;
    return false;
}

static bool extent_merge(extent_hooks_t *hooks, void *left, size_t left_bytes, void *right, size_t right_bytes,
                         bool committed, unsigned arena)
{
    (void)hooks;
    (void)left;
    (void)left_bytes;
    (void)right;
    (void)right_bytes;
    (void)committed;
    (void)arena;
    return false;
}

static extent_hooks_t extent_hooks = {
    .alloc = extent_alloc,
    .dalloc = extent_dalloc,
    .commit = extent_commit,
    .decommit = extent_decommit,
    .purge_forced = extent_purge,
    .split = extent_split,
    .merge = extent_merge,
};

/* ---- arenas ------------------------------------------------------------------------------------------------------ */

bool arenas_open(char *problem, size_t problem_bytes)
{
    /* arena_config_t of jemalloc 5.3, which its header does not show. */
    struct {
        extent_hooks_t *hooks;
        bool records_by_hooks;
    } config = { &extent_hooks, false };
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);

    atomic_store_explicit(&top, run.arenas, memory_order_relaxed);
    while (arena_count < ARENAS_MAX && (long)arena_count < processors) {
        size_t bytes = sizeof arena_indices[0];
        const int error = jemalloc_mallctl("experimental.arenas_create_ext", &arena_indices[arena_count], &bytes,
                                           &config, sizeof config);
        if (error != 0) {
            (void)snprintf(problem, problem_bytes, "jemalloc makes no arena: %s", strerror(error));
            return false;
        }
        arena_count++;
    }
    return true;
}

/* The thread's arena, at its first small block. */
static void bind(void)
{
    const int error = errno;
    unsigned arena = arena_indices[atomic_fetch_add_explicit(&arena_next, 1, memory_order_relaxed) % arena_count];

    bound = true;
    run_enter();
    (void)jemalloc_mallctl("thread.arena", NULL, NULL, &arena, sizeof arena);
    run_leave();
    errno = error;
}

/*
 * A thread that allocates while it ends, after jemalloc's destructor, has lost its arena, and gets memory of jemalloc's
 * own even from an arena that it names. free() would not know that memory, so the C library's takes its place.
 */
static void *moved_out(void *block, size_t bytes, size_t alignment)
{
    run_enter();
    void *const moved = aligned_alloc(alignment, bytes);
    run_leave();
    if (moved != NULL)
        memcpy(moved, block, bytes);
    jemalloc_free(block);
    return moved;
}

static inline void *checked(void *block, size_t bytes, size_t alignment)
{
    return block == NULL || run_in_arenas(block) ? block : moved_out(block, bytes, alignment);
}

/* The smallest blocks of the C library are aligned as all others, and programs count on that; jemalloc's are not. */
static inline size_t raised(size_t bytes)
{
    return bytes < alignof(max_align_t) ? alignof(max_align_t) : bytes;
}

void *arenas_allocate(size_t bytes)
{
    if (!bound)
        bind();
    return checked(jemalloc_malloc(raised(bytes)), raised(bytes), alignof(max_align_t));
}

void *arenas_allocate_zero(size_t bytes)
{
    if (!bound)
        bind();
    return checked(jemalloc_calloc(1, raised(bytes)), raised(bytes), alignof(max_align_t));
}

void *arenas_allocate_aligned(size_t bytes, size_t alignment)
{
    if (!bound)
        bind();
    return checked(jemalloc_aligned_alloc(alignment, raised(bytes)), raised(bytes), alignment);
}

void *arenas_resize(void *block, size_t bytes)
{
    if (!bound)
        bind();
    return checked(jemalloc_realloc(block, raised(bytes)), raised(bytes), alignof(max_align_t));
}

void arenas_free(void *block)
{
    const int error = errno;

    jemalloc_free(block);
    errno = error;
}

size_t arenas_size(void *block)
{
    return jemalloc_malloc_usable_size(block);
}

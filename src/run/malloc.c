/*
 * malloc and its family, in place of the C library's.
 *
 * Each block belongs to one of three: the C library, jemalloc in the space, or the blocks with a region of their own. A
 * new block goes by its size and by who asks; an old one by its address. What the C library itself and the loader ask
 * for stays with the C library while it is small: streams, locales, thread-local storage. fork() walks the streams
 * before any handler runs, and the loader's data is read in threads of the engine. strdup() and strndup() are the
 * program's data, and come from here, so that they are captured too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

/* The allocator that the program would have had: the C library's, or that of a library which the program brings. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *block);

RUN_EXPORT void *malloc(size_t bytes);
RUN_EXPORT void *calloc(size_t count, size_t bytes);
RUN_EXPORT void *realloc(void *block, size_t bytes);
RUN_EXPORT void *reallocarray(void *block, size_t count, size_t bytes);
RUN_EXPORT void free(void *block);
RUN_EXPORT void cfree(void *block);
RUN_EXPORT void *memalign(size_t alignment, size_t bytes);
RUN_EXPORT void *aligned_alloc(size_t alignment, size_t bytes);
RUN_EXPORT int posix_memalign(void **block, size_t alignment, size_t bytes);
RUN_EXPORT void *valloc(size_t bytes);
RUN_EXPORT void *pvalloc(size_t bytes);
RUN_EXPORT size_t malloc_usable_size(void *block);
RUN_EXPORT char *strdup(const char *text);
RUN_EXPORT char *strndup(const char *text, size_t bytes);

/* The usable size by the library that __libc_malloc() is from. Another can be first by the name: a program's own. */
static size_t libc_size(void *block)
{
    static _Atomic(size_t(*)(void *)) function;
    size_t (*size)(void *) = atomic_load_explicit(&function, memory_order_relaxed);

    if (size == NULL) {
        Dl_info provider;
        run_enter(); /* these may allocate */
        void *const library =
            dladdr((void *)__libc_malloc, &provider) != 0 ? dlopen(provider.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
        size = library != NULL ? (size_t(*)(void *))dlsym(library, "malloc_usable_size") : NULL;
        run_leave();
        if (size == NULL)
            return 0;
        atomic_store_explicit(&function, size, memory_order_relaxed);
    }
    return size(block);
}

/* What the C library gave, counted while it matters. */
static void *given(void *block)
{
    if (block != NULL && run_inside == 0 && run_phase() == PHASE_WAITING)
        run_count_given(libc_size(block));
    return block;
}

static void libc_free(void *block)
{
    if (run_inside == 0 && run_phase() == PHASE_WAITING)
        run_count_returned(libc_size(block));
    __libc_free(block);
}

/* The rule by which a new block is captured. */
static inline bool captured(size_t bytes, const void *caller)
{
    return run_inside == 0 && (bytes >= run.threshold_bytes || !run_is_libc(caller)) && run_captures(bytes);
}

static void *allocate(size_t bytes)
{
    return bytes >= run.threshold_bytes && run_phase() == PHASE_CAPTURING ? blocks_allocate(bytes, 0)
                                                                          : arenas_allocate(bytes);
}

static void *allocate_aligned(size_t bytes, size_t alignment)
{
    return bytes >= run.threshold_bytes && run_phase() == PHASE_CAPTURING ? blocks_allocate(bytes, alignment)
                                                                          : arenas_allocate_aligned(bytes, alignment);
}

static bool is_power_of_two(size_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* ---- the calls --------------------------------------------------------------------------------------------------- */

void *malloc(size_t bytes)
{
    if (!captured(bytes, __builtin_return_address(0)))
        return given(__libc_malloc(bytes));
    return allocate(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    if (!captured(total, __builtin_return_address(0)))
        return given(__libc_calloc(count, bytes));
    /* A region is zero when it is new, and stays unread. */
    return total >= run.threshold_bytes && run_phase() == PHASE_CAPTURING ? blocks_allocate(total, 0)
                                                                          : arenas_allocate_zero(total);
}

void free(void *block)
{
    if (block == NULL)
        return;
    if (run_in_arenas(block))
        arenas_free(block);
    else if (run_in_window(block) && blocks_size(block) != 0)
        blocks_free(block);
    else
        libc_free(block);
}

void cfree(void *block)
{
    free(block);
}

/* To a new place, from any of the three. */
static void *move(void *block, size_t old_bytes, void *new_block, size_t bytes)
{
    if (new_block == NULL)
        return NULL;
    memcpy(new_block, block, old_bytes < bytes ? old_bytes : bytes);
    free(block);
    return new_block;
}

static void *resize(void *block, size_t bytes, const void *caller)
{
    if (run_in_arenas(block))
        return bytes < run.threshold_bytes || run_phase() != PHASE_CAPTURING
                   ? arenas_resize(block, bytes)
                   : move(block, arenas_size(block), blocks_allocate(bytes, 0), bytes);
    const size_t block_bytes = run_in_window(block) ? blocks_size(block) : 0;
    if (block_bytes != 0)
        return bytes >= run.threshold_bytes && run_phase() == PHASE_CAPTURING
                   ? blocks_resize(block, bytes)
                   : move(block, block_bytes, arenas_allocate(bytes), bytes);
    if (captured(bytes, caller))
        return move(block, libc_size(block), allocate(bytes), bytes);
    if (run_inside == 0 && run_phase() == PHASE_WAITING)
        run_count_returned(libc_size(block));
    void *const resized = __libc_realloc(block, bytes);
    (void)given(resized != NULL ? resized : block);
    return resized;
}

void *realloc(void *block, size_t bytes)
{
    const void *caller = __builtin_return_address(0);

    if (block == NULL)
        return captured(bytes, caller) ? allocate(bytes) : given(__libc_malloc(bytes));
    if (bytes == 0) { /* as the C library does it */
        free(block);
        return NULL;
    }
    return resize(block, bytes, caller);
}

void *reallocarray(void *block, size_t count, size_t bytes)
{
    const void *caller = __builtin_return_address(0);
    size_t total;

    if (__builtin_mul_overflow(count, bytes, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    if (block == NULL)
        return captured(total, caller) ? allocate(total) : given(__libc_malloc(total));
    if (total == 0) {
        free(block);
        return NULL;
    }
    return resize(block, total, caller);
}

static void *aligned(size_t alignment, size_t bytes, const void *caller)
{
    if (!captured(bytes, caller))
        return given(__libc_memalign(alignment, bytes));
    return allocate_aligned(bytes, alignment);
}

/* The C library rounds a wrong alignment up in memalign() and aligned_alloc(), and so do we. */
static size_t alignment_round(size_t alignment)
{
    size_t rounded = sizeof(void *);

    while (rounded < alignment && rounded <= SIZE_MAX / 2)
        rounded *= 2;
    return rounded;
}

void *memalign(size_t alignment, size_t bytes)
{
    return aligned(alignment_round(alignment), bytes, __builtin_return_address(0));
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return aligned(alignment_round(alignment), bytes, __builtin_return_address(0));
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    const int error = errno;

    if (!is_power_of_two(alignment) || alignment % sizeof(void *) != 0)
        return EINVAL;
    void *const allocated = aligned(alignment, bytes, __builtin_return_address(0));
    errno = error;
    if (allocated == NULL)
        return ENOMEM;
    *block = allocated;
    return 0;
}

void *valloc(size_t bytes)
{
    return aligned(TIDE_PAGE_BYTES, bytes, __builtin_return_address(0));
}

void *pvalloc(size_t bytes)
{
    if (bytes > SIZE_MAX - TIDE_PAGE_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    return aligned(TIDE_PAGE_BYTES, (bytes + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES,
                   __builtin_return_address(0));
}

size_t malloc_usable_size(void *block)
{
    if (block == NULL)
        return 0;
    if (run_in_arenas(block))
        return arenas_size(block);
    const size_t bytes = run_in_window(block) ? blocks_size(block) : 0;
    return bytes != 0 ? bytes : libc_size(block);
}

char *strndup(const char *text, size_t bytes)
{
    const size_t length = strnlen(text, bytes);
    const void *caller = __builtin_return_address(0);
    char *const copy = captured(length + 1, caller) ? allocate(length + 1) : given(__libc_malloc(length + 1));

    if (copy == NULL)
        return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *strdup(const char *text)
{
    const size_t bytes = strlen(text) + 1;
    const void *caller = __builtin_return_address(0);
    char *const copy = captured(bytes, caller) ? allocate(bytes) : given(__libc_malloc(bytes));

    return copy == NULL ? NULL : memcpy(copy, text, bytes);
}

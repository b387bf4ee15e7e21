/*
 * The preload library of `pagetide run`: an unmodified program's memory in a mapped space.
 *
 * It stands between the program and the C library. Allocations go to a mapped space by three ways:
 *   large blocks of malloc (blocks.c)  each a region of the space, which can grow in place
 *   small blocks (arenas.c)            jemalloc, on memory of one big region; its own records lie outside
 *   private anonymous mmap (mappings.c) each a region
 * What the program asked for before its process was worth an engine, what the C library and the loader allocate for
 * themselves, and what the engine allocates, stays with the C library. Whose a block is shows by its address.
 *
 * A process goes through phases, one way only:
 *   INERT      not started by the launcher, or no constructor ran yet
 *   WAITING    counts what is allocated; the engine opens at SETTING_START bytes, so that the many small processes that
 *              scripts start cost nothing
 *   CAPTURING  engine and space are open, until the process ends: nothing is ever closed, because other threads, and
 *              destructors that run later, still use the memory. The kernel cleans up: the page file has no name.
 *   CHILD      after fork(): a copy in plain memory at the same addresses (fork.c). The engine is never called.
 *
 * The engine's own threads, and a program's thread while it is in the engine, are `inside`: what they allocate and map
 * is the C library's and the kernel's. Without that, a fault on the engine's own memory would wait for itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef RUN_PRELOAD_H
#define RUN_PRELOAD_H

#include "settings.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/types.h>

#define RUN_EXPORT __attribute__((visibility("default")))

enum phase { PHASE_INERT, PHASE_WAITING, PHASE_CAPTURING, PHASE_CHILD };

struct run {
    _Atomic(int) phase;       /* enum phase; stored with release when what the phase needs is there */
    uint64_t threshold_bytes; /* set before the phase WAITING, then constant */
    uint64_t outside_bytes;   /* this and all that follow: set before the phase CAPTURING, then constant. What the C
                                 library had given by then, and what the program had mapped */
    uintptr_t window;         /* first address of the space and its size: 0 until there is one */
    uintptr_t window_bytes;
    uintptr_t arenas; /* the region that the small blocks lie in, and its size */
    uintptr_t arenas_bytes;
    pid_t process;
    tide_engine *engine;
    tide_space *space;
    struct settings settings;
};

extern struct run run;

/* Above 0 in a thread that is in the engine or belongs to it. */
extern __thread unsigned run_inside __attribute__((tls_model("initial-exec")));

/* Before and after calls of the engine: they may allocate. errno is as before, except where told. */
static inline void run_enter(void)
{
    run_inside++;
}

static inline void run_leave(void)
{
    run_inside--;
}

static inline int run_phase(void)
{
    return atomic_load_explicit(&run.phase, memory_order_acquire);
}

static inline bool run_in_window(const void *address)
{
    return (uintptr_t)address - run.window < run.window_bytes;
}

static inline bool run_in_arenas(const void *address)
{
    return (uintptr_t)address - run.arenas < run.arenas_bytes;
}

/* ---- open.c ------------------------------------------------------------------------------------------------------ */

/*
 * Whether an allocation of so many bytes goes to the space. Opens the engine when it is time to; a process whose engine
 * cannot be opened ends with status 125 and a message.
 */
bool run_captures(size_t bytes);

/* Tells the count of phase WAITING about memory that the C library gave or got back. */
void run_count_given(size_t bytes);
void run_count_returned(size_t bytes);

/* Says on standard error, once in a process, that the engine refused memory, and why. errno becomes ENOMEM. */
void run_refused(const char *what, size_t bytes);

/* A message on the standard error that the process had when its engine opened. */
__attribute__((format(printf, 1, 2))) void run_say(const char *format, ...);

/* Appends text to a file, or to that standard error if the path is empty. */
void run_message(const char *path, const char *text, size_t bytes);

/* Is this code address in the C library or in the loader? */
bool run_is_libc(const void *code);

/* Closes the engine's descriptors in a child. */
void run_descriptors_close(void);

/* A number that children tell to the report. */
struct fork_counters {
    _Atomic(uint64_t) forks;
    _Atomic(uint64_t) bytes;
};
extern struct fork_counters run_forks;

/* ---- space.c: the mapped space, as the kernel's calls see memory ------------------------------------------------- */

/*
 * All keep `errno` unless they fail; lengths are rounded up to pages. Calls that take memory away hold off a fork()
 * that is being copied, and the other way round.
 */

/* A new region. `reserve_bytes` are addresses, of which the first `bytes` are committed. NULL: refused. */
void *space_allocate(size_t bytes, size_t reserve_bytes, size_t alignment, uint32_t protection);
/* Commits part of a region. */
bool space_commit(void *base, size_t bytes, uint32_t protection);
/* Takes away the content and the charge of part of a region. */
bool space_decommit(void *base, size_t bytes);
/* Takes away the content only. */
bool space_discard(void *base, size_t bytes);
/* Releases whatever lies in the range. */
bool space_release(void *base, size_t bytes);
/* The protection of whatever lies in the range, as mprotect(). ENOMEM if something of it is no region. */
bool space_protect(void *base, size_t bytes, int protection);

/* For fork.c: nothing is allocated or taken away between the two. */
void space_freeze(void);
void space_thaw(void);

/* ---- blocks.c: large blocks of malloc ---------------------------------------------------------------------------- */

void *blocks_allocate(size_t bytes, size_t alignment);
/* Is this the address of a living block? Then its usable size, else 0. */
size_t blocks_size(void *block);
void blocks_free(void *block);
/* In place if its region has room, else at a new place. NULL: refused, the block is as it was. */
void *blocks_resize(void *block, size_t bytes);
void blocks_lock(void);
void blocks_unlock(void);
void blocks_child(void);

/* ---- arenas.c: small blocks -------------------------------------------------------------------------------------- */

/* After the space is there. False with a message: jemalloc refuses. */
bool arenas_open(char *problem, size_t problem_bytes);
void *arenas_allocate(size_t bytes);
void *arenas_allocate_zero(size_t bytes);
void *arenas_allocate_aligned(size_t bytes, size_t alignment);
void *arenas_resize(void *block, size_t bytes);
void arenas_free(void *block);
size_t arenas_size(void *block);

/* ---- fork.c, report.c -------------------------------------------------------------------------------------------- */

void fork_open(void);
/* Writes the report, once in the process that opened the engine. */
void report_write(void);

/* ---- the kernel's calls, past our own ---------------------------------------------------------------------------- */

void *kernel_mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset);
int kernel_munmap(void *address, size_t bytes);
int kernel_mprotect(void *address, size_t bytes, int protection);
int kernel_madvise(void *address, size_t bytes, int advice);

#endif

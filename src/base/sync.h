/*
 * The synchronisation seam: every atomic, lock, event and wait of the engine goes through this file.
 *
 * Why a seam. Concurrency Kit lies underneath: its atomics are inline assembly, fast and exactly as ordered as they
 * say, and invisible to ThreadSanitizer. So instrumented builds (ThreadSanitizer, the shared-line counter of
 * tests/lines) take the compiler's builtins instead, which both can see, and no code above the seam changes. Builds
 * with TIDE_SYNC_POINTS call sync_point_hook before each atomic: yield injection and deterministic scheduling hang
 * there.
 *
 * Orders. Plain names are acquire for loads, release for stores, sequentially consistent for read-modify-write. The
 * _relaxed forms promise atomicity alone. There are no stand-alone fences, since ThreadSanitizer does not
 * understand them: who needs a full barrier takes a read-modify-write.
 *
 * Field legend of the whole engine: [I] set at creation, [A] atomic, [T] owner thread, [L:name] protected by the lock
 * of that rank, [E] published under the epoch (readers in a section).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_SYNC_H
#define BASE_SYNC_H

#include "base/assert.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__SANITIZE_THREAD__) || defined(TIDE_INSTRUMENTED)
#define SYNC_BUILTINS 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SYNC_BUILTINS 1
#endif
#endif

#ifndef SYNC_BUILTINS
#include <ck_pr.h>
#endif

#define SYNC_CACHE_LINE_BYTES 64
#define SYNC_CACHE_ALIGNED __attribute__((aligned(SYNC_CACHE_LINE_BYTES)))

#ifdef TIDE_SYNC_POINTS
/* Called before each atomic operation with its address; may yield or switch. NULL for none. Set while threads run. */
extern void (*sync_point_hook)(const void *address); /* [A] */
static inline void sync_point_hook_set(void (*hook)(const void *address))
{
    __atomic_store_n(&sync_point_hook, hook, __ATOMIC_RELAXED);
}
#define SYNC_POINT(address)                                                                                            \
    do {                                                                                                               \
        void (*const hook_)(const void *) = __atomic_load_n(&sync_point_hook, __ATOMIC_RELAXED);                       \
        if (hook_ != NULL)                                                                                             \
            hook_(address);                                                                                            \
    } while (0)
#else
#define SYNC_POINT(address) ((void)0)
#endif

#ifdef SYNC_BUILTINS
#define SYNC_OPERATIONS(suffix, type)                                                                                  \
    static inline type sync_load_##suffix(const type *p)                                                               \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return __atomic_load_n(p, __ATOMIC_ACQUIRE);                                                                   \
    }                                                                                                                  \
    static inline type sync_load_relaxed_##suffix(const type *p)                                                       \
    {                                                                                                                  \
        return __atomic_load_n(p, __ATOMIC_RELAXED);                                                                   \
    }                                                                                                                  \
    static inline void sync_store_##suffix(type *p, type v)                                                            \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        __atomic_store_n(p, v, __ATOMIC_RELEASE);                                                                      \
    }                                                                                                                  \
    static inline void sync_store_relaxed_##suffix(type *p, type v)                                                    \
    {                                                                                                                  \
        __atomic_store_n(p, v, __ATOMIC_RELAXED);                                                                      \
    }                                                                                                                  \
    static inline bool sync_cas_##suffix(type *p, type expected, type desired)                                         \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);          \
    }                                                                                                                  \
    static inline bool sync_cas_value_##suffix(type *p, type expected, type desired, type *seen)                       \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        *seen = expected;                                                                                              \
        return __atomic_compare_exchange_n(p, seen, desired, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);               \
    }                                                                                                                  \
    static inline type sync_swap_##suffix(type *p, type v)                                                             \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                                            \
    }                                                                                                                  \
    static inline type sync_add_##suffix(type *p, type d)                                                              \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return __atomic_fetch_add(p, d, __ATOMIC_SEQ_CST);                                                             \
    }
static inline void sync_pause(void)
{
    __builtin_ia32_pause();
}
#else
#define SYNC_OPERATIONS(suffix, type)                                                                                  \
    static inline type sync_load_##suffix(const type *p)                                                               \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        const type v = ck_pr_load_##suffix(p);                                                                         \
        ck_pr_fence_acquire();                                                                                         \
        return v;                                                                                                      \
    }                                                                                                                  \
    static inline type sync_load_relaxed_##suffix(const type *p)                                                       \
    {                                                                                                                  \
        return ck_pr_load_##suffix(p);                                                                                 \
    }                                                                                                                  \
    static inline void sync_store_##suffix(type *p, type v)                                                            \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        ck_pr_fence_release();                                                                                         \
        ck_pr_store_##suffix(p, v);                                                                                    \
    }                                                                                                                  \
    static inline void sync_store_relaxed_##suffix(type *p, type v)                                                    \
    {                                                                                                                  \
        ck_pr_store_##suffix(p, v);                                                                                    \
    }                                                                                                                  \
    static inline bool sync_cas_##suffix(type *p, type expected, type desired)                                         \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return ck_pr_cas_##suffix(p, expected, desired);                                                               \
    }                                                                                                                  \
    static inline bool sync_cas_value_##suffix(type *p, type expected, type desired, type *seen)                       \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return ck_pr_cas_##suffix##_value(p, expected, desired, seen);                                                 \
    }                                                                                                                  \
    static inline type sync_swap_##suffix(type *p, type v)                                                             \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return ck_pr_fas_##suffix(p, v);                                                                               \
    }                                                                                                                  \
    static inline type sync_add_##suffix(type *p, type d)                                                              \
    {                                                                                                                  \
        SYNC_POINT(p);                                                                                                 \
        return ck_pr_faa_##suffix(p, d);                                                                               \
    }
static inline void sync_pause(void)
{
    ck_pr_stall();
}
#endif

SYNC_OPERATIONS(64, uint64_t)
SYNC_OPERATIONS(32, uint32_t)
#undef SYNC_OPERATIONS

/* Pointers: published with release, read with acquire. */
#define sync_load_ptr(p) ((__typeof__(*(p)))(uintptr_t)sync_load_64((const uint64_t *)(const void *)(p)))
#define sync_store_ptr(p, v) sync_store_64((uint64_t *)(void *)(p), (uint64_t)(uintptr_t)(v))

/* ---- locks ------------------------------------------------------------------------------------------------------ */

enum sync_rank {
#define LOCK_RANK(name, what) SYNC_RANK_##name,
#include "base/lock_ranks.def"
#undef LOCK_RANK
    SYNC_RANK_COUNT
};

/*
 * A short-section lock: spins a while, then sleeps in the kernel, since with more threads than CPUs the holder may be
 * the one that waits for a CPU. 0 free, 1 held, 2 held with sleepers. Debug builds keep each thread's held ranks and
 * stop on an order violation, with the backtrace of both acquisitions.
 */
struct sync_lock {
    uint32_t word; /* [A] */
    uint32_t rank; /* [I] enum sync_rank */
};

void sync_lock_init(struct sync_lock *lock, enum sync_rank rank);
void sync_lock_wait(struct sync_lock *lock);                       /* slow path of sync_lock */
void sync_lock_wake(struct sync_lock *lock);                       /* slow path of sync_unlock */
void sync_rank_acquired(const struct sync_lock *lock, bool tried); /* debug builds */
void sync_rank_released(const struct sync_lock *lock);
/*
 * Debug builds: stops if the thread holds a lock that protects data (a rank after `worker`; the ranks up to it only
 * keep one verifier, or one step of a worker, at a time). Called before I/O and before every wait for a frame (I14).
 */
void sync_assert_unlocked(void);

static inline void sync_lock(struct sync_lock *lock)
{
    if (__builtin_expect(!sync_cas_32(&lock->word, 0, 1), 0))
        sync_lock_wait(lock);
#ifndef NDEBUG
    sync_rank_acquired(lock, false);
#endif
}

static inline bool sync_trylock(struct sync_lock *lock)
{
    if (sync_load_relaxed_32(&lock->word) != 0 || !sync_cas_32(&lock->word, 0, 1))
        return false;
#ifndef NDEBUG
    sync_rank_acquired(lock, true);
#endif
    return true;
}

static inline void sync_unlock(struct sync_lock *lock)
{
#ifndef NDEBUG
    sync_rank_released(lock);
#endif
    if (__builtin_expect(sync_swap_32(&lock->word, 0) == 2, 0))
        sync_lock_wake(lock);
}

/*
 * A lock that is only ever tried for, and never waited for: who does not get it does something else. Its release is a
 * plain store, and a holder that lost its CPU stops nobody.
 */
struct sync_flag {
    uint32_t word; /* [A] 1 while held */
};

static inline bool sync_flag_try(struct sync_flag *flag)
{
    return sync_load_relaxed_32(&flag->word) == 0 && sync_cas_32(&flag->word, 0, 1);
}

static inline void sync_flag_clear(struct sync_flag *flag)
{
    sync_store_32(&flag->word, 0);
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

/*
 * An event count (ck_ec): a waiter reads the value, checks its condition, and sleeps only if the value has not moved
 * since; a waker changes the condition and then moves the value. No wake-up is lost, and a signal without waiters is
 * one atomic add.
 */
struct sync_event {
    struct {
        uint32_t counter;
    } count; /* [A] layout of struct ck_ec32 */
};

void sync_event_init(struct sync_event *event);
uint32_t sync_event_value(const struct sync_event *event);
/* Moves the value and wakes all waiters. */
void sync_event_signal(struct sync_event *event);
/*
 * Sleeps until the value is no longer `value`, or `timeout_ns` passed (UINT64_MAX: no limit). Returns false on
 * time-out.
 */
bool sync_event_wait(struct sync_event *event, uint32_t value, uint64_t timeout_ns);

#endif

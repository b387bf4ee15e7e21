/*
 * Slow paths of the synchronisation seam: sleeping locks, lock ranks, event counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/sync.h"
#include "base/quiet.h"

#include <ck_ec.h>
#include <errno.h>
#include <execinfo.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef TIDE_SYNC_POINTS
void (*sync_point_hook)(const void *address);
#endif

/*
 * How a waiter spins before it sleeps: so many pauses, a look, twice as many up to the longest, a look. A critical
 * section is tens of nanoseconds, and who holds a lock often comes back for it at once (the pages of a shard, one after
 * the other): a waiter that looks all the time takes the line away from under it, and both creep. A sleep and a wake-up
 * cost tens of microseconds.
 */
enum { LOCK_LOOKS = 6, LOCK_PAUSES_FIRST = 16, LOCK_PAUSES_MOST = 128 };

static void futex_wait(const uint32_t *address, uint32_t expected, const struct timespec *relative)
{
    syscall(SYS_futex, address, FUTEX_WAIT_PRIVATE, expected, relative, NULL, 0);
}

static void futex_wake(const uint32_t *address, int count)
{
    syscall(SYS_futex, address, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

void sync_lock_init(struct sync_lock *lock, enum sync_rank rank)
{
    sync_store_relaxed_32(&lock->word, 0);
    lock->rank = rank;
}

/* The classic three-state mutex: whoever slept takes the lock as 2, so that its unlock wakes the next. */
void sync_lock_wait(struct sync_lock *lock)
{
    unsigned pauses = LOCK_PAUSES_FIRST;

    for (unsigned look = 0; look < LOCK_LOOKS; look++) {
        for (unsigned i = 0; i < pauses; i++)
            sync_pause();
        if (sync_load_relaxed_32(&lock->word) == 0 && sync_cas_32(&lock->word, 0, 1))
            return;
        pauses = pauses < LOCK_PAUSES_MOST ? pauses * 2 : pauses;
    }
    while (sync_swap_32(&lock->word, 2) != 0)
        futex_wait(&lock->word, 2, NULL);
}

void sync_lock_wake(struct sync_lock *lock)
{
    futex_wake(&lock->word, 1);
}

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

#ifndef NDEBUG
enum { HELD_MAX = 16, TRACE_MAX = 12 };

static _Thread_local struct {
    const struct sync_lock *lock;
    int trace_count;
    void *trace[TRACE_MAX];
} held[HELD_MAX];                         /* [T] */
static _Thread_local unsigned held_count; /* [T] */

static const char *const rank_names[] = {
#define LOCK_RANK(name, what) #name,
#include "base/lock_ranks.def"
#undef LOCK_RANK
};

static _Noreturn void rank_violation(const struct sync_lock *lock, unsigned index)
{
    void *trace[TRACE_MAX];

    fprintf(stderr, "pagetide: lock order violation: takes %s while holding %s, which was taken at\n",
            rank_names[lock->rank], rank_names[held[index].lock->rank]);
    backtrace_symbols_fd(held[index].trace, held[index].trace_count, 2);
    fprintf(stderr, "pagetide: and now\n");
    backtrace_symbols_fd(trace, backtrace(trace, TRACE_MAX), 2);
    abort();
}
#endif

void sync_rank_acquired(const struct sync_lock *lock, bool tried)
{
#ifndef NDEBUG
    ASSERT_ALWAYS(quiet_is_kept());
    /* A lock that was only tried for cannot close a cycle of waiters, so its rank is recorded but not judged. */
    for (unsigned i = 0; i < held_count && !tried; i++)
        if (held[i].lock->rank >= lock->rank)
            rank_violation(lock, i);
    ASSERT_ALWAYS(held_count < HELD_MAX);
    held[held_count].lock = lock;
#ifdef TIDE_CHECKING
    held[held_count].trace_count = backtrace(held[held_count].trace, TRACE_MAX);
#else
    held[held_count].trace[0] = __builtin_return_address(0);
    held[held_count].trace_count = 1;
#endif
    held_count++;
#else
    (void)lock;
    (void)tried;
#endif
}

void sync_rank_released(const struct sync_lock *lock)
{
#ifndef NDEBUG
    for (unsigned i = held_count; i-- > 0;) {
        if (held[i].lock == lock) {
            held[i] = held[--held_count];
            return;
        }
    }
    ASSERT_ALWAYS(!"a lock is released by the thread that holds it");
#else
    (void)lock;
#endif
}

void sync_assert_unlocked(void)
{
#ifndef NDEBUG
    for (unsigned i = 0; i < held_count; i++)
        ASSERT_ALWAYS(held[i].lock->rank <= SYNC_RANK_worker);
#endif
}

/* ---- events ----------------------------------------------------------------------------------------------------- */

_Static_assert(sizeof(struct sync_event) == sizeof(struct ck_ec32), "an event is a ck_ec32");

static int ec_gettime(const struct ck_ec_ops *ops, struct timespec *now)
{
    (void)ops;
    return clock_gettime(CLOCK_MONOTONIC, now);
}

static void ec_wait32(const struct ck_ec_wait_state *state, const uint32_t *address, uint32_t expected,
                      const struct timespec *deadline)
{
    struct timespec relative;

    if (deadline == NULL) {
        futex_wait(address, expected, NULL);
        return;
    }
    relative.tv_sec = deadline->tv_sec - state->now.tv_sec;
    relative.tv_nsec = deadline->tv_nsec - state->now.tv_nsec;
    if (relative.tv_nsec < 0) {
        relative.tv_sec--;
        relative.tv_nsec += 1000000000L;
    }
    if (relative.tv_sec >= 0)
        futex_wait(address, expected, &relative);
}

static void ec_wake32(const struct ck_ec_ops *ops, const uint32_t *address)
{
    (void)ops;
    futex_wake(address, INT32_MAX);
}

static const struct ck_ec_ops ec_ops = {
    .gettime = ec_gettime,
    .wait32 = ec_wait32,
    .wake32 = ec_wake32,
};
static const struct ck_ec_mode ec_mode = { .ops = &ec_ops, .single_producer = false };

static struct ck_ec32 *ec_of(struct sync_event *event)
{
    return (struct ck_ec32 *)(void *)&event->count;
}

void sync_event_init(struct sync_event *event)
{
    ck_ec32_init(ec_of(event), 0);
}

uint32_t sync_event_value(const struct sync_event *event)
{
    return ck_ec32_value((const struct ck_ec32 *)(const void *)&event->count);
}

void sync_event_signal(struct sync_event *event)
{
    /* Not ck_ec32_inc: in some builds that is a bare instruction which instrumentation cannot see. */
    (void)ck_ec32_add(ec_of(event), &ec_mode, 1);
}

bool sync_event_wait(struct sync_event *event, uint32_t value, uint64_t timeout_ns)
{
    struct timespec deadline, *limit = NULL;

    if (timeout_ns != UINT64_MAX) {
        clock_gettime(CLOCK_MONOTONIC, &deadline);
        deadline.tv_sec += (time_t)(timeout_ns / 1000000000u);
        deadline.tv_nsec += (long)(timeout_ns % 1000000000u);
        if (deadline.tv_nsec >= 1000000000L) {
            deadline.tv_sec++;
            deadline.tv_nsec -= 1000000000L;
        }
        limit = &deadline;
    }
    return ck_ec32_wait(ec_of(event), &ec_mode, value, limit) == 0;
}

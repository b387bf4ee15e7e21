/*
 * Quiet: while it lasts, no handler of the program's runs in the calling thread.
 *
 * Such a handler may touch a page of a mapped space, and its fault comes back into the library (base/memory_fault.h).
 * If it has interrupted a thread with a lock or a claim of the engine in its hands, the fault could wait for what its
 * own thread holds. So as long as faults come by signal in this process, who takes a lock of the engine has all signals
 * blocked, but those that an instruction of the thread's own causes: inside the engine grace_enter() has seen to it,
 * outside of it quiet_begin() does. Debug builds check it at each lock.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_QUIET_H
#define BASE_QUIET_H

#include "base/sync.h"

#include <signal.h>

extern uint32_t quiet_wanted; /* [A] how many want it: memory_faults_begin() */

struct quiet {
    bool held;
    sigset_t signals; /* the thread's mask from before, if held */
};

/* Whoever wants it or not. Nests. */
void quiet_hold(struct quiet *quiet);
void quiet_let(struct quiet *quiet);

static inline void quiet_begin(struct quiet *quiet)
{
    quiet->held = false;
    if (__builtin_expect(sync_load_relaxed_32(&quiet_wanted) != 0, 0))
        quiet_hold(quiet);
}

static inline void quiet_end(struct quiet *quiet)
{
    if (__builtin_expect(quiet->held, 0))
        quiet_let(quiet);
}

/* Quiet to the end of the block: for calls that take locks here and there, and do not enter the engine. */
static inline struct quiet quiet_now(void)
{
    struct quiet quiet;

    quiet_begin(&quiet);
    return quiet;
}
#define QUIET_SCOPE() struct quiet quiet_scope __attribute__((cleanup(quiet_end), unused)) = quiet_now()

/* A lock that is taken outside of the engine. */
static inline void quiet_lock(struct sync_lock *lock, struct quiet *quiet)
{
    quiet_begin(quiet);
    sync_lock(lock);
}

static inline void quiet_unlock(struct sync_lock *lock, struct quiet *quiet)
{
    sync_unlock(lock);
    quiet_end(quiet);
}

/* Is it quiet in this thread, or need not be? For assertions. */
bool quiet_is_kept(void);

#endif

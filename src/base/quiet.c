/*
 * Blocking the program's signals. The idea is in quiet.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/quiet.h"

#include <pthread.h>

uint32_t quiet_wanted;

/* All but those that an instruction of the thread's own causes: these must come at once. */
static void signals_of_others(sigset_t *set)
{
    static const int own[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS };

    sigfillset(set);
    for (unsigned i = 0; i < sizeof own / sizeof own[0]; i++)
        sigdelset(set, own[i]);
}

void quiet_hold(struct quiet *quiet)
{
    sigset_t set;

    signals_of_others(&set);
    quiet->held = pthread_sigmask(SIG_BLOCK, &set, &quiet->signals) == 0;
}

void quiet_let(struct quiet *quiet)
{
    quiet->held = false;
    (void)pthread_sigmask(SIG_SETMASK, &quiet->signals, NULL);
}

bool quiet_is_kept(void)
{
    sigset_t set;

    /* One signal stands for all: nobody else blocks just the others. */
    return sync_load_relaxed_32(&quiet_wanted) == 0 || pthread_sigmask(SIG_BLOCK, NULL, &set) != 0 ||
           sigismember(&set, SIGUSR1) == 1;
}

/*
 * SIGBUS in watched memory. The idea is in memory_error.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/memory_error.h"
#include "base/memory_fault.h"
#include "base/error.h"
#include "base/quiet.h"
#include "base/sync.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <ucontext.h>

struct watch {
    uint32_t state;  /* [A] WATCH_ */
    uint32_t inside; /* [A] handlers that look at it */
    char *memory;    /* [I] while WATCH_ON */
    size_t bytes;
    memory_error_note *note;
    void *context;
};

enum { WATCH_FREE, WATCH_BEING_SET, WATCH_ON };

static struct watch watches[MEMORY_ERROR_WATCHES];
static struct sync_lock watches_lock = { .rank = SYNC_RANK_memory_error };
static unsigned watch_count;     /* [L:memory_error] */
static memory_fault *resolver;   /* [A] NULL: nobody brings memory */
static unsigned resolver_users;  /* [L:memory_error] */
static struct sigaction before;  /* [L:memory_error] the handler from before; for the handler: set before it can run */
static uint32_t handler_is_left; /* [A] somebody else's handler lies on top of ours and may call it: it stays */

/*
 * Where the thread goes on after an error, NULL: nowhere. Of a storage class that is there before its first use, for a
 * handler must not allocate it.
 */
static _Thread_local jmp_buf *way_out __attribute__((tls_model("initial-exec")));

/* ---- the handler ------------------------------------------------------------------------------------------------ */

/* Tells the owner of the watched memory that [address, address + bytes) touches; false if it is nobody's. */
static bool note(char *address, size_t bytes)
{
    bool found = false;

    for (unsigned i = 0; i < MEMORY_ERROR_WATCHES; i++) {
        struct watch *watch = &watches[i];

        (void)sync_add_32(&watch->inside, 1);
        if (sync_load_32(&watch->state) == WATCH_ON && address < watch->memory + watch->bytes &&
            address + bytes > watch->memory) {
            char *first = address < watch->memory ? watch->memory : address;
            char *end = address + bytes > watch->memory + watch->bytes ? watch->memory + watch->bytes : address + bytes;

            watch->note(watch->context, first, (size_t)(end - first));
            found = true;
        }
        (void)sync_add_32(&watch->inside, (uint32_t)-1);
    }
    return found;
}

/* What would have happened without this handler, with the signals blocked that would be. */
static void chain(int number, siginfo_t *info, void *context)
{
    sigset_t blocked = ((const ucontext_t *)context)->uc_sigmask;

    sigorset(&blocked, &blocked, &before.sa_mask);
    if (!(before.sa_flags & SA_NODEFER))
        sigaddset(&blocked, SIGBUS);
    (void)pthread_sigmask(SIG_SETMASK, &blocked, NULL);
    if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
        return;
    }
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(number);
        return;
    }
    /* An error of one's own cannot be ignored: the kernel would end the process too. */
    const bool own = info->si_code == BUS_MCEERR_AR || info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR ||
                     info->si_code == BUS_ADRALN;
    if (before.sa_handler == SIG_IGN && !own)
        return;
    struct sigaction ends = { .sa_handler = SIG_DFL };
    (void)sigaction(SIGBUS, &ends, NULL);
    sigdelset(&((ucontext_t *)context)->uc_sigmask, SIGBUS);
    (void)raise(SIGBUS);
}

static void handler(int number, siginfo_t *info, void *context)
{
    const int error = errno;
    const bool optional = info->si_code == BUS_MCEERR_AO;
    const bool required = info->si_code == BUS_MCEERR_AR || info->si_code == BUS_ADRERR || info->si_code == BUS_OBJERR;
    bool known = false;

    memory_fault *const resolve = sync_load_ptr(&resolver);
    if (info->si_code == BUS_ADRERR && resolve != NULL && resolve(info, context)) {
        errno = error;
        return;
    }
    if (optional || required) {
        /* How much is gone: a page, or all of a huge page. */
        const bool counted = info->si_code == BUS_MCEERR_AO || info->si_code == BUS_MCEERR_AR;
        const unsigned shift =
            counted && info->si_addr_lsb > 12 && info->si_addr_lsb < 40 ? (unsigned)info->si_addr_lsb : 12;
        const uintptr_t first = (uintptr_t)info->si_addr >> shift << shift;

        known = note((char *)first, (size_t)1 << shift);
    }
    if (known && required && way_out != NULL) {
        /* As a return from the handler would do it: _setjmp() did not save the mask, which costs a system call. */
        (void)pthread_sigmask(SIG_SETMASK, &((const ucontext_t *)context)->uc_sigmask, NULL);
        errno = error;
        longjmp(*way_out, 1);
    }
    if (!known || required)
        chain(number, info, context);
    errno = error;
}

/* ---- watches ---------------------------------------------------------------------------------------------------- */

static bool handler_install(void)
{
    /* A handler of somebody else's that is called from here may touch memory that is not there: SIGBUS comes again. */
    struct sigaction ours = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART | SA_NODEFER };
    static const int faults[] = { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS };

    if (sync_load_32(&handler_is_left) != 0)
        return true;
    sigfillset(&ours.sa_mask);
    for (unsigned i = 0; i < sizeof faults / sizeof faults[0]; i++)
        sigdelset(&ours.sa_mask, faults[i]);
    /* Read first: the handler may run as soon as it is there, and chains. */
    return sigaction(SIGBUS, NULL, &before) == 0 && sigaction(SIGBUS, &ours, NULL) == 0;
}

static void handler_remove(void)
{
    struct sigaction now;

    if (sigaction(SIGBUS, NULL, &now) == 0 && (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == handler)
        (void)sigaction(SIGBUS, &before, NULL);
    else
        sync_store_32(&handler_is_left, 1);
}

tide_status memory_error_watch(void *memory, size_t bytes, memory_error_note *call, void *context, unsigned *watch)
{
    struct quiet quiet;
    tide_status status = TIDE_SUCCESS;
    unsigned i = 0;

    quiet_lock(&watches_lock, &quiet);
    while (i < MEMORY_ERROR_WATCHES && sync_load_32(&watches[i].state) != WATCH_FREE)
        i++;
    if (i == MEMORY_ERROR_WATCHES)
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0,
                           "%d engines of this process handle memory errors; that is the most", MEMORY_ERROR_WATCHES);
    else if (watch_count + resolver_users == 0 && !handler_install())
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "no handler for SIGBUS: %s", strerror(errno));
    if (!tide_failed(status)) {
        watch_count++;
        watches[i].memory = memory;
        watches[i].bytes = bytes;
        watches[i].note = call;
        watches[i].context = context;
        sync_store_32(&watches[i].state, WATCH_ON);
        *watch = i;
    }
    quiet_unlock(&watches_lock, &quiet);
    return status;
}

void memory_error_unwatch(unsigned watch)
{
    struct quiet quiet;

    quiet_lock(&watches_lock, &quiet);
    (void)sync_swap_32(&watches[watch].state, WATCH_BEING_SET); /* a full barrier before `inside` is read */
    while (sync_load_32(&watches[watch].inside) != 0)
        sched_yield();
    sync_store_32(&watches[watch].state, WATCH_FREE);
    if (--watch_count + resolver_users == 0)
        handler_remove();
    quiet_unlock(&watches_lock, &quiet);
}

tide_status memory_faults_begin(memory_fault *resolve)
{
    struct quiet quiet;
    tide_status status = TIDE_SUCCESS;

    quiet_lock(&watches_lock, &quiet);
    if (watch_count + resolver_users == 0 && !handler_install()) {
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "no handler for SIGBUS: %s", strerror(errno));
    } else {
        resolver_users++;
        (void)sync_add_32(&quiet_wanted, 1);
        sync_store_ptr(&resolver, resolve);
    }
    quiet_unlock(&watches_lock, &quiet);
    return status;
}

void memory_faults_end(void)
{
    struct quiet quiet;

    quiet_lock(&watches_lock, &quiet);
    if (--resolver_users == 0)
        sync_store_ptr(&resolver, NULL);
    (void)sync_add_32(&quiet_wanted, (uint32_t)-1);
    if (watch_count + resolver_users == 0)
        handler_remove();
    quiet_unlock(&watches_lock, &quiet);
}

/* ---- going on --------------------------------------------------------------------------------------------------- */

/*
 * way_out is set before the first access and taken away after the last. Nothing that the compiler might keep in a
 * register changes between _setjmp() and the jump.
 */
bool memory_error_call(void (*call)(void *context), void *context)
{
    jmp_buf here;

    if (_setjmp(here) != 0) {
        way_out = NULL;
        return false;
    }
    way_out = &here;
    __asm__ __volatile__("" ::: "memory");
    call(context);
    __asm__ __volatile__("" ::: "memory");
    way_out = NULL;
    return true;
}

struct copying {
    void *to;
    const void *from;
    size_t bytes;
};

static void copy_call(void *context)
{
    const struct copying *copying = context;

    memcpy(copying->to, copying->from, copying->bytes);
}

bool memory_error_copy(void *to, const void *from, size_t bytes)
{
    struct copying copying = { to, from, bytes };

    return memory_error_call(copy_call, &copying);
}

void memory_error_thread_listen(void)
{
    sigset_t bus;

    sigemptyset(&bus);
    sigaddset(&bus, SIGBUS);
    (void)pthread_sigmask(SIG_UNBLOCK, &bus, NULL);
    (void)prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
}

/*
 * Delivery of hardware faults: from the kernel to the fault path, by signal or by threads, and back to the program what
 * it must be told.
 *
 * By signal. The kernel sends SIGBUS to the faulting thread (UFFD_FEATURE_SIGBUS); base/memory_error.c has the handler
 * and asks resolve() here. The whole fault path runs in that handler, so it is safe in one:
 *   - the handler blocks all signals but those of faults, and so does who takes a lock or a claim of an engine
 *     (base/quiet.h), so no thread is interrupted with one of these in its hands and then faults;
 *   - on the way there is no malloc, no stdio, no lock of libc's, in the workers' steps neither: records of threads are
 *     mapped, and errors have no sentence;
 *   - errno and the thread's last error are as they were.
 *
 * By threads. The kernel puts the faulting thread to sleep, in a system call too, and writes a message; threads of the
 * space read it and resolve. There is nothing that interrupts anybody.
 *
 * With either, the kernel writes a message when the program unmaps a part of the window, and the program waits until it
 * was read (tables/window.c). By signal a space has one thread for that, which sleeps for good in a right program.
 *
 * What cannot be resolved. By signal: an access violation is queued to the thread as SIGSEGV with the address, and
 * comes when the handler returns, as if the kernel had sent it; for a page that cannot be read back the program's own
 * handler of SIGBUS is called. By threads: the page is fenced (PROT_NONE) so that the access is SIGSEGV, until a call
 * gives it rights again; or poisoned, so that it is SIGBUS.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "base/memory_fault.h"
#include "engine/engine_impl.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define WINDOW_DEFAULT_BYTES (1ull << 40)
#define WINDOW_DEFAULT_LEAST (1ull << 34) /* where the process has not so many addresses left (ulimit -v, sanitizers) */
#define WINDOW_UNIT_BYTES (2ull << 20)
#define WINDOW_MOST_BYTES (1ull << 46)
#define PAGE_FAULT_WRITE_BIT 2 /* of the error code that x86-64 has in the context of a fault */
enum { HANDLERS_MAX = 64, HANDLERS_DEFAULT = 8 };
/* The default of cluster_pages: of the frames one in so many, within limits. */
enum { CLUSTER_PART = 64, CLUSTER_LEAST = 64 };

/* ---- resolving -------------------------------------------------------------------------------------------------- */

/* The page of an address becomes accessible, or says why not: TIDE_TIMEOUT while there is hope for a frame. */
static tide_status fault_take(tide_space *space, tide_address address, tide_access_kind kind)
{
    const uint64_t begin = os_clock_ns();
    struct grace_thread *thread = engine_thread(engine_of(space));
    pte_t valid;

    /*
     * Calls touch what the program gave them with no lock in their hands and outside of the engine, since that may lie
     * in a mapped space.
     */
    sync_assert_unlocked();
    ASSERT_DEBUG(thread == NULL || thread->depth == 0);

    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    const bool was_quiet = thread->is_quiet;
    thread->is_quiet = true;
    grace_enter(thread);
    const tide_status status = fault_resolve(space, thread, address, kind, &valid);
    grace_leave(thread);
    thread->is_quiet = was_quiet;
    const unsigned cpu = space_cpu(space);
    space_count_on(space, cpu, SPACE_HARDWARE_FAULTS, 1);
    space_count_on(space, cpu, SPACE_HARDWARE_FAULT_NS, os_clock_ns() - begin);
    return status;
}

static bool is_violation(tide_status status)
{
    return status == TIDE_ACCESS_VIOLATION || status == TIDE_GUARD_PAGE_VIOLATION || status == TIDE_STACK_OVERFLOW;
}

/* ---- by signal -------------------------------------------------------------------------------------------------- */

/* SIGSEGV, as the kernel would have sent it: blocked or ignored it ends the process. */
static void violation_send(void *address, ucontext_t *context)
{
    siginfo_t info;
    struct sigaction now;

    memset(&info, 0, sizeof info);
    info.si_signo = SIGSEGV;
    info.si_code = SEGV_ACCERR;
    info.si_addr = address;
    sigset_t segv;

    /* It waits until this handler has returned: it is to find the thread at the access, and not in here. */
    sigemptyset(&segv);
    sigaddset(&segv, SIGSEGV);
    (void)pthread_sigmask(SIG_BLOCK, &segv, NULL);
    if (sigismember(&context->uc_sigmask, SIGSEGV) == 1 ||
        (sigaction(SIGSEGV, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) && now.sa_handler == SIG_IGN)) {
        const struct sigaction ends = { .sa_handler = SIG_DFL };

        (void)sigaction(SIGSEGV, &ends, NULL);
        sigdelset(&context->uc_sigmask, SIGSEGV);
    }
    (void)syscall(SYS_rt_tgsigqueueinfo, getpid(), os_thread_id(), SIGSEGV, &info);
}

/* Of an access to a foreign page that is made once more. Of a storage class that is there before its first use. */
static _Thread_local uint64_t made_again __attribute__((tls_model("initial-exec")));

/*
 * SIGBUS at a page that is foreign by now: of the window's page that was there when the access was made, or of what is
 * there now, whose error it is then. Made once more, the access tells.
 */
static bool is_of_before(uint64_t address)
{
    const bool before = made_again != address;

    made_again = before ? address : 0;
    return before;
}

/* For memory_faults_begin(). Returns false for what is none of ours, and for what the program is to get as SIGBUS. */
static bool resolve(siginfo_t *info, void *context)
{
    const uint64_t address = (uintptr_t)info->si_addr;
    const uint64_t page = address / TIDE_PAGE_BYTES;
    struct mapping *mapping = mapping_find(page);
    ucontext_t *const interrupted = context;

    if (mapping == NULL || mapping->by_threads)
        return false;
    if (mapping_is_foreign(mapping, page))
        return is_of_before(address);
    const bool write = (interrupted->uc_mcontext.gregs[REG_ERR] & PAGE_FAULT_WRITE_BIT) != 0;
    error_handler_begin();
    const tide_status status = fault_take(mapping->owner, address, write ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ);
    error_handler_end(tide_failed(status) && status != TIDE_TIMEOUT);
    /*
     * A pointer has no way to say that there was no frame in time: the access faults again. In between the thread takes
     * the signals that have come for it meanwhile, one that ends the process too.
     */
    if (!tide_failed(status) || status == TIDE_TIMEOUT)
        return true;
    if (!is_violation(status))
        return false;
    violation_send(info->si_addr, interrupted);
    return true;
}

/* ---- by threads ------------------------------------------------------------------------------------------------- */

struct delivery {
    struct mapping *mapping;
    int stop; /* eventfd */
    unsigned count;
    pthread_t threads[HANDLERS_MAX];
};

/* Are these the page's rights, whatever happened to the access just now? */
static bool is_allowed(tide_space *space, tide_address address, tide_access_kind kind)
{
    tide_page_info info;

    return tide_page_query(space, address, &info) == TIDE_SUCCESS &&
           (info.protection == TIDE_PAGE_READWRITE ||
            (kind == TIDE_ACCESS_READ && info.protection == TIDE_PAGE_READONLY));
}

/*
 * A page that may be read stays so. Who gives rights takes fences away afterwards, and may have done both before there
 * was this one: then it is of no use any more.
 */
static void fence(struct mapping *mapping, tide_address address, tide_access_kind kind, tide_status status)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;

    mapping_fence(mapping, page, is_allowed(mapping->owner, address, TIDE_ACCESS_READ));
    if (status == TIDE_ACCESS_VIOLATION && is_allowed(mapping->owner, address, kind))
        mapping_unfence(mapping, page, 1);
}

/* Nothing is left of the page in the hardware's page table. */
static void page_clear(tide_space *space, tide_address address)
{
    struct grace_thread *thread = engine_thread(engine_of(space));

    if (thread == NULL)
        return;
    grace_enter(thread);
    fault_clear(space, address / TIDE_PAGE_BYTES);
    grace_leave(thread);
}

static bool is_bus_error(tide_status status)
{
    return tide_failed(status) && !is_violation(status) && status != TIDE_TIMEOUT; /* as by signal: it faults again */
}

static void message_take(struct mapping *mapping, tide_address address, tide_access_kind kind)
{
    tide_status status;

    do /* a guard page is told in the counters alone: there is no moment at which to take a fence away again */
        status = fault_take(mapping->owner, address, kind);
    while (status == TIDE_GUARD_PAGE_VIOLATION);
    if (is_violation(status)) {
        fence(mapping, address, kind, status);
    } else if (is_bus_error(status) && !mapping_poison(mapping, address / TIDE_PAGE_BYTES)) {
        /* It has come meanwhile; or something is left of it, and then it is asked for once more. */
        page_clear(mapping->owner, address);
        if (is_bus_error(fault_take(mapping->owner, address, kind)))
            (void)mapping_poison(mapping, address / TIDE_PAGE_BYTES);
    }
    /* Who came second finds the page there and wakes nobody. */
    mapping_wake(mapping, address / TIDE_PAGE_BYTES);
}

static void *handler_main(void *context)
{
    struct delivery *delivery = context;
    struct pollfd files[2] = { { .fd = delivery->mapping->faults, .events = POLLIN },
                               { .fd = delivery->stop, .events = POLLIN } };
    sigset_t all;

    sigfillset(&all);
    (void)pthread_sigmask(SIG_BLOCK, &all, NULL);
    os_thread_name(delivery->mapping->by_threads ? "tide-faults" : "tide-window");
    while (files[1].revents == 0) {
        uint64_t address;
        bool write;

        if (poll(files, 2, -1) < 0 || !(files[0].revents & POLLIN))
            continue;
        while (mapping_fault_next(delivery->mapping, &address, &write))
            message_take(delivery->mapping, address, write ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ);
    }
    return NULL;
}

static void threads_stop(struct delivery *delivery)
{
    const uint64_t one = 1;

    if (delivery->stop >= 0) {
        ASSERT_ALWAYS(write(delivery->stop, &one, sizeof one) == (ssize_t)sizeof one);
        for (unsigned i = 0; i < delivery->count; i++)
            pthread_join(delivery->threads[i], NULL);
        (void)close(delivery->stop);
    }
    free(delivery);
}

static tide_status threads_start(tide_space *space, unsigned count)
{
    struct delivery *delivery = calloc(1, sizeof *delivery);

    if (delivery == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for %u handler threads", count);
    delivery->mapping = space->mapping;
    delivery->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = delivery->stop < 0 ? errno : 0;
    while (error == 0 && delivery->count < count) {
        error = pthread_create(&delivery->threads[delivery->count], NULL, handler_main, delivery);
        delivery->count += error == 0;
    }
    if (error != 0) {
        const unsigned started = delivery->count;

        threads_stop(delivery);
        return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0, "cannot start handler thread %u of %u: %s", started,
                         count, strerror(error));
    }
    space->delivery = delivery;
    return TIDE_SUCCESS;
}

/* ---- public calls ----------------------------------------------------------------------------------------------- */

void tide_mapped_options_init(tide_mapped_options *options)
{
    memset(options, 0, sizeof *options);
    options->struct_bytes = sizeof *options;
}

static tide_status delivery_check(tide_delivery delivery)
{
    if (delivery != TIDE_DELIVERY_SIGNAL && delivery != TIDE_DELIVERY_THREADS)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "delivery %d; known are 0 and 1", (int)delivery);
    return TIDE_SUCCESS;
}

/* Checks the options and puts the defaults in. */
static tide_status options_settle(const tide_engine *engine, tide_mapped_options *options)
{
    const unsigned cpus = engine->partition.topology->cpu_count;

    if (options->struct_bytes != sizeof *options)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "struct_bytes is %zu, and this library's tide_mapped_options has %zu: call "
                         "tide_mapped_options_init() first",
                         options->struct_bytes, sizeof *options);
    if (options->window_bytes == 0)
        options->window_bytes = WINDOW_DEFAULT_BYTES;
    if (options->window_bytes % WINDOW_UNIT_BYTES != 0 || options->window_bytes > WINDOW_MOST_BYTES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "a window of %lu bytes; it must be a multiple of %llu, and at most %llu",
                         options->window_bytes, WINDOW_UNIT_BYTES, WINDOW_MOST_BYTES);
    if (options->handler_threads > HANDLERS_MAX)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%u handler threads; the most is %d", options->handler_threads,
                         HANDLERS_MAX);
    if (options->cluster_pages > MAPPING_BATCH)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%u pages a fault; the most is %d", options->cluster_pages,
                         MAPPING_BATCH);
    if (options->cluster_pages == 0) { /* never more than a small part of all frames */
        const uint64_t part = engine->partition.frames->total / CLUSTER_PART;

        options->cluster_pages = part < CLUSTER_LEAST   ? CLUSTER_LEAST
                                 : part < MAPPING_BATCH ? (unsigned)part
                                                        : MAPPING_BATCH;
    }
    if (options->handler_threads == 0)
        options->handler_threads = cpus < HANDLERS_DEFAULT ? cpus : HANDLERS_DEFAULT;
    return delivery_check(options->delivery);
}

tide_status tide_mapped_check(tide_delivery delivery)
{
    const tide_status status = delivery_check(delivery);

    return tide_failed(status) ? status : mapping_check(delivery);
}

void engine_delivery_end(tide_space *space)
{
    threads_stop(space->delivery);
    space->delivery = NULL;
    if (!space->mapping->by_threads)
        memory_faults_end();
}

tide_status tide_mapped_space_create(tide_engine *engine, const tide_mapped_options *options, tide_space **out)
{
    tide_status status = engine_check(engine);
    tide_mapped_options settled;
    tide_space *space;

    if (tide_failed(status))
        return status;
    if (options != NULL)
        settled = *options;
    else
        tide_mapped_options_init(&settled);
    status = options_settle(engine, &settled);
    if (!tide_failed(status) && out == NULL)
        status = error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the space is NULL");
    if (tide_failed(status))
        return status;
    const bool by_signal = settled.delivery == TIDE_DELIVERY_SIGNAL;
    if (by_signal)
        status = memory_faults_begin(resolve);
    if (tide_failed(status))
        return status;
    do
        status = engine_space_create(engine, &settled, &space);
    while (status == TIDE_INSUFFICIENT_RESOURCES && (options == NULL || options->window_bytes == 0) &&
           settled.window_bytes > WINDOW_DEFAULT_LEAST && (settled.window_bytes /= 4) != 0);
    if (!tide_failed(status)) {
        status = threads_start(space, by_signal ? 1 : settled.handler_threads);
        if (tide_failed(status)) {
            struct grace_thread *thread = engine_thread(engine);

            grace_enter(thread);
            space_destroy(space, thread);
            grace_leave(thread);
        }
    }
    if (!tide_failed(status))
        *out = space;
    else if (by_signal)
        memory_faults_end();
    return status;
}

tide_status tide_mapped_query(const tide_space *space, tide_mapped_statistics *statistics)
{
    tide_status status = space_check(space);
    struct mapping_counters sums;

    if (!tide_failed(status))
        status = PLACE_CHECK(statistics);
    if (tide_failed(status))
        return status;
    if (space->mapping == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "space %lu is no mapped space", space->id);
    mapping_count(space->mapping, &sums);
    *statistics = (tide_mapped_statistics){ .struct_bytes = sizeof *statistics,
                                            .faults = space_counter(space, SPACE_HARDWARE_FAULTS),
                                            .fault_ns = space_counter(space, SPACE_HARDWARE_FAULT_NS),
                                            .pages_filled = sums.filled,
                                            .pages_shown = sums.shown,
                                            .pages_hidden = sums.hidden,
                                            .hides = sums.hides,
                                            .pages_dropped = sums.dropped };
    return TIDE_SUCCESS;
}

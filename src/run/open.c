/*
 * The phases of a process: counting what it allocates, opening the engine, and the end.
 *
 * The engine opens in the middle of a program's malloc() or mmap(), on the thread that reaches the start. Others wait
 * for it, or a process that allocates with many threads would have more than its budget before there is one; but not
 * for long, for they may hold a lock of the loader that the opening needs. Signals are blocked, so that the engine's
 * threads never run a program's handler. Its descriptors are pushed up to numbers that programs do not use by name
 * (dup2() to 3, select()), and calls that close whole ranges, as daemons do, pass them by.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_RUN_FAILED = 125, DESCRIPTORS_MAX = 256, DESCRIPTOR_BASE = 512, CODE_RANGES = 8 };

RUN_EXPORT void _exit(int status) __attribute__((noreturn));
RUN_EXPORT void _Exit(int status) __attribute__((noreturn));
RUN_EXPORT int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                              void *argument);
RUN_EXPORT int close(int descriptor);
RUN_EXPORT int close_range(unsigned first, unsigned last, int flags);
RUN_EXPORT void closefrom(int first);

struct run run = { .threshold_bytes = UINT64_MAX };
__thread unsigned run_inside __attribute__((tls_model("initial-exec")));

enum { OPENING_WAIT_SECONDS = 2 };

static _Atomic(bool) opening;
static pthread_mutex_t opened_lock = PTHREAD_MUTEX_INITIALIZER; /* the phase CAPTURING is entered with it */
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static _Atomic(int64_t) counted_bytes; /* given by the C library in phase WAITING */
static int message_descriptor = STDERR_FILENO;

/* Executable addresses of the C library and the loader. Set by the constructor. */
static struct {
    uintptr_t first, bytes;
} code_ranges[CODE_RANGES];
static unsigned code_range_count;

/* The engine's descriptors: set before the phase CAPTURING. */
static int descriptors[DESCRIPTORS_MAX];
static unsigned descriptor_count;

/* ---- messages ---------------------------------------------------------------------------------------------------- */

void run_say(const char *format, ...)
{
    char text[1024] = "pagetide run: ";
    const size_t start = strlen(text);
    va_list arguments;

    run_enter();
    va_start(arguments, format);
    (void)vsnprintf(text + start, sizeof text - start - 1, format, arguments);
    va_end(arguments);
    strcat(text, "\n");
    (void)!write(message_descriptor, text, strlen(text));
    run_leave();
}

__attribute__((format(printf, 1, 2))) static _Noreturn void give_up(const char *format, ...)
{
    char text[900];
    va_list arguments;

    run_enter();
    va_start(arguments, format);
    (void)vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    run_say("%s: %s", program_invocation_short_name, text);
    syscall(SYS_exit_group, EXIT_RUN_FAILED);
    abort();
}

void run_refused(const char *what, size_t bytes)
{
    static _Atomic(bool) said;
    char text[24];

    /* Some programs ask for the impossible to see what happens. */
    if (bytes < run.window_bytes && !atomic_exchange(&said, true)) {
        const tide_error error = *tide_last_error();
        run_say("%s[%ld]: %s of %s is refused: %s%s", program_invocation_short_name, (long)getpid(), what,
                settings_size_print(text, bytes), error.status != TIDE_SUCCESS ? error.message : "too large",
                error.status == TIDE_COMMITMENT_LIMIT ? " (see --memory and --page-file-size)" : "");
    }
    errno = ENOMEM;
}

void run_message(const char *path, const char *text, size_t bytes)
{
    const int file = path[0] == '\0' ? message_descriptor : open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);

    if (file < 0) {
        run_say("the report cannot be written to %s: %s", path, strerror(errno));
        return;
    }
    while (bytes != 0) {
        const ssize_t done = write(file, text, bytes);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            break;
        text += done;
        bytes -= (size_t)done;
    }
    if (file != message_descriptor)
        (void)syscall(SYS_close, file);
}

/* ---- what the C library gives ------------------------------------------------------------------------------------ */

bool run_is_libc(const void *code)
{
    for (unsigned i = 0; i < code_range_count; i++)
        if ((uintptr_t)code - code_ranges[i].first < code_ranges[i].bytes)
            return true;
    return false;
}

static int object_look(struct dl_phdr_info *object, size_t bytes, void *argument)
{
    const uintptr_t loader = getauxval(AT_BASE), libc = (uintptr_t)gnu_get_libc_version;
    bool wanted = object->dlpi_addr == loader;

    (void)bytes;
    (void)argument;
    for (unsigned i = 0; i < object->dlpi_phnum && !wanted; i++) {
        const ElfW(Phdr) *const part = &object->dlpi_phdr[i];
        wanted = part->p_type == PT_LOAD && libc - (object->dlpi_addr + part->p_vaddr) < part->p_memsz;
    }
    for (unsigned i = 0; i < object->dlpi_phnum && wanted && code_range_count < CODE_RANGES; i++) {
        const ElfW(Phdr) *const part = &object->dlpi_phdr[i];
        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            code_ranges[code_range_count].first = object->dlpi_addr + part->p_vaddr;
            code_ranges[code_range_count++].bytes = part->p_memsz;
        }
    }
    return 0;
}

void run_count_given(size_t bytes)
{
    atomic_fetch_add_explicit(&counted_bytes, (int64_t)bytes, memory_order_relaxed);
}

void run_count_returned(size_t bytes)
{
    atomic_fetch_sub_explicit(&counted_bytes, (int64_t)bytes, memory_order_relaxed);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------- */

/* Occupies the low numbers. Returns how many in `fillers`, whose numbers are all below `base`. */
static int fill_descriptors(int base, int fillers[DESCRIPTOR_BASE])
{
    struct rlimit limit;
    int count = 0;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur < (rlim_t)base + DESCRIPTORS_MAX)
        return 0; /* the engine takes what there is */
    for (int next = open("/dev/null", O_RDONLY | O_CLOEXEC); next >= 0; next = fcntl(fillers[0], F_DUPFD_CLOEXEC, 0)) {
        if (next >= base || count == base) {
            (void)syscall(SYS_close, next);
            break;
        }
        fillers[count++] = next;
    }
    return count;
}

static bool descriptors_list(bool open_now[], int limit)
{
    DIR *const folder = opendir("/proc/self/fd");
    const struct dirent *entry;

    memset(open_now, 0, (size_t)limit * sizeof open_now[0]);
    if (folder == NULL)
        return false;
    while ((entry = readdir(folder)) != NULL) {
        const int number = atoi(entry->d_name);
        if (entry->d_name[0] != '.' && number < limit && number != dirfd(folder))
            open_now[number] = true;
    }
    (void)closedir(folder);
    return true;
}

static bool is_engines(int descriptor)
{
    if (run_inside != 0 || run_phase() != PHASE_CAPTURING)
        return false;
    for (unsigned i = 0; i < descriptor_count; i++)
        if (descriptors[i] == descriptor)
            return true;
    return false;
}

void run_descriptors_close(void)
{
    for (unsigned i = 0; i < descriptor_count; i++)
        (void)syscall(SYS_close, descriptors[i]);
    message_descriptor = STDERR_FILENO;
}

int close(int descriptor)
{
    if (is_engines(descriptor)) {
        errno = EBADF;
        return -1;
    }
    return (int)syscall(SYS_close, descriptor);
}

/* Closes a range in pieces, between the engine's descriptors (ascending in the table). */
int close_range(unsigned first, unsigned last, int flags)
{
    for (unsigned i = 0; i < descriptor_count && run_phase() == PHASE_CAPTURING; i++) {
        const unsigned engines = (unsigned)descriptors[i];
        if (engines < first || engines > last)
            continue;
        if (engines > first && syscall(SYS_close_range, first, engines - 1, flags) != 0)
            return -1;
        if (engines == last)
            return 0;
        first = engines + 1;
    }
    return (int)syscall(SYS_close_range, first, last, flags);
}

void closefrom(int first)
{
    (void)close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0);
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static void space_open(void)
{
    const struct settings *const s = &run.settings;
    static struct engine_config engine;
    tide_mapped_options options;
    tide_address lowest = 0, highest = 0;
    char problem[256];

    settings_engine_config(s, &engine);
    if (tide_failed(tide_engine_open(&engine.config, &run.engine)))
        give_up("%s", tide_last_error()->message);
    (void)unlink(engine.path); /* it goes when the process ends, however that comes */
    tide_mapped_options_init(&options);
    options.delivery = s->delivery;
    if (tide_failed(tide_mapped_space_create(run.engine, &options, &run.space)) ||
        tide_failed(tide_space_range(run.space, &lowest, &highest)))
        give_up("%s", tide_last_error()->message);

    tide_address base = 0;
    uint64_t bytes = (highest - lowest + 1) / 4;
    if (tide_failed(tide_virtual_alloc(run.space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE)))
        give_up("%s", tide_last_error()->message);
    run.arenas = base;
    run.arenas_bytes = bytes;
    if (!arenas_open(problem, sizeof problem))
        give_up("%s", problem);
    run.window = lowest;
    run.window_bytes = highest - lowest + 1;
    run.process = getpid();
}

static void open_engine(void)
{
    enum { LIMIT = DESCRIPTOR_BASE + DESCRIPTORS_MAX };
    static int fillers[DESCRIPTOR_BASE];
    static bool before[LIMIT], after[LIMIT];
    const int error = errno;
    sigset_t all, old;

    run_enter();
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    const int filler_count = fill_descriptors(DESCRIPTOR_BASE, fillers);
    const int message = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (message >= 0)
        message_descriptor = message;
    const bool listed = descriptors_list(before, LIMIT);
    space_open();
    if (listed && descriptors_list(after, LIMIT))
        for (int i = 0; i < LIMIT && descriptor_count < DESCRIPTORS_MAX; i++)
            if (i == message || (after[i] && !before[i]))
                descriptors[descriptor_count++] = i;
    for (int i = 0; i < filler_count; i++)
        (void)syscall(SYS_close, fillers[i]);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    run_leave();
    (void)pthread_mutex_lock(&opened_lock);
    run.outside_bytes = (uint64_t)atomic_load_explicit(&counted_bytes, memory_order_relaxed);
    atomic_store_explicit(&run.phase, PHASE_CAPTURING, memory_order_release);
    (void)pthread_cond_broadcast(&opened);
    (void)pthread_mutex_unlock(&opened_lock);
    errno = error;
}

/* Another thread is at it. */
static bool opening_wait(void)
{
    const int error = errno;
    struct timespec until;
    int result = 0;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += OPENING_WAIT_SECONDS;
    (void)pthread_mutex_lock(&opened_lock);
    while (run_phase() == PHASE_WAITING && result == 0)
        result = pthread_cond_timedwait(&opened, &opened_lock, &until);
    (void)pthread_mutex_unlock(&opened_lock);
    errno = error;
    return run_phase() == PHASE_CAPTURING;
}

bool run_captures(size_t bytes)
{
    const int phase = run_phase();

    if (phase != PHASE_WAITING)
        return phase != PHASE_INERT;
    const int64_t counted = atomic_load_explicit(&counted_bytes, memory_order_relaxed);
    const uint64_t start = run.settings.start_bytes;
    if ((counted < 0 || (uint64_t)counted < start) && bytes < start && (uint64_t)(counted + (int64_t)bytes) < start)
        return false;
    if (atomic_exchange(&opening, true))
        return opening_wait();
    open_engine();
    return true;
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */

struct engine_thread {
    void *(*start)(void *);
    void *argument;
};

static void *engine_thread_main(void *argument)
{
    run_enter(); /* for good */
    const struct engine_thread thread = *(struct engine_thread *)argument;
    free(argument);
    return thread.start(thread.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    typedef int create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    static _Atomic(create *) found;
    create *function = atomic_load_explicit(&found, memory_order_relaxed);

    if (function == NULL) {
        function = (create *)dlsym(RTLD_NEXT, "pthread_create");
        if (function == NULL)
            return ENOSYS;
        atomic_store_explicit(&found, function, memory_order_relaxed);
    }
    if (run_inside == 0)
        return function(thread, attributes, start, argument);
    struct engine_thread *const engines = malloc(sizeof *engines);
    if (engines == NULL)
        return EAGAIN;
    *engines = (struct engine_thread){ start, argument };
    const int error = function(thread, attributes, engine_thread_main, engines);
    if (error != 0)
        free(engines);
    return error;
}

/* ---- begin and end of the process -------------------------------------------------------------------------------- */

/* Before jemalloc's constructor: the order of the handlers at fork() matters (fork.c). */
__attribute__((constructor(101))) static void begin(void)
{
    char problem[512];

    if (getenv(SETTING_MEMORY) == NULL)
        return;
    run_enter();
    if (!settings_read(&run.settings, problem, sizeof problem))
        give_up("%s", problem);
    run.threshold_bytes = run.settings.threshold_bytes;
    (void)dl_iterate_phdr(object_look, NULL);
    fork_open();
    run_leave();
    atomic_store_explicit(&run.phase, PHASE_WAITING, memory_order_release);
}

__attribute__((destructor)) static void end(void)
{
    report_write();
}

/* The ends that run no destructor. A child of vfork() ends here too, with its parent's memory: the report knows. */
void _exit(int status)
{
    report_write();
    for (;;)
        syscall(SYS_exit_group, status);
}

void _Exit(int status)
{
    _exit(status);
}

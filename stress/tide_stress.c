/*
 * tide-stress: many threads do random operations on an engine that has far too little memory for them, and check every
 * byte.
 *
 * The main thread opens the engine, starts the threads, verifies the whole engine every few seconds
 * (tide_engine_verify, the world stops and goes on), and at the end compares everything with the shadow (shadow.h),
 * tears everything down, and expects commit charge, page-file slots and available frames back where they began. A
 * watchdog thread ends the run if no operation finishes for a minute: every call of the engine is bound to make
 * progress, so that is a hang, and it says what each thread was doing.
 *
 * The seed fixes what each thread draws; how threads interleave is the machine's, so a failure seen once may need
 * several runs of the same command. The first lines printed are the seed and that command.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stress.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_SKIPPED = 77 };

enum {
    VERIFY_PERIOD_SECONDS = 2,
    WATCHDOG_SECONDS = 60,
    HANG_MS = 300,      /* longer than a writer waits for one file */
    SETTLE_SECONDS = 30 /* for frames and slots that wait for a grace period or a worker at the end */
};

static char temporary_folder[256];        /* to remove, empty if none */
static struct stress_thread *all_threads; /* for the watchdog and the failure report */

uint64_t stress_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_ms(unsigned milliseconds)
{
    const struct timespec wait = { .tv_sec = milliseconds / 1000, .tv_nsec = (long)(milliseconds % 1000) * 1000000 };
    nanosleep(&wait, NULL);
}

static void remove_files(const struct stress_run *run)
{
    if (run->pagefile[0] != '\0')
        unlink(run->pagefile);
    if (run->second[0] != '\0')
        unlink(run->second);
    if (temporary_folder[0] != '\0')
        rmdir(temporary_folder);
}

static void print_threads(const struct stress_run *run)
{
    for (unsigned i = 0; all_threads != NULL && i < run->options.threads; i++) {
        const char *op = atomic_load(&all_threads[i].op);
        fprintf(stderr, "  thread %u: operation %llu, \"%s\"\n", i,
                (unsigned long long)atomic_load(&all_threads[i].ops), op == NULL ? "none" : op);
    }
}

void stress_fail(const struct stress_run *run, const struct stress_thread *thread, const char *format, ...)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER; /* never unlocked: the first failure is the one reported */
    const tide_error error = *tide_last_error();
    pthread_mutex_lock(&once);
    fflush(stdout);
    fprintf(stderr, "FAIL: ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    if (thread != NULL)
        fprintf(stderr, "\n  in thread %u, its operation %llu (\"%s\")", thread->index,
                (unsigned long long)atomic_load(&thread->ops), atomic_load(&thread->op));
    fprintf(stderr, "\n  last error of the thread: %s, errno %d, address 0x%llx: %s\n", tide_status_name(error.status),
            error.io_error, (unsigned long long)error.address, error.message);
    print_threads(run);
    fprintf(stderr, "seed %llu, repeat with:\n  %s\n", (unsigned long long)run->options.seed, run->command);
    if (run->options.core)
        abort();
    remove_files(run);
    _exit(EXIT_FAIL);
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static void usage(FILE *to, const char *program)
{
    fprintf(
        to,
        "Usage: %s [options]\n"
        "Random operations on a pagetide engine with every page checked. Exit status 0 pass, 1 fail, 77 skipped.\n\n"
        "  --seed N             of all random draws [from the clock]\n"
        "  --seconds N          length of the run, 0 for no bound [10]; TIDE_TEST_SECONDS in the environment overrides "
        "it\n"
        "  --ops N              end after so many operations over all threads, 0 for no bound [0]\n"
        "  --threads N          [4 x CPUs]\n"
        "  --frames N           memory of the engine in pages [4096]\n"
        "  --spaces N           address spaces [4]\n"
        "  --pagefile-bytes N   most that the page file may grow to, 0 for none [5 x memory]\n"
        "  --pagefile PATH      the page file [in a new folder under TMPDIR or /tmp]\n"
        "  --over N             address space to use, as a multiple of the memory [4]\n"
        "  --nodes N            synthetic topology of N nodes, 0 for this machine's [0]\n"
        "  --faults N           fail N of 1000 page-file reads, and some writes, and delay others [0]\n"
        "  --hangs N            two page files; N of 1000 writes to the first stand still for 300 ms [0]\n"
        "  --alone              with --hangs: no second page file\n"
        "  --bad-frames N       take N frames out of use during the run, as bad memory [0]\n"
        "  --poison N           let the kernel poison N frames more (MADV_HWPOISON): needs CAP_SYS_ADMIN [0]\n"
        "  --mapped KIND        mapped spaces, whose threads use plain pointers too; faults come by \"signal\", by "
        "\"threads\", or\n"
        "                       \"both\": a space of each kind, and a soft one, in turns\n"
        "  --core               abort on failure, for a core file\n"
        "  --help\n",
        program);
}

static uint64_t parse_number(const char *program, const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 0);
    if (errno != 0 || end == text || *end != '\0' || strchr(text, '-') != NULL || value < low || value > high) {
        fprintf(stderr, "%s: --%s must be a number from %llu to %llu, not \"%s\"\n", program, name,
                (unsigned long long)low, (unsigned long long)high, text);
        exit(EXIT_FAIL);
    }
    return value;
}

static const char *const mapped_names[STRESS_MAPPED_KINDS] = { "none", "signal", "threads", "both" };

static enum stress_mapped parse_mapped(const char *program, const char *text)
{
    for (int kind = 0; kind < STRESS_MAPPED_KINDS; kind++)
        if (strcmp(text, mapped_names[kind]) == 0)
            return (enum stress_mapped)kind;
    fprintf(stderr, "%s: --mapped is none, signal, threads or both, and not \"%s\"\n", program, text);
    exit(EXIT_FAIL);
}

static struct stress_options parse_options(int argc, char **argv)
{
    static const struct option names[] = {
        { "seed", required_argument, NULL, 's' },
        { "seconds", required_argument, NULL, 't' },
        { "ops", required_argument, NULL, 'o' },
        { "threads", required_argument, NULL, 'n' },
        { "frames", required_argument, NULL, 'f' },
        { "spaces", required_argument, NULL, 'p' },
        { "pagefile-bytes", required_argument, NULL, 'b' },
        { "pagefile", required_argument, NULL, 'g' },
        { "over", required_argument, NULL, 'm' },
        { "nodes", required_argument, NULL, 'N' },
        { "faults", required_argument, NULL, 'e' },
        { "hangs", required_argument, NULL, 'H' },
        { "alone", no_argument, NULL, 'A' },
        { "bad-frames", required_argument, NULL, 'B' },
        { "poison", required_argument, NULL, 'P' },
        { "mapped", required_argument, NULL, 'M' },
        { "core", no_argument, NULL, 'c' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    struct stress_options options = {
        .seed = stress_now_ns() ^ (uint64_t)getpid() << 32,
        .seconds = UINT64_MAX,
        .threads = 4 * (unsigned)(cpus > 0 ? cpus : 1),
        .frames = 4096,
        .spaces = 4,
        .pagefile_bytes = UINT64_MAX,
        .memory_factor = 4,
    };
    const char *program = argv[0];
    int name = 0, letter;
    while ((letter = getopt_long(argc, argv, "", names, &name)) != -1) {
        switch (letter) {
        case 's':
            options.seed = parse_number(program, "seed", optarg, 0, UINT64_MAX);
            break;
        case 't':
            options.seconds = parse_number(program, "seconds", optarg, 0, 86400 * 365);
            break;
        case 'o':
            options.ops = parse_number(program, "ops", optarg, 0, UINT64_MAX / 2);
            break;
        case 'n':
            options.threads = (unsigned)parse_number(program, "threads", optarg, 1, 4096);
            break;
        case 'f':
            options.frames = parse_number(program, "frames", optarg, 256, 1ull << 32);
            break;
        case 'p':
            options.spaces = (unsigned)parse_number(program, "spaces", optarg, 1, 4096);
            break;
        case 'b':
            options.pagefile_bytes = parse_number(program, "pagefile-bytes", optarg, 0, 1ull << 44);
            break;
        case 'g':
            options.pagefile = optarg;
            break;
        case 'm':
            options.memory_factor = parse_number(program, "over", optarg, 1, 1024);
            break;
        case 'N':
            options.nodes = (unsigned)parse_number(program, "nodes", optarg, 0, TIDE_MAX_NODES);
            break;
        case 'e':
            options.faults = (unsigned)parse_number(program, "faults", optarg, 0, 500);
            break;
        case 'A':
            options.alone = true;
            break;
        case 'H':
            options.hangs = (unsigned)parse_number(program, "hangs", optarg, 0, 500);
            break;
        case 'B':
            options.bad_frames = parse_number(program, "bad-frames", optarg, 0, 1ull << 32);
            break;
        case 'P':
            options.poison = parse_number(program, "poison", optarg, 0, 1ull << 32);
            break;
        case 'M':
            options.mapped = parse_mapped(program, optarg);
            break;
        case 'c':
            options.core = true;
            break;
        case 'h':
            usage(stdout, program);
            exit(EXIT_PASS);
        default:
            usage(stderr, program);
            exit(EXIT_FAIL);
        }
    }
    if (optind != argc) {
        usage(stderr, program);
        exit(EXIT_FAIL);
    }
    if (options.bad_frames + options.poison > options.frames / 4) {
        fprintf(stderr, "%s: --bad-frames and --poison are %llu, and the most is a quarter of the %llu frames\n",
                program, (unsigned long long)(options.bad_frames + options.poison), (unsigned long long)options.frames);
        exit(EXIT_FAIL);
    }
    if (options.mapped != STRESS_SOFT && options.bad_frames + options.poison > 0) {
        fprintf(stderr, "%s: --mapped does not go with --bad-frames and --poison\n", program);
        exit(EXIT_FAIL);
    }
    if (options.hangs > 0 && options.pagefile_bytes == 0) {
        fprintf(stderr, "%s: --hangs does not go with --pagefile-bytes 0\n", program);
        exit(EXIT_FAIL);
    }
    const char *seconds = getenv("TIDE_TEST_SECONDS");
    if (seconds != NULL && *seconds != '\0')
        options.seconds = parse_number(program, "seconds", seconds, 1, 86400 * 365);
    if (options.seconds == UINT64_MAX)
        options.seconds = options.ops > 0 ? 0 : 10;
    if (options.pagefile_bytes == UINT64_MAX)
        options.pagefile_bytes = 5 * options.frames * TIDE_PAGE_BYTES;
    options.pagefile_bytes = options.pagefile_bytes / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES;
    return options;
}

static void write_command(struct stress_run *run, const char *program)
{
    const struct stress_options *o = &run->options;
    int n =
        snprintf(run->command, sizeof(run->command),
                 "%s --seed %llu --seconds %llu --ops %llu --threads %u --frames %llu --spaces %u "
                 "--pagefile-bytes %llu --over %llu --nodes %u --faults %u --hangs %u --bad-frames %llu --poison %llu "
                 "--mapped %s%s",
                 program, (unsigned long long)o->seed, (unsigned long long)o->seconds, (unsigned long long)o->ops,
                 o->threads, (unsigned long long)o->frames, o->spaces, (unsigned long long)o->pagefile_bytes,
                 (unsigned long long)o->memory_factor, o->nodes, o->faults, o->hangs, (unsigned long long)o->bad_frames,
                 (unsigned long long)o->poison, mapped_names[o->mapped], o->alone ? " --alone" : "");
    if (o->pagefile != NULL && n > 0 && (size_t)n < sizeof(run->command))
        snprintf(run->command + n, sizeof(run->command) - (size_t)n, " --pagefile %s", o->pagefile);
}

/* ---- the engine ------------------------------------------------------------------------------------------------- */

/*
 * A page-file device that fails and dawdles. Writes fail more rarely than reads, since each may cost a slot for good.
 */
static int inject(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    struct stress_run *run = context;
    (void)slot, (void)pages;
    uint64_t random = run->options.seed + atomic_fetch_add_explicit(&run->injections, 1, memory_order_relaxed);
    if (stress_random_below(&random, 64) == 0)
        sleep_ms(1);
    if (file == 0 && kind == TIDE_IO_WRITE && stress_random_below(&random, 1000) < run->options.hangs) {
        atomic_fetch_add_explicit(&run->hung, 1, memory_order_relaxed);
        sleep_ms(HANG_MS);
    }
    if (atomic_load(&run->inject_off) > 0 || stress_random_below(&random, 1000) >= run->options.faults)
        return 0;
    if (kind == TIDE_IO_READ) {
        atomic_fetch_add_explicit(&run->read_errors, 1, memory_order_relaxed);
        return EIO;
    }
    if (stress_random_below(&random, 8) != 0 || atomic_load(&run->write_errors) >= run->write_errors_max)
        return 0;
    atomic_fetch_add_explicit(&run->write_errors, 1, memory_order_relaxed);
    return EIO;
}

static void choose_second(struct stress_run *run)
{
    if (run->options.hangs > 0 && !run->options.alone)
        snprintf(run->second, sizeof(run->second), "%s-second", run->pagefile);
}

static bool choose_pagefile(struct stress_run *run)
{
    if (run->options.pagefile_bytes == 0)
        return true;
    if (run->options.pagefile != NULL) {
        snprintf(run->pagefile, sizeof(run->pagefile), "%s", run->options.pagefile);
        choose_second(run);
        return true;
    }
    const char *parent = getenv("TMPDIR");
    snprintf(temporary_folder, sizeof(temporary_folder), "%s/tide-stress-XXXXXX",
             parent != NULL && *parent != '\0' ? parent : "/tmp");
    if (mkdtemp(temporary_folder) == NULL) {
        printf("SKIPPED: no folder for the page file at %s: %s\n", temporary_folder, strerror(errno));
        temporary_folder[0] = '\0';
        return false;
    }
    snprintf(run->pagefile, sizeof(run->pagefile), "%s/pagefile", temporary_folder);
    choose_second(run);
    return true;
}

/* Opens the engine. Returns EXIT_PASS, or EXIT_SKIPPED where this machine cannot give what the run asks for. */
static int open_engine(struct stress_run *run)
{
    const struct stress_options *options = &run->options;
    if (!choose_pagefile(run))
        return EXIT_SKIPPED;
    /* A file begins with a quarter, grows in small steps, and shrinks as soon as it can. */
    const uint64_t quarter = options->pagefile_bytes / 4 / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES;
    tide_page_file_config files[2] = { { .path = run->pagefile,
                                         .minimum_bytes =
                                             quarter >= 2 * TIDE_PAGE_BYTES ? quarter : options->pagefile_bytes,
                                         .maximum_bytes = options->pagefile_bytes } };
    files[1] = files[0];
    files[1].path = run->second;
    char topology[64];
    snprintf(topology, sizeof(topology), "numa:%u core:2 pu:1", options->nodes);
    tide_config config;
    tide_config_init(&config);
    config.memory_bytes = options->frames * TIDE_PAGE_BYTES;
    config.topology_synthetic = options->nodes > 0 ? topology : NULL;
    config.page_files = files;
    config.page_file_count = options->pagefile_bytes == 0 ? 0 : run->second[0] == '\0' ? 1 : 2;
    config.handle_memory_errors = options->bad_frames + options->poison > 0;
    config.memory_on_demand = options->mapped != STRESS_SOFT;
    config.page_file_growth_pages = 128;
    config.page_file_shrink_delay_ms = 50;
    /* Each failed write may cost a slot, and one of a cluster costs a write for each of its pages. */
    run->write_errors_max = options->pagefile_bytes / TIDE_PAGE_BYTES / 16 / 16;
    if (options->faults > 0 || options->hangs > 0) {
        config.io_filter = inject;
        config.io_filter_context = run;
    }
    const tide_status status = tide_engine_open(&config, &run->engine);
    if (status == TIDE_NO_MEMORY || status == TIDE_DISK_FULL || status == TIDE_IO_ERROR ||
        status == TIDE_INSUFFICIENT_RESOURCES) {
        printf("SKIPPED: tide_engine_open: %s: %s\n", tide_status_name(status), tide_last_error()->message);
        return EXIT_SKIPPED;
    }
    if (status != TIDE_SUCCESS)
        stress_fail(run, NULL, "tide_engine_open returned %s", tide_status_name(status));
    return EXIT_PASS;
}

static tide_statistics statistics_get(const struct stress_run *run)
{
    tide_statistics statistics = { .struct_bytes = sizeof(statistics) };
    if (tide_statistics_get(run->engine, &statistics) != TIDE_SUCCESS)
        stress_fail(run, NULL, "tide_statistics_get failed");
    return statistics;
}

static void verify(struct stress_run *run)
{
    tide_verify_report report = { 0 };
    atomic_fetch_add(&run->inject_off, 1);
    const tide_status status = tide_engine_verify(run->engine, &report);
    atomic_fetch_sub(&run->inject_off, 1);
    if (status != TIDE_SUCCESS)
        stress_fail(run, NULL, "tide_engine_verify returned %s: %llu violations, the first: %s",
                    tide_status_name(status), (unsigned long long)report.violations, report.first);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void *thread_main(void *argument)
{
    struct stress_thread *thread = argument;
    const struct stress_run *run = thread->run;
    stress_signals_thread(thread);
    const uint64_t most =
        run->options.ops == 0 ? UINT64_MAX : (run->options.ops + run->options.threads - 1) / run->options.threads;
    while (atomic_load_explicit(&thread->ops, memory_order_relaxed) < most && !atomic_load(&run->stop)) {
        stress_operation(thread);
        atomic_fetch_add_explicit(&thread->ops, 1, memory_order_relaxed);
    }
    atomic_store(&thread->op, "ended");
    return NULL;
}

static uint64_t ops_total(const struct stress_run *run)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < run->options.threads; i++)
        total += atomic_load_explicit(&all_threads[i].ops, memory_order_relaxed);
    return total;
}

struct watchdog {
    const struct stress_run *run;
    _Atomic bool stop;
    _Atomic uint64_t progress; /* [A] of the main thread, which checks and tears down at the end */
};

static void *watchdog_main(void *argument)
{
    struct watchdog *watchdog = argument;
    uint64_t seen = UINT64_MAX, since = stress_now_ns();
    while (!atomic_load(&watchdog->stop)) {
        sleep_ms(100);
        const uint64_t now = ops_total(watchdog->run) + atomic_load(&watchdog->progress);
        if (now != seen) {
            seen = now;
            since = stress_now_ns();
        } else if (stress_now_ns() - since > WATCHDOG_SECONDS * 1000000000ull) {
            fprintf(stderr, "FAIL: no operation has finished for %d seconds\n", WATCHDOG_SECONDS);
            print_threads(watchdog->run);
            fprintf(stderr, "seed %llu, repeat with:\n  %s\n", (unsigned long long)watchdog->run->options.seed,
                    watchdog->run->command);
            if (watchdog->run->options.core)
                abort();
            remove_files(watchdog->run);
            _exit(EXIT_FAIL);
        }
    }
    return NULL;
}

static void print_progress(const struct stress_run *run, double seconds)
{
    const tide_statistics s = statistics_get(run);
    printf("%7.1f s: %llu operations; faults %llu demand zero, %llu soft (%llu in flight), %llu hard, %llu collided; "
           "pages in %llu out %llu trimmed %llu; available %llu of %llu; commit %llu of %llu; slots %llu of %llu; "
           "frame waits %llu; bad %llu\n",
           seconds, (unsigned long long)ops_total(run), (unsigned long long)s.faults.demand_zero,
           (unsigned long long)s.faults.transition, (unsigned long long)s.faults.transition_write_in_progress,
           (unsigned long long)s.faults.hard, (unsigned long long)s.faults.collided, (unsigned long long)s.pages_input,
           (unsigned long long)s.pages_output, (unsigned long long)s.trimmed, (unsigned long long)s.available_pages,
           (unsigned long long)s.total_pages, (unsigned long long)s.commit_total_pages,
           (unsigned long long)s.commit_limit_pages, (unsigned long long)s.page_file_used_slots,
           (unsigned long long)s.page_file_total_slots, (unsigned long long)s.frame_waits,
           (unsigned long long)s.bad_pages);
    fflush(stdout);
}

static bool threads_ended(const struct stress_run *run)
{
    for (unsigned i = 0; i < run->options.threads; i++) {
        const char *op = atomic_load(&all_threads[i].op);
        if (op == NULL || strcmp(op, "ended") != 0)
            return false;
    }
    return true;
}

/* Lets the threads run for the time or the number of operations, with a verification every few seconds. */
static void run_threads(struct stress_run *run, struct watchdog *watchdog)
{
    for (unsigned i = 0; i < run->options.threads; i++) {
        const int error = pthread_create(&all_threads[i].thread, NULL, thread_main, &all_threads[i]);
        if (error != 0)
            stress_fail(run, NULL, "thread %u of %u cannot be started: %s", i, run->options.threads, strerror(error));
    }
    const uint64_t start = stress_now_ns();
    uint64_t verified = start;
    while (!threads_ended(run)) {
        sleep_ms(20);
        const uint64_t now = stress_now_ns();
        if (run->options.seconds > 0 && now - start >= run->options.seconds * 1000000000ull)
            atomic_store(&run->stop, true);
        if (now - verified >= VERIFY_PERIOD_SECONDS * 1000000000ull) {
            print_progress(run, (double)(now - start) / 1e9);
            verify(run);
            verified = stress_now_ns();
            atomic_fetch_add(&watchdog->progress, 1);
        }
    }
    for (unsigned i = 0; i < run->options.threads; i++)
        pthread_join(all_threads[i].thread, NULL);
    print_progress(run, (double)(stress_now_ns() - start) / 1e9);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

/*
 * Releases everything and expects what the engine had at the start, once workers and grace periods have come to rest.
 */
static void tear_down(struct stress_run *run, struct stress_thread *thread, const tide_statistics *baseline,
                      struct watchdog *watchdog)
{
    atomic_store(&thread->op, "teardown");
    for (unsigned s = 0; s < run->shadow.space_count; s++) {
        stress_space_destroy(thread, s);
        atomic_fetch_add(&watchdog->progress, 1);
    }
    tide_statistics end = statistics_get(run);
    const uint64_t start = stress_now_ns();
    /* Bad frames do not come back. Those that were page tables are on the bad list by now. */
    while ((end.commit_total_pages != baseline->commit_total_pages || end.page_file_used_slots != 0 ||
            end.available_pages + end.bad_pages != baseline->available_pages ||
            end.table_pages != baseline->table_pages) &&
           stress_now_ns() - start < SETTLE_SECONDS * 1000000000ull) {
        sleep_ms(10);
        end = statistics_get(run);
    }
    if (end.commit_total_pages != baseline->commit_total_pages || end.page_file_used_slots != 0 ||
        end.available_pages + end.bad_pages != baseline->available_pages || end.table_pages != baseline->table_pages ||
        end.spaces != 0 || end.open_sections != 0 || end.bad_pages_pending != 0)
        stress_fail(run, NULL,
                    "after everything was released: commit charge %llu (%llu at the start), page-file slots used %llu, "
                    "available frames %llu (%llu), bad %llu, pending %llu, table frames %llu (%llu), spaces %llu, open "
                    "sections %llu",
                    (unsigned long long)end.commit_total_pages, (unsigned long long)baseline->commit_total_pages,
                    (unsigned long long)end.page_file_used_slots, (unsigned long long)end.available_pages,
                    (unsigned long long)baseline->available_pages, (unsigned long long)end.bad_pages,
                    (unsigned long long)end.bad_pages_pending, (unsigned long long)end.table_pages,
                    (unsigned long long)baseline->table_pages, (unsigned long long)end.spaces,
                    (unsigned long long)end.open_sections);
    verify(run);
    tide_status status = tide_engine_close(run->engine);
    if (status != TIDE_SUCCESS)
        stress_fail(run, NULL, "tide_engine_close returned %s", tide_status_name(status));
    if (run->pagefile[0] != '\0' && access(run->pagefile, F_OK) == 0)
        stress_fail(run, NULL, "the page file %s is still there after tide_engine_close", run->pagefile);
    if (temporary_folder[0] != '\0' && rmdir(temporary_folder) != 0)
        stress_fail(run, NULL, "the folder %s is not empty after tide_engine_close: %s", temporary_folder,
                    strerror(errno));
}

static void create_threads(struct stress_run *run)
{
    all_threads = calloc(run->options.threads, sizeof(*all_threads));
    for (unsigned i = 0; all_threads != NULL && i < run->options.threads; i++) {
        struct stress_thread *thread = &all_threads[i];
        thread->run = run;
        thread->index = i;
        uint64_t state = run->options.seed + i;
        thread->random = stress_random(&state);
        thread->buffer = aligned_alloc(TIDE_PAGE_BYTES, (STRESS_PIN_MAX + 2) * TIDE_PAGE_BYTES);
        if (thread->buffer == NULL)
            stress_fail(run, NULL, "out of memory");
        thread->spare = thread->buffer + (STRESS_PIN_MAX + 1) * TIDE_PAGE_BYTES;
    }
    if (all_threads == NULL)
        stress_fail(run, NULL, "out of memory");
}

static void print_summary(const struct stress_run *run)
{
    uint64_t too_long = 0, refused = 0, repeated = 0, violations = 0;
    for (unsigned i = 0; i < run->options.threads; i++) {
        too_long += all_threads[i].sections_too_long;
        refused += all_threads[i].commit_refused;
        repeated += all_threads[i].repeated;
        violations += all_threads[i].violations;
    }
    printf("PASS: %llu operations; %llu commits refused at the limit, %llu sections begun again, "
           "%llu read and %llu write errors injected, %llu writes stood still, %llu accesses repeated, %llu frames "
           "bad, %llu poisoned, %llu "
           "pages written anew, %llu accesses refused with SIGSEGV\n",
           (unsigned long long)ops_total(run), (unsigned long long)refused, (unsigned long long)too_long,
           (unsigned long long)atomic_load(&run->read_errors), (unsigned long long)atomic_load(&run->write_errors),
           (unsigned long long)atomic_load(&run->hung), (unsigned long long)repeated,
           (unsigned long long)atomic_load(&run->retired), (unsigned long long)atomic_load(&run->poisoned),
           (unsigned long long)atomic_load(&run->restored), (unsigned long long)violations);
}

/* Can the deliveries that the run asks for be had? */
static bool mapped_prepare(struct stress_run *run)
{
    const enum stress_mapped mapped = run->options.mapped;
    if (mapped == STRESS_SOFT)
        return true;
    if ((mapped != STRESS_MAPPED_THREADS && tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) ||
        (mapped != STRESS_MAPPED_SIGNAL && tide_mapped_check(TIDE_DELIVERY_THREADS) != TIDE_SUCCESS)) {
        printf("SKIPPED: %s\n", tide_last_error()->message);
        return false;
    }
    stress_signals_prepare(run);
    return true;
}

static void mapped_choose(struct stress_run *run)
{
    const enum stress_mapped mapped = run->options.mapped;
    for (unsigned s = 0; s < run->options.spaces; s++) {
        struct shadow_space *space = &run->shadow.spaces[s];
        space->mapped = mapped != STRESS_SOFT && !(mapped == STRESS_MAPPED_BOTH && s % 3 == 2);
        space->by_threads = mapped == STRESS_MAPPED_THREADS || (mapped == STRESS_MAPPED_BOTH && s % 3 == 1);
    }
}

int main(int argc, char **argv)
{
    static struct stress_run run;
    run.options = parse_options(argc, argv);
    write_command(&run, argv[0]);
    printf("seed %llu, repeat with:\n  %s\n", (unsigned long long)run.options.seed, run.command);
    fflush(stdout);

    if (run.options.poison > 0 && !stress_poison_prepare()) {
        printf("SKIPPED: MADV_HWPOISON: %s (it needs CAP_SYS_ADMIN and a kernel with CONFIG_MEMORY_FAILURE)\n",
               strerror(errno));
        return EXIT_SKIPPED;
    }
    if (!mapped_prepare(&run))
        return EXIT_SKIPPED;
    const int opened = open_engine(&run);
    if (opened != EXIT_PASS) {
        remove_files(&run);
        return opened;
    }
    const tide_statistics baseline = statistics_get(&run);
    run.node_count = baseline.node_count;
    run.start_ns = stress_now_ns();
    if (sched_getaffinity(0, sizeof(run.cpus), &run.cpus) != 0)
        stress_fail(&run, NULL, "sched_getaffinity: %s", strerror(errno));
    const uint64_t window_pages = run.options.frames * run.options.memory_factor / run.options.spaces / SHADOW_WINDOWS;
    if (!shadow_create(&run.shadow, run.options.spaces, window_pages < 16 ? 16 : (unsigned)window_pages))
        stress_fail(&run, NULL, "out of memory");
    create_threads(&run);
    stress_signals_thread(&all_threads[0]);
    mapped_choose(&run);
    for (unsigned s = 0; s < run.options.spaces; s++)
        (void)stress_space_create(&all_threads[0], s);

    struct watchdog watchdog = { .run = &run };
    pthread_t watchdog_thread;
    if (pthread_create(&watchdog_thread, NULL, watchdog_main, &watchdog) != 0)
        stress_fail(&run, NULL, "the watchdog thread cannot be started");
    run_threads(&run, &watchdog);
    verify(&run);
    for (unsigned s = 0; s < run.options.spaces; s++)
        stress_check_space(&all_threads[0], s);
    tear_down(&run, &all_threads[0], &baseline, &watchdog);
    atomic_store(&watchdog.stop, true);
    pthread_join(watchdog_thread, NULL);
    print_summary(&run);
    for (unsigned i = 0; i < run.options.threads; i++)
        free(all_threads[i].buffer);
    free(all_threads);
    shadow_destroy(&run.shadow);
    return EXIT_PASS;
}

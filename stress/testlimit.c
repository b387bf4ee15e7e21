/*
 * tide-testlimit: leaks on purpose, after Sysinternals' TestLimit, and shows what a leak looks like (nt-behaviour 29).
 *
 * One space leaks step by step - reserves, commits, commits and touches, or locks - until the engine refuses or the
 * count is reached. Beside it lives another space with committed memory, half of it touched. Each step prints the
 * figures that tell a leak: private bytes and their change, working set, commit, available pages, faults, and what the
 * classifier of the library says. At the end the program checks what a leak must not do: the step failed with the
 * status that it has to fail with, the other space's memory can still be used, touched or not, and when all is released
 * every counter is back where it was.
 *
 * In virtual time the interval between steps is not slept but added to the engine's clock, and the workers run between
 * the steps on this thread: the same options give the same figures.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pagetide/pagetide.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_USAGE = 2, EXIT_SKIPPED = 77 };
enum { PAGE = TIDE_PAGE_BYTES, OTHER_PAGES = 64, SETTLE_SECONDS = 20 };

#define MIB 1048576ull

enum mode { MODE_NONE, MODE_RESERVE, MODE_COMMIT, MODE_TOUCH, MODE_LOCK };

struct options {
    enum mode mode;
    uint64_t step_mib;
    uint64_t count; /* 0: until it fails */
    double interval;
    uint64_t memory_mib, pagefile_mib;
    const char *pagefile; /* NULL: in a folder of its own */
    bool real_time;
    bool json;
};

struct run {
    struct options options;
    char pagefile[512];
    char folder[256]; /* made for the page file, or empty */
    tide_engine *engine;
    tide_space *leaker, *other;
    tide_address other_base;
    tide_statistics at_open;
    tide_pressure_snapshot last;
    uint64_t steps;
    unsigned failures;
};

/* ---- options ---------------------------------------------------------------------------------------------------- */

static void usage(FILE *to)
{
    fputs(
        "usage: tide-testlimit -r MB | -m MB | -d MB | -v MB [option]...\n"
        "Leaks step by step and shows what that looks like; ends at the limit, or after -c steps.\n"
        "\n"
        "  -r, --reserve MB       reserves MB in each step; use big ones: the address space has 128 TiB = 134217728 "
        "MB\n"
        "  -m, --commit MB        commits MB in each step and does not touch it\n"
        "  -d, --touch MB         commits MB in each step and writes to each page\n"
        "  -v, --lock MB          commits MB in each step and locks it into the working set\n"
        "  -c, --count STEPS      ends after so many steps\n"
        "  -e, --interval SECONDS between two steps; default 0.5\n"
        "      --memory MB        the engine's budget of memory; default 64\n"
        "      --pagefile MB      size of its page file, 0 for none; default 128\n"
        "      --pagefile-path F  the page file; default: in a folder of its own under $TMPDIR or /tmp\n"
        "      --clock virtual    the interval passes on the engine's clock only, workers run between steps (default)\n"
        "      --clock real       worker threads, and the interval is slept\n"
        "      --json             one JSON object instead of a table\n"
        "  -h, --help             this text\n"
        "\n"
        "Exit status: 0 it ended as a leak has to end, 1 it did not, 2 wrong options, 77 this machine cannot do it.\n",
        to);
}

__attribute__((format(printf, 1, 2))) static _Noreturn void refuse(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("tide-testlimit: ", stderr);
    vfprintf(stderr, format, arguments);
    fputs("; see --help\n", stderr);
    va_end(arguments);
    exit(EXIT_USAGE);
}

static uint64_t number(const char *option, const char *text, uint64_t least, uint64_t most)
{
    char *end;

    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < least || value > most)
        refuse("%s wants a whole number from %" PRIu64 " to %" PRIu64 " and got \"%s\"", option, least, most, text);
    return value;
}

static double seconds(const char *option, const char *text)
{
    char *end;
    const double value = strtod(text, &end);

    if (*text == '\0' || *end != '\0' || !isfinite(value) || value < 0 || value > 3600)
        refuse("%s wants seconds from 0 to 3600 and got \"%s\"", option, text);
    return value;
}

static void mode_set(struct options *o, enum mode mode, const char *option, const char *text)
{
    const uint64_t most = (TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1) / MIB;

    if (o->mode != MODE_NONE)
        refuse("only one of -r, -m, -d and -v can be given, and %s is the second", option);
    o->mode = mode;
    o->step_mib = number(option, text, 1, most);
}

static struct options options_parse(int argc, char **argv)
{
    enum { MEMORY = 256, PAGEFILE, PAGEFILE_PATH, CLOCK, JSON };
    static const struct option long_options[] = {
        { "reserve", required_argument, NULL, 'r' },
        { "commit", required_argument, NULL, 'm' },
        { "touch", required_argument, NULL, 'd' },
        { "lock", required_argument, NULL, 'v' },
        { "count", required_argument, NULL, 'c' },
        { "interval", required_argument, NULL, 'e' },
        { "memory", required_argument, NULL, MEMORY },
        { "pagefile", required_argument, NULL, PAGEFILE },
        { "pagefile-path", required_argument, NULL, PAGEFILE_PATH },
        { "clock", required_argument, NULL, CLOCK },
        { "json", no_argument, NULL, JSON },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    const uint64_t most_mib = 16 * MIB; /* 16 TiB, the most an engine takes */
    struct options o = { .interval = 0.5, .memory_mib = 64, .pagefile_mib = 128 };
    int option;

    opterr = 0;
    while ((option = getopt_long(argc, argv, ":r:m:d:v:c:e:h", long_options, NULL)) != -1) {
        switch (option) {
        case 'r':
            mode_set(&o, MODE_RESERVE, "-r", optarg);
            break;
        case 'm':
            mode_set(&o, MODE_COMMIT, "-m", optarg);
            break;
        case 'd':
            mode_set(&o, MODE_TOUCH, "-d", optarg);
            break;
        case 'v':
            mode_set(&o, MODE_LOCK, "-v", optarg);
            break;
        case 'c':
            o.count = number("-c", optarg, 1, UINT32_MAX);
            break;
        case 'e':
            o.interval = seconds("-e", optarg);
            break;
        case MEMORY:
            o.memory_mib = number("--memory", optarg, 1, most_mib);
            break;
        case PAGEFILE:
            o.pagefile_mib = number("--pagefile", optarg, 0, most_mib);
            break;
        case PAGEFILE_PATH:
            if (optarg[0] == '\0')
                refuse("--pagefile-path got an empty path");
            o.pagefile = optarg;
            break;
        case CLOCK:
            if (strcmp(optarg, "real") != 0 && strcmp(optarg, "virtual") != 0)
                refuse("--clock is real or virtual and got \"%s\"", optarg);
            o.real_time = strcmp(optarg, "real") == 0;
            break;
        case JSON:
            o.json = true;
            break;
        case 'h':
            usage(stdout);
            exit(EXIT_PASS);
        case ':':
            refuse("%s wants a value", argv[optind - 1]);
        default:
            if (optopt != 0 && optopt < 256)
                refuse("there is no option -%c", optopt);
            refuse("there is no option %s, or it takes no value", argv[optind - 1]);
        }
    }
    if (optind < argc)
        refuse("\"%s\" is no option", argv[optind]);
    if (o.mode == MODE_NONE)
        refuse("one of -r, -m, -d and -v must be given");
    return o;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static void failed(struct run *run, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    fputs("FAIL: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    run->failures++;
}

/* A call that cannot fail, or the rest makes no sense. */
static void must(struct run *run, tide_status status, const char *what)
{
    if (!tide_failed(status))
        return;
    fprintf(stderr, "FAIL: %s: %s: %s\n", what, tide_status_name(status), tide_last_error()->message);
    if (run->pagefile[0] != '\0')
        (void)unlink(run->pagefile);
    if (run->folder[0] != '\0')
        (void)rmdir(run->folder);
    exit(EXIT_FAIL);
}

static tide_statistics engine_now(struct run *run)
{
    tide_statistics statistics = { .struct_bytes = sizeof statistics };

    must(run, tide_statistics_get(run->engine, &statistics), "tide_statistics_get");
    return statistics;
}

static tide_space_statistics space_now(struct run *run, tide_space *space)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };

    must(run, tide_space_statistics_get(space, &statistics), "tide_space_statistics_get");
    return statistics;
}

/* ---- engine and spaces ------------------------------------------------------------------------------------------ */

static bool pagefile_choose(struct run *run)
{
    const char *parent = getenv("TMPDIR");

    if (run->options.pagefile_mib == 0)
        return true;
    if (run->options.pagefile != NULL) {
        if (strlen(run->options.pagefile) >= sizeof run->pagefile)
            refuse("--pagefile-path has %zu bytes; the most is %zu", strlen(run->options.pagefile),
                   sizeof run->pagefile - 1);
        (void)snprintf(run->pagefile, sizeof run->pagefile, "%s", run->options.pagefile);
        return true;
    }
    (void)snprintf(run->folder, sizeof run->folder, "%s/tide-testlimit-XXXXXX",
                   parent != NULL && parent[0] != '\0' ? parent : "/tmp");
    if (mkdtemp(run->folder) == NULL) {
        printf("SKIPPED: no folder %s for the page file: %s\n", run->folder, strerror(errno));
        return false;
    }
    (void)snprintf(run->pagefile, sizeof run->pagefile, "%s/pagefile", run->folder);
    return true;
}

static int engine_open(struct run *run)
{
    const struct options *o = &run->options;
    tide_config config;

    if (!pagefile_choose(run))
        return EXIT_SKIPPED;
    const tide_page_file_config file = { .path = run->pagefile, .minimum_bytes = o->pagefile_mib * MIB };
    tide_config_init(&config);
    config.memory_bytes = o->memory_mib * MIB;
    config.page_files = &file;
    config.page_file_count = o->pagefile_mib != 0;
    config.workers = o->real_time ? TIDE_WORKERS_THREADS : TIDE_WORKERS_MANUAL;
    const tide_status status = tide_engine_open(&config, &run->engine);
    if (tide_failed(status)) {
        const bool machine = status == TIDE_NO_MEMORY || status == TIDE_DISK_FULL || status == TIDE_IO_ERROR ||
                             status == TIDE_INSUFFICIENT_RESOURCES;
        fprintf(stderr, "%s: tide_engine_open: %s: %s\n", machine ? "SKIPPED" : "FAIL", tide_status_name(status),
                tide_last_error()->message);
        if (run->folder[0] != '\0')
            (void)rmdir(run->folder);
        return machine ? EXIT_SKIPPED : EXIT_FAIL;
    }
    run->at_open = engine_now(run);
    return EXIT_PASS;
}

static void other_write(struct run *run, unsigned first, unsigned last, uint64_t version)
{
    for (unsigned i = first; i < last; i++) {
        const uint64_t stamp[2] = { i, version };
        must(run, tide_write(run->other, run->other_base + i * (uint64_t)PAGE, stamp, sizeof stamp),
             "writing to the other space's memory");
    }
}

static void other_check(struct run *run, unsigned first, unsigned last, uint64_t version)
{
    for (unsigned i = first; i < last; i++) {
        uint64_t stamp[2];
        must(run, tide_read(run->other, run->other_base + i * (uint64_t)PAGE, stamp, sizeof stamp),
             "reading the other space's memory");
        if (stamp[0] != i || stamp[1] != version)
            failed(run, "page %u of the other space holds %" PRIu64 ", %" PRIu64 " and not %u, %" PRIu64, i, stamp[0],
                   stamp[1], i, version);
    }
}

static void spaces_create(struct run *run)
{
    uint64_t bytes = OTHER_PAGES * (uint64_t)PAGE;

    must(run, tide_space_create(run->engine, &run->other), "tide_space_create");
    must(run,
         tide_virtual_alloc(run->other, &run->other_base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                            TIDE_PAGE_READWRITE),
         "committing the other space's memory");
    other_write(run, 0, OTHER_PAGES / 2, 1);
    must(run, tide_space_create(run->engine, &run->leaker), "tide_space_create");
}

/* ---- leaking ---------------------------------------------------------------------------------------------------- */

static tide_status touch(tide_space *space, tide_address base, uint64_t bytes)
{
    tide_status status = TIDE_SUCCESS;

    for (uint64_t at = 0; at < bytes && !tide_failed(status); at += PAGE)
        status = tide_write(space, base + at, &at, sizeof at);
    return status;
}

/*
 * Locks, as a program does that needs much locked: it raises its minimum working set first. Where the engine allows no
 * higher one, the lock says so.
 */
static tide_status lock(struct run *run, tide_address base, uint64_t bytes)
{
    enum { OVERHEAD_PAGES = 8, SLACK_PAGES = 64 };
    const uint64_t wanted = space_now(run, run->leaker).private_pages + OVERHEAD_PAGES;

    const tide_status raised = tide_working_set_set_limits(run->leaker, wanted, wanted + SLACK_PAGES, 0);
    const tide_status locked = tide_virtual_lock(run->leaker, base, bytes);

    return tide_failed(raised) && !tide_failed(locked) ? raised : locked;
}

/* One step. TIDE_SUCCESS, or why there was none; what a failed step has committed stays, as in a leaking program. */
static tide_status leak(struct run *run)
{
    const struct options *o = &run->options;
    uint64_t bytes = o->step_mib * MIB;
    tide_address base = 0;
    tide_status status = tide_virtual_alloc(
        run->leaker, &base, &bytes, o->mode == MODE_RESERVE ? TIDE_MEM_RESERVE : TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
        TIDE_PAGE_READWRITE);

    if (!tide_failed(status) && o->mode == MODE_TOUCH)
        status = touch(run->leaker, base, bytes);
    if (!tide_failed(status) && o->mode == MODE_LOCK)
        status = lock(run, base, bytes);
    return status;
}

static void interval_pass(struct run *run)
{
    const struct options *o = &run->options;

    if (o->real_time) {
        const struct timespec time = { (time_t)o->interval, (long)((o->interval - floor(o->interval)) * 1e9) };
        (void)nanosleep(&time, NULL);
        return;
    }
    for (unsigned node = 0; node < run->at_open.node_count; node++)
        for (unsigned worker = 0; worker < TIDE_WORKER_COUNT; worker++)
            must(run, tide_worker_step(run->engine, (tide_worker)worker, node, 0, NULL), "tide_worker_step");
    /* A step takes some time even without an interval, else there would be no rates. */
    const double ms = o->interval * 1000;
    must(run, tide_clock_advance(run->engine, ms < 1 ? 1 : (uint64_t)(ms + 0.5)), "tide_clock_advance");
}

/* What the leak has to end with, if nobody stops it. */
static bool end_is_right(enum mode mode, tide_status status)
{
    switch (mode) {
    case MODE_RESERVE: /* the end of the address space, or of the memory for regions' descriptors */
        return status == TIDE_NO_MEMORY || status == TIDE_INSUFFICIENT_RESOURCES;
    case MODE_LOCK: /* whatever comes first */
        return status == TIDE_COMMITMENT_LIMIT || status == TIDE_WORKING_SET_QUOTA ||
               status == TIDE_INSUFFICIENT_RESOURCES;
    default:
        return status == TIDE_COMMITMENT_LIMIT;
    }
}

static double mib(uint64_t pages)
{
    return (double)pages * PAGE / (double)MIB;
}

/* A string as JSON has it. */
static void json_string(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar(*text);
    }
    putchar('"');
}

static void head_print(const struct run *run)
{
    static const char *const modes[] = { "none", "reserve", "commit", "touch", "lock" };
    const struct options *o = &run->options;

    if (o->json) {
        printf("{\"mode\": \"%s\", \"step_mib\": %" PRIu64 ", \"memory_mib\": %" PRIu64 ", \"pagefile_mib\": %" PRIu64
               ", \"commit_limit_pages\": %" PRIu64 ",\n \"steps\": [",
               modes[o->mode], o->step_mib, o->memory_mib, o->pagefile_mib, run->at_open.commit_limit_pages);
        return;
    }
    printf("%s %" PRIu64 " MiB a step; memory %" PRIu64 " MiB, page file %" PRIu64 " MiB, commit limit %.1f MiB\n",
           modes[o->mode], o->step_mib, o->memory_mib, o->pagefile_mib, mib(run->at_open.commit_limit_pages));
    printf("%6s %9s %11s %9s %14s %9s %11s %9s %9s %9s  %s\n", "step", "seconds", "private MB", "delta MB",
           "reserved MB", "WS MB", "commit MB", "avail MB", "faults", "out", "verdict");
}

static void step_print(struct run *run, const tide_space_statistics *before, const tide_pressure_verdict *v)
{
    const tide_space_statistics now = space_now(run, run->leaker);
    const tide_statistics all = engine_now(run);
    const double at = (double)(all.timestamp_ns - run->at_open.timestamp_ns) / 1e9;
    const int64_t delta = (int64_t)(now.private_pages - before->private_pages);

    if (run->options.json) {
        printf("%s\n  {\"step\": %" PRIu64 ", \"seconds\": %.3f, \"private_pages\": %" PRIu64
               ", \"private_delta_pages\": %" PRId64 ", \"virtual_bytes\": %" PRIu64 ", \"working_set_pages\": %" PRIu64
               ", \"commit_pages\": %" PRIu64 ", \"available_pages\": %" PRIu64 ", \"page_faults\": %" PRIu64
               ", \"pages_output\": %" PRIu64 ", \"verdict\": \"%s\", \"explanation\": ",
               run->steps == 1 ? "" : ",", run->steps, at, now.private_pages, delta, now.virtual_bytes,
               now.working_set_pages, all.commit_total_pages, all.available_pages, all.faults.page_faults,
               all.pages_output, tide_pressure_name(v->kind));
        json_string(v->explanation);
        putchar('}');
    } else {
        printf("%6" PRIu64 " %9.2f %11.1f %+9.1f %14.0f %9.1f %11.1f %9.1f %9" PRIu64 " %9" PRIu64 "  %s\n", run->steps,
               at, mib(now.private_pages), (double)delta * PAGE / (double)MIB, (double)now.virtual_bytes / (double)MIB,
               mib(now.working_set_pages), mib(all.commit_total_pages), mib(all.available_pages),
               all.faults.page_faults, all.pages_output, tide_pressure_name(v->kind));
    }
    fflush(stdout);
}

static tide_pressure_verdict judge(struct run *run)
{
    tide_pressure_snapshot now;
    tide_pressure_verdict verdict;

    must(run, tide_pressure_snapshot_take(run->engine, &now), "tide_pressure_snapshot_take");
    must(run, tide_pressure_classify(&run->last, &now, NULL, &verdict), "tide_pressure_classify");
    tide_pressure_snapshot_free(&run->last);
    run->last = now;
    return verdict;
}

/* Steps until the leak ends. Returns the status that ended it, TIDE_SUCCESS if it was the count. */
static tide_status leak_all(struct run *run)
{
    const struct options *o = &run->options;
    const uint64_t step_pages = o->step_mib * MIB / PAGE;

    must(run, tide_pressure_snapshot_take(run->engine, &run->last), "tide_pressure_snapshot_take");
    while (o->count == 0 || run->steps < o->count) {
        const tide_space_statistics before = space_now(run, run->leaker);
        const tide_status status = leak(run);

        interval_pass(run);
        const tide_space_statistics now = space_now(run, run->leaker);
        if (tide_failed(status))
            return status;
        run->steps++;
        const tide_pressure_verdict verdict = judge(run);
        step_print(run, &before, &verdict);
        const uint64_t expected = o->mode == MODE_RESERVE ? 0 : step_pages;
        if (now.private_pages - before.private_pages != expected)
            failed(run, "step %" PRIu64 " changed private commit by %" PRId64 " pages and not by %" PRIu64, run->steps,
                   (int64_t)(now.private_pages - before.private_pages), expected);
        if (now.virtual_bytes - before.virtual_bytes != o->step_mib * MIB)
            failed(run, "step %" PRIu64 " changed the virtual size by %" PRIu64 " bytes and not by %" PRIu64 " MiB",
                   run->steps, now.virtual_bytes - before.virtual_bytes, o->step_mib);
    }
    return TIDE_SUCCESS;
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

static void end_check(struct run *run, tide_status status, const char *message)
{
    if (run->options.count == 0 || tide_failed(status)) {
        if (!end_is_right(run->options.mode, status))
            failed(run, "the leak ended with %s (%s)", tide_status_name(status), message);
    }
    /* Others keep what they have: touched, and committed only. */
    other_check(run, 0, OTHER_PAGES / 2, 1);
    other_write(run, 0, OTHER_PAGES, 2);
    other_check(run, 0, OTHER_PAGES, 2);
}

static bool settled(const tide_statistics *now, const tide_statistics *start)
{
    return now->commit_total_pages == start->commit_total_pages && now->available_pages == start->available_pages &&
           now->table_pages == start->table_pages && now->page_file_used_slots == 0 && now->spaces == 0;
}

/* Everything is released: all counters are back where they were. */
static void tear_down(struct run *run)
{
    must(run, tide_space_destroy(run->leaker), "tide_space_destroy");
    must(run, tide_space_destroy(run->other), "tide_space_destroy");
    tide_statistics now = engine_now(run);
    for (unsigned i = 0; i < SETTLE_SECONDS * 100 && !settled(&now, &run->at_open) && run->options.real_time; i++) {
        const struct timespec time = { 0, 10000000 };
        (void)nanosleep(&time, NULL);
        now = engine_now(run);
    }
    if (!settled(&now, &run->at_open))
        failed(run,
               "after everything was released: commit %" PRIu64 " pages (%" PRIu64 " at open), available %" PRIu64
               " (%" PRIu64 "), tables %" PRIu64 " (%" PRIu64 "), slots used %" PRIu64 ", spaces %" PRIu64,
               now.commit_total_pages, run->at_open.commit_total_pages, now.available_pages,
               run->at_open.available_pages, now.table_pages, run->at_open.table_pages, now.page_file_used_slots,
               now.spaces);
    tide_pressure_snapshot_free(&run->last);
    must(run, tide_engine_verify(run->engine, NULL), "tide_engine_verify");
    must(run, tide_engine_close(run->engine), "tide_engine_close");
    if (run->folder[0] != '\0' && rmdir(run->folder) != 0)
        failed(run, "the folder %s is not empty after tide_engine_close: %s", run->folder, strerror(errno));
}

int main(int argc, char **argv)
{
    static struct run run;

    run.options = options_parse(argc, argv);
    const int opened = engine_open(&run);
    if (opened != EXIT_PASS)
        return opened;
    spaces_create(&run);
    head_print(&run);
    const tide_status status = leak_all(&run);
    char message[sizeof(tide_error)];
    (void)snprintf(message, sizeof message, "%s", tide_failed(status) ? tide_last_error()->message : "");
    const tide_space_statistics leaked = space_now(&run, run.leaker);
    end_check(&run, status, message);
    tear_down(&run);
    if (run.options.json) {
        printf("\n ],\n \"end\": {\"status\": \"%s\", \"message\": ",
               tide_failed(status) ? tide_status_name(status) : "count reached");
        json_string(message);
        printf(", \"steps\": %" PRIu64 ", \"private_pages\": %" PRIu64 ", \"peak_working_set_pages\": %" PRIu64
               ", \"passed\": %s}}\n",
               run.steps, leaked.private_pages, leaked.peak_working_set_pages, run.failures == 0 ? "true" : "false");
    } else {
        printf("%s after %" PRIu64 " steps and %.1f MiB of private commit: %s\n",
               tide_failed(status) ? tide_status_name(status) : "Stopped", run.steps, mib(leaked.private_pages),
               tide_failed(status) ? message : "the count is reached");
        if (run.failures == 0)
            puts("PASS: the other space's memory could be used, and all came back.");
    }
    return run.failures == 0 ? EXIT_PASS : EXIT_FAIL;
}

/*
 * tide-replay: drives the engine with the page-access traces of real programs, and sets its hits beside those of LRU
 * and of Belady's optimum on the same trace with the same number of pages.
 *
 * What a replay is. Each region of the trace is reserved and committed in a soft space; then each access of the trace
 * is a tide_touch() of that page. A page written gets a stamp (page, number of the write) at its beginning, and every
 * later access to it checks the stamp, so that a page which came back from the page file wrong ends the run as a
 * failure.
 *
 * What is counted. tide_touch() says how an access was resolved: valid already or soft fault (both found the page in
 * memory: a hit), demand-zero fault (first access: a miss for every policy) or hard fault (the page had to be read: a
 * miss).
 *
 * What the engine may use. The budget is a share of the footprint, the pages that the trace touches, but at least
 * BUDGET_PAGES_MIN. LRU and Belady get exactly so many frames. The engine's memory also holds its page tables: a dry
 * run with room for everything counts them, and the engine gets the budget plus the tables. CPU caches are off, and
 * lists have one shard, so that no frame of a small engine stands idle in one.
 *
 * Mapped spaces (--mapped). Each trace is replayed once more in a mapped space, by loads and stores through plain
 * pointers, and its hits are set beside those in a soft space. Nobody tells there how an access was resolved; a hit is
 * one that was neither the first of its page nor, by the counters, a hard fault.
 *
 * Threads. One thread replays one copy of the trace in one space. N threads replay N copies in N spaces at once, in
 * an engine with N times the memory: a load with N programs. Only one thread is compared with LRU and Belady
 * strictly, since N programs that share memory are no longer N times the same problem.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "policy.h"
#include "trace.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pagetide/pagetide.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    BUDGET_PAGES_MIN = 16,
    TRACES_MAX = 32,
    BUDGETS_MAX = 16,
    THREADS_MAX = 256,
    PERCENT_MAX = 1000,
    PAGE_FILE_SPARE_PAGES = 1024, /* so that long free runs of slots are found */
    DRY_RUN_SPARE_PAGES = 1024,   /* page tables of the dry run */
};

struct options {
    const char *traces[TRACES_MAX];
    unsigned trace_count;
    unsigned percents[BUDGETS_MAX];
    unsigned percent_count;
    unsigned threads;
    const char *page_file; /* NULL: a file in the folder for temporary files */
    const char *json;      /* NULL: none */
    enum { WORKERS_BY_THREADS, WORKERS_MANUAL, WORKERS_THREADS } workers;
    unsigned cluster_pages;         /* 0: the engine's default */
    uint64_t low_pages, high_pages; /* 0: the engine's default */
    bool direct_io;
    bool mapped; /* each row once more in mapped spaces */
    bool quiet;
};

/* What one replay at one budget found. */
struct row {
    const char *trace;
    unsigned percent;
    uint64_t budget_pages; /* of one copy */
    uint64_t table_pages;  /* of one copy */
    unsigned threads;
    uint64_t accesses, valid, demand_zero, soft, hard; /* over all threads */
    uint64_t pages_input, pages_output;
    double seconds;
    uint64_t mapped_hits, mapped_faults; /* in mapped spaces, over all threads */
    struct policy_result lru, belady;    /* of one copy */
};

struct stamp {
    uint64_t page, version;
};

/* One thread with its copy of the trace. Written by its thread, read after it ended. */
struct player {
    const struct trace *trace;
    tide_space *space;
    tide_address *addresses; /* by page */
    uint64_t *versions;      /* by page: writes so far */
    uint64_t valid, demand_zero, soft, hard;
    uint64_t faults; /* hardware's, in a mapped space */
    bool mapped;
    bool failed;
    char message[320];
};

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

static double now_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static bool engine_error(const char *what)
{
    fprintf(stderr, "tide-replay: %s: %s: %s\n", what, tide_status_name(tide_last_error()->status),
            tide_last_error()->message);
    return false;
}

/* ---- players ---------------------------------------------------------------------------------------------------- */

static void player_close(struct player *player)
{
    if (player->space != NULL)
        (void)tide_space_destroy(player->space);
    free(player->versions);
    free(player->addresses);
}

/* Creates the space and commits the regions of the trace. On failure the caller closes the player. */
static bool player_open(struct player *player, tide_engine *engine, const struct trace *trace, bool mapped)
{
    uint32_t page = 0;

    *player = (struct player){ .trace = trace, .mapped = mapped };
    player->addresses = malloc(((size_t)trace->page_count + 1) * sizeof *player->addresses);
    player->versions = calloc((size_t)trace->page_count + 1, sizeof *player->versions);
    if (player->addresses == NULL || player->versions == NULL) {
        fprintf(stderr, "tide-replay: no memory for %" PRIu32 " pages\n", trace->page_count);
        return false;
    }
    if (tide_failed(mapped ? tide_mapped_space_create(engine, NULL, &player->space)
                           : tide_space_create(engine, &player->space)))
        return engine_error("cannot create a space");
    for (uint32_t region = 0; region < trace->region_count; region++) {
        tide_address base = 0;
        uint64_t bytes = (uint64_t)trace->region_pages[region] * TIDE_PAGE_BYTES;
        if (tide_failed(tide_virtual_alloc(player->space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                           TIDE_PAGE_READWRITE)))
            return engine_error("cannot commit a region");
        for (uint32_t i = 0; i < trace->region_pages[region]; i++)
            player->addresses[page++] = base + (uint64_t)i * TIDE_PAGE_BYTES;
    }
    return true;
}

static bool player_fail(struct player *player, const char *what, uint64_t access)
{
    const tide_error *error = tide_last_error();

    player->failed = true;
    snprintf(player->message, sizeof player->message, "access %" PRIu64 ": %s: %s: %s", access, what,
             tide_status_name(error->status), error->message);
    return false;
}

/* Is that the stamp that the page should have? */
static bool stamp_check(struct player *player, uint64_t access, uint32_t page, struct stamp found)
{
    const uint64_t version = player->versions[page];
    const uint64_t stamped_page = version == 0 ? 0 : page; /* a page never written is all zero */

    if (found.page != stamped_page || found.version != version) {
        player->failed = true;
        snprintf(player->message, sizeof player->message,
                 "access %" PRIu64 ": page %" PRIu32 " holds the stamp of page %" PRIu64 " version %" PRIu64
                 ", expected page %" PRIu64 " version %" PRIu64,
                 access, page, found.page, found.version, stamped_page, version);
        return false;
    }
    return true;
}

/* Checks the stamp of a page, and renews it if the access writes. */
static bool player_stamp(struct player *player, uint64_t access, uint32_t page, bool writes)
{
    struct stamp found;

    if (tide_failed(tide_read(player->space, player->addresses[page], &found, sizeof found)))
        return player_fail(player, "tide_read", access);
    if (!stamp_check(player, access, page, found))
        return false;
    if (writes) {
        const struct stamp stamp = { page, ++player->versions[page] };
        if (tide_failed(tide_write(player->space, player->addresses[page], &stamp, sizeof stamp)))
            return player_fail(player, "tide_write", access);
    }
    return true;
}

/* Replays the whole trace by loads and stores. */
static void player_run_mapped(struct player *player)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_mapped_statistics mapped = { .struct_bytes = sizeof mapped };

    for (uint64_t i = 0; i < player->trace->access_count; i++) {
        const uint32_t page = trace_access_page(player->trace->accesses[i]);
        volatile struct stamp *stamp = tide_pointer(player->addresses[page]);

        if (!stamp_check(player, i, page, (struct stamp){ stamp->page, stamp->version }))
            return;
        if (trace_access_writes(player->trace->accesses[i])) {
            stamp->page = page;
            stamp->version = ++player->versions[page];
        }
    }
    if (tide_failed(tide_space_statistics_get(player->space, &statistics)) ||
        tide_failed(tide_mapped_query(player->space, &mapped))) {
        player_fail(player, "statistics", player->trace->access_count);
        return;
    }
    player->hard = statistics.faults.hard;
    player->demand_zero = player->trace->touched_pages;
    player->valid = player->trace->access_count - player->demand_zero - player->hard;
    player->faults = mapped.faults;
}

/* Replays the whole trace; a thread's function. */
static void *player_run(void *argument)
{
    struct player *player = argument;

    if (player->mapped) {
        player_run_mapped(player);
        return NULL;
    }

    for (uint64_t i = 0; i < player->trace->access_count; i++) {
        const uint32_t page = trace_access_page(player->trace->accesses[i]);
        const bool writes = trace_access_writes(player->trace->accesses[i]);
        switch (tide_touch(player->space, player->addresses[page], writes ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ)) {
        case TIDE_SUCCESS:
            player->valid++;
            break;
        case TIDE_PAGE_FAULT_TRANSITION:
            player->soft++;
            break;
        case TIDE_PAGE_FAULT_DEMAND_ZERO:
            player->demand_zero++;
            break;
        case TIDE_PAGE_FAULT_PAGING_FILE:
            player->hard++;
            break;
        default:
            player_fail(player, "tide_touch", i);
            return NULL;
        }
        if (!player_stamp(player, i, page, writes))
            return NULL;
    }
    return NULL;
}

/* ---- one replay ------------------------------------------------------------------------------------------------- */

static void config_fill(tide_config *config, const struct options *options, uint64_t pages)
{
    const bool manual =
        options->workers == WORKERS_BY_THREADS ? options->threads == 1 : options->workers == WORKERS_MANUAL;

    tide_config_init(config);
    config->disable_aslr = true; /* the tables that a trace needs are counted beforehand */
    config->memory_bytes = pages * TIDE_PAGE_BYTES;
    config->topology_synthetic = "numa:1 core:1 pu:1";
    config->workers = manual ? TIDE_WORKERS_MANUAL : TIDE_WORKERS_THREADS;
    config->disable_direct_io = !options->direct_io;
    config->disable_huge_pages = true;
    config->cpu_cache_pages = TIDE_NO_CPU_CACHE;
    config->list_shards = 1;
    config->cluster_pages = options->cluster_pages;
    config->low_available_pages = options->low_pages;
    config->high_available_pages = options->high_pages;
}

/* Counts the page tables that one copy of the trace needs, by touching its pages in an engine with room for all. */
static bool count_tables(const struct options *options, const struct trace *trace, uint64_t *table_pages)
{
    struct player player = { 0 };
    tide_engine *engine = NULL;
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_config config;
    bool ok = false;

    config_fill(&config, options, 2ull * trace->page_count + DRY_RUN_SPARE_PAGES);
    if (tide_failed(tide_engine_open(&config, &engine)))
        return engine_error("cannot open the engine of the dry run");
    if (!player_open(&player, engine, trace, false))
        goto out;
    for (uint64_t i = 0; i < trace->access_count; i++) {
        const uint32_t page = trace_access_page(trace->accesses[i]);
        if (player.versions[page]++ == 0 &&
            tide_failed(tide_touch(player.space, player.addresses[page], TIDE_ACCESS_READ))) {
            engine_error("cannot touch a page in the dry run");
            goto out;
        }
    }
    if (tide_failed(tide_statistics_get(engine, &statistics))) {
        engine_error("no statistics");
        goto out;
    }
    *table_pages = statistics.table_pages;
    ok = true;
out:
    player_close(&player);
    (void)tide_engine_close(engine);
    return ok;
}

/* Runs all players to their end and adds up what they counted. */
static bool players_run(struct player *players, struct row *row)
{
    pthread_t threads[THREADS_MAX];
    unsigned started = 0;
    bool ok = true;
    const double begin = now_seconds();

    for (; started < row->threads; started++) {
        const int error = pthread_create(&threads[started], NULL, player_run, &players[started]);
        if (error != 0) {
            fprintf(stderr, "tide-replay: cannot start thread %u of %u: %s\n", started + 1, row->threads,
                    strerror(error));
            ok = false;
            break;
        }
    }
    for (unsigned i = 0; i < started; i++) {
        pthread_join(threads[i], NULL);
        if (players[i].failed) {
            fprintf(stderr, "tide-replay: %s at %u %%: %s\n", row->trace, row->percent, players[i].message);
            ok = false;
        }
        row->valid += players[i].valid;
        row->demand_zero += players[i].demand_zero;
        row->soft += players[i].soft;
        row->hard += players[i].hard;
        row->mapped_faults += players[i].faults;
    }
    row->seconds = now_seconds() - begin;
    row->accesses = row->valid + row->demand_zero + row->soft + row->hard;
    return ok;
}

/* Replays a trace at one budget. `row` holds the trace's name, percent, budget, tables and threads. */
static bool replay(const struct options *options, const struct trace *trace, bool mapped, struct row *row)
{
    struct player *players = calloc(row->threads, sizeof *players);
    tide_engine *engine = NULL;
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_page_file_config page_file = {
        .path = options->page_file,
        .minimum_bytes = (2ull * row->threads * trace->page_count + PAGE_FILE_SPARE_PAGES) * TIDE_PAGE_BYTES,
    };
    tide_config config;
    bool ok = false;

    if (players == NULL) {
        fprintf(stderr, "tide-replay: no memory for %u threads\n", row->threads);
        return false;
    }
    config_fill(&config, options, row->threads * (row->budget_pages + row->table_pages));
    config.page_files = &page_file;
    config.page_file_count = 1;
    config.memory_on_demand = mapped;
    if (tide_failed(tide_engine_open(&config, &engine))) {
        engine_error("cannot open the engine");
        goto out;
    }
    for (unsigned i = 0; i < row->threads; i++)
        if (!player_open(&players[i], engine, trace, mapped))
            goto out;
    if (!players_run(players, row))
        goto out;
    if (tide_failed(tide_statistics_get(engine, &statistics))) {
        engine_error("no statistics");
        goto out;
    }
    row->pages_input = statistics.pages_input;
    row->pages_output = statistics.pages_output;
    ok = true;
out:
    for (unsigned i = 0; i < row->threads; i++)
        player_close(&players[i]);
    if (engine != NULL)
        (void)tide_engine_close(engine);
    free(players);
    return ok;
}

/* The same in mapped spaces: only the hits and the faults are kept. */
static bool replay_mapped(const struct options *options, const struct trace *trace, struct row *row)
{
    struct row mapped = { .trace = row->trace,
                          .percent = row->percent,
                          .budget_pages = row->budget_pages,
                          .table_pages = row->table_pages,
                          .threads = row->threads };

    if (!replay(options, trace, true, &mapped))
        return false;
    row->mapped_hits = mapped.valid;
    row->mapped_faults = mapped.mapped_faults;
    return true;
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

static double hit_share(const struct row *row)
{
    return row->accesses == 0 ? 0.0 : (double)(row->valid + row->soft) / (double)row->accesses;
}

/* Compared by counts: N copies against N times LRU. */
static bool at_least_lru(const struct row *row)
{
    return row->valid + row->soft >= row->threads * row->lru.hits;
}

static double mapped_share(const struct row *row)
{
    return row->accesses == 0 ? 0.0 : (double)row->mapped_hits / (double)row->accesses;
}

/* A mapped space cannot read the hardware's accessed bit; that may cost so many hits in a hundred accesses. */
#define MAPPED_POINTS_MAX 5.0

static bool near_soft(const struct row *row)
{
    return 100 * (hit_share(row) - mapped_share(row)) <= MAPPED_POINTS_MAX;
}

static void print_header(const struct options *options)
{
    printf("%-10s %7s %7s %6s %7s %9s %8s %9s %9s %8s %8s %8s  %s\n", "trace", "budget", "pages", "tables", "threads",
           "demand-0", "soft", "hard", "LRU reads", "hits", "LRU", "Belady",
           options->mapped ? "verdict; in a mapped space" : "verdict");
}

static void print_row(const struct options *options, const struct row *row)
{
    char mapped[80] = "";

    if (options->mapped)
        snprintf(mapped, sizeof mapped, "; %7.3f%%, %+.3f points, %" PRIu64 " faults", 100 * mapped_share(row),
                 100 * (mapped_share(row) - hit_share(row)), row->mapped_faults);
    printf("%-10s %5u %% %7" PRIu64 " %6" PRIu64 " %7u %9" PRIu64 " %8" PRIu64 " %9" PRIu64 " %9" PRIu64
           " %7.3f%% %7.3f%% %7.3f%%  %s%s\n",
           row->trace, row->percent, row->budget_pages, row->table_pages, row->threads, row->demand_zero, row->soft,
           row->hard, row->threads * row->lru.misses, 100 * hit_share(row), 100 * policy_hit_share(&row->lru),
           100 * policy_hit_share(&row->belady), at_least_lru(row) ? "at least LRU" : "BELOW LRU", mapped);
    fflush(stdout);
}

static void json_row(FILE *file, const struct row *row, bool first)
{
    fprintf(file,
            "%s\n  {\"trace\": \"%s\", \"budget_percent\": %u, \"budget_pages\": %" PRIu64 ", \"table_pages\": %" PRIu64
            ", \"threads\": %u, \"accesses\": %" PRIu64 ", \"demand_zero\": %" PRIu64 ", \"soft\": %" PRIu64
            ", \"hard\": %" PRIu64
            ", \"hit_share\": %.6f, \"lru_hit_share\": %.6f, \"belady_hit_share\": %.6f, \"lru_misses\": %" PRIu64
            ", \"belady_misses\": %" PRIu64 ", \"at_least_lru\": %s, \"pages_input\": %" PRIu64
            ", \"pages_output\": %" PRIu64 ", \"seconds\": %.3f, \"mapped_hit_share\": %.6f}",
            first ? "" : ",", row->trace, row->percent, row->budget_pages, row->table_pages, row->threads,
            row->accesses, row->demand_zero, row->soft, row->hard, hit_share(row), policy_hit_share(&row->lru),
            policy_hit_share(&row->belady), row->lru.misses, row->belady.misses, at_least_lru(row) ? "true" : "false",
            row->pages_input, row->pages_output, row->seconds, mapped_share(row));
}

/* ---- main ------------------------------------------------------------------------------------------------------- */

/* Replays one trace at every budget. Returns false if a replay failed; *below counts the rows that --strict refuses. */
static bool replay_trace(const struct options *options, const char *path, FILE *json, unsigned *rows, unsigned *below)
{
    char name[64], error[256];
    struct trace trace;
    uint64_t tables = 0;
    bool ok;

    if (!trace_load(path, &trace, error, sizeof error)) {
        fprintf(stderr, "tide-replay: %s\n", error);
        return false;
    }
    snprintf(name, sizeof name, "%s", base_name(path));
    name[strcspn(name, ".")] = '\0';
    ok = count_tables(options, &trace, &tables);
    for (unsigned i = 0; i < options->percent_count && ok; i++) {
        struct row row = {
            .trace = name, .percent = options->percents[i], .table_pages = tables, .threads = options->threads
        };
        row.budget_pages = (uint64_t)trace.touched_pages * row.percent / 100;
        if (row.budget_pages < BUDGET_PAGES_MIN)
            row.budget_pages = BUDGET_PAGES_MIN;
        ok = policy_lru(&trace, (uint32_t)row.budget_pages, &row.lru) &&
             policy_belady(&trace, (uint32_t)row.budget_pages, &row.belady);
        if (!ok) {
            fprintf(stderr, "tide-replay: no memory to simulate %" PRIu64 " accesses\n", trace.access_count);
            break;
        }
        ok = replay(options, &trace, false, &row) && (!options->mapped || replay_mapped(options, &trace, &row));
        if (!ok)
            break;
        if (!options->quiet)
            print_row(options, &row);
        if (json != NULL)
            json_row(json, &row, *rows == 0);
        ++*rows;
        *below += !at_least_lru(&row) || (options->mapped && !near_soft(&row));
    }
    trace_free(&trace);
    return ok;
}

static void usage(FILE *out)
{
    fprintf(out,
            "usage: tide-replay --trace FILE [--trace FILE ...] [option ...]\n"
            "  --trace FILE             page-access trace (bench/replay/record makes them)\n"
            "  --budget-percent P,...   memory in percent of the pages that the trace touches [5,10,20,50,100]\n"
            "  --threads N              copies of the trace replayed at once, 1 to %d [1]\n"
            "  --pagefile PATH          page file to create [a new file in $TMPDIR or /tmp]\n"
            "  --workers manual|threads who trims and writes: the faulting thread, or the engine's threads\n"
            "                           [manual with one thread, else threads]\n"
            "  --json FILE              writes the rows as JSON, too (- for standard output, without the table)\n"
            "  --strict                 exit 1 if a row has fewer hits than LRU, or of 100 accesses 5 hits fewer in a\n"
            "                           mapped space than in a soft one\n"
            "  --mapped                 each trace once more in a mapped space\n"
            "  --direct-io              page file past the host's cache\n"
            "  --cluster N, --low N, --high N   the engine's tunables cluster_pages, low_ and high_available_pages\n"
            "Exit status: 0 done, 1 a replay failed, 2 wrong usage.\n",
            THREADS_MAX);
}

/* A decimal number in [low, high] that ends at a comma or at the end; ends the program otherwise. */
static unsigned number(const char *name, const char *text, unsigned low, unsigned high, const char **rest)
{
    char *end = NULL;
    const unsigned long value = strtoul(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || (*end != '\0' && !(rest != NULL && *end == ',')) || value < low ||
        value > high) {
        fprintf(stderr, "tide-replay: %s %s: expected a number from %u to %u\n", name, text, low, high);
        exit(2);
    }
    if (rest != NULL)
        *rest = *end == ',' ? end + 1 : end;
    return (unsigned)value;
}

static void parse_percents(struct options *options, const char *text)
{
    const char *next = text;

    options->percent_count = 0;
    do {
        if (options->percent_count == BUDGETS_MAX) {
            fprintf(stderr, "tide-replay: --budget-percent %s: more than %d budgets\n", text, BUDGETS_MAX);
            exit(2);
        }
        options->percents[options->percent_count++] = number("--budget-percent", next, 1, PERCENT_MAX, &next);
    } while (*next != '\0');
}

static enum { PARSE_RUN, PARSE_HELP, PARSE_WRONG } parse(int argc, char **argv, struct options *options, bool *strict)
{
    static const struct option names[] = {
        { "trace", required_argument, NULL, 't' },   { "budget-percent", required_argument, NULL, 'b' },
        { "threads", required_argument, NULL, 'n' }, { "pagefile", required_argument, NULL, 'p' },
        { "workers", required_argument, NULL, 'w' }, { "json", required_argument, NULL, 'j' },
        { "strict", no_argument, NULL, 's' },        { "direct-io", no_argument, NULL, 'd' },
        { "cluster", required_argument, NULL, 'c' }, { "low", required_argument, NULL, 'l' },
        { "high", required_argument, NULL, 'u' },    { "mapped", no_argument, NULL, 'm' },
        { "help", no_argument, NULL, 'h' },          { NULL, 0, NULL, 0 },
    };
    int option;

    while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
        switch (option) {
        case 't':
            if (options->trace_count == TRACES_MAX) {
                fprintf(stderr, "tide-replay: more than %d traces\n", TRACES_MAX);
                return PARSE_WRONG;
            }
            options->traces[options->trace_count++] = optarg;
            break;
        case 'b':
            parse_percents(options, optarg);
            break;
        case 'n':
            options->threads = number("--threads", optarg, 1, THREADS_MAX, NULL);
            break;
        case 'p':
            options->page_file = optarg;
            break;
        case 'w':
            if (strcmp(optarg, "manual") != 0 && strcmp(optarg, "threads") != 0) {
                fprintf(stderr, "tide-replay: --workers %s: expected manual or threads\n", optarg);
                return PARSE_WRONG;
            }
            options->workers = optarg[0] == 'm' ? WORKERS_MANUAL : WORKERS_THREADS;
            break;
        case 'j':
            options->json = optarg;
            break;
        case 's':
            *strict = true;
            break;
        case 'm':
            options->mapped = true;
            break;
        case 'd':
            options->direct_io = true;
            break;
        case 'c':
            options->cluster_pages = number("--cluster", optarg, 1, 64, NULL);
            break;
        case 'l':
            options->low_pages = number("--low", optarg, 1, TRACE_PAGES_MAX, NULL);
            break;
        case 'u':
            options->high_pages = number("--high", optarg, 1, TRACE_PAGES_MAX, NULL);
            break;
        case 'h':
            return PARSE_HELP;
        default:
            return PARSE_WRONG;
        }
    }
    return options->trace_count > 0 && optind == argc ? PARSE_RUN : PARSE_WRONG;
}

/* As test programs say that they were skipped. */
enum { NOT_SUPPORTED = 77 };

int main(int argc, char **argv)
{
    struct options options = { .percents = { 5, 10, 20, 50, 100 }, .percent_count = 5, .threads = 1 };
    char page_file[512];
    unsigned rows = 0, below = 0;
    bool strict = false, ok = true;
    FILE *json = NULL;

    switch (parse(argc, argv, &options, &strict)) {
    case PARSE_HELP:
        usage(stdout);
        return 0;
    case PARSE_WRONG:
        usage(stderr);
        return 2;
    default:
        break;
    }
    if (options.mapped && tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {
        fprintf(stderr, "tide-replay: --mapped: %s\n", tide_last_error()->message);
        return NOT_SUPPORTED;
    }
    if (options.page_file == NULL) {
        const char *folder = getenv("TMPDIR");
        snprintf(page_file, sizeof page_file, "%s/tide-replay.%ld.pagefile", folder == NULL ? "/tmp" : folder,
                 (long)getpid());
        options.page_file = page_file;
    }
    if (options.json != NULL) {
        options.quiet = strcmp(options.json, "-") == 0;
        json = options.quiet ? stdout : fopen(options.json, "w");
        if (json == NULL) {
            fprintf(stderr, "tide-replay: %s: %s\n", options.json, strerror(errno));
            return 1;
        }
        fprintf(json, "{\"rows\": [");
    }
    if (!options.quiet)
        print_header(&options);
    for (unsigned i = 0; i < options.trace_count && ok; i++)
        ok = replay_trace(&options, options.traces[i], json, &rows, &below);
    if (json != NULL) {
        fprintf(json, "\n]}\n");
        if (fflush(json) != 0 || (json != stdout && fclose(json) != 0)) {
            fprintf(stderr, "tide-replay: %s: %s\n", options.json, strerror(errno));
            ok = false;
        }
    }
    if (ok && below > 0)
        fprintf(stderr, "tide-replay: %u of %u rows have fewer hits than LRU%s\n", below, rows,
                options.mapped ? ", or far fewer in a mapped space" : "");
    return ok && !(strict && below > 0) ? 0 : 1;
}

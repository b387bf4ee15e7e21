/*
 * The rule that the engine is built around, shown by counting: a demand-zero or soft fault on a private page, with
 * frames at hand on the local node, writes no cache line that another CPU's fault writes.
 *
 * How. Threads take faults of one class, each on its own pages, and record each line that they write (recorder.h). The
 * threads are pinned to two CPUs. A line belongs to a CPU and not to a thread, since the engine has structures per CPU,
 * which threads of one CPU write in turn without any line moving. A line that both CPUs write is shared, and
 *     shared writes of a line = the smaller of (faults on CPU A that wrote it, faults on CPU B that wrote it),
 * as often as the line has to move from one CPU to the other at least. The figures do not depend on how the threads
 * happen to interleave. places.h says which structure a line belongs to; a line that moves more often than allowed
 * makes the test fail and is named with the functions that wrote it.
 *
 * What is allowed to be shared, and nothing else:
 * - Demand zero: one fault in 32 refills its CPU's frame cache. That writes the list shard that it takes from, and the
 *   PFN records at both ends of its batch (unlinking the last frame writes the `previous` of the frame that stays, and
 *   two records share a line); and, where it takes the shard's last frame, the marks of the shards that hold some.
 * - Soft: the fault takes its frame out of the middle of a list. That writes the shard and the PFN records of both
 *   neighbours on the list. Lists are sharded so that two CPUs rarely meet on one: with 16 shards once in 32 faults at
 *   most, with one shard up to every fault.
 * - Tables: the first touch of 2 MiB makes a leaf table. That writes its entry in the upper table, which neighbours
 *   share, and the space's count of tables. Once in 512 faults, on top of demand zero.
 *
 * - Commit and decommit of one page, of untouched pages: nothing. A thread works in a region of its own, in one space
 *   or in many; charges come from the credits of its CPU.
 *
 * That the instrument sees what it should is tested too: each fault must be seen to write its PTE, its PFN record, its
 * counter and its thread's record, and in an engine with a single shard the refills must be seen to meet on it.
 *
 * Nodes. In some rows each of the two CPUs is on a node of its own among eight, and reads are recorded too. There no
 * fault may read or write a page list, a cache, a counter, a descriptor or a PFN record of another node than its CPU's:
 * not once in 32 faults, not once at all. In one row the regions prefer the other CPU's node, so that the instrument is
 * seen to see what it should.
 *
 * Some rows are reported and not judged. Deleting a page puts its frame on a free list. A soft fault that writes to
 * a clean page gives its page-file slot back, and slot maps have a lock for each 65,536 slots. Where lists are in
 * random order and two CPUs take from one shard, neighbouring records go to different CPUs.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "places.h"
#include "recorder.h"

#include "base/random.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    CPUS = 2,
    THREADS_MAX = 64,
    LEAVES = 16, /* leaf tables that all threads' parts fill */
    SHARDS = 16,
    BATCH = 32, /* the default cpu_cache_pages */
    FRAMES = 65536,
    FRAMES_AGED = 12288,
    SLOTS = 2 * LEAVES * TABLE_ENTRIES,
    COMMITS = 2048,
    WORST = 6
};
#define LEAF_BYTES ((uint64_t)TABLE_ENTRIES * TIDE_PAGE_BYTES)
#define PARTS_BASE (1ull << 30)

enum work { DEMAND_ZERO, DEMAND_ZERO_TABLES, SOFT_STANDBY, SOFT_STANDBY_WRITE, SOFT_MODIFIED, COMMIT, COMMIT_TOUCHED };

/* One line of the table. */
struct row {
    const char *name;
    const char *note;
    enum work work;
    bool in_one_space;
    bool aged; /* the lists are in random order of frame number, as after a long life */
    bool reported_only;
    unsigned threads;
    unsigned shards;
    unsigned nodes;    /* of the topology; 0: one, that all CPUs are on */
    unsigned on[CPUS]; /* the nodes of the two CPUs */
    bool far;          /* the regions prefer the other CPU's node */
};

static const struct row rows[] = {
    { "demand zero", "private", DEMAND_ZERO, .threads = 2, .shards = SHARDS },
    { "demand zero", "one space", DEMAND_ZERO, .in_one_space = true, .threads = 2, .shards = SHARDS },
    { "demand zero", "private", DEMAND_ZERO, .threads = 8, .shards = SHARDS },
    { "demand zero", "one space", DEMAND_ZERO, .in_one_space = true, .threads = 8, .shards = SHARDS },
    { "soft, standby", "private", SOFT_STANDBY, .threads = 2, .shards = SHARDS },
    { "soft, standby", "one space", SOFT_STANDBY, .in_one_space = true, .threads = 2, .shards = SHARDS },
    { "soft, standby", "private", SOFT_STANDBY, .threads = 8, .shards = SHARDS },
    { "soft, standby", "one space", SOFT_STANDBY, .in_one_space = true, .threads = 8, .shards = SHARDS },
    { "soft, modified", "private", SOFT_MODIFIED, .threads = 2, .shards = SHARDS },
    { "soft, modified", "one space", SOFT_MODIFIED, .in_one_space = true, .threads = 2, .shards = SHARDS },
    { "soft, modified", "private", SOFT_MODIFIED, .threads = 8, .shards = SHARDS },
    { "soft, modified", "one space", SOFT_MODIFIED, .in_one_space = true, .threads = 8, .shards = SHARDS },
    { "demand zero, with tables", "one space", DEMAND_ZERO_TABLES, .in_one_space = true, .threads = 2,
      .shards = SHARDS },
    { "demand zero, aged lists", "private", DEMAND_ZERO, .aged = true, .threads = 2, .shards = SHARDS },
    { "demand zero, aged lists", "one space", DEMAND_ZERO, .aged = true, .in_one_space = true, .threads = 2,
      .shards = SHARDS },
    { "demand zero, one shard", "private", DEMAND_ZERO, .threads = 2, .shards = 1 },
    { "soft, standby, one shard", "one space", SOFT_STANDBY, .in_one_space = true, .threads = 2, .shards = 1 },
    { "demand zero, aged, one shard", "private", DEMAND_ZERO, .aged = true, .threads = 2, .shards = 1,
      .reported_only = true },
    { "soft, standby, written", "private", SOFT_STANDBY_WRITE, .threads = 2, .shards = SHARDS, .reported_only = true },
    { "commit, decommit", "private", COMMIT, .threads = 2, .shards = SHARDS },
    { "commit, decommit", "one space", COMMIT, .in_one_space = true, .threads = 2, .shards = SHARDS },
    { "commit, decommit", "private", COMMIT, .threads = 64, .shards = SHARDS },
    { "commit, decommit", "one space", COMMIT, .in_one_space = true, .threads = 64, .shards = SHARDS },
    { "commit, (touch,) decommit", "private", COMMIT_TOUCHED, .threads = 2, .shards = SHARDS, .reported_only = true },
    { "demand zero, 8 nodes", "private", DEMAND_ZERO, .threads = 2, .shards = SHARDS, .nodes = 8, .on = { 0, 7 } },
    { "demand zero, 8 nodes", "one space", DEMAND_ZERO, .in_one_space = true, .threads = 2, .shards = SHARDS,
      .nodes = 8, .on = { 3, 4 } },
    { "demand zero, 8 nodes", "private", DEMAND_ZERO, .threads = 8, .shards = SHARDS, .nodes = 8, .on = { 5, 2 } },
    { "demand zero, tables, 8 nodes", "one space", DEMAND_ZERO_TABLES, .in_one_space = true, .threads = 2,
      .shards = SHARDS, .nodes = 8, .on = { 6, 1 } },
    { "soft, standby, 8 nodes", "private", SOFT_STANDBY, .threads = 2, .shards = SHARDS, .nodes = 8, .on = { 7, 1 } },
    { "soft, standby, 8 nodes", "one space", SOFT_STANDBY, .in_one_space = true, .threads = 2, .shards = SHARDS,
      .nodes = 8, .on = { 2, 6 } },
    { "soft, modified, 8 nodes", "private", SOFT_MODIFIED, .threads = 2, .shards = SHARDS, .nodes = 8, .on = { 4, 5 } },
    { "demand zero, far, 8 nodes", "private", DEMAND_ZERO, .threads = 2, .shards = SHARDS, .nodes = 8, .on = { 0, 3 },
      .far = true, .reported_only = true },
};
enum { ROWS = sizeof rows / sizeof rows[0] };

/* A line that both CPUs wrote. */
struct meeting {
    uintptr_t address;
    uint32_t steps[CPUS];
    const void *writer[CPUS];
};

struct result {
    bool done;
    uint64_t steps;                /* faults or calls, all threads */
    uint64_t refills;              /* of the CPUs' frame caches */
    uint64_t written[PLACE_COUNT]; /* line writes, one for each fault and line */
    uint64_t shared[PLACE_COUNT];  /* of these, shared */
    uint64_t remote[PLACE_COUNT];  /* reads and writes of lines that are another node's, one for each fault and line */
    uintptr_t remote_address;      /* the one accessed most, and by whom */
    uint32_t remote_steps;
    const void *remote_by;
    struct meeting worst[WORST]; /* shared writes, most first */
};

struct run;

struct member {
    struct run *run;
    unsigned index;
    tide_space *space;
    tide_address base; /* of its part */
    struct recorder recorder;
    struct stack_range stack;
    char failure[160];
};

struct run {
    const struct row *row;
    struct result *result;
    tide_engine *engine;
    tide_space *spaces[THREADS_MAX];
    unsigned space_count;
    uint64_t part_pages;
    pthread_barrier_t start;
    struct member members[THREADS_MAX];
    char folder[256], page_file[300];
    char failure[256]; /* the first one; empty if all went well */
};

static struct result results[ROWS];
/* The lowest and the highest that this process may use: far apart in the choice of shards. */
static unsigned cpus[CPUS];

/* Notes the first failure of a run; false, for `return failed(...)`. */
static bool failed(char *failure, size_t bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));
static bool failed(char *failure, size_t bytes, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (failure[0] == '\0')
        vsnprintf(failure, bytes, format, arguments);
    va_end(arguments);
    return false;
}
#define FAILED(of, ...) failed((of)->failure, sizeof(of)->failure, __VA_ARGS__)

static bool call(struct run *run, tide_status status, const char *what)
{
    return !tide_failed(status) ||
           FAILED(run, "%s: %s: %s", what, tide_status_name(status), tide_last_error()->message);
}

/* ---- what the threads do ---------------------------------------------------------------------------------------- */

static bool is_commit(enum work work)
{
    return work == COMMIT || work == COMMIT_TOUCHED;
}

static bool is_soft(enum work work)
{
    return work == SOFT_STANDBY || work == SOFT_STANDBY_WRITE || work == SOFT_MODIFIED;
}

/* Is the fault on this page of a part recorded? The others are taken before, to make tables and to warm up. */
static bool page_is_measured(enum work work, uint64_t page)
{
    return work == DEMAND_ZERO_TABLES ? page >= TABLE_ENTRIES : page % TABLE_ENTRIES != 0;
}

static bool page_is_warm_up(enum work work, uint64_t page)
{
    return work == DEMAND_ZERO_TABLES ? page == 0 : page % TABLE_ENTRIES == 0;
}

static bool member_touch(struct member *member, uint64_t page, tide_access_kind kind, tide_status expected)
{
    const tide_status status = tide_touch(member->space, member->base + page * TIDE_PAGE_BYTES, kind);

    return status == expected || expected == TIDE_SUCCESS ||
           FAILED(member, "touch of page %" PRIu64 ": %s instead of %s", page, tide_status_name(status),
                  tide_status_name(expected));
}

/*
 * Concurrency Kit's part of a call, which is inline assembly: ck_epoch_begin(record, NULL) and ck_epoch_end(record,
 * NULL) write `active` and `epoch` of the record, and nothing else.
 */
static void epoch_note(void)
{
    const struct grace_thread *thread = engine_thread_cache.thread;

    recorder_note(&thread->epoch.active, sizeof thread->epoch.active);
    recorder_note(&thread->epoch.epoch, sizeof thread->epoch.epoch);
}

/* Each page once for the class in question: the frames get owners, the tables come. */
static void prepare_part(struct member *member)
{
    const enum work work = member->run->row->work;

    for (uint64_t page = 0; page < member->run->part_pages; page++)
        if (is_soft(work) || page_is_warm_up(work, page))
            (void)member_touch(member, page, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
}

static void measure_faults(struct member *member)
{
    const enum work work = member->run->row->work;
    const tide_access_kind kind = is_soft(work) && work != SOFT_STANDBY_WRITE ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    const tide_status expected = is_soft(work) ? TIDE_PAGE_FAULT_TRANSITION : TIDE_PAGE_FAULT_DEMAND_ZERO;

    for (uint64_t page = 0; page < member->run->part_pages; page++)
        if (page_is_warm_up(work, page))
            (void)member_touch(member, page, kind, TIDE_SUCCESS);
    pthread_barrier_wait(&member->run->start);
    recorder_set(&member->recorder);
    for (uint64_t page = 0; page < member->run->part_pages; page++) {
        if (!page_is_measured(work, page))
            continue;
        recorder_step(&member->recorder);
        const bool as_expected = member_touch(member, page, kind, expected);
        epoch_note();
        if (!as_expected)
            break;
    }
    recorder_set(NULL);
}

static tide_status page_commit(struct member *member, uint64_t page)
{
    tide_address base = member->base + page * TIDE_PAGE_BYTES;
    uint64_t bytes = TIDE_PAGE_BYTES;

    return tide_virtual_alloc(member->space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
}

static tide_status page_decommit(struct member *member, uint64_t page)
{
    return tide_virtual_free(member->space, member->base + page * TIDE_PAGE_BYTES, TIDE_PAGE_BYTES, TIDE_MEM_DECOMMIT);
}

static void measure_commits(struct member *member)
{
    struct recorder *recorder = &member->recorder;
    const bool touched = member->run->row->work == COMMIT_TOUCHED;
    tide_status status = TIDE_SUCCESS;

    if (tide_failed(page_commit(member, 0)) || tide_failed(page_decommit(member, 0)))
        (void)FAILED(member, "commit of the first page: %s", tide_last_error()->message);
    pthread_barrier_wait(&member->run->start);
    for (uint64_t i = 0; i < COMMITS && !tide_failed(status); i++) {
        const uint64_t page = 1 + i % (TABLE_ENTRIES - 1);

        recorder_set(recorder);
        recorder_step(recorder);
        status = page_commit(member, page);
        epoch_note();
        recorder_set(NULL);
        if (touched && !tide_failed(status))
            (void)member_touch(member, page, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
        recorder_set(recorder);
        recorder_step(recorder);
        if (!tide_failed(status))
            status = page_decommit(member, page);
        epoch_note();
        recorder_set(NULL);
    }
    if (tide_failed(status))
        (void)FAILED(member, "commit or decommit of one page: %s", tide_last_error()->message);
}

static void stack_find(struct member *member)
{
    pthread_attr_t attributes;
    void *memory;
    size_t bytes;

    if (pthread_getattr_np(pthread_self(), &attributes) != 0)
        return;
    if (pthread_attr_getstack(&attributes, &memory, &bytes) == 0)
        member->stack = (struct stack_range){ (uintptr_t)memory, (uintptr_t)memory + bytes };
    pthread_attr_destroy(&attributes);
}

static bool cpu_pin(struct member *member)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpus[member->index % CPUS], &set);
    return pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0 ||
           FAILED(member, "the thread cannot be pinned");
}

static void *prepare_main(void *context)
{
    if (cpu_pin(context))
        prepare_part(context);
    return NULL;
}

static void *measure_main(void *context)
{
    struct member *member = context;

    (void)cpu_pin(member);
    stack_find(member);
    if (is_commit(member->run->row->work))
        measure_commits(member);
    else
        measure_faults(member);
    return NULL;
}

/* Runs a function on all threads at once. The first failure of each becomes the run's. */
static bool crew(struct run *run, void *(*function)(void *context))
{
    pthread_t threads[THREADS_MAX];

    for (unsigned i = 0; i < run->row->threads; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, function, &run->members[i]), 0);
    for (unsigned i = 0; i < run->row->threads; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < run->row->threads; i++)
        if (run->members[i].failure[0] != '\0')
            (void)FAILED(run, "thread %u: %s", i, run->members[i].failure);
    return run->failure[0] == '\0';
}

/* ---- one run ---------------------------------------------------------------------------------------------------- */

/* Touches nearly all frames in random order of address and gives them back in order of address. */
static bool lists_age(struct run *run)
{
    const uint64_t pages = FRAMES_AGED - FRAMES_AGED / 32;
    uint32_t *order = calloc(pages, sizeof *order);
    tide_space *space = NULL;
    tide_address base = 0;
    uint64_t bytes = pages * TIDE_PAGE_BYTES, random = 1;
    bool well =
        order != NULL && call(run, tide_space_create(run->engine, &space), "space") &&
        call(run, tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
             "reserve");

    for (uint64_t i = 0; i < pages && well; i++) {
        const uint64_t at = random_below(&random, i + 1);

        order[i] = order[at];
        order[at] = (uint32_t)i;
    }
    for (uint64_t i = 0; i < pages && well; i++)
        well = call(run, tide_touch(space, base + order[i] * (uint64_t)TIDE_PAGE_BYTES, TIDE_ACCESS_WRITE), "touch");
    if (space != NULL)
        well = call(run, tide_space_destroy(space), "destroy") && well;
    free(order);
    return well && call(run, tide_engine_empty(run->engine, TIDE_EMPTY_FREE), "zero all");
}

static bool run_open(struct run *run)
{
    const struct row *row = run->row;
    const char *temporary = getenv("TMPDIR");
    const tide_page_file_config file = { .path = run->page_file, .minimum_bytes = (uint64_t)SLOTS * TIDE_PAGE_BYTES };
    tide_config config;

    snprintf(run->folder, sizeof run->folder, "%s/tide-test-XXXXXX",
             temporary != NULL && temporary[0] != '\0' ? temporary : ".");
    if (mkdtemp(run->folder) == NULL)
        return FAILED(run, "no folder %s can be made", run->folder);
    snprintf(run->page_file, sizeof run->page_file, "%s/pages", run->folder);
    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = (uint64_t)(row->aged ? FRAMES_AGED : FRAMES) * TIDE_PAGE_BYTES;
    /* One node with all CPUs, whatever machine this is, or so many. */
    config.topology_synthetic = row->nodes == 8 ? "numa:8 core:2 pu:1" : "numa:1 core:2 pu:1";
    config.workers = TIDE_WORKERS_MANUAL;
    config.list_shards = row->shards;
    config.cpu_cache_pages = BATCH;
    if (is_soft(row->work)) {
        config.page_files = &file;
        config.page_file_count = 1;
    }
    if (!call(run, tide_engine_open(&config, &run->engine), "open"))
        return false;
    for (unsigned c = 0; c < CPUS && row->nodes != 0; c++)
        run->engine->partition.topology->cpu_node[cpus[c]] = (uint16_t)row->on[c];
    return !row->aged || lists_age(run);
}

/*
 * Spaces and the threads' parts: one region for each space, that all its threads' parts lie in. To commit, each thread
 * has a region of its own, since a region has a lock.
 */
static bool run_reserve(struct run *run)
{
    const struct row *row = run->row;
    const uint32_t type = TIDE_MEM_RESERVE | (is_commit(row->work) ? 0 : TIDE_MEM_COMMIT);

    run->space_count = row->in_one_space ? 1 : row->threads;
    run->part_pages = is_commit(row->work) ? TABLE_ENTRIES : LEAVES / row->threads * (uint64_t)TABLE_ENTRIES;
    for (unsigned i = 0; i < run->space_count; i++)
        if (!call(run, tide_space_create(run->engine, &run->spaces[i]), "space"))
            return false;
    const uint64_t parts = is_commit(row->work) ? 1 : row->threads / run->space_count; /* in a region */
    for (unsigned i = 0; i < row->threads; i += (unsigned)parts) {
        uint64_t bytes = run->part_pages * TIDE_PAGE_BYTES * parts;
        tide_address base = PARTS_BASE + (row->in_one_space ? i * run->part_pages * TIDE_PAGE_BYTES : 0);

        if (!call(run,
                  tide_virtual_alloc_numa(run->spaces[row->in_one_space ? 0 : i], &base, &bytes, type,
                                          TIDE_PAGE_READWRITE,
                                          row->far ? row->on[(i + 1) % CPUS] : TIDE_NO_PREFERRED_NODE),
                  "reserve"))
            return false;
    }
    for (unsigned i = 0; i < row->threads; i++) {
        struct member *member = &run->members[i];

        member->run = run;
        member->index = i;
        member->space = run->spaces[row->in_one_space ? 0 : i];
        member->base = PARTS_BASE + (row->in_one_space ? i * run->part_pages * TIDE_PAGE_BYTES : 0);
        if (!recorder_init(&member->recorder, is_commit(row->work) ? 1u << 16 : 1u << 18))
            return FAILED(run, "no memory for a recorder");
        member->recorder.reads = row->nodes != 0;
    }
    return true;
}

static bool statistics(struct run *run, tide_statistics *statistics)
{
    statistics->struct_bytes = sizeof *statistics;
    return call(run, tide_statistics_get(run->engine, statistics), "statistics");
}

/* Brings pages and lists into the state from which the row's faults are taken. */
static bool run_prepare(struct run *run)
{
    const struct row *row = run->row;
    uint64_t ready = 0;

    if (!is_commit(row->work) && !crew(run, prepare_main))
        return false;
    if (!is_soft(row->work))
        return true;
    if (!call(run, tide_engine_empty(run->engine, TIDE_EMPTY_WORKING_SETS), "empty working sets"))
        return false;
    if (row->work != SOFT_MODIFIED && !call(run, tide_engine_empty(run->engine, TIDE_EMPTY_MODIFIED), "write"))
        return false;
    for (unsigned n = 0; n < run->engine->partition.topology->node_count; n++) {
        tide_node_statistics node;

        if (!call(run, tide_node_statistics_get(run->engine, n, &node), "statistics"))
            return false;
        ready += row->work == SOFT_MODIFIED ? node.modified : node.standby[5];
    }
    return ready == LEAVES * TABLE_ENTRIES ||
           FAILED(run, "%" PRIu64 " pages are on the list, not %d", ready, LEAVES * TABLE_ENTRIES);
}

/*
 * What a fault must find on its own node. Not its page tables: a space's upper ones lie where it was made, and a space
 * of two threads has both threads' parts in one.
 */
static bool place_has_home(enum place place)
{
    return place == PLACE_PFN || place == PLACE_SHARD || place == PLACE_MARKS || place == PLACE_CPU ||
           place == PLACE_COUNTERS || place == PLACE_CREDIT || place == PLACE_GLOBAL || place == PLACE_PAGE;
}

/* ---- the sums --------------------------------------------------------------------------------------------------- */

static uint32_t shared_steps(const struct meeting *meeting)
{
    return meeting->steps[0] < meeting->steps[1] ? meeting->steps[0] : meeting->steps[1];
}

static void worst_keep(struct result *result, const struct meeting *meeting)
{
    struct meeting next = *meeting;

    for (unsigned i = 0; i < WORST; i++) {
        if (shared_steps(&next) > shared_steps(&result->worst[i])) {
            const struct meeting moved = result->worst[i];
            result->worst[i] = next;
            next = moved;
        }
    }
}

/* The lines of all threads in one table, by address and CPU. */
static struct meeting *meetings_join(const struct run *run, uint32_t *capacity)
{
    uint64_t used = 0;

    for (unsigned i = 0; i < run->row->threads; i++)
        used += run->members[i].recorder.used;
    for (*capacity = 64; *capacity < 2 * used;)
        *capacity *= 2;
    struct meeting *table = calloc(*capacity, sizeof *table);
    for (unsigned i = 0; i < run->row->threads && table != NULL; i++) {
        const struct recorder *recorder = &run->members[i].recorder;

        for (uint32_t j = 0; j < recorder->capacity; j++) {
            const struct recorded_line *line = &recorder->lines[j];
            uint64_t slot = random_mix(line->address);

            if (line->address == 0 || line->steps == 0)
                continue;
            while (table[slot % *capacity].address != 0 && table[slot % *capacity].address != line->address)
                slot++;
            struct meeting *meeting = &table[slot % *capacity];
            meeting->address = line->address;
            meeting->steps[i % CPUS] += line->steps;
            meeting->writer[i % CPUS] = line->writer;
        }
    }
    return table;
}

/* What a thread read and wrote that is another node's. */
static void remote_sum(struct result *result, const struct places *places, const struct recorder *recorder, int node)
{
    for (uint32_t j = 0; j < recorder->capacity; j++) {
        const struct recorded_line *line = &recorder->lines[j];
        const int owner = line->address == 0 ? PLACE_NO_NODE : place_node(places, line->address);
        const enum place place = owner == PLACE_NO_NODE ? PLACE_OTHER : place_of(places, line->address);
        const uint32_t steps = line->steps > line->read_steps ? line->steps : line->read_steps;

        if (owner == PLACE_NO_NODE || owner == node)
            continue;
        result->remote[place] += steps;
        if (steps > result->remote_steps && place_has_home(place)) {
            result->remote_address = line->address;
            result->remote_steps = steps;
            result->remote_by = line->steps > line->read_steps ? line->writer : line->reader;
        }
    }
}

static bool run_sum(struct run *run, struct places *places)
{
    struct result *result = run->result;
    uint32_t capacity;

    for (unsigned i = 0; i < run->row->threads; i++) {
        result->steps += run->members[i].recorder.step;
        if (run->members[i].recorder.full)
            return FAILED(run, "thread %u wrote more than %u lines", i, run->members[i].recorder.capacity / 2);
        if (run->row->nodes != 0)
            remote_sum(result, places, &run->members[i].recorder, (int)run->row->on[i % CPUS]);
    }
    struct meeting *table = meetings_join(run, &capacity);
    if (table == NULL)
        return FAILED(run, "no memory for the sums");
    for (uint32_t i = 0; i < capacity; i++) {
        if (table[i].address == 0)
            continue;
        const enum place place = place_of(places, table[i].address);
        result->written[place] += table[i].steps[0] + table[i].steps[1];
        result->shared[place] += shared_steps(&table[i]);
        worst_keep(result, &table[i]);
    }
    free(table);
    return true;
}

/* Name of the function around a return address; binutils knows also those that are not exported. */
static void function_name(const void *address, char *text, size_t bytes)
{
    char command[128], line[128] = "";
    Dl_info info;

    snprintf(text, bytes, "%p", address);
    if (address == NULL || dladdr(address, &info) == 0)
        return;
    snprintf(command, sizeof command, "addr2line -f -e /proc/%d/exe 0x%" PRIxPTR " 2>/dev/null", (int)getpid(),
             (uintptr_t)address - 1 - (uintptr_t)info.dli_fbase);
    FILE *pipe = popen(command, "r");
    if (pipe == NULL)
        return;
    if (fgets(line, sizeof line, pipe) != NULL && line[0] != '?')
        snprintf(text, bytes, "%.*s()", (int)strcspn(line, "\n"), line);
    pclose(pipe);
}

static void worst_print(const struct row *row, const struct result *result, const struct places *places)
{
    if (shared_steps(&result->worst[0]) == 0)
        return;
    fprintf(stderr, "  %s, %s, %u threads: the lines shared most\n", row->name, row->note, row->threads);
    for (unsigned i = 0; i < WORST && shared_steps(&result->worst[i]) != 0; i++) {
        const struct meeting *meeting = &result->worst[i];
        char what[128], writers[CPUS][96];

        place_describe(places, meeting->address, what, sizeof what);
        for (unsigned c = 0; c < CPUS; c++)
            function_name(meeting->writer[c], writers[c], sizeof writers[c]);
        fprintf(stderr, "    %s: written by %u faults on one CPU, last in %s, and %u on the other, last in %s\n", what,
                meeting->steps[0], writers[0], meeting->steps[1], writers[1]);
    }
}

/* ---- the judgement ---------------------------------------------------------------------------------------------- */

/* Shared writes of a structure's lines that the rule allows to the faults of one CPU. */
static uint64_t allowed(const struct row *row, enum place place, uint64_t faults)
{
    const uint64_t tables = row->work == DEMAND_ZERO_TABLES ? faults / TABLE_ENTRIES : 0;
    const uint64_t refills = (faults + tables) / BATCH + 1;
    const bool meet = row->shards == 1; /* on the list: two CPUs have no other */

    if (row->reported_only)
        return UINT64_MAX;
    if (is_commit(row->work))
        return 0;
    switch (place) {
    case PLACE_SHARD:
        return is_soft(row->work) && meet ? faults : refills;
    case PLACE_MARKS:
        return is_soft(row->work) ? 0 : refills; /* of refills that empty a shard */
    case PLACE_PFN:
        return 2 * (is_soft(row->work) && meet ? faults : refills);
    case PLACE_TABLE:
    case PLACE_SPACE:
        return tables;
    default:
        return 0;
    }
}

/* Does the instrument see what is known to be written? */
static bool result_is_plausible(struct run *run)
{
    static const enum place always[] = { PLACE_PFN, PLACE_PTE, PLACE_COUNTERS, PLACE_THREAD };
    const struct result *result = run->result;
    const uint64_t faults = result->steps / CPUS;

    for (unsigned i = 0; i < sizeof always / sizeof always[0] && !is_commit(run->row->work); i++)
        if (result->written[always[i]] < result->steps)
            return FAILED(
                run, "of %" PRIu64 " faults %" PRIu64 " were seen to write a line of \"%s\": the recorder is blind",
                result->steps, result->written[always[i]], place_name(always[i]));
    if (run->row->shards == 1 && result->shared[PLACE_SHARD] < faults / BATCH / 2)
        return FAILED(run, "%" PRIu64 " meetings on the only shard, after %" PRIu64 " faults: the recorder is blind",
                      result->shared[PLACE_SHARD], faults);
    if (run->row->far && result->remote[PLACE_PFN] < result->steps)
        return FAILED(run,
                      "%" PRIu64 " accesses to PFN records of another node in %" PRIu64
                      " faults that take all their frames there: the recorder is blind",
                      result->remote[PLACE_PFN], result->steps);
    return true;
}

static bool result_is_allowed(struct run *run, const struct places *places)
{
    const struct result *result = run->result;
    const uint64_t faults = result->steps / CPUS;

    for (unsigned p = 0; p < PLACE_COUNT && run->row->nodes != 0 && !run->row->reported_only; p++) {
        char what[128], by[96];

        if (result->remote[p] == 0 || !place_has_home((enum place)p))
            continue;
        place_describe(places, result->remote_address, what, sizeof what);
        function_name(result->remote_by, by, sizeof by);
        return FAILED(run,
                      "lines of \"%s\" of another node were accessed %" PRIu64 " times in %" PRIu64
                      " faults, and none is allowed; most often, %u times: %s, last by %s",
                      place_name((enum place)p), result->remote[p], result->steps, result->remote_steps, what, by);
    }
    for (unsigned p = 0; p < PLACE_COUNT; p++) {
        const uint64_t limit = allowed(run->row, p, faults);
        if (result->shared[p] > limit)
            return FAILED(run,
                          "lines of \"%s\" were written by both CPUs %" PRIu64 " times in %" PRIu64
                          " faults each; %" PRIu64 " are allowed",
                          place_name(p), result->shared[p], faults, limit);
    }
    return true;
}

static uint64_t refill_count(const struct run *run)
{
    const struct frames *frames = run->engine->partition.frames;
    uint64_t count = 0;

    for (unsigned c = 0; c < frames->cpu_count; c++)
        for (unsigned i = 0; i < FRAMES_CACHES_PER_CPU; i++)
            count += frames->cpus[c].caches[i].refills;
    return count;
}

static bool run_measure(struct run *run)
{
    const uint64_t steps_at_most = (uint64_t)LEAVES * TABLE_ENTRIES;
    const uint64_t refills = refill_count(run);
    struct stack_range stacks[THREADS_MAX];
    struct places places;
    tide_statistics before, after;

    if (!statistics(run, &before) || !crew(run, measure_main) || !statistics(run, &after))
        return false;
    run->result->refills = refill_count(run) - refills;
    for (unsigned i = 0; i < run->row->threads; i++)
        stacks[i] = run->members[i].stack;
    if (!places_init(&places, run->engine, run->spaces, run->space_count, stacks, run->row->threads))
        return FAILED(run, "no memory for the map of places");
    bool well = run_sum(run, &places);
    const uint64_t standby = after.faults.transition_standby - before.faults.transition_standby;
    const uint64_t modified = after.faults.transition_modified - before.faults.transition_modified;
    if (well && is_soft(run->row->work) && (run->row->work == SOFT_MODIFIED ? modified : standby) != steps_at_most)
        well = FAILED(run, "%" PRIu64 " soft faults from standby and %" PRIu64 " from modified", standby, modified);
    if (well && !is_soft(run->row->work) && !is_commit(run->row->work) && run->row->threads == CPUS &&
        run->result->refills > steps_at_most / BATCH + 2 * CPUS)
        well = FAILED(run, "%" PRIu64 " refills in %" PRIu64 " faults: more than one in %d", run->result->refills,
                      run->result->steps, BATCH);
    well = well && result_is_plausible(run) && result_is_allowed(run, &places);
    run->result->done = true;
    if (!well || run->row->reported_only)
        worst_print(run->row, run->result, &places);
    places_destroy(&places);
    return well;
}

static void run_close(struct run *run)
{
    for (unsigned i = 0; i < run->row->threads; i++)
        recorder_destroy(&run->members[i].recorder);
    for (unsigned i = 0; i < run->space_count; i++)
        if (run->spaces[i] != NULL)
            (void)call(run, tide_space_destroy(run->spaces[i]), "destroy");
    if (run->engine != NULL)
        (void)call(run, tide_engine_close(run->engine), "close");
    (void)rmdir(run->folder);
}

/* ---- cmocka ----------------------------------------------------------------------------------------------------- */

static void row_test(void **state)
{
    const struct row *row = *state;
    struct run *run = calloc(1, sizeof *run);
    char failure[sizeof run->failure];

    if (cpus[0] == cpus[1]) {
        free(run);
        fprintf(stderr, "  this needs two CPUs\n");
        skip();
    }
    assert_non_null(run);
    run->row = row;
    run->result = &results[row - rows];
    assert_int_equal(pthread_barrier_init(&run->start, NULL, row->threads), 0);
    if (run_open(run) && run_reserve(run) && run_prepare(run))
        (void)run_measure(run);
    run_close(run);
    pthread_barrier_destroy(&run->start);
    memcpy(failure, run->failure, sizeof failure);
    free(run);
    if (failure[0] != '\0')
        fail_msg("%s, %s, %u threads: %s", row->name, row->note, row->threads, failure);
}

/* Thread records must not share lines, or the note of Concurrency Kit's writes in the record would prove nothing. */
static void thread_records_have_their_own_lines(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct grace_thread) % LINE_BYTES, 0);
    assert_int_equal(_Alignof(struct grace_thread) % LINE_BYTES, 0);
    assert_true(offsetof(struct grace_thread, epoch) + sizeof(ck_epoch_record_t) <= sizeof(struct grace_thread));
}

static int cpus_find(void **state)
{
    cpu_set_t set;

    (void)state;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return -1;
    cpus[0] = CPU_SETSIZE;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &set))
            continue;
        cpus[0] = cpu < cpus[0] ? cpu : cpus[0];
        cpus[1] = cpu;
    }
    return 0;
}

/* Was a line of this structure written in any row? The table has no column for the others. */
static bool place_is_shown(enum place place)
{
    for (unsigned r = 0; r < ROWS; r++)
        if (results[r].written[place] != 0)
            return true;
    return false;
}

static void figures_print(const char *text, const uint64_t *figures, double by, int digits)
{
    double sum = 0;

    for (unsigned p = 0; p < PLACE_COUNT; p++)
        sum += p == PLACE_STACK ? 0 : (double)figures[p] / by;
    printf("  %-20s %7.*f", text, digits, sum);
    for (unsigned p = 0; p < PLACE_COUNT; p++)
        if (place_is_shown(p) && figures[p] == 0)
            printf("%8s", "-");
        else if (place_is_shown(p))
            printf("%8.*f", digits, (double)figures[p] / by);
    printf("\n");
}

static int table_print(void **state)
{
    (void)state;
    printf("\nCache lines written, by structure; the sum is without the threads' own stacks.\n"
           "  written: lines in one fault or call. shared: of the lines written in 1000 faults on one CPU, those that "
           "the\n"
           "  other CPU's faults write as often. other node's: lines of another node read or written in 1000 faults.\n"
           "%-22s %7s",
           "", "sum");
    for (unsigned p = 0; p < PLACE_COUNT; p++)
        if (place_is_shown(p))
            printf("%8s", place_name(p));
    printf("\n");
    for (unsigned r = 0; r < ROWS; r++) {
        const struct result *result = &results[r];

        if (!result->done)
            continue;
        printf("%s, %s, %u threads: %" PRIu64 " %s on each CPU, %.1f refills in 1000%s\n", rows[r].name, rows[r].note,
               rows[r].threads, result->steps / CPUS, is_commit(rows[r].work) ? "calls" : "faults",
               1000.0 * (double)result->refills / (double)result->steps, rows[r].reported_only ? ", not judged" : "");
        figures_print("written", result->written, (double)result->steps, 2);
        figures_print("shared", result->shared, (double)result->steps / CPUS / 1000, 1);
        if (rows[r].nodes != 0)
            figures_print("other node's", result->remote, (double)result->steps / 1000, 1);
    }
    return 0;
}

int main(void)
{
    struct CMUnitTest tests[ROWS + 1] = { cmocka_unit_test(thread_records_have_their_own_lines) };
    static char names[ROWS][96];

    for (unsigned r = 0; r < ROWS; r++) {
        snprintf(names[r], sizeof names[r], "%s, %s, %u threads", rows[r].name, rows[r].note, rows[r].threads);
        tests[r + 1] = (struct CMUnitTest){ .name = names[r],
                                            .test_func = row_test,
                                            .initial_state = (void *)(uintptr_t)&rows[r] };
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    return cmocka_run_group_tests_name("lines", tests, cpus_find, table_print) != 0;
}

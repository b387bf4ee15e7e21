/*
 * NUMA on real nodes, judged by the kernel's word (host.h) and not by the engine's. Runs in the guest (guest.sh), or on
 * any machine that has two nodes or more and nothing better to do: it fills nodes.
 *
 * How. Each test opens an engine with an eighth of every node's memory. Threads bind themselves to one CPU, touch
 * pages, and ask the kernel on which node the memory behind each page lies. Node numbers are the kernel's in `host` and
 * wherever a name begins with os_; all others are the engine's logical indexes.
 *
 * A check for one more policy is one more function: touch_on() and spread_count() say where pages came to lie.
 *
 * usage: numa-guest [--faults N] [--local PERCENT]
 *   N: mixed faults of the last test [30000]; PERCENT: of them, and of the pages they leave, must be local [0]
 * TIDE_TEST_FILTER in the environment: only tests whose name matches.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "host.h"

#include "engine/engine_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PG = TIDE_PAGE_BYTES, REGION_PAGES = 1000, THREADS_MAX = 256, SHARE = 8 };

static struct host host;
static uint64_t mixed_faults = 30000, local_percent = 0;

/* ---- the engine ------------------------------------------------------------------------------------------------- */

struct fixture {
    uint64_t budget[TIDE_MAX_NODES]; /* bytes by logical node */
    tide_page_file_config file;
    char path[64];
    tide_config config;
    tide_engine *engine;
    const struct topology *topology;
    const struct frames *frames;
};

static void assert_status_is(tide_status got, tide_status expected, const char *call, int line)
{
    if (got != expected)
        fail_msg("line %d: %s: %s (%s) instead of %s", line, call, tide_status_name(got), tide_last_error()->message,
                 tide_status_name(expected));
}
#define assert_success(call) assert_status_is((call), TIDE_SUCCESS, #call, __LINE__)

/* The logical node of the kernel's, by the topology alone. */
static unsigned node_of_os(const struct topology *topology, unsigned os_node)
{
    for (unsigned n = 0; n < topology->node_count; n++)
        if (topology->nodes[n].os_index == os_node)
            return n;
    fail_msg("the engine does not know node %u", os_node);
    return 0;
}

static unsigned os_node_of(const struct fixture *fixture, unsigned node)
{
    return fixture->topology->nodes[node].os_index;
}

/* The node whose memory a thread on this CPU should get: its own, or the nearest that has some. */
static unsigned os_node_of_cpu(unsigned cpu)
{
    const int own = host_node_of_cpu(&host, cpu);

    if (own < 0)
        fail_msg("CPU %u is on no node", cpu);
    return host_nearest_with_memory(&host, (unsigned)own);
}

/* The first CPU of a node, -1 if it has none. */
static int cpu_of_os_node(unsigned os_node)
{
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &host.nodes[os_node].cpus))
            return (int)cpu;
    return -1;
}

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct topology *topology;

    if (fixture == NULL || tide_failed(topology_create(NULL, NULL, &topology)))
        return -1;
    tide_config_init(&fixture->config);
    for (unsigned n = 0; n < topology->node_count; n++)
        fixture->budget[n] = host.nodes[topology->nodes[n].os_index].memory_bytes / SHARE / PG * PG;
    fixture->config.node_bytes = fixture->budget;
    fixture->config.node_count = topology->node_count;
    topology_destroy(topology);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;

    if (fixture->engine != NULL && tide_failed(tide_engine_close(fixture->engine)))
        fprintf(stderr, "close: %s\n", tide_last_error()->message);
    unlink(fixture->path);
    free(fixture);
    return 0;
}

static void page_file_add(struct fixture *fixture, uint64_t pages)
{
    snprintf(fixture->path, sizeof fixture->path, "/tmp/numa-guest-%d.pagefile", (int)getpid());
    fixture->file = (tide_page_file_config){ .path = fixture->path, .minimum_bytes = (pages + 1) * PG };
    fixture->config.page_files = &fixture->file;
    fixture->config.page_file_count = 1;
}

static void engine_open(struct fixture *fixture)
{
    assert_success(tide_engine_open(&fixture->config, &fixture->engine));
    fixture->topology = fixture->engine->partition.topology;
    fixture->frames = fixture->engine->partition.frames;
}

static tide_statistics statistics_now(const struct fixture *fixture)
{
    tide_statistics statistics = { .struct_bytes = sizeof statistics };

    assert_success(tide_statistics_get(fixture->engine, &statistics));
    return statistics;
}

static void verify(const struct fixture *fixture)
{
    tide_verify_report report = { 0 };

    if (tide_engine_verify(fixture->engine, &report) != TIDE_SUCCESS)
        fail_msg("tide_engine_verify: %s", tide_last_error()->message);
}

/* ---- threads and pages ------------------------------------------------------------------------------------------ */

/* cmocka's asserts work on the main thread only: a thread notes its first failure, which is asserted after the join. */
struct job {
    const struct fixture *fixture;
    unsigned cpu; /* that it runs on */
    tide_space *space;
    tide_address base;
    uint64_t pages;
    int *os_nodes;    /* out, unless NULL: where each page lies */
    tide_status want; /* what each touch must return; TIDE_SUCCESS: anything that is no error */
    unsigned index;   /* of several */
    uint64_t tables;  /* out: leaf tables that lie elsewhere */
    pthread_t thread;
    char failure[400];
};

static bool job_failed(struct job *job, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool job_failed(struct job *job, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (job->failure[0] == '\0')
        vsnprintf(job->failure, sizeof job->failure, format, arguments);
    va_end(arguments);
    return false;
}

static void jobs_run(struct job *jobs, unsigned count, void *(*function)(void *job))
{
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_create(&jobs[i].thread, NULL, function, &jobs[i]), 0);
    for (unsigned i = 0; i < count; i++)
        pthread_join(jobs[i].thread, NULL);
    for (unsigned i = 0; i < count; i++)
        if (jobs[i].failure[0] != '\0')
            fail_msg("thread %u on CPU %u: %s", i, jobs[i].cpu, jobs[i].failure);
}

/* Where the page lies now, by the kernel. It is touched for that, if it is not valid. */
static bool page_os_node(struct job *job, tide_address address, int *os_node)
{
    tide_access access;

    if (tide_failed(tide_access_begin(job->space, &access)))
        return job_failed(job, "access section: %s", tide_last_error()->message);
    const void *pointer = tide_access_pointer(&access, address, TIDE_ACCESS_READ);
    *os_node = pointer == NULL ? -EFAULT : host_page_node(pointer);
    tide_access_end(&access);
    return pointer != NULL || job_failed(job, "pointer: %s", tide_last_error()->message);
}

static void *touch_main(void *context)
{
    struct job *job = context;

    if (!host_run_on_cpu(job->cpu)) {
        (void)job_failed(job, "cannot run there: %s", strerror(errno));
        return NULL;
    }
    for (uint64_t i = 0; i < job->pages; i++) {
        const tide_status status = tide_touch(job->space, job->base + i * PG, TIDE_ACCESS_WRITE);

        if (tide_failed(status) || (job->want != TIDE_SUCCESS && status != job->want)) {
            (void)job_failed(job, "touch of page %" PRIu64 " of %" PRIu64 ": %s, %s", i, job->pages,
                             tide_status_name(status), tide_failed(status) ? tide_last_error()->message : "no error");
            return NULL;
        }
        if (job->os_nodes != NULL && !page_os_node(job, job->base + i * PG, &job->os_nodes[i]))
            return NULL;
    }
    return NULL;
}

static tide_space *space_new(const struct fixture *fixture)
{
    tide_space *space = NULL;

    assert_success(tide_space_create(fixture->engine, &space));
    return space;
}

/* Reserved and committed, with a node as preference or TIDE_NO_PREFERRED_NODE. */
static tide_address region_new(tide_space *space, uint64_t pages, uint32_t node)
{
    tide_address base = 0;
    uint64_t bytes = pages * PG;

    assert_success(
        tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, node));
    return base;
}

/* Touches a region on a CPU. os_nodes[i]: where page i came to lie. */
static void touch_on(const struct fixture *fixture, int cpu, tide_space *space, tide_address base, uint64_t pages,
                     tide_status want, int *os_nodes)
{
    struct job job = { .fixture = fixture,
                       .cpu = (unsigned)cpu,
                       .space = space,
                       .base = base,
                       .pages = pages,
                       .want = want,
                       .os_nodes = os_nodes };

    jobs_run(&job, 1, touch_main);
}

/* How many of the pages lie on the node. */
static uint64_t spread_count(const int *os_nodes, uint64_t pages, unsigned os_node)
{
    uint64_t count = 0;

    for (uint64_t i = 0; i < pages; i++)
        count += os_nodes[i] == (int)os_node;
    return count;
}

static void assert_all_on(const int *os_nodes, uint64_t pages, unsigned os_node, const char *what)
{
    const uint64_t there = spread_count(os_nodes, pages, os_node);

    if (there != pages)
        fail_msg("%s: %" PRIu64 " of %" PRIu64 " pages are on node %u; the first is on %d", what, there, pages, os_node,
                 os_nodes[0]);
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

static void nodes_cpus_and_distances_are_the_kernels(void **state)
{
    struct fixture *fixture = *state;

    engine_open(fixture);
    const struct topology *topology = fixture->topology;
    assert_int_equal(topology->node_count, host.node_count);
    for (unsigned n = 0; n < topology->node_count; n++) {
        const struct topology_node *node = &topology->nodes[n];
        const struct host_node *kernels = &host.nodes[node->os_index];

        assert_true(kernels->present);
        assert_int_equal(node->cpu_count, kernels->cpu_count);
        for (unsigned to = 0; to < topology->node_count; to++)
            assert_int_equal(node->distance[to], kernels->distance[topology->nodes[to].os_index]);
        assert_int_equal(node->order[0], n);
        for (unsigned i = 2; i < topology->node_count; i++)
            assert_true(node->distance[node->order[i - 1]] <= node->distance[node->order[i]]);
        printf("  node %u: %u CPUs, %" PRIu64 " MiB, %u frames, nearest first:", node->os_index, kernels->cpu_count,
               kernels->memory_bytes >> 20, fixture->frames->nodes[n].count);
        for (unsigned i = 0; i < topology->node_count; i++)
            printf(" %u", topology->nodes[node->order[i]].os_index);
        printf("\n");
    }
    for (unsigned cpu = 0; cpu < topology->cpu_count; cpu++)
        if (host_node_of_cpu(&host, cpu) >= 0)
            assert_int_equal(topology->nodes[topology->cpu_node[cpu]].os_index, os_node_of_cpu(cpu));
}

/* ---- placement of the engine's own memory ----------------------------------------------------------------------- */

static size_t tally_assert(const void *memory, size_t bytes, unsigned os_node, bool touched, const char *what)
{
    struct host_tally tally = { 0 };

    assert_true(host_range_tally(memory, bytes, os_node, &tally));
    if (tally.elsewhere != 0)
        fail_msg("%s of node %u: %zu of %zu pages are not there; the first lies on %d (%d: nowhere, and not bound)",
                 what, os_node, tally.elsewhere, tally.elsewhere + tally.there + tally.untouched, tally.first_node,
                 PLACE_NONE);
    if (touched && tally.untouched != 0)
        fail_msg("%s of node %u: %zu pages are bound and not there yet", what, os_node, tally.untouched);
    return tally.there;
}

static void frames_lie_on_their_node(const struct fixture *fixture)
{
    const struct frames *frames = fixture->frames;

    for (unsigned n = 0; n < frames->node_count; n++) {
        const frame_t first = { frames->nodes[n].first };
        const size_t count = frames->nodes[n].count;

        assert_int_equal(count, fixture->budget[n] / PG);
        if (count != 0)
            assert_int_equal(
                tally_assert(frame_memory(frames, first), count * PG, os_node_of(fixture, n), true, "frames"), count);
    }
}

static void records_lie_on_their_node(const struct fixture *fixture)
{
    const struct frames *frames = fixture->frames;

    for (unsigned n = 0; n < frames->node_count; n++) {
        const frame_t first = { frames->nodes[n].first };

        if (frames->nodes[n].count != 0)
            (void)tally_assert(frame_pfn(frames, first), frames->nodes[n].count * sizeof(struct pfn),
                               os_node_of(fixture, n), true, "PFN records");
    }
}

static void lists_lie_on_their_node(const struct fixture *fixture)
{
    const struct frames *frames = fixture->frames;

    for (unsigned n = 0; n < frames->node_count; n++) {
        const unsigned os_node = host_nearest_with_memory(&host, os_node_of(fixture, n));

        for (unsigned list = 0; list < FRAME_LIST_COUNT; list++)
            (void)tally_assert(frames->nodes[n].lists[list], (frames->shard_mask + 1) * sizeof(struct frame_shard),
                               os_node, true, "page lists");
        (void)tally_assert(&frames->nodes[n], sizeof frames->nodes[n], os_node, true, "thresholds, bells and counters");
    }
}

static void caches_lie_on_their_node(const struct fixture *fixture)
{
    const struct frames *frames = fixture->frames;

    for (unsigned cpu = 0; cpu < frames->cpu_count; cpu++)
        if (host_node_of_cpu(&host, cpu) >= 0)
            (void)tally_assert(&frames->cpus[cpu], sizeof frames->cpus[cpu], os_node_of_cpu(cpu), false,
                               "frame caches of a CPU");
}

static void all_lies_on_its_node(const struct fixture *fixture)
{
    frames_lie_on_their_node(fixture);
    records_lie_on_their_node(fixture);
    lists_lie_on_their_node(fixture);
    caches_lie_on_their_node(fixture);
}

static void frames_records_lists_and_caches_lie_on_their_node(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.list_shards = 64; /* several pages of them for each node */
    engine_open(fixture);
    all_lies_on_its_node(fixture);
}

/* ---- workers ---------------------------------------------------------------------------------------------------- */

static void cpus_text(const cpu_set_t *cpus, char *text, size_t bytes)
{
    size_t at = 0;

    text[0] = '\0';
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && at + 8 < bytes; cpu++)
        if (CPU_ISSET(cpu, cpus))
            at += (size_t)snprintf(text + at, bytes - at, " %u", cpu);
}

static void workers_run_on_their_nodes_cpus_or_the_nearest(void **state)
{
    static const char *const names[] = { "zero", "writer", "trimmer", "idle" };
    struct fixture *fixture = *state;

    page_file_add(fixture, 1024);
    engine_open(fixture);
    for (unsigned n = 0; n < fixture->topology->node_count; n++) {
        const unsigned os_node = os_node_of(fixture, n);
        const struct host_node *nearest = &host.nodes[host_nearest_with_cpus(&host, os_node)];

        for (unsigned k = 0; k < sizeof names / sizeof names[0]; k++) {
            char name[32], got[128], wanted[128];
            cpu_set_t cpus, both;
            int tid = 0;

            snprintf(name, sizeof name, "tide-%s-%u", names[k], n);
            if (fixture->frames->nodes[n].count == 0) {
                assert_int_equal(host_thread_find(name), 0);
                continue;
            }
            /* A thread names and binds itself when it begins. */
            for (unsigned i = 0;
                 i < 1000 && (tid == 0 || !host_thread_cpus(tid, &cpus) || CPU_COUNT(&cpus) > (int)nearest->cpu_count);
                 i++) {
                usleep(10000);
                tid = host_thread_find(name);
            }
            if (tid == 0)
                fail_msg("there is no thread %s", name);
            assert_true(host_thread_cpus(tid, &cpus));
            CPU_AND(&both, &cpus, &nearest->cpus);
            cpus_text(&cpus, got, sizeof got);
            cpus_text(&nearest->cpus, wanted, sizeof wanted);
            if (!CPU_EQUAL(&both, &cpus))
                fail_msg("%s of node %u may run on CPUs%s, and should on%s", name, os_node, got, wanted);
            const int last = host_thread_last_cpu(tid);
            assert_true(last >= 0 && CPU_ISSET((unsigned)last, &nearest->cpus));
        }
    }
}

/* ---- which node a page gets ------------------------------------------------------------------------------------- */

static void nu_1_a_page_lies_on_the_node_of_the_thread_that_touches_it(void **state)
{
    struct fixture *fixture = *state;
    int os_nodes[REGION_PAGES];

    engine_open(fixture);
    for (unsigned os_node = 0; os_node < host.end; os_node++) {
        const int cpu = host.nodes[os_node].present ? cpu_of_os_node(os_node) : -1;

        if (cpu < 0)
            continue;
        /* Reserved by a thread that may be anywhere. */
        tide_space *space = space_new(fixture);
        const tide_address base = region_new(space, REGION_PAGES, TIDE_NO_PREFERRED_NODE);
        touch_on(fixture, cpu, space, base, REGION_PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);
        assert_all_on(os_nodes, REGION_PAGES, os_node_of_cpu((unsigned)cpu), "touched");
        assert_success(tide_space_destroy(space));
    }
}

/* By stores, and then, after it was trimmed and written out, by loads. */
static void *store_main(void *context)
{
    struct job *job = context;
    volatile uint64_t *words = tide_pointer(job->base);

    if (!host_run_on_cpu(job->cpu)) {
        (void)job_failed(job, "cannot run there: %s", strerror(errno));
        return NULL;
    }
    for (uint64_t i = 0; i < job->pages; i++) {
        if (job->want == TIDE_PAGE_FAULT_DEMAND_ZERO)
            words[i * PG / sizeof *words] = i + 1;
        else if (words[i * PG / sizeof *words] != i + 1)
            (void)job_failed(job, "page %" PRIu64 " holds %" PRIu64, i, words[i * PG / sizeof *words]);
        job->os_nodes[i] = host_page_node((const void *)(uintptr_t)(job->base + i * PG));
    }
    return NULL;
}

/* A page of a mapped space too, when it is new and when it comes back: that is where the kernel has it. */
static void nu_1_a_mapped_page_lies_on_the_node_of_the_thread_that_touches_it(void **state)
{
    struct fixture *fixture = *state;
    int os_nodes[REGION_PAGES];

    fixture->config.memory_on_demand = true;
    page_file_add(fixture, 4 * REGION_PAGES);
    engine_open(fixture);
    if (tide_failed(tide_mapped_check(TIDE_DELIVERY_SIGNAL))) {
        printf("  skipped: %s\n", tide_last_error()->message);
        skip();
    }
    for (unsigned os_node = 0; os_node < host.end; os_node++) {
        const int cpu = host.nodes[os_node].present ? cpu_of_os_node(os_node) : -1;
        struct job job = { .fixture = fixture, .cpu = (unsigned)cpu, .pages = REGION_PAGES, .os_nodes = os_nodes };
        tide_mapped_options options;

        if (cpu < 0)
            continue;
        tide_mapped_options_init(&options);
        options.window_bytes = 1ull << 30;
        assert_success(tide_mapped_space_create(fixture->engine, &options, &job.space));
        job.base = region_new(job.space, REGION_PAGES, TIDE_NO_PREFERRED_NODE);
        job.want = TIDE_PAGE_FAULT_DEMAND_ZERO;
        jobs_run(&job, 1, store_main);
        assert_all_on(os_nodes, REGION_PAGES, os_node_of_cpu((unsigned)cpu), "stored to");
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_WORKING_SETS));
        job.want = TIDE_PAGE_FAULT_TRANSITION;
        jobs_run(&job, 1, store_main);
        assert_all_on(os_nodes, REGION_PAGES, os_node_of_cpu((unsigned)cpu), "still in memory");
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_WORKING_SETS));
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED));
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_STANDBY));
        job.want = TIDE_PAGE_FAULT_PAGING_FILE;
        jobs_run(&job, 1, store_main);
        assert_all_on(os_nodes, REGION_PAGES, os_node_of_cpu((unsigned)cpu), "read back");
        verify(fixture);
        assert_success(tide_space_destroy(job.space));
    }
}

/* For each node as preference, those without CPUs too, and a toucher on each node. */
static void nu_2_the_regions_preference_wins_over_the_toucher(void **state)
{
    struct fixture *fixture = *state;
    int os_nodes[REGION_PAGES];

    engine_open(fixture);
    for (unsigned preferred = 0; preferred < fixture->topology->node_count; preferred++) {
        const unsigned os_preferred = host_nearest_with_memory(&host, os_node_of(fixture, preferred));

        for (unsigned os_node = 0; os_node < host.end; os_node++) {
            const int cpu = host.nodes[os_node].present ? cpu_of_os_node(os_node) : -1;
            char what[64];

            if (cpu < 0)
                continue;
            tide_space *space = space_new(fixture);
            const tide_address base = region_new(space, REGION_PAGES, preferred);
            touch_on(fixture, cpu, space, base, REGION_PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);
            snprintf(what, sizeof what, "preferred %u, touched on %u", os_preferred, os_node);
            assert_all_on(os_nodes, REGION_PAGES, os_preferred, what);
            assert_success(tide_space_destroy(space));
        }
    }
}

static void nu_5_the_node_of_a_commit_into_a_region_is_ignored(void **state)
{
    struct fixture *fixture = *state;
    int os_nodes[REGION_PAGES];
    unsigned nodes[2], count = 0;

    engine_open(fixture);
    for (unsigned n = 0; n < fixture->topology->node_count && count < 2; n++)
        if (fixture->frames->nodes[n].count != 0)
            nodes[count++] = n;
    assert_int_equal(count, 2);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = REGION_PAGES * PG;
    assert_success(tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, nodes[0]));
    assert_success(tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, nodes[1]));
    /* On a CPU of another node, so that first touch would show too. */
    unsigned cpu = 0;
    while (host_node_of_cpu(&host, cpu) < 0 || os_node_of_cpu(cpu) == os_node_of(fixture, nodes[0]))
        assert_true(++cpu < CPU_SETSIZE);
    touch_on(fixture, (int)cpu, space, base, REGION_PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);
    assert_all_on(os_nodes, REGION_PAGES, os_node_of(fixture, nodes[0]), "reserved for the first node");
    assert_success(tide_space_destroy(space));
}

static void nu_6_a_page_that_comes_back_follows_the_preference_anew(void **state)
{
    struct fixture *fixture = *state;
    int os_nodes[REGION_PAGES], first = -1, last = -1;
    unsigned far = 0;

    page_file_add(fixture, 4 * REGION_PAGES);
    fixture->config.workers = TIDE_WORKERS_MANUAL;
    engine_open(fixture);
    for (unsigned os_node = 0; os_node < host.end; os_node++) {
        if (!host.nodes[os_node].present || host.nodes[os_node].memory_bytes == 0)
            continue;
        if (host.nodes[os_node].cpu_count != 0) {
            last = cpu_of_os_node(os_node);
            first = first < 0 ? last : first;
        }
        far = node_of_os(fixture->topology, os_node);
    }
    assert_true(first >= 0 && first != last);
    tide_space *space = space_new(fixture);
    const tide_address anywhere = region_new(space, REGION_PAGES, TIDE_NO_PREFERRED_NODE);
    const tide_address preferred = region_new(space, REGION_PAGES, far);
    touch_on(fixture, first, space, anywhere, REGION_PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, NULL);
    touch_on(fixture, first, space, preferred, REGION_PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, NULL);
    for (tide_empty what = TIDE_EMPTY_WORKING_SETS; what <= TIDE_EMPTY_STANDBY; what++)
        assert_success(tide_engine_empty(fixture->engine, what));
    const tide_statistics before = statistics_now(fixture);
    touch_on(fixture, last, space, anywhere, REGION_PAGES, TIDE_SUCCESS, os_nodes);
    assert_all_on(os_nodes, REGION_PAGES, os_node_of_cpu((unsigned)last), "read back on another node");
    touch_on(fixture, last, space, preferred, REGION_PAGES, TIDE_SUCCESS, os_nodes);
    assert_all_on(os_nodes, REGION_PAGES, os_node_of(fixture, far), "read back with a preference");
    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.pages_input - before.pages_input, 2 * REGION_PAGES);
    assert_success(tide_space_destroy(space));
    verify(fixture);
}

/* ---- full nodes ------------------------------------------------------------------------------------------------- */

/* One thread fills the whole engine: its own node, then the others by distance, each before the next, no error. */
static void ls_4_nu_3_a_full_node_spills_by_distance(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.workers = TIDE_WORKERS_MANUAL;
    engine_open(fixture);
    const struct topology *topology = fixture->topology;
    for (unsigned os_node = 0; os_node < host.end; os_node++) {
        const int cpu = host.nodes[os_node].present ? cpu_of_os_node(os_node) : -1;

        if (cpu < 0)
            continue;
        const tide_statistics now = statistics_now(fixture);
        const uint64_t pages = now.commit_limit_pages - now.commit_total_pages -
                               (now.commit_limit_pages / TABLE_ENTRIES + 1) - 64 * topology->node_count;
        int *os_nodes = calloc(pages, sizeof *os_nodes);
        assert_non_null(os_nodes);
        tide_space *space = space_new(fixture);
        const tide_address base = region_new(space, pages, TIDE_NO_PREFERRED_NODE);
        touch_on(fixture, cpu, space, base, pages, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);

        const unsigned *order = topology->nodes[node_of_os(topology, os_node_of_cpu((unsigned)cpu))].order;
        uint64_t at = 0;
        printf("  from CPU %d:", cpu);
        for (unsigned i = 0; i < topology->node_count; i++) {
            const unsigned os_next = topology->nodes[order[i]].os_index;
            const uint64_t frames = fixture->frames->nodes[order[i]].count, begin = at;

            if (i > 0) /* the engine's order is by the kernel's distances */
                assert_true(
                    host.nodes[topology->nodes[order[0]].os_index].distance[os_next] >=
                    host.nodes[topology->nodes[order[0]].os_index].distance[topology->nodes[order[i - 1]].os_index]);
            while (at < pages && os_nodes[at] == (int)os_next)
                at++;
            printf(" %" PRIu64 " of %" PRIu64 " on node %u%s", at - begin, frames, os_next,
                   i + 1 < topology->node_count ? "," : "\n");
            /* What stays behind: the writers' reserve, page tables, what another CPU's cache holds. */
            if (at < pages && at - begin + frames / 50 + 64 < frames)
                fail_msg("only %" PRIu64 " of %" PRIu64 " frames of node %u were taken before a page of node %d",
                         at - begin, frames, os_next, os_nodes[at]);
        }
        if (at != pages)
            fail_msg("page %" PRIu64 " of %" PRIu64 " lies on node %d, out of the order of distance", at, pages,
                     os_nodes[at]);
        free(os_nodes);
        assert_success(tide_space_destroy(space));
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_FREE));
    }
    verify(fixture);
}

/* The host cannot give what other programs hold on the node: a refusal, and not the kernel's killer of processes. */
static void a_budget_that_a_node_cannot_give_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct topology *topology;

    assert_success(topology_create(NULL, NULL, &topology));
    for (unsigned n = 0; n < topology->node_count; n++) {
        const uint64_t usual = fixture->budget[n], all = host.nodes[topology->nodes[n].os_index].memory_bytes;
        tide_engine *engine = NULL;

        if (all == 0)
            continue;
        fixture->budget[n] = all / PG * PG;
        assert_status_is(tide_engine_open(&fixture->config, &engine), TIDE_NO_MEMORY, "open with all of a node",
                         __LINE__);
        fixture->budget[n] = usual;
    }
    topology_destroy(topology);
    engine_open(fixture); /* nothing is left behind */
}

/* An even split would ask more of one node than it can give: the others carry the rest. */
static void a_budget_is_split_over_nodes_of_different_sizes(void **state)
{
    struct fixture *fixture = *state;
    uint64_t smallest = UINT64_MAX, nodes = 0;

    for (unsigned n = 0; n < host.end; n++) {
        if (!host.nodes[n].present || host.nodes[n].memory_bytes == 0)
            continue;
        nodes++;
        smallest = host_free_bytes(n) < smallest ? host_free_bytes(n) : smallest;
    }
    fixture->config.node_bytes = NULL;
    fixture->config.node_count = 0;
    fixture->config.memory_bytes = nodes * (smallest / PG) * PG; /* all that is free: the kernel keeps some */
    engine_open(fixture);
    uint64_t total = 0;
    for (unsigned n = 0; n < fixture->topology->node_count; n++) {
        fixture->budget[n] = (uint64_t)fixture->frames->nodes[n].count * PG;
        total += fixture->budget[n];
    }
    assert_int_equal(total, fixture->config.memory_bytes);
    frames_lie_on_their_node(fixture);
}

/* ---- policies --------------------------------------------------------------------------------------------------- */

static void placement_set(tide_space *space, tide_placement_policy policy, uint32_t node)
{
    const tide_placement placement = { .struct_bytes = sizeof placement, .policy = policy, .node = node };

    assert_success(tide_space_set_placement(space, &placement));
}

/* Touched on the first CPU, whatever the node: all its pages are there, and when it has no more, a status says so. */
static void a_strict_node_gives_its_frames_or_a_status(void **state)
{
    struct fixture *fixture = *state;

    fixture->config.workers = TIDE_WORKERS_MANUAL;
    engine_open(fixture);
    for (unsigned n = 0; n < fixture->topology->node_count; n++) {
        const uint64_t frames = fixture->frames->nodes[n].count;
        uint64_t done = 0;
        tide_status status;

        if (frames == 0)
            continue;
        int *os_nodes = calloc(frames, sizeof *os_nodes);
        assert_non_null(os_nodes);
        tide_space *space = space_new(fixture);
        placement_set(space, TIDE_PLACEMENT_STRICT, n);
        const tide_address base = region_new(space, frames + 1, TIDE_NO_PREFERRED_NODE);
        touch_on(fixture, 0, space, base, frames * 9 / 10, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);
        assert_all_on(os_nodes, frames * 9 / 10, os_node_of(fixture, n), "strict");
        do {
            status = tide_touch(space, base + done * PG, TIDE_ACCESS_WRITE);
        } while (!tide_failed(status) && ++done <= frames);
        assert_status_is(status, TIDE_NO_MEMORY, "touch of more pages than the node has", __LINE__);
        free(os_nodes);
        assert_success(tide_space_destroy(space));
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_FREE));
    }
    verify(fixture);
}

static void interleaved_pages_follow_the_sizes_of_the_nodes(void **state)
{
    enum { PAGES = 4000 };
    struct fixture *fixture = *state;
    int os_nodes[PAGES];

    engine_open(fixture);
    tide_space *space = space_new(fixture);
    placement_set(space, TIDE_PLACEMENT_INTERLEAVE, TIDE_NO_PREFERRED_NODE);
    const tide_address base = region_new(space, PAGES, TIDE_NO_PREFERRED_NODE);
    touch_on(fixture, 0, space, base, PAGES, TIDE_PAGE_FAULT_DEMAND_ZERO, os_nodes);
    for (unsigned n = 0; n < fixture->topology->node_count; n++) {
        const uint64_t there = spread_count(os_nodes, PAGES, os_node_of(fixture, n)),
                       share = PAGES * (uint64_t)fixture->frames->nodes[n].count / fixture->frames->total;

        if (fixture->frames->nodes[n].count != 0 && (there + PAGES / 50 < share || share + PAGES / 50 < there))
            fail_msg("%" PRIu64 " of %d pages are on node %u, whose share of the frames is %" PRIu64, there, PAGES,
                     os_node_of(fixture, n), share);
    }
    assert_success(tide_space_destroy(space));
}

/* ---- all CPUs at once ------------------------------------------------------------------------------------------- */

/* Leaf tables of a space that lie on another node. */
static uint64_t tables_elsewhere(const tide_space *space, unsigned os_node)
{
    uint64_t page = 0, count = 0;
    const uint64_t *leaf;

    while ((leaf = page_table_next_leaf(&space->table, &page, TIDE_HIGHEST_ADDRESS / PG)) != NULL) {
        count += host_page_node(leaf) != (int)os_node;
        page += TABLE_ENTRIES;
    }
    return count;
}

/* A space of the thread's own, made and touched by it. */
static void *private_main(void *context)
{
    struct job *job = context;
    uint64_t bytes = job->pages * PG;

    if (!host_run_on_cpu(job->cpu) || tide_failed(tide_space_create(job->fixture->engine, &job->space)) ||
        tide_failed(tide_virtual_alloc(job->space, &job->base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                       TIDE_PAGE_READWRITE))) {
        (void)job_failed(job, "cannot begin: %s", tide_last_error()->message);
        return NULL;
    }
    return touch_main(job);
}

/* A job for each CPU: `pages` of its node's frames by `divisor`, shared among the node's CPUs. */
static unsigned jobs_for_cpus(const struct fixture *fixture, struct job *jobs, unsigned divisor)
{
    unsigned count = 0;

    for (unsigned cpu = 0; cpu < fixture->topology->cpu_count && count < THREADS_MAX; cpu++) {
        unsigned sharers = 0;

        if (host_node_of_cpu(&host, cpu) < 0)
            continue;
        const unsigned os_node = os_node_of_cpu(cpu);
        for (unsigned other = 0; other < fixture->topology->cpu_count; other++)
            sharers += host_node_of_cpu(&host, other) >= 0 && os_node_of_cpu(other) == os_node;
        jobs[count] = (struct job){ .fixture = fixture,
                                    .cpu = cpu,
                                    .index = count,
                                    .pages = fixture->frames->nodes[node_of_os(fixture->topology, os_node)].count /
                                             divisor / sharers };
        count++;
    }
    return count;
}

static void all_demand_zero_faults_are_local_while_local_memory_is_free(void **state)
{
    struct fixture *fixture = *state;
    static struct job jobs[THREADS_MAX];

    engine_open(fixture);
    const unsigned count = jobs_for_cpus(fixture, jobs, 2);
    uint64_t pages = 0, there = 0;
    for (unsigned i = 0; i < count; i++) {
        jobs[i].want = TIDE_PAGE_FAULT_DEMAND_ZERO;
        jobs[i].os_nodes = calloc(jobs[i].pages, sizeof *jobs[i].os_nodes);
        assert_non_null(jobs[i].os_nodes);
    }
    const tide_statistics before = statistics_now(fixture);
    jobs_run(jobs, count, private_main);
    const tide_statistics after = statistics_now(fixture);
    for (unsigned i = 0; i < count; i++) {
        const unsigned os_node = os_node_of_cpu(jobs[i].cpu);

        pages += jobs[i].pages;
        there += spread_count(jobs[i].os_nodes, jobs[i].pages, os_node);
        assert_int_equal(tables_elsewhere(jobs[i].space, os_node), 0);
        assert_success(tide_space_destroy(jobs[i].space));
        free(jobs[i].os_nodes);
    }
    printf("  %u threads, %" PRIu64 " pages, %" PRIu64 " local by the kernel, %" PRIu64 " of %" PRIu64
           " faults by the engine\n",
           count, pages, there, after.faults.local - before.faults.local,
           after.faults.page_faults - before.faults.page_faults);
    assert_int_equal(there, pages);
    assert_int_equal(after.faults.demand_zero - before.faults.demand_zero, pages);
    assert_int_equal(after.faults.local - before.faults.local, after.faults.page_faults - before.faults.page_faults);
    verify(fixture);
    all_lies_on_its_node(fixture);
}

enum { VAD_THREADS = 16, VAD_REGIONS = 64, VAD_PAGES = 4 };

static tide_address vad_address(unsigned thread, unsigned region)
{
    return (1ull << 32) + ((uint64_t)thread * VAD_REGIONS + region) * 4 * TIDE_ALLOCATION_GRANULARITY_BYTES;
}

static void *vad_main(void *context)
{
    struct job *job = context;

    if (!host_run_on_cpu(job->cpu))
        (void)job_failed(job, "cannot run there: %s", strerror(errno));
    for (unsigned r = 0; r < VAD_REGIONS; r++) {
        tide_address base = vad_address(job->index, r);
        uint64_t bytes = VAD_PAGES * PG;
        int os_node;

        if (tide_failed(tide_virtual_alloc(job->space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE)) ||
            tide_failed(tide_virtual_alloc(job->space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE))) {
            (void)job_failed(job, "region %u: %s", r, tide_last_error()->message);
            return NULL;
        }
        for (unsigned p = 0; p < VAD_PAGES; p++) {
            const uint64_t stamp = base + p * PG;
            if (tide_failed(tide_write(job->space, stamp, &stamp, sizeof stamp)) ||
                !page_os_node(job, stamp, &os_node) || os_node != (int)os_node_of_cpu(job->cpu)) {
                (void)job_failed(job, "region %u, page %u: %s, on node %d", r, p, tide_last_error()->message, os_node);
                return NULL;
            }
        }
    }
    return NULL;
}

/* Threads on all nodes reserve, commit and touch in one space: no region is lost, no page is another's or elsewhere. */
static void vad_2_threads_on_all_nodes_share_a_space(void **state)
{
    struct fixture *fixture = *state;
    struct job jobs[VAD_THREADS];
    unsigned cpu = 0;

    engine_open(fixture);
    tide_space *space = space_new(fixture);
    for (unsigned i = 0; i < VAD_THREADS; i++, cpu++) {
        while (host_node_of_cpu(&host, cpu) < 0)
            cpu = cpu + 1 < fixture->topology->cpu_count ? cpu + 1 : 0;
        jobs[i] = (struct job){ .fixture = fixture, .cpu = cpu, .space = space, .index = i };
    }
    jobs_run(jobs, VAD_THREADS, vad_main);
    for (unsigned i = 0; i < VAD_THREADS; i++) {
        for (unsigned r = 0; r < VAD_REGIONS; r++) {
            const tide_address base = vad_address(i, r);
            tide_region region;

            assert_success(tide_virtual_query(space, base, &region));
            assert_int_equal(region.allocation_base, base);
            assert_int_equal(region.bytes, VAD_PAGES * PG);
            assert_int_equal(region.state, TIDE_MEM_COMMIT);
            for (unsigned p = 0; p < VAD_PAGES; p++) {
                uint64_t stamp = 0;
                assert_success(tide_read(space, base + p * PG, &stamp, sizeof stamp));
                assert_int_equal(stamp, base + p * PG);
            }
        }
    }
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };
    assert_success(tide_space_statistics_get(space, &statistics));
    assert_int_equal(statistics.regions, VAD_THREADS * VAD_REGIONS);
    assert_success(tide_space_destroy(space));
    verify(fixture);
}

/* ---- under pressure --------------------------------------------------------------------------------------------- */

/*
 * One thread of the crowd: it keeps a private space busy that is half as large again as its share of the node's memory,
 * so that pages are trimmed, written, read back, found on standby, given up and made anew all the time.
 */
struct crowd {
    atomic_ullong faults; /* of all, from time to time */
    uint64_t wanted;
    bool placed; /* spaces have a placement: */
    tide_placement_policy policy;
    tide_placement_fallback fallback;
};

static uint64_t random_next(uint64_t *state)
{
    uint64_t x = *state += 0x9E3779B97F4A7C15ull;

    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

static struct crowd crowd;

enum { CHUNK_PAGES = 32 };

static void *mixed_main(void *context)
{
    struct job *job = context;
    uint64_t bytes = job->pages * PG, random = job->index, counted = 0;

    if (!host_run_on_cpu(job->cpu) || tide_failed(tide_space_create(job->fixture->engine, &job->space)) ||
        tide_failed(tide_virtual_alloc(job->space, &job->base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                       TIDE_PAGE_READWRITE))) {
        (void)job_failed(job, "cannot begin: %s", tide_last_error()->message);
        return NULL;
    }
    const tide_placement placement = { .struct_bytes = sizeof placement,
                                       .policy = crowd.policy,
                                       .fallback = crowd.fallback,
                                       .node = crowd.policy == TIDE_PLACEMENT_STRICT
                                                   ? node_of_os(job->fixture->topology, os_node_of_cpu(job->cpu))
                                                   : TIDE_NO_PREFERRED_NODE };
    if (crowd.placed && tide_failed(tide_space_set_placement(job->space, &placement))) {
        (void)job_failed(job, "placement: %s", tide_last_error()->message);
        return NULL;
    }
    for (uint64_t i = 0; atomic_load(&crowd.faults) < crowd.wanted; i++) {
        const uint64_t draw = random_next(&random), chunk = draw % (job->pages / CHUNK_PAGES) * CHUNK_PAGES;
        tide_address base = job->base + chunk * PG;
        uint64_t part = CHUNK_PAGES * PG;
        tide_status status = TIDE_SUCCESS;

        switch (draw >> 60) {
        case 0: /* given up and made anew */
            status = tide_virtual_free(job->space, base, part, TIDE_MEM_DECOMMIT);
            if (!tide_failed(status))
                status = tide_virtual_alloc(job->space, &base, &part, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            break;
        case 1: /* out of the working set, to be found again on the lists */
            status = tide_working_set_trim(job->space, CHUNK_PAGES, NULL);
            break;
        default:
            break;
        }
        for (unsigned p = 0; p < CHUNK_PAGES && !tide_failed(status); p++)
            status = tide_touch(job->space, base + p * PG, draw >> 59 & 1 ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ);
        if (tide_failed(status)) {
            (void)job_failed(job, "round %" PRIu64 ": %s: %s", i, tide_status_name(status), tide_last_error()->message);
            atomic_store(&crowd.faults, UINT64_MAX);
            return NULL;
        }
        if (i % 16 == 0) {
            tide_space_statistics statistics = { .struct_bytes = sizeof statistics };

            (void)tide_space_statistics_get(job->space, &statistics);
            atomic_fetch_add(&crowd.faults, statistics.faults.page_faults - counted);
            counted = statistics.faults.page_faults;
        }
    }
    return NULL;
}

/* Of the pages of a space that are valid now, those on the node, by the kernel. */
static void resident_count(struct job *job, unsigned os_node, uint64_t *resident, uint64_t *there)
{
    const struct frames *frames = job->fixture->frames;
    uint64_t page = 0;
    const uint64_t *leaf;

    while ((leaf = page_table_next_leaf(&job->space->table, &page, TIDE_HIGHEST_ADDRESS / PG)) != NULL) {
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);

            if (!pte_is_valid(pte))
                continue;
            ++*resident;
            *there += host_page_node(frame_memory(frames, pte_frame(pte))) == (int)os_node;
        }
        page += TABLE_ENTRIES;
    }
}

/*
 * Each node has half as much again to do as it has memory, so it should take from its own pages and not from its
 * neighbours'. How much of it stays local is reported, by the engine and by the kernel, and judged in strict spaces,
 * and in the others if --local says by what: there it depends on how fast the node's own trimmer and writer are, and in
 * a guest without KVM they are not.
 */
static void mixed(struct fixture *fixture, uint64_t least_percent, uint64_t least_pages_percent)
{
    static struct job jobs[THREADS_MAX];
    uint64_t pages = 0, resident = 0, there = 0;

    for (unsigned n = 0; n < fixture->config.node_count; n++) {
        fixture->budget[n] = fixture->budget[n] / 4 / PG * PG; /* so that few faults turn all pages over */
        pages += fixture->budget[n] / PG;
    }
    page_file_add(fixture, pages);
    fixture->config.prefer_local_standby = true;
    fixture->config.frame_wait_ms = 600000; /* the guest may be slow */
    engine_open(fixture);
    const unsigned count = jobs_for_cpus(fixture, jobs, 2);
    for (unsigned i = 0; i < count; i++)
        jobs[i].pages *= 3;
    crowd.wanted = mixed_faults;
    atomic_store(&crowd.faults, 0);
    const tide_statistics before = statistics_now(fixture);
    jobs_run(jobs, count, mixed_main);
    const tide_statistics after = statistics_now(fixture);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_TRIMMER, true));
    for (unsigned i = 0; i < count; i++)
        resident_count(&jobs[i], os_node_of_cpu(jobs[i].cpu), &resident, &there);
    assert_success(tide_worker_hold(fixture->engine, TIDE_WORKER_TRIMMER, false));

    const uint64_t zero = after.faults.demand_zero - before.faults.demand_zero,
                   soft = after.faults.transition - before.faults.transition,
                   hard = after.faults.hard - before.faults.hard, local = after.faults.local - before.faults.local,
                   faults = after.faults.page_faults - before.faults.page_faults;
    printf("  %u threads, %" PRIu64 " faults: %" PRIu64 " demand zero, %" PRIu64 " soft, %" PRIu64
           " hard; local %.3f %%"
           "; of %" PRIu64 " valid pages local by the kernel %.3f %%\n",
           count, faults, zero, soft, hard, 100.0 * (double)local / (double)faults, resident,
           100.0 * (double)there / (double)resident);
    for (unsigned i = 0; i < count; i++)
        assert_success(tide_space_destroy(jobs[i].space));
    assert_true(faults >= mixed_faults);
    assert_true(zero > 0 && soft > 0 && hard > 0);
    if (local * 100 < faults * least_percent)
        fail_msg("%" PRIu64 " of %" PRIu64 " faults got a frame of their node; %" PRIu64 " %% must", local, faults,
                 least_percent);
    if (there * 100 < resident * least_pages_percent)
        fail_msg("%" PRIu64 " of %" PRIu64 " valid pages lie on their node; %" PRIu64 " %% must", there, resident,
                 least_pages_percent);
    verify(fixture);
    all_lies_on_its_node(fixture); /* the kernel's own balancing has moved nothing */
}

static void mixed_faults_under_pressure(void **state)
{
    crowd.placed = false;
    mixed(*state, local_percent, local_percent);
}

/* Waits for its own node's trimmer and writer rather than go elsewhere. */
static void mixed_faults_under_pressure_strict_stay_local(void **state)
{
    crowd.placed = true;
    crowd.policy = TIDE_PLACEMENT_STRICT;
    crowd.fallback = TIDE_FALLBACK_DEFAULT;
    mixed(*state, 99, 99);
}

/*
 * The same, with an end to the waiting: no node is named, and a node that cannot give within 20 ms lets the page go
 * elsewhere, where it stays. How often that is depends on the guest's speed: judged in the long run.
 */
static void mixed_faults_under_pressure_local_reclaim(void **state)
{
    crowd.placed = true;
    crowd.policy = TIDE_PLACEMENT_FIRST_TOUCH;
    crowd.fallback = TIDE_FALLBACK_LOCAL_RECLAIM;
    mixed(*state, mixed_faults >= 1000000 ? 99 : 90, 80);
}

int main(int argc, char **argv)
{
#define GUEST_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        GUEST_TEST(nodes_cpus_and_distances_are_the_kernels),
        GUEST_TEST(frames_records_lists_and_caches_lie_on_their_node),
        GUEST_TEST(workers_run_on_their_nodes_cpus_or_the_nearest),
        GUEST_TEST(nu_1_a_page_lies_on_the_node_of_the_thread_that_touches_it),
        GUEST_TEST(nu_1_a_mapped_page_lies_on_the_node_of_the_thread_that_touches_it),
        GUEST_TEST(nu_2_the_regions_preference_wins_over_the_toucher),
        GUEST_TEST(nu_5_the_node_of_a_commit_into_a_region_is_ignored),
        GUEST_TEST(nu_6_a_page_that_comes_back_follows_the_preference_anew),
        GUEST_TEST(ls_4_nu_3_a_full_node_spills_by_distance),
        GUEST_TEST(a_strict_node_gives_its_frames_or_a_status),
        GUEST_TEST(interleaved_pages_follow_the_sizes_of_the_nodes),
        GUEST_TEST(a_budget_that_a_node_cannot_give_is_refused),
        GUEST_TEST(a_budget_is_split_over_nodes_of_different_sizes),
        GUEST_TEST(all_demand_zero_faults_are_local_while_local_memory_is_free),
        GUEST_TEST(vad_2_threads_on_all_nodes_share_a_space),
        GUEST_TEST(mixed_faults_under_pressure),
        GUEST_TEST(mixed_faults_under_pressure_strict_stay_local),
        GUEST_TEST(mixed_faults_under_pressure_local_reclaim),
    };

    for (int i = 1; i < argc; i += 2) {
        uint64_t *value = strcmp(argv[i], "--faults") == 0  ? &mixed_faults
                          : strcmp(argv[i], "--local") == 0 ? &local_percent
                                                            : NULL;
        char *end = NULL;

        if (value != NULL && i + 1 < argc)
            *value = strtoull(argv[i + 1], &end, 10);
        if (end == NULL || *end != '\0') {
            fprintf(stderr, "usage: %s [--faults N] [--local PERCENT]\n", argv[0]);
            return 2;
        }
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *filter = getenv("TIDE_TEST_FILTER");
    if (filter != NULL)
        cmocka_set_test_filter(filter);
    if (!host_read(&host) || host.node_count < 2) {
        printf("SKIPPED: this machine has %u nodes; it takes two\n", host.node_count);
        return 77;
    }
    return cmocka_run_group_tests_name("numa_guest", tests, NULL, NULL) != 0;
}

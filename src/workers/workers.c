/*
 * The threads of the workers, and running their steps.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "workers/idle.h"
#include "workers/lanes.h"
#include "workers/workers_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREAD_BUDGET_PAGES = 4096, ZERO_BUDGET_PAGES = 256 };

/* A worker that sleeps looks around once in a while even if nobody rings: thresholds are looked at on refills only. */
#define IDLE_LOOK_NS 100000000u
/*
 * There is work, but no progress (young frames, full page files, a failing disk): try again after a while, which
 * doubles each time.
 */
#define STUCK_LOOK_NS 1000000u

static const char *const names[TIDE_WORKER_COUNT] = { "zero", "writer", "trimmer", "extender" };

/* Whether any page file was given room to grow. */
static bool workers_files_can_grow(const struct workers *workers)
{
    const struct stores *stores = workers->partition->stores;

    return stores_maximum_pages(stores) > stores_capacity_pages(stores);
}

tide_status workers_create(struct partition *partition, const tide_config *config, struct workers **out)
{
    const unsigned nodes = partition->topology->node_count;
    struct workers *workers = calloc(1, sizeof *workers);
    struct worker *array = aligned_alloc(SYNC_CACHE_LINE_BYTES, nodes * TIDE_WORKER_COUNT * sizeof *array);
    tide_status status = TIDE_SUCCESS;

    if (workers == NULL || array == NULL) {
        free(workers);
        free(array);
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the workers of %u nodes", nodes);
    }
    memset(array, 0, nodes * TIDE_WORKER_COUNT * sizeof *array);
    workers->partition = partition;
    workers->mode = config->workers;
    workers->node_count = nodes;
    workers->period_ns = (config->trimmer_period_ms == 0 ? 1000u : config->trimmer_period_ms) * 1000000ull;
    workers->growth_pages = config->page_file_growth_pages;
    workers->shrink_delay_ns =
        (config->page_file_shrink_delay_ms == 0 ? 10000u : config->page_file_shrink_delay_ms) * 1000000ull;
    workers->extender.low_since_ns = UINT64_MAX;
    workers->workers = array;
    for (unsigned i = 0; i < nodes * TIDE_WORKER_COUNT; i++) {
        struct worker *worker = &array[i];

        worker->workers = workers;
        worker->kind = (tide_worker)(i % TIDE_WORKER_COUNT);
        worker->node = i / TIDE_WORKER_COUNT;
        sync_lock_init(&worker->lock, SYNC_RANK_worker);
        worker->last_ageing_ns = workers_clock_ns(workers);
        worker->trimmed_since_ageing = UINT64_MAX / 2; /* so the first shortage ages */
        if (worker->kind == TIDE_WORKER_TRIMMER) {
            worker->scratch_bytes = trimmer_scratch_bytes;
            worker->scratch = os_memory_reserve(worker->scratch_bytes, TIDE_PAGE_BYTES);
            if (worker->scratch == NULL)
                status = TIDE_INSUFFICIENT_RESOURCES;
        }
        if (worker->kind == TIDE_WORKER_MODIFIED_WRITER && !tide_failed(status))
            status = lanes_create(worker);
    }
    if (tide_failed(status)) {
        workers_destroy(workers);
        return status;
    }
    commit_extend_arm(&partition->commit, workers_files_can_grow(workers));
    *out = workers;
    return TIDE_SUCCESS;
}

uint64_t workers_clock_ns(const struct workers *workers)
{
    return workers->mode == TIDE_WORKERS_MANUAL ? sync_load_64(&workers->virtual_ns) : os_clock_ns();
}

uint64_t workers_cpu_ns(const struct workers *workers, tide_worker kind)
{
    uint64_t sum = 0;

    for (unsigned n = 0; n < workers->node_count; n++)
        sum += sync_load_relaxed_64(&workers->workers[n * TIDE_WORKER_COUNT + (unsigned)kind].cpu_ns);
    return sum;
}

static bool is_due(const struct worker *worker)
{
    switch (worker->kind) {
    case TIDE_WORKER_ZERO_PAGE:
        return zero_page_due(worker);
    case TIDE_WORKER_MODIFIED_WRITER:
        return worker->lane_count != 0 && writer_due(worker);
    case TIDE_WORKER_EXTENDER:
        return extender_due(worker);
    default:
        return trimmer_due(worker);
    }
}

/* With the lock held, inside the engine. */
static uint64_t step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error)
{
    switch (worker->kind) {
    case TIDE_WORKER_ZERO_PAGE: {
        /* It takes long and needs no section: it must not hold the grace period back. */
        grace_io_begin(thread);
        const uint64_t done = zero_page_step(worker, budget);
        grace_io_end(thread);
        return done;
    }
    case TIDE_WORKER_MODIFIED_WRITER:
        return writer_step(worker, thread, budget, error);
    case TIDE_WORKER_EXTENDER:
        return extender_step(worker, thread, budget);
    default:
        return trimmer_step(worker, budget);
    }
}

/* What became known of bad frames, by a signal or by a step. Outside of the engine, with no worker's lock. */
static void bad_frames_settle(struct partition *partition)
{
    if (frames_bad_changed(partition->frames))
        partition->bad_settle(partition);
}

uint64_t worker_run(struct worker *worker, struct grace_thread *thread, uint64_t budget, enum worker_occasion occasion,
                    int *error)
{
    uint64_t done = 0;
    struct quiet quiet;

    quiet_lock(&worker->lock, &quiet);
    const uint64_t before = os_thread_cpu_ns();
    (void)grace_advance(
        &worker->workers->partition->frames->grace); /* from outside: inside it moves one step at most */
    grace_enter(thread);
    /*
     * These steps ask for themselves: ageing may be due when trimming is not, and the extender looks how long the
     * charge has been low.
     */
    const bool asks = worker->kind == TIDE_WORKER_TRIMMER || worker->kind == TIDE_WORKER_EXTENDER;
    const bool wanted = occasion == WORKER_FORCED || asks || is_due(worker);
    if (wanted && !(occasion == WORKER_THREAD && sync_load_32(&worker->workers->held[worker->kind]) != 0))
        done = step(worker, thread, budget, error);
    grace_leave(thread);
    (void)sync_add_64(&worker->cpu_ns, os_thread_cpu_ns() - before);
    quiet_unlock(&worker->lock, &quiet);
    if (worker->workers->mode == TIDE_WORKERS_MANUAL) { /* else the trimmer threads look */
        bad_frames_settle(worker->workers->partition);
        partition_events_look(worker->workers->partition);
    } else if (worker->kind == TIDE_WORKER_MODIFIED_WRITER)
        frames_events_freed(worker->workers->partition->frames);
    return done;
}

/*
 * For who may have frames of one node alone: that node's trimmer and writer, on the calling thread whatever the mode,
 * so that what they brought, or did not, is known when they are done.
 */
static bool node_reclaim(struct workers *workers, struct grace_thread *thread, unsigned node)
{
    const bool manual = workers->mode == TIDE_WORKERS_MANUAL;
    int error = 0;

    uint64_t done = worker_run(workers_get(workers, TIDE_WORKER_TRIMMER, node), thread, UINT64_MAX,
                               manual ? WORKER_DUE : WORKER_THREAD, &error);
    done += worker_run(workers_get(workers, TIDE_WORKER_MODIFIED_WRITER, node), thread,
                       workers->partition->frames->nodes[node].high, manual ? WORKER_FORCED : WORKER_THREAD, &error);
    return done != 0;
}

bool workers_reclaim(struct workers *workers, struct grace_thread *thread, struct frames_place place)
{
    struct partition *partition = workers->partition;
    bool done = false;

    if (place.flags & FRAMES_STRICT)
        return node_reclaim(workers, thread, place.node);
    if (workers->mode == TIDE_WORKERS_THREADS) {
        for (unsigned n = 0; n < workers->node_count; n++) {
            frames_bell_ring(&partition->frames->nodes[n].trimmer);
            frames_bell_ring(&partition->frames->nodes[n].writer);
        }
        return false;
    }
    /* The preferred node first; the others if that brought nothing. */
    const unsigned *order = partition->topology->nodes[place.node].order;
    for (unsigned i = 0; i < workers->node_count && !done; i++)
        done = node_reclaim(workers, thread, order[i]);
    return done;
}

void workers_under_write(const struct workers *workers, workers_see_write *see, void *context)
{
    for (unsigned n = 0; n < workers->node_count; n++)
        lanes_under_write(workers_get(workers, TIDE_WORKER_MODIFIED_WRITER, n), see, context);
}

uint32_t workers_files_overdue(const struct workers *workers)
{
    uint32_t overdue = 0;

    for (unsigned n = 0; n < workers->node_count; n++) {
        const struct worker *writer = workers_get(workers, TIDE_WORKER_MODIFIED_WRITER, n);
        for (unsigned i = 0; i < writer->lane_count; i++)
            overdue |= (uint32_t)lane_is_overdue(&writer->lanes[i]) << i;
    }
    return overdue;
}

bool workers_write_wait(struct workers *workers, unsigned node)
{
    return lanes_wait(workers_get(workers, TIDE_WORKER_MODIFIED_WRITER, node), LANES_ANSWERING);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static struct frames_bell *bell_of(const struct worker *worker)
{
    struct frames_node *node = &worker->workers->partition->frames->nodes[worker->node];

    return worker->kind == TIDE_WORKER_EXTENDER          ? &worker->workers->partition->extender
           : worker->kind == TIDE_WORKER_ZERO_PAGE       ? &node->zero_page
           : worker->kind == TIDE_WORKER_MODIFIED_WRITER ? &node->writer
                                                         : &node->trimmer;
}

static bool thread_wanted(void *context)
{
    const struct worker *worker = context;

    return sync_load_32(&worker->workers->stop) != 0 ||
           (worker->kind == TIDE_WORKER_TRIMMER &&
            sync_load_relaxed_32(&worker->workers->partition->frames->bad.changed) != 0) ||
           (sync_load_32(&worker->workers->held[worker->kind]) == 0 && is_due(worker));
}

static void *thread_main(void *context)
{
    struct worker *worker = context;
    struct workers *workers = worker->workers;
    struct grace_thread *thread = worker->record;
    struct quiet quiet;
    char name[16];

    sync_store_relaxed_32((uint32_t *)&thread->tid, (uint32_t)os_thread_id());
    quiet_hold(&quiet); /* for good: handlers of the program's run in the program's threads */
    thread->is_quiet = true;
    snprintf(name, sizeof name, "tide-%s-%u", names[worker->kind], worker->node);
    os_thread_name(name);
    /*
     * As in NT, where both run above the program's threads: with 64 of these short of frames, a writer or a trimmer
     * that gets one turn in 65 keeps all of them waiting.
     */
    if (worker->kind == TIDE_WORKER_MODIFIED_WRITER || worker->kind == TIDE_WORKER_TRIMMER)
        os_thread_raise();
    if (worker->kind != TIDE_WORKER_EXTENDER)
        topology_bind_thread(workers->partition->topology, worker->node);
    if (worker->kind == TIDE_WORKER_TRIMMER && workers->partition->frames->bad.guarded)
        memory_error_thread_listen();
    const uint64_t budget = worker->idle != NULL ? ZERO_BUDGET_PAGES : THREAD_BUDGET_PAGES;
    uint64_t stuck_ns = STUCK_LOOK_NS;
    while (sync_load_32(&workers->stop) == 0) {
        uint64_t done = 0;
        int error = 0;

        /* Also while it is held. */
        if (worker->kind == TIDE_WORKER_TRIMMER) {
            bad_frames_settle(workers->partition);
            partition_events_look(workers->partition);
        }
        if (worker->idle != NULL && thread_wanted(worker))
            idle_wait(worker->idle);
        if (sync_load_32(&workers->held[worker->kind]) == 0)
            done = worker_run(worker, thread, budget, WORKER_THREAD, &error);
        if (done != 0 && error == 0) {
            stuck_ns = STUCK_LOOK_NS;
            continue;
        }
        const bool stuck = error != 0 || thread_wanted(worker);
        frames_bell_wait(bell_of(worker), stuck ? NULL : thread_wanted, worker, stuck ? stuck_ns : IDLE_LOOK_NS);
        stuck_ns = !stuck ? STUCK_LOOK_NS : stuck_ns < IDLE_LOOK_NS ? stuck_ns * 2 : stuck_ns;
    }
    grace_thread_put(thread);
    return NULL;
}

tide_status workers_start(struct workers *workers)
{
    if (workers->mode != TIDE_WORKERS_THREADS)
        return TIDE_SUCCESS;
    for (unsigned i = 0; i < workers->node_count * TIDE_WORKER_COUNT; i++) {
        struct worker *worker = &workers->workers[i];

        if (worker->kind == TIDE_WORKER_EXTENDER ? worker->node != 0 || !workers_files_can_grow(workers)
                                                 : workers->partition->frames->nodes[worker->node].count == 0)
            continue;
        worker->record = grace_thread_get(&workers->partition->frames->grace);
        if (worker->record == NULL)
            return TIDE_INSUFFICIENT_RESOURCES;
        int error = 0;
        if (worker->kind == TIDE_WORKER_ZERO_PAGE)
            error = idle_start(workers->partition->topology, worker->node, &worker->idle);
        if (worker->kind == TIDE_WORKER_MODIFIED_WRITER) {
            const tide_status status = lanes_start(worker);
            if (tide_failed(status))
                return status;
        }
        if (error == 0)
            error = pthread_create(&worker->thread, NULL, thread_main, worker);
        if (error != 0)
            return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0, "cannot start worker thread %u of %u: %s", i,
                             workers->node_count * TIDE_WORKER_COUNT, strerror(error));
        worker->started = true;
    }
    return TIDE_SUCCESS;
}

void workers_hold(struct workers *workers, tide_worker kind, bool hold)
{
    sync_store_32(&workers->held[kind], hold);
    for (unsigned n = 0; n < workers->node_count; n++) {
        struct worker *worker = workers_get(workers, kind, n);
        struct quiet quiet;

        quiet_lock(&worker->lock, &quiet); /* a running step has ended */
        quiet_unlock(&worker->lock, &quiet);
        frames_bell_ring(bell_of(worker));
    }
}

void workers_destroy(struct workers *workers)
{
    if (workers == NULL)
        return;
    (void)sync_swap_32(&workers->stop, 1); /* a full barrier before the bells are looked at */
    for (unsigned i = 0; i < workers->node_count * TIDE_WORKER_COUNT; i++) {
        struct worker *worker = &workers->workers[i];

        if (worker->idle != NULL)
            idle_cancel(worker->idle);
        if (worker->started) {
            frames_bell_ring(bell_of(worker));
            pthread_join(worker->thread, NULL);
        }
    }
    for (unsigned i = 0; i < workers->node_count * TIDE_WORKER_COUNT; i++) { /* none looks at another any more */
        struct worker *worker = &workers->workers[i];

        idle_end(worker->idle);
        lanes_destroy(worker);
        os_memory_free(worker->scratch, worker->scratch_bytes);
        trimmer_candidates_free(worker);
    }
    free(workers->workers);
    free(workers);
}

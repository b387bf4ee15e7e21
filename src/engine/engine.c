/*
 * Opening and closing an engine; which threads know which engines.
 *
 * A thread gets a record in an engine at its first call and keeps it until it ends. The last engine used is
 * remembered in one thread-local word pair, which is all that the fast path reads; others are found in a short
 * thread-local list. Engines have ids that are never used again, so an entry of a closed engine is never taken for
 * another's.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "base/random.h"
#include "engine/engine_impl.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

_Thread_local struct engine_thread_cache engine_thread_cache;

struct thread_entry {
    uint64_t engine_id;
    struct grace_thread *thread;
    struct thread_entry *next;
};

static _Thread_local struct thread_entry *thread_entries; /* [T] */
/*
 * The entries of a thread's first engines; more are mapped. A fault may need one in a signal handler: nothing is
 * allocated.
 */
static _Thread_local struct thread_entry first_entries[4]; /* [T] engine_id 0: unused */
static pthread_key_t thread_key;                           /* [I] runs thread_exit() */
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static struct sync_lock registry_lock = { .rank = SYNC_RANK_registry };
static tide_engine *registry;     /* [L:registry] open engines */
static tide_engine *closed;       /* [L:registry] memory of closed engines, by `next` */
static uint64_t registry_next_id; /* [L:registry] */

static tide_engine *registry_find(uint64_t id)
{
    for (tide_engine *engine = registry; engine != NULL; engine = engine->next)
        if (engine->id == id)
            return engine;
    return NULL;
}

static struct thread_entry *entry_get(void)
{
    for (unsigned i = 0; i < sizeof first_entries / sizeof first_entries[0]; i++)
        if (first_entries[i].engine_id == 0)
            return &first_entries[i];
    return os_memory_reserve(sizeof(struct thread_entry), TIDE_PAGE_BYTES);
}

static void entry_put(struct thread_entry *entry)
{
    const bool first = entry >= first_entries && entry < first_entries + sizeof first_entries / sizeof first_entries[0];

    entry->engine_id = 0;
    if (!first)
        os_memory_free(entry, sizeof *entry);
}

static void thread_exit(void *entries)
{
    struct quiet quiet;

    /* A handler that faults later, in what is left of the thread, makes an entry anew, and this function runs again. */
    quiet_begin(&quiet);
    for (struct thread_entry *entry = entries, *next; entry != NULL; entry = next) {
        next = entry->next;
        sync_lock(&registry_lock);
        if (registry_find(entry->engine_id) != NULL)
            grace_thread_put(entry->thread);
        sync_unlock(&registry_lock);
        entry_put(entry);
    }
    engine_thread_cache = (struct engine_thread_cache){ 0 };
    thread_entries = NULL;
    quiet_end(&quiet);
}

static void thread_key_create(void)
{
    ASSERT_ALWAYS(pthread_key_create(&thread_key, thread_exit) == 0);
}

/*
 * When the library is loaded, so that the key is one of the first: a thread's values of the first 32 keys lie in its
 * own record of libc's, and those of later ones in memory that pthread_setspecific() allocates, which a fault must not
 * do.
 */
__attribute__((constructor)) static void thread_key_create_early(void)
{
    pthread_once(&thread_once, thread_key_create);
}

struct grace_thread *engine_thread_slow(tide_engine *engine)
{
    struct thread_entry *entry = thread_entries;

    while (entry != NULL && entry->engine_id != engine->id)
        entry = entry->next;
    if (entry == NULL) {
        /*
         * In this order: a fault in the handler of a signal that comes in between finds no entry of this engine and
         * makes one, which is then the thread's as well as this one.
         */
        struct grace_thread *thread = grace_thread_get(&engine->partition.frames->grace);
        if (thread == NULL)
            return NULL;
        entry = entry_get();
        if (entry == NULL) {
            grace_thread_put(thread);
            return NULL;
        }
        entry->engine_id = engine->id;
        entry->thread = thread;
        entry->next = thread_entries;
        thread_entries = entry;
        (void)pthread_setspecific(thread_key, thread_entries);
    }
    engine_thread_cache = (struct engine_thread_cache){ engine->id, entry->thread };
    return entry->thread;
}

/* The calling thread forgets an engine that is being closed, and any that have been. */
static void thread_entries_prune(void)
{
    struct thread_entry **link = &thread_entries;
    struct quiet quiet;

    quiet_begin(&quiet);
    sync_lock(&registry_lock);
    while (*link != NULL) {
        struct thread_entry *entry = *link;
        if (registry_find(entry->engine_id) != NULL) {
            link = &entry->next;
            continue;
        }
        *link = entry->next;
        entry_put(entry);
    }
    sync_unlock(&registry_lock);
    (void)pthread_setspecific(thread_key, thread_entries);
    engine_thread_cache = (struct engine_thread_cache){ 0 };
    quiet_end(&quiet);
}

tide_status engine_check(const tide_engine *engine)
{
    if (engine == NULL)
        return error_set(TIDE_INVALID_HANDLE, 0, 0, "the engine is NULL");
    if (engine->magic != ENGINE_MAGIC)
        return error_set(TIDE_INVALID_HANDLE, 0, 0, "%p is no open engine", (const void *)engine);
    return TIDE_SUCCESS;
}

tide_status engine_place_check(const size_t *struct_bytes, size_t expected)
{
    if (struct_bytes == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for a structure of %zu bytes is NULL", expected);
    if (*struct_bytes != expected)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "struct_bytes must be %zu and is %zu", expected, *struct_bytes);
    return TIDE_SUCCESS;
}

tide_status engine_node_check(const tide_engine *engine, unsigned node)
{
    const unsigned count = engine->partition.topology->node_count;

    if (node >= count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node, count - 1);
    return TIDE_SUCCESS;
}

tide_status engine_frame_check(const tide_engine *engine, uint64_t number)
{
    const struct frames *frames = engine->partition.frames;

    if (!frames_number_exists(frames, number))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "frame %lu does not exist; the highest number is %u", number,
                         frames->end - 1);
    return TIDE_SUCCESS;
}

tide_status space_check(const tide_space *space)
{
    if (space == NULL)
        return error_set(TIDE_INVALID_HANDLE, 0, 0, "the space is NULL");
    if (space->magic != SPACE_MAGIC)
        return error_set(TIDE_INVALID_HANDLE, 0, 0, "%p is no space", (const void *)space);
    return TIDE_SUCCESS;
}

/* ---- open and close --------------------------------------------------------------------------------------------- */

void tide_config_init(tide_config *config)
{
    memset(config, 0, sizeof *config);
    config->struct_bytes = sizeof *config;
}

static tide_status config_check(const tide_config *config)
{
    if (config == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the configuration is NULL");
    if (config->struct_bytes != sizeof *config)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "struct_bytes is %zu, and this library's tide_config has %zu: call tide_config_init() first",
                         config->struct_bytes, sizeof *config);
    if (config->workers != TIDE_WORKERS_THREADS && config->workers != TIDE_WORKERS_MANUAL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "worker mode %d; known are 0 and 1", (int)config->workers);
    if (config->cluster_pages > STORES_CLUSTER_MAX)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "cluster_pages %u; the most is %d", config->cluster_pages,
                         STORES_CLUSTER_MAX);
    if (config->page_file_count != 0 && config->page_files == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%u page files are counted and none is given",
                         config->page_file_count);
    return TIDE_SUCCESS;
}

static bool reclaim(struct partition *partition, struct grace_thread *thread, struct frames_place place)
{
    return workers_reclaim(((tide_engine *)(void *)partition)->workers, thread, place);
}

static bool extend(struct partition *partition, struct grace_thread *thread, uint64_t pages)
{
    return workers_extend(((tide_engine *)(void *)partition)->workers, thread, pages);
}

/*
 * Frames that the commit limit keeps back so that somebody can always make progress: the writers' reserve and a few
 * to turn over.
 */
static uint64_t reserve_pages(const struct frames *frames)
{
    uint64_t reserve = 8;

    for (unsigned n = 0; n < frames->node_count; n++)
        reserve += frames->nodes[n].reserve;
    return reserve;
}

/* The commit limit with page files of so many slots. */
static uint64_t limit_of(const tide_engine *engine, uint64_t slots)
{
    const uint64_t capacity = engine->partition.frames->total + slots;

    return capacity > engine->reserve_pages ? capacity - engine->reserve_pages : 0;
}

static tide_status partition_open(struct partition *partition, const tide_config *config)
{
    const struct stores_options stores = {
        .files = config->page_files,
        .file_count = config->page_file_count,
        .filter = config->io_filter,
        .filter_context = config->io_filter_context,
        .disable_io_uring = config->disable_io_uring,
        .disable_direct_io = config->disable_direct_io,
        .window_pages = config->cluster_pages,
    };
    tide_status status = topology_create(config->topology_synthetic, config->topology_xml, &partition->topology);

    if (tide_failed(status))
        return status;
    const struct frames_options frames = { .config = config,
                                           .topology = partition->topology,
                                           .detach = page_table_detach,
                                           .vacate = page_table_vacate,
                                           .near = page_table_near };
    sync_lock_init(&partition->lock, SYNC_RANK_engine);
    partition->reclaim = reclaim;
    partition->extend = extend;
    partition->bad_settle = engine_bad_settle;
    sync_event_init(&partition->extender.event);
    if (!config->disable_aslr)
        partition->aslr_seed = random_mix(config->aslr_seed != 0 ? config->aslr_seed : os_random()) | 1;
    partition->cluster_pages = config->cluster_pages == 0 ? 16 : config->cluster_pages;
    partition->keep_page_order = config->keep_page_order;
    partition->frame_wait_ns = (config->frame_wait_ms == 0 ? 30000u : config->frame_wait_ms) * 1000000ull;
    partition->waits = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *partition->waits);
    if (partition->waits == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the wait table of %zu bytes",
                         sizeof *partition->waits);
    for (unsigned i = 0; i < PTE_WAIT_BUCKETS; i++)
        sync_event_init(&partition->waits->buckets[i].event);
    /* The files first: they are the likelier to be refused, and the frames take long to populate. */
    status = stores_create(&stores, &partition->stores);
    if (!tide_failed(status))
        status = frames_create(&frames, &partition->frames);
    if (!tide_failed(status))
        status = interleave_create(&partition->interleave, partition->frames);
    if (!tide_failed(status))
        status = node_pairs_create(&partition->pairs, partition->topology);
    return status;
}

/*
 * Memory for an engine: that of a closed one, if there is. It is never given back to the process, so that the magic of
 * a handle that was closed can be read at any time, and is wrong until the memory becomes another engine.
 */
static tide_engine *memory_get(void)
{
    struct quiet quiet;

    quiet_lock(&registry_lock, &quiet);
    tide_engine *engine = closed;
    if (engine != NULL)
        closed = engine->next;
    quiet_unlock(&registry_lock, &quiet);
    if (engine == NULL)
        engine = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *engine);
    if (engine != NULL)
        memset(engine, 0, sizeof *engine);
    return engine;
}

static void engine_free(tide_engine *engine)
{
    struct quiet quiet;
    struct partition *partition = &engine->partition;

    workers_destroy(engine->workers);
    commit_destroy(&partition->commit);
    node_pairs_destroy(&partition->pairs);
    interleave_destroy(&partition->interleave);
    frames_destroy(partition->frames);
    stores_destroy(partition->stores);
    free(partition->waits);
    topology_destroy(partition->topology);
    quiet_lock(&registry_lock, &quiet);
    engine->next = closed;
    closed = engine;
    quiet_unlock(&registry_lock, &quiet);
}

tide_status tide_engine_open(const tide_config *config, tide_engine **out)
{
    struct quiet quiet;
    tide_status status = config_check(config);
    tide_engine *engine;

    if (tide_failed(status))
        return status;
    if (out == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the engine is NULL");
    pthread_once(&thread_once, thread_key_create);
    engine = memory_get();
    if (engine == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for an engine of %zu bytes", sizeof *engine);
    sync_lock_init(&engine->world, SYNC_RANK_world);
    status = partition_open(&engine->partition, config);
    if (!tide_failed(status)) {
        engine->reserve_pages = reserve_pages(engine->partition.frames);
        engine->partition.resident_limit = engine->partition.frames->total > engine->reserve_pages
                                               ? engine->partition.frames->total - engine->reserve_pages
                                               : 0;
        status =
            commit_init(&engine->partition.commit, limit_of(engine, stores_capacity_pages(engine->partition.stores)),
                        engine->partition.topology->cpu_count);
        if (!tide_failed(status))
            commit_extension_set(&engine->partition.commit,
                                 limit_of(engine, stores_maximum_pages(engine->partition.stores)),
                                 &engine->partition.extender);
    }
    if (!tide_failed(status))
        status = commit_events_init(&engine->partition.commit, config->low_commit_event_percent,
                                    config->high_commit_event_percent);
    if (!tide_failed(status))
        status = workers_create(&engine->partition, config, &engine->workers);
    if (!tide_failed(status))
        status = workers_start(engine->workers);
    if (tide_failed(status)) {
        engine_free(engine);
        return status;
    }
    quiet_lock(&registry_lock, &quiet);
    engine->id = ++registry_next_id;
    engine->next = registry;
    registry = engine;
    quiet_unlock(&registry_lock, &quiet);
    engine->magic = ENGINE_MAGIC;
    *out = engine;
    return TIDE_SUCCESS;
}

tide_status tide_engine_close(tide_engine *engine)
{
    struct quiet quiet;
    tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    quiet_lock(&engine->partition.lock, &quiet);
    const uint64_t spaces = engine->partition.space_count;
    quiet_unlock(&engine->partition.lock, &quiet);
    if (spaces != 0)
        return error_set(TIDE_DEVICE_BUSY, 0, 0, "%lu spaces of the engine are open; there must be 0", spaces);
    quiet_lock(&registry_lock, &quiet);
    for (tide_engine **link = &registry; *link != NULL; link = &(*link)->next) {
        if (*link == engine) {
            *link = engine->next;
            break;
        }
    }
    quiet_unlock(&registry_lock, &quiet);
    thread_entries_prune();
    engine->magic = 0;
    engine_free(engine);
    return TIDE_SUCCESS;
}

static tide_status write_status(int error)
{
    return error == 0 ? TIDE_SUCCESS
                      : error_set(TIDE_IO_ERROR, error, 0, "writing to a page file: %s; the pages stay modified",
                                  strerror(error));
}

struct grace_thread *engine_call_begin(tide_space *space, tide_status *status)
{
    *status = space_check(space);
    if (tide_failed(*status))
        return NULL;
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        *status = TIDE_INSUFFICIENT_RESOURCES;
    else
        grace_enter(thread);
    return thread;
}

/* ---- workers ---------------------------------------------------------------------------------------------------- */

static tide_status worker_check(const tide_engine *engine, tide_worker worker)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if ((unsigned)worker >= TIDE_WORKER_COUNT)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "worker %u; the highest is %u", (unsigned)worker,
                         TIDE_WORKER_COUNT - 1);
    return TIDE_SUCCESS;
}

tide_status tide_worker_hold(tide_engine *engine, tide_worker worker, bool hold)
{
    const tide_status status = worker_check(engine, worker);

    if (!tide_failed(status))
        workers_hold(engine->workers, worker, hold);
    return status;
}

tide_status tide_worker_step(tide_engine *engine, tide_worker worker, unsigned node, uint64_t budget_pages,
                             uint64_t *done_pages)
{
    tide_status status = worker_check(engine, worker);
    int error = 0;

    if (!tide_failed(status))
        status = engine_node_check(engine, node);
    if (tide_failed(status))
        return status;
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    const uint64_t done =
        worker_run(workers_get(engine->workers, worker, node), thread, budget_pages == 0 ? UINT64_MAX : budget_pages,
                   worker == TIDE_WORKER_MODIFIED_WRITER ? WORKER_FORCED : WORKER_DUE, &error);
    if (done_pages != NULL)
        *done_pages = done;
    return write_status(error);
}

tide_status tide_clock_advance(tide_engine *engine, uint64_t milliseconds)
{
    tide_status status = engine_check(engine);

    if (!tide_failed(status) && engine->workers->mode != TIDE_WORKERS_MANUAL)
        status = error_set(TIDE_INVALID_PARAMETER, 0, 0, "the engine has worker threads and the real clock");
    if (!tide_failed(status))
        (void)sync_add_64(&engine->workers->virtual_ns, milliseconds * 1000000u);
    if (!tide_failed(status))
        partition_events_look(&engine->partition);
    return status;
}

static void empty_working_sets(tide_engine *engine)
{
    struct quiet quiet;
    const struct working_set_choice all = { .node = TIDE_NO_PREFERRED_NODE, .accessed_too = true };

    quiet_lock(&engine->partition.lock, &quiet);
    for (tide_space *space = engine->partition.spaces; space != NULL; space = space->next)
        (void)working_set_trim(space, all, UINT64_MAX);
    quiet_unlock(&engine->partition.lock, &quiet);
}

tide_status tide_engine_empty(tide_engine *engine, tide_empty what)
{
    tide_status status = engine_check(engine);
    int error = 0;

    if (tide_failed(status))
        return status;
    if ((unsigned)what > TIDE_EMPTY_FREE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "list %u to empty; the highest is %u", (unsigned)what,
                         TIDE_EMPTY_FREE);
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    struct frames *frames = engine->partition.frames;
    (void)grace_advance_outside(thread);
    if (what == TIDE_EMPTY_FREE) {
        grace_enter(thread); /* a stopped world finds no frame on its way */
        frames_drain_caches(frames);
        grace_leave(thread);
    }
    for (unsigned n = 0; n < frames->node_count; n++) {
        if (what == TIDE_EMPTY_MODIFIED) {
            do
                (void)worker_run(workers_get(engine->workers, TIDE_WORKER_MODIFIED_WRITER, n), thread, UINT64_MAX,
                                 WORKER_FORCED, &error);
            while (error == 0 && workers_write_wait(engine->workers, n));
            continue;
        }
        grace_enter(thread);
        if (what == TIDE_EMPTY_WORKING_SETS && n == 0)
            empty_working_sets(engine);
        /* Lists need no section, and must not hold back the grace period that their frames wait for. */
        grace_io_begin(thread);
        if (what == TIDE_EMPTY_STANDBY || what == TIDE_EMPTY_STANDBY_LOWEST)
            (void)frames_repurpose(frames, n, what == TIDE_EMPTY_STANDBY ? 7 : 0, UINT64_MAX);
        else if (what == TIDE_EMPTY_FREE)
            (void)frames_zero_free(frames, n, UINT64_MAX);
        grace_io_end(thread);
        grace_leave(thread);
    }
    if (frames_bad_changed(frames))
        engine_bad_settle(&engine->partition);
    partition_events_look(&engine->partition);
    return write_status(error);
}

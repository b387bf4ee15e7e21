/*
 * What a program gives to calls, and where it wants the answers, may lie in a mapped space of the same engine: a program
 * whose heap is one has all its structures there. Each call that takes or fills memory of the caller's is made again and
 * again while another thread takes all pages away, so that any touch of an argument can be a fault. Who would touch one
 * with a lock of the engine's held, which the fault may need, is caught by an assertion in debug builds, and hangs in
 * others.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENTRIES = 8, CHANGES = 200, ROUNDS = 300 };

/* All that calls are given. It straddles pages as a heap's objects do. */
struct arguments {
    tide_statistics engine, engine_after;
    tide_rates rates;
    tide_node_statistics node;
    tide_space_statistics space;
    tide_page_file_statistics file;
    tide_performance_information performance;
    tide_memory_status memory;
    tide_working_set_statistics set;
    tide_working_set_entry entries[ENTRIES];
    tide_working_set_change changes[CHANGES];
    tide_page_info page;
    tide_use_matrix matrix;
    char text[4096];
    tide_frame_info frame;
    tide_node_info node_info;
    tide_verify_report report;
    tide_mapped_statistics mapped;
    tide_pressure_snapshot before, after;
    tide_pressure_verdict verdict;
    tide_memory_thresholds thresholds;
    tide_numa_node_memory node_memory;
    tide_placement placement;
    tide_mapped_options options;
    tide_region region;
    tide_stack stack;
    tide_memory_range ranges[2];
    tide_address base, lowest, highest, watched[ENTRIES], addresses[ENTRIES];
    tide_access access;
    tide_extent extent;
    tide_space *fresh;
    tide_pin *pin;
    void *pointers[ENTRIES];
    uint64_t bytes, count, lost, minimum, maximum, done, pairs[TIDE_MAX_NODES * TIDE_MAX_NODES];
    uint32_t flags, old, granularity, number;
    unsigned priority, pieces;
    bool set_now;
};

struct scene {
    struct fixture *fixture;
    tide_space *space; /* the arguments lie there, */
    struct arguments *arguments;
    tide_address data; /* and pages that calls are about, with write watch */
    atomic_bool over;
};

/* From a page's last bytes on, so that what calls check first and what they fill are not on one page. */
static struct arguments *arguments_new(tide_space *space)
{
    const uint64_t pages = (sizeof(struct arguments) + 2 * PG) / PG;
    struct arguments *arguments = (void *)((char *)tide_pointer(region_new(space, pages)) + PG - 16);

    memset(arguments, 0, sizeof *arguments);
    arguments->engine.struct_bytes = sizeof arguments->engine;
    arguments->engine_after.struct_bytes = sizeof arguments->engine_after;
    arguments->space.struct_bytes = sizeof arguments->space;
    arguments->file.struct_bytes = sizeof arguments->file;
    arguments->performance.struct_bytes = sizeof arguments->performance;
    arguments->memory.struct_bytes = sizeof arguments->memory;
    arguments->mapped.struct_bytes = sizeof arguments->mapped;
    arguments->node_memory.struct_bytes = sizeof arguments->node_memory;
    arguments->placement.struct_bytes = sizeof arguments->placement;
    arguments->placement.node = TIDE_NO_PREFERRED_NODE;
    return arguments;
}

static void *taker(void *context)
{
    struct scene *scene = context;

    while (!atomic_load(&scene->over)) {
        if (tide_working_set_empty(scene->space) != TIDE_SUCCESS)
            abort();
        sched_yield();
    }
    return NULL;
}

static void figures(struct scene *scene, struct arguments *a)
{
    tide_engine *engine = scene->fixture->engine;

    assert_success(tide_statistics_get(engine, &a->engine));
    assert_success(tide_node_statistics_get(engine, 0, &a->node));
    assert_success(tide_space_statistics_get(scene->space, &a->space));
    assert_success(tide_page_file_statistics_get(engine, 0, &a->file));
    assert_success(tide_performance_information_get(engine, &a->performance));
    assert_success(tide_memory_status_get(scene->space, &a->memory));
    assert_success(tide_working_set_statistics_get(scene->space, &a->set));
    assert_success(tide_use_matrix_get(engine, &a->matrix));
    assert_true(tide_use_matrix_print(&a->matrix, a->text, sizeof a->text) > 0);
    assert_success(tide_frame_query(engine, 1, &a->frame));
    assert_success(tide_node_info_get(engine, 0, &a->node_info));
    assert_success(tide_mapped_query(scene->space, &a->mapped));
    assert_success(tide_memory_thresholds_get(engine, &a->thresholds));
    assert_success(tide_memory_event_query(engine, TIDE_EVENT_LOW_MEMORY, &a->set_now));
    assert_success(tide_numa_highest_node_get(engine, &a->number));
    assert_success(tide_numa_available_memory_get(engine, 0, &a->bytes));
    assert_success(tide_numa_node_memory_get(engine, 0, &a->node_memory));
    assert_success(tide_numa_faults_get(engine, a->pairs, TIDE_MAX_NODES * TIDE_MAX_NODES));
    assert_success(tide_thread_get_node(engine, &a->number));
    assert_success(tide_thread_get_priority(engine, &a->priority));
    assert_success(tide_space_get_priority(scene->space, &a->priority));
    assert_success(tide_space_range(scene->space, &a->lowest, &a->highest));
    assert_success(tide_working_set_get_limits(scene->space, &a->minimum, &a->maximum, &a->flags));
    assert_success(tide_working_set_trim(scene->space, 1, &a->done));
    usleep(1);
    assert_success(tide_statistics_get(engine, &a->engine_after));
    assert_success(tide_statistics_rates(&a->engine, &a->engine_after, &a->rates));
    assert_success(tide_engine_verify(engine, &a->report));
    assert_int_equal(a->report.violations, 0);
}

static void pressure(struct scene *scene, struct arguments *a)
{
    assert_success(tide_pressure_snapshot_take(scene->fixture->engine, &a->before));
    usleep(1);
    assert_success(tide_pressure_snapshot_take(scene->fixture->engine, &a->after));
    assert_success(tide_pressure_classify(&a->before, &a->after, NULL, &a->verdict));
    tide_pressure_snapshot_free(&a->before);
    tide_pressure_snapshot_free(&a->after);
}

static void places(struct scene *scene, struct arguments *a)
{
    assert_success(tide_space_set_placement(scene->space, &a->placement));
    assert_success(tide_space_get_placement(scene->space, &a->placement));
    assert_success(tide_placement_query(scene->space, scene->data, &a->placement));
    assert_success(tide_space_get_placement(scene->space, &a->placement));
}

static void regions(struct scene *scene, struct arguments *a)
{
    tide_space *space = scene->space;

    a->base = 0;
    a->bytes = 4 * PG;
    assert_success(
        tide_virtual_alloc(space, &a->base, &a->bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_success(tide_virtual_query(space, a->base, &a->region));
    assert_int_equal(a->region.bytes, 4 * PG);
    assert_success(tide_page_query(space, a->base, &a->page));
    assert_success(tide_virtual_protect(space, a->base, PG, TIDE_PAGE_READONLY, &a->old));
    assert_int_equal(a->old, TIDE_PAGE_READWRITE);
    a->ranges[0] = (tide_memory_range){ a->base, 4 * PG };
    a->ranges[1] = (tide_memory_range){ scene->data, 4 * PG };
    assert_success(tide_virtual_prefetch(space, a->ranges, 2, 0));
    a->bytes = 0;
    assert_success(tide_virtual_free_native(space, &a->base, &a->bytes, TIDE_MEM_RELEASE));
    assert_int_equal(a->bytes, 4 * PG);
    assert_success(tide_stack_create(space, 16 * PG, PG, &a->stack));
    assert_success(tide_virtual_free(space, a->stack.allocation_base, 0, TIDE_MEM_RELEASE));
    tide_mapped_options_init(&a->options);
    a->options.window_bytes = TIDE_LARGE_PAGE_BYTES;
    assert_success(tide_mapped_space_create(scene->fixture->engine, &a->options, &a->fresh));
    assert_success(tide_space_destroy(a->fresh));
    assert_success(tide_space_create(scene->fixture->engine, &a->fresh));
    assert_success(tide_space_destroy(a->fresh));
}

static void pages(struct scene *scene, struct arguments *a)
{
    tide_space *space = scene->space;

    for (unsigned i = 0; i < ENTRIES; i++) {
        ((volatile char *)tide_pointer(scene->data))[i * PG] = 1;
        a->entries[i].address = scene->data + i * PG;
        a->addresses[i] = scene->data + i * PG;
    }
    assert_success(tide_working_set_query(space, a->entries, ENTRIES));
    a->count = ENTRIES;
    assert_success(tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, scene->data, ENTRIES * PG, a->watched, &a->count,
                                        &a->granularity));
    a->count = CHANGES;
    assert_success(tide_working_set_changes_get(space, a->changes, &a->count, &a->lost));
    assert_success(tide_access_begin(space, &a->access));
    assert_success(tide_access_pointers(&a->access, a->addresses, ENTRIES, TIDE_ACCESS_READ, a->pointers));
    assert_success(tide_access_extent(&a->access, scene->data, TIDE_ACCESS_READ, &a->extent));
    tide_access_end(&a->access);
    assert_success(tide_pin_create(space, scene->data, 2 * PG, TIDE_ACCESS_WRITE, &a->pin));
    assert_non_null(tide_pin_iovec(a->pin, &a->pieces));
    tide_pin_destroy(a->pin);
}

static void arguments_may_lie_in_a_mapped_space(void **state)
{
    struct scene scene = { .fixture = *state };
    tide_address data = 0;
    uint64_t bytes = ENTRIES * PG;
    pthread_t thread;

    scene.fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(scene.fixture, 500);
    fixture_open(scene.fixture, 500);
    assert_success(tide_mapped_space_create(scene.fixture->engine, NULL, &scene.space));
    assert_success(tide_virtual_alloc(scene.space, &data, &bytes,
                                      TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH, TIDE_PAGE_READWRITE));
    scene.data = data;
    scene.arguments = arguments_new(scene.space);
    assert_success(tide_working_set_watch_begin(scene.space, CHANGES));
    assert_int_equal(pthread_create(&thread, NULL, taker, &scene), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        figures(&scene, scene.arguments);
        pressure(&scene, scene.arguments);
        places(&scene, scene.arguments);
        regions(&scene, scene.arguments);
        pages(&scene, scene.arguments);
    }
    atomic_store(&scene.over, true);
    pthread_join(thread, NULL);
    assert_success(tide_working_set_watch_end(scene.space));
    assert_success(tide_space_destroy(scene.space));
    fixture_close(scene.fixture);
}

static const struct CMUnitTest mapped_arguments[] = {
    API_TEST(arguments_may_lie_in_a_mapped_space),
};

API_MAIN_MAPPED(mapped_arguments)

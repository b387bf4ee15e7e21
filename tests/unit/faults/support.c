/*
 * Scene, device and helpers of the tests of the fault path and of the workers; the contracts are in support.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the device ------------------------------------------------------------------------------------------------- */

static int device_filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    struct device *device = context;
    int error = 0;

    (void)file;
    pthread_mutex_lock(&device->lock);
    if (device->count < DEVICE_NOTES_MAX)
        device->notes[device->count++] = (struct io_note){ kind, slot, pages };
    device->waiting[kind]++;
    pthread_cond_broadcast(&device->moved);
    while (device->held[kind])
        pthread_cond_wait(&device->moved, &device->lock);
    device->waiting[kind]--;
    if (device->error != 0 && kind == device->error_kind && pages > device->error_pages && device->errors_left != 0 &&
        (device->error_slot == 0 || device->error_slot - slot < pages)) {
        device->errors_left--;
        error = device->error;
    }
    pthread_mutex_unlock(&device->lock);
    return error;
}

void device_fail(struct device *device, tide_io_kind kind, int error, unsigned more_than_pages, uint64_t slot,
                 unsigned times)
{
    pthread_mutex_lock(&device->lock);
    device->error = error;
    device->error_kind = kind;
    device->error_pages = more_than_pages;
    device->error_slot = slot;
    device->errors_left = times;
    pthread_mutex_unlock(&device->lock);
}

void device_hold(struct device *device, tide_io_kind kind, bool hold)
{
    pthread_mutex_lock(&device->lock);
    device->held[kind] = hold;
    pthread_cond_broadcast(&device->moved);
    pthread_mutex_unlock(&device->lock);
}

void device_wait_held(struct device *device, tide_io_kind kind)
{
    pthread_mutex_lock(&device->lock);
    while (device->waiting[kind] == 0)
        pthread_cond_wait(&device->moved, &device->lock);
    pthread_mutex_unlock(&device->lock);
}

void device_forget(struct device *device)
{
    device->count = 0;
}

void assert_lengths_are(const struct device *device, tide_io_kind kind, int line, const unsigned *lengths)
{
    char got[DEVICE_NOTES_MAX * 4 + 1] = "";
    size_t used = 0;
    bool same = true;

    for (unsigned i = 0; i < device->count; i++) {
        if (device->notes[i].kind != kind)
            continue;
        used += (size_t)snprintf(got + used, sizeof got - used, " %u", device->notes[i].pages);
        same = same && device->notes[i].pages == *lengths;
        lengths += *lengths != 0;
    }
    if (!same || *lengths != 0)
        fail_msg("line %d: the operations had the lengths%s", line, got);
}

/* ---- the scene -------------------------------------------------------------------------------------------------- */

int scene_setup(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    const char *temporary = getenv("TMPDIR");

    if (scene == NULL)
        return -1;
    snprintf(scene->folder, sizeof scene->folder, "%s/tide-unit-XXXXXX",
             temporary != NULL && temporary[0] != 0 ? temporary : ".");
    if (mkdtemp(scene->folder) == NULL) {
        print_error("cannot create %s: %s\n", scene->folder, strerror(errno));
        free(scene);
        return -1;
    }
    snprintf(scene->path, sizeof scene->path, "%s/page.sys", scene->folder);
    pthread_mutex_init(&scene->device.lock, NULL);
    pthread_cond_init(&scene->device.moved, NULL);
    tide_config_init(&scene->config);
    scene->config.disable_aslr = true;
    scene->config.workers = TIDE_WORKERS_MANUAL;
    scene->config.cpu_cache_pages = TIDE_NO_CPU_CACHE;
    scene->config.list_shards = 1;
    scene->config.disable_huge_pages = true;
    scene->config.io_filter = device_filter;
    scene->config.io_filter_context = &scene->device;
    *state = scene;
    return 0;
}

int scene_teardown(void **state)
{
    struct scene *scene = *state;

    unlink(scene->path);
    rmdir(scene->folder);
    if (scene->engine == NULL)
        free(scene); /* else the test failed, and threads of it may still be inside */
    return 0;
}

void scene_open(struct scene *scene, uint64_t frames, uint64_t slots)
{
    scene->config.memory_bytes = frames * PAGE;
    if (slots != 0) {
        scene->file = (tide_page_file_config){ .path = scene->path, .minimum_bytes = (slots + 1) * PAGE };
        scene->config.page_files = &scene->file;
        scene->config.page_file_count = 1;
    }
    assert_status(tide_engine_open(&scene->config, &scene->engine), TIDE_SUCCESS);
    scene->partition = &scene->engine->partition;
    scene->frames = scene->partition->frames;
}

void scene_verify(struct scene *scene)
{
    tide_verify_report report;

    if (tide_engine_verify(scene->engine, &report) != TIDE_SUCCESS)
        fail_msg("%lu violations, the first: %s", report.violations, report.first);
}

void scene_close(struct scene *scene)
{
    scene_verify(scene);
    while (scene->partition->spaces != NULL)
        assert_status(tide_space_destroy(scene->partition->spaces), TIDE_SUCCESS);
    scene_verify(scene);
    assert_int_equal(slots_used(scene), 0);
    assert_int_equal(statistics_now(scene).commit_total_pages, 0);
    assert_status(tide_engine_close(scene->engine), TIDE_SUCCESS);
    scene->engine = NULL;
}

tide_space *space_new(struct scene *scene)
{
    tide_space *space = NULL;

    assert_status(tide_space_create(scene->engine, &space), TIDE_SUCCESS);
    return space;
}

tide_address region_new(tide_space *space, uint64_t first, uint64_t pages)
{
    const tide_address wanted = first * PAGE;
    tide_address base = wanted;
    uint64_t bytes = pages * PAGE;

    assert_status(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                  TIDE_SUCCESS);
    assert_int_equal(base, wanted);
    return base;
}

void decommit(tide_space *space, tide_address base, uint64_t pages)
{
    assert_status(tide_virtual_free(space, base, pages * PAGE, TIDE_MEM_DECOMMIT), TIDE_SUCCESS);
}

/* ---- looking ---------------------------------------------------------------------------------------------------- */

uint64_t *pte_at(const tide_space *space, tide_address address)
{
    uint64_t *pte = page_table_find(&space->table, address / PAGE);

    assert_non_null(pte);
    return pte;
}

tide_page_info page_now(tide_space *space, tide_address address)
{
    tide_page_info info;

    assert_status(tide_page_query(space, address, &info), TIDE_SUCCESS);
    return info;
}

void assert_state(tide_space *space, tide_address address, tide_page_state state)
{
    assert_int_equal(page_now(space, address).state, state);
}

uint64_t word_at(const tide_space *space, tide_address address)
{
    return sync_load_64(&frame_pfn(space_frames(space), pte_frame(pte_load(pte_at(space, address))))->word);
}

tide_fault_counters faults_of(tide_space *space)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };

    assert_status(tide_space_statistics_get(space, &statistics), TIDE_SUCCESS);
    return statistics.faults;
}

tide_statistics statistics_now(const struct scene *scene)
{
    tide_statistics statistics = { .struct_bytes = sizeof statistics };

    assert_status(tide_statistics_get(scene->engine, &statistics), TIDE_SUCCESS);
    return statistics;
}

struct frames_counts counts_now(const struct scene *scene)
{
    struct frames_counts counts;

    frames_counts(scene->frames, 0, &counts);
    return counts;
}

uint64_t slots_used(const struct scene *scene)
{
    return statistics_now(scene).page_file_used_slots;
}

void assert_status_is(tide_status got, tide_status expected, int line)
{
    if (got != expected)
        fail_msg("line %d: %s, not %s; the last error is \"%s\"", line, tide_status_name(got),
                 tide_status_name(expected), tide_last_error()->message);
}

/* ---- moving pages ----------------------------------------------------------------------------------------------- */

void touch(tide_space *space, tide_address address, tide_access_kind kind, tide_status expected)
{
    assert_status(tide_touch(space, address, kind), expected);
}

void stamp(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t words[PAGE / sizeof(uint64_t)];

    for (uint64_t i = 0; i < pages; i++) {
        for (unsigned w = 0; w < PAGE / sizeof *words; w++)
            words[w] = base + i * PAGE;
        assert_status(tide_write(space, base + i * PAGE, words, sizeof words), TIDE_SUCCESS);
    }
}

void check_stamps(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t words[PAGE / sizeof(uint64_t)];

    for (uint64_t i = 0; i < pages; i++) {
        assert_status(tide_read(space, base + i * PAGE, words, sizeof words), TIDE_SUCCESS);
        for (unsigned w = 0; w < PAGE / sizeof *words; w++)
            assert_int_equal(words[w], base + i * PAGE);
    }
}

void trim_page(tide_space *space, tide_address address)
{
    const struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE };
    uint64_t *pte = pte_at(space, address);

    assert_true(pte_is_valid(pte_load(pte)));
    sync_store_64(pte, *pte & ~PTE_ACCESSED);
    assert_int_equal(working_set_trim(space, choice, 1), 1);
    assert_false(pte_is_valid(pte_load(pte)));
}

uint64_t writer_run(struct scene *scene, uint64_t budget, tide_status expected)
{
    uint64_t done = 0;

    assert_status(tide_worker_step(scene->engine, TIDE_WORKER_MODIFIED_WRITER, 0, budget, &done), expected);
    return done;
}

void page_out(struct scene *scene, tide_space *space)
{
    assert_status(tide_working_set_empty(space), TIDE_SUCCESS);
    (void)writer_run(scene, 0, TIDE_SUCCESS);
    assert_status(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    device_forget(&scene->device);
}

/* ---- one more thread -------------------------------------------------------------------------------------------- */

static void *helper_main(void *context)
{
    struct helper *helper = context;

    if (helper->space != NULL)
        helper->status = tide_touch(helper->space, helper->address, helper->kind);
    else
        helper->status = tide_worker_step(helper->scene->engine, TIDE_WORKER_MODIFIED_WRITER, 0, 0, &helper->done);
    return NULL;
}

void helper_start(struct helper *helper)
{
    assert_int_equal(pthread_create(&helper->thread, NULL, helper_main, helper), 0);
}

void helper_join(struct helper *helper)
{
    assert_int_equal(pthread_join(helper->thread, NULL), 0);
}

void wait_until_waited_for(const uint64_t *pte)
{
    for (;;) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen) && (seen.bits & PTE_WAITED) != 0)
            return;
        sched_yield();
    }
}

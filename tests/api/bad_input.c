/*
 * Bad input: every configuration and argument that cannot be is refused with a status and a message that names the
 * value and the limit; the engine does not open, or stays as it was; nothing is left on disk. And I/O errors of the
 * page file reach the caller of the access, are counted, and lose no page.
 *
 * Most cases are rows of tables. A refused open is tried with a good page file in the same configuration, so that files
 * made before the failure was found must be gone again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { FRAMES = 256 };

/* ---- what messages say ------------------------------------------------------------------------------------------ */

/* Whether a number stands in a text as a word of its own, decimal or hexadecimal. */
static bool names_number(const char *text, uint64_t number)
{
    while (*text != '\0') {
        if (*text < '0' || *text > '9') {
            text++;
            continue;
        }
        char *end;
        const bool hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
        if (strtoull(text, &end, hexadecimal ? 16 : 10) == number)
            return true;
        text = end;
    }
    return false;
}

static void assert_names(uint64_t number)
{
    const char *message = tide_last_error()->message;
    if (!names_number(message, number))
        fail_msg("the message does not name %llu (0x%llx): \"%s\"", (unsigned long long)number,
                 (unsigned long long)number, message);
}

/* Status returned and recorded, and both the value and the limit named. 0 as value or limit: not looked for. */
static void assert_refused(tide_status got, tide_status expected, uint64_t value, uint64_t limit, const char *what)
{
    if (got != expected)
        print_error("%s\n", what);
    assert_status(got, expected);
    assert_int_equal(tide_last_error()->status, expected);
    if (tide_last_error()->message[0] == '\0')
        fail_msg("%s: no message", what);
    if (value != 0)
        assert_names(value);
    if (limit != 0)
        assert_names(limit);
}

static unsigned entries(const char *folder)
{
    unsigned count = 0;
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    const struct dirent *entry;
    while ((entry = readdir(directory)) != NULL)
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(directory);
    return count;
}

/* Opens with the fixture's configuration: refused, no engine, and the folder as it was. */
static void assert_not_opened(struct fixture *fixture, tide_status expected, uint64_t value, uint64_t limit,
                              const char *what)
{
    const unsigned before = entries(fixture->folder);
    tide_engine *engine = NULL;
    const tide_status status = tide_engine_open(&fixture->config, &engine);
    assert_refused(status, expected, value, limit, what);
    if (engine != NULL)
        fail_msg("%s: refused, and yet an engine", what);
    if (entries(fixture->folder) != before)
        fail_msg("%s: %u entries in the folder, %u before", what, entries(fixture->folder), before);
}

/* ---- configurations --------------------------------------------------------------------------------------------- */

static const uint64_t good_nodes[] = { 64 * PG, 64 * PG, 64 * PG };
static const uint64_t empty_nodes[] = { 0, 0 };
static const uint64_t odd_nodes[] = { 64 * PG, 64 * PG + 100 };

static void zero_frames(tide_config *c)
{
    c->memory_bytes = 0;
}
static void odd_memory(tide_config *c)
{
    c->memory_bytes = 64 * PG + 1000;
}
static void all_memory(tide_config *c)
{
    c->memory_bytes = UINT64_MAX;
}
static void most_memory(tide_config *c)
{
    c->memory_bytes = UINT64_MAX - (PG - 1);
}
static void absent_node(tide_config *c)
{
    c->topology_synthetic = "numa:2 core:1 pu:1";
    c->node_bytes = good_nodes;
    c->node_count = 3;
}
static void no_node_memory(tide_config *c)
{
    c->topology_synthetic = "numa:2 core:1 pu:1";
    c->node_bytes = empty_nodes;
    c->node_count = 2;
}
static void odd_node_memory(tide_config *c)
{
    c->topology_synthetic = "numa:2 core:1 pu:1";
    c->node_bytes = odd_nodes;
    c->node_count = 2;
}
static void many_nodes(tide_config *c)
{
    c->topology_synthetic = "numa:65 core:1 pu:1";
}
static void no_topology(tide_config *c)
{
    c->topology_synthetic = "seven of nine";
}
static void two_topologies(tide_config *c)
{
    c->topology_synthetic = "numa:2 core:1 pu:1";
    c->topology_xml = "/dev/null";
}
static void absent_xml(tide_config *c)
{
    c->topology_xml = "/nonexistent/topology.xml";
}
static void bad_xml(tide_config *c)
{
    c->topology_xml = "/dev/null";
}
static void many_files(tide_config *c)
{
    c->page_file_count = TIDE_MAX_PAGE_FILES + 1;
}
static void no_files(tide_config *c)
{
    c->page_files = NULL;
}
static void long_cluster(tide_config *c)
{
    c->cluster_pages = 65;
}
static void odd_shards(tide_config *c)
{
    c->list_shards = 3;
}
static void many_shards(tide_config *c)
{
    c->list_shards = 128;
}
static void large_cache(tide_config *c)
{
    c->cpu_cache_pages = 65;
}
static void large_reserve(tide_config *c)
{
    c->writer_reserve_pages = 1u << 30;
}
static void low_over_frames(tide_config *c)
{
    c->low_available_pages = 1ull << 40;
}
static void high_under_low(tide_config *c)
{
    c->low_available_pages = 32;
    c->high_available_pages = 31;
}
static void no_worker_mode(tide_config *c)
{
    c->workers = (tide_worker_mode)7;
}
static void no_version(tide_config *c)
{
    c->struct_bytes = 0;
}
static void other_version(tide_config *c)
{
    c->struct_bytes = 3;
}

static const struct {
    const char *name;
    void (*change)(tide_config *config);
    tide_status expected;
    uint64_t value, limit; /* that the message must name, 0 for any */
} configurations[] = {
    { "zero frames", zero_frames, TIDE_INVALID_PARAMETER, 0, 0 },
    { "memory_bytes no multiple of a page", odd_memory, TIDE_INVALID_PARAMETER, 64 * PG + 1000, PG },
    { "memory_bytes UINT64_MAX", all_memory, TIDE_INVALID_PARAMETER, UINT64_MAX, PG },
    { "memory_bytes the largest multiple of a page", most_memory, TIDE_INVALID_PARAMETER, UINT64_MAX - (PG - 1), 0 },
    { "budget for a node that does not exist", absent_node, TIDE_INVALID_PARAMETER, 0, 1 },
    { "no memory on any node", no_node_memory, TIDE_INVALID_PARAMETER, 0, 0 },
    { "node_bytes no multiple of a page", odd_node_memory, TIDE_INVALID_PARAMETER, 64 * PG + 100, PG },
    { "more nodes than the limit", many_nodes, TIDE_INVALID_PARAMETER, 65, TIDE_MAX_NODES },
    { "nonsense as topology", no_topology, TIDE_INVALID_PARAMETER, 0, 0 },
    { "two topologies", two_topologies, TIDE_INVALID_PARAMETER, 0, 0 },
    { "topology file that does not exist", absent_xml, TIDE_INVALID_PARAMETER, 0, 0 },
    { "topology file that is none", bad_xml, TIDE_INVALID_PARAMETER, 0, 0 },
    { "too many page files", many_files, TIDE_INVALID_PARAMETER, TIDE_MAX_PAGE_FILES + 1, TIDE_MAX_PAGE_FILES },
    { "page_files NULL", no_files, TIDE_INVALID_PARAMETER, 1, 0 },
    { "cluster_pages 65", long_cluster, TIDE_INVALID_PARAMETER, 65, 64 },
    { "list_shards 3", odd_shards, TIDE_INVALID_PARAMETER, 3, 64 },
    { "list_shards 128", many_shards, TIDE_INVALID_PARAMETER, 128, 64 },
    { "cpu_cache_pages 65", large_cache, TIDE_INVALID_PARAMETER, 65, 64 },
    { "writer_reserve_pages over all frames", large_reserve, TIDE_INVALID_PARAMETER, 1u << 30, 0 },
    { "low_available_pages over all frames", low_over_frames, TIDE_INVALID_PARAMETER, 1ull << 40, 0 },
    { "high_available_pages below low_available_pages", high_under_low, TIDE_INVALID_PARAMETER, 31, 32 },
    { "worker mode 7", no_worker_mode, TIDE_INVALID_PARAMETER, 7, 0 },
    { "struct_bytes 0", no_version, TIDE_INVALID_PARAMETER, 0, sizeof(tide_config) },
    { "struct_bytes 3", other_version, TIDE_INVALID_PARAMETER, 3, sizeof(tide_config) },
};

static void a_configuration_that_cannot_be_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture->config.memory_bytes = FRAMES * PG;
    const tide_config good = fixture->config;
    for (size_t i = 0; i < sizeof(configurations) / sizeof(configurations[0]); i++) {
        fixture->config = good;
        configurations[i].change(&fixture->config);
        assert_not_opened(fixture, configurations[i].expected, configurations[i].value, configurations[i].limit,
                          configurations[i].name);
    }
    fixture->config = good;
    fixture_open(fixture, FRAMES);
    fixture_close(fixture);
}

static void a_budget_larger_than_memory_is_refused(void **state)
{
    struct fixture *fixture = *state;
    struct sysinfo info;
    assert_int_equal(sysinfo(&info), 0);
    const uint64_t machine = (uint64_t)info.totalram * info.mem_unit;
    fixture_page_file(fixture, 64);
    fixture->config.memory_bytes = (machine / PG + 1) * PG;
    assert_not_opened(fixture, TIDE_NO_MEMORY, (machine / PG + 1) * PG, 0, "a page more than the machine has");
    fixture->config.memory_bytes = machine / PG * 3 * PG;
    assert_not_opened(fixture, TIDE_NO_MEMORY, machine / PG * 3 * PG, 0, "three times what the machine has");

    fixture_open(fixture, FRAMES);
    fixture_close(fixture);
}

static void null_arguments_are_refused(void **state)
{
    struct fixture *fixture = *state;
    tide_engine *engine = NULL;
    fixture->config.memory_bytes = FRAMES * PG;
    assert_refused(tide_engine_open(NULL, &engine), TIDE_INVALID_PARAMETER, 0, 0, "no configuration");
    assert_refused(tide_engine_open(&fixture->config, NULL), TIDE_INVALID_PARAMETER, 0, 0, "nowhere to put the engine");

    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture), *none = NULL;
    const tide_address base = region_new(space, 4);
    tide_address address = base;
    uint64_t bytes = PG, word = 0;
    tide_pin *pin = NULL;
    tide_access access;
    tide_region region;
    tide_page_info page;
    tide_node_info node;
    tide_node_statistics node_statistics;
    tide_statistics statistics = { .struct_bytes = sizeof(statistics) };
    tide_space_statistics space_statistics = { .struct_bytes = sizeof(space_statistics) };
    tide_working_set_change change;
    uint64_t count = 1;
    uint32_t flags;
    unsigned priority;

    const struct {
        const char *call;
        tide_status status;
    } handles[] = {
        { "tide_engine_close", tide_engine_close(NULL) },
        { "tide_worker_hold", tide_worker_hold(NULL, TIDE_WORKER_TRIMMER, true) },
        { "tide_worker_step", tide_worker_step(NULL, TIDE_WORKER_TRIMMER, 0, 0, NULL) },
        { "tide_clock_advance", tide_clock_advance(NULL, 1) },
        { "tide_engine_empty", tide_engine_empty(NULL, TIDE_EMPTY_FREE) },
        { "tide_space_create", tide_space_create(NULL, &none) },
        { "tide_space_destroy", tide_space_destroy(NULL) },
        { "tide_virtual_alloc", tide_virtual_alloc(NULL, &address, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) },
        { "tide_virtual_free", tide_virtual_free(NULL, base, 0, TIDE_MEM_RELEASE) },
        { "tide_virtual_query", tide_virtual_query(NULL, base, &region) },
        { "tide_working_set_set_limits", tide_working_set_set_limits(NULL, 50, 345, 0) },
        { "tide_working_set_empty", tide_working_set_empty(NULL) },
        { "tide_working_set_trim", tide_working_set_trim(NULL, 1, NULL) },
        { "tide_working_set_get_limits", tide_working_set_get_limits(NULL, &bytes, &bytes, &flags) },
        { "tide_working_set_watch_begin", tide_working_set_watch_begin(NULL, 1) },
        { "tide_working_set_watch_end", tide_working_set_watch_end(NULL) },
        { "tide_working_set_changes_get", tide_working_set_changes_get(NULL, &change, &count, NULL) },
        { "tide_space_set_priority", tide_space_set_priority(NULL, 5) },
        { "tide_space_get_priority", tide_space_get_priority(NULL, &priority) },
        { "tide_space_background_begin", tide_space_background_begin(NULL) },
        { "tide_space_background_end", tide_space_background_end(NULL) },
        { "tide_thread_set_priority", tide_thread_set_priority(NULL, 5) },
        { "tide_thread_get_priority", tide_thread_get_priority(NULL, &priority) },
        { "tide_thread_background_begin", tide_thread_background_begin(NULL) },
        { "tide_thread_background_end", tide_thread_background_end(NULL) },
        { "tide_read", tide_read(NULL, base, &word, sizeof(word)) },
        { "tide_write", tide_write(NULL, base, &word, sizeof(word)) },
        { "tide_touch", tide_touch(NULL, base, TIDE_ACCESS_READ) },
        { "tide_touch_range", tide_touch_range(NULL, base, PG, TIDE_ACCESS_READ) },
        { "tide_access_begin", tide_access_begin(NULL, &access) },
        { "tide_pin_create", tide_pin_create(NULL, base, PG, TIDE_ACCESS_READ, &pin) },
        { "tide_statistics_get", tide_statistics_get(NULL, &statistics) },
        { "tide_node_statistics_get", tide_node_statistics_get(NULL, 0, &node_statistics) },
        { "tide_space_statistics_get", tide_space_statistics_get(NULL, &space_statistics) },
        { "tide_page_query", tide_page_query(NULL, base, &page) },
        { "tide_node_info_get", tide_node_info_get(NULL, 0, &node) },
        { "tide_engine_verify", tide_engine_verify(NULL, NULL) },
    };
    for (size_t i = 0; i < sizeof(handles) / sizeof(handles[0]); i++) {
        if (handles[i].status != TIDE_INVALID_HANDLE && handles[i].status != TIDE_INVALID_PARAMETER)
            fail_msg("%s of NULL returned %s", handles[i].call, tide_status_name(handles[i].status));
    }

    const struct {
        const char *call;
        tide_status status;
    } parameters[] = {
        { "tide_space_create", tide_space_create(fixture->engine, NULL) },
        { "tide_virtual_alloc without base",
          tide_virtual_alloc(space, NULL, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) },
        { "tide_virtual_alloc without bytes",
          tide_virtual_alloc(space, &address, NULL, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) },
        { "tide_virtual_query", tide_virtual_query(space, base, NULL) },
        { "tide_read", tide_read(space, base, NULL, 8) },
        { "tide_write", tide_write(space, base, NULL, 8) },
        { "tide_access_begin", tide_access_begin(space, NULL) },
        { "tide_pin_create", tide_pin_create(space, base, PG, TIDE_ACCESS_READ, NULL) },
        { "tide_statistics_get", tide_statistics_get(fixture->engine, NULL) },
        { "tide_node_statistics_get", tide_node_statistics_get(fixture->engine, 0, NULL) },
        { "tide_space_statistics_get", tide_space_statistics_get(space, NULL) },
        { "tide_page_query", tide_page_query(space, base, NULL) },
        { "tide_node_info_get", tide_node_info_get(fixture->engine, 0, NULL) },
        { "tide_working_set_get_limits without minimum", tide_working_set_get_limits(space, NULL, &count, &flags) },
        { "tide_working_set_get_limits without maximum", tide_working_set_get_limits(space, &count, NULL, &flags) },
        { "tide_working_set_get_limits without flags", tide_working_set_get_limits(space, &count, &count, NULL) },
        { "tide_working_set_changes_get without count", tide_working_set_changes_get(space, &change, NULL, NULL) },
        { "tide_working_set_changes_get unwatched", tide_working_set_changes_get(space, &change, &count, NULL) },
        { "tide_space_get_priority", tide_space_get_priority(space, NULL) },
        { "tide_thread_get_priority", tide_thread_get_priority(fixture->engine, NULL) },
    };
    for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
        if (parameters[i].status != TIDE_INVALID_PARAMETER)
            fail_msg("%s with NULL returned %s", parameters[i].call, tide_status_name(parameters[i].status));
    }
    tide_pin_destroy(NULL);
    assert_int_equal(tide_engine_verify(fixture->engine, NULL), TIDE_SUCCESS);
    assert_success(tide_write(space, base, &word, sizeof(word)));
    fixture_close(fixture);
}

/* ---- page files ------------------------------------------------------------------------------------------------- */

static void a_page_file_that_cannot_be_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char path[400];
    fixture_page_file(fixture, 64);
    fixture_page_file(fixture, 64);
    fixture->config.memory_bytes = FRAMES * PG;
    tide_page_file_config *file = &fixture->files[1];
    const tide_page_file_config good = *file;

    file->minimum_bytes = 64 * PG + 7;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 64 * PG + 7, PG, "minimum_bytes no multiple of a page");
    *file = good;
    file->maximum_bytes = 96 * PG + 9;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 96 * PG + 9, PG, "maximum_bytes no multiple of a page");
    *file = good;
    file->minimum_bytes = PG;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, PG, 2 * PG, "one page");
    file->minimum_bytes = 0;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 0, 2 * PG, "no page");
    *file = good;
    file->maximum_bytes = 32 * PG;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 32 * PG, good.minimum_bytes, "a maximum below the minimum");
    *file = good;
    file->minimum_bytes = (1ull << 63) - PG;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, (1ull << 63) - PG, 0,
                      "more slots than a page-table entry can name");
    *file = good;
    file->path = NULL;
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 1, 0, "no path");
    file->path = "";
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 1, 0, "an empty path");
    *file = good;
    file->path = fixture->paths[0];
    assert_not_opened(fixture, TIDE_INVALID_PARAMETER, 1, 0, "one path for two page files");
    snprintf(path, sizeof(path), "%s/absent/page.sys", fixture->folder);
    file->path = path;
    assert_not_opened(fixture, TIDE_IO_ERROR, 0, 0, "a folder that does not exist");
    assert_int_equal(tide_last_error()->io_error, ENOENT);
    snprintf(path, sizeof(path), "%s", fixture->folder);
    tide_engine *engine = NULL; /* the folder itself: whatever the status, no engine and nothing left */
    assert_true(tide_failed(tide_engine_open(&fixture->config, &engine)));
    assert_null(engine);
    assert_int_equal(entries(fixture->folder), 0);

    *file = good;
    fixture_open(fixture, FRAMES);
    fixture_close(fixture);
}

static void a_file_of_someone_else_is_not_touched(void **state)
{
    static const char text[] = "The only copy of a novel.\n";
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 64);
    fixture_page_file(fixture, 64);
    fixture->config.memory_bytes = FRAMES * PG;
    const int file = open(fixture->paths[1], O_CREAT | O_EXCL | O_RDWR, 0600);
    assert_true(file >= 0);
    assert_int_equal(write(file, text, sizeof(text)), sizeof(text));
    assert_not_opened(fixture, TIDE_OBJECT_NAME_COLLISION, 0, 0, "a novel");
    assert_non_null(strstr(tide_last_error()->message, fixture->paths[1]));
    char content[2 * sizeof(text)];
    assert_int_equal(pread(file, content, sizeof(content), 0), sizeof(text));
    assert_memory_equal(content, text, sizeof(text));
    struct stat by_name, by_file;
    assert_int_equal(stat(fixture->paths[1], &by_name), 0);
    assert_int_equal(fstat(file, &by_file), 0);
    assert_int_equal(by_name.st_ino, by_file.st_ino);
    close(file);
    assert_int_equal(unlink(fixture->paths[1]), 0);
    fixture_open(fixture, FRAMES);
    fixture_close(fixture);
}

static void a_page_file_in_use_is_refused(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 256);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 100);
    stamp_pages(space, base, 100, 1, 1);
    page_out(fixture, space);

    assert_not_opened(fixture, TIDE_SHARING_VIOLATION, (uint64_t)getpid(), 0, "the page file of an open engine");
    assert_non_null(strstr(tide_last_error()->message, fixture->paths[0]));
    check_pages(space, base, 100, 1, 1);
    stamp_pages(space, base, 100, 1, 2);
    page_out(fixture, space);
    check_pages(space, base, 100, 1, 2);
    fixture_close(fixture);
    fixture_open(fixture, FRAMES); /* free again */
    fixture_close(fixture);
}

/*
 * Mounts a small tmpfs on a new folder inside the fixture's, in a mount namespace that ends with the process. Skips the
 * test where that is not allowed.
 */
static void mount_small(struct fixture *fixture, char *folder, size_t folder_bytes, unsigned long flags,
                        const char *options)
{
    snprintf(folder, folder_bytes, "%s/small", fixture->folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("small", folder, "tmpfs", flags, options) != 0) {
        print_message("skipped: no tmpfs can be mounted here: %s\n", strerror(errno));
        rmdir(folder);
        skip();
    }
}

static void a_full_disk_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char folder[300], path[400];
    mount_small(fixture, folder, sizeof(folder), 0, "size=128k");
    snprintf(path, sizeof(path), "%s/page.sys", folder);
    fixture_page_file(fixture, 64); /* fits, and is made first */
    fixture_page_file(fixture, 255);
    fixture->files[1].path = path;
    fixture->config.memory_bytes = FRAMES * PG;
    assert_not_opened(fixture, TIDE_DISK_FULL, 256 * PG, 0, "a megabyte on a disk of 128 KiB");
    assert_int_equal(tide_last_error()->io_error, ENOSPC);
    assert_int_equal(entries(folder), 0);
    fixture->files[1].minimum_bytes = 16 * PG; /* the same disk, a size that fits */
    fixture_open(fixture, FRAMES);
    assert_int_equal(statistics_now(fixture).page_file_total_slots, 64 + 15);
    assert_int_equal(entries(folder), 1);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 70);
    stamp_pages(space, base, 70, 1, 1);
    page_out(fixture, space);
    check_pages(space, base, 70, 1, 1);
    space_close(fixture, space);
    assert_success(tide_engine_close(fixture->engine));
    fixture->engine = NULL;
    assert_int_equal(entries(folder), 0);
    assert_int_equal(umount(folder), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(entries(fixture->folder), 0);
}

static void a_read_only_disk_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char folder[300], path[400];
    mount_small(fixture, folder, sizeof(folder), MS_RDONLY, "size=1m");
    snprintf(path, sizeof(path), "%s/page.sys", folder);
    fixture_page_file(fixture, 64);
    fixture_page_file(fixture, 64);
    fixture->files[1].path = path;
    fixture->config.memory_bytes = FRAMES * PG;
    assert_not_opened(fixture, TIDE_IO_ERROR, 0, 0, "a page file on a read-only disk");
    assert_int_equal(tide_last_error()->io_error, EROFS);
    assert_non_null(strstr(tide_last_error()->message, path));
    assert_int_equal(umount(folder), 0);
    assert_int_equal(rmdir(folder), 0);
    assert_int_equal(entries(fixture->folder), 0);
}

static void a_read_only_folder_is_refused(void **state)
{
    struct fixture *fixture = *state;
    char folder[300], path[400];
    if (geteuid() == 0) {
        print_message("skipped: root may write everywhere\n");
        skip();
    }
    snprintf(folder, sizeof(folder), "%s/closed", fixture->folder);
    snprintf(path, sizeof(path), "%s/page.sys", folder);
    assert_int_equal(mkdir(folder, 0500), 0);
    fixture_page_file(fixture, 64);
    fixture->files[0].path = path;
    fixture->config.memory_bytes = FRAMES * PG;
    assert_not_opened(fixture, TIDE_IO_ERROR, 0, 0, "a page file in a read-only folder");
    assert_int_equal(tide_last_error()->io_error, EACCES);
    assert_int_equal(rmdir(folder), 0);
}

/* ---- ranges, flags and nodes ------------------------------------------------------------------------------------ */

/* What must not change by a refused call. */
struct figures {
    uint64_t charge, bytes, regions, private_pages;
};

static struct figures figures_now(struct fixture *fixture, tide_space *space)
{
    const tide_space_statistics s = space_now(space);
    return (struct figures){ statistics_now(fixture).commit_total_pages, s.virtual_bytes, s.regions, s.private_pages };
}

static void a_bad_allocation_is_refused_and_changes_nothing(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    enum { RW = TIDE_PAGE_READWRITE, RESERVE = TIDE_MEM_RESERVE, COMMIT = TIDE_MEM_COMMIT, BOTH = RESERVE | COMMIT };
    static const tide_address at = 0x50000000, beyond = TIDE_HIGHEST_ADDRESS + 1;
    static const struct {
        const char *name;
        tide_address base;
        uint64_t bytes;
        uint32_t type, protection, node;
        tide_status expected;
        uint64_t value, limit;
    } rows[] = {
        { "no bytes", 0, 0, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER, 0, 0 },
        { "no type", 0, PG, 0, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER, 0, 0 },
        { "top down alone", 0, PG, TIDE_MEM_TOP_DOWN, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER,
          TIDE_MEM_TOP_DOWN, 0 },
        { "a free type", 0, PG, TIDE_MEM_DECOMMIT, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER,
          TIDE_MEM_DECOMMIT, 0 },
        { "an unknown type", 0, PG, BOTH | 0x40000000u, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER,
          BOTH | 0x40000000u, 0 },
        { "protection 0", 0, PG, BOTH, 0, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PAGE_PROTECTION, 0, 0 },
        { "two protections", 0, PG, BOTH, TIDE_PAGE_READONLY | RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PAGE_PROTECTION,
          TIDE_PAGE_READONLY | RW, 0 },
        { "an unknown protection", 0, PG, BOTH, 0x800, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PAGE_PROTECTION, 0x800, 0 },
        { "write copy", 0, PG, BOTH, TIDE_PAGE_WRITECOPY, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PAGE_PROTECTION,
          TIDE_PAGE_WRITECOPY, 0 },
        { "execute write copy", 0, PG, BOTH, TIDE_PAGE_EXECUTE_WRITECOPY, TIDE_NO_PREFERRED_NODE,
          TIDE_INVALID_PAGE_PROTECTION, TIDE_PAGE_EXECUTE_WRITECOPY, 0 },
        { "a node that does not exist", 0, PG, BOTH, RW, 1, TIDE_INVALID_PARAMETER, 1, 0 },
        { "node 4,000,000,000", 0, PG, BOTH, RW, 4000000000u, TIDE_INVALID_PARAMETER, 4000000000u, 0 },
        { "the first 64 KiB", PG, PG, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER, 0,
          TIDE_LOWEST_ADDRESS },
        { "past the highest address", beyond, PG, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER, beyond,
          TIDE_HIGHEST_ADDRESS },
        { "across the highest address", beyond - TIDE_ALLOCATION_GRANULARITY_BYTES, 17 * PG, RESERVE, RW,
          TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER, 17 * PG, TIDE_HIGHEST_ADDRESS },
        { "a range that wraps", at, UINT64_MAX - 5, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER,
          UINT64_MAX - 5, TIDE_HIGHEST_ADDRESS },
        { "more than the address space", 0, 1ull << 60, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_INVALID_PARAMETER,
          1ull << 60, 0 },
        { "overlap from below", at - 16 * PG, 17 * PG, RESERVE, RW, TIDE_NO_PREFERRED_NODE, TIDE_CONFLICTING_ADDRESSES,
          at - 16 * PG, at },
        { "overlap inside", at + 2 * PG, PG, BOTH, RW, TIDE_NO_PREFERRED_NODE, TIDE_CONFLICTING_ADDRESSES, 0, at },
        { "overlap of the last page", at + 16 * PG, 20 * PG, RESERVE, RW, TIDE_NO_PREFERRED_NODE,
          TIDE_CONFLICTING_ADDRESSES, at + 16 * PG, at },
        { "the same again", at, 17 * PG, BOTH, RW, TIDE_NO_PREFERRED_NODE, TIDE_CONFLICTING_ADDRESSES, at, 0 },
        { "commit in no region", at + 1024 * PG, PG, COMMIT, RW, TIDE_NO_PREFERRED_NODE, TIDE_CONFLICTING_ADDRESSES,
          at + 1024 * PG, 0 },
        { "commit over the end of a region", at + 15 * PG, 3 * PG, COMMIT, RW, TIDE_NO_PREFERRED_NODE,
          TIDE_CONFLICTING_ADDRESSES, at + 15 * PG, 0 },
        { "commit from before a region", at - PG, 2 * PG, COMMIT, RW, TIDE_NO_PREFERRED_NODE,
          TIDE_CONFLICTING_ADDRESSES, at - PG, 0 },
        { "more commit than memory and page files", 0, 10000 * PG, BOTH, RW, TIDE_NO_PREFERRED_NODE,
          TIDE_COMMITMENT_LIMIT, 0, 0 },
    };
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 256);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    uint64_t size = 17 * PG;
    tide_address base = at;
    assert_success(tide_virtual_alloc(space, &base, &size, RESERVE, RW));
    size = 2 * PG;
    assert_success(tide_virtual_alloc(space, &base, &size, COMMIT, RW));
    stamp_pages(space, at, 2, 1, 1);
    const struct figures before = figures_now(fixture, space);

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        base = rows[i].base;
        size = rows[i].bytes;
        const tide_status status =
            tide_virtual_alloc_numa(space, &base, &size, rows[i].type, rows[i].protection, rows[i].node);
        assert_refused(status, rows[i].expected, rows[i].value, rows[i].limit, rows[i].name);
        const struct figures after = figures_now(fixture, space);
        if (memcmp(&after, &before, sizeof(after)) != 0 || base != rows[i].base || size != rows[i].bytes)
            fail_msg("%s: the refused call changed something", rows[i].name);
    }
    base = 0;
    size = 10000 * PG;
    assert_status(tide_virtual_alloc(space, &base, &size, BOTH, RW), TIDE_COMMITMENT_LIMIT);
    assert_names(statistics_now(fixture).commit_limit_pages);
    check_pages(space, at, 2, 1, 1);
    fixture_close(fixture);
}

static void a_bad_free_is_refused_and_changes_nothing(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    static const tide_address at = 0x50000000;
    static const struct {
        const char *name;
        tide_address base;
        uint64_t bytes;
        uint32_t type;
        tide_status expected;
        uint64_t value, limit;
    } rows[] = {
        { "no type", at, 0, 0, TIDE_INVALID_PARAMETER, 0, TIDE_MEM_RELEASE },
        { "both types", at, 0, TIDE_MEM_DECOMMIT | TIDE_MEM_RELEASE, TIDE_INVALID_PARAMETER,
          TIDE_MEM_DECOMMIT | TIDE_MEM_RELEASE, TIDE_MEM_RELEASE },
        { "an alloc type", at, 0, TIDE_MEM_COMMIT, TIDE_INVALID_PARAMETER, TIDE_MEM_COMMIT, TIDE_MEM_RELEASE },
        { "release with a size", at, 17 * PG, TIDE_MEM_RELEASE, TIDE_INVALID_PARAMETER, 17 * PG, 0 },
        { "release not at the base", at + PG, 0, TIDE_MEM_RELEASE, TIDE_FREE_VM_NOT_AT_BASE, at + PG, at },
        { "decommit of all not at the base", at + PG, 0, TIDE_MEM_DECOMMIT, TIDE_FREE_VM_NOT_AT_BASE, at + PG, at },
        { "release of nothing", at + 64 * PG, 0, TIDE_MEM_RELEASE, TIDE_MEMORY_NOT_ALLOCATED, at + 64 * PG, 0 },
        { "decommit of nothing", at + 64 * PG, PG, TIDE_MEM_DECOMMIT, TIDE_MEMORY_NOT_ALLOCATED, at + 64 * PG, 0 },
        { "release of what nobody can have", 8, 0, TIDE_MEM_RELEASE, TIDE_MEMORY_NOT_ALLOCATED, 8, 0 },
        { "decommit over the end", at + 16 * PG, 2 * PG, TIDE_MEM_DECOMMIT, TIDE_UNABLE_TO_FREE_VM, at + 16 * PG,
          at + 17 * PG - 1 },
        { "decommit over the end by a byte", at, 17 * PG + 1, TIDE_MEM_DECOMMIT, TIDE_UNABLE_TO_FREE_VM, 17 * PG + 1,
          at + 17 * PG - 1 },
    };
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    (void)region_new_at(space, at, 17);
    stamp_pages(space, at, 17, 1, 1);
    const struct figures before = figures_now(fixture, space);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_refused(tide_virtual_free(space, rows[i].base, rows[i].bytes, rows[i].type), rows[i].expected,
                       rows[i].value, rows[i].limit, rows[i].name);
        const struct figures after = figures_now(fixture, space);
        if (memcmp(&after, &before, sizeof(after)) != 0)
            fail_msg("%s: the refused call changed something", rows[i].name);
    }
    /* A range that wraps, with a size that a sum with the base would hide. */
    assert_true(tide_failed(tide_virtual_free(space, at, UINT64_MAX - at + 1 + 2 * PG, TIDE_MEM_DECOMMIT)));
    const struct figures after = figures_now(fixture, space);
    assert_memory_equal(&after, &before, sizeof(after));
    check_pages(space, at, 17, 1, 1);
    fixture_close(fixture);
}

/* All six ways to access an address, none of which may. `bad` is the first byte that fails. */
static void assert_violation(tide_space *space, tide_address address, uint64_t bytes, tide_address bad,
                             tide_access_kind kind)
{
    static char buffer[8 * PG];
    tide_pin *pin = NULL;
    if (kind == TIDE_ACCESS_READ)
        assert_refused(tide_read(space, address, buffer, bytes), TIDE_ACCESS_VIOLATION, bad, 0, "tide_read");
    else
        assert_refused(tide_write(space, address, buffer, bytes), TIDE_ACCESS_VIOLATION, bad, 0, "tide_write");
    assert_int_equal(tide_last_error()->address, bad);
    assert_refused(tide_touch(space, bad, kind), TIDE_ACCESS_VIOLATION, bad, 0, "tide_touch");
    assert_int_equal(tide_last_error()->address, bad);
    assert_refused(tide_touch_range(space, address, bytes, kind), TIDE_ACCESS_VIOLATION, bad, 0, "tide_touch_range");
    assert_int_equal(tide_last_error()->address, bad);
    assert_refused(tide_pin_create(space, address, bytes, kind, &pin), TIDE_ACCESS_VIOLATION, bad, 0,
                   "tide_pin_create");
    assert_null(pin);
    assert_int_equal(tide_last_error()->address, bad);
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    assert_null(tide_access_pointer(&access, bad, kind));
    assert_refused(access.status, TIDE_ACCESS_VIOLATION, bad, 0, "tide_access_pointer");
    assert_int_equal(tide_last_error()->address, bad);
    tide_access_end(&access);
}

static void an_address_outside_every_region_is_a_violation(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    static const tide_address at = 0x50000000;
    struct fixture *fixture = *state;
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    uint64_t size = 8 * PG;
    tide_address base = at;
    assert_success(tide_virtual_alloc(space, &base, &size, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    size = 4 * PG;
    assert_success(tide_virtual_alloc(space, &base, &size, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    size = PG;
    base = at + 2 * PG;
    assert_success(tide_virtual_alloc(space, &base, &size, TIDE_MEM_COMMIT, TIDE_PAGE_READONLY));
    base = at + 3 * PG;
    assert_success(tide_virtual_alloc(space, &base, &size, TIDE_MEM_COMMIT, TIDE_PAGE_NOACCESS));

    for (tide_access_kind kind = TIDE_ACCESS_READ; kind <= TIDE_ACCESS_WRITE; kind++) {
        assert_violation(space, 0x70000123, 8, 0x70000123, kind);               /* no region */
        assert_violation(space, at - 3, 3, at - 3, kind);                       /* just before one */
        assert_violation(space, at + 8 * PG, 1, at + 8 * PG, kind);             /* just after it */
        assert_violation(space, at + 5 * PG + 17, 100, at + 5 * PG + 17, kind); /* reserved, not committed */
        assert_violation(space, at + 3 * PG + 5, 9, at + 3 * PG + 5, kind);     /* no access */
        assert_violation(space, 8, 8, 8, kind);                                 /* the first 64 KiB */
        assert_violation(space, 1ull << 47, 8, 1ull << 47, kind);               /* past the end */
        assert_violation(space, 1ull << 63, 8, 1ull << 63, kind);
    }
    assert_violation(space, at + PG + 100, 2 * PG, at + 2 * PG,
                     TIDE_ACCESS_WRITE); /* read-only from the second page on */
    assert_violation(space, at + PG + 100, 2 * PG, at + 3 * PG, TIDE_ACCESS_READ);

    /* Ranges that wrap around the end of the numbers. */
    static char buffer[PG];
    tide_pin *pin = NULL;
    assert_true(tide_failed(tide_read(space, UINT64_MAX - 10, buffer, 100)));
    assert_status(tide_touch_range(space, at, UINT64_MAX - 5, TIDE_ACCESS_READ), TIDE_INVALID_PARAMETER);
    assert_status(tide_pin_create(space, at, SIZE_MAX - 5, TIDE_ACCESS_READ, &pin), TIDE_INVALID_PARAMETER);
    assert_null(pin);
    assert_status(tide_read(space, at, buffer, SIZE_MAX - 5), TIDE_INVALID_PARAMETER);
    assert_status(tide_write(space, at, buffer, SIZE_MAX - 5), TIDE_INVALID_PARAMETER);

    tide_region region;
    assert_status(tide_virtual_query(space, TIDE_HIGHEST_ADDRESS + 1, &region), TIDE_INVALID_PARAMETER);
    assert_names(TIDE_HIGHEST_ADDRESS + 1);
    assert_names(TIDE_HIGHEST_ADDRESS);
    assert_success(tide_write(space, at, "works", 6));
    fixture_close(fixture);
}

static void limits_nodes_and_enumerations_are_checked(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.topology_synthetic = "numa:2 core:1 pu:1";
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    tide_node_statistics statistics;
    tide_node_info info;
    assert_refused(tide_working_set_set_limits(space, 100, 99, 0), TIDE_INVALID_PARAMETER, 99, 100,
                   "maximum below minimum");
    assert_refused(tide_working_set_set_limits(space, 1, 12, 0), TIDE_INVALID_PARAMETER, 12, 13, "maximum under 13");
    assert_refused(tide_working_set_set_limits(space, 50, 345, 0x8000), TIDE_INVALID_PARAMETER, 0x8000, 0,
                   "unknown flag");
    assert_refused(tide_working_set_set_limits(space, 0, 100, 0), TIDE_INVALID_PARAMETER, 0, 1, "minimum 0");
    assert_refused(tide_working_set_set_limits(space, 50, FRAMES * 7 / 8 + 1, 0), TIDE_INVALID_PARAMETER,
                   FRAMES * 7 / 8 + 1, FRAMES * 7 / 8, "maximum too large");
    assert_refused(tide_working_set_set_limits(space, 50, UINT64_MAX, 0), TIDE_INVALID_PARAMETER, UINT64_MAX,
                   FRAMES * 7 / 8, "maximum without end");
    assert_refused(tide_working_set_set_limits(space, UINT64_MAX, 100, 0), TIDE_INVALID_PARAMETER, UINT64_MAX, 100,
                   "minimum without end");
    assert_refused(tide_working_set_set_limits(space, 50, 100, 0x3), TIDE_INVALID_PARAMETER, 0x3, 0,
                   "hard and soft minimum");
    assert_refused(tide_working_set_set_limits(space, 50, 100, 0xC), TIDE_INVALID_PARAMETER, 0xC, 0,
                   "hard and soft maximum");
    assert_refused(tide_working_set_set_limits(space, UINT64_MAX, UINT64_MAX, 0x10), TIDE_INVALID_PARAMETER, 0x10, 0,
                   "unknown flag when emptying");
    assert_refused(tide_working_set_watch_begin(space, 0), TIDE_INVALID_PARAMETER, 0, TIDE_WORKING_SET_WATCH_MAX,
                   "watch without records");
    assert_refused(tide_working_set_watch_begin(space, TIDE_WORKING_SET_WATCH_MAX + 1), TIDE_INVALID_PARAMETER,
                   TIDE_WORKING_SET_WATCH_MAX + 1, TIDE_WORKING_SET_WATCH_MAX, "too many records");
    uint64_t minimum, maximum;
    uint32_t flags;
    assert_success(tide_working_set_get_limits(space, &minimum, &maximum, &flags));
    assert_int_equal(minimum, 50);
    assert_int_equal(maximum, FRAMES * 7 / 8);
    assert_int_equal(flags, TIDE_WORKING_SET_SOFT_MINIMUM | TIDE_WORKING_SET_SOFT_MAXIMUM);
    assert_refused(tide_space_set_priority(space, 6), TIDE_INVALID_PARAMETER, 6, 5, "priority 6");
    assert_refused(tide_space_set_priority(space, TIDE_PRIORITY_DEFAULT), TIDE_INVALID_PARAMETER, TIDE_PRIORITY_DEFAULT,
                   5, "no priority");
    assert_refused(tide_thread_set_priority(fixture->engine, 7), TIDE_INVALID_PARAMETER, 7, 5, "priority 7");
    assert_refused(tide_node_statistics_get(fixture->engine, 2, &statistics), TIDE_INVALID_PARAMETER, 2, 0,
                   "node 2 of 2");
    assert_refused(tide_node_info_get(fixture->engine, 7, &info), TIDE_INVALID_PARAMETER, 7, 0, "node 7 of 2");
    assert_refused(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 2, 0, NULL), TIDE_INVALID_PARAMETER, 2, 0,
                   "a worker on node 2 of 2");
    assert_refused(tide_worker_step(fixture->engine, (tide_worker)9, 0, 0, NULL), TIDE_INVALID_PARAMETER, 9, 0,
                   "worker 9");
    assert_refused(tide_worker_hold(fixture->engine, (tide_worker)9, true), TIDE_INVALID_PARAMETER, 9, 0,
                   "hold worker 9");
    assert_refused(tide_engine_empty(fixture->engine, (tide_empty)9), TIDE_INVALID_PARAMETER, 9, 0, "empty 9");
    tide_statistics short_statistics = { .struct_bytes = 3 };
    assert_refused(tide_statistics_get(fixture->engine, &short_statistics), TIDE_INVALID_PARAMETER, 3, 0,
                   "statistics of 3 bytes");
    assert_refused(tide_engine_close(fixture->engine), TIDE_DEVICE_BUSY, 1, 0, "close with a space open");
    fixture_close(fixture);
}

/* ---- I/O errors ------------------------------------------------------------------------------------------------- */

static void a_failed_read_is_a_status_and_loses_nothing(void **state)
{
    enum { PAGES = 64, BAD = 20 };
    struct fixture *fixture = *state;
    char page[PG];
    fixture->config.cluster_pages = 1; /* so that a failure is one page's */
    fixture_page_file(fixture, 256);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES), bad = base + BAD * PG;
    stamp_pages(space, base, PAGES, 1, 1);
    page_out(fixture, space);
    const tide_statistics before = statistics_now(fixture);

    /* Each way to access meets it. */
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, DEVICE_ALWAYS);
    assert_status(tide_read(space, bad, page, PG), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_int_equal(tide_last_error()->address, bad);
    assert_names(bad);
    assert_status(tide_write(space, bad + 8, page, 8), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_status(tide_touch(space, bad, TIDE_ACCESS_READ), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_status(tide_touch_range(space, bad, 3 * PG, TIDE_ACCESS_WRITE), TIDE_IN_PAGE_ERROR);
    tide_pin *pin = NULL;
    assert_status(tide_pin_create(space, bad, PG, TIDE_ACCESS_READ, &pin), TIDE_IN_PAGE_ERROR);
    assert_null(pin);
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    assert_null(tide_access_pointer(&access, bad, TIDE_ACCESS_READ));
    assert_int_equal(access.status, TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    tide_access_end(&access);

    const tide_statistics after = statistics_now(fixture);
    assert_int_equal(after.read_errors - before.read_errors, 6);
    assert_int_equal(after.faults.in_page_errors - before.faults.in_page_errors, 6);
    assert_int_equal(after.faults.hard - before.faults.hard, 0);
    assert_int_equal(after.available_pages, before.available_pages);
    assert_int_equal(after.page_file_used_slots, before.page_file_used_slots);
    assert_int_equal(page_now(space, bad).state, TIDE_PAGE_STATE_PAGE_FILE);
    fixture_verify(fixture);

    /* Another errno is handed through; then the device works again. */
    device_fail(&fixture->device, TIDE_IO_READ, EREMOTEIO, 0, 1);
    assert_status(tide_read(space, bad, page, PG), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->io_error, EREMOTEIO);
    assert_success(tide_read(space, bad, page, PG));
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/* A copy across pages stops at the page that cannot be read; what is before it is there. */
static void a_failed_read_stops_a_copy_where_it_is(void **state)
{
    struct fixture *fixture = *state;
    static char buffer[4 * PG];
    fixture->config.cluster_pages = 1;
    fixture_page_file(fixture, 256);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 4);
    stamp_pages(space, base, 4, 1, 1);
    page_out(fixture, space);
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 2, 1);
    memset(buffer, 0x5A, sizeof(buffer));
    assert_status(tide_read(space, base, buffer, sizeof(buffer)), TIDE_IN_PAGE_ERROR);
    assert_int_equal(tide_last_error()->address, base + 2 * PG);
    assert_true(stamp_matches(buffer, 1, base, 1));
    assert_true(stamp_matches(buffer + PG, 1, base + PG, 1));
    for (size_t i = 2 * PG; i < sizeof(buffer); i++)
        assert_int_equal(buffer[i], 0x5A);
    assert_success(tide_read(space, base, buffer, sizeof(buffer)));
    check_pages(space, base, 4, 1, 1);
    fixture_close(fixture);
}

/* Neighbours of a clustered read that fails are not lost, and not taken for read. */
static void a_failed_cluster_loses_no_neighbour(void **state)
{
    enum { PAGES = 64 };
    struct fixture *fixture = *state;
    char page[PG];
    fixture->config.cluster_pages = 16;
    fixture_page_file(fixture, 256);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    page_out(fixture, space);
    for (unsigned i = 0; i < PAGES; i += 8) {
        device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, 1);
        const tide_status status = tide_read(space, base + i * PG, page, PG);
        /*
         * A neighbour of a read before may have brought it in; else the failed cluster may be tried again page by page.
         */
        if (status != TIDE_SUCCESS)
            assert_int_equal(status, TIDE_IN_PAGE_ERROR);
        fixture_verify(fixture);
    }
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, 0);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

static void a_failed_write_leaves_pages_modified(void **state)
{
    enum { PAGES = 64 };
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 512);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    const tide_statistics before = statistics_now(fixture);

    device_fail(&fixture->device, TIDE_IO_WRITE, EIO, 0, DEVICE_ALWAYS);
    assert_status(tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED), TIDE_IO_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_MODIFIED), PAGES);
    const tide_statistics failed = statistics_now(fixture);
    assert_true(failed.write_errors > before.write_errors);
    assert_int_equal(failed.write_errors - before.write_errors, device_failed(&fixture->device, TIDE_IO_WRITE));
    assert_int_equal(failed.pages_output, before.pages_output);
    assert_int_equal(failed.page_file_used_slots, 0);
    fixture_verify(fixture);

    device_fail(&fixture->device, TIDE_IO_WRITE, EIO, 0, 0);
    page_out(fixture, space);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_PAGE_FILE), PAGES);
    assert_int_equal(statistics_now(fixture).page_file_used_slots, PAGES);
    check_pages(space, base, PAGES, 1, 1);
    fixture_close(fixture);
}

/* Some of the writes fail: those pages stay modified, the others are clean, none is lost. */
static void a_write_that_fails_in_part_keeps_every_page(void **state)
{
    enum { PAGES = 128 };
    struct fixture *fixture = *state;
    fixture->config.cluster_pages = 8;
    fixture_page_file(fixture, 512);
    fixture_open(fixture, FRAMES);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, PAGES);
    stamp_pages(space, base, PAGES, 1, 1);
    trim_all(space);
    device_fail(&fixture->device, TIDE_IO_WRITE, ENOSPC, 3, 2);
    const tide_status status = tide_engine_empty(fixture->engine, TIDE_EMPTY_MODIFIED);
    assert_true(status == TIDE_IO_ERROR || status == TIDE_SUCCESS); /* it may try the failed ones again and succeed */
    assert_int_equal(device_failed(&fixture->device, TIDE_IO_WRITE), 2);
    assert_int_equal(pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_MODIFIED) +
                         pages_in_state(space, base, PAGES, TIDE_PAGE_STATE_STANDBY),
                     PAGES);
    fixture_verify(fixture);
    empty_standby(fixture);
    check_pages(space, base, PAGES, 1, 1);
    stamp_pages(space, base, PAGES, 1, 2);
    page_out(fixture, space);
    check_pages(space, base, PAGES, 1, 2);
    fixture_close(fixture);
}

static const struct CMUnitTest bad_input[] = {
    API_TEST(a_configuration_that_cannot_be_is_refused),
    API_TEST(a_budget_larger_than_memory_is_refused),
    API_TEST(null_arguments_are_refused),
    API_TEST(a_page_file_that_cannot_be_is_refused),
    API_TEST(a_file_of_someone_else_is_not_touched),
    API_TEST(a_page_file_in_use_is_refused),
    API_TEST(a_full_disk_is_refused),
    API_TEST(a_read_only_disk_is_refused),
    API_TEST(a_read_only_folder_is_refused),
    API_TEST(a_bad_allocation_is_refused_and_changes_nothing),
    API_TEST(a_bad_free_is_refused_and_changes_nothing),
    API_TEST(an_address_outside_every_region_is_a_violation),
    API_TEST(limits_nodes_and_enumerations_are_checked),
    API_TEST(a_failed_read_is_a_status_and_loses_nothing),
    API_TEST(a_failed_read_stops_a_copy_where_it_is),
    API_TEST(a_failed_cluster_loses_no_neighbour),
    API_TEST(a_failed_write_leaves_pages_modified),
    API_TEST(a_write_that_fails_in_part_keeps_every_page),
};

API_MAIN(bad_input)

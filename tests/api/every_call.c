/*
 * One walk over all public calls with arguments that cannot be: null, unaligned, zero, huge, wrapping round the address
 * space, not owned, already released, of a destroyed space, of a closed engine. Each returns the status that its
 * description names, and changes nothing: figures, map and contents are compared before and after.
 *
 * The walk is complete: each exported symbol of the library must have been called here, by the list that nm gives.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

enum { CALLS_MAX = 256, PAGES = 16, UNIT = TIDE_ALLOCATION_GRANULARITY_BYTES };

struct walk {
    struct fixture *fixture;
    tide_space *space;      /* alive, with a region of PAGES stamped pages at `base` */
    tide_space *dead_space; /* destroyed */
    tide_engine *dead;      /* closed */
    tide_address base, released;
    const char *called[CALLS_MAX];
    unsigned calls;
};

/* All that a call which fails must leave alone. */
struct picture {
    uint64_t figures[12];
    uint64_t map;
};

static void picture_take(const struct walk *walk, struct picture *picture)
{
    const tide_statistics engine = statistics_now(walk->fixture);
    const tide_space_statistics space = space_now(walk->space);
    const tide_node_statistics node = node_now(walk->fixture, 0);

    *picture =
        (struct picture){ { engine.commit_total_pages, engine.commit_limit_pages, engine.table_pages, engine.spaces,
                            engine.open_sections, engine.page_file_used_slots, space.private_pages, space.virtual_bytes,
                            space.regions, space.working_set_pages, node.available, node.modified },
                          0 };
    for (tide_address at = TIDE_LOWEST_ADDRESS; at < TIDE_HIGHEST_ADDRESS;) {
        tide_region region;
        assert_success(tide_virtual_query(walk->space, at, &region));
        const uint64_t parts[] = { region.base,       region.bytes,           region.state,
                                   region.protection, region.allocation_base, region.allocation_protection };
        for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++)
            picture->map = (picture->map ^ parts[i]) * 0x100000001B3ull;
        at += region.bytes;
    }
}

static void called(struct walk *walk, const char *name)
{
    for (unsigned i = 0; i < walk->calls; i++)
        if (strcmp(walk->called[i], name) == 0)
            return;
    assert_true(walk->calls < CALLS_MAX);
    walk->called[walk->calls++] = name;
}

static void refused(struct walk *walk, const struct picture *before, const char *name, const char *what,
                    tide_status got, tide_status expected)
{
    struct picture after;

    if (got != expected)
        fail_msg("%s, %s: returned %s, expected %s; last error: %s", name, what, tide_status_name(got),
                 tide_status_name(expected), tide_last_error()->message);
    if (tide_last_error()->status != expected || tide_last_error()->message[0] == '\0')
        fail_msg("%s, %s: the last error is %s, \"%s\"", name, what, tide_status_name(tide_last_error()->status),
                 tide_last_error()->message);
    picture_take(walk, &after);
    if (memcmp(before, &after, sizeof after) != 0)
        fail_msg("%s, %s: refused, and yet something changed", name, what);
    check_pages(walk->space, walk->base, PAGES, 1, 1);
}

/* A call that must be refused. */
#define REFUSED(name, what, expected, ...)                                                                             \
    do {                                                                                                               \
        struct picture before;                                                                                         \
        picture_take(walk, &before);                                                                                   \
        const tide_status returned = name(__VA_ARGS__);                                                                \
        called(walk, #name);                                                                                           \
        refused(walk, &before, #name, what, returned, expected);                                                       \
    } while (0)

/* A call whose first argument is a space, or an engine. */
#define SPACE(name, ...)                                                                                               \
    do {                                                                                                               \
        REFUSED(name, "space NULL", TIDE_INVALID_HANDLE, NULL, ##__VA_ARGS__);                                         \
        REFUSED(name, "space destroyed", TIDE_INVALID_HANDLE, walk->dead_space, ##__VA_ARGS__);                        \
    } while (0)
#define ENGINE(name, ...)                                                                                              \
    do {                                                                                                               \
        REFUSED(name, "engine NULL", TIDE_INVALID_HANDLE, NULL, ##__VA_ARGS__);                                        \
        REFUSED(name, "engine closed", TIDE_INVALID_HANDLE, walk->dead, ##__VA_ARGS__);                                \
    } while (0)

/* Ranges that no call takes: zero, huge, wrapping, past the end. */
static const struct {
    const char *what;
    tide_address address;
    uint64_t bytes;
} wrapping[] = {
    { "wraps round", UINT64_MAX - 4095, 8192 },
    { "all bytes from the end", UINT64_MAX, UINT64_MAX },
    { "huge from the middle", 0x7000000000, UINT64_MAX },
};
enum { WRAPPING = sizeof wrapping / sizeof wrapping[0] };

static void engines(struct walk *walk)
{
    tide_config config = walk->fixture->config;
    tide_engine *engine = NULL;
    tide_space *none = NULL;
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_node_statistics node;
    tide_node_info info;
    tide_verify_report report;
    uint64_t done;

    REFUSED(tide_engine_open, "configuration NULL", TIDE_INVALID_PARAMETER, NULL, &engine);
    REFUSED(tide_engine_open, "place NULL", TIDE_INVALID_PARAMETER, &config, NULL);
    config.struct_bytes = 0;
    REFUSED(tide_engine_open, "struct_bytes 0", TIDE_INVALID_PARAMETER, &config, &engine);
    tide_config_init(&config);
    called(walk, "tide_config_init");
    REFUSED(tide_engine_open, "no memory", TIDE_INVALID_PARAMETER, &config, &engine);
    assert_null(engine);
    ENGINE(tide_engine_close);
    REFUSED(tide_engine_close, "spaces are open", TIDE_DEVICE_BUSY, walk->fixture->engine);
    ENGINE(tide_worker_hold, TIDE_WORKER_TRIMMER, true);
    REFUSED(tide_worker_hold, "worker 99", TIDE_INVALID_PARAMETER, walk->fixture->engine, (tide_worker)99, true);
    ENGINE(tide_worker_step, TIDE_WORKER_TRIMMER, 0, 1, &done);
    REFUSED(tide_worker_step, "worker 99", TIDE_INVALID_PARAMETER, walk->fixture->engine, (tide_worker)99, 0, 1, &done);
    REFUSED(tide_worker_step, "node 64", TIDE_INVALID_PARAMETER, walk->fixture->engine, TIDE_WORKER_TRIMMER, 64, 1,
            &done);
    ENGINE(tide_clock_advance, 1);
    ENGINE(tide_engine_empty, TIDE_EMPTY_STANDBY);
    REFUSED(tide_engine_empty, "list 99", TIDE_INVALID_PARAMETER, walk->fixture->engine, (tide_empty)99);
    ENGINE(tide_space_create, &none);
    REFUSED(tide_space_create, "place NULL", TIDE_INVALID_PARAMETER, walk->fixture->engine, NULL);
    ENGINE(tide_statistics_get, &statistics);
    REFUSED(tide_statistics_get, "place NULL", TIDE_INVALID_PARAMETER, walk->fixture->engine, NULL);
    statistics.struct_bytes = 0;
    REFUSED(tide_statistics_get, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->fixture->engine, &statistics);
    ENGINE(tide_node_statistics_get, 0, &node);
    REFUSED(tide_node_statistics_get, "node 64", TIDE_INVALID_PARAMETER, walk->fixture->engine, 64, &node);
    REFUSED(tide_node_statistics_get, "place NULL", TIDE_INVALID_PARAMETER, walk->fixture->engine, 0, NULL);
    ENGINE(tide_node_info_get, 0, &info);
    REFUSED(tide_node_info_get, "node 64", TIDE_INVALID_PARAMETER, walk->fixture->engine, 64, &info);
    REFUSED(tide_node_info_get, "place NULL", TIDE_INVALID_PARAMETER, walk->fixture->engine, 0, NULL);
    ENGINE(tide_engine_verify, &report);
    assert_null(none);
}

static void nodes(struct walk *walk)
{
    tide_engine *engine = walk->fixture->engine;
    tide_numa_node_memory memory = { .struct_bytes = sizeof memory };
    tide_placement placement = { .struct_bytes = sizeof placement, .node = TIDE_NO_PREFERRED_NODE };
    uint64_t figures[2] = { 77, 77 };
    uint32_t node = 77;

    ENGINE(tide_numa_highest_node_get, &node);
    REFUSED(tide_numa_highest_node_get, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);
    ENGINE(tide_numa_available_memory_get, 0, figures);
    REFUSED(tide_numa_available_memory_get, "node 64", TIDE_INVALID_PARAMETER, engine, 64, figures);
    REFUSED(tide_numa_available_memory_get, "place NULL", TIDE_INVALID_PARAMETER, engine, 0, NULL);
    ENGINE(tide_numa_node_memory_get, 0, &memory);
    REFUSED(tide_numa_node_memory_get, "node none", TIDE_INVALID_PARAMETER, engine, TIDE_NO_PREFERRED_NODE, &memory);
    REFUSED(tide_numa_node_memory_get, "place NULL", TIDE_INVALID_PARAMETER, engine, 0, NULL);
    memory.struct_bytes--;
    REFUSED(tide_numa_node_memory_get, "struct_bytes", TIDE_INVALID_PARAMETER, engine, 0, &memory);
    ENGINE(tide_numa_faults_get, figures, 1);
    REFUSED(tide_numa_faults_get, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL, 1);
    REFUSED(tide_numa_faults_get, "room for none", TIDE_BUFFER_TOO_SMALL, engine, figures, 0);
    ENGINE(tide_thread_get_node, &node);
    REFUSED(tide_thread_get_node, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);
    ENGINE(tide_thread_set_ideal_node, 0);
    REFUSED(tide_thread_set_ideal_node, "node 64", TIDE_INVALID_PARAMETER, engine, 64);
    assert_int_equal(figures[0], 77);
    assert_int_equal(node, 77);
    SPACE(tide_space_set_placement, &placement);
    REFUSED(tide_space_set_placement, "placement NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    SPACE(tide_space_get_placement, &placement);
    REFUSED(tide_space_get_placement, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    SPACE(tide_placement_query, walk->base, &placement);
    REFUSED(tide_placement_query, "place NULL", TIDE_INVALID_PARAMETER, walk->space, walk->base, NULL);
    REFUSED(tide_placement_query, "past the end", TIDE_INVALID_PARAMETER, walk->space, TIDE_HIGHEST_ADDRESS + 1,
            &placement);
    placement.struct_bytes = 0;
    REFUSED(tide_space_set_placement, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->space, &placement);
    REFUSED(tide_space_get_placement, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->space, &placement);
    REFUSED(tide_placement_query, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->space, walk->base, &placement);
}

static void spaces(struct walk *walk)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof statistics };
    tide_access access;
    uint64_t done;

    SPACE(tide_space_destroy);
    assert_success(tide_access_begin(walk->space, &access));
    REFUSED(tide_space_destroy, "a section is open", TIDE_DEVICE_BUSY, walk->space);
    tide_access_end(&access);
    uint64_t minimum, maximum;
    uint32_t flags;
    SPACE(tide_working_set_set_limits, 20, 50, 0);
    REFUSED(tide_working_set_set_limits, "maximum below minimum", TIDE_INVALID_PARAMETER, walk->space, 100, 99, 0);
    REFUSED(tide_working_set_set_limits, "maximum 12", TIDE_INVALID_PARAMETER, walk->space, 1, 12, 0);
    REFUSED(tide_working_set_set_limits, "maximum huge", TIDE_INVALID_PARAMETER, walk->space, 1, UINT64_MAX - 1, 0);
    REFUSED(tide_working_set_set_limits, "flags", TIDE_INVALID_PARAMETER, walk->space, 20, 50, 0x80000000u);
    SPACE(tide_working_set_get_limits, &minimum, &maximum, &flags);
    REFUSED(tide_working_set_get_limits, "places NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, NULL, NULL);
    SPACE(tide_working_set_empty);
    SPACE(tide_working_set_trim, 1, &done);
    tide_working_set_change changes[2];
    uint64_t room = 2, lost;
    SPACE(tide_working_set_watch_begin, 10);
    REFUSED(tide_working_set_watch_begin, "capacity 0", TIDE_INVALID_PARAMETER, walk->space, 0);
    REFUSED(tide_working_set_watch_begin, "capacity huge", TIDE_INVALID_PARAMETER, walk->space, UINT64_MAX);
    SPACE(tide_working_set_watch_end);
    SPACE(tide_working_set_changes_get, changes, &room, &lost);
    REFUSED(tide_working_set_changes_get, "not watched", TIDE_INVALID_PARAMETER, walk->space, changes, &room, &lost);
    REFUSED(tide_working_set_changes_get, "count NULL", TIDE_INVALID_PARAMETER, walk->space, changes, NULL, &lost);
    REFUSED(tide_working_set_changes_get, "records NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &room, &lost);
    unsigned priority;
    SPACE(tide_space_set_priority, 5);
    REFUSED(tide_space_set_priority, "priority 6", TIDE_INVALID_PARAMETER, walk->space, 6);
    SPACE(tide_space_get_priority, &priority);
    REFUSED(tide_space_get_priority, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    SPACE(tide_space_background_begin);
    SPACE(tide_space_background_end);
    REFUSED(tide_space_background_end, "not in it", TIDE_PROCESS_MODE_NOT_BACKGROUND, walk->space);
    ENGINE(tide_thread_set_priority, 5);
    REFUSED(tide_thread_set_priority, "priority 6", TIDE_INVALID_PARAMETER, walk->fixture->engine, 6);
    ENGINE(tide_thread_get_priority, &priority);
    REFUSED(tide_thread_get_priority, "place NULL", TIDE_INVALID_PARAMETER, walk->fixture->engine, NULL);
    ENGINE(tide_thread_background_begin);
    ENGINE(tide_thread_background_end);
    REFUSED(tide_thread_background_end, "not in it", TIDE_THREAD_MODE_NOT_BACKGROUND, walk->fixture->engine);
    SPACE(tide_space_set_commit_limit, 1000);
    SPACE(tide_space_statistics_get, &statistics);
    REFUSED(tide_space_statistics_get, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    statistics.struct_bytes = 0;
    REFUSED(tide_space_statistics_get, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->space, &statistics);
}

static void allocation(struct walk *walk)
{
    const uint32_t commit = TIDE_MEM_COMMIT, reserve = TIDE_MEM_RESERVE, rw = TIDE_PAGE_READWRITE;
    tide_address at = walk->base;
    uint64_t bytes = PG;

    SPACE(tide_virtual_alloc, &at, &bytes, commit, rw);
    SPACE(tide_virtual_alloc_numa, &at, &bytes, commit, rw, 0);
    SPACE(tide_virtual_alloc2, &at, &bytes, commit, rw, NULL);
    REFUSED(tide_virtual_alloc, "base NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &bytes, commit, rw);
    REFUSED(tide_virtual_alloc, "size NULL", TIDE_INVALID_PARAMETER, walk->space, &at, NULL, commit, rw);
    REFUSED(tide_virtual_alloc_numa, "base NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &bytes, commit, rw, 0);
    REFUSED(tide_virtual_alloc_numa, "size NULL", TIDE_INVALID_PARAMETER, walk->space, &at, NULL, commit, rw, 0);
    REFUSED(tide_virtual_alloc2, "base NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &bytes, commit, rw, NULL);
    REFUSED(tide_virtual_alloc2, "size NULL", TIDE_INVALID_PARAMETER, walk->space, &at, NULL, commit, rw, NULL);
    static const struct {
        const char *what;
        tide_address base;
        uint64_t bytes;
        uint32_t type, protection;
        tide_status expected;
    } rows[] = {
        { "type 0", 0, PG, 0, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "type unknown", 0, PG, 0x80000000u | TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "release as type", 0, PG, TIDE_MEM_RELEASE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "protection 0", 0, PG, TIDE_MEM_RESERVE, 0, TIDE_INVALID_PAGE_PROTECTION },
        { "write copy", 0, PG, TIDE_MEM_RESERVE, TIDE_PAGE_WRITECOPY, TIDE_INVALID_PAGE_PROTECTION },
        { "size 0", 0, 0, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "size 0 at a base", 0x60000000, 0, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "size huge", 0, UINT64_MAX, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "as large as all", 0, TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE,
          TIDE_NO_MEMORY },
        { "below the lowest address", 0x1000, PG, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "past the highest address", TIDE_HIGHEST_ADDRESS + 1, PG, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { "over the highest address", TIDE_HIGHEST_ADDRESS + 1 - UNIT, UNIT + 1, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { "wraps round", UINT64_MAX - 4095, 8192, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "size wraps", 0x60000000, UINT64_MAX - 0x1000, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "commit of nothing reserved", 0x60000000, PG, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE,
          TIDE_CONFLICTING_ADDRESSES },
        { "beyond the commit limit", 0, 1ull << 40, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE,
          TIDE_COMMITMENT_LIMIT },
        { "large pages not committed", 0, 1 << 21, TIDE_MEM_RESERVE | TIDE_MEM_LARGE_PAGES, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
        { "large pages of a page", 0, PG, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
          TIDE_PAGE_READWRITE, TIDE_INVALID_PARAMETER },
        { "write watch not reserved", 0x60000000, PG, TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH, TIDE_PAGE_READWRITE,
          TIDE_INVALID_PARAMETER },
    };
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        at = rows[i].base;
        bytes = rows[i].bytes;
        REFUSED(tide_virtual_alloc, rows[i].what, rows[i].expected, walk->space, &at, &bytes, rows[i].type,
                rows[i].protection);
        REFUSED(tide_virtual_alloc_numa, rows[i].what, rows[i].expected, walk->space, &at, &bytes, rows[i].type,
                rows[i].protection, TIDE_NO_PREFERRED_NODE);
        if (bytes % PG == 0 && bytes != 0)
            REFUSED(tide_virtual_alloc2, rows[i].what, rows[i].expected, walk->space, &at, &bytes, rows[i].type,
                    rows[i].protection, NULL);
        assert_int_equal(at, rows[i].base);
        assert_int_equal(bytes, rows[i].bytes);
    }
    at = 0;
    bytes = PG;
    REFUSED(tide_virtual_alloc_numa, "node 64", TIDE_INVALID_PARAMETER, walk->space, &at, &bytes, reserve, rw, 64);
    REFUSED(tide_virtual_alloc, "placeholder in the older call", TIDE_INVALID_PARAMETER, walk->space, &at, &bytes,
            reserve | TIDE_MEM_RESERVE_PLACEHOLDER, TIDE_PAGE_NOACCESS);
    REFUSED(tide_virtual_alloc2, "placeholder with access", TIDE_INVALID_PAGE_PROTECTION, walk->space, &at, &bytes,
            reserve | TIDE_MEM_RESERVE_PLACEHOLDER, rw, NULL);
    REFUSED(tide_virtual_alloc2, "replace at 0", TIDE_INVALID_PARAMETER, walk->space, &at, &bytes,
            reserve | TIDE_MEM_REPLACE_PLACEHOLDER, rw, NULL);
    at = walk->base;
    bytes = UNIT;
    REFUSED(tide_virtual_alloc2, "replace what is no placeholder", TIDE_CONFLICTING_ADDRESSES, walk->space, &at, &bytes,
            reserve | TIDE_MEM_REPLACE_PLACEHOLDER, rw, NULL);
    at = walk->base + PG;
    REFUSED(tide_virtual_alloc2, "unaligned base", TIDE_INVALID_PARAMETER, walk->space, &at, &bytes, reserve, rw, NULL);
    at = walk->base; /* owned by somebody, and in its last unit */
    REFUSED(tide_virtual_alloc, "reserved already", TIDE_CONFLICTING_ADDRESSES, walk->space, &at, &bytes, reserve, rw);
    bytes = UNIT + PG;
    REFUSED(tide_virtual_alloc, "commit over the end", TIDE_CONFLICTING_ADDRESSES, walk->space, &at, &bytes, commit,
            rw);
    at = walk->released;
    bytes = PG;
    REFUSED(tide_virtual_alloc, "commit in a released region", TIDE_CONFLICTING_ADDRESSES, walk->space, &at, &bytes,
            commit, rw);
    tide_stack stack;
    SPACE(tide_stack_create, 0, 0, &stack);
    REFUSED(tide_stack_create, "place NULL", TIDE_INVALID_PARAMETER, walk->space, 0, 0, NULL);
    REFUSED(tide_stack_create, "size huge", TIDE_INVALID_PARAMETER, walk->space, UINT64_MAX, 0, &stack);
    REFUSED(tide_stack_create, "all committed", TIDE_INVALID_PARAMETER, walk->space, UNIT, UNIT, &stack);
    REFUSED(tide_stack_create, "commit huge", TIDE_INVALID_PARAMETER, walk->space, UNIT, UINT64_MAX, &stack);
}

static void freeing(struct walk *walk)
{
    static const struct {
        const char *what;
        int base; /* offset from the region's base, in bytes; -1: released; -2: nowhere; -3: past the end */
        uint64_t bytes;
        uint32_t type;
        tide_status win32, native;
    } rows[] = {
        { "type 0", 0, 0, 0, TIDE_INVALID_PARAMETER, TIDE_INVALID_PARAMETER },
        { "both types", 0, 0, TIDE_MEM_RELEASE | TIDE_MEM_DECOMMIT, TIDE_INVALID_PARAMETER, TIDE_INVALID_PARAMETER },
        { "both placeholder flags", 0, UNIT, TIDE_MEM_RELEASE | 3, TIDE_INVALID_PARAMETER, TIDE_INVALID_PARAMETER },
        { "release not at the base", PG, 0, TIDE_MEM_RELEASE, TIDE_FREE_VM_NOT_AT_BASE, TIDE_FREE_VM_NOT_AT_BASE },
        { "decommit of all not at the base", PG, 0, TIDE_MEM_DECOMMIT, TIDE_FREE_VM_NOT_AT_BASE,
          TIDE_FREE_VM_NOT_AT_BASE },
        { "released already", -1, 0, TIDE_MEM_RELEASE, TIDE_MEMORY_NOT_ALLOCATED, TIDE_MEMORY_NOT_ALLOCATED },
        { "decommit, released already", -1, PG, TIDE_MEM_DECOMMIT, TIDE_MEMORY_NOT_ALLOCATED,
          TIDE_MEMORY_NOT_ALLOCATED },
        { "never reserved", -2, 0, TIDE_MEM_RELEASE, TIDE_MEMORY_NOT_ALLOCATED, TIDE_MEMORY_NOT_ALLOCATED },
        { "past the end", -3, PG, TIDE_MEM_DECOMMIT, TIDE_MEMORY_NOT_ALLOCATED, TIDE_MEMORY_NOT_ALLOCATED },
        { "over the end of the region", PG, PAGES * PG, TIDE_MEM_DECOMMIT, TIDE_UNABLE_TO_FREE_VM,
          TIDE_UNABLE_TO_FREE_VM },
        { "size wraps", PG, UINT64_MAX, TIDE_MEM_DECOMMIT, TIDE_UNABLE_TO_FREE_VM, TIDE_UNABLE_TO_FREE_VM },
        { "release over the end", PG, PAGES * PG, TIDE_MEM_RELEASE, TIDE_INVALID_PARAMETER, TIDE_UNABLE_TO_FREE_VM },
        { "release, size wraps", PG, UINT64_MAX, TIDE_MEM_RELEASE, TIDE_INVALID_PARAMETER, TIDE_UNABLE_TO_FREE_VM },
        { "placeholder unaligned", 1, PG, TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER, TIDE_INVALID_PARAMETER,
          TIDE_INVALID_PARAMETER },
        { "no placeholder", 0, PG, TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER, TIDE_CONFLICTING_ADDRESSES,
          TIDE_INVALID_PARAMETER },
        { "no placeholders to join", 0, UNIT, TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS,
          TIDE_CONFLICTING_ADDRESSES, TIDE_INVALID_PARAMETER },
        { "join past the end", -3, UNIT, TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS, TIDE_INVALID_PARAMETER,
          TIDE_INVALID_PARAMETER },
    };
    tide_address at = walk->base;
    uint64_t bytes = 0;

    SPACE(tide_virtual_free, walk->base, 0, TIDE_MEM_RELEASE);
    SPACE(tide_virtual_free_native, &at, &bytes, TIDE_MEM_RELEASE);
    REFUSED(tide_virtual_free_native, "base NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &bytes, TIDE_MEM_RELEASE);
    REFUSED(tide_virtual_free_native, "size NULL", TIDE_INVALID_PARAMETER, walk->space, &at, NULL, TIDE_MEM_RELEASE);
    for (unsigned i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const tide_address base = rows[i].base == -1   ? walk->released
                                  : rows[i].base == -2 ? 0x7000000000
                                  : rows[i].base == -3 ? UINT64_MAX - UNIT + 1
                                                       : walk->base + (unsigned)rows[i].base;
        REFUSED(tide_virtual_free, rows[i].what, rows[i].win32, walk->space, base, rows[i].bytes, rows[i].type);
        at = base;
        bytes = rows[i].bytes;
        REFUSED(tide_virtual_free_native, rows[i].what, rows[i].native, walk->space, &at, &bytes, rows[i].type);
        assert_int_equal(at, base);
        assert_int_equal(bytes, rows[i].bytes);
    }
}

static void ranges(struct walk *walk)
{
    uint32_t old;
    tide_region region;
    tide_page_info page;
    tide_address got[4];
    uint64_t room = 4;

    SPACE(tide_virtual_protect, walk->base, PG, TIDE_PAGE_READONLY, &old);
    SPACE(tide_virtual_query, walk->base, &region);
    SPACE(tide_page_query, walk->base, &page);
    SPACE(tide_write_watch_get, 0, walk->base, PG, got, &room, NULL);
    SPACE(tide_write_watch_reset, walk->base, PG);
    for (unsigned i = 0; i < WRAPPING; i++) {
        const tide_address at = wrapping[i].address;
        const uint64_t bytes = wrapping[i].bytes;
        REFUSED(tide_virtual_protect, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes,
                TIDE_PAGE_READONLY, &old);
        REFUSED(tide_write_watch_get, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, 0, at, bytes, got, &room,
                NULL);
        uint64_t huge = UINT64_MAX;
        REFUSED(tide_write_watch_get, "room for more than there is", TIDE_INVALID_PARAMETER, walk->space, 0, at, bytes,
                got, &huge, NULL);
        REFUSED(tide_write_watch_reset, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
    }
    REFUSED(tide_virtual_protect, "size 0", TIDE_INVALID_PARAMETER, walk->space, walk->base, 0, TIDE_PAGE_READONLY,
            &old);
    REFUSED(tide_virtual_protect, "place NULL", TIDE_INVALID_PARAMETER, walk->space, walk->base, PG, TIDE_PAGE_READONLY,
            NULL);
    REFUSED(tide_virtual_protect, "protection 0", TIDE_INVALID_PAGE_PROTECTION, walk->space, walk->base, PG, 0, &old);
    REFUSED(tide_virtual_protect, "released", TIDE_CONFLICTING_ADDRESSES, walk->space, walk->released, PG,
            TIDE_PAGE_READONLY, &old);
    REFUSED(tide_virtual_protect, "over the end", TIDE_CONFLICTING_ADDRESSES, walk->space, walk->base, (PAGES + 1) * PG,
            TIDE_PAGE_READONLY, &old);
    REFUSED(tide_virtual_query, "place NULL", TIDE_INVALID_PARAMETER, walk->space, walk->base, NULL);
    REFUSED(tide_virtual_query, "past the end", TIDE_INVALID_PARAMETER, walk->space, TIDE_HIGHEST_ADDRESS + 1, &region);
    REFUSED(tide_virtual_query, "the last address", TIDE_INVALID_PARAMETER, walk->space, UINT64_MAX, &region);
    REFUSED(tide_page_query, "place NULL", TIDE_INVALID_PARAMETER, walk->space, walk->base, NULL);
    REFUSED(tide_page_query, "the last address", TIDE_INVALID_PARAMETER, walk->space, UINT64_MAX, &page);
    REFUSED(tide_write_watch_get, "no write watch", TIDE_INVALID_PARAMETER, walk->space, 0, walk->base, PG, got, &room,
            NULL);
    REFUSED(tide_write_watch_get, "count NULL", TIDE_INVALID_PARAMETER, walk->space, 0, walk->base, PG, got, NULL,
            NULL);
    REFUSED(tide_write_watch_get, "addresses NULL", TIDE_INVALID_PARAMETER, walk->space, 0, walk->base, PG, NULL, &room,
            NULL);
    REFUSED(tide_write_watch_get, "flags 2", TIDE_INVALID_PARAMETER, walk->space, 2, walk->base, PG, got, &room, NULL);
    REFUSED(tide_write_watch_reset, "no write watch", TIDE_INVALID_PARAMETER, walk->space, walk->base, PG);
}

static void contents(struct walk *walk)
{
    const tide_memory_range range = { walk->base, PG };

    SPACE(tide_virtual_reset, walk->base, PG);
    SPACE(tide_virtual_reset_undo, walk->base, PG);
    SPACE(tide_virtual_discard, walk->base, PG);
    SPACE(tide_virtual_offer, walk->base, PG, 1);
    SPACE(tide_virtual_reclaim, walk->base, PG);
    SPACE(tide_virtual_lock, walk->base, PG);
    SPACE(tide_virtual_unlock, walk->base, PG);
    SPACE(tide_virtual_prefetch, &range, 1, 0);
    for (unsigned i = 0; i < WRAPPING; i++) {
        const tide_address at = wrapping[i].address;
        const uint64_t bytes = wrapping[i].bytes;
        REFUSED(tide_virtual_reset, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
        REFUSED(tide_virtual_reset_undo, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
        REFUSED(tide_virtual_discard, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
        REFUSED(tide_virtual_offer, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes, 1);
        REFUSED(tide_virtual_reclaim, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
        REFUSED(tide_virtual_lock, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
        REFUSED(tide_virtual_unlock, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes);
    }
    REFUSED(tide_virtual_offer, "priority 99", TIDE_INVALID_PARAMETER, walk->space, walk->base, PG, 99);
    REFUSED(tide_virtual_prefetch, "ranges NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, 1, 0);
    REFUSED(tide_virtual_prefetch, "flags", TIDE_INVALID_PARAMETER, walk->space, &range, 1, 0x80000000u);
}

static void counters(struct walk *walk)
{
    tide_engine *engine = walk->fixture->engine;
    tide_page_file_statistics file = { .struct_bytes = sizeof file };
    tide_statistics zero = { .struct_bytes = sizeof zero }, none = { 0 };
    tide_rates rates;
    tide_performance_information information = { .struct_bytes = sizeof information };
    tide_memory_status memory = { .struct_bytes = sizeof memory };
    tide_working_set_statistics set;
    tide_use_matrix matrix;
    static tide_pressure_snapshot snapshot;
    tide_pressure_verdict verdict;
    tide_memory_thresholds thresholds;
    tide_working_set_entry entry = { .address = walk->base };
    tide_frame_info frame;
    tide_retirement retirement;
    char text[8];
    bool event;
    int fd;

    ENGINE(tide_page_file_statistics_get, 0, &file);
    REFUSED(tide_page_file_statistics_get, "no such file", TIDE_INVALID_PARAMETER, engine, 16, &file);
    REFUSED(tide_page_file_statistics_get, "place NULL", TIDE_INVALID_PARAMETER, engine, 0, NULL);
    REFUSED(tide_statistics_rates, "all NULL", TIDE_INVALID_PARAMETER, NULL, NULL, NULL);
    REFUSED(tide_statistics_rates, "struct_bytes 0", TIDE_INVALID_PARAMETER, &none, &none, &rates);
    REFUSED(tide_statistics_rates, "no time between", TIDE_INVALID_PARAMETER, &zero, &zero, &rates);
    ENGINE(tide_performance_information_get, &information);
    REFUSED(tide_performance_information_get, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);
    SPACE(tide_memory_status_get, &memory);
    REFUSED(tide_memory_status_get, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    SPACE(tide_working_set_statistics_get, &set);
    REFUSED(tide_working_set_statistics_get, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    SPACE(tide_working_set_query, &entry, 1);
    REFUSED(tide_working_set_query, "entries NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, 1);
    entry.address = UINT64_MAX;
    REFUSED(tide_working_set_query, "past the end", TIDE_INVALID_PARAMETER, walk->space, &entry, 1);
    ENGINE(tide_use_matrix_get, &matrix);
    REFUSED(tide_use_matrix_get, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);
    ENGINE(tide_frame_query, 0, &frame);
    REFUSED(tide_frame_query, "past the end", TIDE_INVALID_PARAMETER, engine, UINT64_MAX, &frame);
    REFUSED(tide_frame_query, "place NULL", TIDE_INVALID_PARAMETER, engine, 0, NULL);
    ENGINE(tide_frame_retire, 0, &retirement);
    REFUSED(tide_frame_retire, "past the end", TIDE_INVALID_PARAMETER, engine, UINT64_MAX, &retirement);
    ENGINE(tide_frame_retire_at, &retirement, &retirement);
    REFUSED(tide_frame_retire_at, "pointer NULL", TIDE_INVALID_PARAMETER, engine, NULL, &retirement);
    REFUSED(tide_frame_retire_at, "pointer elsewhere", TIDE_INVALID_PARAMETER, engine, &retirement, &retirement);
    ENGINE(tide_pressure_snapshot_take, &snapshot);
    REFUSED(tide_pressure_snapshot_take, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);
    REFUSED(tide_pressure_classify, "all NULL", TIDE_INVALID_PARAMETER, NULL, NULL, NULL, NULL);
    REFUSED(tide_pressure_classify, "empty snapshots", TIDE_INVALID_PARAMETER, &snapshot, &snapshot, NULL, &verdict);
    ENGINE(tide_memory_event_fd, (tide_memory_event)0, &fd);
    REFUSED(tide_memory_event_fd, "event 99", TIDE_INVALID_PARAMETER, engine, (tide_memory_event)99, &fd);
    REFUSED(tide_memory_event_fd, "place NULL", TIDE_INVALID_PARAMETER, engine, (tide_memory_event)0, NULL);
    ENGINE(tide_memory_event_query, (tide_memory_event)0, &event);
    REFUSED(tide_memory_event_query, "event 99", TIDE_INVALID_PARAMETER, engine, (tide_memory_event)99, &event);
    REFUSED(tide_memory_event_query, "place NULL", TIDE_INVALID_PARAMETER, engine, (tide_memory_event)0, NULL);
    ENGINE(tide_memory_thresholds_get, &thresholds);
    REFUSED(tide_memory_thresholds_get, "place NULL", TIDE_INVALID_PARAMETER, engine, NULL);

    /* What cannot fail. */
    tide_pressure_snapshot_free(NULL);
    called(walk, "tide_pressure_snapshot_free");
    assert_string_equal(tide_pressure_name((tide_pressure_kind)99), "unknown");
    called(walk, "tide_pressure_name");
    assert_string_equal(tide_use_name((tide_use)99), "unknown");
    called(walk, "tide_use_name");
    assert_string_equal(tide_frame_state_name((tide_frame_state)99), "unknown");
    called(walk, "tide_frame_state_name");
    assert_int_equal(tide_use_matrix_print(NULL, text, sizeof text), 0);
    called(walk, "tide_use_matrix_print");
    assert_int_equal(tide_frame_number_end(NULL), 0);
    assert_int_equal(tide_frame_number_end(walk->dead), 0);
    called(walk, "tide_frame_number_end");
}

static void accesses(struct walk *walk)
{
    static char buffer[2 * PG];
    const tide_address address = walk->base;
    tide_access access;
    tide_pin *pin = NULL;
    void *pointer;
    unsigned count = 7;

    SPACE(tide_read, address, buffer, 8);
    SPACE(tide_write, address, buffer, 8);
    SPACE(tide_touch, address, TIDE_ACCESS_WRITE);
    SPACE(tide_touch_range, address, PG, TIDE_ACCESS_WRITE);
    SPACE(tide_pin_create, address, PG, TIDE_ACCESS_WRITE, &pin);
    SPACE(tide_access_begin, &access);
    REFUSED(tide_read, "buffer NULL", TIDE_INVALID_PARAMETER, walk->space, address, NULL, 8);
    REFUSED(tide_write, "buffer NULL", TIDE_INVALID_PARAMETER, walk->space, address, NULL, 8);
    REFUSED(tide_pin_create, "place NULL", TIDE_INVALID_PARAMETER, walk->space, address, PG, TIDE_ACCESS_READ, NULL);
    REFUSED(tide_pin_create, "size 0", TIDE_INVALID_PARAMETER, walk->space, address, 0, TIDE_ACCESS_READ, &pin);
    REFUSED(tide_pin_create, "size huge", TIDE_INVALID_PARAMETER, walk->space, address, SIZE_MAX / 2, TIDE_ACCESS_READ,
            &pin);
    REFUSED(tide_access_begin, "section NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    for (unsigned i = 0; i < WRAPPING; i++) {
        const tide_address at = wrapping[i].address;
        const uint64_t bytes = wrapping[i].bytes;
        REFUSED(tide_touch_range, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes, TIDE_ACCESS_READ);
        REFUSED(tide_read, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, buffer, bytes);
        REFUSED(tide_write, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, buffer, bytes);
        REFUSED(tide_pin_create, wrapping[i].what, TIDE_INVALID_PARAMETER, walk->space, at, bytes, TIDE_ACCESS_READ,
                &pin);
    }
    const tide_address nowhere[] = { 0, walk->released, TIDE_HIGHEST_ADDRESS + 1, UINT64_MAX - PG };
    for (unsigned i = 0; i < 4; i++) {
        REFUSED(tide_touch, "no region", TIDE_ACCESS_VIOLATION, walk->space, nowhere[i], TIDE_ACCESS_READ);
        REFUSED(tide_touch_range, "no region", TIDE_ACCESS_VIOLATION, walk->space, nowhere[i], 8, TIDE_ACCESS_READ);
        REFUSED(tide_read, "no region", TIDE_ACCESS_VIOLATION, walk->space, nowhere[i], buffer, 8);
        REFUSED(tide_write, "no region", TIDE_ACCESS_VIOLATION, walk->space, nowhere[i], buffer, 8);
        REFUSED(tide_pin_create, "no region", TIDE_ACCESS_VIOLATION, walk->space, nowhere[i], 8, TIDE_ACCESS_READ,
                &pin);
    }
    REFUSED(tide_touch, "the last address", TIDE_ACCESS_VIOLATION, walk->space, UINT64_MAX, TIDE_ACCESS_READ);
    const tide_access_kind kinds[] = { (tide_access_kind)2, (tide_access_kind)-1 };
    for (unsigned i = 0; i < 2; i++) {
        REFUSED(tide_touch, "kind", TIDE_INVALID_PARAMETER, walk->space, address, kinds[i]);
        REFUSED(tide_touch_range, "kind", TIDE_INVALID_PARAMETER, walk->space, address, PG, kinds[i]);
        REFUSED(tide_touch_range, "kind, of nothing", TIDE_INVALID_PARAMETER, walk->space, address, 0, kinds[i]);
        REFUSED(tide_pin_create, "kind", TIDE_INVALID_PARAMETER, walk->space, address, PG, kinds[i], &pin);
    }
    assert_null(pin);

    /* In a section, and after it. */
    assert_success(tide_access_begin(walk->space, &access));
    for (unsigned i = 0; i < 4; i++) {
        assert_null(tide_access_pointer(&access, nowhere[i], TIDE_ACCESS_READ));
        assert_status(access.status, TIDE_ACCESS_VIOLATION);
    }
    REFUSED(tide_access_pointers, "addresses NULL", TIDE_INVALID_PARAMETER, &access, NULL, 1, TIDE_ACCESS_READ,
            &pointer);
    REFUSED(tide_access_pointers, "pointers NULL", TIDE_INVALID_PARAMETER, &access, nowhere, 1, TIDE_ACCESS_READ, NULL);
    tide_extent extent;
    REFUSED(tide_access_extent, "extent NULL", TIDE_INVALID_PARAMETER, &access, walk->base, TIDE_ACCESS_READ, NULL);
    for (unsigned i = 0; i < 2; i++) {
        REFUSED(tide_access_extent, "nowhere", TIDE_ACCESS_VIOLATION, &access, nowhere[i], TIDE_ACCESS_READ, &extent);
        assert_null(tide_extent_pointer(&extent, nowhere[i]));
    }
    assert_non_null(tide_access_pointer(&access, walk->base, TIDE_ACCESS_READ)); /* from now on without a call */
    for (unsigned i = 0; i < 2; i++) {
        assert_null(tide_access_pointer(&access, walk->base, kinds[i]));
        assert_status(access.status, TIDE_INVALID_PARAMETER);
        pointer = &access;
        REFUSED(tide_access_pointers, "kind", TIDE_INVALID_PARAMETER, &access, &walk->base, 1, kinds[i], &pointer);
        assert_null(pointer);
        REFUSED(tide_access_extent, "kind", TIDE_INVALID_PARAMETER, &access, walk->base, kinds[i], &extent);
        assert_null(extent.memory);
    }
    tide_access_end(&access);
    assert_null(tide_access_pointer(&access, walk->base, TIDE_ACCESS_READ));
    assert_status(access.status, TIDE_INVALID_HANDLE);
    REFUSED(tide_access_extent, "ended", TIDE_INVALID_HANDLE, &access, walk->base, TIDE_ACCESS_READ, &extent);
    REFUSED(tide_access_extent, "NULL", TIDE_INVALID_PARAMETER, NULL, walk->base, TIDE_ACCESS_READ, &extent);
    REFUSED(tide_access_pointers, "ended", TIDE_INVALID_HANDLE, &access, &walk->base, 1, TIDE_ACCESS_READ, &pointer);
    assert_null(pointer);
    tide_access_end(&access);
    REFUSED(tide_access_pointers, "NULL", TIDE_INVALID_PARAMETER, NULL, nowhere, 1, TIDE_ACCESS_READ, &pointer);
    assert_null(tide_access_pointer(NULL, walk->base, TIDE_ACCESS_READ));
    assert_status(tide_last_error()->status, TIDE_INVALID_PARAMETER);
    tide_access_end(NULL);
    called(walk, "tide_access_resolve");
    called(walk, "tide_access_end");

    /* What cannot fail. */
    tide_pin_destroy(NULL);
    called(walk, "tide_pin_destroy");
    assert_null(tide_pin_iovec(NULL, &count));
    assert_int_equal(count, 0);
    assert_null(tide_pin_iovec(NULL, NULL));
    called(walk, "tide_pin_iovec");
    assert_string_equal(tide_status_name(12345), "unknown status");
    called(walk, "tide_status_name");
    assert_non_null(tide_last_error());
    called(walk, "tide_last_error");
}

static void mapped(struct walk *walk)
{
    tide_engine *engine = walk->fixture->engine;
    tide_address lowest = 7, highest = 7;
    tide_space *space = NULL;
    tide_mapped_options options;
    tide_mapped_statistics statistics = { .struct_bytes = sizeof statistics };

    tide_mapped_options_init(&options);
    called(walk, "tide_mapped_options_init");
    ENGINE(tide_mapped_space_create, &options, &space);
    ENGINE(tide_mapped_space_create, NULL, &space);
    REFUSED(tide_mapped_space_create, "place NULL", TIDE_INVALID_PARAMETER, engine, &options, NULL);
    REFUSED(tide_mapped_space_create, "place NULL, no options", TIDE_INVALID_PARAMETER, engine, NULL, NULL);
    for (unsigned i = 0; i < 10; i++) {
        tide_mapped_options wrong = options;
        switch (i) {
        case 0:
            wrong.struct_bytes = 0;
            break;
        case 1:
            wrong.struct_bytes++;
            break;
        case 2:
            wrong.window_bytes = 1;
            break;
        case 3:
            wrong.window_bytes = TIDE_LARGE_PAGE_BYTES + PG;
            break;
        case 4:
            wrong.window_bytes = (1ull << 46) + TIDE_LARGE_PAGE_BYTES;
            break;
        case 5:
            wrong.window_bytes = UINT64_MAX - TIDE_LARGE_PAGE_BYTES + 1;
            break;
        case 6:
            wrong.delivery = (tide_delivery)2;
            break;
        case 7:
            wrong.delivery = (tide_delivery)-1;
            break;
        case 8:
            wrong.handler_threads = 65;
            break;
        default:
            wrong.cluster_pages = 257;
        }
        REFUSED(tide_mapped_space_create, "options that cannot be", TIDE_INVALID_PARAMETER, engine, &wrong, &space);
    }
    options.window_bytes = 1ull << 46; /* allowed, and more than a process has left beside what it uses */
    tide_space *largest[3] = { NULL };
    tide_status status = TIDE_SUCCESS;
    for (unsigned i = 0; i < 3 && status == TIDE_SUCCESS; i++)
        status = tide_mapped_space_create(engine, &options, &largest[i]);
    if (status != TIDE_NOT_SUPPORTED)
        assert_status(status, TIDE_INSUFFICIENT_RESOURCES);
    for (unsigned i = 0; i < 3; i++)
        if (largest[i] != NULL)
            assert_success(tide_space_destroy(largest[i]));
    REFUSED(tide_mapped_check, "delivery 2", TIDE_INVALID_PARAMETER, (tide_delivery)2);
    REFUSED(tide_mapped_check, "delivery -1", TIDE_INVALID_PARAMETER, (tide_delivery)-1);
    SPACE(tide_mapped_query, &statistics);
    REFUSED(tide_mapped_query, "place NULL", TIDE_INVALID_PARAMETER, walk->space, NULL);
    REFUSED(tide_mapped_query, "a soft space", TIDE_INVALID_PARAMETER, walk->space, &statistics);
    statistics.struct_bytes = 0;
    REFUSED(tide_mapped_query, "struct_bytes 0", TIDE_INVALID_PARAMETER, walk->space, &statistics);
    SPACE(tide_space_range, &lowest, &highest);
    REFUSED(tide_space_range, "lowest NULL", TIDE_INVALID_PARAMETER, walk->space, NULL, &highest);
    REFUSED(tide_space_range, "highest NULL", TIDE_INVALID_PARAMETER, walk->space, &lowest, NULL);
    assert_null(space);
    assert_int_equal(lowest, 7);
    assert_int_equal(highest, 7);
}

/* The exported functions of the library that this program runs with. */
static void assert_complete(const struct walk *walk)
{
    char line[512], type, name[256];
    Dl_info library;
    unsigned exported = 0, missing = 0;

    assert_int_not_equal(dladdr((void *)(uintptr_t)tide_engine_open, &library), 0);
    snprintf(line, sizeof line, "nm -D --defined-only '%s'", library.dli_fname);
    FILE *symbols = popen(line, "r");
    assert_non_null(symbols);
    while (fgets(line, sizeof line, symbols) != NULL) {
        char *version;
        if (sscanf(line, "%*s %c %255s", &type, name) != 2 || type != 'T' || strncmp(name, "tide_", 5) != 0)
            continue;
        if ((version = strchr(name, '@')) != NULL)
            *version = '\0';
        bool found = false;
        for (unsigned i = 0; i < walk->calls && !found; i++)
            found = strcmp(walk->called[i], name) == 0;
        if (!found)
            print_error("%s is exported and not called here\n", name);
        missing += !found;
        exported++;
    }
    pclose(symbols);
    assert_true(exported >= 40);
    assert_int_equal(missing, 0);
    assert_int_equal(exported, walk->calls);
}

static void every_call_refuses_what_cannot_be(void **state)
{
    struct fixture *fixture = *state;
    struct walk *walk = &(struct walk){ .fixture = fixture };
    tide_config config = fixture->config;

    config.memory_bytes = 64 * PG;
    assert_success(tide_engine_open(&config, &walk->dead));
    fixture_open(fixture, 256); /* so that the memory of the closed one is not used again */
    assert_success(tide_engine_close(walk->dead));
    walk->space = space_new(fixture);
    assert_success(tide_space_create(fixture->engine, &walk->dead_space));
    region_new(walk->dead_space, 4);
    assert_success(tide_space_destroy(walk->dead_space));
    walk->base = region_new(walk->space, PAGES);
    walk->released = region_new(walk->space, 4);
    assert_success(tide_virtual_free(walk->space, walk->released, 0, TIDE_MEM_RELEASE));
    stamp_pages(walk->space, walk->base, PAGES, 1, 1);
    engines(walk);
    nodes(walk);
    spaces(walk);
    allocation(walk);
    freeing(walk);
    ranges(walk);
    contents(walk);
    counters(walk);
    accesses(walk);
    mapped(walk);
    assert_complete(walk);
    fixture_verify(fixture);
    fixture_close(fixture);
}

static const struct CMUnitTest every_call[] = {
    API_TEST(every_call_refuses_what_cannot_be),
};

API_MAIN(every_call)

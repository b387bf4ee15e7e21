/*
 * Drawing an operation, and the comparison of everything at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

struct operation {
    const char *name;
    unsigned weight;
    void (*run)(struct stress_thread *thread);
};

static const struct operation operations[] = {
    { "write", 180, op_write },
    { "write stamps", 40, op_write_stamps },
    { "read", 200, op_read },
    { "touch", 80, op_touch },
    { "section", 120, op_section },
    { "shared write", 80, op_shared_write },
    { "peek", 120, op_peek },
    { "pin", 30, op_pin },
    { "commit", 15, op_commit },
    { "decommit", 8, op_decommit },
    { "release", 1, op_release },
    { "overlap", 5, op_overlap },
    { "private region", 5, op_private_region },
    { "protect", 8, op_protect },
    { "own region", 5, op_own_region },
    { "placement", 8, op_placement },
    { "contents", 25, op_contents },
    { "stack", 3, op_stack },
    { "priority", 4, op_priority },
    { "space", 1, op_space },
    { "working set", 6, op_working_set },
    { "query", 30, op_query },
    { "statistics", 10, op_statistics },
    { "counters", 8, op_counters },
    { "engine empty", 2, op_engine_empty },
    { "worker step", 2, op_worker_step },
    { "migrate", 6, op_migrate },
    { "dry node", 1, op_dry_node },
    { "bad frame", 4, op_bad_frame },
    { "poison", 2, op_poison },
};

/* Drawn too when spaces are mapped. */
static const struct operation pointer_operations[] = {
    { "pointer write", 180, op_pointer_write },
    { "pointer read", 200, op_pointer_read },
    { "pointer violation", 15, op_pointer_violation },
    { "pointer peek", 120, op_pointer_peek },
    { "system call", 20, op_system_call },
};

enum {
    OPERATIONS = sizeof(operations) / sizeof(operations[0]),
    POINTER_OPERATIONS = sizeof(pointer_operations) / sizeof(pointer_operations[0])
};

static const struct operation *operation_at(unsigned index)
{
    return index < OPERATIONS ? &operations[index] : &pointer_operations[index - OPERATIONS];
}

void stress_operation(struct stress_thread *thread)
{
    const unsigned count = OPERATIONS + (thread->run->options.mapped != STRESS_SOFT ? POINTER_OPERATIONS : 0);
    unsigned total = 0, index = 0;
    for (unsigned i = 0; i < count; i++)
        total += operation_at(i)->weight;
    uint64_t drawn = draw(thread, total);
    while (drawn >= operation_at(index)->weight)
        drawn -= operation_at(index++)->weight;
    atomic_store_explicit(&thread->op, operation_at(index)->name, memory_order_relaxed);
    thread->own_lost = thread->saw_lost = false;
    operation_at(index)->run(thread);
    if (thread->inject_off) {
        atomic_fetch_sub(&thread->run->inject_off, 1);
        thread->inject_off = false;
    }
}
/* ---- at the end ------------------------------------------------------------------------------------------------- */

/* The regions that tide_virtual_query() tells from 0 on are the windows, page by page. */
static void check_map(struct stress_thread *thread, const struct shadow_space *holder)
{
    for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
        const struct shadow_window *window = &holder->windows[w];
        for (unsigned i = 0; i < window->page_count;) {
            tide_region region;
            const tide_address address = window->base + (uint64_t)i * TIDE_PAGE_BYTES;
            const struct shadow_page *page = &window->pages[i];
            expect(thread, tide_virtual_query(holder->space, address, &region), TIDE_SUCCESS, "tide_virtual_query",
                   address);
            unsigned same = i + 1;
            while (same < window->page_count && window->pages[same].committed == page->committed &&
                   window->pages[same].writable == page->writable)
                same++;
            const uint32_t state = page->committed    ? TIDE_MEM_COMMIT
                                   : window->reserved ? TIDE_MEM_RESERVE
                                                      : TIDE_MEM_FREE;
            if (region.state != state || (window->reserved && region.bytes != (uint64_t)(same - i) * TIDE_PAGE_BYTES))
                fail(thread, "map at 0x%llx: state 0x%x for 0x%llx bytes, expected 0x%x for 0x%llx",
                     (unsigned long long)address, region.state, (unsigned long long)region.bytes, state,
                     (unsigned long long)(same - i) * TIDE_PAGE_BYTES);
            i = same;
        }
    }
}

void stress_check_space(struct stress_thread *thread, unsigned space_index)
{
    struct shadow_space *holder = &thread->run->shadow.spaces[space_index];
    if (holder->space == NULL)
        return;
    uint64_t committed = 0, reserved = 0, regions = 0;
    thread->holder = holder;
    atomic_store(&thread->op, "final check");
    check_map(thread, holder);
    for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
        struct shadow_window *window = &holder->windows[w];
        regions += window->reserved;
        reserved += window->reserved ? (uint64_t)window->page_count * TIDE_PAGE_BYTES : 0;
        for (unsigned i = 0; i < window->page_count; i++) {
            const struct place place = { .holder = holder,
                                         .window = window,
                                         .space = holder->space,
                                         .identity = atomic_load(&holder->identity),
                                         .first = i,
                                         .count = 1 };
            const tide_status status =
                read_bytes(thread, holder->space, page_address(&place, i), thread->buffer, TIDE_PAGE_BYTES);
            expect_access(thread, &place, status, accessible_count(&place, TIDE_ACCESS_READ), 0, "tide_read");
            if (status == TIDE_SUCCESS)
                check_image(thread, &place, 0, thread->buffer, "final check");
            if (status == TIDE_SUCCESS && holder->mapped)
                check_pointer(thread, &place, 0, "final check by pointer");
            committed += window->pages[i].committed;
            atomic_fetch_add_explicit(&thread->ops, 1, memory_order_relaxed);
        }
    }
    tide_space_statistics statistics = { .struct_bytes = sizeof(statistics) };
    expect(thread, tide_space_statistics_get(holder->space, &statistics), TIDE_SUCCESS, "tide_space_statistics_get", 0);
    if (statistics.private_pages != committed || statistics.virtual_bytes != reserved || statistics.regions != regions)
        fail(thread, "space %u: %llu pages charged (expected %llu), %llu bytes reserved (%llu), %llu regions (%llu)",
             space_index, (unsigned long long)statistics.private_pages, (unsigned long long)committed,
             (unsigned long long)statistics.virtual_bytes, (unsigned long long)reserved,
             (unsigned long long)statistics.regions, (unsigned long long)regions);
    if (thread->inject_off) {
        atomic_fetch_sub(&thread->run->inject_off, 1);
        thread->inject_off = false;
    }
}

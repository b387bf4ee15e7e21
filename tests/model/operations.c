/*
 * The same operations on an engine and on the slow, obvious model (model.h), one thread: drawn at random from a seed
 * (random_operations.c), or from a string of bytes (tests/fuzz).
 *
 * Each run makes an engine with tiny memory (64 to 512 frames), a small page file or none, one to four nodes and
 * random tunables, and two spaces. The workers run only when the test says so (TIDE_WORKERS_MANUAL), and inside faults
 * that find no frame. After each operation the status and the data must be the model's, and pointers of an open access
 * section and pinned memory must show what the model holds. Now and then the whole map is compared
 * (tide_virtual_query), every page is asked for its state, and the figures of engine, nodes and spaces must be what
 * these states sum up to. tide_engine_verify() runs every few hundred operations.
 *
 * What is not in the model on purpose: which pages are in memory. That is taken from tide_page_query(), and then
 * predicts the class of the next fault on the page.
 *
 * TIDE_MODEL_TRACE=1 prints each operation, TIDE_MODEL_VERIFY=n verifies after each n-th.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"
#include "run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The zone of explicit addresses: crosses the border of two leaf tables twice. */
static const tide_address zone = 0x50000000ull - 512ull * PG;

static uint64_t byte_next(struct run *run)
{
    if (run->bytes_left == 0)
        return 0;
    run->bytes_left--;
    return *run->bytes++;
}

static uint64_t next(struct run *run)
{
    if (run->bytes != NULL) /* the bits of two bytes, spread over a word */
        run->random = byte_next(run) << 8 | byte_next(run);
    uint64_t x = run->random += 0x9E3779B97F4A7C15ull;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

uint64_t draw(struct run *run, uint64_t bound)
{
    if (run->bytes == NULL)
        return next(run) % bound;
    uint64_t value = byte_next(run);
    for (uint64_t most = 256; most < bound && most < 1ull << 56; most <<= 8)
        value = value << 8 | byte_next(run);
    return value % bound;
}

bool one_in(struct run *run, uint64_t n)
{
    return draw(run, n) == 0;
}

void note(struct run *run, const char *format, ...)
{
    char *text = run->recent[run->op % RECENT];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(run->recent[0]), format, arguments);
    va_end(arguments);
    if (run->trace)
        fprintf(stderr, "%u: %s\n", run->op, text);
}

/* Where all memory is, for a failure report. */
static void print_figures(struct run *run)
{
    tide_statistics s = { .struct_bytes = sizeof(s) };
    if (run->engine == NULL || tide_statistics_get(run->engine, &s) != TIDE_SUCCESS)
        return;
    fprintf(stderr, "commit %llu of %llu, slots %llu of %llu, tables %llu, open sections %llu, stale %llu\n",
            (unsigned long long)s.commit_total_pages, (unsigned long long)s.commit_limit_pages,
            (unsigned long long)s.page_file_used_slots, (unsigned long long)s.page_file_total_slots,
            (unsigned long long)s.table_pages, (unsigned long long)s.open_sections,
            (unsigned long long)s.stale_sections);
    for (unsigned i = 0; i < SPACES; i++)
        fprintf(stderr, "space %u: committed %llu, large %llu, limit %lld; all %llu of %llu\n", i,
                (unsigned long long)run->spaces[i].model.committed, (unsigned long long)run->spaces[i].model.large,
                (long long)run->spaces[i].model.limit, (unsigned long long)run->model.charge,
                (unsigned long long)run->model.limit);
    for (unsigned i = 0; i < run->node_count; i++) {
        tide_node_statistics n;
        if (tide_node_statistics_get(run->engine, i, &n) == TIDE_SUCCESS)
            fprintf(stderr,
                    "node %u: frames %llu, zeroed %llu, free %llu, available %llu, modified %llu, transition %llu, "
                    "active %llu\n",
                    i, (unsigned long long)n.frames, (unsigned long long)n.zeroed, (unsigned long long)n.free,
                    (unsigned long long)n.available, (unsigned long long)n.modified, (unsigned long long)n.transition,
                    (unsigned long long)n.active);
    }
}

void failed(struct run *run, const char *format, ...)
{
    const tide_error error = *tide_last_error();
    fprintf(stderr, "seed %llu, operation %u: ", (unsigned long long)run->seed, run->op);
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s\nlast error: %s (address 0x%llx, errno %d): %s\nbefore it:\n", text,
            tide_status_name(error.status), (unsigned long long)error.address, error.io_error, error.message);
    for (unsigned op = run->op >= RECENT - 1 ? run->op - (RECENT - 1) : 0; op <= run->op; op++)
        fprintf(stderr, "  %u: %s\n", op, run->recent[op % RECENT]);
    fprintf(stderr, "repeat with TIDE_MODEL_SEED=%llu TIDE_MODEL_OPS=%u\n", (unsigned long long)run->seed, run->op + 1);
    fprintf(stderr, "%s\n", run->config);
    print_figures(run);
    unlink(run->path);
    rmdir(run->folder);
    operations_failed();
}

void expect(struct run *run, tide_status got, tide_status expected, const char *call)
{
    if (got != expected)
        failed(run, "%s returned %s, the model says %s", call, tide_status_name(got), tide_status_name(expected));
}

tide_statistics statistics_get(struct run *run)
{
    tide_statistics statistics = { .struct_bytes = sizeof(statistics) };
    expect(run, tide_statistics_get(run->engine, &statistics), TIDE_SUCCESS, "tide_statistics_get");
    return statistics;
}

/* ---- memory looked at directly ---------------------------------------------------------------------------------- */

static void check_held(struct run *run, unsigned space, struct held_page *held, const char *what)
{
    struct model_page *page = model_page_find(&run->spaces[space].model, held->address);
    const bool same = page != NULL && page->committed && page->incarnation == held->incarnation;
    if (same ? !model_see(page, 0, held->memory, PG) : memcmp(held->memory, held->last, PG) != 0)
        failed(run, "%s: the memory of page 0x%llx is not what %s", what, (unsigned long long)held->address,
               same ? "the model holds" : "it was before the page was decommitted");
    memcpy(held->last, held->memory, PG);
}

static void check_all_held(struct run *run)
{
    for (unsigned i = 0; run->section_open && i < run->section_count; i++)
        check_held(run, run->section_space, &run->section_pages[i], "pointer of the open section");
    for (unsigned p = 0; p < PINS; p++) {
        for (unsigned i = 0; run->pins[p].pin != NULL && i < run->pins[p].count; i++)
            check_held(run, run->pins[p].space, &run->pins[p].pages[i], "pin");
    }
}

/* `memory` is where the page's frame shows now; the model has been told of the access that made it so. */
static void hold(struct run *run, unsigned space, struct held_page *held, tide_address address, tide_access_kind kind,
                 char *memory)
{
    held->writable = kind == TIDE_ACCESS_WRITE;
    held->address = address / PG * PG;
    held->incarnation = model_page_find(&run->spaces[space].model, address)->incarnation;
    held->memory = memory;
    memcpy(held->last, memory, PG);
    check_held(run, space, held, "new pointer");
}

static void section_end(struct run *run)
{
    tide_access_end(&run->section);
    run->section_open = false;
    run->section_count = 0;
}

/* A call inside an open section may find every frame held by it: then the section ends and the call is repeated. */
bool gives_way(struct run *run, tide_status status)
{
    if (status != TIDE_ACCESS_SECTION_TOO_LONG)
        return false;
    if (!run->section_open)
        failed(run, "TIDE_ACCESS_SECTION_TOO_LONG without a section");
    section_end(run);
    return true;
}

/* ---- draws ------------------------------------------------------------------------------------------------------ */

/* An address that is mostly inside or near something reserved. */
tide_address draw_address(struct run *run, const struct tested_space *space)
{
    const struct model_space *model = &space->model;
    if (model->region_count == 0 || one_in(run, 10))
        return zone + draw(run, (uint64_t)ZONE_PAGES * PG);
    const struct model_region *region = &model->regions[draw(run, model->region_count)];
    const uint64_t margin = one_in(run, 12) ? 8 : 0;
    return (region->first + draw(run, region->count + margin)) * PG + (one_in(run, 2) ? 0 : draw(run, PG));
}

static uint32_t draw_protection(struct run *run)
{
    static const uint32_t others[] = { TIDE_PAGE_NOACCESS,
                                       TIDE_PAGE_READONLY,
                                       TIDE_PAGE_EXECUTE_READ,
                                       TIDE_PAGE_EXECUTE,
                                       TIDE_PAGE_EXECUTE_READWRITE,
                                       TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD,
                                       TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD,
                                       TIDE_PAGE_READONLY | TIDE_PAGE_GUARD,
                                       TIDE_PAGE_READWRITE | TIDE_PAGE_NOCACHE,
                                       TIDE_PAGE_READONLY | TIDE_PAGE_WRITECOMBINE,
                                       TIDE_PAGE_NOACCESS | TIDE_PAGE_GUARD,
                                       TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD | TIDE_PAGE_NOCACHE,
                                       TIDE_PAGE_WRITECOPY,
                                       TIDE_PAGE_EXECUTE_WRITECOPY,
                                       0,
                                       6,
                                       0x80000000u };
    return one_in(run, 6) ? others[draw(run, sizeof(others) / sizeof(others[0]))] : TIDE_PAGE_READWRITE;
}

/* With page files at their maximum: a commit that does not fit makes them grow. */
void limit_refresh(struct run *run)
{
    const tide_statistics now = statistics_get(run);
    run->model.limit = now.commit_limit_maximum_pages - (now.commit_total_pages - run->model.charge);
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

/* Where pages are to go, which the model does not know and nothing else depends on; so never strict. */
struct wish {
    bool of_space; /* the wish is for the space, from now on */
    tide_placement placement;
};
static const struct wish no_wish = { .placement = { .node = TIDE_NO_PREFERRED_NODE } };

static struct wish draw_wish(struct run *run)
{
    static const tide_placement_policy policies[] = { TIDE_PLACEMENT_PREFERRED, TIDE_PLACEMENT_DEFAULT,
                                                      TIDE_PLACEMENT_INTERLEAVE, TIDE_PLACEMENT_FIRST_TOUCH };
    const uint64_t drawn = draw(run, (uint64_t)run->node_count * 24);
    const unsigned rest = (unsigned)(drawn / run->node_count);
    struct wish wish = { .of_space = rest >= 12,
                         .placement = { .struct_bytes = sizeof(tide_placement),
                                        .policy = policies[rest % 4],
                                        .fallback = (tide_placement_fallback)((rest + rest / 4) % 4),
                                        .node = (uint32_t)(drawn % run->node_count) } };
    if (wish.placement.policy != TIDE_PLACEMENT_PREFERRED)
        wish.placement.node = TIDE_NO_PREFERRED_NODE;
    return wish;
}

/* By VirtualAlloc2 where that rounds nothing, else by VirtualAllocExNuma, which knows preferred nodes only. */
static tide_status wished_alloc(struct tested_space *space, tide_address *base, uint64_t *bytes, uint32_t type,
                                uint32_t protection, const struct wish *wish)
{
    const tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                               .node = wish->placement.node,
                                               .policy = wish->placement.policy,
                                               .fallback = wish->placement.fallback };
    if (wish->placement.struct_bytes != 0 && !wish->of_space && *base % TIDE_ALLOCATION_GRANULARITY_BYTES == 0 &&
        *bytes % PG == 0)
        return tide_virtual_alloc2(space->space, base, bytes, type, protection, &parameters);
    return tide_virtual_alloc_numa(space->space, base, bytes, type, protection,
                                   wish->of_space ? TIDE_NO_PREFERRED_NODE : wish->placement.node);
}

static void virtual_alloc(struct run *run, struct tested_space *space, tide_address base, uint64_t bytes, uint32_t type,
                          uint32_t protection)
{
    note(run, "virtual_alloc(space %d, 0x%llx, 0x%llx, type 0x%x, protection 0x%x)", (int)(space - run->spaces),
         (unsigned long long)base, (unsigned long long)bytes, type, protection);
    /*
     * Page tables are charged too, existing ones and those that touches may still need; how many is not in the model.
     * What they take now is off the limit; a commit that fits only if it needs no more of them is left out.
     */
    limit_refresh(run);
    const uint64_t need = model_alloc_need(&space->model, base, bytes, type);
    const uint64_t left = run->model.limit - run->model.charge;
    if (need <= left && need > 0 && left - need < TABLES_MOST)
        return;
    if (space->model.region_count == MODEL_REGIONS && ((type & TIDE_MEM_RESERVE) != 0 || base == 0))
        return;
    tide_address model_base = base, engine_base;
    uint64_t model_bytes = bytes, engine_bytes;
    const tide_status expected =
        model_virtual_alloc(&run->model, &space->model, &model_base, &model_bytes, type, protection);
    const struct wish wish = (type & TIDE_MEM_LARGE_PAGES) != 0 || one_in(run, 2) ? no_wish : draw_wish(run);
    tide_status status;
    if (wish.of_space)
        expect(run, tide_space_set_placement(space->space, &wish.placement), TIDE_SUCCESS, "tide_space_set_placement");
    do {
        engine_base = base;
        engine_bytes = bytes;
        status = wished_alloc(space, &engine_base, &engine_bytes, type, protection, &wish);
    } while (gives_way(run, status));
    expect(run, status, expected, "tide_virtual_alloc");
    if (!tide_failed(status) && (engine_base != model_base || engine_bytes != model_bytes))
        failed(run, "tide_virtual_alloc answered 0x%llx + 0x%llx, the model says 0x%llx + 0x%llx",
               (unsigned long long)engine_base, (unsigned long long)engine_bytes, (unsigned long long)model_base,
               (unsigned long long)model_bytes);
}

static void op_reserve(struct run *run, struct tested_space *space)
{
    tide_address base = zone + draw(run, (uint64_t)ZONE_PAGES * PG);
    uint32_t type = TIDE_MEM_RESERVE;
    if (one_in(run, 3))
        base = 0;
    if (one_in(run, 3))
        type = base == 0 && one_in(run, 2) ? TIDE_MEM_COMMIT : TIDE_MEM_RESERVE | TIDE_MEM_COMMIT;
    if (one_in(run, 3))
        type |= TIDE_MEM_TOP_DOWN;
    if (one_in(run, 4))
        type |= TIDE_MEM_WRITE_WATCH;
    if (one_in(run, 30))
        type = (uint32_t[]){ 0, TIDE_MEM_TOP_DOWN, TIDE_MEM_DECOMMIT, TIDE_MEM_RESERVE | 0x80000u }[draw(run, 4)];
    const uint64_t pages = base == 0 ? 1 + draw(run, 32) : 1 + draw(run, 200);
    const uint64_t bytes = one_in(run, 20) ? 0 : pages * PG - (one_in(run, 2) ? 0 : draw(run, PG));
    virtual_alloc(run, space, base, bytes, type, draw_protection(run));
}

static void op_commit(struct run *run, struct tested_space *space)
{
    tide_address base = draw_address(run, space);
    uint64_t bytes = 1 + draw(run, (uint64_t)(one_in(run, 4) ? 64 : 8) * PG);
    if (one_in(run, 40))
        bytes = (run->model.limit + draw(run, 64)) * PG; /* more than there is: over the region's end or the limit */
    virtual_alloc(run, space, base, bytes, TIDE_MEM_COMMIT | (one_in(run, 8) ? TIDE_MEM_TOP_DOWN : 0),
                  draw_protection(run));
}

/*
 * A region larger than the limit: reserving it is free, committing it refused, and so is a commit of more than is left.
 */
static void op_commit_limit(struct run *run, struct tested_space *space)
{
    virtual_alloc(run, space, 0, (run->model.limit - run->model.charge + 1) * PG, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                  TIDE_PAGE_READWRITE);
}

static void op_free(struct run *run, struct tested_space *space)
{
    const struct model_space *model = &space->model;
    tide_address base = draw_address(run, space);
    uint64_t bytes = 1 + draw(run, 24 * PG);
    uint32_t type = TIDE_MEM_DECOMMIT;
    if (one_in(run, 5))
        type = TIDE_MEM_RELEASE;
    if (model->region_count > 0 && (type == TIDE_MEM_RELEASE || one_in(run, 8))) {
        const struct model_region *region = &model->regions[draw(run, model->region_count)];
        base = region->first * PG;
        bytes = type == TIDE_MEM_RELEASE && one_in(run, 8) ? PG : 0;
        if (one_in(run, 5))
            base += PG * draw(run, region->count);
    } else if (type == TIDE_MEM_RELEASE) {
        bytes = 0;
    }
    if (one_in(run, 40))
        type = (uint32_t[]){ 0, TIDE_MEM_DECOMMIT | TIDE_MEM_RELEASE, TIDE_MEM_COMMIT }[draw(run, 3)];
    note(run, "virtual_free(space %d, 0x%llx, 0x%llx, type 0x%x)", (int)(space - run->spaces), (unsigned long long)base,
         (unsigned long long)bytes, type);
    const tide_status expected = model_virtual_free(&run->model, &space->model, base, bytes, type);
    expect(run, tide_virtual_free(space->space, base, bytes, type), expected, "tide_virtual_free");
}

/* Room in the model for the regions that a split may make. */
static bool may_split(const struct tested_space *space)
{
    return space->model.region_count + 2 <= MODEL_REGIONS;
}

bool near_limit(struct run *run)
{
    const tide_statistics now = statistics_get(run);
    return now.commit_limit_maximum_pages - now.commit_total_pages < 2 * TABLES_MOST;
}

static void op_free_native(struct run *run, struct tested_space *space)
{
    tide_address base = draw_address(run, space), model_base = base;
    uint64_t bytes = 1 + draw(run, 48 * PG), model_bytes = bytes;
    const uint32_t type = one_in(run, 3) ? TIDE_MEM_DECOMMIT : one_in(run, 40) ? 0 : TIDE_MEM_RELEASE;
    if (!may_split(space) || near_limit(run))
        return;
    note(run, "virtual_free_native(space %d, 0x%llx, 0x%llx, type 0x%x)", (int)(space - run->spaces),
         (unsigned long long)base, (unsigned long long)bytes, type);
    const tide_status expected = model_virtual_free_native(&run->model, &space->model, &model_base, &model_bytes, type);
    tide_status status;
    do
        status = tide_virtual_free_native(space->space, &base, &bytes, type);
    while (gives_way(run, status));
    expect(run, status, expected, "tide_virtual_free_native");
    if (base != model_base || bytes != model_bytes)
        failed(run, "tide_virtual_free_native answered 0x%llx + 0x%llx, the model says 0x%llx + 0x%llx",
               (unsigned long long)base, (unsigned long long)bytes, (unsigned long long)model_base,
               (unsigned long long)model_bytes);
    space->splits += expected == TIDE_SUCCESS && type == TIDE_MEM_RELEASE;
}

static void op_protect(struct run *run, struct tested_space *space)
{
    const tide_address base = draw_address(run, space);
    const uint64_t bytes = one_in(run, 30) ? 0 : 1 + draw(run, (uint64_t)(one_in(run, 4) ? 64 : 8) * PG);
    const uint32_t protection = one_in(run, 2) ? TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD : draw_protection(run);
    uint32_t old = 77, model_old = 77;
    note(run, "virtual_protect(space %d, 0x%llx, 0x%llx, 0x%x)", (int)(space - run->spaces), (unsigned long long)base,
         (unsigned long long)bytes, protection);
    const tide_status expected = model_virtual_protect(&space->model, base, bytes, protection, &model_old);
    tide_status status;
    do
        status = tide_virtual_protect(space->space, base, bytes, protection, &old);
    while (gives_way(run, status));
    expect(run, status, expected, "tide_virtual_protect");
    if (old != model_old)
        failed(run, "tide_virtual_protect says that the protection was 0x%x, the model says 0x%x", old, model_old);
}

/* Reserves a placeholder, replaces one, or gives back, splits or joins. */
static void op_placeholder(struct run *run, struct tested_space *space)
{
    struct model_space *model = &space->model;
    const struct model_region *region = NULL;
    for (unsigned i = 0, from = (unsigned)draw(run, MODEL_REGIONS); i < MODEL_REGIONS && region == NULL; i++) {
        const unsigned at = (from + i) % MODEL_REGIONS;
        if (at < model->region_count &&
            (model->regions[at].kind == MODEL_PLACEHOLDER || model->regions[at].was_placeholder))
            region = &model->regions[at];
    }
    if (!may_split(space) || near_limit(run))
        return;
    if (region == NULL || one_in(run, 4)) {
        tide_address base = 0, model_base = 0;
        uint64_t bytes = (1 + draw(run, 64)) * PG, model_bytes = bytes;
        const uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER;
        const uint32_t protection = one_in(run, 16) ? TIDE_PAGE_READWRITE : TIDE_PAGE_NOACCESS;
        note(run, "placeholder(space %d, %llu bytes)", (int)(space - run->spaces), (unsigned long long)bytes);
        const tide_status expected =
            model_virtual_alloc2(&run->model, model, &model_base, &model_bytes, type, protection);
        expect(run, tide_virtual_alloc2(space->space, &base, &bytes, type, protection, NULL), expected,
               "tide_virtual_alloc2 of a placeholder");
        if (base != model_base)
            failed(run, "a placeholder at 0x%llx, the model says 0x%llx", (unsigned long long)base,
                   (unsigned long long)model_base);
        return;
    }
    const tide_address base = (region->first + (one_in(run, 2) ? 0 : draw(run, region->count))) * PG;
    const uint64_t most = region->first + region->count - base / PG + (one_in(run, 8) ? 2 : 0);
    const uint64_t bytes = (one_in(run, 3) ? 1 + draw(run, most) : most) * PG;
    const unsigned kind = (unsigned)draw(run, 4);
    if (kind < 2) {
        const uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_REPLACE_PLACEHOLDER | (one_in(run, 2) ? TIDE_MEM_COMMIT : 0) |
                              (one_in(run, 4) ? TIDE_MEM_WRITE_WATCH : 0);
        const uint32_t protection = draw_protection(run);
        tide_address model_base = base, engine_base = base;
        uint64_t model_bytes = bytes, engine_bytes = bytes;
        limit_refresh(run);
        const uint64_t left = run->model.limit - run->model.charge, need = bytes / PG;
        if (need <= left && left - need < TABLES_MOST)
            return;
        note(run, "replace(space %d, 0x%llx, 0x%llx, type 0x%x, protection 0x%x)", (int)(space - run->spaces),
             (unsigned long long)base, (unsigned long long)bytes, type, protection);
        const tide_status expected =
            model_virtual_alloc2(&run->model, model, &model_base, &model_bytes, type, protection);
        expect(run, tide_virtual_alloc2(space->space, &engine_base, &engine_bytes, type, protection, NULL), expected,
               "tide_virtual_alloc2 replacing a placeholder");
        return;
    }
    const uint32_t type =
        TIDE_MEM_RELEASE | (kind == 2 ? TIDE_MEM_PRESERVE_PLACEHOLDER : TIDE_MEM_COALESCE_PLACEHOLDERS);
    uint64_t joined = bytes;
    for (unsigned i = 0; kind == 3 && i < model->region_count; i++) /* often just what there is to join */
        if (model->regions[i].first == (base + joined) / PG && !one_in(run, 3))
            joined += model->regions[i].count * PG;
    note(run, "virtual_free(space %d, 0x%llx, 0x%llx, type 0x%x)", (int)(space - run->spaces), (unsigned long long)base,
         (unsigned long long)joined, type);
    const tide_status expected = model_virtual_free(&run->model, model, base, joined, type);
    expect(run, tide_virtual_free(space->space, base, joined, type), expected, "tide_virtual_free of placeholders");
    space->splits++;
}

bool is_pinned(const struct run *run, unsigned space, tide_address address)
{
    const struct model_page *page = model_page_find(&run->spaces[space].model, address);
    for (unsigned p = 0; p < PINS; p++)
        for (unsigned i = 0; run->pins[p].pin != NULL && run->pins[p].space == space && i < run->pins[p].count; i++)
            if (run->pins[p].pages[i].address == address && page->committed &&
                run->pins[p].pages[i].incarnation == page->incarnation)
                return true;
    return false;
}

static void op_write_watch(struct run *run, struct tested_space *space)
{
    enum { ROOM = 64 };
    const unsigned index = (unsigned)(space - run->spaces);
    const uint32_t flags = one_in(run, 20) ? 2 : one_in(run, 2) ? TIDE_WRITE_WATCH_RESET : 0;
    tide_address base = draw_address(run, space), got[ROOM];
    uint64_t bytes = 1 + draw(run, 64 * PG), count = draw(run, ROOM + 1), found = 0;
    for (unsigned i = 0; i < space->model.region_count; i++) /* mostly one that has it */
        if (space->model.regions[i].kind == MODEL_WATCHED && one_in(run, 2)) {
            base = space->model.regions[i].first * PG;
            bytes = space->model.regions[i].count * PG;
        }
    note(run, "write_watch_get(space %u, flags %u, 0x%llx, 0x%llx, room %llu)", index, flags, (unsigned long long)base,
         (unsigned long long)bytes, (unsigned long long)count);
    struct model_region *region = model_watched(&space->model, base, bytes);
    const bool reset = flags == TIDE_WRITE_WATCH_RESET;
    const bool busy = reset && run->section_open && run->section_count > 0;
    if (reset && one_in(run, 4)) {
        expect(run, tide_write_watch_reset(space->space, base, bytes),
               busy             ? TIDE_DEVICE_BUSY
               : region == NULL ? TIDE_INVALID_PARAMETER
                                : TIDE_SUCCESS,
               "tide_write_watch_reset");
        for (uint64_t page = base / PG; !busy && region != NULL && page <= (base + bytes - 1) / PG; page++)
            region->pages[page - region->first].written &= is_pinned(run, index, page * PG);
        return;
    }
    const tide_status expected = flags > 1        ? TIDE_INVALID_PARAMETER
                                 : busy           ? TIDE_DEVICE_BUSY
                                 : region == NULL ? TIDE_INVALID_PARAMETER
                                                  : TIDE_SUCCESS;
    const uint64_t room = count;
    expect(run, tide_write_watch_get(space->space, flags, base, bytes, got, &count, NULL), expected,
           "tide_write_watch_get");
    if (expected != TIDE_SUCCESS)
        return;
    for (uint64_t page = base / PG; page <= (base + bytes - 1) / PG && found < room; page++) {
        struct model_page *one = &region->pages[page - region->first];
        if (!one->written)
            continue;
        if (found >= count || got[found] != page * PG)
            failed(run, "tide_write_watch_get does not report page 0x%llx, which was written; entry %llu of %llu",
                   (unsigned long long)(page * PG), (unsigned long long)found, (unsigned long long)count);
        found++;
        if (reset)
            one->written = is_pinned(run, index, page * PG);
    }
    if (found != count)
        failed(run, "tide_write_watch_get reports %llu pages, of which %llu were written", (unsigned long long)count,
               (unsigned long long)found);
}

static void op_space_limit(struct run *run, struct tested_space *space)
{
    space->model.limit = one_in(run, 2) ? TIDE_NO_COMMIT_LIMIT : draw(run, 2 * space->model.committed + 40);
    note(run, "commit limit(space %d, %lld)", (int)(space - run->spaces), (long long)space->model.limit);
    expect(run, tide_space_set_commit_limit(space->space, space->model.limit), TIDE_SUCCESS,
           "tide_space_set_commit_limit");
}

/* Whether there are frames for it is not in the model; nor, near it, whether the limit has room for the table. */
static void op_large(struct run *run, struct tested_space *space)
{
    tide_address base = 0;
    uint64_t bytes = TIDE_LARGE_PAGE_BYTES;
    const uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES;
    if (space->model.region_count == MODEL_REGIONS || run->frames < LARGE_FRAMES)
        return;
    note(run, "large page(space %d)", (int)(space - run->spaces));
    const tide_status status = tide_virtual_alloc(space->space, &base, &bytes, type, TIDE_PAGE_READWRITE);
    if (gives_way(run, status) || status == TIDE_NO_MEMORY || status == TIDE_COMMITMENT_LIMIT)
        return;
    expect(run, status, TIDE_SUCCESS, "tide_virtual_alloc of a large page");
    (void)model_virtual_alloc2(&run->model, &space->model, &base, &bytes, type, TIDE_PAGE_READWRITE);
}

/* Compares status and failing address of an access with what the model allows. */
static void expect_access(struct run *run, struct tested_space *space, tide_status status, tide_address address,
                          uint64_t good, uint64_t bytes, const char *call)
{
    const tide_status expected = good == bytes ? TIDE_SUCCESS : model_refuse(&space->model, address + good);
    expect(run, status, expected, call);
    if (good == bytes)
        return;
    space->accesses_failed += expected == TIDE_ACCESS_VIOLATION;
    if (tide_last_error()->address != address + good)
        failed(run, "%s: the first byte that fails is 0x%llx, tide_last_error() says 0x%llx", call,
               (unsigned long long)(address + good), (unsigned long long)tide_last_error()->address);
}

/* Whether a stack can grow now depends on page tables that the model does not know: near a limit it is left out. */
static bool stack_in_doubt(struct run *run, struct tested_space *space, tide_address address, uint64_t bytes)
{
    limit_refresh(run);
    return model_stack_guard(&space->model, address, bytes) && near_limit(run);
}

static uint64_t draw_span(struct run *run)
{
    return 1 + draw(run, one_in(run, 3) ? SPAN_BYTES : one_in(run, 2) ? PG : 16);
}

static void op_read(struct run *run, struct tested_space *space)
{
    static unsigned char got[SPAN_BYTES];
    const tide_address address = draw_address(run, space);
    const uint64_t bytes = draw_span(run);
    note(run, "read(space %d, 0x%llx, %llu)", (int)(space - run->spaces), (unsigned long long)address,
         (unsigned long long)bytes);
    if (stack_in_doubt(run, space, address, bytes))
        return;
    const uint64_t good = model_accessible(&space->model, address, bytes, TIDE_ACCESS_READ);
    memset(got, 0xA5, bytes);
    model_read(&space->model, address, NULL, good);
    tide_status status;
    do
        status = tide_read(space->space, address, got, bytes);
    while (gives_way(run, status));
    expect_access(run, space, status, address, good, bytes, "tide_read");
    if (!model_see_range(&space->model, address, got, good))
        failed(run, "tide_read got other bytes than the model");
    for (uint64_t i = good; i < bytes; i++)
        if (got[i] != 0xA5 && (i >= good + PG || address % PG + i - good >= PG))
            failed(run, "tide_read wrote behind the last byte that may be read");
}

static void op_write(struct run *run, struct tested_space *space)
{
    static unsigned char data[SPAN_BYTES];
    const tide_address address = draw_address(run, space);
    const uint64_t bytes = draw_span(run);
    note(run, "write(space %d, 0x%llx, %llu)", (int)(space - run->spaces), (unsigned long long)address,
         (unsigned long long)bytes);
    if (stack_in_doubt(run, space, address, bytes))
        return;
    const uint64_t good = model_accessible(&space->model, address, bytes, TIDE_ACCESS_WRITE);
    for (uint64_t i = 0, word = next(run); i < bytes; i++)
        data[i] = (unsigned char)((word >> (i % 8 * 8)) + i / 8);
    model_write(&space->model, address, data, good);
    tide_status status;
    do
        status = tide_write(space->space, address, data, bytes);
    while (gives_way(run, status));
    expect_access(run, space, status, address, good, bytes, "tide_write");
}

/* The class of the fault that an access to a page will take, from where it is now. */
static tide_status fault_class(struct run *run, struct tested_space *space, tide_address address)
{
    tide_page_info info;
    expect(run, tide_page_query(space->space, address, &info), TIDE_SUCCESS, "tide_page_query");
    switch (info.state) {
    case TIDE_PAGE_STATE_DEMAND_ZERO:
        return TIDE_PAGE_FAULT_DEMAND_ZERO;
    case TIDE_PAGE_STATE_ACTIVE:
        return TIDE_SUCCESS;
    case TIDE_PAGE_STATE_STANDBY:
    case TIDE_PAGE_STATE_MODIFIED:
    case TIDE_PAGE_STATE_TRANSITION:
        return TIDE_PAGE_FAULT_TRANSITION;
    case TIDE_PAGE_STATE_PAGE_FILE:
        return TIDE_PAGE_FAULT_PAGING_FILE;
    default:
        failed(run, "tide_page_query of a page that may be accessed says state %d", (int)info.state);
    }
    return TIDE_SUCCESS;
}

static void op_touch(struct run *run, struct tested_space *space)
{
    const tide_address address = draw_address(run, space);
    const tide_access_kind kind = one_in(run, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    note(run, "touch(space %d, 0x%llx, %d)", (int)(space - run->spaces), (unsigned long long)address, (int)kind);
    tide_status status, expected = TIDE_SUCCESS;
    const uint64_t before = space->model.grown;
    if (stack_in_doubt(run, space, address, 1))
        return;
    const bool good = model_accessible(&space->model, address, 1, kind) == 1;
    const bool grown = space->model.grown != before;
    do {
        if (good && !grown)
            expected = fault_class(run, space, address);
        status = tide_touch(space->space, address, kind);
    } while (gives_way(run, status));
    if (good) {
        if (!grown)
            expect(run, status, expected, "tide_touch");
        else if (status != TIDE_PAGE_FAULT_GUARD_PAGE)
            failed(run, "tide_touch of a stack's guard page returned %s", tide_status_name(status));
        tide_page_info info;
        expect(run, tide_page_query(space->space, address, &info), TIDE_SUCCESS, "tide_page_query");
        if (expected != TIDE_SUCCESS && info.priority != priority_now(run, space))
            failed(run, "the fault gave page 0x%llx priority %u; thread and space have %u", (unsigned long long)address,
                   info.priority, priority_now(run, space));
        model_read(&space->model, address, NULL, 1);
        if (kind == TIDE_ACCESS_WRITE)
            model_mark(&space->model, address, 1);
    } else
        expect_access(run, space, status, address, 0, 1, "tide_touch");
}

static void op_touch_range(struct run *run, struct tested_space *space)
{
    const tide_address address = draw_address(run, space);
    const uint64_t bytes = 1 + draw(run, 24 * PG);
    const tide_access_kind kind = one_in(run, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    note(run, "touch_range(space %d, 0x%llx, %llu, %d)", (int)(space - run->spaces), (unsigned long long)address,
         (unsigned long long)bytes, (int)kind);
    if (stack_in_doubt(run, space, address, bytes))
        return;
    const uint64_t good = model_accessible(&space->model, address, bytes, kind);
    model_read(&space->model, address, NULL, good);
    if (kind == TIDE_ACCESS_WRITE)
        model_mark(&space->model, address, good);
    tide_status status;
    do
        status = tide_touch_range(space->space, address, bytes, kind);
    while (gives_way(run, status));
    expect_access(run, space, status, address, good, bytes, "tide_touch_range");
}

/* A frame was written directly: whoever else looks at the same frame expects that, also if its page is deleted. */
static void note_write(struct run *run, const char *memory, uint64_t offset, unsigned char byte)
{
    for (unsigned i = 0; i < run->section_count; i++) {
        if (run->section_pages[i].memory == memory)
            run->section_pages[i].last[offset] = (char)byte;
    }
    for (unsigned p = 0; p < PINS; p++) {
        for (unsigned i = 0; run->pins[p].pin != NULL && i < run->pins[p].count; i++) {
            if (run->pins[p].pages[i].memory == memory)
                run->pins[p].pages[i].last[offset] = (char)byte;
        }
    }
}

/* A byte through a pointer or a pin: seen by the page as long as it is the same page. */
static void held_write(struct run *run, unsigned space, struct held_page *held)
{
    const uint64_t offset = draw(run, PG);
    const unsigned char byte = (unsigned char)next(run);
    struct model_space *model = &run->spaces[space].model;
    const struct model_page *page = model_page_find(model, held->address);
    held->memory[offset] = (char)byte;
    note_write(run, held->memory, offset, byte);
    if (page != NULL && page->committed && page->incarnation == held->incarnation)
        model_write_through(model, held->address + offset, byte);
}

/* The stretch around a page that has just given a pointer: it holds only what may be accessed, with its content. */
static void section_extent(struct run *run, struct tested_space *space, tide_address address, tide_access_kind kind,
                           const char *pointer)
{
    tide_extent extent;
    unsigned char expected;

    expect(run, tide_access_extent(&run->section, address, kind, &extent), TIDE_SUCCESS, "tide_access_extent");
    if (tide_extent_pointer(&extent, address) != pointer)
        failed(run, "the extent has 0x%llx elsewhere than tide_access_pointer", (unsigned long long)address);
    const tide_address other = extent.begin + draw(run, extent.bytes);
    if (model_accessible(&space->model, other, 1, kind) != 1)
        failed(run, "the extent holds 0x%llx, the model refuses", (unsigned long long)other);
    model_read(&space->model, other, &expected, 1);
    if (*(const unsigned char *)tide_extent_pointer(&extent, other) != expected)
        failed(run, "the extent has another byte at 0x%llx than the model", (unsigned long long)other);
}

/* Begins a section, gets one more pointer in it, writes through one got earlier, or ends it. */
static void op_section(struct run *run, struct tested_space *space)
{
    const unsigned index = (unsigned)(space - run->spaces);
    if (run->section_open && run->section_count > 0 && one_in(run, 3)) {
        struct held_page *held = &run->section_pages[draw(run, run->section_count)];
        note(run, "section pointer to 0x%llx %s", (unsigned long long)held->address,
             held->writable ? "written" : "not for writing");
        if (held->writable)
            held_write(run, run->section_space, held);
        return;
    }
    if (run->section_open && (run->section_space != index || run->section_count == HELD_PAGES || one_in(run, 3))) {
        note(run, "section end");
        section_end(run);
        return;
    }
    const tide_address address = draw_address(run, space);
    const tide_access_kind kind = one_in(run, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    note(run, "section pointer %u (space %u, 0x%llx, %d)", run->section_count, index, (unsigned long long)address,
         (int)kind);
    if (stack_in_doubt(run, space, address, 1))
        return;
    const bool good = model_accessible(&space->model, address, 1, kind) == 1;
    char *pointer;
    do {
        if (!run->section_open)
            expect(run, tide_access_begin(space->space, &run->section), TIDE_SUCCESS, "tide_access_begin");
        run->section_open = true;
        run->section_space = index;
        pointer = tide_access_pointer(&run->section, address, kind);
    } while (pointer == NULL && gives_way(run, run->section.status));
    if (!good) {
        if (pointer != NULL)
            failed(run, "tide_access_pointer gave a pointer, the model refuses");
        expect_access(run, space, run->section.status, address, 0, 1, "tide_access_pointer");
        return;
    }
    if (pointer == NULL)
        failed(run, "tide_access_pointer gave %s, the model a pointer", tide_status_name(run->section.status));
    model_read(&space->model, address, NULL, 1);
    if (kind == TIDE_ACCESS_WRITE) {
        const unsigned char byte = (unsigned char)next(run);
        model_write(&space->model, address, &byte, 1);
        *pointer = (char)byte;
    }
    if (one_in(run, 3))
        section_extent(run, space, address, kind, pointer);
    hold(run, index, &run->section_pages[run->section_count], address, kind, pointer - address % PG);
    run->section_count++;
}

/* The pinned memory of page `page` of a pin. */
static char *pin_memory(struct run *run, const tide_pin *pin, unsigned page)
{
    unsigned count;
    const struct iovec *parts = tide_pin_iovec(pin, &count);
    size_t skip = (size_t)page * PG;
    for (unsigned i = 0; i < count; i++) {
        if (skip < parts[i].iov_len)
            return (char *)parts[i].iov_base + skip;
        skip -= parts[i].iov_len;
    }
    failed(run, "the iovec of a pin ends before page %u", page);
    return NULL;
}

static void op_pin(struct run *run, struct tested_space *space)
{
    struct pinned *pinned = &run->pins[draw(run, PINS)];
    if (pinned->pin != NULL) {
        if (pinned->kind == TIDE_ACCESS_WRITE)
            held_write(run, pinned->space, &pinned->pages[draw(run, pinned->count)]);
        if (one_in(run, 2)) {
            note(run, "unpin(space %u, 0x%llx)", pinned->space, (unsigned long long)pinned->pages[0].address);
            tide_pin_destroy(pinned->pin);
            pinned->pin = NULL;
        } else {
            note(run, "write through the pin of (space %u, 0x%llx)", pinned->space,
                 (unsigned long long)pinned->pages[0].address);
        }
        return;
    }
    const tide_address address = draw_address(run, space) / PG * PG;
    const unsigned count = 1 + (unsigned)draw(run, HELD_PAGES);
    const tide_access_kind kind = one_in(run, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    note(run, "pin(space %d, 0x%llx, %u pages, %d)", (int)(space - run->spaces), (unsigned long long)address, count,
         (int)kind);
    const uint64_t bytes = (uint64_t)count * PG;
    if (stack_in_doubt(run, space, address, bytes))
        return;
    const uint64_t good = model_accessible(&space->model, address, bytes, kind);
    model_read(&space->model, address, NULL, good);
    if (kind == TIDE_ACCESS_WRITE)
        model_mark(&space->model, address, good);
    tide_status status;
    tide_pin *pin = NULL;
    do
        status = tide_pin_create(space->space, address, bytes, kind, &pin);
    while (gives_way(run, status));
    expect_access(run, space, status, address, good, bytes, "tide_pin_create");
    if (status != TIDE_SUCCESS)
        return;
    *pinned = (struct pinned){ .pin = pin, .space = (unsigned)(space - run->spaces), .kind = kind, .count = count };
    for (unsigned i = 0; i < count; i++)
        hold(run, pinned->space, &pinned->pages[i], address + (uint64_t)i * PG, kind, pin_memory(run, pin, i));
}

tide_space_statistics space_statistics(struct run *run, const struct tested_space *space)
{
    tide_space_statistics statistics = { .struct_bytes = sizeof(statistics) };
    expect(run, tide_space_statistics_get(space->space, &statistics), TIDE_SUCCESS, "tide_space_statistics_get");
    return statistics;
}

static void op_working_set(struct run *run, struct tested_space *space)
{
    const int index = (int)(space - run->spaces);
    const uint64_t before = space_statistics(run, space).working_set_pages;
    uint64_t pages = 1 + draw(run, 64), trimmed = 0;
    switch (draw(run, 3)) {
    case 0:
        note(run, "working set empty(space %d)", index);
        expect(run, tide_working_set_empty(space->space), TIDE_SUCCESS, "tide_working_set_empty");
        if (space_statistics(run, space).working_set_pages != space->model.locked)
            failed(run, "%llu pages are left in an emptied working set, %llu are locked",
                   (unsigned long long)space_statistics(run, space).working_set_pages,
                   (unsigned long long)space->model.locked);
        break;
    default:
        note(run, "trim %llu of %llu pages (space %d)", (unsigned long long)pages, (unsigned long long)before, index);
        expect(run, tide_working_set_trim(space->space, pages, &trimmed), TIDE_SUCCESS, "tide_working_set_trim");
        if (trimmed != (pages < before - space->model.locked ? pages : before - space->model.locked) ||
            space_statistics(run, space).working_set_pages != before - trimmed)
            failed(run, "%llu pages trimmed, %llu left", (unsigned long long)trimmed,
                   (unsigned long long)space_statistics(run, space).working_set_pages);
        break;
    }
}

/* Sum of all nodes, in the node's own terms. */
static tide_node_statistics nodes_get(struct run *run, uint64_t *standby)
{
    tide_node_statistics sum = { 0 };
    *standby = 0;
    for (unsigned node = 0; node < run->node_count; node++) {
        tide_node_statistics one;
        expect(run, tide_node_statistics_get(run->engine, node, &one), TIDE_SUCCESS, "tide_node_statistics_get");
        uint64_t one_standby = 0;
        for (unsigned priority = 0; priority < 8; priority++)
            one_standby += one.standby[priority];
        if (one.zeroed + one.free + one_standby + one.modified + one.modified_no_write + one.bad + one.transition +
                one.active !=
            one.frames)
            failed(run, "node %u: states sum up to other than its %llu frames", node, (unsigned long long)one.frames);
        if (one.available != one.zeroed + one.free + one_standby)
            failed(run, "node %u: available %llu", node, (unsigned long long)one.available);
        sum.frames += one.frames;
        sum.free += one.free;
        sum.zeroed += one.zeroed;
        sum.modified += one.modified;
        sum.modified_no_write += one.modified_no_write;
        sum.bad += one.bad;
        sum.transition += one.transition;
        sum.active += one.active;
        sum.available += one.available;
        *standby += one_standby;
    }
    return sum;
}

static void op_empty(struct run *run, struct tested_space *space)
{
    (void)space;
    static const char *const names[] = { "working sets", "modified", "standby", "standby lowest", "free" };
    const tide_empty what = (tide_empty)draw(run, 5);
    if (what == TIDE_EMPTY_MODIFIED && !run->page_file)
        return;
    note(run, "empty %s", names[what]);
    uint64_t standby;
    const tide_node_statistics before = nodes_get(run, &standby);
    const tide_statistics slots = statistics_get(run);
    const bool room = slots.page_file_total_slots - slots.page_file_used_slots >= before.modified;
    expect(run, tide_engine_empty(run->engine, what), TIDE_SUCCESS, "tide_engine_empty");
    const tide_node_statistics after = nodes_get(run, &standby);
    if ((what == TIDE_EMPTY_WORKING_SETS && space_statistics(run, &run->spaces[0]).working_set_pages +
                                                    space_statistics(run, &run->spaces[1]).working_set_pages !=
                                                run->spaces[0].model.locked + run->spaces[1].model.locked) ||
        (what == TIDE_EMPTY_MODIFIED && room && !run->section_open && after.modified != 0) ||
        (what == TIDE_EMPTY_STANDBY && !run->section_open && standby != 0) ||
        (what == TIDE_EMPTY_FREE && !run->section_open && after.free != 0))
        failed(run, "not empty: modified %llu, standby %llu, free %llu", (unsigned long long)after.modified,
               (unsigned long long)standby, (unsigned long long)after.free);
}

static void op_worker(struct run *run, struct tested_space *space)
{
    (void)space;
    if (one_in(run, 3)) {
        const uint64_t time = draw(run, 3000);
        note(run, "clock + %llu ms", (unsigned long long)time);
        expect(run, tide_clock_advance(run->engine, time), TIDE_SUCCESS, "tide_clock_advance");
    }
    const tide_worker worker = (tide_worker)draw(run, TIDE_WORKER_COUNT);
    const unsigned node = (unsigned)draw(run, run->node_count);
    const uint64_t budget = one_in(run, 4) ? 0 : 1 + draw(run, 64);
    uint64_t done = 0;
    note(run, "worker %d on node %u, budget %llu", (int)worker, node, (unsigned long long)budget);
    expect(run, tide_worker_step(run->engine, worker, node, budget, &done), TIDE_SUCCESS, "tide_worker_step");
    if (budget != 0 && done >= budget + 64 && worker != TIDE_WORKER_EXTENDER)
        failed(run, "the worker handled %llu pages with a budget of %llu", (unsigned long long)done,
               (unsigned long long)budget);
}

static void space_create(struct run *run, struct tested_space *space)
{
    expect(run, tide_space_create(run->engine, &space->space), TIDE_SUCCESS, "tide_space_create");
    *space = (struct tested_space){ .space = space->space,
                                    .priority = TIDE_PRIORITY_NORMAL,
                                    .model.limit = TIDE_NO_COMMIT_LIMIT,
                                    .model.all = &run->model };
    limits_begin(run, space);
}

/* Refused while a section or pin is open on the space; else everything in it is gone, and a new space is empty. */
static void op_space(struct run *run, struct tested_space *space)
{
    const unsigned index = (unsigned)(space - run->spaces);
    if (!one_in(run, 4))
        return;
    note(run, "space %u destroyed and created again", index);
    bool busy = run->section_open && run->section_space == index;
    for (unsigned p = 0; p < PINS; p++)
        busy = busy || (run->pins[p].pin != NULL && run->pins[p].space == index);
    expect(run, tide_space_destroy(space->space), busy ? TIDE_DEVICE_BUSY : TIDE_SUCCESS, "tide_space_destroy");
    if (busy)
        return;
    model_space_clear(&run->model, &space->model);
    space_create(run, space);
}

/* ---- comparing all ---------------------------------------------------------------------------------------------- */

static void check_map(struct run *run, struct tested_space *space)
{
    for (tide_address address = TIDE_LOWEST_ADDRESS; address <= TIDE_HIGHEST_ADDRESS;) {
        tide_region got, expected;
        expect(run, tide_virtual_query(space->space, address, &got),
               model_virtual_query(&space->model, address, &expected), "tide_virtual_query");
        const bool same = got.base == expected.base && got.bytes == expected.bytes && got.state == expected.state;
        const bool rest_same = expected.state == TIDE_MEM_FREE ||
                               (got.allocation_base == expected.allocation_base && got.type == expected.type &&
                                got.allocation_protection == expected.allocation_protection &&
                                (expected.state != TIDE_MEM_COMMIT || got.protection == expected.protection));
        if (!same || !rest_same)
            failed(run,
                   "space %d, map at 0x%llx: bytes 0x%llx state 0x%x protection 0x%x allocation 0x%llx/0x%x, the model "
                   "says bytes 0x%llx state 0x%x protection 0x%x allocation 0x%llx/0x%x",
                   (int)(space - run->spaces), (unsigned long long)address, (unsigned long long)got.bytes, got.state,
                   got.protection, (unsigned long long)got.allocation_base, got.allocation_protection,
                   (unsigned long long)expected.bytes, expected.state, expected.protection,
                   (unsigned long long)expected.allocation_base, expected.allocation_protection);
        address += expected.bytes;
    }
}

/* Pages of the space by tide_page_query, added up by state; large pages are in no working set. */
static uint64_t check_pages(struct run *run, struct tested_space *space, uint64_t counts[8])
{
    uint64_t slots = 0;
    for (unsigned r = 0; r < space->model.region_count; r++) {
        const struct model_region *region = &space->model.regions[r];
        for (uint64_t i = 0; i < region->count; i++) {
            tide_page_info info;
            struct model_page *page = &region->pages[i];
            const tide_address address = (region->first + i) * PG;
            expect(run, tide_page_query(space->space, address, &info), TIDE_SUCCESS, "tide_page_query");
            if (info.state == TIDE_PAGE_STATE_DEMAND_ZERO)
                model_see_untouched(page);
            const bool in_memory = info.state != TIDE_PAGE_STATE_FREE && info.state != TIDE_PAGE_STATE_DEMAND_ZERO &&
                                   info.state != TIDE_PAGE_STATE_PAGE_FILE;
            if ((info.state == TIDE_PAGE_STATE_FREE) != !page->committed ||
                (page->committed && (info.state == TIDE_PAGE_STATE_DEMAND_ZERO) != !page->touched) ||
                info.state == TIDE_PAGE_STATE_BUSY || info.valid != (info.state == TIDE_PAGE_STATE_ACTIVE) ||
                info.protection != page->protection || in_memory != (info.frame != UINT64_MAX) ||
                in_memory != (info.node < run->node_count) ||
                (info.state == TIDE_PAGE_STATE_PAGE_FILE && info.slot == 0))
                failed(
                    run,
                    "space %d, page 0x%llx: state %d, valid %d, protection 0x%x, frame %lld, node %d, slot %llu; the "
                    "model says committed %d, touched %d, protection 0x%x",
                    (int)(space - run->spaces), (unsigned long long)address, (int)info.state, (int)info.valid,
                    info.protection, (long long)info.frame, (int)info.node, (unsigned long long)info.slot,
                    (int)page->committed, (int)page->touched, page->protection);
            if (page->locked && info.state != TIDE_PAGE_STATE_ACTIVE)
                failed(run, "locked page 0x%llx is in state %d", (unsigned long long)address, (int)info.state);
            if (region->kind == MODEL_LARGE && info.state != TIDE_PAGE_STATE_ACTIVE)
                failed(run, "page 0x%llx of a large page is in state %d", (unsigned long long)address, (int)info.state);
            counts[info.state] += region->kind != MODEL_LARGE;
            slots += info.slot != 0;
        }
    }
    return slots;
}

static void check_space_statistics(struct run *run, struct tested_space *space, uint64_t active, uint64_t *tables)
{
    const tide_space_statistics s = space_statistics(run, space);
    uint64_t bytes = 0, offered = 0;
    for (unsigned r = 0; r < space->model.region_count; r++) {
        bytes += space->model.regions[r].count * PG;
        for (uint64_t i = 0; i < space->model.regions[r].count; i++)
            offered += space->model.regions[r].pages[i].offered;
    }
    if (s.locked_pages != space->model.locked || s.offered_pages != offered)
        failed(run, "space %d: %llu pages locked (%llu), %llu offered (%llu)", (int)(space - run->spaces),
               (unsigned long long)s.locked_pages, (unsigned long long)space->model.locked,
               (unsigned long long)s.offered_pages, (unsigned long long)offered);
    /* Whether a page that was touched had been lost before may not be known. */
    if (s.faults.demand_zero > space->model.demand_zero &&
        s.faults.demand_zero - space->model.demand_zero <= space->model.demand_zero_unsure)
        space->model.demand_zero = s.faults.demand_zero;
    space->model.demand_zero_unsure = 0;
    if (s.private_pages != space->model.committed || s.virtual_bytes != bytes ||
        s.regions != space->model.region_count || s.working_set_pages != active || s.peak_working_set_pages < active ||
        s.faults.demand_zero != space->model.demand_zero || s.faults.access_violations != space->accesses_failed ||
        s.faults.in_page_errors != 0)
        failed(run,
               "space %d: private pages %llu (%llu), virtual bytes %llu (%llu), regions %llu (%u), working set %llu "
               "(%llu), peak %llu, demand-zero faults %llu (%llu), access violations %llu (%llu)",
               (int)(space - run->spaces), (unsigned long long)s.private_pages,
               (unsigned long long)space->model.committed, (unsigned long long)s.virtual_bytes,
               (unsigned long long)bytes, (unsigned long long)s.regions, space->model.region_count,
               (unsigned long long)s.working_set_pages, (unsigned long long)active,
               (unsigned long long)s.peak_working_set_pages, (unsigned long long)s.faults.demand_zero,
               (unsigned long long)space->model.demand_zero, (unsigned long long)s.faults.access_violations,
               (unsigned long long)space->accesses_failed);
    *tables += s.table_pages;
}

/* Pinned pages that were deleted meanwhile: frame and slot stay until the pin ends. */
static uint64_t deleted_pinned_pages(struct run *run)
{
    uint64_t count = 0;
    for (unsigned p = 0; p < PINS; p++) {
        for (unsigned i = 0; run->pins[p].pin != NULL && i < run->pins[p].count; i++) {
            const struct held_page *held = &run->pins[p].pages[i];
            const struct model_page *page = model_page_find(&run->spaces[run->pins[p].space].model, held->address);
            count += page == NULL || !page->committed || page->incarnation != held->incarnation;
        }
    }
    return count;
}

static void check_figures(struct run *run)
{
    uint64_t counts[8] = { 0 }, slots = 0, tables = 0, standby;
    for (unsigned s = 0; s < SPACES; s++) {
        check_map(run, &run->spaces[s]);
        const uint64_t before = counts[TIDE_PAGE_STATE_ACTIVE];
        slots += check_pages(run, &run->spaces[s], counts);
        check_space_statistics(run, &run->spaces[s], counts[TIDE_PAGE_STATE_ACTIVE] - before, &tables);
    }
    check_events(run);
    const tide_node_statistics nodes = nodes_get(run, &standby);
    const tide_statistics s = statistics_get(run);
    const uint64_t charged = s.commit_total_pages - run->charge_at_open;
    uint64_t promised = 0; /* tables that wholly committed regions may need at most */
    for (unsigned i = 0; i < SPACES; i++)
        promised += run->spaces[i].model.region_count * TABLES_MOST + run->spaces[i].splits * TABLES_MOST;
    if (charged < run->model.charge + tables || charged > run->model.charge + tables + promised ||
        s.commit_total_pages > s.commit_limit_pages || s.total_pages != run->frames ||
        s.available_pages != nodes.available || s.table_pages != tables || s.page_file_used_slots < slots ||
        s.page_file_used_slots > slots + deleted_pinned_pages(run) || s.page_file_bad_slots != 0 ||
        s.spaces != SPACES || s.open_sections != run->section_open || s.commit_peak_pages < s.commit_total_pages)
        failed(run,
               "engine: commit %llu (%llu to %llu, limit %llu), frames %llu (%llu), available %llu (%llu), tables %llu "
               "(%llu), slots %llu (%llu), spaces %llu, open sections %llu, peak commit %llu",
               (unsigned long long)s.commit_total_pages,
               (unsigned long long)(run->charge_at_open + run->model.charge + tables),
               (unsigned long long)(run->charge_at_open + run->model.charge + tables + promised),
               (unsigned long long)s.commit_limit_pages, (unsigned long long)s.total_pages,
               (unsigned long long)run->frames, (unsigned long long)s.available_pages,
               (unsigned long long)nodes.available, (unsigned long long)s.table_pages, (unsigned long long)tables,
               (unsigned long long)s.page_file_used_slots, (unsigned long long)slots, (unsigned long long)s.spaces,
               (unsigned long long)s.open_sections, (unsigned long long)s.commit_peak_pages);
    if (standby != counts[TIDE_PAGE_STATE_STANDBY] || nodes.modified != counts[TIDE_PAGE_STATE_MODIFIED] ||
        nodes.transition < counts[TIDE_PAGE_STATE_TRANSITION] || nodes.bad + nodes.modified_no_write != 0 ||
        nodes.active < counts[TIDE_PAGE_STATE_ACTIVE] + tables)
        failed(run,
               "nodes: standby %llu (%llu), modified %llu (%llu), transition %llu (%llu), active %llu (%llu + %llu)",
               (unsigned long long)standby, (unsigned long long)counts[TIDE_PAGE_STATE_STANDBY],
               (unsigned long long)nodes.modified, (unsigned long long)counts[TIDE_PAGE_STATE_MODIFIED],
               (unsigned long long)nodes.transition, (unsigned long long)counts[TIDE_PAGE_STATE_TRANSITION],
               (unsigned long long)nodes.active, (unsigned long long)counts[TIDE_PAGE_STATE_ACTIVE],
               (unsigned long long)tables);
}

static void verify(struct run *run)
{
    tide_verify_report report = { 0 };
    const tide_status status = tide_engine_verify(run->engine, &report);
    if (status != TIDE_SUCCESS)
        failed(run, "tide_engine_verify returned %s: %llu violations, the first: %s", tide_status_name(status),
               (unsigned long long)report.violations, report.first);
}

static void check_hard_maximum(struct run *run, struct tested_space *space)
{
    const uint64_t pages = space_statistics(run, space).working_set_pages;
    /* Locked pages are not replaced: when nothing else is left, a page comes in all the same. */
    const uint64_t most = space->maximum > space->model.locked + 1 ? space->maximum : space->model.locked + 1;
    if ((space->hard & TIDE_WORKING_SET_HARD_MAXIMUM) != 0 && pages > most)
        failed(run, "space %d: working set of %llu pages over its hard maximum of %llu", (int)(space - run->spaces),
               (unsigned long long)pages, (unsigned long long)space->maximum);
}

bool page_settle(struct run *run, struct tested_space *space, tide_address address)
{
    static unsigned char got[PG];
    struct model_page *page = model_page_find(&space->model, address);
    tide_status status;
    if (page == NULL || !page->unsure)
        return true;
    if ((page->protection & TIDE_PAGE_GUARD) != 0 ||
        model_accessible(&space->model, address / PG * PG, 1, TIDE_ACCESS_READ) == 0)
        return false;
    model_read(&space->model, address / PG * PG, NULL, PG);
    do
        status = tide_read(space->space, address / PG * PG, got, PG);
    while (gives_way(run, status));
    expect(run, status, TIDE_SUCCESS, "tide_read");
    if (!model_see(page, 0, got, PG))
        failed(run,
               "page 0x%llx, which was reset or offered, holds neither its old bytes nor what it would without them",
               (unsigned long long)address);
    return true;
}

/* Every byte of both spaces. */
static void check_contents(struct run *run)
{
    for (unsigned s = 0; s < SPACES; s++) {
        struct tested_space *space = &run->spaces[s];
        for (unsigned r = 0; r < space->model.region_count; r++) {
            for (uint64_t i = 0; i < space->model.regions[r].count; i++) {
                struct model_page *page = &space->model.regions[r].pages[i];
                const tide_address address = (space->model.regions[r].first + i) * PG;
                unsigned char got[PG];
                if ((page->protection & TIDE_PAGE_GUARD) != 0 ||
                    model_accessible(&space->model, address, 1, TIDE_ACCESS_READ) == 0)
                    continue;
                expect(run, tide_read(space->space, address, got, PG), TIDE_SUCCESS, "tide_read");
                model_read(&space->model, address, NULL, 1);
                if (!model_see(page, 0, got, PG))
                    failed(run, "space %u, page 0x%llx holds other bytes than the model at the end", s,
                           (unsigned long long)address);
            }
        }
    }
}

/* ---- a run ------------------------------------------------------------------------------------------------------ */

static const struct {
    unsigned weight;
    void (*run)(struct run *run, struct tested_space *space);
} operations[] = {
    { 30, op_reserve },     { 60, op_commit },      { 2, op_commit_limit }, { 40, op_free },       { 110, op_read },
    { 140, op_write },      { 80, op_touch },       { 20, op_touch_range }, { 60, op_section },    { 30, op_pin },
    { 20, op_working_set }, { 6, op_empty },        { 20, op_worker },      { 1, op_space },       { 25, op_protect },
    { 15, op_free_native }, { 15, op_placeholder }, { 25, op_write_watch }, { 3, op_space_limit }, { 3, op_large },
    { 60, op_contents },    { 20, op_lock },        { 6, op_prefetch },     { 6, op_stack },       { 10, op_limits },
    { 8, op_priority },
};

static void one_operation(struct run *run)
{
    unsigned total = 0, index = 0;
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        total += operations[i].weight;
    uint64_t drawn = draw(run, total);
    while (drawn >= operations[index].weight)
        drawn -= operations[index++].weight;
    snprintf(run->recent[run->op % RECENT], sizeof(run->recent[0]), "nothing");
    operations[index].run(run, &run->spaces[draw(run, SPACES)]);
    check_all_held(run);
    for (unsigned s = 0; s < SPACES; s++)
        check_hard_maximum(run, &run->spaces[s]);
}

static uint64_t maybe(struct run *run, uint64_t most)
{
    return one_in(run, 2) ? 0 : 1 + draw(run, most);
}

static void open_engine(struct run *run)
{
    const char *parent = getenv("TMPDIR");
    snprintf(run->folder, sizeof(run->folder), "%s/tide-model-XXXXXX",
             parent != NULL && *parent != '\0' ? parent : ".");
    if (mkdtemp(run->folder) == NULL)
        failed(run, "no folder %s", run->folder);
    snprintf(run->path, sizeof(run->path), "%s/pagefile", run->folder);

    char topology[32];
    run->node_count = one_in(run, 2) ? 1 : 1 + (unsigned)draw(run, 4);
    snprintf(topology, sizeof(topology), "numa:%u core:1 pu:1", run->node_count);
    run->frames = run->node_count * (64 + draw(run, 512 / run->node_count - 63));
    if (run->node_count == 1 && one_in(run, 8))
        run->frames = LARGE_FRAMES;
    run->page_file = !one_in(run, 4);
    tide_page_file_config file = { .path = run->path, .minimum_bytes = (64 + draw(run, 1024)) * PG };
    if (one_in(run, 2))
        file.maximum_bytes = file.minimum_bytes + draw(run, 1024) * PG;
    tide_config config;
    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = run->frames * PG;
    config.topology_synthetic = topology;
    config.page_files = &file;
    config.page_file_count = run->page_file;
    config.workers = TIDE_WORKERS_MANUAL;
    config.start_free = one_in(run, 2);
    config.disable_io_uring = one_in(run, 2);
    config.disable_direct_io = one_in(run, 2);
    config.disable_huge_pages = one_in(run, 2);
    config.prefer_local_standby = one_in(run, 2);
    config.cluster_pages = (unsigned)maybe(run, 64);
    config.list_shards = one_in(run, 2) ? 0 : 1u << draw(run, 4);
    config.cpu_cache_pages = one_in(run, 2) ? TIDE_NO_CPU_CACHE : (unsigned)maybe(run, 8);
    config.writer_reserve_pages = (unsigned)maybe(run, 4);
    config.zero_trigger_pages = (unsigned)maybe(run, 16);
    if (one_in(run, 2)) {
        config.low_available_pages = 1 + draw(run, 8);
        config.high_available_pages = config.low_available_pages + draw(run, 8);
    }
    config.modified_trigger_pages = maybe(run, 16);
    config.page_file_growth_pages = maybe(run, 64);
    config.page_file_shrink_delay_ms = (unsigned)maybe(run, 2000);
    if (one_in(run, 2)) {
        config.low_memory_event_pages = 1 + draw(run, run->frames / 2);
        config.high_memory_event_pages = config.low_memory_event_pages + draw(run, run->frames / 2);
        config.low_commit_event_percent = 1 + (unsigned)draw(run, 60);
        config.high_commit_event_percent = config.low_commit_event_percent + (unsigned)draw(run, 40);
    }
    config.frame_wait_ms = 2000;
    if (tide_engine_open(&config, &run->engine) != TIDE_SUCCESS)
        failed(run, "tide_engine_open failed");
    run->charge_at_open = statistics_get(run).commit_total_pages;
    run->thread_priority = TIDE_PRIORITY_DEFAULT;
    for (unsigned s = 0; s < SPACES; s++)
        space_create(run, &run->spaces[s]);
    snprintf(run->config, sizeof(run->config),
             "%llu frames, %u nodes, page file %d, cluster %u, shards %u, cache %d, reserve %u, low %llu, high %llu, "
             "modified trigger %llu",
             (unsigned long long)run->frames, run->node_count, (int)run->page_file, config.cluster_pages,
             config.list_shards, (int)config.cpu_cache_pages, config.writer_reserve_pages,
             (unsigned long long)config.low_available_pages, (unsigned long long)config.high_available_pages,
             (unsigned long long)config.modified_trigger_pages);
}

static void close_engine(struct run *run)
{
    if (run->section_open)
        section_end(run);
    for (unsigned p = 0; p < PINS; p++)
        tide_pin_destroy(run->pins[p].pin);
    verify(run);
    check_contents(run);
    for (unsigned s = 0; s < SPACES; s++) {
        model_space_clear(&run->model, &run->spaces[s].model);
        expect(run, tide_engine_close(run->engine), TIDE_DEVICE_BUSY, "tide_engine_close with a space open");
        expect(run, tide_space_destroy(run->spaces[s].space), TIDE_SUCCESS, "tide_space_destroy");
    }
    verify(run);
    const tide_statistics s = statistics_get(run);
    if (s.commit_total_pages != run->charge_at_open || s.page_file_used_slots != 0 ||
        s.available_pages != run->frames || s.table_pages != 0)
        failed(run, "at the end: commit %llu, slots %llu, available %llu of %llu, tables %llu",
               (unsigned long long)s.commit_total_pages, (unsigned long long)s.page_file_used_slots,
               (unsigned long long)s.available_pages, (unsigned long long)run->frames,
               (unsigned long long)s.table_pages);
    expect(run, tide_engine_close(run->engine), TIDE_SUCCESS, "tide_engine_close");
    if (access(run->path, F_OK) == 0 || rmdir(run->folder) != 0)
        failed(run, "the folder of the page file is not empty after tide_engine_close");
}

static uint64_t number_from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 0);
}

static void run_operations(struct run *run, unsigned operation_count)
{
    run->trace = getenv("TIDE_MODEL_TRACE") != NULL;
    run->verify_period = (unsigned)number_from_environment("TIDE_MODEL_VERIFY", VERIFY_PERIOD);
    open_engine(run);
    for (run->op = 1; run->op <= operation_count && (run->bytes == NULL || run->bytes_left != 0); run->op++) {
        one_operation(run);
        if (run->op % run->verify_period == 0)
            verify(run);
        if (run->op % CHECK_PERIOD == 0)
            check_figures(run);
    }
    snprintf(run->recent[run->op % RECENT], sizeof(run->recent[0]), "the end");
    check_figures(run);
    close_engine(run);
    free(run);
}

void operations_from_seed(uint64_t seed, unsigned operation_count)
{
    struct run *run = calloc(1, sizeof(*run));
    if (run == NULL)
        abort();
    run->seed = seed;
    run->random = seed;
    run_operations(run, operation_count);
}

void operations_from_bytes(const uint8_t *bytes, size_t count)
{
    struct run *run = calloc(1, sizeof(*run));
    if (run == NULL)
        abort();
    run->bytes = bytes;
    run->bytes_left = count;
    run_operations(run, UINT32_MAX);
}

/*
 * What lies at an address. See places.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "places.h"

#include "stores/stores_impl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

bool places_init(struct places *places, const tide_engine *engine, tide_space *const *spaces, unsigned space_count,
                 const struct stack_range *stacks, unsigned stack_count)
{
    const struct frames *frames = engine->partition.frames;

    *places = (struct places){ .engine = engine,
                               .spaces = spaces,
                               .space_count = space_count,
                               .stacks = stacks,
                               .stack_count = stack_count,
                               .leaves = calloc(frames->end, 1) };
    if (places->leaves == NULL)
        return false;
    for (unsigned i = 0; i < space_count; i++) {
        uint64_t page = 0;
        const uint64_t *leaf;

        while ((leaf = page_table_next_leaf(&spaces[i]->table, &page, TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)) !=
               NULL) {
            places->leaves[((const char *)leaf - frames->memory) / TIDE_PAGE_BYTES] = 1;
            page += TABLE_ENTRIES;
        }
    }
    return true;
}

void places_destroy(struct places *places)
{
    free(places->leaves);
    places->leaves = NULL;
}

/* A line may begin before the structure that it holds a part of. */
static bool inside(uintptr_t address, const void *memory, size_t bytes)
{
    const uintptr_t begin = (uintptr_t)memory / SYNC_CACHE_LINE_BYTES * SYNC_CACHE_LINE_BYTES;

    return address - begin < (uintptr_t)memory + bytes - begin;
}

static enum place frame_place(const struct places *places, uintptr_t address)
{
    const struct frames *frames = places->engine->partition.frames;
    const frame_t frame = { (uint32_t)((address - (uintptr_t)frames->memory) / TIDE_PAGE_BYTES) };
    const uint64_t word = sync_load_64(&frame_pfn(frames, frame)->word);

    if (pfn_state(word) != FRAME_ACTIVE || pfn_use(word) != FRAME_USE_PAGE_TABLE)
        return PLACE_PAGE;
    return places->leaves[frame.number] ? PLACE_PTE : PLACE_TABLE;
}

static enum place space_place(const tide_space *space, uintptr_t address)
{
    if (inside(address, space, sizeof *space))
        return PLACE_SPACE;
    if (inside(address, space->counters, space->cpu_count * sizeof *space->counters))
        return PLACE_COUNTERS;
    for (const struct vad *vad = vad_first(&space->vads); vad != NULL; vad = vad_next(&space->vads, vad))
        if (inside(address, vad, sizeof *vad))
            return PLACE_VAD;
    return PLACE_OTHER;
}

static bool is_slot_map(const tide_engine *engine, uintptr_t address)
{
    const struct stores *stores = engine->partition.stores;

    for (unsigned i = 0; i < stores->file_count; i++)
        if (inside(address, &stores->files[i], sizeof stores->files[i]) ||
            inside(address, stores->files[i].slots.groups, stores->files[i].slots.bytes))
            return true;
    return false;
}

static bool is_marks(const struct frames *frames, uintptr_t address)
{
    for (unsigned n = 0; n < frames->node_count; n++)
        if (inside(address, frames->nodes[n].some, sizeof frames->nodes[n].some))
            return true;
    return false;
}

static bool is_global(const tide_engine *engine, uintptr_t address)
{
    const struct frames *frames = engine->partition.frames;
    const struct workers *workers = engine->workers;

    return inside(address, engine, sizeof *engine) || inside(address, frames, sizeof *frames) ||
           inside(address, frames->nodes, frames->node_count * sizeof *frames->nodes) ||
           inside(address, engine->partition.waits, sizeof *engine->partition.waits) ||
           inside(address, workers, sizeof *workers) ||
           inside(address, workers->workers, workers->node_count * TIDE_WORKER_COUNT * sizeof *workers->workers);
}

enum place place_of(const struct places *places, uintptr_t address)
{
    const struct partition *partition = &places->engine->partition;
    const struct frames *frames = partition->frames;

    if (inside(address, frames->pfns, frames->pfn_bytes))
        return PLACE_PFN;
    if (inside(address, frames->memory, frames->end * (size_t)TIDE_PAGE_BYTES))
        return frame_place(places, address);
    if (inside(address, frames->nodes[0].lists[0], frames->list_bytes))
        return PLACE_SHARD;
    if (is_marks(frames, address))
        return PLACE_MARKS;
    if (inside(address, frames->cpus, frames->cpu_bytes))
        return PLACE_CPU;
    if (inside(address, partition->commit.credits, partition->commit.cpu_count * sizeof(struct commit_credit)))
        return PLACE_CREDIT;
    if (is_slot_map(places->engine, address))
        return PLACE_SLOT;
    if (is_global(places->engine, address))
        return PLACE_GLOBAL;
    for (const struct grace_thread *thread = frames->grace.threads; thread != NULL; thread = thread->next)
        if (inside(address, thread, sizeof *thread))
            return PLACE_THREAD;
    for (unsigned i = 0; i < places->stack_count; i++)
        if (address >= places->stacks[i].begin && address < places->stacks[i].end)
            return PLACE_STACK;
    for (unsigned i = 0; i < places->space_count; i++) {
        const enum place place = space_place(places->spaces[i], address);
        if (place != PLACE_OTHER)
            return place;
    }
    return PLACE_OTHER;
}

static int cpu_node(const struct frames *frames, uintptr_t cpu)
{
    return cpu < frames->cpu_count ? frames->topology->cpu_node[cpu] : PLACE_NO_NODE;
}

/* A structure of which there is one for each CPU, in an array. */
static int array_node(const struct frames *frames, uintptr_t address, const void *array, size_t bytes)
{
    const uintptr_t first = (uintptr_t)array;

    return cpu_node(frames, address < first ? 0 : (address - first) / bytes);
}

static int counters_node(const struct places *places, uintptr_t address)
{
    const struct frames *frames = places->engine->partition.frames;

    for (unsigned i = 0; i < places->space_count; i++) {
        const tide_space *space = places->spaces[i];
        if (inside(address, space->counters, space->cpu_count * sizeof *space->counters))
            return array_node(frames, address, space->counters, sizeof *space->counters);
    }
    return PLACE_NO_NODE;
}

static int global_node(const struct places *places, uintptr_t address)
{
    const struct frames *frames = places->engine->partition.frames;

    for (unsigned n = 0; n < frames->node_count; n++)
        if (inside(address, &frames->nodes[n], sizeof frames->nodes[n]))
            return (int)n;
    return PLACE_NO_NODE;
}

int place_node(const struct places *places, uintptr_t address)
{
    const struct partition *partition = &places->engine->partition;
    const struct frames *frames = partition->frames;

    switch (place_of(places, address)) {
    case PLACE_PFN:
        return (int)frame_node(frames,
                               (frame_t){ (uint32_t)((address - (uintptr_t)frames->pfns) / sizeof(struct pfn)) });
    case PLACE_PTE:
    case PLACE_TABLE:
    case PLACE_PAGE:
        return (int)frame_node(frames,
                               (frame_t){ (uint32_t)((address - (uintptr_t)frames->memory) / TIDE_PAGE_BYTES) });
    case PLACE_SHARD:
        for (unsigned n = 0; n < frames->node_count; n++)
            if (inside(address, frames->nodes[n].lists[0],
                       FRAME_LIST_COUNT * (frames->shard_mask + 1) * sizeof(struct frame_shard)))
                return (int)n;
        return PLACE_NO_NODE;
    case PLACE_CPU:
        return array_node(frames, address, frames->cpus, sizeof *frames->cpus);
    case PLACE_CREDIT:
        return array_node(frames, address, partition->commit.credits, sizeof(struct commit_credit));
    case PLACE_COUNTERS:
        return counters_node(places, address);
    case PLACE_MARKS:
    case PLACE_GLOBAL:
        return global_node(places, address);
    default:
        return PLACE_NO_NODE;
    }
}

const char *place_name(enum place place)
{
    static const char *const names[PLACE_COUNT] = {
        [PLACE_PFN] = "pfn",          [PLACE_SHARD] = "shard",   [PLACE_MARKS] = "marks",   [PLACE_CPU] = "cpu",
        [PLACE_PTE] = "pte",          [PLACE_TABLE] = "table",   [PLACE_PAGE] = "page",     [PLACE_SPACE] = "space",
        [PLACE_COUNTERS] = "counter", [PLACE_VAD] = "vad",       [PLACE_THREAD] = "thread", [PLACE_CREDIT] = "credit",
        [PLACE_SLOT] = "slot",        [PLACE_GLOBAL] = "global", [PLACE_STACK] = "stack",   [PLACE_OTHER] = "other",
    };
    return names[place];
}

static uintptr_t offset_in(uintptr_t address, const void *memory)
{
    return address - (uintptr_t)memory;
}

static void global_describe(const tide_engine *engine, uintptr_t address, char *text, size_t bytes)
{
    const struct frames *frames = engine->partition.frames;
    const struct {
        const char *name;
        const void *memory;
        size_t bytes;
    } parts[] = {
        { "tide_engine", engine, sizeof *engine },
        { "frames", frames, sizeof *frames },
        { "frames_node", frames->nodes, frames->node_count * sizeof *frames->nodes },
        { "pte_waits", engine->partition.waits, sizeof *engine->partition.waits },
        { "workers", engine->workers, sizeof *engine->workers },
    };

    snprintf(text, bytes, "worker");
    for (unsigned i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (inside(address, parts[i].memory, parts[i].bytes)) {
            snprintf(text, bytes, "struct %s + %" PRIuPTR, parts[i].name, offset_in(address, parts[i].memory));
            return;
        }
}

void place_describe(const struct places *places, uintptr_t address, char *text, size_t bytes)
{
    const struct frames *frames = places->engine->partition.frames;

    switch (place_of(places, address)) {
    case PLACE_PFN: {
        const uintptr_t frame = offset_in(address, frames->pfns) / sizeof(struct pfn);
        snprintf(text, bytes, "PFN records of frames %" PRIuPTR " and %" PRIuPTR, frame, frame + 1);
        return;
    }
    case PLACE_SHARD: {
        const unsigned shards = frames->shard_mask + 1;
        for (unsigned n = 0; n < frames->node_count; n++) {
            const uintptr_t index = offset_in(address, frames->nodes[n].lists[0]) / sizeof(struct frame_shard);
            if (index < (uintptr_t)FRAME_LIST_COUNT * shards)
                snprintf(text, bytes, "shard %" PRIuPTR " of list %" PRIuPTR ", node %u", index % shards,
                         index / shards, n);
        }
        return;
    }
    case PLACE_CPU: {
        const uintptr_t offset = offset_in(address, frames->cpus);
        snprintf(text, bytes, "frame cache of CPU %" PRIuPTR " + %" PRIuPTR, offset / sizeof(struct frames_cpu),
                 offset % sizeof(struct frames_cpu));
        return;
    }
    case PLACE_SPACE:
        for (unsigned i = 0; i < places->space_count; i++)
            if (inside(address, places->spaces[i], sizeof *places->spaces[i]))
                snprintf(text, bytes, "struct tide_space %u + %" PRIuPTR, i, offset_in(address, places->spaces[i]));
        return;
    case PLACE_MARKS:
    case PLACE_GLOBAL:
        global_describe(places->engine, address, text, bytes);
        return;
    default:
        snprintf(text, bytes, "%s at 0x%" PRIxPTR, place_name(place_of(places, address)), address);
    }
}

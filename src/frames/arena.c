/*
 * Arenas: taking the memory of all nodes at open, binding it, describing it, giving it back.
 *
 * The frames of a node begin at a multiple of 512 (2 MiB), so that huge pages fit and the records of different nodes
 * lie on different pages; numbers between the end of one node and the next multiple belong to nobody.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "frames/frames_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { NODE_ALIGNMENT_FRAMES = 512, HUGE_PAGE_BYTES = 2 << 20 };

/* Frame numbers have 32 bits, the highest is "none", and nodes begin at multiples of 512. */
#define MOST_BYTES (((1ull << 32) - (TIDE_MAX_NODES + 1) * NODE_ALIGNMENT_FRAMES) * TIDE_PAGE_BYTES)

static uint64_t round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/*
 * An even split of the budget over the nodes that have memory. A node that has less to give than its share gives all of
 * it, and the others carry the rest. What fits nowhere is asked of the last of them, and refused there.
 */
static void budget_even(const struct topology *topology, uint64_t pages, uint64_t *bytes)
{
    bool settled[TIDE_MAX_NODES] = { false };
    unsigned left = 0;

    for (unsigned i = 0; i < topology->node_count; i++) {
        settled[i] = topology->nodes[i].memory_bytes == 0;
        left += !settled[i];
    }
    if (left == 0) { /* nobody knows of any memory: it is asked of the first */
        bytes[0] = pages * TIDE_PAGE_BYTES;
        return;
    }
    for (bool again = true; again;) {
        again = false;
        for (unsigned i = 0; i < topology->node_count && left > 1; i++) {
            const uint64_t most = settled[i] ? 0 : topology_memory_available(topology, i) / TIDE_PAGE_BYTES;

            if (settled[i] || most >= pages / left)
                continue;
            bytes[i] = most * TIDE_PAGE_BYTES;
            pages -= most;
            left--;
            settled[i] = again = true;
        }
    }
    for (unsigned i = 0; i < topology->node_count; i++) {
        if (settled[i])
            continue;
        bytes[i] = pages / left * TIDE_PAGE_BYTES;
        pages -= bytes[i] / TIDE_PAGE_BYTES;
        left--;
    }
}

/* Fills bytes[] with each node's budget, or refuses. */
static tide_status budget_split(const tide_config *config, const struct topology *topology, uint64_t *bytes)
{
    const unsigned nodes = topology->node_count;
    uint64_t total = 0;

    memset(bytes, 0, nodes * sizeof *bytes);
    if (config->node_bytes != NULL) {
        if (config->node_count > nodes)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a budget is given for node %u, and the highest node is %u",
                             config->node_count - 1, nodes - 1);
        memcpy(bytes, config->node_bytes, config->node_count * sizeof *bytes);
    } else {
        if (config->memory_bytes % TIDE_PAGE_BYTES != 0)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0, "memory_bytes %lu is no multiple of the page size %u",
                             config->memory_bytes, TIDE_PAGE_BYTES);
        budget_even(topology, config->memory_bytes / TIDE_PAGE_BYTES, bytes);
    }
    for (unsigned i = 0; i < nodes; i++) {
        if (bytes[i] % TIDE_PAGE_BYTES != 0)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node_bytes[%u] %lu is no multiple of the page size %u", i,
                             bytes[i], TIDE_PAGE_BYTES);
        if (bytes[i] > MOST_BYTES)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                             "a budget of %lu bytes on node %u; the most is %llu (16 TiB)", bytes[i], i, MOST_BYTES);
        if (bytes[i] > topology->nodes[i].memory_bytes && topology->nodes[i].memory_bytes != 0)
            return error_set(TIDE_NO_MEMORY, 0, 0, "a budget of %lu bytes on node %u, which has %lu bytes of memory",
                             bytes[i], i, topology->nodes[i].memory_bytes);
        /* Or the kernel would look for a process to kill, and find this one. */
        const uint64_t most = topology_memory_available(topology, i);
        if (bytes[i] > most)
            return error_set(TIDE_NO_MEMORY, 0, 0,
                             "a budget of %lu bytes on node %u, which has %lu bytes available of %lu", bytes[i], i,
                             most, topology->nodes[i].memory_bytes);
        total += bytes[i];
    }
    if (total < 16 * TIDE_PAGE_BYTES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "a budget of %lu bytes (%lu frames); the least is %u bytes (16 frames)", total,
                         total / TIDE_PAGE_BYTES, 16 * TIDE_PAGE_BYTES);
    if (total > MOST_BYTES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a budget of %lu bytes; the most is %llu (16 TiB)", total,
                         MOST_BYTES);
    const uint64_t available = os_kib_read("/proc/meminfo", "MemAvailable:", UINT64_MAX);
    if (total > available)
        return error_set(TIDE_NO_MEMORY, 0, 0, "a budget of %lu bytes, and the machine has %lu bytes available", total,
                         available);
    return TIDE_SUCCESS;
}

static unsigned power_of_two_below(uint64_t value)
{
    unsigned power = 1;

    while (power * 2ull <= value && power < FRAMES_SHARDS_MAX)
        power *= 2;
    return power;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value != 0 ? value : otherwise;
}

/* Thresholds of a node that has `count` frames, or a refusal of what was asked for. */
static tide_status node_thresholds(struct frames_node *node, const tide_config *config, unsigned index)
{
    const uint64_t count = node->count;
    const uint64_t reserve = count / 256 > 8 ? 8 : count / 256;

    if (count == 0)
        return TIDE_SUCCESS;
    if (config->writer_reserve_pages > count / 4)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "writer_reserve_pages %u; the most is a quarter of the %lu frames of node %u",
                         config->writer_reserve_pages, count, index);
    if (config->low_available_pages > count || config->high_available_pages > count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "low_available_pages %lu, high_available_pages %lu; node %u has %lu frames",
                         config->low_available_pages, config->high_available_pages, index, count);
    if (config->high_available_pages != 0 && config->high_available_pages < config->low_available_pages)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "high_available_pages %lu is below low_available_pages %lu",
                         config->high_available_pages, config->low_available_pages);
    node->modified_trigger = or_default(config->modified_trigger_pages, count / 8 + 1);
    node->zero_trigger = or_default(config->zero_trigger_pages, 8);
    node->reserve = or_default(config->writer_reserve_pages, reserve);
    /* The trimmer must wake before ordinary allocations stop at the reserve. */
    const uint64_t least = node->reserve + 2;
    const uint64_t low = or_default(config->low_available_pages, count / 32);
    const uint64_t most = or_default(config->high_available_pages, low); /* a default is no reason to exceed a wish */
    node->low = low < most ? low : most;
    node->low = node->low < least ? least : node->low;
    node->high = or_default(config->high_available_pages, node->low * 2);
    node->high = node->high < node->low ? node->low : node->high;
    return TIDE_SUCCESS;
}

/* Chains the node's frames into the shards of one list, each run of 64 in ascending order. */
static void node_fill(struct frames *frames, struct frames_node *node, enum frame_state state, uint64_t hollow)
{
    const enum frame_list list = state == FRAME_ZEROED ? FRAME_LIST_ZEROED : FRAME_LIST_FREE;

    for (uint32_t i = 0; i < node->count; i++) {
        const frame_t frame = { node->first + i };
        struct pfn *pfn = frame_pfn(frames, frame);

        /* The record's birth: the only write of the word that is no transition. */
        pfn->word = pfn_with_grace((uint64_t)state | hollow, grace_long_ago(&frames->grace));
        shard_push_tail(frames, frames_shard(frames, (unsigned)(node - frames->nodes), list, frame), frame);
    }
}

static tide_status lists_create(struct frames *frames, const tide_config *config)
{
    unsigned shards = config->list_shards;

    if (shards == 0) {
        /*
         * As many as CPUs times 32, and no shard with fewer than some thousand frames: small engines keep exact FIFO
         * order. Two threads that meet on a shard meet on it for a while, and are slowed down several times meanwhile.
         */
        const uint64_t by_size = frames->total / frames->node_count / 4096, by_cpus = frames->cpu_count * 32ull;
        shards = power_of_two_below(by_size < by_cpus ? by_size : by_cpus);
    }
    frames->shard_mask = shards - 1;
    const size_t node_bytes = FRAME_LIST_COUNT * (size_t)shards * sizeof(struct frame_shard);
    frames->list_bytes = round_up(node_bytes, TIDE_PAGE_BYTES) * frames->node_count;
    char *memory = os_memory_reserve(frames->list_bytes, TIDE_PAGE_BYTES);
    if (memory == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    frames->nodes[0].lists[0] = (struct frame_shard *)(void *)memory;
    for (unsigned n = 0; n < frames->node_count; n++) {
        char *base = memory + n * round_up(node_bytes, TIDE_PAGE_BYTES);
        const tide_status status =
            topology_bind_memory(frames->topology, base, round_up(node_bytes, TIDE_PAGE_BYTES), n);
        if (tide_failed(status))
            return status;
        for (unsigned l = 0; l < FRAME_LIST_COUNT; l++) {
            frames->nodes[n].lists[l] = (struct frame_shard *)(void *)base + l * shards;
            for (unsigned s = 0; s < shards; s++) {
                struct frame_shard *shard = &frames->nodes[n].lists[l][s];
                sync_lock_init(&shard->lock, SYNC_RANK_list_shard);
                shard->head = shard->tail = FRAME_NIL;
            }
        }
    }
    return TIDE_SUCCESS;
}

static tide_status cpus_create(struct frames *frames, const tide_config *config)
{
    frames->cpu_bytes = frames->cpu_count * sizeof(struct frames_cpu);
    frames->cpus = os_memory_reserve(frames->cpu_bytes, TIDE_PAGE_BYTES);
    if (frames->cpus == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    for (unsigned c = 0; c < frames->cpu_count; c++) {
        const tide_status status = topology_bind_memory(frames->topology, &frames->cpus[c], sizeof frames->cpus[c],
                                                        frames->topology->cpu_node[c]);
        if (tide_failed(status))
            return status;
    }
    uint64_t batch = config->cpu_cache_pages;
    if (batch == TIDE_NO_CPU_CACHE) {
        batch = 0;
    } else if (batch == 0) {
        /* All caches full, each with a batch zeroed and a batch free, hold at most an eighth of the frames. */
        batch = frames->total / (8 * 2 * FRAMES_CACHES_PER_CPU) / frames->cpu_count;
        batch = batch > 32 ? 32 : batch < 4 ? 0 : batch;
    }
    frames->cache_batch = (unsigned)batch;
    return TIDE_SUCCESS;
}

static tide_status tunables_check(const tide_config *config)
{
    if (config->list_shards > FRAMES_SHARDS_MAX || (config->list_shards & (config->list_shards - 1)) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "list_shards %u is no power of two from 1 to %u",
                         config->list_shards, FRAMES_SHARDS_MAX);
    if (config->memory_on_demand && config->start_free)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "start_free with memory_on_demand: frames without memory are zeroed, not free");
    if (config->cpu_cache_pages > FRAMES_CACHE_MAX / 2 && config->cpu_cache_pages != TIDE_NO_CPU_CACHE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "cpu_cache_pages %u; the most is %u", config->cpu_cache_pages,
                         FRAMES_CACHE_MAX / 2);
    return TIDE_SUCCESS;
}

static tide_status arena_populate(struct frames *frames, const tide_config *config, unsigned n)
{
    struct frames_node *node = &frames->nodes[n];
    char *memory = frame_memory(frames, (frame_t){ node->first });
    void *records = frame_pfn(frames, (frame_t){ node->first });
    const size_t bytes = (size_t)node->count * TIDE_PAGE_BYTES;
    const size_t record_bytes = round_up((size_t)node->count * sizeof(struct pfn), TIDE_PAGE_BYTES);
    tide_status status;

    if (node->count == 0)
        return TIDE_SUCCESS;
    status = topology_bind_memory(frames->topology, memory, bytes, n);
    if (!tide_failed(status))
        status = topology_bind_memory(frames->topology, records, record_bytes, n);
    if (tide_failed(status))
        return status;
    if (!config->disable_huge_pages) {
        /* Memory that comes on demand comes by the page: a huge one would be 512 frames' at the touch of the first. */
        if (!config->memory_on_demand)
            os_memory_advise_huge(memory, bytes);
        os_memory_advise_huge(records, record_bytes);
    }
    if ((!config->memory_on_demand && !os_memory_populate(memory, bytes)) || !os_memory_populate(records, record_bytes))
        return error_set(TIDE_NO_MEMORY, errno, 0, "the host refused to populate %zu bytes on node %u: %s", bytes, n,
                         strerror(errno));
    return TIDE_SUCCESS;
}

tide_status frames_create(const struct frames_options *options, struct frames **out)
{
    const tide_config *config = options->config;
    const struct topology *topology = options->topology;
    uint64_t bytes[TIDE_MAX_NODES];
    struct frames *frames = NULL;
    tide_status status = tunables_check(config);

    if (!tide_failed(status))
        status = budget_split(config, topology, bytes);
    if (tide_failed(status))
        return status;
    frames = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *frames);
    if (frames == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the frames' %zu bytes of state",
                         sizeof *frames);
    memset(frames, 0, sizeof *frames);
    frames->topology = topology;
    frames->detach = options->detach;
    frames->vacate = options->vacate;
    frames->near = options->near;
    frames->node_count = topology->node_count;
    frames->cpu_count = topology->cpu_count;
    frames->prefer_local_standby = config->prefer_local_standby;
    grace_init(&frames->grace);
    sync_event_init(&frames->available);
    notifications_init(&frames->events.notifications);
    frames->node_bytes = frames->node_count * sizeof *frames->nodes;
    frames->nodes = os_memory_reserve(frames->node_bytes, TIDE_PAGE_BYTES);
    if (frames->nodes == NULL) {
        status = TIDE_INSUFFICIENT_RESOURCES;
        goto out;
    }
    for (unsigned n = 0; n < frames->node_count; n++) {
        struct frames_node *node = &frames->nodes[n];

        status = topology_bind_memory(topology, node, sizeof *node, n);
        if (tide_failed(status))
            goto out;
        node->first = (uint32_t)round_up(frames->end, NODE_ALIGNMENT_FRAMES);
        node->count = (uint32_t)(bytes[n] / TIDE_PAGE_BYTES);
        frames->end = node->first + node->count;
        frames->node_ends[n] = frames->end;
        frames->total += node->count;
        status = node_thresholds(node, config, n);
        if (tide_failed(status))
            goto out;
        sync_event_init(&node->zero_page.event);
        sync_event_init(&node->writer.event);
        sync_event_init(&node->trimmer.event);
    }
    for (unsigned n = frames->node_count; n < TIDE_MAX_NODES; n++)
        frames->node_ends[n] = UINT32_MAX;
    status = frames_events_init(frames, config);
    if (tide_failed(status))
        goto out;
    frames->memory_bytes = round_up((size_t)frames->end * TIDE_PAGE_BYTES, HUGE_PAGE_BYTES);
    frames->pfn_bytes = round_up((size_t)frames->end * sizeof(struct pfn), TIDE_PAGE_BYTES);
    frames->memory = os_memory_reserve(frames->memory_bytes, HUGE_PAGE_BYTES);
    frames->pfns = frames->memory == NULL ? NULL : os_memory_reserve(frames->pfn_bytes, HUGE_PAGE_BYTES);
    if (frames->pfns == NULL) {
        status = TIDE_INSUFFICIENT_RESOURCES;
        goto out;
    }
    status = lists_create(frames, config);
    if (!tide_failed(status))
        status = cpus_create(frames, config);
    for (unsigned n = 0; n < frames->node_count && !tide_failed(status); n++)
        status = arena_populate(frames, config, n);
    if (!tide_failed(status))
        status = frames_bad_init(frames, config);
    if (tide_failed(status))
        goto out;
    for (unsigned n = 0; n < frames->node_count; n++)
        node_fill(frames, &frames->nodes[n], config->start_free ? FRAME_FREE : FRAME_ZEROED,
                  config->memory_on_demand ? PFN_HOLLOW : 0);
    *out = frames;
    return TIDE_SUCCESS;
out:
    frames_destroy(frames);
    return status;
}

void frames_destroy(struct frames *frames)
{
    if (frames == NULL)
        return;
    frames_bad_destroy(frames);
    grace_destroy(&frames->grace);
    frames_events_destroy(frames);
    os_memory_free(frames->cpus, frames->cpu_bytes);
    if (frames->nodes != NULL)
        os_memory_free(frames->nodes[0].lists[0], frames->list_bytes);
    os_memory_free(frames->pfns, frames->pfn_bytes);
    os_memory_free(frames->memory, frames->memory_bytes);
    os_memory_free(frames->nodes, frames->node_bytes);
    free(frames);
}

/*
 * Public calls on placement and nodes (numa.h): arguments are checked here, spaces/placement.c has the idea.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <string.h>

/* ---- placement -------------------------------------------------------------------------------------------------- */

static void placement_tell(struct placement from, tide_placement *to)
{
    to->policy = (tide_placement_policy)from.policy;
    to->fallback = (tide_placement_fallback)from.fallback;
    to->node = from.node;
}

tide_status tide_space_set_placement(tide_space *space, const tide_placement *wanted)
{
    tide_status status = space_check(space);
    struct placement placement;

    if (!tide_failed(status))
        status = PLACE_CHECK(wanted);
    if (!tide_failed(status))
        status =
            placement_check(space_frames(space), wanted->policy, wanted->fallback, wanted->node, false, &placement);
    if (!tide_failed(status))
        space_placement_set(space, placement);
    return status;
}

tide_status tide_space_get_placement(tide_space *space, tide_placement *placement)
{
    tide_status status = space_check(space);

    if (!tide_failed(status))
        status = PLACE_CHECK(placement);
    if (!tide_failed(status))
        placement_tell(space_placement(space), placement);
    return status;
}

tide_status tide_placement_query(tide_space *space, tide_address address, tide_placement *out)
{
    tide_status status = space_check(space);

    if (!tide_failed(status))
        status = PLACE_CHECK(out);
    if (tide_failed(status))
        return status;
    if (address > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "address 0x%lx lies past the highest address 0x%llx",
                         address, TIDE_HIGHEST_ADDRESS);
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    const uint64_t page = address / TIDE_PAGE_BYTES;
    const struct vad *vad = vad_find(&space->vads, page);
    const struct placement placement = space_placement_of(space, vad == NULL ? placement_none() : vad->placement);
    const uint64_t turn = vad != NULL && vad->kind == VAD_LARGE_PAGES ? (page - vad->first_page) / FRAMES_RUN : page;
    /* A node that is nobody's, for a first toucher who is not known. */
    const unsigned node = space_frames_place(space, placement, turn, TIDE_NO_PREFERRED_NODE).node;
    grace_leave(thread);
    placement_tell(placement, out);
    out->node = node;
    return TIDE_SUCCESS;
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

tide_status tide_thread_set_ideal_node(tide_engine *engine, uint32_t node)
{
    tide_status status = engine_check(engine);

    if (!tide_failed(status) && node != TIDE_NO_PREFERRED_NODE)
        status = engine_node_check(engine, node);
    if (tide_failed(status))
        return status;
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    thread->ideal_node = node == TIDE_NO_PREFERRED_NODE ? 0 : node + 1;
    return TIDE_SUCCESS;
}

tide_status tide_thread_get_node(tide_engine *engine, uint32_t *node)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (node == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the node is NULL");
    const struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    *node = partition_thread_node(&engine->partition, thread);
    return TIDE_SUCCESS;
}

/* ---- nodes ------------------------------------------------------------------------------------------------------ */

tide_status tide_numa_highest_node_get(tide_engine *engine, uint32_t *node)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (node == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the node is NULL");
    *node = engine->partition.topology->node_count - 1;
    return TIDE_SUCCESS;
}

/* A reading of the lists, in bytes. */
static void memory_fill(const struct frames *frames, unsigned node, tide_numa_node_memory *memory)
{
    struct frames_counts counts;

    frames_counts(frames, node, &counts);
    memory->total_bytes = (uint64_t)frames->nodes[node].count * TIDE_PAGE_BYTES;
    memory->standby_bytes = counts.standby * TIDE_PAGE_BYTES;
    memory->available_bytes = counts.available * TIDE_PAGE_BYTES;
    memory->free_and_zero_bytes = memory->available_bytes - memory->standby_bytes;
}

tide_status tide_numa_available_memory_get(tide_engine *engine, uint32_t node, uint64_t *bytes)
{
    tide_status status = engine_check(engine);
    tide_numa_node_memory memory;

    if (!tide_failed(status))
        status = engine_node_check(engine, node);
    if (tide_failed(status))
        return status;
    if (bytes == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the bytes is NULL");
    const struct frames *frames = engine->partition.frames;
    memory_fill(frames, node, &memory);
    *bytes = frames->node_count == 1 ? memory.available_bytes : memory.free_and_zero_bytes;
    return TIDE_SUCCESS;
}

/* All pairs; `faults` has node_count x node_count figures. */
static void faults_fill(tide_engine *engine, uint64_t *faults)
{
    struct quiet quiet;
    struct partition *partition = &engine->partition;
    uint64_t resolved[TIDE_MAX_NODES];

    quiet_lock(&partition->lock, &quiet);
    memcpy(resolved, partition->retired_resolved, sizeof resolved);
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next)
        space_resolved_add(space, resolved);
    quiet_unlock(&partition->lock, &quiet);
    node_pairs_sum(&partition->pairs, resolved, faults);
}

tide_status tide_numa_faults_get(tide_engine *engine, uint64_t *faults, size_t count)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (faults == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the faults is NULL");
    const size_t nodes = engine->partition.topology->node_count;
    if (count < nodes * nodes)
        return error_set(TIDE_BUFFER_TOO_SMALL, 0, 0, "room for %zu figures; %zu nodes have %zu pairs", count, nodes,
                         nodes * nodes);
    faults_fill(engine, faults);
    return TIDE_SUCCESS;
}

tide_status tide_numa_node_memory_get(tide_engine *engine, uint32_t node, tide_numa_node_memory *memory)
{
    tide_status status = engine_check(engine);

    if (!tide_failed(status))
        status = engine_node_check(engine, node);
    if (!tide_failed(status))
        status = PLACE_CHECK(memory);
    if (tide_failed(status))
        return status;
    const unsigned nodes = engine->partition.topology->node_count;
    uint64_t *faults = malloc((size_t)nodes * nodes * sizeof *faults);
    if (faults == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the faults of %u pairs of nodes",
                         nodes * nodes);
    faults_fill(engine, faults);
    *memory = (tide_numa_node_memory){ .struct_bytes = sizeof *memory };
    memory_fill(engine->partition.frames, node, memory);
    for (unsigned n = 0; n < nodes; n++) {
        memory->remote_faults += n == node ? 0 : faults[node * nodes + n];
        memory->foreign_faults += n == node ? 0 : faults[n * nodes + node];
    }
    memory->local_faults = faults[node * nodes + node];
    free(faults);
    return TIDE_SUCCESS;
}

/*
 * Placement of pages; the idea is in placement.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "spaces/space.h"

#include <stdlib.h>
#include <string.h>

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static tide_status node_check(const struct frames *frames, tide_placement_policy policy, uint32_t node)
{
    const bool named = policy == TIDE_PLACEMENT_PREFERRED || policy == TIDE_PLACEMENT_STRICT;

    if (!named && node != TIDE_NO_PREFERRED_NODE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "node %u with placement policy %u, which has none: it must be 0x%x", node, (unsigned)policy,
                         TIDE_NO_PREFERRED_NODE);
    if (named && node >= frames->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node,
                         frames->node_count - 1);
    if (policy == TIDE_PLACEMENT_STRICT && frames->nodes[node].count == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u as the only one, and it has no frames", node);
    return TIDE_SUCCESS;
}

tide_status placement_check(const struct frames *frames, tide_placement_policy policy, tide_placement_fallback fallback,
                            uint32_t node, bool region, struct placement *placement)
{
    if (policy == TIDE_PLACEMENT_DEFAULT && region && node != TIDE_NO_PREFERRED_NODE)
        policy = TIDE_PLACEMENT_PREFERRED;
    if ((unsigned)policy > TIDE_PLACEMENT_INTERLEAVE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "placement policy %u; the highest is %u", (unsigned)policy,
                         TIDE_PLACEMENT_INTERLEAVE);
    if ((unsigned)fallback > TIDE_FALLBACK_LOCAL_RECLAIM)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "placement fallback %u; the highest is %u", (unsigned)fallback,
                         TIDE_FALLBACK_LOCAL_RECLAIM);
    const tide_status status = node_check(frames, policy, node);
    if (!tide_failed(status))
        *placement = (struct placement){ node, (uint16_t)policy, (uint16_t)fallback };
    return status;
}

/* ---- interleave ------------------------------------------------------------------------------------------------- */

/* The most turns: enough for shares of a thousandth; and nodes of one size need one turn each. */
enum { TURNS_MAX = 1024 };

static uint64_t greatest_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* How many turns each node has. Returns their sum. */
static uint32_t turns_share(const struct frames *frames, uint32_t *turns)
{
    uint64_t divisor = 0, sum = 0, given = 0;
    uint64_t rest[TIDE_MAX_NODES];

    for (unsigned n = 0; n < frames->node_count; n++)
        divisor = greatest_divisor(frames->nodes[n].count, divisor);
    sum = frames->total / divisor;
    for (unsigned n = 0; n < frames->node_count; n++) {
        const uint64_t share = frames->nodes[n].count / divisor;

        turns[n] = (uint32_t)(sum <= TURNS_MAX ? share : share * TURNS_MAX / sum);
        rest[n] = sum <= TURNS_MAX ? 0 : share * TURNS_MAX % sum;
        given += turns[n];
    }
    /* What rounding left goes to those that it took the most from. */
    for (const uint64_t all = sum <= TURNS_MAX ? sum : TURNS_MAX; given < all; given++) {
        unsigned most = 0;

        for (unsigned n = 1; n < frames->node_count; n++)
            most = rest[n] > rest[most] ? n : most;
        turns[most]++;
        rest[most] = 0;
    }
    return (uint32_t)given;
}

tide_status interleave_create(struct interleave *interleave, const struct frames *frames)
{
    uint32_t turns[TIDE_MAX_NODES];
    int64_t credit[TIDE_MAX_NODES] = { 0 };

    interleave->length = turns_share(frames, turns);
    interleave->nodes = malloc(interleave->length);
    if (interleave->nodes == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for %u turns of nodes", interleave->length);
    /* Each turn goes to the node that has waited for the most; who had it waits anew. */
    for (uint32_t t = 0; t < interleave->length; t++) {
        unsigned next = 0;

        for (unsigned n = 0; n < frames->node_count; n++) {
            credit[n] += turns[n];
            next = credit[n] > credit[next] ? n : next;
        }
        credit[next] -= interleave->length;
        interleave->nodes[t] = (uint8_t)next;
    }
    return TIDE_SUCCESS;
}

void interleave_destroy(struct interleave *interleave)
{
    free(interleave->nodes);
    interleave->nodes = NULL;
}

/* ---- pairs of nodes --------------------------------------------------------------------------------------------- */

tide_status node_pairs_create(struct node_pairs *pairs, const struct topology *topology)
{
    const size_t line = SYNC_CACHE_LINE_BYTES / sizeof(uint64_t);
    const unsigned nodes = topology->node_count;
    const size_t stride = (nodes + 1 + line - 1) / line * line;
    const size_t row_bytes = stride * topology->cpu_count * sizeof(uint64_t);

    *pairs = (struct node_pairs){ .node_count = nodes,
                                  .cpu_count = topology->cpu_count,
                                  .stride = stride,
                                  .cpu_node = topology->cpu_node,
                                  .rows = aligned_alloc(SYNC_CACHE_LINE_BYTES, row_bytes),
                                  .elsewhere = calloc((size_t)nodes * nodes, sizeof(uint64_t)) };
    if (pairs->rows == NULL || pairs->elsewhere == NULL) {
        node_pairs_destroy(pairs);
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory to count faults of %u nodes on %u CPUs", nodes,
                         topology->cpu_count);
    }
    memset(pairs->rows, 0, row_bytes);
    return TIDE_SUCCESS;
}

void node_pairs_destroy(struct node_pairs *pairs)
{
    free(pairs->rows);
    free(pairs->elsewhere);
    pairs->rows = pairs->elsewhere = NULL;
}

void node_pairs_sum(const struct node_pairs *pairs, const uint64_t *resolved, uint64_t *faults)
{
    const unsigned nodes = pairs->node_count;
    uint64_t others[TIDE_MAX_NODES] = { 0 }; /* of what the CPUs of a node resolved: crossed, or somebody else's */

    memset(faults, 0, (size_t)nodes * nodes * sizeof *faults);
    for (unsigned c = 0; c < pairs->cpu_count; c++) {
        const uint64_t *row = &pairs->rows[c * pairs->stride];
        const unsigned from = pairs->cpu_node[c];

        for (unsigned to = 0; to < nodes; to++) {
            const uint64_t crossed = sync_load_relaxed_64(&row[to]);
            faults[from * nodes + to] += crossed;
            others[from] += crossed;
        }
        others[from] += sync_load_relaxed_64(&row[nodes]);
    }
    for (unsigned n = 0; n < nodes; n++)
        faults[n * nodes + n] += resolved[n] > others[n] ? resolved[n] - others[n] : 0;
    for (unsigned i = 0; i < nodes * nodes; i++)
        faults[i] += sync_load_relaxed_64(&pairs->elsewhere[i]);
}

/* ---- spaces and pages ------------------------------------------------------------------------------------------- */

static uint64_t packed(struct placement placement)
{
    uint64_t word;

    memcpy(&word, &placement, sizeof word);
    return word;
}

void space_placement_set(tide_space *space, struct placement placement)
{
    sync_store_64(&space->placement, packed(placement));
    if (!placement_is_none(placement))
        sync_store_32(&space->has_placement, 1);
}

struct placement space_placement(const tide_space *space)
{
    const uint64_t word = sync_load_64(&space->placement);
    struct placement placement;

    memcpy(&placement, &word, sizeof placement);
    return placement;
}

struct placement space_placement_of(const tide_space *space, struct placement placement)
{
    const struct placement own = space_placement(space);

    if (placement.policy == TIDE_PLACEMENT_DEFAULT) {
        placement.policy = own.policy;
        placement.node = own.node;
    }
    if (placement.policy == TIDE_PLACEMENT_DEFAULT)
        placement.policy = TIDE_PLACEMENT_FIRST_TOUCH;
    if (placement.fallback == TIDE_FALLBACK_DEFAULT)
        placement.fallback = own.fallback;
    if (placement.fallback == TIDE_FALLBACK_DEFAULT)
        placement.fallback =
            space_frames(space)->prefer_local_standby ? TIDE_FALLBACK_LOCAL_STANDBY : TIDE_FALLBACK_BY_DISTANCE;
    return placement;
}

struct frames_place space_frames_place(const tide_space *space, struct placement placement, uint64_t turn,
                                       unsigned toucher)
{
    struct frames_place place = { .node = placement.node };

    place.flags = placement.fallback == TIDE_FALLBACK_LOCAL_RECLAIM   ? FRAMES_STRICT | FRAMES_SPILL
                  : placement.fallback == TIDE_FALLBACK_LOCAL_STANDBY ? FRAMES_LOCAL_STANDBY
                                                                      : FRAMES_BY_DISTANCE;
    switch (placement.policy) {
    case TIDE_PLACEMENT_PREFERRED:
        break;
    case TIDE_PLACEMENT_STRICT:
        place.flags = FRAMES_STRICT;
        break;
    case TIDE_PLACEMENT_INTERLEAVE:
        place.node = interleave_node(&space->partition->interleave, turn);
        break;
    default:
        place.node = toucher;
    }
    return place;
}

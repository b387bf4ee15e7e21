/*
 * Operations of a stress run on placement: what a space's pages prefer changes at any moment, threads count as running
 * now here, now there, and strict regions of the thread's own fill their node.
 *
 * A strict access may fail for want of a frame of its node, and must lose nothing by it: so strict regions are the
 * thread's own, and shared spaces prefer.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

enum { STRICT_PAGES = 48, PAGE = TIDE_PAGE_BYTES };

static tide_placement_fallback draw_fallback(struct stress_thread *thread)
{
    return (tide_placement_fallback)draw(thread, 4);
}

void draw_placement(struct stress_thread *thread, tide_alloc_parameters *parameters)
{
    static const tide_placement_policy policies[] = { TIDE_PLACEMENT_DEFAULT, TIDE_PLACEMENT_DEFAULT,
                                                      TIDE_PLACEMENT_FIRST_TOUCH, TIDE_PLACEMENT_PREFERRED,
                                                      TIDE_PLACEMENT_INTERLEAVE };
    parameters->policy = policies[draw(thread, sizeof(policies) / sizeof(policies[0]))];
    parameters->fallback = draw_fallback(thread);
    parameters->node = TIDE_NO_PREFERRED_NODE;
    if (parameters->policy == TIDE_PLACEMENT_PREFERRED ||
        (parameters->policy == TIDE_PLACEMENT_DEFAULT && one_in(thread, 2)))
        parameters->node = (uint32_t)draw(thread, thread->run->node_count);
}

/* The thread goes to another node, or back to that of its CPU. */
static void migrate(struct stress_thread *thread)
{
    const uint32_t node = one_in(thread, 3) ? TIDE_NO_PREFERRED_NODE : (uint32_t)draw(thread, thread->run->node_count);
    uint32_t now = TIDE_NO_PREFERRED_NODE;
    expect(thread, tide_thread_set_ideal_node(thread->run->engine, node), TIDE_SUCCESS, "tide_thread_set_ideal_node",
           0);
    expect(thread, tide_thread_get_node(thread->run->engine, &now), TIDE_SUCCESS, "tide_thread_get_node", 0);
    if (node != TIDE_NO_PREFERRED_NODE ? now != node : now >= thread->run->node_count)
        fail(thread, "the thread was put on node %d and is on node %d", (int)node, (int)now);
}

static void space_place(struct stress_thread *thread)
{
    struct place place;
    tide_alloc_parameters drawn;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    draw_placement(thread, &drawn);
    /* Of a space, the default names no node. */
    tide_placement placement = { .struct_bytes = sizeof(placement),
                                 .policy = drawn.policy,
                                 .fallback = drawn.fallback,
                                 .node = drawn.policy == TIDE_PLACEMENT_DEFAULT ? TIDE_NO_PREFERRED_NODE : drawn.node };
    expect(thread, tide_space_set_placement(place.space, &placement), TIDE_SUCCESS, "tide_space_set_placement", 0);
    expect(thread, tide_space_get_placement(place.space, &placement), TIDE_SUCCESS, "tide_space_get_placement", 0);
    expect(thread, tide_placement_query(place.space, page_address(&place, place.first), &placement), TIDE_SUCCESS,
           "tide_placement_query", page_address(&place, place.first));
    if (placement.policy == TIDE_PLACEMENT_DEFAULT || placement.policy == TIDE_PLACEMENT_STRICT ||
        placement.fallback == TIDE_FALLBACK_DEFAULT)
        fail(thread, "placement %d, fallback %d, of a page of a shared space", (int)placement.policy,
             (int)placement.fallback);
    place_put(&place);
}

/* Is this the refusal that a strict access may meet? */
static bool node_is_full(struct stress_thread *thread, tide_status status)
{
    (void)thread;
    return status == TIDE_NO_MEMORY || status == TIDE_TIMEOUT;
}

/* Pages of a strict region hold what was written to them, on their node, or were never written. */
static void strict_use(struct stress_thread *thread, tide_space *space, tide_address base, uint32_t node)
{
    uint64_t written[STRICT_PAGES] = { 0 };
    for (unsigned i = 0; i < 3 * STRICT_PAGES; i++) {
        const unsigned at = (unsigned)draw(thread, STRICT_PAGES);
        const tide_address address = base + (uint64_t)at * PAGE;
        uint64_t word = 0;
        tide_status status = read_bytes(thread, space, address, &word, sizeof(word));
        if (node_is_full(thread, status))
            continue;
        expect(thread, status, TIDE_SUCCESS, "read in a strict region", address);
        if (thread->own_lost) /* with a bad frame: zeros again */
            return;
        if (word != written[at])
            fail(thread, "strict page 0x%llx holds 0x%llx, not 0x%llx", (unsigned long long)address,
                 (unsigned long long)word, (unsigned long long)written[at]);
        tide_page_info info;
        expect(thread, tide_page_query(space, address, &info), TIDE_SUCCESS, "tide_page_query", address);
        if (info.node != node && info.node != TIDE_NO_PREFERRED_NODE)
            fail(thread, "strict page 0x%llx is on node %u, not %u", (unsigned long long)address, info.node, node);
        word = draw(thread, UINT64_MAX) | 1;
        status = write_bytes(thread, space, address, &word, sizeof(word));
        if (node_is_full(thread, status))
            continue;
        expect(thread, status, TIDE_SUCCESS, "write in a strict region", address);
        written[at] = word;
        if (one_in(thread, 16))
            linger(thread, space);
    }
}

static void strict_region(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    pthread_rwlock_unlock(&place.window->lock);
    tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                         .lowest_address = place.holder->own_lowest,
                                         .node = (uint32_t)draw(thread, thread->run->node_count),
                                         .policy = TIDE_PLACEMENT_STRICT,
                                         .fallback = draw_fallback(thread) };
    tide_address base = 0;
    uint64_t bytes = (uint64_t)STRICT_PAGES * PAGE;
    const tide_status status = tide_virtual_alloc2(place.space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                                   TIDE_PAGE_READWRITE, &parameters);
    if (status == TIDE_COMMITMENT_LIMIT || status == TIDE_TIMEOUT) {
        thread->commit_refused++;
    } else {
        expect(thread, status, TIDE_SUCCESS, "reserve a strict region", 0);
        strict_use(thread, place.space, base, parameters.node);
        expect(thread, tide_virtual_free(place.space, base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS,
               "release a strict region", base);
    }
    pthread_rwlock_unlock(&place.holder->lock);
}

/* Figures by node and by pair, which must fit one another whatever goes on. */
static void look_at_nodes(struct stress_thread *thread)
{
    const unsigned nodes = thread->run->node_count;
    uint64_t faults[TIDE_MAX_NODES * TIDE_MAX_NODES];
    uint64_t total = 0;
    expect(thread, tide_numa_faults_get(thread->run->engine, faults, (size_t)nodes * nodes), TIDE_SUCCESS,
           "tide_numa_faults_get", 0);
    for (uint32_t n = 0; n < nodes; n++) {
        tide_numa_node_memory memory = { .struct_bytes = sizeof(memory) };
        uint64_t bytes = 0;
        expect(thread, tide_numa_node_memory_get(thread->run->engine, n, &memory), TIDE_SUCCESS,
               "tide_numa_node_memory_get", 0);
        expect(thread, tide_numa_available_memory_get(thread->run->engine, n, &bytes), TIDE_SUCCESS,
               "tide_numa_available_memory_get", 0);
        if (memory.free_and_zero_bytes + memory.standby_bytes != memory.available_bytes)
            fail(thread, "node %u: free %llu and standby %llu are not what is available, %llu", n,
                 (unsigned long long)memory.free_and_zero_bytes, (unsigned long long)memory.standby_bytes,
                 (unsigned long long)memory.available_bytes);
        for (uint32_t to = 0; to < nodes; to++)
            if (to != n && memory.remote_faults < faults[n * nodes + to])
                fail(thread, "faults from node %u fell from %llu to %llu", n,
                     (unsigned long long)faults[n * nodes + to], (unsigned long long)memory.remote_faults);
        total += memory.total_bytes / PAGE;
    }
    if (total != thread->run->options.frames)
        fail(thread, "the nodes have %llu frames, the engine %llu", (unsigned long long)total,
             (unsigned long long)thread->run->options.frames);
}

void op_placement(struct stress_thread *thread)
{
    static void (*const operations[])(struct stress_thread *) = { migrate, migrate, space_place, strict_region,
                                                                  look_at_nodes };
    operations[draw(thread, sizeof(operations) / sizeof(operations[0]))](thread);
}

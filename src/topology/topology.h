/*
 * Topology: NUMA nodes (CPU-less ones too), CPUs, distances, binding. Found by hwloc on this machine, or from a
 * synthetic description or an XML file, so that tests run an engine of many nodes anywhere.
 *
 * Immutable after creation, so every call is thread-safe. Nodes have logical indexes 0 .. node_count - 1 in hwloc's
 * order, with node_os_index the operating system's number; a machine on which hwloc sees no node is one node.
 *
 * On this machine the CPU index is the operating system's, and cpu_node[] is a plain array look-up from the running
 * CPU. In a synthetic or XML topology there are no real CPUs to run on: the CPUs of this machine are dealt to the nodes
 * with CPUs round robin in index order (so with "numa:2" CPU 0 is on node 0, CPU 1 on node 1), and tests may fix
 * a thread's node with topology_thread_node_set(). Binding is a no-op there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TOPOLOGY_TOPOLOGY_H
#define TOPOLOGY_TOPOLOGY_H

#include <pagetide/engine.h>

#include "base/os.h"

struct topology_node {
    unsigned os_index;
    unsigned cpu_count;             /* CPUs local to the node, 0 if it has only memory */
    uint64_t memory_bytes;          /* local memory as hwloc reports it */
    unsigned order[TIDE_MAX_NODES]; /* all nodes by distance from this one, itself first; ties by index */
    uint64_t
        distance[TIDE_MAX_NODES]; /* as the firmware's SLIT: 10 for itself; hwloc's matrix or 10/20 if there is none */
};

struct topology {
    bool physical;               /* [I] this machine: binding is real */
    unsigned node_count;         /* [I] 1 .. TIDE_MAX_NODES */
    unsigned cpu_count;          /* [I] size of cpu_node: highest CPU index of this machine + 1 */
    uint16_t *cpu_node;          /* [I] node of each CPU; for a CPU of no memory node the nearest one */
    struct topology_node *nodes; /* [I] */
    void *hwloc;                 /* [I] hwloc_topology_t */
};

/*
 * Discovers. `synthetic` and `xml` as in tide_config; both NULL for this machine; both set is TIDE_INVALID_PARAMETER,
 * as is a description that hwloc refuses, an XML that cannot be read, or more than TIDE_MAX_NODES nodes. The error
 * names the value.
 */
TIDE_MUST_CHECK tide_status topology_create(const char *synthetic, const char *xml, struct topology **topology);
void topology_destroy(struct topology *topology); /* NULL is allowed */

/*
 * Memory that the host could give from a node now: free, or behind files, less what the kernel keeps for itself. All
 * that the node has if the topology is not physical or has one node.
 */
uint64_t topology_memory_available(const struct topology *topology, unsigned node);

/*
 * Binds memory that is not yet populated to a node (hwloc, strict), or to the nearest one with memory if it has none. A
 * no-op that succeeds if not physical or with one node. TIDE_INSUFFICIENT_RESOURCES with the last error set if the host
 * refuses.
 */
TIDE_MUST_CHECK tide_status topology_bind_memory(const struct topology *topology, void *memory, size_t bytes,
                                                 unsigned node);

/*
 * Binds the calling thread to the CPUs of a node, or of the nearest that has CPUs which the thread may use. A wish;
 * nothing if the topology is not physical.
 */
void topology_bind_thread(const struct topology *topology, unsigned node);

/*
 * Tests: from now on the calling thread counts as running on this node, TIDE_NO_PREFERRED_NODE to end that. Per
 * thread, all topologies.
 */
void topology_thread_node_set(unsigned node);
extern _Thread_local unsigned
    topology_thread_node; /* private to the inline below; TIDE_NO_PREFERRED_NODE if not fixed */

/* Node of the CPU that runs the caller. `cpu` from os_cpu_current(). */
static inline unsigned topology_cpu_node(const struct topology *topology, unsigned cpu)
{
    if (__builtin_expect(topology_thread_node != TIDE_NO_PREFERRED_NODE, 0) &&
        topology_thread_node < topology->node_count)
        return topology_thread_node;
    return cpu < topology->cpu_count ? topology->cpu_node[cpu] : 0;
}

#endif

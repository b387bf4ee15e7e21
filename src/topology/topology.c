/*
 * Topology by hwloc.
 *
 * What hwloc tells and what becomes of it. hwloc lists NUMA nodes with the set of CPUs that are local to each, and
 * these sets overlap: beside each package's DRAM there may be a high-bandwidth node with the same CPUs, and a memory
 * expander that is local to all. The operating system runs a thread on exactly one node, so here each CPU has one home:
 * of the nodes that it is local to the one with the smallest set, at a tie the first. A node that is nobody's home has
 * only memory (cpu_count 0). In cpu_node[], a CPU whose node the process may not use, or whose node has no memory, gets
 * the nearest node that has.
 *
 * Distances are the firmware's table where hwloc found it ("NUMALatency"), else any matrix of latencies between nodes,
 * else 10 and 20. Nodes that a matrix leaves out keep 10 and 20.
 *
 * Threads. topology_create() runs on one thread; after it nothing changes but the calling thread's own override.
 * hwloc's binding calls are thread-safe on a loaded topology.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "topology/topology.h"
#include "base/error.h"
#include "base/os.h"

#include <errno.h>
#include <hwloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DISTANCE_LOCAL = 10, DISTANCE_REMOTE = 20 }; /* what firmware writes when it knows no better */

_Thread_local unsigned topology_thread_node = TIDE_NO_PREFERRED_NODE; /* [T] */

void topology_thread_node_set(unsigned node)
{
    topology_thread_node = node;
}

/* hwloc's object of a node; NULL on a machine without any, which then counts as one node. */
static hwloc_obj_t node_object(hwloc_topology_t hwloc, unsigned node)
{
    return hwloc_get_obj_by_type(hwloc, HWLOC_OBJ_NUMANODE, node);
}

/* ---- discovery -------------------------------------------------------------------------------------------------- */

/* A description may end above the CPUs ("numa:4"), which hwloc refuses; then each object of the last level gets one. */
static int synthetic_set(hwloc_topology_t hwloc, const char *synthetic)
{
    char *completed = NULL;
    int result = hwloc_topology_set_synthetic(hwloc, synthetic);

    if (result != 0 && synthetic[0] != '\0' && asprintf(&completed, "%s pu:1", synthetic) > 0) {
        result = hwloc_topology_set_synthetic(hwloc, completed);
        free(completed);
    }
    return result;
}

/* Loads hwloc's own topology. On failure nothing is left. */
static tide_status hwloc_load(const char *synthetic, const char *xml, hwloc_topology_t *loaded)
{
    hwloc_topology_t hwloc;
    tide_status status = TIDE_SUCCESS;

    if (hwloc_topology_init(&hwloc) != 0)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "hwloc cannot start: %s", strerror(errno));
    /* Some discovery runs the calling thread on one CPU after the other; a library must not do that to its host. */
    (void)hwloc_topology_set_flags(hwloc, HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING);

    if (synthetic != NULL && synthetic_set(hwloc, synthetic) != 0) {
        status = error_set(TIDE_INVALID_PARAMETER, 0, 0,
                           "topology_synthetic \"%.120s\" is not a description that hwloc accepts", synthetic);
        goto out;
    }
    if (xml != NULL && access(xml, R_OK) != 0) {
        status = error_set(TIDE_INVALID_PARAMETER, errno, 0, "topology_xml \"%.120s\" cannot be read: %s", xml,
                           strerror(errno));
        goto out;
    }
    if ((xml != NULL && hwloc_topology_set_xml(hwloc, xml) != 0) || hwloc_topology_load(hwloc) != 0) {
        if (xml != NULL)
            status = error_set(TIDE_INVALID_PARAMETER, 0, 0,
                               "topology_xml \"%.120s\" is not a topology that hwloc accepts", xml);
        else if (synthetic != NULL)
            status = error_set(TIDE_INVALID_PARAMETER, 0, 0, "topology_synthetic \"%.120s\" cannot be loaded by hwloc",
                               synthetic);
        else
            status = error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "hwloc cannot discover this machine: %s",
                               strerror(errno));
        goto out;
    }
    *loaded = hwloc;
out:
    if (status != TIDE_SUCCESS)
        hwloc_topology_destroy(hwloc);
    return status;
}

/* The matrix of distances between nodes, or NULL; released by the caller. */
static struct hwloc_distances_s *distances_find(hwloc_topology_t hwloc)
{
    struct hwloc_distances_s *distances = NULL;
    unsigned count = 1;

    if (hwloc_distances_get_by_name(hwloc, "NUMALatency", &count, &distances, 0) == 0 && count > 0)
        return distances;
    count = 1;
    if (hwloc_distances_get_by_type(hwloc, HWLOC_OBJ_NUMANODE, &count, &distances, HWLOC_DISTANCES_KIND_MEANS_LATENCY,
                                    0) == 0 &&
        count > 0)
        return distances;
    return NULL;
}

static void distances_fill(struct topology *topology)
{
    struct hwloc_distances_s *matrix = distances_find(topology->hwloc);

    for (unsigned from = 0; from < topology->node_count; from++)
        for (unsigned to = 0; to < topology->node_count; to++)
            topology->nodes[from].distance[to] = from == to ? DISTANCE_LOCAL : DISTANCE_REMOTE;
    if (matrix == NULL)
        return;
    for (unsigned i = 0; i < matrix->nbobjs; i++) {
        for (unsigned j = 0; j < matrix->nbobjs; j++) {
            const hwloc_obj_t from = matrix->objs[i], to = matrix->objs[j];
            if (from != NULL && to != NULL && from->type == HWLOC_OBJ_NUMANODE && to->type == HWLOC_OBJ_NUMANODE)
                topology->nodes[from->logical_index].distance[to->logical_index] =
                    matrix->values[i * matrix->nbobjs + j];
        }
    }
    hwloc_distances_release(topology->hwloc, matrix);
}

/* Does node a come before node b in the order from node `from`? */
static bool order_before(const struct topology *topology, unsigned from, unsigned a, unsigned b)
{
    const uint64_t *distance = topology->nodes[from].distance;

    if ((a == from) != (b == from))
        return a == from;
    return distance[a] != distance[b] ? distance[a] < distance[b] : a < b;
}

static void order_fill(struct topology *topology)
{
    for (unsigned from = 0; from < topology->node_count; from++) {
        unsigned *order = topology->nodes[from].order;
        for (unsigned node = 0; node < topology->node_count; node++) {
            unsigned at = node;
            for (; at > 0 && order_before(topology, from, node, order[at - 1]); at--)
                order[at] = order[at - 1];
            order[at] = node;
        }
    }
}

/* The node that a CPU is at home on. */
static unsigned cpu_home(const struct topology *topology, hwloc_obj_t cpu)
{
    unsigned home = TIDE_NO_PREFERRED_NODE;
    int home_weight = 0;

    for (unsigned node = 0; node < topology->node_count; node++) {
        const hwloc_obj_t object = node_object(topology->hwloc, node);
        if (object == NULL || !hwloc_bitmap_isset(object->cpuset, cpu->os_index))
            continue;
        const int weight = hwloc_bitmap_weight(object->cpuset);
        if (home == TIDE_NO_PREFERRED_NODE || weight < home_weight) {
            home = node;
            home_weight = weight;
        }
    }
    return home;
}

/* For a CPU without a home: a node that shares the closest part of the machine with it, else the first. */
static unsigned cpu_neighbour(const struct topology *topology, hwloc_obj_t cpu)
{
    for (hwloc_obj_t part = cpu->parent; part != NULL; part = part->parent) {
        for (unsigned node = 0; node < topology->node_count; node++) {
            const hwloc_obj_t object = node_object(topology->hwloc, node);
            if (object != NULL && object->attr->numanode.local_memory > 0 &&
                hwloc_bitmap_intersects(object->cpuset, part->cpuset))
                return node;
        }
    }
    return 0;
}

/* The nearest node with memory; the node itself if it has some or if none has. */
static unsigned node_with_memory(const struct topology *topology, unsigned node)
{
    for (unsigned i = 0; i < topology->node_count; i++)
        if (topology->nodes[topology->nodes[node].order[i]].memory_bytes > 0)
            return topology->nodes[node].order[i];
    return node;
}

/* Highest index of a CPU of this machine, plus one. */
static unsigned machine_cpu_count(const struct topology *topology)
{
    const long configured = sysconf(_SC_NPROCESSORS_CONF);
    unsigned count = configured > 0 ? (unsigned)configured : 1;

    if (topology->physical) {
        const int last = hwloc_bitmap_last(hwloc_topology_get_complete_cpuset(topology->hwloc));
        if (last >= 0 && (unsigned)last >= count)
            count = (unsigned)last + 1;
    }
    return count;
}

/* Fills cpu_node[] and the nodes' cpu_count. cpu_node[] is zeroed. */
static void cpus_fill(struct topology *topology)
{
    unsigned with_cpus[TIDE_MAX_NODES], with_cpus_count = 0;

    for (hwloc_obj_t cpu = NULL; (cpu = hwloc_get_next_obj_by_type(topology->hwloc, HWLOC_OBJ_PU, cpu)) != NULL;) {
        unsigned node = topology->node_count == 1 ? 0 : cpu_home(topology, cpu);
        if (node != TIDE_NO_PREFERRED_NODE)
            topology->nodes[node].cpu_count++;
        else
            node = cpu_neighbour(topology, cpu);
        if (topology->physical && cpu->os_index < topology->cpu_count)
            topology->cpu_node[cpu->os_index] = (uint16_t)node_with_memory(topology, node);
    }
    if (topology->physical)
        return;
    /* The CPUs described are not those that run the program: deal these out to the nodes that have some. */
    for (unsigned node = 0; node < topology->node_count; node++)
        if (topology->nodes[node].cpu_count > 0)
            with_cpus[with_cpus_count++] = node;
    for (unsigned cpu = 0; cpu < topology->cpu_count && with_cpus_count > 0; cpu++)
        topology->cpu_node[cpu] = (uint16_t)node_with_memory(topology, with_cpus[cpu % with_cpus_count]);
}

tide_status topology_create(const char *synthetic, const char *xml, struct topology **created)
{
    struct topology *topology = NULL;
    hwloc_topology_t hwloc = NULL;
    tide_status status;

    if (synthetic != NULL && xml != NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "topology_synthetic \"%.60s\" and topology_xml \"%.60s\" are both set; at most one may be",
                         synthetic, xml);
    status = hwloc_load(synthetic, xml, &hwloc);
    if (status != TIDE_SUCCESS)
        return status;
    const int found = hwloc_get_nbobjs_by_type(hwloc, HWLOC_OBJ_NUMANODE);
    if (found > (int)TIDE_MAX_NODES) {
        status =
            error_set(TIDE_INVALID_PARAMETER, 0, 0, "topology has %d nodes; the limit is %u", found, TIDE_MAX_NODES);
        goto fail;
    }

    topology = calloc(1, sizeof *topology);
    if (topology == NULL)
        goto no_memory;
    topology->hwloc = hwloc;
    topology->physical = synthetic == NULL && xml == NULL && hwloc_topology_is_thissystem(hwloc) != 0;
    topology->node_count = found > 0 ? (unsigned)found : 1;
    topology->cpu_count = machine_cpu_count(topology);
    topology->nodes = calloc(topology->node_count, sizeof *topology->nodes);
    topology->cpu_node = calloc(topology->cpu_count, sizeof *topology->cpu_node);
    if (topology->nodes == NULL || topology->cpu_node == NULL)
        goto no_memory;

    for (unsigned node = 0; node < topology->node_count; node++) {
        const hwloc_obj_t object = node_object(hwloc, node);
        topology->nodes[node].os_index = object != NULL ? object->os_index : 0;
        topology->nodes[node].memory_bytes =
            object != NULL ? object->attr->numanode.local_memory : hwloc_get_root_obj(hwloc)->total_memory;
    }
    /*
     * A guest whose memory was plugged in later has a node that knows only of the first part: with one node, all is
     * local.
     */
    const uint64_t machine_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (topology->physical && topology->node_count == 1 && topology->nodes[0].memory_bytes < machine_bytes)
        topology->nodes[0].memory_bytes = machine_bytes;
    distances_fill(topology);
    order_fill(topology);
    cpus_fill(topology);
    *created = topology;
    return TIDE_SUCCESS;

no_memory:
    status = error_set(TIDE_INSUFFICIENT_RESOURCES, ENOMEM, 0, "no memory for a topology of %d nodes", found);
fail:
    if (topology != NULL)
        topology_destroy(topology);
    else
        hwloc_topology_destroy(hwloc);
    return status;
}

void topology_destroy(struct topology *topology)
{
    if (topology == NULL)
        return;
    hwloc_topology_destroy(topology->hwloc);
    free(topology->nodes);
    free(topology->cpu_node);
    free(topology);
}

/* ---- binding ---------------------------------------------------------------------------------------------------- */

/* What MemAvailable is for the machine, for one node; the kernel does not add it up by node. */
uint64_t topology_memory_available(const struct topology *topology, unsigned node)
{
    const uint64_t all = topology->nodes[node].memory_bytes;
    uint64_t machine = 0;
    char path[96];

    if (!topology->physical || topology->node_count == 1)
        return all == 0 ? UINT64_MAX : all;
    snprintf(path, sizeof path, "/sys/devices/system/node/node%u/meminfo", topology->nodes[node].os_index);
    if (all == 0 || access(path, R_OK) != 0)
        return all;
    for (unsigned i = 0; i < topology->node_count; i++)
        machine += topology->nodes[i].memory_bytes;
    /* Half of what is behind files is in use; the watermarks reach up to twice the least that is kept free. */
    const uint64_t files = os_kib_read(path, "Active(file):", 0) + os_kib_read(path, "Inactive(file):", 0);
    const uint64_t given = os_kib_read(path, "MemFree:", 0) + (files + os_kib_read(path, "SReclaimable:", 0)) / 2;
    const double share = (double)all / (double)machine;
    const uint64_t kept = (uint64_t)(2 * share * (double)os_kib_read("/proc/sys/vm/min_free_kbytes", "", 0));
    return given < kept ? 0 : given - kept < all ? given - kept : all;
}

tide_status topology_bind_memory(const struct topology *topology, void *memory, size_t bytes, unsigned node)
{
    if (node >= topology->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u does not exist; there are %u", node,
                         topology->node_count);
    if (!topology->physical || topology->node_count == 1)
        return TIDE_SUCCESS;
    const unsigned from = node_with_memory(topology, node);
    if (hwloc_set_area_membind(topology->hwloc, memory, bytes, node_object(topology->hwloc, from)->nodeset,
                               HWLOC_MEMBIND_BIND, HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_STRICT) == 0)
        return TIDE_SUCCESS;
    return error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "cannot bind %zu bytes to node %u (the system's %u): %s",
                     bytes, from, topology->nodes[from].os_index, strerror(errno));
}

void topology_bind_thread(const struct topology *topology, unsigned node)
{
    hwloc_bitmap_t allowed, cpus;

    if (!topology->physical || topology->node_count == 1 || node >= topology->node_count)
        return;
    allowed = hwloc_bitmap_alloc();
    cpus = hwloc_bitmap_alloc();
    /* Only narrower than it is: whoever started the program may have bound it on purpose. */
    if (allowed != NULL && cpus != NULL && hwloc_get_cpubind(topology->hwloc, allowed, HWLOC_CPUBIND_THREAD) == 0) {
        for (unsigned i = 0; i < topology->node_count; i++) {
            const unsigned at = topology->nodes[node].order[i];

            if (topology->nodes[at].cpu_count != 0 &&
                hwloc_bitmap_and(cpus, allowed, node_object(topology->hwloc, at)->cpuset) == 0 &&
                !hwloc_bitmap_iszero(cpus)) {
                (void)hwloc_set_cpubind(topology->hwloc, cpus, HWLOC_CPUBIND_THREAD);
                break;
            }
        }
    }
    hwloc_bitmap_free(allowed);
    hwloc_bitmap_free(cpus);
}

/**
 * @file
 * NUMA: where the frames of a page come from, and what each node has (nt-behaviour 11, 27). How it is decided, for a
 * newcomer: docs/numa.md.
 *
 * Each page that needs a frame asks a placement: that of its region, else that of its space, else first touch. It is
 * asked at each fault that needs a frame, also when a page is read back or fetched ahead, so a page may come back on
 * another node than it left; a soft fault keeps the frame. Page tables come from the node of the thread that makes
 * them, whatever the placement. Nothing moves a page from node to node while it has its frame.
 *
 * Nodes are logical indexes from 0 to tide_numa_highest_node_get(); tide_node_info_get() describes each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_NUMA_H
#define PAGETIDE_NUMA_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Which node a page prefers. */
typedef enum tide_placement_policy {
    /** Of a region: TIDE_PLACEMENT_PREFERRED if it names a node, else its space's. Of a space: first touch. */
    TIDE_PLACEMENT_DEFAULT = 0,
    /** The node of the thread that touches the page. */
    TIDE_PLACEMENT_FIRST_TOUCH = 1,
    /**
     * The node that is named. A preference, as first touch and interleave are: other nodes help out, by the fallback.
     */
    TIDE_PLACEMENT_PREFERRED = 2,
    /**
     * The node that is named, and no other. When it has no frame, the access waits for the node's own trimmer and
     * writer as any access waits for those of all nodes, and fails with TIDE_NO_MEMORY when they bring nothing and
     * nothing is on its way (pages being written or read, modified pages that a page file has room for, frames in their
     * grace period), at the latest after frame_wait_ms. Committing promises room somewhere in the engine, not on this
     * node.
     */
    TIDE_PLACEMENT_STRICT = 3,
    /**
     * All nodes in turn, each as often as its share of the engine's frames: the node follows from the number of the
     * page (address / TIDE_PAGE_BYTES) alone, so it is the same each time, for every thread and every space. Large
     * pages take turns by their place in the region.
     */
    TIDE_PLACEMENT_INTERLEAVE = 4
} tide_placement_policy;

/** What a page takes when its node has neither zeroed nor free frames. Not asked by TIDE_PLACEMENT_STRICT. */
typedef enum tide_placement_fallback {
    /** Of a region: its space's. Of a space: the engine's, which is tide_config.prefer_local_standby. */
    TIDE_FALLBACK_DEFAULT = 0,
    /** Zeroed and free frames of the other nodes, by distance; then standby pages, of the node itself first. Keeps what
     * is cached. */
    TIDE_FALLBACK_BY_DISTANCE = 1,
    /** The node's own standby pages before the next node. Keeps accesses local. */
    TIDE_FALLBACK_LOCAL_STANDBY = 2,
    /** The node's own standby pages, and then what its trimmer and writer can bring, which work for the fault as they do
     * for TIDE_PLACEMENT_STRICT; only when they bring nothing, or not within some 20 ms, the next node:
     * zone_reclaim_mode of Linux. For threads whose data are on their nodes, under pressure on all of these. Faults
     * take longer then. */
    TIDE_FALLBACK_LOCAL_RECLAIM = 3
} tide_placement_fallback;

/** A placement. Of a region, given at its creation: tide_alloc_parameters.policy, .node and .fallback. */
typedef struct tide_placement {
    size_t struct_bytes; /**< set by the caller to sizeof(tide_placement) */
    tide_placement_policy policy;
    tide_placement_fallback fallback;
    uint32_t
        node; /**< PREFERRED and STRICT: a node below the engine's node count, for STRICT one that has frames. Others:
                      TIDE_NO_PREFERRED_NODE */
} tide_placement;

/**
 * The placement of the pages of a space whose regions have none of their own, from now on: set_mempolicy() of Linux; in
 * Windows the ideal node of a process. Frames that pages have stay. At first it is first touch, with the engine's
 * fallback.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, struct_bytes, a policy, fallback or node that does not exist or
 * does
 *   not go with the policy, a strict node without frames); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_set_placement(tide_space *space, const tide_placement *placement);

/**
 * What was set; policy and fallback DEFAULT where nothing was.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, struct_bytes); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_get_placement(tide_space *space, tide_placement *placement);

/**
 * The placement that counts for a page, region, space and engine taken together: what get_mempolicy() says of an
 * address.
 * @param[out] placement policy and fallback are never DEFAULT; node is the node that the page asks first, with first
 *   touch TIDE_NO_PREFERRED_NODE. Pages in no region: the space's.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, struct_bytes, past TIDE_HIGHEST_ADDRESS); TIDE_INVALID_HANDLE.
 *   Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_placement_query(tide_space *space, tide_address address,
                                                             tide_placement *placement);

/**
 * From now on the calling thread counts as running on this node, in this engine, wherever it runs:
 * SetThreadIdealProcessorEx, as far as memory goes. For threads that the program binds itself, or that move about and
 * have their data in one place; and for tests, on topologies that this machine has not. Faults are resolved past the
 * caches of CPUs of other nodes, so let it be the node that the thread does run on mostly.
 * @param node below the engine's node count, or TIDE_NO_PREFERRED_NODE: that of the CPU that the thread runs on.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_INSUFFICIENT_RESOURCES (first call of the thread in the engine);
 *   TIDE_INVALID_HANDLE.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_set_ideal_node(tide_engine *engine, uint32_t node);

/**
 * The node that the calling thread counts as running on now: GetThreadIdealProcessorEx, or else
 * GetCurrentProcessorNumberEx and GetNumaProcessorNodeEx. For a CPU whose node has no memory, the nearest that has.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL); TIDE_INSUFFICIENT_RESOURCES; TIDE_INVALID_HANDLE.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_thread_get_node(tide_engine *engine, uint32_t *node);

/**
 * The highest node number: GetNumaHighestNodeNumber. Not a count of nodes that are good for something: a node below it
 * may have no CPUs or no frames.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_numa_highest_node_get(tide_engine *engine, uint32_t *node);

/**
 * What a node could give without taking anybody's cached page: GetNumaAvailableMemoryNodeEx. In an engine of several
 * nodes, zeroed and free frames; in an engine of one, standby pages too, as in tide_statistics.available_pages.
 * @param[out] bytes CPU caches included.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, no such node); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_numa_available_memory_get(tide_engine *engine, uint32_t node,
                                                                       uint64_t *bytes);

/** The performance counters of the object NUMA Node Memory, in bytes, and the node's part in the faults. */
typedef struct tide_numa_node_memory {
    size_t struct_bytes;          /**< set by the caller to sizeof(tide_numa_node_memory) */
    uint64_t total_bytes;         /**< Total MBytes: the engine's frames of the node */
    uint64_t free_and_zero_bytes; /**< Free & Zero Page List MBytes, CPU caches included */
    uint64_t standby_bytes;       /**< Standby List MBytes */
    uint64_t available_bytes;     /**< Available MBytes: the two together, also on several nodes */
    uint64_t local_faults;        /**< faults of the node's threads that got a frame of the node */
    uint64_t remote_faults;       /**< faults of the node's threads that got one of another node */
    uint64_t foreign_faults;      /**< faults of other nodes' threads that got a frame of this node */
} tide_numa_node_memory;

/**
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, struct_bytes, no such node); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_numa_node_memory_get(tide_engine *engine, uint32_t node,
                                                                  tide_numa_node_memory *memory);

/**
 * Resolved faults by pair of nodes since open: of threads that ran on node `from` and got, or found, the page in a
 * frame of node `to`, at faults[from * node_count + to]. All together are demand zero + transition + hard of
 * tide_fault_counters. Off the diagonal are the faults that crossed nodes, whether the placement wished it or not;
 * tide_fault_counters.local, on the other hand, counts those that went as the placement wished.
 *
 * Counted by CPU, and only when nodes are crossed: what is on the diagonal is the rest, exact when the engine is quiet.
 * @param[out] faults room for `count` figures; node_count^2 (tide_statistics) are filled in.
 * @return TIDE_SUCCESS; TIDE_BUFFER_TOO_SMALL (count below node_count^2; nothing is filled in); TIDE_INVALID_PARAMETER
 *   (NULL); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_numa_faults_get(tide_engine *engine, uint64_t *faults, size_t count);

#ifdef __cplusplus
}
#endif
#endif

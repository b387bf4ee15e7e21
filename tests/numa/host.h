/*
 * What the kernel says: its nodes, their CPUs and distances (sysfs), where a page lies (move_pages, get_mempolicy),
 * where a thread runs (/proc). None of it comes from hwloc or from the engine, which is judged by it.
 *
 * Nodes are the kernel's numbers here, unless a comment says otherwise.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_NUMA_HOST_H
#define TESTS_NUMA_HOST_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HOST_NODES_MAX = 64 };

struct host_node {
    bool present;
    unsigned cpu_count;
    cpu_set_t cpus;
    uint64_t memory_bytes; /* 0: CPUs only */
    unsigned distance[HOST_NODES_MAX];
};

struct host {
    unsigned end; /* one past the highest number */
    unsigned node_count;
    unsigned cpu_count; /* online */
    struct host_node nodes[HOST_NODES_MAX];
};

/* Reads sysfs. False with a message on stderr. */
bool host_read(struct host *host);
/* Node of a CPU, -1 if it is on none. */
int host_node_of_cpu(const struct host *host, unsigned cpu);
/* Nearest node (by the kernel's distances, the first at a tie) that has memory, or CPUs. */
unsigned host_nearest_with_memory(const struct host *host, unsigned node);
unsigned host_nearest_with_cpus(const struct host *host, unsigned node);
uint64_t host_free_bytes(unsigned node);

/* Where pages lie. */
enum { PLACE_NONE = -1 }; /* not in memory: never touched */
/* Node of the page that an address lies on, PLACE_NONE, or another negative number: minus errno. */
int host_page_node(const void *address);
/* The same for `count` pages from `first` on, each `stride_bytes` after the one before. */
bool host_page_nodes(const void *first, size_t stride_bytes, size_t count, int *nodes);
/* True if the memory policy of an address binds it to this node alone. */
bool host_is_bound(const void *address, unsigned node);
/*
 * Counts the pages of a range that lie on the node, those that were never touched and are bound to it, and the others.
 */
struct host_tally {
    size_t there, untouched, elsewhere;
    const void *first_elsewhere;
    int first_node;
};
bool host_range_tally(const void *memory, size_t bytes, unsigned node, struct host_tally *tally);

/* The thread of this process with a name: its id, or 0. */
int host_thread_find(const char *name);
/* CPUs that a thread may use; CPU that it ran on last. */
bool host_thread_cpus(int tid, cpu_set_t *cpus);
int host_thread_last_cpu(int tid);
/* Binds the calling thread to one CPU, to the CPUs of a node. */
bool host_run_on_cpu(unsigned cpu);
bool host_run_on_node(const struct host *host, unsigned node);

#endif

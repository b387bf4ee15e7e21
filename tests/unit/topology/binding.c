/*
 * Binding memory and threads to nodes, and a thread's fixed node.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MEMORY_BYTES = 16 * 4096 };

/* The system's node of a page, or a negative number where the system does not tell. */
static int page_node(void *page)
{
    int node = -1;

    return syscall(SYS_move_pages, 0, 1ul, &page, NULL, &node, 0) == 0 ? node : -1;
}

/* On each node of this machine memory can be bound, is usable, and is there. */
static void memory_of_this_machine(void **state)
{
    struct topology *topology = topology_good(NULL, NULL);

    (void)state;
    for (unsigned node = 0; node < topology->node_count; node++) {
        if (topology->nodes[node].memory_bytes == 0)
            continue;
        char *memory = os_memory_reserve(MEMORY_BYTES, 4096);
        assert_non_null(memory);
        assert_int_equal(topology_bind_memory(topology, memory, MEMORY_BYTES, node), TIDE_SUCCESS);
        memset(memory, 1, MEMORY_BYTES);
        for (unsigned i = 0; i < MEMORY_BYTES; i += 4096)
            if (page_node(memory + i) >= 0)
                assert_int_equal(page_node(memory + i), topology->nodes[node].os_index);
        os_memory_free(memory, MEMORY_BYTES);
    }
    topology_destroy(topology);
}

static void memory_of_synthetic_nodes(void **state)
{
    struct topology *topology = topology_good("numa:2", NULL);
    char *memory = os_memory_reserve(MEMORY_BYTES, 4096);

    (void)state;
    assert_non_null(memory);
    assert_int_equal(topology_bind_memory(topology, memory, MEMORY_BYTES, 1), TIDE_SUCCESS);
    memset(memory, 1, MEMORY_BYTES);
    assert_int_equal(topology_bind_memory(topology, memory, MEMORY_BYTES, 2), TIDE_INVALID_PARAMETER);
    assert_non_null(strstr(tide_last_error()->message, "node 2"));
    os_memory_free(memory, MEMORY_BYTES);
    topology_destroy(topology);
}

/* A node that the system does not have (the 40th) is an error that names it, not a silent success. */
static void memory_refused(void **state)
{
    struct topology *topology = topology_as_machine(EXPANDER_XML);
    char *memory = os_memory_reserve(MEMORY_BYTES, 4096);

    (void)state;
    assert_non_null(memory);
    assert_int_equal(topology_bind_memory(topology, memory, MEMORY_BYTES, 3), TIDE_INSUFFICIENT_RESOURCES);
    assert_non_null(strstr(tide_last_error()->message, "65536 bytes to node 3 (the system's 40)"));
    assert_int_not_equal(tide_last_error()->io_error, 0);
    os_memory_free(memory, MEMORY_BYTES);
    topology_destroy(topology);
}

/* The CPUs of the first of the expander's nodes, in this order, that the set has any of. */
static cpu_set_t narrowed(const cpu_set_t *set, const unsigned *order, unsigned count)
{
    static const unsigned first[] = { 0, 1, 4 }, last[] = { 0, 3, 4 };
    cpu_set_t result = *set;

    for (unsigned i = 0; i < count; i++) {
        CPU_ZERO(&result);
        for (unsigned cpu = first[order[i]]; cpu <= last[order[i]]; cpu++)
            if (CPU_ISSET(cpu, set))
                CPU_SET(cpu, &result);
        if (CPU_COUNT(&result) != 0)
            return result;
    }
    return *set;
}

static void thread(void **state)
{
    struct topology *topology = topology_as_machine(EXPANDER_XML);
    struct topology *synthetic = topology_good("numa:2", NULL);
    cpu_set_t before, after, expected, node_0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);

    /* Where nothing is to be bound: no such node, not this machine. */
    topology_bind_thread(topology, 4);
    topology_bind_thread(synthetic, 0);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&before, &after));

    /* Node 3 has no CPUs: those of the nearest that has any which are there. */
    topology_bind_thread(topology, 3);
    expected = narrowed(&before, (const unsigned[]){ 1, 2, 0 }, 3);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(&expected, &after));
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);

    /* Narrower, as far as it goes. */
    CPU_ZERO(&node_0);
    CPU_SET(0, &node_0);
    CPU_AND(&expected, &before, &node_0);
    topology_bind_thread(topology, 0);
    assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
    assert_true(CPU_EQUAL(CPU_COUNT(&expected) > 0 ? &expected : &before, &after));

    /* Never wider than whoever bound the thread wished. */
    if (CPU_COUNT(&expected) > 0) {
        topology_bind_thread(topology, 1);
        assert_int_equal(sched_getaffinity(0, sizeof after, &after), 0);
        assert_true(CPU_EQUAL(&expected, &after));
    }
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    topology_destroy(synthetic);
    topology_destroy(topology);
}

static void *other_thread(void *argument)
{
    const struct topology *topology = argument;

    return topology_cpu_node(topology, 1) == 1 && topology_cpu_node(topology, 2) == 2 ? argument : NULL;
}

static void fixed_node(void **state)
{
    struct topology *topology = topology_good("numa:4", NULL);
    struct topology *small = topology_good("numa:2", NULL);
    pthread_t other;
    void *result;

    (void)state;
    topology->cpu_count = 1; /* so that the test is the same on every machine: */
    assert_int_equal(topology_cpu_node(topology, 0), 0);
    topology_thread_node_set(3);
    assert_int_equal(topology_cpu_node(topology, 0), 3);
    assert_int_equal(topology_cpu_node(small, 0), 0); /* there is no node 3 */
    topology_thread_node_set(TIDE_NO_PREFERRED_NODE);
    assert_int_equal(topology_cpu_node(topology, 0), 0);

    /* It is the thread's own. */
    static uint16_t nodes[] = { 0, 1, 2, 3 };
    struct topology fixed = { .node_count = 4, .cpu_count = 4, .cpu_node = nodes };
    topology_thread_node_set(0);
    assert_int_equal(pthread_create(&other, NULL, other_thread, &fixed), 0);
    assert_int_equal(pthread_join(other, &result), 0);
    assert_non_null(result);
    assert_int_equal(topology_cpu_node(&fixed, 2), 0);
    topology_thread_node_set(TIDE_NO_PREFERRED_NODE);
    topology_destroy(small);
    topology_destroy(topology);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_of_this_machine),
        cmocka_unit_test(memory_of_synthetic_nodes),
        cmocka_unit_test(memory_refused),
        cmocka_unit_test(thread),
        cmocka_unit_test(fixed_node),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * What is discovered: this machine, synthetic topologies, files; and what is refused.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What holds in every topology. */
static void shape_check(const struct topology *topology)
{
    assert_in_range(topology->node_count, 1, TIDE_MAX_NODES);
    assert_true(topology->cpu_count >= 1);
    for (unsigned cpu = 0; cpu < topology->cpu_count; cpu++)
        assert_true(topology->cpu_node[cpu] < topology->node_count);
    for (unsigned from = 0; from < topology->node_count; from++) {
        const struct topology_node *node = &topology->nodes[from];
        uint64_t seen = 0;

        assert_int_equal(node->order[0], from);
        for (unsigned i = 0; i < topology->node_count; i++) {
            const unsigned to = node->order[i];
            assert_true(to < topology->node_count);
            seen |= 1ull << to;
            if (i < 2)
                continue;
            const unsigned before = node->order[i - 1];
            assert_true(node->distance[before] < node->distance[to] ||
                        (node->distance[before] == node->distance[to] && before < to));
        }
        assert_int_equal(__builtin_popcountll(seen), topology->node_count);
    }
}

static void order_check(const struct topology *topology, unsigned from, const unsigned *expected)
{
    for (unsigned i = 0; i < topology->node_count; i++)
        assert_int_equal(topology->nodes[from].order[i], expected[i]);
}

static void this_machine(void **state)
{
    struct topology *topology = topology_good(NULL, NULL);
    unsigned cpus = 0;
    uint64_t memory = 0;

    (void)state;
    shape_check(topology);
    assert_true(topology->physical);
    for (unsigned node = 0; node < topology->node_count; node++) {
        cpus += topology->nodes[node].cpu_count;
        memory += topology->nodes[node].memory_bytes;
        assert_int_equal(topology->nodes[node].distance[node], 10);
    }
    assert_in_range(cpus, 1, topology->cpu_count);
    assert_true(memory >= 64u << 20);
    assert_true(os_cpu_current() < topology->cpu_count);
    assert_int_equal(topology_cpu_node(topology, os_cpu_current()), topology->cpu_node[os_cpu_current()]);
    topology_destroy(topology);
    topology_destroy(NULL);
}

static void synthetic_nodes(void **state)
{
    static const char *const descriptions[] = { "numa:4", "numa:4 pu:1", "numa:4 core:2 pu:2" };
    static const unsigned cpus[] = { 1, 1, 4 };

    (void)state;
    for (unsigned d = 0; d < 3; d++) {
        struct topology *topology = topology_good(descriptions[d], NULL);

        shape_check(topology);
        assert_false(topology->physical);
        assert_int_equal(topology->node_count, 4);
        for (unsigned node = 0; node < 4; node++) {
            assert_int_equal(topology->nodes[node].os_index, node);
            assert_int_equal(topology->nodes[node].cpu_count, cpus[d]);
            assert_true(topology->nodes[node].memory_bytes > 0);
            for (unsigned to = 0; to < 4; to++)
                assert_int_equal(topology->nodes[node].distance[to], node == to ? 10 : 20);
        }
        order_check(topology, 0, (const unsigned[]){ 0, 1, 2, 3 });
        order_check(topology, 2, (const unsigned[]){ 2, 0, 1, 3 });
        /* This machine's CPUs are dealt round robin. */
        for (unsigned cpu = 0; cpu < topology->cpu_count; cpu++)
            assert_int_equal(topology_cpu_node(topology, cpu), cpu % 4);
        assert_int_equal(topology_cpu_node(topology, topology->cpu_count), 0);
        topology_destroy(topology);
    }
}

/* Nodes whose CPUs are another node's too: high-bandwidth memory in each package, and one node local to all. */
static void synthetic_shared_cpus(void **state)
{
    struct topology *topology =
        topology_good("[numa(memory=4GB)] pack:2 [numa(memory=1GB)] [numa(memory=2GB)] pu:3", NULL);
    unsigned with_cpus = 0;

    (void)state;
    shape_check(topology);
    assert_int_equal(topology->node_count, 5);
    for (unsigned node = 0; node < 5; node++) {
        const bool first_of_package = topology->nodes[node].memory_bytes == 1000000000;
        assert_int_equal(topology->nodes[node].cpu_count, first_of_package ? 3 : 0);
        with_cpus += first_of_package;
    }
    assert_int_equal(with_cpus, 2);
    for (unsigned cpu = 0; cpu < topology->cpu_count; cpu++)
        assert_int_equal(topology->nodes[topology_cpu_node(topology, cpu)].cpu_count, 3);
    topology_destroy(topology);
}

static void one_node_without_description(void **state)
{
    struct topology *topology = topology_good("pu:4", NULL);

    (void)state;
    shape_check(topology);
    assert_int_equal(topology->node_count, 1);
    assert_int_equal(topology->nodes[0].cpu_count, 4);
    topology_destroy(topology);
}

/* A node without CPUs, and distances that differ by direction. */
static void file_with_memory_only_node(void **state)
{
    static const uint64_t distances[4][4] = {
        { 10, 21, 21, 17 }, { 21, 10, 16, 14 }, { 21, 16, 10, 16 }, { 18, 15, 16, 10 }
    };
    static const unsigned orders[4][4] = { { 0, 3, 1, 2 }, { 1, 3, 2, 0 }, { 2, 1, 3, 0 }, { 3, 1, 2, 0 } };
    static const unsigned os_indexes[] = { 0, 1, 2, 40 }, cpu_counts[] = { 1, 3, 1, 0 };
    struct topology *topology = topology_good(NULL, EXPANDER_XML);

    (void)state;
    shape_check(topology);
    assert_false(topology->physical);
    assert_int_equal(topology->node_count, 4);
    for (unsigned from = 0; from < 4; from++) {
        for (unsigned to = 0; to < 4; to++)
            assert_int_equal(topology->nodes[from].distance[to], distances[from][to]);
        order_check(topology, from, orders[from]);
        assert_int_equal(topology->nodes[from].os_index, os_indexes[from]);
        assert_int_equal(topology->nodes[from].cpu_count, cpu_counts[from]);
    }
    assert_int_equal(topology->nodes[3].memory_bytes, 8ull << 30);
    for (unsigned cpu = 0; cpu < topology->cpu_count; cpu++)
        assert_int_equal(topology_cpu_node(topology, cpu), cpu % 3);
    topology_destroy(topology);
}

static void cpu_nodes_check(const struct topology *topology, const unsigned *expected)
{
    assert_true(topology->cpu_count >= 5);
    for (unsigned cpu = 0; cpu < 5; cpu++)
        assert_int_equal(topology_cpu_node(topology, cpu), expected[cpu]);
    assert_int_equal(topology_cpu_node(topology, topology->cpu_count), 0);
}

/* The same file as if it were this machine: CPU numbers count. */
static void machine_with_memory_only_node(void **state)
{
    struct topology *topology = topology_as_machine(EXPANDER_XML);

    (void)state;
    shape_check(topology);
    assert_true(topology->physical);
    cpu_nodes_check(topology, (const unsigned[]){ 0, 1, 1, 1, 2 });
    topology_destroy(topology);
}

/* CPUs of a node without memory go to the nearest that has some: from node 1 that is the expander. */
static void machine_with_node_without_memory(void **state)
{
    char *path = expander_variant("local_memory=\"1073741824\"", "local_memory=\"0\"");
    struct topology *topology = topology_as_machine(path);

    (void)state;
    shape_check(topology);
    assert_int_equal(topology->node_count, 4);
    assert_int_equal(topology->nodes[1].memory_bytes, 0);
    assert_int_equal(topology->nodes[1].cpu_count, 3);
    cpu_nodes_check(topology, (const unsigned[]){ 0, 3, 3, 3, 2 });
    topology_destroy(topology);
    unlink(path);
    free(path);
}

/* CPUs whose node the process may not use: hwloc leaves the CPUs and drops the node. The node beside takes them. */
static void machine_with_homeless_cpus(void **state)
{
    char *path =
        expander_variant("allowed_nodeset=\"0x00000100,0x00000007\"", "allowed_nodeset=\"0x00000000,0x00000005\"");
    struct topology *topology = topology_as_machine(path);

    (void)state;
    shape_check(topology);
    assert_int_equal(topology->node_count, 2);
    assert_int_equal(topology->nodes[0].cpu_count, 1);
    assert_int_equal(topology->nodes[1].cpu_count, 1);
    assert_int_equal(topology->nodes[1].os_index, 2);
    cpu_nodes_check(topology, (const unsigned[]){ 0, 1, 1, 1, 1 });
    topology_destroy(topology);
    unlink(path);
    free(path);
}

/* A matrix that names only some nodes, and not as the firmware's, leaves the others at 10 and 20. */
static void distances_of_some_nodes(void **state)
{
    char *path =
        expander_variant("nbobjs=\"4\" kind=\"5\" name=\"NUMALatency\" indexing=\"os\">\n"
                         "    <indexes length=\"9\">0 1 2 40 </indexes>\n"
                         "    <u64values length=\"48\">10 21 21 17 21 10 16 14 21 16 10 16 18 15 16 10 </u64values>",
                         "nbobjs=\"2\" kind=\"6\" name=\"measured\" indexing=\"os\">\n"
                         "    <indexes length=\"5\">0 40 </indexes>\n"
                         "    <u64values length=\"12\">10 31 32 10 </u64values>");
    struct topology *topology = topology_good(NULL, path);

    (void)state;
    shape_check(topology);
    assert_int_equal(topology->nodes[0].distance[1], 20);
    assert_int_equal(topology->nodes[0].distance[3], 31);
    assert_int_equal(topology->nodes[3].distance[0], 32);
    assert_int_equal(topology->nodes[3].distance[1], 20);
    order_check(topology, 3, (const unsigned[]){ 3, 1, 2, 0 });
    topology_destroy(topology);
    unlink(path);
    free(path);
}

static void refused(const char *synthetic, const char *xml, const char *named)
{
    struct topology *topology = (void *)0x1;

    assert_int_equal(topology_create(synthetic, xml, &topology), TIDE_INVALID_PARAMETER);
    assert_ptr_equal(topology, (void *)0x1);
    assert_int_equal(tide_last_error()->status, TIDE_INVALID_PARAMETER);
    if (strstr(tide_last_error()->message, named) == NULL)
        fail_msg("\"%s\" does not name \"%s\"", tide_last_error()->message, named);
}

static void bad_input(void **state)
{
    (void)state;
    refused("neither fish nor fowl", NULL, "neither fish nor fowl");
    refused("numa:0 pu:1", NULL, "numa:0");
    refused("", NULL, "\"\"");
    refused("numa:65 pu:1", NULL, "65 nodes; the limit is 64");
    refused("numa:2", EXPANDER_XML, "both");
    refused(NULL, "/nonexistent/machine.xml", "/nonexistent/machine.xml");
    assert_int_equal(tide_last_error()->io_error, 2);
    refused(NULL, TEST_SOURCE_DIR, TEST_SOURCE_DIR);
    refused(NULL, TEST_SOURCE_DIR "/discovery.c", "discovery.c");

    struct topology *topology = topology_good("numa:64 pu:1", NULL);
    shape_check(topology);
    topology_destroy(topology);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(this_machine),
        cmocka_unit_test(synthetic_nodes),
        cmocka_unit_test(synthetic_shared_cpus),
        cmocka_unit_test(one_node_without_description),
        cmocka_unit_test(file_with_memory_only_node),
        cmocka_unit_test(machine_with_memory_only_node),
        cmocka_unit_test(machine_with_node_without_memory),
        cmocka_unit_test(machine_with_homeless_cpus),
        cmocka_unit_test(distances_of_some_nodes),
        cmocka_unit_test(bad_input),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * Demand-zero faults on several nodes: where the frames come from, and what it costs.
 *
 *   numa_spread   threads go round the nodes that have CPUs, and each has frames at hand on its own
 *   numa_packed   all threads on the first of these nodes, with frames at hand there
 *   numa_spill    the same threads, but they touch more than their node has: the others help out, by distance
 *
 * Each thread has a space of its own. It runs on the CPUs of its node; on a synthetic machine (--nodes), which has the
 * nodes in name only, it counts as running there (tide_thread_set_ideal_node()), and what is shown is where the engine
 * takes frames from, not what distance costs. Beside the rate each case gives the faults by pair of nodes: pair_F_T is
 * the share, of all faults, of those that threads on node F took and that were resolved with a frame of node T.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "soft_spaces.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>
#include <sched.h>
#include <sstream>

namespace bench {

namespace {

std::unique_ptr<Engine> g_engine;

/* Half of what the other steps' engine has: 5/3 of fault_bytes. */
Engine &numa_engine()
{
    if (!g_engine)
        g_engine = std::make_unique<Engine>(options().fault_bytes * 5 / 3 / kMiB * kMiB, 0);
    return *g_engine;
}

struct Node {
    unsigned index;
    tide_node_info info;
    uint64_t pages; /* frames that the engine has of it */
};

std::vector<Node> nodes_of(const Engine &engine)
{
    std::vector<Node> nodes;
    for (unsigned n = 0; n < engine.statistics().node_count; n++) {
        Node node = { n, {}, 0 };
        tide_node_statistics figures;
        check(tide_node_info_get(engine.get(), n, &node.info), "tide_node_info_get");
        check(tide_node_statistics_get(engine.get(), n, &figures), "tide_node_statistics_get");
        node.pages = figures.frames;
        nodes.push_back(node);
    }
    return nodes;
}

/* The nodes that can run threads and have frames. */
std::vector<Node> homes_of(const Engine &engine)
{
    std::vector<Node> homes;
    for (const Node &node : nodes_of(engine))
        if (node.info.cpu_count != 0 && node.pages != 0)
            homes.push_back(node);
    return homes;
}

/* CPU numbers of a list as the kernel writes it: "0-3,8". */
cpu_set_t cpus_of(unsigned os_index)
{
    const std::string path = "/sys/devices/system/node/node" + std::to_string(os_index) + "/cpulist";
    std::ifstream file(path);
    std::string range;
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    while (std::getline(file, range, ',')) {
        unsigned first = 0, last = 0;
        const int got = sscanf(range.c_str(), "%u-%u", &first, &last);
        for (unsigned cpu = first; got >= 1 && cpu <= (got == 2 ? last : first); cpu++)
            CPU_SET(cpu, &cpus);
    }
    if (CPU_COUNT(&cpus) == 0)
        throw std::runtime_error("no CPUs in " + path);
    return cpus;
}

/* The calling thread runs on a node from now on. */
void settle(const Engine &engine, const Node &node)
{
    uint32_t runs_on;
    if (options().nodes != 0) {
        check(tide_thread_set_ideal_node(engine.get(), node.index), "tide_thread_set_ideal_node");
    } else {
        const cpu_set_t cpus = cpus_of(node.info.os_index);
        if (sched_setaffinity(0, sizeof cpus, &cpus) != 0)
            throw std::runtime_error(std::string("sched_setaffinity: ") + strerror(errno));
    }
    check(tide_thread_get_node(engine.get(), &runs_on), "tide_thread_get_node");
    if (runs_on != node.index)
        throw std::runtime_error("a thread that was put on node " + std::to_string(node.index) + " runs on node " +
                                 std::to_string(runs_on));
}

using Pairs = std::vector<uint64_t>;

Pairs pairs_of(const Engine &engine, size_t nodes)
{
    Pairs pairs(nodes * nodes);
    check(tide_numa_faults_get(engine.get(), pairs.data(), pairs.size()), "tide_numa_faults_get");
    return pairs;
}

enum class Layout { kSpread, kPacked, kSpill };

/* Bytes that a pass touches: what fits with room to spare, or half as much again as the one node has. */
uint64_t bytes_of(Layout layout, const std::vector<Node> &homes, uint64_t total_pages)
{
    uint64_t least = homes[0].pages;
    for (const Node &node : homes)
        least = std::min(least, node.pages);
    const uint64_t pages = layout == Layout::kSpread   ? least * homes.size() / 4 * 3
                           : layout == Layout::kPacked ? homes[0].pages / 4 * 3
                                                       : std::min(homes[0].pages / 2 * 3, total_pages / 8 * 7);
    return pages * kPageBytes;
}

void numa_passes(benchmark::State &state, const Case &which, Layout layout)
{
    Engine &engine = numa_engine();
    const std::vector<Node> homes = homes_of(engine);
    const size_t nodes = engine.statistics().node_count;
    Team team(which.threads);
    Spaces spaces(engine, Space::kPrivate, which.threads,
                  bytes_of(layout, homes, engine.statistics().total_pages) / which.threads / kPageBytes * kPageBytes *
                      which.threads);
    Result result;
    Pairs counted(nodes * nodes);

    auto pass = [&](bool sampling) {
        spaces.commit();
        const double zeroing_seconds = engine.zero_free_frames();
        const Pairs before = pairs_of(engine, nodes);
        const Pass timed = team.run(
            [&](Lane &lane) {
                const Part part = spaces.part(lane.index);
                repeat(lane, part.pages, [part](uint64_t i) {
                    const tide_status status = tide_touch(part.space, part.base + i * kPageBytes, TIDE_ACCESS_WRITE);
                    check(status, "tide_touch");
                    return status == TIDE_PAGE_FAULT_DEMAND_ZERO;
                });
            },
            sampling);
        const Pairs after = pairs_of(engine, nodes);
        spaces.release();
        for (size_t i = 0; i < counted.size() && !sampling; i++)
            counted[i] += after[i] - before[i];
        if (!sampling)
            result.add_background_cpu(zeroing_seconds);
        return timed;
    };
    team.run([&](Lane &lane) { settle(engine, homes[layout == Layout::kSpread ? lane.index % homes.size() : 0]); });
    (void)pass(true);
    for (auto _ : state) {
        const Pass timed = pass(false);
        state.SetIterationTime(timed.seconds);
        result.add(timed);
    }
    result.add_latencies(pass(true));
    if (which.last_round)
        engine.verify();

    uint64_t all = 0, local = 0;
    for (size_t i = 0; i < counted.size(); i++) {
        all += counted[i];
        local += i / nodes == i % nodes ? counted[i] : 0;
    }
    const auto share = [all](uint64_t part) { return static_cast<double>(part) / static_cast<double>(all); };
    result.set("local_share", share(local));
    for (size_t i = 0; i < counted.size(); i++)
        if (counted[i] != 0)
            result.set("pair_" + std::to_string(i / nodes) + "_" + std::to_string(i % nodes), share(counted[i]));
    result.require_kind(which);
    result.publish(state);
}

/* For the report: index:number in the system:CPUs:bytes:distances, a node after the other. */
std::string nodes_text(const std::vector<Node> &nodes)
{
    std::ostringstream text;
    for (const Node &node : nodes) {
        text << (node.index == 0 ? "" : ";") << node.index << ":" << node.info.os_index << ":" << node.info.cpu_count
             << ":" << node.pages * kPageBytes << ":";
        for (size_t i = 0; i < nodes.size(); i++)
            text << (i == 0 ? "" : ",") << node.info.distance[i];
    }
    return text.str();
}

} // namespace

void close_numa_engine()
{
    g_engine.reset();
}

void add_numa_cases()
{
    const std::pair<const char *, Layout> classes[] = {
        { "numa_spread", Layout::kSpread },
        { "numa_packed", Layout::kPacked },
        { "numa_spill", Layout::kSpill },
    };
    if (!std::any_of(std::begin(classes), std::end(classes), [](const auto &one) { return class_wanted(one.first); }))
        return;
    const std::vector<Node> nodes = nodes_of(numa_engine());
    const size_t homes = homes_of(numa_engine()).size();
    if (nodes.size() < 2 || homes == 0) {
        printf("  one node: nothing to compare\n");
        close_numa_engine();
        return;
    }
    benchmark::AddCustomContext("nodes", nodes_text(nodes));
    benchmark::AddCustomContext("synthetic_nodes", options().nodes != 0 ? "yes" : "no");
    for (unsigned round = 0; round < options().rounds; round++)
        for (auto [name, layout] : classes) {
            Case which;
            which.name = name;
            which.threads = std::max(static_cast<unsigned>(homes), cpu_count());
            which.round = round;
            which.last_round = round + 1 == options().rounds;
            add_case(which, options().quick ? 2 : 4,
                     [layout = layout](benchmark::State &state, const Case &c) { numa_passes(state, c, layout); });
        }
}

} // namespace bench

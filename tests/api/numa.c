/*
 * NUMA on synthetic topologies (nt-behaviour 11 and 27: NU-1 to NU-6, LS-4): where pages go by region, space and
 * thread; what a node that runs dry does; what is counted; and that the workers of a node leave other nodes alone. The
 * same on real nodes: tests/numa.
 *
 * Threads say which node they count as running on (tide_thread_set_ideal_node), so all this is the same on any host.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* ---- helpers ---------------------------------------------------------------------------------------------------- */

static void nodes_open(struct fixture *fixture, const char *topology, uint64_t frames)
{
    fixture->config.topology_synthetic = topology;
    fixture_open(fixture, frames);
}

static void run_on(const struct fixture *fixture, uint32_t node)
{
    assert_success(tide_thread_set_ideal_node(fixture->engine, node));
}

static tide_placement placed(tide_placement_policy policy, tide_placement_fallback fallback, uint32_t node)
{
    return (
        tide_placement){ .struct_bytes = sizeof(tide_placement), .policy = policy, .fallback = fallback, .node = node };
}

/* A region of so many pages, committed, with this placement. */
static tide_address region_placed(tide_space *space, uint64_t pages, tide_placement placement)
{
    const tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                               .node = placement.node,
                                               .policy = placement.policy,
                                               .fallback = placement.fallback };
    tide_address base = 0;
    uint64_t bytes = pages * PG;
    assert_success(tide_virtual_alloc2(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE,
                                       &parameters));
    return base;
}

static tide_address region_numa(tide_space *space, uint64_t pages, uint32_t node)
{
    tide_address base = 0;
    uint64_t bytes = pages * PG;
    assert_success(
        tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, node));
    return base;
}

static void demand(tide_space *space, tide_address base, uint64_t pages)
{
    touch_pages(space, base, pages, TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO);
}

/* How many of these pages are in a frame of the node. */
static uint64_t pages_on(tide_space *space, tide_address base, uint64_t pages, uint32_t node)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < pages; i++)
        count += page_now(space, base + i * PG).node == node;
    return count;
}

static uint64_t tables_on(const struct fixture *fixture, uint32_t node)
{
    uint64_t count = 0;
    const uint64_t end = tide_frame_number_end(fixture->engine);
    for (uint64_t f = 0; f < end; f++) {
        tide_frame_info frame;
        if (tide_frame_query(fixture->engine, f, &frame) == TIDE_SUCCESS)
            count += frame.use == TIDE_USE_PAGE_TABLE && frame.state == TIDE_FRAME_ACTIVE && frame.node == node;
    }
    return count;
}

/* The pairs of nodes; what they sum up to is checked each time. */
struct pairs {
    unsigned nodes;
    uint64_t faults[TIDE_MAX_NODES * TIDE_MAX_NODES];
};

static struct pairs pairs_now(const struct fixture *fixture)
{
    const tide_statistics now = statistics_now(fixture);
    struct pairs pairs = { .nodes = now.node_count };
    uint64_t sum = 0;
    assert_success(tide_numa_faults_get(fixture->engine, pairs.faults, (size_t)pairs.nodes * pairs.nodes));
    for (unsigned i = 0; i < pairs.nodes * pairs.nodes; i++)
        sum += pairs.faults[i];
    assert_int_equal(sum, now.faults.demand_zero + now.faults.transition + now.faults.hard);
    return pairs;
}

static uint64_t pair(const struct pairs *pairs, unsigned from, unsigned to)
{
    return pairs->faults[from * pairs->nodes + to];
}

static uint64_t step(const struct fixture *fixture, tide_worker worker, unsigned node)
{
    uint64_t done = 0;
    assert_success(tide_worker_step(fixture->engine, worker, node, 0, &done));
    return done;
}

static void assert_node_same(const struct fixture *fixture, unsigned node, const tide_node_statistics *before)
{
    const tide_node_statistics now = node_now(fixture, node);
    assert_memory_equal(&now, before, sizeof(now));
}

struct toucher {
    struct fixture *fixture;
    tide_space *space;
    tide_address base;
    uint64_t pages;
    uint32_t node;
};

/* A thread that counts as running on a node touches fresh pages. */
static void toucher_run(struct crew_member *member)
{
    const struct toucher *toucher = member->context;
    CREW_CHECK(member, tide_thread_set_ideal_node(toucher->fixture->engine, toucher->node) == TIDE_SUCCESS);
    for (uint64_t i = 0; i < toucher->pages; i++)
        CREW_CHECK(member, tide_touch(toucher->space, toucher->base + i * PG, TIDE_ACCESS_WRITE) ==
                               TIDE_PAGE_FAULT_DEMAND_ZERO);
}

/* ---- NU-1, NU-2: the toucher's node, or the region's ------------------------------------------------------------- */

static void NU_1_pages_go_to_the_node_of_who_touches_them(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 4000);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 1000);
    struct toucher toucher = { fixture, space, base, 1000, 1 };
    crew_run(1, toucher_run, &toucher);
    assert_int_equal(pages_on(space, base, 1000, 1), 1000);
    /* The root is the creator's; the tables below it are the toucher's. */
    assert_int_equal(tables_on(fixture, 0), 1);
    assert_int_equal(tables_on(fixture, 1), statistics_now(fixture).table_pages - 1);
    const tide_fault_counters faults = statistics_now(fixture).faults;
    assert_int_equal(faults.local, 1000);
    const struct pairs pairs = pairs_now(fixture);
    assert_int_equal(pair(&pairs, 1, 1), 1000);
    fixture_close(fixture);
}

static void NU_2_the_node_of_a_region_goes_before_the_toucher(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 4000);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_numa(space, 500, 0);
    struct toucher toucher = { fixture, space, base, 500, 1 };
    crew_run(1, toucher_run, &toucher);
    assert_int_equal(pages_on(space, base, 500, 0), 500);
    assert_int_equal(tables_on(fixture, 0), 1); /* tables have no preference but the toucher's node */
    assert_int_equal(tables_on(fixture, 1), statistics_now(fixture).table_pages - 1);
    assert_int_equal(statistics_now(fixture).faults.local, 500); /* as it was wished, */
    const struct pairs pairs = pairs_now(fixture);               /* and across nodes */
    assert_int_equal(pair(&pairs, 1, 0), 500);
    assert_int_equal(pair(&pairs, 1, 1) + pair(&pairs, 0, 0) + pair(&pairs, 0, 1), 0);
    fixture_close(fixture);
}

/* ---- NU-3: a full node ------------------------------------------------------------------------------------------- */

static void NU_3_a_full_node_spills_by_the_matrix_of_distances(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t budgets[4] = { 40 * PG, 60 * PG, 80 * PG, 100 * PG };
    fixture->config.topology_xml = TEST_SOURCE_DIR "/../unit/topology/expander.xml";
    fixture->config.node_bytes = budgets;
    fixture->config.node_count = 4;
    fixture_page_file(fixture, 100);
    fixture_open(fixture, 280);
    for (uint32_t preferred = 0; preferred < 4; preferred++) {
        tide_node_info info;
        uint32_t order[4] = { preferred };
        unsigned ordered = 1;
        assert_success(tide_node_info_get(fixture->engine, preferred, &info));
        for (uint64_t distance = 11; distance < 30; distance++) /* ties by number */
            for (uint32_t n = 0; n < 4; n++)
                if (n != preferred && info.distance[n] == distance)
                    order[ordered++] = n;
        assert_int_equal(ordered, 4);
        tide_space *space = space_new(fixture);
        const tide_address base = region_numa(space, 280, preferred);
        demand(space, base, 1); /* takes the tables too */
        uint64_t at = 1;
        for (unsigned i = 0; i < 4; i++) {
            const uint64_t available = node_now(fixture, order[i]).available;
            assert_int_equal(pages_on(space, base, at, order[i]), i == 0); /* its turn has not come before */
            demand(space, base + at * PG, available);
            assert_int_equal(pages_on(space, base + at * PG, available, order[i]), available);
            assert_int_equal(node_now(fixture, order[i]).available, 0);
            at += available;
        }
        assert_int_equal(statistics_now(fixture).trimmed, 0);
        space_close(fixture, space);
        assert_success(tide_engine_empty(fixture->engine, TIDE_EMPTY_FREE));
    }
    fixture_close(fixture);
}

/* ---- NU-4: available memory -------------------------------------------------------------------------------------- */

static uint64_t available_on(const struct fixture *fixture, uint32_t node)
{
    uint64_t bytes = 1;
    assert_success(tide_numa_available_memory_get(fixture->engine, node, &bytes));
    assert_int_equal(bytes % PG, 0);
    return bytes / PG;
}

/* Some pages of each kind on the node that the thread runs on. */
static void mix_make(struct fixture *fixture, tide_space *space)
{
    const tide_address base = region_new(space, 100);
    stamp_pages(space, base, 100, 1, 1);
    trim_all(space);
    write_modified(fixture);                               /* 100 standby */
    region_decommit(space, base, 30);                      /* 30 of them free */
    stamp_pages(space, base + 40 * PG, 10, 1, 2);          /* 10 of them active */
    assert_success(tide_working_set_trim(space, 4, NULL)); /* 4 of these modified */
}

static void NU_4_available_memory_of_a_node(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    uint32_t highest = 77;
    fixture_page_file(fixture, 500);
    nodes_open(fixture, "numa:2 core:1 pu:1", 1000);
    assert_success(tide_numa_highest_node_get(fixture->engine, &highest));
    assert_int_equal(highest, 1);
    assert_int_equal(available_on(fixture, 0) + available_on(fixture, 1), 1000);
    run_on(fixture, 1);
    tide_space *space = space_new(fixture);
    mix_make(fixture, space);
    uint64_t sum = 0, lists = 0;
    for (uint32_t n = 0; n < 2; n++) {
        const tide_node_statistics node = node_now(fixture, n);
        tide_numa_node_memory memory = { .struct_bytes = sizeof(memory) };
        assert_success(tide_numa_node_memory_get(fixture->engine, n, &memory));
        assert_int_equal(available_on(fixture, n), node.zeroed + node.free); /* standby is not in it */
        assert_int_equal(memory.total_bytes, 500 * PG);
        assert_int_equal(memory.free_and_zero_bytes, (node.zeroed + node.free) * PG);
        assert_int_equal(memory.standby_bytes, standby_pages(&node) * PG);
        assert_int_equal(memory.available_bytes, node.available * PG);
        sum += available_on(fixture, n);
        lists += node.zeroed + node.free;
    }
    const tide_node_statistics one = node_now(fixture, 1);
    assert_int_equal(standby_pages(&one), 60);
    assert_int_equal(one.free, 30);
    assert_int_equal(sum, lists);
    assert_int_equal(sum, statistics_now(fixture).available_pages - 60);
    fixture_close(fixture);
}

static void NU_4_with_one_node_standby_is_available(void **state)
{
    struct fixture *fixture = *state;
    uint32_t highest = 77;
    fixture_page_file(fixture, 500);
    nodes_open(fixture, "numa:1 core:1 pu:1", 1000);
    assert_success(tide_numa_highest_node_get(fixture->engine, &highest));
    assert_int_equal(highest, 0);
    mix_make(fixture, space_new(fixture));
    const tide_node_statistics node = node_now(fixture, 0);
    assert_int_equal(standby_pages(&node), 60);
    assert_int_equal(available_on(fixture, 0), node.zeroed + node.free + 60);
    assert_int_equal(available_on(fixture, 0), statistics_now(fixture).available_pages);
    fixture_close(fixture);
}

/* ---- NU-5: the node binds at the reservation --------------------------------------------------------------------- */

static void NU_5_a_commit_does_not_move_a_region(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 1);
    tide_space *space = space_new(fixture);
    tide_address base = 0;
    uint64_t bytes = 64 * PG;
    assert_success(tide_virtual_alloc_numa(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, 0));
    tide_address at = base;
    bytes = 16 * PG;
    assert_success(tide_virtual_alloc_numa(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, 1));
    tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                         .node = 1,
                                         .policy = TIDE_PLACEMENT_STRICT };
    at = base + 16 * PG;
    assert_success(tide_virtual_alloc2(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, &parameters));
    demand(space, base, 32);
    assert_int_equal(pages_on(space, base, 32, 0), 32);
    /* Ignored, but not unseen. */
    at = base + 32 * PG;
    assert_status(tide_virtual_alloc_numa(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, 2),
                  TIDE_INVALID_PARAMETER);
    parameters.policy = (tide_placement_policy)9;
    assert_status(tide_virtual_alloc2(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, &parameters),
                  TIDE_INVALID_PARAMETER);
    /* The parts of a region that is split keep its node; a region in its place does not. */
    at = base + 8 * PG;
    bytes = 4 * PG;
    assert_success(tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE));
    trim_all(space);
    at = base + 32 * PG;
    bytes = 8 * PG;
    assert_success(tide_virtual_alloc(space, &at, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    demand(space, at, 8);
    assert_int_equal(pages_on(space, at, 8, 0), 8);
    fixture_close(fixture);
}

/* ---- NU-6: asked anew at each page-in ---------------------------------------------------------------------------- */

static void NU_6_a_page_that_comes_back_asks_anew(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:3 core:1 pu:1", 1200);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address first = region_new(space, 64), preferred = region_numa(space, 64, 2);
    stamp_pages(space, first, 64, 1, 1);
    stamp_pages(space, preferred, 64, 1, 1);
    assert_int_equal(pages_on(space, first, 64, 0), 64);
    assert_int_equal(pages_on(space, preferred, 64, 2), 64);

    /* A soft fault keeps the frame, whoever takes it. */
    run_on(fixture, 1);
    trim_all(space);
    touch_pages(space, first, 64, TIDE_ACCESS_READ, TIDE_PAGE_FAULT_TRANSITION);
    assert_int_equal(pages_on(space, first, 64, 0), 64);
    struct pairs pairs = pairs_now(fixture);
    assert_int_equal(pair(&pairs, 1, 0), 64);

    /* Read back, clusters and all. */
    page_out(fixture, space);
    check_pages(space, first, 64, 1, 1);
    check_pages(space, preferred, 64, 1, 1);
    assert_int_equal(pages_on(space, first, 64, 1), 64);
    assert_int_equal(pages_on(space, preferred, 64, 2), 64);
    assert_true(statistics_now(fixture).pages_input > statistics_now(fixture).faults.hard); /* there were neighbours */

    /* Fetched ahead. */
    page_out(fixture, space);
    run_on(fixture, 0);
    const tide_memory_range ranges[2] = { { first, 64 * PG }, { preferred, 64 * PG } };
    assert_success(tide_virtual_prefetch(space, ranges, 2, 0));
    assert_int_equal(pages_in_state(space, first, 64, TIDE_PAGE_STATE_STANDBY), 64);
    assert_int_equal(pages_on(space, first, 64, 0), 64);
    assert_int_equal(pages_on(space, preferred, 64, 2), 64);

    /* And by a rule that has changed since. */
    page_out(fixture, space);
    const tide_placement on_one = placed(TIDE_PLACEMENT_PREFERRED, TIDE_FALLBACK_DEFAULT, 1);
    assert_success(tide_space_set_placement(space, &on_one));
    check_pages(space, first, 64, 1, 1);
    check_pages(space, preferred, 64, 1, 1);
    assert_int_equal(pages_on(space, first, 64, 1), 64);
    assert_int_equal(pages_on(space, preferred, 64, 2), 64);
    fixture_close(fixture);
}

/* Two regions side by side whose copies lie side by side: a cluster over both keeps them apart. */
static void NU_6_neighbours_of_another_region_go_by_its_placement(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    fixture->config.cluster_pages = 32;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:3 core:1 pu:1", 1200);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    tide_address bases[2] = { 0x40000000, 0x40010000 };
    for (unsigned i = 0; i < 2; i++) {
        uint64_t bytes = 16 * PG;
        assert_success(tide_virtual_alloc_numa(space, &bases[i], &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                               TIDE_PAGE_READWRITE, 1 + i));
        stamp_pages(space, bases[i], 16, 1, 1);
    }
    page_out(fixture, space);
    check_pages(space, bases[0], 32, 1, 1);
    assert_int_equal(pages_on(space, bases[0], 16, 1), 16);
    assert_int_equal(pages_on(space, bases[1], 16, 2), 16);
    assert_true(statistics_now(fixture).page_reads < 16);
    fixture_close(fixture);
}

/* ---- LS-4 and the fallback -------------------------------------------------------------------------------------- */

static void LS_4_a_full_node_overflows_ideal_node(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    nodes_open(fixture, "numa:2 core:1 pu:1", 240);
    run_on(fixture, 1);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 250);
    demand(space, base, 1);
    const uint64_t on_one = node_now(fixture, 1).available, on_zero = node_now(fixture, 0).available;
    demand(space, base + PG, on_one + on_zero);
    assert_int_equal(pages_on(space, base, 1 + on_one, 1), 1 + on_one);
    assert_int_equal(pages_on(space, base + (1 + on_one) * PG, on_zero, 0), on_zero);
    const tide_fault_counters faults = statistics_now(fixture).faults;
    assert_int_equal(faults.demand_zero - faults.local, on_zero);
    const struct pairs pairs = pairs_now(fixture);
    assert_int_equal(pair(&pairs, 1, 0), on_zero);
    assert_int_equal(pair(&pairs, 1, 1), 1 + on_one);
    assert_int_equal(pair(&pairs, 0, 0) + pair(&pairs, 0, 1), 0);
    fixture_close(fixture);
}

/*
 * Node 1 has 40 standby pages, nothing free, and node 0 has plenty. Whoever asks for a frame of node 1 takes one or the
 * other first: by what the region says, else the space, else the engine.
 */
static void fallback_case(struct fixture *fixture, bool engine_local, tide_placement_fallback of_space,
                          tide_placement_fallback of_region, bool expected_local)
{
    fixture->config.prefer_local_standby = engine_local;
    fixture_page_file(fixture, 200);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 1);
    tide_space *space = space_new(fixture);
    const tide_address cached = region_new(space, 40);
    stamp_pages(space, cached, 40, 1, 1);
    trim_all(space);
    write_modified(fixture);
    tide_node_statistics node = node_now(fixture, 1);
    assert_int_equal(standby_pages(&node), 40);
    tide_space *filler = space_new(fixture);
    const tide_address fill = region_numa(filler, 200, 1);
    demand(filler, fill, 1);
    demand(filler, fill + PG, node_now(fixture, 1).available - 40);

    const tide_placement of = placed(TIDE_PLACEMENT_DEFAULT, of_space, TIDE_NO_PREFERRED_NODE);
    assert_success(tide_space_set_placement(space, &of));
    const tide_address base =
        region_placed(space, 60, placed(TIDE_PLACEMENT_DEFAULT, of_region, TIDE_NO_PREFERRED_NODE));
    tide_placement told = { .struct_bytes = sizeof(told) };
    assert_success(tide_placement_query(space, base, &told));
    assert_int_equal(told.policy, TIDE_PLACEMENT_FIRST_TOUCH);
    assert_int_equal(told.node, TIDE_NO_PREFERRED_NODE);
    assert_int_equal(told.fallback, expected_local ? TIDE_FALLBACK_LOCAL_STANDBY : TIDE_FALLBACK_BY_DISTANCE);
    demand(space, base, 30);
    assert_int_equal(pages_on(space, base, 30, 1), expected_local ? 30 : 0);
    node = node_now(fixture, 1);
    assert_int_equal(standby_pages(&node), expected_local ? 10 : 40);
    demand(space, base + 30 * PG, 30); /* a preference either way: then the other source */
    assert_int_equal(pages_on(space, base, 60, 1), expected_local ? 40 : 0);
    fixture_close(fixture);
}

static void LS_4_the_fallback_of_the_engine(void **state)
{
    fallback_case(*state, false, TIDE_FALLBACK_DEFAULT, TIDE_FALLBACK_DEFAULT, false);
}

static void LS_4_the_fallback_of_the_engine_local_standby(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    fallback_case(*state, true, TIDE_FALLBACK_DEFAULT, TIDE_FALLBACK_DEFAULT, true);
}

static void LS_4_the_fallback_of_a_space_goes_before_the_engines(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    fallback_case(*state, false, TIDE_FALLBACK_LOCAL_STANDBY, TIDE_FALLBACK_DEFAULT, true);
}

static void LS_4_the_fallback_of_a_space_by_distance(void **state)
{
    fallback_case(*state, true, TIDE_FALLBACK_BY_DISTANCE, TIDE_FALLBACK_DEFAULT, false);
}

static void LS_4_the_fallback_of_a_region_goes_before_the_spaces(void **state)
{
    SOFT_SPACES_ONLY(ONLY_BATCH);
    fallback_case(*state, false, TIDE_FALLBACK_BY_DISTANCE, TIDE_FALLBACK_LOCAL_STANDBY, true);
}

static void LS_4_the_fallback_of_a_region_by_distance(void **state)
{
    fallback_case(*state, true, TIDE_FALLBACK_LOCAL_STANDBY, TIDE_FALLBACK_BY_DISTANCE, false);
}

/* ---- which placement counts -------------------------------------------------------------------------------------- */

static void a_regions_placement_goes_before_its_spaces(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:4 core:1 pu:1", 2000);
    run_on(fixture, 3);
    tide_space *space = space_new(fixture);
    tide_placement now = { .struct_bytes = sizeof(now) };
    assert_success(tide_space_get_placement(space, &now));
    assert_int_equal(now.policy, TIDE_PLACEMENT_DEFAULT);
    assert_int_equal(now.fallback, TIDE_FALLBACK_DEFAULT);
    assert_int_equal(now.node, TIDE_NO_PREFERRED_NODE);
    const tide_address early = region_new(space, 20); /* before the space says anything */
    demand(space, early, 10);
    assert_int_equal(pages_on(space, early, 10, 3), 10);

    const tide_placement strict = placed(TIDE_PLACEMENT_STRICT, TIDE_FALLBACK_DEFAULT, 1);
    assert_success(tide_space_set_placement(space, &strict));
    assert_success(tide_space_get_placement(space, &now));
    assert_true(now.policy == strict.policy && now.fallback == strict.fallback && now.node == strict.node);
    const struct {
        tide_placement of_region;
        uint32_t expected;
        tide_placement_policy policy;
    } rows[] = {
        { placed(TIDE_PLACEMENT_DEFAULT, 0, TIDE_NO_PREFERRED_NODE), 1, TIDE_PLACEMENT_STRICT },
        { placed(TIDE_PLACEMENT_DEFAULT, 0, 2), 2, TIDE_PLACEMENT_PREFERRED },
        { placed(TIDE_PLACEMENT_FIRST_TOUCH, 0, TIDE_NO_PREFERRED_NODE), 3, TIDE_PLACEMENT_FIRST_TOUCH },
        { placed(TIDE_PLACEMENT_PREFERRED, 0, 0), 0, TIDE_PLACEMENT_PREFERRED },
        { placed(TIDE_PLACEMENT_STRICT, 0, 2), 2, TIDE_PLACEMENT_STRICT },
    };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const tide_address base = region_placed(space, 20, rows[i].of_region);
        demand(space, base, 20);
        assert_int_equal(pages_on(space, base, 20, rows[i].expected), 20);
        assert_success(tide_placement_query(space, base + 5 * PG + 77, &now));
        assert_int_equal(now.policy, rows[i].policy);
        assert_int_equal(now.node,
                         rows[i].policy == TIDE_PLACEMENT_FIRST_TOUCH ? TIDE_NO_PREFERRED_NODE : rows[i].expected);
        assert_int_equal(now.fallback, TIDE_FALLBACK_BY_DISTANCE);
    }
    demand(space, early + 10 * PG, 10); /* the space's counts for all from now on */
    assert_int_equal(pages_on(space, early + 10 * PG, 10, 1), 10);
    /* A stack has the space's placement; other spaces have none of it. */
    tide_stack stack;
    assert_success(tide_stack_create(space, 0, 4 * PG, &stack));
    demand(space, stack.limit, 4);
    assert_int_equal(pages_on(space, stack.limit, 4, 1), 4);
    tide_space *other = space_new(fixture);
    const tide_address base = region_new(other, 5);
    demand(other, base, 5);
    assert_int_equal(pages_on(other, base, 5, 3), 5);
    /* And back again. */
    const tide_placement none = placed(TIDE_PLACEMENT_DEFAULT, 0, TIDE_NO_PREFERRED_NODE);
    assert_success(tide_space_set_placement(space, &none));
    const tide_address late = region_new(space, 5);
    demand(space, late, 5);
    assert_int_equal(pages_on(space, late, 5, 3), 5);
    fixture_close(fixture);
}

static void placements_that_make_no_sense_are_refused(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t budgets[3] = { 200 * PG, 0, 200 * PG };
    fixture->config.node_bytes = budgets;
    fixture->config.node_count = 3;
    nodes_open(fixture, "numa:3 core:1 pu:1", 400);
    tide_space *space = space_new(fixture);
    const struct {
        tide_placement placement;
        bool of_space_only; /* of a region it means something */
    } rows[] = {
        { placed((tide_placement_policy)5, 0, TIDE_NO_PREFERRED_NODE), false },
        { placed((tide_placement_policy)-1, 0, TIDE_NO_PREFERRED_NODE), false },
        { placed(TIDE_PLACEMENT_FIRST_TOUCH, (tide_placement_fallback)4, TIDE_NO_PREFERRED_NODE), false },
        { placed(TIDE_PLACEMENT_FIRST_TOUCH, 0, 0), false },
        { placed(TIDE_PLACEMENT_INTERLEAVE, 0, 0), false },
        { placed(TIDE_PLACEMENT_PREFERRED, 0, 3), false },
        { placed(TIDE_PLACEMENT_PREFERRED, 0, TIDE_NO_PREFERRED_NODE), false },
        { placed(TIDE_PLACEMENT_STRICT, 0, 3), false },
        { placed(TIDE_PLACEMENT_STRICT, 0, TIDE_NO_PREFERRED_NODE), false },
        { placed(TIDE_PLACEMENT_STRICT, 0, 1), false }, /* it has no frames */
        { placed(TIDE_PLACEMENT_DEFAULT, 0, 3), false },
        { placed(TIDE_PLACEMENT_DEFAULT, 0, 0), true },
    };
    const tide_space_statistics before = space_now(space);
    tide_placement now = { .struct_bytes = sizeof(now) };
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                                   .node = rows[i].placement.node,
                                                   .policy = rows[i].placement.policy,
                                                   .fallback = rows[i].placement.fallback };
        tide_address base = 0;
        uint64_t bytes = PG;
        assert_status(tide_space_set_placement(space, &rows[i].placement), TIDE_INVALID_PARAMETER);
        assert_success(tide_space_get_placement(space, &now));
        assert_int_equal(now.policy, TIDE_PLACEMENT_DEFAULT);
        if (!rows[i].of_space_only)
            assert_status(tide_virtual_alloc2(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE, &parameters),
                          TIDE_INVALID_PARAMETER);
    }
    assert_int_equal(space_now(space).regions, before.regions);
    assert_status(tide_thread_set_ideal_node(fixture->engine, 3), TIDE_INVALID_PARAMETER);
    /* A preference for a node without frames is none the less a preference. */
    const tide_address base = region_numa(space, 4, 1);
    demand(space, base, 4);
    assert_int_equal(pages_on(space, base, 4, 1), 0);
    uint32_t highest = 0;
    assert_success(tide_numa_highest_node_get(fixture->engine, &highest));
    assert_int_equal(highest, 2);
    assert_int_equal(available_on(fixture, 1), 0);
    fixture_close(fixture);
}

/* ---- strict ------------------------------------------------------------------------------------------------------ */

/* No page file: dirty pages can go nowhere, and so the node is full for good. */
static void strict_fails_when_its_node_is_full(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 300, placed(TIDE_PLACEMENT_STRICT, 0, 1));
    demand(space, base, 1);
    const uint64_t room = node_now(fixture, 1).available;
    demand(space, base + PG, room);
    assert_int_equal(pages_on(space, base, 1 + room, 1), 1 + room);
    const tide_node_statistics other = node_now(fixture, 0);
    const uint64_t waits = statistics_now(fixture).frame_waits;
    for (unsigned i = 0; i < 3; i++)
        assert_status(tide_touch(space, base + (1 + room + i) * PG, TIDE_ACCESS_WRITE), TIDE_NO_MEMORY);
    assert_non_null(strstr(tide_last_error()->message, "node 1"));
    assert_node_same(fixture, 0, &other);
    assert_int_equal(statistics_now(fixture).frame_waits, waits); /* at once: there was nothing to wait for */
    assert_int_equal(page_now(space, base + (1 + room) * PG).state, TIDE_PAGE_STATE_DEMAND_ZERO);
    /* What is not strict goes on: elsewhere. */
    const tide_address easy = region_numa(space, 10, 1);
    demand(space, easy, 10);
    assert_int_equal(pages_on(space, easy, 10, 0), 10);
    /* And a frame that comes back is taken. */
    region_decommit(space, base, 2);
    demand(space, base + (1 + room) * PG, 2);
    assert_int_equal(pages_on(space, base + (1 + room) * PG, 2, 1), 2);
    assert_status(tide_touch(space, base + (3 + room) * PG, TIDE_ACCESS_WRITE), TIDE_NO_MEMORY);
    fixture_close(fixture);
}

/* Three times the node through the node: its own pages make room, and no page of the other node does. */
static void strict_lives_within(struct fixture *fixture, tide_worker_mode workers)
{
    enum { REGION = 600 };
    fixture->config.workers = workers;
    fixture_page_file(fixture, 1000);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture), *other = space_new(fixture);
    /* Without threads node 0 is filled to the last frame, and nobody asked its trimmer. */
    const tide_address neighbour = region_placed(other, 200, placed(TIDE_PLACEMENT_STRICT, 0, 0));
    stamp_pages(other, neighbour, 1, 2, 1);
    const uint64_t left = node_now(fixture, 0).available;
    const uint64_t theirs = workers == TIDE_WORKERS_MANUAL ? left - 1 : 150; /* a table is still to come */
    stamp_pages(other, neighbour + PG, theirs - 1, 2, 1);
    const tide_address base = region_placed(space, REGION, placed(TIDE_PLACEMENT_STRICT, 0, 1));
    for (uint64_t version = 1; version <= 2; version++) {
        for (uint64_t i = 0; i < REGION; i++) {
            assert_success(stamp_put(space, base + i * PG, 1, version));
            assert_int_not_equal(page_now(space, base + i * PG).node, 0);
        }
        check_pages(space, base, REGION, 1, version);
        assert_int_equal(pages_on(space, base, REGION, 0), 0);
    }
    assert_int_equal(pages_in_state(other, neighbour, theirs, TIDE_PAGE_STATE_ACTIVE),
                     theirs); /* nobody touched these */
    assert_int_equal(space_now(other).working_set_pages, theirs);
    check_pages(other, neighbour, theirs, 2, 1);
    /* Pinned, its frames are nobody's to take: then it fails. */
    tide_pin *pin = NULL;
    const tide_status pinned = tide_pin_create(space, base, 300 * PG, TIDE_ACCESS_READ, &pin);
    assert_status(pinned, TIDE_NO_MEMORY);
    assert_null(pin);
    check_pages(space, base, REGION, 1, 2);
    fixture_close(fixture);
}

/*
 * Local reclaim: as long as the node's own trimmer and writer can make room, pages stay on it, though the other node
 * has frames to spare; when they cannot, the other node helps out, and nothing fails.
 */
static void local_reclaim_makes_room_before_it_spills(void **state)
{
    enum { REGION = 600 };
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 1000);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    tide_space *space = space_new(fixture);
    const tide_placement reclaim =
        placed(TIDE_PLACEMENT_FIRST_TOUCH, TIDE_FALLBACK_LOCAL_RECLAIM, TIDE_NO_PREFERRED_NODE);
    assert_success(tide_space_set_placement(space, &reclaim));
    const tide_address base = region_new(space, REGION);
    run_on(fixture, 1);
    const uint64_t spare = node_now(fixture, 0).available;
    for (uint64_t version = 1; version <= 2; version++) {
        for (uint64_t i = 0; i < REGION; i++) {
            assert_success(stamp_put(space, base + i * PG, 1, version));
            assert_int_equal(page_now(space, base + i * PG).node, 1);
        }
        check_pages(space, base, REGION, 1, version);
    }
    assert_int_equal(pages_on(space, base, REGION, 0), 0);
    assert_in_range(node_now(fixture, 0).available, spare - 2, spare); /* tables may lie there */
    /* Pinned pages are not the trimmer's to take: after a while the pin goes on with frames of node 0. */
    tide_pin *pin = NULL;
    assert_success(tide_pin_create(space, base, 300 * PG, TIDE_ACCESS_READ, &pin));
    const uint64_t spilled = pages_on(space, base, 300, 0);
    assert_in_range(spilled, 100, 200);
    assert_int_equal(pages_on(space, base, 300, 1), 300 - spilled);
    tide_pin_destroy(pin);
    check_pages(space, base, REGION, 1, 2);
    fixture_verify(fixture);
    fixture_close(fixture);
}

/* Without a page file dirty pages cannot leave: there is nothing to wait for. */
static void local_reclaim_without_a_page_file_spills(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    tide_space *space = space_new(fixture);
    const tide_address base =
        region_placed(space, 250, placed(TIDE_PLACEMENT_PREFERRED, TIDE_FALLBACK_LOCAL_RECLAIM, 1));
    run_on(fixture, 0);
    stamp_pages(space, base, 250, 1, 1);
    assert_in_range(pages_on(space, base, 250, 1), 180, 200);
    assert_int_equal(pages_on(space, base, 250, 0) + pages_on(space, base, 250, 1), 250);
    check_pages(space, base, 250, 1, 1);
    fixture_close(fixture);
}

static void strict_makes_room_on_its_own_node_alone(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.frame_wait_ms = 50; /* of pinned frames there is hope for as long */
    strict_lives_within(fixture, TIDE_WORKERS_MANUAL);
}

static void strict_makes_room_beside_the_threads(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.frame_wait_ms = 50;
    strict_lives_within(fixture, TIDE_WORKERS_THREADS);
}

/* Frames that the thread's own section holds back are not gone: it is told to end the section, and then has them. */
static void strict_in_a_section_is_told_to_end_it(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 300, placed(TIDE_PLACEMENT_STRICT, 0, 1));
    const tide_node_statistics other = node_now(fixture, 0);
    tide_access access;
    uint64_t at = 0;
    assert_success(tide_access_begin(space, &access));
    while (at < 300 && tide_access_pointer(&access, base + at * PG, TIDE_ACCESS_WRITE) != NULL)
        at++;
    assert_status(access.status, TIDE_ACCESS_SECTION_TOO_LONG);
    assert_between(at, 150, 200);
    tide_access_end(&access);
    demand(space, base + at * PG, 300 - at);
    assert_int_equal(pages_on(space, base, 300, 0), 0);
    /* The tables are all that node 0 gave. */
    assert_int_equal(node_now(fixture, 0).available, other.available - (statistics_now(fixture).table_pages - 1));
    fixture_close(fixture);
}

static void strict_touch_run(struct crew_member *member)
{
    const struct toucher *toucher = member->context;
    member->entered = true;
    CREW_CHECK(member, tide_touch(toucher->space, toucher->base, TIDE_ACCESS_WRITE) == TIDE_PAGE_FAULT_DEMAND_ZERO);
}

/* Free frames of its node that another thread's section holds back will come: the access waits for them. */
static void strict_waits_for_what_is_on_its_way(void **state)
{
    SOFT_SPACES_ONLY(ONLY_SECTION);
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 300, placed(TIDE_PLACEMENT_STRICT, 0, 1));
    demand(space, base, 1);
    const uint64_t room = node_now(fixture, 1).available;
    demand(space, base + PG, room);
    tide_access access;
    assert_success(tide_access_begin(space, &access));
    assert_non_null(tide_access_pointer(&access, base, TIDE_ACCESS_READ));
    region_decommit(space, base + PG, 20);
    struct toucher toucher = { fixture, space, base + (1 + room) * PG, 1, 0 };
    struct crew *crew = crew_start(1, strict_touch_run, &toucher);
    crew_wait_asleep(crew);
    sleep_ms(20); /* ten of its looks, if it were to give up */
    assert_false(crew_member_get(crew, 0)->done);
    tide_access_end(&access);
    crew_join(crew);
    assert_int_equal(page_now(space, toucher.base).node, 1);
    fixture_close(fixture);
}

static void strict_prefetch_stays_on_its_node(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 300, placed(TIDE_PLACEMENT_STRICT, 0, 1));
    stamp_pages(space, base, 300, 1, 1);
    page_out(fixture, space);
    const uint64_t room = available_on(fixture, 1), other = available_on(fixture, 0);
    const tide_memory_range all = { base, 300 * PG };
    assert_success(tide_virtual_prefetch(space, &all, 1, 0));
    const uint64_t standby = pages_in_state(space, base, 300, TIDE_PAGE_STATE_STANDBY);
    assert_int_equal(standby, room); /* all that was free, and none of them read in vain */
    assert_int_equal(statistics_now(fixture).pages_prefetched, standby);
    assert_int_equal(pages_on(space, base, 300, 1), standby);
    assert_int_equal(available_on(fixture, 0), other);
    fixture_close(fixture);
}

/* Half of the standby pages of each node it may go to, and never what it just read, whichever order it goes by. */
static void prefetch_takes_back_nothing_that_it_read(struct fixture *fixture, tide_placement placement, bool both)
{
    fixture_page_file(fixture, 800);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 1);
    tide_space *space = space_new(fixture), *other = space_new(fixture);
    const tide_address base = region_placed(space, 390, placement);
    stamp_pages(space, base, 390, 1, 1);
    page_out(fixture, space);
    uint64_t expected = 0;
    for (uint32_t n = 0; n < 2; n++) {
        const tide_address cached = region_placed(other, 60, placed(TIDE_PLACEMENT_STRICT, 0, n));
        stamp_pages(other, cached, 60, 2, 1);
    }
    trim_all(other);
    write_modified(fixture);
    for (uint32_t n = both ? 0 : 1; n < 2; n++) {
        const tide_node_statistics node = node_now(fixture, n);
        assert_int_equal(standby_pages(&node), 60);
        expected += node.zeroed + node.free + 30;
    }
    const tide_memory_range all = { base, 390 * PG };
    assert_success(tide_virtual_prefetch(space, &all, 1, 0));
    assert_int_equal(statistics_now(fixture).pages_prefetched, expected);
    assert_int_equal(pages_in_state(space, base, 390, TIDE_PAGE_STATE_STANDBY), expected);
    assert_int_equal(pages_on(space, base, 390, 0), both ? expected - pages_on(space, base, 390, 1) : 0);
    fixture_close(fixture);
}

static void strict_prefetch_takes_back_nothing_that_it_read(void **state)
{
    prefetch_takes_back_nothing_that_it_read(*state, placed(TIDE_PLACEMENT_STRICT, 0, 1), false);
}

static void prefetch_by_distance_takes_back_nothing_that_it_read(void **state)
{
    prefetch_takes_back_nothing_that_it_read(
        *state, placed(TIDE_PLACEMENT_FIRST_TOUCH, TIDE_FALLBACK_BY_DISTANCE, TIDE_NO_PREFERRED_NODE), true);
}

static void prefetch_with_local_standby_takes_back_nothing_that_it_read(void **state)
{
    prefetch_takes_back_nothing_that_it_read(
        *state, placed(TIDE_PLACEMENT_FIRST_TOUCH, TIDE_FALLBACK_LOCAL_STANDBY, TIDE_NO_PREFERRED_NODE), true);
}

/* ---- interleave -------------------------------------------------------------------------------------------------- */

static void interleave_spreads_by_the_nodes_sizes(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ADDR);
    struct fixture *fixture = *state;
    const uint64_t budgets[4] = { 300 * PG, 0, 900 * PG, 600 * PG };
    fixture->config.node_bytes = budgets;
    fixture->config.node_count = 4;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:4 core:1 pu:1", 1800);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 300, placed(TIDE_PLACEMENT_INTERLEAVE, 0, TIDE_NO_PREFERRED_NODE));
    stamp_pages(space, base, 300, 1, 1);
    static const unsigned shares[4] = { 1, 0, 3, 2 };
    uint32_t node[300];
    for (uint64_t i = 0; i < 300; i++) {
        tide_placement now = { .struct_bytes = sizeof(now) };
        node[i] = page_now(space, base + i * PG).node;
        assert_success(tide_placement_query(space, base + i * PG, &now));
        assert_int_equal(now.policy, TIDE_PLACEMENT_INTERLEAVE);
        assert_int_equal(now.node, node[i]);
    }
    for (unsigned first = 0; first <= 294; first++) { /* any six in a row */
        unsigned seen[4] = { 0 };
        for (unsigned i = first; i < first + 6; i++)
            seen[node[i]]++;
        assert_memory_equal(seen, shares, sizeof(shares));
    }
    /* Whoever asks, whenever: the page says where. */
    page_out(fixture, space);
    run_on(fixture, 2);
    check_pages(space, base, 300, 1, 1);
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(page_now(space, base + i * PG).node, node[i]);
    page_out(fixture, space);
    const tide_memory_range all = { base, 300 * PG };
    assert_success(tide_virtual_prefetch(space, &all, 1, 0));
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(page_now(space, base + i * PG).node, node[i]);
    /* The same in another space, at the same addresses, by its own placement. */
    tide_space *other = space_new(fixture);
    const tide_placement interleave = placed(TIDE_PLACEMENT_INTERLEAVE, 0, TIDE_NO_PREFERRED_NODE);
    assert_success(tide_space_set_placement(other, &interleave));
    assert_int_equal(region_new_at(other, base, 300), base);
    demand(other, base, 300);
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(page_now(other, base + i * PG).node, node[i]);
    fixture_close(fixture);
}

static void interleave_over_equal_nodes_is_round_robin_and_spills(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 100);
    nodes_open(fixture, "numa:4 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 420, placed(TIDE_PLACEMENT_INTERLEAVE, 0, TIDE_NO_PREFERRED_NODE));
    for (uint64_t i = 0; i < 200; i++) {
        demand(space, base + i * PG, 1);
        assert_int_equal(page_now(space, base + i * PG).node, (base / PG + i) % 4);
    }
    const uint64_t left = statistics_now(fixture).available_pages;
    demand(space, base + 200 * PG, left); /* node 0 has the tables and is full first: no access fails for it */
    for (uint32_t n = 0; n < 4; n++)
        assert_int_equal(node_now(fixture, n).available, 0);
    fixture_close(fixture);
}

static void interleave_over_sizes_without_a_common_measure(void **state)
{
    struct fixture *fixture = *state;
    const uint64_t budgets[3] = { 2003 * PG, 997 * PG, 311 * PG };
    fixture->config.node_bytes = budgets;
    fixture->config.node_count = 3;
    nodes_open(fixture, "numa:3 core:1 pu:1", 3311);
    tide_space *space = space_new(fixture);
    const tide_address base = region_placed(space, 1024, placed(TIDE_PLACEMENT_INTERLEAVE, 0, TIDE_NO_PREFERRED_NODE));
    demand(space, base, 1024);
    for (uint32_t n = 0; n < 3; n++) {
        const uint64_t share = 1024 * budgets[n] / (3311 * PG);
        assert_between(pages_on(space, base, 1024, n), share, share + 1);
        const uint64_t half = pages_on(space, base, 512, n); /* and spread evenly */
        assert_between(half, share / 2 - 2, share / 2 + 3);
    }
    fixture_close(fixture);
}

/* ---- large pages ------------------------------------------------------------------------------------------------- */

static tide_status large_placed(tide_space *space, uint64_t count, tide_placement placement, tide_address *base)
{
    const tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters),
                                               .node = placement.node,
                                               .policy = placement.policy,
                                               .fallback = placement.fallback };
    uint64_t bytes = count * TIDE_LARGE_PAGE_BYTES;
    *base = 0;
    return tide_virtual_alloc2(space, base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                               TIDE_PAGE_READWRITE, &parameters);
}

static void large_pages_go_by_the_placement_too(void **state)
{
    SOFT_SPACES_ONLY(ONLY_LARGE);
    struct fixture *fixture = *state;
    tide_address base;
    nodes_open(fixture, "numa:2 core:1 pu:1", 2 * 3 * 512 + 200);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    assert_success(large_placed(space, 2, placed(TIDE_PLACEMENT_STRICT, 0, 1), &base));
    assert_int_equal(pages_on(space, base, 1024, 1), 1024);
    tide_address more;
    assert_status(large_placed(space, 2, placed(TIDE_PLACEMENT_STRICT, 0, 1), &more), TIDE_NO_MEMORY);
    assert_success(large_placed(space, 2, placed(TIDE_PLACEMENT_PREFERRED, 0, 1), &more)); /* one here, one there */
    assert_int_equal(pages_on(space, more, 512, 1), 512);
    assert_int_equal(pages_on(space, more + 512 * PG, 512, 0), 512);
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_success(tide_virtual_free(space, more, 0, TIDE_MEM_RELEASE));
    assert_success(
        large_placed(space, 4, placed(TIDE_PLACEMENT_INTERLEAVE, 0, TIDE_NO_PREFERRED_NODE), &base)); /* in turns */
    for (uint64_t i = 0; i < 4; i++) {
        tide_placement now = { .struct_bytes = sizeof(now) };
        assert_int_equal(pages_on(space, base + i * 512 * PG, 512, i % 2), 512);
        assert_success(tide_placement_query(space, base + (i * 512 + 99) * PG, &now));
        assert_int_equal(now.node, i % 2);
    }
    fixture_close(fixture);
}

/* ---- what is counted --------------------------------------------------------------------------------------------- */

static void faults_are_counted_by_pair_of_nodes(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:3 core:1 pu:1", 3000);
    static const uint64_t pages[3][3] = { { 11, 13, 17 }, { 19, 23, 29 }, { 31, 37, 41 } };
    tide_space *space = space_new(fixture), *gone = space_new(fixture);
    for (uint32_t from = 0; from < 3; from++) {
        run_on(fixture, from);
        for (uint32_t to = 0; to < 3; to++) {
            tide_space *in = (from + to) % 2 == 0 ? space : gone;
            demand(in, region_numa(in, pages[from][to], to), pages[from][to]);
        }
    }
    space_close(fixture, gone); /* what it counted stays */
    const struct pairs pairs = pairs_now(fixture);
    for (uint32_t from = 0; from < 3; from++) {
        tide_numa_node_memory memory = { .struct_bytes = sizeof(memory) };
        uint64_t foreign = 0, remote = 0;
        for (uint32_t to = 0; to < 3; to++) {
            assert_int_equal(pair(&pairs, from, to), pages[from][to]);
            remote += from == to ? 0 : pages[from][to];
            foreign += from == to ? 0 : pages[to][from];
        }
        assert_success(tide_numa_node_memory_get(fixture->engine, from, &memory));
        assert_int_equal(memory.local_faults, pages[from][from]);
        assert_int_equal(memory.remote_faults, remote);
        assert_int_equal(memory.foreign_faults, foreign);
    }
    uint64_t few[9] = { 77 };
    assert_status(tide_numa_faults_get(fixture->engine, few, 8), TIDE_BUFFER_TOO_SMALL);
    assert_int_equal(few[0], 77);
    fixture_close(fixture);
}

/* The same by threads that run on CPUs of the nodes, whose faults are counted by CPU. */
static void faults_of_cpus_are_counted_by_pair_of_nodes(void **state)
{
    struct fixture *fixture = *state;
    cpu_set_t cpus, one;
    assert_int_equal(sched_getaffinity(0, sizeof(cpus), &cpus), 0);
    if (!CPU_ISSET(0, &cpus) || !CPU_ISSET(1, &cpus))
        skip();
    fixture->config.cpu_cache_pages = 8;
    nodes_open(fixture, "numa:2 core:1 pu:1", 3000);
    tide_space *space = space_new(fixture);
    uint64_t on[2] = { 0 };
    /* A thread that moves finds what is its new node's at the very next fault. */
    const tide_address base = region_new(space, 400);
    for (unsigned i = 0; i < 400; i++) {
        uint32_t node;
        CPU_ZERO(&one);
        CPU_SET((i / 7) % 2, &one);
        assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
        assert_success(tide_thread_get_node(fixture->engine, &node));
        assert_int_equal(node, (i / 7) % 2);
        demand(space, base + i * PG, 1);
        assert_int_equal(page_now(space, base + i * PG).node, node);
        on[node]++;
    }
    const tide_address other = region_numa(space, 50, 1); /* with a placement in the space, from now on */
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
    demand(space, other, 50);
    const tide_address own = region_new(space, 20);
    demand(space, own, 20);
    assert_int_equal(pages_on(space, own, 20, 0), 20);
    const struct pairs pairs = pairs_now(fixture);
    assert_int_equal(pair(&pairs, 0, 0), on[0] + 20);
    assert_int_equal(pair(&pairs, 1, 1), on[1]);
    assert_int_equal(pair(&pairs, 0, 1), 50);
    assert_int_equal(pair(&pairs, 1, 0), 0);
    assert_int_equal(sched_setaffinity(0, sizeof(cpus), &cpus), 0);
    fixture_close(fixture);
}

static void a_thread_that_moves_takes_from_its_new_node(void **state)
{
    struct fixture *fixture = *state;
    nodes_open(fixture, "numa:8 core:1 pu:1", 1600);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 400);
    for (unsigned i = 0; i < 400; i++) {
        uint32_t node = 77;
        run_on(fixture, i * 5 % 8);
        assert_success(tide_thread_get_node(fixture->engine, &node));
        assert_int_equal(node, i * 5 % 8);
        demand(space, base + i * PG, 1);
        assert_int_equal(page_now(space, base + i * PG).node, node);
    }
    /* It is one thread's, in one engine, until it says otherwise. */
    struct toucher toucher = { fixture, space, region_new(space, 8), 8, 6 };
    crew_run(1, toucher_run, &toucher);
    assert_int_equal(pages_on(space, toucher.base, 8, 6), 8);
    const tide_address last = region_new(space, 1);
    demand(space, last, 1);
    assert_int_equal(page_now(space, last).node, 399 * 5 % 8);
    run_on(fixture, TIDE_NO_PREFERRED_NODE);
    fixture_close(fixture);
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

static void the_workers_of_a_node_work_for_it_alone(void **state)
{
    SOFT_SPACES_ONLY(ONLY_ZERO);
    struct fixture *fixture = *state;
    fixture->config.low_available_pages = 30;
    fixture->config.high_available_pages = 60;
    fixture_page_file(fixture, 600);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    /* What is there lies first, and is older: who looks at addresses or ages alone would take that. */
    const tide_address there = region_numa(space, 200, 1), here = region_numa(space, 200, 0);
    assert_true(there < here);
    demand(space, there, 100);
    for (unsigned i = 0; i < 3; i++) {
        assert_success(tide_clock_advance(fixture->engine, 1000));
        assert_int_equal(step(fixture, TIDE_WORKER_TRIMMER, 1), 0); /* it ages */
    }
    demand(space, here, 1);
    demand(space, here + PG, node_now(fixture, 0).available - 20); /* below low, on node 0 */
    const tide_node_statistics one = node_now(fixture, 1);
    assert_true(one.available >= 60);

    /* Trimmer: nothing to do on node 1; on node 0 all that node 0 needs, and of node 0's pages. */
    assert_int_equal(step(fixture, TIDE_WORKER_TRIMMER, 1), 0);
    assert_int_equal(step(fixture, TIDE_WORKER_TRIMMER, 0), 40);
    assert_node_same(fixture, 1, &one);
    assert_int_equal(node_now(fixture, 0).modified, 40);
    assert_int_equal(pages_in_state(space, there, 100, TIDE_PAGE_STATE_ACTIVE), 100);

    /* Writer: with modified pages on both. */
    assert_success(tide_working_set_trim(space, UINT64_MAX, NULL));
    const uint64_t dirty = node_now(fixture, 0).modified;
    const tide_node_statistics modified = node_now(fixture, 1);
    assert_int_equal(modified.modified, 100);
    assert_int_equal(step(fixture, TIDE_WORKER_MODIFIED_WRITER, 0), dirty);
    assert_node_same(fixture, 1, &modified);
    assert_int_equal(node_now(fixture, 0).modified, 0);

    /* Zeroing: with free pages on both. */
    region_decommit(space, there, 50);
    region_decommit(space, here, 50);
    const tide_node_statistics free = node_now(fixture, 1);
    assert_int_equal(free.free, 50);
    assert_int_equal(step(fixture, TIDE_WORKER_ZERO_PAGE, 0), 50);
    assert_node_same(fixture, 1, &free);
    assert_int_equal(node_now(fixture, 0).free, 0);
    fixture_close(fixture);
}

/*
 * A node under pressure, step by step: it spills while others have free frames; then standby is taken, its own first;
 * only when nothing is left anywhere somebody is trimmed, and that on the node itself.
 */
static void pressure_on_a_node_reaches_others_by_the_fallback_order_only(void **state)
{
    struct fixture *fixture = *state;
    fixture_page_file(fixture, 1000);
    nodes_open(fixture, "numa:2 core:1 pu:1", 400);
    run_on(fixture, 1);
    tide_space *other = space_new(fixture);
    const tide_address theirs = region_new(other, 150);
    stamp_pages(other, theirs, 150, 2, 1);
    assert_int_equal(pages_on(other, theirs, 150, 1), 150);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_address base = region_new(space, 600);
    stamp_pages(space, base, 1, 1, 1);
    const uint64_t here = node_now(fixture, 0).available, there = node_now(fixture, 1).available;
    stamp_pages(space, base + PG, here + there, 1, 1);
    assert_int_equal(pages_on(space, base, 1 + here, 0), 1 + here);
    assert_int_equal(pages_on(space, base + (1 + here) * PG, there, 1), there);
    assert_int_equal(statistics_now(fixture).trimmed, 0);
    const uint64_t at = 1 + here + there;
    const tide_node_statistics one = node_now(fixture, 1);

    /* Now the fault itself has to make room (there are no threads): on node 0, out of node 0's pages. */
    stamp_pages(space, base + at * PG, 100, 1, 1);
    assert_int_equal(pages_on(space, base + at * PG, 100, 0), 100);
    assert_node_same(fixture, 1, &one);
    assert_int_equal(pages_in_state(other, theirs, 150, TIDE_PAGE_STATE_ACTIVE), 150);
    assert_int_equal(pages_on(space, base + (1 + here) * PG, there, 1), there);
    check_pages(space, base, at + 100, 1, 1);
    check_pages(other, theirs, 150, 2, 1);
    fixture_close(fixture);
}

/* With threads: the pages of an idle space on node 1 stay, while node 0 turns over many times its size. */
static void threads_of_a_node_leave_others_alone(void **state)
{
    struct fixture *fixture = *state;
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture->config.trimmer_period_ms = 5;
    fixture_page_file(fixture, 3000);
    nodes_open(fixture, "numa:2 core:1 pu:1", 800);
    run_on(fixture, 1);
    tide_space *idle = space_new(fixture);
    const tide_address theirs = region_new(idle, 200);
    stamp_pages(idle, theirs, 200, 2, 1);
    run_on(fixture, 0);
    tide_space *space = space_new(fixture);
    const tide_placement strict = placed(TIDE_PLACEMENT_STRICT, 0, 0);
    assert_success(tide_space_set_placement(space, &strict));
    const tide_address base = region_new(space, 1500);
    for (uint64_t version = 1; version <= 3; version++)
        stamp_pages(space, base, 1500, 1, version);
    check_pages(space, base, 1500, 1, 3);
    assert_int_equal(pages_on(space, base, 1500, 1), 0);
    assert_int_equal(pages_in_state(idle, theirs, 200, TIDE_PAGE_STATE_ACTIVE), 200);
    assert_int_equal(node_now(fixture, 1).modified, 0);
    fixture_close(fixture);
}

static const struct CMUnitTest numa[] = {
    API_TEST(NU_1_pages_go_to_the_node_of_who_touches_them),
    API_TEST(NU_2_the_node_of_a_region_goes_before_the_toucher),
    API_TEST(NU_3_a_full_node_spills_by_the_matrix_of_distances),
    API_TEST(NU_4_available_memory_of_a_node),
    API_TEST(NU_4_with_one_node_standby_is_available),
    API_TEST(NU_5_a_commit_does_not_move_a_region),
    API_TEST(NU_6_a_page_that_comes_back_asks_anew),
    API_TEST(NU_6_neighbours_of_another_region_go_by_its_placement),
    API_TEST(LS_4_a_full_node_overflows_ideal_node),
    API_TEST(LS_4_the_fallback_of_the_engine),
    API_TEST(LS_4_the_fallback_of_the_engine_local_standby),
    API_TEST(LS_4_the_fallback_of_a_space_goes_before_the_engines),
    API_TEST(LS_4_the_fallback_of_a_space_by_distance),
    API_TEST(LS_4_the_fallback_of_a_region_goes_before_the_spaces),
    API_TEST(LS_4_the_fallback_of_a_region_by_distance),
    API_TEST(a_regions_placement_goes_before_its_spaces),
    API_TEST(placements_that_make_no_sense_are_refused),
    API_TEST(strict_fails_when_its_node_is_full),
    API_TEST(local_reclaim_makes_room_before_it_spills),
    API_TEST(local_reclaim_without_a_page_file_spills),
    API_TEST(strict_makes_room_on_its_own_node_alone),
    API_TEST(strict_makes_room_beside_the_threads),
    API_TEST(strict_in_a_section_is_told_to_end_it),
    API_TEST(strict_waits_for_what_is_on_its_way),
    API_TEST(strict_prefetch_stays_on_its_node),
    API_TEST(strict_prefetch_takes_back_nothing_that_it_read),
    API_TEST(prefetch_by_distance_takes_back_nothing_that_it_read),
    API_TEST(prefetch_with_local_standby_takes_back_nothing_that_it_read),
    API_TEST(interleave_spreads_by_the_nodes_sizes),
    API_TEST(interleave_over_equal_nodes_is_round_robin_and_spills),
    API_TEST(interleave_over_sizes_without_a_common_measure),
    API_TEST(large_pages_go_by_the_placement_too),
    API_TEST(faults_are_counted_by_pair_of_nodes),
    API_TEST(faults_of_cpus_are_counted_by_pair_of_nodes),
    API_TEST(a_thread_that_moves_takes_from_its_new_node),
    API_TEST(the_workers_of_a_node_work_for_it_alone),
    API_TEST(pressure_on_a_node_reaches_others_by_the_fallback_order_only),
    API_TEST(threads_of_a_node_leave_others_alone),
};

API_MAIN(numa)

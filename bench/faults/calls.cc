/*
 * Calls on regions: what a commit costs and how it scales, and what a space with many regions costs.
 *
 *   commit          commit and decommit of one page that is not touched, the pages of a part one after the other. Each
 *                   thread has a region of its own, in a space of its own or all in one space
 *   kernel_protect  the kernel's nearest: mprotect() of one page to read and write, and back to none, each thread in a
 *                   mapping of its own
 *   reserve_N       with N regions in the space: release one taken at random, and reserve one of 64 KiB anywhere
 *   query_N         ask for the region at a random address among N, which are only reserved
 *   fault_N         touch the first page of each of N regions once, in random order (demand zero, frames at hand)
 *   fault_apart_N   touch 100,000 pages in N regions once, one page in each 64 KiB, in random order: the same pages
 *                   whatever N is
 *   fault_asked_N   the same in a space with a placement, so that each fault asks its region
 * The last five for N of 1,000 and of 100,000, on one thread. One operation is what a line above says, both halves.
 *
 * fault_N takes 100 times as many pages, 6 GiB apart instead of 60 MiB, for 100,000 regions, so that the line of each
 * PTE is fetched from memory; and as the pages are committed one by one, their PTEs tell all and no region is asked.
 * fault_apart_1000 says what these pages cost without the regions, fault_asked_N what the regions cost.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "soft_spaces.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <sys/mman.h>

namespace bench {

namespace {

constexpr uint64_t kCommitPages = 512;
constexpr uint64_t kRegionBytes = 64 * 1024;
constexpr uint64_t kFew = 1000, kMany = 100000;

std::unique_ptr<Engine> g_engine;

Engine &calls_engine()
{
    if (!g_engine)
        g_engine = std::make_unique<Engine>(1024 * kMiB, 0);
    return *g_engine;
}

/* ---- commit ------------------------------------------------------------------------------------------------------ */

void commit_passes(benchmark::State &state, const Case &which)
{
    Engine &engine = calls_engine();
    std::vector<tide_space *> spaces(which.space == Space::kPrivate ? which.threads : 1);
    std::vector<Part> parts(which.threads);
    for (tide_space *&space : spaces)
        check(tide_space_create(engine.get(), &space), "tide_space_create");
    for (unsigned i = 0; i < which.threads; i++) {
        tide_address base = 0;
        uint64_t bytes = kCommitPages * kPageBytes;
        tide_space *space = spaces[spaces.size() == 1 ? 0 : i];
        check(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE), "tide_virtual_alloc");
        parts[i] = { space, base, kCommitPages };
    }
    const uint64_t operations = (options().quick ? 200000 : 1600000) / which.threads;
    Team team(which.threads);
    auto work = [&](Lane &lane) {
        const Part part = parts[lane.index];
        repeat(lane, operations, [part](uint64_t i) {
            tide_address page = part.base + i % part.pages * kPageBytes;
            uint64_t bytes = kPageBytes;
            check(tide_virtual_alloc(part.space, &page, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), "commit");
            check(tide_virtual_free(part.space, page, bytes, TIDE_MEM_DECOMMIT), "decommit");
            return true;
        });
    };
    Result result;
    team.run(work);
    for (auto _ : state) {
        const Pass pass = team.run(work);
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(team.run(work, true));
    if (which.last_round)
        engine.verify();
    for (tide_space *space : spaces)
        check(tide_space_destroy(space), "tide_space_destroy");
    result.publish(state);
}

void protect_passes(benchmark::State &state, const Case &which)
{
    const uint64_t bytes = kCommitPages * kPageBytes;
    std::vector<char *> parts(which.threads);
    for (char *&part : parts) {
        void *memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED)
            throw std::runtime_error(std::string("mmap: ") + strerror(errno));
        part = static_cast<char *>(memory);
    }
    const uint64_t operations = (options().quick ? 10000 : 160000) / which.threads;
    Team team(which.threads);
    auto work = [&](Lane &lane) {
        char *const part = parts[lane.index];
        repeat(lane, operations, [part](uint64_t i) {
            char *const page = part + i % kCommitPages * kPageBytes;
            return mprotect(page, kPageBytes, PROT_READ | PROT_WRITE) == 0 &&
                   mprotect(page, kPageBytes, PROT_NONE) == 0;
        });
    };
    Result result;
    for (auto _ : state) {
        const Pass pass = team.run(work);
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(team.run(work, true));
    for (char *part : parts)
        munmap(part, bytes);
    result.require_kind(which);
    result.publish(state);
}

/* ---- many regions ------------------------------------------------------------------------------------------------ */

struct SpaceOwner {
    tide_space *space = nullptr;

    explicit SpaceOwner(Engine &engine)
    {
        check(tide_space_create(engine.get(), &space), "tide_space_create");
    }
    ~SpaceOwner()
    {
        tide_space_destroy(space);
    }
    SpaceOwner(const SpaceOwner &) = delete;
    SpaceOwner &operator=(const SpaceOwner &) = delete;
};

void commit_page(tide_space *space, tide_address page)
{
    uint64_t bytes = kPageBytes;
    check(tide_virtual_alloc(space, &page, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE), "tide_virtual_alloc");
}

/*
 * A space with a number of regions at addresses that the engine chose, and the address of every 64 KiB in them,
 * shuffled.
 */
class Regions {
  public:
    Regions(Engine &engine, uint64_t count, uint64_t bases) : owner_(engine)
    {
        for (uint64_t i = 0; i < count; i++) {
            const tide_address base = reserve(bases / count * kRegionBytes);
            for (uint64_t n = 0; n < bases / count; n++)
                bases_.push_back(base + n * kRegionBytes);
        }
        const std::vector<uint32_t> order = random_order(bases, 7);
        std::vector<tide_address> shuffled(bases);
        for (uint64_t i = 0; i < bases; i++)
            shuffled[i] = bases_[order[i]];
        bases_.swap(shuffled);
    }
    tide_address reserve(uint64_t bytes = kRegionBytes) const
    {
        tide_address base = 0;
        check(tide_virtual_alloc(space(), &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE), "tide_virtual_alloc");
        return base;
    }
    tide_space *space() const
    {
        return owner_.space;
    }
    std::vector<tide_address> &bases()
    {
        return bases_;
    }

  private:
    SpaceOwner owner_;
    std::vector<tide_address> bases_;
};

enum class Call { kReserve, kQuery, kFault, kApart, kAsked };

bool is_fault(Call call)
{
    return call != Call::kReserve && call != Call::kQuery;
}

Pass region_pass(Engine &engine, Team &team, Regions &regions, Call call, uint64_t round, bool sampling)
{
    std::vector<tide_address> &bases = regions.bases();
    tide_space *const space = regions.space();
    const uint64_t operations = kMany;
    if (!is_fault(call))
        return team.run(
            [&](Lane &lane) {
                Random random(round);
                uint64_t next = random.next() % bases.size();
                repeat(lane, operations, [&](uint64_t) {
                    tide_address &base = bases[next];
                    next = random.next() % bases.size();
                    __builtin_prefetch(&bases[next]); /* the list of addresses is no part of what is measured */
                    if (call == Call::kQuery) {
                        tide_region region;
                        check(tide_virtual_query(space, base, &region), "tide_virtual_query");
                        return region.allocation_base == base;
                    }
                    check(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE), "tide_virtual_free");
                    base = regions.reserve();
                    return true;
                });
            },
            sampling);
    (void)engine.zero_free_frames();
    return team.run(
        [&](Lane &lane) {
            repeat(lane, bases.size(), [&](uint64_t i) {
                return tide_touch(space, bases[i], TIDE_ACCESS_WRITE) == TIDE_PAGE_FAULT_DEMAND_ZERO;
            });
        },
        sampling);
}

void region_passes(benchmark::State &state, const Case &which, Call call, uint64_t count)
{
    Engine &engine = calls_engine();
    Team team(1);
    Result result;
    const uint64_t bases = call == Call::kApart || call == Call::kAsked ? kMany : count;
    std::unique_ptr<Regions> regions = std::make_unique<Regions>(engine, count, bases);
    uint64_t round = 0;
    if (call == Call::kAsked) {
        tide_placement placement = {};
        placement.struct_bytes = sizeof placement;
        placement.policy = TIDE_PLACEMENT_PREFERRED;
        check(tide_space_set_placement(regions->space(), &placement), "tide_space_set_placement");
    }
    auto pass = [&](bool sampling) {
        /* A page faults for the first time once, so it is decommitted after each pass. */
        if (is_fault(call))
            for (tide_address base : regions->bases()) {
                if (round != 0)
                    check(tide_virtual_free(regions->space(), base, kPageBytes, TIDE_MEM_DECOMMIT),
                          "tide_virtual_free");
                commit_page(regions->space(), base);
            }
        return region_pass(engine, team, *regions, call, round++, sampling);
    };
    (void)pass(false);
    for (auto _ : state) {
        const Pass timed = pass(false);
        state.SetIterationTime(timed.seconds);
        result.add(timed);
    }
    result.add_latencies(pass(true));
    regions.reset();
    result.require_kind(which);
    result.publish(state);
}

} // namespace

void close_calls_engine()
{
    g_engine.reset();
}

void add_calls_cases()
{
    const unsigned passes = options().quick ? 2 : 4;
    for (unsigned round = 0; round < options().rounds; round++) {
        Case which;
        which.round = round;
        which.last_round = round + 1 == options().rounds;
        auto named = [&](const std::string &name) {
            which.name = name;
            return which;
        };
        for (unsigned threads : thread_counts())
            for (Space space : { Space::kPrivate, Space::kShared }) {
                which.threads = threads;
                which.space = space;
                if (class_wanted("commit"))
                    add_case(named("commit"), passes, commit_passes);
                if (class_wanted("commit") || class_wanted("kernel_protect"))
                    add_case(named("kernel_protect"), 1, protect_passes);
                if (class_wanted("commit") && space == Space::kPrivate)
                    add_processor_case(which);
            }
        which.threads = 1;
        which.space = Space::kPrivate;
        for (auto [name, call] : { std::make_pair("reserve", Call::kReserve), std::make_pair("query", Call::kQuery),
                                   std::make_pair("fault", Call::kFault), std::make_pair("fault_apart", Call::kApart),
                                   std::make_pair("fault_asked", Call::kAsked) })
            for (uint64_t count : { kFew, kMany }) {
                const std::string full = std::string(name) + "_" + std::to_string(count);
                const Call what = call;
                if (class_wanted(full))
                    add_case(named(full), call == Call::kFault && count == kFew ? 50 : passes,
                             [what, count](benchmark::State &state, const Case &c) {
                                 region_passes(state, c, what, count);
                             });
            }
    }
}

} // namespace bench

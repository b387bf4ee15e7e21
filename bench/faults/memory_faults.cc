/*
 * Faults that read nothing: demand zero, soft from standby, soft from modified; and the cost of a demand-zero fault in
 * a small and in a large engine. In every pass each thread touches the pages of its own part, one after the other.
 *
 *   demand_zero    a fresh region; every frame that it will get was zeroed before the pass (zero_free_frames)
 *   soft_standby   pages that were written out and trimmed: clean, on standby; touched for reading
 *   soft_modified  pages that were trimmed dirty while the modified-page writer is held; touched for writing
 *
 * All three and their rivals share one engine. Its frames hold what a pass touches and a third more, and besides the
 * pages of soft_standby, which are written out once and stay for all cases: kMostThreads parts in private spaces and as
 * many in one shared space. With fewer threads each thread has several parts.
 *
 * A pass is valid only if its touches took the fault that the class is about, which the status of each touch and the
 * engine's counters tell.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "soft_spaces.h"

#include <memory>

namespace bench {

namespace {

constexpr unsigned kMostThreads = 64;

std::unique_ptr<Engine> g_engine;
std::unique_ptr<Spaces> g_standby[2]; /* by Space */

Engine &memory_engine()
{
    if (!g_engine)
        g_engine = std::make_unique<Engine>((options().fault_bytes / 3 + options().fault_bytes) / kMiB * kMiB +
                                                2 * options().fault_bytes,
                                            2 * options().fault_bytes + 16 * kMiB);
    return *g_engine;
}

/* The pages of soft_standby in a kind of space: clean and on standby. */
Spaces &standby_spaces(Space kind)
{
    std::unique_ptr<Spaces> &spaces = g_standby[static_cast<int>(kind)];
    if (!spaces) {
        Engine &engine = memory_engine();
        Team team(kMostThreads);
        spaces = std::make_unique<Spaces>(engine, kind, kMostThreads, options().fault_bytes);
        spaces->commit();
        spaces->touch_all(team, TIDE_ACCESS_WRITE);
        spaces->trim();
        engine.empty(TIDE_EMPTY_MODIFIED);
    }
    return *spaces;
}

/* The touches of one thread: all pages of a part, ascending. */
void touch_part(Lane &lane, const Part &part, tide_access_kind kind, tide_status wanted)
{
    tide_space *const space = part.space;
    const tide_address base = part.base;
    repeat(lane, part.pages, [=](uint64_t i) {
        tide_status status = tide_touch(space, base + i * kPageBytes, kind);
        check(status, "tide_touch");
        return status == wanted;
    });
}

/* Gives the result what the counters of one pass say. */
void add_counters(Result &result, const tide_statistics &delta)
{
    const uint64_t faults = faults_resolved(delta.faults);
    if (faults != 0)
        result.set("local_share", static_cast<double>(delta.faults.local) / static_cast<double>(faults));
}

void require(bool holds, const Case &which, const std::string &what)
{
    if (!holds)
        throw std::runtime_error(which.name + ": " + what);
}

/* The last case of a class checks the whole engine while the pages of the class are still there. */
bool is_last(const Case &which)
{
    return which.last_round && which.threads == kMostThreads && which.space == Space::kShared;
}

/* ---- demand zero ------------------------------------------------------------------------------------------------- */

/* One pass from fresh regions to touched ones, with set-up. */
Pass demand_zero_pass(Engine &engine, Spaces &spaces, Team &team, const Case &which, Result &result, bool sampling)
{
    CounterDelta with_setup(engine);
    spaces.commit();
    const double zeroing_seconds = engine.zero_free_frames();

    CounterDelta counters(engine);
    Pass pass = team.run(
        [&](Lane &lane) { touch_part(lane, spaces.part(lane.index), TIDE_ACCESS_WRITE, TIDE_PAGE_FAULT_DEMAND_ZERO); },
        sampling);
    tide_statistics delta = counters.delta();
    require(delta.inline_zeroed * 100 <= pass.operations, which,
            std::to_string(delta.inline_zeroed) + " faults had to zero their frame, although all were zeroed before");
    add_counters(result, delta);
    if (!sampling)
        result.add_background_cpu(zeroing_seconds + with_setup.worker_cpu_seconds());
    return pass;
}

void demand_zero_passes(benchmark::State &state, const Case &which, Engine &engine, uint64_t bytes)
{
    Team team(which.threads);
    Spaces spaces(engine, which.space, which.threads, bytes);
    Result result;
    /* The first pass of new threads, which also introduces them to the engine, does not count. */
    spaces.commit();
    spaces.touch_all(team, TIDE_ACCESS_WRITE);
    spaces.release();
    for (auto _ : state) {
        Pass pass = demand_zero_pass(engine, spaces, team, which, result, false);
        spaces.release();
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(demand_zero_pass(engine, spaces, team, which, result, true));
    if (is_last(which))
        engine.verify();
    spaces.release();

    result.require_kind(which);
    tide_statistics statistics = engine.statistics();
    result.set("frames", static_cast<double>(statistics.total_pages));
    result.set("pfn_bytes_per_frame",
               static_cast<double>(statistics.pfn_database_bytes) / static_cast<double>(statistics.total_pages));
    result.set("overhead_share", static_cast<double>(statistics.overhead_bytes) /
                                     static_cast<double>(statistics.total_pages * kPageBytes));
    result.publish(state);
}

/* ---- soft -------------------------------------------------------------------------------------------------------- */

/* One pass of soft faults over spaces that were trimmed: each thread touches an equal number of parts. */
Pass soft_pass(Engine &engine, const Spaces &spaces, Team &team, const Case &which, Result &result, bool sampling,
               bool from_standby)
{
    const tide_access_kind kind = from_standby ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    const unsigned parts = spaces.parts() / team.threads();
    CounterDelta counters(engine);
    Pass pass = team.run(
        [&](Lane &lane) {
            for (unsigned i = 0; i < parts; i++)
                touch_part(lane, spaces.part(lane.index * parts + i), kind, TIDE_PAGE_FAULT_TRANSITION);
        },
        sampling);
    tide_statistics delta = counters.delta();
    const uint64_t wanted = from_standby ? delta.faults.transition_standby : delta.faults.transition_modified;
    require(wanted * 100 >= pass.attempted * 99, which,
            "only " + std::to_string(wanted) + " of " + std::to_string(pass.attempted) +
                " touches found their page on the list");
    add_counters(result, delta);
    if (!sampling)
        result.add_background_cpu(counters.worker_cpu_seconds());
    return pass;
}

void soft_passes(benchmark::State &state, const Case &which, bool from_standby)
{
    Engine &engine = memory_engine();
    Team team(which.threads);
    std::unique_ptr<Hold> hold;
    std::unique_ptr<Spaces> fresh;
    Spaces *spaces;
    if (from_standby) {
        spaces = &standby_spaces(which.space);
    } else {
        hold = std::make_unique<Hold>(engine, TIDE_WORKER_MODIFIED_WRITER);
        fresh = std::make_unique<Spaces>(engine, which.space, which.threads, options().fault_bytes);
        spaces = fresh.get();
        spaces->commit();
        spaces->touch_all(team, TIDE_ACCESS_WRITE);
        spaces->trim();
    }
    (void)engine.zero_free_frames(); /* leaves the zero-page threads nothing to do during the passes */

    Result result, discarded;
    /* The first pass of new threads does not count. */
    (void)soft_pass(engine, *spaces, team, which, discarded, false, from_standby);
    spaces->trim();
    for (auto _ : state) {
        Pass pass = soft_pass(engine, *spaces, team, which, result, false, from_standby);
        spaces->trim();
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(soft_pass(engine, *spaces, team, which, result, true, from_standby));
    if (is_last(which)) {
        /* Verification reads every clean page's copy in the page file: some are enough, and they are needed no more. */
        if (from_standby) {
            g_standby[static_cast<int>(Space::kPrivate)].reset();
            spaces->decommit_all_but(64 * kMiB);
        }
        engine.verify();
    }
    if (from_standby)
        spaces->trim();
    else
        spaces->release();
    if (from_standby && is_last(which))
        g_standby[static_cast<int>(Space::kShared)].reset();
    result.require_kind(which);
    result.publish(state);
}

/* ---- frames step ------------------------------------------------------------------------------------------------- */

/* A fresh engine of a size, and as many faults in the small one as in the large one. */
void engine_size_passes(benchmark::State &state, const Case &which, uint64_t engine_bytes)
{
    Engine engine(engine_bytes, 0);
    demand_zero_passes(state, which, engine, engine_bytes / 4 * 3);
    if (which.last_round)
        engine.verify();
}

} // namespace

void close_memory_engine()
{
    for (std::unique_ptr<Spaces> &spaces : g_standby)
        spaces.reset();
    g_engine.reset();
}

void add_memory_cases()
{
    const bool demand_zero = class_wanted("demand_zero"), standby = class_wanted("soft_standby"),
               modified = class_wanted("soft_modified");
    const bool rivals =
        demand_zero || standby || modified || class_wanted("kernel_fresh") || class_wanted("kernel_again");
    const unsigned passes = options().quick ? 4 : 8;
    for (unsigned round = 0; round < options().rounds; round++)
        for (unsigned threads : thread_counts())
            for (Space space : { Space::kPrivate, Space::kShared }) {
                Case which;
                which.space = space;
                which.threads = threads;
                which.round = round;
                which.last_round = round + 1 == options().rounds;
                auto named = [&](const char *name) {
                    which.name = name;
                    return which;
                };
                if (standby)
                    add_case(named("soft_standby"), passes,
                             [](benchmark::State &state, const Case &c) { soft_passes(state, c, true); });
                if (rivals)
                    add_kernel_memory_case("kernel_again", which);
                if (demand_zero)
                    add_case(named("demand_zero"), passes, [](benchmark::State &state, const Case &c) {
                        demand_zero_passes(state, c, memory_engine(), options().fault_bytes);
                    });
                if (rivals)
                    add_kernel_memory_case("kernel_fresh", which);
                if (rivals && space == Space::kPrivate)
                    add_processor_case(which);
                if (modified)
                    add_case(named("soft_modified"), passes,
                             [](benchmark::State &state, const Case &c) { soft_passes(state, c, false); });
            }
}

void add_frames_cases()
{
    if (!class_wanted("demand_zero") || options().large_engine_bytes == 0)
        return;
    const uint64_t small = options().small_engine_bytes, large = options().large_engine_bytes;
    for (unsigned round = 0; round < options().rounds; round++) {
        Case which;
        which.round = round;
        which.last_round = round + 1 == options().rounds;
        which.name = "demand_zero_256MiB";
        add_case(which, static_cast<unsigned>(large / small),
                 [small](benchmark::State &state, const Case &c) { engine_size_passes(state, c, small); });
        which.name = "demand_zero_16GiB";
        add_case(which, 1, [large](benchmark::State &state, const Case &c) { engine_size_passes(state, c, large); });
    }
}

} // namespace bench

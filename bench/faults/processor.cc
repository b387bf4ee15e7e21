/*
 * What the processors of this machine give to work that shares nothing: each thread adds, with the lock prefix, to
 * words of its own, which stay in its first-level cache.
 *
 * It is the rival of every "N threads over 1": two processors of a virtual machine may be two halves of one core, and a
 * neighbour may have one of them at times. What even this work loses by that, no memory manager can give back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"

namespace bench {

namespace {

constexpr uint64_t kWords = 512;

void processor_passes(benchmark::State &state, const Case &which)
{
    const uint64_t additions = (options().quick ? 8 : 32) * kMiB / which.threads;
    Team team(which.threads);
    Result result;
    auto pass = [&](bool sampling) {
        return team.run(
            [&](Lane &lane) {
                alignas(128) std::atomic<uint64_t> words[kWords] = {};
                uint64_t at = lane.index;
                repeat(lane, additions, [&](uint64_t i) {
                    at = at * 6364136223846793005u + i;
                    at += words[at >> 32 & (kWords - 1)].fetch_add(1, std::memory_order_seq_cst);
                    return true;
                });
                benchmark::DoNotOptimize(at);
            },
            sampling);
    };
    for (auto _ : state) {
        const Pass timed = pass(false);
        state.SetIterationTime(timed.seconds);
        result.add(timed);
    }
    result.add_latencies(pass(true));
    result.publish(state);
}

} // namespace

void add_processor_case(const Case &which)
{
    Case named = which;
    named.name = "processor";
    named.space = Space::kPrivate;
    add_case(named, 2, processor_passes);
}

} // namespace bench

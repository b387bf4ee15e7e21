/*
 * The kernel's own anonymous faults, measured as the engine's are: each thread writes one byte to each page of its
 * part, one page after the other; taking the memory back is outside the time.
 *
 *   kernel_fresh  a mapping that was just made
 *   kernel_again  a mapping that was touched once and given back by MADV_DONTNEED: its page tables are still there
 *
 * Private: a mapping for each thread. Shared: one mapping, a part for each thread. Both are in one process, as spaces
 * of an engine are. Transparent huge pages are off for these mappings (MADV_NOHUGEPAGE), since a fault of the engine
 * gives 4 KiB.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"

#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace bench {

namespace {

class Mappings {
  public:
    Mappings(Space kind, unsigned threads, uint64_t bytes) : part_bytes_(bytes / threads), parts_(threads)
    {
        const unsigned count = kind == Space::kPrivate ? threads : 1;
        const uint64_t parts_per_mapping = threads / count;
        for (unsigned m = 0; m < count; m++) {
            void *memory = mmap(nullptr, parts_per_mapping * part_bytes_, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
            if (memory == MAP_FAILED)
                throw std::runtime_error(std::string("mmap: ") + strerror(errno));
            mappings_.push_back(static_cast<char *>(memory));
            madvise(memory, parts_per_mapping * part_bytes_, MADV_NOHUGEPAGE);
            for (uint64_t p = 0; p < parts_per_mapping; p++)
                parts_[m * parts_per_mapping + p] = mappings_[m] + p * part_bytes_;
        }
    }
    ~Mappings()
    {
        for (char *mapping : mappings_)
            munmap(mapping, part_bytes_ * parts_.size() / mappings_.size());
    }
    Mappings(const Mappings &) = delete;
    Mappings &operator=(const Mappings &) = delete;

    void give_back()
    {
        for (char *mapping : mappings_)
            madvise(mapping, part_bytes_ * parts_.size() / mappings_.size(), MADV_DONTNEED);
    }

    Pass touch(Team &team, bool sampling) const
    {
        return team.run(
            [&](Lane &lane) {
                volatile char *const base = parts_[lane.index];
                repeat(lane, part_bytes_ / kPageBytes, [=](uint64_t i) {
                    base[i * kPageBytes] = 1;
                    return true;
                });
            },
            sampling);
    }

  private:
    uint64_t part_bytes_;
    std::vector<char *> mappings_;
    std::vector<char *> parts_;
};

void kernel_passes(benchmark::State &state, const Case &which, bool again)
{
    Team team(which.threads);
    Result result;
    if (again) {
        Mappings mappings(which.space, which.threads, options().rival_bytes);
        mappings.touch(team, false);
        for (auto _ : state) {
            mappings.give_back();
            Pass pass = mappings.touch(team, false);
            state.SetIterationTime(pass.seconds);
            result.add(pass);
        }
        mappings.give_back();
        result.add_latencies(mappings.touch(team, true));
    } else {
        for (auto _ : state) {
            Mappings mappings(which.space, which.threads, options().rival_bytes);
            Pass pass = mappings.touch(team, false);
            state.SetIterationTime(pass.seconds);
            result.add(pass);
        }
        Mappings mappings(which.space, which.threads, options().rival_bytes);
        result.add_latencies(mappings.touch(team, true));
    }
    result.publish(state);
}

} // namespace

void add_kernel_memory_case(const std::string &name, const Case &which)
{
    Case named = which;
    named.name = name;
    const bool again = name == "kernel_again";
    add_case(named, 1, [again](benchmark::State &state, const Case &c) { kernel_passes(state, c, again); });
}

} // namespace bench

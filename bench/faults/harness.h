/*
 * What every benchmark of this folder measures with: a team of threads that begin together, a clock, a sample of
 * latencies, and the counters that go into Google Benchmark's JSON.
 *
 * Google Benchmark registers the cases, filters them, and writes the results. It does not run the threads: its own
 * threads enter the timed loop after each other and cannot do work between two iterations that stays outside the
 * time, and a fault benchmark is mostly such work (trimming, writing out, zeroing). So each case is a Google Benchmark
 * with manual time, and a Team does a pass: one timed stretch of work on N threads.
 *
 * How a pass is timed. The threads are woken, and wait for each other by yielding, never by sleeping, so that no thread
 * has to be woken once the first begins. They also wait, for at most 20 ms, until the scheduler has spread them evenly
 * over the CPUs. Then each takes the time, works, and takes the time again; the pass lasts
 * from the first begin to the last end. Threads are not pinned.
 *
 * A case is named class/space/threads:N/round:R. Rounds are the repetitions; cases are registered round by round, so
 * that the engine and its rivals alternate and a drift of the machine meets both.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDE_BENCH_HARNESS_H
#define TIDE_BENCH_HARNESS_H

#include <benchmark/benchmark.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <regex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace bench {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMiB = uint64_t{ 1 } << 20;
constexpr uint64_t kGiB = uint64_t{ 1 } << 30;

/** What the command line asks for, and the sizes that follow from it and from this machine. Set before any case. */
struct Options {
    bool quick = false;
    unsigned rounds = 0;             /* repetitions of each case; 0: 3 if quick, else 5 */
    std::string step;                /* faults, frames, disk, resident, mapped, calls or numa */
    unsigned nodes = 0;              /* of a synthetic machine that engines believe in; 0: this machine */
    std::string directory = ".";     /* where page files and the rival's file go */
    std::regex classes{ ".*" };      /* classes to run */
    uint64_t fault_bytes = 0;        /* touched by one pass of the demand-zero and soft classes */
    uint64_t rival_bytes = 0;        /* touched by one pass of the kernel's anonymous faults, which are slower */
    uint64_t disk_bytes = 0;         /* pages on disk of the hard classes, and size of the rival's file */
    uint64_t resident_bytes = 0;     /* memory of the resident classes */
    uint64_t mapped_bytes = 0;       /* touched by one pass of the mapped classes without I/O, and by their rivals' */
    uint64_t budget_bytes = 0;       /* memory for the mapped classes that have four times as much data */
    uint64_t small_engine_bytes = 0; /* the two engines of the frames step */
    uint64_t large_engine_bytes = 0; /* 0: this machine has not the memory, or quick */
};
Options &options();

/** Derives the sizes from quick and from the memory that is available now. Throws if it is too little for any step. */
void choose_sizes();

uint64_t now_ns();
uint64_t thread_cpu_ns();
unsigned cpu_count();

/** Latencies of one pass, sampled: one operation in kSampleEvery, which is prime so that it falls on no batch size. */
constexpr uint64_t kSampleEvery = 17;

/** What one thread of a team is, in one pass. On cache lines of its own. */
struct alignas(128) Lane {
    unsigned index = 0;
    bool sampling = false;
    uint64_t operations = 0;       /* written by the work: operations of the kind that the class is about */
    uint64_t attempted = 0;        /* written by the work: all operations */
    std::vector<uint32_t> samples; /* ns; room is made before the pass */

    uint64_t begin_ns = 0;
    uint64_t end_ns = 0;
    uint64_t cpu_ns = 0;
    std::atomic<int> cpu{ -1 };
    std::string error;

    void sample(uint64_t ns)
    {
        if (samples.size() < samples.capacity())
            samples.push_back(ns > UINT32_MAX ? UINT32_MAX : static_cast<uint32_t>(ns));
    }
};

/**
 * Does operation(i) for i in [0, count), each returning whether it was of the kind that is measured, and counts them in
 * the lane. Takes samples if the lane is to.
 */
template <class Operation> void repeat(Lane &lane, uint64_t count, Operation operation)
{
    uint64_t hits = 0;
    if (!lane.sampling) {
        for (uint64_t i = 0; i < count; i++)
            hits += operation(i) ? 1u : 0u;
    } else {
        for (uint64_t i = 0; i < count; i++) {
            if (i % kSampleEvery != kSampleEvery - 1) {
                hits += operation(i) ? 1u : 0u;
                continue;
            }
            uint64_t begin = now_ns();
            hits += operation(i) ? 1u : 0u;
            lane.sample(now_ns() - begin);
        }
    }
    lane.operations += hits;
    lane.attempted += count;
}

/** One timed stretch of work. */
struct Pass {
    uint64_t operations = 0;
    uint64_t attempted = 0;
    double seconds = 0;
    double cpu_seconds = 0; /* of the team's threads, inside the stretch */
    std::vector<uint32_t> samples;
};

class Team {
  public:
    explicit Team(unsigned threads);
    ~Team();
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    unsigned threads() const
    {
        return static_cast<unsigned>(lanes_.size());
    }

    /** Runs the work once on each thread. Throws what a thread threw. @param room for so many samples in each lane. */
    Pass run(const std::function<void(Lane &)> &work, bool sampling = false, size_t room = 65536);

  private:
    void thread_main(Lane &lane);
    void wait_for_start(Lane &lane);
    bool spread_over_cpus() const;

    std::vector<Lane> lanes_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;                      /* generation_ or stopping_ changed */
    std::condition_variable done_;                      /* running_ reached 0 */
    const std::function<void(Lane &)> *work_ = nullptr; /* [L:mutex_] */
    uint64_t generation_ = 0;                           /* [L:mutex_] */
    unsigned running_ = 0;                              /* [L:mutex_] */
    bool stopping_ = false;                             /* [L:mutex_] */
    std::atomic<unsigned> arrived_{ 0 };
    std::atomic<bool> go_{ false };
};

/** How address spaces are given to threads: one for each, or one for all with a part for each. */
enum class Space { kPrivate, kShared };
const char *space_name(Space space);

/** A case has no figure for a reason that lies with a rival or the host: told, and no failure. */
class NotMeasured : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct Case {
    std::string name; /* the class */
    Space space = Space::kPrivate;
    unsigned threads = 1;
    unsigned round = 0;
    bool last_round = false;
};

/** Sums the passes of one case and hands the figures to Google Benchmark. */
class Result {
  public:
    void add(const Pass &pass);
    void add_latencies(const Pass &pass);
    void set(const std::string &counter, double value)
    {
        extra_[counter] = value;
    }
    /** CPU time that the work cost outside the passes: background workers, zeroing ahead. */
    void add_background_cpu(double seconds)
    {
        background_cpu_seconds_ += seconds;
    }
    uint64_t operations() const
    {
        return operations_;
    }
    /** Throws if less than 99 % of the operations were of the kind that the class is about. */
    void require_kind(const Case &which) const;
    void publish(benchmark::State &state);

  private:
    uint64_t operations_ = 0;
    uint64_t attempted_ = 0;
    double seconds_ = 0;
    double cpu_seconds_ = 0;
    double background_cpu_seconds_ = 0;
    std::vector<uint32_t> samples_;
    std::map<std::string, double> extra_;
};

/** Registers a case with a fixed number of passes. An exception from the body marks case and run as failed. */
void add_case(const Case &which, unsigned passes, const std::function<void(benchmark::State &, const Case &)> &body);
unsigned case_count();
/** Does the error of a case say that it was not measured? */
bool is_not_measured(const std::string &message);
bool any_case_failed();

/** Thread counts of a step: 1, 2, 4, 8, 16 and 64, or 1, 2 and 64 in a quick run. */
std::vector<unsigned> thread_counts();

bool class_wanted(const std::string &name);

/** Repeatable random numbers (splitmix64). */
struct Random {
    uint64_t state;
    explicit Random(uint64_t seed) : state(seed)
    {
    }
    uint64_t next()
    {
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
};

/** 0 to count - 1 in random order. */
std::vector<uint32_t> random_order(uint64_t count, uint64_t seed);

/* The steps: each registers its cases. close_engines() ends what they keep open between cases. */
void add_memory_cases();
void add_frames_cases();
void add_disk_cases();
void add_resident_cases();
void add_mapped_cases();
void add_calls_cases();
void add_numa_cases();
void add_processor_case(const Case &which);
void add_kernel_memory_case(const std::string &name, const Case &which);
void close_memory_engine();
void close_disk_engine();
void close_resident_engine();
void close_mapped_engine();
void close_calls_engine();
void close_numa_engine();

} // namespace bench
#endif

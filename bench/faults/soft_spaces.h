/*
 * The engine as the benchmarks use it, through the public headers only: owners that close what they open, and the
 * spaces and parts that a team's threads work on.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDE_BENCH_SOFT_SPACES_H
#define TIDE_BENCH_SOFT_SPACES_H

#include "harness.h"

#include <pagetide/pagetide.h>

namespace bench {

/** Throws with the library's own message. */
[[noreturn]] void throw_tide(const char *what, tide_status status);

inline void check(tide_status status, const char *what)
{
    if (__builtin_expect(tide_failed(status), 0))
        throw_tide(what, status);
}

/** An open engine. Worker threads run as by default; a page file, if there is one, is in options().directory. */
class Engine {
  public:
    /** @param on_demand for mapped spaces: frames get memory when they are first used. */
    Engine(uint64_t frame_bytes, uint64_t page_file_bytes, unsigned cluster_pages = 0, bool on_demand = false);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    tide_engine *get() const
    {
        return engine_;
    }
    void empty(tide_empty what);
    void hold(tide_worker worker, bool held);
    /**
     * Zeroes every free frame, and makes sure of it: the zero-page threads are held meanwhile, so that none of them
     * keeps a batch in hand, and it is repeated while frames wait for their grace period.
     * @return CPU seconds that the calling thread spent.
     */
    double zero_free_frames();
    tide_statistics statistics() const;
    /** Runs tide_engine_verify() and throws what it found. */
    void verify() const;

  private:
    tide_engine *engine_ = nullptr;
};

/** Holds a kind of worker as long as it lives. */
class Hold {
  public:
    Hold(Engine &engine, tide_worker worker) : engine_(engine), worker_(worker)
    {
        engine_.hold(worker_, true);
    }
    ~Hold()
    {
        tide_worker_hold(engine_.get(), worker_, false);
    }
    Hold(const Hold &) = delete;
    Hold &operator=(const Hold &) = delete;

  private:
    Engine &engine_;
    tide_worker worker_;
};

/** The pages of one thread. */
struct Part {
    tide_space *space = nullptr;
    tide_address base = 0;
    uint64_t pages = 0;
};

/**
 * Spaces for a team, with one region each and a given size in total: private, a space for each thread; shared, one
 * space, in which the threads' parts follow each other.
 */
class Spaces {
  public:
    Spaces(Engine &engine, Space kind, unsigned threads, uint64_t bytes);
    ~Spaces();
    Spaces(const Spaces &) = delete;
    Spaces &operator=(const Spaces &) = delete;

    /** Also TIDE_MEM_LARGE_PAGES. */
    void commit(uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    void release();
    /** Shared spaces only. */
    void decommit_all_but(uint64_t bytes);
    /** Takes every page out of the working sets. */
    void trim();
    const Part &part(unsigned thread) const
    {
        return parts_[thread];
    }
    unsigned parts() const
    {
        return static_cast<unsigned>(parts_.size());
    }
    uint64_t pages() const
    {
        return pages_per_part_ * parts_.size();
    }
    /** One touch of each page by the team, outside any timing. */
    void touch_all(Team &team, tide_access_kind kind) const;

  private:
    uint64_t pages_per_part_;
    std::vector<tide_space *> spaces_;
    std::vector<Part> parts_;
};

/**
 * What the engine's counters say about a stretch: opened before the set-up of a pass, and read after the pass. Result
 * gets the share of faults that were resolved on the local node, and the workers' CPU time.
 */
class CounterDelta {
  public:
    explicit CounterDelta(Engine &engine) : engine_(engine), before_(engine.statistics())
    {
    }
    tide_statistics delta() const;
    double worker_cpu_seconds() const;

  private:
    Engine &engine_;
    tide_statistics before_;
};

uint64_t faults_resolved(const tide_fault_counters &faults);

} // namespace bench
#endif

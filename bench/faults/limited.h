/*
 * The kernel as a rival under a limit: a child process in a memory control group of its own whose limit is what it uses
 * once its threads run plus the engine's budget. It maps a file, or anonymous memory that goes to a swap, and roams
 * over it when it is told to. It is a process of its own because a control group limits whole processes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDE_BENCH_LIMITED_H
#define TIDE_BENCH_LIMITED_H

#include "harness.h"

#include <sys/types.h>

namespace bench {

/** Why no process can be put under a limit here; empty if it can. */
const std::string &why_no_limit();

/** A place to swap to, for as long as it lives. */
class Swap {
  public:
    enum class Kind { kFile, kZram };
    /** Throws with the reason if this host does not allow it. */
    Swap(Kind kind, uint64_t bytes);
    ~Swap();
    Swap(const Swap &) = delete;
    Swap &operator=(const Swap &) = delete;

  private:
    void undo();

    Kind kind_;
    std::string path_;
    bool sized_ = false, on_ = false;
};

/** The child. */
class LimitedRival {
  public:
    /** @param file path of the file to map, which holds `bytes`; empty for anonymous memory. */
    LimitedRival(const std::string &file, uint64_t bytes, uint64_t budget);
    ~LimitedRival();
    LimitedRival(const LimitedRival &) = delete;
    LimitedRival &operator=(const LimitedRival &) = delete;

    /** Figures of one pass, by name, as a case publishes them. */
    std::map<std::string, double> roam(unsigned threads, unsigned write_percent, uint64_t duration_ns, uint64_t seed);

    unsigned settled_percent = 100; /**< share of writes of the passes that it is in the long run of; 100: none yet */

  private:
    std::string read_line();
    void end();

    std::string group_;
    pid_t child_ = 0;
    FILE *to_ = nullptr, *from_ = nullptr;
};

/** The child's main(): `tide-bench --limited GROUP FILE BYTES BUDGET`. */
int limited_main(int argc, char **argv);

} // namespace bench
#endif

/*
 * A file that rivals read, and fio on it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDE_BENCH_RIVAL_FILE_H
#define TIDE_BENCH_RIVAL_FILE_H

#include "harness.h"

namespace bench {

/** A file, written through O_DIRECT so that it is on the disk and in no cache. Removed at the end. */
class RivalFile {
  public:
    /** @param fill gives page number `page` its content; pages come in ascending order. */
    RivalFile(const std::string &name, uint64_t bytes, const std::function<void(uint64_t page, uint64_t *words)> &fill);
    ~RivalFile();
    RivalFile(const RivalFile &) = delete;
    RivalFile &operator=(const RivalFile &) = delete;

    int fd() const
    {
        return fd_;
    }
    const std::string &path() const
    {
        return path_;
    }
    uint64_t bytes() const
    {
        return bytes_;
    }

  private:
    std::string path_;
    uint64_t bytes_;
    int fd_;
};

/** fio randread, 4 KiB, O_DIRECT, psync, as many threads as the case has, over the whole file. */
void fio_pass(benchmark::State &state, const Case &which, const RivalFile &file, uint64_t duration_ns);

} // namespace bench
#endif

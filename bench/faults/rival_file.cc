/*
 * The rivals' file, and fio. See rival_file.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rival_file.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sstream>
#include <unistd.h>

namespace bench {

namespace {

std::runtime_error system_error(const std::string &what)
{
    return std::runtime_error(what + ": " + strerror(errno));
}

/* The number after a percentile's name in fio's terse output (microseconds), as nanoseconds. */
double fio_percentile_ns(const std::string &terse, const std::string &name)
{
    const size_t at = terse.find(";" + name + "=");
    return at == std::string::npos ? 0 : std::stod(terse.substr(at + name.size() + 2)) * 1000;
}

} // namespace

RivalFile::RivalFile(const std::string &name, uint64_t bytes,
                     const std::function<void(uint64_t page, uint64_t *words)> &fill)
    : path_(options().directory + "/" + name), bytes_(bytes)
{
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
    if (fd_ < 0)
        throw system_error("cannot create " + path_ + " with O_DIRECT");
    const size_t chunk = kMiB;
    void *buffer = nullptr;
    if (posix_memalign(&buffer, kPageBytes, chunk) != 0)
        throw std::runtime_error("no memory for the rival's file");
    std::unique_ptr<void, decltype(&free)> owner(buffer, &free);
    for (uint64_t offset = 0; offset < bytes; offset += chunk) {
        for (size_t i = 0; i < chunk; i += kPageBytes)
            fill((offset + i) / kPageBytes, reinterpret_cast<uint64_t *>(static_cast<char *>(buffer) + i));
        if (pwrite(fd_, buffer, chunk, static_cast<off_t>(offset)) != static_cast<ssize_t>(chunk))
            throw system_error("cannot write " + path_);
    }
    fsync(fd_);
}

RivalFile::~RivalFile()
{
    close(fd_);
    unlink(path_.c_str());
}

void fio_pass(benchmark::State &state, const Case &which, const RivalFile &file, uint64_t duration_ns)
{
    const std::string seconds = std::to_string(duration_ns / 1000000) + "ms";
    const std::string command = "fio --name=rival --filename='" + file.path() +
                                "' --rw=randread --bs=4k --direct=1 --ioengine=psync"
                                " --thread=1 --numjobs=" +
                                std::to_string(which.threads) + " --size=" + std::to_string(file.bytes()) +
                                " --time_based=1 --runtime=" + seconds + " --group_reporting=1 --minimal";
    std::string output;
    for (auto _ : state) {
        FILE *pipe = popen(command.c_str(), "r");
        if (pipe == nullptr)
            throw system_error("cannot run fio");
        std::array<char, 4096> buffer;
        for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
            output.append(buffer.data(), n);
        if (pclose(pipe) != 0)
            throw std::runtime_error("fio failed: " + command + "\n" + output);
        state.SetIterationTime(static_cast<double>(duration_ns) / 1e9);
    }
    /* Terse format 3: field 8 is the read IOPS. */
    std::istringstream fields(output);
    std::string field;
    for (int i = 0; i < 8; i++)
        if (!std::getline(fields, field, ';'))
            throw std::runtime_error("fio's output is not its terse format 3: " + output);
    const double iops = std::stod(field);
    state.counters["faults_per_s"] = iops;
    state.counters["faults"] = iops * static_cast<double>(duration_ns) / 1e9;
    state.counters["p50_ns"] = fio_percentile_ns(output, "50.000000%");
    state.counters["p99_ns"] = fio_percentile_ns(output, "99.000000%");
    state.counters["p999_ns"] = fio_percentile_ns(output, "99.900000%");
}

} // namespace bench

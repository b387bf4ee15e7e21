/*
 * Control groups, swaps, and the child that lives under a limit. The idea is in limited.h.
 *
 * Parent and child talk by lines: the child says "ready" once its memory is filled; the parent sends "THREADS
 * WRITE_PERCENT NANOSECONDS SEED"; the child answers "ok NAME=VALUE ...", or "error TEXT" and ends. It ends when its
 * input does.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "limited.h"
#include "touches.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

namespace bench {

namespace {

std::runtime_error system_error(const std::string &what)
{
    return std::runtime_error(what + ": " + strerror(errno));
}

std::string read_first_line(const std::string &path)
{
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

void write_file(const std::string &path, const std::string &text)
{
    const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
    const bool written = fd >= 0 && write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    const int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    if (!written)
        throw system_error("cannot write \"" + text + "\" to " + path);
}

/* ---- control groups ---------------------------------------------------------------------------------------------- */

/* The field of /proc/self/cgroup for a controller ("" is version 2), or "". */
std::string own_group(const std::string &controller)
{
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        std::istringstream names(line.substr(first + 1, second - first - 1));
        std::string name;
        if (controller.empty() && second == first + 1)
            return line.substr(second + 1);
        while (std::getline(names, name, ','))
            if (!controller.empty() && name == controller)
                return line.substr(second + 1);
    }
    return "";
}

/* Where a file system is mounted: the memory controller of version 1, or version 2. */
std::string group_root(bool version_2)
{
    std::ifstream file("/proc/self/mounts");
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string device, folder, type, options;
        words >> device >> folder >> type >> options;
        if (version_2 ? type == "cgroup2"
                      : type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos)
            return folder;
    }
    return "";
}

/* A folder in which a group with a limit can be made; what is beneath it is the children's. */
std::string group_parent()
{
    const std::string first = group_root(false);
    if (!first.empty()) {
        /* Below our own, so that what limits us limits the child. In a container its name may not be there. */
        const std::string own = first + own_group("memory");
        return access(own.c_str(), W_OK) == 0 ? own : first;
    }
    const std::string second = group_root(true);
    if (second.empty())
        throw std::runtime_error("no memory control group is mounted");
    /* A group with processes cannot give controllers to its children: a sibling of our own then. */
    std::string own = second + own_group("");
    if (own != second + "/")
        own = own.substr(0, own.rfind('/'));
    if ((" " + read_first_line(own + "/cgroup.subtree_control") + " ").find(" memory ") == std::string::npos)
        write_file(own + "/cgroup.subtree_control", "+memory");
    return own;
}

std::string group_create()
{
    static unsigned number;
    const std::string path =
        group_parent() + "/tide-bench-" + std::to_string(getpid()) + "-" + std::to_string(number++);
    if (mkdir(path.c_str(), 0755) != 0)
        throw system_error("cannot make the control group " + path);
    return path;
}

void group_remove(const std::string &path)
{
    /* Its pages of the page cache go with it, which can take a moment. */
    for (int i = 0; i < 1000 && rmdir(path.c_str()) != 0 && errno == EBUSY; i++)
        usleep(1000);
}

bool group_is_version_1(const std::string &group)
{
    return access((group + "/memory.limit_in_bytes").c_str(), F_OK) == 0;
}

void group_limit(const std::string &group, uint64_t budget)
{
    const bool first = group_is_version_1(group);
    const std::string used = read_first_line(group + (first ? "/memory.usage_in_bytes" : "/memory.current"));
    write_file(group + (first ? "/memory.limit_in_bytes" : "/memory.max"), std::to_string(std::stoull(used) + budget));
}

} // namespace

const std::string &why_no_limit()
{
    static const std::string why = []() -> std::string {
        std::string group;
        try {
            group = group_create();
            group_limit(group, kGiB);
        } catch (const std::exception &exception) {
            if (!group.empty())
                group_remove(group);
            return exception.what();
        }
        group_remove(group);
        return "";
    }();
    return why;
}

/* ---- swaps ------------------------------------------------------------------------------------------------------- */

Swap::Swap(Kind kind, uint64_t bytes) : kind_(kind)
{
    try {
        if (geteuid() != 0)
            throw std::runtime_error("swapon needs root");
        if (kind == Kind::kFile) {
            path_ = options().directory + "/tide-bench.swap";
            const int fd = open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
            const int error = fd < 0 ? errno : posix_fallocate(fd, 0, static_cast<off_t>(bytes));
            if (fd >= 0)
                close(fd);
            errno = error;
            if (error != 0)
                throw system_error("cannot make " + path_);
        } else {
            const std::string device = "/sys/block/zram0";
            if (access(device.c_str(), F_OK) != 0)
                throw std::runtime_error("there is no /dev/zram0");
            if (read_first_line(device + "/initstate") != "0")
                throw std::runtime_error("/dev/zram0 is in use");
            write_file(device + "/disksize", std::to_string(bytes));
            sized_ = true;
            path_ = "/dev/zram0";
        }
        if (system(("mkswap '" + path_ + "' >/dev/null 2>&1").c_str()) != 0)
            throw std::runtime_error("mkswap " + path_ + " failed");
        if (swapon(path_.c_str(), SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) != 0)
            throw system_error("swapon " + path_);
        on_ = true;
    } catch (...) {
        undo();
        throw;
    }
}

Swap::~Swap()
{
    undo();
}

void Swap::undo()
{
    if (on_ && swapoff(path_.c_str()) != 0)
        fprintf(stderr, "swapoff %s: %s\n", path_.c_str(), strerror(errno));
    if (kind_ == Kind::kFile && !path_.empty())
        unlink(path_.c_str());
    try {
        if (sized_)
            write_file("/sys/block/zram0/reset", "1");
    } catch (const std::exception &exception) {
        fprintf(stderr, "%s\n", exception.what());
    }
}

/* ---- parent ------------------------------------------------------------------------------------------------------ */

LimitedRival::LimitedRival(const std::string &file, uint64_t bytes, uint64_t budget) : group_(group_create())
{
    int down[2], up[2];
    if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0)
        throw system_error("pipe");
    const std::string bytes_text = std::to_string(bytes), budget_text = std::to_string(budget);
    child_ = fork();
    if (child_ == 0) {
        dup2(down[0], 0);
        dup2(up[1], 1);
        execl("/proc/self/exe", "tide-bench", "--limited", group_.c_str(), file.c_str(), bytes_text.c_str(),
              budget_text.c_str(), static_cast<char *>(nullptr));
        _exit(127);
    }
    close(down[0]);
    close(up[1]);
    to_ = fdopen(down[1], "w");
    from_ = fdopen(up[0], "r");
    try {
        if (child_ < 0)
            throw system_error("fork");
        read_line();
    } catch (...) {
        end();
        throw;
    }
}

LimitedRival::~LimitedRival()
{
    end();
}

void LimitedRival::end()
{
    fclose(to_);
    fclose(from_);
    if (child_ > 0)
        waitpid(child_, nullptr, 0);
    group_remove(group_);
}

std::string LimitedRival::read_line()
{
    char line[1024];
    if (fgets(line, sizeof line, from_) == nullptr)
        throw NotMeasured("the rival under a limit has ended, as when its control group ran out of memory");
    const std::string text(line, strcspn(line, "\n"));
    if (text.compare(0, 6, "error ") == 0)
        throw std::runtime_error("the rival under a limit: " + text.substr(6));
    return text;
}

std::map<std::string, double> LimitedRival::roam(unsigned threads, unsigned write_percent, uint64_t duration_ns,
                                                 uint64_t seed)
{
    fprintf(to_, "%u %u %llu %llu\n", threads, write_percent, static_cast<unsigned long long>(duration_ns),
            static_cast<unsigned long long>(seed));
    fflush(to_);
    std::istringstream words(read_line());
    std::map<std::string, double> figures;
    std::string word;
    words >> word;
    while (words >> word) {
        const size_t equals = word.find('=');
        figures[word.substr(0, equals)] = std::stod(word.substr(equals + 1));
    }
    return figures;
}

/* ---- child ------------------------------------------------------------------------------------------------------- */

namespace {

constexpr size_t kSamples = 2048; /* of each thread: they take memory of the limit */

char *child_map(const std::string &file, uint64_t bytes)
{
    int fd = -1;
    if (!file.empty() && (fd = open(file.c_str(), O_RDWR | O_CLOEXEC)) < 0)
        throw system_error("cannot open " + file);
    void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        throw system_error("mmap");
    madvise(memory, bytes, MADV_NOHUGEPAGE);
    madvise(memory, bytes, MADV_RANDOM);
    return static_cast<char *>(memory);
}

/* As much of the file as the limit holds, spread over all of it. */
void child_warm(const char *base, uint64_t bytes, uint64_t budget)
{
    Team team(64);
    team.run([&](Lane &lane) {
        for (uint64_t offset = lane.index * kPageBytes; offset < budget; offset += 64 * kPageBytes)
            (void)*static_cast<const volatile char *>(base + offset / kPageBytes * (bytes / budget) * kPageBytes);
    });
}

uint64_t major_faults()
{
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return static_cast<uint64_t>(usage.ru_majflt);
}

void child_pass(char *base, uint64_t pages, const std::string &request)
{
    unsigned threads, write_percent;
    uint64_t duration_ns, seed;
    std::istringstream(request) >> threads >> write_percent >> duration_ns >> seed;
    Team team(threads);
    const uint64_t before = major_faults();
    Pass pass = team.run(
        [&](Lane &lane) {
            roam(lane, { base, pages, write_percent, duration_ns, seed });
        },
        true, kSamples);
    const double reads = static_cast<double>(major_faults() - before);
    std::sort(pass.samples.begin(), pass.samples.end());
    auto percentile = [&](double share) {
        return static_cast<double>(
            pass.samples[static_cast<size_t>(share * static_cast<double>(pass.samples.size() - 1))]);
    };
    const double touches = static_cast<double>(pass.operations);
    printf("ok faults=%g seconds=%g faults_per_s=%g thread_cpu_ns_per_fault=%g faults_per_cpu_s=%g p50_ns=%g p99_ns=%g "
           "p999_ns=%g hit_share=%g page_reads_per_s=%g\n",
           touches, pass.seconds, touches / pass.seconds, pass.cpu_seconds * 1e9 / touches, touches / pass.cpu_seconds,
           percentile(0.5), percentile(0.99), percentile(0.999), 1 - reads / touches, reads / pass.seconds);
}

} // namespace

int limited_main(int argc, char **argv)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setvbuf(stdout, nullptr, _IOLBF, 0);
    try {
        if (argc != 6)
            throw std::runtime_error("wrong arguments");
        const std::string group = argv[2], file = argv[3];
        const uint64_t bytes = std::stoull(argv[4]), budget = std::stoull(argv[5]);
        write_file(group + "/cgroup.procs", std::to_string(getpid()));
        char *const base = child_map(file, bytes);
        {
            Team team(64); /* what its threads and the samples of a pass take is not of the budget */
            team.run([](Lane &) {}, true, kSamples);
            group_limit(group, budget);
        }
        if (file.empty()) {
            Team team(2);
            roam_fill(team, base, bytes / kPageBytes);
        } else {
            child_warm(base, bytes, budget);
        }
        printf("ready\n");
        for (std::string request; std::getline(std::cin, request);)
            child_pass(base, bytes / kPageBytes, request);
    } catch (const std::exception &exception) {
        printf("error %s\n", exception.what());
        return 1;
    }
    return 0;
}

} // namespace bench

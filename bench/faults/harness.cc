/*
 * Clock, team, results, registration. The idea is in harness.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <memory>
#include <sched.h>

namespace bench {

namespace {

uint64_t read_clock(clockid_t clock)
{
    timespec time;
    clock_gettime(clock, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

/* What two readings of the clock with nothing between them differ by: subtracted from every sample. */
uint64_t clock_cost_ns()
{
    static const uint64_t cost = [] {
        std::vector<uint64_t> differences(1001);
        for (uint64_t &difference : differences) {
            uint64_t begin = now_ns();
            difference = now_ns() - begin;
        }
        std::nth_element(differences.begin(), differences.begin() + 500, differences.end());
        return differences[500];
    }();
    return cost;
}

/* Memory that can be taken now: MemAvailable, or the limit of the control group if that is less. */
uint64_t available_bytes()
{
    uint64_t available = 0;
    std::ifstream meminfo("/proc/meminfo");
    for (std::string line; std::getline(meminfo, line);)
        if (line.compare(0, 13, "MemAvailable:") == 0)
            available = std::stoull(line.substr(13)) * 1024;
    std::ifstream limit_file("/sys/fs/cgroup/memory.max");
    uint64_t limit;
    if (limit_file >> limit)
        available = std::min(available, limit);
    return available;
}

uint64_t power_of_two_below(uint64_t value)
{
    uint64_t power = 1;
    while (power <= value / 2)
        power *= 2;
    return power;
}

unsigned g_case_count;
bool g_failed;
const std::string kNotMeasured = "not measured: "; /* report.py knows it by these words */

} // namespace

Options &options()
{
    static Options instance;
    return instance;
}

void choose_sizes()
{
    Options &o = options();
    const uint64_t available = available_bytes();
    if (available < 768 * kMiB)
        throw std::runtime_error("only " + std::to_string(available / kMiB) +
                                 " MiB of memory are available, and the benchmark needs 768 MiB");
    if (o.rounds == 0)
        o.rounds = o.quick ? 3 : 5;
    /* Many threads lose some of each pass at its ends, so it should last long. Frames are 10/3 of what is touched. */
    o.fault_bytes = std::min((o.quick ? 1024 : 4096) * kMiB, power_of_two_below(available / 5));
    o.rival_bytes = std::min((o.quick ? 256 : 1024) * kMiB, o.fault_bytes);
    o.disk_bytes = std::min((o.quick ? 128 : 512) * kMiB, power_of_two_below(available / 4));
    /* Engine and rival hold theirs at the same time. */
    o.resident_bytes = std::min(kGiB, power_of_two_below(available * 2 / 5));
    o.mapped_bytes = (o.quick ? 64 : 128) * kMiB;
    o.budget_bytes = std::min((o.quick ? 64 : 128) * kMiB, power_of_two_below(available / 16));
    o.small_engine_bytes = 256 * kMiB;
    o.large_engine_bytes = !o.quick && available >= 20 * kGiB ? 16 * kGiB : 0;
}

uint64_t now_ns()
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t thread_cpu_ns()
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

unsigned cpu_count()
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return std::max(1u, std::thread::hardware_concurrency());
    return static_cast<unsigned>(CPU_COUNT(&set));
}

/* ---- team -------------------------------------------------------------------------------------------------------- */

Team::Team(unsigned threads) : lanes_(threads)
{
    for (unsigned i = 0; i < threads; i++) {
        lanes_[i].index = i;
        threads_.emplace_back([this, i] { thread_main(lanes_[i]); });
    }
}

Team::~Team()
{
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread &thread : threads_)
        thread.join();
}

/* No CPU has more than its share of the threads, and a little. */
bool Team::spread_over_cpus() const
{
    static const unsigned cpus = cpu_count();
    unsigned on_cpu[1024] = { 0 }, most = 0;
    for (const Lane &lane : lanes_)
        most = std::max(most, ++on_cpu[static_cast<unsigned>(lane.cpu.load(std::memory_order_relaxed)) % 1024]);
    return most <= (threads() + cpus - 1) / cpus + threads() / 16;
}

void Team::wait_for_start(Lane &lane)
{
    const uint64_t deadline = now_ns() + 20000000;
    lane.cpu.store(sched_getcpu(), std::memory_order_relaxed);
    arrived_.fetch_add(1, std::memory_order_acq_rel);
    while (!go_.load(std::memory_order_acquire)) {
        lane.cpu.store(sched_getcpu(), std::memory_order_relaxed);
        if (lane.index == 0 && arrived_.load(std::memory_order_acquire) == threads() &&
            (spread_over_cpus() || now_ns() > deadline))
            go_.store(true, std::memory_order_release);
        else
            sched_yield();
    }
}

void Team::thread_main(Lane &lane)
{
    uint64_t seen = 0;
    for (;;) {
        const std::function<void(Lane &)> *work;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
            if (stopping_)
                return;
            seen = generation_;
            work = work_;
        }
        wait_for_start(lane);
        const uint64_t cpu_begin = thread_cpu_ns();
        lane.begin_ns = now_ns();
        try {
            (*work)(lane);
        } catch (const std::exception &exception) {
            lane.error = exception.what();
        }
        lane.end_ns = now_ns();
        lane.cpu_ns = thread_cpu_ns() - cpu_begin;
        std::lock_guard<std::mutex> lock(mutex_);
        if (--running_ == 0)
            done_.notify_one();
    }
}

Pass Team::run(const std::function<void(Lane &)> &work, bool sampling, size_t room)
{
    for (Lane &lane : lanes_) {
        lane.operations = lane.attempted = 0;
        lane.sampling = sampling;
        lane.error.clear();
        lane.samples.clear();
        if (sampling) {
            /* Written once, so that the room is real memory before the pass. */
            lane.samples.assign(room, 0);
            lane.samples.clear();
        }
    }
    arrived_.store(0);
    go_.store(false);
    {
        std::unique_lock<std::mutex> lock(mutex_);
        work_ = &work;
        running_ = threads();
        generation_++;
        wake_.notify_all();
        done_.wait(lock, [&] { return running_ == 0; });
    }

    Pass pass;
    uint64_t begin = UINT64_MAX, end = 0, cpu = 0;
    for (Lane &lane : lanes_) {
        if (!lane.error.empty())
            throw std::runtime_error(lane.error);
        begin = std::min(begin, lane.begin_ns);
        end = std::max(end, lane.end_ns);
        cpu += lane.cpu_ns;
        pass.operations += lane.operations;
        pass.attempted += lane.attempted;
        pass.samples.insert(pass.samples.end(), lane.samples.begin(), lane.samples.end());
    }
    pass.seconds = static_cast<double>(end - begin) / 1e9;
    pass.cpu_seconds = static_cast<double>(cpu) / 1e9;
    return pass;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

const char *space_name(Space space)
{
    return space == Space::kPrivate ? "private" : "shared";
}

void Result::add(const Pass &pass)
{
    operations_ += pass.operations;
    attempted_ += pass.attempted;
    seconds_ += pass.seconds;
    cpu_seconds_ += pass.cpu_seconds;
}

void Result::add_latencies(const Pass &pass)
{
    samples_.insert(samples_.end(), pass.samples.begin(), pass.samples.end());
}

void Result::require_kind(const Case &which) const
{
    if (operations_ * 100 < attempted_ * 99)
        throw std::runtime_error(which.name + ": only " + std::to_string(operations_) + " of " +
                                 std::to_string(attempted_) + " touches took the fault that the class is about");
}

void Result::publish(benchmark::State &state)
{
    auto counter = [&](const std::string &name, double value) { state.counters[name] = benchmark::Counter(value); };
    counter("faults", static_cast<double>(operations_));
    counter("seconds", seconds_);
    counter("faults_per_s", static_cast<double>(operations_) / seconds_);
    counter("thread_cpu_ns_per_fault", cpu_seconds_ * 1e9 / static_cast<double>(operations_));
    const double cpu = cpu_seconds_ + background_cpu_seconds_;
    if (cpu > 0)
        counter("faults_per_cpu_s", static_cast<double>(operations_) / cpu);
    if (!samples_.empty()) {
        std::sort(samples_.begin(), samples_.end());
        const double cost = static_cast<double>(clock_cost_ns());
        auto percentile = [&](double share) {
            size_t index = static_cast<size_t>(share * static_cast<double>(samples_.size() - 1));
            return std::max(0.0, static_cast<double>(samples_[index]) - cost);
        };
        counter("p50_ns", percentile(0.50));
        counter("p99_ns", percentile(0.99));
        counter("p999_ns", percentile(0.999));
    }
    for (const auto &extra : extra_)
        counter(extra.first, extra.second);
}

/* ---- registration ------------------------------------------------------------------------------------------------ */

void add_case(const Case &which, unsigned passes, const std::function<void(benchmark::State &, const Case &)> &body)
{
    const std::string name = which.name + "/" + space_name(which.space) + "/threads:" + std::to_string(which.threads) +
                             "/round:" + std::to_string(which.round);
    g_case_count++;
    benchmark::RegisterBenchmark(name.c_str(),
                                 [which, body](benchmark::State &state) {
                                     try {
                                         body(state, which);
                                     } catch (const NotMeasured &why) {
                                         state.SkipWithError((kNotMeasured + why.what()).c_str());
                                     } catch (const std::exception &exception) {
                                         g_failed = true;
                                         state.SkipWithError(exception.what());
                                     }
                                 })
        ->Iterations(passes)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
}

bool is_not_measured(const std::string &message)
{
    return message.compare(0, kNotMeasured.size(), kNotMeasured) == 0;
}

unsigned case_count()
{
    return g_case_count;
}

bool any_case_failed()
{
    return g_failed;
}

std::vector<unsigned> thread_counts()
{
    if (options().quick)
        return { 1, 2, 64 };
    return { 1, 2, 4, 8, 16, 64 };
}

bool class_wanted(const std::string &name)
{
    return std::regex_search(name, options().classes);
}

std::vector<uint32_t> random_order(uint64_t count, uint64_t seed)
{
    std::vector<uint32_t> order(count);
    Random random(seed);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t j = random.next() % (i + 1);
        order[i] = order[j];
        order[j] = static_cast<uint32_t>(i);
    }
    return order;
}

} // namespace bench

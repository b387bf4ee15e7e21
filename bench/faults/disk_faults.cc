/*
 * Faults that read the disk, and their rivals. Threads touch pages in random order for a fixed time.
 *
 *   hard             pages in the page file; each thread has pages of its own
 *   collided         all threads touch the same pages in the same order: one reads, the others wait for it and are
 *                    counted too. One shared space, since pages of different spaces are different pages
 *   fio              fio randread, 4 KiB, O_DIRECT, psync, as many threads, on a file as large on the same disk
 *   kernel_file      the kernel's own hard faults: a mapped file that is not in the page cache, MADV_RANDOM
 *   kernel_collided  the same, all threads on the same pages
 *
 * The engine reads single pages here (cluster_pages 1), because the rivals do: with clustering, a hard fault would
 * bring in its neighbours, and most touches would be soft.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "rival_file.h"
#include "soft_spaces.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace bench {

namespace {

std::runtime_error system_error(const std::string &what)
{
    return std::runtime_error(what + ": " + strerror(errno));
}

uint64_t pass_ns()
{
    return options().quick ? 300000000 : 1000000000;
}

/* Touches pages in the lane's order until the time is over or the pages are; every touch is a latency sample. */
template <class Touch> void touch_until(Lane &lane, const std::vector<uint32_t> &order, Touch touch)
{
    const uint64_t end = now_ns() + pass_ns();
    uint64_t hits = 0, attempted = 0;
    for (uint32_t page : order) {
        const uint64_t begin = now_ns();
        if (begin >= end)
            break;
        const bool hit = touch(page);
        hits += hit ? 1u : 0u;
        attempted++;
        if (hit)
            lane.sample(now_ns() - begin);
    }
    lane.operations += hits;
    lane.attempted += attempted;
}

/* An order for each thread over its own pages, or one order for all. */
std::vector<std::vector<uint32_t>> make_orders(const Case &which, uint64_t pages, bool same)
{
    std::vector<std::vector<uint32_t>> orders;
    for (unsigned i = 0; i < which.threads; i++)
        orders.push_back(random_order(same ? pages : pages / which.threads, same ? 1 : 1 + i));
    return orders;
}

/* ---- engine ------------------------------------------------------------------------------------------------------ */

std::unique_ptr<Engine> g_engine;

Engine &disk_engine()
{
    if (!g_engine)
        g_engine = std::make_unique<Engine>(options().disk_bytes / 8 * 10, options().disk_bytes + 16 * kMiB, 1);
    return *g_engine;
}

void engine_passes(benchmark::State &state, const Case &which, bool collided)
{
    Engine &engine = disk_engine();
    Team team(which.threads);
    Spaces spaces(engine, which.space, which.threads, options().disk_bytes);
    const auto orders = make_orders(which, spaces.pages(), collided);

    spaces.commit();
    spaces.touch_all(team, TIDE_ACCESS_WRITE);
    Result result;
    for (auto _ : state) {
        spaces.trim();
        engine.empty(TIDE_EMPTY_MODIFIED);
        engine.empty(TIDE_EMPTY_STANDBY);
        (void)engine.zero_free_frames();
        CounterDelta counters(engine);
        Pass pass = team.run(
            [&](Lane &lane) {
                const Part &part = spaces.part(collided ? 0 : lane.index);
                touch_until(lane, orders[lane.index], [&](uint32_t page) {
                    tide_status status = tide_touch(part.space, part.base + page * kPageBytes, TIDE_ACCESS_READ);
                    check(status, "tide_touch");
                    return collided ? status != TIDE_SUCCESS : status == TIDE_PAGE_FAULT_PAGING_FILE;
                });
            },
            true);
        tide_statistics delta = counters.delta();
        if (collided) {
            result.set("hard", static_cast<double>(delta.faults.hard));
            result.set("collided", static_cast<double>(delta.faults.collided));
        }
        const uint64_t resolved = faults_resolved(delta.faults);
        if (resolved != 0)
            result.set("local_share",
                       std::min(1.0, static_cast<double>(delta.faults.local) / static_cast<double>(resolved)));
        result.add_background_cpu(counters.worker_cpu_seconds());
        state.SetIterationTime(pass.seconds);
        result.add(pass);
        result.add_latencies(pass);
    }
    if (which.last_round && which.threads == 64 && which.space == Space::kShared)
        engine.verify();
    spaces.release();
    if (!collided)
        result.require_kind(which);
    result.publish(state);
}

/* ---- rivals ------------------------------------------------------------------------------------------------------ */

std::unique_ptr<RivalFile> g_rival_file;

RivalFile &rival_file()
{
    if (!g_rival_file) {
        auto random = std::make_shared<Random>(7);
        g_rival_file =
            std::make_unique<RivalFile>("tide-bench.rival", options().disk_bytes, [random](uint64_t, uint64_t *words) {
                for (uint64_t i = 0; i < kPageBytes / 8; i++)
                    words[i] = random->next();
            });
    }
    return *g_rival_file;
}

/* A mapping of a part of the file, for random reading. */
class FileMapping {
  public:
    FileMapping(int fd, uint64_t offset, uint64_t bytes) : bytes_(bytes)
    {
        void *memory = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(offset));
        if (memory == MAP_FAILED)
            throw system_error("mmap of the rival's file");
        memory_ = static_cast<char *>(memory);
        madvise(memory_, bytes_, MADV_RANDOM);
    }
    ~FileMapping()
    {
        munmap(memory_, bytes_);
    }
    FileMapping(const FileMapping &) = delete;
    FileMapping &operator=(const FileMapping &) = delete;
    volatile const char *memory() const
    {
        return memory_;
    }

  private:
    char *memory_;
    uint64_t bytes_;
};

uint64_t thread_fault_count()
{
    rusage usage;
    getrusage(RUSAGE_THREAD, &usage);
    return static_cast<uint64_t>(usage.ru_minflt + usage.ru_majflt);
}

void kernel_passes(benchmark::State &state, const Case &which, bool collided)
{
    RivalFile &file = rival_file();
    Team team(which.threads);
    const uint64_t bytes = options().disk_bytes, part_bytes = bytes / which.threads;
    const auto orders = make_orders(which, bytes / kPageBytes, collided);
    Result result;
    for (auto _ : state) {
        posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
        std::vector<std::unique_ptr<FileMapping>> mappings;
        for (unsigned i = 0; i < (which.space == Space::kPrivate ? which.threads : 1); i++)
            mappings.push_back(std::make_unique<FileMapping>(file.fd(), i * part_bytes,
                                                             which.space == Space::kPrivate ? part_bytes : bytes));
        Pass pass = team.run(
            [&](Lane &lane) {
                volatile const char *base = which.space == Space::kPrivate
                                                ? mappings[lane.index]->memory()
                                                : mappings[0]->memory() + (collided ? 0 : lane.index * part_bytes);
                const uint64_t before = thread_fault_count();
                touch_until(lane, orders[lane.index], [&](uint32_t page) {
                    (void)base[page * kPageBytes];
                    return true;
                });
                if (collided)
                    lane.operations = std::min(lane.operations, thread_fault_count() - before);
            },
            true);
        state.SetIterationTime(pass.seconds);
        result.add(pass);
        result.add_latencies(pass);
    }
    result.publish(state);
}

} // namespace

void close_disk_engine()
{
    g_engine.reset();
    g_rival_file.reset();
}

void add_disk_cases()
{
    const bool hard = class_wanted("hard"), collided = class_wanted("collided");
    for (unsigned round = 0; round < options().rounds; round++)
        for (unsigned threads : thread_counts()) {
            Case which;
            which.threads = threads;
            which.round = round;
            which.last_round = round + 1 == options().rounds;
            auto named = [&](const char *name, Space space) {
                which.name = name;
                which.space = space;
                return which;
            };
            for (Space space : { Space::kPrivate, Space::kShared }) {
                if (hard)
                    add_case(named("hard", space), 1,
                             [](benchmark::State &state, const Case &c) { engine_passes(state, c, false); });
                if (space == Space::kPrivate && (hard || class_wanted("fio")))
                    add_case(named("fio", Space::kShared), 1, [](benchmark::State &state, const Case &c) {
                        fio_pass(state, c, rival_file(), pass_ns());
                    });
                if (hard || class_wanted("kernel_file"))
                    add_case(named("kernel_file", space), 1,
                             [](benchmark::State &state, const Case &c) { kernel_passes(state, c, false); });
            }
            if (collided) {
                add_case(named("collided", Space::kShared), 1,
                         [](benchmark::State &state, const Case &c) { engine_passes(state, c, true); });
                add_case(named("kernel_collided", Space::kShared), 1,
                         [](benchmark::State &state, const Case &c) { kernel_passes(state, c, true); });
            }
        }
}

} // namespace bench

/*
 * Mapped spaces: touches of a program through plain pointers, and the kernel doing the same. One space, or mapping, for
 * all threads, as a program has it.
 *
 *   mapped_fresh, mapped_fresh_random   write touch of pages that were never touched, in ascending or in random order. The
 *                                       memory is allocated and zeroed inside the time
 *   mapped_fresh_threads                as mapped_fresh, resolved by handler threads (TIDE_DELIVERY_THREADS); full runs
 *   anonymous_fresh, anonymous_random   anonymous memory after MADV_DONTNEED, without huge pages
 *   mapped_soft, mapped_soft_random     write touch of pages that were trimmed and are still in memory
 *   memfd_soft, memfd_random            a mapped memfd after MADV_DONTNEED: the pages stay in the file
 *   mapped_hard                         read touch of pages that are only in the page file, in random order
 *   file_hard                           a mapped file that is not in the page cache, MADV_RANDOM
 *   mapped_read, mapped_mixed           random touches over four times the budget, 0 and 50 % of them writes
 *   file_..., swap_..., zram_...        a mapped file, or anonymous memory with a swap, in a control group with that limit
 *   fio_mapped                          fio randread over a file as large
 *   mapped_resident                     loads of 8 bytes at random, all in memory
 *   malloc_4k, malloc_huge              malloc()'s memory behind pages of 4 KiB, and behind huge pages
 *
 * A rate is touches a second, whether they faulted or not; what a touch found (hits, page reads) is told beside it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "limited.h"
#include "rival_file.h"
#include "soft_spaces.h"
#include "touches.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <memory>
#include <sstream>
#include <sys/mman.h>
#include <unistd.h>

#include <pagetide/mapped.h>

namespace bench {

namespace {

constexpr uint64_t kOversize = 4; /* times the budget */
constexpr unsigned kMostThreads = 64;
/* Page file, in sizes of the data: in one that is just large enough hardly two free slots are ever side by side. */
constexpr unsigned kRoamFile = 2;

std::runtime_error system_error(const std::string &what)
{
    return std::runtime_error(what + ": " + strerror(errno));
}

void require(bool holds, const Case &which, const std::string &what)
{
    if (!holds)
        throw std::runtime_error(which.name + ": " + what);
}

/* Many threads meet the disk and the writers in waves, which a short pass would catch one of. */
uint64_t pass_ns(unsigned threads)
{
    return options().quick && threads < kMostThreads ? 200000000 : 1000000000;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/** A mapped space with one region. */
class MappedMemory {
  public:
    MappedMemory(Engine &engine, uint64_t bytes, tide_delivery delivery = TIDE_DELIVERY_SIGNAL) : bytes_(bytes)
    {
        tide_mapped_options options;
        tide_mapped_options_init(&options);
        options.delivery = delivery;
        check(tide_mapped_space_create(engine.get(), &options, &space_), "tide_mapped_space_create");
        commit();
    }
    ~MappedMemory()
    {
        tide_status status = tide_space_destroy(space_);
        if (tide_failed(status))
            fprintf(stderr, "tide_space_destroy: %s\n", tide_status_name(status));
    }
    MappedMemory(const MappedMemory &) = delete;
    MappedMemory &operator=(const MappedMemory &) = delete;

    void commit()
    {
        uint64_t bytes = bytes_;
        address_ = 0;
        check(tide_virtual_alloc(space_, &address_, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
              "tide_virtual_alloc");
    }
    void release()
    {
        check(tide_virtual_free(space_, address_, 0, TIDE_MEM_RELEASE), "tide_virtual_free");
    }
    void trim()
    {
        check(tide_working_set_empty(space_), "tide_working_set_empty");
    }
    char *base() const
    {
        return static_cast<char *>(tide_pointer(address_));
    }
    uint64_t bytes() const
    {
        return bytes_;
    }
    uint64_t pages() const
    {
        return bytes_ / kPageBytes;
    }
    tide_mapped_statistics statistics() const
    {
        tide_mapped_statistics statistics = {};
        statistics.struct_bytes = sizeof statistics;
        check(tide_mapped_query(space_, &statistics), "tide_mapped_query");
        return statistics;
    }

  private:
    uint64_t bytes_;
    tide_space *space_ = nullptr;
    tide_address address_ = 0;
};

/** The kernel's own: anonymous memory, or a memfd. Huge pages off. */
class PlainMemory {
  public:
    PlainMemory(uint64_t bytes, bool in_file) : bytes_(bytes)
    {
        const int fd = in_file ? memfd_create("tide-bench", MFD_CLOEXEC) : -1;
        if (in_file && (fd < 0 || ftruncate(fd, static_cast<off_t>(bytes)) != 0))
            throw system_error("memfd_create");
        void *memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            in_file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, 0);
        if (fd >= 0)
            close(fd);
        if (memory == MAP_FAILED)
            throw system_error("mmap");
        base_ = static_cast<char *>(memory);
        madvise(base_, bytes_, MADV_NOHUGEPAGE);
    }
    ~PlainMemory()
    {
        munmap(base_, bytes_);
    }
    PlainMemory(const PlainMemory &) = delete;
    PlainMemory &operator=(const PlainMemory &) = delete;
    void trim()
    {
        madvise(base_, bytes_, MADV_DONTNEED);
    }
    char *base() const
    {
        return base_;
    }
    uint64_t bytes() const
    {
        return bytes_;
    }

  private:
    uint64_t bytes_;
    char *base_;
};

/* ---- without I/O ------------------------------------------------------------------------------------------------- */

std::unique_ptr<Engine> g_memory_engine;
std::unique_ptr<MappedMemory> g_fresh, g_fresh_threads, g_soft;
std::unique_ptr<PlainMemory> g_anonymous, g_memfd;

/* No page file: what is trimmed stays on the modified list. Frames for two passes and the page tables. */
Engine &memory_engine()
{
    if (!g_memory_engine)
        g_memory_engine = std::make_unique<Engine>(options().mapped_bytes / 4 * 13, 0, 0, true);
    return *g_memory_engine;
}

MappedMemory &memory(std::unique_ptr<MappedMemory> &owner, Engine &engine, uint64_t bytes,
                     tide_delivery delivery = TIDE_DELIVERY_SIGNAL)
{
    if (!owner)
        owner = std::make_unique<MappedMemory>(engine, bytes, delivery);
    return *owner;
}

/*
 * Passes of one case: `prepare` and `clean` lie outside the time. The first pass of new threads does not count, and the
 * last is for latencies alone.
 */
void touch_passes(benchmark::State &state, const Case &which, const std::function<char *()> &prepare,
                  const std::function<void()> &clean, bool random, Engine *engine)
{
    const uint64_t bytes = options().mapped_bytes;
    const auto orders = part_orders(which.threads, bytes / kPageBytes / which.threads, random);
    Team team(which.threads);
    Result result;
    auto one = [&](bool sampling) {
        char *const base = prepare();
        Pass pass = touch_parts(team, base, bytes, orders, sampling);
        clean();
        return pass;
    };
    (void)one(false);
    for (auto _ : state) {
        std::unique_ptr<CounterDelta> counters;
        if (engine)
            counters = std::make_unique<CounterDelta>(*engine);
        Pass pass = one(false);
        if (engine)
            result.add_background_cpu(counters->worker_cpu_seconds());
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(one(true));
    result.publish(state);
}

void fresh_passes(benchmark::State &state, const Case &which, bool random, bool by_threads)
{
    MappedMemory &mapped = memory(by_threads ? g_fresh_threads : g_fresh, memory_engine(), options().mapped_bytes,
                                  by_threads ? TIDE_DELIVERY_THREADS : TIDE_DELIVERY_SIGNAL);
    uint64_t filled = 0;
    touch_passes(
        state, which,
        [&] {
            filled = mapped.statistics().pages_filled;
            return mapped.base();
        },
        [&] {
            filled = mapped.statistics().pages_filled - filled;
            require(filled >= mapped.pages() / 100 * 99, which,
                    "only " + std::to_string(filled) + " of " + std::to_string(mapped.pages()) + " pages were fresh");
            mapped.release();
            mapped.commit();
        },
        random, &memory_engine());
    if (which.last_round && which.threads == kMostThreads)
        memory_engine().verify();
}

void soft_passes(benchmark::State &state, const Case &which, bool random)
{
    Engine &engine = memory_engine();
    if (!g_soft) {
        memory(g_soft, engine, options().mapped_bytes);
        Team team(2);
        touch_parts(team, g_soft->base(), g_soft->bytes(), part_orders(2, 0, false), false);
    }
    uint64_t shown = 0;
    touch_passes(
        state, which,
        [&] {
            g_soft->trim();
            shown = g_soft->statistics().pages_shown;
            return g_soft->base();
        },
        [&] {
            shown = g_soft->statistics().pages_shown - shown;
            require(shown >= g_soft->pages() / 100 * 99, which,
                    "only " + std::to_string(shown) + " of " + std::to_string(g_soft->pages()) +
                        " pages were in memory and not mapped");
        },
        random, &engine);
    if (which.last_round && which.threads == kMostThreads)
        engine.verify();
}

void plain_passes(benchmark::State &state, const Case &which, bool in_file, bool random)
{
    std::unique_ptr<PlainMemory> &owner = in_file ? g_memfd : g_anonymous;
    if (!owner) {
        owner = std::make_unique<PlainMemory>(options().mapped_bytes, in_file);
        Team team(2);
        touch_parts(team, owner->base(), owner->bytes(), part_orders(2, 0, false), false);
    }
    touch_passes(
        state, which,
        [&] {
            owner->trim();
            return owner->base();
        },
        [] {}, random, nullptr);
}

/* ---- disk -------------------------------------------------------------------------------------------------------- */

std::unique_ptr<Engine> g_hard_engine, g_roam_engine;
std::unique_ptr<MappedMemory> g_hard, g_roam;
std::unique_ptr<RivalFile> g_fio_file, g_map_file;
std::unique_ptr<LimitedRival> g_map_rival;

uint64_t data_bytes()
{
    return options().budget_bytes * kOversize;
}

RivalFile &data_file(std::unique_ptr<RivalFile> &owner, const char *name)
{
    if (!owner)
        owner = std::make_unique<RivalFile>(name, data_bytes(), roam_page_fill);
    return *owner;
}

/* Reads pages in the lane's order until the time is over or the pages are. */
void read_until(Lane &lane, char *base, const std::vector<uint32_t> &order, uint64_t duration_ns)
{
    uint64_t begin = now_ns(), touches = 0;
    const uint64_t end = begin + duration_ns;
    for (uint32_t page : order) {
        if (begin >= end)
            break;
        (void)*static_cast<volatile char *>(base + page * kPageBytes);
        const uint64_t now = now_ns();
        if (touches++ % kSampleEvery == kSampleEvery - 1)
            lane.sample(now - begin);
        begin = now;
    }
    lane.operations += touches;
    lane.attempted += touches;
}

Pass read_pass(Team &team, char *base, const std::vector<std::vector<uint32_t>> &orders)
{
    const uint64_t part_bytes = data_bytes() / team.threads();
    const uint64_t duration_ns = pass_ns(team.threads());
    return team.run(
        [&](Lane &lane) { read_until(lane, base + lane.index * part_bytes, orders[lane.index], duration_ns); }, true);
}

void hard_passes(benchmark::State &state, const Case &which)
{
    if (!g_hard_engine) {
        g_hard_engine = std::make_unique<Engine>(data_bytes() / 4 * 5, data_bytes() + 16 * kMiB, 0, true);
        memory(g_hard, *g_hard_engine, data_bytes());
        Team team(2);
        roam_fill(team, g_hard->base(), g_hard->pages());
    }
    Engine &engine = *g_hard_engine;
    Team team(which.threads);
    const auto orders = part_orders(which.threads, g_hard->pages() / which.threads, true);
    Result result;
    for (auto _ : state) {
        g_hard->trim();
        engine.empty(TIDE_EMPTY_MODIFIED);
        engine.empty(TIDE_EMPTY_STANDBY);
        CounterDelta counters(engine);
        Pass pass = read_pass(team, g_hard->base(), orders);
        const tide_statistics delta = counters.delta();
        result.set("page_reads_per_s", static_cast<double>(delta.faults.hard) / pass.seconds);
        result.set("hit_share", 1 - static_cast<double>(delta.faults.hard) / static_cast<double>(pass.operations));
        result.add_background_cpu(counters.worker_cpu_seconds());
        state.SetIterationTime(pass.seconds);
        result.add(pass);
        result.add_latencies(pass);
    }
    if (which.last_round && which.threads == kMostThreads)
        engine.verify();
    result.publish(state);
}

void file_hard_passes(benchmark::State &state, const Case &which)
{
    RivalFile &file = data_file(g_fio_file, "tide-bench.mapped.fio");
    Team team(which.threads);
    const auto orders = part_orders(which.threads, data_bytes() / kPageBytes / which.threads, true);
    Result result;
    for (auto _ : state) {
        posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
        void *memory = mmap(nullptr, data_bytes(), PROT_READ, MAP_SHARED, file.fd(), 0);
        if (memory == MAP_FAILED)
            throw system_error("mmap of the rival's file");
        madvise(memory, data_bytes(), MADV_RANDOM);
        Pass pass = read_pass(team, static_cast<char *>(memory), orders);
        munmap(memory, data_bytes());
        state.SetIterationTime(pass.seconds);
        result.add(pass);
        result.add_latencies(pass);
    }
    posix_fadvise(file.fd(), 0, 0, POSIX_FADV_DONTNEED);
    result.publish(state);
}

/* No sequence of pages comes twice: what a pass brought in would be hits of the next. */
uint64_t roam_seed()
{
    static uint64_t passes;
    return ++passes;
}

/* As many pages must be dirty as there are while passes of this kind go on: many threads bring that about soonest. */
void settle(const std::function<void(uint64_t duration_ns)> &pass)
{
    pass(pass_ns(1) * 2);
}

void roam_passes(benchmark::State &state, const Case &which, unsigned write_percent)
{
    if (!g_roam_engine) {
        g_roam_engine = std::make_unique<Engine>(options().budget_bytes, kRoamFile * data_bytes(), 0, true);
        memory(g_roam, *g_roam_engine, data_bytes());
        Team team(2);
        roam_fill(team, g_roam->base(), g_roam->pages());
    }
    Engine &engine = *g_roam_engine;
    Team team(which.threads);
    auto pass_of = [&](uint64_t duration_ns) {
        const uint64_t seed = roam_seed();
        return team.run(
            [&](Lane &lane) {
                roam(lane, { g_roam->base(), g_roam->pages(), write_percent, duration_ns, seed });
            },
            true);
    };
    static unsigned settled = 100;
    if (settled != write_percent)
        settle([&](uint64_t duration_ns) {
            Team many(kMostThreads);
            const uint64_t seed = roam_seed();
            many.run([&](Lane &lane) {
                roam(lane, { g_roam->base(), g_roam->pages(), write_percent, duration_ns, seed });
            });
        });
    settled = write_percent;
    Result result;
    (void)pass_of(pass_ns(which.threads) / 4);
    for (auto _ : state) {
        CounterDelta counters(engine);
        const tide_mapped_statistics before = g_roam->statistics();
        Pass pass = pass_of(pass_ns(which.threads));
        const tide_statistics delta = counters.delta();
        const double touches = static_cast<double>(pass.operations);
        result.set("page_reads_per_s", static_cast<double>(delta.faults.hard) / pass.seconds);
        result.set("hit_share", 1 - static_cast<double>(faults_resolved(delta.faults)) / touches);
        result.set("soft_share", static_cast<double>(delta.faults.transition) / touches);
        result.set("frame_waits_share", static_cast<double>(delta.frame_waits) / touches);
        const tide_mapped_statistics after = g_roam->statistics();
        result.set("pages_per_hide", static_cast<double>(after.pages_hidden - before.pages_hidden) /
                                         static_cast<double>(std::max<uint64_t>(1, after.hides - before.hides)));
        result.add_background_cpu(counters.worker_cpu_seconds());
        state.SetIterationTime(pass.seconds);
        result.add(pass);
        result.add_latencies(pass);
    }
    if (which.last_round && which.threads == kMostThreads)
        engine.verify();
    result.publish(state);
}

/* The rival's process may be killed for its own limit; then this case has no figure, and the next a new process. */
void rival_passes(benchmark::State &state, const Case &which, LimitedRival &rival, unsigned write_percent,
                  const std::function<void()> &end)
try {
    if (rival.settled_percent != write_percent)
        settle([&](uint64_t duration_ns) { rival.roam(kMostThreads, write_percent, duration_ns, roam_seed()); });
    rival.settled_percent = write_percent;
    (void)rival.roam(which.threads, write_percent, pass_ns(which.threads) / 4, roam_seed());
    for (auto _ : state) {
        const auto figures = rival.roam(which.threads, write_percent, pass_ns(which.threads), roam_seed());
        state.SetIterationTime(figures.at("seconds"));
        for (const auto &figure : figures)
            state.counters[figure.first] = benchmark::Counter(figure.second);
    }
} catch (const NotMeasured &) {
    end();
    throw;
}

void file_rival_passes(benchmark::State &state, const Case &which, unsigned write_percent)
{
    if (!g_map_rival)
        g_map_rival = std::make_unique<LimitedRival>(data_file(g_map_file, "tide-bench.mapped.file").path(),
                                                     data_bytes(), options().budget_bytes);
    rival_passes(state, which, *g_map_rival, write_percent, [] { g_map_rival.reset(); });
}

/*
 * One swap at a time, so that it is known where pages go: it comes with a round's first case on it, and goes with the
 * last.
 */
struct SwapRival {
    Swap swap;
    LimitedRival rival;
    explicit SwapRival(Swap::Kind kind)
        : swap(kind, data_bytes() + 64 * kMiB), rival("", data_bytes(), options().budget_bytes)
    {
    }
};
std::unique_ptr<SwapRival> g_swap_rival;

void swap_rival_passes(benchmark::State &state, const Case &which, Swap::Kind kind, unsigned write_percent)
{
    static Swap::Kind current;
    if (!g_swap_rival || current != kind) {
        g_swap_rival.reset();
        g_swap_rival = std::make_unique<SwapRival>(kind);
        current = kind;
    }
    rival_passes(state, which, g_swap_rival->rival, write_percent, [] { g_swap_rival.reset(); });
    if (which.threads == kMostThreads && write_percent != 0)
        g_swap_rival.reset();
}

/* ---- resident ---------------------------------------------------------------------------------------------------- */

enum class Resident { kMapped, kMalloc4k, kMallocHuge };

std::unique_ptr<Engine> g_resident_engine;
std::unique_ptr<MappedMemory> g_resident;

uint64_t word_content(uint64_t word)
{
    return word * 0x9E3779B97F4A7C15u;
}

/** malloc()'s memory, with or without huge pages. */
class Malloced {
  public:
    Malloced(uint64_t bytes, bool huge) : memory_(aligned_alloc(2 * kMiB, bytes))
    {
        if (memory_ == nullptr)
            throw std::runtime_error("no memory");
        madvise(memory_, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    }
    ~Malloced()
    {
        free(memory_);
    }
    Malloced(const Malloced &) = delete;
    Malloced &operator=(const Malloced &) = delete;
    char *base() const
    {
        return static_cast<char *>(memory_);
    }

  private:
    void *memory_;
};
std::unique_ptr<Malloced> g_malloced[2];

/* The share of a range that is mapped by huge pages. */
double huge_share(const char *base, uint64_t bytes)
{
    std::ifstream file("/proc/self/smaps");
    uint64_t huge_kb = 0;
    bool inside = false;
    for (std::string line; std::getline(file, line);) {
        unsigned long long first, end;
        char dash;
        std::istringstream words(line);
        if (line.find(':') == std::string::npos || line.find('-') < line.find(' ')) {
            if (words >> std::hex >> first >> dash >> end)
                inside = first < reinterpret_cast<uintptr_t>(base) + bytes && end > reinterpret_cast<uintptr_t>(base);
            continue;
        }
        std::string name;
        uint64_t kb;
        words >> name >> kb;
        if (inside && (name == "AnonHugePages:" || name == "ShmemPmdMapped:" || name == "FilePmdMapped:"))
            huge_kb += kb;
    }
    return static_cast<double>(huge_kb * 1024) / static_cast<double>(bytes);
}

/* Far more than the processor's caches. */
uint64_t resident_bytes()
{
    return std::min(options().resident_bytes, (options().quick ? 256 : 1024) * kMiB);
}

char *resident_memory(Resident kind)
{
    const uint64_t bytes = resident_bytes();
    char *base;
    if (kind == Resident::kMapped) {
        if (g_resident)
            return g_resident->base();
        g_resident_engine = std::make_unique<Engine>(bytes / 4 * 5, 0, 0, true);
        base = memory(g_resident, *g_resident_engine, bytes).base();
    } else {
        std::unique_ptr<Malloced> &owner = g_malloced[kind == Resident::kMallocHuge];
        if (owner)
            return owner->base();
        owner = std::make_unique<Malloced>(bytes, kind == Resident::kMallocHuge);
        base = owner->base();
    }
    Team team(2);
    team.run([&](Lane &lane) {
        uint64_t *const words = reinterpret_cast<uint64_t *>(base);
        for (uint64_t word = bytes / 16 * lane.index; word < bytes / 16 * (lane.index + 1); word++)
            words[word] = word_content(word);
    });
    return base;
}

/* Sums the words at random offsets; `read` gives the word at an index. */
template <class Read> uint64_t random_sum(unsigned thread, uint64_t words, uint64_t count, Read read)
{
    uint64_t state = thread * 2 + 1, sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sum += read((state >> 32) * words >> 32);
    }
    return sum;
}

void resident_passes(benchmark::State &state, const Case &which, Resident kind)
{
    char *const base = resident_memory(kind);
    const uint64_t words = resident_bytes() / 8, count = (options().quick ? 2 : 32) * kMiB / which.threads;
    const volatile uint64_t *const memory = reinterpret_cast<const volatile uint64_t *>(base);
    Team team(which.threads);
    std::vector<uint64_t> sums(which.threads);
    auto pass_of = [&] {
        return team.run([&](Lane &lane) {
            sums[lane.index] = random_sum(lane.index, words, count, [=](uint64_t word) { return memory[word]; });
            lane.operations = lane.attempted = count;
        });
    };
    Result result;
    (void)pass_of();
    const uint64_t faults = g_resident ? g_resident->statistics().faults : 0;
    for (auto _ : state) {
        Pass pass = pass_of();
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    if (kind == Resident::kMapped)
        result.set("faults_per_million", 1e6 * static_cast<double>(g_resident->statistics().faults - faults) /
                                             static_cast<double>(result.operations()));
    if (which.round == 0)
        for (unsigned i = 0; i < which.threads; i++)
            require(sums[i] == random_sum(i, words, count, word_content), which, "the words are not what was written");
    result.set("huge_share", huge_share(base, resident_bytes()));
    result.publish(state);
}

/* ---- registration ------------------------------------------------------------------------------------------------ */

using Body = std::function<void(benchmark::State &, const Case &)>;

struct Entry {
    const char *name;
    const char *rival_of; /* a class, or two with a space between; "" for none */
    unsigned passes;
    Body body;
};

bool entry_wanted(const Entry &entry)
{
    std::istringstream classes(entry.rival_of);
    bool wanted = class_wanted(entry.name);
    for (std::string name; classes >> name;)
        wanted = wanted || class_wanted(name);
    return wanted;
}

std::vector<Entry> memory_entries()
{
    const unsigned passes = options().quick ? 1 : 3;
    std::vector<Entry> entries = {
        { "mapped_fresh", "", passes, [](auto &s, auto &c) { fresh_passes(s, c, false, false); } },
        { "anonymous_fresh", "mapped_fresh mapped_fresh_threads", passes,
          [](auto &s, auto &c) { plain_passes(s, c, false, false); } },
        { "mapped_fresh_random", "", passes, [](auto &s, auto &c) { fresh_passes(s, c, true, false); } },
        { "anonymous_random", "mapped_fresh_random", passes,
          [](auto &s, auto &c) { plain_passes(s, c, false, true); } },
        { "mapped_soft", "", passes, [](auto &s, auto &c) { soft_passes(s, c, false); } },
        { "memfd_soft", "mapped_soft", passes, [](auto &s, auto &c) { plain_passes(s, c, true, false); } },
        { "mapped_soft_random", "", passes, [](auto &s, auto &c) { soft_passes(s, c, true); } },
        { "memfd_random", "mapped_soft_random", passes, [](auto &s, auto &c) { plain_passes(s, c, true, true); } },
        { "malloc_4k", "mapped_resident", 3, [](auto &s, auto &c) { resident_passes(s, c, Resident::kMalloc4k); } },
        { "mapped_resident", "", 3, [](auto &s, auto &c) { resident_passes(s, c, Resident::kMapped); } },
        { "malloc_huge", "mapped_resident", 3, [](auto &s, auto &c) { resident_passes(s, c, Resident::kMallocHuge); } },
    };
    if (!options().quick)
        entries.push_back({ "mapped_fresh_threads", "", 1, [](auto &s, auto &c) { fresh_passes(s, c, false, true); } });
    return entries;
}

std::vector<Entry> disk_entries()
{
    return {
        { "mapped_hard", "", 1, hard_passes },
        { "file_hard", "mapped_hard", 1, file_hard_passes },
        { "fio_mapped", "mapped_hard mapped_read", 1,
          [](auto &s, auto &c) {
              fio_pass(s, c, data_file(g_fio_file, "tide-bench.mapped.fio"), pass_ns(c.threads));
          } },
        { "mapped_read", "", 1, [](auto &s, auto &c) { roam_passes(s, c, 0); } },
        { "file_read", "mapped_read", 1, [](auto &s, auto &c) { file_rival_passes(s, c, 0); } },
    };
}

std::vector<Entry> mixed_entries()
{
    return {
        { "mapped_mixed", "", 1, [](auto &s, auto &c) { roam_passes(s, c, 50); } },
        { "file_mixed", "mapped_mixed", 1, [](auto &s, auto &c) { file_rival_passes(s, c, 50); } },
    };
}

std::vector<Entry> swap_entries(Swap::Kind kind)
{
    const bool zram = kind == Swap::Kind::kZram;
    return {
        { zram ? "zram_read" : "swap_read", "mapped_read", 1,
          [kind](auto &s, auto &c) { swap_rival_passes(s, c, kind, 0); } },
        { zram ? "zram_mixed" : "swap_mixed", "mapped_mixed", 1,
          [kind](auto &s, auto &c) { swap_rival_passes(s, c, kind, 50); } },
    };
}

/* Tries it, so that what this host does not allow is said before the first case. */
std::string why_no_swap(Swap::Kind kind)
{
    try {
        Swap swap(kind, 16 * kMiB);
    } catch (const std::exception &exception) {
        return exception.what();
    }
    return "";
}

void skip(const std::string &name, const std::string &why)
{
    printf("  skipped: %s: %s\n", name.c_str(), why.c_str());
    benchmark::AddCustomContext("skipped_" + name, why);
}

void add_entries(const std::vector<Entry> &entries, const Case &round)
{
    for (unsigned threads : options().quick ? std::vector<unsigned>{ 1, 2, 64 } : std::vector<unsigned>{ 1, 2, 8, 64 })
        for (const Entry &entry : entries) {
            Case which = round;
            which.name = entry.name;
            which.threads = threads;
            if (entry_wanted(entry))
                add_case(which, entry.passes, entry.body);
        }
}

} // namespace

void close_mapped_engine()
{
    g_swap_rival.reset();
    g_map_rival.reset();
    g_map_file.reset();
    g_fio_file.reset();
    for (auto *owner : { &g_fresh, &g_fresh_threads, &g_soft, &g_hard, &g_roam, &g_resident })
        owner->reset();
    for (auto *owner : { &g_memory_engine, &g_hard_engine, &g_roam_engine, &g_resident_engine })
        owner->reset();
    g_anonymous.reset();
    g_memfd.reset();
    for (auto &owner : g_malloced)
        owner.reset();
}

void add_mapped_cases()
{
    auto any = [](const std::vector<Entry> &entries) {
        for (const Entry &entry : entries)
            if (entry_wanted(entry))
                return true;
        return false;
    };
    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {
        if (any(memory_entries()) || any(disk_entries()) || any(mixed_entries()))
            skip("mapped", tide_last_error()->message);
        return;
    }
    std::vector<std::vector<Entry>> parts = { memory_entries(), disk_entries(), mixed_entries() };
    if (!why_no_limit().empty())
        for (std::vector<Entry> &part : parts)
            while (!part.empty() && strncmp(part.back().name, "file_", 5) == 0 &&
                   strcmp(part.back().name, "file_hard") != 0) {
                if (entry_wanted(part.back()))
                    skip(part.back().name, why_no_limit());
                part.pop_back();
            }
    std::vector<std::vector<Entry>> swapping;
    for (Swap::Kind kind : { Swap::Kind::kFile, Swap::Kind::kZram }) {
        const std::vector<Entry> entries = swap_entries(kind);
        if (!any(entries))
            continue;
        const std::string why = options().quick          ? "filling a swap takes long: full runs have it"
                                : why_no_limit().empty() ? why_no_swap(kind)
                                                         : why_no_limit();
        if (why.empty())
            swapping.push_back(entries);
        else
            skip(kind == Swap::Kind::kZram ? "swap_on_zram" : "swap_on_a_file", why);
    }
    for (unsigned round = 0; round < options().rounds; round++) {
        Case which;
        which.space = Space::kShared;
        which.round = round;
        which.last_round = round + 1 == options().rounds;
        for (const std::vector<Entry> &part : parts)
            add_entries(part, which);
        for (const std::vector<Entry> &entries : swapping)
            for (const Entry &entry : entries)
                add_entries({ entry }, which);
    }
}

} // namespace bench

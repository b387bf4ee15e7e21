/*
 * Access to pages that are in memory: 8 bytes at a random address, again and again, summed.
 *
 *   access_pointer   tide_access_pointer() inside access sections of kSectionAccesses accesses
 *   access_pointers  tide_access_pointers(), kBatch addresses at a time, two batches under way: pointers are asked for, then
 *                    the words of the batch before are loaded
 *   access_read      tide_read() of 8 bytes
 *   raw_pointer      the rival: a load from plain memory, behind huge pages as an engine's frames are
 *   access_large     as access_pointer, the region being of large pages (TIDE_MEM_LARGE_PAGES), as the rival's memory is
 *   large_chase      as access_chase, the same
 *   access_extent    the same region by tide_access_extent(), asked for once in a section; by tide_access_pointer() where an
 *                    address lies outside of the extent
 *   access_chase     tide_access_pointer(), but each address depends on what the access before it read
 *   raw_chase        its rival
 *
 * Each rival follows the same random sequence over memory of the same size and content, so that the sums must agree. In
 * the first four an address does not depend on the loads before it, so the processor overlaps as many as fit into its
 * window, and what is measured is throughput; in the chases nothing overlaps, and what is measured is latency. Private:
 * each thread has a space with its share of the memory. Shared: all threads roam over all of it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "soft_spaces.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <sys/mman.h>

namespace bench {

namespace {

constexpr uint64_t kSectionAccesses = 1024;
constexpr uint64_t kBatch = 16; /* divides kSectionAccesses */

/* The word at an offset of a thread's part: what raw memory and spaces are filled with. */
uint64_t content(uint64_t word)
{
    return word * 0x9E3779B97F4A7C15u;
}

/*
 * The sequence of offsets: a linear congruential generator's high bits, scaled to the part. If dependent, what was read
 * goes into the generator.
 */
template <bool dependent> struct Sequence {
    uint64_t state;
    uint64_t words;
    uint64_t sum = 0;
    Sequence(unsigned thread, uint64_t bytes) : state(thread * 2 + 1), words(bytes / 8)
    {
    }
    uint64_t next_offset()
    {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return ((state >> 32) * words >> 32) * 8;
    }
    void consume(uint64_t value)
    {
        sum += value;
        if (dependent)
            state += value;
    }
};

/* ---- raw memory -------------------------------------------------------------------------------------------------- */

class RawMemory {
  public:
    explicit RawMemory(uint64_t bytes) : bytes_(bytes)
    {
        void *memory = mmap(nullptr, bytes_ + 2 * kMiB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            throw std::runtime_error(std::string("mmap of raw memory: ") + strerror(errno));
        mapping_ = static_cast<char *>(memory);
        aligned_ = mapping_ + (2 * kMiB - reinterpret_cast<uintptr_t>(mapping_) % (2 * kMiB)) % (2 * kMiB);
        madvise(aligned_, bytes_, MADV_HUGEPAGE);
    }
    ~RawMemory()
    {
        munmap(mapping_, bytes_ + 2 * kMiB);
    }
    RawMemory(const RawMemory &) = delete;
    RawMemory &operator=(const RawMemory &) = delete;
    uint64_t *words() const
    {
        return reinterpret_cast<uint64_t *>(aligned_);
    }

  private:
    uint64_t bytes_;
    char *mapping_;
    char *aligned_;
};

/* ---- the three ways ---------------------------------------------------------------------------------------------- */

enum class Way { kPointer, kPointers, kExtent, kRead, kRaw, kPointerChase, kRawChase };

bool is_raw(Way way)
{
    return way == Way::kRaw || way == Way::kRawChase;
}

bool is_dependent(Way way)
{
    return way == Way::kPointerChase || way == Way::kRawChase;
}

uint64_t accesses_per_thread(Way way, unsigned threads)
{
    const uint64_t slower = is_dependent(way) ? 8 : way == Way::kRead ? 4 : 1;
    return (options().quick ? 4 : 16) * kMiB / slower / threads;
}

/* Spaces whose memory is filled: the words of each part count from its begin. */
class Resident {
  public:
    Resident(Engine &engine, Space kind, bool large, Team &team)
        : private_(kind == Space::kPrivate),
          part_bytes_(private_ ? options().resident_bytes / team.threads() : options().resident_bytes),
          spaces_(engine, kind, private_ ? team.threads() : 1, options().resident_bytes)
    {
        spaces_.commit(TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | (large ? TIDE_MEM_LARGE_PAGES : 0));
        team.run([&](Lane &lane) {
            const Part &mine = part(lane.index);
            const uint64_t slice = private_ ? part_bytes_ : part_bytes_ / team.threads();
            const uint64_t first = private_ ? 0 : slice * lane.index;
            uint64_t page[kPageBytes / 8];
            for (uint64_t offset = first; offset < first + slice; offset += kPageBytes) {
                for (uint64_t i = 0; i < kPageBytes / 8; i++)
                    page[i] = content(offset / 8 + i);
                check(tide_write(mine.space, mine.base + offset, page, sizeof page), "tide_write");
            }
        });
    }
    const Part &part(unsigned thread) const
    {
        return spaces_.part(private_ ? thread : 0);
    }

  private:
    bool private_;
    uint64_t part_bytes_;
    Spaces spaces_;
};

/* Kept from case to case while the kind of space, and of private spaces their number, stays the same. */
std::unique_ptr<Engine> g_engine;
std::unique_ptr<Resident> g_resident;
std::unique_ptr<RawMemory> g_raw;

void prepare_resident(Space kind, bool large, Team &team)
{
    static Space prepared_kind;
    static bool prepared_large;
    static unsigned prepared_threads;
    const uint64_t bytes = options().resident_bytes;
    if (!g_engine)
        g_engine = std::make_unique<Engine>(bytes + bytes / 8, 0);
    if (g_resident && prepared_kind == kind && prepared_large == large &&
        (kind == Space::kShared || prepared_threads == team.threads()))
        return;
    g_resident.reset();
    g_resident = std::make_unique<Resident>(*g_engine, kind, large, team);
    prepared_kind = kind;
    prepared_large = large;
    prepared_threads = team.threads();
}

void prepare_raw(uint64_t part_bytes, Team &team)
{
    static uint64_t prepared_part_bytes;
    if (!g_raw)
        g_raw = std::make_unique<RawMemory>(options().resident_bytes);
    if (prepared_part_bytes == part_bytes)
        return;
    const uint64_t slice = options().resident_bytes / 8 / team.threads(), mask = part_bytes / 8 - 1;
    team.run([&](Lane &lane) {
        uint64_t *const words = g_raw->words();
        for (uint64_t word = slice * lane.index; word < slice * (lane.index + 1); word++)
            words[word] = content(word & mask);
    });
    prepared_part_bytes = part_bytes;
}

template <bool dependent> uint64_t expected_sum(unsigned thread, uint64_t bytes, uint64_t accesses)
{
    Sequence<dependent> sequence(thread, bytes);
    for (uint64_t i = 0; i < accesses; i++)
        sequence.consume(content(sequence.next_offset() / 8));
    return sequence.sum;
}

template <bool dependent> uint64_t by_pointer(Lane &lane, const Part &part, uint64_t bytes, uint64_t accesses)
{
    Sequence<dependent> sequence(lane.index, bytes);
    for (uint64_t done = 0; done < accesses; done += kSectionAccesses) {
        tide_access access;
        check(tide_access_begin(part.space, &access), "tide_access_begin");
        repeat(lane, std::min(kSectionAccesses, accesses - done), [&](uint64_t) {
            const void *word = tide_access_pointer(&access, part.base + sequence.next_offset(), TIDE_ACCESS_READ);
            if (__builtin_expect(word == nullptr, 0))
                throw_tide("tide_access_pointer", access.status);
            sequence.consume(*static_cast<const uint64_t *>(word));
            return true;
        });
        tide_access_end(&access);
    }
    return sequence.sum;
}

/* The next batch is asked for before the first load of one, so that the sampled latencies have their share of it. */
uint64_t by_pointers(Lane &lane, const Part &part, uint64_t bytes, uint64_t accesses)
{
    Sequence<false> sequence(lane.index, bytes);
    for (uint64_t done = 0; done < accesses; done += kSectionAccesses) {
        tide_access access;
        check(tide_access_begin(part.space, &access), "tide_access_begin");
        const uint64_t count = std::min(kSectionAccesses, accesses - done);
        tide_address addresses[kBatch];
        void *words[2][kBatch];
        auto ask = [&](uint64_t begin) {
            const uint64_t wanted = std::min(kBatch, count - begin);
            for (uint64_t i = 0; i < wanted; i++)
                addresses[i] = part.base + sequence.next_offset();
            check(tide_access_pointers(&access, addresses, static_cast<unsigned>(wanted), TIDE_ACCESS_READ,
                                       words[begin / kBatch % 2]),
                  "tide_access_pointers");
        };
        ask(0);
        repeat(lane, count, [&](uint64_t i) {
            if (i % kBatch == 0 && i + kBatch < count)
                ask(i + kBatch);
            sequence.consume(*static_cast<const uint64_t *>(words[i / kBatch % 2][i % kBatch]));
            return true;
        });
        tide_access_end(&access);
    }
    return sequence.sum;
}

/* The extent is asked for first, and kept where nobody else writes, so that the compiler may have it in registers. */
uint64_t by_extent(Lane &lane, const Part &part, uint64_t bytes, uint64_t accesses)
{
    Sequence<false> sequence(lane.index, bytes);
    const tide_address base = part.base;
    for (uint64_t done = 0; done < accesses; done += kSectionAccesses) {
        tide_access access;
        tide_extent found = {};
        check(tide_access_begin(part.space, &access), "tide_access_begin");
        check(tide_access_extent(&access, base, TIDE_ACCESS_READ, &found), "tide_access_extent");
        const tide_extent extent = found;
        repeat(lane, std::min(kSectionAccesses, accesses - done), [&](uint64_t) {
            const tide_address address = base + sequence.next_offset();
            const void *word = tide_extent_pointer(&extent, address);
            if (__builtin_expect(word == nullptr, 0)) {
                word = tide_access_pointer(&access, address, TIDE_ACCESS_READ);
                if (word == nullptr)
                    throw_tide("tide_access_pointer", access.status);
            }
            sequence.consume(*static_cast<const uint64_t *>(word));
            return true;
        });
        tide_access_end(&access);
    }
    return sequence.sum;
}

uint64_t by_read(Lane &lane, const Part &part, uint64_t bytes, uint64_t accesses)
{
    Sequence<false> sequence(lane.index, bytes);
    repeat(lane, accesses, [&](uint64_t) {
        uint64_t word;
        check(tide_read(part.space, part.base + sequence.next_offset(), &word, sizeof word), "tide_read");
        sequence.consume(word);
        return true;
    });
    return sequence.sum;
}

template <bool dependent> uint64_t by_raw(Lane &lane, const uint64_t *words, uint64_t bytes, uint64_t accesses)
{
    Sequence<dependent> sequence(lane.index, bytes);
    repeat(lane, accesses, [&](uint64_t) {
        sequence.consume(words[sequence.next_offset() / 8]);
        return true;
    });
    return sequence.sum;
}

void resident_passes(benchmark::State &state, const Case &which, Way way, bool large)
{
    const uint64_t part_bytes =
        which.space == Space::kPrivate ? options().resident_bytes / which.threads : options().resident_bytes;
    const uint64_t accesses = accesses_per_thread(way, which.threads);
    Team team(which.threads);
    if (is_raw(way))
        prepare_raw(part_bytes, team);
    else
        prepare_resident(which.space, large, team);

    std::vector<uint64_t> sums(which.threads);
    auto one_pass = [&](bool sampling) {
        std::unique_ptr<CounterDelta> counters;
        if (!is_raw(way))
            counters = std::make_unique<CounterDelta>(*g_engine);
        Pass pass = team.run(
            [&](Lane &lane) {
                uint64_t &sum = sums[lane.index];
                const uint64_t *const words =
                    is_raw(way) ? g_raw->words() + (which.space == Space::kPrivate ? lane.index * part_bytes / 8 : 0)
                                : nullptr;
                switch (way) {
                case Way::kPointer:
                    sum = by_pointer<false>(lane, g_resident->part(lane.index), part_bytes, accesses);
                    break;
                case Way::kPointers:
                    sum = by_pointers(lane, g_resident->part(lane.index), part_bytes, accesses);
                    break;
                case Way::kExtent:
                    sum = by_extent(lane, g_resident->part(lane.index), part_bytes, accesses);
                    break;
                case Way::kPointerChase:
                    sum = by_pointer<true>(lane, g_resident->part(lane.index), part_bytes, accesses);
                    break;
                case Way::kRead:
                    sum = by_read(lane, g_resident->part(lane.index), part_bytes, accesses);
                    break;
                case Way::kRaw:
                    sum = by_raw<false>(lane, words, part_bytes, accesses);
                    break;
                case Way::kRawChase:
                    sum = by_raw<true>(lane, words, part_bytes, accesses);
                    break;
                }
            },
            sampling);
        if (counters && counters->delta().faults.page_faults > accesses / 1000)
            throw std::runtime_error(which.name + ": pages that should be resident were faulted in");
        return pass;
    };
    Result result;
    for (auto _ : state) {
        Pass pass = one_pass(false);
        state.SetIterationTime(pass.seconds);
        result.add(pass);
    }
    result.add_latencies(one_pass(true));
    if (which.round == 0)
        for (unsigned i = 0; i < which.threads; i++)
            if (sums[i] != (is_dependent(way) ? expected_sum<true>(i, part_bytes, accesses)
                                              : expected_sum<false>(i, part_bytes, accesses)))
                throw std::runtime_error(which.name + ": the bytes read are not the bytes that were written");
    if (!is_raw(way) && which.last_round && which.threads == 64)
        g_engine->verify();
    result.publish(state);
}

} // namespace

void close_resident_engine()
{
    g_resident.reset();
    g_engine.reset();
    g_raw.reset();
}

void add_resident_cases()
{
    const bool pointer = class_wanted("access_pointer"), pointers = class_wanted("access_pointers"),
               read = class_wanted("access_read"), chase = class_wanted("access_chase"),
               extent = class_wanted("access_extent"), large = class_wanted("access_large"),
               large_chase = class_wanted("large_chase"),
               raw = pointer || pointers || read || large || extent || class_wanted("raw_pointer"),
               raw_chase = chase || large_chase || class_wanted("raw_chase");
    /* Kinds outermost: the memory of the shared space is filled once for all, and once with large pages. */
    for (auto [space, is_large] : { std::make_pair(Space::kPrivate, false), std::make_pair(Space::kShared, false),
                                    std::make_pair(Space::kShared, true) })
        for (unsigned round = 0; round < options().rounds; round++)
            for (unsigned threads : thread_counts()) {
                Case which;
                which.space = space;
                which.threads = threads;
                which.round = round;
                which.last_round = round + 1 == options().rounds;
                auto add = [&, large_pages = is_large](const char *name, Way way) {
                    which.name = name;
                    add_case(which, 1, [way, large_pages](benchmark::State &state, const Case &c) {
                        resident_passes(state, c, way, large_pages);
                    });
                };
                if (is_large) {
                    if (extent)
                        add("access_extent", Way::kExtent);
                    if (large)
                        add("access_large", Way::kPointer);
                    if (large_chase)
                        add("large_chase", Way::kPointerChase);
                    continue;
                }
                if (pointer)
                    add("access_pointer", Way::kPointer);
                if (pointers)
                    add("access_pointers", Way::kPointers);
                if (raw)
                    add("raw_pointer", Way::kRaw);
                if (read)
                    add("access_read", Way::kRead);
                if (chase)
                    add("access_chase", Way::kPointerChase);
                if (raw_chase)
                    add("raw_chase", Way::kRawChase);
            }
}

} // namespace bench

/*
 * Touches of plain memory. See touches.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "touches.h"

namespace bench {

namespace {

uint64_t stamp_of(uint64_t page)
{
    return (page + 1) * 0x9E3779B97F4A7C15u;
}

} // namespace

std::vector<std::vector<uint32_t>> part_orders(unsigned threads, uint64_t pages_per_part, bool random)
{
    std::vector<std::vector<uint32_t>> orders(threads);
    for (unsigned i = 0; random && i < threads; i++)
        orders[i] = random_order(pages_per_part, 1 + i);
    return orders;
}

Pass touch_parts(Team &team, char *base, uint64_t bytes, const std::vector<std::vector<uint32_t>> &orders,
                 bool sampling)
{
    const uint64_t pages = bytes / kPageBytes / team.threads();
    return team.run(
        [&](Lane &lane) {
            volatile char *const part = base + lane.index * pages * kPageBytes;
            const std::vector<uint32_t> &order = orders[lane.index];
            if (order.empty())
                repeat(lane, pages, [=](uint64_t i) {
                    part[i * kPageBytes] = 1;
                    return true;
                });
            else
                repeat(lane, pages, [&](uint64_t i) {
                    part[order[i] * kPageBytes] = 1;
                    return true;
                });
        },
        sampling);
}

void roam_page_fill(uint64_t page, uint64_t *words)
{
    Random random(page);
    for (uint64_t i = 0; i < kPageBytes / 8; i++)
        words[i] = i < kPageBytes / 16 ? random.next() : 0;
    words[1] = stamp_of(page);
}

void roam_fill(Team &team, char *base, uint64_t pages)
{
    team.run([&](Lane &lane) {
        const uint64_t first = pages * lane.index / team.threads();
        const uint64_t end = pages * (lane.index + 1) / team.threads();
        for (uint64_t page = first; page < end; page++)
            roam_page_fill(page, reinterpret_cast<uint64_t *>(base + page * kPageBytes));
    });
}

void roam(Lane &lane, const Roam &what)
{
    Random random(what.seed * 1000 + lane.index);
    uint64_t begin = now_ns(), touches = 0;
    const uint64_t end = begin + what.duration_ns;
    while (begin < end) {
        const uint64_t draw = random.next();
        const uint64_t page = (draw >> 32) * what.pages >> 32;
        volatile uint64_t *const words = reinterpret_cast<volatile uint64_t *>(what.base + page * kPageBytes);
        if (draw % 100 < what.write_percent)
            words[0] = draw;
        else if (words[1] != stamp_of(page))
            throw std::runtime_error("page " + std::to_string(page) + " holds " + std::to_string(words[1]) +
                                     " and not its stamp");
        const uint64_t now = now_ns();
        if (touches++ % kSampleEvery == kSampleEvery - 1)
            lane.sample(now - begin);
        begin = now;
    }
    lane.operations += touches;
    lane.attempted += touches;
}

} // namespace bench

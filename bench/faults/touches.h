/*
 * Touches of plain memory through a pointer, the same for a mapped space and for each of its rivals: one after the
 * other, in random order, or at random with stamps that are checked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TIDE_BENCH_TOUCHES_H
#define TIDE_BENCH_TOUCHES_H

#include "harness.h"

namespace bench {

/** An order for each thread over a part's pages; empty ones mean ascending. */
std::vector<std::vector<uint32_t>> part_orders(unsigned threads, uint64_t pages_per_part, bool random);

/** Each thread writes one byte of each page of its part. Parts follow each other from `base`. */
Pass touch_parts(Team &team, char *base, uint64_t bytes, const std::vector<std::vector<uint32_t>> &orders,
                 bool sampling);

/**
 * What a page of memory that is roamed over holds: half of it compresses to nothing, and the second word is its stamp.
 */
void roam_page_fill(uint64_t page, uint64_t *words);
/** Gives all pages their content. */
void roam_fill(Team &team, char *base, uint64_t pages);

/** Random touches of pages: a load of 8 bytes, which are the page's stamp or the run fails; or a store of 8 bytes. */
struct Roam {
    char *base;
    uint64_t pages;
    unsigned write_percent;
    uint64_t duration_ns;
    uint64_t seed;
};

/** One thread's part in a pass. All threads roam over all pages until the time is over; samples are taken. */
void roam(Lane &lane, const Roam &what);

} // namespace bench
#endif

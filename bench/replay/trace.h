/*
 * Page-access traces: what they are in memory and on disk.
 *
 * A trace is the sequence of pages that a program touched, and whether it wrote. Pages are numbered 0, 1, 2, ...
 * through the regions of the trace: a region is a stretch of the program's address space in which no gap between
 * touched pages reaches TRACE_REGION_GAP_PAGES. Inside a region the real distances are kept (a page that lies in a
 * small gap has a number although it is never touched), so that neighbours in the program are neighbours in the
 * replay; where the regions lay in the program is forgotten.
 *
 * On disk: the 8 bytes TRACE_MAGIC, then one zstd frame with checksum, which holds, as LEB128 numbers (7 bits a byte,
 * least significant first):
 *     region count; pages of each region; access count;
 *     for each access: 2 x zigzag(page - page of the access before) + (1 if it wrote).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef REPLAY_TRACE_H
#define REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACE_MAGIC "tidetrc1"

enum {
    TRACE_REGION_GAP_PAGES = 16, /* as many as the engine's largest default cluster: beyond it nobody is a neighbour */
    TRACE_PAGES_MAX = 1 << 24,   /* bounds that keep a damaged file from asking for absurd memory */
    TRACE_ACCESSES_MAX = 1 << 28,
};

/* One access: page number x 2, plus 1 for a write. */
typedef uint32_t trace_access;

static inline uint32_t trace_access_page(trace_access access)
{
    return access >> 1;
}

static inline bool trace_access_writes(trace_access access)
{
    return (access & 1) != 0;
}

struct trace {
    uint32_t region_count;
    uint32_t *region_pages; /* pages of each region */
    uint32_t page_count;    /* sum of region_pages: page numbers are below it */
    uint32_t touched_pages; /* pages with at least one access: the footprint */
    uint64_t access_count;
    trace_access *accesses;
};

/* All return true, or false with a sentence in `error` and nothing left allocated. */
bool trace_load(const char *path, struct trace *trace, char *error, size_t error_bytes);
bool trace_decode(const void *bytes, size_t count, struct trace *trace, char *error, size_t error_bytes);
bool trace_save(const char *path, const struct trace *trace, char *error, size_t error_bytes);

/*
 * Builds a trace from accesses in the program's own page numbers (virtual page x 2 + write): finds the regions and
 * renumbers.
 */
bool trace_build(const uint64_t *accesses, uint64_t count, struct trace *trace, char *error, size_t error_bytes);

void trace_free(struct trace *trace);

#endif

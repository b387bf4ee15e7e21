/*
 * Inside of the stores: what stores.c and io.c share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STORES_STORES_IMPL_H
#define STORES_STORES_IMPL_H

#include "stores/stores.h"

#include "stores/page_file_impl.h"
#include "stores/slot_map_impl.h"

#include "base/sync.h"

/* A page file with its slots. What a read looks at lies apart from what allocations and writers change. */
struct store {
    struct page_file file;
    struct slot_map slots;
    uint64_t minimum, maximum;              /* [I] slots, header included */
    uint64_t virtual_ns SYNC_CACHE_ALIGNED; /* [A] what the slots given so far cost; see stores.c */
    uint64_t page_ns;                       /* [A] relaxed: time that the file takes to write a page */
    struct {
        uint64_t reads, writes, pages_input, pages_output; /* [A] */
    } io SYNC_CACHE_ALIGNED;
};

struct stores {
    tide_io_filter *filter;    /* [I] */
    void *filter_context;      /* [I] */
    unsigned file_count;       /* [I] */
    unsigned cpu_count;        /* [I] */
    struct released *released; /* [I] one list per CPU (released.c) */
    struct reads_ring *rings;  /* [I] which (reads.c) */
    unsigned ring_count;       /* [I] */
    bool disable_io_uring;     /* [I] */
    uint32_t no_ring;          /* [A] the kernel gives none, for good */
    unsigned window_pages;     /* [I] */
    struct store files[];      /* [I] which */
};

/* The lists of slots on their way back to the maps (released.c). */
tide_status released_create(struct stores *stores);
void released_destroy(struct stores *stores);
/* The rings for reads, none made yet (reads.c). Nobody reads when they are destroyed. */
tide_status rings_create(struct stores *stores);
void rings_destroy(struct stores *stores);
/* Clears a slot's bit in its map. */
void stores_slot_to_map(struct stores *stores, struct stores_slot slot);

/* Takes in a measurement: the file was busy `busy_ns` to write `pages` (> 0) pages. Thread-safe. */
void stores_speed_note(struct stores *stores, unsigned file, uint64_t pages, uint64_t busy_ns);
/* The file was written to, and nothing reached it. Thread-safe. */
void stores_failure_note(struct stores *stores, unsigned file);

#endif

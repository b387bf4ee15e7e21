/*
 * Slot map: which slots of one page file are taken.
 *
 * One bit per slot, in groups of 65,536. A group has its own lock, so that threads which release slots far apart in the
 * file do not meet, and a line of its own for everything that changes besides the bits. The map is sized for the file's
 * maximum; slots from `limit` on do not exist yet. Memory that no slot was ever taken in is never touched, so the
 * unused part of a large map costs address space only.
 *
 * Search. A run of free slots is searched for word by word. Each group carries `longest`, an upper bound on its longest
 * free run (cut at SLOT_RUN_MAX): a search that fails lowers it to what it saw, a release raises it to the run that it
 * made. So full groups, and groups too fragmented for the wanted run, are passed over without their lock, and an
 * allocation that finds no full run anywhere takes the longest one there is. Runs do not cross groups. Inside a group
 * the search is next fit: it goes on where the last one ended, so that pages written one after the other lie one after
 * the other.
 *
 * Invariants, under the group's lock: slots taken in the bitmap = used + bad (+ 1 in group 0, the header); no free run
 * is longer than `longest` as far as SLOT_RUN_MAX can tell; a bad slot is taken and stays so.
 *
 * Nothing here can fail but creation, for want of address space. A slot released twice, or one that does not exist, is
 * a bug.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STORES_SLOT_MAP_IMPL_H
#define STORES_SLOT_MAP_IMPL_H

#include "base/sync.h"

#include <pagetide/status.h>

enum {
    SLOT_GROUP_SLOTS = 65536,
    SLOT_GROUP_WORDS = SLOT_GROUP_SLOTS / 64,
    SLOT_RUN_MAX = 64 /* longest run that is looked for */
};

struct slot_group {
    struct sync_lock lock; /* rank slot_group */
    uint32_t slots;        /* [I] slots of this group that exist, header included */
    uint32_t used;         /* [L:slot_group] allocated; read without it for sums [A] relaxed */
    uint32_t bad;          /* [L:slot_group] the same */
    uint32_t longest;      /* [L:slot_group] see above; read without it to choose a group [A] relaxed */
    uint32_t hint;         /* [L:slot_group] word where the next search begins */
} SYNC_CACHE_ALIGNED;

struct slot_map {
    struct slot_group *groups; /* [I] */
    uint64_t *taken;           /* [L:slot_group] bits, by slot: allocated, bad, header, or past the limit */
    uint64_t *bad;             /* [L:slot_group] bits, by slot */
    uint64_t limit;            /* [I] slots that exist, header included */
    size_t bytes;              /* [I] of the block that holds groups, taken and bad */
    unsigned group_count;      /* [I] for the maximum */
    uint32_t group_hint SYNC_CACHE_ALIGNED; /* [A] relaxed: group of the last allocation */
    uint64_t used_bound;                    /* [A] at least the slots in use; see note_peak() */
    uint64_t peak;                          /* [A] most slots in use at once */
};

/*
 * A map of which slots 0 .. limit - 1 exist (2 <= limit <= maximum <= 2^32) and slot 0, the header, is never given out.
 * TIDE_INSUFFICIENT_RESOURCES.
 */
TIDE_MUST_CHECK tide_status slot_map_create(struct slot_map *map, uint64_t limit, uint64_t maximum);
void slot_map_destroy(struct slot_map *map); /* also of a map of zeros */

/*
 * Takes a run of `wanted` (1 .. SLOT_RUN_MAX) slots, or the longest there is if no run is so long. Returns its length,
 * 0 if no slot is free. Takes one group lock at a time, in the usual case one.
 */
unsigned slot_map_allocate(struct slot_map *map, unsigned wanted, uint32_t *first);
/* Both: the slot must be allocated. One group lock. */
void slot_map_release(struct slot_map *map, uint32_t slot);
void slot_map_mark_bad(struct slot_map *map, uint32_t slot);

bool slot_map_allocated(struct slot_map *map, uint32_t slot);
/* Sums; exact when no other thread is in the map. Either pointer may be NULL. */
void slot_map_count(struct slot_map *map, uint64_t *used, uint64_t *bad);
uint64_t slot_map_peak(const struct slot_map *map);

#endif

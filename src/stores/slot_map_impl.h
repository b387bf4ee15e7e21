/*
 * Slot map: which slots of one page file are taken, and which are kept for somebody.
 *
 * Bits per slot, in groups of 65,536. A group has its own lock, so that threads which release slots far apart in the
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
 * Reservation (nt-behaviour 14.2 rule 4). A block is `block` slots, a power of two, at a multiple of that. Who writes
 * some pages of a window takes a block that is wholly free: the slots that it needs are taken, those of the window's
 * other pages are reserved. A reserved slot is free, and is left alone by others: it is for slot_map_take_exact(),
 * which asks for one slot by its number. The map does not know for whom. When no slot of a block is allocated any more,
 * its reservations lapse; when nothing but reserved slots is left, SLOT_DROP takes these.
 *
 * Growing and shrinking are done by one thread at a time, group by group under the groups' locks, beside allocations
 * and releases. A slot exists once its group says so (`slots`), so an allocation finds new slots when they are there
 * and never one that is going. Shrinking takes unallocated slots off the end and stops at the last allocated one; bad
 * slots and reservations go with them.
 *
 * Invariants, under the group's lock: slots taken in the bitmap = used + bad (+ 1 in group 0, the header); a reserved
 * slot is not taken; no run of free and unreserved slots is longer than `longest` as far as SLOT_RUN_MAX can tell; a
 * bad slot is taken and stays so while it exists. slot_map_check() looks whether they hold.
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
    uint32_t slots;        /* [L:slot_group] slots of this group that exist, header included */
    uint32_t used;         /* [L:slot_group] allocated; read without it for sums [A] relaxed */
    uint32_t bad;          /* [L:slot_group] the same */
    uint32_t reserved;     /* [L:slot_group] the same */
    uint32_t longest;      /* [L:slot_group] see above; read without it to choose a group [A] relaxed */
    uint32_t no_block;     /* [L:slot_group] no block is free since the last search; read without it [A] relaxed */
    uint32_t hint;         /* [L:slot_group] word where the next search begins */
} SYNC_CACHE_ALIGNED;

struct slot_map {
    struct slot_group *groups; /* [I] */
    uint64_t *taken;           /* [L:slot_group] bits, by slot: allocated, bad, header, or past the limit in its word */
    uint64_t *bad;             /* [L:slot_group] bits, by slot */
    uint64_t *reserved;        /* [L:slot_group] bits, by slot */
    uint64_t limit;            /* [A] slots that exist, header included; written by the one who grows and shrinks */
    size_t bytes;              /* [I] of the memory that holds groups and bits */
    unsigned group_count;      /* [I] for the maximum */
    unsigned block;            /* [I] slots of a block, a power of two, at most SLOT_RUN_MAX */
    uint32_t group_hint SYNC_CACHE_ALIGNED; /* [A] relaxed: group of the last allocation */
    uint64_t used_bound;                    /* [A] at least the slots in use; see note_peak() */
    uint64_t peak;                          /* [A] most slots in use at once */
};

/*
 * A map of which slots 0 .. limit - 1 exist (2 <= limit <= maximum <= 2^32) and slot 0, the header, is never given out.
 * TIDE_INSUFFICIENT_RESOURCES.
 */
TIDE_MUST_CHECK tide_status slot_map_create(struct slot_map *map, uint64_t limit, uint64_t maximum, unsigned block);
void slot_map_destroy(struct slot_map *map); /* also of a map of zeros */

enum slot_need {
    SLOT_KEEP, /* only slots that are reserved for nobody */
    SLOT_DROP  /* reserved ones too */
};
/*
 * Takes a run of `wanted` (1 .. SLOT_RUN_MAX) slots, or the longest there is if no run is so long (with SLOT_DROP: the
 * longest of a group that has any). Returns its length, 0 if no slot is free. Takes one group lock at a time, in the
 * usual case one.
 */
unsigned slot_map_allocate(struct slot_map *map, unsigned wanted, enum slot_need need, uint32_t *first);
/*
 * Takes a free block for the window whose page 0 lies in its first slot: allocates slots position .. position + count -
 * 1 of it, and reserves the others of the first `window`. *first is the first allocated one. False if no block is free.
 */
bool slot_map_allocate_block(struct slot_map *map, unsigned window, unsigned position, unsigned count, uint32_t *first);
/*
 * Takes the slots from `slot` on, up to `wanted`, as far as they are free (or reserved, with SLOT_DROP). Returns how
 * many, 0 if the first is not to be had. The number may be anything.
 */
unsigned slot_map_take_exact(struct slot_map *map, uint32_t slot, unsigned wanted, enum slot_need need);
/* Both: the slot must be allocated. One group lock. */
void slot_map_release(struct slot_map *map, uint32_t slot);
void slot_map_mark_bad(struct slot_map *map, uint32_t slot);

/* These three: one thread at a time, beside any others in the map. */
void slot_map_grow(struct slot_map *map, uint64_t limit); /* limit: from the present one to the maximum */
/*
 * How many slots at the end, down to `limit` (>= 2), are not allocated; *bad is how many of them are bad. Out of date
 * at once.
 */
uint64_t slot_map_tail(struct slot_map *map, uint64_t limit, uint64_t *bad);
/* Takes off what slot_map_tail() counts, by then. Returns how many slots. */
uint64_t slot_map_shrink(struct slot_map *map, uint64_t limit, uint64_t *bad);

bool slot_map_allocated(struct slot_map *map, uint32_t slot);
uint64_t slot_map_limit(const struct slot_map *map);
/* Sums; exact when no other thread is in the map. Any pointer may be NULL. */
void slot_map_count(struct slot_map *map, uint64_t *used, uint64_t *bad, uint64_t *reserved);
uint64_t slot_map_peak(const struct slot_map *map);
/* Whether the invariants hold; no other thread is in the map. O(slots that exist). */
bool slot_map_check(struct slot_map *map);

#endif

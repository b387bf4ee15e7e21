/*
 * The PFN database record: what the engine knows of one frame, in 32 bytes (NT 48, Linux 64).
 *
 * The state word is the heart. It holds everything that must change together, so that one compare-and-swap decides
 * each race; states.def says which changes of state are legal, and the two functions at the end of this file are the
 * only ones that write it. Who may change it:
 *   ZEROED, FREE, STANDBY, MODIFIED...  the holder of the lock of the list shard that the frame is on; a frame that was
 *                                       taken off belongs to the taker alone.
 *   ACTIVE, TRANSITION                  the holder of the claimed (busy) PTE; the writer that set WRITE_IN_PROGRESS
 *                                       and whoever drops a
 *                                       reference, by compare-and-swap. `original` (what to put back into the PTE
 *                                       when the frame is taken: a page-file slot or nothing) belongs to the writer
 *                                       while WRITE_IN_PROGRESS is set, else to the holder of the claimed PTE or of
 *                                       the list shard.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FRAMES_PFN_H
#define FRAMES_PFN_H

#include "base/sync.h"

/* A frame number: index over all arenas. A type of its own so that it is not mixed up with pages and slots. */
typedef struct frame_t {
    uint32_t number;
} frame_t;

#define FRAME_NONE ((frame_t){ UINT32_MAX })

static inline bool frame_is_none(frame_t frame)
{
    return frame.number == UINT32_MAX;
}

enum frame_state {
#define FRAME_STATE(name, text) FRAME_##name,
#include "frames/states.def"
    FRAME_STATE_COUNT
};

/* Kind of use, with NT's numbers (nt-behaviour 28.3). */
enum frame_use { FRAME_USE_PROCESS_PRIVATE = 0, FRAME_USE_PAGE_TABLE = 3, FRAME_USE_LARGE_PAGE = 12 };

/* Layout of the state word. */
enum {
    PFN_STATE_SHIFT = 0,      /* 3 bits: enum frame_state */
    PFN_PRIORITY_SHIFT = 3,   /* 3 bits: memory priority 0 to 7 */
    PFN_USE_SHIFT = 12,       /* 4 bits: enum frame_use */
    PFN_GRACE_SHIFT = 16,     /* 16 bits: grace epoch in which the frame left its working set */
    PFN_REFERENCE_SHIFT = 32, /* 16 bits: 1 for "shared at all" plus one per I/O and pin */
    PFN_SHARE_SHIFT = 48,     /* 16 bits: number of valid PTEs */
};
#define PFN_STATE_MASK 7ull
#define PFN_PRIORITY_MASK (7ull << PFN_PRIORITY_SHIFT)
#define PFN_DIRTY (1ull << 6) /* memory is newer than the page file, or there is no copy in it */
#define PFN_READ_IN_PROGRESS (1ull << 7)
#define PFN_WRITE_IN_PROGRESS (1ull << 8)
#define PFN_DELETED                                                                                                    \
    (1ull << 9) /* owner deleted the page during a write or under a pin: free it at the last reference */
/*
 * Hollow: there is no memory behind the frame in the arena. It is zeroed, and gets memory when it is first touched; or
 * it stands for a page of a mapped space, whose memory is in the space's file (tables/mapping.h).
 */
#define PFN_HOLLOW (1ull << 10)
#define PFN_USE_MASK (15ull << PFN_USE_SHIFT)
#define PFN_GRACE_MASK (0xFFFFull << PFN_GRACE_SHIFT)
#define PFN_REFERENCE_ONE (1ull << PFN_REFERENCE_SHIFT)
#define PFN_REFERENCE_MASK (0xFFFFull << PFN_REFERENCE_SHIFT)
#define PFN_SHARE_ONE (1ull << PFN_SHARE_SHIFT)
#define PFN_SHARE_MASK (0xFFFFull << PFN_SHARE_SHIFT)

/*
 * Marks in `original` that are no slot (tables/pte.h has their names and the whole story). On a frame that is clean and
 * has no slot: nobody needs its content. And: the page was lost to such a mark before, and began anew.
 */
#define PFN_ORIGINAL_RESET (1ull << 14)
#define PFN_ORIGINAL_LOST (1ull << 15)

struct pfn {
    uint64_t word;     /* [A] see above */
    uint32_t next;     /* [L:list_shard] frame numbers of the neighbours on the list; [A] itself if on none */
    uint32_t previous; /* [L:list_shard] */
    uint64_t
        *pte; /* owner: PTE, or entry of the parent table for a table page; set while the frame is the setter's alone */
    uint64_t original; /* page-file form without protection, or 0; PFN_ORIGINAL_ marks */
};
_Static_assert(sizeof(struct pfn) == 32, "a PFN record has 32 bytes");

static inline enum frame_state pfn_state(uint64_t word)
{
    return (enum frame_state)(word & PFN_STATE_MASK);
}

static inline unsigned pfn_priority(uint64_t word)
{
    return (unsigned)((word & PFN_PRIORITY_MASK) >> PFN_PRIORITY_SHIFT);
}

static inline enum frame_use pfn_use(uint64_t word)
{
    return (enum frame_use)((word & PFN_USE_MASK) >> PFN_USE_SHIFT);
}

static inline unsigned pfn_reference_count(uint64_t word)
{
    return (unsigned)((word & PFN_REFERENCE_MASK) >> PFN_REFERENCE_SHIFT);
}

static inline unsigned pfn_share_count(uint64_t word)
{
    return (unsigned)((word & PFN_SHARE_MASK) >> PFN_SHARE_SHIFT);
}

static inline uint16_t pfn_grace(uint64_t word)
{
    return (uint16_t)(word >> PFN_GRACE_SHIFT);
}

static inline bool pfn_is_hollow(uint64_t word)
{
    return (word & PFN_HOLLOW) != 0;
}

static inline uint64_t pfn_with_state(uint64_t word, enum frame_state state)
{
    return (word & ~PFN_STATE_MASK) | (uint64_t)state;
}

static inline uint64_t pfn_with_priority(uint64_t word, unsigned priority)
{
    return (word & ~PFN_PRIORITY_MASK) | ((uint64_t)priority << PFN_PRIORITY_SHIFT);
}

static inline uint64_t pfn_with_grace(uint64_t word, uint16_t epoch)
{
    return (word & ~PFN_GRACE_MASK) | ((uint64_t)epoch << PFN_GRACE_SHIFT);
}

/* The owner, for who may not change the frame and reads it beside one who does (tide_frame_query). */
static inline uint64_t *pfn_pte(const struct pfn *pfn)
{
    return (uint64_t *)(uintptr_t)sync_load_relaxed_64((const uint64_t *)(const void *)&pfn->pte);
}

static inline void pfn_pte_set(struct pfn *pfn, uint64_t *pte)
{
    sync_store_relaxed_64((uint64_t *)(void *)&pfn->pte, (uint64_t)(uintptr_t)pte);
}

/* Is the edge in states.def? Staying is. */
bool frame_edge_legal(enum frame_state from, enum frame_state to);
const char *frame_state_name(enum frame_state state);

/* The gate, for an owner that is alone with the frame. */
static inline void frame_state_set(struct pfn *pfn, uint64_t word)
{
    ASSERT_DEBUG(frame_edge_legal(pfn_state(sync_load_relaxed_64(&pfn->word)), pfn_state(word)));
    sync_store_64(&pfn->word, word);
}

/* The gate, where others may change the word too: false, with *seen set to what was there, if someone did. */
static inline bool frame_state_cas(struct pfn *pfn, uint64_t expected, uint64_t word, uint64_t *seen)
{
    ASSERT_DEBUG(frame_edge_legal(pfn_state(expected), pfn_state(word)));
    return sync_cas_value_64(&pfn->word, expected, word, seen);
}

#endif

/*
 * Inside frames/: list primitives.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FRAMES_FRAMES_IMPL_H
#define FRAMES_FRAMES_IMPL_H

#include "frames/frames.h"

#define FRAME_NIL UINT32_MAX

/* Frames per run that shares a shard, as a shift. */
enum { FRAMES_SHARD_RUN_SHIFT = 6 };

static inline enum frame_list frame_list_of(uint64_t word)
{
    switch (pfn_state(word)) {
    case FRAME_ZEROED:
        return FRAME_LIST_ZEROED;
    case FRAME_FREE:
        return FRAME_LIST_FREE;
    case FRAME_STANDBY:
        return (enum frame_list)(FRAME_LIST_STANDBY + pfn_priority(word));
    case FRAME_MODIFIED:
        return FRAME_LIST_MODIFIED;
    case FRAME_MODIFIED_NO_WRITE:
        return FRAME_LIST_MODIFIED_NO_WRITE;
    case FRAME_BAD:
        return FRAME_LIST_BAD;
    default:
        ASSERT_ALWAYS(!"a frame in this state is on no list");
        return FRAME_LIST_BAD;
    }
}

static inline struct frame_shard *frames_shard(const struct frames *frames, unsigned node, enum frame_list list,
                                               frame_t frame)
{
    /* Scattered, so that two threads that go through their frames in order do not meet on shard after shard. */
    const uint32_t scattered = (frame.number >> FRAMES_SHARD_RUN_SHIFT) * 2654435769u; /* 2^32 by the golden ratio */

    return &frames->nodes[node].lists[list][((uint64_t)scattered * (frames->shard_mask + 1)) >> 32];
}

/*
 * The shards of a list that may hold a frame, as bits, turned so that bit i stands for the shard i behind `start`: a
 * search looks at no others. A look without a lock.
 */
static inline uint64_t shards_some(const struct frames *frames, unsigned node, enum frame_list list, unsigned start)
{
    const uint64_t some = sync_load_relaxed_64(&frames->nodes[node].some[list]);
    const unsigned last = frames->shard_mask;

    start &= last;
    return start == 0 ? some : (some >> start | some << (last + 1 - start)) & (UINT64_MAX >> (63 - last));
}

/* The next of these, which is taken off `left`; NULL if none is left. */
static inline struct frame_shard *shards_next(const struct frames *frames, unsigned node, enum frame_list list,
                                              unsigned start, uint64_t *left)
{
    if (*left == 0)
        return NULL;
    const unsigned distance = (unsigned)__builtin_ctzll(*left);

    *left &= *left - 1;
    return &frames->nodes[node].lists[list][(start + distance) & frames->shard_mask];
}

/*
 * A frame that is on no list links to itself. Its state alone does not tell: a frame in a CPU's cache, or one that was
 * just allocated, is ZEROED or FREE too.
 */
static inline void frame_mark_unlisted(struct frames *frames, frame_t frame)
{
    sync_store_32(&frame_pfn(frames, frame)->next, frame.number);
}

/*
 * Is it on the list of `word`, which was read with that list's shard locked? An owner that has the frame off all lists
 * may change its state and put it on another list at any moment. It writes the state first: so if the link is that of
 * another list, the state that is read after it is another one too.
 */
static inline bool frame_is_listed(const struct frames *frames, frame_t frame, uint64_t word)
{
    const struct pfn *pfn = frame_pfn(frames, frame);

    return sync_load_32(&pfn->next) != frame.number &&
           ((sync_load_64(&pfn->word) ^ word) & (PFN_STATE_MASK | PFN_PRIORITY_MASK)) == 0;
}

/*
 * May a frame that left its working set be written out, or used again? No access section points to a hollow one:
 * pointers into a mapped space are taken away by the hardware (tables/mapping.h).
 */
static inline bool frame_grace_passed(struct frames *frames, uint64_t word)
{
    return pfn_is_hollow(word) || grace_passed(&frames->grace, pfn_grace(word));
}

/*
 * The record of a standby frame, whose word was `word`, after its owner has let it go: FREE. A hollow one still names
 * its PTE, which stays claimed until it is vacated.
 */
static inline void standby_detached(struct frames *frames, struct pfn *pfn, uint64_t word)
{
    if (!pfn_is_hollow(word)) {
        pfn_pte_set(pfn, NULL);
        frames_reset_lost_count(frames, pfn->original);
        sync_store_relaxed_64(&pfn->original, 0);
    }
    frame_state_set(pfn, pfn_with_grace((uint64_t)FRAME_FREE | (word & PFN_HOLLOW), pfn_grace(word)));
}

/* All three with the shard locked. */
void shard_push_tail(struct frames *frames, struct frame_shard *shard, frame_t frame);
void shard_push_head(struct frames *frames, struct frame_shard *shard, frame_t frame);
void shard_remove(struct frames *frames, struct frame_shard *shard, frame_t frame);
/* For searches, which hold its lock: the shard, of this node, is empty. */
void shard_unmark(struct frames *frames, const struct frame_shard *shard, unsigned node);

/*
 * The shard of a list whose head left its working set first, of the last answer and some others, which take turns. They
 * are looked at without a lock: it is a hint.
 */
unsigned shards_oldest(const struct frames *frames, unsigned node, enum frame_list list, struct frames_turn *turn);

#endif

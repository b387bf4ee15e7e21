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
 * A frame that is on no list links to itself. Its state alone does not tell: a frame in a CPU's cache, or one that was
 * just allocated, is ZEROED or FREE too.
 */
static inline void frame_mark_unlisted(struct frames *frames, frame_t frame)
{
    frame_pfn(frames, frame)->next = frame.number;
}

/* With the shard of its state locked. */
static inline bool frame_is_listed(const struct frames *frames, frame_t frame)
{
    return frame_pfn(frames, frame)->next != frame.number;
}

/* All three with the shard locked. */
void shard_push_tail(struct frames *frames, struct frame_shard *shard, frame_t frame);
void shard_push_head(struct frames *frames, struct frame_shard *shard, frame_t frame);
void shard_remove(struct frames *frames, struct frame_shard *shard, frame_t frame);

#endif

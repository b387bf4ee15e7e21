/*
 * What the tests of the frames share: an arena on a synthetic topology, owners for its frames, and children that must
 * stop on an assertion.
 *
 * A frame's owner here is owner_ptes[frame number]: OWNER_CLAIMED makes the detach function refuse, as a fault that has
 * claimed the PTE would; otherwise the detach puts the record's original there.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_FRAMES_SUPPORT_H
#define UNIT_FRAMES_SUPPORT_H

#include "base/error.h"
#include "frames/frames_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW_BUILD 1
#endif
#endif
#ifdef SLOW_BUILD
enum { EFFORT_DIVISOR = 10 };
#else
enum { EFFORT_DIVISOR = 1 };
#endif

enum { PAGE = TIDE_PAGE_BYTES, FRAME_NUMBERS_MAX = 8192 };

#define OWNER_IN_FRAME 0x1001ull
#define OWNER_CLAIMED 0x1002ull

extern uint64_t owner_ptes[FRAME_NUMBERS_MAX];

/* A configuration with `frames` frames over all nodes, one shard, no CPU caches, no reserve of huge pages. */
tide_config small_config(uint64_t frames);
/* Frames that must be good, on a topology that lives as long as they do. */
struct frames *frames_good(const char *synthetic, const tide_config *config);
void frames_close(struct frames *frames);
/* Expects a refusal whose message contains both texts. */
void assert_budget_refused(const char *synthetic, const tide_config *config, tide_status status, const char *value,
                           const char *limit);

/* Takes a frame that there must be. */
frame_t take(struct frames *frames, unsigned node, enum frames_need need);
/* Takes a frame and makes it a page of a working set with its owner PTE. */
frame_t take_active(struct frames *frames, unsigned node, bool dirty, uint64_t original, unsigned priority);
/* The same for a frame that the caller has. */
void make_active(struct frames *frames, frame_t frame, bool dirty, uint64_t original, unsigned priority);
/* The page leaves its working set: to standby or modified, stamped now. */
void trim(struct frames *frames, frame_t frame);
/* A clean page of a working set goes to standby. */
frame_t take_standby(struct frames *frames, unsigned node, uint64_t original, unsigned priority);
/* All grace periods pass. No section may be open. */
void grace_pass(struct frames *frames);

static inline uint64_t word_of(const struct frames *frames, frame_t frame)
{
    return sync_load_64(&frame_pfn(frames, frame)->word);
}
static inline enum frame_state state_of(const struct frames *frames, frame_t frame)
{
    return pfn_state(word_of(frames, frame));
}

/*
 * The frames of one shard from its head on, checked against its links and count. Returns how many; out[] gets up to
 * `room`.
 */
unsigned shard_frames(const struct frames *frames, const struct frame_shard *shard, uint32_t *out, unsigned room);
/*
 * Every list and cache holds each frame at most once, in the right state, with links that agree. Returns the frames
 * found.
 */
uint64_t lists_walk(const struct frames *frames);

/* Runs body(context) in a child, which must die by SIGABRT after printing each of the texts (the last one NULL). */
void assert_aborts(void (*body)(void *context), void *context, ...);
/* The same, and it must end normally. */
void assert_survives(void (*body)(void *context), void *context);

#endif

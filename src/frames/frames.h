/*
 * Frames: the memory of the engine, by node, and the lists that every frame is on when no working set holds it.
 *
 * Memory. At open each node gets an arena of real, populated memory, bound to the node and kept until close. All
 * arenas lie in one range of addresses and all PFN records in another, so frame number, record and memory are
 * arithmetic on one base each.
 *
 * Lists. Per node: zeroed, free, standby for each priority, modified, modified-no-write, bad; each in shards with a
 * lock of its own, doubly linked through the PFN records, so that removal from the middle (a soft fault) is O(1). A
 * frame's shard follows from its number (runs of 64 frames share one), so a thread that works through neighbouring
 * frames stays on one lock, and two threads rarely meet. Standby, modified and free are FIFO: what went in first has
 * waited longest, and its grace period (grace.h) has nearly always passed when it reaches the head.
 *
 * CPU caches of zeroed and free frames stand in front of the lists of their node; one list lock moves a batch. A
 * cache is entered by try-lock only: if its owner of the moment lost the CPU, others go to the lists.
 *
 * Choice (nt-behaviour 11): a page to be overwritten takes free before zeroed; a page that must be zero takes zeroed,
 * then free and zeroes it, then standby, lowest priority first. The preferred node first, then by distance: all nodes'
 * zeroed and free frames before any standby, or each node's standby before the next node, as configured or asked for.
 * Modified frames are never taken. A few frames per node are left for callers with FRAMES_RESERVE.
 *
 * Nothing here calls up. One function comes from above at creation: `detach`, which takes a standby page from its
 * owner's PTE. Workers and waiters are told by events that live here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FRAMES_FRAMES_H
#define FRAMES_FRAMES_H

#include <pagetide/engine.h>

#include "base/memory_error.h"
#include "base/notification.h"
#include "frames/grace.h"
#include "frames/pfn.h"
#include "topology/topology.h"

#include <string.h>

enum frame_list {
    FRAME_LIST_ZEROED,
    FRAME_LIST_FREE,
    FRAME_LIST_MODIFIED,
    FRAME_LIST_MODIFIED_NO_WRITE,
    FRAME_LIST_BAD,
    FRAME_LIST_STANDBY, /* 8 of them, by priority */
    FRAME_LIST_COUNT = FRAME_LIST_STANDBY + 8
};

struct frame_shard {
    struct sync_lock lock; /* rank list_shard */
    uint32_t head;         /* [L:list_shard] frame number or UINT32_MAX; [A] for shards_oldest() */
    uint32_t tail;         /* [L:list_shard] */
    uint64_t count;        /* [L:list_shard]; [A] for whoever sums */
} SYNC_CACHE_ALIGNED;

/* Which shard of a list the oldest frame is taken of: see shards_oldest(). Hints. */
struct frames_turn {
    uint32_t shard; /* [A] the last answer */
    uint32_t looks; /* [A] looks so far */
};

/*
 * A worker that sleeps until there is work. Whoever makes work reads `sleeping`, nearly always 0, and writes nothing.
 */
struct frames_bell {
    uint32_t sleeping; /* [A] */
    struct sync_event event;
} SYNC_CACHE_ALIGNED;

/* Most shards of a list: as many as an integer has bits. */
enum { FRAMES_SHARDS_MAX = 64 };

/* Frames in a run: as many as a page of 2 MiB has. A run begins at a multiple of that. */
enum { FRAMES_RUN = 512 };

/* What is a node's or a CPU's begins on a page of its own, so that it can lie on that node. */
#define FRAMES_PAGE_ALIGNED __attribute__((aligned(TIDE_PAGE_BYTES)))

struct frames_node {
    uint32_t first;                              /* [I] */
    uint32_t count;                              /* [I] */
    uint64_t low;                                /* [I] available pages below which the trimmer is woken */
    uint64_t high;                               /* [I] goal */
    uint64_t modified_trigger;                   /* [I] */
    uint64_t reserve;                            /* [I] */
    uint64_t zero_trigger;                       /* [I] free pages that wake the zero-page thread */
    struct frame_shard *lists[FRAME_LIST_COUNT]; /* [I] list_shards each */
    uint32_t run_hint;                           /* [A] block at which the next search for a run begins */
    struct frames_turn modified_turn;            /* of which modified frames are taken */
    /* For each list, as bits, all shards that hold a frame, and some that no longer do: [A], each changed with its shard locked. */
    uint64_t some[FRAME_LIST_COUNT] SYNC_CACHE_ALIGNED;
    struct frames_bell zero_page;
    struct frames_bell writer;
    struct frames_bell trimmer;
    uint64_t background_zeroed SYNC_CACHE_ALIGNED; /* [A] */
    uint64_t zeroing;                              /* [A] frames off the free list while they are zeroed */
    uint64_t in_transition;                        /* [A] frames in state TRANSITION; moved on I/O and pin paths only */
} FRAMES_PAGE_ALIGNED;

enum { FRAMES_CACHES_PER_CPU = 8, FRAMES_CACHE_MAX = 128 };

/*
 * One cache of a CPU. A CPU has several: with more threads than CPUs the holder of one may be off its CPU for a whole
 * round of the scheduler, and the others take the next. With no more threads than CPUs only the first is used.
 */
struct frames_cache {
    struct sync_flag flag;             /* whoever has it owns the rest */
    uint32_t zeroed_count;             /* [T:flag]; [A] for sums */
    uint32_t free_count;               /* [T:flag]; [A] for sums */
    uint32_t refills;                  /* [T:flag] */
    uint32_t zeroed[FRAMES_CACHE_MAX]; /* [T:flag] */
    uint32_t free[FRAMES_CACHE_MAX];   /* [T:flag] */
} SYNC_CACHE_ALIGNED;

struct frames_cpu {
    struct frames_cache caches[FRAMES_CACHES_PER_CPU];
    uint64_t inline_zeroed;              /* [A] */
    uint64_t repurposed[8];              /* [A] */
    uint32_t searches;                   /* [A] frames that came past the caches; a hint, which may miss some */
    struct frames_turn standby_turns[8]; /* of which standby frames of each priority are taken */
} FRAMES_PAGE_ALIGNED;

struct frames;

/*
 * Takes a standby frame from its owner: changes the PTE from the transition form of `frame` to the record's original.
 * Called with the frame's shard locked. False if a fault has claimed the PTE: then the frame stays.
 */
typedef bool frames_detach(struct pfn *pfn, frame_t frame);
/*
 * The same for hollow frames comes in two steps, since their memory must be let go, which takes a system call:
 * frames_detach leaves the PTE claimed, and then this one, without a lock, lets go and gives the PTEs their forms. For
 * pages that lie together, in ascending order: one call does it.
 */
typedef void frames_vacate(struct frames *frames, const frame_t *hollow, unsigned count);
/*
 * PTEs that lie near one, in ascending order, that and those whose pages may be on standby too; and the frames of
 * these, which can be anything by now. Returns how many, FRAMES_NEAR at most.
 */
enum { FRAMES_NEAR = 64 };
typedef unsigned frames_near(uint64_t *pte, uint64_t **ptes, frame_t *near);

/* Low and high memory: see events.c. */
enum { FRAMES_EVENT_LOW, FRAMES_EVENT_HIGH, FRAMES_EVENT_ERRORS };
struct frames_events {
    struct notifications notifications;
    uint64_t low_pages;  /* [I] below this many available pages: low memory */
    uint64_t high_pages; /* [I] from this many on: high memory */
};

/* Frames whose memory went bad: see bad.c. */
struct frames_bad {
    uint64_t *noted;  /* [I] a bit per frame, [A] by words: known to be bad, and not on the bad list yet */
    size_t bytes;     /* [I] of `noted` */
    bool guarded;     /* [I] the engine goes on after SIGBUS: what it does in a frame can fail */
    unsigned watch;   /* [I] if guarded */
    uint32_t pending; /* [A] how many are noted; nearly always 0 */
    uint32_t changed; /* [A] a frame was noted or listed since somebody settled that */
    uint64_t listed;  /* [A] frames on the bad lists */
};

struct frames_options {
    const tide_config *config;
    const struct topology *topology;
    frames_detach *detach;
    frames_vacate *vacate;
    frames_near *near;
};

struct frames {
    struct pfn *pfns;                /* [I] record of frame 0 */
    char *memory;                    /* [I] memory of frame 0 */
    uint32_t end;                    /* [I] one past the last frame number */
    unsigned node_count;             /* [I] */
    unsigned shard_mask;             /* [I] shards - 1 */
    unsigned cache_batch;            /* [I] 0: no CPU caches */
    bool prefer_local_standby;       /* [I] */
    frames_detach *detach;           /* [I] */
    frames_vacate *vacate;           /* [I] */
    frames_near *near;               /* [I] */
    const struct topology *topology; /* [I] */
    /*
     * [I] One past a node's last frame, UINT32_MAX after the last node. Here and not with the nodes: to ask for a
     * frame's node touches no other node's memory.
     */
    uint32_t node_ends[TIDE_MAX_NODES];
    struct frames_node *nodes;                             /* [I] each on its node */
    struct frames_cpu *cpus;                               /* [I] one per CPU, on the CPU's node */
    unsigned cpu_count;                                    /* [I] */
    size_t memory_bytes, pfn_bytes, list_bytes, cpu_bytes; /* [I] mapped sizes */
    size_t node_bytes;                                     /* [I] the same */
    uint64_t total;                                        /* [I] frames over all nodes */
    struct frames_events events;                           /* read-mostly */
    struct frames_bad bad;                                 /* read-mostly */
    uint32_t waiters SYNC_CACHE_ALIGNED;                   /* [A] threads waiting for a frame, nearly always 0 */
    struct sync_event available;                           /* signalled when frames came free and there are waiters */
    uint64_t waits;                                        /* [A] */
    uint64_t reset_lost;                                   /* [A] frames taken whose content nobody needed */
    struct grace grace;
};

/* Takes the memory. Errors as tide_engine_open(). */
TIDE_MUST_CHECK tide_status frames_create(const struct frames_options *options, struct frames **frames);
void frames_destroy(struct frames *frames);

static inline struct pfn *frame_pfn(const struct frames *frames, frame_t frame)
{
    return &frames->pfns[frame.number];
}

static inline void *frame_memory(const struct frames *frames, frame_t frame)
{
    return frames->memory + (size_t)frame.number * TIDE_PAGE_BYTES;
}

static inline bool frame_is_on_node(const struct frames *frames, frame_t frame, unsigned node)
{
    return frame.number - frames->nodes[node].first < frames->nodes[node].count;
}

/* Is it the number of a frame? Some between two nodes' frames are not. */
static inline bool frames_number_exists(const struct frames *frames, uint64_t number)
{
    for (unsigned n = 0; n < frames->node_count; n++)
        if (number >= frames->nodes[n].first && number - frames->nodes[n].first < frames->nodes[n].count)
            return true;
    return false;
}

static inline unsigned frame_node(const struct frames *frames, frame_t frame)
{
    unsigned node = 0;

    while (frame.number >= frames->node_ends[node])
        node++;
    return node;
}

/* ---- taking and giving back ------------------------------------------------------------------------------------- */

enum frames_need {
    FRAMES_ANY,   /* to be overwritten: free before zeroed */
    FRAMES_ZERO,  /* must be zero: zeroed, else zeroed inline */
    FRAMES_HOLLOW /* to stand for a page of a mapped space: zeroed first; what memory it has goes back to the system */
};
enum {
    FRAMES_RESERVE = 1,        /* may take the writers' reserve */
    FRAMES_AT_HAND = 2,        /* only if it costs no effort: no grace period is moved and no cache drained for it */
    FRAMES_STRICT = 4,         /* on the preferred node alone */
    FRAMES_BY_DISTANCE = 8,    /* zeroed and free frames of all nodes before standby pages, */
    FRAMES_LOCAL_STANDBY = 16, /* or all that a node has before the next node; neither: as the engine is configured */
    FRAMES_UNUSED = 32,        /* no standby page is taken for it */
    FRAMES_SPILL = 64 /* beside FRAMES_STRICT: only until the node has done what it can (frames_place_spilled()) */
};

/* Where a frame is wanted: the preferred node, and flags of frames_allocate(). */
struct frames_place {
    unsigned node;
    unsigned flags;
};

/* How many nodes may give it: the first so many in the order of distance, of which the preferred one is the first. */
static inline unsigned frames_nodes_allowed(const struct frames *frames, unsigned flags)
{
    return flags & FRAMES_STRICT ? 1 : frames->node_count;
}

/* The same place once its node has done what it could: other nodes too, if the place allows. */
static inline struct frames_place frames_place_spilled(struct frames_place place)
{
    if (place.flags & FRAMES_SPILL)
        place.flags = (place.flags & ~(unsigned)(FRAMES_SPILL | FRAMES_STRICT)) | FRAMES_LOCAL_STANDBY;
    return place;
}

/*
 * A frame, on the preferred node if it has one, FRAME_NONE if there is none anywhere (FRAMES_STRICT: on that node). It
 * stays in state ZEROED or FREE, on no list, and belongs to the caller alone. Takes no lock on return; zeroes inline
 * outside of locks. May repurpose standby pages.
 */
frame_t frames_allocate(struct frames *frames, unsigned node, enum frames_need need, unsigned flags);
/* Does a node's own standby go before other nodes' zeroed and free frames, by these flags or by the engine's wish? */
static inline bool frames_local_standby_first(const struct frames *frames, unsigned flags)
{
    return (flags & FRAMES_LOCAL_STANDBY) != 0 || (frames->prefer_local_standby && !(flags & FRAMES_BY_DISTANCE));
}
/* A standby frame is being taken whose record's original is this: counts it if its content is lost with it. */
static inline void frames_reset_lost_count(struct frames *frames, uint64_t original)
{
    if (original & PFN_ORIGINAL_RESET)
        (void)sync_add_64(&frames->reset_lost, 1);
}
/* Gives back a frame that nobody has seen; `zeroed` if it still is. Its state is ZEROED, FREE or ACTIVE. */
void frames_give_back(struct frames *frames, frame_t frame, bool zeroed);
/*
 * The owner deletes the page: to the free list, stamped with the current epoch. The frame is ACTIVE or TRANSITION and
 * the caller's alone. A hollow one, whose memory the caller has let go, to the zeroed list.
 */
void frames_free(struct frames *frames, frame_t frame);
/*
 * FRAMES_RUN frames that lie together, the first a multiple of FRAMES_RUN. On this node alone. From the zeroed and free
 * lists; with `standby` also clean pages are repurposed for it. They stay in state ZEROED or FREE, on no list, and
 * belong to the caller alone, who zeroes those that need it. FRAME_NONE if no block of the node is free as a whole, or
 * only with the writers' reserve. O(frames of the node) at worst, in short critical sections.
 */
frame_t frames_take_run(struct frames *frames, unsigned node, bool standby);
/*
 * The searches to come begin where `wanted` blocks of the node lie one after the other, or else most of them, so that
 * the runs they give do too, as long as nobody else takes frames there. A look without a lock.
 */
void frames_run_seek(struct frames *frames, unsigned node, uint64_t wanted);
/* Returns all frames in CPU caches to the lists; or only those of one node's CPUs, which are that node's frames. */
void frames_drain_caches(struct frames *frames);
void frames_drain_node_caches(struct frames *frames, unsigned node);

/* ---- lists ------------------------------------------------------------------------------------------------------ */

/*
 * A run of insertions that keeps one shard locked while consecutive frames go to the same. No other lock may be taken
 * between.
 */
struct frames_batch {
    struct frames *frames;
    struct frame_shard *locked;
    bool inserted;
};
static inline void frames_batch_begin(struct frames_batch *batch, struct frames *frames)
{
    *batch = (struct frames_batch){ .frames = frames };
}
/* Changes the frame's word by compare-and-swap and, on success, puts it at the tail of the list of its new state. */
bool frames_batch_insert(struct frames_batch *batch, frame_t frame, uint64_t expected, uint64_t word, uint64_t *seen);
/* Unlocks, then wakes whoever waits for what was inserted. */
void frames_batch_end(struct frames_batch *batch);

/* The same for one frame. */
bool frames_insert(struct frames *frames, frame_t frame, uint64_t expected, uint64_t word, uint64_t *seen);

/*
 * Takes a frame off the list it is on, into state `state` with `add` (share and reference counts) added and the given
 * priority. False if it is no longer on the list that `observed` shows; the caller looks again.
 */
bool frames_unlink(struct frames *frames, frame_t frame, uint64_t observed, enum frame_state state, uint64_t add,
                   unsigned priority, uint64_t *word);

/*
 * Drops one reference of a frame in TRANSITION or ACTIVE: the end of a pin. If it was the last one of a frame in
 * TRANSITION, the frame goes to modified, standby or (deleted) free.
 */
void frames_reference_drop(struct frames *frames, frame_t frame);
/*
 * The end of a write: the same for the writer's reference. If the page was written, and neither dirtied nor deleted
 * meanwhile, it is clean and keeps `original`; true. Else it is dirty, as before the write, and the caller releases
 * the slot; false.
 */
bool frames_write_end(struct frames *frames, frame_t frame, uint64_t original, bool written);
/* A frame that is the caller's alone, just allocated, becomes the target of a page read: TRANSITION, one reference. */
void frames_read_begin(struct frames *frames, frame_t frame, uint64_t *pte, uint64_t original, unsigned priority);
/*
 * What was read goes to standby. Its PTE is still claimed, which keeps the repurposer off, and is published after this:
 * who sees the transition form finds the frame on the list.
 */
void frames_read_end(struct frames_batch *batch, frame_t frame);

/*
 * Takes the oldest modified frame of the node whose grace period has passed, in state TRANSITION with
 * WRITE_IN_PROGRESS, one reference, clean. FRAME_NONE if there is none.
 */
frame_t frames_take_modified(struct frames *frames, unsigned node);
/* The same for one known frame: false if it is not on the modified list, not of this PTE, or too young. */
bool frames_take_modified_at(struct frames *frames, frame_t frame, const uint64_t *pte);

/*
 * Zeroes up to `budget` free frames of the node whose grace period has passed (the zero-page thread's work). Returns
 * the count.
 */
uint64_t frames_zero_free(struct frames *frames, unsigned node, uint64_t budget);
/* Repurposes up to `budget` standby frames of priorities up to `highest` to the free list. Returns the count. */
uint64_t frames_repurpose(struct frames *frames, unsigned node, unsigned highest, uint64_t budget);

/* ---- bad frames (bad.c) ----------------------------------------------------------------------------------------- */

TIDE_MUST_CHECK tide_status frames_bad_init(struct frames *frames, const tide_config *config);
void frames_bad_destroy(struct frames *frames);
/*
 * From now on the frame is known to be bad, and goes to the bad list as soon as nobody has it; wakes the trimmer, whose
 * thread settles what can be settled at once. Safe in a signal handler. False if it was known.
 */
bool frames_bad_note(struct frames *frames, frame_t frame);
/* Who kept the frame from being settled has let go of it: if it is noted, the trimmer's thread looks again. */
void frames_bad_let_go(struct frames *frames, frame_t frame);
bool frames_bad_is_noted_slow(const struct frames *frames, frame_t frame);
static inline bool frames_bad_is_noted(const struct frames *frames, frame_t frame)
{
    return __builtin_expect(sync_load_relaxed_32(&frames->bad.pending) != 0, 0) &&
           frames_bad_is_noted_slow(frames, frame);
}
/* A ZEROED or FREE frame that is on no list and the caller's alone goes to the bad list, for good. */
void frames_bad_list(struct frames *frames, frame_t frame);
/* The same for one that is on the zeroed or free list. False if it is not. */
bool frames_bad_take(struct frames *frames, frame_t frame);
/* The note of a frame that is on the bad list came too late. */
void frames_bad_forget(struct frames *frames, frame_t frame);
/* The first noted frame from `from` on, FRAME_NONE if there is none. */
frame_t frames_bad_next(const struct frames *frames, uint32_t from);
/* Has anything happened that is to be settled? Once only: the caller does it. */
static inline bool frames_bad_changed(struct frames *frames)
{
    return __builtin_expect(sync_load_relaxed_32(&frames->bad.changed) != 0, 0) &&
           sync_swap_32(&frames->bad.changed, 0) != 0;
}
/* All frames but the bad ones. */
static inline uint64_t frames_usable(const struct frames *frames)
{
    return frames->total - sync_load_relaxed_64(&frames->bad.listed);
}
/*
 * Did a transfer between a page file and a frame, of this page alone, fail for the frame's memory and not for the file?
 */
bool frames_bad_is_to_blame(const struct frames *frames, int error);
/* memcpy() out of or into a frame, and zeroing one: false, and the frame is noted, if its memory turned out bad. */
static inline bool frames_copy(const struct frames *frames, void *to, const void *from, size_t bytes)
{
    if (__builtin_expect(frames->bad.guarded, 0))
        return memory_error_copy(to, from, bytes);
    memcpy(to, from, bytes);
    return true;
}

/* ---- counts, thresholds, waiting -------------------------------------------------------------------------------- */

struct frames_counts {
    uint64_t lists[FRAME_LIST_COUNT];    /* CPU caches not included */
    uint64_t cached_zeroed, cached_free; /* in the caches of the node's CPUs */
    uint64_t standby;                    /* all priorities */
    uint64_t available;                  /* zeroed + free + standby, caches included */
    uint64_t transition;
};
void frames_counts(const struct frames *frames, unsigned node, struct frames_counts *counts);
/* Length of one list, CPU caches not included. */
uint64_t frames_list_count(const struct frames *frames, unsigned node, enum frame_list list);
/* Only `available`. */
uint64_t frames_available(const struct frames *frames, unsigned node);

/*
 * Frames of a node that should be unused and at hand, so that a fault of a mapped space need not let go another page
 * first: the system calls for that take a lock of the file's, on which 64 threads would meet. 0 in an engine without
 * mapped spaces.
 */
static inline uint64_t frames_ahead(const struct frames *frames, unsigned node)
{
    return sync_load_relaxed_32(&frames->grace.mapped) != 0 ? frames->nodes[node].low : 0;
}
/* Zeroed and free frames of a node, on its lists. */
uint64_t frames_unused(const struct frames *frames, unsigned node);
/* Compares the node's counts with its thresholds and wakes the workers that have something to do. */
void frames_check_thresholds(struct frames *frames, unsigned node);
/* The same for all nodes: at the end of a call that trimmed pages, made them dirty or took frames. */
void frames_check_all_thresholds(struct frames *frames);

/* TIDE_INVALID_PARAMETER for thresholds that do not fit the frames. */
TIDE_MUST_CHECK tide_status frames_events_init(struct frames *frames, const tide_config *config);
void frames_events_destroy(struct frames *frames);
/* Which memory events are set now, by bit; brings their descriptors in line. */
uint32_t frames_events_update(struct frames *frames);
/* From time to time, if anybody watches: finds what nobody looked at after a change. */
void frames_events_look(struct frames *frames);
/* On slow paths after pages were taken. The caller holds no lock from rank notification on. */
static inline void frames_events_check(struct frames *frames)
{
    if (notifications_watched(&frames->events.notifications))
        (void)frames_events_update(frames);
}
/* After pages came back, which cannot end high memory. */
static inline void frames_events_freed(struct frames *frames)
{
    if (notifications_watched(&frames->events.notifications) &&
        (sync_load_32(&frames->events.notifications.state) >> FRAMES_EVENT_HIGH & 1) == 0)
        (void)frames_events_update(frames);
}

void frames_bell_ring(struct frames_bell *bell);
/*
 * Sleeps until rung or `timeout_ns` passed. `due` (unless NULL) is asked after announcing the sleep, so no ring is
 * lost.
 */
void frames_bell_wait(struct frames_bell *bell, bool (*due)(void *context), void *context, uint64_t timeout_ns);

/*
 * Waiting for a frame: announce, try again, then wait. The caller holds nothing (I14): no lock, no frame, no claimed
 * PTE, and is outside of grace_enter(). Returns false on time-out.
 */
uint32_t frames_wait_announce(struct frames *frames);
bool frames_wait(struct frames *frames, uint32_t value, uint64_t timeout_ns);
/* Has anything come free since it was announced? */
static inline bool frames_wait_is_over(const struct frames *frames, uint32_t value)
{
    return sync_event_value(&frames->available) != value;
}
void frames_wait_end(struct frames *frames);

/* Zeroes one page with ordinary stores, or past the caches. */
void frame_zero(void *page);
void frame_zero_streaming(void *page);
/* The same for a frame: false, and it is noted, if its memory is bad. */
static inline bool frame_zero_by(const struct frames *frames, frame_t frame, void (*zero)(void *page))
{
    if (__builtin_expect(frames->bad.guarded, 0))
        return memory_error_call(zero, frame_memory(frames, frame));
    zero(frame_memory(frames, frame));
    return true;
}

#endif

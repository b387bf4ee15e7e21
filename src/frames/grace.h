/*
 * The grace period and the world: which threads are inside the engine, and what they may still point to.
 *
 * The rule (design: "Access sections and the grace period"): a frame that left a working set is neither written out
 * nor reused until every access section that could still hold a pointer to it has ended. Readers pay one store with a
 * barrier at the begin of a section (ck_epoch) and nothing per pointer. The other side pays: who takes a page out of
 * a working set stamps the frame with the epoch read AFTER the PTE was changed, and who wants to reuse or write the
 * frame asks grace_passed().
 *
 * Why stamp + 2 is safe. The global epoch e moves to e + 1 only when every active section has observed e. Let a page's
 * PTE be changed and s be the epoch read afterwards. A section that can hold a pointer announced itself before the
 * change, so every scan that starts later sees it active. A step from s + 1 to s + 2 starts after the epoch was s + 1,
 * hence after the change: it needs the section to have observed s + 1, but then the section read the epoch after the
 * change and its later reads of the PTE see the change. So at s + 2 no section holds the pointer. The stamp has 16
 * bits; a difference taken modulo 65,536 can only err towards waiting.
 *
 * Page tables and VADs live by the same rule: table frames are stamped when freed, VADs wait on a list with a stamp.
 *
 * The world can be stopped (verification): each thread shows in `operating` that it is inside an engine call; the
 * verifier raises `stop` and waits until nobody is. Open sections may stay open meanwhile: their fast path changes
 * nothing but accessed bits. A thread that waits (for a frame, for another's fault) is not operating.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FRAMES_GRACE_H
#define FRAMES_GRACE_H

#include "base/os.h"
#include "base/quiet.h"
#include "base/sync.h"

#include <ck_epoch.h>
#include <sys/select.h> /* sigset_t, without the names of <signal.h> */

#if defined(SYNC_BUILTINS) && !defined(TIDE_INSTRUMENTED)
/* ThreadSanitizer does not see the edges that libck's epochs make. */
void __tsan_acquire(void *address);
void __tsan_release(void *address);
#define GRACE_TSAN_ACQUIRE(grace) __tsan_acquire(grace)
#define GRACE_TSAN_RELEASE(grace) __tsan_release(grace)
#else
#define GRACE_TSAN_ACQUIRE(grace) ((void)0)
#define GRACE_TSAN_RELEASE(grace) ((void)0)
#endif

enum { GRACE_SPACES_MAX = 8 };

/* As many pages as the largest I/O has. */
#define GRACE_BUFFER_BYTES ((size_t)64 * 4096)
#define GRACE_NOTES_BYTES ((size_t)8 * 4096)

struct vad;

/* One thread's presence in one engine. Written by its thread only, but for `next`. */
struct grace_thread {
    ck_epoch_record_t epoch;
    struct grace *grace;                  /* [I] */
    uint32_t operating;                   /* [A] 1 while inside an engine call, for whoever stops the world */
    uint32_t depth;                       /* [T] nesting of engine calls */
    uint32_t sections;                    /* [T] open access sections; [A] for readers of statistics */
    uint32_t pointers;                    /* [T] the open sections may have given pointers */
    int tid;                              /* [A] Linux thread id, for statistics */
    const void *spaces[GRACE_SPACES_MAX]; /* [A] spaces of the open sections, NULL where unused */
    /* The VAD that the thread's last fault hit, good while the tree's sequence is the same. [T] */
    uint64_t vad_space_id; /* never used again, unlike the address of a space */
    struct vad *vad;
    uint64_t vad_sequence;
    /* Memory priority of the pages that the thread faults, one more than it, or 0 for the space's. [T] */
    uint32_t priority;
    uint32_t own_priority; /* the same without background mode */
    uint32_t ideal_node;   /* [T] node that it counts as running on, one more than it; 0: that of its CPU */
    bool background;       /* [T] in background mode */
    /* [T] it is quiet for the thread anyway, in a handler or in a thread of the engine's; what grace_enter() held */
    bool is_quiet;
    struct quiet quiet;
    char *buffer; /* [I] GRACE_BUFFER_BYTES for what passes between page files and mapped spaces; page aligned */
    char *notes;  /* [I] GRACE_NOTES_BYTES behind it, for what a signal's stack may have no room for */
    struct grace_thread *next; /* [I] all records of the engine */
} SYNC_CACHE_ALIGNED;

struct grace {
    ck_epoch_t epoch SYNC_CACHE_ALIGNED;      /* read by every section, moved once per batch of frames at most */
    uint32_t stop;                            /* [A] the world is to stop */
    uint32_t mapped;                          /* [A] mapped spaces of the engine */
    struct sync_event resume;                 /* signalled when it goes on */
    struct sync_lock lock SYNC_CACHE_ALIGNED; /* rank grace: the advancer */
    ck_epoch_record_t advancer;               /* [L:grace] */
    struct grace_thread *threads;             /* [A] push only */
};

void grace_init(struct grace *grace);
void grace_destroy(struct grace *grace);

/*
 * A record for the calling thread, recycled if one is idle; NULL with the last error set if there is no memory. Takes
 * no lock and does not allocate but by mmap(), so that a fault can do it in a signal handler.
 */
struct grace_thread *grace_thread_get(struct grace *grace);
/* The thread leaves the engine for good; it is in no call and no section. */
void grace_thread_put(struct grace_thread *thread);

/* The epoch to stamp a frame with, read after its PTE was changed by a read-modify-write. */
static inline uint16_t grace_now(const struct grace *grace)
{
    return (uint16_t)ck_epoch_value(&grace->epoch);
}

/* May a frame with this stamp be written out or reused? */
static inline bool grace_passed(struct grace *grace, uint16_t stamp)
{
    if ((uint16_t)(grace_now(grace) - stamp) < 2)
        return false;
    GRACE_TSAN_ACQUIRE(grace);
    return true;
}

/* A stamp that has passed already, for frames that no section can know. */
static inline uint16_t grace_long_ago(const struct grace *grace)
{
    return (uint16_t)(grace_now(grace) - 2);
}

/*
 * Tries to move the epoch by up to two steps. Never blocks. True if it moved. Must not be called with a list lock
 * held.
 */
bool grace_advance(struct grace *grace);

void grace_thread_pause(struct grace_thread *thread); /* slow path: the world is stopped */

/*
 * Enters the engine: afterwards the thread is in an epoch section (tables, VADs and frames that it finds stay) and
 * counts as operating. Nests. The order is: show `operating`, full barrier, read `stop`; the verifier does the mirror
 * image. It is quiet inside (base/quiet.h).
 */
static inline void grace_enter(struct grace_thread *thread)
{
    if (__builtin_expect(sync_load_relaxed_32(&quiet_wanted) != 0, 0) && thread->depth == 0 && !thread->is_quiet)
        quiet_hold(&thread->quiet);
    if (thread->depth++ == 0) {
        if (thread->sections == 0) {
            sync_store_relaxed_32(&thread->operating, 1);
            ck_epoch_begin(&thread->epoch, NULL); /* an atomic exchange: the barrier */
        } else {
            (void)sync_swap_32(&thread->operating, 1);
            ck_epoch_begin(&thread->epoch, NULL); /* nested: no barrier of its own */
        }
        if (__builtin_expect(sync_load_32(&thread->grace->stop) != 0, 0))
            grace_thread_pause(thread);
    }
}

static inline void grace_leave(struct grace_thread *thread)
{
    if (--thread->depth == 0) {
        GRACE_TSAN_RELEASE(thread->grace);
        ck_epoch_end(&thread->epoch, NULL);
        sync_store_32(&thread->operating, 0);
        if (!thread->is_quiet)
            quiet_end(&thread->quiet);
    }
}

/* grace_advance() for a thread that is outside. */
static inline bool grace_advance_outside(struct grace_thread *thread)
{
    struct quiet quiet;

    quiet_begin(&quiet);
    const bool moved = grace_advance(thread->grace);
    quiet_end(&quiet);
    return moved;
}

/*
 * Around I/O in the middle of a call: the thread stays operating, so the world does not stop with its claims half
 * done, but is in no section of the engine's, so the grace period goes on. Tables found before are void but for those
 * with a PTE that it has claimed.
 */
static inline void grace_io_begin(struct grace_thread *thread)
{
    GRACE_TSAN_RELEASE(thread->grace);
    ck_epoch_end(&thread->epoch, NULL);
}

static inline void grace_io_end(struct grace_thread *thread)
{
    ck_epoch_begin(&thread->epoch, NULL);
}

/* True if the caller holds pointers of an access section, so that it may itself be what it waits for. */
static inline bool grace_holds_pointers(const struct grace_thread *thread)
{
    return thread->sections != 0 && thread->pointers != 0;
}

/*
 * Open sections that have given no pointer yet protect nothing: before a wait they are ended, and begun anew after
 * it.
 */
static inline void grace_sections_suspend(struct grace_thread *thread)
{
    for (uint32_t i = 0; i < thread->sections && thread->pointers == 0; i++)
        ck_epoch_end(&thread->epoch, NULL);
}

static inline void grace_sections_resume(struct grace_thread *thread)
{
    for (uint32_t i = 0; i < thread->sections && thread->pointers == 0; i++)
        ck_epoch_begin(&thread->epoch, NULL);
}

/*
 * Leaves the engine, however deep in it the thread is, and enters it as deep again: around a short sleep, for which the
 * world and the grace period need not wait. What was looked up before is void. Open sections go on.
 */
static inline uint32_t grace_leave_all(struct grace_thread *thread)
{
    const uint32_t depth = thread->depth;

    for (uint32_t i = 0; i < depth; i++)
        grace_leave(thread);
    return depth;
}

static inline void grace_enter_again(struct grace_thread *thread, uint32_t depth)
{
    for (uint32_t i = 0; i < depth; i++)
        grace_enter(thread);
}

/*
 * The same around a wait for what other threads do, or for the grace period itself: sections that have given no pointer
 * are suspended too, so that the thread does not wait for itself. One whose pointers it holds stays open. The caller
 * holds no lock, no claim and no frame; between begin and end it may enter and leave. The depth goes from begin to end.
 */
static inline uint32_t grace_outside_begin(struct grace_thread *thread)
{
    const uint32_t depth = grace_leave_all(thread);

    grace_sections_suspend(thread);
    return depth;
}

static inline void grace_outside_end(struct grace_thread *thread, uint32_t depth)
{
    grace_sections_resume(thread);
    grace_enter_again(thread, depth);
}

/*
 * Does the thread's open section hold the epoch back? Then no frame that left a working set since it began can come
 * free.
 */
static inline bool grace_section_is_stale(const struct grace_thread *thread)
{
    return thread->sections != 0 && thread->epoch.epoch != ck_epoch_value(&thread->grace->epoch);
}

/*
 * The thread uses a space, or does no more: it must not be destroyed meanwhile. False: it uses GRACE_SPACES_MAX
 * already.
 */
bool grace_space_use(struct grace_thread *thread, const void *space);
void grace_space_leave(struct grace_thread *thread, const void *space);

/*
 * Opens or ends an access section on a space, which the thread uses meanwhile; outside any engine call. False if more
 * than GRACE_SPACES_MAX spaces are open.
 */
bool grace_section_begin(struct grace_thread *thread, const void *space);
void grace_section_end(struct grace_thread *thread, const void *space);
/* Is any thread in an access section on the space? */
bool grace_space_in_use(struct grace *grace, const void *space);

struct grace_report {
    uint64_t epoch;
    uint64_t open_sections;
    uint64_t stale_sections;
    uint64_t longest_tid;
    uint64_t threads; /* records in use: living threads */
};
void grace_report(struct grace *grace, struct grace_report *report);

/*
 * Stops the world: returns when no other thread operates. One stopper at a time (rank world outside). `self` is not
 * operating.
 */
void grace_world_stop(struct grace *grace);
void grace_world_resume(struct grace *grace);

#endif

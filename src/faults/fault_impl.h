/*
 * Inside faults/.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef FAULTS_FAULT_IMPL_H
#define FAULTS_FAULT_IMPL_H

#include "faults/fault.h"

struct fault {
    tide_space *space;
    struct grace_thread *thread;
    tide_address address;
    tide_access_kind kind;
    uint64_t page;
    struct frame_wait wait;     /* for frames */
    uint32_t commit_generation; /* of the region, when its commit state was read */
    bool collided;              /* counted as such: once, however often it waits */
    bool guard;                 /* a stack grew for it */
    bool overwrite;             /* the whole page is about to be written: its content is not needed */
    bool admitted;              /* room was asked for at a hard maximum; settled at the end of each step */
    bool spilled;               /* its node has done what it could: other nodes are asked */
    bool placed;                /* its node is not simply that of the CPU: counted with care */
    tide_status result;         /* class of fault taken so far */
    pte_t valid;                /* the outcome */
};

/* One step of a fault has been taken and the PTE must be looked at again. Never leaves faults/. */
#define FAULT_AGAIN TIDE_STATUS_CODE(0x7F000001)

static inline bool fault_allowed(const struct fault *fault, unsigned protection)
{
    return fault->kind == TIDE_ACCESS_WRITE ? pte_protection_writes(protection) : pte_protection_reads(protection);
}

/* The priority that the page gets: the thread's, or else the space's. */
static inline unsigned fault_priority(const struct fault *fault)
{
    return __builtin_expect(fault->thread->priority != 0, 0) ? fault->thread->priority - 1
                                                             : sync_load_relaxed_32(&fault->space->priority);
}

/* Called before a page comes in. FAULT_AGAIN: there was no room, and the fault waited for it outside of the engine. */
static inline tide_status fault_admit(struct fault *fault)
{
    if (__builtin_expect(sync_load_relaxed_32(&fault->space->hard_maximum) == 0, 1))
        return TIDE_SUCCESS;
    fault->admitted = working_set_admit(fault->space);
    if (fault->admitted)
        return TIDE_SUCCESS;
    working_set_room_wait(fault->space, fault->thread);
    return FAULT_AGAIN;
}

/* After the page was counted, and before the engine is left without it. */
static inline void fault_settle(struct fault *fault)
{
    if (__builtin_expect(fault->admitted, 0)) {
        fault->admitted = false;
        working_set_settle(fault->space);
    }
}

/*
 * Where a frame for the page of this fault is wanted: by the placement of its region or space, else on the node of the
 * thread. And for another page of the space, once the fault's own has asked and was `placed`.
 */
struct frames_place fault_place(struct fault *fault);
struct frames_place fault_page_place(struct fault *fault, uint64_t page);

/* Slow part of fault_count(): the node asked for did not give the frame, or is not the CPU's own. */
void fault_count_places(struct fault *fault, frame_t frame, unsigned node, unsigned cpu);

/* Counts a resolved fault and, if it crossed nodes, between which; `node` is the one that was asked first. */
static inline void fault_count(struct fault *fault, enum space_counter counter, frame_t frame, unsigned node)
{
    const unsigned cpu = space_cpu(fault->space);

    space_count_on(fault->space, cpu, counter, 1);
    if (__builtin_expect(sync_load_relaxed_32(&fault->space->watched) != 0, 0))
        working_set_watch_note(fault->space, fault->thread, fault->address,
                               counter == SPACE_DEMAND_ZERO ? TIDE_PAGE_FAULT_DEMAND_ZERO
                               : counter == SPACE_HARD      ? TIDE_PAGE_FAULT_PAGING_FILE
                                                            : TIDE_PAGE_FAULT_TRANSITION);
    if (__builtin_expect(!frame_is_on_node(space_frames(fault->space), frame, node) | fault->placed, 0))
        fault_count_places(fault, frame, node, cpu);
}

/* There is no frame: waits for one, outside of the engine. FAULT_AGAIN, or the error. Holding no claim. */
tide_status fault_frame_wait(struct fault *fault, struct frames_place place);

/* Counts an access violation and says why. */
tide_status fault_violation(struct fault *fault, const char *why);
/* The protection does not allow the access: a violation, or a guard page. */
tide_status fault_refused(struct fault *fault, uint64_t *pte, pte_t seen, struct vad *vad, unsigned protection);

/* Some region of the space has write watch: then a PTE is claimed before it is published, and fault_watch() asked. */
static inline bool fault_may_be_watched(const struct fault *fault)
{
    return sync_load_relaxed_32(&fault->space->has_write_watch) != 0;
}
pte_t fault_watch(struct fault *fault, pte_t valid);

/* ---- mapped spaces (mapped.c) ---- */

/*
 * The page of a PTE that is claimed is shown as `valid`, which is published afterwards, says; in a soft space nothing.
 * If the system has no memory for its tables, the page stays hidden and the next access tries again: an errno value
 * then.
 */
int fault_show(const struct fault *fault, pte_t valid);
/*
 * The system has no memory for a page, or for its tables, though the budget has: TIDE_NO_MEMORY, and why. EHWPOISON and
 * EIO: it has, and it is bad: TIDE_IN_PAGE_ERROR.
 */
tide_status fault_no_memory(const struct fault *fault, int error);
/*
 * Where page `i` of a read goes: into its frame; in a mapped space, whose frames have no memory, the thread's buffer.
 */
static inline void *fault_read_memory(const tide_space *space, const struct grace_thread *thread, frame_t frame,
                                      unsigned i)
{
    return space->mapping != NULL ? (void *)(thread->buffer + i * TIDE_PAGE_BYTES)
                                  : frame_memory(space_frames(space), frame);
}
/*
 * demand_zero() in a mapped space: with neighbours, if pages are touched one after the other. The fault was allowed and
 * admitted, and the table is there.
 */
tide_status fault_zero_mapped(struct fault *fault, uint64_t *pte, pte_t seen, const struct vad *vad,
                              unsigned protection);
/*
 * How many pages beside entry `index` of a leaf, in one direction, are in memory: the track of a scan. `most` at most,
 * within the leaf, and of the leaf before it if the entry is its first.
 */
unsigned fault_track(const struct fault *fault, const uint64_t *leaf, unsigned index, int direction, unsigned most);
/*
 * After a soft fault, or one on a page that ageing had hidden, of an access that goes on from page to page: the pages
 * that follow, as far as they are in memory, are shown too.
 */
void fault_show_following(struct fault *fault, const uint64_t *pte);
/* What frames a page of the space takes. */
static inline enum frames_need fault_need(const struct fault *fault, enum frames_need soft)
{
    return __builtin_expect(fault->space->mapping != NULL, 0) ? FRAMES_HOLLOW : soft;
}

/* The page is in the page file: `seen` is its PTE. hard.c */
tide_status fault_hard(struct fault *fault, uint64_t *pte, pte_t seen);

#endif

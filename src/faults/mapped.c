/*
 * Faults in mapped spaces: showing pages, and fresh pages several at a time.
 *
 * A hardware fault costs microseconds before it does anything, so a program that touches fresh pages one after the
 * other gets as many at a time as it has shown to use: the pages in memory just before the faulting one (or just after
 * it) are the track of a scan, and twice that track follows, up to MAPPING_BATCH pages. A lone access, or a track so
 * short that it may be chance, gets one page. Pages that come unasked are of the same region and committed in the same
 * way, and have frames that were unused and at hand: no page goes for them, nothing is waited for, and a hard maximum
 * or a write watch is not passed by them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "faults/fault_impl.h"

#include <errno.h>

int fault_show(const struct fault *fault, pte_t valid)
{
    if (fault->space->mapping == NULL)
        return 0;
    return mapping_show(fault->space->mapping, fault->page, 1, pte_is_writable(valid));
}

tide_status fault_no_memory(const struct fault *fault, int error)
{
    if (error == EIO || error == EHWPOISON) { /* which the kernel says of a page of a memfd when it is to be shown */
        space_count(fault->space, SPACE_IN_PAGE_ERRORS, 1);
        return error_set(TIDE_IN_PAGE_ERROR, EHWPOISON, fault->address,
                         "the memory of the page of address 0x%lx is bad", fault->address);
    }
    return error_set(TIDE_NO_MEMORY, error, fault->address,
                     "the system has no memory for the page of address 0x%lx, which the engine's budget has",
                     fault->address);
}

static bool in_memory(pte_t pte)
{
    return pte_is_valid(pte) || pte_tag(pte) == PTE_TAG_TRANSITION || pte_tag(pte) == PTE_TAG_BUSY;
}

unsigned fault_track(const struct fault *fault, const uint64_t *leaf, unsigned index, int direction, unsigned most)
{
    unsigned length = 0;
    int at = (int)index + direction;

    if (at < 0 && fault->space->mapping != NULL) {
        const uint64_t *before = page_table_find(&fault->space->table, fault->page - 1);

        if (before == NULL)
            return 0;
        leaf = before - (TABLE_ENTRIES - 1);
        at = TABLE_ENTRIES - 1;
    }
    while (length < most && at >= 0 && at < TABLE_ENTRIES && in_memory(pte_load(&leaf[at]))) {
        length++;
        at += direction;
    }
    return length;
}

/* Fresh pages that lie together, claimed: the faulting one and its neighbours. */
struct fresh {
    uint64_t *pte; /* of the first */
    unsigned count;
    frame_t *frames; /* in the thread's buffer */
};

/* How many pages beside the faulting one are to come, and in which direction. */
static unsigned neighbours_wanted(const struct fault *fault, const uint64_t *leaf, unsigned index, int *direction)
{
    const unsigned before = fault_track(fault, leaf, index, -1, MAPPING_BATCH);
    const unsigned after = before >= PAGE_TRACK_LEAST ? 0 : fault_track(fault, leaf, index, 1, MAPPING_BATCH);
    const unsigned longest = before >= PAGE_TRACK_LEAST ? before : after;
    const unsigned most = fault->space->cluster_most - 1; /* beside the faulting one */

    *direction = before >= PAGE_TRACK_LEAST ? 1 : -1;
    if (longest < PAGE_TRACK_LEAST || sync_load_relaxed_32(&fault->space->hard_maximum) != 0 ||
        fault_may_be_watched(fault))
        return 0;
    if (longest * 2 < most)
        return longest * 2;
    /* Up to a multiple: from there on all clusters lie so that the system can take them in one piece. */
    return *direction > 0 && most == MAPPING_BATCH - 1 ? most - index % MAPPING_BATCH : most;
}

/* Claims neighbours whose PTEs are as that of the faulting page was, `seen`. The order of the frames is no matter. */
static void neighbours_claim(struct fault *fault, pte_t seen, const struct vad *vad, unsigned protection,
                             struct frames_place place, struct fresh *fresh)
{
    struct frames *frames = space_frames(fault->space);
    uint64_t *pte = fresh->pte;
    uint64_t *leaf = (uint64_t *)((uintptr_t)pte & ~(uintptr_t)(TIDE_PAGE_BYTES - 1));
    const unsigned index = (unsigned)(pte - leaf);
    int direction;
    const unsigned wanted = neighbours_wanted(fault, leaf, index, &direction);

    if ((seen.bits != 0 && seen.bits != pte_make(PTE_TAG_NONE, protection).bits) || fault->placed)
        return;
    while (fresh->count <= wanted) {
        const int at = (int)index + direction * (int)fresh->count;
        const uint64_t page = fault->page + (uint64_t)(int64_t)(direction * (int)fresh->count);

        if (at < 0 || at >= TABLE_ENTRIES ||
            (vad != NULL && page - vad->first_page > vad->last_page - vad->first_page) ||
            pte_load(&leaf[at]).bits != seen.bits)
            break;
        const frame_t frame =
            frames_allocate(frames, place.node, FRAMES_HOLLOW, FRAMES_AT_HAND | FRAMES_UNUSED | place.flags);
        if (frame_is_none(frame))
            break;
        if (!pte_cas(&leaf[at], seen, pte_make(PTE_TAG_BUSY, protection))) {
            frames_give_back(frames, frame, true);
            break;
        }
        fresh->frames[fresh->count++] = frame;
    }
    if (direction < 0)
        fresh->pte = pte - (fresh->count - 1);
}

/* As if it had not been tried. */
static void fresh_give_back(struct fault *fault, const struct fresh *fresh, pte_t seen)
{
    for (unsigned i = 0; i < fresh->count; i++) {
        pte_release(fault->space->partition->waits, &fresh->pte[i], seen);
        frames_give_back(space_frames(fault->space), fresh->frames[i], true);
    }
}

tide_status fault_zero_mapped(struct fault *fault, uint64_t *pte, pte_t seen, const struct vad *vad,
                              unsigned protection)
{
    tide_space *space = fault->space;
    struct frames *frames = space_frames(space);
    const struct frames_place place = fault_place(fault);
    const frame_t frame = frames_allocate(frames, place.node, FRAMES_HOLLOW, place.flags);
    struct fresh fresh = { .pte = pte, .count = 1, .frames = (frame_t *)(void *)fault->thread->buffer };

    if (frame_is_none(frame))
        return fault_frame_wait(fault, place);
    fresh.frames[0] = frame;
    if (!pte_cas(pte, seen, pte_make(PTE_TAG_BUSY, protection))) {
        frames_give_back(frames, frame, true);
        return FAULT_AGAIN;
    }
    neighbours_claim(fault, seen, vad, protection, place, &fresh);
    /*
     * Asked again, now that they are claimed and cannot go: without `vad` they may be of a region with write watch that
     * is newer than the first look. Then the faulting page comes alone.
     */
    if (fresh.count > 1 && fault_may_be_watched(fault)) {
        fresh_give_back(fault, &fresh, seen);
        return FAULT_AGAIN;
    }
    /* As in demand_zero(): what only the VAD says is asked again once the PTEs are claimed. */
    if (vad != NULL && sync_load_32(&vad->commit_state) != protection) {
        fresh_give_back(fault, &fresh, seen);
        return FAULT_AGAIN;
    }
    pte_t valid = pte_make_valid(frame, protection, true);
    if (fault_may_be_watched(fault))
        valid = fault_watch(fault, valid);
    const uint64_t first = fault->page - (uint64_t)(pte - fresh.pte);
    const int error = mapping_zero(space->mapping, first, fresh.count, (valid.bits & PTE_WRITE) != 0);
    if (error != 0) {
        fresh_give_back(fault, &fresh, seen);
        return fault_no_memory(fault, error);
    }
    for (unsigned i = 0; i < fresh.count; i++) {
        struct pfn *pfn = frame_pfn(frames, fresh.frames[i]);

        pfn_pte_set(pfn, &fresh.pte[i]);
        sync_store_relaxed_64(&pfn->original, seen.bits & (PTE_RESET | PTE_LOST) ? PTE_LOST : 0);
        frame_state_set(
            pfn, pfn_with_priority((uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_HOLLOW | PFN_REFERENCE_ONE | PFN_SHARE_ONE,
                                   fault_priority(fault)));
        pte_release(space->partition->waits, &fresh.pte[i],
                    (pte_t){ (valid.bits & ~PTE_FRAME_MASK) | (uint64_t)fresh.frames[i].number << PTE_FRAME_SHIFT });
    }
    fault_count(fault, SPACE_DEMAND_ZERO, frame, place.node);
    if (fresh.count > 1)
        space_count(space, SPACE_DEMAND_ZERO, fresh.count - 1);
    fault->result = TIDE_PAGE_FAULT_DEMAND_ZERO;
    fault->valid = (pte_t){ (valid.bits & ~PTE_FRAME_MASK) | (uint64_t)frame.number << PTE_FRAME_SHIFT };
    return fault->result;
}

/* ---- pages that are in memory ----------------------------------------------------------------------------------- */

/* Pages beside the faulting one that the program has used of late, in one direction. */
static unsigned used_track(const uint64_t *leaf, unsigned index, int direction)
{
    const uint64_t used = PTE_VALID | PTE_ACCESSED;
    unsigned length = 0;

    for (int at = (int)index + direction; at >= 0 && at < TABLE_ENTRIES && length < MAPPING_BATCH; at += direction) {
        if ((pte_load(&leaf[at]).bits & used) != used)
            break;
        length++;
    }
    return length;
}

/*
 * Claims a page that is in memory and not shown, if it can be had without a wait, and says as what it is to be shown.
 */
static bool follower_claim(struct fault *fault, uint64_t *pte, pte_t *next)
{
    tide_space *space = fault->space;
    struct frames *frames = space_frames(space);
    const pte_t seen = pte_load(pte);
    const unsigned protection = pte_protection(seen);
    uint64_t word;

    if (pte_is_busy(seen) || !pte_protection_reads(protection))
        return false;
    if (pte_is_valid(seen)) {
        *next = (pte_t){ seen.bits | PTE_ACCESSED };
        return !(seen.bits & PTE_ACCESSED) && pte_cas(pte, seen, pte_busy_form(seen));
    }
    if (pte_tag(seen) != PTE_TAG_TRANSITION || !pte_cas(pte, seen, pte_busy_form(seen)))
        return false;
    word = sync_load_64(&frame_pfn(frames, pte_frame(seen))->word);
    const enum frame_state state = pfn_state(word);
    if ((state != FRAME_STANDBY && state != FRAME_MODIFIED) ||
        !frames_unlink(frames, pte_frame(seen), word, FRAME_ACTIVE, PFN_SHARE_ONE + PFN_REFERENCE_ONE,
                       fault_priority(fault), &word)) {
        pte_release(space->partition->waits, pte, seen);
        return false;
    }
    *next = pte_make_valid(pte_frame(seen), protection, (word & PFN_DIRTY) != 0);
    space_count(space, state == FRAME_STANDBY ? SPACE_STANDBY : SPACE_MODIFIED, 1);
    return true;
}

void fault_show_following(struct fault *fault, const uint64_t *at)
{
    tide_space *space = fault->space;
    uint64_t *pte = (uint64_t *)(uintptr_t)at;
    uint64_t *leaf = (uint64_t *)((uintptr_t)pte & ~(uintptr_t)(TIDE_PAGE_BYTES - 1));
    const unsigned index = (unsigned)(pte - leaf);
    const unsigned track = used_track(leaf, index, -1);
    const unsigned most = space->cluster_most - 1;
    const unsigned wanted = track * 2 < most ? track * 2 : most;
    pte_t *const next = (pte_t *)(void *)fault->thread->buffer; /* a handler's stack may be small */
    unsigned count = 0;

    if (track < PAGE_TRACK_LEAST || sync_load_relaxed_32(&space->hard_maximum) != 0 || fault_may_be_watched(fault))
        return;
    while (count < wanted && index + 1 + count < TABLE_ENTRIES && follower_claim(fault, &pte[1 + count], &next[count]))
        count++;
    /*
     * Asked again, now that they are claimed and cannot go: they may be of a region with write watch that is newer than
     * the first look. A write to one comes back then.
     */
    for (unsigned i = 0; i < count && fault_may_be_watched(fault); i++)
        next[i].bits &= ~PTE_WRITE;
    for (unsigned first = 0, end; first < count; first = end) {
        end = first + 1;
        while (end < count && pte_is_writable(next[end]) == pte_is_writable(next[first]))
            end++;
        /* Without memory for the system's tables they stay hidden, and are found so. */
        if (mapping_show(space->mapping, fault->page + 1 + first, end - first, pte_is_writable(next[first])) != 0)
            break;
    }
    for (unsigned i = 0; i < count; i++)
        pte_release(space->partition->waits, &pte[1 + i], next[i]);
}

void fault_show_held(tide_space *space, uint64_t first, uint64_t last)
{
    /* Who hides pages has looked at them under this lock: from here on they are seen to be held. */
    sync_lock(&space->working_set.lock);
    sync_unlock(&space->working_set.lock);
    for (uint64_t page = first; page <= last; page++) {
        uint64_t *pte = page_table_find(&space->table, page);

        if (pte == NULL)
            continue;
        pte_t seen = page_claim(space, pte);
        if (!pte_is_valid(seen) && pte_tag(seen) != PTE_TAG_TRANSITION)
            continue; /* decommitted meanwhile, and not claimed */
        if (pte_is_valid(seen) && mapping_show(space->mapping, page, 1, pte_is_writable(seen)) == 0)
            seen.bits |= PTE_ACCESSED;
        pte_release(space->partition->waits, pte, seen);
    }
}

void fault_clear(tide_space *space, uint64_t page)
{
    uint64_t *pte = page_table_find(&space->table, page);

    while (pte != NULL) {
        const pte_t seen = pte_load(pte);

        if (seen.bits == 0)
            return; /* as it has been from the beginning, or the region went */
        if (pte_is_busy(seen)) {
            pte_wait(space->partition->waits, NULL, pte);
            continue;
        }
        if (!pte_cas(pte, seen, pte_busy_form(seen)))
            continue;
        mapping_clear(space->mapping, page);
        pte_release(space->partition->waits, pte, seen);
        return;
    }
}

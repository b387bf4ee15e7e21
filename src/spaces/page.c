/*
 * What can be done to one page from outside of a fault: delete it, protect it, make it dirty.
 *
 * Each takes the page by claiming its PTE. From then on the frame can change only by the end of a write or of a pin,
 * which are decided by compare-and-swap of the frame's word.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"

void page_original_set(tide_space *space, struct pfn *pfn, uint64_t original)
{
    const struct stores_slot slot = pte_slot((pte_t){ pfn->original });

    if (slot.slot != 0)
        stores_slot_release(space->partition->stores, slot);
    sync_store_relaxed_64(&pfn->original, original);
}

/*
 * The copy in the page file of a page whose PTE is claimed is of no use any more, and its content is needed. While a
 * write is in flight it is the writer's, who looks at its end whether the page was dirtied or deleted.
 */
static void original_drop(tide_space *space, struct pfn *pfn, uint64_t word)
{
    if (!(word & PFN_WRITE_IN_PROGRESS) && pfn->original != 0)
        page_original_set(space, pfn, pfn->original & PTE_LOST);
}

/* The frame of a claimed PTE goes. */
static void frame_delete(tide_space *space, frame_t frame)
{
    struct frames *frames = space_frames(space);
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        switch (pfn_state(word)) {
        case FRAME_STANDBY:
        case FRAME_MODIFIED:
        case FRAME_MODIFIED_NO_WRITE:
            if (!frames_unlink(frames, frame, word, FRAME_ACTIVE, 0, 0, &word))
                continue; /* the writer took it; look again */
            original_drop(space, pfn, word);
            frames_free(frames, frame);
            return;
        case FRAME_ACTIVE:
            original_drop(space, pfn, word);
            if (pfn_reference_count(word) == 1) {
                frames_free(frames, frame);
                return;
            }
            /* Pinned, or being written: whoever drops the last reference frees it. */
            if (!frame_state_cas(
                    pfn, word,
                    (pfn_with_state(word, FRAME_TRANSITION) | PFN_DELETED) - PFN_SHARE_ONE - PFN_REFERENCE_ONE, &word))
                continue;
            (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, 1);
            break;
        case FRAME_TRANSITION:
            original_drop(space, pfn, word);
            if (!frame_state_cas(pfn, word, word | PFN_DELETED, &word))
                continue;
            break;
        default:
            ASSERT_ALWAYS(!"a PTE names a frame that has an owner");
        }
        return;
    }
}

/* A page in this form is deleted: it is not offered any more. */
static void offered_forget(tide_space *space, pte_t seen)
{
    if (!pte_is_valid(seen) && pte_protection(seen) == PTE_OFFERED)
        (void)sync_add_64(&space->offered_pages, (uint64_t)-1);
}

void page_delete_claimed(tide_space *space, uint64_t *pte, pte_t seen, pte_t leave)
{
    if (pte_is_valid(seen) && !(seen.bits & PTE_LARGE))
        space_count(space, SPACE_REMOVED, 1);
    if (pte_is_valid(seen) && (seen.bits & PTE_LARGE))
        (void)sync_add_64(&space->partition->resident_pages, (uint64_t)-1);
    if (pte_is_valid(seen) && (seen.bits & PTE_LOCKED))
        lock_quota_return(space, 1);
    if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION)
        frame_delete(space, pte_frame(seen));
    else
        stores_slot_release(space->partition->stores, pte_slot(seen));
    pte_release(space->partition->waits, pte, leave);
    offered_forget(space, seen);
}

bool page_delete(tide_space *space, uint64_t *pte, pte_t leave, bool zero_is_committed)
{
    for (;;) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen)) {
            pte_wait(space->partition->waits, NULL, pte);
            continue;
        }
        if (!pte_is_valid(seen) && (pte_tag(seen) == PTE_TAG_NONE || pte_tag(seen) == PTE_TAG_DECOMMITTED)) {
            if (seen.bits != leave.bits && !pte_cas(pte, seen, leave))
                continue;
            offered_forget(space, seen);
            return seen.bits == 0 ? zero_is_committed : pte_tag(seen) == PTE_TAG_NONE;
        }
        if (pte_is_valid(seen) && pte_is_large(seen))
            page_table_large_clear(&space->table, pte);
        if (!pte_cas(pte, seen, pte_busy_form(seen)))
            continue;
        mapped_page_drop(space, pte, seen); /* it came since the caller looked */
        page_delete_claimed(space, pte, seen, leave);
        return true;
    }
}

void page_protect(tide_space *space, uint64_t *pte, unsigned protection, bool watched)
{
    for (;;) {
        const pte_t seen = pte_load(pte);
        pte_t next;

        if (pte_is_busy(seen)) {
            pte_wait(space->partition->waits, NULL, pte);
            continue;
        }
        if (pte_is_valid(seen)) {
            const uint64_t keep = PTE_ACCESSED | PTE_AGE_MASK | PTE_LARGE | PTE_LOCKED;
            next.bits = (pte_make_valid(pte_frame(seen), protection, (seen.bits & PTE_DIRTY) != 0).bits & ~keep) |
                        (seen.bits & keep);
            /* With write watch the next write asks again; a mark that is there stays. */
            if (watched)
                next.bits &= ~PTE_WRITE;
        } else {
            next = pte_with_protection(seen, protection);
        }
        if (pte_cas(pte, seen, next))
            return;
    }
}

void page_dirty_claimed(tide_space *space, frame_t frame)
{
    struct pfn *pfn = frame_pfn(space_frames(space), frame);
    uint64_t word = sync_load_64(&pfn->word);

    do
        original_drop(space, pfn, word);
    while (!frame_state_cas(pfn, word, word | PFN_DIRTY, &word));
}

void page_frame_remove_batched(struct frames_batch *lists, frame_t frame, uint16_t epoch)
{
    struct frames *frames = lists->frames;
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        uint64_t next = pfn_with_grace(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, epoch);

        if (pfn_reference_count(word) == 1) {
            next = pfn_with_state(next, next & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY);
            if (frames_batch_insert(lists, frame, word, next, &word))
                return;
        } else if (frame_state_cas(pfn, word, pfn_with_state(next, FRAME_TRANSITION), &word)) {
            (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, 1);
            return;
        }
    }
}

void page_frame_remove(struct frames *frames, frame_t frame)
{
    struct frames_batch lists;

    frames_batch_begin(&lists, frames);
    page_frame_remove_batched(&lists, frame, grace_now(&frames->grace));
    frames_batch_end(&lists);
}

pte_t page_claim(tide_space *space, uint64_t *pte)
{
    for (;;) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen))
            pte_wait(space->partition->waits, NULL, pte);
        else if ((!pte_is_valid(seen) && pte_tag(seen) != PTE_TAG_TRANSITION) ||
                 pte_cas(pte, seen, pte_busy_form(seen)))
            return seen;
    }
}

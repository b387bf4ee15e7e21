/*
 * What becomes of the page in a frame whose memory is bad.
 *
 *   zeroed, free            there is none
 *   standby                 its PTE gets what the record says is to be put back, as when the frame is taken for other use:
 *                           the next access reads the page from its slot. Nothing is lost
 *   active, clean           the same, and it leaves the working set; a lock on it ends
 *   modified, active dirty  the page is lost. Its PTE says so (PTE_BAD), and each access is told
 *   large page              always dirty: the page of 4 KiB is lost. The other 511 stay where they are; one that is
 *                           written anew in its place is an ordinary page
 *   pinned                  nothing yet: whoever has the pin may use the memory. When the last pin is gone
 *   under write             the same: a page file does not answer (workers/lanes.c). When the write has ended
 *   page table              nothing. What it held cannot be known again, and it is left in use, in the hope that the
 *                           entries that are needed can still be read, until its space lets it go
 *
 * All this in a stopped world: no PTE is claimed, no frame is in anybody's hands, and references of a frame beyond that
 * of its PTE are pins or writes. Open access sections may hold pointers to the frame. They stay good for as much as the memory
 * is: it is never given to anybody else, so there is no grace period to wait for. What is written through them from now
 * on is lost with the page; a clean page has no pointer for writing.
 *
 * Mapped spaces. The memory of a page is in the space's file, and its frame is as good as any. The kernel tells when the
 * writer reads the page (EHWPOISON): the page is lost and its memory goes, with the world as it is, since the writer
 * has the frame (bad_page_unreadable()). The frame is used again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"

/* The space of a PTE, and its page. */
static tide_space *owner_of(const struct partition *partition, const uint64_t *pte, uint64_t *page)
{
    const uint64_t *root;

    *page = page_table_page_of(partition->frames, pte, &root);
    for (tide_space *space = partition->spaces; space != NULL; space = space->next)
        if (space->table.root == root)
            return space;
    ASSERT_ALWAYS(!"a page that is in memory belongs to a space");
    return NULL;
}

static bool is_pinned(uint64_t word)
{
    return pfn_state(word) == FRAME_TRANSITION || pfn_reference_count(word) > (pfn_share_count(word) != 0);
}

/* What the PTE of the page is without the frame. */
static pte_t pte_without(uint64_t word, uint64_t original, pte_t pte)
{
    const uint64_t protection = pte.bits & PTE_PROTECTION_MASK;

    return (pte_t){ protection | (word & PFN_DIRTY ? PTE_BAD | (original & PTE_LOST) : original) };
}

/* The page leaves the working set, if it is in it. */
static void valid_leave(tide_space *space, pte_t pte)
{
    if (pte_is_large(pte)) {
        (void)sync_add_64(&space->partition->resident_pages, (uint64_t)-1);
        return;
    }
    space_peak_update(space);
    space_count(space, SPACE_REMOVED, 1);
    if (pte_is_locked(pte))
        lock_quota_return(space, 1);
}

enum bad_page_outcome bad_page_take(struct partition *partition, frame_t frame, tide_space **space, uint64_t *page)
{
    struct frames *frames = partition->frames;
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);
    const uint64_t original = sync_load_relaxed_64(&pfn->original);

    *space = NULL;
    *page = 0;
    switch (pfn_state(word)) {
    case FRAME_BAD: /* noted once more while it went there */
        frames_bad_forget(frames, frame);
        return BAD_PAGE_NONE;
    case FRAME_ZEROED:
    case FRAME_FREE:
        /* Else it is on its way to a list with somebody who could not get a record to be seen by: he lists it. */
        return frames_bad_take(frames, frame) ? BAD_PAGE_NONE : BAD_PAGE_PINNED;
    default:
        break;
    }
    if (pfn_use(word) == FRAME_USE_PAGE_TABLE)
        return BAD_PAGE_TABLE;
    if (!(word & PFN_DELETED))
        *space = owner_of(partition, pfn_pte(pfn), page);
    /*
     * The memory of a page of a mapped space is in its file, and not this frame's: it is out of use when the page goes.
     */
    if (is_pinned(word) || pfn_is_hollow(word))
        return BAD_PAGE_PINNED;

    uint64_t *pte = pfn_pte(pfn);
    const pte_t seen = pte_load(pte);
    if (pte_is_valid(seen) && pte_is_large(seen))
        page_table_large_clear(&(*space)->table, pte);
    if (pte_is_valid(seen))
        valid_leave(*space, seen);
    if (pfn_state(word) != FRAME_ACTIVE)
        ASSERT_ALWAYS(frames_unlink(frames, frame, word, FRAME_FREE, 0, 0, &word));
    else
        frame_state_set(pfn, (uint64_t)FRAME_FREE);
    sync_store_64(pte, pte_without(word, original, seen).bits);
    if (!(word & PFN_DIRTY))
        frames_reset_lost_count(frames, original);
    else
        (void)sync_add_64(&partition->bad_pages_lost, 1);
    frames_bad_list(frames, frame);
    return word & PFN_DIRTY ? BAD_PAGE_LOST : BAD_PAGE_BACKED;
}

void bad_page_unreadable(struct mapping *mapping, uint64_t *pte, frame_t frame)
{
    tide_space *space = mapping->owner;
    const pte_t seen = pte_load(pte);

    if (pte_is_valid(seen) || pte_tag(seen) != PTE_TAG_TRANSITION || pte_frame(seen).number != frame.number ||
        pte_protection(seen) == PTE_OFFERED || !pte_cas(pte, seen, pte_busy_form(seen)))
        return;
    const uint64_t original = sync_load_relaxed_64(&frame_pfn(space_frames(space), frame)->original);
    mapped_page_drop(space, pte, seen);
    page_delete_claimed(space, pte, seen, pte_without(PFN_DIRTY, original, seen));
    (void)sync_add_64(&space->partition->bad_pages_lost, 1);
}

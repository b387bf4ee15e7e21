/*
 * Contents that may be dropped: reset and undo, discard, offer and reclaim (nt-behaviour 6 rules 1 to 4).
 *
 * What "may be dropped" is. A clean page is one that can be had back when its frame is taken: `original` of the frame's
 * record says from which slot. A page whose content nobody needs is clean too, with PTE_RESET instead of a slot: the
 * writer never writes it, since it is not dirty, and when the frame is taken, that mark becomes the PTE - demand zero,
 * lost. Nothing else in the engine needs to know more of it than that the mark is no slot.
 *
 *   reset    the page stays where it is, clean, with the mark; on the modified list it moves to standby. A copy in the
 *            page file goes, and with it a page that is nowhere else.
 *   undo     what is still there becomes dirty, that is needed, again. What has the mark in its PTE was lost.
 *   write    the first write after a reset takes the slow path, since the page is clean, and drops the mark.
 *   offer    as reset; besides the page leaves the working set, for a standby list below that of ordinary pages of like
 *            rank, and its protection becomes PTE_OFFERED, which allows nothing.
 *   reclaim  as undo; and the protection is PTE_READWRITE again.
 *   discard  the page is deleted; it stays committed, as demand zero.
 *
 * A page that was lost and is touched begins anew, as zeros. That it was lost must not be forgotten, for undo promises
 * that success means every byte: so its record, and its PTE while it is in the page file, keep PTE_LOST until undo has
 * told, or the next reset. A page whose content went with a bad frame (bad_page.c) is lost too: undo tells it, and
 * reset, offer and discard give up what is lost already.
 *
 * Left alone by reset are pages that are being written (what is on its way to disk costs nothing more) and pinned ones:
 * a pin may still write, and what it writes is not droppable. A write through a pointer of an access section that was
 * got before a reset counts as made before it; nobody sees when it happens.
 *
 * Concurrency. All with the region locked, so that no page changes its protection or is deleted meanwhile; pages fault
 * as ever, so each is claimed, as a fault does (page.c). `original` of a frame on the standby list is changed only
 * after the frame has been taken off the list: page_table_detach() reads it under the list's lock, without the claim.
 * From the list a frame goes through state ACTIVE, with no reference, to the other list, and keeps its grace epoch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

/* Standby list of offered pages: below the memory priority of the same name (nt-behaviour 13 rule 2). */
static unsigned offer_standby(unsigned priority)
{
    static const unsigned char standby[] = { 0, 0, 1, 3, 4 };

    return standby[priority];
}

struct contents_walk {
    unsigned priority;               /* of an offer: that of the standby list */
    uint64_t offered;                /* pages that became offered, or ceased to be */
    uint64_t lost;                   /* pages found lost */
    struct mapped_deletion deletion; /* of a discard */
};

/* ---- frames ----------------------------------------------------------------------------------------------------- */

static bool on_list(enum frame_state state)
{
    return state == FRAME_STANDBY || state == FRAME_MODIFIED || state == FRAME_MODIFIED_NO_WRITE;
}

/* To the list of `state`, dirty or not. The frame was taken off another, with no reference, and its PTE is claimed. */
static void frame_list(struct frames *frames, frame_t frame, uint64_t word, enum frame_state state)
{
    const uint64_t dirty = state == FRAME_STANDBY ? 0 : PFN_DIRTY;

    ASSERT_ALWAYS(frames_insert(frames, frame, word, pfn_with_state((word & ~PFN_DIRTY) | dirty, state), &word));
}

/*
 * The content of the frame, whose PTE is claimed, need not be kept. False if it is pinned or being written, and was
 * left as it is.
 */
static bool frame_reset(tide_space *space, frame_t frame)
{
    struct frames *frames = space_frames(space);
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);

    while (on_list(pfn_state(word))) {
        if (!frames_unlink(frames, frame, word, FRAME_ACTIVE, 0, pfn_priority(word), &word))
            continue; /* the writer took it */
        page_original_set(space, pfn, PTE_RESET);
        frame_list(frames, frame, word, FRAME_STANDBY);
        return true;
    }
    /* With one reference, its own, and the claim, nobody else changes the word. */
    if (pfn_state(word) != FRAME_ACTIVE || pfn_reference_count(word) != 1)
        return false;
    page_original_set(space, pfn, PTE_RESET);
    ASSERT_ALWAYS(frame_state_cas(pfn, word, word & ~PFN_DIRTY, &word));
    return true;
}

/* The content of the frame, whose PTE is claimed, is needed again. True if the page was lost since its reset. */
static bool frame_keep(tide_space *space, frame_t frame)
{
    struct frames *frames = space_frames(space);
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t original = sync_load_relaxed_64(&pfn->original);
    uint64_t word = sync_load_64(&pfn->word);

    if (!(original & PTE_RESET)) {
        /* A writer that is just storing a slot wins: then it is told once more, which does no harm. */
        if (original & PTE_LOST)
            (void)sync_cas_64(&pfn->original, original, original & ~PTE_LOST);
        return (original & PTE_LOST) != 0;
    }
    if (pfn_state(word) == FRAME_STANDBY) {
        /* Nobody can take it: its PTE is claimed. */
        ASSERT_ALWAYS(
            frames_unlink(frames, frame, word, FRAME_ACTIVE, 0, sync_load_relaxed_32(&space->priority), &word));
        sync_store_relaxed_64(&pfn->original, 0);
        frame_list(frames, frame, word, FRAME_MODIFIED);
        return false;
    }
    page_dirty_claimed(space, frame);
    return false;
}

/* The frame of a valid PTE, which is claimed, leaves the working set as droppable. */
static void frame_offer_valid(tide_space *space, frame_t frame, unsigned priority)
{
    struct frames *frames = space_frames(space);
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word;

    /* Pinned or being written at this very moment: it is out of reach, and not droppable. */
    (void)frame_reset(space, frame);
    word = sync_load_64(&pfn->word);
    while (!frame_state_cas(pfn, word, pfn_with_priority(word, priority), &word))
        ;
    page_frame_remove(frames, frame);
}

/* The same for one that is out of the working set already. */
static void frame_offer_transition(tide_space *space, frame_t frame, unsigned priority)
{
    struct frames *frames = space_frames(space);
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        if (on_list(pfn_state(word))) {
            if (!frames_unlink(frames, frame, word, FRAME_ACTIVE, 0, priority, &word))
                continue;
            page_original_set(space, pfn, PTE_RESET);
            frame_list(frames, frame, word, FRAME_STANDBY);
            return;
        }
        if (frame_state_cas(pfn, word, pfn_with_priority(word, priority), &word))
            return;
    }
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static bool is_zero_form(pte_t pte)
{
    return !pte_is_valid(pte) && pte_tag(pte) == PTE_TAG_NONE;
}

/* A page whose content went with a bad frame is lost as any other, once nobody needs it. */
static pte_t bad_to_reset(pte_t pte)
{
    return (pte.bits & PTE_BAD) ? (pte_t){ (pte.bits & ~(PTE_BAD | PTE_LOST)) | PTE_RESET } : pte;
}

/* A page that is in the page file only: its copy goes. False if the PTE is another by now. */
static bool copy_drop(tide_space *space, uint64_t *pte, pte_t seen, unsigned protection)
{
    const pte_t lost = { pte_make(PTE_TAG_NONE, protection).bits | PTE_RESET };

    if (!pte_cas(pte, seen, lost))
        return false;
    stores_slot_release(space->partition->stores, pte_slot(seen));
    return true;
}

static void reset_visit(tide_space *space, uint64_t *pte, void *context)
{
    pte_t seen;

    (void)context;
    for (;;) {
        seen = page_claim(space, pte);
        if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION)
            break;
        if (is_zero_form(seen) ? !(seen.bits & PTE_BAD) || pte_cas(pte, seen, bad_to_reset(seen))
                               : pte_tag(seen) != PTE_TAG_PAGE_FILE || pte_protection(seen) == PTE_OFFERED ||
                                     copy_drop(space, pte, seen, pte_protection(seen)))
            return;
    }
    if (pte_protection(seen) != PTE_OFFERED && frame_reset(space, pte_frame(seen)) && pte_is_valid(seen))
        seen.bits &= ~PTE_DIRTY;
    pte_release(space->partition->waits, pte, seen);
}

static void undo_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct contents_walk *walk = context;

    for (;;) {
        pte_t seen = page_claim(space, pte);

        if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION) {
            if (pte_is_valid(seen) || pte_protection(seen) != PTE_OFFERED) {
                struct pfn *pfn = frame_pfn(space_frames(space), pte_frame(seen));

                walk->lost += frame_keep(space, pte_frame(seen));
                if (pte_is_valid(seen) && (sync_load_64(&pfn->word) & PFN_DIRTY))
                    seen.bits |= PTE_DIRTY;
            }
            pte_release(space->partition->waits, pte, seen);
            return;
        }
        const uint64_t mark = pte_tag(seen) == PTE_TAG_NONE        ? PTE_RESET | PTE_BAD | PTE_LOST
                              : pte_tag(seen) == PTE_TAG_PAGE_FILE ? PTE_LOST
                                                                   : 0;
        if (!(seen.bits & mark) || pte_protection(seen) == PTE_OFFERED)
            return;
        if (pte_cas(pte, seen, (pte_t){ seen.bits & ~mark })) {
            walk->lost++;
            return;
        }
    }
}

static void discard_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct contents_walk *walk = context;

    (void)space;
    /* What was never touched stays so. */
    if (pte_load(pte).bits != 0)
        (void)mapped_deletion_add(&walk->deletion, pte, true);
}

static void offer_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct contents_walk *walk = context;
    pte_t seen;

    for (;;) {
        seen = page_claim(space, pte);
        if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION)
            break;
        if (pte_tag(seen) == PTE_TAG_PAGE_FILE ? copy_drop(space, pte, seen, PTE_OFFERED)
                                               : pte_cas(pte, seen, pte_with_protection(seen, PTE_OFFERED)))
            goto out;
    }
    if (pte_is_valid(seen)) {
        mapped_page_hide(space, pte);
        frame_offer_valid(space, pte_frame(seen), walk->priority);
        space_count(space, SPACE_REMOVED, 1);
        space_count(space, SPACE_TRIMMED, 1);
        if (seen.bits & PTE_LOCKED)
            lock_quota_return(space, 1);
    } else {
        frame_offer_transition(space, pte_frame(seen), walk->priority);
    }
    pte_release(space->partition->waits, pte, pte_make_transition(pte_frame(seen), PTE_OFFERED));
out:
    walk->offered++;
}

static void reclaim_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct contents_walk *walk = context;

    for (;;) {
        const pte_t seen = page_claim(space, pte);
        const pte_t next = pte_with_protection(seen, PTE_READWRITE);

        if (pte_tag(seen) == PTE_TAG_TRANSITION) {
            walk->lost += frame_keep(space, pte_frame(seen));
            pte_release(space->partition->waits, pte, next);
            break;
        }
        /* Demand zero; or in the page file, if it was being written when it was offered. */
        const uint64_t mark = is_zero_form(seen) ? PTE_RESET | PTE_BAD | PTE_LOST : PTE_LOST;
        if (pte_cas(pte, seen, (pte_t){ next.bits & ~mark })) {
            walk->lost += (seen.bits & mark) != 0;
            break;
        }
    }
    walk->offered++;
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

/* The first page whose protection is not `wanted`, with that protection; false if all have it. */
static bool other_protection(tide_space *space, const struct vad *vad, struct range range, unsigned wanted,
                             uint64_t *page, unsigned *protection)
{
    for (uint64_t at = range.first; at <= range.last; at++) {
        *protection = range_protection(space, vad, at);
        if (*protection != wanted) {
            *page = at;
            return true;
        }
        /* Pages without a leaf are all alike. */
        if (page_table_find(&space->table, at) == NULL)
            at |= TABLE_ENTRIES - 1;
    }
    return false;
}

/* The first page of a range that is pinned. */
static bool pinned(const tide_space *space, struct range range, uint64_t *page)
{
    const struct frames *frames = space_frames(space);

    for (*page = range.first; *page <= range.last; ++*page) {
        const uint64_t *pte = page_table_find(&space->table, *page);

        if (pte == NULL) {
            *page |= TABLE_ENTRIES - 1;
            continue;
        }
        const pte_t seen = pte_load(pte);
        if (!pte_is_valid(seen) && pte_tag(seen) != PTE_TAG_TRANSITION)
            continue;
        const uint64_t word = sync_load_64(&frame_pfn(frames, pte_frame(seen))->word);
        const unsigned own = (pfn_share_count(word) != 0) + ((word & PFN_WRITE_IN_PROGRESS) != 0);
        /* Looked at again: the word was this page's. */
        if (pfn_reference_count(word) > own && pte_load(pte).bits == seen.bits)
            return true;
    }
    return false;
}

static tide_status region_check(tide_space *space, const struct vad *vad, struct range range)
{
    if (vad->kind == VAD_LARGE_PAGES)
        return error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                         "address 0x%lx lies in large pages, which stay as they are", range.first * TIDE_PAGE_BYTES);
    return range_committed_check(space, vad, range);
}

static tide_status pages_check(tide_space *space, const struct vad *vad, struct range range, enum contents_call call)
{
    unsigned protection;
    uint64_t page;

    if (call == CONTENTS_RESET || call == CONTENTS_UNDO)
        return TIDE_SUCCESS;
    if (call == CONTENTS_RECLAIM) {
        if (other_protection(space, vad, range, PTE_OFFERED, &page, &protection))
            return error_set(TIDE_INVALID_PARAMETER, 0, page * TIDE_PAGE_BYTES, "page 0x%lx is not offered",
                             page * TIDE_PAGE_BYTES);
        return TIDE_SUCCESS;
    }
    if (other_protection(space, vad, range, PTE_READWRITE, &page, &protection))
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, page * TIDE_PAGE_BYTES,
                         "page 0x%lx has protection 0x%x%s; it must be 0x%x", page * TIDE_PAGE_BYTES,
                         pte_page_protection_of(protection), protection == PTE_OFFERED ? " (offered)" : "",
                         TIDE_PAGE_READWRITE);
    if (call == CONTENTS_OFFER && pinned(space, range, &page))
        return error_set(TIDE_DEVICE_BUSY, 0, page * TIDE_PAGE_BYTES, "page 0x%lx is pinned", page * TIDE_PAGE_BYTES);
    return TIDE_SUCCESS;
}

/* ---- entry points ----------------------------------------------------------------------------------------------- */

/* With the region locked, and all that can fail behind. */
static tide_status change(tide_space *space, struct range range, enum contents_call call, struct contents_walk *walk)
{
    static pte_visit *const visits[] = { [CONTENTS_RESET] = reset_visit,
                                         [CONTENTS_UNDO] = undo_visit,
                                         [CONTENTS_DISCARD] = discard_visit,
                                         [CONTENTS_OFFER] = offer_visit,
                                         [CONTENTS_RECLAIM] = reclaim_visit };

    if (call == CONTENTS_DISCARD || call == CONTENTS_OFFER)
        space_peak_update(space);
    mapped_deletion_begin(&walk->deletion, space, pte_make(PTE_TAG_NONE, PTE_READWRITE));
    range_visit(space, range, visits[call], walk);
    mapped_deletion_end(&walk->deletion);
    if (call == CONTENTS_RESET)
        mapped_range_weaken(space, range.first, range.last);
    if (call == CONTENTS_OFFER)
        (void)sync_add_64(&space->offered_pages, walk->offered);
    else if (call == CONTENTS_RECLAIM)
        (void)sync_add_64(&space->offered_pages, (uint64_t)0 - walk->offered);
    if (walk->lost == 0)
        return TIDE_SUCCESS;
    return error_set(TIDE_CONTENTS_LOST, 0, range.first * TIDE_PAGE_BYTES,
                     "of the %lu pages from 0x%lx on, %lu were lost and are zero now; the range is usable",
                     range_pages(range), range.first * TIDE_PAGE_BYTES, walk->lost);
}

static tide_status contents_try(struct region_retry *retry, struct range range, enum contents_call call,
                                unsigned priority)
{
    tide_space *space = retry->space;
    struct contents_walk walk = { .priority = offer_standby(priority) };
    struct vad *vad = region_lock_range(space, range);

    retry->wanted_pages = 0;
    if (vad == NULL)
        return TIDE_CONFLICTING_ADDRESSES;
    tide_status status = region_check(space, vad, range);
    if (!tide_failed(status))
        status = pages_check(space, vad, range, call);
    /* Untouched pages need a PTE that says that they are offered; a wholly committed region has paid for the tables. */
    if (!tide_failed(status) && call == CONTENTS_OFFER && vad->commit_state != 0)
        status = leaves_make(space, range, retry->node);
    if (!tide_failed(status))
        status = change(space, range, call, &walk);
    sync_unlock(&vad->lock);
    return status;
}

tide_status contents_whole_pages(tide_address base, uint64_t bytes, uint64_t *first, uint64_t *end)
{
    struct range outside;
    const tide_status status = range_of(base, bytes, TIDE_PAGE_BYTES, &outside);

    if (tide_failed(status))
        return status;
    *first = (base + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES;
    *end = (base + bytes) / TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

static tide_status range_for(enum contents_call call, tide_address base, uint64_t bytes, struct range *range)
{
    uint64_t end;

    if (call == CONTENTS_RESET || call == CONTENTS_UNDO) {
        const tide_status status = contents_whole_pages(base, bytes, &range->first, &end);
        if (!tide_failed(status))
            range->last = end - 1;
        return status;
    }
    if (base % TIDE_PAGE_BYTES != 0 || bytes % TIDE_PAGE_BYTES != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base,
                         "base 0x%lx, %lu bytes; both must be multiples of the page size of %u", base, bytes,
                         TIDE_PAGE_BYTES);
    return range_of(base, bytes, TIDE_PAGE_BYTES, range);
}

tide_status contents_change(tide_space *space, struct grace_thread *thread, enum contents_call call, tide_address base,
                            uint64_t bytes, unsigned priority)
{
    enum { LOWEST = 1, HIGHEST = 4 };
    struct region_retry retry;
    struct range range;
    tide_status status = TIDE_SUCCESS;

    if (call == CONTENTS_OFFER && (priority < LOWEST || priority > HIGHEST))
        status = error_set(TIDE_INVALID_PARAMETER, 0, base, "offer priority %u; known are %u to %u", priority, LOWEST,
                           HIGHEST);
    if (!tide_failed(status))
        status = range_for(call, base, bytes, &range);
    if (tide_failed(status))
        return status;
    if (range.last + 1 <= range.first) {
        /* No whole page: nothing to do, if there is a region at all. */
        struct range within = { base / TIDE_PAGE_BYTES, (base + bytes - 1) / TIDE_PAGE_BYTES };
        struct vad *vad = region_lock_range(space, within);

        if (vad == NULL)
            return TIDE_CONFLICTING_ADDRESSES;
        status = region_check(space, vad, within);
        sync_unlock(&vad->lock);
        return status;
    }
    region_retry_begin(&retry, space, thread);
    do
        status = contents_try(&retry, range, call, call == CONTENTS_OFFER ? priority : 0);
    while (tide_failed(status) && region_retry(&retry, &status));
    if (call == CONTENTS_UNDO || call == CONTENTS_RECLAIM)
        frames_check_all_thresholds(space_frames(space));
    return status;
}

/*
 * Locked pages: who may have how many, and unlocking (VirtualLock, nt-behaviour 6 rules 5 and 6). Bringing the pages in
 * is a fault, so the call that locks is above, in faults/lock.c.
 *
 * A locked page has PTE_LOCKED in its valid PTE, which no trim and no replacement takes. There is no count of locks.
 *
 * Quota. A call takes it for the pages of its range that are not locked, before it changes anything, and gives back
 * what it did not use: against the space's minimum working set less an overhead, and against the frames of the engine.
 * Locked pages, large pages and page tables are there to stay (NT's resident available pages); together they leave at
 * least the engine's reserve, with which the rest can make progress. Tables and large pages are never refused for it,
 * so they may eat into what is left; only locking asks.
 *
 * Who takes PTE_LOCKED away gives one page of quota back: unlock, offer, and whatever deletes the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

/* ---- quota ------------------------------------------------------------------------------------------------------ */

/* Adds `pages` to a counter that may not pass `limit`. False, with *seen, if it would. */
static bool quota_add(uint64_t *counter, uint64_t pages, uint64_t limit, uint64_t *seen)
{
    *seen = sync_load_64(counter);
    do {
        if (*seen > limit || pages > limit - *seen)
            return false;
    } while (!sync_cas_value_64(counter, *seen, *seen + pages, seen));
    return true;
}

static uint64_t tables_of_all(struct partition *partition)
{
    uint64_t pages = 0;

    sync_lock(&partition->lock);
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next)
        pages += sync_load_relaxed_64(&space->table.table_pages);
    sync_unlock(&partition->lock);
    return pages;
}

tide_status lock_quota_take(tide_space *space, uint64_t pages)
{
    struct partition *partition = space->partition;
    const uint64_t minimum = sync_load_64(&space->working_set.minimum);
    const uint64_t overhead = WORKING_SET_LOCK_OVERHEAD_PAGES;
    uint64_t seen;

    if (pages == 0)
        return TIDE_SUCCESS;
    if (!quota_add(&space->locked_pages, pages, minimum > overhead ? minimum - overhead : 0, &seen))
        return error_set(TIDE_WORKING_SET_QUOTA, 0, 0,
                         "cannot lock %lu pages beside %lu that are locked: the minimum working set is %lu pages, less "
                         "%lu of overhead",
                         pages, seen, minimum, overhead);
    const uint64_t tables = tables_of_all(partition);
    const uint64_t resident = sync_load_64(&partition->resident_limit);
    const uint64_t limit = resident > tables ? resident - tables : 0;
    if (quota_add(&partition->resident_pages, pages, limit, &seen))
        return TIDE_SUCCESS;
    (void)sync_add_64(&space->locked_pages, (uint64_t)0 - pages);
    return error_set(TIDE_NO_MEMORY, 0, 0,
                     "cannot lock %lu pages beside %lu of the engine that are locked or large: its %lu frames, less "
                     "reserve and page tables, leave %lu",
                     pages, seen, frames_usable(partition->frames), limit);
}

void lock_quota_return(tide_space *space, uint64_t pages)
{
    (void)sync_add_64(&space->locked_pages, (uint64_t)0 - pages);
    (void)sync_add_64(&space->partition->resident_pages, (uint64_t)0 - pages);
}

/* ---- checks ----------------------------------------------------------------------------------------------------- */

static bool is_locked(const tide_space *space, uint64_t page)
{
    const pte_t seen = range_settled(space, page);

    /* Large pages cannot be anywhere else: nothing to lock, and nothing to unlock. */
    return pte_is_valid(seen) && pte_is_fixed(seen);
}

/* With the region locked. */
static tide_status lock_check(tide_space *space, const struct vad *vad, struct range range, bool readable)
{
    const tide_status status = range_committed_check(space, vad, range);

    if (tide_failed(status))
        return status;
    for (uint64_t page = range.first; readable && page <= range.last; page++) {
        const unsigned protection = range_protection(space, vad, page);

        if (!pte_protection_reads(protection))
            return error_set(TIDE_ACCESS_VIOLATION, 0, page * TIDE_PAGE_BYTES,
                             "page 0x%lx has protection 0x%x, and cannot be read; what is locked must be accessible",
                             page * TIDE_PAGE_BYTES, pte_page_protection_of(protection));
        if (page_table_find(&space->table, page) == NULL)
            page |= TABLE_ENTRIES - 1; /* pages without a leaf are all alike */
    }
    return TIDE_SUCCESS;
}

static uint64_t unlocked_count(const tide_space *space, struct range range)
{
    uint64_t count = 0;

    for (uint64_t page = range.first; page <= range.last; page++) {
        if (page_table_find(&space->table, page) == NULL) {
            const uint64_t last = page | (TABLE_ENTRIES - 1);

            count += (last < range.last ? last : range.last) - page + 1;
            page = last;
        } else {
            count += !is_locked(space, page);
        }
    }
    return count;
}

tide_status lock_prepare(tide_space *space, tide_address base, uint64_t bytes, struct lock_request *request)
{
    struct range range;
    tide_status status = range_of(base, bytes, TIDE_PAGE_BYTES, &range);

    if (tide_failed(status))
        return status;
    struct vad *vad = region_lock_range(space, range);
    if (vad == NULL)
        return TIDE_CONFLICTING_ADDRESSES;
    status = lock_check(space, vad, range, true);
    *request = (struct lock_request){ .first = range.first, .last = range.last };
    if (!tide_failed(status))
        request->quota = unlocked_count(space, range);
    sync_unlock(&vad->lock);
    return tide_failed(status) ? status : lock_quota_take(space, request->quota);
}

/* ---- unlocking -------------------------------------------------------------------------------------------------- */

bool page_unlock(tide_space *space, uint64_t *pte)
{
    for (;;) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen))
            pte_wait(space->partition->waits, NULL, pte);
        else if (!pte_is_valid(seen) || !(seen.bits & PTE_LOCKED))
            return false;
        else if (pte_cas(pte, seen, (pte_t){ seen.bits & ~PTE_LOCKED }))
            return true;
    }
}

static void unlock_visit(tide_space *space, uint64_t *pte, void *context)
{
    *(uint64_t *)context += page_unlock(space, pte);
}

/* A page that is not locked leaves the working set. */
static void leave_visit(tide_space *space, uint64_t *pte, void *context)
{
    pte_t seen;

    do {
        seen = pte_load(pte);
        if (pte_is_busy(seen))
            pte_wait(space->partition->waits, NULL, pte);
        else if (!pte_is_valid(seen) || pte_is_fixed(seen))
            return;
    } while (pte_is_busy(seen) || !pte_cas(pte, seen, pte_busy_form(seen)));
    mapped_page_hide(space, pte);
    page_frame_remove(space_frames(space), pte_frame(seen));
    pte_release(space->partition->waits, pte, pte_make_transition(pte_frame(seen), pte_protection(seen)));
    ++*(uint64_t *)context;
}

tide_status unlock_range(tide_space *space, tide_address base, uint64_t bytes)
{
    struct range range;
    uint64_t pages = 0;
    tide_status status = range_of(base, bytes, TIDE_PAGE_BYTES, &range);

    if (tide_failed(status))
        return status;
    struct vad *vad = region_lock_range(space, range);
    if (vad == NULL)
        return TIDE_CONFLICTING_ADDRESSES;
    status = lock_check(space, vad, range, false);
    const uint64_t unlocked = tide_failed(status) ? 0 : unlocked_count(space, range);
    if (unlocked != 0) {
        space_peak_update(space);
        range_visit(space, range, leave_visit, &pages);
        space_count(space, SPACE_REMOVED, pages);
        space_count(space, SPACE_TRIMMED, pages);
        status = error_set(TIDE_NOT_LOCKED, 0, range.first * TIDE_PAGE_BYTES,
                           "of the %lu pages from 0x%lx on, %lu are not locked; these left the working set",
                           range_pages(range), range.first * TIDE_PAGE_BYTES, unlocked);
    } else if (!tide_failed(status)) {
        range_visit(space, range, unlock_visit, &pages);
        lock_quota_return(space, pages);
    }
    sync_unlock(&vad->lock);
    if (unlocked != 0)
        frames_check_all_thresholds(space_frames(space));
    return status;
}

/*
 * Taking addresses: a free range, or a placeholder, becomes a region, its pages committed or not (nt-behaviour 4, 7).
 *
 * One try has the space locked from the look for a free range to the change of the tree. All that can fail comes before
 * that change: memory for the descriptor and the tree, charge, tables for large pages. What takes long is done outside:
 * the frames of large pages are found and zeroed before the try, and given back if it fails. With nothing held, a call
 * for which charge or a frame is missing waits and tries again (region_retry()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#include <stdlib.h>

/* A free range of which every address is the space's to give, when the program has put something else into its window. */
static bool own_gap_find(const tide_space *space, struct vad_gap gap, uint64_t *first)
{
    while (vad_find_gap(&space->vads, &gap, first)) {
        const uint64_t end = *first + gap.pages;
        const uint64_t foreign = space->mapping == NULL ? end : mapping_mend(space->mapping, *first, gap.pages);

        if (foreign == end)
            return true;
        if (gap.top_down) {
            if (foreign == 0 || foreign - 1 < gap.lowest)
                return false;
            gap.highest = foreign - 1;
        } else {
            gap.lowest = foreign + 1;
            if (gap.lowest > gap.highest)
                return false;
        }
    }
    return false;
}

/* A free range. With no wish of the caller's, bottom-up from the space's random start, else from the bottom. */
static bool gap_find(const tide_space *space, const struct reservation *want, uint64_t *first)
{
    struct vad_gap gap = {
        .pages = range_pages(want->range),
        .lowest = want->lowest,
        .highest = want->highest,
        .alignment = want->alignment,
        .top_down = (want->type & TIDE_MEM_TOP_DOWN) != 0,
    };

    if (gap.top_down && space->top_down_start < gap.highest && space->top_down_start >= gap.lowest) {
        gap.highest = space->top_down_start;
        if (own_gap_find(space, gap, first))
            return true;
        gap.highest = want->highest;
    }
    if (!gap.top_down && space->bottom_up_start > gap.lowest && space->bottom_up_start <= gap.highest) {
        gap.lowest = space->bottom_up_start;
        if (own_gap_find(space, gap, first))
            return true;
        gap.lowest = want->lowest;
    }
    return own_gap_find(space, gap, first);
}

/* Sets the range of a reservation that may lie anywhere, or checks that the one asked for is free. Space locked. */
static tide_status range_settle(const tide_space *space, struct reservation *want)
{
    struct range *range = &want->range;
    const uint64_t pages = range_pages(*range);

    if (want->anywhere) {
        if (!gap_find(space, want, &range->first))
            return error_set(TIDE_NO_MEMORY, 0, 0, "no free range of %lu pages from 0x%lx to 0x%lx among %lu regions",
                             pages, want->lowest * TIDE_PAGE_BYTES, want->highest * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES,
                             space->vads.count);
        range->last = range->first + pages - 1;
        return TIDE_SUCCESS;
    }
    const uint64_t unit_end = range->last | (VAD_UNIT_PAGES - 1);
    const struct vad *other = vad_find_first(&space->vads, range->first, unit_end);
    if (other != NULL && other->first_page <= unit_end)
        return error_set(TIDE_CONFLICTING_ADDRESSES, 0, other->first_page * TIDE_PAGE_BYTES,
                         "range 0x%lx to 0x%lx overlaps the region 0x%lx to 0x%lx", range->first * TIDE_PAGE_BYTES,
                         range->last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1, other->first_page * TIDE_PAGE_BYTES,
                         other->last_page * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
    if (space->mapping != NULL) {
        const uint64_t foreign = mapping_mend(space->mapping, range->first, pages);

        if (foreign <= range->last)
            return error_set(TIDE_CONFLICTING_ADDRESSES, 0, foreign * TIDE_PAGE_BYTES,
                             "the program has mapped something of its own at address 0x%lx, in the window of the space",
                             foreign * TIDE_PAGE_BYTES);
    }
    return TIDE_SUCCESS;
}

/* The placeholder of exactly this range, locked, or NULL with the last error set. Space locked. */
static struct vad *placeholder_lock(const tide_space *space, struct range range)
{
    struct vad *vad = vad_find(&space->vads, range.first);

    if (vad == NULL || vad->kind != VAD_PLACEHOLDER || vad->first_page != range.first || vad->last_page != range.last) {
        (void)error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                        "range 0x%lx, %lu bytes, is not exactly one placeholder", range.first * TIDE_PAGE_BYTES,
                        range_pages(range) * TIDE_PAGE_BYTES);
        return NULL;
    }
    sync_lock(&vad->lock);
    return vad;
}

/*
 * One try. Nothing is kept on failure but tables that were made for large pages, which stay charged and serve the next
 * try.
 */
static tide_status reserve_try(struct region_retry *retry, struct reservation *want)
{
    tide_space *space = retry->space;
    struct vad *placeholder = NULL;
    uint64_t tables = 0;
    tide_status status;

    retry->wanted_pages = 0;
    want->no_frame = false;
    sync_lock(&space->lock);
    struct vad *vad = region_vad_create(space, want->range, NULL);
    if (vad == NULL) {
        sync_unlock(&space->lock);
        return TIDE_INSUFFICIENT_RESOURCES;
    }
    if (want->type & TIDE_MEM_REPLACE_PLACEHOLDER) {
        placeholder = placeholder_lock(space, want->range);
        status = placeholder == NULL ? TIDE_CONFLICTING_ADDRESSES : TIDE_SUCCESS;
    } else {
        status = range_settle(space, want);
    }
    if (!tide_failed(status))
        status = vad_prepare(&space->vads, placeholder != NULL);
    if (tide_failed(status))
        goto out;
    vad->first_page = want->range.first;
    vad->last_page = want->range.last;
    vad->protection = want->protection;
    vad->placement = want->placement;
    vad->kind = (uint16_t)want->kind;
    vad->was_placeholder = placeholder != NULL;
    vad->reserved_only = (want->type & TIDE_MEM_COMMIT) == 0;
    vad->watch = want->watch;
    if (want->watch != NULL)
        want->watch->first_page = vad->first_page;
    if (want->type & TIDE_MEM_COMMIT) {
        tables = page_table_missing(&space->table, vad->first_page, vad->last_page);
        status = pages_charge(retry, want->large != NULL ? 0 : range_pages(want->range), tables);
        if (tide_failed(status))
            goto out;
        tables_promise(space, tables);
        if (want->large != NULL)
            status = leaves_make(space, want->range, retry->node);
        if (tide_failed(status)) {
            want->no_frame = true;
            tables_promise_drop(space, tables);
            goto out;
        }
        vad->table_charge = tables;
        vad->committed_pages = range_pages(want->range);
        vad->commit_state = pte_protection_of(want->protection);
        if (want->large != NULL)
            large_pages_install(space, vad, want->large);
    }
    if (space->mapping != NULL) /* an access to what was here before may have left a fence */
        mapping_unfence(space->mapping, vad->first_page, range_pages(want->range));
    if (!placement_is_none(want->placement))
        sync_store_32(&space->has_placement, 1);
    if (want->watch != NULL)
        sync_store_32(&space->has_write_watch, 1);
    vad_replace(&space->vads, &placeholder, placeholder != NULL, &vad, 1);
    space_virtual_peak_update(space);
    vad = NULL;
out:
    if (placeholder != NULL) {
        if (!tide_failed(status))
            sync_store_32(&placeholder->commit_state, VAD_REPLACED);
        sync_unlock(&placeholder->lock);
        if (!tide_failed(status))
            region_retire(space, placeholder);
    }
    region_retired_free(space);
    region_vad_free(space, vad);
    sync_unlock(&space->lock);
    return status;
}

/*
 * Takes the frames of large pages and charges them. Whether there is room for the region and for the charge is looked
 * at first, since taking the frames may repurpose all standby pages of the engine.
 */
static tide_status large_take(struct region_retry *retry, struct reservation *want, uint64_t count)
{
    tide_space *space = retry->space;
    struct reservation look = *want;

    sync_lock(&space->lock);
    tide_status status = range_settle(space, &look);
    sync_unlock(&space->lock);
    if (!tide_failed(status))
        status = large_charge(retry, count * FRAMES_RUN);
    if (tide_failed(status))
        return status;
    /* It fits; but the engine may be left for frames, and nothing may be held then. */
    large_uncharge(space, count * FRAMES_RUN);
    status = large_frames_take(retry, count, want->placement, want->large);
    if (tide_failed(status))
        return status;
    status = large_charge(retry, count * FRAMES_RUN);
    if (tide_failed(status))
        large_frames_give_back(space, want->large, count);
    return status;
}

/* Nothing is held while region_retry() waits: the frames of large pages are taken anew for each try. */
static tide_status reserve_large(struct region_retry *retry, struct reservation *want)
{
    const uint64_t count = range_pages(want->range) / FRAMES_RUN;
    const uint64_t frames = space_frames(retry->space)->total;
    tide_status status;

    if (count > frames / FRAMES_RUN)
        return error_set(TIDE_NO_MEMORY, 0, 0, "%lu large pages of %u frames each, and the engine has %lu frames",
                         count, FRAMES_RUN, frames);
    want->kind = VAD_LARGE_PAGES;
    want->large = calloc(count, sizeof *want->large);
    if (want->large == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory to list %lu large pages", count);
    do {
        want->no_frame = false;
        status = large_take(retry, want, count);
        if (tide_failed(status))
            continue;
        status = reserve_try(retry, want);
        if (tide_failed(status)) {
            large_frames_give_back(retry->space, want->large, count);
            large_uncharge(retry->space, count * FRAMES_RUN);
        }
    } while (tide_failed(status) && (status != TIDE_NO_MEMORY || want->no_frame) && region_retry(retry, &status));
    free(want->large);
    return status;
}

tide_status region_reserve(struct region_retry *retry, struct reservation *want)
{
    tide_status status = TIDE_SUCCESS;

    if (want->type & TIDE_MEM_LARGE_PAGES)
        return reserve_large(retry, want);
    if (want->type & TIDE_MEM_WRITE_WATCH) {
        want->kind = VAD_WRITE_WATCH;
        status = watch_create(want->range, &want->watch);
    }
    if (tide_failed(status))
        return status;
    do
        status = reserve_try(retry, want);
    while (status == TIDE_COMMITMENT_LIMIT && region_retry(retry, &status));
    if (tide_failed(status))
        free(want->watch);
    return status;
}

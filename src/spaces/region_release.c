/*
 * Letting go: release of a region or of a part of it, splits and joins of placeholders, decommit (nt-behaviour 4, 7).
 *
 * The tree changes under the space's lock; besides, the region that ends or is split is locked, marked (VAD_DELETED or
 * VAD_REPLACED) and only then are its pages deleted. region.c has the argument. The parts of a split share the page
 * tables of the whole, and each pays for those that it may still need. A placeholder has no pages, and nobody takes the
 * locks of two regions: so placeholders are joined under the lock of the space alone.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#include <stdlib.h>

/*
 * Leaf tables of a range in which no region lies any more. Faults that are still on their way undo what they did. Space
 * locked.
 */
static void leaves_free(tide_space *space, struct range range)
{
    uint64_t page = range.first;

    while (page_table_next_leaf(&space->table, &page, range.last) != NULL) {
        const struct vad *other = vad_find_first(&space->vads, page, page + TABLE_ENTRIES - 1);
        if (other == NULL || other->first_page > page + TABLE_ENTRIES - 1)
            page_table_free_leaf(&space->table, page);
        page += TABLE_ENTRIES;
    }
}

/* Space and VAD locked. */
static void release_whole(tide_space *space, struct vad *vad)
{
    const uint64_t promised = vad->table_charge;

    vad_remove(&space->vads, vad);
    region_clear(space, vad, VAD_DELETED);
    leaves_free(space, (struct range){ vad->first_page, vad->last_page });
    vad->table_charge = 0;
    tables_promise_drop(space, promised);
    region_retire(space, vad);
}

/* The parts of a region that a release of `range` leaves. */
struct parts {
    struct vad *vads[3];
    unsigned count;
};

static void parts_free(tide_space *space, struct parts *parts)
{
    for (unsigned i = 0; i < parts->count; i++)
        region_vad_free(space, parts->vads[i]);
}

static tide_status part_add(tide_space *space, const struct vad *whole, struct range range, struct parts *parts)
{
    struct vad *vad = region_vad_create(space, range, whole);

    if (vad == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    parts->vads[parts->count++] = vad;
    if (whole->committed_pages != 0)
        vad->committed_pages = range_committed(space, whole, range);
    if (whole->commit_state != 0)
        vad->table_charge = page_table_missing(&space->table, range.first, range.last);
    return TIDE_SUCCESS;
}

/*
 * Cuts `range` out of a region, or makes it a region of its own if it is kept (placeholders). Space and VAD locked.
 */
static tide_status split(struct region_retry *retry, struct vad *vad, struct range range, bool keep)
{
    tide_space *space = retry->space;
    struct parts parts = { .count = 0 };
    uint64_t tables = 0, kept = 0;
    tide_status status = TIDE_SUCCESS;

    if (range.first > vad->first_page)
        status = part_add(space, vad, (struct range){ vad->first_page, range.first - 1 }, &parts);
    if (keep && !tide_failed(status))
        status = part_add(space, vad, range, &parts);
    if (range.last < vad->last_page && !tide_failed(status))
        status = part_add(space, vad, (struct range){ range.last + 1, vad->last_page }, &parts);
    for (unsigned i = 0; i < parts.count; i++) {
        tables += parts.vads[i]->table_charge;
        kept += parts.vads[i]->committed_pages;
    }
    if (!tide_failed(status))
        status = vad_prepare(&space->vads, 1);
    /* Upper tables that two parts lack are promised twice from now on. */
    if (!tide_failed(status) && tables > vad->table_charge) {
        status = pages_charge(retry, 0, tables - vad->table_charge);
        if (!tide_failed(status))
            tables_promise(space, tables - vad->table_charge);
    }
    if (tide_failed(status)) {
        parts_free(space, &parts);
        return status;
    }
    const uint64_t surplus = vad->table_charge > tables ? vad->table_charge - tables : 0;
    const uint64_t gone = vad->committed_pages - kept;
    for (unsigned i = 0; i < parts.count; i++)
        if (parts.vads[i]->watch != NULL)
            parts.vads[i]->watch->users++;
    vad_replace(&space->vads, &vad, 1, parts.vads, parts.count);
    (void)sync_swap_32(&vad->commit_state, VAD_REPLACED); /* a full barrier before the pages go */
    (void)sync_add_32(&vad->commit_generation, 1);
    if (!keep) {
        range_clear(space, range);
        leaves_free(space, range);
    }
    pages_uncharge(space, gone);
    sync_store_relaxed_64(&vad->committed_pages, 0);
    vad->table_charge = 0;
    tables_promise_drop(space, surplus);
    region_retire(space, vad);
    return TIDE_SUCCESS;
}

/* A whole region that had replaced a placeholder becomes one again. Space and VAD locked. */
static tide_status placeholder_restore(tide_space *space, struct vad *vad)
{
    const struct range range = { vad->first_page, vad->last_page };
    const uint64_t promised = vad->table_charge;
    struct vad *placeholder = region_vad_create(space, range, NULL);

    if (placeholder == NULL || tide_failed(vad_prepare(&space->vads, 1))) {
        region_vad_free(space, placeholder);
        return TIDE_INSUFFICIENT_RESOURCES;
    }
    placeholder->kind = VAD_PLACEHOLDER;
    placeholder->protection = TIDE_PAGE_NOACCESS;
    placeholder->reserved_only = true;
    vad_replace(&space->vads, &vad, 1, &placeholder, 1);
    region_clear(space, vad, VAD_REPLACED);
    vad->table_charge = 0;
    tables_promise_drop(space, promised);
    region_retire(space, vad);
    return TIDE_SUCCESS;
}

/* Joins the placeholders that make up exactly the range. Space locked. */
static tide_status placeholders_join(tide_space *space, struct range range)
{
    struct vad *fresh = region_vad_create(space, range, NULL);
    struct vad **old = NULL;
    uint64_t count = 0, next = range.first;
    tide_status status = TIDE_SUCCESS;

    if (fresh == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    while (next <= range.last) {
        struct vad *vad = vad_find(&space->vads, next);
        struct vad **more = realloc(old, (count + 1) * sizeof(struct vad *));

        if (more != NULL)
            old = more;
        if (vad == NULL || vad->kind != VAD_PLACEHOLDER || vad->first_page != next || vad->last_page > range.last)
            status =
                error_set(TIDE_CONFLICTING_ADDRESSES, 0, next * TIDE_PAGE_BYTES,
                          "no placeholder lies from 0x%lx on inside the range 0x%lx to 0x%lx", next * TIDE_PAGE_BYTES,
                          range.first * TIDE_PAGE_BYTES, range.last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
        else if (more == NULL)
            status = error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory to list %lu placeholders", count + 1);
        if (tide_failed(status))
            goto out;
        old[count++] = vad;
        next = vad->last_page + 1;
    }
    if (count == 1) {
        status = error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                           "the range 0x%lx to 0x%lx is one placeholder already; there must be two or more",
                           range.first * TIDE_PAGE_BYTES, range.last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
        goto out;
    }
    status = vad_prepare(&space->vads, count);
    if (tide_failed(status))
        goto out;
    fresh->kind = VAD_PLACEHOLDER;
    fresh->protection = TIDE_PAGE_NOACCESS;
    fresh->reserved_only = true;
    vad_replace(&space->vads, old, count, &fresh, 1);
    fresh = NULL;
    for (uint64_t i = 0; i < count; i++) {
        /* Whoever holds its lock finds that nothing can be done in it; nobody takes two. */
        sync_store_32(&old[i]->commit_state, VAD_REPLACED);
        region_retire(space, old[i]);
    }
out:
    region_vad_free(space, fresh);
    free(old);
    return status;
}

/* The range that a free call means, by the rules and in the order of nt-behaviour 4 rule 8. */
static tide_status free_range(const struct vad *vad, tide_address base, uint64_t bytes, struct range *range)
{
    if (bytes == 0) {
        if (base / TIDE_PAGE_BYTES != vad->first_page)
            return error_set(TIDE_FREE_VM_NOT_AT_BASE, 0, base, "address 0x%lx is not the allocation base 0x%lx", base,
                             vad->first_page * TIDE_PAGE_BYTES);
        *range = (struct range){ vad->first_page, vad->last_page };
        return TIDE_SUCCESS;
    }
    const tide_status status = range_of(base, bytes, TIDE_PAGE_BYTES, range);
    if (tide_failed(status) || range->last > vad->last_page)
        return error_set(TIDE_UNABLE_TO_FREE_VM, 0, base,
                         "range 0x%lx, %lu bytes, leaves the region that ends at 0x%lx", base, bytes,
                         vad->last_page * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
    return TIDE_SUCCESS;
}

/* Space and VAD locked. */
static tide_status release_range(struct region_retry *retry, struct vad *vad, struct range range, uint32_t type)
{
    const bool whole = range.first == vad->first_page && range.last == vad->last_page;

    if (type & TIDE_MEM_PRESERVE_PLACEHOLDER) {
        if (vad->kind == VAD_PLACEHOLDER && !whole)
            return split(retry, vad, range, true);
        if (vad->kind != VAD_PLACEHOLDER && vad->was_placeholder && whole)
            return placeholder_restore(retry->space, vad);
        return error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                         "range 0x%lx, %lu bytes, is neither a part of a placeholder nor a whole region that replaced "
                         "one",
                         range.first * TIDE_PAGE_BYTES, range_pages(range) * TIDE_PAGE_BYTES);
    }
    if (whole) {
        release_whole(retry->space, vad);
        return TIDE_SUCCESS;
    }
    if (vad->kind == VAD_LARGE_PAGES)
        return error_set(TIDE_UNABLE_TO_FREE_VM, 0, range.first * TIDE_PAGE_BYTES,
                         "large pages are released as a whole, from 0x%lx on, %lu bytes",
                         vad->first_page * TIDE_PAGE_BYTES, (vad->last_page - vad->first_page + 1) * TIDE_PAGE_BYTES);
    return split(retry, vad, range, false);
}

static tide_status release_try(struct region_retry *retry, tide_address base, uint64_t bytes, uint32_t type,
                               struct range *range)
{
    tide_space *space = retry->space;
    tide_status status;

    sync_lock(&space->lock);
    if (type & TIDE_MEM_COALESCE_PLACEHOLDERS) {
        status = range_of(base, bytes, TIDE_PAGE_BYTES, range);
        if (!tide_failed(status))
            status = placeholders_join(space, *range);
        goto out;
    }
    struct vad *vad = base > TIDE_HIGHEST_ADDRESS ? NULL : vad_find(&space->vads, base / TIDE_PAGE_BYTES);
    if (vad == NULL) {
        status = error_set(TIDE_MEMORY_NOT_ALLOCATED, 0, base, "address 0x%lx lies in no region", base);
        goto out;
    }
    __builtin_prefetch(vad);
    __builtin_prefetch(&vad->lock);
    region_retired_free(space); /* meanwhile */
    sync_lock(&vad->lock);
    status = free_range(vad, base, bytes, range);
    if (!tide_failed(status))
        status = release_range(retry, vad, *range, type);
    sync_unlock(&vad->lock);
out:
    sync_unlock(&space->lock);
    return status;
}

static tide_status decommit_try(struct region_retry *retry, tide_address base, uint64_t bytes, struct range *range)
{
    struct vad *vad = base > TIDE_HIGHEST_ADDRESS ? NULL : region_lock(retry->space, base / TIDE_PAGE_BYTES);

    if (vad == NULL)
        return error_set(TIDE_MEMORY_NOT_ALLOCATED, 0, base, "address 0x%lx lies in no region", base);
    tide_status status = free_range(vad, base, bytes, range);
    if (!tide_failed(status))
        status = range_decommit(retry, vad, *range);
    sync_unlock(&vad->lock);
    return status;
}

static tide_status free_call(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                             uint32_t type, struct range *range)
{
    struct region_retry retry;
    tide_status status;

    region_retry_begin(&retry, space, thread);
    do {
        retry.wanted_pages = 0;
        status = type == TIDE_MEM_DECOMMIT ? decommit_try(&retry, base, bytes, range)
                                           : release_try(&retry, base, bytes, type, range);
    } while (tide_failed(status) && region_retry(&retry, &status));
    return status;
}

tide_status region_free(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                        uint32_t type)
{
    const uint32_t placeholders = TIDE_MEM_PRESERVE_PLACEHOLDER | TIDE_MEM_COALESCE_PLACEHOLDERS;
    struct range range;

    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE &&
        type != (TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER) &&
        type != (TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "free type 0x%x; known are decommit 0x%x and release 0x%x, this with one of 0x%x", type,
                         TIDE_MEM_DECOMMIT, TIDE_MEM_RELEASE, placeholders);
    if (type == TIDE_MEM_RELEASE && bytes != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "a release of %lu bytes; the size of a release must be 0",
                         bytes);
    if ((type & placeholders) != 0 && type != TIDE_MEM_DECOMMIT &&
        (base % TIDE_PAGE_BYTES != 0 || bytes % TIDE_PAGE_BYTES != 0 || bytes == 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, base,
                         "placeholders at 0x%lx, %lu bytes; both must be multiples of %u, the size not 0", base, bytes,
                         TIDE_PAGE_BYTES);
    return free_call(space, thread, base, bytes, type, &range);
}

tide_status region_free_native(tide_space *space, struct grace_thread *thread, tide_address *base, uint64_t *bytes,
                               uint32_t type)
{
    struct range range;

    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "free type 0x%x; known are decommit 0x%x and release 0x%x", type,
                         TIDE_MEM_DECOMMIT, TIDE_MEM_RELEASE);
    const tide_status status = free_call(space, thread, *base, *bytes, type, &range);
    if (!tide_failed(status)) {
        *base = range.first * TIDE_PAGE_BYTES;
        *bytes = range_pages(range) * TIDE_PAGE_BYTES;
    }
    return status;
}

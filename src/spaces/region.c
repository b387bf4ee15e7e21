/*
 * Regions: finding and locking them, their descriptors, and what a query says of them (nt-behaviour 4, 7). The calls
 * that allocate and protect are in region_allocate.c, taking addresses is region_reserve.c, letting go, splitting and
 * joining region_release.c, and what happens to pages inside of a region range.c. What holds for all of them:
 *
 * The VAD tree changes under the space's lock. Whoever ends a region, or gives it other bounds, takes its own lock too,
 * so that no commit, decommit or protection of its pages is under way; and marks it, VAD_DELETED or VAD_REPLACED, so
 * that who found it before looks again (region_lock()). A VAD never changes its bounds: a region that is split is
 * replaced, in one change of the tree, by VADs for its parts, which share its page tables.
 *
 * A fault that found a VAD before it was replaced reads commit_state again before it shows a page (range.c has that
 * argument) and starts anew. Pages of the part that is let go are deleted after the mark was set.
 *
 * A query in a region that nothing was ever committed in is answered by the tree alone. So the first commit in a region
 * makes that known to the tree, under the space's lock, before it changes anything (region_lock_to_commit()).
 *
 * Placeholders are regions that nothing can be committed in. All that can fail is done before the tree changes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#include <string.h>

/* Retired VADs of a space from which on its releases move the grace period themselves. */
enum { RETIRED_MANY = 32 };

/* ---- finding and locking ---------------------------------------------------------------------------------------- */

tide_status range_of(tide_address base, uint64_t bytes, uint64_t granularity, struct range *range)
{
    if (bytes == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "a size of 0 bytes; the least is 1");
    if (bytes > TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1 || base > TIDE_HIGHEST_ADDRESS ||
        base + bytes - 1 > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "range 0x%lx, %lu bytes, passes the highest address 0x%llx",
                         base, bytes, TIDE_HIGHEST_ADDRESS);
    range->first = base / granularity * granularity / TIDE_PAGE_BYTES;
    range->last = (base + bytes - 1) / TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

struct vad *region_lock(tide_space *space, uint64_t page)
{
    for (;;) {
        struct vad *vad = vad_find(&space->vads, page);

        if (vad == NULL)
            return NULL;
        __builtin_prefetch(vad); /* its lock is in the other line */
        sync_lock(&vad->lock);
        if ((sync_load_32(&vad->commit_state) & VAD_GONE) == 0)
            return vad;
        sync_unlock(&vad->lock);
    }
}

static tide_status range_conflict(struct range range)
{
    return error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                     "range 0x%lx to 0x%lx does not lie inside one reservation", range.first * TIDE_PAGE_BYTES,
                     range.last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
}

struct vad *region_lock_range(tide_space *space, struct range range)
{
    struct vad *vad = region_lock(space, range.first);

    if (vad != NULL && range.last <= vad->last_page)
        return vad;
    if (vad != NULL)
        sync_unlock(&vad->lock);
    (void)range_conflict(range);
    return NULL;
}

struct vad *region_lock_to_commit(tide_space *space, struct range range)
{
    struct vad *vad = region_lock_range(space, range);

    if (vad == NULL || !vad->reserved_only || vad->kind == VAD_PLACEHOLDER)
        return vad;
    /* The first commit: the tree has to know. The space's lock comes first. */
    sync_unlock(&vad->lock);
    sync_lock(&space->lock);
    vad = region_lock_range(space, range);
    if (vad != NULL && vad->reserved_only && vad->kind != VAD_PLACEHOLDER)
        vad_committing(&space->vads, vad);
    sync_unlock(&space->lock);
    return vad;
}

void region_retry_begin(struct region_retry *retry, tide_space *space, struct grace_thread *thread)
{
    *retry = (struct region_retry){ .space = space,
                                    .thread = thread,
                                    .node = partition_thread_node(space->partition, thread) };
}

bool region_retry(struct region_retry *retry, tide_status *status)
{
    struct partition *partition = retry->space->partition;

    if (*status == TIDE_NO_MEMORY) {
        const tide_status waited =
            space_frame_wait(retry->space, retry->thread, (struct frames_place){ .node = retry->node }, &retry->wait);

        if (tide_failed(waited))
            *status = waited;
        return !tide_failed(waited);
    }
    return *status == TIDE_COMMITMENT_LIMIT && retry->wanted_pages != 0 && partition->extend != NULL &&
           partition->extend(partition, retry->thread, retry->wanted_pages);
}

/* ---- VADs ------------------------------------------------------------------------------------------------------- */

struct vad *region_vad_create(tide_space *space, struct range range, const struct vad *like)
{
    struct vad *vad = slab_take(&space->vad_memory);

    if (vad == NULL) {
        (void)error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for a region descriptor of %zu bytes",
                        sizeof *vad);
        return NULL;
    }
    memset(vad, 0, sizeof *vad);
    vad->first_page = range.first;
    vad->last_page = range.last;
    vad->placement = placement_none();
    if (like != NULL) {
        vad->protection = like->protection;
        vad->placement = like->placement;
        vad->commit_state = like->commit_state;
        vad->kind = like->kind;
        vad->watch = like->watch;
        vad->was_placeholder = like->was_placeholder;
        vad->reserved_only = like->reserved_only;
    }
    sync_lock_init(&vad->lock, SYNC_RANK_region);
    return vad;
}

void region_vad_free(tide_space *space, struct vad *vad)
{
    if (vad != NULL)
        slab_put(&space->vad_memory, vad);
}

static void retired_vad_free(tide_space *space, struct vad *vad)
{
    watch_put(vad->watch);
    region_vad_free(space, vad);
}

void region_retired_free(tide_space *space)
{
    struct grace *grace = &space_frames(space)->grace;

    /* With nobody else to move it on, the grace period would never pass. */
    if (space->retired_count >= RETIRED_MANY)
        (void)grace_advance(grace);
    while (space->retired != NULL && grace_passed(grace, space->retired->retired_epoch)) {
        struct vad *vad = space->retired;

        space->retired = vad->retired_next;
        space->retired_count--;
        retired_vad_free(space, vad);
    }
}

void region_retired_free_all(tide_space *space)
{
    for (struct vad *vad = space->retired, *next; vad != NULL; vad = next) {
        next = vad->retired_next;
        retired_vad_free(space, vad);
    }
    space->retired = NULL;
}

void region_retire(tide_space *space, struct vad *vad)
{
    vad->retired_epoch = grace_now(&space_frames(space)->grace);
    vad->retired_next = NULL;
    if (space->retired == NULL)
        space->retired = vad;
    else
        space->retired_last->retired_next = vad;
    space->retired_last = vad;
    space->retired_count++;
}

/* ---- query ------------------------------------------------------------------------------------------------------ */

/* What a query says of a page in a region, which is locked. */
static void query_region(tide_space *space, const struct vad *vad, uint64_t page, tide_region *region)
{
    const unsigned protection = range_protection(space, vad, page);
    uint64_t end = page + 1;

    region->allocation_base = vad->first_page * TIDE_PAGE_BYTES;
    region->allocation_protection = vad->protection;
    region->type = TIDE_MEM_PRIVATE;
    region->protection = pte_page_protection_of(protection);
    region->state = protection != 0 ? TIDE_MEM_COMMIT : TIDE_MEM_RESERVE;
    while (end <= vad->last_page) {
        uint64_t leaf_page = end;
        if (page_table_next_leaf(&space->table, &leaf_page, vad->last_page) == NULL)
            leaf_page = vad->last_page + 1;
        /* Pages without a leaf are all alike: look at the first and step over the rest. */
        if (pte_page_protection_of(range_protection(space, vad, end)) != region->protection)
            break;
        end = leaf_page > end ? leaf_page : end + 1;
    }
    region->bytes = (end - page) * TIDE_PAGE_BYTES;
}

/*
 * Is nothing committed any more in a region that once had committed pages? Without its lock: commit state first, since
 * whoever takes pages away sets it first, so that if both were 0, however far apart, they were so together at some
 * moment.
 */
static bool is_reserved_again(const struct vad *vad)
{
    return sync_load_32(&vad->commit_state) == 0 && sync_load_relaxed_64(&vad->committed_pages) == 0;
}

/* What a query says of a page in a region that nothing is committed in. */
static void query_reserved(const struct vad_summary *summary, uint32_t protection, uint64_t page, tide_region *region)
{
    region->allocation_base = summary->first_page * TIDE_PAGE_BYTES;
    region->allocation_protection = protection;
    region->type = TIDE_MEM_PRIVATE;
    region->state = TIDE_MEM_RESERVE;
    region->bytes = (summary->last_page + 1 - page) * TIDE_PAGE_BYTES;
}

tide_status region_query(tide_space *space, tide_address address, tide_region *region)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;

    if (page > space->highest_page || (space->mapping != NULL && page < space->lowest_page))
        return error_set(TIDE_INVALID_PARAMETER, 0, address,
                         "address 0x%lx lies outside of the space's addresses, 0x%lx to 0x%lx", address,
                         space->lowest_page * TIDE_PAGE_BYTES, (space->highest_page + 1) * TIDE_PAGE_BYTES - 1);
    *region = (tide_region){ .base = page * TIDE_PAGE_BYTES };
    struct vad_summary summary;
    struct vad *vad = vad_find_summary(&space->vads, page, &summary);
    if (vad != NULL && (summary.protection != 0 || is_reserved_again(vad))) {
        query_reserved(&summary, summary.protection != 0 ? summary.protection : vad->protection, page, region);
        return TIDE_SUCCESS;
    }
    vad = region_lock(space, page);
    while (vad == NULL) {
        /* Up to where it is free is a matter of all regions. */
        sync_lock(&space->lock);
        const struct vad *next = vad_find_first(&space->vads, page, page);
        const uint64_t end = next == NULL ? space->highest_page + 1 : next->first_page;
        sync_unlock(&space->lock);
        if (end > page) {
            region->state = TIDE_MEM_FREE;
            region->bytes = (end - page) * TIDE_PAGE_BYTES;
            return TIDE_SUCCESS;
        }
        vad = region_lock(space, page);
    }
    query_region(space, vad, page, region);
    sync_unlock(&vad->lock);
    return TIDE_SUCCESS;
}

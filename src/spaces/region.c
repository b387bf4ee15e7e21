/*
 * Regions: reserve, release, split, placeholders (nt-behaviour 4, 7). What happens to pages inside of a region: range.c.
 *
 * The VAD tree changes under the space's lock. Whoever ends a region, or gives it other bounds, takes its own lock too,
 * so that no commit, decommit or protection of its pages is under way; and marks it, VAD_DELETED or VAD_REPLACED, so
 * that who found it before looks again (region_lock()). A VAD never changes its bounds: a region that is split is
 * replaced, in one change of the tree, by VADs for its parts, which share its page tables.
 *
 * A fault that found a VAD before it was replaced reads commit_state again before it shows a page (range.c has that
 * argument) and starts anew. Pages of the part that is let go are deleted after the mark was set.
 *
 * Placeholders are regions that nothing can be committed in. All that can fail is done before the tree changes.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#include <stdlib.h>
#include <string.h>

#define LARGE_PAGE_PAGES (TIDE_LARGE_PAGE_BYTES / TIDE_PAGE_BYTES)

/* Retired VADs of a space from which on its releases move the grace period themselves. */
enum { RETIRED_MANY = 32 };

/* ---- finding and locking ---------------------------------------------------------------------------------------- */

struct vad *region_lock(tide_space *space, uint64_t page)
{
    for (;;) {
        struct vad *vad = vad_find(&space->vads, page);

        if (vad == NULL)
            return NULL;
        __builtin_prefetch(vad); /* its lock has a line of its own */
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

void region_retry_begin(struct region_retry *retry, tide_space *space, struct grace_thread *thread)
{
    *retry = (struct region_retry){ .space = space,
                                    .thread = thread,
                                    .node = topology_cpu_node(space->partition->topology, os_cpu_current()) };
}

bool region_retry(struct region_retry *retry, tide_status *status)
{
    struct partition *partition = retry->space->partition;

    if (*status == TIDE_NO_MEMORY) {
        const tide_status waited = space_frame_wait(retry->space, retry->thread, retry->node, &retry->deadline_ns);

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
    vad->preferred_node = TIDE_NO_PREFERRED_NODE;
    if (like != NULL) {
        vad->protection = like->protection;
        vad->preferred_node = like->preferred_node;
        vad->commit_state = like->commit_state;
        vad->kind = like->kind;
        vad->watch = like->watch;
        vad->was_placeholder = like->was_placeholder;
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
    region_retired_free(space);
}

/* ---- reserve ---------------------------------------------------------------------------------------------------- */

/* What a region is to be. */
struct reservation {
    struct range range;
    bool anywhere;
    uint32_t type;
    uint32_t protection;
    uint32_t node;
    uint64_t lowest, highest; /* pages within which it must lie, if anywhere */
    uint64_t alignment;       /* pages, a power of two */
    enum vad_kind kind;
    frame_t *large; /* first frames of its large pages, which are charged */
    bool no_frame;  /* out: the last try failed for want of a frame for a table */
    struct write_watch *watch;
};

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
        if (vad_find_gap(&space->vads, &gap, first))
            return true;
        gap.highest = want->highest;
    }
    if (!gap.top_down && space->bottom_up_start > gap.lowest && space->bottom_up_start <= gap.highest) {
        gap.lowest = space->bottom_up_start;
        if (vad_find_gap(&space->vads, &gap, first))
            return true;
        gap.lowest = want->lowest;
    }
    return vad_find_gap(&space->vads, &gap, first);
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
    vad->preferred_node = want->node;
    vad->kind = (uint16_t)want->kind;
    vad->was_placeholder = placeholder != NULL;
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
    if (want->node != TIDE_NO_PREFERRED_NODE)
        sync_store_32(&space->has_preferred_nodes, 1);
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
 * Takes the frames of large pages and charges them. Whether there is room for the region and for the charge is looked at
 * first, since taking the frames may repurpose all standby pages of the engine.
 */
static tide_status large_take(struct region_retry *retry, struct reservation *want, uint64_t count)
{
    tide_space *space = retry->space;
    const unsigned node = want->node == TIDE_NO_PREFERRED_NODE ? retry->node : want->node;
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
    status = large_frames_take(space, retry->thread, count, node, want->large);
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

/* ---- checks ----------------------------------------------------------------------------------------------------- */

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

static tide_status protection_check(uint32_t protection)
{
    if (pte_protection_of(protection) != 0)
        return TIDE_SUCCESS;
    if ((protection & (TIDE_PAGE_WRITECOPY | TIDE_PAGE_EXECUTE_WRITECOPY)) != 0)
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, 0, "protection 0x%x is for section views, not private memory",
                         protection);
    return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, 0,
                     "protection 0x%x is no TIDE_PAGE_ access with at most one modifier that goes with it", protection);
}

/* The flags that go together. `extended`: VirtualAlloc2, which alone knows placeholders. */
static tide_status type_check(uint32_t type, bool extended)
{
    const uint32_t with_reserve = TIDE_MEM_TOP_DOWN | TIDE_MEM_WRITE_WATCH | TIDE_MEM_LARGE_PAGES |
                                  (extended ? TIDE_MEM_RESERVE_PLACEHOLDER | TIDE_MEM_REPLACE_PLACEHOLDER : 0);
    const uint32_t known = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | with_reserve;

    if ((type & ~known) != 0 || (type & (TIDE_MEM_RESERVE | TIDE_MEM_COMMIT)) == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "allocation type 0x%x; known are 0x%x, with reserve or commit",
                         type, known);
    if ((type & with_reserve & ~TIDE_MEM_TOP_DOWN) != 0 && !(type & TIDE_MEM_RESERVE))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "allocation type 0x%x: 0x%x goes with reserve only", type,
                         type & with_reserve);
    if ((type & TIDE_MEM_LARGE_PAGES) && (!(type & TIDE_MEM_COMMIT) || (type & TIDE_MEM_WRITE_WATCH)))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "allocation type 0x%x: large pages are reserved and committed at once, without write watch",
                         type);
    if ((type & TIDE_MEM_RESERVE_PLACEHOLDER) &&
        (type & ~(TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER | TIDE_MEM_TOP_DOWN)) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "allocation type 0x%x: a placeholder is reserved and no more",
                         type);
    if ((type & TIDE_MEM_REPLACE_PLACEHOLDER) && (type & (TIDE_MEM_TOP_DOWN | TIDE_MEM_LARGE_PAGES)) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "allocation type 0x%x: a placeholder is replaced where it lies, by small pages", type);
    return TIDE_SUCCESS;
}

static tide_status node_check(const tide_space *space, uint32_t node)
{
    const struct topology *topology = space->partition->topology;

    if (node != TIDE_NO_PREFERRED_NODE && node >= topology->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node,
                         topology->node_count - 1);
    return TIDE_SUCCESS;
}

static tide_status large_check(uint32_t type, uint32_t protection, tide_address base, uint64_t bytes)
{
    if (!(type & TIDE_MEM_LARGE_PAGES))
        return TIDE_SUCCESS;
    if (base % TIDE_LARGE_PAGE_BYTES != 0 || bytes % TIDE_LARGE_PAGE_BYTES != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base,
                         "large pages at 0x%lx, %lu bytes; both must be multiples of %u", base, bytes,
                         TIDE_LARGE_PAGE_BYTES);
    if (protection != TIDE_PAGE_READWRITE)
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, base,
                         "protection 0x%x; large pages can only be read and written (0x%x)", protection,
                         TIDE_PAGE_READWRITE);
    return TIDE_SUCCESS;
}

/* What an explicit base is rounded down to. A placeholder is replaced where it lies, be it a part split off at a page. */
static uint64_t base_granularity(uint32_t type)
{
    return (type & TIDE_MEM_RESERVE) && !(type & TIDE_MEM_REPLACE_PLACEHOLDER) ? TIDE_ALLOCATION_GRANULARITY_BYTES
                                                                               : TIDE_PAGE_BYTES;
}

static tide_status parameters_check(const tide_alloc_parameters *parameters, tide_address base, uint64_t bytes,
                                    uint32_t type, uint32_t protection)
{
    const uint64_t granularity = TIDE_ALLOCATION_GRANULARITY_BYTES;

    const uint64_t of_base = base_granularity(type);

    if (base % of_base != 0 || bytes % TIDE_PAGE_BYTES != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base,
                         "base 0x%lx, %lu bytes; the base must be a multiple of %lu and the size one of %u", base,
                         bytes, of_base, TIDE_PAGE_BYTES);
    if ((type & TIDE_MEM_RESERVE_PLACEHOLDER) && protection != TIDE_PAGE_NOACCESS)
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, 0, "protection 0x%x; that of a placeholder is 0x%x",
                         protection, TIDE_PAGE_NOACCESS);
    if ((type & TIDE_MEM_REPLACE_PLACEHOLDER) && base == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "base 0; a placeholder is replaced at its address");
    if (parameters == NULL)
        return TIDE_SUCCESS;
    if (parameters->struct_bytes < sizeof *parameters)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "struct_bytes %zu of the parameters; it must be %zu",
                         parameters->struct_bytes, sizeof *parameters);
    const tide_address lowest = parameters->lowest_address, highest = parameters->highest_address;
    const uint64_t alignment = parameters->alignment_bytes;
    if (base != 0 && (lowest | highest | alignment) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "base 0x%lx with address requirements; it must be 0", base);
    if (lowest % granularity != 0 || (highest != 0 && (highest + 1) % granularity != 0) ||
        highest > TIDE_HIGHEST_ADDRESS || lowest > (highest != 0 ? highest : TIDE_HIGHEST_ADDRESS))
        return error_set(TIDE_INVALID_PARAMETER, 0, lowest,
                         "addresses from 0x%lx to 0x%lx; the first must be a multiple of %lu, the last one less than "
                         "one and at most 0x%llx",
                         lowest, highest, granularity, TIDE_HIGHEST_ADDRESS);
    if (alignment != 0 && (alignment < granularity || (alignment & (alignment - 1)) != 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "an alignment of %lu bytes; it must be a power of two from %lu",
                         alignment, granularity);
    return TIDE_SUCCESS;
}

/* ---- entry points ----------------------------------------------------------------------------------------------- */

static tide_status commit(struct region_retry *retry, struct range range, uint32_t protection)
{
    tide_status status;

    do {
        struct vad *vad = region_lock_range(retry->space, range);
        if (vad == NULL)
            return TIDE_CONFLICTING_ADDRESSES;
        if (vad->kind == VAD_PLACEHOLDER || vad->kind == VAD_LARGE_PAGES)
            status = error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                               "nothing can be committed at 0x%lx: it lies in %s", range.first * TIDE_PAGE_BYTES,
                               vad->kind == VAD_PLACEHOLDER ? "a placeholder" : "large pages");
        else
            status = range_commit(retry, vad, range, pte_protection_of(protection));
        sync_unlock(&vad->lock);
    } while (tide_failed(status) && region_retry(retry, &status));
    return status;
}

tide_status region_allocate(tide_space *space, struct grace_thread *thread, const struct region_request *request,
                            tide_address *base, uint64_t *bytes)
{
    const tide_alloc_parameters *parameters = request->parameters;
    const uint32_t node = parameters != NULL ? parameters->node : request->node;
    uint32_t type = request->type;
    struct range range = { 0 };
    struct region_retry retry;
    tide_status status = type_check(type, request->extended);

    if (!tide_failed(status))
        status = protection_check(request->protection);
    if (!tide_failed(status) && request->extended)
        status = parameters_check(parameters, *base, *bytes, type, request->protection);
    if (!tide_failed(status))
        status = large_check(type, request->protection, *base, *bytes);
    if (!tide_failed(status))
        status = node_check(space, node);
    if (tide_failed(status))
        return status;
    const bool anywhere = *base == 0;
    if (anywhere)
        type |= TIDE_MEM_RESERVE;
    const bool reserving = (type & TIDE_MEM_RESERVE) != 0;
    status = range_of(*base, *bytes, base_granularity(type), &range);
    if (tide_failed(status))
        return status;
    if (!anywhere && range.first < FIRST_PAGE)
        return error_set(TIDE_INVALID_PARAMETER, 0, *base, "address 0x%lx lies below the lowest address 0x%llx", *base,
                         TIDE_LOWEST_ADDRESS);
    region_retry_begin(&retry, space, thread);
    if (reserving) {
        struct reservation want = {
            .range = range,
            .anywhere = anywhere,
            .type = type,
            .protection = request->protection,
            .node = node,
            .lowest = FIRST_PAGE,
            .highest = LAST_PAGE,
            .alignment = type & TIDE_MEM_LARGE_PAGES ? LARGE_PAGE_PAGES : VAD_UNIT_PAGES,
            .kind = type & TIDE_MEM_RESERVE_PLACEHOLDER ? VAD_PLACEHOLDER : request->kind,
        };
        if (parameters != NULL && parameters->lowest_address / TIDE_PAGE_BYTES > want.lowest)
            want.lowest = parameters->lowest_address / TIDE_PAGE_BYTES;
        if (parameters != NULL && parameters->highest_address != 0)
            want.highest = parameters->highest_address / TIDE_PAGE_BYTES;
        if (parameters != NULL && parameters->alignment_bytes / TIDE_PAGE_BYTES > want.alignment)
            want.alignment = parameters->alignment_bytes / TIDE_PAGE_BYTES;
        status = region_reserve(&retry, &want);
        range = want.range;
    } else {
        status = commit(&retry, range, request->protection);
    }
    if (!tide_failed(status)) {
        *base = range.first * TIDE_PAGE_BYTES;
        *bytes = range_pages(range) * TIDE_PAGE_BYTES;
    }
    return status;
}

tide_status region_protect(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                           uint32_t protection, uint32_t *old)
{
    struct range range;
    struct region_retry retry;
    unsigned before = 0;
    tide_status status = protection_check(protection);

    if (!tide_failed(status))
        status = range_of(base, bytes, TIDE_PAGE_BYTES, &range);
    if (tide_failed(status))
        return status;
    region_retry_begin(&retry, space, thread);
    do {
        struct vad *vad = region_lock_range(space, range);
        if (vad == NULL)
            return TIDE_CONFLICTING_ADDRESSES;
        status = range_protect(&retry, vad, range, pte_protection_of(protection), &before);
        sync_unlock(&vad->lock);
    } while (tide_failed(status) && region_retry(&retry, &status));
    if (!tide_failed(status))
        *old = pte_page_protection_of(before);
    return status;
}

/* ---- release ---------------------------------------------------------------------------------------------------- */

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
    vad->committed_pages = 0;
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

tide_status region_query(tide_space *space, tide_address address, tide_region *region)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;

    if (address > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "address 0x%lx lies past the highest address 0x%llx",
                         address, TIDE_HIGHEST_ADDRESS);
    *region = (tide_region){ .base = page * TIDE_PAGE_BYTES };
    struct vad *vad = region_lock(space, page);
    while (vad == NULL) {
        /* Up to where it is free is a matter of all regions. */
        sync_lock(&space->lock);
        const struct vad *next = vad_find_first(&space->vads, page, page);
        const uint64_t end = next == NULL ? LAST_PAGE + 1 : next->first_page;
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

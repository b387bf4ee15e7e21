/*
 * Calls that allocate and protect: whether what is asked for makes sense (nt-behaviour 4, 5, 7), and then the region
 * that it is about. Taking addresses is region_reserve.c, committing and protecting pages of a region range.c.
 *
 * All checks that need no lock come first. A commit or a protection has the region locked and nothing else; where a
 * frame or charge is missing, it lets go of the region, waits, and begins anew (region_retry()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#define LARGE_PAGE_PAGES (TIDE_LARGE_PAGE_BYTES / TIDE_PAGE_BYTES)

/* ---- checks ----------------------------------------------------------------------------------------------------- */

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

/*
 * What an explicit base is rounded down to. A placeholder is replaced where it lies, be it a part split off at a page.
 */
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
        struct vad *vad = region_lock_to_commit(retry->space, range);
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
    struct placement placement = placement_none();
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
        status = placement_check(space_frames(space), parameters != NULL ? parameters->policy : TIDE_PLACEMENT_DEFAULT,
                                 parameters != NULL ? parameters->fallback : TIDE_FALLBACK_DEFAULT,
                                 parameters != NULL ? parameters->node : request->node, true, &placement);
    if (tide_failed(status))
        return status;
    const bool anywhere = *base == 0;
    if (anywhere)
        type |= TIDE_MEM_RESERVE;
    const bool reserving = (type & TIDE_MEM_RESERVE) != 0;
    status = range_of(*base, *bytes, base_granularity(type), &range);
    if (tide_failed(status))
        return status;
    if (!anywhere && (range.first < space->lowest_page || range.last > space->highest_page))
        return error_set(TIDE_INVALID_PARAMETER, 0, *base,
                         "range 0x%lx, %lu bytes, does not lie in the space's addresses, 0x%lx to 0x%lx", *base, *bytes,
                         space->lowest_page * TIDE_PAGE_BYTES, (space->highest_page + 1) * TIDE_PAGE_BYTES - 1);
    if ((type & TIDE_MEM_LARGE_PAGES) && space->mapping != NULL)
        return error_set(TIDE_NOT_SUPPORTED, 0, *base, "large pages in a mapped space; soft spaces have them");
    region_retry_begin(&retry, space, thread);
    if (reserving) {
        struct reservation want = {
            .range = range,
            .anywhere = anywhere,
            .type = type,
            .protection = request->protection,
            .placement = placement,
            .lowest = space->lowest_page,
            .highest = space->highest_page,
            .alignment = type & TIDE_MEM_LARGE_PAGES ? LARGE_PAGE_PAGES : VAD_UNIT_PAGES,
            .kind = type & TIDE_MEM_RESERVE_PLACEHOLDER ? VAD_PLACEHOLDER : request->kind,
        };
        if (parameters != NULL && parameters->lowest_address / TIDE_PAGE_BYTES > want.lowest)
            want.lowest = parameters->lowest_address / TIDE_PAGE_BYTES;
        if (parameters != NULL && parameters->highest_address != 0 &&
            parameters->highest_address / TIDE_PAGE_BYTES < want.highest)
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

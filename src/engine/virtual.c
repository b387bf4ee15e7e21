/*
 * Public calls of the VirtualAlloc family: pointers are checked here, then spaces/ does the work.
 *
 * What the caller's pointers point to may lie in a mapped space of the same engine, so that touching it is a fault: it
 * is taken before the engine is entered, and filled in after it was left.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <string.h>

static tide_status places_check(const void *base, const void *bytes)
{
    if (base == NULL || bytes == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the %s is NULL", base == NULL ? "base" : "size");
    return TIDE_SUCCESS;
}

static tide_status contents_call(tide_space *space, enum contents_call call, tide_address base, uint64_t bytes,
                                 unsigned priority)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        status = contents_change(space, thread, call, base, bytes, priority);
        grace_leave(thread);
    }
    return status;
}

/* MEM_RESET and MEM_RESET_UNDO: the protection means nothing and must be one. */
static tide_status allocate_reset(tide_space *space, const struct region_request *request, tide_address *base,
                                  uint64_t *bytes)
{
    const enum contents_call call = request->type == TIDE_MEM_RESET ? CONTENTS_RESET : CONTENTS_UNDO;
    uint64_t first, end;

    if (pte_protection_of(request->protection) == 0)
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, *base,
                         "protection 0x%x is no TIDE_PAGE_ access with at most one modifier, for private memory",
                         request->protection);
    const tide_status status = contents_call(space, call, *base, *bytes, 0);
    if (status != TIDE_SUCCESS && status != TIDE_CONTENTS_LOST)
        return status;
    if (!tide_failed(contents_whole_pages(*base, *bytes, &first, &end))) {
        *base = first * TIDE_PAGE_BYTES;
        *bytes = end > first ? (end - first) * TIDE_PAGE_BYTES : 0;
    }
    return status;
}

static tide_status allocate(tide_space *space, const struct region_request *request, tide_address *base,
                            uint64_t *bytes)
{
    tide_status status = places_check(base, bytes);

    if (tide_failed(status))
        return status;
    if (request->type == TIDE_MEM_RESET || request->type == TIDE_MEM_RESET_UNDO)
        return allocate_reset(space, request, base, bytes);
    tide_address at = *base;
    uint64_t size = *bytes;
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    status = region_allocate(space, thread, request, &at, &size);
    grace_leave(thread);
    if (!tide_failed(status)) {
        *base = at;
        *bytes = size;
    }
    return status;
}

tide_status tide_virtual_alloc_numa(tide_space *space, tide_address *base, uint64_t *bytes, uint32_t type,
                                    uint32_t protection, uint32_t node)
{
    const struct region_request request = { .type = type, .protection = protection, .node = node };

    return allocate(space, &request, base, bytes);
}

tide_status tide_virtual_alloc(tide_space *space, tide_address *base, uint64_t *bytes, uint32_t type,
                               uint32_t protection)
{
    return tide_virtual_alloc_numa(space, base, bytes, type, protection, TIDE_NO_PREFERRED_NODE);
}

tide_status tide_virtual_alloc2(tide_space *space, tide_address *base, uint64_t *bytes, uint32_t type,
                                uint32_t protection, const tide_alloc_parameters *parameters)
{
    tide_alloc_parameters copy;

    if (parameters != NULL)
        copy = *parameters;
    const struct region_request request = { .type = type,
                                            .protection = protection,
                                            .node = TIDE_NO_PREFERRED_NODE,
                                            .extended = true,
                                            .parameters = parameters != NULL ? &copy : NULL };
    return allocate(space, &request, base, bytes);
}

tide_status tide_virtual_free(tide_space *space, tide_address base, uint64_t bytes, uint32_t type)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        status = region_free(space, thread, base, bytes, type);
        grace_leave(thread);
        frames_events_freed(space_frames(space));
    }
    return status;
}

tide_status tide_virtual_free_native(tide_space *space, tide_address *base, uint64_t *bytes, uint32_t type)
{
    tide_status status = places_check(base, bytes);

    if (tide_failed(status))
        return status;
    tide_address at = *base;
    uint64_t size = *bytes;
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    status = region_free_native(space, thread, &at, &size, type);
    grace_leave(thread);
    frames_events_freed(space_frames(space));
    if (!tide_failed(status)) {
        *base = at;
        *bytes = size;
    }
    return status;
}

tide_status tide_virtual_protect(tide_space *space, tide_address base, uint64_t bytes, uint32_t protection,
                                 uint32_t *old)
{
    tide_status status;
    uint32_t before;

    if (old == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "the place for the old protection is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    status = region_protect(space, thread, base, bytes, protection, &before);
    grace_leave(thread);
    if (!tide_failed(status))
        *old = before;
    return status;
}

tide_status tide_virtual_query(tide_space *space, tide_address address, tide_region *region)
{
    tide_status status;
    tide_region found;

    if (region == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "the place for the region is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    status = region_query(space, address, &found);
    grace_leave(thread);
    if (!tide_failed(status))
        *region = found;
    return status;
}

tide_status tide_stack_create(tide_space *space, uint64_t reserve_bytes, uint64_t commit_bytes, tide_stack *stack)
{
    tide_status status;
    tide_stack made;

    if (stack == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the stack is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    status = stack_create(space, thread, reserve_bytes, commit_bytes, &made);
    grace_leave(thread);
    if (!tide_failed(status))
        *stack = made;
    return status;
}

tide_status tide_write_watch_get(tide_space *space, uint32_t flags, tide_address base, uint64_t bytes,
                                 tide_address *addresses, uint64_t *count, uint32_t *granularity)
{
    enum { FEW = 64 };
    tide_address few[FEW], *found = few;
    tide_status status;

    if (count == NULL || (addresses == NULL && *count != 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "the place for the %s is NULL",
                         count == NULL ? "count" : "addresses");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    /* A range lies in one region, so that it has no more pages than that. */
    const struct vad *vad = vad_find(&space->vads, base / TIDE_PAGE_BYTES);
    const uint64_t most = vad == NULL ? 0 : vad->last_page - vad->first_page + 1;
    grace_leave(thread);
    uint64_t room = *count < most ? *count : most;
    const size_t found_bytes = room * sizeof *found;
    if (room > FEW && (found = os_memory_reserve(found_bytes, TIDE_PAGE_BYTES)) == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    grace_enter(thread);
    status = watch_get(space, thread, flags, base, bytes, found, &room);
    grace_leave(thread);
    if (!tide_failed(status)) {
        if (room != 0)
            memcpy(addresses, found, room * sizeof *found);
        *count = room;
        if (granularity != NULL)
            *granularity = TIDE_PAGE_BYTES;
    }
    if (found != few)
        os_memory_free(found, found_bytes);
    return status;
}

tide_status tide_write_watch_reset(tide_space *space, tide_address base, uint64_t bytes)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        status = watch_reset(space, thread, base, bytes);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_virtual_reset(tide_space *space, tide_address base, uint64_t bytes)
{
    return contents_call(space, CONTENTS_RESET, base, bytes, 0);
}

tide_status tide_virtual_reset_undo(tide_space *space, tide_address base, uint64_t bytes)
{
    return contents_call(space, CONTENTS_UNDO, base, bytes, 0);
}

tide_status tide_virtual_discard(tide_space *space, tide_address base, uint64_t bytes)
{
    return contents_call(space, CONTENTS_DISCARD, base, bytes, 0);
}

tide_status tide_virtual_offer(tide_space *space, tide_address base, uint64_t bytes, unsigned priority)
{
    return contents_call(space, CONTENTS_OFFER, base, bytes, priority);
}

tide_status tide_virtual_reclaim(tide_space *space, tide_address base, uint64_t bytes)
{
    return contents_call(space, CONTENTS_RECLAIM, base, bytes, 0);
}

tide_status tide_virtual_lock(tide_space *space, tide_address base, uint64_t bytes)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        status = fault_lock(space, thread, base, bytes);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_virtual_unlock(tide_space *space, tide_address base, uint64_t bytes)
{
    tide_status status;
    struct grace_thread *thread = engine_call_begin(space, &status);

    if (thread != NULL) {
        status = unlock_range(space, base, bytes);
        grace_leave(thread);
    }
    return status;
}

static tide_status prefetch_check(const tide_memory_range *ranges, size_t count, uint32_t flags)
{
    if (flags != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "prefetch flags 0x%x; they must be 0", flags);
    if (ranges == NULL || count == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%zu ranges at %p; the least is 1", count, (const void *)ranges);
    for (size_t i = 0; i < count; i++)
        if (ranges[i].bytes == 0 || ranges[i].address > TIDE_HIGHEST_ADDRESS ||
            ranges[i].bytes - 1 > TIDE_HIGHEST_ADDRESS - ranges[i].address)
            return error_set(TIDE_INVALID_PARAMETER, 0, ranges[i].address,
                             "range %zu, 0x%lx, %lu bytes, is empty or passes the highest address 0x%llx", i,
                             ranges[i].address, ranges[i].bytes, TIDE_HIGHEST_ADDRESS);
    return TIDE_SUCCESS;
}

tide_status tide_virtual_prefetch(tide_space *space, const tide_memory_range *ranges, size_t count, uint32_t flags)
{
    tide_status status = prefetch_check(ranges, count, flags);

    if (tide_failed(status))
        return status;
    struct prefetch_budget budget;
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread == NULL)
        return status;
    fault_prefetch_budget(space, &budget);
    grace_leave(thread);
    for (size_t i = 0; i < count && !budget.spent; i++) {
        const tide_memory_range range = ranges[i];

        grace_enter(thread);
        fault_prefetch(space, thread, range.address, range.bytes, &budget);
        grace_leave(thread);
    }
    return status;
}

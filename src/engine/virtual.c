/*
 * Public calls of the VirtualAlloc family: pointers are checked here, then spaces/ does the work.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

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
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = region_allocate(space, thread, request, base, bytes);
        grace_leave(thread);
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
    const struct region_request request = { .type = type,
                                            .protection = protection,
                                            .node = TIDE_NO_PREFERRED_NODE,
                                            .extended = true,
                                            .parameters = parameters };

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
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = region_free_native(space, thread, base, bytes, type);
        grace_leave(thread);
        frames_events_freed(space_frames(space));
    }
    return status;
}

tide_status tide_virtual_protect(tide_space *space, tide_address base, uint64_t bytes, uint32_t protection,
                                 uint32_t *old)
{
    tide_status status;

    if (old == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "the place for the old protection is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = region_protect(space, thread, base, bytes, protection, old);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_virtual_query(tide_space *space, tide_address address, tide_region *region)
{
    tide_status status;

    if (region == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "the place for the region is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = region_query(space, address, region);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_stack_create(tide_space *space, uint64_t reserve_bytes, uint64_t commit_bytes, tide_stack *stack)
{
    tide_status status;

    if (stack == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the stack is NULL");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = stack_create(space, thread, reserve_bytes, commit_bytes, stack);
        grace_leave(thread);
    }
    return status;
}

tide_status tide_write_watch_get(tide_space *space, uint32_t flags, tide_address base, uint64_t bytes,
                                 tide_address *addresses, uint64_t *count, uint32_t *granularity)
{
    tide_status status;

    if (count == NULL || (addresses == NULL && *count != 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "the place for the %s is NULL",
                         count == NULL ? "count" : "addresses");
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        status = watch_get(space, thread, flags, base, bytes, addresses, count);
        grace_leave(thread);
    }
    if (!tide_failed(status) && granularity != NULL)
        *granularity = TIDE_PAGE_BYTES;
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
    struct grace_thread *thread = engine_call_begin(space, &status);
    if (thread != NULL) {
        struct prefetch_budget budget;

        fault_prefetch_budget(space, &budget);
        for (size_t i = 0; i < count && !budget.spent; i++)
            fault_prefetch(space, thread, ranges[i].address, ranges[i].bytes, &budget);
        grace_leave(thread);
    }
    return status;
}

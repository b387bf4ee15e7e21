/*
 * Stacks that grow by themselves (nt-behaviour 5 rule 6).
 *
 * A stack is a region that is reserved whole, with its top committed and a guard page below that. Touching the guard
 * page moves it down by one page. The lowest page is never committed, so that what lies below a stack is not run into
 * without notice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

enum { DEFAULT_RESERVE_BYTES = 1 << 20, LEAST_PAGES = 3 }; /* one to use, the guard, the lowest */

static uint64_t pages_of(uint64_t bytes)
{
    return bytes / TIDE_PAGE_BYTES + (bytes % TIDE_PAGE_BYTES != 0);
}

tide_status stack_create(tide_space *space, struct grace_thread *thread, uint64_t reserve_bytes, uint64_t commit_bytes,
                         tide_stack *stack)
{
    const uint64_t granularity = TIDE_ALLOCATION_GRANULARITY_BYTES;
    const struct region_request region = {
        .type = TIDE_MEM_RESERVE, .protection = TIDE_PAGE_READWRITE, .node = TIDE_NO_PREFERRED_NODE, .kind = VAD_STACK
    };
    const uint64_t commit = commit_bytes == 0 ? 1 : pages_of(commit_bytes);
    uint64_t bytes = reserve_bytes == 0 ? DEFAULT_RESERVE_BYTES : reserve_bytes;
    tide_address base = 0;

    if (bytes <= UINT64_MAX - granularity)
        bytes = (bytes + granularity - 1) / granularity * granularity;
    if (commit > bytes / TIDE_PAGE_BYTES - (LEAST_PAGES - 1))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "%lu bytes of a stack of %lu committed; %u pages must be left for the guard and the end",
                         commit_bytes, bytes, LEAST_PAGES - 1);
    tide_status status = region_allocate(space, thread, &region, &base, &bytes);
    if (tide_failed(status))
        return status;
    struct region_request pages = { .type = TIDE_MEM_COMMIT,
                                    .protection = TIDE_PAGE_READWRITE,
                                    .node = TIDE_NO_PREFERRED_NODE };
    uint64_t size = commit * TIDE_PAGE_BYTES;
    tide_address at = base + bytes - size;
    const tide_address limit = at;
    status = region_allocate(space, thread, &pages, &at, &size);
    if (!tide_failed(status)) {
        pages.protection = TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD;
        at = limit - TIDE_PAGE_BYTES;
        size = TIDE_PAGE_BYTES;
        status = region_allocate(space, thread, &pages, &at, &size);
    }
    if (tide_failed(status)) {
        const tide_status freed = region_free(space, thread, base, 0, TIDE_MEM_RELEASE);
        ASSERT_ALWAYS(!tide_failed(freed));
        return status;
    }
    *stack = (tide_stack){ .allocation_base = base, .limit = limit, .base = base + bytes };
    return TIDE_SUCCESS;
}

/* With the stack's region locked. */
static tide_status guard_move(struct region_retry *retry, struct vad *vad, tide_address address)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;
    const struct range guard = { page, page }, next = { page - 1, page - 1 };
    const unsigned protection = range_protection(retry->space, vad, page);
    unsigned old;

    if (!pte_protection_is_guard(protection))
        return TIDE_SUCCESS; /* another thread was first */
    const bool last = next.first <= vad->first_page;
    /* Was the stack committed anew as a whole, the guard may have no table yet; the region has paid for it. */
    if (vad->commit_state != 0) {
        const tide_status status = leaves_make(retry->space, guard, retry->node);
        if (tide_failed(status))
            return status;
    }
    if (!last) {
        const tide_status status = range_commit(retry, vad, next, protection);
        if (tide_failed(status))
            return status;
    }
    const tide_status status = range_protect(retry, vad, guard, protection & PTE_ACCESS_MASK, &old);
    ASSERT_ALWAYS(!tide_failed(status)); /* it is committed, and its table is there */
    if (!last)
        return TIDE_PAGE_FAULT_GUARD_PAGE;
    return error_set(TIDE_STACK_OVERFLOW, 0, address,
                     "the stack from 0x%lx on is used up: page 0x%lx was its guard, and the lowest page is never used",
                     vad->first_page * TIDE_PAGE_BYTES, page * TIDE_PAGE_BYTES);
}

tide_status stack_grow(tide_space *space, struct grace_thread *thread, tide_address address)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;
    struct region_retry retry;
    tide_status status;

    region_retry_begin(&retry, space, thread);
    do {
        struct vad *vad = region_lock(space, page);
        if (vad == NULL)
            return TIDE_SUCCESS; /* released meanwhile; the access finds out */
        status = vad->kind == VAD_STACK ? guard_move(&retry, vad, address) : TIDE_SUCCESS;
        sync_unlock(&vad->lock);
    } while (tide_failed(status) && status != TIDE_STACK_OVERFLOW && region_retry(&retry, &status));
    if (status == TIDE_COMMITMENT_LIMIT)
        return error_set(TIDE_STACK_OVERFLOW, 0, address,
                         "the stack cannot grow below its guard page 0x%lx: the engine has committed %lu pages of %lu, "
                         "the space %lu of %lu",
                         page * TIDE_PAGE_BYTES, commit_total(&space->partition->commit),
                         sync_load_64(&space->partition->commit.limit), commit_total(&space->commit),
                         sync_load_64(&space->commit.limit));
    if (status == TIDE_INVALID_PAGE_PROTECTION)
        return error_set(TIDE_STACK_OVERFLOW, 0, address,
                         "the stack cannot grow below its guard page 0x%lx: the next page is offered, and must be "
                         "reclaimed first",
                         page * TIDE_PAGE_BYTES);
    return status;
}

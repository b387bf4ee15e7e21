/*
 * Operations of a stress run on contents that may be dropped, residence, stacks and priorities.
 *
 * Contents. The pages' locks are held from reset to undo and from offer to reclaim, so only the engine can change what
 * they hold, and only in one way: a page holds its version or zeros. Undo and reclaim end that: after success it is the
 * version, after TIDE_CONTENTS_LOST each page is looked at, and the shadow learns. While the thread lingers, the others
 * see to it that frames are short.
 *
 * Locked pages stay valid through trims of all kinds, until they are unlocked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

enum { PAGE = TIDE_PAGE_BYTES, CONTENT_PAGES = 8, STACK_PAGES = 16 };

/* Exact pages with their locks, all committed. False, and nothing held, if there are none there. */
static bool committed_get(struct stress_thread *thread, struct place *place, bool writable)
{
    if (!place_get(thread, place, PLACE_EXACT, CONTENT_PAGES))
        return false;
    pages_lock(place);
    if (place->window->reserved &&
        accessible_count(place, writable ? TIDE_ACCESS_WRITE : TIDE_ACCESS_READ) == place->count)
        return true;
    pages_unlock(place);
    place_put(place);
    return false;
}

static void committed_put(const struct place *place)
{
    pages_unlock(place);
    place_put(place);
}

static tide_address first_of(const struct place *place)
{
    return page_address(place, place->first);
}

/* What page `i` holds: true if it is zeros. Anything but zeros and its version is a failure. */
static bool is_zeros(struct stress_thread *thread, const struct place *place, unsigned i, const char *how)
{
    const tide_address address = page_address(place, place->first + i);
    expect(thread, read_bytes(thread, place->space, address, thread->buffer, PAGE), TIDE_SUCCESS, how, address);
    if (image_compare(thread->buffer, 0, 0, 0) == PAGE_WORDS)
        return true;
    check_image(thread, place, i, thread->buffer, how);
    return false;
}

/* After undo or reclaim: content as before, or of some page lost. `lost`: of one that is known, and must be told. */
static void check_kept(struct stress_thread *thread, const struct place *place, bool lost, tide_status status,
                       const char *how)
{
    if (lost)
        expect(thread, status, TIDE_CONTENTS_LOST, how, first_of(place));
    else if (status != TIDE_CONTENTS_LOST)
        expect(thread, status, TIDE_SUCCESS, how, first_of(place));
    for (unsigned i = 0; i < place->count; i++) {
        struct shadow_page *page = page_at(place, i);
        if (is_zeros(thread, place, i, how) && page->version != 0) {
            if (status == TIDE_SUCCESS)
                fail(thread, "%s succeeded, and page 0x%llx lost version %u", how,
                     (unsigned long long)page_address(place, place->first + i), page->version);
            page->version = 0;
        }
    }
}

static void reset_and_undo(struct stress_thread *thread)
{
    struct place place;
    if (!committed_get(thread, &place, false))
        return;
    const tide_address first = first_of(&place);
    const uint64_t bytes = (uint64_t)place.count * PAGE;
    expect(thread, tide_virtual_reset(place.space, first, bytes), TIDE_SUCCESS, "tide_virtual_reset", first);
    bool lost = false;
    linger(thread, place.space);
    for (unsigned i = 0; i < place.count; i++) {
        struct shadow_page *page = page_at(&place, i);
        const tide_address address = page_address(&place, place.first + i);
        if (one_in(thread, 3) && is_zeros(thread, &place, i, "read of a reset page")) {
            lost = lost || page->version != 0;
            page->version = 0;
        }
        if (page->writable && one_in(thread, 4)) { /* needed again */
            const uint32_t version = version_begin(page);
            image_fill(thread->buffer, place.identity, address, version);
            expect(thread, write_bytes(thread, place.space, address, thread->buffer, PAGE), TIDE_SUCCESS,
                   "write to a reset page", address);
            page->version = version;
            linger(thread, place.space);
            if (is_zeros(thread, &place, i, "read of a page written after its reset"))
                fail(thread, "page 0x%llx was written after its reset and lost version %u", (unsigned long long)address,
                     version);
        }
    }
    check_kept(thread, &place, lost, tide_virtual_reset_undo(place.space, first, bytes), "tide_virtual_reset_undo");
    committed_put(&place);
}

static void offer_and_reclaim(struct stress_thread *thread)
{
    struct place place;
    if (!committed_get(thread, &place, true))
        return;
    const tide_address first = first_of(&place);
    const uint64_t bytes = (uint64_t)place.count * PAGE;
    const tide_status status = tide_virtual_offer(place.space, first, bytes, 1 + (unsigned)draw(thread, 4));
    if (status != TIDE_NO_MEMORY && status != TIDE_TIMEOUT) { /* no frame for a page table */
        tide_region region;
        expect(thread, status, TIDE_SUCCESS, "tide_virtual_offer", first);
        linger(thread, place.space);
        expect(thread, tide_touch(place.space, first, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION,
               "touch of an offered page", first);
        expect(thread, tide_virtual_query(place.space, first, &region), TIDE_SUCCESS, "tide_virtual_query", first);
        if (region.state != TIDE_MEM_COMMIT || region.protection != TIDE_PAGE_NOACCESS)
            fail(thread, "offered page 0x%llx: state 0x%x, protection 0x%x", (unsigned long long)first, region.state,
                 region.protection);
        check_kept(thread, &place, false, tide_virtual_reclaim(place.space, first, bytes), "tide_virtual_reclaim");
    }
    committed_put(&place);
}

static void discard(struct stress_thread *thread)
{
    struct place place;
    if (!committed_get(thread, &place, true))
        return;
    const tide_address first = first_of(&place);
    expect(thread, tide_virtual_discard(place.space, first, (uint64_t)place.count * PAGE), TIDE_SUCCESS,
           "tide_virtual_discard", first);
    for (unsigned i = 0; i < place.count; i++) {
        page_at(&place, i)->version = 0;
        if (!is_zeros(thread, &place, i, "read of a discarded page"))
            fail(thread, "page 0x%llx was discarded and is not zeros",
                 (unsigned long long)page_address(&place, place.first + i));
    }
    committed_put(&place);
}

static void lock_and_unlock(struct stress_thread *thread)
{
    struct place place;
    tide_status status;
    unsigned attempt = 0;
    if (!committed_get(thread, &place, false))
        return;
    const tide_address first = first_of(&place);
    const uint64_t bytes = (uint64_t)place.count * PAGE;
    do
        status = tide_virtual_lock(place.space, first, bytes);
    while (must_repeat(thread, status, attempt++));
    /* The quota is the space's, and the other threads lock too; and of frames there may be few. */
    if (status != TIDE_WORKING_SET_QUOTA && status != TIDE_NO_MEMORY && status != TIDE_TIMEOUT) {
        expect(thread, status, TIDE_SUCCESS, "tide_virtual_lock", first);
        linger(thread, place.space);
        if (one_in(thread, 8))
            expect(thread, tide_working_set_empty(place.space), TIDE_SUCCESS, "tide_working_set_empty", 0);
        else
            expect(thread, tide_working_set_trim(place.space, 64, NULL), TIDE_SUCCESS, "tide_working_set_trim", 0);
        for (unsigned i = 0; i < place.count; i++) {
            tide_page_info info;
            const tide_address address = page_address(&place, place.first + i);
            expect(thread, tide_page_query(place.space, address, &info), TIDE_SUCCESS, "tide_page_query", address);
            if (!info.valid &&
                thread->run->options.bad_frames + thread->run->options.poison == 0) /* a lock ends with a bad frame */
                fail(thread, "locked page 0x%llx is in state %d", (unsigned long long)address, (int)info.state);
            if (is_zeros(thread, &place, i, "read of a locked page") && page_at(&place, i)->version != 0)
                fail(thread, "locked page 0x%llx lost version %u", (unsigned long long)address,
                     page_at(&place, i)->version);
        }
        status = tide_virtual_unlock(place.space, first, bytes);
        if (status == TIDE_NOT_LOCKED && thread->run->options.bad_frames + thread->run->options.poison > 0)
            for (unsigned i = 0; i < place.count; i++) {
                const tide_address address = page_address(&place, place.first + i);
                status = tide_virtual_unlock(place.space, address, PAGE);
                if (status != TIDE_NOT_LOCKED)
                    expect(thread, status, TIDE_SUCCESS, "tide_virtual_unlock of one page", address);
            }
        else
            expect(thread, status, TIDE_SUCCESS, "tide_virtual_unlock", first);
    }
    committed_put(&place);
}

/* Of anything: what is there, is not committed, or not reserved. */
static void prefetch(struct stress_thread *thread)
{
    enum { RANGES = 4 };
    struct place place;
    tide_memory_range ranges[RANGES];
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    const size_t count = 1 + draw(thread, RANGES);
    for (size_t i = 0; i < count; i++)
        ranges[i] = (tide_memory_range){ place.window->base + draw(thread, (uint64_t)place.window->page_count * PAGE),
                                         1 + draw(thread, 64 * PAGE) };
    expect(thread, tide_virtual_prefetch(place.space, ranges, count, 0), TIDE_SUCCESS, "tide_virtual_prefetch",
           ranges[0].address);
    place_put(&place);
}

void op_contents(struct stress_thread *thread)
{
    switch (draw(thread, 8)) {
    case 0:
    case 1:
        offer_and_reclaim(thread);
        break;
    case 2:
        discard(thread);
        break;
    case 3:
    case 4:
        lock_and_unlock(thread);
        break;
    case 5:
        prefetch(thread);
        break;
    default:
        reset_and_undo(thread);
    }
}

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

static void stack_refused(struct stress_thread *thread, tide_space *space, const tide_stack *stack)
{
    thread->commit_refused++;
    expect(thread, tide_virtual_free(space, stack->allocation_base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS,
           "release of a stack", stack->allocation_base);
}

/* Down a stack of one's own, page by page, to its end. */
void op_stack(struct stress_thread *thread)
{
    struct place place;
    tide_stack stack;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    tide_status status = tide_stack_create(place.space, STACK_PAGES * PAGE, PAGE, &stack);
    if (status == TIDE_COMMITMENT_LIMIT || status == TIDE_NO_MEMORY || status == TIDE_TIMEOUT) {
        thread->commit_refused++;
        place_put(&place);
        return;
    }
    expect(thread, status, TIDE_SUCCESS, "tide_stack_create", 0);
    for (unsigned page = STACK_PAGES - 1; page > 0; page--) {
        const tide_address at = stack.allocation_base + (uint64_t)page * PAGE;
        uint64_t word = at;
        status = page == STACK_PAGES - 1 ? TIDE_PAGE_FAULT_GUARD_PAGE : tide_touch(place.space, at, TIDE_ACCESS_WRITE);
        if (page > 1 && (status == TIDE_STACK_OVERFLOW || status == TIDE_TIMEOUT)) { /* it cannot be charged */
            stack_refused(thread, place.space, &stack);
            place_put(&place);
            return;
        }
        expect(thread, status, page == 1 ? TIDE_STACK_OVERFLOW : TIDE_PAGE_FAULT_GUARD_PAGE, "touch of a guard page",
               at);
        expect(thread, write_bytes(thread, place.space, at, &word, sizeof(word)), TIDE_SUCCESS, "write to a stack", at);
        linger(thread, place.space);
    }
    for (unsigned page = 1; page < STACK_PAGES; page++) {
        const tide_address at = stack.allocation_base + (uint64_t)page * PAGE;
        uint64_t word = 0;
        expect(thread, read_bytes(thread, place.space, at, &word, sizeof(word)), TIDE_SUCCESS, "read of a stack", at);
        if (word != at && !thread->own_lost)
            fail(thread, "page %u of the stack 0x%llx holds 0x%llx", page, (unsigned long long)stack.allocation_base,
                 (unsigned long long)word);
    }
    expect(thread, tide_touch(place.space, stack.allocation_base, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION,
           "touch of the lowest page of a stack", stack.allocation_base);
    expect(thread, tide_virtual_free(place.space, stack.allocation_base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS,
           "release of a stack", stack.allocation_base);
    place_put(&place);
}

/* ---- priorities and limits -------------------------------------------------------------------------------------- */

/* The thread's own are known; those of a space are everybody's. */
void op_priority(struct stress_thread *thread)
{
    struct place place;
    tide_engine *engine = thread->run->engine;
    uint64_t minimum, maximum;
    uint32_t flags;
    unsigned now;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    const unsigned priority = one_in(thread, 3) ? TIDE_PRIORITY_DEFAULT : (unsigned)draw(thread, 6);
    const unsigned background = priority < TIDE_PRIORITY_VERY_LOW ? priority : TIDE_PRIORITY_VERY_LOW;
    expect(thread, tide_thread_background_begin(engine), TIDE_SUCCESS, "tide_thread_background_begin", 0);
    expect(thread, tide_thread_set_priority(engine, priority), TIDE_SUCCESS, "tide_thread_set_priority", 0);
    expect(thread, tide_thread_get_priority(engine, &now), TIDE_SUCCESS, "tide_thread_get_priority", 0);
    if (now != background)
        fail(thread, "priority 0x%x in background mode is %u", priority, now);
    expect(thread, tide_thread_background_end(engine), TIDE_SUCCESS, "tide_thread_background_end", 0);
    expect(thread, tide_thread_get_priority(engine, &now), TIDE_SUCCESS, "tide_thread_get_priority", 0);
    if (now != priority)
        fail(thread, "priority 0x%x is 0x%x", priority, now);
    const bool begin = one_in(thread, 2);
    const tide_status status =
        begin ? tide_space_background_begin(place.space) : tide_space_background_end(place.space);
    if (status != (begin ? TIDE_PROCESS_MODE_ALREADY_BACKGROUND : TIDE_PROCESS_MODE_NOT_BACKGROUND))
        expect(thread, status, TIDE_SUCCESS, "tide_space_background", 0);
    expect(thread, tide_space_get_priority(place.space, &now), TIDE_SUCCESS, "tide_space_get_priority", 0);
    expect(thread, tide_working_set_get_limits(place.space, &minimum, &maximum, &flags), TIDE_SUCCESS,
           "tide_working_set_get_limits", 0);
    if (now > TIDE_PRIORITY_NORMAL || minimum > maximum || minimum == 0)
        fail(thread, "a space of priority %u, with limits %llu to %llu", now, (unsigned long long)minimum,
             (unsigned long long)maximum);
    place_put(&place);
}

/*
 * Operations of a stress run on what regions can do besides: protection and guard pages on the shared windows, and in
 * regions of the thread's own write watch, native releases, placeholders, stacks and large pages.
 *
 * A region of one's own lies above all windows, so that no search for a free range gives out a window that is released
 * at the moment. Nobody else knows it, so its words are known to the thread that wrote them.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

enum { OWN_PAGES = 64, PAGE = TIDE_PAGE_BYTES, UNIT_PAGES = TIDE_ALLOCATION_GRANULARITY_BYTES / TIDE_PAGE_BYTES };

/* Refusals that commits may meet when memory is short. */
static bool refused(struct stress_thread *thread, tide_status status)
{
    if (status != TIDE_COMMITMENT_LIMIT && status != TIDE_NO_MEMORY && status != TIDE_TIMEOUT)
        return false;
    thread->commit_refused++;
    return true;
}

/* Exact pages become read-only and back, with a guard at times, which tells once and takes nothing. */
void op_protect(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, 8))
        return;
    pages_lock(&place);
    const tide_address first = page_address(&place, place.first);
    const bool writable = one_in(thread, 2), guard = one_in(thread, 3);
    unsigned committed = 0;
    for (unsigned i = 0; i < place.count; i++)
        committed += page_at(&place, i)->committed;
    const uint32_t protection = (writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY) | (guard ? TIDE_PAGE_GUARD : 0);
    uint32_t old = 0;
    const tide_status status = tide_virtual_protect(place.space, first, (uint64_t)place.count * PAGE, protection, &old);
    const tide_status expected = !place.window->reserved    ? TIDE_CONFLICTING_ADDRESSES
                                 : committed != place.count ? TIDE_NOT_COMMITTED
                                                            : TIDE_SUCCESS;
    if (expected == TIDE_SUCCESS && refused(thread, status))
        goto out;
    expect(thread, status, expected, "tide_virtual_protect", first);
    if (expected != TIDE_SUCCESS)
        goto out;
    if (old != (page_at(&place, 0)->writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY))
        fail(thread, "the protection of 0x%llx was 0x%x", (unsigned long long)first, old);
    for (unsigned i = 0; i < place.count; i++) {
        page_at(&place, i)->writable = writable;
        if (guard)
            expect(thread, tide_touch(place.space, first + (uint64_t)i * PAGE, TIDE_ACCESS_READ),
                   TIDE_GUARD_PAGE_VIOLATION, "touch of a guard page", first + (uint64_t)i * PAGE);
    }
out:
    pages_unlock(&place);
    place_put(&place);
}

/* A region of the thread's own; 0 if it was refused. */
static tide_address own_new(struct stress_thread *thread, tide_space *space, uint32_t type, uint32_t protection,
                            uint64_t bytes)
{
    const tide_alloc_parameters above = { .struct_bytes = sizeof(above),
                                          .lowest_address = thread->holder->own_lowest,
                                          .node = TIDE_NO_PREFERRED_NODE };
    tide_address base = 0;
    const tide_status status = tide_virtual_alloc2(space, &base, &bytes, type, protection, &above);
    if ((type & TIDE_MEM_LARGE_PAGES) && thread->holder->mapped) {
        expect(thread, status, TIDE_NOT_SUPPORTED, "large pages in a mapped space", 0);
        return 0;
    }
    if (refused(thread, status))
        return 0;
    expect(thread, status, TIDE_SUCCESS, "tide_virtual_alloc2", 0);
    return base;
}

static void own_release(struct stress_thread *thread, tide_space *space, tide_address base)
{
    expect(thread, tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release of an own region", base);
}

static uint64_t own_word(tide_address base, unsigned page)
{
    return base * 31 + page;
}

static void own_write(struct stress_thread *thread, tide_space *space, tide_address base, unsigned page)
{
    const uint64_t word = own_word(base, page);
    if (thread->holder->mapped && one_in(thread, 2)) { /* which a watch must see as well */
        atomic_store((_Atomic uint64_t *)tide_pointer(base + (uint64_t)page * PAGE), word);
        return;
    }
    expect(thread, write_bytes(thread, space, base + (uint64_t)page * PAGE, &word, sizeof(word)), TIDE_SUCCESS,
           "write to an own region", base);
}

/* The page holds its word, or nothing yet. */
static void own_check(struct stress_thread *thread, tide_space *space, tide_address base, unsigned page, bool written)
{
    uint64_t word = 1;
    if (thread->holder->mapped && one_in(thread, 2))
        word = atomic_load((_Atomic uint64_t *)tide_pointer(base + (uint64_t)page * PAGE));
    else
        expect(thread, read_bytes(thread, space, base + (uint64_t)page * PAGE, &word, sizeof(word)), TIDE_SUCCESS,
               "read of an own region", base);
    if (word != (written ? own_word(base, page) : 0) && !thread->own_lost)
        fail(thread, "page %u of the own region 0x%llx holds 0x%llx", page, (unsigned long long)base,
             (unsigned long long)word);
}

static void own_watch(struct stress_thread *thread, tide_space *space)
{
    const tide_address base = own_new(thread, space, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH,
                                      TIDE_PAGE_READWRITE, OWN_PAGES * PAGE);
    if (base == 0)
        return;
    for (unsigned round = 0; round < 3; round++) {
        bool written[OWN_PAGES] = { false };
        tide_address pages[OWN_PAGES];
        uint64_t count = OWN_PAGES;
        unsigned expected = 0;
        for (unsigned i = 0; i < 8; i++) {
            const unsigned page = (unsigned)draw(thread, OWN_PAGES);
            own_write(thread, space, base, page);
            written[page] = true;
        }
        linger(thread, space);
        const tide_status status =
            tide_write_watch_get(space, TIDE_WRITE_WATCH_RESET, base, OWN_PAGES * PAGE, pages, &count, NULL);
        if (status == TIDE_TIMEOUT) /* a section of another thread was open too long */
            break;
        expect(thread, status, TIDE_SUCCESS, "tide_write_watch_get", base);
        if (thread->own_lost) /* written anew by who found it lost */
            break;
        for (unsigned page = 0; page < OWN_PAGES; page++) {
            if (written[page] && (expected >= count || pages[expected] != base + (uint64_t)page * PAGE))
                fail(thread,
                     "page %u of the watched region 0x%llx was written and is not reported in round %u: report %u of "
                     "%llu is page %llu",
                     page, (unsigned long long)base, round, expected, (unsigned long long)count,
                     expected >= count ? OWN_PAGES : (unsigned long long)((pages[expected] - base) / PAGE));
            expected += written[page];
            if (written[page])
                own_check(thread, space, base, page, true);
        }
        if (expected != count)
            fail(thread, "%u pages of the watched region 0x%llx were written, %llu are reported", expected,
                 (unsigned long long)base, (unsigned long long)count);
    }
    own_release(thread, space, base);
}

static void own_split(struct stress_thread *thread, tide_space *space)
{
    const tide_address base =
        own_new(thread, space, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE, OWN_PAGES * PAGE);
    if (base == 0)
        return;
    const unsigned first = 1 + (unsigned)draw(thread, OWN_PAGES - 2);
    const unsigned count = 1 + (unsigned)draw(thread, OWN_PAGES - 1 - first);
    for (unsigned page = 0; page < OWN_PAGES; page += 3)
        own_write(thread, space, base, page);
    linger(thread, space);
    tide_address at = base + (uint64_t)first * PAGE;
    uint64_t bytes = (uint64_t)count * PAGE;
    const tide_status status = tide_virtual_free_native(space, &at, &bytes, TIDE_MEM_RELEASE);
    if (!refused(thread, status)) {
        expect(thread, status, TIDE_SUCCESS, "release of a part", at);
        expect(thread, tide_touch(space, at, TIDE_ACCESS_READ), TIDE_ACCESS_VIOLATION, "touch of what was released",
               at);
        for (unsigned page = 0; page < OWN_PAGES; page++)
            if (page < first || page >= first + count)
                own_check(thread, space, base, page, page % 3 == 0);
        own_release(thread, space, base + (uint64_t)(first + count) * PAGE);
    }
    own_release(thread, space, base);
}

static void own_placeholder(struct stress_thread *thread, tide_space *space)
{
    const uint32_t keep = TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER;
    const tide_address base =
        own_new(thread, space, TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER, TIDE_PAGE_NOACCESS, OWN_PAGES * PAGE);
    const uint64_t unit = TIDE_ALLOCATION_GRANULARITY_BYTES;
    if (base == 0)
        return;
    expect(thread, tide_virtual_free(space, base + unit, unit, keep), TIDE_SUCCESS, "split of a placeholder", base);
    tide_address at = base + unit;
    uint64_t bytes = unit;
    const tide_status status =
        tide_virtual_alloc2(space, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_REPLACE_PLACEHOLDER,
                            TIDE_PAGE_READWRITE, NULL);
    if (!refused(thread, status)) {
        expect(thread, status, TIDE_SUCCESS, "replacement of a placeholder", at);
        for (unsigned page = 0; page < UNIT_PAGES; page += 2)
            own_write(thread, space, at, page);
        linger(thread, space);
        for (unsigned page = 0; page < UNIT_PAGES; page++)
            own_check(thread, space, at, page, page % 2 == 0);
        expect(thread, tide_virtual_free(space, at, unit, keep), TIDE_SUCCESS, "a placeholder again", at);
    }
    expect(thread, tide_virtual_free(space, base, OWN_PAGES * PAGE, TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS),
           TIDE_SUCCESS, "joining placeholders", base);
    own_release(thread, space, base);
}

static void own_large(struct stress_thread *thread, tide_space *space)
{
    const tide_address base = own_new(thread, space, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_LARGE_PAGES,
                                      TIDE_PAGE_READWRITE, TIDE_LARGE_PAGE_BYTES);
    if (base == 0)
        return;
    for (unsigned page = 0; page < OWN_PAGES; page += 2)
        own_write(thread, space, base, page);
    linger(thread, space);
    for (unsigned page = 0; page < OWN_PAGES; page++)
        own_check(thread, space, base, page, page % 2 == 0);
    own_release(thread, space, base);
}

void op_own_region(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    switch (draw(thread, 8)) {
    case 0:
        own_large(thread, place.space);
        break;
    case 1:
    case 2:
        own_placeholder(thread, place.space);
        break;
    case 3:
    case 4:
        own_watch(thread, place.space);
        break;
    default:
        own_split(thread, place.space);
    }
    place_put(&place);
}

/*
 * Draws, places and checks: see place.h.
 *
 * A place is where the outcome of an operation is known: its space and window cannot go away while their locks are
 * held for reading, and with the locks of its pages, taken in ascending order, nobody else changes what they hold.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "place.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

uint64_t draw(struct stress_thread *thread, uint64_t bound)
{
    return stress_random_below(&thread->random, bound);
}

bool one_in(struct stress_thread *thread, uint64_t n)
{
    return draw(thread, n) == 0;
}

void expect(struct stress_thread *thread, tide_status status, tide_status expected, const char *what,
            tide_address address)
{
    if (status != expected)
        fail(thread, "%s at 0x%llx returned %s, expected %s", what, (unsigned long long)address,
             tide_status_name(status), tide_status_name(expected));
}

/* The window's page of an address, NULL if it is in none: then it is the thread's own. */
static struct shadow_page *window_page(const struct shadow_space *holder, tide_address address, bool *shared)
{
    for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
        const struct shadow_window *window = &holder->windows[w];
        const uint64_t index = (address - window->base) / TIDE_PAGE_BYTES;
        if (address >= window->base && index < window->page_count) {
            *shared = index >= window->exact_count;
            return &window->pages[index];
        }
    }
    return NULL;
}

/* Readers without a lock may look at any moment: as a shared write does it, and they know no bounds meanwhile. */
static void shared_restore(struct stress_thread *thread, struct shadow_page *page, tide_address address)
{
    const uint64_t identity = atomic_load(&thread->holder->identity);
    tide_access access;
    char *pointer;
    atomic_fetch_add(&page->sequence, 1);
    expect(thread, tide_virtual_discard(thread->holder->space, address, TIDE_PAGE_BYTES), TIDE_SUCCESS,
           "discard of a lost page", address);
    for (;;) {
        expect(thread, tide_access_begin(thread->holder->space, &access), TIDE_SUCCESS, "tide_access_begin", 0);
        pointer = tide_access_pointer(&access, address, TIDE_ACCESS_WRITE);
        if (pointer != NULL)
            break;
        if (access.status == TIDE_IN_PAGE_ERROR) { /* lost once more: it was zeros */
            expect(thread, tide_virtual_discard(thread->holder->space, address, TIDE_PAGE_BYTES), TIDE_SUCCESS,
                   "discard of a lost page", address);
        } else {
            expect(thread, access.status, TIDE_ACCESS_SECTION_TOO_LONG, "pointer to a page written anew", address);
        }
        tide_access_end(&access);
        sched_yield();
    }
    for (unsigned n = 0; n < STAMP_PLACES; n++)
        atomic_store_explicit((_Atomic uint64_t *)(void *)(pointer + (size_t)stamp_word(n) * 8),
                              stamp_make(identity, address, n, page->version), memory_order_release);
    tide_access_end(&access);
    atomic_fetch_add(&page->sequence, 1);
}

/* The whole page, with what it must hold. */
static bool exact_restore(struct stress_thread *thread, const struct shadow_page *page, tide_address address)
{
    tide_space *space = thread->holder->space;
    uint32_t old;
    tide_status status;
    if (!page->writable)
        expect(thread, tide_virtual_protect(space, address, TIDE_PAGE_BYTES, TIDE_PAGE_READWRITE, &old), TIDE_SUCCESS,
               "protection of a lost page", address);
    image_fill(thread->spare, atomic_load(&thread->holder->identity), address, page->version);
    status = tide_write(space, address, thread->spare, TIDE_PAGE_BYTES);
    if (status != TIDE_ACCESS_SECTION_TOO_LONG)
        expect(thread, status, TIDE_SUCCESS, "write of a whole page that was lost", address);
    if (!page->writable)
        expect(thread, tide_virtual_protect(space, address, TIDE_PAGE_BYTES, TIDE_PAGE_READONLY, &old), TIDE_SUCCESS,
               "protection of a lost page", address);
    return status == TIDE_SUCCESS;
}

/* The page of the last error was lost with a bad frame. False if this operation may not touch it. */
static bool lost_restore(struct stress_thread *thread)
{
    const tide_address address = tide_last_error()->address / TIDE_PAGE_BYTES * TIDE_PAGE_BYTES;
    bool shared = false;
    struct shadow_page *page = window_page(thread->holder, address, &shared);
    if (thread->run->options.bad_frames + thread->run->options.poison == 0)
        fail(thread, "page 0x%llx is lost, and no frame went bad", (unsigned long long)address);
    thread->saw_lost = true;
    if (thread->unlocked)
        return false;
    if (page == NULL) {
        const tide_status status = tide_virtual_discard(thread->holder->space, address, TIDE_PAGE_BYTES);
        memset(thread->spare, 0, TIDE_PAGE_BYTES);
        if (status == TIDE_CONFLICTING_ADDRESSES) /* of a large page */
            expect(thread, tide_write(thread->holder->space, address, thread->spare, TIDE_PAGE_BYTES), TIDE_SUCCESS,
                   "write of a whole page of one's own that was lost", address);
        else
            expect(thread, status, TIDE_SUCCESS, "discard of a page of one's own that was lost", address);
        thread->own_lost = true;
        atomic_fetch_add(&thread->run->restored, 1);
        return true;
    }
    if (!page->committed)
        fail(thread, "page 0x%llx is lost, and was not committed", (unsigned long long)address);
    if (shared)
        shared_restore(thread, page, address);
    else
        thread->too_long = !exact_restore(thread, page, address);
    if (thread->too_long)
        return false;
    thread->restored++;
    atomic_fetch_add(&thread->run->restored, 1);
    return true;
}

bool must_repeat(struct stress_thread *thread, tide_status status, unsigned attempt)
{
    if (status != TIDE_IN_PAGE_ERROR)
        return false;
    struct stress_run *run = thread->run;
    if (tide_last_error()->io_error == EHWPOISON)
        return lost_restore(thread);
    if (run->options.faults == 0)
        fail(thread, "TIDE_IN_PAGE_ERROR without injected errors: %s", tide_last_error()->message);
    if (tide_last_error()->io_error != EIO)
        fail(thread, "TIDE_IN_PAGE_ERROR with io_error %d, expected EIO", tide_last_error()->io_error);
    if (attempt > 2 * run->options.threads)
        fail(thread, "the access still fails after %u repeats without injected errors", attempt);
    if (!thread->inject_off) {
        atomic_fetch_add(&run->inject_off, 1);
        thread->inject_off = true;
    }
    thread->repeated++;
    return true;
}

tide_status read_bytes(struct stress_thread *thread, tide_space *space, tide_address address, void *buffer,
                       size_t bytes)
{
    tide_status status;
    unsigned attempt = 0;
    do
        status = tide_read(space, address, buffer, bytes);
    while (must_repeat(thread, status, attempt++));
    return status;
}

tide_status write_bytes(struct stress_thread *thread, tide_space *space, tide_address address, const void *buffer,
                        size_t bytes)
{
    tide_status status;
    unsigned attempt = 0;
    do
        status = tide_write(space, address, buffer, bytes);
    while (must_repeat(thread, status, attempt++));
    return status;
}

unsigned draw_index(struct stress_thread *thread, unsigned count)
{
    if (draw(thread, 5) < 2)
        return (unsigned)draw(thread, count);
    const uint64_t hot = (count + 15) / 16;
    const uint64_t start = thread->ops / 4096 * hot;
    return (unsigned)((start + draw(thread, hot)) % count);
}

bool place_get(struct stress_thread *thread, struct place *place, enum place_kind kind, unsigned most)
{
    struct shadow *shadow = &thread->run->shadow;
    place->holder = &shadow->spaces[draw(thread, shadow->space_count)];
    thread->holder = place->holder;
    pthread_rwlock_rdlock(&place->holder->lock);
    if (place->holder->space == NULL) {
        pthread_rwlock_unlock(&place->holder->lock);
        return false;
    }
    place->space = place->holder->space;
    place->identity = atomic_load(&place->holder->identity);
    place->window = &place->holder->windows[draw(thread, SHADOW_WINDOWS)];
    pthread_rwlock_rdlock(&place->window->lock);
    const unsigned low = kind == PLACE_SHARED ? place->window->exact_count : 0;
    const unsigned high = kind == PLACE_EXACT ? place->window->exact_count : place->window->page_count;
    place->first = low + draw_index(thread, high - low);
    place->count = 1 + (unsigned)draw(thread, most);
    if (place->count > high - place->first)
        place->count = high - place->first;
    return true;
}

void place_put(const struct place *place)
{
    pthread_rwlock_unlock(&place->window->lock);
    pthread_rwlock_unlock(&place->holder->lock);
}

void pages_lock(const struct place *place)
{
    for (unsigned i = 0; i < place->count; i++)
        pthread_mutex_lock(&page_at(place, i)->lock);
}

void pages_unlock(const struct place *place)
{
    for (unsigned i = place->count; i-- > 0;)
        pthread_mutex_unlock(&page_at(place, i)->lock);
}

unsigned accessible_count(const struct place *place, tide_access_kind kind)
{
    unsigned n = 0;
    while (n < place->count && page_at(place, n)->committed &&
           (kind == TIDE_ACCESS_READ || page_at(place, n)->writable))
        n++;
    return n;
}

uint32_t version_begin(struct shadow_page *page)
{
    const uint32_t version = atomic_load(&page->begun) + 1;
    atomic_store(&page->begun, version);
    return version;
}

void check_image(struct stress_thread *thread, const struct place *place, unsigned i, const void *data, const char *how)
{
    const uint32_t version = page_at(place, i)->version;
    const tide_address address = page_address(place, place->first + i);
    const unsigned word = image_compare(data, place->identity, address, version);
    if (word == PAGE_WORDS)
        return;
    uint64_t found;
    char owner[128];
    memcpy(&found, (const char *)data + (size_t)word * 8, 8);
    shadow_identify(&thread->run->shadow, found, owner, sizeof(owner));
    fail(thread, "%s: space identity %llu address 0x%llx must hold version %u; word %u is 0x%016llx: %s", how,
         (unsigned long long)place->identity, (unsigned long long)address, version, word, (unsigned long long)found,
         owner);
}

void expect_access(struct stress_thread *thread, const struct place *place, tide_status status, unsigned good,
                   unsigned offset, const char *what)
{
    const tide_address address = page_address(place, place->first);
    if (good == place->count) {
        expect(thread, status, TIDE_SUCCESS, what, address);
        return;
    }
    const tide_address bad = page_address(place, place->first + good) + (good == 0 ? offset : 0);
    expect(thread, status, TIDE_ACCESS_VIOLATION, what, address);
    if (tide_last_error()->address != bad)
        fail(thread, "%s: first byte that fails is 0x%llx, reported 0x%llx", what, (unsigned long long)bad,
             (unsigned long long)tide_last_error()->address);
}

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

bool must_repeat(struct stress_thread *thread, tide_status status, unsigned attempt)
{
    if (status != TIDE_IN_PAGE_ERROR)
        return false;
    struct stress_run *run = thread->run;
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

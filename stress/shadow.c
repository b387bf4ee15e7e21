/*
 * The shadow of a stress run: see shadow.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "shadow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

uint64_t stress_random(uint64_t *state)
{
    return mix(*state += 0x9E3779B97F4A7C15ull);
}

uint64_t stress_random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)stress_random(state) * bound) >> 64);
}

uint64_t stamp_make(uint64_t identity, tide_address page_address, unsigned place, uint32_t version)
{
    if (version == 0)
        return 0;
    const uint64_t hash = mix(mix(identity + 0x9E3779B97F4A7C15ull) ^ page_address ^ ((uint64_t)place << 56) ^ version);
    return (hash & 0xFFFFFFFF00000000ull) | version;
}

bool stamp_valid(uint64_t word, uint64_t identity, tide_address page_address, unsigned place, uint32_t *version)
{
    *version = (uint32_t)word;
    return word == stamp_make(identity, page_address, place, *version);
}

void image_fill(void *buffer, uint64_t identity, tide_address page_address, uint32_t version)
{
    uint64_t *words = buffer;
    memset(words, 0, TIDE_PAGE_BYTES);
    for (unsigned place = 0; place < STAMP_PLACES; place++)
        words[stamp_word(place)] = stamp_make(identity, page_address, place, version);
}

unsigned image_compare(const void *data, uint64_t identity, tide_address page_address, uint32_t version)
{
    uint64_t image[PAGE_WORDS];
    image_fill(image, identity, page_address, version);
    if (memcmp(data, image, sizeof(image)) == 0)
        return PAGE_WORDS;
    unsigned word = 0;
    while (word < PAGE_WORDS - 1 && memcmp((const char *)data + word * 8, &image[word], 8) == 0)
        word++;
    return word;
}

static bool window_create(struct shadow_window *window, unsigned page_count)
{
    window->page_count = page_count;
    window->exact_count = page_count - page_count / 4;
    window->pages = calloc(page_count, sizeof(*window->pages));
    if (window->pages == NULL)
        return false;
    pthread_rwlock_init(&window->lock, NULL);
    for (unsigned i = 0; i < page_count; i++) {
        pthread_mutex_init(&window->pages[i].lock, NULL);
        atomic_init(&window->pages[i].floor, SHADOW_NOT_COMMITTED);
    }
    return true;
}

void shadow_space_place(struct shadow_space *space, tide_address border)
{
    for (unsigned w = 0; w < SHADOW_WINDOWS; w++)
        space->windows[w].base = border - space->below + w * space->stride;
}

bool shadow_create(struct shadow *shadow, unsigned space_count, unsigned window_pages)
{
    *shadow = (struct shadow){ .space_count = space_count };
    shadow->spaces = calloc(space_count, sizeof(*shadow->spaces));
    if (shadow->spaces == NULL)
        return false;
    atomic_init(&shadow->next_identity, 1);
    const uint64_t window_bytes = (uint64_t)window_pages * TIDE_PAGE_BYTES;
    const uint64_t stride = (window_bytes + TIDE_ALLOCATION_GRANULARITY_BYTES - 1) / TIDE_ALLOCATION_GRANULARITY_BYTES *
                            TIDE_ALLOCATION_GRANULARITY_BYTES;
    for (unsigned s = 0; s < space_count; s++) {
        struct shadow_space *space = &shadow->spaces[s];
        pthread_rwlock_init(&space->lock, NULL);
        /*
         * Even spaces straddle a 1 GiB border (two page directories), odd ones a 512 GiB border (two of the next
         * level).
         */
        space->stride = stride;
        space->below = stride * SHADOW_WINDOWS / 2 + (uint64_t)(s % 3) * TIDE_ALLOCATION_GRANULARITY_BYTES;
        space->own_lowest = 1ull << 46;
        shadow_space_place(space, s % 2 == 0 ? 64ull << 30 : 512ull << 30);
        for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
            if (!window_create(&space->windows[w], window_pages)) {
                shadow_destroy(shadow);
                return false;
            }
        }
    }
    return true;
}

void shadow_destroy(struct shadow *shadow)
{
    for (unsigned s = 0; s < shadow->space_count; s++) {
        for (unsigned w = 0; w < SHADOW_WINDOWS; w++)
            free(shadow->spaces[s].windows[w].pages);
    }
    free(shadow->spaces);
    *shadow = (struct shadow){ 0 };
}

void shadow_identify(const struct shadow *shadow, uint64_t word, char *text, size_t text_bytes)
{
    const uint64_t newest = atomic_load(&shadow->next_identity);
    snprintf(text, text_bytes, "%s", word == 0 ? "zero" : "no stamp of this run");
    if (word == 0)
        return;
    for (unsigned s = 0; s < shadow->space_count; s++) {
        for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
            const struct shadow_window *window = &shadow->spaces[s].windows[w];
            for (uint64_t n = 0; n < (uint64_t)window->page_count * STAMP_PLACES; n++) {
                const unsigned index = (unsigned)(n / STAMP_PLACES), place = (unsigned)(n % STAMP_PLACES);
                const tide_address address = window->base + (uint64_t)index * TIDE_PAGE_BYTES;
                for (uint64_t identity = 1; identity < newest; identity++) {
                    if (word == stamp_make(identity, address, place, (uint32_t)word)) {
                        snprintf(text, text_bytes,
                                 "the stamp of space identity %llu address 0x%llx place %u version %u",
                                 (unsigned long long)identity, (unsigned long long)address, place, (uint32_t)word);
                        return;
                    }
                }
            }
        }
    }
}

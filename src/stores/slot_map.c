/*
 * Slot map: see slot_map_impl.h for the idea.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/slot_map_impl.h"

#include "base/error.h"
#include "base/os.h"

#include <string.h>

#define SLOT_MAP_MAXIMUM (1ull << 32) /* slot numbers have 32 bits */

static const size_t page_bytes = 4096;

static size_t round_to_page(size_t bytes)
{
    return (bytes + page_bytes - 1) & ~(page_bytes - 1);
}

static uint64_t *group_words(const struct slot_map *map, uint64_t *words, const struct slot_group *group)
{
    return words + (size_t)(group - map->groups) * SLOT_GROUP_WORDS;
}

static uint64_t bit_of(uint32_t slot)
{
    return 1ull << (slot % 64);
}

tide_status slot_map_create(struct slot_map *map, uint64_t limit, uint64_t maximum)
{
    ASSERT_ALWAYS(limit >= 2 && limit <= maximum && maximum <= SLOT_MAP_MAXIMUM);
    const size_t group_count = (size_t)((maximum + SLOT_GROUP_SLOTS - 1) / SLOT_GROUP_SLOTS);
    const size_t groups_bytes = round_to_page(group_count * sizeof(struct slot_group));
    const size_t bitmap_bytes = group_count * SLOT_GROUP_WORDS * sizeof(uint64_t);

    memset(map, 0, sizeof *map);
    char *const memory = os_memory_reserve(groups_bytes + 2 * bitmap_bytes, page_bytes);
    if (memory == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    map->bytes = groups_bytes + 2 * bitmap_bytes;
    map->groups = (struct slot_group *)(void *)memory;
    map->taken = (uint64_t *)(void *)(memory + groups_bytes);
    map->bad = (uint64_t *)(void *)(memory + groups_bytes + bitmap_bytes);
    map->group_count = (unsigned)group_count;
    map->limit = limit;
    for (size_t i = 0; i < group_count; i++) {
        struct slot_group *group = &map->groups[i];
        const uint64_t base = i * SLOT_GROUP_SLOTS;
        sync_lock_init(&group->lock, SYNC_RANK_slot_group);
        group->slots = base >= limit                      ? 0
                       : limit - base >= SLOT_GROUP_SLOTS ? SLOT_GROUP_SLOTS
                                                          : (uint32_t)(limit - base);
        group->longest = group->slots < SLOT_RUN_MAX ? group->slots : SLOT_RUN_MAX;
        /* The search goes by whole words: in the last one, what lies past the limit counts as taken. */
        if (group->slots % 64 != 0)
            group_words(map, map->taken, group)[group->slots / 64] = ~0ull << (group->slots % 64);
    }
    map->taken[0] |= 1; /* the header */
    return TIDE_SUCCESS;
}

void slot_map_destroy(struct slot_map *map)
{
    if (map->groups != NULL)
        os_memory_free(map->groups, map->bytes);
    map->groups = NULL;
}

/* ---- search ----------------------------------------------------------------------------------------------------- */

struct run {
    uint32_t first;
    uint32_t length;
};

/*
 * Bits of `free_bits` at which a run of `length` (1 .. 63) set bits begins: each step doubles the length that is known.
 */
static uint64_t run_starts(uint64_t free_bits, uint32_t length)
{
    for (uint32_t known = 1; known < length;) {
        const uint32_t step = known < length - known ? known : length - known;
        free_bits &= free_bits >> step;
        known += step;
    }
    return free_bits;
}

/*
 * Looks through the words from `begin` up to `end` for a run of `wanted` free slots, or for one longer than *best;
 * stops at the first run that is long enough. A run may span any number of words of the range.
 */
static void search_words(const uint64_t *taken, uint32_t begin, uint32_t end, uint32_t wanted, struct run *best)
{
    uint32_t before = 0; /* free slots directly before the word */

    for (uint32_t word = begin; word < end && best->length < wanted; word++) {
        const uint64_t bits = taken[word];
        if (bits == ~0ull) {
            before = 0;
            continue;
        }
        const uint32_t head = bits == 0 ? 64 : (uint32_t)__builtin_ctzll(bits);
        if (before + head > best->length)
            *best = (struct run){ .first = word * 64 - before, .length = before + head };
        if (bits == 0) {
            before += 64;
            continue;
        }
        while (best->length < wanted && best->length < 63) {
            const uint64_t starts = run_starts(~bits, best->length + 1);
            if (starts == 0)
                break;
            *best = (struct run){ .first = word * 64 + (uint32_t)__builtin_ctzll(starts), .length = best->length + 1 };
        }
        before = (uint32_t)__builtin_clzll(bits);
    }
}

/* The first run of `wanted` slots after the hint, else the longest of the group. Group locked. */
static struct run search_group(const struct slot_group *group, const uint64_t *taken, uint32_t wanted)
{
    const uint32_t words = (group->slots + 63) / 64;
    struct run best = { 0, 0 };

    search_words(taken, group->hint, words, wanted, &best);
    /* The hint's word once more, for a run that begins before it. */
    search_words(taken, 0, group->hint + 1 < words ? group->hint + 1 : words, wanted, &best);
    if (best.length > wanted)
        best.length = wanted;
    return best;
}

/* Length of the free run around a free slot, seen at least SLOT_RUN_MAX slots far to both sides. Group locked. */
static uint32_t run_around(const uint64_t *taken, uint32_t words, uint32_t slot)
{
    const uint32_t word = slot / 64, bit = slot % 64;
    const uint64_t below = taken[word] & ((1ull << bit) - 1), above = taken[word] >> bit;
    uint32_t left, right; /* free slots before it; from it on */

    if (below != 0)
        left = bit - 64 + (uint32_t)__builtin_clzll(below);
    else if (word == 0 || taken[word - 1] == 0)
        left = bit + (word == 0 ? 0 : 64);
    else
        left = bit + (uint32_t)__builtin_clzll(taken[word - 1]);
    if (above != 0)
        right = (uint32_t)__builtin_ctzll(above);
    else if (word + 1 == words || taken[word + 1] == 0)
        right = 64 - bit + (word + 1 == words ? 0 : 64);
    else
        right = 64 - bit + (uint32_t)__builtin_ctzll(taken[word + 1]);
    return left + right;
}

/*
 * The group to try: from the last one on, the first that may hold a run of `wanted`; else the one that may hold the
 * longest. *length is what it may hold, at most `wanted`. NULL if all are full.
 */
static struct slot_group *choose_group(const struct slot_map *map, uint32_t wanted, uint32_t *length)
{
    const uint32_t start = sync_load_relaxed_32(&map->group_hint);
    struct slot_group *best = NULL;

    *length = 0;
    for (uint32_t i = 0; i < map->group_count && *length < wanted; i++) {
        struct slot_group *group = &map->groups[(start + i) % map->group_count];
        const uint32_t longest = sync_load_relaxed_32(&group->longest);
        if (longest > *length) {
            *length = longest < wanted ? longest : wanted;
            best = group;
        }
    }
    return best;
}

/* ---- allocation ------------------------------------------------------------------------------------------------- */

/* Group locked. */
static void take_run(struct slot_group *group, uint64_t *taken, struct run run)
{
    for (uint32_t slot = run.first; slot < run.first + run.length; slot++) {
        ASSERT_DEBUG((taken[slot / 64] & bit_of(slot)) == 0);
        taken[slot / 64] |= bit_of(slot);
    }
    const uint32_t next = (run.first + run.length) / 64;
    group->hint = next < (group->slots + 63) / 64 ? next : 0;
    sync_store_relaxed_32(&group->used, group->used + run.length);
}

/*
 * Keeps the peak without a counter that releases would have to write: allocations alone raise `used_bound`, which so is
 * an upper bound of the slots in use, and only when it passes the peak are the groups summed. The bound comes down to
 * the sum unless another thread raised it meanwhile.
 */
static void note_peak(struct slot_map *map, uint32_t count)
{
    const uint64_t bound = sync_add_64(&map->used_bound, count) + count;
    uint64_t used, peak = sync_load_relaxed_64(&map->peak);

    if (bound <= peak)
        return;
    slot_map_count(map, &used, NULL);
    (void)sync_cas_64(&map->used_bound, bound, used);
    while (used > peak && !sync_cas_value_64(&map->peak, peak, used, &peak))
        sync_pause();
}

unsigned slot_map_allocate(struct slot_map *map, unsigned wanted, uint32_t *first)
{
    ASSERT_ALWAYS(wanted >= 1 && wanted <= SLOT_RUN_MAX);
    for (;;) {
        uint32_t length;
        struct slot_group *const group = choose_group(map, wanted, &length);
        if (group == NULL)
            return 0;
        const uint32_t index = (uint32_t)(group - map->groups);
        uint64_t *const taken = group_words(map, map->taken, group);

        sync_lock(&group->lock);
        const struct run run = search_group(group, taken, wanted);
        if (run.length < wanted)
            sync_store_relaxed_32(&group->longest, run.length);
        const bool found = run.length >= length;
        if (found)
            take_run(group, taken, run);
        sync_unlock(&group->lock);
        if (!found)
            continue; /* the bound was too high; it is exact now, and another group may do better */

        if (sync_load_relaxed_32(&map->group_hint) != index)
            sync_store_relaxed_32(&map->group_hint, index);
        note_peak(map, run.length);
        *first = index * SLOT_GROUP_SLOTS + run.first;
        return run.length;
    }
}

/* Locks the group of an allocated slot. */
static struct slot_group *lock_group_of(struct slot_map *map, uint32_t slot)
{
    ASSERT_ALWAYS(slot != 0 && slot < map->limit);
    struct slot_group *const group = &map->groups[slot / SLOT_GROUP_SLOTS];
    sync_lock(&group->lock);
    return group;
}

static bool allocated_locked(const struct slot_map *map, uint32_t slot)
{
    return (map->taken[slot / 64] & bit_of(slot)) != 0 && (map->bad[slot / 64] & bit_of(slot)) == 0;
}

void slot_map_release(struct slot_map *map, uint32_t slot)
{
    struct slot_group *const group = lock_group_of(map, slot);

    ASSERT_ALWAYS(allocated_locked(map, slot));
    map->taken[slot / 64] &= ~bit_of(slot);
    sync_store_relaxed_32(&group->used, group->used - 1);
    uint32_t run = run_around(group_words(map, map->taken, group), (group->slots + 63) / 64, slot % SLOT_GROUP_SLOTS);
    if (run > SLOT_RUN_MAX)
        run = SLOT_RUN_MAX;
    if (run > group->longest)
        sync_store_relaxed_32(&group->longest, run);
    sync_unlock(&group->lock);
}

void slot_map_mark_bad(struct slot_map *map, uint32_t slot)
{
    struct slot_group *const group = lock_group_of(map, slot);

    ASSERT_ALWAYS(allocated_locked(map, slot));
    map->bad[slot / 64] |= bit_of(slot);
    sync_store_relaxed_32(&group->used, group->used - 1);
    sync_store_relaxed_32(&group->bad, group->bad + 1);
    sync_unlock(&group->lock);
}

bool slot_map_allocated(struct slot_map *map, uint32_t slot)
{
    if (slot == 0 || slot >= map->limit)
        return false;
    struct slot_group *const group = lock_group_of(map, slot);
    const bool allocated = allocated_locked(map, slot);
    sync_unlock(&group->lock);
    return allocated;
}

void slot_map_count(struct slot_map *map, uint64_t *used, uint64_t *bad)
{
    uint64_t used_sum = 0, bad_sum = 0;

    for (unsigned i = 0; i < map->group_count; i++) {
        used_sum += sync_load_relaxed_32(&map->groups[i].used);
        bad_sum += sync_load_relaxed_32(&map->groups[i].bad);
    }
    if (used != NULL)
        *used = used_sum;
    if (bad != NULL)
        *bad = bad_sum;
}

uint64_t slot_map_peak(const struct slot_map *map)
{
    return sync_load_relaxed_64(&map->peak);
}

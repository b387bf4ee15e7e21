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

/* Slots of a group in a map of `limit` slots. */
static uint32_t group_slots(uint64_t group, uint64_t limit)
{
    const uint64_t base = group * SLOT_GROUP_SLOTS;

    return base >= limit ? 0 : limit - base >= SLOT_GROUP_SLOTS ? SLOT_GROUP_SLOTS : (uint32_t)(limit - base);
}

static uint32_t group_word_count(const struct slot_group *group)
{
    return (group->slots + 63) / 64;
}

/* Bits of a word that stand for slots which exist; the word is one of group_word_count(). */
static uint64_t existing(const struct slot_group *group, uint32_t word)
{
    return word == group->slots / 64 ? (1ull << (group->slots % 64)) - 1 : ~0ull;
}

/*
 * The group has so many slots from now on. The search goes by whole words: in the last one, what lies past the end
 * counts as taken. Group locked, or nobody there yet; the bits of slots that did not exist are 0, but for that.
 */
static void group_resize(struct slot_map *map, struct slot_group *group, uint32_t slots)
{
    uint64_t *const taken = group_words(map, map->taken, group);

    if (group->slots % 64 != 0)
        taken[group->slots / 64] &= existing(group, group->slots / 64);
    sync_store_relaxed_32(&group->slots, slots);
    if (slots % 64 != 0)
        taken[slots / 64] |= ~existing(group, slots / 64);
    if (group->hint >= group_word_count(group))
        group->hint = 0;
}

tide_status slot_map_create(struct slot_map *map, uint64_t limit, uint64_t maximum, unsigned block)
{
    ASSERT_ALWAYS(limit >= 2 && limit <= maximum && maximum <= SLOT_MAP_MAXIMUM);
    ASSERT_ALWAYS(block >= 1 && block <= SLOT_RUN_MAX && (block & (block - 1)) == 0);
    const size_t group_count = (size_t)((maximum + SLOT_GROUP_SLOTS - 1) / SLOT_GROUP_SLOTS);
    const size_t groups_bytes = round_to_page(group_count * sizeof(struct slot_group));
    const size_t bitmap_bytes = group_count * SLOT_GROUP_WORDS * sizeof(uint64_t);

    memset(map, 0, sizeof *map);
    char *const memory = os_memory_reserve(groups_bytes + 3 * bitmap_bytes, page_bytes);
    if (memory == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    map->bytes = groups_bytes + 3 * bitmap_bytes;
    map->groups = (struct slot_group *)(void *)memory;
    map->taken = (uint64_t *)(void *)(memory + groups_bytes);
    map->bad = (uint64_t *)(void *)(memory + groups_bytes + bitmap_bytes);
    map->reserved = (uint64_t *)(void *)(memory + groups_bytes + 2 * bitmap_bytes);
    map->group_count = (unsigned)group_count;
    map->block = block;
    map->limit = limit;
    for (size_t i = 0; i < group_count; i++) {
        struct slot_group *group = &map->groups[i];
        sync_lock_init(&group->lock, SYNC_RANK_slot_group);
        group_resize(map, group, group_slots(i, limit));
        group->longest = group->slots < SLOT_RUN_MAX ? group->slots : SLOT_RUN_MAX;
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

/* Which slots a search must not take: one group's bits. */
struct view {
    const uint64_t *taken;
    const uint64_t *reserved; /* NULL: reserved slots may be taken */
};

static struct view group_view(const struct slot_map *map, const struct slot_group *group, enum slot_need need)
{
    return (struct view){ group_words(map, map->taken, group),
                          need == SLOT_KEEP ? group_words(map, map->reserved, group) : NULL };
}

static uint64_t view_word(struct view view, uint32_t word)
{
    return view.taken[word] | (view.reserved != NULL ? view.reserved[word] : 0);
}

/*
 * Looks through the words from `begin` up to `end` for a run of `wanted` free slots, or for one longer than *best;
 * stops at the first run that is long enough. A run may span any number of words of the range.
 */
static void search_words(struct view view, uint32_t begin, uint32_t end, uint32_t wanted, struct run *best)
{
    uint32_t before = 0; /* free slots directly before the word */

    for (uint32_t word = begin; word < end && best->length < wanted; word++) {
        const uint64_t bits = view_word(view, word);
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
static struct run search_group(const struct slot_group *group, struct view view, uint32_t wanted)
{
    const uint32_t words = group_word_count(group);
    struct run best = { 0, 0 };

    search_words(view, group->hint, words, wanted, &best);
    /* The hint's word once more, for a run that begins before it. */
    search_words(view, 0, group->hint + 1 < words ? group->hint + 1 : words, wanted, &best);
    if (best.length > wanted)
        best.length = wanted;
    return best;
}

/* The first free block from the hint on, UINT32_MAX if there is none. Group locked. */
static uint32_t search_block(const struct slot_group *group, struct view view, uint32_t block)
{
    const uint64_t places = block == 64 ? 1 : ~0ull / ((1ull << block) - 1); /* where blocks begin */
    const uint32_t words = group_word_count(group);

    for (uint32_t i = 0; i < words; i++) {
        const uint32_t word = group->hint + i < words ? group->hint + i : group->hint + i - words;
        const uint64_t bits = view_word(view, word);
        const uint64_t free_blocks = block == 64 ? bits == 0 : run_starts(~bits, block) & places;
        if (free_blocks != 0)
            return word * 64 + (uint32_t)__builtin_ctzll(free_blocks);
    }
    return UINT32_MAX;
}

/* Length of the free run around a free slot, seen at least SLOT_RUN_MAX slots far to both sides. Group locked. */
static uint32_t run_around(struct view view, uint32_t words, uint32_t slot)
{
    const uint32_t word = slot / 64, bit = slot % 64;
    const uint64_t here = view_word(view, word);
    const uint64_t below = here & ((1ull << bit) - 1), above = here >> bit;
    const uint64_t previous = word == 0 ? 0 : view_word(view, word - 1);
    const uint64_t next = word + 1 == words ? 0 : view_word(view, word + 1);
    uint32_t left, right; /* free slots before it; from it on */

    if (below != 0)
        left = bit - 64 + (uint32_t)__builtin_clzll(below);
    else if (previous == 0)
        left = bit + (word == 0 ? 0 : 64);
    else
        left = bit + (uint32_t)__builtin_clzll(previous);
    if (above != 0)
        right = (uint32_t)__builtin_ctzll(above);
    else if (next == 0)
        right = 64 - bit + (word + 1 == words ? 0 : 64);
    else
        right = 64 - bit + (uint32_t)__builtin_ctzll(next);
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

/* The slots are free, or reserved. Group locked. */
static void take_run(struct slot_map *map, struct slot_group *group, struct run run)
{
    uint64_t *const taken = group_words(map, map->taken, group);
    uint64_t *const reserved = group_words(map, map->reserved, group);
    uint32_t dropped = 0;

    for (uint32_t slot = run.first; slot < run.first + run.length; slot++) {
        ASSERT_DEBUG((taken[slot / 64] & bit_of(slot)) == 0);
        taken[slot / 64] |= bit_of(slot);
        dropped += (reserved[slot / 64] & bit_of(slot)) != 0;
        reserved[slot / 64] &= ~bit_of(slot);
    }
    sync_store_relaxed_32(&group->used, group->used + run.length);
    if (dropped != 0)
        sync_store_relaxed_32(&group->reserved, group->reserved - dropped);
}

/* The next search begins behind the run. Group locked. */
static void hint_behind(struct slot_group *group, struct run run)
{
    const uint32_t next = (run.first + run.length) / 64;

    group->hint = next < group_word_count(group) ? next : 0;
}

static void group_hint_set(struct slot_map *map, uint32_t index)
{
    if (sync_load_relaxed_32(&map->group_hint) != index)
        sync_store_relaxed_32(&map->group_hint, index);
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
    slot_map_count(map, &used, NULL, NULL);
    (void)sync_cas_64(&map->used_bound, bound, used);
    while (used > peak && !sync_cas_value_64(&map->peak, peak, used, &peak))
        sync_pause();
}

static unsigned allocate_keeping(struct slot_map *map, unsigned wanted, uint32_t *first)
{
    for (;;) {
        uint32_t length;
        struct slot_group *const group = choose_group(map, wanted, &length);
        if (group == NULL)
            return 0;
        const uint32_t index = (uint32_t)(group - map->groups);

        sync_lock(&group->lock);
        const struct run run = search_group(group, group_view(map, group, SLOT_KEEP), wanted);
        if (run.length < wanted)
            sync_store_relaxed_32(&group->longest, run.length);
        const bool found = run.length >= length && run.length != 0;
        if (found) {
            take_run(map, group, run);
            hint_behind(group, run);
        }
        sync_unlock(&group->lock);
        if (!found)
            continue; /* the bound was too high; it is exact now, and another group may do better */

        group_hint_set(map, index);
        note_peak(map, run.length);
        *first = index * SLOT_GROUP_SLOTS + run.first;
        return run.length;
    }
}

/* From the first group that has a slot: there is none that is free and not reserved, or hardly any. */
static unsigned allocate_dropping(struct slot_map *map, unsigned wanted, uint32_t *first)
{
    const uint32_t start = sync_load_relaxed_32(&map->group_hint);

    for (uint32_t i = 0; i < map->group_count; i++) {
        const uint32_t index = (start + i) % map->group_count;
        struct slot_group *const group = &map->groups[index];

        if (sync_load_relaxed_32(&group->reserved) == 0 && sync_load_relaxed_32(&group->longest) == 0)
            continue;
        sync_lock(&group->lock);
        const struct run run = search_group(group, group_view(map, group, SLOT_DROP), wanted);
        if (run.length != 0) {
            take_run(map, group, run);
            hint_behind(group, run);
        }
        sync_unlock(&group->lock);
        if (run.length != 0) {
            group_hint_set(map, index);
            note_peak(map, run.length);
            *first = index * SLOT_GROUP_SLOTS + run.first;
            return run.length;
        }
    }
    return 0;
}

unsigned slot_map_allocate(struct slot_map *map, unsigned wanted, enum slot_need need, uint32_t *first)
{
    ASSERT_ALWAYS(wanted >= 1 && wanted <= SLOT_RUN_MAX);
    return need == SLOT_KEEP ? allocate_keeping(map, wanted, first) : allocate_dropping(map, wanted, first);
}

/* The bits of a block's first `count` slots, shifted to the place in its word where the block begins. */
static uint64_t block_bits(uint32_t slot, uint32_t block, uint32_t count)
{
    return (count == 64 ? ~0ull : (1ull << count) - 1) << (slot % 64 & ~(block - 1));
}

bool slot_map_allocate_block(struct slot_map *map, unsigned window, unsigned position, unsigned count, uint32_t *first)
{
    const uint32_t start = sync_load_relaxed_32(&map->group_hint);

    ASSERT_ALWAYS(window <= map->block && count >= 1 && position + count <= window);
    for (uint32_t i = 0; i < map->group_count; i++) {
        const uint32_t index = (start + i) % map->group_count;
        struct slot_group *const group = &map->groups[index];

        if (sync_load_relaxed_32(&group->no_block) != 0)
            continue;
        sync_lock(&group->lock);
        const uint32_t block = search_block(group, group_view(map, group, SLOT_KEEP), map->block);
        if (block == UINT32_MAX) {
            sync_store_relaxed_32(&group->no_block, 1);
            sync_unlock(&group->lock);
            continue;
        }
        take_run(map, group, (struct run){ block + position, count });
        group_words(map, map->reserved, group)[block / 64] |=
            block_bits(block, map->block, window) & ~(block_bits(block, map->block, count) << position);
        sync_store_relaxed_32(&group->reserved, group->reserved + window - count);
        group->hint = block / 64;
        sync_unlock(&group->lock);
        group_hint_set(map, index);
        note_peak(map, count);
        *first = index * SLOT_GROUP_SLOTS + block + position;
        return true;
    }
    return false;
}

unsigned slot_map_take_exact(struct slot_map *map, uint32_t slot, unsigned wanted, enum slot_need need)
{
    struct run run = { slot % SLOT_GROUP_SLOTS, 0 };

    if (slot == 0 || slot >= slot_map_limit(map))
        return 0;
    struct slot_group *const group = &map->groups[slot / SLOT_GROUP_SLOTS];
    const struct view view = group_view(map, group, need);
    sync_lock(&group->lock);
    for (uint32_t at = run.first; run.length < wanted && at < group->slots; at++, run.length++)
        if ((view_word(view, at / 64) & bit_of(at)) != 0)
            break;
    if (run.length != 0)
        take_run(map, group, run);
    sync_unlock(&group->lock);
    if (run.length != 0)
        note_peak(map, run.length);
    return run.length;
}

/* ---- release ---------------------------------------------------------------------------------------------------- */

/* Locks the group of an allocated slot. */
static struct slot_group *lock_group_of(struct slot_map *map, uint32_t slot)
{
    ASSERT_ALWAYS(slot != 0 && slot < slot_map_limit(map));
    struct slot_group *const group = &map->groups[slot / SLOT_GROUP_SLOTS];
    sync_lock(&group->lock);
    return group;
}

static bool allocated_locked(const struct slot_map *map, const struct slot_group *group, uint32_t slot)
{
    return slot % SLOT_GROUP_SLOTS < group->slots && (map->taken[slot / 64] & bit_of(slot)) != 0 &&
           (map->bad[slot / 64] & bit_of(slot)) == 0;
}

/*
 * A slot is no longer allocated: was it the last one of its block, nobody needs what is reserved there. Group locked.
 */
static void reservations_lapse(struct slot_map *map, struct slot_group *group, uint32_t slot)
{
    const uint32_t word = slot / 64;
    const uint64_t block = block_bits(slot, map->block, map->block) & existing(group, slot % SLOT_GROUP_SLOTS / 64);

    if ((map->taken[word] & ~map->bad[word] & block) != 0)
        return;
    if ((map->reserved[word] & block) != 0) {
        const uint32_t lapsed = (uint32_t)__builtin_popcountll(map->reserved[word] & block);
        map->reserved[word] &= ~block;
        sync_store_relaxed_32(&group->reserved, group->reserved - lapsed);
        if ((map->taken[word] & block) != 0) /* bad slots part what is free now into several runs */
            sync_store_relaxed_32(&group->longest, SLOT_RUN_MAX);
    }
    if ((map->taken[word] & block) == 0 && group->no_block != 0)
        sync_store_relaxed_32(&group->no_block, 0);
}

/* There is a free run around a slot. Group locked. */
static void longest_raise(struct slot_map *map, struct slot_group *group, uint32_t slot)
{
    uint32_t run = run_around(group_view(map, group, SLOT_KEEP), group_word_count(group), slot % SLOT_GROUP_SLOTS);

    if (run > SLOT_RUN_MAX)
        run = SLOT_RUN_MAX;
    if (run > group->longest)
        sync_store_relaxed_32(&group->longest, run);
}

void slot_map_release(struct slot_map *map, uint32_t slot)
{
    struct slot_group *const group = lock_group_of(map, slot);

    ASSERT_ALWAYS(allocated_locked(map, group, slot));
    map->taken[slot / 64] &= ~bit_of(slot);
    sync_store_relaxed_32(&group->used, group->used - 1);
    reservations_lapse(map, group, slot);
    longest_raise(map, group, slot);
    sync_unlock(&group->lock);
}

void slot_map_mark_bad(struct slot_map *map, uint32_t slot)
{
    struct slot_group *const group = lock_group_of(map, slot);

    ASSERT_ALWAYS(allocated_locked(map, group, slot));
    map->bad[slot / 64] |= bit_of(slot);
    sync_store_relaxed_32(&group->used, group->used - 1);
    sync_store_relaxed_32(&group->bad, group->bad + 1);
    reservations_lapse(map, group, slot);
    sync_unlock(&group->lock);
}

/* ---- growing and shrinking -------------------------------------------------------------------------------------- */

void slot_map_grow(struct slot_map *map, uint64_t limit)
{
    const uint64_t old = map->limit;

    ASSERT_ALWAYS(limit >= old && limit <= (uint64_t)map->group_count * SLOT_GROUP_SLOTS);
    /* First: a slot that a group hands out is below the limit. */
    sync_store_64(&map->limit, limit);
    for (uint64_t i = old / SLOT_GROUP_SLOTS; i * SLOT_GROUP_SLOTS < limit; i++) {
        struct slot_group *const group = &map->groups[i];
        sync_lock(&group->lock);
        group_resize(map, group, group_slots(i, limit));
        sync_store_relaxed_32(&group->longest, group->slots < SLOT_RUN_MAX ? group->slots : SLOT_RUN_MAX);
        sync_store_relaxed_32(&group->no_block, 0);
        sync_unlock(&group->lock);
    }
}

/* One past the last allocated slot of a group at or after `low`; `low` if there is none. Group locked. */
static uint32_t group_end(const struct slot_map *map, const struct slot_group *group, uint32_t low)
{
    const uint64_t *const taken = group_words(map, map->taken, group);
    const uint64_t *const bad = group_words(map, map->bad, group);

    for (uint32_t word = group_word_count(group); word-- > low / 64;) {
        uint64_t allocated = taken[word] & ~bad[word] & existing(group, word);
        if (word == low / 64)
            allocated &= ~0ull << (low % 64);
        if (allocated != 0)
            return word * 64 + 64 - (uint32_t)__builtin_clzll(allocated);
    }
    return low;
}

/* Bits set from `from` on, of slots that exist; they are cleared if `clear`. Group locked. */
static uint32_t bits_from(const struct slot_group *group, uint64_t *words, uint32_t from, bool clear)
{
    uint32_t count = 0;

    for (uint32_t word = from / 64; word < group_word_count(group); word++) {
        const uint64_t mask = existing(group, word) & (word == from / 64 ? ~0ull << (from % 64) : ~0ull);
        count += (uint32_t)__builtin_popcountll(words[word] & mask);
        if (clear)
            words[word] &= ~mask;
    }
    return count;
}

/* Walks the groups from the end; with `cut` takes the slots off. */
static uint64_t tail_walk(struct slot_map *map, uint64_t limit, bool cut, uint64_t *bad)
{
    uint64_t end = map->limit;

    ASSERT_ALWAYS(limit >= 2);
    *bad = 0;
    while (end > limit) {
        const uint64_t index = (end - 1) / SLOT_GROUP_SLOTS;
        struct slot_group *const group = &map->groups[index];
        const uint64_t base = index * SLOT_GROUP_SLOTS;
        const uint32_t low = limit > base ? (uint32_t)(limit - base) : 0;

        sync_lock(&group->lock);
        const uint32_t at = group_end(map, group, low);
        const uint32_t bad_here = bits_from(group, group_words(map, map->bad, group), at, cut);
        *bad += bad_here;
        if (cut) {
            const uint32_t reserved = bits_from(group, group_words(map, map->reserved, group), at, true);
            (void)bits_from(group, group_words(map, map->taken, group), at, true);
            sync_store_relaxed_32(&group->bad, group->bad - bad_here);
            sync_store_relaxed_32(&group->reserved, group->reserved - reserved);
            group_resize(map, group, at);
            if (group->longest > at)
                sync_store_relaxed_32(&group->longest, at);
        }
        sync_unlock(&group->lock);
        end = base + at;
        if (at > low)
            break;
    }
    return end;
}

uint64_t slot_map_tail(struct slot_map *map, uint64_t limit, uint64_t *bad)
{
    return map->limit - tail_walk(map, limit, false, bad);
}

uint64_t slot_map_shrink(struct slot_map *map, uint64_t limit, uint64_t *bad)
{
    const uint64_t old = map->limit, end = tail_walk(map, limit, true, bad);

    sync_store_64(&map->limit, end);
    return old - end;
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

uint64_t slot_map_limit(const struct slot_map *map)
{
    return sync_load_64(&map->limit);
}

bool slot_map_allocated(struct slot_map *map, uint32_t slot)
{
    if (slot == 0 || slot >= slot_map_limit(map))
        return false;
    struct slot_group *const group = lock_group_of(map, slot);
    const bool allocated = allocated_locked(map, group, slot);
    sync_unlock(&group->lock);
    return allocated;
}

void slot_map_count(struct slot_map *map, uint64_t *used, uint64_t *bad, uint64_t *reserved)
{
    uint64_t used_sum = 0, bad_sum = 0, reserved_sum = 0;

    for (unsigned i = 0; i < map->group_count; i++) {
        used_sum += sync_load_relaxed_32(&map->groups[i].used);
        bad_sum += sync_load_relaxed_32(&map->groups[i].bad);
        reserved_sum += sync_load_relaxed_32(&map->groups[i].reserved);
    }
    if (used != NULL)
        *used = used_sum;
    if (bad != NULL)
        *bad = bad_sum;
    if (reserved != NULL)
        *reserved = reserved_sum;
}

uint64_t slot_map_peak(const struct slot_map *map)
{
    return sync_load_relaxed_64(&map->peak);
}

static bool group_check(struct slot_map *map, struct slot_group *group)
{
    const uint32_t index = (uint32_t)(group - map->groups);
    uint64_t *const taken = group_words(map, map->taken, group);
    uint64_t *const bad = group_words(map, map->bad, group);
    uint64_t *const reserved = group_words(map, map->reserved, group);
    bool right = group->slots == group_slots(index, map->limit) &&
                 bits_from(group, taken, 0, false) == group->used + group->bad + (index == 0) &&
                 bits_from(group, bad, 0, false) == group->bad &&
                 bits_from(group, reserved, 0, false) == group->reserved;

    for (uint32_t word = 0; word < group_word_count(group); word++)
        right = right && (taken[word] & reserved[word]) == 0 && (bad[word] & ~taken[word]) == 0;
    const struct run run = search_group(group, group_view(map, group, SLOT_KEEP), SLOT_RUN_MAX);
    return right && run.length <= group->longest;
}

bool slot_map_check(struct slot_map *map)
{
    bool right = true;

    for (unsigned i = 0; i < map->group_count && right; i++) {
        sync_lock(&map->groups[i].lock);
        right = group_check(map, &map->groups[i]);
        sync_unlock(&map->groups[i].lock);
    }
    return right;
}

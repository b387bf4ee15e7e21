/*
 * Choosing a frame: CPU caches, lists, other nodes, standby; giving back; zeroing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/frames_impl.h"

#include <immintrin.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

/* Refills between two looks at the thresholds, per CPU: a look sums all shards, so it is not done per fault. */
enum { REFILLS_PER_CHECK = 8, SEARCHES_PER_CHECK = 64 };

/* Standby frames that a CPU takes off one shard before it looks again which is oldest. */
enum { STANDBY_FROM_ONE = 8 };

/* ---- zeroing ---------------------------------------------------------------------------------------------------- */

void frame_zero(void *page)
{
    memset(page, 0, TIDE_PAGE_BYTES);
}

__attribute__((target("avx512f"))) static void zero_streaming_avx512(char *page)
{
    for (unsigned i = 0; i < TIDE_PAGE_BYTES; i += 64)
        _mm512_stream_si512((__m512i *)(void *)(page + i), _mm512_setzero_si512());
}

static void zero_streaming_sse2(char *page)
{
    for (unsigned i = 0; i < TIDE_PAGE_BYTES; i += 16)
        _mm_stream_si128((__m128i *)(void *)(page + i), _mm_setzero_si128());
}

void frame_zero_streaming(void *page)
{
    if (__builtin_cpu_supports("avx512f"))
        zero_streaming_avx512(page);
    else
        zero_streaming_sse2(page);
    _mm_sfence();
}

/* ---- taking from lists ------------------------------------------------------------------------------------------ */

/* Pops up to `wanted` frames off a locked shard: free ones only if their grace period has passed. */
static unsigned shard_pop(struct frames *frames, struct frame_shard *shard, enum frame_list list, unsigned wanted,
                          uint32_t *taken)
{
    unsigned count = 0;

    while (count < wanted && shard->head != FRAME_NIL) {
        const frame_t frame = { shard->head };
        const uint64_t word = sync_load_relaxed_64(&frame_pfn(frames, frame)->word);

        if (list == FRAME_LIST_FREE && !grace_passed(&frames->grace, pfn_grace(word)))
            break;
        shard_remove(frames, shard, frame);
        taken[count++] = frame.number;
    }
    return count;
}

/*
 * Pops up to `wanted` frames off one list of a node, trying the shards from `start` on. The frames keep their state and
 * are the caller's. First round by try-lock: the holder may be off its CPU; only if no other shard answers is it waited
 * for.
 */
static unsigned list_take(struct frames *frames, unsigned node, enum frame_list list, unsigned start, unsigned wanted,
                          uint32_t *taken)
{
    unsigned count = 0;

    for (int round = 0; round < 2 && count == 0; round++) {
        uint64_t left = shards_some(frames, node, list, start);
        struct frame_shard *shard;

        while (count < wanted && (shard = shards_next(frames, node, list, start, &left)) != NULL) {
            if (round == 1)
                sync_lock(&shard->lock);
            else if (!sync_trylock(&shard->lock))
                continue;
            count += shard_pop(frames, shard, list, wanted - count, taken + count);
            if (shard->head == FRAME_NIL)
                shard_unmark(frames, shard, node);
            sync_unlock(&shard->lock);
        }
    }
    return count;
}

/* A frame on standby is taken, if it is that of this PTE still and its owner lets it go. Holding no lock. */
static bool near_take(struct frames *frames, unsigned node, unsigned highest, frame_t frame, const uint64_t *pte,
                      struct frames_cpu *cpu)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t seen = sync_load_64(&pfn->word);
    bool taken = false;

    if (pfn_state(seen) != FRAME_STANDBY || pfn_priority(seen) > highest || !frame_is_on_node(frames, frame, node))
        return false;
    struct frame_shard *shard = frames_shard(frames, node, frame_list_of(seen), frame);
    sync_lock(&shard->lock);
    if (frame_is_listed(frames, frame, seen) && pfn_pte(pfn) == pte && frames->detach(pfn, frame)) {
        shard_remove(frames, shard, frame);
        standby_detached(frames, pfn, sync_load_relaxed_64(&pfn->word));
        taken = true;
    }
    sync_unlock(&shard->lock);
    if (taken)
        (void)sync_add_64(&cpu->repurposed[pfn_priority(seen)], 1);
    return taken;
}

/*
 * The page of a hollow frame that was just taken from standby is let go; and with it those near it that are on standby
 * at no higher priority: what was trimmed together lies together, and a call that lets memory go costs little more for
 * many pages than for one. All but the frame itself go to where unused frames are. Holding no lock.
 */
static void hollow_vacate(struct frames *frames, unsigned node, unsigned highest, frame_t frame, struct frames_cpu *cpu)
{
    uint64_t *const pte = frame_pfn(frames, frame)->pte, *ptes[FRAMES_NEAR];
    frame_t near[FRAMES_NEAR];
    unsigned count = 0;
    const unsigned found = frames->near(pte, ptes, near);

    for (unsigned i = 0; i < found; i++) {
        if (ptes[i] == pte)
            near[count++] = frame;
        else if (near_take(frames, node, highest, near[i], ptes[i], cpu))
            near[count++] = near[i];
    }
    frames->vacate(frames, near, count);
    for (unsigned i = 0; i < count; i++) {
        struct pfn *pfn = frame_pfn(frames, near[i]);
        const uint64_t word = sync_load_relaxed_64(&pfn->word);

        frames_reset_lost_count(frames, pfn->original);
        pfn_pte_set(pfn, NULL);
        sync_store_relaxed_64(&pfn->original, 0);
        frame_state_set(pfn, pfn_with_state(word, FRAME_ZEROED));
        if (near[i].number != frame.number)
            frames_give_back(frames, near[i], true);
    }
}

/*
 * Takes the oldest standby frame of one priority whose owner lets it go, as a FREE frame of the caller's alone, or a
 * ZEROED one if it is hollow.
 */
static frame_t standby_take(struct frames *frames, unsigned node, unsigned priority, unsigned start,
                            struct frames_cpu *cpu)
{
    const enum frame_list list = FRAME_LIST_STANDBY + priority;

    uint64_t left = shards_some(frames, node, list, start);
    struct frame_shard *shard;

    while ((shard = shards_next(frames, node, list, start, &left)) != NULL) {
        frame_t frame = FRAME_NONE;
        bool hollow = false;

        sync_lock(&shard->lock);
        for (uint32_t number = shard->head; number != FRAME_NIL; number = frames->pfns[number].next) {
            struct pfn *pfn = &frames->pfns[number];
            const uint64_t word = sync_load_relaxed_64(&pfn->word);

            if (!frame_grace_passed(frames, word))
                break; /* the rest is younger */
            if (!frames->detach(pfn, (frame_t){ number }))
                continue; /* a fault has claimed the page and waits for this lock */
            frame = (frame_t){ number };
            shard_remove(frames, shard, frame);
            hollow = pfn_is_hollow(word);
            standby_detached(frames, pfn, word);
            break;
        }
        if (shard->head == FRAME_NIL)
            shard_unmark(frames, shard, node);
        sync_unlock(&shard->lock);
        if (hollow)
            hollow_vacate(frames, node, priority, frame, cpu);
        if (!frame_is_none(frame))
            return frame;
    }
    return FRAME_NONE;
}

static frame_t standby_take_lowest(struct frames *frames, unsigned node, unsigned highest, struct frames_cpu *cpu)
{
    for (unsigned priority = 0; priority <= highest; priority++) {
        const bool look = sync_load_relaxed_64(&cpu->repurposed[priority]) % STANDBY_FROM_ONE == 0;
        struct frames_turn *const turn = &cpu->standby_turns[priority];
        const unsigned start = look ? shards_oldest(frames, node, FRAME_LIST_STANDBY + priority, turn)
                                    : sync_load_relaxed_32(&turn->shard);
        const frame_t frame = standby_take(frames, node, priority, start, cpu);

        if (!frame_is_none(frame)) {
            (void)sync_add_64(&cpu->repurposed[priority], 1);
            return frame;
        }
    }
    return FRAME_NONE;
}

/* ---- CPU caches ------------------------------------------------------------------------------------------------- */

/*
 * How many of `wanted` frames may leave the node's lists without touching the writers' reserve. The lists are added up,
 * this one first and its shards from the nearest on, only until they answer: of a node that has run dry that is all,
 * and few of their lines change. What is in caches is on its way to somebody else.
 */
static unsigned reserve_allows(const struct frames *frames, unsigned node, enum frame_list list, unsigned start,
                               unsigned wanted)
{
    const struct frames_node *from = &frames->nodes[node];
    const enum frame_list other = list == FRAME_LIST_FREE ? FRAME_LIST_ZEROED : FRAME_LIST_FREE;
    uint64_t listed = 0;

    if (from->reserve == 0)
        return wanted;
    for (unsigned l = 0; l < 2 + 8; l++) {
        const enum frame_list next = l == 0 ? list : l == 1 ? other : FRAME_LIST_STANDBY + (enum frame_list)(l - 2);

        uint64_t left = shards_some(frames, node, next, start);
        const struct frame_shard *shard;

        while ((shard = shards_next(frames, node, next, start, &left)) != NULL) {
            listed += sync_load_relaxed_64(&shard->count);
            if (listed >= wanted + from->reserve)
                return wanted;
        }
    }
    return listed > from->reserve ? (unsigned)(listed - from->reserve) : 0;
}

static frame_t cache_pop(const struct frames *frames, uint32_t *stack, uint32_t *count)
{
    const uint32_t left = *count - 1;
    const frame_t frame = { stack[left] };

    sync_store_relaxed_32(count, left);
    if (left != 0)
        __builtin_prefetch(&frames->pfns[stack[left - 1]], 1);
    return frame;
}

/* A list batch arrives in ascending order; the stack is popped from the end, so it is stored in reverse. */
static bool cache_refill(struct frames *frames, unsigned node, enum frame_list list, unsigned start, uint32_t *stack,
                         uint32_t *count)
{
    uint32_t taken[FRAMES_CACHE_MAX / 2];
    const unsigned wanted = reserve_allows(frames, node, list, start, frames->cache_batch);
    const unsigned got = wanted == 0 ? 0 : list_take(frames, node, list, start, wanted, taken);

    for (unsigned i = 0; i < got; i++)
        stack[i] = taken[got - 1 - i];
    sync_store_relaxed_32(count, got);
    return got != 0;
}

static frame_t cache_take(struct frames *frames, struct frames_cache *cache, unsigned start, unsigned node,
                          bool zeroed_first)
{
    for (int pass = 0; pass < 2; pass++) {
        const bool zeroed = zeroed_first == (pass == 0);
        uint32_t *stack = zeroed ? cache->zeroed : cache->free;
        uint32_t *count = zeroed ? &cache->zeroed_count : &cache->free_count;

        if (*count == 0) {
            cache->refills++;
            if (!cache_refill(frames, node, zeroed ? FRAME_LIST_ZEROED : FRAME_LIST_FREE, start, stack, count))
                continue;
        }
        return cache_pop(frames, stack, count);
    }
    return FRAME_NONE;
}

/* A cache of the CPU that nobody is in, with its flag held; NULL if there is none. */
static struct frames_cache *cache_enter(struct frames_cpu *cpu)
{
    for (unsigned i = 0; i < FRAMES_CACHES_PER_CPU; i++)
        if (sync_flag_try(&cpu->caches[i].flag))
            return &cpu->caches[i];
    return NULL;
}

static void cache_drain(struct frames *frames, struct frames_cache *cache)
{
    for (int zeroed = 0; zeroed < 2; zeroed++) {
        uint32_t *count = zeroed ? &cache->zeroed_count : &cache->free_count;
        const uint32_t *stack = zeroed ? cache->zeroed : cache->free;

        while (*count != 0) {
            const frame_t frame = { stack[*count - 1] };
            struct frame_shard *shard =
                frames_shard(frames, frame_node(frames, frame), zeroed ? FRAME_LIST_ZEROED : FRAME_LIST_FREE, frame);
            sync_lock(&shard->lock);
            shard_push_head(frames, shard, frame);
            sync_unlock(&shard->lock);
            sync_store_relaxed_32(count, *count - 1);
        }
    }
}

/* A cache that somebody is in is passed by after a while: its owner may be off its CPU. */
static void cpu_caches_drain(struct frames *frames, struct frames_cpu *cpu)
{
    enum { DRAIN_TRIES = 64 };

    for (unsigned c = 0; c < FRAMES_CACHES_PER_CPU; c++) {
        struct frames_cache *cache = &cpu->caches[c];

        for (unsigned i = 0; i < DRAIN_TRIES; i++) {
            if ((sync_load_relaxed_32(&cache->zeroed_count) | sync_load_relaxed_32(&cache->free_count)) == 0)
                break;
            if (!sync_flag_try(&cache->flag)) {
                sched_yield();
                continue;
            }
            cache_drain(frames, cache);
            sync_flag_clear(&cache->flag);
            break;
        }
    }
}

void frames_drain_caches(struct frames *frames)
{
    for (unsigned c = 0; c < frames->cpu_count && frames->cache_batch != 0; c++)
        cpu_caches_drain(frames, &frames->cpus[c]);
}

void frames_drain_node_caches(struct frames *frames, unsigned node)
{
    for (unsigned c = 0; c < frames->cpu_count && frames->cache_batch != 0; c++)
        if (frames->topology->cpu_node[c] == node)
            cpu_caches_drain(frames, &frames->cpus[c]);
}

/* ---- the choice ------------------------------------------------------------------------------------------------- */

static frame_t lists_take_one(struct frames *frames, unsigned node, bool zeroed_first, unsigned flags, unsigned start)
{
    uint32_t taken;

    for (int pass = 0; pass < 2; pass++) {
        const enum frame_list list = zeroed_first == (pass == 0) ? FRAME_LIST_ZEROED : FRAME_LIST_FREE;
        if (frames_list_count(frames, node, list) == 0)
            continue; /* before the reserve, which adds up all lists of a node that has run dry */
        if (!(flags & FRAMES_RESERVE) && reserve_allows(frames, node, list, start, 1) == 0)
            return FRAME_NONE;
        if (list_take(frames, node, list, start, 1, &taken) != 0)
            return (frame_t){ taken };
    }
    return FRAME_NONE;
}

/* Are there free frames on these nodes that only wait for their grace period? */
static bool free_is_young(const struct frames *frames, const unsigned *order, unsigned nodes)
{
    for (unsigned i = 0; i < nodes; i++)
        if (frames_list_count(frames, order[i], FRAME_LIST_FREE) != 0)
            return true;
    return false;
}

/*
 * The whole search, for when the CPU's cache and the local lists did not answer. By node in order of distance: zeroed
 * and free of every node, then standby of every node; or node by node if local standby goes first. Before
 * standby pages are taken, the grace period is moved on for free frames that wait for it.
 */
static frame_t search(struct frames *frames, unsigned node, bool zeroed_first, unsigned flags, struct frames_cpu *cpu,
                      unsigned start)
{
    const unsigned *order = frames->topology->nodes[node].order;
    const unsigned nodes = frames_nodes_allowed(frames, flags);
    const bool local_standby = frames_local_standby_first(frames, flags);
    bool advanced = local_standby || (flags & FRAMES_AT_HAND) != 0;

    for (int pass = 0; pass < (local_standby ? 1 : 2); pass++) {
        for (unsigned i = 0; i < nodes; i++) {
            const unsigned n = order[i];
            frame_t frame = FRAME_NONE;

            if (frames->nodes[n].count == 0)
                continue;
            if (pass == 0)
                frame = lists_take_one(frames, n, zeroed_first, flags, start);
            const bool standby = (pass == 1 || local_standby) && !(flags & FRAMES_UNUSED);
            if (frame_is_none(frame) && standby &&
                ((flags & FRAMES_RESERVE) || reserve_allows(frames, n, FRAME_LIST_FREE, start, 1) != 0))
                frame = standby_take_lowest(frames, n, 7, cpu);
            if (!frame_is_none(frame))
                return frame;
        }
        if (pass == 0 && !advanced && free_is_young(frames, order, nodes) && grace_advance(&frames->grace)) {
            advanced = true;
            pass = -1; /* the lists once more */
        }
    }
    return FRAME_NONE;
}

/* What memory the frame has goes back to the system. */
static void hollow_out(struct frames *frames, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t word = sync_load_relaxed_64(&pfn->word);

    os_memory_release(frame_memory(frames, frame), TIDE_PAGE_BYTES);
    frame_state_set(pfn, pfn_with_state(word, FRAME_ZEROED) | PFN_HOLLOW);
}

/*
 * A frame that must be zero and is not is zeroed here, outside of all locks; one that must be hollow loses its memory,
 * and from one that must not the mark is taken: its memory comes with the first touch. False if its memory is bad.
 */
static bool settle(struct frames *frames, frame_t frame, enum frames_need need, struct frames_cpu *cpu)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t word = sync_load_relaxed_64(&pfn->word);

    if (__builtin_expect(pfn_is_hollow(word) != (need == FRAMES_HOLLOW), 0)) {
        if (need == FRAMES_HOLLOW)
            hollow_out(frames, frame);
        else
            frame_state_set(pfn, word & ~PFN_HOLLOW);
    } else if (need == FRAMES_ZERO && pfn_state(word) != FRAME_ZEROED) {
        if (!frame_zero_by(frames, frame, frame_zero))
            return false;
        (void)sync_add_64(&cpu->inline_zeroed, 1);
    }
    return !frames_bad_is_noted(frames, frame);
}

/*
 * After a search: are the thresholds due? At once when there was no frame; else, as with caches, once for so many
 * frames: who takes all its frames for another node than its CPU's own (preference, interleave), or lives on what other
 * nodes give because its own has run dry, takes them here.
 */
static bool search_needs_check(frame_t frame, struct frames_cpu *cpu)
{
    if (frame_is_none(frame))
        return true;
    const uint32_t searches = sync_load_relaxed_32(&cpu->searches) + 1;
    sync_store_relaxed_32(&cpu->searches, searches);
    return searches % SEARCHES_PER_CHECK == 0;
}

/* Of the node that was asked, and of the one that gave the frame: its workers know of no other's shortage. */
static void thresholds_check(struct frames *frames, frame_t frame, unsigned node)
{
    frames_check_thresholds(frames, node);
    if (!frame_is_none(frame) && !frame_is_on_node(frames, frame, node))
        frames_check_thresholds(frames, frame_node(frames, frame));
}

frame_t frames_allocate(struct frames *frames, unsigned node, enum frames_need need, unsigned flags)
{
    const unsigned running = os_cpu_current();
    const unsigned index = running < frames->cpu_count ? running : 0;
    struct frames_cpu *cpu = &frames->cpus[index];
    const bool zeroed_first = need != FRAMES_ANY;
    const unsigned start = index * (frames->shard_mask + 1) / frames->cpu_count;
    bool check = frames->cache_batch == 0;
    frame_t frame = FRAME_NONE;

    if (frames->cache_batch != 0 && frames->topology->cpu_node[index] == node) {
        struct frames_cache *cache = cache_enter(cpu);

        if (cache != NULL) {
            const uint32_t refills = cache->refills;

            frame = cache_take(frames, cache, start, node, zeroed_first);
            check = cache->refills != refills && cache->refills % REFILLS_PER_CHECK == 0;
            sync_flag_clear(&cache->flag);
        } else {
            frame = lists_take_one(frames, node, zeroed_first, flags, start);
        }
    }
    if (frame_is_none(frame)) {
        frame = search(frames, node, zeroed_first, flags, cpu, start);
        if (frame_is_none(frame) && !(flags & FRAMES_AT_HAND)) {
            /* What is left may wait for its grace period, or lie in other CPUs' caches. */
            (void)grace_advance(&frames->grace);
            if (flags & FRAMES_STRICT)
                frames_drain_node_caches(frames, node);
            else
                frames_drain_caches(frames);
            frame = search(frames, node, zeroed_first, flags, cpu, start);
        }
        check = check || search_needs_check(frame, cpu);
    }
    if (check)
        thresholds_check(frames, frame, node);
    if (frame_is_none(frame) || __builtin_expect(settle(frames, frame, need, cpu), 1))
        return frame;
    frames_bad_list(frames, frame);
    return frames_allocate(frames, node, need, flags);
}

void frames_give_back(struct frames *frames, frame_t frame, bool zeroed)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t hollow = sync_load_relaxed_64(&pfn->word) & PFN_HOLLOW;
    const unsigned running = os_cpu_current();
    const unsigned index = running < frames->cpu_count ? running : 0;
    struct frames_cpu *cpu = &frames->cpus[index];
    const unsigned node = frame_node(frames, frame);
    zeroed = zeroed || hollow != 0;
    const enum frame_list list = zeroed ? FRAME_LIST_ZEROED : FRAME_LIST_FREE;

    pfn_pte_set(pfn, NULL);
    sync_store_relaxed_64(&pfn->original, 0);
    /*
     * A frame that was free when it was taken and has been zeroed inline stays zeroed; it was never seen, so no stamp
     * is needed.
     */
    const uint64_t word = sync_load_relaxed_64(&pfn->word);
    if (pfn_state(word) == FRAME_TRANSITION)
        (void)sync_add_64(&frames->nodes[node].in_transition, (uint64_t)-1);
    frame_state_set(pfn, pfn_with_grace((zeroed ? FRAME_ZEROED : FRAME_FREE) | hollow, grace_long_ago(&frames->grace)));
    if (frames_bad_is_noted(frames, frame)) {
        frames_bad_list(frames, frame);
        return;
    }
    struct frames_cache *cache =
        frames->cache_batch != 0 && frames->topology->cpu_node[index] == node ? cache_enter(cpu) : NULL;
    if (cache != NULL) {
        uint32_t *count = zeroed ? &cache->zeroed_count : &cache->free_count;
        const bool room = *count < frames->cache_batch;

        if (room) {
            (zeroed ? cache->zeroed : cache->free)[*count] = frame.number;
            sync_store_relaxed_32(count, *count + 1);
        }
        sync_flag_clear(&cache->flag);
        if (room)
            goto out;
    }
    struct frame_shard *shard = frames_shard(frames, node, list, frame);
    sync_lock(&shard->lock);
    shard_push_head(frames, shard, frame);
    sync_unlock(&shard->lock);
out:
    if (sync_load_relaxed_32(&frames->waiters) != 0)
        sync_event_signal(&frames->available);
}

/* ---- background work -------------------------------------------------------------------------------------------- */

/*
 * Puts frames that were just zeroed on their list; neighbours share a shard, and its lock is kept as long as they do.
 */
static void zeroed_insert(struct frames *frames, unsigned node, const uint32_t *numbers, uint64_t count)
{
    struct frame_shard *locked = NULL;

    for (uint64_t i = 0; i < count; i++) {
        const frame_t frame = { numbers[i] };
        struct frame_shard *shard = frames_shard(frames, node, FRAME_LIST_ZEROED, frame);
        struct pfn *pfn = frame_pfn(frames, frame);

        if (shard != locked) {
            if (locked != NULL)
                sync_unlock(&locked->lock);
            sync_lock(&shard->lock);
            locked = shard;
        }
        frame_state_set(pfn, pfn_with_state(sync_load_relaxed_64(&pfn->word), FRAME_ZEROED));
        shard_push_tail(frames, shard, frame);
    }
    if (locked != NULL)
        sync_unlock(&locked->lock);
}

static int number_compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

/*
 * Puts frame numbers in ascending order. Frames come to the free list in the order in which programs let them go; on
 * the zeroed list they should lie by address again, since whoever takes a batch follows the links from record to
 * record, and neighbours are in the cache already. By a bitmap over the node if there are many, at a fixed cost that
 * few would not repay.
 */
static void numbers_sort(const struct frames_node *node, uint32_t *numbers, uint64_t count)
{
    const uint64_t words = node->count / 64 + 1;
    uint64_t *bitmap = count > words ? calloc(words, sizeof *bitmap) : NULL;
    uint64_t at = 0;

    if (bitmap == NULL) {
        qsort(numbers, count, sizeof *numbers, number_compare);
        return;
    }
    for (uint64_t i = 0; i < count; i++)
        bitmap[(numbers[i] - node->first) / 64] |= 1ull << ((numbers[i] - node->first) % 64);
    for (uint64_t w = 0; w < words; w++)
        for (uint64_t bits = bitmap[w]; bits != 0; bits &= bits - 1)
            numbers[at++] = node->first + (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(bits);
    free(bitmap);
}

/* Takes free frames in small batches, so that no list is locked for long. */
static uint64_t free_take(struct frames *frames, unsigned node, uint64_t wanted, uint32_t *numbers)
{
    enum { TAKE_BATCH = 64 };
    uint64_t got = 0;
    bool advanced = false;

    while (got < wanted) {
        const unsigned most = wanted - got < TAKE_BATCH ? (unsigned)(wanted - got) : TAKE_BATCH;
        const unsigned taken = list_take(frames, node, FRAME_LIST_FREE, 0, most, &numbers[got]);

        got += taken;
        if (taken == 0) {
            if (advanced)
                break;
            (void)grace_advance(&frames->grace);
        }
        advanced = taken == 0;
    }
    return got;
}

/* Zeroes frames that are the caller's alone. Bad ones go to the bad list; the others move up. Returns their count. */
static uint64_t numbers_zero(struct frames *frames, uint32_t *numbers, uint64_t count)
{
    uint64_t good = 0;

    for (uint64_t i = 0; i < count; i++) {
        const frame_t frame = { numbers[i] };

        if (__builtin_expect(frame_zero_by(frames, frame, frame_zero_streaming), 1))
            numbers[good++] = frame.number;
        else
            frames_bad_list(frames, frame);
    }
    return good;
}

uint64_t frames_zero_free(struct frames *frames, unsigned node, uint64_t budget)
{
    enum { FEW = 64 };
    const uint64_t present = frames_list_count(frames, node, FRAME_LIST_FREE);
    uint64_t room = present < budget ? present : budget;
    uint32_t few[FEW];
    uint32_t *numbers = room > FEW ? malloc(room * sizeof *numbers) : few;
    uint64_t done = 0, got;

    if (numbers == NULL)
        numbers = few;
    if (numbers == few)
        room = FEW;
    while (done < budget) {
        const uint64_t wanted = budget - done < room ? budget - done : room;

        /* They are on their way to the zeroed list, and no shortage: see events.c. */
        (void)sync_add_64(&frames->nodes[node].zeroing, wanted);
        got = free_take(frames, node, wanted, numbers);
        (void)sync_add_64(&frames->nodes[node].zeroing, got - wanted);
        if (got == 0)
            break;
        numbers_sort(&frames->nodes[node], numbers, got);
        const uint64_t good = numbers_zero(frames, numbers, got);
        zeroed_insert(frames, node, numbers, good);
        (void)sync_add_64(&frames->nodes[node].zeroing, (uint64_t)0 - got);
        (void)sync_add_64(&frames->nodes[node].background_zeroed, good);
        if (sync_load_relaxed_32(&frames->waiters) != 0)
            sync_event_signal(&frames->available);
        done += got;
    }
    if (numbers != few)
        free(numbers);
    return done;
}

uint64_t frames_repurpose(struct frames *frames, unsigned node, unsigned highest, uint64_t budget)
{
    struct frames_cpu *cpu = &frames->cpus[0];
    uint64_t done = 0;
    bool advanced = false;

    while (done < budget) {
        const frame_t frame = standby_take_lowest(frames, node, highest, cpu);

        if (frame_is_none(frame)) {
            if (advanced)
                break;
            advanced = true;
            (void)grace_advance(&frames->grace);
            continue;
        }
        advanced = false;
        /* It is FREE, or ZEROED, and nobody's: link it. Its grace period has passed, and stays so. */
        struct frame_shard *shard =
            frames_shard(frames, node, frame_list_of(sync_load_relaxed_64(&frame_pfn(frames, frame)->word)), frame);
        sync_lock(&shard->lock);
        shard_push_tail(frames, shard, frame);
        sync_unlock(&shard->lock);
        done++;
    }
    if (done != 0 && sync_load_relaxed_32(&frames->waiters) != 0)
        sync_event_signal(&frames->available);
    return done;
}

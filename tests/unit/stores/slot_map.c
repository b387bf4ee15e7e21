/*
 * The slot map: every slot once and never the header, runs, exhaustion, reuse, bad slots, reservation, growing and
 * shrinking, against a plain model, and by many threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct slot_map map_good(uint64_t limit, uint64_t maximum)
{
    struct slot_map map;

    assert_int_equal(slot_map_create(&map, limit, maximum, 16), TIDE_SUCCESS);
    return map;
}

static uint64_t used_slots(struct slot_map *map)
{
    uint64_t used;

    slot_map_count(map, &used, NULL, NULL);
    return used;
}

/* Takes everything; returns the number of slots. `owners` (may be NULL) counts how often each was given. */
static uint64_t take_all(struct slot_map *map, uint8_t *owners, unsigned wanted)
{
    uint64_t total = 0;
    uint32_t first;
    unsigned count;

    while ((count = slot_map_allocate(map, wanted, SLOT_KEEP, &first)) != 0) {
        assert_in_range(count, 1, wanted);
        assert_true(first + (uint64_t)count <= map->limit);
        for (uint32_t slot = first; slot < first + count && owners != NULL; slot++)
            owners[slot]++;
        total += count;
    }
    return total;
}

static void test_every_slot_once(void **state)
{
    static const uint64_t limits[] = { 2, 3, 63, 64, 65, 128, 65535, 65536, 65537, 65600, 2 * 65536 + 100 };
    static const unsigned wanted[] = { 1, 7, 64 };

    (void)state;
    for (unsigned i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        for (unsigned j = 0; j < sizeof wanted / sizeof wanted[0]; j++) {
            const uint64_t limit = limits[i];
            uint8_t *owners = calloc(limit, 1);
            struct slot_map map = map_good(limit, limit + 70000);
            assert_int_equal(take_all(&map, owners, wanted[j]), limit - 1);
            assert_int_equal(owners[0], 0);
            for (uint64_t slot = 1; slot < limit; slot++)
                assert_int_equal(owners[slot], 1);
            assert_int_equal(used_slots(&map), limit - 1);
            assert_int_equal(slot_map_peak(&map), limit - 1);
            assert_false(slot_map_allocated(&map, 0));
            assert_true(slot_map_allocated(&map, (uint32_t)(limit - 1)));
            assert_false(slot_map_allocated(&map, (uint32_t)limit));
            slot_map_destroy(&map);
            free(owners);
        }
    }
}

static void test_fresh_runs_are_consecutive(void **state)
{
    struct slot_map map = map_good(1000, 1000);
    uint32_t first, expected = 1;

    (void)state;
    for (unsigned wanted = 1; wanted <= 40; wanted++) {
        assert_int_equal(slot_map_allocate(&map, wanted, SLOT_KEEP, &first), wanted);
        assert_int_equal(first, expected);
        expected += wanted;
    }
    slot_map_destroy(&map);
}

/* Holes of every length at every place in a word, in a map that is full otherwise: the hole is found, whole. */
static void test_holes_are_found_whole(void **state)
{
    struct slot_map map = map_good(400, 400);

    (void)state;
    assert_int_equal(take_all(&map, NULL, 64), 399);
    for (uint32_t length = 1; length <= 64; length += length < 8 ? 1 : 7) {
        for (uint32_t place = 100; place < 170; place++) {
            uint32_t first;
            /* From the middle outwards, so that both neighbours of a released slot count. */
            for (uint32_t i = 0; i < length; i++)
                slot_map_release(&map, place + (i % 2 == 0 ? length / 2 + i / 2 : length / 2 - 1 - i / 2));
            assert_int_equal(used_slots(&map), 399 - length);
            assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), length);
            assert_int_equal(first, place);
            assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), 0);
        }
    }
    slot_map_destroy(&map);
}

static void test_longest_run_wins(void **state)
{
    static const struct {
        uint32_t place, length;
    } holes[] = { { 10, 3 }, { 60, 9 }, { 130, 20 }, { 300, 5 } };
    struct slot_map map = map_good(400, 400);
    uint32_t first;

    (void)state;
    assert_int_equal(take_all(&map, NULL, 64), 399);
    for (unsigned i = 0; i < 4; i++)
        for (uint32_t slot = 0; slot < holes[i].length; slot++)
            slot_map_release(&map, holes[i].place + slot);
    assert_int_equal(slot_map_allocate(&map, 32, SLOT_KEEP, &first), 20);
    assert_int_equal(first, 130);
    assert_int_equal(slot_map_allocate(&map, 9, SLOT_KEEP, &first), 9);
    assert_int_equal(first, 60);
    assert_int_equal(slot_map_allocate(&map, 9, SLOT_KEEP, &first), 5);
    assert_int_equal(first, 300);
    assert_int_equal(slot_map_allocate(&map, 9, SLOT_KEEP, &first), 3);
    assert_int_equal(first, 10);
    assert_int_equal(slot_map_allocate(&map, 9, SLOT_KEEP, &first), 0);
    assert_int_equal(slot_map_peak(&map), 399);
    slot_map_destroy(&map);
}

/* A group with single holes only does not keep a cluster from its run in another group. */
static void test_fragmented_group_is_passed_over(void **state)
{
    struct slot_map map = map_good(3 * 65536, 3 * 65536);
    uint32_t first;

    (void)state;
    assert_int_equal(take_all(&map, NULL, 64), 3 * 65536 - 1);
    for (uint32_t slot = 2; slot < 65536; slot += 2)
        slot_map_release(&map, slot);
    for (uint32_t slot = 0; slot < 64; slot++)
        slot_map_release(&map, 2 * 65536 + 1000 + slot);
    assert_int_equal(slot_map_allocate(&map, 16, SLOT_KEEP, &first), 16);
    assert_int_equal(first, 2 * 65536 + 1000);
    assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), 48);
    assert_int_equal(first, 2 * 65536 + 1016);
    for (uint32_t slot = 2; slot < 65536; slot += 2)
        assert_int_equal(slot_map_allocate(&map, 16, SLOT_KEEP, &first), 1);
    assert_int_equal(slot_map_allocate(&map, 1, SLOT_KEEP, &first), 0);
    slot_map_destroy(&map);
}

/* Pages written one after the other lie one after the other, although there is room further up front. */
static void test_next_fit(void **state)
{
    struct slot_map map = map_good(10000, 10000);
    uint32_t first, previous;

    (void)state;
    assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &previous), 64);
    for (unsigned i = 1; i < 100; i++) {
        assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), 64);
        assert_int_equal(first, previous + 64);
        for (uint32_t slot = previous; slot < first; slot++)
            slot_map_release(&map, slot);
        previous = first;
    }
    assert_int_equal(slot_map_peak(&map), 128);
    slot_map_destroy(&map);
}

static void test_bad_slots_stay_out(void **state)
{
    struct slot_map map = map_good(70000, 70000);
    uint64_t used, bad;
    uint32_t first;

    (void)state;
    assert_int_equal(take_all(&map, NULL, 64), 69999);
    for (uint32_t slot = 100; slot < 110; slot++)
        slot_map_release(&map, slot);
    assert_int_equal(slot_map_allocate(&map, 10, SLOT_KEEP, &first), 10);
    slot_map_mark_bad(&map, 104);
    slot_map_mark_bad(&map, 69000);
    assert_false(slot_map_allocated(&map, 104));
    assert_true(slot_map_allocated(&map, 105));
    slot_map_count(&map, &used, &bad, NULL);
    assert_int_equal(used, 69997);
    assert_int_equal(bad, 2);
    for (uint32_t slot = 1; slot < 70000; slot++)
        if (slot != 104 && slot != 69000)
            slot_map_release(&map, slot);
    uint8_t *owners = calloc(70000, 1);
    assert_int_equal(take_all(&map, owners, 16), 69997);
    assert_int_equal(owners[104], 0);
    assert_int_equal(owners[69000], 0);
    free(owners);
    slot_map_destroy(&map);
}

/* ---- reservation ------------------------------------------------------------------------------------------------ */

static uint64_t reserved_slots(struct slot_map *map)
{
    uint64_t reserved;

    assert_true(slot_map_check(map));
    slot_map_count(map, NULL, NULL, &reserved);
    return reserved;
}

static void test_a_block_keeps_slots_for_its_window(void **state)
{
    struct slot_map map = map_good(64, 64);
    uint32_t first;

    (void)state;
    /* Slots 0 to 15 hold the header, so the first free block begins at 16. */
    assert_true(slot_map_allocate_block(&map, 16, 5, 2, &first));
    assert_int_equal(first, 16 + 5);
    assert_int_equal(reserved_slots(&map), 14);
    assert_int_equal(used_slots(&map), 2);
    assert_true(slot_map_allocate_block(&map, 12, 0, 1, &first)); /* a window smaller than its block */
    assert_int_equal(first, 32);
    assert_int_equal(reserved_slots(&map), 14 + 11);
    /* The others are left alone by who asks for any slot. */
    assert_int_equal(take_all(&map, NULL, 7), 64 - 1 - 16 - 12);
    assert_int_equal(reserved_slots(&map), 14 + 11);
    assert_false(slot_map_allocate_block(&map, 16, 0, 1, &first));
    assert_false(slot_map_allocated(&map, 16));
    /* And given to who asks for them by number. */
    assert_int_equal(slot_map_take_exact(&map, 16, 64, SLOT_KEEP), 0);
    assert_int_equal(slot_map_take_exact(&map, 16, 64, SLOT_DROP), 5);
    assert_int_equal(slot_map_take_exact(&map, 23, 3, SLOT_DROP), 3);
    assert_int_equal(reserved_slots(&map), 6 + 11);
    assert_true(slot_map_allocated(&map, 25));
    assert_false(slot_map_allocated(&map, 26));
    slot_map_destroy(&map);
}

static void test_reservations_lapse_with_the_last_slot(void **state)
{
    struct slot_map map = map_good(200, 200);
    uint32_t first;

    (void)state;
    for (unsigned bad = 0; bad < 2; bad++) {
        assert_true(slot_map_allocate_block(&map, 16, 3, 3, &first));
        assert_int_equal(reserved_slots(&map), 13);
        slot_map_release(&map, first);
        slot_map_release(&map, first + 2);
        assert_int_equal(reserved_slots(&map), 13);
        /* A slot that was released is free for its window and for others. */
        assert_int_equal(slot_map_take_exact(&map, first, 1, SLOT_KEEP), 1);
        slot_map_release(&map, first);
        if (bad)
            slot_map_mark_bad(&map, first + 1);
        else
            slot_map_release(&map, first + 1);
        assert_int_equal(reserved_slots(&map), 0);
    }
    assert_int_equal(take_all(&map, NULL, 64), 200 - 2);
    slot_map_destroy(&map);
}

static void test_reserved_slots_are_given_at_last(void **state)
{
    enum { LIMIT = 65536 + 500 };
    struct slot_map map = map_good(LIMIT, LIMIT);
    uint8_t *owners = calloc(LIMIT, 1);
    uint32_t first;
    uint64_t total = 0;
    unsigned count;

    (void)state;
    while (slot_map_allocate_block(&map, 16, (unsigned)(total % 16), 1, &first)) {
        owners[first]++;
        total++;
    }
    assert_int_equal(total, 4095 + 500 / 16);
    assert_int_equal(reserved_slots(&map), total * 15);
    total += take_all(&map, owners, 64);
    assert_int_equal(reserved_slots(&map), (4095 + 500 / 16) * 15);
    while ((count = slot_map_allocate(&map, 9, SLOT_DROP, &first)) != 0) {
        assert_in_range(count, 1, 9);
        for (uint32_t slot = first; slot < first + count; slot++)
            owners[slot]++;
        total += count;
    }
    assert_int_equal(total, LIMIT - 1);
    assert_int_equal(reserved_slots(&map), 0);
    for (uint32_t slot = 1; slot < LIMIT; slot++)
        assert_int_equal(owners[slot], 1);
    free(owners);
    slot_map_destroy(&map);
}

static void test_exact_slots(void **state)
{
    struct slot_map map = map_good(65536 + 10, 3 * 65536);
    uint32_t first;

    (void)state;
    assert_int_equal(slot_map_take_exact(&map, 0, 1, SLOT_DROP), 0);
    assert_int_equal(slot_map_take_exact(&map, 65536 + 10, 1, SLOT_DROP), 0);
    assert_int_equal(slot_map_take_exact(&map, UINT32_MAX, 64, SLOT_DROP), 0);
    assert_int_equal(slot_map_take_exact(&map, 65536 + 7, 64, SLOT_KEEP), 3);
    assert_int_equal(slot_map_take_exact(&map, 65530, 64, SLOT_KEEP), 6); /* not into the next group */
    assert_int_equal(slot_map_take_exact(&map, 65530, 1, SLOT_KEEP), 0);
    assert_int_equal(slot_map_take_exact(&map, 60, 20, SLOT_KEEP), 20);
    assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), 64);
    assert_int_equal(first, 80);
    slot_map_mark_bad(&map, 65);
    assert_int_equal(slot_map_take_exact(&map, 65, 1, SLOT_DROP), 0);
    assert_true(slot_map_check(&map));
    slot_map_destroy(&map);
}

/* ---- growing and shrinking -------------------------------------------------------------------------------------- */

static void test_growing(void **state)
{
    static const uint64_t limits[] = { 2, 3, 64, 65, 127, 128, 1000, 65535, 65536, 65537, 131072, 200000 };
    enum { COUNT = sizeof limits / sizeof limits[0] };

    (void)state;
    for (unsigned i = 0; i < COUNT; i++) {
        for (unsigned full = 0; full < 2; full++) { /* taken before it grows, or at the end */
            uint8_t *owners = calloc(200000, 1);
            struct slot_map map = map_good(limits[i], 200000);
            uint64_t total = 0;
            for (unsigned j = i; j < COUNT; j++) {
                slot_map_grow(&map, limits[j]);
                assert_true(slot_map_check(&map));
                assert_int_equal(slot_map_limit(&map), limits[j]);
                if (full)
                    total += take_all(&map, owners, 64);
                assert_int_equal(total, full ? limits[j] - 1 : 0);
            }
            total += take_all(&map, owners, 13);
            assert_int_equal(total, 200000 - 1);
            for (uint32_t slot = 1; slot < 200000; slot++)
                assert_int_equal(owners[slot], 1);
            free(owners);
            slot_map_destroy(&map);
        }
    }
}

static void test_shrinking_stops_at_the_last_slot(void **state)
{
    static const uint32_t places[] = { 1, 62, 63, 64, 100, 65534, 65535, 65536, 65537, 140000 };
    uint64_t bad;

    (void)state;
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct slot_map map = map_good(140001, 200000);
        assert_int_equal(slot_map_take_exact(&map, places[i], 1, SLOT_KEEP), 1);
        assert_int_equal(slot_map_tail(&map, 2, &bad), 140001 - (places[i] < 2 ? 2 : places[i] + 1));
        assert_int_equal(slot_map_limit(&map), 140001);
        /* Not as far as it could. */
        const uint64_t down_to = places[i] + 500 < 140001 ? places[i] + 500 : 140001;
        assert_int_equal(slot_map_shrink(&map, down_to, &bad), 140001 - down_to);
        assert_true(slot_map_check(&map));
        assert_int_equal(slot_map_shrink(&map, 2, &bad), down_to - (places[i] < 2 ? 2 : places[i] + 1));
        assert_true(slot_map_check(&map));
        assert_true(slot_map_allocated(&map, places[i]));
        assert_false(slot_map_allocated(&map, places[i] + 1));
        const uint64_t limit = slot_map_limit(&map);
        assert_int_equal(take_all(&map, NULL, 64), limit - 2);
        slot_map_grow(&map, 200000);
        assert_true(slot_map_check(&map));
        assert_int_equal(take_all(&map, NULL, 64), 200000 - limit);
        slot_map_destroy(&map);
    }
}

/* Bad slots and reservations at the end go; where they were, there are fresh slots when the file grows again. */
static void test_shrinking_takes_bad_and_reserved_slots(void **state)
{
    struct slot_map map = map_good(1024, 1024);
    uint32_t first, block;
    uint64_t used, bad;

    (void)state;
    assert_int_equal(slot_map_take_exact(&map, 900, 20, SLOT_KEEP), 20);
    for (uint32_t slot = 900; slot < 910; slot++)
        slot_map_mark_bad(&map, slot);
    assert_int_equal(slot_map_take_exact(&map, 100, 1, SLOT_KEEP), 1);
    slot_map_mark_bad(&map, 100);
    assert_true(slot_map_allocate_block(&map, 16, 0, 1, &block));
    assert_int_equal(slot_map_shrink(&map, 500, &bad), 1024 - 920);
    assert_int_equal(bad, 0);
    for (uint32_t slot = 910; slot < 920; slot++)
        slot_map_release(&map, slot);
    assert_int_equal(slot_map_shrink(&map, 500, &bad), 920 - (block + 1 > 500 ? block + 1 : 500));
    assert_int_equal(bad, 10);
    slot_map_count(&map, &used, &bad, NULL);
    assert_int_equal(used, 1);
    assert_int_equal(bad, 1);
    slot_map_release(&map, block);
    assert_int_equal(reserved_slots(&map), 0);
    (void)slot_map_shrink(&map, 500, &bad);
    slot_map_grow(&map, 1024);
    assert_int_equal(take_all(&map, NULL, 64), 1022); /* all but the header and the slot that is still bad */
    for (uint32_t slot = 1; slot < 1024; slot++)
        if (slot != 100)
            slot_map_release(&map, slot);
    /* In the middle of a block: what is left of it still lapses. */
    while (slot_map_allocate_block(&map, 16, 0, 1, &first) && first != 992)
        continue;
    assert_int_equal(first, 992);
    (void)slot_map_shrink(&map, 1001, &bad);
    assert_int_equal(slot_map_limit(&map), 1001);
    const uint64_t before = reserved_slots(&map);
    slot_map_release(&map, 992);
    assert_int_equal(before - reserved_slots(&map), 8);
    slot_map_destroy(&map);
}

/* ---- bugs are stopped ------------------------------------------------------------------------------------------- */

static void release_twice(struct slot_map *map)
{
    slot_map_release(map, 1);
    slot_map_release(map, 1);
}

static void release_header(struct slot_map *map)
{
    slot_map_release(map, 0);
}

static void release_past_end(struct slot_map *map)
{
    slot_map_release(map, 100);
}

static void release_bad(struct slot_map *map)
{
    slot_map_mark_bad(map, 1);
    slot_map_release(map, 1);
}

static void mark_free_bad(struct slot_map *map)
{
    slot_map_mark_bad(map, 50);
}

static void test_bugs_are_stopped(void **state)
{
    static void (*const bugs[])(struct slot_map *) = { release_twice, release_header, release_past_end, release_bad,
                                                       mark_free_bad };

    (void)state;
    for (unsigned i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        int status;
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            struct slot_map map;
            uint32_t first;
            signal(SIGABRT, SIG_DFL);
            if (freopen("/dev/null", "w", stderr) == NULL || slot_map_create(&map, 100, 200, 16) != TIDE_SUCCESS ||
                slot_map_allocate(&map, 2, SLOT_KEEP, &first) != 2)
                _exit(2);
            bugs[i](&map);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
            fail_msg("bug %u was not stopped: wait status %x", i, (unsigned)status);
    }
}

/* ---- against a model -------------------------------------------------------------------------------------------- */

enum { MODEL_FREE, MODEL_USED, MODEL_BAD };

/* The longest free run of the model that does not cross a group, at most `wanted`. */
static unsigned model_longest(const uint8_t *model, uint64_t limit, unsigned wanted)
{
    unsigned run = 0, longest = 0;

    for (uint64_t slot = 0; slot < limit && longest < wanted; slot++) {
        if (slot % SLOT_GROUP_SLOTS == 0)
            run = 0;
        run = model[slot] == MODEL_FREE ? run + 1 : 0;
        if (run > longest)
            longest = run;
    }
    return longest;
}

static void run_model(uint64_t limit, uint64_t crowd_to, unsigned operations, uint64_t seed)
{
    struct slot_map map = map_good(limit, limit);
    uint8_t *model = calloc(limit, 1);
    uint64_t used = 0, bad = 0, peak = 0;

    model[0] = MODEL_BAD;
    /* Leaves `crowd_to` slots to play with, spread over the groups, so that the map is nearly full nearly always. */
    assert_int_equal(take_all(&map, NULL, 64), limit - 1);
    peak = limit - 1;
    used = limit - 1;
    for (uint64_t slot = 1; slot < limit; slot++)
        model[slot] = MODEL_USED;
    for (unsigned i = 0; i < operations; i++) {
        const uint64_t choice = random_below(&seed, 100);
        if (choice < 45) {
            const unsigned wanted = 1 + (unsigned)random_below(&seed, SLOT_RUN_MAX);
            const unsigned expected = model_longest(model, limit, wanted);
            uint32_t first;
            const unsigned count = slot_map_allocate(&map, wanted, SLOT_KEEP, &first);
            if (count != expected)
                fail_msg("operation %u: a run of %u instead of %u (wanted %u)", i, count, expected, wanted);
            for (uint32_t slot = first; count != 0 && slot < first + count; slot++) {
                assert_int_equal(model[slot], MODEL_FREE);
                model[slot] = MODEL_USED;
            }
            used += count;
            if (used > peak)
                peak = used;
        } else if (choice < 99) {
            /* Releases a stretch. */
            uint64_t slot = 1 + random_below(&seed, limit - 1);
            for (uint64_t n = random_below(&seed, 40); n > 0 && slot < limit && limit - 1 - bad - used < crowd_to;
                 n--, slot++) {
                if (model[slot] != MODEL_USED)
                    continue;
                slot_map_release(&map, (uint32_t)slot);
                model[slot] = MODEL_FREE;
                used--;
            }
        } else {
            const uint64_t slot = 1 + random_below(&seed, limit - 1);
            if (model[slot] == MODEL_USED && bad < limit / 10) {
                slot_map_mark_bad(&map, (uint32_t)slot);
                model[slot] = MODEL_BAD;
                used--;
                bad++;
            }
        }
        uint64_t used_now, bad_now;
        slot_map_count(&map, &used_now, &bad_now, NULL);
        assert_int_equal(used_now, used);
        assert_int_equal(bad_now, bad);
        assert_int_equal(slot_map_peak(&map), peak);
    }
    for (uint64_t slot = 0; slot < limit; slot++)
        assert_int_equal(slot_map_allocated(&map, (uint32_t)slot), model[slot] == MODEL_USED);
    free(model);
    slot_map_destroy(&map);
}

static void test_against_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        run_model(2 + seed * 37, 20 * seed, 20000 / EFFORT_DIVISOR, seed);
    run_model(2 * 65536 + 77, 3000, 2000 / EFFORT_DIVISOR, 42);
    run_model(2 * 65536 + 77, 131072, 2000 / EFFORT_DIVISOR, 43);
}

/* Everything that can be done to a map, in random order: no slot twice, nothing lost, the map sound at each step. */
static void run_everything(uint64_t maximum, unsigned operations, uint64_t seed)
{
    uint64_t limit = 2 + random_below(&seed, maximum - 1), used = 0, bad = 0;
    struct slot_map map = map_good(limit, maximum);
    uint8_t *model = calloc(maximum + SLOT_RUN_MAX, 1);

    for (unsigned i = 0; i < operations; i++) {
        const uint64_t choice = random_below(&seed, 100);
        uint32_t first = 0;
        unsigned count = 0;
        if (choice < 15) {
            count = slot_map_allocate(&map, 1 + (unsigned)random_below(&seed, 64), SLOT_KEEP, &first);
        } else if (choice < 20) {
            count = slot_map_allocate(&map, 1 + (unsigned)random_below(&seed, 64), SLOT_DROP, &first);
            assert_int_equal(count == 0, used + bad == limit - 1);
        } else if (choice < 35) {
            const unsigned position = (unsigned)random_below(&seed, 16);
            count = 1 + (unsigned)random_below(&seed, 16 - position);
            if (slot_map_allocate_block(&map, 16, position, count, &first))
                assert_int_equal(first % 16, position);
            else
                count = 0;
        } else if (choice < 50) {
            first = (uint32_t)random_below(&seed, maximum + 10);
            count = slot_map_take_exact(&map, first, 1 + (unsigned)random_below(&seed, 64),
                                        random_below(&seed, 2) ? SLOT_KEEP : SLOT_DROP);
        } else if (choice < 90) {
            uint64_t slot = 1 + random_below(&seed, limit - 1);
            for (uint64_t n = random_below(&seed, 30); n > 0 && slot < limit; n--, slot++) {
                if (model[slot] != MODEL_USED)
                    continue;
                slot_map_release(&map, (uint32_t)slot);
                model[slot] = MODEL_FREE;
                used--;
            }
        } else if (choice < 92) {
            const uint64_t slot = 1 + random_below(&seed, limit - 1);
            if (model[slot] == MODEL_USED && bad < limit / 10) {
                slot_map_mark_bad(&map, (uint32_t)slot);
                model[slot] = MODEL_BAD;
                used--;
                bad++;
            }
        } else if (choice < 96) {
            limit += random_below(&seed, maximum - limit + 1);
            slot_map_grow(&map, limit);
        } else {
            uint64_t expected = limit, tail_bad, cut_bad;
            const uint64_t least = 2 + random_below(&seed, limit - 1);
            for (; expected > least && model[expected - 1] != MODEL_USED; expected--)
                if (model[expected - 1] == MODEL_BAD) {
                    model[expected - 1] = MODEL_FREE;
                    bad--;
                }
            assert_int_equal(slot_map_tail(&map, least, &tail_bad), limit - expected);
            assert_int_equal(slot_map_shrink(&map, least, &cut_bad), limit - expected);
            assert_int_equal(tail_bad, cut_bad);
            limit = expected;
        }
        for (uint32_t slot = first; count != 0 && slot < first + count; slot++) {
            assert_true(slot != 0 && slot < limit);
            assert_int_equal(model[slot], MODEL_FREE);
            model[slot] = MODEL_USED;
        }
        used += count;
        uint64_t used_now, bad_now;
        slot_map_count(&map, &used_now, &bad_now, NULL);
        assert_int_equal(used_now, used);
        assert_int_equal(bad_now, bad);
        assert_int_equal(slot_map_limit(&map), limit);
        assert_true(slot_map_check(&map));
    }
    for (uint64_t slot = 0; slot < limit; slot++)
        assert_int_equal(slot_map_allocated(&map, (uint32_t)slot), model[slot] == MODEL_USED);
    free(model);
    slot_map_destroy(&map);
}

static void test_everything_against_model(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++)
        run_everything(40 + seed * 83, 10000 / EFFORT_DIVISOR, seed);
    run_everything(65536 + 1000, 1000 / EFFORT_DIVISOR, 42);
}

/* The peak is that of the sum over the groups, though no counter holds the sum. */
static void test_peak_over_groups(void **state)
{
    struct slot_map map = map_good(2 * 65536, 2 * 65536);
    uint32_t first;

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(slot_map_allocate(&map, 64, SLOT_KEEP, &first), 64);
    for (uint32_t i = 0; i < 64; i++)
        slot_map_release(&map, first + i);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(slot_map_allocate(&map, 1, SLOT_KEEP, &first), 1);
    assert_int_equal(slot_map_peak(&map), 320);
    assert_int_equal(slot_map_allocate(&map, 1, SLOT_KEEP, &first), 1);
    assert_int_equal(slot_map_peak(&map), 321);
    slot_map_destroy(&map);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

enum { THREADS = 4, HELD = 600 };

struct race {
    struct slot_map map;
    uint32_t *owners;  /* [A] by slot: the thread's number, or 0 */
    uint32_t mistakes; /* [A] */
    uint32_t next;     /* [A] numbers the threads */
    uint32_t running;  /* [A] */
    bool blocks;       /* [I] blocks and exact slots too */
};

/* One of the ways to get slots. */
static unsigned race_take(struct race *race, unsigned wanted, uint64_t *seed, uint32_t *first)
{
    const uint64_t way = race->blocks ? random_below(seed, 4) : 0;

    if (way == 1) {
        const unsigned position = (unsigned)random_below(seed, 16);
        const unsigned count = wanted < 16 - position ? wanted : 16 - position;
        return slot_map_allocate_block(&race->map, 16, position, count, first) ? count : 0;
    }
    if (way == 2) {
        *first = (uint32_t)random_below(seed, (uint64_t)race->map.group_count * SLOT_GROUP_SLOTS);
        return slot_map_take_exact(&race->map, *first, wanted, SLOT_DROP);
    }
    return slot_map_allocate(&race->map, wanted, way == 3 ? SLOT_DROP : SLOT_KEEP, first);
}

/* Grows and shrinks the map while the others are in it. */
static void *resize_thread(void *argument)
{
    struct race *race = argument;
    uint64_t seed = 99, limit = slot_map_limit(&race->map), bad;
    const uint64_t maximum = limit;

    while (sync_load_32(&race->running) != 0) {
        limit -= slot_map_shrink(&race->map, 2 + random_below(&seed, limit - 1), &bad);
        if (bad != 0 || slot_map_limit(&race->map) != limit)
            sync_add_32(&race->mistakes, 1);
        limit += random_below(&seed, maximum - limit + 1);
        slot_map_grow(&race->map, limit);
    }
    slot_map_grow(&race->map, maximum);
    return NULL;
}

static void *race_thread(void *argument)
{
    struct race *race = argument;
    const uint32_t self = sync_add_32(&race->next, 1) + 1;
    uint32_t held[HELD], count = 0;
    uint64_t seed = self;

    for (unsigned i = 0; i < 200000 / EFFORT_DIVISOR; i++) {
        const unsigned wanted = 1 + (unsigned)random_below(&seed, SLOT_RUN_MAX);
        uint32_t first;
        if (count + wanted <= HELD && random_below(&seed, 100) < 10) {
            const unsigned got = race_take(race, wanted, &seed, &first);
            for (uint32_t slot = first; got != 0 && slot < first + got; slot++) {
                if (slot == 0 || !sync_cas_32(&race->owners[slot], 0, self))
                    sync_add_32(&race->mistakes, 1);
                held[count++] = slot;
            }
        } else if (count > 0) {
            const uint32_t which = (uint32_t)random_below(&seed, count);
            const uint32_t slot = held[which];
            held[which] = held[--count];
            if (!slot_map_allocated(&race->map, slot) || !sync_cas_32(&race->owners[slot], self, 0))
                sync_add_32(&race->mistakes, 1);
            slot_map_release(&race->map, slot);
        }
    }
    while (count > 0) {
        const uint32_t slot = held[--count];
        if (!sync_cas_32(&race->owners[slot], self, 0))
            sync_add_32(&race->mistakes, 1);
        slot_map_release(&race->map, slot);
    }
    return NULL;
}

static void run_race(uint64_t limit, bool everything)
{
    struct race race = {
        .map = map_good(limit, limit), .owners = calloc(limit, sizeof(uint32_t)), .running = 1, .blocks = everything
    };
    pthread_t threads[THREADS], resizer;

    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race_thread, &race), 0);
    if (everything)
        assert_int_equal(pthread_create(&resizer, NULL, resize_thread, &race), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sync_store_32(&race.running, 0);
    if (everything)
        pthread_join(resizer, NULL);
    assert_int_equal(race.mistakes, 0);
    assert_true(slot_map_check(&race.map));
    assert_int_equal(used_slots(&race.map), 0);
    assert_true(slot_map_peak(&race.map) > 0 && slot_map_peak(&race.map) <= THREADS * HELD);
    assert_int_equal(take_all(&race.map, NULL, 64), limit - 1);
    slot_map_destroy(&race.map);
    free(race.owners);
}

static void test_threads(void **state)
{
    (void)state;
    run_race(500, false); /* mostly full: the threads meet all the time */
    run_race(65536 + 1000, false);
}

static void test_threads_in_a_map_that_grows_and_shrinks(void **state)
{
    (void)state;
    run_race(500, true);
    run_race(65536 + 1000, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_slot_once),
        cmocka_unit_test(test_fresh_runs_are_consecutive),
        cmocka_unit_test(test_holes_are_found_whole),
        cmocka_unit_test(test_longest_run_wins),
        cmocka_unit_test(test_fragmented_group_is_passed_over),
        cmocka_unit_test(test_next_fit),
        cmocka_unit_test(test_bad_slots_stay_out),
        cmocka_unit_test(test_a_block_keeps_slots_for_its_window),
        cmocka_unit_test(test_reservations_lapse_with_the_last_slot),
        cmocka_unit_test(test_reserved_slots_are_given_at_last),
        cmocka_unit_test(test_exact_slots),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_shrinking_stops_at_the_last_slot),
        cmocka_unit_test(test_shrinking_takes_bad_and_reserved_slots),
        cmocka_unit_test(test_bugs_are_stopped),
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_everything_against_model),
        cmocka_unit_test(test_peak_over_groups),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_threads_in_a_map_that_grows_and_shrinks),
    };

    return cmocka_run_group_tests_name("slot_map", tests, NULL, NULL);
}

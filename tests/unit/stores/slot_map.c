/*
 * The slot map: every slot once and never the header, runs, exhaustion, reuse, bad slots, against a plain model, and by
 * many threads.
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

    assert_int_equal(slot_map_create(&map, limit, maximum), TIDE_SUCCESS);
    return map;
}

static uint64_t used_slots(struct slot_map *map)
{
    uint64_t used;

    slot_map_count(map, &used, NULL);
    return used;
}

/* Takes everything; returns the number of slots. `owners` (may be NULL) counts how often each was given. */
static uint64_t take_all(struct slot_map *map, uint8_t *owners, unsigned wanted)
{
    uint64_t total = 0;
    uint32_t first;
    unsigned count;

    while ((count = slot_map_allocate(map, wanted, &first)) != 0) {
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
        assert_int_equal(slot_map_allocate(&map, wanted, &first), wanted);
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
            assert_int_equal(slot_map_allocate(&map, 64, &first), length);
            assert_int_equal(first, place);
            assert_int_equal(slot_map_allocate(&map, 64, &first), 0);
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
    assert_int_equal(slot_map_allocate(&map, 32, &first), 20);
    assert_int_equal(first, 130);
    assert_int_equal(slot_map_allocate(&map, 9, &first), 9);
    assert_int_equal(first, 60);
    assert_int_equal(slot_map_allocate(&map, 9, &first), 5);
    assert_int_equal(first, 300);
    assert_int_equal(slot_map_allocate(&map, 9, &first), 3);
    assert_int_equal(first, 10);
    assert_int_equal(slot_map_allocate(&map, 9, &first), 0);
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
    assert_int_equal(slot_map_allocate(&map, 16, &first), 16);
    assert_int_equal(first, 2 * 65536 + 1000);
    assert_int_equal(slot_map_allocate(&map, 64, &first), 48);
    assert_int_equal(first, 2 * 65536 + 1016);
    for (uint32_t slot = 2; slot < 65536; slot += 2)
        assert_int_equal(slot_map_allocate(&map, 16, &first), 1);
    assert_int_equal(slot_map_allocate(&map, 1, &first), 0);
    slot_map_destroy(&map);
}

/* Pages written one after the other lie one after the other, although there is room further up front. */
static void test_next_fit(void **state)
{
    struct slot_map map = map_good(10000, 10000);
    uint32_t first, previous;

    (void)state;
    assert_int_equal(slot_map_allocate(&map, 64, &previous), 64);
    for (unsigned i = 1; i < 100; i++) {
        assert_int_equal(slot_map_allocate(&map, 64, &first), 64);
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
    assert_int_equal(slot_map_allocate(&map, 10, &first), 10);
    slot_map_mark_bad(&map, 104);
    slot_map_mark_bad(&map, 69000);
    assert_false(slot_map_allocated(&map, 104));
    assert_true(slot_map_allocated(&map, 105));
    slot_map_count(&map, &used, &bad);
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
            if (freopen("/dev/null", "w", stderr) == NULL || slot_map_create(&map, 100, 200) != TIDE_SUCCESS ||
                slot_map_allocate(&map, 2, &first) != 2)
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
            const unsigned count = slot_map_allocate(&map, wanted, &first);
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
        slot_map_count(&map, &used_now, &bad_now);
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

/* The peak is that of the sum over the groups, though no counter holds the sum. */
static void test_peak_over_groups(void **state)
{
    struct slot_map map = map_good(2 * 65536, 2 * 65536);
    uint32_t first;

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(slot_map_allocate(&map, 64, &first), 64);
    for (uint32_t i = 0; i < 64; i++)
        slot_map_release(&map, first + i);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(slot_map_allocate(&map, 1, &first), 1);
    assert_int_equal(slot_map_peak(&map), 320);
    assert_int_equal(slot_map_allocate(&map, 1, &first), 1);
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
};

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
            const unsigned got = slot_map_allocate(&race->map, wanted, &first);
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

static void run_race(uint64_t limit)
{
    struct race race = { .map = map_good(limit, limit), .owners = calloc(limit, sizeof(uint32_t)) };
    pthread_t threads[THREADS];

    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, race_thread, &race), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(race.mistakes, 0);
    assert_int_equal(used_slots(&race.map), 0);
    assert_true(slot_map_peak(&race.map) > 0 && slot_map_peak(&race.map) <= THREADS * HELD);
    assert_int_equal(take_all(&race.map, NULL, 64), limit - 1);
    slot_map_destroy(&race.map);
    free(race.owners);
}

static void test_threads(void **state)
{
    (void)state;
    run_race(500); /* mostly full: the threads meet all the time */
    run_race(65536 + 1000);
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
        cmocka_unit_test(test_bugs_are_stopped),
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_peak_over_groups),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests_name("slot_map", tests, NULL, NULL);
}

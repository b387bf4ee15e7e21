/*
 * Runs of frames that lie together: which blocks are taken, that a block that cannot be had whole stays as it was,
 * grace periods, standby, the writers' reserve, many threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <pthread.h>
#include <string.h>

#define ONE_NODE "numa:1 core:2 pu:1"

static uint64_t listed(const struct frames *frames, enum frame_list list)
{
    return frames_list_count(frames, 0, list);
}

/* Without a reserve for the writers, which small nodes would not have either. */
static struct frames *frames_plain(const tide_config *config)
{
    struct frames *frames = frames_good(ONE_NODE, config);

    frames->nodes[0].reserve = 0;
    return frames;
}

static void give_back_run(struct frames *frames, frame_t first)
{
    for (uint32_t i = 0; i < FRAMES_RUN; i++) {
        const frame_t frame = { first.number + i };
        frames_give_back(frames, frame, state_of(frames, frame) == FRAME_ZEROED);
    }
}

static void a_run_is_whole_aligned_and_off_all_lists(void **state)
{
    tide_config config = small_config(3 * FRAMES_RUN + 100);
    bool seen[4] = { false };
    frame_t runs[3];

    (void)state;
    config.list_shards = 8;
    struct frames *frames = frames_plain(&config);
    for (unsigned i = 0; i < 3; i++) {
        runs[i] = frames_take_run(frames, 0, false);
        assert_false(frame_is_none(runs[i]));
        assert_int_equal(runs[i].number % FRAMES_RUN, 0);
        assert_false(seen[runs[i].number / FRAMES_RUN]);
        seen[runs[i].number / FRAMES_RUN] = true;
        for (uint32_t f = 0; f < FRAMES_RUN; f++) {
            const frame_t frame = { runs[i].number + f };
            assert_int_equal(state_of(frames, frame), FRAME_ZEROED);
            assert_false(frame_is_listed(frames, frame, word_of(frames, frame)));
        }
        assert_int_equal(listed(frames, FRAME_LIST_ZEROED), 3 * FRAMES_RUN + 100 - (i + 1) * FRAMES_RUN);
        assert_int_equal(lists_walk(frames), 3 * FRAMES_RUN + 100 - (i + 1) * FRAMES_RUN);
    }
    assert_true(frame_is_none(frames_take_run(frames, 0, true))); /* the rest is no block */
    for (unsigned i = 0; i < 3; i++)
        give_back_run(frames, runs[i]);
    assert_int_equal(lists_walk(frames), 3 * FRAMES_RUN + 100);
    assert_false(frame_is_none(frames_take_run(frames, 0, false)));
    frames_close(frames);
}

/* Blocks 0 to 9, of which 1 and 5 are somebody's: three in a row are 2 to 4, four are 6 to 9, five there are not. */
static void a_search_begins_where_enough_blocks_are_in_a_row(void **state)
{
    static const struct {
        uint64_t wanted;
        uint32_t first;
    } cases[] = { { 1, 0 }, { 2, 2 }, { 3, 2 }, { 4, 6 }, { 5, 6 } };
    tide_config config = small_config(10 * FRAMES_RUN);
    frame_t runs[10];

    (void)state;
    config.list_shards = 8;
    struct frames *frames = frames_plain(&config);
    for (unsigned i = 0; i < 10; i++)
        runs[i] = frames_take_run(frames, 0, false);
    for (unsigned i = 0; i < 10; i++)
        if (i != 1 && i != 5)
            give_back_run(frames, runs[i]);
        else
            for (uint32_t f = 0; f < FRAMES_RUN; f++)
                frame_state_set(frame_pfn(frames, (frame_t){ runs[i].number + f }),
                                (uint64_t)FRAME_ACTIVE | PFN_REFERENCE_ONE | PFN_SHARE_ONE);
    frames_drain_caches(frames);
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        frames_run_seek(frames, 0, cases[i].wanted);
        const frame_t run = frames_take_run(frames, 0, false);
        assert_int_equal(run.number - frames->nodes[0].first, cases[i].first * FRAMES_RUN);
        give_back_run(frames, run);
        frames_drain_caches(frames);
    }
    frames_close(frames);
}

/* One frame of a block that somebody has, at either end or in the middle: the block stays, and lists and counts too. */
static void a_spoilt_block_is_left_as_it_was(void **state)
{
    static const uint32_t spoilt[] = { 0, 63, 64, 300, FRAMES_RUN - 1 };

    (void)state;
    for (unsigned i = 0; i < sizeof spoilt / sizeof spoilt[0]; i++) {
        tide_config config = small_config(FRAMES_RUN);
        config.list_shards = 4;
        struct frames *frames = frames_plain(&config);
        const uint32_t first = frames->nodes[0].first;
        frame_t all[FRAMES_RUN];

        for (uint32_t f = 0; f < FRAMES_RUN; f++)
            all[f] = take(frames, 0, FRAMES_ZERO);
        for (uint32_t f = 0; f < FRAMES_RUN; f++)
            if (all[f].number != first + spoilt[i])
                frames_give_back(frames, all[f], true);
        assert_true(frame_is_none(frames_take_run(frames, 0, false)));
        assert_int_equal(lists_walk(frames), FRAMES_RUN - 1);
        assert_int_equal(listed(frames, FRAME_LIST_ZEROED), FRAMES_RUN - 1);
        frames_give_back(frames, (frame_t){ first + spoilt[i] }, true);
        assert_int_equal(frames_take_run(frames, 0, false).number, first);
        assert_int_equal(lists_walk(frames), 0);
        frames_close(frames);
    }
}

/* A frame that was just freed may still be looked at: the block is not had before its grace period has passed. */
static void a_freed_frame_waits_for_its_grace_period(void **state)
{
    const tide_config config = small_config(FRAMES_RUN);
    struct frames *frames = frames_plain(&config);
    const frame_t frame = take_active(frames, 0, true, 0, 5);

    (void)state;
    frames_free(frames, frame);
    assert_true(frame_is_none(frames_take_run(frames, 0, false)));
    assert_int_equal(listed(frames, FRAME_LIST_FREE), 1);
    assert_int_equal(lists_walk(frames), FRAMES_RUN);
    grace_pass(frames);
    assert_false(frame_is_none(frames_take_run(frames, 0, false)));
    assert_int_equal(state_of(frames, frame), FRAME_FREE); /* whoever takes it zeroes it */
    frames_close(frames);
}

/* Standby pages are taken on request only, from owners that let go; modified ones and working sets never. */
static void standby_is_repurposed_on_request(void **state)
{
    const tide_config config = small_config(FRAMES_RUN);
    struct frames *frames = frames_plain(&config);
    const frame_t clean = take_standby(frames, 0, 0x5004, 3);
    const frame_t claimed = take_standby(frames, 0, 0x6004, 3);

    (void)state;
    grace_pass(frames);
    const uint64_t owner = owner_ptes[claimed.number];
    owner_ptes[claimed.number] = OWNER_CLAIMED;
    assert_true(frame_is_none(frames_take_run(frames, 0, false)));
    assert_int_equal(state_of(frames, clean), FRAME_STANDBY);
    assert_true(frame_is_none(frames_take_run(frames, 0, true))); /* a fault has the other one */
    assert_int_equal(state_of(frames, claimed), FRAME_STANDBY);
    assert_int_equal(lists_walk(frames), FRAMES_RUN);
    owner_ptes[claimed.number] = owner;
    assert_false(frame_is_none(frames_take_run(frames, 0, true)));
    assert_int_equal(owner_ptes[claimed.number], 0x6004);
    assert_int_equal(state_of(frames, claimed), FRAME_FREE);
    assert_null(frame_pfn(frames, claimed)->pte);
    assert_int_equal(lists_walk(frames), 0);
    frames_close(frames);
}

static void the_writers_reserve_is_left(void **state)
{
    tide_config config = small_config(FRAMES_RUN + 3);

    (void)state;
    config.writer_reserve_pages = 4;
    struct frames *frames = frames_good(ONE_NODE, &config);
    assert_true(frame_is_none(frames_take_run(frames, 0, true)));
    assert_int_equal(lists_walk(frames), FRAMES_RUN + 3);
    frames_close(frames);
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

enum { THREADS = 8, ROUNDS = 400 / EFFORT_DIVISOR, BLOCKS = 6 };

static struct frames *shared;
static uint32_t owners[BLOCKS]; /* [A] who has a block */
static uint32_t conflicts;      /* [A] */

/* Takes and gives back runs, and single frames in between, which spoil the blocks of others. */
static void *runner(void *context)
{
    const uint32_t self = (uint32_t)(uintptr_t)context;

    for (unsigned round = 0; round < ROUNDS; round++) {
        const frame_t run = frames_take_run(shared, 0, round % 2);
        const frame_t one = frames_allocate(shared, 0, FRAMES_ZERO, 0);

        if (!frame_is_none(run)) {
            uint32_t *owner = &owners[(run.number - shared->nodes[0].first) / FRAMES_RUN];
            if (sync_swap_32(owner, self) != 0)
                (void)sync_add_32(&conflicts, 1);
            for (uint32_t f = 0; f < FRAMES_RUN; f++) /* nobody else writes there meanwhile */
                *(volatile uint32_t *)frame_memory(shared, (frame_t){ run.number + f }) = self;
            for (uint32_t f = 0; f < FRAMES_RUN; f++)
                if (*(volatile uint32_t *)frame_memory(shared, (frame_t){ run.number + f }) != self)
                    (void)sync_add_32(&conflicts, 1);
            if (sync_swap_32(owner, 0) != self)
                (void)sync_add_32(&conflicts, 1);
            for (uint32_t f = 0; f < FRAMES_RUN; f++)
                frames_give_back(shared, (frame_t){ run.number + f }, false);
        }
        if (!frame_is_none(one)) {
            *(volatile uint32_t *)frame_memory(shared, one) = self;
            frames_give_back(shared, one, false);
        }
    }
    return NULL;
}

static void threads_never_share_a_frame(void **state)
{
    tide_config config = small_config(BLOCKS * FRAMES_RUN);
    pthread_t threads[THREADS];

    (void)state;
    config.list_shards = 8;
    config.cpu_cache_pages = 16;
    shared = frames_plain(&config);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, runner, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(conflicts, 0);
    frames_drain_caches(shared);
    assert_int_equal(lists_walk(shared), BLOCKS * FRAMES_RUN);
    unsigned runs = 0; /* and all of it can be had as runs again */
    while (!frame_is_none(frames_take_run(shared, 0, false)))
        runs++;
    assert_int_equal(runs, BLOCKS);
    frames_close(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_whole_aligned_and_off_all_lists),
        cmocka_unit_test(a_search_begins_where_enough_blocks_are_in_a_row),
        cmocka_unit_test(a_spoilt_block_is_left_as_it_was),
        cmocka_unit_test(a_freed_frame_waits_for_its_grace_period),
        cmocka_unit_test(standby_is_repurposed_on_request),
        cmocka_unit_test(the_writers_reserve_is_left),
        cmocka_unit_test(threads_never_share_a_frame),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

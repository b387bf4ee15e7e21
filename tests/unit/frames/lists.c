/*
 * Page lists: order, removal from anywhere, batches, counts, in one shard and in many.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <string.h>

#define ONE_NODE "numa:1 core:2 pu:1"

static void assert_order(const struct frames *frames, enum frame_list list, const frame_t *expected, unsigned count)
{
    uint32_t numbers[64];

    assert_true(count <= 64);
    assert_int_equal(shard_frames(frames, frames->nodes[0].lists[list], numbers, 64), count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(numbers[i], expected[i].number);
}

static void test_fifo(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    frame_t taken[6];

    (void)state;
    for (unsigned i = 0; i < 6; i++)
        taken[i] = take_active(frames, 0, true, 0, 5);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_ZEROED), 26);
    for (unsigned i = 0; i < 6; i++)
        trim(frames, taken[(i * 5 + 2) % 6]);
    frame_t order[6];
    for (unsigned i = 0; i < 6; i++)
        order[i] = taken[(i * 5 + 2) % 6];
    assert_order(frames, FRAME_LIST_MODIFIED, order, 6);
    grace_pass(frames);
    for (unsigned i = 0; i < 6; i++)
        assert_int_equal(frames_take_modified(frames, 0).number, order[i].number);
    assert_true(frame_is_none(frames_take_modified(frames, 0)));
    frames_close(frames);
}

/* Freed frames queue at the tail, so that the head has waited longest for its grace period. */
static void test_free_is_fifo(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    frame_t taken[5];

    (void)state;
    for (unsigned i = 0; i < 5; i++)
        taken[i] = take_active(frames, 0, true, 0, 5);
    for (unsigned i = 0; i < 5; i++)
        frames_free(frames, taken[i]);
    assert_order(frames, FRAME_LIST_FREE, taken, 5);
    grace_pass(frames);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(take(frames, 0, FRAMES_ANY).number, taken[i].number);
    frames_close(frames);
}

/* Takes one of `count` standby frames out, from place `at`, and looks at what is left. */
static void remove_at(struct frames *frames, unsigned count, unsigned at)
{
    frame_t order[8];
    uint64_t word = 0;

    for (unsigned i = 0; i < count; i++)
        order[i] = take_standby(frames, 0, 0x77, 3);
    const uint64_t before = word_of(frames, order[at]);
    assert_true(frames_unlink(frames, order[at], before, FRAME_ACTIVE, PFN_SHARE_ONE + PFN_REFERENCE_ONE, 5, &word));
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_int_equal(pfn_share_count(word), 1);
    assert_int_equal(pfn_reference_count(word), 1);
    assert_int_equal(pfn_priority(word), 5); /* that of its new user */
    assert_true(word_of(frames, order[at]) == word);
    const frame_t removed = order[at];
    memmove(&order[at], &order[at + 1], (count - at - 1) * sizeof order[0]);
    assert_order(frames, (enum frame_list)(FRAME_LIST_STANDBY + 3), order, count - 1);
    /* What remains can be taken apart to the last. */
    for (unsigned i = count - 1; i-- > 0;)
        assert_true(frames_unlink(frames, order[i], word_of(frames, order[i]), FRAME_ACTIVE, 0, 5, &word));
    assert_order(frames, (enum frame_list)(FRAME_LIST_STANDBY + 3), order, 0);
    for (unsigned i = 0; i < count - 1; i++)
        frames_free(frames, order[i]);
    frames_free(frames, removed);
    grace_pass(frames);
}

static void test_removal_from_head_middle_and_tail(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);

    (void)state;
    for (unsigned count = 1; count <= 5; count++)
        for (unsigned at = 0; at < count; at++)
            remove_at(frames, count, at);
    assert_int_equal(lists_walk(frames), 32);
    frames_close(frames);
}

/* Who saw a frame on a list that it has left, or that it came back to with another priority, is told to look again. */
static void test_unlink_refuses_what_changed(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    const frame_t frame = take_standby(frames, 0, 0x77, 3);
    const uint64_t on_standby = word_of(frames, frame);
    uint64_t word;

    (void)state;
    assert_false(frames_unlink(frames, frame, pfn_with_priority(on_standby, 4), FRAME_ACTIVE, 0, 5, &word));
    assert_true(word == on_standby);
    assert_false(frames_unlink(frames, frame, pfn_with_state(on_standby, FRAME_MODIFIED), FRAME_ACTIVE, 0, 5, &word));
    assert_true(frames_unlink(frames, frame, on_standby, FRAME_ACTIVE, PFN_SHARE_ONE + PFN_REFERENCE_ONE, 5, &word));
    assert_false(frames_unlink(frames, frame, on_standby, FRAME_ACTIVE, 0, 5, &word));
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_int_equal(pfn_share_count(word), 1);
    frames_close(frames);
}

/* An insertion whose frame was changed by another changes nothing. */
static void test_insert_refuses_what_changed(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    const frame_t frame = take_active(frames, 0, true, 0, 5);
    const uint64_t word = word_of(frames, frame);
    const uint64_t wrong = word + PFN_REFERENCE_ONE;
    uint64_t seen = 0;

    (void)state;
    assert_false(frames_insert(frames, frame, wrong, pfn_with_state(wrong, FRAME_MODIFIED), &seen));
    assert_true(seen == word && word_of(frames, frame) == word);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_MODIFIED), 0);
    assert_true(sync_trylock(&frames->nodes[0].lists[FRAME_LIST_MODIFIED]->lock)); /* the batch let it go */
    sync_unlock(&frames->nodes[0].lists[FRAME_LIST_MODIFIED]->lock);
    frames_close(frames);
}

static void insert_batch(struct frames *frames, const frame_t *taken, unsigned count)
{
    struct frames_batch batch;
    uint64_t seen;

    frames_batch_begin(&batch, frames);
    for (unsigned i = 0; i < count; i++) {
        const uint64_t word = word_of(frames, taken[i]);
        const uint64_t next = pfn_with_grace(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, grace_now(&frames->grace));

        assert_true(frames_batch_insert(
            &batch, taken[i], word, pfn_with_state(next, word & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY), &seen));
    }
    frames_batch_end(&batch);
}

/* A batch over many shards, nodes, lists and priorities puts each frame on its own list and leaves nothing locked. */
static void test_batch_over_many_shards(void **state)
{
    enum { COUNT = 700 };
    tide_config config = small_config(1024);
    static frame_t taken[COUNT];
    uint64_t standby[8] = { 0 }, modified = 0, seed = 7;

    (void)state;
    config.list_shards = 8;
    struct frames *frames = frames_good("numa:2 core:1 pu:1", &config);
    for (unsigned i = 0; i < COUNT; i++) {
        const unsigned priority = (unsigned)random_below(&seed, 8);
        const bool dirty = random_below(&seed, 3) == 0;

        taken[i] = take_active(frames, i % 2, dirty, 0x77, priority);
        standby[priority] += !dirty;
        modified += dirty;
    }
    insert_batch(frames, taken, COUNT);
    assert_int_equal(lists_walk(frames), 1024);
    assert_int_equal(frames_list_count(frames, 0, FRAME_LIST_MODIFIED) +
                         frames_list_count(frames, 1, FRAME_LIST_MODIFIED),
                     modified);
    for (unsigned p = 0; p < 8; p++)
        assert_int_equal(frames_list_count(frames, 0, (enum frame_list)(FRAME_LIST_STANDBY + p)) +
                             frames_list_count(frames, 1, (enum frame_list)(FRAME_LIST_STANDBY + p)),
                         standby[p]);
    for (unsigned n = 0; n < 2; n++) {
        for (unsigned l = 0; l < FRAME_LIST_COUNT; l++) {
            for (unsigned s = 0; s <= frames->shard_mask; s++) {
                assert_true(sync_trylock(&frames->nodes[n].lists[l][s].lock));
                sync_unlock(&frames->nodes[n].lists[l][s].lock);
            }
        }
    }
    /* Each comes out of the shard it went to. */
    for (unsigned i = 0; i < COUNT; i++) {
        uint64_t word;
        assert_true(frames_unlink(frames, taken[i], word_of(frames, taken[i]), FRAME_ACTIVE, 0, 5, &word));
    }
    assert_int_equal(lists_walk(frames), 1024 - COUNT);
    frames_close(frames);
}

/*
 * Runs of 64 frames share a shard, so that neighbours share a lock. Runs are scattered, evenly, so that two threads
 * that go through their runs in order do not stay beside each other.
 */
static void test_shard_of_a_frame(void **state)
{
    tide_config config = small_config(1024);

    (void)state;
    config.list_shards = 4;
    struct frames *frames = frames_good(ONE_NODE, &config);
    unsigned in_step = 0;
    for (uint32_t number = 0; number < 1024; number++) {
        const struct frame_shard *shard = frames_shard(frames, 0, FRAME_LIST_FREE, (frame_t){ number });

        assert_ptr_equal(shard, frames_shard(frames, 0, FRAME_LIST_FREE, (frame_t){ number / 64 * 64 }));
        in_step += number % 64 == 0 && shard == &frames->nodes[0].lists[FRAME_LIST_FREE][number / 64 % 4];
    }
    assert_in_range(in_step, 0, 8); /* of 16 runs: not one after the other */
    for (unsigned s = 0; s < 4; s++)
        assert_in_range(frames->nodes[0].lists[FRAME_LIST_ZEROED][s].count, 192, 320);
    frames_close(frames);
}

/* Writers find the oldest of each shard, and one known page only by its PTE. */
static void test_take_modified_at(void **state)
{
    const tide_config config = small_config(32);
    struct frames *frames = frames_good(ONE_NODE, &config);
    frame_t taken[3];
    uint64_t other;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        taken[i] = take_active(frames, 0, true, 0, 5);
        trim(frames, taken[i]);
    }
    assert_false(frames_take_modified_at(frames, taken[1], &owner_ptes[taken[1].number])); /* too young */
    assert_true(frame_is_none(frames_take_modified(frames, 0)));
    grace_pass(frames);
    assert_false(frames_take_modified_at(frames, taken[1], &other)); /* of another PTE */
    assert_true(frames_take_modified_at(frames, taken[1], &owner_ptes[taken[1].number]));
    const uint64_t word = word_of(frames, taken[1]);
    assert_int_equal(pfn_state(word), FRAME_TRANSITION);
    assert_int_equal(pfn_reference_count(word), 1);
    assert_true((word & (PFN_WRITE_IN_PROGRESS | PFN_DIRTY)) == PFN_WRITE_IN_PROGRESS);
    assert_false(frames_take_modified_at(frames, taken[1], &owner_ptes[taken[1].number])); /* taken */
    const frame_t rest[] = { taken[0], taken[2] };
    assert_order(frames, FRAME_LIST_MODIFIED, rest, 2);
    struct frames_counts counts;
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.transition, 1);
    frames_close(frames);
}

static void test_counts(void **state)
{
    const tide_config config = small_config(64);
    struct frames *frames = frames_good(ONE_NODE, &config);
    struct frames_counts counts;

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        trim(frames, take_active(frames, 0, true, 0, 5));
    for (unsigned i = 0; i < 5; i++)
        (void)take_standby(frames, 0, 0x77, i);
    const frame_t active = take_active(frames, 0, true, 0, 5);
    const frame_t freed = take_active(frames, 0, true, 0, 5);
    frames_free(frames, freed);
    frames_counts(frames, 0, &counts);
    assert_int_equal(counts.lists[FRAME_LIST_MODIFIED], 3);
    assert_int_equal(counts.standby, 5);
    for (unsigned p = 0; p < 8; p++)
        assert_int_equal(counts.lists[FRAME_LIST_STANDBY + p], p < 5);
    assert_int_equal(counts.lists[FRAME_LIST_FREE], 1);
    assert_int_equal(counts.lists[FRAME_LIST_ZEROED], 64 - 10);
    assert_int_equal(counts.available, 64 - 10 + 1 + 5); /* zeroed, free, standby; neither modified nor active */
    assert_int_equal(frames_available(frames, 0), counts.available);
    assert_int_equal(counts.cached_zeroed + counts.cached_free + counts.transition, 0);
    assert_int_equal(state_of(frames, active), FRAME_ACTIVE);
    frames_close(frames);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fifo),
        cmocka_unit_test(test_free_is_fifo),
        cmocka_unit_test(test_removal_from_head_middle_and_tail),
        cmocka_unit_test(test_unlink_refuses_what_changed),
        cmocka_unit_test(test_insert_refuses_what_changed),
        cmocka_unit_test(test_batch_over_many_shards),
        cmocka_unit_test(test_shard_of_a_frame),
        cmocka_unit_test(test_take_modified_at),
        cmocka_unit_test(test_counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

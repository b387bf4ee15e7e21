/*
 * The ends of reads, writes and pins, each row of nt-behaviour 10.3 by hand: 4 to 8, 13, 16 to 21.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#define ONE_NODE "numa:1 core:2 pu:1"
#define OLD_COPY 0x1000000404ull /* what an original may look like: page-file forms are not 0 */
#define NEW_COPY 0x2000000404ull

static struct frames *frames; /* of the running test */

static int setup(void **state)
{
    const tide_config config = small_config(32);

    (void)state;
    frames = frames_good(ONE_NODE, &config);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    frames_close(frames);
    return 0;
}

static uint64_t in_transition(void)
{
    struct frames_counts counts;

    frames_counts(frames, 0, &counts);
    return counts.transition;
}

static uint64_t on_list(enum frame_list list)
{
    return frames_list_count(frames, 0, list);
}

/* A frame whose page is being written: row 16. */
static frame_t write_begin(void)
{
    const frame_t frame = take_active(frames, 0, true, 0, 2);

    trim(frames, frame);
    grace_pass(frames);
    assert_int_equal(frames_take_modified(frames, 0).number, frame.number);
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_TRANSITION);
    assert_int_equal(pfn_reference_count(word), 1);
    assert_true(word & PFN_WRITE_IN_PROGRESS);
    assert_false(word & PFN_DIRTY);
    assert_int_equal(in_transition(), 1);
    assert_int_equal(on_list(FRAME_LIST_MODIFIED), 0);
    return frame;
}

/* What a soft fault does to a frame in transition. */
static void soft_fault(frame_t frame)
{
    const uint64_t word = word_of(frames, frame);
    uint64_t seen;

    assert_true(frame_state_cas(frame_pfn(frames, frame), word,
                                pfn_with_state(word, FRAME_ACTIVE) + PFN_SHARE_ONE + PFN_REFERENCE_ONE, &seen));
    (void)sync_add_64(&frames->nodes[0].in_transition, (uint64_t)-1);
}

static void set_flag(frame_t frame, uint64_t flag)
{
    uint64_t seen;

    assert_true(
        frame_state_cas(frame_pfn(frames, frame), word_of(frames, frame), word_of(frames, frame) | flag, &seen));
}

/* Row 17. */
static void test_written(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    assert_true(frames_write_end(frames, frame, NEW_COPY, true));
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_STANDBY);
    assert_int_equal(pfn_reference_count(word), 0);
    assert_false(word & (PFN_WRITE_IN_PROGRESS | PFN_DIRTY));
    assert_int_equal(on_list((enum frame_list)(FRAME_LIST_STANDBY + 2)), 1); /* of its own priority */
    assert_true(frame_pfn(frames, frame)->original == NEW_COPY);
    assert_int_equal(in_transition(), 0);
}

/* To the tail: what was on standby before is older. */
static void test_written_goes_to_the_tail(void **state)
{
    const frame_t older = take_standby(frames, 0, OLD_COPY, 2);
    const frame_t frame = write_begin();
    uint32_t numbers[2];

    (void)state;
    assert_true(frames_write_end(frames, frame, NEW_COPY, true));
    assert_int_equal(shard_frames(frames, frames->nodes[0].lists[FRAME_LIST_STANDBY + 2], numbers, 2), 2);
    assert_int_equal(numbers[0], older.number);
    assert_int_equal(numbers[1], frame.number);
}

/* Row 19, first half. */
static void test_write_failed(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    assert_false(frames_write_end(frames, frame, NEW_COPY, false));
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_MODIFIED);
    assert_true(word & PFN_DIRTY);
    assert_false(word & PFN_WRITE_IN_PROGRESS);
    assert_true(frame_pfn(frames, frame)->original == 0);
    assert_int_equal(on_list(FRAME_LIST_MODIFIED), 1);
    assert_int_equal(in_transition(), 0);
}

/* Row 19, second half: dirtied again and trimmed while the write was in flight. */
static void test_dirtied_during_write(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    soft_fault(frame);
    set_flag(frame, PFN_DIRTY);
    const uint64_t word = word_of(frames, frame);
    uint64_t seen;
    assert_true(frame_state_cas(frame_pfn(frames, frame), word,
                                pfn_with_state(word, FRAME_TRANSITION) - PFN_SHARE_ONE - PFN_REFERENCE_ONE, &seen));
    (void)sync_add_64(&frames->nodes[0].in_transition, 1);
    assert_false(frames_write_end(frames, frame, NEW_COPY, true)); /* the caller releases the slot */
    assert_int_equal(state_of(frames, frame), FRAME_MODIFIED);
    assert_true(frame_pfn(frames, frame)->original == 0);
    assert_int_equal(on_list(FRAME_LIST_MODIFIED), 1);
    assert_int_equal(in_transition(), 0);
}

/* Row 18: a page that a fault took back is on no list at the end of its write; clean, it keeps its copy. */
static void test_touched_during_write(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    soft_fault(frame);
    assert_true(frames_write_end(frames, frame, NEW_COPY, true));
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_int_equal(pfn_reference_count(word), 1);
    assert_int_equal(pfn_share_count(word), 1);
    assert_false(word & (PFN_DIRTY | PFN_WRITE_IN_PROGRESS));
    assert_true(frame_pfn(frames, frame)->original == NEW_COPY);
    assert_int_equal(on_list(FRAME_LIST_MODIFIED) + on_list((enum frame_list)(FRAME_LIST_STANDBY + 2)), 0);
}

static void test_dirtied_and_kept_during_write(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    soft_fault(frame);
    set_flag(frame, PFN_DIRTY);
    assert_false(frames_write_end(frames, frame, NEW_COPY, true));
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_true(word & PFN_DIRTY);
    assert_true(frame_pfn(frames, frame)->original == 0);
}

/* A write that fails under a page that was read meanwhile leaves it dirty: its only copy is in memory. */
static void test_touched_during_failing_write(void **state)
{
    const frame_t frame = write_begin();

    (void)state;
    soft_fault(frame);
    assert_false(frames_write_end(frames, frame, NEW_COPY, false));
    const uint64_t word = word_of(frames, frame);
    assert_int_equal(pfn_state(word), FRAME_ACTIVE);
    assert_true(word & PFN_DIRTY);
    assert_true(frame_pfn(frames, frame)->original == 0);
    assert_int_equal(pfn_reference_count(word), 1);
}

/* Row 7: deleted during the write. */
static void test_deleted_during_write(void **state)
{
    for (int written = 0; written < 2; written++) {
        const frame_t frame = write_begin();

        (void)state;
        set_flag(frame, PFN_DELETED);
        assert_false(frames_write_end(frames, frame, NEW_COPY, written != 0));
        const uint64_t word = word_of(frames, frame);
        assert_int_equal(pfn_state(word), FRAME_FREE);
        assert_int_equal(pfn_reference_count(word), 0);
        assert_false(word & (PFN_DELETED | PFN_WRITE_IN_PROGRESS | PFN_DIRTY));
        assert_null(frame_pfn(frames, frame)->pte);
        assert_true(frame_pfn(frames, frame)->original == 0);
        assert_int_equal(on_list(FRAME_LIST_FREE), written + 1);
        assert_int_equal(in_transition(), 0);
    }
    assert_int_equal(lists_walk(frames), 32);
}

/* Deleted during its write while a pin holds it too: the last of the two frees it, in either order. */
static void test_deleted_during_write_under_a_pin(void **state)
{
    for (int pin_first = 0; pin_first < 2; pin_first++) {
        const frame_t frame = write_begin();
        uint64_t seen;

        (void)state;
        assert_true(frame_state_cas(frame_pfn(frames, frame), word_of(frames, frame),
                                    (word_of(frames, frame) | PFN_DELETED) + PFN_REFERENCE_ONE, &seen));
        if (pin_first)
            frames_reference_drop(frames, frame);
        else
            assert_false(frames_write_end(frames, frame, NEW_COPY, true));
        assert_int_equal(state_of(frames, frame), FRAME_TRANSITION);
        assert_int_equal(on_list(FRAME_LIST_FREE), pin_first);
        if (pin_first)
            assert_false(frames_write_end(frames, frame, NEW_COPY, true));
        else
            frames_reference_drop(frames, frame);
        assert_int_equal(state_of(frames, frame), FRAME_FREE);
        assert_int_equal(on_list(FRAME_LIST_FREE), pin_first + 1);
        assert_int_equal(in_transition(), 0);
    }
}

/* A frame that was trimmed under pins: row 8. */
static frame_t pinned_and_trimmed(bool dirty, unsigned pins)
{
    const frame_t frame = take_active(frames, 0, dirty, dirty ? 0 : OLD_COPY, 4);
    const uint64_t word = word_of(frames, frame);
    uint64_t seen;

    assert_true(frame_state_cas(
        frame_pfn(frames, frame), word,
        pfn_with_state(word, FRAME_TRANSITION) - PFN_SHARE_ONE - PFN_REFERENCE_ONE + pins * PFN_REFERENCE_ONE, &seen));
    (void)sync_add_64(&frames->nodes[0].in_transition, 1);
    return frame;
}

/* Row 13: the last reference decides by the dirty and deleted bits; the ones before it decide nothing. */
static void test_last_pin(void **state)
{
    const frame_t clean = pinned_and_trimmed(false, 3);
    const frame_t dirty = pinned_and_trimmed(true, 2);
    const frame_t deleted = pinned_and_trimmed(true, 1);

    (void)state;
    assert_int_equal(in_transition(), 3);
    frames_reference_drop(frames, clean);
    frames_reference_drop(frames, clean);
    frames_reference_drop(frames, dirty);
    assert_int_equal(state_of(frames, clean), FRAME_TRANSITION);
    assert_int_equal(state_of(frames, dirty), FRAME_TRANSITION);
    assert_int_equal(in_transition(), 3);
    frames_reference_drop(frames, clean);
    frames_reference_drop(frames, dirty);
    set_flag(deleted, PFN_DELETED);
    frames_reference_drop(frames, deleted);
    assert_int_equal(state_of(frames, clean), FRAME_STANDBY);
    assert_true(frame_pfn(frames, clean)->original == OLD_COPY);
    assert_int_equal(on_list((enum frame_list)(FRAME_LIST_STANDBY + 4)), 1);
    assert_int_equal(state_of(frames, dirty), FRAME_MODIFIED);
    assert_int_equal(state_of(frames, deleted), FRAME_FREE);
    assert_int_equal(in_transition(), 0);
    assert_int_equal(lists_walk(frames), 32);
}

/* A pin on a valid page ends without moving it. */
static void test_pin_of_a_valid_page(void **state)
{
    const frame_t frame = take_active(frames, 0, true, 0, 5);
    const uint64_t word = word_of(frames, frame);
    uint64_t seen;

    (void)state;
    assert_true(frame_state_cas(frame_pfn(frames, frame), word, word + PFN_REFERENCE_ONE, &seen));
    frames_reference_drop(frames, frame);
    assert_true(word_of(frames, frame) == word);
}

/* Rows 4 and 5, 6, 7: the target of a read becomes valid, a neighbour on standby, or free again. */
static void test_reads(void **state)
{
    frame_t target[3];
    uint64_t seen;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        target[i] = take(frames, 0, FRAMES_ANY);
        frames_read_begin(frames, target[i], &owner_ptes[i], NEW_COPY + i, i);
        const uint64_t word = word_of(frames, target[i]);
        assert_int_equal(pfn_state(word), FRAME_TRANSITION);
        assert_true(word & PFN_READ_IN_PROGRESS);
        assert_int_equal(pfn_reference_count(word), 1);
        assert_int_equal(pfn_share_count(word), 0);
        assert_int_equal(pfn_priority(word), i);
        assert_ptr_equal(frame_pfn(frames, target[i])->pte, &owner_ptes[i]);
        assert_true(frame_pfn(frames, target[i])->original == NEW_COPY + i);
    }
    assert_int_equal(in_transition(), 3);
    const uint64_t word = word_of(frames, target[1]);
    assert_true(frames_insert(frames, target[1], word,
                              (pfn_with_state(word, FRAME_STANDBY) & ~PFN_READ_IN_PROGRESS) - PFN_REFERENCE_ONE,
                              &seen));
    assert_int_equal(on_list((enum frame_list)(FRAME_LIST_STANDBY + 1)), 1);
    frames_give_back(frames, target[2], false);
    assert_int_equal(state_of(frames, target[2]), FRAME_FREE);
    assert_null(frame_pfn(frames, target[2])->pte);
    assert_true(frame_pfn(frames, target[2])->original == 0);
    assert_int_equal(in_transition(), 2); /* the two others are their fault's to count */
}

/*
 * Row 20: repurposing asks the owner, counts by priority, and leaves a free frame that nothing of the page clings to.
 */
static void test_repurpose(void **state)
{
    const frame_t claimed = take_standby(frames, 0, OLD_COPY, 1);
    const frame_t low = take_standby(frames, 0, OLD_COPY + 1, 1);
    const frame_t high = take_standby(frames, 0, OLD_COPY + 2, 6);

    (void)state;
    owner_ptes[claimed.number] = OWNER_CLAIMED;
    assert_int_equal(frames_repurpose(frames, 0, 5, 10), 1);
    assert_int_equal(state_of(frames, claimed), FRAME_STANDBY);
    assert_int_equal(state_of(frames, high), FRAME_STANDBY);
    assert_int_equal(state_of(frames, low), FRAME_FREE);
    assert_true(owner_ptes[low.number] == OLD_COPY + 1);
    assert_null(frame_pfn(frames, low)->pte);
    assert_true(frame_pfn(frames, low)->original == 0);
    assert_int_equal(frames->cpus[0].repurposed[1], 1);
    assert_int_equal(frames_repurpose(frames, 0, 7, 1), 1);
    assert_int_equal(state_of(frames, high), FRAME_FREE);
    assert_int_equal(frames->cpus[0].repurposed[6], 1);
    owner_ptes[claimed.number] = OWNER_IN_FRAME;
    assert_int_equal(frames_repurpose(frames, 0, 7, 10), 1);
    assert_int_equal(frames->cpus[0].repurposed[1], 2);
    assert_int_equal(lists_walk(frames), 32);
}

/* Row 21: the owner deletes a listed page. */
static void test_deleted_from_a_list(void **state)
{
    const frame_t standby = take_standby(frames, 0, OLD_COPY, 1);
    const frame_t modified = take_active(frames, 0, true, 0, 1);
    uint64_t word;

    (void)state;
    trim(frames, modified);
    assert_true(frames_unlink(frames, standby, word_of(frames, standby), FRAME_ACTIVE, 0, 5, &word));
    frames_free(frames, standby);
    assert_true(frames_unlink(frames, modified, word_of(frames, modified), FRAME_ACTIVE, 0, 5, &word));
    frames_free(frames, modified);
    assert_int_equal(on_list(FRAME_LIST_FREE), 2);
    assert_int_equal(state_of(frames, modified), FRAME_FREE);
    assert_false(word_of(frames, modified) & PFN_DIRTY);
    assert_int_equal(lists_walk(frames), 32);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_written),
        TEST(test_written_goes_to_the_tail),
        TEST(test_write_failed),
        TEST(test_dirtied_during_write),
        TEST(test_touched_during_write),
        TEST(test_dirtied_and_kept_during_write),
        TEST(test_touched_during_failing_write),
        TEST(test_deleted_during_write),
        TEST(test_deleted_during_write_under_a_pin),
        TEST(test_last_pin),
        TEST(test_pin_of_a_valid_page),
        TEST(test_reads),
        TEST(test_repurpose),
        TEST(test_deleted_from_a_list),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

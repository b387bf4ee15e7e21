/*
 * The state machine of a frame: every pair of states against nt-behaviour 10.3, and both gates.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <string.h>

/*
 * The legal edges once more, by hand: row from, column to, in the order Zeroed, Free, Standby, Modified,
 * modified-No-write, Bad, Active, Transition. Each x stands for a row of nt-behaviour 10.3 or for a way back that
 * nobody has seen.
 */
static const char *const edges[] = {
    /*           Z F S M N B A T */
    [FRAME_ZEROED] = "=x...xxx",
    [FRAME_FREE] = "x=...xxx",
    [FRAME_STANDBY] = ".x=...x.",
    [FRAME_MODIFIED] = ".x.=..xx",
    [FRAME_MODIFIED_NO_WRITE] = ".xxx=.x.",
    [FRAME_BAD] = ".....=..",
    [FRAME_ACTIVE] = "xxxxx.=x",
    [FRAME_TRANSITION] = "xxxxx.x=",
};

struct pair {
    enum frame_state from, to;
};

static void test_every_pair(void **state)
{
    (void)state;
    assert_int_equal(FRAME_STATE_COUNT, sizeof edges / sizeof edges[0]);
    for (unsigned from = 0; from < FRAME_STATE_COUNT; from++) {
        assert_int_equal(strlen(edges[from]), FRAME_STATE_COUNT);
        for (unsigned to = 0; to < FRAME_STATE_COUNT; to++)
            if (frame_edge_legal((enum frame_state)from, (enum frame_state)to) != (edges[from][to] != '.'))
                fail_msg("%s to %s is %s in states.def", frame_state_name((enum frame_state)from),
                         frame_state_name((enum frame_state)to), edges[from][to] == '.' ? "legal" : "illegal");
    }
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(frame_state_name(FRAME_ZEROED), "ZEROED");
    assert_string_equal(frame_state_name(FRAME_TRANSITION), "TRANSITION");
    assert_string_equal(frame_state_name(FRAME_STATE_COUNT), "no state");
}

static void set_gate(void *context)
{
    const struct pair *pair = context;
    struct pfn pfn = { .word = PFN_DIRTY | (uint64_t)pair->from };

    frame_state_set(&pfn, PFN_DIRTY | (uint64_t)pair->to);
}

static void cas_gate(void *context)
{
    const struct pair *pair = context;
    struct pfn pfn = { .word = PFN_DIRTY | (uint64_t)pair->from };
    uint64_t seen;

    (void)frame_state_cas(&pfn, PFN_DIRTY | (uint64_t)pair->from, PFN_DIRTY | (uint64_t)pair->to, &seen);
}

static void test_gates_stop_illegal_edges(void **state)
{
    (void)state;
#ifdef NDEBUG
    skip(); /* the gates check in debug builds */
#endif
    for (unsigned from = 0; from < FRAME_STATE_COUNT; from++) {
        for (unsigned to = 0; to < FRAME_STATE_COUNT; to++) {
            struct pair pair = { (enum frame_state)from, (enum frame_state)to };

            if (edges[from][to] != '.') {
                set_gate(&pair);
                cas_gate(&pair);
                continue;
            }
            assert_aborts(set_gate, &pair, "frame_edge_legal", NULL);
            assert_aborts(cas_gate, &pair, "frame_edge_legal", NULL);
        }
    }
}

static void test_cas_tells_what_was_there(void **state)
{
    struct pfn pfn = { .word = (uint64_t)FRAME_ACTIVE | PFN_REFERENCE_ONE };
    const uint64_t old = pfn.word;
    uint64_t seen = 0;

    (void)state;
    assert_false(frame_state_cas(&pfn, old | PFN_DIRTY, old, &seen));
    assert_true(seen == old && pfn.word == old);
    assert_true(frame_state_cas(&pfn, old, old + PFN_REFERENCE_ONE, &seen));
    assert_int_equal(pfn_reference_count(pfn.word), 2);
}

/* Each field of the word keeps its place while the others are full. */
static void test_word_fields_are_disjoint(void **state)
{
    const uint64_t flags[] = { PFN_DIRTY, PFN_READ_IN_PROGRESS, PFN_WRITE_IN_PROGRESS, PFN_DELETED };
    const uint64_t masks[] = { PFN_STATE_MASK, PFN_PRIORITY_MASK,  PFN_USE_MASK,
                               PFN_GRACE_MASK, PFN_REFERENCE_MASK, PFN_SHARE_MASK };
    uint64_t all = 0;

    (void)state;
    for (unsigned i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        assert_true((all & masks[i]) == 0);
        all |= masks[i];
    }
    for (unsigned i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        assert_true((all & flags[i]) == 0);
        all |= flags[i];
    }
    assert_int_equal(sizeof(struct pfn), 32);
    for (unsigned state_value = 0; state_value < FRAME_STATE_COUNT; state_value++)
        assert_int_equal(pfn_state(pfn_with_state(~0ull, (enum frame_state)state_value)), state_value);
    for (unsigned priority = 0; priority < 8; priority++) {
        const uint64_t word = pfn_with_priority(~0ull, priority);
        assert_int_equal(pfn_priority(word), priority);
        assert_true((word | PFN_PRIORITY_MASK) == ~0ull);
    }
    assert_int_equal(pfn_grace(pfn_with_grace(~0ull, 0x1234)), 0x1234);
    assert_int_equal(pfn_grace(pfn_with_grace(0, 0xFFFF)), 0xFFFF);
    assert_true((pfn_with_grace(~0ull, 0) | PFN_GRACE_MASK) == ~0ull);
    assert_int_equal(pfn_reference_count(PFN_REFERENCE_MASK), UINT16_MAX);
    assert_int_equal(pfn_share_count(PFN_SHARE_MASK), UINT16_MAX);
    assert_int_equal(pfn_use((uint64_t)FRAME_USE_PAGE_TABLE << PFN_USE_SHIFT), FRAME_USE_PAGE_TABLE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_gates_stop_illegal_edges),
        cmocka_unit_test(test_cas_tells_what_was_there),
        cmocka_unit_test(test_word_fields_are_disjoint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

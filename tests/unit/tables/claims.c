/*
 * Claims of PTEs: who waits is woken, whoever claims it meanwhile; the repurposer gets none but transition forms.
 *
 * A lost wake-up shows as a test that never ends.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <pthread.h>
#include <sched.h>

static struct frames *frames; /* of the running test */
static struct pte_waits waits;

static int setup(void **state)
{
    (void)state;
    frames = frames_good(16);
    for (unsigned i = 0; i < PTE_WAIT_BUCKETS; i++)
        sync_event_init(&waits.buckets[i].event);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    frames_close(frames);
    return 0;
}

/* A wait on a PTE that is not busy returns at once, and marks nothing. */
static void test_nothing_to_wait_for(void **state)
{
    const pte_t forms[] = { { 0 },
                            pte_make(PTE_TAG_NONE, PTE_READWRITE),
                            pte_make_transition((frame_t){ 3 }, PTE_READONLY),
                            pte_make_valid((frame_t){ 3 }, PTE_READWRITE, true),
                            pte_make(PTE_TAG_DECOMMITTED, PTE_PROTECTION_DECOMMITTED) };

    (void)state;
    for (unsigned i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        uint64_t pte = forms[i].bits;
        pte_wait(&waits, NULL, &pte);
        assert_true(pte == forms[i].bits);
    }
}

/* The end of a claim publishes the new form; only a waiter's mark costs a signal. */
static void test_release(void **state)
{
    const pte_t valid = pte_make_valid((frame_t){ 3 }, PTE_READWRITE, true);
    uint64_t pte = pte_busy_form(valid).bits;
    uint32_t before[PTE_WAIT_BUCKETS];
    unsigned moved = 0;

    (void)state;
    for (unsigned i = 0; i < PTE_WAIT_BUCKETS; i++)
        before[i] = sync_event_value(&waits.buckets[i].event);
    pte_release(&waits, &pte, valid);
    assert_true(pte == valid.bits);
    for (unsigned i = 0; i < PTE_WAIT_BUCKETS; i++)
        assert_int_equal(sync_event_value(&waits.buckets[i].event), before[i]);
    pte = pte_busy_form(valid).bits | PTE_WAITED;
    pte_release(&waits, &pte, valid);
    assert_true(pte == valid.bits);
    for (unsigned i = 0; i < PTE_WAIT_BUCKETS; i++)
        moved += sync_event_value(&waits.buckets[i].event) != before[i];
    assert_int_equal(moved, 1);
}

/* ---- many claimers and waiters ---------------------------------------------------------------------------------- */

enum { THREADS = 8, PTES = 3, CLAIMS = 6000 / EFFORT_DIVISOR };

static struct {
    uint64_t ptes[PTES];
    uint64_t counts[PTES];  /* owned by whoever has the claim: plain, so that two owners would lose one */
    uint32_t holders[PTES]; /* [A] */
    uint32_t violations;    /* [A] */
    uint32_t sleeps;        /* [A] claims that a waiter had marked */
} shared;

static void *claimer_main(void *context)
{
    struct grace_thread *thread = grace_thread_get(&frames->grace);
    uint64_t seed = (uint64_t)(uintptr_t)context;

    for (unsigned done = 0; done < CLAIMS;) {
        const unsigned which = (unsigned)random_below(&seed, PTES);
        uint64_t *pte = &shared.ptes[which];

        grace_enter(thread);
        const pte_t seen = pte_load(pte);
        if (pte_is_busy(seen)) {
            const bool leave = random_below(&seed, 2) == 0;

            pte_wait(&waits, leave ? thread : NULL, pte);
        } else if (pte_cas(pte, seen, pte_busy_form(seen))) {
            if (sync_add_32(&shared.holders[which], 1) != 0)
                (void)sync_add_32(&shared.violations, 1);
            shared.counts[which]++;
            if (random_below(&seed, 4) == 0)
                sched_yield(); /* long enough for others to fall asleep */
            (void)sync_add_32(&shared.holders[which], (uint32_t)-1);
            if (sync_load_64(pte) & PTE_WAITED)
                (void)sync_add_32(&shared.sleeps, 1);
            pte_release(&waits, pte, seen);
            done++;
        }
        if (thread->depth != 1 || thread->operating != 1)
            (void)sync_add_32(&shared.violations, 1);
        grace_leave(thread);
    }
    grace_thread_put(thread);
    return NULL;
}

static void test_claims_exclude_and_wake(void **state)
{
    pthread_t threads[THREADS];
    uint64_t sum = 0;

    (void)state;
    for (unsigned i = 0; i < PTES; i++)
        shared.ptes[i] = pte_make_transition((frame_t){ i }, PTE_READWRITE).bits;
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, claimer_main, (void *)(uintptr_t)(i + 1)), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < PTES; i++) {
        assert_true(shared.ptes[i] == pte_make_transition((frame_t){ i }, PTE_READWRITE).bits);
        sum += shared.counts[i];
    }
    assert_int_equal(shared.violations, 0);
    assert_int_equal(sum, THREADS * CLAIMS);
    assert_true(shared.sleeps != 0);
}

/* ---- a waiter leaves the engine --------------------------------------------------------------------------------- */

static uint64_t slept_on;
static uint32_t waiter_tells; /* [A] */

static void *waiter_main(void *context)
{
    struct grace_thread *thread = grace_thread_get(&frames->grace);

    (void)context;
    grace_enter(thread);
    grace_enter(thread);
    pte_wait(&waits, thread, &slept_on);
    sync_store_32(&waiter_tells, thread->depth);
    grace_leave(thread);
    grace_leave(thread);
    grace_thread_put(thread);
    return NULL;
}

/* While it sleeps neither the world nor the grace period waits for it. */
static void test_waiter_is_outside_of_the_engine(void **state)
{
    const pte_t valid = pte_make_valid((frame_t){ 3 }, PTE_READWRITE, true);
    const uint16_t stamp = grace_now(&frames->grace);
    pthread_t waiter;

    (void)state;
    slept_on = pte_busy_form(valid).bits;
    assert_int_equal(pthread_create(&waiter, NULL, waiter_main, NULL), 0);
    while (!(sync_load_64(&slept_on) & PTE_WAITED))
        sched_yield();
    grace_world_stop(&frames->grace);
    while (!grace_passed(&frames->grace, stamp))
        (void)grace_advance(&frames->grace);
    grace_world_resume(&frames->grace);
    pte_release(&waits, &slept_on, valid);
    pthread_join(waiter, NULL);
    assert_int_equal(waiter_tells, 2);
}

/* ---- detach ----------------------------------------------------------------------------------------------------- */

static void test_detach_only_from_transition(void **state)
{
    const frame_t frame = { 3 };
    const struct stores_slot slot = { 7, 0x89ABCDEF };
    uint64_t pte;
    struct pfn pfn = { .word = FRAME_STANDBY, .pte = &pte, .original = pte_original_of(slot) };
    const pte_t others[] = {
        { 0 },
        pte_make(PTE_TAG_NONE, PTE_READWRITE),
        pte_make(PTE_TAG_DECOMMITTED, PTE_PROTECTION_DECOMMITTED),
        pte_make(PTE_TAG_PROTOTYPE, PTE_READWRITE),
        pte_busy_form(pte_make_transition(frame, PTE_READWRITE)),
        { pte_busy_form(pte_make_transition(frame, PTE_READWRITE)).bits | PTE_WAITED },
        pte_make_valid(frame, PTE_READWRITE, false),
        { pte_original_of(slot) },
    };

    (void)state;
    for (unsigned i = 0; i < sizeof others / sizeof others[0]; i++) {
        pte = others[i].bits;
        assert_false(page_table_detach(&pfn, frame));
        assert_true(pte == others[i].bits);
    }
    pte = pte_make_transition(frame, PTE_EXECUTE_READ).bits;
    assert_true(page_table_detach(&pfn, frame));
    assert_int_equal(pte_tag((pte_t){ pte }), PTE_TAG_PAGE_FILE);
    assert_int_equal(pte_protection((pte_t){ pte }), PTE_EXECUTE_READ);
    assert_int_equal(pte_slot((pte_t){ pte }).file, 7);
    assert_int_equal(pte_slot((pte_t){ pte }).slot, 0x89ABCDEF);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_to_wait_for),         TEST(test_release),
        TEST(test_claims_exclude_and_wake),     TEST(test_waiter_is_outside_of_the_engine),
        TEST(test_detach_only_from_transition),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

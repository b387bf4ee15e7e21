/*
 * Locks, flags, ranks and events.
 *
 * cmocka's asserts work on the main thread only: other threads write down what they saw.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/os.h"
#include "base/sync.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { THREADS = 8, ROUNDS = 5000, FLAG_THREADS = 2, FLAG_ROUNDS = 100000 };

static void run_threads(unsigned count, void *(*body)(void *), void *context)
{
    pthread_t threads[THREADS];

    assert_true(count <= THREADS);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, body, context), 0);
    for (unsigned i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
}

/* ---- exclusion -------------------------------------------------------------------------------------------------- */

struct shared {
    struct sync_lock lock;
    struct sync_flag flag;
    uint32_t inside; /* [A] threads in the section */
    uint32_t broken; /* [A] someone met another there */
    uint64_t sum;    /* plain: only exclusion keeps it right */
};

/* Gives the CPU away inside, so that with few CPUs others come to the lock meanwhile, spin, and sleep. */
static void section(struct shared *shared, unsigned round)
{
    if (sync_add_32(&shared->inside, 1) != 0)
        sync_store_32(&shared->broken, 1);
    const uint64_t sum = shared->sum;
    if (round % 64 == 0)
        sched_yield();
    shared->sum = sum + 1;
    (void)sync_add_32(&shared->inside, (uint32_t)-1);
}

static void *locker(void *context)
{
    struct shared *shared = context;

    for (unsigned i = 0; i < ROUNDS; i++) {
        sync_lock(&shared->lock);
        section(shared, i);
        sync_unlock(&shared->lock);
    }
    return NULL;
}

/* Every other round by trying. */
static void *trier(void *context)
{
    struct shared *shared = context;

    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 2 == 0) {
            while (!sync_trylock(&shared->lock))
                sched_yield();
        } else {
            sync_lock(&shared->lock);
        }
        section(shared, i);
        sync_unlock(&shared->lock);
    }
    return NULL;
}

static void *flagger(void *context)
{
    struct shared *shared = context;

    for (unsigned i = 0; i < FLAG_ROUNDS; i++) {
        /* At changing distances, so that both often come to a clear flag at the same moment. */
        for (unsigned pauses = i % 61; pauses != 0; pauses--)
            sync_pause();
        for (unsigned tries = 1; !sync_flag_try(&shared->flag); tries++)
            if (tries % 256 == 0)
                sched_yield();
        section(shared, i);
        sync_flag_clear(&shared->flag);
    }
    return NULL;
}

static void one_thread_at_a_time_is_inside(void **state)
{
    static const struct {
        void *(*body)(void *);
        unsigned threads, rounds;
    } crews[] = { { locker, THREADS, ROUNDS }, { trier, THREADS, ROUNDS }, { flagger, FLAG_THREADS, FLAG_ROUNDS } };

    (void)state;
    for (unsigned i = 0; i < sizeof crews / sizeof *crews; i++) {
        struct shared shared = { .sum = 0 };

        sync_lock_init(&shared.lock, SYNC_RANK_test);
        run_threads(crews[i].threads, crews[i].body, &shared);
        assert_int_equal(shared.broken, 0);
        assert_int_equal(shared.sum, (uint64_t)crews[i].threads * crews[i].rounds);
        assert_int_equal(shared.lock.word, 0);
        assert_int_equal(shared.flag.word, 0);
    }
}

struct attempt {
    struct sync_lock *lock;
    struct sync_flag *flag;
    bool locked, flagged;
};

static void *attempt_main(void *context)
{
    struct attempt *attempt = context;

    attempt->locked = sync_trylock(attempt->lock);
    if (attempt->locked)
        sync_unlock(attempt->lock);
    attempt->flagged = sync_flag_try(attempt->flag);
    if (attempt->flagged)
        sync_flag_clear(attempt->flag);
    return NULL;
}

static void what_is_held_cannot_be_had_by_trying(void **state)
{
    struct sync_lock lock;
    struct sync_flag flag = { 0 };
    struct attempt attempt = { .lock = &lock, .flag = &flag };

    (void)state;
    sync_lock_init(&lock, SYNC_RANK_test);
    assert_true(sync_trylock(&lock));
    assert_true(sync_flag_try(&flag));
    assert_false(sync_flag_try(&flag));
    run_threads(1, attempt_main, &attempt);
    assert_false(attempt.locked);
    assert_false(attempt.flagged);
    sync_unlock(&lock);
    sync_flag_clear(&flag);
    run_threads(1, attempt_main, &attempt);
    assert_true(attempt.locked);
    assert_true(attempt.flagged);
}

static void *sleeper(void *context)
{
    struct sync_lock *lock = context;

    sync_lock(lock);
    sync_unlock(lock);
    return NULL;
}

/* Each unlock wakes the next: nobody sleeps on. */
static void everyone_who_sleeps_for_a_lock_gets_it(void **state)
{
    pthread_t threads[THREADS];
    struct sync_lock lock;

    (void)state;
    sync_lock_init(&lock, SYNC_RANK_test);
    for (unsigned round = 0; round < 20; round++) {
        sync_lock(&lock);
        for (unsigned i = 0; i < THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, sleeper, &lock), 0);
        while (sync_load_32(&lock.word) != 2)
            sched_yield();
        sync_unlock(&lock);
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        assert_int_equal(lock.word, 0);
    }
}

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

#ifndef NDEBUG
static struct sync_lock engine_lock, space_lock, other_space_lock, worker_lock;

static void locks_init(void)
{
    sync_lock_init(&engine_lock, SYNC_RANK_engine);
    sync_lock_init(&space_lock, SYNC_RANK_space);
    sync_lock_init(&other_space_lock, SYNC_RANK_space);
    sync_lock_init(&worker_lock, SYNC_RANK_worker);
}

/* Not inlined, and not in the frame of another: the report must name both. */
__attribute__((noinline)) static void takes_the_space(void)
{
    sync_lock(&space_lock);
}

static void in_order(void)
{
    sync_lock(&engine_lock);
    takes_the_space();
    sync_unlock(&engine_lock); /* in any order back */
    sync_unlock(&space_lock);
    sync_lock(&engine_lock);
    sync_unlock(&engine_lock);
}

static void against_the_order(void)
{
    takes_the_space();
    sync_lock(&engine_lock);
}

static void two_of_a_rank(void)
{
    takes_the_space();
    sync_lock(&other_space_lock);
}

static void after_one_was_let_go(void)
{
    sync_lock(&engine_lock);
    takes_the_space();
    sync_unlock(&engine_lock);
    sync_lock(&engine_lock);
}

static void tried_against_the_order(void)
{
    takes_the_space();
    if (!sync_trylock(&engine_lock))
        _exit(3);
    sync_unlock(&engine_lock);
    sync_unlock(&space_lock);
}

/* What was tried for counts as held. */
static void waits_with_a_tried_one(void)
{
    if (!sync_trylock(&space_lock))
        _exit(3);
    sync_lock(&engine_lock);
}

static void lets_go_what_it_has_not(void)
{
    sync_unlock(&space_lock);
}

static void waits_with_a_lock(void)
{
    takes_the_space();
    sync_assert_unlocked();
}

static void waits_with_its_workers_lock(void)
{
    sync_lock(&worker_lock);
    sync_assert_unlocked();
    sync_unlock(&worker_lock);
    sync_assert_unlocked();
}

/* Runs the body in a child. Returns its wait status; its standard error is in text[]. */
static int child_run(void (*body)(void), char *text, size_t room)
{
    int ends[2], status = 0;
    size_t got = 0;

    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    fflush(stderr);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = { 0, 0 };

        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(ends[1], 2);
        body();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; got < room - 1 && (n = read(ends[0], text + got, room - 1 - got)) > 0;)
        got += (size_t)n;
    text[got] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* The child stops, and names the lock taken, the lock held, and a place in the program for each. */
static void assert_violates(void (*body)(void), const char *takes, const char *holds)
{
    char text[8192], expected[128];
    const int status = child_run(body, text, sizeof text);

    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fail_msg("the wait status is 0x%x, not an abort; it said \"%s\"", (unsigned)status, text);
    snprintf(expected, sizeof expected, "takes %s while holding %s, which was taken at\n", takes, holds);
    const char *held = strstr(text, expected);
    if (held == NULL)
        fail_msg("\"%s\" is not in \"%s\"", expected, text);
    held += strlen(expected);
    const char *now = strstr(held, "and now\n");
    assert_non_null(now);
    /* A line of a backtrace ends in its address in brackets. */
    const char *first = strstr(held, "[0x"), *second = strstr(now, "[0x");
    if (first == NULL || first > now || second == NULL)
        fail_msg("not both places are in \"%s\"", text);
}

static void assert_child(void (*body)(void), bool aborts, const char *says)
{
    char text[8192];
    const int status = child_run(body, text, sizeof text);

    if ((WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) != aborts ||
        (!aborts && (!WIFEXITED(status) || WEXITSTATUS(status) != 0)))
        fail_msg("the wait status is 0x%x; it said \"%s\"", (unsigned)status, text);
    if (strstr(text, says) == NULL)
        fail_msg("\"%s\" is not in \"%s\"", says, text);
}

static void locks_are_taken_in_the_order_of_their_ranks(void **state)
{
    (void)state;
    locks_init();
    assert_child(in_order, false, "");
    assert_violates(against_the_order, "engine", "space");
    assert_violates(two_of_a_rank, "space", "space");
    assert_violates(after_one_was_let_go, "engine", "space");
    assert_child(tried_against_the_order, false, "");
    assert_violates(waits_with_a_tried_one, "engine", "space");
    assert_child(lets_go_what_it_has_not, true, "a lock is released by the thread that holds it");
}

static void no_lock_of_data_is_held_over_io(void **state)
{
    (void)state;
    locks_init();
    assert_child(waits_with_a_lock, true, "assertion failed");
    assert_child(waits_with_its_workers_lock, false, "");
}
#endif

/* ---- events ----------------------------------------------------------------------------------------------------- */

struct turns {
    struct sync_event event;
    uint32_t turn;    /* [A] whose turn it is */
    uint32_t next;    /* [A] numbers given out */
    uint32_t players; /* [I] */
};

/* Passes the turn round: were one wake-up lost, all would sleep for ever. */
static void *player(void *context)
{
    struct turns *turns = context;
    const uint32_t mine = sync_add_32(&turns->next, 1);

    for (uint32_t round = 0; round < 2000; round++) {
        for (;;) {
            const uint32_t value = sync_event_value(&turns->event);

            if (sync_load_32(&turns->turn) == round * turns->players + mine)
                break;
            (void)sync_event_wait(&turns->event, value, UINT64_MAX);
        }
        (void)sync_add_32(&turns->turn, 1);
        sync_event_signal(&turns->event);
    }
    return NULL;
}

static void no_wake_up_is_lost(void **state)
{
    (void)state;
    for (uint32_t players = 2; players <= 4; players += 2) {
        struct turns turns = { .players = players };

        sync_event_init(&turns.event);
        run_threads(players, player, &turns);
        assert_int_equal(turns.turn, players * 2000);
    }
}

static void *event_waiter(void *context)
{
    struct turns *turns = context;
    const uint32_t value = sync_event_value(&turns->event);

    (void)sync_add_32(&turns->next, 1);
    if (sync_event_wait(&turns->event, value, UINT64_MAX))
        (void)sync_add_32(&turns->turn, 1);
    return NULL;
}

static void a_signal_wakes_all(void **state)
{
    struct turns turns = { .players = THREADS };
    pthread_t threads[THREADS];

    (void)state;
    sync_event_init(&turns.event);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, event_waiter, &turns), 0);
    while (sync_load_32(&turns.next) != THREADS)
        sched_yield();
    /* All have read the value: asleep or about to be, one signal reaches them. */
    sync_event_signal(&turns.event);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(turns.turn, THREADS);
}

static void a_wait_ends_with_its_time_and_says_so(void **state)
{
    struct sync_event event;

    (void)state;
    sync_event_init(&event);
    const uint32_t value = sync_event_value(&event);
    assert_false(sync_event_wait(&event, value, 0));
    const uint64_t start = os_clock_ns();
    assert_false(sync_event_wait(&event, value, 5000000));
    assert_true(os_clock_ns() - start >= 5000000); /* not before its time */
    assert_int_equal(sync_event_value(&event), value);
    sync_event_signal(&event);
    assert_int_not_equal(sync_event_value(&event), value);
    assert_true(sync_event_wait(&event, value, 0));
    assert_true(sync_event_wait(&event, value, UINT64_MAX));
    assert_false(sync_event_wait(&event, sync_event_value(&event), 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread_at_a_time_is_inside),
        cmocka_unit_test(what_is_held_cannot_be_had_by_trying),
        cmocka_unit_test(everyone_who_sleeps_for_a_lock_gets_it),
#ifndef NDEBUG
        cmocka_unit_test(locks_are_taken_in_the_order_of_their_ranks),
        cmocka_unit_test(no_lock_of_data_is_held_over_io),
#endif
        cmocka_unit_test(no_wake_up_is_lost),
        cmocka_unit_test(a_signal_wakes_all),
        cmocka_unit_test(a_wait_ends_with_its_time_and_says_so),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

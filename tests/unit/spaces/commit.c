/*
 * The commit charge: exact at the limit whatever the credits hold, alone and with many threads at the limit (CC-6).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/commit.h"

#include "base/random.h"
#include "frames/frames.h"

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

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW_BUILD 1
#endif
#endif
#if defined(SLOW_BUILD) || defined(TIDE_CHECKING)
enum { EFFORT_DIVISOR = 10 };
#else
enum { EFFORT_DIVISOR = 1 };
#endif

enum { BATCH = COMMIT_CREDIT_BATCH };

/* The identity of commit.c, when quiet: nothing closed, no credit above two batches, charge = global word - credits. */
static void assert_commit_sound(struct commit *commit, uint64_t charge)
{
    uint64_t credits = 0;

    for (unsigned i = 0; i < commit->cpu_count; i++) {
        assert_in_range(commit->credits[i].word, 0, 2 * BATCH);
        credits += commit->credits[i].word;
    }
    assert_true(commit->charged <= commit->limit);
    assert_int_equal(commit->charged - credits, charge);
    assert_int_equal(commit_total(commit), charge);
    assert_true(commit_peak(commit) >= charge);
}

/* Pins the caller to the n-th CPU that it may use, modulo how many there are. */
static void pin_to(unsigned n, const cpu_set_t *allowed)
{
    cpu_set_t one;
    unsigned left = n % (unsigned)CPU_COUNT(allowed);

    CPU_ZERO(&one);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, allowed) && left-- == 0) {
            CPU_SET(cpu, &one);
            break;
        }
    }
    (void)sched_setaffinity(0, sizeof one, &one);
}

/* ---- alone ------------------------------------------------------------------------------------------------------ */

static void exact_at_the_limit(void **state)
{
    static const uint64_t limits[] = { 0, 1, 63, 64, 65, 127, 128, 129, 1000, 2000 };

    (void)state;
    for (unsigned l = 0; l < sizeof limits / sizeof limits[0]; l++) {
        for (uint64_t size = 1; size <= 300; size += size < 70 ? 1 : 23) {
            struct commit commit;
            uint64_t charge = 0;

            assert_int_equal(commit_init(&commit, limits[l], 3), TIDE_SUCCESS);
            while (limits[l] - charge >= size) {
                assert_int_equal(commit_charge(&commit, size), TIDE_SUCCESS);
                charge += size;
            }
            assert_int_equal(commit_charge(&commit, size), TIDE_COMMITMENT_LIMIT);
            assert_commit_sound(&commit, charge);
            assert_int_equal(commit_charge(&commit, limits[l] - charge + 1), TIDE_COMMITMENT_LIMIT);
            assert_int_equal(commit_charge(&commit, limits[l] - charge), TIDE_SUCCESS);
            assert_commit_sound(&commit, limits[l]);
            assert_int_equal(commit_charge(&commit, 1), TIDE_COMMITMENT_LIMIT);
            assert_int_equal(commit_charge(&commit, UINT64_MAX), TIDE_COMMITMENT_LIMIT);
            assert_int_equal(commit_charge(&commit, UINT64_MAX - 10), TIDE_COMMITMENT_LIMIT);
            assert_int_equal(commit_charge(&commit, 0), TIDE_SUCCESS);
            assert_int_equal(commit_peak(&commit), limits[l]);
            commit_return(&commit, limits[l]);
            assert_commit_sound(&commit, 0);
            assert_int_equal(commit_peak(&commit), limits[l]);
            commit_destroy(&commit);
        }
    }
}

/* CC-1, in pages: commit 1,900 of 2,000; 200 more fail and change nothing. */
static void the_error_names_pages_charge_and_limit(void **state)
{
    struct commit commit;

    (void)state;
    assert_int_equal(commit_init(&commit, 2000, 2), TIDE_SUCCESS);
    assert_int_equal(commit_charge(&commit, 1890), TIDE_SUCCESS);
    assert_int_equal(commit_charge(&commit, 10), TIDE_SUCCESS); /* leaves a credit, which the error must not count */
    assert_int_equal(commit_charge(&commit, 217), TIDE_COMMITMENT_LIMIT);
    assert_int_equal(tide_last_error()->status, TIDE_COMMITMENT_LIMIT);
    assert_non_null(strstr(tide_last_error()->message, "217 pages"));
    assert_non_null(strstr(tide_last_error()->message, "1900 are charged"));
    assert_non_null(strstr(tide_last_error()->message, "limit is 2000 "));
    assert_commit_sound(&commit, 1900);
    commit_return(&commit, 1900);
    assert_commit_sound(&commit, 0);
    commit_destroy(&commit);
}

static void random_charges_match_a_plain_sum(void **state)
{
    cpu_set_t allowed;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct commit commit;
        uint64_t random = seed, charge = 0, highest = 0;
        const uint64_t limit = 100 + random_below(&random, 3000);

        assert_int_equal(commit_init(&commit, limit, 4), TIDE_SUCCESS);
        for (unsigned step = 0; step < 5000; step++) {
            const uint64_t pages = random_below(&random, step % 5 == 0 ? limit : 80);

            if (step % 64 == 0)
                pin_to(step / 64, &allowed);
            if (random_below(&random, 5) < 3) {
                const tide_status expected = pages <= limit - charge ? TIDE_SUCCESS : TIDE_COMMITMENT_LIMIT;
                assert_int_equal(commit_charge(&commit, pages), expected);
                charge += expected == TIDE_SUCCESS ? pages : 0;
            } else {
                const uint64_t back = pages < charge ? pages : charge;
                commit_return(&commit, back);
                charge -= back;
            }
            highest = charge > highest ? charge : highest;
            if (step % 16 == 0)
                assert_commit_sound(&commit, charge);
            assert_true(commit.peak <= highest);
            assert_true(highest - commit_peak(&commit) <= 4 * 2 * BATCH);
        }
        commit_return(&commit, charge);
        assert_commit_sound(&commit, 0);
        commit_destroy(&commit);
    }
    assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
}

/* Small charges leave the global word alone but once in a batch, and what is returned is used again. */
static void small_charges_use_the_credit(void **state)
{
    cpu_set_t allowed;
    struct commit commit;
    unsigned moves = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    pin_to(0, &allowed);
    assert_int_equal(commit_init(&commit, 1000000, 4), TIDE_SUCCESS);
    for (unsigned i = 0; i < 65 * 100; i++) {
        const uint64_t before = commit.charged;
        assert_int_equal(commit_charge(&commit, 1), TIDE_SUCCESS);
        moves += commit.charged != before;
    }
    assert_int_equal(moves, 100);
    for (unsigned i = 0; i < 1000; i++) {
        const uint64_t before = commit.charged;
        commit_return(&commit, 20);
        assert_int_equal(commit_charge(&commit, 20), TIDE_SUCCESS);
        moves += commit.charged != before;
    }
    assert_true(moves <= 102);
    commit_return(&commit, 6500);
    assert_commit_sound(&commit, 0);
    assert_int_equal(commit.charged, 2 * BATCH); /* the surplus went back */
    assert_int_equal(sched_setaffinity(0, sizeof allowed, &allowed), 0);
    commit_destroy(&commit);
}

/* ---- credits of other CPUs -------------------------------------------------------------------------------------- */

struct pinned {
    struct commit *commit;
    const cpu_set_t *allowed;
    unsigned cpu;
    uint64_t charge, give_back;
    tide_status status;
};

static void *pinned_call(void *argument)
{
    struct pinned *call = argument;

    pin_to(call->cpu, call->allowed);
    call->status = commit_charge(call->commit, call->charge);
    if (call->status == TIDE_SUCCESS)
        commit_return(call->commit, call->give_back);
    return NULL;
}

/* Charges, and gives some back, on a thread that runs on the n-th CPU. */
static tide_status charge_on(struct commit *commit, const cpu_set_t *allowed, unsigned cpu, uint64_t charge,
                             uint64_t give_back)
{
    struct pinned call = { commit, allowed, cpu, charge, give_back, TIDE_SUCCESS };
    pthread_t id;

    assert_int_equal(pthread_create(&id, NULL, pinned_call, &call), 0);
    assert_int_equal(pthread_join(id, NULL), 0);
    return call.status;
}

static void a_charge_that_fits_calls_in_the_credits_of_other_cpus(void **state)
{
    const unsigned slots = (unsigned)sysconf(_SC_NPROCESSORS_CONF);
    cpu_set_t allowed;
    struct commit commit;
    unsigned held = 0;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    const unsigned cpus = (unsigned)CPU_COUNT(&allowed);
    assert_int_equal(commit_init(&commit, 10 * 1000, slots), TIDE_SUCCESS);
    for (unsigned i = 0; i < cpus; i++)
        assert_int_equal(charge_on(&commit, &allowed, i, 500, 200), TIDE_SUCCESS);
    for (unsigned i = 0; i < slots; i++)
        held += commit.credits[i].word == 2 * BATCH;
    assert_int_equal(held, cpus);
    assert_commit_sound(&commit, 300 * cpus);

    const uint64_t rest = 10 * 1000 - 300 * cpus;
    assert_int_equal(charge_on(&commit, &allowed, 0, rest + 1, 0), TIDE_COMMITMENT_LIMIT);
    for (unsigned i = 0; i < cpus; i++) /* the failed one called the credits in; fill them again */
        assert_int_equal(charge_on(&commit, &allowed, i, 128, 128), TIDE_SUCCESS);
    assert_int_equal(charge_on(&commit, &allowed, cpus - 1, rest, 0), TIDE_SUCCESS);
    assert_commit_sound(&commit, 10 * 1000);
    assert_int_equal(commit.charged, 10 * 1000);

    /* The same in single pages: each CPU's credit, down to the last page, from one other CPU. */
    for (unsigned i = 0; i < cpus; i++)
        assert_int_equal(charge_on(&commit, &allowed, i, 0, 30), TIDE_SUCCESS);
    for (unsigned i = 0; i < 30 * cpus; i++)
        assert_int_equal(charge_on(&commit, &allowed, cpus - 1, 1, 0), TIDE_SUCCESS);
    assert_int_equal(charge_on(&commit, &allowed, cpus - 1, 1, 0), TIDE_COMMITMENT_LIMIT);
    assert_commit_sound(&commit, 10 * 1000);
    commit_return(&commit, 10 * 1000);
    assert_commit_sound(&commit, 0);
    commit_destroy(&commit);
}

/* Credits planted in slots of CPUs that no thread runs on, as on a larger machine. */
static void credits_of_sixty_four_cpus_are_called_in(void **state)
{
    struct commit commit;

    (void)state;
    assert_int_equal(commit_init(&commit, 64 * 100 + 50, 64), TIDE_SUCCESS);
    for (unsigned i = 0; i < 64; i++)
        commit.credits[i].word = 100;
    commit.charged = 64 * 100 + 20;
    assert_commit_sound(&commit, 20);
    assert_int_equal(commit_charge(&commit, 64 * 100 + 31), TIDE_COMMITMENT_LIMIT);
    assert_commit_sound(&commit, 20);
    for (unsigned i = 0; i < 64; i++)
        commit.credits[i].word = 100;
    commit.charged = 64 * 100 + 20;
    assert_int_equal(commit_charge(&commit, 64 * 100 + 30), TIDE_SUCCESS);
    assert_commit_sound(&commit, 64 * 100 + 50);
    commit_return(&commit, 64 * 100 + 50);
    assert_commit_sound(&commit, 0);
    commit_destroy(&commit);
}

/* More CPUs than credits: the number of the running CPU is folded. */
static void one_credit_serves_every_cpu(void **state)
{
    cpu_set_t allowed;
    struct commit commit;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    assert_int_equal(commit_init(&commit, 100, 1), TIDE_SUCCESS);
    for (unsigned i = 0; i < (unsigned)CPU_COUNT(&allowed); i++)
        assert_int_equal(charge_on(&commit, &allowed, i, 10, 10), TIDE_SUCCESS);
    assert_commit_sound(&commit, 0);
    commit_destroy(&commit);
}

/* ---- threads at the limit --------------------------------------------------------------------------------------- */

enum { THREADS = 16, HELD_MAX = 64 };

struct shared {
    struct commit commit;
    uint64_t limit;
    unsigned steps;
    uint64_t owned;   /* [A] what the threads know that they hold: raised after a charge, lowered before a return */
    uint32_t running; /* [A] */
};

struct racer {
    struct shared *shared;
    unsigned index;
    uint64_t charged, failed, over_limit;
};

/* CC-6: charges of all sizes at the limit, held for a while, given back in other pieces. */
static void *race_at_the_limit(void *argument)
{
    struct racer *self = argument;
    struct shared *shared = self->shared;
    uint64_t random = 77 + self->index, held = 0;

    for (unsigned step = 0; step < 200000 / EFFORT_DIVISOR; step++) {
        const uint64_t pages = 1 + random_below(&random, step % 8 == 0 ? 300 : 20);

        if (step % 64 == 0)
            (void)sched_yield();
        if (random_below(&random, 2) == 0) {
            if (commit_charge(&shared->commit, pages) == TIDE_SUCCESS) {
                held += pages;
                self->charged += pages;
                self->over_limit += sync_add_64(&shared->owned, pages) + pages > shared->limit;
            } else {
                self->failed++;
            }
        } else if (held > 0) {
            const uint64_t back = pages < held ? pages : held;
            (void)sync_add_64(&shared->owned, -back);
            commit_return(&shared->commit, back);
            held -= back;
        }
    }
    (void)sync_add_64(&shared->owned, -held);
    commit_return(&shared->commit, held);
    (void)sync_add_32(&shared->running, (uint32_t)-1);
    return NULL;
}

static void threads_race_at_the_limit(void **state)
{
    struct shared shared = { .limit = 1500, .running = THREADS };
    struct racer racers[THREADS] = { 0 };
    pthread_t ids[THREADS];
    uint64_t failed = 0, charged = 0, highest = 0;

    (void)state;
    assert_int_equal(commit_init(&shared.commit, shared.limit, (unsigned)sysconf(_SC_NPROCESSORS_CONF)), TIDE_SUCCESS);
    assert_int_equal(commit_charge(&shared.commit, 100), TIDE_SUCCESS); /* the start to which the charge returns */
    (void)sync_add_64(&shared.owned, 100);
    for (unsigned i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){ .shared = &shared, .index = i };
        assert_int_equal(pthread_create(&ids[i], NULL, race_at_the_limit, &racers[i]), 0);
    }
    while (sync_load_32(&shared.running) != 0) {
        const uint64_t total = commit_total(&shared.commit);
        highest = total > highest ? total : highest;
        (void)sched_yield();
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(ids[i], NULL), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        assert_int_equal(racers[i].over_limit, 0);
        failed += racers[i].failed;
        charged += racers[i].charged;
    }
    assert_true(failed > 0 && charged > shared.limit);
    assert_true(highest <= shared.limit && commit_peak(&shared.commit) <= shared.limit);
    assert_int_equal(shared.owned, 100);
    assert_commit_sound(&shared.commit, 100);
    /* Exact again when quiet. */
    assert_int_equal(commit_charge(&shared.commit, 1401), TIDE_COMMITMENT_LIMIT);
    assert_int_equal(commit_charge(&shared.commit, 1400), TIDE_SUCCESS);
    commit_return(&shared.commit, 1500);
    assert_commit_sound(&shared.commit, 0);
    commit_destroy(&shared.commit);
}

/*
 * Each thread holds at most its share of the limit, so every charge fits at every moment: none may fail, although the
 * credits hold most of what is free and move all the time.
 */
static void *race_within_a_share(void *argument)
{
    struct racer *self = argument;
    struct shared *shared = self->shared;
    const uint64_t share = shared->limit / THREADS;
    uint64_t random = 5 + self->index, held = 0;

    if (self->index % 2 == 0) {
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
            pin_to(self->index / 2, &allowed);
    }
    for (unsigned step = 0; step < shared->steps; step++) {
        const uint64_t pages = random_below(&random, 2) == 0 ? share - held : random_below(&random, share - held + 1);
        const tide_status status = commit_charge(&shared->commit, pages);
        held += status == TIDE_SUCCESS ? pages : 0;
        self->failed += status != TIDE_SUCCESS;
        if (step % 64 == 0)
            (void)sched_yield();
        if (held == share) {
            const uint64_t back = 1 + random_below(&random, held);
            commit_return(&shared->commit, back);
            held -= back;
        }
    }
    commit_return(&shared->commit, held);
    return NULL;
}

static void assert_shares_never_fail(uint64_t share, unsigned slots, unsigned steps)
{
    struct shared shared = { .limit = share * THREADS, .steps = steps };
    struct racer racers[THREADS] = { 0 };
    pthread_t ids[THREADS];
    uint64_t failed = 0;

    assert_int_equal(commit_init(&shared.commit, shared.limit, slots), TIDE_SUCCESS);
    for (unsigned i = 0; i < THREADS; i++) {
        racers[i] = (struct racer){ .shared = &shared, .index = i };
        assert_int_equal(pthread_create(&ids[i], NULL, race_within_a_share, &racers[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(ids[i], NULL), 0);
    for (unsigned i = 0; i < THREADS; i++)
        failed += racers[i].failed;
    assert_int_equal(failed, 0);
    assert_commit_sound(&shared.commit, 0);
    commit_destroy(&shared.commit);
}

static void a_charge_that_fits_at_every_moment_never_fails(void **state)
{
    const unsigned slots = (unsigned)sysconf(_SC_NPROCESSORS_CONF);

    (void)state;
    assert_shares_never_fail(10, slots, 200000 / EFFORT_DIVISOR);
    /* Large charges mixed in, and so many credits that others get far while one thread calls them in. */
    assert_shares_never_fail(100, slots < 512 ? 512 : slots, 40000 / EFFORT_DIVISOR);
}

/* ---- wrong use -------------------------------------------------------------------------------------------------- */

static void returning_more_than_was_charged_is_an_assertion(void **state)
{
    int status;

    (void)state;
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit no_core = { 0, 0 };
        struct commit commit;
        (void)setrlimit(RLIMIT_CORE, &no_core);
        (void)signal(SIGABRT, SIG_DFL);
        (void)!freopen("/dev/null", "w", stderr);
        if (commit_init(&commit, 1000, 1) != TIDE_SUCCESS || commit_charge(&commit, 100) != TIDE_SUCCESS)
            _exit(0);
        commit_return(&commit, 1000);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
}

/* ---- a limit that moves ----------------------------------------------------------------------------------------- */

static void the_limit_falls_only_above_the_charge(void **state)
{
    struct commit commit;

    (void)state;
    assert_int_equal(commit_init(&commit, 1000, 2), TIDE_SUCCESS);
    assert_int_equal(commit_charge(&commit, 600), TIDE_SUCCESS);
    assert_false(commit_limit_cut(&commit, 401));
    assert_int_equal(commit.limit, 1000);
    assert_commit_sound(&commit, 600);
    assert_true(commit_limit_cut(&commit, 400));
    assert_int_equal(commit.limit, 600);
    assert_int_equal(commit_total(&commit), 600);
    assert_int_equal(commit_peak(&commit), 600); /* what was cut was never charged */
    assert_int_equal(commit_charge(&commit, 1), TIDE_COMMITMENT_LIMIT);
    commit_limit_raise(&commit, 10);
    assert_int_equal(commit_charge(&commit, 10), TIDE_SUCCESS);
    assert_int_equal(commit_charge(&commit, 1), TIDE_COMMITMENT_LIMIT);
    commit_return(&commit, 610);
    assert_int_equal(commit_total(&commit), 0);
    assert_true(commit_limit_cut(&commit, 400)); /* 128 pages lie in a credit, and count */
    assert_int_equal(commit_charge(&commit, 211), TIDE_COMMITMENT_LIMIT);
    assert_int_equal(commit_charge(&commit, 210), TIDE_SUCCESS);
    commit_return(&commit, 210);
    commit_destroy(&commit);
}

/* The bell is rung by what reaches the mark, and by nothing below it. */
static void charges_near_the_limit_ring(void **state)
{
    struct frames_bell bell = { .sleeping = 1 };
    struct commit commit;

    (void)state;
    sync_event_init(&bell.event);
    assert_int_equal(commit_init(&commit, 1000, 2), TIDE_SUCCESS);
    commit_extension_set(&commit, 3000, &bell);
    const uint32_t before = sync_event_value(&bell.event);
    assert_int_equal(commit_charge(&commit, 950), TIDE_SUCCESS); /* nobody has armed it */
    commit_return(&commit, 950);
    commit_extend_arm(&commit, true);
    assert_int_equal(commit_charge(&commit, 700), TIDE_SUCCESS);
    assert_int_equal(sync_event_value(&bell.event), before);
    assert_int_equal(commit_charge(&commit, 200), TIDE_SUCCESS);
    assert_int_not_equal(sync_event_value(&bell.event), before);
    commit_extend_arm(&commit, false);
    const uint32_t after = sync_event_value(&bell.event);
    assert_int_equal(commit_charge(&commit, 64), TIDE_SUCCESS);
    assert_int_equal(sync_event_value(&bell.event), after);
    commit_return(&commit, 964);
    commit_destroy(&commit);
}

struct moving {
    struct commit commit;
    uint32_t running;  /* [A] */
    uint32_t mistakes; /* [A] */
    uint32_t next;     /* [A] numbers the threads */
};

static void *charge_and_return(void *argument)
{
    struct moving *moving = argument;
    uint64_t seed = sync_add_32(&moving->next, 1) + 1;

    while (sync_load_32(&moving->running) != 0) {
        const uint64_t pages =
            random_below(&seed, 4) == 0 ? 64 + random_below(&seed, 300) : 1 + random_below(&seed, 40);
        if (commit_charge(&moving->commit, pages) != TIDE_SUCCESS)
            continue;
        /* The limit cannot fall below what is held here. */
        if (sync_load_64(&moving->commit.limit) < pages)
            sync_add_32(&moving->mistakes, 1);
        commit_return(&moving->commit, pages);
    }
    return NULL;
}

static uint64_t moving_word(const struct moving *moving)
{
    return sync_load_64(&moving->commit.charged);
}

#ifdef TIDE_SYNC_POINTS
/* Now and then somebody else runs between two atomic operations. */
static void yield_now_and_then(const void *address)
{
    static _Thread_local uint64_t random = 1;

    (void)address;
    if (random_below(&random, 16) == 0)
        sched_yield();
}
#endif

static void no_charge_passes_a_limit_that_falls(void **state)
{
    enum { MOVERS = 3, LEAST = 64, MOST = 1000 };
    struct moving moving = { .running = 1 };
    pthread_t threads[MOVERS];
    uint64_t seed = 5, limit = MOST;
    unsigned cuts = 0;

    (void)state;
    assert_int_equal(commit_init(&moving.commit, MOST, 4), TIDE_SUCCESS);
#ifdef TIDE_SYNC_POINTS
    sync_point_hook_set(yield_now_and_then);
#endif
    for (unsigned i = 0; i < MOVERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, charge_and_return, &moving), 0);
    for (unsigned i = 0; i < 300000 / EFFORT_DIVISOR; i++) {
        const uint64_t cut = 1 + random_below(&seed, limit - LEAST);
        if (commit_limit_cut(&moving.commit, cut)) {
            limit -= cut;
            cuts++;
            for (unsigned look = 0; look < 3; look++) /* and it stays so until the limit rises */
                if ((moving_word(&moving) & ((1ull << 48) - 1)) > limit)
                    sync_add_32(&moving.mistakes, 1);
        }
        if (limit < MOST / 2 || i % 4 == 0) {
            const uint64_t raise = random_below(&seed, MOST - limit + 1);
            commit_limit_raise(&moving.commit, raise);
            limit += raise;
        }
        if (limit == LEAST) {
            commit_limit_raise(&moving.commit, 1);
            limit++;
        }
    }
    sync_store_32(&moving.running, 0);
    for (unsigned i = 0; i < MOVERS; i++)
        pthread_join(threads[i], NULL);
#ifdef TIDE_SYNC_POINTS
    sync_point_hook_set(NULL);
#endif
    assert_int_equal(moving.mistakes, 0);
    assert_true(cuts > 0);
    assert_int_equal(moving.commit.limit, limit);
    assert_int_equal(commit_total(&moving.commit), 0);
    commit_destroy(&moving.commit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_at_the_limit),
        cmocka_unit_test(the_error_names_pages_charge_and_limit),
        cmocka_unit_test(random_charges_match_a_plain_sum),
        cmocka_unit_test(small_charges_use_the_credit),
        cmocka_unit_test(a_charge_that_fits_calls_in_the_credits_of_other_cpus),
        cmocka_unit_test(credits_of_sixty_four_cpus_are_called_in),
        cmocka_unit_test(one_credit_serves_every_cpu),
        cmocka_unit_test(threads_race_at_the_limit),
        cmocka_unit_test(a_charge_that_fits_at_every_moment_never_fails),
        cmocka_unit_test(returning_more_than_was_charged_is_an_assertion),
        cmocka_unit_test(the_limit_falls_only_above_the_charge),
        cmocka_unit_test(charges_near_the_limit_ring),
        cmocka_unit_test(no_charge_passes_a_limit_that_falls),
    };
    const char *filter = getenv("TIDE_TEST_FILTER");

    if (filter != NULL)
        cmocka_set_test_filter(filter);
    return cmocka_run_group_tests_name("spaces/commit", tests, NULL, NULL) != 0;
}

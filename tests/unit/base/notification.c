/*
 * Notification events: the descriptor agrees with the condition, in whatever order two threads change and look.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/notification.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#include <cmocka.h>

static bool readable(int fd)
{
    struct pollfd look = { .fd = fd, .events = POLLIN };
    return poll(&look, 1, 0) == 1;
}

static uint32_t conditions_of(void *context)
{
    return sync_load_32(context);
}

static int fd_of(struct notifications *group, unsigned event)
{
    int fd = -1;
    assert_int_equal(notifications_fd(group, event, &fd), TIDE_SUCCESS);
    return fd;
}

static void test_descriptors_follow_their_bits(void **state)
{
    struct notifications group;
    uint32_t conditions = 2;

    (void)state;
    notifications_init(&group);
    assert_false(notifications_watched(&group));
    assert_int_equal(notifications_update(&group, conditions_of, &conditions), 2); /* before anybody asks */
    const int one = fd_of(&group, 1), three = fd_of(&group, 3);
    assert_true(notifications_watched(&group));
    assert_true(readable(one) && !readable(three));
    assert_int_equal(fd_of(&group, 1), one);
    for (conditions = 0; conditions < 16; conditions++) {
        assert_int_equal(notifications_update(&group, conditions_of, &conditions), conditions);
        assert_int_equal(readable(one), conditions >> 1 & 1);
        assert_int_equal(readable(three), conditions >> 3 & 1);
    }
    notifications_destroy(&group);
}

/* A level that its user took away, or made up, comes back at the next look, and only then. */
static void test_a_look_repairs(void **state)
{
    struct notifications group;
    uint32_t conditions = 1;
    uint64_t count;

    (void)state;
    notifications_init(&group);
    const int zero = fd_of(&group, 0), one = fd_of(&group, 1);
    assert_int_equal(notifications_update(&group, conditions_of, &conditions), 1);
    assert_int_equal(read(zero, &count, sizeof count), sizeof count);
    count = UINT64_MAX - 1; /* as many as a counter can hold */
    assert_int_equal(write(one, &count, sizeof count), sizeof count);
    assert_int_equal(notifications_update(&group, conditions_of, &conditions), 1);
    assert_true(!readable(zero) && readable(one));
    notifications_look(&group, conditions_of, &conditions);
    assert_true(readable(zero) && !readable(one));
    notifications_destroy(&group);
}

/*
 * Another thread changes the condition between the evaluation under the lock and the store of the state: it reads the
 * old state, which agrees with what it made, and leaves. The update must notice.
 */
struct interleaved {
    struct notifications *group;
    uint32_t condition;
    unsigned evaluations;
};

static uint32_t changes_behind_the_back(void *context)
{
    struct interleaved *interleaved = context;
    const uint32_t now = interleaved->condition;

    if (++interleaved->evaluations == 2) { /* the one under the lock */
        interleaved->condition = 0;
        assert_int_equal(sync_load_32(&interleaved->group->state),
                         0); /* what the other one sees: all as it should be */
    }
    return now;
}

static void test_no_transition_is_lost_between_two(void **state)
{
    struct notifications group;
    struct interleaved interleaved = { .group = &group, .condition = 1 };

    (void)state;
    notifications_init(&group);
    const int fd = fd_of(&group, 0);
    assert_int_equal(notifications_update(&group, changes_behind_the_back, &interleaved), 0);
    assert_false(readable(fd));
    assert_int_equal(group.state, 0);
    notifications_destroy(&group);
}

/* Threads that change the condition and look, all at once: when they are done, the last change is what the level is. */
enum { THREADS = 4, FLIPS = 20000 };

struct flipping {
    struct notifications group;
    uint32_t conditions;
};

static void *flip(void *context)
{
    struct flipping *flipping = context;

    for (unsigned i = 0; i < FLIPS; i++) {
        (void)sync_add_32(&flipping->conditions, 1); /* all bits change in turn */
        (void)notifications_update(&flipping->group, conditions_of, &flipping->conditions);
    }
    return NULL;
}

static void test_many_threads(void **state)
{
    struct flipping flipping = { .conditions = 0 };
    pthread_t threads[THREADS];
    int fds[2];

    (void)state;
    notifications_init(&flipping.group);
    for (unsigned i = 0; i < 2; i++)
        fds[i] = fd_of(&flipping.group, i);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, flip, &flipping), 0);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(flipping.group.state, flipping.conditions);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(readable(fds[i]), flipping.conditions >> i & 1);
    notifications_destroy(&flipping.group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_descriptors_follow_their_bits),
        cmocka_unit_test(test_a_look_repairs),
        cmocka_unit_test(test_no_transition_is_lost_between_two),
        cmocka_unit_test(test_many_threads),
    };

    return cmocka_run_group_tests_name("base/notification", tests, NULL, NULL);
}

/*
 * Notification events (NT's name): conditions that hold or do not, each to be waited for by a file descriptor that is
 * readable exactly while its condition holds. Level-triggered: no waiter resets it, all waiters see it.
 *
 * How. A group of events has one evaluation, a function of the caller's that says which conditions hold now. Whoever
 * changes what the conditions depend on, and is on a slow path anyway, calls notifications_update() afterwards. If the
 * evaluation agrees with `state`, nothing is written. Else the descriptors are brought in line under the group's lock,
 * from an evaluation made under it, so two that disagree cannot apply their answers in the wrong order. As long as
 * nobody has asked for a descriptor, notifications_watched() is false, and callers need not evaluate at all.
 *
 * No transition is lost between two that look: A changes, then reads `state`; B evaluates, stores `state`, unlocks (a
 * full barrier) and evaluates again. If A read the old state, B's second evaluation sees A's change. What changes
 * without anybody looking afterwards is found by notifications_look(), which somebody calls from time to time. That
 * also repairs a descriptor that its user has read from or written to.
 *
 * A descriptor is an eventfd that never blocks and is closed on exec. Nothing here allocates after the first request
 * for a descriptor, and updates cannot fail.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_NOTIFICATION_H
#define BASE_NOTIFICATION_H

#include <pagetide/status.h>

#include "base/sync.h"

enum { NOTIFICATIONS_MAX = 4 };

struct notifications {
    uint32_t watched;           /* [A] a descriptor was given out; never goes back */
    uint32_t state;             /* [A] bit i: condition i holds; written under the lock */
    struct sync_lock lock;      /* rank notification */
    int fds[NOTIFICATIONS_MAX]; /* [L:notification] -1 until asked for */
};

/* Says by bit which conditions hold now. Takes no lock of rank notification or before it. */
typedef uint32_t notifications_evaluate(void *context);

void notifications_init(struct notifications *group);
/* Closes the descriptors. Nobody else uses the group. */
void notifications_destroy(struct notifications *group);

/*
 * The descriptor of an event, made at the first request; it is the group's. The caller updates the group afterwards.
 * TIDE_INSUFFICIENT_RESOURCES if the system refuses one.
 */
TIDE_MUST_CHECK tide_status notifications_fd(struct notifications *group, unsigned event, int *fd);

static inline bool notifications_watched(const struct notifications *group)
{
    return __builtin_expect(sync_load_relaxed_32(&group->watched) != 0, 0);
}

/* Brings the descriptors in line with what is true now, and returns that. The caller holds no lock of a later rank. */
uint32_t notifications_update(struct notifications *group, notifications_evaluate *evaluate, void *context);
/* The same, and looks at each descriptor whether it really is as it should be. A system call for each. */
void notifications_look(struct notifications *group, notifications_evaluate *evaluate, void *context);

#endif

/*
 * Notification events by eventfd. The idea is in notification.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/notification.h"
#include "base/error.h"
#include "base/quiet.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

void notifications_init(struct notifications *group)
{
    memset(group, 0, sizeof *group);
    sync_lock_init(&group->lock, SYNC_RANK_notification);
    for (unsigned i = 0; i < NOTIFICATIONS_MAX; i++)
        group->fds[i] = -1;
}

void notifications_destroy(struct notifications *group)
{
    for (unsigned i = 0; i < NOTIFICATIONS_MAX; i++)
        if (group->fds[i] >= 0)
            (void)close(group->fds[i]);
}

/* Raises or lowers a descriptor. Neither can block: a full counter is readable, an empty one is not. */
static void level_set(int fd, bool set)
{
    uint64_t count = 1;

    while ((set ? write(fd, &count, sizeof count) : read(fd, &count, sizeof count)) < 0 && errno == EINTR)
        ;
}

static bool level_get(int fd)
{
    struct pollfd look = { .fd = fd, .events = POLLIN };

    return poll(&look, 1, 0) == 1;
}

tide_status notifications_fd(struct notifications *group, unsigned event, int *fd)
{
    tide_status status = TIDE_SUCCESS;
    struct quiet quiet;

    quiet_lock(&group->lock, &quiet);
    if (group->fds[event] < 0) {
        const unsigned set = (sync_load_relaxed_32(&group->state) >> event) & 1;
        group->fds[event] = eventfd(set, EFD_CLOEXEC | EFD_NONBLOCK);
        if (group->fds[event] < 0)
            status = error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "cannot create a descriptor for event %u: %s",
                               event, strerror(errno));
    }
    *fd = group->fds[event];
    quiet_unlock(&group->lock, &quiet);
    if (!tide_failed(status))
        (void)sync_swap_32(&group->watched, 1); /* a full barrier before the caller evaluates */
    return status;
}

/* Locked. */
static void apply(struct notifications *group, uint32_t now)
{
    const uint32_t changed = now ^ sync_load_relaxed_32(&group->state);

    for (unsigned i = 0; i < NOTIFICATIONS_MAX; i++)
        if (((changed >> i) & 1) != 0 && group->fds[i] >= 0)
            level_set(group->fds[i], ((now >> i) & 1) != 0);
    sync_store_32(&group->state, now);
}

uint32_t notifications_update(struct notifications *group, notifications_evaluate *evaluate, void *context)
{
    QUIET_SCOPE(); /* evaluating may take locks too */

    for (;;) {
        const uint32_t now = evaluate(context);

        if (now == sync_load_32(&group->state))
            return now;
        sync_lock(&group->lock);
        apply(group, evaluate(context));
        sync_unlock(&group->lock);
    }
}

void notifications_look(struct notifications *group, notifications_evaluate *evaluate, void *context)
{
    struct quiet quiet;

    quiet_lock(&group->lock, &quiet);
    apply(group, evaluate(context));
    for (unsigned i = 0; i < NOTIFICATIONS_MAX; i++) {
        const bool set = ((sync_load_relaxed_32(&group->state) >> i) & 1) != 0;

        if (group->fds[i] >= 0 && level_get(group->fds[i]) != set)
            level_set(group->fds[i], set);
    }
    quiet_unlock(&group->lock, &quiet);
    (void)notifications_update(group, evaluate, context);
}

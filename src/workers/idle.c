/*
 * The thread that says when a CPU is idle. The idea is in idle.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/idle.h"
#include "base/os.h"
#include "base/sync.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct idle {
    const struct topology *topology; /* [I] until the thread is ready */
    unsigned node;                   /* [I] */
    uint32_t users;                  /* [A] who started it, and the thread: the last one frees */
    uint32_t ready;                  /* [A] the thread needs nothing more of who started it */
    uint32_t wanted;                 /* [A] 1 from a question to its answer */
    uint32_t cancelled;              /* [A] */
    struct sync_event asked;         /* the thread has something to look at */
    struct sync_event given;         /* who waits has something to look at */
};

static void put(struct idle *idle)
{
    if (sync_add_32(&idle->users, (uint32_t)-1) == 1)
        free(idle);
}

static void *idle_main(void *context)
{
    struct idle *idle = context;
    char name[16];

    snprintf(name, sizeof name, "tide-idle-%u", idle->node);
    os_thread_name(name);
    topology_bind_thread(idle->topology, idle->node);
    sync_store_32(&idle->ready, 1);
    sync_event_signal(&idle->given);
    os_thread_idle_priority();
    for (;;) {
        const uint32_t value = sync_event_value(&idle->asked);

        if (sync_load_32(&idle->cancelled) != 0)
            break;
        if (sync_cas_32(&idle->wanted, 1, 0))
            sync_event_signal(&idle->given);
        else
            (void)sync_event_wait(&idle->asked, value, UINT64_MAX);
    }
    put(idle);
    return NULL;
}

int idle_start(const struct topology *topology, unsigned node, struct idle **out)
{
    struct idle *idle = calloc(1, sizeof *idle);
    pthread_t thread;

    if (idle == NULL)
        return ENOMEM;
    idle->topology = topology;
    idle->node = node;
    idle->users = 2;
    sync_event_init(&idle->asked);
    sync_event_init(&idle->given);
    const int error = pthread_create(&thread, NULL, idle_main, idle);
    if (error != 0) {
        free(idle);
        return error;
    }
    (void)pthread_detach(thread);
    for (;;) {
        const uint32_t value = sync_event_value(&idle->given);

        if (sync_load_32(&idle->ready) != 0)
            break;
        (void)sync_event_wait(&idle->given, value, UINT64_MAX);
    }
    *out = idle;
    return 0;
}

void idle_end(struct idle *idle)
{
    if (idle == NULL)
        return;
    idle_cancel(idle);
    put(idle);
}

void idle_wait(struct idle *idle)
{
    (void)sync_swap_32(&idle->wanted, 1);
    sync_event_signal(&idle->asked);
    for (;;) {
        const uint32_t value = sync_event_value(&idle->given);

        if (sync_load_32(&idle->wanted) == 0 || sync_load_32(&idle->cancelled) != 0)
            return;
        (void)sync_event_wait(&idle->given, value, UINT64_MAX);
    }
}

void idle_cancel(struct idle *idle)
{
    sync_store_32(&idle->cancelled, 1);
    sync_event_signal(&idle->asked);
    sync_event_signal(&idle->given);
}

/*
 * Grace period, thread records, stopping the world. The argument is in grace.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/grace.h"
#include "base/error.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

void grace_init(struct grace *grace)
{
    memset(grace, 0, sizeof *grace);
    ck_epoch_init(&grace->epoch);
    ck_epoch_register(&grace->epoch, &grace->advancer, NULL);
    sync_lock_init(&grace->lock, SYNC_RANK_grace);
    sync_event_init(&grace->resume);
}

/* A record, and behind it, on pages of its own that cost nothing before their first use, its buffer. */
#define RECORD_BYTES ((sizeof(struct grace_thread) + 4095) / 4096 * 4096)

void grace_destroy(struct grace *grace)
{
    struct grace_thread *next;

    for (struct grace_thread *thread = grace->threads; thread != NULL; thread = next) {
        next = thread->next;
        os_memory_free(thread, RECORD_BYTES + GRACE_BUFFER_BYTES + GRACE_NOTES_BYTES);
    }
}

struct grace_thread *grace_thread_get(struct grace *grace)
{
    ck_epoch_record_t *record = ck_epoch_recycle(&grace->epoch, NULL);
    struct grace_thread *thread;

    if (record != NULL) {
        thread = (struct grace_thread *)(void *)((char *)record - offsetof(struct grace_thread, epoch));
        GRACE_TSAN_ACQUIRE(thread);
        thread->vad_space_id = 0;
        thread->priority = thread->own_priority = thread->ideal_node = 0;
        thread->background = false;
        thread->is_quiet = false;
        sync_store_relaxed_32((uint32_t *)&thread->tid, (uint32_t)os_thread_id());
        return thread;
    }
    thread = os_memory_reserve(RECORD_BYTES + GRACE_BUFFER_BYTES + GRACE_NOTES_BYTES, 4096);
    if (thread == NULL)
        return NULL;
    thread->grace = grace;
    thread->tid = os_thread_id();
    thread->buffer = (char *)thread + RECORD_BYTES;
    thread->notes = thread->buffer + GRACE_BUFFER_BYTES;
    ck_epoch_register(&grace->epoch, &thread->epoch, NULL);
    do
        thread->next = sync_load_ptr(&grace->threads);
    while (!sync_cas_64((uint64_t *)(void *)&grace->threads, (uint64_t)(uintptr_t)thread->next,
                        (uint64_t)(uintptr_t)thread));
    return thread;
}

void grace_thread_put(struct grace_thread *thread)
{
    ASSERT_ALWAYS(thread->depth == 0);
    /* A thread that ended with sections open uses their pointers no more. */
    while (thread->sections != 0) {
        ck_epoch_end(&thread->epoch, NULL);
        sync_store_relaxed_32(&thread->sections, thread->sections - 1);
    }
    for (unsigned i = 0; i < GRACE_SPACES_MAX; i++)
        sync_store_ptr(&thread->spaces[i], NULL);
    sync_store_relaxed_32((uint32_t *)&thread->tid, 0);
    GRACE_TSAN_RELEASE(thread);
    ck_epoch_unregister(&thread->epoch);
}

/*
 * ck_epoch_poll() steps the epoch when all active sections have observed it, and leaves it alone when nobody is
 * active. The advancer itself is active during the poll, so the epoch always moves if it may.
 */
bool grace_advance(struct grace *grace)
{
    if (!sync_trylock(&grace->lock))
        return false;
    const unsigned before = ck_epoch_value(&grace->epoch);
    for (int step = 0; step < 2; step++) {
        ck_epoch_begin(&grace->advancer, NULL);
        (void)ck_epoch_poll(&grace->advancer);
        ck_epoch_end(&grace->advancer, NULL);
    }
    const bool moved = ck_epoch_value(&grace->epoch) != before;
    sync_unlock(&grace->lock);
    return moved;
}

void grace_thread_pause(struct grace_thread *thread)
{
    struct grace *grace = thread->grace;

    do {
        const uint32_t value = sync_event_value(&grace->resume);

        ck_epoch_end(&thread->epoch, NULL);
        sync_store_32(&thread->operating, 0);
        if (sync_load_32(&grace->stop) != 0)
            (void)sync_event_wait(&grace->resume, value, 100000000u);
        (void)sync_swap_32(&thread->operating, 1);
        ck_epoch_begin(&thread->epoch, NULL);
    } while (sync_load_32(&grace->stop) != 0);
}

bool grace_space_use(struct grace_thread *thread, const void *space)
{
    for (unsigned i = 0; i < GRACE_SPACES_MAX; i++) {
        if (thread->spaces[i] == NULL) {
            sync_store_ptr(&thread->spaces[i], space);
            return true;
        }
    }
    return false;
}

void grace_space_leave(struct grace_thread *thread, const void *space)
{
    for (unsigned i = 0; i < GRACE_SPACES_MAX; i++) {
        if (thread->spaces[i] == space) {
            sync_store_ptr(&thread->spaces[i], NULL);
            return;
        }
    }
    ASSERT_ALWAYS(!"an access section is ended by the thread that began it");
}

bool grace_section_begin(struct grace_thread *thread, const void *space)
{
    if (!grace_space_use(thread, space))
        return false;
    if (thread->sections == 0)
        thread->pointers = 0;
    sync_store_relaxed_32(&thread->sections, thread->sections + 1);
    ck_epoch_begin(&thread->epoch, NULL);
    return true;
}

void grace_section_end(struct grace_thread *thread, const void *space)
{
    GRACE_TSAN_RELEASE(thread->grace);
    ck_epoch_end(&thread->epoch, NULL);
    sync_store_relaxed_32(&thread->sections, thread->sections - 1);
    grace_space_leave(thread, space);
}

bool grace_space_in_use(struct grace *grace, const void *space)
{
    for (struct grace_thread *thread = sync_load_ptr(&grace->threads); thread != NULL; thread = thread->next)
        for (unsigned i = 0; i < GRACE_SPACES_MAX; i++)
            if (sync_load_ptr(&thread->spaces[i]) == space)
                return true;
    return false;
}

void grace_report(struct grace *grace, struct grace_report *report)
{
    unsigned oldest = 0;

    memset(report, 0, sizeof *report);
    const unsigned epoch = ck_epoch_value(&grace->epoch);
    report->epoch = epoch;
    for (struct grace_thread *thread = sync_load_ptr(&grace->threads); thread != NULL; thread = thread->next) {
        report->threads += sync_load_relaxed_32((const uint32_t *)&thread->tid) != 0;
        if (sync_load_relaxed_32(&thread->sections) == 0)
            continue;
        report->open_sections++;
        const unsigned behind = epoch - sync_load_relaxed_32(&thread->epoch.epoch);
        if (behind == 0 || behind > UINT32_MAX / 2)
            continue;
        report->stale_sections++;
        if (behind > oldest) {
            oldest = behind;
            report->longest_tid = sync_load_relaxed_32((const uint32_t *)&thread->tid);
        }
    }
}

void grace_world_stop(struct grace *grace)
{
    (void)sync_swap_32(&grace->stop, 1);
    for (struct grace_thread *thread = sync_load_ptr(&grace->threads); thread != NULL; thread = thread->next)
        while (sync_load_32(&thread->operating) != 0)
            sched_yield();
}

void grace_world_resume(struct grace *grace)
{
    sync_store_32(&grace->stop, 0);
    sync_event_signal(&grace->resume);
}

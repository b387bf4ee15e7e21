/*
 * Operations of a stress run that only look: counters, the use of all frames, single pages and frames, memory events,
 * the diagnosis. What must hold whatever the other threads do is checked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <sched.h>
#include <string.h>

static void look_at_matrix(struct stress_thread *thread)
{
    tide_use_matrix matrix;
    uint64_t total = 0;
    expect(thread, tide_use_matrix_get(thread->run->engine, &matrix), TIDE_SUCCESS, "tide_use_matrix_get", 0);
    for (unsigned u = 0; u < TIDE_USE_COUNT; u++)
        total += matrix.row_totals[u];
    if (matrix.total != thread->run->options.frames || total != matrix.total)
        fail(thread, "the use matrix has %llu frames in its rows, %llu in all, and the engine %llu",
             (unsigned long long)total, (unsigned long long)matrix.total,
             (unsigned long long)thread->run->options.frames);
}

static void look_at_frames(struct stress_thread *thread)
{
    const uint64_t end = tide_frame_number_end(thread->run->engine);
    for (unsigned i = 0; i < 16; i++) {
        tide_frame_info info;
        const uint64_t frame = draw(thread, end);
        const tide_status status = tide_frame_query(thread->run->engine, frame, &info);
        if (status == TIDE_INVALID_PARAMETER) /* between two nodes' frames */
            continue;
        expect(thread, status, TIDE_SUCCESS, "tide_frame_query", 0);
        if (info.space != 0 &&
            (info.use == TIDE_USE_UNUSED || info.address % TIDE_PAGE_BYTES != 0 || info.address > TIDE_HIGHEST_ADDRESS))
            fail(thread, "frame %llu: %s, of space %llu, at 0x%llx", (unsigned long long)frame, tide_use_name(info.use),
                 (unsigned long long)info.space, (unsigned long long)info.address);
    }
}

/* Pages whose locks this thread has: nobody commits, decommits or protects them meanwhile, but they come and go. */
static void look_at_pages(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, STRESS_SPAN_MAX))
        return;
    tide_working_set_entry entries[STRESS_SPAN_MAX];
    memset(entries, 0, sizeof(entries));
    for (unsigned i = 0; i < place.count; i++)
        entries[i].address = page_address(&place, place.first + i) + draw(thread, TIDE_PAGE_BYTES);
    pages_lock(&place);
    expect(thread, tide_working_set_query(place.space, entries, place.count), TIDE_SUCCESS, "tide_working_set_query",
           entries[0].address);
    for (unsigned i = 0; i < place.count; i++) {
        const struct shadow_page *page = page_at(&place, i);
        const uint32_t protection = page->writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY;
        if (entries[i].valid && (!page->committed || entries[i].protection != protection || entries[i].shared ||
                                 entries[i].share_count != 1))
            fail(thread, "page 0x%llx is valid with protection 0x%x and share count %u; it is %scommitted with 0x%x",
                 (unsigned long long)entries[i].address, entries[i].protection, entries[i].share_count,
                 page->committed ? "" : "not ", protection);
    }
    pages_unlock(&place);
    place_put(&place);
}

static void look_at_events(struct stress_thread *thread)
{
    for (unsigned event = 0; event < TIDE_MEMORY_EVENT_COUNT; event++) {
        bool set;
        int fd;
        expect(thread, tide_memory_event_query(thread->run->engine, (tide_memory_event)event, &set), TIDE_SUCCESS,
               "tide_memory_event_query", 0);
        /* From now on the slow paths of all threads evaluate it. */
        expect(thread, tide_memory_event_fd(thread->run->engine, (tide_memory_event)event, &fd), TIDE_SUCCESS,
               "tide_memory_event_fd", 0);
    }
}

static void diagnose(struct stress_thread *thread)
{
    tide_pressure_snapshot before, after;
    tide_pressure_verdict verdict;
    expect(thread, tide_pressure_snapshot_take(thread->run->engine, &before), TIDE_SUCCESS,
           "tide_pressure_snapshot_take", 0);
    for (uint64_t n = 1 + draw(thread, 20); n > 0; n--)
        sched_yield();
    expect(thread, tide_pressure_snapshot_take(thread->run->engine, &after), TIDE_SUCCESS,
           "tide_pressure_snapshot_take", 0);
    expect(thread, tide_pressure_classify(&before, &after, NULL, &verdict), TIDE_SUCCESS, "tide_pressure_classify", 0);
    if (verdict.explanation[0] == '\0' || verdict.kind > TIDE_PRESSURE_COMMIT_NEAR)
        fail(thread, "a verdict %d without an explanation", (int)verdict.kind);
    tide_pressure_snapshot_free(&before);
    tide_pressure_snapshot_free(&after);
}

void op_counters(struct stress_thread *thread)
{
    static void (*const looks[])(struct stress_thread *) = { look_at_matrix, look_at_frames, look_at_pages,
                                                             look_at_pages,  look_at_events, diagnose };
    looks[draw(thread, sizeof(looks) / sizeof(looks[0]))](thread);
}

/*
 * Lanes of the modified-page writer: one for each page file, so that a file that does not answer holds up no other
 * (nt-behaviour 14.1 rule 1: what is written to one place must not wait for another), nor the writer itself: who stops
 * the world waits for a step of it, and everybody else for him.
 *
 * The writer fills the batch of a lane that is idle, and starts it. The lane writes the batch: I/O, and nothing of the
 * engine's. When it is done, the writer takes in what became of the pages. In an engine with threads each lane has one,
 * that of an only page file too; in one without, whoever runs the step does the writing.
 *
 * Who waits for whom. A step waits for its lanes, but for none longer than STEP_PATIENCE_NS from the lane's start. What
 * is not written then stays under write, where the pages' owners may use, change and delete them as ever, and the
 * file gets no page until its lane is done. Then it rings the writer's bell. Who wants all written (LANES_ANSWERING)
 * waits on while the file writes, however slowly. A lane of which nothing has been written for OVERDUE_NS is overdue:
 * nobody counts on its file.
 *
 * Errors. The pages of a cluster that could not be written are written again, one by one. A page that fails again
 * failed for its slot - unless nothing else in this batch, page or cluster, reached the file. Then the device is at
 * fault, and its other clusters are not tried again in this batch.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/lanes.h"

#include "base/error.h"
#include "base/os.h"
#include "base/quiet.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { QUEUE_DEPTH = 64, SINGLE_WRITES = 8 };

#define STEP_PATIENCE_NS 100000000u
#define ANSWER_PATIENCE_NS 1000000000u
#define OVERDUE_NS 100000000u
#define COPIES_BYTES ((size_t)WRITER_BATCH_PAGES * TIDE_PAGE_BYTES)

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static void write_count(struct partition *partition, const struct stores_write *write)
{
    (void)sync_add_64(&partition->io.page_writes, 1);
    if (write->error == 0)
        (void)sync_add_64(&partition->io.pages_output, write->count);
    else
        (void)sync_add_64(&partition->io.write_errors, 1);
}

/* Writes pages of a failed cluster one by one, from `from` on. Returns how many it did; *alive: one reached the disk. */
static unsigned singles_write(struct writer_lane *lane, const struct stores_write *write, unsigned from, int *errors,
                              bool *alive)
{
    struct partition *partition = lane->worker->workers->partition;
    struct stores_write singles[SINGLE_WRITES];
    struct stores_write *pointers[SINGLE_WRITES];
    const unsigned left = write->count - from;
    const unsigned count = left < SINGLE_WRITES ? left : SINGLE_WRITES;

    for (unsigned i = 0; i < count; i++) {
        pointers[i] = &singles[i];
        singles[i].first = (struct stores_slot){ write->first.file, write->first.slot + from + i };
        singles[i].count = 1;
        singles[i].pages[0] = write->pages[from + i];
    }
    stores_queue_write(lane->queue, pointers, count);
    for (unsigned i = 0; i < count; i++) {
        write_count(partition, &singles[i]);
        errors[from + i] = singles[i].error;
        *alive = *alive || singles[i].error == 0 || frames_bad_is_to_blame(partition->frames, singles[i].error);
    }
    return count;
}

static void batch_write(struct writer_lane *lane)
{
    struct writer_batch *batch = lane->batch;
    struct stores_write *writes[WRITER_BATCH_WRITES];
    bool alive = false;

    for (unsigned i = 0; i < batch->count; i++)
        writes[i] = &batch->writes[i];
    stores_queue_write(lane->queue, writes, batch->count);
    for (unsigned i = 0; i < batch->count; i++) {
        write_count(lane->worker->workers->partition, writes[i]);
        alive = alive || writes[i]->error == 0;
    }
    batch->dead = false;
    for (unsigned i = 0; i < batch->count; i++) {
        const struct stores_write *write = writes[i];
        int *errors = batch->runs[i].errors;

        for (unsigned p = 0; p < write->count; p++)
            errors[p] = write->error;
        if (write->error == 0)
            continue;
        for (unsigned p = 0; p < write->count && !batch->dead;)
            p += singles_write(lane, write, p, errors, &alive);
        batch->dead = !alive;
    }
}

/* ---- starting, waiting ------------------------------------------------------------------------------------------ */

static uint32_t lane_state(const struct writer_lane *lane)
{
    return sync_load_32(&lane->state);
}

bool lane_is_idle(const struct writer_lane *lane)
{
    return lane_state(lane) == LANE_IDLE;
}

bool lane_is_done(const struct writer_lane *lane)
{
    return lane_state(lane) == LANE_DONE;
}

/* For how long a busy lane's file has written nothing. */
static uint64_t lane_silence_ns(const struct writer_lane *lane)
{
    const uint64_t begun_ns = sync_load_relaxed_64(&lane->begun_ns); /* before the clock: one may begin now */
    const uint64_t answered_ns = stores_queue_answered_ns(lane->queue);

    return os_clock_ns() - (answered_ns > begun_ns ? answered_ns : begun_ns);
}

bool lane_is_overdue(const struct writer_lane *lane)
{
    return lane_state(lane) == LANE_BUSY && lane_silence_ns(lane) >= OVERDUE_NS;
}

bool lanes_have_news(const struct worker *worker)
{
    for (unsigned i = 0; i < worker->lane_count; i++)
        if (lane_is_done(&worker->lanes[i]))
            return true;
    return false;
}

void lane_start(struct writer_lane *lane)
{
    ASSERT_ALWAYS(lane_is_idle(lane) && lane->batch->count != 0);
    if (!lane->started) {
        batch_write(lane);
        sync_store_32(&lane->state, LANE_DONE);
        return;
    }
    sync_store_relaxed_64(&lane->begun_ns, os_clock_ns());
    sync_store_32(&lane->state, LANE_BUSY);
    sync_event_signal(&lane->begin);
}

void lane_taken_in(struct writer_lane *lane)
{
    ASSERT_ALWAYS(lane_is_done(lane));
    lane->batch->count = lane->batch->pages = 0;
    sync_store_32(&lane->state, LANE_IDLE);
}

/* How much longer a lane is worth a wait; 0 if it is not busy. */
static uint64_t lane_left_ns(const struct writer_lane *lane, enum lanes_patience patience)
{
    uint64_t most_ns, waited_ns;

    if (lane_state(lane) != LANE_BUSY)
        return 0;
    if (patience == LANES_ANSWERING) {
        most_ns = ANSWER_PATIENCE_NS;
        waited_ns = lane_silence_ns(lane);
    } else {
        most_ns = STEP_PATIENCE_NS;
        waited_ns = os_clock_ns() - lane->begun_ns;
    }
    return waited_ns < most_ns ? most_ns - waited_ns : 0;
}

bool lanes_wait(struct worker *worker, enum lanes_patience patience)
{
    for (;;) {
        const uint32_t value = sync_event_value(&worker->written);
        uint64_t left_ns = 0;

        if (lanes_have_news(worker))
            return true;
        for (unsigned i = 0; i < worker->lane_count; i++) {
            const uint64_t lane_ns = lane_left_ns(&worker->lanes[i], patience);
            left_ns = lane_ns > left_ns ? lane_ns : left_ns;
        }
        if (left_ns == 0)
            return lanes_have_news(worker);
        (void)sync_event_wait(&worker->written, value, left_ns);
    }
}

void lanes_under_write(const struct worker *worker, workers_see_write *see, void *context)
{
    for (unsigned i = 0; i < worker->lane_count; i++) {
        const struct writer_lane *lane = &worker->lanes[i];

        for (unsigned w = 0; !lane_is_idle(lane) && w < lane->batch->count; w++) {
            const struct stores_slot first = lane->batch->writes[w].first;
            const struct writer_run *run = &lane->batch->runs[w];
            for (unsigned p = 0; p < run->count; p++)
                see(context, run->frames[p], (struct stores_slot){ first.file, first.slot + p });
        }
    }
}

/* ---- threads ---------------------------------------------------------------------------------------------------- */

static void *lane_main(void *context)
{
    struct writer_lane *lane = context;
    struct worker *worker = lane->worker;
    struct partition *partition = worker->workers->partition;
    struct quiet quiet;
    char name[16];

    quiet_hold(&quiet); /* for good, as in the workers */
    snprintf(name, sizeof name, "tide-file-%u-%u", lane->file, worker->node % 1000);
    os_thread_name(name);
    os_thread_raise();
    topology_bind_thread(partition->topology, worker->node);
    for (;;) {
        const uint32_t value = sync_event_value(&lane->begin);

        if (lane_state(lane) == LANE_BUSY) {
            const uint64_t before = os_thread_cpu_ns();
            batch_write(lane);
            (void)sync_add_64(&worker->cpu_ns, os_thread_cpu_ns() - before);
            (void)sync_swap_32(&lane->state, LANE_DONE); /* a full barrier before the bell is looked at */
            sync_event_signal(&worker->written);
            frames_bell_ring(&partition->frames->nodes[worker->node].writer);
        } else if (sync_load_32(&lane->stop) != 0) {
            return NULL;
        } else {
            (void)sync_event_wait(&lane->begin, value, UINT64_MAX);
        }
    }
}

tide_status lanes_create(struct worker *worker)
{
    struct stores *stores = worker->workers->partition->stores;
    const unsigned count = stores_file_count(stores);

    sync_event_init(&worker->written);
    if (count == 0)
        return TIDE_SUCCESS;
    worker->lanes = calloc(count, sizeof *worker->lanes);
    if (worker->lanes == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for writing to %u page files", count);
    for (; worker->lane_count < count; worker->lane_count++) {
        struct writer_lane *lane = &worker->lanes[worker->lane_count];

        lane->worker = worker;
        lane->file = worker->lane_count;
        sync_event_init(&lane->begin);
        const tide_status status = stores_queue_create(stores, QUEUE_DEPTH, &lane->queue);
        if (tide_failed(status))
            return status;
        lane->batch = os_memory_reserve(sizeof *lane->batch, TIDE_PAGE_BYTES);
        lane->copies = os_memory_reserve(COPIES_BYTES, TIDE_PAGE_BYTES);
        if (lane->batch == NULL || lane->copies == NULL) {
            stores_queue_destroy(lane->queue);
            os_memory_free(lane->batch, sizeof *lane->batch);
            os_memory_free(lane->copies, COPIES_BYTES);
            return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for what is written to page file %u",
                             lane->file);
        }
    }
    return TIDE_SUCCESS;
}

tide_status lanes_start(struct worker *worker)
{
    for (unsigned i = 0; i < worker->lane_count; i++) {
        struct writer_lane *lane = &worker->lanes[i];
        const int error = pthread_create(&lane->thread, NULL, lane_main, lane);

        if (error != 0)
            return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0,
                             "cannot start the thread that writes page file %u for node %u: %s", i, worker->node,
                             strerror(error));
        lane->started = true;
    }
    return TIDE_SUCCESS;
}

void lanes_destroy(struct worker *worker)
{
    for (unsigned i = 0; i < worker->lane_count; i++) {
        struct writer_lane *lane = &worker->lanes[i];

        if (lane->started) {
            sync_store_32(&lane->stop, 1);
            sync_event_signal(&lane->begin);
            pthread_join(lane->thread, NULL);
        }
        stores_queue_destroy(lane->queue);
        os_memory_free(lane->batch, sizeof *lane->batch);
        os_memory_free(lane->copies, COPIES_BYTES);
    }
    free(worker->lanes);
}

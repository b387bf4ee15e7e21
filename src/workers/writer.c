/*
 * Modified-page writer (nt-behaviour 14.1).
 *
 * Takes the oldest modified page whose grace period has passed, and with it those of the aligned window of pages
 * around it, in virtual address order, that are modified too; gives the run consecutive slots; writes many runs at
 * once without a lock. At the end a page that nobody touched goes to the tail of its standby list with its slot; one
 * that was dirtied again has the slot taken back; one that was deleted is freed; one whose write failed is modified
 * as before, and its slot is marked bad if other writes of the batch succeeded.
 *
 * A page under write is in state TRANSITION (WRITE_IN_PROGRESS, one reference). A fault may use it at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

enum { WRITER_BATCH_WRITES = 32 };

struct run {
    frame_t frames[STORES_CLUSTER_MAX];
    unsigned count;
};

struct writer_batch {
    struct stores_write writes[WRITER_BATCH_WRITES];
    struct run runs[WRITER_BATCH_WRITES];
    unsigned count;
};

bool writer_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const struct frames_node *node = &frames->nodes[worker->node];
    struct frames_counts counts;

    frames_counts(frames, worker->node, &counts);
    const uint64_t modified = counts.lists[FRAME_LIST_MODIFIED];
    return modified > node->modified_trigger || (modified != 0 && counts.available < node->high);
}

/*
 * Adds the modified neighbours in one direction within the window. The table page can be read: this thread is inside
 * the engine, and it was the PTE's table when the frame was modified.
 */
static unsigned gather(struct frames *frames, uint64_t *pte, int direction, unsigned most, frame_t *out)
{
    unsigned count = 0;

    while (count < most) {
        uint64_t *at = pte + direction * (int)(count + 1);
        const pte_t seen = pte_load(at);

        if (pte_is_valid(seen) || pte_tag(seen) != PTE_TAG_TRANSITION ||
            !frames_take_modified_at(frames, pte_frame(seen), at))
            break;
        out[count++] = pte_frame(seen);
    }
    return count;
}

/* A run of at most `most` modified pages, adjoining in virtual address, in ascending order. False if there is none. */
static bool run_take(struct worker *worker, uint64_t most, struct run *run)
{
    struct partition *partition = worker->workers->partition;
    struct frames *frames = partition->frames;
    const unsigned window = partition->cluster_pages;
    frame_t before[STORES_CLUSTER_MAX];
    const frame_t first = frames_take_modified(frames, worker->node);

    if (frame_is_none(first))
        return false;
    uint64_t *pte = frame_pfn(frames, first)->pte;
    const unsigned index = (unsigned)(((uintptr_t)pte % TIDE_PAGE_BYTES) / sizeof *pte);
    const unsigned in_window = index % window;
    const unsigned to_end = TABLE_ENTRIES - 1 - index;
    const unsigned behind = to_end < window - 1 - in_window ? to_end : window - 1 - in_window;
    const unsigned room = most > window ? window - 1 : (unsigned)most - 1;
    const unsigned left = gather(frames, pte, -1, in_window < room ? in_window : room, before);

    for (unsigned i = 0; i < left; i++)
        run->frames[i] = before[left - 1 - i];
    run->frames[left] = first;
    run->count = left + 1 + gather(frames, pte, 1, behind < room - left ? behind : room - left, &run->frames[left + 1]);
    return true;
}

/* The run is not written after all: modified as before. */
static void run_put_back(struct worker *worker, const struct run *run, unsigned from)
{
    for (unsigned i = from; i < run->count; i++)
        (void)frames_write_end(worker->workers->partition->frames, run->frames[i], 0, false);
}

/*
 * Gives a run its slots, in as many writes as it takes. Returns the pages that got one; the others are put back. Less
 * than the run means that the page files are full, unless the batch is.
 */
static unsigned run_add(struct worker *worker, struct writer_batch *batch, const struct run *run)
{
    struct partition *partition = worker->workers->partition;
    unsigned done = 0;

    while (done < run->count && batch->count < WRITER_BATCH_WRITES) {
        struct stores_slot first;
        const unsigned got = stores_slots_allocate(partition->stores, run->count - done, &first);

        if (got == 0)
            break;
        struct stores_write *write = &batch->writes[batch->count];
        struct run *part = &batch->runs[batch->count++];
        write->first = first;
        write->count = part->count = got;
        write->owner = part;
        for (unsigned i = 0; i < got; i++) {
            part->frames[i] = run->frames[done + i];
            write->pages[i] = (struct iovec){ frame_memory(partition->frames, part->frames[i]), TIDE_PAGE_BYTES };
        }
        done += got;
    }
    run_put_back(worker, run, done);
    return done;
}

/* The slot is lost, and the engine can promise a page less. */
static void slot_bad(struct partition *partition, struct stores_slot slot)
{
    stores_slot_mark_bad(partition->stores, slot);
    commit_limit_lower(&partition->commit, 1);
}

/*
 * `alive`: some write of the batch reached the disk, so one that failed failed for its slots. Else the device is at
 * fault, and its slots are as good as any when it comes back.
 */
static uint64_t write_complete(struct worker *worker, const struct stores_write *write, bool alive, int *error)
{
    struct partition *partition = worker->workers->partition;
    const struct run *run = write->owner;
    const bool written = write->error == 0;

    (void)sync_add_64(&partition->io.page_writes, 1);
    if (written)
        (void)sync_add_64(&partition->io.pages_output, run->count);
    else
        (void)sync_add_64(&partition->io.write_errors, 1);
    if (!written)
        *error = write->error;
    for (unsigned i = 0; i < run->count; i++) {
        const struct stores_slot slot = { write->first.file, write->first.slot + i };

        if (frames_write_end(partition->frames, run->frames[i], pte_original_of(slot), written))
            continue;
        if (written || !alive)
            stores_slot_release(partition->stores, slot);
        else
            slot_bad(partition, slot);
    }
    return written ? run->count : 0;
}

uint64_t writer_step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error)
{
    struct partition *partition = worker->workers->partition;
    uint64_t done = 0;
    bool more = worker->queue != NULL;

    while (more && done < budget && *error == 0) {
        struct writer_batch batch;
        struct stores_write *writes[WRITER_BATCH_WRITES];
        uint64_t gathered = 0;

        batch.count = 0;
        while (more && batch.count < WRITER_BATCH_WRITES && done + gathered < budget) {
            struct run run;
            if (!run_take(worker, budget - done - gathered, &run)) {
                more = false;
                break;
            }
            const unsigned added = run_add(worker, &batch, &run);
            gathered += added;
            more = added == run.count || batch.count == WRITER_BATCH_WRITES;
        }
        if (batch.count == 0)
            break;
        for (unsigned i = 0; i < batch.count; i++)
            writes[i] = &batch.writes[i];
        grace_io_begin(thread);
        stores_queue_write(worker->queue, writes, batch.count);
        (void)grace_advance(&partition->frames->grace);
        grace_io_end(thread);
        bool alive = false;
        for (unsigned i = 0; i < batch.count; i++)
            alive |= batch.writes[i].error == 0;
        for (unsigned i = 0; i < batch.count; i++)
            done += write_complete(worker, &batch.writes[i], alive, error);
    }
    return done;
}

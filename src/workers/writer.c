/*
 * Modified-page writer (nt-behaviour 14.1).
 *
 * Takes the oldest modified page whose grace period has passed, and with it those of the aligned window of pages
 * around it, in virtual address order, that are modified too; gives the run consecutive slots; writes many runs at
 * once without a lock. At the end a page that nobody touched goes to the tail of its standby list with its slot; one
 * that was dirtied again has the slot taken back; one that was deleted is freed; one whose write failed is modified
 * as before.
 *
 * Slots of a window. Pages of one window are often written one by one, as they happen to be trimmed. So that they can
 * be read back together all the same, a page's slot is the one that adjoins its neighbours' slots (nt-behaviour 14.2
 * rule 4). Where these lie is in their PTEs, in the records of their frames, or in this batch; if no neighbour has one,
 * the run starts a block for the window, in which the neighbours' slots are reserved (stores.c). What is read there may
 * change meanwhile. It is only a hint: whether a slot is to be had, the map decides.
 *
 * Errors. The pages of a cluster that could not be written are written again, one by one. A page that fails again
 * failed for its slot, which is marked bad for good - unless nothing else that was written to that file in this batch,
 * page or cluster, reached it. Then the device is at fault: its slots are as good as any when it comes back, and its
 * other clusters are not tried again in this batch. If the memory of the page is what is bad (bad.c), its frame is
 * noted.
 *
 * A page under write is in state TRANSITION (WRITE_IN_PROGRESS, one reference). A fault may use it at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/workers_impl.h"

enum { WRITER_SINGLE_WRITES = 8 };

struct run {
    frame_t frames[STORES_CLUSTER_MAX];
    unsigned count;
    const uint64_t *window; /* PTE of the first page of the window */
    unsigned position;      /* of the run's first page in it */
};

struct writer_batch {
    struct stores_write writes[WRITER_BATCH_WRITES];
    struct run runs[WRITER_BATCH_WRITES];
    unsigned count; /* of writes */
    unsigned pages; /* in them */
};

const size_t writer_scratch_bytes = sizeof(struct writer_batch);

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
    run->window = pte - in_window;
    run->position = in_window - left;
    run->count = left + 1 + gather(frames, pte, 1, behind < room - left ? behind : room - left, &run->frames[left + 1]);
    return true;
}

/* The run is not written after all: modified as before. */
static void run_put_back(struct worker *worker, const struct run *run, unsigned from)
{
    for (unsigned i = from; i < run->count; i++)
        (void)frames_write_end(worker->workers->partition->frames, run->frames[i], 0, false);
}

/* The slot that holds a copy of a page, by what its PTE and its frame say at the moment; slot 0 if there is none. */
static struct stores_slot slot_seen(const struct frames *frames, const uint64_t *pte)
{
    const pte_t seen = pte_load(pte);
    uint64_t original = 0;

    if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION)
        original = sync_load_relaxed_64(&frame_pfn(frames, pte_frame(seen))->original);
    else if (pte_tag(seen) == PTE_TAG_PAGE_FILE)
        original = seen.bits;
    return pte_slot((pte_t){ original });
}

/* Slots for the pages of a run from `from` on. Returns for how many, 0 if the page files are full. */
static unsigned slots_get(struct worker *worker, const struct writer_batch *batch, const struct run *run, unsigned from,
                          struct stores_slot *first)
{
    struct partition *partition = worker->workers->partition;
    const unsigned window = partition->cluster_pages, wanted = run->count - from;
    const int position = (int)(run->position + from);
    const int to_end = (int)(TABLE_ENTRIES - ((uintptr_t)run->window % TIDE_PAGE_BYTES) / sizeof *run->window);
    const int end = to_end < (int)window ? to_end : (int)window;
    uint64_t tried = 0;
    unsigned got;

    for (unsigned i = 0; i < batch->count; i++) {
        const struct run *other = &batch->runs[i];
        if (other->window != run->window)
            continue;
        got = stores_window_join(partition->stores, (unsigned)position, wanted, batch->writes[i].first,
                                 (int)other->position - position, first);
        if (got != 0)
            return got;
    }
    /* The nearest first; a place that one neighbour showed in vain is not asked for again. */
    for (int distance = 1; distance < (int)window && wanted < window; distance++) {
        for (int side = -1; side <= 1; side += 2) {
            const int at = position + side * distance;
            if (at < 0 || at >= end)
                continue;
            const struct stores_slot slot = slot_seen(partition->frames, &run->window[at]);
            const uint64_t place = ((uint64_t)slot.file << 32 | slot.slot) - (uint64_t)(int64_t)(side * distance);
            if (slot.slot == 0 || place == tried)
                continue;
            tried = place;
            got = stores_window_join(partition->stores, (unsigned)position, wanted, slot, side * distance, first);
            if (got != 0)
                return got;
        }
    }
    return stores_window_allocate(partition->stores, (unsigned)position, wanted, first);
}

/* The page files are full: larger ones would do. */
static void slots_call(struct partition *partition)
{
    if (sync_load_32(&partition->slots_short) != 0)
        return;
    (void)sync_swap_32(&partition->slots_short, 1); /* a full barrier before the bell is looked at */
    frames_bell_ring(&partition->extender);
}

/*
 * Pages of a mapped space have no memory in the arena: they are written from a copy. It is taken while the program has
 * none of them; who touches one meanwhile and makes it dirty again is met at the end of the write, as with any page.
 * False if they cannot be read: their space is going, and they with it.
 */
static bool contents_copy(struct worker *worker, const struct writer_batch *batch, struct stores_write *write,
                          const struct run *run)
{
    struct frames *frames = worker->workers->partition->frames;
    const struct pfn *first = frame_pfn(frames, run->frames[0]);
    char *copy = worker->copies + batch->pages * (size_t)TIDE_PAGE_BYTES;
    uint64_t page;

    if (!pfn_is_hollow(sync_load_relaxed_64(&first->word)))
        return true;
    const uint64_t *pte = pfn_pte(first);
    const struct mapping *mapping = pte == NULL ? NULL : page_table_mapping_of(frames, pte, &page);
    if (mapping == NULL || mapping_read(mapping, page * TIDE_PAGE_BYTES, copy, run->count * TIDE_PAGE_BYTES) != 0)
        return false;
    for (unsigned i = 0; i < run->count; i++)
        write->pages[i].iov_base = copy + i * TIDE_PAGE_BYTES;
    return true;
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
        const unsigned got = slots_get(worker, batch, run, done, &first);

        if (got == 0) {
            slots_call(partition);
            break;
        }
        struct stores_write *write = &batch->writes[batch->count];
        struct run *part = &batch->runs[batch->count++];
        write->first = first;
        write->count = part->count = got;
        write->owner = part;
        part->window = run->window;
        part->position = run->position + done;
        for (unsigned i = 0; i < got; i++) {
            part->frames[i] = run->frames[done + i];
            write->pages[i] = (struct iovec){ frame_memory(partition->frames, part->frames[i]), TIDE_PAGE_BYTES };
        }
        if (!contents_copy(worker, batch, write, part)) {
            batch->count--;
            for (unsigned i = 0; i < got; i++)
                stores_slot_release(partition->stores, (struct stores_slot){ first.file, first.slot + i });
            break;
        }
        batch->pages += got;
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

/* What a batch has shown of the files: bits by file. */
struct files_seen {
    uint32_t alive; /* a write reached the disk */
    uint32_t dead;  /* a cluster failed, none of its pages could be written alone, and the file has not shown life */
};

static void write_count(struct partition *partition, const struct stores_write *write)
{
    (void)sync_add_64(&partition->io.page_writes, 1);
    if (write->error == 0)
        (void)sync_add_64(&partition->io.pages_output, write->count);
    else
        (void)sync_add_64(&partition->io.write_errors, 1);
}

/* The write of one page is over, for good. */
static void page_complete(struct worker *worker, frame_t frame, struct stores_slot slot, bool written, bool slot_is_bad)
{
    struct partition *partition = worker->workers->partition;

    if (frames_write_end(partition->frames, frame, pte_original_of(slot), written))
        return;
    if (slot_is_bad)
        slot_bad(partition, slot);
    else
        stores_slot_release(partition->stores, slot);
}

/* Writes pages of a failed cluster one by one. Sets the error of each, from `from` on. Returns how many it did. */
static unsigned singles_write(struct worker *worker, struct grace_thread *thread, const struct stores_write *write,
                              unsigned from, int *errors, struct files_seen *seen)
{
    struct partition *partition = worker->workers->partition;
    struct stores_write singles[WRITER_SINGLE_WRITES];
    struct stores_write *pointers[WRITER_SINGLE_WRITES];
    const unsigned left = write->count - from;
    const unsigned count = left < WRITER_SINGLE_WRITES ? left : WRITER_SINGLE_WRITES;

    for (unsigned i = 0; i < count; i++) {
        pointers[i] = &singles[i];
        singles[i].first = (struct stores_slot){ write->first.file, write->first.slot + from + i };
        singles[i].count = 1;
        singles[i].pages[0] = write->pages[from + i];
    }
    grace_io_begin(thread);
    stores_queue_write(worker->queue, pointers, count);
    grace_io_end(thread);
    for (unsigned i = 0; i < count; i++) {
        write_count(partition, &singles[i]);
        errors[from + i] = singles[i].error;
        if (singles[i].error == 0 || frames_bad_is_to_blame(partition->frames, singles[i].error))
            seen->alive |= 1u << write->first.file;
    }
    return count;
}

/* A cluster could not be written: finds out for which slots. Returns the pages that could. */
static uint64_t failed_complete(struct worker *worker, struct grace_thread *thread, const struct stores_write *write,
                                struct files_seen *seen, int *error)
{
    const struct run *run = write->owner;
    const uint32_t file = 1u << write->first.file;
    int errors[STORES_CLUSTER_MAX];
    uint64_t written = 0;

    for (unsigned i = 0; i < run->count; i++)
        errors[i] = write->error;
    for (unsigned i = 0; i < run->count && (seen->dead & file) == 0;)
        i += singles_write(worker, thread, write, i, errors, seen);
    if ((seen->alive & file) == 0)
        seen->dead |= file;
    for (unsigned i = 0; i < run->count; i++) {
        const struct stores_slot slot = { write->first.file, write->first.slot + i };
        const bool failed = errors[i] != 0;
        const bool bad_frame = failed && frames_bad_is_to_blame(worker->workers->partition->frames, errors[i]);

        if (bad_frame) /* before it goes back to the modified list, from which it is taken out of use */
            (void)frames_bad_note(worker->workers->partition->frames, run->frames[i]);
        else if (failed)
            *error = errors[i];
        written += !failed;
        page_complete(worker, run->frames[i], slot, !failed, failed && !bad_frame && (seen->dead & file) == 0);
    }
    return written;
}

static uint64_t batch_complete(struct worker *worker, struct grace_thread *thread, const struct writer_batch *batch,
                               int *error)
{
    struct files_seen seen = { 0, 0 };
    uint64_t done = 0;

    for (unsigned i = 0; i < batch->count; i++) {
        const struct stores_write *write = &batch->writes[i];
        const struct run *run = write->owner;

        write_count(worker->workers->partition, write);
        if (write->error != 0)
            continue;
        seen.alive |= 1u << write->first.file;
        done += run->count;
        for (unsigned p = 0; p < run->count; p++)
            page_complete(worker, run->frames[p], (struct stores_slot){ write->first.file, write->first.slot + p },
                          true, false);
    }
    for (unsigned i = 0; i < batch->count; i++)
        if (batch->writes[i].error != 0)
            done += failed_complete(worker, thread, &batch->writes[i], &seen, error);
    return done;
}

uint64_t writer_step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error)
{
    struct partition *partition = worker->workers->partition;
    uint64_t done = 0;
    struct writer_batch *const batch = worker->scratch;
    bool more = worker->queue != NULL;

    while (more && done < budget && *error == 0) {
        struct stores_write *writes[WRITER_BATCH_WRITES];
        const uint64_t most = budget - done < WRITER_BATCH_PAGES ? budget - done : WRITER_BATCH_PAGES;

        batch->count = batch->pages = 0;
        while (more && batch->count < WRITER_BATCH_WRITES && batch->pages < most) {
            struct run run;
            if (!run_take(worker, most - batch->pages, &run)) {
                more = false;
                break;
            }
            const unsigned added = run_add(worker, batch, &run);
            more = added == run.count || batch->count == WRITER_BATCH_WRITES;
        }
        if (batch->count == 0)
            break;
        for (unsigned i = 0; i < batch->count; i++)
            writes[i] = &batch->writes[i];
        grace_io_begin(thread);
        stores_queue_write(worker->queue, writes, batch->count);
        (void)grace_advance(&partition->frames->grace);
        grace_io_end(thread);
        done += batch_complete(worker, thread, batch, error);
    }
    return done;
}

/*
 * Modified-page writer (nt-behaviour 14.1).
 *
 * Takes the oldest modified page whose grace period has passed, and with it those of the aligned window of pages
 * around it, in virtual address order, that are modified too; gives the run consecutive slots; has many runs written
 * at once, file by file (lanes.c). At the end a page that nobody touched goes to the tail of its standby list with its slot; one
 * that was dirtied again has the slot taken back; one that was deleted is freed; one whose write failed is modified
 * as before.
 *
 * Slots of a window. Pages of one window are often written one by one, as they happen to be trimmed. So that they can
 * be read back together all the same, a page's slot is the one that adjoins its neighbours' slots (nt-behaviour 14.2
 * rule 4). Where these lie is in their PTEs, in the records of their frames, or in this batch; if no neighbour has one,
 * the run starts a block for the window, in which the neighbours' slots are reserved (stores.c). What is read there may
 * change meanwhile. It is only a hint: whether a slot is to be had, the map decides.
 *
 * Lone pages. Where a page lies in its file matters to who reads it together with its neighbours. While page reads are
 * random (reads_look()), it matters to nobody, and a page that has hardly a neighbour in memory is written together
 * with others of its kind, wherever there are slots side by side: many random writes become one large one. What is
 * lost is the order: a scan that comes later has more and smaller reads, until these pages are written again.
 *
 * Errors. A slot that could not be written is marked bad for good, unless the whole file is at fault: then its slots
 * are as good as any when it comes back. If the memory of the page is what is bad (bad.c), its frame is noted; a page of
 * a mapped space is lost at once (bad_page.c).
 *
 * A page under write is in state TRANSITION (WRITE_IN_PROGRESS, one reference). A fault may use it at once.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "workers/lanes.h"
#include "workers/workers_impl.h"

#include <errno.h>
#include <string.h>

enum { ROUND_PARTS = 16, ROUND_PAGES_LEAST = 64 };
/* So many page reads are looked at together; of these, one in so many that is part of a scan makes the order matter. */
enum { LOOK_READS_LEAST = 128, LOOK_SCAN_PART = 8 };
enum { TOGETHER_LEAST = 4 /* fewer lone pages are not worth it */ };

bool writer_due(const struct worker *worker)
{
    const struct frames *frames = worker->workers->partition->frames;
    const struct frames_node *node = &frames->nodes[worker->node];
    struct frames_counts counts;

    if (lanes_have_news(worker))
        return true;
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

/* Where a page stands in its window. */
static void run_stand(const struct worker *worker, struct writer_run *run, const uint64_t *pte)
{
    const unsigned index = (unsigned)(((uintptr_t)pte % TIDE_PAGE_BYTES) / sizeof *pte);

    run->position = index % worker->workers->partition->cluster_pages;
    run->window = pte - run->position;
}

/* Entries of the leaf behind a PTE of it. */
static unsigned entries_behind(const uint64_t *pte)
{
    return TABLE_ENTRIES - 1 - (unsigned)(((uintptr_t)pte % TIDE_PAGE_BYTES) / sizeof *pte);
}

/* A run of at most `most` modified pages, adjoining in virtual address, in ascending order. False if there is none. */
static bool run_take(struct worker *worker, uint64_t most, struct writer_run *run)
{
    struct partition *partition = worker->workers->partition;
    struct frames *frames = partition->frames;
    const unsigned window = partition->cluster_pages;
    frame_t before[STORES_CLUSTER_MAX];
    const frame_t first = frames_take_modified(frames, worker->node);

    if (frame_is_none(first))
        return false;
    uint64_t *pte = frame_pfn(frames, first)->pte;
    run_stand(worker, run, pte);
    const unsigned in_window = run->position;
    const unsigned to_end = entries_behind(pte);
    const unsigned behind = to_end < window - 1 - in_window ? to_end : window - 1 - in_window;
    const unsigned room = most > window ? window - 1 : (unsigned)most - 1;
    const unsigned left = gather(frames, pte, -1, in_window < room ? in_window : room, before);

    for (unsigned i = 0; i < left; i++)
        run->frames[i] = before[left - 1 - i];
    run->frames[left] = first;
    run->position = in_window - left;
    run->count = left + 1 + gather(frames, pte, 1, behind < room - left ? behind : room - left, &run->frames[left + 1]);
    return true;
}

/* Pages in memory side by side, in one direction from a PTE on, which does not count; `most` at most, in its leaf. */
static unsigned track(const uint64_t *pte, int direction, unsigned most)
{
    const unsigned behind = entries_behind(pte);
    const unsigned end = direction > 0 ? behind : TABLE_ENTRIES - 1 - behind;
    unsigned length = 0;

    while (length < most && length < end) {
        const pte_t seen = pte_load(pte + direction * (int)(length + 1));
        if (!pte_is_valid(seen) && pte_tag(seen) != PTE_TAG_TRANSITION)
            break;
        length++;
    }
    return length;
}

/* May its pages be written anywhere, with others? */
static bool run_is_lone(const struct worker *worker, const struct writer_run *run)
{
    const uint64_t *first = run->window + run->position;

    return worker->reads.random && run->count <= PAGE_TRACK_LEAST &&
           track(first, -1, PAGE_TRACK_LEAST) + run->count + track(first + run->count - 1, 1, PAGE_TRACK_LEAST) <=
               PAGE_TRACK_LEAST;
}

/* Whether the page reads since the last look were those of a program that touches pages at random. */
static void reads_look(struct worker *worker)
{
    const struct partition *partition = worker->workers->partition;
    const uint64_t reads = sync_load_relaxed_64(&partition->io.page_reads);
    const uint64_t scans = sync_load_relaxed_64(&partition->io.scan_reads);

    if (reads - worker->reads.all < LOOK_READS_LEAST || partition->keep_page_order)
        return;
    worker->reads.random = (scans - worker->reads.scans) * LOOK_SCAN_PART < reads - worker->reads.all;
    worker->reads.all = reads;
    worker->reads.scans = scans;
}

/* The run is not written after all: modified as before. */
static void run_put_back(struct worker *worker, const struct writer_run *run, unsigned from)
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

/* Files whose lane has no room for a page now: bits by file. */
static uint32_t files_closed(const struct worker *worker)
{
    uint32_t closed = 0;

    for (unsigned i = 0; i < worker->lane_count; i++)
        if (!lane_is_idle(&worker->lanes[i]) || worker->lanes[i].batch->count == WRITER_BATCH_WRITES)
            closed |= 1u << i;
    return closed;
}

/*
 * Slots for the pages of a run from `from` on, in a file that is not closed. Returns for how many, 0 if there is none.
 * Lone pages (window NULL) lie anywhere.
 */
static unsigned slots_get(struct worker *worker, const struct writer_run *run, unsigned from, uint32_t closed,
                          struct stores_slot *first)
{
    struct partition *partition = worker->workers->partition;
    const unsigned window = partition->cluster_pages, wanted = run->count - from;
    const int position = (int)(run->position + from);
    const int to_end = (int)(TABLE_ENTRIES - ((uintptr_t)run->window % TIDE_PAGE_BYTES) / sizeof *run->window);
    const int end = to_end < (int)window ? to_end : (int)window;
    uint64_t tried = 0;
    unsigned got;

    if (run->window == NULL)
        return stores_slots_allocate(partition->stores, wanted, closed, first);
    for (unsigned l = 0; l < worker->lane_count; l++) {
        const struct writer_batch *batch = worker->lanes[l].batch;
        for (unsigned i = 0; (closed & 1u << l) == 0 && i < batch->count; i++) {
            const struct writer_run *other = &batch->runs[i];
            if (other->window != run->window)
                continue;
            got = stores_window_join(partition->stores, (unsigned)position, wanted, batch->writes[i].first,
                                     (int)other->position - position, closed, first);
            if (got != 0)
                return got;
        }
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
            got =
                stores_window_join(partition->stores, (unsigned)position, wanted, slot, side * distance, closed, first);
            if (got != 0)
                return got;
        }
    }
    return stores_window_allocate(partition->stores, (unsigned)position, wanted, closed, first);
}

/* The page files that are not closed are full: larger ones would do, if they can be. */
static void slots_call(struct partition *partition, uint32_t closed)
{
    bool can_grow = false;

    for (unsigned i = 0; i < stores_file_count(partition->stores); i++) {
        struct stores_file_statistics file;

        stores_file_size(partition->stores, i, &file);
        can_grow = can_grow || ((closed & 1u << i) == 0 && file.slots < file.maximum_slots);
    }
    if (!can_grow || sync_load_32(&partition->slots_short) != 0)
        return;
    (void)sync_swap_32(&partition->slots_short, 1); /* a full barrier before the bell is looked at */
    frames_bell_ring(&partition->extender);
}

/*
 * Pages of a mapped space have no memory in the arena: they are written from a copy. It is taken while the program has
 * none of them; who touches one meanwhile and makes it dirty again is met at the end of the write, as with any page.
 * Returns how many pages can be written, from the first on: fewer than there are if one cannot be read, since its
 * space is going, and the page with it, or its memory is bad: then the page is lost.
 */
static unsigned contents_get(const struct writer_lane *lane, const struct writer_run *run, struct iovec *pages)
{
    struct frames *frames = lane->worker->workers->partition->frames;
    char *copies = lane->copies + lane->batch->pages * (size_t)TIDE_PAGE_BYTES;
    unsigned most = run->count; /* pages a call */

    for (unsigned i = 0, count; i < run->count; i += count) {
        const struct pfn *pfn = frame_pfn(frames, run->frames[i]);
        uint64_t *pte = pfn_pte(pfn);

        count = 1;
        pages[i] = (struct iovec){ frame_memory(frames, run->frames[i]), TIDE_PAGE_BYTES };
        if (!pfn_is_hollow(sync_load_relaxed_64(&pfn->word)))
            continue;
        const uint64_t page = page_table_page_of(frames, pte, NULL);
        struct mapping *mapping = mapping_hold(page);
        if (mapping == NULL)
            return i;
        while (count < most && i + count < run->count && count <= entries_behind(pte) &&
               pfn_pte(frame_pfn(frames, run->frames[i + count])) == pte + count)
            count++;
        char *copy = copies + i * (size_t)TIDE_PAGE_BYTES;
        const int error = mapping_read(mapping, page * TIDE_PAGE_BYTES, copy, count * (size_t)TIDE_PAGE_BYTES);
        if (error == EHWPOISON && count == 1)
            bad_page_unreadable(mapping, pte, run->frames[i]);
        mapping_let(mapping);
        if (error == EHWPOISON && count > 1) {
            most = 1; /* which of them is it? */
            count = 0;
            continue;
        }
        if (error != 0)
            return i;
        for (unsigned c = 0; c < count; c++)
            pages[i + c] = (struct iovec){ copy + c * (size_t)TIDE_PAGE_BYTES, TIDE_PAGE_BYTES };
    }
    return run->count;
}

/* Adds pages of a run that have their slots to the batch of the file's lane. Returns how many can be written. */
static unsigned part_add(struct writer_lane *lane, const struct writer_run *run, unsigned from,
                         struct stores_slot first, unsigned count)
{
    struct writer_batch *batch = lane->batch;
    struct stores_write *write = &batch->writes[batch->count];
    struct writer_run *part = &batch->runs[batch->count];

    part->count = count;
    part->window = run->window;
    part->position = run->position + from;
    memcpy(part->frames, &run->frames[from], count * sizeof *part->frames);
    write->first = first;
    write->count = part->count = contents_get(lane, part, write->pages);
    if (part->count != 0) {
        batch->count++;
        batch->pages += part->count;
    }
    return part->count;
}

/* Will none of these files take a page soon? */
static bool files_stand_still(const struct worker *worker, uint32_t files)
{
    for (unsigned i = 0; i < worker->lane_count; i++)
        if ((files & 1u << i) != 0 && !lane_is_overdue(&worker->lanes[i]))
            return false;
    return true;
}

/*
 * Gives a run its slots, in as many writes as it takes. Returns the pages that got one; the others are put back.
 * *more: there may be slots for others, now or when a lane is done.
 */
static unsigned run_add(struct worker *worker, const struct writer_run *run, bool *more)
{
    struct partition *partition = worker->workers->partition;
    unsigned done = 0;

    while (done < run->count) {
        const uint32_t closed = files_closed(worker);
        struct stores_slot first;
        const unsigned got = slots_get(worker, run, done, closed, &first);

        if (got == 0) {
            *more = !files_stand_still(worker, closed);
            if (!*more)
                slots_call(partition, closed);
            break;
        }
        const unsigned added = part_add(&worker->lanes[first.file], run, done, first, got);
        done += added;
        if (added == got)
            continue;
        for (unsigned i = added; i < got; i++)
            stores_slot_release(partition->stores, (struct stores_slot){ first.file, first.slot + i });
        *more = false;
        break;
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

/* What became of a lane's batch. Returns the pages that are written. */
static uint64_t batch_complete(struct writer_lane *lane, int *error)
{
    struct worker *worker = lane->worker;
    struct frames *frames = worker->workers->partition->frames;
    const struct writer_batch *batch = lane->batch;
    uint64_t written = 0, together = 0;

    for (unsigned i = 0; i < batch->count; i++) {
        const struct stores_slot first = batch->writes[i].first;
        const struct writer_run *run = &batch->runs[i];

        for (unsigned p = 0; p < run->count; p++) {
            const bool failed = run->errors[p] != 0;
            const bool bad_frame = failed && frames_bad_is_to_blame(frames, run->errors[p]);

            if (bad_frame) /* before it goes back to the modified list, from which it is taken out of use */
                (void)frames_bad_note(frames, run->frames[p]);
            else if (failed)
                *error = run->errors[p];
            written += !failed;
            together += !failed && run->window == NULL;
            page_complete(worker, run->frames[p], (struct stores_slot){ first.file, first.slot + p }, !failed,
                          failed && !bad_frame && !batch->dead);
        }
    }
    lane_taken_in(lane);
    (void)sync_add_64(&worker->workers->partition->io.pages_together, together);
    return written;
}

static uint64_t lanes_take_in(struct worker *worker, int *error)
{
    uint64_t written = 0;

    for (unsigned i = 0; i < worker->lane_count; i++)
        if (lane_is_done(&worker->lanes[i]))
            written += batch_complete(&worker->lanes[i], error);
    return written;
}

/* Lone pages that were collected go to the batches, together if they are enough. Returns how many. */
static unsigned lone_pages_add(struct worker *worker, struct writer_run *lone, bool *more)
{
    const struct frames *frames = worker->workers->partition->frames;
    unsigned added = 0;

    lone->window = NULL;
    lone->position = 0;
    if (lone->count >= TOGETHER_LEAST)
        added = run_add(worker, lone, more);
    for (unsigned i = 0; lone->count < TOGETHER_LEAST && i < lone->count; i++) {
        struct writer_run run = { .frames = { lone->frames[i] }, .count = 1 };
        run_stand(worker, &run, frame_pfn(frames, lone->frames[i])->pte);
        added += run_add(worker, &run, more);
    }
    return added;
}

/* Batches of at most so many pages in all, in lanes that are idle. Returns the pages; *more: there may be others. */
static uint64_t lanes_fill(struct worker *worker, uint64_t most, bool *more)
{
    struct writer_run run, lone = { .count = 0 };
    uint64_t pages = 0;
    bool room = true; /* every page so far got its slot */

    while (room && pages + lone.count < most) {
        if (!run_take(worker, most - pages - lone.count, &run)) {
            *more = false;
            break;
        }
        if (!run_is_lone(worker, &run)) {
            const unsigned added = run_add(worker, &run, more);
            pages += added;
            room = added == run.count;
            continue;
        }
        if (lone.count + run.count > STORES_CLUSTER_MAX) {
            const unsigned added = lone_pages_add(worker, &lone, more);
            pages += added;
            room = added == lone.count;
            lone.count = 0;
        }
        memcpy(&lone.frames[lone.count], run.frames, run.count * sizeof *run.frames);
        lone.count += run.count;
    }
    return pages + lone_pages_add(worker, &lone, more);
}

/* Starts the lanes that have something to write. Returns whether there is one that has not. */
static bool lanes_start_filled(struct worker *worker)
{
    bool idle = false;

    for (unsigned i = 0; i < worker->lane_count; i++) {
        struct writer_lane *lane = &worker->lanes[i];

        if (lane_is_idle(lane) && lane->batch->count != 0)
            lane_start(lane);
        else
            idle = idle || lane_is_idle(lane);
    }
    return idle;
}

/* Pages for one round: in a small engine a file that does not answer must not keep a large part of it. */
static uint64_t round_pages(const struct worker *worker)
{
    const uint64_t part = worker->workers->partition->frames->nodes[worker->node].count / ROUND_PARTS;

    return part < ROUND_PAGES_LEAST ? ROUND_PAGES_LEAST : part < WRITER_BATCH_PAGES ? part : WRITER_BATCH_PAGES;
}

uint64_t writer_step(struct worker *worker, struct grace_thread *thread, uint64_t budget, int *error)
{
    const uint64_t round = round_pages(worker);
    uint64_t begun = 0, written = 0;
    bool more = worker->lane_count != 0;
    bool go_on;

    reads_look(worker);
    do {
        const uint64_t before = begun;

        written += lanes_take_in(worker, error);
        if (more && begun < budget && *error == 0) {
            const uint64_t left = budget - begun;
            begun += lanes_fill(worker, left < round ? left : round, &more);
        }
        grace_io_begin(thread);
        const bool idle = lanes_start_filled(worker);
        /* A round may be for one file alone, where its neighbours are. The next one finds that file closed. */
        go_on = (idle && more && begun != before && begun < budget) || lanes_wait(worker, LANES_STEP);
        (void)grace_advance(&worker->workers->partition->frames->grace);
        grace_io_end(thread);
    } while (go_on);
    return written;
}

/*
 * Prefetch: pages of the page file are read ahead of their use (PrefetchVirtualMemory, nt-behaviour 6 rule 7).
 *
 * A run of pages whose copies lie in consecutive slots is read at once, up to the largest I/O there is, and several
 * runs at the same time: the caller has said that it wants them all, so the windows of hard faults (hard.c) do not
 * apply. What is read goes to standby, in transition form, and not into the working set: its first touch is a soft
 * fault. That is so as soon as the run itself is read, and then the next run takes its place: no page waits for the
 * read of another run.
 *
 * A mapped space's pages pass through the thread's buffer, of which each run under way has a part or two: enough for as
 * many short runs as elsewhere, or for half as many of a size that is worth a read.
 *
 * As at a hard fault the PTEs of a run are claimed while it is read, so that who touches one meanwhile waits for this
 * read; and frames come first, so that nothing is held while there is none. A hint: it takes frames only as long as
 * they are at hand and its budget lasts, which is less than what is available on each node, so it never takes back for
 * one page the frame of another that it read; and it forgets errors. Where a page's frame comes from is for its
 * placement to say, as at a fault.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "faults/fault_impl.h"

#include <stddef.h>

enum {
    PREFETCH_READS = 8, /* at the same time, each in a place of its own */
    PLACE_PAGES = 8,    /* of the buffer for mapped spaces */
    BUFFER_PAGES = PREFETCH_READS * PLACE_PAGES,
};
_Static_assert(BUFFER_PAGES <= GRACE_BUFFER_BYTES / TIDE_PAGE_BYTES, "the thread's buffer has the places");

/* Pages in consecutive PTEs and consecutive slots, and the read of them. */
struct read_run {
    uint64_t *pte; /* of the first page */
    uint64_t page; /* the first */
    unsigned count;
    uint32_t places; /* that it takes up, bits */
    pte_t seen[STORES_CLUSTER_MAX];
    frame_t frames[STORES_CLUSTER_MAX];
    struct stores_request request;
};

void fault_prefetch_budget(const tide_space *space, struct prefetch_budget *budget)
{
    const struct frames *frames = space_frames(space);

    for (unsigned n = 0; n < frames->node_count; n++) {
        struct frames_counts counts;

        frames_counts(frames, n, &counts);
        budget->unused[n] = counts.available - counts.standby;
        budget->standby[n] = counts.standby / 2;
    }
    budget->spent = false;
}

/* A frame of one node, out of one of its budgets. */
static frame_t budget_take(struct frames *frames, unsigned node, enum frames_need need, unsigned flags,
                           uint64_t *budget)
{
    if (*budget == 0)
        return FRAME_NONE;
    const frame_t frame = frames_allocate(frames, node, need, FRAMES_AT_HAND | FRAMES_STRICT | flags);
    *budget = frame_is_none(frame) ? 0 : *budget - 1;
    return frame;
}

/* A frame where it is wanted, or by the order that its flags say. */
static frame_t frame_take(struct frames *frames, struct frames_place place, enum frames_need need,
                          struct prefetch_budget *budget)
{
    const unsigned *order = frames->topology->nodes[place.node].order;
    const unsigned nodes = frames_nodes_allowed(frames, place.flags);
    const bool local_standby = frames_local_standby_first(frames, place.flags);
    frame_t frame = FRAME_NONE;

    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < nodes && frame_is_none(frame); i++) {
            const unsigned n = order[i];

            if (pass == 0)
                frame = budget_take(frames, n, need, FRAMES_UNUSED, &budget->unused[n]);
            if (frame_is_none(frame) && (pass == 1 || local_standby))
                frame = budget_take(frames, n, need, 0, &budget->standby[n]);
        }
    }
    return frame;
}

static bool wanted(pte_t pte)
{
    return !pte_is_valid(pte) && pte_tag(pte) == PTE_TAG_PAGE_FILE && pte_protection(pte) != PTE_OFFERED;
}

/* Does the page's copy lie behind that of the run's last? */
static bool continues(const struct read_run *run, pte_t pte)
{
    const struct stores_slot last = pte_slot(run->seen[run->count - 1]), slot = pte_slot(pte);

    return wanted(pte) && slot.file == last.file && slot.slot == last.slot + 1;
}

/*
 * Gathers a run from the PTE of a page on, of `most` pages at most, and claims it. False if there is no frame for the
 * next page, which ends the prefetch.
 */
static bool run_gather(struct fault *fault, uint64_t *pte, uint64_t page, uint64_t most, struct prefetch_budget *budget,
                       struct read_run *run)
{
    struct frames *frames = space_frames(fault->space);
    const unsigned priority = fault_priority(fault);

    run->pte = pte;
    run->page = page;
    run->count = 0;
    while (run->count < most) {
        uint64_t *at = pte + run->count;
        const pte_t seen = pte_load(at);

        if (run->count == 0 ? !wanted(seen) : !continues(run, seen))
            break;
        fault->page = page + run->count;
        const frame_t frame = frame_take(frames, fault_place(fault), fault_need(fault, FRAMES_ANY), budget);
        if (frame_is_none(frame))
            return false;
        if (!pte_cas(at, seen, pte_reading_form(seen))) {
            frames_give_back(frames, frame, false);
            break;
        }
        frames_read_begin(frames, frame, at, seen.bits & ~PTE_PROTECTION_MASK, priority);
        run->seen[run->count] = seen;
        run->frames[run->count++] = frame;
    }
    return true;
}

/* What was read goes to standby; or, after an error, all is as if it had not been tried: who needs a page is told. */
static void run_settle(tide_space *space, const struct read_run *run, int error)
{
    struct partition *partition = space->partition;
    struct frames *frames = partition->frames;
    struct frames_batch lists;

    (void)sync_add_64(&partition->io.page_reads, 1);
    if (error != 0) {
        (void)sync_add_64(&partition->io.read_errors, 1);
        for (unsigned i = 0; i < run->count; i++) {
            pte_release(partition->waits, &run->pte[i], run->seen[i]);
            frames_give_back(frames, run->frames[i], false);
        }
        return;
    }
    (void)sync_add_64(&partition->io.pages_input, run->count);
    (void)sync_add_64(&partition->io.pages_prefetched, run->count);
    frames_batch_begin(&lists, frames);
    for (unsigned i = 0; i < run->count; i++)
        frames_read_end(&lists, run->frames[i]);
    frames_batch_end(&lists);
    for (unsigned i = 0; i < run->count; i++)
        pte_release(partition->waits, &run->pte[i], pte_make_transition(run->frames[i], pte_protection(run->seen[i])));
}

/* Adds the read of a run, whose pages are claimed; `place` is its first. */
static void run_start(const struct fault *fault, struct stores_reads *reads, struct read_run *run, unsigned place)
{
    const tide_space *space = fault->space;

    run->request.first = pte_slot(run->seen[0]);
    run->request.count = run->count;
    for (unsigned i = 0; i < run->count; i++) {
        void *memory = fault_read_memory(space, fault->thread, run->frames[i], place * PLACE_PAGES + i);
        run->request.pages[i] = (struct iovec){ memory, TIDE_PAGE_BYTES };
    }
    stores_reads_add(reads, &run->request);
}

/* Waits for a run to be read; in a mapped space it becomes the content of its pages. NULL if none is under way. */
static struct read_run *run_wait(const struct fault *fault, struct stores_reads *reads)
{
    struct mapping *mapping = fault->space->mapping;
    struct read_run *run = NULL;

    grace_io_begin(fault->thread);
    struct stores_request *request = stores_reads_next(reads);
    if (request != NULL) {
        run = (struct read_run *)(void *)((char *)request - offsetof(struct read_run, request));
        if (mapping != NULL && request->error == 0)
            request->error = mapping_store(mapping, run->page, run->count, request->pages[0].iov_base);
    }
    grace_io_end(fault->thread);
    return run;
}

/*
 * The first run in the pages from *page to `last`, of `most` pages at most, claimed; *page moves behind it. False if
 * there is no frame for it.
 */
static bool run_find(struct fault *fault, uint64_t *page, uint64_t last, unsigned most, struct prefetch_budget *budget,
                     struct read_run *run)
{
    const tide_space *space = fault->space;
    bool at_hand = true;

    run->count = 0;
    while (*page <= last && run->count == 0 && at_hand) {
        uint64_t first = *page;
        uint64_t *leaf = page_table_next_leaf(&space->table, &first, last);

        if (leaf == NULL) {
            *page = last + 1;
            break;
        }
        if (first > *page)
            *page = first;
        const uint64_t end = last - first < TABLE_ENTRIES ? last : first + TABLE_ENTRIES - 1;
        while (*page <= end && run->count == 0 && at_hand) {
            const uint64_t left = end - *page + 1;
            uint64_t *pte = &leaf[*page - first];

            if (wanted(pte_load(pte)))
                at_hand = run_gather(fault, pte, *page, left < most ? left : most, budget, run);
            *page += run->count == 0 ? 1 : run->count;
        }
    }
    return at_hand;
}

void fault_prefetch(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                    struct prefetch_budget *budget)
{
    const uint64_t last = (base + bytes - 1) / TIDE_PAGE_BYTES;
    struct fault fault = { .space = space, .thread = thread };
    uint64_t page = base / TIDE_PAGE_BYTES;
    const bool scan = last - page >= PAGE_TRACK_LEAST;
    struct read_run runs[PREFETCH_READS];
    uint32_t idle = (1u << PREFETCH_READS) - 1; /* places, bits */
    bool more = true;
    struct stores_reads reads;
    struct read_run *done;

    stores_reads_begin(space->partition->stores, &reads);
    do {
        while (more && idle != 0) {
            const unsigned place = (unsigned)__builtin_ctz(idle);
            const bool two = space->mapping != NULL && (idle & 2u << place) != 0;
            const unsigned most = space->mapping == NULL ? STORES_CLUSTER_MAX : two ? 2 * PLACE_PAGES : PLACE_PAGES;
            struct read_run *run = &runs[place];

            more = run_find(&fault, &page, last, most, budget, run);
            if (!more)
                budget->spent = true; /* frames are short, for other ranges too */
            more = more && page <= last;
            if (run->count == 0)
                continue;
            run->places = (two && run->count > PLACE_PAGES ? 3u : 1u) << place;
            idle &= ~run->places;
            if (scan)
                (void)sync_add_64(&space->partition->io.scan_reads, 1);
            run_start(&fault, &reads, run, place);
        }
        done = run_wait(&fault, &reads);
        if (done != NULL) {
            run_settle(space, done, done->request.error);
            idle |= done->places;
        }
    } while (done != NULL);
    stores_reads_end(&reads);
}

/*
 * Prefetch: pages of the page file are read ahead of their use (PrefetchVirtualMemory, nt-behaviour 6 rule 7).
 *
 * A run of pages whose copies lie in consecutive slots is read at once, up to the largest I/O there is, and several
 * runs at the same time: the caller has said that it wants them all, so the windows of hard faults (hard.c) do not
 * apply. What is read goes to standby, in transition form, and not into the working set: its first touch is a soft
 * fault.
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

enum { PREFETCH_READS = 8 }; /* at the same time */

/* Pages in consecutive PTEs and consecutive slots. */
struct read_run {
    uint64_t *pte; /* of the first page */
    unsigned count;
    pte_t seen[STORES_CLUSTER_MAX];
    frame_t frames[STORES_CLUSTER_MAX];
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
    run->count = 0;
    while (run->count < most && run->count < STORES_CLUSTER_MAX) {
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

static void runs_read(tide_space *space, struct grace_thread *thread, const struct read_run *runs, unsigned count)
{
    struct stores_request requests[PREFETCH_READS];

    for (unsigned r = 0; r < count; r++) {
        requests[r].first = pte_slot(runs[r].seen[0]);
        requests[r].count = runs[r].count;
        for (unsigned i = 0; i < runs[r].count; i++)
            requests[r].pages[i] =
                (struct iovec){ fault_read_memory(space, thread, runs[r].frames[i], i), TIDE_PAGE_BYTES };
    }
    grace_io_begin(thread);
    stores_read_many(space->partition->stores, requests, count);
    if (space->mapping != NULL && requests[0].error == 0) {
        const uint64_t page = page_table_page_of(space_frames(space), runs[0].pte, NULL);

        requests[0].error = mapping_store(space->mapping, page, runs[0].count, thread->buffer);
    }
    grace_io_end(thread);
    for (unsigned r = 0; r < count; r++)
        run_settle(space, &runs[r], requests[r].error);
}

/*
 * The first run in the pages from *page to `last`, claimed; *page moves behind it. False if there is no frame for it.
 */
static bool run_find(struct fault *fault, uint64_t *page, uint64_t last, struct prefetch_budget *budget,
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
                at_hand = run_gather(fault, pte, *page, left, budget, run);
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
    bool more = true;

    while (more) {
        struct read_run runs[PREFETCH_READS];
        unsigned count = 0;

        /* A mapped space's pages pass through the thread's buffer, which holds one run. */
        while (more && count < (space->mapping != NULL ? 1 : PREFETCH_READS)) {
            more = run_find(&fault, &page, last, budget, &runs[count]);
            if (!more)
                budget->spent = true; /* frames are short, for other ranges too */
            more = more && page <= last;
            count += runs[count].count != 0;
        }
        if (count != 0 && scan)
            (void)sync_add_64(&space->partition->io.scan_reads, count);
        if (count != 0)
            runs_read(space, thread, runs, count);
    }
}

/*
 * Working sets: ageing, trimming, replacement (nt-behaviour 15).
 *
 * The working set of a space is its valid PTEs; there is no second list of them. Ageing and trimming walk the leaf
 * tables: 512 entries a table, tables in address order, eight bytes a page. An entry is aged and taken by
 * compare-and-swap against concurrent faults and accesses; a trim claims a batch of entries, reads the grace epoch
 * once, moves the frames to their lists and publishes the transition forms. Whoever touches one of these pages
 * meanwhile waits a moment on the busy entry.
 *
 * One trim or ageing pass per space at a time (rank working_set). No lock is held while a claim is waited for, since
 * trimming never waits: busy entries are passed by.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"

enum { TRIM_BATCH = 64 };

/*
 * A pass of ageing moves a page's age by a fifth of the way: to 0 if it was accessed, to PTE_AGE_MAX if not. So the
 * age weighs how often as well as how lately: on the carried traces (bench/replay) this keeps more hits than LRU at
 * every budget, where "0 if accessed, else one more" loses to LRU at some. An eighth forgets too slowly, a half is
 * LRU again.
 */
enum { AGE_STEP = 5 };
#define LAST_PAGE (TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)

struct trim_batch {
    tide_space *space;
    unsigned count;
    struct {
        uint64_t *pte;
        pte_t seen;
    } entries[TRIM_BATCH];
};

/* The frame leaves the working set. Its PTE is claimed and the epoch was read after that. */
static void frame_trim(struct frames_batch *lists, frame_t frame, uint16_t epoch)
{
    struct frames *frames = lists->frames;
    struct pfn *pfn = frame_pfn(frames, frame);
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        uint64_t next = pfn_with_grace(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, epoch);

        if (pfn_reference_count(word) == 1) {
            next = pfn_with_state(next, next & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY);
            if (frames_batch_insert(lists, frame, word, next, &word))
                return;
        } else if (frame_state_cas(pfn, word, pfn_with_state(next, FRAME_TRANSITION), &word)) {
            (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, 1);
            return;
        }
    }
}

static void batch_flush(struct trim_batch *batch)
{
    struct frames *frames = space_frames(batch->space);
    const uint16_t epoch = grace_now(&frames->grace);
    struct frames_batch lists;

    if (batch->count == 0)
        return;
    space_peak_update(batch->space);
    frames_batch_begin(&lists, frames);
    for (unsigned i = 0; i < batch->count; i++)
        frame_trim(&lists, pte_frame(batch->entries[i].seen), epoch);
    frames_batch_end(&lists);
    for (unsigned i = 0; i < batch->count; i++)
        pte_release(batch->space->partition->waits, batch->entries[i].pte,
                    pte_make_transition(pte_frame(batch->entries[i].seen), pte_protection(batch->entries[i].seen)));
    space_count(batch->space, SPACE_REMOVED, batch->count);
    space_count(batch->space, SPACE_TRIMMED, batch->count);
    batch->count = 0;
}

static bool on_node(const struct frames *frames, pte_t pte, unsigned node)
{
    return node == TIDE_NO_PREFERRED_NODE || frame_is_on_node(frames, pte_frame(pte), node);
}

void working_set_age(tide_space *space, unsigned node, struct working_set_ages *ages)
{
    const struct frames *frames = space_frames(space);
    uint64_t page = 0;
    uint64_t *leaf;

    sync_lock(&space->working_set.lock);
    while ((leaf = page_table_next_leaf(&space->table, &page, LAST_PAGE)) != NULL) {
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);
            pte_t aged = { pte.bits & ~(PTE_ACCESSED | PTE_AGE_MASK) };
            unsigned age = pte_age(pte);

            if (!pte_is_valid(pte) || !on_node(frames, pte, node))
                continue;
            if (pte.bits & PTE_ACCESSED)
                age -= (age + AGE_STEP - 1) / AGE_STEP;
            else
                age += (PTE_AGE_MAX - age + AGE_STEP - 1) / AGE_STEP;
            aged.bits |= (uint64_t)age << PTE_AGE_SHIFT;
            if (pte_cas(&leaf[i], pte, aged))
                ages->pages[age]++;
        }
        page += TABLE_ENTRIES;
    }
    sync_unlock(&space->working_set.lock);
}

/* Trims from one leaf, from entry `start` on. Returns the entry after the last one looked at. */
static unsigned leaf_trim(struct trim_batch *batch, uint64_t *leaf, unsigned start, struct working_set_choice choice,
                          uint64_t budget, uint64_t *done)
{
    const struct frames *frames = space_frames(batch->space);
    unsigned i = start;

    for (; i < TABLE_ENTRIES && *done < budget; i++) {
        const pte_t pte = pte_load(&leaf[i]);

        if (!pte_is_valid(pte) || !on_node(frames, pte, choice.node))
            continue;
        if (!choice.accessed_too && ((pte.bits & PTE_ACCESSED) != 0 || pte_age(pte) < choice.age))
            continue;
        if (choice.clean_only && (pte.bits & PTE_DIRTY) != 0)
            continue;
        if (!pte_cas(&leaf[i], pte, pte_busy_form(pte)))
            continue;
        batch->entries[batch->count].pte = &leaf[i];
        batch->entries[batch->count].seen = pte;
        (*done)++;
        if (++batch->count == TRIM_BATCH)
            batch_flush(batch);
    }
    return i;
}

uint64_t working_set_trim(tide_space *space, struct working_set_choice choice, uint64_t budget)
{
    struct trim_batch batch = { .space = space };
    uint64_t done = 0;

    sync_lock(&space->working_set.lock);
    const uint64_t begin = space->working_set.hand;
    uint64_t page = begin;
    for (int round = 0; round < 2 && done < budget; round++) {
        const uint64_t last = round == 0 ? LAST_PAGE : begin;
        uint64_t *leaf;

        while (done < budget && (leaf = page_table_next_leaf(&space->table, &page, last)) != NULL) {
            /* next_leaf() gives the leaf's first page; the hand may stand inside the first one. */
            const unsigned start = round == 0 && page <= begin ? (unsigned)(begin - page) : 0;
            const unsigned next = leaf_trim(&batch, leaf, start < TABLE_ENTRIES ? start : 0, choice, budget, &done);
            batch_flush(&batch);
            space->working_set.hand = page + next;
            page += TABLE_ENTRIES;
        }
        page = round == 0 && done < budget ? 0 : page;
    }
    sync_unlock(&space->working_set.lock);
    return done;
}

bool working_set_replace(tide_space *space)
{
    struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE };
    struct working_set_ages ages = { { 0 } };

    if (working_set_trim(space, choice, 1) == 1)
        return true;
    working_set_age(space, TIDE_NO_PREFERRED_NODE, &ages);
    choice.accessed_too = true;
    return working_set_trim(space, choice, 1) == 1;
}

void working_set_make_room(tide_space *space)
{
    const uint64_t maximum = sync_load_relaxed_64(&space->working_set.maximum);

    while (space_working_set_pages(space) >= maximum)
        if (!working_set_replace(space))
            return;
}

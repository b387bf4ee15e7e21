/*
 * Verification: stops the world and checks the invariants of nt-behaviour 32 over every frame, list, table and slot.
 *
 * With the world stopped no thread is inside the engine, so no PTE is claimed, nothing is locked, and no I/O is in
 * flight but writes to a page file that does not answer (workers/lanes.c). Access sections may be open: their threads
 * touch frame contents and accessed bits only.
 *
 * Checked here: I1 counts, I2 available, I3 zeroed content, I4 frames and PTEs point at each other, I5 share and
 * reference counts, I6 lists, I7 slots, I8 charge, I10 regions, I11 table tallies, I12 working sets, I13 clean
 * content. Not a matter of a moment's state: I9 (stamps of the stress test), I14 (lock ranks and
 * sync_assert_unlocked() in debug builds) and I15 (the stress test's watchdog; here: that no PTE is left claimed).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct verify {
    tide_engine *engine;
    struct frames *frames;
    tide_verify_report *report;
    uint8_t *table;                            /* per frame: found as a table of a space */
    uint8_t *listed;                           /* per frame: seen on a list or in a cache */
    uint8_t *written;                          /* per frame: under write */
    uint32_t *valid;                           /* per frame: valid PTEs that name it */
    uint32_t *tally;                           /* per frame that is a table: frames that name a PTE in it */
    uint32_t *entries;                         /* per frame that is a table: valid and transition PTEs in it */
    uint8_t *named;                            /* bit per slot: a PTE or an original names it */
    uint64_t first_named[TIDE_MAX_PAGE_FILES]; /* bit of slot 0 of each file */
    uint64_t slot_count;                       /* named */
    uint64_t locked, offered;                  /* of the space that is being looked at */
    uint64_t resident;                         /* locked and large pages of all spaces */
    void *page;                                /* for reading slots */
    void *copy;                                /* of a frame's memory, behind it */
    int io_error;
};

__attribute__((format(printf, 2, 3))) static void violated(struct verify *verify, const char *format, ...)
{
    if (verify->report->violations++ == 0) {
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(verify->report->first, sizeof verify->report->first, format, arguments);
        va_end(arguments);
    }
}

static void slot_note(struct verify *verify, struct stores_slot slot)
{
    verify->slot_count++;
    verify->report->slots_checked++;
    if (!stores_slot_allocated(verify->engine->partition.stores, slot)) {
        violated(verify, "I7: slot %u of page file %u is named and not allocated", slot.slot, slot.file);
        return;
    }
    const uint64_t at = verify->first_named[slot.file] + slot.slot;
    const uint8_t bit = (uint8_t)(1u << at % 8);
    if (verify->named[at / 8] & bit)
        violated(verify, "I7: slot %u of page file %u has two owners", slot.slot, slot.file);
    verify->named[at / 8] |= bit;
}

/* Its slot has an owner as soon as it is given out. */
static void write_note(void *context, frame_t frame, struct stores_slot slot)
{
    struct verify *verify = context;

    if (verify->written[frame.number]++ != 0 || (frame_pfn(verify->frames, frame)->word & PFN_WRITE_IN_PROGRESS) == 0)
        violated(verify, "I6: frame %u is written to slot %u of page file %u and does not count as under write",
                 frame.number, slot.slot, slot.file);
    slot_note(verify, slot);
}

/* ---- lists ------------------------------------------------------------------------------------------------------ */

static enum frame_state list_state(unsigned list)
{
    static const enum frame_state states[] = { FRAME_ZEROED, FRAME_FREE, FRAME_MODIFIED, FRAME_MODIFIED_NO_WRITE,
                                               FRAME_BAD };

    return list < FRAME_LIST_STANDBY ? states[list] : FRAME_STANDBY;
}

static void listed_check(struct verify *verify, uint32_t number, unsigned list, const char *where)
{
    const uint64_t word = verify->frames->pfns[number].word;

    if (verify->listed[number]++ != 0)
        violated(verify, "I6: frame %u is listed twice, the second time on %s", number, where);
    if (pfn_state(word) != list_state(list))
        violated(verify, "I6: frame %u in state %s is on %s", number, frame_state_name(pfn_state(word)), where);
    if (list >= FRAME_LIST_STANDBY && pfn_priority(word) != list - FRAME_LIST_STANDBY)
        violated(verify, "I6: frame %u of priority %u is on the standby list %u", number, pfn_priority(word),
                 list - FRAME_LIST_STANDBY);
    if (pfn_share_count(word) != 0 || pfn_reference_count(word) != 0)
        violated(verify, "I6: listed frame %u has share count %u and reference count %u", number, pfn_share_count(word),
                 pfn_reference_count(word));
}

static void lists_check(struct verify *verify, unsigned node)
{
    const struct frames *frames = verify->frames;

    for (unsigned l = 0; l < FRAME_LIST_COUNT; l++) {
        for (unsigned s = 0; s <= frames->shard_mask; s++) {
            const struct frame_shard *shard = &frames->nodes[node].lists[l][s];
            uint32_t previous = UINT32_MAX;
            uint64_t count = 0;
            char where[64];

            snprintf(where, sizeof where, "list %u of node %u, shard %u", l, node, s);
            for (uint32_t number = shard->head; number != UINT32_MAX && count <= shard->count; count++) {
                if (!frame_is_on_node(frames, (frame_t){ number }, node))
                    violated(verify, "I6: frame %u of another node is on %s", number, where);
                if (frames->pfns[number].previous != previous)
                    violated(verify, "I6: frame %u on %s has back link %u, not %u", number, where,
                             frames->pfns[number].previous, previous);
                listed_check(verify, number, l, where);
                previous = number;
                number = frames->pfns[number].next;
            }
            if (count != shard->count || shard->tail != previous)
                violated(verify, "I6: %s counts %lu frames and links %lu", where, shard->count, count);
            if (count != 0 && (frames->nodes[node].some[l] >> s & 1) == 0)
                violated(verify, "I6: %s holds %lu frames and is not marked as holding any", where, count);
        }
    }
    for (unsigned c = 0; c < frames->cpu_count * FRAMES_CACHES_PER_CPU && node == 0; c++) {
        const struct frames_cache *cache = &frames->cpus[c / FRAMES_CACHES_PER_CPU].caches[c % FRAMES_CACHES_PER_CPU];

        for (unsigned i = 0; i < cache->zeroed_count; i++)
            listed_check(verify, cache->zeroed[i], FRAME_LIST_ZEROED, "a CPU's cache of zeroed frames");
        for (unsigned i = 0; i < cache->free_count; i++)
            listed_check(verify, cache->free[i], FRAME_LIST_FREE, "a CPU's cache of free frames");
    }
}

/* ---- tables and regions ----------------------------------------------------------------------------------------- */

static uint32_t table_number(const struct verify *verify, const uint64_t *entry)
{
    return (uint32_t)(((const char *)entry - verify->frames->memory) / TIDE_PAGE_BYTES);
}

static void frame_of_pte(struct verify *verify, const tide_space *space, uint64_t page, const uint64_t *at, pte_t pte)
{
    const frame_t frame = pte_frame(pte);

    if (frame.number >= verify->frames->end) {
        violated(verify, "I4: page 0x%lx of space %lu names frame %u of %u", page, space->id, frame.number,
                 verify->frames->end);
        return;
    }
    const struct pfn *pfn = frame_pfn(verify->frames, frame);
    verify->entries[table_number(verify, at)]++;
    if (pfn->pte != at)
        violated(verify, "I4: page 0x%lx of space %lu names frame %u, whose owner is another PTE", page, space->id,
                 frame.number);
    const enum frame_state state = pfn_state(pfn->word);
    if (pte_is_valid(pte)) {
        verify->valid[frame.number]++;
        if (state != FRAME_ACTIVE)
            violated(verify, "I5: page 0x%lx of space %lu is valid and its frame %u is %s", page, space->id,
                     frame.number, frame_state_name(state));
        if ((pte.bits & PTE_DIRTY) != 0 && !(pfn->word & PFN_DIRTY))
            violated(verify, "I13: page 0x%lx of space %lu may be written and its frame %u counts as clean", page,
                     space->id, frame.number);
    } else if (state == FRAME_ACTIVE || state == FRAME_FREE || state == FRAME_ZEROED || state == FRAME_BAD) {
        violated(verify, "I4: page 0x%lx of space %lu is in transition and its frame %u is %s", page, space->id,
                 frame.number, frame_state_name(state));
    }
}

static void leaf_check(struct verify *verify, const tide_space *space, uint64_t first, const uint64_t *leaf,
                       uint64_t *valid)
{
    for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
        const uint64_t page = first + i;
        const pte_t pte = pte_load(&leaf[i]);

        verify->report->ptes_checked++;
        if (pte.bits == 0)
            continue;
        if (vad_find(&space->vads, page) == NULL)
            violated(verify, "I10: page 0x%lx of space %lu lies in no region and has PTE 0x%lx", page, space->id,
                     pte.bits);
        if (!pte_is_valid(pte) && pte_protection(pte) == PTE_OFFERED)
            verify->offered++;
        if (pte_is_valid(pte)) {
            if (pte_protection(pte) == PTE_OFFERED)
                violated(verify, "I4: page 0x%lx of space %lu is offered and valid", page, space->id);
            verify->locked += (pte.bits & PTE_LOCKED) != 0;
            verify->resident += pte_is_fixed(pte);
            *valid += !(pte.bits & PTE_LARGE);
            frame_of_pte(verify, space, page, &leaf[i], pte);
        } else if (pte_tag(pte) == PTE_TAG_TRANSITION) {
            frame_of_pte(verify, space, page, &leaf[i], pte);
        } else if (pte_tag(pte) == PTE_TAG_PAGE_FILE) {
            slot_note(verify, pte_slot(pte));
        } else if (pte_tag(pte) == PTE_TAG_BUSY) {
            violated(verify, "I15: page 0x%lx of space %lu is claimed and nobody is there", page, space->id);
        }
    }
}

/* What a directory entry says of a large page is what the PTEs below say. */
static void large_check(struct verify *verify, const tide_space *space, uint64_t entry)
{
    const uint64_t *leaf = table_entry_memory(verify->frames, entry);
    const uint64_t first = (entry >> TABLE_LARGE_SHIFT) * FRAMES_RUN;

    for (unsigned i = 0; i < TABLE_ENTRIES && (entry & TABLE_LARGE_MASK) != 0; i++) {
        const pte_t pte = pte_load(&leaf[i]);

        if (!pte_is_valid(pte) || !pte_is_large(pte) || pte_frame(pte).number != first + i ||
            (pte.bits & (PTE_READ | PTE_WRITE)) != (PTE_READ | PTE_WRITE)) {
            violated(verify, "I4: page %u of a large page of space %lu, which begins at frame %lu, has PTE 0x%lx", i,
                     space->id, first, pte.bits);
            return;
        }
    }
}

/* Marks a table and those below it; returns how many they are. */
static uint64_t tables_mark(struct verify *verify, const tide_space *space, const uint64_t *table,
                            const uint64_t *parent, unsigned level)
{
    const uint32_t number = table_number(verify, table);
    const struct pfn *pfn = &verify->frames->pfns[number];
    uint64_t count = 1;

    verify->table[number] = 1;
    if (pfn_state(pfn->word) != FRAME_ACTIVE || pfn_use(pfn->word) != FRAME_USE_PAGE_TABLE || pfn->pte != parent)
        violated(verify, "I11: frame %u is a table of space %lu and counts as %s", number, space->id,
                 frame_state_name(pfn_state(pfn->word)));
    for (unsigned i = 0; i < TABLE_ENTRIES && level == 1; i++)
        large_check(verify, space, table[i]);
    for (unsigned i = 0; i < TABLE_ENTRIES && level > 0; i++)
        if (table[i] != 0)
            count += tables_mark(verify, space, table_entry_memory(verify->frames, table[i]), &table[i], level - 1);
    return count;
}

/* Committed pages of a region by its PTEs. */
static uint64_t committed_count(const tide_space *space, const struct vad *vad)
{
    uint64_t count = vad->commit_state != 0 ? vad->last_page - vad->first_page + 1 : 0;
    uint64_t page = vad->first_page;
    const uint64_t *leaf;

    while ((leaf = page_table_next_leaf(&space->table, &page, vad->last_page)) != NULL) {
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);

            if (page + i < vad->first_page || page + i > vad->last_page || pte.bits == 0)
                continue;
            if (!pte_is_valid(pte) && pte_tag(pte) == PTE_TAG_DECOMMITTED)
                count -= vad->commit_state != 0;
            else
                count += vad->commit_state == 0;
        }
        page += TABLE_ENTRIES;
    }
    return count;
}

/* The file of a mapped space has the pages that PTEs say are in memory, and no others. */
static void mapping_verify(struct verify *verify, const tide_space *space)
{
    uint64_t page = space->lowest_page, pages = 0;
    const uint64_t *leaf;

    while ((leaf = page_table_next_leaf(&space->table, &page, space->highest_page)) != NULL) {
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);

            pages += pte_is_valid(pte) || pte_tag(pte) == PTE_TAG_TRANSITION;
        }
        page += TABLE_ENTRIES;
    }
    if (pages != mapping_pages(space->mapping))
        violated(verify, "I4: %lu pages of space %lu are in memory, and its file has %lu", pages, space->id,
                 mapping_pages(space->mapping));
}

static uint64_t space_verify(struct verify *verify, tide_space *space)
{
    uint64_t page = 0, valid = 0, committed = 0, promised = 0;
    const uint64_t *leaf;
    char why[200];

    if (!vad_tree_check(&space->vads, why, sizeof why))
        violated(verify, "I10: regions of space %lu: %s", space->id, why);
    const uint64_t tables = tables_mark(verify, space, space->table.root, NULL, TABLE_LEVELS - 1);
    if (tables != space->table.table_pages)
        violated(verify, "I11: space %lu has %lu tables and counts %lu", space->id, tables, space->table.table_pages);
    verify->locked = verify->offered = 0;
    while ((leaf = page_table_next_leaf(&space->table, &page, TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)) != NULL) {
        leaf_check(verify, space, page, leaf, &valid);
        page += TABLE_ENTRIES;
    }
    if (space->mapping != NULL)
        mapping_verify(verify, space);
    /* A call that locks waits for frames with its quota in hand. */
    if (verify->locked > space->locked_pages || (space->lock_gate == 0 && verify->locked != space->locked_pages) ||
        verify->offered != space->offered_pages)
        violated(verify, "I12: space %lu has %lu locked and %lu offered pages and counts %lu and %lu", space->id,
                 verify->locked, verify->offered, space->locked_pages, space->offered_pages);
    verify->resident += space->locked_pages - verify->locked;
    for (const struct vad *vad = vad_first(&space->vads); vad != NULL; vad = vad_next(&space->vads, vad)) {
        const uint64_t count = committed_count(space, vad);

        if (count != vad->committed_pages)
            violated(verify, "I8: region 0x%lx of space %lu is charged %lu pages and has %lu committed",
                     vad->first_page, space->id, vad->committed_pages, count);
        committed += vad->committed_pages;
        promised += vad->table_charge;
    }
    const uint64_t counted = commit_total(&space->commit);
    if (committed != counted || promised != space->tables_promised)
        violated(verify, "I8: space %lu counts %lu committed and %lu promised pages; its regions %lu and %lu",
                 space->id, counted, space->tables_promised, committed, promised);
    if (space->tables_charged < space->table.table_pages)
        violated(verify, "I8: space %lu has %lu tables and is charged for %lu", space->id, space->table.table_pages,
                 space->tables_charged);
    if (valid != space_working_set_pages(space))
        violated(verify, "I12: space %lu has %lu valid PTEs and a working set of %lu", space->id, valid,
                 space_working_set_pages(space));
    if (valid > working_set_most(space))
        violated(verify, "I12: space %lu has %lu valid PTEs over its hard maximum of %lu", space->id, valid,
                 working_set_most(space));
    return counted + space->tables_charged;
}

/* ---- frames ----------------------------------------------------------------------------------------------------- */

/* Is the frame as `expected`? One that cannot be read is bad memory, noted now, and no violation. */
static bool frame_holds(struct verify *verify, frame_t frame, const void *expected)
{
    const void *memory = frame_memory(verify->frames, frame);
    const struct pfn *pfn = frame_pfn(verify->frames, frame);

    if (pfn_is_hollow(pfn->word)) {
        uint64_t page;

        if (pfn_state(pfn->word) == FRAME_ZEROED) /* no memory: to look would give it some */
            return true;
        const struct mapping *mapping = page_table_mapping_of(verify->frames, pfn_pte(pfn), &page);
        return mapping != NULL && mapping_read(mapping, page * TIDE_PAGE_BYTES, verify->copy, TIDE_PAGE_BYTES) == 0 &&
               memcmp(verify->copy, expected, TIDE_PAGE_BYTES) == 0;
    }
    if (!verify->frames->bad.guarded)
        return memcmp(memory, expected, TIDE_PAGE_BYTES) == 0;
    return !frames_copy(verify->frames, verify->copy, memory, TIDE_PAGE_BYTES) ||
           memcmp(verify->copy, expected, TIDE_PAGE_BYTES) == 0;
}

/* A clean page's slot holds what its frame holds. */
static void clean_check(struct verify *verify, frame_t frame, const struct pfn *pfn)
{
    const struct stores_slot slot = pte_slot((pte_t){ pfn->original });
    const struct iovec page = { verify->page, TIDE_PAGE_BYTES };
    const int error = stores_peek(verify->engine->partition.stores, slot, &page, 1);

    if (error != 0)
        verify->io_error = error;
    else if (!frame_holds(verify, frame, verify->page))
        violated(verify, "I13: frame %u is clean and differs from slot %u of page file %u", frame.number, slot.slot,
                 slot.file);
}

static void owned_frame_check(struct verify *verify, frame_t frame, const struct pfn *pfn)
{
    const uint64_t word = pfn->word;
    const enum frame_state state = pfn_state(word);

    if (pfn_use(word) == FRAME_USE_PAGE_TABLE) {
        if (!verify->table[frame.number])
            violated(verify, "I11: frame %u counts as a table and hangs in no space", frame.number);
        return;
    }
    const bool written = verify->written[frame.number] != 0;
    if (((word & PFN_WRITE_IN_PROGRESS) != 0 && !written) || (word & PFN_READ_IN_PROGRESS))
        violated(verify, "I6: frame %u has I/O in progress in a stopped world", frame.number);
    if (word & PFN_DELETED) {
        if (state != FRAME_TRANSITION)
            violated(verify, "I6: frame %u is deleted and %s", frame.number, frame_state_name(state));
        return;
    }
    if (pfn->pte == NULL) {
        violated(verify, "I4: frame %u is %s and has no owner", frame.number, frame_state_name(state));
        return;
    }
    verify->tally[table_number(verify, pfn->pte)]++;
    const pte_t pte = pte_load(pfn->pte);
    if (pte_frame(pte).number != frame.number ||
        (pte_is_valid(pte) ? state != FRAME_ACTIVE : pte_tag(pte) != PTE_TAG_TRANSITION))
        violated(verify, "I4: frame %u is %s and its PTE is 0x%lx", frame.number, frame_state_name(state), pte.bits);
    if (verify->valid[frame.number] != pfn_share_count(word))
        violated(verify, "I5: frame %u has share count %u and %u valid PTEs", frame.number, pfn_share_count(word),
                 verify->valid[frame.number]);
    if (pfn_share_count(word) != 0 && pfn_reference_count(word) == 0)
        violated(verify, "I5: frame %u has share count %u and no reference", frame.number, pfn_share_count(word));
    const uint64_t marks = pfn->original & (PTE_RESET | PTE_LOST);
    if (marks == PTE_RESET && pfn->original == PTE_RESET) {
        if (word & PFN_DIRTY)
            violated(verify, "I13: frame %u is dirty and its content need not be kept", frame.number);
    } else if (marks & PTE_RESET) {
        violated(verify, "I13: frame %u need not be kept and has original 0x%lx", frame.number, pfn->original);
    } else if (pfn->original != marks) {
        slot_note(verify, pte_slot((pte_t){ pfn->original }));
        if (word & PFN_DIRTY)
            violated(verify, "I13: frame %u is dirty and keeps a slot", frame.number);
        else
            clean_check(verify, frame, pfn);
    } else if (!(word & PFN_DIRTY) && !written) { /* clean so that a change is noticed */
        violated(verify, "I13: frame %u is clean and has no slot", frame.number);
    }
}

static void frames_check(struct verify *verify, unsigned node)
{
    static const char zeros[TIDE_PAGE_BYTES];
    const struct frames *frames = verify->frames;
    uint64_t states[FRAME_STATE_COUNT] = { 0 };
    struct frames_counts counts;

    for (uint32_t i = 0; i < frames->nodes[node].count; i++) {
        const frame_t frame = { frames->nodes[node].first + i };
        const struct pfn *pfn = frame_pfn(frames, frame);
        const enum frame_state state = pfn_state(pfn->word);
        const bool on_list = state != FRAME_ACTIVE && state != FRAME_TRANSITION;

        verify->report->frames_checked++;
        states[state]++;
        if (on_list != (verify->listed[frame.number] != 0))
            violated(verify, "I6: frame %u is %s and on %s list", frame.number, frame_state_name(state),
                     on_list ? "no" : "a");
        if (state == FRAME_ZEROED && !frame_holds(verify, frame, zeros))
            violated(verify, "I3: frame %u is zeroed and holds a byte that is not 0", frame.number);
        if (state != FRAME_ZEROED && state != FRAME_FREE && state != FRAME_BAD)
            owned_frame_check(verify, frame, pfn);
    }
    frames_counts(frames, node, &counts);
    const uint64_t zeroed = counts.lists[FRAME_LIST_ZEROED] + counts.cached_zeroed;
    const uint64_t free_frames = counts.lists[FRAME_LIST_FREE] + counts.cached_free;
    if (frames->node_count == 1 && (states[FRAME_ZEROED] != zeroed || states[FRAME_FREE] != free_frames))
        violated(verify, "I1: node %u has %lu zeroed and %lu free frames and counts %lu and %lu", node,
                 states[FRAME_ZEROED], states[FRAME_FREE], zeroed, free_frames);
    if (states[FRAME_STANDBY] != counts.standby || states[FRAME_MODIFIED] != counts.lists[FRAME_LIST_MODIFIED])
        violated(verify, "I1: node %u has %lu standby and %lu modified frames and counts %lu and %lu", node,
                 states[FRAME_STANDBY], states[FRAME_MODIFIED], counts.standby, counts.lists[FRAME_LIST_MODIFIED]);
    if (states[FRAME_BAD] != counts.lists[FRAME_LIST_BAD])
        violated(verify, "I1: node %u has %lu bad frames and counts %lu", node, states[FRAME_BAD],
                 counts.lists[FRAME_LIST_BAD]);
    if (states[FRAME_TRANSITION] != counts.transition)
        violated(verify, "I1: node %u has %lu frames in transition and counts %lu", node, states[FRAME_TRANSITION],
                 counts.transition);
    if (counts.available != zeroed + free_frames + counts.standby)
        violated(verify, "I2: node %u counts %lu available; zeroed, free and standby are %lu", node, counts.available,
                 zeroed + free_frames + counts.standby);
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static void slots_check(struct verify *verify)
{
    struct stores_statistics statistics;

    stores_statistics_get(verify->engine->partition.stores, &statistics);
    if (!stores_check(verify->engine->partition.stores))
        violated(verify, "I7: the map of a page file's slots does not agree with its counts");
    if (statistics.used_slots != verify->slot_count)
        violated(verify, "I7: %lu slots are allocated and %lu are named", statistics.used_slots, verify->slot_count);
}

/*
 * No step of the extender is half done in a stopped world. An engine so small that its reserve is more than it has is
 * left out.
 */
static void limits_check(struct verify *verify, uint64_t bad_slots)
{
    const struct partition *const partition = &verify->engine->partition;
    const uint64_t outside = verify->engine->reserve_pages + bad_slots + sync_load_64(&partition->bad_frames_lowered);
    const uint64_t frames = verify->frames->total;
    const uint64_t limit = sync_load_64(&partition->commit.limit), maximum = sync_load_64(&partition->commit.maximum);
    const uint64_t slots = stores_capacity_pages(partition->stores), most = stores_maximum_pages(partition->stores);

    if (frames < verify->engine->reserve_pages)
        return;
    if (limit + outside != frames + slots)
        violated(verify, "I8: the limit is %lu pages; there are %lu frames and %lu slots, %lu of them not to be used",
                 limit, frames, slots, outside);
    if (maximum + outside != frames + most)
        violated(
            verify,
            "I8: the maximum limit is %lu pages; there can be %lu frames and %lu slots, %lu of them not to be used",
            maximum, frames, most, outside);
}

static void verify_stopped(struct verify *verify)
{
    struct partition *partition = &verify->engine->partition;
    struct stores_statistics stores;
    uint64_t charge = 0;

    stores_statistics_get(partition->stores, &stores);
    stores_released_flush(partition->stores);
    workers_under_write(verify->engine->workers, write_note, verify);
    for (unsigned n = 0; n < verify->frames->node_count; n++)
        lists_check(verify, n);
    for (tide_space *space = partition->spaces; space != NULL; space = space->next)
        charge += space_verify(verify, space);
    for (unsigned n = 0; n < verify->frames->node_count; n++)
        frames_check(verify, n);
    for (uint32_t i = 0; i < verify->frames->end; i++)
        if (verify->tally[i] != verify->entries[i])
            violated(verify, "I11: table in frame %u holds %u valid and transition PTEs, and %u frames name it", i,
                     verify->entries[i], verify->tally[i]);
    slots_check(verify);
    limits_check(verify, stores.bad_slots);
    if (verify->resident != partition->resident_pages)
        violated(verify, "I12: %lu pages are locked or large and %lu are counted", verify->resident,
                 partition->resident_pages);
    if (charge != commit_total(&partition->commit))
        violated(verify, "I8: the charge is %lu pages and that of all spaces %lu", commit_total(&partition->commit),
                 charge);
    /*
     * Bad slots and bad frames lower the limit under a charge that was made before, and a few tables may be charged
     * into the reserve.
     */
    if (charge > sync_load_64(&partition->commit.limit) + stores.bad_slots + verify->engine->reserve_pages +
                     sync_load_64(&partition->bad_frames_lowered))
        violated(verify, "I8: the charge of %lu pages passes the limit of %lu", charge,
                 sync_load_64(&partition->commit.limit));
}

/*
 * All the memory that verification takes, in one piece. Not by malloc(), whose memory may lie in a mapped space of this
 * engine, and whose lock a thread may hold that has stopped.
 */
static size_t memory_reserve(struct verify *verify)
{
    struct stores *stores = verify->engine->partition.stores;
    const size_t end = verify->frames->end;
    uint64_t slots = 0;

    for (unsigned f = 0; f < stores_file_count(stores); f++) {
        struct stores_file_statistics file;

        stores_file_size(stores, f, &file);
        verify->first_named[f] = slots;
        slots += file.maximum_slots + 1; /* slot 0 is the header */
    }
    const size_t words = 3 * end * sizeof *verify->valid;
    const size_t bytes = 2 * (size_t)TIDE_PAGE_BYTES + words + 3 * end + slots / 8 + 1;
    char *memory = os_memory_reserve(bytes, TIDE_PAGE_BYTES);
    if (memory == NULL)
        return 0;
    verify->page = memory;
    verify->copy = memory + TIDE_PAGE_BYTES;
    verify->valid = (uint32_t *)(void *)(memory + 2 * (size_t)TIDE_PAGE_BYTES);
    verify->tally = verify->valid + end;
    verify->entries = verify->tally + end;
    verify->table = (uint8_t *)(verify->entries + end);
    verify->listed = verify->table + end;
    verify->written = verify->listed + end;
    verify->named = verify->written + end;
    return bytes;
}

tide_status tide_engine_verify(tide_engine *engine, tide_verify_report *report)
{
    tide_verify_report local; /* the caller's may lie in a mapped space of this engine, which stands still */
    tide_status status = engine_check(engine);
    struct verify verify = { .engine = engine, .report = &local };
    struct quiet quiet;

    if (tide_failed(status))
        return status;
    memset(&local, 0, sizeof local);
    verify.frames = engine->partition.frames;
    const size_t bytes = memory_reserve(&verify);
    if (bytes == 0) {
        status = error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory to verify %u frames", verify.frames->end);
        goto out;
    }
    quiet_lock(&engine->world, &quiet);
    grace_world_stop(&verify.frames->grace);
    verify_stopped(&verify);
    grace_world_resume(&verify.frames->grace);
    quiet_unlock(&engine->world, &quiet);
    os_memory_free(verify.page, bytes);
    if (local.violations != 0)
        status =
            error_set(TIDE_INVARIANT_VIOLATED, 0, 0, "%lu violations; first: %.180s", local.violations, local.first);
    else if (verify.io_error != 0)
        status =
            error_set(TIDE_IO_ERROR, verify.io_error, 0, "a slot could not be read: %s", strerror(verify.io_error));
out:
    if (report != NULL)
        *report = local;
    return status;
}

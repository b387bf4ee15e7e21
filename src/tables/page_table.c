/*
 * Soft page tables and claims of PTEs. The idea is in page_table.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tables/page_table.h"
#include "base/error.h"
#include "base/random.h"

/* Looks at a busy PTE before sleeping: most claims end within a microsecond, a sleep costs tens. */
enum { PTE_SPINS = 300 };

static const struct {
    uint32_t page;
    unsigned software;
} accesses[] = {
    { TIDE_PAGE_READONLY, PTE_READONLY },
    { TIDE_PAGE_READWRITE, PTE_READWRITE },
    { TIDE_PAGE_EXECUTE, PTE_EXECUTE },
    { TIDE_PAGE_EXECUTE_READ, PTE_EXECUTE_READ },
    { TIDE_PAGE_EXECUTE_READWRITE, PTE_EXECUTE_READWRITE },
}, modifiers[] = {
    { 0, 0 },
    { TIDE_PAGE_GUARD, PTE_GUARD },
    { TIDE_PAGE_NOCACHE, PTE_NOCACHE },
    { TIDE_PAGE_WRITECOMBINE, PTE_WRITECOMBINE },
};

unsigned pte_protection_of(uint32_t page_protection)
{
    const uint32_t all = TIDE_PAGE_GUARD | TIDE_PAGE_NOCACHE | TIDE_PAGE_WRITECOMBINE;

    if (page_protection == TIDE_PAGE_NOACCESS)
        return PTE_NOACCESS;
    for (unsigned m = 0; m < sizeof modifiers / sizeof modifiers[0]; m++)
        for (unsigned a = 0; a < sizeof accesses / sizeof accesses[0]; a++)
            if ((page_protection & all) == modifiers[m].page && (page_protection & ~all) == accesses[a].page)
                return accesses[a].software | modifiers[m].software;
    return 0;
}

uint32_t pte_page_protection_of(unsigned protection)
{
    if (protection == PTE_NOACCESS || protection == PTE_OFFERED)
        return TIDE_PAGE_NOACCESS;
    for (unsigned m = 0; m < sizeof modifiers / sizeof modifiers[0]; m++)
        for (unsigned a = 0; a < sizeof accesses / sizeof accesses[0]; a++)
            if (protection == (accesses[a].software | modifiers[m].software))
                return accesses[a].page | modifiers[m].page;
    return 0;
}

/* A zeroed frame as a table that `entry` will name, or FRAME_NONE. */
static frame_t table_frame(struct page_table *table, unsigned node, uint64_t *entry)
{
    const frame_t frame = frames_allocate(table->frames, node, FRAMES_ZERO, 0);

    if (!frame_is_none(frame)) {
        struct pfn *pfn = frame_pfn(table->frames, frame);

        pfn_pte_set(pfn, entry);
        sync_store_relaxed_64(&pfn->original, 0);
        frame_state_set(pfn, (uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_REFERENCE_ONE | PFN_SHARE_ONE |
                                 ((uint64_t)FRAME_USE_PAGE_TABLE << PFN_USE_SHIFT));
    }
    return frame;
}

static pte_t table_entry(frame_t frame)
{
    return (pte_t){ PTE_VALID | ((uint64_t)frame.number << PTE_FRAME_SHIFT) };
}

tide_status page_table_init(struct page_table *table, struct frames *frames, unsigned node)
{
    table->frames = frames;
    const frame_t frame = table_frame(table, node, NULL);
    if (frame_is_none(frame))
        return error_set(TIDE_NO_MEMORY, 0, 0, "no frame for the root table; %lu pages in all", frames->total);
    table->root = frame_memory(frames, frame);
    table->leaves = NULL;
    table->table_pages = 1;
    return TIDE_SUCCESS;
}

void page_table_index_make(struct page_table *table)
{
    table->leaves = os_memory_reserve(TABLE_LEAVES * sizeof *table->leaves, TIDE_PAGE_BYTES);
}

static uint64_t *index_of(const struct page_table *table, uint64_t page)
{
    ASSERT_DEBUG(page / TABLE_ENTRIES < TABLE_LEAVES);
    return &table->leaves[page / TABLE_ENTRIES];
}

/* A full barrier: who asks for the epoch afterwards has it from after the change. */
static void index_set(const struct page_table *table, uint64_t page, uint64_t word)
{
    if (table->leaves != NULL)
        (void)sync_swap_64(index_of(table, page), word);
}

void page_table_index_leaf(struct page_table *table, uint64_t page)
{
    const uint64_t *directory = page_table_directory(table, page);
    const uint64_t entry = directory == NULL ? 0 : sync_load_64(&directory[table_index(page, 1)]);

    /* A large page's is set with its mark, and not by who comes late and may have read a mark that has gone since. */
    if (table->leaves != NULL && entry != 0 && !(entry & TABLE_LARGE_MASK))
        (void)sync_cas_64(index_of(table, page), 0,
                          (uint64_t)(uintptr_t)table_entry_memory(table->frames, entry) | TABLE_LEAF);
}

uint64_t *page_table_make(struct page_table *table, uint64_t page, unsigned node, unsigned *made)
{
    uint64_t *level = table->root;

    for (unsigned l = TABLE_LEVELS - 1; l > 0; l--) {
        uint64_t *slot = &level[table_index(page, l)];
        uint64_t entry = sync_load_64(slot);

        if (entry == 0) {
            const frame_t frame = table_frame(table, node, slot);
            if (frame_is_none(frame))
                return NULL;
            const pte_t value = table_entry(frame);
            if (sync_cas_value_64(slot, 0, value.bits, &entry)) {
                entry = value.bits;
                (void)sync_add_64(&table->table_pages, 1);
                ++*made;
            } else {
                frames_give_back(table->frames, frame, true); /* another thread was first: `entry` is its table */
            }
        }
        level = table_entry_memory(table->frames, entry);
    }
    return &level[table_index(page, 0)];
}

uint64_t *page_table_next_leaf(const struct page_table *table, uint64_t *page, uint64_t last)
{
    uint64_t at = *page & ~(uint64_t)(TABLE_ENTRIES - 1);

    while (at <= last) {
        const uint64_t *level = table->root;
        unsigned l = TABLE_LEVELS - 1;

        for (; l > 0; l--) {
            const uint64_t entry = sync_load_64(&level[table_index(at, l)]);
            if (entry == 0)
                break;
            level = table_entry_memory(table->frames, entry);
        }
        if (l == 0) {
            *page = at;
            return (uint64_t *)level;
        }
        /* Nothing below this entry: on to the next one of its table. */
        const uint64_t span = 1ull << (l * TABLE_INDEX_BITS);
        at = (at & ~(span - 1)) + span;
        if (at >> (TABLE_LEVELS * TABLE_INDEX_BITS) != 0)
            break;
    }
    return NULL;
}

uint64_t page_table_missing(const struct page_table *table, uint64_t first, uint64_t last)
{
    uint64_t missing = 0;

    for (unsigned l = 1; l < TABLE_LEVELS; l++) {
        /* Tables of level l - 1 that entries of level l would name. */
        const unsigned shift = l * TABLE_INDEX_BITS;

        for (uint64_t at = first >> shift; at <= last >> shift; at++) {
            const uint64_t *level = table->root;
            unsigned up = TABLE_LEVELS - 1;

            for (; up >= l; up--) {
                const uint64_t entry = sync_load_64(&level[table_index(at << shift, up)]);
                if (entry == 0)
                    break;
                level = table_entry_memory(table->frames, entry);
            }
            if (up < l)
                continue;
            if (up > l) {
                /* A whole higher table is missing: so is everything below its span; count that at once. */
                const unsigned skip = up * TABLE_INDEX_BITS;
                const uint64_t end = (((at << shift) >> skip) + 1) << (skip - shift);
                const uint64_t stop = end - 1 < last >> shift ? end - 1 : last >> shift;
                missing += stop - at + 1;
                at = stop;
            } else {
                missing++;
            }
        }
    }
    return missing;
}

void page_table_large_set(struct page_table *table, uint64_t page, frame_t first)
{
    const uint64_t run = first.number / FRAMES_RUN;
    uint64_t *directory = (uint64_t *)(uintptr_t)page_table_directory(table, page);
    uint64_t *entry = &directory[table_index(page, 1)];

    ASSERT_ALWAYS(page % TABLE_ENTRIES == 0 && first.number % FRAMES_RUN == 0 && (sync_load_64(entry) & PTE_VALID));
    if (run >= 1ull << (64 - TABLE_LARGE_SHIFT))
        return;
    sync_store_64(entry, (sync_load_64(entry) & ~TABLE_LARGE_MASK) | run << TABLE_LARGE_SHIFT | TABLE_LARGE_READ |
                             TABLE_LARGE_WRITE);
    const uint64_t memory = (uintptr_t)table_large_memory(table->frames->memory, sync_load_64(entry));
    index_set(table, page, (memory - page * TIDE_PAGE_BYTES) | TABLE_LEAF_LARGE_READ | TABLE_LEAF_LARGE_WRITE);
}

void page_table_large_clear(const struct page_table *table, const uint64_t *pte)
{
    const size_t offset = (size_t)((const char *)pte - table->frames->memory);
    uint64_t *entry = pfn_pte(frame_pfn(table->frames, (frame_t){ (uint32_t)(offset / TIDE_PAGE_BYTES) }));

    if (!(sync_load_64(entry) & TABLE_LARGE_MASK))
        return;
    sync_store_64(entry, sync_load_64(entry) & ~TABLE_LARGE_MASK);
    index_set(table, page_table_page_of(table->frames, pte, NULL), 0);
}

void page_table_free_leaf(struct page_table *table, uint64_t page)
{
    uint64_t *level = table->root;

    for (unsigned l = TABLE_LEVELS - 1; l > 1; l--) {
        const uint64_t entry = sync_load_64(&level[table_index(page, l)]);
        if (entry == 0)
            return;
        level = table_entry_memory(table->frames, entry);
    }
    const pte_t entry = { sync_swap_64(&level[table_index(page, 1)], 0) };
    if (entry.bits == 0)
        return;
    index_set(table, page, 0);
    frames_free(table->frames, pte_frame(entry));
    (void)sync_add_64(&table->table_pages, (uint64_t)-1);
}

static void table_free(struct page_table *table, uint64_t *level, unsigned l)
{
    for (unsigned i = 0; i < TABLE_ENTRIES && l > 0; i++) {
        const pte_t entry = pte_load(&level[i]);
        if (entry.bits == 0)
            continue;
        table_free(table, table_entry_memory(table->frames, entry.bits), l - 1);
        frames_free(table->frames, pte_frame(entry));
    }
}

void page_table_destroy(struct page_table *table)
{
    table_free(table, table->root, TABLE_LEVELS - 1);
    frames_free(table->frames,
                (frame_t){ (uint32_t)(((char *)table->root - table->frames->memory) / TIDE_PAGE_BYTES) });
    table->root = NULL;
    os_memory_free(table->leaves, TABLE_LEAVES * sizeof *table->leaves);
    table->leaves = NULL;
}

/*
 * Acquire is enough for reading `original`: whoever wrote it held the claim or the write reference before the frame
 * came to the list.
 */
bool page_table_detach(struct pfn *pfn, frame_t frame)
{
    const pte_t pte = pte_load(pfn->pte);

    if (pte_is_valid(pte) || pte_tag(pte) != PTE_TAG_TRANSITION)
        return false;
    ASSERT_DEBUG(pte_frame(pte).number == frame.number);
    (void)frame;
    if (pfn_is_hollow(sync_load_relaxed_64(&pfn->word)))
        return pte_cas(pfn->pte, pte, pte_busy_form(pte));
    return pte_cas(pfn->pte, pte, (pte_t){ pfn->original | (pte.bits & PTE_PROTECTION_MASK) });
}

unsigned page_table_near(uint64_t *pte, uint64_t **ptes, frame_t *near)
{
    uint64_t *const first = (uint64_t *)((uintptr_t)pte & ~(FRAMES_NEAR * sizeof *pte - 1));
    unsigned count = 0;

    for (unsigned i = 0; i < FRAMES_NEAR; i++) {
        const pte_t seen = pte_load(&first[i]);

        if (&first[i] != pte && (pte_is_valid(seen) || pte_tag(seen) != PTE_TAG_TRANSITION))
            continue;
        ptes[count] = &first[i];
        near[count++] = pte_frame(seen);
    }
    return count;
}

/*
 * Claims the PTEs between two, if all are of committed pages that are not in memory, so that one call can let go all of
 * the pages from the one to the other: there is nothing to let go in between, and nobody puts anything there meanwhile.
 * False: none.
 */
static bool between_claim(uint64_t *from, const uint64_t *to, struct pte_waits *waits, pte_t *seen)
{
    for (uint64_t *pte = from + 1; pte < to; pte++) {
        const pte_t found = pte_load(pte);
        const bool absent = found.bits != 0 && !pte_is_valid(found) &&
                            (pte_tag(found) == PTE_TAG_PAGE_FILE || pte_tag(found) == PTE_TAG_NONE);

        if (!absent || !pte_cas(pte, found, pte_busy_form(found))) {
            while (--pte > from)
                pte_release(waits, pte, *--seen);
            return false;
        }
        *seen++ = found;
    }
    return true;
}

void page_table_vacate(struct frames *frames, const frame_t *hollow, unsigned count)
{
    uint64_t *const first = pfn_pte(frame_pfn(frames, hollow[0]));
    pte_t seen[FRAMES_NEAR];
    uint64_t page;
    struct mapping *mapping = page_table_mapping_of(frames, first, &page);

    for (unsigned i = 0, end; i < count;) {
        uint64_t *const begin = pfn_pte(frame_pfn(frames, hollow[i]));
        uint64_t *last = begin;

        for (end = i + 1; end < count; end++) {
            uint64_t *const next = pfn_pte(frame_pfn(frames, hollow[end]));

            if (!between_claim(last, next, mapping->waits, &seen[last + 1 - begin]))
                break;
            last = next;
        }
        mapping_drop(mapping, page + (uint64_t)(begin - first), (uint64_t)(last - begin) + 1);
        for (uint64_t *pte = begin; pte <= last; pte++) {
            const struct pfn *pfn = i < end ? frame_pfn(frames, hollow[i]) : NULL;

            if (pfn == NULL || pfn_pte(pfn) != pte) {
                pte_release(mapping->waits, pte, seen[pte - begin]);
                continue;
            }
            pte_release(mapping->waits, pte, (pte_t){ pfn->original | (pte_load(pte).bits & PTE_PROTECTION_MASK) });
            i++;
        }
    }
}

uint64_t page_table_page_of(const struct frames *frames, const uint64_t *pte, const uint64_t **root)
{
    uint64_t page = 0, table = 0;

    for (unsigned level = 0; pte != NULL; level++) {
        const uint64_t offset = (uint64_t)((const char *)pte - frames->memory);

        page |= (offset % TIDE_PAGE_BYTES / sizeof *pte) << (level * TABLE_INDEX_BITS);
        table = offset / TIDE_PAGE_BYTES;
        pte = pfn_pte(&frames->pfns[table]);
    }
    if (root != NULL)
        *root = (const uint64_t *)(const void *)(frames->memory + table * TIDE_PAGE_BYTES);
    return page;
}

struct mapping *page_table_mapping_of(const struct frames *frames, const uint64_t *pte, uint64_t *page)
{
    *page = page_table_page_of(frames, pte, NULL);
    return mapping_find(*page);
}

static struct sync_event *wait_event(struct pte_waits *waits, const uint64_t *pte)
{
    return &waits->buckets[random_mix((uintptr_t)pte) % PTE_WAIT_BUCKETS].event;
}

void pte_wake(struct pte_waits *waits, const uint64_t *pte)
{
    sync_event_signal(wait_event(waits, pte));
}

void pte_wait(struct pte_waits *waits, struct grace_thread *thread, uint64_t *pte)
{
    struct sync_event *event = wait_event(waits, pte);

    for (unsigned i = 0; i < PTE_SPINS; i++) {
        if (!pte_is_busy(pte_load(pte)))
            return;
        sync_pause();
    }
    /*
     * Order: read the count, then mark the PTE. The claimer swaps the PTE and then moves the count, so a mark that it
     * saw means a count that moves after it was read here.
     */
    const uint32_t value = sync_event_value(event);
    const pte_t seen = pte_load(pte);
    if (!pte_is_busy(seen))
        return;
    if (!(seen.bits & PTE_WAITED) && !pte_cas(pte, seen, (pte_t){ seen.bits | PTE_WAITED }))
        return;
    /* Outside of the engine while asleep: a stopped world and the grace period need not wait for this thread. */
    const uint32_t depth = thread == NULL ? 0 : grace_leave_all(thread);
    (void)sync_event_wait(event, value, UINT64_MAX);
    if (thread != NULL)
        grace_enter_again(thread, depth);
}

/*
 * Pages of mapped spaces: what is done here to the PTEs of a space is carried over to the hardware (tables/mapping.h
 * has the rule), with as few calls as can be, since each one that hides a page flushes the TLB of every CPU that runs
 * the program.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"

/*
 * Pages between two that are to be hidden which may be hidden with them: a fault each, if they are used, for a call
 * less.
 */
enum { HIDING_GAP = 2 };

void mapped_page_hide(const tide_space *space, const uint64_t *pte)
{
    if (space->mapping != NULL)
        mapping_hide(space->mapping, page_table_page_of(space_frames(space), pte, NULL), 1);
}

void mapped_page_drop(const tide_space *space, const uint64_t *pte, pte_t seen)
{
    if (space->mapping != NULL && (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION))
        mapping_drop(space->mapping, page_table_page_of(space_frames(space), pte, NULL), 1);
}

bool mapped_page_is_held(const tide_space *space, pte_t pte)
{
    return sync_load_relaxed_64(&space->pins) != 0 &&
           pfn_reference_count(sync_load_64(&frame_pfn(space_frames(space), pte_frame(pte))->word)) > 1;
}

static bool stays_shown(const tide_space *space, pte_t pte)
{
    return pte_is_valid(pte) && (pte_is_fixed(pte) || mapped_page_is_held(space, pte));
}

/* ---- hiding ----------------------------------------------------------------------------------------------------- */

void mapped_hiding_begin(struct mapped_hiding *hiding, tide_space *space, const uint64_t *leaf, uint64_t page)
{
    *hiding = (struct mapped_hiding){ .space = space, .leaf = leaf, .page = page, .first = 1, .last = 0 };
}

void mapped_hiding_end(struct mapped_hiding *hiding)
{
    if (hiding->last >= hiding->first)
        mapping_hide(hiding->space->mapping, hiding->page + hiding->first, hiding->last - hiding->first + 1);
    hiding->first = 1;
    hiding->last = 0;
}

void mapped_hiding_add(struct mapped_hiding *hiding, unsigned index)
{
    unsigned valid = 0;
    bool together = hiding->last >= hiding->first;

    for (unsigned i = hiding->last + 1; i < index && together; i++) {
        const pte_t pte = pte_load(&hiding->leaf[i]);

        /* One that somebody else has claimed may be locked or pinned. */
        valid += pte_is_valid(pte);
        together = valid <= HIDING_GAP && !pte_is_busy(pte) && !stays_shown(hiding->space, pte);
    }
    if (!together) {
        mapped_hiding_end(hiding);
        hiding->first = index;
    }
    hiding->last = index;
}

void mapped_range_weaken(tide_space *space, uint64_t first, uint64_t last)
{
    uint64_t page = first;
    uint64_t *leaf;

    if (space->mapping == NULL)
        return;
    mapping_unfence(space->mapping, first, last - first + 1);
    /*
     * Who locks or pins a page beside these waits for the lock once, so that it is not hidden by a look that was
     * before.
     */
    sync_lock(&space->working_set.lock);
    while ((leaf = page_table_next_leaf(&space->table, &page, last)) != NULL) {
        const unsigned from = page < first ? (unsigned)(first - page) : 0;
        const unsigned to = last - page < TABLE_ENTRIES ? (unsigned)(last - page) : TABLE_ENTRIES - 1;
        struct mapped_hiding hiding;

        mapped_hiding_begin(&hiding, space, leaf, page);
        for (unsigned i = from; i <= to; i++) {
            pte_t pte;

            while (pte_is_busy(pte = pte_load(&leaf[i])))
                pte_wait(space->partition->waits, NULL, &leaf[i]);
            if (!stays_shown(space, pte) && pte_is_valid(pte))
                mapped_hiding_add(&hiding, i);
            else if (stays_shown(space, pte) && !pte_protection_reads(pte_protection(pte)))
                mapping_hide(space->mapping, page + i, 1);
            else if (stays_shown(space, pte) && !pte_is_writable(pte))
                mapping_protect(space->mapping, page + i, 1);
        }
        mapped_hiding_end(&hiding);
        page += TABLE_ENTRIES;
    }
    sync_unlock(&space->working_set.lock);
}

/* ---- deleting --------------------------------------------------------------------------------------------------- */

void mapped_deletion_begin(struct mapped_deletion *deletion, tide_space *space, pte_t leave)
{
    deletion->space = space;
    deletion->leave = leave;
    deletion->count = 0;
}

/*
 * The memory goes while the PTEs are claimed, so that it is gone before a fault can bring the page anew. A writer that
 * has one of the pages in its hands may read it as zeroes then: what it writes is thrown away when it finds the page
 * deleted.
 */
void mapped_deletion_end(struct mapped_deletion *deletion)
{
    tide_space *space = deletion->space;

    if (deletion->count == 0)
        return;
    const uint64_t page = page_table_page_of(space_frames(space), deletion->first, NULL);
    mapping_drop(space->mapping, page, deletion->count);
    for (unsigned i = 0; i < deletion->count; i++)
        page_delete_claimed(space, deletion->first + i, deletion->seen[i], deletion->leave);
    deletion->count = 0;
}

bool mapped_deletion_add(struct mapped_deletion *deletion, uint64_t *pte, bool zero_is_committed)
{
    tide_space *space = deletion->space;

    while (space->mapping != NULL) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen)) {
            mapped_deletion_end(deletion); /* nobody is kept waiting by who waits */
            pte_wait(space->partition->waits, NULL, pte);
            continue;
        }
        if (!pte_is_valid(seen) && pte_tag(seen) != PTE_TAG_TRANSITION)
            break;
        const bool adjoins = deletion->count != 0 && deletion->count < MAPPING_DROP &&
                             pte == deletion->first + deletion->count &&
                             (uintptr_t)pte / TIDE_PAGE_BYTES == (uintptr_t)deletion->first / TIDE_PAGE_BYTES;
        if (!adjoins) {
            mapped_deletion_end(deletion);
            deletion->first = pte;
        }
        if (!pte_cas(pte, seen, pte_busy_form(seen)))
            continue;
        deletion->seen[deletion->count++] = seen;
        return true;
    }
    return page_delete(space, pte, deletion->leave, zero_is_committed);
}

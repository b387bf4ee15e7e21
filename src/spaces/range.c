/*
 * Commit, decommit and protection of ranges of pages (nt-behaviour 4, 5).
 *
 * How a page knows that it is committed. A region that was committed as a whole has that in its VAD (commit_state):
 * its PTEs are 0 until touched, and tables come at first touch. A region committed in part has it in its PTEs: 0 is
 * reserved, demand zero is committed. A page decommitted inside a wholly committed region is marked decommitted in
 * its PTE.
 *
 * Against each other, calls on one region are ordered by its lock; those on two regions share nothing but the charges.
 *
 * Against faults. Faults take no lock. A fault that changes a PTE other than 0 does so by compare-and-swap, so it
 * loses to whatever was done here. A fault on a 0 PTE reads commit_state, claims the PTE, and reads commit_state again
 * before it shows the page to anybody; if it changed, the fault puts the 0 back. Here commit_state is changed, with a
 * full barrier, before the PTEs are walked. So either the fault sees the change, or the walk meets the claim and waits
 * for what comes of it.
 *
 * All checks, then everything that can fail (tables, charge), then the change: a call that fails changes nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

void range_visit(tide_space *space, struct range range, pte_visit *visit, void *context)
{
    uint64_t page = range.first;
    uint64_t *leaf;

    while ((leaf = page_table_next_leaf(&space->table, &page, range.last)) != NULL) {
        const unsigned from = page < range.first ? (unsigned)(range.first - page) : 0;
        const unsigned to = range.last - page < TABLE_ENTRIES ? (unsigned)(range.last - page) : TABLE_ENTRIES - 1;

        for (unsigned i = from; i <= to; i++)
            visit(space, &leaf[i], context);
        page += TABLE_ENTRIES;
    }
}

static void committed_add(struct vad *vad, uint64_t pages)
{
    sync_store_relaxed_64(&vad->committed_pages, vad->committed_pages + pages);
}

static pte_t settled(const tide_space *space, uint64_t *pte)
{
    pte_t seen;

    /*
     * A fault from before a decommit may have claimed the PTE for a moment, and will put back the 0 that it found. One
     * that is being read is committed for certain; the I/O is not waited for.
     */
    while (pte_is_busy(seen = pte_load(pte)) && !pte_is_being_read(seen))
        pte_wait(space->partition->waits, NULL, pte);
    return seen;
}

pte_t range_settled(const tide_space *space, uint64_t page)
{
    uint64_t *pte = page_table_find(&space->table, page);

    return pte == NULL ? (pte_t){ 0 } : settled(space, pte);
}

static bool is_decommitted(pte_t pte)
{
    return !pte_is_valid(pte) && pte_tag(pte) == PTE_TAG_DECOMMITTED;
}

struct count_walk {
    bool zero_is_committed;
    uint64_t committed; /* begins as if every PTE were 0 */
};

static void count_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct count_walk *walk = context;
    const pte_t seen = settled(space, pte);

    if (seen.bits == 0)
        return;
    if (walk->zero_is_committed)
        walk->committed -= is_decommitted(seen);
    else
        walk->committed += !is_decommitted(seen);
}

uint64_t range_committed(tide_space *space, const struct vad *vad, struct range range)
{
    struct count_walk walk = { .zero_is_committed = vad->commit_state != 0 };

    walk.committed = walk.zero_is_committed ? range_pages(range) : 0;
    range_visit(space, range, count_visit, &walk);
    return walk.committed;
}

tide_status range_committed_check(tide_space *space, const struct vad *vad, struct range range)
{
    const uint64_t committed = range_committed(space, vad, range);

    if (committed == range_pages(range))
        return TIDE_SUCCESS;
    return error_set(TIDE_NOT_COMMITTED, 0, range.first * TIDE_PAGE_BYTES,
                     "of the %lu pages from 0x%lx on, %lu are committed; all must be", range_pages(range),
                     range.first * TIDE_PAGE_BYTES, committed);
}

tide_status leaves_make(tide_space *space, struct range range, unsigned node)
{
    unsigned made = 0;

    for (uint64_t page = range.first; page <= range.last; page = (page | (TABLE_ENTRIES - 1)) + 1)
        if (page_table_make(&space->table, page, node, &made) == NULL)
            return TIDE_NO_MEMORY;
    return TIDE_SUCCESS;
}

/* ---- commit and protect ----------------------------------------------------------------------------------------- */

struct protect_walk {
    struct vad *vad;
    unsigned protection;
};

/* Commits what is not, and gives every page the protection. */
static void protect_visit(tide_space *space, uint64_t *pte, void *context)
{
    const struct protect_walk *walk = context;
    const pte_t fresh = pte_make(PTE_TAG_NONE, walk->protection);
    const pte_t seen = pte_load(pte);

    if (seen.bits == 0 && walk->vad->commit_state == walk->protection)
        return;
    if ((seen.bits == 0 || is_decommitted(seen)) && pte_cas(pte, seen, fresh))
        return;
    page_protect(space, pte, walk->protection, walk->vad->watch != NULL);
}

static void mark_remove(tide_space *space, uint64_t *pte, void *context)
{
    const pte_t seen = pte_load(pte);

    (void)space;
    (void)context;
    /* Not anything else: a fault from before the decommit may hold a claim here, and puts its 0 back itself. */
    if (is_decommitted(seen))
        (void)pte_cas(pte, seen, (pte_t){ 0 });
}

static void offered_visit(tide_space *space, uint64_t *pte, void *context)
{
    const pte_t seen = pte_load(pte);

    (void)space;
    *(uint64_t *)context += !pte_is_valid(seen) && pte_protection(seen) == PTE_OFFERED;
}

/* Offered pages get no protection but by being reclaimed. */
static tide_status offered_check(tide_space *space, struct range range)
{
    uint64_t offered = 0;

    if (sync_load_64(&space->offered_pages) != 0)
        range_visit(space, range, offered_visit, &offered);
    if (offered == 0)
        return TIDE_SUCCESS;
    return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, range.first * TIDE_PAGE_BYTES,
                     "of the %lu pages from 0x%lx on, %lu are offered; reclaim them first", range_pages(range),
                     range.first * TIDE_PAGE_BYTES, offered);
}

static bool is_whole(const struct vad *vad, struct range range)
{
    return range.first == vad->first_page && range.last == vad->last_page;
}

tide_status range_commit(struct region_retry *retry, struct vad *vad, struct range range, unsigned protection)
{
    tide_space *space = retry->space;
    struct protect_walk walk = { .vad = vad, .protection = protection };
    tide_status status = offered_check(space, range);

    ASSERT_ALWAYS(!vad->reserved_only);
    if (tide_failed(status))
        return status;
    if (vad->commit_state == 0 && vad->committed_pages == 0 && is_whole(vad, range)) {
        /* Nothing is committed: every PTE is 0, or marked decommitted from earlier. */
        const uint64_t tables = page_table_missing(&space->table, range.first, range.last);
        status = pages_charge(retry, range_pages(range), tables);
        if (tide_failed(status))
            return status;
        tables_promise(space, tables);
        vad->table_charge = tables;
        committed_add(vad, range_pages(range));
        range_visit(space, range, mark_remove, NULL);
        sync_store_32(&vad->commit_state, protection);
        if (space->mapping != NULL)
            mapping_unfence(space->mapping, range.first, range_pages(range));
        return TIDE_SUCCESS;
    }
    /* A wholly committed region has paid for its tables. */
    const uint64_t tables = vad->commit_state != 0 ? 0 : page_table_missing(&space->table, range.first, range.last);
    const uint64_t fresh = range_pages(range) - range_committed(space, vad, range);
    status = pages_charge(retry, fresh, tables);
    if (tide_failed(status))
        return status;
    tables_promise(space, tables);
    if (vad->commit_state != protection)
        status = leaves_make(space, range, retry->node);
    if (tide_failed(status)) {
        pages_uncharge(space, fresh);
    } else {
        range_visit(space, range, protect_visit, &walk);
        mapped_range_weaken(space, range.first, range.last);
        committed_add(vad, fresh);
    }
    if (tables != 0)
        tables_promise_drop(space, tables); /* the charge of those that were made stays */
    return status;
}

unsigned range_protection(tide_space *space, const struct vad *vad, uint64_t page)
{
    const pte_t seen = range_settled(space, page);

    if (seen.bits == 0)
        return vad->commit_state & ~VAD_GONE;
    return is_decommitted(seen) ? 0 : pte_protection(seen);
}

tide_status range_protect(struct region_retry *retry, struct vad *vad, struct range range, unsigned protection,
                          unsigned *old)
{
    tide_space *space = retry->space;
    struct protect_walk walk = { .vad = vad, .protection = protection };
    tide_status status = range_committed_check(space, vad, range);

    if (tide_failed(status))
        return status;
    if (vad->kind == VAD_LARGE_PAGES && protection != PTE_READWRITE)
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, range.first * TIDE_PAGE_BYTES,
                         "large pages can only be read and written");
    status = offered_check(space, range);
    if (tide_failed(status))
        return status;
    const unsigned before = range_protection(space, vad, range.first);
    if (vad->commit_state != 0 && vad->commit_state != protection) {
        if (is_whole(vad, range)) {
            /* What was not touched yet follows the VAD. A full barrier before the walk. */
            (void)sync_swap_32(&vad->commit_state, protection);
        } else {
            status = leaves_make(space, range, retry->node);
            if (tide_failed(status))
                return status;
        }
    }
    range_visit(space, range, protect_visit, &walk);
    mapped_range_weaken(space, range.first, range.last);
    *old = before;
    return TIDE_SUCCESS;
}

/* ---- decommit --------------------------------------------------------------------------------------------------- */

struct delete_walk {
    struct mapped_deletion deletion;
    bool zero_is_committed;
    bool peak_seen; /* the working set's peak is up to date */
    uint64_t deleted;
};

static void delete_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct delete_walk *walk = context;

    /* Before the first page leaves, for the sum over the CPUs is not for nothing. */
    if (!walk->peak_seen && pte_is_valid(pte_load(pte))) {
        space_peak_update(space);
        walk->peak_seen = true;
    }
    walk->deleted += mapped_deletion_add(&walk->deletion, pte, walk->zero_is_committed);
}

/* Deletes all pages of the range, and leaves that in their PTEs. */
static uint64_t range_delete(tide_space *space, struct range range, pte_t leave, bool zero_is_committed)
{
    struct delete_walk walk;

    mapped_deletion_begin(&walk.deletion, space, leave);
    walk.zero_is_committed = zero_is_committed;
    walk.peak_seen = false;
    walk.deleted = 0;
    range_visit(space, range, delete_visit, &walk);
    mapped_deletion_end(&walk.deletion);
    return walk.deleted;
}

void range_clear(tide_space *space, struct range range)
{
    (void)range_delete(space, range, (pte_t){ 0 }, false);
}

void region_clear(tide_space *space, struct vad *vad, uint32_t state)
{
    (void)sync_swap_32(&vad->commit_state, state); /* a full barrier: see the argument on top */
    (void)sync_add_32(&vad->commit_generation, 1);
    range_clear(space, (struct range){ vad->first_page, vad->last_page });
    if (vad->kind == VAD_LARGE_PAGES)
        large_uncharge_locked(space, vad->committed_pages);
    else
        pages_uncharge(space, vad->committed_pages);
    sync_store_relaxed_64(&vad->committed_pages, 0);
}

tide_status range_decommit(struct region_retry *retry, struct vad *vad, struct range range)
{
    tide_space *space = retry->space;
    const pte_t decommitted = pte_make(PTE_TAG_DECOMMITTED, PTE_PROTECTION_DECOMMITTED);
    const bool zero_is_committed = vad->commit_state != 0;

    if (vad->kind == VAD_LARGE_PAGES || vad->kind == VAD_PLACEHOLDER)
        return error_set(TIDE_UNABLE_TO_FREE_VM, 0, range.first * TIDE_PAGE_BYTES,
                         "%s cannot be decommitted; release the region",
                         vad->kind == VAD_LARGE_PAGES ? "large pages" : "a placeholder");
    if (is_whole(vad, range)) {
        const uint64_t promised = vad->table_charge;

        region_clear(space, vad, 0);
        vad->table_charge = 0;
        tables_promise_drop(space, promised);
        return TIDE_SUCCESS;
    }
    if (zero_is_committed) {
        /* Untouched pages must be marked, since their 0 means committed; the region has paid for the tables. */
        const tide_status status = leaves_make(space, range, retry->node);
        if (tide_failed(status))
            return status;
    }
    const uint64_t deleted = range_delete(space, range, decommitted, zero_is_committed);
    committed_add(vad, (uint64_t)0 - deleted);
    pages_uncharge(space, deleted);
    return TIDE_SUCCESS;
}

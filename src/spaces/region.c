/*
 * Regions: reserve, commit, decommit, release, query (nt-behaviour 4).
 *
 * How a page knows that it is committed. A region that was committed as a whole has that in its VAD (commit_state):
 * its PTEs are 0 until touched, and tables come at first touch. A region committed in part has it in its PTEs: 0 is
 * reserved, demand zero is committed. A page decommitted inside a wholly committed region is marked decommitted in
 * its PTE.
 *
 * Against faults. Faults take no lock. A fault that changes a PTE other than 0 does so by compare-and-swap, so it
 * loses to whatever was done here. A fault on a 0 PTE reads commit_state, claims the PTE, and reads commit_state again
 * before it shows the page to anybody; if it changed, the fault puts the 0 back. Here commit_state is changed, with a
 * full barrier, before the PTEs are walked. So either the fault sees the change, or the walk meets the claim and waits
 * for what comes of it.
 *
 * Charges. Pages are charged when committed. Tables are charged too: those that exist, and those that wholly
 * committed regions may still need (vad.table_charge, counted when the region is committed). So a touch never needs a
 * charge. What a space holds for tables is never less than the tables that exist and those that the promises still
 * lack. On release it is cut back to (tables that exist) + (sum of promises), which is that or more.
 *
 * All checks, then everything that can fail (tables, charge), then the change: a call that fails changes nothing.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "spaces/space.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_PAGE (TIDE_LOWEST_ADDRESS / TIDE_PAGE_BYTES)
#define LAST_PAGE (TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)

struct range {
    uint64_t first, last; /* pages, inclusive */
};

static uint64_t range_pages(struct range range)
{
    return range.last - range.first + 1;
}

/* ---- charges ---------------------------------------------------------------------------------------------------- */

/* Cuts the charge for tables back to what may be needed. Space locked. */
static void tables_settle(tide_space *space)
{
    const uint64_t keep = sync_load_relaxed_64(&space->table.table_pages) + space->tables_promised;

    if (space->tables_charged > keep) {
        commit_return(&space->partition->commit, space->tables_charged - keep);
        space->tables_charged = keep;
    }
}

static void committed_add(tide_space *space, struct vad *vad, uint64_t pages)
{
    vad->committed_pages += pages;
    sync_store_relaxed_64(&space->committed_pages, space->committed_pages + pages);
}

void region_tables_charge(tide_space *space, unsigned made)
{
    sync_lock(&space->lock);
    commit_force(&space->partition->commit, made);
    space->tables_charged += made;
    sync_unlock(&space->lock);
}

/* ---- walking ---------------------------------------------------------------------------------------------------- */

/* Calls for each PTE of a range whose leaf exists; `missing` pages are passed over. Space locked, inside the engine. */
typedef void pte_visit(tide_space *space, uint64_t *pte, void *context);

static void range_visit(tide_space *space, struct range range, pte_visit *visit, void *context)
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

/* ---- reserve ---------------------------------------------------------------------------------------------------- */

/* Charges pages and the tables they may need, all or nothing; the error speaks of what was asked for. */
static tide_status pages_charge(tide_space *space, uint64_t pages, uint64_t tables)
{
    struct commit *commit = &space->partition->commit;
    const tide_status status = commit_charge(commit, pages + tables);

    if (status != TIDE_COMMITMENT_LIMIT)
        return status;
    return error_set(status, 0, 0,
                     "cannot commit %lu pages (and %lu for page tables): %lu are charged, the limit is %lu pages",
                     pages, tables, commit_total(commit), sync_load_64(&commit->limit));
}

/* A commit of a whole region, for pages and the tables that it may need. */
static tide_status whole_charge(tide_space *space, struct vad *vad)
{
    const uint64_t tables = page_table_missing(&space->table, vad->first_page, vad->last_page);
    const tide_status status = pages_charge(space, vad->last_page - vad->first_page + 1, tables);

    if (tide_failed(status))
        return status;
    vad->table_charge = tables;
    space->tables_promised += tables;
    space->tables_charged += tables;
    committed_add(space, vad, vad->last_page - vad->first_page + 1);
    return TIDE_SUCCESS;
}

static void retired_free(tide_space *space)
{
    struct vad **link = &space->retired;

    /* Newest first: once one has passed, all behind it have. */
    while (*link != NULL && !grace_passed(&space_frames(space)->grace, (*link)->retired_epoch))
        link = &(*link)->retired_next;
    for (struct vad *vad = *link, *next; vad != NULL; vad = next) {
        next = vad->retired_next;
        free(vad);
    }
    *link = NULL;
}

static tide_status reserve(tide_space *space, struct range *range, bool anywhere, uint32_t type, uint32_t protection,
                           uint32_t node)
{
    const uint64_t pages = range_pages(*range);
    struct vad *vad = aligned_alloc(SYNC_CACHE_LINE_BYTES, sizeof *vad);
    tide_status status = TIDE_SUCCESS;

    if (vad == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for a region descriptor of %zu bytes",
                         sizeof *vad);
    memset(vad, 0, sizeof *vad);
    sync_lock(&space->lock);
    if (anywhere) {
        if (!vad_find_gap(&space->vads, pages, FIRST_PAGE, LAST_PAGE, (type & TIDE_MEM_TOP_DOWN) != 0, &range->first)) {
            status = error_set(TIDE_NO_MEMORY, 0, 0, "no free range of %lu pages among %lu regions", pages,
                               space->vads.count);
            goto out;
        }
        range->last = range->first + pages - 1;
    } else {
        const struct vad *other = vad_find_first(&space->vads, range->first, range->last | (VAD_UNIT_PAGES - 1));
        if (other != NULL && other->first_page <= (range->last | (VAD_UNIT_PAGES - 1))) {
            status =
                error_set(TIDE_CONFLICTING_ADDRESSES, 0, other->first_page * TIDE_PAGE_BYTES,
                          "range 0x%lx to 0x%lx overlaps the region 0x%lx to 0x%lx", range->first * TIDE_PAGE_BYTES,
                          range->last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1, other->first_page * TIDE_PAGE_BYTES,
                          other->last_page * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
            goto out;
        }
    }
    vad->first_page = range->first;
    vad->last_page = range->last;
    vad->protection = protection;
    vad->preferred_node = node;
    if (type & TIDE_MEM_COMMIT) {
        status = whole_charge(space, vad);
        if (tide_failed(status))
            goto out;
        vad->commit_state = pte_protection_of(protection);
    }
    if (node != TIDE_NO_PREFERRED_NODE)
        sync_store_32(&space->has_preferred_nodes, 1);
    vad_insert(&space->vads, vad);
    vad = NULL;
    retired_free(space);
out:
    sync_unlock(&space->lock);
    free(vad);
    return status;
}

/* ---- commit ----------------------------------------------------------------------------------------------------- */

/* The region that holds the whole range, or NULL. Space locked. */
static struct vad *region_of(tide_space *space, struct range range)
{
    struct vad *vad = vad_find(&space->vads, range.first);

    return vad != NULL && range.last <= vad->last_page ? vad : NULL;
}

struct commit_walk {
    struct vad *vad;
    unsigned protection;
    uint64_t uncommitted;
};

/* Corrects `uncommitted`, which begins as if every PTE were 0. */
static void commit_count(tide_space *space, uint64_t *pte, void *context)
{
    struct commit_walk *walk = context;
    pte_t seen;

    /* A fault from before a decommit may have claimed the PTE for a moment, and will put back the 0 that it found. */
    while (pte_is_busy(seen = pte_load(pte)))
        pte_wait(space->partition->waits, NULL, pte);
    const bool decommitted = !pte_is_valid(seen) && pte_tag(seen) == PTE_TAG_DECOMMITTED;

    if (seen.bits == 0)
        return;
    if (walk->vad->commit_state != 0)
        walk->uncommitted += decommitted;
    else
        walk->uncommitted -= !decommitted;
}

static void commit_apply(tide_space *space, uint64_t *pte, void *context)
{
    const struct commit_walk *walk = context;
    const pte_t fresh = pte_make(PTE_TAG_NONE, walk->protection);
    const pte_t seen = pte_load(pte);

    if (seen.bits == 0 && walk->vad->commit_state == walk->protection)
        return;
    if ((seen.bits == 0 || (!pte_is_valid(seen) && pte_tag(seen) == PTE_TAG_DECOMMITTED)) && pte_cas(pte, seen, fresh))
        return;
    page_protect(space, pte, walk->protection);
}

static void mark_remove(tide_space *space, uint64_t *pte, void *context)
{
    const pte_t seen = pte_load(pte);

    (void)space;
    (void)context;
    /* Not anything else: a fault from before the decommit may hold a claim here, and puts its 0 back itself. */
    if (!pte_is_valid(seen) && pte_tag(seen) == PTE_TAG_DECOMMITTED)
        (void)pte_cas(pte, seen, (pte_t){ 0 });
}

/*
 * Makes all leaf tables of a range. Space locked; on TIDE_NO_MEMORY the caller unlocks, waits for a frame and starts
 * again.
 */
static tide_status leaves_make(tide_space *space, struct range range, unsigned node)
{
    unsigned made = 0;

    for (uint64_t page = range.first; page <= range.last; page = (page | (TABLE_ENTRIES - 1)) + 1)
        if (page_table_make(&space->table, page, node, &made) == NULL)
            return TIDE_NO_MEMORY;
    return TIDE_SUCCESS;
}

static tide_status commit_locked(tide_space *space, struct range range, unsigned protection, unsigned node)
{
    struct vad *vad = region_of(space, range);
    struct commit_walk walk = { .vad = vad, .protection = protection };
    tide_status status;

    if (vad == NULL)
        return error_set(TIDE_CONFLICTING_ADDRESSES, 0, range.first * TIDE_PAGE_BYTES,
                         "range 0x%lx to 0x%lx does not lie inside one reservation", range.first * TIDE_PAGE_BYTES,
                         range.last * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
    if (vad->commit_state == 0 && vad->committed_pages == 0 && range.first == vad->first_page &&
        range.last == vad->last_page) {
        /* Nothing is committed: every PTE is 0, or marked decommitted from earlier. */
        status = whole_charge(space, vad);
        if (tide_failed(status))
            return status;
        range_visit(space, range, mark_remove, NULL);
        sync_store_32(&vad->commit_state, protection);
        return TIDE_SUCCESS;
    }
    /* A wholly committed region has paid for its tables. */
    const uint64_t tables = vad->commit_state != 0 ? 0 : page_table_missing(&space->table, range.first, range.last);
    walk.uncommitted = vad->commit_state != 0 ? 0 : range_pages(range);
    range_visit(space, range, commit_count, &walk);
    status = pages_charge(space, walk.uncommitted, tables);
    if (tide_failed(status))
        return status;
    space->tables_charged += tables;
    if (vad->commit_state != protection)
        status = leaves_make(space, range, node);
    if (tide_failed(status)) {
        /* No frame for a table: the pages' charge goes back, that of the tables already made stays with them. */
        commit_return(&space->partition->commit, walk.uncommitted);
    } else {
        range_visit(space, range, commit_apply, &walk);
        committed_add(space, vad, walk.uncommitted);
    }
    tables_settle(space);
    return status;
}

/* ---- decommit and release --------------------------------------------------------------------------------------- */

struct delete_walk {
    pte_t leave;
    bool zero_is_committed;
    uint64_t deleted;
};

static void delete_visit(tide_space *space, uint64_t *pte, void *context)
{
    struct delete_walk *walk = context;

    walk->deleted += page_delete(space, pte, walk->leave, walk->zero_is_committed);
}

static void committed_give_back(tide_space *space, struct vad *vad, uint64_t pages)
{
    committed_add(space, vad, (uint64_t)0 - pages);
    commit_return(&space->partition->commit, pages);
}

static void promise_drop(tide_space *space, struct vad *vad)
{
    space->tables_promised -= vad->table_charge;
    vad->table_charge = 0;
    tables_settle(space);
}

/* Every page of a region goes, and its PTEs are 0 afterwards. `state` is the new commit_state. */
static void region_clear(tide_space *space, struct vad *vad, uint32_t state)
{
    struct delete_walk walk = { .leave = { 0 } };
    const struct range range = { vad->first_page, vad->last_page };

    space_peak_update(space);
    (void)sync_swap_32(&vad->commit_state, state); /* a full barrier: see the argument on top */
    (void)sync_add_32(&vad->commit_generation, 1);
    range_visit(space, range, delete_visit, &walk);
    committed_give_back(space, vad, vad->committed_pages);
}

static tide_status decommit_locked(tide_space *space, struct vad *vad, struct range range, unsigned node)
{
    struct delete_walk walk = { .leave = pte_make(PTE_TAG_DECOMMITTED, PTE_PROTECTION_DECOMMITTED),
                                .zero_is_committed = vad->commit_state != 0 };

    if (range.first == vad->first_page && range.last == vad->last_page) {
        region_clear(space, vad, 0);
        promise_drop(space, vad);
        return TIDE_SUCCESS;
    }
    if (vad->commit_state != 0) {
        /* Untouched pages must be marked, since their 0 means committed; the region has paid for the tables. */
        const tide_status status = leaves_make(space, range, node);
        if (tide_failed(status))
            return status;
    }
    space_peak_update(space);
    range_visit(space, range, delete_visit, &walk);
    committed_give_back(space, vad, walk.deleted);
    return TIDE_SUCCESS;
}

static void release_locked(tide_space *space, struct vad *vad)
{
    vad_remove(&space->vads, vad);
    region_clear(space, vad, VAD_DELETED);
    /*
     * Leaf tables in which no other region lies. Faults that are still on their way into this region undo what they
     * did.
     */
    uint64_t page = vad->first_page;
    while (page_table_next_leaf(&space->table, &page, vad->last_page) != NULL) {
        const struct vad *other = vad_find_first(&space->vads, page, page + TABLE_ENTRIES - 1);
        if (other == NULL || other->first_page > page + TABLE_ENTRIES - 1)
            page_table_free_leaf(&space->table, page);
        page += TABLE_ENTRIES;
    }
    promise_drop(space, vad);
    vad->retired_epoch = grace_now(&space_frames(space)->grace);
    vad->retired_next = space->retired;
    space->retired = vad;
    retired_free(space);
}

/* ---- entry points ----------------------------------------------------------------------------------------------- */

static tide_status check_type(uint32_t type, uint32_t protection)
{
    const uint32_t known = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_TOP_DOWN;

    if ((type & ~known) != 0 || (type & (TIDE_MEM_RESERVE | TIDE_MEM_COMMIT)) == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "allocation type 0x%x; known are 0x%x, with reserve or commit",
                         type, known);
    if (pte_protection_of(protection) == 0) {
        if (protection == TIDE_PAGE_WRITECOPY || protection == TIDE_PAGE_EXECUTE_WRITECOPY)
            return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, 0,
                             "protection 0x%x is for section views, not private memory", protection);
        return error_set(TIDE_INVALID_PAGE_PROTECTION, 0, 0, "protection 0x%x is not one of the TIDE_PAGE_ values",
                         protection);
    }
    return TIDE_SUCCESS;
}

static tide_status check_range(tide_address base, uint64_t bytes, uint64_t granularity, struct range *range)
{
    if (bytes == 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "a size of 0 bytes; the least is 1");
    if (bytes > TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1 || base > TIDE_HIGHEST_ADDRESS ||
        base + bytes - 1 > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "range 0x%lx, %lu bytes, passes the highest address 0x%llx",
                         base, bytes, TIDE_HIGHEST_ADDRESS);
    range->first = base / granularity * granularity / TIDE_PAGE_BYTES;
    range->last = (base + bytes - 1) / TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

tide_status region_allocate(tide_space *space, struct grace_thread *thread, tide_address *base, uint64_t *bytes,
                            uint32_t type, uint32_t protection, uint32_t node)
{
    const struct topology *topology = space->partition->topology;
    const bool anywhere = *base == 0;
    struct range range = { 0 };
    tide_status status = check_type(type, protection);

    if (tide_failed(status))
        return status;
    if (node != TIDE_NO_PREFERRED_NODE && node >= topology->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node,
                         topology->node_count - 1);
    if (anywhere)
        type |= TIDE_MEM_RESERVE;
    const bool reserving = (type & TIDE_MEM_RESERVE) != 0;
    status = check_range(*base, *bytes, reserving ? TIDE_ALLOCATION_GRANULARITY_BYTES : TIDE_PAGE_BYTES, &range);
    if (tide_failed(status))
        return status;
    if (!anywhere && range.first < FIRST_PAGE)
        return error_set(TIDE_INVALID_PARAMETER, 0, *base, "address 0x%lx lies below the lowest address 0x%llx", *base,
                         TIDE_LOWEST_ADDRESS);
    if (reserving) {
        status = reserve(space, &range, anywhere, type, protection, node);
    } else {
        const unsigned local = topology_cpu_node(topology, os_cpu_current());
        uint64_t deadline = 0;

        for (;;) {
            sync_lock(&space->lock);
            status = commit_locked(space, range, pte_protection_of(protection), local);
            sync_unlock(&space->lock);
            if (status != TIDE_NO_MEMORY)
                break;
            status = space_frame_wait(space, thread, local, &deadline);
            if (tide_failed(status))
                break;
        }
    }
    if (!tide_failed(status)) {
        *base = range.first * TIDE_PAGE_BYTES;
        *bytes = range_pages(range) * TIDE_PAGE_BYTES;
    }
    return status;
}

static tide_status free_locked(tide_space *space, tide_address base, uint64_t bytes, uint32_t type, unsigned node)
{
    struct vad *vad = base > TIDE_HIGHEST_ADDRESS ? NULL : vad_find(&space->vads, base / TIDE_PAGE_BYTES);
    struct range range = { 0 };

    if (vad == NULL)
        return error_set(TIDE_MEMORY_NOT_ALLOCATED, 0, base, "address 0x%lx lies in no region", base);
    if (bytes == 0 || type == TIDE_MEM_RELEASE) {
        if (base / TIDE_PAGE_BYTES != vad->first_page)
            return error_set(TIDE_FREE_VM_NOT_AT_BASE, 0, base, "address 0x%lx is not the allocation base 0x%lx", base,
                             vad->first_page * TIDE_PAGE_BYTES);
        range = (struct range){ vad->first_page, vad->last_page };
    } else {
        const tide_status status = check_range(base, bytes, TIDE_PAGE_BYTES, &range);
        if (tide_failed(status) || range.last > vad->last_page)
            return error_set(TIDE_UNABLE_TO_FREE_VM, 0, base,
                             "range 0x%lx, %lu bytes, leaves the region that ends at 0x%lx", base, bytes,
                             vad->last_page * TIDE_PAGE_BYTES + TIDE_PAGE_BYTES - 1);
    }
    if (type == TIDE_MEM_DECOMMIT)
        return decommit_locked(space, vad, range, node);
    release_locked(space, vad);
    return TIDE_SUCCESS;
}

tide_status region_free(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes,
                        uint32_t type)
{
    const unsigned local = topology_cpu_node(space->partition->topology, os_cpu_current());
    uint64_t deadline = 0;
    tide_status status;

    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "free type 0x%x; known are decommit 0x%x and release 0x%x", type,
                         TIDE_MEM_DECOMMIT, TIDE_MEM_RELEASE);
    if (type == TIDE_MEM_RELEASE && bytes != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "a release of %lu bytes; the size of a release must be 0",
                         bytes);
    for (;;) {
        sync_lock(&space->lock);
        status = free_locked(space, base, bytes, type, local);
        sync_unlock(&space->lock);
        if (status != TIDE_NO_MEMORY)
            return status;
        status = space_frame_wait(space, thread, local, &deadline);
        if (tide_failed(status))
            return status;
    }
}

/* ---- query ------------------------------------------------------------------------------------------------------ */

/* State and protection of one page of a region. */
static void page_describe(const tide_space *space, const struct vad *vad, uint64_t page, uint32_t *state,
                          uint32_t *protection)
{
    const uint64_t *pte = page_table_find(&space->table, page);
    const pte_t seen = pte == NULL ? (pte_t){ 0 } : pte_load(pte);
    const unsigned software = seen.bits != 0 ? pte_protection(seen) : vad->commit_state & ~VAD_DELETED;

    *protection = pte_page_protection_of(software);
    *state = *protection != 0 ? TIDE_MEM_COMMIT : TIDE_MEM_RESERVE;
}

tide_status region_query(tide_space *space, tide_address address, tide_region *region)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;

    if (address > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "address 0x%lx lies past the highest address 0x%llx",
                         address, TIDE_HIGHEST_ADDRESS);
    *region = (tide_region){ .base = page * TIDE_PAGE_BYTES };
    sync_lock(&space->lock);
    const struct vad *vad = vad_find_first(&space->vads, page, page);
    if (vad == NULL || vad->first_page > page) {
        region->state = TIDE_MEM_FREE;
        region->bytes = ((vad == NULL ? LAST_PAGE + 1 : vad->first_page) - page) * TIDE_PAGE_BYTES;
    } else {
        uint64_t end = page + 1;
        uint32_t state, protection;

        region->allocation_base = vad->first_page * TIDE_PAGE_BYTES;
        region->allocation_protection = vad->protection;
        region->type = TIDE_MEM_PRIVATE;
        page_describe(space, vad, page, &region->state, &region->protection);
        while (end <= vad->last_page) {
            uint64_t leaf_page = end;
            if (page_table_next_leaf(&space->table, &leaf_page, vad->last_page) == NULL)
                leaf_page = vad->last_page + 1;
            /* Pages without a leaf are all alike: look at the first and step over the rest. */
            page_describe(space, vad, end, &state, &protection);
            if (state != region->state || protection != region->protection)
                break;
            end = leaf_page > end ? leaf_page : end + 1;
        }
        region->bytes = (end - page) * TIDE_PAGE_BYTES;
    }
    sync_unlock(&space->lock);
    return TIDE_SUCCESS;
}

/*
 * The fault path: look at the PTE, do what its form asks for, look again until it is valid.
 *
 *   valid        rights; first write to a clean page; accessed bit
 *   0            the VAD says whether it is committed: demand zero
 *   demand zero  a zeroed frame, one compare-and-swap of the PTE; an error if its content was lost with a bad frame
 *   transition   claim; take the frame off its list, or join it while it is being written
 *   page file    claim; read, with neighbours (hard.c)
 *   busy         wait until whoever claimed it is done (collided fault)
 *   decommitted  access violation
 *
 * What is written on the way, for a demand-zero fault with a frame in the CPU's cache: the thread's own record, the
 * CPU's cache, the frame's record, the PTE, one counter of this CPU. No line that another CPU's faults write: no lock
 * of the space, no global counter (tests/lines counts).
 *
 * Order of a demand-zero fault: frame first, then the PTE by compare-and-swap from what was seen. Nothing is claimed
 * while waiting for a frame, and a fault that loses the race gives the frame back. On a 0 PTE only the VAD says that
 * the page is committed: the PTE is looked up after the VAD, claimed, and the VAD asked again before the page is shown
 * (spaces/region.c has the other half of that argument).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "faults/fault_impl.h"

#include <errno.h>

tide_status fault_violation(struct fault *fault, const char *why)
{
    space_count(fault->space, SPACE_VIOLATIONS, 1);
    return error_set(TIDE_ACCESS_VIOLATION, 0, fault->address, "%s of address 0x%lx: %s",
                     fault->kind == TIDE_ACCESS_WRITE ? "write" : "read", fault->address, why);
}

/* The region of the faulting page, remembered per thread as long as the tree does not change. */
static struct vad *fault_vad(struct fault *fault)
{
    struct grace_thread *thread = fault->thread;
    const struct vad_tree *tree = &fault->space->vads;
    const uint64_t sequence = sync_load_64(&tree->sequence);

    if (thread->vad_space_id == fault->space->id && thread->vad_sequence == sequence && thread->vad != NULL &&
        fault->page - thread->vad->first_page <= thread->vad->last_page - thread->vad->first_page)
        return thread->vad;
    struct vad *vad = vad_find(tree, fault->page);
    if (vad != NULL) {
        thread->vad_space_id = fault->space->id;
        thread->vad_sequence = sequence;
        thread->vad = vad;
    }
    return vad;
}

struct frames_place fault_page_place(struct fault *fault, uint64_t page)
{
    const struct vad *vad = page == fault->page ? fault_vad(fault) : vad_find(&fault->space->vads, page);
    const struct placement placement =
        space_placement_of(fault->space, vad == NULL ? placement_none() : vad->placement);

    fault->placed = true;
    const struct frames_place place = space_frames_place(fault->space, placement, page,
                                                         partition_thread_node(fault->space->partition, fault->thread));
    return fault->spilled ? frames_place_spilled(place) : place;
}

struct frames_place fault_place(struct fault *fault)
{
    if (__builtin_expect((sync_load_relaxed_32(&fault->space->has_placement) | fault->thread->ideal_node) != 0, 0))
        return fault_page_place(fault, fault->page);
    return (struct frames_place){ .node = topology_cpu_node(space_frames(fault->space)->topology, os_cpu_current()) };
}

/* Where a table for the page comes from: what the placement says of pages is no matter here. */
static struct frames_place table_place(const struct fault *fault)
{
    return (struct frames_place){ .node = partition_thread_node(fault->space->partition, fault->thread) };
}

void fault_count_places(struct fault *fault, frame_t frame, unsigned node, unsigned cpu)
{
    struct partition *partition = fault->space->partition;

    if (!frame_is_on_node(partition->frames, frame, node))
        space_count_on(fault->space, cpu, SPACE_REMOTE, 1);
    const unsigned from =
        fault->thread->ideal_node != 0 ? fault->thread->ideal_node - 1 : partition->topology->cpu_node[cpu];
    node_pairs_count(&partition->pairs, cpu, from, frame_node(partition->frames, frame));
}

tide_status fault_frame_wait(struct fault *fault, struct frames_place place)
{
    fault_settle(fault);
    const tide_status status = space_frame_wait(fault->space, fault->thread, place, &fault->wait);

    if (status == TIDE_NO_MEMORY && (place.flags & FRAMES_SPILL)) {
        fault->spilled = true;
        return FAULT_AGAIN;
    }
    return tide_failed(status) ? status : FAULT_AGAIN;
}

/*
 * The region paid for its tables when it was committed. Has it been let go since - even if it was committed anew, for
 * then tables that a fault just made were there already and were not counted - nobody has paid for them.
 */
static bool fault_still_committed(const struct fault *fault, const struct vad *vad, unsigned protection)
{
    return sync_load_32(&vad->commit_state) == protection &&
           sync_load_32(&vad->commit_generation) == fault->commit_generation;
}

/*
 * The protection does not allow the access, or the page is a guard. `seen` is the PTE, 0 if only `vad` says that the
 * page is committed. A guard is taken away, whatever the access (nt-behaviour 5 rule 5); that of a stack moves down.
 */
tide_status fault_refused(struct fault *fault, uint64_t *pte, pte_t seen, struct vad *vad, unsigned protection)
{
    tide_space *space = fault->space;

    if (!pte_protection_is_guard(protection))
        return fault_violation(fault, "the protection does not allow it");
    const struct vad *region = fault_vad(fault);
    if (region != NULL && region->kind == VAD_STACK) {
        const tide_status status = stack_grow(space, fault->thread, fault->address);

        if (status == TIDE_SUCCESS)
            return FAULT_AGAIN;
        if (status == TIDE_PAGE_FAULT_GUARD_PAGE || status == TIDE_STACK_OVERFLOW)
            space_count(space, SPACE_GUARD_HITS, 1);
        if (tide_failed(status))
            return status;
        fault->guard = true;
        return FAULT_AGAIN;
    }
    const unsigned plain = protection & PTE_ACCESS_MASK;
    if (seen.bits == 0) {
        unsigned made = 0;

        if (pte == NULL)
            pte = page_table_make(&space->table, fault->page, table_place(fault).node, &made);
        if (made != 0 && !fault_still_committed(fault, vad, protection)) {
            region_tables_charge(space, made);
            return FAULT_AGAIN;
        }
        if (pte == NULL)
            return fault_frame_wait(fault, table_place(fault));
        if (!pte_cas(pte, seen, pte_make(PTE_TAG_BUSY, protection)))
            return FAULT_AGAIN;
        const bool committed = sync_load_32(&vad->commit_state) == protection;
        pte_release(space->partition->waits, pte, committed ? pte_make(PTE_TAG_NONE, plain) : seen);
        if (!committed)
            return FAULT_AGAIN;
    } else {
        /* The rights of a valid page come with its next access. */
        if (!pte_cas(pte, seen, pte_with_protection(seen, plain)))
            return FAULT_AGAIN;
    }
    space_count(space, SPACE_GUARD_HITS, 1);
    return error_set(TIDE_GUARD_PAGE_VIOLATION, 0, fault->address,
                     "%s of address 0x%lx: a guard page, which is an ordinary page from now on",
                     fault->kind == TIDE_ACCESS_WRITE ? "write" : "read", fault->address);
}

/*
 * The PTE that a fault is about to publish, in a region with write watch: the page is marked as written, or stays
 * without PTE_WRITE. The PTE is claimed.
 */
pte_t fault_watch(struct fault *fault, pte_t valid)
{
    const struct vad *vad = fault_vad(fault);

    if (vad == NULL || vad->watch == NULL || !(valid.bits & PTE_WRITE))
        return valid;
    if (fault->kind == TIDE_ACCESS_WRITE)
        watch_mark(vad->watch, fault->page);
    else
        valid.bits &= ~PTE_WRITE;
    return valid;
}

/* The content of the page went with a bad frame. */
static tide_status fault_lost(struct fault *fault)
{
    space_count(fault->space, SPACE_IN_PAGE_ERRORS, 1);
    return error_set(TIDE_IN_PAGE_ERROR, EHWPOISON, fault->address,
                     "the page of address 0x%lx was lost with the memory that it was in; write it as a whole, reset, "
                     "discard or decommit it",
                     fault->address);
}

/* A committed page that has never been touched, or was discarded. `vad` is given if `seen` is 0. */
static tide_status demand_zero(struct fault *fault, uint64_t *pte, pte_t seen, struct vad *vad, unsigned protection)
{
    tide_space *space = fault->space;
    struct frames *frames = space_frames(space);
    const struct frames_place place = fault_place(fault);

    if (!fault_allowed(fault, protection))
        return fault_refused(fault, pte, seen, vad, protection);
    if (__builtin_expect((seen.bits & PTE_BAD) != 0 && !fault->overwrite, 0))
        return fault_lost(fault);
    if (fault_admit(fault) == FAULT_AGAIN)
        return FAULT_AGAIN;
    if (pte == NULL) {
        unsigned made = 0;
        pte = page_table_make(&space->table, fault->page, table_place(fault).node, &made);
        if (made != 0 && vad != NULL && !fault_still_committed(fault, vad, protection)) {
            region_tables_charge(space, made);
            return FAULT_AGAIN;
        }
        if (pte == NULL)
            return fault_frame_wait(fault, table_place(fault));
    }
    if (space->mapping != NULL)
        return fault_zero_mapped(fault, pte, seen, vad, protection);
    const frame_t frame = frames_allocate(frames, place.node, FRAMES_ZERO, place.flags);
    if (__builtin_expect(frame_is_none(frame), 0))
        return fault_frame_wait(fault, place);

    struct pfn *pfn = frame_pfn(frames, frame);
    pfn_pte_set(pfn, pte);
    sync_store_relaxed_64(&pfn->original, seen.bits & (PTE_RESET | PTE_LOST) ? PTE_LOST : 0);
    frame_state_set(pfn, pfn_with_priority((uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_REFERENCE_ONE | PFN_SHARE_ONE,
                                           fault_priority(fault)));
    pte_t valid = pte_make_valid(frame, protection, true);
    const bool watched = fault_may_be_watched(fault);
    /*
     * If only the VAD says that the page is committed, the page is shown to nobody before the VAD was asked again: the
     * PTE is claimed first. Else its own form says so, and one compare-and-swap does it.
     */
    const bool claim = vad != NULL || watched;
    if (__builtin_expect(!pte_cas(pte, seen, claim ? pte_make(PTE_TAG_BUSY, protection) : valid), 0)) {
        frames_give_back(frames, frame, true);
        return FAULT_AGAIN;
    }
    if (claim) {
        const bool committed = vad == NULL || sync_load_32(&vad->commit_state) == protection;

        if (__builtin_expect(watched && committed, 0))
            valid = fault_watch(fault, valid);
        pte_release(space->partition->waits, pte, committed ? valid : seen);
        if (__builtin_expect(!committed, 0)) {
            frames_give_back(frames, frame, true);
            return FAULT_AGAIN;
        }
    }
    fault_count(fault, SPACE_DEMAND_ZERO, frame, place.node);
    fault->result = TIDE_PAGE_FAULT_DEMAND_ZERO;
    fault->valid = valid;
    return fault->result;
}

static tide_status unknown(struct fault *fault, uint64_t *pte)
{
    struct vad *vad = fault_vad(fault);
    /* The generation first: who reads a state has read the generation from before that state was taken away. */
    fault->commit_generation = vad == NULL ? 0 : sync_load_32(&vad->commit_generation);
    const uint32_t state = vad == NULL ? 0 : sync_load_32(&vad->commit_state);

    if (vad == NULL)
        return fault_violation(fault, "it lies in no region");
    if (state & VAD_REPLACED)
        return FAULT_AGAIN; /* its parts are in the tree */
    if (state == 0 || (state & VAD_DELETED) != 0)
        return fault_violation(fault, "it is not committed");
    /*
     * The PTE is looked up once more, after the VAD. What was found before it may lie in a table that was unlinked with
     * an older region at this address, and the VAD of a newer one would not tell.
     */
    pte = page_table_find(&fault->space->table, fault->page);
    return demand_zero(fault, pte, (pte_t){ 0 }, vad, state);
}

/* The page is in a frame that is on a list or being written. */
static tide_status soft(struct fault *fault, uint64_t *pte, pte_t seen)
{
    tide_space *space = fault->space;
    struct frames *frames = space_frames(space);
    const unsigned protection = pte_protection(seen);
    const frame_t frame = pte_frame(seen);
    struct pfn *pfn = frame_pfn(frames, frame);
    const unsigned priority = fault_priority(fault);
    enum space_counter counter = SPACE_STANDBY;

    if (!fault_allowed(fault, protection))
        return fault_refused(fault, pte, seen, NULL, protection);
    if (fault_admit(fault) == FAULT_AGAIN)
        return FAULT_AGAIN;
    if (!pte_cas(pte, seen, pte_busy_form(seen)))
        return FAULT_AGAIN;
    /* The claim keeps the frame this page's: nobody can repurpose it now. Only the writer may still move it. */
    uint64_t word = sync_load_64(&pfn->word);
    for (;;) {
        const enum frame_state state = pfn_state(word);

        if (state == FRAME_TRANSITION) {
            const uint64_t next =
                pfn_with_priority(pfn_with_state(word, FRAME_ACTIVE) + PFN_SHARE_ONE + PFN_REFERENCE_ONE, priority);
            if (!frame_state_cas(pfn, word, next, &word))
                continue;
            (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, (uint64_t)-1);
            word = next;
            counter = SPACE_WRITE_IN_PROGRESS;
            break;
        }
        counter = state == FRAME_STANDBY ? SPACE_STANDBY : SPACE_MODIFIED;
        if (frames_unlink(frames, frame, word, FRAME_ACTIVE, PFN_SHARE_ONE + PFN_REFERENCE_ONE, priority, &word))
            break;
    }
    bool dirty = (word & PFN_DIRTY) != 0;
    if (!dirty && fault->kind == TIDE_ACCESS_WRITE) {
        page_dirty_claimed(space, frame);
        dirty = true;
    }
    fault->valid = pte_make_valid(frame, protection, dirty);
    if (__builtin_expect(fault_may_be_watched(fault), 0))
        fault->valid = fault_watch(fault, fault->valid);
    (void)fault_show(fault, fault->valid);
    pte_release(space->partition->waits, pte, fault->valid);
    fault_count(fault, counter, frame, fault_place(fault).node);
    if (__builtin_expect(space->mapping != NULL, 0))
        fault_show_following(fault, pte);
    return fault->result = TIDE_PAGE_FAULT_TRANSITION;
}

/* The PTE is valid. */
static tide_status valid(struct fault *fault, uint64_t *pte, pte_t seen)
{
    tide_space *space = fault->space;
    const bool write = fault->kind == TIDE_ACCESS_WRITE;
    const uint64_t right = write ? PTE_WRITE : PTE_READ;

    if (!fault_allowed(fault, pte_protection(seen)))
        return fault_refused(fault, pte, seen, NULL, pte_protection(seen));
    if (!(seen.bits & right) || (write && !(seen.bits & PTE_DIRTY))) {
        /*
         * The protection allows what the rights do not: a guard was taken away, or the region has write watch. Or it is
         * the first write to a clean page, whose slot is stale from now on. No fault in NT's count.
         */
        if (!pte_cas(pte, seen, pte_busy_form(seen)))
            return FAULT_AGAIN;
        if (write && !(seen.bits & PTE_DIRTY))
            page_dirty_claimed(space, pte_frame(seen));
        const uint64_t keep = PTE_AGE_MASK | PTE_LARGE | PTE_LOCKED;
        const bool dirty = write || (seen.bits & PTE_DIRTY) != 0;
        pte_t next = { (pte_make_valid(pte_frame(seen), pte_protection(seen), dirty).bits & ~keep) |
                       (seen.bits & keep) };
        if (__builtin_expect(fault_may_be_watched(fault), 0)) {
            /* Reading neither gives nor takes the right to write. */
            next = fault_watch(fault, next);
            if (!write)
                next.bits |= seen.bits & PTE_WRITE;
        }
        (void)fault_show(fault, next);
        pte_release(space->partition->waits, pte, next);
        seen = next;
    } else if (space->mapping != NULL) {
        /* Hidden by ageing, or with a neighbour. */
        const pte_t accessed = { seen.bits | PTE_ACCESSED };
        if (!pte_cas(pte, seen, pte_busy_form(seen)))
            return FAULT_AGAIN;
        const int error = fault_show(fault, accessed);
        pte_release(space->partition->waits, pte, error == 0 ? accessed : seen);
        if (error != 0)
            return fault_no_memory(fault, error);
        seen = accessed;
        fault_show_following(fault, pte);
    } else if (!(seen.bits & PTE_ACCESSED)) {
        const pte_t accessed = { seen.bits | PTE_ACCESSED };
        if (!pte_cas(pte, seen, accessed))
            return FAULT_AGAIN;
        seen = accessed;
    }
    fault->valid = seen;
    return fault->result;
}

static tide_status step(struct fault *fault)
{
    uint64_t *pte = page_table_find(&fault->space->table, fault->page);
    const pte_t seen = pte == NULL ? (pte_t){ 0 } : pte_load(pte);

    if (seen.bits == 0)
        return unknown(fault, pte);
    if (pte_is_valid(seen))
        return valid(fault, pte, seen);
    switch (pte_tag(seen)) {
    case PTE_TAG_NONE:
        return demand_zero(fault, pte, seen, NULL, pte_protection(seen));
    case PTE_TAG_TRANSITION:
        return soft(fault, pte, seen);
    case PTE_TAG_PAGE_FILE:
        return fault_hard(fault, pte, seen);
    case PTE_TAG_DECOMMITTED:
        return fault_violation(fault, "it is not committed");
    case PTE_TAG_BUSY:
        if (pte_is_being_read(seen) && !fault->collided) {
            fault->collided = true;
            fault->result = TIDE_PAGE_FAULT_TRANSITION;
            space_count(fault->space, SPACE_COLLIDED, 1);
        }
        pte_wait(fault->space->partition->waits, fault->thread, pte);
        return FAULT_AGAIN;
    default:
        ASSERT_ALWAYS(!"a private PTE has one of the private forms");
        return FAULT_AGAIN;
    }
}

static tide_status resolve(struct fault *fault)
{
    tide_status status;

    if (__builtin_expect(
            fault->page - fault->space->lowest_page > fault->space->highest_page - fault->space->lowest_page, 0))
        return fault_violation(fault, "it lies outside of the address space");
    do {
        status = step(fault);
        fault_settle(fault);
    } while (status == FAULT_AGAIN);
    return fault->guard && !tide_failed(status) ? TIDE_PAGE_FAULT_GUARD_PAGE : status;
}

tide_status fault_resolve(tide_space *space, struct grace_thread *thread, tide_address address, tide_access_kind kind,
                          pte_t *out)
{
    struct fault fault = {
        .space = space, .thread = thread, .address = address, .kind = kind, .page = address / TIDE_PAGE_BYTES
    };
    const tide_status status = resolve(&fault);

    *out = fault.valid;
    return status;
}

tide_status fault_overwrite(tide_space *space, struct grace_thread *thread, tide_address address, pte_t *out)
{
    struct fault fault = { .space = space,
                           .thread = thread,
                           .address = address,
                           .kind = TIDE_ACCESS_WRITE,
                           .page = address / TIDE_PAGE_BYTES,
                           .overwrite = true };
    const tide_status status = resolve(&fault);

    *out = fault.valid;
    return status;
}

tide_status fault_pin(tide_space *space, struct grace_thread *thread, tide_address address, tide_access_kind kind,
                      frame_t *frame)
{
    struct fault fault = {
        .space = space, .thread = thread, .address = address, .kind = kind, .page = address / TIDE_PAGE_BYTES
    };

    for (;;) {
        const tide_status status = resolve(&fault);
        if (tide_failed(status))
            return status;
        uint64_t *pte = page_table_find(&space->table, fault.page);
        /* Between resolving and claiming the page may have been trimmed; then its fault is taken again. */
        if (pte == NULL || !pte_cas(pte, fault.valid, pte_busy_form(fault.valid)))
            continue;
        *frame = pte_frame(fault.valid);
        struct pfn *pfn = frame_pfn(space_frames(space), *frame);
        uint64_t word = sync_load_64(&pfn->word);
        bool pinned = false;
        while (pfn_reference_count(word) < UINT16_MAX && !pinned)
            pinned = frame_state_cas(pfn, word, word + PFN_REFERENCE_ONE, &word);
        pte_release(space->partition->waits, pte, fault.valid);
        if (!pinned)
            return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, address,
                             "the frame of address 0x%lx has %u references; the most is %u", address,
                             pfn_reference_count(word), UINT16_MAX);
        return TIDE_SUCCESS;
    }
}

/*
 * Hard faults: reading a page back, with its neighbours (nt-behaviour 9.3).
 *
 * The faulting page's PTE is claimed, and those of neighbours, as a rule only such whose copies lie in the adjoining slots of
 * the same file; one read fills all of them, outside of the engine and without a lock. The faulting page becomes valid, the
 * neighbours go to standby. Others who fault on any of them meanwhile wait on the busy PTE: one read, however many
 * threads.
 *
 * How many neighbours. A random access should not pay for sixteen pages, a scan should. The table says which it is,
 * without any state: pages just before (or after) the faulting one that are in memory are the track of a scan. The
 * window is twice that track and one more, up to the cluster limit, so a scan reaches full clusters after a few
 * faults and a lone access reads one page.
 *
 * A scan also takes neighbours whose copies lie elsewhere, since they were written together with others
 * (workers/writer.c): the cluster is then read in parts, all at the same time.
 *
 * The frame of the faulting page is allocated before anything is claimed, so nothing is held while waiting for one;
 * the neighbours' frames are taken only if they are at hand. If the clustered read fails, the page is read alone, so
 * that a bad neighbour harms only itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "faults/fault_impl.h"

#include <string.h>

enum {
    CLUSTER_PARTS = 16, /* of one cluster, each in slots side by side */
    PARTS_TRACK = 8,    /* pages of a track that make it worth a ring: among random accesses it must hardly ever be */
    TOGETHER_LEAST = 4  /* so many pages side by side are in order */
};

struct cluster {
    uint64_t *pte; /* of the first page */
    unsigned count;
    unsigned fault; /* index of the faulting page */
    pte_t seen[STORES_CLUSTER_MAX];
    frame_t frames[STORES_CLUSTER_MAX];
};

/* Does a page-file PTE name the slot that lies `distance` from that of another, and nothing else that is different? */
static bool adjoins(pte_t seen, pte_t other, int distance)
{
    return (((seen.bits - ((uint64_t)(int64_t)distance << PTE_SLOT_SHIFT)) ^ other.bits) & ~PTE_LOST) == 0;
}

/* A neighbour may have another placement, or another turn. */
static frame_t neighbour_frame(struct fault *fault, uint64_t page, struct frames_place place)
{
    if (__builtin_expect(fault->placed, 0))
        place = fault_page_place(fault, page);
    return frames_allocate(space_frames(fault->space), place.node, fault_need(fault, FRAMES_ANY),
                           FRAMES_AT_HAND | place.flags);
}

static bool is_in_page_file(pte_t seen)
{
    return !pte_is_valid(seen) && pte_tag(seen) == PTE_TAG_PAGE_FILE;
}

/*
 * Is entry `at` one of only a few whose slots adjoin? If not, a cluster that comes up to it had better end before it:
 * the next one will have it in one piece.
 */
static bool lies_apart(const uint64_t *leaf, int at, int direction)
{
    pte_t last = pte_load(&leaf[at]);

    for (unsigned i = 1; i < TOGETHER_LEAST; i++) {
        at += direction;
        if (at < 0 || at >= TABLE_ENTRIES)
            return true;
        const pte_t seen = pte_load(&leaf[at]);
        if (!is_in_page_file(seen) || !adjoins(seen, last, direction))
            return true;
        last = seen;
    }
    return false;
}

/*
 * Claims neighbours in one direction, nearest first, and puts them behind the faulting page in the arrays: while their
 * slots adjoin, and beyond, in at most so many parts in all. Returns the count.
 */
static unsigned claim_neighbours(struct fault *fault, const uint64_t *leaf, unsigned index, pte_t faulting,
                                 int direction, unsigned most, unsigned parts, struct frames_place place, pte_t *seen,
                                 frame_t *frames)
{
    unsigned count = 0;
    pte_t last = faulting;

    while (count < most) {
        const int distance = direction * (int)(count + 1), at = (int)index + distance;

        if (at < 0 || at >= TABLE_ENTRIES)
            break;
        uint64_t *pte = (uint64_t *)&leaf[at];
        seen[count] = pte_load(pte);
        if (!is_in_page_file(seen[count]))
            break;
        if (!adjoins(seen[count], last, direction) && (--parts == 0 || !lies_apart(leaf, at, direction)))
            break;
        frames[count] = neighbour_frame(fault, fault->page + (uint64_t)(int64_t)distance, place);
        if (frame_is_none(frames[count]))
            break;
        if (!pte_cas(pte, seen[count], pte_reading_form(seen[count]))) {
            frames_give_back(space_frames(fault->space), frames[count], false);
            break;
        }
        last = seen[count++];
    }
    return count;
}

/* Everything but the faulting page's own claim. */
static void cluster_gather(struct fault *fault, uint64_t *pte, pte_t seen, frame_t frame, struct frames_place place,
                           struct cluster *cluster)
{
    uint64_t *leaf = (uint64_t *)((uintptr_t)pte & ~(uintptr_t)(TIDE_PAGE_BYTES - 1));
    const unsigned index = (unsigned)(pte - leaf);
    const unsigned limit = fault->space->partition->cluster_pages;
    const unsigned before = fault_track(fault, leaf, index, -1, limit);
    const unsigned after = before != 0 ? 0 : fault_track(fault, leaf, index, 1, limit);
    const unsigned longest = before != 0 ? before : after;
    /*
     * A neighbour that nobody wanted costs a mapped space more than its transfer: memory, and the calls that give and
     * take it. Among random accesses one page in memory beside another is chance.
     */
    const bool scan = longest >= PAGE_TRACK_LEAST;
    const bool chance = fault->space->mapping != NULL && !scan;
    const unsigned wanted = chance ? 0 : longest * 2 + 1 < limit ? longest * 2 : limit - 1;
    const int direction = before != 0 ? 1 : -1;
    const unsigned parts =
        longest >= PARTS_TRACK && stores_reads_overlap(fault->space->partition->stores) ? CLUSTER_PARTS : 1;
    pte_t neighbours_seen[STORES_CLUSTER_MAX];
    frame_t neighbours[STORES_CLUSTER_MAX];
    const unsigned count =
        claim_neighbours(fault, leaf, index, seen, direction, wanted, parts, place, neighbours_seen, neighbours);

    if (scan)
        (void)sync_add_64(&fault->space->partition->io.scan_reads, 1);
    cluster->count = count + 1;
    cluster->fault = direction > 0 ? 0 : count;
    cluster->pte = direction > 0 ? pte : pte - count;
    cluster->seen[cluster->fault] = seen;
    cluster->frames[cluster->fault] = frame;
    for (unsigned i = 0; i < count; i++) {
        const unsigned at = direction > 0 ? i + 1 : count - 1 - i;
        cluster->seen[at] = neighbours_seen[i];
        cluster->frames[at] = neighbours[i];
    }
    const unsigned priority = fault_priority(fault);
    for (unsigned i = 0; i < cluster->count; i++)
        frames_read_begin(space_frames(fault->space), cluster->frames[i], &cluster->pte[i],
                          cluster->seen[i].bits & ~PTE_PROTECTION_MASK, priority);
}

static void *cluster_memory(const struct fault *fault, const struct cluster *cluster, unsigned i)
{
    return fault_read_memory(fault->space, fault->thread, cluster->frames[i], i);
}

/* Pages of a cluster from `first` on whose copies lie side by side, of `count`. */
static unsigned part_pages(const struct cluster *cluster, unsigned first, unsigned count)
{
    unsigned pages = 1;

    while (pages < count && adjoins(cluster->seen[first + pages], cluster->seen[first + pages - 1], 1))
        pages++;
    return pages;
}

static int cluster_read(struct fault *fault, const struct cluster *cluster, unsigned first, unsigned count)
{
    _Static_assert(CLUSTER_PARTS * sizeof(struct stores_request) <= GRACE_NOTES_BYTES, "a cluster's requests");
    struct partition *partition = fault->space->partition;
    struct stores_request *requests = (struct stores_request *)(void *)fault->thread->notes;
    unsigned parts = 0;
    int error = 0;

    for (unsigned done = 0; done < count; parts++) {
        struct stores_request *request = &requests[parts];

        request->first = pte_slot(cluster->seen[first + done]);
        request->count = part_pages(cluster, first + done, count - done);
        for (unsigned i = 0; i < request->count; i++)
            request->pages[i] = (struct iovec){ cluster_memory(fault, cluster, first + done + i), TIDE_PAGE_BYTES };
        done += request->count;
    }
    sync_assert_unlocked();
    stores_read_many(partition->stores, requests, parts);
    (void)sync_add_64(&partition->io.page_reads, parts);
    for (unsigned i = 0; i < parts; i++) {
        if (requests[i].error == 0) {
            (void)sync_add_64(&partition->io.pages_input, requests[i].count);
            continue;
        }
        (void)sync_add_64(&partition->io.read_errors, 1);
        error = requests[i].error;
    }
    return error;
}

/*
 * What was read becomes pages of the mapped space: the faulting one shown, its neighbours not. `alone`: only the
 * faulting one was read. 0 or an errno value; then there is none.
 */
static int cluster_keep(struct fault *fault, const struct cluster *cluster, bool alone)
{
    struct mapping *mapping = fault->space->mapping;
    const uint64_t first = fault->page - cluster->fault;
    const unsigned before = alone ? 0 : cluster->fault;
    const unsigned after = alone ? 0 : cluster->count - 1 - cluster->fault;
    const pte_t seen = cluster->seen[cluster->fault];
    const bool writable =
        fault->kind == TIDE_ACCESS_WRITE && pte_protection_writes(pte_protection(seen)) && !fault_may_be_watched(fault);
    int error = 0;

    if (before != 0)
        error = mapping_store(mapping, first, before, cluster_memory(fault, cluster, 0));
    if (error == 0 && after != 0)
        error = mapping_store(mapping, fault->page + 1, after, cluster_memory(fault, cluster, cluster->fault + 1));
    if (error == 0)
        error = mapping_fill(mapping, fault->page, 1, cluster_memory(fault, cluster, cluster->fault), writable);
    if (error != 0)
        mapping_drop(mapping, first, cluster->count);
    return error;
}

/* The read of a page failed, or was not wanted: as if it had not been tried. */
static void page_unread(struct fault *fault, struct cluster *cluster, unsigned i)
{
    struct frames *frames = space_frames(fault->space);

    pte_release(fault->space->partition->waits, &cluster->pte[i], cluster->seen[i]);
    frames_give_back(frames, cluster->frames[i], false);
}

static void neighbour_settle(struct fault *fault, struct cluster *cluster, unsigned i)
{
    struct frames_batch lists;

    frames_batch_begin(&lists, space_frames(fault->space));
    frames_read_end(&lists, cluster->frames[i]);
    frames_batch_end(&lists);
    pte_release(fault->space->partition->waits, &cluster->pte[i],
                pte_make_transition(cluster->frames[i], pte_protection(cluster->seen[i])));
}

static void faulting_settle(struct fault *fault, struct cluster *cluster, unsigned node)
{
    struct frames *frames = space_frames(fault->space);
    const frame_t frame = cluster->frames[cluster->fault];
    struct pfn *pfn = frame_pfn(frames, frame);
    const bool write = fault->kind == TIDE_ACCESS_WRITE;
    const uint64_t word = sync_load_64(&pfn->word);

    (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, (uint64_t)-1);
    frame_state_set(pfn, (pfn_with_state(word, FRAME_ACTIVE) & ~PFN_READ_IN_PROGRESS) + PFN_SHARE_ONE);
    if (write)
        page_dirty_claimed(fault->space, frame);
    fault->valid = pte_make_valid(frame, pte_protection(cluster->seen[cluster->fault]), write);
    if (__builtin_expect(fault_may_be_watched(fault), 0))
        fault->valid = fault_watch(fault, fault->valid);
    if ((fault->valid.bits & PTE_WRITE) && write && fault_may_be_watched(fault))
        (void)fault_show(fault, fault->valid);
    pte_release(fault->space->partition->waits, &cluster->pte[cluster->fault], fault->valid);
    fault_count(fault, SPACE_HARD, frame, node);
}

tide_status fault_hard(struct fault *fault, uint64_t *pte, pte_t seen)
{
    tide_space *space = fault->space;
    const struct frames_place place = fault_place(fault);
    struct cluster cluster;
    bool alone = false;

    if (!fault_allowed(fault, pte_protection(seen)))
        return fault_refused(fault, pte, seen, NULL, pte_protection(seen));
    if (fault_admit(fault) == FAULT_AGAIN)
        return FAULT_AGAIN;
    const frame_t frame = frames_allocate(space_frames(space), place.node, fault_need(fault, FRAMES_ANY), place.flags);
    if (frame_is_none(frame))
        return fault_frame_wait(fault, place);
    if (!pte_cas(pte, seen, pte_reading_form(seen))) {
        frames_give_back(space_frames(space), frame, false);
        return FAULT_AGAIN;
    }
    cluster_gather(fault, pte, seen, frame, place, &cluster);
    grace_io_begin(fault->thread);
    int error = cluster_read(fault, &cluster, 0, cluster.count);
    if (error != 0 && cluster.count > 1) {
        error = cluster_read(fault, &cluster, cluster.fault, 1);
        alone = true;
    }
    const bool kept = error == 0 && space->mapping != NULL;
    const int no_memory = kept ? cluster_keep(fault, &cluster, alone) : 0;
    grace_io_end(fault->thread);
    for (unsigned i = 0; i < cluster.count; i++) {
        if (i == cluster.fault)
            continue;
        if (error != 0 || no_memory != 0 || alone)
            page_unread(fault, &cluster, i);
        else
            neighbour_settle(fault, &cluster, i);
    }
    if (no_memory != 0) {
        page_unread(fault, &cluster, cluster.fault);
        return fault_no_memory(fault, no_memory);
    }
    if (error != 0 && space->mapping == NULL && frames_bad_is_to_blame(space_frames(space), error)) {
        (void)frames_bad_note(space_frames(space), frame);
        page_unread(fault, &cluster, cluster.fault);
        return FAULT_AGAIN;
    }
    if (error != 0) {
        const struct stores_slot slot = pte_slot(seen);
        page_unread(fault, &cluster, cluster.fault);
        space_count(space, SPACE_IN_PAGE_ERRORS, 1);
        return error_set(TIDE_IN_PAGE_ERROR, error, fault->address,
                         "reading slot %u of page file %u for address 0x%lx: %s", slot.slot, slot.file, fault->address,
                         strerrordesc_np(error)); /* safe in a handler */
    }
    faulting_settle(fault, &cluster, place.node);
    return fault->result = TIDE_PAGE_FAULT_PAGING_FILE;
}

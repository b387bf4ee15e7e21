/*
 * What is in a working set: page by page (QueryWorkingSetEx), and added up.
 *
 * A page is read without a lock: the PTE, the frame's word, the PTE again. If the PTE did not move, the word is of the
 * frame that it named, and of that time; if it did, it is read again a few times, and then counts as not valid, as any
 * page does whose fault is being resolved.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <string.h>

/* Does more than one space know how to have pages of this use? */
static bool use_is_shareable(enum frame_use use)
{
    return (tide_use)use == TIDE_USE_MAPPED_FILE || (tide_use)use == TIDE_USE_SHAREABLE ||
           (tide_use)use == TIDE_USE_METAFILE;
}

/*
 * The frame's word of a valid PTE, or of one in transition; false if the PTE has neither form or does not keep still.
 */
static bool page_read(const struct frames *frames, const uint64_t *pte, pte_t *seen, uint64_t *word)
{
    enum { TRIES = 8 };

    for (unsigned i = 0; i < TRIES; i++) {
        *seen = pte_load(pte);
        if (!pte_is_valid(*seen) && pte_tag(*seen) != PTE_TAG_TRANSITION)
            return false;
        *word = sync_load_64(&frame_pfn(frames, pte_frame(*seen))->word);
        if (((pte_load(pte).bits ^ seen->bits) & ~(PTE_ACCESSED | PTE_AGE_MASK)) == 0)
            return true;
    }
    return false;
}

static void entry_fill(const tide_space *space, tide_working_set_entry *entry)
{
    const struct frames *frames = space_frames(space);
    const uint64_t *pte = page_table_find(&space->table, entry->address / TIDE_PAGE_BYTES);
    uint64_t word;
    pte_t seen;

    *entry = (tide_working_set_entry){ .address = entry->address };
    if (pte == NULL)
        return;
    if (!page_read(frames, pte, &seen, &word)) {
        entry->bad = !pte_is_valid(seen) && pte_tag(seen) == PTE_TAG_NONE && (seen.bits & PTE_BAD) != 0;
        return;
    }
    entry->shared = use_is_shareable(pfn_use(word));
    entry->bad = pfn_state(word) == FRAME_BAD || frames_bad_is_noted(frames, pte_frame(seen));
    if (!pte_is_valid(seen))
        return;
    entry->valid = true;
    entry->share_count = (uint8_t)(pfn_share_count(word) < 7 ? pfn_share_count(word) : 7);
    entry->protection = pte_page_protection_of(pte_protection(seen));
    entry->node = frame_node(frames, pte_frame(seen));
    entry->priority = (uint8_t)pfn_priority(word);
    entry->locked = pte_is_locked(seen);
    entry->large_page = pte_is_large(seen);
}

tide_status tide_working_set_query(tide_space *space, tide_working_set_entry *entries, size_t count)
{
    enum { TOGETHER = 64 }; /* by way of the stack: the caller's array may lie in a mapped space */
    tide_working_set_entry some[TOGETHER];
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (entries == NULL && count != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the array of %zu entries is NULL", count);
    for (size_t i = 0; i < count; i++)
        if (entries[i].address > TIDE_HIGHEST_ADDRESS)
            return error_set(TIDE_INVALID_PARAMETER, 0, entries[i].address,
                             "address 0x%lx of entry %zu lies past the highest address 0x%llx", entries[i].address, i,
                             TIDE_HIGHEST_ADDRESS);
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    for (size_t done = 0; done < count; done += TOGETHER) {
        const size_t part = count - done < TOGETHER ? count - done : TOGETHER;

        memcpy(some, &entries[done], part * sizeof *some);
        grace_enter(thread);
        for (size_t i = 0; i < part; i++)
            entry_fill(space, &some[i]);
        grace_leave(thread);
        memcpy(&entries[done], some, part * sizeof *some);
    }
    return TIDE_SUCCESS;
}

static void page_add(const struct frames *frames, const uint64_t *pte, tide_working_set_statistics *statistics)
{
    uint64_t word;
    pte_t seen = pte_load(pte);

    if (!pte_is_valid(seen) || pte_is_large(seen) || !page_read(frames, pte, &seen, &word) || !pte_is_valid(seen))
        return;
    const bool shareable = use_is_shareable(pfn_use(word));
    statistics->total_pages++;
    statistics->private_pages += !shareable;
    statistics->shareable_pages += shareable;
    statistics->shared_pages += shareable && pfn_share_count(word) > 1;
    statistics->locked_pages += pte_is_locked(seen);
    statistics->node_pages[frame_node(frames, pte_frame(seen))]++;
}

tide_status tide_working_set_statistics_get(tide_space *space, tide_working_set_statistics *statistics)
{
    const tide_status status = space_check(space);
    tide_working_set_statistics sums;
    uint64_t page = 0;

    if (tide_failed(status))
        return status;
    if (statistics == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the statistics is NULL");
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    memset(&sums, 0, sizeof sums);
    for (;;) {
        grace_enter(thread);
        const uint64_t *leaf = page_table_next_leaf(&space->table, &page, TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES);
        for (unsigned i = 0; leaf != NULL && i < TABLE_ENTRIES; i++)
            page_add(space_frames(space), &leaf[i], &sums);
        grace_leave(thread);
        if (leaf == NULL)
            break;
        page += TABLE_ENTRIES;
    }
    *statistics = sums;
    return TIDE_SUCCESS;
}

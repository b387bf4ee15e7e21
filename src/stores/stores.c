/*
 * The set of page files: creation, which file a page goes to, statistics.
 *
 * Choice of file. The file that answers first gets more (nt-behaviour 14.2 rule 3). Every file has a virtual time: what
 * writing the slots given so far costs it, at the speed measured last. Slots come from the file whose virtual time is
 * least, so each file gets work in proportion to its speed, and a file that stalls once is left alone for as long as
 * its stall was worth. A file that was full when asked has its virtual time raised to that of the file chosen instead;
 * otherwise it would get all writes for a while once it has room. Speed is pages over the time in which the file had a
 * write in flight, measured by the writers' queues (io.c); reads neither measure nor look at it.
 *
 * Threads. After creation only slot maps (own locks), virtual_ns and page_ns (atomic) change. Two threads may choose a
 * file by the same virtual time; that is off by one allocation and harmless.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/stores_impl.h"

#include "base/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert((int)STORES_CLUSTER_MAX == (int)SLOT_RUN_MAX, "a cluster is a run of slots");

enum {
    PAGE_NS_INITIAL = 2000, /* speed of a file that has not been measured */
    SPEED_WEIGHT = 4        /* a measurement counts for 1 / SPEED_WEIGHT of the estimate */
};

/* ---- creation --------------------------------------------------------------------------------------------------- */

tide_status stores_create(const struct stores_options *options, struct stores **stores)
{
    const struct page_file *opened[TIDE_MAX_PAGE_FILES];
    const unsigned count = options->file_count;
    unsigned open_count = 0;
    tide_status status;

    *stores = NULL;
    if (count > TIDE_MAX_PAGE_FILES)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "%u page files are more than %u", count, TIDE_MAX_PAGE_FILES);
    for (unsigned i = 0; i < count; i++)
        if ((status = page_file_check(&options->files[i], i)) != TIDE_SUCCESS)
            return status;

    const size_t bytes = sizeof(struct stores) + count * sizeof(struct store); /* both are whole cache lines */
    struct stores *const new = aligned_alloc(_Alignof(struct stores), bytes);
    if (new == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, ENOMEM, 0, "no memory for %u page files: %zu bytes", count,
                         bytes);
    memset(new, 0, bytes);
    new->filter = options->filter;
    new->filter_context = options->filter_context;
    new->file_count = count;
    new->disable_io_uring = options->disable_io_uring;
    for (unsigned i = 0; i < count; i++) {
        const tide_page_file_config *config = &options->files[i];
        const uint64_t maximum = config->maximum_bytes != 0 ? config->maximum_bytes : config->minimum_bytes;
        new->files[i].page_ns = PAGE_NS_INITIAL;
        status =
            slot_map_create(&new->files[i].slots, config->minimum_bytes / TIDE_PAGE_BYTES, maximum / TIDE_PAGE_BYTES);
        if (status != TIDE_SUCCESS)
            goto fail;
    }
    for (; open_count < count; open_count++) {
        struct page_file *file = &new->files[open_count].file;
        status = page_file_open(file, &options->files[open_count], opened, open_count, options->disable_direct_io);
        if (status != TIDE_SUCCESS)
            goto fail;
        opened[open_count] = file;
    }
    status = released_create(new);
    if (status != TIDE_SUCCESS)
        goto fail;
    *stores = new;
    return TIDE_SUCCESS;

fail:
    while (open_count-- > 0)
        page_file_abandon(&new->files[open_count].file);
    for (unsigned i = 0; i < count; i++)
        slot_map_destroy(&new->files[i].slots);
    free(new);
    return status;
}

void stores_destroy(struct stores *stores)
{
    if (stores == NULL)
        return;
    for (unsigned i = stores->file_count; i-- > 0;) {
        page_file_remove(&stores->files[i].file);
        slot_map_destroy(&stores->files[i].slots);
    }
    released_destroy(stores);
    free(stores);
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

unsigned stores_file_count(const struct stores *stores)
{
    return stores->file_count;
}

uint64_t stores_capacity_pages(const struct stores *stores)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < stores->file_count; i++)
        pages += stores->files[i].slots.limit - 1;
    return pages;
}

void stores_statistics_get(struct stores *stores, struct stores_statistics *statistics)
{
    stores_released_flush(stores);
    *statistics = (struct stores_statistics){ .total_slots = stores_capacity_pages(stores) };
    for (unsigned i = 0; i < stores->file_count; i++) {
        uint64_t used, bad;
        slot_map_count(&stores->files[i].slots, &used, &bad);
        statistics->used_slots += used;
        statistics->bad_slots += bad;
        statistics->peak_used_slots += slot_map_peak(&stores->files[i].slots);
    }
}

/* ---- slots ------------------------------------------------------------------------------------------------------ */

void stores_speed_note(struct stores *stores, unsigned file, uint64_t pages, uint64_t busy_ns)
{
    uint64_t *const page_ns = &stores->files[file].page_ns;
    const uint64_t old = sync_load_relaxed_64(page_ns), measured = busy_ns / pages;
    const uint64_t new = (old * (SPEED_WEIGHT - 1) + measured) / SPEED_WEIGHT;

    /* Two writers at once: one measurement is lost. */
    sync_store_relaxed_64(page_ns, new != 0 ? new : 1);
}

static void raise_virtual_time(struct store *file, uint64_t least)
{
    uint64_t now = sync_load_relaxed_64(&file->virtual_ns);

    while (now < least && !sync_cas_value_64(&file->virtual_ns, now, least, &now))
        sync_pause();
}

/* The file with the least virtual time that is not in `full`; file_count if there is none. */
static unsigned choose_file(const struct stores *stores, uint32_t full)
{
    unsigned best = stores->file_count;
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < stores->file_count; i++) {
        if ((full & 1u << i) != 0)
            continue;
        const uint64_t time = sync_load_relaxed_64(&stores->files[i].virtual_ns);
        if (time < least) {
            least = time;
            best = i;
        }
    }
    return best;
}

unsigned stores_slots_allocate(struct stores *stores, unsigned wanted, struct stores_slot *first)
{
    uint32_t full = 0;
    bool flushed = false;

    ASSERT_ALWAYS(wanted >= 1);
    if (wanted > STORES_CLUSTER_MAX)
        wanted = STORES_CLUSTER_MAX;
    for (;;) {
        const unsigned file = choose_file(stores, full);
        if (file == stores->file_count) {
            if (flushed)
                return 0;
            /* What is on its way back may be room enough. */
            stores_released_flush(stores);
            flushed = true;
            full = 0;
            continue;
        }
        struct store *const store = &stores->files[file];
        const unsigned count = slot_map_allocate(&store->slots, wanted, &first->slot);
        if (count == 0) {
            full |= 1u << file;
            continue;
        }
        first->file = file;
        const uint64_t cost = count * sync_load_relaxed_64(&store->page_ns);
        const uint64_t time = sync_add_64(&store->virtual_ns, cost) + cost;
        for (unsigned i = 0; full != 0; i++, full >>= 1)
            if ((full & 1) != 0)
                raise_virtual_time(&stores->files[i], time);
        return count;
    }
}

static struct slot_map *map_of(struct stores *stores, struct stores_slot slot)
{
    ASSERT_ALWAYS(slot.file < stores->file_count);
    return &stores->files[slot.file].slots;
}

void stores_slot_to_map(struct stores *stores, struct stores_slot slot)
{
    slot_map_release(map_of(stores, slot), slot.slot);
}

void stores_slot_mark_bad(struct stores *stores, struct stores_slot slot)
{
    slot_map_mark_bad(map_of(stores, slot), slot.slot);
}

bool stores_slot_allocated(struct stores *stores, struct stores_slot slot)
{
    return slot.file < stores->file_count && slot_map_allocated(&stores->files[slot.file].slots, slot.slot);
}

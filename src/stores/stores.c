/*
 * The set of page files: creation, which file a page goes to, growing and shrinking, statistics.
 *
 * Choice of file. The file that answers first gets more (nt-behaviour 14.2 rule 3). Every file has a virtual time: what
 * writing the slots given so far costs it, at the speed measured last. Slots come from the file whose virtual time is
 * least, so each file gets work in proportion to its speed, and a file that stalls once is left alone for as long as
 * its stall was worth. A file that was full when asked has its virtual time raised to that of the file chosen instead;
 * otherwise it would get all writes for a while once it has room. Speed is pages over the time in which the file had a
 * write in flight, measured by the writers' queues (io.c); reads neither measure nor look at it. A file that fails
 * altogether would seem fast, since it costs no time: it counts as twice as slow as the slowest each time, and loses
 * its turn, so it is tried less and less, and is as fast as it is soon after it works again.
 *
 * Windows. A window's block begins at a multiple of its size in the slots, and page i of the window lies in slot i of
 * the block. So the slot of any page says where the block is, and where a neighbour belongs, without a word about it
 * anywhere else. A page that joins its window does not choose a file; the file pays for it in virtual time all the
 * same. A slot that does not lie in its block (given when no block was free) also shows where its neighbours would
 * adjoin; there only slots that nobody reserved are taken.
 *
 * Size. Growing: space on disk, then slots. Shrinking: slots, then space on disk. In between the file is larger than
 * its map says, which nobody notices.
 *
 * Threads. After creation only slot maps (own locks), virtual_ns, page_ns and the counters (atomic) change, and the
 * size of the files by one thread at a time. Two threads may choose a file by the same virtual time; that is off by one
 * allocation and harmless.
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
    PAGE_NS_FAILED_MAX = 10000000, /* a file that fails is not taken for slower than this */
    PAGE_NS_INITIAL = 2000,        /* speed of a file that has not been measured */
    SPEED_WEIGHT = 4,              /* a measurement counts for 1 / SPEED_WEIGHT of the estimate */
    WINDOW_PAGES = 16              /* if the options do not say */
};

/* Slots of a block: the least power of two that a window fits into. */
static unsigned block_slots(unsigned window_pages)
{
    unsigned slots = 1;

    while (slots < window_pages)
        slots *= 2;
    return slots;
}

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
    new->window_pages = options->window_pages == 0 ? WINDOW_PAGES : options->window_pages;
    ASSERT_ALWAYS(new->window_pages <= STORES_CLUSTER_MAX);
    for (unsigned i = 0; i < count; i++) {
        const tide_page_file_config *config = &options->files[i];
        const uint64_t maximum = config->maximum_bytes != 0 ? config->maximum_bytes : config->minimum_bytes;
        struct store *store = &new->files[i];
        store->page_ns = PAGE_NS_INITIAL;
        store->minimum = config->minimum_bytes / TIDE_PAGE_BYTES;
        store->maximum = maximum / TIDE_PAGE_BYTES;
        status = slot_map_create(&store->slots, store->minimum, store->maximum, block_slots(new->window_pages));
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
    if (status == TIDE_SUCCESS)
        status = rings_create(new);
    if (status != TIDE_SUCCESS)
        goto fail;
    *stores = new;
    return TIDE_SUCCESS;

fail:
    while (open_count-- > 0)
        page_file_abandon(&new->files[open_count].file);
    for (unsigned i = 0; i < count; i++)
        slot_map_destroy(&new->files[i].slots);
    rings_destroy(new);
    released_destroy(new);
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
    rings_destroy(stores);
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
        pages += slot_map_limit(&stores->files[i].slots) - 1;
    return pages;
}

uint64_t stores_maximum_pages(const struct stores *stores)
{
    uint64_t pages = 0;

    for (unsigned i = 0; i < stores->file_count; i++)
        pages += stores->files[i].maximum - 1;
    return pages;
}

void stores_statistics_get(struct stores *stores, struct stores_statistics *statistics)
{
    stores_released_flush(stores);
    *statistics = (struct stores_statistics){ .total_slots = stores_capacity_pages(stores) };
    for (unsigned i = 0; i < stores->file_count; i++) {
        uint64_t used, bad, reserved;
        slot_map_count(&stores->files[i].slots, &used, &bad, &reserved);
        statistics->used_slots += used;
        statistics->reserved_slots += reserved;
        statistics->bad_slots += bad;
        statistics->peak_used_slots += slot_map_peak(&stores->files[i].slots);
    }
}

void stores_file_statistics_get(struct stores *stores, unsigned file, struct stores_file_statistics *statistics)
{
    ASSERT_ALWAYS(file < stores->file_count);
    struct store *const store = &stores->files[file];

    stores_released_flush(stores);
    *statistics = (struct stores_file_statistics){
        .peak_used_slots = slot_map_peak(&store->slots),
        .reads = sync_load_relaxed_64(&store->io.reads),
        .writes = sync_load_relaxed_64(&store->io.writes),
        .pages_input = sync_load_relaxed_64(&store->io.pages_input),
        .pages_output = sync_load_relaxed_64(&store->io.pages_output),
    };
    stores_file_size(stores, file, statistics);
    slot_map_count(&store->slots, &statistics->used_slots, &statistics->bad_slots, &statistics->reserved_slots);
}

void stores_file_size(const struct stores *stores, unsigned file, struct stores_file_statistics *statistics)
{
    ASSERT_ALWAYS(file < stores->file_count);
    const struct store *const store = &stores->files[file];

    statistics->slots = slot_map_limit(&store->slots) - 1;
    statistics->minimum_slots = store->minimum - 1;
    statistics->maximum_slots = store->maximum - 1;
}

bool stores_check(struct stores *stores)
{
    bool right = true;

    for (unsigned i = 0; i < stores->file_count; i++)
        right = right && slot_map_check(&stores->files[i].slots);
    return right;
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

void stores_failure_note(struct stores *stores, unsigned file)
{
    uint64_t slowest = 0, latest = 0;

    for (unsigned i = 0; i < stores->file_count; i++) {
        const uint64_t page_ns = sync_load_relaxed_64(&stores->files[i].page_ns);
        const uint64_t time = sync_load_relaxed_64(&stores->files[i].virtual_ns);
        slowest = page_ns > slowest ? page_ns : slowest;
        latest = time > latest ? time : latest;
    }
    const uint64_t slower = slowest * 2 < PAGE_NS_FAILED_MAX ? slowest * 2 : PAGE_NS_FAILED_MAX;
    if (sync_load_relaxed_64(&stores->files[file].page_ns) < slower)
        sync_store_relaxed_64(&stores->files[file].page_ns, slower);
    raise_virtual_time(&stores->files[file], latest + slowest);
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

/*
 * `count` slots of a file were given out; it pays for them. Files that were full when asked are not to make up for it
 * later.
 */
static void charge_file(struct stores *stores, unsigned file, unsigned count, uint32_t full)
{
    struct store *const store = &stores->files[file];
    const uint64_t cost = count * sync_load_relaxed_64(&store->page_ns);
    const uint64_t time = sync_add_64(&store->virtual_ns, cost) + cost;

    for (unsigned i = 0; full != 0; i++, full >>= 1)
        if ((full & 1) != 0)
            raise_virtual_time(&stores->files[i], time);
}

/* Slots of one file; `position` is that of the first page in its window, or NO_WINDOW. */
enum { NO_WINDOW = STORES_CLUSTER_MAX };

static unsigned allocate_in(struct stores *stores, unsigned file, unsigned position, unsigned wanted,
                            enum slot_need need, uint32_t *first)
{
    struct slot_map *const slots = &stores->files[file].slots;

    if (position != NO_WINDOW && need == SLOT_KEEP &&
        slot_map_allocate_block(slots, stores->window_pages, position, wanted, first))
        return wanted;
    return slot_map_allocate(slots, wanted, need, first);
}

static unsigned allocate(struct stores *stores, unsigned position, unsigned wanted, uint32_t closed,
                         struct stores_slot *first)
{
    /* What is on its way back may be room enough; at last what is reserved. */
    enum { PLAIN, FLUSHED, DROP, ATTEMPTS };

    for (unsigned attempt = PLAIN; attempt < ATTEMPTS; attempt++) {
        uint32_t full = 0;
        unsigned file;

        if (attempt == FLUSHED)
            stores_released_flush(stores);
        while ((file = choose_file(stores, full | closed)) != stores->file_count) {
            const unsigned count =
                allocate_in(stores, file, position, wanted, attempt == DROP ? SLOT_DROP : SLOT_KEEP, &first->slot);
            if (count != 0) {
                first->file = file;
                charge_file(stores, file, count, full);
                return count;
            }
            full |= 1u << file;
        }
    }
    return 0;
}

unsigned stores_slots_allocate(struct stores *stores, unsigned wanted, uint32_t closed, struct stores_slot *first)
{
    ASSERT_ALWAYS(wanted >= 1);
    return allocate(stores, NO_WINDOW, wanted < STORES_CLUSTER_MAX ? wanted : STORES_CLUSTER_MAX, closed, first);
}

unsigned stores_window_allocate(struct stores *stores, unsigned position, unsigned wanted, uint32_t closed,
                                struct stores_slot *first)
{
    ASSERT_ALWAYS(wanted >= 1 && position + wanted <= stores->window_pages);
    return allocate(stores, stores->window_pages == 1 ? NO_WINDOW : position, wanted, closed, first);
}

unsigned stores_window_join(struct stores *stores, unsigned position, unsigned wanted, struct stores_slot neighbour,
                            int distance, uint32_t closed, struct stores_slot *first)
{
    const int64_t slot = (int64_t)neighbour.slot - distance;

    ASSERT_ALWAYS(wanted >= 1 && position + wanted <= stores->window_pages);
    if (neighbour.file >= stores->file_count || (closed & 1u << neighbour.file) != 0 || neighbour.slot == 0 ||
        slot <= 0 || slot > UINT32_MAX)
        return 0;
    struct slot_map *const slots = &stores->files[neighbour.file].slots;
    const bool in_block = slot >= position && (slot - position) % slots->block == 0;
    const unsigned count = slot_map_take_exact(slots, (uint32_t)slot, wanted, in_block ? SLOT_DROP : SLOT_KEEP);
    if (count != 0) {
        *first = (struct stores_slot){ neighbour.file, (uint32_t)slot };
        charge_file(stores, neighbour.file, count, 0);
    }
    return count;
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

/* ---- size ------------------------------------------------------------------------------------------------------- */

tide_status stores_file_grow(struct stores *stores, unsigned file, uint64_t pages)
{
    ASSERT_ALWAYS(file < stores->file_count);
    struct store *const store = &stores->files[file];
    const uint64_t limit = slot_map_limit(&store->slots) + pages;

    ASSERT_ALWAYS(limit <= store->maximum);
    sync_assert_unlocked();
    const tide_status status = page_file_grow(&store->file, limit * TIDE_PAGE_BYTES);
    if (status == TIDE_SUCCESS)
        slot_map_grow(&store->slots, limit);
    return status;
}

/* What the file would be without `most` slots. */
static uint64_t least_limit(const struct store *store, uint64_t most)
{
    const uint64_t limit = slot_map_limit(&store->slots);

    return limit - store->minimum > most ? limit - most : store->minimum;
}

uint64_t stores_file_tail(struct stores *stores, unsigned file, uint64_t most, uint64_t *bad)
{
    ASSERT_ALWAYS(file < stores->file_count);
    stores_released_flush(stores);
    return slot_map_tail(&stores->files[file].slots, least_limit(&stores->files[file], most), bad);
}

uint64_t stores_file_cut(struct stores *stores, unsigned file, uint64_t most, uint64_t *bad)
{
    ASSERT_ALWAYS(file < stores->file_count);
    struct store *const store = &stores->files[file];

    sync_assert_unlocked();
    const uint64_t pages = slot_map_shrink(&store->slots, least_limit(store, most), bad);
    if (pages != 0)
        page_file_shrink(&store->file, slot_map_limit(&store->slots) * TIDE_PAGE_BYTES);
    return pages;
}

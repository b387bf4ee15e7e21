/*
 * Low and high memory, and memory errors (nt-behaviour 17): the conditions over the pages of all nodes.
 *
 * Evaluated where thresholds are looked at anyway, and where pages come back; never on a fault that finds its frame in
 * the CPU's cache. The sum stops as soon as it reaches the high threshold, which with memory to spare it does on the
 * first node, from its zeroed and free lists. Frames that the zero-page thread has taken off the free list are counted
 * too: it can have all of them for a moment, and that is no shortage. Other pages that move from list to list during
 * the sum may be counted twice or not at all; whoever moved them, or the next look-around, sees the sum when they have
 * come to rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "frames/frames_impl.h"

#include "base/os.h"

#define MIB_PAGES (1048576u / TIDE_PAGE_BYTES)
#define GIB_PAGES (1024u * MIB_PAGES)

/*
 * NT's formula: 4 MB for each 128 MB up to 1 GB, then a 128th of the rest, 64 MB at most. Below 128 MB NT has a
 * constant; here the same 1/32 goes on, so that a small engine gets a threshold that fits it.
 */
static uint64_t low_default(uint64_t total)
{
    const uint64_t most = 64 * MIB_PAGES;
    const uint64_t low = total <= GIB_PAGES ? total / 32 : GIB_PAGES / 32 + (total - GIB_PAGES) / 128;

    return low < 1 ? 1 : low > most ? most : low;
}

tide_status frames_events_init(struct frames *frames, const tide_config *config)
{
    struct frames_events *events = &frames->events;

    if (config->low_memory_event_pages > frames->total || config->high_memory_event_pages > frames->total)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "low_memory_event_pages %lu, high_memory_event_pages %lu; the engine has %lu frames",
                         config->low_memory_event_pages, config->high_memory_event_pages, frames->total);
    events->low_pages =
        config->low_memory_event_pages != 0 ? config->low_memory_event_pages : low_default(frames->total);
    events->high_pages = 3 * events->low_pages < frames->total ? 3 * events->low_pages : frames->total;
    if (config->high_memory_event_pages == 0)
        return TIDE_SUCCESS;
    if (config->high_memory_event_pages < events->low_pages)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "high_memory_event_pages %lu is below the low threshold of %lu pages",
                         config->high_memory_event_pages, events->low_pages);
    events->high_pages = config->high_memory_event_pages;
    return TIDE_SUCCESS;
}

void frames_events_destroy(struct frames *frames)
{
    notifications_destroy(&frames->events.notifications);
}

/* The available pages of all nodes, or some number from `enough` on. From the caller's node on. */
static uint64_t available_up_to(const struct frames *frames, uint64_t enough)
{
    const unsigned first = topology_cpu_node(frames->topology, os_cpu_current());
    uint64_t sum = 0;

    for (unsigned i = 0; i < frames->node_count && sum < enough; i++) {
        const unsigned n = (first + i) % frames->node_count;
        sum += frames_list_count(frames, n, FRAME_LIST_ZEROED) + frames_list_count(frames, n, FRAME_LIST_FREE) +
               sync_load_relaxed_64(&frames->nodes[n].zeroing);
    }
    if (sum >= enough)
        return sum;
    sum = 0;
    for (unsigned n = 0; n < frames->node_count && sum < enough; n++)
        sum += frames_available(frames, n) + sync_load_relaxed_64(&frames->nodes[n].zeroing);
    return sum;
}

static uint32_t evaluate(void *context)
{
    const struct frames *frames = context;
    const uint64_t available = available_up_to(frames, frames->events.high_pages);

    const bool errors = sync_load_64(&frames->bad.listed) + sync_load_32(&frames->bad.pending) != 0;
    const uint32_t memory = available >= frames->events.high_pages ? 1u << FRAMES_EVENT_HIGH
                            : available < frames->events.low_pages ? 1u << FRAMES_EVENT_LOW
                                                                   : 0;

    return memory | (errors ? 1u << FRAMES_EVENT_ERRORS : 0);
}

uint32_t frames_events_update(struct frames *frames)
{
    return notifications_update(&frames->events.notifications, evaluate, frames);
}

void frames_events_look(struct frames *frames)
{
    if (notifications_watched(&frames->events.notifications))
        notifications_look(&frames->events.notifications, evaluate, frames);
}

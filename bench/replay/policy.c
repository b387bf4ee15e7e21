/*
 * LRU and Belady's optimum on a trace.
 *
 * LRU keeps the resident pages in a doubly linked list by last use: O(1) per access. Belady's optimum evicts the page
 * whose next use is farthest: next uses come from one pass backwards, and the resident pages stand in a heap with the
 * farthest on top: O(log frames) per access.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "policy.h"

#include <stdlib.h>

double policy_hit_share(const struct policy_result *result)
{
    const uint64_t all = result->hits + result->cold + result->misses;

    return all == 0 ? 0.0 : (double)result->hits / (double)all;
}

enum page_state { PAGE_UNSEEN = 0, PAGE_RESIDENT, PAGE_EVICTED };

/* Counts an access to a page in the given state. */
static void count(struct policy_result *result, enum page_state state)
{
    result->hits += state == PAGE_RESIDENT;
    result->cold += state == PAGE_UNSEEN;
    result->misses += state == PAGE_EVICTED;
}

/* ---- LRU -------------------------------------------------------------------------------------------------------- */

/* A ring through all resident pages and a sentinel: after it the page used last, before it the one used longest ago. */
struct lru_link {
    uint32_t before, after;
};

static void lru_remove(struct lru_link *links, uint32_t page)
{
    links[links[page].before].after = links[page].after;
    links[links[page].after].before = links[page].before;
}

static void lru_insert_first(struct lru_link *links, uint32_t sentinel, uint32_t page)
{
    const uint32_t first = links[sentinel].after;

    links[page] = (struct lru_link){ .before = sentinel, .after = first };
    links[first].before = page;
    links[sentinel].after = page;
}

bool policy_lru(const struct trace *trace, uint32_t frames, struct policy_result *result)
{
    const uint32_t sentinel = trace->page_count;
    struct lru_link *links = malloc(((size_t)trace->page_count + 1) * sizeof *links);
    uint8_t *states = calloc((size_t)trace->page_count + 1, 1);
    uint32_t resident = 0;
    const bool ok = links != NULL && states != NULL;

    *result = (struct policy_result){ 0 };
    if (ok) {
        links[sentinel] = (struct lru_link){ sentinel, sentinel };
        for (uint64_t i = 0; i < trace->access_count; i++) {
            const uint32_t page = trace_access_page(trace->accesses[i]);
            count(result, states[page]);
            if (states[page] == PAGE_RESIDENT) {
                lru_remove(links, page);
            } else if (resident == frames) {
                const uint32_t victim = links[sentinel].before;
                lru_remove(links, victim);
                states[victim] = PAGE_EVICTED;
            } else {
                resident++;
            }
            lru_insert_first(links, sentinel, page);
            states[page] = PAGE_RESIDENT;
        }
    }
    free(states);
    free(links);
    return ok;
}

/* ---- Belady's optimum ------------------------------------------------------------------------------------------- */

enum { NEVER = UINT32_MAX };

/* Resident pages as a binary heap, farthest next use on top. */
struct heap {
    uint32_t *pages;    /* by heap position */
    uint32_t *position; /* by page */
    uint32_t *next_use; /* by page: index of the next access, or NEVER */
    uint32_t count;
};

static void heap_place(struct heap *heap, uint32_t at, uint32_t page)
{
    heap->pages[at] = page;
    heap->position[page] = at;
}

/* Moves the page at a position to where its next use belongs. */
static void heap_settle(struct heap *heap, uint32_t at)
{
    const uint32_t page = heap->pages[at], use = heap->next_use[page];

    while (at > 0 && heap->next_use[heap->pages[(at - 1) / 2]] < use) {
        heap_place(heap, at, heap->pages[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (uint32_t child = 2 * at + 1; child < heap->count; child = 2 * at + 1) {
        if (child + 1 < heap->count && heap->next_use[heap->pages[child + 1]] > heap->next_use[heap->pages[child]])
            child++;
        if (heap->next_use[heap->pages[child]] <= use)
            break;
        heap_place(heap, at, heap->pages[child]);
        at = child;
    }
    heap_place(heap, at, page);
}

/* next[i] becomes the index of the next access to the page of access i. `last` is scratch, one per page. */
static void find_next_uses(const struct trace *trace, uint32_t *next, uint32_t *last)
{
    for (uint32_t page = 0; page < trace->page_count; page++)
        last[page] = NEVER;
    for (uint64_t i = trace->access_count; i-- > 0;) {
        const uint32_t page = trace_access_page(trace->accesses[i]);
        next[i] = last[page];
        last[page] = (uint32_t)i;
    }
}

bool policy_belady(const struct trace *trace, uint32_t frames, struct policy_result *result)
{
    const size_t pages = (size_t)trace->page_count + 1;
    struct heap heap = {
        .pages = malloc(pages * sizeof(uint32_t)),
        .position = malloc(pages * sizeof(uint32_t)),
        .next_use = malloc(pages * sizeof(uint32_t)),
    };
    uint32_t *next = malloc((trace->access_count + 1) * sizeof *next);
    uint8_t *states = calloc(pages, 1);
    const bool ok =
        heap.pages != NULL && heap.position != NULL && heap.next_use != NULL && next != NULL && states != NULL;

    *result = (struct policy_result){ 0 };
    if (ok) {
        find_next_uses(trace, next, heap.next_use);
        for (uint64_t i = 0; i < trace->access_count; i++) {
            const uint32_t page = trace_access_page(trace->accesses[i]);
            count(result, states[page]);
            heap.next_use[page] = next[i];
            if (states[page] == PAGE_RESIDENT) {
                heap_settle(&heap, heap.position[page]);
                continue;
            }
            if (heap.count == frames) {
                states[heap.pages[0]] = PAGE_EVICTED;
                heap_place(&heap, 0, page);
                heap_settle(&heap, 0);
            } else {
                heap_place(&heap, heap.count++, page);
                heap_settle(&heap, heap.count - 1);
            }
            states[page] = PAGE_RESIDENT;
        }
    }
    free(states);
    free(next);
    free(heap.next_use);
    free(heap.position);
    free(heap.pages);
    return ok;
}

/*
 * The model: see model.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "model.h"

#include <stdlib.h>
#include <string.h>

static const uint64_t lowest_page = TIDE_LOWEST_ADDRESS / TIDE_PAGE_BYTES;
static const uint64_t highest_page = TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES;

static struct model_region *region_find(const struct model_space *space, uint64_t page)
{
    for (unsigned i = 0; i < space->region_count; i++) {
        const struct model_region *region = &space->regions[i];
        if (page >= region->first && page < region->first + region->count)
            return (struct model_region *)region;
    }
    return NULL;
}

static bool range_free(const struct model_space *space, uint64_t first, uint64_t count)
{
    for (unsigned i = 0; i < space->region_count; i++) {
        const struct model_region *region = &space->regions[i];
        if (first < region->first + region->count && region->first < first + count)
            return false;
    }
    return true;
}

struct model_page *model_page_find(const struct model_space *space, tide_address address)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;
    const struct model_region *region = region_find(space, page);
    return region == NULL ? NULL : &region->pages[page - region->first];
}

/*
 * Lowest or highest multiple of 64 KiB with `count` free pages: only just after the start, or just around a region, can
 * it be.
 */
static uint64_t place_region(const struct model_space *space, uint64_t count, bool top_down)
{
    uint64_t best = 0;
    for (int i = -1; i < (int)space->region_count; i++) {
        uint64_t candidate;
        if (top_down) {
            const uint64_t end = i < 0 ? highest_page + 1 : space->regions[i].first;
            candidate = end < count ? 0 : (end - count) / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES;
        } else {
            const uint64_t start = i < 0 ? lowest_page : space->regions[i].first + space->regions[i].count;
            candidate = (start + MODEL_UNIT_PAGES - 1) / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES;
        }
        if (candidate < lowest_page || candidate + count - 1 > highest_page || !range_free(space, candidate, count))
            continue;
        if (best == 0 || (top_down ? candidate > best : candidate < best))
            best = candidate;
    }
    return best;
}

static bool protection_legal(uint32_t protection)
{
    switch (protection) {
    case TIDE_PAGE_NOACCESS:
    case TIDE_PAGE_READONLY:
    case TIDE_PAGE_READWRITE:
    case TIDE_PAGE_EXECUTE:
    case TIDE_PAGE_EXECUTE_READ:
    case TIDE_PAGE_EXECUTE_READWRITE:
        return true;
    default:
        return false;
    }
}

static uint64_t uncommitted(const struct model_region *region, uint64_t first, uint64_t count)
{
    uint64_t need = 0;
    for (uint64_t i = 0; i < count; i++)
        need += !region->pages[first - region->first + i].committed;
    return need;
}

static void commit_pages(struct model *model, struct model_space *space, struct model_region *region, uint64_t first,
                         uint64_t count, uint32_t protection)
{
    for (uint64_t i = 0; i < count; i++) {
        struct model_page *page = &region->pages[first - region->first + i];
        if (!page->committed) {
            *page = (struct model_page){ .committed = true, .incarnation = ++model->incarnations };
            space->committed++;
            model->charge++;
        }
        page->protection = protection;
    }
}

static void decommit_pages(struct model *model, struct model_space *space, struct model_region *region, uint64_t first,
                           uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct model_page *page = &region->pages[first - region->first + i];
        if (page->committed) {
            space->committed--;
            model->charge--;
        }
        free(page->data);
        *page = (struct model_page){ 0 };
    }
}

static struct model_region *region_insert(struct model_space *space, uint64_t first, uint64_t count,
                                          uint32_t protection)
{
    unsigned at = 0;
    while (at < space->region_count && space->regions[at].first < first)
        at++;
    memmove(&space->regions[at + 1], &space->regions[at], (space->region_count - at) * sizeof(space->regions[0]));
    space->regions[at] = (struct model_region){
        .first = first, .count = count, .protection = protection, .pages = calloc(count, sizeof(struct model_page))
    };
    space->region_count++;
    return &space->regions[at];
}

/* Pages of [address, address + bytes), rounded outwards. */
static void page_range(tide_address address, uint64_t bytes, uint64_t *first, uint64_t *count)
{
    *first = address / TIDE_PAGE_BYTES;
    *count = (address + bytes - 1) / TIDE_PAGE_BYTES - *first + 1;
}

uint64_t model_alloc_need(const struct model_space *space, tide_address base, uint64_t bytes, uint32_t type)
{
    uint64_t first, count;
    if ((type & TIDE_MEM_COMMIT) == 0)
        return 0;
    if (base == 0)
        return (bytes + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES;
    if ((type & TIDE_MEM_RESERVE) != 0) {
        const tide_address unit = base / TIDE_ALLOCATION_GRANULARITY_BYTES * TIDE_ALLOCATION_GRANULARITY_BYTES;
        page_range(unit, base + bytes - unit, &first, &count);
        return range_free(space, first, count) ? count : 0;
    }
    page_range(base, bytes, &first, &count);
    const struct model_region *region = region_find(space, first);
    if (region == NULL || first + count > region->first + region->count)
        return 0;
    return uncommitted(region, first, count);
}

tide_status model_virtual_alloc(struct model *model, struct model_space *space, tide_address *base, uint64_t *bytes,
                                uint32_t type, uint32_t protection)
{
    const bool reserve = (type & TIDE_MEM_RESERVE) != 0 || *base == 0;
    const bool commit = (type & TIDE_MEM_COMMIT) != 0;
    uint64_t first, count;

    if ((type & (TIDE_MEM_RESERVE | TIDE_MEM_COMMIT)) == 0 ||
        (type & ~(TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_TOP_DOWN)) != 0)
        return TIDE_INVALID_PARAMETER;
    if (!protection_legal(protection))
        return TIDE_INVALID_PAGE_PROTECTION;
    if (*bytes == 0 || *base > TIDE_HIGHEST_ADDRESS || *bytes > TIDE_HIGHEST_ADDRESS - *base + 1)
        return TIDE_INVALID_PARAMETER;

    struct model_region *region = NULL;
    if (!reserve) {
        page_range(*base, *bytes, &first, &count);
        region = region_find(space, first);
        if (region == NULL || first + count > region->first + region->count)
            return TIDE_CONFLICTING_ADDRESSES;
    } else if (*base != 0) {
        const tide_address unit = *base / TIDE_ALLOCATION_GRANULARITY_BYTES * TIDE_ALLOCATION_GRANULARITY_BYTES;
        page_range(unit, *base + *bytes - unit, &first, &count);
        if (!range_free(space, first, count))
            return TIDE_CONFLICTING_ADDRESSES;
    } else {
        count = (*bytes + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES;
        first = place_region(space, count, (type & TIDE_MEM_TOP_DOWN) != 0);
        if (first == 0)
            return TIDE_NO_MEMORY;
    }
    if (commit && (region == NULL ? count : uncommitted(region, first, count)) > model->limit - model->charge)
        return TIDE_COMMITMENT_LIMIT;
    if (region == NULL)
        region = region_insert(space, first, count, protection);
    if (commit)
        commit_pages(model, space, region, first, count, protection);
    *base = first * TIDE_PAGE_BYTES;
    *bytes = count * TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

static void region_release(struct model *model, struct model_space *space, struct model_region *region)
{
    decommit_pages(model, space, region, region->first, region->count);
    free(region->pages);
    space->region_count--;
    memmove(region, region + 1, (size_t)((char *)&space->regions[space->region_count] - (char *)region));
}

tide_status model_virtual_free(struct model *model, struct model_space *space, tide_address base, uint64_t bytes,
                               uint32_t type)
{
    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE)
        return TIDE_INVALID_PARAMETER;
    if (type == TIDE_MEM_RELEASE && bytes != 0)
        return TIDE_INVALID_PARAMETER;
    struct model_region *region = region_find(space, base / TIDE_PAGE_BYTES);
    if (region == NULL)
        return TIDE_MEMORY_NOT_ALLOCATED;
    uint64_t first = region->first, count = region->count;
    if (bytes == 0) {
        if (base / TIDE_PAGE_BYTES != region->first)
            return TIDE_FREE_VM_NOT_AT_BASE;
    } else {
        page_range(base, bytes, &first, &count);
        if (first + count > region->first + region->count)
            return TIDE_UNABLE_TO_FREE_VM;
    }
    if (type == TIDE_MEM_DECOMMIT)
        decommit_pages(model, space, region, first, count);
    else
        region_release(model, space, region);
    return TIDE_SUCCESS;
}

tide_status model_virtual_query(const struct model_space *space, tide_address address, tide_region *answer)
{
    if (address > TIDE_HIGHEST_ADDRESS)
        return TIDE_INVALID_PARAMETER;
    const uint64_t page = address / TIDE_PAGE_BYTES;
    *answer = (tide_region){ .base = page * TIDE_PAGE_BYTES, .state = TIDE_MEM_FREE };
    const struct model_region *region = region_find(space, page);
    if (region == NULL) {
        uint64_t end = highest_page + 1;
        for (unsigned i = 0; i < space->region_count; i++) {
            if (space->regions[i].first > page && space->regions[i].first < end)
                end = space->regions[i].first;
        }
        answer->bytes = (end - page) * TIDE_PAGE_BYTES;
        return TIDE_SUCCESS;
    }
    const uint64_t index = page - region->first;
    const struct model_page *start = &region->pages[index];
    uint64_t count = 1;
    while (index + count < region->count && start[count].committed == start->committed &&
           start[count].protection == start->protection)
        count++;
    answer->allocation_base = region->first * TIDE_PAGE_BYTES;
    answer->allocation_protection = region->protection;
    answer->bytes = count * TIDE_PAGE_BYTES;
    answer->state = start->committed ? TIDE_MEM_COMMIT : TIDE_MEM_RESERVE;
    answer->protection = start->protection;
    answer->type = TIDE_MEM_PRIVATE;
    return TIDE_SUCCESS;
}

static bool page_accessible(const struct model_page *page, tide_access_kind kind)
{
    if (page == NULL || !page->committed)
        return false;
    switch (page->protection) {
    case TIDE_PAGE_READWRITE:
    case TIDE_PAGE_EXECUTE_READWRITE:
        return true;
    case TIDE_PAGE_READONLY:
    case TIDE_PAGE_EXECUTE_READ:
        return kind == TIDE_ACCESS_READ;
    default:
        return false;
    }
}

uint64_t model_accessible(const struct model_space *space, tide_address address, uint64_t bytes, tide_access_kind kind)
{
    uint64_t good = 0;
    while (good < bytes && page_accessible(model_page_find(space, address + good), kind)) {
        const uint64_t to_border = TIDE_PAGE_BYTES - (address + good) % TIDE_PAGE_BYTES;
        good += to_border < bytes - good ? to_border : bytes - good;
    }
    return good;
}

/* Calls for each page piece of a range: copies out of the page or into it. */
static void copy(struct model_space *space, tide_address address, unsigned char *out, const unsigned char *in,
                 uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes;) {
        struct model_page *page = model_page_find(space, address + done);
        const uint64_t offset = (address + done) % TIDE_PAGE_BYTES;
        const uint64_t piece = TIDE_PAGE_BYTES - offset < bytes - done ? TIDE_PAGE_BYTES - offset : bytes - done;
        if (!page->touched)
            space->demand_zero++;
        page->touched = true;
        if (in != NULL && page->data == NULL)
            page->data = calloc(1, TIDE_PAGE_BYTES);
        if (in != NULL)
            memcpy(page->data + offset, in + done, piece);
        if (out != NULL && page->data != NULL)
            memcpy(out + done, page->data + offset, piece);
        else if (out != NULL)
            memset(out + done, 0, piece);
        done += piece;
    }
}

void model_read(struct model_space *space, tide_address address, void *buffer, uint64_t bytes)
{
    copy(space, address, buffer, NULL, bytes);
}

void model_write(struct model_space *space, tide_address address, const void *buffer, uint64_t bytes)
{
    copy(space, address, NULL, buffer, bytes);
}

void model_space_clear(struct model *model, struct model_space *space)
{
    while (space->region_count > 0)
        region_release(model, space, &space->regions[0]);
}

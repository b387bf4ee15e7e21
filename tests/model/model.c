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
    const uint64_t units = (count + MODEL_UNIT_PAGES - 1) / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES;
    uint64_t best = 0;
    for (int i = -1; i < (int)space->region_count; i++) {
        uint64_t candidate;
        if (top_down) {
            const uint64_t end = i < 0 ? highest_page + 1 : space->regions[i].first;
            candidate = end < units ? 0 : end / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES - units;
        } else {
            const uint64_t start = i < 0 ? lowest_page : space->regions[i].first + space->regions[i].count;
            candidate = (start + MODEL_UNIT_PAGES - 1) / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES;
        }
        if (candidate < lowest_page || candidate + count - 1 > highest_page || !range_free(space, candidate, units))
            continue;
        if (best == 0 || (top_down ? candidate > best : candidate < best))
            best = candidate;
    }
    return best;
}

static bool protection_legal(uint32_t protection)
{
    const uint32_t modifiers = TIDE_PAGE_GUARD | TIDE_PAGE_NOCACHE | TIDE_PAGE_WRITECOMBINE;
    const uint32_t modifier = protection & modifiers;

    if ((modifier & (modifier - 1)) != 0 || (modifier != 0 && (protection & ~modifiers) == TIDE_PAGE_NOACCESS))
        return false;
    switch (protection & ~modifiers) {
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

static bool any_offered(const struct model_region *region, uint64_t first, uint64_t count)
{
    bool any = false;
    for (uint64_t i = 0; i < count; i++)
        any = any || region->pages[first - region->first + i].offered;
    return any;
}

static void commit_pages(struct model *model, struct model_space *space, struct model_region *region, uint64_t first,
                         uint64_t count, uint32_t protection)
{
    for (uint64_t i = 0; i < count; i++) {
        struct model_page *page = &region->pages[first - region->first + i];
        if (!page->committed) {
            page->committed = true;
            page->incarnation = ++model->incarnations;
            space->committed++;
            model->charge++;
        }
        page->protection = protection;
    }
}

static void data_free(struct model_page *page)
{
    free(page->data);
    free(page->fresh);
    page->data = page->fresh = NULL;
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
        space->locked -= page->locked;
        data_free(page);
        *page = (struct model_page){ .written = page->written };
    }
}

/* Would a commit of so many pages more, small ones, pass a limit? */
static bool over_limit(const struct model *model, const struct model_space *space, uint64_t need)
{
    const uint64_t small = space->committed - space->large;

    return need != 0 && (need > model->limit - model->charge || small > space->limit || need > space->limit - small);
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
    if (region == NULL || first + count > region->first + region->count || region->kind >= MODEL_LARGE)
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
        (type & ~(TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_TOP_DOWN | TIDE_MEM_WRITE_WATCH)) != 0 ||
        ((type & TIDE_MEM_WRITE_WATCH) != 0 && (type & TIDE_MEM_RESERVE) == 0))
        return TIDE_INVALID_PARAMETER;
    if (!protection_legal(protection))
        return TIDE_INVALID_PAGE_PROTECTION;
    if (*bytes == 0 || *base > TIDE_HIGHEST_ADDRESS || *bytes > TIDE_HIGHEST_ADDRESS - *base + 1)
        return TIDE_INVALID_PARAMETER;

    struct model_region *region = NULL;
    if (!reserve) {
        page_range(*base, *bytes, &first, &count);
        region = region_find(space, first);
        if (region == NULL || first + count > region->first + region->count || region->kind >= MODEL_LARGE)
            return TIDE_CONFLICTING_ADDRESSES;
    } else if (*base != 0) {
        const tide_address unit = *base / TIDE_ALLOCATION_GRANULARITY_BYTES * TIDE_ALLOCATION_GRANULARITY_BYTES;
        page_range(unit, *base + *bytes - unit, &first, &count);
        const uint64_t unit_end = (first + count + MODEL_UNIT_PAGES - 1) / MODEL_UNIT_PAGES * MODEL_UNIT_PAGES;
        if (!range_free(space, first, unit_end - first))
            return TIDE_CONFLICTING_ADDRESSES;
    } else {
        count = (*bytes + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES;
        first = place_region(space, count, (type & TIDE_MEM_TOP_DOWN) != 0);
        if (first == 0)
            return TIDE_NO_MEMORY;
    }
    if (commit && region != NULL && any_offered(region, first, count))
        return TIDE_INVALID_PAGE_PROTECTION;
    if (commit && over_limit(model, space, region == NULL ? count : uncommitted(region, first, count)))
        return TIDE_COMMITMENT_LIMIT;
    if (region == NULL)
        region = region_insert(space, first, count, protection);
    if (type & TIDE_MEM_WRITE_WATCH)
        region->kind = MODEL_WATCHED;
    if (commit)
        commit_pages(model, space, region, first, count, protection);
    *base = first * TIDE_PAGE_BYTES;
    *bytes = count * TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

static void region_release(struct model *model, struct model_space *space, struct model_region *region)
{
    if (region->kind == MODEL_LARGE)
        space->large -= region->count;
    decommit_pages(model, space, region, region->first, region->count);
    free(region->pages);
    space->region_count--;
    memmove(region, region + 1, (size_t)((char *)&space->regions[space->region_count] - (char *)region));
}

/* Makes `count` pages from `first` on, inside of a region, a region of their own; returns it. */
static struct model_region *region_split(struct model_space *space, struct model_region *region, uint64_t first,
                                         uint64_t count)
{
    const struct model_region whole = *region;
    const uint64_t before = first - whole.first, after = whole.count - before - count;
    const unsigned parts = 1 + (before != 0) + (after != 0);
    const uint64_t counts[3] = { before, count, after };
    uint64_t at = 0;

    memmove(region + parts, region + 1, (size_t)((char *)&space->regions[space->region_count] - (char *)(region + 1)));
    space->region_count += parts - 1;
    struct model_region *out = region, *middle = NULL;
    for (unsigned i = 0; i < 3; i++) {
        if (counts[i] == 0)
            continue;
        *out = whole;
        out->first = whole.first + at;
        out->count = counts[i];
        out->pages = malloc(counts[i] * sizeof(struct model_page));
        memcpy(out->pages, whole.pages + at, counts[i] * sizeof(struct model_page));
        at += counts[i];
        middle = i == 1 ? out : middle;
        out++;
    }
    free(whole.pages);
    return middle;
}

/* The pages that a free call means, in the order of the rules. */
static tide_status free_range(struct model_space *space, tide_address base, uint64_t bytes,
                              struct model_region **region, uint64_t *first, uint64_t *count)
{
    *region = region_find(space, base / TIDE_PAGE_BYTES);
    if (*region == NULL)
        return TIDE_MEMORY_NOT_ALLOCATED;
    *first = (*region)->first;
    *count = (*region)->count;
    if (bytes == 0)
        return base / TIDE_PAGE_BYTES == *first ? TIDE_SUCCESS : TIDE_FREE_VM_NOT_AT_BASE;
    page_range(base, bytes, first, count);
    if (bytes > TIDE_HIGHEST_ADDRESS || *first + *count > (*region)->first + (*region)->count)
        return TIDE_UNABLE_TO_FREE_VM;
    return TIDE_SUCCESS;
}

tide_status model_virtual_free_native(struct model *model, struct model_space *space, tide_address *base,
                                      uint64_t *bytes, uint32_t type)
{
    struct model_region *region;
    uint64_t first, count;

    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE)
        return TIDE_INVALID_PARAMETER;
    const tide_status status = free_range(space, *base, *bytes, &region, &first, &count);
    if (status != TIDE_SUCCESS)
        return status;
    if (type == TIDE_MEM_DECOMMIT) {
        if (region->kind >= MODEL_LARGE)
            return TIDE_UNABLE_TO_FREE_VM;
        decommit_pages(model, space, region, first, count);
    } else {
        if (region->kind == MODEL_LARGE && count != region->count)
            return TIDE_UNABLE_TO_FREE_VM;
        region_release(model, space, region_split(space, region, first, count));
    }
    *base = first * TIDE_PAGE_BYTES;
    *bytes = count * TIDE_PAGE_BYTES;
    return TIDE_SUCCESS;
}

static void make_placeholder(struct model_region *region)
{
    region->kind = MODEL_PLACEHOLDER;
    region->protection = TIDE_PAGE_NOACCESS;
    region->was_placeholder = false;
    memset(region->pages, 0, region->count * sizeof(struct model_page));
}

/* Joins the placeholders that make up exactly the range. */
static tide_status join(struct model_space *space, uint64_t first, uint64_t count)
{
    uint64_t next = first;
    unsigned from = 0, parts = 0;

    for (unsigned i = 0; i < space->region_count && next < first + count; i++) {
        if (space->regions[i].first != next || space->regions[i].kind != MODEL_PLACEHOLDER)
            continue;
        from = parts == 0 ? i : from;
        parts++;
        next += space->regions[i].count;
    }
    if (next != first + count || parts < 2)
        return TIDE_CONFLICTING_ADDRESSES;
    for (unsigned i = 0; i < parts; i++)
        free(space->regions[from + i].pages);
    space->regions[from].count = count;
    space->regions[from].pages = calloc(count, sizeof(struct model_page));
    memmove(&space->regions[from + 1], &space->regions[from + parts],
            (space->region_count - from - parts) * sizeof(space->regions[0]));
    space->region_count -= parts - 1;
    return TIDE_SUCCESS;
}

static tide_status placeholder_free(struct model *model, struct model_space *space, tide_address base, uint64_t bytes,
                                    uint32_t type)
{
    struct model_region *region;
    uint64_t first, count;

    if (base % TIDE_PAGE_BYTES != 0 || bytes % TIDE_PAGE_BYTES != 0 || bytes == 0)
        return TIDE_INVALID_PARAMETER;
    if (type & TIDE_MEM_COALESCE_PLACEHOLDERS)
        return join(space, base / TIDE_PAGE_BYTES, bytes / TIDE_PAGE_BYTES);
    const tide_status status = free_range(space, base, bytes, &region, &first, &count);
    if (status != TIDE_SUCCESS)
        return status;
    const bool whole = count == region->count;
    if (region->kind == MODEL_PLACEHOLDER && !whole)
        region_split(space, region, first, count);
    else if (region->kind != MODEL_PLACEHOLDER && region->was_placeholder && whole) {
        decommit_pages(model, space, region, first, count);
        make_placeholder(region);
    } else {
        return TIDE_CONFLICTING_ADDRESSES;
    }
    return TIDE_SUCCESS;
}

tide_status model_virtual_alloc2(struct model *model, struct model_space *space, tide_address *base, uint64_t *bytes,
                                 uint32_t type, uint32_t protection)
{
    uint64_t first, count;

    if (type == (TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER)) {
        if (protection != TIDE_PAGE_NOACCESS)
            return TIDE_INVALID_PAGE_PROTECTION;
        const tide_status status = model_virtual_alloc(model, space, base, bytes, TIDE_MEM_RESERVE, protection);
        if (status == TIDE_SUCCESS)
            make_placeholder(region_find(space, *base / TIDE_PAGE_BYTES));
        return status;
    }
    if (type & TIDE_MEM_LARGE_PAGES) { /* the engine had the frames; the address is the engine's */
        struct model_region *region =
            region_insert(space, *base / TIDE_PAGE_BYTES, *bytes / TIDE_PAGE_BYTES, protection);
        region->kind = MODEL_LARGE;
        commit_pages(model, space, region, region->first, region->count, protection);
        for (uint64_t i = 0; i < region->count; i++)
            region->pages[i].touched = true;
        space->large += region->count;
        return TIDE_SUCCESS;
    }
    /* a placeholder is replaced */
    if (!protection_legal(protection))
        return TIDE_INVALID_PAGE_PROTECTION;
    if (*base == 0 || *base % TIDE_PAGE_BYTES != 0 || *bytes % TIDE_PAGE_BYTES != 0 || *bytes == 0)
        return TIDE_INVALID_PARAMETER;
    page_range(*base, *bytes, &first, &count);
    struct model_region *region = region_find(space, first);
    if (region == NULL || region->kind != MODEL_PLACEHOLDER || region->first != first || region->count != count)
        return TIDE_CONFLICTING_ADDRESSES;
    if ((type & TIDE_MEM_COMMIT) != 0 && over_limit(model, space, count))
        return TIDE_COMMITMENT_LIMIT;
    region->kind = (type & TIDE_MEM_WRITE_WATCH) != 0 ? MODEL_WATCHED : MODEL_PRIVATE;
    region->was_placeholder = true;
    region->protection = protection;
    if (type & TIDE_MEM_COMMIT)
        commit_pages(model, space, region, first, count, protection);
    return TIDE_SUCCESS;
}

tide_status model_virtual_protect(struct model_space *space, tide_address base, uint64_t bytes, uint32_t protection,
                                  uint32_t *old)
{
    uint64_t first, count;

    if (!protection_legal(protection))
        return TIDE_INVALID_PAGE_PROTECTION;
    if (bytes == 0 || base > TIDE_HIGHEST_ADDRESS || bytes > TIDE_HIGHEST_ADDRESS - base + 1)
        return TIDE_INVALID_PARAMETER;
    page_range(base, bytes, &first, &count);
    struct model_region *region = region_find(space, first);
    if (region == NULL || first + count > region->first + region->count)
        return TIDE_CONFLICTING_ADDRESSES;
    if (uncommitted(region, first, count) != 0)
        return TIDE_NOT_COMMITTED;
    if (region->kind == MODEL_LARGE && protection != TIDE_PAGE_READWRITE)
        return TIDE_INVALID_PAGE_PROTECTION;
    if (any_offered(region, first, count))
        return TIDE_INVALID_PAGE_PROTECTION;
    *old = region->pages[first - region->first].protection;
    for (uint64_t i = 0; i < count; i++)
        region->pages[first - region->first + i].protection = protection;
    return TIDE_SUCCESS;
}

tide_status model_refuse(struct model_space *space, tide_address address)
{
    struct model_page *page = address > TIDE_HIGHEST_ADDRESS ? NULL : model_page_find(space, address);

    if (page == NULL || !page->committed || (page->protection & TIDE_PAGE_GUARD) == 0)
        return TIDE_ACCESS_VIOLATION;
    const struct model_region *region = region_find(space, address / TIDE_PAGE_BYTES);
    if (region->kind != MODEL_STACK) {
        page->protection &= ~TIDE_PAGE_GUARD;
        return TIDE_GUARD_PAGE_VIOLATION;
    }
    if (address / TIDE_PAGE_BYTES - 1 <= region->first) /* else it could not be charged, and the guard stays */
        page->protection &= ~TIDE_PAGE_GUARD;
    return TIDE_STACK_OVERFLOW;
}

void model_mark(struct model_space *space, tide_address address, uint64_t bytes)
{
    uint64_t first, count;

    if (bytes == 0)
        return;
    page_range(address, bytes, &first, &count);
    for (uint64_t page = first; page < first + count; page++) {
        struct model_region *region = region_find(space, page);
        if (region != NULL && region->kind == MODEL_WATCHED)
            region->pages[page - region->first].written = true;
        if (region != NULL)
            region->pages[page - region->first].reset = false;
    }
}

struct model_region *model_watched(struct model_space *space, tide_address base, uint64_t bytes)
{
    uint64_t first, count;

    if (bytes == 0 || base > TIDE_HIGHEST_ADDRESS || bytes > TIDE_HIGHEST_ADDRESS - base + 1)
        return NULL;
    page_range(base, bytes, &first, &count);
    struct model_region *region = region_find(space, first);
    return region == NULL || region->kind != MODEL_WATCHED || first + count > region->first + region->count ? NULL
                                                                                                            : region;
}

tide_status model_virtual_free(struct model *model, struct model_space *space, tide_address base, uint64_t bytes,
                               uint32_t type)
{
    if (type == (TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER) ||
        type == (TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS))
        return placeholder_free(model, space, base, bytes, type);
    if (type != TIDE_MEM_DECOMMIT && type != TIDE_MEM_RELEASE)
        return TIDE_INVALID_PARAMETER;
    if (type == TIDE_MEM_RELEASE && bytes != 0)
        return TIDE_INVALID_PARAMETER;
    return model_virtual_free_native(model, space, &base, &bytes, type);
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
    switch (page->protection & ~(uint32_t)(TIDE_PAGE_NOCACHE | TIDE_PAGE_WRITECOMBINE)) {
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

/* The page is a stack's guard, with another page to move to. False if it is not, or that cannot be charged. */
static bool stack_grow(struct model_space *space, tide_address address)
{
    const uint64_t page = address / TIDE_PAGE_BYTES;
    struct model_region *region = region_find(space, page);
    if (region == NULL || region->kind != MODEL_STACK || page - 1 <= region->first)
        return false;
    struct model_page *guard = &region->pages[page - region->first];
    if (!guard->committed || (guard->protection & TIDE_PAGE_GUARD) == 0 || any_offered(region, page - 1, 1) ||
        over_limit(space->all, space, uncommitted(region, page - 1, 1)))
        return false;
    commit_pages(space->all, space, region, page - 1, 1, guard->protection);
    guard->protection &= ~TIDE_PAGE_GUARD;
    space->grown++;
    return true;
}

bool model_stack_guard(const struct model_space *space, tide_address address, uint64_t bytes)
{
    uint64_t first, count;
    page_range(address, bytes, &first, &count);
    for (uint64_t page = first; page < first + count; page++) {
        const struct model_region *region = region_find(space, page);
        if (region != NULL && region->kind == MODEL_STACK &&
            (region->pages[page - region->first].protection & TIDE_PAGE_GUARD) != 0)
            return true;
    }
    return false;
}

uint64_t model_accessible(struct model_space *space, tide_address address, uint64_t bytes, tide_access_kind kind)
{
    uint64_t good = 0;
    while (good < bytes) {
        if (!page_accessible(model_page_find(space, address + good), kind) &&
            !(stack_grow(space, address + good) && page_accessible(model_page_find(space, address + good), kind)))
            break;
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
        else if (page->unsure && page->fresh == NULL)
            space->demand_zero_unsure++;
        page->touched = true;
        if (in != NULL && page->data == NULL)
            page->data = calloc(1, TIDE_PAGE_BYTES);
        if (in != NULL)
            memcpy(page->data + offset, in + done, piece);
        if (in != NULL && page->unsure) {
            if (page->fresh == NULL)
                page->fresh = calloc(1, TIDE_PAGE_BYTES);
            memcpy(page->fresh + offset, in + done, piece);
        }
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
    model_mark(space, address, bytes);
}

/* ---- contents --------------------------------------------------------------------------------------------------- */

static bool same_bytes(const unsigned char *data, uint64_t offset, const void *bytes, uint64_t count)
{
    static const unsigned char zeros[TIDE_PAGE_BYTES];
    return memcmp(data == NULL ? zeros : data + offset, bytes, count) == 0;
}

/* What the content is has been seen. */
static void settled(struct model_page *page, bool lost)
{
    if (lost) {
        free(page->data);
        page->data = page->fresh;
        page->reset = false;
    } else {
        free(page->fresh);
    }
    page->fresh = NULL;
    page->unsure = false;
    if (page->lost == MODEL_MAYBE_LOST)
        page->lost = lost ? MODEL_LOST : MODEL_KEPT;
}

bool model_see(struct model_page *page, uint64_t offset, const void *bytes, uint64_t count)
{
    const bool kept = same_bytes(page->data, offset, bytes, count);
    if (!page->unsure)
        return kept;
    const bool lost = same_bytes(page->fresh, offset, bytes, count);
    if (lost && !kept)
        settled(page, true);
    else if (kept && !lost && !page->reset) /* else it may still be lost */
        settled(page, false);
    return kept || lost;
}

bool model_see_range(struct model_space *space, tide_address address, const void *bytes, uint64_t count)
{
    for (uint64_t done = 0; done < count;) {
        const uint64_t offset = (address + done) % TIDE_PAGE_BYTES;
        const uint64_t piece = TIDE_PAGE_BYTES - offset < count - done ? TIDE_PAGE_BYTES - offset : count - done;
        if (!model_see(model_page_find(space, address + done), offset, (const char *)bytes + done, piece))
            return false;
        done += piece;
    }
    return true;
}

void model_see_untouched(struct model_page *page)
{
    if (!page->unsure || page->fresh != NULL)
        return;
    settled(page, true);
    page->touched = false;
}

void model_write_through(struct model_space *space, tide_address address, unsigned char byte)
{
    struct model_page *page = model_page_find(space, address);
    struct model_region *region = region_find(space, address / TIDE_PAGE_BYTES);
    if (page->data == NULL)
        page->data = calloc(1, TIDE_PAGE_BYTES);
    page->data[address % TIDE_PAGE_BYTES] = byte;
    if (page->unsure && !page->reset) {
        if (page->fresh == NULL)
            page->fresh = calloc(1, TIDE_PAGE_BYTES);
        page->fresh[address % TIDE_PAGE_BYTES] = byte;
    }
    if (region->kind == MODEL_WATCHED)
        page->written = true;
}

tide_status model_contents_check(struct model_space *space, enum model_contents call, tide_address base, uint64_t bytes,
                                 uint64_t *first, uint64_t *count)
{
    const bool whole = call == MODEL_RESET || call == MODEL_UNDO;
    if (!whole && (base % TIDE_PAGE_BYTES != 0 || bytes % TIDE_PAGE_BYTES != 0))
        return TIDE_INVALID_PARAMETER;
    if (bytes == 0 || base > TIDE_HIGHEST_ADDRESS || bytes > TIDE_HIGHEST_ADDRESS - base + 1)
        return TIDE_INVALID_PARAMETER;
    page_range(base, bytes, first, count);
    const uint64_t inner = (base + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES, end = (base + bytes) / TIDE_PAGE_BYTES;
    const bool none = whole && end <= inner;
    if (whole && !none) {
        *first = inner;
        *count = end - inner;
    }
    struct model_region *region = region_find(space, *first);
    if (region == NULL || *first + *count > region->first + region->count || region->kind == MODEL_LARGE)
        return TIDE_CONFLICTING_ADDRESSES;
    if (uncommitted(region, *first, *count) != 0)
        return TIDE_NOT_COMMITTED;
    for (uint64_t i = 0; i < *count && !whole; i++) {
        const struct model_page *page = &region->pages[*first - region->first + i];
        if (call == MODEL_RECLAIM && !page->offered)
            return TIDE_INVALID_PARAMETER;
        if (call != MODEL_RECLAIM && page->protection != TIDE_PAGE_READWRITE)
            return TIDE_INVALID_PAGE_PROTECTION;
    }
    if (none)
        *count = 0;
    return TIDE_SUCCESS;
}

/* From now on the content may go. It was settled before, or was the same either way. */
static void droppable(struct model_page *page)
{
    free(page->fresh);
    page->fresh = NULL;
    page->reset = page->unsure = true;
    page->lost = MODEL_MAYBE_LOST;
}

void model_page_reset(struct model_page *page)
{
    if (page->touched && !page->offered)
        droppable(page);
}

void model_page_discard(struct model *model, struct model_space *space, struct model_page *page)
{
    space->locked -= page->locked;
    data_free(page);
    *page = (struct model_page){ .committed = true,
                                 .written = page->written,
                                 .protection = page->protection,
                                 .incarnation = ++model->incarnations };
}

void model_page_offer(struct model_space *space, struct model_page *page)
{
    space->locked -= page->locked;
    page->locked = false;
    page->offered = true;
    page->protection = TIDE_PAGE_NOACCESS;
    if (page->touched)
        droppable(page);
    else if (page->lost == MODEL_LOST) /* told again, or not: both are zeros */
        page->lost = MODEL_MAYBE_LOST;
}

void model_page_keep(struct model_page *page, bool lost)
{
    if (page->offered) {
        page->offered = false;
        page->protection = TIDE_PAGE_READWRITE;
    }
    if (page->unsure && !lost)
        settled(page, false);
    page->reset = false;
    page->lost = MODEL_KEPT;
}

/* ---- residence -------------------------------------------------------------------------------------------------- */

static tide_status lock_check(struct model_space *space, tide_address base, uint64_t bytes, bool readable,
                              struct model_region **region, uint64_t *first, uint64_t *count)
{
    if (bytes == 0 || base > TIDE_HIGHEST_ADDRESS || bytes > TIDE_HIGHEST_ADDRESS - base + 1)
        return TIDE_INVALID_PARAMETER;
    page_range(base, bytes, first, count);
    *region = region_find(space, *first);
    if (*region == NULL || *first + *count > (*region)->first + (*region)->count)
        return TIDE_CONFLICTING_ADDRESSES;
    if (uncommitted(*region, *first, *count) != 0)
        return TIDE_NOT_COMMITTED;
    for (uint64_t i = 0; i < *count && readable; i++)
        if (!page_accessible(&(*region)->pages[*first - (*region)->first + i], TIDE_ACCESS_READ))
            return TIDE_ACCESS_VIOLATION;
    return TIDE_SUCCESS;
}

tide_status model_virtual_lock(struct model_space *space, tide_address base, uint64_t bytes, uint64_t quota)
{
    struct model_region *region;
    uint64_t first, count, more = 0;
    const tide_status status = lock_check(space, base, bytes, true, &region, &first, &count);
    if (status != TIDE_SUCCESS || region->kind == MODEL_LARGE)
        return status;
    struct model_page *pages = &region->pages[first - region->first];
    for (uint64_t i = 0; i < count; i++)
        more += !pages[i].locked;
    if (more != 0 && more + space->locked > quota)
        return TIDE_WORKING_SET_QUOTA;
    model_read(space, first * TIDE_PAGE_BYTES, NULL, count * TIDE_PAGE_BYTES);
    for (uint64_t i = 0; i < count; i++)
        pages[i].locked = true;
    space->locked += more;
    return TIDE_SUCCESS;
}

tide_status model_virtual_unlock(struct model_space *space, tide_address base, uint64_t bytes)
{
    struct model_region *region;
    uint64_t first, count, locked = 0;
    const tide_status status = lock_check(space, base, bytes, false, &region, &first, &count);
    if (status != TIDE_SUCCESS || region->kind == MODEL_LARGE)
        return status;
    struct model_page *pages = &region->pages[first - region->first];
    for (uint64_t i = 0; i < count; i++)
        locked += pages[i].locked;
    if (locked != count)
        return TIDE_NOT_LOCKED;
    for (uint64_t i = 0; i < count; i++)
        pages[i].locked = false;
    space->locked -= count;
    return TIDE_SUCCESS;
}

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

tide_status model_stack_create(struct model *model, struct model_space *space, uint64_t reserve_bytes,
                               uint64_t commit_bytes, tide_stack *stack)
{
    const uint64_t unit = TIDE_ALLOCATION_GRANULARITY_BYTES;
    uint64_t bytes = ((reserve_bytes == 0 ? 1u << 20 : reserve_bytes) + unit - 1) / unit * unit;
    const uint64_t commit = commit_bytes == 0 ? 1 : (commit_bytes + TIDE_PAGE_BYTES - 1) / TIDE_PAGE_BYTES;
    tide_address base = 0;

    if (commit + 2 > bytes / TIDE_PAGE_BYTES)
        return TIDE_INVALID_PARAMETER;
    const tide_status status = model_virtual_alloc(model, space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE);
    if (status != TIDE_SUCCESS)
        return status;
    struct model_region *region = region_find(space, base / TIDE_PAGE_BYTES);
    const uint64_t end = region->first + region->count;
    if (over_limit(model, space, commit + 1)) {
        region_release(model, space, region);
        return TIDE_COMMITMENT_LIMIT;
    }
    region->kind = MODEL_STACK;
    commit_pages(model, space, region, end - commit, commit, TIDE_PAGE_READWRITE);
    commit_pages(model, space, region, end - commit - 1, 1, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD);
    *stack = (tide_stack){ .allocation_base = base,
                           .limit = (end - commit) * TIDE_PAGE_BYTES,
                           .base = end * TIDE_PAGE_BYTES };
    return TIDE_SUCCESS;
}

void model_space_clear(struct model *model, struct model_space *space)
{
    while (space->region_count > 0)
        region_release(model, space, &space->regions[0]);
}

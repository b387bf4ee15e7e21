/*
 * Operations of a stress run on address space, working sets and the engine: commit and decommit, reserve and release,
 * whole spaces, limits and priorities, queries, and the workers' steps called from outside.
 *
 * TIDE_COMMITMENT_LIMIT may meet any commit; it changes nothing. See access_operations.c for the rest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

/* ---- commit, decommit, reserve, release ------------------------------------------------------------------------- */

/* Around a change of commitment of pages whose locks are held: readers of shared pages know no bounds meanwhile. */
static void sequence_move(const struct place *place)
{
    for (unsigned i = 0; i < place->count; i++)
        atomic_fetch_add(&page_at(place, i)->sequence, 1);
}

static void page_committed(struct shadow_page *page, bool writable)
{
    if (!page->committed)
        page->version = 0;
    page->committed = true;
    page->writable = writable;
    atomic_store(&page->floor, page->version);
}

static void page_decommitted(struct shadow_page *page)
{
    page->committed = false;
    page->writable = false;
    page->version = 0;
    atomic_store(&page->floor, SHADOW_NOT_COMMITTED);
}

/* A refusal that commits may meet: the limit, or, with memory this short, no frame for a page table. */
static bool commit_refused(struct stress_thread *thread, tide_status status)
{
    if (status != TIDE_COMMITMENT_LIMIT && status != TIDE_NO_MEMORY)
        return false;
    thread->commit_refused++;
    return true;
}

void op_commit(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, STRESS_COMMIT_MAX))
        return;
    /* Shared pages are always writable. A few exact ones become read-only; their data stays. */
    const bool writable = place.first + place.count > place.window->exact_count || !one_in(thread, 8);
    pages_lock(&place);
    sequence_move(&place);
    const tide_address first = page_address(&place, place.first);
    const uint64_t length = (uint64_t)place.count * TIDE_PAGE_BYTES;
    const uint64_t lead = one_in(thread, 4) ? draw(thread, TIDE_PAGE_BYTES) : 0;
    const uint64_t tail = one_in(thread, 4) && place.count > 1 ? draw(thread, TIDE_PAGE_BYTES) : 0;
    tide_address base = first + lead;
    uint64_t bytes = length - lead - tail;
    const tide_status status = tide_virtual_alloc(place.space, &base, &bytes, TIDE_MEM_COMMIT,
                                                  writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY);
    if (!place.window->reserved) {
        expect(thread, status, TIDE_CONFLICTING_ADDRESSES, "commit without reservation", first);
    } else if (!commit_refused(thread, status)) {
        expect(thread, status, TIDE_SUCCESS, "commit", first);
        if (base != first || bytes != length)
            fail(thread, "commit of 0x%llx + 0x%llx answered 0x%llx + 0x%llx", (unsigned long long)(first + lead),
                 (unsigned long long)(length - lead - tail), (unsigned long long)base, (unsigned long long)bytes);
        for (unsigned i = 0; i < place.count; i++)
            page_committed(page_at(&place, i), writable);
    }
    sequence_move(&place);
    pages_unlock(&place);
    place_put(&place);
}

void op_decommit(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, STRESS_COMMIT_MAX / 4))
        return;
    pages_lock(&place);
    sequence_move(&place);
    const uint64_t lead = one_in(thread, 4) ? draw(thread, TIDE_PAGE_BYTES) : 0;
    const tide_address first = page_address(&place, place.first);
    const tide_status status =
        tide_virtual_free(place.space, first + lead, (uint64_t)place.count * TIDE_PAGE_BYTES - lead, TIDE_MEM_DECOMMIT);
    expect(thread, status, place.window->reserved ? TIDE_SUCCESS : TIDE_MEMORY_NOT_ALLOCATED, "decommit", first);
    for (unsigned i = 0; i < place.count; i++)
        page_decommitted(page_at(&place, i));
    sequence_move(&place);
    pages_unlock(&place);
    place_put(&place);
}

static uint32_t draw_node(struct stress_thread *thread)
{
    return one_in(thread, 2) ? TIDE_NO_PREFERRED_NODE : (uint32_t)draw(thread, thread->run->node_count);
}

static void window_reserve(struct stress_thread *thread, tide_space *space, struct shadow_window *window)
{
    const bool commit = one_in(thread, 4);
    const uint64_t wanted = (uint64_t)window->page_count * TIDE_PAGE_BYTES;
    tide_address base = window->base + draw(thread, TIDE_ALLOCATION_GRANULARITY_BYTES);
    uint64_t bytes = window->base + wanted - base;
    const uint32_t type = TIDE_MEM_RESERVE | (commit ? TIDE_MEM_COMMIT : 0);
    tide_status status;
    if (one_in(thread, 2)) {
        tide_alloc_parameters parameters = { .struct_bytes = sizeof(parameters) };
        draw_placement(thread, &parameters);
        base = window->base; /* nothing is rounded here */
        bytes = wanted;
        status = tide_virtual_alloc2(space, &base, &bytes, type, TIDE_PAGE_READWRITE, &parameters);
    } else {
        status = tide_virtual_alloc_numa(space, &base, &bytes, type, TIDE_PAGE_READWRITE, draw_node(thread));
    }
    if (commit_refused(thread, status))
        return;
    expect(thread, status, TIDE_SUCCESS, "reserve", window->base);
    if (base != window->base || bytes != wanted)
        fail(thread, "reserve of 0x%llx + 0x%llx answered 0x%llx + 0x%llx", (unsigned long long)window->base,
             (unsigned long long)wanted, (unsigned long long)base, (unsigned long long)bytes);
    window->reserved = true;
    for (unsigned i = 0; commit && i < window->page_count; i++)
        page_committed(&window->pages[i], true);
}

static void window_sequence_move(struct shadow_window *window)
{
    for (unsigned i = 0; i < window->page_count; i++)
        atomic_fetch_add(&window->pages[i].sequence, 1);
}

static void window_release(struct stress_thread *thread, tide_space *space, struct shadow_window *window)
{
    if (one_in(thread, 2))
        expect(thread, tide_virtual_free(space, window->base + TIDE_PAGE_BYTES, 0, TIDE_MEM_RELEASE),
               TIDE_FREE_VM_NOT_AT_BASE, "release not at the base", window->base);
    expect(thread, tide_virtual_free(space, window->base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release", window->base);
    window->reserved = false;
    for (unsigned i = 0; i < window->page_count; i++)
        page_decommitted(&window->pages[i]);
}

/* Releases a window and mostly reserves it again, while lock-free readers look at its shared pages. */
void op_release(struct stress_thread *thread)
{
    struct place place;
    if (!one_in(thread, 20))
        return;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    pthread_rwlock_unlock(&place.window->lock);
    if (pthread_rwlock_trywrlock(&place.window->lock) == 0) {
        window_sequence_move(place.window);
        if (place.window->reserved)
            window_release(thread, place.space, place.window);
        if (!one_in(thread, 4))
            window_reserve(thread, place.space, place.window);
        window_sequence_move(place.window);
        pthread_rwlock_unlock(&place.window->lock);
    }
    pthread_rwlock_unlock(&place.holder->lock);
}

/* Reserving over a reservation is refused and changes nothing. */
void op_overlap(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, STRESS_COMMIT_MAX))
        return;
    if (place.window->reserved) {
        tide_address base = page_address(&place, place.first);
        uint64_t bytes = (uint64_t)place.count * TIDE_PAGE_BYTES;
        const uint32_t type = TIDE_MEM_RESERVE | (one_in(thread, 2) ? TIDE_MEM_COMMIT : 0);
        const tide_status status = tide_virtual_alloc(place.space, &base, &bytes, type, TIDE_PAGE_READWRITE);
        expect(thread, status, TIDE_CONFLICTING_ADDRESSES, "overlapping reservation", base);
    }
    place_put(&place);
}

/*
 * A region that the engine places, known to this thread alone: fresh pages are zero, also after decommit and recommit.
 */
void op_private_region(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    pthread_rwlock_unlock(&place.window->lock);
    const unsigned count = 1 + (unsigned)draw(thread, 32);
    tide_address base = 0;
    uint64_t bytes = (uint64_t)count * TIDE_PAGE_BYTES - draw(thread, TIDE_PAGE_BYTES);
    const uint32_t type =
        TIDE_MEM_COMMIT | (one_in(thread, 2) ? TIDE_MEM_RESERVE : 0) | (one_in(thread, 2) ? TIDE_MEM_TOP_DOWN : 0);
    tide_status status =
        tide_virtual_alloc_numa(place.space, &base, &bytes, type, TIDE_PAGE_READWRITE, draw_node(thread));
    if (!commit_refused(thread, status)) {
        expect(thread, status, TIDE_SUCCESS, "region placed by the engine", 0);
        if (base % TIDE_ALLOCATION_GRANULARITY_BYTES != 0 || bytes != (uint64_t)count * TIDE_PAGE_BYTES)
            fail(thread, "region of %u pages placed at 0x%llx with 0x%llx bytes", count, (unsigned long long)base,
                 (unsigned long long)bytes);
        for (unsigned round = 0; round < 2; round++) {
            for (unsigned i = 0; i < count; i++) {
                const tide_address address = base + (uint64_t)i * TIDE_PAGE_BYTES;
                const uint64_t identity = UINT64_MAX - thread->index;
                const uint32_t version = (uint32_t)draw(thread, UINT32_MAX) | 1;
                expect(thread, read_bytes(thread, place.space, address, thread->buffer, TIDE_PAGE_BYTES), TIDE_SUCCESS,
                       "tide_read of a fresh page", address);
                if (image_compare(thread->buffer, 0, 0, 0) != PAGE_WORDS)
                    fail(thread, "fresh page 0x%llx is not zero at word %u", (unsigned long long)address,
                         image_compare(thread->buffer, 0, 0, 0));
                image_fill(thread->buffer, identity, address, version);
                expect(thread, write_bytes(thread, place.space, address, thread->buffer, TIDE_PAGE_BYTES), TIDE_SUCCESS,
                       "tide_write of a fresh page", address);
                linger(thread, place.space);
                expect(thread, read_bytes(thread, place.space, address, thread->buffer, TIDE_PAGE_BYTES), TIDE_SUCCESS,
                       "tide_read of a private region", address);
                if (image_compare(thread->buffer, identity, address, version) != PAGE_WORDS && !thread->own_lost)
                    fail(thread, "private region: page 0x%llx lost what was written", (unsigned long long)address);
            }
            expect(thread, tide_virtual_free(place.space, base, 0, TIDE_MEM_DECOMMIT), TIDE_SUCCESS,
                   "decommit of a whole region", base);
            uint64_t again = bytes;
            status = tide_virtual_alloc(place.space, &base, &again, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
            if (commit_refused(thread, status))
                break;
            expect(thread, status, TIDE_SUCCESS, "recommit", base);
        }
        expect(thread, tide_virtual_free(place.space, base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release", base);
    }
    pthread_rwlock_unlock(&place.holder->lock);
}

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

/* Windows lie round a border of 1 GiB; below them and above them there is room for regions that the engine places. */
static tide_status mapped_space_create(struct stress_thread *thread, struct shadow_space *holder)
{
    const uint64_t gigabyte = 1ull << 30, windows = SHADOW_WINDOWS * holder->stride;
    tide_mapped_options options;
    tide_address lowest, highest;
    tide_mapped_options_init(&options);
    options.window_bytes = (8 * gigabyte + 4 * windows) / TIDE_LARGE_PAGE_BYTES * TIDE_LARGE_PAGE_BYTES;
    options.delivery = holder->by_threads ? TIDE_DELIVERY_THREADS : TIDE_DELIVERY_SIGNAL;
    const tide_status status = tide_mapped_space_create(thread->run->engine, &options, &holder->space);
    if (status != TIDE_SUCCESS)
        return status;
    expect(thread, tide_space_range(holder->space, &lowest, &highest), TIDE_SUCCESS, "tide_space_range", 0);
    const tide_address border = (lowest + windows + 2 * gigabyte) / gigabyte * gigabyte;
    shadow_space_place(holder, border);
    holder->own_lowest = border + windows;
    return TIDE_SUCCESS;
}

bool stress_space_create(struct stress_thread *thread, unsigned space_index)
{
    struct shadow *shadow = &thread->run->shadow;
    struct shadow_space *holder = &shadow->spaces[space_index];
    if (holder->space == NULL) {
        const tide_status status = holder->mapped ? mapped_space_create(thread, holder)
                                                  : tide_space_create(thread->run->engine, &holder->space);
        if (commit_refused(thread, status)) {
            holder->space = NULL;
            return false;
        }
        expect(thread, status, TIDE_SUCCESS, "tide_space_create", 0);
        atomic_store(&holder->identity, atomic_fetch_add(&shadow->next_identity, 1));
        for (unsigned w = 0; w < SHADOW_WINDOWS; w++)
            window_reserve(thread, holder->space, &holder->windows[w]);
    }
    return true;
}

void stress_space_destroy(struct stress_thread *thread, unsigned space_index)
{
    struct shadow_space *holder = &thread->run->shadow.spaces[space_index];
    if (holder->space == NULL)
        return;
    if (one_in(thread, 4)) {
        tide_access access;
        expect(thread, tide_access_begin(holder->space, &access), TIDE_SUCCESS, "tide_access_begin", 0);
        expect(thread, tide_space_destroy(holder->space), TIDE_DEVICE_BUSY, "destroy of a space with an open section",
               0);
        tide_access_end(&access);
    }
    expect(thread, tide_space_destroy(holder->space), TIDE_SUCCESS, "tide_space_destroy", 0);
    holder->space = NULL;
    for (unsigned w = 0; w < SHADOW_WINDOWS; w++) {
        holder->windows[w].reserved = false;
        for (unsigned i = 0; i < holder->windows[w].page_count; i++)
            page_decommitted(&holder->windows[w].pages[i]);
    }
}

/* Rare, since it throws away all that the others built up. */
void op_space(struct stress_thread *thread)
{
    if (!one_in(thread, 100))
        return;
    const unsigned index = (unsigned)draw(thread, thread->run->shadow.space_count);
    struct shadow_space *holder = &thread->run->shadow.spaces[index];
    if (pthread_rwlock_trywrlock(&holder->lock) != 0)
        return;
    stress_space_destroy(thread, index);
    (void)stress_space_create(thread, index);
    pthread_rwlock_unlock(&holder->lock);
}

/* Trims, empties, limits, priority: what disturbs the others without changing any content. */
void op_working_set(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_ANY, 1))
        return;
    const uint64_t asked = 1 + draw(thread, 64);
    const uint64_t good = thread->run->options.frames - thread->run->options.bad_frames - thread->run->options.poison;
    uint64_t trimmed = 0;
    switch (draw(thread, 64)) {
    case 0:
        expect(thread, tide_working_set_empty(place.space), TIDE_SUCCESS, "tide_working_set_empty", 0);
        break;
    case 1:
    case 2:
    case 3:
        expect(thread,
               tide_working_set_set_limits(place.space, 20, 32 + draw(thread, good * 7 / 8 - 32),
                                           TIDE_WORKING_SET_HARD_MAXIMUM),
               TIDE_SUCCESS, "tide_working_set_set_limits", 0);
        break;
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
    case 9:
        expect(thread, tide_working_set_set_limits(place.space, 20, 32, TIDE_WORKING_SET_SOFT_MAXIMUM), TIDE_SUCCESS,
               "tide_working_set_set_limits", 0);
        break;
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
    case 15:
        expect(thread, tide_space_set_priority(place.space, (unsigned)draw(thread, 6)), TIDE_SUCCESS,
               "tide_space_set_priority", 0);
        break;
    default:
        expect(thread, tide_working_set_trim(place.space, asked, &trimmed), TIDE_SUCCESS, "tide_working_set_trim", 0);
        if (trimmed > asked)
            fail(thread, "tide_working_set_trim of %llu pages removed %llu", (unsigned long long)asked,
                 (unsigned long long)trimmed);
        break;
    }
    place_put(&place);
}

/* ---- queries ---------------------------------------------------------------------------------------------------- */

static void check_page_info(struct stress_thread *thread, const struct place *place)
{
    const struct shadow_page *page = page_at(place, 0);
    const tide_address address = page_address(place, place->first);
    tide_page_info info;
    expect(thread, tide_page_query(place->space, address, &info), TIDE_SUCCESS, "tide_page_query", address);
    const uint32_t protection = !page->committed ? 0 : page->writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY;
    if (info.protection != protection || (info.state == TIDE_PAGE_STATE_FREE) != !page->committed ||
        (info.state == TIDE_PAGE_STATE_DEMAND_ZERO && page->version != 0) ||
        info.valid != (info.state == TIDE_PAGE_STATE_ACTIVE) || (info.valid && info.frame == UINT64_MAX) ||
        (info.valid && info.node >= thread->run->node_count))
        fail(thread,
             "tide_page_query at 0x%llx (version %u, protection expected %u): state %d, valid %d, protection %u, "
             "frame %llu, node %u",
             (unsigned long long)address, page->version, protection, (int)info.state, (int)info.valid, info.protection,
             (unsigned long long)info.frame, info.node);
}

void op_query(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, 1))
        return;
    const struct shadow_page *page = page_at(&place, 0);
    const tide_address address = page_address(&place, place.first);
    pages_lock(&place);
    check_page_info(thread, &place);
    tide_region region;
    expect(thread, tide_virtual_query(place.space, address + draw(thread, TIDE_PAGE_BYTES), &region), TIDE_SUCCESS,
           "tide_virtual_query", address);
    const uint32_t state = page->committed          ? TIDE_MEM_COMMIT
                           : place.window->reserved ? TIDE_MEM_RESERVE
                                                    : TIDE_MEM_FREE;
    if (region.base != address || region.state != state || region.bytes < TIDE_PAGE_BYTES ||
        (state != TIDE_MEM_FREE && region.allocation_base != place.window->base) ||
        (state == TIDE_MEM_COMMIT && region.protection != (page->writable ? TIDE_PAGE_READWRITE : TIDE_PAGE_READONLY)))
        fail(thread,
             "tide_virtual_query at 0x%llx: base 0x%llx, bytes 0x%llx, state 0x%x (expected 0x%x), protection 0x%x",
             (unsigned long long)address, (unsigned long long)region.base, (unsigned long long)region.bytes,
             region.state, state, region.protection);
    pages_unlock(&place);
    place_put(&place);
}

void op_statistics(struct stress_thread *thread)
{
    tide_statistics now = { .struct_bytes = sizeof(now) };
    const tide_statistics *before = &thread->previous;
    expect(thread, tide_statistics_get(thread->run->engine, &now), TIDE_SUCCESS, "tide_statistics_get", 0);
    if (now.available_pages > now.total_pages || now.commit_total_pages > now.commit_limit_pages + now.bad_pages ||
        now.page_file_used_slots > now.page_file_total_slots)
        fail(thread, "statistics: available %llu of %llu, commit %llu of %llu, slots %llu of %llu",
             (unsigned long long)now.available_pages, (unsigned long long)now.total_pages,
             (unsigned long long)now.commit_total_pages, (unsigned long long)now.commit_limit_pages,
             (unsigned long long)now.page_file_used_slots, (unsigned long long)now.page_file_total_slots);
    const struct {
        const char *name;
        uint64_t before, now;
    } monotone[] = {
        { "faults", before->faults.page_faults, now.faults.page_faults },
        { "demand-zero faults", before->faults.demand_zero, now.faults.demand_zero },
        { "soft faults", before->faults.transition, now.faults.transition },
        { "hard faults", before->faults.hard, now.faults.hard },
        { "pages read", before->pages_input, now.pages_input },
        { "pages written", before->pages_output, now.pages_output },
        { "pages trimmed", before->trimmed, now.trimmed },
        { "peak of the commit charge", before->commit_peak_pages, now.commit_peak_pages },
    };
    for (size_t i = 0; i < sizeof(monotone) / sizeof(monotone[0]); i++) {
        if (monotone[i].now < monotone[i].before)
            fail(thread, "statistics: %s went back from %llu to %llu", monotone[i].name,
                 (unsigned long long)monotone[i].before, (unsigned long long)monotone[i].now);
    }
    thread->previous = now;
    tide_node_statistics node;
    const unsigned index = (unsigned)draw(thread, thread->run->node_count);
    expect(thread, tide_node_statistics_get(thread->run->engine, index, &node), TIDE_SUCCESS,
           "tide_node_statistics_get", 0);
    expect(thread, tide_node_statistics_get(thread->run->engine, thread->run->node_count, &node),
           TIDE_INVALID_PARAMETER, "tide_node_statistics_get of a node that does not exist", 0);
}

/* ---- the engine's own work, from outside ------------------------------------------------------------------------ */

void expect_writer(struct stress_thread *thread, tide_status status, const char *what)
{
    if (status == TIDE_IO_ERROR && thread->run->options.faults > 0)
        return;
    expect(thread, status, TIDE_SUCCESS, what, 0);
}

/* Rare, since memory is to be short most of the time. */
void op_engine_empty(struct stress_thread *thread)
{
    if (!one_in(thread, 50))
        return;
    const tide_empty what = (tide_empty)draw(thread, 5);
    if (what == TIDE_EMPTY_MODIFIED && thread->run->options.pagefile_bytes == 0)
        return;
    expect_writer(thread, tide_engine_empty(thread->run->engine, what), "tide_engine_empty");
}

void op_worker_step(struct stress_thread *thread)
{
    uint64_t done = 0;
    const uint64_t budget = 1 + draw(thread, 64);
    const unsigned node = (unsigned)draw(thread, thread->run->node_count);
    const tide_worker worker = (tide_worker)draw(thread, TIDE_WORKER_COUNT);
    expect_writer(thread, tide_worker_step(thread->run->engine, worker, node, budget, &done), "tide_worker_step");
    /* What a page file has got written that took longer than an earlier step waited comes on top. */
    if (done >= budget + 64 && worker != TIDE_WORKER_MODIFIED_WRITER)
        fail(thread, "tide_worker_step with a budget of %llu pages handled %llu", (unsigned long long)budget,
             (unsigned long long)done);
}

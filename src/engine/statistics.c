/*
 * Statistics: sums of counters that live per CPU, per shard and per space, taken when asked for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <string.h>

static void faults_fill(const uint64_t *values, tide_fault_counters *faults)
{
    memset(faults, 0, sizeof *faults);
    faults->demand_zero = values[SPACE_DEMAND_ZERO];
    faults->transition_standby = values[SPACE_STANDBY];
    faults->transition_modified = values[SPACE_MODIFIED];
    faults->transition_write_in_progress = values[SPACE_WRITE_IN_PROGRESS];
    faults->transition =
        faults->transition_standby + faults->transition_modified + faults->transition_write_in_progress;
    faults->hard = values[SPACE_HARD];
    faults->collided = values[SPACE_COLLIDED];
    faults->access_violations = values[SPACE_VIOLATIONS];
    faults->in_page_errors = values[SPACE_IN_PAGE_ERRORS];
    const uint64_t resolved = faults->demand_zero + faults->transition + faults->hard;
    faults->guard = values[SPACE_GUARD_HITS];
    faults->page_faults =
        resolved + faults->collided + faults->access_violations + faults->in_page_errors + faults->guard;
    faults->local = resolved > values[SPACE_REMOTE] ? resolved - values[SPACE_REMOTE] : 0;
}

static void space_counters_sum(const tide_space *space, uint64_t *values)
{
    for (unsigned c = 0; c < SPACE_COUNTER_COUNT; c++)
        values[c] += space_counter(space, (enum space_counter)c);
}

void space_faults_fill(const tide_space *space, tide_fault_counters *faults)
{
    uint64_t values[SPACE_COUNTER_COUNT] = { 0 };

    space_counters_sum(space, values);
    faults_fill(values, faults);
}

/*
 * One reading of a node's lists and caches. A frame that moves from one to the other meanwhile may be counted twice,
 * which shows when hardly any frame is in use. What is too many is left out: no figure promises more than there is.
 */
static void node_counts(const struct frames *frames, unsigned node, struct frames_counts *counts)
{
    frames_counts(frames, node, counts);
    uint64_t over = counts->available > frames->nodes[node].count ? counts->available - frames->nodes[node].count : 0;
    /* First where frames move the most. */
    uint64_t *parts[4 + 8] = { &counts->cached_zeroed, &counts->cached_free, &counts->lists[FRAME_LIST_ZEROED],
                               &counts->lists[FRAME_LIST_FREE] };

    for (unsigned p = 0; p < 8; p++)
        parts[4 + p] = &counts->lists[FRAME_LIST_STANDBY + p];
    for (unsigned i = 0; i < sizeof parts / sizeof parts[0] && over != 0; i++) {
        const uint64_t cut = *parts[i] < over ? *parts[i] : over;

        *parts[i] -= cut;
        counts->available -= cut;
        over -= cut;
    }
}

/* Where the frames are: one reading of each node's lists, from which everything is made, so that it agrees. */
static void places_fill(const struct frames *frames, tide_statistics *statistics)
{
    uint64_t elsewhere = 0;

    for (unsigned n = 0; n < frames->node_count; n++) {
        struct frames_counts counts;

        node_counts(frames, n, &counts);
        statistics->zeroed_pages += counts.lists[FRAME_LIST_ZEROED] + counts.cached_zeroed;
        statistics->free_pages += counts.lists[FRAME_LIST_FREE] + counts.cached_free;
        for (unsigned p = 0; p < 8; p++)
            statistics->standby_pages[p] += counts.lists[FRAME_LIST_STANDBY + p];
        statistics->modified_pages += counts.lists[FRAME_LIST_MODIFIED] + counts.lists[FRAME_LIST_MODIFIED_NO_WRITE];
        statistics->bad_pages += counts.lists[FRAME_LIST_BAD];
        statistics->transition_pages += counts.transition;
        statistics->available_pages += counts.available;
    }
    for (unsigned p = 0; p < 8; p++)
        *(p < 4   ? &statistics->standby_reserve_pages
          : p < 6 ? &statistics->standby_normal_pages
                  : &statistics->standby_core_pages) += statistics->standby_pages[p];
    elsewhere =
        statistics->available_pages + statistics->modified_pages + statistics->bad_pages + statistics->transition_pages;
    statistics->active_pages = frames->total > elsewhere ? frames->total - elsewhere : 0;
}

static void statistics_fill(tide_engine *engine, tide_statistics *statistics)
{
    QUIET_SCOPE();
    uint64_t values[SPACE_COUNTER_COUNT];
    struct stores_statistics stores;
    struct grace_report grace;
    struct partition *partition = &engine->partition;
    struct frames *frames = partition->frames;
    memset(statistics, 0, sizeof *statistics);
    statistics->struct_bytes = sizeof *statistics;
    statistics->timestamp_ns = workers_clock_ns(engine->workers);
    statistics->node_count = frames->node_count;
    statistics->cpu_count = frames->cpu_count;
    sync_lock(&partition->lock);
    memcpy(values, partition->retired.values, sizeof values);
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next) {
        space_counters_sum(space, values);
        statistics->table_pages += sync_load_relaxed_64(&space->table.table_pages);
    }
    statistics->spaces = partition->space_count;
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next)
        statistics->locked_pages += sync_load_relaxed_64(&space->locked_pages);
    sync_unlock(&partition->lock);
    faults_fill(values, &statistics->faults);
    statistics->trimmed = values[SPACE_TRIMMED];
    statistics->pages_input = sync_load_relaxed_64(&partition->io.pages_input);
    statistics->page_reads = sync_load_relaxed_64(&partition->io.page_reads);
    statistics->pages_output = sync_load_relaxed_64(&partition->io.pages_output);
    statistics->page_writes = sync_load_relaxed_64(&partition->io.page_writes);
    statistics->read_errors = sync_load_relaxed_64(&partition->io.read_errors);
    statistics->write_errors = sync_load_relaxed_64(&partition->io.write_errors);
    statistics->pages_together = sync_load_relaxed_64(&partition->io.pages_together);
    statistics->pages_prefetched = sync_load_relaxed_64(&partition->io.pages_prefetched);
    statistics->reset_pages_lost = sync_load_relaxed_64(&frames->reset_lost);
    for (unsigned c = 0; c < frames->cpu_count; c++) {
        statistics->inline_zeroed += sync_load_relaxed_64(&frames->cpus[c].inline_zeroed);
        for (unsigned p = 0; p < 8; p++)
            statistics->repurposed[p] += sync_load_relaxed_64(&frames->cpus[c].repurposed[p]);
    }
    for (unsigned n = 0; n < frames->node_count; n++)
        statistics->background_zeroed += sync_load_relaxed_64(&frames->nodes[n].background_zeroed);
    places_fill(frames, statistics);
    for (unsigned p = 0; p < 8; p++)
        statistics->transition_pages_repurposed += statistics->repurposed[p];
    statistics->frame_waits = sync_load_relaxed_64(&frames->waits);
    statistics->total_pages = frames->total;
    statistics->bad_pages_pending = sync_load_32(&frames->bad.pending);
    statistics->pages_lost = sync_load_64(&partition->bad_pages_lost);
    /* Both of one moment: the limit moves when page files do, and the charge is never seen above it. */
    for (unsigned attempt = 0; attempt < 16; attempt++) {
        statistics->commit_limit_pages = sync_load_64(&partition->commit.limit);
        statistics->commit_total_pages = commit_total(&partition->commit);
        if (sync_load_64(&partition->commit.limit) == statistics->commit_limit_pages)
            break;
    }
    statistics->commit_peak_pages = commit_peak(&partition->commit);
    statistics->commit_limit_maximum_pages = commit_maximum_limit(&partition->commit);
    stores_statistics_get(partition->stores, &stores);
    statistics->page_file_total_slots = stores.total_slots;
    statistics->page_file_used_slots = stores.used_slots;
    statistics->page_file_bad_slots = stores.bad_slots;
    statistics->page_file_reserved_slots = stores.reserved_slots;
    statistics->page_file_extensions = sync_load_relaxed_64(&engine->workers->extender.extensions);
    statistics->page_file_extension_failures = sync_load_relaxed_64(&engine->workers->extender.failures);
    statistics->page_file_shrinks = sync_load_relaxed_64(&engine->workers->extender.shrinks);
    statistics->pfn_database_bytes = frames->total * sizeof(struct pfn);
    statistics->overhead_bytes = frames->pfn_bytes + frames->list_bytes + frames->cpu_bytes +
                                 frames->node_count * sizeof(struct frames_node) + sizeof *partition->waits +
                                 sizeof *engine + sizeof *frames;
    statistics->zero_page_cpu_ns = workers_cpu_ns(engine->workers, TIDE_WORKER_ZERO_PAGE);
    statistics->writer_cpu_ns = workers_cpu_ns(engine->workers, TIDE_WORKER_MODIFIED_WRITER);
    statistics->trimmer_cpu_ns = workers_cpu_ns(engine->workers, TIDE_WORKER_TRIMMER);
    statistics->extender_cpu_ns = workers_cpu_ns(engine->workers, TIDE_WORKER_EXTENDER);
    grace_report(&frames->grace, &grace);
    statistics->grace_epoch = grace.epoch;
    statistics->open_sections = grace.open_sections;
    statistics->stale_sections = grace.stale_sections;
    statistics->longest_section_tid = grace.longest_tid;
}

tide_status tide_statistics_get(tide_engine *engine, tide_statistics *statistics)
{
    tide_status status = engine_check(engine);
    tide_statistics filled;

    if (!tide_failed(status))
        status = PLACE_CHECK(statistics);
    if (tide_failed(status))
        return status;
    statistics_fill(engine, &filled);
    *statistics = filled;
    return TIDE_SUCCESS;
}

tide_status tide_page_file_statistics_get(tide_engine *engine, unsigned index, tide_page_file_statistics *statistics)
{
    QUIET_SCOPE();
    tide_status status = engine_check(engine);
    struct stores_file_statistics file;

    if (tide_failed(status))
        return status;
    struct stores *const stores = engine->partition.stores;
    if (index >= stores_file_count(stores))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "page file %u; the engine has %u", index,
                         stores_file_count(stores));
    status = PLACE_CHECK(statistics);
    if (tide_failed(status))
        return status;
    stores_file_statistics_get(stores, index, &file);
    *statistics = (tide_page_file_statistics){
        .struct_bytes = sizeof *statistics,
        .total_slots = file.slots,
        .minimum_slots = file.minimum_slots,
        .maximum_slots = file.maximum_slots,
        .used_slots = file.used_slots,
        .peak_used_slots = file.peak_used_slots,
        .reserved_slots = file.reserved_slots,
        .bad_slots = file.bad_slots,
        .reads = file.reads,
        .writes = file.writes,
        .pages_input = file.pages_input,
        .pages_output = file.pages_output,
    };
    return TIDE_SUCCESS;
}

tide_status tide_node_statistics_get(tide_engine *engine, unsigned node, tide_node_statistics *statistics)
{
    tide_status status = engine_check(engine);
    struct frames_counts counts;

    if (!tide_failed(status))
        status = engine_node_check(engine, node);
    if (tide_failed(status))
        return status;
    const struct frames *frames = engine->partition.frames;
    if (statistics == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the statistics is NULL");
    memset(statistics, 0, sizeof *statistics);
    node_counts(frames, node, &counts);
    statistics->frames = frames->nodes[node].count;
    statistics->zeroed = counts.lists[FRAME_LIST_ZEROED] + counts.cached_zeroed;
    statistics->free = counts.lists[FRAME_LIST_FREE] + counts.cached_free;
    for (unsigned p = 0; p < 8; p++)
        statistics->standby[p] = counts.lists[FRAME_LIST_STANDBY + p];
    statistics->modified = counts.lists[FRAME_LIST_MODIFIED];
    statistics->modified_no_write = counts.lists[FRAME_LIST_MODIFIED_NO_WRITE];
    statistics->bad = counts.lists[FRAME_LIST_BAD];
    statistics->transition = counts.transition;
    statistics->available = counts.available;
    const uint64_t elsewhere = counts.available + statistics->modified + statistics->modified_no_write +
                               statistics->bad + statistics->transition;
    statistics->active = statistics->frames > elsewhere ? statistics->frames - elsewhere : 0;
    return TIDE_SUCCESS;
}

static void space_statistics_fill(tide_space *space, tide_space_statistics *statistics)
{
    struct quiet quiet;

    memset(statistics, 0, sizeof *statistics);
    statistics->struct_bytes = sizeof *statistics;
    space_faults_fill(space, &statistics->faults);
    space_peak_update(space);
    statistics->working_set_pages = space_working_set_pages(space);
    statistics->peak_working_set_pages = sync_load_relaxed_64(&space->working_set.peak);
    statistics->table_pages = sync_load_relaxed_64(&space->table.table_pages);
    statistics->id = space->id;
    statistics->timestamp_ns = workers_clock_ns(engine_of(space)->workers);
    quiet_lock(&space->lock, &quiet);
    statistics->private_pages = commit_total(&space->commit);
    statistics->peak_private_pages = commit_peak(&space->commit);
    statistics->peak_virtual_bytes = space->peak_virtual_pages * TIDE_PAGE_BYTES;
    statistics->virtual_bytes = space->vads.pages * TIDE_PAGE_BYTES;
    statistics->regions = space->vads.count;
    statistics->locked_pages = sync_load_relaxed_64(&space->locked_pages);
    statistics->offered_pages = sync_load_relaxed_64(&space->offered_pages);
    quiet_unlock(&space->lock, &quiet);
}

tide_status tide_space_statistics_get(tide_space *space, tide_space_statistics *statistics)
{
    tide_status status = space_check(space);
    tide_space_statistics filled;

    if (!tide_failed(status))
        status = PLACE_CHECK(statistics);
    if (tide_failed(status))
        return status;
    space_statistics_fill(space, &filled);
    *statistics = filled;
    return TIDE_SUCCESS;
}

/* ---- rates and NT's structures ---------------------------------------------------------------------------------- */

tide_status tide_statistics_rates(const tide_statistics *before, const tide_statistics *after, tide_rates *rates)
{
    if (before == NULL || after == NULL || rates == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "a snapshot or the place for the rates is NULL");
    if (before->struct_bytes != sizeof *before || after->struct_bytes != sizeof *after)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "struct_bytes must be %zu and is %zu in the earlier and %zu in the later snapshot",
                         sizeof *before, before->struct_bytes, after->struct_bytes);
    if (after->timestamp_ns <= before->timestamp_ns)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "the later snapshot was taken at %lu ns, the earlier at %lu ns: there must be time between",
                         after->timestamp_ns, before->timestamp_ns);
    const double seconds = (double)(after->timestamp_ns - before->timestamp_ns) / 1e9;
    const struct {
        const char *name;
        uint64_t before, after;
        double *rate;
    } rows[] = {
        { "page faults", before->faults.page_faults, after->faults.page_faults, &rates->page_faults },
        { "demand zero faults", before->faults.demand_zero, after->faults.demand_zero, &rates->demand_zero_faults },
        { "transition faults", before->faults.transition, after->faults.transition, &rates->transition_faults },
        { "hard faults", before->faults.hard, after->faults.hard, &rates->hard_faults },
        { "pages input", before->pages_input, after->pages_input, &rates->pages_input },
        { "page reads", before->page_reads, after->page_reads, &rates->page_reads },
        { "pages output", before->pages_output, after->pages_output, &rates->pages_output },
        { "page writes", before->page_writes, after->page_writes, &rates->page_writes },
        { "pages repurposed", before->transition_pages_repurposed, after->transition_pages_repurposed,
          &rates->transition_pages_repurposed },
        { "pages trimmed", before->trimmed, after->trimmed, &rates->pages_trimmed },
        { "pages zeroed", before->inline_zeroed + before->background_zeroed,
          after->inline_zeroed + after->background_zeroed, &rates->pages_zeroed },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].after < rows[i].before)
            return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                             "%s were %lu in the earlier snapshot and are %lu in the later: not of one engine",
                             rows[i].name, rows[i].before, rows[i].after);
    rates->seconds = seconds;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        *rows[i].rate = (double)(rows[i].after - rows[i].before) / seconds;
    return TIDE_SUCCESS;
}

tide_status tide_performance_information_get(tide_engine *engine, tide_performance_information *information)
{
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    struct grace_report grace;
    tide_status status = engine_check(engine);

    if (!tide_failed(status))
        status = PLACE_CHECK(information);
    if (!tide_failed(status))
        status = tide_statistics_get(engine, &statistics);
    if (tide_failed(status))
        return status;
    grace_report(&engine->partition.frames->grace, &grace);
    *information = (tide_performance_information){
        .struct_bytes = sizeof *information,
        .commit_total = statistics.commit_total_pages,
        .commit_limit = statistics.commit_limit_pages,
        .commit_peak = statistics.commit_peak_pages,
        .physical_total = statistics.total_pages - statistics.bad_pages,
        .physical_available = statistics.available_pages,
        .system_cache =
            statistics.standby_reserve_pages + statistics.standby_normal_pages + statistics.standby_core_pages,
        .page_bytes = TIDE_PAGE_BYTES,
        .space_count = statistics.spaces,
        .thread_count = grace.threads,
    };
    return TIDE_SUCCESS;
}

/* What can still be charged. */
static uint64_t commit_room(struct commit *commit)
{
    const uint64_t charge = commit_total(commit), limit = sync_load_64(&commit->limit);

    return limit > charge ? limit - charge : 0;
}

tide_status tide_memory_status_get(tide_space *space, tide_memory_status *memory)
{
    QUIET_SCOPE();
    tide_status status = space_check(space);
    uint64_t available = 0;

    if (!tide_failed(status))
        status = PLACE_CHECK(memory);
    if (tide_failed(status))
        return status;
    const struct frames *frames = space_frames(space);
    struct commit *commit = &space->partition->commit;
    for (unsigned n = 0; n < frames->node_count; n++)
        available += frames_available(frames, n);
    const uint64_t usable = frames_usable(frames);
    if (available > usable) /* frames that moved while they were counted */
        available = usable;
    const uint64_t of_engine = commit_room(commit), of_space = commit_room(&space->commit);
    const uint64_t limit = sync_load_64(&commit->limit), own_limit = sync_load_64(&space->commit.limit);
    sync_lock(&space->lock);
    const uint64_t reserved = space->vads.pages * TIDE_PAGE_BYTES;
    sync_unlock(&space->lock);
    memory->memory_load_percent = usable == 0 ? 100 : (unsigned)((usable - available) * 100 / usable);
    memory->total_physical_bytes = usable * TIDE_PAGE_BYTES;
    memory->available_physical_bytes = available * TIDE_PAGE_BYTES;
    memory->total_commit_bytes = (limit < own_limit ? limit : own_limit) * TIDE_PAGE_BYTES;
    memory->available_commit_bytes = (of_engine < of_space ? of_engine : of_space) * TIDE_PAGE_BYTES;
    memory->total_virtual_bytes = TIDE_HIGHEST_ADDRESS - TIDE_LOWEST_ADDRESS + 1;
    memory->available_virtual_bytes = memory->total_virtual_bytes - reserved;
    return TIDE_SUCCESS;
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static void frame_describe(const struct frames *frames, frame_t frame, tide_page_info *info)
{
    const struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t word = sync_load_64(&pfn->word);
    const uint64_t original = sync_load_relaxed_64(&pfn->original);

    info->frame = frame.number;
    info->node = frame_node(frames, frame);
    info->dirty = (word & PFN_DIRTY) != 0;
    info->priority = pfn_priority(word);
    if (original != 0 && !(word & PFN_WRITE_IN_PROGRESS)) {
        info->page_file = pte_slot((pte_t){ original }).file;
        info->slot = pte_slot((pte_t){ original }).slot;
    }
    switch (pfn_state(word)) {
    case FRAME_STANDBY:
        info->state = TIDE_PAGE_STATE_STANDBY;
        break;
    case FRAME_MODIFIED:
    case FRAME_MODIFIED_NO_WRITE:
        info->state = TIDE_PAGE_STATE_MODIFIED;
        break;
    case FRAME_TRANSITION:
        info->state = TIDE_PAGE_STATE_TRANSITION;
        break;
    default:
        info->state = TIDE_PAGE_STATE_ACTIVE;
    }
}

static void page_describe(const tide_space *space, uint64_t page, pte_t seen, tide_page_info *info)
{
    *info = (tide_page_info){ .frame = UINT64_MAX, .node = TIDE_NO_PREFERRED_NODE };
    info->protection = pte_page_protection_of(pte_protection(seen));
    if (seen.bits == 0) {
        const struct vad *vad = vad_find(&space->vads, page);
        info->protection = vad == NULL ? 0 : pte_page_protection_of(sync_load_32(&vad->commit_state) & ~VAD_GONE);
        info->state = info->protection == 0 ? TIDE_PAGE_STATE_FREE : TIDE_PAGE_STATE_DEMAND_ZERO;
        return;
    }
    if (pte_is_valid(seen)) {
        frame_describe(space_frames(space), pte_frame(seen), info);
        info->state = TIDE_PAGE_STATE_ACTIVE;
        info->valid = true;
        info->age = pte_age(seen);
        return;
    }
    switch (pte_tag(seen)) {
    case PTE_TAG_NONE:
        info->state = seen.bits & PTE_BAD ? TIDE_PAGE_STATE_LOST : TIDE_PAGE_STATE_DEMAND_ZERO;
        break;
    case PTE_TAG_TRANSITION:
        frame_describe(space_frames(space), pte_frame(seen), info);
        break;
    case PTE_TAG_PAGE_FILE:
        info->state = TIDE_PAGE_STATE_PAGE_FILE;
        info->page_file = pte_slot(seen).file;
        info->slot = pte_slot(seen).slot;
        break;
    case PTE_TAG_BUSY:
        info->state = TIDE_PAGE_STATE_BUSY;
        break;
    default:
        info->state = TIDE_PAGE_STATE_FREE;
    }
}

tide_status tide_page_query(tide_space *space, tide_address address, tide_page_info *info)
{
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (info == NULL || address > TIDE_HIGHEST_ADDRESS)
        return error_set(TIDE_INVALID_PARAMETER, 0, address,
                         info == NULL ? "the place for the page's data is NULL"
                                      : "address 0x%lx lies past the highest address 0x%llx",
                         address, TIDE_HIGHEST_ADDRESS);
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    tide_page_info described;
    grace_enter(thread);
    const uint64_t *pte = page_table_find(&space->table, address / TIDE_PAGE_BYTES);
    pte_t seen;
    do { /* until what its frame says belongs to it */
        seen = pte == NULL ? (pte_t){ 0 } : pte_load(pte);
        page_describe(space, address / TIDE_PAGE_BYTES, seen, &described);
    } while (pte != NULL && pte_load(pte).bits != seen.bits);
    grace_leave(thread);
    *info = described;
    return TIDE_SUCCESS;
}

tide_status tide_node_info_get(tide_engine *engine, unsigned node, tide_node_info *info)
{
    tide_status status = engine_check(engine);

    if (!tide_failed(status))
        status = engine_node_check(engine, node);
    if (tide_failed(status))
        return status;
    const struct topology *topology = engine->partition.topology;
    if (info == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the node's data is NULL");
    *info = (tide_node_info){ .os_index = topology->nodes[node].os_index,
                              .cpu_count = topology->nodes[node].cpu_count,
                              .memory_bytes = topology->nodes[node].memory_bytes };
    memcpy(info->distance, topology->nodes[node].distance, sizeof info->distance);
    return TIDE_SUCCESS;
}

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

tide_status tide_statistics_get(tide_engine *engine, tide_statistics *statistics)
{
    const tide_status status = engine_check(engine);
    uint64_t values[SPACE_COUNTER_COUNT];
    struct stores_statistics stores;
    struct grace_report grace;

    if (tide_failed(status))
        return status;
    if (statistics == NULL || statistics->struct_bytes != sizeof *statistics)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "struct_bytes must be %zu and is %zu", sizeof *statistics,
                         statistics == NULL ? 0 : statistics->struct_bytes);
    struct partition *partition = &engine->partition;
    struct frames *frames = partition->frames;
    memset(statistics, 0, sizeof *statistics);
    statistics->struct_bytes = sizeof *statistics;
    statistics->node_count = frames->node_count;
    statistics->cpu_count = frames->cpu_count;
    sync_lock(&partition->lock);
    memcpy(values, partition->retired.values, sizeof values);
    for (const tide_space *space = partition->spaces; space != NULL; space = space->next) {
        space_counters_sum(space, values);
        statistics->table_pages += sync_load_relaxed_64(&space->table.table_pages);
    }
    statistics->spaces = partition->space_count;
    sync_unlock(&partition->lock);
    faults_fill(values, &statistics->faults);
    statistics->trimmed = values[SPACE_TRIMMED];
    statistics->pages_input = sync_load_relaxed_64(&partition->io.pages_input);
    statistics->page_reads = sync_load_relaxed_64(&partition->io.page_reads);
    statistics->pages_output = sync_load_relaxed_64(&partition->io.pages_output);
    statistics->page_writes = sync_load_relaxed_64(&partition->io.page_writes);
    statistics->read_errors = sync_load_relaxed_64(&partition->io.read_errors);
    statistics->write_errors = sync_load_relaxed_64(&partition->io.write_errors);
    for (unsigned c = 0; c < frames->cpu_count; c++) {
        statistics->inline_zeroed += sync_load_relaxed_64(&frames->cpus[c].inline_zeroed);
        for (unsigned p = 0; p < 8; p++)
            statistics->repurposed[p] += sync_load_relaxed_64(&frames->cpus[c].repurposed[p]);
    }
    for (unsigned n = 0; n < frames->node_count; n++) {
        statistics->background_zeroed += sync_load_relaxed_64(&frames->nodes[n].background_zeroed);
        statistics->available_pages += frames_available(frames, n);
    }
    statistics->frame_waits = sync_load_relaxed_64(&frames->waits);
    statistics->total_pages = frames->total;
    /* Both of one moment: the limit moves when page files do, and the charge is never seen above it. */
    for (unsigned attempt = 0; attempt < 16; attempt++) {
        statistics->commit_limit_pages = sync_load_64(&partition->commit.limit);
        statistics->commit_total_pages = commit_total(&partition->commit);
        if (sync_load_64(&partition->commit.limit) == statistics->commit_limit_pages)
            break;
    }
    statistics->commit_peak_pages = commit_peak(&partition->commit);
    stores_statistics_get(partition->stores, &stores);
    statistics->page_file_total_slots = stores.total_slots;
    statistics->page_file_used_slots = stores.used_slots;
    statistics->page_file_bad_slots = stores.bad_slots;
    statistics->page_file_reserved_slots = stores.reserved_slots;
    statistics->commit_limit_maximum_pages = sync_load_relaxed_64(&partition->commit.maximum);
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
    return TIDE_SUCCESS;
}

tide_status tide_page_file_statistics_get(tide_engine *engine, unsigned index, tide_page_file_statistics *statistics)
{
    const tide_status status = engine_check(engine);
    struct stores_file_statistics file;

    if (tide_failed(status))
        return status;
    struct stores *const stores = engine->partition.stores;
    if (index >= stores_file_count(stores))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "page file %u; the engine has %u", index,
                         stores_file_count(stores));
    if (statistics == NULL || statistics->struct_bytes != sizeof *statistics)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "struct_bytes must be %zu and is %zu", sizeof *statistics,
                         statistics == NULL ? 0 : statistics->struct_bytes);
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
    const tide_status status = engine_check(engine);
    struct frames_counts counts;

    if (tide_failed(status))
        return status;
    const struct frames *frames = engine->partition.frames;
    if (node >= frames->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node,
                         frames->node_count - 1);
    if (statistics == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the statistics is NULL");
    memset(statistics, 0, sizeof *statistics);
    frames_counts(frames, node, &counts);
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

tide_status tide_space_statistics_get(tide_space *space, tide_space_statistics *statistics)
{
    const tide_status status = space_check(space);
    uint64_t values[SPACE_COUNTER_COUNT] = { 0 };

    if (tide_failed(status))
        return status;
    if (statistics == NULL || statistics->struct_bytes != sizeof *statistics)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "struct_bytes must be %zu and is %zu", sizeof *statistics,
                         statistics == NULL ? 0 : statistics->struct_bytes);
    memset(statistics, 0, sizeof *statistics);
    statistics->struct_bytes = sizeof *statistics;
    space_counters_sum(space, values);
    faults_fill(values, &statistics->faults);
    space_peak_update(space);
    statistics->working_set_pages = space_working_set_pages(space);
    statistics->peak_working_set_pages = sync_load_relaxed_64(&space->working_set.peak);
    statistics->table_pages = sync_load_relaxed_64(&space->table.table_pages);
    sync_lock(&space->lock);
    statistics->private_pages = commit_total(&space->commit);
    statistics->virtual_bytes = space->vads.pages * TIDE_PAGE_BYTES;
    statistics->regions = space->vads.count;
    sync_unlock(&space->lock);
    return TIDE_SUCCESS;
}

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
    *info = (tide_page_info){ .frame = UINT64_MAX, .node = TIDE_NO_PREFERRED_NODE };
    grace_enter(thread);
    const uint64_t *pte = page_table_find(&space->table, address / TIDE_PAGE_BYTES);
    const pte_t seen = pte == NULL ? (pte_t){ 0 } : pte_load(pte);
    info->protection = pte_page_protection_of(pte_protection(seen));
    if (seen.bits == 0) {
        const struct vad *vad = vad_find(&space->vads, address / TIDE_PAGE_BYTES);
        info->protection = vad == NULL ? 0 : pte_page_protection_of(sync_load_32(&vad->commit_state) & ~VAD_GONE);
        info->state = info->protection == 0 ? TIDE_PAGE_STATE_FREE : TIDE_PAGE_STATE_DEMAND_ZERO;
    } else if (pte_is_valid(seen)) {
        frame_describe(space_frames(space), pte_frame(seen), info);
        info->state = TIDE_PAGE_STATE_ACTIVE;
        info->valid = true;
        info->age = pte_age(seen);
    } else {
        switch (pte_tag(seen)) {
        case PTE_TAG_NONE:
            info->state = TIDE_PAGE_STATE_DEMAND_ZERO;
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
    grace_leave(thread);
    return TIDE_SUCCESS;
}

tide_status tide_node_info_get(tide_engine *engine, unsigned node, tide_node_info *info)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    const struct topology *topology = engine->partition.topology;
    if (node >= topology->node_count)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "node %u, and the highest node is %u", node,
                         topology->node_count - 1);
    if (info == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the node's data is NULL");
    *info = (tide_node_info){ .os_index = topology->nodes[node].os_index,
                              .cpu_count = topology->nodes[node].cpu_count,
                              .memory_bytes = topology->nodes[node].memory_bytes };
    memcpy(info->distance, topology->nodes[node].distance, sizeof info->distance);
    return TIDE_SUCCESS;
}

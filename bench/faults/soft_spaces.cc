/*
 * Owners of engines and spaces.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "soft_spaces.h"

#include <chrono>

namespace bench {

[[noreturn]] void throw_tide(const char *what, tide_status status)
{
    throw std::runtime_error(std::string(what) + ": " + tide_status_name(status) + ": " + tide_last_error()->message);
}

/* ---- engine ------------------------------------------------------------------------------------------------------ */

Engine::Engine(uint64_t frame_bytes, uint64_t page_file_bytes, unsigned cluster_pages, bool on_demand)
{
    tide_config config;
    tide_config_init(&config);
    config.memory_bytes = frame_bytes;
    config.cluster_pages = cluster_pages;
    config.memory_on_demand = on_demand;
    const std::string synthetic = "numa:" + std::to_string(options().nodes) + " core:1 pu:1";
    if (options().nodes != 0)
        config.topology_synthetic = synthetic.c_str();
    static unsigned engines;
    const std::string path = options().directory + "/tide-bench.pagefile." + std::to_string(engines++);
    tide_page_file_config file = { path.c_str(), page_file_bytes, 0 };
    if (page_file_bytes != 0) {
        config.page_files = &file;
        config.page_file_count = 1;
    }
    check(tide_engine_open(&config, &engine_), "tide_engine_open");
}

Engine::~Engine()
{
    tide_status status = tide_engine_close(engine_);
    if (tide_failed(status))
        fprintf(stderr, "tide_engine_close: %s\n", tide_status_name(status));
}

void Engine::empty(tide_empty what)
{
    check(tide_engine_empty(engine_, what), "tide_engine_empty");
}

void Engine::hold(tide_worker worker, bool held)
{
    check(tide_worker_hold(engine_, worker, held), "tide_worker_hold");
}

double Engine::zero_free_frames()
{
    const uint64_t begin = thread_cpu_ns();
    Hold hold(*this, TIDE_WORKER_ZERO_PAGE);
    uint64_t left = 1;
    for (int attempt = 0; left != 0 && attempt < 100; attempt++) {
        if (attempt != 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        empty(TIDE_EMPTY_FREE);
        left = 0;
        for (unsigned node = 0; node < statistics().node_count; node++) {
            tide_node_statistics figures;
            check(tide_node_statistics_get(engine_, node, &figures), "tide_node_statistics_get");
            left += figures.free;
        }
    }
    if (left != 0)
        throw std::runtime_error(std::to_string(left) + " free frames could not be zeroed within 100 attempts");
    return static_cast<double>(thread_cpu_ns() - begin) / 1e9;
}

tide_statistics Engine::statistics() const
{
    tide_statistics statistics = {};
    statistics.struct_bytes = sizeof statistics;
    check(tide_statistics_get(engine_, &statistics), "tide_statistics_get");
    return statistics;
}

void Engine::verify() const
{
    tide_verify_report report = {};
    tide_status status = tide_engine_verify(engine_, &report);
    if (status != TIDE_SUCCESS)
        throw std::runtime_error(std::string("tide_engine_verify: ") + tide_status_name(status) + ", " +
                                 std::to_string(report.violations) + " violations, first: " + report.first);
}

/* ---- spaces ------------------------------------------------------------------------------------------------------ */

Spaces::Spaces(Engine &engine, Space kind, unsigned threads, uint64_t bytes)
    : pages_per_part_(bytes / kPageBytes / threads), parts_(threads)
{
    const unsigned count = kind == Space::kPrivate ? threads : 1;
    for (unsigned i = 0; i < count; i++) {
        tide_space *space;
        check(tide_space_create(engine.get(), &space), "tide_space_create");
        spaces_.push_back(space);
    }
}

Spaces::~Spaces()
{
    for (tide_space *space : spaces_) {
        tide_status status = tide_space_destroy(space);
        if (tide_failed(status))
            fprintf(stderr, "tide_space_destroy: %s\n", tide_status_name(status));
    }
}

void Spaces::commit(uint32_t type)
{
    const uint64_t parts_per_space = parts_.size() / spaces_.size();
    for (size_t s = 0; s < spaces_.size(); s++) {
        tide_address base = 0;
        uint64_t bytes = parts_per_space * pages_per_part_ * kPageBytes;
        check(tide_virtual_alloc(spaces_[s], &base, &bytes, type, TIDE_PAGE_READWRITE), "tide_virtual_alloc");
        for (uint64_t p = 0; p < parts_per_space; p++)
            parts_[s * parts_per_space + p] = { spaces_[s], base + p * pages_per_part_ * kPageBytes, pages_per_part_ };
    }
}

void Spaces::release()
{
    const uint64_t parts_per_space = parts_.size() / spaces_.size();
    for (size_t s = 0; s < spaces_.size(); s++)
        check(tide_virtual_free(spaces_[s], parts_[s * parts_per_space].base, 0, TIDE_MEM_RELEASE),
              "tide_virtual_free");
}

void Spaces::decommit_all_but(uint64_t bytes)
{
    const uint64_t total = pages() * kPageBytes;
    if (bytes < total)
        check(tide_virtual_free(spaces_[0], parts_[0].base + bytes, total - bytes, TIDE_MEM_DECOMMIT),
              "tide_virtual_free");
}

void Spaces::trim()
{
    for (tide_space *space : spaces_)
        check(tide_working_set_empty(space), "tide_working_set_empty");
}

void Spaces::touch_all(Team &team, tide_access_kind kind) const
{
    team.run([&](Lane &lane) {
        const Part &mine = part(lane.index);
        check(tide_touch_range(mine.space, mine.base, mine.pages * kPageBytes, kind), "tide_touch_range");
    });
}

/* ---- counters ---------------------------------------------------------------------------------------------------- */

uint64_t faults_resolved(const tide_fault_counters &faults)
{
    return faults.demand_zero + faults.transition + faults.hard;
}

tide_statistics CounterDelta::delta() const
{
    tide_statistics now = engine_.statistics();
    now.faults.page_faults -= before_.faults.page_faults;
    now.faults.demand_zero -= before_.faults.demand_zero;
    now.faults.transition -= before_.faults.transition;
    now.faults.transition_standby -= before_.faults.transition_standby;
    now.faults.transition_modified -= before_.faults.transition_modified;
    now.faults.transition_write_in_progress -= before_.faults.transition_write_in_progress;
    now.faults.hard -= before_.faults.hard;
    now.faults.collided -= before_.faults.collided;
    now.faults.local -= before_.faults.local;
    now.inline_zeroed -= before_.inline_zeroed;
    now.background_zeroed -= before_.background_zeroed;
    now.frame_waits -= before_.frame_waits;
    now.zero_page_cpu_ns -= before_.zero_page_cpu_ns;
    now.writer_cpu_ns -= before_.writer_cpu_ns;
    now.trimmer_cpu_ns -= before_.trimmer_cpu_ns;
    return now;
}

double CounterDelta::worker_cpu_seconds() const
{
    tide_statistics d = delta();
    return static_cast<double>(d.zero_page_cpu_ns + d.writer_cpu_ns + d.trimmer_cpu_ns) / 1e9;
}

} // namespace bench

/*
 * tide-bench: fault classes and resident access of an engine, and their rivals, by the public API. bench/run drives it,
 * one step at a time; docs/benchmark.md is the method.
 *
 *   tide-bench --step=NAME [--quick] [--rounds=N] [--classes=REGEX] [--nodes=N] [--directory=DIR] [--benchmark_out=FILE ...]
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "harness.h"
#include "limited.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

using namespace bench;

namespace {

const char kUsage[] =
    "usage: tide-bench --step=STEP [options] [Google Benchmark's own --benchmark_... options]\n"
    "  --step=faults|frames|disk|resident|mapped|calls|numa   what to measure\n"
    "  --quick                              smaller and fewer passes\n"
    "  --rounds=N                           repetitions of each case, 1 to 1000 (3 if quick, else 5)\n"
    "  --classes=REGEX                      only classes that match (their rivals run with them)\n"
    "  --nodes=N                            of a synthetic machine, 2 to 64: shows placement, not what distance costs\n"
    "  --directory=DIR                      where page files are created (.)\n";

/* One line for each case as it ends. */
class ProgressReporter : public benchmark::BenchmarkReporter {
  public:
    bool ReportContext(const Context &) override
    {
        begin_ns_ = now_ns();
        return true;
    }

    void ReportRuns(const std::vector<Run> &runs) override
    {
        for (const Run &run : runs) {
            done_++;
            const unsigned elapsed = static_cast<unsigned>((now_ns() - begin_ns_) / 1000000000);
            printf("  [%3u/%u] %2u:%02u  %-42s", done_, case_count(), elapsed / 60, elapsed % 60,
                   run.run_name.function_name.c_str());
            if (run.error_occurred)
                printf("  %s%s\n", is_not_measured(run.error_message) ? "" : "FAILED: ", run.error_message.c_str());
            else
                printf("  %9.3f M/s\n", run.counters.at("faults_per_s").value / 1e6);
            fflush(stdout);
        }
    }

  private:
    unsigned done_ = 0;
    uint64_t begin_ns_ = 0;
};

[[noreturn]] void refuse(const std::string &why)
{
    fprintf(stderr, "tide-bench: %s\n%s", why.c_str(), kUsage);
    exit(2);
}

void parse(int argc, char **argv)
{
    Options &o = options();
    for (int i = 1; i < argc; i++) {
        const std::string argument = argv[i];
        const size_t equals = argument.find('=');
        const std::string name = argument.substr(0, equals);
        const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
        if (argument == "--quick") {
            o.quick = true;
        } else if (name == "--step") {
            o.step = value;
        } else if (name == "--rounds") {
            char *end;
            const unsigned long rounds = strtoul(value.c_str(), &end, 10);
            if (*end != 0 || rounds < 1 || rounds > 1000)
                refuse("--rounds must be a number from 1 to 1000, not \"" + value + "\"");
            o.rounds = static_cast<unsigned>(rounds);
        } else if (name == "--nodes") {
            char *end;
            const unsigned long nodes = strtoul(value.c_str(), &end, 10);
            if (*end != 0 || nodes < 2 || nodes > 64)
                refuse("--nodes must be a number from 2 to 64, not \"" + value + "\"");
            o.nodes = static_cast<unsigned>(nodes);
        } else if (name == "--directory" && !value.empty()) {
            o.directory = value;
        } else if (name == "--classes") {
            try {
                o.classes.assign(value);
            } catch (const std::regex_error &) {
                refuse("--classes is no regular expression: \"" + value + "\"");
            }
        } else {
            refuse("unknown option \"" + argument + "\"");
        }
    }
}

void add_context()
{
    const Options &o = options();
    benchmark::AddCustomContext("rounds", std::to_string(o.rounds));
    benchmark::AddCustomContext("quick", o.quick ? "yes" : "no");
    benchmark::AddCustomContext("fault_bytes", std::to_string(o.fault_bytes));
    benchmark::AddCustomContext("rival_bytes", std::to_string(o.rival_bytes));
    benchmark::AddCustomContext("disk_bytes", std::to_string(o.disk_bytes));
    benchmark::AddCustomContext("resident_bytes", std::to_string(o.resident_bytes));
    benchmark::AddCustomContext("mapped_bytes", std::to_string(o.mapped_bytes));
    benchmark::AddCustomContext("budget_bytes", std::to_string(o.budget_bytes));
    benchmark::AddCustomContext("large_engine_bytes", std::to_string(o.large_engine_bytes));
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--limited") == 0)
        return limited_main(argc, argv);
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0) {
            fputs(kUsage, stdout);
            return 0;
        }
    signal(SIGPIPE, SIG_IGN); /* of a rival that has ended */
    benchmark::Initialize(&argc, argv);
    parse(argc, argv);
    try {
        choose_sizes();
    } catch (const std::exception &exception) {
        fprintf(stderr, "tide-bench: %s\n", exception.what());
        return 1;
    }

    const std::string &step = options().step;
    if (step == "faults")
        add_memory_cases();
    else if (step == "frames")
        add_frames_cases();
    else if (step == "disk")
        add_disk_cases();
    else if (step == "resident")
        add_resident_cases();
    else if (step == "mapped")
        add_mapped_cases();
    else if (step == "calls")
        add_calls_cases();
    else if (step == "numa")
        add_numa_cases();
    else
        refuse("--step must be faults, frames, disk, resident, mapped, calls or numa, not \"" + step + "\"");
    if (case_count() == 0) {
        printf("  nothing to run\n");
        return 0;
    }

    add_context();
    ProgressReporter progress;
    benchmark::RunSpecifiedBenchmarks(&progress);
    close_memory_engine();
    close_disk_engine();
    close_resident_engine();
    close_mapped_engine();
    close_calls_engine();
    close_numa_engine();
    benchmark::Shutdown();
    return any_case_failed() ? 1 : 0;
}

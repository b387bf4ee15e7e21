/*
 * What `pagetide run` says at the end of a process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

struct figures {
    tide_statistics engine;
    tide_space_statistics space;
    tide_mapped_statistics mapped;
    tide_page_file_statistics page_file;
    uint64_t maximum_resident_bytes;
    uint64_t forks, fork_bytes;
};

struct text {
    char bytes[4096];
    size_t length;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    const int length = vsnprintf(text->bytes + text->length, sizeof text->bytes - text->length, format, arguments);
    va_end(arguments);
    if (length > 0)
        text->length +=
            (size_t)length < sizeof text->bytes - text->length ? (size_t)length : sizeof text->bytes - text->length - 1;
}

static struct figures figures_get(void)
{
    struct figures f = { .engine.struct_bytes = sizeof f.engine,
                         .space.struct_bytes = sizeof f.space,
                         .mapped.struct_bytes = sizeof f.mapped,
                         .page_file.struct_bytes = sizeof f.page_file,
                         .forks = atomic_load(&run_forks.forks),
                         .fork_bytes = atomic_load(&run_forks.bytes) };
    struct rusage usage;

    (void)tide_statistics_get(run.engine, &f.engine);
    (void)tide_space_statistics_get(run.space, &f.space);
    (void)tide_mapped_query(run.space, &f.mapped);
    (void)tide_page_file_statistics_get(run.engine, 0, &f.page_file);
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        f.maximum_resident_bytes = (uint64_t)usage.ru_maxrss * 1024;
    return f;
}

static const char *pages(char text[24], uint64_t count)
{
    return settings_size_print(text, count * TIDE_PAGE_BYTES);
}

/* A figure, and what there is to say about it. */
__attribute__((format(printf, 4, 5))) static void row(struct text *text, const char *name, const char *figure,
                                                      const char *format, ...)
{
    char remark[160];
    va_list arguments;

    va_start(arguments, format);
    (void)vsnprintf(remark, sizeof remark, format, arguments);
    va_end(arguments);
    add(text, "  %-22s %12s%s%s\n", name, figure, remark[0] != '\0' ? "   " : "", remark);
}

static void count_row(struct text *text, const char *name, uint64_t count, const char *remark)
{
    char figure[24];

    (void)snprintf(figure, sizeof figure, "%" PRIu64, count);
    row(text, name, figure, "%s", remark);
}

static void table_make(struct text *text, const struct figures *f)
{
    const tide_fault_counters *const faults = &f->space.faults;
    const double seconds = (double)f->mapped.fault_ns / 1e9;
    char a[24], b[24], figure[24];

    add(text, "pagetide run: %s, process %ld\n", program_invocation_short_name, (long)getpid());
    row(text, "budget", settings_size_print(a, run.settings.memory_bytes), "faults resolved by %s",
        run.settings.delivery == TIDE_DELIVERY_THREADS ? "threads of the engine" : "the faulting thread");
    row(text, "peak committed", pages(a, f->space.peak_private_pages), "what the program had at most in the space");
    row(text, "peak in memory", pages(a, f->space.peak_working_set_pages), "of it, at the program's hand");
    row(text, "outside", settings_size_print(a, run.outside_bytes),
        "of the budget: what it had before the engine opened");
    row(text, "peak resident", settings_size_print(a, f->maximum_resident_bytes),
        "the whole process, as the kernel counts; engine's records %s",
        settings_size_print(b, f->engine.overhead_bytes));
    count_row(text, "faults", faults->page_faults, "");
    count_row(text, "  demand zero", faults->demand_zero, "first touch");
    count_row(text, "  soft", faults->transition, "was still in memory");
    count_row(text, "  hard", faults->hard, "read from the page file");
    count_row(text, "  others", faults->page_faults - faults->demand_zero - faults->transition - faults->hard,
              "waited for another thread's fault, or had nothing to do");
    count_row(text, "hardware faults", f->mapped.faults, "that came to the engine");
    (void)snprintf(figure, sizeof figure, "%.3f s", seconds);
    row(text, "time in faults", figure, "over all threads, %.1f us each",
        f->mapped.faults != 0 ? (double)f->mapped.fault_ns / 1e3 / (double)f->mapped.faults : 0.0);
    row(text, "written", pages(a, f->engine.pages_output), "in %" PRIu64 " writes", f->engine.page_writes);
    row(text, "read", pages(a, f->engine.pages_input), "in %" PRIu64 " reads", f->engine.page_reads);
    row(text, "peak in page file", pages(a, f->page_file.peak_used_slots), "of %s at most",
        settings_size_print(b, run.settings.page_file_bytes));
    if (f->engine.read_errors + f->engine.write_errors != 0)
        count_row(text, "I/O errors", f->engine.read_errors + f->engine.write_errors, "of the page file");
    if (f->forks != 0) {
        (void)snprintf(figure, sizeof figure, "%" PRIu64, f->forks);
        row(text, "forks", figure, "%s copied to children, which have no budget",
            settings_size_print(a, f->fork_bytes));
    }
}

static void json_make(struct text *text, const struct figures *f)
{
    const tide_fault_counters *const faults = &f->space.faults;

    add(text, "{\"program\": \"");
    for (const char *c = program_invocation_short_name; *c != '\0'; c++)
        add(text, (unsigned char)*c < 0x20 || *c == '"' || *c == '\\' ? "\\u%04x" : "%c", (unsigned char)*c);
    add(text,
        "\", \"process\": %ld, \"budget_bytes\": %" PRIu64 ", \"peak_committed_bytes\": %" PRIu64
        ", \"peak_in_memory_bytes\": %" PRIu64 ", \"outside_bytes\": %" PRIu64 ", \"peak_resident_bytes\": %" PRIu64
        ", \"engine_overhead_bytes\": %" PRIu64,
        (long)getpid(), run.settings.memory_bytes, f->space.peak_private_pages * TIDE_PAGE_BYTES,
        f->space.peak_working_set_pages * TIDE_PAGE_BYTES, run.outside_bytes, f->maximum_resident_bytes,
        f->engine.overhead_bytes);
    add(text,
        ", \"faults\": %" PRIu64 ", \"demand_zero\": %" PRIu64 ", \"soft\": %" PRIu64 ", \"hard\": %" PRIu64
        ", \"hardware_faults\": %" PRIu64 ", \"fault_ns\": %" PRIu64,
        faults->page_faults, faults->demand_zero, faults->transition, faults->hard, f->mapped.faults,
        f->mapped.fault_ns);
    add(text,
        ", \"written_bytes\": %" PRIu64 ", \"writes\": %" PRIu64 ", \"read_bytes\": %" PRIu64 ", \"reads\": %" PRIu64
        ", \"peak_page_file_bytes\": %" PRIu64 ", \"read_errors\": %" PRIu64 ", \"write_errors\": %" PRIu64
        ", \"forks\": %" PRIu64 ", \"fork_bytes\": %" PRIu64 "}\n",
        f->engine.pages_output * TIDE_PAGE_BYTES, f->engine.page_writes, f->engine.pages_input * TIDE_PAGE_BYTES,
        f->engine.page_reads, f->page_file.peak_used_slots * TIDE_PAGE_BYTES, f->engine.read_errors,
        f->engine.write_errors, f->forks, f->fork_bytes);
}

void report_write(void)
{
    static _Atomic(bool) written;
    static struct text text;
    const struct settings *const s = &run.settings;

    /* A child of vfork() or clone() has our memory and is another process. */
    if (run_inside != 0 || run_phase() != PHASE_CAPTURING || getpid() != run.process || atomic_exchange(&written, true))
        return;
    run_enter();
    const struct figures figures = figures_get();
    if (s->json)
        json_make(&text, &figures);
    else
        table_make(&text, &figures);
    run_message(s->report, text.bytes, text.length);
    run_leave();
}

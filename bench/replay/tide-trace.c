/*
 * tide-trace: turns the memory trace of valgrind's lackey tool into a page-access trace (trace.h).
 *
 * Input, on standard input, one line per access: " L address,size" (load), " S" (store), " M" (modify: load and store),
 * "I  address,size" (instruction fetch, ignored unless --fetches). Other lines (valgrind's banner) are skipped.
 *
 * The filter. A program touches the same few pages again and again; such accesses say nothing to a pager, as a
 * processor's translation buffer answers them, and are most of the stream. So the filter remembers the last FILTER
 * distinct pages in order of use, as a fully associative translation buffer does, and passes on an access only if its
 * page is not among them, or if it is the first write to a page that came in by a read (the processor would set the
 * dirty bit). Everything downstream, the engine as well as LRU and Belady, sees the same filtered stream.
 *
 * A trace that came out too large can be narrowed without recording again: --from reads it in place of lackey's lines,
 * and the filter, --skip and --limit apply to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trace.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FILTER_DEFAULT = 16, FILTER_MAX = 64, PAGE_SHIFT = 12, INPUT_BYTES = 1 << 16 };

struct recorder {
    uint64_t recent[FILTER_MAX]; /* virtual page x 2 + written, last used first */
    unsigned recent_count, filter_pages;
    uint64_t skip, limit;   /* filtered accesses to leave out at the start, and to keep at most */
    uint64_t raw, filtered; /* accesses of pages before and after the filter */
    uint64_t *kept;
    uint64_t kept_count, kept_capacity;
};

/* One access to one page. False without memory. */
static bool record_page(struct recorder *recorder, uint64_t page, bool writes)
{
    unsigned at = 0;
    bool known;

    recorder->raw++;
    while (at < recorder->recent_count && recorder->recent[at] >> 1 != page)
        at++;
    known = at < recorder->recent_count;
    const uint64_t before = known ? recorder->recent[at] : 0;
    if (!known) {
        if (recorder->recent_count < recorder->filter_pages)
            recorder->recent_count++;
        at = recorder->recent_count - 1;
    }
    memmove(recorder->recent + 1, recorder->recent, at * sizeof recorder->recent[0]);
    recorder->recent[0] = page << 1 | (writes || (known && (before & 1)));
    if (known && (!writes || (before & 1)))
        return true;
    if (recorder->filtered++ < recorder->skip || recorder->kept_count == recorder->limit)
        return true;
    if (recorder->kept_count == recorder->kept_capacity) {
        const uint64_t capacity = recorder->kept_capacity == 0 ? 1 << 16 : 2 * recorder->kept_capacity;
        uint64_t *kept = realloc(recorder->kept, capacity * sizeof *kept);
        if (kept == NULL)
            return false;
        recorder->kept = kept;
        recorder->kept_capacity = capacity;
    }
    recorder->kept[recorder->kept_count++] = page << 1 | writes;
    return true;
}

/* One line of lackey's. False without memory. */
static bool record_line(struct recorder *recorder, const char *line, bool fetches)
{
    const bool data = line[0] == ' ' && (line[1] == 'L' || line[1] == 'S' || line[1] == 'M') && line[2] == ' ';
    const bool fetch = line[0] == 'I' && line[1] == ' ' && line[2] == ' ';
    uint64_t address, bytes;
    char *end;

    if (!data && !(fetch && fetches))
        return true;
    address = strtoull(line + 3, &end, 16);
    if (*end != ',')
        return true;
    bytes = strtoull(end + 1, NULL, 10);
    if (bytes == 0)
        return true;
    for (uint64_t page = address >> PAGE_SHIFT; page <= (address + bytes - 1) >> PAGE_SHIFT; page++)
        if (!record_page(recorder, page, data && line[1] != 'L'))
            return false;
    return true;
}

/* Standard input, to its end. False with the reason in `error`. */
static bool record_lackey(struct recorder *recorder, bool fetches, char *error, size_t error_bytes)
{
    char line[256];

    setvbuf(stdin, NULL, _IOFBF, INPUT_BYTES);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (!record_line(recorder, line, fetches)) {
            snprintf(error, error_bytes, "no memory for more than %" PRIu64 " accesses", recorder->kept_count);
            return false;
        }
    }
    return true;
}

/* A trace, its regions as far apart as makes them regions again. False with the reason in `error`. */
static bool record_trace(struct recorder *recorder, const char *path, char *error, size_t error_bytes)
{
    struct trace trace;
    uint64_t *pages;
    uint32_t number = 0;
    bool ok;

    if (!trace_load(path, &trace, error, error_bytes))
        return false;
    pages = malloc(((size_t)trace.page_count + 1) * sizeof *pages);
    ok = pages != NULL;
    for (uint32_t region = 0; region < trace.region_count && ok; region++)
        for (uint32_t i = 0; i < trace.region_pages[region]; i++, number++)
            pages[number] = number + (uint64_t)region * TRACE_REGION_GAP_PAGES;
    for (uint64_t i = 0; i < trace.access_count && ok; i++)
        ok = record_page(recorder, pages[trace_access_page(trace.accesses[i])], trace_access_writes(trace.accesses[i]));
    if (!ok)
        snprintf(error, error_bytes, "no memory for %" PRIu64 " accesses", trace.access_count);
    free(pages);
    trace_free(&trace);
    return ok;
}

static void usage(FILE *out)
{
    fprintf(out,
            "usage: tide-trace -o FILE [--from TRACE] [--filter N] [--skip N] [--limit N] [--fetches] < lackey-output\n"
            "  -o FILE      page-access trace to write\n"
            "  --from TRACE read a trace and not lackey's output\n"
            "  --filter N   pages of the filter, 1 to %d [%d]\n"
            "  --skip N     leave out the first N filtered accesses [0]\n"
            "  --limit N    keep at most N filtered accesses [all]\n"
            "  --fetches    instruction fetches count as reads\n",
            FILTER_MAX, FILTER_DEFAULT);
}

/* A decimal argument in [low, high]; ends the program otherwise. */
static uint64_t argument(const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    const uint64_t value = strtoull(text, &end, 10);

    if (text[0] < '0' || text[0] > '9' || *end != '\0' || value < low || value > high) {
        fprintf(stderr, "tide-trace: %s %s: expected a number from %" PRIu64 " to %" PRIu64 "\n", name, text, low,
                high);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "filter", required_argument, NULL, 'f' },
        { "skip", required_argument, NULL, 's' },
        { "limit", required_argument, NULL, 'l' },
        { "fetches", no_argument, NULL, 'i' },
        { "from", required_argument, NULL, 'r' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    struct recorder recorder = { .filter_pages = FILTER_DEFAULT, .limit = TRACE_ACCESSES_MAX };
    const char *output = NULL, *from = NULL;
    bool fetches = false;
    char error[256];
    struct trace trace;
    int option, status = 1;

    while ((option = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
        switch (option) {
        case 'f':
            recorder.filter_pages = (unsigned)argument("--filter", optarg, 1, FILTER_MAX);
            break;
        case 's':
            recorder.skip = argument("--skip", optarg, 0, UINT64_MAX);
            break;
        case 'l':
            recorder.limit = argument("--limit", optarg, 1, TRACE_ACCESSES_MAX);
            break;
        case 'i':
            fetches = true;
            break;
        case 'r':
            from = optarg;
            break;
        case 'o':
            output = optarg;
            break;
        case 'h':
            usage(stdout);
            return 0;
        default:
            usage(stderr);
            return 2;
        }
    }
    if (output == NULL || optind != argc) {
        usage(stderr);
        return 2;
    }
    if (!(from != NULL ? record_trace(&recorder, from, error, sizeof error)
                       : record_lackey(&recorder, fetches, error, sizeof error))) {
        fprintf(stderr, "tide-trace: %s\n", error);
        goto out;
    }
    if (recorder.kept_count == 0) {
        fprintf(stderr, "tide-trace: no memory access in the input\n");
        goto out;
    }
    if (!trace_build(recorder.kept, recorder.kept_count, &trace, error, sizeof error)) {
        fprintf(stderr, "tide-trace: %s\n", error);
        goto out;
    }
    if (trace_save(output, &trace, error, sizeof error)) {
        fprintf(stderr,
                "tide-trace: %s: %" PRIu64 " page accesses, %" PRIu64 " after the filter of %u, %" PRIu64
                " kept, to %u pages in %u regions\n",
                output, recorder.raw, recorder.filtered, recorder.filter_pages, trace.access_count, trace.touched_pages,
                trace.region_count);
        status = 0;
    } else {
        fprintf(stderr, "tide-trace: %s\n", error);
    }
    trace_free(&trace);
out:
    free(recorder.kept);
    return status;
}

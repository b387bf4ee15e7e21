/*
 * Reading, writing and building page-access traces; the format is in trace.h.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

enum { MAGIC_BYTES = 8, LEB_BYTES_MAX = 10, COMPRESSION_LEVEL = 19, WINDOW_LOG = 24 };

static bool fail(char *error, size_t error_bytes, const char *format, ...) __attribute__((format(printf, 3, 4)));

static bool fail(char *error, size_t error_bytes, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error, error_bytes, format, arguments);
    va_end(arguments);
    return false;
}

void trace_free(struct trace *trace)
{
    free(trace->region_pages);
    free(trace->accesses);
    memset(trace, 0, sizeof *trace);
}

/* ---- numbers ---------------------------------------------------------------------------------------------------- */

struct reader {
    const uint8_t *next, *end;
};

/* False at the end of the bytes or if the number does not fit 64 bits. */
static bool number_get(struct reader *reader, uint64_t *value)
{
    uint64_t result = 0;

    for (unsigned shift = 0; shift < 64 && reader->next < reader->end; shift += 7) {
        const uint8_t byte = *reader->next++;
        if (shift == 63 && byte > 1)
            return false;
        result |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *value = result;
            return true;
        }
    }
    return false;
}

static uint8_t *number_put(uint8_t *out, uint64_t value)
{
    while (value >= 0x80) {
        *out++ = (uint8_t)(value | 0x80);
        value >>= 7;
    }
    *out++ = (uint8_t)value;
    return out;
}

static uint64_t zigzag(int64_t value)
{
    return ((uint64_t)value << 1) ^ (uint64_t)(value >> 63);
}

static int64_t unzigzag(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* ---- reading ---------------------------------------------------------------------------------------------------- */

/* Counts the distinct pages; all page numbers are known to be below page_count. */
static bool count_touched(struct trace *trace)
{
    uint8_t *seen = calloc(trace->page_count == 0 ? 1 : trace->page_count, 1);

    if (seen == NULL)
        return false;
    trace->touched_pages = 0;
    for (uint64_t i = 0; i < trace->access_count; i++) {
        const uint32_t page = trace_access_page(trace->accesses[i]);
        trace->touched_pages += !seen[page];
        seen[page] = 1;
    }
    free(seen);
    return true;
}

/* Parses the unpacked content. */
static bool parse(struct reader *reader, struct trace *trace, char *error, size_t error_bytes)
{
    uint64_t regions, count, pages = 0;
    int64_t page = 0;

    if (!number_get(reader, &regions) || regions > TRACE_PAGES_MAX)
        return fail(error, error_bytes, "the region count is missing or above %d", TRACE_PAGES_MAX);
    trace->region_pages = calloc(regions == 0 ? 1 : regions, sizeof *trace->region_pages);
    if (trace->region_pages == NULL)
        return fail(error, error_bytes, "no memory for %" PRIu64 " regions", regions);
    for (uint64_t i = 0; i < regions; i++) {
        uint64_t length;
        if (!number_get(reader, &length) || length == 0 || length > TRACE_PAGES_MAX - pages)
            return fail(error, error_bytes, "region %" PRIu64 " is missing, empty, or ends above page %d", i,
                        TRACE_PAGES_MAX);
        trace->region_pages[i] = (uint32_t)length;
        pages += length;
    }
    trace->region_count = (uint32_t)regions;
    trace->page_count = (uint32_t)pages;
    /* An access takes a byte at least, so a count above the bytes that are left is a lie. */
    if (!number_get(reader, &count) || count > (uint64_t)(reader->end - reader->next) || count > TRACE_ACCESSES_MAX)
        return fail(error, error_bytes, "the access count is missing, above %d, or above what the file holds",
                    TRACE_ACCESSES_MAX);
    trace->accesses = malloc((count == 0 ? 1 : count) * sizeof *trace->accesses);
    if (trace->accesses == NULL)
        return fail(error, error_bytes, "no memory for %" PRIu64 " accesses", count);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t code;
        if (!number_get(reader, &code) || code >> 1 > 2ull * TRACE_PAGES_MAX)
            return fail(error, error_bytes, "access %" PRIu64 " of %" PRIu64 " is missing or damaged", i, count);
        page += unzigzag(code >> 1);
        if (page < 0 || (uint64_t)page >= pages)
            return fail(error, error_bytes, "access %" PRIu64 " is to page %" PRId64 ", the trace has %" PRIu64, i,
                        page, pages);
        trace->accesses[i] = (trace_access)((uint64_t)page << 1 | (code & 1));
    }
    trace->access_count = count;
    if (reader->next != reader->end)
        return fail(error, error_bytes, "%td bytes follow the last access", reader->end - reader->next);
    return count_touched(trace) || fail(error, error_bytes, "no memory to count %" PRIu64 " pages", pages);
}

bool trace_decode(const void *bytes, size_t count, struct trace *trace, char *error, size_t error_bytes)
{
    const uint8_t *packed = bytes;
    unsigned long long size;
    uint8_t *content;
    size_t got;
    bool ok;

    memset(trace, 0, sizeof *trace);
    if (count < MAGIC_BYTES || memcmp(packed, TRACE_MAGIC, MAGIC_BYTES) != 0)
        return fail(error, error_bytes, "not a page-access trace: it does not begin with %s", TRACE_MAGIC);
    size = ZSTD_getFrameContentSize(packed + MAGIC_BYTES, count - MAGIC_BYTES);
    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN ||
        size > (unsigned long long)TRACE_ACCESSES_MAX * LEB_BYTES_MAX)
        return fail(error, error_bytes, "the compressed part has no sound header");
    content = malloc(size == 0 ? 1 : size);
    if (content == NULL)
        return fail(error, error_bytes, "no memory for %llu bytes", size);
    got = ZSTD_decompress(content, size, packed + MAGIC_BYTES, count - MAGIC_BYTES);
    if (ZSTD_isError(got)) {
        ok = fail(error, error_bytes, "the compressed part is damaged: %s", ZSTD_getErrorName(got));
    } else {
        struct reader reader = { content, content + got };
        ok = parse(&reader, trace, error, error_bytes);
    }
    free(content);
    if (!ok)
        trace_free(trace);
    return ok;
}

bool trace_load(const char *path, struct trace *trace, char *error, size_t error_bytes)
{
    uint8_t *bytes = NULL;
    char reason[160];
    FILE *file;
    long size;
    bool ok = false;

    memset(trace, 0, sizeof *trace);
    file = fopen(path, "rb");
    if (file == NULL)
        return fail(error, error_bytes, "%s: %s", path, strerror(errno));
    if (fseek(file, 0, SEEK_END) != 0 || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET) != 0) {
        fail(error, error_bytes, "%s: %s", path, strerror(errno));
        goto out;
    }
    bytes = malloc((size_t)size + 1);
    if (bytes == NULL || fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        fail(error, error_bytes, "%s: cannot read %ld bytes", path, size);
        goto out;
    }
    ok = trace_decode(bytes, (size_t)size, trace, reason, sizeof reason) ||
         fail(error, error_bytes, "%s: %s", path, reason);
out:
    free(bytes);
    fclose(file);
    return ok;
}

/* ---- writing ---------------------------------------------------------------------------------------------------- */

/* The unpacked content, malloc'd; NULL without memory. */
static uint8_t *content_create(const struct trace *trace, size_t *bytes)
{
    uint8_t *content = malloc((2 + trace->region_count + trace->access_count) * LEB_BYTES_MAX);
    uint8_t *out = content;
    int64_t last = 0;

    if (content == NULL)
        return NULL;
    out = number_put(out, trace->region_count);
    for (uint32_t i = 0; i < trace->region_count; i++)
        out = number_put(out, trace->region_pages[i]);
    out = number_put(out, trace->access_count);
    for (uint64_t i = 0; i < trace->access_count; i++) {
        const int64_t page = trace_access_page(trace->accesses[i]);
        out = number_put(out, zigzag(page - last) << 1 | trace_access_writes(trace->accesses[i]));
        last = page;
    }
    *bytes = (size_t)(out - content);
    return content;
}

bool trace_save(const char *path, const struct trace *trace, char *error, size_t error_bytes)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();
    uint8_t *content, *packed = NULL;
    size_t bytes = 0, packed_bytes;
    FILE *file = NULL;
    bool ok = false;

    content = content_create(trace, &bytes);
    if (content != NULL)
        packed = malloc(ZSTD_compressBound(bytes));
    if (context == NULL || packed == NULL) {
        fail(error, error_bytes, "no memory to compress the trace");
        goto out;
    }
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, COMPRESSION_LEVEL);
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, WINDOW_LOG);
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    packed_bytes = ZSTD_compress2(context, packed, ZSTD_compressBound(bytes), content, bytes);
    if (ZSTD_isError(packed_bytes)) {
        fail(error, error_bytes, "cannot compress the trace: %s", ZSTD_getErrorName(packed_bytes));
        goto out;
    }
    file = fopen(path, "wb");
    if (file == NULL || fwrite(TRACE_MAGIC, 1, MAGIC_BYTES, file) != MAGIC_BYTES ||
        fwrite(packed, 1, packed_bytes, file) != packed_bytes || fflush(file) != 0) {
        fail(error, error_bytes, "%s: %s", path, strerror(errno));
        goto out;
    }
    ok = true;
out:
    if (file != NULL && fclose(file) != 0 && ok)
        ok = fail(error, error_bytes, "%s: %s", path, strerror(errno));
    free(packed);
    free(content);
    ZSTD_freeCCtx(context);
    return ok;
}

/* ---- building --------------------------------------------------------------------------------------------------- */

static int compare_pages(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/*
 * Sorted distinct pages of the accesses, malloc'd; NULL without memory. Collected through a small hashed set first,
 * since accesses are many and pages few.
 */
static uint64_t *distinct_pages(const uint64_t *accesses, uint64_t count, uint64_t *distinct)
{
    uint64_t capacity = 1024, used = 0, *slots = malloc(capacity * sizeof *slots);

    if (slots == NULL)
        return NULL;
    memset(slots, 0xFF, capacity * sizeof *slots);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t page = accesses[i] >> 1;
        uint64_t at = (page * 0x9E3779B97F4A7C15ull >> 20) & (capacity - 1);
        while (slots[at] != UINT64_MAX && slots[at] != page)
            at = (at + 1) & (capacity - 1);
        if (slots[at] == page)
            continue;
        slots[at] = page;
        if (++used * 2 <= capacity)
            continue;
        uint64_t *wider = malloc(2 * capacity * sizeof *wider);
        if (wider == NULL) {
            free(slots);
            return NULL;
        }
        memset(wider, 0xFF, 2 * capacity * sizeof *wider);
        for (uint64_t j = 0; j < capacity; j++) {
            if (slots[j] == UINT64_MAX)
                continue;
            at = (slots[j] * 0x9E3779B97F4A7C15ull >> 20) & (2 * capacity - 1);
            while (wider[at] != UINT64_MAX)
                at = (at + 1) & (2 * capacity - 1);
            wider[at] = slots[j];
        }
        free(slots);
        slots = wider;
        capacity *= 2;
    }
    *distinct = 0;
    for (uint64_t i = 0; i < capacity; i++)
        if (slots[i] != UINT64_MAX)
            slots[(*distinct)++] = slots[i];
    qsort(slots, *distinct, sizeof *slots, compare_pages);
    return slots;
}

bool trace_build(const uint64_t *accesses, uint64_t count, struct trace *trace, char *error, size_t error_bytes)
{
    uint64_t *pages = NULL, distinct = 0, number = 0;
    uint32_t *numbers = NULL;
    bool ok = false;

    memset(trace, 0, sizeof *trace);
    if (count > TRACE_ACCESSES_MAX)
        return fail(error, error_bytes, "%" PRIu64 " accesses, the limit is %d", count, TRACE_ACCESSES_MAX);
    pages = distinct_pages(accesses, count, &distinct);
    numbers = malloc((distinct + 1) * sizeof *numbers);
    trace->region_pages = calloc(distinct + 1, sizeof *trace->region_pages);
    trace->accesses = malloc((count + 1) * sizeof *trace->accesses);
    if (pages == NULL || numbers == NULL || trace->region_pages == NULL || trace->accesses == NULL) {
        fail(error, error_bytes, "no memory for %" PRIu64 " accesses to %" PRIu64 " pages", count, distinct);
        goto out;
    }
    for (uint64_t i = 0; i < distinct; i++) {
        const bool neighbour = i > 0 && pages[i] - pages[i - 1] < TRACE_REGION_GAP_PAGES;
        if (!neighbour)
            trace->region_count++;
        const uint32_t step = neighbour ? (uint32_t)(pages[i] - pages[i - 1]) : 1;
        trace->region_pages[trace->region_count - 1] += step;
        number += step;
        if (number > TRACE_PAGES_MAX) {
            fail(error, error_bytes, "more than %d pages", TRACE_PAGES_MAX);
            goto out;
        }
        numbers[i] = (uint32_t)number - 1;
    }
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t page = accesses[i] >> 1;
        const uint64_t *found = bsearch(&page, pages, distinct, sizeof page, compare_pages);
        trace->accesses[i] = numbers[found - pages] << 1 | (uint32_t)(accesses[i] & 1);
    }
    trace->page_count = (uint32_t)number;
    trace->touched_pages = (uint32_t)distinct;
    trace->access_count = count;
    ok = true;
out:
    free(numbers);
    free(pages);
    if (!ok)
        trace_free(trace);
    return ok;
}

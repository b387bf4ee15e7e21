/*
 * Showing, hiding and dropping pages of a window. The idea is in mapping.h.
 *
 * What the kernel's calls do here, on a shared mapping of a memfd that is registered for missing, minor and
 * write-protection faults:
 *   UFFDIO_COPY          allocates the file's page, copies into it, maps it. One call for many pages
 *   UFFDIO_ZEROPAGE      the same with zeroes, for writing; a copy of zeroes costs a tenth more
 *   UFFDIO_CONTINUE      maps a page that is in the file
 *   UFFDIO_WRITEPROTECT  without its mode bit: lets a mapped page be written again
 *   MADV_DONTNEED_LOCKED unmaps; the page stays in the file
 *   FALLOC_FL_PUNCH_HOLE frees pages of the file
 * The first three stop short when the kernel's tables change under them (EAGAIN), and are called again for the rest. A
 * page mapped meanwhile is EEXIST: only one that lacks the right to be written, since who shows a page has claimed it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tables/mapping_impl.h"
#include "base/error.h"
#include "base/os.h"
#include "base/quiet.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CONTINUE_MODE_WP 2ull /* Linux 6.4, later than the headers of Debian 12 */
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

/* Tries for memory that the system has not. */
enum { MEMORY_TRIES = 1000 };
/* Tries while the kernel's tables change, after which it is asked for messages. */
enum { CHANGING_TRIES = 8 };
/* Pages from which on a large folio pays. */
enum { LARGE_LEAST = 8 };

/* ---- mappings --------------------------------------------------------------------------------------------------- */

/*
 * Mappings are never freed, only used again: a fault looks through them without a lock, and may look at one that just
 * came or goes.
 */
static struct mapping mappings[MAPPINGS_MAX];
static struct sync_lock mappings_lock = { .rank = SYNC_RANK_mappings };
static uint32_t taken[MAPPINGS_MAX]; /* [L:mappings] */

static struct mapping *slot_take(void)
{
    struct quiet quiet;
    struct mapping *mapping = NULL;

    quiet_lock(&mappings_lock, &quiet);
    for (unsigned i = 0; i < MAPPINGS_MAX && mapping == NULL; i++) {
        if (taken[i] != 0)
            continue;
        taken[i] = 1;
        mapping = &mappings[i];
    }
    quiet_unlock(&mappings_lock, &quiet);
    if (mapping == NULL)
        (void)error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0,
                        "%d mapped spaces are open in this process; that is the most", MAPPINGS_MAX);
    return mapping;
}

struct mapping *mapping_find(uint64_t page)
{
    for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
        const uint64_t pages = sync_load_64(&mappings[i].pages), first = sync_load_64(&mappings[i].first_page);

        /* Asked again: in between the slot may have become another mapping's. */
        if (pages != 0 && page - first < pages && sync_load_64(&mappings[i].pages) == pages)
            return &mappings[i];
    }
    return NULL;
}

struct mapping *mapping_hold(uint64_t page)
{
    struct mapping *mapping = mapping_find(page);

    if (mapping == NULL)
        return NULL;
    (void)sync_add_32(&mapping->holders, 1); /* a full barrier before it is looked for again */
    if (mapping_find(page) == mapping)
        return mapping;
    mapping_let(mapping);
    return NULL;
}

void mapping_let(struct mapping *mapping)
{
    (void)sync_add_32(&mapping->holders, (uint32_t)-1);
}

static void slot_give_back(struct mapping *mapping)
{
    struct quiet quiet;

    if (mapping->zeroes != NULL)
        (void)munmap((char *)(uintptr_t)mapping->zeroes, MAPPING_BATCH * TIDE_PAGE_BYTES);
    quiet_lock(&mappings_lock, &quiet);
    taken[mapping - mappings] = 0;
    quiet_unlock(&mappings_lock, &quiet);
}

tide_status mapping_create(const tide_mapped_options *options, struct pte_waits *waits, void *owner,
                           struct mapping **out)
{
    struct mapping *mapping = slot_take();

    if (mapping == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    mapping->owner = owner;
    mapping->by_threads = options->delivery == TIDE_DELIVERY_THREADS;
    mapping->fences = 0;
    mapping->waits = waits;
    memset(mapping->counters, 0, sizeof mapping->counters);
    /* Read and never written: one page of the kernel's lies behind all of it, and stays in the cache. */
    void *zeroes = mmap(NULL, MAPPING_BATCH * TIDE_PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mapping->zeroes = zeroes == MAP_FAILED ? NULL : zeroes;
    const tide_status status = zeroes == MAP_FAILED
                                   ? error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "no memory: %s", strerror(errno))
                                   : window_open(mapping, options);
    if (tide_failed(status)) {
        slot_give_back(mapping);
        return status;
    }
    sync_store_64(&mapping->pages, options->window_bytes / TIDE_PAGE_BYTES);
    *out = mapping;
    return TIDE_SUCCESS;
}

void mapping_destroy(struct mapping *mapping)
{
    const uint64_t bytes = sync_swap_64(&mapping->pages, 0) * TIDE_PAGE_BYTES;

    while (sync_load_32(&mapping->holders) != 0)
        (void)sched_yield();
    window_close(mapping, bytes);
    slot_give_back(mapping);
}

uint64_t mapping_pages(const struct mapping *mapping)
{
    struct stat file;

    ASSERT_ALWAYS(fstat(mapping->file, &file) == 0);
    return (uint64_t)file.st_blocks * 512 / TIDE_PAGE_BYTES;
}

void mapping_count(const struct mapping *mapping, struct mapping_counters *sums)
{
    memset(sums, 0, sizeof *sums);
    for (unsigned i = 0; i < MAPPING_COUNTERS; i++) {
        const struct mapping_counters *counters = &mapping->counters[i];

        sums->filled += sync_load_relaxed_64(&counters->filled);
        sums->shown += sync_load_relaxed_64(&counters->shown);
        sums->hidden += sync_load_relaxed_64(&counters->hidden);
        sums->dropped += sync_load_relaxed_64(&counters->dropped);
        sums->hides += sync_load_relaxed_64(&counters->hides);
    }
}

/* ---- pages ------------------------------------------------------------------------------------------------------ */

static uint64_t address_of(const struct mapping *mapping, uint64_t page)
{
    ASSERT_DEBUG(mapping_covers(mapping, page));
    (void)mapping;
    return page * TIDE_PAGE_BYTES;
}

static off_t offset_of(const struct mapping *mapping, uint64_t page)
{
    return (off_t)((page - mapping->first_page) * TIDE_PAGE_BYTES);
}

static struct mapping_counters *counters_of(struct mapping *mapping)
{
    return &mapping->counters[os_cpu_current() % MAPPING_COUNTERS];
}

static void count(uint64_t *counter, uint64_t by)
{
    (void)sync_add_64(counter, by);
}

struct retry {
    unsigned memory, changing;
};

/* After a call that did not do it all: true to call again for the rest. */
static bool again(struct mapping *mapping, int error, struct retry *retry)
{
    if (error == EAGAIN && ++retry->changing % CHANGING_TRIES == 0)
        window_messages(mapping);
    if (error == EAGAIN || error == EINTR)
        return true;
    if (error != ENOMEM || ++retry->memory == MEMORY_TRIES)
        return false;
    (void)sched_yield();
    return true;
}

/*
 * ENOENT: the pages do not lie in one mapping of the kernel's. A fenced page is one of its own, so what lies beside one
 * goes page by page; an only page is one that the program has unmapped, or that is foreign (window.c).
 */
static bool crosses_fence(int error, uint64_t *most)
{
    if (error != ENOENT || *most == TIDE_PAGE_BYTES)
        return false;
    *most = TIDE_PAGE_BYTES;
    return true;
}

/*
 * Pages into the file, and shown, as many of `bytes` as one call does: with this content, or of zeroes if `from` is NULL,
 * which are writable then. What was done, or a negative errno value.
 */
static int64_t fill_some(const struct mapping *mapping, uint64_t address, uint64_t bytes, const char *from,
                         bool writable)
{
    struct uffdio_copy copy = {
        .dst = address, .src = (uintptr_t)from, .len = bytes, .mode = writable ? 0 : UFFDIO_COPY_MODE_WP
    };
    struct uffdio_zeropage zero = { .range = { address, bytes } };
    const int result =
        from == NULL ? ioctl(mapping->faults, UFFDIO_ZEROPAGE, &zero) : ioctl(mapping->faults, UFFDIO_COPY, &copy);
    const int64_t done = from == NULL ? zero.zeropage : copy.copy;

    return done > 0 ? done : result != 0 ? -errno : 0;
}

int mapping_fill(struct mapping *mapping, uint64_t page, unsigned pages, const void *from, bool writable)
{
    const uint64_t bytes = pages * (uint64_t)TIDE_PAGE_BYTES;
    uint64_t done = 0, most = bytes;
    struct retry retry = { 0, 0 };

    while (done < bytes) {
        const int64_t some =
            fill_some(mapping, address_of(mapping, page) + done, bytes - done < most ? bytes - done : most,
                      from == NULL ? NULL : (const char *)from + done, writable);

        if (some >= 0) {
            done += (uint64_t)some;
        } else if (some == -EEXIST) {
            /* The file has a page there that it should not have: somebody wrote to the window past the engine. */
            mapping_drop(mapping, page + done / TIDE_PAGE_BYTES, 1);
        } else if (!crosses_fence((int)-some, &most) && !again(mapping, (int)-some, &retry)) {
            mapping_drop(mapping, page, pages);
            return (int)-some;
        }
    }
    count(&counters_of(mapping)->filled, pages);
    return 0;
}

int mapping_store(struct mapping *mapping, uint64_t page, unsigned pages, const void *from)
{
    struct retry retry = { 0, 0 };
    int error;

    do
        error = mapping_write(mapping, page * TIDE_PAGE_BYTES, from, pages * (size_t)TIDE_PAGE_BYTES);
    while (error != 0 && again(mapping, error == ENOSPC ? ENOMEM : error, &retry));
    if (error != 0) {
        mapping_drop(mapping, page, pages);
        return ENOMEM;
    }
    count(&counters_of(mapping)->filled, pages);
    return 0;
}

/* Pages of these that are shown may be written from now on, or may not. 0, or an errno value to try again() by. */
static int write_protect(const struct mapping *mapping, uint64_t page, uint64_t pages, bool writable)
{
    struct uffdio_writeprotect want = { .range = { address_of(mapping, page), pages * TIDE_PAGE_BYTES },
                                        .mode = writable ? 0 : UFFDIO_WRITEPROTECT_MODE_WP };

    return ioctl(mapping->faults, UFFDIO_WRITEPROTECT, &want) == 0 ? 0 : errno;
}

/*
 * Shows pages without the right to be written where UFFDIO_CONTINUE cannot (before Linux 6.4): each is taken out of the
 * file and put in anew, for UFFDIO_COPY can. To show it first and protect it then would leave a moment for a write
 * unseen.
 */
static int show_anew(struct mapping *mapping, uint64_t page, unsigned pages)
{
    char content[TIDE_PAGE_BYTES];

    for (unsigned i = 0; i < pages; i++) {
        int error = mapping_read(mapping, (page + i) * TIDE_PAGE_BYTES, content, sizeof content);

        if (error != 0)
            return error;
        mapping_drop(mapping, page + i, 1);
        /* The page's own memory has just come free: there is some. */
        while ((error = mapping_fill(mapping, page + i, 1, content, false)) == ENOMEM)
            continue;
        ASSERT_ALWAYS(error == 0);
        count(&counters_of(mapping)->filled, (uint64_t)-1);
        count(&counters_of(mapping)->dropped, (uint64_t)-1);
    }
    count(&counters_of(mapping)->shown, pages);
    return 0;
}

int mapping_show(struct mapping *mapping, uint64_t page, unsigned pages, bool writable)
{
    if (!writable && !mapping->shows_protected)
        return show_anew(mapping, page, pages);
    const uint64_t bytes = pages * (uint64_t)TIDE_PAGE_BYTES;
    uint64_t done = 0, most = bytes;
    struct retry retry = { 0, 0 };

    while (done < bytes) {
        const uint64_t part = bytes - done < most ? bytes - done : most;
        struct uffdio_continue want = { .range = { address_of(mapping, page) + done, part },
                                        .mode = writable ? 0 : CONTINUE_MODE_WP };
        const int result = ioctl(mapping->faults, UFFDIO_CONTINUE, &want);
        const int error = errno;

        if (want.mapped > 0) {
            done += (uint64_t)want.mapped;
        } else if (result != 0 && crosses_fence(error, &most)) {
            continue;
        } else if (error == EEXIST) {
            int refused = writable ? write_protect(mapping, page + done / TIDE_PAGE_BYTES, 1, true) : 0;
            while (refused != 0 && again(mapping, refused, &retry))
                refused = write_protect(mapping, page + done / TIDE_PAGE_BYTES, 1, true);
            done += TIDE_PAGE_BYTES;
        } else if (!again(mapping, error, &retry)) {
            /* EFAULT: the file lost the page. It is not for the program to see zeroes instead. */
            ASSERT_ALWAYS(error != EFAULT && error != EINVAL);
            return error;
        }
    }
    count(&counters_of(mapping)->shown, pages);
    return 0;
}

int mapping_zero(struct mapping *mapping, uint64_t page, unsigned pages, bool writable)
{
    ASSERT_DEBUG(pages <= MAPPING_BATCH);
    if (!mapping->large || pages < LARGE_LEAST)
        return mapping_fill(mapping, page, pages, writable ? NULL : mapping->zeroes, writable);
    int error = mapping_store(mapping, page, pages, mapping->zeroes);
    if (error == 0) {
        error = mapping_show(mapping, page, pages, writable);
        if (error != 0)
            mapping_drop(mapping, page, pages);
    }
    return error;
}

void mapping_protect(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    const uint64_t end = page + pages;
    uint64_t most = pages;
    struct retry retry = { 0, 0 };

    while (page < end) {
        uint64_t part;
        int error = 0;

        window_act(mapping);
        if (window_next(mapping, &page, end, &part)) {
            part = part < most ? part : most;
            error = write_protect(mapping, page, part, false);
        }
        window_acted(mapping);
        if (error == ENOENT && part > 1)
            most = 1; /* not one mapping of the kernel's: page by page, and what was unmapped just now is passed by */
        else if (error == 0 || !again(mapping, error, &retry))
            page += page < end ? part : 0;
    }
}

void mapping_hide(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    const uint64_t end = page + pages;

    window_act(mapping);
    for (uint64_t part; window_next(mapping, &page, end, &part); page += part) {
        /* _LOCKED: what the program has locked with mlock() too. It must not be hidden half. */
        while (madvise((void *)(uintptr_t)address_of(mapping, page), part * TIDE_PAGE_BYTES, MADV_DONTNEED_LOCKED) !=
               0) {
            ASSERT_ALWAYS(errno == EAGAIN || errno == EINTR || errno == ENOMEM);
            if (errno == ENOMEM)
                break; /* a part was unmapped just now: nothing is shown there */
        }
        count(&counters_of(mapping)->hidden, part);
        count(&counters_of(mapping)->hides, 1);
    }
    window_acted(mapping);
}

void mapping_drop(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    while (fallocate(mapping->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset_of(mapping, page),
                     (off_t)(pages * TIDE_PAGE_BYTES)) != 0)
        ASSERT_ALWAYS(errno == EINTR || errno == ENOMEM);
    count(&counters_of(mapping)->dropped, pages);
}

/* All bytes to the file or from it, past the window. 0 or an errno value. */
static int transfer(const struct mapping *mapping, uint64_t address, char *memory, size_t bytes, bool write)
{
    const off_t offset = (off_t)(address - mapping->first_page * TIDE_PAGE_BYTES);
    size_t done = 0;

    while (done < bytes) {
        const off_t at = offset + (off_t)done;
        const ssize_t moved = write ? pwrite(mapping->file, memory + done, bytes - done, at)
                                    : pread(mapping->file, memory + done, bytes - done, at);

        if (moved == 0)
            return EIO; /* beyond the file, whose size nobody changes */
        if (moved < 0 && errno != EINTR)
            return errno;
        done += moved > 0 ? (size_t)moved : 0;
    }
    return 0;
}

int mapping_read(const struct mapping *mapping, uint64_t address, void *to, size_t bytes)
{
    return transfer(mapping, address, to, bytes, false);
}

int mapping_write(struct mapping *mapping, uint64_t address, const void *from, size_t bytes)
{
    return transfer(mapping, address, (char *)(uintptr_t)from, bytes, true);
}

static void rights_set(struct mapping *mapping, uint64_t page, uint64_t pages, int rights)
{
    const uint64_t end = page + pages;

    for (uint64_t part; window_next(mapping, &page, end, &part); page += part)
        (void)mprotect((void *)(uintptr_t)address_of(mapping, page), part * TIDE_PAGE_BYTES, rights);
}

void mapping_fence(struct mapping *mapping, uint64_t page, bool readable)
{
    window_act(mapping);
    (void)sync_swap_32(&mapping->fences, 1);
    rights_set(mapping, page, 1, readable ? PROT_READ : PROT_NONE);
    window_acted(mapping);
}

void mapping_unfence(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    /* With a barrier: the rights that were just given are seen by who fences from now on, or fills a hole. */
    window_act(mapping);
    if (sync_load_32(&mapping->fences) != 0)
        rights_set(mapping, page, pages, PROT_READ | PROT_WRITE);
    window_acted(mapping);
}

void mapping_poison(struct mapping *mapping, uint64_t page)
{
    struct {
        struct uffdio_range range;
        uint64_t mode;
        int64_t updated;
    } poison = { .range = { address_of(mapping, page), TIDE_PAGE_BYTES } };

    if (ioctl(mapping->faults, _IOWR(UFFDIO, 0x08, __typeof__(poison)), &poison) != 0 && errno != EEXIST)
        mapping_fence(mapping, page, false); /* before Linux 6.6 */
}

void mapping_wake(struct mapping *mapping, uint64_t page)
{
    struct uffdio_range range = { address_of(mapping, page), TIDE_PAGE_BYTES };

    (void)ioctl(mapping->faults, UFFDIO_WAKE, &range);
}

/*
 * The window of a mapping: its place, its registration with userfaultfd, and what the program does to it by mistake.
 *
 * A part of the window that the program unmaps, or maps or moves something else over, is no part of the window any more,
 * and the engine acts on the window by address: it would hide and fence what is somebody else's. The kernel tells of
 * such parts: with UFFD_FEATURE_EVENT_UNMAP, munmap(), mremap() and mmap(MAP_FIXED) of registered addresses put a
 * message into the queue of the userfaultfd when the pages are gone, and return when it was read. What was seen of it
 * (Linux 6.18):
 *   - one message has the whole range of the call, with what lay beside the window or was foreign before;
 *   - from before the pages go until the message is read all ioctl()s on pages are EAGAIN, and one without an argument
 *     tells EAGAIN from EFAULT;
 *   - the messages of faults are read first;
 *   - a caller that waits can be killed, and holds up neither exit() nor execve();
 *   - a part that was moved is not registered any more where it went to (that would take UFFD_FEATURE_EVENT_REMAP);
 *   - closing the descriptor ends all that, but not while a child of fork() has it too; UFFDIO_UNREGISTER does at once.
 *
 * So the order is: who is about to read what may be such a message first keeps all others from acting by address, and
 * waits for those who are at it (window_enter()); then reads it, at which the program goes on, and notes the pages as
 * foreign; then plugs the hole, if nothing lies there, and sees that the plug is whole; then lets the others go on. What
 * the program does after its munmap() is thus safe.
 * What another thread maps into the hole in the moment before the message is read is not, if somebody has begun to hide
 * pages just there; so windows lie where the kernel puts nothing by itself (place_find()).
 *
 * A message may be older than the plug at its addresses, when two calls overlap. /proc/self/maps tells whose they are.
 * Without it what cannot be plugged counts as foreign.
 *
 * Who may wait for whom. A thread that reads takes the lock of the window and waits for system calls that wait for
 * nobody. Threads that resolve faults wait (EAGAIN) until the message is read; with delivery by threads these may be
 * all threads that read, so there they read themselves while they wait (window_events_take()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tables/window_impl.h"
#include "base/error.h"
#include "base/os.h"
#include "base/quiet.h"
#include "base/random.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HUGE_BYTES ((uint64_t)2 << 20)
/*
 * Where windows are put if they fit and nothing lies there: far from where the kernel begins to look for addresses, which
 * is below the stack, or, in its old layout, a third up from 0. There it looks only when nothing else is left.
 */
#define PLACES_BEGIN ((uint64_t)17 << 40)
#define PLACES_END ((uint64_t)42 << 40)
enum { PLACE_TRIES = 4 };
enum { WORD_PAGES = 64 }; /* of the bitmap */

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

/* ---- foreign pages ---------------------------------------------------------------------------------------------- */

uint64_t mapping_foreign_find(const struct mapping *mapping, uint64_t page, uint64_t end, bool foreign)
{
    if (sync_load_64(&mapping->foreign_pages) == 0)
        return foreign ? end : page;
    while (page < end) {
        const uint64_t index = page - mapping->first_page;
        const uint64_t word = sync_load_64(&mapping->foreign[index / WORD_PAGES]);
        const uint64_t wanted = (foreign ? word : ~word) >> (index % WORD_PAGES);

        if (wanted != 0) {
            page += (unsigned)__builtin_ctzll(wanted);
            return page < end ? page : end;
        }
        page += WORD_PAGES - index % WORD_PAGES;
    }
    return end;
}

/* Under the lock. */
static void foreign_set(struct mapping *mapping, uint64_t page, uint64_t end, bool foreign)
{
    for (uint64_t next; page < end; page = next) {
        const uint64_t index = page - mapping->first_page;
        uint64_t *word = &mapping->foreign[index / WORD_PAGES];
        const uint64_t old = sync_load_64(word);
        const uint64_t left = WORD_PAGES - index % WORD_PAGES, count = end - page < left ? end - page : left;
        const uint64_t mask = (count == WORD_PAGES ? ~0ull : (1ull << count) - 1) << (index % WORD_PAGES);
        const uint64_t changed = (foreign ? ~old : old) & mask;

        next = page + count;
        if (changed == 0)
            continue;
        const uint64_t change = (unsigned)__builtin_popcountll(changed);
        if (foreign) /* never fewer than bits are set: none means that there is none */
            (void)sync_add_64(&mapping->foreign_pages, change);
        sync_store_64(word, old ^ changed);
        if (!foreign)
            (void)sync_add_64(&mapping->foreign_pages, -change);
    }
}

/* ---- who acts by address ---------------------------------------------------------------------------------------- */

uint64_t *window_enter(struct mapping *mapping)
{
    uint64_t *users = &mapping->counters[os_cpu_current() % MAPPING_COUNTERS].users;

    for (;;) {
        (void)sync_add_64(users, 1); /* a full barrier; pairs with that of changes_begin() */
        if (sync_load_32(&mapping->is_changing) == 0)
            return users;
        window_leave(users);
        while (sync_load_32(&mapping->is_changing) != 0)
            (void)sched_yield();
    }
}

void window_leave(uint64_t *users)
{
    (void)sync_add_64(users, (uint64_t)-1);
}

/* From here on nobody acts by address, but who has the lock. */
static void changes_begin(struct mapping *mapping, struct quiet *quiet)
{
    quiet_lock(&mapping->lock, quiet);
    (void)sync_swap_32(&mapping->is_changing, 1);
    for (unsigned i = 0; i < MAPPING_COUNTERS; i++)
        while (sync_load_64(&mapping->counters[i].users) != 0)
            (void)sched_yield();
}

static void changes_end(struct mapping *mapping, struct quiet *quiet)
{
    sync_store_32(&mapping->is_changing, 0);
    quiet_unlock(&mapping->lock, quiet);
}

/* ---- what lies in the process ----------------------------------------------------------------------------------- */

/* /proc/self/maps, read without malloc() and stdio, on little stack. */
struct maps {
    int file; /* -1: cannot be read */
    unsigned at, filled;
    char buffer[512];
};

struct area {
    uint64_t begin, end, offset, inode; /* bytes */
    uint64_t major, minor;
    bool shared;
};

static void maps_open(struct maps *maps)
{
    maps->at = maps->filled = 0;
    maps->file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
}

static void maps_close(const struct maps *maps)
{
    if (maps->file >= 0)
        (void)close(maps->file);
}

/* -1 at the end. */
static int maps_character(struct maps *maps)
{
    if (maps->at == maps->filled) {
        ssize_t bytes;

        do
            bytes = read(maps->file, maps->buffer, sizeof maps->buffer);
        while (bytes < 0 && errno == EINTR);
        if (bytes <= 0)
            return -1;
        maps->at = 0;
        maps->filled = (unsigned)bytes;
    }
    return (unsigned char)maps->buffer[maps->at++];
}

/* A number, and the character behind it. */
static uint64_t maps_number(struct maps *maps, unsigned base)
{
    uint64_t number = 0;

    for (;;) {
        const int character = maps_character(maps);
        const bool digit = character >= '0' && character <= '9', letter = character >= 'a' && character <= 'f';

        if (!digit && !letter)
            return number;
        number = number * base + (unsigned)(digit ? character - '0' : character - 'a' + 10);
    }
}

/* "begin-end rwxs offset major:minor inode path". False at the end. */
static bool maps_next(struct maps *maps, struct area *area)
{
    int character = 0;

    area->begin = maps_number(maps, 16);
    area->end = maps_number(maps, 16);
    for (unsigned i = 0; i < 4; i++)
        character = maps_character(maps);
    area->shared = character == 's';
    (void)maps_character(maps);
    area->offset = maps_number(maps, 16);
    area->major = maps_number(maps, 16);
    area->minor = maps_number(maps, 16);
    area->inode = maps_number(maps, 10);
    if (area->end == 0)
        return false;
    /* What is behind the number is a blank or the line's end; a path cannot have one. */
    if (maps->at == 0 || maps->buffer[maps->at - 1] != '\n')
        do
            character = maps_character(maps);
        while (character >= 0 && character != '\n');
    return true;
}

/* ---- what the kernel tells -------------------------------------------------------------------------------------- */

bool window_is_told(const struct mapping *mapping)
{
    return ioctl(mapping->faults, UFFDIO_WRITEPROTECT, NULL) != 0 && errno == EAGAIN;
}

/* Of these pages somebody must look whose the foreign ones are. Between changes_begin() and changes_end(). */
static void unsure_add(struct mapping *mapping, uint64_t page, uint64_t end)
{
    const bool first = mapping->unsure_end == 0;

    if (first || page < mapping->unsure_first)
        mapping->unsure_first = page;
    if (end > mapping->unsure_end)
        mapping->unsure_end = end;
}

static bool is_unsure(const struct mapping *mapping, uint64_t page, uint64_t end)
{
    return mapping->unsure_first < end && page < mapping->unsure_end;
}

/* The next message; the pages that it says are unmapped are foreign until somebody has looked. False: none. */
static bool message_read(struct mapping *mapping, struct uffd_msg *message)
{
    if (read(mapping->faults, message, sizeof *message) != (ssize_t)sizeof *message)
        return false;
    if (message->event == UFFD_EVENT_UNMAP) { /* it may have more than the window */
        const uint64_t window_end = mapping->end_page;
        uint64_t page = message->arg.remove.start / TIDE_PAGE_BYTES, end = message->arg.remove.end / TIDE_PAGE_BYTES;

        page = page < mapping->first_page ? mapping->first_page : page;
        end = end > window_end ? window_end : end;
        if (page < end) {
            foreign_set(mapping, page, end, true);
            unsure_add(mapping, page, end);
        }
    }
    return true;
}

/* While calls on pages are EAGAIN: what there is to read, and a fault comes again. */
static void message_take(struct mapping *mapping)
{
    struct uffd_msg message;

    if (!message_read(mapping, &message))
        (void)sched_yield();
    else if (message.event == UFFD_EVENT_PAGEFAULT)
        mapping_wake(mapping, message.arg.pagefault.address / TIDE_PAGE_BYTES);
}

/* ---- plugging --------------------------------------------------------------------------------------------------- */

/* 0 or an errno value. *calls: what the kernel has for this memory. */
static int register_pages(const struct mapping *mapping, uint64_t page, uint64_t count, uint64_t *calls)
{
    struct uffdio_register want = { .range = { page * TIDE_PAGE_BYTES, count * TIDE_PAGE_BYTES },
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                                            UFFDIO_REGISTER_MODE_WP };

    if (ioctl(mapping->faults, UFFDIO_REGISTER, &want) != 0)
        return errno;
    *calls = want.ioctls;
    return 0;
}

/* A child would find zeroes where it looks for data; and a core file would be as large as the window. */
static bool keep_to_oneself(void *memory, size_t bytes)
{
    return madvise(memory, bytes, MADV_DONTFORK) == 0 && madvise(memory, bytes, MADV_DONTDUMP) == 0;
}

/*
 * Registers pages of the file that lie there, and makes sure that it is all of them: while they were not registered, the
 * kernel did not tell what the program did there. From here on it does, and the program waits until that is read.
 */
static bool secure(struct mapping *mapping, uint64_t page, uint64_t end)
{
    /* A copy from where nothing is fails after it has found one registered piece to copy to. */
    struct uffdio_copy copy = { .dst = page * TIDE_PAGE_BYTES,
                                .src = (uintptr_t)mapping->nowhere,
                                .len = (end - page) * TIDE_PAGE_BYTES };
    uint64_t calls;

    if (register_pages(mapping, page, end - page, &calls) != 0)
        return false;
    while (ioctl(mapping->faults, UFFDIO_COPY, &copy) != 0 && errno == EAGAIN)
        message_take(mapping);
    if (errno != EFAULT)
        return false;
    if (!is_unsure(mapping, page, end))
        return true;
    unsure_add(mapping, page, end); /* all of it, once more */
    return false;
}

/*
 * Pages of the file where nothing lies: fenced, so that an access is SIGSEGV as the program's mistake would have it,
 * until a call gives the page rights. False: something lies there, or the system has no room, or it is unsure by now.
 * What was mapped here and is not registered stays: it is of no use to anybody, but by now it may be somebody else's.
 */
static bool plug(struct mapping *mapping, uint64_t page, uint64_t end)
{
    void *const at = (void *)(uintptr_t)(page * TIDE_PAGE_BYTES);
    const size_t bytes = (end - page) * TIDE_PAGE_BYTES;

    (void)sync_swap_32(&mapping->fences, 1);
    /* Not by mmap(), which ThreadSanitizer takes for a write of all that memory: who unmapped it may access it now. */
    return syscall(SYS_mmap, at, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, mapping->file,
                   window_offset(mapping, page)) == (long)(uintptr_t)at &&
           secure(mapping, page, end) && keep_to_oneself(at, bytes);
}

/* The window's own after all: as it is after hiding, and registered. */
static bool adopt(struct mapping *mapping, uint64_t page, uint64_t end)
{
    void *const at = (void *)(uintptr_t)(page * TIDE_PAGE_BYTES);
    const size_t bytes = (end - page) * TIDE_PAGE_BYTES;

    (void)sync_swap_32(&mapping->fences, 1);
    /* It may be a plug that was not finished. */
    return secure(mapping, page, end) && keep_to_oneself(at, bytes) && madvise(at, bytes, MADV_DONTNEED_LOCKED) == 0;
}

/* Are the pages from this one on that lie in the area the window's? */
static bool is_own(const struct mapping *mapping, const struct stat *file, const struct area *area, uint64_t page)
{
    return area->shared && area->inode == file->st_ino && area->major == major(file->st_dev) &&
           area->minor == minor(file->st_dev) &&
           area->offset + (page * TIDE_PAGE_BYTES - area->begin) == (uint64_t)window_offset(mapping, page);
}

/*
 * Foreign pages [page, end) become the window's own, if they are; but not those that the program unmaps meanwhile, which
 * are unsure then.
 */
static void pages_sort(struct mapping *mapping, uint64_t page, uint64_t end)
{
    struct maps maps;
    struct area area;
    struct stat file;

    if (plug(mapping, page, end)) {
        foreign_set(mapping, page, end, false);
        return;
    }
    ASSERT_ALWAYS(fstat(mapping->file, &file) == 0);
    maps_open(&maps);
    while (page < end && maps.file >= 0 && maps_next(&maps, &area)) {
        const uint64_t first = area.begin / TIDE_PAGE_BYTES, behind = area.end / TIDE_PAGE_BYTES;
        const uint64_t gap_end = first < end ? first : end, stop = behind < end ? behind : end;

        if (behind <= page)
            continue;
        if (page < gap_end) {
            if (plug(mapping, page, gap_end))
                foreign_set(mapping, page, gap_end, false);
            page = gap_end;
        }
        if (page < stop) {
            if (is_own(mapping, &file, &area, page) && adopt(mapping, page, stop))
                foreign_set(mapping, page, stop, false);
            page = stop;
        }
    }
    maps_close(&maps);
}

/* Between changes_begin() and changes_end(): until nothing is unsure. */
static void unsure_settle(struct mapping *mapping)
{
    while (mapping->unsure_first < mapping->unsure_end) {
        const uint64_t end = mapping->unsure_end;

        mapping->unsure_end = 0;
        for (uint64_t first = mapping->unsure_first, behind;
             (first = mapping_foreign_find(mapping, first, end, true)) < end; first = behind) {
            behind = mapping_foreign_find(mapping, first, end, false);
            pages_sort(mapping, first, behind);
        }
    }
}

uint64_t mapping_mend(struct mapping *mapping, uint64_t page, uint64_t count)
{
    const uint64_t end = page + count;
    struct quiet quiet;

    /* What is being changed may have been read of already, and the program gone on. */
    if (sync_load_32(&mapping->is_changing) == 0 && mapping_foreign_find(mapping, page, end, true) == end)
        return end;
    changes_begin(mapping, &quiet);
    unsure_add(mapping, page, end);
    unsure_settle(mapping);
    const uint64_t found = mapping_foreign_find(mapping, page, end, true);
    changes_end(mapping, &quiet);
    return found;
}

bool mapping_is_foreign(struct mapping *mapping, uint64_t page)
{
    struct quiet quiet;

    if (mapping_foreign_find(mapping, page, page + 1, true) != page)
        return false;
    quiet_lock(&mapping->lock, &quiet); /* it may be for the moment */
    const bool found = mapping_foreign_find(mapping, page, page + 1, true) == page;
    quiet_unlock(&mapping->lock, &quiet);
    return found;
}

bool mapping_fault_next(struct mapping *mapping, uint64_t *address, bool *write)
{
    struct uffd_msg message;

    do {
        struct quiet quiet;

        changes_begin(mapping, &quiet);
        const bool got = message_read(mapping, &message);
        unsure_settle(mapping);
        changes_end(mapping, &quiet);
        if (!got)
            return false;
    } while (message.event != UFFD_EVENT_PAGEFAULT);
    *address = message.arg.pagefault.address;
    *write = (message.arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0;
    return true;
}

void window_events_take(struct mapping *mapping)
{
    uint64_t address;
    bool write;

    while (window_is_told(mapping) && mapping_fault_next(mapping, &address, &write))
        mapping_wake(mapping, address / TIDE_PAGE_BYTES);
}

/* ---- the place -------------------------------------------------------------------------------------------------- */

static tide_status no_window(uint64_t bytes, int error)
{
    return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0, "no window of %lu bytes: %s", bytes, strerror(error));
}

/*
 * Free addresses, taken; MAP_FAILED with errno. Chance comes from where the system puts memory by itself, so that there is
 * as much of it as the process is to have.
 */
static char *place_find(const struct mapping *mapping, uint64_t bytes)
{
    const uint64_t places = bytes < PLACES_END - PLACES_BEGIN ? (PLACES_END - PLACES_BEGIN - bytes) / HUGE_BYTES : 0;
    uint64_t random = (uintptr_t)mapping->zeroes;

    for (unsigned i = 1;; i++) {
        char *wish =
            places == 0 ? NULL : (char *)(uintptr_t)(PLACES_BEGIN + random_below(&random, places) * HUGE_BYTES);
        char *place = mmap(wish, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (place == MAP_FAILED)
            return place;
        /* It may lie in a hole of another window. */
        const bool overlaps = mappings_overlap((uintptr_t)place / TIDE_PAGE_BYTES, bytes / TIDE_PAGE_BYTES);
        if (!overlaps && (wish == NULL || place == wish || i >= PLACE_TRIES))
            return place;
        (void)munmap(place, bytes);
        if (i >= 2 * PLACE_TRIES) {
            errno = EEXIST;
            return MAP_FAILED;
        }
    }
}

tide_status window_map(struct mapping *mapping, uint64_t bytes)
{
    const uint64_t needed =
        1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_CONTINUE | 1ull << _UFFDIO_WRITEPROTECT;
    const uint64_t pages = bytes / TIDE_PAGE_BYTES;
    uint64_t calls = 0;

    void *bits = mmap(NULL, pages / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bits == MAP_FAILED)
        return no_window(bytes, errno);
    mapping->foreign = bits;
    bits = mmap(NULL, pages / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (bits == MAP_FAILED)
        return no_window(bytes, errno);
    mapping->poisoned = bits;
    char *reserved = place_find(mapping, bytes + HUGE_BYTES);
    if (reserved == MAP_FAILED)
        return no_window(bytes, errno);
    char *begin = (char *)(((uintptr_t)reserved + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
    const int flags = MAP_SHARED | MAP_NORESERVE | MAP_FIXED;
    if (mmap(begin, bytes, PROT_READ | PROT_WRITE, flags, mapping->file, 0) != begin) {
        const int error = errno;

        (void)munmap(reserved, bytes + HUGE_BYTES);
        return no_window(bytes, error);
    }
    mapping->window = begin;
    sync_store_64(&mapping->first_page, (uintptr_t)begin / TIDE_PAGE_BYTES);
    mapping->end_page = mapping->first_page + pages;
    if (begin != reserved)
        (void)munmap(reserved, (size_t)(begin - reserved));
    const size_t behind = (size_t)(reserved + HUGE_BYTES - begin);
    if (behind != 0)
        (void)munmap(begin + bytes, behind);
    const bool kept = keep_to_oneself(begin, bytes);
    const int error = kept ? register_pages(mapping, mapping->first_page, pages, &calls) : errno;
    if (error != 0) {
        (void)munmap(begin, bytes);
        mapping->window = NULL;
        return !kept ? no_window(bytes, error)
                     : error_set(TIDE_NOT_SUPPORTED, error, 0, "registering the window with userfaultfd: %s",
                                 strerror(error));
    }
    if ((calls & needed) != needed)
        return error_set(TIDE_NOT_SUPPORTED, 0, 0,
                         "userfaultfd has calls 0x%llx for shared memory, and 0x%lx are needed",
                         (unsigned long long)calls, needed);
    return TIDE_SUCCESS;
}

static bool run_unregister(const struct mapping *mapping, uint64_t page, uint64_t end)
{
    struct uffdio_range range = { page * TIDE_PAGE_BYTES, (end - page) * TIDE_PAGE_BYTES };

    return ioctl(mapping->faults, UFFDIO_UNREGISTER, &range) == 0;
}

/* What the kernel will not unregister is not the window's, though nobody has told, and stays. */
static bool run_unmap(const struct mapping *mapping, uint64_t page, uint64_t end)
{
    return run_unregister(mapping, page, end) &&
           munmap((void *)(uintptr_t)(page * TIDE_PAGE_BYTES), (end - page) * TIDE_PAGE_BYTES) == 0;
}

/* All that is the window's still. */
static void runs_call(const struct mapping *mapping,
                      bool (*call)(const struct mapping *mapping, uint64_t page, uint64_t end))
{
    for (uint64_t page = mapping->first_page, end; page < mapping->end_page; page = end) {
        page = mapping_foreign_find(mapping, page, mapping->end_page, false);
        end = mapping_foreign_find(mapping, page, mapping->end_page, true);
        if (page < end)
            (void)call(mapping, page, end);
    }
}

/* Who unmapped a part at this moment is not to wait for ever, and what he put there is his. True: there was one. */
static bool messages_drain(struct mapping *mapping)
{
    struct uffd_msg message;
    bool any = false;

    while (window_is_told(mapping))
        if (message_read(mapping, &message))
            any = true;
        else
            (void)sched_yield();
    return any;
}

/*
 * What is registered would have munmap() wait for a reader, who is gone. Once nothing is, no more is told; only then is
 * it known what of the window is somebody else's.
 */
void window_unmap(struct mapping *mapping, uint64_t bytes)
{
    const uint64_t pages = bytes / TIDE_PAGE_BYTES;

    if (mapping->window != NULL) {
        do
            runs_call(mapping, run_unregister);
        while (messages_drain(mapping)); /* it may have stood in the way */
        runs_call(mapping, run_unmap);
    }
    if (mapping->foreign != NULL)
        (void)munmap(mapping->foreign, pages / 8);
    if (mapping->poisoned != NULL)
        (void)munmap(mapping->poisoned, pages / 8);
}

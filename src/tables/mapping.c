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
 * Large folios. The kernel takes a microsecond to allocate a page of a file, which is most of what a fresh page costs;
 * for many pages at once it can take one piece of memory (a folio), which costs little more than its zeroing. It does
 * for write(2) to a tmpfs that was mounted with huge=always; so with large_folios the file lies in one that is mounted
 * for it alone, nowhere in the file system, if that is allowed (fsmount() takes CAP_SYS_ADMIN). Else it is a memfd, and
 * pages come one by one. When a part of a folio is let go, the kernel splits it. Not by default: docs/mapped-spaces.md
 * has why.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tables/window_impl.h"
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

/*
 * Of later kernels than the headers of Debian 12. The first two came together, with Linux 6.4; only the second is told.
 */
#define CONTINUE_MODE_WP 2ull
#define FEATURE_WP_UNPOPULATED (1ull << 13)
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif

#define FEATURES                                                                                                       \
    (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP |                          \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_EVENT_UNMAP)
#define ZEROES_BYTES ((MAPPING_BATCH + 1) * (size_t)TIDE_PAGE_BYTES) /* and a page that cannot be read */
/* Tries for memory that the system has not. */
enum { MEMORY_TRIES = 1000 };
/* Pages from which on a large folio pays. */
enum { LARGE_LEAST = 8 };

/* ---- opening ---------------------------------------------------------------------------------------------------- */

/*
 * A userfaultfd, or -1 with errno. By signal a fault of the kernel's own is refused in any case, so a descriptor for
 * user faults alone does, which everybody gets. For threads it takes one for both, by the system call or by the device.
 */
static int faults_open(tide_delivery delivery)
{
    if (delivery == TIDE_DELIVERY_SIGNAL) {
        const int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

        if (faults >= 0)
            return faults;
    }
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    const int error = errno;
    if (faults < 0) {
        const int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        if (device >= 0) {
            faults = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
            (void)close(device);
        }
    }
    if (faults < 0)
        errno = error;
    return faults;
}

static tide_status refused(tide_delivery delivery, int error)
{
    if (error == ENOSYS)
        return error_set(
            TIDE_NOT_SUPPORTED, error, 0,
            "userfaultfd: %s; the kernel lacks CONFIG_USERFAULTFD, or a seccomp filter hides it: allow the system "
            "call (docker: --security-opt seccomp=profile.json), or make /dev/userfaultfd accessible",
            strerror(error));
    if (delivery == TIDE_DELIVERY_SIGNAL)
        return error_set(
            TIDE_NOT_SUPPORTED, error, 0,
            "userfaultfd: %s; faults by signal need no privilege, so a seccomp filter forbids it: allow the "
            "system call (docker: --security-opt seccomp=profile.json), or make /dev/userfaultfd accessible",
            strerror(error));
    return error_set(
        TIDE_NOT_SUPPORTED, error, 0,
        "userfaultfd: %s; handler threads need CAP_SYS_PTRACE, or sysctl vm.unprivileged_userfaultfd=1, or "
        "/dev/userfaultfd for reading and writing (setfacl -m u:NAME:rw); TIDE_DELIVERY_SIGNAL needs none "
        "of them",
        strerror(error));
}

/* Opens, and asks for what is needed. */
static tide_status faults_get(tide_delivery delivery, int *out, uint64_t *features)
{
    struct uffdio_api api = { .api = UFFD_API };
    const uint64_t wanted = FEATURES | (delivery == TIDE_DELIVERY_SIGNAL ? UFFD_FEATURE_SIGBUS : 0);
    int faults = faults_open(delivery);

    if (faults < 0)
        return refused(delivery, errno);
    /* Asked with no features it says which there are; a second descriptor takes them. */
    if (ioctl(faults, UFFDIO_API, &api) != 0 || (api.features & wanted) != wanted) {
        (void)close(faults);
        return error_set(TIDE_NOT_SUPPORTED, EINVAL, 0,
                         "userfaultfd has features 0x%llx, and 0x%lx are needed: minor faults and write protection of "
                         "shared memory came with Linux 5.19, exact addresses with 5.18",
                         (unsigned long long)api.features, wanted);
    }
    (void)close(faults);
    *features = api.features;
    faults = faults_open(delivery);
    if (faults < 0)
        return refused(delivery, errno);
    api = (struct uffdio_api){ .api = UFFD_API, .features = wanted };
    if (ioctl(faults, UFFDIO_API, &api) != 0) {
        const int error = errno;

        (void)close(faults);
        return error_set(TIDE_NOT_SUPPORTED, error, 0, "userfaultfd: %s", strerror(error));
    }
    *out = faults;
    return TIDE_SUCCESS;
}

/* The calls of a mount of one's own, whose headers of libc and kernel clash in Debian 12. */
enum { FS_CLOEXEC = 1, FS_SET_STRING = 1, FS_CREATE = 6, MOUNT_CLOEXEC = 1 };

/* A nameless file in a tmpfs of its own; -1 if that is not allowed here. */
static int large_file_open(void)
{
    int file = -1, mount = -1;
    const int fs = (int)syscall(SYS_fsopen, "tmpfs", FS_CLOEXEC);

    if (fs < 0)
        return -1;
    if (syscall(SYS_fsconfig, fs, FS_SET_STRING, "huge", "always", 0) == 0 &&
        syscall(SYS_fsconfig, fs, FS_SET_STRING, "size", "0", 0) == 0 && /* no limit but the engine's */
        syscall(SYS_fsconfig, fs, FS_CREATE, NULL, NULL, 0) == 0)
        mount = (int)syscall(SYS_fsmount, fs, MOUNT_CLOEXEC, 0);
    if (mount >= 0) {
        file = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
        (void)close(mount);
    }
    (void)close(fs);
    return file;
}

static tide_status file_open(uint64_t bytes, int *out, bool *large)
{
    int file = *large ? large_file_open() : -1;

    *large = file >= 0;

    if (file < 0)
        file = memfd_create("pagetide", MFD_CLOEXEC | MFD_NOEXEC_SEAL);
    if (file < 0 && errno == EINVAL) /* before Linux 6.3 */
        file = memfd_create("pagetide", MFD_CLOEXEC);
    if (file >= 0 && ftruncate(file, (off_t)bytes) == 0) {
        *out = file;
        return TIDE_SUCCESS;
    }
    const int error = errno;
    if (file >= 0)
        (void)close(file);
    return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0, "no memory file of %lu bytes: %s", bytes, strerror(error));
}

tide_status mapping_check(tide_delivery delivery)
{
    int faults = -1;
    uint64_t features;
    const tide_status status = faults_get(delivery, &faults, &features);

    if (!tide_failed(status))
        (void)close(faults);
    return status;
}

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

bool mappings_overlap(uint64_t page, uint64_t count)
{
    for (unsigned i = 0; i < MAPPINGS_MAX; i++) {
        const uint64_t pages = sync_load_64(&mappings[i].pages), first = sync_load_64(&mappings[i].first_page);

        if (pages != 0 && page < first + pages && first < page + count) /* an old one has its first page still */
            return true;
    }
    return false;
}

static void mapping_free(struct mapping *mapping, uint64_t bytes)
{
    struct quiet quiet;

    window_unmap(mapping, bytes);
    if (mapping->faults >= 0)
        (void)close(mapping->faults);
    if (mapping->file >= 0)
        (void)close(mapping->file);
    if (mapping->zeroes != NULL)
        (void)munmap((char *)(uintptr_t)mapping->zeroes, ZEROES_BYTES);
    quiet_lock(&mappings_lock, &quiet);
    taken[mapping - mappings] = 0;
    quiet_unlock(&mappings_lock, &quiet);
}

tide_status mapping_create(const tide_mapped_options *options, struct pte_waits *waits, void *owner,
                           struct mapping **out)
{
    const tide_delivery delivery = options->delivery;
    const uint64_t bytes = options->window_bytes;
    struct mapping *mapping = slot_take();

    if (mapping == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    mapping->window = NULL;
    mapping->owner = owner;
    mapping->file = mapping->faults = -1;
    mapping->by_threads = delivery == TIDE_DELIVERY_THREADS;
    mapping->fences = mapping->poisons = 0;
    mapping->is_changing = 0;
    mapping->foreign = mapping->poisoned = NULL;
    mapping->foreign_pages = 0;
    mapping->unsure_first = mapping->unsure_end = 0;
    sync_lock_init(&mapping->lock, SYNC_RANK_window);
    mapping->large = options->large_folios;
    mapping->waits = waits;
    memset(mapping->counters, 0, sizeof mapping->counters);
    /* Read and never written: one page of the kernel's lies behind all of it, and stays in the cache. */
    char *zeroes = mmap(NULL, ZEROES_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *nowhere = zeroes + ZEROES_BYTES - TIDE_PAGE_BYTES;
    const bool ready = zeroes != MAP_FAILED && mprotect(nowhere, TIDE_PAGE_BYTES, PROT_NONE) == 0;
    mapping->zeroes = zeroes == MAP_FAILED ? NULL : zeroes;
    mapping->nowhere = nowhere;
    uint64_t features = 0;
    tide_status status = ready ? faults_get(delivery, &mapping->faults, &features)
                               : error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "no memory: %s", strerror(errno));
    mapping->shows_protected = (features & FEATURE_WP_UNPOPULATED) != 0;
    if (!tide_failed(status))
        status = file_open(bytes, &mapping->file, &mapping->large);
    if (!tide_failed(status))
        status = window_map(mapping, bytes);
    if (tide_failed(status)) {
        mapping_free(mapping, bytes);
        return status;
    }
    sync_store_64(&mapping->pages, bytes / TIDE_PAGE_BYTES);
    *out = mapping;
    return TIDE_SUCCESS;
}

void mapping_destroy(struct mapping *mapping)
{
    window_events_take(mapping); /* its readers are gone */
    const uint64_t bytes = sync_swap_64(&mapping->pages, 0) * TIDE_PAGE_BYTES;

    while (sync_load_32(&mapping->holders) != 0)
        (void)sched_yield();
    mapping_free(mapping, bytes);
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

static struct mapping_counters *counters_of(struct mapping *mapping)
{
    return &mapping->counters[os_cpu_current() % MAPPING_COUNTERS];
}

static void count(uint64_t *counter, uint64_t by)
{
    (void)sync_add_64(counter, by);
}

/*
 * After a call that did not do it all: true to call again for the rest. While the program unmaps pages, it is EAGAIN until
 * that was read: this may be the last thread that could.
 */
static bool again(struct mapping *mapping, int error, unsigned *tries)
{
    if (error == EAGAIN && mapping->by_threads)
        window_events_take(mapping);
    if (error == EAGAIN || error == EINTR)
        return true;
    if (error != ENOMEM || ++*tries == MEMORY_TRIES)
        return false;
    (void)sched_yield();
    return true;
}

/*
 * ENOENT: the pages do not lie in one mapping of the kernel's. A fenced page is one of its own, so what lies beside one
 * goes page by page; an only page is one that the program has unmapped, and cannot be shown.
 */
static bool crosses_fence(int error, uint64_t *most)
{
    if (error != ENOENT || *most == TIDE_PAGE_BYTES)
        return false;
    *most = TIDE_PAGE_BYTES;
    return true;
}

/*
 * The next of the pages [*page, end) that are the window's; their number, 0 if there are no more. For who acts on them
 * before window_leave(): userfaultfd takes whatever some userfaultfd of the process has registered for its own, also
 * memory that the program has registered with another one.
 */
static uint64_t own_next(const struct mapping *mapping, uint64_t *page, uint64_t end)
{
    uint64_t behind;

    do {
        *page = mapping_foreign_find(mapping, *page, end, false);
        behind = mapping_foreign_find(mapping, *page, end, true);
    } while (behind == *page && behind < end);
    return behind - *page;
}

/*
 * For what, unlike the calls on a userfaultfd, the kernel does while it tells of unmapped pages: window_enter() when there
 * is nothing that was not read of. Something else may lie there by then that the program has moved over the window.
 */
static uint64_t *told_enter(struct mapping *mapping)
{
    for (;;) {
        uint64_t *users = window_enter(mapping);

        if (!window_is_told(mapping))
            return users;
        window_leave(users);
        window_events_take(mapping);
        (void)sched_yield();
    }
}

/*
 * Whatever of these pages is the window's gets these rights of the kernel's. mprotect() ends at the first page that is
 * not there, or that cannot have the rights. Has the program just made it so, then what it did is seen to, and the rest
 * gets its rights.
 */
static void rights_set(struct mapping *mapping, uint64_t page, uint64_t pages, int rights)
{
    uint64_t at = page, own;

    do {
        uint64_t *users = told_enter(mapping);

        own = own_next(mapping, &at, page + pages);
        const bool failed =
            own != 0 && mprotect((void *)(uintptr_t)(at * TIDE_PAGE_BYTES), own * TIDE_PAGE_BYTES, rights) != 0;
        const bool told = failed && window_is_told(mapping);
        window_leave(users);
        if (told)
            window_events_take(mapping);
        else
            at += own;
    } while (own != 0);
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

static void poison_note(const struct mapping *mapping, uint64_t page, bool poisoned)
{
    const uint64_t index = page - mapping->first_page, bit = 1ull << (index % 64);
    uint64_t *word = &mapping->poisoned[index / 64];

    for (uint64_t seen = sync_load_64(word);;)
        if (sync_cas_value_64(word, seen, poisoned ? seen | bit : seen & ~bit, &seen))
            return;
}

/*
 * These pages are poisoned no more. That neither goes with the file's page nor is seen in the soft page table; it is
 * the hardware's alone, and hiding takes it away.
 */
static void poison_end(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    if (__builtin_expect(sync_load_32(&mapping->poisons) == 0, 1))
        return;
    for (uint64_t end = page + pages, next; page < end; page = next) {
        const uint64_t index = page - mapping->first_page;
        const uint64_t left = sync_load_64(&mapping->poisoned[index / 64]) >> (index % 64);

        next = page + (left == 0 ? 64 - index % 64 : 1);
        if (!(left & 1))
            continue;
        poison_note(mapping, page, false);
        mapping_hide(mapping, page, 1);
        if (sync_load_32(&mapping->fences) != 0) /* before Linux 6.6 it was fenced */
            rights_set(mapping, page, 1, PROT_READ | PROT_WRITE);
    }
}

/* Pages with this content into the file. 0 or ENOMEM. */
static int store(struct mapping *mapping, uint64_t page, unsigned pages, const void *from)
{
    unsigned tries = 0;
    int error;

    poison_end(mapping, page, pages);
    do
        error = mapping_write(mapping, page * TIDE_PAGE_BYTES, from, pages * (size_t)TIDE_PAGE_BYTES);
    while (error != 0 && again(mapping, error == ENOSPC ? ENOMEM : error, &tries));
    return error == 0 ? 0 : ENOMEM;
}

int mapping_fill(struct mapping *mapping, uint64_t page, unsigned pages, const void *from, bool writable)
{
    const uint64_t end = page + pages;
    uint64_t at = page, most = pages * (uint64_t)TIDE_PAGE_BYTES;
    unsigned tries = 0;

    poison_end(mapping, page, pages);
    while (at < end) {
        const char *content = from == NULL ? NULL : (const char *)from + (at - page) * TIDE_PAGE_BYTES;
        uint64_t *users = window_enter(mapping);
        const uint64_t bytes = (mapping_foreign_find(mapping, at, end, true) - at) * TIDE_PAGE_BYTES;
        const int64_t some =
            bytes == 0 ? -ENOENT
                       : fill_some(mapping, address_of(mapping, at), bytes < most ? bytes : most, content, writable);
        int error = some < 0 ? (int)-some : 0;

        window_leave(users);
        if (some >= 0) {
            at += (uint64_t)some / TIDE_PAGE_BYTES;
        } else if (error == EEXIST) {
            /* The file has a page there that it should not have: somebody wrote to the window past the engine. */
            mapping_drop(mapping, at, 1);
            error = 0;
        } else if (bytes == 0 || (error == ENOENT && most == TIDE_PAGE_BYTES)) {
            error = store(mapping, at, 1, content == NULL ? mapping->zeroes : content);
            at += error == 0;
        } else if (crosses_fence(error, &most) || again(mapping, error, &tries)) {
            error = 0;
        }
        if (error != 0) {
            mapping_drop(mapping, page, pages);
            return error;
        }
    }
    count(&counters_of(mapping)->filled, pages);
    return 0;
}

int mapping_store(struct mapping *mapping, uint64_t page, unsigned pages, const void *from)
{
    if (store(mapping, page, pages, from) != 0) {
        mapping_drop(mapping, page, pages);
        return ENOMEM;
    }
    count(&counters_of(mapping)->filled, pages);
    return 0;
}

/* Pages of these that are shown may be written from now on, or may not. */
static void write_protect(struct mapping *mapping, uint64_t page, uint64_t pages, bool writable)
{
    uint64_t at = page, own;
    unsigned tries = 0;

    do {
        uint64_t *users = window_enter(mapping);

        own = own_next(mapping, &at, page + pages);
        struct uffdio_writeprotect want = { .range = { at * TIDE_PAGE_BYTES, own * TIDE_PAGE_BYTES },
                                            .mode = writable ? 0 : UFFDIO_WRITEPROTECT_MODE_WP };
        const int error = own != 0 && ioctl(mapping->faults, UFFDIO_WRITEPROTECT, &want) != 0 ? errno : 0;
        window_leave(users);
        if (error == 0 || !again(mapping, error, &tries))
            at += own;
    } while (own != 0);
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
    poison_end(mapping, page, pages);
    const uint64_t end = page + pages;
    uint64_t at = page, most = pages * (uint64_t)TIDE_PAGE_BYTES;
    unsigned tries = 0;

    for (;;) {
        uint64_t *users = window_enter(mapping);
        const uint64_t bytes = own_next(mapping, &at, end) * TIDE_PAGE_BYTES;
        struct uffdio_continue want = { .range = { at * TIDE_PAGE_BYTES, bytes < most ? bytes : most },
                                        .mode = writable ? 0 : CONTINUE_MODE_WP };
        const int result = bytes == 0 ? 0 : ioctl(mapping->faults, UFFDIO_CONTINUE, &want);
        const int error = errno;

        window_leave(users);
        if (bytes == 0)
            break;
        if (want.mapped > 0) {
            at += (uint64_t)want.mapped / TIDE_PAGE_BYTES;
        } else if (result != 0 && crosses_fence(error, &most)) {
            continue;
        } else if (error == ENOENT) {
            at++;
        } else if (error == EEXIST) {
            if (writable)
                write_protect(mapping, at, 1, true);
            at++;
        } else if (!again(mapping, error, &tries)) {
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
    write_protect(mapping, page, pages, false);
}

void mapping_hide(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    uint64_t *users = told_enter(mapping);
    uint64_t most = pages;

    for (uint64_t at = page, own; (own = own_next(mapping, &at, page + pages)) != 0; at += own) {
        int result;

        own = own < most ? own : most;
        /* _LOCKED: what the program has locked with mlock() too. It must not be hidden half. */
        do
            result = madvise((void *)(uintptr_t)address_of(mapping, at), own * TIDE_PAGE_BYTES, MADV_DONTNEED_LOCKED);
        while (result != 0 && (errno == EAGAIN || errno == EINTR));
        /* ENOMEM: a part is not mapped any more, and nothing is shown there. */
        if (result == 0 || errno == ENOMEM || own == 1)
            continue;
        /* EINVAL, EPERM: what the program has just put over a part is not to be emptied. The rest goes page by page. */
        most = 1;
        own = 0;
    }
    window_leave(users);
    count(&counters_of(mapping)->hidden, pages);
    count(&counters_of(mapping)->hides, 1);
}

void mapping_drop(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    while (fallocate(mapping->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, window_offset(mapping, page),
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
            return EINVAL; /* beyond the file, whose size nobody changes */
        if (moved < 0 && errno != EINTR)
            return errno;
        done += moved > 0 ? (size_t)moved : 0;
    }
    return 0;
}

int mapping_read(const struct mapping *mapping, uint64_t address, void *to, size_t bytes)
{
    const int error = transfer(mapping, address, to, bytes, false);

    return error == EIO ? EHWPOISON : error; /* what the kernel says of a bad page of a memfd */
}

int mapping_write(struct mapping *mapping, uint64_t address, const void *from, size_t bytes)
{
    return transfer(mapping, address, (char *)(uintptr_t)from, bytes, true);
}

void mapping_fence(struct mapping *mapping, uint64_t page, bool readable)
{
    (void)sync_swap_32(&mapping->fences, 1);
    rights_set(mapping, page, 1, readable ? PROT_READ : PROT_NONE);
}

void mapping_unfence(struct mapping *mapping, uint64_t page, uint64_t pages)
{
    (void)mapping_mend(mapping, page, pages);
    poison_end(mapping, page, pages);
    /* With a barrier: the rights that were just given are seen by who fences from now on. */
    if (sync_add_32(&mapping->fences, 0) != 0)
        rights_set(mapping, page, pages, PROT_READ | PROT_WRITE);
}

bool mapping_poison(struct mapping *mapping, uint64_t page)
{
    struct {
        struct uffdio_range range;
        uint64_t mode;
        int64_t updated;
    } poison = { .range = { address_of(mapping, page), TIDE_PAGE_BYTES } };
    unsigned tries = 0;
    int error;

    (void)sync_swap_32(&mapping->poisons, 1);
    do {
        uint64_t *users = window_enter(mapping);
        const bool own = mapping_foreign_find(mapping, page, page + 1, true) != page;

        if (own) /* first, for who takes it away */
            poison_note(mapping, page, true);
        error = own && ioctl(mapping->faults, _IOWR(UFFDIO, 0x08, __typeof__(poison)), &poison) != 0 ? errno : 0;
        window_leave(users);
    } while (error != 0 && again(mapping, error, &tries));
    if (error != 0 && error != EEXIST)
        mapping_fence(mapping, page, false); /* before Linux 6.6 */
    return error != EEXIST;
}

void mapping_clear(struct mapping *mapping, uint64_t page)
{
    mapping_hide(mapping, page, 1);
    write_protect(mapping, page, 1, true);
}

void mapping_wake(struct mapping *mapping, uint64_t page)
{
    struct uffdio_range range = { address_of(mapping, page), TIDE_PAGE_BYTES };

    (void)ioctl(mapping->faults, UFFDIO_WAKE, &range);
}

/*
 * The window of a mapping: how it is opened, and what becomes of it where the program unmaps a part of it by mistake.
 *
 * Opening. A userfaultfd, a memory file, and a shared mapping of the file that is registered with the userfaultfd.
 *
 * Large folios. The kernel takes a microsecond to allocate a page of a file, which is most of what a fresh page costs;
 * for many pages at once it can take one piece of memory (a folio), which costs little more than its zeroing. It does
 * for write(2) to a tmpfs that was mounted with huge=always; so with large_folios the file lies in one that is mounted
 * for it alone, nowhere in the file system, if that is allowed (fsmount() takes CAP_SYS_ADMIN). Else it is a memfd, and
 * pages come one by one. When a part of a folio is let go, the kernel splits it. Not by default: docs/mapped-spaces.md
 * has why.
 *
 * Holes. When a part of the window is unmapped, or moved by mremap(), or something is mapped over it, the kernel writes
 * a message to the userfaultfd, and keeps whoever did it waiting until the message is read. Who reads it (a thread of
 * the space, or one that the kernel holds up for it, see window_messages()) fills the hole: with the same pages of the
 * file, registered, without any rights. That is what a fence is, so accesses are SIGSEGV until a call gives the pages
 * rights again, and nothing else in the engine needs to know.
 *
 * If something lies in the hole already, those pages are foreign: marked in a bitmap, and left alone by everything that
 * works by address, since it would be done to somebody else's memory.
 *
 * Order. `filling` is counted up before a message is read, and so before who unmapped goes on, and down once the hole
 * is filled; whatever works by address, or gives addresses out, waits for 0. Who works by address is counted in
 * `acting`, and before a message is read nobody is. So what the thread that unmapped maps next is safe, wherever it
 * lies. What another thread maps into the hole before the message is read is not, for a moment: nobody can know of it.
 * By threads each fault is a message too, and none waits for `acting`: there, what is under way does not know yet.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "tables/mapping_impl.h"
#include "base/error.h"
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Of later kernels than the headers of Debian 12. The first came with CONTINUE_MODE_WP, in Linux 6.4, which is not told.
 */
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
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000 /* Linux 4.17 */
#endif

#define FEATURES                                                                                                       \
    (UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_PAGEFAULT_FLAG_WP |                          \
     UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_EVENT_UNMAP)
#define HUGE_BYTES ((uint64_t)2 << 20)
/* Foreign memory in a hole is told from what is free in pieces of so many pages. */
enum { HOLE_UNIT_PAGES = 16 };

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

static tide_status no_window(uint64_t bytes, int error)
{
    return error_set(TIDE_INSUFFICIENT_RESOURCES, error, 0, "no window of %lu bytes: %s", bytes, strerror(error));
}

/* Children do not get it, and core files leave it out. False with errno set. */
static bool part_keep_apart(void *memory, uint64_t bytes)
{
    return madvise(memory, bytes, MADV_DONTFORK) == 0 && madvise(memory, bytes, MADV_DONTDUMP) == 0;
}

/* The calls that can be made on it then, by bit; 0 with errno set. */
static uint64_t part_register(const struct mapping *mapping, void *memory, uint64_t bytes)
{
    struct uffdio_register want = { .range = { (uintptr_t)memory, bytes },
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR |
                                            UFFDIO_REGISTER_MODE_WP };

    return ioctl(mapping->faults, UFFDIO_REGISTER, &want) == 0 ? want.ioctls : 0;
}

/* Maps the file at a multiple of 2 MiB. */
static tide_status window_map(struct mapping *mapping, uint64_t bytes)
{
    char *reserved = mmap(NULL, bytes + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

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
    if (begin != reserved)
        (void)munmap(reserved, (size_t)(begin - reserved));
    const size_t behind = (size_t)(reserved + HUGE_BYTES - begin);
    if (behind != 0)
        (void)munmap(begin + bytes, behind);
    /* A child would find zeroes where it looks for data; and a core file would be as large as the window. */
    if (!part_keep_apart(begin, bytes))
        return no_window(bytes, errno); /* window_close() unmaps it */
    return TIDE_SUCCESS;
}

static tide_status window_register(const struct mapping *mapping, uint64_t bytes)
{
    const uint64_t needed =
        1ull << _UFFDIO_COPY | 1ull << _UFFDIO_ZEROPAGE | 1ull << _UFFDIO_CONTINUE | 1ull << _UFFDIO_WRITEPROTECT;
    const uint64_t calls = part_register(mapping, mapping->window, bytes);

    if (calls == 0)
        return error_set(TIDE_NOT_SUPPORTED, errno, 0, "registering the window with userfaultfd: %s", strerror(errno));
    if ((calls & needed) != needed)
        return error_set(TIDE_NOT_SUPPORTED, 0, 0,
                         "userfaultfd has calls 0x%lx for shared memory, and 0x%lx are needed", calls, needed);
    return TIDE_SUCCESS;
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

static uint64_t foreign_bytes(uint64_t bytes)
{
    return bytes / TIDE_PAGE_BYTES / 8;
}

tide_status window_open(struct mapping *mapping, const tide_mapped_options *options)
{
    const uint64_t bytes = options->window_bytes;
    uint64_t features = 0;

    mapping->window = NULL;
    mapping->file = mapping->faults = -1;
    mapping->large = options->large_folios;
    mapping->filling = mapping->acting = 0;
    mapping->foreign_pages = 0;
    mapping->foreign_first = UINT64_MAX;
    mapping->foreign_last = 0;
    mapping->foreign = os_memory_reserve(foreign_bytes(bytes), TIDE_PAGE_BYTES);
    tide_status status = mapping->foreign == NULL ? TIDE_INSUFFICIENT_RESOURCES
                                                  : faults_get(options->delivery, &mapping->faults, &features);
    mapping->shows_protected = (features & FEATURE_WP_UNPOPULATED) != 0;
    if (!tide_failed(status))
        status = file_open(bytes, &mapping->file, &mapping->large);
    if (!tide_failed(status))
        status = window_map(mapping, bytes);
    if (!tide_failed(status))
        status = window_register(mapping, bytes);
    if (tide_failed(status))
        window_close(mapping, bytes);
    return status;
}

void window_close(struct mapping *mapping, uint64_t bytes)
{
    /* First: registered, it would be unmapped only when somebody has read the message. */
    if (mapping->faults >= 0)
        (void)close(mapping->faults);
    if (mapping->window != NULL) {
        uint64_t page = (uintptr_t)mapping->window / TIDE_PAGE_BYTES, count;
        const uint64_t end = page + bytes / TIDE_PAGE_BYTES;

        for (; window_next(mapping, &page, end, &count); page += count)
            (void)munmap((void *)(uintptr_t)(page * TIDE_PAGE_BYTES), count * TIDE_PAGE_BYTES);
    }
    if (mapping->file >= 0)
        (void)close(mapping->file);
    os_memory_free(mapping->foreign, foreign_bytes(bytes));
    mapping->foreign = NULL;
}

/* ---- holes ------------------------------------------------------------------------------------------------------ */

static bool is_foreign(const struct mapping *mapping, uint64_t page)
{
    const uint64_t bit = page - mapping->first_page;

    return (sync_load_64(&mapping->foreign[bit / 64]) >> bit % 64 & 1) != 0;
}

static void bound_move(uint64_t *bound, uint64_t page, bool down)
{
    for (uint64_t now = sync_load_64(bound); down ? page < now : page > now;)
        if (sync_cas_value_64(bound, now, page, &now))
            break;
}

static void foreign_set(struct mapping *mapping, uint64_t page, uint64_t count, bool foreign)
{
    if (foreign) {
        bound_move(&mapping->foreign_first, page, true);
        bound_move(&mapping->foreign_last, page + count - 1, false);
    } else if (sync_load_64(&mapping->foreign_pages) == 0) {
        return; /* a hole may be very large */
    }
    for (uint64_t at = page; at < page + count; at++) {
        const uint64_t bit = at - mapping->first_page, mask = 1ull << bit % 64;
        uint64_t *const word = &mapping->foreign[bit / 64];
        uint64_t now = sync_load_64(word);

        while (((now & mask) != 0) != foreign)
            if (sync_cas_value_64(word, now, now ^ mask, &now)) {
                (void)sync_add_64(&mapping->foreign_pages, foreign ? 1 : (uint64_t)-1);
                break;
            }
    }
}

/* The pages from `page` on, before `end`, that are all foreign or all not: where they end, and which of the two. */
static uint64_t alike_end(const struct mapping *mapping, uint64_t page, uint64_t end, bool *foreign)
{
    const uint64_t first = sync_load_64(&mapping->foreign_first), last = sync_load_64(&mapping->foreign_last);
    uint64_t at = page + 1;

    *foreign = false;
    if (__builtin_expect(sync_load_64(&mapping->foreign_pages) == 0, 1) || page > last || end <= first)
        return end;
    *foreign = is_foreign(mapping, page);
    if (at < first)
        at = first; /* none is before it */
    while (at < end && at <= last && is_foreign(mapping, at) == *foreign)
        at++;
    return at > last && !*foreign ? end : at;
}

bool window_next(const struct mapping *mapping, uint64_t *page, uint64_t end, uint64_t *count)
{
    while (*page < end) {
        bool foreign;
        const uint64_t stop = alike_end(mapping, *page, end, &foreign);

        *count = stop - *page;
        if (!foreign)
            return true;
        *page = stop;
    }
    return false;
}

/* The window's own again, without rights. False: something lies there, or the system cannot. */
static bool part_restore(struct mapping *mapping, uint64_t page, uint64_t count)
{
    void *const memory = (void *)(uintptr_t)(page * TIDE_PAGE_BYTES);
    const uint64_t bytes = count * TIDE_PAGE_BYTES;

    /* Not by mmap(), which ThreadSanitizer takes for a write of all that memory: who unmapped it may access it now. */
    if (syscall(SYS_mmap, memory, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED_NOREPLACE, mapping->file,
                (off_t)((page - mapping->first_page) * TIDE_PAGE_BYTES)) == -1)
        return false;
    if (part_keep_apart(memory, bytes) && part_register(mapping, memory, bytes) != 0)
        return true;
    (void)munmap(memory, bytes);
    return false;
}

/* Fills a hole; where something lies already, that is foreign from now on. */
static void hole_fill(struct mapping *mapping, uint64_t page, uint64_t count)
{
    const uint64_t end = page + count;

    /* Fences first: who gives a page rights from now on takes them away. */
    (void)sync_swap_32(&mapping->fences, 1);
    while (page < end) {
        uint64_t part = end - page;
        bool restored;

        while (!(restored = part_restore(mapping, page, part)) && part > HOLE_UNIT_PAGES)
            part = (part + 1) / 2;
        foreign_set(mapping, page, part, !restored);
        page += part;
    }
}

/* A message says that this is not mapped any more; what was unmapped in one call may reach beyond the window. */
static void torn(struct mapping *mapping, uint64_t begin, uint64_t end)
{
    const uint64_t window = mapping->first_page, window_end = window + sync_load_64(&mapping->pages);
    uint64_t page = begin / TIDE_PAGE_BYTES, stop = end / TIDE_PAGE_BYTES;

    page = page < window ? window : page;
    stop = stop > window_end ? window_end : stop;
    if (page < stop)
        hole_fill(mapping, page, stop - page);
}

static void settle(const struct mapping *mapping)
{
    while (__builtin_expect(sync_load_32(&mapping->filling) != 0, 0))
        (void)sched_yield();
}

void window_act(struct mapping *mapping)
{
    for (;;) {
        (void)sync_add_32(&mapping->acting, 1); /* a full barrier, as where `filling` is counted up */
        if (__builtin_expect(sync_load_32(&mapping->filling) == 0, 1))
            return;
        window_acted(mapping);
        settle(mapping);
    }
}

void window_acted(struct mapping *mapping)
{
    (void)sync_add_32(&mapping->acting, (uint32_t)-1);
}

bool mapping_fault_next(struct mapping *mapping, uint64_t *address, bool *write)
{
    for (;;) {
        struct uffd_msg message;

        (void)sync_add_32(&mapping->filling, 1);
        while (!mapping->by_threads && sync_load_32(&mapping->acting) != 0)
            (void)sched_yield();
        const bool is_read = read(mapping->faults, &message, sizeof message) == (ssize_t)sizeof message;
        if (is_read && message.event == UFFD_EVENT_UNMAP)
            torn(mapping, message.arg.remove.start, message.arg.remove.end);
        (void)sync_add_32(&mapping->filling, (uint32_t)-1);
        if (!is_read)
            return false;
        if (message.event != UFFD_EVENT_PAGEFAULT)
            continue;
        *address = message.arg.pagefault.address;
        *write = (message.arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_WRITE | UFFD_PAGEFAULT_FLAG_WP)) != 0;
        return true;
    }
}

void window_messages(struct mapping *mapping)
{
    uint64_t address;
    bool write;

    while (mapping_fault_next(mapping, &address, &write))
        mapping_wake(mapping, address / TIDE_PAGE_BYTES); /* it comes again */
}

bool mapping_whole(struct mapping *mapping, uint64_t page, uint64_t count, uint64_t *first, uint64_t *last)
{
    const uint64_t end = page + count;

    settle(mapping);
    for (uint64_t stop; page < end; page = stop) {
        bool foreign;

        stop = alike_end(mapping, page, end, &foreign);
        if (!foreign)
            continue;
        if (part_restore(mapping, page, stop - page)) { /* it has gone meanwhile */
            foreign_set(mapping, page, stop - page, false);
            continue;
        }
        *first = page;
        *last = stop - 1;
        return false;
    }
    return true;
}

/*
 * mmap() and what belongs to it, in place of the C library's.
 *
 * Captured is what a program maps to have memory: private, anonymous, readable and writable, at no given address, from
 * the threshold on. Not captured: files and shared memory; stacks; memory that is mapped without access or to be
 * executed (reservations of Java and JavaScript engines, which they cut up with MAP_FIXED), without a charge
 * (MAP_NORESERVE), locked, or of huge pages. Calls on addresses outside the space go to the kernel as they are; in a
 * child of fork(), all do.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

RUN_EXPORT void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset);
RUN_EXPORT void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset);
RUN_EXPORT int munmap(void *address, size_t bytes);
RUN_EXPORT int mprotect(void *address, size_t bytes, int protection);
RUN_EXPORT void *mremap(void *address, size_t old_bytes, size_t new_bytes, int flags, ...);
RUN_EXPORT int madvise(void *address, size_t bytes, int advice);
RUN_EXPORT int posix_madvise(void *address, size_t bytes, int advice);
RUN_EXPORT int mlock(const void *address, size_t bytes);
RUN_EXPORT int mlock2(const void *address, size_t bytes, unsigned flags);
RUN_EXPORT int munlock(const void *address, size_t bytes);
RUN_EXPORT int mlockall(int flags);

/* Does a range lie in the space, so that the call is ours? */
static bool ours(const void *address, size_t bytes)
{
    return run_inside == 0 && run_phase() == PHASE_CAPTURING && run_in_window(address) &&
           bytes <= run.window_bytes - ((uintptr_t)address - run.window);
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

static bool is_page_address(const void *address)
{
    return (uintptr_t)address % TIDE_PAGE_BYTES == 0;
}

static bool is_plain_memory(void *address, int protection, int flags)
{
    const int ignored = MAP_POPULATE | MAP_NONBLOCK;

    (void)address;
    return protection == (PROT_READ | PROT_WRITE) && (flags & ~ignored) == (MAP_PRIVATE | MAP_ANONYMOUS);
}

/* MAP_FIXED on memory of the space: new memory in place of the old, which stays the space's. */
static void *map_over(void *address, size_t bytes, int protection, int flags)
{
    const bool anonymous = (flags & (MAP_PRIVATE | MAP_SHARED | MAP_ANONYMOUS)) == (MAP_PRIVATE | MAP_ANONYMOUS);

    if (!anonymous || !is_page_address(address) || run_in_arenas(address)) {
        errno = anonymous ? EINVAL : ENOMEM;
        return MAP_FAILED;
    }
    return space_discard(address, bytes) && space_protect(address, bytes, protection) ? address : MAP_FAILED;
}

void *mmap64(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset)
{
    if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0 && ours(address, bytes)) {
        if ((flags & MAP_FIXED_NOREPLACE) != 0) {
            errno = EEXIST;
            return MAP_FAILED;
        }
        return map_over(address, bytes, protection, flags);
    }
    if (run_inside != 0 || bytes == 0 || !is_plain_memory(address, protection, flags) || !run_captures(bytes) ||
        bytes < run.threshold_bytes || run_phase() != PHASE_CAPTURING) {
        void *const mapped = kernel_mmap(address, bytes, protection, flags, descriptor, offset);
        if (mapped != MAP_FAILED && run_inside == 0 && run_phase() == PHASE_WAITING &&
            is_plain_memory(address, protection, flags))
            run_count_given(bytes);
        return mapped;
    }
    void *const base = space_allocate(bytes, bytes, 0, TIDE_PAGE_READWRITE);
    if (base != NULL)
        return base;
    run_refused("a mapping", bytes);
    return MAP_FAILED;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset)
{
    return mmap64(address, bytes, protection, flags, descriptor, offset);
}

int munmap(void *address, size_t bytes)
{
    if (!ours(address, bytes))
        return kernel_munmap(address, bytes);
    if (bytes == 0 || !is_page_address(address) || run_in_arenas(address))
        return refuse(EINVAL);
    return space_release(address, bytes) ? 0 : -1;
}

int mprotect(void *address, size_t bytes, int protection)
{
    if (!ours(address, bytes))
        return kernel_mprotect(address, bytes, protection);
    if (!is_page_address(address))
        return refuse(EINVAL);
    if (bytes == 0)
        return 0;
    return space_protect(address, bytes, protection) ? 0 : -1;
}

void *mremap(void *address, size_t old_bytes, size_t new_bytes, int flags, ...)
{
    va_list arguments;

    va_start(arguments, flags);
    void *const wanted = (flags & MREMAP_FIXED) != 0 ? va_arg(arguments, void *) : NULL;
    va_end(arguments);
    if (!ours(address, old_bytes))
        return (void *)syscall(SYS_mremap, address, old_bytes, new_bytes, flags, wanted);
    if (!is_page_address(address) || old_bytes == 0 || new_bytes == 0 || run_in_arenas(address) ||
        (flags & ~MREMAP_MAYMOVE) != 0) {
        errno = EINVAL;
        return MAP_FAILED;
    }
    const size_t old_end = (old_bytes + TIDE_PAGE_BYTES - 1) & ~(size_t)(TIDE_PAGE_BYTES - 1);
    const size_t new_end = (new_bytes + TIDE_PAGE_BYTES - 1) & ~(size_t)(TIDE_PAGE_BYTES - 1);
    if (new_end == old_end)
        return address;
    if (new_end < old_end)
        return space_release((char *)address + new_end, old_end - new_end) ? address : MAP_FAILED;
    if ((flags & MREMAP_MAYMOVE) == 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    char *const moved = space_allocate(new_bytes, new_bytes, 0, TIDE_PAGE_READWRITE);
    if (moved == NULL) {
        run_refused("a mapping", new_bytes);
        return MAP_FAILED;
    }
    memcpy(moved, address, old_bytes);
    (void)space_release(address, old_bytes);
    return moved;
}

/* Advice that says nothing to the engine is taken and forgotten. */
int madvise(void *address, size_t bytes, int advice)
{
    const int error = errno;

    if (!ours(address, bytes))
        return kernel_madvise(address, bytes, advice);
    if (!is_page_address(address))
        return refuse(EINVAL);
    if (bytes == 0)
        return 0;
    if (advice == MADV_DONTNEED)
        return space_discard(address, bytes) ? 0 : -1;
    if (advice == MADV_FREE || advice == MADV_WILLNEED) { /* hints: no error of theirs matters */
        const tide_memory_range range = { (uintptr_t)address, bytes };
        run_enter();
        if (advice == MADV_FREE)
            (void)!tide_virtual_reset(run.space, range.address, range.bytes);
        else
            (void)!tide_virtual_prefetch(run.space, &range, 1, 0);
        run_leave();
        errno = error;
    }
    return advice == MADV_REMOVE || advice == MADV_HWPOISON ? refuse(EINVAL) : 0;
}

int posix_madvise(void *address, size_t bytes, int advice)
{
    const int error = errno;

    /* Its DONTNEED loses nothing, so the C library does nothing either. */
    const int result = advice == POSIX_MADV_DONTNEED || madvise(address, bytes, advice) == 0 ? 0 : errno;
    errno = error;
    return result;
}

/*
 * A lock of the kernel's would keep the engine from taking the page, so memory of the space is locked by the engine,
 * within the minimum working set. mlockall() would lock all of it.
 */
int mlock2(const void *address, size_t bytes, unsigned flags)
{
    if (!ours(address, bytes))
        return (int)syscall(SYS_mlock2, address, bytes, flags);
    if (bytes == 0)
        return 0;
    run_enter();
    const tide_status status = tide_virtual_lock(run.space, (uintptr_t)address, bytes);
    run_leave();
    return tide_failed(status) ? refuse(ENOMEM) : 0;
}

int mlock(const void *address, size_t bytes)
{
    return mlock2(address, bytes, 0);
}

int munlock(const void *address, size_t bytes)
{
    if (!ours(address, bytes))
        return (int)syscall(SYS_munlock, address, bytes);
    if (bytes == 0)
        return 0;
    run_enter();
    const tide_status status = tide_virtual_unlock(run.space, (uintptr_t)address, bytes);
    run_leave();
    return tide_failed(status) && status != TIDE_NOT_LOCKED ? refuse(ENOMEM) : 0;
}

int mlockall(int flags)
{
    if (run_phase() == PHASE_INERT || run_phase() == PHASE_CHILD)
        return (int)syscall(SYS_mlockall, flags);
    return refuse(EPERM);
}

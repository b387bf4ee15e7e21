/*
 * The kernel's memory calls, past the functions of the same name in mappings.c. jemalloc's own memory comes by these
 * too.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <sys/syscall.h>
#include <unistd.h>

void *kernel_mmap(void *address, size_t bytes, int protection, int flags, int descriptor, off_t offset)
{
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, descriptor, offset);
}

int kernel_munmap(void *address, size_t bytes)
{
    return (int)syscall(SYS_munmap, address, bytes);
}

int kernel_mprotect(void *address, size_t bytes, int protection)
{
    return (int)syscall(SYS_mprotect, address, bytes, protection);
}

int kernel_madvise(void *address, size_t bytes, int advice)
{
    return (int)syscall(SYS_madvise, address, bytes, advice);
}

/*
 * The operating-system seam on Linux.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/os.h"
#include "base/assert.h"
#include "base/error.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

void *os_memory_reserve(size_t bytes, size_t alignment)
{
    const size_t mapped = bytes + alignment;
    char *memory = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        (void)error_set(TIDE_INSUFFICIENT_RESOURCES, errno, 0, "cannot map %zu bytes: %s", bytes, strerror(errno));
        return NULL;
    }
    char *aligned = (char *)(((uintptr_t)memory + alignment - 1) & ~(uintptr_t)(alignment - 1));
    if (aligned != memory)
        munmap(memory, (size_t)(aligned - memory));
    const size_t tail = mapped - (size_t)(aligned - memory) - bytes;
    if (tail >= 4096)
        munmap((char *)(((uintptr_t)aligned + bytes + 4095) & ~(uintptr_t)4095), tail & ~(size_t)4095);
    return aligned;
}

void os_memory_free(void *memory, size_t bytes)
{
    if (memory != NULL)
        munmap(memory, bytes);
}

void os_memory_advise_huge(void *memory, size_t bytes)
{
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
}

void os_memory_release(void *memory, size_t bytes)
{
    ASSERT_ALWAYS(madvise(memory, bytes, MADV_DONTNEED) == 0);
}

bool os_memory_populate(void *memory, size_t bytes)
{
    while (madvise(memory, bytes, MADV_POPULATE_WRITE) != 0) {
        if (errno == EINVAL) { /* a kernel before 5.14: touch by hand */
            for (size_t i = 0; i < bytes; i += 4096)
                ((volatile char *)memory)[i] = 0;
            return true;
        }
        if (errno != EAGAIN && errno != EINTR)
            return false;
    }
    return true;
}

static uint64_t clock_read(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t os_clock_ns(void)
{
    return clock_read(CLOCK_MONOTONIC);
}

uint64_t os_thread_cpu_ns(void)
{
    return clock_read(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t os_random(void)
{
    uint64_t value;

    /* Before the generator is seeded, early at boot, the clock is all there is. */
    if (getrandom(&value, sizeof value, GRND_NONBLOCK) != (ssize_t)sizeof value)
        value = os_clock_ns() ^ ((uint64_t)getpid() << 32);
    return value;
}

int os_thread_id(void)
{
    return (int)syscall(SYS_gettid);
}

void os_thread_idle_priority(void)
{
    const struct sched_param parameters = { .sched_priority = 0 };

    (void)sched_setscheduler(0, SCHED_IDLE, &parameters);
}

void os_thread_raise(void)
{
    enum { NICE = -10 };

    (void)setpriority(PRIO_PROCESS, (id_t)os_thread_id(), NICE);
}

void os_thread_name(const char *name)
{
    (void)pthread_setname_np(pthread_self(), name);
}

uint64_t os_kib_read(const char *path, const char *name, uint64_t otherwise)
{
    FILE *file = fopen(path, "re");
    uint64_t bytes = otherwise;
    unsigned long long kib;
    char line[160];

    if (file == NULL)
        return otherwise;
    while (fgets(line, sizeof line, file) != NULL) {
        const char *at = strstr(line, name);
        if (at != NULL && sscanf(at + strlen(name), "%llu", &kib) == 1) {
            bytes = kib * 1024;
            break;
        }
    }
    fclose(file);
    return bytes;
}

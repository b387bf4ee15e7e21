/*
 * The operating-system seam: address space, clocks, the running CPU. Files and rings are in stores/.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_OS_H
#define BASE_OS_H

#include <pagetide/status.h>

#include <linux/rseq.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/rseq.h>

/*
 * Zero-filled memory at a multiple of `alignment` (a power of two), not yet populated. Returns NULL with the last
 * error set. os_memory_free() takes the same size.
 */
void *os_memory_reserve(size_t bytes, size_t alignment);
void os_memory_free(void *memory, size_t bytes);
/* Asks for huge pages behind the range; a wish. */
void os_memory_advise_huge(void *memory, size_t bytes);
/* Gives the memory of whole pages back: they are zero when next touched. */
void os_memory_release(void *memory, size_t bytes);
/* Makes every page of the range real now. False with errno set if the host has not that much. */
bool os_memory_populate(void *memory, size_t bytes);

uint64_t os_clock_ns(void);      /* CLOCK_MONOTONIC */
uint64_t os_thread_cpu_ns(void); /* CPU time of the calling thread */
int os_thread_id(void);
uint64_t os_random(void);           /* from the operating system's generator */
void os_thread_idle_priority(void); /* SCHED_IDLE for the calling thread; a wish */
void os_thread_raise(void);         /* ahead of ordinary threads, for the calling one; a wish, which takes privilege */
void os_thread_name(const char *name);
/* A figure in KiB behind a name in a file of /proc or /sys, in bytes; `otherwise` if it is not there. */
uint64_t os_kib_read(const char *path, const char *name, uint64_t otherwise);

/*
 * Index of the CPU that runs the caller, which may be out of date at once. 0.3 ns: glibc registers a restartable
 * sequence area per thread, which the kernel keeps up to date.
 */
static inline unsigned os_cpu_current(void)
{
    if (__builtin_expect(__rseq_size != 0, 1)) {
        const struct rseq *area = (const struct rseq *)((const char *)__builtin_thread_pointer() + __rseq_offset);
        const int32_t cpu = (int32_t) * (const volatile uint32_t *)&area->cpu_id;
        if (__builtin_expect(cpu >= 0, 1))
            return (unsigned)cpu;
    }
    const int cpu = sched_getcpu();
    return cpu < 0 ? 0 : (unsigned)cpu;
}

#endif

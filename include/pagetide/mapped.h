/**
 * @file
 * Mapped address spaces: plain pointers to more memory than the budget.
 *
 * A mapped space is a window of real addresses. What tide_virtual_alloc() gives out in it is a pointer that every load,
 * store and library may use; a page that is not in memory is a hardware fault, which the engine resolves from the same
 * frames, lists, working sets and page files as in a soft space. All calls on spaces work on it; an address is a
 * pointer:
 *
 *     tide_address base = 0;
 *     uint64_t bytes = 100ull << 30;
 *     tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
 *     double *numbers = tide_pointer(base);
 *
 * docs/mapped-spaces.md has how it works, what each way of delivery costs, and the limits.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_MAPPED_H
#define PAGETIDE_MAPPED_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Who resolves a hardware fault. */
typedef enum tide_delivery {
    /**
     * The faulting thread itself, in a handler for SIGBUS. Fast, and needs no privilege. System calls on a page that is
     * not in memory fail with EFAULT (or stop short): pin the range first (tide_pin_create()), which makes it safe.
     */
    TIDE_DELIVERY_SIGNAL = 0,
    /**
     * Threads of the engine, while the faulting thread sleeps in the kernel. Ten times as dear; system calls on missing
     * pages work. Needs CAP_SYS_PTRACE, or access to /dev/userfaultfd, or vm.unprivileged_userfaultfd = 1.
     */
    TIDE_DELIVERY_THREADS = 1
} tide_delivery;

/** What a mapped space is made of. Fill with tide_mapped_options_init(). Zero means the default, given in brackets. */
typedef struct tide_mapped_options {
    size_t struct_bytes;      /**< set by tide_mapped_options_init() */
    uint64_t window_bytes;    /**< addresses, a multiple of 2 MiB; they cost nothing until used [1 TiB; or 256, 64
                                   or 16 GiB if the process has no more left] */
    tide_delivery delivery;   /**< [TIDE_DELIVERY_SIGNAL] */
    unsigned handler_threads; /**< of TIDE_DELIVERY_THREADS, 1 to 64 [one for each CPU, 8 at most] */
    unsigned cluster_pages;   /**< most pages that one fault of a sequential toucher shows, 1 to 256 [1/64 of the
                                   frames; 64 at least] */
    /**
     * Fresh memory that is touched in order comes in pieces larger than a page, at half the kernel's cost, where the
     * process may have a tmpfs of its own (CAP_SYS_ADMIN); elsewhere it changes nothing. Not in a virtual machine whose
     * host backs memory at first use: larger pieces are memory that was never used, and each costs more than it saves.
     * [false]
     */
    bool large_folios;
} tide_mapped_options;

TIDE_EXPORT void tide_mapped_options_init(tide_mapped_options *options);

/**
 * Can this process have a mapped space with this delivery? Opens and closes what it would need.
 * @return TIDE_SUCCESS; TIDE_NOT_SUPPORTED, and the message of tide_last_error() says what is missing and the remedy.
 *   Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_mapped_check(tide_delivery delivery);

/**
 * Creates an empty mapped space. The first one of a process installs a handler for SIGBUS (TIDE_DELIVERY_SIGNAL): what
 * it does not know goes to the handler from before. A program that installs its own later must pass on what is not its
 * own. An access that nothing allows is delivered as SIGSEGV, a page that cannot be read back as SIGBUS (by threads
 * before Linux 6.6 as SIGSEGV too), each with the address.
 *
 * A child of fork() does not have the window: an access there is SIGSEGV. The window is not for the program to unmap,
 * move or map over: munmap() of a part waits for a thread of the space, and an access there is SIGSEGV until a call on
 * the pages gives them rights; what the program maps there stays its own (docs/mapped-spaces.md).
 * @param options NULL for the defaults.
 * @return TIDE_SUCCESS; TIDE_NOT_SUPPORTED with the remedy; TIDE_INVALID_PARAMETER; TIDE_INVALID_HANDLE;
 *   TIDE_INSUFFICIENT_RESOURCES (addresses, descriptors, threads); else as tide_space_create(). Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_mapped_space_create(tide_engine *engine,
                                                                 const tide_mapped_options *options,
                                                                 tide_space **space);

/** Addresses that can be used in a space: the window of a mapped one. Both inclusive. TIDE_INVALID_HANDLE. */
TIDE_EXPORT tide_status tide_space_range(const tide_space *space, tide_address *lowest, tide_address *highest);

/** The address of a mapped space as the pointer that it is. */
static inline void *tide_pointer(tide_address address)
{
    return (void *)(uintptr_t)address;
}

/** What a mapped space has asked of the kernel so far. */
typedef struct tide_mapped_statistics {
    size_t struct_bytes;    /**< set by the caller to sizeof(tide_mapped_statistics) */
    uint64_t faults;        /**< hardware faults that came to the engine */
    uint64_t fault_ns;      /**< time spent in resolving them, over all threads */
    uint64_t pages_filled;  /**< pages given content and shown: fresh ones, and those read back */
    uint64_t pages_shown;   /**< pages that were in memory, shown again */
    uint64_t pages_hidden;  /**< pages taken away from the program, by ageing and trimming */
    uint64_t hides;         /**< calls that it took: each may flush all CPUs */
    uint64_t pages_dropped; /**< pages whose memory went back */
} tide_mapped_statistics;

/** @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (a soft space, a wrong size). Thread-safe. */
TIDE_EXPORT tide_status tide_mapped_query(const tide_space *space, tide_mapped_statistics *statistics);

#ifdef __cplusplus
}
#endif
#endif

/**
 * @file
 * Status codes and the text of the last error.
 *
 * A tide_status is an NTSTATUS: the same numbers for the same meanings. Negative is an error, zero is success, positive
 * is success with information (the class of a page fault). Test with tide_failed() or against a name; never against
 * zero alone when the call may inform.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_STATUS_H
#define PAGETIDE_STATUS_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TIDE_MUST_CHECK __attribute__((warn_unused_result))
#define TIDE_EXPORT __attribute__((visibility("default")))
#else
#define TIDE_MUST_CHECK
#define TIDE_EXPORT
#endif

typedef int32_t tide_status;

#define TIDE_STATUS_CODE(code) ((tide_status)(code))

/* Success, and success with information: the class of fault that an access took (nt-behaviour 1.2). */
#define TIDE_SUCCESS TIDE_STATUS_CODE(0)
#define TIDE_PENDING TIDE_STATUS_CODE(0x103)                  /**< noted, and done later by itself */
#define TIDE_PAGE_FAULT_TRANSITION TIDE_STATUS_CODE(0x110)    /**< soft fault: the page was in memory */
#define TIDE_PAGE_FAULT_DEMAND_ZERO TIDE_STATUS_CODE(0x111)   /**< a zero page was given */
#define TIDE_PAGE_FAULT_COPY_ON_WRITE TIDE_STATUS_CODE(0x112) /**< a private copy was made */
#define TIDE_PAGE_FAULT_GUARD_PAGE TIDE_STATUS_CODE(0x113)    /**< a stack grew by one page */
#define TIDE_PAGE_FAULT_PAGING_FILE TIDE_STATUS_CODE(0x114)   /**< hard fault: the page was read */

/* Errors. */
#define TIDE_GUARD_PAGE_VIOLATION TIDE_STATUS_CODE(0x80000001)
#define TIDE_NOT_SUPPORTED TIDE_STATUS_CODE(0xC00000BB)
#define TIDE_BUFFER_TOO_SMALL TIDE_STATUS_CODE(0xC0000023) /**< nothing is lost: come again with a larger one */
#define TIDE_ACCESS_VIOLATION TIDE_STATUS_CODE(0xC0000005)
#define TIDE_IN_PAGE_ERROR TIDE_STATUS_CODE(0xC0000006) /**< the backing read failed; tide_error.io_error says why */
#define TIDE_INVALID_HANDLE TIDE_STATUS_CODE(0xC0000008)
#define TIDE_INVALID_PARAMETER TIDE_STATUS_CODE(0xC000000D)
#define TIDE_NO_MEMORY TIDE_STATUS_CODE(0xC0000017) /**< no address range, or no frames */
#define TIDE_CONFLICTING_ADDRESSES TIDE_STATUS_CODE(0xC0000018)
#define TIDE_UNABLE_TO_FREE_VM TIDE_STATUS_CODE(0xC000001A)
#define TIDE_NOT_LOCKED TIDE_STATUS_CODE(0xC000002A)
#define TIDE_NOT_COMMITTED TIDE_STATUS_CODE(0xC000002D)
#define TIDE_SHARING_VIOLATION TIDE_STATUS_CODE(0xC0000043) /**< the page file belongs to another engine */
#define TIDE_INVALID_PAGE_PROTECTION TIDE_STATUS_CODE(0xC0000045)
#define TIDE_DISK_FULL TIDE_STATUS_CODE(0xC000007F)
#define TIDE_INSUFFICIENT_RESOURCES TIDE_STATUS_CODE(0xC000009A) /**< the operating system refused memory or threads */
#define TIDE_STACK_OVERFLOW TIDE_STATUS_CODE(0xC00000FD)
#define TIDE_FREE_VM_NOT_AT_BASE TIDE_STATUS_CODE(0xC000009F)
#define TIDE_MEMORY_NOT_ALLOCATED TIDE_STATUS_CODE(0xC00000A0)
#define TIDE_WORKING_SET_QUOTA TIDE_STATUS_CODE(0xC00000A1)
#define TIDE_DEVICE_BUSY TIDE_STATUS_CODE(0x80000011)        /**< spaces, sections or pins are still open */
#define TIDE_TIMEOUT TIDE_STATUS_CODE(0xC00000B5)            /**< no frame came within the configured wait */
#define TIDE_IO_ERROR TIDE_STATUS_CODE(0xC0000185)           /**< a file could not be opened, sized, read or written */
#define TIDE_INVARIANT_VIOLATED TIDE_STATUS_CODE(0xC0000102) /**< tide_engine_verify() found the engine inconsistent */
#define TIDE_HARDWARE_MEMORY_ERROR TIDE_STATUS_CODE(0xC0000709) /**< memory that cannot be done without is bad */
#define TIDE_COMMITMENT_LIMIT TIDE_STATUS_CODE(0xC000012D)
#define TIDE_OBJECT_NAME_COLLISION TIDE_STATUS_CODE(0xC0000035) /**< the file exists and is no page file */

/**
 * The open access section of this thread keeps so many frames from reuse that none is left: end the section, begin it
 * again, and repeat the access. A status of pagetide's own (customer bit set).
 */
#define TIDE_ACCESS_SECTION_TOO_LONG TIDE_STATUS_CODE(0xE0000001)

/**
 * The range is usable again, and at least one of its pages was lost and is zero: what ReclaimVirtualMemory tells as
 * ERROR_BUSY, and MEM_RESET_UNDO by failing. A warning of pagetide's own.
 */
#define TIDE_CONTENTS_LOST TIDE_STATUS_CODE(0xA0000001)

/* Win32 errors that have no NTSTATUS of their own: NTSTATUS_FROM_WIN32 of 400 to 403. */
#define TIDE_THREAD_MODE_ALREADY_BACKGROUND TIDE_STATUS_CODE(0xC0070190)
#define TIDE_THREAD_MODE_NOT_BACKGROUND TIDE_STATUS_CODE(0xC0070191)
#define TIDE_PROCESS_MODE_ALREADY_BACKGROUND TIDE_STATUS_CODE(0xC0070192)
#define TIDE_PROCESS_MODE_NOT_BACKGROUND TIDE_STATUS_CODE(0xC0070193)

/** True for errors and warnings (the sign bit of an NTSTATUS). */
static inline bool tide_failed(tide_status status)
{
    return status < 0;
}

/** What is known of the last failure in this thread. Filled by every public call that fails. */
typedef struct tide_error {
    tide_status status;
    int io_error;      /**< errno of the failed system call, 0 if none */
    uint64_t address;  /**< address concerned, 0 if none */
    char message[232]; /**< one English sentence that names the value and the limit */
} tide_error;

/**
 * The last failure of a pagetide call in the calling thread; never NULL. A call that succeeds leaves it alone. Valid
 * until the next pagetide call of this thread. Thread-safe.
 */
TIDE_EXPORT const tide_error *tide_last_error(void);

/** The symbolic name of a status, such as "TIDE_ACCESS_VIOLATION", or "unknown status"; never NULL. Thread-safe. */
TIDE_EXPORT const char *tide_status_name(tide_status status);

#ifdef __cplusplus
}
#endif
#endif

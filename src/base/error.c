/*
 * Last error and status names.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static _Thread_local tide_error last_error;    /* [T] */
static _Thread_local tide_error handler_error; /* [T] */
static _Thread_local unsigned handlers;        /* [T] how deep in handlers */

tide_status error_set(tide_status status, int io_error, uint64_t address, const char *format, ...)
{
    va_list arguments;

    if (handlers != 0) {
        static const char text[] = "told in a signal handler, where there are no sentences";

        handler_error.status = status;
        handler_error.io_error = io_error;
        handler_error.address = address;
        memcpy(handler_error.message, text, sizeof text);
        return status;
    }
    last_error.status = status;
    last_error.io_error = io_error;
    last_error.address = address;
    va_start(arguments, format);
    (void)vsnprintf(last_error.message, sizeof last_error.message, format, arguments);
    va_end(arguments);
    return status;
}

void error_handler_begin(void)
{
    handlers++;
}

void error_handler_end(bool keep)
{
    handlers--;
    if (keep)
        last_error = handler_error;
}

const tide_error *tide_last_error(void)
{
    return &last_error;
}

const char *tide_status_name(tide_status status)
{
    static const struct {
        tide_status status;
        const char *name;
    } names[] = {
#define STATUS_NAME(name) { name, #name }
        STATUS_NAME(TIDE_SUCCESS),
        STATUS_NAME(TIDE_PENDING),
        STATUS_NAME(TIDE_HARDWARE_MEMORY_ERROR),
        STATUS_NAME(TIDE_PAGE_FAULT_TRANSITION),
        STATUS_NAME(TIDE_PAGE_FAULT_DEMAND_ZERO),
        STATUS_NAME(TIDE_PAGE_FAULT_COPY_ON_WRITE),
        STATUS_NAME(TIDE_PAGE_FAULT_GUARD_PAGE),
        STATUS_NAME(TIDE_PAGE_FAULT_PAGING_FILE),
        STATUS_NAME(TIDE_GUARD_PAGE_VIOLATION),
        STATUS_NAME(TIDE_NOT_SUPPORTED),
        STATUS_NAME(TIDE_ACCESS_VIOLATION),
        STATUS_NAME(TIDE_IN_PAGE_ERROR),
        STATUS_NAME(TIDE_INVALID_HANDLE),
        STATUS_NAME(TIDE_INVALID_PARAMETER),
        STATUS_NAME(TIDE_NO_MEMORY),
        STATUS_NAME(TIDE_CONFLICTING_ADDRESSES),
        STATUS_NAME(TIDE_UNABLE_TO_FREE_VM),
        STATUS_NAME(TIDE_NOT_COMMITTED),
        STATUS_NAME(TIDE_NOT_LOCKED),
        STATUS_NAME(TIDE_STACK_OVERFLOW),
        STATUS_NAME(TIDE_CONTENTS_LOST),
        STATUS_NAME(TIDE_SHARING_VIOLATION),
        STATUS_NAME(TIDE_INVALID_PAGE_PROTECTION),
        STATUS_NAME(TIDE_DISK_FULL),
        STATUS_NAME(TIDE_INSUFFICIENT_RESOURCES),
        STATUS_NAME(TIDE_FREE_VM_NOT_AT_BASE),
        STATUS_NAME(TIDE_MEMORY_NOT_ALLOCATED),
        STATUS_NAME(TIDE_WORKING_SET_QUOTA),
        STATUS_NAME(TIDE_DEVICE_BUSY),
        STATUS_NAME(TIDE_TIMEOUT),
        STATUS_NAME(TIDE_IO_ERROR),
        STATUS_NAME(TIDE_COMMITMENT_LIMIT),
        STATUS_NAME(TIDE_OBJECT_NAME_COLLISION),
        STATUS_NAME(TIDE_ACCESS_SECTION_TOO_LONG),
        STATUS_NAME(TIDE_INVARIANT_VIOLATED),
        STATUS_NAME(TIDE_BUFFER_TOO_SMALL),
        STATUS_NAME(TIDE_THREAD_MODE_ALREADY_BACKGROUND),
        STATUS_NAME(TIDE_THREAD_MODE_NOT_BACKGROUND),
        STATUS_NAME(TIDE_PROCESS_MODE_ALREADY_BACKGROUND),
        STATUS_NAME(TIDE_PROCESS_MODE_NOT_BACKGROUND),
#undef STATUS_NAME
    };

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].status == status)
            return names[i].name;
    return "unknown status";
}

/*
 * The last error of a thread. Every public call that fails leaves here a sentence that names the value and the limit;
 * a layer that knows the cause sets it, the layers above hand the status through.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

#include <pagetide/status.h>

#include <stdbool.h>

/* Sets the calling thread's last error and returns `status`, so that a check reads `return error_set(...)`. Never
 * allocates; async-signal-unsafe. `io_error` is an errno or 0; `address` 0 if none. */
tide_status error_set(tide_status status, int io_error, uint64_t address, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * Between these two, in a signal handler, errors have no sentence, since making one takes functions that a handler must
 * not call, and lie apart, since the program may be about to read its last one. `keep`: the last of them becomes the
 * thread's.
 */
void error_handler_begin(void);
void error_handler_end(bool keep);

#endif

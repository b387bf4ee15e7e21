/*
 * Assertion failure.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/assert.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>

/* Names every frame of the backtrace, where a sanitizer is linked in. */
__attribute__((weak)) void __sanitizer_print_stack_trace(void);

_Noreturn void assert_fail(const char *condition, const char *file, int line)
{
    void *frames[32];

    fprintf(stderr, "pagetide: assertion failed: %s (%s:%d)\n", condition, file, line);
    if (__sanitizer_print_stack_trace != NULL)
        __sanitizer_print_stack_trace();
    else
        backtrace_symbols_fd(frames, backtrace(frames, 32), 2);
    abort();
}

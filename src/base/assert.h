/*
 * Two levels of assertion.
 *   ASSERT_ALWAYS  in every build: cheap, and where going on would lose data.
 *   ASSERT_DEBUG   in debug and sanitizer builds (no NDEBUG).
 * A bug is an assertion, never a status; bad data from a disk is a status, never an assertion.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_ASSERT_H
#define BASE_ASSERT_H

#include <assert.h>

/* Prints the failed condition with its place and a backtrace, then aborts. */
_Noreturn void assert_fail(const char *condition, const char *file, int line);

#define ASSERT_ALWAYS(condition)                                                                                       \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            assert_fail(#condition, __FILE__, __LINE__);                                                               \
    } while (0)

#ifdef NDEBUG
#define ASSERT_DEBUG(condition) ((void)sizeof(condition))
#else
#define ASSERT_DEBUG(condition) ASSERT_ALWAYS(condition)
#endif

#endif

/*
 * What the tests of the stores share: a folder of their own, mounts, page files in it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_STORES_SUPPORT_H
#define UNIT_STORES_SUPPORT_H

#include "base/error.h"
#include "stores/stores_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || defined(TIDE_CHECKING)
#define SLOW_BUILD 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SLOW_BUILD 1
#endif
#endif
#ifdef SLOW_BUILD
enum { EFFORT_DIVISOR = 10 };
#else
enum { EFFORT_DIVISOR = 1 };
#endif

/* Setup and teardown: an empty folder for each test. The teardown fails the test if anything was left in it. */
int folder_setup(void **state);
int folder_teardown(void **state);
/* A path in the folder; good until the 16th call after it. */
const char *in_folder(const char *name);
unsigned folder_entries(void);

/*
 * Mounts a file system over the folder, in a mount namespace of this process's own; the teardown takes it off. False,
 * with the reason printed, where that is not possible.
 */
bool folder_mount(const char *type, unsigned long flags, const char *options);
void folder_unmount(void);

/* Creates a file with the given content, as somebody else's. */
void write_file(const char *path, const void *content, size_t bytes);

/* Opens stores that must open. */
struct stores *stores_good(const struct stores_options *options);
/* Expects a refusal, with a message that contains each of the texts (the last one NULL), and nothing left open. */
void assert_refused(const struct stores_options *options, tide_status status, ...);

#endif

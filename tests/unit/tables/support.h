/*
 * What the tests of the tables share: frames on one node and a thread of the engine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_TABLES_SUPPORT_H
#define UNIT_TABLES_SUPPORT_H

#include "base/error.h"
#include "tables/page_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
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

enum { PAGE = TIDE_PAGE_BYTES };
#define HIGHEST_PAGE (TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)

/* Frames that must be good, with page_table_detach(), on a topology that lives as long as they do. */
struct frames *frames_good(uint64_t count);
void frames_close(struct frames *frames);
/* Frames on no list and in no cache. */
uint64_t frames_out(const struct frames *frames);

#endif

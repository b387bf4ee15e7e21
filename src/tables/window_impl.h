/*
 * The window of a mapping: its place, its registration with userfaultfd, and what the program does to it by mistake.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TABLES_WINDOW_IMPL_H
#define TABLES_WINDOW_IMPL_H

#include "tables/mapping.h"

#include <sys/types.h>

/*
 * Maps the file, `bytes` of it, at a place of its own, and registers it: `window`, `first_page` and the bitmap of
 * foreign pages are set. TIDE_INSUFFICIENT_RESOURCES, TIDE_NOT_SUPPORTED; window_unmap() is for the caller then.
 */
TIDE_MUST_CHECK tide_status window_map(struct mapping *mapping, uint64_t bytes);
/* Unmaps what is still the window's, however far window_map() came. Nobody uses the mapping any more. */
void window_unmap(struct mapping *mapping, uint64_t bytes);
/* Is a call of the program's under way that unmaps pages? Until it was read of, and the thread has run. */
bool window_is_told(const struct mapping *mapping);
/* What the kernel has told of the window is seen to; faults that came with it come again. */
void window_events_take(struct mapping *mapping);

/*
 * Around system calls that act on whatever lies at an address: inside, no page becomes foreign whose owner knows of it
 * yet. For a few calls that wait for nobody. Returns what window_leave() takes.
 */
uint64_t *window_enter(struct mapping *mapping);
void window_leave(uint64_t *users);

/* Has any window a page among these? */
bool mappings_overlap(uint64_t page, uint64_t count);

static inline off_t window_offset(const struct mapping *mapping, uint64_t page)
{
    return (off_t)((page - mapping->first_page) * TIDE_PAGE_BYTES);
}

#endif

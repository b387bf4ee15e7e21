/*
 * What the files of the mapping share: window.c has the window, mapping.c the pages in it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TABLES_MAPPING_IMPL_H
#define TABLES_MAPPING_IMPL_H

#include "tables/mapping.h"

/* Everything of *mapping that has to do with the kernel. Nothing is kept on failure. The options were checked. */
TIDE_MUST_CHECK tide_status window_open(struct mapping *mapping, const tide_mapped_options *options);
/* Nobody uses it any more. */
void window_close(struct mapping *mapping, uint64_t bytes);

/*
 * The next pages from *page on, before `end`, that are the window's: moves *page to the first, says how many follow one
 * another. False if there are none. Whatever works by address goes through this, within window_act().
 */
bool window_next(const struct mapping *mapping, uint64_t *page, uint64_t end, uint64_t *count);

/*
 * Around what works by address: every hole that somebody knows of is filled, or marked, and none is filled meanwhile.
 * Short, and nothing in between waits for a message to be read.
 */
void window_act(struct mapping *mapping);
void window_acted(struct mapping *mapping);

/*
 * Reads what the kernel has to say, without a wait. Between an unmapping and the reading of its message the kernel lets
 * nobody put a page into the window (EAGAIN); so who meets that for long reads it. Faults that it finds are sent back.
 */
void window_messages(struct mapping *mapping);

#endif

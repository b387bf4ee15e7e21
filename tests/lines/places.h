/*
 * What lies at an address: the engine's structures, by the ranges of memory that they occupy.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_LINES_PLACES_H
#define TESTS_LINES_PLACES_H

#include "engine/engine_impl.h"

enum place {
    PLACE_PFN,      /* PFN records */
    PLACE_SHARD,    /* shards of the page lists */
    PLACE_MARKS,    /* which shards of a node's lists hold something */
    PLACE_CPU,      /* the CPUs' frame caches */
    PLACE_PTE,      /* leaf page tables */
    PLACE_TABLE,    /* upper page tables */
    PLACE_PAGE,     /* memory of pages */
    PLACE_COUNTERS, /* the spaces' counters */
    PLACE_SPACE,    /* struct tide_space */
    PLACE_VAD,      /* VADs */
    PLACE_THREAD,   /* the threads' grace records */
    PLACE_CREDIT,   /* the CPUs' commit credits */
    PLACE_SLOT,     /* slot maps of the page files */
    PLACE_GLOBAL,   /* what an engine has once: commit, grace, nodes, wait table, workers */
    PLACE_STACK,    /* the threads' stacks and thread-local variables */
    PLACE_OTHER,
    PLACE_COUNT
};

struct stack_range {
    uintptr_t begin, end;
};

struct places {
    const tide_engine *engine;
    tide_space *const *spaces;
    unsigned space_count;
    const struct stack_range *stacks;
    unsigned stack_count;
    uint8_t *leaves; /* by frame number: is it a leaf table? */
};

/* Looks at a quiet engine. The arrays stay the caller's and must outlive `places`. False if there is no memory. */
bool places_init(struct places *places, const tide_engine *engine, tide_space *const *spaces, unsigned space_count,
                 const struct stack_range *stacks, unsigned stack_count);
void places_destroy(struct places *places);

/* The structure that a line, given by its address, is part of. */
enum place place_of(const struct places *places, uintptr_t address);
/*
 * The node that owns a line: it is that node's, one of its frames', or one of its CPUs'. PLACE_NO_NODE for the others.
 */
enum { PLACE_NO_NODE = -1 };
int place_node(const struct places *places, uintptr_t address);
/* Heading of a table's column. */
const char *place_name(enum place place);
/* Where in its structure a line lies, such as "shard 3 of list 0, node 0". */
void place_describe(const struct places *places, uintptr_t address, char *text, size_t bytes);

#endif

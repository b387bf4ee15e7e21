/*
 * Placement: which node a page asks for its frame, and who counts what came of it (nt-behaviour 11, 27).
 *
 * A placement is a policy, a node and a fallback. A region has one, given at its creation; a space has one, which can
 * change at any time; the rest is first touch with the engine's fallback. A fault that needs a frame takes the first of
 * these that is there. Until a region or the space has any, faults look at none of this: tide_space.has_placement.
 *
 * Interleave goes by a table of nodes that is made at open, in which each node has its share of the frames, spread as
 * evenly as may be: a page's node is the entry of its number modulo the length. With nodes of one size that is round
 * robin.
 *
 * Pairs of nodes. A fault that crossed nodes is counted in a row of its CPU, for the node of the frame; the row's CPU
 * says from which node. A thread that counts as running elsewhere (ideal node) says something else than its CPU: all
 * its faults are counted in one table by both nodes, and each once in its CPU's row as not this CPU's. Faults that stay
 * at home are not counted here: they are what a CPU resolved less the others. So the usual fault writes nothing for it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef SPACES_PLACEMENT_H
#define SPACES_PLACEMENT_H

#include <pagetide/numa.h>

#include "frames/frames.h"

/* As a region or a space has it. 8 bytes, so that a space's is read and written as one word. */
struct placement {
    uint32_t node;     /* PREFERRED and STRICT; else TIDE_NO_PREFERRED_NODE */
    uint16_t policy;   /* tide_placement_policy */
    uint16_t fallback; /* tide_placement_fallback */
};
_Static_assert(sizeof(struct placement) == sizeof(uint64_t), "a placement is one word");

static inline struct placement placement_none(void)
{
    return (struct placement){ TIDE_NO_PREFERRED_NODE, TIDE_PLACEMENT_DEFAULT, TIDE_FALLBACK_DEFAULT };
}

/* Does it ask for anything? */
static inline bool placement_is_none(struct placement placement)
{
    return placement.policy == TIDE_PLACEMENT_DEFAULT && placement.fallback == TIDE_FALLBACK_DEFAULT;
}

/*
 * Checks what a program asks for, and makes a DEFAULT that names a node PREFERRED if `region`. TIDE_INVALID_PARAMETER
 * with the last error set.
 */
TIDE_MUST_CHECK tide_status placement_check(const struct frames *frames, tide_placement_policy policy,
                                            tide_placement_fallback fallback, uint32_t node, bool region,
                                            struct placement *placement);

/* The turns of the nodes. */
struct interleave {
    uint32_t length; /* [I] at least 1 */
    uint8_t *nodes;  /* [I] */
};
TIDE_MUST_CHECK tide_status interleave_create(struct interleave *interleave, const struct frames *frames);
void interleave_destroy(struct interleave *interleave);
static inline unsigned interleave_node(const struct interleave *interleave, uint64_t turn)
{
    return interleave->nodes[turn % interleave->length];
}

struct node_pairs {
    unsigned node_count;      /* [I] */
    unsigned cpu_count;       /* [I] */
    size_t stride;            /* [I] figures from one CPU's row to the next */
    const uint16_t *cpu_node; /* [I] */
    uint64_t *rows;      /* [A] for each CPU: by node of the frame; and behind these, those of threads that count as
                                  elsewhere. Whole cache lines */
    uint64_t *elsewhere; /* [A] of these threads: node_count x node_count */
};
TIDE_MUST_CHECK tide_status node_pairs_create(struct node_pairs *pairs, const struct topology *topology);
void node_pairs_destroy(struct node_pairs *pairs);

/* A fault resolved on a CPU, by a thread that counts as running on `from`, with a frame of `to`. */
static inline void node_pairs_count(struct node_pairs *pairs, unsigned cpu, unsigned from, unsigned to)
{
    uint64_t *row = &pairs->rows[cpu * pairs->stride];

    if (__builtin_expect(from != pairs->cpu_node[cpu], 0)) {
        (void)sync_add_64(&row[pairs->node_count], 1);
        (void)sync_add_64(&pairs->elsewhere[from * pairs->node_count + to], 1);
    } else if (from != to) {
        (void)sync_add_64(&row[to], 1);
    }
}

/* All pairs, given what the CPUs of each node resolved in all. `faults` has node_count x node_count figures. */
void node_pairs_sum(const struct node_pairs *pairs, const uint64_t *resolved, uint64_t *faults);

#endif

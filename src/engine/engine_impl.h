/*
 * Inside engine/: the engine itself and how a public call enters it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef ENGINE_ENGINE_IMPL_H
#define ENGINE_ENGINE_IMPL_H

#include <pagetide/pagetide.h>

#include "faults/fault.h"
#include "spaces/space.h"
#include "workers/workers.h"

#define ENGINE_MAGIC 0x74696465656E676Eull /* "tideengn" */

struct tide_engine {
    struct partition partition; /* first: a partition is its engine */
    uint64_t magic;             /* [I] ENGINE_MAGIC while open */
    uint64_t id;                /* [I] never used again in the process */
    struct workers *workers;    /* [I] */
    struct sync_lock world;     /* rank world: one verifier at a time */
    uint64_t reserve_pages;     /* [I] what the commit limit keeps back */
    tide_engine *next;          /* [L:registry] */
};

static inline tide_engine *engine_of(const tide_space *space)
{
    return (tide_engine *)(void *)space->partition;
}

/* The calling thread's record in an engine; made at its first call. NULL with the last error set if that fails. */
struct grace_thread *engine_thread_slow(tide_engine *engine);

struct engine_thread_cache {
    uint64_t engine_id;
    struct grace_thread *thread;
};
extern _Thread_local struct engine_thread_cache engine_thread_cache; /* [T] */

static inline struct grace_thread *engine_thread(tide_engine *engine)
{
    return __builtin_expect(engine_thread_cache.engine_id == engine->id, 1) ? engine_thread_cache.thread
                                                                            : engine_thread_slow(engine);
}

/* tide_space_create() and tide_mapped_space_create(), which gives options. */
TIDE_MUST_CHECK tide_status engine_space_create(tide_engine *engine, const tide_mapped_options *mapped,
                                                tide_space **space);
/* The faults of a mapped space come to nobody any more (mapped.c). */
void engine_delivery_end(tide_space *space);
/*
 * A structure that a call reads or fills in, which begins with struct_bytes: TIDE_INVALID_PARAMETER if it is NULL or
 * another version's.
 */
#define PLACE_CHECK(place) engine_place_check((place) == NULL ? NULL : &(place)->struct_bytes, sizeof *(place))
TIDE_MUST_CHECK tide_status engine_place_check(const size_t *struct_bytes, size_t expected);
/* Refuses a NULL or dead handle. */
tide_status engine_check(const tide_engine *engine);
tide_status space_check(const tide_space *space);

/*
 * Begins a public call on a space: the thread's record, inside the engine (grace_enter()). NULL with *status and the
 * last error set.
 */
struct grace_thread *engine_call_begin(tide_space *space, tide_status *status);
/* Arguments of a valid engine: TIDE_INVALID_PARAMETER if there is no such node, no such frame. */
TIDE_MUST_CHECK tide_status engine_node_check(const tide_engine *engine, unsigned node);
TIDE_MUST_CHECK tide_status engine_frame_check(const tide_engine *engine, uint64_t number);
/* For partition.bad_settle (bad_memory.c). */
void engine_bad_settle(struct partition *partition);
/*
 * The engine met bad memory in the frame of this address. Outside of the engine. TIDE_SUCCESS: the frame is out of use,
 * and the access can be tried again; else TIDE_IN_PAGE_ERROR, and the last error is set.
 */
TIDE_MUST_CHECK tide_status engine_bad_access(tide_space *space, frame_t frame, tide_address address);
/* Fault counters of one space (statistics.c). */
void space_faults_fill(const tide_space *space, tide_fault_counters *faults);

#endif

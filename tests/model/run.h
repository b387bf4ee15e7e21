/*
 * A run of operations, for the files that hold the operations: operations.c those on regions, accesses and the engine,
 * content_operations.c those on contents, residence, stacks, limits and priorities.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_MODEL_RUN_H
#define TESTS_MODEL_RUN_H

#include "model.h"

enum {
    PG = TIDE_PAGE_BYTES,
    SPACES = 2,
    PINS = 3,
    HELD_PAGES = 4, /* pages of one pin, and pointers of one section */
    ZONE_PAGES = 1024,
    SPAN_BYTES = 3 * PG,
    RECENT = 16,
    CHECK_PERIOD = 50,
    VERIFY_PERIOD = 300,
    LARGE_FRAMES = 2048, /* engines with so many try large pages */
    TABLES_MOST = 8      /* page tables that one region of the test can need: three leaves and two levels above each */
};

/* A page whose memory the test may look at directly: by a pointer of the open section, or pinned. */
struct held_page {
    tide_address address;
    uint64_t incarnation;
    bool writable;
    char *memory;
    char last[PG]; /* content when last looked at: what it keeps if the page is decommitted meanwhile */
};

struct pinned {
    tide_pin *pin; /* NULL if free */
    unsigned space;
    tide_access_kind kind;
    unsigned count;
    struct held_page pages[HELD_PAGES];
};

struct tested_space {
    tide_space *space;
    struct model_space model;
    uint64_t minimum, maximum; /* of the working set */
    uint32_t hard;             /* which of the two are hard: the flags */
    unsigned priority;         /* as set */
    bool background;
    uint64_t accesses_failed; /* violations so far */
    uint64_t splits;          /* regions that were cut so far */
};

struct run {
    uint64_t seed;
    uint64_t random;
    const uint8_t *bytes; /* what draws are taken from instead of `random`; NULL: none */
    size_t bytes_left;
    unsigned op;
    tide_engine *engine;
    unsigned node_count;
    uint64_t frames;
    bool page_file;
    uint64_t charge_at_open; /* before any space */
    struct model model;
    struct tested_space spaces[SPACES];
    bool section_open;
    unsigned section_space;
    tide_access section;
    unsigned section_count;
    struct held_page section_pages[HELD_PAGES];
    struct pinned pins[PINS];
    unsigned thread_priority; /* TIDE_PRIORITY_DEFAULT: none */
    bool thread_background;
    char recent[RECENT][160];
    bool trace;
    char config[160];       /* the tunables, for a failure report */
    unsigned verify_period; /* operations from one tide_engine_verify() to the next */
    char folder[256];
    char path[320];
};

/* From the seed, or from the bytes of the fuzzer. */
uint64_t draw(struct run *run, uint64_t bound);
bool one_in(struct run *run, uint64_t n);
/* An address that is mostly inside or near something reserved. */
tide_address draw_address(struct run *run, const struct tested_space *space);

/* What the operation is, for the trace. */
__attribute__((format(printf, 2, 3))) void note(struct run *run, const char *format, ...);
/* Engine and model differ. Does not return. */
__attribute__((format(printf, 2, 3))) void failed(struct run *run, const char *format, ...);
void expect(struct run *run, tide_status got, tide_status expected, const char *call);

/* A call inside an open section may find every frame held by it: then the section ends and the call is repeated. */
bool gives_way(struct run *run, tide_status status);

tide_statistics statistics_get(struct run *run);
tide_space_statistics space_statistics(struct run *run, const struct tested_space *space);
/* Takes what page tables and the engine need off the model's limit, as it is now. */
void limit_refresh(struct run *run);
/* A split or a stack may charge tables; near the limit it is left out. */
bool near_limit(struct run *run);
bool is_pinned(const struct run *run, unsigned space, tide_address address);
/* The working set of a space that was just created. */
void limits_begin(struct run *run, struct tested_space *space);
/* The whole page is read and compared, so that the model knows whether it was lost. False if it cannot be read. */
bool page_settle(struct run *run, struct tested_space *space, tide_address address);

/* content_operations.c */
void op_contents(struct run *run, struct tested_space *space);
void op_lock(struct run *run, struct tested_space *space);
void op_prefetch(struct run *run, struct tested_space *space);
void op_stack(struct run *run, struct tested_space *space);
void op_limits(struct run *run, struct tested_space *space);
void op_priority(struct run *run, struct tested_space *space);
void check_events(struct run *run);

/* The priority that the space's pages get from a fault of this thread. */
unsigned priority_now(const struct run *run, const struct tested_space *space);

#endif

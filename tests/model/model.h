/*
 * The slow, obvious model of address spaces: what reserve, commit, decommit, release, protect, access and query must
 * do, guard pages, placeholders, large pages, write watch and commit limits, by nt-behaviour sections 1, 4 to 7 and 16,
 * with arrays, linear searches and a copy of every byte; besides contents that may be dropped, locks and stacks. It
 * knows nothing of frames, lists, working sets and page files: none of these may ever show in a status or in data.
 *
 * Each call mirrors the public call of the same name, and returns the status that the engine must return.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_MODEL_MODEL_H
#define TESTS_MODEL_MODEL_H

#include <pagetide/pagetide.h>

enum {
    MODEL_REGIONS = 24, /* per space; the test asks for no more */
    MODEL_UNIT_PAGES = TIDE_ALLOCATION_GRANULARITY_BYTES / TIDE_PAGE_BYTES
};

struct model_page {
    bool committed;
    bool touched; /* had a frame since it was committed */
    bool written; /* since the region was reserved or the page last reset; whether committed now or not */
    uint32_t protection;
    uint64_t incarnation; /* changes at each commit of an uncommitted page */
    unsigned char *data;  /* NULL while all bytes are zero */
    bool locked;
    /*
     * Reset and offer. Whether a page was lost is the engine's to choose; the model keeps both outcomes until the data,
     * or a status, tells which it was.
     */
    bool offered;
    bool reset;           /* droppable: since then not written, and not kept by undo or reclaim; offered pages too */
    bool unsure;          /* the content is `data`, or, if the page was lost, `fresh` */
    unsigned char *fresh; /* as `data`; NULL also unless `unsure` */
    enum model_lost { MODEL_KEPT, MODEL_MAYBE_LOST, MODEL_LOST } lost; /* what undo and reclaim would tell of it */
};

enum model_kind { MODEL_PRIVATE, MODEL_WATCHED, MODEL_STACK, MODEL_LARGE, MODEL_PLACEHOLDER };

struct model_region {
    enum model_kind kind;
    bool was_placeholder;
    uint64_t first; /* page number */
    uint64_t count;
    uint32_t protection; /* at reserve time */
    struct model_page *pages;
};

struct model_space {
    struct model_region regions[MODEL_REGIONS]; /* in address order */
    unsigned region_count;
    uint64_t committed;          /* pages, large ones included */
    uint64_t large;              /* of these, in large pages */
    uint64_t limit;              /* most that `committed - large` may become */
    uint64_t demand_zero;        /* faults so far */
    uint64_t demand_zero_unsure; /* and so many more, if pages that were touched had been lost */
    uint64_t locked;             /* pages */
    uint64_t grown;              /* how often a stack grew */
    struct model *all;
};

/* What all spaces of an engine share. */
struct model {
    uint64_t charge; /* pages committed over all spaces */
    uint64_t limit;  /* most that `charge` may be */
    uint64_t incarnations;
};

tide_status model_virtual_alloc(struct model *model, struct model_space *space, tide_address *base, uint64_t *bytes,
                                uint32_t type, uint32_t protection);
tide_status model_virtual_free(struct model *model, struct model_space *space, tide_address base, uint64_t bytes,
                               uint32_t type);
/* The native call: also part of a region. */
tide_status model_virtual_free_native(struct model *model, struct model_space *space, tide_address *base,
                                      uint64_t *bytes, uint32_t type);
/* `base` 0 or not, `type` with placeholders, write watch or large pages. No address requirements. */
tide_status model_virtual_alloc2(struct model *model, struct model_space *space, tide_address *base, uint64_t *bytes,
                                 uint32_t type, uint32_t protection);
tide_status model_virtual_protect(struct model_space *space, tide_address base, uint64_t bytes, uint32_t protection,
                                  uint32_t *old);
/*
 * The access to a page that model_accessible() does not allow: what it returns. A guard is taken away.
 */
tide_status model_refuse(struct model_space *space, tide_address address);
/* Pages of accessible bytes are about to be written by somebody. */
void model_mark(struct model_space *space, tide_address address, uint64_t bytes);
/* The watched region that holds the whole range, or NULL. */
struct model_region *model_watched(struct model_space *space, tide_address base, uint64_t bytes);
tide_status model_virtual_query(const struct model_space *space, tide_address address, tide_region *region);

/* Pages that model_virtual_alloc() would charge now if it got so far; 0 if it fails before. Changes nothing. */
uint64_t model_alloc_need(const struct model_space *space, tide_address base, uint64_t bytes, uint32_t type);

/* Bytes from `address` on, `bytes` at most, that may be accessed; the first that may not is an access violation. */
/* A stack whose guard page is met on the way grows, if it can. */
uint64_t model_accessible(struct model_space *space, tide_address address, uint64_t bytes, tide_access_kind kind);

/* Copy out of and into accessible bytes; with NULL, only touch them. */
void model_read(struct model_space *space, tide_address address, void *buffer, uint64_t bytes);
void model_write(struct model_space *space, tide_address address, const void *buffer, uint64_t bytes);

/* The page of an address, NULL if it is not reserved. */
struct model_page *model_page_find(const struct model_space *space, tide_address address);

/* Does the range touch the guard page of a stack? */
bool model_stack_guard(const struct model_space *space, tide_address address, uint64_t bytes);
/* A byte written through memory that shows the page's frame: no access that the engine sees. */
void model_write_through(struct model_space *space, tide_address address, unsigned char byte);

/*
 * Bytes of one page that were seen: false if the page cannot hold them. If they tell whether the page was lost, the
 * model knows from now on.
 */
bool model_see(struct model_page *page, uint64_t offset, const void *bytes, uint64_t count);
bool model_see_range(struct model_space *space, tide_address address, const void *bytes, uint64_t count);
/* The page is demand zero: if it may have been lost, it was. */
void model_see_untouched(struct model_page *page);

/* ---- contents, residence, stacks ---- */

enum model_contents { MODEL_RESET, MODEL_UNDO, MODEL_DISCARD, MODEL_OFFER, MODEL_RECLAIM };

/* The pages that the call is about, and its status but for what is only known from outside: pins, and what was lost. */
tide_status model_contents_check(struct model_space *space, enum model_contents call, tide_address base, uint64_t bytes,
                                 uint64_t *first, uint64_t *count);
/* What the call does to one page, which is not pinned if the call is a reset; to each in turn. */
void model_page_reset(struct model_page *page);
void model_page_discard(struct model *model, struct model_space *space, struct model_page *page);
void model_page_offer(struct model_space *space, struct model_page *page);
/* Undo and reclaim: `lost` is whether the call said so of some page. */
void model_page_keep(struct model_page *page, bool lost);

/* `quota`: pages that the space may lock in all. */
tide_status model_virtual_lock(struct model_space *space, tide_address base, uint64_t bytes, uint64_t quota);
tide_status model_virtual_unlock(struct model_space *space, tide_address base, uint64_t bytes);

tide_status model_stack_create(struct model *model, struct model_space *space, uint64_t reserve_bytes,
                               uint64_t commit_bytes, tide_stack *stack);

/* Everything in the space is given back. */
void model_space_clear(struct model *model, struct model_space *space);

#endif

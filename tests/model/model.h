/*
 * The slow, obvious model of address spaces: what reserve, commit, decommit, release, protect, access and query must do,
 * guard pages, placeholders, large pages, write watch and commit limits, by nt-behaviour sections 1, 4 to 7 and 16, with arrays, linear searches and a copy of every byte. It knows nothing of frames,
 * lists, working sets and page files: none of these may ever show in a status or in data.
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
};

enum model_kind { MODEL_PRIVATE, MODEL_WATCHED, MODEL_LARGE, MODEL_PLACEHOLDER };

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
    uint64_t committed;   /* pages, large ones included */
    uint64_t large;       /* of these, in large pages */
    uint64_t limit;       /* most that `committed - large` may become */
    uint64_t demand_zero; /* faults so far */
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
uint64_t model_accessible(const struct model_space *space, tide_address address, uint64_t bytes, tide_access_kind kind);

/* Copy out of and into accessible bytes; with NULL, only touch them. */
void model_read(struct model_space *space, tide_address address, void *buffer, uint64_t bytes);
void model_write(struct model_space *space, tide_address address, const void *buffer, uint64_t bytes);

/* The page of an address, NULL if it is not reserved. */
struct model_page *model_page_find(const struct model_space *space, tide_address address);

/* Everything in the space is given back. */
void model_space_clear(struct model *model, struct model_space *space);

#endif

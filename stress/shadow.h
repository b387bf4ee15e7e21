/*
 * The shadow: what every page of a stress run must hold, kept outside the engine.
 *
 * Contents. A page is either fresh (all zero bytes) or holds one version of its stamps: nine 64-bit words, one at the
 * start of each 512-byte sector and one at the very end, all other words zero. A stamp is {hash of (space identity,
 * address, place, version), version}; so from the word alone it follows whether it belongs to this page and which
 * version it is. The whole page is determined by (identity, address, version), and is compared as a whole. Version
 * numbers of a page never repeat in a run, and a space that is destroyed and created again gets a new identity: stale
 * data never looks right.
 *
 * Space layout. Each space has a few windows at fixed addresses; in a mapped space the addresses follow from where the
 * system put it, and change when it is created again. A window is one reservation, sometimes released.
 * Windows lie next to each other and across the borders of page tables, so that neighbours share tables. The lowest
 * addresses stay free for regions that the engine places itself.
 *
 * Who may do what. The first three quarters of a window are exact pages: any access is done under the page's lock, so
 * its result is known to the byte. The last quarter are shared pages: written under the page's lock through a pointer
 * with atomic stores in ascending places, and read by anyone at any time without a lock, with atomic loads. For those a
 * reader knows bounds: no version newer than the last write begun; and, if no commit, decommit or release ran meanwhile
 * (`sequence` even and unchanged), no version older than the last one completed before. Locks are taken in this order:
 * space, window, pages in ascending order. Who wants a space or window for writing only tries, so nobody waits for a
 * lock inside an access section.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STRESS_SHADOW_H
#define STRESS_SHADOW_H

#include <pagetide/mapped.h>
#include <pagetide/pagetide.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

enum {
    STAMP_PLACES = 9,
    PAGE_WORDS = TIDE_PAGE_BYTES / 8,
    SHADOW_WINDOWS = 8, /* per space */
};

#define SHADOW_NOT_COMMITTED UINT32_MAX

struct shadow_page {
    pthread_mutex_t lock;
    bool committed;            /* [L:lock] */
    bool writable;             /* [L:lock] committed for reading and writing, not only reading */
    uint32_t version;          /* [L:lock] what it holds; 0: zero bytes */
    _Atomic uint32_t begun;    /* [A] newest version whose write has begun; only grows */
    _Atomic uint32_t floor;    /* [A] shared pages: version completed, or SHADOW_NOT_COMMITTED */
    _Atomic uint32_t sequence; /* [A] shared pages: odd while the page's commitment may change */
};

struct shadow_window {
    pthread_rwlock_t lock;     /* held for reading by all that rely on `reserved` */
    bool reserved;             /* [L:lock] */
    tide_address base;         /* [L:lock of the space] */
    unsigned page_count;       /* [I] */
    unsigned exact_count;      /* [I] pages below this index are exact, the others shared */
    struct shadow_page *pages; /* [I] */
};

struct shadow_space {
    pthread_rwlock_t lock;     /* held for reading by all that use `space` */
    tide_space *space;         /* [L:lock] NULL while it could not be created */
    _Atomic uint64_t identity; /* [A] changes under the write lock */
    bool mapped;               /* [I] */
    bool by_threads;           /* [I] a mapped one whose faults threads resolve */
    tide_address own_lowest;   /* [L:lock] above all windows: for regions that one thread alone knows */
    uint64_t stride, below;    /* [I] from window to window, and from the first one to the border */
    struct shadow_window windows[SHADOW_WINDOWS];
};

struct shadow {
    unsigned space_count;
    struct shadow_space *spaces;
    _Atomic uint64_t next_identity; /* [A] */
};

uint64_t stress_random(uint64_t *state);
uint64_t stress_random_below(uint64_t *state, uint64_t bound);

/* Index of the 64-bit word in the page that holds stamp `place`. */
static inline unsigned stamp_word(unsigned place)
{
    return place < STAMP_PLACES - 1 ? place * (PAGE_WORDS / 8) : PAGE_WORDS - 1;
}

/* The stamp; 0 for version 0. */
uint64_t stamp_make(uint64_t identity, tide_address page_address, unsigned place, uint32_t version);

/* Is `word` zero or a stamp of this page and place, of whatever version? Sets the version (0 for zero). */
bool stamp_valid(uint64_t word, uint64_t identity, tide_address page_address, unsigned place, uint32_t *version);

/* Fills a page-sized buffer with what a page of this version holds. */
void image_fill(void *buffer, uint64_t identity, tide_address page_address, uint32_t version);

/* Index of the first word of a page that differs from its image, PAGE_WORDS if none. */
unsigned image_compare(const void *data, uint64_t identity, tide_address page_address, uint32_t version);

/*
 * Allocates the shadow of `space_count` spaces with `window_pages` pages per window. Nothing is reserved yet. False if
 * out of memory.
 */
bool shadow_create(struct shadow *shadow, unsigned space_count, unsigned window_pages);
void shadow_destroy(struct shadow *shadow);

/* Puts the windows of a space round an address, some below it and some above. */
void shadow_space_place(struct shadow_space *space, tide_address border);

/* Says whose stamp a foreign word is, for a failure message. Reads without locks: for a run that is lost anyway. */
void shadow_identify(const struct shadow *shadow, uint64_t word, char *text, size_t text_bytes);

#endif

/*
 * The hardware's side of a mapped space: a window of real addresses over a file in memory, of which a page is shown to
 * the program, hidden from it, or dropped.
 *
 * The window is one shared mapping of one memory file (memfd), registered with userfaultfd as a whole: page number p of
 * the window is page p of the file, for good. A page that is in memory is a page of the file; it is shown when the
 * window's hardware page table maps it. The soft page table above it (page_table.h) is what counts; the hardware's is a
 * cache of it:
 *
 *   a page is shown only while its PTE is valid, accessed and has the right to be read, or is claimed; and shown for writing
 *   only while its PTE has the right to be written, and is dirty.
 *
 * That is what a pointer of a soft space promises (fault_rights()). So who shows a page has claimed its PTE; who takes
 * one of these bits away hides the page afterwards, and before it relies on nobody writing there; and hiding more than
 * needed is always right: the next access is a fault that finds a valid PTE, and shows the page again.
 *
 * Nothing here allocates or waits for a lock that is held over more than a few system calls: all of it can be called in
 * a signal handler. Each call is one system call or a few. Figures of what they cost: docs/mapped-spaces.md.
 *
 * Foreign pages. The program may unmap a part of the window by mistake, and map something else there. The kernel tells
 * of it (UFFD_FEATURE_EVENT_UNMAP), and whoever unmapped waits until that was read (mapping_fault_next()): the hole is
 * plugged with the file's own pages, fenced, or, where something else lies already, these pages are noted as foreign.
 * What works by address leaves foreign pages alone; the page of the file is as good as ever, for calls on the space.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TABLES_MAPPING_H
#define TABLES_MAPPING_H

#include <pagetide/mapped.h>

#include "base/sync.h"

struct pte_waits;

enum {
    MAPPINGS_MAX = 64,
    MAPPING_BATCH = 256, /* most pages that are shown by one call: what it costs beside them is no matter any more */
    MAPPING_DROP = 64,   /* the same, let go */
    MAPPING_COUNTERS = 32
};

struct mapping_counters {
    uint64_t filled, shown, hidden, dropped; /* [A] pages */
    uint64_t hides;                          /* [A] calls */
    uint64_t users;                          /* [A] system calls under way that act by address, whoever lies there */
} SYNC_CACHE_ALIGNED;

struct mapping {
    uint64_t pages;      /* [A] 0: there is none here; all else is [I] while it is not */
    uint64_t first_page; /* page number of the first byte of the window */
    uint64_t end_page;   /* page number behind its last byte */
    char *window;
    void *owner;                             /* the space */
    int file;                                /* memfd */
    int faults;                              /* userfaultfd */
    bool shows_protected;                    /* UFFDIO_CONTINUE can show a page without the right to be written */
    bool large;                              /* the file takes folios larger than a page for writes of many pages */
    bool by_threads;                         /* TIDE_DELIVERY_THREADS */
    uint32_t fences;                         /* [A] pages were fenced */
    uint32_t poisons;                        /* [A] pages were poisoned */
    uint64_t *poisoned;                      /* [A] a bit for each page: it may be */
    uint64_t *foreign;                       /* [A] a bit for each page of the window; written under the lock */
    uint64_t foreign_pages;                  /* [A] bits that are set */
    const char *zeroes;                      /* MAPPING_BATCH pages of zeroes to copy from */
    const char *nowhere;                     /* behind them: nobody can read here */
    struct pte_waits *waits;                 /* where threads wait for PTEs of the space */
    uint32_t is_changing SYNC_CACHE_ALIGNED; /* [A] what was unmapped is being seen to: nobody acts by address */
    uint32_t holders;                        /* [A] mapping_hold(); of whatever mapping is here */
    struct sync_lock lock;                   /* who changes what the window is made of */
    uint64_t unsure_first, unsure_end;       /* [L:window] among these pages some may be foreign only for the moment */
    struct mapping_counters counters[MAPPING_COUNTERS]; /* by CPU */
};

/*
 * The next fault that a thread of the program sleeps for (TIDE_DELIVERY_THREADS); false if there is none now. What the
 * kernel tells of unmapped pages is seen to on the way, with either delivery. For threads that poll `faults`, with no
 * lock held.
 */
bool mapping_fault_next(struct mapping *mapping, uint64_t *address, bool *write);
/*
 * Takes foreign pages back where nothing lies any more. Returns the first page of [page, page + count) that is foreign
 * still, page + count if there is none. May read /proc/self/maps.
 */
uint64_t mapping_mend(struct mapping *mapping, uint64_t page, uint64_t count);
/* For sure, and not only while somebody looks whose it is. */
bool mapping_is_foreign(struct mapping *mapping, uint64_t page);
/* The first page from `page` on, before `end`, that is foreign, or that is not; `end` if there is none. */
uint64_t mapping_foreign_find(const struct mapping *mapping, uint64_t page, uint64_t end, bool foreign);

/* Can it be had? TIDE_NOT_SUPPORTED with the remedy in the last error. */
TIDE_MUST_CHECK tide_status mapping_check(tide_delivery delivery);
/* The options were checked. TIDE_NOT_SUPPORTED, TIDE_INSUFFICIENT_RESOURCES. */
TIDE_MUST_CHECK tide_status mapping_create(const tide_mapped_options *options, struct pte_waits *waits, void *owner,
                                           struct mapping **mapping);
void mapping_destroy(struct mapping *mapping);
/* The one whose window has this page, NULL if there is none. Windows do not overlap. */
struct mapping *mapping_find(uint64_t page);
/*
 * The same for who holds nothing that keeps the space: it stays until mapping_let(), which must come soon, since who
 * destroys it waits for that.
 */
struct mapping *mapping_hold(uint64_t page);
void mapping_let(struct mapping *mapping);
/* Pages that the file has in memory now. */
uint64_t mapping_pages(const struct mapping *mapping);
void mapping_count(const struct mapping *mapping, struct mapping_counters *sums);

static inline bool mapping_covers(const struct mapping *mapping, uint64_t page)
{
    return page - mapping->first_page < mapping->pages;
}

/*
 * All below: pages of the window, whose PTEs the caller has claimed unless told otherwise. `from` and `to` are ordinary
 * memory. Where a number is returned, it is 0 or an errno value: ENOMEM if the system has no memory for a page. Foreign
 * pages get their content, and are not shown.
 */

/* Fresh pages of zeroes, and shown. */
TIDE_MUST_CHECK int mapping_zero(struct mapping *mapping, uint64_t page, unsigned count, bool writable);
/* Pages with this content, and shown; of zeroes, and writable, if `from` is NULL. */
TIDE_MUST_CHECK int mapping_fill(struct mapping *mapping, uint64_t page, unsigned count, const void *from,
                                 bool writable);
/* Pages with this content, not shown. */
TIDE_MUST_CHECK int mapping_store(struct mapping *mapping, uint64_t page, unsigned count, const void *from);
/* Pages that are in memory are shown, or get the right to be written. */
TIDE_MUST_CHECK int mapping_show(struct mapping *mapping, uint64_t page, unsigned count, bool writable);
/* Takes the right to be written away from what of these pages is shown; they stay shown. Claims are not needed. */
void mapping_protect(struct mapping *mapping, uint64_t page, uint64_t count);
/* Claims are not needed. */
void mapping_hide(struct mapping *mapping, uint64_t page, uint64_t count);
/* Hides pages and lets their memory go. */
void mapping_drop(struct mapping *mapping, uint64_t page, uint64_t count);

/*
 * Bytes of pages in memory, shown or not. The caller has a claim or a reference that keeps the page; without one it may
 * read zeroes, or get EBADF from a window that is going. EHWPOISON: the memory is bad.
 */
TIDE_MUST_CHECK int mapping_read(const struct mapping *mapping, uint64_t address, void *to, size_t bytes);
TIDE_MUST_CHECK int mapping_write(struct mapping *mapping, uint64_t address, const void *from, size_t bytes);

/*
 * For handler threads. Accesses to the page are SIGSEGV, those that write at least, until mapping_unfence(); or SIGBUS,
 * until that, or until it gets content. mapping_unfence() mends foreign pages too, as far as it can be.
 */
void mapping_fence(struct mapping *mapping, uint64_t page, bool readable);
void mapping_unfence(struct mapping *mapping, uint64_t page, uint64_t count);
/* False: it is shown, or was when it could not be written, of which the kernel keeps a mark: mapping_clear(). */
bool mapping_poison(struct mapping *mapping, uint64_t page);
/* Hides a page that is claimed, and leaves nothing of it in the hardware's page table, as if it had never been shown. */
void mapping_clear(struct mapping *mapping, uint64_t page);

/* Ends the sleep of a thread whose fault came by TIDE_DELIVERY_THREADS, and that nothing above has woken. */
void mapping_wake(struct mapping *mapping, uint64_t page);

#endif

/*
 * Soft page tables: four levels of 512 entries, as x86-64 has them, in frames of the engine.
 *
 * Entries of the upper three levels are PTEs in valid form that name the next table's frame, or 0. One of the lowest of
 * these, a directory entry, may say besides that all pages below it are one large page, where it lies and what may be
 * done with it: then who looks for a pointer need not go down to the leaf. The leaf is there all the same and is what
 * counts: the mark is set when the PTEs are, and goes before the first of them changes. A table comes into
 * being by compare-and-swap of its parent's entry, so the descent takes no lock: a reader inside grace_enter() sees
 * either nothing or a complete, zeroed table. A leaf table is unlinked only when no region overlaps its 2 MiB any
 * more; its frame is stamped and reused after the grace period, so a reader that still walks it reads old, invalid
 * entries at worst. Upper tables stay until the space is destroyed.
 *
 * Claims. Who wants to change a PTE that others may change too makes it busy by compare-and-swap; from then on it is
 * the claimer's, until pte_release(). Waiters spin a little, then set PTE_WAITED and sleep in a hashed table of event
 * counts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TABLES_PAGE_TABLE_H
#define TABLES_PAGE_TABLE_H

#include "frames/frames.h"
#include "tables/mapping.h"
#include "tables/pte.h"

enum { TABLE_ENTRIES = 512, TABLE_LEVELS = 4, TABLE_INDEX_BITS = 9, PTE_WAIT_BUCKETS = 256 };

/* Where threads wait for busy PTEs: one per engine. */
struct pte_waits {
    struct {
        struct sync_event event;
    } SYNC_CACHE_ALIGNED buckets[PTE_WAIT_BUCKETS];
};

struct page_table {
    struct frames *frames; /* [I] */
    uint64_t *root;        /* [I] */
    uint64_t *leaves;      /* [I] index of the leaves, or NULL; the words are [A] [E] */
    uint64_t table_pages
        SYNC_CACHE_ALIGNED; /* [A] frames used as tables, the root included; written only when tables come and go */
};

/* TIDE_NO_MEMORY if there is no frame for the root. Inside grace_enter(). */
TIDE_MUST_CHECK tide_status page_table_init(struct page_table *table, struct frames *frames, unsigned node);
/* Frees all tables. All PTEs are already free of frames; no other thread is inside. */
void page_table_destroy(struct page_table *table);

/* Of a directory entry: the large page's rights, and its first frame / FRAMES_RUN. Both 0 if there is none. */
#define TABLE_LARGE_READ PTE_READ
#define TABLE_LARGE_WRITE PTE_WRITE
#define TABLE_LARGE_SHIFT 44
#define TABLE_LARGE_MASK (TABLE_LARGE_READ | TABLE_LARGE_WRITE | ~0ull << TABLE_LARGE_SHIFT)
#define TABLE_FRAME_MASK ((uint64_t)UINT32_MAX << PTE_FRAME_SHIFT)

/*
 * Index of the leaves: a word for each 2 MiB of addresses, in one array of the process, which costs memory only where
 * it is used. So who looks for a pointer needs two loads instead of four that wait for each other. A word is 0 (nothing
 * known: the tables tell); or the leaf's address | TABLE_LEAF; or of a large page what is to be added to an address to
 * get the pointer, a multiple of 2 MiB, | its rights. It is set after the directory entry that it repeats, by who finds
 * it missing, under the space's lock; and goes after it, before the grace period of the leaf begins. Words of large
 * pages come and go with the mark in the directory, under the region's lock.
 */
#define TABLE_LEAF 1ull
#define TABLE_LEAF_LARGE_READ 2ull
#define TABLE_LEAF_LARGE_WRITE 4ull
enum { TABLE_LEAVES = 1 << 26 };

static inline uint64_t *table_entry_memory(const struct frames *frames, uint64_t entry)
{
    return (uint64_t *)(void *)(frames->memory + (entry & TABLE_FRAME_MASK));
}

/* Where the large page of a directory entry lies in the memory of all frames. The entry has one. */
static inline char *table_large_memory(char *memory, uint64_t entry)
{
    return memory + (entry >> TABLE_LARGE_SHIFT) * FRAMES_RUN * TIDE_PAGE_BYTES;
}

/* Index of a page in the table of a level: 0 is the leaf. */
static inline unsigned table_index(uint64_t page, unsigned level)
{
    return (unsigned)(page >> (level * TABLE_INDEX_BITS)) & (TABLE_ENTRIES - 1);
}

/* The PTE of a page, or NULL if a table is missing. Inside grace_enter(). */
static inline uint64_t *page_table_find(const struct page_table *table, uint64_t page)
{
    const uint64_t *level = table->root;

    for (unsigned l = TABLE_LEVELS - 1; l > 0; l--) {
        const uint64_t entry = sync_load_64(&level[table_index(page, l)]);
        if (__builtin_expect(entry == 0, 0))
            return NULL;
        level = table_entry_memory(table->frames, entry);
    }
    return (uint64_t *)&level[table_index(page, 0)];
}

/* The page directory (level 1) that covers a page's 1 GiB, or NULL. */
static inline const uint64_t *page_table_directory(const struct page_table *table, uint64_t page)
{
    const uint64_t *level = table->root;

    for (unsigned l = TABLE_LEVELS - 1; l > 1; l--) {
        const uint64_t entry = sync_load_64(&level[table_index(page, l)]);
        if (entry == 0)
            return NULL;
        level = table_entry_memory(table->frames, entry);
    }
    return level;
}

/*
 * The PTE of a page, making missing tables on `node`. NULL if there is no frame: the caller waits for one, holding
 * nothing, and tries again. *made counts the tables made by this call.
 */
uint64_t *page_table_make(struct page_table *table, uint64_t page, unsigned node, unsigned *made);

/*
 * The first leaf table at or after *page (any page of it): sets *page to the leaf's first page and returns its
 * entries; NULL if there is none up to `last`. Inside grace_enter().
 */
uint64_t *page_table_next_leaf(const struct page_table *table, uint64_t *page, uint64_t last);

/* How many tables of the span [first, last] do not exist yet, at all levels. */
uint64_t page_table_missing(const struct page_table *table, uint64_t first, uint64_t last);

/*
 * The PTEs of the leaf of a page are those of one large page, valid and writable: says so in the directory, if the
 * number of its first frame fits. Inside grace_enter(), with the region locked or not yet in the tree.
 */
void page_table_large_set(struct page_table *table, uint64_t page, frame_t first);
/* Takes that back, for a PTE below that is about to change. With the region locked. */
void page_table_large_clear(const struct page_table *table, const uint64_t *pte);

/* Gives the table its index, if there are addresses for it. Before anybody uses the table. */
void page_table_index_make(struct page_table *table);
/* Puts the leaf of a page into the index, if it has one and is not there. Space locked, inside grace_enter(). */
void page_table_index_leaf(struct page_table *table, uint64_t page);

/*
 * Unlinks and frees the leaf of a page, under the space's lock. All its entries are 0 or of no consequence, and no
 * region overlaps it.
 */
void page_table_free_leaf(struct page_table *table, uint64_t page);

/* For frames_options.detach, .vacate and .near. */
bool page_table_detach(struct pfn *pfn, frame_t frame);
void page_table_vacate(struct frames *frames, const frame_t *hollow, unsigned count);
unsigned page_table_near(uint64_t *pte, uint64_t **ptes, frame_t *near);

/*
 * The page of a PTE: up through the tables, whose records name their entries in the tables above. *root is the memory
 * of the root table; NULL if it is not asked for. Inside grace_enter(), of a PTE whose table stays.
 */
uint64_t page_table_page_of(const struct frames *frames, const uint64_t *pte, const uint64_t **root);
/* The mapping of a PTE of a mapped space, and its page. */
struct mapping *page_table_mapping_of(const struct frames *frames, const uint64_t *pte, uint64_t *page);

/* Ends a claim: publishes the new form and wakes the waiters. */
void pte_wake(struct pte_waits *waits, const uint64_t *pte);
static inline void pte_release(struct pte_waits *waits, uint64_t *pte, pte_t value)
{
    if (__builtin_expect(sync_swap_64(pte, value.bits) & PTE_WAITED, 0))
        pte_wake(waits, pte);
}

static inline pte_t pte_busy_form(pte_t pte)
{
    return pte_make(PTE_TAG_BUSY, pte_protection(pte));
}

/* The claim of a page that is being read: who meets it has collided with another's fault. */
static inline pte_t pte_reading_form(pte_t pte)
{
    return (pte_t){ pte_busy_form(pte).bits | PTE_READING };
}

static inline bool pte_is_being_read(pte_t pte)
{
    return pte_is_busy(pte) && (pte.bits & PTE_READING) != 0;
}

/*
 * Waits until a PTE that was seen busy may have changed. The caller holds no claim; who claims a PTE never waits for
 * a lock of a space, so the space's lock may be held. `thread` leaves the engine while it sleeps, so tables found
 * before are void afterwards; with NULL the caller stays inside, for who is in the middle of a change that a verifier
 * must not see half done.
 */
void pte_wait(struct pte_waits *waits, struct grace_thread *thread, uint64_t *pte);

#endif

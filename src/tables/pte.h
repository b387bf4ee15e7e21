/*
 * The page-table entry: one atomic 64-bit word per page, told apart by tag bits, the protection at one place in every
 * form.
 *
 *   valid        bit 0. age | frame | protection | rights | dirty | accessed
 *   unknown      all bits zero: look at the VAD
 *   demand zero  tag 0, protection set: a zero page on touch
 *   transition   tag 1: the page is in a frame that no working set has
 *   page file    tag 2: file and slot
 *   prototype    tag 3: kept for sections
 *   decommitted  tag 4: access violation
 *   busy         tag 5: claimed; whoever claimed it alone may change it. Others wait (page_table.h); a waiter sets
 *                PTE_WAITED so that the claimer knows to wake it.
 *
 * The age (8 bits; NT has 4) is a moving average of how long ago the page was accessed: 0 is used all the time, 255 not
 * for long. A new page starts at 255 and accessed: it earns its place by being used again (spaces/working_set.c).
 *
 * `accessed`, `dirty` and the rights are what the fast path tests: a read needs VALID|READ|ACCESSED, a write
 * VALID|WRITE|ACCESSED|DIRTY. As on x86 the dirty bit doubles as permission: the first write to a clean page takes
 * the slow path, which releases the page's slot.
 *
 * PTE_WRITE follows from the protection but in regions with write watch: there it is missing until the first write
 * since the last reset (spaces/watch.c).
 *
 * Two marks travel in a PFN record's `original`, and with it in the PTE when the frame is taken (spaces/contents.c):
 *   PTE_RESET  in `original`: the content was reset or offered, the frame is clean and has no slot, and whoever needs
 *              a frame may have it. So in a demand-zero PTE: the page was lost that way.
 *   PTE_LOST   in `original` and in page-file PTEs: the page was lost that way and has been touched since. Goes with
 *              the next reset, and when it was told (tide_virtual_reset_undo()).
 * They lie where neither a file number nor a slot is, so that pte_slot() of a mark alone is slot 0: none.
 * A third one is of demand-zero PTEs only:
 *   PTE_BAD    the content went with a bad frame (spaces/bad_page.c). Each access is told, until the page is written
 *              anew as a whole, or its content is given up. PTE_LOST may stand beside it.
 *
 * Protection is NT's 5-bit software protection (nt-behaviour 5): the lower three bits say what is allowed, the upper
 * two are modifiers, of which a page has one at most. In soft spaces no-cache and write-combine are kept and reported,
 * and mean nothing else.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TABLES_PTE_H
#define TABLES_PTE_H

#include <pagetide/virtual.h>

#include "frames/pfn.h"
#include "stores/stores.h"

typedef struct pte_t {
    uint64_t bits;
} pte_t;

#define PTE_VALID 1ull
#define PTE_ACCESSED (1ull << 1)
#define PTE_DIRTY (1ull << 2)
#define PTE_READ (1ull << 3)
#define PTE_WRITE (1ull << 4)
#define PTE_LARGE (1ull << 10)   /* valid form: part of a large page; in no working set, never trimmed */
#define PTE_LOCKED (1ull << 11)  /* valid form: locked in the working set */
#define PTE_TAG_MASK (7ull << 1) /* invalid forms */
#define PTE_WAITED (1ull << 4)   /* busy form */
#define PTE_READING (1ull << 10) /* busy form: a page read is under way */
#define PTE_PROTECTION_SHIFT 5
#define PTE_PROTECTION_MASK (31ull << PTE_PROTECTION_SHIFT)
#define PTE_AGE_SHIFT 52
#define PTE_AGE_MASK (255ull << PTE_AGE_SHIFT)
#define PTE_AGE_MAX 255u
#define PTE_FRAME_SHIFT 12 /* as the hardware's: masked, a frame number is its offset in memory */
#define PTE_FRAME_MASK (((1ull << 40) - 1) << PTE_FRAME_SHIFT)
#define PTE_FILE_SHIFT 10
#define PTE_FILE_MASK (15ull << PTE_FILE_SHIFT)
#define PTE_SLOT_SHIFT 32
#define PTE_RESET PFN_ORIGINAL_RESET
#define PTE_LOST PFN_ORIGINAL_LOST
#define PTE_BAD (1ull << 16) /* demand-zero form */

enum pte_tag {
    PTE_TAG_NONE = 0,
    PTE_TAG_TRANSITION = 1,
    PTE_TAG_PAGE_FILE = 2,
    PTE_TAG_PROTOTYPE = 3,
    PTE_TAG_DECOMMITTED = 4,
    PTE_TAG_BUSY = 5
};

enum pte_protection {
    PTE_PROTECTION_NONE = 0,
    PTE_READONLY = 1,
    PTE_EXECUTE = 2,
    PTE_EXECUTE_READ = 3,
    PTE_READWRITE = 4,
    PTE_WRITECOPY = 5,
    PTE_EXECUTE_READWRITE = 6,
    PTE_EXECUTE_WRITECOPY = 7,
    PTE_ACCESS_MASK = 7,
    PTE_NOCACHE = 0x08,      /* modifier */
    PTE_OFFERED = 0x08,      /* alone, without access: offered, was PTE_READWRITE */
    PTE_GUARD = 0x10,        /* modifier: the first access is told, and takes it away */
    PTE_WRITECOMBINE = 0x18, /* modifier */
    PTE_MODIFIER_MASK = 0x18,
    PTE_PROTECTION_DECOMMITTED = 0x10,
    PTE_NOACCESS = 0x18
};

static inline bool pte_is_valid(pte_t pte)
{
    return (pte.bits & PTE_VALID) != 0;
}

/* Of an invalid form. */
static inline enum pte_tag pte_tag(pte_t pte)
{
    return (enum pte_tag)((pte.bits & PTE_TAG_MASK) >> 1);
}

static inline bool pte_is_busy(pte_t pte)
{
    return !pte_is_valid(pte) && pte_tag(pte) == PTE_TAG_BUSY;
}

static inline unsigned pte_protection(pte_t pte)
{
    return (unsigned)((pte.bits & PTE_PROTECTION_MASK) >> PTE_PROTECTION_SHIFT);
}

static inline unsigned pte_age(pte_t pte)
{
    return (unsigned)((pte.bits & PTE_AGE_MASK) >> PTE_AGE_SHIFT);
}

/* Of a valid form: it may be written without another look. A mapped space shows the page for writing. */
static inline bool pte_is_writable(pte_t pte)
{
    return (~pte.bits & (PTE_WRITE | PTE_DIRTY)) == 0;
}

/* Both of a valid form. */
static inline bool pte_is_locked(pte_t pte)
{
    return (pte.bits & PTE_LOCKED) != 0;
}

static inline bool pte_is_large(pte_t pte)
{
    return (pte.bits & PTE_LARGE) != 0;
}

/* Of a valid or transition form. */
static inline frame_t pte_frame(pte_t pte)
{
    return (frame_t){ (uint32_t)((pte.bits & PTE_FRAME_MASK) >> PTE_FRAME_SHIFT) };
}

/* Of a page-file form, or of a PFN record's original. */
static inline struct stores_slot pte_slot(pte_t pte)
{
    return (struct stores_slot){ .file = (unsigned)((pte.bits & PTE_FILE_MASK) >> PTE_FILE_SHIFT),
                                 .slot = (uint32_t)(pte.bits >> PTE_SLOT_SHIFT) };
}

static inline bool pte_protection_is_guard(unsigned protection)
{
    return (protection & PTE_MODIFIER_MASK) == PTE_GUARD && (protection & PTE_ACCESS_MASK) != 0;
}

static inline bool pte_protection_reads(unsigned protection)
{
    const unsigned access = protection & PTE_ACCESS_MASK;

    return access != PTE_PROTECTION_NONE && access != PTE_EXECUTE && !pte_protection_is_guard(protection);
}

static inline bool pte_protection_writes(unsigned protection)
{
    const unsigned access = protection & PTE_ACCESS_MASK;

    return (access == PTE_READWRITE || access == PTE_EXECUTE_READWRITE) && !pte_protection_is_guard(protection);
}

/* Pages that no trim may take. */
static inline bool pte_is_fixed(pte_t pte)
{
    return (pte.bits & (PTE_LARGE | PTE_LOCKED)) != 0;
}

static inline pte_t pte_make(enum pte_tag tag, unsigned protection)
{
    return (pte_t){ ((uint64_t)tag << 1) | ((uint64_t)protection << PTE_PROTECTION_SHIFT) };
}

/* The same with another protection. A valid form keeps the rights that it has. */
static inline pte_t pte_with_protection(pte_t pte, unsigned protection)
{
    return (pte_t){ (pte.bits & ~PTE_PROTECTION_MASK) | ((uint64_t)protection << PTE_PROTECTION_SHIFT) };
}

static inline pte_t pte_make_valid(frame_t frame, unsigned protection, bool dirty)
{
    return (pte_t){ PTE_VALID | PTE_ACCESSED | PTE_AGE_MASK | (dirty ? PTE_DIRTY : 0) |
                    (pte_protection_reads(protection) ? PTE_READ : 0) |
                    (pte_protection_writes(protection) ? PTE_WRITE : 0) |
                    ((uint64_t)protection << PTE_PROTECTION_SHIFT) | ((uint64_t)frame.number << PTE_FRAME_SHIFT) };
}

static inline pte_t pte_make_transition(frame_t frame, unsigned protection)
{
    return (pte_t){ pte_make(PTE_TAG_TRANSITION, protection).bits | ((uint64_t)frame.number << PTE_FRAME_SHIFT) };
}

/* Without protection: the form that a PFN record's `original` has. */
static inline uint64_t pte_original_of(struct stores_slot slot)
{
    return pte_make(PTE_TAG_PAGE_FILE, 0).bits | ((uint64_t)slot.file << PTE_FILE_SHIFT) |
           ((uint64_t)slot.slot << PTE_SLOT_SHIFT);
}

static inline pte_t pte_load(const uint64_t *pte)
{
    return (pte_t){ sync_load_64(pte) };
}

static inline bool pte_cas(uint64_t *pte, pte_t expected, pte_t desired)
{
    return sync_cas_64(pte, expected.bits, desired.bits);
}

/*
 * TIDE_PAGE_ value, with at most one modifier, <-> software protection; 0 for a value that private memory does not
 * know. An offered page reads as no access.
 */
unsigned pte_protection_of(uint32_t page_protection);
uint32_t pte_page_protection_of(unsigned protection);

#endif

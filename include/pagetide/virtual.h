/**
 * @file
 * The virtual memory of a space: the VirtualAlloc family. Reserve, commit, protect, query, release; stacks, large
 * pages, placeholders, write watch; contents that may be dropped, locked or fetched ahead.
 *
 * All calls are thread-safe. A call that fails changes nothing, unless its description says otherwise. What each call
 * may return besides: TIDE_INVALID_HANDLE for a space that is none or was destroyed, TIDE_INSUFFICIENT_RESOURCES if the
 * operating system refuses memory. tide_last_error() names value and limit.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_VIRTUAL_H
#define PAGETIDE_VIRTUAL_H

#include <pagetide/numa.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Allocation and free types (nt-behaviour 1.1; the same numbers mean different things by call). */
#define TIDE_MEM_COALESCE_PLACEHOLDERS 0x1u
#define TIDE_MEM_PRESERVE_PLACEHOLDER 0x2u
#define TIDE_MEM_COMMIT 0x1000u
#define TIDE_MEM_RESERVE 0x2000u
#define TIDE_MEM_DECOMMIT 0x4000u
#define TIDE_MEM_REPLACE_PLACEHOLDER 0x4000u
#define TIDE_MEM_RELEASE 0x8000u
#define TIDE_MEM_FREE 0x10000u
#define TIDE_MEM_PRIVATE 0x20000u
#define TIDE_MEM_RESERVE_PLACEHOLDER 0x40000u
#define TIDE_MEM_RESET 0x80000u
#define TIDE_MEM_TOP_DOWN 0x100000u
#define TIDE_MEM_WRITE_WATCH 0x200000u
#define TIDE_MEM_RESET_UNDO 0x1000000u
#define TIDE_MEM_LARGE_PAGES 0x20000000u

/* Protections: one access, with at most one modifier. */
#define TIDE_PAGE_NOACCESS 0x01u
#define TIDE_PAGE_READONLY 0x02u
#define TIDE_PAGE_READWRITE 0x04u
#define TIDE_PAGE_WRITECOPY 0x08u
#define TIDE_PAGE_EXECUTE 0x10u
#define TIDE_PAGE_EXECUTE_READ 0x20u
#define TIDE_PAGE_EXECUTE_READWRITE 0x40u
#define TIDE_PAGE_EXECUTE_WRITECOPY 0x80u
#define TIDE_PAGE_GUARD 0x100u        /**< the first access is TIDE_GUARD_PAGE_VIOLATION and takes the guard away */
#define TIDE_PAGE_NOCACHE 0x200u      /**< kept and reported; soft spaces have no caching of their own */
#define TIDE_PAGE_WRITECOMBINE 0x400u /**< likewise */

#define TIDE_LARGE_PAGE_BYTES 0x200000u /**< GetLargePageMinimum */

/**
 * Reserves, commits, or both: VirtualAlloc. Addresses and sizes are rounded as NT rounds them (nt-behaviour 4): an
 * explicit base of a reservation down to 64 KiB, of a commit down to a page, the end up to a page.
 *
 * @param[in,out] base in: wanted address or 0 for any (from a random start upwards; downwards from the top with
 *   TIDE_MEM_TOP_DOWN); out: the base used.
 * @param[in,out] bytes in: size; out: the size used.
 * @param type TIDE_MEM_RESERVE and/or TIDE_MEM_COMMIT; COMMIT with base 0 reserves too. With RESERVE also
 *   TIDE_MEM_TOP_DOWN; TIDE_MEM_WRITE_WATCH (tide_write_watch_get()); TIDE_MEM_LARGE_PAGES (with COMMIT too: base and
 *   size are multiples of TIDE_LARGE_PAGE_BYTES, the protection is TIDE_PAGE_READWRITE, the memory is found and zeroed
 *   now, and is in no working set). Alone: TIDE_MEM_RESET and TIDE_MEM_RESET_UNDO, for which see tide_virtual_reset()
 *   and tide_virtual_reset_undo(), which they are.
 * @param protection one TIDE_PAGE_ access, with at most one modifier; the WRITECOPY ones are for section views only.
 * Committing committed pages keeps the data, is not charged again, and sets the new protection.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (type, size or address); TIDE_INVALID_PAGE_PROTECTION;
 *   TIDE_CONFLICTING_ADDRESSES (range not free, or commit outside one reservation, or in large pages or a placeholder);
 *   TIDE_NO_MEMORY (no free range of that size; no 2 MiB of frames together); TIDE_TIMEOUT (no frame for a page table
 *   within frame_wait_ms) or, in an open access section, TIDE_ACCESS_SECTION_TOO_LONG;
 *   TIDE_COMMITMENT_LIMIT (a commit that does not fit waits for page files to grow: they are at their maximum, or their
 *   disks full; or it is more than page tables in half of the frames can map: 256 times the frames, with what is
 *   committed already).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_alloc(tide_space *space, tide_address *base, uint64_t *bytes,
                                                           uint32_t type, uint32_t protection);

/**
 * tide_virtual_alloc() with a preferred node: VirtualAllocExNuma. The node binds at the creation of a region and is
 * ignored when committing into an existing one. A preference: a full node never makes an access fail.
 * @param node logical node index below the engine's node count, or TIDE_NO_PREFERRED_NODE (node of the thread that
 *   first touches each page). @return also TIDE_INVALID_PARAMETER for a node that does not exist.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_alloc_numa(tide_space *space, tide_address *base, uint64_t *bytes,
                                                                uint32_t type, uint32_t protection, uint32_t node);

/**
 * Extended parameters of VirtualAlloc2: MEM_ADDRESS_REQUIREMENTS and the placement (numa.h). Zero in an address or the
 * alignment means no requirement; zero in policy and fallback, what the space has.
 */
typedef struct tide_alloc_parameters {
    size_t struct_bytes;          /**< set by the caller to sizeof(tide_alloc_parameters) */
    tide_address lowest_address;  /**< the region begins here or above; a multiple of 64 KiB */
    tide_address highest_address; /**< last byte that the region may have; one less than a multiple of 64 KiB */
    uint64_t alignment_bytes;     /**< of the base: a power of two, at least 64 KiB */
    uint32_t node;                /**< preferred node, or the only one if `policy` is STRICT; TIDE_NO_PREFERRED_NODE
                                       for none */
    tide_placement_policy policy; /**< binds at the creation of a region, as the node does; checked, and ignored, when
                                       committing into an existing one */
    tide_placement_fallback fallback;
} tide_alloc_parameters;

/**
 * tide_virtual_alloc() with address requirements, and placeholders: VirtualAlloc2. An explicit base must be a multiple
 * of 64 KiB (of the page size with TIDE_MEM_REPLACE_PLACEHOLDER) and the size one of the page size: nothing is rounded.
 * Address requirements need base 0.
 * @param type also TIDE_MEM_RESERVE | TIDE_MEM_RESERVE_PLACEHOLDER (protection TIDE_PAGE_NOACCESS): a placeholder,
 * which
 *   nothing can be committed in; or TIDE_MEM_RESERVE | TIDE_MEM_REPLACE_PLACEHOLDER, with TIDE_MEM_COMMIT if wished:
 *   base and size are exactly those of one placeholder, whose place the region takes without a gap.
 * @param parameters may be NULL. @return as tide_virtual_alloc().
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_alloc2(tide_space *space, tide_address *base, uint64_t *bytes,
                                                            uint32_t type, uint32_t protection,
                                                            const tide_alloc_parameters *parameters);

/**
 * Decommits pages or releases a region: VirtualFree.
 *
 * @param type TIDE_MEM_DECOMMIT: page-rounded outwards inside one region; uncommitted pages are fine; bytes 0 with the
 *   exact base means the whole region. TIDE_MEM_RELEASE: bytes must be 0 and base the allocation base.
 *   TIDE_MEM_RELEASE | TIDE_MEM_PRESERVE_PLACEHOLDER: a part of a placeholder becomes a placeholder of its own; or a
 *   whole region that had replaced one becomes a placeholder again. TIDE_MEM_RELEASE | TIDE_MEM_COALESCE_PLACEHOLDERS:
 *   the placeholders that make up exactly this range become one.
 * The charge and the page-file slots are returned; the data is lost.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_MEMORY_NOT_ALLOCATED (no region there);
 *   TIDE_FREE_VM_NOT_AT_BASE (bytes 0 and not the base); TIDE_UNABLE_TO_FREE_VM (range leaves the region; decommit in
 *   large pages or a placeholder); TIDE_CONFLICTING_ADDRESSES (placeholders: the range is not made up of them).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_free(tide_space *space, tide_address base, uint64_t bytes,
                                                          uint32_t type);

/**
 * The wider native call: NtFreeVirtualMemory. A release may name any range of pages inside one region: the region is
 * cut or split, and the parts that remain are regions of their own, each released by its own base.
 * @param[in,out] base, bytes in: range, bytes 0 with the exact base for the whole region; out: the range as rounded.
 * @param type TIDE_MEM_DECOMMIT or TIDE_MEM_RELEASE.
 * @return as tide_virtual_free(); TIDE_COMMITMENT_LIMIT (the parts may need page tables that the whole shared).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_free_native(tide_space *space, tide_address *base, uint64_t *bytes,
                                                                 uint32_t type);

/**
 * Changes the protection of committed pages: VirtualProtect. Rounded outwards to pages; all or nothing.
 * @param[out] old the former protection of the first page; must not be NULL.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_INVALID_PAGE_PROTECTION; TIDE_CONFLICTING_ADDRESSES (not inside
 * one
 *   region); TIDE_INVALID_PAGE_PROTECTION also for offered pages; TIDE_NOT_COMMITTED (a page of it); TIDE_TIMEOUT or
 *   TIDE_ACCESS_SECTION_TOO_LONG (no frame for a page table).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_protect(tide_space *space, tide_address base, uint64_t bytes,
                                                             uint32_t protection, uint32_t *old);

/**
 * What tide_virtual_query() tells: MEMORY_BASIC_INFORMATION. For a free range only base, bytes and state are
 * defined.
 */
typedef struct tide_region {
    tide_address base;            /**< page of the address asked for */
    tide_address allocation_base; /**< base of the reservation */
    uint64_t bytes;               /**< from base on, while state and protection stay the same */
    uint32_t allocation_protection;
    uint32_t state; /**< TIDE_MEM_COMMIT, TIDE_MEM_RESERVE or TIDE_MEM_FREE */
    uint32_t protection;
    uint32_t type; /**< TIDE_MEM_PRIVATE */
} tide_region;

/**
 * Describes the pages from an address on: VirtualQuery. @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER (address past
 * the end).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_query(tide_space *space, tide_address address,
                                                           tide_region *region);

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

/** A stack that grows by itself (nt-behaviour 5 rule 6). Give it back with tide_virtual_free(allocation_base, 0). */
typedef struct tide_stack {
    tide_address allocation_base; /**< lowest address of the reservation */
    tide_address limit;           /**< lowest committed address without guard at creation: StackLimit */
    tide_address base;            /**< one past the highest address: StackBase; the stack grows down from here */
} tide_stack;

/**
 * Reserves a stack, commits its top and a guard page below: what CreateThread does. An access to the guard page makes
 * it an ordinary page and the page below the new guard, with TIDE_PAGE_FAULT_GUARD_PAGE as the class of fault. The
 * lowest page is never committed: when the guard stands above it, an access to the guard page is TIDE_STACK_OVERFLOW,
 * after which that page is usable, so that the overflow can be handled; when the next page cannot be charged or is
 * offered, it is TIDE_STACK_OVERFLOW too, and the guard stays. An access beyond the guard page is
 * TIDE_ACCESS_VIOLATION.
 *
 * @param reserve_bytes size, rounded up to 64 KiB; 0 means 1 MiB. @param commit_bytes committed at once without the
 *   guard page, rounded up to a page; 0 means one page; it must leave room for the guard page and the lowest one.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_NO_MEMORY; TIDE_COMMITMENT_LIMIT.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_stack_create(tide_space *space, uint64_t reserve_bytes,
                                                          uint64_t commit_bytes, tide_stack *stack);

/* ---- contents ----------------------------------------------------------------------------------------------------

 * What reset and offer have in common: the content may be dropped whenever a frame is needed, and is never written to a
 * page file; the pages stay committed and charged. Writes through pointers of access sections that were got before such
 * a call count as made before it. All need a range inside one region, committed; large pages are refused.
 */

/**
 * The content of these pages is no longer needed: MEM_RESET. They stay accessible, and read as before or, once the
 * frame was needed, as zeros. A write makes its page needed again. Whole pages inside the range only: bytes outside of
 * it are never lost; a range without a whole page is left alone. What is in a page file only is dropped at once. Pages
 * that are being written or pinned are left as they are; offered ones stay offered.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (0 bytes, or past the highest address); TIDE_CONFLICTING_ADDRESSES (not
 *   inside one region, or in large pages); TIDE_NOT_COMMITTED (a page of it).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_reset(tide_space *space, tide_address base, uint64_t bytes);

/**
 * The content of pages that were reset is needed after all: MEM_RESET_UNDO. Rounded as tide_virtual_reset(). Pages that
 * were not reset are left alone; so are offered ones.
 * @return TIDE_SUCCESS: every byte is as at the reset, or as written since; TIDE_CONTENTS_LOST: at least one page was
 *   lost since its reset and began anew as zeros, the others are kept, and the range is usable. It is told once. The
 *   errors of tide_virtual_reset().
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_reset_undo(tide_space *space, tide_address base, uint64_t bytes);

/**
 * Drops the content of pages at once: DiscardVirtualMemory. Their frames and page-file slots are free, locked pages are
 * no longer locked; they stay committed and read as zeros. Pinned frames stay until they are unpinned, as at a
 * decommit.
 * @param base, bytes multiples of the page size; every page committed with TIDE_PAGE_READWRITE.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (not such multiples, 0 bytes, past the highest address);
 *   TIDE_CONFLICTING_ADDRESSES (not inside one region, or in large pages); TIDE_NOT_COMMITTED;
 *   TIDE_INVALID_PAGE_PROTECTION (another protection, or offered).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_discard(tide_space *space, tide_address base, uint64_t bytes);

/* Priorities of an offer: the lower, the sooner the pages are taken. */
#define TIDE_OFFER_VERY_LOW 1u
#define TIDE_OFFER_LOW 2u
#define TIDE_OFFER_BELOW_NORMAL 3u
#define TIDE_OFFER_NORMAL 4u

/**
 * Offers pages to the engine: OfferVirtualMemory. They leave the working set, are taken before ordinary pages of like
 * memory priority when frames are needed, and are not accessible (TIDE_ACCESS_VIOLATION) until they are reclaimed;
 * tide_virtual_query() shows TIDE_PAGE_NOACCESS. Locked pages are unlocked. What is in a page file only is dropped at
 * once; of a page that is just being written out, the copy is kept. Until they are reclaimed, committing them anew or
 * protecting them is TIDE_INVALID_PAGE_PROTECTION; decommit and release are as ever.
 * @param base, bytes as for tide_virtual_discard(). @param priority one of TIDE_OFFER_.
 * @return as tide_virtual_discard(), TIDE_INVALID_PARAMETER also for the priority; TIDE_DEVICE_BUSY (a page is pinned);
 *   TIDE_NO_MEMORY, TIDE_TIMEOUT (no frame for a page table).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_offer(tide_space *space, tide_address base, uint64_t bytes,
                                                           unsigned priority);

/**
 * Makes offered pages TIDE_PAGE_READWRITE again: ReclaimVirtualMemory.
 * @param base, bytes multiples of the page size; every page offered.
 * @return TIDE_SUCCESS: every byte is as when it was offered; TIDE_CONTENTS_LOST: all pages are usable again, and those
 *   that were taken are zero; TIDE_INVALID_PARAMETER (no such multiples, 0 bytes, or a page that is not offered);
 *   TIDE_CONFLICTING_ADDRESSES; TIDE_NOT_COMMITTED.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_reclaim(tide_space *space, tide_address base, uint64_t bytes);

/* ---- residence -------------------------------------------------------------------------------------------------- */

/**
 * Brings pages in and locks them in the working set: VirtualLock. No trim, no replacement and no
 * tide_working_set_empty() takes them until they are unlocked, offered, discarded, decommitted or released. All or
 * none. There is no count of locks: one unlock undoes any number of locks. Large pages need no lock, and count for
 * none.
 *
 * A space may lock its minimum working set (tide_working_set_set_limits()) less 8 pages; all spaces together what page
 * tables, large pages and the engine's reserve leave. Calls of one space go one after the other.
 * @param base, bytes rounded outwards to pages, inside one region; committed, and readable.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_CONFLICTING_ADDRESSES (not inside one region); TIDE_NOT_COMMITTED;
 *   TIDE_ACCESS_VIOLATION (a page that cannot be read, is a guard or offered); TIDE_WORKING_SET_QUOTA; TIDE_NO_MEMORY
 *   (the engine has no more frames to spare for locks); TIDE_IN_PAGE_ERROR; TIDE_TIMEOUT; TIDE_ACCESS_SECTION_TOO_LONG.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_lock(tide_space *space, tide_address base, uint64_t bytes);

/**
 * Unlocks pages: VirtualUnlock. They stay in the working set, as ordinary pages.
 * @param base, bytes rounded outwards to pages, inside one region; committed.
 * @return TIDE_SUCCESS; TIDE_NOT_LOCKED (some page was not locked: those that were not have left the working set, and
 *   those that were are locked still); TIDE_INVALID_PARAMETER; TIDE_CONFLICTING_ADDRESSES; TIDE_NOT_COMMITTED.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_unlock(tide_space *space, tide_address base, uint64_t bytes);

/** A range of addresses: WIN32_MEMORY_RANGE_ENTRY. */
typedef struct tide_memory_range {
    tide_address address;
    uint64_t bytes;
} tide_memory_range;

/**
 * Reads pages that are in a page file into memory ahead of their use: PrefetchVirtualMemory. In reads as large as the
 * page file's layout allows, several at the same time; the call waits for them. They go to standby, not into the
 * working set, so that their first touch is a soft fault. A hint: it ends quietly when frames run short or a read
 * fails, and passes by what is in memory, was never written out, or is not committed.
 * @param ranges @p count of them, each not empty. @param flags 0.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, no range, an empty one or one past the highest address, flags).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_prefetch(tide_space *space, const tide_memory_range *ranges,
                                                              size_t count, uint32_t flags);

/* ---- write watch ------------------------------------------------------------------------------------------------ */

#define TIDE_WRITE_WATCH_RESET 0x1u

/**
 * Lists the pages of a region with TIDE_MEM_WRITE_WATCH that were written since the region was reserved or last reset:
 * GetWriteWatch. Ascending; stops when the array is full.
 *
 * With TIDE_WRITE_WATCH_RESET the pages that are reported, and only those, are watched anew, and no write is lost: a
 * write that this call does not report is reported by the next. For that the call waits until the access sections that
 * could write through a pointer from before have ended; the calling thread must hold none with pointers. A page that
 * was written stays marked while it is pinned.
 *
 * @param flags 0 or TIDE_WRITE_WATCH_RESET. @param base, bytes a range inside one such region; rounded outwards.
 * @param[out] addresses page addresses. @param[in,out] count in: room; out: pages reported.
 * @param[out] granularity bytes per page; may be NULL.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (not such a region, flags, range); TIDE_DEVICE_BUSY (the thread's own
 *   access section); TIDE_TIMEOUT (another thread's section did not end within frame_wait_ms; nothing was reset).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_write_watch_get(tide_space *space, uint32_t flags, tide_address base,
                                                             uint64_t bytes, tide_address *addresses, uint64_t *count,
                                                             uint32_t *granularity);

/**
 * Forgets the writes of a range: ResetWriteWatch. Writes between an earlier tide_write_watch_get() and this call are
 * lost; to lose none, use its TIDE_WRITE_WATCH_RESET. Writes after this call are seen, by whatever pointer, so it waits
 * for access sections as that does.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_DEVICE_BUSY; TIDE_TIMEOUT (part of the range may have been reset).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_write_watch_reset(tide_space *space, tide_address base, uint64_t bytes);

#ifdef __cplusplus
}
#endif
#endif

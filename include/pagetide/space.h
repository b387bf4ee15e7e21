/**
 * @file
 * Soft address spaces: reserve, commit, decommit, release; limits, priorities.
 *
 * A soft space has virtual addresses that only the engine translates. Addresses run from TIDE_LOWEST_ADDRESS up to
 * TIDE_HIGHEST_ADDRESS, as in a 64-bit Windows process.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_SPACE_H
#define PAGETIDE_SPACE_H

#include <pagetide/engine.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tide_space tide_space;
typedef uint64_t tide_address; /**< an address in a soft space, in bytes */

#define TIDE_LOWEST_ADDRESS 0x10000ull         /**< the first 64 KiB are never given out */
#define TIDE_HIGHEST_ADDRESS 0x7FFFFFFEFFFFull /**< last usable byte: 128 TiB less 64 KiB */

/* Allocation and free types (nt-behaviour 1.1; the same numbers mean different things by call). */
#define TIDE_MEM_COMMIT 0x1000u
#define TIDE_MEM_RESERVE 0x2000u
#define TIDE_MEM_DECOMMIT 0x4000u
#define TIDE_MEM_RELEASE 0x8000u
#define TIDE_MEM_FREE 0x10000u
#define TIDE_MEM_PRIVATE 0x20000u
#define TIDE_MEM_TOP_DOWN 0x100000u

/* Protections. */
#define TIDE_PAGE_NOACCESS 0x01u
#define TIDE_PAGE_READONLY 0x02u
#define TIDE_PAGE_READWRITE 0x04u
#define TIDE_PAGE_WRITECOPY 0x08u
#define TIDE_PAGE_EXECUTE 0x10u
#define TIDE_PAGE_EXECUTE_READ 0x20u
#define TIDE_PAGE_EXECUTE_READWRITE 0x40u
#define TIDE_PAGE_EXECUTE_WRITECOPY 0x80u

/*
 * * Creates an empty space. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_NO_MEMORY, TIDE_COMMITMENT_LIMIT (its
 * root table).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_create(tide_engine *engine, tide_space **space);

/**
 * Releases everything in the space and the space itself. No other thread may be in a call on it.
 * @return TIDE_SUCCESS; TIDE_DEVICE_BUSY while an access section or pin on it is open (nothing changes).
 */
TIDE_EXPORT tide_status tide_space_destroy(tide_space *space);

/**
 * Reserves, commits, or both: VirtualAlloc. Addresses and sizes are rounded as NT rounds them (nt-behaviour 4): an
 * explicit base of a reservation down to 64 KiB, of a commit down to a page, the end up to a page.
 *
 * @param[in,out] base in: wanted address or 0 for any (lowest first; highest with TIDE_MEM_TOP_DOWN);
 *   out: the base used.
 * @param[in,out] bytes in: size; out: the size used.
 * @param type TIDE_MEM_RESERVE and/or TIDE_MEM_COMMIT, with TIDE_MEM_TOP_DOWN if wished. COMMIT with base 0 reserves
 *   too.
 * @param protection one TIDE_PAGE_ value; the WRITECOPY ones are for section views only.
 * Committing committed pages keeps the data, is not charged again, and sets the new protection.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_INVALID_PAGE_PROTECTION; TIDE_CONFLICTING_ADDRESSES (range not
 *   free, or commit outside one reservation); TIDE_NO_MEMORY (no free range of that size; no frame for a table);
 *   TIDE_COMMITMENT_LIMIT. A call that fails changes nothing. Thread-safe.
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
 * Decommits pages or releases a region: VirtualFree.
 *
 * @param type TIDE_MEM_DECOMMIT: page-rounded outwards inside one region; uncommitted pages are fine; bytes 0 with the
 *   exact base means the whole region. TIDE_MEM_RELEASE: bytes must be 0 and base the allocation base.
 * The charge and the page-file slots are returned; the data is lost.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER; TIDE_MEMORY_NOT_ALLOCATED (no region there);
 *   TIDE_FREE_VM_NOT_AT_BASE (bytes 0 and not the base); TIDE_UNABLE_TO_FREE_VM (range leaves the region). Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_free(tide_space *space, tide_address base, uint64_t bytes,
                                                          uint32_t type);

/*
 * * What tide_virtual_query() tells: MEMORY_BASIC_INFORMATION. For a free range only base, bytes and state are
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

/*
 * * Describes the pages from an address on: VirtualQuery. @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER (address past
 * the end).
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_virtual_query(tide_space *space, tide_address address,
                                                           tide_region *region);

/* Working-set limit flags: QUOTA_LIMITS_HARDWS_*. */
#define TIDE_WORKING_SET_HARD_MINIMUM 0x1u
#define TIDE_WORKING_SET_HARD_MAXIMUM 0x4u

/**
 * Sets the working-set limits in pages: SetProcessWorkingSetSizeEx. Soft limits unless the flags say otherwise: with
 * memory to spare a set may pass its maximum; at a hard maximum each new page replaces one of the space's own, and at a
 * hard minimum the trimmer stops. Default 50 and 345, soft.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (maximum below minimum, maximum under 13, unknown flags). A minimum
 *   below 20 is raised to 20.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_set_limits(tide_space *space, uint64_t minimum_pages,
                                                                    uint64_t maximum_pages, uint32_t flags);

/** Removes every page from the working set: EmptyWorkingSet. Content stays, on the modified and standby lists. */
TIDE_EXPORT tide_status tide_working_set_empty(tide_space *space);

/** Removes up to @p pages pages, oldest first. @param[out] trimmed pages removed; may be NULL. */
TIDE_EXPORT tide_status tide_working_set_trim(tide_space *space, uint64_t pages, uint64_t *trimmed);

/**
 * Memory priority of the pages that the space faults from now on: ProcessMemoryPriority. 0 to 5, default 5 (normal).
 * @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_space_set_priority(tide_space *space, unsigned priority);

#ifdef __cplusplus
}
#endif
#endif

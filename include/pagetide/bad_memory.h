/**
 * @file
 * Memory that goes bad: taking frames out of use, and what becomes of their pages.
 *
 * Who learns of an uncorrectable memory error - from SIGBUS (BUS_MCEERR_AO, BUS_MCEERR_AR), from the machine's log,
 * from a memory test - tells the engine, which never uses the frame again: it goes to the bad list, as RAMMap's column
 * Bad shows it. With tide_config.handle_memory_errors the library listens to SIGBUS itself. docs/bad-memory.md has the
 * whole story.
 *
 * What becomes of the page in the frame:
 *   none, or clean         nothing is lost: the next access reads the page from its page file (a page that was reset or
 *                          offered is gone, as if its frame had been taken for other use). It leaves the working set; if
 *                          it was locked, it is not any more.
 *   dirty, or large        the page is lost. Each access to it fails with TIDE_IN_PAGE_ERROR and tide_error.io_error
 *                          EHWPOISON - NT's STATUS_IN_PAGE_ERROR - until the page is made anew: a tide_write() that covers
 *                          it as a whole succeeds, and tide_virtual_reset(), tide_virtual_offer(), tide_virtual_discard(),
 *                          decommit and release give its content up. tide_virtual_reset_undo() tells the loss
 *                          (TIDE_CONTENTS_LOST), and the page is zeros from then on. Protection and commit charge stay.
 *   pinned                 nothing yet: the pin's owner uses the memory. The frame is taken when its last pin is gone.
 *   page table             cannot be made good. The table stays in use - if it can still be read, nothing is wrong - and
 *                          its frame is taken when the space lets it go.
 * Pointers of open access sections into the frame stay pointers into it: what is written through them is lost with it.
 *
 * Commit limit, resident available pages and PhysicalTotal fall by one for each bad frame.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_BAD_MEMORY_H
#define PAGETIDE_BAD_MEMORY_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What tide_frame_retire() found in the frame. */
typedef enum tide_retire_outcome {
    TIDE_RETIRE_UNUSED = 0, /**< no page; now on the bad list */
    TIDE_RETIRE_BACKED = 1, /**< a page of which nothing is lost; now on the bad list */
    TIDE_RETIRE_LOST = 2,   /**< a page that is lost; now on the bad list */
    TIDE_RETIRE_PINNED = 3, /**< a pinned page, or one that is being written: later */
    TIDE_RETIRE_TABLE = 4,  /**< a page table: later, and not to be made good */
    TIDE_RETIRE_ALREADY = 5 /**< it was on the bad list */
} tide_retire_outcome;

typedef struct tide_retirement {
    tide_retire_outcome outcome;
    uint64_t space;       /**< number of the space whose page it was (tide_space_statistics.id), 0 if there is none */
    tide_address address; /**< of that page */
} tide_retirement;

/**
 * Takes a frame out of use for good: MmMarkPhysicalMemoryAsBad. Stops the engine's world for a moment, as
 * tide_engine_verify() does: every call and worker waits at its next safe point. Not for signal handlers.
 * @param frame its number, as tide_page_query() and tide_frame_query() tell it.
 * @param[out] retirement what was in it; may be NULL.
 * @return TIDE_SUCCESS: it is on the bad list; TIDE_PENDING: it is pinned, and goes there when its last pin is gone, or
 *   being written to a page file that does not answer, and goes there soon after it has;
 *   TIDE_HARDWARE_MEMORY_ERROR: it is a page table, and goes there when the table is freed, if that comes (`retirement` is
 *   filled in here too); TIDE_INVALID_PARAMETER (no such frame); TIDE_INVALID_HANDLE. Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_frame_retire(tide_engine *engine, uint64_t frame,
                                                          tide_retirement *retirement);

/**
 * The same by an address of the process: siginfo_t.si_addr, a pointer of an access section, a pin's iovec.
 * @return as tide_frame_retire(); TIDE_INVALID_PARAMETER if the pointer is not to a frame of the engine.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_frame_retire_at(tide_engine *engine, const void *pointer,
                                                             tide_retirement *retirement);

#ifdef __cplusplus
}
#endif
#endif

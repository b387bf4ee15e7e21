/**
 * @file
 * Figures and verification. Snapshots are cheap (sums of per-CPU counters, no lock of a hot path) and consistent when
 * the engine is quiet; under load each figure is exact at some moment during the call.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_STATISTICS_H
#define PAGETIDE_STATISTICS_H

#include <pagetide/space.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Fault counters, as nt-behaviour 9.1 classifies them. Monotone. */
typedef struct tide_fault_counters {
    uint64_t page_faults; /**< all: the classes below, collided, spurious and violations */
    uint64_t demand_zero;
    uint64_t transition; /**< soft: standby, modified, or write in flight */
    uint64_t transition_standby;
    uint64_t transition_modified;
    uint64_t transition_write_in_progress;
    uint64_t hard;     /**< faults that read: the faulting pages, without cluster neighbours */
    uint64_t collided; /**< waited for another thread's fault on the page */
    uint64_t access_violations;
    uint64_t in_page_errors;
    uint64_t guard; /**< accesses to guard pages, those that made a stack grow included */
    uint64_t local; /**< faults resolved with a frame of the preferred node */
} tide_fault_counters;

/** One node. All in pages. */
typedef struct tide_node_statistics {
    uint64_t frames;
    uint64_t zeroed;     /**< CPU caches included */
    uint64_t free;       /**< CPU caches included */
    uint64_t standby[8]; /**< by priority */
    uint64_t modified;
    uint64_t modified_no_write;
    uint64_t bad;
    uint64_t transition; /**< in no list and not valid: I/O in flight or pinned */
    uint64_t active;     /**< everything else: valid pages and page tables */
    uint64_t available;  /**< zeroed + free + standby */
} tide_node_statistics;

/** The whole engine. Counters are monotone since open. */
typedef struct tide_statistics {
    size_t struct_bytes; /**< set by the caller to sizeof(tide_statistics) */
    unsigned node_count;
    unsigned cpu_count;
    tide_fault_counters faults;
    uint64_t pages_input; /**< pages read, cluster neighbours included */
    uint64_t page_reads;  /**< read operations */
    uint64_t pages_output;
    uint64_t page_writes; /**< write operations */
    uint64_t read_errors;
    uint64_t write_errors;
    uint64_t repurposed[8];     /**< standby pages taken for other use, by priority */
    uint64_t inline_zeroed;     /**< frames that a fault had to zero itself */
    uint64_t background_zeroed; /**< frames zeroed by the zero-page threads */
    uint64_t trimmed;           /**< pages removed by the trimmer, by replacement and by request */
    uint64_t frame_waits;       /**< sleeps of faults for want of a frame, at most 2 ms each */
    uint64_t total_pages;       /**< PhysicalTotal */
    uint64_t available_pages;   /**< PhysicalAvailable: zeroed + free + standby over all nodes */
    uint64_t commit_total_pages;
    uint64_t commit_limit_pages;
    uint64_t commit_peak_pages;
    uint64_t table_pages;           /**< frames used as page tables */
    uint64_t page_file_total_slots; /**< usable slots over all page files */
    uint64_t page_file_used_slots;
    uint64_t page_file_bad_slots;
    uint64_t overhead_bytes; /**< memory of the engine besides the frames: PFN database, lists, caches */
    uint64_t pfn_database_bytes;
    uint64_t zero_page_cpu_ns; /**< CPU time of the workers, all nodes */
    uint64_t writer_cpu_ns;
    uint64_t trimmer_cpu_ns;
    uint64_t grace_epoch;         /**< moves when all access sections have moved on */
    uint64_t open_sections;       /**< threads inside an access section now */
    uint64_t stale_sections;      /**< of these, how many hold the grace period back */
    uint64_t longest_section_tid; /**< Linux thread id of the section that holds back the most, 0 if none */
    uint64_t spaces;
    uint64_t commit_limit_maximum_pages;   /**< what the limit would be with every page file at its maximum */
    uint64_t page_file_reserved_slots;     /**< free slots that are kept for neighbours of pages written before */
    uint64_t page_file_extensions;         /**< times that a page file grew */
    uint64_t page_file_extension_failures; /**< times that one could not, for want of space on its disk or an error */
    uint64_t page_file_shrinks;            /**< times that one gave back what it did not use */
    uint64_t extender_cpu_ns;              /**< CPU time of the page-file extender */
} tide_statistics;

/** One space. */
typedef struct tide_space_statistics {
    size_t struct_bytes; /**< set by the caller to sizeof(tide_space_statistics) */
    tide_fault_counters faults;
    uint64_t working_set_pages; /**< valid pages */
    uint64_t peak_working_set_pages;
    uint64_t private_pages; /**< private commit: PrivateUsage */
    uint64_t virtual_bytes; /**< reserved and committed: VirtualSize */
    uint64_t table_pages;
    uint64_t regions;
} tide_space_statistics;

/** One page file. Sizes in slots, which hold a page each; the header is not counted. */
typedef struct tide_page_file_statistics {
    size_t struct_bytes;    /**< set by the caller to sizeof(tide_page_file_statistics) */
    uint64_t total_slots;   /**< Size: what there is now, bad slots included */
    uint64_t minimum_slots; /**< MinimumSize */
    uint64_t maximum_slots; /**< MaximumSize */
    uint64_t used_slots;
    uint64_t peak_used_slots; /**< PeakUsage */
    uint64_t reserved_slots;  /**< free, and kept for neighbours of pages written before */
    uint64_t bad_slots;
    uint64_t reads;  /**< operations, failed ones included */
    uint64_t writes; /**< the same */
    uint64_t pages_input;
    uint64_t pages_output;
} tide_page_file_statistics;

/**
 * Figures of one page file (SystemPageFileInformation; EnumPageFiles).
 * @param index in the configuration.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (no such file, or a wrong struct_bytes); TIDE_INVALID_HANDLE.
 */
TIDE_EXPORT tide_status tide_page_file_statistics_get(tide_engine *engine, unsigned index,
                                                      tide_page_file_statistics *statistics);

TIDE_EXPORT tide_status tide_statistics_get(tide_engine *engine, tide_statistics *statistics);
TIDE_EXPORT tide_status tide_node_statistics_get(tide_engine *engine, unsigned node, tide_node_statistics *statistics);
TIDE_EXPORT tide_status tide_space_statistics_get(tide_space *space, tide_space_statistics *statistics);

/** Where a page is. */
typedef enum tide_page_state {
    TIDE_PAGE_STATE_FREE = 0,        /**< not reserved or not committed */
    TIDE_PAGE_STATE_DEMAND_ZERO = 1, /**< committed, never touched or discarded */
    TIDE_PAGE_STATE_ACTIVE = 2,      /**< in the working set */
    TIDE_PAGE_STATE_STANDBY = 3,
    TIDE_PAGE_STATE_MODIFIED = 4,
    TIDE_PAGE_STATE_TRANSITION = 5, /**< in memory, out of the working set, I/O or pins on it */
    TIDE_PAGE_STATE_PAGE_FILE = 6,
    TIDE_PAGE_STATE_BUSY = 7 /**< a fault is being resolved right now */
} tide_page_state;

/** What is known of one page: QueryWorkingSetEx and RAMMap's Physical Pages. */
typedef struct tide_page_info {
    tide_page_state state;
    bool valid;
    bool dirty;
    uint32_t protection; /**< TIDE_PAGE_ value, 0 if not committed */
    uint32_t node;       /**< of the frame; TIDE_NO_PREFERRED_NODE if there is none */
    uint32_t priority;
    uint32_t age;       /**< valid pages only: 0 used at every look of the trimmer, to 255 at none of late */
    uint64_t frame;     /**< frame number, UINT64_MAX if there is none */
    uint32_t page_file; /**< page file and slot that hold a copy; slot 0 if none */
    uint64_t slot;
} tide_page_info;

/** Describes one page without faulting it. @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER, TIDE_INVALID_HANDLE. */
TIDE_EXPORT tide_status tide_page_query(tide_space *space, tide_address address, tide_page_info *info);

/** Shape of the machine or of the synthetic topology. */
typedef struct tide_node_info {
    unsigned os_index;  /**< the operating system's node number */
    unsigned cpu_count; /**< CPUs local to the node; 0 for a memory-only node */
    uint64_t memory_bytes;
    uint64_t distance[TIDE_MAX_NODES]; /**< relative latency to each node, 10 for itself */
} tide_node_info;
TIDE_EXPORT tide_status tide_node_info_get(tide_engine *engine, unsigned node, tide_node_info *info);

/** What tide_engine_verify() found. */
typedef struct tide_verify_report {
    uint64_t frames_checked;
    uint64_t ptes_checked;
    uint64_t slots_checked;
    uint64_t violations;
    char first[512]; /**< first violation: invariant (I1 to I15), frame or address, what was found and expected */
} tide_verify_report;

/**
 * Stops the engine's world (every call and worker waits at its next safe point), checks the invariants I1 to I15 of
 * nt-behaviour 32, and lets it go on. Reads all memory and the page files' contents of clean pages: slow.
 * @param report may be NULL.
 * @return TIDE_SUCCESS if all hold; TIDE_IO_ERROR if a slot could not be read; TIDE_INVARIANT_VIOLATED otherwise.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_engine_verify(tide_engine *engine, tide_verify_report *report);

#ifdef __cplusplus
}
#endif
#endif

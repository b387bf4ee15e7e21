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
    uint64_t total_pages;       /**< frames of all nodes, bad ones included */
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
    uint64_t timestamp_ns; /**< engine's clock: CLOCK_MONOTONIC, or the virtual one with TIDE_WORKERS_MANUAL */
    /* Where all frames are, from one reading of the lists: available_pages is zeroed + free + standby of this reading,
     * always; all of them together are total_pages when no frame is on its way while they are read. */
    uint64_t zeroed_pages;
    uint64_t free_pages;
    uint64_t standby_pages[8]; /**< by priority */
    uint64_t modified_pages;   /**< modified-no-write included */
    uint64_t bad_pages;        /**< frames on the bad list: taken out of use for good (bad_memory.h) */
    uint64_t transition_pages;
    uint64_t active_pages;                 /**< valid pages and page tables: everything else */
    uint64_t standby_reserve_pages;        /**< Standby Cache Reserve: priorities 0 to 3 */
    uint64_t standby_normal_pages;         /**< Standby Cache Normal Priority: 4 and 5 */
    uint64_t standby_core_pages;           /**< Standby Cache Core: 6 and 7 */
    uint64_t transition_pages_repurposed;  /**< sum of repurposed[] */
    uint64_t commit_limit_maximum_pages;   /**< what the limit would be with every page file at its maximum */
    uint64_t page_file_reserved_slots;     /**< free slots that are kept for neighbours of pages written before */
    uint64_t page_file_extensions;         /**< times that a page file grew */
    uint64_t page_file_extension_failures; /**< times that one could not, for want of space on its disk or an error */
    uint64_t page_file_shrinks;            /**< times that one gave back what it did not use */
    uint64_t extender_cpu_ns;              /**< CPU time of the page-file extender */
    uint64_t locked_pages;                 /**< locked in working sets now, all spaces */
    uint64_t reset_pages_lost;             /**< pages taken for other use whose content had been reset or offered */
    uint64_t pages_prefetched;             /**< of pages_input, those read by tide_virtual_prefetch() */
    uint64_t bad_pages_pending; /**< known to be bad and still in use: pinned, page tables, or noted just now */
    uint64_t pages_lost;        /**< pages whose content was lost with bad memory (bad_memory.h) */
    uint64_t pages_together;    /**< of pages_output, those written with whatever else was, away from their neighbours
                                     (tide_config.keep_page_order) */
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
    uint64_t id;                 /**< number of the space, never used again in its engine */
    uint64_t timestamp_ns;       /**< as tide_statistics.timestamp_ns */
    uint64_t peak_private_pages; /**< PeakPagefileUsage */
    uint64_t peak_virtual_bytes; /**< PeakVirtualSize */
    uint64_t locked_pages;       /**< locked in the working set by tide_virtual_lock() */
    uint64_t offered_pages;      /**< offered by tide_virtual_offer() and not reclaimed */
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

/**
 * What the Memory object of the performance counters gives per second, from two snapshots of one engine.
 * @see tide_statistics_rates()
 */
typedef struct tide_rates {
    double seconds;                     /**< between the snapshots, by their timestamps */
    double page_faults;                 /**< Page Faults/sec: all classes, as in tide_fault_counters */
    double demand_zero_faults;          /**< Demand Zero Faults/sec */
    double transition_faults;           /**< Transition Faults/sec */
    double hard_faults;                 /**< faults that read */
    double pages_input;                 /**< Pages Input/sec */
    double page_reads;                  /**< Page Reads/sec: operations */
    double pages_output;                /**< Pages Output/sec */
    double page_writes;                 /**< Page Writes/sec: operations */
    double transition_pages_repurposed; /**< Transition Pages RePurposed/sec */
    double pages_trimmed;               /**< pages that left working sets without being deleted */
    double pages_zeroed;                /**< by faults and by the zero-page threads */
} tide_rates;

/**
 * Rates per second between two snapshots of one engine.
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (NULL, struct_bytes not set, no time between the snapshots, or a counter
 *   of `after` is below that of `before`: not the same engine or the wrong way round). Pure; thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_statistics_rates(const tide_statistics *before,
                                                              const tide_statistics *after, tide_rates *rates);

/**
 * The fields of PERFORMANCE_INFORMATION that an engine has, in pages. Left out: KernelTotal, KernelPaged and
 * KernelNonpaged (there are no pools), HandleCount (there is no handle table).
 */
typedef struct tide_performance_information {
    size_t struct_bytes;         /**< set by the caller to sizeof(tide_performance_information) */
    uint64_t commit_total;       /**< CommitTotal: pages charged */
    uint64_t commit_limit;       /**< CommitLimit */
    uint64_t commit_peak;        /**< CommitPeak: since open */
    uint64_t physical_total;     /**< PhysicalTotal: frames of all nodes but the bad ones */
    uint64_t physical_available; /**< PhysicalAvailable: zeroed + free + standby */
    uint64_t system_cache;       /**< SystemCache: standby; a system working set does not exist */
    uint64_t page_bytes;         /**< PageSize */
    uint64_t space_count;        /**< ProcessCount: a space is what a process is to NT */
    uint64_t thread_count;       /**< ThreadCount: living threads that have called the engine, workers included */
} tide_performance_information;

/** GetPerformanceInfo. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INVALID_PARAMETER. Thread-safe. */
TIDE_EXPORT tide_status tide_performance_information_get(tide_engine *engine,
                                                         tide_performance_information *information);

/** MEMORYSTATUSEX, in bytes, for one space. */
typedef struct tide_memory_status {
    size_t struct_bytes;               /**< dwLength: set by the caller to sizeof(tide_memory_status) */
    unsigned memory_load_percent;      /**< dwMemoryLoad: share of the frames that is not available */
    uint64_t total_physical_bytes;     /**< ullTotalPhys */
    uint64_t available_physical_bytes; /**< ullAvailPhys */
    uint64_t total_commit_bytes;       /**< ullTotalPageFile: the commit limit, or the space's own if lower */
    uint64_t available_commit_bytes;   /**< ullAvailPageFile: what the space can still commit */
    uint64_t total_virtual_bytes;      /**< ullTotalVirtual: addresses of the space */
    uint64_t available_virtual_bytes;  /**< ullAvailVirtual: of these, not reserved */
} tide_memory_status;

/** GlobalMemoryStatusEx, asked by a space. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INVALID_PARAMETER.
 * Thread-safe. */
TIDE_EXPORT tide_status tide_memory_status_get(tide_space *space, tide_memory_status *status);

/**
 * The parts of a working set, in pages, by the use of each valid page's frame. private + shareable = total.
 */
typedef struct tide_working_set_statistics {
    uint64_t total_pages;
    uint64_t private_pages;   /**< Working Set - Private */
    uint64_t shareable_pages; /**< of sections, views and files: none until a space can map such */
    uint64_t shared_pages;    /**< of the shareable ones, those that more than one PTE has */
    uint64_t locked_pages;    /**< locked into the working set */
    uint64_t node_pages[TIDE_MAX_NODES];
} tide_working_set_statistics;

/**
 * Walks the page tables of a space and sorts its valid pages: QueryWorkingSet, added up. O(working set); everything
 * else of this file that is asked of a space is O(CPUs). Large pages are no part of a working set and not counted.
 * Exact when the space is quiet. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INVALID_PARAMETER. Thread-safe.
 */
TIDE_EXPORT tide_status tide_working_set_statistics_get(tide_space *space, tide_working_set_statistics *statistics);

/** One address and what is known of its page: PSAPI_WORKING_SET_EX_INFORMATION. */
typedef struct tide_working_set_entry {
    tide_address address; /**< in: any byte of the page */
    bool valid;           /**< resident in the working set, or a large page; if not, of the fields below only shared
                               and bad have a meaning and the others are 0 */
    bool shared;          /**< the page can be shared (a section's); with valid = false, that it could be */
    bool bad;             /**< its memory is bad (bad_memory.h): lost, and not valid; or valid while it is pinned */
    bool locked;
    bool large_page;
    uint8_t share_count; /**< PTEs that have the page, 7 at most; 1 for a private page */
    uint8_t priority;    /**< memory priority 0 to 7 */
    uint32_t protection; /**< TIDE_PAGE_ value */
    uint32_t node;
} tide_working_set_entry;

/**
 * Fills in `count` entries, whose addresses the caller has set: QueryWorkingSetEx. Faults nothing in. Addresses in no
 * region are not valid, and no error; so are pages whose fault is being resolved right now.
 * @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (entries is NULL and count is not 0, an address
 * past
 *   TIDE_HIGHEST_ADDRESS: nothing is filled in). Thread-safe.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_working_set_query(tide_space *space, tide_working_set_entry *entries,
                                                               size_t count);

/** Where a page is. */
typedef enum tide_page_state {
    TIDE_PAGE_STATE_FREE = 0,        /**< not reserved or not committed */
    TIDE_PAGE_STATE_DEMAND_ZERO = 1, /**< committed, never touched or discarded */
    TIDE_PAGE_STATE_ACTIVE = 2,      /**< in the working set */
    TIDE_PAGE_STATE_STANDBY = 3,
    TIDE_PAGE_STATE_MODIFIED = 4,
    TIDE_PAGE_STATE_TRANSITION = 5, /**< in memory, out of the working set, I/O or pins on it */
    TIDE_PAGE_STATE_PAGE_FILE = 6,
    TIDE_PAGE_STATE_BUSY = 7, /**< a fault is being resolved right now */
    TIDE_PAGE_STATE_LOST = 8  /**< committed, and its content was lost with a bad frame */
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

/** Kinds of use of a frame: RAMMap's rows, with the kernel's numbers for the first twelve. */
typedef enum tide_use {
    TIDE_USE_PROCESS_PRIVATE = 0,
    TIDE_USE_MAPPED_FILE = 1,
    TIDE_USE_SHAREABLE = 2, /**< sections backed by the page file */
    TIDE_USE_PAGE_TABLE = 3,
    TIDE_USE_PAGED_POOL = 4,
    TIDE_USE_NONPAGED_POOL = 5,
    TIDE_USE_SYSTEM_PTE = 6,
    TIDE_USE_SESSION_PRIVATE = 7,
    TIDE_USE_METAFILE = 8,
    TIDE_USE_AWE = 9,
    TIDE_USE_DRIVER_LOCKED = 10,
    TIDE_USE_KERNEL_STACK = 11,
    TIDE_USE_LARGE_PAGE = 12,
    TIDE_USE_UNUSED = 13 /**< all zeroed, free and bad frames */
} tide_use;
#define TIDE_USE_COUNT 14u

/** States of a frame: RAMMap's columns. */
typedef enum tide_frame_state {
    TIDE_FRAME_ACTIVE = 0,
    TIDE_FRAME_STANDBY = 1,
    TIDE_FRAME_MODIFIED = 2,
    TIDE_FRAME_MODIFIED_NO_WRITE = 3,
    TIDE_FRAME_TRANSITION = 4,
    TIDE_FRAME_ZEROED = 5,
    TIDE_FRAME_FREE = 6,
    TIDE_FRAME_BAD = 7
} tide_frame_state;
#define TIDE_FRAME_STATE_COUNT 8u

/** Frames by use and state, in pages. */
typedef struct tide_use_matrix {
    uint64_t cells[TIDE_USE_COUNT][TIDE_FRAME_STATE_COUNT];
    uint64_t row_totals[TIDE_USE_COUNT];
    uint64_t column_totals[TIDE_FRAME_STATE_COUNT];
    uint64_t total;
    uint64_t standby[8];    /**< Priority Summary: standby frames by priority, of the same scan */
    uint64_t repurposed[8]; /**< and how many were taken for other use since open */
} tide_use_matrix;

/**
 * Reads the whole PFN database, without a lock: RAMMap's Use Counts. Each frame is counted once, so the totals always
 * add up to all frames; each cell is exact when the engine is quiet. Rows whose use no frame can have yet are 0.
 * O(frames), about 1 ms for 4 GiB. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INVALID_PARAMETER. Thread-safe.
 */
TIDE_EXPORT tide_status tide_use_matrix_get(tide_engine *engine, tide_use_matrix *matrix);

/**
 * Writes the matrix as text: aligned columns in pages, the totals, the priority summary. As snprintf(): at most `bytes`
 * bytes with the final 0.
 * @return the length of the whole text without its final 0, which may be more than fits; 0 if matrix is NULL.
 */
TIDE_EXPORT size_t tide_use_matrix_print(const tide_use_matrix *matrix, char *buffer, size_t bytes);

/** RAMMap's name of a use ("Process Private") or "unknown"; never NULL. */
TIDE_EXPORT const char *tide_use_name(tide_use use);
/** RAMMap's name of a state ("Modified No-Write") or "unknown"; never NULL. */
TIDE_EXPORT const char *tide_frame_state_name(tide_frame_state state);

/** One frame: a line of RAMMap's Physical Pages. */
typedef struct tide_frame_info {
    tide_frame_state state;
    tide_use use;
    uint32_t node;
    uint32_t priority;
    uint32_t share_count;     /**< valid PTEs */
    uint32_t reference_count; /**< 1 for "shared at all", one for each I/O and pin */
    bool dirty;
    bool io_in_progress;
    uint64_t space;       /**< number of the owning space (tide_space_statistics.id); 0 if there is none */
    tide_address address; /**< address of the page; of a page table, the first address that it maps */
    unsigned table_level; /**< page tables only: 1 for a leaf, 4 for the root; else 0 */
    uint32_t page_file;   /**< page file and slot that hold a copy; slot 0 if none */
    uint64_t slot;
} tide_frame_info;

/**
 * Describes one frame. A record knows its PTE, not its space: the space and the address are derived by going from the
 * PTE's table to the entry that names it, up to the root, whose owner is looked up among the spaces; the way down again
 * confirms it. Frames that are being given away while this looks count as having no owner.
 * @param frame 0 up to the highest frame number; tide_frame_number_end() is one past that.
 * @return TIDE_SUCCESS; TIDE_INVALID_HANDLE; TIDE_INVALID_PARAMETER (NULL; number past the end or between two nodes).
 *   Thread-safe.
 */
TIDE_EXPORT tide_status tide_frame_query(tide_engine *engine, uint64_t frame, tide_frame_info *info);

/** One past the highest frame number; numbers between two nodes' frames may be unused. 0 for no engine. */
TIDE_EXPORT uint64_t tide_frame_number_end(tide_engine *engine);

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
 * nt-behaviour 32, and lets it go on. Reads all memory and the page files' contents of clean pages: slow, and where a
 * page file does not answer to reads, it and everybody waits until it does.
 * @param report may be NULL.
 * @return TIDE_SUCCESS if all hold; TIDE_IO_ERROR if a slot could not be read; TIDE_INVARIANT_VIOLATED otherwise.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_engine_verify(tide_engine *engine, tide_verify_report *report);

#ifdef __cplusplus
}
#endif
#endif

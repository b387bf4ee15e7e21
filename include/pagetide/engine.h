/**
 * @file The engine: a budget of memory, its page files and its workers. Opened once, shared by any number of spaces
 *   and threads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_ENGINE_H
#define PAGETIDE_ENGINE_H

#include <pagetide/status.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TIDE_PAGE_BYTES 4096u
#define TIDE_ALLOCATION_GRANULARITY_BYTES 65536u
#define TIDE_MAX_NODES 64u
#define TIDE_MAX_PAGE_FILES 16u
#define TIDE_NO_PREFERRED_NODE 0xFFFFFFFFu

typedef struct tide_engine tide_engine;

/**
 * One page file. The engine creates it, locks it, gives it its size and removes it at close. It grows when the commit
 * charge comes near its limit or a commit does not fit, and gives back what it does not use; see docs/architecture.md.
 */
typedef struct tide_page_file_config {
    const char *path;       /**< file to create; its folder must exist. An empty file, or a page file that no living
                                 engine has, is taken over, and removed at close as well */
    uint64_t minimum_bytes; /**< size at open, a multiple of the page size, at least two pages (slot 0 is a header) */
    uint64_t maximum_bytes; /**< size it may grow to; 0 means minimum_bytes */
} tide_page_file_config;

/** Kinds of page-file I/O that a filter sees. */
typedef enum tide_io_kind { TIDE_IO_READ = 0, TIDE_IO_WRITE = 1 } tide_io_kind;

/**
 * Called before each page-file I/O, on the thread that issues it and with no lock held. It may sleep: a slow device,
 * or one that does not answer.
 * Returns 0 to let the I/O happen or an errno value to make it fail without being issued. For tests, fault injection
 * and throttling.
 * @param file index in the configuration; @param slot first page of the file; @param pages length.
 */
typedef int tide_io_filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages);

/** How the background workers run. */
typedef enum tide_worker_mode {
    TIDE_WORKERS_THREADS = 0, /**< threads of the engine: one zero-page, writer and trimmer thread per node, and one
                                 page-file extender if a page file can grow; also a thread for each page file and
                                 node, so that a file which does not answer holds up nothing but its own pages */
    TIDE_WORKERS_MANUAL = 1   /**< no threads: the program calls tide_worker_step(); time is tide_clock_advance() */
} tide_worker_mode;

typedef enum tide_worker {
    TIDE_WORKER_ZERO_PAGE = 0,       /**< zero-page thread (nt-behaviour 12) */
    TIDE_WORKER_MODIFIED_WRITER = 1, /**< modified-page writer (14.1) */
    TIDE_WORKER_TRIMMER = 2,         /**< working-set trimmer, the balance-set manager (15.2) */
    TIDE_WORKER_EXTENDER = 3,        /**< page-file extender (14.2, 16); one for all nodes, whichever is named. A commit
                                        that does not fit extends by itself, held or not */
    TIDE_WORKER_COUNT = 4
} tide_worker;

/**
 * What an engine is made of. Fill with tide_config_init(), then change what you need. Zero in a tunable means its
 * default, which is given in brackets.
 */
typedef struct tide_config {
    size_t struct_bytes; /**< set by tide_config_init(); tells the library which version you compiled */
    uint64_t
        memory_bytes; /**< budget over all nodes, a multiple of the page size; split evenly over nodes with memory, and
                         what a smaller node cannot give over the others */
    const uint64_t *node_bytes;     /**< instead of memory_bytes: the budget of each node; NULL for an even split */
    unsigned node_count;            /**< entries in node_bytes */
    const char *topology_synthetic; /**< hwloc synthetic description ("numa:4 core:2 pu:1"); NULL for this machine */
    const char *topology_xml;       /**< hwloc XML file; NULL for this machine. Frames are bound only on this machine */
    const tide_page_file_config *page_files;
    unsigned page_file_count; /**< 0 to TIDE_MAX_PAGE_FILES; 0 means that dirty pages stay in memory */
    tide_worker_mode workers;
    tide_io_filter *io_filter; /**< NULL for none */
    void *io_filter_context;
    bool start_free;               /**< frames start on the free list and not on the zeroed one (tests) */
    bool disable_io_uring;         /**< use plain pwritev/preadv although io_uring is there */
    bool disable_direct_io;        /**< open page files without O_DIRECT */
    bool memory_on_demand;         /**< frames get memory when they are first used, not at open, and no huge pages: for
                                        engines whose spaces are mapped [false] */
    bool disable_huge_pages;       /**< do not ask the host for huge pages behind the frames */
    bool prefer_local_standby;     /**< repurpose local standby before other nodes' free and zeroed frames [false] */
    unsigned cluster_pages;        /**< most pages in one clustered read or write, 1 to 64 [16] */
    bool keep_page_order;          /**< write every page beside its neighbours' copies, so that later scans read them
                                        together. Else, while page reads are random, pages without neighbours in memory
                                        are written together, wherever there is room: many small writes become one
                                        [false] */
    unsigned list_shards;          /**< shards of each page list, a power of two, 1 to 64 [by size and CPUs] */
    unsigned cpu_cache_pages;      /**< frames moved by one refill of a CPU's cache, 1 to 64, or
                                       TIDE_NO_CPU_CACHE for none [32, less in small engines] */
    unsigned writer_reserve_pages; /**< frames per node kept for the writers [up to 8, none in tiny engines] */
    unsigned zero_trigger_pages;   /**< free pages that wake the zero-page thread [8] */
    uint64_t low_available_pages;  /**< per node: below this the trimmer is woken [frames / 32, and no more than high] */
    uint64_t high_available_pages; /**< per node: trimmer's and writer's goal [2 x low] */
    uint64_t modified_trigger_pages; /**< per node: modified pages that wake the writer early [frames / 8] */
    unsigned frame_wait_ms;          /**< longest wait of a fault for a frame before TIDE_TIMEOUT; a fault by plain
                                        pointer in a mapped space waits on while there is hope [30000] */
    unsigned trimmer_period_ms;      /**< period of ageing [1000, the balance set manager's second] */
    uint64_t aslr_seed;              /**< of the random addresses of regions: the same seed gives the same addresses to
                                       the same calls [drawn from the operating system at each open] */
    bool disable_aslr;               /**< regions are placed from the lowest address up [false] */

    /** Memory events (events.h), over all nodes: below this many available pages low memory is set [frames / 32 up to
     * 1 GiB, then a 128th of the rest, 64 MiB at most] */
    uint64_t low_memory_event_pages;
    /** from this many available pages on high memory is set [3 x low] */
    uint64_t high_memory_event_pages;
    /** below this share of the commit limit low commit is set [50] */
    unsigned low_commit_event_percent;
    /** from this share on high commit is set; of the limit with all page files at their maximum, maximum commit [90] */
    unsigned high_commit_event_percent;
    uint64_t page_file_growth_pages; /**< step by which a page file grows, or more if a commit needs more [1/16 of what
                                        it may grow in all, at least 256] */
    unsigned page_file_shrink_delay_ms; /**< how long the commit charge must be low before page files shrink [10000] */
    bool handle_memory_errors; /**< listen to SIGBUS for memory of this engine that goes bad, and go on after it; see
                                  docs/bad-memory.md [false] */
} tide_config;

#define TIDE_NO_CPU_CACHE 0xFFFFFFFFu

/** Sets every field to its default; memory_bytes is left 0 and must be set. */
TIDE_EXPORT void tide_config_init(tide_config *config);

/**
 * Opens an engine: discovers the nodes, takes the memory for good, creates the page files, starts the workers. All or
 * nothing: after a failure nothing is left in memory or on disk.
 *
 * @return TIDE_SUCCESS; TIDE_INVALID_PARAMETER (a size, count or tunable outside its range, a node that does not
 *   exist); TIDE_NO_MEMORY (budget larger than the machine's or node's memory); TIDE_DISK_FULL; TIDE_IO_ERROR
 *   (page file cannot be created); TIDE_SHARING_VIOLATION (page file of a living engine);
 *   TIDE_OBJECT_NAME_COLLISION (path holds something that is no page file); TIDE_INSUFFICIENT_RESOURCES.
 *   tide_last_error()->message names the value and the limit.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_engine_open(const tide_config *config, tide_engine **engine);

/**
 * Stops the workers, removes the page files and gives the memory back. No other thread may be in a call on the engine.
 * Waits for writes that are under way, however long their page file takes to answer.
 * @return TIDE_SUCCESS; TIDE_DEVICE_BUSY while spaces are open (nothing changes); TIDE_INVALID_HANDLE.
 */
TIDE_EXPORT tide_status tide_engine_close(tide_engine *engine);

/**
 * Holds a kind of worker on all nodes (policy threads paused, nt-behaviour 0), or lets it go on. Returns after a
 * running step has ended. Holds do not nest.
 */
TIDE_EXPORT tide_status tide_worker_hold(tide_engine *engine, tide_worker worker, bool hold);

/**
 * Runs bounded work of one worker on one node on the calling thread, whatever the mode and hold.
 * @param budget_pages most pages to handle; 0 means no bound.
 * @param[out] done_pages pages zeroed, written, trimmed, or by which page files grew or shrank; may be NULL. Where a
 *   page file took longer than 100 ms, its pages are counted by a later step than the one that took them.
 * @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER, TIDE_INVALID_HANDLE; TIDE_IO_ERROR if a write failed (the pages stay
 *   modified).
 */
TIDE_EXPORT tide_status tide_worker_step(tide_engine *engine, tide_worker worker, unsigned node, uint64_t budget_pages,
                                         uint64_t *done_pages);

/** Advances the virtual clock of an engine with TIDE_WORKERS_MANUAL. One pass of ageing is due per trimmer period. */
TIDE_EXPORT tide_status tide_clock_advance(tide_engine *engine, uint64_t milliseconds);

/** What tide_engine_empty() empties (RAMMap's Empty menu). */
typedef enum tide_empty {
    TIDE_EMPTY_WORKING_SETS = 0, /**< every page of every working set, to modified or standby */
    TIDE_EMPTY_MODIFIED = 1,     /**< writes every modified page; needs a page file with room. Waits for a page file as
                                      long as it goes on writing; with TIDE_WORKERS_THREADS for at most a second in
                                      which it has written nothing, and what it was given is then still under write */
    TIDE_EMPTY_STANDBY = 2,      /**< repurposes every standby page to the free list */
    TIDE_EMPTY_STANDBY_LOWEST = 3, /**< the same for priority 0 only */
    TIDE_EMPTY_FREE = 4            /**< zeroes every free frame (so that all are at hand for demand zero) */
} tide_empty;

/**
 * Empties lists on all nodes, on the calling thread. Pages that an open access section may still point to stay; the
 * statistics show what is left.
 * @return TIDE_SUCCESS, TIDE_INVALID_PARAMETER, TIDE_INVALID_HANDLE, TIDE_IO_ERROR.
 */
TIDE_EXPORT tide_status tide_engine_empty(tide_engine *engine, tide_empty what);

#ifdef __cplusplus
}
#endif
#endif

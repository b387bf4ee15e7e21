/*
 * What the tests of the fault path and of the workers share: an engine without threads, whose page-file I/O goes
 * through a device that notes every operation and fails or stops those that the test names.
 *
 * The engine has no CPU caches and one shard per list, so that each frame is on the list that one expects.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_FAULTS_SUPPORT_H
#define UNIT_FAULTS_SUPPORT_H

#include "base/random.h"
#include "engine/engine_impl.h"
#include "frames/frames_impl.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { PAGE = TIDE_PAGE_BYTES, DEVICE_NOTES_MAX = 512 };

struct io_note {
    tide_io_kind kind;
    uint64_t slot;
    unsigned pages;
};

struct device {
    pthread_mutex_t lock; /* protects all below */
    pthread_cond_t moved;
    bool held[2];                           /* operations of a kind stop before the device */
    unsigned waiting[2];                    /* those that do */
    int error;                              /* errno of those that fail, 0: none does */
    tide_io_kind error_kind;                /* only these, */
    unsigned error_pages;                   /* of more pages than this, */
    uint64_t error_slot;                    /* that cover this slot; 0: any */
    unsigned errors_left;                   /* so many of them */
    struct io_note notes[DEVICE_NOTES_MAX]; /* every operation asked for, in order */
    unsigned count;
};

struct scene {
    tide_config config;
    tide_page_file_config file;
    char folder[256];
    char path[300];
    struct device device;
    tide_engine *engine;
    struct partition *partition;
    struct frames *frames;
};

/* For cmocka_unit_test_setup_teardown(): a configuration and a folder for the page file. */
int scene_setup(void **state);
int scene_teardown(void **state);
#define SCENE_TEST(name) cmocka_unit_test_setup_teardown(name, scene_setup, scene_teardown)
/* Opens with so many frames, and one page file of so many usable slots unless that is 0. */
void scene_open(struct scene *scene, uint64_t frames, uint64_t slots);
/* Verifies, destroys the spaces, verifies again, closes. */
void scene_close(struct scene *scene);
void scene_verify(struct scene *scene);

tide_space *space_new(struct scene *scene);
/* Reserves and commits `pages` pages from page `first` (a multiple of 16) on. Returns the address. */
tide_address region_new(tide_space *space, uint64_t first, uint64_t pages);
void decommit(tide_space *space, tide_address base, uint64_t pages);

/* The PTE of an address whose table there is. */
uint64_t *pte_at(const tide_space *space, tide_address address);
tide_page_info page_now(tide_space *space, tide_address address);
void assert_state(tide_space *space, tide_address address, tide_page_state state);
/* The word of the frame that holds a page. */
uint64_t word_at(const tide_space *space, tide_address address);
tide_fault_counters faults_of(tide_space *space);
tide_statistics statistics_now(const struct scene *scene);
struct frames_counts counts_now(const struct scene *scene);
uint64_t slots_used(const struct scene *scene);

/* Fails with the names of both statuses. */
void assert_status_is(tide_status got, tide_status expected, int line);
#define assert_status(call, expected) assert_status_is((call), (expected), __LINE__)
void touch(tide_space *space, tide_address address, tide_access_kind kind, tide_status expected);
/* Fills each page with its address, and expects just that in it. */
void stamp(tide_space *space, tide_address base, uint64_t pages);
void check_stamps(tide_space *space, tide_address base, uint64_t pages);

/* Takes one valid page out of the working set; all others must have been accessed. */
void trim_page(tide_space *space, tide_address address);
uint64_t writer_run(struct scene *scene, uint64_t budget, tide_status expected);
/* Stamped pages go to the page file, in consecutive slots if these are free, and out of memory. */
void page_out(struct scene *scene, tide_space *space);

/* ---- the device ------------------------------------------------------------------------------------------------- */

void device_fail(struct device *device, tide_io_kind kind, int error, unsigned more_than_pages, uint64_t slot,
                 unsigned times);
void device_hold(struct device *device, tide_io_kind kind, bool hold);
/* Returns once an operation stands before the held device. */
void device_wait_held(struct device *device, tide_io_kind kind);
void device_forget(struct device *device);
/* The lengths of the operations of a kind since the last device_forget(); 0 ends the list. */
void assert_lengths_are(const struct device *device, tide_io_kind kind, int line, const unsigned *lengths);
#define assert_lengths(device, kind, ...)                                                                              \
    assert_lengths_are((device), (kind), __LINE__, (const unsigned[]){ __VA_ARGS__, 0 })

/* ---- one more thread -------------------------------------------------------------------------------------------- */

/* A thread that touches a page, or runs a writer step (space NULL). */
struct helper {
    pthread_t thread;
    struct scene *scene;
    tide_space *space;
    tide_address address;
    tide_access_kind kind;
    tide_status status;
    uint64_t done;
};

void helper_start(struct helper *helper);
void helper_join(struct helper *helper);
/* Returns once somebody waits for a busy PTE. */
void wait_until_waited_for(const uint64_t *pte);

#endif

/*
 * What the API tests share. They see the public headers only, so that each is also a program that a user could write.
 *
 * A test gets a fixture: a configuration, a folder of its own for page files, and a simulated device behind all page-
 * file I/O. It changes the configuration, opens the engine with fixture_open(), and ends with fixture_close(), which
 * is a test of its own: the whole engine is verified, every space is destroyed, charge, tables and slots must be back
 * at what they were at open, and the folder must be empty once the engine is closed. The teardown cleans up after a
 * test that failed half way; its engine is left to the process, since threads of the test may still be inside.
 *
 * How figures are exact. The fixture's configuration has no background threads (TIDE_WORKERS_MANUAL), no CPU caches
 * and one shard per list, so that every frame is on the list that the behaviour sheet names. Frames used as page
 * tables are measured, never assumed.
 *
 * cmocka's asserts work on the main thread only: threads of a test are a crew, whose members note their first failure
 * (CREW_CHECK), which crew_join() then asserts.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_API_SUPPORT_H
#define TESTS_API_SUPPORT_H

#include <pagetide/pagetide.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

enum { PG = TIDE_PAGE_BYTES, DEVICE_ALWAYS = 0x7FFFFFFF, FIXTURE_SPACES = 64, SUPPORT_SKIPPED = 77 };

/* ---- the simulated device --------------------------------------------------------------------------------------- */

/* Behind every page-file I/O of a fixture: counts it, and holds it, slows it or makes it fail as the test says. */
struct device {
    atomic_ulong operations[2][TIDE_MAX_PAGE_FILES]; /* by tide_io_kind and file; failed ones are not counted */
    atomic_ulong pages[2][TIDE_MAX_PAGE_FILES];
    atomic_uint delay_us[2][TIDE_MAX_PAGE_FILES];
    pthread_mutex_t lock; /* protects all below */
    pthread_cond_t moved;
    uint32_t held[2];     /* files whose operations stand before the device, by bits */
    unsigned waiting[2];  /* operations that do */
    int error[2];         /* errno to fail with */
    unsigned skip[2];     /* operations let through before the failures */
    unsigned failures[2]; /* operations left to fail; DEVICE_ALWAYS for all */
    unsigned failed[2];   /* operations failed so far */
    struct {
        tide_io_kind kind;
        int error;            /* 0: nothing is worn */
        unsigned skip;        /* operations until the slots are known */
        unsigned offset;      /* of the worn slots in the operation that names them */
        unsigned file, count; /* count: slots */
        uint64_t first;       /* 0: not known yet */
    } worn;
};

/* Operations of a kind stop before the device from now on, or go on. */
void device_hold(struct device *device, tide_io_kind kind, bool hold);
/* The same for one page file. */
void device_hold_file(struct device *device, tide_io_kind kind, unsigned file, bool hold);
/* Waits until `count` operations of a kind stand before the held device. */
void device_wait_held(struct device *device, tide_io_kind kind, unsigned count);
/* After `skip` more operations of a kind, the next `count` fail with `error`. */
void device_fail(struct device *device, tide_io_kind kind, int error, unsigned skip, unsigned count);
unsigned device_failed(struct device *device, tide_io_kind kind);
/*
 * Slots wear out: after `skip` more operations of a kind, `count` slots of the next one, from its slot number `offset`
 * on, are bad. Every operation of the kind that covers one fails with `error` (0: no slot is bad any more).
 */
void device_wear(struct device *device, tide_io_kind kind, int error, unsigned skip, unsigned offset, unsigned count);

/* ---- the fixture ------------------------------------------------------------------------------------------------ */

struct fixture {
    tide_config config;
    tide_page_file_config files[TIDE_MAX_PAGE_FILES];
    char paths[TIDE_MAX_PAGE_FILES][320];
    char folder[256];
    struct device device;
    tide_engine *engine;
    tide_space *spaces[FIXTURE_SPACES]; /* open ones, destroyed by fixture_close() */
    tide_statistics at_open;
};

int fixture_setup(void **state);
int fixture_teardown(void **state);
#define API_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

/* Adds a page file of so many usable pages; before fixture_open(). */
void fixture_page_file(struct fixture *fixture, uint64_t usable_pages);
/* The same, of a file that may grow to `maximum_pages`. */
void fixture_page_file_growing(struct fixture *fixture, uint64_t usable_pages, uint64_t maximum_pages);
void fixture_open(struct fixture *fixture, uint64_t frames);
/* Verifies, destroys the spaces left, checks that nothing is left charged, used or on disk, closes. */
void fixture_close(struct fixture *fixture);
/* tide_engine_verify() now. */
void fixture_verify(struct fixture *fixture);

/*
 * TIDE_TEST_SPACES=mapped: the same test on mapped spaces, those of space_new(), without clustering, so that figures
 * are exact there too; and stamps are checked by plain loads. A test of what mapped spaces have not, or have otherwise,
 * says so first.
 */
bool support_mapped(void);
#define SOFT_SPACES_ONLY(reason)                                                                                       \
    do {                                                                                                               \
        if (support_mapped()) {                                                                                        \
            print_message("skipped: soft spaces only: %s\n", (reason));                                                \
            skip();                                                                                                    \
        }                                                                                                              \
    } while (0)
/* Why. */
#define ONLY_SECTION "an address of a mapped space is a pointer, whose page may go and come back"
#define ONLY_ADDR "the test writes its addresses down, or has one in two spaces"
#define ONLY_PIN "a pinned page of a mapped space stays in the working set, and goes when it is deleted"
#define ONLY_BAD "the memory of a mapped space lies in no frame, so the system tells of bad memory, not a frame"
#define ONLY_LARGE "mapped spaces have no large pages"
#define ONLY_CLUSTERS "a mapped space reads neighbours only once a scan is plain"
#define ONLY_ZERO "a frame of a mapped space is unused or not: nothing is zeroed ahead"
#define ONLY_BATCH "standby pages of mapped spaces that lie together are let go together"
#define ONLY_AGE "a mapped space ages more rarely, since a page that ages is hidden"
#define ONLY_TABLE "a window begins anywhere in its tables"
#define ONLY_ASLR "the window lies where the system puts it"
tide_space *space_new(struct fixture *fixture);
/* An address of a soft space, in a mapped one as far from its lowest. */
tide_address space_at(const tide_space *space, tide_address address);
void space_close(struct fixture *fixture, tide_space *space);
/* Reserves and commits so many pages, read and write. */
tide_address region_new(tide_space *space, uint64_t pages);
/* The same at an address. */
tide_address region_new_at(tide_space *space, tide_address base, uint64_t pages);
void region_decommit(tide_space *space, tide_address base, uint64_t pages);

/* Runs main() of a test program: all tests, or those whose name matches a pattern given as argument or in
 * TIDE_TEST_FILTER; or lists them (--list). Returns 0, 1 if any failed, or SUPPORT_SKIPPED. */
int support_main(int argc, char **argv, const char *group, const struct CMUnitTest *tests, size_t count);
#define API_MAIN(tests)                                                                                                \
    int main(int argc, char **argv)                                                                                    \
    {                                                                                                                  \
        return support_main(argc, argv, #tests, tests, sizeof(tests) / sizeof((tests)[0]));                            \
    }
/* The same of tests that are about mapped spaces alone: skipped where these are not permitted. */
#define API_MAIN_MAPPED(tests)                                                                                         \
    int main(int argc, char **argv)                                                                                    \
    {                                                                                                                  \
        if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {                                                 \
            print_message("skipped: %s\n", tide_last_error()->message);                                                \
            return SUPPORT_SKIPPED;                                                                                    \
        }                                                                                                              \
        return support_main(argc, argv, #tests, tests, sizeof(tests) / sizeof((tests)[0]));                            \
    }

/* ---- plain pointers --------------------------------------------------------------------------------------------- */

/* Before the library has its handler, which is to pass on to this one; fixture_open() does it for the second run. */
void pointer_signals_take(void);
/* A load or store of a byte. 0; or the signal that it got, or -1 if that named another address. */
int pointer_try(volatile char *at, bool write, char *byte);

/* ---- statuses and figures --------------------------------------------------------------------------------------- */

/* Fails with the names of both statuses and the text of the last error. */
void support_assert_status(tide_status got, tide_status expected, const char *call, const char *file, int line);
#define assert_status(call, expected) support_assert_status((call), (expected), #call, __FILE__, __LINE__)
#define assert_success(call) assert_status(call, TIDE_SUCCESS)

/* lower <= value <= upper, with the figures printed. */
void support_assert_between(uint64_t value, uint64_t lower, uint64_t upper, const char *what, const char *file,
                            int line);
#define assert_between(value, lower, upper)                                                                            \
    support_assert_between((value), (lower), (upper), #value, __FILE__, __LINE__)

tide_statistics statistics_now(const struct fixture *fixture);
tide_page_file_statistics page_file_now(const struct fixture *fixture, unsigned index);
tide_node_statistics node_now(const struct fixture *fixture, unsigned node);
tide_space_statistics space_now(tide_space *space);
tide_page_info page_now(tide_space *space, tide_address address);
/* Pages of a range in a state. */
uint64_t pages_in_state(tide_space *space, tide_address base, uint64_t pages, tide_page_state state);
uint64_t standby_pages(const tide_node_statistics *node);
/* All states of a node together: must be node->frames (I1). */
uint64_t node_sum(const tide_node_statistics *node);

/* ---- moving pages ----------------------------------------------------------------------------------------------- */

/* Touches each page of a range in order, each with the expected class of fault. */
void touch_pages(tide_space *space, tide_address base, uint64_t pages, tide_access_kind kind, tide_status expected);
void trim_all(tide_space *space);             /* every page out of the working set */
void write_modified(struct fixture *fixture); /* every modified page to the page files, and so to standby */
void empty_standby(struct fixture *fixture);  /* every standby page to the free list */
void zero_free(struct fixture *fixture);      /* every free page to the zeroed list */
/* The three above in a row: pages of the space are then in the page file only. */
void page_out(struct fixture *fixture, tide_space *space);
/* Touches fresh pages from `next` on (advanced) until zeroed + free of all nodes are down to `left`. */
void consume_frames(struct fixture *fixture, tide_space *space, tide_address *next, uint64_t left);

/* ---- stamps ----------------------------------------------------------------------------------------------------- */

/* Fills a page with 512 words made of (owner, address, version), or checks that exactly these are there. */
void stamp_fill(void *page, uint64_t owner, tide_address address, uint64_t version);
bool stamp_matches(const void *page, uint64_t owner, tide_address address, uint64_t version);
tide_status stamp_put(tide_space *space, tide_address address, uint64_t owner, uint64_t version);
/* TIDE_SUCCESS, the status of the read, or TIDE_INVARIANT_VIOLATED if something else is in the page. */
tide_status stamp_check(tide_space *space, tide_address address, uint64_t owner, uint64_t version);
/* All pages of a range. */
void stamp_pages(tide_space *space, tide_address base, uint64_t pages, uint64_t owner, uint64_t version);
void check_pages(tide_space *space, tide_address base, uint64_t pages, uint64_t owner, uint64_t version);

uint64_t random_step(uint64_t *state); /* splitmix64 */
/* A permutation of 0 .. count - 1, to be freed. */
uint64_t *random_order(uint64_t count, uint64_t seed);

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct crew;

struct crew_member {
    unsigned index;
    void *context;
    struct crew *crew;
    atomic_int tid;
    atomic_bool entered; /* set by the member just before the call that is to sleep; see crew_wait_asleep() */
    atomic_bool done;
    char failure[400];
};

typedef void crew_function(struct crew_member *member);

/* Threads that start together. */
struct crew *crew_start(unsigned count, crew_function *function, void *context);
/* Waits until each member has ended or has set `entered` and sleeps in the kernel since. */
void crew_wait_asleep(struct crew *crew);
/* Waits for all to end, and asserts that none failed. */
void crew_join(struct crew *crew);
/* Both. */
void crew_run(unsigned count, crew_function *function, void *context);
struct crew_member *crew_member_get(struct crew *crew, unsigned index);
/* All members meet. */
void crew_barrier(struct crew_member *member);
/* Notes a failure and ends the member. A member that meets others at barriers must go on: it uses CREW_NOTE. */
void crew_failure(struct crew_member *member, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
#define CREW_NOTE(member, condition)                                                                                   \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            crew_failure((member), __FILE__, __LINE__, "%s; last error: %s", #condition, tide_last_error()->message);  \
    } while (0)
#define CREW_CHECK(member, condition)                                                                                  \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            crew_failure((member), __FILE__, __LINE__, "%s; last error: %s", #condition, tide_last_error()->message);  \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

void sleep_ms(unsigned milliseconds);

#endif

/*
 * Real poisoned memory: pages of an engine's arena are made bad by the kernel (MADV_HWPOISON), and the engine is to go
 * on.
 *
 * The poisoning is done by a child of fork(), which shares the page: so the parent learns of it as of an error that the
 * hardware found, and not by a signal for the call itself. A thread that listens (early kill) gets BUS_MCEERR_AO;
 * without one nobody is told before somebody uses the page, and that is BUS_MCEERR_AR.
 *
 * Stand-alone: run it as root on a kernel with CONFIG_MEMORY_FAILURE, such as that of tests/numa/guest.sh. What it
 * poisons is lost to the machine until it is booted again, a few pages. Exit status 0 pass, 1 fail, 77 skipped with a
 * reason.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <pagetide/pagetide.h>

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PG = TIDE_PAGE_BYTES, FRAMES = 2048, SLOTS = 1024, PAGES = 16, WAIT_MS = 20000 };

static const char *scene; /* what is being tried */
static char folder[256];

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "FAIL: %s: line %d: %s; last error: %s: %s\n", scene, __LINE__, #condition,                \
                    tide_status_name(tide_last_error()->status), tide_last_error()->message);                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK((call) == TIDE_SUCCESS)

/* Makes the page bad. 0, or the errno of the refusal. */
static int poison(void *page)
{
    int ended = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        (void)signal(SIGBUS, SIG_DFL); /* may come for the call: then it has worked */
        _exit(madvise(page, PG, MADV_HWPOISON) == 0 ? 0 : errno);
    }
    CHECK(child > 0 && waitpid(child, &ended, 0) == child);
    return WIFSIGNALED(ended) ? (WTERMSIG(ended) == SIGBUS ? 0 : EINTR) : WEXITSTATUS(ended);
}

/* ---- an engine and stamped pages -------------------------------------------------------------------------------- */

struct bench {
    tide_engine *engine;
    tide_space *space;
    tide_address base;
    char path[320];
};

static void fill(char *page, tide_address address, unsigned version)
{
    for (unsigned i = 0; i < PG / 8; i++)
        ((uint64_t *)(void *)page)[i] = address * 2654435761u + ((uint64_t)version << 32) + i;
}

static tide_status put(const struct bench *bench, unsigned page, unsigned version)
{
    char data[PG];
    fill(data, bench->base + (tide_address)page * PG, version);
    return tide_write(bench->space, bench->base + (tide_address)page * PG, data, PG);
}

static bool holds(const struct bench *bench, unsigned page, unsigned version)
{
    char data[PG], expected[PG];
    fill(expected, bench->base + (tide_address)page * PG, version);
    return tide_read(bench->space, bench->base + (tide_address)page * PG, data, PG) == TIDE_SUCCESS &&
           memcmp(data, expected, PG) == 0;
}

static void open_bench(struct bench *bench, const char *name, tide_worker_mode mode, bool huge)
{
    static unsigned number;
    tide_config config;
    uint64_t bytes = PAGES * PG;

    scene = name;
    printf("%s%s\n", name, huge ? ", huge pages" : "");
    memset(bench, 0, sizeof *bench);
    snprintf(bench->path, sizeof bench->path, "%s/pagefile-%u", folder, number++);
    const tide_page_file_config file = { .path = bench->path, .minimum_bytes = (SLOTS + 1) * PG };
    tide_config_init(&config);
    config.memory_bytes = (uint64_t)FRAMES * PG;
    config.page_files = &file;
    config.page_file_count = 1;
    config.workers = mode;
    config.disable_huge_pages = !huge;
    config.handle_memory_errors = true;
    OK(tide_engine_open(&config, &bench->engine));
    OK(tide_space_create(bench->engine, &bench->space));
    OK(tide_virtual_alloc(bench->space, &bench->base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    for (unsigned page = 0; page < PAGES; page++)
        OK(put(bench, page, 1));
}

static tide_statistics figures(const struct bench *bench)
{
    tide_statistics statistics = { .struct_bytes = sizeof statistics };
    OK(tide_statistics_get(bench->engine, &statistics));
    return statistics;
}

static void close_bench(struct bench *bench, uint64_t bad, uint64_t lost)
{
    tide_verify_report report;
    const tide_statistics now = figures(bench);
    if (now.bad_pages != bad || now.pages_lost != lost || now.bad_pages_pending != 0) {
        fprintf(stderr, "FAIL: %s: %lu bad, %lu pending, %lu lost; expected %lu, 0, %lu\n", scene, now.bad_pages,
                now.bad_pages_pending, now.pages_lost, bad, lost);
        exit(1);
    }
    CHECK(now.page_file_bad_slots == 0);
    CHECK(tide_engine_verify(bench->engine, &report) == TIDE_SUCCESS);
    OK(tide_space_destroy(bench->space));
    OK(tide_engine_close(bench->engine));
}

static void *memory_of(const struct bench *bench, unsigned page)
{
    tide_access access;
    OK(tide_access_begin(bench->space, &access));
    void *pointer = tide_access_pointer(&access, bench->base + (tide_address)page * PG, TIDE_ACCESS_READ);
    CHECK(pointer != NULL);
    tide_access_end(&access);
    return pointer;
}

static void make_clean(const struct bench *bench)
{
    OK(tide_working_set_empty(bench->space));
    do /* worker threads may hold the grace period back for a moment */
        OK(tide_engine_empty(bench->engine, TIDE_EMPTY_MODIFIED));
    while (figures(bench).modified_pages + figures(bench).transition_pages != 0);
}

static bool is_lost(const struct bench *bench, unsigned page)
{
    char byte;
    const tide_status status = tide_read(bench->space, bench->base + (tide_address)page * PG, &byte, 1);
    return status == TIDE_IN_PAGE_ERROR && tide_last_error()->io_error == EHWPOISON;
}

/* Every page but `but` holds version 1. */
static void check_others(const struct bench *bench, unsigned but)
{
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(page == but || holds(bench, page, 1));
}

/* ---- the scenes ------------------------------------------------------------------------------------------------- */

static void wait_bad(const struct bench *bench, uint64_t bad)
{
    const struct timespec moment = { .tv_nsec = 1000000 };
    for (unsigned i = 0; i < WAIT_MS && figures(bench).bad_pages < bad; i++)
        nanosleep(&moment, NULL);
}

/* A thread of the engine is told, and nobody has to touch the page. */
static void told_before_use(bool huge)
{
    struct bench bench;
    open_bench(&bench, "action optional", TIDE_WORKERS_THREADS, huge);
    CHECK(poison(memory_of(&bench, 3)) == 0);
    wait_bad(&bench, 1);
    CHECK(figures(&bench).bad_pages == 1);
    CHECK(is_lost(&bench, 3));
    OK(put(&bench, 3, 2));
    CHECK(holds(&bench, 3, 2));
    check_others(&bench, 3);
    OK(put(&bench, 3, 1));
    make_clean(&bench);
    void *clean = memory_of(&bench, 5);
    CHECK(poison(clean) == 0);
    wait_bad(&bench, 2);
    CHECK(figures(&bench).bad_pages == 2);
    check_others(&bench, PAGES); /* read again from its slot */
    close_bench(&bench, 2, 1);
}

/* Nobody is told until the engine itself reads the page. */
static void found_by_a_copy(bool huge)
{
    struct bench bench;
    open_bench(&bench, "action required, in tide_read() and tide_write()", TIDE_WORKERS_MANUAL, huge);
    CHECK(poison(memory_of(&bench, 2)) == 0);
    CHECK(is_lost(&bench, 2));
    CHECK(is_lost(&bench, 2));
    OK(put(&bench, 2, 1));
    CHECK(poison(memory_of(&bench, 4)) == 0);
    OK(put(&bench, 4, 1)); /* the whole page: nothing is missed */
    check_others(&bench, PAGES);
    make_clean(&bench);
    CHECK(poison(memory_of(&bench, 6)) == 0);
    check_others(&bench, PAGES);
    close_bench(&bench, 3, 2);
}

static void found_by_the_writer(void)
{
    struct bench bench;
    open_bench(&bench, "the writer", TIDE_WORKERS_MANUAL, false);
    void *memory = memory_of(&bench, 7);
    OK(tide_working_set_empty(bench.space));
    CHECK(poison(memory) == 0);
    OK(tide_engine_empty(bench.engine, TIDE_EMPTY_MODIFIED));
    CHECK(figures(&bench).pages_output == PAGES - 1);
    CHECK(is_lost(&bench, 7));
    check_others(&bench, 7);
    close_bench(&bench, 1, 1);
}

static void found_by_zeroing(void)
{
    struct bench bench;
    open_bench(&bench, "zeroing, by faults and by the zero-page thread", TIDE_WORKERS_MANUAL, false);
    void *first = memory_of(&bench, 8), *second = memory_of(&bench, 9);
    OK(tide_virtual_free(bench.space, bench.base + 8 * PG, PG, TIDE_MEM_DECOMMIT));
    CHECK(poison(first) == 0);
    OK(tide_engine_empty(bench.engine, TIDE_EMPTY_FREE));
    CHECK(figures(&bench).bad_pages == 1);
    OK(tide_virtual_free(bench.space, bench.base + 9 * PG, PG, TIDE_MEM_DECOMMIT));
    CHECK(poison(second) == 0);
    tide_space *other;
    tide_address at = 0;
    uint64_t bytes = (uint64_t)FRAMES * PG;
    OK(tide_space_create(bench.engine, &other));
    OK(tide_virtual_alloc(other, &at, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    OK(tide_touch_range(other, at, bytes, TIDE_ACCESS_WRITE));
    OK(tide_space_destroy(other));
    OK(tide_worker_step(bench.engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    for (unsigned page = 0; page < PAGES; page++)
        CHECK(page == 8 || page == 9 || holds(&bench, page, 1));
    close_bench(&bench, 2, 0);
}

static void found_by_a_page_read(void)
{
    struct bench bench;
    open_bench(&bench, "a page read", TIDE_WORKERS_MANUAL, false);
    void *memory = memory_of(&bench, 1);
    make_clean(&bench);
    OK(tide_engine_empty(bench.engine, TIDE_EMPTY_STANDBY));
    CHECK(poison(memory) == 0); /* a free frame now, among those that are read into first */
    check_others(&bench, PAGES);
    OK(tide_engine_empty(bench.engine, TIDE_EMPTY_FREE)); /* if it was not that one: it is zeroed here */
    close_bench(&bench, 1, 0);
}

static sigjmp_buf out;
static volatile sig_atomic_t calls;

static void on_bus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    calls++;
    siglongjmp(out, 1);
}

static void found_by_the_program(void)
{
    struct bench bench;
    struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO }, before;
    CHECK(sigaction(SIGBUS, &action, &before) == 0);
    open_bench(&bench, "the program's own access", TIDE_WORKERS_MANUAL, false);
    tide_access access;
    OK(tide_access_begin(bench.space, &access));
    volatile char *pointer = tide_access_pointer(&access, bench.base, TIDE_ACCESS_WRITE);
    CHECK(pointer != NULL);
    CHECK(poison((void *)(uintptr_t)pointer) == 0);
    if (sigsetjmp(out, 1) == 0) {
        *pointer = 1;
        CHECK(!"poisoned memory was written");
    }
    tide_access_end(&access);
    CHECK(calls == 1);
    OK(tide_worker_step(bench.engine, TIDE_WORKER_TRIMMER, 0, 0, NULL));
    CHECK(is_lost(&bench, 0));
    check_others(&bench, 0);
    close_bench(&bench, 1, 1);
    CHECK(sigaction(SIGBUS, &before, NULL) == 0);
}

int main(void)
{
    const char *parent = getenv("TMPDIR");
    void *page = mmap(NULL, PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    scene = "the first page";
    CHECK(page != MAP_FAILED);
    memset(page, 1, PG);
    const int refused = poison(page);
    if (refused != 0) {
        printf("SKIPPED: MADV_HWPOISON: %s (it needs CAP_SYS_ADMIN and a kernel with CONFIG_MEMORY_FAILURE)\n",
               strerror(refused));
        return 77;
    }
    snprintf(folder, sizeof folder, "%s/tide-hwpoison-XXXXXX", parent != NULL && *parent != '\0' ? parent : "/tmp");
    CHECK(mkdtemp(folder) != NULL);
    told_before_use(false);
    told_before_use(true);
    found_by_a_copy(false);
    found_by_a_copy(true);
    found_by_the_writer();
    found_by_zeroing();
    found_by_a_page_read();
    found_by_the_program();
    rmdir(folder);
    printf("PASS\n");
    return 0;
}

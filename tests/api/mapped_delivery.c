/*
 * Delivery of the hardware faults of mapped spaces: in whatever place a program may take one, and beside whatever it
 * may do at that moment. The handler of a fault runs in the middle of the program's code, so it must not allocate, not
 * lose errno, not need much stack, not be reached with a lock of the engine held; and what cannot be resolved must be
 * told as the kernel would: SIGSEGV or SIGBUS, with the address, at the instruction, to the program's own handler.
 *
 * What ends a process runs in a child: this program once more, with --child NAME (child_run()).
 *
 * Nothing is timed. A test that would hang is ended by ctest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* ---- malloc of this program ------------------------------------------------------------------------------------- */

/*
 * It tells of a call inside of a fault, and can take its memory from an arena in mapped memory, with a lock held while
 * it touches it: then every malloc() may fault, in the library's threads too.
 */
static _Thread_local volatile bool faulting; /* the thread is at a plain access, and calls nothing itself */
static atomic_ulong allocations_in_faults;
static _Thread_local bool from_arena __attribute__((unused));   /* memory of the arena */
static _Thread_local bool beside_arena __attribute__((unused)); /* memory of libc's, but the arena is touched */
static struct {
    pthread_mutex_t lock;
    char *memory, *end;
    atomic_ulong next;
    atomic_ulong calls;
} arena __attribute__((unused)) = { .lock = PTHREAD_MUTEX_INITIALIZER };

#if !SANITIZED
extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *memory, size_t bytes);
extern void __libc_free(void *memory);
extern void *__libc_memalign(size_t alignment, size_t bytes);

static void note_allocation(void)
{
    if (faulting)
        atomic_fetch_add(&allocations_in_faults, 1);
}

/* Blocks have their size before them; both are touched with the lock held. They are used once round the arena. */
static void *arena_take(size_t bytes)
{
    const size_t whole = (bytes + 16 + 15) / 16 * 16;
    pthread_mutex_lock(&arena.lock);
    const size_t at = atomic_load(&arena.next) + whole;
    char *block = (size_t)(arena.end - arena.memory) < at ? NULL : arena.memory + at - whole;
    if (block != NULL) {
        *(volatile size_t *)block = bytes;
        block[16] = 1;
        atomic_store(&arena.next, at);
        atomic_fetch_add(&arena.calls, 1);
    }
    pthread_mutex_unlock(&arena.lock);
    return block == NULL ? NULL : block + 16;
}

static bool in_arena(const void *memory)
{
    return arena.memory != NULL && (const char *)memory >= arena.memory && (const char *)memory < arena.end;
}

void *malloc(size_t bytes)
{
    note_allocation();
    if (beside_arena)
        (void)arena_take(bytes);
    return from_arena ? arena_take(bytes) : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    note_allocation();
    if (beside_arena)
        (void)arena_take(bytes);
    if (!from_arena)
        return __libc_calloc(count, bytes);
    void *memory = arena_take(count * bytes);
    return memory == NULL ? NULL : memset(memory, 0, count * bytes);
}

void free(void *memory)
{
    note_allocation();
    if (!in_arena(memory)) {
        __libc_free(memory);
        return;
    }
    pthread_mutex_lock(&arena.lock);
    *(volatile size_t *)((char *)memory - 16) = 0;
    pthread_mutex_unlock(&arena.lock);
}

void *realloc(void *memory, size_t bytes)
{
    note_allocation();
    if (!in_arena(memory) && !from_arena)
        return __libc_realloc(memory, bytes);
    void *moved = malloc(bytes);
    if (moved != NULL && memory != NULL && in_arena(memory)) {
        const size_t old = *(volatile size_t *)((char *)memory - 16);
        memcpy(moved, memory, old < bytes ? old : bytes);
        free(memory);
    }
    return moved;
}

void *memalign(size_t alignment, size_t bytes);
void *memalign(size_t alignment, size_t bytes)
{
    note_allocation();
    return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return memalign(alignment, bytes);
}

int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    *memory = memalign(alignment, bytes);
    return *memory == NULL ? ENOMEM : 0;
}
#endif

/* ---- plain accesses --------------------------------------------------------------------------------------------- */

extern const char load_instruction[], store_instruction[];

/* One instruction each, whose place is known. */
__attribute__((noinline, noclone)) static unsigned char load(const void *address)
{
    unsigned char value;
    __asm__ volatile("load_instruction: movb (%1), %0" : "=q"(value) : "r"(address) : "memory");
    return value;
}

__attribute__((noinline, noclone)) static void store(void *address, unsigned char value)
{
    __asm__ volatile("store_instruction: movb %0, (%1)" : : "q"(value), "r"(address) : "memory");
}

static _Thread_local sigjmp_buf *volatile way_out;
static _Thread_local struct {
    volatile int number, code;
    void *volatile address;
    volatile uintptr_t instruction;
    volatile bool blocked; /* the signal was blocked where it came from */
} caught;
static void *volatile page_to_commit; /* by the handler, which then returns */
static tide_space *volatile space_to_commit_in;

static void signal_catch(int number, siginfo_t *info, void *context)
{
    const ucontext_t *interrupted = context;
    caught.number = number;
    caught.code = info->si_code;
    caught.address = info->si_addr;
    caught.instruction = (uintptr_t)interrupted->uc_mcontext.gregs[REG_RIP];
    caught.blocked = sigismember(&interrupted->uc_sigmask, number) == 1;
    faulting = false;
    if (page_to_commit != NULL) {
        tide_address base = (uintptr_t)page_to_commit;
        uint64_t bytes = PG;
        const tide_status status =
            tide_virtual_alloc(space_to_commit_in, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
        page_to_commit = NULL;
        if (status == TIDE_SUCCESS)
            return;
    }
    if (way_out != NULL)
        siglongjmp(*way_out, number);
    signal(number, SIG_DFL);
}

/* Before the library has its handler, which is to pass on to these. */
static void signals_catch(void)
{
    const struct sigaction ours = { .sa_sigaction = signal_catch, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    sigaction(SIGSEGV, &ours, NULL);
    sigaction(SIGBUS, &ours, NULL);
}

/* 0, or the signal that the access got. */
static int access_try(void *address, bool write)
{
    sigjmp_buf here;
    if (sigsetjmp(here, 1) != 0) {
        way_out = NULL;
        return caught.number;
    }
    way_out = &here;
    faulting = true;
    if (write)
        store(address, 1);
    else
        (void)load(address);
    faulting = false;
    way_out = NULL;
    return 0;
}

static void assert_violation(void *address, bool write)
{
    memset((void *)&caught, 0, sizeof(caught));
    assert_int_equal(access_try(address, write), SIGSEGV);
    assert_ptr_equal(caught.address, address);
    assert_int_equal(caught.code, SEGV_ACCERR);
    assert_int_equal(caught.instruction, (uintptr_t)(write ? store_instruction : load_instruction));
    assert_false(caught.blocked);
    assert_int_equal(tide_last_error()->status == TIDE_SUCCESS, false);
}

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

static tide_space *mapped_new(struct fixture *fixture, tide_delivery delivery, unsigned cluster)
{
    tide_mapped_options options;
    tide_mapped_options_init(&options);
    options.window_bytes = 1ull << 32;
    options.delivery = delivery;
    options.cluster_pages = cluster;
    tide_space *space = NULL;
    assert_success(tide_mapped_space_create(fixture->engine, &options, &space));
    for (unsigned i = 0; i < FIXTURE_SPACES; i++) {
        if (fixture->spaces[i] == NULL) {
            fixture->spaces[i] = space;
            break;
        }
    }
    return space;
}

static char *pages_new(tide_space *space, uint64_t pages)
{
    return tide_pointer(region_new(space, pages));
}

/* A fixture's engine of so many frames with a page file, and a space with faults by signal. */
static tide_space *signal_space(struct fixture *fixture, uint64_t frames, uint64_t slots, bool workers)
{
    if (workers) {
        fixture->config.workers = TIDE_WORKERS_THREADS;
        fixture->config.cpu_cache_pages = 0;
    }
    if (slots != 0)
        fixture_page_file(fixture, slots);
    fixture_open(fixture, frames);
    return mapped_new(fixture, TIDE_DELIVERY_SIGNAL, 0);
}

static tide_address address_of(const void *pointer)
{
    return (uintptr_t)pointer;
}

static void stamp_pages_plainly(char *memory, uint64_t pages, uint64_t owner, uint64_t version)
{
    for (uint64_t i = 0; i < pages; i++)
        stamp_fill(memory + i * PG, owner, address_of(memory + i * PG), version);
}

static bool stamps_match(const char *memory, uint64_t pages, uint64_t owner, uint64_t version)
{
    for (uint64_t i = 0; i < pages; i++)
        if (!stamp_matches(memory + i * PG, owner, address_of(memory + i * PG), version))
            return false;
    return true;
}

static tide_mapped_statistics mapped_now(const tide_space *space)
{
    tide_mapped_statistics statistics = { .struct_bytes = sizeof(statistics) };
    assert_success(tide_mapped_query(space, &statistics));
    return statistics;
}

/* ---- children --------------------------------------------------------------------------------------------------- */

#define CHILD_CHECK(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s; errno %d; last error: %s\n", __FILE__, __LINE__, #condition, errno,            \
                    tide_last_error()->message);                                                                       \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Runs this program with --child NAME, and returns how it ended. */
static int child_run(const char *name)
{
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    assert_true(length > 0);
    path[length] = '\0';
    const pid_t child = fork();
    if (child == 0) {
        const struct rlimit none = { 0, 0 };
        setrlimit(RLIMIT_CORE, &none);
        execl(path, path, "--child", name, (char *)NULL);
        _exit(127);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

#define assert_child_exits(name)                                                                                       \
    do {                                                                                                               \
        const int ended = child_run(name);                                                                             \
        assert_true(WIFEXITED(ended));                                                                                 \
        assert_int_equal(WEXITSTATUS(ended), 0);                                                                       \
    } while (0)
#define assert_child_dies(name, number)                                                                                \
    do {                                                                                                               \
        const int ended = child_run(name);                                                                             \
        assert_true(WIFSIGNALED(ended));                                                                               \
        assert_int_equal(WTERMSIG(ended), (number));                                                                   \
    } while (0)

/* An engine without page files, and a mapped space. */
static tide_space *child_space(tide_engine **engine, tide_delivery delivery)
{
    tide_mapped_options options;
    tide_config config;
    tide_space *space = NULL;
    tide_config_init(&config);
    config.memory_bytes = 512 * PG;
    CHILD_CHECK(tide_engine_open(&config, engine) == TIDE_SUCCESS);
    tide_mapped_options_init(&options);
    options.delivery = delivery;
    CHILD_CHECK(tide_mapped_space_create(*engine, &options, &space) == TIDE_SUCCESS);
    return space;
}

static char *child_pages(tide_space *space, uint64_t pages, uint32_t type)
{
    tide_address base = 0;
    uint64_t bytes = pages * PG;
    CHILD_CHECK(tide_virtual_alloc(space, &base, &bytes, type, TIDE_PAGE_READWRITE) == TIDE_SUCCESS);
    return tide_pointer(base);
}

static void child_close(tide_space *space, tide_engine *engine)
{
    CHILD_CHECK(tide_engine_verify(engine, NULL) == TIDE_SUCCESS);
    CHILD_CHECK(tide_space_destroy(space) == TIDE_SUCCESS);
    CHILD_CHECK(tide_engine_close(engine) == TIDE_SUCCESS);
}

/* ---- no malloc, errno, last error ------------------------------------------------------------------------------- */

/* One access of each class, with `faulting` set: fresh, first write, soft, hard, error, violation. */
struct classes {
    struct fixture *fixture;
    tide_space *space;
    char *memory;
};

static void classes_touch(struct crew_member *member)
{
    const struct classes *classes = member->context;
    char *memory = classes->memory + member->index * 64 * (size_t)PG;

    CREW_CHECK(member, access_try(memory + 3 * PG, false) == 0); /* the thread's first contact with the engine */
    for (unsigned i = 0; i < 20; i++)
        CREW_CHECK(member, access_try(memory + i * PG + 5, true) == 0);
    CREW_CHECK(member, tide_working_set_empty(classes->space) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 20; i++)
        CREW_CHECK(member, access_try(memory + i * PG + 5, i % 2 == 0) == 0);
    CREW_CHECK(member, tide_working_set_empty(classes->space) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(classes->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 10; i++) /* clean; then written */
        CREW_CHECK(member, access_try(memory + i * PG + 5, false) == 0 && access_try(memory + i * PG + 5, true) == 0);
    CREW_CHECK(member, tide_working_set_empty(classes->space) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(classes->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(classes->fixture->engine, TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 20; i++)
        CREW_CHECK(member, access_try(memory + i * PG + 5, i % 2 == 1) == 0);
    CREW_CHECK(member, access_try(memory + 63 * PG, true) == SIGSEGV);
    CREW_CHECK(member, caught.address == memory + 63 * PG);
    CREW_CHECK(member, atomic_load(&allocations_in_faults) == 0);
}

/*
 * With more keys than a thread's record of libc's has room for, pthread_setspecific() allocates; so the keys are used
 * up before the library makes its own.
 */
static void the_handler_allocates_nothing(void **state)
{
    struct fixture *fixture = *state;
    enum { THREADS = 4 };
    signals_catch();
    tide_space *space = signal_space(fixture, 2000, 1000, false);
    char *memory = pages_new(space, THREADS * 64);
    for (unsigned i = 0; i < THREADS; i++)
        region_decommit(space, address_of(memory + (i * 64 + 63) * PG), 1);
    struct classes classes = { fixture, space, memory };
    crew_run(1, classes_touch, &classes);
    crew_run(THREADS, classes_touch, &classes);
    assert_int_equal(atomic_load(&allocations_in_faults), 0);
    fixture_close(fixture);
}

static void errno_and_the_last_error_stay(void **state)
{
    struct fixture *fixture = *state;
    signals_catch();
    tide_space *space = signal_space(fixture, 300, 300, false);
    char *memory = pages_new(space, 100);
    for (unsigned i = 0; i < 6; i++) {
        assert_status(tide_space_create(NULL, &space), TIDE_INVALID_HANDLE);
        const tide_error before = *tide_last_error();
        for (unsigned page = 0; page < 100; page += 3) {
            errno = E2BIG;
            store(memory + page * PG, (unsigned char)i);
            assert_int_equal(errno, E2BIG);
            assert_int_equal(load(memory + page * PG), i);
        }
        assert_memory_equal(&before, tide_last_error(), sizeof(before));
        trim_all(fixture->spaces[0]);
        if (i > 1)
            page_out(fixture, fixture->spaces[0]);
    }
    fixture_close(fixture);
}

#if !SANITIZED
enum { ARENA_PAGES = 3000, ARENA_THREADS = 6, ARENA_BLOCKS = 400, ARENA_BLOCK = 3000 };

static void arena_member(struct crew_member *member)
{
    uint64_t **blocks = member->context;
    unsigned char *mine[ARENA_BLOCKS];
    (void)blocks;
    from_arena = true;
    for (unsigned i = 0; i < ARENA_BLOCKS; i++) {
        mine[i] = malloc(ARENA_BLOCK);
        if (mine[i] != NULL)
            memset(mine[i], (int)(member->index * 31 + i) & 0xFF, ARENA_BLOCK);
        if (mine[i] != NULL && i % 5 == 0)
            mine[i] = realloc(mine[i], ARENA_BLOCK);
    }
    bool good = true;
    for (unsigned i = 0; i < ARENA_BLOCKS; i++) {
        good = good && mine[i] != NULL;
        for (unsigned byte = 0; byte < ARENA_BLOCK && good; byte += 97)
            good = mine[i][byte] == ((member->index * 31 + i) & 0xFF);
        free(mine[i]);
    }
    from_arena = false;
    CREW_CHECK(member, good);
}

/* The program's malloc touches mapped memory with its lock held, over four times the budget. */
static void a_fault_inside_malloc(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = signal_space(fixture, 700, 2 * ARENA_PAGES, true);
    arena.memory = pages_new(space, ARENA_PAGES);
    arena.end = arena.memory + (size_t)ARENA_PAGES * PG;
    for (unsigned i = 0; i < 3; i++) {
        atomic_store(&arena.next, 0);
        atomic_store(&arena.calls, 0);
        crew_run(ARENA_THREADS, arena_member, NULL);
        assert_true(atomic_load(&arena.calls) >= ARENA_THREADS * ARENA_BLOCKS);
    }
    assert_true(statistics_now(fixture).pages_input > 0);
    arena.memory = arena.end = NULL;
    fixture_close(fixture);
}

/* The library calls such a malloc too, so there is a fault in the middle of a call. */
static void a_fault_inside_malloc_of_the_library(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = signal_space(fixture, 500, 1000, false);
    arena.memory = pages_new(space, 600);
    arena.end = arena.memory + (size_t)600 * PG;
    atomic_store(&arena.next, 0);
    tide_address base = region_new(space, 100);

    tide_pin *pins[50];
    const unsigned long faults = mapped_now(space).faults;
    atomic_store(&arena.calls, 0);
    for (unsigned i = 0; i < 50; i++) {
        trim_all(space);
        beside_arena = true;
        const tide_status status = tide_pin_create(space, base + i * PG, 30 * PG, TIDE_ACCESS_WRITE, &pins[i]);
        tide_address watch = 0;
        uint64_t bytes = 64 * PG;
        const tide_status reserved = tide_virtual_alloc(
            space, &watch, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | TIDE_MEM_WRITE_WATCH, TIDE_PAGE_READWRITE);
        const tide_status released =
            reserved != TIDE_SUCCESS ? reserved : tide_virtual_free(space, watch, 0, TIDE_MEM_RELEASE);
        if (status == TIDE_SUCCESS)
            tide_pin_destroy(pins[i]);
        beside_arena = false;
        assert_success(status);
        assert_success(reserved);
        assert_success(released);
    }
    assert_true(atomic_load(&arena.calls) >= 50);
    assert_true(mapped_now(space).faults > faults);
    arena.memory = arena.end = NULL;
    fixture_close(fixture);
}
#endif

/* ---- signals ---------------------------------------------------------------------------------------------------- */

enum { STORM_PAGES = 600, STORM_THREADS = 4, STORM_SIGNALS = 400 };

static struct {
    struct fixture *fixture;
    tide_space *space, *soft;
    char *memory; /* of the handlers: a counter in each page */
    char *plain;  /* of the threads */
    tide_address of_soft;
    atomic_ulong handled;
    atomic_uint left;
} storm;

static void storm_handler(int number)
{
    const unsigned long turn = atomic_fetch_add(&storm.handled, 1);
    const int error = errno;
    (void)number;
    for (unsigned i = 0; i < 4; i++)
        __atomic_fetch_add((uint64_t *)(void *)(storm.memory + (turn * 37 + i * 101) % STORM_PAGES * PG), 1,
                           __ATOMIC_RELAXED);
    errno = error;
}

/* Engine calls and faults in turn; the storm's signals come at any place in them. */
static void storm_member(struct crew_member *member)
{
    uint64_t seed = member->index + 1;
    if (member->index == STORM_THREADS) {
        while (atomic_load(&storm.left) != 0) {
            for (unsigned i = 0; i < STORM_THREADS; i++) {
                const int tid = atomic_load(&crew_member_get(member->crew, i)->tid);
                if (tid != 0 && !atomic_load(&crew_member_get(member->crew, i)->done))
                    (void)syscall(SYS_tgkill, getpid(), tid, i % 2 == 0 ? SIGUSR1 : SIGALRM);
            }
            sched_yield();
        }
        return;
    }
    char *mine = storm.plain + member->index * 100 * (size_t)PG;
    char other[PG];
    for (unsigned turn = 0; turn < 300 || atomic_load(&storm.handled) < STORM_SIGNALS; turn++) {
        const unsigned page = (unsigned)(random_step(&seed) % 100);
        char *at = mine + page * PG;
        stamp_fill(at, member->index, address_of(at), turn);
        CREW_NOTE(member, stamp_matches(at, member->index, address_of(at), turn));
        const tide_address soft = storm.of_soft + (member->index * 100 + page) * (tide_address)PG;
        CREW_NOTE(member, tide_write(storm.soft, soft, at, PG) == TIDE_SUCCESS);
        CREW_NOTE(member, tide_read(storm.soft, soft, other, PG) == TIDE_SUCCESS);
        CREW_NOTE(member, memcmp(other, at, PG) == 0);
        CREW_NOTE(member, tide_read(storm.space, address_of(at), other, PG) == TIDE_SUCCESS);
        if (turn % 7 == 0)
            CREW_NOTE(member, tide_working_set_empty(turn % 2 == 0 ? storm.space : storm.soft) == TIDE_SUCCESS);
        if (turn % 31 == 0)
            CREW_NOTE(member, tide_virtual_discard(storm.space, address_of(at), PG) == TIDE_SUCCESS);
        if (turn % 41 == 0)
            CREW_NOTE(member, tide_engine_empty(storm.fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
        /* Calls with locks of their own, and one that stops all others. */
        if (turn % 5 == 0)
            CREW_NOTE(member, statistics_now(storm.fixture).spaces == 2);
        if (turn % 11 == 0)
            CREW_NOTE(member, tide_working_set_set_limits(storm.space, 20, 600 + turn % 50, 0) == TIDE_SUCCESS);
        if (turn % 13 == 0)
            CREW_NOTE(member, tide_engine_empty(storm.fixture->engine, TIDE_EMPTY_WORKING_SETS) == TIDE_SUCCESS);
        if (turn % 97 == 0)
            CREW_NOTE(member, tide_engine_verify(storm.fixture->engine, NULL) == TIDE_SUCCESS);
    }
    atomic_fetch_sub(&storm.left, 1);
}

static void storm_run(struct fixture *fixture, bool workers)
{
#if defined(__SANITIZE_THREAD__)
    skip(); /* it runs handlers with all signals blocked, SIGBUS too */
#endif
    const struct sigaction ours = { .sa_handler = storm_handler, .sa_flags = SA_RESTART };
    memset(&storm, 0, sizeof(storm));
    storm.fixture = fixture;
    storm.space = signal_space(fixture, 900, 4000, workers);
    storm.soft = space_new(fixture);
    storm.memory = pages_new(storm.space, STORM_PAGES);
    storm.plain = pages_new(storm.space, STORM_THREADS * 100);
    storm.of_soft = region_new(storm.soft, STORM_THREADS * 100);
    atomic_store(&storm.left, STORM_THREADS);
    sigaction(SIGUSR1, &ours, NULL);
    sigaction(SIGALRM, &ours, NULL);
    crew_run(STORM_THREADS + 1, storm_member, &storm);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGALRM, SIG_DFL);
    uint64_t counted = 0;
    for (unsigned i = 0; i < STORM_PAGES; i++)
        counted += *(uint64_t *)(void *)(storm.memory + (size_t)i * PG);
    assert_int_equal(counted, 4 * atomic_load(&storm.handled));
    fixture_close(fixture);
}

static void faults_in_signal_handlers(void **state)
{
    storm_run(*state, false);
}

static void faults_in_signal_handlers_with_worker_threads(void **state)
{
    storm_run(*state, true);
}

/* ---- the stack that a fault needs -------------------------------------------------------------------------------- */

/*
 * Measured here: what is told below is with the kernel's own frame, which has the vector registers (up to 2.7 KiB with
 * AVX-512). 16 KiB leave room for a page of stack of somebody's handler besides.
 */
enum { SMALL_STACK = 16 * 1024 };

struct alternate {
    struct fixture *fixture;
    tide_space *space;
    char *memory;
    size_t used[5]; /* fresh, soft, hard, error, violation */
};

static size_t stack_used(unsigned char *stack)
{
    size_t untouched = 0;
    while (untouched < SMALL_STACK && stack[untouched] == 0xA5)
        untouched++;
    memset(stack, 0xA5, SMALL_STACK);
    return SMALL_STACK - untouched;
}

static void alternate_member(struct crew_member *member)
{
    struct alternate *alternate = member->context;
    unsigned char *whole = mmap(NULL, SMALL_STACK + PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CREW_CHECK(member, whole != MAP_FAILED && mprotect(whole, PG, PROT_NONE) == 0); /* an overflow ends the program */
    unsigned char *stack = whole + PG;
    const stack_t ours = { .ss_sp = stack, .ss_size = SMALL_STACK };
    const stack_t none = { .ss_flags = SS_DISABLE };
    char *memory = alternate->memory;
    CREW_CHECK(member, sigaltstack(&ours, NULL) == 0);
    memset(stack, 0xA5, SMALL_STACK);
    for (unsigned i = 0; i < 200; i++) /* with clusters */
        store(memory + i * PG, 1);
    alternate->used[0] = stack_used(stack);
    CREW_CHECK(member, tide_working_set_empty(alternate->space) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 200; i++)
        store(memory + i * PG, 2);
    alternate->used[1] = stack_used(stack);
    CREW_CHECK(member, tide_working_set_empty(alternate->space) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(alternate->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(alternate->fixture->engine, TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 100; i++)
        store(memory + i * PG, 3);
    alternate->used[2] = stack_used(stack);
    for (unsigned i = 200; i < 900; i++) /* past the budget: the fault makes room itself */
        store(memory + i * PG, 4);
    const size_t past = stack_used(stack);
    alternate->used[2] = past > alternate->used[2] ? past : alternate->used[2];
    CREW_CHECK(member, tide_working_set_empty(alternate->space) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(alternate->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
    CREW_CHECK(member, tide_engine_empty(alternate->fixture->engine, TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
    device_fail(&alternate->fixture->device, TIDE_IO_READ, EIO, 0, DEVICE_ALWAYS);
    CREW_CHECK(member, access_try(memory + 150 * PG, false) == SIGBUS);
    device_fail(&alternate->fixture->device, TIDE_IO_READ, 0, 0, 0);
    alternate->used[3] = stack_used(stack);
    CREW_CHECK(member, access_try(memory + 999 * PG, false) == SIGSEGV);
    alternate->used[4] = stack_used(stack);
    CREW_CHECK(member, sigaltstack(&none, NULL) == 0);
    munmap(whole, SMALL_STACK + PG);
}

static void a_small_alternate_stack_is_enough(void **state)
{
    struct fixture *fixture = *state;
    signals_catch();
    fixture->config.workers = TIDE_WORKERS_THREADS;
    tide_space *space = signal_space(fixture, 700, 2000, false);
    struct alternate alternate = { .fixture = fixture, .space = space, .memory = pages_new(space, 1000) };
    region_decommit(space, address_of(alternate.memory + 999 * PG), 1);
    crew_run(1, alternate_member, &alternate);
    print_message("bytes of stack: fresh %zu, soft %zu, hard %zu, error %zu, violation %zu\n", alternate.used[0],
                  alternate.used[1], alternate.used[2], alternate.used[3], alternate.used[4]);
    for (unsigned i = 0; i < 5; i++)
        assert_between(alternate.used[i], 500, SANITIZED ? SMALL_STACK - 1 : 12 * 1024);
    fixture_close(fixture);
}

/* ---- threads that the engine never saw -------------------------------------------------------------------------- */

static pthread_key_t late_key;

static void late_touch(void *memory)
{
    store((char *)memory + 7, 9);
}

static void *stranger(void *memory)
{
    store(memory, 8);
    (void)pthread_setspecific(late_key, memory);
    return NULL;
}

static unsigned long address_space_kib(void)
{
    unsigned long kib = 0;
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL && sscanf(line, "VmSize: %lu", &kib) != 1)
        continue;
    fclose(file);
    return kib;
}

/* Each has a record while it lives, of some 260 KiB of addresses, and leaves it to the next. */
static void short_lived_threads_leave_nothing(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = signal_space(fixture, 300, 0, false);
    char *memory = pages_new(space, 20);
    /* Made after the library's key, so its destructor runs after the thread has left the engine. */
    assert_int_equal(pthread_key_create(&late_key, late_touch), 0);
    /*
     * What libc keeps for threads is as much as ever lived at once, which is chance, and would be all that is seen
     * here: so small stacks, and no arena of malloc's for each (64 MiB of addresses).
     */
    (void)mallopt(M_ARENA_MAX, 1);
    pthread_attr_t attributes;
    assert_int_equal(pthread_attr_init(&attributes), 0);
    assert_int_equal(pthread_attr_setstacksize(&attributes, SANITIZED ? 1 << 20 : 128 << 10), 0);
    unsigned long before = 0;
    for (unsigned i = 0; i < 300; i++) {
        pthread_t thread[2];
        if (i == 20)
            before = address_space_kib();
        for (unsigned j = 0; j < 2; j++)
            assert_int_equal(pthread_create(&thread[j], &attributes, stranger, memory + (i + j) % 20 * PG), 0);
        for (unsigned j = 0; j < 2; j++)
            pthread_join(thread[j], NULL);
        if (i % 50 == 0)
            trim_all(space);
    }
    assert_true(address_space_kib() < before + (SANITIZED ? 65536 : 8192));
    for (unsigned i = 0; i < 20; i++) {
        assert_int_equal(memory[i * PG], 8);
        assert_int_equal(memory[i * PG + 7], 9);
    }
    pthread_attr_destroy(&attributes);
    pthread_key_delete(late_key);
    fixture_close(fixture);
}

/* ---- violations ------------------------------------------------------------------------------------------------- */

static void a_violation_is_a_segmentation_fault_at_the_instruction(void **state)
{
    struct fixture *fixture = *state;
    signals_catch();
    tide_space *space = signal_space(fixture, 400, 0, false);
    char *memory = pages_new(space, 16);
    uint32_t old = 0;
    stamp_pages_plainly(memory, 16, 1, 1);
    assert_success(tide_virtual_protect(space, address_of(memory), PG, TIDE_PAGE_READONLY, &old));
    assert_success(tide_virtual_protect(space, address_of(memory + PG), PG, TIDE_PAGE_NOACCESS, &old));
    assert_success(
        tide_virtual_protect(space, address_of(memory + 2 * PG), PG, TIDE_PAGE_READWRITE | TIDE_PAGE_GUARD, &old));
    region_decommit(space, address_of(memory + 3 * PG), 1);
    tide_address lowest = 0, highest = 0;
    assert_success(tide_space_range(space, &lowest, &highest));
    const uint64_t violations = statistics_now(fixture).faults.access_violations;
    for (unsigned i = 0; i < 50; i++) {
        assert_violation(memory + 17 + i, true);
        assert_int_equal(access_try(memory + 17 + i, false), 0);
        assert_violation(memory + PG + i, i % 2 == 0);
        assert_violation(memory + 3 * PG + PG - 1 - i, i % 2 == 1);
        assert_violation(tide_pointer(highest - i), false);
        assert_int_equal(access_try(memory + 4 * PG + i, true), 0);
    }
    assert_int_equal(statistics_now(fixture).faults.access_violations, violations + 200);
    assert_violation(memory + 2 * PG + 9, false); /* a guard, once */
    assert_int_equal(tide_last_error()->status, TIDE_GUARD_PAGE_VIOLATION);
    assert_int_equal(access_try(memory + 2 * PG + 9, true), 0);
    assert_success(tide_virtual_protect(space, address_of(memory), 2 * PG, TIDE_PAGE_READWRITE, &old));
    assert_true(stamp_matches(memory, 1, address_of(memory), 1));
    assert_true(stamp_matches(memory + PG, 1, address_of(memory + PG), 1));
    assert_int_equal(access_try(memory + PG, true), 0);
    fixture_close(fixture);
}

/* The handler commits the page and returns: the access is tried again. */
static void a_handler_may_commit_and_return(void **state)
{
    struct fixture *fixture = *state;
    signals_catch();
    tide_space *space = signal_space(fixture, 400, 0, false);
    tide_address base = 0;
    uint64_t bytes = 100 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE));
    char *memory = tide_pointer(base);
    space_to_commit_in = space;
    for (unsigned i = 0; i < 100; i++) {
        page_to_commit = memory + i * PG;
        assert_int_equal(access_try(memory + i * PG + i, i % 2 == 0), 0);
        assert_ptr_equal(caught.address, memory + i * PG + i);
        assert_null(page_to_commit);
        if (i % 5 == 0) {
            region_decommit(space, base + i * PG, 1);
            page_to_commit = memory + i * PG;
            assert_int_equal(access_try(memory + i * PG, true), 0);
        }
    }
    assert_int_equal(space_now(space).private_pages >= 100, true);
    fixture_close(fixture);
}

static int blocked_segv(void)
{
    tide_engine *engine = NULL;
    sigset_t set;
    signals_catch();
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 4, TIDE_MEM_RESERVE);
    sigemptyset(&set);
    sigaddset(&set, SIGSEGV);
    sigprocmask(SIG_BLOCK, &set, NULL);
    store(memory, 1);
    return 1;
}

static int ignored_segv(void)
{
    tide_engine *engine = NULL;
    signal(SIGSEGV, SIG_IGN);
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 4, TIDE_MEM_RESERVE);
    store(memory, 1);
    return 1;
}

static int default_segv(void)
{
    tide_engine *engine = NULL;
    signal(SIGSEGV, SIG_DFL);
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 4, TIDE_MEM_RESERVE);
    store(memory, 1);
    return 1;
}

/*
 * SIGBUS blocked in a thread: the kernel ends the process at the first missing page. Documented, and the same for ever.
 */
static int blocked_bus(void)
{
    tide_engine *engine = NULL;
    sigset_t set;
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 4, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    sigemptyset(&set);
    sigaddset(&set, SIGBUS);
    sigprocmask(SIG_BLOCK, &set, NULL);
    store(memory, 1);
    return 1;
}

static void a_violation_that_cannot_be_told_ends_the_process(void **state)
{
    (void)state;
    assert_child_dies("blocked_segv", SIGSEGV);
    assert_child_dies("ignored_segv", SIGSEGV);
    if (!SANITIZED)
        assert_child_dies("default_segv", SIGSEGV);
    if (!SANITIZED)
        assert_child_dies("blocked_bus", SIGBUS);
}

/* ---- races ------------------------------------------------------------------------------------------------------ */

enum { RACE_PAGES = 64, RACE_THREADS = 4, RACE_TURNS = 300 };

struct race {
    struct fixture *fixture;
    tide_space *space;
    char *memory;
    atomic_uint left;
    atomic_ulong violations, good;
};

static void decommit_member(struct crew_member *member)
{
    struct race *race = member->context;
    uint64_t seed = member->index;
    if (member->index == RACE_THREADS) {
        for (unsigned turn = 0; turn < RACE_TURNS || atomic_load(&race->violations) == 0; turn++) {
            char *at = race->memory + (random_step(&seed) % (RACE_PAGES - 8)) * PG;
            tide_address base = address_of(at);
            uint64_t bytes = (1 + turn % 8) * PG;
            CREW_NOTE(member, tide_virtual_free(race->space, base, bytes, TIDE_MEM_DECOMMIT) == TIDE_SUCCESS);
            for (unsigned i = 0; i < 3; i++)
                sched_yield();
            CREW_NOTE(member, tide_virtual_alloc(race->space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) ==
                                  TIDE_SUCCESS);
            if (turn % 20 == 0)
                CREW_NOTE(member, tide_engine_verify(race->fixture->engine, NULL) == TIDE_SUCCESS);
            sched_yield();
        }
        atomic_store(&race->left, 0);
        return;
    }
    while (atomic_load(&race->left) != 0) {
        const uint64_t random = random_step(&seed);
        char *at = race->memory + random % RACE_PAGES * PG + 8 * member->index;
        const int number = access_try(at, random % 3 == 0);
        atomic_fetch_add(number == 0 ? &race->good : &race->violations, 1);
        if (number != 0 && (number != SIGSEGV || caught.address != at)) {
            crew_failure(member, __FILE__, __LINE__, "signal %d, code %d, for %p at %p", number, caught.code,
                         (void *)at, caught.address);
            return;
        }
    }
}

static void decommit_run(struct fixture *fixture, tide_delivery delivery)
{
    signals_catch();
    fixture_page_file(fixture, 500);
    fixture_open(fixture, 400);
    struct race race = { .fixture = fixture, .space = mapped_new(fixture, delivery, 0) };
    race.memory = pages_new(race.space, RACE_PAGES);
    atomic_store(&race.left, 1);
    crew_run(RACE_THREADS + 1, decommit_member, &race);
    assert_true(atomic_load(&race.good) > 0 && atomic_load(&race.violations) > 0);
    /* All is committed again: none may be left that cannot be used. */
    for (unsigned i = 0; i < RACE_PAGES; i++)
        assert_int_equal(access_try(race.memory + i * PG, true), 0);
    fixture_close(fixture);
}

static void decommit_against_touch(void **state)
{
    decommit_run(*state, TIDE_DELIVERY_SIGNAL);
}

/* Each thread writes versions to its own pages and finds them again; another takes pages away in every way. */
static void torment_member(struct crew_member *member)
{
    struct race *race = member->context;
    uint64_t seed = member->index;
    if (member->index == RACE_THREADS) {
        for (unsigned turn = 0; atomic_load(&race->left) != 0; turn++) {
            uint64_t done = 0;
            if (turn % 3 == 0)
                CREW_NOTE(member, tide_working_set_empty(race->space) == TIDE_SUCCESS);
            else
                CREW_NOTE(member, tide_working_set_trim(race->space, 100, &done) == TIDE_SUCCESS);
            if (turn % 2 == 0)
                CREW_NOTE(member, tide_engine_empty(race->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
            if (turn % 4 == 0)
                CREW_NOTE(member, tide_engine_empty(race->fixture->engine, TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
            if (turn % 16 == 0)
                CREW_NOTE(member, tide_engine_verify(race->fixture->engine, NULL) == TIDE_SUCCESS);
            sched_yield();
        }
        return;
    }
    uint64_t versions[200] = { 0 };
    char *mine = race->memory + member->index * 200 * (size_t)PG;
    for (unsigned turn = 0; turn < 6000; turn++) {
        const unsigned page = (unsigned)(random_step(&seed) % 200);
        char *at = mine + page * PG;
        if (versions[page] != 0)
            CREW_NOTE(member, stamp_matches(at, member->index, address_of(at), versions[page]));
        if (turn % 2 == 0)
            stamp_fill(at, member->index, address_of(at), versions[page] = turn + 1);
    }
    for (unsigned page = 0; page < 200; page++)
        if (versions[page] != 0)
            CREW_NOTE(member,
                      stamp_matches(mine + page * PG, member->index, address_of(mine + page * PG), versions[page]));
    atomic_fetch_sub(&race->left, 1);
}

static void torment_run(struct fixture *fixture, tide_delivery delivery, bool workers)
{
    if (workers)
        fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, 500);
    struct race race = { .fixture = fixture, .space = mapped_new(fixture, delivery, 0) };
    race.memory = pages_new(race.space, RACE_THREADS * 200);
    atomic_store(&race.left, RACE_THREADS);
    crew_run(RACE_THREADS + 1, torment_member, &race);
    fixture_close(fixture);
}

static void trim_and_write_out_against_touch(void **state)
{
    torment_run(*state, TIDE_DELIVERY_SIGNAL, false);
}

static void trim_and_write_out_against_touch_with_worker_threads(void **state)
{
    torment_run(*state, TIDE_DELIVERY_SIGNAL, true);
}

/* ---- errors of the device --------------------------------------------------------------------------------------- */

/* page_out() and trim_all(), when a handler thread may still be showing what follows a page. */
static void pages_away(struct fixture *fixture, tide_space *space, bool out)
{
    assert_success(tide_working_set_empty(space));
    if (out) {
        write_modified(fixture);
        empty_standby(fixture);
    }
}

/* By threads it takes UFFDIO_POISON (Linux 6.6) to make an access a bus error. */
static int page_in_error_signal(tide_delivery delivery)
{
    struct utsname system;
    int major = 0, minor = 0;
    assert_int_equal(uname(&system), 0);
    assert_int_equal(sscanf(system.release, "%d.%d", &major, &minor), 2);
    return delivery == TIDE_DELIVERY_SIGNAL || major > 6 || (major == 6 && minor >= 6) ? SIGBUS : SIGSEGV;
}

static void region_commit(tide_space *space, tide_address base, uint64_t pages)
{
    uint64_t bytes = pages * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
}

/* A page that could not be read can be had again after any call on it. False: with another content. */
static bool page_get_well(tide_space *space, tide_address page, unsigned way)
{
    uint32_t old = 0;
    char byte = 0;
    switch (way % 5) {
    case 0:
        assert_false(tide_failed(tide_touch(space, page, TIDE_ACCESS_READ)));
        return true;
    case 1:
        assert_success(tide_virtual_protect(space, page, PG, TIDE_PAGE_READONLY, &old));
        return true;
    case 2:
        region_decommit(space, page, 1);
        region_commit(space, page, 1);
        return false;
    case 3:
        assert_success(tide_read(space, page, &byte, 1));
        return true;
    default:
        region_decommit(space, page - PG, 2);
        region_commit(space, page - PG, 2);
        assert_false(tide_failed(tide_touch(space, page - PG, TIDE_ACCESS_READ)));
        return false;
    }
}

static void an_error_at_page_in_run(struct fixture *fixture, tide_delivery delivery)
{
    signals_catch();
    fixture_page_file(fixture, 500);
    fixture_open(fixture, 300);
    tide_space *space = mapped_new(fixture, delivery, 0);
    char *memory = pages_new(space, 100);
    stamp_pages_plainly(memory, 100, 1, 1);
    do /* a handler thread may be behind */
        pages_away(fixture, space, true);
    while (pages_in_state(space, address_of(memory), 100, TIDE_PAGE_STATE_PAGE_FILE) != 100);
    const uint64_t errors = statistics_now(fixture).faults.in_page_errors;
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, DEVICE_ALWAYS);
    for (unsigned i = 0; i < 100; i += 10) {
        assert_int_equal(access_try(memory + i * PG + i, i % 20 == 0), page_in_error_signal(delivery));
        if (delivery == TIDE_DELIVERY_SIGNAL) {
            assert_ptr_equal(caught.address, memory + i * PG + i);
            assert_int_equal(tide_last_error()->status, TIDE_IN_PAGE_ERROR);
            assert_int_equal(tide_last_error()->io_error, EIO);
            assert_int_equal(tide_last_error()->address, address_of(memory + i * PG + i));
            assert_int_equal(caught.instruction, (uintptr_t)(i % 20 == 0 ? store_instruction : load_instruction));
        } else {
            assert_int_equal(address_of(caught.address) / PG, address_of(memory) / PG + i);
        }
    }
    assert_int_equal(statistics_now(fixture).faults.in_page_errors, errors + 10);
    device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
    /* The device is well again: nothing is lost, and the page can be had. */
    for (unsigned i = 0; i < 100; i++) {
        bool same = true;
        if (delivery == TIDE_DELIVERY_THREADS && i % 10 == 0) /* by threads a page that failed waits for a call */
            same = page_get_well(space, address_of(memory + i * PG), i / 10);
        assert_int_equal(access_try(memory + i * PG, false), 0);
        if (same)
            assert_true(stamp_matches(memory + i * PG, 1, address_of(memory + i * PG), 1));
        else
            assert_int_equal(memory[i * PG], 0);
    }
    /* And who has the addresses later knows nothing of it. */
    do
        pages_away(fixture, space, true);
    while (pages_in_state(space, address_of(memory), 100, TIDE_PAGE_STATE_PAGE_FILE) != 100);
    device_fail(&fixture->device, TIDE_IO_READ, EIO, 0, DEVICE_ALWAYS);
    for (unsigned i = 5; i < 100; i += 10) { /* pages that were shown to be read alone */
        assert_int_equal(access_try(memory + i * PG, false), page_in_error_signal(delivery));
        assert_int_equal(access_try(memory + i * PG, true), page_in_error_signal(delivery));
    }
    device_fail(&fixture->device, TIDE_IO_READ, 0, 0, 0);
    tide_address base = address_of(memory);
    uint64_t bytes = 100 * PG;
    assert_success(tide_virtual_free(space, base, 0, TIDE_MEM_RELEASE));
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    for (unsigned i = 100; i-- > 0;) {
        assert_int_equal(access_try(memory + i * PG, i % 20 == 0), 0);
        assert_int_equal(memory[i * PG + 8], 0);
    }
    fixture_close(fixture);
}

static void an_error_at_page_in_is_a_bus_error(void **state)
{
    an_error_at_page_in_run(*state, TIDE_DELIVERY_SIGNAL);
}

/* ---- waits for frames ------------------------------------------------------------------------------------------- */

static atomic_uint user_signals;

static void user_signal(int number)
{
    (void)number;
    atomic_fetch_add(&user_signals, 1);
}

static void wait_member(struct crew_member *member)
{
    *(volatile char *)member->context = 5;
}

/*
 * An access that finds no frame waits until one comes free, however long; but the thread is not lost for signals
 * meanwhile, be it that its fault is resolved in a handler.
 */
static void a_wait_for_a_frame_lets_signals_in_run(struct fixture *fixture, tide_delivery delivery)
{
    enum { FRAMES = 200, PATIENCE_MS = 60000 };
    const struct sigaction ours = { .sa_handler = user_signal, .sa_flags = SA_RESTART };
    tide_pin *pins[FRAMES];
    unsigned count = 0;
    fixture->config.frame_wait_ms = 50;
    fixture_page_file(fixture, 1000);
    fixture_open(fixture, FRAMES);
    tide_space *soft = NULL, *space = mapped_new(fixture, delivery, 1);
    assert_success(tide_space_create(fixture->engine, &soft));
    char *memory = pages_new(space, 4);
    store(memory, 1); /* its tables are there */
    const tide_address base = region_new(soft, FRAMES);
    tide_status status;
    while (!tide_failed(status = tide_pin_create(soft, base + count * PG, PG, TIDE_ACCESS_WRITE, &pins[count])))
        count++;
    assert_status(status, TIDE_TIMEOUT); /* every frame is pinned, or a table */
    atomic_store(&user_signals, 0);
    sigaction(SIGUSR1, &ours, NULL);
    struct crew *crew = crew_start(1, wait_member, memory + PG);
    const struct crew_member *member = crew_member_get(crew, 0);
    while (atomic_load(&member->tid) == 0)
        sched_yield();
    for (unsigned turn = 1; turn <= 3; turn++) {
        (void)syscall(SYS_tgkill, getpid(), atomic_load(&member->tid), SIGUSR1);
        for (unsigned ms = 0; ms < PATIENCE_MS && atomic_load(&user_signals) < turn; ms++)
            sleep_ms(1);
        assert_int_equal(atomic_load(&user_signals), turn);
        assert_false(atomic_load(&member->done));
    }
    while (count != 0)
        tide_pin_destroy(pins[--count]);
    crew_join(crew);
    signal(SIGUSR1, SIG_DFL);
    assert_int_equal(load(memory + PG), 5);
    assert_success(tide_space_destroy(soft));
    fixture_close(fixture);
}

static void a_wait_for_a_frame_lets_signals_in(void **state)
{
    a_wait_for_a_frame_lets_signals_in_run(*state, TIDE_DELIVERY_SIGNAL);
}

/* ---- fork, mlock, exit ------------------------------------------------------------------------------------------ */

static void fork_member(struct crew_member *member)
{
    struct race *race = member->context;
    char *mine = race->memory + member->index * 100 * (size_t)PG;
    for (unsigned turn = 1; atomic_load(&race->left) != 0; turn++) {
        stamp_pages_plainly(mine, 100, member->index, turn);
        CREW_CHECK(member, stamps_match(mine, 100, member->index, turn));
    }
}

/* The child has no window: an access there is SIGSEGV. It may run another program. The parent loses nothing. */
static void a_child_does_not_have_the_window(void **state)
{
    struct fixture *fixture = *state;
    signals_catch();
    struct race race = { .fixture = fixture, .space = signal_space(fixture, 300, 1000, false) };
    race.memory = pages_new(race.space, 300);
    stamp_pages_plainly(race.memory + 200 * PG, 100, 9, 9);
    atomic_store(&race.left, 1);
    struct crew *crew = crew_start(2, fork_member, &race);
    for (unsigned i = 0; i < 20; i++) {
        const pid_t child = fork();
        if (child == 0) {
            if (i % 2 == 0) {
                execl("/bin/true", "true", (char *)NULL);
                _exit(2);
            }
            const int number = access_try(race.memory + (200 + i) * PG, i % 4 == 1);
            _exit(number == SIGSEGV && caught.address == race.memory + (200 + i) * PG ? 0 : 1);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
        assert_success(tide_working_set_empty(race.space));
        write_modified(fixture);
    }
    atomic_store(&race.left, 0);
    crew_join(crew);
    assert_true(stamps_match(race.memory + 200 * PG, 100, 9, 9));
    fixture_close(fixture);
}

/* Memory that the program has locked with mlockall() is trimmed all the same. */
static int locked_by_the_program(void)
{
    tide_engine *engine = NULL;
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 100, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    for (unsigned i = 0; i < 100; i++)
        store(memory + i * PG, (unsigned char)i);
    (void)mlockall(MCL_CURRENT);          /* tells ENOMEM or not, and marks the window */
    (void)mlock(memory, 10 * (size_t)PG); /* works: these are there */
    CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 100; i++)
        CHILD_CHECK(load(memory + i * PG) == i);
    CHILD_CHECK(munlockall() == 0);
    child_close(space, engine);
    return 0;
}

static void memory_locked_by_the_program_is_trimmed(void **state)
{
    (void)state;
    assert_child_exits("locked_by_the_program");
}

static char *exit_memory;

static void *exit_thread(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    for (;;)
        store(exit_memory + random_step(&seed) % 400 * PG, 1);
    return NULL;
}

/* main() returns while threads fault, and the engine is open. */
static int exit_in_flight(void)
{
    tide_engine *engine = NULL;
    pthread_t thread;
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    exit_memory = child_pages(space, 400, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    for (uintptr_t i = 0; i < 6; i++)
        CHILD_CHECK(pthread_create(&thread, NULL, exit_thread, (void *)i) == 0);
    for (unsigned i = 0; i < 20; i++)
        CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
    return 0;
}

static int exit_in_flight_by_threads(void)
{
    tide_engine *engine = NULL;
    pthread_t thread;
    tide_space *space = child_space(&engine, TIDE_DELIVERY_THREADS);
    exit_memory = child_pages(space, 400, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    for (uintptr_t i = 0; i < 6; i++)
        CHILD_CHECK(pthread_create(&thread, NULL, exit_thread, (void *)i) == 0);
    for (unsigned i = 0; i < 20; i++)
        CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
    return 0;
}

static bool threads_allowed(void)
{
    return tide_mapped_check(TIDE_DELIVERY_THREADS) == TIDE_SUCCESS;
}

static void exit_with_faults_in_flight(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 10; i++) {
        assert_child_exits("exit_in_flight");
        if (threads_allowed())
            assert_child_exits("exit_in_flight_by_threads");
    }
}

/* ---- system calls ----------------------------------------------------------------------------------------------- */

/* A file with stamps for the pages of a region. */
static int stamped_file(struct fixture *fixture, char *memory, unsigned pages)
{
    char path[320], page[PG];
    snprintf(path, sizeof(path), "%s/stamps", fixture->folder);
    const int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    unlink(path);
    for (unsigned i = 0; i < pages; i++) {
        stamp_fill(page, 4, address_of(memory + i * PG), 4);
        assert_int_equal(pwrite(file, page, PG, (off_t)i * PG), PG);
    }
    return file;
}

/* By signal a missing page is EFAULT for the kernel, or a short count; a pin makes it safe, whatever else happens. */
static void by_signal_a_system_call_needs_a_pin(void **state)
{
    struct fixture *fixture = *state;
    tide_space *space = signal_space(fixture, 300, 600, false);
    char *memory = pages_new(space, 100), *other = pages_new(space, 300);
    const int file = stamped_file(fixture, memory, 100);
    assert_int_equal(pread(file, memory, 10 * PG, 0), -1);
    assert_int_equal(errno, EFAULT);
    store(memory, 1);
    assert_int_equal(pread(file, memory, 10 * PG, 0), PG); /* the first one is there */
    assert_int_equal(pwrite(file, memory + 20 * PG, PG, 200 * PG), -1);
    assert_int_equal(errno, EFAULT);

    for (unsigned turn = 0; turn < 3; turn++) {
        tide_pin *pin = NULL;
        assert_success(tide_pin_create(space, address_of(memory), 50 * PG, TIDE_ACCESS_WRITE, &pin));
        unsigned count = 0;
        const struct iovec *iovec = tide_pin_iovec(pin, &count);
        size_t whole = 0;
        for (unsigned i = 0; i < count; i++)
            whole += iovec[i].iov_len;
        assert_int_equal(whole, 50 * PG);
        assert_ptr_equal(iovec[0].iov_base, memory);
        /* All that takes pages away, while it is held. */
        assert_success(tide_working_set_empty(space));
        write_modified(fixture);
        empty_standby(fixture);
        for (unsigned i = 0; i < 300; i++)
            store(other + i * PG, 1);
        (void)tide_working_set_trim(space, 1000, NULL);
        uint64_t done = 0;
        assert_success(tide_clock_advance(fixture->engine, 1000000000));
        assert_success(tide_worker_step(fixture->engine, TIDE_WORKER_TRIMMER, 0, 1000, &done));
        assert_int_equal(preadv(file, iovec, (int)count, 0), 50 * PG);
        assert_true(stamps_match(memory, 50, 4, 4));
        assert_success(tide_working_set_empty(space));
        assert_int_equal(pwritev(file, iovec, (int)count, 200 * PG), 50 * PG);
        tide_pin_destroy(pin);
        page_out(fixture, space);
        assert_true(stamps_match(memory, 50, 4, 4)); /* what the kernel wrote was not lost */
        page_out(fixture, space);
    }
    close(file);
    fixture_close(fixture);
}

static atomic_uint *futex_word;

static void *futex_wake(void *argument)
{
    (void)argument;
    for (;;) {
        if (syscall(SYS_futex, futex_word, FUTEX_WAKE, 1, NULL, NULL, 0) == 1)
            return NULL;
        sched_yield();
    }
}

static void by_threads_system_calls_work(void **state)
{
    struct fixture *fixture = *state;
    if (!threads_allowed())
        skip();
    signals_catch();
    fixture_page_file(fixture, 600);
    fixture_open(fixture, 300);
    tide_space *space = mapped_new(fixture, TIDE_DELIVERY_THREADS, 0);
    char *memory = pages_new(space, 200), back[PG];
    const int file = stamped_file(fixture, memory, 100);
    for (unsigned turn = 0; turn < 4; turn++) {
        assert_int_equal(pread(file, memory, 100 * PG, 0), 100 * PG);
        if (turn > 0)
            pages_away(fixture, space, true);
        assert_int_equal(pwrite(file, memory, 100 * PG, 100 * PG), 100 * PG);
        for (unsigned i = 0; i < 100; i++) {
            assert_int_equal(pread(file, back, PG, (off_t)(100 + i) * PG), PG);
            assert_true(stamp_matches(back, 4, address_of(memory + i * PG), 4));
        }
        assert_true(stamps_match(memory, 100, 4, 4));
        if (turn % 2 == 0)
            pages_away(fixture, space, true);
        else
            pages_away(fixture, space, false);
    }
    /* A futex on a missing page: fresh, and in the page file. */
    futex_word = (atomic_uint *)(void *)(memory + 150 * PG);
    for (unsigned turn = 0; turn < 3; turn++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, futex_wake, NULL), 0);
        assert_int_equal(syscall(SYS_futex, futex_word, FUTEX_WAIT, turn, NULL, NULL, 0), 0);
        pthread_join(thread, NULL);
        atomic_store(futex_word, turn + 1);
        pages_away(fixture, space, true);
    }
    /* What cannot be. */
    region_decommit(space, address_of(memory + 160 * PG), 2);
    assert_int_equal(pread(file, memory + 160 * PG, PG, 0), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(access_try(memory + 161 * PG + 3, true), SIGSEGV);
    assert_ptr_equal(caught.address, memory + 161 * PG + 3);
    tide_address base = address_of(memory + 160 * PG);
    uint64_t bytes = 2 * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE));
    assert_int_equal(access_try(memory + 160 * PG, true), 0);
    assert_int_equal(access_try(memory + 161 * PG, true), 0);
    assert_int_equal(pread(file, memory + 160 * PG, PG, 0), PG);
    close(file);
    assert_true(mapped_now(space).faults > 0);
    fixture_close(fixture);
}

static void by_threads_violations_and_rights(void **state)
{
    struct fixture *fixture = *state;
    if (!threads_allowed())
        skip();
    signals_catch();
    fixture_page_file(fixture, 600);
    fixture_open(fixture, 300);
    tide_space *space = mapped_new(fixture, TIDE_DELIVERY_THREADS, 0);
    char *memory = pages_new(space, 20);
    uint32_t old = 0;
    stamp_pages_plainly(memory, 20, 1, 1);
    for (unsigned turn = 0; turn < 5; turn++) {
        assert_success(tide_virtual_protect(space, address_of(memory), PG, TIDE_PAGE_READONLY, &old));
        assert_success(tide_virtual_protect(space, address_of(memory + PG), PG, TIDE_PAGE_NOACCESS, &old));
        assert_int_equal(access_try(memory + 3, true), SIGSEGV);
        assert_ptr_equal(caught.address, memory + 3);
        assert_int_equal(access_try(memory + PG + 5, false), SIGSEGV);
        assert_ptr_equal(caught.address, memory + PG + 5);
        assert_int_equal(access_try(memory + PG - 1, false), 0); /* a read-only page can be read, still */
        assert_true(stamp_matches(memory, 1, address_of(memory), 1));
        assert_success(tide_virtual_protect(space, address_of(memory), 2 * PG, TIDE_PAGE_READWRITE, &old));
        assert_int_equal(access_try(memory + 8, true), 0);
        stamp_pages_plainly(memory, 2, 1, 1);
        pages_away(fixture, space, true);
    }
    assert_true(stamps_match(memory, 20, 1, 1));
    fixture_close(fixture);
}

static void by_threads_an_error_at_page_in_is_a_bus_error(void **state)
{
    if (!threads_allowed())
        skip();
    an_error_at_page_in_run(*state, TIDE_DELIVERY_THREADS);
}

static void by_threads_a_wait_for_a_frame_lets_signals_in(void **state)
{
#if defined(__SANITIZE_THREAD__)
    skip(); /* it keeps a signal back until the thread makes a call */
#endif
    if (!threads_allowed())
        skip();
    a_wait_for_a_frame_lets_signals_in_run(*state, TIDE_DELIVERY_THREADS);
}

static void by_threads_decommit_against_touch(void **state)
{
    if (!threads_allowed())
        skip();
    decommit_run(*state, TIDE_DELIVERY_THREADS);
}

static void by_threads_trim_and_write_out_against_touch(void **state)
{
    if (!threads_allowed())
        skip();
    torment_run(*state, TIDE_DELIVERY_THREADS, true);
}

/* ---- not permitted ---------------------------------------------------------------------------------------------- */

static void privileges_drop(void)
{
    if (getuid() == 0) {
        CHILD_CHECK(setgid(65534) == 0);
        CHILD_CHECK(setuid(65534) == 0);
    }
}

static int without_privileges(void)
{
    tide_engine *engine = NULL;
    privileges_drop();
    CHILD_CHECK(tide_mapped_check(TIDE_DELIVERY_SIGNAL) == TIDE_SUCCESS);
    tide_space *space = child_space(&engine, TIDE_DELIVERY_SIGNAL);
    char *memory = child_pages(space, 300, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    for (unsigned i = 0; i < 300; i++)
        store(memory + i * PG, (unsigned char)i);
    CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
    for (unsigned i = 0; i < 300; i++)
        CHILD_CHECK(load(memory + i * PG) == (unsigned char)i);
    tide_mapped_options options;
    tide_mapped_options_init(&options);
    options.delivery = TIDE_DELIVERY_THREADS;
    tide_space *other = NULL;
    CHILD_CHECK(tide_mapped_check(TIDE_DELIVERY_THREADS) == TIDE_NOT_SUPPORTED);
    CHILD_CHECK(strstr(tide_last_error()->message, "vm.unprivileged_userfaultfd=1") != NULL);
    CHILD_CHECK(tide_mapped_space_create(engine, &options, &other) == TIDE_NOT_SUPPORTED);
    CHILD_CHECK(other == NULL);
    CHILD_CHECK(strstr(tide_last_error()->message, "CAP_SYS_PTRACE") != NULL);
    CHILD_CHECK(strstr(tide_last_error()->message, "TIDE_DELIVERY_SIGNAL") != NULL);
    child_close(space, engine);
    return 0;
}

/* A system call fails with this from now on. */
static void filter_install(int number, int error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };
    CHILD_CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHILD_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static int filtered(int error)
{
    tide_engine *engine = NULL;
    tide_config config;
    tide_space *space = NULL;
    privileges_drop(); /* so that /dev/userfaultfd is no way round */
    filter_install(SYS_userfaultfd, error);
    tide_config_init(&config);
    config.memory_bytes = 100 * PG;
    CHILD_CHECK(tide_engine_open(&config, &engine) == TIDE_SUCCESS);
    for (int delivery = 0; delivery < 2; delivery++) {
        tide_mapped_options options;
        tide_mapped_options_init(&options);
        options.delivery = (tide_delivery)delivery;
        CHILD_CHECK(tide_mapped_check(options.delivery) == TIDE_NOT_SUPPORTED);
        CHILD_CHECK(tide_last_error()->io_error == error);
        CHILD_CHECK(tide_mapped_space_create(engine, &options, &space) == TIDE_NOT_SUPPORTED);
        CHILD_CHECK(tide_last_error()->io_error == error);
        CHILD_CHECK(strstr(tide_last_error()->message, "/dev/userfaultfd") != NULL);
        if (delivery == 0 || error == ENOSYS)
            CHILD_CHECK(strstr(tide_last_error()->message, "seccomp") != NULL);
        CHILD_CHECK(space == NULL);
    }
    /* The engine is as good as before. */
    CHILD_CHECK(tide_space_create(engine, &space) == TIDE_SUCCESS);
    child_close(space, engine);
    return 0;
}

static int filtered_eperm(void)
{
    return filtered(EPERM);
}

static int filtered_enosys(void)
{
    return filtered(ENOSYS);
}

/* The remedy that the refusal names: a device that may be opened does what the system call does not. */
static int by_the_device(void)
{
    char page[PG];
    int ends[2];
    filter_install(SYS_userfaultfd, EPERM);
    CHILD_CHECK(syscall(SYS_userfaultfd, 0) == -1 && errno == EPERM);
    CHILD_CHECK(pipe(ends) == 0);
    for (int delivery = 0; delivery < 2; delivery++) {
        tide_engine *engine = NULL;
        tide_space *space = child_space(&engine, (tide_delivery)delivery);
        char *memory = child_pages(space, 300, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
        for (unsigned i = 0; i < 300; i++)
            store(memory + i * PG, (unsigned char)i);
        CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
        for (unsigned i = 0; i < 300; i++)
            CHILD_CHECK(load(memory + i * PG) == (unsigned char)i);
        if (delivery == TIDE_DELIVERY_THREADS) { /* the kernel's own accesses too */
            CHILD_CHECK(tide_working_set_empty(space) == TIDE_SUCCESS);
            CHILD_CHECK(write(ends[1], memory + 7 * PG, PG) == PG);
            CHILD_CHECK(read(ends[0], page, PG) == PG && page[0] == 7);
        }
        child_close(space, engine);
    }
    return 0;
}

static void the_device_serves_where_the_call_is_not_permitted(void **state)
{
    (void)state;
    if (access("/dev/userfaultfd", R_OK | W_OK) != 0) {
        print_message("skipped: /dev/userfaultfd: %s\n", strerror(errno));
        skip();
    }
    assert_child_exits("by_the_device");
}

static void what_is_not_permitted_is_refused_with_the_remedy(void **state)
{
    (void)state;
    int sysctl = 0;
    FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "r");
    if (file != NULL) {
        assert_int_equal(fscanf(file, "%d", &sysctl), 1);
        fclose(file);
    }
    if (sysctl == 0 && access("/dev/userfaultfd", F_OK) != 0)
        print_message("there is no /dev/userfaultfd here\n");
    if (sysctl == 0)
        assert_child_exits("without_privileges");
    assert_child_exits("filtered_eperm");
    assert_child_exits("filtered_enosys");
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*main)(void);
} children[] = {
#define CHILD(name)                                                                                                    \
    {                                                                                                                  \
#name, name                                                                                                    \
    }
    CHILD(blocked_segv),          CHILD(ignored_segv),   CHILD(default_segv),
    CHILD(blocked_bus),           CHILD(exit_in_flight), CHILD(exit_in_flight_by_threads),
    CHILD(locked_by_the_program), CHILD(filtered_eperm), CHILD(filtered_enosys),
    CHILD(without_privileges),    CHILD(by_the_device),
#undef CHILD
};

static const struct CMUnitTest mapped_delivery[] = {
    API_TEST(the_handler_allocates_nothing),
    API_TEST(errno_and_the_last_error_stay),
#if !SANITIZED
    API_TEST(a_fault_inside_malloc),
    API_TEST(a_fault_inside_malloc_of_the_library),
#endif
    API_TEST(faults_in_signal_handlers),
    API_TEST(faults_in_signal_handlers_with_worker_threads),
    API_TEST(a_small_alternate_stack_is_enough),
    API_TEST(short_lived_threads_leave_nothing),
    API_TEST(a_violation_is_a_segmentation_fault_at_the_instruction),
    API_TEST(a_handler_may_commit_and_return),
    API_TEST(a_violation_that_cannot_be_told_ends_the_process),
    API_TEST(decommit_against_touch),
    API_TEST(trim_and_write_out_against_touch),
    API_TEST(trim_and_write_out_against_touch_with_worker_threads),
    API_TEST(an_error_at_page_in_is_a_bus_error),
    API_TEST(a_wait_for_a_frame_lets_signals_in),
    API_TEST(a_child_does_not_have_the_window),
    API_TEST(memory_locked_by_the_program_is_trimmed),
    API_TEST(exit_with_faults_in_flight),
    API_TEST(by_signal_a_system_call_needs_a_pin),
    API_TEST(by_threads_system_calls_work),
    API_TEST(by_threads_violations_and_rights),
    API_TEST(by_threads_an_error_at_page_in_is_a_bus_error),
    API_TEST(by_threads_a_wait_for_a_frame_lets_signals_in),
    API_TEST(by_threads_decommit_against_touch),
    API_TEST(by_threads_trim_and_write_out_against_touch),
    API_TEST(what_is_not_permitted_is_refused_with_the_remedy),
    API_TEST(the_device_serves_where_the_call_is_not_permitted),
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc == 3 && strcmp(argv[1], "--child") == 0 && i < sizeof(children) / sizeof(children[0]);
         i++)
        if (strcmp(argv[2], children[i].name) == 0)
            return children[i].main();
    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {
        print_message("skipped: %s\n", tide_last_error()->message);
        return SUPPORT_SKIPPED;
    }
    pthread_key_t key; /* the_handler_allocates_nothing() */
    for (unsigned i = 0; i < 40; i++)
        (void)pthread_key_create(&key, NULL);
    return support_main(argc, argv, "mapped_delivery", mapped_delivery,
                        sizeof(mapped_delivery) / sizeof(mapped_delivery[0]));
}

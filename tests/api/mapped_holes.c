/*
 * A part of a mapped space's window that the program unmaps, moves, or maps something else over, by mistake: what is
 * the program's stays the program's, byte for byte and with its rights, whatever the engine does to the pages whose
 * addresses it has; the space loses nothing, and gets its addresses back when they are free again.
 *
 * Nothing is timed. A test that would hang is ended by ctest.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { SPACE_OWNER = 1, PROGRAM_OWNER = 7 }; /* of stamps */

/* ---- plain accesses --------------------------------------------------------------------------------------------- */

static _Thread_local sigjmp_buf *volatile way_out;
static _Thread_local void *volatile caught_address;

static void signal_catch(int number, siginfo_t *info, void *context)
{
    (void)context;
    caught_address = info->si_addr;
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

/* 0, or the signal that the access got. Accesses by mistake may race with whoever has the address by now. */
__attribute__((noinline, no_sanitize("thread"))) static int access_try(char *address, bool write)
{
    sigjmp_buf here;
    const int number = sigsetjmp(here, 1);
    if (number == 0) {
        way_out = &here;
        const char value = *(volatile char *)address;
        if (write)
            *(volatile char *)address = value;
    }
    way_out = NULL;
    return number;
}

#define assert_signal(address, write, number)                                                                          \
    do {                                                                                                               \
        assert_int_equal(access_try((address), (write)), (number));                                                    \
        assert_ptr_equal(caught_address, (address));                                                                   \
    } while (0)

/* ---- spaces ----------------------------------------------------------------------------------------------------- */

static tide_space *mapped_new(struct fixture *fixture, tide_delivery delivery, unsigned handlers)
{
    tide_mapped_options options;
    tide_mapped_options_init(&options);
    options.window_bytes = 1ull << 32;
    options.delivery = delivery;
    options.handler_threads = handlers;
    tide_space *space = NULL;
    assert_success(tide_mapped_space_create(fixture->engine, &options, &space));
    fixture->spaces[0] = space;
    return space;
}

static tide_space *space_of_frames(struct fixture *fixture, tide_delivery delivery, uint64_t frames)
{
    signals_catch();
    fixture_page_file(fixture, 2000);
    fixture_open(fixture, frames);
    return mapped_new(fixture, delivery, 0);
}

static tide_address address_of(const void *pointer)
{
    return (uintptr_t)pointer;
}

static void stamps_put(char *memory, unsigned pages, uint64_t owner, uint64_t version)
{
    for (unsigned i = 0; i < pages; i++)
        stamp_fill(memory + i * PG, owner, address_of(memory + i * PG), version);
}

static bool stamps_match(const char *memory, unsigned pages, uint64_t owner, uint64_t version)
{
    for (unsigned i = 0; i < pages; i++)
        if (!stamp_matches(memory + i * PG, owner, address_of(memory + i * PG), version))
            return false;
    return true;
}

/* As page_out(), when a handler thread may still be showing what follows a page. */
static void pages_away(struct fixture *fixture, tide_space *space, bool out)
{
    assert_success(tide_working_set_empty(space));
    if (out) {
        write_modified(fixture);
        empty_standby(fixture);
    }
}

static void protect(tide_space *space, const char *memory, unsigned pages, uint32_t protection)
{
    uint32_t old = 0;
    assert_success(tide_virtual_protect(space, address_of(memory), pages * PG, protection, &old));
}

static char *region_at(tide_space *space, const char *wish, unsigned pages, uint32_t type)
{
    tide_address base = address_of(wish);
    uint64_t bytes = pages * PG;
    assert_success(tide_virtual_alloc(space, &base, &bytes, type, TIDE_PAGE_READWRITE));
    return tide_pointer(base);
}

static void release(tide_space *space, const char *memory)
{
    assert_success(tide_virtual_free(space, address_of(memory), 0, TIDE_MEM_RELEASE));
}

static char *map(char *at, unsigned pages, int rights, int flags)
{
    char *memory = mmap(at, pages * PG, rights, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    assert_true(memory != MAP_FAILED);
    return memory;
}

static char *move(char *from, unsigned pages, char *to)
{
    char *memory = mremap(from, pages * PG, pages * PG, MREMAP_MAYMOVE | MREMAP_FIXED, to);
    assert_ptr_equal(memory, to);
    return memory;
}

static bool threads_allowed(void)
{
    return tide_mapped_check(TIDE_DELIVERY_THREADS) == TIDE_SUCCESS;
}

/* Each test with both deliveries. */
#define TEST_OF_BOTH(name)                                                                                             \
    static void name(void **state)                                                                                     \
    {                                                                                                                  \
        name##_run(*state, TIDE_DELIVERY_SIGNAL);                                                                      \
    }                                                                                                                  \
    static void name##_by_threads(void **state)                                                                        \
    {                                                                                                                  \
        if (!threads_allowed())                                                                                        \
            skip();                                                                                                    \
        name##_run(*state, TIDE_DELIVERY_THREADS);                                                                     \
    }

/* ---- something else lies there ---------------------------------------------------------------------------------- */

enum { PART = 10 };

/* What the program put over the window, at pages 20, 50 and 80: mapped, moved there, and mapped to be read alone. */
struct program_parts {
    char *mapped, *moved, *readable;
};

static void parts_check(const struct program_parts *parts, unsigned version)
{
    assert_true(stamps_match(parts->mapped, PART, PROGRAM_OWNER, version));
    assert_true(stamps_match(parts->moved, PART, PROGRAM_OWNER, version));
    for (unsigned i = 0; i < PART * PG; i += 511)
        assert_int_equal(parts->readable[i], 0);
    assert_signal(parts->readable + 3 * PG, true, SIGSEGV);
    assert_int_equal(access_try(parts->mapped, true), 0);
    assert_int_equal(access_try(parts->moved + (PART - 1) * PG, true), 0);
}

static void what_the_program_maps_over_a_window_is_its_own_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 100)), page[PG];
    stamps_put(memory, 100, SPACE_OWNER, 1);

    struct program_parts parts;
    parts.mapped = map(memory + 20 * PG, PART, PROT_READ | PROT_WRITE, MAP_FIXED);
    parts.moved = move(map(NULL, PART, PROT_READ | PROT_WRITE, 0), PART, memory + 50 * PG);
    parts.readable = map(memory + 80 * PG, PART, PROT_READ, MAP_FIXED);
    for (unsigned turn = 2; turn < 6; turn++) {
        stamps_put(parts.mapped, PART, PROGRAM_OWNER, turn);
        stamps_put(parts.moved, PART, PROGRAM_OWNER, turn);
        pages_away(fixture, space, turn % 2 == 0);
        parts_check(&parts, turn);
        /* Calls have the space's own pages, in the same place. */
        for (unsigned i = 0; i < 100; i++) {
            assert_success(tide_read(space, address_of(memory + i * PG), page, PG));
            assert_true(stamp_matches(page, SPACE_OWNER, address_of(memory + i * PG), 1));
        }
        assert_success(tide_write(space, address_of(memory + 25 * PG), page, 10));
        assert_false(tide_failed(tide_touch(space, address_of(memory + 55 * PG), TIDE_ACCESS_WRITE)));
        stamp_fill(page, SPACE_OWNER, address_of(memory + 25 * PG), 1);
        assert_success(tide_write(space, address_of(memory + 25 * PG), page, PG));
        parts_check(&parts, turn);
        protect(space, memory, 100, TIDE_PAGE_NOACCESS);
        parts_check(&parts, turn);
        protect(space, memory, 100, TIDE_PAGE_READONLY);
        assert_true(stamps_match(memory, 20, SPACE_OWNER, 1));
        parts_check(&parts, turn);
        protect(space, memory, 100, TIDE_PAGE_READWRITE);
        parts_check(&parts, turn);
        for (unsigned i = 0; i < 100; i += 10) /* what lies beside is as ever */
            if (i != 20 && i != 50 && i != 80) {
                assert_true(stamps_match(memory + i * PG, 10, SPACE_OWNER, 1));
                stamps_put(memory + i * PG, 10, SPACE_OWNER, 1);
            }
        pages_away(fixture, space, false);
    }
    fixture_verify(fixture);
    region_decommit(space, address_of(memory + 15 * PG), 40);
    parts_check(&parts, 5);
    (void)region_at(space, memory + 15 * PG, 40, TIDE_MEM_COMMIT);
    for (unsigned i = 15; i < 55; i++) {
        assert_success(tide_read(space, address_of(memory + i * PG), page, PG));
        assert_int_equal(page[i], 0);
    }
    parts_check(&parts, 5);
    release(space, memory);
    parts_check(&parts, 5);
    fixture_verify(fixture);
    space_close(fixture, space);
    parts_check(&parts, 5);
    munmap(memory, 100 * PG);
    fixture_close(fixture);
}

/* A file of the program's that is shorter than its mapping: SIGBUS is for the program, and not to be resolved. */
static void a_bus_error_of_what_lies_over_a_window_is_the_programs_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 20));
    stamps_put(memory, 20, SPACE_OWNER, 1);
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_true(mmap(memory + 5 * PG, PG, PROT_READ, MAP_SHARED | MAP_FIXED, fileno(file), 0) == memory + 5 * PG);
    for (unsigned i = 0; i < 3; i++) {
        assert_signal(memory + 5 * PG + i, false, SIGBUS);
        pages_away(fixture, space, i % 2 == 0);
    }
    assert_true(stamps_match(memory, 5, SPACE_OWNER, 1));
    fclose(file);
    fixture_close(fixture);
}

/* ---- nothing lies there ----------------------------------------------------------------------------------------- */

static void a_hole_is_the_windows_again_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 100)), page[PG];
    stamps_put(memory, 100, SPACE_OWNER, 1);
    assert_int_equal(munmap(memory + 30 * PG, 40 * PG), 0);
    for (unsigned turn = 0; turn < 4; turn++) {
        for (unsigned i = 0; i < 100; i++) {
            if (i >= 30 && i < 70)
                assert_signal(memory + i * PG + i, i % 2 == 0, SIGSEGV);
            else
                assert_int_equal(access_try(memory + i * PG, i % 2 == 0), 0);
            assert_success(tide_read(space, address_of(memory + i * PG), page, PG));
            assert_true(stamp_matches(page, SPACE_OWNER, address_of(memory + i * PG), 1));
        }
        pages_away(fixture, space, turn % 2 == 0);
    }
    /* Nothing that looks for addresses comes here: the hole is plugged. */
    assert_true(mmap(memory + 40 * PG, PG, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
                MAP_FAILED);
    assert_int_equal(errno, EEXIST);

    /* A call that gives rights gives the pages back, with what is in them. */
    protect(space, memory + 30 * PG, 20, TIDE_PAGE_READWRITE);
    assert_true(stamps_match(memory, 50, SPACE_OWNER, 1));
    assert_signal(memory + 50 * PG, false, SIGSEGV);
    release(space, memory);
    assert_ptr_equal(region_at(space, memory, 100, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT), memory);
    for (unsigned turn = 0; turn < 4; turn++) {
        stamps_put(memory, 100, SPACE_OWNER, turn);
        pages_away(fixture, space, turn % 2 == 0);
        assert_true(stamps_match(memory, 100, SPACE_OWNER, turn));
    }
    /* A hole in a free part, which is reserved first, and committed later. */
    release(space, memory);
    assert_int_equal(munmap(memory - 10 * PG, 40 * PG), 0); /* and beyond the window's begin */
    (void)region_at(space, memory, 100, TIDE_MEM_RESERVE);
    const uint64_t violations = statistics_now(fixture).faults.access_violations;
    assert_signal(memory + 5 * PG, true, SIGSEGV);
    assert_int_equal(statistics_now(fixture).faults.access_violations,
                     violations + 1); /* the engine's, as of a stack */
    (void)region_at(space, memory, 100, TIDE_MEM_COMMIT);
    stamps_put(memory, 100, SPACE_OWNER, 9);
    pages_away(fixture, space, true);
    assert_true(stamps_match(memory, 100, SPACE_OWNER, 9));
    fixture_close(fixture);
}

/* A part of the window that is moved elsewhere, and one that is moved back. */
static void a_part_that_is_moved_is_no_loss_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 100)), page[PG];
    stamps_put(memory, 100, SPACE_OWNER, 1);
    char *elsewhere = move(memory + 30 * PG, 20, map(NULL, 20, PROT_NONE, 0));
    for (unsigned i = 0; i < 20; i++) {
        assert_signal(memory + (30 + i) * PG, false, SIGSEGV);
        assert_int_equal(access_try(elsewhere + i * PG, false), 0);
        assert_success(tide_read(space, address_of(memory + (30 + i) * PG), page, PG));
        assert_true(stamp_matches(page, SPACE_OWNER, address_of(memory + (30 + i) * PG), 1));
    }
    assert_int_equal(munmap(elsewhere + 10 * PG, 10 * PG), 0);
    move(elsewhere, 10, memory + 30 * PG);
    pages_away(fixture, space, true);
    assert_true(stamps_match(memory, 40, SPACE_OWNER, 1));
    assert_signal(memory + 40 * PG, false, SIGSEGV);
    protect(space, memory, 100, TIDE_PAGE_READWRITE);
    for (unsigned turn = 1; turn < 5; turn++) {
        assert_true(stamps_match(memory, 100, SPACE_OWNER, turn));
        stamps_put(memory, 100, SPACE_OWNER, turn + 1);
        pages_away(fixture, space, turn % 2 == 0);
    }
    fixture_close(fixture);
}

/* ---- addresses that are not to be given out --------------------------------------------------------------------- */

static bool overlap(const char *memory, unsigned pages, const char *other, unsigned other_pages)
{
    return memory < other + other_pages * PG && other < memory + pages * PG;
}

static void addresses_of_the_program_are_not_given_out_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 160)), text[32];
    release(space, memory);
    tide_address lowest = 0, highest = 0;
    assert_success(tide_space_range(space, &lowest, &highest));
    char *low = map(memory + 37 * PG, 5, PROT_READ | PROT_WRITE, MAP_FIXED);
    char *high = map((char *)tide_pointer(highest) + 1 - 40 * PG, 5, PROT_READ | PROT_WRITE, MAP_FIXED);
    stamps_put(low, 5, PROGRAM_OWNER, 1);
    stamps_put(high, 5, PROGRAM_OWNER, 1);

    tide_address base = address_of(memory);
    uint64_t bytes = 160 * PG;
    for (unsigned i = 0; i < 2; i++) {
        assert_status(tide_virtual_alloc(space, &base, &bytes,
                                         i == 0 ? TIDE_MEM_RESERVE | TIDE_MEM_COMMIT : TIDE_MEM_RESERVE,
                                         TIDE_PAGE_READWRITE),
                      TIDE_CONFLICTING_ADDRESSES);
        assert_int_equal(tide_last_error()->address, address_of(low));
        (void)snprintf(text, sizeof(text), "0x%lx", (unsigned long)address_of(low));
        assert_non_null(strstr(tide_last_error()->message, text));
    }
    char *regions[40];
    for (unsigned i = 0; i < 40; i++) {
        const uint32_t type = TIDE_MEM_RESERVE | TIDE_MEM_COMMIT | (i % 2 == 0 ? 0 : TIDE_MEM_TOP_DOWN);
        regions[i] = region_at(space, NULL, 30 - i % 30, type);
        assert_false(overlap(regions[i], 30 - i % 30, low, 5));
        assert_false(overlap(regions[i], 30 - i % 30, high, 5));
        stamps_put(regions[i], 30 - i % 30, SPACE_OWNER, i);
        pages_away(fixture, space, i % 4 == 0);
    }
    for (unsigned i = 0; i < 40; i++) {
        assert_true(stamps_match(regions[i], 30 - i % 30, SPACE_OWNER, i));
        release(space, regions[i]);
    }
    assert_true(stamps_match(low, 5, PROGRAM_OWNER, 1));
    assert_true(stamps_match(high, 5, PROGRAM_OWNER, 1));
    /* When the program has taken its memory away, the addresses are the space's again. */
    assert_int_equal(munmap(low, 5 * PG), 0);
    assert_int_equal(munmap(high, 5 * PG), 0);
    assert_ptr_equal(region_at(space, memory, 160, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT), memory);
    stamps_put(memory, 160, SPACE_OWNER, 2);
    pages_away(fixture, space, true);
    assert_true(stamps_match(memory, 160, SPACE_OWNER, 2));
    char *last = region_at(space, (char *)tide_pointer(highest) + 1 - 48 * PG, 48, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT);
    stamps_put(last, 48, SPACE_OWNER, 3);
    pages_away(fixture, space, true);
    assert_true(stamps_match(last, 48, SPACE_OWNER, 3));
    fixture_close(fixture);
}

/* ---- while everything else goes on ------------------------------------------------------------------------------ */

enum { VICTIM_PAGES = 64, OWN_PAGES = 150, ROUNDS = 400 };
enum { STAMPER_A, STAMPER_B, TRIMMER, TOUCHER, MAPPER, UNMAPPER, MEMBERS };

struct storm {
    struct fixture *fixture;
    tide_space *space;
    char *victim, *own;
    atomic_bool over;
};

static void stamper(struct crew_member *member)
{
    struct storm *storm = member->context;
    char *mine = storm->own + member->index * OWN_PAGES * (size_t)PG;
    for (unsigned turn = 1; !atomic_load(&storm->over); turn++) {
        stamps_put(mine, OWN_PAGES, member->index, turn);
        CREW_CHECK(member, stamps_match(mine, OWN_PAGES, member->index, turn));
    }
}

static void trimmer(struct crew_member *member)
{
    struct storm *storm = member->context;
    for (unsigned turn = 0; !atomic_load(&storm->over); turn++) {
        uint64_t done = 0;
        if (turn % 3 == 0)
            CREW_CHECK(member, tide_working_set_empty(storm->space) == TIDE_SUCCESS);
        else
            CREW_CHECK(member, tide_working_set_trim(storm->space, 100, &done) == TIDE_SUCCESS);
        if (turn % 4 == 0)
            CREW_CHECK(member, tide_engine_empty(storm->fixture->engine, TIDE_EMPTY_MODIFIED) == TIDE_SUCCESS);
        if (turn % 8 == 0)
            CREW_CHECK(member, tide_engine_empty(storm->fixture->engine, TIDE_EMPTY_STANDBY) == TIDE_SUCCESS);
        sched_yield();
    }
}

/* By pointer and by call, and what it finds is the space's, or gone, or the program's. */
static void toucher(struct crew_member *member)
{
    struct storm *storm = member->context;
    uint64_t seed = 3;
    char page[PG];
    while (!atomic_load(&storm->over)) {
        char *at = storm->victim + random_step(&seed) % VICTIM_PAGES * PG;
        const int number = access_try(at, false);
        CREW_CHECK(member, number == 0 || (number == SIGSEGV && caught_address == at));
        CREW_CHECK(member, tide_read(storm->space, address_of(at), page, PG) == TIDE_SUCCESS);
        CREW_CHECK(member, stamp_matches(page, SPACE_OWNER, address_of(at), 1));
    }
}

/* The program's own memory, wherever the kernel puts it. */
static void mapper(struct crew_member *member)
{
    struct storm *storm = member->context;
    uint64_t seed = 4;
    while (!atomic_load(&storm->over)) {
        const unsigned pages = 1 + (unsigned)(random_step(&seed) % 8);
        char *memory = mmap(NULL, pages * PG, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CREW_CHECK(member, memory != MAP_FAILED);
        stamps_put(memory, pages, PROGRAM_OWNER, 2);
        sched_yield();
        CREW_CHECK(member, stamps_match(memory, pages, PROGRAM_OWNER, 2));
        munmap(memory, pages * PG);
    }
}

/* Puts memory of the program's over a part of the victim, or tries, in one of all ways. */
static char *part_take(char *at, unsigned pages, unsigned way)
{
    const int rights = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    char *memory;
    switch (way) {
    case 0: /* it may come before the plug, or after it */
        return munmap(at, pages * PG) == 0 ? mmap(at, pages * PG, rights, flags, -1, 0) : MAP_FAILED;
    case 1:
        return mmap(at, pages * PG, rights, flags | MAP_FIXED, -1, 0);
    case 2:
        memory = mmap(NULL, pages * PG, rights, flags | MAP_POPULATE, -1, 0);
        return mremap(memory, pages * PG, pages * PG, MREMAP_MAYMOVE | MREMAP_FIXED, at);
    case 3: /* more than the part, and the part once more, which may be half plugged */
        return munmap(at, (pages + 1) * PG) == 0 && munmap(at, pages * PG) == 0
                   ? mmap(at, pages * PG, rights, flags, -1, 0)
                   : MAP_FAILED;
    default: /* one hole in two calls */
        return munmap(at, (pages + 1) / 2 * PG) == 0 && munmap(at, pages * PG) == 0
                   ? mmap(at, pages * PG, rights, flags, -1, 0)
                   : MAP_FAILED;
    }
}

static void unmapper(struct crew_member *member)
{
    struct storm *storm = member->context;
    uint64_t seed = 5;
    unsigned inside = 0;
    uint32_t old = 0;
    for (unsigned turn = 0; turn < ROUNDS && !atomic_load(&storm->over); turn++) {
        const unsigned pages = 1 + (unsigned)(random_step(&seed) % 16);
        const unsigned first = (unsigned)(random_step(&seed) % (VICTIM_PAGES - pages));
        char *at = storm->victim + first * PG, *memory = part_take(at, pages, turn % 5);
        CREW_NOTE(member, memory != MAP_FAILED);
        inside += memory == at;
        for (unsigned i = 0; i < 3; i++) {
            stamps_put(memory, pages, PROGRAM_OWNER, turn);
            for (unsigned y = 0; y < 3; y++)
                sched_yield();
            CREW_NOTE(member, stamps_match(memory, pages, PROGRAM_OWNER, turn));
        }
        CREW_NOTE(member, munmap(memory, pages * PG) == 0);
        if (turn % 3 != 0) { /* some pages stay as they are for a while */
            CREW_NOTE(member, tide_virtual_protect(storm->space, address_of(at), pages * PG, TIDE_PAGE_READWRITE,
                                                   &old) == TIDE_SUCCESS);
            CREW_NOTE(member, stamps_match(at, pages, SPACE_OWNER, 1));
        }
        if (turn % 50 == 0)
            CREW_NOTE(member, tide_engine_verify(storm->fixture->engine, NULL) == TIDE_SUCCESS);
    }
    CREW_NOTE(member, inside >= ROUNDS / 5 * 2);
    atomic_store(&storm->over, true);
}

static void storm_member(struct crew_member *member)
{
    crew_function *const functions[MEMBERS] = { [STAMPER_A] = stamper, [STAMPER_B] = stamper, [TRIMMER] = trimmer,
                                                [TOUCHER] = toucher,   [MAPPER] = mapper,     [UNMAPPER] = unmapper };
#if defined(__SANITIZE_THREAD__)
    /*
     * The window lies where the kernel looks for addresses, since the sanitizer allows no other; so what this one maps may
     * fall into a hole before it is plugged, while somebody has begun to hide pages there.
     */
    if (member->index == MAPPER)
        return;
#endif
    functions[member->index](member);
    atomic_store(&((struct storm *)member->context)->over, true);
}

static void holes_while_everything_goes_on_with(struct fixture *fixture, tide_delivery delivery, unsigned handlers)
{
    signals_catch();
    fixture->config.workers = TIDE_WORKERS_THREADS;
    fixture_page_file(fixture, 3000);
    fixture_open(fixture, 600);
    struct storm storm = { .fixture = fixture, .space = mapped_new(fixture, delivery, handlers) };
    storm.victim = tide_pointer(region_new(storm.space, VICTIM_PAGES));
    storm.own = tide_pointer(region_new(storm.space, 2 * OWN_PAGES));
    stamps_put(storm.victim, VICTIM_PAGES, SPACE_OWNER, 1);
    crew_run(MEMBERS, storm_member, &storm);
    protect(storm.space, storm.victim, VICTIM_PAGES, TIDE_PAGE_READWRITE);
    assert_true(stamps_match(storm.victim, VICTIM_PAGES, SPACE_OWNER, 1));
    fixture_close(fixture);
}

static void holes_while_everything_goes_on_run(struct fixture *fixture, tide_delivery delivery)
{
    holes_while_everything_goes_on_with(fixture, delivery, 0);
}

/* The only thread that could read of a hole waits for it to be read. */
static void holes_with_one_handler_thread(void **state)
{
    if (!threads_allowed())
        skip();
    holes_while_everything_goes_on_with(*state, TIDE_DELIVERY_THREADS, 1);
}

/* ---- the end ---------------------------------------------------------------------------------------------------- */

/* A child of fork() has the engine's descriptors: they are not closed when the parent has closed them. */
static void a_space_ends_while_a_child_lives_run(struct fixture *fixture, tide_delivery delivery)
{
    tide_space *space = space_of_frames(fixture, delivery, 400);
    char *memory = tide_pointer(region_new(space, 100));
    int ends[2];
    stamps_put(memory, 100, SPACE_OWNER, 1);
    assert_int_equal(munmap(memory + 10 * PG, 10 * PG), 0);
    assert_int_equal(pipe(ends), 0);
    const pid_t child = fork();
    if (child == 0) {
        char byte;
        close(ends[1]);
        _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
    }
    close(ends[0]);
    space_close(fixture, space);
    assert_signal(memory, false, SIGSEGV);
    (void)map(memory, 100, PROT_READ, MAP_FIXED_NOREPLACE); /* all of it is free */
    assert_int_equal(munmap(memory, 100 * PG), 0);
    close(ends[1]);
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    fixture_close(fixture);
}

static char *exit_memory;

static void *exit_thread(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    for (;;)
        (void)munmap(exit_memory + random_step(&seed) % 400 * PG, PG);
    return NULL;
}

/* main() returns while threads unmap parts of the window. */
static int exit_while_unmapping(tide_delivery delivery)
{
    tide_mapped_options options;
    tide_config config;
    tide_engine *engine = NULL;
    tide_space *space = NULL;
    tide_address base = 0;
    uint64_t bytes = 400 * PG;
    pthread_t thread;
    tide_config_init(&config);
    config.memory_bytes = 512 * PG;
    tide_mapped_options_init(&options);
    options.delivery = delivery;
    if (tide_engine_open(&config, &engine) != TIDE_SUCCESS ||
        tide_mapped_space_create(engine, &options, &space) != TIDE_SUCCESS ||
        tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE) !=
            TIDE_SUCCESS)
        return 1;
    exit_memory = tide_pointer(base);
    for (uintptr_t i = 0; i < 4; i++)
        if (pthread_create(&thread, NULL, exit_thread, (void *)i) != 0)
            return 2;
    for (unsigned i = 0; i < 20; i++)
        if (tide_working_set_empty(space) != TIDE_SUCCESS)
            return 3;
    return 0;
}

static void exit_while_parts_are_unmapped_run(struct fixture *fixture, tide_delivery delivery)
{
#if defined(__SANITIZE_ADDRESS__)
    skip(); /* at exit it stops all threads to look for leaks, and waits for those that wait in munmap() */
#endif
    char path[PATH_MAX];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    (void)fixture;
    assert_true(length > 0);
    path[length] = '\0';
    for (unsigned i = 0; i < 5; i++) {
        const pid_t child = fork();
        if (child == 0) {
            /* A search for leaks stops all threads, and waits for one that waits for another. */
            (void)setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
            execl(path, path, "--child", delivery == TIDE_DELIVERY_SIGNAL ? "signal" : "threads", (char *)NULL);
            _exit(127);
        }
        int status = -1;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
    }
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

TEST_OF_BOTH(what_the_program_maps_over_a_window_is_its_own)
TEST_OF_BOTH(a_bus_error_of_what_lies_over_a_window_is_the_programs)
TEST_OF_BOTH(a_hole_is_the_windows_again)
TEST_OF_BOTH(a_part_that_is_moved_is_no_loss)
TEST_OF_BOTH(addresses_of_the_program_are_not_given_out)
TEST_OF_BOTH(holes_while_everything_goes_on)
TEST_OF_BOTH(a_space_ends_while_a_child_lives)
TEST_OF_BOTH(exit_while_parts_are_unmapped)

#define TESTS(name) API_TEST(name), API_TEST(name##_by_threads)

static const struct CMUnitTest mapped_holes[] = {
    TESTS(what_the_program_maps_over_a_window_is_its_own),
    TESTS(a_bus_error_of_what_lies_over_a_window_is_the_programs),
    TESTS(a_hole_is_the_windows_again),
    TESTS(a_part_that_is_moved_is_no_loss),
    TESTS(addresses_of_the_program_are_not_given_out),
    TESTS(holes_while_everything_goes_on),
    API_TEST(holes_with_one_handler_thread),
    TESTS(a_space_ends_while_a_child_lives),
    TESTS(exit_while_parts_are_unmapped),
};

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return exit_while_unmapping(strcmp(argv[2], "signal") == 0 ? TIDE_DELIVERY_SIGNAL : TIDE_DELIVERY_THREADS);
    if (tide_mapped_check(TIDE_DELIVERY_SIGNAL) != TIDE_SUCCESS) {
        print_message("skipped: %s\n", tide_last_error()->message);
        return SUPPORT_SKIPPED;
    }
    return support_main(argc, argv, "mapped_holes", mapped_holes, sizeof(mapped_holes) / sizeof(mapped_holes[0]));
}

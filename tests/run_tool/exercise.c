/*
 * A program that knows nothing of pagetide, and uses memory in all ways that `pagetide run` stands in for. Each part
 * checks what the C library and the kernel promise; it passes without pagetide too. Nothing is printed but a failure.
 *
 * usage: exercise PART MIB   MIB of data: the parts use about so much
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1048576)
#define PAGE ((size_t)4096)
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "FAIL: %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);                    \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Fills memory with what only this seed gives, and looks whether it is there. */
static void fill(void *memory, size_t bytes, uint64_t seed)
{
    unsigned char *at = memory;

    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t word = (seed + i) * 0x9E3779B97F4A7C15u;
        memcpy(at + i, &word, bytes - i < 8 ? bytes - i : 8);
    }
}

static int is_filled(const void *memory, size_t bytes, uint64_t seed)
{
    const unsigned char *at = memory;

    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t word = (seed + i) * 0x9E3779B97F4A7C15u;
        if (memcmp(at + i, &word, bytes - i < 8 ? bytes - i : 8) != 0)
            return 0;
    }
    return 1;
}

static int is_zero(const void *memory, size_t bytes)
{
    const unsigned char *at = memory;

    while (bytes != 0 && *at == 0) {
        at++;
        bytes--;
    }
    return bytes == 0;
}

/* ---- malloc and its family, by several threads ------------------------------------------------------------------- */

enum { SLOTS = 512, THREADS = 4 };

struct slot {
    unsigned char *block;
    size_t bytes;
    uint64_t seed;
};

/* Mostly small, sometimes up to 2 MiB; on average about 80 KiB. */
static size_t random_size(uint64_t *state)
{
    const unsigned kind = (unsigned)(next_random(state) % 100);
    const size_t most = kind < 50 ? 512 : kind < 80 ? 32768 : kind < 95 ? 262144 : 2 * MIB;

    return 1 + next_random(state) % most;
}

static void slot_allocate(struct slot *slot, uint64_t *state)
{
    const size_t bytes = random_size(state), alignment = (size_t)16 << next_random(state) % 12;
    void *block = NULL;

    switch (next_random(state) % 5) {
    case 0:
        block = calloc(1, bytes);
        CHECK(block != NULL && is_zero(block, bytes));
        break;
    case 1:
        CHECK(posix_memalign(&block, alignment, bytes) == 0 && (uintptr_t)block % alignment == 0);
        break;
    case 2:
        block = aligned_alloc(alignment, bytes);
        CHECK((uintptr_t)block % alignment == 0);
        break;
    default:
        block = malloc(bytes);
        CHECK((uintptr_t)block % 16 == 0);
    }
    CHECK(block != NULL && malloc_usable_size(block) >= bytes);
    *slot = (struct slot){ block, bytes, next_random(state) };
    fill(block, bytes, slot->seed);
}

/* Allocates while its thread ends, after the allocator has been told that it does. */
static pthread_key_t last_key;

static void last_words(void *value)
{
    unsigned char *block = malloc(100);

    CHECK(block != NULL && is_filled(value, 50, 21));
    fill(block, 100, 21);
    free(value);
    if (block[99] % 2 == 0 || pthread_setspecific(last_key, block) != 0)
        free(block);
}

static void *malloc_thread(void *argument)
{
    const size_t goal = *(size_t *)argument / THREADS;
    static _Atomic(uint64_t) number;
    uint64_t state = 88172645463325252u + 1000003 * number++;
    struct slot *slots = calloc(SLOTS * 8, sizeof *slots);
    size_t live = 0;

    CHECK(slots != NULL);
    for (unsigned i = 0; i < 40000; i++) {
        struct slot *slot = &slots[next_random(&state) % (SLOTS * 8)];
        if (slot->block == NULL) {
            if (live > goal)
                continue;
            slot_allocate(slot, &state);
            live += slot->bytes;
            continue;
        }
        CHECK(is_filled(slot->block, slot->bytes, slot->seed));
        live -= slot->bytes;
        if (next_random(&state) % 3 == 0) {
            const size_t bytes = random_size(&state), kept = bytes < slot->bytes ? bytes : slot->bytes;
            slot->block = realloc(slot->block, bytes);
            CHECK(slot->block != NULL && is_filled(slot->block, kept, slot->seed));
            slot->bytes = bytes;
            fill(slot->block, bytes, slot->seed);
            live += bytes;
        } else {
            free(slot->block);
            slot->block = NULL;
        }
    }
    for (unsigned i = 0; i < SLOTS * 8; i++) {
        CHECK(slots[i].block == NULL || is_filled(slots[i].block, slots[i].bytes, slots[i].seed));
        free(slots[i].block);
    }
    free(slots);
    unsigned char *last = malloc(50);
    CHECK(last != NULL && pthread_setspecific(last_key, last) == 0);
    fill(last, 50, 21);
    return NULL;
}

static void part_malloc(size_t bytes)
{
    pthread_t threads[THREADS];

    CHECK(pthread_key_create(&last_key, last_words) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, malloc_thread, &bytes) == 0);
    for (unsigned i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    /* Growth of one block, step by step, as a list of Python grows. */
    size_t now = 1000;
    unsigned char *block = malloc(now);
    CHECK(block != NULL);
    fill(block, 1000, 1);
    for (unsigned char step = 1; now < bytes / 2; step++) {
        const size_t more = now + now / 8 + 8;
        block = realloc(block, more);
        CHECK(block != NULL && is_filled(block, 1000, 1) && (step == 1 || block[now - 1] == step));
        now = more;
        block[now - 1] = (unsigned char)(step + 1);
        memset(block + now - now / 16, step + 1, now / 16);
    }
    block = realloc(block, 500);
    CHECK(block != NULL && is_filled(block, 500, 1));
    free(block);
    /* What cannot be. */
    volatile size_t huge = SIZE_MAX / 2, half = SIZE_MAX / 2 + 2;
    errno = 0;
    CHECK(malloc(huge) == NULL && errno == ENOMEM);
    CHECK(calloc(half, 2) == NULL && reallocarray(NULL, half, 2) == NULL);
    void *none = (void *)1;
    CHECK(posix_memalign(&none, 24, 100) == EINVAL && none == (void *)1);
    errno = 5;
    free(malloc(3 * MIB));
    CHECK(errno == 5);
    char *text = strdup("kept");
    CHECK(strcmp(text, "kept") == 0);
    free(text);
}

/* ---- mmap() and what belongs to it ------------------------------------------------------------------------------- */

static sigjmp_buf back;
static void *volatile fault_address;
static volatile int fault_expected;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    fault_address = info->si_addr;
    if (!fault_expected) {
        fprintf(stderr, "FAIL: an access to %p faults\n", info->si_addr);
        abort();
    }
    siglongjmp(back, 1);
}

/* Does a read (or a write) of a byte fault, at its address? */
static int faults(volatile unsigned char *at, int write_it)
{
    int faulted = 0;

    fault_expected = 1;
    if (sigsetjmp(back, 1) != 0)
        faulted = fault_address == at;
    else if (write_it)
        *at = 1;
    else
        (void)*at;
    fault_expected = 0;
    return faulted;
}

static void part_mmap(size_t bytes)
{
    const struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO };
    const size_t half = bytes / 2 / PAGE * PAGE;

    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    unsigned char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED && is_zero(map, 10 * PAGE) && is_zero(map + bytes - PAGE, PAGE));
    fill(map, bytes, 7);
    CHECK(is_filled(map, bytes, 7));

    CHECK(mprotect(map + PAGE, PAGE, PROT_READ) == 0 && !faults(map + PAGE, 0) && faults(map + PAGE, 1));
    CHECK(mprotect(map + 4 * PAGE, 2 * PAGE, PROT_NONE) == 0 && faults(map + 5 * PAGE, 0));
    CHECK(mprotect(map, 8 * PAGE, PROT_READ | PROT_WRITE) == 0 && is_filled(map, bytes, 7));
    CHECK(mprotect(map + 1, PAGE, PROT_READ) == -1 && errno == EINVAL);

    CHECK(madvise(map + 8 * PAGE, 8 * PAGE, MADV_DONTNEED) == 0 && is_zero(map + 8 * PAGE, 8 * PAGE));
    CHECK(is_filled(map, 8 * PAGE, 7) && madvise(map, bytes, MADV_HUGEPAGE) == 0);
    CHECK(madvise(map, bytes, MADV_WILLNEED) == 0 && posix_madvise(map, bytes, POSIX_MADV_SEQUENTIAL) == 0);
    CHECK(posix_madvise(map, bytes, POSIX_MADV_DONTNEED) == 0 && is_filled(map, 8 * PAGE, 7));

    /* A hole, and new memory over the old. */
    CHECK(munmap(map + 16 * PAGE, 3 * PAGE) == 0 && faults(map + 17 * PAGE, 0) && is_filled(map, 8 * PAGE, 7));
    unsigned char *over =
        mmap(map + 20 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(over == map + 20 * PAGE && is_zero(over, 2 * PAGE));
    CHECK(mmap(map, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED);

    /* Smaller, larger elsewhere, and away; a range over several regions and a hole. */
    fill(map + 24 * PAGE, half - 24 * PAGE, 9);
    CHECK(mremap(map, bytes, half, 0) == map && faults(map + half, 0));
    CHECK(munmap(map, 24 * PAGE) == 0 && faults(map, 0) && faults(map + 23 * PAGE, 0));
    unsigned char *moved = mremap(map + 24 * PAGE, half - 24 * PAGE, half + 4 * MIB, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && is_filled(moved, half - 24 * PAGE, 9) && is_zero(moved + half, 4 * MIB));
    CHECK(munmap(moved, half + 4 * MIB) == 0 && faults(moved, 0));

    /* What stays with the kernel. */
    void *none = mmap(NULL, 64 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(none != MAP_FAILED && mprotect(none, PAGE, PROT_READ | PROT_WRITE) == 0);
    *(char *)none = 1;
    CHECK(munmap(none, 64 * MIB) == 0);
    int *shared = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && munmap(shared, MIB) == 0);
}

/* ---- fork() and other ways to have children ---------------------------------------------------------------------- */

static int wait_for(pid_t child)
{
    int status = -1;

    CHECK(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + status;
}

struct family {
    unsigned char *map, *closed, *large, *small[1000];
    size_t bytes;
    FILE *stream;
};

static void family_check(const struct family *f)
{
    CHECK(is_filled(f->map, f->bytes, 1) && is_filled(f->large, f->bytes, 2));
    for (unsigned i = 0; i < 1000; i++)
        CHECK(is_filled(f->small[i], 1000, i));
}

/* A child with the whole memory of its parent uses, changes, resizes and frees all of it. */
static void child_main(struct family *f, int depth)
{
    family_check(f);
    if (depth != 0) {
        const pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild == 0) {
            child_main(f, depth - 1);
            _exit(7);
        }
        CHECK(wait_for(grandchild) == 7);
        family_check(f);
    }
    CHECK(mprotect(f->closed, MIB, PROT_READ | PROT_WRITE) == 0 && is_filled(f->closed, MIB, 5));
    memset(f->map, 1, f->bytes);
    f->large = realloc(f->large, f->bytes + 4 * MIB);
    CHECK(f->large != NULL && is_filled(f->large, f->bytes, 2));
    for (unsigned i = 0; i < 1000; i++) {
        f->small[i] = realloc(f->small[i], 2000);
        CHECK(f->small[i] != NULL && is_filled(f->small[i], 1000, i));
        free(f->small[i]);
    }
    unsigned char *fresh = malloc(3 * MIB), *zero = calloc(5, MIB);
    CHECK(fresh != NULL && zero != NULL && is_zero(zero, 5 * MIB));
    fill(fresh, 3 * MIB, 3);
    free(zero);
    CHECK(is_filled(fresh, 3 * MIB, 3));
    free(fresh);
    free(f->large);
    CHECK(munmap(f->map, f->bytes) == 0 && fprintf(f->stream, "child\n") == 6 && fflush(f->stream) == 0);
}

static void *busy_thread(void *argument)
{
    volatile int *stop = argument;

    while (!*stop) {
        unsigned char *block = malloc(300000), *other = malloc(100);
        CHECK(block != NULL && other != NULL);
        block[100] = other[50] = 1;
        free(block);
        free(other);
    }
    return NULL;
}

static void part_fork(size_t bytes)
{
    struct family f = { .bytes = bytes / 2 / PAGE * PAGE, .stream = tmpfile() };
    extern char **environ;
    volatile int stop = 0;
    pthread_t thread;

    CHECK(f.stream != NULL);
    f.map = mmap(NULL, f.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f.closed = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    f.large = malloc(f.bytes);
    CHECK(f.map != MAP_FAILED && f.closed != MAP_FAILED && f.large != NULL);
    fill(f.map, f.bytes, 1);
    fill(f.large, f.bytes, 2);
    fill(f.closed, MIB, 5);
    CHECK(mprotect(f.closed, MIB, PROT_NONE) == 0);
    for (unsigned i = 0; i < 1000; i++) {
        f.small[i] = malloc(1000);
        fill(f.small[i], 1000, i);
    }
    /* A stream that is opened late: fork() walks them all in the child, before any handler runs there. */
    FILE *late = fopen("/dev/null", "r");
    CHECK(late != NULL && pthread_create(&thread, NULL, busy_thread, (void *)&stop) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        child_main(&f, 1);
        exit(8);
    }
    CHECK(wait_for(child) == 8);
    family_check(&f);
    stop = 1;
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(system("exit 3") == 3 << 8);
    char *arguments[] = { (char *)"sh", (char *)"-c", (char *)"exit 4", NULL };
    CHECK(posix_spawnp(&child, "sh", NULL, NULL, arguments, environ) == 0 && wait_for(child) == 4);
    child = vfork();
    if (child == 0)
        _exit(5);
    CHECK(wait_for(child) == 5);
    child = fork(); /* the usual way: execute at once */
    if (child == 0) {
        execvp(arguments[0], arguments);
        _exit(127);
    }
    CHECK(wait_for(child) == 4);
    /* No child, and what it costs is undone. */
    const struct rlimit none = { 0, 0 };
    struct rlimit old;
    CHECK(getrlimit(RLIMIT_NPROC, &old) == 0);
    if (geteuid() != 0 && setrlimit(RLIMIT_NPROC, &none) == 0) {
        CHECK(fork() == -1 && errno == EAGAIN);
        CHECK(setrlimit(RLIMIT_NPROC, &old) == 0);
    }
    family_check(&f);
    fclose(late);
    fclose(f.stream);
}

/* ---- system calls on memory that is in the page file ------------------------------------------------------------- */

static void part_calls(size_t bytes)
{
    unsigned char *block = malloc(bytes), *other = malloc(bytes);
    FILE *stream = tmpfile();
    int ends[2];

    CHECK(block != NULL && other != NULL && stream != NULL);
    fill(block, bytes, 11);
    memset(other, 1, bytes); /* what was filled first has left memory by now */
    CHECK(fwrite(block, 1, bytes, stream) == bytes && fflush(stream) == 0);
    CHECK(pread(fileno(stream), other, bytes, 0) == (ssize_t)bytes && is_filled(other, bytes, 11));
    memset(other, 2, bytes);
    rewind(stream);
    CHECK(fread(other, 1, bytes, stream) == bytes && is_filled(other, bytes, 11));
    struct iovec parts[2] = { { block, bytes / 2 }, { block + bytes / 2, bytes - bytes / 2 } };
    CHECK(lseek(fileno(stream), 0, SEEK_SET) == 0 && writev(fileno(stream), parts, 2) == (ssize_t)bytes);
    memset(other, 3, bytes);
    CHECK(lseek(fileno(stream), 0, SEEK_SET) == 0 && read(fileno(stream), other, bytes) == (ssize_t)bytes);
    CHECK(is_filled(other, bytes, 11));
    CHECK(pipe(ends) == 0);
    for (size_t at = 0; at < bytes; at += 65536) {
        const size_t length = bytes - at < 65536 ? bytes - at : 65536;
        CHECK(write(ends[1], block + at, length) == (ssize_t)length);
        for (size_t got = 0; got < length;) {
            const ssize_t part = read(ends[0], other + at + got, length - got);
            CHECK(part > 0);
            got += (size_t)part;
        }
    }
    CHECK(is_filled(other, bytes, 11));
    fclose(stream);
}

/* ---- a program that takes descriptors as its own ----------------------------------------------------------------- */

static void part_descriptors(size_t bytes)
{
    unsigned char *block = malloc(bytes);

    CHECK(block != NULL);
    fill(block, bytes, 13);
    const int low = open("/dev/null", O_RDONLY);
    CHECK(low >= 0 && low < 16 && dup2(low, 9) == 9);
    for (int i = 3; i < 1024; i++)
        (void)close(i);
    closefrom(3);
    CHECK(close_range(3, ~0u, 0) == 0);
    CHECK(is_filled(block, bytes, 13));
    fill(block, bytes, 14);
    CHECK(is_filled(block, bytes, 14));
    _exit(9);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(size_t bytes);
    } parts[] = {
        { "malloc", part_malloc },           { "mmap", part_mmap }, { "fork", part_fork }, { "calls", part_calls },
        { "descriptors", part_descriptors },
    };
    const int mib = argc == 3 ? atoi(argv[2]) : 0;

    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && mib > 0; i++)
        if (strcmp(argv[1], parts[i].name) == 0) {
            parts[i].run((size_t)mib * MIB);
            return 0;
        }
    fprintf(stderr, "usage: exercise malloc|mmap|fork|calls|descriptors MIB\n");
    return 2;
}

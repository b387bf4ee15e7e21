/*
 * Which cache lines a thread writes.
 *
 * The library's objects of this build are compiled with -fsanitize=thread, so that each plain store and each atomic
 * calls a function of the sanitizer's runtime before, or instead of, touching memory. The program is linked without
 * that runtime: callbacks.c has the functions. They do what was asked, and while the calling thread has a recorder they
 * note the line. memset, memcpy and memmove come here too (-fno-builtin-..., --wrap).
 *
 * What stays unseen: inline assembly, and code that was not compiled here. On the paths that are measured that is
 * Concurrency Kit's ck_epoch_begin() and ck_epoch_end(), whose writes are noted by hand (recorder_note), and the
 * stores by which the C library and the kernel do their own business. Stores of locals that never leave a function are
 * not instrumented; they are on the thread's own stack.
 *
 * Reads are recorded if the recorder asks for them, in columns of their own. An atomic read-modify-write counts as a
 * write, also a compare-and-swap that fails: it takes the line away from other CPUs just the same.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_LINES_RECORDER_H
#define TESTS_LINES_RECORDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LINE_BYTES = 64 };

struct recorded_line {
    uintptr_t address;  /* of the line; 0: slot unused */
    const void *writer; /* return address of the last store */
    uint32_t steps;     /* steps that wrote the line, each counted once */
    uint32_t last_step;
    const void *reader;  /* return address of the last load */
    uint32_t read_steps; /* steps that read the line, whether or not they wrote it too */
    uint32_t last_read_step;
};

/* One thread's writes: a hash table with open addressing. A step is one fault, or whatever the test calls one. */
struct recorder {
    struct recorded_line *lines;
    uint32_t capacity; /* a power of two */
    uint32_t used;
    uint32_t step;
    bool reads; /* record them too; set before recorder_set() */
    bool full;  /* lines were lost: the recording is worth nothing */
};

/* False if there is no memory. The memory is touched at once. */
bool recorder_init(struct recorder *recorder, uint32_t capacity);
void recorder_destroy(struct recorder *recorder);

/* From now on the calling thread's writes go to the recorder; NULL to stop. */
void recorder_set(struct recorder *recorder);
/* The next step begins. */
void recorder_step(struct recorder *recorder);
/* Notes a write of the calling thread that the compiler did not see. */
void recorder_note(const volatile void *address, size_t bytes);

#endif

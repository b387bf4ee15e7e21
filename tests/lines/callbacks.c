/*
 * The recorder, and the functions that objects compiled with -fsanitize=thread call; the idea is in recorder.h. This
 * file is not instrumented itself.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "recorder.h"

#include <stdlib.h>
#include <string.h>

static _Thread_local struct recorder *current; /* NULL: the thread does not record */

#define CALLER __builtin_return_address(0)

/* ---- the recorder ----------------------------------------------------------------------------------------------- */

bool recorder_init(struct recorder *recorder, uint32_t capacity)
{
    *recorder = (struct recorder){ .capacity = capacity };
    recorder->lines = malloc(capacity * sizeof *recorder->lines);
    if (recorder->lines == NULL)
        return false;
    memset(recorder->lines, 0, capacity * sizeof *recorder->lines);
    return true;
}

void recorder_destroy(struct recorder *recorder)
{
    free(recorder->lines);
    recorder->lines = NULL;
}

void recorder_set(struct recorder *recorder)
{
    current = recorder;
}

void recorder_step(struct recorder *recorder)
{
    recorder->step++;
}

/* The line's entry, a new one if need be; NULL if there is no room. */
static struct recorded_line *line_find(struct recorder *recorder, uintptr_t address)
{
    uint32_t slot = (uint32_t)((address / LINE_BYTES * 0x9E3779B97F4A7C15ull) >> 32);

    for (;; slot++) {
        struct recorded_line *line = &recorder->lines[slot & (recorder->capacity - 1)];

        if (line->address == 0) {
            if (recorder->used >= recorder->capacity / 2) {
                recorder->full = true;
                return NULL;
            }
            recorder->used++;
            line->address = address;
        }
        if (line->address == address)
            return line;
    }
}

static void line_note(struct recorder *recorder, uintptr_t address, const void *by, bool write)
{
    struct recorded_line *line = line_find(recorder, address);

    if (line == NULL)
        return;
    if (write) {
        line->writer = by;
        line->steps += line->last_step != recorder->step;
        line->last_step = recorder->step;
    } else {
        line->reader = by;
        line->read_steps += line->last_read_step != recorder->step;
        line->last_read_step = recorder->step;
    }
}

static inline void note_access(const volatile void *memory, size_t bytes, const void *by, bool write)
{
    if (__builtin_expect(current == NULL || bytes == 0, 1) || (!write && !current->reads))
        return;
    const uintptr_t last = ((uintptr_t)memory + bytes - 1) / LINE_BYTES;
    for (uintptr_t line = (uintptr_t)memory / LINE_BYTES; line <= last; line++)
        line_note(current, line * LINE_BYTES, by, write);
}

static inline void note(const volatile void *memory, size_t bytes, const void *writer)
{
    note_access(memory, bytes, writer, true);
}

static inline void note_read(const volatile void *memory, size_t bytes, const void *reader)
{
    note_access(memory, bytes, reader, false);
}

void recorder_note(const volatile void *address, size_t bytes)
{
    note(address, bytes, CALLER);
}

/* ---- plain accesses --------------------------------------------------------------------------------------------- */

/* Each definition declares itself first: the compiler's calls are the only declaration that there is. */
#define DEFINE(type, name, ...)                                                                                        \
    type name(__VA_ARGS__);                                                                                            \
    type name(__VA_ARGS__)

#define WRITE(name, bytes)                                                                                             \
    DEFINE(void, name, void *memory)                                                                                   \
    {                                                                                                                  \
        note(memory, bytes, CALLER);                                                                                   \
    }
#define READ(name, bytes)                                                                                              \
    DEFINE(void, name, void *memory)                                                                                   \
    {                                                                                                                  \
        note_read(memory, bytes, CALLER);                                                                              \
    }
#define IGNORE(name)                                                                                                   \
    DEFINE(void, name, void *unused)                                                                                   \
    {                                                                                                                  \
        (void)unused;                                                                                                  \
    }
#define PLAIN(bytes)                                                                                                   \
    WRITE(__tsan_write##bytes, bytes)                                                                                  \
    WRITE(__tsan_unaligned_write##bytes, bytes)                                                                        \
    WRITE(__tsan_volatile_write##bytes, bytes)                                                                         \
    WRITE(__tsan_unaligned_volatile_write##bytes, bytes)                                                               \
    WRITE(__tsan_read_write##bytes, bytes)                                                                             \
    WRITE(__tsan_unaligned_read_write##bytes, bytes)                                                                   \
    READ(__tsan_read##bytes, bytes)                                                                                    \
    READ(__tsan_unaligned_read##bytes, bytes)                                                                          \
    READ(__tsan_volatile_read##bytes, bytes)                                                                           \
    READ(__tsan_unaligned_volatile_read##bytes, bytes)
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

DEFINE(void, __tsan_write_range, void *memory, size_t bytes)
{
    note(memory, bytes, CALLER);
}

DEFINE(void, __tsan_read_range, void *memory, size_t bytes)
{
    note_read(memory, bytes, CALLER);
}

IGNORE(__tsan_func_entry)
IGNORE(__tsan_func_exit)
IGNORE(__tsan_acquire)
IGNORE(__tsan_release)

DEFINE(void, __tsan_init, void)
{
}

/* ---- memory functions -------------------------------------------------------------------------------------------- */

/* gcc calls them by their own names, which the linker wraps, and clang by the sanitizer's. */
void *__real_memset(void *to, int byte, size_t bytes);
void *__real_memcpy(void *restrict to, const void *restrict from, size_t bytes);
void *__real_memmove(void *to, const void *from, size_t bytes);

#define MEMORY(prefix)                                                                                                 \
    DEFINE(void *, prefix##memset, void *to, int byte, size_t bytes)                                                   \
    {                                                                                                                  \
        note(to, bytes, CALLER);                                                                                       \
        return __real_memset(to, byte, bytes);                                                                         \
    }                                                                                                                  \
    DEFINE(void *, prefix##memcpy, void *restrict to, const void *restrict from, size_t bytes)                         \
    {                                                                                                                  \
        note(to, bytes, CALLER);                                                                                       \
        note_read(from, bytes, CALLER);                                                                                \
        return __real_memcpy(to, from, bytes);                                                                         \
    }                                                                                                                  \
    DEFINE(void *, prefix##memmove, void *to, const void *from, size_t bytes)                                          \
    {                                                                                                                  \
        note(to, bytes, CALLER);                                                                                       \
        note_read(from, bytes, CALLER);                                                                                \
        return __real_memmove(to, from, bytes);                                                                        \
    }
MEMORY(__wrap_)
MEMORY(__tsan_)

/* ---- atomics ---------------------------------------------------------------------------------------------------- */

/* All are sequentially consistent, whatever order was asked: stronger is right, and this build is not timed. */
#define FETCH(bits, name, builtin)                                                                                     \
    DEFINE(uint##bits##_t, __tsan_atomic##bits##_##name, volatile void *p, uint##bits##_t v, int order)                \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        note(p, bits / 8, CALLER);                                                                                     \
        return builtin((volatile uint##bits##_t *)p, v, __ATOMIC_SEQ_CST);                                             \
    }
#define COMPARE(bits, name)                                                                                            \
    DEFINE(bool, __tsan_atomic##bits##_##name, volatile void *p, void *expected, uint##bits##_t v, int order,          \
           int order_failed)                                                                                           \
    {                                                                                                                  \
        (void)order, (void)order_failed;                                                                               \
        note(p, bits / 8, CALLER);                                                                                     \
        return __atomic_compare_exchange_n((volatile uint##bits##_t *)p, (uint##bits##_t *)expected, v, false,         \
                                           __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                        \
    }
#define ATOMIC(bits)                                                                                                   \
    DEFINE(uint##bits##_t, __tsan_atomic##bits##_load, const volatile void *p, int order)                              \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        note_read(p, bits / 8, CALLER);                                                                                \
        return __atomic_load_n((const volatile uint##bits##_t *)p, __ATOMIC_SEQ_CST);                                  \
    }                                                                                                                  \
    DEFINE(void, __tsan_atomic##bits##_store, volatile void *p, uint##bits##_t v, int order)                           \
    {                                                                                                                  \
        (void)order;                                                                                                   \
        note(p, bits / 8, CALLER);                                                                                     \
        __atomic_store_n((volatile uint##bits##_t *)p, v, __ATOMIC_SEQ_CST);                                           \
    }                                                                                                                  \
    FETCH(bits, exchange, __atomic_exchange_n)                                                                         \
    FETCH(bits, fetch_add, __atomic_fetch_add)                                                                         \
    FETCH(bits, fetch_sub, __atomic_fetch_sub)                                                                         \
    FETCH(bits, fetch_and, __atomic_fetch_and)                                                                         \
    FETCH(bits, fetch_or, __atomic_fetch_or)                                                                           \
    FETCH(bits, fetch_xor, __atomic_fetch_xor)                                                                         \
    FETCH(bits, fetch_nand, __atomic_fetch_nand)                                                                       \
    COMPARE(bits, compare_exchange_strong)                                                                             \
    COMPARE(bits, compare_exchange_weak)                                                                               \
    DEFINE(uint##bits##_t, __tsan_atomic##bits##_compare_exchange_val, volatile void *p, uint##bits##_t expected,      \
           uint##bits##_t v, int order, int order_failed)                                                              \
    {                                                                                                                  \
        (void)order, (void)order_failed;                                                                               \
        note(p, bits / 8, CALLER);                                                                                     \
        (void)__atomic_compare_exchange_n((volatile uint##bits##_t *)p, &expected, v, false, __ATOMIC_SEQ_CST,         \
                                          __ATOMIC_SEQ_CST);                                                           \
        return expected;                                                                                               \
    }
ATOMIC(8)
ATOMIC(16)
ATOMIC(32)
ATOMIC(64)

DEFINE(void, __tsan_atomic_thread_fence, int order)
{
    (void)order;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

DEFINE(void, __tsan_atomic_signal_fence, int order)
{
    (void)order;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/*
 * The operating-system seam: the running CPU, clocks, address space.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "base/os.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 4096 };

/* mincore() refuses ranges that are not mapped. */
static bool is_mapped(const char *page)
{
    unsigned char present;

    return mincore((void *)(uintptr_t)page, PAGE, &present) == 0;
}

/* ---- the CPU ---------------------------------------------------------------------------------------------------- */

static void *cpu_of_pinned_thread(void *context)
{
    unsigned *cpu = context;
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(*cpu, &set);
    *cpu = pthread_setaffinity_np(pthread_self(), sizeof set, &set) == 0 ? os_cpu_current() : UINT32_MAX;
    return NULL;
}

static void the_running_cpu_is_one_that_is_allowed(void **state)
{
    cpu_set_t set;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (unsigned i = 0; i < 1000; i++)
        assert_true(CPU_ISSET(os_cpu_current(), &set));
    assert_true(os_cpu_current() < (unsigned)sysconf(_SC_NPROCESSORS_CONF));
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        unsigned seen = cpu;
        pthread_t thread;

        if (!CPU_ISSET(cpu, &set))
            continue;
        assert_int_equal(pthread_create(&thread, NULL, cpu_of_pinned_thread, &seen), 0);
        pthread_join(thread, NULL);
        assert_int_equal(seen, cpu);
    }
}

static void clocks_go_forward(void **state)
{
    (void)state;
    const uint64_t time = os_clock_ns(), cpu = os_thread_cpu_ns();
    volatile uint64_t work = 0;
    for (unsigned i = 0; i < 1000000; i++)
        work += i;
    assert_true(work != 0);
    assert_true(os_clock_ns() > time);
    assert_true(os_thread_cpu_ns() > cpu);
    assert_int_equal(os_thread_id(), getpid()); /* the main thread's */
}

/* ---- memory ----------------------------------------------------------------------------------------------------- */

static void reserved_memory_is_aligned_zero_and_usable(void **state)
{
    static const size_t sizes[] = { PAGE, 3 * PAGE, 5 * PAGE + 100, (2u << 20) + PAGE };

    (void)state;
    for (unsigned s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (size_t alignment = PAGE; alignment <= 4u << 20; alignment *= 4) {
            char *memory = os_memory_reserve(sizes[s], alignment);

            assert_non_null(memory);
            assert_int_equal((uintptr_t)memory % alignment, 0);
            assert_int_equal(memory[0] | memory[sizes[s] - 1], 0);
            memory[0] = memory[sizes[s] - 1] = 1;
            os_memory_free(memory, sizes[s]);
            /* All of it is gone. */
            assert_false(is_mapped(memory));
            assert_false(is_mapped((char *)((uintptr_t)(memory + sizes[s] - 1) & ~(uintptr_t)(PAGE - 1))));
        }
    }
    os_memory_free(NULL, PAGE);
}

/* Pages of the process's address space, from the kernel. */
static uint64_t mapped_pages(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;

    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lu", &pages), 1);
    fclose(file);
    return pages;
}

/* What was mapped for the alignment only is not kept, neither before nor behind the memory. */
static void alignment_costs_no_address_space(void **state)
{
    enum { COUNT = 16 };
    const size_t bytes = 3 * PAGE, alignment = 64u << 20;
    void *memory[COUNT];

    (void)state;
    (void)mapped_pages(); /* its buffers are there from now on */
    const uint64_t before = mapped_pages();
    for (unsigned i = 0; i < COUNT; i++) {
        memory[i] = os_memory_reserve(bytes, alignment);
        assert_non_null(memory[i]);
    }
    assert_true(mapped_pages() - before < alignment / PAGE);
    for (unsigned i = 0; i < COUNT; i++)
        os_memory_free(memory[i], bytes);
    assert_true(mapped_pages() <= before + bytes / PAGE);
}

static void memory_that_there_is_not_is_refused_with_its_size(void **state)
{
    (void)state;
    assert_null(os_memory_reserve(1ull << 60, PAGE));
    assert_int_equal(tide_last_error()->status, TIDE_INSUFFICIENT_RESOURCES);
    assert_int_equal(tide_last_error()->io_error, ENOMEM);
    assert_non_null(strstr(tide_last_error()->message, "1152921504606846976"));
}

static void populated_memory_is_present(void **state)
{
    enum { PAGES = 64 };
    unsigned char present[PAGES];

    (void)state;
    char *memory = os_memory_reserve(PAGES * PAGE, PAGE);
    assert_non_null(memory);
    assert_int_equal(madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE), 0);
    assert_int_equal(mincore(memory, PAGES * PAGE, present), 0);
    assert_int_equal(present[7] & 1, 0);
    assert_true(os_memory_populate(memory, PAGES * PAGE));
    assert_int_equal(mincore(memory, PAGES * PAGE, present), 0);
    for (unsigned i = 0; i < PAGES; i++)
        assert_int_equal(present[i] & 1, 1);
    os_memory_free(memory, PAGES * PAGE);
    /* A hole is an error and not a crash. */
    errno = 0;
    assert_false(os_memory_populate(memory, PAGES * PAGE));
    assert_int_equal(errno, ENOMEM);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_running_cpu_is_one_that_is_allowed),
        cmocka_unit_test(clocks_go_forward),
        cmocka_unit_test(reserved_memory_is_aligned_zero_and_usable),
        cmocka_unit_test(alignment_costs_no_address_space),
        cmocka_unit_test(memory_that_there_is_not_is_refused_with_its_size),
        cmocka_unit_test(populated_memory_is_present),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

/*
 * A part of a window that becomes the program's at any step of a call on the pages around it. Steps are those of
 * sync_point_hook, which builds with TIDE_SYNC_POINTS (debug and the sanitizers) call before each atomic operation;
 * elsewhere the part goes after the call.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/sync.h"
#include "support.h"
#include "tables/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

enum { SYSTEM_CALL_MSEAL = 462 }; /* Linux 6.10 */
enum { PAGES = 12, TAKEN_PAGES = 3, STEPS_MOST = 1000 };

/* What is called on all pages, which are in memory. 0 or an errno value. */
typedef int call_function(struct mapping *mapping);

static struct {
    struct mapping *mapping;
    unsigned taken;      /* first page of the part */
    unsigned steps_left; /* until the part is taken; 0: it was */
    uint32_t over;       /* [A] */
    bool inside;
    bool registers; /* with a userfaultfd of its own, and leaves the part empty */
    int faults;     /* that, -1: none */
    char page[PAGE];
} scene;

/* A userfaultfd of the program's, which is to bring what it has mapped there. */
static int part_register(char *at)
{
    struct uffdio_api api = { .api = UFFD_API };
    struct uffdio_register want = { .range = { (uintptr_t)at, TAKEN_PAGES * PAGE },
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP };
    const int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    assert_true(faults >= 0);
    assert_int_equal(ioctl(faults, UFFDIO_API, &api), 0);
    assert_int_equal(ioctl(faults, UFFDIO_REGISTER, &want), 0);
    return faults;
}

/* By mistake, as the program would, byte by byte. It returns when what the kernel tells of it was read. */
static void *part_take(void *context)
{
    char *at = scene.mapping->window + scene.taken * PAGE;

    (void)context;
    if (mmap(at, TAKEN_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at) {
        if (scene.registers)
            scene.faults = part_register(at);
        else
            memset(at, 'p', TAKEN_PAGES * PAGE);
    }
    sync_store_32(&scene.over, 1);
    return NULL;
}

static void part_take_now(void)
{
    pthread_t thread;
    uint64_t address;
    bool write;

    assert_int_equal(pthread_create(&thread, NULL, part_take, NULL), 0);
    while (sync_load_32(&scene.over) == 0)
        if (!mapping_fault_next(scene.mapping, &address, &write))
            (void)sched_yield();
    pthread_join(thread, NULL);
}

/* Who acts by address now is waited for before anybody is told that the part is his. */
static bool is_acted(void)
{
    uint64_t users = 0;

    for (unsigned i = 0; i < MAPPING_COUNTERS; i++)
        users += sync_load_relaxed_64(&scene.mapping->counters[i].users);
    return users != 0;
}

/* Before each atomic operation of the call. */
static void step_taken(const void *address)
{
    (void)address;
    if (scene.inside || is_acted() || scene.steps_left == 0 || --scene.steps_left != 0)
        return;
    scene.inside = true;
    part_take_now();
    scene.inside = false;
}

static bool steps_watched;
static void (*once_asked)(void); /* called when the kernel has said that no part is being unmapped */

/* In the place of libc's: before each call on pages too. */
int ioctl(int file, unsigned long request, ...)
{
    va_list arguments;

    va_start(arguments, request);
    void *const argument = va_arg(arguments, void *);
    va_end(arguments);
    if (steps_watched && argument != NULL && file == scene.mapping->faults)
        step_taken(argument);
    const int result = (int)syscall(SYS_ioctl, file, request, argument), error = errno;
    if (argument == NULL && once_asked != NULL) {
        void (*const call)(void) = once_asked;

        once_asked = NULL;
        call();
    }
    errno = error;
    return result;
}

static void steps_watch(bool on)
{
    steps_watched = on;
#ifdef TIDE_SYNC_POINTS
    sync_point_hook_set(on ? step_taken : NULL);
#else
#endif
}

static void content_of(uint64_t page)
{
    memset(scene.page, 'a' + (int)page, PAGE);
}

static void program_part_check(void)
{
    const char *at = scene.mapping->window + scene.taken * PAGE;
    unsigned char there[TAKEN_PAGES];

    if (scene.registers) { /* nobody has brought anything */
        assert_int_equal(mincore((void *)(uintptr_t)at, sizeof there * PAGE, there), 0);
        for (unsigned i = 0; i < TAKEN_PAGES; i++)
            assert_false(there[i] & 1);
        return;
    }
    for (unsigned i = 0; i < TAKEN_PAGES * PAGE; i++)
        assert_int_equal(scene.mapping->window[scene.taken * PAGE + i], 'p');
}

/* Takes the part at step `steps` of the call. False: the call was over before. */
static bool call_torn(call_function *call, unsigned steps)
{
    tide_mapped_options options = { .struct_bytes = sizeof options, .window_bytes = 2 << 20 };
    char found[PAGE];
    int owner;

    scene.over = 0;
    scene.faults = -1;
    assert_int_equal(mapping_create(&options, NULL, &owner, &scene.mapping), TIDE_SUCCESS);
    const uint64_t first = scene.mapping->first_page;
    for (uint64_t i = 0; i < PAGES; i++) {
        content_of(i);
        assert_int_equal(mapping_store(scene.mapping, first + i, 1, scene.page), 0);
    }
    scene.steps_left = steps;
    steps_watch(true);
    const int error = call(scene.mapping);
    steps_watch(false);
    assert_int_equal(error, 0);
    const bool torn = scene.steps_left == 0;
    if (!torn)
        part_take_now();
    program_part_check();
    assert_int_equal(mapping_show(scene.mapping, first, PAGES, true), 0);
    for (uint64_t i = 0; i < PAGES; i++) {
        content_of(i);
        assert_int_equal(mapping_read(scene.mapping, (first + i) * PAGE, found, PAGE), 0);
        assert_memory_equal(found, scene.page, PAGE);
        if (i < scene.taken || i >= scene.taken + TAKEN_PAGES)
            assert_memory_equal(scene.mapping->window + i * PAGE, scene.page, PAGE);
    }
    program_part_check();
    mapping_destroy(scene.mapping);
    program_part_check();
    assert_int_equal(munmap(scene.mapping->window + scene.taken * PAGE, TAKEN_PAGES * PAGE), 0);
    if (scene.registers)
        (void)close(scene.faults);
    return torn;
}

static void tear_everywhere(call_function *call)
{
    if (tide_failed(mapping_check(TIDE_DELIVERY_SIGNAL)))
        skip();
    for (unsigned turn = 0; turn < 4; turn++) {
        unsigned steps = 1;

        scene.taken = turn % 2 * 4;
        scene.registers = turn >= 2;

        while (steps < STEPS_MOST && call_torn(call, steps))
            steps++;
#ifdef TIDE_SYNC_POINTS
        assert_in_range(steps, 2, STEPS_MOST - 1); /* there were steps, and each was tried */
#endif
    }
}

static int show(struct mapping *mapping)
{
    return mapping_show(mapping, mapping->first_page, PAGES, true);
}

static int show_protected(struct mapping *mapping)
{
    return mapping_show(mapping, mapping->first_page, PAGES, false);
}

static int show_and_protect(struct mapping *mapping)
{
    const int error = show(mapping);

    mapping_protect(mapping, mapping->first_page, PAGES);
    return error;
}

static int fill_anew(struct mapping *mapping)
{
    int error = 0;

    for (uint64_t i = 0; i < PAGES && error == 0; i += 2) {
        char content[2 * PAGE];

        for (uint64_t page = i; page < i + 2; page++) {
            content_of(page);
            memcpy(content + (page - i) * PAGE, scene.page, PAGE);
        }
        mapping_drop(mapping, mapping->first_page + i, 2);
        error = mapping_fill(mapping, mapping->first_page + i, 2, content, i % 4 == 0);
    }
    return error;
}

static void a_part_goes_while_pages_are_shown(void **state)
{
    (void)state;
    tear_everywhere(show);
    tear_everywhere(show_protected);
}

static void a_part_goes_while_pages_are_protected(void **state)
{
    (void)state;
    tear_everywhere(show_and_protect);
}

static void a_part_goes_while_pages_are_filled(void **state)
{
    (void)state;
    tear_everywhere(fill_anew);
}

/* ---- calls of the program's one after the other ----------------------------------------------------------------- */

/* A call of the program's on pages of the window; another thread sees what it has done. */
struct program_call {
    pthread_t thread;
    char *at, *from;
    size_t bytes;
    uint32_t over; /* [A] */
};

/* Does anything lie there? */
static bool is_mapped(const char *at)
{
    return msync((void *)(uintptr_t)at, PAGE, MS_ASYNC) == 0 || errno != ENOMEM;
}

static void *program_unmap(void *context)
{
    struct program_call *call = context;

    assert_int_equal(munmap(call->at, call->bytes), 0);
    sync_store_32(&call->over, 1);
    return NULL;
}

/* Returns when the pages are gone. The call itself waits until what the kernel tells of it is read. */
static void unmap_begin(struct program_call *call, unsigned page, unsigned pages)
{
    *call = (struct program_call){ .at = scene.mapping->window + page * PAGE, .bytes = pages * PAGE };
    assert_int_equal(pthread_create(&call->thread, NULL, program_unmap, call), 0);
    while (is_mapped(call->at + call->bytes - PAGE))
        (void)sched_yield();
}

static void call_end(struct program_call *call)
{
    uint64_t address;
    bool write;

    while (sync_load_32(&call->over) == 0)
        if (!mapping_fault_next(scene.mapping, &address, &write))
            (void)sched_yield();
    pthread_join(call->thread, NULL);
}

/* All pages in memory, not shown. */
static void scene_begin(tide_delivery delivery)
{
    tide_mapped_options options = { .struct_bytes = sizeof options, .window_bytes = 2 << 20, .delivery = delivery };
    static int owner;

    if (tide_failed(mapping_check(delivery)))
        skip();
    assert_int_equal(mapping_create(&options, NULL, &owner, &scene.mapping), TIDE_SUCCESS);
    for (unsigned i = 0; i < PAGES; i++) {
        content_of(i);
        assert_int_equal(mapping_store(scene.mapping, scene.mapping->first_page + i, 1, scene.page), 0);
    }
}

#ifdef TIDE_SYNC_POINTS
/* Memory of the program's that it moves over the window. */
static void *program_move(void *context)
{
    struct program_call *call = context;

    assert_ptr_equal(mremap(call->from, call->bytes, call->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, call->at), call->at);
    sync_store_32(&call->over, 1);
    return NULL;
}

static void move_begin(struct program_call *call, unsigned page, unsigned pages)
{
    *call = (struct program_call){ .at = scene.mapping->window + page * PAGE, .bytes = pages * PAGE };
    call->from = mmap(NULL, call->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(call->from != MAP_FAILED);
    memset(call->from, 'p', call->bytes);
    assert_int_equal(pthread_create(&call->thread, NULL, program_move, call), 0);
    while (is_mapped(call->from))
        (void)sched_yield();
}

/* At this thread's first atomic operation on this address something happens, once. */
static _Thread_local const void *moment;
static void (*at_moment)(void);

static void moment_watch(const void *address)
{
    if (address != moment)
        return;
    moment = NULL;
    at_moment();
}

static void moment_set(const void *address, void (*call)(void))
{
    moment = address;
    at_moment = call;
    sync_point_hook_set(moment_watch);
}

static void moment_end(void)
{
    sync_point_hook_set(NULL);
    assert_null(moment);
}
#endif

#ifdef TIDE_SYNC_POINTS
static struct program_call second;

static void more_goes(void)
{
    unmap_begin(&second, 6, 4);
}

/* What is unmapped while the hole that it overlaps is being plugged; all of the window stays unknown to children. */
static void a_hole_grows_while_it_is_plugged(void **state)
{
    struct program_call first;
    int status;

    (void)state;
#if defined(__SANITIZE_THREAD__)
    skip(); /* the stack of the second thread would come to lie in the hole of the first: no other addresses are allowed */
#endif
    scene_begin(TIDE_DELIVERY_SIGNAL);
    unmap_begin(&first, 4, 4);
    moment_set(&scene.mapping->fences, more_goes); /* about to plug */
    call_end(&first);
    moment_end();
    call_end(&second);
    assert_int_equal(
        mapping_foreign_find(scene.mapping, scene.mapping->first_page, scene.mapping->first_page + PAGES, true),
        scene.mapping->first_page + PAGES);
    const pid_t child = fork();
    if (child == 0) {
        int mapped = 0;

        for (unsigned i = 0; i < PAGES; i++)
            mapped += is_mapped(scene.mapping->window + i * PAGE);
        _exit(mapped);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    mapping_destroy(scene.mapping);
}
#endif

static sigjmp_buf way_out;

static void signal_catch(int number, siginfo_t *info, void *context)
{
    (void)context;
    siglongjmp(way_out, number == SIGBUS ? info->si_code : -1);
}

/* The code of the SIGBUS that a read gets, 0: none, -1: it is SIGSEGV. */
__attribute__((noinline)) static int bus_error_of(const char *at)
{
    const struct sigaction ours = { .sa_sigaction = signal_catch, .sa_flags = SA_SIGINFO };
    struct sigaction bus, segv;

    (void)sigaction(SIGBUS, &ours, &bus);
    (void)sigaction(SIGSEGV, &ours, &segv);
    const int code = sigsetjmp(way_out, 1);
    if (code == 0)
        (void)*(const volatile char *)at;
    (void)sigaction(SIGBUS, &bus, NULL);
    (void)sigaction(SIGSEGV, &segv, NULL);
    return code;
}

/* Before Linux 6.6 pages are fenced instead. */
static bool kernel_poisons(void)
{
    struct utsname system;
    int major = 0, minor = 0;

    assert_int_equal(uname(&system), 0);
    assert_int_equal(sscanf(system.release, "%d.%d", &major, &minor), 2);
    return major > 6 || (major == 6 && minor >= 6);
}

/* The kernel refuses for the moment to poison a page. It does not become a fenced one. */
static void a_part_goes_before_a_page_is_poisoned(void **state)
{
    struct program_call call;

    (void)state;
    if (!kernel_poisons())
        skip();
    scene_begin(TIDE_DELIVERY_THREADS);
    const uint64_t first = scene.mapping->first_page;
    unmap_begin(&call, 4, 1);
    assert_true(mapping_poison(scene.mapping, first + 8));
    call_end(&call);
    /* One that was shown to be read alone, of which the kernel keeps a mark. */
    mapping_drop(scene.mapping, first + 9, 1);
    assert_int_equal(mapping_fill(scene.mapping, first + 9, 1, scene.page, false), 0);
    mapping_hide(scene.mapping, first + 9, 1);
    mapping_drop(scene.mapping, first + 9, 1);
    if (!mapping_poison(scene.mapping, first + 9)) {
        mapping_clear(scene.mapping, first + 9);
        assert_true(mapping_poison(scene.mapping, first + 9));
    }
    alarm(5);
    const int other = bus_error_of(scene.mapping->window + 9 * PAGE);
    alarm(0);
    assert_true(other > 0);
    assert_int_equal(mapping_store(scene.mapping, first + 9, 1, scene.page), 0);
    const int code = bus_error_of(scene.mapping->window + 8 * PAGE);
    assert_true(code > 0); /* BUS_MCEERR_AR, if the kernel knows of bad memory */
    mapping_unfence(scene.mapping, first + 7, 2);
    assert_int_equal(mapping_show(scene.mapping, first, PAGES, true), 0);
    assert_int_equal(bus_error_of(scene.mapping->window + 8 * PAGE), 0);
    mapping_destroy(scene.mapping);
}

/* By the kernel, which says whether the page is there and may be read. */
static bool is_readable(const char *at)
{
    int ends[2];

    assert_int_equal(pipe(ends), 0);
    const bool readable = write(ends[1], at, 1) == 1;
    (void)close(ends[0]);
    (void)close(ends[1]);
    return readable;
}

/* The rights of what lies behind a hole that nobody has seen yet. */
static void a_part_goes_before_pages_get_rights(void **state)
{
    struct program_call call;

    (void)state;
    scene_begin(TIDE_DELIVERY_SIGNAL);
    const uint64_t first = scene.mapping->first_page;
    assert_int_equal(mapping_show(scene.mapping, first, PAGES, true), 0);
    mapping_fence(scene.mapping, first + 8, false);
    assert_false(is_readable(scene.mapping->window + 8 * PAGE));
    unmap_begin(&call, 4, 1);
    mapping_unfence(scene.mapping, first, PAGES);
    assert_true(is_readable(scene.mapping->window + 8 * PAGE));
    call_end(&call);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(is_readable(scene.mapping->window + i * PAGE) == (i != 4));
    mapping_destroy(scene.mapping);
}

#ifdef TIDE_SYNC_POINTS
static struct program_call late;

static void something_comes(void)
{
    move_begin(&late, 4, 2);
}

/* What the program puts over the window while this ends, stays. */
static void something_comes_while_the_window_ends(void **state)
{
    (void)state;
    scene_begin(TIDE_DELIVERY_SIGNAL);
    char *const window = scene.mapping->window;
    moment_set(&scene.mapping->pages, something_comes);
    mapping_destroy(scene.mapping);
    moment_end();
    pthread_join(late.thread, NULL);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(is_mapped(window + i * PAGE) == (i == 4 || i == 5));
    for (unsigned i = 4 * PAGE; i < 6 * PAGE; i++)
        assert_int_equal(window[i], 'p');
    assert_int_equal(munmap(window + 4 * PAGE, 2 * PAGE), 0);
}
#endif

#ifdef TIDE_SYNC_POINTS
static struct program_call sealed;
static bool can_seal;

static void something_sealed_comes(void)
{
    move_begin(&sealed, 4, 2);
    assert_int_equal(mprotect(sealed.at, sealed.bytes, PROT_READ), 0);
    can_seal = syscall(SYSTEM_CALL_MSEAL, sealed.at, sealed.bytes, 0) == 0;
}

/* What the program has put over the window cannot be emptied, and nobody has seen yet that it is there. */
static void pages_are_hidden_around_what_cannot_be(void **state)
{
    (void)state;
    scene_begin(TIDE_DELIVERY_SIGNAL);
    const uint64_t first = scene.mapping->first_page;
    assert_int_equal(mapping_show(scene.mapping, first, PAGES, true), 0);
    once_asked = something_sealed_comes;
    mapping_hide(scene.mapping, first, PAGES);
    assert_null(once_asked);
    call_end(&sealed);
    for (unsigned i = 0; i < PAGES; i++)
        assert_true(is_readable(scene.mapping->window + i * PAGE) == (i == 4 || i == 5));
    for (unsigned i = 0; i < 2 * PAGE && can_seal; i++)
        assert_int_equal(sealed.at[i], 'p');
    mapping_destroy(scene.mapping);
}

/* What the program has moved over the window is neither emptied nor gets other rights before anybody has seen it. */
static void what_comes_over_the_window_stays_as_it_is(void **state)
{
    struct program_call call;

    (void)state;
    for (unsigned turn = 0; turn < 2; turn++) {
        scene_begin(TIDE_DELIVERY_SIGNAL);
        const uint64_t first = scene.mapping->first_page;
        assert_int_equal(mapping_show(scene.mapping, first, PAGES, true), 0);
        move_begin(&call, 4, 2);
        if (turn == 0)
            mapping_hide(scene.mapping, first, PAGES);
        else
            mapping_fence(scene.mapping, first + 5, false);
        call_end(&call);
        for (unsigned i = 0; i < PAGES; i++)
            assert_true(is_readable(scene.mapping->window + i * PAGE) == (turn == 1 || i == 4 || i == 5));
        for (unsigned i = 0; i < 2 * PAGE; i++)
            assert_int_equal(call.at[i], 'p');
        mapping_destroy(scene.mapping);
        assert_int_equal(munmap(call.at, call.bytes), 0);
    }
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_goes_while_pages_are_shown),
        cmocka_unit_test(a_part_goes_while_pages_are_protected),
        cmocka_unit_test(a_part_goes_while_pages_are_filled),
#ifdef TIDE_SYNC_POINTS
        cmocka_unit_test(a_hole_grows_while_it_is_plugged),
#endif
        cmocka_unit_test(a_part_goes_before_a_page_is_poisoned),
        cmocka_unit_test(a_part_goes_before_pages_get_rights),
#ifdef TIDE_SYNC_POINTS
        cmocka_unit_test(something_comes_while_the_window_ends),
#endif
#ifdef TIDE_SYNC_POINTS
        cmocka_unit_test(pages_are_hidden_around_what_cannot_be),
#endif
#ifdef TIDE_SYNC_POINTS
        cmocka_unit_test(what_comes_over_the_window_stays_as_it_is),
#endif
    };

    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}

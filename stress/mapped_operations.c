/*
 * Operations of a stress run on mapped spaces by plain loads and stores, while the others trim, write out, decommit,
 * protect, reset and pin the same pages by calls.
 *
 * Exact pages are used with their locks held, so each access must succeed, or be refused where the shadow says so.
 * Shared pages are looked at with no lock; a page that is decommitted meanwhile ends the look by SIGSEGV.
 *
 * Signals. An access that must be refused, or may be, is made as a probe: its SIGSEGV comes back here with the address.
 * An injected read error is SIGBUS, after which the access is made again with no more errors injected, as must_repeat()
 * does it for calls. Any other SIGSEGV or SIGBUS ends the run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

enum { PAGE = TIDE_PAGE_BYTES };

/* ---- signals ---------------------------------------------------------------------------------------------------- */

static struct stress_run *signals_run; /* [I] */
static _Thread_local struct stress_thread *current;
static _Thread_local sigjmp_buf probe_return;
static _Thread_local volatile sig_atomic_t probing;
static _Thread_local void *volatile probe_address;
static _Thread_local void *last_error_address;
static _Thread_local unsigned errors_in_a_row;

/* After a read error was injected: no more of them until the operation ends, and the access again. */
static bool read_error_repeat(struct stress_thread *thread, void *address)
{
    struct stress_run *run = thread->run;
    if (run->options.faults == 0)
        return false;
    errors_in_a_row = address == last_error_address ? errors_in_a_row + 1 : 0;
    last_error_address = address;
    if (errors_in_a_row > 2 * run->options.threads)
        return false;
    if (!thread->inject_off) {
        atomic_fetch_add(&run->inject_off, 1);
        thread->inject_off = true;
    }
    thread->repeated++;
    /* With handler threads the page stays refused until it has content. */
    if (thread->holder->by_threads) {
        const tide_status status = tide_touch(thread->holder->space, (uintptr_t)address, TIDE_ACCESS_READ);
        if (tide_failed(status) && status != TIDE_IN_PAGE_ERROR)
            fail(thread, "tide_touch at %p after SIGBUS returned %s", address, tide_status_name(status));
    }
    return true;
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    struct stress_thread *thread = current;
    (void)context;
    if (thread != NULL && number == SIGSEGV && probing) {
        probing = 0;
        probe_address = info->si_addr;
        siglongjmp(probe_return, 1);
    }
    if (thread != NULL && number == SIGBUS && read_error_repeat(thread, info->si_addr))
        return;
    stress_fail(signals_run, thread, "%s that was not expected, code %d, address %p",
                number == SIGSEGV ? "SIGSEGV" : "SIGBUS", info->si_code, info->si_addr);
}

void stress_signals_prepare(struct stress_run *run)
{
    struct sigaction action;
    memset(&action, 0, sizeof(action));
    signals_run = run;
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    if (sigaction(SIGSEGV, &action, NULL) != 0 || sigaction(SIGBUS, &action, NULL) != 0)
        stress_fail(run, NULL, "sigaction: %s", strerror(errno));
}

void stress_signals_thread(struct stress_thread *thread)
{
    current = thread;
}

/* ---- places ----------------------------------------------------------------------------------------------------- */

/* place_get() in a mapped space; false, and no lock held, in a soft one. */
static bool mapped_get(struct stress_thread *thread, struct place *place, enum place_kind kind, unsigned most)
{
    if (!place_get(thread, place, kind, most))
        return false;
    if (place->holder->mapped)
        return true;
    place_put(place);
    return false;
}

static void *page_pointer(const struct place *place, unsigned i)
{
    return tide_pointer(page_address(place, place->first + i));
}

void check_pointer(struct stress_thread *thread, const struct place *place, unsigned i, const char *how)
{
    check_image(thread, place, i, page_pointer(place, i), how);
}

/* ---- loads and stores ------------------------------------------------------------------------------------------- */

/* Whole pages by memcpy(), or stamp by stamp with time for the others in between. */
void op_pointer_write(struct stress_thread *thread)
{
    struct place place;
    if (!mapped_get(thread, &place, PLACE_EXACT, one_in(thread, 4) ? STRESS_SPAN_MAX : 1))
        return;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, TIDE_ACCESS_WRITE);
    for (unsigned i = 0; i < good; i++) {
        struct shadow_page *page = page_at(&place, i);
        char *pointer = page_pointer(&place, i);
        const uint32_t version = version_begin(page);
        image_fill(thread->buffer, place.identity, page_address(&place, place.first + i), version);
        if (one_in(thread, 4)) {
            for (unsigned n = 0; n < STAMP_PLACES; n++) {
                memcpy(pointer + (size_t)stamp_word(n) * 8, thread->buffer + (size_t)stamp_word(n) * 8, 8);
                if (n == STAMP_PLACES / 2)
                    linger(thread, place.space);
            }
        } else {
            memcpy(pointer, thread->buffer, PAGE);
        }
        page->version = version;
    }
    linger(thread, place.space);
    for (unsigned i = 0; i < good; i++)
        check_pointer(thread, &place, i, "load after a store");
    pages_unlock(&place);
    place_put(&place);
}

void op_pointer_read(struct stress_thread *thread)
{
    struct place place;
    if (!mapped_get(thread, &place, PLACE_EXACT, one_in(thread, 4) ? STRESS_PIN_MAX : 1))
        return;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, TIDE_ACCESS_READ);
    for (unsigned i = 0; i < good; i++)
        check_pointer(thread, &place, i, "load");
    pages_unlock(&place);
    place_put(&place);
}

/* ---- what is refused -------------------------------------------------------------------------------------------- */

/*
 * One access to a word. False if it was refused with SIGSEGV; then *address is what the signal said. Not by C's
 * atomics: ThreadSanitizer does these inside its runtime, with a lock held that nobody gives back when the signal's
 * handler jumps out.
 */
static bool probe(_Atomic uint64_t *word, tide_access_kind kind, uint64_t *value, void **address)
{
    bool good = false;
    if (sigsetjmp(probe_return, 1) == 0) {
        probing = 1;
        if (kind == TIDE_ACCESS_READ)
            __asm__ volatile("movq (%1), %0" : "=r"(*value) : "r"(word) : "memory");
        else
            __asm__ volatile("movq %0, (%1)" : : "r"(*value), "r"(word) : "memory");
        good = true;
    } else {
        *address = probe_address;
    }
    probing = 0;
    return good;
}

/* An access that must be refused, at a random word of page `i`. */
static void refuse(struct stress_thread *thread, const struct place *place, unsigned i, tide_access_kind kind)
{
    char *at = (char *)page_pointer(place, i) + draw(thread, PAGE_WORDS) * 8;
    uint64_t value = 1;
    void *address = NULL;
    if (probe((_Atomic uint64_t *)(void *)at, kind, &value, &address))
        fail(thread, "%s at %p was not refused, of a page that is %s", kind == TIDE_ACCESS_READ ? "load" : "store",
             (void *)at, page_at(place, i)->committed ? "read-only" : "not committed");
    if (address != at)
        fail(thread, "the access at %p was refused with address %p", (void *)at, address);
    thread->violations++;
}

/* A page that the program writes, made read-only and writable again. */
static void refuse_stores(struct stress_thread *thread, const struct place *place)
{
    const tide_address address = page_address(place, place->first);
    _Atomic uint64_t *const word = (_Atomic uint64_t *)page_pointer(place, 0);
    uint32_t old;
    atomic_store_explicit(word, atomic_load_explicit(word, memory_order_relaxed), memory_order_relaxed);
    expect(thread, tide_virtual_protect(place->space, address, PAGE, TIDE_PAGE_READONLY, &old), TIDE_SUCCESS,
           "tide_virtual_protect", address);
    refuse(thread, place, 0, TIDE_ACCESS_WRITE);
    check_pointer(thread, place, 0, "load after a store that was refused");
    expect(thread, tide_virtual_protect(place->space, address, PAGE, TIDE_PAGE_READWRITE, &old), TIDE_SUCCESS,
           "tide_virtual_protect", address);
}

/* A page that is not committed may not be accessed, and one that may only be read not be written. */
void op_pointer_violation(struct stress_thread *thread)
{
    struct place place;
    if (!mapped_get(thread, &place, PLACE_EXACT, 1))
        return;
    pages_lock(&place);
    const struct shadow_page *page = page_at(&place, 0);
    if (!page->committed)
        refuse(thread, &place, 0, one_in(thread, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE);
    else if (page->writable)
        refuse_stores(thread, &place);
    else
        refuse(thread, &place, 0, TIDE_ACCESS_WRITE);
    pages_unlock(&place);
    place_put(&place);
}

/* ---- shared pages ----------------------------------------------------------------------------------------------- */

/* Reads the stamps of a shared page in descending places; each must belong to it. False if an access was refused. */
static bool stamps_read(struct stress_thread *thread, const struct place *place, uint32_t *versions)
{
    const tide_address address = page_address(place, place->first);
    for (unsigned n = STAMP_PLACES; n-- > 0;) {
        char *at = (char *)page_pointer(place, 0) + (size_t)stamp_word(n) * 8;
        uint64_t word = 0;
        void *refused = NULL;
        if (!probe((_Atomic uint64_t *)(void *)at, TIDE_ACCESS_READ, &word, &refused)) {
            if (refused != at)
                fail(thread, "the load at %p was refused with address %p", (void *)at, refused);
            return false;
        }
        if (!stamp_valid(word, place->identity, address, n, &versions[n])) {
            char owner[128];
            shadow_identify(&thread->run->shadow, word, owner, sizeof(owner));
            fail(thread, "shared page by pointer: space identity %llu address 0x%llx stamp %u is 0x%016llx: %s",
                 (unsigned long long)place->identity, (unsigned long long)address, n, (unsigned long long)word, owner);
        }
        if (versions[n] > atomic_load(&page_at(place, 0)->begun))
            fail(thread, "shared page 0x%llx by pointer: stamp %u has version %u, which was never written",
                 (unsigned long long)address, n, versions[n]);
    }
    return true;
}

/* Looks twice at a shared page without its lock, while others write, trim and decommit it. */
void op_pointer_peek(struct stress_thread *thread)
{
    struct place place;
    uint32_t versions[2][STAMP_PLACES];
    if (!mapped_get(thread, &place, PLACE_SHARED, 1))
        return;
    const struct shadow_page *page = page_at(&place, 0);
    const uint32_t sequence = atomic_load(&page->sequence);
    const uint32_t floor = atomic_load(&page->floor);
    bool good = stamps_read(thread, &place, versions[0]);
    if (good) {
        linger(thread, place.space);
        good = stamps_read(thread, &place, versions[1]);
    }
    thread->violations += !good;
    /* Nobody changed what is committed here meanwhile: then the page was there, and went forward only. */
    if (sequence % 2 == 0 && atomic_load(&page->sequence) == sequence) {
        if (good != (floor != SHADOW_NOT_COMMITTED))
            fail(thread, "shared page 0x%llx: loads were %s, of a page that is %scommitted",
                 (unsigned long long)page_address(&place, place.first), good ? "not refused" : "refused",
                 good ? "not " : "");
        for (unsigned look = 0; good && look < 2; look++)
            for (unsigned n = STAMP_PLACES; n-- > 0;) {
                const uint32_t least = n == STAMP_PLACES - 1 ? floor : versions[look][n + 1];
                if (versions[look][n] < least || (look == 1 && versions[1][n] < versions[0][n]))
                    fail(thread, "shared page 0x%llx by pointer: stamp %u went back to version %u",
                         (unsigned long long)page_address(&place, place.first), n, versions[look][n]);
            }
    }
    place_put(&place);
}

/* ---- system calls ----------------------------------------------------------------------------------------------- */

/*
 * Has the call transferred the page? Where the thread resolves its faults, one on a missing page is refused with
 * EFAULT, or stops short if the page went meanwhile.
 */
static bool transferred(struct stress_thread *thread, const struct place *place, ssize_t bytes, bool must,
                        const char *what)
{
    const int error = errno;
    if (bytes == PAGE)
        return true;
    if (must || bytes == 0 || (bytes < 0 && error != EFAULT))
        fail(thread, "%s of a page at %p that is %s gave %zd: %s", what, page_pointer(place, 0),
             !must                       ? "not pinned"
             : place->holder->by_threads ? "in a space of handler threads"
                                         : "pinned",
             bytes, strerror(error));
    return false;
}

/* A page goes through a pipe and back: of a space with handler threads at any time, of another while it is pinned. */
void op_system_call(struct stress_thread *thread)
{
    struct place place;
    int ends[2];
    tide_pin *pin = NULL;
    if (!mapped_get(thread, &place, PLACE_EXACT, 1))
        return;
    pages_lock(&place);
    struct shadow_page *page = page_at(&place, 0);
    /* An injected error would be EFAULT too. */
    const bool must = thread->run->options.faults == 0 && (place.holder->by_threads || one_in(thread, 2));
    if (accessible_count(&place, TIDE_ACCESS_WRITE) == 1 && pipe(ends) == 0) {
        const tide_address address = page_address(&place, place.first);
        if (must && !place.holder->by_threads)
            expect(thread, tide_pin_create(place.space, address, PAGE, TIDE_ACCESS_WRITE, &pin), TIDE_SUCCESS,
                   "tide_pin_create", address);
        linger(thread, place.space);
        const ssize_t written = write(ends[1], page_pointer(&place, 0), PAGE);
        const bool whole = transferred(thread, &place, written, must, "write(2)");
        if (written > 0 && read(ends[0], thread->buffer, PAGE) != written)
            fail(thread, "read(2) of a pipe: %s", strerror(errno));
        if (whole)
            check_image(thread, &place, 0, thread->buffer, "write(2) of a page");
        const uint32_t version = version_begin(page);
        image_fill(thread->buffer, place.identity, address, version);
        if (write(ends[1], thread->buffer, PAGE) != PAGE)
            fail(thread, "write(2) to a pipe: %s", strerror(errno));
        linger(thread, place.space);
        if (!transferred(thread, &place, read(ends[0], page_pointer(&place, 0), PAGE), must, "read(2)"))
            memcpy(page_pointer(&place, 0), thread->buffer, PAGE);
        page->version = version;
        check_pointer(thread, &place, 0, "after read(2) into a page");
        tide_pin_destroy(pin);
        (void)close(ends[0]);
        (void)close(ends[1]);
    }
    pages_unlock(&place);
    place_put(&place);
}

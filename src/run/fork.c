/*
 * fork(): the child gets a copy.
 *
 * The kernel does not give a child the space's window, and the engine's threads do not exist in it. So the parent sends
 * what its regions hold through a socket, and the child puts it at the same addresses, in plain memory of the kernel,
 * before fork() returns in it: what runs in the child finds its data. The child has no budget; what it maps and
 * releases is between it and the kernel. The copy has the size of what the parent has touched: fork() of a large
 * process is slow, and its child as large. Children by vfork(), posix_spawn(), system() and popen() share the parent's
 * memory until they execute a program, and need no copy.
 *
 * The handlers of pthread_atfork() run in the order that all ways to fork in the C library take (fork(), daemon(),
 * forkpty()), except _Fork(), whose child has no access to what was captured. Ours are registered first: the others'
 * handlers in the child may use their data, and jemalloc's locks are taken before ours. From the moment of the fork
 * until all is sent, space_freeze() keeps regions where they are; other threads may still write, as between any two
 * instructions of a fork, and the content that the child gets of such a page is the one or the other.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "preload.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What is sent: a stretch of addresses; or, with `bytes` of content behind it, data of one; or the end. */
enum kind { KIND_STRETCH, KIND_DATA, KIND_END };

struct message {
    uint64_t base;
    uint64_t bytes;
    int32_t kind;
    int32_t protection; /* the kernel's, of a stretch after its data is in */
};

enum { BATCH_PAGES = 16 };

struct fork_counters run_forks;

static int ends[2]; /* between prepare and the two handlers after it; space_freeze() excludes others */
static __thread bool prepared __attribute__((tls_model("initial-exec")));

/* ---- the parent -------------------------------------------------------------------------------------------------- */

static bool send_all(const void *data, size_t bytes)
{
    for (const char *at = data; bytes != 0;) {
        const ssize_t sent = send(ends[0], at, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false; /* the child is gone, or never was */
        at += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static int kernel_protection(uint32_t protection)
{
    switch (protection & 0xFF) {
    case TIDE_PAGE_READONLY:
        return PROT_READ;
    case TIDE_PAGE_READWRITE:
        return PROT_READ | PROT_WRITE;
    case TIDE_PAGE_EXECUTE:
    case TIDE_PAGE_EXECUTE_READ:
        return PROT_READ | PROT_EXEC;
    case TIDE_PAGE_EXECUTE_READWRITE:
        return PROT_READ | PROT_WRITE | PROT_EXEC;
    default:
        return PROT_NONE;
    }
}

/* Has the page content that is not zero? Pages that were never touched are not made for the sake of a copy. */
static bool has_content(tide_address page)
{
    tide_page_info info;

    return tide_failed(tide_page_query(run.space, page, &info)) ||
           (info.state != TIDE_PAGE_STATE_FREE && info.state != TIDE_PAGE_STATE_DEMAND_ZERO);
}

/* Copied before it is sent: a system call may not be able to read a page that is not in memory. */
static bool send_pages(tide_address base, unsigned pages)
{
    static char copy[BATCH_PAGES * TIDE_PAGE_BYTES]; /* space_freeze() excludes others */
    const struct message message = { base, pages * (uint64_t)TIDE_PAGE_BYTES, KIND_DATA, 0 };

    if (pages == 0)
        return true;
    memcpy(copy, tide_pointer(base), message.bytes);
    atomic_fetch_add_explicit(&run_forks.bytes, message.bytes, memory_order_relaxed);
    return send_all(&message, sizeof message) && send_all(copy, message.bytes);
}

static bool send_content(tide_address base, uint64_t bytes)
{
    tide_address first = base;
    unsigned pages = 0;

    for (tide_address page = base; page < base + bytes; page += TIDE_PAGE_BYTES) {
        const bool wanted = has_content(page);
        if (pages != 0 && (!wanted || pages == BATCH_PAGES)) {
            if (!send_pages(first, pages))
                return false;
            pages = 0;
        }
        if (wanted) {
            first = pages == 0 ? page : first;
            pages++;
        }
    }
    return send_pages(first, pages);
}

static bool send_committed(const tide_region *region)
{
    const bool readable = (kernel_protection(region->protection) & PROT_READ) != 0;
    uint32_t old;

    /* Memory that the program has closed to itself is opened for the time of the copy. */
    if (!readable &&
        tide_failed(tide_virtual_protect(run.space, region->base, region->bytes, TIDE_PAGE_READONLY, &old)))
        return false;
    const bool sent = send_content(region->base, region->bytes);
    if (!readable)
        (void)!tide_virtual_protect(run.space, region->base, region->bytes, region->protection, &old);
    return sent;
}

static bool send_space(void)
{
    const struct message end = { 0, 0, KIND_END, 0 };
    const tide_address stop = run.window + run.window_bytes;
    tide_region region;

    for (tide_address at = run.window; at < stop; at = region.base + region.bytes) {
        if (tide_failed(tide_virtual_query(run.space, at, &region)))
            break;
        if (region.state == TIDE_MEM_FREE)
            continue;
        const bool committed = region.state == TIDE_MEM_COMMIT;
        const struct message stretch = { region.base, region.bytes, KIND_STRETCH,
                                         committed ? kernel_protection(region.protection) : PROT_NONE };
        if (!send_all(&stretch, sizeof stretch) || (committed && !send_committed(&region)) ||
            !send_all(&stretch, sizeof stretch))
            return false;
    }
    return send_all(&end, sizeof end);
}

/* ---- the child --------------------------------------------------------------------------------------------------- */

static _Noreturn void child_fails(const char *what)
{
    const char *const text = ": a child of fork() cannot have its copy of the memory, and ends\n";

    (void)!write(STDERR_FILENO, "pagetide run: ", 14);
    (void)!write(STDERR_FILENO, what, strlen(what));
    (void)!write(STDERR_FILENO, text, strlen(text));
    _exit(125);
}

static void receive_all(void *data, size_t bytes)
{
    for (char *at = data; bytes != 0;) {
        const ssize_t received = recv(ends[1], at, bytes, MSG_WAITALL);
        if (received < 0 && errno == EINTR)
            continue;
        if (received <= 0)
            child_fails("the parent does not send");
        at += received;
        bytes -= (size_t)received;
    }
}

static void map(uintptr_t base, size_t bytes, int protection)
{
    if (kernel_mmap((void *)base, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) ==
        MAP_FAILED)
        child_fails("no addresses");
}

/* Each stretch comes twice, before and after its content: mapped by the first, closed by the second. */
static void receive_space(void)
{
    struct message message, open = { 0, 0, KIND_END, 0 };

    map(run.arenas, run.arenas_bytes, PROT_READ | PROT_WRITE);
    for (;;) {
        receive_all(&message, sizeof message);
        if (message.kind == KIND_END)
            return;
        if (message.kind == KIND_DATA) {
            receive_all(tide_pointer(message.base), message.bytes);
        } else if (run_in_arenas(tide_pointer(message.base))) {
            continue;
        } else if (open.base != message.base) {
            open = message;
            map(message.base, message.bytes, PROT_READ | PROT_WRITE);
        } else if (message.protection != (PROT_READ | PROT_WRITE) &&
                   kernel_mprotect(tide_pointer(message.base), message.bytes, message.protection) != 0) {
            child_fails("mprotect");
        }
    }
}

/* ---- handlers ---------------------------------------------------------------------------------------------------- */

static void prepare(void)
{
    prepared = false;
    if (run_phase() != PHASE_CAPTURING)
        return;
    const int error = errno;
    run_enter();
    blocks_lock();
    space_freeze();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        ends[0] = ends[1] = -1; /* the child will say so */
    prepared = true;
    errno = error;
}

static void parent(void)
{
    if (!prepared)
        return;
    const int error = errno;
    (void)close(ends[1]);
    if (send_space())
        atomic_fetch_add_explicit(&run_forks.forks, 1, memory_order_relaxed);
    (void)close(ends[0]);
    prepared = false;
    space_thaw();
    blocks_unlock();
    run_leave();
    errno = error;
}

static void child(void)
{
    if (!prepared)
        return;
    const int error = errno;
    (void)close(ends[0]);
    receive_space();
    (void)close(ends[1]);
    run_descriptors_close();
    blocks_child();
    prepared = false;
    atomic_store_explicit(&run.phase, PHASE_CHILD, memory_order_release);
    run_leave();
    errno = error;
}

void fork_open(void)
{
    (void)pthread_atfork(prepare, parent, child);
}

/*
 * Operations of a stress run on nodes and on the memory itself: threads that go from node to node, nodes that run dry
 * one after the other, and frames that go bad.
 *
 * Migration is by the thread's CPUs; on a synthetic topology, whose CPUs are not those of this machine, by its ideal
 * node too, so that every node has its threads.
 *
 * Bad frames are drawn among all, so they hold anything: nothing, clean and dirty pages, pinned ones, page tables. What
 * a page that is lost with one must hold, whoever accesses it next and has its lock writes anew (must_repeat()).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

/* The n-th CPU of the run, from the lowest on. */
static int cpu_at(const struct stress_run *run, uint64_t n)
{
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &run->cpus) && n-- == 0)
            return cpu;
    return 0;
}

void op_migrate(struct stress_thread *thread)
{
    const struct stress_run *run = thread->run;
    const unsigned count = (unsigned)CPU_COUNT(&run->cpus);
    cpu_set_t cpus = run->cpus;
    if (run->node_count == 1)
        return;
    if (!one_in(thread, 4)) {
        CPU_ZERO(&cpus);
        CPU_SET((size_t)cpu_at(run, draw(thread, count)), &cpus);
    }
    if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0)
        fail(thread, "sched_setaffinity to one of the %u CPUs of the run failed", count);
    const uint32_t node =
        run->options.nodes == 0 || one_in(thread, 4) ? TIDE_NO_PREFERRED_NODE : (uint32_t)draw(thread, run->node_count);
    expect(thread, tide_thread_set_ideal_node(run->engine, node), TIDE_SUCCESS, "tide_thread_set_ideal_node", 0);
}

/* All that a node has is taken by one region, at once; the others spill from it to the next. */
void op_dry_node(struct stress_thread *thread)
{
    struct stress_run *run = thread->run;
    struct place place;
    tide_node_statistics statistics;
    if (run->node_count == 1 || !one_in(thread, 20) || !place_get(thread, &place, PLACE_ANY, 1))
        return;
    const unsigned node = atomic_fetch_add(&run->dry_node, 1) % run->node_count;
    expect(thread, tide_node_statistics_get(run->engine, node, &statistics), TIDE_SUCCESS, "tide_node_statistics_get",
           0);
    tide_address base = 0;
    uint64_t bytes = (statistics.available + 1) * TIDE_PAGE_BYTES;
    tide_status status = tide_virtual_alloc_numa(place.space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT,
                                                 TIDE_PAGE_READWRITE, node);
    if (status == TIDE_COMMITMENT_LIMIT || status == TIDE_NO_MEMORY) {
        thread->commit_refused++;
    } else {
        expect(thread, status, TIDE_SUCCESS, "region that fills a node", 0);
        for (uint64_t at = 0; at < bytes; at += TIDE_PAGE_BYTES) {
            unsigned attempt = 0;
            do
                status = tide_touch(place.space, base + at, TIDE_ACCESS_WRITE);
            while (must_repeat(thread, status, attempt++));
            if (tide_failed(status))
                fail(thread, "touch of 0x%llx returned %s", (unsigned long long)(base + at), tide_status_name(status));
        }
        linger(thread, place.space);
        expect(thread, tide_virtual_free(place.space, base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release", base);
    }
    place_put(&place);
}

/* So many may be bad by now: as many as time has passed, so that they go bad all through the run. */
static uint64_t by_now(const struct stress_run *run, uint64_t all)
{
    const uint64_t length = run->options.seconds * 1000000000ull;
    const uint64_t passed = stress_now_ns() - run->start_ns;
    return length == 0 || passed >= length ? all : (uint64_t)((double)all * (double)passed / (double)length);
}

void op_bad_frame(struct stress_thread *thread)
{
    struct stress_run *run = thread->run;
    tide_retirement retirement;
    tide_frame_info info;
    if (run->options.bad_frames == 0)
        return;
    if (atomic_fetch_add(&run->retired, 1) >= by_now(run, run->options.bad_frames)) {
        atomic_fetch_sub(&run->retired, 1);
        return;
    }
    /* Frame numbers between two nodes' frames belong to nobody. */
    const uint64_t frame = draw(thread, tide_frame_number_end(run->engine));
    const tide_status status = tide_frame_retire(run->engine, frame, &retirement);
    if (status == TIDE_INVALID_PARAMETER || (status == TIDE_SUCCESS && retirement.outcome == TIDE_RETIRE_ALREADY)) {
        atomic_fetch_sub(&run->retired, 1); /* between two nodes' frames, or bad before */
        return;
    }
    expect(thread, status,
           retirement.outcome == TIDE_RETIRE_PINNED  ? TIDE_PENDING
           : retirement.outcome == TIDE_RETIRE_TABLE ? TIDE_HARDWARE_MEMORY_ERROR
                                                     : TIDE_SUCCESS,
           "tide_frame_retire", retirement.address);
    if (status != TIDE_SUCCESS)
        return;
    expect(thread, tide_frame_query(run->engine, frame, &info), TIDE_SUCCESS, "tide_frame_query", 0);
    if (info.state != TIDE_FRAME_BAD)
        fail(thread, "frame %llu was retired and is %s", (unsigned long long)frame, tide_frame_state_name(info.state));
}

/* ---- real poison ------------------------------------------------------------------------------------------------ */

static _Thread_local volatile sig_atomic_t poisoning; /* [T] the signal is for the call that poisons */

/*
 * Behind the library's handler, which has told the engine. Nobody has a pointer to what is poisoned but its poisoner.
 */
static void on_bus(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    (void)context;
    if (poisoning)
        return;
    (void)signal(SIGBUS, SIG_DFL);
    (void)raise(SIGBUS);
}

static bool poison(void *page)
{
    poisoning = 1;
    const bool done = madvise(page, TIDE_PAGE_BYTES, MADV_HWPOISON) == 0;
    poisoning = 0;
    return done;
}

bool stress_poison_prepare(void)
{
    const struct sigaction action = { .sa_sigaction = on_bus, .sa_flags = SA_SIGINFO };
    char *page = mmap(NULL, TIDE_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || sigaction(SIGBUS, &action, NULL) != 0)
        return false;
    *page = 1;
    return poison(page);
}

static void expect_poisoned(struct stress_thread *thread, tide_space *space, tide_address address, const char *when)
{
    const tide_status status = tide_read(space, address, thread->buffer, TIDE_PAGE_BYTES);
    if (status != TIDE_IN_PAGE_ERROR || tide_last_error()->io_error != EHWPOISON)
        fail(thread, "tide_read of a poisoned page %s returned %s", when, tide_status_name(status));
}

/* A page of one's own is pinned, so that its frame is nobody else's meanwhile, and poisoned. */
void op_poison(struct stress_thread *thread)
{
    struct stress_run *run = thread->run;
    struct place place;
    tide_address base = 0;
    uint64_t bytes = TIDE_PAGE_BYTES;
    if (run->options.poison == 0 || atomic_load(&run->poisoned) >= by_now(run, run->options.poison) ||
        !place_get(thread, &place, PLACE_ANY, 1))
        return;
    tide_status status =
        tide_virtual_alloc(place.space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE);
    if (status == TIDE_COMMITMENT_LIMIT || status == TIDE_NO_MEMORY) {
        thread->commit_refused++;
        place_put(&place);
        return;
    }
    expect(thread, status, TIDE_SUCCESS, "region of a page", 0);
    tide_pin *pin;
    unsigned attempt = 0, count;
    do
        status = tide_pin_create(place.space, base, TIDE_PAGE_BYTES, TIDE_ACCESS_WRITE, &pin);
    while (must_repeat(thread, status, attempt++));
    expect(thread, status, TIDE_SUCCESS, "pin of a page that is to be poisoned", base);
    void *memory = tide_pin_iovec(pin, &count)->iov_base;
    const bool poisoned = poison(memory);
    if (!poisoned) {
        /* The kernel could not get hold of the page, say in the midst of a split, or had tried before. */
        if (errno != EBUSY && errno != EHWPOISON)
            fail(thread, "MADV_HWPOISON: %s", strerror(errno));
        expect(thread, tide_frame_retire_at(run->engine, memory, NULL), TIDE_PENDING, "tide_frame_retire_at", base);
    }
    atomic_fetch_add(&run->poisoned, 1);
    linger(thread, place.space);
    if (poisoned && one_in(thread, 2)) /* the engine's own copy meets the poison */
        expect_poisoned(thread, place.space, base, "while it is pinned");
    tide_pin_destroy(pin);
    expect_poisoned(thread, place.space, base, "after its pin");
    expect(thread, tide_write(place.space, base, thread->buffer, TIDE_PAGE_BYTES), TIDE_SUCCESS,
           "write of a whole page that was poisoned", base);
    expect(thread, tide_virtual_free(place.space, base, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS, "release", base);
    place_put(&place);
}

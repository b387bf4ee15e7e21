/*
 * Several reads at the same time: by a ring and without, whole and cut short, refused by the kernel, by the filter, by
 * the device; by one thread after the other, by more threads than there are rings, in a child; and given back one by one.
 *
 * io_uring_submit_and_wait and io_uring_queue_init of this file take the place of the library's, so that the one can
 * misbehave and the other is counted.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <dlfcn.h>
#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = TIDE_PAGE_BYTES, CLUSTERS = 6, PAGES = 5 };

static struct {
    bool refuse;          /* submissions get -EAGAIN */
    unsigned refuse_from; /* all from this one on do, 1 is the first; 0: none */
    uint32_t submissions; /* [A] */
    bool cut;             /* reads by the ring get one page */
    uint32_t submitted;   /* [A] entries that the ring took */
    unsigned filtered;    /* calls of the filter */
    uint32_t bad_slot;    /* the filter makes the read from here fail; 0: none */
} faults;
static uint32_t rings_made; /* [A] */
static int (*real_submit_and_wait)(struct io_uring *, unsigned);
static int (*real_queue_init)(unsigned, struct io_uring *, unsigned);

int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
    const unsigned submission = sync_add_32(&faults.submissions, 1) + 1;

    if (faults.refuse || (faults.refuse_from != 0 && submission >= faults.refuse_from))
        return -EAGAIN;
    for (unsigned i = 0; i < io_uring_sq_ready(ring); i++) {
        struct io_uring_sqe *entry = &ring->sq.sqes[(ring->sq.sqe_tail - 1 - i) & *ring->sq.kring_mask];
        if (faults.cut && entry->opcode == IORING_OP_READV)
            entry->len = 1;
        sync_add_32(&faults.submitted, 1);
    }
    return real_submit_and_wait(ring, wait);
}

int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
    sync_add_32(&rings_made, 1);
    return real_queue_init(entries, ring, flags);
}

static int filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    (void)context;
    (void)file;
    (void)pages;
    faults.filtered += kind == TIDE_IO_READ;
    return kind == TIDE_IO_READ && slot == faults.bad_slot ? EIO : 0;
}

static void page_fill(unsigned char *page, unsigned cluster, unsigned i)
{
    memset(page, (int)(1 + cluster * PAGES + i), PAGE);
}

/* Clusters of pages that lie apart, written one by one. */
static void clusters_write(struct stores *stores, struct stores_request *requests, unsigned char *memory)
{
    struct stores_queue *queue;

    assert_int_equal(stores_queue_create(stores, 1, &queue), TIDE_SUCCESS);
    for (unsigned c = 0; c < CLUSTERS; c++) {
        struct stores_write write = { .count = PAGES };
        struct stores_write *const writes[] = { &write };

        assert_int_equal(stores_slots_allocate(stores, PAGES, 0, &write.first), PAGES);
        for (unsigned i = 0; i < PAGES; i++) {
            unsigned char *page = memory + (c * PAGES + i) * PAGE;
            page_fill(page, c, i);
            write.pages[i] = (struct iovec){ page, PAGE };
            /* Read to where the last cluster's last page comes first. */
            requests[c].pages[i] = (struct iovec){ memory + ((CLUSTERS * PAGES - 1 - c * PAGES - i) * PAGE), PAGE };
        }
        stores_queue_write(queue, writes, 1);
        assert_int_equal(write.error, 0);
        requests[c].first = write.first;
        requests[c].count = PAGES;
    }
    stores_queue_destroy(queue);
}

static void assert_read(const struct stores_request *request, unsigned cluster)
{
    static unsigned char expected[PAGE];

    assert_int_equal(request->error, 0);
    for (unsigned i = 0; i < PAGES; i++) {
        page_fill(expected, cluster, i);
        assert_memory_equal(request->pages[i].iov_base, expected, PAGE);
    }
}

/* Stores with the clusters written, and requests for them. */
struct scene {
    struct stores *stores;
    unsigned char *memory;
    struct stores_request requests[CLUSTERS];
    bool ring; /* there is io_uring, and it is not disabled */
};

static void scene_begin(struct scene *scene, tide_io_filter *asked, bool disable_io_uring)
{
    tide_page_file_config file = { .path = in_folder("file"), .minimum_bytes = 100 * PAGE };
    const struct stores_options options = {
        .files = &file, .file_count = 1, .filter = asked, .disable_io_uring = disable_io_uring
    };
    struct io_uring probe;

    memset(&faults, 0, sizeof faults);
    memset(scene, 0, sizeof *scene);
    scene->ring = !disable_io_uring && io_uring_queue_init(1, &probe, 0) == 0;
    if (scene->ring)
        io_uring_queue_exit(&probe);
    scene->stores = stores_good(&options);
    scene->memory = aligned_alloc(PAGE, CLUSTERS * PAGES * PAGE);
    assert_non_null(scene->memory);
    clusters_write(scene->stores, scene->requests, scene->memory);
    memset(&faults, 0, sizeof faults);
    sync_store_32(&rings_made, 0);
}

static void scene_end(struct scene *scene)
{
    free(scene->memory);
    stores_destroy(scene->stores);
}

static void reads(bool disable_io_uring)
{
    struct scene scene;

    scene_begin(&scene, filter, disable_io_uring);
    struct stores *stores = scene.stores;
    struct stores_request *requests = scene.requests;
    unsigned char *memory = scene.memory;
    const bool ring = scene.ring;
    for (unsigned round = 0; round < 4; round++) {
        memset(&faults, 0, sizeof faults);
        faults.refuse = round == 1;
        faults.cut = round == 2;
        faults.bad_slot = round == 3 ? requests[2].first.slot : 0;
        memset(memory, 0, CLUSTERS * PAGES * PAGE);
        stores_read_many(stores, requests, CLUSTERS);
        for (unsigned c = 0; c < CLUSTERS; c++) {
            if (round == 3 && c == 2)
                assert_int_equal(requests[c].error, EIO);
            else
                assert_read(&requests[c], c);
        }
        /* Each is asked for once, unless it is read again: the one that the ring refused, those that it cut short. */
        assert_int_equal(faults.submitted, !ring || round == 1 ? 0 : round == 3 ? CLUSTERS - 1 : CLUSTERS);
        assert_int_equal(faults.filtered, CLUSTERS + (ring && round == 1 ? 1 : ring && round == 2 ? CLUSTERS : 0));
    }
    memset(&faults, 0, sizeof faults);
    stores_read_many(stores, requests, 1); /* one needs no ring */
    assert_read(&requests[0], 0);
    assert_int_equal(faults.submitted, 0);
    stores_read_many(stores, requests, 0);
    scene_end(&scene);
}

static void test_many_reads_by_a_ring(void **state)
{
    (void)state;
    reads(false);
}

static void test_many_reads_without_a_ring(void **state)
{
    (void)state;
    reads(true);
}

/* The ring refuses while reads are under way: these are waited for, and the others read without it. */
static void test_a_ring_that_refuses_half_way(void **state)
{
    struct scene scene;

    (void)state;
    scene_begin(&scene, filter, false); /* with a filter each is submitted on its own */
    for (unsigned from = 1; from <= CLUSTERS + 1; from++) {
        memset(&faults, 0, sizeof faults);
        memset(scene.memory, 0, CLUSTERS * PAGES * PAGE);
        faults.refuse_from = from;
        sync_store_32(&rings_made, 0);
        stores_read_many(scene.stores, scene.requests, CLUSTERS);
        for (unsigned c = 0; c < CLUSTERS; c++)
            assert_read(&scene.requests[c], c);
        if (scene.ring)
            assert_int_equal(faults.submitted, from - 1);
        faults.refuse_from = 0;
        stores_read_many(scene.stores, scene.requests, CLUSTERS); /* by a new ring, unless the old one was still good */
        if (scene.ring)
            assert_int_equal(faults.submitted, from - 1 + CLUSTERS);
    }
    scene_end(&scene);
}

/* Rings are made for few, not for each call. */
static void test_rings_are_kept(void **state)
{
    struct scene scene;
    enum { CALLS = 500, RINGS_MOST = 64 };

    (void)state;
    scene_begin(&scene, NULL, false);
    for (unsigned i = 0; i < CALLS; i++) {
        memset(scene.memory, 0, CLUSTERS * PAGES * PAGE);
        stores_read_many(scene.stores, scene.requests, CLUSTERS);
        for (unsigned c = 0; c < CLUSTERS; c++)
            assert_read(&scene.requests[c], c);
    }
    assert_true(sync_load_32(&rings_made) <= RINGS_MOST);
    if (scene.ring)
        assert_int_equal(faults.submitted, CALLS * CLUSTERS);
    scene_end(&scene);
}

/* ---- more threads than rings ------------------------------------------------------------------------------------ */

enum { THREADS = 100 };
static uint32_t threads_reading; /* [A] that have come to the filter */

static int filter_all_there(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    static __thread bool came;

    (void)context, (void)file, (void)slot, (void)pages;
    if (kind != TIDE_IO_READ)
        return 0;
    if (!came)
        sync_add_32(&threads_reading, 1);
    came = true;
    while (sync_load_32(&threads_reading) < THREADS)
        usleep(1000);
    return 0;
}

static void *thread_reads(void *context)
{
    const struct scene *scene = context;
    unsigned char *memory = aligned_alloc(PAGE, CLUSTERS * PAGES * PAGE);
    struct stores_request *requests = calloc(CLUSTERS, sizeof *requests);

    for (unsigned c = 0; c < CLUSTERS; c++) {
        requests[c].first = scene->requests[c].first;
        requests[c].count = PAGES;
        for (unsigned i = 0; i < PAGES; i++)
            requests[c].pages[i] = (struct iovec){ memory + (c * PAGES + i) * PAGE, PAGE };
    }
    stores_read_many(scene->stores, requests, CLUSTERS);
    uintptr_t wrong = 0;
    for (unsigned c = 0; c < CLUSTERS; c++)
        for (unsigned i = 0; i < PAGES; i++)
            wrong += requests[c].error != 0 || memory[(c * PAGES + i) * PAGE] != 1 + c * PAGES + i;
    free(requests);
    free(memory);
    return (void *)wrong;
}

static void test_more_threads_than_rings(void **state)
{
    enum { RINGS_MOST = 64 };
    struct scene scene;
    pthread_t threads[THREADS];

    (void)state;
    sync_store_32(&threads_reading, 0);
    scene_begin(&scene, filter_all_there, false);
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, thread_reads, &scene), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        void *wrong;
        assert_int_equal(pthread_join(threads[i], &wrong), 0);
        assert_null(wrong);
    }
    assert_true(sync_load_32(&rings_made) <= RINGS_MOST);
    scene_end(&scene);
}

/* ---- a child, and one by one ------------------------------------------------------------------------------------ */

/* A child has its parent's rings open, and uses them not. */
static void test_reads_in_a_child(void **state)
{
    struct scene scene;
    int status;

    (void)state;
    scene_begin(&scene, NULL, false);
    stores_read_many(scene.stores, scene.requests, CLUSTERS);
    sync_store_32(&rings_made, 0);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        cpu_set_t all;
        unsigned wrong = 0;

        /* On every CPU, so that it comes to each ring that there is. */
        (void)sched_getaffinity(0, sizeof all, &all);
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            cpu_set_t one;
            if (!CPU_ISSET(cpu, &all))
                continue;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            (void)sched_setaffinity(0, sizeof one, &one);
            memset(scene.memory, 0, CLUSTERS * PAGES * PAGE);
            stores_read_many(scene.stores, scene.requests, CLUSTERS);
            for (unsigned c = 0; c < CLUSTERS; c++)
                wrong += scene.requests[c].error != 0 ||
                         *(unsigned char *)scene.requests[c].pages[0].iov_base != 1 + c * PAGES;
        }
        const unsigned own = CPU_COUNT(&all) <= 16 ? (unsigned)CPU_COUNT(&all) : 1; /* more share rings */
        _exit(wrong != 0 ? 1 : scene.ring && sync_load_32(&rings_made) < own ? 2 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    memset(scene.memory, 0, CLUSTERS * PAGES * PAGE);
    stores_read_many(scene.stores, scene.requests, CLUSTERS);
    for (unsigned c = 0; c < CLUSTERS; c++)
        assert_read(&scene.requests[c], c);
    scene_end(&scene);
}

static int filter_slow(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    const struct timespec time = { .tv_nsec = kind == TIDE_IO_READ ? 50000000 : 0 };

    nanosleep(&time, NULL);
    return filter(context, kind, file, slot, pages);
}

/* Each read is given back when it is over, and not when all are; whatever is added meanwhile joins. */
static void reads_one_by_one(bool disable_io_uring)
{
    struct scene scene;
    struct stores_reads reads;
    unsigned given[CLUSTERS] = { 0 };

    scene_begin(&scene, filter_slow, disable_io_uring);
    memset(scene.memory, 0, CLUSTERS * PAGES * PAGE);
    stores_reads_begin(scene.stores, &reads);
    assert_null(stores_reads_next(&reads));
    for (unsigned c = 0; c < CLUSTERS - 1; c++)
        stores_reads_add(&reads, &scene.requests[c]);
    for (struct stores_request *request; (request = stores_reads_next(&reads)) != NULL;) {
        const unsigned c = (unsigned)(request - scene.requests);

        assert_read(request, c);
        if (given[0] + given[1] + given[2] + given[3] + given[4] == 0) {
            assert_true(faults.filtered < CLUSTERS - 1); /* the last was not even asked for */
            stores_reads_add(&reads, &scene.requests[CLUSTERS - 1]);
        }
        given[c]++;
    }
    for (unsigned c = 0; c < CLUSTERS; c++)
        assert_int_equal(given[c], 1);
    stores_reads_end(&reads);
    scene_end(&scene);
}

static void test_reads_are_given_back_one_by_one(void **state)
{
    (void)state;
    reads_one_by_one(false);
    reads_one_by_one(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_ring_that_refuses_half_way, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_rings_are_kept, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_more_threads_than_rings, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_reads_in_a_child, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_reads_are_given_back_one_by_one, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_many_reads_by_a_ring, folder_setup, folder_teardown),
        cmocka_unit_test_setup_teardown(test_many_reads_without_a_ring, folder_setup, folder_teardown),
    };

    *(void **)&real_submit_and_wait = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    *(void **)&real_queue_init = dlsym(RTLD_NEXT, "io_uring_queue_init");
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * Many threads on the lists at once: allocate, give back, free, trim, soft fault, write, repurpose, zero. Each page
 * carries a stamp that its owner checks whenever it has the frame; at the end every frame is somewhere, once, and the
 * sums are right.
 *
 * Pages belong to one thread each, whose claims stand for those of faults: a page's PTE is OWNER_CLAIMED while the
 * thread works on it and OWNER_IN_FRAME while the lists may take it. A writer turns modified pages clean; its "page
 * file" is the version that it notes in the page.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include "base/random.h"

#include <pthread.h>
#include <string.h>

enum { THREADS = 4, PAGES_PER_THREAD = 60, FRAMES = 224, OPERATIONS = 150000 / EFFORT_DIVISOR };

#define COPY 0xC0ull /* the original of a page that was written */

enum place { NOWHERE, OWNED, LISTED };

struct page {
    uint64_t pte;     /* [A] */
    uint64_t version; /* [T] of the content */
    uint64_t written; /* [A] version that the writer saw */
    frame_t frame;    /* [T] */
    enum place place; /* [T] as far as its owner knows */
};

struct worker {
    struct frames *frames;
    struct page pages[PAGES_PER_THREAD];
    uint64_t seed;
    unsigned index;
    uint64_t taken, hits, losses; /* what happened, so that the test can tell that everything did */
    const char *failure;
};

static bool detach(struct pfn *pfn, frame_t frame)
{
    (void)frame;
    return sync_load_64(pfn->pte) == OWNER_IN_FRAME && sync_cas_64(pfn->pte, OWNER_IN_FRAME, pfn->original);
}

#define CHECK(worker, condition)                                                                                       \
    do {                                                                                                               \
        if (!(condition) && (worker)->failure == NULL)                                                                 \
            (worker)->failure = #condition;                                                                            \
    } while (0)

static struct page *page_of(const struct frames *frames, frame_t frame)
{
    return (struct page *)(void *)((char *)frame_pfn(frames, frame)->pte - offsetof(struct page, pte));
}

/* The end of a page's content, which the writer reads while the owner may write it: hence by atomic access. */
static uint64_t *version_of(const struct frames *frames, frame_t frame)
{
    return (uint64_t *)frame_memory(frames, frame) + PAGE / sizeof(uint64_t) - 1;
}

static void page_in(struct worker *worker, struct page *page)
{
    const bool zero = random_below(&worker->seed, 2) == 0;
    const frame_t frame = frames_allocate(worker->frames, worker->index % 2, zero ? FRAMES_ZERO : FRAMES_ANY, 0);

    if (frame_is_none(frame))
        return;
    struct pfn *pfn = frame_pfn(worker->frames, frame);
    uint64_t *memory = frame_memory(worker->frames, frame);
    worker->taken++;
    for (unsigned i = 0; i < PAGE / sizeof *memory && zero; i++)
        CHECK(worker, memory[i] == 0);
    CHECK(worker, pfn_reference_count(sync_load_64(&pfn->word)) == 0);
    if (random_below(&worker->seed, 8) == 0) {
        frames_give_back(worker->frames, frame, zero);
        return;
    }
    pfn->pte = &page->pte;
    pfn->original = 0;
    sync_store_64(&page->pte, OWNER_CLAIMED);
    frame_state_set(pfn, pfn_with_priority((uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_REFERENCE_ONE | PFN_SHARE_ONE,
                                           (unsigned)random_below(&worker->seed, 8)));
    page->frame = frame;
    page->place = OWNED;
    page->version++;
    memory[0] = (uint64_t)(uintptr_t)page;
    sync_store_64(version_of(worker->frames, frame), page->version);
}

static void page_check(struct worker *worker, struct page *page)
{
    const uint64_t *memory = frame_memory(worker->frames, page->frame);

    CHECK(worker, memory[0] == (uint64_t)(uintptr_t)page);
    CHECK(worker, sync_load_64(version_of(worker->frames, page->frame)) == page->version);
}

/* An access: writes a new version, unless the page is clean and only read. */
static void page_use(struct worker *worker, struct page *page)
{
    struct pfn *pfn = frame_pfn(worker->frames, page->frame);
    uint64_t word = sync_load_64(&pfn->word);

    page_check(worker, page);
    if (random_below(&worker->seed, 2) == 0)
        return;
    do
        if (!(word & PFN_WRITE_IN_PROGRESS))
            pfn->original = 0;
    while (!frame_state_cas(pfn, word, word | PFN_DIRTY, &word));
    sync_store_64(version_of(worker->frames, page->frame), ++page->version);
}

static void page_trim(struct worker *worker, struct page *page)
{
    struct frames *frames = worker->frames;
    struct pfn *pfn = frame_pfn(frames, page->frame);
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        const uint64_t next = pfn_with_grace(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, grace_now(&frames->grace));

        if (pfn_reference_count(word) != 1) {
            if (!frame_state_cas(pfn, word, pfn_with_state(next, FRAME_TRANSITION), &word))
                continue;
            (void)sync_add_64(&frames->nodes[frame_node(frames, page->frame)].in_transition, 1);
            break;
        }
        if (frames_insert(frames, page->frame, word,
                          pfn_with_state(next, next & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY), &word))
            break;
    }
    page->place = LISTED;
    sync_store_64(&page->pte, OWNER_IN_FRAME);
}

/* A pin that ends after the page was trimmed: its end, not the trim, puts the frame on a list. */
static void page_pin(struct worker *worker, struct page *page)
{
    struct pfn *pfn = frame_pfn(worker->frames, page->frame);
    uint64_t word = sync_load_64(&pfn->word);

    while (!frame_state_cas(pfn, word, word + PFN_REFERENCE_ONE, &word))
        ;
    page_trim(worker, page);
    frames_reference_drop(worker->frames, page->frame);
}

/* A soft fault, or the news that the page was repurposed. */
static void page_soft(struct worker *worker, struct page *page, bool delete)
{
    struct frames *frames = worker->frames;
    struct pfn *pfn = frame_pfn(frames, page->frame);

    if (!sync_cas_64(&page->pte, OWNER_IN_FRAME, OWNER_CLAIMED)) {
        CHECK(worker, sync_load_64(&page->pte) == COPY);
        CHECK(worker, sync_load_64(&page->written) == page->version); /* only what was written may go */
        page->place = NOWHERE;
        worker->losses++;
        return;
    }
    uint64_t word = sync_load_64(&pfn->word);
    for (;;) {
        if (pfn_state(word) == FRAME_TRANSITION) {
            const uint64_t next =
                delete ? word | PFN_DELETED : pfn_with_state(word, FRAME_ACTIVE) + PFN_SHARE_ONE + PFN_REFERENCE_ONE;
            if (!frame_state_cas(pfn, word, next, &word))
                continue;
            if (delete) {
                page->place = NOWHERE;
                return;
            }
            (void)sync_add_64(&frames->nodes[frame_node(frames, page->frame)].in_transition, (uint64_t)-1);
            break;
        }
        if (frames_unlink(frames, page->frame, word, FRAME_ACTIVE, PFN_SHARE_ONE + PFN_REFERENCE_ONE,
                          pfn_priority(word), &word))
            break;
    }
    page->place = OWNED;
    worker->hits++;
    page_check(worker, page);
    if (delete) {
        frames_free(frames, page->frame);
        page->place = NOWHERE;
    }
}

static bool zeroed_any(const struct frames *frames)
{
    return (sync_load_64(&frames->nodes[0].background_zeroed) | sync_load_64(&frames->nodes[1].background_zeroed)) != 0;
}

/* What a test is about: pages that were found again, pages that were lost, and the background thread at work. */
static bool met_all(const struct worker *worker)
{
    return worker->hits != 0 && worker->losses != 0 && zeroed_any(worker->frames);
}

static void *worker_main(void *context)
{
    struct worker *worker = context;
    struct grace_thread *thread = grace_thread_get(&worker->frames->grace);

    /* On a busy machine the background thread may not have had its turn yet: then go on until it was met. */
    for (unsigned i = 0; worker->failure == NULL && (i < OPERATIONS || (i < 100 * OPERATIONS && !met_all(worker)));
         i++) {
        struct page *page = &worker->pages[random_below(&worker->seed, PAGES_PER_THREAD)];
        const uint64_t choice = random_below(&worker->seed, 8);

        grace_enter(thread);
        if (page->place == NOWHERE)
            page_in(worker, page);
        else if (page->place == LISTED)
            page_soft(worker, page, choice == 0);
        else if (choice < 4)
            page_use(worker, page);
        else if (choice < 7)
            page_trim(worker, page);
        else
            page_pin(worker, page);
        grace_leave(thread);
        if (i % 64 == 0)
            (void)grace_advance(&worker->frames->grace);
    }
    grace_thread_put(thread);
    return NULL;
}

static uint32_t background_stop; /* [A] */

/* Writer, zeroer and the pressure of others' needs in one thread. */
static void *background_main(void *context)
{
    struct frames *frames = context;
    struct grace_thread *thread = grace_thread_get(&frames->grace);
    uint64_t seed = 99;

    while (sync_load_32(&background_stop) == 0) {
        const unsigned node = (unsigned)random_below(&seed, 2);

        (void)grace_advance(&frames->grace);
        grace_enter(thread);
        const frame_t frame = random_below(&seed, 4) == 0 ? FRAME_NONE : frames_take_modified(frames, node);
        if (!frame_is_none(frame)) {
            struct page *page = page_of(frames, frame);

            sync_store_64(&page->written, sync_load_64(version_of(frames, frame)));
            (void)frames_write_end(frames, frame, COPY, random_below(&seed, 10) != 0);
        } else {
            (void)frames_zero_free(frames, node, 8);
            (void)frames_repurpose(frames, node, 3, 2);
            frames_drain_caches(frames);
        }
        grace_leave(thread);
    }
    grace_thread_put(thread);
    return NULL;
}

static void test_random_operations(void **state)
{
    static struct worker workers[THREADS];
    struct topology *topology = NULL;
    struct frames *frames = NULL;
    pthread_t threads[THREADS], background;
    tide_config config = small_config(FRAMES);
    uint64_t owned = 0, hits = 0, losses = 0;

    (void)state;
    config.list_shards = 2;
    config.cpu_cache_pages = 4;
    assert_int_equal(topology_create("numa:2 core:1 pu:1", NULL, &topology), TIDE_SUCCESS);
    const struct frames_options options = { .config = &config, .topology = topology, .detach = detach };
    assert_int_equal(frames_create(&options, &frames), TIDE_SUCCESS);
    sync_store_32(&background_stop, 0);
    memset(workers, 0, sizeof workers);
    for (unsigned i = 0; i < THREADS; i++) {
        workers[i].frames = frames;
        workers[i].index = i;
        workers[i].seed = i * 1000 + 1;
        assert_int_equal(pthread_create(&threads[i], NULL, worker_main, &workers[i]), 0);
    }
    assert_int_equal(pthread_create(&background, NULL, background_main, frames), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    sync_store_32(&background_stop, 1);
    pthread_join(background, NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        if (workers[i].failure != NULL)
            fail_msg("thread %u: %s", i, workers[i].failure);
        for (unsigned p = 0; p < PAGES_PER_THREAD; p++) {
            struct page *page = &workers[i].pages[p];

            if (page->place == OWNED) {
                page_check(&workers[i], page);
                assert_int_equal(state_of(frames, page->frame), FRAME_ACTIVE);
                assert_int_equal(pfn_reference_count(word_of(frames, page->frame)), 1);
                owned++;
            }
        }
        assert_null(workers[i].failure);
        hits += workers[i].hits;
        losses += workers[i].losses;
    }
    assert_true(hits != 0 && losses != 0 && zeroed_any(frames));
    assert_int_equal(owned + lists_walk(frames), FRAMES);
    assert_int_equal(frames->nodes[0].in_transition + frames->nodes[1].in_transition, 0);
    frames_drain_caches(frames);
    uint64_t listed = 0;
    for (unsigned node = 0; node < 2; node++)
        for (unsigned list = 0; list < FRAME_LIST_COUNT; list++)
            listed += frames_list_count(frames, node, (enum frame_list)list);
    assert_int_equal(owned + listed, FRAMES);
    /* What is called zeroed is. */
    for (uint32_t number = 0; number < frames->end; number++) {
        const char *memory = frame_memory(frames, (frame_t){ number });
        if (frames->pfns[number].word != 0 && state_of(frames, (frame_t){ number }) == FRAME_ZEROED)
            assert_true(memory[0] == 0 && memcmp(memory, memory + 1, PAGE - 1) == 0);
    }
    frames_destroy(frames);
    topology_destroy(topology);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

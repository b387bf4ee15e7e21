/*
 * What the tests of the frames share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t owner_ptes[FRAME_NUMBERS_MAX];

static bool owner_detach(struct pfn *pfn, frame_t frame)
{
    (void)frame;
    if (sync_load_64(pfn->pte) != OWNER_IN_FRAME)
        return false;
    return sync_cas_64(pfn->pte, OWNER_IN_FRAME, pfn->original);
}

tide_config small_config(uint64_t frames)
{
    return (tide_config){ .struct_bytes = sizeof(tide_config),
                          .memory_bytes = frames * PAGE,
                          .disable_huge_pages = true,
                          .list_shards = 1,
                          .cpu_cache_pages = TIDE_NO_CPU_CACHE };
}

struct frames *frames_good(const char *synthetic, const tide_config *config)
{
    struct topology *topology = NULL;
    struct frames *frames = NULL;

    memset(owner_ptes, 0, sizeof owner_ptes);
    assert_int_equal(topology_create(synthetic, NULL, &topology), TIDE_SUCCESS);
    const struct frames_options options = { .config = config, .topology = topology, .detach = owner_detach };
    if (tide_failed(frames_create(&options, &frames)))
        fail_msg("%s", tide_last_error()->message);
    assert_true(frames->end <= FRAME_NUMBERS_MAX);
    return frames;
}

void frames_close(struct frames *frames)
{
    struct topology *topology = (struct topology *)(uintptr_t)frames->topology;

    frames_destroy(frames);
    topology_destroy(topology);
}

void assert_budget_refused(const char *synthetic, const tide_config *config, tide_status status, const char *value,
                           const char *limit)
{
    struct topology *topology = NULL;
    struct frames *frames = NULL;

    assert_int_equal(topology_create(synthetic, NULL, &topology), TIDE_SUCCESS);
    const struct frames_options options = { .config = config, .topology = topology, .detach = owner_detach };
    const tide_status got = frames_create(&options, &frames);
    if (got != status)
        fail_msg("status %s, not %s: %s", tide_status_name(got), tide_status_name(status),
                 tide_failed(got) ? tide_last_error()->message : "accepted");
    assert_null(frames);
    if (strstr(tide_last_error()->message, value) == NULL || strstr(tide_last_error()->message, limit) == NULL)
        fail_msg("\"%s\" names not both \"%s\" and \"%s\"", tide_last_error()->message, value, limit);
    topology_destroy(topology);
}

frame_t take(struct frames *frames, unsigned node, enum frames_need need)
{
    const frame_t frame = frames_allocate(frames, node, need, 0);

    assert_false(frame_is_none(frame));
    return frame;
}

void make_active(struct frames *frames, frame_t frame, bool dirty, uint64_t original, unsigned priority)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    pfn->pte = &owner_ptes[frame.number];
    pfn->original = original;
    sync_store_64(pfn->pte, OWNER_CLAIMED);
    frame_state_set(
        pfn, pfn_with_priority((uint64_t)FRAME_ACTIVE | (dirty ? PFN_DIRTY : 0) | PFN_REFERENCE_ONE | PFN_SHARE_ONE,
                               priority));
}

frame_t take_active(struct frames *frames, unsigned node, bool dirty, uint64_t original, unsigned priority)
{
    const frame_t frame = take(frames, node, FRAMES_ANY);

    make_active(frames, frame, dirty, original, priority);
    return frame;
}

void trim(struct frames *frames, frame_t frame)
{
    const uint64_t word = word_of(frames, frame);
    const uint64_t next = pfn_with_grace(word - PFN_SHARE_ONE - PFN_REFERENCE_ONE, grace_now(&frames->grace));
    uint64_t seen;

    assert_true(frames_insert(frames, frame, word,
                              pfn_with_state(next, word & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY), &seen));
    sync_store_64(&owner_ptes[frame.number], OWNER_IN_FRAME);
}

frame_t take_standby(struct frames *frames, unsigned node, uint64_t original, unsigned priority)
{
    const frame_t frame = take_active(frames, node, false, original, priority);

    trim(frames, frame);
    return frame;
}

void grace_pass(struct frames *frames)
{
    assert_true(grace_advance(&frames->grace));
}

unsigned shard_frames(const struct frames *frames, const struct frame_shard *shard, uint32_t *out, unsigned room)
{
    uint32_t previous = FRAME_NIL;
    unsigned count = 0;

    for (uint32_t number = shard->head; number != FRAME_NIL; number = frames->pfns[number].next) {
        assert_true(number < frames->end);
        assert_int_equal(frames->pfns[number].previous, previous);
        if (count < room)
            out[count] = number;
        count++;
        assert_true(count <= shard->count);
        previous = number;
    }
    assert_int_equal(shard->tail, previous);
    assert_int_equal(shard->count, count);
    return count;
}

static void found(uint8_t *seen, const struct frames *frames, uint32_t number, enum frame_list list)
{
    const uint64_t word = word_of(frames, (frame_t){ number });

    assert_int_equal(seen[number], 0);
    seen[number] = 1;
    assert_int_equal(frame_list_of(word), list);
    assert_int_equal(pfn_share_count(word), 0);
    assert_int_equal(pfn_reference_count(word), 0);
}

uint64_t lists_walk(const struct frames *frames)
{
    uint8_t *seen = calloc(frames->end, 1);
    uint32_t *on_shard = calloc(frames->end, sizeof *on_shard);
    uint64_t sum = 0;

    assert_non_null(seen);
    assert_non_null(on_shard);
    for (unsigned n = 0; n < frames->node_count; n++) {
        for (unsigned l = 0; l < FRAME_LIST_COUNT; l++) {
            for (unsigned s = 0; s <= frames->shard_mask; s++) {
                const unsigned count = shard_frames(frames, &frames->nodes[n].lists[l][s], on_shard, frames->end);
                for (unsigned i = 0; i < count; i++) {
                    const frame_t frame = { on_shard[i] };
                    found(seen, frames, frame.number, (enum frame_list)l);
                    assert_ptr_equal(frames_shard(frames, frame_node(frames, frame), (enum frame_list)l, frame),
                                     &frames->nodes[n].lists[l][s]);
                }
                sum += count;
            }
        }
    }
    for (unsigned c = 0; c < frames->cpu_count * FRAMES_CACHES_PER_CPU; c++) {
        const struct frames_cache *cpu = &frames->cpus[c / FRAMES_CACHES_PER_CPU].caches[c % FRAMES_CACHES_PER_CPU];
        for (unsigned i = 0; i < cpu->zeroed_count; i++)
            found(seen, frames, cpu->zeroed[i], FRAME_LIST_ZEROED);
        for (unsigned i = 0; i < cpu->free_count; i++)
            found(seen, frames, cpu->free[i], FRAME_LIST_FREE);
        sum += cpu->zeroed_count + cpu->free_count;
    }
    free(seen);
    free(on_shard);
    return sum;
}

/* Runs the body in a child; its standard error comes back in `text`. Returns the wait status. */
static int child_run(void (*body)(void *), void *context, char *text, size_t room)
{
    int ends[2], status = 0;
    size_t got = 0;

    assert_int_equal(pipe(ends), 0);
    fflush(stdout);
    fflush(stderr);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const struct rlimit none = { 0, 0 };

        (void)setrlimit(RLIMIT_CORE, &none);
        (void)signal(SIGABRT, SIG_DFL);
        (void)dup2(ends[1], 2);
        body(context);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; got < room - 1 && (n = read(ends[0], text + got, room - 1 - got)) > 0;)
        got += (size_t)n;
    text[got] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

void assert_aborts(void (*body)(void *context), void *context, ...)
{
    char text[8192];
    const int status = child_run(body, context, text, sizeof text);
    va_list texts;

    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT)
        fail_msg("the child was to abort; its wait status is 0x%x, its words \"%s\"", (unsigned)status, text);
    va_start(texts, context);
    for (const char *expected; (expected = va_arg(texts, const char *)) != NULL;)
        if (strstr(text, expected) == NULL)
            fail_msg("\"%s\" is not in what the child said: \"%s\"", expected, text);
    va_end(texts);
}

void assert_survives(void (*body)(void *context), void *context)
{
    char text[8192];
    const int status = child_run(body, context, text, sizeof text);

    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fail_msg("the child was to end; its wait status is 0x%x, its words \"%s\"", (unsigned)status, text);
}

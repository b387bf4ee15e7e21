/*
 * Bad frames: memory with an uncorrectable error is taken out of use, frame by frame, for good (nt-behaviour 10.3 row
 * 23).
 *
 * Two steps. A frame is noted when somebody learns of it: the program says so, or SIGBUS does, or an access of the
 * engine's own fails. That is a bit and a count, which a signal handler can write. It is listed when nobody has it any
 * more: then its state is BAD, on the bad list of its node, and nothing takes frames from that list. NT does the same
 * with its RemovalRequested and its bad-page list.
 *
 * From note to list. Who frees a noted frame, or finds one in its hands that it just took for use, lists it. That
 * leaves frames that lie on a list and those that hold pages. These are settled with the world stopped, when no frame
 * is in anybody's hands (spaces/bad_page.c has what becomes of the pages, engine/bad_memory.c calls it). Noted frames
 * that a pin holds, or a write to a page file that does not answer, wait for its end; page tables, until they are freed.
 *
 * The memory behind a bad frame is left as it is: nothing reads or writes it any more. If the host took the page away
 * (hwpoison), the hole in the arena stays until close.
 *
 * Hot paths read `pending`, which is 0 but for the time from note to list.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/frames_impl.h"

#include <errno.h>

/* In the handler of SIGBUS. */
static void note_bytes(void *context, char *address, size_t bytes)
{
    struct frames *frames = context;
    const size_t first = (size_t)(address - frames->memory) / TIDE_PAGE_BYTES;
    const size_t last = (size_t)(address + bytes - 1 - frames->memory) / TIDE_PAGE_BYTES;

    for (size_t i = first; i <= last && i < frames->end; i++)
        (void)frames_bad_note(frames, (frame_t){ (uint32_t)i });
}

tide_status frames_bad_init(struct frames *frames, const tide_config *config)
{
    struct frames_bad *bad = &frames->bad;
    tide_status status = TIDE_SUCCESS;

    bad->bytes = ((size_t)frames->end / 64 + 1) * sizeof *bad->noted;
    bad->noted = os_memory_reserve(bad->bytes, TIDE_PAGE_BYTES);
    if (bad->noted == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    if (config->handle_memory_errors) {
        status = memory_error_watch(frames->memory, frames->memory_bytes, note_bytes, frames, &bad->watch);
        bad->guarded = !tide_failed(status);
    }
    return status;
}

void frames_bad_destroy(struct frames *frames)
{
    if (frames->bad.guarded)
        memory_error_unwatch(frames->bad.watch);
    os_memory_free(frames->bad.noted, frames->bad.bytes);
}

static uint64_t bit_of(frame_t frame)
{
    return 1ull << (frame.number % 64);
}

/* Sets or takes away a frame's bit; false if it was so already. */
static bool bit_change(struct frames *frames, frame_t frame, bool set)
{
    uint64_t *word = &frames->bad.noted[frame.number / 64];
    uint64_t seen = sync_load_64(word);

    do
        if (((seen & bit_of(frame)) != 0) == set)
            return false;
    while (!sync_cas_value_64(word, seen, seen ^ bit_of(frame), &seen));
    return true;
}

/* Frame numbers between two nodes' frames belong to nobody. */
static struct frames_node *node_of(const struct frames *frames, frame_t frame)
{
    for (unsigned n = 0; n < frames->node_count; n++)
        if (frame_is_on_node(frames, frame, n))
            return &frames->nodes[n];
    return NULL;
}

/* There may be something to settle. */
static void settle_call(struct frames *frames, struct frames_node *node)
{
    (void)sync_swap_32(&frames->bad.changed, 1); /* a full barrier before the bell is looked at */
    frames_bell_ring(&node->trimmer);
}

bool frames_bad_note(struct frames *frames, frame_t frame)
{
    struct frames_node *node = node_of(frames, frame);

    if (node == NULL || pfn_state(sync_load_64(&frame_pfn(frames, frame)->word)) == FRAME_BAD ||
        !bit_change(frames, frame, true))
        return false;
    (void)sync_add_32(&frames->bad.pending, 1);
    settle_call(frames, node);
    return true;
}

void frames_bad_let_go(struct frames *frames, frame_t frame)
{
    if (frames_bad_is_noted(frames, frame))
        settle_call(frames, &frames->nodes[frame_node(frames, frame)]);
}

bool frames_bad_is_noted_slow(const struct frames *frames, frame_t frame)
{
    return (sync_load_64(&frames->bad.noted[frame.number / 64]) & bit_of(frame)) != 0;
}

bool frames_bad_is_to_blame(const struct frames *frames, int error)
{
    return frames->bad.guarded && (error == EFAULT || error == EHWPOISON);
}

void frames_bad_forget(struct frames *frames, frame_t frame)
{
    if (bit_change(frames, frame, false))
        (void)sync_add_32(&frames->bad.pending, (uint32_t)-1);
}

void frames_bad_list(struct frames *frames, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    struct frame_shard *shard = frames_shard(frames, frame_node(frames, frame), FRAME_LIST_BAD, frame);

    pfn_pte_set(pfn, NULL);
    sync_store_relaxed_64(&pfn->original, 0);
    sync_lock(&shard->lock);
    frame_state_set(pfn, (uint64_t)FRAME_BAD);
    shard_push_tail(frames, shard, frame);
    sync_unlock(&shard->lock);
    frames_bad_forget(frames, frame); /* who notes it once more at this very moment is forgotten when it is settled */
    (void)sync_add_64(&frames->bad.listed, 1);
    (void)sync_swap_32(&frames->bad.changed, 1);
}

bool frames_bad_take(struct frames *frames, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t seen = sync_load_64(&pfn->word);
    bool taken = false;

    if (pfn_state(seen) != FRAME_ZEROED && pfn_state(seen) != FRAME_FREE)
        return false;
    struct frame_shard *shard = frames_shard(frames, frame_node(frames, frame), frame_list_of(seen), frame);
    sync_lock(&shard->lock);
    if (frame_is_listed(frames, frame, seen)) {
        shard_remove(frames, shard, frame);
        taken = true;
    }
    sync_unlock(&shard->lock);
    if (taken)
        frames_bad_list(frames, frame);
    return taken;
}

frame_t frames_bad_next(const struct frames *frames, uint32_t from)
{
    for (uint64_t i = from / 64; i * 64 < frames->end; i++) {
        const uint64_t word = sync_load_64(&frames->bad.noted[i]) & (i == from / 64 ? ~0ull << (from % 64) : ~0ull);

        if (word != 0)
            return (frame_t){ (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(word) };
    }
    return FRAME_NONE;
}

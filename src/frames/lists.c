/*
 * Page lists: sharded, doubly linked through the PFN records; the moves of a frame between lists and owners.
 *
 * Every race over a frame is decided at one of two places. On a list: by the lock of its shard, which is a function
 * of its number and its state, so whoever saw a state locks that shard and looks again. Off a list, in ACTIVE or
 * TRANSITION: by compare-and-swap of the word. A move from the second to the first (trim, end of I/O, unpin) takes
 * the lock of the shard it goes to, swaps the word, and links the frame only if the swap won; so whoever sees the
 * list state and then gets the lock finds the frame linked.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/frames_impl.h"

static void count_add(struct frame_shard *shard, int64_t delta)
{
    sync_store_relaxed_64(&shard->count, shard->count + (uint64_t)delta);
}

/*
 * The shard's bit among those that hold something. It is changed with the shard locked, so it may be added and taken
 * off. Only a search that comes to an empty shard takes it off, so that pages that go through a short list do not have
 * all CPUs write one line.
 */
static void shard_mark(struct frames *frames, const struct frame_shard *shard, frame_t frame, bool some)
{
    struct frames_node *node = &frames->nodes[frame_node(frames, frame)];
    const uint64_t index = (uint64_t)(shard - node->lists[0]), shards = frames->shard_mask + 1;
    const uint64_t bit = 1ull << (index % shards);
    uint64_t *word = &node->some[index / shards];

    if (((sync_load_relaxed_64(word) & bit) != 0) != some)
        (void)sync_add_64(word, some ? bit : (uint64_t)0 - bit);
}

static void shard_push_end(struct frames *frames, struct frame_shard *shard, frame_t frame)
{
    count_add(shard, 1);
    if (shard->count == 1)
        shard_mark(frames, shard, frame, true);
}

void shard_unmark(struct frames *frames, const struct frame_shard *shard, unsigned node)
{
    shard_mark(frames, shard, (frame_t){ frames->nodes[node].first }, false);
}

void shard_push_tail(struct frames *frames, struct frame_shard *shard, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    sync_store_32(&pfn->next, FRAME_NIL);
    pfn->previous = shard->tail;
    if (shard->tail != FRAME_NIL)
        sync_store_relaxed_32(&frames->pfns[shard->tail].next, frame.number);
    else
        sync_store_relaxed_32(&shard->head, frame.number);
    shard->tail = frame.number;
    shard_push_end(frames, shard, frame);
}

void shard_push_head(struct frames *frames, struct frame_shard *shard, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    pfn->previous = FRAME_NIL;
    sync_store_32(&pfn->next, shard->head);
    if (shard->head != FRAME_NIL)
        frames->pfns[shard->head].previous = frame.number;
    else
        shard->tail = frame.number;
    sync_store_relaxed_32(&shard->head, frame.number);
    shard_push_end(frames, shard, frame);
}

void shard_remove(struct frames *frames, struct frame_shard *shard, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    if (pfn->previous != FRAME_NIL)
        sync_store_relaxed_32(&frames->pfns[pfn->previous].next, pfn->next);
    else
        sync_store_relaxed_32(&shard->head, pfn->next);
    if (pfn->next != FRAME_NIL)
        frames->pfns[pfn->next].previous = pfn->previous;
    else
        shard->tail = pfn->previous;
    frame_mark_unlisted(frames, frame);
    count_add(shard, -1);
}

/* How many epochs ago the head of a shard left its working set; -1 if there is none. */
static int head_age(const struct frames *frames, const struct frame_shard *shard)
{
    const uint32_t head = sync_load_relaxed_32(&shard->head);

    return head == FRAME_NIL
               ? -1
               : (uint16_t)(grace_now(&frames->grace) - pfn_grace(sync_load_relaxed_64(&frames->pfns[head].word)));
}

unsigned shards_oldest(const struct frames *frames, unsigned node, enum frame_list list, struct frames_turn *turn)
{
    enum { LOOKS = 8 };
    const struct frame_shard *shards = frames->nodes[node].lists[list];
    const uint32_t first = sync_load_relaxed_32(&turn->looks);
    uint64_t left = shards_some(frames, node, list, first);
    const unsigned step = (unsigned)__builtin_popcountll(left) / LOOKS + 1;
    const struct frame_shard *oldest = &shards[sync_load_relaxed_32(&turn->shard) & frames->shard_mask], *shard;
    int age = head_age(frames, oldest);

    /* Frames are handed out shard by shard, so those of neighbouring shards are often of one age: looks are spread. */
    for (unsigned i = 0; (shard = shards_next(frames, node, list, first, &left)) != NULL; i++) {
        const int other = i % step == 0 ? head_age(frames, shard) : -1;

        if (other > age) {
            oldest = shard;
            age = other;
        }
    }
    sync_store_relaxed_32(&turn->looks, first + 1);
    sync_store_relaxed_32(&turn->shard, (uint32_t)(oldest - shards));
    return (unsigned)(oldest - shards);
}

bool frames_batch_insert(struct frames_batch *batch, frame_t frame, uint64_t expected, uint64_t word, uint64_t *seen)
{
    struct frames *frames = batch->frames;
    const unsigned node = frame_node(frames, frame);
    struct frame_shard *shard = frames_shard(frames, node, frame_list_of(word), frame);

    if (batch->locked != shard) {
        if (batch->locked != NULL)
            sync_unlock(&batch->locked->lock);
        sync_lock(&shard->lock);
        batch->locked = shard;
    }
    if (!frame_state_cas(frame_pfn(frames, frame), expected, word, seen))
        return false;
    shard_push_tail(frames, shard, frame);
    batch->inserted = true;
    return true;
}

void frames_batch_end(struct frames_batch *batch)
{
    if (batch->locked != NULL)
        sync_unlock(&batch->locked->lock);
    if (batch->inserted && sync_load_relaxed_32(&batch->frames->waiters) != 0)
        sync_event_signal(&batch->frames->available);
}

bool frames_insert(struct frames *frames, frame_t frame, uint64_t expected, uint64_t word, uint64_t *seen)
{
    struct frames_batch batch;

    frames_batch_begin(&batch, frames);
    const bool inserted = frames_batch_insert(&batch, frame, expected, word, seen);
    frames_batch_end(&batch);
    return inserted;
}

bool frames_unlink(struct frames *frames, frame_t frame, uint64_t observed, enum frame_state state, uint64_t add,
                   unsigned priority, uint64_t *word)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    struct frame_shard *shard = frames_shard(frames, frame_node(frames, frame), frame_list_of(observed), frame);
    bool unlinked = false;

    sync_lock(&shard->lock);
    *word = sync_load_64(&pfn->word);
    if (((*word ^ observed) & (PFN_STATE_MASK | PFN_PRIORITY_MASK)) == 0) {
        shard_remove(frames, shard, frame);
        *word = pfn_with_priority(pfn_with_state(*word, state) + add, priority);
        frame_state_set(pfn, *word);
        unlinked = true;
    }
    sync_unlock(&shard->lock);
    return unlinked;
}

void frames_free(struct frames *frames, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const unsigned node = frame_node(frames, frame);
    const uint64_t old = sync_load_relaxed_64(&pfn->word);
    const uint64_t fresh = pfn_is_hollow(old) ? (uint64_t)FRAME_ZEROED | PFN_HOLLOW : (uint64_t)FRAME_FREE;
    struct frame_shard *shard = frames_shard(frames, node, frame_list_of(fresh), frame);

    if (pfn_state(old) == FRAME_TRANSITION)
        (void)sync_add_64(&frames->nodes[node].in_transition, (uint64_t)-1);
    pfn_pte_set(pfn, NULL);
    sync_store_relaxed_64(&pfn->original, 0);
    if (frames_bad_is_noted(frames, frame)) {
        frame_state_set(pfn, (uint64_t)FRAME_FREE);
        frames_bad_list(frames, frame);
        return;
    }
    sync_lock(&shard->lock);
    frame_state_set(pfn, pfn_with_grace(fresh, grace_now(&frames->grace)));
    shard_push_tail(frames, shard, frame);
    /* This shard's part of the trigger; the zero-page thread adds up all shards before it begins. */
    const bool shard_reached_trigger =
        !pfn_is_hollow(fresh) && shard->count * (frames->shard_mask + 1) >= frames->nodes[node].zero_trigger;
    sync_unlock(&shard->lock);
    if (sync_load_relaxed_32(&frames->waiters) != 0)
        sync_event_signal(&frames->available);
    if (sync_load_relaxed_32(&frames->nodes[node].zero_page.sleeping) != 0 && shard_reached_trigger)
        frames_bell_ring(&frames->nodes[node].zero_page);
}

/*
 * One step of dropping a reference of a frame whose word was `word` and becomes `next` (the reference already taken
 * off). False, with *word read again, if the word has changed.
 */
static bool reference_drop_try(struct frames *frames, frame_t frame, uint64_t *word, uint64_t next)
{
    if (pfn_state(*word) != FRAME_TRANSITION || pfn_reference_count(*word) > 1)
        return frame_state_cas(frame_pfn(frames, frame), *word, next, word);
    if (*word & PFN_DELETED) {
        /* Nobody else knows the frame any more: its PTE forgot it when the page was deleted. */
        frames_free(frames, frame);
        return true;
    }
    const enum frame_state to = next & PFN_DIRTY ? FRAME_MODIFIED : FRAME_STANDBY;
    if (!frames_insert(frames, frame, *word, pfn_with_state(next, to), word))
        return false;
    (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, (uint64_t)-1);
    return true;
}

void frames_reference_drop(struct frames *frames, frame_t frame)
{
    uint64_t word = sync_load_64(&frame_pfn(frames, frame)->word);

    while (!reference_drop_try(frames, frame, &word, word - PFN_REFERENCE_ONE))
        ;
}

bool frames_write_end(struct frames *frames, frame_t frame, uint64_t original, bool written)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t lost = sync_load_relaxed_64(&pfn->original) & PFN_ORIGINAL_LOST;
    uint64_t word = sync_load_64(&pfn->word);

    for (;;) {
        const bool keep = written && !(word & (PFN_DIRTY | PFN_DELETED));
        const uint64_t next = (word & ~PFN_WRITE_IN_PROGRESS) - PFN_REFERENCE_ONE;

        /* The writer's while WRITE_IN_PROGRESS is set. */
        sync_store_relaxed_64(&pfn->original, (keep ? original : 0) | lost);
        if (reference_drop_try(frames, frame, &word, keep ? next : next | PFN_DIRTY)) {
            frames_bad_let_go(frames, frame);
            return keep;
        }
    }
}

void frames_read_begin(struct frames *frames, frame_t frame, uint64_t *pte, uint64_t original, unsigned priority)
{
    struct pfn *pfn = frame_pfn(frames, frame);

    pfn_pte_set(pfn, pte);
    sync_store_relaxed_64(&pfn->original, original);
    (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, 1);
    frame_state_set(
        pfn, pfn_with_grace(pfn_with_priority((uint64_t)FRAME_TRANSITION | PFN_READ_IN_PROGRESS | PFN_REFERENCE_ONE |
                                                  (sync_load_relaxed_64(&pfn->word) & PFN_HOLLOW),
                                              priority),
                            grace_long_ago(&frames->grace)));
}

void frames_read_end(struct frames_batch *batch, frame_t frame)
{
    struct frames *frames = batch->frames;
    const uint64_t word = sync_load_64(&frame_pfn(frames, frame)->word);
    uint64_t seen;

    ASSERT_ALWAYS(frames_batch_insert(
        batch, frame, word, (pfn_with_state(word, FRAME_STANDBY) & ~PFN_READ_IN_PROGRESS) - PFN_REFERENCE_ONE, &seen));
    (void)sync_add_64(&frames->nodes[frame_node(frames, frame)].in_transition, (uint64_t)-1);
}

/* A modified frame becomes the writer's. The shard is locked. */
static bool modified_detach(struct frames *frames, struct frame_shard *shard, frame_t frame)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const uint64_t word = sync_load_64(&pfn->word);

    if (!frame_grace_passed(frames, word))
        return false;
    shard_remove(frames, shard, frame);
    frame_state_set(pfn,
                    (pfn_with_state(word, FRAME_TRANSITION) & ~PFN_DIRTY) + PFN_REFERENCE_ONE + PFN_WRITE_IN_PROGRESS);
    return true;
}

frame_t frames_take_modified(struct frames *frames, unsigned node)
{
    const unsigned start = shards_oldest(frames, node, FRAME_LIST_MODIFIED, &frames->nodes[node].modified_turn);

    uint64_t left = shards_some(frames, node, FRAME_LIST_MODIFIED, start);
    struct frame_shard *shard;

    while ((shard = shards_next(frames, node, FRAME_LIST_MODIFIED, start, &left)) != NULL) {
        sync_lock(&shard->lock);
        const frame_t head = { shard->head };
        const bool taken = !frame_is_none(head) && modified_detach(frames, shard, head);
        if (shard->head == FRAME_NIL)
            shard_unmark(frames, shard, node);
        sync_unlock(&shard->lock);
        if (taken) {
            (void)sync_add_64(&frames->nodes[node].in_transition, 1);
            return head;
        }
    }
    return FRAME_NONE;
}

bool frames_take_modified_at(struct frames *frames, frame_t frame, const uint64_t *pte)
{
    struct pfn *pfn = frame_pfn(frames, frame);
    const unsigned node = frame_node(frames, frame);
    struct frame_shard *shard = frames_shard(frames, node, FRAME_LIST_MODIFIED, frame);
    bool taken = false;

    if (pfn_state(sync_load_relaxed_64(&pfn->word)) != FRAME_MODIFIED)
        return false;
    sync_lock(&shard->lock);
    if (pfn_state(sync_load_64(&pfn->word)) == FRAME_MODIFIED && pfn->pte == pte)
        taken = modified_detach(frames, shard, frame);
    sync_unlock(&shard->lock);
    if (taken)
        (void)sync_add_64(&frames->nodes[node].in_transition, 1);
    return taken;
}

void frames_bell_ring(struct frames_bell *bell)
{
    if (sync_load_32(&bell->sleeping) != 0 && sync_swap_32(&bell->sleeping, 0) != 0)
        sync_event_signal(&bell->event);
}

void frames_bell_wait(struct frames_bell *bell, bool (*due)(void *context), void *context, uint64_t timeout_ns)
{
    const uint32_t value = sync_event_value(&bell->event);

    (void)sync_swap_32(&bell->sleeping, 1);
    if (due == NULL || !due(context))
        (void)sync_event_wait(&bell->event, value, timeout_ns);
    sync_store_32(&bell->sleeping, 0);
}

uint64_t frames_list_count(const struct frames *frames, unsigned node, enum frame_list list)
{
    uint64_t count = 0, left = shards_some(frames, node, list, 0);
    const struct frame_shard *shard;

    while ((shard = shards_next(frames, node, list, 0, &left)) != NULL)
        count += sync_load_relaxed_64(&shard->count);
    return count;
}

void frames_counts(const struct frames *frames, unsigned node, struct frames_counts *counts)
{
    *counts = (struct frames_counts){ 0 };
    for (unsigned l = 0; l < FRAME_LIST_COUNT; l++)
        counts->lists[l] = frames_list_count(frames, node, (enum frame_list)l);
    for (unsigned c = 0; c < frames->cpu_count && frames->cache_batch != 0; c++) {
        if (frames->topology->cpu_node[c] != node)
            continue;
        for (unsigned i = 0; i < FRAMES_CACHES_PER_CPU; i++) {
            counts->cached_zeroed += sync_load_relaxed_32(&frames->cpus[c].caches[i].zeroed_count);
            counts->cached_free += sync_load_relaxed_32(&frames->cpus[c].caches[i].free_count);
        }
    }
    for (unsigned p = 0; p < 8; p++)
        counts->standby += counts->lists[FRAME_LIST_STANDBY + p];
    counts->available = counts->lists[FRAME_LIST_ZEROED] + counts->lists[FRAME_LIST_FREE] + counts->cached_zeroed +
                        counts->cached_free + counts->standby;
    counts->transition = sync_load_relaxed_64(&frames->nodes[node].in_transition);
}

uint64_t frames_available(const struct frames *frames, unsigned node)
{
    struct frames_counts counts;

    frames_counts(frames, node, &counts);
    return counts.available;
}

uint64_t frames_unused(const struct frames *frames, unsigned node)
{
    return frames_list_count(frames, node, FRAME_LIST_ZEROED) + frames_list_count(frames, node, FRAME_LIST_FREE);
}

void frames_check_thresholds(struct frames *frames, unsigned n)
{
    struct frames_node *node = &frames->nodes[n];
    const uint64_t at_hand = frames_unused(frames, n), ahead = frames_ahead(frames, n);
    const uint64_t modified = frames_list_count(frames, n, FRAME_LIST_MODIFIED);
    struct frames_counts counts;

    frames_events_check(frames);
    if (at_hand >= node->high && modified <= node->modified_trigger)
        return; /* the usual case, without adding up standby */
    frames_counts(frames, n, &counts);
    if (counts.available < node->low + ahead || at_hand < ahead / 2)
        frames_bell_ring(&node->trimmer);
    if (modified > node->modified_trigger || (modified != 0 && counts.available < node->high))
        frames_bell_ring(&node->writer);
}

void frames_check_all_thresholds(struct frames *frames)
{
    for (unsigned n = 0; n < frames->node_count; n++)
        frames_check_thresholds(frames, n);
}

uint32_t frames_wait_announce(struct frames *frames)
{
    const uint32_t value = sync_event_value(&frames->available);

    (void)sync_add_32(&frames->waiters, 1);
    return value;
}

bool frames_wait(struct frames *frames, uint32_t value, uint64_t timeout_ns)
{
    sync_assert_unlocked();
    return sync_event_wait(&frames->available, value, timeout_ns);
}

void frames_wait_end(struct frames *frames)
{
    (void)sync_add_32(&frames->waiters, (uint32_t)-1);
}

/*
 * Operations of the model test on contents that may be dropped (reset, undo, discard, offer, reclaim), residence (lock,
 * unlock, prefetch), stacks, working-set limits, priorities and memory events.
 *
 * Whether a page that was reset or offered is lost is the engine's to choose. The model then holds both outcomes, and
 * learns from what is read, from tide_page_query() and from the status of undo and reclaim which it was; each of these
 * must be possible after all that was learnt before.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "run.h"

enum { LOCK_OVERHEAD = 8, LEAST_MINIMUM = 20, LEAST_MAXIMUM = 13, FREE_BESIDE_LARGEST = 512 };

static int index_of(const struct run *run, const struct tested_space *space)
{
    return (int)(space - run->spaces);
}

/* ---- contents --------------------------------------------------------------------------------------------------- */

static struct model_page *page_of(const struct tested_space *space, uint64_t page)
{
    return model_page_find(&space->model, page * PG);
}

static bool settle_all(struct run *run, struct tested_space *space, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (!page_settle(run, space, (first + i) * PG))
            return false;
    return true;
}

static tide_status contents_call(struct tested_space *space, enum model_contents call, tide_address base,
                                 uint64_t bytes, unsigned priority)
{
    switch (call) {
    case MODEL_RESET:
        return tide_virtual_reset(space->space, base, bytes);
    case MODEL_UNDO:
        return tide_virtual_reset_undo(space->space, base, bytes);
    case MODEL_DISCARD:
        return tide_virtual_discard(space->space, base, bytes);
    case MODEL_OFFER:
        return tide_virtual_offer(space->space, base, bytes, priority);
    default:
        return tide_virtual_reclaim(space->space, base, bytes);
    }
}

/* Undo and reclaim: success only if no page is known to be lost, TIDE_CONTENTS_LOST only if one may be. */
static void check_kept(struct run *run, struct tested_space *space, enum model_contents call, uint64_t first,
                       uint64_t count, tide_status status)
{
    uint64_t lost = 0, maybe = 0;
    for (uint64_t i = 0; i < count; i++) {
        const struct model_page *page = page_of(space, first + i);
        if (call == MODEL_UNDO && page->offered)
            continue;
        lost += page->lost == MODEL_LOST;
        maybe += page->lost == MODEL_MAYBE_LOST;
    }
    if (status != (lost != 0 ? TIDE_CONTENTS_LOST : TIDE_SUCCESS) && (status != TIDE_CONTENTS_LOST || maybe == 0))
        failed(run, "undo or reclaim returned %s; of %llu pages %llu are lost and %llu may be",
               tide_status_name(status), (unsigned long long)count, (unsigned long long)lost,
               (unsigned long long)maybe);
    for (uint64_t i = 0; i < count; i++)
        if (call == MODEL_RECLAIM || !page_of(space, first + i)->offered)
            model_page_keep(page_of(space, first + i), status == TIDE_CONTENTS_LOST);
}

static bool fits(const struct model_page *page, enum model_contents call)
{
    if (page == NULL || !page->committed)
        return false;
    switch (call) {
    case MODEL_RESET:
        return page->touched && !page->offered;
    case MODEL_UNDO:
        return page->lost != MODEL_KEPT && !page->offered;
    case MODEL_RECLAIM:
        return page->offered;
    default:
        return page->protection == TIDE_PAGE_READWRITE;
    }
}

/* A range of a call: mostly of pages that are as it needs them, else any. */
static void draw_range(struct run *run, struct tested_space *space, enum model_contents call, tide_address *base,
                       uint64_t *bytes)
{
    enum { SEARCH = 256 };
    *base = draw_address(run, space);
    *bytes = one_in(run, 30) ? 0 : 1 + draw(run, (uint64_t)(one_in(run, 4) ? 32 : 6) * PG);
    if (one_in(run, 8))
        return;
    for (unsigned i = 0; i < SEARCH && !fits(model_page_find(&space->model, *base), call); i++)
        *base += PG;
    *base = *base / PG * PG;
    const uint64_t most = *bytes / PG + 1;
    for (*bytes = PG; *bytes < most * PG && fits(model_page_find(&space->model, *base + *bytes), call);)
        *bytes += PG;
}

void op_contents(struct run *run, struct tested_space *space)
{
    static const char *const names[] = { "reset", "reset_undo", "discard", "offer", "reclaim" };
    const unsigned index = (unsigned)index_of(run, space);
    const enum model_contents call = (enum model_contents)draw(run, 5);
    const unsigned priority = one_in(run, 30) ? (one_in(run, 2) ? 0 : 5) : 1 + (unsigned)draw(run, 4);
    tide_address base;
    uint64_t bytes, first, count;
    draw_range(run, space, call, &base, &bytes);
    note(run, "virtual_%s(space %u, 0x%llx, 0x%llx, priority %u)", names[call], index, (unsigned long long)base,
         (unsigned long long)bytes, priority);
    tide_status expected = model_contents_check(&space->model, call, base, bytes, &first, &count);
    if (call == MODEL_OFFER && (priority < TIDE_OFFER_VERY_LOW || priority > TIDE_OFFER_NORMAL))
        expected = TIDE_INVALID_PARAMETER;
    if (expected != TIDE_SUCCESS)
        count = 0;
    /* What was lost before must be known, for these begin anew. */
    if ((call == MODEL_RESET || call == MODEL_OFFER) && !settle_all(run, space, first, count))
        return;
    for (uint64_t i = 0; i < count && call == MODEL_OFFER; i++)
        if (is_pinned(run, index, (first + i) * PG))
            expected = TIDE_DEVICE_BUSY;
    tide_status status;
    do
        status = contents_call(space, call, base, bytes, priority);
    while (gives_way(run, status));
    if (expected == TIDE_SUCCESS && (call == MODEL_UNDO || call == MODEL_RECLAIM)) {
        check_kept(run, space, call, first, count, status);
        return;
    }
    expect(run, status, expected, names[call]);
    for (uint64_t i = 0; i < count && expected == TIDE_SUCCESS; i++) {
        struct model_page *page = page_of(space, first + i);
        if (call == MODEL_RESET && !is_pinned(run, index, (first + i) * PG))
            model_page_reset(page);
        else if (call == MODEL_DISCARD)
            model_page_discard(&run->model, &space->model, page);
        else if (call == MODEL_OFFER)
            model_page_offer(&space->model, page);
    }
    if (expected != TIDE_SUCCESS || (call != MODEL_RESET && call != MODEL_OFFER) || !one_in(run, 4))
        return;
    /* Memory is seldom so short that they are lost soon: what nobody holds goes now. */
    expect(run, tide_working_set_empty(space->space), TIDE_SUCCESS, "tide_working_set_empty");
    expect(run, tide_engine_empty(run->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS, "tide_engine_empty");
    if (one_in(run, 2)) /* touched again, they begin anew, and undo has to know */
        (void)settle_all(run, space, first, count);
    if (call == MODEL_OFFER || one_in(run, 2))
        return;
    do
        status = tide_virtual_reset_undo(space->space, base, bytes);
    while (gives_way(run, status));
    check_kept(run, space, MODEL_UNDO, first, count, status);
}

/* ---- residence -------------------------------------------------------------------------------------------------- */

static void unlock(struct run *run, struct tested_space *space, tide_address base, uint64_t bytes)
{
    note(run, "virtual_unlock(space %d, 0x%llx, 0x%llx)", index_of(run, space), (unsigned long long)base,
         (unsigned long long)bytes);
    expect(run, tide_virtual_unlock(space->space, base, bytes), model_virtual_unlock(&space->model, base, bytes),
           "tide_virtual_unlock");
}

/*
 * Locks few pages, since the engines are small. Whether the engine has frames to spare for more is not in the model;
 * with so few it has.
 */
void op_lock(struct run *run, struct tested_space *space)
{
    const tide_address base = draw_address(run, space);
    const uint64_t bytes = one_in(run, 30) ? 0 : 1 + draw(run, 4 * PG);
    const uint64_t locked = run->spaces[0].model.locked + run->spaces[1].model.locked;
    if (one_in(run, 2)) {
        unlock(run, space, base, bytes);
        return;
    }
    if (locked + 6 > run->frames / 10)
        return;
    note(run, "virtual_lock(space %d, 0x%llx, 0x%llx)", index_of(run, space), (unsigned long long)base,
         (unsigned long long)bytes);
    const uint64_t quota = space->minimum > LOCK_OVERHEAD ? space->minimum - LOCK_OVERHEAD : 0;
    const tide_status expected = model_virtual_lock(&space->model, base, bytes, quota);
    tide_status status;
    do
        status = tide_virtual_lock(space->space, base, bytes);
    while (gives_way(run, status));
    expect(run, status, expected, "tide_virtual_lock");
}

void op_prefetch(struct run *run, struct tested_space *space)
{
    enum { RANGES = 3 };
    tide_memory_range ranges[RANGES];
    const size_t count = draw(run, RANGES + 1);
    const uint32_t flags = one_in(run, 30);
    bool good = count != 0 && flags == 0;
    for (size_t i = 0; i < count; i++) {
        ranges[i].address = one_in(run, 40) ? TIDE_HIGHEST_ADDRESS - draw(run, PG) : draw_address(run, space);
        ranges[i].bytes = one_in(run, 40) ? 0 : 1 + draw(run, 64 * PG);
        good = good && ranges[i].bytes != 0 && ranges[i].address <= TIDE_HIGHEST_ADDRESS &&
               ranges[i].bytes <= TIDE_HIGHEST_ADDRESS - ranges[i].address + 1;
    }
    note(run, "prefetch(space %d, %zu ranges, the first 0x%llx, 0x%llx)", index_of(run, space), count,
         count == 0 ? 0 : (unsigned long long)ranges[0].address, count == 0 ? 0 : (unsigned long long)ranges[0].bytes);
    const uint64_t before = space_statistics(run, space).working_set_pages;
    expect(run, tide_virtual_prefetch(space->space, ranges, count, flags), good ? TIDE_SUCCESS : TIDE_INVALID_PARAMETER,
           "tide_virtual_prefetch");
    if (space_statistics(run, space).working_set_pages > before)
        failed(run, "a prefetch made the working set larger");
}

/* ---- stacks ----------------------------------------------------------------------------------------------------- */

/* A stack, or accesses down an existing one: they meet its guard, and its end at times. */
void op_stack(struct run *run, struct tested_space *space)
{
    const uint64_t reserve = one_in(run, 20) ? 0 : draw(run, 40 * PG);
    const uint64_t commit = one_in(run, 4) ? draw(run, 20 * PG) : draw(run, 4 * PG);
    tide_stack stack = { 0 }, model_stack = { 0 };
    if (space->model.region_count == MODEL_REGIONS || near_limit(run))
        return;
    limit_refresh(run);
    note(run, "stack(space %d, reserve 0x%llx, commit 0x%llx)", index_of(run, space), (unsigned long long)reserve,
         (unsigned long long)commit);
    const tide_status expected = model_stack_create(&run->model, &space->model, reserve, commit, &model_stack);
    tide_status status;
    do
        status = tide_stack_create(space->space, reserve, commit, &stack);
    while (gives_way(run, status));
    expect(run, status, expected, "tide_stack_create");
    if (stack.allocation_base != model_stack.allocation_base || stack.limit != model_stack.limit ||
        stack.base != model_stack.base)
        failed(run, "a stack at 0x%llx to 0x%llx, limit 0x%llx; the model says 0x%llx to 0x%llx, limit 0x%llx",
               (unsigned long long)stack.allocation_base, (unsigned long long)stack.base,
               (unsigned long long)stack.limit, (unsigned long long)model_stack.allocation_base,
               (unsigned long long)model_stack.base, (unsigned long long)model_stack.limit);
}

/* ---- working-set limits and priorities -------------------------------------------------------------------------- */

static uint64_t limit_largest(const struct run *run)
{
    return run->frames - (run->frames / 8 < FREE_BESIDE_LARGEST ? run->frames / 8 : FREE_BESIDE_LARGEST);
}

void limits_begin(struct run *run, struct tested_space *space)
{
    const uint64_t largest = limit_largest(run);
    space->maximum = largest < 345 ? largest : 345;
    space->minimum = space->maximum < 50 ? space->maximum : 50;
    space->hard = 0;
}

static tide_status limits_expected(struct run *run, struct tested_space *space, uint64_t minimum, uint64_t maximum,
                                   uint32_t flags)
{
    const uint32_t hard = TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM;
    uint64_t others = 0;
    if (flags > 0xF || (flags & (flags >> 1) & hard) != 0 || minimum == 0 || maximum < LEAST_MAXIMUM ||
        maximum < minimum || maximum > limit_largest(run))
        return TIDE_INVALID_PARAMETER;
    if (minimum < LEAST_MINIMUM)
        minimum = maximum < LEAST_MINIMUM ? maximum : LEAST_MINIMUM;
    const uint32_t after = ((space->hard | flags) & hard) & ~(flags >> 1);
    for (unsigned s = 0; s < SPACES; s++)
        if (&run->spaces[s] != space && (run->spaces[s].hard & TIDE_WORKING_SET_HARD_MINIMUM) != 0)
            others += run->spaces[s].minimum;
    if ((after & TIDE_WORKING_SET_HARD_MINIMUM) != 0 && minimum + others > limit_largest(run))
        return TIDE_INSUFFICIENT_RESOURCES;
    space->minimum = minimum;
    space->maximum = maximum;
    space->hard = after;
    return TIDE_SUCCESS;
}

static void limits_check(struct run *run, const struct tested_space *space)
{
    uint64_t minimum, maximum;
    uint32_t flags;
    expect(run, tide_working_set_get_limits(space->space, &minimum, &maximum, &flags), TIDE_SUCCESS,
           "tide_working_set_get_limits");
    const uint32_t hard = TIDE_WORKING_SET_HARD_MINIMUM | TIDE_WORKING_SET_HARD_MAXIMUM;
    if (minimum != space->minimum || maximum != space->maximum || flags != (space->hard | (~space->hard & hard) << 1))
        failed(run, "limits %llu to %llu, flags 0x%x; the model says %llu to %llu, hard 0x%x",
               (unsigned long long)minimum, (unsigned long long)maximum, flags, (unsigned long long)space->minimum,
               (unsigned long long)space->maximum, space->hard);
}

/* Hard minima stay small: what they keep is missing in engines as small as these. */
void op_limits(struct run *run, struct tested_space *space)
{
    uint32_t flags = (uint32_t)draw(run, 16);
    uint64_t maximum = 32 + draw(run, limit_largest(run) - 31);
    uint64_t minimum = 1 + draw(run, maximum);
    if ((flags & TIDE_WORKING_SET_HARD_MINIMUM) != 0 || (space->hard & TIDE_WORKING_SET_HARD_MINIMUM) != 0)
        minimum = 1 + draw(run, run->frames / 8);
    if (one_in(run, 10)) { /* not allowed, mostly */
        minimum = draw(run, 40);
        maximum = one_in(run, 2) ? draw(run, LEAST_MAXIMUM) : limit_largest(run) + 1 + draw(run, 8);
        flags = one_in(run, 2) ? flags : 0x10;
    }
    note(run, "limits %llu to %llu, flags 0x%x (space %d)", (unsigned long long)minimum, (unsigned long long)maximum,
         flags, index_of(run, space));
    limits_check(run, space);
    const tide_status expected = limits_expected(run, space, minimum, maximum, flags);
    expect(run, tide_working_set_set_limits(space->space, minimum, maximum, flags), expected,
           "tide_working_set_set_limits");
    limits_check(run, space);
}

static unsigned space_priority(const struct tested_space *space)
{
    return space->background && space->priority > TIDE_PRIORITY_VERY_LOW ? TIDE_PRIORITY_VERY_LOW : space->priority;
}

static unsigned thread_priority(const struct run *run)
{
    return run->thread_background && run->thread_priority > TIDE_PRIORITY_VERY_LOW ? TIDE_PRIORITY_VERY_LOW
                                                                                   : run->thread_priority;
}

unsigned priority_now(const struct run *run, const struct tested_space *space)
{
    return thread_priority(run) == TIDE_PRIORITY_DEFAULT ? space_priority(space) : thread_priority(run);
}

void op_priority(struct run *run, struct tested_space *space)
{
    const bool thread = one_in(run, 2), begin = one_in(run, 2);
    const unsigned priority = one_in(run, 4) && thread ? TIDE_PRIORITY_DEFAULT : (unsigned)draw(run, 8);
    const bool good = priority <= TIDE_PRIORITY_NORMAL || (thread && priority == TIDE_PRIORITY_DEFAULT);
    const bool is = thread ? run->thread_background : space->background;
    tide_status status;
    unsigned now;
    if (one_in(run, 2)) {
        note(run, "priority 0x%x (%s %d)", priority, thread ? "thread beside space" : "space", index_of(run, space));
        status =
            thread ? tide_thread_set_priority(run->engine, priority) : tide_space_set_priority(space->space, priority);
        expect(run, status, good ? TIDE_SUCCESS : TIDE_INVALID_PARAMETER, "tide_..._set_priority");
        if (good && thread)
            run->thread_priority = priority;
        else if (good)
            space->priority = priority;
    } else if (thread) {
        note(run, "background mode of the thread %d", (int)begin);
        status = begin ? tide_thread_background_begin(run->engine) : tide_thread_background_end(run->engine);
        expect(run, status,
               is != begin ? TIDE_SUCCESS
               : begin     ? TIDE_THREAD_MODE_ALREADY_BACKGROUND
                           : TIDE_THREAD_MODE_NOT_BACKGROUND,
               "tide_thread_background");
        run->thread_background = begin;
    } else {
        note(run, "background mode of space %d: %d", index_of(run, space), (int)begin);
        status = begin ? tide_space_background_begin(space->space) : tide_space_background_end(space->space);
        expect(run, status,
               is != begin ? TIDE_SUCCESS
               : begin     ? TIDE_PROCESS_MODE_ALREADY_BACKGROUND
                           : TIDE_PROCESS_MODE_NOT_BACKGROUND,
               "tide_space_background");
        space->background = begin;
    }
    expect(run, tide_space_get_priority(space->space, &now), TIDE_SUCCESS, "tide_space_get_priority");
    if (now != space_priority(space))
        failed(run, "the space has priority %u, the model says %u", now, space_priority(space));
    expect(run, tide_thread_get_priority(run->engine, &now), TIDE_SUCCESS, "tide_thread_get_priority");
    if (now != thread_priority(run))
        failed(run, "the thread has priority 0x%x, the model says 0x%x", now, thread_priority(run));
}

/* ---- memory events ---------------------------------------------------------------------------------------------- */

/* With nobody else at work, the events say what statistics and thresholds say. */
void check_events(struct run *run)
{
    tide_memory_thresholds t;
    const tide_statistics s = statistics_get(run);
    expect(run, tide_memory_thresholds_get(run->engine, &t), TIDE_SUCCESS, "tide_memory_thresholds_get");
    const bool expected[] = { s.available_pages < t.low_memory_pages, s.available_pages >= t.high_memory_pages,
                              s.commit_total_pages < t.low_commit_pages, s.commit_total_pages >= t.high_commit_pages,
                              s.commit_total_pages >= t.maximum_commit_pages };
    for (unsigned event = 0; event < sizeof(expected) / sizeof(expected[0]); event++) {
        bool set;
        expect(run, tide_memory_event_query(run->engine, (tide_memory_event)event, &set), TIDE_SUCCESS,
               "tide_memory_event_query");
        if (set != expected[event])
            failed(run, "memory event %u is %d; available %llu (low %llu, high %llu), commit %llu (%llu, %llu, %llu)",
                   event, (int)set, (unsigned long long)s.available_pages, (unsigned long long)t.low_memory_pages,
                   (unsigned long long)t.high_memory_pages, (unsigned long long)s.commit_total_pages,
                   (unsigned long long)t.low_commit_pages, (unsigned long long)t.high_commit_pages,
                   (unsigned long long)t.maximum_commit_pages);
    }
}

/*
 * Working sets: ageing, trimming, replacement (nt-behaviour 15).
 *
 * The working set of a space is its valid PTEs; there is no second list of them. Ageing and trimming walk the leaf
 * tables: 512 entries a table, tables in address order, eight bytes a page. An entry is aged and taken by
 * compare-and-swap against concurrent faults and accesses; a trim claims a batch of entries, reads the grace epoch
 * once, moves the frames to their lists and publishes the transition forms. Whoever touches one of these pages
 * meanwhile waits a moment on the busy entry. Large pages belong to no working set; locked ones do, and no trim takes
 * or ages them.
 *
 * One trim or ageing pass per space at a time (rank working_set). No lock is held while a claim is waited for, since
 * trimming never waits: busy entries are passed by.
 *
 * The hard maximum is exact with any number of threads faulting at once, and costs a space without one a single
 * read. The size of a set is a sum of counters of each CPU, which moves while it is added up, so it is not the size
 * that is kept below the maximum but something that is never smaller. A fault is admitted under the set's lock before
 * its page comes in: `coming` goes up by one, and down again (settled) after the page was counted. Reading `coming`
 * first, then the removals, then the arrivals gives a bound of pages and admissions together:
 *   - a page that settles in between was in `coming` or is in the arrivals, or in both;
 *   - a removal in between is missed, and a removal counts only after the page has left;
 *   - an admission cannot come in between, since the lock is held.
 * If the bound is at the maximum, pages of the set are replaced until it is not; only then is the fault admitted. The
 * bound is kept between admissions (one more by each), and taken anew when it reaches the maximum, so that a set pays
 * for the sum only once it is full. A page to replace is found by second chance from the hand on: accessed pages are
 * aged and passed by, the first other one goes; each look ages, so the looks per replacement do not grow with the set.
 * Faults that began before the maximum was hard know nothing of it: so it is made hard while the world is stopped
 * (working_set_limits_set()), when no fault is under way.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/space.h"

#include <sched.h>

/* A mapped set ages when of its pages no more than one in so many was not accessed since the last time. */
enum { MAPPED_UNACCESSED_SHARE = 8 };

enum { TRIM_BATCH = 64, DEFAULT_MINIMUM_PAGES = 50, DEFAULT_MAXIMUM_PAGES = 345, FREE_BESIDE_LARGEST = 512 };

/*
 * A pass of ageing moves a page's age by a fifth of the way: to 0 if it was accessed, to PTE_AGE_MAX if not. So the
 * age weighs how often as well as how lately: on the carried traces (bench/replay) this keeps more hits than LRU at
 * every budget, where "0 if accessed, else one more" loses to LRU at some. An eighth forgets too slowly, a half is
 * LRU again.
 */
enum { AGE_STEP = 5 };
#define LAST_PAGE (TIDE_HIGHEST_ADDRESS / TIDE_PAGE_BYTES)

/* Sleep of a fault between two looks for room at a hard maximum. */
#define ROOM_WAIT_SLICE_NS 2000000u

struct trim_batch {
    tide_space *space;
    bool second_chance; /* accessed pages are aged and passed by */
    bool background;    /* the space is */
    bool priorities;    /* frames may be of different priorities */
    uint64_t busy;      /* entries passed by because somebody else has claimed them */
    uint64_t locked;    /* entries passed by because they are locked */
    uint64_t *leaf;     /* where the entries are */
    uint64_t page;      /* of its first entry */
    unsigned count;
    struct {
        uint64_t *pte;
        pte_t seen;
    } entries[TRIM_BATCH];
};

static void batch_begin(struct trim_batch *batch, tide_space *space)
{
    batch->space = space;
    batch->second_chance = false;
    batch->background = sync_load_relaxed_32(&space->background) != 0;
    batch->priorities = sync_load_relaxed_32(&space->partition->priorities_used) != 0;
    batch->busy = batch->locked = 0;
    batch->count = 0;
}

/* Of a mapped space: the program has none of the pages any more when they go to their lists. */
static void batch_hide(const struct trim_batch *batch)
{
    struct mapped_hiding hiding;

    mapped_hiding_begin(&hiding, batch->space, batch->leaf, batch->page);
    for (unsigned i = 0; i < batch->count; i++)
        mapped_hiding_add(&hiding, (unsigned)(batch->entries[i].pte - batch->leaf));
    mapped_hiding_end(&hiding);
}

static void batch_flush(struct trim_batch *batch)
{
    struct frames *frames = space_frames(batch->space);
    struct frames_batch lists;

    if (batch->count == 0)
        return;
    if (batch->space->mapping != NULL)
        batch_hide(batch);
    const uint16_t epoch = grace_now(&frames->grace);
    space_peak_update(batch->space);
    frames_batch_begin(&lists, frames);
    for (unsigned i = 0; i < batch->count; i++)
        page_frame_remove_batched(&lists, pte_frame(batch->entries[i].seen), epoch);
    frames_batch_end(&lists);
    for (unsigned i = 0; i < batch->count; i++)
        pte_release(batch->space->partition->waits, batch->entries[i].pte,
                    pte_make_transition(pte_frame(batch->entries[i].seen), pte_protection(batch->entries[i].seen)));
    space_count(batch->space, SPACE_REMOVED, batch->count);
    space_count(batch->space, SPACE_TRIMMED, batch->count);
    batch->count = 0;
}

static bool on_node(const struct frames *frames, pte_t pte, unsigned node)
{
    return node == TIDE_NO_PREFERRED_NODE || frame_is_on_node(frames, pte_frame(pte), node);
}

/* The lowest rank of an age, on which the priority is added. */
static unsigned rank_of_age(unsigned age, bool background)
{
    return (background ? age + (PTE_AGE_MAX - age + 1) / 2 : age) * WORKING_SET_PRIORITIES;
}

static unsigned rank_of(const struct trim_batch *batch, pte_t pte, unsigned age)
{
    const struct frames *frames = space_frames(batch->space);
    /* The frame's record is another cache line: it is read only if priorities can differ. */
    const unsigned priority = batch->priorities
                                  ? pfn_priority(sync_load_relaxed_64(&frame_pfn(frames, pte_frame(pte))->word))
                                  : TIDE_PRIORITY_NORMAL;

    return rank_of_age(age, batch->background) + WORKING_SET_PRIORITIES - 1 - priority;
}

static pte_t aged(pte_t pte)
{
    unsigned age = pte_age(pte);

    if (pte.bits & PTE_ACCESSED)
        age -= (age + AGE_STEP - 1) / AGE_STEP;
    else
        age += (PTE_AGE_MAX - age + AGE_STEP - 1) / AGE_STEP;
    return (pte_t){ (pte.bits & ~(PTE_ACCESSED | PTE_AGE_MASK)) | ((uint64_t)age << PTE_AGE_SHIFT) };
}

/*
 * Which accessed pages are asked again whether they are used? In a soft space all. In a mapped one the accessed bit is
 * that of the PTE too, since the hardware's cannot be read: to take it away is to hide the page, and whoever uses it
 * next takes a fault. So when pages are short all are asked once hardly any is left that was not accessed since the
 * last time, and it is paid for once for as many pages as can be trimmed by it. When they are not, a pass asks those of
 * one table, one table after the other: some hundred faults a second at most, and what is idle for long is known when
 * it is needed. Pages that were not accessed grow older in any case.
 */
enum sampling { SAMPLE_NONE, SAMPLE_TABLE, SAMPLE_ALL };

static enum sampling sampling_of(tide_space *space, bool pages_are_short)
{
    uint64_t page = 0, pages = 0, unaccessed = 0;
    uint64_t *leaf;

    if (space->mapping == NULL)
        return SAMPLE_ALL;
    if (!pages_are_short)
        return SAMPLE_TABLE;
    while ((leaf = page_table_next_leaf(&space->table, &page, LAST_PAGE)) != NULL) {
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);
            const bool counts = pte_is_valid(pte) && !pte_is_fixed(pte);

            pages += counts;
            unaccessed += counts && !(pte.bits & PTE_ACCESSED);
        }
        page += TABLE_ENTRIES;
    }
    return unaccessed <= pages / MAPPED_UNACCESSED_SHARE ? SAMPLE_ALL : SAMPLE_NONE;
}

/* The table whose turn it is: the first from the hand on, around. */
static const uint64_t *table_to_sample(tide_space *space)
{
    uint64_t page = space->working_set.sample_hand;
    const uint64_t *leaf = page_table_next_leaf(&space->table, &page, LAST_PAGE);

    if (leaf == NULL) {
        page = 0;
        leaf = page_table_next_leaf(&space->table, &page, LAST_PAGE);
    }
    space->working_set.sample_hand = page + TABLE_ENTRIES;
    return leaf;
}

/* One pass over the set, with its lock held, which ages or only looks. */
static uint64_t age_locked(tide_space *space, unsigned node, bool age, bool pages_are_short,
                           struct working_set_ranks *ranks)
{
    const struct frames *frames = space_frames(space);
    struct mapped_hiding hiding;
    struct trim_batch batch;
    uint64_t page = 0, claim = 0;
    uint64_t *leaf;

    const enum sampling sampling = age ? sampling_of(space, pages_are_short) : SAMPLE_NONE;
    const uint64_t *const sampled = sampling == SAMPLE_TABLE ? table_to_sample(space) : NULL;
    batch_begin(&batch, space);
    while ((leaf = page_table_next_leaf(&space->table, &page, LAST_PAGE)) != NULL) {
        mapped_hiding_begin(&hiding, space, leaf, page);
        for (unsigned i = 0; i < TABLE_ENTRIES; i++) {
            const pte_t pte = pte_load(&leaf[i]);
            const bool ages = age && (sampling == SAMPLE_ALL || leaf == sampled || !(pte.bits & PTE_ACCESSED));
            const pte_t next = ages ? aged(pte) : pte;

            if (!pte_is_valid(pte) || pte_is_fixed(pte) || !on_node(frames, pte, node))
                continue;
            if (space->mapping != NULL && mapped_page_is_held(space, pte))
                continue;
            if (ages ? !pte_cas(&leaf[i], pte, next) : (pte.bits & PTE_ACCESSED) != 0)
                continue;
            if (space->mapping != NULL && ((pte.bits ^ next.bits) & PTE_ACCESSED) != 0)
                mapped_hiding_add(&hiding, i);
            claim += pte_age(next) + 1;
            if (ranks != NULL)
                ranks->pages[rank_of(&batch, next, pte_age(next))]++;
        }
        mapped_hiding_end(&hiding);
        page += TABLE_ENTRIES;
    }
    return claim;
}

uint64_t working_set_age(tide_space *space, unsigned node, bool pages_are_short, struct working_set_ranks *ranks)
{
    sync_lock(&space->working_set.lock);
    const uint64_t claim = age_locked(space, node, true, pages_are_short, ranks);
    sync_unlock(&space->working_set.lock);
    return claim;
}

uint64_t working_set_look(tide_space *space, unsigned node, struct working_set_ranks *ranks)
{
    sync_lock(&space->working_set.lock);
    const uint64_t claim = age_locked(space, node, false, false, ranks);
    sync_unlock(&space->working_set.lock);
    return claim;
}

unsigned working_set_rank_for(const struct working_set_ranks *ranks, uint64_t need)
{
    uint64_t pages = 0;
    unsigned rank = WORKING_SET_RANKS;

    while (rank > 0 && pages < need)
        pages += ranks->pages[--rank];
    return rank;
}

/* Does a trim take this page? */
static bool chosen(const struct trim_batch *batch, pte_t pte, const struct working_set_choice *choice)
{
    if (choice->clean_only && (pte.bits & PTE_DIRTY) != 0)
        return false;
    if (choice->accessed_too)
        return true;
    if (pte.bits & PTE_ACCESSED)
        return false;
    if (choice->rank == 0)
        return true;
    /* Mostly the age says it. */
    return rank_of_age(pte_age(pte), batch->background) + WORKING_SET_PRIORITIES - 1 >= choice->rank &&
           rank_of(batch, pte, pte_age(pte)) >= choice->rank;
}

/* Trims from one leaf, from entry `start` on. Returns the entry after the last one looked at. */
static unsigned leaf_trim(struct trim_batch *batch, uint64_t *leaf, unsigned start,
                          const struct working_set_choice *choice, uint64_t budget, uint64_t *done)
{
    const struct frames *frames = space_frames(batch->space);
    struct mapped_hiding passed;
    unsigned i = start;

    mapped_hiding_begin(&passed, batch->space, leaf, batch->page);
    for (; i < TABLE_ENTRIES && *done < budget; i++) {
        const pte_t pte = pte_load(&leaf[i]);

        batch->busy += pte_is_busy(pte);
        if (!pte_is_valid(pte) || !on_node(frames, pte, choice->node))
            continue;
        batch->locked += (pte.bits & PTE_LOCKED) != 0;
        if (pte_is_fixed(pte))
            continue;
        if (batch->space->mapping != NULL && mapped_page_is_held(batch->space, pte)) {
            batch->busy++;
            continue;
        }
        if (batch->second_chance && (pte.bits & PTE_ACCESSED) != 0 && pte_cas(&leaf[i], pte, aged(pte)) &&
            batch->space->mapping != NULL)
            mapped_hiding_add(&passed, i);
        if (!chosen(batch, pte, choice))
            continue;
        if (!pte_cas(&leaf[i], pte, pte_busy_form(pte))) {
            batch->busy++;
            continue;
        }
        batch->entries[batch->count].pte = &leaf[i];
        batch->entries[batch->count].seen = pte;
        (*done)++;
        if (++batch->count == TRIM_BATCH)
            batch_flush(batch);
    }
    mapped_hiding_end(&passed);
    return i;
}

/* With the set's lock held. */
static uint64_t trim_locked(struct trim_batch *batch, struct working_set_choice choice, uint64_t budget)
{
    tide_space *space = batch->space;
    const uint64_t begin = space->working_set.hand;
    uint64_t page = begin;
    uint64_t done = 0;

    if (choice.keep != 0) {
        const uint64_t pages = space_working_set_pages(space);
        const uint64_t most = pages > choice.keep ? pages - choice.keep : 0;
        budget = budget < most ? budget : most;
    }
    for (int round = 0; round < 2 && done < budget; round++) {
        const uint64_t last = round == 0 ? LAST_PAGE : begin;
        uint64_t *leaf;

        while (done < budget && (leaf = page_table_next_leaf(&space->table, &page, last)) != NULL) {
            /* next_leaf() gives the leaf's first page; the hand may stand inside the first one. */
            const unsigned start = round == 0 && page <= begin ? (unsigned)(begin - page) : 0;
            batch->leaf = leaf;
            batch->page = page;
            const unsigned next = leaf_trim(batch, leaf, start < TABLE_ENTRIES ? start : 0, &choice, budget, &done);
            batch_flush(batch);
            space->working_set.hand = page + next;
            page += TABLE_ENTRIES;
        }
        page = round == 0 && done < budget ? 0 : page;
    }
    return done;
}

uint64_t working_set_trim(tide_space *space, struct working_set_choice choice, uint64_t budget)
{
    struct trim_batch batch;

    batch_begin(&batch, space);
    sync_lock(&space->working_set.lock);
    const uint64_t done = trim_locked(&batch, choice, budget);
    sync_unlock(&space->working_set.lock);
    return done;
}

static uint64_t trim_oldest_locked(tide_space *space, uint64_t budget)
{
    struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE };
    struct working_set_ranks ranks = { { 0 } };
    struct trim_batch batch;
    uint64_t done = 0;

    batch_begin(&batch, space);
    (void)age_locked(space, TIDE_NO_PREFERRED_NODE, true, true, &ranks);
    choice.rank = working_set_rank_for(&ranks, budget);
    /* Those above that rank, and as many of just that rank as are missing; then accessed ones. */
    choice.rank++;
    done = trim_locked(&batch, choice, budget);
    choice.rank--;
    if (done < budget)
        done += trim_locked(&batch, choice, budget - done);
    choice.accessed_too = true;
    if (done < budget)
        done += trim_locked(&batch, choice, budget - done);
    return done;
}

uint64_t working_set_trim_oldest(tide_space *space, uint64_t budget)
{
    sync_lock(&space->working_set.lock);
    const uint64_t done = trim_oldest_locked(space, budget);
    sync_unlock(&space->working_set.lock);
    return done;
}

/* ---- limits ----------------------------------------------------------------------------------------------------- */

uint64_t working_set_largest(const struct partition *partition)
{
    const uint64_t total = frames_usable(partition->frames);

    return total - (total / 8 < FREE_BESIDE_LARGEST ? total / 8 : FREE_BESIDE_LARGEST);
}

void working_set_init(tide_space *space)
{
    struct working_set *set = &space->working_set;
    const uint64_t largest = working_set_largest(space->partition);

    sync_lock_init(&set->lock, SYNC_RANK_working_set);
    sync_event_init(&set->room);
    set->maximum = largest < DEFAULT_MAXIMUM_PAGES ? largest : DEFAULT_MAXIMUM_PAGES;
    set->minimum = set->maximum < DEFAULT_MINIMUM_PAGES ? set->maximum : DEFAULT_MINIMUM_PAGES;
    set->priority = space->priority;
    sync_lock_init(&space->watch.lock, SYNC_RANK_working_set_watch);
}

/* At least the pages of the set and those admitted together, while the set's lock is held. */
static uint64_t bound_take(const tide_space *space)
{
    const uint64_t coming = sync_load_64(&space->working_set.coming);
    const uint64_t removed = space_counter(space, SPACE_REMOVED);
    const uint64_t came = space_pages_came(space);

    return came + coming > removed ? came + coming - removed : 0;
}

void working_set_limits_set(tide_space *space, uint64_t minimum, uint64_t maximum, uint32_t flags)
{
    struct working_set *set = &space->working_set;
    const bool hard = (flags & TIDE_WORKING_SET_HARD_MAXIMUM) != 0;

    sync_lock(&set->lock);
    sync_store_64(&set->minimum, minimum);
    sync_store_64(&set->maximum, maximum);
    sync_store_32(&set->flags, flags);
    sync_store_32(&set->passed, 0);
    sync_store_32(&space->hard_maximum, hard);
    if (hard) {
        ASSERT_DEBUG(sync_load_64(&set->coming) == 0);
        set->bound = bound_take(space);
        if (set->bound > maximum)
            set->bound -= trim_oldest_locked(space, set->bound - maximum);
        sync_store_32(&set->passed, set->bound > maximum); /* what is left is locked */
    }
    sync_unlock(&set->lock);
}

uint64_t working_set_most(const tide_space *space)
{
    const struct working_set *set = &space->working_set;
    const bool holds = sync_load_32(&space->hard_maximum) != 0 && sync_load_32(&set->passed) == 0;

    return holds ? sync_load_64(&set->maximum) : UINT64_MAX;
}

/* ---- replacement at a hard maximum ------------------------------------------------------------------------------ */

/* Takes up to `count` pages; batch->busy and ->locked say what was in the way. The set's lock is held. */
static uint64_t replace_locked(struct trim_batch *batch, uint64_t count)
{
    struct working_set_choice choice = { .node = TIDE_NO_PREFERRED_NODE };

    batch->second_chance = true;
    const uint64_t done = trim_locked(batch, choice, count);
    if (done != 0)
        return done;
    /* Once round, and all were accessed. */
    batch->second_chance = false;
    batch->busy = batch->locked = 0;
    choice.accessed_too = true;
    return trim_locked(batch, choice, count);
}

bool working_set_admit(tide_space *space)
{
    struct working_set *set = &space->working_set;
    struct trim_batch batch;
    bool admitted = false;

    batch_begin(&batch, space);
    sync_lock(&set->lock);
    const uint64_t maximum = sync_load_32(&space->hard_maximum) != 0 ? set->maximum : UINT64_MAX;
    if (set->bound >= maximum)
        set->bound = bound_take(space);
    while (set->bound >= maximum) {
        const uint64_t gone = replace_locked(&batch, set->bound - maximum + 1);

        set->bound -= gone;
        if (gone == 0)
            break;
    }
    if (set->bound < maximum) {
        admitted = true;
        sync_store_32(&set->passed, 0);
    } else if (batch.busy == 0 && batch.locked != 0 && sync_load_64(&set->coming) == 0) {
        admitted = true; /* all that is left is locked */
        sync_store_32(&set->passed, 1);
    }
    if (admitted) {
        set->bound++;
        (void)sync_add_64(&set->coming, 1);
    }
    sync_unlock(&set->lock);
    return admitted;
}

void working_set_settle(tide_space *space)
{
    struct working_set *set = &space->working_set;

    (void)sync_add_64(&set->coming, (uint64_t)-1);
    if (sync_load_32(&set->waiters) != 0)
        sync_event_signal(&set->room);
}

/* A wake-up that is missed costs a slice. */
void working_set_room_wait(tide_space *space, struct grace_thread *thread)
{
    struct working_set *set = &space->working_set;

    (void)sync_add_32(&set->waiters, 1);
    const uint32_t value = sync_event_value(&set->room);
    const uint32_t depth = grace_leave_all(thread);
    if (sync_load_64(&set->coming) != 0)
        (void)sync_event_wait(&set->room, value, ROOM_WAIT_SLICE_NS);
    else
        sched_yield();
    grace_enter_again(thread, depth);
    (void)sync_add_32(&set->waiters, (uint32_t)-1);
}

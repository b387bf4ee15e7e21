/*
 * Write watch: which pages of a region were written (MEM_WRITE_WATCH, nt-behaviour 6 rule 8).
 *
 * Each watched region has a bit per page. A page whose bit is not set has no PTE_WRITE, whatever its protection says,
 * so the first write takes the slow path of the fault, which claims the PTE, sets the bit, and gives PTE_WRITE. Further
 * writes cost nothing. A reset clears the bit, then takes PTE_WRITE away.
 *
 * Why no write is lost. A fault holds the claim of the PTE from before it sets the bit until it has published
 * PTE_WRITE; a reset clears the bit and afterwards waits for the PTE to be unclaimed and takes PTE_WRITE away. If the
 * claim came first, the reset waits for it, and the page is left without PTE_WRITE; the bit of that fault was set
 * before the reset's exchange, which then reports it, or after, and stays. If the claim comes after, so does the bit.
 * Either way a page with PTE_WRITE has its bit set, or is reported by the reset that clears it.
 *
 * A pointer that a thread got while PTE_WRITE was there can still be written through after the reset. So the reset
 * waits, before it returns, until every section that might hold such a pointer has ended: those writes are covered by
 * its report. Pins do not end with sections; the bit of a page with a reference beyond the working set's is set again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "spaces/region_impl.h"

#include <sched.h>
#include <stdlib.h>

enum { BITS = 64, GRACE_SPINS = 64, RESET_PAGES = 512 };

static uint64_t words_of(uint64_t pages)
{
    return (pages + BITS - 1) / BITS;
}

tide_status watch_create(struct range range, struct write_watch **out)
{
    const uint64_t words = words_of(range_pages(range));
    struct write_watch *watch = calloc(1, sizeof *watch + words * sizeof watch->bits[0]);

    if (watch == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the %lu bytes of a write watch of %lu pages",
                         words * sizeof watch->bits[0], range_pages(range));
    watch->users = 1;
    *out = watch;
    return TIDE_SUCCESS;
}

void watch_put(struct write_watch *watch)
{
    if (watch != NULL && --watch->users == 0)
        free(watch);
}

static uint64_t *word_of(struct write_watch *watch, uint64_t page, uint64_t *bit)
{
    const uint64_t index = page - watch->first_page;

    *bit = 1ull << (index % BITS);
    return &watch->bits[index / BITS];
}

void watch_mark(struct write_watch *watch, uint64_t page)
{
    uint64_t bit;
    uint64_t *word = word_of(watch, page, &bit);

    for (uint64_t seen = sync_load_64(word); !(seen & bit);)
        if (sync_cas_value_64(word, seen, seen | bit, &seen))
            break;
}

/* Clears the bit of a page; true if it was set. */
static bool unmark(struct write_watch *watch, uint64_t page)
{
    uint64_t bit;
    uint64_t *word = word_of(watch, page, &bit);

    for (uint64_t seen = sync_load_64(word); seen & bit;)
        if (sync_cas_value_64(word, seen, seen & ~bit, &seen))
            return true;
    return false;
}

/* The first marked page from `page` on up to `last`; UINT64_MAX if there is none. */
static uint64_t next_marked(struct write_watch *watch, uint64_t page, uint64_t last)
{
    while (page <= last) {
        uint64_t bit;
        const uint64_t rest = sync_load_64(word_of(watch, page, &bit)) & ~(bit - 1);

        if (rest != 0) {
            const uint64_t found = page + (uint64_t)__builtin_ctzll(rest) - (uint64_t)__builtin_ctzll(bit);
            return found <= last ? found : UINT64_MAX;
        }
        page += BITS - (page - watch->first_page) % BITS;
    }
    return UINT64_MAX;
}

/* Takes PTE_WRITE away, or sees that it is not there. A page that is pinned stays marked. */
static void write_right_remove(tide_space *space, struct write_watch *watch, uint64_t page)
{
    uint64_t *pte = page_table_find(&space->table, page);

    while (pte != NULL) {
        const pte_t seen = pte_load(pte);

        if (pte_is_busy(seen)) {
            pte_wait(space->partition->waits, NULL, pte);
            continue;
        }
        if (pte_is_valid(seen) || pte_tag(seen) == PTE_TAG_TRANSITION) {
            const uint64_t word = sync_load_64(&frame_pfn(space_frames(space), pte_frame(seen))->word);
            const unsigned writer = (word & PFN_WRITE_IN_PROGRESS) != 0;
            if (pte_load(pte).bits != seen.bits)
                continue; /* the frame may be another page's by now */
            if (pfn_reference_count(word) > pfn_share_count(word) + writer)
                watch_mark(watch, page);
        }
        if (!pte_is_valid(seen) || !(seen.bits & PTE_WRITE) || pte_cas(pte, seen, (pte_t){ seen.bits & ~PTE_WRITE }))
            return;
    }
}

/* The watched region of a range, locked. */
static struct vad *watched_lock(tide_space *space, tide_address base, uint64_t bytes, struct range *range)
{
    if (tide_failed(range_of(base, bytes, TIDE_PAGE_BYTES, range)))
        return NULL;
    struct vad *vad = region_lock(space, range->first);
    if (vad != NULL && vad->watch != NULL && range->last <= vad->last_page)
        return vad;
    if (vad != NULL)
        sync_unlock(&vad->lock);
    (void)error_set(TIDE_INVALID_PARAMETER, 0, base,
                    "range 0x%lx, %lu bytes, does not lie in one region with write watch", base, bytes);
    return NULL;
}

/*
 * Waits until all sections that began before have ended; the caller is inside the engine once, which it leaves
 * meanwhile.
 */
static tide_status sections_wait(tide_space *space, struct grace_thread *thread)
{
    struct grace *grace = &space_frames(space)->grace;
    const uint16_t epoch = grace_now(grace);
    const uint64_t deadline = os_clock_ns() + space->partition->frame_wait_ns;
    tide_status status = TIDE_SUCCESS;

    const uint32_t depth = grace_outside_begin(thread);
    for (unsigned i = 0; !grace_passed(grace, epoch); i++) {
        (void)grace_advance_outside(thread);
        if (i < GRACE_SPINS)
            sync_pause();
        else
            (void)sched_yield();
        if (i % GRACE_SPINS == 0 && os_clock_ns() > deadline) {
            struct grace_report report;

            grace_report(grace, &report);
            status = error_set(TIDE_TIMEOUT, 0, 0,
                               "an access section that may write did not end in %lu ms; the oldest is in thread %lu",
                               space->partition->frame_wait_ns / 1000000u, report.longest_tid);
            break;
        }
    }
    grace_outside_end(thread, depth);
    return status;
}

/*
 * The pages are marked again. The engine was left meanwhile, so each one's region is looked up: it may have been split,
 * and if it is gone, so is what was to be reported.
 */
static void marks_restore(tide_space *space, const tide_address *addresses, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct vad *vad = region_lock(space, addresses[i] / TIDE_PAGE_BYTES);

        if (vad == NULL)
            continue;
        if (vad->watch != NULL)
            watch_mark(vad->watch, addresses[i] / TIDE_PAGE_BYTES);
        sync_unlock(&vad->lock);
    }
}

tide_status watch_get(tide_space *space, struct grace_thread *thread, uint32_t flags, tide_address base, uint64_t bytes,
                      tide_address *addresses, uint64_t *count)
{
    const bool reset = (flags & TIDE_WRITE_WATCH_RESET) != 0;
    struct range range;
    uint64_t found = 0;

    if ((flags & ~TIDE_WRITE_WATCH_RESET) != 0)
        return error_set(TIDE_INVALID_PARAMETER, 0, base, "write watch flags 0x%x; known are 0x%x", flags,
                         TIDE_WRITE_WATCH_RESET);
    if (reset && grace_holds_pointers(thread))
        return error_set(TIDE_DEVICE_BUSY, 0, base,
                         "the calling thread has an access section open, whose pointers could write unseen");
    struct vad *vad = watched_lock(space, base, bytes, &range);
    if (vad == NULL)
        return TIDE_INVALID_PARAMETER;
    struct write_watch *watch = vad->watch;
    for (uint64_t page = range.first; found < *count && (page = next_marked(watch, page, range.last)) != UINT64_MAX;
         page++) {
        /* Another reset may have been first; then it reports the page. */
        if (reset && !unmark(watch, page))
            continue;
        addresses[found++] = page * TIDE_PAGE_BYTES;
        if (reset)
            write_right_remove(space, watch, page);
    }
    if (reset && found != 0)
        mapped_range_weaken(space, addresses[0] / TIDE_PAGE_BYTES, addresses[found - 1] / TIDE_PAGE_BYTES);
    sync_unlock(&vad->lock);
    if (reset && found != 0) {
        const tide_status status = sections_wait(space, thread);
        if (tide_failed(status)) {
            marks_restore(space, addresses, found);
            return status;
        }
    }
    *count = found;
    return TIDE_SUCCESS;
}

/* By the same way as a reset that reports, so that writes that come after it through older pointers are seen. */
tide_status watch_reset(tide_space *space, struct grace_thread *thread, tide_address base, uint64_t bytes)
{
    tide_address pages[RESET_PAGES];
    uint64_t count;

    do {
        count = RESET_PAGES;
        const tide_status status = watch_get(space, thread, TIDE_WRITE_WATCH_RESET, base, bytes, pages, &count);
        if (tide_failed(status))
            return status;
        if (count == RESET_PAGES) {
            const tide_address next = pages[RESET_PAGES - 1] + TIDE_PAGE_BYTES;
            count = next - base < bytes ? count : 0;
            bytes -= next - base;
            base = next;
        }
    } while (count == RESET_PAGES);
    return TIDE_SUCCESS;
}

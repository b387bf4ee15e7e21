/*
 * What every operation of a stress run uses: draws, places (runs of pages with their locks), and checks. See place.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STRESS_PLACE_H
#define STRESS_PLACE_H

#include "stress.h"

#define fail(thread, ...) stress_fail((thread)->run, (thread), __VA_ARGS__)

uint64_t draw(struct stress_thread *thread, uint64_t bound);
bool one_in(struct stress_thread *thread, uint64_t n);
/* Index of a page among `count`: three draws of five from a hot sixteenth that wanders, so that there are hits and soft
 * faults beside hard ones. */
unsigned draw_index(struct stress_thread *thread, unsigned count);

/* Fails unless the status is the one expected. */
void expect(struct stress_thread *thread, tide_status status, tide_status expected, const char *what,
            tide_address address);

/*
 * After an access: must it be repeated? After an injected read error; then with injection off until the operation
 * ends. A read whose error was decided before that may still be shared by collision, so a few repeats may fail, but not
 * as many as there are threads, twice over.
 * And after a page was lost with a bad frame: then it has been written anew here, with what the shadow says, as its
 * lock is held; a page of the thread's own region with zeros (own_lost). If the operation has no lock of the page
 * (unlocked), saw_lost is set and the access not repeated.
 */
bool must_repeat(struct stress_thread *thread, tide_status status, unsigned attempt);
/* tide_read() and tide_write(), repeated as must_repeat() says. */
tide_status read_bytes(struct stress_thread *thread, tide_space *space, tide_address address, void *buffer,
                       size_t bytes);
tide_status write_bytes(struct stress_thread *thread, tide_space *space, tide_address address, const void *buffer,
                        size_t bytes);

/* A run of pages drawn at random, with the locks of its space and window held for reading. */
struct place {
    struct shadow_space *holder;
    struct shadow_window *window;
    tide_space *space;
    uint64_t identity;
    unsigned first; /* index in the window */
    unsigned count;
};

enum place_kind { PLACE_EXACT, PLACE_SHARED, PLACE_ANY };

/* Draws a run of up to `most` pages. False, and no lock held, if the space is not there. */
bool place_get(struct stress_thread *thread, struct place *place, enum place_kind kind, unsigned most);
void place_put(const struct place *place);
void pages_lock(const struct place *place);
void pages_unlock(const struct place *place);

/* Address of a page by its index in the window. */
static inline tide_address page_address(const struct place *place, unsigned index)
{
    return place->window->base + (uint64_t)index * TIDE_PAGE_BYTES;
}

/* Page `i` of the run. */
static inline struct shadow_page *page_at(const struct place *place, unsigned i)
{
    return &place->window->pages[place->first + i];
}

/* Pages of the run, from the first on, that an access of this kind may use. */
unsigned accessible_count(const struct place *place, tide_access_kind kind);

/* A new version of a page whose lock is held. */
uint32_t version_begin(struct shadow_page *page);

/* Compares page-sized data with what page `i` of the run must hold. */
void check_image(struct stress_thread *thread, const struct place *place, unsigned i, const void *data,
                 const char *how);

/* Compares status and error address of an access that starts `offset` bytes into a run of which `good` pages are
 * accessible. */
void expect_access(struct stress_thread *thread, const struct place *place, tide_status status, unsigned good,
                   unsigned offset, const char *what);

#endif

/*
 * Operations of a stress run on data: copying, touching, access sections, pins.
 *
 * Each draws its place, takes the shadow's locks that make the outcome known, calls the engine, and compares status and
 * data. Any other outcome ends the run. Statuses that the API calls transient are handled as it says:
 * TIDE_ACCESS_SECTION_TOO_LONG inside a section ends the section and begins it again; TIDE_IN_PAGE_ERROR is expected
 * only if errors are injected, and the access must succeed when repeated without. TIDE_TIMEOUT is a hang, and fails the
 * run.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <sched.h>
#include <string.h>

/* ---- copying accesses ------------------------------------------------------------------------------------------- */

/* Whole pages in one call: stops at the first page that may not be written, with all before it written. */
void op_write(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, one_in(thread, 4) ? STRESS_SPAN_MAX : 1))
        return;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, TIDE_ACCESS_WRITE);
    const tide_address address = page_address(&place, place.first);
    for (unsigned i = 0; i < place.count; i++) {
        struct shadow_page *page = page_at(&place, i);
        const uint32_t version = version_begin(page);
        image_fill(thread->buffer + (size_t)i * TIDE_PAGE_BYTES, place.identity, page_address(&place, place.first + i),
                   version);
        if (i < good)
            page->version = version;
    }
    const tide_status status =
        write_bytes(thread, place.space, address, thread->buffer, (size_t)place.count * TIDE_PAGE_BYTES);
    expect_access(thread, &place, status, good, 0, "tide_write");
    pages_unlock(&place);
    place_put(&place);
}

/* The nine stamps of a page one by one, in nine calls. */
void op_write_stamps(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, 1))
        return;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, TIDE_ACCESS_WRITE);
    const tide_address address = page_address(&place, place.first);
    const uint32_t version = version_begin(page_at(&place, 0));
    uint64_t restored = thread->restored;
    for (unsigned n = 0; n < STAMP_PLACES; n++) {
        const uint64_t stamp = stamp_make(place.identity, address, n, version);
        const unsigned offset = stamp_word(n) * 8;
        const tide_status status = write_bytes(thread, place.space, address + offset, &stamp, sizeof(stamp));
        expect_access(thread, &place, status, good, offset, "tide_write of a stamp");
        if (restored != thread->restored) { /* the stamps so far were lost: once more from the first */
            restored = thread->restored;
            n = UINT32_MAX;
        }
    }
    if (good == 1)
        page_at(&place, 0)->version = version;
    pages_unlock(&place);
    place_put(&place);
}

/* Any bytes of a run, not aligned, across pages. Bytes before the first page that fails are copied. */
void op_read(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, one_in(thread, 4) ? STRESS_SPAN_MAX : 1))
        return;
    const unsigned offset = one_in(thread, 4) ? (unsigned)draw(thread, TIDE_PAGE_BYTES) : 0;
    const size_t cut = one_in(thread, 4) ? draw(thread, TIDE_PAGE_BYTES) : 0;
    const size_t span = (size_t)place.count * TIDE_PAGE_BYTES;
    const size_t end = place.count == 1 && cut + offset >= span ? span : span - cut;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, TIDE_ACCESS_READ);
    /* The parts of the buffer that the call does not fill hold the right content already. */
    for (unsigned i = 0; i < place.count; i++)
        image_fill(thread->buffer + (size_t)i * TIDE_PAGE_BYTES, place.identity, page_address(&place, place.first + i),
                   page_at(&place, i)->version);
    memset(thread->buffer + offset, 0xA5,
           (good == place.count                       ? end
            : (size_t)good * TIDE_PAGE_BYTES > offset ? (size_t)good * TIDE_PAGE_BYTES
                                                      : offset) -
               offset);
    const tide_status status = read_bytes(thread, place.space, page_address(&place, place.first) + offset,
                                          thread->buffer + offset, end - offset);
    expect_access(thread, &place, status, good, offset, "tide_read");
    for (unsigned i = 0; i < place.count; i++)
        check_image(thread, &place, i, thread->buffer + (size_t)i * TIDE_PAGE_BYTES, "tide_read");
    pages_unlock(&place);
    place_put(&place);
}

void op_touch(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_EXACT, one_in(thread, 8) ? STRESS_PIN_MAX : 1))
        return;
    pages_lock(&place);
    const tide_access_kind kind = one_in(thread, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    const unsigned good = accessible_count(&place, kind);
    const unsigned offset = (unsigned)draw(thread, TIDE_PAGE_BYTES);
    const tide_address address = page_address(&place, place.first) + offset;
    tide_status status;
    unsigned attempt = 0;
    if (place.count == 1) {
        do
            status = tide_touch(place.space, address, kind);
        while (must_repeat(thread, status, attempt++));
        if (status == TIDE_PAGE_FAULT_DEMAND_ZERO && page_at(&place, 0)->version != 0)
            fail(thread, "tide_touch at 0x%llx took a demand-zero fault on a page that was written",
                 (unsigned long long)address);
        if (status == TIDE_PAGE_FAULT_DEMAND_ZERO || status == TIDE_PAGE_FAULT_TRANSITION ||
            status == TIDE_PAGE_FAULT_PAGING_FILE)
            status = TIDE_SUCCESS;
    } else {
        do
            status = tide_touch_range(place.space, address, (uint64_t)place.count * TIDE_PAGE_BYTES - offset, kind);
        while (must_repeat(thread, status, attempt++));
    }
    expect_access(thread, &place, status, good, offset, "tide_touch");
    pages_unlock(&place);
    place_put(&place);
}

/* ---- access sections -------------------------------------------------------------------------------------------- */

/*
 * A pointer in a section; NULL if the access is not allowed. A section that has become too long is ended and begun
 * again: `*restarted` is set and NULL returned.
 */
static char *pointer_get(struct stress_thread *thread, tide_access *access, tide_space *space, tide_address address,
                         tide_access_kind kind, bool *restarted)
{
    char *pointer;
    unsigned attempt = 0;
    *restarted = false;
    thread->too_long = false;
    do
        pointer = tide_access_pointer(access, address, kind);
    while (pointer == NULL && must_repeat(thread, access->status, attempt++));
    if (pointer != NULL || (thread->unlocked && thread->saw_lost))
        return pointer;
    if (access->status == TIDE_ACCESS_SECTION_TOO_LONG || thread->too_long) {
        thread->sections_too_long++;
        tide_access_end(access);
        sched_yield();
        expect(thread, tide_access_begin(space, access), TIDE_SUCCESS, "tide_access_begin", 0);
        *restarted = true;
        return NULL;
    }
    expect(thread, access->status, TIDE_ACCESS_VIOLATION, "tide_access_pointer", address);
    return NULL;
}

/* pointer_get() at the start of a section, when nothing is lost by beginning it again. */
static char *pointer_first(struct stress_thread *thread, tide_access *access, tide_space *space, tide_address address,
                           tide_access_kind kind)
{
    for (unsigned attempt = 0; attempt < 100000; attempt++) {
        bool restarted;
        char *pointer = pointer_get(thread, access, space, address, kind, &restarted);
        if (!restarted)
            return pointer;
    }
    fail(thread, "TIDE_ACCESS_SECTION_TOO_LONG at 0x%llx in 100000 fresh sections", (unsigned long long)address);
}

void linger(struct stress_thread *thread, tide_space *space)
{
    switch (draw(thread, 64)) {
    case 0:
        expect(thread, tide_working_set_trim(space, 1 + draw(thread, 32), NULL), TIDE_SUCCESS, "tide_working_set_trim",
               0);
        break;
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
        for (uint64_t n = draw(thread, 20); n > 0; n--)
            sched_yield();
        break;
    default:
        break;
    }
}

/* All that could take a frame away from under an open section, at once: trimmed, written, repurposed. */
static void take_all_away(struct stress_thread *thread, tide_space *space)
{
    expect(thread, tide_working_set_empty(space), TIDE_SUCCESS, "tide_working_set_empty", 0);
    if (thread->run->options.pagefile_bytes > 0)
        expect_writer(thread, tide_engine_empty(thread->run->engine, TIDE_EMPTY_MODIFIED), "tide_engine_empty");
    expect_writer(thread, tide_engine_empty(thread->run->engine, TIDE_EMPTY_STANDBY), "tide_engine_empty");
}

/* A new version of a page, through a pointer to its start that was got for writing. */
static void pointer_write(const struct place *page, char *pointer)
{
    struct shadow_page *shadow = page_at(page, 0);
    const uint32_t version = version_begin(shadow);
    image_fill(pointer, page->identity, page_address(page, page->first), version);
    shadow->version = version;
}

/*
 * Several exact pages in one section, held by trylock. Each is checked when the pointer comes, some are written through
 * it, and all are checked again at the end through the same pointers.
 */
void op_section(struct stress_thread *thread)
{
    enum { MOST = 8 };
    struct place place;
    char *pointers[MOST] = { 0 };
    struct place pages[MOST];
    bool write_late[MOST];
    unsigned count = 0;
    if (!place_get(thread, &place, PLACE_EXACT, 1))
        return;
    tide_access access;
    expect(thread, tide_access_begin(place.space, &access), TIDE_SUCCESS, "tide_access_begin", 0);
    for (uint64_t wanted = 1 + draw(thread, MOST); wanted > 0; wanted--) {
        struct place *page = &pages[count];
        *page = place;
        page->first = draw_index(thread, place.window->exact_count);
        if (pthread_mutex_trylock(&page_at(page, 0)->lock) != 0)
            continue;
        struct shadow_page *shadow = page_at(page, 0);
        const tide_access_kind kind = one_in(thread, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
        const bool good = accessible_count(page, kind) == 1;
        const unsigned offset = one_in(thread, 4) ? (unsigned)draw(thread, TIDE_PAGE_BYTES) : 0;
        const tide_address address = page_address(page, page->first) + offset;
        bool restarted = false;
        char *pointer = count == 0 ? pointer_first(thread, &access, place.space, address, kind)
                                   : pointer_get(thread, &access, place.space, address, kind, &restarted);
        if (restarted) {
            /* The pointers so far are void; the pages were right when last looked at. */
            pthread_mutex_unlock(&shadow->lock);
            for (unsigned i = 0; i < count; i++)
                pthread_mutex_unlock(&page_at(&pages[i], 0)->lock);
            count = 0;
            continue;
        }
        if ((pointer != NULL) != good)
            fail(thread, "tide_access_pointer at 0x%llx for %s gave %s", (unsigned long long)address,
                 kind == TIDE_ACCESS_READ ? "reading" : "writing", good ? "a violation" : "a pointer");
        if (pointer == NULL) {
            pthread_mutex_unlock(&shadow->lock);
            continue;
        }
        pointer -= offset;
        check_image(thread, page, 0, pointer, "pointer in an access section");
        write_late[count] = kind == TIDE_ACCESS_WRITE && one_in(thread, 2);
        if (kind == TIDE_ACCESS_WRITE && !write_late[count])
            pointer_write(page, pointer);
        pointers[count++] = pointer;
        linger(thread, place.space);
    }
    if (one_in(thread, 1000))
        take_all_away(thread, place.space);
    for (unsigned i = 0; i < count; i++) {
        if (write_late[i])
            pointer_write(&pages[i], pointers[i]);
    }
    for (unsigned i = 0; i < count; i++)
        check_image(thread, &pages[i], 0, pointers[i], "pointer at the end of an access section");
    tide_access_end(&access);
    if (count > 0 && one_in(thread, 4)) {
        const unsigned i = (unsigned)draw(thread, count);
        expect(
            thread,
            read_bytes(thread, place.space, page_address(&pages[i], pages[i].first), thread->buffer, TIDE_PAGE_BYTES),
            TIDE_SUCCESS, "tide_read after an access section", page_address(&pages[i], pages[i].first));
        check_image(thread, &pages[i], 0, thread->buffer, "tide_read after an access section");
    }
    for (unsigned i = count; i-- > 0;)
        pthread_mutex_unlock(&page_at(&pages[i], 0)->lock);
    place_put(&place);
}

/* Writes a shared page through a pointer, stamps in ascending order, for the readers that look at it all the time. */
void op_shared_write(struct stress_thread *thread)
{
    struct place place;
    if (!place_get(thread, &place, PLACE_SHARED, 1))
        return;
    const tide_address address = page_address(&place, place.first);
    struct shadow_page *page = page_at(&place, 0);
    pages_lock(&place);
    tide_access access;
    expect(thread, tide_access_begin(place.space, &access), TIDE_SUCCESS, "tide_access_begin", 0);
    char *pointer = pointer_first(thread, &access, place.space, address, TIDE_ACCESS_WRITE);
    if ((pointer != NULL) != page->committed)
        fail(thread, "tide_access_pointer at shared 0x%llx for writing gave %s", (unsigned long long)address,
             page->committed ? "a violation" : "a pointer");
    if (pointer != NULL) {
        const uint32_t version = version_begin(page);
        for (unsigned n = 0; n < STAMP_PLACES; n++) {
            atomic_store_explicit((_Atomic uint64_t *)(void *)(pointer + (size_t)stamp_word(n) * 8),
                                  stamp_make(place.identity, address, n, version), memory_order_release);
            if (n == STAMP_PLACES / 2)
                linger(thread, place.space);
        }
        page->version = version;
        atomic_store(&page->floor, version);
    }
    tide_access_end(&access);
    pages_unlock(&place);
    place_put(&place);
}

/*
 * Reads the stamps of a shared page in descending places; each must belong to the page, and none be older than
 * `least[place]`.
 */
static void peek(struct stress_thread *thread, const struct place *place, const char *pointer, uint32_t *least)
{
    const tide_address address = page_address(place, place->first);
    uint32_t newest = 0;
    for (unsigned n = STAMP_PLACES; n-- > 0;) {
        const uint64_t word = atomic_load_explicit(
            (const _Atomic uint64_t *)(const void *)(pointer + (size_t)stamp_word(n) * 8), memory_order_acquire);
        uint32_t version;
        if (!stamp_valid(word, place->identity, address, n, &version)) {
            char owner[128];
            shadow_identify(&thread->run->shadow, word, owner, sizeof(owner));
            fail(thread, "shared page: space identity %llu address 0x%llx stamp %u is 0x%016llx: %s",
                 (unsigned long long)place->identity, (unsigned long long)address, n, (unsigned long long)word, owner);
        }
        if (version > atomic_load(&page_at(place, 0)->begun))
            fail(thread, "shared page 0x%llx: stamp %u has version %u, which was never written",
                 (unsigned long long)address, n, version);
        if (version < newest || version < least[n])
            fail(thread, "shared page 0x%llx: stamp %u went back to version %u after %u", (unsigned long long)address,
                 n, version, version < newest ? newest : least[n]);
        newest = version;
        least[n] = version;
    }
}

/* Looks at shared pages without any lock, while others write, trim, decommit and release them. */
void op_peek(struct stress_thread *thread)
{
    enum { MOST = 4 };
    struct place place;
    struct place pages[MOST];
    const char *pointers[MOST];
    uint32_t least[MOST][STAMP_PLACES];
    unsigned count = 0;
    if (!place_get(thread, &place, PLACE_SHARED, 1))
        return;
    if (place.holder->mapped) { /* there a pointer is good no longer than its page: op_pointer_peek() */
        place_put(&place);
        return;
    }
    pthread_rwlock_unlock(&place.window->lock); /* so that the window may be released under us */
    thread->unlocked = true;
    tide_access access;
    expect(thread, tide_access_begin(place.space, &access), TIDE_SUCCESS, "tide_access_begin", 0);
    for (uint64_t wanted = 1 + draw(thread, MOST); wanted > 0; wanted--) {
        struct place *page = &pages[count];
        *page = place;
        page->first =
            place.window->exact_count + draw_index(thread, place.window->page_count - place.window->exact_count);
        struct shadow_page *shadow = page_at(page, 0);
        const tide_address address = page_address(page, page->first);
        const uint32_t sequence = atomic_load(&shadow->sequence);
        const uint32_t floor = atomic_load(&shadow->floor);
        bool restarted = false;
        thread->saw_lost = false;
        const char *pointer = count == 0
                                  ? pointer_first(thread, &access, place.space, address, TIDE_ACCESS_READ)
                                  : pointer_get(thread, &access, place.space, address, TIDE_ACCESS_READ, &restarted);
        if (restarted) {
            count = 0;
            continue;
        }
        if (thread->saw_lost) /* until somebody who has its lock writes it anew */
            continue;
        const bool undisturbed = sequence % 2 == 0 && atomic_load(&shadow->sequence) == sequence;
        if (undisturbed && (pointer != NULL) != (floor != SHADOW_NOT_COMMITTED))
            fail(thread, "tide_access_pointer at shared 0x%llx gave %s", (unsigned long long)address,
                 pointer != NULL ? "a pointer to a page that is not committed" : "a violation");
        if (pointer == NULL)
            continue;
        for (unsigned n = 0; n < STAMP_PLACES; n++)
            least[count][n] = undisturbed ? floor : 0;
        peek(thread, page, pointer, least[count]);
        pointers[count++] = pointer;
        linger(thread, place.space);
    }
    for (unsigned i = 0; i < count; i++)
        peek(thread, &pages[i], pointers[i], least[i]);
    tide_access_end(&access);
    thread->unlocked = false;
    pthread_rwlock_unlock(&place.holder->lock);
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

/* Copies between a buffer and pinned memory, in either direction, by the iovec. */
static void pin_copy(struct stress_thread *thread, const tide_pin *pin, char *buffer, size_t bytes, bool to_pin)
{
    unsigned count;
    const struct iovec *parts = tide_pin_iovec(pin, &count);
    size_t done = 0;
    for (unsigned i = 0; i < count; i++) {
        if (parts[i].iov_len > bytes - done)
            fail(thread, "a pin of %zu bytes has an iovec of more", bytes);
        if (to_pin)
            memcpy(parts[i].iov_base, buffer + done, parts[i].iov_len);
        else
            memcpy(buffer + done, parts[i].iov_base, parts[i].iov_len);
        done += parts[i].iov_len;
    }
    if (done != bytes)
        fail(thread, "a pin of %zu bytes has an iovec of %zu", bytes, done);
}

/* Pins a run, uses it as a device would while the pages are trimmed, and looks again after the unpin. */
void op_pin(struct stress_thread *thread)
{
    struct place place;
    const uint64_t share = thread->run->options.frames / 8 / thread->run->options.threads;
    const unsigned most = share < STRESS_PIN_MAX ? (unsigned)share : STRESS_PIN_MAX;
    if (!place_get(thread, &place, PLACE_EXACT, most))
        return;
    const tide_access_kind kind = one_in(thread, 2) ? TIDE_ACCESS_READ : TIDE_ACCESS_WRITE;
    const tide_address address = page_address(&place, place.first);
    const size_t bytes = (size_t)place.count * TIDE_PAGE_BYTES;
    pages_lock(&place);
    const unsigned good = accessible_count(&place, kind);
    tide_pin *pin = NULL;
    tide_status status;
    unsigned attempt = 0;
    do
        status = tide_pin_create(place.space, address, bytes, kind, &pin);
    while (must_repeat(thread, status, attempt++));
    expect_access(thread, &place, status, good, 0, "tide_pin_create");
    if (status == TIDE_SUCCESS) {
        pin_copy(thread, pin, thread->buffer, bytes, false);
        for (unsigned i = 0; i < place.count; i++)
            check_image(thread, &place, i, thread->buffer + (size_t)i * TIDE_PAGE_BYTES, "pin");
        linger(thread, place.space);
        if (kind == TIDE_ACCESS_WRITE) {
            for (unsigned i = 0; i < place.count; i++) {
                struct shadow_page *page = page_at(&place, i);
                page->version = version_begin(page);
                image_fill(thread->buffer + (size_t)i * TIDE_PAGE_BYTES, place.identity,
                           page_address(&place, place.first + i), page->version);
            }
            pin_copy(thread, pin, thread->buffer, bytes, true);
        }
        linger(thread, place.space);
        tide_pin_destroy(pin);
        linger(thread, place.space);
        for (unsigned i = 0; i < place.count; i++) {
            expect(
                thread,
                read_bytes(thread, place.space, page_address(&place, place.first + i), thread->buffer, TIDE_PAGE_BYTES),
                TIDE_SUCCESS, "tide_read after a pin", page_address(&place, place.first + i));
            check_image(thread, &place, i, thread->buffer, "after a pin");
        }
    }
    pages_unlock(&place);
    place_put(&place);
}

/*
 * Access to memory: touch, read, write, access sections, pins.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <stdlib.h>
#include <string.h>

/* In a mapped space an address is a pointer. */
static char *pointer_of(const tide_space *space, pte_t valid, tide_address address)
{
    if (space->mapping != NULL)
        return tide_pointer(address);
    return space_frames(space)->memory + (valid.bits & PTE_FRAME_MASK) + (address & (TIDE_PAGE_BYTES - 1));
}

static tide_status range_check(tide_address address, uint64_t bytes)
{
    if (bytes != 0 && address + (bytes - 1) < address)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "range 0x%lx, %lu bytes, wraps round the address space",
                         address, bytes);
    return TIDE_SUCCESS;
}

static inline bool is_kind(tide_access_kind kind)
{
    return (unsigned)kind <= TIDE_ACCESS_WRITE;
}

static tide_status kind_refused(tide_access_kind kind, tide_address address)
{
    return error_set(TIDE_INVALID_PARAMETER, 0, address, "access kind %d; known are 0 (read) and 1 (write)", (int)kind);
}

static tide_status kind_check(tide_access_kind kind, tide_address address)
{
    return is_kind(kind) ? TIDE_SUCCESS : kind_refused(kind, address);
}

tide_status tide_touch(tide_space *space, tide_address address, tide_access_kind kind)
{
    tide_status status = TIDE_SUCCESS;

    if (__builtin_expect(space == NULL || space->magic != SPACE_MAGIC, 0))
        return space_check(space);
    if (__builtin_expect(!is_kind(kind), 0))
        return kind_refused(kind, address);
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (__builtin_expect(thread == NULL, 0))
        return TIDE_INSUFFICIENT_RESOURCES;
    grace_enter(thread);
    if (!pte_is_valid(fault_lookup(space, address, kind)) || address > TIDE_HIGHEST_ADDRESS) {
        pte_t valid;
        status = fault_resolve(space, thread, address, kind, &valid);
    }
    grace_leave(thread);
    return status;
}

tide_status tide_touch_range(tide_space *space, tide_address address, uint64_t bytes, tide_access_kind kind)
{
    tide_status status = range_check(address, bytes);

    if (!tide_failed(status) && bytes == 0) {
        status = space_check(space);
        return tide_failed(status) ? status : kind_check(kind, address);
    }
    for (tide_address at = address; !tide_failed(status) && at - address < bytes;) {
        status = tide_touch(space, at, kind);
        at = (at | (TIDE_PAGE_BYTES - 1)) + 1;
        if (at == 0)
            break;
    }
    return tide_failed(status) ? status : TIDE_SUCCESS;
}

/* The page of an address is made accessible. Inside the engine. */
static tide_status page_resolve(tide_space *space, struct grace_thread *thread, tide_address address, size_t bytes,
                                tide_access_kind kind, pte_t *valid)
{
    *valid = address > TIDE_HIGHEST_ADDRESS ? (pte_t){ 0 } : fault_lookup(space, address, kind);
    if (pte_is_valid(*valid))
        return TIDE_SUCCESS;
    return kind == TIDE_ACCESS_WRITE && bytes == TIDE_PAGE_BYTES ? fault_overwrite(space, thread, address, valid)
                                                                 : fault_resolve(space, thread, address, kind, valid);
}

/* Copies between a page and a buffer that is no memory of a mapped space. False: bad memory. Inside the engine. */
static bool page_copy(tide_space *space, tide_address address, char *buffer, size_t bytes, tide_access_kind kind,
                      pte_t valid)
{
    const struct frames *frames = space_frames(space);
    char *const memory = pointer_of(space, valid, address);

    return kind == TIDE_ACCESS_READ ? frames_copy(frames, buffer, memory, bytes)
                                    : frames_copy(frames, memory, buffer, bytes);
}

/*
 * The same for a page of a mapped space: past its hardware mapping, with the PTE claimed. *again: it is another by now.
 */
static tide_status mapped_page_copy(tide_space *space, tide_address address, char *buffer, size_t bytes,
                                    tide_access_kind kind, pte_t valid, bool *again)
{
    uint64_t *pte = page_table_find(&space->table, address / TIDE_PAGE_BYTES);

    *again = pte == NULL || !pte_cas(pte, valid, pte_busy_form(valid));
    if (*again)
        return TIDE_SUCCESS;
    const int error = kind == TIDE_ACCESS_READ ? mapping_read(space->mapping, address, buffer, bytes)
                                               : mapping_write(space->mapping, address, buffer, bytes);
    pte_release(space->partition->waits, pte, valid);
    return error == 0 ? TIDE_SUCCESS
                      : error_set(TIDE_IN_PAGE_ERROR, error, address, "the page of address 0x%lx: %s", address,
                                  strerror(error));
}

/*
 * Copies page by page; the engine is left between pages, so that a long copy holds no grace period back. The program's
 * buffer may lie in a mapped space of this engine, and copying to it cause faults, for which this thread must not be
 * inside: then the bytes go by way of the stack.
 */
static tide_status copy(tide_space *space, tide_address address, char *buffer, size_t bytes, tide_access_kind kind)
{
    tide_status status = space_check(space);
    char page[TIDE_PAGE_BYTES];

    if (!tide_failed(status))
        status = range_check(address, bytes);
    if (!tide_failed(status) && buffer == NULL && bytes != 0)
        status = error_set(TIDE_INVALID_PARAMETER, 0, address, "the buffer of %zu bytes is NULL", bytes);
    if (tide_failed(status))
        return status;
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    const bool by_way = sync_load_relaxed_32(&thread->grace->mapped) != 0;
    while (bytes != 0) {
        const size_t left = TIDE_PAGE_BYTES - (address & (TIDE_PAGE_BYTES - 1));
        const size_t part = bytes < left ? bytes : left;
        char *const near = by_way ? page : buffer;
        bool good = true, again = false;
        pte_t valid;

        if (by_way && kind == TIDE_ACCESS_WRITE)
            memcpy(page, buffer, part);
        grace_enter(thread);
        status = page_resolve(space, thread, address, part, kind, &valid);
        if (!tide_failed(status) && space->mapping != NULL)
            status = mapped_page_copy(space, address, near, part, kind, valid, &again);
        else if (!tide_failed(status))
            good = page_copy(space, address, near, part, kind, valid);
        grace_leave(thread);
        if (!tide_failed(status) && __builtin_expect(!good, 0)) {
            status = engine_bad_access(space, pte_frame(valid), address);
            again = true; /* the page is read again, or told to be lost */
        }
        if (tide_failed(status))
            return status;
        if (again)
            continue;
        if (by_way && kind == TIDE_ACCESS_READ)
            memcpy(buffer, page, part);
        address += part;
        buffer += part;
        bytes -= part;
    }
    return TIDE_SUCCESS;
}

tide_status tide_read(tide_space *space, tide_address address, void *buffer, size_t bytes)
{
    return copy(space, address, buffer, bytes, TIDE_ACCESS_READ);
}

tide_status tide_write(tide_space *space, tide_address address, const void *buffer, size_t bytes)
{
    return copy(space, address, (char *)(uintptr_t)buffer, bytes, TIDE_ACCESS_WRITE);
}

/* ---- access sections -------------------------------------------------------------------------------------------- */

/*
 * A pointer into a mapped space follows its page, so there a section holds nothing back. It must not: when the page is
 * gone at the pointer's next use, that is a fault, which may wait for a frame; so the thread would wait for its own
 * section, by handler threads without anybody knowing.
 */
static bool section_open(struct grace_thread *thread, const tide_space *space)
{
    return space->mapping != NULL ? grace_space_use(thread, space) : grace_section_begin(thread, space);
}

static void section_close(struct grace_thread *thread, const tide_space *space)
{
    if (space->mapping != NULL)
        grace_space_leave(thread, space);
    else
        grace_section_end(thread, space);
}

tide_status tide_access_begin(tide_space *space, tide_access *access)
{
    const tide_status status = space_check(space);

    if (tide_failed(status))
        return status;
    if (access == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the access section is NULL");
    struct grace_thread *thread = engine_thread(engine_of(space));
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    if (!section_open(thread, space))
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0,
                         "%u access sections are open in this thread; that is the most", GRACE_SPACES_MAX);
    *access = (tide_access){ .space = space,
                             .thread = thread,
                             .memory = space_frames(space)->memory,
                             .rights = { fault_rights(TIDE_ACCESS_READ), fault_rights(TIDE_ACCESS_WRITE) },
                             .large = { TABLE_LEAF_LARGE_READ, TABLE_LEAF_LARGE_WRITE },
                             .page_mask = PTE_FRAME_MASK };
    return TIDE_SUCCESS;
}

/* The page needs a fault, or its tables are not there yet. */
__attribute__((noinline, cold)) static void *pointer_slow(tide_access *access, tide_address address,
                                                          tide_access_kind kind)
{
    struct grace_thread *thread = access->thread;
    tide_space *space = access->space;
    pte_t valid;

    if (thread == NULL) {
        access->status = error_set(TIDE_INVALID_HANDLE, 0, address, "the access section has ended");
        return NULL;
    }
    grace_enter(thread);
    const tide_status status = fault_resolve(space, thread, address, kind, &valid);
    grace_leave(thread);
    thread->pointers |= !tide_failed(status) && space->mapping == NULL;
    access->status = status; /* the section may lie in a mapped space: not inside the engine */
    return tide_failed(status) ? NULL : pointer_of(space, valid, address);
}

/*
 * From now on the section looks up pointers in the index of the leaves, without asking anybody, and that of this
 * address is in it, unless somebody works on the space's regions. Only once the thread's sections have given a pointer:
 * one that has given none does not hold back the grace period while it waits (grace_sections_suspend()), so it must not
 * give one unseen. The lock is not waited for: who has it may wait for what the section holds back.
 */
__attribute__((noinline)) static void index_use(tide_access *access, tide_address address)
{
    struct grace_thread *thread = access->thread;
    tide_space *space = access->space;
    struct page_table *table = &space->table;

    if (thread->pointers == 0 || table->leaves == NULL)
        return;
    access->leaves = table->leaves;
    access->limit = TIDE_HIGHEST_ADDRESS + 1;
    if (sync_load_64(&table->leaves[address >> 21]) != 0)
        return;
    grace_enter(thread);
    if (sync_trylock(&space->lock)) {
        page_table_index_leaf(table, address / TIDE_PAGE_BYTES);
        sync_unlock(&space->lock);
    }
    grace_leave(thread);
}

static inline uint64_t large_right(tide_access_kind kind)
{
    return kind == TIDE_ACCESS_WRITE ? TABLE_LARGE_WRITE : TABLE_LARGE_READ;
}

/* The PTE of an address in the leaf that the index of the leaves says; NULL if it says none. */
static inline const uint64_t *section_pte(uint64_t entry, tide_address address)
{
    const uint64_t *leaf = (const uint64_t *)(uintptr_t)(entry - TABLE_LEAF); /* NOLINT(performance-no-int-to-ptr) */

    return __builtin_expect((entry & TABLE_LEAF) != 0, 1) ? &leaf[(address >> 12) & (TABLE_ENTRIES - 1)] : NULL;
}

/* The pointer, if the PTE allows the access without a fault; else NULL. */
static inline void *section_pointer(const tide_access *access, const uint64_t *pte, tide_address address,
                                    uint64_t rights)
{
    const pte_t seen = pte_load(pte);

    if (__builtin_expect((seen.bits & rights) != rights, 0))
        return NULL;
    return access->memory + (seen.bits & PTE_FRAME_MASK) + (address & (TIDE_PAGE_BYTES - 1));
}

void *tide_access_resolve(tide_access *access, tide_address address, tide_access_kind kind)
{
    if (__builtin_expect(access == NULL, 0)) {
        (void)error_set(TIDE_INVALID_PARAMETER, 0, address, "the access section is NULL");
        return NULL;
    }
    if (__builtin_expect(!is_kind(kind), 0)) {
        access->status = kind_refused(kind, address);
        return NULL;
    }
    const struct grace_thread *thread = access->thread;
    void *pointer = NULL;

    /* Tables stay while the section is open, as its pointers do. */
    if (thread != NULL && thread->pointers != 0 && access->space->mapping == NULL && address <= TIDE_HIGHEST_ADDRESS) {
        const uint64_t *pte = page_table_find(&access->space->table, address / TIDE_PAGE_BYTES);
        if (pte != NULL)
            pointer = section_pointer(access, pte, address, fault_rights(kind));
    }
    if (pointer == NULL)
        pointer = pointer_slow(access, address, kind);
    if (pointer != NULL && access->space->mapping == NULL)
        index_use(access, address);
    return pointer;
}

tide_status tide_access_pointers(tide_access *access, const tide_address *addresses, unsigned count,
                                 tide_access_kind kind, void **pointers)
{
    /* More misses than the processor has under way at once make the rest wait, with what comes after them. */
    enum { TOGETHER = 16 };
    const uint64_t rights = fault_rights(kind);
    tide_status status = TIDE_SUCCESS;
    uint64_t large;

    if (access == NULL || ((addresses == NULL || pointers == NULL) && count != 0))
        return error_set(TIDE_INVALID_PARAMETER, 0, 0,
                         "the section, the addresses or the place for %u pointers is NULL", count);
    if (!is_kind(kind)) {
        for (unsigned i = 0; i < count; i++)
            pointers[i] = NULL;
        return access->status = kind_refused(kind, 0);
    }
    large = access->large[kind == TIDE_ACCESS_WRITE];
    for (unsigned done = 0; done < count; done += TOGETHER) {
        const unsigned part = count - done < TOGETHER ? count - done : TOGETHER;
        const uint64_t *ptes[TOGETHER];
        unsigned char pending[TOGETHER];
        unsigned pendings = 0;

        for (unsigned i = 0; i < part; i++) {
            const tide_address address = addresses[done + i];
            const uint64_t entry =
                __builtin_expect(address < access->limit, 1) ? sync_load_64(&access->leaves[address >> 21]) : 0;

            if (entry & large) {
                void *const pointer = (void *)(uintptr_t)(address + (entry & ~(TIDE_LARGE_PAGE_BYTES - 1ull)));
                __builtin_prefetch(pointer);
                pointers[done + i] = pointer;
                continue;
            }
            ptes[pendings] = section_pte(entry, address);
            __builtin_prefetch(ptes[pendings]);
            pending[pendings++] = (unsigned char)i;
        }
        for (unsigned p = 0; p < pendings; p++) {
            const unsigned i = done + pending[p];
            void *pointer = ptes[p] == NULL ? NULL : section_pointer(access, ptes[p], addresses[i], rights);

            if (__builtin_expect(pointer == NULL, 0)) {
                pointer = tide_access_resolve(access, addresses[i], kind);
                if (pointer == NULL && !tide_failed(status))
                    status = access->status;
            }
            __builtin_prefetch(pointer);
            pointers[i] = pointer;
        }
    }
    if (tide_failed(status))
        access->status = status;
    return status;
}

/* A walk over pages one after the other, up or down; the table that they have in common is looked up once. */
struct neighbours {
    const tide_access *access;
    tide_access_kind kind;
    bool large;            /* by large pages, else by pages */
    const uint64_t *table; /* directory, or leaf; NULL if it is not there */
    uint64_t span;         /* which one: address / bytes that a table of this level covers, plus one */
};

/* Where the page of an address lies in memory, NULL if it cannot be accessed so without a fault. */
static char *neighbour(struct neighbours *walk, tide_address address)
{
    const tide_access *access = walk->access;
    const unsigned level = walk->large ? 1 : 0;
    const uint64_t page = address / TIDE_PAGE_BYTES, span = (page >> ((level + 1) * TABLE_INDEX_BITS)) + 1;

    if (walk->span != span) {
        walk->span = span;
        walk->table = walk->large ? page_table_directory(&access->space->table, page)
                                  : page_table_find(&access->space->table, page & ~(uint64_t)(TABLE_ENTRIES - 1));
    }
    const uint64_t entry = walk->table == NULL ? 0 : sync_load_64(&walk->table[table_index(page, level)]);
    const uint64_t rights = walk->large ? large_right(walk->kind) : fault_rights(walk->kind);
    if ((entry & rights) != rights)
        return NULL;
    return walk->large ? table_large_memory(access->memory, entry) : access->memory + (entry & PTE_FRAME_MASK);
}

/* Grows an extent by pages on both sides, up to `limit` bytes more on each, within [lowest, highest]. */
static void extent_grow(struct neighbours *walk, uint64_t limit, tide_address lowest, tide_address highest,
                        tide_extent *extent)
{
    const uint64_t step = walk->large ? TIDE_LARGE_PAGE_BYTES : TIDE_PAGE_BYTES;
    const tide_address begin = extent->begin, end = begin + extent->bytes;
    uint64_t below = 0, above = 0;

    while (above < limit && end + above + (step - 1) <= highest &&
           neighbour(walk, end + above) == extent->memory + extent->bytes + above)
        above += step;
    while (below < limit && begin - below >= lowest + step &&
           neighbour(walk, begin - below - step) == extent->memory - below - step)
        below += step;
    *extent = (tide_extent){ begin - below, extent->bytes + below + above, extent->memory - below };
}

tide_status tide_access_extent(tide_access *access, tide_address address, tide_access_kind kind, tide_extent *extent)
{
    const uint64_t limit = 1ull << 30;

    if (access == NULL || extent == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "the section or the place for the extent is NULL");
    *extent = (tide_extent){ 0, 0, NULL };
    char *pointer = tide_access_resolve(access, address, kind);
    if (pointer == NULL)
        return access->status;
    /* The section is open and has given a pointer: what is found from now on stays until it ends. */
    const tide_address block = address & ~(TIDE_LARGE_PAGE_BYTES - 1ull);
    struct neighbours walk = { .access = access, .kind = kind, .large = true };
    char *large = access->space->mapping != NULL ? NULL : neighbour(&walk, address);
    if (access->space->mapping != NULL) {
        const uint64_t offset = address & (TIDE_PAGE_BYTES - 1);
        *extent = (tide_extent){ address - offset, TIDE_PAGE_BYTES, pointer - offset };
    } else if (large != NULL) {
        *extent = (tide_extent){ block, TIDE_LARGE_PAGE_BYTES, large };
        extent_grow(&walk, limit, TIDE_LOWEST_ADDRESS, TIDE_HIGHEST_ADDRESS, extent);
    } else {
        const uint64_t offset = address & (TIDE_PAGE_BYTES - 1);
        walk = (struct neighbours){ .access = access, .kind = kind };
        *extent = (tide_extent){ address - offset, TIDE_PAGE_BYTES, pointer - offset };
        extent_grow(&walk, limit, block, block + (TIDE_LARGE_PAGE_BYTES - 1), extent);
    }
    return TIDE_SUCCESS;
}

void tide_access_end(tide_access *access)
{
    if (access == NULL || access->thread == NULL)
        return;
    struct grace_thread *thread = access->thread;
    section_close(thread, access->space);
    if (access->status == TIDE_ACCESS_SECTION_TOO_LONG)
        (void)grace_advance_outside(thread); /* what it held back should be free when it begins again */
    access->thread = NULL;
    access->limit = 0;
}

/* ---- pins ------------------------------------------------------------------------------------------------------- */

struct tide_pin {
    tide_space *space;
    frame_t *frames; /* behind the pages */
    unsigned count;
    struct iovec pages[];
};

static char *pinned_memory(const tide_space *space, frame_t frame, tide_address address)
{
    if (space->mapping != NULL)
        return tide_pointer(address);
    return (char *)frame_memory(space_frames(space), frame) + (address & (TIDE_PAGE_BYTES - 1));
}

tide_status tide_pin_create(tide_space *space, tide_address address, size_t bytes, tide_access_kind kind,
                            tide_pin **out)
{
    const uint64_t first = address / TIDE_PAGE_BYTES;
    tide_status status = space_check(space);

    if (!tide_failed(status))
        status = range_check(address, bytes);
    if (!tide_failed(status))
        status = kind_check(kind, address);
    if (!tide_failed(status) && (out == NULL || bytes == 0))
        status = error_set(TIDE_INVALID_PARAMETER, 0, address,
                           out == NULL ? "the place for the pin is NULL" : "a pin of 0 bytes; the least is 1");
    if (tide_failed(status))
        return status;
    const uint64_t pages = (address + bytes - 1) / TIDE_PAGE_BYTES - first + 1;
    if (pages > space_frames(space)->total)
        return error_set(TIDE_INVALID_PARAMETER, 0, address, "a pin of %lu pages, and the engine has %lu frames", pages,
                         space_frames(space)->total);
    struct grace_thread *thread = engine_thread(engine_of(space));
    tide_pin *pin =
        thread == NULL ? NULL : malloc(sizeof *pin + pages * (sizeof pin->pages[0] + sizeof pin->frames[0]));
    if (pin == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, address, "no memory for a pin of %lu pages", pages);
    pin->space = space;
    pin->frames = (frame_t *)(void *)&pin->pages[pages];
    pin->count = 0;
    (void)sync_add_64(&space->pins, 1);
    for (uint64_t i = 0; i < pages && !tide_failed(status); i++) {
        const tide_address at = i == 0 ? address : (first + i) * TIDE_PAGE_BYTES;
        const size_t left = TIDE_PAGE_BYTES - (at & (TIDE_PAGE_BYTES - 1));
        frame_t frame;

        grace_enter(thread);
        status = fault_pin(space, thread, at, kind, &frame);
        grace_leave(thread);
        if (tide_failed(status))
            break;
        pin->frames[i] = frame;
        pin->pages[i].iov_base = pinned_memory(space, frame, at);
        pin->pages[i].iov_len = address + bytes - at < left ? address + bytes - at : left;
        pin->count++;
    }
    if (!tide_failed(status) && space->mapping != NULL) {
        grace_enter(thread);
        fault_show_held(space, first, first + pages - 1);
        grace_leave(thread);
    }
    if (tide_failed(status)) {
        tide_pin_destroy(pin);
        return status;
    }
    *out = pin;
    return TIDE_SUCCESS;
}

const struct iovec *tide_pin_iovec(const tide_pin *pin, unsigned *count)
{
    if (count != NULL)
        *count = pin == NULL ? 0 : pin->count;
    return pin == NULL ? NULL : pin->pages;
}

void tide_pin_destroy(tide_pin *pin)
{
    if (pin == NULL)
        return;
    struct grace_thread *thread = engine_thread(engine_of(pin->space));
    bool bad = false;
    for (unsigned i = 0; i < pin->count; i++) {
        const frame_t frame = pin->frames[i]; /* not read inside the engine: it is malloc()'s memory */
        struct frames *frames = space_frames(pin->space);

        bad = bad || frames_bad_is_noted(frames, frame);
        /* Without memory for a record the thread unpins all the same: only a verifier could meet it half way. */
        if (thread != NULL)
            grace_enter(thread);
        frames_reference_drop(frames, frame);
        if (thread != NULL)
            grace_leave(thread);
    }
    frames_events_freed(space_frames(pin->space));
    if (bad) /* it may have waited for this */
        engine_bad_settle(pin->space->partition);
    (void)sync_add_64(&pin->space->pins, (uint64_t)-1);
    free(pin);
}

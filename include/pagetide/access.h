/**
 * @file
 * Access to the memory of a soft space: copying, touching, pointers in access sections, and pins for I/O.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_ACCESS_H
#define PAGETIDE_ACCESS_H

#include <pagetide/space.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tide_access_kind { TIDE_ACCESS_READ = 0, TIDE_ACCESS_WRITE = 1 } tide_access_kind;

/*
 * Errors that every call of this file can return: TIDE_ACCESS_VIOLATION (no region, not committed, no right; also the
 * first byte that fails in tide_last_error()->address), TIDE_IN_PAGE_ERROR (page-file read failed; io_error says why;
 * no other page is lost and the access may be repeated; with io_error EHWPOISON the page was lost with bad memory, and
 * every access fails until it is made anew: bad_memory.h), TIDE_TIMEOUT (no frame within frame_wait_ms),
 * TIDE_NO_MEMORY (after frame_wait_ms: page tables and locked pages have filled the budget; or with a strict placement:
 * its node has no frame, numa.h), TIDE_ACCESS_SECTION_TOO_LONG (only inside an open section), TIDE_INVALID_PARAMETER (NULL, or a range that wraps). All are thread-safe.
 */

/**
 * Copies bytes out of a space: ReadProcessMemory. Stops at the first page that fails; bytes before it are copied.
 * Concurrent writers of the same bytes are the caller's to order, as with any memory.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_read(tide_space *space, tide_address address, void *buffer, size_t bytes);

/** Copies bytes into a space: WriteProcessMemory. Stops at the first page that fails; bytes before it are written. */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_write(tide_space *space, tide_address address, const void *buffer,
                                                   size_t bytes);

/**
 * Makes the page of an address valid for an access, as one load or store of a program would.
 * @return TIDE_SUCCESS (already valid), or which fault it took: TIDE_PAGE_FAULT_DEMAND_ZERO,
 *   TIDE_PAGE_FAULT_TRANSITION, TIDE_PAGE_FAULT_PAGING_FILE; or an error.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_touch(tide_space *space, tide_address address, tide_access_kind kind);

/** Touches every page of a range in ascending order. Stops at the first error. @return TIDE_SUCCESS or that error. */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_touch_range(tide_space *space, tide_address address, uint64_t bytes,
                                                         tide_access_kind kind);

/**
 * An open access section: between begin and end, pointers got from it stay good, whatever the trimmer and the writers
 * do, and the calls cost no shared write. Keep it short: frames that left a working set meanwhile cannot be reused
 * until it ends; in a mapped space, whose pointers follow their pages, it holds nothing. Belongs to the thread that
 * began it. Sections nest. The fields are private.
 */
typedef struct tide_access {
    tide_space *space;
    void *thread;
    char *memory;
    tide_status status;
    tide_address limit;     /* addresses below it may be looked up in `leaves`; 0: none may */
    const uint64_t *leaves; /* for each 2 MiB of addresses where their page table lies, or their large page */
    uint64_t rights[2];     /* what an entry of a table must have, by tide_access_kind */
    uint64_t large[2];      /* the bit of leaves[] that stands for a large page with that right */
    uint64_t page_mask;     /* picks the page's place in memory out of an entry */
} tide_access;

/** Begins an access section on a space. @return TIDE_SUCCESS, TIDE_INVALID_HANDLE, TIDE_INSUFFICIENT_RESOURCES. */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_access_begin(tide_space *space, tide_access *access);

/** The whole of tide_access_pointer(), out of line: for pages that are not valid, and for callers that are not C. */
TIDE_MUST_CHECK TIDE_EXPORT void *tide_access_resolve(tide_access *access, tide_address address, tide_access_kind kind);

/*
 * What is read through a pointer depends on the entry that it was made of, which is all the order there has to be; the
 * compiler may keep the rest of the section in registers. ThreadSanitizer does not know of dependencies.
 */
#if defined(__SANITIZE_THREAD__)
#define TIDE_ACCESS_ORDER __ATOMIC_ACQUIRE
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TIDE_ACCESS_ORDER __ATOMIC_ACQUIRE
#endif
#endif
#ifndef TIDE_ACCESS_ORDER
#define TIDE_ACCESS_ORDER __ATOMIC_RELAXED
#endif

/* Spares the caller's test for NULL where there is a pointer. Private. */
static inline void *tide_access_not_null(void *pointer)
{
    if (pointer == NULL)
        __builtin_unreachable();
    return pointer;
}

/**
 * A pointer to the byte at an address, good up to the end of its page and of the section. A pointer got for reading
 * must not be written through. Takes the fault if the page is not valid.
 *
 * Inline, so that the processor has as many of these walks under way as fit into its window: two loads from the page
 * tables, one for a large page (TIDE_MEM_LARGE_PAGES), and the access itself. What it reads of the section was put
 * there by the library it runs with.
 * @return the pointer, or NULL with the reason in access->status and tide_last_error().
 */
TIDE_MUST_CHECK static inline void *tide_access_pointer(tide_access *access, tide_address address,
                                                        tide_access_kind kind)
{
    if (__builtin_expect(access != NULL && address < access->limit && (unsigned)kind <= TIDE_ACCESS_WRITE, 1)) {
        const uint64_t leaf = __atomic_load_n(&access->leaves[address >> 21], TIDE_ACCESS_ORDER);

        if (__builtin_expect(leaf & 1, 1)) {
            const uint64_t rights = access->rights[kind == TIDE_ACCESS_WRITE];
            const char *table = (const char *)(uintptr_t)(leaf - 1);
            const uint64_t entry =
                __atomic_load_n((const uint64_t *)(const void *)(table + ((address >> 9) & 0xFF8)), TIDE_ACCESS_ORDER);

            if (__builtin_expect((entry & rights) == rights, 1))
                return tide_access_not_null(access->memory + (entry & access->page_mask) + (address & 0xFFF));
        } else if (leaf & access->large[kind == TIDE_ACCESS_WRITE]) {
            return tide_access_not_null((void *)(uintptr_t)(address + (leaf & ~0x1FFFFFull)));
        }
    }
    return tide_access_resolve(access, address, kind);
}

/**
 * Pointers for many addresses at once, as by tide_access_pointer() one after the other. The walks of all of them
 * overlap in the memory system, as do the first accesses to the pages, which this call prefetches: for addresses that
 * jump about, this is several times faster than one call each. Best by 16, the next ones asked for before the pointers of
 * these are used: then the accesses wait for hardly anything, and cost little more than by plain pointers.
 * @param count addresses; any number.
 * @param[out] pointers one per address, NULL where it failed.
 * @return TIDE_SUCCESS, or the first error; access->status holds it too.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_access_pointers(tide_access *access, const tide_address *addresses,
                                                             unsigned count, tide_access_kind kind, void **pointers);

/** Pages that lie one after the other both in a space and in memory. */
typedef struct tide_extent {
    tide_address begin; /**< of the first page */
    uint64_t bytes;     /**< whole pages */
    char *memory;       /**< of the byte at `begin` */
} tide_extent;

/**
 * The extent around an address: the pages on both sides of it that may be accessed without a fault and lie together in
 * memory too. In a region of large pages (TIDE_MEM_LARGE_PAGES) that is 2 MiB at least, and often all of it, up to 1
 * GiB on either side: then the memory can be used as any memory, for as long as the section is open. Else it is the
 * page, and of its neighbours within the same 2 MiB of addresses what happens to lie beside it. Takes the fault of the
 * page itself. Thread: the section's.
 * @return TIDE_SUCCESS or the error, which access->status holds too; then *extent is all 0, so that it holds no
 * address.
 *   TIDE_INVALID_PARAMETER for NULL.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_access_extent(tide_access *access, tide_address address,
                                                           tide_access_kind kind, tide_extent *extent);

/**
 * A pointer to the byte at an address if the extent holds it, else NULL. Good as long as the extent's section is open.
 */
static inline void *tide_extent_pointer(const tide_extent *extent, tide_address address)
{
    return __builtin_expect(address - extent->begin < extent->bytes, 1)
               ? tide_access_not_null(extent->memory + (address - extent->begin))
               : NULL;
}

/** Ends the section; its pointers are void. */
TIDE_EXPORT void tide_access_end(tide_access *access);

/**
 * Frames held in memory for I/O: MmProbeAndLockPages. Pinned pages may leave the working set but keep frame and
 * content.
 */
typedef struct tide_pin tide_pin;

/**
 * Faults a range in and pins its frames. Not inside an access section of the same thread longer than needed: pins do
 * not need one.
 * @return TIDE_SUCCESS; the errors above; TIDE_INSUFFICIENT_RESOURCES (a frame with 65,535 pins). On error nothing
 *   stays pinned.
 */
TIDE_MUST_CHECK TIDE_EXPORT tide_status tide_pin_create(tide_space *space, tide_address address, size_t bytes,
                                                        tide_access_kind kind, tide_pin **pin);

/** The pinned bytes in address order, for readv, writev or io_uring; valid until tide_pin_destroy(). */
TIDE_EXPORT const struct iovec *tide_pin_iovec(const tide_pin *pin, unsigned *count);

/** Unpins. Pages pinned for writing are dirty. NULL is allowed. */
TIDE_EXPORT void tide_pin_destroy(tide_pin *pin);

#ifdef __cplusplus
}
#endif
#endif

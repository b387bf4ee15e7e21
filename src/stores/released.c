/*
 * Slots on their way back to the maps.
 *
 * The first write to a clean page releases its slot, on the fault path. Were the bit cleared there, all CPUs would
 * meet on the lock and the bitmap of one group at every such fault. So a released slot goes to a short list of the
 * running CPU, and the list to the maps when it is full: one meeting in RELEASED_MAX faults. A slot on a list still
 * counts as allocated in its map and is named by nobody; whoever needs the count or the room brings the lists in
 * first (stores_released_flush). A list is entered by sync_flag_try() only: if its holder has lost its CPU, the slot
 * goes to its map directly.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "stores/stores_impl.h"

#include "base/error.h"
#include "base/os.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RELEASED_MAX = 32, FLUSH_TRIES = 64 };

struct released {
    struct sync_flag flag;                  /* whoever has it owns the rest */
    uint32_t count;                         /* [T:flag]; [A] for who looks whether to flush */
    struct stores_slot slots[RELEASED_MAX]; /* [T:flag] */
} SYNC_CACHE_ALIGNED;

tide_status released_create(struct stores *stores)
{
    const long cpus = sysconf(_SC_NPROCESSORS_CONF);

    stores->cpu_count = cpus < 1 ? 1 : (unsigned)cpus;
    stores->released = aligned_alloc(SYNC_CACHE_LINE_BYTES, stores->cpu_count * sizeof *stores->released);
    if (stores->released == NULL)
        return error_set(TIDE_INSUFFICIENT_RESOURCES, 0, 0, "no memory for the released slots of %u CPUs",
                         stores->cpu_count);
    memset(stores->released, 0, stores->cpu_count * sizeof *stores->released);
    return TIDE_SUCCESS;
}

void released_destroy(struct stores *stores)
{
    free(stores->released);
}

static void list_flush(struct stores *stores, struct released *list)
{
    for (uint32_t i = 0; i < list->count; i++)
        stores_slot_to_map(stores, list->slots[i]);
    sync_store_relaxed_32(&list->count, 0);
}

void stores_slot_release(struct stores *stores, struct stores_slot slot)
{
    const unsigned cpu = os_cpu_current();
    struct released *list = &stores->released[cpu < stores->cpu_count ? cpu : 0];

    if (!sync_flag_try(&list->flag)) {
        stores_slot_to_map(stores, slot);
        return;
    }
    list->slots[list->count] = slot;
    sync_store_relaxed_32(&list->count, list->count + 1);
    if (list->count == RELEASED_MAX)
        list_flush(stores, list);
    sync_flag_clear(&list->flag);
}

void stores_released_flush(struct stores *stores)
{
    for (unsigned c = 0; c < stores->cpu_count; c++) {
        struct released *list = &stores->released[c];

        for (unsigned i = 0; i < FLUSH_TRIES && sync_load_relaxed_32(&list->count) != 0; i++) {
            if (!sync_flag_try(&list->flag)) {
                sched_yield();
                continue;
            }
            list_flush(stores, list);
            sync_flag_clear(&list->flag);
        }
    }
}

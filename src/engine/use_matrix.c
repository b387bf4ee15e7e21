/*
 * The PFN database as RAMMap shows it: frames by use and state, and one by one.
 *
 * Whose frame. A record names its PTE and nothing more. The PTE lies in a table, tables are frames, and the record of a
 * table names the entry of the table above; so four steps lead to the root, and the places of the entries on the way
 * are the digits of the page number. The root belongs to the space that has it. Nothing is locked meanwhile but the
 * list of spaces: inside the engine no table that was linked is reused, and records are read as atomic words. That what
 * was found is one picture and not bits of two is confirmed by going down again from the space's root: it must end at
 * the same PTE, and the record must not have changed.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/error.h"
#include "engine/engine_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const use_names[TIDE_USE_COUNT] = {
    "Process Private", "Mapped File", "Shareable", "Page Table",    "Paged Pool",   "Nonpaged Pool", "System PTE",
    "Session Private", "Metafile",    "AWE",       "Driver Locked", "Kernel Stack", "Large Page",    "Unused",
};

static const char *const state_names[TIDE_FRAME_STATE_COUNT] = {
    "Active", "Standby", "Modified", "Modified No-Write", "Transition", "Zeroed", "Free", "Bad",
};

static tide_frame_state public_state(enum frame_state state)
{
    static const tide_frame_state states[FRAME_STATE_COUNT] = {
        [FRAME_ZEROED] = TIDE_FRAME_ZEROED,
        [FRAME_FREE] = TIDE_FRAME_FREE,
        [FRAME_STANDBY] = TIDE_FRAME_STANDBY,
        [FRAME_MODIFIED] = TIDE_FRAME_MODIFIED,
        [FRAME_MODIFIED_NO_WRITE] = TIDE_FRAME_MODIFIED_NO_WRITE,
        [FRAME_BAD] = TIDE_FRAME_BAD,
        [FRAME_ACTIVE] = TIDE_FRAME_ACTIVE,
        [FRAME_TRANSITION] = TIDE_FRAME_TRANSITION,
    };

    return states[state];
}

static bool is_unused(enum frame_state state)
{
    return state == FRAME_ZEROED || state == FRAME_FREE || state == FRAME_BAD;
}

static tide_use public_use(uint64_t word)
{
    const unsigned use = (unsigned)pfn_use(word);

    return is_unused(pfn_state(word)) || use > TIDE_USE_UNUSED ? TIDE_USE_UNUSED : (tide_use)use;
}

const char *tide_use_name(tide_use use)
{
    return (unsigned)use < TIDE_USE_COUNT ? use_names[use] : "unknown";
}

const char *tide_frame_state_name(tide_frame_state state)
{
    return (unsigned)state < TIDE_FRAME_STATE_COUNT ? state_names[state] : "unknown";
}

/* ---- the matrix ------------------------------------------------------------------------------------------------- */

tide_status tide_use_matrix_get(tide_engine *engine, tide_use_matrix *matrix)
{
    const tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (matrix == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the matrix is NULL");
    const struct frames *frames = engine->partition.frames;
    memset(matrix, 0, sizeof *matrix);
    for (unsigned n = 0; n < frames->node_count; n++) {
        for (uint32_t i = 0; i < frames->nodes[n].count; i++) {
            const uint64_t word = sync_load_relaxed_64(&frames->pfns[frames->nodes[n].first + i].word);

            matrix->cells[public_use(word)][public_state(pfn_state(word))]++;
            if (pfn_state(word) == FRAME_STANDBY)
                matrix->standby[pfn_priority(word)]++;
        }
    }
    for (unsigned u = 0; u < TIDE_USE_COUNT; u++) {
        for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++) {
            matrix->row_totals[u] += matrix->cells[u][s];
            matrix->column_totals[s] += matrix->cells[u][s];
        }
        matrix->total += matrix->row_totals[u];
    }
    for (unsigned c = 0; c < frames->cpu_count; c++)
        for (unsigned p = 0; p < 8; p++)
            matrix->repurposed[p] += sync_load_relaxed_64(&frames->cpus[c].repurposed[p]);
    return TIDE_SUCCESS;
}

struct text {
    char *at;
    size_t room;   /* with the final 0 */
    size_t length; /* of all that was printed, whether it fitted or not */
};

__attribute__((format(printf, 2, 3))) static void print(struct text *text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    const int length = vsnprintf(text->at, text->room, format, arguments);
    va_end(arguments);
    const size_t written = length > 0 ? (size_t)length : 0;
    text->length += written;
    const size_t kept = written < text->room ? written : text->room == 0 ? 0 : text->room - 1;
    text->at = text->room == 0 ? text->at : text->at + kept;
    text->room -= kept;
}

static void print_row(struct text *text, const char *name, uint64_t total, const uint64_t *cells)
{
    print(text, "%-17s%12lu", name, total);
    for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++)
        print(text, "%*lu", (int)strlen(state_names[s]) < 11 ? 12 : (int)strlen(state_names[s]) + 1, cells[s]);
    print(text, "\n");
}

size_t tide_use_matrix_print(const tide_use_matrix *matrix, char *buffer, size_t bytes)
{
    struct text text = { buffer, buffer == NULL ? 0 : bytes, 0 };

    if (matrix == NULL)
        return 0;
    print(&text, "%-17s%12s", "Usage (pages)", "Total");
    for (unsigned s = 0; s < TIDE_FRAME_STATE_COUNT; s++)
        print(&text, "%*s", (int)strlen(state_names[s]) < 11 ? 12 : (int)strlen(state_names[s]) + 1, state_names[s]);
    print(&text, "\n");
    for (unsigned u = 0; u < TIDE_USE_COUNT; u++)
        print_row(&text, use_names[u], matrix->row_totals[u], matrix->cells[u]);
    print_row(&text, "Total", matrix->total, matrix->column_totals);
    print(&text, "\n%-17s%12s%12s\n", "Priority", "Standby", "Repurposed");
    for (unsigned p = 0; p < 8; p++)
        print(&text, "%-17u%12lu%12lu\n", p, matrix->standby[p], matrix->repurposed[p]);
    return text.length;
}

/* ---- one frame -------------------------------------------------------------------------------------------------- */

/* The way from a PTE or a table's entry up to the root. */
struct ascent {
    const uint64_t *start;
    unsigned steps;                 /* 4 for a page, 4 - level for a table of that level */
    unsigned indexes[TABLE_LEVELS]; /* places on the way, the lowest first */
    uint32_t root;                  /* frame of the root */
};

/* False if a record on the way is not, or no longer, that of a table. */
static bool ascend(const struct frames *frames, const uint64_t *entry, struct ascent *ascent)
{
    ascent->start = entry;
    ascent->steps = 0;
    while (entry != NULL && ascent->steps < TABLE_LEVELS) {
        const uint64_t offset = (uint64_t)((const char *)entry - frames->memory);
        const uint64_t number = offset / TIDE_PAGE_BYTES;

        if (number >= frames->end)
            return false;
        const struct pfn *table = &frames->pfns[number];
        const uint64_t word = sync_load_64(&table->word);
        if (pfn_state(word) != FRAME_ACTIVE || pfn_use(word) != FRAME_USE_PAGE_TABLE)
            return false;
        ascent->indexes[ascent->steps++] = (unsigned)(offset % TIDE_PAGE_BYTES / sizeof *entry);
        ascent->root = (uint32_t)number;
        entry = pfn_pte(table);
    }
    return entry == NULL;
}

/* Does the way down from the root, by the places noted on the way up, end at the same entry? */
static bool descend(const tide_space *space, const struct ascent *ascent)
{
    const uint64_t *table = space->table.root;

    for (unsigned i = ascent->steps; i-- > 0;) {
        const uint64_t *entry = &table[ascent->indexes[i]];

        if (i == 0)
            return entry == ascent->start;
        const uint64_t next = sync_load_64(entry);
        if (next == 0)
            return false;
        table = table_entry_memory(space->table.frames, next);
    }
    return false;
}

static tide_address address_of(const struct ascent *ascent)
{
    uint64_t page = 0;

    for (unsigned i = ascent->steps; i-- > 0;)
        page = page << TABLE_INDEX_BITS | ascent->indexes[i];
    return (page << ((TABLE_LEVELS - ascent->steps) * TABLE_INDEX_BITS)) * TIDE_PAGE_BYTES;
}

/* Sets the owner if there is one now. The list of spaces is locked, and the caller is inside the engine. */
static bool owner_find(const struct partition *partition, frame_t frame, uint64_t word, tide_frame_info *info)
{
    const struct frames *frames = partition->frames;
    const bool is_table = pfn_use(word) == FRAME_USE_PAGE_TABLE;
    uint64_t *pte = pfn_pte(frame_pfn(frames, frame));
    struct ascent ascent = { .root = frame.number };

    if ((pte == NULL && !is_table) || !ascend(frames, pte, &ascent) || (!is_table && ascent.steps != TABLE_LEVELS))
        return false;
    const void *root = frame_memory(frames, (frame_t){ ascent.root });
    const tide_space *space = partition->spaces;
    while (space != NULL && space->table.root != root)
        space = space->next;
    if (space == NULL || (ascent.steps != 0 && !descend(space, &ascent)))
        return false;
    info->space = space->id;
    info->address = address_of(&ascent);
    info->table_level = is_table ? TABLE_LEVELS - ascent.steps : 0;
    return true;
}

/* What may differ between two readings of the word of a frame that has not changed hands. */
static bool same_frame(uint64_t before, uint64_t after)
{
    return ((before ^ after) & (PFN_STATE_MASK | PFN_USE_MASK | PFN_DELETED)) == 0;
}

static void frame_info_fill(const struct partition *partition, frame_t frame, tide_frame_info *info)
{
    enum { TRIES = 8 };
    const struct frames *frames = partition->frames;
    const struct pfn *pfn = frame_pfn(frames, frame);

    for (unsigned i = 0; i < TRIES; i++) {
        const uint64_t word = sync_load_64(&pfn->word);
        const uint64_t original = sync_load_relaxed_64(&pfn->original);
        const bool owned = !is_unused(pfn_state(word)) && !(word & PFN_DELETED);

        *info = (tide_frame_info){ .state = public_state(pfn_state(word)),
                                   .use = public_use(word),
                                   .node = frame_node(frames, frame),
                                   .priority = pfn_priority(word),
                                   .share_count = pfn_share_count(word),
                                   .reference_count = pfn_reference_count(word),
                                   .dirty = (word & PFN_DIRTY) != 0,
                                   .io_in_progress = (word & (PFN_READ_IN_PROGRESS | PFN_WRITE_IN_PROGRESS)) != 0 };
        if (owned && original != 0 && !(word & PFN_WRITE_IN_PROGRESS)) {
            info->page_file = pte_slot((pte_t){ original }).file;
            info->slot = pte_slot((pte_t){ original }).slot;
        }
        const bool found = owned && owner_find(partition, frame, word, info);
        if ((found || !owned) && same_frame(word, sync_load_64(&pfn->word)))
            return;
    }
}

tide_status tide_frame_query(tide_engine *engine, uint64_t frame, tide_frame_info *info)
{
    tide_status status = engine_check(engine);

    if (tide_failed(status))
        return status;
    if (info == NULL)
        return error_set(TIDE_INVALID_PARAMETER, 0, 0, "the place for the data of frame %lu is NULL", frame);
    status = engine_frame_check(engine, frame);
    if (tide_failed(status))
        return status;
    struct partition *partition = &engine->partition;
    struct grace_thread *thread = engine_thread(engine);
    if (thread == NULL)
        return TIDE_INSUFFICIENT_RESOURCES;
    tide_frame_info filled;
    grace_enter(thread);
    sync_lock(&partition->lock);
    frame_info_fill(partition, (frame_t){ (uint32_t)frame }, &filled);
    sync_unlock(&partition->lock);
    grace_leave(thread);
    *info = filled;
    return TIDE_SUCCESS;
}

uint64_t tide_frame_number_end(tide_engine *engine)
{
    return tide_failed(engine_check(engine)) ? 0 : engine->partition.frames->end;
}

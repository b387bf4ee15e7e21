/*
 * Verification must be able to fail: each invariant is broken once on purpose, by hand in the engine's own structures,
 * is reported under its number, and with the damage undone the engine is sound again.
 *
 * The engine has no threads. Its one space has a page in each place: valid and dirty, valid and clean, modified,
 * standby, in the page file, never touched.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine_impl.h"
#include "frames/frames_impl.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { FRAMES = 128, SLOTS = 64, DIRTY = 0, CLEAN, MODIFIED, STANDBY, IN_FILE, UNTOUCHED, PAGES };

struct scene {
    char folder[256];
    char path[300];
    tide_engine *engine;
    struct frames *frames;
    tide_space *space;
    tide_address base;
    int read_error; /* errno that page-file reads fail with */
};

static int scene_filter(void *context, tide_io_kind kind, unsigned file, uint64_t slot, unsigned pages)
{
    const struct scene *scene = context;

    (void)file;
    (void)slot;
    (void)pages;
    return kind == TIDE_IO_READ ? scene->read_error : 0;
}

static tide_address address_of(const struct scene *scene, unsigned page)
{
    return scene->base + page * (tide_address)TIDE_PAGE_BYTES;
}

static void write_page(const struct scene *scene, unsigned page)
{
    char content[TIDE_PAGE_BYTES];

    memset(content, 'a' + (int)page, sizeof content);
    assert_int_equal(tide_write(scene->space, address_of(scene, page), content, sizeof content), TIDE_SUCCESS);
}

static void read_page(const struct scene *scene, unsigned page)
{
    char content[TIDE_PAGE_BYTES];

    assert_int_equal(tide_read(scene->space, address_of(scene, page), content, sizeof content), TIDE_SUCCESS);
    assert_int_equal(content[TIDE_PAGE_BYTES - 1], 'a' + (int)page);
}

static void assert_state(const struct scene *scene, unsigned page, tide_page_state state)
{
    tide_page_info info;

    assert_int_equal(tide_page_query(scene->space, address_of(scene, page), &info), TIDE_SUCCESS);
    assert_int_equal(info.state, state);
}

static int scene_open(void **state)
{
    struct scene *scene = calloc(1, sizeof *scene);
    const char *temporary = getenv("TMPDIR");
    uint64_t bytes = PAGES * (uint64_t)TIDE_PAGE_BYTES;
    tide_config config;

    assert_non_null(scene);
    snprintf(scene->folder, sizeof scene->folder, "%s/tide-test-XXXXXX", temporary != NULL ? temporary : ".");
    assert_non_null(mkdtemp(scene->folder));
    snprintf(scene->path, sizeof scene->path, "%s/page.sys", scene->folder);
    const tide_page_file_config file = { .path = scene->path,
                                         .minimum_bytes = (SLOTS + 1) * (uint64_t)TIDE_PAGE_BYTES };
    tide_config_init(&config);
    config.disable_aslr = true;
    config.memory_bytes = FRAMES * (uint64_t)TIDE_PAGE_BYTES;
    config.page_files = &file;
    config.page_file_count = 1;
    config.workers = TIDE_WORKERS_MANUAL;
    config.cpu_cache_pages = TIDE_NO_CPU_CACHE;
    config.list_shards = 1;
    config.cluster_pages = 1;
    config.io_filter = scene_filter;
    config.io_filter_context = scene;
    assert_int_equal(tide_engine_open(&config, &scene->engine), TIDE_SUCCESS);
    scene->frames = scene->engine->partition.frames;
    assert_int_equal(tide_space_create(scene->engine, &scene->space), TIDE_SUCCESS);
    assert_int_equal(
        tide_virtual_alloc(scene->space, &scene->base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
        TIDE_SUCCESS);

    for (unsigned page = 0; page < UNTOUCHED; page++)
        write_page(scene, page);
    assert_int_equal(tide_working_set_empty(scene->space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_empty(scene->engine, TIDE_EMPTY_MODIFIED), TIDE_SUCCESS);
    assert_int_equal(tide_engine_empty(scene->engine, TIDE_EMPTY_STANDBY), TIDE_SUCCESS);
    read_page(scene, STANDBY);
    write_page(scene, MODIFIED);
    assert_int_equal(tide_working_set_empty(scene->space), TIDE_SUCCESS);
    read_page(scene, CLEAN);
    write_page(scene, DIRTY);
    assert_state(scene, DIRTY, TIDE_PAGE_STATE_ACTIVE);
    assert_state(scene, CLEAN, TIDE_PAGE_STATE_ACTIVE);
    assert_state(scene, MODIFIED, TIDE_PAGE_STATE_MODIFIED);
    assert_state(scene, STANDBY, TIDE_PAGE_STATE_STANDBY);
    assert_state(scene, IN_FILE, TIDE_PAGE_STATE_PAGE_FILE);
    assert_state(scene, UNTOUCHED, TIDE_PAGE_STATE_DEMAND_ZERO);
    *state = scene;
    return 0;
}

static void assert_sound(const struct scene *scene)
{
    tide_verify_report report;
    const tide_status status = tide_engine_verify(scene->engine, &report);

    if (status != TIDE_SUCCESS)
        print_error("%s\n", report.first);
    assert_int_equal(status, TIDE_SUCCESS);
    assert_int_equal(report.violations, 0);
    assert_int_equal(report.frames_checked, FRAMES);
    assert_int_equal(report.slots_checked, 3); /* CLEAN, STANDBY, IN_FILE */
}

static int scene_close(void **state)
{
    struct scene *scene = *state;

    assert_sound(scene);
    for (unsigned page = 0; page < UNTOUCHED; page++)
        read_page(scene, page);
    assert_int_equal(tide_space_destroy(scene->space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_close(scene->engine), TIDE_SUCCESS);
    assert_int_equal(rmdir(scene->folder), 0);
    free(scene);
    return 0;
}

/* The first violation is of this invariant, and the caller can read it without a report, too. */
static void assert_violated(const struct scene *scene, const char *invariant)
{
    tide_verify_report report;

    assert_int_equal(tide_engine_verify(scene->engine, &report), TIDE_INVARIANT_VIOLATED);
    assert_true(report.violations > 0);
    if (strncmp(report.first, invariant, strlen(invariant)) != 0 || report.first[strlen(invariant)] != ':')
        fail_msg("expected %s, the first of %lu violations is: %s", invariant, (unsigned long)report.violations,
                 report.first);
    assert_int_equal(tide_engine_verify(scene->engine, NULL), TIDE_INVARIANT_VIOLATED);
    assert_non_null(strstr(tide_last_error()->message, invariant));
}

static uint64_t *pte_of(const struct scene *scene, unsigned page)
{
    uint64_t *pte = page_table_find(&scene->space->table, address_of(scene, page) / TIDE_PAGE_BYTES);

    assert_non_null(pte);
    return pte;
}

/* Of a page that is in memory. */
static struct pfn *pfn_of(const struct scene *scene, unsigned page)
{
    return frame_pfn(scene->frames, pte_frame(pte_load(pte_of(scene, page))));
}

static frame_t head_of(const struct scene *scene, enum frame_list list)
{
    const frame_t frame = { scene->frames->nodes[0].lists[list][0].head };

    assert_int_not_equal(frame.number, UINT32_MAX);
    return frame;
}

static void I1_a_miscounted_frame_is_found(void **state)
{
    struct scene *scene = *state;

    scene->frames->nodes[0].in_transition++;
    assert_violated(scene, "I1");
    scene->frames->nodes[0].in_transition--;
}

static void I3_a_zeroed_frame_with_a_byte_is_found(void **state)
{
    struct scene *scene = *state;
    char *memory = frame_memory(scene->frames, head_of(scene, FRAME_LIST_ZEROED));

    memory[TIDE_PAGE_BYTES - 1] = 1;
    assert_violated(scene, "I3");
    memory[TIDE_PAGE_BYTES - 1] = 0;
}

static void I4_a_frame_of_another_pte_is_found(void **state)
{
    struct scene *scene = *state;
    static const unsigned pages[] = { DIRTY, CLEAN, MODIFIED, STANDBY };

    for (unsigned i = 0; i < 4; i++) {
        struct pfn *pfn = pfn_of(scene, pages[i]);
        uint64_t *const owner = pfn->pte;

        pfn->pte = pte_of(scene, UNTOUCHED);
        assert_violated(scene, "I4");
        pfn->pte = owner;
        assert_sound(scene);
    }
}

/* Two PTEs that name one frame: what a lost race of two faults would leave. */
static void I4_a_frame_of_two_ptes_is_found(void **state)
{
    struct scene *scene = *state;
    uint64_t *pte = pte_of(scene, UNTOUCHED);

    *pte = *pte_of(scene, DIRTY);
    assert_violated(scene, "I4");
    *pte = 0;
}

static void I4_a_pte_of_a_frame_elsewhere_is_found(void **state)
{
    struct scene *scene = *state;
    uint64_t *pte = pte_of(scene, STANDBY);
    const uint64_t before = *pte;

    *pte = pte_make_transition(head_of(scene, FRAME_LIST_ZEROED), pte_protection((pte_t){ before })).bits;
    assert_violated(scene, "I4");
    *pte = pte_make_transition((frame_t){ scene->frames->end }, pte_protection((pte_t){ before })).bits;
    assert_violated(scene, "I4");
    *pte = before;
}

static void I5_a_wrong_share_count_is_found(void **state)
{
    struct scene *scene = *state;
    struct pfn *pfn = pfn_of(scene, DIRTY);

    pfn->word += PFN_SHARE_ONE;
    assert_violated(scene, "I5");
    pfn->word -= PFN_SHARE_ONE;
    assert_sound(scene);
    pfn->word -= PFN_REFERENCE_ONE;
    assert_violated(scene, "I5");
    pfn->word += PFN_REFERENCE_ONE;
}

static void I6_a_frame_on_the_wrong_list_is_found(void **state)
{
    struct scene *scene = *state;
    struct pfn *pfn = frame_pfn(scene->frames, head_of(scene, FRAME_LIST_ZEROED));
    const uint64_t word = pfn->word;

    pfn->word = pfn_with_state(word, FRAME_FREE);
    assert_violated(scene, "I6");
    pfn->word = word;
    assert_sound(scene);

    pfn = pfn_of(scene, STANDBY);
    pfn->word ^= 1ull << PFN_PRIORITY_SHIFT;
    assert_violated(scene, "I6");
    pfn->word ^= 1ull << PFN_PRIORITY_SHIFT;
}

static void I6_a_listed_frame_with_a_reference_is_found(void **state)
{
    struct scene *scene = *state;
    struct pfn *pfn = pfn_of(scene, MODIFIED);

    pfn->word += PFN_REFERENCE_ONE;
    assert_violated(scene, "I6");
    pfn->word -= PFN_REFERENCE_ONE;
}

/* A frame that was taken and forgotten: what a fault leaves that returns early. */
static void I6_a_lost_frame_is_found(void **state)
{
    struct scene *scene = *state;
    const frame_t frame = frames_allocate(scene->frames, 0, FRAMES_ZERO, 0);

    assert_false(frame_is_none(frame));
    assert_violated(scene, "I6");
    frames_give_back(scene->frames, frame, true);
}

/* A shard that searches would pass by. */
static void I6_a_shard_that_is_not_marked_is_found(void **state)
{
    struct scene *scene = *state;
    struct frames_node *node = &scene->space->partition->frames->nodes[0];
    const uint64_t some = node->some[FRAME_LIST_MODIFIED];

    node->some[FRAME_LIST_MODIFIED] = 0;
    assert_violated(scene, "I6");
    node->some[FRAME_LIST_MODIFIED] = some;
    assert_sound(scene);
}

static void I6_a_broken_link_is_found(void **state)
{
    struct scene *scene = *state;
    struct frame_shard *shard = &scene->frames->nodes[0].lists[FRAME_LIST_ZEROED][0];
    struct pfn *second = &scene->frames->pfns[scene->frames->pfns[shard->head].next];
    const uint32_t previous = second->previous;

    second->previous = second->next;
    assert_violated(scene, "I6");
    second->previous = previous;
    assert_sound(scene);
    shard->count++;
    assert_violated(scene, "I6");
    shard->count--;
}

static void I7_a_slot_without_owner_is_found(void **state)
{
    struct scene *scene = *state;
    struct stores_slot slot;

    assert_int_equal(stores_slots_allocate(scene->engine->partition.stores, 1, 0, &slot), 1);
    assert_violated(scene, "I7");
    stores_slot_release(scene->engine->partition.stores, slot);
}

/* The slot of a page in the file, and of a page on standby, named by another page, too. */
static void I7_a_slot_with_two_owners_is_found(void **state)
{
    struct scene *scene = *state;
    const unsigned protection = pte_protection(pte_load(pte_of(scene, IN_FILE)));
    uint64_t *pte = pte_of(scene, UNTOUCHED);

    *pte = *pte_of(scene, IN_FILE);
    assert_violated(scene, "I7");
    *pte = pfn_of(scene, STANDBY)->original | (uint64_t)protection << PTE_PROTECTION_SHIFT;
    assert_violated(scene, "I7");
    *pte = 0;
}

/* A slot that a page names and that may be given to the next one. */
static void I7_a_slot_that_is_free_is_found(void **state)
{
    struct scene *scene = *state;
    uint64_t *pte = pte_of(scene, IN_FILE);
    const uint64_t before = *pte;

    *pte += (uint64_t)SLOTS / 2 << PTE_SLOT_SHIFT;
    assert_false(stores_slot_allocated(scene->engine->partition.stores, pte_slot((pte_t){ *pte })));
    assert_violated(scene, "I7");
    *pte = before;
}

static void I8_a_lost_charge_is_found(void **state)
{
    struct scene *scene = *state;

    assert_int_equal(commit_charge(&scene->engine->partition.commit, 1), TIDE_SUCCESS);
    assert_violated(scene, "I8");
    commit_return(&scene->engine->partition.commit, 1);
    assert_sound(scene);
    commit_return(&scene->engine->partition.commit, 1);
    assert_violated(scene, "I8");
    assert_int_equal(commit_charge(&scene->engine->partition.commit, 1), TIDE_SUCCESS);
    assert_sound(scene);

    struct vad *vad = vad_first(&scene->space->vads);
    vad->committed_pages--;
    assert_violated(scene, "I8");
    vad->committed_pages++;
    assert_sound(scene);
    scene->space->tables_charged--;
    assert_violated(scene, "I8");
    scene->space->tables_charged++;
}

static void I10_a_page_outside_of_regions_is_found(void **state)
{
    struct scene *scene = *state;
    uint64_t *pte = pte_of(scene, UNTOUCHED) + 100;

    assert_int_equal(*pte, 0);
    *pte = pte_make(PTE_TAG_NONE, PTE_READWRITE).bits;
    assert_violated(scene, "I10");
    *pte = 0;
}

static void I10_regions_that_overlap_are_found(void **state)
{
    struct scene *scene = *state;
    tide_address second = 0;
    uint64_t bytes = TIDE_PAGE_BYTES;

    assert_int_equal(tide_virtual_alloc(scene->space, &second, &bytes, TIDE_MEM_RESERVE, TIDE_PAGE_READWRITE),
                     TIDE_SUCCESS);
    struct vad *vad = vad_find(&scene->space->vads, second / TIDE_PAGE_BYTES);
    assert_non_null(vad);
    const uint64_t first_page = vad->first_page;
    vad->first_page = scene->base / TIDE_PAGE_BYTES;
    assert_violated(scene, "I10");
    vad->first_page = first_page;
    assert_sound(scene);
    assert_int_equal(tide_virtual_free(scene->space, second, 0, TIDE_MEM_RELEASE), TIDE_SUCCESS);
}

/* A table that hangs in no space: what a lost race of two table makers would leave. */
static void I11_a_lost_table_is_found(void **state)
{
    struct scene *scene = *state;
    const frame_t frame = frames_allocate(scene->frames, 0, FRAMES_ZERO, 0);

    assert_false(frame_is_none(frame));
    struct pfn *pfn = frame_pfn(scene->frames, frame);
    pfn->pte = NULL;
    pfn->original = 0;
    frame_state_set(pfn, (uint64_t)FRAME_ACTIVE | PFN_DIRTY | PFN_REFERENCE_ONE | PFN_SHARE_ONE |
                             ((uint64_t)FRAME_USE_PAGE_TABLE << PFN_USE_SHIFT));
    assert_violated(scene, "I11");
    frames_free(scene->frames, frame);
}

static void I12_a_wrong_working_set_size_is_found(void **state)
{
    struct scene *scene = *state;

    scene->space->counters[0].values[SPACE_HARD]++;
    assert_violated(scene, "I12");
    scene->space->counters[0].values[SPACE_HARD]--;
    assert_sound(scene);
    scene->space->counters[0].values[SPACE_DEMAND_ZERO]--;
    assert_violated(scene, "I12");
    scene->space->counters[0].values[SPACE_DEMAND_ZERO]++;
}

/* A write that nobody knows of: through a pointer got for reading, or by a device through a pin for reading. */
static void I13_a_clean_page_that_changed_is_found(void **state)
{
    struct scene *scene = *state;
    static const unsigned pages[] = { CLEAN, STANDBY };

    for (unsigned i = 0; i < 2; i++) {
        char *memory = frame_memory(scene->frames, pte_frame(pte_load(pte_of(scene, pages[i]))));

        memory[100]++;
        assert_violated(scene, "I13");
        memory[100]--;
        assert_sound(scene);
    }
}

/* The mark for content that need not be kept: on a dirty page, and beside a slot. On a clean one it is right. */
static void I13_a_mark_in_the_wrong_place_is_found(void **state)
{
    struct scene *scene = *state;
    struct pfn *dirty = pfn_of(scene, MODIFIED), *clean = pfn_of(scene, CLEAN);

    dirty->original = PTE_RESET;
    assert_violated(scene, "I13");
    dirty->original = PTE_LOST;
    assert_sound(scene);
    dirty->word &= ~PFN_DIRTY;
    assert_violated(scene, "I13");
    dirty->word |= PFN_DIRTY;
    dirty->original = 0;
    clean->original |= PTE_LOST;
    assert_sound(scene);
    clean->original &= ~PTE_LOST;
    clean->original |= PTE_RESET;
    assert_violated(scene, "I13");
    clean->original &= ~PTE_RESET;
    assert_sound(scene);
}

static void I12_wrong_counts_of_locked_and_offered_pages_are_found(void **state)
{
    struct scene *scene = *state;

    *pte_of(scene, CLEAN) |= PTE_LOCKED;
    assert_violated(scene, "I12");
    scene->space->locked_pages++;
    scene->space->partition->resident_pages++;
    assert_sound(scene);
    scene->space->partition->resident_pages++;
    assert_violated(scene, "I12");
    scene->space->partition->resident_pages -= 2;
    scene->space->locked_pages--;
    *pte_of(scene, CLEAN) &= ~PTE_LOCKED;
    assert_sound(scene);
    scene->space->locked_pages++;
    assert_violated(scene, "I12");
    scene->space->locked_pages--;
    scene->space->offered_pages++;
    assert_violated(scene, "I12");
    scene->space->offered_pages--;
    const uint64_t pte = *pte_of(scene, CLEAN);
    *pte_of(scene, CLEAN) = (pte & ~PTE_PROTECTION_MASK) | ((uint64_t)PTE_OFFERED << PTE_PROTECTION_SHIFT);
    assert_violated(scene, "I4");
    *pte_of(scene, CLEAN) = pte;
}

/* Dirty with a slot, clean without one, and writable while the frame counts as clean. */
static void I13_dirtiness_that_disagrees_is_found(void **state)
{
    struct scene *scene = *state;

    pfn_of(scene, CLEAN)->word |= PFN_DIRTY;
    assert_violated(scene, "I13");
    pfn_of(scene, CLEAN)->word &= ~PFN_DIRTY;
    assert_sound(scene);
    *pte_of(scene, CLEAN) |= PTE_DIRTY;
    assert_violated(scene, "I13");
    *pte_of(scene, CLEAN) &= ~PTE_DIRTY;
    assert_sound(scene);
    pfn_of(scene, MODIFIED)->word &= ~PFN_DIRTY;
    assert_violated(scene, "I13");
    pfn_of(scene, MODIFIED)->word |= PFN_DIRTY;
}

/* A claim that nobody will end: all who touch the page would wait for ever. */
static void I15_a_forgotten_claim_is_found(void **state)
{
    struct scene *scene = *state;
    uint64_t *pte = pte_of(scene, UNTOUCHED);

    *pte = pte_busy_form(pte_make(PTE_TAG_NONE, PTE_READWRITE)).bits;
    assert_violated(scene, "I15");
    *pte = 0;
}

static void a_slot_that_cannot_be_read_is_an_io_error(void **state)
{
    struct scene *scene = *state;
    tide_verify_report report;

    scene->read_error = EIO;
    assert_int_equal(tide_engine_verify(scene->engine, &report), TIDE_IO_ERROR);
    assert_int_equal(tide_last_error()->io_error, EIO);
    assert_int_equal(report.violations, 0);
    scene->read_error = 0;
}

/* An open access section does not hinder it, and is not hindered. */
static void an_open_section_is_no_hindrance(void **state)
{
    struct scene *scene = *state;
    tide_access access;

    assert_int_equal(tide_access_begin(scene->space, &access), TIDE_SUCCESS);
    const char *pointer = tide_access_pointer(&access, address_of(scene, DIRTY), TIDE_ACCESS_READ);
    assert_non_null(pointer);
    assert_sound(scene);
    assert_int_equal(*pointer, 'a' + DIRTY);
    tide_access_end(&access);
}

#define VERIFY_TEST(name) cmocka_unit_test_setup_teardown(name, scene_open, scene_close)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        VERIFY_TEST(I1_a_miscounted_frame_is_found),
        VERIFY_TEST(I3_a_zeroed_frame_with_a_byte_is_found),
        VERIFY_TEST(I4_a_frame_of_another_pte_is_found),
        VERIFY_TEST(I4_a_frame_of_two_ptes_is_found),
        VERIFY_TEST(I4_a_pte_of_a_frame_elsewhere_is_found),
        VERIFY_TEST(I5_a_wrong_share_count_is_found),
        VERIFY_TEST(I6_a_frame_on_the_wrong_list_is_found),
        VERIFY_TEST(I6_a_listed_frame_with_a_reference_is_found),
        VERIFY_TEST(I6_a_lost_frame_is_found),
        VERIFY_TEST(I6_a_shard_that_is_not_marked_is_found),
        VERIFY_TEST(I6_a_broken_link_is_found),
        VERIFY_TEST(I7_a_slot_without_owner_is_found),
        VERIFY_TEST(I7_a_slot_with_two_owners_is_found),
        VERIFY_TEST(I7_a_slot_that_is_free_is_found),
        VERIFY_TEST(I8_a_lost_charge_is_found),
        VERIFY_TEST(I10_a_page_outside_of_regions_is_found),
        VERIFY_TEST(I10_regions_that_overlap_are_found),
        VERIFY_TEST(I11_a_lost_table_is_found),
        VERIFY_TEST(I12_a_wrong_working_set_size_is_found),
        VERIFY_TEST(I12_wrong_counts_of_locked_and_offered_pages_are_found),
        VERIFY_TEST(I13_a_clean_page_that_changed_is_found),
        VERIFY_TEST(I13_a_mark_in_the_wrong_place_is_found),
        VERIFY_TEST(I13_dirtiness_that_disagrees_is_found),
        VERIFY_TEST(I15_a_forgotten_claim_is_found),
        VERIFY_TEST(a_slot_that_cannot_be_read_is_an_io_error),
        VERIFY_TEST(an_open_section_is_no_hindrance),
    };

    return cmocka_run_group_tests_name("verify", tests, NULL, NULL) != 0;
}

/*
 * CT-5, the parts that no public call can make yet: a page that is locked, one of a large page, one that ten spaces
 * share, one in bad memory. The engine's own structures are changed under its feet and put back.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "engine/engine_impl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static tide_working_set_entry entry_of(tide_space *space, tide_address address)
{
    tide_working_set_entry entry = { .address = address };

    assert_int_equal(tide_working_set_query(space, &entry, 1), TIDE_SUCCESS);
    return entry;
}

static void CT_5_locked_large_shared_and_bad(void **state)
{
    tide_config config;
    tide_engine *engine;
    tide_space *space;
    tide_address base = 0;
    uint64_t bytes = 16 * TIDE_PAGE_BYTES;
    tide_working_set_statistics parts;

    (void)state;
    tide_config_init(&config);
    config.memory_bytes = 256 * TIDE_PAGE_BYTES;
    config.workers = TIDE_WORKERS_MANUAL;
    assert_int_equal(tide_engine_open(&config, &engine), TIDE_SUCCESS);
    assert_int_equal(tide_space_create(engine, &space), TIDE_SUCCESS);
    assert_int_equal(tide_virtual_alloc(space, &base, &bytes, TIDE_MEM_RESERVE | TIDE_MEM_COMMIT, TIDE_PAGE_READWRITE),
                     TIDE_SUCCESS);
    assert_int_equal(tide_touch_range(space, base, bytes, TIDE_ACCESS_WRITE), TIDE_SUCCESS);
    uint64_t *pte = page_table_find(&space->table, base / TIDE_PAGE_BYTES);
    struct pfn *pfn = frame_pfn(space_frames(space), pte_frame(pte_load(pte)));
    const uint64_t word = pfn->word, bits = *pte;

    *pte = bits | PTE_LOCKED;
    tide_working_set_entry entry = entry_of(space, base);
    assert_true(entry.valid && entry.locked && !entry.large_page && !entry.shared && !entry.bad);
    assert_int_equal(tide_working_set_statistics_get(space, &parts), TIDE_SUCCESS);
    assert_int_equal(parts.locked_pages, 1);
    assert_int_equal(parts.total_pages, 16);

    *pte = bits | PTE_LARGE;
    entry = entry_of(space, base);
    assert_true(entry.valid && entry.large_page && !entry.locked);
    assert_int_equal(entry.protection, TIDE_PAGE_READWRITE);
    assert_int_equal(tide_working_set_statistics_get(space, &parts), TIDE_SUCCESS);
    assert_int_equal(parts.total_pages, 15); /* large pages are in no working set */
    *pte = bits;

    for (unsigned sharers = 1; sharers <= 10; sharers++) {
        pfn->word = (word & ~(PFN_USE_MASK | PFN_SHARE_MASK)) | (uint64_t)TIDE_USE_SHAREABLE << PFN_USE_SHIFT |
                    sharers * PFN_SHARE_ONE;
        entry = entry_of(space, base);
        assert_true(entry.valid && entry.shared);
        assert_int_equal(entry.share_count, sharers < 7 ? sharers : 7);
        assert_int_equal(tide_working_set_statistics_get(space, &parts), TIDE_SUCCESS);
        assert_int_equal(parts.shareable_pages, 1);
        assert_int_equal(parts.private_pages, 15);
        assert_int_equal(parts.shared_pages, sharers > 1);
    }
    /* Not valid: what could be shared, and what is bad, is told all the same, and nothing else. */
    *pte = pte_make_transition(pte_frame((pte_t){ bits }), PTE_READWRITE).bits;
    pfn->word = pfn_with_state(pfn->word, FRAME_BAD);
    entry = entry_of(space, base);
    assert_true(!entry.valid && entry.shared && entry.bad);
    assert_int_equal(entry.protection, 0);
    assert_int_equal(entry.share_count, 0);
    pfn->word = word;
    *pte = bits;

    assert_int_equal(tide_engine_verify(engine, NULL), TIDE_SUCCESS);
    assert_int_equal(tide_space_destroy(space), TIDE_SUCCESS);
    assert_int_equal(tide_engine_close(engine), TIDE_SUCCESS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(CT_5_locked_large_shared_and_bad),
    };

    return cmocka_run_group_tests_name("engine/working_set_query", tests, NULL, NULL);
}

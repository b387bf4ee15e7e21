/*
 * Forms of a PTE: each is told apart from all others, and gives back what was put in.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "support.h"

static const unsigned protections[] = { PTE_READONLY,  PTE_EXECUTE,           PTE_EXECUTE_READ,
                                        PTE_READWRITE, PTE_EXECUTE_READWRITE, PTE_NOACCESS };
enum { PROTECTIONS = sizeof protections / sizeof protections[0] };

static const uint32_t frame_numbers[] = { 0, 1, 511, 512, 0x12345678, 0x80000000, UINT32_MAX - 1 };
enum { FRAME_NUMBERS = sizeof frame_numbers / sizeof frame_numbers[0] };

static void test_valid(void **state)
{
    (void)state;
    for (unsigned f = 0; f < FRAME_NUMBERS; f++) {
        for (unsigned p = 0; p < PROTECTIONS; p++) {
            for (int dirty = 0; dirty < 2; dirty++) {
                const pte_t pte = pte_make_valid((frame_t){ frame_numbers[f] }, protections[p], dirty != 0);

                assert_true(pte_is_valid(pte));
                assert_false(pte_is_busy(pte));
                assert_int_equal(pte_frame(pte).number, frame_numbers[f]);
                assert_int_equal(pte_protection(pte), protections[p]);
                assert_int_equal(pte_age(pte), PTE_AGE_MAX); /* it has to earn its place */
                assert_int_equal((pte.bits & PTE_DIRTY) != 0, dirty);
                assert_true(pte.bits & PTE_ACCESSED);
                assert_int_equal((pte.bits & PTE_READ) != 0,
                                 protections[p] != PTE_EXECUTE && protections[p] != PTE_NOACCESS);
                assert_int_equal((pte.bits & PTE_WRITE) != 0,
                                 protections[p] == PTE_READWRITE || protections[p] == PTE_EXECUTE_READWRITE);
                /* Ageing changes nothing else. */
                for (unsigned age = 0; age <= PTE_AGE_MAX; age++) {
                    const pte_t aged = { (pte.bits & ~(PTE_ACCESSED | PTE_AGE_MASK)) |
                                         ((uint64_t)age << PTE_AGE_SHIFT) };
                    assert_int_equal(pte_age(aged), age);
                    assert_int_equal(pte_frame(aged).number, frame_numbers[f]);
                    assert_int_equal(pte_protection(aged), protections[p]);
                    assert_true(pte_is_valid(aged));
                }
            }
        }
    }
}

static void test_transition(void **state)
{
    (void)state;
    for (unsigned f = 0; f < FRAME_NUMBERS; f++) {
        for (unsigned p = 0; p < PROTECTIONS; p++) {
            const pte_t pte = pte_make_transition((frame_t){ frame_numbers[f] }, protections[p]);

            assert_false(pte_is_valid(pte));
            assert_int_equal(pte_tag(pte), PTE_TAG_TRANSITION);
            assert_int_equal(pte_frame(pte).number, frame_numbers[f]);
            assert_int_equal(pte_protection(pte), protections[p]);
        }
    }
}

static void test_page_file(void **state)
{
    static const uint32_t slots[] = { 1, 2, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, UINT32_MAX };

    (void)state;
    for (unsigned file = 0; file < TIDE_MAX_PAGE_FILES; file++) {
        for (unsigned s = 0; s < sizeof slots / sizeof slots[0]; s++) {
            const uint64_t original = pte_original_of((struct stores_slot){ file, slots[s] });

            assert_true(original != 0);
            assert_true((original & PTE_PROTECTION_MASK) == 0);
            assert_int_equal(pte_slot((pte_t){ original }).file, file);
            assert_int_equal(pte_slot((pte_t){ original }).slot, slots[s]);
            for (unsigned p = 0; p < PROTECTIONS; p++) {
                /* As page_table_detach() puts it into the PTE. */
                const pte_t pte = { original | ((uint64_t)protections[p] << PTE_PROTECTION_SHIFT) };

                assert_false(pte_is_valid(pte));
                assert_int_equal(pte_tag(pte), PTE_TAG_PAGE_FILE);
                assert_int_equal(pte_protection(pte), protections[p]);
                assert_int_equal(pte_slot(pte).file, file);
                assert_int_equal(pte_slot(pte).slot, slots[s]);
                assert_true((pte.bits & ~PTE_PROTECTION_MASK) == original);
            }
        }
    }
}

static void test_forms_without_a_place(void **state)
{
    static const enum pte_tag tags[] = { PTE_TAG_NONE, PTE_TAG_PROTOTYPE, PTE_TAG_DECOMMITTED, PTE_TAG_BUSY };

    (void)state;
    for (unsigned t = 0; t < sizeof tags / sizeof tags[0]; t++) {
        for (unsigned p = 0; p < PROTECTIONS; p++) {
            const pte_t pte = pte_make(tags[t], protections[p]);

            assert_true(pte.bits != 0); /* demand zero is not "unknown" */
            assert_false(pte_is_valid(pte));
            assert_int_equal(pte_tag(pte), tags[t]);
            assert_int_equal(pte_protection(pte), protections[p]);
            assert_int_equal(pte_is_busy(pte), tags[t] == PTE_TAG_BUSY);
        }
    }
    assert_int_equal(pte_tag((pte_t){ 0 }), PTE_TAG_NONE);
    assert_int_equal(pte_protection((pte_t){ 0 }), 0);
}

/* The claim of a page keeps its protection, and a waiter's mark changes neither. */
static void test_busy(void **state)
{
    (void)state;
    for (unsigned p = 0; p < PROTECTIONS; p++) {
        const pte_t forms[] = {
            pte_make_valid((frame_t){ UINT32_MAX - 1 }, protections[p], true),
            pte_make_transition((frame_t){ UINT32_MAX - 1 }, protections[p]),
            { pte_original_of((struct stores_slot){ 15, UINT32_MAX }) |
              ((uint64_t)protections[p] << PTE_PROTECTION_SHIFT) },
        };

        for (unsigned f = 0; f < sizeof forms / sizeof forms[0]; f++) {
            const pte_t busy = pte_busy_form(forms[f]);
            const pte_t waited = { busy.bits | PTE_WAITED };

            assert_true(pte_is_busy(busy) && pte_is_busy(waited));
            assert_false(busy.bits & PTE_WAITED);
            assert_int_equal(pte_protection(busy), protections[p]);
            assert_int_equal(pte_protection(waited), protections[p]);
        }
    }
}

static void test_protections(void **state)
{
    static const struct {
        uint32_t page;
        unsigned software;
        bool reads, writes;
    } table[] = {
        { TIDE_PAGE_NOACCESS, PTE_NOACCESS, false, false },
        { TIDE_PAGE_READONLY, PTE_READONLY, true, false },
        { TIDE_PAGE_READWRITE, PTE_READWRITE, true, true },
        { TIDE_PAGE_EXECUTE, PTE_EXECUTE, false, false },
        { TIDE_PAGE_EXECUTE_READ, PTE_EXECUTE_READ, true, false },
        { TIDE_PAGE_EXECUTE_READWRITE, PTE_EXECUTE_READWRITE, true, true },
    };

    (void)state;
    for (unsigned i = 0; i < sizeof table / sizeof table[0]; i++) {
        assert_int_equal(pte_protection_of(table[i].page), table[i].software);
        assert_int_equal(pte_page_protection_of(table[i].software), table[i].page);
        assert_int_equal(pte_protection_reads(table[i].software), table[i].reads);
        assert_int_equal(pte_protection_writes(table[i].software), table[i].writes);
    }
    static const uint32_t wrong[] = { 0, TIDE_PAGE_WRITECOPY, TIDE_PAGE_EXECUTE_WRITECOPY, 3, 0x100, UINT32_MAX };
    for (unsigned i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(pte_protection_of(wrong[i]), 0);
    assert_int_equal(pte_page_protection_of(PTE_PROTECTION_NONE), 0);
    assert_int_equal(pte_page_protection_of(PTE_PROTECTION_DECOMMITTED), 0);
    assert_false(pte_protection_reads(PTE_PROTECTION_NONE));
    assert_false(pte_protection_reads(PTE_PROTECTION_DECOMMITTED));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),     cmocka_unit_test(test_transition),
        cmocka_unit_test(test_page_file), cmocka_unit_test(test_forms_without_a_place),
        cmocka_unit_test(test_busy),      cmocka_unit_test(test_protections),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

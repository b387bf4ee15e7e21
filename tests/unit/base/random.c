/*
 * The random generator: its bounds, its spread, and that a seed repeats.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* The reference sequence of splitmix64 from state 0. */
static void the_sequence_is_splitmix64(void **state)
{
    uint64_t seed = 0;

    (void)state;
    assert_true(random_next(&seed) == 0xE220A8397B1DCDAFull);
    assert_true(random_next(&seed) == 0x6E789E6AA1B965F4ull);
    assert_true(random_next(&seed) == 0x06C45D188009454Full);
}

static void numbers_stay_below_their_bound(void **state)
{
    static const uint64_t bounds[] = { 1, 2, 3, 7, 1000, 1ull << 32, (1ull << 63) + 1, UINT64_MAX };
    uint64_t seed = 42;

    (void)state;
    for (unsigned b = 0; b < sizeof bounds / sizeof *bounds; b++)
        for (unsigned i = 0; i < 10000; i++)
            assert_true(random_below(&seed, bounds[b]) < bounds[b]);
}

static void every_value_comes_about_as_often(void **state)
{
    enum { VALUES = 10, EACH = 10000 };
    unsigned seen[VALUES] = { 0 };
    uint64_t seed = 1;

    (void)state;
    for (unsigned i = 0; i < VALUES * EACH; i++)
        seen[random_below(&seed, VALUES)]++;
    for (unsigned i = 0; i < VALUES; i++) {
        /* Ten standard deviations. */
        assert_true(seen[i] > EACH - 1000);
        assert_true(seen[i] < EACH + 1000);
    }
}

static void neighbours_are_hashed_apart(void **state)
{
    unsigned buckets[64] = { 0 };

    (void)state;
    for (uint64_t x = 0; x < 64 * 100; x++)
        buckets[random_mix(x * 4096) & 63]++;
    for (unsigned i = 0; i < 64; i++) {
        assert_true(buckets[i] > 0);
        assert_true(buckets[i] < 200);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sequence_is_splitmix64),
        cmocka_unit_test(numbers_stay_below_their_bound),
        cmocka_unit_test(every_value_comes_about_as_often),
        cmocka_unit_test(neighbours_are_hashed_apart),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}

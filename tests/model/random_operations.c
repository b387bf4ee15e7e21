/*
 * The model test: random operations on an engine and on the model (operations.c), from many seeds.
 *
 * TIDE_MODEL_SEED=n runs one seed only, TIDE_MODEL_SEEDS=n that many from 1 on, TIDE_MODEL_OPS=n so many operations
 * each.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

enum { SEEDS = 24, OPERATIONS = 3000 };

void operations_failed(void)
{
    fail();
    abort();
}

static uint64_t number_from_environment(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 0);
}

static void random_operations_match_the_model(void **state)
{
    (void)state;
    const uint64_t seed = number_from_environment("TIDE_MODEL_SEED", 0);
    const uint64_t seeds = number_from_environment("TIDE_MODEL_SEEDS", SEEDS);
    const unsigned count = (unsigned)number_from_environment("TIDE_MODEL_OPS", OPERATIONS);
    if (seed != 0) {
        operations_from_seed(seed, count);
        return;
    }
    for (uint64_t s = 1; s <= seeds; s++)
        operations_from_seed(s, count);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(random_operations_match_the_model) };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}

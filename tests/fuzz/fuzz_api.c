/*
 * libFuzzer's entry point: a string of bytes makes all choices of a run of operations on a small engine, each compared
 * with the model (tests/model/operations.c). The engine is verified at the end.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "operations.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

void operations_failed(void)
{
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size != 0)
        operations_from_bytes(data, size);
    return 0;
}

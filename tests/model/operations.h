/*
 * Runs of operations on an engine, each compared with the model: what the model test and the fuzzer share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef TESTS_MODEL_OPERATIONS_H
#define TESTS_MODEL_OPERATIONS_H

#include <stddef.h>
#include <stdint.h>

/* A run of so many operations drawn from a seed, on an engine of its own. */
void operations_from_seed(uint64_t seed, unsigned operation_count);
/* The same, with all choices made by a string of bytes, until it ends. Not NULL. */
void operations_from_bytes(const uint8_t *bytes, size_t count);

/* Defined by the program: engine and model differ, and the report is on stderr. Does not return. */
_Noreturn void operations_failed(void);

#endif

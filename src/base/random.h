/*
 * A small random generator (splitmix64) for hashing, sampling and tests. Not for secrets.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

/* Mixes all bits of `x`: a hash of an integer, and the output function of the generator. */
static inline uint64_t random_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

/* Next number of the sequence whose state is `*state`; any state is a good seed. */
static inline uint64_t random_next(uint64_t *state)
{
    return random_mix(*state += 0x9E3779B97F4A7C15ull);
}

/* Uniform below `bound` (> 0), with a bias that no test can see. */
static inline uint64_t random_below(uint64_t *state, uint64_t bound)
{
    return (uint64_t)(((unsigned __int128)random_next(state) * bound) >> 64);
}

#endif

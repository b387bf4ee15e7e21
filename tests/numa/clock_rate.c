/*
 * Prints the rate of this machine's time-stamp counter in kHz. qemu's translation hands the guest that counter as it
 * is, and a guest that measures its rate while the host is busy finds another one: its seconds are then several times
 * too short, and whatever waits for a time gives up early. So the guest is told.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_RAW, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Both clocks at one moment: of several tries the one that was interrupted the least. */
static void both(uint64_t *ns, uint64_t *ticks)
{
    uint64_t shortest = UINT64_MAX;

    for (int i = 0; i < 100; i++) {
        const uint64_t before = __rdtsc(), at = now_ns(), after = __rdtsc();

        if (after - before < shortest) {
            shortest = after - before;
            *ns = at;
            *ticks = before + (after - before) / 2;
        }
    }
}

int main(void)
{
    const struct timespec wait = { .tv_nsec = 200000000 };
    uint64_t first_ns, first_ticks, last_ns, last_ticks;

    both(&first_ns, &first_ticks);
    nanosleep(&wait, NULL);
    both(&last_ns, &last_ticks);
    printf("%llu\n", (unsigned long long)((double)(last_ticks - first_ticks) * 1e6 / (double)(last_ns - first_ns)));
    return 0;
}

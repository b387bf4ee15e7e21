/*
 * The table of states.def as data.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "frames/pfn.h"

bool frame_edge_legal(enum frame_state from, enum frame_state to)
{
    static const uint8_t edges[FRAME_STATE_COUNT][FRAME_STATE_COUNT] = {
#define FRAME_EDGE(from, to, why) [FRAME_##from][FRAME_##to] = 1,
#include "frames/states.def"
    };

    return from == to || edges[from][to] != 0;
}

const char *frame_state_name(enum frame_state state)
{
    static const char *const names[FRAME_STATE_COUNT] = {
#define FRAME_STATE(name, text) #name,
#include "frames/states.def"
    };

    return state < FRAME_STATE_COUNT ? names[state] : "no state";
}

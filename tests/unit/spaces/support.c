/*
 * Working sets are tested in the same scene as the faults; a folder links its own support files only.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "../faults/support.c"

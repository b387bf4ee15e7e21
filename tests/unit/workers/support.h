/*
 * The workers are tested in the same scene as the faults.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_WORKERS_SUPPORT_H
#define UNIT_WORKERS_SUPPORT_H

#include "../faults/support.h"

#endif

/**
 * @file
 * Everything public.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef PAGETIDE_PAGETIDE_H
#define PAGETIDE_PAGETIDE_H

#include <pagetide/access.h>
#include <pagetide/bad_memory.h>
#include <pagetide/engine.h>
#include <pagetide/events.h>
#include <pagetide/mapped.h>
#include <pagetide/numa.h>
#include <pagetide/pressure.h>
#include <pagetide/priority.h>
#include <pagetide/space.h>
#include <pagetide/statistics.h>
#include <pagetide/virtual.h>
#include <pagetide/status.h>
#include <pagetide/working_set.h>

#endif

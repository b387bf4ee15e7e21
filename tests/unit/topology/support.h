/*
 * What the topology tests share.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef UNIT_TOPOLOGY_SUPPORT_H
#define UNIT_TOPOLOGY_SUPPORT_H

#include "base/error.h"
#include "topology/topology.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/*
 * Three packages with a node each, and a memory expander. Nodes 0, 1 and 2 (so numbered by the system too) have CPU 0,
 * CPUs 1 to 3, and CPU 4; packages 1 and 2 lie in one group. Node 3 has no CPUs and is the system's 40. The file has
 * the plain form that hwloc writes, without comments, since hwloc without libxml reads no other.
 */
#define EXPANDER_XML TEST_SOURCE_DIR "/expander.xml"

/* Creates a topology that must be good. */
struct topology *topology_good(const char *synthetic, const char *xml);

/*
 * Writes expander.xml with one piece of text replaced, which must be in it, to a temporary file. The caller unlinks
 * and frees the path.
 */
char *expander_variant(const char *text, const char *replacement);

/* Makes discovery take a file for this machine, so that the ways of a machine with many nodes can be tested on any. */
struct topology *topology_as_machine(const char *xml);

#endif

/*
 * Memory that is brought when it is touched: SIGBUS says that it is not there. The handler is that of memory_error.c,
 * since a process has one for a signal.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_MEMORY_FAULT_H
#define BASE_MEMORY_FAULT_H

#include <pagetide/status.h>

#include <signal.h>
#include <stdbool.h>

/*
 * Somebody can bring it. The handler asks him first, in the faulting thread, with
 * all signals blocked but those of faults; true: the access is tried again, or a signal for it is on its way. One for
 * the whole process, who stays as long as anybody wants him: begin and end count. TIDE_INSUFFICIENT_RESOURCES.
 */
typedef bool memory_fault(siginfo_t *info, void *context);
TIDE_MUST_CHECK tide_status memory_faults_begin(memory_fault *resolve);
void memory_faults_end(void);

#endif

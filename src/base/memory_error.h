/*
 * Memory that goes bad under the program: SIGBUS, and going on after it (the user's side of Linux's memory_failure()).
 *
 * The kernel tells of a page whose memory has an uncorrectable error in two ways. BUS_MCEERR_AO (action optional):
 * found by the patrol scrubber or by somebody else, nobody has used it. BUS_MCEERR_AR (action required): this thread
 * has just read or written it, and cannot go on where it is.
 *
 * Somebody who owns memory watches it here. The first watch installs a handler for SIGBUS; what it does not know goes
 * to the handler that was there before, and with none to the default action, which ends the process.
 *   AO in watched memory   the owner is told (note()), the program goes on.
 *   AR in watched memory   the owner is told. If the thread is inside memory_error_call(), that returns false. Else the
 *                          program was at it itself, through a pointer: the handler from before is called, which may
 *                          jump out (siglongjmp); without one the process ends.
 * Of memory that is brought when it is touched (mapped spaces) SIGBUS says that it is not there: base/memory_fault.h.
 *
 * BUS_ADRERR and BUS_OBJERR from the kernel (memory behind the address is gone) count as AR: watched memory is
 * anonymous and populated, so what is gone is as good as bad.
 *
 * The handler calls nothing that is not safe in a signal handler, and note() must not either. A thread that ends a
 * watch waits until no handler is in its note().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef BASE_MEMORY_ERROR_H
#define BASE_MEMORY_ERROR_H

#include <pagetide/status.h>

#include <stdbool.h>
#include <stddef.h>

enum { MEMORY_ERROR_WATCHES = 64 };

/* Bytes of watched memory are bad: called in a signal handler. `bytes` may be a part of a page. */
typedef void memory_error_note(void *context, char *address, size_t bytes);

/* TIDE_INSUFFICIENT_RESOURCES if MEMORY_ERROR_WATCHES are in use, or the handler cannot be installed. */
TIDE_MUST_CHECK tide_status memory_error_watch(void *memory, size_t bytes, memory_error_note *note, void *context,
                                               unsigned *watch);
/* The last one puts the handler from before back, if nobody has put another one on top meanwhile. */
void memory_error_unwatch(unsigned watch);

/*
 * Calls something that only reads and writes memory; false if watched memory turned out bad under it: then an unknown
 * part is done. And memcpy() so.
 */
TIDE_MUST_CHECK bool memory_error_call(void (*call)(void *context), void *context);
TIDE_MUST_CHECK bool memory_error_copy(void *to, const void *from, size_t bytes);

/*
 * For a thread of the owner's: SIGBUS is not blocked, and of errors that need no action it is this thread that is told,
 * at once (PR_MCE_KILL_EARLY). Without such a thread, and unless the machine's policy is early kill, the kernel tells
 * of an error only when the memory is used.
 */
void memory_error_thread_listen(void);

#endif

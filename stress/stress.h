/*
 * One stress run: its options, its threads, and what they share. tide_stress.c starts and ends it, operations.c holds
 * the operations, shadow.h what every page must hold.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STRESS_STRESS_H
#define STRESS_STRESS_H

#include "shadow.h"

#include <sched.h>

enum {
    STRESS_SPAN_MAX = 4,   /* pages of one copying access */
    STRESS_PIN_MAX = 16,   /* pages of one pin */
    STRESS_COMMIT_MAX = 48 /* pages of one commit; ThreadSanitizer allows 64 locks at once */
};

/* Which spaces are mapped, and how their faults are delivered. */
enum stress_mapped {
    STRESS_SOFT,
    STRESS_MAPPED_SIGNAL,
    STRESS_MAPPED_THREADS,
    STRESS_MAPPED_BOTH, /* a space of each kind and a soft one, in turns */
    STRESS_MAPPED_KINDS
};

struct stress_options {
    uint64_t seed;
    uint64_t seconds; /* 0: no bound */
    uint64_t ops;     /* over all threads; 0: no bound */
    unsigned threads;
    uint64_t frames;
    unsigned spaces;
    uint64_t pagefile_bytes; /* 0: no page file */
    const char *pagefile;    /* NULL: in a temporary folder */
    unsigned nodes;          /* of a synthetic topology; 0: this machine's */
    unsigned faults;         /* I/O errors per 1000 operations; 0: no I/O filter */
    unsigned hangs;          /* of 1000 writes to the first page file, so many stand still; 0: there is but one file */
    bool alone;              /* nor is there a second one if it hangs */
    uint64_t memory_factor;  /* committed pages wanted, as a multiple of the frames */
    uint64_t bad_frames;     /* frames taken out of use during the run */
    uint64_t poison;         /* of these, so many more by the kernel: real poisoned memory */
    enum stress_mapped mapped;
    bool core; /* abort() on failure, for a core file */
};

struct stress_run {
    struct stress_options options; /* [I] */
    char command[512];             /* [I] what repeats the run */
    char pagefile[512];            /* [I] path, empty for none */
    char second[520];              /* [I] path of the second page file, empty for none */
    tide_engine *engine;           /* [I] */
    unsigned node_count;           /* [I] */
    struct shadow shadow;
    _Atomic bool stop;             /* [A] set by the main thread */
    _Atomic unsigned inject_off;   /* [A] I/O errors are injected only while 0 */
    _Atomic uint64_t injections;   /* [A] counts filter calls, to draw from */
    _Atomic uint64_t read_errors;  /* [A] injected */
    _Atomic uint64_t write_errors; /* [A] injected, at most write_errors_max: each can cost a slot for good */
    uint64_t write_errors_max;     /* [I] */
    _Atomic uint64_t hung;         /* [A] writes that stood still */
    uint64_t start_ns;             /* [I] for the threads */
    cpu_set_t cpus;                /* [I] that the run may use */
    _Atomic uint64_t retired;      /* [A] frames of bad_frames so far */
    _Atomic uint64_t poisoned;     /* [A] frames of poison so far */
    _Atomic uint64_t restored;     /* [A] pages that were lost with one and written anew */
    _Atomic unsigned dry_node;     /* [A] the next node to run dry */
};

/* One thread of the run. */
struct stress_thread {
    struct stress_run *run;
    unsigned index;
    uint64_t random;             /* [T] */
    _Atomic uint64_t ops;        /* [A] written by the thread, read by the watchdog */
    const char *_Atomic op;      /* [A] name of the operation running */
    bool inject_off;             /* [T] this thread holds inject_off until its operation ends */
    tide_statistics previous;    /* [T] last snapshot, to see that counters only grow */
    uint64_t sections_too_long;  /* [T] */
    uint64_t commit_refused;     /* [T] */
    uint64_t repeated;           /* [T] accesses repeated after an injected error */
    char *buffer;                /* [T] STRESS_PIN_MAX + 1 pages */
    char *spare;                 /* [T] one page, for pages that are written anew */
    struct shadow_space *holder; /* [T] of the place that the operation works on */
    uint64_t restored;           /* [T] pages of windows that this thread wrote anew */
    bool unlocked;               /* [T] the operation has no lock of the pages that it looks at */
    bool saw_lost;               /* [T] it met one that was lost */
    bool too_long;               /* [T] ... and it could not be written anew with this section open */
    uint64_t violations;         /* [T] accesses to mapped memory that were refused, as they had to be */
    bool own_lost;               /* [T] a page of the thread's own region was lost, and is zeros */
    pthread_t thread;
};

uint64_t stress_now_ns(void);

/* Can the kernel poison memory for this program? Installs the handler that op_poison() needs. False with errno set. */
bool stress_poison_prepare(void);

/* Installs the handlers of SIGSEGV and SIGBUS: a signal that is not expected ends the run. Before any mapped space. */
void stress_signals_prepare(struct stress_run *run);
/* The calling thread is this one of the run. */
void stress_signals_thread(struct stress_thread *thread);

/* Runs one operation drawn at random. */
void stress_operation(struct stress_thread *thread);

/* Reads every page and queries every region of a space and compares with the shadow. No other thread runs. */
void stress_check_space(struct stress_thread *thread, unsigned space_index);

/* Creates space `space_index` if it is not there. Caller holds its lock for writing or is alone. */
bool stress_space_create(struct stress_thread *thread, unsigned space_index);
/* Destroys it. As above. */
void stress_space_destroy(struct stress_thread *thread, unsigned space_index);

/*
 * Prints what is wrong with the thread, operation, seed and command, removes the page file, and ends the process with
 * 1. `thread` may be NULL.
 */
_Noreturn void stress_fail(const struct stress_run *run, const struct stress_thread *thread, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif

/*
 * The operations of a stress run, by file.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STRESS_OPERATIONS_H
#define STRESS_OPERATIONS_H

#include "place.h"

/* access_operations.c */
void op_write(struct stress_thread *thread);
void op_write_stamps(struct stress_thread *thread);
void op_read(struct stress_thread *thread);
void op_touch(struct stress_thread *thread);
void op_section(struct stress_thread *thread);
void op_shared_write(struct stress_thread *thread);
void op_peek(struct stress_thread *thread);
void op_pin(struct stress_thread *thread);

/* space_operations.c */
void op_commit(struct stress_thread *thread);
void op_decommit(struct stress_thread *thread);
void op_release(struct stress_thread *thread);
void op_overlap(struct stress_thread *thread);
void op_private_region(struct stress_thread *thread);
void op_space(struct stress_thread *thread);
void op_working_set(struct stress_thread *thread);
void op_query(struct stress_thread *thread);
void op_statistics(struct stress_thread *thread);
void op_engine_empty(struct stress_thread *thread);
void op_worker_step(struct stress_thread *thread);

/* counter_operations.c */
void op_counters(struct stress_thread *thread);

/* region_operations.c */
void op_protect(struct stress_thread *thread);
void op_own_region(struct stress_thread *thread);

/* placement_operations.c */
void op_placement(struct stress_thread *thread);
/* Any placement of a region but a strict one. */
void draw_placement(struct stress_thread *thread, tide_alloc_parameters *parameters);

/* content_operations.c */
void op_contents(struct stress_thread *thread);
void op_stack(struct stress_thread *thread);
void op_priority(struct stress_thread *thread);

/* mapped_operations.c */
void op_pointer_write(struct stress_thread *thread);
void op_pointer_read(struct stress_thread *thread);
void op_pointer_violation(struct stress_thread *thread);
void op_pointer_peek(struct stress_thread *thread);
void op_system_call(struct stress_thread *thread);
/* Compares page `i` of a run whose lock is held by loads. */
void check_pointer(struct stress_thread *thread, const struct place *place, unsigned i, const char *how);

/* node_operations.c */
void op_migrate(struct stress_thread *thread);
void op_dry_node(struct stress_thread *thread);
void op_bad_frame(struct stress_thread *thread);
void op_poison(struct stress_thread *thread);

/* Success of a call that writes modified pages; with injected errors, also TIDE_IO_ERROR. */
void expect_writer(struct stress_thread *thread, tide_status status, const char *what);

/* Time for the trimmer, the writer and the other threads to do their worst to what this thread holds. */
void linger(struct stress_thread *thread, tide_space *space);

#endif

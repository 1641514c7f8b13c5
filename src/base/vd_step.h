// SPDX-License-Identifier: Apache-2.0
/*
 * Steps: the places between two durable actions, where a process may die. In builds with tests the
 * variable VDISKFS_TEST_KILL_STEP=N makes the Nth step kill the process; VDISKFS_TEST_KILL_STEP=0 with
 * VDISKFS_TEST_STEPS=FILE has the names written there, one a line. In others a step does nothing.
 */
#ifndef VD_STEP_H
#define VD_STEP_H

/* Any thread. */
void vd_step(const char *name);

#endif

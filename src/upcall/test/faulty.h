// SPDX-License-Identifier: Apache-2.0
/* Callbacks that fault, in a section of their own: what is contained is a matter of whose text it is. */
#ifndef FAULTY_H
#define FAULTY_H

#include "vd_upcall.h"

struct vd_upcall_text faulty_text(void);

void fault_null(void *arg);
void fault_divide(void *arg);
void fault_overflow(void *arg);    /* recursion without end */
void fault_large_frame(void *arg); /* one frame larger than the stack */
void fault_illegal(void *arg);
void fault_call_nowhere(void *arg);
void fault_with_full_fpu(void *arg); /* x86-64 */
void fault_on_other_stack(void *arg);
void fault_spin(void *arg);
void fault_not(void *arg); /* calls the function that ARG points to */

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Where a stack stands while another is in use, and how the thread goes from one to the other. Two ways, chosen when upcalls
 * are enabled: by a few lines of assembly (fast.S), or by swapcontext(3).
 */
#ifndef VD__UPCALL_CONTEXT_H
#define VD__UPCALL_CONTEXT_H

#include <ucontext.h>

#include "stack.h"
#include "vd_upcall.h"

struct vd__context {
    void *sp;       /* fast */
    ucontext_t *uc; /* swapcontext; NULL with fast */
};

/* FN(ARG) begins on S when it is first switched to, and never returns. C's ucontext, if there is one, is used again. 0, -ENOMEM. */
int vd__context_make(struct vd__context *c, enum vd_upcall_switch how, const struct vd__stack *s,
                     void (*fn)(void *arg), void *arg) VD_WARN_UNUSED;
/* One that is only left and come back to. 0, -ENOMEM. */
int vd__context_init(struct vd__context *c, enum vd_upcall_switch how) VD_WARN_UNUSED;
void vd__context_free(struct vd__context *c);

/* Leaves into FROM, goes on where TO was left. */
void vd__context_switch(struct vd__context *from, struct vd__context *to);

/* In a handler of a signal, whose context is UC: the thread goes on where TO was left. May not return. */
void vd__context_land(ucontext_t *uc, struct vd__context *to);

#endif

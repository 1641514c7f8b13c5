// SPDX-License-Identifier: Apache-2.0
/* What upcall.c and fault.c share. */
#ifndef VD__UPCALL_H
#define VD__UPCALL_H

#include <signal.h>

#include "context.h"

/* One nesting depth. */
struct vd__level {
    struct vd_upcall *u;
    struct vd__stack callback_stack, service_stack;
    struct vd__context host, callback, service; /* where each stands while another is in use */
    /* the upcall under way */
    const struct vd_upcall_text *text;
    void (*fn)(void *arg);
    void *arg;
    void (*service_fn)(void *arg);
    void *service_arg;
    struct vd_upcall_fault fault;
    /* sanitizers' */
    const void *host_low;
    size_t host_size;
    void *host_fake, *callback_fake, *service_fake;
    void *host_fiber, *callback_fiber, *service_fiber;
};

/* The thread's own, and read by the handler of signals that come while it runs. */
struct vd_upcall {
    enum vd_upcall_switch how;
    unsigned depth;              /* upcalls under way */
    volatile bool in_callback;   /* on the callback stack of level depth - 1 */
    volatile sig_atomic_t fault; /* the signal that ended it, until it is noticed */
    void *signal_stack;          /* ours, to be taken away; or NULL */
    struct vd__level levels[VD_UPCALL_DEPTH];
};

/* fault.c */
void vd__fault_install(void); /* once a process */
/* The calling thread's upcalls, for the handler. */
void vd__fault_watch(struct vd_upcall *u);
struct vd_upcall *vd__fault_watched(void);

#endif

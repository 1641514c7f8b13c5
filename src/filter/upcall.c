// SPDX-License-Identifier: Apache-2.0
/*
 * The one place from which a filter's code is called. The frame says for which filter and which request this thread is in an
 * upcall, so that a service knows what stands below whom, and whether it may wait. Frames are of one thread and nest.
 *
 * A fault quarantines the filter on that disk: for good, until it is detached and attached again, or the disk is opened anew.
 */
#include <signal.h>
#include <string.h>

#include "filter.h"
#include "vd_log.h"

static __thread struct vd__frame *here;

struct vd__frame *vd__frame_here(void)
{
    return here;
}

void vd__quarantine(struct vd__attachment *a, const char *why)
{
    if (atomic_exchange(&a->quarantined, true))
        return;
    pthread_mutex_lock(&a->mu);
    snprintf(a->why, sizeof(a->why), "%s", why);
    pthread_mutex_unlock(&a->mu);
    vd_log_error("%s: filter %s is quarantined: %s; the disk %s", a->f->info.name, a->spec.name,
                 why,
                 a->spec.required ? "refuses I/O until it is detached, or the disk opened anew"
                                  : "goes on without it");
    vd__defer_fail(a->f, a, NULL); /* it may never let go of them */
}

static void describe(const struct vd_upcall_fault *f, const struct vd__attachment *a,
                     const char *what, char text[VD_FILTER_WHY])
{
    uintptr_t off = f->pc - a->lib->text.start;
    bool inside = f->pc >= a->lib->text.start && f->pc < a->lib->text.end;
    if (f->overflow)
        snprintf(text, VD_FILTER_WHY, "its stack overflowed in %s, at text+0x%lx", what,
                 (unsigned long)off);
    else if (!inside)
        snprintf(text, VD_FILTER_WHY, "it called address 0x%lx, where there is no code, in %s",
                 (unsigned long)f->pc, what);
    else if (f->signal == SIGSEGV || f->signal == SIGBUS)
        snprintf(text, VD_FILTER_WHY, "%s at address 0x%lx in %s, at text+0x%lx",
                 strsignal(f->signal), (unsigned long)f->addr, what, (unsigned long)off);
    else
        snprintf(text, VD_FILTER_WHY, "%s in %s, at text+0x%lx", strsignal(f->signal), what,
                 (unsigned long)off);
}

void vd__upcall_next(struct vd__frame *frame, struct vd__attachment *a)
{
    if (frame->a == a)
        return;
    frame->a = a;
    vd_upcall_text(vd_upcall_self(), &a->lib->text);
}

int vd__upcall(struct vd__attachment *a, struct vd__frame *frame, const char *what,
               void (*fn)(void *arg), void *arg)
{
    struct vd_upcall *u = vd_upcall_self();
    struct vd_upcall_fault fault;
    if (!u)
        return -ENOMEM;
    frame->outer = here;
    frame->a = a;
    here = frame;
    int r = vd_upcall_call(u, &a->lib->text, fn, arg, &fault);
    here = frame->outer;
    if (r != -EFAULT)
        return r;
    char text[VD_FILTER_WHY];
    a = frame->a; /* perhaps another by now */
    vd__count(a, N_FAULTS, 1);
    describe(&fault, a, what, text);
    vd__quarantine(a, text);
    return -EIO;
}

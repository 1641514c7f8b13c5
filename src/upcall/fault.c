// SPDX-License-Identifier: Apache-2.0
/*
 * Containment of faults. The handler runs on the thread that faulted, on its signal stack, and so may read what that
 * thread alone writes. It contains a fault if
 *
 *   - the kernel made it for an instruction of this thread (si_code), not somebody who sent a signal
 *   - the thread is in a callback, not in a service
 *   - the stack pointer is on that callback's stack, or in its guards
 *   - the instruction is in the callback's text; or it called an address where there is no code, from its text
 *
 * Everything else goes to the handler that was there before (SIGBUS: of mapped files, vd_sigbus.h; sanitizers'), or to
 * the default, which kills and leaves a core where it happened.
 *
 * Handlers are the process's, so this file has state of its own.
 */
#include <pthread.h>
#include <string.h>

#include "sanitize.h"
#include "upcall.h"

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
static struct sigaction before[VD_ARRAY_SIZE(signals)];
static pthread_once_t installed = PTHREAD_ONCE_INIT;
static __thread struct vd_upcall *watched;

void vd__fault_watch(struct vd_upcall *u)
{
    watched = u;
}

struct vd_upcall *vd__fault_watched(void)
{
    return watched;
}

/* Program counter and stack pointer of the interrupted code; false where we do not know this processor. */
static bool registers_of(const ucontext_t *uc, uintptr_t *ret_pc, uintptr_t *ret_sp)
{
#if defined(__x86_64__)
    *ret_pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    *ret_sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    return true;
#elif defined(__aarch64__)
    *ret_pc = (uintptr_t)uc->uc_mcontext.pc;
    *ret_sp = (uintptr_t)uc->uc_mcontext.sp;
    return true;
#else
    return false;
#endif
}

static bool in_text(const struct vd_upcall_text *t, uintptr_t pc)
{
    return t && pc >= t->start && pc < t->end;
}

/* A call through a pointer that leads nowhere: the return address is the last thing on the stack. */
static bool called_nowhere(const struct vd__level *l, const siginfo_t *info, uintptr_t pc,
                           uintptr_t sp)
{
#if defined(__x86_64__)
    uintptr_t ret;
    if ((uintptr_t)info->si_addr != pc || !vd__stack_has(&l->callback_stack, sp) ||
        !vd__stack_has(&l->callback_stack, sp + sizeof(ret) - 1))
        return false;
    memcpy(&ret, (const void *)sp, sizeof(ret));
    return in_text(l->text, ret);
#else
    return false;
#endif
}

static bool contain(int sig, const siginfo_t *info, ucontext_t *uc)
{
    struct vd_upcall *u = watched;
    uintptr_t pc, sp;
    if (!u || !u->in_callback || info->si_code <= 0 || !registers_of(uc, &pc, &sp))
        return false;
    struct vd__level *l = &u->levels[u->depth - 1];
    if (!vd__stack_near(&l->callback_stack, sp) ||
        !(in_text(l->text, pc) || called_nowhere(l, info, pc, sp)))
        return false;
    uintptr_t addr = sig == SIGSEGV || sig == SIGBUS ? (uintptr_t)info->si_addr : 0;
    l->fault = (struct vd_upcall_fault){
        .signal = sig,
        .pc = pc,
        .addr = addr,
        .overflow =
            vd__stack_near(&l->callback_stack, addr) && !vd__stack_has(&l->callback_stack, addr),
    };
    u->fault = sig;
    return true;
}

static const struct sigaction *before_of(int sig)
{
    for (size_t i = 0; i < VD_ARRAY_SIZE(signals); i++)
        if (signals[i] == sig)
            return &before[i];
    return NULL;
}

static void hand_on(int sig, siginfo_t *info, void *uc)
{
    const struct sigaction *old = before_of(sig);
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(sig, info, uc);
    } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(sig);
    } else {
        signal(sig, SIG_DFL); /* the faulting instruction runs again, and kills */
        if (info->si_code <= 0)
            raise(sig); /* there is none: it was sent */
    }
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    if (!contain(sig, info, context)) {
        hand_on(sig, info, context);
        errno = saved;
        return;
    }
    struct vd__level *l = &watched->levels[watched->depth - 1];
    vd__asan_leave(NULL, l->host_low, l->host_size);
    vd__context_land(context, &l->host);
}

static void install(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&sa.sa_mask);
    for (size_t i = 0; i < VD_ARRAY_SIZE(signals); i++)
        sigaction(signals[i], &sa, &before[i]);
}

void vd__fault_install(void)
{
    pthread_once(&installed, install);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Upcalls: calls out of the middle of a request into a callback that runs on a stack of its own.
 *
 * The thread that serves a request plays the kernel, the callback user space. The thread is on its *first host
 * stack* (its own). vd_upcall_call switches to the *callback stack* of the next nesting depth and runs the callback there. When
 * the callback asks for a service, vd_upcall_service switches to the *second host stack* of that depth, since the
 * first is in the middle of the request, runs the service there and switches back. When the callback returns, the
 * thread goes on on the stack that made the call. A callback so never runs on a host stack, and never returns through one. A
 * service may make upcalls in turn: they take the stacks of the next depth.
 *
 *     first host stack      call ---------------------------------------------------> goes on
 *     callback stack 1           fn ---- service ----------------------------> return
 *     second host stack 1                        sfn -- call -------> goes on
 *     callback stack 2                                       fn2
 *
 * Switching makes no system call: on x86-64 it saves and loads the registers that a function must keep, MXCSR
 * and the x87 control word; elsewhere it is swapcontext(3), which does make one. Stacks have guards of 1 MiB on
 * both sides, and are made when a depth is first used.
 *
 * Faults. A synchronous fault (SIGSEGV, SIGBUS, SIGFPE, SIGILL) whose instruction lies in the callback's own text, while
 * its stack is in use, ends the callback: vd_upcall_call returns -EFAULT, and the stack is made ready anew. What the callback
 * held stays held. Any other fault goes to the handler that was there before ours, so normally kills.
 *
 * One struct vd_upcall a thread; it is used by that thread only. No lock, no LMDB transaction and no scratch memory of the
 * thread may be held over vd_upcall_call. AddressSanitizer, ThreadSanitizer and valgrind are told of each stack and switch.
 *
 * Ideas from: scheduler activations (Anderson et al., SOSP 1991), QEMU's coroutine-ucontext (ucontext makes a stack, cheap jumps
 * switch it, sanitizers are told).
 */
#ifndef VD_UPCALL_H
#define VD_UPCALL_H

#include "vd_base.h"

#define VD_UPCALL_DEPTH 8u         /* how deeply upcalls may be nested */
#define VD_UPCALL_GUARD (1u << 20) /* bytes, on both sides of a stack */
#define VD_UPCALL_CALLBACK_STACK (256u << 10)
#define VD_UPCALL_SERVICE_STACK (1u << 20) /* as much as a thread of the daemon needs */

struct vd_upcall;

enum vd_upcall_switch {
    VD_UPCALL_FAST, /* registers, by assembly; swapcontext where there is none for the processor */
    VD_UPCALL_UCONTEXT, /* swapcontext */
};

/* A callback's own code: [start, end). */
struct vd_upcall_text {
    uintptr_t start, end;
};

/* Why -EFAULT. */
struct vd_upcall_fault {
    int signal;
    uintptr_t pc, addr; /* the instruction, and what it touched (SIGSEGV, SIGBUS) */
    bool overflow;      /* ADDR is in a guard of the callback's stack */
};

/* Enables upcalls on the calling thread, and makes the stacks of the first depth. Installs the handlers of faults, once a
 * process, and gives the thread a signal stack where it has none. 0, -ENOMEM, -errno. At most one at a time a thread: -EBUSY. */
int vd_upcall_enable(enum vd_upcall_switch how, struct vd_upcall **ret_u) VD_WARN_UNUSED;

/* Closes it on its thread, outside of any upcall, and frees the stacks. NULL is allowed. */
void vd_upcall_close(struct vd_upcall *u);

/* That of the calling thread: enabled when it is first asked for, closed when the thread ends. NULL without memory.
 * After the first time: no system call, no lock. */
struct vd_upcall *vd_upcall_self(void);

/* Runs FN(ARG) on a callback stack. From the thread's own stack, or from a service. errno and the floating point control words are
 * as before afterwards.
 *   0; -ELOOP: nested too deeply; -ENOMEM: no stacks for that depth; -EFAULT: it faulted in TEXT (NULL: faults
 *   are not contained), RET_FAULT (may be NULL) says how. */
int vd_upcall_call(struct vd_upcall *u, const struct vd_upcall_text *text, void (*fn)(void *arg),
                   void *arg, struct vd_upcall_fault *ret_fault) VD_WARN_UNUSED;

/* In a callback: the code that it calls next is TEXT, which faults are contained in from now on: so several may be called in
 * turn by one upcall. */
void vd_upcall_text(struct vd_upcall *u, const struct vd_upcall_text *text);

/* In a callback: runs FN(ARG) on the second host stack of this depth. errno is as before afterwards. */
void vd_upcall_service(struct vd_upcall *u, void (*fn)(void *arg), void *arg);

/* Is the calling thread's code on a callback stack now? U may be NULL: no. */
bool vd_upcall_in_callback(const struct vd_upcall *u);

/* How many upcalls are nested now: 0 outside. */
unsigned vd_upcall_depth(const struct vd_upcall *u);

/* On which stack is ADDR? For the model and for messages. */
enum vd_upcall_place { VD_UPCALL_FIRST_HOST, VD_UPCALL_CALLBACK, VD_UPCALL_SECOND_HOST };
enum vd_upcall_place vd_upcall_where(const struct vd_upcall *u, const void *addr,
                                     unsigned *ret_depth);

#endif

// SPDX-License-Identifier: Apache-2.0
#include "faulty.h"

#include <alloca.h>
#include <signal.h>

#if defined(__clang__)
#define PLAIN __attribute__((no_sanitize("address", "undefined", "thread"), optnone))
#else
#define PLAIN __attribute__((no_sanitize("address", "undefined", "thread"), optimize("O0")))
#endif
#define FAULTY PLAIN __attribute__((section("faulty"), noinline))

extern const char __start_faulty[], __stop_faulty[];

struct vd_upcall_text faulty_text(void)
{
    return (struct vd_upcall_text){(uintptr_t)__start_faulty, (uintptr_t)__stop_faulty};
}

static volatile int zero, sink;
static int *volatile nowhere;
static void (*volatile no_function)(void);

FAULTY void fault_null(void *arg)
{
    *nowhere = 1;
}

FAULTY void fault_divide(void *arg)
{
    sink = 7 / zero;
}

FAULTY static int deeper(int n)
{
    volatile char room[512];
    room[0] = (char)n;
    return n < 0 ? n : deeper(n + 1) + room[0]; /* never: it grows */
}

FAULTY void fault_overflow(void *arg)
{
    sink = deeper(0);
}

FAULTY void fault_large_frame(void *arg)
{
    volatile char *room = alloca(VD_UPCALL_CALLBACK_STACK + VD_UPCALL_GUARD / 2);
    room[0] = 1;
}

FAULTY void fault_illegal(void *arg)
{
    __builtin_trap();
}

FAULTY void fault_call_nowhere(void *arg)
{
    no_function();
}

#if defined(__x86_64__)
/* With the x87 stack full: who goes on must not find it so. */
FAULTY void fault_with_full_fpu(void *arg)
{
    __asm__ volatile("fldz; fldz; fldz; fldz; fldz; fldz; fldz; fldz" ::: "memory");
    *nowhere = 1;
}

/* On a stack that is not the callback's: nothing says where that one stands. */
FAULTY void fault_on_other_stack(void *arg)
{
    static char stack[4096] __attribute__((aligned(16)));
    __asm__ volatile("mov %0, %%rsp; movl $1, (%1)" ::"r"(stack + sizeof(stack) / 2), "r"(nowhere)
                     : "memory");
    __builtin_unreachable();
}
#else
FAULTY void fault_on_other_stack(void *arg)
{
    raise(SIGSEGV); /* not known here */
}
#endif

/* Runs until it is told not to. */
FAULTY void fault_spin(void *arg)
{
    volatile int *const *flags = arg;
    *flags[0] = 1;
    while (!*flags[1])
        ;
}

FAULTY void fault_not(void *arg)
{
    void (*const *fn)(void) = arg;
    (*fn)();
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A model of one upcall: which code runs on which stack, in the order in which it runs. The thread is in the middle of a
 * request (the worker as kernel), calls a filter, which asks for a service, which calls the filter below, which asks for one too:
 *
 *     model [fast|ucontext]
 *
 * Each line is the stack that the code is on, asked of the upcall itself by the address of a frame, and what happens there.
 * The output is compared with upcall.expected, and with what docs/filters.md shows.
 */
#include <stdio.h>
#include <string.h>

#include "vd_upcall.h"

static void say(const struct vd_upcall *u, const void *frame, const char *what)
{
    static const char *const names[] = {
        [VD_UPCALL_FIRST_HOST] = "first host stack",
        [VD_UPCALL_CALLBACK] = "callback stack",
        [VD_UPCALL_SECOND_HOST] = "second host stack",
    };
    unsigned depth;
    char stack[40];
    enum vd_upcall_place place = vd_upcall_where(u, frame, &depth);
    if (depth)
        snprintf(stack, sizeof(stack), "%s %u", names[place], depth);
    else
        snprintf(stack, sizeof(stack), "%s", names[place]);
    printf("%-20s %s\n", stack, what);
}
/* In place, since it is the caller's frame that is asked for. */
#define SAY(u, what) say(u, __builtin_frame_address(0), what)

static void call(struct vd_upcall *u, void (*fn)(void *arg))
{
    if (vd_upcall_call(u, NULL, fn, u, NULL) < 0)
        abort();
}

static void lower_service(void *arg)
{
    SAY(arg, "its service: the disk is read");
}

static void lower_filter(void *arg)
{
    SAY(arg, "callback of the filter below");
    vd_upcall_service(arg, lower_service, arg);
    SAY(arg, "goes on, and returns");
}

static void read_below(void *arg)
{
    SAY(arg, "service: a read below");
    call(arg, lower_filter);
    SAY(arg, "goes on, and returns");
}

static void upper_filter(void *arg)
{
    SAY(arg, "callback of a filter");
    vd_upcall_service(arg, read_below, arg);
    SAY(arg, "goes on, and returns");
}

int main(int argc, char **argv)
{
    struct vd_upcall *u;
    bool ucontext = argc > 1 && strcmp(argv[1], "ucontext") == 0;
    if (vd_upcall_enable(ucontext ? VD_UPCALL_UCONTEXT : VD_UPCALL_FAST, &u) < 0)
        return 1;
    for (int i = 1; i <= 2; i++) { /* the same stacks are used again */
        SAY(u, i == 1 ? "a request" : "another");
        call(u, upper_filter);
        SAY(u, "goes on");
    }
    vd_upcall_close(u);
    return 0;
}

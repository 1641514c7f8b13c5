// SPDX-License-Identifier: Apache-2.0
/*
 * What an upcall costs: `upcall [--json] [N [NAME]]`. Nanoseconds a round trip, the best of several runs, since what else
 * the machine does only adds. NAME: that row only.
 */
#include <string.h>

#include "vd_base.h"
#include "vd_time.h"
#include "vd_upcall.h"

#define RUNS 7

static void empty(void *arg)
{
}

static void serve(void *arg)
{
    vd_upcall_service(arg, empty, NULL);
}

static void nest_service(void *arg)
{
    struct vd_upcall *u = arg;
    if (vd_upcall_call(u, NULL, empty, NULL, NULL) < 0)
        abort();
}

static void nest(void *arg)
{
    vd_upcall_service(arg, nest_service, arg);
}

static double one(struct vd_upcall *u, void (*fn)(void *arg), unsigned long n)
{
    double best = 1e18;
    for (int run = 0; run < RUNS; run++) {
        uint64_t began = vd_now_ns();
        for (unsigned long i = 0; i < n; i++)
            if (vd_upcall_call(u, NULL, fn, u, NULL) < 0)
                abort();
        best = vd_min(best, (double)(vd_now_ns() - began) / (double)n);
    }
    return best;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name, *what;
        enum vd_upcall_switch how;
        void (*fn)(void *arg);
    } rows[] = {
        {"upcall", "upcall and return", VD_UPCALL_FAST, empty},
        {"service", "upcall with a service", VD_UPCALL_FAST, serve},
        {"nested", "upcall, service, nested upcall", VD_UPCALL_FAST, nest},
        {"ucontext", "upcall and return by swapcontext", VD_UPCALL_UCONTEXT, empty},
    };
    bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    unsigned long n = argc > 1 + json ? strtoul(argv[1 + json], NULL, 10) : 1000000;
    const char *only = argc > 2 + json ? argv[2 + json] : NULL, *comma = "";
    if (json)
        printf("{");
    for (size_t i = 0; i < VD_ARRAY_SIZE(rows); i++) {
        struct vd_upcall *u;
        if (only && strcmp(only, rows[i].name) != 0)
            continue;
        if (vd_upcall_enable(rows[i].how, &u) < 0)
            return 1;
        double ns = one(u, rows[i].fn, vd_max(n, 1ul));
        vd_upcall_close(u);
        if (json)
            printf("%s\"%s\":%.1f", comma, rows[i].name, ns);
        else
            printf("%-34s %8.1f ns\n", rows[i].what, ns);
        comma = ",";
    }
    if (json)
        printf("}\n");
    return 0;
}

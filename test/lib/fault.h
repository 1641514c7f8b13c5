// SPDX-License-Identifier: Apache-2.0
/* Between the two halves of the fault interposer: fault.c decides, fault_hook.c does. */
#ifndef FAULT_H
#define FAULT_H

#include <stddef.h>
#include <sys/types.h>

#include "fault_rule.h"

struct fault_call {
    enum fault_op op;
    int fd;           /* its file, or the folder of NAME */
    const char *name; /* NULL: the call names no file */
    int fd2;          /* the same, of a rename's new name */
    const char *name2;
    const void *addr; /* of msync */
    off_t off;
    size_t len;
};

/* What is to be done with a call: all that applies is merged, the first rule that says so wins. */
struct fault_verdict {
    int err;   /* 0: none */
    long tear; /* -1: none */
    bool kill;
    unsigned after_ms; /* of a sync: wait before its return */
};

/* Counts the call and finds what applies to it. Sleeps where a rule says so, and does not return
 * where one kills, unless a torn write must come first. Leaves errno as it was. */
struct fault_verdict fault_judge(const struct fault_call *c);

void fault_kill_self(void);
/* Leaves errno as it was. */
void fault_sleep(unsigned ms);

#endif

// SPDX-License-Identifier: Apache-2.0
/* The rules of the fault interposer, from their text: see fault.c. No function allocates. */
#ifndef FAULT_RULE_H
#define FAULT_RULE_H

#include <stdbool.h>
#include <stdint.h>

#define FAULT_RULES_MAX 16
#define FAULT_PATH_MAX 256

enum fault_op {
    FAULT_WRITE,
    FAULT_WRITEV,
    FAULT_PWRITE,
    FAULT_PWRITEV,
    FAULT_FSYNC,
    FAULT_FDATASYNC,
    FAULT_MSYNC,
    FAULT_RENAME,
    FAULT_UNLINK,
    FAULT_MMAP,
    FAULT_FTRUNCATE,
    FAULT_FALLOCATE,
    FAULT_CREATE,
    FAULT_MKDIR,
    FAULT_XATTR,
    FAULT_NOPS,
};

struct fault_rule {
    uint32_t ops; /* bit 1 << enum fault_op */
    char path[FAULT_PATH_MAX];
    uint64_t from, to; /* numbers of the calls it acts on; from > to: none */
    int err;           /* 0: none */
    long tear_bytes;   /* -1: none */
    unsigned delay_ms, after_ms;
    bool kill;
    bool record;
};

const char *fault_op_name(enum fault_op op);

/* The number of rules in TEXT, or -EINVAL. */
int fault_rules_parse(const char *text, struct fault_rule ret_rules[FAULT_RULES_MAX]);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * A disk of a running mount, as the measuring programs name it to its daemon: by the control socket
 * itself, so that what is measured is the daemon's work and not the start of a command.
 *
 * And what they all print: how a set of durations is spread.
 */
#ifndef BENCH_ASK_H
#define BENCH_ASK_H

#include <limits.h>

#include "vd_base.h"
#include "vd_ctl.h"

struct bench_disk {
    char socket[PATH_MAX];
    char path[PATH_MAX]; /* below the source */
    uint64_t dev, ino;
};

/* The disk PATH below SOURCE, which a mount serves. 0; complains on stderr and returns -errno. */
int bench_disk_find(const char *source, const char *path,
                    struct bench_disk *ret_disk) VD_WARN_UNUSED;

/* Has the daemon do COMMAND with the disk; KEY and VALUE (NULL: none) are one more argument.
 * RET_NS (may be NULL): how long it took. 0; complains and returns -errno. Blocks. */
int bench_ask(const struct bench_disk *disk, const char *command, const char *key,
              const char *value, uint64_t *ret_ns) VD_WARN_UNUSED;

/* {"count", "median", "p99", "worst"}, in ms, of N durations; sorts them. A new reference. */
json_t *bench_spread(uint64_t *ns, size_t n);

/* Prints O (stolen) as one line. 0, or 1 where that fails: an exit status. */
int bench_print(json_t *o);

#endif

// SPDX-License-Identifier: Apache-2.0
/* What the program `layers` (layers.c) makes and measures. Each returns an exit status. */
#ifndef BENCH_LAYERS_H
#define BENCH_LAYERS_H

#include "ask.h"

/* Bytes at which the round ROUND of writes writes its Nth block, of a disk of NBLOCKS: the same in
 * each run, so that a peer can be given the same writes. */
uint64_t layers_offset(unsigned round, unsigned n, uint64_t nblocks);

int layers_snapshots(const char *source, const char *mount, const char *path, unsigned count,
                     unsigned writes);
int layers_clones(const char *source, const char *path, const char *prefix, unsigned count);
int layers_open(const char *prefix, unsigned count);
int layers_extents(const char *source, const char *path, uint64_t count);

#endif

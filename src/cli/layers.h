// SPDX-License-Identifier: Apache-2.0
/* What layers.c and layers_online.c share. */
#ifndef VD_CLI_LAYERS_H
#define VD_CLI_LAYERS_H

#include "cli.h"

/* A walk that joins what is equal and adjacent. */
struct extent_walk {
    struct cli_layers *l;
    bool holes;
    int (*fn)(void *user, const struct cli_extent *e);
    void *user;
    struct cli_extent last; /* not yet told; of length 0: none */
};

/* Adds a layer below those there are. 0, -ENOMEM. */
int layers_add(struct cli_layers *l, const struct vd_id *id, bool live) VD_WARN_UNUSED;
/* [START, END) of a layer, next in order; looks for holes where that is wanted. */
int layers_emit(struct extent_walk *w, uint64_t start, uint64_t end, size_t layer,
                bool zero) VD_WARN_UNUSED;

/* As the daemon of an attached disk tells. The first leaves L->online false, and returns 0, where
 * the disk was closed meanwhile. */
int layers_load_online(struct cli_layers *l, char *why) VD_WARN_UNUSED;
int layers_each_online(struct extent_walk *w, uint64_t off, uint64_t end, char *why) VD_WARN_UNUSED;

#endif

// SPDX-License-Identifier: Apache-2.0
/* Which layer answers for a block: the live map, then the frozen maps, nearest first. */
#ifndef VD_RESOLVE_H
#define VD_RESOLVE_H

#include "vd_map.h"

enum vd_owner_kind {
    VD_OWNED_LIVE,   /* the live layer's file */
    VD_OWNED_FROZEN, /* layer LAYER of maps[MAP] */
    VD_OWNED_ZERO,   /* zero, by an extent of some layer's */
    VD_OWNED_NONE,   /* no layer ever held it: zero */
};

struct vd_block_owner {
    enum vd_owner_kind kind;
    unsigned map;
    uint32_t layer;
};

/*
 * Who owns block FIRST; RET_RUN (at most NBLOCKS > 0): for how many blocks from it on the answer holds (ask again for the rest, which may
 * have the same answer). LM may be NULL. 0; -EAGAIN: a page of a map would have to be read and MAY_BLOCK is false; -EUCLEAN, -errno as vd_map_find. Any thread.
 */
int vd_resolve(const struct vd_live_map *lm, struct vd_map *const *maps, unsigned nmaps,
               uint64_t first, uint64_t nblocks, bool may_block, struct vd_block_owner *ret_owner,
               uint64_t *ret_run) VD_WARN_UNUSED;

/* How deep the answer lies: 0 the live layer, 1 the newest frozen one, and so on, as qemu-img counts. -1 for zero and none. */
int64_t vd_resolve_depth(struct vd_map *const *maps, const struct vd_block_owner *owner);

#endif

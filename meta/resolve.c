// SPDX-License-Identifier: Apache-2.0
#include "vd_resolve.h"

int vd_resolve(const struct vd_live_map *lm, struct vd_map *const *maps, unsigned nmaps,
               uint64_t first, uint64_t nblocks, bool may_block, struct vd_block_owner *ret_owner,
               uint64_t *ret_run)
{
    uint64_t run = nblocks;
    if (lm) {
        enum vd_block_state s = vd_live_map_get(lm, first, run, &run);
        if (s != VD_BLOCK_BELOW) {
            *ret_owner =
                (struct vd_block_owner){.kind = s == VD_BLOCK_OWN ? VD_OWNED_LIVE : VD_OWNED_ZERO};
            *ret_run = run;
            return 0;
        }
    }
    for (unsigned i = 0; i < nmaps; i++) {
        uint32_t layer;
        int r = vd_map_find(maps[i], first, run, may_block, &layer, &run);
        if (r < 0)
            return r;
        if (layer == VD_MAP_NONE)
            continue;
        *ret_owner = (struct vd_block_owner){
            .kind = layer == VD_MAP_ZERO ? VD_OWNED_ZERO : VD_OWNED_FROZEN,
            .map = i,
            .layer = layer,
        };
        *ret_run = run;
        return 0;
    }
    *ret_owner = (struct vd_block_owner){.kind = VD_OWNED_NONE};
    *ret_run = run;
    return 0;
}

int64_t vd_resolve_depth(struct vd_map *const *maps, const struct vd_block_owner *owner)
{
    if (owner->kind == VD_OWNED_LIVE)
        return 0;
    if (owner->kind != VD_OWNED_FROZEN)
        return -1;
    int64_t depth = 1 + (int64_t)owner->layer;
    for (unsigned i = 0; i < owner->map; i++)
        depth += vd_map_nlayers(maps[i]);
    return depth;
}

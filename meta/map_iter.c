// SPDX-License-Identifier: Apache-2.0
#include "map_iter.h"

#include "vd_log.h"

int vd__map_iter_open(struct vd_map *m, struct vd__map_iter *ret_it)
{
    struct vd__map_iter it = {.m = m};
    int r = m->bits ? 0 : vd__maptab_cursor_open(m->table, &it.cur);
    if (r == 0)
        *ret_it = it;
    return r;
}

void vd__map_iter_close(struct vd__map_iter *it)
{
    vd__maptab_cursor_close(&it->cur);
}

int vd__map_iter_next(struct vd__map_iter *it, struct vd__extent *ret_e, char ret_why[VD_META_WHY])
{
    if (it->m->bits) {
        enum vd_block_state state;
        if (!vd__bits_next(it->m->bits, &it->pos, &ret_e->first, &ret_e->nblocks, &state))
            return 0;
        ret_e->layer = state == VD_BLOCK_ZERO ? VD_MAP_ZERO : 0;
        return 1;
    }
    int r = vd__maptab_cursor_next(&it->cur, ret_e, ret_why);
    if (r == -EUCLEAN) {
        char name[VD__MAP_NAME];
        vd__map_table_name(&it->m->id, name);
        vd__map_why(it->m->maps, name, ret_why, ret_why);
    }
    return r;
}

int vd_map_each(struct vd_map *m,
                int (*fn)(void *user, uint64_t first, uint64_t nblocks, uint32_t layer), void *user)
{
    vd_cleanup(vd__map_iter_close) struct vd__map_iter it = {0};
    struct vd__extent e;
    char why[VD_META_WHY];
    int r = vd__map_iter_open(m, &it);
    if (r < 0)
        return r;
    while ((r = vd__map_iter_next(&it, &e, why)) > 0)
        if ((r = fn(user, e.first, e.nblocks, e.layer)) != 0)
            return r;
    if (r == -EUCLEAN && !atomic_flag_test_and_set(&m->complained))
        vd_log_error("%s", why);
    return r;
}

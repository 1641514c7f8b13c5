// SPDX-License-Identifier: Apache-2.0
/* The extents of a frozen map in order, whatever it is read from; past the cache of pages. */
#ifndef VD__MAP_ITER_H
#define VD__MAP_ITER_H

#include "map.h"

struct vd__map_iter {
    struct vd_map *m; /* borrowed */
    struct vd__maptab_cursor cur;
    uint64_t pos; /* in bits */
};

int vd__map_iter_open(struct vd_map *m, struct vd__map_iter *ret_it) VD_WARN_UNUSED;
/* 1: RET_E; 0: the end; -EUCLEAN with RET_WHY, which names the file; -errno. */
int vd__map_iter_next(struct vd__map_iter *it, struct vd__extent *ret_e,
                      char ret_why[VD_META_WHY]) VD_WARN_UNUSED;
void vd__map_iter_close(struct vd__map_iter *it); /* also one that is all zero */

#endif

// SPDX-License-Identifier: Apache-2.0
/* A set of IDs. They are random, so their own bytes are their hash; the zero ID is in no set. Not
 * thread-safe. Zeroed is empty. */
#ifndef VD__META_IDSET_H
#define VD__META_IDSET_H

#include "vd_id.h"

struct vd__idset {
    struct vd_id *slots; /* a power of two of them, zero where empty */
    size_t nslots, n;
};

/* 1 where it is new, 0 where it was there, -ENOMEM. */
int vd__idset_add(struct vd__idset *s, const struct vd_id *id) VD_WARN_UNUSED;
bool vd__idset_has(const struct vd__idset *s, const struct vd_id *id);
void vd__idset_free(struct vd__idset *s);

#endif

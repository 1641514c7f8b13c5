// SPDX-License-Identifier: Apache-2.0
#ifndef VD__META_REFS_H
#define VD__META_REFS_H

#include "store.h"

#define VD__REFS_NAME "refs"

/* Opens STORE/refs, unlocked. 0, -EROFS, -errno. */
int vd__refs_open(const struct vd_meta_store *s, int *ret_fd) VD_WARN_UNUSED;

#endif

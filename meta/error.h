// SPDX-License-Identifier: Apache-2.0
/* The one place where LMDB's codes become ours. */
#ifndef VD__META_ERROR_H
#define VD__META_ERROR_H

/* LMDB return code -> 0 or -errno: NOTFOUND -ENOENT, full of any kind -ENOSPC, damage of any kind
 * -EUCLEAN, errno values negated. What can only be our own mistake is -EINVAL. */
int vd__meta_error(int lmdb_rc);

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef VD__META_BIND_H
#define VD__META_BIND_H

#include "vd_meta.h"

/* The UUID that the attribute user.vdiskfs of FD names. 0; -ENODATA: none, or the file takes none;
 * -EUCLEAN: damaged, foreign, of another version, as RET_CAUSE (may be NULL) says; -errno. */
int vd__attr_get(int fd, struct vd_id *ret_uuid, const char **ret_cause) VD_WARN_UNUSED;

#endif

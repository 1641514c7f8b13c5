// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "store.h"

int vd_meta_stat(struct vd_meta_store *s, const struct vd_id *uuid, struct stat *ret_st)
{
    char rel[VD__DISK_REL], path[VD__DISK_REL + sizeof(VD__META_NAME)];
    vd__disk_rel(uuid, rel);
    snprintf(path, sizeof(path), "%s/" VD__META_NAME, rel);
    return fstatat(s->fd, path, ret_st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

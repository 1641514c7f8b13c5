// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>

#include "map_live.h"

int vd_live_map_stat(const struct vd_live_map *lm, struct stat *ret_st)
{
    char name[VD__MAP_NAME];
    struct stat next;
    int fd = vd__maps_fd(lm->maps, false);
    if (fd < 0)
        return fd;
    vd__map_log_name(&lm->id, lm->last_log + 1, name);
    if (fstatat(fd, name, &next, AT_SYMLINK_NOFOLLOW) == 0)
        return -ESTALE;
    vd__map_log_name(&lm->id, lm->last_log, name);
    return fstatat(fd, name, ret_st, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

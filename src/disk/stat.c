// SPDX-License-Identifier: Apache-2.0
/* A disk's file as its clients should see it. */
#include <fcntl.h>

#include "disk.h"

/* The live layer of the file PATH_FD, if it lies elsewhere. */
static bool live_elsewhere(struct vd_disks *ds, int path_fd, struct vd_id *ret_live)
{
    return ds->config.meta && vd_layered_get(path_fd, ret_live) == 0 && !vd_id_is_zero(ret_live) &&
           !vd_id_eq(ret_live, &vd_layered_moved);
}

/* Names that a user sees: one, or none. Those among the layers are ours. */
static nlink_t names_of(struct vd_disks *ds, const struct stat *st)
{
    struct vd_disk *d;
    bool gone = false;
    if (vd_disks_find(ds, st->st_dev, st->st_ino, &d) == 0) {
        gone = atomic_load(&d->gone);
        vd_disk_put(d);
    }
    return gone ? 0 : vd_min(st->st_nlink, (nlink_t)1);
}

void vd_disks_stat(struct vd_disks *ds, int path_fd, struct stat *st)
{
    struct vd_id live;
    struct stat l;
    if (!S_ISREG(st->st_mode) || !ds->config.meta || vd_layered_get(path_fd, &live) < 0 ||
        vd_id_eq(&live, &vd_layered_moved))
        return;
    st->st_nlink = names_of(ds, st);
    if (vd_id_is_zero(&live) || vd_layer_stat(ds->config.meta, &live, &l) < 0)
        return;
    st->st_size = l.st_size;
    st->st_blocks = l.st_blocks;
    st->st_atim = l.st_atim;
    st->st_mtim = l.st_mtim;
    if (l.st_ctim.tv_sec > st->st_ctim.tv_sec ||
        (l.st_ctim.tv_sec == st->st_ctim.tv_sec && l.st_ctim.tv_nsec > st->st_ctim.tv_nsec))
        st->st_ctim = l.st_ctim;
}

int vd_disks_utimens(struct vd_disks *ds, int path_fd, const struct timespec times[2])
{
    struct vd_id live;
    vd_cleanup_close int fd = -1;
    if (!live_elsewhere(ds, path_fd, &live))
        return 0;
    int r = vd_layer_open(ds->config.meta, &live, true, &fd);
    if (r < 0)
        return r;
    return futimens(fd, times) < 0 ? -errno : 1;
}

// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <string.h>

#include "freeze.h"
#include "vd_log.h"

bool vd__snapshot_name_is_good(const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > VD_SNAPSHOT_NAME_MAX)
        return false;
    for (const char *c = name; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f || *c == '/')
            return false;
    return true;
}

int vd__hold_loosely(struct vd_disks *ds, int path_fd, const char *path, struct hold *ret_h,
                     char why[VD_META_WHY])
{
    struct hold h = {.refs_fd = -1};
    why[0] = '\0';
    if (!ds->config.meta) {
        snprintf(why, VD_META_WHY,
                 "the source has no metadata (it is read-only and no --meta was given)");
        return -EROFS;
    }
    if (ds->config.read_only) {
        snprintf(why, VD_META_WHY, "it is mounted read-only");
        return -EROFS;
    }
    struct stat st;
    if (fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return -errno;
    if (!vd_disks_is_disk(ds, path_fd, &st)) {
        snprintf(why, VD_META_WHY, VD_DISK_IS_NONE);
        return -EINVAL;
    }
    int r = vd_disk_open(ds, path_fd, path, false, &h.d);
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "it is refused; `vdisk check` says why");
    if (r < 0)
        return r;
    if (vd_id_is_zero(&h.d->uuid)) {
        snprintf(why, VD_META_WHY, "its metadata cannot be used; the log says why");
        r = -EROFS;
    } else {
        r = vd_refs_lock(ds->config.meta, false, &h.refs_fd);
        if (r == -ETIMEDOUT)
            snprintf(why, VD_META_WHY, "another program holds .vdiskfs/refs; try again later");
    }
    if (r < 0) {
        vd_disk_release(h.d);
        return r;
    }
    *ret_h = h;
    return 0;
}

int vd__tell_snapshot(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                      char why[VD_META_WHY])
{
    struct vd_disk *d;
    struct stat st;
    why[0] = '\0';
    /* What is no disk, or refused, is said by the hold. */
    if (!ds->config.meta || !ds->config.filters || fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0 ||
        !vd_disks_is_disk(ds, path_fd, &st) || vd_disk_open(ds, path_fd, path, false, &d) < 0)
        return 0;
    int r = vd__filters_snapshot(d, name, why);
    vd_disk_release(d);
    return r;
}

static bool clients_have_it(struct vd_disk *d)
{
    pthread_mutex_lock(&d->ds->mu);
    bool open = d->opens > 1; /* one is ours */
    pthread_mutex_unlock(&d->ds->mu);
    return open;
}

int vd__hold_alone(struct hold *h, bool sole, char why[VD_META_WHY])
{
    struct vd_disk *d = h->d;
    if (!d->backing->writable) {
        snprintf(why, VD_META_WHY, "its file cannot be written");
        return -EACCES;
    }
    if (sole && clients_have_it(d)) {
        snprintf(why, VD_META_WHY, "a client has it open; close it first");
        return -EBUSY;
    }
    pthread_mutex_lock(&d->own_mu);
    int r = vd__disk_lock_alone(d, &h->before, why);
    if (r == 0 && atomic_load(&d->sync_failed)) {
        snprintf(why, VD_META_WHY, "a flush of it has failed; close it, and look at its storage");
        vd__disk_unlock_to(d, h->before);
        r = -EIO;
    }
    h->owning = r == 0;
    if (r < 0)
        pthread_mutex_unlock(&d->own_mu);
    return r;
}

int vd__hold(struct vd_disks *ds, int path_fd, const char *path, bool sole, struct hold *ret_h,
             char why[VD_META_WHY])
{
    int r = vd__hold_loosely(ds, path_fd, path, ret_h, why);
    if (r < 0)
        return r;
    r = vd__hold_alone(ret_h, sole, why);
    if (r < 0)
        vd__let_go(ret_h);
    return r;
}

void vd__let_go(struct hold *h)
{
    struct vd_disk *d = h->d;
    if (h->owning) {
        vd__disk_unlock_to(d, h->before);
        pthread_mutex_unlock(&d->own_mu);
    }
    vd_close_p(&h->refs_fd);
    vd_disk_release(d);
}

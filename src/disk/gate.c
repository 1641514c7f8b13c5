// SPDX-License-Identifier: Apache-2.0
/*
 * The one gate: every request of a client enters here, is checked, and is counted. Filters will
 * stand between this gate and what it calls (design: guest -> FUSE -> filters -> metadata -> cache
 * -> backing). The idea of one gate is nbdkit's (server/backend.c).
 */
#include "disk.h"

/* Offsets above this are the locks' (VD_OWNER_LOCK_OFF), and blocks stay far from wrapping. */
#define OFF_MAX ((uint64_t)VD_OWNER_LOCK_OFF)

static bool out_of_range(uint64_t off, uint64_t len)
{
    return off > OFF_MAX || len > OFF_MAX - off;
}

void vd_disk_read(struct vd_disk *d, uint64_t off, size_t len, vd_disk_done done, void *user)
{
    if (out_of_range(off, len))
        done(user, -EINVAL, NULL);
    else if (len == 0)
        done(user, 0, NULL);
    else
        vd__disk_read(d, off, vd_min(len, (size_t)VD_IO_MAX_BYTES), done, user);
}

void vd_disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len, vd_disk_done done,
                   void *user)
{
    if (out_of_range(off, len))
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else if (len == 0)
        done(user, 0, NULL);
    else
        vd__disk_write(d, off, data, vd_min(len, (size_t)VD_IO_MAX_BYTES), done, user);
}

void vd_disk_flush(struct vd_disk *d, bool data_only, vd_disk_done done, void *user)
{
    vd__disk_change(d, IO_FLUSH, data_only, 0, 0, done, user);
}

void vd_disk_zero(struct vd_disk *d, enum vd_zero_mode mode, uint64_t off, uint64_t len,
                  vd_disk_done done, void *user)
{
    if (out_of_range(off, len))
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else if (len == 0)
        done(user, -EINVAL, NULL);
    else
        vd__disk_change(d, IO_ZERO, mode, off, len, done, user);
}

void vd_disk_truncate(struct vd_disk *d, uint64_t size, vd_disk_done done, void *user)
{
    if (size > OFF_MAX)
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else
        vd__disk_change(d, IO_TRUNCATE, 0, size, 0, done, user);
}

void vd_disk_seek(struct vd_disk *d, uint64_t off, int whence, vd_disk_done done, void *user)
{
    if (off > OFF_MAX)
        done(user, -ENXIO, NULL);
    else
        vd__disk_change(d, IO_SEEK, whence, off, 0, done, user);
}

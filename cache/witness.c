// SPDX-License-Identifier: Apache-2.0
/*
 * Witnesses: `witness/<disk ID>`, one small record each, replaced whole. Their life is independent
 * of the slots': losing all blocks keeps them, and they are readable with no cache open.
 */
#include <fcntl.h>
#include <sys/stat.h>

#include "engine.h"
#include "vd_file.h"

static int open_dir(int dirfd)
{
    int fd = openat(dirfd, "witness", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int load(int dirfd, const struct vd_id *disk_id, struct vd_cache_witness *ret_w)
{
    vd_cleanup_close int dir = open_dir(dirfd);
    if (dir < 0)
        return dir;
    char name[VD_ID_HEX];
    vd_id_hex(disk_id, name);
    vd_cleanup_close int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    uint8_t buf[VD__WITNESS_BYTES + 1];
    ssize_t n = vd_pread_full(fd, buf, sizeof(buf), 0);
    if (n < 0)
        return (int)n;
    return vd__witness_decode(disk_id, buf, (size_t)n, ret_w);
}

int vd__witness_load(struct vd_cache *c, const struct vd_id *disk_id,
                     struct vd_cache_witness *ret_w)
{
    return load(vd__engine(c)->dirfd, disk_id, ret_w);
}

int vd__witness_store(struct vd_cache *c, const struct vd_id *disk_id,
                      const struct vd_cache_witness *w)
{
    vd_cleanup_close int dir = open_dir(vd__engine(c)->dirfd);
    if (dir < 0)
        return dir;
    char name[VD_ID_HEX];
    uint8_t buf[VD__WITNESS_BYTES];
    vd_id_hex(disk_id, name);
    vd__witness_encode(disk_id, w, buf);
    return vd_file_replace(dir, name, buf, sizeof(buf), 0600);
}

int vd_cache_scan_witness(const char *dir, const struct vd_id *disk_id,
                          struct vd_cache_witness *ret_w)
{
    vd_cleanup_close int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return load(fd, disk_id, ret_w);
}

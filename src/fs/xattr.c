// SPDX-License-Identifier: Apache-2.0
/*
 * Extended attributes pass, but for those that say which disk a file is, whether it has layers,
 * and required filters: they are ours. A file copied with them would otherwise carry them back in through the
 * mount.
 */
#include "fs.h"

#include <limits.h>
#include <sys/xattr.h>

#include "vd_meta_filter.h"
#include "vd_view.h"

static bool ours(const char *name)
{
    return strcmp(name, VD_META_XATTR) == 0 || strcmp(name, VD_META_XATTR_LAYERED) == 0 ||
           strcmp(name, VD_META_XATTR_FILTERED) == 0;
}

void vd__op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct vd_node *node = vd__node(vd__fs(req), ino);
    vd_cleanup_free char *value = size ? malloc(size) : NULL;
    char proc[VD_PROC_PATH];

    if (!node || ours(name) || (size && !value)) {
        vd__reply(req, !node ? -ESTALE : ours(name) ? -ENODATA : -ENOMEM);
        return;
    }
    vd__proc_path(node->fd, proc);
    ssize_t n = getxattr(proc, name, value, size);
    if (n < 0)
        vd__reply(req, -errno);
    else if (size)
        fuse_reply_buf(req, value, (size_t)n);
    else
        fuse_reply_xattr(req, (size_t)n);
}

/* The names without ours; the length that is left. */
static size_t filter(char *names, size_t len)
{
    size_t kept = 0;
    for (size_t at = 0; at < len;) {
        size_t n = strlen(names + at) + 1;
        if (!ours(names + at)) {
            memmove(names + kept, names + at, n);
            kept += n;
        }
        at += n;
    }
    return kept;
}

void vd__op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct vd_node *node = vd__node(vd__fs(req), ino);
    vd_cleanup_free char *names = malloc(XATTR_LIST_MAX);
    char proc[VD_PROC_PATH];

    if (!node || !names) {
        vd__reply(req, node ? -ENOMEM : -ESTALE);
        return;
    }
    vd__proc_path(node->fd, proc);
    ssize_t n = listxattr(proc, names, XATTR_LIST_MAX);
    if (n < 0) {
        vd__reply(req, -errno);
        return;
    }
    size_t len = filter(names, (size_t)n);
    if (size == 0)
        fuse_reply_xattr(req, len);
    else if (len > size)
        vd__reply(req, -ERANGE);
    else
        fuse_reply_buf(req, names, len);
}

void vd__op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                     size_t size, int flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    char proc[VD_PROC_PATH];

    if (!node || ours(name)) {
        vd__reply(req, node ? -EPERM : -ESTALE);
        return;
    }
    vd__proc_path(node->fd, proc);
    struct vd_disk *disk = vd__touch_begin(fs, node->fd);
    int r = setxattr(proc, name, value, size, flags) < 0 ? -errno : 0;
    vd__touch_end(disk);
    vd__reply(req, r);
}

void vd__op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    char proc[VD_PROC_PATH];

    if (!node || ours(name)) {
        vd__reply(req, node ? -ENODATA : -ESTALE);
        return;
    }
    vd__proc_path(node->fd, proc);
    struct vd_disk *disk = vd__touch_begin(fs, node->fd);
    int r = removexattr(proc, name) < 0 ? -errno : 0;
    vd__touch_end(disk);
    vd__reply(req, r);
}

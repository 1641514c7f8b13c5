// SPDX-License-Identifier: Apache-2.0
/*
 * Attributes. They are the source's own, asked for anew each time: the kernel may keep those of a
 * regular file only while this mount owns the disk, since only then can nobody else change it. Size
 * and times of a disk with layers are the disk's.
 *
 * A change of size goes through the disk, which answers later: SETATTR is then finished by its
 * callback.
 */
#include "fs.h"

#include <sys/statvfs.h>
#include <sys/xattr.h>

#include "vd_meta.h"

double vd__attr_timeout(struct vd_node *node)
{
    if (node->type != S_IFREG)
        return VD_ATTR_TIMEOUT_S;
    pthread_mutex_lock(&node->mu);
    bool stable = node->disk && vd_disk_attr_stable(node->disk);
    pthread_mutex_unlock(&node->mu);
    return stable ? VD_ATTR_TIMEOUT_S : 0;
}

void vd__client_stat(struct vd_fs *fs, int path_fd, struct stat *st)
{
    if (S_ISREG(st->st_mode))
        vd_disks_stat(fs->cfg.disks, path_fd, st);
}

static void reply_attr(fuse_req_t req, struct vd_node *node)
{
    struct stat st;
    int r = vd__node_stat(node, &st);
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    vd__client_stat(vd__fs(req), node->fd, &st);
    fuse_reply_attr(req, &st, vd__attr_timeout(node));
}

void vd__op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_node *node = vd__node(vd__fs(req), ino);
    if (node)
        reply_attr(req, node);
    else
        vd__reply(req, -ESTALE);
}

void vd__op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct vd_node *node = vd__node(vd__fs(req), ino);
    struct statvfs st;

    if (!node)
        vd__reply(req, -ESTALE);
    else if (fstatvfs(node->fd, &st) < 0)
        vd__reply(req, -errno);
    else
        fuse_reply_statfs(req, &st);
}

/* ---- keeping a disk's record current ---- */

struct vd_disk *vd__touch_begin(struct vd_fs *fs, int path_fd)
{
    char proc[VD_PROC_PATH], path[VD_PATH_MAX];
    struct vd_disk *disk;
    struct stat st;

    vd__proc_path(path_fd, proc);
    if (fs->cfg.read_only || fstatat(path_fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ||
        !S_ISREG(st.st_mode) || getxattr(proc, VD_META_XATTR, NULL, 0) < 0 ||
        !vd_disks_is_disk(fs->cfg.disks, path_fd, &st))
        return NULL;
    vd__path_hint(fs, path_fd, path);
    /* One that cannot be attached stays as it is: what is done to its file is noticed later. */
    return vd_disk_open(fs->cfg.disks, path_fd, path, false, &disk) < 0 ? NULL : disk;
}

void vd__touch_end(struct vd_disk *disk)
{
    if (!disk)
        return;
    vd_disk_touched(disk);
    vd_disk_release(disk);
}

void vd__clear_set_id(fuse_req_t req, struct vd_node *node)
{
    char proc[VD_PROC_PATH];
    struct stat st;

    if (fuse_req_ctx(req)->uid == 0 || vd__node_stat(node, &st) < 0)
        return;
    mode_t mode = st.st_mode & 07777 & ~(mode_t)S_ISUID;
    if (mode & S_IXGRP)
        mode &= ~(mode_t)S_ISGID;
    vd__proc_path(node->fd, proc);
    if (chmod(proc, mode) == 0)
        atomic_store(&node->set_id, false);
}

/* ---- setattr ---- */

struct setattr {
    fuse_req_t req;
    struct vd_fs *fs;
    struct vd_node *node; /* the kernel's reference: it waits for our answer */
    struct vd_disk *disk; /* a reference of ours, NULL: the handle's is used */
    struct stat attr;
    int to_set;
};

static int set_mode(struct vd_node *node, mode_t mode)
{
    char proc[VD_PROC_PATH];
    vd__proc_path(node->fd, proc);
    if (chmod(proc, mode & 07777) < 0)
        return -errno;
    if (node->type == S_IFREG)
        atomic_store(&node->set_id, mode & (S_ISUID | S_ISGID));
    return 0;
}

static int set_owner(struct vd_node *node, const struct stat *attr, int to_set)
{
    uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
    gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;
    return fchownat(node->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int set_times(struct vd_fs *fs, struct vd_node *node, const struct stat *attr, int to_set)
{
    struct timespec tv[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
    char proc[VD_PROC_PATH];

    if (to_set & FUSE_SET_ATTR_ATIME_NOW)
        tv[0].tv_nsec = UTIME_NOW;
    else if (to_set & FUSE_SET_ATTR_ATIME)
        tv[0] = attr->st_atim;
    if (to_set & FUSE_SET_ATTR_MTIME_NOW)
        tv[1].tv_nsec = UTIME_NOW;
    else if (to_set & FUSE_SET_ATTR_MTIME)
        tv[1] = attr->st_mtim;
    if (node->type == S_IFREG) {
        int r = vd_disks_utimens(fs->cfg.disks, node->fd, tv);
        if (r != 0)
            return r < 0 ? r : 0;
    }
    /* AT_EMPTY_PATH reaches symbolic links too; kernels before 5.8 do not know it here. */
    if (utimensat(node->fd, "", tv, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != EINVAL)
        return -errno;
    vd__proc_path(node->fd, proc);
    return utimensat(AT_FDCWD, proc, tv, 0) < 0 ? -errno : 0;
}

#define SET_TIMES                                                                                  \
    (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW | FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)

static int set_names(struct vd_node *node, const struct stat *attr, int to_set)
{
    int r = 0;
    /* The owner first: a change of owner clears set-id bits that MODE may want. */
    if (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))
        r = set_owner(node, attr, to_set);
    if (r == 0 && to_set & FUSE_SET_ATTR_MODE)
        r = set_mode(node, attr->st_mode);
    return r;
}

static int set_all_but_size(struct vd_fs *fs, struct vd_node *node, const struct stat *attr,
                            int to_set)
{
    struct vd_disk *disk = node->type == S_IFREG ? vd__touch_begin(fs, node->fd) : NULL;
    int r = set_names(node, attr, to_set);
    if (r == 0 && to_set & SET_TIMES)
        r = set_times(fs, node, attr, to_set);
    vd__touch_end(disk);
    return r;
}

static void truncated(void *user, ssize_t result, const void *data)
{
    struct setattr *s = user;
    struct vd_fs *fs = s->fs;
    int r = result < 0 ? (int)result : 0;

    if (r == 0 && s->to_set & SET_TIMES)
        r = set_times(fs, s->node, &s->attr, s->to_set);
    if (s->disk) {
        vd_disk_touched(s->disk);
        vd_disk_release(s->disk);
    }
    if (r < 0)
        vd__reply(s->req, r);
    else
        reply_attr(s->req, s->node);
    free(s);
    vd__inflight_end(fs);
}

/* Truncates the disk NODE, through its handle's reference or one of its own; answers. */
static int truncate_disk(fuse_req_t req, struct vd_node *node, struct vd_handle *h,
                         const struct stat *attr, int to_set)
{
    struct vd_fs *fs = vd__fs(req);
    vd_cleanup_free struct setattr *s = calloc(1, sizeof(*s));
    char path[VD_PATH_MAX];

    if (!s)
        return -ENOMEM;
    *s = (struct setattr){.req = req, .fs = fs, .node = node, .attr = *attr, .to_set = to_set};
    vd__path_hint(fs, node->fd, path);
    int r = vd_disk_open(fs->cfg.disks, node->fd, path, true, &s->disk);
    if (r < 0)
        return r;
    r = set_names(node, attr, to_set);
    if (r < 0) {
        vd_disk_release(s->disk);
        return r;
    }
    vd__inflight_begin(fs);
    struct vd_disk *disk = h && h->disk ? h->disk : s->disk;
    vd_disk_truncate(disk, (uint64_t)attr->st_size, truncated, vd_steal_ptr(s));
    return 0;
}

static int truncate_file(struct vd_node *node, struct vd_handle *h, off_t size)
{
    char proc[VD_PROC_PATH];

    if (h && h->writable && h->fd >= 0)
        return ftruncate(h->fd, size) < 0 ? -errno : 0;
    vd__proc_path(node->fd, proc);
    return truncate(proc, size) < 0 ? -errno : 0;
}

void vd__op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                    struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    struct vd_handle *h = vd__handle(fs, fi);
    int r = node ? 0 : -ESTALE;

    if (r == 0 && to_set & FUSE_SET_ATTR_SIZE) {
        if (node->type != S_IFREG) {
            r = -EINVAL;
        } else if (vd__node_is_stale(fs, node)) {
            r = -ESTALE;
        } else if (vd__node_is_disk(fs, node)) {
            r = truncate_disk(req, node, h, attr, to_set);
            if (r == 0)
                return;
        } else {
            r = truncate_file(node, h, attr->st_size);
        }
    }
    if (r == 0)
        r = set_all_but_size(fs, node, attr, to_set);
    if (r < 0)
        vd__reply(req, r);
    else
        reply_attr(req, node);
}

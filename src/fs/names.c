// SPDX-License-Identifier: Apache-2.0
/*
 * Making names. What is made belongs to the caller, as if it had made it in
 * the source itself: we make it closed to all others, give it away, and only then open its mode.
 */
#include "fs.h"

#include <limits.h>

#include "vd_view.h"

int vd__give_to_caller(struct vd_fs *fs, fuse_req_t req, const struct vd_node *parent, int path_fd,
                       mode_t mode)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    char proc[VD_PROC_PATH];
    struct stat dir, st;

    if (vd__node_stat(parent, &dir) < 0 ||
        fstatat(path_fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    bool set_gid = dir.st_mode & S_ISGID; /* the folder gives the group, and the bit to folders */
    if (fs->may_chown && fchownat(path_fd, "", ctx->uid, set_gid ? (gid_t)-1 : ctx->gid,
                                  AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (S_ISLNK(st.st_mode))
        return 0;
    if (S_ISDIR(st.st_mode) && set_gid)
        mode |= S_ISGID;
    vd__proc_path(path_fd, proc);
    return chmod(proc, mode & 07777) < 0 ? -errno : 0;
}

/* Answers for NAME, which was just made in DIR; removes it again where that fails. */
static void reply_new(fuse_req_t req, struct vd_node *dir, const char *name, mode_t mode,
                      int unlink_flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct fuse_entry_param e;
    struct vd_node *node;
    struct stat st;

    int fd = vd__open_path(dir, name);
    int r = fd < 0 ? fd : vd__give_to_caller(fs, req, dir, fd, mode);
    if (r == 0)
        r = vd__node_of(fs, vd_steal_fd(&fd), &node, &st);
    if (fd >= 0)
        close(fd);
    if (r < 0) {
        unlinkat(dir->fd, name, unlink_flags);
        vd__reply(req, r);
        return;
    }
    vd__fill_entry(fs, node, &st, &e);
    vd__reply_entry(fs, req, &e);
}

/* The folder INO if NAME may be made in it. */
static int dir_for_new(fuse_req_t req, fuse_ino_t ino, const char *name, struct vd_node **ret_dir)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *dir = vd__node(fs, ino);
    if (!dir)
        return -ESTALE;
    if (vd__hidden(fs, dir, name))
        return -EPERM;
    *ret_dir = dir;
    return 0;
}

void vd__op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct vd_node *dir;
    int r = dir_for_new(req, parent, name, &dir);
    if (r == 0 && mknodat(dir->fd, name, (mode & S_IFMT) | 0600, rdev) < 0)
        r = -errno;
    if (r < 0)
        vd__reply(req, r);
    else
        reply_new(req, dir, name, mode, 0);
}

void vd__op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    struct vd_node *dir;
    int r = dir_for_new(req, parent, name, &dir);
    if (r == 0 && mkdirat(dir->fd, name, 0700) < 0)
        r = -errno;
    if (r < 0)
        vd__reply(req, r);
    else
        reply_new(req, dir, name, mode, AT_REMOVEDIR);
}

void vd__op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct vd_node *dir;
    int r = dir_for_new(req, parent, name, &dir);
    if (r == 0 && symlinkat(target, dir->fd, name) < 0)
        r = -errno;
    if (r < 0)
        vd__reply(req, r);
    else
        reply_new(req, dir, name, 0777, 0);
}

void vd__op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct vd_node *node = vd__node(vd__fs(req), ino);
    char target[PATH_MAX + 1];

    ssize_t n = node ? readlinkat(node->fd, "", target, sizeof(target) - 1) : -1;
    if (n < 0) {
        vd__reply(req, node ? -errno : -ESTALE);
        return;
    }
    target[n] = '\0';
    fuse_reply_readlink(req, target);
}

static int link_node(struct vd_node *node, struct vd_node *dir, const char *name)
{
    char proc[VD_PROC_PATH];

    if (linkat(node->fd, "", dir->fd, name, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOENT && errno != EPERM)
        return -errno;
    vd__proc_path(node->fd, proc); /* for those without CAP_DAC_READ_SEARCH */
    return linkat(AT_FDCWD, proc, dir->fd, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

bool vd__has_layers(int path_fd)
{
    struct vd_id live;
    int r = vd_layered_get(path_fd, &live);
    return r == 0 || r == -EUCLEAN; /* the latter: a mark that cannot be read is one all the same */
}

void vd__op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    struct fuse_entry_param e;
    char path[VD_PATH_MAX];
    struct vd_node *dir;
    struct stat st;

    int r = node ? dir_for_new(req, parent, name, &dir) : -ESTALE;
    if (r == 0 && node->type == S_IFREG && vd__has_layers(node->fd)) {
        vd__path_hint(fs, node->fd, path);
        vd_log_warning("%s: gets no second name: a disk with snapshots or a parent has one only",
                       path);
        r = -EMLINK;
    }
    if (r == 0) {
        struct vd_disk *disk = vd__touch_begin(fs, node->fd);
        r = link_node(node, dir, name);
        vd__touch_end(disk);
    }
    if (r == 0)
        r = vd__node_stat(node, &st);
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    vd__fill_entry(fs, vd__node_ref(fs, node), &st, &e);
    vd__reply_entry(fs, req, &e);
}

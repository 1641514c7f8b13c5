// SPDX-License-Identifier: Apache-2.0
/*
 * Making, renaming and removing names. What is made belongs to the caller, as if it had made it in
 * the source itself: we make it closed to all others, give it away, and only then open its mode.
 */
#include "fs.h"

#include <limits.h>
#include <linux/fs.h>
#include <sys/syscall.h>

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

void vd__op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    struct fuse_entry_param e;
    struct vd_node *dir;
    struct stat st;

    int r = node ? dir_for_new(req, parent, name, &dir) : -ESTALE;
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

/* ---- removing ---- */

/* The file behind FD lost a name: was it the last one of a regular file? */
static void lost_name(struct vd_fs *fs, int fd)
{
    struct stat st;
    if (fd >= 0 && fstatat(fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISREG(st.st_mode) && st.st_nlink == 0)
        vd_disks_gone(fs->cfg.disks, fd);
}

/* Has FD's file other names, through which its changed attributes will be seen? */
static bool has_other_names(int fd)
{
    struct stat st;
    return fd >= 0 && fstatat(fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) == 0 &&
           st.st_nlink > 1;
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, int flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *dir = vd__node(fs, parent);

    if (!dir || vd__hidden(fs, dir, name)) {
        vd__reply(req, dir ? -ENOENT : -ESTALE);
        return;
    }
    vd_cleanup_close int fd = vd__open_path(dir, name);
    struct vd_disk *disk = has_other_names(fd) ? vd__touch_begin(fs, fd) : NULL;
    int r = unlinkat(dir->fd, name, flags) < 0 ? -errno : 0;
    if (r == 0)
        lost_name(fs, fd);
    vd__touch_end(disk);
    vd__reply(req, r);
}

void vd__op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, 0);
}

void vd__op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, AT_REMOVEDIR);
}

static int rename_names(struct vd_fs *fs, struct vd_node *from, const char *name,
                        struct vd_node *to, const char *new_name, unsigned flags)
{
    vd_cleanup_close int old_fd = vd__open_path(from, name);
    vd_cleanup_close int new_fd = vd__open_path(to, new_name); /* none, or it may be replaced */

    if (old_fd < 0)
        return old_fd;
    struct vd_disk *moved = vd__touch_begin(fs, old_fd);
    bool stays = new_fd >= 0 && (flags & RENAME_EXCHANGE || has_other_names(new_fd));
    struct vd_disk *other = stays ? vd__touch_begin(fs, new_fd) : NULL;
    int r = 0;
    if (syscall(SYS_renameat2, from->fd, name, to->fd, new_name, flags) < 0)
        r = -errno;
    if (r == 0)
        lost_name(fs, new_fd);
    vd__touch_end(other);
    vd__touch_end(moved);
    return r;
}

void vd__op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                   const char *new_name, unsigned flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *from = vd__node(fs, parent), *to = vd__node(fs, new_parent);
    int r;

    if (!from || !to)
        r = -ESTALE;
    else if (vd__hidden(fs, from, name))
        r = -ENOENT;
    else if (vd__hidden(fs, to, new_name))
        r = -EPERM;
    else if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        r = -EINVAL;
    else
        r = rename_names(fs, from, name, to, new_name, flags);
    vd__reply(req, r);
}

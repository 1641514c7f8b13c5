// SPDX-License-Identifier: Apache-2.0
/* Folders: the source's own stream of entries, without our private one. */
#include "fs.h"

void vd__op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);
    struct vd_handle *h;

    int r = node ? vd__handle_new(fs, node, &h) : -ESTALE;
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    int fd = openat(node->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    h->dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!h->dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        vd__handle_free(fs, h);
        vd__reply(req, r);
        return;
    }
    fi->fh = h->id;
    if (fuse_reply_open(req, fi) < 0)
        vd__handle_free(fs, h);
}

void vd__op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);
    if (h)
        vd__handle_free(fs, h);
    vd__reply(req, 0);
}

void vd__op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct vd_handle *h = vd__handle(vd__fs(req), fi);
    if (!h || !h->dir)
        vd__reply(req, -EBADF);
    else
        vd__reply(req, fsync(dirfd(h->dir)) < 0 ? -errno : 0);
}

struct listing {
    fuse_req_t req;
    struct vd_fs *fs;
    struct vd_handle *h;
    char *buf;
    size_t size, used;
    bool plus;
};

/* Adds the entry D; false where it does not fit any more. */
static bool add_entry(struct listing *l, const struct dirent *d)
{
    struct fuse_entry_param e = {
        .attr = {.st_ino = d->d_ino, .st_mode = (mode_t)DTTOIF(d->d_type)}};
    bool dots = strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0;
    char *at = l->buf + l->used;
    size_t room = l->size - l->used, need;

    if (l->plus) {
        struct fuse_entry_param found;
        /* A name that went away meanwhile is told without its node; the kernel asks again. */
        if (!dots && vd__node_lookup(l->fs, l->h->node, d->d_name, &found) == 0)
            e = found;
        need = fuse_add_direntry_plus(l->req, at, room, d->d_name, &e, d->d_off);
        if (need > room && e.ino)
            vd__node_unref(l->fs, vd__node(l->fs, e.ino), 1);
    } else {
        need = fuse_add_direntry(l->req, at, room, d->d_name, &e.attr, d->d_off);
    }
    if (need > room)
        return false;
    l->used += need;
    return true;
}

/* Fills the buffer from OFF on. lock: dir_mu */
static int list(struct listing *l, off_t off)
{
    struct vd_handle *h = l->h;

    if (off != h->dir_off) {
        seekdir(h->dir, off);
        h->ent = NULL;
        h->dir_off = off;
    }
    for (;;) {
        errno = 0;
        if (!h->ent)
            h->ent = readdir(h->dir);
        if (!h->ent)
            return errno && l->used == 0 ? -errno : 0;
        if (!vd__hidden(l->fs, h->node, h->ent->d_name) && !add_entry(l, h->ent))
            return 0;
        h->dir_off = h->ent->d_off;
        h->ent = NULL;
    }
}

static void read_dir(fuse_req_t req, size_t size, off_t off, struct fuse_file_info *fi, bool plus)
{
    struct vd_fs *fs = vd__fs(req);
    struct listing l = {.req = req, .fs = fs, .h = vd__handle(fs, fi), .size = size, .plus = plus};
    vd_cleanup_free char *buf = l.buf = malloc(size);

    if (!l.h || !l.h->dir || !buf) {
        vd__reply(req, buf ? -EBADF : -ENOMEM);
        return;
    }
    pthread_mutex_lock(&l.h->dir_mu);
    int r = list(&l, off);
    pthread_mutex_unlock(&l.h->dir_mu);
    if (r < 0)
        vd__reply(req, r);
    else
        fuse_reply_buf(req, buf, l.used);
}

void vd__op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    read_dir(req, size, off, fi, false);
}

void vd__op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                        struct fuse_file_info *fi)
{
    read_dir(req, size, off, fi, true);
}

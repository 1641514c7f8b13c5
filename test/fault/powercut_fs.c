// SPDX-License-Identifier: Apache-2.0
/*
 * The operations of FUSE on a world, each of which is noted in the history. Everything that a
 * process can do to files passes here in one order, whoever does it and by whatever call: libc's
 * own writes, LMDB's, those of children.
 *
 * A sync notes first what it covers, then takes its time, then is noted as done and answered: what
 * is written meanwhile is not covered. Stamps are those of CLOCK_REALTIME_COARSE, as file systems
 * take them. Nothing is cached by name or attribute, and what the page cache holds is never
 * doubted: nobody changes files but through here.
 *
 * One lock, s->mu, around each operation.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "powercut.h"
#include "powercut_fs.h"

#define NAME_BYTES_MAX 255

static struct served *get(fuse_req_t req)
{
    struct served *s = fuse_req_userdata(req);
    pthread_mutex_lock(&s->mu);
    return s;
}

static int64_t stamp(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Does E, and notes it. */
static void happen(struct served *s, struct event e)
{
    e.time_ns = stamp();
    world_apply(s->w, s->h ? history_append(s->h, &e) : &e);
}

static struct stat stat_of(const struct node *n)
{
    struct stat st = {.st_ino = n->ino,
                      .st_mode = n->mode,
                      .st_nlink = n->nlink,
                      .st_uid = n->uid,
                      .st_gid = n->gid,
                      .st_rdev = n->rdev,
                      .st_size = (off_t)n->size,
                      .st_blksize = PAGE_BYTES};
    uint64_t pages = 0;
    for (uint64_t i = 0; i < n->npages; i++)
        pages += n->pages[i] != NULL;
    st.st_blocks = (blkcnt_t)(pages * (PAGE_BYTES / 512));
    st.st_mtim = st.st_atim = (struct timespec){n->mtime_ns / 1000000000, n->mtime_ns % 1000000000};
    st.st_ctim = (struct timespec){n->ctime_ns / 1000000000, n->ctime_ns % 1000000000};
    return st;
}

static struct fuse_entry_param entry_of(const struct node *n)
{
    return (struct fuse_entry_param){.ino = n->ino, .generation = 1, .attr = stat_of(n)};
}

/* Lets the lock go and answers: the inode, or the error. */
static void put_entry(struct served *s, fuse_req_t req, const struct node *n, int error)
{
    struct fuse_entry_param e = error ? (struct fuse_entry_param){0} : entry_of(n);
    pthread_mutex_unlock(&s->mu);
    if (error)
        fuse_reply_err(req, error);
    else
        fuse_reply_entry(req, &e);
}

static void put_error(struct served *s, fuse_req_t req, int error)
{
    pthread_mutex_unlock(&s->mu);
    fuse_reply_err(req, error);
}

static void op_init(void *user, struct fuse_conn_info *conn)
{
    conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_WRITEBACK_CACHE |
                              FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    conn->max_background = 256;
}

/* ---- names ---- */

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct served *s = get(req);
    const struct node *n = world_find(s->w, world_node(s->w, parent), name);
    put_entry(s, req, n, n ? 0 : ENOENT);
}

/* Makes what E says, with a new number. 0 or the error. */
static int make(struct served *s, fuse_req_t req, struct event e, struct node **ret_n)
{
    const struct fuse_ctx *ctx = fuse_req_ctx(req);
    if (strlen(e.name) > NAME_BYTES_MAX)
        return ENAMETOOLONG;
    if (world_find(s->w, world_node(s->w, e.dir), e.name))
        return EEXIST;
    if (world_node(s->w, e.dir)->nlink == 0)
        return ENOENT;
    e.type = EV_CREATE;
    e.ino = s->w->nnodes;
    e.uid = ctx->uid;
    e.gid = ctx->gid;
    happen(s, e);
    *ret_n = world_node(s->w, e.ino);
    return 0;
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
    struct served *s = get(req);
    struct node *n = NULL;
    int r =
        make(s, req, (struct event){.dir = parent, .name = name, .mode = mode, .off = rdev}, &n);
    put_entry(s, req, n, r);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
    op_mknod(req, parent, name, (mode & 07777) | S_IFDIR, 0);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
    struct served *s = get(req);
    struct node *n = NULL;
    struct event e = {.dir = parent,
                      .name = name,
                      .mode = S_IFLNK | 0777,
                      .data = (const uint8_t *)target,
                      .data_len = (uint32_t)strlen(target)};
    int r = make(s, req, e, &n);
    put_entry(s, req, n, r);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
    struct served *s = get(req);
    char *target = strdup(world_node(s->w, ino)->target);
    pthread_mutex_unlock(&s->mu);
    fuse_reply_readlink(req, target);
    free(target);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
    struct served *s = get(req);
    struct node *n = world_node(s->w, ino);
    int r = world_find(s->w, world_node(s->w, parent), name) ? EEXIST : n->nlink == 0 ? ENOENT : 0;
    if (r == 0)
        happen(s, (struct event){.type = EV_LINK, .ino = ino, .dir = parent, .name = name});
    put_entry(s, req, n, r);
}

static int may_remove(const struct node *n, bool folder)
{
    if (!n)
        return ENOENT;
    if (S_ISDIR(n->mode) != folder)
        return folder ? ENOTDIR : EISDIR;
    return n->nentries ? ENOTEMPTY : 0;
}

static void remove_name(fuse_req_t req, fuse_ino_t parent, const char *name, bool folder)
{
    struct served *s = get(req);
    const struct node *n = world_find(s->w, world_node(s->w, parent), name);
    int r = may_remove(n, folder);
    if (r == 0)
        happen(s, (struct event){.type = EV_UNLINK, .ino = n->ino, .dir = parent, .name = name});
    put_error(s, req, r);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, false);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    remove_name(req, parent, name, true);
}

static int may_rename(const struct node *n, const struct node *target, unsigned flags)
{
    if (!n || (!target && flags & RENAME_EXCHANGE))
        return ENOENT;
    if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
        return EINVAL;
    if (target && flags & RENAME_NOREPLACE)
        return EEXIST;
    return target && !(flags & RENAME_EXCHANGE) ? may_remove(target, S_ISDIR(n->mode)) : 0;
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                      const char *new_name, unsigned flags)
{
    struct served *s = get(req);
    const struct node *n = world_find(s->w, world_node(s->w, parent), name);
    const struct node *target = world_find(s->w, world_node(s->w, new_parent), new_name);
    int r = strlen(new_name) > NAME_BYTES_MAX ? ENAMETOOLONG : may_rename(n, target, flags);
    if (r == 0 && n != target) /* two names of one inode: nothing is done */
        happen(s, (struct event){.type = EV_RENAME,
                                 .flags = flags,
                                 .ino = n->ino,
                                 .dir = parent,
                                 .name = name,
                                 .dir2 = new_parent,
                                 .name2 = new_name});
    put_error(s, req, r);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                       struct fuse_file_info *fi)
{
    struct served *s = get(req);
    const struct node *dir = world_node(s->w, ino);
    char *buf = malloc(size);
    size_t len = 0;
    for (uint32_t i = 0; buf && i < dir->nentries; i++) {
        const struct entry *e = &dir->entries[i];
        if (e->cookie <= (uint64_t)off)
            continue;
        struct stat st = {.st_ino = e->ino, .st_mode = world_node(s->w, e->ino)->mode};
        size_t n = fuse_add_direntry(req, buf + len, size - len, e->name, &st, (off_t)e->cookie);
        if (n > size - len)
            break;
        len += n;
    }
    pthread_mutex_unlock(&s->mu);
    fuse_reply_buf(req, buf, len);
    free(buf);
}

/* ---- attributes ---- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct served *s = get(req);
    struct stat st = stat_of(world_node(s->w, ino));
    pthread_mutex_unlock(&s->mu);
    fuse_reply_attr(req, &st, 0);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int set,
                       struct fuse_file_info *fi)
{
    struct served *s = get(req);
    struct event e = {.type = EV_ATTR, .ino = ino};
    e.flags = (set & FUSE_SET_ATTR_MODE ? ATTR_MODE : 0) |
              (set & FUSE_SET_ATTR_UID ? ATTR_UID : 0) | (set & FUSE_SET_ATTR_GID ? ATTR_GID : 0) |
              (set & (FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW) ? ATTR_MTIME : 0);
    e.mode = st->st_mode;
    e.uid = st->st_uid;
    e.gid = st->st_gid;
    e.mtime_ns = set & FUSE_SET_ATTR_MTIME_NOW
                     ? stamp()
                     : st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec;
    if (set & FUSE_SET_ATTR_SIZE)
        happen(s, (struct event){.type = EV_TRUNCATE, .ino = ino, .off = (uint64_t)st->st_size});
    if (e.flags)
        happen(s, e);
    struct stat now = stat_of(world_node(s->w, ino));
    pthread_mutex_unlock(&s->mu);
    fuse_reply_attr(req, &now, 0);
}

static void op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                        size_t size, int flags)
{
    struct served *s = get(req);
    const struct xattr *x = node_xattr(world_node(s->w, ino), name);
    int r = x && flags & XATTR_CREATE ? EEXIST : !x && flags & XATTR_REPLACE ? ENODATA : 0;
    struct event e = {.type = EV_SETXATTR,
                      .ino = ino,
                      .name = name,
                      .data = (const uint8_t *)value,
                      .data_len = (uint32_t)size};
    if (ino == ROOT_INO && strcmp(name, SETTLE_XATTR) == 0)
        e = (struct event){.type = EV_SETTLE};
    if (r == 0)
        happen(s, e);
    put_error(s, req, r);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
    struct served *s = get(req);
    int r = node_xattr(world_node(s->w, ino), name) ? 0 : ENODATA;
    if (r == 0)
        happen(s, (struct event){.type = EV_REMOVEXATTR, .ino = ino, .name = name});
    put_error(s, req, r);
}

/* Answers with VALUE, or with its length where SIZE is 0. */
static void reply_value(fuse_req_t req, const char *value, size_t len, size_t size)
{
    if (size == 0)
        fuse_reply_xattr(req, len);
    else if (len > size)
        fuse_reply_err(req, ERANGE);
    else
        fuse_reply_buf(req, value, len);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
    struct served *s = get(req);
    const struct xattr *x = node_xattr(world_node(s->w, ino), name);
    if (x)
        reply_value(req, (const char *)x->value, x->len, size);
    else
        fuse_reply_err(req, ENODATA);
    pthread_mutex_unlock(&s->mu);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
    struct served *s = get(req);
    const struct node *n = world_node(s->w, ino);
    char list[65536];
    size_t len = 0;
    for (uint32_t i = 0; i < n->nxattrs; i++) {
        size_t part = strlen(n->xattrs[i].name) + 1;
        if (len + part > sizeof(list))
            break;
        memcpy(list + len, n->xattrs[i].name, part);
        len += part;
    }
    pthread_mutex_unlock(&s->mu);
    reply_value(req, list, len, size);
}

/* ---- bytes ---- */

static void truncate_now(struct served *s, uint64_t ino)
{
    happen(s, (struct event){.type = EV_TRUNCATE, .ino = ino});
}

/* What fi->fh holds: is each write through it a sync of its own? */
static uint64_t is_dsync(int flags)
{
    return (flags & (O_DSYNC | O_SYNC)) != 0;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct served *s = get(req);
    fi->keep_cache = !(fi->flags & O_TRUNC);
    fi->fh = is_dsync(fi->flags);
    if (fi->flags & O_TRUNC)
        truncate_now(s, ino);
    pthread_mutex_unlock(&s->mu);
    fuse_reply_open(req, fi);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                      struct fuse_file_info *fi)
{
    struct served *s = get(req);
    struct node *n = NULL;
    int r = make(s, req, (struct event){.dir = parent, .name = name, .mode = mode | S_IFREG}, &n);
    struct fuse_entry_param e = r ? (struct fuse_entry_param){0} : entry_of(n);
    pthread_mutex_unlock(&s->mu);
    fi->keep_cache = 1;
    fi->fh = is_dsync(fi->flags);
    if (r)
        fuse_reply_err(req, r);
    else
        fuse_reply_create(req, &e, fi);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi)
{
    uint8_t *buf = malloc(size);
    if (!buf) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    struct served *s = get(req);
    const struct node *n = world_node(s->w, ino);
    size_t len = (uint64_t)off < n->size ? vd_min((uint64_t)size, n->size - (uint64_t)off) : 0;
    node_read(n, (uint64_t)off, buf, len);
    pthread_mutex_unlock(&s->mu);
    fuse_reply_buf(req, (const char *)buf, len);
    free(buf);
}

/* The flags are those of this write, which are not those of the file where pwritev2 adds some. */
static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                     struct fuse_file_info *fi)
{
    struct served *s = get(req);
    struct event e = {.type = EV_WRITE,
                      .flags = !fi->writepage && is_dsync(fi->flags),
                      .ino = ino,
                      .off = (uint64_t)off,
                      .data = (const uint8_t *)buf,
                      .data_len = (uint32_t)size};
    const struct node *n = world_node(s->w, ino);
    if (fi->flags & O_APPEND && !fi->writepage)
        e.off = n->size;
    if (fi->writepage) /* a page of a mapping: what it holds past the end is nobody's */
        e.data_len = (uint32_t)(e.off < n->size ? vd_min((uint64_t)size, n->size - e.off) : 0);
    if (e.data_len)
        happen(s, e);
    pthread_mutex_unlock(&s->mu);
    fuse_reply_write(req, size);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                         struct fuse_file_info *fi)
{
    int known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    struct served *s = get(req);
    if (!(mode & ~known))
        happen(s, (struct event){.type = EV_ALLOCATE,
                                 .flags = (uint32_t)mode,
                                 .ino = ino,
                                 .off = (uint64_t)off,
                                 .len = (uint64_t)len});
    put_error(s, req, mode & ~known ? EOPNOTSUPP : 0);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
                     struct fuse_file_info *fi)
{
    struct served *s = get(req);
    const struct node *n = world_node(s->w, ino);
    uint64_t at = (uint64_t)off, size = n->size;
    while (at < size && world_has_bytes(n, at / PAGE_BYTES) != (whence == SEEK_DATA))
        at = (at / PAGE_BYTES + 1) * PAGE_BYTES;
    at = vd_min(at, size);
    bool none = (uint64_t)off >= size || (whence == SEEK_DATA && at == size);
    pthread_mutex_unlock(&s->mu);
    if (none)
        fuse_reply_err(req, ENXIO);
    else
        fuse_reply_lseek(req, (off_t)at);
}

/* After each write through a descriptor that is O_DSYNC the kernel sends one too, of the whole
 * file; but such a write covers nothing but itself, and is noted so. A folder's descriptor is never
 * that. */
static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct served *s = get(req);
    if (s->h && !(fi && fi->fh)) {
        struct event e = {.type = EV_SYNC, .flags = datasync != 0, .ino = ino, .off = s->h->n};
        uint64_t state = s->h->n;
        pthread_mutex_unlock(&s->mu);
        if (s->sync_delay_us)
            usleep((useconds_t)(cut_random(&state) % s->sync_delay_us));
        pthread_mutex_lock(&s->mu);
        happen(s, e);
    }
    put_error(s, req, 0);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
    struct statvfs st = {.f_bsize = PAGE_BYTES,
                         .f_frsize = PAGE_BYTES,
                         .f_blocks = 1u << 20,
                         .f_bfree = 1u << 20,
                         .f_bavail = 1u << 20,
                         .f_files = 1u << 20,
                         .f_ffree = 1u << 20,
                         .f_namemax = NAME_BYTES_MAX};
    fuse_reply_statfs(req, &st);
}

const struct fuse_lowlevel_ops fs_ops = {
    .init = op_init,
    .lookup = op_lookup,
    .getattr = op_getattr,
    .setattr = op_setattr,
    .readlink = op_readlink,
    .mknod = op_mknod,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .symlink = op_symlink,
    .rename = op_rename,
    .link = op_link,
    .open = op_open,
    .create = op_create,
    .read = op_read,
    .write = op_write,
    .fsync = op_fsync,
    .fsyncdir = op_fsync,
    .readdir = op_readdir,
    .statfs = op_statfs,
    .setxattr = op_setxattr,
    .getxattr = op_getxattr,
    .listxattr = op_listxattr,
    .removexattr = op_removexattr,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
};

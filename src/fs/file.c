// SPDX-License-Identifier: Apache-2.0
/*
 * Open files. Whether a file is a disk is decided when it is first opened and holds until its last
 * RELEASE, so that all handles of a file go the same way.
 *
 * Disks are always open for direct I/O: their blocks have a cache of their own. Of the files that
 * are passed through those open for writing are too; readers use the kernel's page cache, which it
 * checks against the file's attributes at every read.
 */
#include "fs.h"

#include "vd_owner.h"

/* Flags of a client's open that the source's descriptor takes over. O_DIRECT is not among them: it
 * would want buffers aligned as the client's were, not as ours are. */
#define KEPT_FLAGS (O_ACCMODE | O_APPEND | O_SYNC | O_DSYNC)

int vd__handle_new(struct vd_fs *fs, struct vd_node *node, struct vd_handle **ret_h)
{
    struct vd_handle *h = calloc(1, sizeof(*h));
    if (!h)
        return -ENOMEM;
    int r = vd__table_add(&fs->handles, h, &h->id);
    if (r < 0) {
        free(h);
        return r;
    }
    h->fd = h->past_fd = -1;
    h->node = vd__node_ref(fs, node);
    pthread_mutex_init(&h->dir_mu, NULL);
    *ret_h = h;
    return 0;
}

/* The node forgets H's disk, and what it decided with the last handle. */
static void node_close(struct vd_node *node, const struct vd_handle *h)
{
    pthread_mutex_lock(&node->mu);
    if (h->disk && --node->ndisk == 0)
        node->disk = NULL;
    node->nopen--;
    pthread_mutex_unlock(&node->mu);
}

void vd__handle_free(struct vd_fs *fs, struct vd_handle *h)
{
    vd__table_del(&fs->handles, h->id);
    vd_close_p(&h->past_fd); /* before the node can become a disk */
    if (h->dir)
        closedir(h->dir);
    else if (h->node->type == S_IFREG)
        node_close(h->node, h);
    if (h->disk)
        vd_disk_client_close(h->disk, h->writable);
    if (h->fd >= 0)
        close(h->fd);
    pthread_mutex_destroy(&h->dir_mu);
    vd__node_unref(fs, h->node, 1);
    free(h);
}

/* lock: node->mu */
static bool decide(struct vd_fs *fs, struct vd_node *node)
{
    struct stat st;
    if (node->nopen > 0)
        return node->is_disk;
    return vd__node_stat(node, &st) == 0 && vd_disks_is_disk(fs->cfg.disks, node->fd, &st);
}

bool vd__node_is_disk(struct vd_fs *fs, struct vd_node *node)
{
    pthread_mutex_lock(&node->mu);
    bool disk = decide(fs, node);
    pthread_mutex_unlock(&node->mu);
    return disk;
}

static int open_disk(struct vd_fs *fs, struct vd_handle *h)
{
    struct vd_node *node = h->node;
    char path[VD_PATH_MAX];
    struct vd_disk *disk;

    vd__path_hint(fs, node->fd, path);
    char why[VD_META_WHY];
    int r = vd_disk_open(fs->cfg.disks, node->fd, path, h->writable, &disk);
    if (r < 0)
        return r;
    r = vd_disk_client_open(disk, h->writable, why);
    if (r < 0) {
        vd_log_error("%s: cannot be opened: %s", path, *why ? why : strerror(-r));
        vd_disk_release(disk);
        return r;
    }
    pthread_mutex_lock(&node->mu);
    node->disk = h->disk = disk;
    node->ndisk++;
    pthread_mutex_unlock(&node->mu);
    return 0;
}

/* Before the file is decided to be none: who finds it grown into a disk later finds this. */
static void go_past(struct vd_handle *h)
{
    h->past_fd = vd__reopen(h->node->fd, O_RDONLY);
    if (h->past_fd >= 0 && vd_owner_go_past(h->past_fd) < 0)
        close(vd_steal_fd(&h->past_fd)); /* a source without locks has one mount */
}

/* A handle of the regular file NODE. FD is -1, or the source's file opened already (which was just
 * made, so it is no disk yet); it is taken. */
static int open_file(struct vd_fs *fs, struct vd_node *node, int flags, int fd,
                     struct vd_handle **ret_h)
{
    vd_cleanup_close int own_fd = fd;
    struct vd_handle *h;

    if (node->type != S_IFREG)
        return -EINVAL; /* the kernel opens the others itself */
    int r = vd__handle_new(fs, node, &h);
    if (r < 0)
        return r;
    h->writable = (flags & O_ACCMODE) != O_RDONLY;
    h->sync = flags & (O_SYNC | O_DSYNC);

    if (h->writable && !vd__node_is_disk(fs, node))
        go_past(h);
    pthread_mutex_lock(&node->mu);
    node->is_disk = decide(fs, node);
    node->nopen++;
    bool disk = node->is_disk;
    pthread_mutex_unlock(&node->mu);

    if (disk) {
        vd_close_p(&h->past_fd);
        h->past_fd = -1;
        r = open_disk(fs, h);
    } else {
        h->fd = own_fd >= 0 ? vd_steal_fd(&own_fd)
                            : vd__reopen(node->fd, flags & (KEPT_FLAGS | O_TRUNC));
        r = h->fd < 0 ? h->fd : 0;
    }
    if (r < 0)
        vd__handle_free(fs, h);
    else
        *ret_h = h;
    return r;
}

/* E: the answer is to CREATE. */
static void reply_open(struct vd_fs *fs, fuse_req_t req, const struct fuse_entry_param *e,
                       struct vd_handle *h)
{
    bool direct = h->disk || h->writable || fs->cfg.direct_io;
    struct vd_session_open o = {.fh = h->id, .direct_io = direct, .parallel_writes = direct};
    struct vd_node *node = h->node;

    if (vd_session_reply_open(req, e, &o) < 0) {
        vd__handle_free(fs, h);
        if (e)
            vd__node_unref(fs, node, 1);
    }
}

struct open_truncate {
    fuse_req_t req;
    struct vd_fs *fs;
    struct vd_handle *h;
};

static void open_truncated(void *user, ssize_t result, const void *data)
{
    struct open_truncate *o = user;
    struct vd_fs *fs = o->fs;

    if (result < 0) {
        vd__handle_free(fs, o->h);
        vd__reply(o->req, (int)result);
    } else {
        reply_open(fs, o->req, NULL, o->h);
    }
    free(o);
    vd__inflight_end(fs);
}

static void open_now(struct vd_fs *fs, fuse_req_t req, struct vd_node *node, int flags)
{
    struct vd_handle *h;

    int r = vd__node_is_stale(fs, node) ? -ESTALE : open_file(fs, node, flags, -1, &h);
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    if (!h->disk || !(flags & O_TRUNC)) {
        reply_open(fs, req, NULL, h);
        return;
    }
    struct open_truncate *o = malloc(sizeof(*o));
    if (!o) {
        vd__handle_free(fs, h);
        vd__reply(req, -ENOMEM);
        return;
    }
    *o = (struct open_truncate){.req = req, .fs = fs, .h = h};
    vd__inflight_begin(fs);
    vd_disk_truncate(h->disk, 0, open_truncated, o);
}

/* The open of a disk waits for its backing, its metadata, other mounts: not on a worker. */
struct open_job {
    struct vd_job job;
    fuse_req_t req;
    struct vd_fs *fs;
    struct vd_node *node; /* the kernel's reference lasts until OPEN is answered */
    int flags;
};

static void open_run(struct vd_job *job)
{
    struct open_job *o = vd_container_of(job, struct open_job, job);
    struct vd_fs *fs = o->fs;

    open_now(fs, o->req, o->node, o->flags);
    free(o);
    vd__inflight_end(fs);
}

void vd__op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *node = vd__node(fs, ino);

    if (!node) {
        vd__reply(req, -ESTALE);
        return;
    }
    if (node->type != S_IFREG || !vd__node_is_disk(fs, node)) {
        open_now(fs, req, node, fi->flags);
        return;
    }
    struct open_job *o = malloc(sizeof(*o));
    if (!o) {
        vd__reply(req, -ENOMEM);
        return;
    }
    *o = (struct open_job){
        .job.run = open_run, .req = req, .fs = fs, .node = node, .flags = fi->flags};
    vd__inflight_begin(fs);
    vd_disks_run(fs->cfg.disks, &o->job);
}

/* Makes NAME in DIR and opens it; the new node's reference is the kernel's. */
static int create(struct vd_fs *fs, fuse_req_t req, struct vd_node *dir, const char *name,
                  mode_t mode, int flags, struct fuse_entry_param *ret_e, struct vd_handle **ret_h)
{
    struct vd_node *node;
    struct stat st;

    vd_cleanup_close int fd = openat(
        dir->fd, name, (flags & KEPT_FLAGS) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        /* It is there after all. The kernel looks it up again and asks whether it may be opened. */
        return errno == EEXIST && !(flags & O_EXCL) ? -ESTALE : -errno;
    vd_cleanup_close int path_fd = vd__reopen(fd, O_PATH);
    int r = path_fd < 0 ? path_fd : vd__give_to_caller(fs, req, dir, path_fd, mode);
    if (r == 0)
        r = vd__node_of(fs, vd_steal_fd(&path_fd), &node, &st);
    if (r < 0) {
        unlinkat(dir->fd, name, 0);
        return r;
    }
    vd__fill_entry(fs, node, &st, ret_e);
    r = open_file(fs, node, flags, vd_steal_fd(&fd), ret_h);
    if (r < 0)
        vd__node_unref(fs, node, 1);
    return r;
}

void vd__op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                   struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *dir = vd__node(fs, parent);
    struct fuse_entry_param e;
    struct vd_handle *h;
    int r;

    if (!dir)
        r = -ESTALE;
    else if (vd__hidden(fs, dir, name))
        r = -EPERM;
    else
        r = create(fs, req, dir, name, mode, fi->flags, &e, &h);
    if (r < 0)
        vd__reply(req, r);
    else
        reply_open(fs, req, &e, h);
}

void vd__op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);
    int r = 0;

    if (!h) {
        vd__reply(req, -EBADF);
        return;
    }
    vd__locks_drop_owner(fs, h->node, fi->lock_owner);
    if (!h->disk && h->writable) {
        /* What a close tells the client of a network file system: write back, report errors. */
        int copy = fcntl(h->fd, F_DUPFD_CLOEXEC, 0);
        if (copy < 0 || close(copy) < 0)
            r = -errno;
    }
    vd__reply(req, r);
}

void vd__op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);

    if (h) {
        vd__locks_drop_handle(fs, h->node, h->id);
        vd__handle_free(fs, h);
    }
    vd__reply(req, 0);
}

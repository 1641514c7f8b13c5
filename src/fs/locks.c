// SPDX-License-Identifier: Apache-2.0
/*
 * Clients' locks are passed through to the source, so that they hold between mounts too: as locks
 * of one open file description of the source for each (inode, lock owner). Closing that descriptor
 * drops what the owner holds, which is what FLUSH (a close: POSIX locks) and RELEASE (the end of a
 * handle: its OFD and flock locks, for which no unlock is sent) ask for. Ranges are clipped below
 * the byte that says who owns the disk.
 *
 * A lock over byte 101 is QEMU saying that it will write, whatever the lock's type: the disk must
 * be owned first. Owning asks other mounts, so it runs on the lane; a refusal is the EAGAIN of a
 * lock.
 */
#include "fs.h"

#include <sys/file.h>

#include "vd_owner.h"

struct lock_owner {
    struct vd_list link; /* lock: the node's lock_mu */
    uint64_t owner;
    uint64_t fh; /* the handle it first locked through */
    int fd;
};

/* lock: lock_mu */
static struct lock_owner *find_owner(struct vd_node *node, uint64_t owner)
{
    struct vd_list *it;
    vd_list_for_each (it, &node->lock_owners) {
        struct lock_owner *o = vd_list_entry(it, struct lock_owner, link);
        if (o->owner == owner)
            return o;
    }
    return NULL;
}

/* A descriptor that can take any lock: what the client may do was checked on its own. */
static int open_for_locks(const struct vd_node *node)
{
    static const int modes[] = {O_RDWR, O_RDONLY, O_WRONLY};
    int fd = -EACCES;
    for (size_t i = 0; i < VD_ARRAY_SIZE(modes) && fd < 0; i++)
        fd = vd__reopen(node->fd, modes[i] | O_NONBLOCK);
    return fd;
}

/* lock: lock_mu */
static int add_owner(struct vd_node *node, uint64_t owner, uint64_t fh, struct lock_owner **ret_o)
{
    int fd = open_for_locks(node);
    if (fd < 0)
        return fd;
    struct lock_owner *o = calloc(1, sizeof(*o));
    if (!o) {
        close(fd);
        return -ENOMEM;
    }
    *o = (struct lock_owner){.owner = owner, .fh = fh, .fd = fd};
    vd_list_add_tail(&node->lock_owners, &o->link);
    atomic_fetch_add(&node->nlock_owners, 1);
    *ret_o = o;
    return 0;
}

/* lock: lock_mu */
static void free_owner(struct vd_node *node, struct lock_owner *o)
{
    vd_list_del(&o->link);
    atomic_fetch_sub(&node->nlock_owners, 1);
    close(o->fd);
    free(o);
}

void vd__locks_drop_owner(struct vd_fs *fs, struct vd_node *node, uint64_t owner)
{
    if (atomic_load(&node->nlock_owners) == 0)
        return;
    pthread_mutex_lock(&node->lock_mu);
    struct lock_owner *o = find_owner(node, owner);
    if (o)
        free_owner(node, o);
    pthread_mutex_unlock(&node->lock_mu);
    if (o)
        vd__lockwait_kick(fs->lockwait);
}

void vd__locks_drop_handle(struct vd_fs *fs, struct vd_node *node, uint64_t fh)
{
    struct vd_list *it, *tmp;
    bool any = false;

    if (atomic_load(&node->nlock_owners) == 0)
        return;
    pthread_mutex_lock(&node->lock_mu);
    vd_list_for_each_safe (it, tmp, &node->lock_owners) {
        struct lock_owner *o = vd_list_entry(it, struct lock_owner, link);
        if (o->fh == fh) {
            free_owner(node, o);
            any = true;
        }
    }
    pthread_mutex_unlock(&node->lock_mu);
    if (any)
        vd__lockwait_kick(fs->lockwait);
}

/* ---- taking one ---- */

static bool is_unlock(const struct vd_lock_request *l)
{
    return l->flock_op ? l->flock_op == LOCK_UN : l->lock.l_type == F_UNLCK;
}

static int lock_fd(int fd, const struct vd_lock_request *l)
{
    struct flock lock = l->lock;
    int r;

    lock.l_pid = 0; /* as F_OFD_SETLK demands */
    do
        r = l->flock_op ? flock(fd, l->flock_op | LOCK_NB) : fcntl(fd, F_OFD_SETLK, &lock);
    while (r < 0 && errno == EINTR);
    if (r == 0)
        return 0;
    return errno == EACCES ? -EAGAIN : -errno; /* the older word for the same */
}

int vd__lock_try(const struct vd_lock_request *l)
{
    struct vd_node *node = l->h->node;
    int r = 0;

    /* A call that does not wait, so it may be made under the lock that keeps the descriptor open.
     */
    pthread_mutex_lock(&node->lock_mu);
    struct lock_owner *o = find_owner(node, l->owner);
    if (!o && !is_unlock(l))
        r = add_owner(node, l->owner, l->h->id, &o);
    if (r == 0 && o)
        r = lock_fd(o->fd, l);
    pthread_mutex_unlock(&node->lock_mu);
    return r;
}

/* Cuts the range where our own byte begins. -EOVERFLOW: nothing is left of it. */
static int clip(struct flock *lock)
{
    if (lock->l_start >= VD_OWNER_LOCK_OFF)
        return -EOVERFLOW;
    off_t room = VD_OWNER_LOCK_OFF - lock->l_start;
    if (lock->l_len == 0 || lock->l_len > room)
        lock->l_len = room;
    return 0;
}

/* After clip: does the lock announce writes? */
static bool wants_ownership(const struct vd_fs *fs, const struct vd_handle *h,
                            const struct flock *lock)
{
    return h->disk && !fs->cfg.read_only && lock->l_type != F_UNLCK &&
           lock->l_start <= VD_OWNER_QEMU_WRITE_BYTE &&
           lock->l_start + lock->l_len > VD_OWNER_QEMU_WRITE_BYTE &&
           !vd_disk_attr_stable(h->disk); /* owned already */
}

/* Takes L: answers it now, or has it wait. */
static void serve(struct vd_lock_request *l)
{
    struct vd_fs *fs = l->fs;

    int r = vd__lock_try(l);
    if (r == -EAGAIN && l->sleep) {
        vd__lockwait_add(fs->lockwait, l);
        return;
    }
    if (r == 0)
        vd__lockwait_kick(fs->lockwait); /* an unlock, or a weaker lock than before */
    vd__reply(l->req, r);
    free(l);
    vd__inflight_end(fs);
}

static void own_then_serve(struct vd_job *job)
{
    struct vd_lock_request *l = vd_container_of(job, struct vd_lock_request, job);
    struct vd_fs *fs = l->fs;
    char why[VD_META_WHY] = "", path[VD_PATH_MAX];

    int r = vd_disk_own(l->h->disk, why);
    /* Who only reads through a file that nobody can write may lock it all the same. */
    if (l->lock.l_type == F_RDLCK && (r == -EROFS || r == -EACCES))
        r = 0;
    if (r < 0) {
        vd__path_hint(fs, l->h->node->fd, path);
        vd_log_warning("%s: a lock for writing is refused: %s", path, *why ? why : strerror(-r));
        vd__reply(l->req, r == -EBUSY ? -EAGAIN : r);
        free(l);
        vd__inflight_end(fs);
        return;
    }
    serve(l);
}

/* A request of the heap for what the worker was asked; NULL answers it. */
static struct vd_lock_request *new_request(fuse_req_t req, struct vd_handle *h, uint64_t owner)
{
    struct vd_lock_request *l = h ? calloc(1, sizeof(*l)) : NULL;
    if (!l) {
        vd__reply(req, h ? -ENOLCK : -EBADF);
        return NULL;
    }
    l->fs = vd__fs(req);
    l->req = req;
    l->h = h;
    l->owner = owner;
    vd_list_init(&l->link);
    vd__inflight_begin(l->fs);
    return l;
}

void vd__op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
                  int sleep)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);

    int r = clip(lock);
    if (r < 0) {
        vd__reply(req, lock->l_type == F_UNLCK ? 0 : r);
        return;
    }
    struct vd_lock_request *l = new_request(req, h, fi->lock_owner);
    if (!l)
        return;
    l->lock = *lock;
    l->sleep = sleep;
    if (wants_ownership(fs, h, lock)) {
        l->job.run = own_then_serve;
        vd_lane_queue(fs->lane, &l->job);
    } else {
        serve(l);
    }
}

void vd__op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
    struct vd_lock_request *l = new_request(req, vd__handle(vd__fs(req), fi), fi->lock_owner);
    if (!l)
        return;
    l->flock_op = op & ~LOCK_NB;
    l->sleep = !(op & LOCK_NB) && l->flock_op != LOCK_UN;
    serve(l);
}

void vd__op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock)
{
    struct vd_handle *h = vd__handle(vd__fs(req), fi);
    int r = h ? clip(lock) : -EBADF;
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    pthread_mutex_lock(&h->node->lock_mu);
    /* Through the owner's own descriptor, or one that holds nothing: its own locks do not count. */
    struct lock_owner *o = find_owner(h->node, fi->lock_owner);
    vd_cleanup_close int other = o ? -1 : open_for_locks(h->node);
    int fd = o ? o->fd : other;
    lock->l_pid = 0;
    if (fd < 0)
        r = fd;
    else if (fcntl(fd, F_OFD_GETLK, lock) < 0)
        r = -errno;
    pthread_mutex_unlock(&h->node->lock_mu);
    if (r < 0) {
        vd__reply(req, r);
        return;
    }
    if (lock->l_pid < 0)
        lock->l_pid = 0; /* held by an open file, not by a process */
    fuse_reply_lock(req, lock);
}

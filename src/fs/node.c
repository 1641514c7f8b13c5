// SPDX-License-Identifier: Apache-2.0
/*
 * Nodes: lookup, forget, and the descriptors that stand for files. One node a (device, inode) of
 * the source; it lives while the kernel remembers it or a request of ours uses it.
 */
#include "fs.h"

#include <assert.h>
#include <limits.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "vd_meta.h"

void vd__proc_path(int fd, char ret_path[VD_PROC_PATH])
{
    snprintf(ret_path, VD_PROC_PATH, "/proc/self/fd/%d", fd);
}

int vd__reopen(int path_fd, int flags)
{
    char path[VD_PROC_PATH];
    vd__proc_path(path_fd, path);
    int fd = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

bool vd__hidden(const struct vd_fs *fs, const struct vd_node *parent, const char *name)
{
    return parent == fs->root && strcmp(name, VD_META_FOLDER) == 0;
}

int vd__open_path(const struct vd_node *parent, const char *name)
{
    /* The kernel sends single names; what else came would be a way out. */
    if (!*name || strchr(name, '/') || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return -EINVAL;
    struct open_how how = {
        .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
    };
    long fd;
    do
        fd = syscall(SYS_openat2, parent->fd, name, &how, sizeof(how));
    while (fd < 0 && errno == EAGAIN); /* a rename went by */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM))
        fd = openat(parent->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC); /* one name: safe as well */
    return fd < 0 ? -errno : (int)fd;
}

int vd__node_stat(const struct vd_node *node, struct stat *ret_st)
{
    return fstatat(node->fd, "", ret_st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

bool vd__node_is_stale(struct vd_fs *fs, struct vd_node *node)
{
    struct stat st;

    if (node->type != S_IFREG || vd__node_stat(node, &st) < 0)
        return false;
    vd__client_stat(fs, node->fd, &st);
    if (st.st_nlink > 0)
        return false;
    pthread_mutex_lock(&node->mu);
    bool stale = node->nopen == 0;
    pthread_mutex_unlock(&node->mu);
    return stale;
}

void vd__path_hint(const struct vd_fs *fs, int fd, char ret_path[VD_PATH_MAX])
{
    char proc[VD_PROC_PATH], path[PATH_MAX];
    size_t skip = strlen(fs->source);

    *ret_path = '\0';
    vd__proc_path(fd, proc);
    ssize_t n = readlink(proc, path, sizeof(path) - 1);
    if (n < 0)
        return;
    path[n] = '\0';
    if (skip == 1)
        skip = 0; /* the source is "/" */
    if (strncmp(path, fs->source, skip) == 0 && path[skip] == '/' &&
        (size_t)n - skip - 1 < VD_PATH_MAX)
        memcpy(ret_path, path + skip + 1, (size_t)n - skip);
}

/* ---- the tree of nodes ---- */

static struct vd_node **bucket_of(struct vd_fs *fs, dev_t dev, ino_t ino)
{
    uint64_t h = ((uint64_t)ino ^ ((uint64_t)dev << 40)) * 0x9e3779b97f4a7c15u;
    return &fs->buckets[h >> 50];
}
static_assert(VD_NODE_BUCKETS == 1u << 14, "bucket_of takes 14 bits");

/* lock: tree_mu */
static void unhash(struct vd_fs *fs, struct vd_node *node)
{
    if (!node->hashed)
        return;
    struct vd_node **p = bucket_of(fs, node->dev, node->ino);
    while (*p != node)
        p = &(*p)->next;
    *p = node->next;
    node->hashed = false;
}

/* lock: tree_mu. The node of ST. One of another type than ST's is a file that the server of a
 * network source replaced behind our descriptor: it keeps its users and loses its name. */
static struct vd_node *find(struct vd_fs *fs, const struct stat *st)
{
    struct vd_node *n = *bucket_of(fs, st->st_dev, st->st_ino);
    while (n && !(n->dev == st->st_dev && n->ino == st->st_ino))
        n = n->next;
    if (n && n->type != (st->st_mode & S_IFMT)) {
        unhash(fs, n);
        return NULL;
    }
    return n;
}

static void free_node(struct vd_node *node)
{
    close(node->fd);
    pthread_mutex_destroy(&node->mu);
    pthread_mutex_destroy(&node->lock_mu);
    free(node);
}

/* lock: tree_mu */
static int make(struct vd_fs *fs, int fd, const struct stat *st, struct vd_node **ret_node)
{
    struct vd_node *n = calloc(1, sizeof(*n));
    if (!n)
        return -ENOMEM;
    n->fd = fd;
    n->type = st->st_mode & S_IFMT;
    n->dev = st->st_dev;
    n->ino = st->st_ino;
    pthread_mutex_init(&n->mu, NULL);
    pthread_mutex_init(&n->lock_mu, NULL);
    vd_list_init(&n->lock_owners);
    int r = vd__table_add(&fs->nodes, n, &n->id);
    if (r < 0) {
        n->fd = -1;
        free_node(n);
        return r;
    }
    struct vd_node **bucket = bucket_of(fs, n->dev, n->ino);
    n->next = *bucket;
    *bucket = n;
    n->hashed = true;
    *ret_node = n;
    return 0;
}

int vd__node_of(struct vd_fs *fs, int fd, struct vd_node **ret_node, struct stat *ret_st)
{
    vd_cleanup_close int own_fd = fd;
    struct vd_node *node;
    int r = 0;

    if (fstatat(fd, "", ret_st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    pthread_mutex_lock(&fs->tree_mu);
    node = find(fs, ret_st);
    if (!node) {
        r = make(fs, own_fd, ret_st, &node);
        if (r == 0)
            vd_steal_fd(&own_fd);
    }
    if (r == 0)
        node->refs++;
    pthread_mutex_unlock(&fs->tree_mu);
    if (r == 0)
        *ret_node = node;
    return r;
}

struct vd_node *vd__node_ref(struct vd_fs *fs, struct vd_node *node)
{
    pthread_mutex_lock(&fs->tree_mu);
    node->refs++;
    pthread_mutex_unlock(&fs->tree_mu);
    return node;
}

void vd__node_unref(struct vd_fs *fs, struct vd_node *node, uint64_t n)
{
    pthread_mutex_lock(&fs->tree_mu);
    node->refs -= vd_min(n, node->refs);
    bool last = node->refs == 0;
    if (last)
        unhash(fs, node);
    pthread_mutex_unlock(&fs->tree_mu);
    if (last) {
        vd__table_del(&fs->nodes, node->id);
        free_node(node);
    }
}

int vd__node_id(struct vd_fs *fs, dev_t dev, ino_t ino, uint64_t *ret_id)
{
    pthread_mutex_lock(&fs->tree_mu);
    struct vd_node *n = *bucket_of(fs, dev, ino);
    while (n && !(n->dev == dev && n->ino == ino))
        n = n->next;
    if (n)
        *ret_id = n->id;
    pthread_mutex_unlock(&fs->tree_mu);
    return n ? 0 : -ENOENT;
}

int vd__root_new(struct vd_fs *fs)
{
    struct stat st;
    int fd = fcntl(fs->cfg.source_fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    return vd__node_of(fs, fd, &fs->root, &st); /* the table's first number is FUSE_ROOT_ID */
}

static void free_one(void *user, void *object)
{
    free_node(object);
}

void vd__nodes_free(struct vd_fs *fs)
{
    vd__table_each(&fs->nodes, free_one, NULL);
}

/* ---- operations ---- */

void vd__fill_entry(struct vd_fs *fs, struct vd_node *node, const struct stat *st,
                    struct fuse_entry_param *ret_e)
{
    if (S_ISREG(st->st_mode))
        atomic_store_explicit(&node->set_id, st->st_mode & (S_ISUID | S_ISGID),
                              memory_order_relaxed);
    *ret_e = (struct fuse_entry_param){
        .ino = node->id,
        .generation = node->id >> 32,
        .attr = *st,
        .attr_timeout = vd__attr_timeout(node),
        /* A disk's name goes, or gets another inode, behind the kernel's back: by the control
         * socket, at the end of a flatten, through another mount. So it is asked for each time,
         * rather than tell the kernel, which waits for the folder's lock and so for requests.
         * Which small files are disks, or will be, is not asked here. */
        .entry_timeout = S_ISREG(st->st_mode) ? 0 : VD_ENTRY_TIMEOUT_S,
    };
    vd__client_stat(fs, node->fd, &ret_e->attr);
}

int vd__node_lookup(struct vd_fs *fs, struct vd_node *parent, const char *name,
                    struct fuse_entry_param *ret_e)
{
    struct vd_node *node;
    struct stat st;

    if (vd__hidden(fs, parent, name))
        return -ENOENT;
    int fd = vd__open_path(parent, name);
    if (fd < 0)
        return fd;
    int r = vd__node_of(fs, fd, &node, &st);
    if (r == 0)
        vd__fill_entry(fs, node, &st, ret_e);
    return r;
}

void vd__reply_entry(struct vd_fs *fs, fuse_req_t req, const struct fuse_entry_param *e)
{
    struct vd_node *node = vd__node(fs, e->ino);
    if (fuse_reply_entry(req, e) < 0)
        vd__node_unref(fs, node, 1);
}

void vd__op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_node *dir = vd__node(fs, parent);
    struct fuse_entry_param e;

    int r = dir ? vd__node_lookup(fs, dir, name, &e) : -ESTALE;
    if (r < 0)
        vd__reply(req, r);
    else
        vd__reply_entry(fs, req, &e);
}

static void forget(struct vd_fs *fs, fuse_ino_t ino, uint64_t nlookup)
{
    struct vd_node *node = vd__node(fs, ino);
    if (node && node != fs->root) /* the root was not looked up */
        vd__node_unref(fs, node, nlookup);
}

void vd__op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
    forget(vd__fs(req), ino, nlookup);
    fuse_reply_none(req);
}

void vd__op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
    for (size_t i = 0; i < count; i++)
        forget(vd__fs(req), forgets[i].ino, forgets[i].nlookup);
    fuse_reply_none(req);
}

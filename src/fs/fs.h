// SPDX-License-Identifier: Apache-2.0
/*
 * What the files of src/fs share.
 *
 *   node    an inode of the source that the kernel knows, or that one of our requests uses. It
 *           holds an O_PATH descriptor, so the source cannot give its inode number to another file
 *           meanwhile.
 *   handle  an open file or folder.
 *
 * Paths are never walked: each operation takes one name below a node's descriptor, with openat2
 * RESOLVE_BENEATH, or reopens the descriptor through /proc/self/fd. So nothing in the mount leads
 * out of the source.
 *
 * A disk with layers is more than its file (vd_disk.h): the file gives names, mode, owner and
 * clients' locks; its bytes, size and times are asked of the disk, never of the descriptor.
 *
 * Lock order: node->lock_mu, node->mu, fs->tree_mu, a table's mu; session_mu alone. None is held
 * over a reply, a disk's call that blocks, or a wait.
 */
#ifndef VD_FS_INTERNAL_H
#define VD_FS_INTERNAL_H

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "table.h"
#include "vd_counter.h"
#include "vd_fs.h"
#include "vd_list.h"
#include "vd_log.h"

#define VD_NODE_BUCKETS 16384u
#define VD_ENTRY_TIMEOUT_S 1.0 /* of what is not a regular file */
#define VD_ATTR_TIMEOUT_S 1.0  /* of what is not a regular file, and of disks that we own */
#define VD_PATH_MAX 1024       /* of the hint that goes into records */
#define VD_PROC_PATH 32        /* "/proc/self/fd/N" */

struct vd_lockwait;

struct vd_fs {
    struct vd_fs_config cfg;
    bool may_chown; /* we run as root: what is created is given to the caller */
    char source[PATH_MAX];
    struct vd_node *root;
    struct vd_lane *lane; /* for what must not wait on a worker */
    struct vd_lockwait *lockwait;

    struct {
        VD_COUNTER_SET(1);
    } inflight; /* requests that something other than their worker will answer */

    pthread_mutex_t tree_mu;
    struct vd_node *buckets[VD_NODE_BUCKETS]; /* by (dev, ino); lock: tree_mu */
    struct vd_table nodes;
    struct vd_table handles;

    pthread_mutex_t session_mu;   /* held over notices to the kernel that wait for nobody */
    struct fuse_session *session; /* NULL: none, or it is about to end; lock: session_mu */
};

struct vd_node {
    uint64_t id;
    int fd; /* O_PATH */
    mode_t type;
    dev_t dev;
    ino_t ino;

    struct vd_node *next; /* in its bucket; lock: tree_mu */
    uint64_t refs;        /* the kernel's lookups, and our own; lock: tree_mu */
    bool hashed;          /* lock: tree_mu */

    atomic_bool set_id; /* the mode had a set-id bit when last seen: a write must clear it */

    pthread_mutex_t mu;
    unsigned nopen;       /* open handles of a regular file; lock: mu */
    bool is_disk;         /* decided at the first of them, until the last; lock: mu */
    unsigned ndisk;       /* handles with an open disk; lock: mu */
    struct vd_disk *disk; /* theirs; lock: mu */

    pthread_mutex_t lock_mu;
    struct vd_list lock_owners; /* lock: lock_mu */
    atomic_uint nlock_owners;   /* written under lock_mu */
};

struct vd_handle {
    uint64_t id;
    struct vd_node *node; /* a reference */
    struct vd_disk *disk; /* a reference; NULL: passed through */
    int fd;               /* of the source, of what is passed through; -1 of a disk */
    int past_fd;          /* tells other mounts that the file is written past its disk; or -1 */
    bool writable;
    bool sync; /* opened O_SYNC or O_DSYNC */
    DIR *dir;  /* of a folder */
    pthread_mutex_t dir_mu;
    off_t dir_off;      /* where dir stands; lock: dir_mu */
    struct dirent *ent; /* read, but did not fit in the last answer; lock: dir_mu */
};

static inline struct vd_fs *vd__fs(fuse_req_t req)
{
    return fuse_req_userdata(req);
}
static inline struct vd_handle *vd__handle(struct vd_fs *fs, const struct fuse_file_info *fi)
{
    return fi ? vd__table_get(&fs->handles, fi->fh) : NULL;
}
static inline struct vd_node *vd__node(struct vd_fs *fs, fuse_ino_t ino)
{
    return vd__table_get(&fs->nodes, ino);
}

/* Around a request whose answer comes from elsewhere. END after the reply. */
static inline void vd__inflight_begin(struct vd_fs *fs)
{
    vd_counter_add(&fs->inflight, 1, 0, 1);
}
static inline void vd__inflight_end(struct vd_fs *fs)
{
    vd_counter_add(&fs->inflight, 1, 0, UINT64_MAX);
}

/* Answers with the error R (negative) or success. */
static inline void vd__reply(fuse_req_t req, int r)
{
    fuse_reply_err(req, r < 0 ? -r : 0);
}

/* ---- node.c ---- */

/* Is NAME in folder PARENT one that the mount does not show? */
bool vd__hidden(const struct vd_fs *fs, const struct vd_node *parent, const char *name);
/* An O_PATH descriptor of NAME in PARENT, or -errno. */
int vd__open_path(const struct vd_node *parent, const char *name) VD_WARN_UNUSED;
/* Takes FD (O_PATH): the node of its file with one more reference, and its attributes. 0 or -errno.
 */
int vd__node_of(struct vd_fs *fs, int fd, struct vd_node **ret_node,
                struct stat *ret_st) VD_WARN_UNUSED;
int vd__node_lookup(struct vd_fs *fs, struct vd_node *parent, const char *name,
                    struct fuse_entry_param *ret_e) VD_WARN_UNUSED;
/* Fills an entry for NODE, whose reference becomes the kernel's. */
void vd__fill_entry(struct vd_fs *fs, struct vd_node *node, const struct stat *st,
                    struct fuse_entry_param *ret_e);
/* Answers with an entry; where the kernel does not take it, its reference is given back. */
void vd__reply_entry(struct vd_fs *fs, fuse_req_t req, const struct fuse_entry_param *e);
struct vd_node *vd__node_ref(struct vd_fs *fs, struct vd_node *node);
void vd__node_unref(struct vd_fs *fs, struct vd_node *node, uint64_t n);
/* The attributes of the file itself. */
int vd__node_stat(const struct vd_node *node, struct stat *ret_st) VD_WARN_UNUSED;
/* Is NODE a regular file that has lost its last name and that nobody has open? A path that leads to
 * it is of the kernel's memory; told -ESTALE the kernel looks the path up anew. */
bool vd__node_is_stale(struct vd_fs *fs, struct vd_node *node);
void vd__proc_path(int fd, char ret_path[VD_PROC_PATH]);
/* Opens the file of an O_PATH descriptor for real. A descriptor or -errno. */
int vd__reopen(int path_fd, int flags) VD_WARN_UNUSED;
/* Where FD's file is below the source now; "" where it has no name. A hint. */
void vd__path_hint(const struct vd_fs *fs, int fd, char ret_path[VD_PATH_MAX]);
/* The number under which the kernel knows the file (DEV, INO): 0 or -ENOENT. */
int vd__node_id(struct vd_fs *fs, dev_t dev, ino_t ino, uint64_t *ret_id) VD_WARN_UNUSED;
int vd__root_new(struct vd_fs *fs) VD_WARN_UNUSED;
void vd__nodes_free(struct vd_fs *fs);
void vd__op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void vd__op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup);
void vd__op_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);

/* ---- attr.c ---- */
double vd__attr_timeout(struct vd_node *node);
/* From the attributes of the file PATH_FD itself to those that a client shall see: size, blocks and
 * times of a disk with layers are the disk's, and the name that its bytes have in our private
 * folder does not count. What a client is told has passed here. */
void vd__client_stat(struct vd_fs *fs, int path_fd, struct stat *st);
void vd__op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void vd__op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
                    struct fuse_file_info *fi);
void vd__op_statfs(fuse_req_t req, fuse_ino_t ino);
/* A write by someone who may not keep set-id bits: clears them. */
void vd__clear_set_id(fuse_req_t req, struct vd_node *node);

/*
 * A call that changes the attributes of a disk's file goes between these two, so that the disk's
 * record keeps up with the file: begin attaches the disk where it has metadata and is not attached.
 */
struct vd_disk *vd__touch_begin(struct vd_fs *fs, int path_fd);
void vd__touch_end(struct vd_disk *disk);

/* ---- names.c ---- */
void vd__op_readlink(fuse_req_t req, fuse_ino_t ino);
void vd__op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void vd__op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void vd__op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void vd__op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
/* Gives the new file PATH_FD in PARENT to the caller and sets its mode. */
int vd__give_to_caller(struct vd_fs *fs, fuse_req_t req, const struct vd_node *parent, int path_fd,
                       mode_t mode) VD_WARN_UNUSED;
/* Is the file behind PATH_FD a disk with layers? One system call. */
bool vd__has_layers(int path_fd);

/* ---- remove.c ---- */
void vd__op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void vd__op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
void vd__op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
                   const char *new_name, unsigned flags);

/* ---- dir.c ---- */
void vd__op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void vd__op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                    struct fuse_file_info *fi);
void vd__op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
                        struct fuse_file_info *fi);
void vd__op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void vd__op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);

/* ---- file.c ---- */
/* Is the regular file NODE a disk now: as decided when it was opened, or else as it stands? */
bool vd__node_is_disk(struct vd_fs *fs, struct vd_node *node);
int vd__handle_new(struct vd_fs *fs, struct vd_node *node, struct vd_handle **ret_h) VD_WARN_UNUSED;
void vd__handle_free(struct vd_fs *fs, struct vd_handle *h);
void vd__op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void vd__op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
                   struct fuse_file_info *fi);
void vd__op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void vd__op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);

/* ---- io.c ---- */
void vd__op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void vd__op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                  struct fuse_file_info *fi);
void vd__op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void vd__op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                      struct fuse_file_info *fi);
void vd__op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
void vd__op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
                  struct fuse_file_info *fi, unsigned flags, const void *in_buf, size_t in_size,
                  size_t out_size);

/* ---- copy.c ---- */
void vd__op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
                            struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
                            struct fuse_file_info *fi_out, size_t len, int flags);

/* ---- xattr.c ---- */
void vd__op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void vd__op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void vd__op_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value,
                     size_t size, int flags);
void vd__op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

/* ---- locks.c ---- */
void vd__op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock);
void vd__op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lock,
                  int sleep);
void vd__op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);
/* Drops every lock of OWNER on NODE (a close). */
void vd__locks_drop_owner(struct vd_fs *fs, struct vd_node *node, uint64_t owner);
/* Drops the locks of all owners that locked through handle FH (its release). */
void vd__locks_drop_handle(struct vd_fs *fs, struct vd_node *node, uint64_t fh);

/* ---- lockwait.c ---- */

/* One SETLK, SETLKW or flock under way. */
struct vd_lock_request {
    struct vd_job job;   /* while it must own the disk first */
    struct vd_list link; /* while it waits; lock: the queue's */
    bool interrupted;    /* lock: the queue's */
    struct vd_fs *fs;
    fuse_req_t req;
    struct vd_handle *h; /* its client waits for us, so it cannot be released */
    uint64_t owner;
    struct flock lock;
    int flock_op; /* LOCK_SH, LOCK_EX, LOCK_UN, or 0: LOCK is meant */
    bool sleep;
};
/* Tries once. 0, -EAGAIN: another holds it; -errno. */
int vd__lock_try(const struct vd_lock_request *l) VD_WARN_UNUSED;

int vd__lockwait_new(struct vd_lockwait **ret_q) VD_WARN_UNUSED;
/* Takes L (on the heap), and answers it when it has the lock or its client was interrupted. */
void vd__lockwait_add(struct vd_lockwait *q, struct vd_lock_request *l);
/* Something was unlocked. */
void vd__lockwait_kick(struct vd_lockwait *q);
/* Answers EINTR to all that wait, now and later. */
void vd__lockwait_stop(struct vd_lockwait *q);
void vd__lockwait_free(struct vd_lockwait *q);

#endif

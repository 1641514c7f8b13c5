// SPDX-License-Identifier: Apache-2.0
/* The fs object and its table of operations. */
#include "fs.h"

#include <limits.h>

#define OWN_THREADS 8u /* lock requests that may wait for other mounts at one time */
#define DRAIN_STEP_NS (2 * 1000000)

static void op_init(void *user, struct fuse_conn_info *conn)
{
    struct vd_fs *fs = user;
    vd_session_want(conn);
    if (fs->cfg.ready)
        fs->cfg.ready(fs->cfg.user);
}

const struct fuse_lowlevel_ops *vd_fs_ops(void)
{
    static const struct fuse_lowlevel_ops ops = {
        .init = op_init,
        .lookup = vd__op_lookup,
        .forget = vd__op_forget,
        .forget_multi = vd__op_forget_multi,
        .getattr = vd__op_getattr,
        .setattr = vd__op_setattr,
        .readlink = vd__op_readlink,
        .mknod = vd__op_mknod,
        .mkdir = vd__op_mkdir,
        .unlink = vd__op_unlink,
        .rmdir = vd__op_rmdir,
        .symlink = vd__op_symlink,
        .rename = vd__op_rename,
        .link = vd__op_link,
        .open = vd__op_open,
        .create = vd__op_create,
        .read = vd__op_read,
        .write = vd__op_write,
        .flush = vd__op_flush,
        .release = vd__op_release,
        .fsync = vd__op_fsync,
        .opendir = vd__op_opendir,
        .readdir = vd__op_readdir,
        .readdirplus = vd__op_readdirplus,
        .releasedir = vd__op_releasedir,
        .fsyncdir = vd__op_fsyncdir,
        .statfs = vd__op_statfs,
        .getxattr = vd__op_getxattr,
        .listxattr = vd__op_listxattr,
        .setxattr = vd__op_setxattr,
        .removexattr = vd__op_removexattr,
        .getlk = vd__op_getlk,
        .setlk = vd__op_setlk,
        .flock = vd__op_flock,
        .fallocate = vd__op_fallocate,
        .lseek = vd__op_lseek,
        .copy_file_range = vd__op_copy_file_range,
        .ioctl = vd__op_ioctl,
    };
    return &ops;
}

static int start(struct vd_fs *fs)
{
    char proc[VD_PROC_PATH];

    vd__proc_path(fs->cfg.source_fd, proc);
    ssize_t n = readlink(proc, fs->source, sizeof(fs->source) - 1);
    if (n < 0)
        return -errno;
    fs->source[n] = '\0';
    int r = vd__root_new(fs);
    if (r == 0)
        r = vd_lane_open(fs->cfg.lanes, OWN_THREADS, &fs->lane);
    if (r == 0)
        r = vd__lockwait_new(&fs->lockwait);
    return r;
}

int vd_fs_new(const struct vd_fs_config *config, struct vd_fs **ret_fs)
{
    struct vd_fs *fs = aligned_alloc(64, vd_align_up(sizeof(*fs), 64));
    if (!fs)
        return -ENOMEM;
    memset(fs, 0, sizeof(*fs));
    fs->cfg = *config;
    fs->may_chown = geteuid() == 0;
    pthread_mutex_init(&fs->tree_mu, NULL);
    pthread_mutex_init(&fs->session_mu, NULL);
    vd__table_init(&fs->nodes);
    vd__table_init(&fs->handles);
    int r = start(fs);
    if (r < 0)
        vd_fs_free(fs);
    else
        *ret_fs = fs;
    return r;
}

void vd_fs_set_session(struct vd_fs *fs, struct fuse_session *session)
{
    pthread_mutex_lock(&fs->session_mu);
    fs->session = session;
    pthread_mutex_unlock(&fs->session_mu);
}

void vd_fs_changed(struct vd_fs *fs, dev_t dev, ino_t ino)
{
    uint64_t id;

    if (vd__node_id(fs, dev, ino, &id) < 0)
        return;
    /* A negative offset: attributes only. With pages it would wait for those being read. */
    pthread_mutex_lock(&fs->session_mu);
    if (fs->session)
        (void)fuse_lowlevel_notify_inval_inode(fs->session, id, -1, 0);
    pthread_mutex_unlock(&fs->session_mu);
}

void vd_fs_drain(struct vd_fs *fs)
{
    vd_fs_set_session(fs, NULL);
    vd__lockwait_stop(fs->lockwait);
    while (vd_counter_sum(&fs->inflight, 1, 0) != 0)
        nanosleep(&(struct timespec){.tv_nsec = DRAIN_STEP_NS}, NULL);
}

static void close_left_open(void *user, void *object)
{
    struct vd_handle *h = object;
    vd__locks_drop_handle(user, h->node, h->id);
    vd__handle_free(user, h);
}

void vd_fs_close_handles(struct vd_fs *fs)
{
    vd__table_each(&fs->handles, close_left_open, fs);
}

void vd_fs_free(struct vd_fs *fs)
{
    if (!fs)
        return;
    vd_fs_close_handles(fs);
    vd_lane_close(fs->lane);
    vd__lockwait_free(fs->lockwait);
    vd__nodes_free(fs);
    vd__table_clear(&fs->handles);
    vd__table_clear(&fs->nodes);
    pthread_mutex_destroy(&fs->tree_mu);
    pthread_mutex_destroy(&fs->session_mu);
    free(fs);
}

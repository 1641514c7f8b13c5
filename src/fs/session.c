// SPDX-License-Identifier: Apache-2.0
/*
 * The session's settings, each with its reason, stand here and nowhere else.
 *
 *   max_background 256   at the kernel's default of 12, twelve of 64 direct requests reach us
 *   requests of 1 MiB    what the kernel makes at most
 *   few idle threads     the kernel wakes those that wait in turn: with 32 idle on 2 cores each
 *                        request finds a thread that went cold, with 6 both reads and writes at
 *                        depth 32 are 1.4 times as fast; more are made while those we have wait in
 *                        a backing, and ended after
 *   splice off           a pipe costs more than the copy it saves for requests of this size
 *   writeback cache off  the kernel would hold a guest's writes that nobody flushed
 *   killpriv off         the kernel then clears set-id bits itself, by SETATTR; as root we would
 *                        not
 */
#include "vd_session.h"

#include <linux/fuse.h>
#include <string.h>
#include <sys/uio.h>

#define MAX_BACKGROUND 256
#define CLONE_FD 0
#define THREADS_MIN 32u
#define THREADS_MAX 64u
#define THREADS_PER_CORE 4u
#define IDLE_PER_CORE 2u
#define IDLE_EXTRA 2u

struct vd_session {
    struct fuse_session *fuse;
    const char *mountpoint;
    unsigned threads;
    bool mounted;
};

unsigned vd_session_default_threads(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = cores > 0 ? (unsigned)cores * THREADS_PER_CORE : THREADS_MIN;
    n = vd_max(n, THREADS_MIN);
    return vd_min(n, THREADS_MAX);
}

void vd_session_want(struct fuse_conn_info *conn)
{
    const unsigned on = FUSE_CAP_ASYNC_DIO | FUSE_CAP_ASYNC_READ | FUSE_CAP_POSIX_LOCKS |
                        FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
                        FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_ATOMIC_O_TRUNC |
                        FUSE_CAP_PARALLEL_DIROPS;
    const unsigned off = FUSE_CAP_WRITEBACK_CACHE | FUSE_CAP_DONT_MASK | FUSE_CAP_SPLICE_READ |
                         FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_HANDLE_KILLPRIV |
                         FUSE_CAP_EXPORT_SUPPORT;

    conn->max_background = MAX_BACKGROUND;
    conn->congestion_threshold = MAX_BACKGROUND * 3 / 4;
    conn->max_write = VD_IO_MAX_BYTES;
    conn->want = (conn->want | (conn->capable & on)) & ~off;
}

int vd_session_check_args(const struct fuse_args *args)
{
    static const struct fuse_lowlevel_ops no_ops;
    struct fuse_args copy = FUSE_ARGS_INIT(0, NULL);
    int r = 0;

    for (int i = 0; i < args->argc; i++)
        if (fuse_opt_add_arg(&copy, args->argv[i]) < 0)
            r = -ENOMEM;
    struct fuse_session *se = r < 0 ? NULL : fuse_session_new(&copy, &no_ops, sizeof(no_ops), NULL);
    if (se)
        fuse_session_destroy(se);
    else if (r == 0)
        r = -EINVAL;
    fuse_opt_free_args(&copy);
    return r;
}

int vd_session_new(const struct vd_session_config *config, struct vd_session **ret_session)
{
    struct vd_session *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->mountpoint = config->mountpoint;
    s->threads = config->threads ? config->threads : vd_session_default_threads();
    s->fuse = fuse_session_new(config->args, config->ops, sizeof(*config->ops), config->user);
    if (!s->fuse) {
        free(s);
        return -EINVAL;
    }
    *ret_session = s;
    return 0;
}

struct fuse_session *vd_session_fuse(struct vd_session *s)
{
    return s->fuse;
}

int vd_session_mount(struct vd_session *s)
{
    if (fuse_session_mount(s->fuse, s->mountpoint) != 0)
        return -EIO;
    s->mounted = true;
    return 0;
}

static unsigned idle_threads(const struct vd_session *s)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return vd_min(s->threads, IDLE_EXTRA + (cores > 0 ? (unsigned)cores : 1) * IDLE_PER_CORE);
}

int vd_session_loop(struct vd_session *s)
{
    struct fuse_loop_config *loop = fuse_loop_cfg_create();
    if (!loop)
        return -ENOMEM;
    fuse_loop_cfg_set_clone_fd(loop, CLONE_FD);
    fuse_loop_cfg_set_max_threads(loop, s->threads);
    fuse_loop_cfg_set_idle_threads(loop, idle_threads(s));

    int r = -EIO;
    if (fuse_set_signal_handlers(s->fuse) == 0) {
        r = fuse_session_loop_mt(s->fuse, loop);
        fuse_remove_signal_handlers(s->fuse);
    }
    fuse_loop_cfg_destroy(loop);
    return r < 0 ? r : 0; /* positive: the signal that asked us to stop */
}

void vd_session_unmount(struct vd_session *s)
{
    if (s->mounted)
        fuse_session_unmount(s->fuse);
    s->mounted = false;
}

void vd_session_free(struct vd_session *s)
{
    if (!s)
        return;
    vd_session_unmount(s);
    fuse_session_destroy(s->fuse);
    free(s);
}

/* ---- answers to OPEN and CREATE ---- */

static void seconds_split(double seconds, uint64_t *ret_s, uint32_t *ret_ns)
{
    *ret_s = (uint64_t)seconds;
    *ret_ns = (uint32_t)((seconds - (double)*ret_s) * 1e9);
}

static void fill_entry(const struct fuse_entry_param *e, struct fuse_entry_out *ret_out)
{
    const struct stat *st = &e->attr;

    *ret_out = (struct fuse_entry_out){
        .nodeid = e->ino,
        .generation = e->generation,
        .attr =
            {
                .ino = st->st_ino,
                .size = (uint64_t)st->st_size,
                .blocks = (uint64_t)st->st_blocks,
                .atime = (uint64_t)st->st_atim.tv_sec,
                .mtime = (uint64_t)st->st_mtim.tv_sec,
                .ctime = (uint64_t)st->st_ctim.tv_sec,
                .atimensec = (uint32_t)st->st_atim.tv_nsec,
                .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
                .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
                .mode = st->st_mode,
                .nlink = (uint32_t)st->st_nlink,
                .uid = st->st_uid,
                .gid = st->st_gid,
                .rdev = (uint32_t)st->st_rdev,
                .blksize = (uint32_t)st->st_blksize,
            },
    };
    seconds_split(e->entry_timeout, &ret_out->entry_valid, &ret_out->entry_valid_nsec);
    seconds_split(e->attr_timeout, &ret_out->attr_valid, &ret_out->attr_valid_nsec);
}

int vd_session_reply_open(fuse_req_t req, const struct fuse_entry_param *e,
                          const struct vd_session_open *o)
{
    struct fuse_entry_out entry;
    struct fuse_open_out out = {
        .fh = o->fh,
        .open_flags = (o->direct_io ? FOPEN_DIRECT_IO : 0) |
                      (o->parallel_writes ? FOPEN_PARALLEL_DIRECT_WRITES : 0),
    };
    struct iovec iov[2];
    int n = 0;

    if (e) {
        fill_entry(e, &entry);
        iov[n++] = (struct iovec){.iov_base = &entry, .iov_len = sizeof(entry)};
    }
    iov[n++] = (struct iovec){.iov_base = &out, .iov_len = sizeof(out)};
    return fuse_reply_iov(req, iov, n);
}

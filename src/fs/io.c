// SPDX-License-Identifier: Apache-2.0
/*
 * Data. A disk's requests go on to vd_disk.h with the request itself as the callback's user
 * pointer, so that a read allocates nothing; what is passed through is read and written here, by
 * the worker.
 */
#include "fs.h"

#include <linux/falloc.h>
#include <sys/ioctl.h>

#include "vd_file.h"

static void read_done(void *user, ssize_t result, const void *data)
{
    fuse_req_t req = user;
    struct vd_fs *fs = vd__fs(req);

    if (result < 0)
        fuse_reply_err(req, (int)-result);
    else
        fuse_reply_buf(req, data, (size_t)result);
    vd__inflight_end(fs);
}

static void read_file(fuse_req_t req, const struct vd_handle *h, size_t size, off_t off)
{
    vd_cleanup_free char *buf = malloc(size);
    ssize_t n = buf ? vd_pread_full(h->fd, buf, size, off) : -ENOMEM;
    if (n < 0)
        vd__reply(req, (int)n);
    else
        fuse_reply_buf(req, buf, (size_t)n);
}

void vd__op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);

    if (!h) {
        vd__reply(req, -EBADF);
    } else if (h->disk) {
        vd__inflight_begin(fs);
        vd_disk_read(h->disk, (uint64_t)off, size, read_done, req);
    } else {
        read_file(req, h, size, off);
    }
}

static void write_done(void *user, ssize_t result, const void *data)
{
    fuse_req_t req = user;
    struct vd_fs *fs = vd__fs(req);

    if (result < 0)
        fuse_reply_err(req, (int)-result);
    else
        fuse_reply_write(req, (size_t)result);
    vd__inflight_end(fs);
}

/* A write through a handle that was opened O_SYNC or O_DSYNC: flushed before it is answered. */
struct sync_write {
    fuse_req_t req;
    struct vd_disk *disk;
    ssize_t written;
};

static void sync_flushed(void *user, ssize_t result, const void *data)
{
    struct sync_write *w = user;
    write_done(w->req, result < 0 ? result : w->written, NULL);
    free(w);
}

static void sync_written(void *user, ssize_t result, const void *data)
{
    struct sync_write *w = user;

    w->written = result;
    if (result < 0)
        sync_flushed(w, result, NULL);
    else
        vd_disk_flush(w->disk, true, sync_flushed, w);
}

static void write_disk(fuse_req_t req, struct vd_handle *h, const char *buf, size_t size, off_t off)
{
    struct vd_fs *fs = vd__fs(req);
    struct sync_write *w = NULL;

    if (h->sync) {
        w = malloc(sizeof(*w));
        if (!w) {
            vd__reply(req, -ENOMEM);
            return;
        }
        *w = (struct sync_write){.req = req, .disk = h->disk};
    }
    vd__inflight_begin(fs);
    if (w)
        vd_disk_write(h->disk, (uint64_t)off, buf, size, sync_written, w);
    else
        vd_disk_write(h->disk, (uint64_t)off, buf, size, write_done, req);
}

void vd__op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off,
                  struct fuse_file_info *fi)
{
    struct vd_handle *h = vd__handle(vd__fs(req), fi);

    if (!h || !h->writable) {
        vd__reply(req, -EBADF);
        return;
    }
    if (atomic_load_explicit(&h->node->set_id, memory_order_relaxed))
        vd__clear_set_id(req, h->node);
    if (h->disk) {
        write_disk(req, h, buf, size, off);
        return;
    }
    int r = vd_pwrite_full(h->fd, buf, size, off);
    if (r < 0)
        vd__reply(req, r);
    else
        fuse_reply_write(req, size);
}

/* Answers a request that has nothing to tell but success. */
static void plain_done(void *user, ssize_t result, const void *data)
{
    fuse_req_t req = user;
    struct vd_fs *fs = vd__fs(req);

    vd__reply(req, result < 0 ? (int)result : 0);
    vd__inflight_end(fs);
}

void vd__op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);

    if (!h) {
        vd__reply(req, -EBADF);
    } else if (h->disk) {
        vd__inflight_begin(fs);
        vd_disk_flush(h->disk, datasync, plain_done, req);
    } else {
        int r = datasync ? fdatasync(h->fd) : fsync(h->fd);
        vd__reply(req, r < 0 ? -errno : 0);
    }
}

static int zero_mode(int mode, enum vd_zero_mode *ret_mode)
{
    switch (mode) {
    case 0:
        *ret_mode = VD_ALLOC_EXTEND;
        return 0;
    case FALLOC_FL_KEEP_SIZE:
        *ret_mode = VD_ALLOC_KEEP;
        return 0;
    case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
        *ret_mode = VD_ZERO_PUNCH;
        return 0;
    case FALLOC_FL_ZERO_RANGE:
        *ret_mode = VD_ZERO_EXTEND;
        return 0;
    case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
        *ret_mode = VD_ZERO_KEEP;
        return 0;
    default:
        return -EOPNOTSUPP;
    }
}

void vd__op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
                      struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);
    enum vd_zero_mode zero;

    int r = h && h->writable ? zero_mode(mode, &zero) : -EBADF;
    if (r < 0) {
        vd__reply(req, r);
    } else if (h->disk) {
        vd__inflight_begin(fs);
        vd_disk_zero(h->disk, zero, (uint64_t)off, (uint64_t)len, plain_done, req);
    } else {
        vd__reply(req, fallocate(h->fd, mode, off, len) < 0 ? -errno : 0);
    }
}

static void seek_done(void *user, ssize_t result, const void *data)
{
    fuse_req_t req = user;
    struct vd_fs *fs = vd__fs(req);

    if (result < 0)
        vd__reply(req, (int)result);
    else
        fuse_reply_lseek(req, result);
    vd__inflight_end(fs);
}

void vd__op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *h = vd__handle(fs, fi);

    if (!h || (whence != SEEK_DATA && whence != SEEK_HOLE)) {
        vd__reply(req, h ? -EINVAL : -EBADF);
    } else if (off < 0) {
        vd__reply(req, -ENXIO);
    } else if (h->disk) {
        vd__inflight_begin(fs);
        vd_disk_seek(h->disk, (uint64_t)off, whence, seek_done, req);
    } else {
        off_t found = lseek(h->fd, off, whence);
        if (found < 0)
            vd__reply(req, -errno);
        else
            fuse_reply_lseek(req, found);
    }
}

void vd__op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg,
                  struct fuse_file_info *fi, unsigned flags, const void *in_buf, size_t in_size,
                  size_t out_size)
{
    vd__reply(req, -ENOTTY);
}

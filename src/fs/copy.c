// SPDX-License-Identifier: Apache-2.0
/*
 * copy_file_range. Between files that are passed through the kernel copies (it may share extents);
 * where a disk is on either side its blocks must go through the disk, one request of at most 1 MiB
 * a call: the caller comes again for the rest.
 */
#include "fs.h"

#include "vd_file.h"

struct copy {
    fuse_req_t req;
    struct vd_fs *fs;
    struct vd_handle *out;
    off_t off_out;
};

static void copied(void *user, ssize_t result, const void *data)
{
    struct copy *c = user;
    struct vd_fs *fs = c->fs;

    if (result < 0)
        vd__reply(c->req, (int)result);
    else
        fuse_reply_write(c->req, (size_t)result);
    free(c);
    vd__inflight_end(fs);
}

/* RESULT bytes of the input are in DATA: on to the output. */
static void copy_write(void *user, ssize_t result, const void *data)
{
    struct copy *c = user;

    if (result <= 0) {
        copied(c, result, NULL);
    } else if (c->out->disk) {
        vd_disk_write(c->out->disk, (uint64_t)c->off_out, data, (size_t)result, copied, c);
    } else {
        int r = vd_pwrite_full(c->out->fd, data, (size_t)result, c->off_out);
        copied(c, r < 0 ? r : result, NULL);
    }
}

static int copy_through(fuse_req_t req, struct vd_handle *in, off_t off_in, struct vd_handle *out,
                        off_t off_out, size_t len)
{
    struct vd_fs *fs = vd__fs(req);
    vd_cleanup_free void *buf = in->disk ? NULL : malloc(len);
    struct copy *c = malloc(sizeof(*c));

    if (!c || (!in->disk && !buf)) {
        free(c);
        return -ENOMEM;
    }
    *c = (struct copy){.req = req, .fs = fs, .out = out, .off_out = off_out};
    vd__inflight_begin(fs);
    if (in->disk)
        vd_disk_read(in->disk, (uint64_t)off_in, len, copy_write, c);
    else
        copy_write(c, vd_pread_full(in->fd, buf, len, off_in), buf);
    return 0;
}

void vd__op_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
                            struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
                            struct fuse_file_info *fi_out, size_t len, int flags)
{
    struct vd_fs *fs = vd__fs(req);
    struct vd_handle *in = vd__handle(fs, fi_in), *out = vd__handle(fs, fi_out);

    if (!in || !out || !out->writable) {
        vd__reply(req, -EBADF);
        return;
    }
    if (in->disk || out->disk) {
        int r = copy_through(req, in, off_in, out, off_out, vd_min(len, (size_t)VD_IO_MAX_BYTES));
        if (r < 0)
            vd__reply(req, r);
        return;
    }
    ssize_t n = copy_file_range(in->fd, &off_in, out->fd, &off_out, len, (unsigned)flags);
    if (n < 0)
        vd__reply(req, -errno);
    else
        fuse_reply_write(req, (size_t)n);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The file backend. Two descriptors of one file: `b.fd` buffered, which also carries the owner's
 * lock, and with --backing-direct one opened O_DIRECT for transfers that are aligned; the kernel
 * keeps the two coherent.
 */
#include "vd_backing.h"

#include <fcntl.h>
#include <linux/falloc.h>

#include "vd_file.h"

struct file_backing {
    struct vd_backing b;
    int direct_fd; /* -1: none */
};

static struct file_backing *of(struct vd_backing *b)
{
    return vd_container_of(b, struct file_backing, b);
}

/* The descriptor for a transfer: direct only where every part of it is aligned. */
static int pick_fd(struct vd_backing *b, const void *buf, size_t len, uint64_t off)
{
    bool aligned = (((uintptr_t)buf | len | off) & (VD_BLOCK_SIZE - 1)) == 0;
    return aligned && of(b)->direct_fd >= 0 ? of(b)->direct_fd : b->fd;
}

/* A file system may want more than our alignment, and at an odd end of file even that is refused
 * for the rest of a short transfer: then it goes buffered. */
static ssize_t file_pread(struct vd_backing *b, void *buf, size_t len, uint64_t off)
{
    int fd = pick_fd(b, buf, len, off);
    ssize_t n = vd_pread_full(fd, buf, len, (off_t)off);
    return n == -EINVAL && fd != b->fd ? vd_pread_full(b->fd, buf, len, (off_t)off) : n;
}

static ssize_t file_pwrite(struct vd_backing *b, const void *buf, size_t len, uint64_t off)
{
    int fd = pick_fd(b, buf, len, off);
    int r = vd_pwrite_full(fd, buf, len, (off_t)off);
    if (r == -EINVAL && fd != b->fd)
        r = vd_pwrite_full(b->fd, buf, len, (off_t)off);
    return r < 0 ? r : (ssize_t)len;
}

static int file_sync(struct vd_backing *b, bool data_only)
{
    return (data_only ? fdatasync(b->fd) : fsync(b->fd)) < 0 ? -errno : 0;
}

static int file_zero(struct vd_backing *b, enum vd_zero_mode mode, uint64_t off, uint64_t len)
{
    static const int flags[] = {
        [VD_ZERO_PUNCH] = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        [VD_ZERO_KEEP] = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        [VD_ZERO_EXTEND] = FALLOC_FL_ZERO_RANGE,
        [VD_ALLOC_KEEP] = FALLOC_FL_KEEP_SIZE,
        [VD_ALLOC_EXTEND] = 0,
    };
    while (fallocate(b->fd, flags[mode], (off_t)off, (off_t)len) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

static int file_truncate(struct vd_backing *b, uint64_t size)
{
    return ftruncate(b->fd, (off_t)size) < 0 ? -errno : 0;
}

static int file_stat(struct vd_backing *b, struct stat *ret_st)
{
    return fstat(b->fd, ret_st) < 0 ? -errno : 0;
}

static off_t file_seek(struct vd_backing *b, off_t off, int whence)
{
    off_t r = lseek(b->fd, off, whence);
    return r < 0 ? -errno : r;
}

static void file_close(struct vd_backing *b)
{
    struct file_backing *f = of(b);
    if (f->direct_fd >= 0)
        close(f->direct_fd);
    if (b->fd >= 0)
        close(b->fd);
    free(f);
}

static const struct vd_backing_ops file_ops = {
    .pread = file_pread,
    .pwrite = file_pwrite,
    .sync = file_sync,
    .zero = file_zero,
    .truncate = file_truncate,
    .stat = file_stat,
    .seek = file_seek,
    .close = file_close,
};

int vd_backing_file_open(int path_fd, bool write, bool direct, struct vd_backing **ret_backing)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    vd_cleanup(vd_backing_close_p) struct vd_backing *b = NULL;
    struct file_backing *f = calloc(1, sizeof(*f));
    if (!f)
        return -ENOMEM;
    b = &f->b;
    *f = (struct file_backing){.b = {.ops = &file_ops, .fd = -1}, .direct_fd = -1};
    if (write) {
        b->fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY);
        b->writable = b->fd >= 0;
        if (b->fd < 0 && errno != EACCES && errno != EROFS && errno != EPERM && errno != ETXTBSY)
            return -errno;
    }
    if (b->fd < 0)
        b->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (b->fd < 0)
        return -errno;
    struct stat st;
    if (fstat(b->fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    if (direct) /* a file system without O_DIRECT is served buffered */
        f->direct_fd =
            open(path, (b->writable ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC | O_NOCTTY);
    *ret_backing = vd_steal_ptr(b);
    return 0;
}

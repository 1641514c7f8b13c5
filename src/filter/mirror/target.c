// SPDX-License-Identifier: Apache-2.0
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef BLKGETDISKSEQ
#define BLKGETDISKSEQ _IOR(0x12, 128, __u64)
#endif

#define ZERO_BY_WRITING (16u << 20) /* the most; more is left to a resync */

static int whyf(char why[TARGET_WHY], const char *path, int r, const char *what)
{
    if (what)
        snprintf(why, TARGET_WHY, "%.200s: %.90s", path, what);
    else
        snprintf(why, TARGET_WHY, "%.200s: %.90s", path, strerror(-r));
    return r;
}

/* ---- identity ---- */

static void read_handle(int fd, struct target_id *id)
{
    union {
        struct file_handle h;
        uint8_t room[sizeof(struct file_handle) + sizeof(id->handle)];
    } u = {.h.handle_bytes = sizeof(id->handle)};
    int mount;
    if (name_to_handle_at(fd, "", &u.h, &mount, AT_EMPTY_PATH) < 0)
        return;
    id->handle_type = u.h.handle_type;
    id->handle_bytes = u.h.handle_bytes;
    memcpy(id->handle, u.h.f_handle, u.h.handle_bytes);
}

static void read_id(struct target *t, const struct stat *st)
{
    struct statx x;
    t->id.dev = t->block ? st->st_rdev : st->st_dev;
    t->id.ino = t->block ? 0 : st->st_ino;
    if (t->block) {
        uint64_t seq;
        if (ioctl(t->fd, BLKGETDISKSEQ, &seq) == 0)
            t->id.disk_seq = seq;
        return;
    }
    if (statx(t->fd, "", AT_EMPTY_PATH, STATX_BTIME, &x) == 0 && x.stx_mask & STATX_BTIME) {
        t->id.birth_s = x.stx_btime.tv_sec;
        t->id.birth_ns = x.stx_btime.tv_nsec;
    }
    read_handle(t->fd, &t->id);
}

bool target_id_same(const struct target_id *a, const struct target_id *b)
{
    if (a->dev != b->dev || a->ino != b->ino)
        return false;
    if (a->disk_seq && a->disk_seq == b->disk_seq)
        return true;
    /* An inode number alone may have been given to another file. */
    if (a->birth_s && a->birth_s == b->birth_s && a->birth_ns == b->birth_ns)
        return true;
    return a->handle_bytes && a->handle_bytes == b->handle_bytes &&
           a->handle_type == b->handle_type && memcmp(a->handle, b->handle, a->handle_bytes) == 0;
}

uint64_t target_parent_dev(const char *path)
{
    struct stat st;
    char *copy = strdup(path);
    uint64_t dev = copy && stat(dirname(copy), &st) == 0 ? st.st_dev : 0;
    free(copy);
    return dev;
}

int target_check_path(const struct target *t, const char *path)
{
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    bool same = t->block ? S_ISBLK(st.st_mode) && st.st_rdev == t->id.dev
                         : st.st_dev == t->id.dev && st.st_ino == t->id.ino;
    return same ? 0 : -ESTALE;
}

/* ---- opening ---- */

/* What PATH leads to may be opened: some devices do something when they are. *RET_FLAGS for it. */
static int look(const struct target_wanted *w, int *ret_flags, char why[TARGET_WHY])
{
    struct stat st;
    *ret_flags = 0;
    if (stat(w->path, &st) < 0) {
        int r = -errno;
        if (r != -ENOENT)
            return whyf(why, w->path, r, NULL);
        if (!w->create)
            return whyf(why, w->path, r, "it does not exist");
        if (w->parent_dev && target_parent_dev(w->path) != w->parent_dev)
            return whyf(why, w->path, r, "it is gone, and so is the file system that it was on");
        *ret_flags = O_CREAT;
        return 0;
    }
    if (S_ISBLK(st.st_mode))
        *ret_flags = O_EXCL; /* not one that is mounted, or part of another device */
    else if (!S_ISREG(st.st_mode))
        return whyf(why, w->path, -EINVAL, "it must be a regular file or a block device");
    return 0;
}

static int check_size(struct target *t, const struct target_wanted *w, char why[TARGET_WHY])
{
    uint64_t size;
    int r = target_size(t, &size);
    if (r < 0)
        return whyf(why, w->path, r, NULL);
    t->found_bytes = size;
    if (w->exact && !t->block && size != w->size_bytes)
        return whyf(why, w->path, -EINVAL, "it has not the disk's size, so it is not its copy");
    if (size >= w->size_bytes)
        return 0;
    if (t->block || !w->create)
        return whyf(why, w->path, -ENOSPC, "it is smaller than the disk");
    r = target_set_size(t, w->size_bytes);
    return r < 0 ? whyf(why, w->path, r, NULL) : 0;
}

int target_open(const struct target_wanted *w, struct target **ret_t, char why[TARGET_WHY])
{
    struct stat st;
    int flags, r = look(w, &flags, why);
    if (r < 0)
        return r;
    int fd = open(w->path, O_RDWR | O_CLOEXEC | O_NOCTTY | flags, 0600);
    if (fd < 0)
        return whyf(why, w->path, -errno, errno == EBUSY ? "the block device is in use" : NULL);
    struct target *t = calloc(1, sizeof(*t));
    if (!t || fstat(fd, &st) < 0) {
        r = t ? -errno : -ENOMEM;
        free(t);
        close(fd);
        return whyf(why, w->path, r, NULL);
    }
    t->fd = fd;
    t->block = S_ISBLK(st.st_mode);
    atomic_init(&t->refs, 1);
    if (!t->block && !S_ISREG(st.st_mode))
        r = whyf(why, w->path, -EINVAL, "it must be a regular file or a block device");
    else if (st.st_dev == w->dev && st.st_ino == w->ino)
        r = whyf(why, w->path, -EINVAL, "it is the disk itself");
    if (r == 0)
        r = target_lock(fd, w->path, why);
    if (r == 0)
        r = check_size(t, w, why);
    if (r < 0) {
        target_unref(t);
        return r;
    }
    read_id(t, &st);
    *ret_t = t;
    return 0;
}

struct target *target_ref(struct target *t)
{
    atomic_fetch_add(&t->refs, 1);
    return t;
}

void target_unref(struct target *t)
{
    if (!t || atomic_fetch_sub(&t->refs, 1) > 1)
        return;
    close(t->fd);
    free(t);
}

/* ---- its bytes ---- */

int target_read(const struct target *t, void *buf, size_t len, uint64_t offset)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pread(t->fd, (uint8_t *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        done += (size_t)n;
    }
    return 0;
}

int target_write(const struct target *t, const void *buf, size_t len, uint64_t offset)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(t->fd, (const uint8_t *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENOSPC;
        done += (size_t)n;
    }
    return 0;
}

static int allocate(const struct target *t, int mode, uint64_t offset, uint64_t len)
{
    int r;
    do
        r = fallocate(t->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static bool cannot(int r)
{
    return r == -EOPNOTSUPP || r == -ENOSYS || r == -EINVAL || r == -ENODEV;
}

int target_zero(const struct target *t, uint64_t offset, uint64_t len, bool discard)
{
    static const uint8_t zeroes[64 << 10];
    uint64_t size;
    int r = -EOPNOTSUPP;
    if (len == 0)
        return 0;
    if (!discard)
        r = allocate(t, FALLOC_FL_ZERO_RANGE, offset, len);
    if (cannot(r))
        r = allocate(t, FALLOC_FL_PUNCH_HOLE, offset, len);
    if (!cannot(r))
        return r;
    r = target_size(t, &size);
    if (r < 0 || offset >= size)
        return r;
    if (len > size - offset)
        len = size - offset;
    if (len > ZERO_BY_WRITING)
        return -E2BIG;
    for (uint64_t done = 0; done < len && r == 0; done += sizeof(zeroes)) {
        uint64_t left = len - done;
        r = target_write(t, zeroes, left < sizeof(zeroes) ? left : sizeof(zeroes), offset + done);
    }
    return r;
}

int target_sync(const struct target *t)
{
    return fdatasync(t->fd) < 0 ? -errno : 0;
}

/* ---- its size ---- */

int target_size(const struct target *t, uint64_t *ret_size)
{
    struct stat st;
    uint64_t bytes;
    if (t->block && ioctl(t->fd, BLKGETSIZE64, &bytes) == 0) {
        *ret_size = bytes;
        return 0;
    }
    if (t->block || fstat(t->fd, &st) < 0)
        return -errno;
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

int target_set_size(const struct target *t, uint64_t size)
{
    uint64_t now;
    int r = target_size(t, &now);
    if (r < 0 || now == size)
        return r;
    if (t->block)
        return now < size ? -ENOSPC : 0;
    return ftruncate(t->fd, (off_t)size) < 0 ? -errno : 0;
}

static int from_stat(const struct stat *st, struct target_stat *ret_s)
{
    if (S_ISBLK(st->st_mode)) {
        *ret_s = (struct target_stat){.block = true};
        return 0;
    }
    if (!S_ISREG(st->st_mode))
        return -EINVAL;
    *ret_s = (struct target_stat){.size = (uint64_t)st->st_size,
                                  .mtime_s = st->st_mtim.tv_sec,
                                  .mtime_ns = (uint32_t)st->st_mtim.tv_nsec};
    return 0;
}

int target_stat(const struct target *t, struct target_stat *ret_s)
{
    struct stat st;
    return fstat(t->fd, &st) < 0 ? -errno : from_stat(&st, ret_s);
}

int target_stat_path(const char *path, struct target_stat *ret_s)
{
    struct stat st;
    return stat(path, &st) < 0 ? -errno : from_stat(&st, ret_s);
}

bool target_stat_same(const struct target_stat *a, const struct target_stat *b)
{
    return a->block == b->block && a->size == b->size && a->mtime_s == b->mtime_s &&
           a->mtime_ns == b->mtime_ns;
}

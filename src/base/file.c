// SPDX-License-Identifier: Apache-2.0
#include "vd_file.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "vd_id.h"
#include "vd_time.h"

ssize_t vd_pread_full(int fd, void *buf, size_t len, off_t off)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, off + (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int vd_pwrite_full(int fd, const void *buf, size_t len, off_t off)
{
    while (len > 0) {
        ssize_t n = pwrite(fd, buf, len, off);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -EIO;
        buf = (const char *)buf + n;
        len -= (size_t)n;
        off += n;
    }
    return 0;
}

int vd_fsync_dir(int dirfd, const char *name)
{
    vd_cleanup_close int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

static int write_new(int dirfd, const char *name, const void *buf, size_t len, mode_t mode)
{
    vd_cleanup_close int fd =
        openat(dirfd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
    if (fd < 0)
        return -errno;
    int r = vd_pwrite_full(fd, buf, len, 0);
    if (r < 0)
        return r;
    return fsync(fd) < 0 ? -errno : 0;
}

int vd_file_replace(int dirfd, const char *name, const void *buf, size_t len, mode_t mode)
{
    struct vd_id id;
    int r = vd_id_new(&id);
    if (r < 0)
        return r;
    char hex[VD_ID_HEX], tmp[64];
    vd_id_hex(&id, hex);
    snprintf(tmp, sizeof(tmp), ".tmp-%s", hex);
    r = write_new(dirfd, tmp, buf, len, mode);
    if (r == 0 && renameat(dirfd, tmp, dirfd, name) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(dirfd, tmp, 0);
        return r;
    }
    return vd_fsync_dir(dirfd, ".");
}

int vd_lock_try(int fd, enum vd_lock mode, off_t off, off_t len)
{
    static const short type[] = {F_UNLCK, F_RDLCK, F_WRLCK};
    struct flock lk = {.l_type = type[mode], .l_whence = SEEK_SET, .l_start = off, .l_len = len};
    while (fcntl(fd, F_OFD_SETLK, &lk) < 0) {
        if (errno == EACCES)
            return -EAGAIN;
        if (errno != EINTR)
            return -errno;
    }
    return 0;
}

int vd_lock_wait(int fd, enum vd_lock mode, off_t off, off_t len, unsigned timeout_ms)
{
    uint64_t deadline = vd_now_ms() + timeout_ms;
    struct timespec pause = {.tv_nsec = 200000};
    for (;;) {
        int r = vd_lock_try(fd, mode, off, len);
        if (r != -EAGAIN)
            return r;
        if (vd_now_ms() >= deadline)
            return -ETIMEDOUT;
        nanosleep(&pause, NULL);
        pause.tv_nsec = vd_min(2 * pause.tv_nsec, 10000000l);
    }
}

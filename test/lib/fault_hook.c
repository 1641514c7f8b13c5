// SPDX-License-Identifier: Apache-2.0
/*
 * The hooks of the fault interposer: libc's functions, each of which asks fault.c and then makes
 * the system call itself.
 */
/* Both names of each call are defined here, so neither may be made the other by a macro. */
#undef _FORTIFY_SOURCE
#undef _FILE_OFFSET_BITS

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fault.h"

/* For calls that are made whole or not at all: -1 with errno if C is to fail. */
static int gate(const struct fault_call *c)
{
    struct fault_verdict v = fault_judge(c);

    if (v.kill)
        fault_kill_self();
    if (v.err) {
        errno = v.err;
        return -1;
    }
    return 0;
}

/* Makes a write. OFF -1: at the file's position, as write() does. */
static ssize_t write_some(int fd, const void *buf, size_t len, off_t off)
{
    return off < 0 ? syscall(SYS_write, fd, buf, len) : syscall(SYS_pwrite64, fd, buf, len, off);
}

static ssize_t torn_write(struct fault_verdict v, int fd, const struct iovec *iov, int niov,
                          off_t off)
{
    size_t left = (size_t)v.tear;
    ssize_t done = 0;

    for (int i = 0; i < niov && left; i++) {
        size_t n = iov[i].iov_len < left ? iov[i].iov_len : left;
        ssize_t r = write_some(fd, iov[i].iov_base, n, off < 0 ? off : off + done);
        if (r <= 0)
            break;
        done += r;
        left -= (size_t)r;
    }
    if (v.kill)
        fault_kill_self();
    if (v.err) {
        errno = v.err;
        return -1;
    }
    return done;
}

static size_t iov_bytes(const struct iovec *iov, int niov)
{
    size_t len = 0;

    for (int i = 0; i < niov; i++)
        len += iov[i].iov_len;
    return len;
}

/* 1 if the call is to be made; else it has its result in *RET_DONE and errno. */
static int write_gate(enum fault_op op, int fd, const struct iovec *iov, int niov, off_t off,
                      ssize_t *ret_done)
{
    struct fault_call c = {.op = op, .fd = fd, .off = off, .len = iov_bytes(iov, niov)};
    struct fault_verdict v = fault_judge(&c);
    if (v.tear >= 0) {
        *ret_done = torn_write(v, fd, iov, niov, off);
        return 0;
    }
    if (v.err) {
        errno = v.err;
        *ret_done = -1;
        return 0;
    }
    return 1;
}

ssize_t write(int fd, const void *buf, size_t len)
{
    struct iovec iov = {(void *)buf, len};
    ssize_t done;

    return write_gate(FAULT_WRITE, fd, &iov, 1, -1, &done) ? syscall(SYS_write, fd, buf, len)
                                                           : done;
}

ssize_t pwrite(int fd, const void *buf, size_t len, off_t off)
{
    struct iovec iov = {(void *)buf, len};
    ssize_t done;

    return write_gate(FAULT_PWRITE, fd, &iov, 1, off, &done)
               ? syscall(SYS_pwrite64, fd, buf, len, off)
               : done;
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t off)
{
    return pwrite(fd, buf, len, off);
}

/* The system call takes the offset in two halves, of which a 64-bit kernel uses the first. */
ssize_t pwritev2(int fd, const struct iovec *iov, int niov, off_t off, int flags)
{
    ssize_t done;

    return write_gate(FAULT_PWRITEV, fd, iov, niov, off, &done)
               ? syscall(SYS_pwritev2, fd, iov, niov, off, 0, flags)
               : done;
}

ssize_t pwritev(int fd, const struct iovec *iov, int niov, off_t off)
{
    ssize_t done;

    return write_gate(FAULT_PWRITEV, fd, iov, niov, off, &done)
               ? syscall(SYS_pwritev, fd, iov, niov, off, 0)
               : done;
}

/* LMDB writes pages that follow each other so, after an lseek. */
ssize_t writev(int fd, const struct iovec *iov, int niov)
{
    ssize_t done;

    return write_gate(FAULT_WRITEV, fd, iov, niov, -1, &done) ? syscall(SYS_writev, fd, iov, niov)
                                                              : done;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int niov, off64_t off)
{
    return pwritev(fd, iov, niov, off);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int niov, off64_t off, int flags)
{
    return pwritev2(fd, iov, niov, off, flags);
}

/* The system call CALL, if C is to be made. */
#define SYNC(c, call)                                                                              \
    ({                                                                                             \
        struct fault_verdict v_ = fault_judge(c);                                                  \
        int r_ = -1;                                                                               \
        if (v_.kill)                                                                               \
            fault_kill_self();                                                                     \
        if (v_.err)                                                                                \
            errno = v_.err;                                                                        \
        else                                                                                       \
            r_ = (int)(call);                                                                      \
        if (v_.after_ms)                                                                           \
            fault_sleep(v_.after_ms);                                                              \
        r_;                                                                                        \
    })

int fsync(int fd)
{
    return SYNC(&((struct fault_call){.op = FAULT_FSYNC, .fd = fd}), syscall(SYS_fsync, fd));
}

int fdatasync(int fd)
{
    return SYNC(&((struct fault_call){.op = FAULT_FDATASYNC, .fd = fd}),
                syscall(SYS_fdatasync, fd));
}

int msync(void *addr, size_t len, int flags)
{
    struct fault_call c = {.op = FAULT_MSYNC, .fd = -1, .addr = addr, .len = len};

    return SYNC(&c, syscall(SYS_msync, addr, len, flags));
}

int renameat2(int fd, const char *from, int fd2, const char *to, unsigned flags)
{
    struct fault_call c = {.op = FAULT_RENAME, .fd = fd, .name = from, .fd2 = fd2, .name2 = to};

    return gate(&c) ? -1 : (int)syscall(SYS_renameat2, fd, from, fd2, to, flags);
}

int renameat(int fd, const char *from, int fd2, const char *to)
{
    return renameat2(fd, from, fd2, to, 0);
}

int rename(const char *from, const char *to)
{
    return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlinkat(int fd, const char *name, int flags)
{
    struct fault_call c = {.op = FAULT_UNLINK, .fd = fd, .name = name};

    return gate(&c) ? -1 : (int)syscall(SYS_unlinkat, fd, name, flags);
}

int unlink(const char *name)
{
    return unlinkat(AT_FDCWD, name, 0);
}

int rmdir(const char *name)
{
    return unlinkat(AT_FDCWD, name, AT_REMOVEDIR);
}

void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off)
{
    struct fault_call c = {.op = FAULT_MMAP, .fd = fd, .off = off, .len = len};

    /* memory that no file stands behind is not what this is for */
    if (fd >= 0 && gate(&c))
        return MAP_FAILED;
    return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, off);
}

void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off64_t off)
{
    return mmap(addr, len, prot, flags, fd, off);
}

int ftruncate(int fd, off_t len)
{
    struct fault_call c = {.op = FAULT_FTRUNCATE, .fd = fd, .off = len};

    return gate(&c) ? -1 : (int)syscall(SYS_ftruncate, fd, len);
}

int ftruncate64(int fd, off64_t len)
{
    return ftruncate(fd, len);
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
    struct fault_call c = {.op = FAULT_FALLOCATE, .fd = fd, .off = off, .len = (size_t)len};

    return gate(&c) ? -1 : (int)syscall(SYS_fallocate, fd, mode, off, len);
}

int fallocate64(int fd, int mode, off64_t off, off64_t len)
{
    return fallocate(fd, mode, off, len);
}

/* Unlike the others it returns the error. Without libc's fallback of writing zeros. */
int posix_fallocate(int fd, off_t off, off_t len)
{
    int saved = errno;
    int r = fallocate(fd, 0, off, len) < 0 ? errno : 0;

    errno = saved;
    return r;
}

int posix_fallocate64(int fd, off64_t off, off64_t len)
{
    return posix_fallocate(fd, off, len);
}

int mkdirat(int fd, const char *name, mode_t mode)
{
    struct fault_call c = {.op = FAULT_MKDIR, .fd = fd, .name = name};

    return gate(&c) ? -1 : (int)syscall(SYS_mkdirat, fd, name, mode);
}

int mkdir(const char *name, mode_t mode)
{
    return mkdirat(AT_FDCWD, name, mode);
}

int fsetxattr(int fd, const char *name, const void *value, size_t len, int flags)
{
    struct fault_call c = {.op = FAULT_XATTR, .fd = fd, .len = len};

    return gate(&c) ? -1 : (int)syscall(SYS_fsetxattr, fd, name, value, len, flags);
}

int setxattr(const char *path, const char *name, const void *value, size_t len, int flags)
{
    struct fault_call c = {.op = FAULT_XATTR, .fd = AT_FDCWD, .name = path, .len = len};

    return gate(&c) ? -1 : (int)syscall(SYS_setxattr, path, name, value, len, flags);
}

int fremovexattr(int fd, const char *name)
{
    struct fault_call c = {.op = FAULT_XATTR, .fd = fd};

    return gate(&c) ? -1 : (int)syscall(SYS_fremovexattr, fd, name);
}

static int open_file(int fd, const char *name, int flags, mode_t mode)
{
    struct fault_call c = {.op = FAULT_CREATE, .fd = fd, .name = name};

    bool creates = (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;

    if (creates && gate(&c))
        return -1;
    return (int)syscall(SYS_openat, fd, name, flags, mode);
}

/* The mode is there only where the flags say so; reading it always is harmless in this ABI. */
#define OPEN_MODE(last)                                                                            \
    ({                                                                                             \
        va_list args_;                                                                             \
        va_start(args_, last);                                                                     \
        mode_t mode_ = va_arg(args_, mode_t);                                                      \
        va_end(args_);                                                                             \
        mode_;                                                                                     \
    })

int openat(int fd, const char *name, int flags, ...)
{
    return open_file(fd, name, flags, OPEN_MODE(flags));
}

int openat64(int fd, const char *name, int flags, ...)
{
    return open_file(fd, name, flags, OPEN_MODE(flags));
}

int open(const char *name, int flags, ...)
{
    return open_file(AT_FDCWD, name, flags, OPEN_MODE(flags));
}

int open64(const char *name, int flags, ...)
{
    return open_file(AT_FDCWD, name, flags, OPEN_MODE(flags));
}

int creat(const char *name, mode_t mode)
{
    return open_file(AT_FDCWD, name, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

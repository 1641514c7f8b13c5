// SPDX-License-Identifier: Apache-2.0
/* Whole reads and writes, atomic replacement, OFD locks. All functions: any thread, may block. */
#ifndef VD_FILE_H
#define VD_FILE_H

#include <sys/types.h>

#include "vd_base.h"

/* Reads LEN bytes at OFF unless the file ends first. The count read, or -errno; EINTR is retried.
 */
ssize_t vd_pread_full(int fd, void *buf, size_t len, off_t off) VD_WARN_UNUSED;

/* Writes all LEN bytes at OFF. 0, or -errno (then an unknown part is written). */
int vd_pwrite_full(int fd, const void *buf, size_t len, off_t off) VD_WARN_UNUSED;

/* Replaces NAME in DIRFD: new file, write, fsync, rename, fsync of the folder. A reader, and a
 * crash at any instant, sees the old or the new content whole. 0 or -errno; NAME is as it was on
 * failure (but for a failed fsync of the folder, after which either may be there). */
int vd_file_replace(int dirfd, const char *name, const void *buf, size_t len,
                    mode_t mode) VD_WARN_UNUSED;

/* fsync(2) of the folder NAME below DIRFD ("." for DIRFD itself). 0 or -errno. */
int vd_fsync_dir(int dirfd, const char *name) VD_WARN_UNUSED;

enum vd_lock { VD_LOCK_NONE, VD_LOCK_SHARED, VD_LOCK_EXCLUSIVE };

/* Takes, converts or drops the open file description lock on [OFF, OFF + LEN), without waiting.
 * 0, -EAGAIN if another holds it, -errno. The kernel drops it when the last copy of FD closes. */
int vd_lock_try(int fd, enum vd_lock mode, off_t off, off_t len) VD_WARN_UNUSED;

/* The same, waiting at most TIMEOUT_MS; -ETIMEDOUT then. */
int vd_lock_wait(int fd, enum vd_lock mode, off_t off, off_t len,
                 unsigned timeout_ms) VD_WARN_UNUSED;

#endif

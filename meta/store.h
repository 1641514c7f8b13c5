// SPDX-License-Identifier: Apache-2.0
/* The store's folder; every file in it is reached through descriptors, and no symbolic link is
 * followed. */
#ifndef VD__META_STORE_H
#define VD__META_STORE_H

#include <limits.h>

#include "vd_file.h"
#include "vd_meta.h"

#define VD__META_NAME "meta.mdb"
#define VD__LOCK_NAME "lock"
#define VD__LOCK_TIMEOUT_MS 5000u
#define VD__DISK_REL 48 /* "disks/" and a UUID */

struct vd_meta_store {
    int fd;
    int source_fd;       /* of the mirrored folder, where the layers are; -1: none was given */
    char path[PATH_MAX]; /* for messages */
};

void vd__disk_rel(const struct vd_id *uuid, char ret_rel[VD__DISK_REL]);

/* Opens the folder REL below the store. 0, -ENOENT, -ELOOP, -ENOTDIR, -errno. */
int vd__store_dir(const struct vd_meta_store *s, const char *rel, int *ret_fd) VD_WARN_UNUSED;

/* Makes and opens it, one level, 0700; the folder that it is made in is synced. */
int vd__store_make_dir(const struct vd_meta_store *s, const char *rel, int *ret_fd) VD_WARN_UNUSED;

/*
 * Locks FD's byte 0, passing a gate, byte 1, held while waiting for byte 0: who wants to write so
 * stops readers that come after it, which sharing byte 0 among them might never leave it free. To
 * let go close FD. 0, -ETIMEDOUT, -errno.
 */
int vd__lock_gated(int fd, enum vd_lock mode, unsigned timeout_ms) VD_WARN_UNUSED;

/*
 * Opens the disk's folder with its lock held. With MAKE the folder is made. A shared lock is done
 * without where no lock file is and none can be made (read-only file system): RET_LOCK_FD is -1
 * then. 0, -ENOENT, -ETIMEDOUT, -errno.
 */
int vd__disk_lock(const struct vd_meta_store *s, const struct vd_id *uuid, bool exclusive,
                  bool make, int *ret_dir_fd, int *ret_lock_fd) VD_WARN_UNUSED;

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * The FUSE side: names, inodes, attributes, directories, locks. It mirrors the source, passes small
 * files through, and hands the I/O of disks to vd_disk.h. Operations run on the session's workers.
 */
#ifndef VD_FS_H
#define VD_FS_H

#include "vd_backing.h"
#include "vd_base.h"
#include "vd_disk.h"
#include "vd_session.h"

struct vd_fs;

struct vd_fs_config {
    int source_fd;          /* O_PATH; borrowed, must outlive the fs */
    struct vd_disks *disks; /* borrowed */
    struct vd_lanes *lanes; /* borrowed */
    bool direct_io;         /* never use the kernel's page cache */
    bool read_only;
    void (*ready)(void *user); /* from the init operation, before it is answered; may be NULL */
    void *user;
};

/* 0, -ENOMEM, -errno of what it opens (/proc). */
int vd_fs_new(const struct vd_fs_config *config, struct vd_fs **ret_fs) VD_WARN_UNUSED;

/* The operations; their session's user pointer is the fs. */
const struct fuse_lowlevel_ops *vd_fs_ops(void);

/* The session that serves the operations, borrowed until vd_fs_drain: for vd_fs_changed. */
void vd_fs_set_session(struct vd_fs *fs, struct fuse_session *session);

/* Size or times of the file (DEV, INO) of the source were changed past the kernel (by the control
 * socket): what it remembers of them is forgotten. Waits for no request. Any thread but a
 * worker's. */
void vd_fs_changed(struct vd_fs *fs, dev_t dev, ino_t ino);

/* Waits until every request that was handed to a disk or a lock queue is answered: after the loop
 * has ended, before the session is freed. Clients that wait for a lock get EINTR. */
void vd_fs_drain(struct vd_fs *fs);

/* Closes what clients left open (a mount that ended without their RELEASE): after vd_fs_drain,
 * before the disks are freed. vd_fs_changed may still be called. */
void vd_fs_close_handles(struct vd_fs *fs);

/* Does that too where it was not done. NULL is allowed. */
void vd_fs_free(struct vd_fs *fs);

#endif

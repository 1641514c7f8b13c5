// SPDX-License-Identifier: Apache-2.0
/*
 * One FUSE session as this project runs it: limits, capabilities, workers. vdiskfs and the
 * measuring server of bench/ share it, so that a ratio between the two compares what is behind the
 * session only.
 */
#ifndef VD_SESSION_H
#define VD_SESSION_H

#define FUSE_USE_VERSION 314
#include <fuse3/fuse_lowlevel.h>

#include "vd_base.h"

struct vd_session;

struct vd_session_config {
    const char *mountpoint;
    const struct fuse_lowlevel_ops *ops; /* ->init must call vd_session_want */
    void *user;                          /* of the operations: fuse_req_userdata */
    struct fuse_args *args;              /* mount options (-o ...), borrowed for vd_session_new */
    unsigned threads;                    /* workers at most; 0: by cores */
};

/* Workers where none are asked for: enough that those who wait in a backing leave some to serve
 * hits. */
unsigned vd_session_default_threads(void);

/* Are the options in ARGS ones that FUSE knows? 0, or -EINVAL; libfuse says on stderr which is not.
 */
int vd_session_check_args(const struct fuse_args *args) VD_WARN_UNUSED;

/* 0, -EINVAL (an option is unknown: said on stderr by libfuse), -ENOMEM. */
int vd_session_new(const struct vd_session_config *config,
                   struct vd_session **ret_session) VD_WARN_UNUSED;

/* Mounts: from here on clients wait, until the loop answers. 0 or -EIO (libfuse said why on
 * stderr). */
int vd_session_mount(struct vd_session *s) VD_WARN_UNUSED;

/* Serves until unmounted, or until SIGTERM, SIGINT or SIGHUP (which only the calling thread may
 * have unblocked while it runs). Requests that operations answer later may still be under way
 * afterwards. 0 for a clean stop, -errno. */
int vd_session_loop(struct vd_session *s) VD_WARN_UNUSED;

/* Unmounts (lazily) where still mounted; no loop may run. Then no request can be answered any more.
 */
void vd_session_unmount(struct vd_session *s);

/* NULL is allowed. All requests must be answered. */
void vd_session_free(struct vd_session *s);

struct fuse_session *vd_session_fuse(struct vd_session *s);

/* Asks the kernel for what we want; for the init operation. */
void vd_session_want(struct fuse_conn_info *conn);

/*
 * Answers OPEN and CREATE (E not NULL). libfuse 3.14 has no name for parallel direct writes,
 * without which the kernel sends one write of a file at a time, so the answer is laid out here as
 * <linux/fuse.h> defines it. 0; -errno: the kernel did not take it (no RELEASE will come).
 */
struct vd_session_open {
    uint64_t fh;
    bool direct_io;
    bool parallel_writes;
};
int vd_session_reply_open(fuse_req_t req, const struct fuse_entry_param *e,
                          const struct vd_session_open *o) VD_WARN_UNUSED;

#endif

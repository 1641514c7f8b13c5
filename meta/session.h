// SPDX-License-Identifier: Apache-2.0
#ifndef VD__META_SESSION_H
#define VD__META_SESSION_H

#include "env.h"
#include "store.h"
#include "vd_meta.h"

/* One thread's. */
struct vd_meta {
    struct vd__env env;
    enum vd_meta_mode mode;
    int dir_fd, lock_fd;
    int mdb_fd, sum_fd; /* READ: -1 once the copy is made */
    uint64_t len_bytes; /* of meta.mdb, at least */
    uint64_t txnid;     /* the last committed one */
    int put_error;      /* of the changes since the last commit: they cannot be committed */
    bool marked_open;   /* meta.sum says open, by us */
    bool unsynced;      /* pages of uncommitted changes may be in the file */
    bool leave_open;    /* a commit failed half way: let the next session look */
    char path[PATH_MAX + 64];
    char why[VD_META_WHY];
};

/* Before the first change of the session. 0 or -errno. */
int vd__session_mark_open(struct vd_meta *m) VD_WARN_UNUSED;

/* Before each operation: is the file still as long as it was, the map unharmed? 0, -EUCLEAN,
 * -errno. */
int vd__session_alive(struct vd_meta *m) VD_WARN_UNUSED;

/* Sets the session's sentence: "PATH/FILE: CAUSE; what to do", for FILE of the disk's folder.
 * Returns -EUCLEAN. */
int vd__session_refuse(struct vd_meta *m, const char *file, const char *fmt, ...) VD_PRINTF(3, 4);
/* The same for a file that was sound when the session began. */
int vd__session_refuse_broken(struct vd_meta *m);

#endif

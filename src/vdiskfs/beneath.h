// SPDX-License-Identifier: Apache-2.0
/*
 * Paths that a client of the control socket names, below the source. They are walked part by part
 * without following symbolic links, so they lead nowhere else; the client has resolved them.
 */
#ifndef VD_BENEATH_H
#define VD_BENEATH_H

#include <sys/types.h>

#include "vd_base.h"

#define VD_BENEATH_MAX 1024 /* of a path, with its NUL: what records hold (vd_meta.h) */

struct vd_beneath {
    int dir_fd;       /* the folder, for reading where that is allowed, else O_PATH; -1: closed */
    int fd;           /* the file, O_PATH; -1: none */
    const char *name; /* the path's last part, in path: not to be copied */
    char path[VD_BENEATH_MAX];
};
#define VD_BENEATH_INIT                                                                            \
    {                                                                                              \
        .dir_fd = -1, .fd = -1                                                                     \
    }

/* The folder of PATH, and its name in it; the file need not be there. 0; -EINVAL: no path of plain
 * names; -EPERM: in our private folder; -ENAMETOOLONG; -ELOOP or -ENOTDIR: a symbolic link on the
 * way; -errno. Blocks. */
int vd_beneath_dir(int source_fd, const char *path, struct vd_beneath *ret_b) VD_WARN_UNUSED;

/* The regular file PATH, which must be the one with DEV and INO: else -ESTALE (it was renamed or
 * replaced since the client looked). As above. */
int vd_beneath_file(int source_fd, const char *path, dev_t dev, ino_t ino,
                    struct vd_beneath *ret_b) VD_WARN_UNUSED;

void vd_beneath_close(struct vd_beneath *b);

#endif

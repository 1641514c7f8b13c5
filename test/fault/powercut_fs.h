// SPDX-License-Identifier: Apache-2.0
/* Between the operations and what serves them; apart from powercut.h, which knows no FUSE. */
#ifndef POWERCUT_FS_H
#define POWERCUT_FS_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

/* Their user data is a struct served. */
extern const struct fuse_lowlevel_ops fs_ops;

#endif

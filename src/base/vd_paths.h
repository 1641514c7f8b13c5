// SPDX-License-Identifier: Apache-2.0
/* Places that the daemon and the command line must agree upon. */
#ifndef VD_PATHS_H
#define VD_PATHS_H

#include "vd_base.h"

/*
 * Where the cache of a source is unless --cache says otherwise: below /var/cache/vdiskfs for root,
 * else $XDG_CACHE_HOME/vdiskfs, else $HOME/.cache/vdiskfs, a folder named after the source: its
 * last component and 16 hex digits of a hash of SOURCE, which must be absolute and without symbolic
 * links (realpath(3)), so that two sources never meet in one folder by accident. Nothing is made.
 * 0; -ENOENT: neither variable is set; -EINVAL: not absolute; -ENAMETOOLONG. Any thread.
 */
int vd_default_cache_dir(const char *source, char *ret_path, size_t len) VD_WARN_UNUSED;

#endif

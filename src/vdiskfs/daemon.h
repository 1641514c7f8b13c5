// SPDX-License-Identifier: Apache-2.0
/*
 * The daemon object: everything that one vdiskfs process holds. main() makes it, in the order of
 * the fields (start.c), and takes it apart in the reverse order; all state of the program hangs
 * from it.
 *
 * From the start of the control server until it is stopped the fields are constant, so any thread
 * may read them without a lock; what they point to has its own rules.
 */
#ifndef VD_DAEMON_H
#define VD_DAEMON_H

#include <limits.h>

#include "jobs.h"
#include "options.h"
#include "vd_base.h"
#include "vd_cache.h"
#include "vd_ctl.h"
#include "vd_disk.h"
#include "vd_id.h"
#include "vd_meta.h"
#include "vd_owner.h"

struct vd_fs;

struct vd_daemon {
    struct vd_options opt;     /* as given, with defaults filled in */
    char source[PATH_MAX];     /* resolved, absolute */
    char mountpoint[PATH_MAX]; /* resolved, absolute */
    int source_fd;             /* O_PATH | O_DIRECTORY */
    uint64_t source_dev;       /* st_dev of the source */
    uint64_t mount_dev;        /* st_dev of the mount; 0 until it answers */
    time_t started_s;          /* Unix time; counters count from here */

    struct vd_owner_self self;
    char meta_dir[PATH_MAX];     /* absolute; "" where there is no metadata */
    struct vd_meta_store *store; /* NULL: a read-only source without --meta; disks are uncached */
    char cache_dir[PATH_MAX];    /* absolute; "" without a cache */
    uint64_t cache_size_bytes;   /* as opened */
    struct vd_cache *cache;      /* NULL: none */
    char filter_dir[PATH_MAX];   /* absolute; "": the default */
    struct vd_filters *filters;
    struct vd_lanes *lanes;
    struct vd_coordinator *coordinator;
    struct vd_disks *disks;
    struct vd_jobs *jobs;     /* what the control socket began on the disks */
    char sock_path[PATH_MAX]; /* of the control socket */
    struct vd_ctl_server *ctl;
    struct vd_fs *fs; /* the FUSE side, see vd_fs.h */
};

#endif

// SPDX-License-Identifier: Apache-2.0
/* Making and taking apart the daemon object, in the order of its fields. */
#ifndef VD_START_H
#define VD_START_H

#include "daemon.h"

/* Resolves source, mount point, cache and metadata folder, and refuses what cannot work, before the
 * process goes to the background. 0, or -1: said on stderr. */
int vd_daemon_resolve(struct vd_daemon *d) VD_WARN_UNUSED;

/* Opens everything below the mount. 0, or -1: said on stderr; vd_daemon_close must follow either
 * way. */
int vd_daemon_open(struct vd_daemon *d) VD_WARN_UNUSED;

/* After the mount, before its loop: the control socket. 0 or -1. */
int vd_daemon_listen(struct vd_daemon *d) VD_WARN_UNUSED;

/* The loop has ended: says so to those who wait for what we hold. */
void vd_daemon_stopping(struct vd_daemon *d);

/* Detaches the disks, makes everything durable, lets go of it. */
void vd_daemon_close(struct vd_daemon *d);

#endif

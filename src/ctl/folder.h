// SPDX-License-Identifier: Apache-2.0
#ifndef VD_CTL_FOLDER_H
#define VD_CTL_FOLDER_H

#include <jansson.h>
#include <limits.h>
#include <pthread.h>

#include "vd_base.h"
#include "vd_id.h"

/* A daemon's folder in the run directory: the info file, locked, and the socket. */
struct vd__ctl_folder {
    int rundir_fd;
    int fd;
    char name[VD_ID_HEX];
    char sock_path[PATH_MAX];
    pthread_mutex_t mu;
    json_t *info; /* lock: mu */
    int info_fd;  /* lock: mu; holds the OFD lock */
};

#define VD__CTL_FOLDER_INIT                                                                        \
    {                                                                                              \
        .rundir_fd = -1, .fd = -1, .info_fd = -1, .mu = PTHREAD_MUTEX_INITIALIZER                  \
    }

/* Makes F (initialised by VD__CTL_FOLDER_INIT) and a listening socket in it; removes those of dead
 * daemons. 0 or -errno as vd_ctl_server_start; F must be taken apart by vd__ctl_folder_remove in
 * either case. */
int vd__ctl_folder_make(const char *rundir, const struct vd_id *id, json_t *info,
                        struct vd__ctl_folder *f, int *ret_listen_fd) VD_WARN_UNUSED;
void vd__ctl_folder_remove(struct vd__ctl_folder *f);

/* Replaces the info file by one with "state": STATE. Any thread. */
int vd__ctl_folder_state(struct vd__ctl_folder *f, const char *state) VD_WARN_UNUSED;

#endif

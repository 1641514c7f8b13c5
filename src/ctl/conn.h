// SPDX-License-Identifier: Apache-2.0
#ifndef VD_CTL_CONN_H
#define VD_CTL_CONN_H

#include <uv.h>

#include "folder.h"
#include "vd_ctl.h"
#include "vd_list.h"

#define VD__CTL_CONNS_MAX 64u
#define VD__CTL_STALL_MS 30000u /* for half a request, or an answer that is not taken */
#define VD__CTL_STOP_MS 1000u   /* for answers that are not taken, once the server stops */

struct vd_ctl_server {
    struct vd__ctl_folder folder;
    vd_ctl_handler handler;
    void *user;
    uv_thread_t thread;
    uv_loop_t loop;
    uv_async_t stop;
    /* loop thread only */
    uv_pipe_t listener;
    struct vd_list conns;
    unsigned nconns;
    bool stopping;
};

/* All on the loop thread. */

/* Takes the connection that waits at the listener; drops it where the peer is a stranger. */
void vd__ctl_conn_accept(struct vd_ctl_server *s);
/* The server stops: idle ones are closed, the others once they have their answer. */
void vd__ctl_conn_stop_all(struct vd_ctl_server *s);

#endif

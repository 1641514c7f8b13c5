// SPDX-License-Identifier: Apache-2.0
/* What the daemon answers on its control socket. */
#ifndef VD_CONTROL_H
#define VD_CONTROL_H

#include <jansson.h>

#include "vd_base.h"

struct vd_daemon;

/* The content of the info file of D (see vd_ctl.h): a new reference, NULL without memory. */
json_t *vd_control_info(const struct vd_daemon *d);

/* A vd_ctl_handler; USER is the struct vd_daemon, which must outlive the control server. Its disks,
 * store and cache must be open before the server starts and until it is stopped. */
int vd_control_handle(void *user, const char *command, json_t *args, json_t **ret_ok, char *ret_why,
                      size_t why_len);

#endif

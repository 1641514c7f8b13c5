// SPDX-License-Identifier: Apache-2.0
#ifndef VD_DISK_HERITAGE_H
#define VD_DISK_HERITAGE_H

#include "vd_meta.h"

struct heritage;

/* What a clone of the disk of session M gets. 0, -ENOMEM, -errno of the records. */
int vd__heritage_read(struct vd_meta *m, struct heritage **ret_h) VD_WARN_UNUSED;
/* Into the clone's session M, with its first records. */
int vd__heritage_write(const struct heritage *h, struct vd_meta *m) VD_WARN_UNUSED;
bool vd__heritage_required(const struct heritage *h); /* is any of its filters? */
void vd__heritage_free(struct heritage *h); /* NULL is allowed */

#endif

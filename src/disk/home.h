// SPDX-License-Identifier: Apache-2.0
#ifndef VD_DISK_HOME_H
#define VD_DISK_HOME_H

#include "disk.h"

/* At the detach, with the exclusive lock: a disk that was flattened gets its file back. What fails is logged, and tried again at the next. */
void vd__move_home(struct vd_disk *d);

#endif

// SPDX-License-Identifier: Apache-2.0
#ifndef VD_CTL_ADDRESS_H
#define VD_CTL_ADDRESS_H

#include <sys/socket.h>
#include <sys/un.h>

#include "vd_base.h"

/*
 * The address of the socket PATH. A path longer than sun_path is named through its folder:
 * /proc/self/fd/N/<last component>, for which RET_DIRFD must stay open until bind(2) or connect(2)
 * is done (-1 where it is not needed). 0; -ENOENT, -EACCES: the folder; -ENAMETOOLONG: the last
 * component.
 */
int vd__ctl_address(const char *path, struct sockaddr_un *ret_addr, int *ret_dirfd) VD_WARN_UNUSED;

#endif

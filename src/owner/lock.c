// SPDX-License-Identifier: Apache-2.0
#include "vd_owner.h"

#include <fcntl.h>

int vd_owner_lock(int fd, enum vd_lock mode)
{
    return vd_lock_try(fd, mode, VD_OWNER_LOCK_OFF, 1);
}

int vd_owner_go_past(int fd)
{
    return vd_lock_try(fd, VD_LOCK_SHARED, VD_OWNER_PAST_OFF, 1);
}

bool vd_owner_is_gone_past(int fd)
{
    struct flock lk = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = VD_OWNER_PAST_OFF, .l_len = 1};
    return fcntl(fd, F_OFD_GETLK, &lk) == 0 && lk.l_type != F_UNLCK;
}

// SPDX-License-Identifier: Apache-2.0
#include "vd_owner.h"

int vd_owner_lock(int fd, enum vd_lock mode)
{
    return vd_lock_try(fd, mode, VD_OWNER_LOCK_OFF, 1);
}

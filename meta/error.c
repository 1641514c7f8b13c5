// SPDX-License-Identifier: Apache-2.0
#include "error.h"

#include <errno.h>
#include <lmdb.h>

int vd__meta_error(int rc)
{
    if (rc == MDB_SUCCESS)
        return 0;
    if (rc > 0)
        return -rc;
    switch (rc) {
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_MAP_FULL:
    case MDB_TXN_FULL:
    case MDB_CURSOR_FULL:
    case MDB_PAGE_FULL:
    case MDB_DBS_FULL:
        return -ENOSPC;
    case MDB_PAGE_NOTFOUND:
    case MDB_CORRUPTED:
    case MDB_VERSION_MISMATCH:
    case MDB_INVALID:
    case MDB_INCOMPATIBLE:
        return -EUCLEAN;
    case MDB_PANIC:
        return -EIO;
    default:
        return -EINVAL;
    }
}

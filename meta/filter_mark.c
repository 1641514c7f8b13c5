// SPDX-License-Identifier: Apache-2.0
/*
 * The attribute of disks that are not to be read without their filters. By /proc/self/fd, as the others: it also takes
 * descriptors opened with O_PATH.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/xattr.h>

#include "vd_meta_filter.h"

#define VALUE_MAX 64

static const char *const values[] = {
    [VD_FILTER_MARK_CHANGING] = "1:changing",
    [VD_FILTER_MARK_REQUIRED] = "1:required",
};

static void self_path(int fd, char ret_path[32])
{
    snprintf(ret_path, 32, "/proc/self/fd/%d", fd);
}

int vd_filter_mark_set(int path_fd, enum vd_filter_mark mark)
{
    char path[32];
    self_path(path_fd, path);
    if (mark != VD_FILTER_MARK_NONE)
        return setxattr(path, VD_META_XATTR_FILTERED, values[mark], strlen(values[mark]), 0) < 0
                   ? -errno
                   : 0;
    if (removexattr(path, VD_META_XATTR_FILTERED) == 0 || errno == ENODATA || errno == EOPNOTSUPP)
        return 0;
    return -errno;
}

int vd_filter_mark_get(int path_fd, enum vd_filter_mark *ret_mark)
{
    char path[32], value[VALUE_MAX + 1];
    self_path(path_fd, path);
    ssize_t n = getxattr(path, VD_META_XATTR_FILTERED, value, VALUE_MAX);
    *ret_mark = VD_FILTER_MARK_NONE;
    if (n < 0 && (errno == ENODATA || errno == EOPNOTSUPP))
        return 0;
    if (n < 0 && errno != ERANGE)
        return -errno;
    value[n < 0 ? 0 : n] = '\0';
    *ret_mark = strcmp(value, values[VD_FILTER_MARK_CHANGING]) == 0 ? VD_FILTER_MARK_CHANGING
                                                                    : VD_FILTER_MARK_REQUIRED;
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The attribute of disks with layers. It goes by /proc/self/fd, which also takes descriptors opened
 * with O_PATH, and the f-calls do not. A reader sees the old or the new value, never a part.
 */
#include <sys/xattr.h>

#include "vd_view.h"

#define PREFIX "1:"
#define OWN "1:own"
#define VALUE_MAX 64

const struct vd_id vd_layered_moved = {.b = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                             0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

static void self_path(int fd, char ret_path[32])
{
    snprintf(ret_path, 32, "/proc/self/fd/%d", fd);
}

int vd_layered_mark(int path_fd, const struct vd_id *live)
{
    char path[32], value[VALUE_MAX] = OWN;
    self_path(path_fd, path);
    if (live) {
        memcpy(value, PREFIX, sizeof(PREFIX));
        vd_id_hex(live, value + strlen(PREFIX));
    }
    return setxattr(path, VD_META_XATTR_LAYERED, value, strlen(value), 0) < 0 ? -errno : 0;
}

int vd_layered_unmark(int path_fd)
{
    char path[32];
    self_path(path_fd, path);
    if (removexattr(path, VD_META_XATTR_LAYERED) == 0 || errno == ENODATA || errno == EOPNOTSUPP)
        return 0;
    return -errno;
}

int vd_layered_get(int path_fd, struct vd_id *ret_live)
{
    char path[32], value[VALUE_MAX + 1];
    self_path(path_fd, path);
    ssize_t n = getxattr(path, VD_META_XATTR_LAYERED, value, VALUE_MAX);
    if (n < 0)
        return errno == ERANGE ? -EUCLEAN : errno == EOPNOTSUPP ? -ENODATA : -errno;
    value[n] = '\0';
    struct vd_id live = {0};
    char again[VALUE_MAX] = OWN;
    if (strcmp(value, OWN) != 0) {
        /* Only what vd_layered_mark would write, digit for digit, is ours. */
        memcpy(again, PREFIX, sizeof(PREFIX));
        if (strncmp(value, PREFIX, strlen(PREFIX)) != 0 ||
            vd_id_parse(value + strlen(PREFIX), &live) < 0 || vd_id_is_zero(&live))
            return -EUCLEAN;
        vd_id_hex(&live, again + strlen(PREFIX));
    }
    if (strlen(again) != (size_t)n || memcmp(value, again, (size_t)n) != 0)
        return -EUCLEAN;
    *ret_live = live;
    return 0;
}

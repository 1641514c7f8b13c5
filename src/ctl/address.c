// SPDX-License-Identifier: Apache-2.0
/* Where sockets are: the run directory, and paths that are too long for a socket's address. */
#include "address.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>

#include "vd_ctl.h"

int vd_ctl_rundir(char *ret_path, size_t len)
{
    const char *dir = getenv("VDISKFS_RUNDIR"), *below = "";
    if (!dir || !*dir) {
        dir = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");
        below = "/vdiskfs";
    }
    if (!dir || !*dir)
        return -ENOENT;
    char path[PATH_MAX];
    int n = snprintf(path, sizeof(path), "%s%s", dir, below);
    if (n < 0 || (size_t)n >= sizeof(path) || (size_t)n >= len)
        return -ENAMETOOLONG;
    memcpy(ret_path, path, (size_t)n + 1);
    return 0;
}

int vd__ctl_address(const char *path, struct sockaddr_un *ret_addr, int *ret_dirfd)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    size_t len = strlen(path);
    if (len == 0)
        return -ENOENT;
    if (len < sizeof(addr.sun_path)) {
        memcpy(addr.sun_path, path, len + 1);
        *ret_addr = addr;
        *ret_dirfd = -1;
        return 0;
    }
    const char *base = strrchr(path, '/');
    char dir[PATH_MAX];
    if (!base || base == path || (size_t)(base - path) >= sizeof(dir))
        return -ENAMETOOLONG;
    memcpy(dir, path, (size_t)(base - path));
    dir[base - path] = '\0';
    vd_cleanup_close int dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dirfd < 0)
        return -errno;
    int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d%s", dirfd, base);
    if (n < 0 || (size_t)n >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    *ret_addr = addr;
    *ret_dirfd = vd_steal_fd(&dirfd);
    return 0;
}

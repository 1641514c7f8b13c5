// SPDX-License-Identifier: Apache-2.0
/* The cache directory: made with its parents, swept, and emptied by moving what is damaged aside.
 */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

#include "engine.h"
#include "vd_file.h"

int vd__dir_open(const char *path, int *ret_fd)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(part))
        return len ? -ENAMETOOLONG : -ENOENT;
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) < 0 && errno != EEXIST && errno != EISDIR && errno != EROFS &&
            errno != EACCES)
            return -errno;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int vd__dir_set_aside(int dirfd)
{
    static const char *const names[] = {"slots", "data", "index.mdb", "state", "pending"};
    if (mkdirat(dirfd, "damaged", 0700) < 0 && errno != EEXIST)
        return -errno;
    vd_cleanup_close int to =
        openat(dirfd, "damaged", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (to < 0)
        return -errno;
    for (size_t i = 0; i < VD_ARRAY_SIZE(names); i++) {
        /* What was set aside before goes; of a folder only the rename can fail, and says so. */
        unlinkat(to, names[i], 0);
        if (renameat(dirfd, names[i], to, names[i]) < 0 && errno != ENOENT)
            return -errno;
    }
    return vd_fsync_dir(dirfd, ".");
}

void vd__dir_sweep(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        if (fd >= 0)
            close(fd);
        return;
    }
    for (struct dirent *de; (de = readdir(d));)
        if (!strncmp(de->d_name, ".tmp-", 5))
            unlinkat(fd, de->d_name, 0);
    closedir(d);
}

// SPDX-License-Identifier: Apache-2.0
#include "beneath.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "vd_meta.h"

void vd_beneath_close(struct vd_beneath *b)
{
    vd_close_p(&b->fd);
    vd_close_p(&b->dir_fd);
    b->fd = b->dir_fd = -1;
}

static bool is_plain_name(const char *name)
{
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0;
}

/* Opens folder NAME in FD, which is closed. */
static int enter(int fd, const char *name)
{
    const int how = O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
    int next = openat(fd, name, O_RDONLY | how);
    if (next < 0 && errno == EACCES)
        next = openat(fd, name, O_PATH | how);
    int r = next < 0 ? -errno : next;
    close(fd);
    return r;
}

int vd_beneath_dir(int source_fd, const char *path, struct vd_beneath *ret_b)
{
    char parts[VD_BENEATH_MAX];
    size_t len = strlen(path);

    if (len >= sizeof(parts))
        return -ENAMETOOLONG;
    memcpy(parts, path, len + 1);
    int fd = openat(source_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES)
        fd = openat(source_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    char *part = parts, *slash;
    for (bool first = true;; first = false) {
        slash = strchr(part, '/');
        if (slash)
            *slash = '\0';
        int r = 0;
        if (!is_plain_name(part))
            r = -EINVAL;
        else if (first && strcmp(part, VD_META_FOLDER) == 0)
            r = -EPERM;
        if (r < 0) {
            close(fd);
            return r;
        }
        if (!slash)
            break;
        fd = enter(fd, part);
        if (fd < 0)
            return fd;
        part = slash + 1;
    }
    ret_b->dir_fd = fd;
    ret_b->fd = -1;
    memcpy(ret_b->path, path, len + 1);
    ret_b->name = ret_b->path + (part - parts);
    return 0;
}

int vd_beneath_file(int source_fd, const char *path, dev_t dev, ino_t ino, struct vd_beneath *ret_b)
{
    struct stat st;

    int r = vd_beneath_dir(source_fd, path, ret_b);
    if (r < 0)
        return r;
    ret_b->fd = openat(ret_b->dir_fd, ret_b->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (ret_b->fd < 0 || fstatat(ret_b->fd, "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
        r = -errno;
    else if (st.st_dev != dev || st.st_ino != ino)
        r = -ESTALE;
    else if (!S_ISREG(st.st_mode))
        r = -EINVAL;
    if (r < 0)
        vd_beneath_close(ret_b);
    return r;
}

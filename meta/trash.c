// SPDX-License-Identifier: Apache-2.0
/*
 * Removal: under its lock a disk's folder is renamed into trash/, which is the instant it is gone,
 * and then deleted piece by piece; what is cut in between is deleted by the next
 * vd_meta_empty_trash.
 */
#include <dirent.h>
#include <fcntl.h>

#include "store.h"
#include "vd_file.h"
#include "vd_view.h"

#define MAX_DEPTH 8
#define MAX_TRIES 100

/* Deletes NAME below DIRFD with what is in it. Somebody else may be doing the same. */
static int delete_tree(int dirfd, const char *name, int depth)
{
    if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (depth == MAX_DEPTH)
        return -ELOOP;
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    int r = -ENOTEMPTY;
    /* Who found the folder before it came here may yet make its lock file in it, each once. */
    for (int tries = 0; r == -ENOTEMPTY && tries < MAX_TRIES; tries++) {
        r = 0;
        rewinddir(d);
        for (const struct dirent *e; r == 0 && (e = readdir(d));)
            if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
                r = delete_tree(fd, e->d_name, depth + 1);
        if (r == 0 && unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
            r = -errno;
    }
    closedir(d);
    return r;
}

int vd_meta_remove(struct vd_meta_store *s, const struct vd_id *uuid)
{
    vd_cleanup_close int dir_fd = -1, lock_fd = -1, disks_fd = -1, trash_fd = -1;
    int r = vd__disk_lock(s, uuid, true, false, &dir_fd, &lock_fd);
    if (r == 0)
        r = vd__store_dir(s, "disks", &disks_fd);
    if (r == 0)
        r = vd__store_make_dir(s, "trash", &trash_fd);
    struct vd_id id;
    if (r == 0)
        r = vd_id_new(&id); /* a UUID may come to the trash twice */
    if (r < 0)
        return r;
    /* First: a disk that is known and has no metadata was not removed on purpose. */
    r = vd_known_drop(s, uuid);
    if (r < 0)
        return r;
    char from[VD_ID_HEX], to[VD_ID_HEX];
    vd_id_hex(uuid, from);
    vd_id_hex(&id, to);
    if (renameat(disks_fd, from, trash_fd, to) < 0)
        return -errno;
    r = vd_fsync_dir(disks_fd, ".");
    if (r == 0)
        r = vd_fsync_dir(trash_fd, ".");
    return r < 0 ? r : delete_tree(trash_fd, to, 0);
}

int vd_meta_empty_trash(struct vd_meta_store *s)
{
    int fd;
    int r = vd__store_dir(s, "trash", &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    for (const struct dirent *e; r == 0 && (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            r = delete_tree(fd, e->d_name, 0);
    closedir(d);
    return r;
}

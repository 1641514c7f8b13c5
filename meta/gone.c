// SPDX-License-Identifier: Apache-2.0
/*
 * layers/<UUID>.gone, a further name of a disk's file while its last name of the user's is being removed: the
 * metadata goes after the name, and if we die in between, this says whose it was. A sweep that finds
 * one that nobody has open finishes the removal; or, where the user's name is still there, drops it.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#include "layer.h"
#include "sweep.h"
#include "vd_file.h"

#define SUFFIX ".gone"
#define NAME_LEN (VD_ID_HEX + 5)
#define OWNER_LOCK_OFF ((off_t)1 << 62) /* vd_owner.h: who has the disk holds it */

static void gone_name(const struct vd_id *uuid, char ret_name[NAME_LEN])
{
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    snprintf(ret_name, NAME_LEN, "%s" SUFFIX, hex);
}

int vd_gone_put(struct vd_meta_store *s, const struct vd_id *uuid, int path_fd)
{
    vd_cleanup_close int dir_fd = -1;
    char name[NAME_LEN], proc[32];
    gone_name(uuid, name);
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", path_fd);
    int r = vd__layers_dir(s, true, &dir_fd);
    if (r < 0)
        return r;
    unlinkat(dir_fd, name, 0); /* of an earlier try */
    if (linkat(AT_FDCWD, proc, dir_fd, name, AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    return vd_fsync_dir(dir_fd, ".");
}

int vd_gone_drop(struct vd_meta_store *s, const struct vd_id *uuid)
{
    vd_cleanup_close int dir_fd = -1;
    char name[NAME_LEN];
    gone_name(uuid, name);
    int r = vd__layers_dir(s, false, &dir_fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static int finish(struct vd_meta_store *s, int dir_fd, const char *name, const struct vd_id *uuid)
{
    struct stat st;
    struct vd_id any;
    vd_cleanup_close int fd = openat(dir_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    int r = vd_lock_try(fd, VD_LOCK_EXCLUSIVE, OWNER_LOCK_OFF, 1);
    if (r < 0)
        return r == -EAGAIN ? 0 : r;
    if (fstat(fd, &st) < 0)
        return -errno;
    int n = vd__layer_names(s, &st, &any);
    if (n < 0)
        return n;
    if (st.st_nlink <= (nlink_t)n + 1) /* ours, and those of layers */
        r = vd_meta_remove(s, uuid);
    if (r < 0 && r != -ENOENT)
        return r;
    return unlinkat(dir_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int vd__sweep_gone(struct vd_meta_store *s)
{
    int fd;
    int r = vd__layers_dir(s, false, &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    const struct dirent *e;
    for (errno = 0; r == 0 && (e = readdir(d)); errno = 0) {
        struct vd_id uuid;
        char hex[VD_ID_HEX];
        if (strlen(e->d_name) != NAME_LEN - 1 || strcmp(e->d_name + VD_ID_HEX - 1, SUFFIX) != 0)
            continue;
        snprintf(hex, sizeof(hex), "%.*s", VD_ID_HEX - 1, e->d_name);
        if (vd_id_parse(hex, &uuid) == 0)
            r = finish(s, fd, e->d_name, &uuid);
    }
    if (r == 0)
        r = -errno;
    closedir(d);
    return r;
}

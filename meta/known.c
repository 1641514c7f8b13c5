// SPDX-License-Identifier: Apache-2.0
/*
 * STORE/known/<UUID>: this disk has layers. Empty files that repeat what the disk's metadata says, for
 * the day on which somebody deletes or loses that: then nobody would name its maps and layers any
 * more, and a sweep would take them for garbage. A sweep that finds a disk known and without metadata
 * does nothing. Made when the metadata is there, dropped before it goes on purpose.
 */
#include <dirent.h>
#include <fcntl.h>

#include "store.h"
#include "vd_file.h"
#include "vd_view.h"

#define FOLDER "known"

int vd_known_put(struct vd_meta_store *s, const struct vd_id *uuid)
{
    vd_cleanup_close int dir_fd = -1;
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    int r = vd__store_make_dir(s, FOLDER, &dir_fd);
    if (r < 0)
        return r;
    if (faccessat(dir_fd, hex, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    vd_cleanup_close int fd =
        openat(dir_fd, hex, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
    return fd < 0 ? -errno : vd_fsync_dir(dir_fd, ".");
}

int vd_known_drop(struct vd_meta_store *s, const struct vd_id *uuid)
{
    vd_cleanup_close int dir_fd = -1;
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    int r = vd__store_dir(s, FOLDER, &dir_fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (unlinkat(dir_fd, hex, 0) < 0)
        return errno == ENOENT ? 0 : -errno;
    return vd_fsync_dir(dir_fd, ".");
}

int vd_known_each(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *uuid),
                  void *user)
{
    int fd;
    int r = vd__store_dir(s, FOLDER, &fd);
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
        if (vd_id_parse(e->d_name, &uuid) == 0)
            r = fn(user, &uuid);
    }
    if (r == 0)
        r = -errno;
    closedir(d);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Adopt: what is known of a file is forgotten, and its bytes as they are become a new plain disk.
 *
 *   1  the disk's metadata goes, if it is this file's own (or damaged)
 *   2  what nothing refers to any more is swept
 *   3  where the file is still a frozen layer of others, under its second name, its bytes are copied to a new file, which takes
 *      its place: a plain disk is written, a frozen layer never
 *   4  the file's attributes go
 *
 * Cut anywhere before 4 the file still bears its mark, and is refused until it is adopted again.
 */
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "freeze.h"
#include "vd_meta_filter.h"
#include "vd_step.h"

/* The UUID that the file's attribute names. */
static int named_uuid(int fd, struct vd_id *ret_uuid)
{
    char value[64];
    ssize_t n = fgetxattr(fd, VD_META_XATTR, value, sizeof(value) - 1);
    if (n < 0)
        return -errno;
    value[n] = '\0';
    const char *hex = strchr(value, ':');
    return hex ? vd_id_parse(hex + 1, ret_uuid) : -EINVAL;
}

/* Whose metadata is it? A copy must not take its original's away. */
static int forget(struct vd_disks *ds, int fd, const struct stat *st)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    struct vd_id uuid;
    struct vd_view_record view;
    struct vd_layer_record layer;
    if (named_uuid(fd, &uuid) < 0)
        return 0;
    bool own = true;
    int r = vd_meta_open(ds->config.meta, &uuid, VD_META_READ, &m, why);
    if (r == -ENOENT)
        return vd_known_drop(ds->config.meta, &uuid);
    if (r == 0 && vd_meta_get_layer(m, 0, &layer) == 0) {
        own = layer.identity.ino == st->st_ino;
        if (vd_meta_get_view(m, &view) == 0)
            own = view.file_ino == st->st_ino || (view.moving && own);
    } else if (r < 0 && r != -EUCLEAN) {
        return r;
    }
    vd_meta_close(vd_steal_ptr(m));
    r = own ? vd_meta_remove(ds->config.meta, &uuid) : 0;
    return r == -ENOENT ? 0 : r;
}

static int copy_bytes(int from, int to, off_t size)
{
    off_t off = 0;
    while (off < size) {
        off_t data = lseek(from, off, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            break;
        if (data < 0)
            return -errno;
        off_t end = lseek(from, data, SEEK_HOLE);
        if (end < 0)
            return -errno;
        for (off_t at = data; at < end;) {
            off_t in = at, out = at;
            ssize_t n = copy_file_range(from, &in, to, &out, (size_t)(end - at), 0);
            if (n <= 0)
                return n < 0 ? -errno : -EIO;
            at += n;
        }
        off = end;
    }
    return ftruncate(to, size) < 0 ? -errno : 0;
}

static int folder_of(int fd, char ret_dir[PATH_MAX], const char **ret_name)
{
    char proc[32];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(proc, ret_dir, PATH_MAX - 1);
    if (n <= 0)
        return n < 0 ? -errno : -EINVAL;
    ret_dir[n] = '\0';
    char *slash = strrchr(ret_dir, '/');
    if (!slash)
        return -EINVAL;
    *slash = '\0';
    *ret_name = slash + 1;
    return 0;
}

/* Step 3: a file of its own. */
static int break_link(int fd, const struct stat *st)
{
    char dir[PATH_MAX], temp[NAME_MAX + 1];
    const char *name = NULL;
    struct stat now;
    int r = folder_of(fd, dir, &name);
    if (r < 0)
        return r;
    vd_cleanup_close int dir_fd = open(dir[0] ? dir : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0 || fstatat(dir_fd, name, &now, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (now.st_ino != st->st_ino)
        return -ESTALE;
    snprintf(temp, sizeof(temp), ".%.200s.adopt", name);
    vd_cleanup_close int to =
        openat(dir_fd, temp, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    r = copy_bytes(fd, to, st->st_size);
    if (r == 0 && (fchown(to, st->st_uid, st->st_gid) < 0 || fchmod(to, st->st_mode & 07777) < 0 ||
                   fsync(to) < 0))
        r = -errno;
    vd_step("adopt-rename");
    if (r == 0 && renameat(dir_fd, temp, dir_fd, name) < 0)
        r = -errno;
    if (r < 0)
        unlinkat(dir_fd, temp, 0);
    return r == 0 && fsync(dir_fd) < 0 ? -errno : r;
}

static int unname(int fd)
{
    int r = vd_layered_unmark(fd);
    if (r == 0)
        r = vd_filter_mark_set(fd, VD_FILTER_MARK_NONE);
    if (r == 0 && fremovexattr(fd, VD_META_XATTR) < 0 && errno != ENODATA)
        r = -errno;
    return r == 0 && fsync(fd) < 0 ? -errno : r;
}

static int adopt(struct vd_disks *ds, int fd, char why[VD_META_WHY])
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    vd_step("adopt-forget");
    int r = forget(ds, fd, &st);
    if (r < 0)
        return r;
    struct vd_id live;
    bool layered = vd_layered_get(fd, &live) != -ENODATA;
    /* Its name no longer speaks for a disk, and keeps no layer from being swept. */
    if (layered && (r = vd_layered_mark(fd, &vd_layered_moved)) < 0)
        return r;
    vd_step("adopt-sweep");
    (void)!vd_disks_sweep(ds, why); /* where it cannot be done the copy below is made for nothing */
    why[0] = '\0';
    if (fstat(fd, &st) < 0)
        return -errno;
    if (layered && st.st_nlink > 1) {
        r = break_link(fd, &st);
        if (r < 0)
            snprintf(why, VD_META_WHY,
                     "others stand on its bytes, and they could not be copied: %s", strerror(-r));
        return r;
    }
    vd_step("adopt-unname");
    return unname(fd);
}

int vd_disks_adopt(struct vd_disks *ds, int path_fd, const char *path, char ret_why[VD_META_WHY])
{
    struct stat st;
    struct vd_disk *d;
    ret_why[0] = '\0';
    if (!ds->config.meta || ds->config.read_only)
        return -EROFS;
    if (fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return -errno;
    if (!vd_disks_is_disk(ds, path_fd, &st)) {
        snprintf(ret_why, VD_META_WHY, VD_DISK_IS_NONE);
        return -EINVAL;
    }
    if (vd_disks_find(ds, st.st_dev, st.st_ino, &d) == 0) {
        vd_disk_put(d);
        snprintf(ret_why, VD_META_WHY, "a client has it open; close it first");
        return -EBUSY;
    }
    vd_cleanup_close int fd = -1;
    int r = vd__take_closed(path_fd, &fd, ret_why);
    return r < 0 ? r : adopt(ds, fd, ret_why);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The folder of the store, and of one disk in it with its lock. Removal renames a disk's folder
 * into the trash while it holds the lock; so who waited for the lock looks, once it has it, whether
 * the folder is still the one of that name.
 */
#include "store.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>

#include "vd_file.h"

static int open_dir_below(int dirfd, const char *rel, int *ret_fd)
{
    struct open_how how = {
        .flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
        .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
    };
    long fd = syscall(SYS_openat2, dirfd, rel, &how, sizeof(how));
    if (fd < 0)
        return -errno;
    *ret_fd = (int)fd;
    return 0;
}

int vd__store_dir(const struct vd_meta_store *s, const char *rel, int *ret_fd)
{
    return open_dir_below(s->fd, rel, ret_fd);
}

int vd__store_make_dir(const struct vd_meta_store *s, const char *rel, int *ret_fd)
{
    bool made = mkdirat(s->fd, rel, 0700) == 0;
    if (!made && errno != EEXIST)
        return -errno;
    const char *slash = strrchr(rel, '/');
    char parent[VD__DISK_REL] = ".";
    if (slash)
        snprintf(parent, sizeof(parent), "%.*s", (int)(slash - rel), rel);
    int r = made ? vd_fsync_dir(s->fd, parent) : 0;
    return r < 0 ? r : vd__store_dir(s, rel, ret_fd);
}

void vd__disk_rel(const struct vd_id *uuid, char ret_rel[VD__DISK_REL])
{
    char hex[VD_ID_HEX];
    vd_id_hex(uuid, hex);
    snprintf(ret_rel, VD__DISK_REL, "disks/%s", hex);
}

/* ---- opening the store ---- */

static int open_private(int source_fd, bool make, int *ret_fd)
{
    bool made = make && mkdirat(source_fd, VD_META_FOLDER, 0700) == 0;
    if (make && !made && errno != EEXIST)
        return -errno;
    int r = made ? vd_fsync_dir(source_fd, ".") : 0;
    return r < 0 ? r : open_dir_below(source_fd, VD_META_FOLDER, ret_fd);
}

/* The folder that the user names may be reached through links; that is the user's word. */
static int open_named(const char *meta_dir, bool make, int *ret_fd)
{
    if (make && mkdir(meta_dir, 0700) < 0 && errno != EEXIST)
        return -errno;
    int fd = open(meta_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

static int make_inside(struct vd_meta_store *s)
{
    static const char *const inside[] = {"disks", "bound", "trash"};
    for (size_t i = 0; i < VD_ARRAY_SIZE(inside); i++) {
        vd_cleanup_close int fd = -1;
        int r = vd__store_make_dir(s, inside[i], &fd);
        if (r < 0)
            return r;
    }
    return 0;
}

static int keep(int source_fd, int *ret_fd)
{
    int fd = fcntl(source_fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int vd_meta_store_open(int source_fd, const char *meta_dir, bool make,
                       struct vd_meta_store **ret_store)
{
    struct vd_meta_store *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->fd = s->source_fd = -1;
    int r = source_fd < 0 ? 0 : keep(source_fd, &s->source_fd);
    if (r == 0)
        r = meta_dir ? open_named(meta_dir, make, &s->fd) : open_private(source_fd, make, &s->fd);
    if (r == 0 && make)
        r = make_inside(s);
    if (r < 0) {
        vd_meta_store_close(s);
        return r;
    }
    char self[64];
    snprintf(self, sizeof(self), "/proc/self/fd/%d", s->fd);
    ssize_t n = readlink(self, s->path, sizeof(s->path) - 1);
    s->path[n < 0 ? 0 : n] = '\0';
    *ret_store = s;
    return 0;
}

void vd_meta_store_close(struct vd_meta_store *s)
{
    if (!s)
        return;
    vd_close_p(&s->fd);
    vd_close_p(&s->source_fd);
    free(s);
}

/* ---- one disk ---- */

static int open_lock(int dir_fd, bool exclusive, int *ret_fd)
{
    int flags = O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK;
    int fd = openat(dir_fd, VD__LOCK_NAME, O_RDWR | O_CREAT | flags, 0600);
    if (fd < 0 && !exclusive && (errno == EROFS || errno == EACCES)) {
        fd = openat(dir_fd, VD__LOCK_NAME, O_RDONLY | flags);
        if (fd < 0 && errno == ENOENT) {
            *ret_fd = -1;
            return 0;
        }
    }
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

/* Is DIR_FD still the folder of that name? */
static int still_there(const struct vd_meta_store *s, const char *rel, int dir_fd)
{
    struct stat a, b;
    if (fstat(dir_fd, &a) < 0)
        return -errno;
    if (fstatat(s->fd, rel, &b, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? -EAGAIN : -errno;
    return a.st_ino == b.st_ino && a.st_dev == b.st_dev ? 0 : -EAGAIN;
}

int vd__lock_gated(int fd, enum vd_lock mode, unsigned timeout_ms)
{
    int r = vd_lock_wait(fd, mode, 1, 1, timeout_ms);
    if (r < 0)
        return r;
    r = vd_lock_wait(fd, mode, 0, 1, timeout_ms);
    int gate = vd_lock_try(fd, VD_LOCK_NONE, 1, 1);
    return r < 0 ? r : gate;
}

int vd__disk_lock(const struct vd_meta_store *s, const struct vd_id *uuid, bool exclusive,
                  bool make, int *ret_dir_fd, int *ret_lock_fd)
{
    char rel[VD__DISK_REL];
    vd__disk_rel(uuid, rel);
    for (;;) {
        vd_cleanup_close int dir_fd = -1, lock_fd = -1;
        int r = vd__store_dir(s, rel, &dir_fd);
        if (r == -ENOENT && make)
            r = vd__store_make_dir(s, rel, &dir_fd);
        if (r < 0)
            return r;
        r = open_lock(dir_fd, exclusive, &lock_fd);
        if (r == -ENOENT)
            r = -EAGAIN; /* the folder has been deleted since */
        if (r == 0 && lock_fd >= 0)
            r = vd__lock_gated(lock_fd, exclusive ? VD_LOCK_EXCLUSIVE : VD_LOCK_SHARED,
                               VD__LOCK_TIMEOUT_MS);
        if (r == 0)
            r = still_there(s, rel, dir_fd);
        if (r == -EAGAIN)
            continue; /* it was removed while we waited; without MAKE the next round says so */
        if (r < 0)
            return r;
        *ret_dir_fd = vd_steal_fd(&dir_fd);
        *ret_lock_fd = vd_steal_fd(&lock_fd);
        return 0;
    }
}

void vd_meta_disk_path(const struct vd_meta_store *s, const struct vd_id *uuid, char *ret_path,
                       size_t len)
{
    char rel[VD__DISK_REL];
    vd__disk_rel(uuid, rel);
    snprintf(ret_path, len, "%s/%s", s->path, rel);
}

static bool is_disk(int disks_fd, const char *name, struct vd_id *ret_uuid)
{
    char hex[VD_ID_HEX], file[64];
    if (strlen(name) != VD_ID_HEX - 1 || vd_id_parse(name, ret_uuid) < 0)
        return false;
    vd_id_hex(ret_uuid, hex);
    snprintf(file, sizeof(file), "%s/" VD__META_NAME, hex);
    return strcmp(name, hex) == 0 && faccessat(disks_fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int vd_meta_each_disk(struct vd_meta_store *s, int (*fn)(void *user, const struct vd_id *uuid),
                      void *user)
{
    int fd;
    int r = vd__store_dir(s, "disks", &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    DIR *d = fdopendir(fd);
    if (!d) {
        r = -errno;
        close(fd);
        return r;
    }
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        struct vd_id uuid;
        if (!e)
            r = -errno;
        else if (is_disk(fd, e->d_name, &uuid))
            r = fn(user, &uuid);
        if (!e || r != 0)
            break;
    }
    closedir(d);
    return r;
}

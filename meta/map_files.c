// SPDX-License-Identifier: Apache-2.0
/*
 * The folder of maps, its files' names, and files that are not finished yet. The folder is made by
 * the first who writes to it.
 *
 * A file gets its name when it is whole and durable. Until then it has a temporary one and a lock,
 * which goes with the process that writes it; so a sweep removes what nobody is writing any more.
 */
#include "map.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "store.h"
#include "vd_file.h"
#include "vd_step.h"

#define PAGE_CACHE_BYTES (16u << 20)

int vd_maps_open(struct vd_meta_store *s, size_t page_cache_bytes, struct vd_maps **ret_maps)
{
    struct vd_maps *maps = calloc(1, sizeof(*maps));
    if (!maps)
        return -ENOMEM;
    maps->store = s;
    snprintf(maps->path, sizeof(maps->path), "%.*s/" VD__MAPS_FOLDER, PATH_MAX - 8, s->path);
    pthread_mutex_init(&maps->mu, NULL);
    atomic_init(&maps->fd, -1);
    for (unsigned i = 0; i < VD__MAPS_BUCKETS; i++)
        vd_list_init(&maps->buckets[i]);
    vd_list_init(&maps->live);
    maps->pages = vd__pages_new(page_cache_bytes ? page_cache_bytes : PAGE_CACHE_BYTES);
    int r = maps->pages ? vd__maps_fd(maps, false) : -ENOMEM;
    if (r < 0 && r != -ENOENT) {
        vd_maps_close(maps);
        return r;
    }
    *ret_maps = maps;
    return 0;
}

void vd_maps_close(struct vd_maps *maps)
{
    if (!maps)
        return;
    int fd = atomic_load(&maps->fd);
    if (fd >= 0)
        close(fd);
    vd__pages_free(maps->pages);
    pthread_mutex_destroy(&maps->mu);
    free(maps);
}

int vd__maps_fd(struct vd_maps *maps, bool make)
{
    int fd = atomic_load_explicit(&maps->fd, memory_order_acquire);
    if (fd >= 0)
        return fd;
    pthread_mutex_lock(&maps->mu);
    fd = atomic_load_explicit(&maps->fd, memory_order_relaxed);
    int r = fd >= 0 ? 0 : vd__store_dir(maps->store, VD__MAPS_FOLDER, &fd);
    if (r == -ENOENT && make)
        r = vd__store_make_dir(maps->store, VD__MAPS_FOLDER, &fd);
    if (r == 0)
        atomic_store_explicit(&maps->fd, fd, memory_order_release);
    pthread_mutex_unlock(&maps->mu);
    return r < 0 ? r : fd;
}

/* ---- names ---- */

void vd__map_table_name(const struct vd_id *id, char ret_name[VD__MAP_NAME])
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(ret_name, VD__MAP_NAME, "%s.map", hex);
}

void vd__map_log_name(const struct vd_id *id, uint64_t number, char ret_name[VD__MAP_NAME])
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(ret_name, VD__MAP_NAME, "%s.%llu.log", hex, (unsigned long long)number);
}

int vd__map_name_parse(const char *name, enum vd__map_file *ret_kind, struct vd_id *ret_id,
                       uint64_t *ret_log)
{
    char hex[VD_ID_HEX], same[VD__MAP_NAME];
    struct vd_id id;
    size_t len = strlen(name);
    if (len < VD_ID_HEX + 3 || len >= VD__MAP_NAME || name[VD_ID_HEX - 1] != '.')
        return -EINVAL;
    memcpy(hex, name, VD_ID_HEX - 1);
    hex[VD_ID_HEX - 1] = '\0';
    if (vd_id_parse(hex, &id) < 0)
        return -EINVAL;
    uint64_t log = strtoull(name + VD_ID_HEX, NULL, 10);
    enum vd__map_file kind = VD__MAP_TEMP;
    vd__map_table_name(&id, same);
    if (strcmp(name, same) == 0)
        kind = VD__MAP_TABLE;
    vd__map_log_name(&id, log, same);
    if (strcmp(name, same) == 0)
        kind = VD__MAP_LOG;
    if (kind == VD__MAP_TEMP && strcmp(name + len - 4, ".new") != 0)
        return -EINVAL;
    *ret_kind = kind;
    *ret_id = id;
    *ret_log = log;
    return 0;
}

int vd__map_why(const struct vd_maps *maps, const char *name, const char *text,
                char why[VD_META_WHY])
{
    char copy[VD_META_WHY];
    snprintf(copy, sizeof(copy), "%s", text);
    int n = snprintf(why, VD_META_WHY, "%s/%s: %s", maps->path, name, copy);
    if (n >= VD_META_WHY) /* the cause is worth more than the folder's path */
        snprintf(why, VD_META_WHY, "%s/%s: %.300s", VD__MAPS_FOLDER, name, copy);
    return -EUCLEAN;
}

/* ---- files ---- */

int vd__map_open_file(struct vd_maps *maps, const char *name, int flags, int *ret_fd)
{
    int dirfd = vd__maps_fd(maps, false);
    if (dirfd < 0)
        return dirfd;
    vd_cleanup_close int fd =
        openat(dirfd, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_fd = vd_steal_fd(&fd);
    return 0;
}

int vd__maps_each_file(struct vd_maps *maps,
                       int (*fn)(void *user, const char *name, enum vd__map_file kind,
                                 const struct vd_id *id, uint64_t log),
                       void *user)
{
    int dirfd = vd__maps_fd(maps, false);
    if (dirfd < 0)
        return dirfd == -ENOENT ? 0 : dirfd;
    int fd =
        openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* with a position of its own */
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d) {
        int r = -errno;
        vd_close_p(&fd);
        return r;
    }
    int r = 0;
    for (;;) {
        enum vd__map_file kind;
        struct vd_id id;
        uint64_t log;
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e)
            r = -errno;
        else if (vd__map_name_parse(e->d_name, &kind, &id, &log) == 0)
            r = fn(user, e->d_name, kind, &id, log);
        if (!e || r != 0)
            break;
    }
    closedir(d);
    return r;
}

/* ---- temporary files ---- */

static int try_make(struct vd__temp *t)
{
    struct stat st;
    vd_cleanup_close int fd =
        openat(t->dirfd, t->name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    /* Where there are no locks a sweep may take the file away; then naming it fails. */
    int locked = vd_lock_try(fd, VD_LOCK_EXCLUSIVE, 0, 1);
    if (fstat(fd, &st) < 0)
        return -errno;
    if (locked == -EAGAIN || st.st_nlink == 0)
        return -EEXIST; /* a sweep came between */
    t->fd = vd_steal_fd(&fd);
    return 0;
}

int vd__temp_make(struct vd_maps *maps, const char *name, struct vd__temp *ret_t)
{
    struct vd__temp t = {.dirfd = vd__maps_fd(maps, true), .fd = -1};
    if (t.dirfd < 0)
        return t.dirfd;
    for (;;) {
        struct vd_id random;
        char hex[VD_ID_HEX];
        int r = vd_id_new(&random);
        if (r < 0)
            return r;
        vd_id_hex(&random, hex);
        snprintf(t.name, sizeof(t.name), "%.70s.%.16s.new", name, hex);
        r = try_make(&t);
        if (r == -EEXIST)
            continue;
        if (r == 0)
            *ret_t = t;
        return r;
    }
}

int vd__temp_name(struct vd__temp *t, const char *name)
{
    vd_step("map: file written");
    if (fsync(t->fd) < 0)
        return -errno;
    vd_step("map: file synced");
    if (renameat(t->dirfd, t->name, t->dirfd, name) < 0)
        return -errno;
    t->name[0] = '\0';
    vd_step("map: file named");
    int r = vd_fsync_dir(t->dirfd, ".");
    vd_step("map: folder synced");
    return r;
}

void vd__temp_drop(struct vd__temp *t)
{
    if (t->fd >= 0 && t->name[0])
        unlinkat(t->dirfd, t->name, 0);
    vd_close_p(&t->fd);
    t->fd = -1;
}

int vd__temp_sweep(int dirfd, const char *name)
{
    vd_cleanup_close int fd = openat(dirfd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    int r = vd_lock_try(fd, VD_LOCK_EXCLUSIVE, 0, 1);
    if (r < 0)
        return r == -EAGAIN ? 0 : r;
    return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

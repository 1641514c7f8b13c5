// SPDX-License-Identifier: Apache-2.0
/*
 * The last step of a flatten whose live layer lies in the folder of layers: its file takes the place
 * of the disk's file. At the detach, when nobody has the disk open and we own it.
 *
 *   1  the new file gets the old one's mode, owner and attributes, and the owner's lock
 *   2  the record says `moving`: from here on either file is the disk's
 *   3  the two files change places, by one rename; the old one's name among the layers goes
 *   4  the disk's records are a plain disk's
 *
 * Cut after 2, the next detach does it again, from whichever place the files are in.
 */
#include "home.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/xattr.h>

#include "freeze.h"
#include "vd_log.h"
#include "vd_step.h"

#define ATTRS_MAX 65536u

struct move {
    struct vd_disk *d;
    struct live *live;
    struct stat old, new;
    char path[PATH_MAX];  /* of the disk's file, now */
    char layer[PATH_MAX]; /* of the live layer's */
};

static int copy_attr(int from, int to, const char *name)
{
    char value[ATTRS_MAX];
    if (strcmp(name, VD_META_XATTR_LAYERED) == 0)
        return 0;
    ssize_t n = fgetxattr(from, name, value, sizeof(value));
    if (n < 0)
        return errno == ENODATA ? 0 : -errno;
    return fsetxattr(to, name, value, (size_t)n, 0) < 0 ? -errno : 0;
}

static int copy_attrs(int from, int to)
{
    char names[ATTRS_MAX];
    ssize_t n = flistxattr(from, names, sizeof(names));
    int r = n < 0 ? -errno : 0;
    for (const char *p = names; r == 0 && p < names + n; p += strlen(p) + 1)
        r = copy_attr(from, to, p);
    return r;
}

static int dress(struct move *m)
{
    int to = m->live->backing->fd;
    if (fchown(to, m->old.st_uid, m->old.st_gid) < 0 || fchmod(to, m->old.st_mode & 07777) < 0)
        return -errno;
    int r = copy_attrs(m->d->backing->fd, to);
    if (r == 0)
        r = vd_owner_lock(to, VD_LOCK_EXCLUSIVE);
    if (r == 0 && fsync(to) < 0)
        r = -errno;
    return r;
}

static int path_of(int fd, char ret_path[PATH_MAX])
{
    char proc[32];
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    ssize_t n = readlink(proc, ret_path, PATH_MAX - 1);
    if (n < 0)
        return -errno;
    ret_path[n] = '\0';
    return 0;
}

static int sync_folder(const char *path)
{
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s", path);
    char *slash = strrchr(dir, '/');
    if (!slash)
        return -EINVAL;
    slash[slash == dir] = '\0';
    vd_cleanup_close int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int is_file(const char *path, const struct stat *want)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return -errno;
    return st.st_dev == want->st_dev && st.st_ino == want->st_ino ? 0 : -ESTALE;
}

/* Step 3. Somebody may rename the disk's file meanwhile: what changed places is looked at, and put back. */
static int change_places(struct move *m)
{
    int r = is_file(m->path, &m->old);
    if (r < 0)
        return r;
    if (renameat2(AT_FDCWD, m->layer, AT_FDCWD, m->path, RENAME_EXCHANGE) < 0)
        return -errno;
    r = is_file(m->layer, &m->old);
    if (r < 0) {
        (void)!renameat2(AT_FDCWD, m->layer, AT_FDCWD, m->path, RENAME_EXCHANGE);
        return r;
    }
    vd_step("home-exchanged");
    r = sync_folder(m->path);
    return r == 0 ? sync_folder(m->layer) : r;
}

static int set_moving(struct vd_disk *d, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r == 0 && view.nmaps)
        r = -ESTALE;
    if (r < 0)
        return r;
    view.moving = true;
    r = vd_meta_put_view(m, &view);
    return r < 0 ? r : vd_meta_commit(m);
}

/* Step 4. */
static int set_plain(struct vd_disk *d, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_layer_record layer;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = vd_meta_get_layer(m, 0, &layer);
    if (r < 0)
        return r;
    layer.path[0] = '\0';
    r = vd_meta_put_layer(m, 0, &layer);
    if (r == 0)
        r = vd_meta_del_view(m);
    vd_step("home-commit");
    return r < 0 ? r : vd_meta_commit(m);
}

static int move(struct move *m, char why[VD_META_WHY])
{
    struct vd_disk *d = m->d;
    int r = path_of(d->backing->fd, m->path);
    if (r == 0)
        r = path_of(m->live->backing->fd, m->layer);
    if (r == 0)
        r = vd_backing_stat(d->backing, &m->old);
    if (r == 0)
        r = vd__live_sync(m->live, false);
    if (r == 0)
        r = dress(m);
    vd_step("home-moving");
    if (r == 0)
        r = set_moving(d, why);
    vd_step("home-exchange");
    if (r == 0)
        r = change_places(m);
    if (r == 0)
        r = set_plain(d, why);
    if (r < 0)
        return r;
    /* The old file may still be a frozen layer of others under its own ID; who comes to it by a name
     * that he looked up before is told to look again. */
    (void)!vd_layered_mark(d->backing->fd, &vd_layered_moved);
    (void)!vd_layer_remove(d->ds->config.meta, &m->live->disk_id);
    return 0;
}

void vd__move_home(struct vd_disk *d)
{
    struct view *v = atomic_load(&d->view);
    char why[VD_META_WHY] = "";
    if (!v || !v->live->lm || v->nmaps || atomic_load(&d->sync_failed) ||
        (v->live->own_file && !d->moving))
        return;
    struct move m = {.d = d, .live = v->live};
    int r;
    if (v->live->own_file) { /* it was cut behind the exchange */
        r = set_plain(d, why);
        if (r == 0)
            (void)!vd_layer_remove(d->ds->config.meta, &v->live->disk_id);
    } else {
        r = move(&m, why);
    }
    if (r == 0) {
        (void)!vd_known_drop(d->ds->config.meta, &d->uuid);
        vd__sweep_later(d->ds);
    }
    if (r < 0)
        vd_log_warning("%s: it is flat, but its blocks stay in .vdiskfs/layers for now: %s",
                       d->path, why[0] ? why : strerror(-r));
}

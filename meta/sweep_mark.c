// SPDX-License-Identifier: Apache-2.0
/*
 * Who refers to what. A disk refers to its live map, the frozen maps of its view and of its
 * snapshots, the layers that those maps list, and its live layer where that is in layers/. A map
 * that thousands of disks name is looked at once. A disk whose file is gone refers all the same:
 * that it is gone is for `vdisk check` to say.
 *
 * A clone is made as layers/<live layer>, then its metadata is committed, then its file is linked
 * at the user's path, then the name in layers/ is removed. So where the live layer should be the
 * disk's own file and has a name in layers/, one link says that the clone was never born, two that
 * only that name is left over (of a first snapshot that was cut, too).
 */
#include <dirent.h>
#include <fcntl.h>

#include "sum.h"
#include "sweep.h"
#include "vd_file.h"

#define RESTORE "restore it from a backup, or remove what is left of the disk"

int vd__ids_add(struct vd__ids *l, const struct vd_id *id)
{
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        void *p = realloc(l->p, room * sizeof(*l->p));
        if (!p)
            return -ENOMEM;
        l->p = p;
        l->room = room;
    }
    l->p[l->n++] = *id;
    return 0;
}

/* ---- one disk ---- */

struct disk {
    struct vd__sweep *w;
    const struct vd_id *uuid;
    struct vd_meta *m;
    struct vd_disk_record record;
    struct vd_view_record view;
    size_t nsnapshots;
};

static int refuse(const struct disk *d, const char *cause)
{
    char path[VD_META_WHY];
    vd_meta_disk_path(d->w->s, d->uuid, path, sizeof(path));
    snprintf(d->w->why, VD_META_WHY, "%.330s: %.60s; " RESTORE, path, cause);
    return -EUCLEAN;
}

static int refer_frozen(const struct disk *d, const struct vd_id *maps, uint32_t n)
{
    struct vd__sweep *w = d->w;
    for (uint32_t i = 0; i < n; i++) {
        int r = vd__idset_add(&w->frozen, &maps[i]);
        if (r == 1)
            r = vd__ids_add(&w->frozen_ids, &maps[i]);
        if (r == 0 && w->named_by.n < w->frozen_ids.n)
            r = vd__ids_add(&w->named_by, d->uuid);
        if (r < 0)
            return r;
    }
    return 0;
}

static int refer_layer(const struct disk *d, const struct vd_id *id)
{
    int r = vd__idset_add(&d->w->layers, id);
    return r < 0 ? r : 0;
}

static int one_snapshot(void *user, const struct vd_snapshot_record *s)
{
    struct disk *d = user;
    d->nsnapshots++;
    int r = refer_frozen(d, s->maps, s->nmaps);
    if (r == 0)
        r = vd__idset_add(&d->w->frozen_layers, &s->disk_id);
    return r < 0 ? r : refer_layer(d, &s->disk_id);
}

/* Records of layers behind the live one, from whatever version wrote them. */
static int old_layers(const struct disk *d)
{
    int r = 0;
    for (uint32_t i = 1; r == 0 && i < d->record.nlayers; i++) {
        struct vd_layer_record l;
        r = vd_meta_get_layer(d->m, i, &l);
        if (r == 0)
            r = refer_layer(d, &l.disk_id);
    }
    return r == -ENOENT ? 0 : r;
}

/* The live layer should be the disk's own file. What is its name in layers/? Sets RET_UNBORN. */
static int own_file(const struct disk *d, bool *ret_unborn)
{
    struct stat st;
    const struct vd_id *live = &d->record.live_disk_id;
    int r = vd_layer_stat(d->w->s, live, &st);
    if (r == -ENOENT)
        return 0;
    if (r < 0 && r != -ELOOP && r != -EINVAL)
        return r;
    if (r < 0 || st.st_ino != d->view.file_ino || d->view.moving ||
        (st.st_nlink == 1 && d->nsnapshots > 0))
        return refer_layer(d, live); /* not what we know: it is left alone */
    *ret_unborn = st.st_nlink == 1;
    r = *ret_unborn ? 0 : vd__idset_add(&d->w->second_names, live);
    return r < 0 ? r : 0;
}

static int refer_view(const struct disk *d)
{
    bool unborn = false;
    int r = d->view.home == VD_HOME_FILE ? own_file(d, &unborn)
                                         : refer_layer(d, &d->record.live_disk_id);
    if (r == 0 && unborn)
        return vd__ids_add(&d->w->unborn, d->uuid);
    if (r == 0)
        r = vd__idset_add(&d->w->live, &d->view.live_map);
    return r < 0 ? r : refer_frozen(d, d->view.maps, d->view.nmaps);
}

static int read_disk(struct disk *d)
{
    int view = vd_meta_get_view(d->m, &d->view);
    if (view < 0 && view != -ENOENT)
        return view;
    int r = vd_meta_get_disk(d->m, &d->record);
    if (r == -ENOENT) /* cut between its binding and its first record */
        return view == 0 ? refuse(d, "it has a view and no record of the disk") : 0;
    if (r == 0)
        r = vd_meta_each_snapshot(d->m, one_snapshot, d);
    if (r == 0)
        r = old_layers(d);
    return r < 0 || view < 0 ? r : refer_view(d);
}

static int one_disk(void *user, const struct vd_id *uuid)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd__sweep *w = user;
    struct disk d = {.w = w, .uuid = uuid};
    if (w->except && vd_id_eq(uuid, w->except))
        return vd_min(vd__idset_add(&w->disks, uuid), 0);
    int r = vd_meta_open(w->s, uuid, VD_META_READ, &m, w->why);
    if (r == -ENOENT)
        return 0; /* removed in this instant */
    if (r < 0)
        return r;
    d.m = m;
    r = read_disk(&d);
    if (r == -EUCLEAN && vd_meta_why(m)[0])
        snprintf(w->why, VD_META_WHY, "%s", vd_meta_why(m));
    if (r == 0)
        r = vd__idset_add(&w->disks, uuid);
    return r < 0 ? r : 0;
}

/* ---- folders of disks without an environment ---- */

/* A folder that was made for a disk that is not there yet has no committed transaction in its
 * meta.sum; one that has lost its environment has. */
static int one_folder(struct vd__sweep *w, int disks_fd, const char *name)
{
    char file[VD_ID_HEX + 16];
    struct vd__sum sum = {.state = VD__SUM_OPEN};
    struct disk d = {.w = w};
    struct vd_id uuid;
    uint32_t version;
    if (strlen(name) != VD_ID_HEX - 1 || vd_id_parse(name, &uuid) < 0)
        return 0;
    d.uuid = &uuid;
    snprintf(file, sizeof(file), "%s/" VD__META_NAME, name);
    if (faccessat(disks_fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return 0;
    if (errno != ENOENT)
        return -errno;
    snprintf(file, sizeof(file), "%s/" VD__SUM_NAME, name);
    vd_cleanup_close int fd =
        openat(disks_fd, file, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    int r = vd__sum_read(fd, &sum, &version);
    if (r == 0 && sum.state == VD__SUM_OPEN && sum.txnid == 0)
        return 0;
    return r < 0 && r != -EPROTONOSUPPORT ? r : refuse(&d, "its " VD__META_NAME " is missing");
}

static int folders(struct vd__sweep *w)
{
    int fd;
    int r = vd__store_dir(w->s, "disks", &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(dir);
        if (!e)
            r = -errno;
        else
            r = one_folder(w, fd, e->d_name);
        if (!e || r < 0)
            break;
    }
    closedir(dir);
    return r;
}

/* ---- maps ---- */

int vd__sweep_mark_map(struct vd__sweep *w, const struct vd_id *id)
{
    struct vd_map *map = NULL;
    int r = vd_map_get(w->maps, id, &map, w->why);
    for (uint32_t i = 0; r >= 0 && i < vd_map_nlayers(map); i++) {
        r = vd__idset_add(&w->layers, vd_map_layer(map, i));
        if (r >= 0)
            r = vd__idset_add(&w->frozen_layers, vd_map_layer(map, i));
    }
    if (map)
        vd_map_unref(map);
    return r < 0 ? r : 0;
}

static int all_maps(struct vd__sweep *w)
{
    for (size_t i = 0; i < w->frozen_ids.n; i++) {
        int r = vd__sweep_mark_map(w, &w->frozen_ids.p[i]);
        if (r == -ENOENT) {
            struct disk d = {.w = w, .uuid = &w->named_by.p[i]};
            char hex[VD_ID_HEX], cause[VD_ID_HEX + 32];
            vd_id_hex(&w->frozen_ids.p[i], hex);
            snprintf(cause, sizeof(cause), "its map %s is missing", hex);
            return refuse(&d, cause);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int one_known(void *user, const struct vd_id *uuid)
{
    struct vd__sweep *w = user;
    struct disk d = {.w = w, .uuid = uuid};
    return vd__idset_has(&w->disks, uuid) ? 0
                                          : refuse(&d, "it is missing, and the disk has layers");
}

int vd__sweep_mark(struct vd__sweep *w)
{
    int r = vd_meta_each_disk(w->s, one_disk, w);
    if (r == 0)
        r = folders(w);
    if (r == 0)
        r = vd_known_each(w->s, one_known, w);
    return r < 0 ? r : all_maps(w);
}

int vd_layer_is_frozen(struct vd_meta_store *s, struct vd_maps *maps, const struct vd_id *id,
                       const struct vd_id *except, char ret_why[VD_META_WHY])
{
    struct vd__sweep w = {.s = s, .maps = maps, .why = ret_why, .except = except};
    int r = vd__sweep_mark(&w);
    if (r == 0)
        r = vd__idset_has(&w.frozen_layers, id);
    vd__sweep_free(&w);
    return r;
}

void vd__sweep_free(struct vd__sweep *w)
{
    struct vd__ids *lists[] = {&w->frozen_ids, &w->named_by, &w->unborn};
    vd__idset_free(&w->disks);
    vd__idset_free(&w->layers);
    vd__idset_free(&w->frozen_layers);
    vd__idset_free(&w->live);
    vd__idset_free(&w->frozen);
    vd__idset_free(&w->second_names);
    for (size_t i = 0; i < VD_ARRAY_SIZE(lists); i++)
        free(lists[i]->p);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * What nothing refers to goes. First all is read, and whatever cannot be read ends the sweep before
 * anything is touched: a disk that cannot be read today may be restored from its backup tomorrow,
 * and must find its layers. For the same reason a layer that nobody names is left, and the sweep
 * with it, where its file is also the file of a disk that has lost its metadata.
 *
 * Then each thing goes by itself, and nothing that goes is referred to, so a cut at any place
 * leaves less to do for the next sweep. The order within an unborn clone: its metadata, then its
 * file; the file alone is a layer that nothing refers to. Maps go before layers: those of a map
 * that is in use in this program stay with it.
 */
#include "sweep.h"

#include <dirent.h>
#include <fcntl.h>

#include "bind.h"
#include "layer.h"
#include "refs.h"
#include "vd_file.h"
#include "vd_step.h"

struct removal {
    struct vd__sweep w;
    bool dry_run;
    int (*report)(void *user, const char *what);
    void *user;
    struct vd__ids maps, layers; /* to go */
    int n;
};

static int told(struct removal *v, const char *folder, const char *name)
{
    char what[300];
    snprintf(what, sizeof(what), "%s/%.255s", folder, name);
    v->n++;
    int r = v->report ? v->report(v->user, what) : 0;
    return r < 0 ? r : 0;
}

static int told_id(struct removal *v, const char *folder, const struct vd_id *id)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    return told(v, folder, hex);
}

/* ---- what is to go ---- */

static int choose_map(void *user, const struct vd_id *id)
{
    struct removal *v = user;
    if (vd__idset_has(&v->w.live, id) || vd__idset_has(&v->w.frozen, id))
        return 0;
    return vd__ids_add(&v->maps, id);
}

/* Nobody names the layer ID, but its file ST has another name: is that a disk's? */
static int check_other_name(struct removal *v, const struct vd_id *id, const struct stat *st)
{
    vd_cleanup_close int fd = -1;
    struct vd_id uuid, live, any;
    int r = vd_layer_open(v->w.s, id, false, &fd);
    if (r < 0)
        return r;
    r = vd_layered_get(fd, &live);
    if (r < 0 && r != -EUCLEAN)
        return r == -ENODATA ? 0 : r;
    if (r == 0 && vd_id_eq(&live, &vd_layered_moved))
        return 0;
    r = vd__attr_get(fd, &uuid, NULL);
    if (r < 0 && r != -EUCLEAN && r != -ENODATA)
        return r;
    if (r == 0 && vd__idset_has(&v->w.disks, &uuid))
        return 0;
    int n = vd__layer_names(v->w.s, st, &any);
    if (n < 0 || (nlink_t)n >= st->st_nlink)
        return n < 0 ? n : 0; /* its names are all here */
    char hex[VD_ID_HEX], path[VD_META_WHY];
    vd_id_hex(id, hex);
    vd__layers_path(v->w.s, hex, path, sizeof(path));
    snprintf(v->w.why, VD_META_WHY,
             "%.300s: it is also the file of a disk whose metadata is missing; restore that from a "
             "backup, or run `vdisk adopt PATH --as-plain` for the file, or remove it",
             path);
    return -EUCLEAN;
}

static int choose_layer(void *user, const struct vd_id *id)
{
    struct removal *v = user;
    struct stat st;
    if (vd__idset_has(&v->w.layers, id))
        return 0;
    int r = vd_layer_stat(v->w.s, id, &st);
    if (r == 0 && st.st_nlink > 1 && !vd__idset_has(&v->w.second_names, id))
        r = check_other_name(v, id, &st);
    if (r < 0 && r != -ENOENT && r != -ELOOP && r != -EINVAL)
        return r;
    return vd__ids_add(&v->layers, id);
}

static int choose(struct removal *v)
{
    int r = vd_maps_each(v->w.maps, false, choose_map, v);
    return r < 0 ? r : vd_layer_each(v->w.s, choose_layer, v);
}

/* ---- removal ---- */

static int remove_unborn(struct removal *v)
{
    for (size_t i = 0; i < v->w.unborn.n; i++) {
        int r = v->dry_run ? 0 : vd_meta_remove(v->w.s, &v->w.unborn.p[i]);
        vd_step("sweep-unborn");
        if (r == 0 || r == -ENOENT)
            r = told_id(v, "disks", &v->w.unborn.p[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int remove_maps(struct removal *v)
{
    for (size_t i = 0; i < v->maps.n; i++) {
        const struct vd_id *id = &v->maps.p[i];
        int r = v->dry_run ? 0 : vd_maps_remove(v->w.maps, id);
        vd_step("sweep-map");
        if (r == -EBUSY) {
            r = vd__sweep_mark_map(&v->w, id);
            /* A live map, or one that is let go in this instant, has no list that we could get. */
            r = r == -ENOENT || r == -EUCLEAN ? 0 : r;
            v->w.why[0] = '\0';
        } else if (r == 0) {
            r = told_id(v, "maps", id);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int remove_layers(struct removal *v)
{
    for (size_t i = 0; i < v->layers.n; i++) {
        const struct vd_id *id = &v->layers.p[i];
        if (vd__idset_has(&v->w.layers, id))
            continue; /* of a map in use */
        int r = v->dry_run ? 0 : vd_layer_remove(v->w.s, id);
        vd_step("sweep-layer");
        if (r == 0)
            r = told_id(v, "layers", id);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Of the names in the open folder FD (which is taken) those that begin with PREFIX. */
static int remove_names(struct removal *v, const char *folder, int fd, const char *prefix,
                        bool unlink_them)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return -ENOMEM;
    }
    int r = 0;
    const struct dirent *e;
    for (errno = 0; r == 0 && (e = readdir(d)); errno = 0) {
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || strcmp(e->d_name, ".") == 0 ||
            strcmp(e->d_name, "..") == 0)
            continue;
        if (unlink_them && unlinkat(fd, e->d_name, 0) < 0 && errno != ENOENT)
            r = -errno;
        else
            r = told(v, folder, e->d_name);
    }
    if (r == 0)
        r = -errno;
    closedir(d);
    return r;
}

static int no_map(void *user, const struct vd_id *id)
{
    return 0;
}

static int remove_leftovers(struct removal *v)
{
    int fd;
    int r = v->dry_run ? 0 : vd_maps_each(v->w.maps, true, no_map, NULL);
    if (r < 0)
        return r;
    r = vd__layers_dir(v->w.s, false, &fd);
    if (r == 0)
        r = remove_names(v, "layers", fd, ".tmp-", !v->dry_run);
    if (r < 0 && r != -ENOENT)
        return r;
    r = vd__store_dir(v->w.s, "trash", &fd);
    if (r == 0)
        r = remove_names(v, "trash", fd, "", false);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    return v->dry_run ? 0 : vd_meta_empty_trash(v->w.s);
}

/* Another store's layers are all such as nobody refers to. */
static int check_folder(struct removal *v)
{
    vd_cleanup_close int fd = -1;
    int r = vd__layers_dir(v->w.s, false, &fd);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    r = vd__layers_ours(v->w.s, fd);
    if (r == 0)
        snprintf(v->w.why, VD_META_WHY,
                 ".vdiskfs/layers is another metadata store's (--meta); nothing of it "
                 "is swept by this one");
    return r == 1 ? 0 : r == 0 ? -EUCLEAN : r;
}

static int sweep(struct removal *v)
{
    int r = check_folder(v);
    if (r < 0)
        return r;
    r = v->dry_run ? 0 : vd__sweep_gone(v->w.s);
    if (r == 0)
        r = vd__sweep_mark(&v->w);
    if (r == 0)
        r = choose(v);
    vd_step("sweep-chosen");
    if (r == 0)
        r = remove_unborn(v);
    if (r == 0)
        r = remove_maps(v);
    if (r == 0)
        r = remove_layers(v);
    return r < 0 ? r : remove_leftovers(v);
}

int vd_meta_sweep(struct vd_meta_store *s, struct vd_maps *maps, bool dry_run,
                  int (*report)(void *user, const char *what), void *user,
                  char ret_why[VD_META_WHY])
{
    struct removal v = {.w = {.s = s, .maps = maps, .why = ret_why},
                        .dry_run = dry_run,
                        .report = report,
                        .user = user};
    vd_cleanup_close int lock_fd = -1;
    ret_why[0] = '\0';
    int r = vd__refs_open(s, &lock_fd);
    if (r == 0)
        r = vd_lock_try(lock_fd, VD_LOCK_EXCLUSIVE, 0, 1);
    if (r == 0)
        r = sweep(&v);
    vd__sweep_free(&v.w);
    free(v.maps.p);
    free(v.layers.p);
    return r == 0 ? v.n : r == -EAGAIN ? -EBUSY : r;
}

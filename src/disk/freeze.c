// SPDX-License-Identifier: Apache-2.0
/*
 * The freeze: the live layer becomes immutable, and a new, empty one takes its place.
 *
 *   before   room among the frozen maps; the new layer's file, map and witness; for a plain disk the
 *            map of its whole image; a second name of its file among the layers; a sync, so that
 *            the one behind the gate has little to do
 *   stop     changes wait from here on, and those under way have ended
 *   durable  the old layer's data and every record of its map
 *   record   what the old layer's file must look like from now on
 *   commit   of the metadata: the one instant at which it happens. Cut before, the disk is as it was, with files left
 *            over for the sweep; cut after, it is frozen
 *   go on    changes go to the new layer
 *   after    what the cache holds of the old layer passes its barrier and is good for all who read
 *            that layer from now on
 *
 * Guests see none of it but the wait. A flush that comes meanwhile syncs what it finds.
 */
#include "freeze.h"

#include <string.h>
#include <time.h>

#include "fresh.h"
#include "vd_log.h"
#include "vd_step.h"

struct freeze {
    struct vd_disk *d;
    struct view *old; /* stays the disk's until we publish: own_mu is held */
    const char *name;
    char *why;
    struct fresh fresh;
    uint64_t size;
    struct vd_id base_id; /* of a plain disk: the map of its image */
    bool linked;
    struct vd_layer_file file; /* of the old layer */
    struct frozen *frozen;
    struct vd_cache_witness was;
};

static bool is_plain(const struct freeze *f)
{
    return !f->old->live->lm;
}

/* Has the user's file no other name than the user's, and maybe ours among the layers? */
static int check_names(struct freeze *f)
{
    struct stat st, ours;
    (void)!vd_gone_drop(f->d->ds->config.meta, &f->d->uuid); /* of a removal that did not come */
    int r = vd_backing_stat(f->d->backing, &st);
    if (r < 0)
        return r;
    bool left_over = vd_layer_stat(f->d->ds->config.meta, &f->old->live->disk_id, &ours) == 0 &&
                     ours.st_ino == st.st_ino;
    if (st.st_nlink <= 1u + left_over)
        return 0;
    snprintf(f->why, VD_META_WHY, "its file has %lu names (hard links); a disk with layers has one",
             (unsigned long)st.st_nlink - left_over);
    return -EMLINK;
}

static int name_layer(struct freeze *f)
{
    if (!f->old->live->own_file)
        return 0;
    int r = check_names(f);
    if (r < 0)
        return r;
    /* Its attributes first: a layer's file that does not say whose it is would be refused. */
    r = vd_backing_sync(f->d->backing, false);
    if (r < 0)
        return r;
    vd_step("freeze-link");
    r = vd_layer_link(f->d->ds->config.meta, &f->old->live->disk_id, f->d->backing->fd);
    if (r == -EXDEV)
        snprintf(f->why, VD_META_WHY, "it is not on the file system of .vdiskfs/layers");
    else if (r == -EPERM || r == -EOPNOTSUPP)
        snprintf(f->why, VD_META_WHY, "the source's file system has no hard links");
    f->linked = r == 0;
    return r;
}

static int map_image(struct freeze *f)
{
    if (!is_plain(f))
        return 0;
    int r = vd_id_new(&f->base_id);
    if (r < 0)
        return r;
    vd_step("freeze-map");
    return vd_map_make_whole(f->d->ds->maps, &f->base_id, &f->old->live->disk_id,
                             (f->size + VD_BLOCK_SIZE - 1) >> VD_BLOCK_SHIFT);
}

static int prepare(struct freeze *f)
{
    struct stat st;
    f->size = atomic_load(&f->d->size_bytes);
    int r = vd_backing_stat(f->old->live->backing, &st);
    if (r == 0)
        r = name_layer(f);
    if (r == 0)
        r = map_image(f);
    if (r == 0)
        r = vd__fresh_make(f->d, f->size, &st, &f->fresh);
    return r < 0 ? r : vd__live_sync(f->old->live, true);
}

/* The disk grew or shrank since we prepared. */
static int follow_size(struct freeze *f)
{
    uint64_t size = atomic_load(&f->d->size_bytes);
    if (size == f->size)
        return 0;
    f->size = size;
    int r = vd_backing_truncate(f->fresh.live->backing, size);
    if (r == 0)
        r = vd_live_map_set_size(f->fresh.live->lm, size);
    if (r == 0)
        r = vd__live_sync(f->fresh.live, false);
    if (r == 0 && is_plain(f)) {
        (void)!vd_maps_remove(f->d->ds->maps, &f->base_id);
        r = map_image(f);
    }
    return r;
}

/* From here on the old layer's file is what its record says. */
static int record_layer(struct freeze *f, struct vd_meta *m)
{
    struct vd_layer_record layer;
    struct stat st;
    int r = vd_meta_get_layer(m, 0, &layer);
    if (r == 0)
        r = vd_backing_stat(f->old->live->backing, &st);
    if (r < 0)
        return r;
    f->file = (struct vd_layer_file){
        .disk_id = f->old->live->disk_id,
        .token = layer.token,
        .size_bytes = (uint64_t)st.st_size,
        .mtime_ns = (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec,
        .created_s = (uint64_t)time(NULL),
        .owner = f->d->uuid,
    };
    vd_step("freeze-record");
    r = vd_layer_put(f->d->ds->config.meta, &f->file);
    return r < 0 ? r : vd__frozen_get(f->d->ds, &f->file.disk_id, &f->frozen, f->why);
}

static int put_records(struct freeze *f, struct vd_meta *m)
{
    struct vd_view_record view = {0};
    int r = vd_meta_get_view(m, &view);
    if (r == -ENOENT && is_plain(f))
        r = 0;
    if (r == 0)
        r = vd__fresh_records(f->d, &f->fresh, m, &view);
    if (r < 0)
        return r;
    view.nmaps = f->old->nmaps + 1;
    view.maps[0] = is_plain(f) ? f->base_id : *vd_live_map_id(f->old->live->lm);
    for (unsigned i = 0; i < f->old->nmaps; i++)
        view.maps[i + 1] = *vd_map_id(f->old->maps[i]);
    r = vd_meta_put_view(m, &view);
    if (r < 0 || !f->name)
        return r;
    struct vd_snapshot_record snap = {
        .disk_id = f->old->live->disk_id,
        .created_s = f->file.created_s,
        .size_bytes = f->size,
        .nmaps = view.nmaps,
    };
    snprintf(snap.name, sizeof(snap.name), "%s", f->name);
    memcpy(snap.maps, view.maps, sizeof(snap.maps));
    return vd_meta_put_snapshot(m, &snap);
}

static int commit(struct freeze *f)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_snapshot_record there;
    int r = vd_meta_open(f->d->ds->config.meta, &f->d->uuid, VD_META_WRITE, &m, f->why);
    if (r < 0)
        return r;
    r = f->name ? vd_meta_get_snapshot(m, f->name, &there) : -ENOENT;
    if (r == 0) {
        snprintf(f->why, VD_META_WHY, "it has a snapshot \"%s\" already", f->name);
        return -EEXIST;
    }
    r = r == -ENOENT ? record_layer(f, m) : r;
    if (r == 0)
        r = put_records(f, m);
    vd_step("freeze-commit");
    if (r == 0)
        r = vd_layered_mark(f->d->backing->fd, &f->fresh.disk_id);
    if (r == -ENOTSUP || r == -EOPNOTSUPP)
        snprintf(f->why, VD_META_WHY, "the source's file system takes no extended attributes");
    if (r == 0)
        r = vd_known_put(f->d->ds->config.meta, &f->d->uuid);
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("freeze-committed");
    return r;
}

/* The frozen map of the old live layer, with what stands below it, and the new view. */
static int publish(struct freeze *f)
{
    struct vd_disk *d = f->d;
    struct vd_map *map = NULL;
    struct chain *chains[VD_VIEW_MAPS] = {NULL};
    int r = is_plain(f) ? vd_map_get(d->ds->maps, &f->base_id, &map, f->why)
                        : vd_live_map_freeze(f->old->live->lm, &map);
    if (r == 0)
        r = vd__chain_get(d->ds, map, &chains[0], f->why);
    for (unsigned i = 0; i < f->old->nmaps && r == 0; i++)
        chains[i + 1] = vd__chain_ref(d->ds, f->old->chains[i]);
    struct view *v = NULL;
    if (r == 0) {
        v = vd__view_new(d, f->fresh.live, chains, f->old->nmaps + 1);
        r = v ? 0 : -ENOMEM;
    }
    if (r == 0) {
        vd__fresh_take(d, &f->fresh, v);
        return 0;
    }
    for (unsigned i = 0; i < VD_VIEW_MAPS; i++)
        vd__chain_put(d->ds, chains[i]);
    return r;
}

/* With the gate shut. COMMITTED: the metadata says so, whatever is returned. */
static int freeze_now(struct freeze *f, bool *ret_committed)
{
    int r = follow_size(f);
    vd_step("freeze-sync");
    if (r == 0)
        r = vd__live_sync(f->old->live, false);
    if (r == 0)
        r = commit(f);
    if (r < 0)
        return r;
    *ret_committed = true;
    f->was = f->d->witness;
    if (f->was.generation && atomic_load(&f->old->live->cache)) {
        struct vd_cache_key key = {.disk_id = f->file.disk_id, .generation = f->was.generation};
        vd__frozen_adopt_cache(f->frozen, &key);
    } else {
        f->was = (struct vd_cache_witness){0};
    }
    r = publish(f);
    if (r < 0) {
        vd_log_error("%s: frozen, but cannot be written until it is closed and opened again: %s",
                     f->d->path, strerror(-r));
        atomic_store(&f->d->sync_failed, true);
    }
    return r;
}

static void undo(struct freeze *f)
{
    struct vd_disks *ds = f->d->ds;
    vd__fresh_drop(f->d, &f->fresh);
    if (is_plain(f) && !vd_id_is_zero(&f->base_id))
        (void)!vd_maps_remove(ds->maps, &f->base_id);
    vd__frozen_put(vd_steal_ptr(f->frozen));
    if (f->linked) /* only the second name, and the record */
        (void)!vd_layer_remove(ds->config.meta, &f->old->live->disk_id);
    if (is_plain(f))
        (void)!vd_known_drop(ds->config.meta, &f->d->uuid);
    int fd = f->d->backing->fd;
    const struct live *old = f->old->live;
    (void)!(is_plain(f) ? vd_layered_unmark(fd)
                        : vd_layered_mark(fd, old->own_file ? NULL : &old->disk_id));
}

int vd__freeze(struct hold *h, const char *name, char why[VD_META_WHY])
{
    struct vd_disk *d = h->d;
    bool committed = false;
    int r = vd__merge_for_room(d, why);
    if (r < 0)
        return r;
    unsigned shard;
    pthread_mutex_lock(&d->fold_mu);
    struct freeze f = {.d = d, .old = vd__view_get(d, &shard), .name = name, .why = why};
    r = prepare(&f);
    if (r == 0)
        r = vd__changes_stop(d);
    if (r == -ETIMEDOUT)
        snprintf(why, VD_META_WHY, "a write to it does not end");
    if (r == 0) {
        r = freeze_now(&f, &committed);
        vd__changes_go_on(d);
    }
    if (committed)
        vd__witness_freeze(d->ds, &f.file, &f.was);
    else
        undo(&f);
    if (committed)
        vd__frozen_put(f.frozen);
    vd__view_put(f.old, shard);
    pthread_mutex_unlock(&d->fold_mu);
    vd__view_reap(d);
    if (r == 0)
        vd__keep_soon(d);
    return r;
}

int vd_disks_snapshot(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                      char ret_why[VD_META_WHY])
{
    struct hold h;
    if (!vd__snapshot_name_is_good(name)) {
        snprintf(ret_why, VD_META_WHY,
                 "a snapshot's name has 1 to 255 bytes, without '/' and control characters");
        return -EINVAL;
    }
    int r = vd__tell_snapshot(ds, path_fd, path, name, ret_why);
    if (r == 0)
        r = vd__hold(ds, path_fd, path, false, &h, ret_why);
    if (r < 0)
        return r;
    r = vd__freeze(&h, name, ret_why);
    vd__let_go(&h);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
#include "fresh.h"

#include <string.h>
#include <time.h>

#include "vd_step.h"

static int open_live(struct vd_disk *d, struct fresh *f, int fd)
{
    char why[VD_META_WHY];
    struct vd_backing *b = NULL;
    struct vd_live_map *lm = NULL;
    int r = vd_backing_file_open(fd, true, d->ds->config.backing_direct, &b);
    if (r == 0)
        r = vd_live_map_open(d->ds->maps, &f->map_id, VD_MAP_TRUST_ALL, &lm, why);
    if (r == 0)
        r = vd_live_map_begin(lm);
    if (r == 0) {
        f->live = vd__live_new(&f->disk_id, b, false, lm);
        r = f->live ? 0 : -ENOMEM;
    }
    if (r < 0) {
        vd_live_map_close(lm);
        vd_backing_close(b);
        return r;
    }
    f->live->begun = true;
    return 0;
}

static void cache_live(struct vd_disk *d, struct fresh *f)
{
    struct vd_cache_layer *cache = NULL;
    if (atomic_load(&d->state) == VD_OWNER_EXCLUSIVE)
        vd__witness_new(d->ds, &f->disk_id, &f->token, &f->identity, &f->witness, &cache);
    atomic_store(&f->live->cache, cache);
}

int vd__fresh_make(struct vd_disk *d, uint64_t size_bytes, const struct stat *times,
                   struct fresh *ret_f)
{
    struct vd_meta_store *store = d->ds->config.meta;
    vd_cleanup_close int fd = -1;
    *ret_f = (struct fresh){0};
    int r = vd_id_new(&ret_f->disk_id);
    if (r == 0)
        r = vd_id_new(&ret_f->map_id);
    if (r == 0)
        r = vd_id_new(&ret_f->token);
    if (r < 0)
        return r;
    vd_step("fresh-layer");
    r = vd_layer_make(store, &ret_f->disk_id, size_bytes, &fd);
    if (r == 0 && times) {
        struct timespec ts[2] = {times->st_atim, times->st_mtim};
        if (futimens(fd, ts) < 0)
            r = -errno;
    }
    vd_step("fresh-map");
    if (r == 0)
        r = vd_live_map_make(d->ds->maps, &ret_f->map_id, &ret_f->disk_id, size_bytes);
    if (r == 0)
        r = open_live(d, ret_f, fd);
    struct stat st;
    if (r == 0)
        r = vd_backing_stat(ret_f->live->backing, &st);
    if (r < 0) {
        vd__fresh_drop(d, ret_f);
        return r;
    }
    vd_identity_of(&st, &ret_f->identity);
    cache_live(d, ret_f);
    return 0;
}

void vd__fresh_drop(struct vd_disk *d, struct fresh *f)
{
    /* What cannot be removed is swept later. */
    vd__live_unref(d, vd_steal_ptr(f->live));
    if (!vd_id_is_zero(&f->map_id))
        (void)!vd_maps_remove(d->ds->maps, &f->map_id);
    if (!vd_id_is_zero(&f->disk_id))
        (void)!vd_layer_remove(d->ds->config.meta, &f->disk_id);
}

int vd__fresh_records(struct vd_disk *d, const struct fresh *f, struct vd_meta *m,
                      struct vd_view_record *view)
{
    struct vd_disk_record disk;
    struct vd_layer_record layer = {
        .disk_id = f->disk_id,
        .state = VD_LAYER_LIVE,
        .generation = 1,
        .token = f->token,
        .identity = f->identity,
        .created_s = (uint64_t)time(NULL),
    };
    struct stat st;
    vd_layer_rel(&f->disk_id, layer.path, sizeof(layer.path));
    int r = vd_backing_stat(d->backing, &st);
    if (r == 0)
        r = vd_meta_get_disk(m, &disk);
    if (r < 0)
        return r;
    disk.live_disk_id = f->disk_id;
    disk.size_bytes = vd_live_map_size(f->live->lm);
    view->home = VD_HOME_LAYERS;
    view->moving = false;
    view->file_ino = st.st_ino;
    view->live_map = f->map_id;
    r = vd_meta_put_layer(m, 0, &layer);
    return r < 0 ? r : vd_meta_put_disk(m, &disk);
}

void vd__fresh_take(struct vd_disk *d, struct fresh *f, struct view *v)
{
    d->witness = f->witness;
    atomic_store(&d->content, content_of(&f->token));
    atomic_store(&d->generation, f->witness.generation);
    pthread_mutex_lock(&d->mu);
    /* Not owned to write: the witness is made when it is, which a changed identity asks for. */
    d->identity = atomic_load(&f->live->cache) ? f->identity : (struct vd_identity){0};
    pthread_mutex_unlock(&d->mu);
    atomic_store(&d->size_bytes, vd_live_map_size(f->live->lm));
    f->live = NULL;
    vd__view_publish(d, v);
}

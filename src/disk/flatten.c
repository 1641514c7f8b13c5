// SPDX-License-Identifier: Apache-2.0
/*
 * Flatten: the live layer comes to own every block; then nothing below is needed, and the disk is plain.
 *
 *   copy     run by run, as clients' first writes would (cow.c), while clients go on; what is zero, or a hole
 *            in a layer's file, is punched into the file, since of a plain disk the file alone speaks. What was copied
 *            stays copied: after a cut, or a stop, the next call goes on.
 *   commit   changes wait; everything is durable; the view is gone from the metadata (home FILE), or
 *            has no maps below it and no parent (home LAYERS)
 *   move     home LAYERS: the live layer's file takes the place of the disk's file (home.c), now if no
 *            client has the disk open, else when the last one closes it
 */
#include <string.h>

#include "freeze.h"
#include "vd_log.h"
#include "vd_step.h"

#define CHUNK_BLOCKS 256u

static bool is_zero(const uint8_t *p, size_t len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* Blocks that no layer holds, or that are zero: a hole in the file from now on. */
static int punch(struct vd_disk *d, struct view *v, uint64_t first, uint64_t nblocks)
{
    return vd__cow_own_hole(d, v, first, nblocks);
}

/* Blocks of a layer below; what is zero in them stays a hole. */
static int copy(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks, uint8_t *buf)
{
    int r = vd__view_read(d, v, first, nblocks, buf);
    for (uint32_t i = 0; i < nblocks && r == 0;) {
        const uint8_t *p = buf + ((size_t)i << VD_BLOCK_SHIFT);
        bool zero = is_zero(p, VD_BLOCK_SIZE);
        uint32_t end = i + 1;
        while (end < nblocks &&
               is_zero(buf + ((size_t)end << VD_BLOCK_SHIFT), VD_BLOCK_SIZE) == zero)
            end++;
        /* Read again under its lock: a client may have written meanwhile. */
        r = zero ? punch(d, v, first + i, end - i)
                 : vd__cow_copy_up(d, v, first + i, end - i, buf + ((size_t)i << VD_BLOCK_SHIFT));
        i = end;
    }
    return r;
}

/* How many of the NBLOCKS blocks at FIRST, which O holds, are a hole in its file: an image may be terabytes of it. */
static uint64_t hole_at(struct view *v, const struct vd_block_owner *o, uint64_t first,
                        uint64_t nblocks)
{
    off_t data =
        vd__seek_run(v, o, first << VD_BLOCK_SHIFT, (first + nblocks) << VD_BLOCK_SHIFT, SEEK_DATA);
    return data < 0 ? 0 : ((uint64_t)data >> VD_BLOCK_SHIFT) - first; /* else it is read */
}

/* The run of blocks at FIRST: done, and how long it was. */
static int one_run(struct vd_disk *d, uint64_t first, uint64_t nblocks, uint8_t *buf,
                   uint64_t *ret_run)
{
    unsigned gate = vd__pause_wait(&d->changes), shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_block_owner o;
    int r = vd_resolve(v->live->lm, v->maps, v->nmaps, first, nblocks, true, &o, ret_run);
    uint64_t hole = r == 0 && o.kind == VD_OWNED_FROZEN ? hole_at(v, &o, first, *ret_run) : 0;
    if (hole)
        *ret_run = hole;
    if (r == 0 && (hole || o.kind == VD_OWNED_ZERO || o.kind == VD_OWNED_NONE)) {
        r = punch(d, v, first, *ret_run);
    } else if (r == 0 && o.kind == VD_OWNED_FROZEN) {
        *ret_run = vd_min(*ret_run, (uint64_t)CHUNK_BLOCKS);
        r = copy(d, v, first, (uint32_t)*ret_run, buf);
    }
    vd__view_put(v, shard);
    vd__pause_leave(&d->changes, gate);
    vd_step("flatten-copied");
    return r;
}

static uint64_t nblocks_of(struct vd_disk *d)
{
    return (atomic_load(&d->size_bytes) + VD_BLOCK_SIZE - 1) >> VD_BLOCK_SHIFT;
}

static int copy_all(struct vd_disk *d, int (*progress)(void *user, uint64_t done, uint64_t total),
                    void *user)
{
    uint8_t *buf = aligned_alloc(VD_BLOCK_SIZE, CHUNK_BLOCKS * VD_BLOCK_SIZE);
    int r = buf ? 0 : -ENOMEM;
    for (uint64_t i = 0; r == 0 && i < nblocks_of(d);) {
        uint64_t run;
        r = one_run(d, i, nblocks_of(d) - i, buf, &run);
        i += run;
        if (r == 0 && progress)
            r = progress(user, i << VD_BLOCK_SHIFT, atomic_load(&d->size_bytes));
        if (r == 0 && atomic_load(&d->ds->stopping))
            r = -ECANCELED;
    }
    free(buf);
    return r;
}

static bool owns_all(struct vd_disk *d, struct live *l)
{
    for (uint64_t i = 0, n = nblocks_of(d), run; i < n; i += run)
        if (vd_live_map_get(l->lm, i, n - i, &run) != VD_BLOCK_OWN)
            return false;
    return true;
}

static int any_snapshot(void *user, const struct vd_snapshot_record *s)
{
    snprintf(user, VD_META_WHY, "it has snapshots (\"%.100s\"); remove them first", s->name);
    return -EBUSY;
}

static int check_snapshots(struct vd_disk *d, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
    return r < 0 ? r : vd_meta_each_snapshot(m, any_snapshot, why);
}

/* The records of a disk that stands alone. */
static int commit(struct vd_disk *d, bool own_file, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = vd_meta_each_snapshot(m, any_snapshot, why);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r < 0)
        return r;
    view.nmaps = 0;
    memset(view.maps, 0, sizeof(view.maps));
    view.parent = view.origin = (struct vd_id){0};
    r = own_file ? vd_meta_del_view(m) : vd_meta_put_view(m, &view);
    vd_step("flatten-commit");
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("flatten-committed");
    return r;
}

static int publish(struct vd_disk *d, struct live *old)
{
    struct live *live = old;
    struct view *v;
    if (old->own_file) {
        live = vd__live_new(&old->disk_id, d->backing, true, NULL);
        if (!live)
            return -ENOMEM;
        /* The same layer, the same place in the cache. */
        struct vd_cache_key key = {.disk_id = old->disk_id, .generation = d->witness.generation};
        struct vd_cache_layer *cache = NULL;
        if (atomic_load(&old->cache) && vd_cache_layer_open(d->ds->config.cache, &key, &cache) == 0)
            atomic_store(&live->cache, cache);
    } else {
        vd__live_ref(d, old);
    }
    v = vd__view_new(d, live, NULL, 0);
    if (!v) {
        vd__live_unref(d, live);
        return -ENOMEM;
    }
    vd__view_publish(d, v);
    pthread_mutex_lock(&d->mu);
    d->parent = (struct vd_id){0};
    pthread_mutex_unlock(&d->mu);
    return 0;
}

/* With own_mu held: all that is left when everything is copied. -EAGAIN: a client made the disk longer meanwhile. */
static int stand_alone(struct vd_disk *d, char why[VD_META_WHY])
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct live *live = v->live;
    int r = vd__live_sync(live, false);
    if (r == 0)
        r = vd__changes_stop(d);
    if (r == 0) {
        r = owns_all(d, live) ? vd__live_sync(live, false) : -EAGAIN;
        if (r == 0)
            r = commit(d, live->own_file, why);
        if (r == 0)
            r = publish(d, live);
        vd__changes_go_on(d);
    }
    if (r == 0 && live->own_file)
        (void)!vd_known_drop(d->ds->config.meta,
                             &d->uuid); /* more care than it needs, if it stays */
    if (r == 0 && live->own_file && vd_layered_unmark(d->backing->fd) < 0)
        vd_log_warning("%s: its attribute " VD_META_XATTR_LAYERED " could not be removed", d->path);
    vd__view_put(v, shard);
    return r;
}

static int finish(struct vd_disk *d, char why[VD_META_WHY])
{
    pthread_mutex_lock(&d->own_mu);
    pthread_mutex_lock(&d->fold_mu);
    int r = stand_alone(d, why);
    pthread_mutex_unlock(&d->fold_mu);
    pthread_mutex_unlock(&d->own_mu);
    vd__view_reap(d);
    return r;
}

int vd_disks_flatten(struct vd_disks *ds, int path_fd, const char *path,
                     int (*progress)(void *user, uint64_t done, uint64_t total), void *user,
                     char ret_why[VD_META_WHY])
{
    struct hold h;
    int r = vd__hold_loosely(ds, path_fd, path, &h, ret_why);
    if (r < 0)
        return r;
    struct vd_disk *d = h.d;
    vd_close_p(&h.refs_fd); /* nothing new is referred to, and it may take long */
    h.refs_fd = -1;
    r = check_snapshots(d, ret_why);
    if (r == 0)
        r = vd_disk_own(d, ret_why);
    bool layered = r == 0 && vd__live(d)->lm;
    do {
        if (r == 0 && layered)
            r = copy_all(d, progress, user);
        if (r == 0 && layered)
            r = finish(d, ret_why);
        if (r != -EAGAIN)
            break;
        r = 0;
    } while (!atomic_load(&ds->stopping));
    vd__let_go(&h); /* where we were the only one, the detach moves the file */
    if (r == 0)
        vd__sweep_later(ds);
    return r;
}

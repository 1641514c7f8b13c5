// SPDX-License-Identifier: Apache-2.0
/*
 * Flushes. Those of one disk go in rounds: one thread makes the round, who comes while it is under
 * way waits for the next, which one of the waiting makes for all of them. So a disk has one sync
 * under way however many clients flush it; those of several disks run side by side, and the file
 * system of the source puts them into one commit.
 *
 * A round of a disk with layers: take the records that are there, sync the data, then make exactly
 * those records durable (vd_map.h).
 *
 * A sync that fails may have lost pages that the cache was given, and a kernel reports it once: so a
 * flush that has failed goes on failing until the disk is closed, for every client, and nothing
 * cached of the live layer is trusted (sync_failed, looked at by the detach too).
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

int vd__live_sync(struct live *l, bool data_only)
{
    uint64_t pending = l->lm ? vd_live_map_pending(l->lm) : 0;
    int r = vd_backing_sync(l->backing, data_only);
    return r == 0 && l->lm ? vd_live_map_mark(l->lm, pending) : r;
}

void vd__disk_sync_failed(struct vd_disk *d, int error)
{
    if (!atomic_exchange(&d->sync_failed, true))
        vd_log_error("%s: flush failed: %s; what was cached of it is dropped", d->path,
                     strerror(-error));
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_cache_layer *cache = atomic_load_explicit(&v->live->cache, memory_order_acquire);
    if (cache)
        vd_cache_layer_drop(cache);
    vd__view_put(v, shard);
}

static int one_round(struct vd_disk *d, bool data_only)
{
    if (atomic_load(&d->sync_failed))
        return -EIO;
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    int r = vd__live_sync(v->live, data_only);
    bool fold = r == 0 && v->live->lm && vd_live_map_wants_fold(v->live->lm);
    vd__view_put(v, shard);
    if (r < 0)
        vd__disk_sync_failed(d, r);
    if (fold)
        vd__keep_soon(d);
    return r;
}

int vd__disk_flush_now(struct vd_disk *d, bool data_only)
{
    struct flush_round *f = &d->rounds;
    pthread_mutex_lock(&f->mu);
    /* A round that has begun may have taken its records before ours were there. */
    uint64_t mine = f->begun + 1;
    f->full[mine % 2] |= !data_only;
    while (f->ended < mine && f->begun != f->ended)
        pthread_cond_wait(&f->done, &f->mu);
    if (f->ended < mine) {
        bool full = f->full[mine % 2];
        f->full[mine % 2] = false;
        f->begun = mine;
        pthread_mutex_unlock(&f->mu);
        int r = one_round(d, !full);
        pthread_mutex_lock(&f->mu);
        f->ended = mine;
        f->result[mine % 2] = r;
        pthread_cond_broadcast(&f->done);
    }
    /* Of rounds that ended since, those that failed make every later one fail too. */
    int r = f->ended - mine < 2 ? f->result[mine % 2] : f->result[f->ended % 2];
    pthread_mutex_unlock(&f->mu);
    return r;
}

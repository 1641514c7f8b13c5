// SPDX-License-Identifier: Apache-2.0
/*
 * Housekeeping of an attached disk's maps, behind its clients' backs: folds of the live map's log,
 * baking of frozen maps, and merges, so that a lookup never asks more than VD_VIEW_MAPS frozen maps and
 * a snapshot always finds room for one more. Merges are slow on purpose, stop when the disk detaches, and are begun anew
 * from the start when they were cut; a half-written table is swept later.
 *
 * One job a disk at a time. It takes own_mu only to change records; the maps that it reads are immutable.
 */
#include "freeze.h"

#include <string.h>
#include <time.h>

#include "vd_log.h"
#include "vd_step.h"
#include "vd_time.h"

#define MERGE_EXTENTS_PER_MS 2000u /* 32 MB of table a second */
#define RETRY_MS 10000u

/* Layers that the disk's snapshots name stay in the list of its layers, though every block of theirs was overwritten. */
struct named {
    struct vd_id *ids;
    size_t n;
};

struct merge_user {
    struct vd_disk *d;
    struct named named;
    bool slowly;
};

static int merge_progress(void *user, uint64_t done, uint64_t total)
{
    const struct merge_user *u = user;
    struct vd_disk *d = u->d;
    if (!u->slowly)
        return 0;
    uint64_t before = atomic_exchange(&d->keep.done, done);
    atomic_store(&d->keep.total, total);
    vd_step("merge-progress");
    for (uint64_t ms = (done - before) / MERGE_EXTENTS_PER_MS; ms > 0; ms--) {
        if (atomic_load(&d->keep.stop))
            return -ECANCELED;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return atomic_load(&d->keep.stop) ? -ECANCELED : 0;
}

/* The two neighbours that are the least work. */
static unsigned cheapest(const struct view *v)
{
    unsigned best = 0;
    uint64_t least = UINT64_MAX;
    for (unsigned i = 0; i + 1 < v->nmaps; i++) {
        uint64_t n = vd_map_nextents(v->maps[i]) + vd_map_nextents(v->maps[i + 1]);
        if (n < least) {
            least = n;
            best = i;
        }
    }
    return best;
}

/* With own_mu held: the merged map takes the place of maps AT and AT + 1 of view OLD, if that is still the disk's. */
static int put_merged(struct vd_disk *d, struct view *old, unsigned at, const struct vd_id *id,
                      char why[VD_META_WHY])
{
    struct vd_map *map = NULL;
    struct chain *chains[VD_VIEW_MAPS] = {NULL};
    unsigned n = 0;
    if (atomic_load(&d->view) != old)
        return -ESTALE;
    int r = vd_map_get(d->ds->maps, id, &map, why);
    for (unsigned i = 0; i < old->nmaps && r == 0; i++) {
        if (i == at)
            r = vd__chain_get(d->ds, map, &chains[n], why);
        else if (i != at + 1)
            chains[n] = vd__chain_ref(d->ds, old->chains[i]);
        else
            continue;
        n += r == 0;
    }
    struct view *v = NULL;
    if (r == 0) {
        v = vd__view_new(d, vd__live_ref(d, old->live), chains, n);
        if (!v)
            vd__live_unref(d, old->live);
        r = v ? 0 : -ENOMEM;
    }
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record rec;
    if (r == 0)
        r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = vd_meta_get_view(m, &rec);
    if (r == 0) {
        rec.nmaps = n;
        memset(rec.maps, 0, sizeof(rec.maps));
        for (unsigned i = 0; i < n; i++)
            rec.maps[i] = *vd_map_id(v->maps[i]);
        vd_step("merge-record");
        r = vd_meta_put_view(m, &rec);
    }
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("merge-committed");
    if (r == 0) {
        vd__view_publish(d, v);
    } else if (v) {
        vd__view_free_unpublished(d, v);
    } else {
        for (unsigned i = 0; i < VD_VIEW_MAPS; i++)
            vd__chain_put(d->ds, chains[i]);
    }
    return r;
}

static int add_named(void *user, const struct vd_snapshot_record *s)
{
    struct named *named = user;
    struct vd_id *ids = realloc(named->ids, (named->n + 1) * sizeof(*ids));
    if (!ids)
        return -ENOMEM;
    named->ids = ids;
    ids[named->n++] = s->disk_id;
    return 0;
}

static int by_id(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct vd_id));
}

static bool is_named(void *user, const struct vd_id *layer)
{
    const struct merge_user *u = user;
    return u->named.n && bsearch(layer, u->named.ids, u->named.n, sizeof(*layer), by_id);
}

static int find_named(struct vd_disk *d, struct named *named, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_each_snapshot(m, add_named, named);
    if (named->n)
        qsort(named->ids, named->n, sizeof(*named->ids), by_id);
    return r;
}

/* Merges two maps of the disk's view. OWNED: the caller holds own_mu and refs. */
static int merge_two(struct vd_disk *d, bool owned, char why[VD_META_WHY])
{
    vd_cleanup_close int refs = -1;
    struct vd_id id;
    unsigned shard;
    struct merge_user u = {.d = d, .slowly = !owned};
    int r = owned ? 0 : vd_refs_lock(d->ds->config.meta, false, &refs);
    if (r == 0)
        r = vd_id_new(&id);
    if (r == 0)
        r = find_named(d, &u.named, why);
    if (r < 0) {
        free(u.named.ids);
        return r;
    }
    struct view *v = vd__view_get(d, &shard);
    unsigned at = cheapest(v);
    if (v->nmaps > 1) {
        struct vd_map_merge merge = {
            .maps = v->maps + at,
            .nmaps = 2,
            .nblocks = VD_MAP_BLOCKS_MAX,
            .keep_layer = is_named,
            .progress = merge_progress,
            .user = &u,
        };
        atomic_store(&d->keep.done, 0);
        r = vd_maps_merge(d->ds->maps, &merge, &id, why);
        if (r == 0) {
            if (!owned)
                pthread_mutex_lock(&d->own_mu);
            r = put_merged(d, v, at, &id, why);
            if (!owned)
                pthread_mutex_unlock(&d->own_mu);
            if (r < 0)
                (void)!vd_maps_remove(d->ds->maps, &id);
        }
        atomic_store(&d->keep.total, 0);
    }
    vd__view_put(v, shard);
    vd__view_reap(d);
    free(u.named.ids);
    if (r == 0)
        vd__sweep_later(d->ds);
    return r;
}

int vd__merge_for_room(struct vd_disk *d, char why[VD_META_WHY])
{
    int r = 0;
    while (r == 0 && atomic_load(&d->view)->nmaps >= VD_VIEW_MAPS)
        r = merge_two(d, true, why);
    return r;
}

/* Only who owns the disk exclusively, or is alone, may change what others read. */
static bool may_change(struct vd_disk *d)
{
    return atomic_load(&d->state) == VD_OWNER_EXCLUSIVE && !atomic_load(&d->keep.stop);
}

static int sync_live(void *user)
{
    return vd_backing_sync(user, true);
}

static int bake_and_fold(struct vd_disk *d, bool *ret_full)
{
    unsigned shard;
    int r = 0;
    struct view *v = vd__view_get(d, &shard);
    for (unsigned i = 0; i < v->nmaps && r == 0 && may_change(d); i++)
        if (!vd_map_is_baked(v->maps[i]))
            r = vd_map_bake(v->maps[i]);
    pthread_mutex_lock(&d->fold_mu);
    if (r == 0 && v->live->lm && may_change(d) && atomic_load(&d->view)->live == v->live &&
        vd_live_map_wants_fold(v->live->lm))
        r = vd_live_map_fold(v->live->lm, sync_live, v->live->backing);
    pthread_mutex_unlock(&d->fold_mu);
    *ret_full = v->nmaps >= VD_VIEW_MAPS;
    vd__view_put(v, shard);
    return r;
}

static void keep_job(struct vd_job *job)
{
    struct vd_disk *d = vd_container_of(job, struct vd_disk, keep.job);
    char why[VD_META_WHY] = "";
    bool full = true;
    int r = 0;
    while (full && r == 0 && may_change(d)) {
        r = bake_and_fold(d, &full);
        if (r == 0 && full && may_change(d))
            r = merge_two(d, false, why);
        if (r == -ESTALE) /* a snapshot came in between */
            r = 0;
    }
    vd__view_reap(d);
    if (r < 0 && r != -ECANCELED)
        vd_log_warning("%s: its maps could not be tidied: %s; tried again later", d->path,
                       why[0] ? why : strerror(-r));
    pthread_mutex_lock(&d->mu);
    d->keep.failed_ms = r < 0 ? vd_now_ms() : 0;
    d->keep.queued = false;
    pthread_cond_broadcast(&d->settled);
    pthread_mutex_unlock(&d->mu);
}

void vd__keep_soon(struct vd_disk *d)
{
    pthread_mutex_lock(&d->mu);
    bool now = !d->keep.queued && !atomic_load(&d->keep.stop) &&
               (!d->keep.failed_ms || vd_now_ms() - d->keep.failed_ms > RETRY_MS);
    if (now) {
        d->keep.queued = true;
        d->keep.job.run = keep_job;
        d->keep.job.slow = true;
    }
    pthread_mutex_unlock(&d->mu);
    if (now)
        vd_lane_queue(d->ds->keeper, &d->keep.job);
}

void vd__keep_stop(struct vd_disk *d)
{
    pthread_mutex_lock(&d->mu);
    atomic_store(&d->keep.stop, true);
    while (d->keep.queued)
        pthread_cond_wait(&d->settled, &d->mu);
    pthread_mutex_unlock(&d->mu);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Views: what a request works on, and how it is replaced under requests.
 *
 * A request counts itself in, in its thread's shard, and then looks whether the view is still the
 * disk's: if so, whoever replaces it later finds it counted. A view that was replaced and whose
 * shards are all 0 has no user, and can get none: its live layer and maps are given back. The
 * struct itself stays until the detach, or becomes another view of the disk, since a thread that was
 * about to count itself in may still touch the count. The idea is that of hazard pointers (Michael, 2004), counted by shard.
 */
#include "disk.h"

#include <string.h>

struct view *vd__view_get(struct vd_disk *d, unsigned *ret_shard)
{
    unsigned s = vd_counter_shard();
    for (;;) {
        struct view *v = atomic_load(&d->view);
        atomic_fetch_add(&v->shard[s].users, 1);
        if (atomic_load(&d->view) == v) {
            *ret_shard = s;
            return v;
        }
        atomic_fetch_sub(&v->shard[s].users, 1);
    }
}

void vd__view_put(struct view *v, unsigned shard)
{
    atomic_fetch_sub(&v->shard[shard].users, 1);
}

static bool in_use(struct view *v)
{
    for (unsigned s = 0; s < VD_COUNTER_SHARDS; s++)
        if (atomic_load(&v->shard[s].users))
            return true;
    return false;
}

struct live *vd__live_new(const struct vd_id *disk_id, struct vd_backing *backing, bool own_file,
                          struct vd_live_map *lm)
{
    struct live *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->refs = 1;
    l->disk_id = *disk_id;
    l->backing = backing;
    l->own_file = own_file;
    l->lm = lm;
    vd_list_init(&l->retired);
    return l;
}

struct live *vd__live_ref(struct vd_disk *d, struct live *l)
{
    pthread_mutex_lock(&d->mu);
    l->refs++;
    pthread_mutex_unlock(&d->mu);
    return l;
}

/* With d->mu held. */
static void live_put(struct live *l)
{
    if (--l->refs)
        return;
    while (!vd_list_empty(&l->retired)) {
        struct retired_layer *r = vd_list_entry(l->retired.next, struct retired_layer, link);
        vd_list_del(&r->link);
        vd_cache_layer_close(r->layer);
        free(r);
    }
    vd_cache_layer_close(atomic_load(&l->cache));
    vd_live_map_close(l->lm);
    if (!l->own_file)
        vd_backing_close(l->backing);
    free(l);
}

void vd__live_unref(struct vd_disk *d, struct live *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&d->mu);
    live_put(l);
    pthread_mutex_unlock(&d->mu);
}

/* An old view that nobody uses, cleared but for its counts: one that is just looking may still touch those. */
static struct view *used_before(struct vd_disk *d)
{
    struct view *v = NULL;
    pthread_mutex_lock(&d->mu);
    for (struct view **p = &d->old_views; *p; p = &(*p)->older)
        if ((*p)->let_go && !in_use(*p)) {
            v = *p;
            *p = v->older;
            break;
        }
    pthread_mutex_unlock(&d->mu);
    if (v) {
        v->older = NULL;
        v->let_go = false;
        v->live = NULL;
        v->nmaps = 0;
        memset(v->maps, 0, sizeof(v->maps));
        memset(v->chains, 0, sizeof(v->chains));
    }
    return v;
}

struct view *vd__view_new(struct vd_disk *d, struct live *live, struct chain *const *chains,
                          unsigned nchains)
{
    struct view *v = used_before(d);
    if (!v) {
        v = aligned_alloc(64, vd_align_up(sizeof(*v), 64));
        if (!v)
            return NULL;
        memset(v, 0, sizeof(*v));
    }
    v->live = live;
    v->nmaps = nchains;
    for (unsigned i = 0; i < nchains; i++) {
        v->chains[i] = chains[i];
        v->maps[i] = chains[i]->map;
    }
    return v;
}

/* With d->mu held. */
static void let_go(struct vd_disk *d, struct view *v)
{
    if (v->let_go)
        return;
    v->let_go = true;
    live_put(v->live);
    for (unsigned i = 0; i < v->nmaps; i++)
        vd__chain_put(d->ds, v->chains[i]);
}

static void reap(struct vd_disk *d)
{
    for (struct view *v = d->old_views; v; v = v->older)
        if (!v->let_go && !in_use(v))
            let_go(d, v);
}

void vd__view_reap(struct vd_disk *d)
{
    pthread_mutex_lock(&d->mu);
    reap(d);
    pthread_mutex_unlock(&d->mu);
}

void vd__view_publish(struct vd_disk *d, struct view *v)
{
    pthread_mutex_lock(&d->mu);
    struct view *old = atomic_exchange(&d->view, v);
    if (old) {
        old->older = d->old_views;
        d->old_views = old;
    }
    reap(d);
    pthread_mutex_unlock(&d->mu);
}

void vd__view_free_unpublished(struct vd_disk *d, struct view *v)
{
    if (!v)
        return;
    pthread_mutex_lock(&d->mu);
    let_go(d, v);
    v->older = d->old_views;
    d->old_views = v;
    pthread_mutex_unlock(&d->mu);
}

void vd__view_drop_all(struct vd_disk *d)
{
    struct view *v = atomic_load(&d->view);
    pthread_mutex_lock(&d->mu);
    if (v) {
        v->older = d->old_views;
        d->old_views = v;
        atomic_store(&d->view, NULL);
    }
    while ((v = d->old_views)) {
        d->old_views = v->older;
        let_go(d, v);
        free(v);
    }
    pthread_mutex_unlock(&d->mu);
}

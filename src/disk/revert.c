// SPDX-License-Identifier: Apache-2.0
/* Revert, removal of snapshots, and a new size. */
#include <string.h>

#include "fresh.h"
#include "freeze.h"
#include "vd_step.h"

static int no_snapshot(int r, const char *name, char why[VD_META_WHY])
{
    if (r == -ENOENT)
        snprintf(why, VD_META_WHY, "it has no snapshot \"%s\"", name);
    return r;
}

/* ---- revert ---- */

static int snapshot_view(struct vd_disk *d, const struct vd_snapshot_record *s, struct live *live,
                         struct view **ret_v, char why[VD_META_WHY])
{
    struct chain *chains[VD_VIEW_MAPS] = {NULL};
    int r = 0;
    for (unsigned i = 0; i < s->nmaps && r == 0; i++) {
        struct vd_map *map;
        r = vd_map_get(d->ds->maps, &s->maps[i], &map, why);
        if (r == 0)
            r = vd__chain_get(d->ds, map, &chains[i], why);
    }
    if (r == 0) {
        *ret_v = vd__view_new(d, live, chains, s->nmaps);
        r = *ret_v ? 0 : -ENOMEM;
    }
    if (r < 0)
        for (unsigned i = 0; i < VD_VIEW_MAPS; i++)
            vd__chain_put(d->ds, chains[i]);
    return r;
}

static int commit_revert(struct vd_disk *d, const struct vd_snapshot_record *s,
                         const struct fresh *f, char why[VD_META_WHY])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r == 0)
        r = vd__fresh_records(d, f, m, &view);
    if (r < 0)
        return r;
    view.nmaps = s->nmaps;
    memcpy(view.maps, s->maps, sizeof(view.maps));
    r = vd_meta_put_view(m, &view);
    if (r == 0)
        r = vd_layered_mark(d->backing->fd, &f->disk_id);
    vd_step("revert-commit");
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("revert-committed");
    return r;
}

static int revert_to(struct vd_disk *d, const struct vd_snapshot_record *s, char why[VD_META_WHY])
{
    struct fresh f;
    struct view *v = NULL;
    struct vd_id old_mark = vd__live(d)->disk_id;
    struct vd_cache_key old = {.disk_id = old_mark, .generation = d->witness.generation};
    bool cached = atomic_load(&vd__live(d)->cache) != NULL;
    int r = vd__fresh_make(d, s->size_bytes, NULL, &f);
    if (r < 0)
        return r;
    r = snapshot_view(d, s, f.live, &v, why);
    if (r == 0)
        r = vd__changes_stop(d);
    if (r == 0) {
        r = commit_revert(d, s, &f, why);
        if (r == 0) {
            vd__fresh_take(d, &f, v);
            v = NULL;
        } else {
            (void)!vd_layered_mark(d->backing->fd, &old_mark);
        }
        vd__changes_go_on(d);
    }
    if (v) {
        vd__view_free_unpublished(d, v);
        f.live = NULL;
    }
    if (r < 0)
        vd__fresh_drop(d, &f);
    else if (cached)
        vd__disk_forget_later(d->ds, &old);
    return r;
}

int vd_disks_revert(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                    char ret_why[VD_META_WHY])
{
    struct hold h;
    struct vd_snapshot_record s;
    int r = vd__hold(ds, path_fd, path, true, &h, ret_why);
    if (r < 0)
        return r;
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    r = vd_meta_open(ds->config.meta, &h.d->uuid, VD_META_READ, &m, ret_why);
    if (r == 0)
        r = no_snapshot(vd_meta_get_snapshot(m, name, &s), name, ret_why);
    vd_meta_close(vd_steal_ptr(m));
    pthread_mutex_lock(&h.d->fold_mu);
    if (r == 0)
        r = revert_to(h.d, &s, ret_why);
    pthread_mutex_unlock(&h.d->fold_mu);
    vd__view_reap(h.d);
    vd__let_go(&h);
    if (r == 0)
        vd__sweep_later(ds);
    return r;
}

/* ---- removal of a snapshot ---- */

int vd_disks_snapshot_rm(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                         char ret_why[VD_META_WHY])
{
    struct hold h;
    int r = vd__hold(ds, path_fd, path, false, &h, ret_why);
    if (r < 0)
        return r;
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    r = vd_meta_open(ds->config.meta, &h.d->uuid, VD_META_WRITE, &m, ret_why);
    if (r == 0)
        r = no_snapshot(vd_meta_del_snapshot(m, name), name, ret_why);
    vd_step("snapshot-rm-commit");
    if (r == 0)
        r = vd_meta_commit(m);
    vd_step("snapshot-rm-committed");
    vd_meta_close(vd_steal_ptr(m));
    vd__let_go(&h);
    if (r == 0)
        vd__sweep_later(ds);
    return r;
}

/* ---- size ---- */

struct wait {
    pthread_mutex_t mu;
    pthread_cond_t done;
    bool ended;
    ssize_t result;
};

static void truncated(void *user, ssize_t result, const void *data)
{
    struct wait *w = user;
    pthread_mutex_lock(&w->mu);
    w->ended = true;
    w->result = result;
    pthread_cond_signal(&w->done);
    pthread_mutex_unlock(&w->mu);
}

static int truncate_and_wait(struct vd_disk *d, uint64_t size)
{
    struct wait w = {.mu = PTHREAD_MUTEX_INITIALIZER, .done = PTHREAD_COND_INITIALIZER};
    vd_disk_truncate(d, size, truncated, &w);
    pthread_mutex_lock(&w.mu);
    while (!w.ended)
        pthread_cond_wait(&w.done, &w.mu);
    pthread_mutex_unlock(&w.mu);
    return (int)vd_min(w.result, 0);
}

int vd_disks_resize(struct vd_disks *ds, int path_fd, const char *path, uint64_t size_bytes,
                    bool shrink, char ret_why[VD_META_WHY])
{
    struct hold h;
    int r = vd__hold(ds, path_fd, path, shrink, &h, ret_why);
    if (r < 0)
        return r;
    struct vd_disk *d = h.d;
    uint64_t now = atomic_load(&d->size_bytes);
    if (size_bytes < now && !shrink) {
        snprintf(ret_why, VD_META_WHY, "it has %llu bytes, more than that; --shrink cuts it",
                 (unsigned long long)now);
        r = -EINVAL;
    } else if (size_bytes < VD_DISK_MIN_BYTES) {
        snprintf(ret_why, VD_META_WHY, "a disk has at least 1 MiB");
        r = -EINVAL;
    }
    /* From here on it is a change like any client's, which owns the disk for itself. */
    vd__disk_unlock_to(d, h.before);
    pthread_mutex_unlock(&d->own_mu);
    h.owning = false;
    if (r == 0)
        r = truncate_and_wait(d, size_bytes);
    if (r == 0)
        r = vd__disk_flush_now(d, false);
    vd__let_go(&h);
    return r;
}

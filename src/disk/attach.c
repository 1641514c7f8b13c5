// SPDX-License-Identifier: Apache-2.0
/*
 * Attach and detach.
 *
 *   attach   backing, binding (UUID), records of a new disk, then shared ownership (own.c). A disk
 *            that another mount owns, or whose metadata cannot be written, is served past the
 *            cache, and if it has layers not written; one whose metadata is damaged is refused.
 *   detach   requests have ended; backing synced; cache barrier; the file's identity, once its time
 *            stamps can no longer repeat; witness; record clean; owner record gone; lock dropped
 *            with the file.
 */
#include "disk.h"
#include "freeze.h"
#include "home.h"

#include <string.h>
#include <time.h>

#include "vd_log.h"
#include "vd_meta_filter.h"

#define LANE_THREADS 32u
#define TICK_WAIT_MS 20 /* a kernel's time stamps move every 4 ms (HZ 250), at most 10 */

static int new_records(struct vd_disk *d, struct vd_meta *m)
{
    struct vd_identity id;
    int r = vd__disk_identity(d, &id);
    if (r < 0)
        return r;
    struct vd_disk_record disk = {
        .uuid = d->uuid, .size_bytes = id.size_bytes, .nlayers = 1, .clean = true};
    struct vd_layer_record layer = {
        .state = VD_LAYER_LIVE, .generation = 1, .identity = id, .created_s = (uint64_t)time(NULL)};
    disk.boot_id = d->ds->config.self.boot_id;
    snprintf(disk.path, sizeof(disk.path), "%s", d->path);
    r = vd_id_new(&layer.disk_id);
    if (r == 0)
        r = vd_id_new(&layer.token);
    if (r < 0)
        return r;
    disk.live_disk_id = layer.disk_id;
    r = vd_meta_put_disk(m, &disk);
    if (r == 0)
        r = vd_meta_put_layer(m, 0, &layer);
    return r < 0 ? r : vd_meta_commit(m);
}

/*
 * The metadata says plain, and the file is marked as one with layers. Either its first snapshot was
 * cut off, or the metadata is older than the file: then the file may be a frozen layer of others,
 * which is never written. Who refers to it tells.
 */
static int look_at_mark(struct vd_disk *d, char why[VD_META_WHY])
{
    struct vd_id live;
    int r = vd_layered_get(d->backing->fd, &live);
    if (r == -EUCLEAN) {
        snprintf(why, VD_META_WHY,
                 "its attribute " VD_META_XATTR_LAYERED " is damaged; run `vdisk adopt "
                 "PATH --as-plain` to take its bytes as they are");
        return r;
    }
    if (r < 0)
        return 0;
    r = vd__refuse_if_frozen(d, &vd__live(d)->disk_id, why);
    return r < 0 ? r : vd_layered_unmark(d->backing->fd);
}

/* Finds or makes the disk's metadata and learns its names. */
static int identify(struct vd_disk *d, char why[VD_META_WHY])
{
    struct vd_meta_store *store = d->ds->config.meta;
    struct vd_id uuid;
    bool made = false;
    enum vd_filter_mark mark;
    /* One with required filters is not new: where its metadata are lost its name in them stays, for when they are restored. */
    int r = vd_filter_mark_get(d->backing->fd, &mark);
    if (r == 0)
        r = vd_meta_bind(store, d->backing->fd, d->path, mark == VD_FILTER_MARK_NONE, &uuid, &made,
                         why);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->ds->mu);
    d->uuid = uuid;
    pthread_mutex_unlock(&d->ds->mu);
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    r = vd_meta_open(store, &uuid, made ? VD_META_MAKE : VD_META_READ, &m, why);
    if (r < 0)
        return r;
    struct vd_disk_record disk;
    r = vd_meta_get_disk(m, &disk);
    if (r == -ENOENT) {
        /* New, or cut off between its binding and its first record. */
        if (!made) {
            vd_meta_close(vd_steal_ptr(m));
            r = vd_meta_open(store, &uuid, VD_META_MAKE, &m, why);
        }
        r = r < 0 && r != -ENOENT ? r : new_records(d, m);
        if (r == 0)
            r = vd_meta_get_disk(m, &disk);
    }
    if (r == -EUCLEAN && m)
        snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
    struct vd_view_record view;
    if (r < 0 || vd_meta_get_view(m, &view) != -ENOENT)
        return r; /* one with layers is loaded under its lock */
    r = vd__disk_load(d, m, why);
    vd_meta_close(vd_steal_ptr(m));
    return r < 0 ? r : look_at_mark(d, why);
}

/* Until the metadata says more. */
static int first_view(struct vd_disk *d)
{
    struct vd_id none = {0};
    struct live *live = vd__live_new(&none, d->backing, true, NULL);
    struct view *v = live ? vd__view_new(d, live, NULL, 0) : NULL;
    if (!v) {
        free(live);
        return -ENOMEM;
    }
    vd__view_publish(d, v);
    return 0;
}

static void without_metadata(struct vd_disk *d)
{
    pthread_mutex_lock(&d->ds->mu);
    d->uuid = (struct vd_id){0};
    pthread_mutex_unlock(&d->ds->mu);
}

static bool is_unwritable(int r)
{
    return r == -ENOSPC || r == -EDQUOT || r == -EROFS || r == -EACCES;
}

/* What its bytes are is known, by metadata that cannot be written: it is read, and cannot be owned, so nobody writes it. */
static int read_only(struct vd_disk *d, int cause, char why[VD_META_WHY])
{
    int r = vd__disk_follow_unrecorded(d, why);
    if (r < 0)
        return r == -ENODATA ? cause : r;
    vd_log_warning(
        "%s: read past the cache, and not written: its owner record cannot be written: %s; %s, "
        "and open it again",
        d->path, strerror(-cause),
        cause == -ENOSPC || cause == -EDQUOT ? "make room on the file system of its metadata"
                                             : "make its metadata writable");
    return 0;
}

/* Shared ownership where it can be had; -EUCLEAN is the only failure. */
static int join(struct vd_disk *d)
{
    char why[VD_META_WHY] = "";
    int r = d->ds->config.meta ? identify(d, why) : -EROFS;
    if (r == 0) {
        r = vd__disk_acquire(d, VD_OWNER_SHARED, why);
        if (r == 0)
            return 0;
        if (r == -EBUSY)
            vd_log_note("%s: read past the cache: %s", d->path, why);
        if (r == -EBUSY || r == -EAGAIN)
            r = vd__disk_follow(d, why);
        else if (is_unwritable(r))
            r = read_only(d, r, why);
        if (r == 0)
            return 0;
    }
    /* What its bytes are is not known without the metadata where it has layers. */
    struct vd_id live;
    int marked = vd_layered_get(d->backing->fd, &live);
    if (r != -EUCLEAN && (marked == 0 || marked == -EUCLEAN)) {
        if (!why[0])
            snprintf(why, VD_META_WHY, "its metadata cannot be used: %s", strerror(-r));
        r = -EUCLEAN;
    }
    if (r != -EUCLEAN)
        without_metadata(d);
    enum vd_filter_mark mark;
    if (r == -EUCLEAN)
        vd_log_error("%s: refused: %s", d->path, why);
    else if (vd_filter_mark_get(d->backing->fd, &mark) < 0 || mark != VD_FILTER_MARK_NONE)
        vd_log_note("%s: its metadata cannot be used: %s", d->path, why[0] ? why : strerror(-r));
    else if (d->ds->config.meta)
        vd_log_warning("%s: served uncached: its metadata cannot be used: %s", d->path,
                       why[0] ? why : strerror(-r));
    return r == -EUCLEAN ? r : 0;
}

int vd__disk_attach(struct vd_disk *d, int path_fd, bool write)
{
    struct vd_disks_config *c = &d->ds->config;
    struct vd_id live;
    if (vd_layered_get(path_fd, &live) == 0 && vd_id_eq(&live, &vd_layered_moved)) {
        vd_log_note("%s: another file has taken its place, which is looked up now; or its adoption "
                    "was cut off: then run `vdisk adopt` again",
                    d->path);
        return -ESTALE;
    }
    int r = vd_lane_open(c->lanes, LANE_THREADS, &d->lane);
    if (r == 0)
        r = vd_backing_file_open(path_fd, !c->read_only, c->backing_direct, &d->backing);
    if (r == 0)
        r = first_view(d);
    if (r == 0)
        r = vd__disk_identity(d, &d->identity);
    if (r < 0)
        return r;
    atomic_store(&d->size_bytes, d->identity.size_bytes);
    r = join(d);
    if (r == 0)
        r = vd__filters_attach(d);
    if (r == 0 && write && c->own_at_open) {
        char why[VD_META_WHY];
        r = vd_disk_own(d, why);
        if (r < 0)
            vd_log_error("%s: cannot be opened for writing: %s", d->path, why);
    }
    return r;
}

/* Waits until a change from now on must get another time stamp than the file has. */
int vd__disk_settled_identity(struct vd_disk *d, struct vd_identity *ret_id)
{
    for (int i = 0;; i++) {
        int r = vd__disk_identity(d, ret_id);
        struct timespec now;
        clock_gettime(CLOCK_REALTIME_COARSE, &now);
        int64_t now_ns = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
        if (r < 0 || i == TICK_WAIT_MS || now_ns > vd_max(ret_id->mtime_ns, ret_id->ctime_ns))
            return r;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

/* The record of a clean detach. */
static int record_detach(struct vd_disk *d, bool clean, const struct vd_identity *id)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    struct vd_disk_record disk;
    struct vd_layer_record layer;
    if (r == 0)
        r = vd_meta_get_disk(m, &disk);
    if (r == 0)
        r = vd_meta_get_layer(m, 0, &layer);
    if (r == 0 && clean) {
        disk.clean = true;
        disk.size_bytes = atomic_load(&d->size_bytes);
        layer.identity = *id;
        r = vd_meta_put_disk(m, &disk);
        if (r == 0)
            r = vd_meta_put_layer(m, 0, &layer);
    }
    if (r == 0)
        r = vd_meta_del_owner(m, &d->ds->config.self.id);
    /* Without a session its last name, and its metadata, went while it was being closed. */
    if (m && (r == 0 || (r == -ENOENT && clean)))
        r = vd_meta_commit(m);
    return r == -ENOENT ? 0 : r;
}

/* The file has no name left: nothing of it will be asked for again. */
static void remove_all(struct vd_disk *d)
{
    struct vd_cache *cache = d->ds->config.cache;
    if (cache && d->witness.generation) {
        struct vd_cache_key key = {.disk_id = vd__live(d)->disk_id,
                                   .generation = d->witness.generation};
        vd_cache_forget(cache, &key);
    }
    int r = vd_meta_remove(d->ds->config.meta, &d->uuid);
    if (r < 0 && r != -ENOENT)
        vd_log_warning("%s: its metadata could not be removed: %s", d->path, strerror(-r));
    if (vd__live(d)->lm) {
        (void)!vd_gone_drop(d->ds->config.meta, &d->uuid);
        vd__sweep_later(d->ds);
    }
}

static void detach_owned(struct vd_disk *d)
{
    bool exclusive = d->locked == VD_LOCK_EXCLUSIVE;
    struct vd_identity id;
    int r = 0;
    if (exclusive) {
        r = vd__live_sync(vd__live(d), false);
        if (r < 0)
            vd_log_error("%s: could not be synced: %s", d->path, strerror(-r));
        if (r == 0 && atomic_load(&vd__live(d)->cache) && vd_cache_barrier(d->ds->config.cache) < 0)
            atomic_store(&d->sync_failed, true); /* the cache says why */
    }
    bool durable = r == 0 && !atomic_load(&d->sync_failed);
    r = vd__disk_settled_identity(d, &id);
    if (r == 0)
        vd__disk_witness_detach(d, &id, durable);
    r = record_detach(d, exclusive && durable && r == 0, &id);
    if (r < 0)
        vd_log_warning("%s: its metadata could not be updated at the detach: %s", d->path,
                       strerror(-r));
}

void vd__disk_detach(struct vd_disk *d)
{
    vd__filters_detach(d); /* while it can be read and written */
    vd__keep_stop(d);
    vd_lane_close(vd_steal_ptr(d->lane));
    vd__filters_free(d); /* a request that came too late has looked at them until then */
    struct stat st;
    int r = vd_backing_stat(d->backing, &st);
    if (vd_id_is_zero(&d->uuid))
        return;
    if (atomic_load(&d->gone) || (r == 0 && st.st_nlink == 0)) {
        remove_all(d);
    } else if (d->locked != VD_LOCK_NONE) {
        if (d->locked == VD_LOCK_EXCLUSIVE)
            vd__move_home(d);
        detach_owned(d);
    }
}

/* Lets the file go, and with it the lock: by name, since a child that was just forked holds a copy of the
 * descriptor for a moment. */
void vd__disk_let_go(struct vd_disk *d)
{
    vd__view_drop_all(d);
    if (d->backing && d->locked != VD_LOCK_NONE && vd_owner_lock(d->backing->fd, VD_LOCK_NONE) == 0)
        d->locked = VD_LOCK_NONE;
    vd_backing_close(vd_steal_ptr(d->backing));
}

void vd__disk_free(struct vd_disk *d)
{
    vd__filters_detach(d);
    vd_lane_close(d->lane);
    vd__filters_free(d);
    vd__disk_let_go(d);
    pthread_mutex_destroy(&d->mu);
    pthread_mutex_destroy(&d->own_mu);
    pthread_mutex_destroy(&d->size_mu);
    pthread_mutex_destroy(&d->ranges_mu);
    pthread_mutex_destroy(&d->fold_mu);
    pthread_mutex_destroy(&d->rounds.mu);
    pthread_cond_destroy(&d->rounds.done);
    pthread_cond_destroy(&d->settled);
    vd__pause_destroy(&d->requests);
    vd__pause_destroy(&d->changes);
    pthread_cond_destroy(&d->ranges_changed);
    free(d);
}

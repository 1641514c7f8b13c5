// SPDX-License-Identifier: Apache-2.0
/* All disks of a mount: which inode is attached, who refers to it, and what happens after the last.
 */
#include "disk.h"

#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>

#include "vd_log.h"

#define STOPPING_MS 30000u /* until what filters hold is failed, where the mount ends */
#define REAPER_THREADS 8u
#define KEEPER_THREADS 64u  /* mostly asleep: merges are slow on purpose */
#define OPENER_THREADS 256u /* opens of a hung disk wait here, one thread each */

int vd_disks_new(const struct vd_disks_config *config, struct vd_disks **ret_disks)
{
    struct vd_disks *ds = aligned_alloc(64, vd_align_up(sizeof(*ds), 64));
    if (!ds)
        return -ENOMEM;
    memset(ds, 0, sizeof(*ds));
    ds->config = *config;
    vd_list_init(&ds->disks);
    pthread_mutex_init(&ds->mu, NULL);
    pthread_cond_init(&ds->changed, NULL);
    vd_list_init(&ds->past);
    pthread_mutex_init(&ds->layers_mu, NULL);
    vd_list_init(&ds->chains);
    for (unsigned i = 0; i < FROZEN_BUCKETS; i++)
        vd_list_init(&ds->frozen[i]);
    int r = vd_lane_open(config->lanes, REAPER_THREADS, &ds->reaper);
    if (r == 0)
        r = vd_lane_open(config->lanes, OPENER_THREADS, &ds->opener);
    if (r == 0)
        r = vd_lane_open(config->lanes, KEEPER_THREADS, &ds->keeper);
    if (r == 0 && config->meta)
        r = vd_maps_open(config->meta, 0, &ds->maps);
    if (r < 0) {
        vd_lane_close(ds->keeper);
        vd_lane_close(ds->opener);
        vd_lane_close(ds->reaper);
        free(ds);
        return r;
    }
    *ret_disks = ds;
    return 0;
}

int vd__disk_identity(struct vd_disk *d, struct vd_identity *ret_id)
{
    struct stat st;
    int r = vd_backing_stat(vd__live(d)->backing, &st);
    if (r == 0)
        vd_identity_of(&st, ret_id);
    return r;
}

static struct vd_disk *find(struct vd_disks *ds, dev_t dev, ino_t ino)
{
    struct vd_list *it;
    vd_list_for_each (it, &ds->disks) {
        struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
        if (d->dev == dev && d->ino == ino)
            return d;
    }
    return NULL;
}

/* One that is attached stays a disk, and one that is about to detach, though it was cut short and
 * bears no attribute: writes past it would come under its witness. */
bool vd_disks_is_disk(struct vd_disks *ds, int path_fd, const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return false;
    if (st->st_size >= (off_t)VD_DISK_MIN_BYTES)
        return true;
    pthread_mutex_lock(&ds->mu);
    bool known = find(ds, st->st_dev, st->st_ino);
    pthread_mutex_unlock(&ds->mu);
    return known || vd_disk_file_is_one(path_fd, st);
}

bool vd_disk_file_is_one(int path_fd, const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return false;
    if (st->st_size >= (off_t)VD_DISK_MIN_BYTES)
        return true;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    struct vd_id live;
    int marked = vd_layered_get(path_fd, &live);
    return marked == 0 || marked == -EUCLEAN || getxattr(path, VD_META_XATTR, NULL, 0) > 0;
}

/* With ds->mu held. */
static struct past_disk *past_of(struct vd_disks *ds, dev_t dev, ino_t ino)
{
    struct vd_list *it;
    vd_list_for_each (it, &ds->past) {
        struct past_disk *p = vd_list_entry(it, struct past_disk, link);
        if (p->dev == dev && p->ino == ino)
            return p;
    }
    struct past_disk *p = calloc(1, sizeof(*p));
    if (!p)
        return NULL;
    p->dev = dev;
    p->ino = ino;
    vd_list_add_tail(&ds->past, &p->link);
    return p;
}

static struct vd_disk *disk_new(struct vd_disks *ds, const struct stat *st, const char *path)
{
    struct past_disk *past = past_of(ds, st->st_dev, st->st_ino);
    struct vd_disk *d = past ? aligned_alloc(64, vd_align_up(sizeof(*d), 64)) : NULL;
    if (!d)
        return NULL;
    memset(d, 0, sizeof(*d));
    d->ds = ds;
    d->past = past;
    d->refs = 1;
    d->opens = 1;
    d->dev = st->st_dev;
    d->ino = st->st_ino;
    vd_list_init(&d->ranges);
    vd_list_init(&d->await_filters);
    pthread_mutex_init(&d->mu, NULL);
    pthread_mutex_init(&d->own_mu, NULL);
    pthread_mutex_init(&d->size_mu, NULL);
    pthread_mutex_init(&d->ranges_mu, NULL);
    pthread_mutex_init(&d->fold_mu, NULL);
    pthread_mutex_init(&d->rounds.mu, NULL);
    pthread_cond_init(&d->rounds.done, NULL);
    pthread_cond_init(&d->settled, NULL);
    vd__pause_init(&d->requests);
    vd__pause_init(&d->changes);
    pthread_cond_init(&d->ranges_changed, NULL);
    snprintf(d->path, sizeof(d->path), "%s", path);
    vd_list_add_tail(&ds->disks, &d->link);
    return d;
}

/* With ds->mu held: takes the disk out of the table, its counters into the past. */
static void forget_disk(struct vd_disk *d)
{
    for (unsigned i = 0; i < C_COUNT; i++)
        d->past->count[i] += vd_counter_sum(&d->counters, C_COUNT, i);
    vd_list_del(&d->link);
    pthread_cond_broadcast(&d->ds->changed);
}

/* A further open of an attached disk. */
static int reopened(struct vd_disk *d, bool write)
{
    char why[VD_META_WHY] = "";
    if (write && d->ds->config.own_at_open) {
        int r = vd_disk_own(d, why);
        if (r < 0)
            vd_log_error("%s: cannot be opened for writing: %s", d->path, why);
        return r;
    }
    /* Another mount had it when we attached, or asked for it since: it may be free by now. */
    if (!vd_id_is_zero(&d->uuid) && atomic_load(&d->state) == VD_OWNER_NONE) {
        int r = vd__disk_acquire(d, VD_OWNER_SHARED, why);
        if (r < 0)
            vd_log_debug("%s: still read past the cache: %s", d->path, why);
    }
    return 0;
}

/* Waits out attaches and detaches of the inode; then a reference to the attached disk, or NULL and
 * a new one in the table for the caller to attach. */
static int get_or_new(struct vd_disks *ds, const struct stat *st, const char *path,
                      struct vd_disk **ret_disk, bool *ret_new)
{
    pthread_mutex_lock(&ds->mu);
    struct vd_disk *d = find(ds, st->st_dev, st->st_ino);
    while (d && d->life != LIFE_ATTACHED) {
        pthread_cond_wait(&ds->changed, &ds->mu);
        d = find(ds, st->st_dev, st->st_ino);
    }
    *ret_new = !d;
    if (d) {
        d->refs++;
        d->opens++;
    } else {
        d = disk_new(ds, st, path);
    }
    pthread_mutex_unlock(&ds->mu);
    *ret_disk = d;
    return d ? 0 : -ENOMEM;
}

int vd_disk_open(struct vd_disks *ds, int path_fd, const char *path, bool write,
                 struct vd_disk **ret_disk)
{
    if (write && ds->config.read_only)
        return -EROFS;
    struct stat st;
    if (fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0)
        return -errno;
    struct vd_disk *d;
    bool is_new;
    int r = get_or_new(ds, &st, path, &d, &is_new);
    if (r < 0)
        return r;
    if (!is_new) {
        r = reopened(d, write);
        if (r < 0)
            vd_disk_release(d);
        else
            *ret_disk = d;
        return r;
    }
    r = vd__disk_attach(d, path_fd, write);
    if (r < 0 && d->locked != VD_LOCK_NONE)
        vd__disk_detach(d);
    pthread_mutex_lock(&ds->mu);
    if (r < 0)
        forget_disk(d);
    else
        d->life = LIFE_ATTACHED;
    pthread_cond_broadcast(&ds->changed);
    pthread_mutex_unlock(&ds->mu);
    if (r < 0)
        vd__disk_free(d);
    else
        *ret_disk = d;
    return r;
}

static void detach_job(struct vd_job *job)
{
    struct vd_disk *d = vd_container_of(job, struct vd_disk, detach_job);
    struct vd_disks *ds = d->ds;
    vd__disk_detach(d);
    /* The file, and with it the lock, is let go before an open may attach anew. */
    vd__disk_let_go(d);
    pthread_mutex_lock(&ds->mu);
    forget_disk(d);
    pthread_mutex_unlock(&ds->mu);
    vd__disk_free(d);
}

static void put(struct vd_disk *d, bool open)
{
    struct vd_disks *ds = d->ds;
    pthread_mutex_lock(&ds->mu);
    d->opens -= open;
    bool last = --d->refs == 0;
    if (last) {
        d->life = LIFE_DETACHING;
        d->detach_job.run = detach_job;
    }
    pthread_cond_broadcast(&ds->changed); /* vd_disks_free waits for passing references */
    pthread_mutex_unlock(&ds->mu);
    if (last)
        vd_lane_queue(ds->reaper, &d->detach_job);
}

void vd_disk_release(struct vd_disk *d)
{
    put(d, true);
}

void vd_disk_put(struct vd_disk *d)
{
    put(d, false);
}

static int drain_one(void *user, struct vd_disk *d)
{
    vd__filters_drain(d);
    return 0;
}

void vd_disks_stopping(struct vd_disks *ds)
{
    atomic_store(&ds->stopping, true);
    if (!ds->config.filters)
        return;
    vd_filters_stopping(ds->config.filters, STOPPING_MS);
    vd_disks_each(ds, drain_one, NULL);
}

void vd_disks_run(struct vd_disks *ds, struct vd_job *job)
{
    job->slow = true;
    vd_lane_queue(ds->opener, job);
}

void vd_disks_free(struct vd_disks *ds)
{
    if (!ds)
        return;
    pthread_mutex_lock(&ds->mu);
    for (;;) {
        /* What a client never released (the mount was torn down under it) is released here. */
        struct vd_disk *left = NULL;
        struct vd_list *it;
        vd_list_for_each (it, &ds->disks) {
            struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
            if (d->life == LIFE_ATTACHED && d->refs == d->opens)
                left = d;
        }
        if (left) {
            left->life = LIFE_DETACHING;
            left->detach_job.run = detach_job;
            pthread_mutex_unlock(&ds->mu);
            vd_lane_queue(ds->reaper, &left->detach_job);
            pthread_mutex_lock(&ds->mu);
        } else if (!vd_list_empty(&ds->disks)) {
            pthread_cond_wait(&ds->changed, &ds->mu);
        } else {
            break;
        }
    }
    pthread_mutex_unlock(&ds->mu);
    vd_lane_close(ds->opener);
    vd_lane_close(ds->reaper);
    vd_lane_close(ds->keeper);
    vd_maps_close(ds->maps);
    vd__disk_io_drain(ds);
    while (!vd_list_empty(&ds->past)) {
        struct past_disk *p = vd_list_entry(ds->past.next, struct past_disk, link);
        vd_list_del(&p->link);
        free(p);
    }
    pthread_cond_destroy(&ds->changed);
    pthread_mutex_destroy(&ds->layers_mu);
    pthread_mutex_destroy(&ds->mu);
    free(ds);
}

int vd_disks_find(struct vd_disks *ds, dev_t dev, ino_t ino, struct vd_disk **ret_disk)
{
    pthread_mutex_lock(&ds->mu);
    struct vd_disk *d = find(ds, dev, ino);
    if (d && d->life == LIFE_ATTACHED)
        d->refs++;
    else
        d = NULL;
    pthread_mutex_unlock(&ds->mu);
    if (d)
        *ret_disk = d;
    return d ? 0 : -ENOENT;
}

int vd_disks_find_uuid(struct vd_disks *ds, const struct vd_id *uuid, struct vd_disk **ret_disk)
{
    struct vd_disk *found = NULL;
    struct vd_list *it;
    pthread_mutex_lock(&ds->mu);
    vd_list_for_each (it, &ds->disks) {
        struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
        if (d->life == LIFE_ATTACHED && vd_id_eq(&d->uuid, uuid))
            found = d;
    }
    if (found)
        found->refs++;
    pthread_mutex_unlock(&ds->mu);
    if (found)
        *ret_disk = found;
    return found ? 0 : -ENOENT;
}

int vd_disks_each(struct vd_disks *ds, int (*fn)(void *user, struct vd_disk *d), void *user)
{
    /* References first: FN may block, and may not be called with the table locked. */
    vd_cleanup_free struct vd_disk **list = NULL;
    size_t n = 0;
    struct vd_list *it;
    pthread_mutex_lock(&ds->mu);
    vd_list_for_each (it, &ds->disks)
        n++;
    list = calloc(n + 1, sizeof(*list));
    n = 0;
    if (list) {
        vd_list_for_each (it, &ds->disks) {
            struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
            if (d->life != LIFE_ATTACHED)
                continue;
            d->refs++;
            list[n++] = d;
        }
    }
    pthread_mutex_unlock(&ds->mu);
    if (!list)
        return -ENOMEM;
    int r = 0;
    for (size_t i = 0; i < n; i++) {
        if (r == 0)
            r = fn(user, list[i]);
        vd_disk_put(list[i]);
    }
    return r;
}

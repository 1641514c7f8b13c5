// SPDX-License-Identifier: Apache-2.0
/*
 * Owning a disk: from none to shared, from either to exclusive.
 *
 *   1 lock       the file's owner lock; whoever holds it in our way is looked up in the records and
 *                asked
 *   2 look       size and identity, now that nobody else can change them
 *   3 witness    which generation of the cache is good (witness.c)
 *   4 record     in the metadata: for exclusive a new token, not clean, epoch + 1; durable
 *   5 mark       the token in the cache, `written`; durable. Only then:
 *   6 state      requests may use it
 *
 * A release request may take a shared lock away between any two steps (release.c): d->locked tells.
 */
#include "disk.h"

#include <string.h>
#include <time.h>

#include "vd_log.h"
#include "vd_time.h"

#define ASK_AGAIN_MS 2000      /* for a holder that said it gave up, or left no record */
#define STOPPING_WAIT_MS 30000 /* for a holder that is about to detach */
#define MAX_HOLDERS 64

static enum vd_lock lock_of(enum vd_owner_state state)
{
    return state == VD_OWNER_EXCLUSIVE ? VD_LOCK_EXCLUSIVE
           : state == VD_OWNER_SHARED  ? VD_LOCK_SHARED
                                       : VD_LOCK_NONE;
}

struct holders {
    struct vd_owner_record *list;
    unsigned n;
    const struct vd_id *self;
    bool exclusive_only;
};

static int add_holder(void *user, const struct vd_owner_record *r)
{
    struct holders *h = user;
    if (vd_id_eq(&r->id, h->self) || (h->exclusive_only && r->state != VD_OWNER_EXCLUSIVE))
        return 0;
    if (h->n < MAX_HOLDERS)
        h->list[h->n++] = *r;
    return 0;
}

/* Asks everybody recorded who is in our way. 0: none refuses; -EBUSY; -EAGAIN: one is about to
 * detach. */
static int ask_holders(struct vd_disk *d, enum vd_owner_state want, char why[VD_META_WHY])
{
    struct vd_disks_config *c = &d->ds->config;
    vd_cleanup_free struct vd_owner_record *list = calloc(MAX_HOLDERS, sizeof(*list));
    if (!list)
        return -ENOMEM;
    struct holders h = {
        .list = list, .self = &c->self.id, .exclusive_only = want == VD_OWNER_SHARED};
    if (!vd_id_is_zero(&d->uuid)) {
        vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
        int r = vd_meta_open(c->meta, &d->uuid, VD_META_READ, &m, why);
        if (r == 0)
            r = vd_meta_each_owner(m, add_holder, &h);
        if (r < 0 && r != -ENOENT)
            return r;
    }
    bool stopping = false;
    for (unsigned i = 0; i < h.n; i++) {
        int r = vd_coordinator_ask(c->coordinator, &h.list[i], &d->uuid, why);
        if (r < 0 && r != -ESRCH && r != -EAGAIN)
            return r;
        stopping |= r < 0; /* the lock is held and nobody answers: it is on its way out */
    }
    return stopping ? -EAGAIN : 0;
}

static int try_lock(struct vd_disk *d, enum vd_lock mode)
{
    pthread_mutex_lock(&d->mu);
    int r = vd_owner_lock(d->backing->fd, mode);
    if (r == 0)
        d->locked = mode;
    pthread_mutex_unlock(&d->mu);
    return r;
}

static int take_lock(struct vd_disk *d, enum vd_owner_state want, char why[VD_META_WHY])
{
    uint64_t began = vd_now_ms();
    for (;;) {
        int r = try_lock(d, lock_of(want));
        if (r != -EAGAIN)
            return r;
        r = ask_holders(d, want, why);
        if (r < 0 && r != -EAGAIN)
            return r;
        uint64_t limit = r == -EAGAIN ? STOPPING_WAIT_MS : ASK_AGAIN_MS;
        if (vd_now_ms() - began >= limit) {
            if (!why[0])
                snprintf(why, VD_META_WHY,
                         "its file is locked by a process that left no owner record");
            return -EBUSY;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

/* Step 4. COLD: cached copies were given up. */
static int write_record(struct vd_disk *d, enum vd_owner_state want, bool cold, struct vd_meta *m,
                        struct vd_layer_record *layer)
{
    const struct vd_owner_self *self = &d->ds->config.self;
    uint64_t epoch = 0;
    int r = vd_owner_epoch(m, &epoch);
    struct vd_disk_record disk;
    if (r == 0)
        r = vd_meta_get_disk(m, &disk);
    if (r < 0)
        return r;
    if (want == VD_OWNER_EXCLUSIVE) {
        epoch++;
        disk.clean = false;
        disk.boot_id = self->boot_id;
        layer->generation += cold;
        r = vd_id_new(&layer->token);
        if (r == 0)
            r = vd_meta_put_layer(m, 0, layer);
    }
    snprintf(disk.path, sizeof(disk.path), "%s", d->path);
    if (r == 0)
        r = vd_meta_put_disk(m, &disk);
    if (r == 0)
        r = vd_owner_record_put(m, self, want, epoch);
    if (r == 0)
        r = vd_meta_commit(m);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->mu);
    d->epoch = epoch;
    pthread_mutex_unlock(&d->mu);
    return 0;
}

/* The last name is gone, and the mount through which it went, or the last to close, has removed the
 * metadata. Nobody will ever hold a token of it again, so it needs none. */
static bool has_no_name(struct vd_disk *d)
{
    struct stat st;
    return atomic_load(&d->gone) || (vd_backing_stat(d->backing, &st) == 0 && st.st_nlink == 0);
}

/* Step 2. LOOK: the witness has to be looked at. */
static int look_at_file(struct vd_disk *d, bool *ret_look)
{
    struct vd_identity now;
    int r = vd__disk_identity(d, &now);
    if (r < 0)
        return r;
    pthread_mutex_lock(&d->mu);
    *ret_look = atomic_load(&d->state) == VD_OWNER_NONE || !vd_identity_eq(&now, &d->identity);
    d->identity = now;
    pthread_mutex_unlock(&d->mu);
    if (!vd__live(d)->lm)
        atomic_store(&d->size_bytes, now.size_bytes);
    return 0;
}

/* Steps 2 to 5, with the lock held. */
static int take_over(struct vd_disk *d, enum vd_owner_state want, char why[VD_META_WHY])
{
    bool look;
    if (vd_owner_is_gone_past(d->backing->fd)) {
        snprintf(why, VD_META_WHY, "it is open for writing since it was smaller than a disk");
        return -EBUSY;
    }
    if (vd_id_is_zero(&d->uuid))
        return look_at_file(d, &look);

    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == -ENOENT && has_no_name(d)) {
        vd__disk_layer_replace(d, NULL);
        return look_at_file(d, &look);
    }
    if (r == 0 && atomic_load(&d->state) == VD_OWNER_NONE)
        r = vd__disk_load(d, m, why);
    if (r == 0)
        r = look_at_file(d, &look);
    if (r < 0)
        return r;
    struct vd_layer_record layer;
    r = vd_meta_get_layer(m, 0, &layer);
    if (r == -EUCLEAN)
        snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
    if (r < 0)
        return r;
    bool cold = false;
    if (look)
        vd__disk_witness_check(d, &layer.token, &cold);
    /* Before the boot ID in the record is ours: by it the map's log is believed. */
    if (want == VD_OWNER_EXCLUSIVE)
        r = vd__disk_begin_changes(d);
    if (r == 0)
        r = write_record(d, want, cold, m, &layer);
    if (r == 0)
        atomic_store(&d->content, want == VD_OWNER_EXCLUSIVE ? content_of(&layer.token)
                                                             : vd__disk_content(d, &layer));
    if (r == 0 && want == VD_OWNER_EXCLUSIVE)
        vd__disk_witness_begin_writes(d, &layer.token);
    return r;
}

/* Step 6; or, where the lock was taken away meanwhile or a step failed, none. */
static int settle(struct vd_disk *d, enum vd_owner_state want, enum vd_lock before, int r)
{
    pthread_mutex_lock(&d->mu);
    if (r < 0 && d->locked == lock_of(want)) {
        if (vd_owner_lock(d->backing->fd, before) == 0)
            d->locked = before;
    } else if (r == 0 && d->locked == lock_of(want)) {
        atomic_store(&d->state, want);
        atomic_store(&d->unrecorded, false);
    }
    bool none = d->locked == VD_LOCK_NONE;
    if (none) {
        atomic_store(&d->state, VD_OWNER_NONE);
        vd__disk_layer_replace_locked(d, NULL);
    }
    pthread_mutex_unlock(&d->mu);
    return r < 0 ? r : none ? -EAGAIN : 0;
}

int vd__disk_acquire(struct vd_disk *d, enum vd_owner_state want, char why[VD_META_WHY])
{
    pthread_mutex_lock(&d->own_mu);
    int r = 0;
    if (atomic_load(&d->state) < want) {
        pthread_mutex_lock(&d->mu);
        enum vd_lock before = d->locked;
        pthread_mutex_unlock(&d->mu);
        r = take_lock(d, want, why);
        if (r == 0)
            r = settle(d, want, before, take_over(d, want, why));
    }
    pthread_mutex_unlock(&d->own_mu);
    return r;
}

int vd__disk_share_if_free(struct vd_disk *d, char why[VD_META_WHY])
{
    if (pthread_mutex_trylock(&d->own_mu))
        return -EAGAIN;
    int r = 0;
    if (atomic_load(&d->state) == VD_OWNER_NONE) {
        r = try_lock(d, VD_LOCK_SHARED);
        if (r == 0)
            r = settle(d, VD_OWNER_SHARED, VD_LOCK_NONE, take_over(d, VD_OWNER_SHARED, why));
    }
    pthread_mutex_unlock(&d->own_mu);
    return r;
}

int vd__disk_lock_alone(struct vd_disk *d, enum vd_lock *ret_before, char why[VD_META_WHY])
{
    pthread_mutex_lock(&d->mu);
    enum vd_lock before = d->locked;
    pthread_mutex_unlock(&d->mu);
    *ret_before = before;
    int r = before == VD_LOCK_EXCLUSIVE ? 0 : take_lock(d, VD_OWNER_EXCLUSIVE, why);
    if (r == -EAGAIN || r == -EBUSY) /* the lock is as it was */
        return -EBUSY;
    if (r == 0 && vd_owner_is_gone_past(d->backing->fd)) {
        snprintf(why, VD_META_WHY, "it is open for writing since it was smaller than a disk");
        r = -EBUSY;
    }
    if (r == 0 && before == VD_LOCK_NONE) {
        vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
        r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
        if (r == 0)
            r = vd__disk_load(d, m, why);
    }
    if (r == 0)
        r = vd__disk_begin_changes(d);
    if (r < 0)
        vd__disk_unlock_to(d, before);
    return r;
}

void vd__disk_unlock_to(struct vd_disk *d, enum vd_lock before)
{
    if (before == VD_LOCK_EXCLUSIVE)
        return;
    pthread_mutex_lock(&d->mu);
    if (vd_owner_lock(d->backing->fd, before) == 0)
        d->locked = before;
    pthread_mutex_unlock(&d->mu);
}

int vd_disk_own(struct vd_disk *d, char why[VD_META_WHY])
{
    why[0] = '\0';
    if (d->ds->config.read_only || !d->backing->writable) {
        snprintf(why, VD_META_WHY, "it is read-only here");
        return -EROFS;
    }
    if (atomic_load(&d->state) == VD_OWNER_EXCLUSIVE) /* until the detach */
        return 0;
    return vd__disk_acquire(d, VD_OWNER_EXCLUSIVE, why);
}

bool vd_disk_attr_stable(struct vd_disk *d)
{
    return atomic_load(&d->state) == VD_OWNER_EXCLUSIVE;
}

// SPDX-License-Identifier: Apache-2.0
/* What another mount asks of us: to give a disk up. Takes d->mu only, so it is answered at once. */
#include "disk.h"

#include "vd_log.h"

/* With d->mu held: a shared holder lets go. Reads under way may still be answered from the cache:
 * they came before the asker's first write. */
static int give_up(struct vd_disk *d, char why[VD_META_WHY])
{
    if (d->locked == VD_LOCK_EXCLUSIVE && atomic_load(&d->ds->stopping)) {
        snprintf(why, VD_META_WHY, "pid %ld is about to let go of it", (long)getpid());
        return -EAGAIN;
    }
    if (d->locked == VD_LOCK_EXCLUSIVE) {
        snprintf(why, VD_META_WHY, "it is in use on %s by pid %ld", d->ds->config.self.host,
                 (long)getpid());
        return -EBUSY;
    }
    if (d->locked == VD_LOCK_SHARED) {
        /* First: whoever still reads looks at what another may have changed from the unlock on. */
        atomic_store(&d->state, VD_OWNER_NONE);
        int r = vd_owner_lock(d->backing->fd, VD_LOCK_NONE);
        if (r < 0) {
            atomic_store(&d->state, VD_OWNER_SHARED);
            return r;
        }
        d->locked = VD_LOCK_NONE;
        vd__disk_layer_replace_locked(d, NULL);
    }
    return 0;
}

int vd_disks_release_request(struct vd_disks *ds, const struct vd_id *uuid,
                             char ret_why[VD_META_WHY])
{
    struct vd_disk *d = NULL;
    pthread_mutex_lock(&ds->mu);
    struct vd_list *it;
    bool passing = false; /* it is about to be held, or about to be let go */
    vd_list_for_each (it, &ds->disks) {
        struct vd_disk *e = vd_list_entry(it, struct vd_disk, link);
        if (!vd_id_eq(&e->uuid, uuid))
            continue;
        passing = e->life != LIFE_ATTACHED;
        if (e->life == LIFE_ATTACHED) {
            e->refs++;
            d = e;
        }
    }
    pthread_mutex_unlock(&ds->mu);
    if (passing) {
        snprintf(ret_why, VD_META_WHY, "pid %ld is opening or closing it", (long)getpid());
        return -EAGAIN;
    }
    if (!d)
        return 0;
    pthread_mutex_lock(&d->mu);
    int r = give_up(d, ret_why);
    pthread_mutex_unlock(&d->mu);
    vd_disk_put(d);
    return r;
}

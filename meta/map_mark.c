// SPDX-License-Identifier: Apache-2.0
/*
 * Marks: what makes records durable. Who asks for one names how far the data are known to be
 * durable (its own fdatasync, after vd_live_map_pending, says so). One thread at a time writes; it
 * takes the highest number that anybody has asked for, which is right for all of them.
 *
 * A number that lies in the newest log is above everything in the older ones, so whoever asked for
 * it has synced the data of all their records too: it may write their ENDs, whether or not a fold
 * is about to.
 */
#include "map_live.h"

#include "vd_step.h"

/* Appends and syncs the mark for TARGET in the oldest log. 1: that log is over, go on with the
 * next; 0: done. *RET_LOST: it is not known what of it is on the disk. */
static int mark_oldest(struct vd_live_map *lm, uint64_t target, bool *ret_lost)
{
    pthread_mutex_lock(&lm->mu);
    struct vd__maplog *l = lm->oldest;
    bool end = l->next && target >= l->end, here = target > l->base;
    uint64_t slot = l->nslots, room = l->room;
    struct vd__maplog_record m = {
        .type = end ? VD__MAPLOG_END : VD__MAPLOG_MARK,
        .a = end ? slot : vd_min(target - l->base, slot),
        .b = l->known,
    };
    int r = here ? vd__maplog_append(l, &m, ret_lost) : 0;
    pthread_mutex_unlock(&lm->mu);
    if (r < 0 || !here)
        return r;
    vd_step("map: mark written");
    r = fdatasync(l->fd) < 0 ? -errno : vd__maplog_note_room(l, room);
    if (r < 0) {
        *ret_lost = true;
        return r;
    }
    vd_step("map: mark synced");
    pthread_mutex_lock(&lm->mu);
    l->known = slot + 1;
    l->noted = m.b;
    if (end) {
        /* That the next log has a mark says that this one's end was durable. */
        struct vd__maplog_record none = {.type = VD__MAPLOG_MARK};
        bool broken;
        r = vd__maplog_append(l->next, &none, &broken);
        lm->failed |= broken;
        lm->oldest = l->next;
    }
    pthread_mutex_unlock(&lm->mu);
    if (end)
        vd__maplog_close(l);
    return end ? 1 : 0;
}

/* lock: mark_mu, let go meanwhile */
static int write_marks(struct vd_live_map *lm)
{
    uint64_t target = lm->mark_wanted;
    bool lost = false;
    int r;
    lm->marking = true;
    pthread_mutex_unlock(&lm->mark_mu);
    do
        r = mark_oldest(lm, target, &lost);
    while (r > 0);
    if (lost) {
        pthread_mutex_lock(&lm->mu);
        lm->failed = true;
        pthread_mutex_unlock(&lm->mu);
    }
    pthread_mutex_lock(&lm->mark_mu);
    lm->marking = false;
    if (lost)
        lm->mark_error = r;
    if (r == 0)
        lm->marked = vd_max(lm->marked, target);
    pthread_cond_broadcast(&lm->marked_cond);
    return r;
}

int vd_live_map_mark(struct vd_live_map *lm, uint64_t pending)
{
    int r = 0;
    pthread_mutex_lock(&lm->mark_mu);
    lm->mark_wanted = vd_max(lm->mark_wanted, pending);
    while (r == 0 && lm->marked < pending) {
        if (lm->mark_error)
            r = -EIO;
        else if (lm->marking)
            pthread_cond_wait(&lm->marked_cond, &lm->mark_mu);
        else
            r = write_marks(lm);
    }
    pthread_mutex_unlock(&lm->mark_mu);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The gate that changes (writes, zeroes, truncations) pass, so that a snapshot finds none under way.
 *
 * A change counts itself in, in its thread's shard, and then looks whether the gate is shut: if so it
 * counts itself out again and is parked, or, where it may wait, waits. Who shuts the gate and then
 * finds every shard 0 is alone. Reads and flushes do not pass here. Nothing parked holds a thread.
 */
#include "disk.h"

#include <time.h>

#include "vd_time.h"

#define DRAIN_MS 10000u /* a change that takes longer is stuck in its backing */

static bool changing(struct vd_disk *d)
{
    for (unsigned s = 0; s < VD_COUNTER_SHARDS; s++)
        if (atomic_load(&d->changing[s].n))
            return true;
    return false;
}

void vd__change_leave(struct vd_disk *d, unsigned shard)
{
    atomic_fetch_sub(&d->changing[shard].n, 1);
    if (!atomic_load(&d->shut))
        return;
    pthread_mutex_lock(&d->mu);
    pthread_cond_broadcast(&d->drained);
    pthread_mutex_unlock(&d->mu);
}

static bool try_enter(struct vd_disk *d, unsigned *ret_shard)
{
    unsigned s = vd_counter_shard();
    atomic_fetch_add(&d->changing[s].n, 1);
    *ret_shard = s;
    if (!atomic_load(&d->shut))
        return true;
    vd__change_leave(d, s);
    return false;
}

bool vd__change_enter(struct vd_disk *d, struct io *io, unsigned *ret_shard)
{
    while (!try_enter(d, ret_shard)) {
        pthread_mutex_lock(&d->mu);
        bool shut = atomic_load(&d->shut);
        if (shut && io)
            vd_list_add_tail(&d->parked, &io->job.link);
        pthread_mutex_unlock(&d->mu);
        if (shut)
            return false;
    }
    return true;
}

unsigned vd__change_wait(struct vd_disk *d)
{
    unsigned shard;
    while (!try_enter(d, &shard)) {
        pthread_mutex_lock(&d->mu);
        while (atomic_load(&d->shut))
            pthread_cond_wait(&d->drained, &d->mu);
        pthread_mutex_unlock(&d->mu);
    }
    return shard;
}

int vd__changes_stop(struct vd_disk *d)
{
    uint64_t until = vd_now_ms() + DRAIN_MS;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += DRAIN_MS / 1000;
    pthread_mutex_lock(&d->mu);
    atomic_store(&d->shut, true);
    while (changing(d) && vd_now_ms() < until)
        pthread_cond_timedwait(&d->drained, &d->mu, &limit);
    bool stuck = changing(d);
    pthread_mutex_unlock(&d->mu);
    if (stuck)
        vd__changes_go_on(d);
    return stuck ? -ETIMEDOUT : 0;
}

void vd__changes_go_on(struct vd_disk *d)
{
    struct vd_list parked;
    vd_list_init(&parked);
    pthread_mutex_lock(&d->mu);
    atomic_store(&d->shut, false);
    while (!vd_list_empty(&d->parked)) {
        struct vd_list *it = d->parked.next;
        vd_list_del(it);
        vd_list_add_tail(&parked, it);
    }
    pthread_cond_broadcast(&d->drained);
    pthread_mutex_unlock(&d->mu);
    while (!vd_list_empty(&parked)) {
        struct vd_job *job = vd_list_entry(parked.next, struct vd_job, link);
        vd_list_del(&job->link);
        vd_lane_queue(d->lane, job);
    }
}

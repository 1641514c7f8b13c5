// SPDX-License-Identifier: Apache-2.0
/*
 * A gate that work passes, so that somebody can find none under way. A disk has two:
 *
 *   requests  all that clients ask, from the first filter to the answer; shut while filters come and go
 *   changes   writes, zeroes, truncations, below the filters; shut while a snapshot is taken
 *
 * Work counts itself in, in its thread's shard, and then looks whether the gate is shut: if so it counts itself out
 * again and is parked, or, where it may wait, waits. Who shuts the gate and then finds every shard 0 is alone. Nothing parked holds
 * a thread.
 */
#include "disk.h"

#include <time.h>

#include "vd_time.h"

void vd__pause_init(struct pause *p)
{
    pthread_condattr_t attr;
    pthread_mutex_init(&p->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    vd_list_init(&p->parked);
}

void vd__pause_destroy(struct pause *p)
{
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->mu);
}

static bool under_way(struct pause *p)
{
    for (unsigned s = 0; s < VD_COUNTER_SHARDS; s++)
        if (atomic_load(&p->shard[s].n))
            return true;
    return false;
}

void vd__pause_leave(struct pause *p, unsigned shard)
{
    atomic_fetch_sub(&p->shard[shard].n, 1);
    if (!atomic_load(&p->shut))
        return;
    pthread_mutex_lock(&p->mu);
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mu);
}

static bool try_enter(struct pause *p, unsigned *ret_shard)
{
    unsigned s = vd_counter_shard();
    atomic_fetch_add(&p->shard[s].n, 1);
    *ret_shard = s;
    if (!atomic_load(&p->shut))
        return true;
    vd__pause_leave(p, s);
    return false;
}

bool vd__pause_enter(struct pause *p, struct vd_job *job, unsigned *ret_shard)
{
    while (!try_enter(p, ret_shard)) {
        pthread_mutex_lock(&p->mu);
        bool shut = atomic_load(&p->shut);
        if (shut && job)
            vd_list_add_tail(&p->parked, &job->link);
        pthread_mutex_unlock(&p->mu);
        if (shut)
            return false;
    }
    return true;
}

unsigned vd__pause_wait(struct pause *p)
{
    unsigned shard;
    while (!try_enter(p, &shard)) {
        pthread_mutex_lock(&p->mu);
        while (atomic_load(&p->shut))
            pthread_cond_wait(&p->changed, &p->mu);
        pthread_mutex_unlock(&p->mu);
    }
    return shard;
}

void vd__pause_shut(struct pause *p)
{
    atomic_store(&p->shut, true);
}

bool vd__pause_drained(struct pause *p, unsigned timeout_ms)
{
    struct timespec limit;
    clock_gettime(CLOCK_MONOTONIC, &limit);
    limit.tv_sec += timeout_ms / 1000;
    limit.tv_nsec += timeout_ms % 1000 * 1000000;
    if (limit.tv_nsec >= 1000000000) {
        limit.tv_nsec -= 1000000000;
        limit.tv_sec++;
    }
    pthread_mutex_lock(&p->mu);
    for (int r = 0; under_way(p) && r != ETIMEDOUT;)
        r = pthread_cond_timedwait(&p->changed, &p->mu, &limit);
    bool none = !under_way(p);
    pthread_mutex_unlock(&p->mu);
    return none;
}

void vd__pause_go_on(struct pause *p, struct vd_lane *lane)
{
    struct vd_list parked;
    vd_list_init(&parked);
    pthread_mutex_lock(&p->mu);
    atomic_store(&p->shut, false);
    while (!vd_list_empty(&p->parked)) {
        struct vd_list *it = p->parked.next;
        vd_list_del(it);
        vd_list_add_tail(&parked, it);
    }
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->mu);
    while (!vd_list_empty(&parked)) {
        struct vd_job *job = vd_list_entry(parked.next, struct vd_job, link);
        vd_list_del(&job->link);
        vd_lane_queue(lane, job);
    }
}

#define DRAIN_MS 10000u /* a change that takes longer is stuck in its backing */

int vd__changes_stop(struct vd_disk *d)
{
    vd__pause_shut(&d->changes);
    if (vd__pause_drained(&d->changes, DRAIN_MS))
        return 0;
    vd__changes_go_on(d);
    return -ETIMEDOUT;
}

void vd__changes_go_on(struct vd_disk *d)
{
    vd__pause_go_on(&d->changes, d->lane);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Lanes: where the waiting for backings happens.
 *
 * A lane has a queue and up to running_max threads of its own, made when work comes and none is
 * idle, ended after IDLE_MS without any. Threads are a lane's, not shared, so that a backing that
 * hangs can use up its own lane's threads and nothing else.
 *
 * The hop to a thread costs more than a write into the page cache does, so a FUSE worker may enter
 * the backing itself: at most INLINE_PER_LANE workers of a lane, and inline_max of the daemon's, at
 * one time. A hung backing then holds INLINE_PER_LANE workers, and all hung backings together
 * inline_max of them; the daemon has more workers than that (src/fs/session.h), which go on serving
 * everything else.
 *
 * Locks: l->mu guards the lane's queue and counts. s->inline_now and l->inline_now are atomic.
 */
#include "vd_backing.h"

#include <pthread.h>
#include <stdatomic.h>

#include "vd_log.h"
#include "vd_time.h"

#define INLINE_PER_LANE 8u
#define IDLE_MS 2000

struct vd_lanes {
    unsigned inline_max;
    atomic_uint inline_now;
    atomic_uint lanes; /* open ones, for the check in vd_lanes_free */
};

struct vd_lane {
    struct vd_lanes *lanes;
    unsigned running_max;
    atomic_uint inline_now;

    pthread_mutex_t mu;
    pthread_cond_t work;  /* a job came, or the lane closes */
    pthread_cond_t ended; /* a thread ended */
    struct vd_list queue; /* lock: mu */
    unsigned threads;     /* lock: mu */
    unsigned idle;        /* lock: mu; threads waiting for `work` */
    unsigned queued;      /* lock: mu */
    bool closing;         /* lock: mu */
};

int vd_lanes_new(unsigned inline_max, struct vd_lanes **ret_lanes)
{
    struct vd_lanes *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->inline_max = inline_max;
    *ret_lanes = s;
    return 0;
}

void vd_lanes_free(struct vd_lanes *s)
{
    if (s && atomic_load(&s->lanes))
        vd_log_error("%u lanes are still open at the end", atomic_load(&s->lanes));
    free(s);
}

int vd_lane_open(struct vd_lanes *s, unsigned running_max, struct vd_lane **ret_lane)
{
    struct vd_lane *l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->lanes = s;
    l->running_max = running_max;
    vd_list_init(&l->queue);
    pthread_mutex_init(&l->mu, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->work, &attr);
    pthread_condattr_destroy(&attr);
    pthread_cond_init(&l->ended, NULL);
    atomic_fetch_add(&s->lanes, 1);
    *ret_lane = l;
    return 0;
}

void vd_lane_close(struct vd_lane *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->mu);
    l->closing = true;
    pthread_cond_broadcast(&l->work);
    while (l->threads)
        pthread_cond_wait(&l->ended, &l->mu);
    pthread_mutex_unlock(&l->mu);
    /* Workers that have answered their request and are about to leave: microseconds. */
    while (atomic_load(&l->inline_now))
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    atomic_fetch_sub(&l->lanes->lanes, 1);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->ended);
    pthread_mutex_destroy(&l->mu);
    free(l);
}

/* Waits for work, with l->mu held. False: there was none for long, or the lane closes. */
static bool wait_for_work(struct vd_lane *l)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_MS / 1000;
    l->idle++;
    int r = 0;
    while (vd_list_empty(&l->queue) && !l->closing && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&l->work, &l->mu, &until);
    l->idle--;
    return !vd_list_empty(&l->queue);
}

static void *lane_thread(void *arg)
{
    struct vd_lane *l = arg;
    pthread_mutex_lock(&l->mu);
    while (!vd_list_empty(&l->queue) || wait_for_work(l)) {
        struct vd_job *job = vd_list_entry(l->queue.next, struct vd_job, link);
        vd_list_del(&job->link);
        l->queued--;
        pthread_mutex_unlock(&l->mu);
        job->run(job);
        pthread_mutex_lock(&l->mu);
    }
    l->threads--;
    pthread_cond_broadcast(&l->ended);
    pthread_mutex_unlock(&l->mu);
    return NULL;
}

/* With l->mu held. */
static int start_thread(struct vd_lane *l)
{
    pthread_attr_t attr;
    pthread_t thread;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    l->threads++;
    int r = pthread_create(&thread, &attr, lane_thread, l);
    pthread_attr_destroy(&attr);
    if (r)
        l->threads--;
    return -r;
}

/* The lane's first thread could not be made: nobody would ever run the queue, so the caller does.
 */
static void run_here(struct vd_lane *l, struct vd_job *job)
{
    vd_list_del(&job->link);
    l->queued--;
    pthread_mutex_unlock(&l->mu);
    job->run(job);
    pthread_mutex_lock(&l->mu);
}

void vd_lane_queue(struct vd_lane *l, struct vd_job *job)
{
    pthread_mutex_lock(&l->mu);
    vd_list_add_tail(&l->queue, &job->link);
    l->queued++;
    int r = 0;
    if (l->queued > l->idle && l->threads < l->running_max)
        r = start_thread(l);
    else
        pthread_cond_signal(&l->work);
    if (r < 0 && l->threads == 0)
        run_here(l, job);
    pthread_mutex_unlock(&l->mu);
}

/* Adds one to COUNT unless it is LIMIT already. */
static bool claim(atomic_uint *count, unsigned limit)
{
    if (atomic_fetch_add(count, 1) < limit)
        return true;
    atomic_fetch_sub(count, 1);
    return false;
}

bool vd_lane_enter(struct vd_lane *l)
{
    if (!claim(&l->inline_now, INLINE_PER_LANE))
        return false;
    if (claim(&l->lanes->inline_now, l->lanes->inline_max))
        return true;
    atomic_fetch_sub(&l->inline_now, 1);
    return false;
}

void vd_lane_leave(struct vd_lane *l)
{
    struct vd_lanes *s = l->lanes;
    atomic_fetch_sub(&s->inline_now, 1);
    atomic_fetch_sub(&l->inline_now, 1); /* the lane may be gone from here on */
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Lanes: where the waiting for backings happens.
 *
 * A lane has a queue and up to running_max threads of its own, made when work comes and none is
 * idle, ended after IDLE_MS without any. Threads are a lane's, not shared, so that a backing that
 * hangs can use up its own lane's threads and nothing else.
 *
 * The hop to a thread costs more than a write into the page cache does, and writers of one file
 * wait for its inode's lock anyway. So a few workers may enter the backing themselves:
 * INLINE_PER_LANE of a lane, inline_max of the daemon's. What comes meanwhile is queued, and those
 * inside take it from the queue before they leave: the work stays on threads that run, and nobody
 * sleeps or wakes (flat combining, Hendler et al., SPAA 2010).
 *
 * That is right while the backing answers at once, and wrong when it does not. Each piece of work
 * is timed; a lane is *fast* while the mean is below FAST_NS. In a slow lane, queued work wakes a
 * thread each, up to running_max. And since those inside a fast lane may be caught by a backing
 * that hangs, work is left to them only while a thread of the lane is on *watch*: it looks every
 * WATCH_MS, and where nothing was taken since it last looked, declares the lane slow and wakes the
 * others.
 *
 * A hung backing so holds INLINE_PER_LANE workers, and all hung backings together inline_max; the
 * daemon has more workers than that (src/fs/session.c).
 *
 * Locks: everything of a lane that changes is under l->mu, which is held for list work only. The
 * lanes' inline_now is atomic.
 */
#include "vd_backing.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "vd_log.h"
#include "vd_time.h"

#define INLINE_PER_LANE 2u
#define TAKE_MAX 32u /* jobs that one worker takes along before it goes back to its requests */
#define FAST_NS 150000u
#define SLOW_NS (4 * FAST_NS) /* the mean that a lane is given when it is found stuck */
#define WATCH_MS 1u
#define WATCH_TICKS 100u /* without anybody inside, until the watch ends */
#define IDLE_MS 2000u

struct vd_lanes {
    unsigned inline_max;
    atomic_uint inline_now;
    atomic_uint lanes; /* open ones, for the check in vd_lanes_free */
};

struct vd_lane {
    struct vd_lanes *lanes;
    unsigned running_max;

    pthread_mutex_t mu;
    pthread_cond_t work;  /* a job for a thread, or the lane closes */
    pthread_cond_t ended; /* a thread ended, a worker left */
    /* lock: mu, all of these */
    struct vd_list queue;
    struct vd_list slow;   /* jobs for threads only */
    unsigned queued;       /* in both */
    unsigned threads;
    unsigned idle;       /* threads waiting for `work`, those on watch too */
    unsigned on_watch;   /* threads that look every WATCH_MS */
    unsigned inline_now; /* workers inside */
    uint64_t entered;    /* times that a worker went in */
    uint64_t taken;      /* jobs taken from the queue */
    uint64_t mean_ns;    /* of recent work */
    bool closing;
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
    vd_list_init(&l->slow);
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
    while (l->threads || l->inline_now)
        pthread_cond_wait(&l->ended, &l->mu);
    pthread_mutex_unlock(&l->mu);
    atomic_fetch_sub(&l->lanes->lanes, 1);
    pthread_cond_destroy(&l->work);
    pthread_cond_destroy(&l->ended);
    pthread_mutex_destroy(&l->mu);
    free(l);
}

/* ---- all of these with l->mu held ---- */

static bool is_fast(const struct vd_lane *l)
{
    return l->mean_ns < FAST_NS;
}

static void note_time(struct vd_lane *l, uint64_t ns)
{
    l->mean_ns += ns / 8;
    l->mean_ns -= l->mean_ns / 8;
}

/* Runs the first job of QUEUE, with l->mu let go meanwhile. */
static void run_first(struct vd_lane *l, struct vd_list *queue)
{
    struct vd_job *job = vd_list_entry(queue->next, struct vd_job, link);
    vd_list_del(&job->link);
    l->queued--;
    l->taken++;
    bool slow = job->slow;
    pthread_mutex_unlock(&l->mu);
    uint64_t began = vd_now_ns();
    job->run(job);
    uint64_t ns = vd_now_ns() - began;
    pthread_mutex_lock(&l->mu);
    if (!slow)
        note_time(l, ns);
}

static void run_next(struct vd_lane *l)
{
    run_first(l, vd_list_empty(&l->slow) ? &l->queue : &l->slow);
}

static void *lane_thread(void *arg);

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

/* Gets the lane's threads to work on what is queued. Where not even the first can be made, the
 * caller is the one who runs it. */
static void call_threads(struct vd_lane *l)
{
    for (unsigned n = l->idle; n < l->queued && l->threads < l->running_max; n++)
        if (start_thread(l) < 0)
            break;
    if (l->idle)
        pthread_cond_broadcast(&l->work);
    while (!l->threads && l->queued)
        run_next(l);
}

/* One wait of at most WATCH_MS. False: the watch is over, nobody has been inside for long. */
static bool watch(struct vd_lane *l, uint64_t *entered, unsigned *quiet)
{
    uint64_t taken = l->taken;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WATCH_MS * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    int r = pthread_cond_timedwait(&l->work, &l->mu, &until);
    if (r == ETIMEDOUT && !vd_list_empty(&l->queue) && taken == l->taken) {
        l->mean_ns = SLOW_NS;
        call_threads(l);
    }
    *quiet = *entered == l->entered ? *quiet + 1 : 0;
    *entered = l->entered;
    return *quiet < WATCH_TICKS;
}

/* Whether there is work for a thread: in a fast lane with workers inside, the queue is theirs. */
static bool for_threads(const struct vd_lane *l)
{
    if (!vd_list_empty(&l->slow))
        return true;
    return !vd_list_empty(&l->queue) && !(is_fast(l) && l->inline_now);
}

/* Waits until there is work for a thread. False: there was none for long, or the lane closes. */
static bool wait_for_work(struct vd_lane *l)
{
    uint64_t entered = l->entered;
    unsigned quiet = 0;
    l->idle++;
    if (!l->on_watch) {
        l->on_watch++;
        while (!for_threads(l) && !l->closing && watch(l, &entered, &quiet))
            ;
        l->on_watch--;
    }
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += IDLE_MS / 1000;
    int r = 0;
    while (!for_threads(l) && !l->closing && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&l->work, &l->mu, &until);
    l->idle--;
    return for_threads(l);
}

static void *lane_thread(void *arg)
{
    struct vd_lane *l = arg;
    pthread_mutex_lock(&l->mu);
    while (for_threads(l) || wait_for_work(l))
        run_next(l);
    l->threads--;
    pthread_cond_broadcast(&l->ended);
    pthread_mutex_unlock(&l->mu);
    return NULL;
}

/* ---- the interface ---- */

void vd_lane_queue(struct vd_lane *l, struct vd_job *job)
{
    pthread_mutex_lock(&l->mu);
    vd_list_add_tail(job->slow ? &l->slow : &l->queue, &job->link);
    l->queued++;
    if (job->slow || !(is_fast(l) && l->inline_now && l->on_watch))
        call_threads(l);
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

bool vd_lane_enter(struct vd_lane *l, uint64_t *ret_began_ns)
{
    pthread_mutex_lock(&l->mu);
    bool in = l->inline_now < INLINE_PER_LANE && claim(&l->lanes->inline_now, l->lanes->inline_max);
    if (in) {
        l->inline_now++;
        l->entered++;
    }
    pthread_mutex_unlock(&l->mu);
    if (in)
        *ret_began_ns = vd_now_ns();
    return in;
}

void vd_lane_leave(struct vd_lane *l, uint64_t began_ns)
{
    uint64_t ns = vd_now_ns() - began_ns;
    pthread_mutex_lock(&l->mu);
    note_time(l, ns);
    for (unsigned n = 0; n < TAKE_MAX && !vd_list_empty(&l->queue) && is_fast(l); n++)
        run_first(l, &l->queue);
    l->inline_now--;
    atomic_fetch_sub(&l->lanes->inline_now, 1);
    if (!vd_list_empty(&l->queue) && !(is_fast(l) && l->inline_now && l->on_watch))
        call_threads(l);
    if (l->closing)
        pthread_cond_broadcast(&l->ended);
    pthread_mutex_unlock(&l->mu); /* the lane may be gone from here on */
}

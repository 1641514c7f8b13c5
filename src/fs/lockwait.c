// SPDX-License-Identifier: Apache-2.0
/*
 * Those who wait for a lock (SETLKW, flock without LOCK_NB). A worker that waited in the source's
 * own SETLKW would be lost until the lock came, and a few of them are the whole mount. So one
 * thread keeps them in a list and tries each again: when something is unlocked through this mount,
 * and every 20 ms for what other mounts and processes unlock.
 *
 * Interrupts: libfuse calls back with the request held, while this thread may be answering it; so
 * the callback gets the queue and looks for the request in the list. It is registered before the
 * request is in the list, and whoever adds it looks whether the interrupt came first.
 *
 * Lock order: a request's own lock (libfuse), q->mu, a node's lock_mu. Only the thread takes
 * requests out.
 */
#include "fs.h"

#include <time.h>

#include "vd_time.h"

#define RETRY_NS (20 * 1000000)

struct vd_lockwait {
    pthread_t thread;
    pthread_mutex_t mu;
    pthread_cond_t wake;
    struct vd_list waiting; /* lock: mu */
    unsigned nwaiting;      /* lock: mu */
    atomic_uint any;        /* nwaiting, for those who only ask whether to wake the thread */
    bool kicked;            /* lock: mu */
    bool stop;              /* lock: mu */
    bool ended;             /* lock: mu */
};

static void finish(struct vd_lock_request *l, int r)
{
    struct vd_fs *fs = l->fs;
    vd__reply(l->req, r);
    free(l);
    vd__inflight_end(fs);
}

/* Tries each that waits, once, oldest first. lock: mu, given back while something is tried. */
static void try_all(struct vd_lockwait *q)
{
    for (unsigned left = q->nwaiting; left > 0; left--) {
        struct vd_lock_request *l = vd_list_entry(q->waiting.next, struct vd_lock_request, link);
        vd_list_del(&l->link);
        vd_list_add_tail(&q->waiting, &l->link);
        int r = -EINTR;
        if (!l->interrupted && !q->stop) {
            pthread_mutex_unlock(&q->mu);
            r = vd__lock_try(l);
            pthread_mutex_lock(&q->mu);
            if (r == -EAGAIN && (l->interrupted || q->stop))
                r = -EINTR;
        }
        if (r == -EAGAIN)
            continue;
        vd_list_del(&l->link);
        q->nwaiting--;
        atomic_store(&q->any, q->nwaiting);
        pthread_mutex_unlock(&q->mu);
        finish(l, r);
        pthread_mutex_lock(&q->mu);
    }
}

static void *run(void *user)
{
    struct vd_lockwait *q = user;

    pthread_mutex_lock(&q->mu);
    while (!q->stop || q->nwaiting > 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += RETRY_NS;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
        int r = 0;
        while (!q->kicked && !q->stop && r == 0)
            r = q->nwaiting ? pthread_cond_timedwait(&q->wake, &q->mu, &until)
                            : pthread_cond_wait(&q->wake, &q->mu);
        q->kicked = false;
        try_all(q);
    }
    pthread_mutex_unlock(&q->mu);
    return NULL;
}

int vd__lockwait_new(struct vd_lockwait **ret_q)
{
    struct vd_lockwait *q = calloc(1, sizeof(*q));
    pthread_condattr_t attr;

    if (!q)
        return -ENOMEM;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&q->mu, NULL);
    vd_list_init(&q->waiting);
    int r = -pthread_create(&q->thread, NULL, run, q);
    if (r < 0) {
        q->ended = true;
        vd__lockwait_free(q);
        return r;
    }
    *ret_q = q;
    return 0;
}

/* lock: mu */
static void kick(struct vd_lockwait *q)
{
    q->kicked = true;
    pthread_cond_signal(&q->wake);
}

void vd__lockwait_kick(struct vd_lockwait *q)
{
    if (atomic_load(&q->any) == 0)
        return;
    pthread_mutex_lock(&q->mu);
    kick(q);
    pthread_mutex_unlock(&q->mu);
}

static void interrupted(fuse_req_t req, void *user)
{
    struct vd_lockwait *q = user;
    struct vd_list *it;

    pthread_mutex_lock(&q->mu);
    vd_list_for_each (it, &q->waiting) {
        struct vd_lock_request *l = vd_list_entry(it, struct vd_lock_request, link);
        if (l->req == req) {
            l->interrupted = true;
            kick(q);
            break;
        }
    }
    pthread_mutex_unlock(&q->mu);
}

void vd__lockwait_add(struct vd_lockwait *q, struct vd_lock_request *l)
{
    fuse_req_interrupt_func(l->req, interrupted, q);
    pthread_mutex_lock(&q->mu);
    bool refuse = q->stop;
    if (!refuse) {
        l->interrupted = fuse_req_interrupted(l->req);
        vd_list_add_tail(&q->waiting, &l->link);
        q->nwaiting++;
        atomic_store(&q->any, q->nwaiting);
        kick(q); /* it may have been unlocked since L was tried */
    }
    pthread_mutex_unlock(&q->mu);
    if (refuse)
        finish(l, -EINTR);
}

void vd__lockwait_stop(struct vd_lockwait *q)
{
    pthread_mutex_lock(&q->mu);
    q->stop = true;
    bool join = !q->ended;
    q->ended = true;
    kick(q);
    pthread_mutex_unlock(&q->mu);
    if (join)
        pthread_join(q->thread, NULL);
}

void vd__lockwait_free(struct vd_lockwait *q)
{
    if (!q)
        return;
    vd__lockwait_stop(q);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->mu);
    free(q);
}

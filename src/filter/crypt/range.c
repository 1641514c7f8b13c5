// SPDX-License-Identifier: Apache-2.0
/*
 * How it is kept. Ranges that are held lie in an array, since it is searched for every request; those that
 * wait in a list. A range that waits knows how many before it, held or waiting, it conflicts with
 * (`blockers`): each of those takes one off when it goes, and at 0 the range is granted. What must hold:
 *
 *   - no two ranges that are held conflict;
 *   - a range conflicts with one held only if it came later. So whoever goes from the array is counted by
 *     every waiting range that conflicts with it, and whoever leaves the list by those behind it;
 *   - there is room in the array for all that wait, so granting never fails.
 *
 * A deferred request can be resumed from the moment its token is known. A range may be granted before:
 * then the one who defers it finds it held, and resumes it itself. Tokens are used with mu let go, since
 * a resume may run the request, which may come back here.
 */
#include "range.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

int range_lock_init(struct range_lock *l, struct vd_filter_disk *disk,
                    void (*failed)(struct range *r))
{
    pthread_condattr_t attr;
    *l = (struct range_lock){.disk = disk, .failed = failed, .room = 64};
    l->held = calloc(l->room, sizeof(*l->held));
    if (!l->held)
        return -ENOMEM;
    pthread_mutex_init(&l->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&l->granted, &attr);
    pthread_condattr_destroy(&attr);
    return 0;
}

void range_lock_destroy(struct range_lock *l)
{
    pthread_cond_destroy(&l->granted);
    pthread_mutex_destroy(&l->mu);
    free(l->held);
}

static bool overlap(const struct range *r, uint64_t first, uint64_t end)
{
    return r->first < end && first < r->end;
}

static bool conflict(const struct range *a, const struct range *b)
{
    return (a->exclusive || b->exclusive) && overlap(a, b->first, b->end);
}

/* ---- with mu held ---- */

static size_t count_blockers(const struct range_lock *l, const struct range *r)
{
    size_t n = 0;
    for (size_t i = 0; i < l->nheld; i++)
        if (overlap(r, l->held[i].first, l->held[i].end) && conflict(r, l->held[i].range))
            n++;
    for (const struct range *w = l->head; w; w = w->next)
        n += conflict(r, w);
    return n;
}

static int make_room(struct range_lock *l)
{
    if (l->nheld + l->nqueued < l->room)
        return 0;
    struct range_held *held = realloc(l->held, 2 * l->room * sizeof(*held));
    if (!held)
        return -ENOMEM;
    l->held = held;
    l->room *= 2;
    return 0;
}

static void hold(struct range_lock *l, struct range *r)
{
    r->state = RANGE_HELD;
    r->place = l->nheld;
    l->held[l->nheld++] = (struct range_held){.first = r->first, .end = r->end, .range = r};
}

static void let_go(struct range_lock *l, struct range *r)
{
    struct range_held *last = &l->held[--l->nheld];
    r->state = RANGE_IDLE;
    l->held[r->place] = *last;
    last->range->place = r->place;
}

static void enqueue(struct range_lock *l, struct range *r)
{
    r->state = RANGE_QUEUED;
    r->next = NULL;
    r->prev = l->tail;
    if (l->tail)
        l->tail->next = r;
    else
        l->head = r;
    l->tail = r;
    l->nqueued++;
    l->waited++;
}

static void dequeue(struct range_lock *l, struct range *r)
{
    if (r->prev)
        r->prev->next = r->next;
    else
        l->head = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        l->tail = r->prev;
    l->nqueued--;
}

/* R is gone: grants what waited for it alone, from FROM on. Those whose tokens are known are put before WAKE. */
static struct range *unblock(struct range_lock *l, const struct range *r, struct range *from,
                             struct range *wake)
{
    bool blocked = false;
    for (struct range *w = from, *next; w; w = next) {
        next = w->next;
        if (!conflict(w, r) || --w->blockers > 0)
            continue;
        dequeue(l, w);
        hold(l, w);
        if (w->has_token) {
            w->next = wake;
            wake = w;
        } else {
            blocked = true;
        }
    }
    if (blocked)
        pthread_cond_broadcast(&l->granted);
    return wake;
}

/* True: held. False: it waits. -ENOMEM in RET_ERROR: neither. */
static bool take(struct range_lock *l, struct range *r, int *ret_error)
{
    *ret_error = make_room(l);
    if (*ret_error < 0)
        return false;
    r->has_token = false;
    r->blockers = count_blockers(l, r);
    if (r->blockers == 0)
        hold(l, r);
    else
        enqueue(l, r);
    return r->blockers == 0;
}

/* ---- without ---- */

/* Resumes the requests of WAKE, whose ranges are held. One whose request the host has failed is dropped. */
static void resume(struct range_lock *l, struct range *wake)
{
    while (wake) {
        struct range *r = wake;
        wake = r->next;
        if (vd_filter_resume(l->disk, r->token, r->verdict, 0) == 0)
            continue; /* R may be gone */
        pthread_mutex_lock(&l->mu);
        let_go(l, r);
        wake = unblock(l, r, l->head, wake);
        pthread_mutex_unlock(&l->mu);
        l->failed(r);
    }
}

void range_drop(struct range_lock *l, struct range *r)
{
    struct range *wake = NULL;
    pthread_mutex_lock(&l->mu);
    let_go(l, r);
    if (l->head)
        wake = unblock(l, r, l->head, NULL);
    pthread_mutex_unlock(&l->mu);
    resume(l, wake);
}

/* R waits no longer. True: it was granted meanwhile. */
static bool give_up(struct range_lock *l, struct range *r)
{
    struct range *wake = NULL;
    pthread_mutex_lock(&l->mu);
    bool held = r->state == RANGE_HELD;
    if (!held) {
        struct range *behind = r->next;
        dequeue(l, r);
        r->state = RANGE_IDLE;
        wake = unblock(l, r, behind, NULL);
    }
    pthread_mutex_unlock(&l->mu);
    resume(l, wake);
    return held;
}

static void block(struct range_lock *l, struct range *r)
{
    pthread_mutex_lock(&l->mu);
    while (r->state != RANGE_HELD)
        pthread_cond_wait(&l->granted, &l->mu);
    pthread_mutex_unlock(&l->mu);
}

/* R waits, and RQ with it. */
static int defer(struct range_lock *l, struct range *r, struct vd_filter_request *rq, int verdict,
                 void *data)
{
    uint64_t token;
    if (vd_filter_defer(l->disk, rq, &token) < 0) {
        if (!(rq->flags & VD_FILTER_MAY_WAIT))
            return give_up(l, r) ? VD_FILTER_PASS : VD_FILTER_WAIT;
        block(l, r);
        return VD_FILTER_PASS;
    }
    if (data)
        rq->data = data;
    pthread_mutex_lock(&l->mu);
    r->token = token;
    r->verdict = verdict;
    r->has_token = true;
    bool held = r->state == RANGE_HELD;
    pthread_mutex_unlock(&l->mu);
    if (held) {
        r->next = NULL;
        resume(l, r);
    }
    return VD_FILTER_DEFER;
}

int range_enter(struct range_lock *l, struct range *r, struct vd_filter_request *rq, int verdict,
                void *data)
{
    int error;
    pthread_mutex_lock(&l->mu);
    bool held = take(l, r, &error);
    pthread_mutex_unlock(&l->mu);
    if (error < 0)
        return error;
    if (!held)
        return defer(l, r, rq, verdict, data);
    return VD_FILTER_PASS;
}

static struct timespec deadline(uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(ns / 1000000000u);
    t.tv_nsec += (long)(ns % 1000000000u);
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    return t;
}

int range_wait(struct range_lock *l, struct range *r, uint64_t timeout_ns)
{
    struct timespec until = deadline(timeout_ns == UINT64_MAX ? 0 : timeout_ns);
    int error, late = 0;
    pthread_mutex_lock(&l->mu);
    bool held = take(l, r, &error);
    while (error == 0 && r->state != RANGE_HELD && late == 0) {
        if (timeout_ns == UINT64_MAX)
            pthread_cond_wait(&l->granted, &l->mu);
        else
            late = pthread_cond_timedwait(&l->granted, &l->mu, &until);
    }
    held = error == 0 && r->state == RANGE_HELD;
    pthread_mutex_unlock(&l->mu);
    if (held)
        return 0;
    if (error < 0)
        return error;
    return give_up(l, r) ? 0 : -ETIMEDOUT;
}

uint64_t range_waited(struct range_lock *l)
{
    pthread_mutex_lock(&l->mu);
    uint64_t n = l->waited;
    pthread_mutex_unlock(&l->mu);
    return n;
}

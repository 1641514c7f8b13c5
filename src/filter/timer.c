// SPDX-License-Identifier: Apache-2.0
/*
 * Requests that are held for a time: a heap by due time, and one thread a mount that sleeps until the first is due. It resumes by token,
 * so an entry whose request is gone costs a look-up.
 */
#include <string.h>
#include <time.h>

#include "filter.h"
#include "vd_log.h"
#include "vd_time.h"

struct entry {
    uint64_t due_ns;
    uint64_t token;
    const struct vd_filtered *f; /* compared only */
};

struct vd__timer {
    struct vd_filters *fs;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    /* lock: mu */
    struct entry *heap;
    size_t n, room;
    uint64_t force_ns; /* when all that is held is failed; 0: never */
    bool running, stop;
    pthread_t thread;
};

static bool before(const struct entry *a, const struct entry *b)
{
    if (a->due_ns != b->due_ns)
        return a->due_ns < b->due_ns;
    return a->token < b->token; /* in the order in which they were deferred */
}

static void swap(struct entry *a, struct entry *b)
{
    struct entry t = *a;
    *a = *b;
    *b = t;
}

/* All of these with mu held. */
static void sift_up(struct vd__timer *t, size_t i)
{
    for (; i && before(&t->heap[i], &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&t->heap[i], &t->heap[(i - 1) / 2]);
}

static void sift_down(struct vd__timer *t, size_t i)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < t->n && before(&t->heap[child + 1], &t->heap[child]))
            child++;
        if (child >= t->n || !before(&t->heap[child], &t->heap[i]))
            return;
        swap(&t->heap[i], &t->heap[child]);
        i = child;
    }
}

static struct entry remove_at(struct vd__timer *t, size_t i)
{
    struct entry e = t->heap[i];
    t->heap[i] = t->heap[--t->n];
    if (i < t->n) {
        sift_down(t, i);
        sift_up(t, i);
    }
    return e;
}

static uint64_t next_ns(const struct vd__timer *t)
{
    uint64_t ns = t->n ? t->heap[0].due_ns : UINT64_MAX;
    return t->force_ns ? vd_min(ns, t->force_ns) : ns;
}

static void wait_until(struct vd__timer *t, uint64_t ns)
{
    struct timespec until = {.tv_sec = (time_t)(ns / 1000000000),
                             .tv_nsec = (long)(ns % 1000000000)};
    if (ns == UINT64_MAX)
        pthread_cond_wait(&t->changed, &t->mu);
    else
        pthread_cond_timedwait(&t->changed, &t->mu, &until);
}

static void force(struct vd__timer *t)
{
    t->force_ns = 0;
    pthread_mutex_unlock(&t->mu);
    unsigned n = vd__defer_fail_all(t->fs);
    if (n)
        vd_log_error("%u requests that filters held on to were failed, since the mount ends", n);
    pthread_mutex_lock(&t->mu);
}

static void *run(void *arg)
{
    struct vd__timer *t = arg;
    pthread_mutex_lock(&t->mu);
    while (!t->stop) {
        uint64_t now = vd_now_ns();
        if (t->n && t->heap[0].due_ns <= now) {
            struct entry e = remove_at(t, 0);
            pthread_mutex_unlock(&t->mu);
            (void)vd__resume(t->fs, NULL, e.token, VD_FILTER_PASS, 0);
            pthread_mutex_lock(&t->mu);
        } else if (t->force_ns && t->force_ns <= now) {
            force(t);
        } else {
            wait_until(t, next_ns(t));
        }
    }
    pthread_mutex_unlock(&t->mu);
    return NULL;
}

/* With mu held: the thread is made when it is first needed, since a program may fork before. */
static int start(struct vd__timer *t)
{
    if (t->running)
        return 0;
    int r = -pthread_create(&t->thread, NULL, run, t);
    t->running = r == 0;
    return r;
}

int vd__timer_new(struct vd_filters *fs, struct vd__timer **ret_t)
{
    struct vd__timer *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    pthread_condattr_t attr;
    t->fs = fs;
    pthread_mutex_init(&t->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->changed, &attr);
    pthread_condattr_destroy(&attr);
    *ret_t = t;
    return 0;
}

void vd__timer_free(struct vd__timer *t)
{
    if (!t)
        return;
    pthread_mutex_lock(&t->mu);
    t->stop = true;
    pthread_cond_signal(&t->changed);
    pthread_mutex_unlock(&t->mu);
    if (t->running)
        pthread_join(t->thread, NULL);
    pthread_cond_destroy(&t->changed);
    pthread_mutex_destroy(&t->mu);
    free(t->heap);
    free(t);
}

int vd__timer_add(struct vd__timer *t, struct vd_filtered *f, uint64_t token, uint64_t ns)
{
    uint64_t now = vd_now_ns();
    pthread_mutex_lock(&t->mu);
    int r = start(t);
    if (r == 0 && t->n == t->room) {
        size_t room = t->room ? 2 * t->room : 64;
        struct entry *heap = realloc(t->heap, room * sizeof(*heap));
        if (heap) {
            t->heap = heap;
            t->room = room;
        } else {
            r = -ENOMEM;
        }
    }
    if (r == 0) {
        uint64_t due = ns > UINT64_MAX / 2 ? UINT64_MAX - 1 : now + ns;
        t->heap[t->n++] = (struct entry){.due_ns = due, .token = token, .f = f};
        sift_up(t, t->n - 1);
        if (t->heap[0].token == token)
            pthread_cond_signal(&t->changed);
    }
    pthread_mutex_unlock(&t->mu);
    return r;
}

/* With mu held: where the first of F is, or n. */
static size_t first_of(const struct vd__timer *t, const struct vd_filtered *f)
{
    size_t first = t->n;
    for (size_t i = 0; i < t->n; i++)
        if (t->heap[i].f == f && (first == t->n || before(&t->heap[i], &t->heap[first])))
            first = i;
    return first;
}

void vd__timer_fire(struct vd__timer *t, struct vd_filtered *f)
{
    size_t i;
    pthread_mutex_lock(&t->mu);
    while ((i = first_of(t, f)) < t->n) {
        struct entry e = remove_at(t, i);
        pthread_mutex_unlock(&t->mu);
        (void)vd__resume(t->fs, NULL, e.token, VD_FILTER_PASS, 0);
        pthread_mutex_lock(&t->mu);
    }
    pthread_mutex_unlock(&t->mu);
}

void vd__timer_force(struct vd__timer *t, uint64_t ns)
{
    pthread_mutex_lock(&t->mu);
    if (start(t) == 0) {
        t->force_ns = vd_now_ns() + ns;
        pthread_cond_signal(&t->changed);
    }
    pthread_mutex_unlock(&t->mu);
}

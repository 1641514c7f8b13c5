// SPDX-License-Identifier: Apache-2.0
/*
 * A job is in the list from its start until it is forgotten: KEEP_MS after its end, or when more
 * than KEEP_MAX have ended since. Its thread is joined then.
 *
 * Locks: jobs->mu for the list and for how jobs ended, never over work or a wait. Progress and the
 * wish to cancel are atomic.
 */
#include "jobs.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "vd_list.h"
#include "vd_time.h"

#define RUNNING_MAX 16u
#define KEEP_MAX 256u
#define KEEP_MS (10u * 60 * 1000)

struct vd_jobs_running {
    struct vd_list link; /* lock: jobs->mu */
    struct vd_jobs *jobs;
    struct vd_jobs_work *work; /* NULL: ended; lock: jobs->mu */
    pthread_t thread;
    uint64_t id;
    const char *what;
    atomic_ullong done, total;
    atomic_bool cancel;
    /* lock: jobs->mu */
    uint64_t ended_ms;
    int error;
    char why[VD_META_WHY];
};

struct vd_jobs {
    pthread_mutex_t mu;
    /* lock: mu */
    struct vd_list list; /* oldest first */
    uint64_t last_id;
    unsigned nrunning;
    bool stopping;
};

int vd_jobs_new(struct vd_jobs **ret_jobs)
{
    struct vd_jobs *jobs = calloc(1, sizeof(*jobs));
    if (!jobs)
        return -ENOMEM;
    pthread_mutex_init(&jobs->mu, NULL);
    vd_list_init(&jobs->list);
    *ret_jobs = jobs;
    return 0;
}

int vd_jobs_progress(void *user, uint64_t done, uint64_t total)
{
    struct vd_jobs_running *j = user;
    atomic_store_explicit(&j->done, done, memory_order_relaxed);
    atomic_store_explicit(&j->total, total, memory_order_relaxed);
    return atomic_load_explicit(&j->cancel, memory_order_relaxed) ? -ECANCELED : 0;
}

static void *run_thread(void *arg)
{
    struct vd_jobs_running *j = arg;
    struct vd_jobs *jobs = j->jobs;
    char why[VD_META_WHY] = "";

    pthread_mutex_lock(&jobs->mu);
    struct vd_jobs_work *w = j->work;
    pthread_mutex_unlock(&jobs->mu);
    int r = w->run(w, j, why);
    pthread_mutex_lock(&jobs->mu);
    j->work = NULL;
    j->error = vd_min(r, 0);
    memcpy(j->why, why, sizeof(why));
    j->ended_ms = vd_now_ms();
    jobs->nrunning--;
    pthread_mutex_unlock(&jobs->mu);
    w->free(w);
    return NULL;
}

/* With mu held: takes those out of the list that are to be forgotten. */
static void take_forgotten(struct vd_jobs *jobs, struct vd_list *ret_forgotten)
{
    struct vd_list *it, *next;
    uint64_t now_ms = vd_now_ms();
    unsigned nended = 0;

    vd_list_init(ret_forgotten);
    vd_list_for_each (it, &jobs->list)
        nended += !vd_list_entry(it, struct vd_jobs_running, link)->work;
    vd_list_for_each_safe (it, next, &jobs->list) {
        struct vd_jobs_running *j = vd_list_entry(it, struct vd_jobs_running, link);
        if (j->work || (now_ms - j->ended_ms < KEEP_MS && nended <= KEEP_MAX))
            continue;
        nended--;
        vd_list_del(&j->link);
        vd_list_add_tail(ret_forgotten, &j->link);
    }
}

static void join_all(struct vd_list *list)
{
    while (!vd_list_empty(list)) {
        struct vd_jobs_running *j = vd_list_entry(list->next, struct vd_jobs_running, link);
        vd_list_del(&j->link);
        pthread_join(j->thread, NULL);
        free(j);
    }
}

/* With mu held. */
static struct vd_jobs_running *find(struct vd_jobs *jobs, uint64_t id)
{
    struct vd_list *it;
    vd_list_for_each (it, &jobs->list) {
        struct vd_jobs_running *j = vd_list_entry(it, struct vd_jobs_running, link);
        if (j->id == id)
            return j;
    }
    return NULL;
}

/* With mu held. */
static struct vd_jobs_running *find_same(struct vd_jobs *jobs, const struct vd_jobs_work *w)
{
    struct vd_list *it;
    vd_list_for_each (it, &jobs->list) {
        struct vd_jobs_running *j = vd_list_entry(it, struct vd_jobs_running, link);
        if (j->work && j->work->dev == w->dev && j->work->ino == w->ino &&
            strcmp(j->what, w->what) == 0)
            return j;
    }
    return NULL;
}

/* With mu held: so the new thread finds its job in the list. */
static int start(struct vd_jobs *jobs, struct vd_jobs_work *w, uint64_t *ret_id)
{
    struct vd_jobs_running *same = find_same(jobs, w);
    if (same) {
        *ret_id = same->id;
        return -EBUSY;
    }
    if (jobs->stopping)
        return -ESHUTDOWN;
    if (jobs->nrunning >= RUNNING_MAX)
        return -EAGAIN;
    struct vd_jobs_running *j = calloc(1, sizeof(*j));
    if (!j)
        return -ENOMEM;
    j->jobs = jobs;
    j->work = w;
    j->what = w->what;
    j->id = jobs->last_id + 1;
    int r = pthread_create(&j->thread, NULL, run_thread, j);
    if (r != 0) {
        free(j);
        return -r;
    }
    *ret_id = jobs->last_id = j->id;
    jobs->nrunning++;
    vd_list_add_tail(&jobs->list, &j->link);
    return 0;
}

int vd_jobs_start(struct vd_jobs *jobs, struct vd_jobs_work *w, uint64_t *ret_id)
{
    struct vd_list forgotten;
    pthread_mutex_lock(&jobs->mu);
    take_forgotten(jobs, &forgotten);
    int r = start(jobs, w, ret_id);
    pthread_mutex_unlock(&jobs->mu);
    join_all(&forgotten);
    return r;
}

int vd_jobs_get(struct vd_jobs *jobs, uint64_t id, struct vd_jobs_status *ret_s)
{
    struct vd_list forgotten;
    pthread_mutex_lock(&jobs->mu);
    take_forgotten(jobs, &forgotten);
    struct vd_jobs_running *j = find(jobs, id);
    if (j) {
        *ret_s = (struct vd_jobs_status){
            .state = j->work    ? VD_JOBS_RUNNING
                     : j->error ? VD_JOBS_FAILED
                                : VD_JOBS_DONE,
            .what = j->what,
            .done = atomic_load(&j->done),
            .total = atomic_load(&j->total),
            .error = j->error,
        };
        memcpy(ret_s->why, j->why, sizeof(j->why));
    }
    pthread_mutex_unlock(&jobs->mu);
    join_all(&forgotten);
    return j ? 0 : -ENOENT;
}

int vd_jobs_cancel(struct vd_jobs *jobs, uint64_t id)
{
    pthread_mutex_lock(&jobs->mu);
    struct vd_jobs_running *j = find(jobs, id);
    if (j)
        atomic_store(&j->cancel, true);
    pthread_mutex_unlock(&jobs->mu);
    return j ? 0 : -ENOENT;
}

void vd_jobs_stop(struct vd_jobs *jobs)
{
    struct vd_list *it;
    pthread_mutex_lock(&jobs->mu);
    jobs->stopping = true;
    vd_list_for_each (it, &jobs->list)
        atomic_store(&vd_list_entry(it, struct vd_jobs_running, link)->cancel, true);
    pthread_mutex_unlock(&jobs->mu);
}

void vd_jobs_free(struct vd_jobs *jobs)
{
    if (!jobs)
        return;
    vd_jobs_stop(jobs);
    join_all(&jobs->list); /* nobody else touches the list any more */
    pthread_mutex_destroy(&jobs->mu);
    free(jobs);
}

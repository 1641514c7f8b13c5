// SPDX-License-Identifier: Apache-2.0
/* Lanes under load, with a backing that hangs; the file backend with odd requests. */
#include <check.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "vd_backing.h"

/* A gate that jobs wait at: a backing that hangs, as far as a lane can tell. */
struct gate {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    bool open;
    unsigned waiting, passed;
};

static void gate_init(struct gate *g)
{
    *g = (struct gate){0};
    pthread_mutex_init(&g->mu, NULL);
    pthread_cond_init(&g->changed, NULL);
}

static void gate_pass(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    g->waiting++;
    pthread_cond_broadcast(&g->changed);
    while (!g->open)
        pthread_cond_wait(&g->changed, &g->mu);
    g->waiting--;
    g->passed++;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mu);
}

static void gate_open(struct gate *g)
{
    pthread_mutex_lock(&g->mu);
    g->open = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->mu);
}

static void gate_await_waiting(struct gate *g, unsigned n)
{
    pthread_mutex_lock(&g->mu);
    while (g->waiting < n)
        pthread_cond_wait(&g->changed, &g->mu);
    pthread_mutex_unlock(&g->mu);
}

struct gate_job {
    struct vd_job job;
    struct gate *gate;
};

static void run_gate(struct vd_job *job)
{
    gate_pass(vd_container_of(job, struct gate_job, job)->gate);
}

START_TEST(hung_lane_stops_itself_only)
{
    struct vd_lanes *lanes;
    struct vd_lane *hung, *well;
    struct gate shut, open;
    gate_init(&shut);
    gate_init(&open);
    gate_open(&open);
    ck_assert_int_eq(vd_lanes_new(16, &lanes), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &hung), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &well), 0);
    struct gate_job a[20], b[20];
    for (int i = 0; i < 20; i++) {
        a[i] = (struct gate_job){.job.run = run_gate, .gate = &shut};
        b[i] = (struct gate_job){.job.run = run_gate, .gate = &open};
        vd_lane_queue(hung, &a[i].job);
    }
    gate_await_waiting(&shut, 4); /* its threads are used up */
    for (int i = 0; i < 20; i++)
        vd_lane_queue(well, &b[i].job);
    vd_lane_close(well); /* waits for all of them */
    ck_assert_uint_eq(open.passed, 20);
    ck_assert_uint_eq(shut.passed, 0);
    ck_assert_uint_eq(shut.waiting, 4);
    gate_open(&shut);
    vd_lane_close(hung);
    ck_assert_uint_eq(shut.passed, 20);
    vd_lanes_free(lanes);
}
END_TEST

START_TEST(workers_budget)
{
    struct vd_lanes *lanes;
    struct vd_lane *a, *b;
    ck_assert_int_eq(vd_lanes_new(3, &lanes), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &a), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &b), 0);
    unsigned na = 0, nb = 0;
    uint64_t t;
    while (na < 100 && vd_lane_enter(a, &t))
        na++;
    while (nb < 100 && vd_lane_enter(b, &t))
        nb++;
    ck_assert_uint_lt(na, 3); /* one lane does not take it all */
    ck_assert_uint_eq(na + nb, 3);
    ck_assert(!vd_lane_enter(a, &t));
    vd_lane_leave(b, t);
    ck_assert(vd_lane_enter(b, &t));
    for (unsigned i = 0; i < na; i++)
        vd_lane_leave(a, t);
    ck_assert(vd_lane_enter(a, &t));
    vd_lane_leave(a, t);
    for (unsigned i = 0; i < nb; i++)
        vd_lane_leave(b, t);
    vd_lane_close(a);
    vd_lane_close(b);
    vd_lanes_free(lanes);
}
END_TEST

struct count_job {
    struct vd_job job;
    atomic_uint *n;
};

static void run_count(struct vd_job *job)
{
    struct count_job *c = vd_container_of(job, struct count_job, job);
    atomic_fetch_add(c->n, 1);
    free(c);
}

struct feeder {
    struct vd_lane *lane;
    atomic_uint *n;
};

static void *feed(void *arg)
{
    struct feeder *f = arg;
    for (int i = 0; i < 5000; i++) {
        struct count_job *c = calloc(1, sizeof(*c));
        c->job.run = run_count;
        c->n = f->n;
        vd_lane_queue(f->lane, &c->job);
    }
    return NULL;
}

START_TEST(every_job_runs_once)
{
    struct vd_lanes *lanes;
    struct vd_lane *lane;
    atomic_uint n = 0;
    ck_assert_int_eq(vd_lanes_new(4, &lanes), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 8, &lane), 0);
    pthread_t t[4];
    struct feeder f = {.lane = lane, .n = &n};
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, feed, &f), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    vd_lane_close(lane);
    ck_assert_uint_eq(n, 20000);
    vd_lanes_free(lanes);
}
END_TEST

/* Work queued while a worker is caught inside a lane that was fast until then. */
START_TEST(stuck_worker_does_not_hold_the_queue)
{
    struct vd_lanes *lanes;
    struct vd_lane *lane;
    struct gate open;
    uint64_t began;
    gate_init(&open);
    gate_open(&open);
    ck_assert_int_eq(vd_lanes_new(4, &lanes), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &lane), 0);
    ck_assert(vd_lane_enter(lane, &began));
    struct gate_job jobs[50];
    for (int i = 0; i < 50; i++) {
        jobs[i] = (struct gate_job){.job.run = run_gate, .gate = &open};
        vd_lane_queue(lane, &jobs[i].job);
    }
    pthread_mutex_lock(&open.mu);
    while (open.passed < 50) /* nobody leaves the lane meanwhile */
        pthread_cond_wait(&open.changed, &open.mu);
    pthread_mutex_unlock(&open.mu);
    vd_lane_leave(lane, began);
    vd_lane_close(lane);
    vd_lanes_free(lanes);
}
END_TEST

struct worker {
    struct vd_lane *lane;
    atomic_uint *n;
};

static void *work_inline(void *arg)
{
    struct worker *w = arg;
    uint64_t began;
    for (int i = 0; i < 20000; i++) {
        if (vd_lane_enter(w->lane, &began)) {
            atomic_fetch_add(w->n, 1);
            vd_lane_leave(w->lane, began);
            continue;
        }
        struct count_job *c = calloc(1, sizeof(*c));
        c->job.run = run_count;
        c->n = w->n;
        vd_lane_queue(w->lane, &c->job);
    }
    return NULL;
}

START_TEST(inline_and_queued_work_is_done_once)
{
    struct vd_lanes *lanes;
    struct vd_lane *lane;
    atomic_uint n = 0;
    ck_assert_int_eq(vd_lanes_new(4, &lanes), 0);
    ck_assert_int_eq(vd_lane_open(lanes, 4, &lane), 0);
    pthread_t t[6];
    struct worker w = {lane, &n};
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, work_inline, &w), 0);
    for (int i = 0; i < 6; i++)
        pthread_join(t[i], NULL);
    vd_lane_close(lane);
    ck_assert_uint_eq(n, 120000);
    vd_lanes_free(lanes);
}
END_TEST

START_TEST(file_backend)
{
    char path[] = "/tmp/vd-backing-XXXXXX";
    int fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 10000), 0);
    for (int direct = 0; direct < 2; direct++) {
        struct vd_backing *b;
        ck_assert_int_eq(vd_backing_file_open(fd, true, direct, &b), 0);
        ck_assert(b->writable);
        char *buf = aligned_alloc(4096, 16384);
        memset(buf, 'a' + direct, 16384);
        ck_assert_int_eq(vd_backing_pwrite(b, buf, 4096, 4096), 4096);
        ck_assert_int_eq(vd_backing_pwrite(b, buf + 1, 100, 9900), 100);
        memset(buf, 0, 16384);
        ck_assert_int_eq(vd_backing_pread(b, buf, 16384, 0), 10000);
        ck_assert_int_eq(buf[4096], 'a' + direct);
        ck_assert_int_eq(buf[9999], 'a' + direct);
        ck_assert_int_eq(vd_backing_zero(b, VD_ZERO_PUNCH, 4096, 4096), 0);
        ck_assert_int_eq(vd_backing_pread(b, buf, 1, 5000), 1);
        ck_assert_int_eq(buf[0], 0);
        ck_assert_int_eq(vd_backing_pread(b, buf, 10, 20000), 0);
        ck_assert_int_eq(vd_backing_seek(b, 10000, SEEK_DATA), -ENXIO);
        ck_assert_int_eq(vd_backing_sync(b, true), 0);
        vd_backing_close(b);
        free(buf);
    }
    struct vd_backing *b = NULL;
    int dir = open("/tmp", O_PATH | O_CLOEXEC);
    ck_assert_int_lt(vd_backing_file_open(dir, false, false, &b), 0);
    ck_assert_ptr_null(b);
    close(dir);
    close(fd);
    unlink(path);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("backing");
    TCase *t = tcase_create("backing");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, hung_lane_stops_itself_only);
    tcase_add_test(t, workers_budget);
    tcase_add_test(t, every_job_runs_once);
    tcase_add_test(t, stuck_worker_does_not_hold_the_queue);
    tcase_add_test(t, inline_and_queued_work_is_done_once);
    tcase_add_test(t, file_backend);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

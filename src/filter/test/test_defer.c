// SPDX-License-Identifier: Apache-2.0
/* Requests that filters hold: resumed from other threads, out of order, twice, too late, or never. */
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "disk.h"

#define MANY 300

static struct {
    pthread_mutex_t mu;
    struct {
        struct vd_filter_disk *disk;
        uint64_t token;
    } held[MANY];
    unsigned n;
    bool refuse; /* only pass */
} box = {.mu = PTHREAD_MUTEX_INITIALIZER};

static int holding(const struct hook_args *a)
{
    uint64_t token;
    if (a->call != HOOK_SUBMIT || box.refuse)
        return 0;
    int r = vd_filter_defer(a->disk, a->rq, &token);
    if (r == -ESHUTDOWN)
        return VD_FILTER_PASS;
    if (r < 0)
        return r;
    pthread_mutex_lock(&box.mu);
    box.held[box.n].disk = a->disk;
    box.held[box.n++].token = token;
    pthread_mutex_unlock(&box.mu);
    return VD_FILTER_DEFER;
}

static atomic_uint ended, failed;

static void one_ended(void *user, ssize_t result, const void *data)
{
    if (result < 0)
        failed++;
    ended++;
}

static void wait_for(atomic_uint *n, unsigned want)
{
    for (int i = 0; atomic_load(n) != want; i++) {
        ck_assert_msg(i < 20000, "%u of %u", atomic_load(n), want);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static void begin(struct test_disk *d, hook_fn *fn)
{
    disk_open(d);
    box.n = 0;
    box.refuse = false;
    ended = failed = 0;
    disk_add_hook(d, "hook0", fn);
    disk_apply(d);
}

struct resumer {
    atomic_uint seed;
    atomic_uint resumed, stale;
};

/* Several threads resume all, each of them everything: of each request one comes first. */
static void *resume_all(void *arg)
{
    struct resumer *r = arg;
    unsigned seed = r->seed++;
    for (unsigned i = 0; i < MANY; i++) {
        unsigned k = (i * 7919u + seed * 104729u) % MANY;
        int e = vd_filter_resume(box.held[k].disk, box.held[k].token,
                                 k % 5 == 0 ? -EDQUOT : VD_FILTER_PASS, 0);
        if (e == 0)
            r->resumed++;
        else if (e == -ESTALE)
            r->stale++;
    }
    return NULL;
}

START_TEST(test_out_of_order)
{
    struct test_disk *d = malloc(sizeof(*d));
    struct resumer r = {0};
    pthread_t t[4];
    begin(d, holding);
    for (unsigned i = 0; i < MANY; i++)
        disk_submit(d, i % 2 ? VD_FILTER_READ : VD_FILTER_WRITE, i * 8, i % 2 ? NULL : "deferred",
                    8, one_ended, NULL);
    ck_assert_uint_eq(box.n, MANY);
    ck_assert_uint_eq(vd_filters_inflight(d->fs), MANY);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, resume_all, &r), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    wait_for(&ended, MANY);
    ck_assert_uint_eq(r.resumed, MANY);
    ck_assert_uint_eq(r.stale, 3 * MANY);
    ck_assert_uint_eq(failed, MANY / 5);
    ck_assert_int_eq(memcmp(d->bytes + 16, "deferred", 8), 0);
    ck_assert_uint_eq(vd_filters_inflight(d->fs), 0);
    disk_close(d);
    ck_assert_uint_eq(ended, MANY);
    free(d);
}
END_TEST

/* Resumed before its submit has returned. */
static void *resume_one(void *arg)
{
    const struct hook_args *a = arg;
    uint64_t *token = a->rq->self_data;
    vd_filter_resume(a->disk, *token, VD_FILTER_PASS, 0);
    return NULL;
}

static int too_early(const struct hook_args *a)
{
    static _Thread_local uint64_t token;
    pthread_t t;
    if (a->call != HOOK_SUBMIT)
        return 0;
    if (vd_filter_defer(a->disk, a->rq, &token) < 0)
        return VD_FILTER_PASS;
    a->rq->self_data = &token;
    if (pthread_create(&t, NULL, resume_one, (void *)(uintptr_t)a) == 0)
        pthread_join(t, NULL);
    return VD_FILTER_DEFER;
}

START_TEST(test_too_early)
{
    struct test_disk *d = malloc(sizeof(*d));
    begin(d, too_early);
    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(disk_write(d, 0, "early", 5), 5);
    ck_assert_int_eq(memcmp(d->bytes, "early", 5), 0);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- for a time ---- */

static unsigned order[MANY], norder;

static int timed(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT)
        return 0;
    return vd_filter_defer_for(a->disk, a->rq, a->rq->offset * 1000000) == 0 ? VD_FILTER_DEFER
                                                                             : VD_FILTER_PASS;
}

static void note_order(void *user, ssize_t result, const void *data)
{
    pthread_mutex_lock(&box.mu);
    order[norder++] = (unsigned)(uintptr_t)user;
    pthread_mutex_unlock(&box.mu);
    ended++;
}

START_TEST(test_timed)
{
    struct test_disk *d = malloc(sizeof(*d));
    begin(d, timed);
    norder = 0;
    static const unsigned ms[] = {200, 1, 100, 1};
    for (uintptr_t i = 0; i < 4; i++)
        disk_submit(d, VD_FILTER_FLUSH, ms[i], NULL, 0, note_order, (void *)i);
    wait_for(&ended, 4);
    /* an hour, and two, and then the disk drains */
    for (int i = 0; i < 100; i++)
        disk_submit(d, VD_FILTER_FLUSH, 3600000u + (unsigned)i, NULL, 0, one_ended, NULL);
    ck_assert_uint_eq(ended, 4);
    disk_apply(d);
    wait_for(&ended, 104);
    ck_assert_uint_eq(failed, 0);
    for (int i = 0; i < 100; i++)
        disk_submit(d, VD_FILTER_FLUSH, 3600000u, NULL, 0, one_ended, NULL);
    disk_close(d);
    ck_assert_uint_eq(ended, 204);
    free(d);
}
END_TEST

static int for_ever(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || vd_filter_defer_for(a->disk, a->rq, UINT64_MAX) < 0)
        return 0;
    return VD_FILTER_DEFER;
}

/* What is due at one time goes in the order in which it came; here one thread serves it. */
START_TEST(test_in_order)
{
    struct test_disk *d = malloc(sizeof(*d));
    disk_open_threads(d, 1);
    norder = 0;
    ended = 0;
    disk_add_hook(d, "hook0", for_ever);
    disk_apply(d);
    for (uintptr_t i = 0; i < 100; i++)
        disk_submit(d, VD_FILTER_FLUSH, 0, NULL, 0, note_order, (void *)i);
    ck_assert_uint_eq(ended, 0);
    disk_apply(d); /* drains */
    wait_for(&ended, 100);
    for (unsigned i = 0; i < 100; i++)
        ck_assert_uint_eq(order[i], i);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- never ---- */

START_TEST(test_forced)
{
    struct test_disk *d = malloc(sizeof(*d));
    char name[VD_FILTER_NAME_MAX + 1];
    begin(d, holding);
    for (int i = 0; i < 20; i++)
        disk_submit(d, VD_FILTER_WRITE, 0, "x", 1, one_ended, NULL);
    ck_assert_uint_eq(vd_filtered_force(d->f, name), 20);
    ck_assert_str_eq(name, "hook0");
    wait_for(&ended, 20);
    ck_assert_uint_eq(failed, 20);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(vd_filter_resume(box.held[i].disk, box.held[i].token, VD_FILTER_PASS, 0),
                         -ESTALE);
    ck_assert_uint_eq(vd_filtered_force(d->f, name), 0);
    ck_assert_uint_eq(d->writes, 0);
    disk_close(d);
    ck_assert_uint_eq(ended, 20);
    free(d);
}
END_TEST

/* The mount ends, and the filter does not let go. */
START_TEST(test_stopping)
{
    struct test_disk *d = malloc(sizeof(*d));
    begin(d, holding);
    for (int i = 0; i < 20; i++)
        disk_submit(d, VD_FILTER_WRITE, 0, "x", 1, one_ended, NULL);
    vd_filters_stopping(d->fs, 20);
    wait_for(&ended, 20);
    ck_assert_uint_eq(failed, 20);
    ck_assert_int_eq(disk_write(d, 0, "y", 1), 1); /* what comes now is not held */
    disk_close(d);
    free(d);
}
END_TEST

/* ---- mistakes, and a filter above that waits for one below ---- */

static int mistaken(const struct hook_args *a)
{
    uint64_t token;
    if (a->call != HOOK_SUBMIT)
        return 0;
    switch (a->rq->offset) {
    case 0:
        return VD_FILTER_DEFER; /* without a token */
    case 1:
        return 77;
    case 2: /* held, and passed all the same */
        ck_assert_int_eq(vd_filter_defer(a->disk, a->rq, &token), 0);
        return VD_FILTER_PASS;
    case 3: /* twice */
        ck_assert_int_eq(vd_filter_defer(a->disk, a->rq, &token), 0);
        ck_assert_int_eq(vd_filter_defer(a->disk, a->rq, &token), -EINVAL);
        ck_assert_int_eq(vd_filter_resume(a->disk, token, 99, 0), -EINVAL);
        ck_assert_int_eq(vd_filter_resume(a->disk, token + 1, 0, 0), -ESTALE);
        ck_assert_int_eq(vd_filter_resume(a->disk, token, 0, 0), 0);
        return VD_FILTER_DEFER;
    default:
        a->rq->result = 1000; /* more than was asked for */
        return VD_FILTER_COMPLETE;
    }
}

static int state_of(void *user, const struct vd_filter_report *r)
{
    *(enum vd_filter_state *)user = r->state;
    return 0;
}

START_TEST(test_mistakes)
{
    static const ssize_t want[] = {-EIO, -EIO, 1, 1, -EIO};
    struct test_disk *d = malloc(sizeof(*d));
    char byte = 1;
    begin(d, mistaken);
    ssize_t n = disk_do(d, VD_FILTER_WRITE, (uint64_t)_i, &byte, 1);
    ck_assert_int_eq(n, want[_i]);
    enum vd_filter_state state;
    ck_assert_int_eq(vd_filtered_each(d->f, false, state_of, &state), 0);
    ck_assert_int_eq(state, _i < 2 ? VD_FILTER_QUARANTINED : VD_FILTER_ACTIVE);
    disk_close(d);
    free(d);
}
END_TEST

/* hook0 reads below itself; hook3, below, holds each read for a time. All threads of the pool wait at once. */
static int waiting(const struct hook_args *a)
{
    char byte;
    if (a->call != HOOK_SUBMIT)
        return 0;
    if (a->name[4] == '3')
        return vd_filter_defer_for(a->disk, a->rq, 2000000) == 0 ? VD_FILTER_DEFER : VD_FILTER_PASS;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    return vd_filter_read(a->disk, &byte, 0, 1) == 1 ? VD_FILTER_PASS : -EIO;
}

START_TEST(test_waiting)
{
    struct test_disk *d = malloc(sizeof(*d));
    begin(d, waiting);
    disk_add_hook(d, "hook3", waiting);
    disk_apply(d);
    for (int i = 0; i < 100; i++)
        disk_submit(d, VD_FILTER_WRITE, 0, "x", 1, one_ended, NULL);
    wait_for(&ended, 100);
    ck_assert_uint_eq(failed, 0);
    disk_close(d);
    free(d);
}
END_TEST

void add_defer_tests(Suite *s)
{
    TCase *t = tcase_create("defer");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_out_of_order);
    tcase_add_test(t, test_too_early);
    tcase_add_test(t, test_timed);
    tcase_add_test(t, test_in_order);
    tcase_add_test(t, test_forced);
    tcase_add_test(t, test_stopping);
    tcase_add_loop_test(t, test_mistakes, 0, 5);
    tcase_add_test(t, test_waiting);
    suite_add_tcase(s, t);
}

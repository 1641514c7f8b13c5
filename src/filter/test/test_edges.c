// SPDX-License-Identifier: Apache-2.0
/* The edges of the contract: services at a detach, the data of a write in done, filters that lie, are forced, drained or gone. */
#include <sched.h>
#include <string.h>
#include <time.h>

#include "disk.h"

static char last_log[512];

static void invert(uint8_t *to, const uint8_t *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        to[i] = (uint8_t)~from[i];
}

static const char secret[] = "nobody below may see this";

/* hook0: writes back what it has kept when it is detached */
static int writing_back(const struct hook_args *a)
{
    if (a->call == HOOK_DETACH)
        ck_assert_int_eq(vd_filter_write(a->disk, secret, 4096, sizeof(secret)), sizeof(secret));
    return 0;
}

/* A user detaches one of two; or the disk is closed: what a `detach` writes goes through those below. */
START_TEST(detach_writes)
{
    struct test_disk *d = malloc(sizeof(*d));
    char got[sizeof(secret)];
    disk_open(d);
    disk_add_hook(d, "hook6", hook_inverting);
    disk_add_hook(d, "hook0", writing_back);
    disk_apply(d);
    if (_i == 0) {
        d->nspecs = 1;
        disk_apply(d);
        ck_assert_int_eq(disk_read(d, 4096, got, sizeof(got)), sizeof(got));
        ck_assert_int_eq(memcmp(got, secret, sizeof(got)), 0);
    }
    disk_close(d);
    ck_assert_msg(memcmp(d->bytes + 4096, secret, sizeof(secret)) != 0, "it is there in plain");
    invert((uint8_t *)got, d->bytes + 4096, sizeof(got));
    ck_assert_int_eq(memcmp(got, secret, sizeof(got)), 0);
    free(d);
}
END_TEST

/* ---- a thread of a filter's, until its detach has returned ---- */

static pthread_t thread;
static atomic_bool enough;
static atomic_uint wrong, rounds;
static struct vd_filter_disk *thread_disk;

static void *reads_on(void *arg)
{
    char got[sizeof(secret)];
    while (!atomic_load(&enough)) {
        int64_t n = vd_filter_read(thread_disk, got, 4096, sizeof(got));
        if (n == (int64_t)sizeof(got)) {
            rounds++;
            if (memcmp(got, secret, sizeof(got)) != 0)
                wrong++;
        }
    }
    return NULL;
}

static int with_thread(const struct hook_args *a)
{
    if (a->call == HOOK_START) {
        thread_disk = a->disk;
        atomic_store(&enough, false);
        pthread_create(&thread, NULL, reads_on, NULL);
    } else if (a->call == HOOK_DETACH) {
        unsigned before = rounds;
        for (int i = 0; rounds < before + 100 && i < 1000; i++)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        atomic_store(&enough, true);
        pthread_join(thread, NULL);
    }
    return 0;
}

START_TEST(detach_reads)
{
    struct test_disk *d = malloc(sizeof(*d));
    disk_open(d);
    wrong = rounds = 0;
    disk_add_hook(d, "hook6", hook_inverting);
    disk_apply(d);
    ck_assert_int_eq(disk_write(d, 4096, secret, sizeof(secret)), sizeof(secret));
    disk_add_hook(d, "hook0", with_thread);
    disk_apply(d);
    d->nspecs = 1;
    disk_apply(d);
    ck_assert_uint_gt(rounds, 0);
    ck_assert_uint_eq(wrong, 0);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- the data of a write, in done ---- */

static atomic_uint same, other;
static uint8_t want[512];

static int looking(const struct hook_args *a)
{
    uint64_t token;
    if (a->call == HOOK_DONE && a->rq->op == VD_FILTER_WRITE && strcmp(a->name, "hook0") == 0) {
        if (a->rq->data && memcmp(a->rq->data, want, sizeof(want)) == 0)
            same++;
        else
            other++;
    }
    if (a->call == HOOK_SUBMIT && strcmp(a->name, "hook9") == 0) {
        if (vd_filter_defer_for(a->disk, a->rq, 20000000) == 0)
            return VD_FILTER_DEFER;
    }
    (void)token;
    return 0;
}

static void post(void *user, ssize_t result, const void *data)
{
    atomic_store((atomic_bool *)user, true);
}

START_TEST(data_in_done)
{
    struct test_disk *d = malloc(sizeof(*d));
    atomic_bool ended = false;
    uint8_t *mine = malloc(sizeof(want));
    memset(want, 'w', sizeof(want));
    memcpy(mine, want, sizeof(want));
    disk_open(d);
    same = other = 0;
    disk_add_hook(d, "hook0", looking);
    if (_i == 1) /* one below defers it */
        disk_add_hook(d, "hook9", looking);
    disk_apply(d);
    atomic_store(&d->on_threads, true);
    pthread_mutex_lock(&d->mu); /* not yet served */
    disk_submit(d, VD_FILTER_WRITE, 0, mine, sizeof(want), post, &ended);
    memset(mine, 'x', sizeof(want)); /* the caller's again, who writes the next one into it */
    free(mine);
    pthread_mutex_unlock(&d->mu);
    while (!atomic_load(&ended))
        sched_yield();
    ck_assert_int_eq(memcmp(d->bytes, want, sizeof(want)), 0);
    ck_assert_uint_eq(other, 0);
    ck_assert_uint_eq(same, 1);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- a lower filter that lies ---- */

static atomic_int seen;

static int lying(const struct hook_args *a)
{
    if (a->call == HOOK_SUBMIT && strcmp(a->name, "hook9") == 0) {
        a->rq->result = 8;
        return VD_FILTER_COMPLETE; /* of a read, without data */
    }
    if (a->call == HOOK_DONE && strcmp(a->name, "hook6") == 0)
        atomic_store(&seen, a->rq->result > 0 && !a->rq->data ? -1 : 1);
    return 0;
}

START_TEST(lie_is_not_told)
{
    struct test_disk *d = malloc(sizeof(*d));
    char buf[8];
    disk_open(d);
    atomic_store(&seen, 0);
    disk_add_hook(d, "hook6", lying);
    disk_add_hook(d, "hook9", lying);
    disk_apply(d);
    ck_assert_int_eq(disk_read(d, 0, buf, 8), -EIO);
    ck_assert_int_eq(atomic_load(&seen), 1);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- failed twice: by force while its submit runs, which passes it all the same, and while the next one holds it ---- */

static atomic_bool forced, in_submit;

static int held_twice(const struct hook_args *a)
{
    uint64_t token;
    if (a->call != HOOK_SUBMIT || vd_filter_defer(a->disk, a->rq, &token) < 0)
        return 0;
    if (strcmp(a->name, "hook0") != 0)
        return VD_FILTER_DEFER;
    atomic_store(&in_submit, true);
    while (!atomic_load(&forced))
        sched_yield();
    return VD_FILTER_PASS;
}

static void *submits_one(void *arg)
{
    char buf[8];
    return (void *)(intptr_t)disk_read(arg, 0, buf, 8);
}

START_TEST(failed_twice)
{
    struct test_disk *d = malloc(sizeof(*d));
    char name[VD_FILTER_NAME_MAX + 1];
    pthread_t t;
    void *result;
    disk_open(d);
    atomic_store(&forced, false);
    atomic_store(&in_submit, false);
    disk_add_hook(d, "hook0", held_twice);
    disk_add_hook(d, "hook9", held_twice);
    disk_apply(d);
    pthread_create(&t, NULL, submits_one, d);
    while (!atomic_load(&in_submit))
        sched_yield();
    ck_assert_uint_eq(vd_filtered_force(d->f, name), 1);
    atomic_store(&forced, true);
    while (vd_filtered_force(d->f, name) == 0)
        sched_yield();
    pthread_join(t, &result);
    ck_assert_int_eq((intptr_t)result, -EIO);
    d->nspecs = 1;
    disk_apply(d);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- tokens are of one request and one filter ---- */

static struct vd_filter_disk *disks[2];
static uint64_t tokens[2];
static unsigned ntokens;

static int one_token(const struct hook_args *a)
{
    if (a->call == HOOK_ATTACH)
        disks[a->name[4] - '0'] = a->disk;
    if (a->call != HOOK_SUBMIT || strcmp(a->name, "hook0") != 0 || ntokens == 2)
        return 0;
    return vd_filter_defer(a->disk, a->rq, &tokens[ntokens++]) == 0 ? VD_FILTER_DEFER : -EIO;
}

static void wait_for_bool(atomic_bool *b)
{
    while (!atomic_load(b))
        sched_yield();
}

START_TEST(token_is_of_one)
{
    struct test_disk *d = malloc(sizeof(*d));
    atomic_bool first = false, second = false;
    disk_open(d);
    ntokens = 0;
    disk_add_hook(d, "hook0", one_token);
    disk_add_hook(d, "hook1", one_token);
    disk_apply(d);
    disk_submit(d, VD_FILTER_FLUSH, 0, NULL, 0, post, &first);
    ck_assert_int_eq(vd_filter_resume(disks[1], tokens[0], VD_FILTER_PASS, 0),
                     -ESTALE); /* another's */
    ck_assert_int_eq(vd_filter_resume(disks[0], tokens[0], VD_FILTER_PASS, 0), 0);
    wait_for_bool(&first);
    /* the second has the place of the first in the table, and not its token */
    disk_submit(d, VD_FILTER_FLUSH, 0, NULL, 0, post, &second);
    ck_assert_uint_ne(tokens[0], tokens[1]);
    ck_assert_int_eq(vd_filter_resume(disks[0], tokens[0], VD_FILTER_PASS, 0), -ESTALE);
    ck_assert(!atomic_load(&second));
    ck_assert_int_eq(vd_filter_resume(disks[0], tokens[1], VD_FILTER_PASS, 0), 0);
    wait_for_bool(&second);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- a write that is put off, or held, when its caller's buffer is the caller's again ---- */

static atomic_bool may_go;

static int put_off(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT)
        return 0;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    wait_for_bool(&may_go);
    return 0;
}

static int hold_it(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT)
        return 0;
    return vd_filter_defer_for(a->disk, a->rq, 20000000) == 0 ? VD_FILTER_DEFER : 0;
}

START_TEST(buffer_is_the_callers)
{
    struct test_disk *d = malloc(sizeof(*d));
    atomic_bool ended = false;
    uint8_t *mine = malloc(512);
    memset(mine, 'm', 512);
    memset(want, 'm', 512);
    disk_open(d);
    atomic_store(&may_go, false);
    disk_add_hook(d, "hook0", _i ? hold_it : put_off);
    disk_apply(d);
    disk_submit(d, VD_FILTER_WRITE, 512, mine, 512, post, &ended);
    memset(mine, 'x', 512);
    free(mine);
    atomic_store(&may_go, true);
    wait_for_bool(&ended);
    ck_assert_int_eq(memcmp(d->bytes + 512, want, 512), 0);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- held for ever, and let go by drains that come at any time ---- */

static int for_ever(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT)
        return 0;
    int r = vd_filter_defer_for(a->disk, a->rq, UINT64_MAX);
    return r == 0 ? VD_FILTER_DEFER : r == -ESHUTDOWN ? VD_FILTER_PASS : r;
}

/* The same by itself: what it holds it lets go when it is told DRAIN. One lock over the deferral and the note of it: else DRAIN may
 * come between. */
static pthread_mutex_t list_mu = PTHREAD_MUTEX_INITIALIZER;
static uint64_t list[8];
static unsigned nlist;

static int until_drain(const struct hook_args *a)
{
    int r = 0;
    pthread_mutex_lock(&list_mu);
    if (a->call == HOOK_SUBMIT) {
        r = vd_filter_defer(a->disk, a->rq, &list[nlist]);
        nlist += r == 0;
        r = r == 0 ? VD_FILTER_DEFER : r == -ESHUTDOWN ? VD_FILTER_PASS : r;
    } else if (a->call == HOOK_EVENT && a->event->type == VD_FILTER_EVENT_DRAIN) {
        while (nlist)
            (void)vd_filter_resume(a->disk, list[--nlist], VD_FILTER_PASS, 0);
    }
    pthread_mutex_unlock(&list_mu);
    return r;
}

static void *submits_on(void *arg)
{
    char byte;
    for (int i = 0; i < 500; i++)
        if (disk_read(arg, 0, &byte, 1) != 1)
            return NULL;
    return arg;
}

static atomic_uint hammers;

static void *counts_ends(void *arg)
{
    void *ok = submits_on(arg);
    hammers--;
    return ok;
}

START_TEST(drains_at_any_time)
{
    struct test_disk *d = malloc(sizeof(*d));
    pthread_t t[3];
    void *ok;
    disk_open(d);
    disk_add_hook(d, "hook0", _i ? until_drain : for_ever);
    disk_apply(d);
    hammers = 3;
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, counts_ends, d);
    while (atomic_load(&hammers)) /* each lets go what is held; one that is missed hangs it */
        disk_apply(d);
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], &ok);
        ck_assert_ptr_nonnull(ok);
    }
    disk_close(d);
    free(d);
}
END_TEST

/* ---- quarantined while a request that it passed, or holds, is not at its end ---- */

static struct vd_filter_request *kept;
static uint64_t kept_token;
static struct vd_filter_disk *kept_disk;

/* A flush is answered with what must not be; a discard is held. */
static int wrong_at_flush(const struct hook_args *a)
{
    if (a->call == HOOK_ATTACH)
        kept_disk = a->disk;
    if (a->call != HOOK_SUBMIT)
        return 0;
    if (a->rq->op == VD_FILTER_WRITE && a->rq->offset == 4096) {
        kept = a->rq;
        return vd_filter_defer(a->disk, a->rq, &kept_token) == 0 ? VD_FILTER_DEFER : -EIO;
    }
    return a->rq->op == VD_FILTER_FLUSH ? 77 : 0;
}

static void post_result(void *user, ssize_t result, const void *data)
{
    atomic_store((atomic_long *)user, result);
}

static void add_wrong(struct test_disk *d, const char *more)
{
    char config[96];
    snprintf(config, sizeof(config), "hook=%llu\n%s", (unsigned long long)(uintptr_t)wrong_at_flush,
             more);
    disk_add(d, "hook6", config);
    disk_apply(d);
}

static long wait_result(atomic_long *result)
{
    while (atomic_load(result) == 1000000)
        sched_yield();
    return atomic_load(result);
}

/* What a required filter would have done to the bytes is not done: nobody gets them. */
START_TEST(gone_while_below)
{
    struct test_disk *d = malloc(sizeof(*d));
    atomic_long result = 1000000;
    disk_open(d);
    add_wrong(d, _i ? "required=yes\n" : "");
    atomic_store(&d->on_threads, true);
    pthread_mutex_lock(&d->mu);
    disk_submit(d, VD_FILTER_READ, 0, NULL, 512, post_result, &result);
    ck_assert_int_eq(disk_do(d, VD_FILTER_FLUSH, 0, NULL, 0), -EIO); /* quarantined */
    pthread_mutex_unlock(&d->mu);
    ck_assert_int_eq(wait_result(&result), _i ? -EIO : 512);
    disk_close(d);
    free(d);
}
END_TEST

START_TEST(gone_while_held)
{
    struct test_disk *d = malloc(sizeof(*d));
    atomic_long result = 1000000;
    char byte;
    disk_open(d);
    add_wrong(d, "");
    disk_submit(d, VD_FILTER_WRITE, 4096, "held", 4, post_result, &result);
    ck_assert_int_eq(disk_do(d, VD_FILTER_FLUSH, 0, NULL, 0), -EIO);
    ck_assert_int_eq(wait_result(&result), -EIO);
    /* a thread of the filter's that knows nothing of it may still look */
    ck_assert_int_eq(memcmp(kept->data, "held", 4), 0);
    ck_assert_int_eq(vd_filter_resume(kept_disk, kept_token, VD_FILTER_PASS, 0), -ESTALE);
    d->nspecs = 0;
    disk_add_hook(d, "hook0", lying);
    disk_apply(d);
    ck_assert_int_eq(vd_filter_read(kept_disk, &byte, 0, 1), -ESHUTDOWN);
    ck_assert_int_eq(vd_filter_resume(kept_disk, kept_token, VD_FILTER_PASS, 0), -ESHUTDOWN);
    disk_close(d);
    free(d);
}
END_TEST

/* ---- why: refused on many threads at one time ---- */

static int refusing(const struct hook_args *a)
{
    if (a->call == HOOK_OPEN)
        vd_filter_why(a->disk, "closed on Sundays");
    return a->call == HOOK_OPEN ? -EACCES : 0;
}

static void *opens(void *arg)
{
    struct test_disk *d = arg;
    char why[VD_FILTER_WHY];
    for (int i = 0; i < 2000; i++) {
        why[0] = 0;
        if (vd_filtered_open(d->f, true, why) != -EACCES || !strstr(why, "closed on Sundays"))
            return d;
    }
    return NULL;
}

START_TEST(why_of_many)
{
    struct test_disk *d = malloc(sizeof(*d));
    pthread_t t[4];
    void *bad;
    disk_open(d);
    disk_add_hook(d, "hook0", refusing);
    disk_apply(d);
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, opens, d);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &bad);
        ck_assert_ptr_null(bad);
    }
    disk_close(d);
    free(d);
}
END_TEST

void add_edges_tests(Suite *s)
{
    TCase *t = tcase_create("edges");
    (void)last_log;
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, detach_writes, 0, 2);
    tcase_add_test(t, detach_reads);
    tcase_add_loop_test(t, data_in_done, 0, 2);
    tcase_add_test(t, lie_is_not_told);
    tcase_add_test(t, failed_twice);
    tcase_add_test(t, token_is_of_one);
    tcase_add_loop_test(t, buffer_is_the_callers, 0, 2);
    tcase_add_loop_test(t, drains_at_any_time, 0, 2);
    tcase_add_loop_test(t, gone_while_below, 0, 2);
    tcase_add_test(t, gone_while_held);
    tcase_add_test(t, why_of_many);
    suite_add_tcase(s, t);
}

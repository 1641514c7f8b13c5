// SPDX-License-Identifier: Apache-2.0
/* Which filters meet a request, in what order, and who is told of its end; services; chains that change under load. */
#include <string.h>

#include "disk.h"

/* What happened, as text: "+hook0 -hook0" and the like. Tests of order run on one thread. */
static char story[4096];

static void tell(const char *what, const char *name)
{
    size_t n = strlen(story);
    snprintf(story + n, sizeof(story) - n, "%s%s%s", n ? " " : "", what, name);
}

static const char *stops; /* the filter that answers VERDICT */
static int verdict;

static int telling(const struct hook_args *a)
{
    static const char *const marks[] = {"attach ", "ready ", "start ", "detach ", "open ",
                                        "close ",  "+",      "-",      "event "};
    tell(marks[a->call], a->name);
    if (a->call == HOOK_SUBMIT && stops && strcmp(stops, a->name) == 0) {
        a->rq->result = verdict == VD_FILTER_COMPLETE ? 3 : 0;
        if (verdict == VD_FILTER_COMPLETE && a->rq->op == VD_FILTER_READ)
            a->rq->data = memcpy(vd_filter_alloc(a->disk, a->rq, 3), "abc", 3);
        return verdict;
    }
    return a->call == HOOK_OPEN && stops && strcmp(stops, a->name) == 0 ? -EACCES : 0;
}

static void expect(const char *want)
{
    ck_assert_str_eq(story, want);
    story[0] = '\0';
}

START_TEST(test_order)
{
    struct test_disk *d = malloc(sizeof(*d));
    char buf[8], why[VD_FILTER_WHY];
    story[0] = '\0';
    disk_open(d);
    disk_add_hook(d, "hook9", telling); /* quota */
    disk_add_hook(d, "hook1", telling); /* inspection, before hook0 */
    disk_add_hook(d, "hook0", telling);
    disk_add_hook(d, "hook4", telling); /* replication */
    disk_apply(d);
    expect(
        "attach hook9 attach hook4 attach hook0 attach hook1 start hook9 start hook4 start hook0 "
        "start hook1");
    ck_assert_int_eq(disk_read(d, 0, buf, 8), 8);
    expect("+hook1 +hook0 +hook4 +hook9 -hook9 -hook4 -hook0 -hook1");
    ck_assert_int_eq(vd_filtered_open(d->f, true, why), 0);
    expect("open hook1 open hook0 open hook4 open hook9");
    vd_filtered_close(d->f, true);
    expect("close hook9 close hook4 close hook0 close hook1");
    /* refused: those above are told that it was closed */
    stops = "hook4";
    ck_assert_int_eq(vd_filtered_open(d->f, true, why), -EACCES);
    ck_assert_msg(strstr(why, "hook4"), "%s", why);
    expect("open hook1 open hook0 open hook4 close hook0 close hook1");
    /* completed, failed: only those above are told */
    verdict = VD_FILTER_COMPLETE;
    ck_assert_int_eq(disk_read(d, 0, buf, 8), 3);
    ck_assert_int_eq(memcmp(buf, "abc", 3), 0);
    expect("+hook1 +hook0 +hook4 -hook0 -hook1");
    verdict = -EDQUOT;
    ck_assert_int_eq(disk_write(d, 0, "x", 1), -EDQUOT);
    expect("+hook1 +hook0 +hook4 -hook0 -hook1");
    ck_assert_uint_eq(d->writes, 0);
    stops = NULL;
    /* one goes, the others stay as they are */
    d->specs[1] = d->specs[--d->nspecs];
    disk_apply(d);
    expect("event hook1 event hook0 event hook4 event hook9 detach hook1");
    disk_close(d);
    expect("event hook0 event hook4 event hook9 detach hook0 detach hook4 detach hook9");
    free(d);
}
END_TEST

/* ---- data ---- */

/* hook3 turns every bit, below the others. */
static int inverting(const struct hook_args *a)
{
    uint8_t *data = a->rq ? a->rq->data : NULL;
    if (strcmp(a->name, "hook3") != 0)
        return 0;
    if (a->call == HOOK_SUBMIT && a->rq->op == VD_FILTER_WRITE) {
        uint8_t *mine = vd_filter_alloc(a->disk, a->rq, a->rq->length);
        for (uint64_t i = 0; i < a->rq->length; i++)
            mine[i] = (uint8_t)~data[i];
        a->rq->data = mine;
        a->rq->self_data = mine;
    } else if (a->call == HOOK_DONE && a->rq->op == VD_FILTER_WRITE) {
        ck_assert_ptr_eq(a->rq->self_data, data);
    } else if (a->call == HOOK_DONE && a->rq->op == VD_FILTER_READ) {
        for (int64_t i = 0; i < a->rq->result; i++)
            data[i] = (uint8_t)~data[i];
    }
    return 0;
}

START_TEST(test_data)
{
    struct test_disk *d = malloc(sizeof(*d));
    uint8_t out[5000], in[5000];
    disk_open(d);
    disk_add_hook(d, "hook0", inverting);
    disk_add_hook(d, "hook3", inverting);
    disk_apply(d);
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 7);
    for (int t = 0; t < 2; t++) {
        atomic_store(&d->on_threads, t);
        ck_assert_int_eq(disk_write(d, 100, out, sizeof(out)), sizeof(out));
        ck_assert_uint_eq(d->bytes[100], 255);
        ck_assert_uint_eq(out[1], 7); /* the client's own bytes stay */
        memset(in, 0, sizeof(in));
        ck_assert_int_eq(disk_read(d, 100, in, sizeof(in)), sizeof(in));
        ck_assert_int_eq(memcmp(in, out, sizeof(in)), 0);
        ck_assert_int_eq(disk_read(d, DISK_BYTES - 10, in, sizeof(in)), 10);
        ck_assert_int_eq(disk_do(d, VD_FILTER_FLUSH, 0, NULL, 0), 0);
    }
    disk_close(d);
    free(d);
}
END_TEST

/* ---- services ---- */

/* Each filter reads the block below itself, through those below it, before it passes a write. */
static int reading(const struct hook_args *a)
{
    uint8_t byte;
    if (a->call != HOOK_SUBMIT)
        return 0;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT)) {
        ck_assert_int_eq(vd_filter_read(a->disk, &byte, 0, 1), -EAGAIN);
        return VD_FILTER_WAIT;
    }
    int64_t n = vd_filter_read(a->disk, &byte, a->rq->offset, 1);
    return n < 0 ? (int)n : VD_FILTER_PASS;
}

START_TEST(test_nested)
{
    struct test_disk *d = malloc(sizeof(*d));
    char name[8];
    disk_open(d);
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "hook%d", i);
        disk_add_hook(d, name, reading);
        disk_apply(d);
        d->reads = 0;
        ck_assert_int_eq(disk_write(d, 5, "x", 1), i < 8 ? 1 : -ELOOP);
        if (i < 8) /* each doubles what those below it do */
            ck_assert_uint_eq(d->reads, (2u << i) - 1);
    }
    disk_close(d);
    free(d);
}
END_TEST

static int using_all(const struct hook_args *a)
{
    char buf[16];
    if (a->call != HOOK_START)
        return 0;
    ck_assert_int_eq(vd_filter_write(a->disk, "hello", 10, 5), 5);
    ck_assert_int_eq(vd_filter_read(a->disk, buf, 10, 5), 5);
    ck_assert_int_eq(memcmp(buf, "hello", 5), 0);
    ck_assert_int_eq(vd_filter_zero(a->disk, 10, 2, true), 0);
    ck_assert_int_eq(vd_filter_flush(a->disk), 0);
    ck_assert_uint_eq(vd_filter_disk_size(a->disk), DISK_BYTES);
    ck_assert_uint_eq(vd_filter_epoch(a->disk), 7);
    ck_assert_int_eq(vd_filter_get_data(a->disk, "k", buf, 16), -ENOENT);
    ck_assert_int_eq(vd_filter_put_data(a->disk, "k", "value", 5), 0);
    ck_assert_int_eq(vd_filter_get_data(a->disk, "k", buf, 2), 5);
    ck_assert_int_eq(vd_filter_put_data(a->disk, "", "value", 5), -EINVAL);
    ck_assert_int_eq(vd_filter_put_data(a->disk, "a b", "value", 5), -EINVAL);
    ck_assert_int_eq(vd_filter_put_data(a->disk, "k", "value", 4001), -EINVAL);
    ck_assert_int_eq(vd_filter_del_data(a->disk, "k"), 0);
    ck_assert_int_eq(vd_filter_wait(a->disk, 1000), 0);
    vd_filter_log(a->disk, VD_FILTER_LOG_DEBUG, "all is well");
    uint8_t *large = malloc(DISK_BYTES);
    ck_assert_int_eq(vd_filter_read(a->disk, large, 1, DISK_BYTES + 5), DISK_BYTES - 1);
    free(large);
    tell("", "used");
    return 0;
}

START_TEST(test_services)
{
    struct test_disk *d = malloc(sizeof(*d));
    story[0] = '\0';
    disk_open(d);
    disk_add_hook(d, "hook2", using_all);
    disk_add_hook(d, "hook3", inverting);
    disk_apply(d);
    expect("used");
    ck_assert_int_eq(d->bytes[12], (uint8_t) ~'l');
    disk_close(d);
    free(d);
}
END_TEST

/* ---- under load ---- */

static atomic_ullong submits[10], dones[10];

static int counting(const struct hook_args *a)
{
    unsigned i = (unsigned)(a->name[4] - '0');
    if (a->call == HOOK_SUBMIT)
        submits[i]++;
    else if (a->call == HOOK_DONE)
        dones[i]++;
    return 0;
}

static void *hammer(void *arg)
{
    struct test_disk *d = arg;
    char buf[512];
    for (int i = 0; i < 400; i++) {
        ssize_t n = i % 2 ? disk_read(d, 512, buf, sizeof(buf)) : disk_write(d, 512, buf, 512);
        if (n != 512)
            return NULL;
    }
    return d;
}

START_TEST(test_replaced)
{
    struct test_disk *d = calloc(1, sizeof(*d));
    pthread_t t[4];
    void *ok;
    disk_open(d);
    atomic_store(&d->on_threads, true);
    disk_add_hook(d, "hook0", counting);
    disk_apply(d);
    for (int i = 0; i < 4; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, hammer, d), 0);
    for (int round = 0; round < 60; round++) {
        if (round % 2) {
            d->nspecs = 1;
        } else {
            disk_add_hook(d, "hook1", counting);
            disk_add_hook(d, "hook5", counting);
        }
        disk_apply(d);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], &ok);
        ck_assert_ptr_nonnull(ok);
    }
    disk_close(d);
    ck_assert_uint_eq(submits[0], 1600);
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(submits[i], dones[i]);
    free(d);
}
END_TEST

/* ---- what is counted ---- */

static int once_more(const struct hook_args *a)
{
    return a->call == HOOK_SUBMIT && !(a->rq->flags & VD_FILTER_MAY_WAIT) ? VD_FILTER_WAIT : 0;
}

static int has_seen_nine(void *user, const struct vd_filter_report *r)
{
    ck_assert_msg(r->requests == 9, "%s: %llu", r->spec->name, (unsigned long long)r->requests);
    ++*(unsigned *)user;
    return 0;
}

/* Each filter counts each request once, in whatever number of calls it sees it. */
START_TEST(test_counted)
{
    struct test_disk *d = calloc(1, sizeof(*d));
    char buf[8];
    unsigned n = 0;
    disk_open(d);
    for (int i = 0; i < 10; i += 3)
        disk_add_hook(d, (char[]){'h', 'o', 'o', 'k', (char)('0' + i), 0},
                      i == 6 ? once_more : counting);
    disk_apply(d);
    for (int i = 0; i < 9; i++)
        ck_assert_int_eq(disk_read(d, 0, buf, sizeof(buf)), sizeof(buf));
    ck_assert_int_eq(vd_filtered_each(d->f, false, has_seen_nine, &n), 0);
    ck_assert_uint_eq(n, 4);
    disk_close(d);
    free(d);
}
END_TEST

void add_chain_tests(Suite *s)
{
    TCase *t = tcase_create("chain");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_order);
    tcase_add_test(t, test_data);
    tcase_add_test(t, test_nested);
    tcase_add_test(t, test_services);
    tcase_add_test(t, test_replaced);
    tcase_add_test(t, test_counted);
    suite_add_tcase(s, t);
}

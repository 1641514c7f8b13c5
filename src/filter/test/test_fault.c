// SPDX-License-Identifier: Apache-2.0
/* Filters that fault: their request fails, they are quarantined, and the disk goes on, or refuses. */
#include <string.h>

#include "disk.h"

static const char *const hows[] = {"null", "divide", "overflow", "frame", "illegal", "nowhere"};

struct seen {
    enum vd_filter_state state;
    char why[VD_FILTER_WHY];
    uint64_t faults;
};

static int look(void *user, const struct vd_filter_report *r)
{
    struct seen *s = user;
    if (strcmp(r->spec->name, "faulty") != 0)
        return 0;
    s->state = r->state;
    s->faults = r->faults;
    snprintf(s->why, sizeof(s->why), "%s", r->why);
    return 0;
}

static struct seen report(struct test_disk *d)
{
    struct seen s = {.state = VD_FILTER_ACTIVE};
    ck_assert_int_eq(vd_filtered_each(d->f, true, look, &s), 0);
    return s;
}

static void add_faulty(struct test_disk *d, const char *how, const char *where, const char *more)
{
    char config[128];
    snprintf(config, sizeof(config), "how=%s\nwhere=%s\nat=100\n%s", how, where, more);
    disk_add(d, "faulty", config);
}

START_TEST(test_optional)
{
    for (int where = 0; where < 2; where++) {
        struct test_disk *d = malloc(sizeof(*d));
        char buf[16];
        disk_open(d);
        disk_add(d, "pass1", "");
        add_faulty(d, hows[_i], where ? "done" : "submit", "");
        disk_add(d, "pass2", "");
        disk_apply(d);
        ck_assert_int_eq(disk_read(d, 0, buf, 16), 16);
        ck_assert_int_eq(report(d).state, VD_FILTER_ACTIVE);
        ck_assert_int_eq(disk_read(d, 96, buf, 16), -EIO);
        struct seen s = report(d);
        ck_assert_int_eq(s.state, VD_FILTER_QUARANTINED);
        ck_assert_uint_eq(s.faults, 1);
        ck_assert_msg(strstr(s.why, _i == 2 || _i == 3 ? "overflowed"
                                    : _i == 5          ? "no code"
                                                       : "at"),
                      "%s", s.why);
        /* without it the disk goes on */
        ck_assert_int_eq(disk_read(d, 96, buf, 16), 16);
        char why[VD_FILTER_WHY];
        ck_assert_int_eq(vd_filtered_open(d->f, false, why), 0);
        disk_close(d);
        free(d);
    }
}
END_TEST

START_TEST(test_required)
{
    struct test_disk *d = malloc(sizeof(*d));
    char buf[16], why[VD_FILTER_WHY];
    disk_open(d);
    add_faulty(d, hows[_i], _i % 2 ? "done" : "submit", "required=yes\n");
    disk_apply(d);
    ck_assert_int_eq(disk_read(d, 0, buf, 16), 16);
    ck_assert_int_eq(disk_read(d, 96, buf, 16), -EIO);
    d->reads = 0;
    ck_assert_int_eq(disk_read(d, 0, buf, 16), -EIO);
    ck_assert_int_eq(disk_write(d, 0, buf, 16), -EIO);
    ck_assert_int_eq(disk_do(d, VD_FILTER_FLUSH, 0, NULL, 0), -EIO);
    ck_assert_uint_eq(d->reads, 0);
    ck_assert_int_eq(vd_filtered_open(d->f, false, why), -EIO);
    ck_assert_msg(strstr(why, "faulty is quarantined"), "%s", why);
    /* detached, the disk serves again */
    d->nspecs = 0;
    disk_add(d, "pass1", "");
    disk_apply(d);
    ck_assert_int_eq(disk_read(d, 96, buf, 16), 16);
    disk_close(d);
    free(d);
}
END_TEST

START_TEST(test_elsewhere)
{
    struct test_disk *d = malloc(sizeof(*d));
    char buf[16], why[VD_FILTER_WHY] = "";
    disk_open(d);
    /* a user's attach fails, and nothing of it stays */
    add_faulty(d, hows[_i], "attach", "");
    ck_assert_int_eq(disk_replace(d, "faulty", why), -EIO);
    ck_assert_msg(strstr(why, "attach"), "%s", why);
    d->nspecs = 0;
    add_faulty(d, hows[_i], "ready", "");
    ck_assert_int_eq(disk_replace(d, "faulty", why), -EIO);
    ck_assert_msg(strstr(why, "in ready"), "%s", why);
    d->nspecs = 0;
    disk_apply(d);
    add_faulty(d, hows[_i], "attach", "");
    /* found in the metadata it is quarantined */
    disk_apply(d);
    ck_assert_int_eq(report(d).state, VD_FILTER_QUARANTINED);
    ck_assert_int_eq(disk_read(d, 96, buf, 16), 16);
    d->nspecs = 0;
    add_faulty(d, hows[_i], "event", "");
    disk_apply(d);
    const struct vd_filter_event e = {
        .size = sizeof(e), .type = VD_FILTER_EVENT_SNAPSHOT, .snapshot = "s"};
    ck_assert_int_eq(vd_filtered_event(d->f, &e, why), -EIO);
    ck_assert_msg(strstr(why, "faulty"), "%s", why);
    ck_assert_int_eq(vd_filtered_event(d->f, &e, why), 0);
    disk_close(d);
    free(d);
}
END_TEST

static int missing_look(void *user, const struct vd_filter_report *r)
{
    ck_assert_int_eq(r->state, VD_FILTER_MISSING);
    ck_assert_msg(strstr(r->why, "no such filter"), "%s", r->why);
    return 0;
}

START_TEST(test_missing)
{
    for (int required = 0; required < 2; required++) {
        struct test_disk *d = malloc(sizeof(*d));
        char buf[16], why[VD_FILTER_WHY] = "";
        disk_open(d);
        disk_add(d, "nobody", "")->required = required;
        disk_apply(d);
        ck_assert_int_eq(disk_read(d, 0, buf, 16), required ? -EIO : 16);
        ck_assert_int_eq(vd_filtered_open(d->f, false, why), required ? -EIO : 0);
        ck_assert(!required || strstr(why, "nobody is missing"));
        ck_assert_int_eq(vd_filtered_each(d->f, true, missing_look, NULL), 0);
        disk_close(d);
        free(d);
    }
}
END_TEST

/* Faults on many threads at one time: each request is answered once. */
static void *hammer(void *arg)
{
    struct test_disk *d = arg;
    char buf[16];
    for (int i = 0; i < 200; i++) {
        ssize_t n = disk_read(d, i == 50 ? 96 : 0, buf, 16);
        if (n != 16 && n != -EIO)
            return NULL;
    }
    return d;
}

START_TEST(test_threads)
{
    struct test_disk *d = malloc(sizeof(*d));
    pthread_t t[6];
    void *ok;
    disk_open(d);
    atomic_store(&d->on_threads, true);
    add_faulty(d, hows[_i], _i % 2 ? "submit" : "done", "");
    disk_apply(d);
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, hammer, d), 0);
    for (int i = 0; i < 6; i++) {
        pthread_join(t[i], &ok);
        ck_assert_ptr_nonnull(ok);
    }
    ck_assert_int_eq(report(d).state, VD_FILTER_QUARANTINED);
    disk_close(d);
    free(d);
}
END_TEST

void add_fault_tests(Suite *s)
{
    TCase *t = tcase_create("fault");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, test_optional, 0, VD_ARRAY_SIZE(hows));
    tcase_add_loop_test(t, test_required, 0, VD_ARRAY_SIZE(hows));
    tcase_add_loop_test(t, test_elsewhere, 0, VD_ARRAY_SIZE(hows));
    tcase_add_test(t, test_missing);
    tcase_add_loop_test(t, test_threads, 0, VD_ARRAY_SIZE(hows));
    suite_add_tcase(s, t);
}

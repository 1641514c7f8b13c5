// SPDX-License-Identifier: Apache-2.0
/* What is loaded, and what is refused, by name. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "disk.h"

static void refused(struct vd_filters *fs, const char *name, int error, const char *cause)
{
    struct vd_filter_spec s = {0};
    char why[VD_FILTER_WHY] = "";
    snprintf(s.name, sizeof(s.name), "%s", name);
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), error);
    ck_assert_msg(strstr(why, cause), "%s: %s", name, why);
    if (error != -EINVAL)
        ck_assert_msg(strstr(why, name), "%s is not named: %s", name, why);
}

START_TEST(test_refused)
{
    struct vd_filters *fs;
    ck_assert_int_eq(vd_filters_open(TEST_FILTERS, &fs), 0);
    for (int i = 0; i < 2; i++) { /* again: nothing of a refusal stays */
        refused(fs, "bad-abi", -ENOEXEC, "version 7");
        refused(fs, "bad-symbol", -ENOEXEC, "vd_nobody_has_this");
        refused(fs, "bad-none", -ENOEXEC, "no symbol vd_filter_abi");
        refused(fs, "bad-class", -ENOEXEC, "class");
        refused(fs, "bad-size", -ENOEXEC, "version");
        refused(fs, "bad-ops", -ENOEXEC, "detach");
        refused(fs, "bad-name", -ENOEXEC, "another");
        refused(fs, "nobody", -ENOENT, "no such filter");
        refused(fs, "../../x", -EINVAL, "name");
        refused(fs, "", -EINVAL, "name");
        refused(fs, "Upper", -EINVAL, "name");
    }
    struct vd_filter_spec s = {.name = "pass1"};
    char why[VD_FILTER_WHY];
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), 0);
    ck_assert_uint_eq(s.filter_class, VD_FILTER_CLASS_INSPECTION);
    vd_filters_close(fs);
}
END_TEST

static void copy(const char *from, const char *to, mode_t mode)
{
    char buf[65536];
    FILE *in = fopen(from, "re"), *out = fopen(to, "we");
    ck_assert(in && out);
    for (size_t n; (n = fread(buf, 1, sizeof(buf), in)) > 0;)
        ck_assert_uint_eq(fwrite(buf, 1, n, out), n);
    fclose(in);
    ck_assert_int_eq(fclose(out), 0);
    ck_assert_int_eq(chmod(to, mode), 0);
}

START_TEST(test_writable)
{
    char dir[] = "/tmp/vd-filter-XXXXXX", path[64], link[80];
    struct vd_filters *fs;
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/pass1.so", dir);
    snprintf(link, sizeof(link), "%s/pass2.so", dir);
    copy(TEST_FILTERS "/pass1.so", path, 0666);
    ck_assert_int_eq(mkfifo(link, 0600), 0);
    ck_assert_int_eq(vd_filters_open(dir, &fs), 0);
    refused(fs, "pass1", -EPERM, "everybody may write it");
    refused(fs, "pass2", -EPERM, "no regular file");
    if (geteuid() == 0) {
        ck_assert_int_eq(chmod(path, 0644), 0);
        ck_assert_int_eq(chown(path, 12345, 12345), 0);
        refused(fs, "pass1", -EPERM, "another user");
        ck_assert_int_eq(chown(path, 0, 0), 0);
    }
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(chmod(dir, 0777), 0);
    char why[VD_FILTER_WHY] = "";
    struct vd_filter_spec s = {.name = "pass1"};
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), -EPERM);
    ck_assert_msg(strstr(why, dir), "%s", why);
    ck_assert_int_eq(chmod(dir, 0755), 0);
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), 0);
    vd_filters_close(fs);
    unlink(path);
    unlink(link);
    rmdir(dir);
}
END_TEST

static int gather(void *user, const struct vd_filter_available *a)
{
    unsigned *n = user;
    n[a->ops != NULL]++;
    ck_assert((a->ops != NULL) == (a->why[0] == '\0'));
    return 0;
}

START_TEST(test_each)
{
    struct vd_filters *fs;
    unsigned n[2] = {0};
    ck_assert_int_eq(vd_filters_open(TEST_FILTERS, &fs), 0);
    ck_assert_int_eq(vd_filters_each(fs, gather, n), 0);
    ck_assert_uint_eq(n[0], 7);
    ck_assert_uint_eq(n[1], 15);
    vd_filters_close(fs);
    ck_assert_int_eq(vd_filters_open("/nonexistent", &fs), 0);
    ck_assert_int_eq(vd_filters_each(fs, gather, n), 0);
    vd_filters_close(fs);
}
END_TEST

void add_load_tests(Suite *s)
{
    TCase *t = tcase_create("load");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_refused);
    tcase_add_test(t, test_writable);
    tcase_add_test(t, test_each);
    suite_add_tcase(s, t);
}

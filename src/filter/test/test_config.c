// SPDX-License-Identifier: Apache-2.0
/* KEY=VALUE: kinds, ranges, defaults; and what is wrong is said. Through faulty's options, and those below. */
#include <string.h>

#include "disk.h"

static const struct {
    const char *config;
    int error;
    const char *why;
} cases[] = {
    {"", 0, ""},
    {"how=divide\nat=4K\n", 0, ""},
    {"at=1M\nwhere=done\nop=write\n", 0, ""},
    {"required=yes\n", 0, ""},
    {"required=FALSE\n", 0, ""},
    {"how=divided\n", -EINVAL, "null|divide"},
    {"how=\n", -EINVAL, "one of"},
    {"how=nul\n", -EINVAL, "one of"},
    {"at=4X\n", -EINVAL, "size"},
    {"at=-1\n", -EINVAL, "size"},
    {"at=99999999T\n", -EINVAL, "size"},
    {"at=1\nat=2\n", -EINVAL, "twice"},
    {"what=ever\n", -EINVAL, "no such key"},
    {"at\n", -EINVAL, "KEY=VALUE"},
    {"=x\n", -EINVAL, "no such key"},
    {"required=maybe\n", -EINVAL, "yes or no"},
};

START_TEST(test_faulty)
{
    struct vd_filters *fs;
    struct vd_filter_spec s = {.name = "faulty"};
    char why[VD_FILTER_WHY] = "";
    ck_assert_int_eq(vd_filters_open(TEST_FILTERS, &fs), 0);
    snprintf(s.config, sizeof(s.config), "%s", cases[_i].config);
    int r = vd_filter_spec_complete(fs, &s, why);
    ck_assert_msg(r == cases[_i].error, "%s: %d, %s", s.config, r, why);
    ck_assert_msg(strstr(why, cases[_i].why), "%s: %s", s.config, why);
    ck_assert(s.required == (r == 0 && strstr(s.config, "required=yes")));
    vd_filters_close(fs);
}
END_TEST

START_TEST(test_must)
{
    struct vd_filters *fs;
    struct vd_filter_spec s = {.name = "hook0"};
    char why[VD_FILTER_WHY] = "";
    ck_assert_int_eq(vd_filters_open(TEST_FILTERS, &fs), 0);
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), -EINVAL);
    ck_assert_msg(strstr(why, "hook must be given: address"), "%s", why);
    snprintf(s.config, sizeof(s.config), "hook=18446744073709551616\n");
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), -EINVAL);
    snprintf(s.config, sizeof(s.config), "hook=12x\n");
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), -EINVAL);
    snprintf(s.config, sizeof(s.config), "hook=18446744073709551615\n");
    ck_assert_int_eq(vd_filter_spec_complete(fs, &s, why), 0);
    vd_filters_close(fs);
}
END_TEST

void add_config_tests(Suite *s)
{
    TCase *t = tcase_create("config");
    tcase_add_loop_test(t, test_faulty, 0, VD_ARRAY_SIZE(cases));
    tcase_add_test(t, test_must);
    suite_add_tcase(s, t);
}

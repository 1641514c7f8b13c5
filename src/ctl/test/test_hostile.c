// SPDX-License-Identifier: Apache-2.0
/* The control socket among clients that write half lines, garbage, too much, that stall or vanish.
 * After each of them the server must still answer. */
#include <sys/socket.h>

#include "ctl_test.h"

static struct fixture f;

static void set_up(void)
{
    fixture_begin(&f);
}

static void tear_down(void)
{
    fixture_open_gate(&f);
    fixture_end(&f);
}

static void expect_error(int fd, int number)
{
    char line[1024];
    ssize_t n = raw_line(fd, line, sizeof(line));
    ck_assert_int_gt(n, 0);
    json_t *answer = json_loads(line, 0, NULL);
    ck_assert_msg(answer != NULL, "%s", line);
    json_t *error = json_object_get(answer, "error");
    ck_assert_int_eq(json_integer_value(json_object_get(error, "errno")), number);
    ck_assert_ptr_nonnull(json_string_value(json_object_get(error, "what")));
    json_decref(answer);
}

START_TEST(test_half_lines)
{
    static const char text[] = "{\"command\": \"echo\", \"args\": {\"n\": 1}}\n";
    char line[256];
    int fd = raw_connect(&f);
    for (size_t i = 0; i + 1 < sizeof(text); i++) {
        raw_send(fd, text + i, 1);
        if (i % 8 == 0)
            expect_alive(&f);
    }
    ck_assert_int_gt(raw_line(fd, line, sizeof(line)), 0);
    ck_assert_str_eq(line, "{\"ok\":{\"n\":1}}");
    raw_send(fd, text, 10);
    close(fd); /* in the middle of a line */
    expect_alive(&f);
}
END_TEST

START_TEST(test_many_lines_at_once)
{
    static const char two[] = "{\"command\": \"echo\", \"args\": {\"n\": 1}}\n"
                              "garbage\n"
                              "{\"command\": \"echo\", \"args\": {\"n\": 2}}\n{\"comm";
    char line[256];
    int fd = raw_connect(&f);
    raw_send(fd, two, sizeof(two) - 1);
    ck_assert_int_gt(raw_line(fd, line, sizeof(line)), 0);
    ck_assert_str_eq(line, "{\"ok\":{\"n\":1}}");
    expect_error(fd, EINVAL);
    ck_assert_int_gt(raw_line(fd, line, sizeof(line)), 0);
    ck_assert_str_eq(line, "{\"ok\":{\"n\":2}}");
    raw_send(fd, "and\": \"empty\"}\n", 15);
    ck_assert_int_gt(raw_line(fd, line, sizeof(line)), 0);
    ck_assert_str_eq(line, "{\"ok\":{}}");
    shutdown(fd, SHUT_WR);
    ck_assert_int_eq(raw_line(fd, line, sizeof(line)), -1);
    close(fd);
}
END_TEST

START_TEST(test_garbage)
{
    static const struct {
        const char *text;
        size_t len;
    } bad[] = {
        {"\n", 1},
        {"\0\0\0\n", 4},
        {"\xff\xfe{}\n", 5},
        {"[]\n", 3},
        {"17\n", 3},
        {"{}\n", 3},
        {"{\"command\": 1}\n", 15},
        {"{\"command\": \"echo\", \"args\": []}\n", 33},
        {"{\"command\": \"echo\"} {}\n", 23},
    };
    int fd = raw_connect(&f);
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad); i++) {
        raw_send(fd, bad[i].text, bad[i].len);
        expect_error(fd, EINVAL);
    }
    close(fd);
    expect_alive(&f);
}
END_TEST

/* Random bytes; the seed is fixed and printed by a failure. */
START_TEST(test_noise)
{
    unsigned seed = 4711 + (unsigned)_i;
    for (unsigned round = 0; round < 50; round++) {
        char noise[4096];
        for (size_t i = 0; i < sizeof(noise); i++)
            noise[i] = (char)rand_r(&seed);
        int fd = raw_connect(&f);
        send(fd, noise, sizeof(noise), MSG_NOSIGNAL);
        close(fd);
    }
    expect_alive(&f);
}
END_TEST

START_TEST(test_deep_nesting)
{
    char *deep = malloc(60000);
    memset(deep, '[', 59999);
    deep[59999] = '\n';
    int fd = raw_connect(&f);
    raw_send(fd, deep, 60000);
    free(deep);
    expect_error(fd, EINVAL);
    close(fd);
    expect_alive(&f);
}
END_TEST

START_TEST(test_too_long)
{
    char *text = malloc(VD_CTL_REQUEST_MAX), line[16];
    memset(text, 'x', VD_CTL_REQUEST_MAX);
    int fd = raw_connect(&f);
    raw_send(fd, text, VD_CTL_REQUEST_MAX);
    free(text);
    expect_error(fd, EMSGSIZE);
    ck_assert_int_eq(raw_line(fd, line, sizeof(line)), -1);
    close(fd);
    expect_alive(&f);
}
END_TEST

/* More connections than the server keeps: the surplus is closed, and room comes back. */
START_TEST(test_crowd)
{
    int fd[100];
    for (unsigned i = 0; i < 100; i++)
        fd[i] = raw_connect(&f);
    char line[256];
    unsigned served = 0;
    for (unsigned i = 0; i < 100; i++) {
        static const char text[] = "{\"command\": \"empty\"}\n";
        if (send(fd[i], text, sizeof(text) - 1, MSG_NOSIGNAL) > 0 &&
            raw_line(fd[i], line, sizeof(line)) > 0)
            served++;
    }
    ck_assert_uint_ge(served, 32);
    ck_assert_uint_lt(served, 100);
    for (unsigned i = 0; i < 100; i++)
        close(fd[i]);
    /* The server learns of the closes in its own time. */
    int r = -1;
    for (unsigned i = 0; i < 1000 && r != 0; i++) {
        json_t *ok = NULL;
        r = vd_ctl_call(vd_ctl_server_path(f.server), "empty", NULL, 5000, &ok, NULL, 0);
        json_decref(ok);
    }
    ck_assert_int_eq(r, 0);
}
END_TEST

/* A client that goes away while its command runs; one that never takes a long answer. */
START_TEST(test_vanish_and_stall)
{
    static const char wait[] = "{\"command\": \"wait\"}\n";
    static const char big[] = "{\"command\": \"big\", \"args\": {\"len\": 8000000}}\n";
    int fd = raw_connect(&f);
    raw_send(fd, wait, sizeof(wait) - 1);
    fixture_await_waiting(&f, 1);
    close(fd);
    expect_alive(&f);
    int stalled = raw_connect(&f);
    raw_send(stalled, big, sizeof(big) - 1);
    char c;
    ck_assert_int_eq(recv(stalled, &c, 1, 0),
                     1); /* the answer is on its way, and no more is taken */
    expect_alive(&f);
    fixture_open_gate(&f);
    expect_alive(&f);
    vd_ctl_server_stop(vd_steal_ptr(f.server)); /* does not wait for it for ever */
    close(stalled);
}
END_TEST

TCase *case_hostile(void)
{
    TCase *c = tcase_create("hostile");
    tcase_add_checked_fixture(c, set_up, tear_down);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_half_lines);
    tcase_add_test(c, test_many_lines_at_once);
    tcase_add_test(c, test_garbage);
    tcase_add_loop_test(c, test_noise, 0, 3);
    tcase_add_test(c, test_deep_nesting);
    tcase_add_test(c, test_too_long);
    tcase_add_test(c, test_crowd);
    tcase_add_test(c, test_vanish_and_stall);
    return c;
}

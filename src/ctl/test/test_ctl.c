// SPDX-License-Identifier: Apache-2.0
/* The control socket between friends: calls, errors, the run directory, stopping. */
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "ctl_test.h"
#include "vd_time.h"

static struct fixture f;

static void set_up(void)
{
    fixture_begin(&f);
}

static void tear_down(void)
{
    fixture_end(&f);
}

START_TEST(test_call)
{
    expect_alive(&f);
    json_t *ok = NULL;
    char why[256] = "";
    const char *path = vd_ctl_server_path(f.server);
    ck_assert_int_eq(vd_ctl_call(path, "empty", NULL, 5000, &ok, why, sizeof(why)), 0);
    ck_assert(json_is_object(ok) && json_object_size(ok) == 0);
    json_decref(ok);

    ck_assert_int_eq(vd_ctl_call(path, "no-such", NULL, 5000, &ok, why, sizeof(why)), -EINVAL);
    ck_assert_str_eq(why, "no-such: no such command");
    ck_assert_int_eq(vd_ctl_call(path, "mute", NULL, 5000, &ok, why, sizeof(why)), -EBUSY);
    ck_assert_str_eq(why, strerror(EBUSY));
    ck_assert_int_eq(vd_ctl_call(path, "mute", NULL, 5000, &ok, NULL, 0), -EBUSY);
}
END_TEST

START_TEST(test_long_answer)
{
    json_t *args = json_pack("{s:i}", "len", 5 << 20), *ok = NULL;
    char why[256] = "";
    const char *path = vd_ctl_server_path(f.server);
    ck_assert_int_eq(vd_ctl_call(path, "big", args, 20000, &ok, why, sizeof(why)), 0);
    ck_assert_uint_eq(json_string_length(ok), 5 << 20);
    json_decref(ok);

    json_object_set_new(args, "len", json_integer(VD_CTL_LINE_MAX));
    ck_assert_int_eq(vd_ctl_call(path, "big", args, 20000, &ok, why, sizeof(why)), -EMSGSIZE);
    json_decref(args);
    expect_alive(&f);
}
END_TEST

START_TEST(test_nobody)
{
    char path[PATH_MAX], why[256] = "";
    json_t *ok = NULL;
    snprintf(path, sizeof(path), "%s/nothing", f.rundir);
    ck_assert_int_eq(vd_ctl_call(path, "echo", NULL, 5000, &ok, why, sizeof(why)), -ENOENT);
    ck_assert_ptr_nonnull(strstr(why, path));
}
END_TEST

START_TEST(test_timeout)
{
    json_t *ok = NULL;
    char why[256] = "";
    uint64_t before = vd_now_ms();
    ck_assert_int_eq(
        vd_ctl_call(vd_ctl_server_path(f.server), "wait", NULL, 50, &ok, why, sizeof(why)),
        -ETIMEDOUT);
    ck_assert_uint_ge(vd_now_ms() - before, 50);
    fixture_open_gate(&f);
}
END_TEST

struct seen {
    unsigned n;
    char path[PATH_MAX];
    char state[32];
};

static int see(void *user, const char *socket_path, json_t *info)
{
    struct seen *s = user;
    s->n++;
    snprintf(s->path, sizeof(s->path), "%s", socket_path);
    snprintf(s->state, sizeof(s->state), "%s", json_string_value(json_object_get(info, "state")));
    return 0;
}

START_TEST(test_each)
{
    struct seen s = {0};
    ck_assert_int_eq(vd_ctl_each(f.rundir, see, &s), 0);
    ck_assert_uint_eq(s.n, 1);
    ck_assert_str_eq(s.path, vd_ctl_server_path(f.server));
    ck_assert_str_eq(s.state, "running");
    ck_assert_int_eq(vd_ctl_server_set_state(f.server, "stopping"), 0);
    ck_assert_int_eq(vd_ctl_each(f.rundir, see, &s), 0);
    ck_assert_str_eq(s.state, "stopping");
    ck_assert_int_eq(vd_ctl_each("/nonexistent/run", see, &s), 0);
    ck_assert_uint_eq(s.n, 2);
}
END_TEST

static void *rewrite(void *user)
{
    for (unsigned i = 0; i < 2000; i++)
        if (vd_ctl_server_set_state(f.server, i % 2 ? "running" : "stopping") < 0)
            return user;
    return NULL;
}

/* A reader never takes a daemon for dead, nor half an info file, while the state changes. */
START_TEST(test_each_while_changing)
{
    pthread_t t;
    ck_assert_int_eq(pthread_create(&t, NULL, rewrite, &f), 0);
    for (unsigned i = 0; i < 2000; i++) {
        struct seen s = {0};
        ck_assert_int_eq(vd_ctl_each(f.rundir, see, &s), 0);
        ck_assert_uint_eq(s.n, 1);
    }
    void *failed;
    pthread_join(t, &failed);
    ck_assert_ptr_null(failed);
}
END_TEST

/* In a process of its own: a fork of this one would have its threads' locks, and not its threads.
 */
static int die_as_daemon(const char *rundir, const char *hex)
{
    struct vd_id id;
    struct vd_ctl_server *server = NULL;
    json_t *info = json_object();
    if (vd_id_parse(hex, &id) < 0 ||
        vd_ctl_server_start(rundir, &id, info, NULL, NULL, &server) < 0)
        return 1;
    _exit(0);
}

static struct vd_id make_dead_daemon(void)
{
    struct vd_id id;
    char hex[VD_ID_HEX];
    ck_assert_int_eq(vd_id_new(&id), 0);
    vd_id_hex(&id, hex);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/proc/self/exe", "test-ctl", f.rundir, hex, NULL);
        _exit(127);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
    return id;
}

START_TEST(test_dead_folder)
{
    struct vd_id id = make_dead_daemon();
    char hex[VD_ID_HEX], dir[PATH_MAX], sock[PATH_MAX + 8], why[256];
    vd_id_hex(&id, hex);
    snprintf(dir, sizeof(dir), "%s/%s", f.rundir, hex);
    ck_assert_int_eq(access(dir, F_OK), 0);
    struct seen s = {0};
    ck_assert_int_eq(vd_ctl_each(f.rundir, see, &s), 0);
    ck_assert_uint_eq(s.n, 1); /* the dead one is passed over */
    json_t *ok = NULL;
    snprintf(sock, sizeof(sock), "%s/sock", dir);
    ck_assert_int_eq(vd_ctl_call(sock, "echo", NULL, 1000, &ok, why, sizeof(why)), -ECONNREFUSED);

    struct fixture second = {0};
    strcpy(second.rundir, f.rundir);
    ck_assert_int_eq(vd_id_new(&second.id), 0);
    fixture_start(&second);
    ck_assert_int_lt(access(dir, F_OK), 0); /* and removed by whoever starts */
    expect_alive(&f);
    expect_alive(&second);
    vd_ctl_server_stop(second.server);
    expect_alive(&f);
}
END_TEST

START_TEST(test_modes)
{
    char dir[PATH_MAX], hex[VD_ID_HEX];
    vd_id_hex(&f.id, hex);
    snprintf(dir, sizeof(dir), "%s/%s", f.rundir, hex);
    struct stat st;
    ck_assert_int_eq(stat(dir, &st), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);

    char open_dir[PATH_MAX];
    snprintf(open_dir, sizeof(open_dir), "%s/open", f.rundir);
    ck_assert_int_eq(mkdir(open_dir, 0700), 0);
    ck_assert_int_eq(chmod(open_dir, 0777), 0);
    struct vd_ctl_server *s = NULL;
    json_t *info = json_object();
    ck_assert_int_eq(vd_ctl_server_start(open_dir, &f.id, info, NULL, NULL, &s), -EPERM);
    json_decref(info);
    ck_assert_ptr_null(s);
    ck_assert_int_eq(rmdir(open_dir), 0);
}
END_TEST

/* Longer than a socket's address: bound and connected through /proc/self/fd. */
START_TEST(test_long_path)
{
    struct fixture deep = {0};
    char name[101];
    memset(name, 'd', 100);
    name[100] = '\0';
    int n = snprintf(deep.rundir, sizeof(deep.rundir), "%s/%s/%s", f.rundir, name, name);
    ck_assert_int_lt(n, (int)sizeof(deep.rundir));
    ck_assert_int_eq(vd_id_new(&deep.id), 0);
    fixture_start(&deep);
    ck_assert_uint_gt(strlen(vd_ctl_server_path(deep.server)), 200);
    expect_alive(&deep);
    vd_ctl_server_stop(deep.server);
    char path[PATH_MAX];
    snprintf(path, sizeof(path), "%s/.lock", deep.rundir);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(deep.rundir), 0);
    snprintf(path, sizeof(path), "%s/%s", f.rundir, name);
    ck_assert_int_eq(rmdir(path), 0);
}
END_TEST

static void *call_wait(void *user)
{
    json_t *ok = NULL;
    char why[256] = "";
    int r = vd_ctl_call(user, "wait", NULL, 20000, &ok, why, sizeof(why));
    json_decref(ok);
    return (void *)(intptr_t)r;
}

static void *stop(void *user)
{
    vd_ctl_server_stop(user);
    return NULL;
}

/* Commands that run when the server stops are waited for and answered; queued ones are refused. */
START_TEST(test_stop_while_busy)
{
    char path[PATH_MAX];
    struct vd_ctl_server *server = f.server;
    strcpy(path, vd_ctl_server_path(server));
    pthread_t t[8], stopper;
    for (unsigned i = 0; i < 8; i++)
        ck_assert_int_eq(pthread_create(&t[i], NULL, call_wait, path), 0);
    fixture_await_waiting(&f, 4); /* the pool is full */
    int idle = raw_connect(&f);
    ck_assert_int_eq(pthread_create(&stopper, NULL, stop, server), 0);
    char c;
    ck_assert_int_eq(read(idle, &c, 1), 0); /* closed: it has begun to stop */
    close(idle);
    fixture_open_gate(&f);
    unsigned answered = 0;
    for (unsigned i = 0; i < 8; i++) {
        void *r;
        pthread_join(t[i], &r);
        if ((intptr_t)r == 0)
            answered++;
        else
            ck_assert_msg((intptr_t)r == -ECANCELED || (intptr_t)r == -ECONNRESET, "%zd",
                          (intptr_t)r);
    }
    ck_assert_uint_ge(answered, 4);
    pthread_join(stopper, NULL);
    ck_assert_int_lt(access(path, F_OK), 0);
    f.server = NULL;
}
END_TEST

START_TEST(test_text)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"plain", "plain"},
        {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"},
        {"a\xff"
         "b\x80",
         "a\xef\xbf\xbd"
         "b\xef\xbf\xbd"},
        {"\xc3", "\xef\xbf\xbd"},
        {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {"\xf4\x90\x80\x80.", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd."},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        json_t *v = vd_ctl_text(cases[i].in);
        ck_assert_str_eq(json_string_value(v), cases[i].out);
        json_decref(v);
    }
}
END_TEST

int main(int argc, char **argv)
{
    if (argc == 3)
        return die_as_daemon(argv[1], argv[2]);
    Suite *suite = suite_create("ctl");
    TCase *c = tcase_create("friends");
    tcase_add_checked_fixture(c, set_up, tear_down);
    tcase_set_timeout(c, 60);
    tcase_add_test(c, test_call);
    tcase_add_test(c, test_long_answer);
    tcase_add_test(c, test_nobody);
    tcase_add_test(c, test_timeout);
    tcase_add_test(c, test_each);
    tcase_add_test(c, test_each_while_changing);
    tcase_add_test(c, test_dead_folder);
    tcase_add_test(c, test_modes);
    tcase_add_test(c, test_long_path);
    tcase_add_test(c, test_stop_while_busy);
    tcase_add_test(c, test_text);
    suite_add_tcase(suite, c);
    suite_add_tcase(suite, case_hostile());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

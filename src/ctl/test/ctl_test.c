// SPDX-License-Identifier: Apache-2.0
#include "ctl_test.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

static int wait_for_gate(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    f->waiting++;
    pthread_cond_broadcast(&f->changed);
    while (!f->gate)
        pthread_cond_wait(&f->changed, &f->mu);
    f->waiting--;
    pthread_mutex_unlock(&f->mu);
    return 0;
}

static int handle(void *user, const char *command, json_t *args, json_t **ret_ok, char *ret_why,
                  size_t why_len)
{
    if (strcmp(command, "echo") == 0) {
        *ret_ok = json_incref(args);
        return 0;
    }
    if (strcmp(command, "empty") == 0)
        return 0;
    if (strcmp(command, "wait") == 0)
        return wait_for_gate(user);
    if (strcmp(command, "big") == 0) {
        size_t len = (size_t)json_integer_value(json_object_get(args, "len"));
        char *text = malloc(len + 1);
        memset(text, 'x', len);
        text[len] = '\0';
        *ret_ok = json_string(text);
        free(text);
        return 0;
    }
    if (strcmp(command, "mute") == 0)
        return -EBUSY;
    snprintf(ret_why, why_len, "%s: no such command", command);
    return -EINVAL;
}

void fixture_start(struct fixture *f)
{
    json_t *info =
        json_pack("{s:i, s:s, s:s}", "pid", (int)getpid(), "mount", "/nowhere", "state", "running");
    int r = vd_ctl_server_start(f->rundir, &f->id, info, handle, f, &f->server);
    json_decref(info);
    ck_assert_int_eq(r, 0);
}

void fixture_begin(struct fixture *f)
{
    memset(f, 0, sizeof(*f));
    char dir[] = "/tmp/vd-ctl-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(dir));
    strcpy(f->rundir, dir);
    pthread_mutex_init(&f->mu, NULL);
    pthread_cond_init(&f->changed, NULL);
    ck_assert_int_eq(vd_id_new(&f->id), 0);
    fixture_start(f);
}

void fixture_end(struct fixture *f)
{
    vd_ctl_server_stop(f->server);
    char cmd[PATH_MAX];
    snprintf(cmd, sizeof(cmd), "%s/.lock", f->rundir);
    unlink(cmd);
    ck_assert_int_eq(rmdir(f->rundir), 0); /* nothing of the server is left */
}

void fixture_await_waiting(struct fixture *f, unsigned n)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 10;
    pthread_mutex_lock(&f->mu);
    while (f->waiting < n)
        ck_assert_int_eq(pthread_cond_timedwait(&f->changed, &f->mu, &until), 0);
    pthread_mutex_unlock(&f->mu);
}

void fixture_open_gate(struct fixture *f)
{
    pthread_mutex_lock(&f->mu);
    f->gate = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->mu);
}

int raw_connect(const struct fixture *f)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    strcpy(addr.sun_path, vd_ctl_server_path(f->server));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

void raw_send(int fd, const void *buf, size_t len)
{
    ck_assert_int_eq(send(fd, buf, len, MSG_NOSIGNAL), (ssize_t)len);
}

ssize_t raw_line(int fd, char *buf, size_t len)
{
    for (size_t n = 0; n < len; n++) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ck_assert_int_eq(poll(&p, 1, 5000), 1);
        if (read(fd, buf + n, 1) != 1)
            return -1;
        if (buf[n] == '\n') {
            buf[n] = '\0';
            return (ssize_t)n;
        }
    }
    ck_abort_msg("a line longer than %zu", len);
    return -1;
}

void expect_alive(const struct fixture *f)
{
    json_t *args = json_pack("{s:s}", "text", "here"), *ok = NULL;
    char why[256] = "";
    int r = vd_ctl_call(vd_ctl_server_path(f->server), "echo", args, 5000, &ok, why, sizeof(why));
    ck_assert_msg(r == 0, "%d %s", r, why);
    ck_assert(json_equal(args, ok));
    json_decref(args);
    json_decref(ok);
}

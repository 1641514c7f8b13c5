// SPDX-License-Identifier: Apache-2.0
/*
 * The control server: a libuv loop on a thread of its own, which only moves bytes; commands run on
 * libuv's pool. It ends when nothing is left on the loop, so a stop waits for commands under way.
 */
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include "conn.h"

#define BACKLOG 64

static void on_connection(uv_stream_t *listener, int status)
{
    if (status == 0)
        vd__ctl_conn_accept(listener->data);
}

static void on_stop(uv_async_t *stop)
{
    struct vd_ctl_server *s = stop->data;
    s->stopping = true;
    uv_close((uv_handle_t *)&s->listener, NULL);
    uv_close((uv_handle_t *)&s->stop, NULL);
    vd__ctl_conn_stop_all(s);
}

static void run_loop(void *arg)
{
    struct vd_ctl_server *s = arg;
    uv_run(&s->loop, UV_RUN_DEFAULT);
}

/* The pool's threads inherit the mask of the loop's. Signals of faults stay open: a mapped file
 * that is truncated must reach its handler. */
static int start_thread(struct vd_ctl_server *s)
{
    sigset_t all, old;
    sigfillset(&all);
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < VD_ARRAY_SIZE(faults); i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = uv_thread_create(&s->thread, run_loop, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

/* Closes what start() opened; the loop has no thread. */
static void close_loop(struct vd_ctl_server *s)
{
    uv_run(&s->loop, UV_RUN_DEFAULT);
    uv_loop_close(&s->loop);
}

/* Takes LISTEN_FD over. */
static int start(struct vd_ctl_server *s, int listen_fd)
{
    int r = uv_loop_init(&s->loop);
    if (r < 0) {
        close(listen_fd);
        return r;
    }
    uv_async_init(&s->loop, &s->stop, on_stop);
    uv_pipe_init(&s->loop, &s->listener, 0);
    s->stop.data = s->listener.data = s;
    r = uv_pipe_open(&s->listener, listen_fd);
    if (r < 0)
        close(listen_fd);
    else
        r = uv_listen((uv_stream_t *)&s->listener, BACKLOG, on_connection);
    if (r == 0)
        r = start_thread(s);
    if (r < 0) {
        uv_close((uv_handle_t *)&s->listener, NULL);
        uv_close((uv_handle_t *)&s->stop, NULL);
        close_loop(s);
    }
    return r;
}

int vd_ctl_server_start(const char *rundir, const struct vd_id *id, json_t *info,
                        vd_ctl_handler handler, void *user, struct vd_ctl_server **ret_server)
{
    struct vd_ctl_server *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->folder = (struct vd__ctl_folder)VD__CTL_FOLDER_INIT;
    s->handler = handler;
    s->user = user;
    vd_list_init(&s->conns);
    int listen_fd;
    int r = vd__ctl_folder_make(rundir, id, info, &s->folder, &listen_fd);
    if (r == 0)
        r = start(s, listen_fd); /* libuv's errors are -errno */
    if (r < 0) {
        vd__ctl_folder_remove(&s->folder);
        free(s);
        return r;
    }
    *ret_server = s;
    return 0;
}

const char *vd_ctl_server_path(const struct vd_ctl_server *s)
{
    return s->folder.sock_path;
}

int vd_ctl_server_set_state(struct vd_ctl_server *s, const char *state)
{
    return vd__ctl_folder_state(&s->folder, state);
}

void vd_ctl_server_stop(struct vd_ctl_server *s)
{
    if (!s)
        return;
    uv_async_send(&s->stop);
    uv_thread_join(&s->thread);
    uv_loop_close(&s->loop);
    vd__ctl_folder_remove(&s->folder);
    free(s);
}

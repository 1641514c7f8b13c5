// SPDX-License-Identifier: Apache-2.0
/*
 * One client of the control socket. Loop thread only, but for run_command().
 *
 *   READING   collecting a line; a timer runs once half a line is there
 *   RUNNING   a command is with the pool; nothing is read, so a client cannot pile up work
 *   WRITING   its answer goes out, under the timer; then the next line, or close if `last`
 *   CLOSING   the handles close; a command under way still ends, its answer is dropped
 *
 * The memory is freed when all handles are closed and no command or write is under way: `holds`.
 */
#include "conn.h"

#include <string.h>
#include <sys/socket.h>

enum state { READING, RUNNING, WRITING, CLOSING };

struct conn {
    struct vd_list link;
    struct vd_ctl_server *server;
    enum state state;
    bool last;      /* close after this answer */
    unsigned holds; /* open handles, command, write */
    uv_pipe_t pipe;
    uv_timer_t timer;
    uv_work_t work;
    uv_write_t write;
    size_t len, scanned; /* of line; bytes known to hold no newline */
    char *answer;
    /* the pool's while RUNNING */
    json_t *request;
    json_t *ok;
    int result;
    char why[1024];
    char line[VD_CTL_REQUEST_MAX];
};

static void next_line(struct conn *c);
static void start_reading(struct conn *c);
static void send_error(struct conn *c, int number, const char *what);

static void let_go(struct conn *c)
{
    if (--c->holds > 0)
        return;
    json_decref(c->request);
    json_decref(c->ok);
    free(c->answer);
    free(c);
}

static void on_closed(uv_handle_t *h)
{
    let_go(h->data);
}

static void conn_close(struct conn *c)
{
    if (c->state == CLOSING)
        return;
    c->state = CLOSING;
    vd_list_del(&c->link);
    c->server->nconns--;
    uv_close((uv_handle_t *)&c->timer, on_closed);
    uv_close((uv_handle_t *)&c->pipe, on_closed);
}

static void on_stalled(uv_timer_t *t)
{
    conn_close(t->data);
}

static void arm(struct conn *c, uint64_t ms)
{
    uv_timer_start(&c->timer, on_stalled, ms, 0);
}

static void on_written(uv_write_t *w, int status)
{
    struct conn *c = w->data;
    free(vd_steal_ptr(c->answer));
    if (c->state == WRITING) {
        uv_timer_stop(&c->timer);
        if (status < 0 || c->last || c->server->stopping) {
            conn_close(c);
        } else {
            c->state = READING;
            next_line(c);
        }
    }
    let_go(c);
}

/* Consumes ANSWER. */
static void send_answer(struct conn *c, json_t *answer)
{
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;
    json_decref(answer);
    if (!text) {
        conn_close(c);
        return;
    }
    size_t len = strlen(text);
    if (len >= VD_CTL_LINE_MAX) {
        free(text);
        send_error(c, EMSGSIZE, "the answer is too long");
        return;
    }
    text[len] = '\n'; /* in the place of its NUL */
    c->answer = text;
    c->state = WRITING;
    c->write.data = c;
    uv_buf_t buf = uv_buf_init(text, (unsigned)len + 1);
    arm(c, c->server->stopping ? VD__CTL_STOP_MS : VD__CTL_STALL_MS);
    if (uv_write(&c->write, (uv_stream_t *)&c->pipe, &buf, 1, on_written) < 0)
        conn_close(c);
    else
        c->holds++;
}

static void send_error(struct conn *c, int number, const char *what)
{
    send_answer(c,
                json_pack("{s:{s:i, s:o*}}", "error", "errno", number, "what", vd_ctl_text(what)));
}

static void run_command(uv_work_t *w)
{
    struct conn *c = w->data;
    c->result = c->server->handler(
        c->server->user, json_string_value(json_object_get(c->request, "command")),
        json_object_get(c->request, "args"), &c->ok, c->why, sizeof(c->why));
}

static void on_command_done(uv_work_t *w, int status)
{
    struct conn *c = w->data;
    json_decref(vd_steal_ptr(c->request));
    json_t *ok = vd_steal_ptr(c->ok);
    if (c->state == CLOSING) {
        json_decref(ok);
    } else if (status < 0) {
        json_decref(ok);
        send_error(c, ECANCELED, "the daemon is stopping");
    } else if (c->result < 0) {
        json_decref(ok);
        send_error(c, -c->result, c->why[0] ? c->why : strerror(-c->result));
    } else {
        send_answer(c, json_pack("{s:o}", "ok", ok ? ok : json_object()));
    }
    let_go(c);
}

static void begin_command(struct conn *c, const char *line, size_t len)
{
    json_error_t error;
    json_t *request = json_loadb(line, len, 0, &error);
    json_t *args = json_object_get(request, "args");
    if (!json_is_string(json_object_get(request, "command")) || (args && !json_is_object(args)) ||
        (!args && json_object_set_new(request, "args", json_object()) < 0)) {
        json_decref(request);
        send_error(c, EINVAL, "a request is one JSON object a line, with \"command\" and \"args\"");
        return;
    }
    c->request = request;
    c->ok = NULL;
    c->result = 0;
    c->why[0] = '\0';
    c->work.data = c;
    c->state = RUNNING;
    uv_timer_stop(&c->timer);
    if (uv_queue_work(&c->server->loop, &c->work, run_command, on_command_done) < 0)
        conn_close(c);
    else
        c->holds++;
}

/* READING: takes the next whole line out of the buffer, or waits for more. */
static void next_line(struct conn *c)
{
    char *end = memchr(c->line + c->scanned, '\n', c->len - c->scanned);
    if (!end) {
        c->scanned = c->len;
        if (c->len == sizeof(c->line)) {
            c->last = true;
            uv_read_stop((uv_stream_t *)&c->pipe);
            send_error(c, EMSGSIZE, "the request is too long");
            return;
        }
        if (c->len == 0)
            uv_timer_stop(&c->timer);
        else if (!uv_is_active((uv_handle_t *)&c->timer))
            arm(c, VD__CTL_STALL_MS);
        start_reading(c);
        return;
    }
    uv_read_stop((uv_stream_t *)&c->pipe);
    begin_command(c, c->line, (size_t)(end - c->line));
    size_t used = (size_t)(end - c->line) + 1;
    memmove(c->line, c->line + used, c->len - used);
    c->len -= used;
    c->scanned = 0;
}

static void on_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *ret_buf)
{
    struct conn *c = h->data;
    *ret_buf = uv_buf_init(c->line + c->len, (unsigned)(sizeof(c->line) - c->len));
}

static void on_read(uv_stream_t *h, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = h->data;
    if (n < 0) {
        conn_close(c);
        return;
    }
    if (n == 0)
        return;
    c->len += (size_t)n;
    next_line(c);
}

static void start_reading(struct conn *c)
{
    int r = uv_read_start((uv_stream_t *)&c->pipe, on_alloc, on_read);
    if (r < 0 && r != UV_EALREADY)
        conn_close(c);
}

/* Root, and whoever the daemon runs as, may command it. */
static bool is_friend(const uv_pipe_t *pipe)
{
    int fd;
    struct ucred who;
    socklen_t len = sizeof(who);
    if (uv_fileno((const uv_handle_t *)pipe, &fd) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
        return false;
    return who.uid == 0 || who.uid == geteuid();
}

void vd__ctl_conn_accept(struct vd_ctl_server *s)
{
    struct conn *c = calloc(1, sizeof(*c));
    if (!c)
        return; /* the client waits, and is taken with the next one */
    c->server = s;
    c->holds = 2;
    c->state = READING;
    c->pipe.data = c->timer.data = c;
    uv_timer_init(&s->loop, &c->timer);
    uv_pipe_init(&s->loop, &c->pipe, 0);
    vd_list_add_tail(&s->conns, &c->link);
    s->nconns++;
    if (uv_accept((uv_stream_t *)&s->listener, (uv_stream_t *)&c->pipe) < 0 ||
        s->nconns > VD__CTL_CONNS_MAX || s->stopping || !is_friend(&c->pipe))
        conn_close(c);
    else
        start_reading(c);
}

void vd__ctl_conn_stop_all(struct vd_ctl_server *s)
{
    struct vd_list *it, *next;
    vd_list_for_each_safe (it, next, &s->conns) {
        struct conn *c = vd_list_entry(it, struct conn, link);
        if (c->state == READING)
            conn_close(c);
        else if (c->state == WRITING)
            arm(c, VD__CTL_STOP_MS);
        else
            uv_cancel((uv_req_t *)&c->work);
    }
}

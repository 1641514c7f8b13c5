// SPDX-License-Identifier: Apache-2.0
/* One question, one connection, one deadline for all of it. */
#include <poll.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>

#include "address.h"
#include "vd_ctl.h"
#include "vd_time.h"

struct call {
    int fd;
    uint64_t deadline_ms;
    unsigned timeout_ms;
};

static VD_PRINTF(4, 5) int fail(int error, char *ret_why, size_t why_len, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (why_len)
        vsnprintf(ret_why, why_len, fmt, args);
    va_end(args);
    return error;
}

/* Waits for EVENTS. 0, -ETIMEDOUT, -errno. */
static int wait_for(const struct call *c, short events)
{
    for (;;) {
        uint64_t now = vd_now_ms();
        if (now >= c->deadline_ms)
            return -ETIMEDOUT;
        struct pollfd p = {.fd = c->fd, .events = events};
        int n = poll(&p, 1, (int)vd_min(c->deadline_ms - now, (uint64_t)INT32_MAX));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int call_connect(struct call *c, const char *path)
{
    struct sockaddr_un addr;
    vd_cleanup_close int dirfd = -1;
    int r = vd__ctl_address(path, &addr, &dirfd);
    if (r < 0)
        return r;
    c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        return -errno;
    /* A connect to a Unix socket waits while the queue of its listener is full, by the send
     * timeout. */
    struct timeval t = {.tv_sec = c->timeout_ms / 1000, .tv_usec = c->timeout_ms % 1000 * 1000 + 1};
    if (setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)) < 0)
        return -errno;
    while (connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno == EAGAIN)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
        if (vd_now_ms() >= c->deadline_ms)
            return -ETIMEDOUT;
    }
    return 0;
}

static int call_send(const struct call *c, const char *buf, size_t len)
{
    while (len > 0) {
        ssize_t n = send(c->fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            int r = wait_for(c, POLLOUT);
            if (r < 0)
                return r;
            continue;
        }
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EPIPE ? -ECONNRESET : -errno;
        buf += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Reads one line, without its newline. The caller frees RET_LINE. 0 or -errno. */
static int call_receive(const struct call *c, char **ret_line, size_t *ret_len)
{
    size_t room = 16384, len = 0;
    vd_cleanup_free char *line = malloc(room);
    if (!line)
        return -ENOMEM;
    for (;;) {
        if (len == room) {
            if (room >= VD_CTL_LINE_MAX)
                return -EPROTO;
            char *more = realloc(line, room *= 2);
            if (!more)
                return -ENOMEM;
            line = more;
        }
        int r = wait_for(c, POLLIN);
        if (r < 0)
            return r;
        ssize_t n = recv(c->fd, line + len, room - len, MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            return -ECONNRESET;
        char *end = memchr(line + len, '\n', (size_t)n);
        if (end) {
            *ret_len = (size_t)(end - line);
            *ret_line = vd_steal_ptr(line);
            return 0;
        }
        len += (size_t)n;
    }
}

static int take_answer(const char *line, size_t len, json_t **ret_ok, char *ret_why, size_t why_len)
{
    json_t *answer = json_loadb(line, len, 0, NULL);
    json_t *ok = json_object_get(answer, "ok");
    if (ok) {
        *ret_ok = json_incref(ok);
        json_decref(answer);
        return 0;
    }
    int number = 0;
    const char *what = NULL;
    int r = json_unpack(answer, "{s:{s:i, s:s}}", "error", "errno", &number, "what", &what);
    if (r < 0 || number <= 0 || number > 4095)
        r = fail(-EPROTO, ret_why, why_len, "the daemon's answer is none");
    else
        r = fail(-number, ret_why, why_len, "%s", what);
    json_decref(answer);
    return r;
}

static int encode(const char *command, json_t *args, char **ret_line, size_t *ret_len)
{
    json_t *request = json_pack("{s:s, s:o}", "command", command, "args",
                                args ? json_incref(args) : json_object());
    if (!request)
        return -ENOMEM;
    char *text = json_dumps(request, JSON_COMPACT);
    json_decref(request);
    if (!text)
        return -ENOMEM;
    size_t len = strlen(text);
    if (len >= VD_CTL_REQUEST_MAX) {
        free(text);
        return -EMSGSIZE;
    }
    text[len] = '\n'; /* in the place of its NUL */
    *ret_line = text;
    *ret_len = len + 1;
    return 0;
}

int vd_ctl_call(const char *socket_path, const char *command, json_t *args, unsigned timeout_ms,
                json_t **ret_ok, char *ret_why, size_t why_len)
{
    vd_cleanup_free char *request = NULL, *answer = NULL;
    size_t request_len = 0, answer_len = 0;
    int r = encode(command, args, &request, &request_len);
    if (r < 0)
        return fail(r, ret_why, why_len, "%s: %s", command, strerror(-r));

    struct call c = {.fd = -1, .deadline_ms = vd_now_ms() + timeout_ms, .timeout_ms = timeout_ms};
    r = call_connect(&c, socket_path);
    if (r == 0)
        r = call_send(&c, request, request_len);
    if (r == 0)
        r = call_receive(&c, &answer, &answer_len);
    vd_close_p(&c.fd);
    if (r == -ETIMEDOUT)
        return fail(r, ret_why, why_len, "the daemon at %s did not answer within %u ms",
                    socket_path, timeout_ms);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return fail(r, ret_why, why_len, "no daemon listens at %s", socket_path);
    if (r == -ECONNRESET)
        return fail(r, ret_why, why_len, "the daemon at %s closed the connection", socket_path);
    if (r < 0)
        return fail(r, ret_why, why_len, "%s: %s", socket_path, strerror(-r));
    return take_answer(answer, answer_len, ret_ok, ret_why, why_len);
}

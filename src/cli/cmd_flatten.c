// SPDX-License-Identifier: Apache-2.0
/*
 * vdisk flatten: minutes of copying, so it shows how far it is, and can be interrupted: what was
 * copied stays copied, and the next call goes on there. Interrupting signals are blocked and looked
 * for between steps; a daemon works on a job of its own, which is then cancelled.
 */
#include <signal.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_disk.h"
#include "vd_size.h"
#include "vd_time.h"

#define POLL_MS 200
#define SHOW_MS 200

struct progress {
    bool terminal;
    bool shown;
    uint64_t shown_ms;
    sigset_t signals;
};

static void begin(struct progress *p)
{
    memset(p, 0, sizeof(*p));
    p->terminal = isatty(STDERR_FILENO);
    sigemptyset(&p->signals);
    sigaddset(&p->signals, SIGINT);
    sigaddset(&p->signals, SIGTERM);
    sigaddset(&p->signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &p->signals, NULL);
}

static void end(struct progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    fflush(stderr);
}

static void show(struct progress *p, uint64_t done, uint64_t total)
{
    uint64_t now = vd_now_ms();
    char a[32], b[32];
    if (!p->terminal || total == 0 || (p->shown && now - p->shown_ms < SHOW_MS))
        return;
    vd_size_print(done, a, sizeof(a));
    vd_size_print(total, b, sizeof(b));
    fprintf(stderr, "\r\033[Kflatten: %3u %%, %s of %s",
            (unsigned)(100.0 * (double)vd_min(done, total) / (double)total), a, b);
    fflush(stderr);
    p->shown = true;
    p->shown_ms = now;
}

/* Was there a signal? Waits for one up to TIMEOUT_MS. */
static bool interrupted(const struct progress *p, unsigned timeout_ms)
{
    struct timespec t = {.tv_sec = timeout_ms / 1000,
                         .tv_nsec = (long)(timeout_ms % 1000) * 1000000};
    return sigtimedwait(&p->signals, NULL, &t) > 0;
}

static int step(void *user, uint64_t done, uint64_t total)
{
    struct progress *p = user;
    show(p, done, total);
    return interrupted(p, 0) ? -ECANCELED : 0;
}

/* ---- by the daemon ---- */

static uint64_t number(const json_t *o, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(o, key));
    return v < 0 ? 0 : (uint64_t)v;
}

static int ask_job(struct cli_work *w, const char *command, json_int_t job, json_t **ret_ok)
{
    return cli_ask(&w->t.place, command, json_pack("{s:I}", "job", job), CLI_TIMEOUT_MS, ret_ok,
                   w->why);
}

/* The result of a job that has ended. */
static int job_result(struct cli_work *w, const json_t *state)
{
    const char *what = json_string_value(json_object_get(state, "what"));
    if (strcmp(json_string_value(json_object_get(state, "state")), "done") == 0)
        return 0;
    int error = (int)number(state, "errno");
    snprintf(w->why, sizeof(w->why), "%s", what ? what : "");
    return error > 0 ? -error : -EIO;
}

static int follow(struct cli_work *w, json_int_t job, struct progress *p)
{
    for (bool cancelled = false;;) {
        json_t *state = NULL;
        int r = ask_job(w, "job", job, &state);
        const char *word = json_string_value(json_object_get(state, "state"));
        bool running = r == 0 && word && strcmp(word, "running") == 0;
        if (r == 0 && !word)
            r = -EPROTO;
        else if (running)
            show(p, number(state, "done"), number(state, "total"));
        else if (r == 0)
            r = job_result(w, state);
        json_decref(state);
        if (!running)
            return r;
        if (interrupted(p, POLL_MS) && !cancelled) {
            json_t *ok = NULL;
            cancelled = true;
            r = ask_job(w, "job-cancel", job, &ok);
            json_decref(ok);
            if (r < 0)
                return r;
        }
    }
}

static int flatten_online(struct cli_work *w, struct progress *p)
{
    json_t *ok = NULL;
    int r = cli_work_ask(w, "flatten", NULL, &ok);
    json_t *job = json_object_get(ok, "job");
    if (r == 0 && json_is_integer(job))
        r = follow(w, json_integer_value(job), p);
    json_decref(ok);
    return r;
}

int cmd_flatten(struct cli *cli)
{
    struct cli_work w;
    struct progress p;
    if (!cli_args_fit(cli, 1, 1))
        return cli_usage_error(cli);
    begin(&p); /* before threads are made, which inherit what is blocked */
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    if (w.disks)
        r = vd_disks_flatten(w.disks, w.path_fd, w.t.rel, step, &p, w.why);
    else
        r = flatten_online(&w, &p);
    end(&p);
    if (r == -ECANCELED)
        snprintf(w.why, sizeof(w.why),
                 "interrupted; vdisk flatten goes on where it was when it is called again");
    return cli_work_end(&w, r);
}

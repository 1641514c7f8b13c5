// SPDX-License-Identifier: Apache-2.0
/*
 * The control socket's commands, by name; docs/control.md describes them. They tell what only the
 * daemon knows, and do what only it may; the command line reads the rest from the files itself. A
 * disk is named by st_dev and st_ino of its file in the source, which are the same through whatever
 * path somebody reaches it; where a command changes its names or layers the path is given too, and
 * must lead to that file.
 *
 * Handlers run on libuv's pool, several at a time, and touch the daemon only through interfaces
 * that any thread may call. The pool has a thread for each connection there can be, so a command
 * that waits keeps no other waiting; what takes minutes is a job all the same (jobs.h), so that its
 * client may go.
 */
#include "control.h"

#include <string.h>

#include "request.h"

static int do_ping(const struct vd_request *q, json_t **ret_ok)
{
    *ret_ok = vd_control_info(q->d);
    return 0;
}

static int do_owner_release(const struct vd_request *q, json_t **ret_ok)
{
    struct vd_id uuid;
    int r = vd__request_id(q, "uuid", &uuid);
    if (r < 0)
        return r;
    char why[VD_META_WHY] = "";
    r = vd_disks_release_request(q->d->disks, &uuid, why);
    return r < 0 && why[0] ? vd__request_fail(q, r, "%s", why) : r;
}

json_t *vd_control_info(const struct vd_daemon *d)
{
    return json_pack("{s:i, s:o, s:I, s:o, s:I, s:o, s:o, s:o, s:o, s:s, s:s}", "pid", (int)getpid(),
                     "mount", vd_ctl_text(d->mountpoint), "st_dev", (json_int_t)d->mount_dev,
                     "source", vd_ctl_text(d->source), "source_dev", (json_int_t)d->source_dev,
                     "meta", vd_ctl_text(d->meta_dir), "cache", vd_ctl_text(d->cache_dir),
                     "filters", vd_ctl_text(d->filters ? vd_filters_dir(d->filters) : ""), "host",
                     vd_ctl_text(d->self.host), "state", "running", "version", VD_VERSION);
}

int vd_control_handle(void *user, const char *command, json_t *args, json_t **ret_ok, char *ret_why,
                      size_t why_len)
{
    static const struct {
        const char *name;
        vd_command *run;
    } commands[] = {
        {"ping", do_ping},
        {"info", vd__do_info},
        {"disks", vd__do_disks},
        {"layers", vd__do_layers},
        {"extents", vd__do_extents},
        {"cached-map", vd__do_cached_map},
        {"block-verify", vd__do_block_verify},
        {"cache-stats", vd__do_cache_stats},
        {"cache-flush", vd__do_cache_flush},
        {"cache-drop", vd__do_cache_drop},
        {"cache-verify", vd__do_cache_verify},
        {"snapshot", vd__do_snapshot},
        {"revert", vd__do_revert},
        {"snapshot-rm", vd__do_snapshot_rm},
        {"clone", vd__do_clone},
        {"flatten", vd__do_flatten},
        {"resize", vd__do_resize},
        {"rm", vd__do_rm},
        {"adopt", vd__do_adopt},
        {"sweep", vd__do_sweep},
        {"filter-attach", vd__do_filter_attach},
        {"filter-detach", vd__do_filter_detach},
        {"filters", vd__do_filters},
        {"job", vd__do_job},
        {"job-cancel", vd__do_job_cancel},
        {"owner-release", do_owner_release},
    };
    struct vd_request q = {.d = user, .args = args, .why = ret_why, .why_len = why_len};
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++)
        if (strcmp(command, commands[i].name) == 0)
            return commands[i].run(&q, ret_ok);
    return vd__request_fail(&q, -ENOSYS, "%.64s: this daemon knows no such command", command);
}

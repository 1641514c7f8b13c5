// SPDX-License-Identifier: Apache-2.0
/*
 * Commands that change disks: snapshots, clones, sizes, names. The disk layer does the work and
 * says what is wrong; here paths are resolved, and the FUSE side is told what changed past it.
 */
#include <string.h>

#include "beneath.h"
#include "jobs.h"
#include "request.h"
#include "vd_fs.h"
#include "vd_log.h"

static void target_close(struct vd__target *t)
{
    vd_beneath_close(&t->at);
}

/* WHAT, a path, failed with R when it was walked. */
static int fail_path(const struct vd_request *q, const char *what, int r)
{
    switch (r) {
    case -ESTALE:
        return vd__request_fail(q, r, "it was renamed or replaced meanwhile: try again");
    case -EINVAL:
        return vd__request_fail(q, r, "%s does not lead to a regular file by plain names", what);
    case -EPERM:
        return vd__request_fail(
            q, r, "%s leads into the folder " VD_META_FOLDER ", which is private", what);
    case -ELOOP:
    case -ENOTDIR:
        return vd__request_fail(q, r, "%s has a symbolic link or a file for a folder", what);
    default:
        return vd__request_fail(q, r, "%s cannot be followed below the source: %s", what,
                                strerror(-r));
    }
}

int vd__request_target(const struct vd_request *q, struct vd__target *t)
{
    const char *path;
    int r = vd__request_inode(q, &t->dev, &t->ino);
    if (r == 0)
        r = vd__request_text(q, "path", &path);
    if (r < 0)
        return r;
    r = vd_beneath_file(q->d->source_fd, path, t->dev, t->ino, &t->at);
    return r < 0 ? fail_path(q, "its path", r) : 0;
}

int vd__request_finish(const struct vd_request *q, struct vd__target *t, int r, const char *why)
{
    /* Also where it failed: what was done before may be seen. */
    vd_fs_changed(q->d->fs, t->dev, t->ino);
    target_close(t);
    return r < 0 && *why ? vd__request_fail(q, r, "%s", why) : vd_min(r, 0);
}

/* ---- snapshots ---- */

typedef int named_change(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                         char ret_why[VD_META_WHY]);

static int change_named(const struct vd_request *q, named_change *change)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";
    const char *name;

    int r = vd__request_text(q, "name", &name);
    if (r == 0)
        r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = change(q->d->disks, t.at.fd, t.at.path, name, why);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_snapshot(const struct vd_request *q, json_t **ret_ok)
{
    return change_named(q, vd_disks_snapshot);
}

int vd__do_revert(const struct vd_request *q, json_t **ret_ok)
{
    return change_named(q, vd_disks_revert);
}

int vd__do_snapshot_rm(const struct vd_request *q, json_t **ret_ok)
{
    return change_named(q, vd_disks_snapshot_rm);
}

/* ---- disks ---- */

int vd__do_clone(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    struct vd_beneath child = VD_BENEATH_INIT;
    char why[VD_META_WHY] = "";
    const char *child_path, *snapshot = NULL;

    int r = vd__request_text(q, "child", &child_path);
    if (r == 0 && json_object_get(q->args, "snapshot"))
        r = vd__request_text(q, "snapshot", &snapshot);
    if (r == 0)
        r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_beneath_dir(q->d->source_fd, child_path, &child);
    if (r < 0) {
        target_close(&t);
        return fail_path(q, "the clone's path", r);
    }
    r = vd_disks_clone(q->d->disks, t.at.fd, t.at.path, snapshot, child.dir_fd, child.name,
                       child.path, why);
    vd_beneath_close(&child);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_resize(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";
    uint64_t size_bytes;
    bool shrink;

    int r = vd__request_number(q, "size", &size_bytes);
    if (r == 0)
        r = vd__request_flag(q, "shrink", &shrink);
    if (r == 0)
        r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_disks_resize(q->d->disks, t.at.fd, t.at.path, size_bytes, shrink, why);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_rm(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";

    int r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_disks_remove(q->d->disks, t.at.fd, t.at.path, t.at.dir_fd, t.at.name, why);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_adopt(const struct vd_request *q, json_t **ret_ok)
{
    struct vd__target t = VD__TARGET_INIT;
    char why[VD_META_WHY] = "";

    int r = vd__request_target(q, &t);
    if (r < 0)
        return r;
    r = vd_disks_adopt(q->d->disks, t.at.fd, t.at.path, why);
    return vd__request_finish(q, &t, r, why);
}

int vd__do_sweep(const struct vd_request *q, json_t **ret_ok)
{
    char why[VD_META_WHY] = "";
    int r = vd_disks_sweep(q->d->disks, why);
    if (r < 0)
        return *why ? vd__request_fail(q, r, "%s", why) : r;
    *ret_ok = json_pack("{s:i}", "removed", r);
    return 0;
}

/* ---- flatten, as a job ---- */

struct flatten {
    struct vd_jobs_work work;
    struct vd_daemon *d;
    struct vd__target t;
};

static int flatten_run(struct vd_jobs_work *w, struct vd_jobs_running *j, char why[VD_META_WHY])
{
    struct flatten *f = vd_container_of(w, struct flatten, work);
    int r = vd_disks_flatten(f->d->disks, f->t.at.fd, f->t.at.path, vd_jobs_progress, j, why);
    vd_fs_changed(f->d->fs, f->t.dev, f->t.ino);
    if (r == -ECANCELED)
        vd_log_note("%s: its flattening was stopped; the next one goes on from there",
                    f->t.at.path);
    else if (r < 0) /* its client may be gone */
        vd_log_warning("%s: could not be flattened: %s", f->t.at.path, *why ? why : strerror(-r));
    return r;
}

static void flatten_free(struct vd_jobs_work *w)
{
    struct flatten *f = vd_container_of(w, struct flatten, work);
    target_close(&f->t);
    free(f);
}

static int fail_start(const struct vd_request *q, int r, uint64_t id)
{
    switch (r) {
    case -EBUSY:
        return vd__request_fail(q, r, "it is being flattened already (job %llu)",
                                (unsigned long long)id);
    case -EAGAIN:
        return vd__request_fail(q, r, "too much is being done at one time; try again later");
    case -ESHUTDOWN:
        return vd__request_fail(q, r, "the mount is being stopped");
    default:
        return r;
    }
}

int vd__do_flatten(const struct vd_request *q, json_t **ret_ok)
{
    struct flatten *f = calloc(1, sizeof(*f));
    uint64_t id = 0;

    if (!f)
        return -ENOMEM;
    f->work = (struct vd_jobs_work){.what = "flatten", .run = flatten_run, .free = flatten_free};
    f->d = q->d;
    f->t = (struct vd__target)VD__TARGET_INIT;
    int r = vd__request_target(q, &f->t);
    if (r == 0) {
        f->work.dev = f->t.dev;
        f->work.ino = f->t.ino;
        r = vd_jobs_start(q->d->jobs, &f->work, &id);
        if (r < 0)
            fail_start(q, r, id);
    }
    if (r < 0)
        flatten_free(&f->work);
    else
        *ret_ok = json_pack("{s:I}", "job", (json_int_t)id);
    return r;
}

static int no_such_job(const struct vd_request *q, uint64_t id)
{
    return vd__request_fail(q, -ENOENT, "there is no job %llu (any more)", (unsigned long long)id);
}

int vd__do_job(const struct vd_request *q, json_t **ret_ok)
{
    static const char *const states[] = {
        [VD_JOBS_RUNNING] = "running",
        [VD_JOBS_DONE] = "done",
        [VD_JOBS_FAILED] = "failed",
    };
    struct vd_jobs_status s;
    uint64_t id;
    int r = vd__request_number(q, "job", &id);
    if (r < 0)
        return r;
    if (vd_jobs_get(q->d->jobs, id, &s) < 0)
        return no_such_job(q, id);
    bool failed = s.state == VD_JOBS_FAILED;
    *ret_ok =
        json_pack("{s:s, s:s, s:I, s:I, s:i, s:o}", "command", s.what, "state", states[s.state],
                  "done", (json_int_t)s.done, "total", (json_int_t)s.total, "errno", -s.error,
                  "what", failed ? vd_ctl_text(*s.why ? s.why : strerror(-s.error)) : json_null());
    return 0;
}

int vd__do_job_cancel(const struct vd_request *q, json_t **ret_ok)
{
    uint64_t id;
    int r = vd__request_number(q, "job", &id);
    if (r == 0 && vd_jobs_cancel(q->d->jobs, id) < 0)
        r = no_such_job(q, id);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The one gate: every request of a client enters here, is checked, and goes through the disk's filters (filters.c), or,
 * where it has none, straight on. The idea of one gate is nbdkit's (server/backend.c).
 *
 * A request is counted in (pause.c) until it is answered, so that filters can come and go with none under way.
 *
 * Before it meets the filters a disk that this mount does not own is brought up to date: another mount may have changed it,
 * its filters too. A read follows the metadata, a change owns the disk; both may wait, so they do it on the lane. A change owns it
 * before the filters also where this mount shares it: a filter may hold the change for long, and no other may take the disk
 * meanwhile.
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

/* Offsets above this are the locks' (VD_OWNER_LOCK_OFF), and blocks stay far from wrapping. */
#define OFF_MAX ((uint64_t)VD_OWNER_LOCK_OFF)

static bool out_of_range(uint64_t off, uint64_t len)
{
    return off > OFF_MAX || len > OFF_MAX - off;
}

void vd__disk_answer(struct vd_disk *d, unsigned ticket, vd_disk_done done, void *user,
                     ssize_t result, const void *data)
{
    if (ticket != NO_TICKET)
        vd__pause_leave(&d->requests, ticket);
    done(user, result, data);
}

static void go_below(struct vd_disk *d, const struct request *q, unsigned ticket)
{
    if (q->kind == IO_READ)
        vd__disk_read(d, q->off, (size_t)q->len, false, ticket, q->done, q->user);
    else if (q->kind == IO_WRITE)
        vd__disk_write(d, q->off, q->data, (size_t)q->len, ticket, q->done, q->user);
    else
        vd__disk_change(d, q->kind, q->arg, q->off, q->len, ticket, q->done, q->user);
}

static void dispatch(struct vd_disk *d, const struct request *q, unsigned ticket)
{
    struct vd_chain *c = d->filtered ? vd_filtered_chain(d->filtered) : NULL;
    if (c && q->kind != IO_SEEK)
        vd__filters_submit(d, c, q, ticket);
    else
        go_below(d, q, ticket);
}

/* ---- what cannot go on at once ---- */

struct io *vd__request_keep(struct vd_disk *d, const struct request *q)
{
    struct io *io = vd__disk_io_get(d->ds, q->data ? (uint32_t)vd_blocks_touched(0, q->len) : 1);
    if (!io)
        return NULL;
    io->d = d;
    io->kind = q->kind;
    io->arg = q->arg;
    io->off = q->off;
    io->len = q->len;
    io->done = q->done;
    io->user = q->user;
    if (q->data)
        memcpy(io->data, q->data, q->len);
    return io;
}

static struct request from_io(const struct io *io)
{
    return (struct request){
        .kind = io->kind,
        .arg = io->arg,
        .off = io->off,
        .len = io->len,
        .data = io->kind == IO_WRITE ? io->data : NULL,
        .done = io->done,
        .user = io->user,
    };
}

static bool changes(enum io_kind kind)
{
    return kind == IO_WRITE || kind == IO_ZERO || kind == IO_TRUNCATE;
}

static bool is_current(struct vd_disk *d, enum io_kind kind)
{
    /* In this order: who owns it anew has seen before whether they are stale. */
    if (kind == IO_READ && vd__disk_is_anothers(d))
        return false;
    if (changes(kind) &&
        atomic_load_explicit(&d->state, memory_order_acquire) != VD_OWNER_EXCLUSIVE)
        return false;
    return !atomic_load_explicit(&d->filters_stale, memory_order_acquire);
}

/* Blocks. */
static int make_current(struct vd_disk *d, enum io_kind kind)
{
    char why[VD_META_WHY] = "";
    if (changes(kind))
        return vd__own_for_change(d);
    if (kind != IO_READ || !vd__disk_is_anothers(d))
        return 0;
    int r = vd__disk_follow(d, why);
    if (r == 0)
        return 0;
    vd_log_error("%s: cannot be read: %s", d->path, why[0] ? why : strerror(-r));
    return -EIO;
}

static void again(struct vd_job *job);

static void end_later(struct io *io, int r)
{
    struct vd_disk *d = io->d;
    struct request q = from_io(io);
    count(d, C_ERRORS, 1);
    vd__disk_io_put(d->ds, io);
    q.done(q.user, r, NULL);
}

/* On a thread of the opener's: the chain cannot be replaced before requests have ended, which want the lane. */
static void refresh_run(struct vd_job *job)
{
    struct vd_disk *d = vd_container_of(job, struct vd_disk, refresh_job);
    struct vd_lane *lane = d->lane;
    struct vd_list waited;
    int r = vd__filters_refresh(d);
    vd_list_init(&waited);
    pthread_mutex_lock(&d->mu);
    d->refreshing = false;
    bool held = d->refresh_holds;
    while (!vd_list_empty(&d->await_filters)) {
        struct vd_list *it = d->await_filters.next;
        vd_list_del(it);
        vd_list_add_tail(&waited, it);
    }
    pthread_cond_broadcast(&d->settled);
    pthread_mutex_unlock(&d->mu);     /* where no client waits, the disk may be gone */
    while (!vd_list_empty(&waited)) { /* after the last the disk may be gone */
        struct vd_job *one = vd_list_entry(waited.next, struct vd_job, link);
        vd_list_del(&one->link);
        if (r < 0)
            end_later(vd_container_of(one, struct io, job), r);
        else
            vd_lane_queue(lane, one);
    }
    if (held)
        vd_disk_put(d);
}

/* JOB (NULL: none) is queued to the lane when the chain is the one of the records. HOLDS: whoever asks has taken a reference for
 * that. False: nothing is queued, and nothing begun that has the reference. */
static bool refresh_and_queue(struct vd_disk *d, struct vd_job *job, bool holds)
{
    pthread_mutex_lock(&d->mu);
    bool ended = atomic_load(&d->filters_ended);
    bool first = !d->refreshing && !ended;
    if (job && !ended)
        vd_list_add_tail(&d->await_filters, &job->link);
    if (first) {
        d->refreshing = true;
        d->refresh_holds = holds;
        d->refresh_job = (struct vd_job){.run = refresh_run, .slow = true};
    }
    pthread_mutex_unlock(&d->mu);
    if (first)
        vd_lane_queue(d->ds->opener, &d->refresh_job);
    return job ? !ended : first;
}

/* No client keeps the disk for it. Not where it is being detached: that would wait for the opener's threads, which may all be opens
 * that wait for the detach. */
void vd__filters_refresh_soon(struct vd_disk *d)
{
    pthread_mutex_lock(&d->ds->mu);
    bool there = d->life == LIFE_ATTACHED;
    d->refs += there;
    pthread_mutex_unlock(&d->ds->mu);
    if (there && !refresh_and_queue(d, NULL, true))
        vd_disk_put(d);
}

/* IO comes here again when the chain is the one of the records. */
static void await_filters(struct vd_disk *d, struct io *io)
{
    io->job.run = again;
    io->job.slow = true;
    if (!refresh_and_queue(d, &io->job, false))
        end_later(io, -EIO);
}

static void again(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    struct vd_disk *d = io->d;
    struct vd_disks *ds = d->ds;
    struct request q = from_io(io);
    unsigned ticket;
    int r = make_current(d, q.kind);
    if (r < 0) {
        end_later(io, r);
        return;
    }
    if (atomic_load(&d->filters_stale)) {
        await_filters(d, io);
        return;
    }
    if (!vd__pause_enter(&d->requests, &io->job, &ticket))
        return;                           /* parked: comes here again */
    if (atomic_load(&d->filters_ended)) { /* the mount was torn down under it */
        vd__pause_leave(&d->requests, ticket);
        end_later(io, -EIO);
        return;
    }
    dispatch(d, &q, ticket);
    vd__disk_io_put(ds, io); /* its data have been copied, or written */
}

static void later(struct vd_disk *d, const struct request *q)
{
    struct io *io = vd__request_keep(d, q);
    if (!io) {
        count(d, C_ERRORS, 1);
        q->done(q->user, -ENOMEM, NULL);
        return;
    }
    if (q->kind == IO_READ && !atomic_load(&d->filters_stale)) {
        vd__run_or_queue(io, again);
        return;
    }
    io->job.run = again;
    io->job.slow = true;
    vd_lane_queue(d->lane, &io->job);
}

void vd__disk_again(struct vd_disk *d, const struct request *q, unsigned ticket)
{
    bool ended = atomic_load(&d->filters_ended);
    struct io *io = ended ? NULL : vd__request_keep(d, q);
    if (!io) {
        count(d, C_ERRORS, 1);
        vd__disk_answer(d, ticket, q->done, q->user, ended ? -EIO : -ENOMEM, NULL);
        return;
    }
    io->job.run = again;
    io->job.slow = true;
    vd_lane_queue(
        d->lane,
        &io->job); /* before the ticket goes: the lane is there until then, and ends with no job left */
    vd__pause_leave(&d->requests, ticket);
}

static void enter(struct vd_disk *d, const struct request *q)
{
    unsigned ticket;
    if (!is_current(d, q->kind) || !vd__pause_enter(&d->requests, NULL, &ticket))
        later(d, q);
    else
        dispatch(d, q, ticket);
}

/* ---- requests ---- */

void vd_disk_read(struct vd_disk *d, uint64_t off, size_t len, vd_disk_done done, void *user)
{
    if (out_of_range(off, len))
        done(user, -EINVAL, NULL);
    else if (len == 0)
        done(user, 0, NULL);
    else
        enter(d, &(struct request){.kind = IO_READ,
                                   .off = off,
                                   .len = vd_min(len, (size_t)VD_IO_MAX_BYTES),
                                   .done = done,
                                   .user = user});
}

void vd_disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len, vd_disk_done done,
                   void *user)
{
    if (out_of_range(off, len))
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else if (len == 0)
        done(user, 0, NULL);
    else
        enter(d, &(struct request){.kind = IO_WRITE,
                                   .off = off,
                                   .len = vd_min(len, (size_t)VD_IO_MAX_BYTES),
                                   .data = data,
                                   .done = done,
                                   .user = user});
}

void vd_disk_flush(struct vd_disk *d, bool data_only, vd_disk_done done, void *user)
{
    enter(d, &(struct request){.kind = IO_FLUSH, .arg = data_only, .done = done, .user = user});
}

void vd_disk_zero(struct vd_disk *d, enum vd_zero_mode mode, uint64_t off, uint64_t len,
                  vd_disk_done done, void *user)
{
    if (out_of_range(off, len))
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else if (len == 0)
        done(user, -EINVAL, NULL);
    else
        enter(
            d,
            &(struct request){
                .kind = IO_ZERO, .arg = mode, .off = off, .len = len, .done = done, .user = user});
}

void vd_disk_truncate(struct vd_disk *d, uint64_t size, vd_disk_done done, void *user)
{
    if (size > OFF_MAX)
        done(user, -EFBIG, NULL);
    else if (d->ds->config.read_only)
        done(user, -EROFS, NULL);
    else
        enter(d, &(struct request){.kind = IO_TRUNCATE, .off = size, .done = done, .user = user});
}

void vd_disk_seek(struct vd_disk *d, uint64_t off, int whence, vd_disk_done done, void *user)
{
    if (off > OFF_MAX)
        done(user, -ENXIO, NULL);
    else
        enter(d, &(struct request){
                     .kind = IO_SEEK, .arg = whence, .off = off, .done = done, .user = user});
}

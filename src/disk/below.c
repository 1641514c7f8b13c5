// SPDX-License-Identifier: Apache-2.0
/*
 * What stands below a disk's last filter, for src/filter, and how a client's request gets to the first. Operations of files and of
 * filters are not the same: a hole that is punched is a DISCARD, other zeroes a ZERO; an allocation, which changes no
 * byte, and a new size pass the filters by, but for the event.
 */
#include "disk.h"

#include <assert.h>
#include <string.h>

#include "vd_log.h"
#include "vd_meta_filter.h"

#define OFF_MAX ((uint64_t)VD_OWNER_LOCK_OFF)

static_assert(VD_FILTER_DATA_MAX == VD_META_FILTER_DATA, "what filters are promised is kept");

/* ---- below the last filter ---- */

static void below_read(void *disk, uint64_t off, size_t len, bool changed, vd_filter_done done,
                       void *user)
{
    vd__disk_read(disk, off, len, changed, NO_TICKET, done, user);
}

static void below_write(void *disk, uint64_t off, const void *data, size_t len, vd_filter_done done,
                        void *user)
{
    vd__disk_write(disk, off, data, len, NO_TICKET, done, user);
}

static enum io_kind kind_of(enum vd_filter_op op, unsigned flags, int *ret_arg)
{
    switch (op) {
    case VD_FILTER_FLUSH:
        *ret_arg = (flags & VD_FILTER_DATA_ONLY) != 0;
        return IO_FLUSH;
    case VD_FILTER_DISCARD:
        *ret_arg = VD_ZERO_PUNCH;
        return IO_ZERO;
    default:
        *ret_arg = flags & VD_FILTER_EXTEND ? VD_ZERO_EXTEND : VD_ZERO_KEEP;
        return IO_ZERO;
    }
}

static void below_change(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off,
                         uint64_t len, vd_filter_done done, void *user)
{
    int arg;
    enum io_kind kind = kind_of(op, flags, &arg);
    vd__disk_change(disk, kind, arg, off, len, NO_TICKET, done, user);
}

static bool out_of_range(uint64_t off, uint64_t len)
{
    return off > OFF_MAX || len > OFF_MAX - off;
}

static ssize_t below_read_now(void *disk, uint64_t off, void *buf, size_t len)
{
    return out_of_range(off, len) ? -EINVAL : vd__disk_read_now(disk, off, buf, len);
}

static ssize_t below_write_now(void *disk, uint64_t off, const void *data, size_t len)
{
    struct vd_disk *d = disk;
    if (out_of_range(off, len))
        return -EFBIG;
    return d->ds->config.read_only ? -EROFS : vd__disk_write_now(d, off, data, len);
}

static int below_change_now(void *disk, enum vd_filter_op op, unsigned flags, uint64_t off,
                            uint64_t len)
{
    struct vd_disk *d = disk;
    int arg;
    enum io_kind kind = kind_of(op, flags, &arg);
    if (out_of_range(off, len))
        return -EFBIG;
    if (kind != IO_FLUSH && d->ds->config.read_only)
        return -EROFS;
    return kind != IO_FLUSH && !len ? 0 : vd__disk_change_now(d, kind, arg, off, len);
}

static int64_t below_next_data(void *disk, uint64_t off)
{
    return out_of_range(off, 0) ? -ENXIO : vd__disk_seek_now(disk, off, SEEK_DATA);
}

static uint64_t below_size(void *disk)
{
    struct vd_disk *d = disk;
    return atomic_load(&d->size_bytes);
}

static uint64_t below_epoch(void *disk)
{
    struct vd_disk *d = disk;
    return atomic_load(&d->content);
}

static int64_t below_get_data(void *disk, const char *filter, const char *key, void *buf,
                              size_t len)
{
    struct vd_disk *d = disk;
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    int r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_READ, &m, why);
    return r < 0 ? r : vd_meta_get_filter_data(m, filter, key, buf, len);
}

/* BUF NULL: removes. */
static int change_data(struct vd_disk *d, const char *filter, const char *key, const void *buf,
                       size_t len)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY];
    int r = vd_disk_own(d, why);
    if (r == 0)
        r = vd_meta_open(d->ds->config.meta, &d->uuid, VD_META_WRITE, &m, why);
    if (r == 0)
        r = buf ? vd_meta_put_filter_data(m, filter, key, buf, len)
                : vd_meta_del_filter_data(m, filter, key);
    if (r == -ENOENT && !buf)
        return 0;
    return r < 0 ? r : vd_meta_commit(m);
}

static int below_put_data(void *disk, const char *filter, const char *key, const void *buf,
                          size_t len)
{
    return change_data(disk, filter, key, len ? buf : "", len);
}

static int below_del_data(void *disk, const char *filter, const char *key)
{
    return change_data(disk, filter, key, NULL, 0);
}

static void below_queue(void *disk, struct vd_job *job)
{
    struct vd_disk *d = disk;
    vd_lane_queue(d->upcalls, job);
}

/* Who comes by itself finds a disk that is another mount's as a request would (gate.c). */
static int below_enter(void *disk, unsigned *ret_ticket)
{
    struct vd_disk *d = disk;
    char why[VD_META_WHY] = "";
    if (atomic_load(&d->filters_ended))
        return -ESHUTDOWN;
    if (vd__disk_is_anothers(d))
        (void)!vd__disk_follow(d, why);
    *ret_ticket = vd__pause_wait(&d->requests);
    if (!atomic_load(&d->filters_ended))
        return 0;
    vd__pause_leave(&d->requests, *ret_ticket);
    return -ESHUTDOWN;
}

/* A filter's own thread cannot wait for new filters: it may be the one that its `detach` waits for. */
static int below_leave(void *disk, unsigned ticket, bool has_read)
{
    struct vd_disk *d = disk;
    bool others = has_read ? vd__filters_are_others(d) : atomic_load(&d->filters_stale);
    if (others)
        vd__filters_refresh_soon(d);
    vd__pause_leave(&d->requests, ticket);
    return has_read && others ? -EIO : 0;
}

static bool below_others(void *disk)
{
    return vd__filters_are_others(disk);
}

/* A read that met other filters than the disk has by now, or whose filters read what did, begins anew (read.c). */
static void below_finish(void *disk, const struct vd_filter_submit *s, ssize_t result,
                         const void *data)
{
    struct vd_disk *d = disk;
    if (s->op != VD_FILTER_READ || !vd__filters_are_others(d)) {
        vd__disk_answer(d, s->ticket, s->done, s->user, result, data);
        return;
    }
    const struct request q = {
        .kind = IO_READ, .off = s->off, .len = s->len, .done = s->done, .user = s->user};
    vd__disk_again(d, &q, s->ticket);
}

const struct vd_filter_below vd__below = {
    .read = below_read,
    .write = below_write,
    .change = below_change,
    .read_now = below_read_now,
    .write_now = below_write_now,
    .change_now = below_change_now,
    .next_data = below_next_data,
    .size = below_size,
    .epoch = below_epoch,
    .get_data = below_get_data,
    .put_data = below_put_data,
    .del_data = below_del_data,
    .queue = below_queue,
    .enter = below_enter,
    .leave = below_leave,
    .others = below_others,
    .finish = below_finish,
};

/* ---- to the first filter ---- */

/* The size that the disk will have after Q. */
static uint64_t size_after(struct vd_disk *d, enum io_kind kind, uint64_t off, uint64_t len)
{
    return kind == IO_TRUNCATE ? off : vd_max(atomic_load(&d->size_bytes), off + len);
}

static void resize_job(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    struct vd_disk *d = io->d;
    struct vd_disks *ds = d->ds;
    struct io q = *io;
    char why[VD_FILTER_WHY] = "";
    struct vd_filter_event e = {
        .size = sizeof(e),
        .old_bytes = atomic_load(&d->size_bytes),
        .new_bytes = size_after(d, io->kind, io->off, io->len),
    };
    e.type = e.new_bytes < e.old_bytes ? VD_FILTER_EVENT_SHRINK : VD_FILTER_EVENT_GROW;
    vd__disk_io_put(ds, io);
    int r =
        e.new_bytes == e.old_bytes ? 0 : vd_chain_event(vd_filtered_chain(d->filtered), &e, why);
    if (r == 0) {
        vd__disk_change(d, q.kind, q.arg, q.off, q.len, q.ticket, q.done, q.user);
        return;
    }
    vd_log_warning("%s: a change of its size is refused: %s", d->path, why);
    vd__disk_answer(d, q.ticket, q.done, q.user, r, NULL);
}

static void resize(struct vd_disk *d, struct vd_chain *c, const struct request *q, unsigned ticket)
{
    bool resizes = q->kind == IO_TRUNCATE || (q->kind == IO_ZERO && q->arg == (int)VD_ALLOC_EXTEND);
    if (vd_chain_refuses(c)) {
        vd__disk_answer(d, ticket, q->done, q->user, -EIO, NULL);
        return;
    }
    if (!resizes || !vd_chain_wants_events(c)) {
        vd__disk_change(d, q->kind, q->arg, q->off, q->len, ticket, q->done, q->user);
        return;
    }
    struct io *io = vd__request_keep(d, q);
    if (!io) {
        vd__disk_answer(d, ticket, q->done, q->user, -ENOMEM, NULL);
        return;
    }
    io->ticket = ticket;
    io->job.run = resize_job;
    io->job.slow = true;
    vd_lane_queue(d->upcalls, &io->job);
}

void vd__filters_submit(struct vd_disk *d, struct vd_chain *c, const struct request *q,
                        unsigned ticket)
{
    struct vd_filter_submit s = {
        .off = q->off,
        .len = q->len,
        .data = q->data,
        .ticket = ticket,
        .done = q->done,
        .user = q->user,
    };
    switch (q->kind) {
    case IO_READ:
        s.op = VD_FILTER_READ;
        break;
    case IO_WRITE:
        s.op = VD_FILTER_WRITE;
        break;
    case IO_FLUSH:
        s.op = VD_FILTER_FLUSH;
        s.flags = q->arg ? VD_FILTER_DATA_ONLY : 0;
        break;
    case IO_ZERO:
        if (q->arg == (int)VD_ZERO_PUNCH || q->arg == (int)VD_ZERO_KEEP ||
            q->arg == (int)VD_ZERO_EXTEND) {
            s.op = q->arg == (int)VD_ZERO_PUNCH ? VD_FILTER_DISCARD : VD_FILTER_ZERO;
            s.flags = q->arg == (int)VD_ZERO_EXTEND ? VD_FILTER_EXTEND : 0;
            break;
        }
        resize(d, c, q, ticket);
        return;
    default:
        resize(d, c, q, ticket);
        return;
    }
    vd_chain_submit(c, &s);
}

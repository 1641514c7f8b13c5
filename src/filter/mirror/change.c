// SPDX-License-Identifier: Apache-2.0
/*
 * Requests. A read passes, and is not even moved to a thread that may wait. A change
 *
 *   1 begins the period, if it is the first
 *   2 takes its range, alone: so that changes of the same bytes come to both images in one order, and a resync is not amid
 *     them. One that grows the disk takes all from the old end on: what it says of the end then holds. Where it has to wait
 *     it is deferred, and submitted again with the range held
 *   3 goes to the target: whether that works or not
 *   4 is passed to the disk
 *   5 in done: if the disk did not take it all the target may have more than the disk, so the range becomes dirty. Then
 *     the range is let go
 *
 * Between 1 and 2 the period may end (a release takes all ranges): then both are done again, without the range, since 1 waits.
 *
 * A flush makes the target durable before it passes.
 */
#include "mirror.h"

#include <errno.h>
#include <stdlib.h>

struct change {
    struct range range;
    uint64_t from,
        end; /* what becomes dirty if it fails; with the gap before it, behind the disk's end */
};

static struct change *change_of(struct range *r)
{
    return (struct change *)(void *)((char *)r - offsetof(struct change, range));
}

void mirror_change_failed(struct range *r)
{
    free(change_of(r));
}

/* May RQ make the disk longer? */
static bool may_grow(const struct vd_filter_request *rq)
{
    return rq->op == VD_FILTER_WRITE || (rq->op == VD_FILTER_ZERO && rq->flags & VD_FILTER_EXTEND);
}

static void set_range(const struct vd_filter_request *rq, uint64_t size, struct range *r)
{
    uint64_t end = rq->offset + rq->length;
    bool grows = may_grow(rq) && end > size;
    *r = (struct range){.first = grows && size < rq->offset ? size : rq->offset,
                        .end = grows ? UINT64_MAX : end,
                        .exclusive = true};
}

/* With the range held: is all as it was when it was taken? */
static bool still_good(struct mirror *m, const struct vd_filter_request *rq, const struct range *r)
{
    struct range now;
    set_range(rq, vd_filter_disk_size(m->disk), &now);
    pthread_mutex_lock(&m->mu);
    bool active = m->period == PERIOD_ACTIVE;
    pthread_mutex_unlock(&m->mu);
    return active && now.first >= r->first && now.end <= r->end;
}

/* ---- the target ---- */

/* With mu held: OFFSET to END was written, well or not, to T. */
static void written(struct mirror *m, const struct target *t, uint64_t from, uint64_t end, int r)
{
    if (r < 0 || m->target != t) {
        mirror_mark(m, from, end);
        mirror_note(m, from, end, true);
    } else {
        regions_add(&m->unsynced, from, end);
    }
}

static int write_target(struct mirror *m, struct target *t, const struct vd_filter_request *rq,
                        uint64_t size, uint64_t end)
{
    int r = end > size ? mirror_grow(m, t, size, end) : 0;
    if (r < 0)
        return r;
    if (rq->op == VD_FILTER_WRITE)
        return target_write(t, rq->data, rq->length, rq->offset);
    return target_zero(t, rq->offset, end - rq->offset, rq->op == VD_FILTER_DISCARD);
}

/* Step 3. */
static void apply(struct mirror *m, const struct vd_filter_request *rq, struct change *ch)
{
    uint64_t size = vd_filter_disk_size(m->disk), end = rq->offset + rq->length;
    if (!may_grow(rq) && end > size)
        end = size;
    if (end <= rq->offset)
        return;
    ch->from = end > size && size < rq->offset ? size : rq->offset;
    ch->end = end;
    pthread_mutex_lock(&m->mu);
    struct target *t = m->target ? target_ref(m->target) : NULL;
    if (t)
        mirror_note(m, ch->from, end, false);
    else
        mirror_mark(m, ch->from, end);
    /* The disk may be cut before this change comes to it, which then makes it longer again: with zeroes before it. */
    mirror_mark(m, m->shrink_to, end);
    pthread_mutex_unlock(&m->mu);
    if (!t)
        return;
    int r = write_target(m, t, rq, size, end);
    if (r < 0 && r != -E2BIG) /* that is zeroing by writing, which the resync does better */
        mirror_break(m, t, "cannot be written", r);
    pthread_mutex_lock(&m->mu);
    written(m, t, ch->from, end, r);
    pthread_mutex_unlock(&m->mu);
    target_unref(t);
}

/* ---- requests ---- */

static int change(struct mirror *m, struct vd_filter_request *rq)
{
    struct range *held = rq->self_data;
    struct change *ch = held ? change_of(held) : NULL;
    while (!held || !still_good(m, rq, held)) {
        if (held)
            range_drop(&m->ranges, held);
        held = NULL;
        int r = mirror_period_begin(m);
        if (r == 0 && !ch)
            ch = calloc(1, sizeof(*ch));
        if (r == 0 && !ch)
            r = -ENOMEM;
        if (r == 0) {
            set_range(rq, vd_filter_disk_size(m->disk), &ch->range);
            rq->self_data = &ch->range;
            r = range_enter(&m->ranges, &ch->range, rq, VD_FILTER_WAIT, NULL);
            if (r == VD_FILTER_DEFER)
                return r;
        }
        if (r < 0) {
            free(ch);
            rq->self_data = NULL;
            return r;
        }
        held = &ch->range;
    }
    ch->from = ch->end = 0;
    apply(m, rq, ch);
    return VD_FILTER_PASS;
}

static int flush(struct mirror *m)
{
    struct target *t = mirror_target(m);
    if (t)
        (void)mirror_sync(m, t);
    target_unref(t);
    return VD_FILTER_PASS;
}

int mirror_submit(void *self, struct vd_filter_request *rq)
{
    struct mirror *m = self;
    if (rq->op == VD_FILTER_READ || m->read_only)
        return VD_FILTER_PASS;
    if (!(rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    if (rq->op == VD_FILTER_FLUSH)
        return flush(m);
    if (rq->length == 0)
        return VD_FILTER_PASS;
    if (may_grow(rq) &&
        (rq->offset > REGIONS_MAX_BYTES || rq->length > REGIONS_MAX_BYTES - rq->offset))
        return -EFBIG;
    if (rq->offset > INT64_MAX || rq->length > INT64_MAX - rq->offset)
        return -EFBIG;
    return change(m, rq);
}

void mirror_done(void *self, struct vd_filter_request *rq)
{
    struct mirror *m = self;
    struct range *held = rq->self_data;
    if (!held)
        return;
    struct change *ch = change_of(held);
    rq->self_data = NULL;
    bool all = rq->op == VD_FILTER_WRITE ? rq->result == (int64_t)rq->length : rq->result == 0;
    if (!all && ch->end > ch->from) {
        pthread_mutex_lock(&m->mu);
        mirror_mark(m, ch->from, ch->end);
        mirror_note(m, ch->from, ch->end, true);
        pthread_mutex_unlock(&m->mu);
    }
    range_drop(&m->ranges, held);
    free(ch);
}

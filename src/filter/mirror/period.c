// SPDX-License-Identifier: Apache-2.0
/*
 * What is known of the target when the disk is opened. The record in the metadata (record.h) says "clean" after a
 * clean end, for the epoch and the sizes of that time. It is taken back, durably, before this mount changes the disk for the
 * first time; from then until it gives up ownership is a *period*.
 *
 * The record can be trusted at the begin of a period because this mount owns the disk then, exclusively: it makes itself the owner first
 * (by a value that means nothing), and reads the record after. Every mount that changes the disk has this filter and
 * takes the record back, so what is still clean was so all the time. Who changes it without the filter (it was missing there, and
 * not required) makes another epoch: so the record's must be that which is now, if the disk is this mount's already, or was not taken;
 * or that which was at attach. Of who takes the disk without the filter, and gives it back, between the attach and the first change,
 * nothing is seen.
 *
 * At attach nothing is put: who only reads must not become the owner.
 */
#include "mirror.h"

#include <errno.h>
#include <string.h>

#define OWN_KEY "own"
#define REST_MAX (16u << 20) /* bytes that are still copied at a release */

static int read_record(struct mirror *m, struct record *ret_rec)
{
    uint8_t bytes[RECORD_BYTES];
    int64_t n = vd_filter_get_data(m->disk, RECORD_KEY, bytes, sizeof(bytes));
    return n < 0 ? (int)n : record_decode(bytes, (size_t)n, ret_rec);
}

int mirror_put_record(struct mirror *m, const struct record *rec)
{
    uint8_t bytes[RECORD_BYTES];
    record_encode(rec, bytes);
    return vd_filter_put_data(m->disk, RECORD_KEY, bytes, sizeof(bytes));
}

bool mirror_record_is_good(struct mirror *m, uint64_t epoch)
{
    struct record rec;
    struct target_stat st;
    return read_record(m, &rec) == 0 && rec.clean && rec.epoch == epoch &&
           rec.disk_size == vd_filter_disk_size(m->disk) && target_stat_path(m->path, &st) == 0 &&
           target_stat_same(&st, &rec.target);
}

/* ---- its begin ---- */

/* This mount owns the disk; EPOCH was before. Is the target, which is opened, the same as the disk? */
static bool look(struct mirror *m, uint64_t epoch, bool *ret_was_clean)
{
    struct record rec;
    struct target_stat st;
    bool clean = read_record(m, &rec) == 0 && rec.clean;
    struct target *t = mirror_open(m);
    bool good = clean && t && (rec.epoch == epoch || rec.epoch == m->attach_epoch) &&
                rec.disk_size == vd_filter_disk_size(m->disk) && target_stat(t, &st) == 0 &&
                target_stat_same(&st, &rec.target);
    target_unref(t);
    *ret_was_clean = clean;
    return good;
}

static int start(struct mirror *m)
{
    uint64_t epoch = vd_filter_epoch(m->disk);
    bool was_clean;
    int r = vd_filter_put_data(m->disk, OWN_KEY, "1", 1);
    if (r < 0)
        return r;
    bool good = look(m, epoch, &was_clean);
    r = mirror_put_record(m, &(struct record){.clean = false});
    if (r < 0)
        return r;
    epoch = vd_filter_epoch(m->disk);
    pthread_mutex_lock(&m->mu);
    if (good && !m->touched && m->target)
        mirror_mark_none(m);
    else
        mirror_mark_all(m, was_clean || m->touched);
    m->period_epoch = epoch;
    m->snapshots = 0;
    m->resting = m->need_period = m->touched = false;
    mirror_poke(m);
    pthread_mutex_unlock(&m->mu);
    return 0;
}

int mirror_period_begin(struct mirror *m)
{
    pthread_mutex_lock(&m->mu);
    while (m->period == PERIOD_STARTING)
        pthread_cond_wait(&m->period_changed, &m->mu);
    if (m->period == PERIOD_ACTIVE) {
        pthread_mutex_unlock(&m->mu);
        return 0;
    }
    m->period = PERIOD_STARTING;
    pthread_mutex_unlock(&m->mu);
    int r = start(m);
    pthread_mutex_lock(&m->mu);
    m->period = r == 0 ? PERIOD_ACTIVE : PERIOD_NONE;
    pthread_cond_broadcast(&m->period_changed);
    pthread_mutex_unlock(&m->mu);
    return r;
}

bool mirror_period_lost(struct mirror *m, uint64_t now)
{
    if (m->period != PERIOD_ACTIVE || now == m->period_epoch)
        return false;
    m->period_epoch = now;
    if (m->snapshots == 0)
        return true;
    m->snapshots--;
    return false;
}

/* ---- its end ---- */

/* With all ranges held: copies OFFSET to END. */
static int copy_now(struct mirror *m, struct target *t, uint64_t offset, uint64_t end,
                    struct buffers *b)
{
    const struct window w = {.offset = offset, .end = end};
    int r = mirror_buffers_make(b, end - offset);
    if (r < 0)
        return r;
    int64_t n = vd_filter_read(m->disk, b->data, offset, end - offset);
    if (n != (int64_t)(end - offset))
        return n < 0 ? (int)n : -EIO;
    return mirror_copy_out(t, &w, b, m->compare);
}

/* With all ranges held: copies what is dirty, if that is little. */
static int copy_rest(struct mirror *m, struct target *t)
{
    uint64_t size = vd_filter_disk_size(m->disk), at = 0, offset, end;
    struct buffers b = {0};
    int r = 0;
    pthread_mutex_lock(&m->mu);
    if (m->target != t || m->need_period || m->shrink_to < size ||
        regions_bytes(&m->dirty, size) > REST_MAX)
        r = -EAGAIN;
    while (r == 0 && regions_next(&m->dirty, at, size, 1 << 20, &offset, &end)) {
        pthread_mutex_unlock(&m->mu);
        at = end;
        r = copy_now(m, t, offset, end < size ? end : size, &b);
        pthread_mutex_lock(&m->mu);
    }
    pthread_mutex_unlock(&m->mu);
    mirror_buffers_free(&b);
    return r;
}

/* With all ranges held: the record of a clean end. -EAGAIN: it is not clean. */
static int end_clean(struct mirror *m, struct target *t)
{
    uint64_t epoch = vd_filter_epoch(m->disk);
    struct record rec = {.clean = true, .epoch = epoch, .disk_size = vd_filter_disk_size(m->disk)};
    pthread_mutex_lock(&m->mu);
    bool lost = mirror_period_lost(m, epoch);
    pthread_mutex_unlock(&m->mu);
    int r = lost ? -EAGAIN : copy_rest(m, t);
    if (r == 0)
        r = target_set_size(t, rec.disk_size);
    if (r == 0)
        r = mirror_sync(m, t);
    if (r == 0)
        r = target_stat(t, &rec.target);
    return r < 0 ? r : mirror_put_record(m, &rec);
}

int mirror_release(struct mirror *m)
{
    struct range all = {.end = UINT64_MAX, .exclusive = true};
    pthread_mutex_lock(&m->mu);
    bool active = m->period == PERIOD_ACTIVE;
    pthread_mutex_unlock(&m->mu);
    if (!active)
        return 0;
    int r = range_wait(&m->ranges, &all, EVENT_WAIT_NS);
    if (r < 0) {
        vd_filter_why(m->disk, "requests under way do not end: it will be copied anew");
        return r;
    }
    pthread_mutex_lock(&m->mu);
    m->window.spoiled = true;
    pthread_mutex_unlock(&m->mu);
    struct target *t = mirror_target(m);
    bool clean = t && end_clean(m, t) == 0;
    pthread_mutex_lock(&m->mu);
    struct target *old = mirror_take_target(m);
    m->period = PERIOD_NONE;
    m->resting = true;
    if (clean)
        mirror_mark_none(m);
    else
        mirror_mark_all(m, true);
    pthread_mutex_unlock(&m->mu);
    range_drop(&m->ranges, &all);
    target_unref(old);
    target_unref(t);
    return 0;
}

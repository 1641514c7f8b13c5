// SPDX-License-Identifier: Apache-2.0
/*
 * The thread that makes target and disk the same again. It sleeps while they are.
 *
 *   BROKEN, or no target   tries every `retry` to open it
 *   RESYNC                 copies one dirty window after the other; when none is left: the end, below
 *   MIRRORED               looks every `retry` whether the target is still the file that the path leads to
 *
 * Guests write meanwhile. A window of the disk is read with no range held, since a service that this thread calls may
 * have to wait for requests to end, and those must not wait for us:
 *
 *   1 with the range of the window held, so that no change of it is under way: the window is begun
 *   2 it is read. Changes of it go on, to target and disk, and are noted
 *   3 with the range held again: what was read is written to the target, but for the bytes that were changed since 1. Those
 *     are in both already. Then the regions are not dirty any more
 *
 * What spoils a window: a break, a change that went to one of both only, more changes than there is room to note. It is
 * then copied again, by and by in smaller pieces.
 *
 * The end: with all ranges held, so that no change is under way, the target is given the disk's size, and the state is
 * MIRRORED. Before, the target was synced, so that what was flushed before is durable there, too.
 *
 * Where this mount does not own the disk, another may, and change it. What is copied then is not trusted: when
 * all is copied the disk is taken, and all compared once more.
 */
#include "mirror.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MAX (1u << 20)
#define BLOCK (64u << 10) /* zeroes are looked for in these */
#define POLL_NS (SECOND_NS / 50)

uint64_t mirror_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

int mirror_buffers_make(struct buffers *b, size_t bytes)
{
    if (b->bytes >= bytes)
        return 0;
    mirror_buffers_free(b);
    b->data = malloc(bytes);
    b->there = malloc(bytes);
    if (!b->data || !b->there) {
        mirror_buffers_free(b);
        return -ENOMEM;
    }
    b->bytes = bytes;
    return 0;
}

void mirror_buffers_free(struct buffers *b)
{
    free(b->data);
    free(b->there);
    *b = (struct buffers){0};
}

/* ---- copying out ---- */

static bool is_zero(const uint8_t *p, size_t len)
{
    return len == 0 || (*p == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* Zeroes make a hole, so that a sparse disk has a sparse copy. */
static int put_run(struct target *t, const uint8_t *data, uint8_t *there, size_t len,
                   uint64_t offset, bool zero, bool compare)
{
    if (compare && target_read(t, there, len, offset) == 0 && memcmp(data, there, len) == 0)
        return 0;
    int r = zero ? target_zero(t, offset, len, true) : -E2BIG;
    return r == -E2BIG ? target_write(t, data, len, offset) : r;
}

/* Bytes FROM to END of the window at OFFSET, in runs of blocks that are zero or not. */
static int put(struct target *t, const struct buffers *b, uint64_t offset, uint64_t from,
               uint64_t end, bool compare)
{
    int r = 0;
    while (from < end && r == 0) {
        const uint8_t *data = b->data + (from - offset);
        size_t len = 0, left = end - from, n;
        bool zero = is_zero(data, left < BLOCK ? left : BLOCK);
        do {
            n = left - len < BLOCK ? left - len : BLOCK;
            if (len && is_zero(data + len, n) != zero)
                break;
            len += n;
        } while (len < left);
        r = put_run(t, data, b->there + (from - offset), len, from, zero, compare);
        from += len;
    }
    return r;
}

int mirror_copy_out(struct target *t, const struct window *w, struct buffers *b, bool compare)
{
    uint64_t at = w->offset;
    int r = 0;
    for (unsigned i = 0; i < w->n && r == 0; i++) {
        r = put(t, b, w->offset, at, w->changed[i].offset, compare);
        at = w->changed[i].end;
    }
    return r < 0 ? r : put(t, b, w->offset, at, w->end, compare);
}

/* ---- one window ---- */

/* With mu held. Up to where dirty regions may be copied: not where the disk is about to be cut. */
static uint64_t limit(struct mirror *m)
{
    uint64_t size = vd_filter_disk_size(m->disk);
    if (m->shrink_to != UINT64_MAX &&
        (size <= m->shrink_to || mirror_now_ns() >= m->shrink_until_ns))
        m->shrink_to = UINT64_MAX;
    return m->shrink_to < size ? m->shrink_to : size;
}

/* With mu held: the next window, at or behind the cursor, else from the beginning. */
static bool next_window(struct mirror *m, uint64_t *ret_offset, uint64_t *ret_end)
{
    uint64_t end = limit(m);
    if (!regions_next(&m->dirty, m->cursor, end, m->chunk, ret_offset, ret_end) &&
        !regions_next(&m->dirty, 0, end, m->chunk, ret_offset, ret_end))
        return false;
    if (*ret_end > end)
        *ret_end = end;
    return true;
}

/* Step 1. */
static int begin_window(struct mirror *m, uint64_t offset, uint64_t end)
{
    struct range range = {.first = offset, .end = end, .exclusive = true};
    int r = range_wait(&m->ranges, &range, FOREVER);
    if (r < 0)
        return r;
    pthread_mutex_lock(&m->mu);
    m->window = (struct window){.active = true, .offset = offset, .end = end};
    pthread_mutex_unlock(&m->mu);
    range_drop(&m->ranges, &range);
    return 0;
}

/* With mu held, and the window's range: what was read may be written, or was. */
static bool window_is_good(const struct mirror *m, const struct target *t)
{
    return !m->window.spoiled && m->target == t;
}

/* With mu held: it was written. LAST: nothing behind it can be changed now. */
static void count_copied(struct mirror *m, const struct window *w, bool last)
{
    uint64_t size = last ? vd_filter_disk_size(m->disk) : UINT64_MAX;
    regions_remove(&m->dirty, w->offset, w->end, size);
    m->copied_bytes += w->end - w->offset;
    m->cursor = w->end;
    m->chunk = 2 * m->chunk < CHUNK_MAX ? 2 * m->chunk : CHUNK_MAX;
}

/* Step 3 of OFFSET to END, which was read. The last window, at the disk's end, takes all behind it, too: else the disk could be
 * made longer by a change under way, that came before it was cut, and the rest of the last region would not be dirty. */
static int end_window(struct mirror *m, struct target *t, uint64_t offset, uint64_t end)
{
    bool last = end >= vd_filter_disk_size(m->disk);
    struct range range = {.first = offset, .end = last ? UINT64_MAX : end, .exclusive = true};
    int r = range_wait(&m->ranges, &range, FOREVER);
    if (r < 0)
        return r;
    pthread_mutex_lock(&m->mu);
    struct window w = m->window;
    bool good = window_is_good(m, t), compare = m->compare;
    if (good && m->period != PERIOD_ACTIVE)
        m->touched = true;
    pthread_mutex_unlock(&m->mu);
    if (good) {
        r = mirror_copy_out(t, &w, &m->buffers, compare);
        if (r < 0)
            mirror_break(m, t, "cannot be written", r);
    }
    pthread_mutex_lock(&m->mu);
    if (good && m->target == t)
        regions_add(&m->unsynced, offset, end);
    if (good && r == 0 && window_is_good(m, t))
        count_copied(m, &w, last);
    else
        m->chunk = m->chunk / 2 > BLOCK ? m->chunk / 2 : BLOCK;
    m->window.active = false;
    pthread_mutex_unlock(&m->mu);
    range_drop(&m->ranges, &range);
    return 0;
}

/* The disk could not be read: tells of it, and goes on behind. */
static uint64_t cannot_read(struct mirror *m, uint64_t offset, uint64_t end, int error)
{
    char why[TARGET_WHY], text[TARGET_WHY + 64];
    snprintf(why, sizeof(why), "the disk cannot be read at %llu: %s", (unsigned long long)offset,
             strerror(-error));
    snprintf(text, sizeof(text), "resync: %s", why);
    pthread_mutex_lock(&m->mu);
    m->window.active = false;
    bool say = error != -ESHUTDOWN && !m->read_said;
    if (error != -ESHUTDOWN) {
        m->read_said = true;
        snprintf(m->last_error, sizeof(m->last_error), "%s", why);
    }
    m->cursor = end;
    pthread_mutex_unlock(&m->mu);
    if (say)
        vd_filter_log(m->disk, VD_FILTER_LOG_WARNING, text);
    return m->retry_ns;
}

static uint64_t copy_window(struct mirror *m, struct target *t, uint64_t offset, uint64_t end)
{
    if (mirror_buffers_make(&m->buffers, end - offset) < 0 || begin_window(m, offset, end) < 0)
        return m->retry_ns;
    int64_t n = vd_filter_read(m->disk, m->buffers.data, offset, end - offset);
    if (n < 0)
        return cannot_read(m, offset, end, (int)n);
    if ((uint64_t)n < end - offset) { /* it is being cut just now */
        pthread_mutex_lock(&m->mu);
        m->window.active = false;
        pthread_mutex_unlock(&m->mu);
        return POLL_NS;
    }
    if (end_window(m, t, offset, end) < 0)
        return m->retry_ns;
    return m->rate ? (uint64_t)((double)(end - offset) / (double)m->rate * 1e9) : 0;
}

/* ---- the end of a resync, and after ---- */

/* With mu held: T differs from the disk, of SIZE bytes, at most behind that. */
static bool is_same(struct mirror *m, const struct target *t, uint64_t size)
{
    uint64_t offset, end;
    return m->target == t && m->period == PERIOD_ACTIVE && limit(m) == size &&
           !regions_next(&m->dirty, 0, size, 1, &offset, &end);
}

/* With all ranges held for a moment: same sizes, and nothing is dirty. True: MIRRORED. */
static bool settle(struct mirror *m, struct target *t)
{
    struct range all = {.end = UINT64_MAX, .exclusive = true};
    if (range_wait(&m->ranges, &all, FOREVER) < 0)
        return false;
    uint64_t size = vd_filter_disk_size(m->disk);
    pthread_mutex_lock(&m->mu);
    bool good = is_same(m, t, size);
    pthread_mutex_unlock(&m->mu);
    int r = good ? target_set_size(t, size) : 0;
    pthread_mutex_lock(&m->mu);
    good = good && r == 0 && is_same(m, t, size); /* a cut of the disk may have been announced */
    if (good) {
        m->last_size = t->block ? 0 : size;
        m->logged[0] = '\0';
        m->read_said = false;
        mirror_settled(m, t, size);
    }
    pthread_mutex_unlock(&m->mu);
    range_drop(&m->ranges, &all);
    if (r < 0)
        mirror_break(m, t, "cannot be given the disk's size", r);
    return good;
}

/* All is copied. */
static uint64_t finish(struct mirror *m, struct target *t)
{
    if (mirror_sync(m, t) < 0)
        return 0;
    pthread_mutex_lock(&m->mu);
    bool active = m->period == PERIOD_ACTIVE;
    if (!active)
        m->need_period = true;
    bool waits = limit(m) != vd_filter_disk_size(m->disk);
    pthread_mutex_unlock(&m->mu);
    if (!active)
        return 0;
    if (waits)
        return POLL_NS;
    if (!settle(m, t))
        return 0;
    (void)mirror_sync(m, t); /* its size */
    vd_filter_log(m->disk, VD_FILTER_LOG_NOTE, "the mirror is the same as the disk again");
    return 0;
}

/* What was copied counts for nothing before this mount owns the disk. A refusal is no break. */
static uint64_t take_disk(struct mirror *m)
{
    struct target *old = NULL;
    int r = mirror_period_begin(m);
    if (r == 0)
        return 0;
    pthread_mutex_lock(&m->mu);
    /* Whoever owns the disk may have a mirror, which wants the target. */
    if (m->period == PERIOD_NONE) {
        old = mirror_take_target(m);
        mirror_mark_all(m, true);
        snprintf(m->last_error, sizeof(m->last_error), "the disk cannot be owned: %s",
                 strerror(-r));
    }
    pthread_mutex_unlock(&m->mu);
    target_unref(old);
    return m->retry_ns;
}

/* Is all well with the target? */
static uint64_t look(struct mirror *m, struct target *t)
{
    uint64_t size = vd_filter_disk_size(m->disk), now = 0, epoch = vd_filter_epoch(m->disk);
    int r = target_check_path(t, m->path);
    if (r < 0) {
        mirror_break(m, t, r == -ESTALE ? "another file has taken its place" : "is gone", r);
        return 0;
    }
    pthread_mutex_lock(&m->mu);
    bool lost = mirror_period_lost(m, epoch);
    if (lost)
        mirror_mark_all(m, true);
    else if (regions_touch(&m->dirty, 0, size)) /* of a device, behind an end that has moved */
        mirror_set_state(m, RESYNC);
    pthread_mutex_unlock(&m->mu);
    if (lost)
        vd_filter_log(m->disk, VD_FILTER_LOG_WARNING,
                      "the disk was another owner's meanwhile: all is compared anew");
    else if (!t->block && target_size(t, &now) == 0 && now != size)
        (void)settle(m, t);
    return m->retry_ns;
}

/* ---- the thread ---- */

/* There is no target. */
static uint64_t reopen(struct mirror *m)
{
    pthread_mutex_lock(&m->mu);
    bool none = m->period == PERIOD_NONE;
    pthread_mutex_unlock(&m->mu);
    /* Another mount may have brought it to a clean end. */
    if (none && mirror_record_is_good(m, vd_filter_epoch(m->disk))) {
        pthread_mutex_lock(&m->mu);
        none = m->period == PERIOD_NONE && !m->target && !m->touched;
        if (none) {
            mirror_mark_none(m);
            m->need_period = false;
        }
        pthread_mutex_unlock(&m->mu);
        if (none)
            return 0;
    }
    struct target *t = mirror_open(m);
    if (!t)
        return m->retry_ns;
    target_unref(t);
    return 0;
}

/* What is to be done now. A target, with a reference, in RET_T where it takes one. */
static enum mirror_step choose(struct mirror *m, struct target **ret_t, uint64_t *ret_offset,
                               uint64_t *ret_end)
{
    if (m->resting || (m->state == MIRRORED && !m->target))
        return STEP_NONE;
    if (m->need_period)
        return STEP_OWN;
    if (!m->target)
        return STEP_OPEN;
    *ret_t = target_ref(m->target);
    if (m->state == MIRRORED)
        return STEP_LOOK;
    return next_window(m, ret_offset, ret_end) ? STEP_COPY : STEP_FINISH;
}

/* One step, if it is time for it. Returns how long to wait before the next. */
static uint64_t take_step(struct mirror *m)
{
    struct target *t = NULL;
    uint64_t offset = 0, end = 0, wait = 0, now = mirror_now_ns();
    pthread_mutex_lock(&m->mu);
    enum mirror_step step = choose(m, &t, &offset, &end);
    pthread_mutex_unlock(&m->mu);
    if (step == STEP_NONE || now < m->not_before_ns[step]) {
        target_unref(t);
        return step == STEP_NONE ? FOREVER : m->not_before_ns[step] - now;
    }
    if (step == STEP_OWN)
        wait = take_disk(m);
    else if (step == STEP_OPEN)
        wait = reopen(m);
    else if (step == STEP_LOOK)
        wait = look(m, t);
    else if (step == STEP_COPY)
        wait = copy_window(m, t, offset, end);
    else
        wait = finish(m, t);
    target_unref(t);
    m->not_before_ns[step] = mirror_now_ns() + wait;
    return 0;
}

static void sleep_for(struct mirror *m, uint64_t ns)
{
    uint64_t until = ns == FOREVER ? 0 : mirror_now_ns() + ns;
    struct timespec t = {.tv_sec = (time_t)(until / SECOND_NS),
                         .tv_nsec = (long)(until % SECOND_NS)};
    pthread_mutex_lock(&m->mu);
    int late = 0;
    while (!m->stop && !m->poked && late == 0) {
        if (ns == FOREVER)
            pthread_cond_wait(&m->wake, &m->mu);
        else
            late = pthread_cond_timedwait(&m->wake, &m->mu, &t);
    }
    m->poked = false;
    pthread_mutex_unlock(&m->mu);
}

static bool stopped(struct mirror *m)
{
    pthread_mutex_lock(&m->mu);
    bool stop = m->stop;
    pthread_mutex_unlock(&m->mu);
    return stop;
}

static void *run(void *arg)
{
    struct mirror *m = arg;
    while (!stopped(m)) {
        uint64_t wait = take_step(m);
        if (wait)
            sleep_for(m, wait);
    }
    return NULL;
}

int mirror_thread_start(struct mirror *m)
{
    sigset_t all, old;
    m->chunk = CHUNK_MAX;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the daemon's own threads */
    int r = -pthread_create(&m->thread, NULL, run, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    m->running = r == 0;
    return r;
}

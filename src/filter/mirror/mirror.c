// SPDX-License-Identifier: Apache-2.0
/*
 * mirror: every change of the disk goes to a second image, too.
 *
 * The guest never sees an error of the target. If it fails it is given up (a break), the disk goes on alone, and what is
 * changed meanwhile is remembered, in memory. The mirror's own thread tries to open it anew, and copies what differs with
 * the guest going on (resync.c). In the end both images are the same, byte for byte, at every instant at which no change is
 * under way. What must hold for that stands at the parts (mirror.h): the order of changes in change.c, what is dirty in
 * state.c, windows in resync.c, and what survives a crash in period.c.
 *
 * Changes run on threads that may wait, several at a time; reads pass where they are.
 *
 * Sizes. A change of the disk's size is only told of beforehand, and may then be refused by others. Growing: the target
 * is extended at once; if the disk then does not grow, the thread finds that the sizes differ (look, in resync.c). To be
 * cut: the part that goes becomes dirty, and what is changed behind the new end, too. It is not copied before the disk
 * is seen to be shorter, or a minute has gone by. The target is cut when the resync ends, or the disk grows again.
 */
#include "mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SHRINK_WAIT_NS (60 * SECOND_NS)

enum option { TARGET, CREATE, RETRY, RESYNC_RATE, SYNC };

static const struct vd_filter_option options[] = {
    [TARGET] = {.key = "target",
                .type = VD_FILTER_PATH,
                .must = true,
                .help = "the second image: a file or block device"},
    [CREATE] = {.key = "create",
                .type = VD_FILTER_BOOL,
                .default_value = "yes",
                .help = "make the target if it is missing, extend it if it is short"},
    [RETRY] = {.key = "retry",
               .type = VD_FILTER_DURATION,
               .default_value = "1s",
               .min = 10000000,
               .max = 3600 * SECOND_NS,
               .help = "time between two attempts to open the target after a break"},
    [RESYNC_RATE] = {.key = "resync-rate",
                     .type = VD_FILTER_SIZE,
                     .default_value = "0",
                     .help = "bytes a second that a resync copies at most; 0: no limit"},
    [SYNC] = {.key = "sync",
              .type = VD_FILTER_BOOL,
              .default_value = "yes",
              .help = "copy the disk at first; no: both are the same already"},
    {0},
};

static int say(struct vd_filter_disk *disk, int r, const char *why)
{
    vd_filter_why(disk, why);
    return r;
}

/* ---- attaching ---- */

static void mirror_free(struct mirror *m)
{
    target_unref(m->target);
    mirror_buffers_free(&m->buffers);
    regions_free(&m->dirty);
    regions_free(&m->unsynced);
    regions_free(&m->syncing);
    range_lock_destroy(&m->ranges);
    pthread_cond_destroy(&m->wake);
    pthread_cond_destroy(&m->period_changed);
    pthread_mutex_destroy(&m->open_mu);
    pthread_mutex_destroy(&m->sync_mu);
    pthread_mutex_destroy(&m->mu);
    free(m->path);
    free(m);
}

static struct mirror *mirror_new(struct vd_filter_disk *disk,
                                 const struct vd_filter_disk_info *info)
{
    const struct vd_filter_value *v = info->values;
    pthread_condattr_t attr;
    struct mirror *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->disk = disk;
    m->create = v[CREATE].number;
    m->read_only = info->read_only;
    m->retry_ns = v[RETRY].number;
    m->rate = v[RESYNC_RATE].number;
    m->disk_dev = info->dev;
    m->disk_ino = info->ino;
    m->attach_epoch = info->epoch;
    m->state = RESYNC;
    m->since = time(NULL);
    m->shrink_to = UINT64_MAX;
    pthread_mutex_init(&m->open_mu, NULL);
    pthread_mutex_init(&m->sync_mu, NULL);
    pthread_mutex_init(&m->mu, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&m->wake, &attr);
    pthread_cond_init(&m->period_changed, NULL);
    pthread_condattr_destroy(&attr);
    if (range_lock_init(&m->ranges, disk, mirror_change_failed) == 0 &&
        (m->path = strdup(v[TARGET].text)) != NULL &&
        regions_init(&m->dirty, info->size_bytes) == 0 &&
        regions_init(&m->unsynced, info->size_bytes) == 0 &&
        regions_init(&m->syncing, info->size_bytes) == 0)
        return m;
    mirror_free(m);
    return NULL;
}

/* A user attaches it, and is told what is wrong with the target. The disk is this mount's, so the first period begins here. */
static int first_attach(struct mirror *m, bool sync, uint64_t size)
{
    char why[TARGET_WHY];
    struct record rec = {.clean = !sync, .disk_size = size};
    struct target_wanted w = {.path = m->path,
                              .dev = m->disk_dev,
                              .ino = m->disk_ino,
                              .size_bytes = size,
                              .create = m->create && sync,
                              .exact = !sync};
    struct target *t = NULL;
    if (m->read_only)
        return say(m->disk, -EROFS, "this mount is read-only, so the disk cannot be mirrored");
    int r = target_open(&w, &t, why);
    if (r == 0 && !t->block && t->found_bytes > size) {
        target_unref(t);
        return say(m->disk, -EEXIST,
                   "the target is larger than the disk, so it is not its copy: "
                   "remove it, or name another");
    }
    if (r < 0)
        return say(m->disk, r, why);
    r = mirror_put_record(m, &(struct record){.clean = false}); /* owns the disk */
    rec.epoch = vd_filter_epoch(m->disk);
    if (r == 0 && !sync)
        r = target_stat(t, &rec.target);
    if (r == 0 && !sync)
        r = mirror_put_record(m, &rec);
    if (r < 0) {
        target_unref(t);
        return say(m->disk, r, "its state cannot be kept in the metadata");
    }
    m->attach_epoch = rec.epoch;
    if (!sync) {
        target_unref(t);
        mirror_mark_none(m);
        return 0;
    }
    m->target = t;
    m->had_target = true;
    m->last_id = t->id;
    m->last_size = t->block ? 0 : size;
    m->parent_dev = target_parent_dev(m->path);
    m->period = PERIOD_ACTIVE;
    m->period_epoch = rec.epoch;
    return 0;
}

static int mirror_attach(struct vd_filter_disk *disk, const struct vd_filter_disk_info *info,
                         void **ret_self)
{
    if (info->size_bytes > REGIONS_MAX_BYTES)
        return say(disk, -EFBIG, "the disk is larger than 4 PiB");
    struct mirror *m = mirror_new(disk, info);
    if (!m)
        return -ENOMEM;
    mirror_mark_all(m, false);
    int r = 0;
    if (info->fresh)
        r = first_attach(m, info->values[SYNC].number, info->size_bytes);
    else if (mirror_record_is_good(m, info->epoch))
        mirror_mark_none(m);
    else
        m->compare = true;
    if (r < 0) {
        mirror_free(m);
        return r;
    }
    *ret_self = m;
    return 0;
}

static void mirror_start(void *self)
{
    struct mirror *m = self;
    if (!m->read_only && mirror_thread_start(m) < 0)
        vd_filter_log(m->disk, VD_FILTER_LOG_ERROR,
                      "no thread: after a break the mirror stays broken");
}

static void mirror_detach(void *self)
{
    struct mirror *m = self;
    pthread_mutex_lock(&m->mu);
    m->stop = true;
    pthread_cond_signal(&m->wake);
    pthread_mutex_unlock(&m->mu);
    if (m->running)
        pthread_join(m->thread, NULL);
    /* A user detaches it from a disk in use: what is there is a good copy now. */
    if (m->target && m->state == MIRRORED &&
        target_set_size(m->target, vd_filter_disk_size(m->disk)) == 0)
        (void)target_sync(m->target);
    mirror_free(m);
}

/* ---- sizes ---- */

/* The disk may grow to END. */
static int grows(struct mirror *m, uint64_t old, uint64_t end)
{
    struct range range = {.first = old, .end = UINT64_MAX, .exclusive = true};
    if (end > REGIONS_MAX_BYTES)
        return say(m->disk, -EFBIG, "a mirrored disk has at most 4 PiB");
    int r = range_wait(&m->ranges, &range, EVENT_WAIT_NS);
    bool held = r == 0;
    struct target *t = mirror_target(m);
    uint64_t size = vd_filter_disk_size(m->disk);
    if (held && t && size >= old) {
        r = mirror_grow(m, t, size, end > size ? end : size);
        if (r < 0)
            mirror_break(m, t, "cannot be extended", r);
    }
    pthread_mutex_lock(&m->mu);
    if (!held || r < 0 || m->target != t || !t || size < old)
        mirror_mark(m, size < old ? size : old, end);
    pthread_mutex_unlock(&m->mu);
    if (held)
        range_drop(&m->ranges, &range);
    target_unref(t);
    return 0;
}

/* The disk may be cut to END. It may be longer than OLD meanwhile, and changes may be under way. */
static void shrinks(struct mirror *m, uint64_t old, uint64_t end)
{
    uint64_t size = vd_filter_disk_size(m->disk);
    pthread_mutex_lock(&m->mu);
    mirror_mark(m, end, old > size ? old : size);
    m->window.spoiled = true;
    m->shrink_to = m->shrink_to < end ? m->shrink_to : end;
    m->shrink_until_ns = mirror_now_ns() + SHRINK_WAIT_NS;
    pthread_mutex_unlock(&m->mu);
}

static int mirror_event(void *self, const struct vd_filter_event *e)
{
    struct mirror *m = self;
    bool size = e->type == VD_FILTER_EVENT_GROW || e->type == VD_FILTER_EVENT_SHRINK;
    if (m->read_only)
        return 0;
    if (e->type == VD_FILTER_EVENT_RELEASE)
        return mirror_release(m);
    if (e->type == VD_FILTER_EVENT_SNAPSHOT) {
        pthread_mutex_lock(&m->mu);
        m->snapshots++;
        pthread_mutex_unlock(&m->mu);
    }
    if (!size)
        return 0;
    int r = mirror_period_begin(m);
    if (r < 0)
        return say(m->disk, r, "its state cannot be kept in the metadata");
    if (e->type == VD_FILTER_EVENT_GROW)
        return grows(m, e->old_bytes, e->new_bytes);
    shrinks(m, e->old_bytes, e->new_bytes);
    return 0;
}

static const struct vd_filter_ops ops = {
    .abi = VD_FILTER_ABI,
    .size = sizeof(struct vd_filter_ops),
    .name = "mirror",
    .description = "writes every change to a second image, too",
    .filter_class = VD_FILTER_CLASS_REPLICATION,
    .flags = VD_FILTER_REQUIRED,
    .options = options,
    .attach = mirror_attach,
    .start = mirror_start,
    .detach = mirror_detach,
    .submit = mirror_submit,
    .done = mirror_done,
    .event = mirror_event,
    .status = mirror_status,
};
VD_FILTER_EXPORT(ops);

// SPDX-License-Identifier: Apache-2.0
/*
 * What is known of the target. What must hold, with mu held, for every byte of the disk: the target has it, or its region is dirty,
 * or a change of it is under way and holds its range.
 *
 * A break takes the target away: what was written to it since its last good sync may be lost with it, so those
 * regions become dirty (`unsynced`, `syncing`). Who is writing to it at that time sees afterwards that it is not the target any more,
 * and marks its own.
 */
#include "mirror.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- with mu held ---- */

void mirror_set_state(struct mirror *m, enum mirror_state state)
{
    if (m->state == state)
        return;
    m->state = state;
    m->since = time(NULL);
}

void mirror_poke(struct mirror *m)
{
    m->poked = true;
    pthread_cond_signal(&m->wake);
}

void mirror_mark(struct mirror *m, uint64_t offset, uint64_t end)
{
    if (end <= offset)
        return;
    regions_add(&m->dirty, offset, end);
    if (m->state != MIRRORED)
        return;
    mirror_set_state(m, RESYNC);
    mirror_poke(m);
}

void mirror_mark_all(struct mirror *m, bool compare)
{
    mirror_mark(m, 0, vd_filter_disk_size(m->disk));
    if (m->state == MIRRORED) /* an empty disk */
        mirror_set_state(m, RESYNC);
    m->window.spoiled = true;
    m->compare = compare;
    mirror_poke(m);
}

void mirror_mark_none(struct mirror *m)
{
    regions_clear(&m->dirty);
    m->window.spoiled = true;
    m->compare = false;
    mirror_set_state(m, MIRRORED);
}

void mirror_settled(struct mirror *m, const struct target *t, uint64_t size)
{
    /* What a device has behind the end stays dirty, until the disk has grown over it. */
    if (t->block)
        regions_remove(&m->dirty, 0, size, size);
    else
        regions_clear(&m->dirty);
    m->window.spoiled = true;
    m->compare = false;
    mirror_set_state(m, MIRRORED);
}

/* Adds OFFSET to END to what was changed in W, in order and joined. False: there is no room. */
static bool add_note(struct window *w, uint64_t offset, uint64_t end)
{
    unsigned at = 0, behind;
    while (at < w->n && w->changed[at].end < offset)
        at++;
    for (behind = at; behind < w->n && w->changed[behind].offset <= end; behind++) {
        offset = w->changed[behind].offset < offset ? w->changed[behind].offset : offset;
        end = w->changed[behind].end > end ? w->changed[behind].end : end;
    }
    if (at == behind && w->n == WINDOW_NOTES)
        return false;
    memmove(&w->changed[at + 1], &w->changed[behind], (w->n - behind) * sizeof(w->changed[0]));
    w->changed[at].offset = offset;
    w->changed[at].end = end;
    w->n = w->n - (behind - at) + 1;
    return true;
}

void mirror_note(struct mirror *m, uint64_t offset, uint64_t end, bool spoil)
{
    struct window *w = &m->window;
    if (!w->active || offset >= w->end || end <= w->offset)
        return;
    offset = offset > w->offset ? offset : w->offset;
    end = end < w->end ? end : w->end;
    if (spoil || !add_note(w, offset, end))
        w->spoiled = true;
}

struct target *mirror_take_target(struct mirror *m)
{
    struct target *t = m->target;
    m->target = NULL;
    m->window.spoiled = true;
    regions_merge(&m->dirty, &m->syncing);
    regions_merge(&m->dirty, &m->unsynced);
    regions_clear(&m->syncing);
    regions_clear(&m->unsynced);
    return t;
}

/* ---- without ---- */

struct target *mirror_target(struct mirror *m)
{
    pthread_mutex_lock(&m->mu);
    struct target *t = m->target ? target_ref(m->target) : NULL;
    pthread_mutex_unlock(&m->mu);
    return t;
}

/* A break, for WHY: tells of it, once while it lasts. */
static void broken(struct mirror *m, const char *why)
{
    char text[TARGET_WHY + 128];
    pthread_mutex_lock(&m->mu);
    if (m->state != BROKEN)
        m->breaks++;
    mirror_set_state(m, BROKEN);
    snprintf(m->last_error, sizeof(m->last_error), "%s", why);
    bool say = strcmp(m->logged, why) != 0;
    snprintf(m->logged, sizeof(m->logged), "%s", why);
    mirror_poke(m);
    pthread_mutex_unlock(&m->mu);
    snprintf(text, sizeof(text), "the mirror is broken: %s; the disk goes on alone", why);
    if (say)
        vd_filter_log(m->disk, VD_FILTER_LOG_WARNING, text);
}

void mirror_break(struct mirror *m, struct target *t, const char *what, int error)
{
    char why[TARGET_WHY];
    struct target *old = NULL;
    pthread_mutex_lock(&m->mu);
    if (m->target == t) {
        old = mirror_take_target(m);
        mirror_set_state(m, BROKEN);
        m->breaks++;
    }
    pthread_mutex_unlock(&m->mu);
    if (!old)
        return;
    snprintf(why, sizeof(why), "%.200s: %s: %.60s", m->path, what, strerror(-error));
    broken(m, why);
    target_unref(old);
}

/* T is open, for a disk of SIZE bytes. If it is not surely the one before the break, as that was, nothing is known of it. */
static void adopt(struct mirror *m, struct target *t, uint64_t size, uint64_t parent_dev)
{
    pthread_mutex_lock(&m->mu);
    bool same = target_id_same(&t->id, &m->last_id) && t->found_bytes >= m->last_size;
    if (m->had_target && !same)
        mirror_mark_all(m, false);
    if (m->state == BROKEN)
        mirror_set_state(m, RESYNC);
    m->had_target = true;
    m->last_id = t->id;
    m->last_size = t->block ? 0 : size;
    m->parent_dev = parent_dev;
    m->target = target_ref(t);
    mirror_poke(m);
    pthread_mutex_unlock(&m->mu);
}

struct target *mirror_open(struct mirror *m)
{
    char why[TARGET_WHY];
    struct target *t;
    pthread_mutex_lock(&m->open_mu);
    t = mirror_target(m);
    if (t) {
        pthread_mutex_unlock(&m->open_mu);
        return t;
    }
    struct target_wanted w = {.path = m->path,
                              .dev = m->disk_dev,
                              .ino = m->disk_ino,
                              .size_bytes = vd_filter_disk_size(m->disk),
                              .create = m->create,
                              .parent_dev = m->parent_dev};
    int r = target_open(&w, &t, why);
    /* Perhaps the last one is about to be closed: who used it lets it go just now. */
    for (int i = 0; r == -EBUSY && i < 5; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
        r = target_open(&w, &t, why);
    }
    if (r == 0) {
        /* What lies behind the disk's end must not come back when that grows. What is written there from now on is dirty. */
        r = target_set_size(t, w.size_bytes);
        if (r == 0)
            adopt(m, t, w.size_bytes, target_parent_dev(m->path));
        else
            snprintf(why, sizeof(why), "%.200s: %.60s", m->path, strerror(-r));
        if (r < 0) {
            target_unref(t);
            t = NULL;
        }
    }
    if (r < 0)
        broken(m, why);
    pthread_mutex_unlock(&m->open_mu);
    return r < 0 ? NULL : t;
}

int mirror_sync(struct mirror *m, struct target *t)
{
    uint64_t came = atomic_load(&m->syncs_begun);
    pthread_mutex_lock(&m->sync_mu);
    if (m->synced == t && m->sync_good > came) { /* another's began after we came */
        pthread_mutex_unlock(&m->sync_mu);
        return 0;
    }
    uint64_t mine = atomic_fetch_add(&m->syncs_begun, 1) + 1;
    pthread_mutex_lock(&m->mu);
    if (m->target == t) {
        struct regions none = m->syncing;
        m->syncing = m->unsynced;
        m->unsynced = none;
    }
    pthread_mutex_unlock(&m->mu);
    int r = target_sync(t);
    if (r == 0) {
        m->sync_good = mine;
        m->synced = t;
        pthread_mutex_lock(&m->mu);
        if (m->target == t)
            regions_clear(&m->syncing);
        pthread_mutex_unlock(&m->mu);
    }
    pthread_mutex_unlock(&m->sync_mu);
    if (r < 0)
        mirror_break(m, t, "cannot be synced", r);
    return r;
}

int mirror_grow(struct mirror *m, struct target *t, uint64_t size, uint64_t end)
{
    uint64_t now;
    int r = target_size(t, &now);
    if (r == 0 && t->block) {
        pthread_mutex_lock(&m->mu);
        mirror_mark(m, size, end); /* what the device has there is not known */
        pthread_mutex_unlock(&m->mu);
        return now < end ? -ENOSPC : 0;
    }
    if (r == 0 && now > size)
        r = target_set_size(t, size);
    if (r == 0)
        r = target_set_size(t, end);
    pthread_mutex_lock(&m->mu);
    if (r == 0 && m->target == t)
        m->last_size = end;
    pthread_mutex_unlock(&m->mu);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * The way of a change: write, zero, truncate. What follows is for a plain disk; one with layers goes by cow.c.
 *
 *   own       a change of a disk that is not owned exclusively owns it first (own.c), on a lane
 *             thread
 *   gate      it waits while a snapshot is taken (pause.c)
 *   begin     the cache drops its copies of the blocks and refuses fills of them
 *   backing   the file is changed
 *   end       whole blocks of a write that was alone on them are admitted (writethrough), the
 *             blocks are open to fills again
 *   answer    last, so that a read after it is a hit
 *
 * A write runs on the calling worker, which borrows the data, while the lane lets it in; otherwise
 * the data are copied and the write is queued. Everything else is always queued: it may wait for
 * the device.
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"
#include "vd_time.h"

#define REFUSED_LOG_EVERY_MS 1000

int vd__own_for_change(struct vd_disk *d)
{
    if (atomic_load(&d->state) == VD_OWNER_EXCLUSIVE)
        return 0;
    char why[VD_META_WHY] = "";
    int r = vd_disk_own(d, why);
    if (r == 0)
        return 0;
    pthread_mutex_lock(&d->mu);
    bool say = vd_now_ms() - d->refused_logged_ms >= REFUSED_LOG_EVERY_MS;
    if (say)
        d->refused_logged_ms = vd_now_ms();
    pthread_mutex_unlock(&d->mu);
    if (say)
        vd_log_error("%s: refused to write: %s", d->path, why[0] ? why : strerror(-r));
    return r;
}

static void raise_size(struct vd_disk *d, uint64_t end)
{
    uint64_t size = atomic_load(&d->size_bytes);
    while (size < end && !atomic_compare_exchange_weak(&d->size_bytes, &size, end))
        ;
}

/* Takes the size from the file. To lower ours counts as a truncation: a write that raised it since
 * we asked must notice. */
static void ask_size(struct vd_disk *d, struct live *live)
{
    struct stat st;
    pthread_mutex_lock(&d->size_mu);
    int r = vd_backing_stat(live->backing, &st);
    if (r == 0 && (uint64_t)st.st_size < atomic_load(&d->size_bytes)) {
        atomic_fetch_add(&d->truncations, 1);
        if (vd_backing_stat(live->backing, &st) == 0)
            atomic_store(&d->size_bytes, (uint64_t)st.st_size);
        atomic_fetch_add(&d->truncations, 1);
    } else if (r == 0) {
        raise_size(d, (uint64_t)st.st_size);
    }
    pthread_mutex_unlock(&d->size_mu);
}

/* After a change that began when d->truncations was BEGAN and that left the file at least END long.
 * Where a truncation overtook it, in the file or in our number, the file is asked; so it is where
 * the change FAILED, perhaps half done. */
static void grow_to(struct vd_disk *d, struct live *live, unsigned began, uint64_t end, bool failed)
{
    if (!failed)
        raise_size(d, end);
    if (failed || began & 1 || atomic_load(&d->truncations) != began)
        ask_size(d, live);
}

/* Ends W; BUF holds the LEN bytes that the backing now holds at OFF, or is NULL after a failure. */
static void end_write(struct vd_disk *d, struct vd_cache_layer *layer, struct vd_cache_write *w,
                      const uint8_t *buf, uint64_t off, size_t len)
{
    uint64_t first = vd_align_up(off, VD_BLOCK_SIZE);
    uint64_t end = vd_align_down(off + len, VD_BLOCK_SIZE);
    bool admit = buf && end > first && d->ds->config.cache_mode == VD_CACHE_WRITETHROUGH;
    if (admit)
        vd_cache_write_end(layer, w, buf + (first - off), first >> VD_BLOCK_SHIFT,
                           (uint32_t)((end - first) >> VD_BLOCK_SHIFT));
    else
        vd_cache_write_end(layer, w, NULL, 0, 0);
}

static ssize_t plain_write(struct vd_disk *d, struct live *live, uint64_t off, const void *data,
                           size_t len)
{
    struct vd_cache_layer *cache = atomic_load_explicit(&live->cache, memory_order_acquire);
    struct vd_cache_write w = {.first_block = off >> VD_BLOCK_SHIFT,
                               .nblocks = vd_blocks_touched(off, len)};
    if (cache)
        vd_cache_write_begin(cache, &w);
    unsigned began = atomic_load(&d->truncations);
    ssize_t n = vd_backing_pwrite(live->backing, data, len, off);
    grow_to(d, live, began, off + len, n != (ssize_t)len);
    if (cache)
        end_write(d, cache, &w, n == (ssize_t)len ? data : NULL, off, len);
    return n;
}

static int plain_zero(struct vd_disk *d, struct live *live, enum vd_zero_mode mode, uint64_t off,
                      uint64_t len)
{
    struct vd_cache_layer *cache = atomic_load_explicit(&live->cache, memory_order_acquire);
    struct vd_cache_write w = {.first_block = off >> VD_BLOCK_SHIFT,
                               .nblocks = vd_blocks_touched(off, len)};
    bool contents = mode != VD_ALLOC_KEEP && mode != VD_ALLOC_EXTEND;
    if (cache && contents)
        vd_cache_write_begin(cache, &w);
    unsigned began = atomic_load(&d->truncations);
    int r = vd_backing_zero(live->backing, mode, off, len);
    if (mode == VD_ZERO_EXTEND || mode == VD_ALLOC_EXTEND)
        grow_to(d, live, began, off + len, r < 0);
    if (cache && contents)
        vd_cache_write_end(cache, &w, NULL, 0, 0);
    return r;
}

/* Blocks from the lower of both sizes on change: what is cut off, and the tail block. */
static int plain_truncate(struct vd_disk *d, struct live *live, uint64_t size)
{
    struct vd_cache_layer *cache = atomic_load_explicit(&live->cache, memory_order_acquire);
    uint64_t old = atomic_load(&d->size_bytes);
    struct vd_cache_write w = {.first_block = vd_min(size, old) >> VD_BLOCK_SHIFT};
    w.nblocks = UINT64_MAX - w.first_block;
    if (cache)
        vd_cache_write_begin(cache, &w);
    pthread_mutex_lock(&d->size_mu);
    atomic_fetch_add(&d->truncations, 1);
    int r = vd_backing_truncate(live->backing, size);
    if (r == 0)
        atomic_store(&d->size_bytes, size);
    atomic_fetch_add(&d->truncations, 1);
    pthread_mutex_unlock(&d->size_mu);
    if (cache)
        vd_cache_write_end(cache, &w, NULL, 0, 0);
    return r;
}

/* Behind the gate: one change, of a plain disk or one with layers. */
static ssize_t write_now(struct vd_disk *d, uint64_t off, const void *data, size_t len)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    ssize_t n =
        v->live->lm ? vd__cow_write(d, v, off, data, len) : plain_write(d, v->live, off, data, len);
    vd__view_put(v, shard);
    return n;
}

static int change_now(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    enum vd_zero_mode mode = (enum vd_zero_mode)arg;
    int r;
    if (kind == IO_ZERO)
        r = v->live->lm ? vd__cow_zero(d, v, mode, off, len)
                        : plain_zero(d, v->live, mode, off, len);
    else
        r = v->live->lm ? vd__cow_truncate(d, v, off) : plain_truncate(d, v->live, off);
    vd__view_put(v, shard);
    return r;
}

static void answer(struct vd_disk *d, unsigned ticket, vd_disk_done done, void *user,
                   ssize_t result)
{
    if (result < 0)
        count(d, C_ERRORS, 1);
    vd__disk_answer(d, ticket, done, user, result, NULL);
}

/*
 * Owned, and by the filters that stand above: where the disk was another mount's meanwhile they may be others, whom
 * this change has not met. That is noticed before a change comes here (gate.c), but for the moment between.
 */
static int own_as_filtered(struct vd_disk *d)
{
    int r = vd__own_for_change(d);
    if (r < 0 || !atomic_load(&d->filters_stale))
        return r;
    vd_log_error("%s: a change is failed: the disk's filters were changed by another mount just now",
                 d->path);
    return -EIO;
}

/* The result of IO; or -EINPROGRESS: the gate is shut, IO will be queued again. */
static ssize_t run_change(struct io *io)
{
    struct vd_disk *d = io->d;
    if (io->kind == IO_FLUSH)
        return vd__disk_flush_now(d, io->arg);
    if (io->kind == IO_SEEK)
        return vd__disk_seek_now(d, io->off, io->arg);
    int r = own_as_filtered(d);
    unsigned shard;
    if (r < 0)
        return r;
    if (!vd__pause_enter(&d->changes, &io->job, &shard))
        return -EINPROGRESS;
    ssize_t n = io->kind == IO_WRITE ? write_now(d, io->off, io->data, io->len)
                                     : change_now(d, io->kind, io->arg, io->off, io->len);
    vd__pause_leave(&d->changes, shard);
    return n;
}

static void change_job(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    struct vd_disk *d = io->d;
    ssize_t result = run_change(io);
    if (result == -EINPROGRESS)
        return;
    vd_disk_done done = io->done;
    void *user = io->user;
    unsigned ticket = io->ticket;
    vd__disk_io_put(d->ds, io);
    answer(d, ticket, done, user, result);
}

/* Puts a change off to the lane; DATA (of a write) is copied. */
static void put_off(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len,
                    const void *data, unsigned ticket, vd_disk_done done, void *user)
{
    struct io *io = vd__disk_io_get(d->ds, data ? (uint32_t)vd_blocks_touched(0, len) : 1);
    if (!io) {
        answer(d, ticket, done, user, -ENOMEM);
        return;
    }
    io->ticket = ticket;
    io->job.run = change_job;
    io->job.slow = kind != IO_WRITE || atomic_load(&d->state) != VD_OWNER_EXCLUSIVE;
    io->d = d;
    io->kind = kind;
    io->arg = arg;
    io->off = off;
    io->len = len;
    io->done = done;
    io->user = user;
    if (data)
        memcpy(io->data, data, len);
    vd_lane_queue(d->lane, &io->job);
}

void vd__disk_change(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len,
                     unsigned ticket, vd_disk_done done, void *user)
{
    if (kind == IO_FLUSH)
        count(d, C_FLUSHES, 1);
    put_off(d, kind, arg, off, len, NULL, ticket, done, user);
}

void vd__disk_write(struct vd_disk *d, uint64_t off, const void *data, size_t len, unsigned ticket,
                    vd_disk_done done, void *user)
{
    count(d, C_WRITES, 1);
    count(d, C_WRITE_BYTES, len);
    uint64_t began;
    unsigned shard;
    if (atomic_load(&d->state) != VD_OWNER_EXCLUSIVE || atomic_load(&d->filters_stale) ||
        !vd_lane_enter(d->lane, &began)) {
        put_off(d, IO_WRITE, 0, off, len, data, ticket, done, user);
        return;
    }
    struct vd_lane *lane = d->lane;
    if (vd__pause_enter(&d->changes, NULL, &shard)) {
        ssize_t n = write_now(d, off, data, len);
        vd__pause_leave(&d->changes, shard);
        answer(d, ticket, done, user, n);
    } else {
        put_off(d, IO_WRITE, 0, off, len, data, ticket, done, user);
    }
    vd_lane_leave(lane, began); /* last: it may run other requests */
}

/* ---- for filters: on this thread ---- */

ssize_t vd__disk_write_now(struct vd_disk *d, uint64_t off, const void *data, size_t len)
{
    count(d, C_WRITES, 1);
    count(d, C_WRITE_BYTES, len);
    ssize_t n = own_as_filtered(d);
    if (n == 0) {
        unsigned shard = vd__pause_wait(&d->changes);
        n = write_now(d, off, data, len);
        vd__pause_leave(&d->changes, shard);
    }
    if (n < 0)
        count(d, C_ERRORS, 1);
    return n;
}

int vd__disk_change_now(struct vd_disk *d, enum io_kind kind, int arg, uint64_t off, uint64_t len)
{
    if (kind == IO_FLUSH) {
        count(d, C_FLUSHES, 1);
        return vd__disk_flush_now(d, arg);
    }
    int r = own_as_filtered(d);
    if (r == 0) {
        unsigned shard = vd__pause_wait(&d->changes);
        r = change_now(d, kind, arg, off, len);
        vd__pause_leave(&d->changes, shard);
    }
    if (r < 0)
        count(d, C_ERRORS, 1);
    return r;
}

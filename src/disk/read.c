// SPDX-License-Identifier: Apache-2.0
/*
 * The way of a read.
 *
 *   runs    which layers hold the blocks (runs.c); a plain disk has one run. Each run is then read by
 *           its own layer's place in the cache, in order:
 *   hit     the cache has every block: copied into the request's buffer and verified there. Where all
 *           runs are hits, all is done on the caller's thread.
 *   miss    some block is not cached. A fill token for the missing blocks is asked for; while it is
 *           held nobody else reads them from the backing. Who finds them held waits for that fill
 *           to end and looks again (once: after that it reads for itself). With the token: look
 *           again, for what became cached in between; read the missing blocks; admit. The last run's
 *           are admitted after the answer.
 *   past    no place in the cache (not owned, no metadata, cache off): read the backing.
 *
 * From the first miss on a read runs in the lane: on the calling worker while the lane lets it in,
 * else on a lane thread. A disk that this mount does not own may be changed by another: its view
 * follows the metadata before each read (load.c).
 *
 * Why a mix of cached and backing blocks is right: each block is as new as some moment after the
 * request came in, which is all that a read overlapping a write is owed. The same holds for the runs:
 * a block that a write takes over meanwhile is read as it was in the layer below, which is frozen.
 *
 * What was read is right for the filters that the read met only: another mount may have attached or
 * detached some since, and written by them. So whoever does not own the disk looks once more before
 * it answers, and reads again by the new ones (gate.c). They cannot come in place before: the read
 * is counted in.
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

#define bit_test(bits, i) ((bits)[(i) / 64] >> ((i) % 64) & 1)
#define bit_set(bits, i) ((bits)[(i) / 64] |= 1ull << ((i) % 64))

static struct run *run_of(const struct io *io)
{
    return &io->runs[io->at];
}

static uint64_t size_of(const struct io *io)
{
    const struct run *run = run_of(io);
    return run->kind == RUN_FROZEN ? run->frozen->file.size_bytes : atomic_load(&io->d->size_bytes);
}

static int backing_of(struct io *io, struct vd_backing **ret_b)
{
    const struct run *run = run_of(io);
    if (run->kind == RUN_FROZEN)
        return vd__frozen_backing(run->frozen, ret_b);
    *ret_b = io->view->live->backing;
    return 0;
}

/* RESULT, or -EIO; or true: the client's request begins anew, and is not ours any more. Who reads on
 * a thread of its own looks for itself (below.c). */
static bool begins_anew(struct io *io, ssize_t *result)
{
    if (*result < 0 || io->sync || !vd__filters_are_others(io->d))
        return false;
    if (io->ticket == NO_TICKET) {
        *result = -EIO; /* the chain is told so, and its client's request begins anew */
        return false;
    }
    const struct request q = {
        .kind = IO_READ, .off = io->off, .len = io->asked, .done = io->done, .user = io->user};
    if (!io->in_lane) /* else the disk stays until we leave the lane; now it may be gone */
        vd__view_put(vd_steal_ptr(io->view), io->shard);
    vd__disk_again(io->d, &q, io->ticket);
    return true;
}

/* Answers, which may be the end of the disk where the request is not in the lane. */
static void finish(struct io *io, ssize_t result)
{
    uint64_t skip = io->off % VD_BLOCK_SIZE;
    if (begins_anew(io, &result))
        return;
    if (result < 0) {
        count(io->d, C_ERRORS, 1);
    } else if (io->missed) {
        count(io->d, C_MISSES, 1);
        if (io->hit_bytes)
            count(io->d, C_HIT_BYTES, io->hit_bytes);
        count(io->d, C_MISS_BYTES, io->len - io->hit_bytes);
        if (io->joined)
            count(io->d, C_COALESCED, 1);
    } else {
        count(io->d, C_HITS, 1);
        count(io->d, C_HIT_BYTES, io->len);
    }
    if (!io->in_lane)
        vd__view_put(vd_steal_ptr(io->view), io->shard);
    vd__disk_answer(io->d, io->ticket, io->done, io->user, result,
                    result >= 0 ? io->data + skip : NULL);
}

/* In the lane the disk is there until we leave it, and the view until here. */
static void end(struct vd_disks *ds, struct io *io)
{
    if (io->view)
        vd__view_put(vd_steal_ptr(io->view), io->shard);
    vd__disk_io_put(ds, io);
}

static void finish_job(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    struct vd_disks *ds = io->d->ds;
    io->in_lane = true;
    finish(io, (ssize_t)io->len);
    end(ds, io);
}

static void finish_and_end(struct io *io, ssize_t result)
{
    struct vd_disks *ds = io->d->ds;
    if (result > 0 && !io->in_lane && io->d->filtered && vd__disk_is_anothers(io->d)) {
        vd__run_or_queue(
            io, finish_job); /* it was shared when it was looked up: now the end may wait */
        return;
    }
    finish(io, result);
    end(ds, io);
}

/* Bytes of the request that lie in blocks [FROM, TO) of it. */
static uint64_t bytes_of(const struct io *io, uint32_t from, uint32_t to)
{
    uint64_t first = io->off >> VD_BLOCK_SHIFT;
    uint64_t start = vd_max((first + from) << VD_BLOCK_SHIFT, io->off);
    uint64_t stop = vd_min((first + to) << VD_BLOCK_SHIFT, io->off + io->len);
    return stop > start ? stop - start : 0;
}

static void count_hits(struct io *io)
{
    uint32_t at = run_of(io)->at;
    for (uint32_t i = 0; i < io->look.nblocks; i++)
        if (bit_test(io->look.hit, i))
            io->hit_bytes += bytes_of(io, at + i, at + i + 1);
}

/* Reads blocks [FROM, TO) of the run from the backing. Past the end of the file come zeroes;
 * where the file ends before the size we know of, somebody cut it outside: those blocks are not
 * admitted. */
static int read_blocks(struct io *io, struct vd_backing *b, uint32_t from, uint32_t to,
                       uint64_t *have)
{
    uint64_t off = (io->look.first_block + from) << VD_BLOCK_SHIFT;
    size_t len = (size_t)(to - from) << VD_BLOCK_SHIFT;
    uint8_t *buf = io->look.buf + ((size_t)from << VD_BLOCK_SHIFT);
    uint64_t size = size_of(io);
    ssize_t n = vd_backing_pread(b, buf, len, off);
    if (n < 0)
        return (int)n;
    count(io->d, C_BACKING_READS, 1);
    count(io->d, C_BACKING_READ_BYTES, (uint64_t)n);
    memset(buf + n, 0, len - (size_t)n);
    uint64_t stop = (size_t)n == len ? off + len : off + (uint64_t)n;
    for (uint32_t i = from; i < to; i++) {
        uint64_t block_end = (io->look.first_block + i + 1) << VD_BLOCK_SHIFT;
        if (vd_min(block_end, size) <= stop)
            bit_set(have, i);
    }
    return 0;
}

/* Reads what LOOK did not hit; marks in HAVE what may be admitted. */
static int read_missing(struct io *io, uint64_t *have)
{
    struct vd_backing *b;
    int r = backing_of(io, &b);
    for (uint32_t i = 0; r == 0 && i < io->look.nblocks;) {
        if (bit_test(io->look.hit, i)) {
            i++;
            continue;
        }
        uint32_t stop = i;
        while (stop < io->look.nblocks && !bit_test(io->look.hit, stop))
            stop++;
        r = read_blocks(io, b, i, stop, have);
        i = stop;
    }
    return r;
}

static void go_on(struct io *io);
static void miss_job(struct vd_job *job);

/* The fill we waited for has ended: go on, off that fill's thread. */
static void fill_ready(struct vd_cache_fill *f)
{
    struct io *io = f->user;
    io->waited = true;
    io->job.run = miss_job;
    io->job.slow = false;
    vd_lane_queue(io->d->lane, &io->job);
}

/* Looks the missing blocks up again. True if all is there now. */
static bool look_again(struct io *io)
{
    struct vd_cache_read again = {.first_block = io->fill.first_block, .nblocks = io->fill.nblocks};
    uint32_t at = (uint32_t)(io->fill.first_block - io->look.first_block);
    again.buf = io->look.buf + ((size_t)at << VD_BLOCK_SHIFT);
    /* Blocks that were hits and lie between missing ones are copied anew: as good, and simple. */
    if (vd_cache_read(io->cache, &again) != 0)
        return false;
    for (uint32_t i = 0; i < again.nblocks; i++) {
        if (bit_test(again.hit, i))
            bit_set(io->look.hit, at + i);
        else
            io->look.hit[(at + i) / 64] &= ~(1ull << ((at + i) % 64));
    }
    io->look.nhit = 0;
    for (uint32_t i = 0; i < io->look.nblocks; i++)
        io->look.nhit += bit_test(io->look.hit, i);
    return io->look.nhit == io->look.nblocks;
}

static void span_missing(struct io *io)
{
    uint32_t first = UINT32_MAX, last = 0;
    for (uint32_t i = 0; i < io->look.nblocks; i++) {
        if (bit_test(io->look.hit, i))
            continue;
        first = vd_min(first, i);
        last = i;
    }
    io->fill = (struct vd_cache_fill){
        .first_block = io->look.first_block + first,
        .nblocks = last - first + 1,
        .ready = fill_ready,
        .user = io,
    };
}

static void commit(struct io *io, const uint64_t *have)
{
    uint32_t at = (uint32_t)(io->fill.first_block - io->look.first_block);
    uint64_t which[VD_CACHE_WORDS] = {0};
    for (uint32_t i = 0; i < io->fill.nblocks; i++)
        if (bit_test(have, at + i))
            bit_set(which, i);
    vd_cache_fill_commit(io->cache, &io->fill, io->look.buf + ((size_t)at << VD_BLOCK_SHIFT),
                         which);
}

/* With or without the token: read, admit, let go; of the last run: answer before it is admitted. */
static void read_run(struct io *io, bool token)
{
    struct vd_disks *ds = io->d->ds;
    uint64_t have[VD_CACHE_WORDS] = {0};
    bool last = io->at + 1 == io->nruns;
    int r = read_missing(io, have);
    bool answered = r < 0 || (last && !io->changed);
    if (answered)
        finish(io, r < 0 ? r : (ssize_t)io->len);
    if (token && r < 0)
        vd_cache_fill_abort(io->cache, &io->fill);
    else if (token)
        commit(io, have);
    if (answered) {
        end(ds, io);
    } else if (last) {
        finish_and_end(io, (ssize_t)io->len);
    } else {
        io->at++;
        go_on(io);
    }
}

static void next_run(struct io *io)
{
    if (++io->at == io->nruns)
        finish_and_end(io, (ssize_t)io->len);
    else
        go_on(io);
}

/* In the lane, with a run of which blocks are missing. */
static void miss(struct io *io)
{
    span_missing(io);
    if (io->waited) {
        if (look_again(io)) {
            io->joined = true;
            next_run(io);
            return;
        }
        span_missing(io);
        io->fill.ready = NULL; /* waited once: do not wait again */
    }
    int r = vd_cache_fill_begin(io->cache, &io->fill);
    if (r == 1)
        return; /* fill_ready goes on */
    if (r == 0 && look_again(io)) {
        vd_cache_fill_abort(io->cache, &io->fill);
        io->joined = true;
        next_run(io);
        return;
    }
    read_run(io, r == 0);
}

static void miss_job(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    io->in_lane = true;
    miss(io);
}

/* A plain disk without a place in the cache: what the file says, whatever size we know of. */
static void past(struct io *io)
{
    uint64_t skip = io->off % VD_BLOCK_SIZE;
    ssize_t n = vd_backing_pread(io->view->live->backing, io->data + skip, io->len, io->off);
    struct vd_disks *ds = io->d->ds;
    if (n >= 0) {
        count(io->d, C_BACKING_READS, 1);
        count(io->d, C_BACKING_READ_BYTES, (uint64_t)n);
    }
    if (!begins_anew(io, &n)) {
        if (n < 0)
            count(io->d, C_ERRORS, 1);
        vd__disk_answer(io->d, io->ticket, io->done, io->user, n, n >= 0 ? io->data + skip : NULL);
    }
    end(ds, io);
}

static void start(struct io *io);

static void again_job(struct vd_job *job)
{
    struct io *io = vd_container_of(job, struct io, job);
    io->in_lane = true;
    start(io);
}

/* The part that may wait for the backing. */
void vd__run_or_queue(struct io *io, void (*run)(struct vd_job *job))
{
    struct vd_lane *lane = io->d->lane;
    uint64_t began;
    io->job.run = run;
    io->job.slow = false;
    if (!vd_lane_enter(lane, &began)) {
        vd_lane_queue(lane, &io->job);
        return;
    }
    run(&io->job);
    vd_lane_leave(lane, began);
}

static void looked(struct io *io)
{
    if (io->look.nhit == io->look.nblocks) {
        if (io->missed)
            count_hits(io);
        next_run(io);
        return;
    }
    if (!io->missed) /* so far every byte was a hit */
        io->hit_bytes = bytes_of(io, 0, run_of(io)->at);
    io->missed = true;
    count_hits(io);
    if (io->in_lane)
        miss(io);
    else
        vd__run_or_queue(io, miss_job);
}

static void look_done(struct vd_cache_read *r)
{
    looked(vd_container_of(r, struct io, look));
}

static void begin_run(struct io *io)
{
    const struct run *run = run_of(io);
    io->look.first_block = (io->off >> VD_BLOCK_SHIFT) + run->at;
    io->look.nblocks = run->n;
    io->look.buf = io->data + ((size_t)run->at << VD_BLOCK_SHIFT);
    io->look.nhit = 0;
    memset(io->look.hit, 0, sizeof(io->look.hit));
    io->look.done = look_done;
    io->waited = io->sync; /* waits for no fill */
}

static void zero_run(struct io *io)
{
    const struct run *run = run_of(io);
    memset(io->data + ((size_t)run->at << VD_BLOCK_SHIFT), 0, (size_t)run->n << VD_BLOCK_SHIFT);
    if (io->missed)
        io->hit_bytes += bytes_of(io, run->at, run->at + run->n);
    next_run(io);
}

/* Works on the run that io->at names, and on those behind it. */
static void go_on(struct io *io)
{
    const struct run *run = run_of(io);
    if (run->kind == RUN_ZERO) {
        zero_run(io);
        return;
    }
    io->cache = NULL;
    if (run->kind == RUN_LIVE)
        io->cache = atomic_load_explicit(&io->view->live->cache, memory_order_acquire);
    else if (vd__frozen_cache(run->frozen, io->in_lane, &io->cache) < 0)
        io->cache = NULL;
    begin_run(io);
    if (io->cache) {
        if (vd_cache_read(io->cache, &io->look) == 0)
            looked(io);
        return;
    }
    if (!io->in_lane) {
        vd__run_or_queue(io, again_job);
        return;
    }
    if (!io->missed)
        io->hit_bytes = bytes_of(io, 0, run->at);
    io->missed = true;
    read_run(io, false);
}

/* With a view, and a length that may still go past the end. */
static void start(struct io *io)
{
    struct vd_disk *d = io->d;
    bool plain = !io->view->live->lm;
    io->missed = io->joined = false;
    io->hit_bytes = 0;
    if (plain && !atomic_load_explicit(&io->view->live->cache, memory_order_acquire)) {
        if (!io->in_lane) {
            vd__run_or_queue(io, again_job);
            return;
        }
        count(d, C_BYPASSED, 1);
        past(io);
        return;
    }
    uint64_t size = atomic_load(&d->size_bytes);
    if (io->off >= size) {
        io->len = 0;
        finish_and_end(io, 0);
        return;
    }
    io->len = (size_t)vd_min((uint64_t)io->len, size - io->off);
    int r = vd__runs_find(io, io->in_lane);
    if (r == -EAGAIN)
        vd__run_or_queue(io, again_job);
    else if (r < 0)
        finish_and_end(io, r == -EUCLEAN ? -EIO : r);
    else
        go_on(io);
}

static struct io *io_of(struct vd_disk *d, uint64_t off, size_t len)
{
    struct io *io = vd__disk_io_get(d->ds, (uint32_t)vd_blocks_touched(off, len));
    if (!io)
        return NULL;
    io->d = d;
    io->off = off;
    io->len = io->asked = len;
    io->in_lane = io->sync = io->changed = false;
    io->ticket = NO_TICKET;
    return io;
}

void vd__disk_read(struct vd_disk *d, uint64_t off, size_t len, bool changed, unsigned ticket,
                   vd_disk_done done, void *user)
{
    struct io *io = io_of(d, off, len);
    if (!io) {
        vd__disk_answer(d, ticket, done, user, -ENOMEM, NULL);
        return;
    }
    io->changed = changed;
    io->ticket = ticket;
    io->done = done;
    io->user = user;
    io->view = vd__view_get(d, &io->shard);
    start(io);
}

/* ---- for filters: on this thread ---- */

struct now {
    void *buf;
    ssize_t result;
};

static void now_done(void *user, ssize_t result, const void *data)
{
    struct now *n = user;
    n->result = result;
    if (result > 0)
        memcpy(n->buf, data, (size_t)result);
}

/* Nothing on the way of a read that is in the lane and waits for no fill goes to another thread. */
ssize_t vd__disk_read_now(struct vd_disk *d, uint64_t off, void *buf, size_t len)
{
    struct now n = {.buf = buf, .result = -EIO};
    struct io *io = len ? io_of(d, off, len) : NULL;
    if (!io)
        return len ? -ENOMEM : 0;
    io->in_lane = io->sync = true;
    io->done = now_done;
    io->user = &n;
    io->view = vd__view_get(d, &io->shard);
    start(io);
    return n.result;
}

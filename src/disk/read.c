// SPDX-License-Identifier: Apache-2.0
/*
 * The way of a read.
 *
 *   hit     the cache has every block: copied into the request's buffer, verified there, answered;
 *           all on the caller's thread.
 *   miss    some block is not cached. A fill token for the missing blocks is asked for; while it is
 *           held nobody else reads them from the backing. Who finds them held waits for that fill
 *           to end and looks again (once: after that it reads for itself). With the token: look
 *           again, for what became cached in between; read the missing runs; answer; admit.
 *   past    no layer (not owned, no metadata, cache off): read the backing.
 *
 * A miss runs on the calling worker while the lane lets it in, else on a lane thread.
 *
 * Why a mix of cached and backing blocks is right: each block is as new as some moment after the
 * request came in, which is all that a read overlapping a write is owed.
 */
#include "disk.h"

#include <string.h>

#define bit_test(bits, i) ((bits)[(i) / 64] >> ((i) % 64) & 1)
#define bit_set(bits, i) ((bits)[(i) / 64] |= 1ull << ((i) % 64))

static void finish(struct io *io, ssize_t result)
{
    uint64_t skip = io->off % VD_BLOCK_SIZE;
    if (result < 0)
        count(io->d, C_ERRORS, 1);
    io->done(io->user, result, result >= 0 ? io->data + skip : NULL);
}

/* Bytes of the request that lie in cached blocks. */
static uint64_t hit_bytes(const struct io *io)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < io->look.nblocks; i++) {
        if (!bit_test(io->look.hit, i))
            continue;
        uint64_t start = vd_max((io->look.first_block + i) << VD_BLOCK_SHIFT, io->off);
        uint64_t end = vd_min((io->look.first_block + i + 1) << VD_BLOCK_SHIFT, io->off + io->len);
        bytes += end - start;
    }
    return bytes;
}

/* Reads blocks [FROM, TO) of the request from the backing. Past the end of the file come zeroes;
 * where the file ends before the size we know of, somebody cut it outside: those blocks are not
 * admitted. */
static int read_run(struct io *io, uint32_t from, uint32_t to, uint64_t *have)
{
    uint64_t off = (io->look.first_block + from) << VD_BLOCK_SHIFT;
    size_t len = (size_t)(to - from) << VD_BLOCK_SHIFT;
    uint8_t *buf = io->data + ((size_t)from << VD_BLOCK_SHIFT);
    uint64_t size = atomic_load(&io->d->size_bytes);
    ssize_t n = vd_backing_pread(io->d->backing, buf, len, off);
    if (n < 0)
        return (int)n;
    count(io->d, C_BACKING_READS, 1);
    count(io->d, C_BACKING_READ_BYTES, (uint64_t)n);
    memset(buf + n, 0, len - (size_t)n);
    uint64_t end = (size_t)n == len ? off + len : off + (uint64_t)n;
    for (uint32_t i = from; i < to; i++) {
        uint64_t block_end = (io->look.first_block + i + 1) << VD_BLOCK_SHIFT;
        if (vd_min(block_end, size) <= end)
            bit_set(have, i);
    }
    return 0;
}

/* Reads what LOOK did not hit; marks in HAVE what may be admitted. */
static int read_missing(struct io *io, uint64_t *have)
{
    for (uint32_t i = 0; i < io->look.nblocks;) {
        if (bit_test(io->look.hit, i)) {
            i++;
            continue;
        }
        uint32_t end = i;
        while (end < io->look.nblocks && !bit_test(io->look.hit, end))
            end++;
        int r = read_run(io, i, end, have);
        if (r < 0)
            return r;
        i = end;
    }
    return 0;
}

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
    again.buf = io->data + ((size_t)at << VD_BLOCK_SHIFT);
    /* Blocks that were hits and lie between missing ones are copied anew: as good, and simple. */
    if (vd_cache_read(io->layer, &again) != 0)
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

/* With or without the token: read, answer, admit, let go. */
static void read_and_answer(struct io *io, bool token)
{
    struct vd_disks *ds = io->d->ds;
    uint64_t have[VD_CACHE_WORDS] = {0};
    int r = read_missing(io, have);
    finish(io, r < 0 ? r : (ssize_t)io->len);
    if (token && r < 0) {
        vd_cache_fill_abort(io->layer, &io->fill);
    } else if (token) {
        uint32_t at = (uint32_t)(io->fill.first_block - io->look.first_block);
        uint64_t which[VD_CACHE_WORDS] = {0};
        for (uint32_t i = 0; i < io->fill.nblocks; i++)
            if (bit_test(have, at + i))
                bit_set(which, i);
        vd_cache_fill_commit(io->layer, &io->fill, io->data + ((size_t)at << VD_BLOCK_SHIFT),
                             which);
    }
    vd__disk_io_put(ds, io);
}

static void answer_from_cache(struct io *io)
{
    struct vd_disks *ds = io->d->ds;
    count(io->d, C_COALESCED, 1);
    finish(io, (ssize_t)io->len);
    vd__disk_io_put(ds, io);
}

static void miss(struct io *io)
{
    span_missing(io);
    if (io->waited) {
        if (look_again(io)) {
            answer_from_cache(io);
            return;
        }
        span_missing(io);
        io->fill.ready = NULL; /* waited once: do not wait again */
    }
    int r = vd_cache_fill_begin(io->layer, &io->fill);
    if (r == 1)
        return; /* fill_ready goes on */
    if (r == 0 && look_again(io)) {
        vd_cache_fill_abort(io->layer, &io->fill);
        answer_from_cache(io);
        return;
    }
    read_and_answer(io, r == 0);
}

static void past(struct io *io)
{
    struct vd_disks *ds = io->d->ds;
    uint64_t skip = io->off % VD_BLOCK_SIZE;
    ssize_t n = vd_backing_pread(io->d->backing, io->data + skip, io->len, io->off);
    if (n >= 0) {
        count(io->d, C_BACKING_READS, 1);
        count(io->d, C_BACKING_READ_BYTES, (uint64_t)n);
    }
    finish(io, n);
    vd__disk_io_put(ds, io);
}

static void miss_job(struct vd_job *job)
{
    miss(vd_container_of(job, struct io, job));
}

static void past_job(struct vd_job *job)
{
    past(vd_container_of(job, struct io, job));
}

/* Runs the part that may wait for the backing: here while the lane lets us in, else on its threads.
 */
static void run_or_queue(struct io *io, void (*run)(struct vd_job *job))
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

static void missed(struct io *io)
{
    uint64_t hit = hit_bytes(io);
    count(io->d, C_MISSES, 1);
    if (hit)
        count(io->d, C_HIT_BYTES, hit);
    count(io->d, C_MISS_BYTES, io->len - hit);
    run_or_queue(io, miss_job);
}

static void looked(struct io *io)
{
    struct vd_disks *ds = io->d->ds; /* the disk may be gone once it is answered */
    if (io->look.nhit != io->look.nblocks) {
        missed(io);
        return;
    }
    count(io->d, C_HITS, 1);
    count(io->d, C_HIT_BYTES, io->len);
    finish(io, (ssize_t)io->len);
    vd__disk_io_put(ds, io);
}

static void look_done(struct vd_cache_read *r)
{
    looked(vd_container_of(r, struct io, look));
}

void vd__disk_read(struct vd_disk *d, uint64_t off, size_t len, vd_disk_done done, void *user)
{
    struct vd_cache_layer *layer = atomic_load_explicit(&d->layer, memory_order_acquire);
    if (layer) {
        uint64_t size = atomic_load(&d->size_bytes);
        if (off >= size) {
            done(user, 0, NULL);
            return;
        }
        len = (size_t)vd_min((uint64_t)len, size - off);
    }
    uint32_t nblocks = (uint32_t)vd_blocks_touched(off, len);
    struct io *io = vd__disk_io_get(d->ds, nblocks);
    if (!io) {
        done(user, -ENOMEM, NULL);
        return;
    }
    io->d = d;
    io->layer = layer;
    io->off = off;
    io->len = len;
    io->done = done;
    io->user = user;
    io->waited = false;
    if (!layer) {
        count(d, C_BYPASSED, 1);
        run_or_queue(io, past_job);
        return;
    }
    io->look.first_block = off >> VD_BLOCK_SHIFT;
    io->look.nblocks = nblocks;
    io->look.buf = io->data;
    io->look.nhit = 0;
    memset(io->look.hit, 0, sizeof(io->look.hit));
    io->look.done = look_done;
    if (vd_cache_read(layer, &io->look) == 0)
        looked(io);
}

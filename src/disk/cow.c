// SPDX-License-Identifier: Apache-2.0
/*
 * Changes of a disk with layers. Everything goes to the live layer's file, at the offset it has in the
 * disk; the live map says for which blocks that file counts.
 *
 *   owned    a block that the live layer owns is written in place, as a plain disk's
 *   first    a block that it does not own is written whole: what the write does not cover comes from the
 *            layers below (or is zero). Then, and only then, the map gets its record. Two first
 *            writes of one block wait for each other (ranges): else one would write back, as old
 *            bytes, what the other has just written.
 *   zero     owned blocks are zeroed in the file and stay owned; others become zero extents in the map
 *   grow     what lies between the old end and the new one becomes zero extents, then the size
 *            changes, then whatever is to be written there is written: nothing below, and nothing
 *            the file may hold there, shows
 *   shrink   the tail block becomes the live layer's own, cut at the new end; the new size is made
 *            durable; then the file is cut. So in every layer what lies past the size is zero or is
 *            never asked for.
 *
 * The size changes under size_mu. A cut between any two steps leaves blocks as they were before, or
 * the new bytes; a zero extent past the end; or a file longer than the size.
 */
#include "disk.h"

#include <string.h>

static uint64_t blocks_of(uint64_t bytes)
{
    return (bytes + VD_BLOCK_SIZE - 1) >> VD_BLOCK_SHIFT;
}

/* ---- ranges: first writes under way ---- */

static bool taken(const struct vd_disk *d, uint64_t first, uint64_t last)
{
    struct vd_list *it;
    vd_list_for_each (it, &d->ranges) {
        const struct range *r = vd_list_entry(it, struct range, link);
        if (r->first <= last && first <= r->last)
            return true;
    }
    return false;
}

static void range_lock(struct vd_disk *d, struct range *r, uint64_t first, uint64_t nblocks)
{
    r->first = first;
    r->last = first + nblocks - 1;
    pthread_mutex_lock(&d->ranges_mu);
    while (taken(d, r->first, r->last))
        pthread_cond_wait(&d->ranges_changed, &d->ranges_mu);
    vd_list_add_tail(&d->ranges, &r->link);
    pthread_mutex_unlock(&d->ranges_mu);
}

static void range_unlock(struct vd_disk *d, struct range *r)
{
    pthread_mutex_lock(&d->ranges_mu);
    vd_list_del(&r->link);
    pthread_cond_broadcast(&d->ranges_changed);
    pthread_mutex_unlock(&d->ranges_mu);
}

/* ---- writing within the size ---- */

static bool all_own(const struct live *l, uint64_t first, uint64_t nblocks)
{
    while (nblocks) {
        uint64_t run;
        if (vd_live_map_get(l->lm, first, nblocks, &run) != VD_BLOCK_OWN)
            return false;
        first += run;
        nblocks -= run;
    }
    return true;
}

/* Bytes [OFF, +LEN) of the file change to DATA; the cache follows. */
static int put_bytes(struct vd_disk *d, struct live *l, uint64_t off, const uint8_t *data,
                     size_t len)
{
    struct vd_cache_layer *cache = atomic_load_explicit(&l->cache, memory_order_acquire);
    struct vd_cache_write w = {.first_block = off >> VD_BLOCK_SHIFT,
                               .nblocks = vd_blocks_touched(off, len)};
    if (cache)
        vd_cache_write_begin(cache, &w);
    ssize_t n = vd_backing_pwrite(l->backing, data, len, off);
    uint64_t first = vd_align_up(off, VD_BLOCK_SIZE);
    uint64_t end = vd_align_down(off + len, VD_BLOCK_SIZE);
    bool admit =
        n == (ssize_t)len && end > first && d->ds->config.cache_mode == VD_CACHE_WRITETHROUGH;
    if (cache && admit)
        vd_cache_write_end(cache, &w, data + (first - off), first >> VD_BLOCK_SHIFT,
                           (uint32_t)((end - first) >> VD_BLOCK_SHIFT));
    else if (cache)
        vd_cache_write_end(cache, &w, NULL, 0, 0);
    return n < 0 ? (int)n : 0;
}

/* With the range locked: writes whole blocks, then records those that were not owned. BUF holds NBLOCKS blocks. */
static int write_blocks(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks,
                        const uint8_t *buf)
{
    struct live *l = v->live;
    uint64_t off = first << VD_BLOCK_SHIFT;
    uint64_t size = atomic_load(&d->size_bytes);
    size_t len = (size_t)nblocks << VD_BLOCK_SHIFT;
    if (off < size && size - off < len)
        len = (size_t)(size - off); /* the file ends where the disk does */
    int r = put_bytes(d, l, off, buf, len);
    for (uint64_t i = 0; r == 0 && i < nblocks;) {
        uint64_t run;
        if (vd_live_map_get(l->lm, first + i, nblocks - i, &run) != VD_BLOCK_OWN)
            r = vd_live_map_set(l->lm, first + i, run, VD_BLOCK_OWN);
        i += run;
    }
    return r;
}

static bool is_own(const struct live *l, uint64_t off)
{
    uint64_t run;
    return vd_live_map_get(l->lm, off >> VD_BLOCK_SHIFT, 1, &run) == VD_BLOCK_OWN;
}

/* Writes whole blocks; the edges, which the live layer does not own, get their old bytes from below. */
static int write_with_edges(struct vd_disk *d, struct view *v, uint64_t off, const uint8_t *data,
                            size_t len)
{
    uint64_t first = off >> VD_BLOCK_SHIFT, skip = off % VD_BLOCK_SIZE;
    uint32_t nblocks = (uint32_t)vd_blocks_touched(off, len);
    bool tail = (off + len) % VD_BLOCK_SIZE != 0;
    if (!skip && !tail)
        return write_blocks(d, v, first, nblocks, data);
    struct io *scratch = vd__disk_io_get(d->ds, nblocks);
    if (!scratch)
        return -ENOMEM;
    uint8_t *last = scratch->data + ((size_t)(nblocks - 1) << VD_BLOCK_SHIFT);
    int r = 0;
    if (skip || nblocks == 1)
        r = vd__view_read(d, v, first, 1, scratch->data);
    if (r == 0 && tail && nblocks > 1)
        r = vd__view_read(d, v, first + nblocks - 1, 1, last);
    if (r == 0) {
        memcpy(scratch->data + skip, data, len);
        r = write_blocks(d, v, first, nblocks, scratch->data);
    }
    vd__disk_io_put(d->ds, scratch);
    return r;
}

/* With the range locked. An edge that is owned is written in place, and only what the write covers
 * of it: others may be writing the rest at this moment. */
static int first_write(struct vd_disk *d, struct view *v, uint64_t off, const uint8_t *data,
                       size_t len)
{
    uint64_t end = off + len, head_end = vd_min(vd_align_up(off, VD_BLOCK_SIZE), end);
    int r = 0;
    if (head_end > off && is_own(v->live, off)) {
        r = put_bytes(d, v->live, off, data, (size_t)(head_end - off));
        data += head_end - off;
        off = head_end;
    }
    uint64_t tail = vd_align_down(end, VD_BLOCK_SIZE);
    if (r == 0 && tail > off && tail < end && is_own(v->live, tail)) {
        r = put_bytes(d, v->live, tail, data + (tail - off), (size_t)(end - tail));
        end = tail;
    }
    return r == 0 && end > off ? write_with_edges(d, v, off, data, (size_t)(end - off)) : r;
}

static int write_within(struct vd_disk *d, struct view *v, uint64_t off, const uint8_t *data,
                        size_t len)
{
    uint64_t first = off >> VD_BLOCK_SHIFT, nblocks = vd_blocks_touched(off, len);
    if (all_own(v->live, first, nblocks))
        return put_bytes(d, v->live, off, data, len);
    struct range range;
    range_lock(d, &range, first, nblocks);
    int r = all_own(v->live, first, nblocks) ? put_bytes(d, v->live, off, data, len)
                                             : first_write(d, v, off, data, len);
    range_unlock(d, &range);
    return r;
}

int vd__cow_copy_up(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks,
                    uint8_t *buf)
{
    struct range range;
    range_lock(d, &range, first, nblocks);
    int r = 0;
    for (uint64_t i = 0; r == 0 && i < nblocks;) {
        uint64_t run;
        if (vd_live_map_get(v->live->lm, first + i, nblocks - i, &run) != VD_BLOCK_OWN) {
            r = vd__view_read(d, v, first + i, (uint32_t)run, buf);
            if (r == 0)
                r = write_blocks(d, v, first + i, (uint32_t)run, buf);
        }
        i += run;
    }
    range_unlock(d, &range);
    return r;
}

static int zero_file(struct live *l, enum vd_zero_mode mode, uint64_t off, uint64_t len)
{
    struct vd_cache_layer *cache = atomic_load_explicit(&l->cache, memory_order_acquire);
    struct vd_cache_write w = {.first_block = off >> VD_BLOCK_SHIFT,
                               .nblocks = vd_blocks_touched(off, len)};
    if (cache)
        vd_cache_write_begin(cache, &w);
    int r = vd_backing_zero(l->backing, mode, off, len);
    if (cache)
        vd_cache_write_end(cache, &w, NULL, 0, 0);
    return r;
}

int vd__cow_own_hole(struct vd_disk *d, struct view *v, uint64_t first, uint64_t nblocks)
{
    struct live *l = v->live;
    struct range range;
    range_lock(d, &range, first, nblocks);
    int r = 0;
    while (r == 0 && nblocks) {
        uint64_t run;
        if (vd_live_map_get(l->lm, first, nblocks, &run) != VD_BLOCK_OWN) {
            r = zero_file(l, VD_ZERO_PUNCH, first << VD_BLOCK_SHIFT, run << VD_BLOCK_SHIFT);
            if (r == 0)
                r = vd_live_map_set(l->lm, first, run, VD_BLOCK_OWN);
        }
        first += run;
        nblocks -= run;
    }
    range_unlock(d, &range);
    return r;
}

/* ---- the size ---- */

/* With size_mu held. */
static int grow_locked(struct vd_disk *d, struct view *v, uint64_t size)
{
    uint64_t old = atomic_load(&d->size_bytes);
    uint64_t first = blocks_of(old), end = blocks_of(size);
    if (size <= old)
        return 0;
    int r = end > first ? vd_live_map_set(v->live->lm, first, end - first, VD_BLOCK_ZERO) : 0;
    if (r == 0)
        r = vd_backing_truncate(v->live->backing, size);
    if (r == 0)
        r = vd_live_map_set_size(v->live->lm, size);
    if (r == 0)
        atomic_store(&d->size_bytes, size);
    return r;
}

static int grow(struct vd_disk *d, struct view *v, uint64_t size)
{
    if (size <= atomic_load(&d->size_bytes))
        return 0;
    pthread_mutex_lock(&d->size_mu);
    int r = grow_locked(d, v, size);
    pthread_mutex_unlock(&d->size_mu);
    return r;
}

ssize_t vd__cow_write(struct vd_disk *d, struct view *v, uint64_t off, const void *data, size_t len)
{
    int r = grow(d, v, off + len);
    if (r == 0)
        r = write_within(d, v, off, data, len);
    return r < 0 ? r : (ssize_t)len;
}

/* The block that holds the new end becomes the live layer's own, zero from there on. */
static int own_tail(struct vd_disk *d, struct view *v, uint64_t size)
{
    if (size % VD_BLOCK_SIZE == 0)
        return 0;
    struct io *scratch = vd__disk_io_get(d->ds, 1);
    if (!scratch)
        return -ENOMEM;
    int r = vd__cow_copy_up(d, v, size >> VD_BLOCK_SHIFT, 1, scratch->data);
    vd__disk_io_put(d->ds, scratch);
    return r;
}

/* With size_mu held. */
static int shrink_locked(struct vd_disk *d, struct view *v, uint64_t size)
{
    struct live *l = v->live;
    struct vd_cache_layer *cache = atomic_load_explicit(&l->cache, memory_order_acquire);
    struct vd_cache_write w = {.first_block = size >> VD_BLOCK_SHIFT};
    w.nblocks = UINT64_MAX - w.first_block;
    if (cache)
        vd_cache_write_begin(cache, &w);
    int r = vd_live_map_set_size(l->lm, size);
    if (r == 0)
        r = vd__live_sync(l, true);
    if (r == 0)
        r = vd_backing_truncate(l->backing, size);
    if (r == 0)
        atomic_store(&d->size_bytes, size);
    if (cache)
        vd_cache_write_end(cache, &w, NULL, 0, 0);
    return r;
}

int vd__cow_truncate(struct vd_disk *d, struct view *v, uint64_t size)
{
    pthread_mutex_lock(&d->size_mu);
    atomic_fetch_add(&d->truncations, 1);
    uint64_t old = atomic_load(&d->size_bytes);
    int r = 0;
    if (size < old) {
        r = own_tail(d, v, size);
        if (r == 0)
            r = shrink_locked(d, v, size);
    } else {
        r = grow_locked(d, v, size);
    }
    atomic_fetch_add(&d->truncations, 1);
    pthread_mutex_unlock(&d->size_mu);
    return r;
}

/* ---- zeroes ---- */

/* Whole blocks. */
static int zero_blocks(struct vd_disk *d, struct view *v, enum vd_zero_mode mode, uint64_t first,
                       uint64_t nblocks)
{
    struct live *l = v->live;
    struct range range;
    int r = 0;
    range_lock(d, &range, first, nblocks);
    while (r == 0 && nblocks) {
        uint64_t run;
        enum vd_block_state s = vd_live_map_get(l->lm, first, nblocks, &run);
        if (s == VD_BLOCK_OWN)
            r = zero_file(l, mode, first << VD_BLOCK_SHIFT, run << VD_BLOCK_SHIFT);
        else if (s == VD_BLOCK_BELOW)
            r = vd_live_map_set(l->lm, first, run, VD_BLOCK_ZERO);
        first += run;
        nblocks -= run;
    }
    range_unlock(d, &range);
    return r;
}

static int zero_bytes(struct vd_disk *d, struct view *v, uint64_t off, uint64_t len)
{
    static const uint8_t zeroes[VD_BLOCK_SIZE];
    uint64_t run;
    if (len && vd_live_map_get(v->live->lm, off >> VD_BLOCK_SHIFT, 1, &run) == VD_BLOCK_ZERO)
        return 0;
    return len ? write_within(d, v, off, zeroes, (size_t)len) : 0;
}

/* Zeroes within the size: an edge that is no whole block is written, but for the disk's last block, of which nothing lies behind. */
static int zero_within(struct vd_disk *d, struct view *v, enum vd_zero_mode mode, uint64_t off,
                       uint64_t end, uint64_t size)
{
    uint64_t first = vd_align_up(off, VD_BLOCK_SIZE), last = vd_align_down(end, VD_BLOCK_SIZE);
    if (first > end)
        return zero_bytes(d, v, off, end - off);
    int r = zero_bytes(d, v, off, first - off);
    if (end == size && end > last && last >= first)
        last = vd_align_up(end, VD_BLOCK_SIZE);
    if (r == 0 && last > first)
        r = zero_blocks(d, v, mode, first >> VD_BLOCK_SHIFT, (last - first) >> VD_BLOCK_SHIFT);
    if (r == 0 && end > vd_max(last, first))
        r = zero_bytes(d, v, vd_max(last, first), end - vd_max(last, first));
    return r;
}

int vd__cow_zero(struct vd_disk *d, struct view *v, enum vd_zero_mode mode, uint64_t off,
                 uint64_t len)
{
    int r = 0;
    if (mode == VD_ALLOC_EXTEND || mode == VD_ZERO_EXTEND)
        r = grow(d, v, off + len);
    uint64_t size = atomic_load(&d->size_bytes);
    if (r < 0 || (off >= size && mode != VD_ALLOC_KEEP))
        return r;
    /* Room in the live layer's file: what is written first needs it there. */
    if (mode == VD_ALLOC_KEEP || mode == VD_ALLOC_EXTEND)
        return vd_backing_zero(v->live->backing, VD_ALLOC_KEEP, off, len);
    if (mode == VD_ZERO_EXTEND)
        mode = VD_ZERO_KEEP;
    return zero_within(d, v, mode, off, vd_min(off + len, size), size);
}

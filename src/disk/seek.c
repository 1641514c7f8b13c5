// SPDX-License-Identifier: Apache-2.0
/*
 * Holes and data of a disk, and its extents. What is zero by the maps, or was never written in any
 * layer, is a hole; within what a layer owns, its file says: a frozen plain image may be sparse.
 */
#include "disk.h"

#include <string.h>

static int owner_at(struct view *v, uint64_t block, uint64_t nblocks, struct vd_block_owner *ret_o,
                    uint64_t *ret_run)
{
    if (v->live->lm)
        return vd_resolve(v->live->lm, v->maps, v->nmaps, block, nblocks, true, ret_o, ret_run);
    *ret_o = (struct vd_block_owner){.kind = VD_OWNED_LIVE};
    *ret_run = nblocks;
    return 0;
}

/* Data or hole in the file B of the bytes [OFF, END): the offset where WHENCE is first found, END where it is not. */
static off_t seek_file(struct vd_backing *b, uint64_t off, uint64_t end, int whence)
{
    off_t found = vd_backing_seek(b, (off_t)off, whence);
    if (found == -ENXIO) /* past the file's end all is hole */
        return (off_t)(whence == SEEK_HOLE ? off : end);
    if (found < 0)
        return found;
    /* The end of a frozen layer's file is not the disk's: what is behind it in the block is zero, and a
     * hole that begins within a block is one that QEMU does not believe. */
    if (whence == SEEK_HOLE)
        found = (off_t)vd_align_up((uint64_t)found, VD_BLOCK_SIZE);
    return (off_t)vd_min((uint64_t)found, end);
}

off_t vd__seek_run(struct view *v, const struct vd_block_owner *o, uint64_t off, uint64_t end,
                   int whence)
{
    struct vd_backing *b = v->live->backing;
    if (o->kind == VD_OWNED_ZERO || o->kind == VD_OWNED_NONE)
        return (off_t)(whence == SEEK_HOLE ? off : end);
    if (o->kind == VD_OWNED_FROZEN) {
        int r = vd__frozen_backing(v->chains[o->map]->layers[o->layer], &b);
        if (r < 0)
            return r;
    }
    return seek_file(b, off, end, whence);
}

static off_t seek_view(struct view *v, uint64_t off, uint64_t size, int whence)
{
    while (off < size) {
        struct vd_block_owner o;
        uint64_t block = off >> VD_BLOCK_SHIFT, run;
        int r = owner_at(v, block, vd_blocks_touched(off, size - off), &o, &run);
        if (r < 0)
            return r;
        uint64_t end = vd_min((block + run) << VD_BLOCK_SHIFT, size);
        off_t found = vd__seek_run(v, &o, off, end, whence);
        if (found < 0 || (uint64_t)found < end)
            return found;
        off = end;
    }
    return whence == SEEK_HOLE ? (off_t)size : -ENXIO; /* there is a hole at the end */
}

off_t vd__disk_seek_now(struct vd_disk *d, uint64_t off, int whence)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    uint64_t size = atomic_load(&d->size_bytes);
    off_t r;
    if (!v->live->lm) /* the file knows, whatever size we know of */
        r = vd_backing_seek(v->live->backing, (off_t)off, whence);
    else
        r = off >= size ? -ENXIO : seek_view(v, off, size, whence);
    vd__view_put(v, shard);
    return r;
}

int vd_disk_each_layer(struct vd_disk *d, int (*fn)(void *user, const struct vd_disk_layer *l),
                       void *user)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_disk_layer l = {.disk_id = v->live->disk_id, .live = true};
    if (!v->live->own_file)
        vd_layer_rel(&l.disk_id, l.path, sizeof(l.path));
    int r = fn(user, &l);
    for (unsigned i = 0; i < v->nmaps && r == 0; i++)
        for (uint32_t k = 0; k < v->chains[i]->nlayers && r == 0; k++) {
            l = (struct vd_disk_layer){.disk_id = v->chains[i]->layers[k]->file.disk_id};
            vd_layer_rel(&l.disk_id, l.path, sizeof(l.path));
            r = fn(user, &l);
        }
    vd__view_put(v, shard);
    return r;
}

static struct vd_disk_extent extent_of(struct view *v, const struct vd_block_owner *o, uint64_t off,
                                       uint64_t end)
{
    struct vd_disk_extent e = {.start_bytes = off, .length_bytes = end - off};
    e.depth = vd_resolve_depth(v->maps, o);
    e.zero = o->kind == VD_OWNED_ZERO || o->kind == VD_OWNED_NONE;
    if (o->kind == VD_OWNED_LIVE)
        e.disk_id = v->live->disk_id;
    else if (o->kind == VD_OWNED_FROZEN)
        e.disk_id = v->chains[o->map]->layers[o->layer]->file.disk_id;
    return e;
}

static bool joins(const struct vd_disk_extent *a, const struct vd_disk_extent *b)
{
    return a->depth == b->depth && a->zero == b->zero && vd_id_eq(&a->disk_id, &b->disk_id);
}

int vd_disk_each_extent(struct vd_disk *d, uint64_t off_bytes, uint64_t len_bytes,
                        int (*fn)(void *user, const struct vd_disk_extent *e), void *user)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    uint64_t size = atomic_load(&d->size_bytes), off = vd_min(off_bytes, size);
    uint64_t stop = len_bytes < size - off ? off + len_bytes : size;
    struct vd_disk_extent last = {0};
    int r = 0;
    while (off < stop && r == 0) {
        struct vd_block_owner o;
        uint64_t block = off >> VD_BLOCK_SHIFT, run;
        r = owner_at(v, block, vd_blocks_touched(off, stop - off), &o, &run);
        if (r < 0)
            break;
        uint64_t end = vd_min((block + run) << VD_BLOCK_SHIFT, stop);
        struct vd_disk_extent e = extent_of(v, &o, off, end);
        if (last.length_bytes && joins(&last, &e)) {
            last.length_bytes += e.length_bytes;
        } else {
            if (last.length_bytes)
                r = fn(user, &last);
            last = e;
        }
        off = end;
    }
    if (r == 0 && last.length_bytes)
        r = fn(user, &last);
    vd__view_put(v, shard);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/* Which layers hold the blocks of a read, as runs of blocks with one answer each. */
#include "disk.h"

#include <string.h>

static int more_room(struct io *io)
{
    if (io->runs == io->few && io->nruns == IO_RUNS) {
        io->many = malloc(VD_IO_MAX_BLOCKS * sizeof(*io->many));
        if (!io->many)
            return -ENOMEM;
        memcpy(io->many, io->few, sizeof(io->few));
        io->runs = io->many;
    }
    return 0;
}

static int add_run(struct io *io, uint32_t at, uint32_t n, enum run_kind kind, struct frozen *f)
{
    struct run *last = io->nruns ? &io->runs[io->nruns - 1] : NULL;
    if (last && last->kind == kind && last->frozen == f) {
        last->n += n;
        return 0;
    }
    int r = more_room(io);
    if (r == 0)
        io->runs[io->nruns++] = (struct run){.at = at, .n = n, .kind = kind, .frozen = f};
    return r;
}

int vd__runs_find(struct io *io, bool may_block)
{
    struct view *v = io->view;
    uint64_t first = io->off >> VD_BLOCK_SHIFT;
    uint32_t n = (uint32_t)vd_blocks_touched(io->off, io->len);
    io->runs = io->many ? io->many : io->few;
    io->nruns = io->at = 0;
    if (!v->live->lm)
        return add_run(io, 0, n, RUN_LIVE, NULL);
    for (uint32_t i = 0; i < n;) {
        struct vd_block_owner o;
        uint64_t run;
        int r = vd_resolve(v->live->lm, v->maps, v->nmaps, first + i, n - i, may_block, &o, &run);
        if (r < 0)
            return r;
        struct frozen *f = o.kind == VD_OWNED_FROZEN ? v->chains[o.map]->layers[o.layer] : NULL;
        r = add_run(io, i, (uint32_t)run,
                    f                         ? RUN_FROZEN
                    : o.kind == VD_OWNED_LIVE ? RUN_LIVE
                                              : RUN_ZERO,
                    f);
        if (r < 0)
            return r;
        i += (uint32_t)run;
    }
    return 0;
}

/* One run of a read that fills nothing. */
static int read_owner(struct vd_disk *d, struct view *v, const struct vd_block_owner *o,
                      uint64_t first, uint32_t n, uint8_t *buf)
{
    struct frozen *f = o->kind == VD_OWNED_FROZEN ? v->chains[o->map]->layers[o->layer] : NULL;
    struct vd_cache_layer *cache = NULL;
    struct vd_backing *b = v->live->backing;
    int r = 0;
    if (!f && o->kind != VD_OWNED_LIVE) {
        memset(buf, 0, (size_t)n << VD_BLOCK_SHIFT);
        return 0;
    }
    if (f)
        r = vd__frozen_cache(f, true, &cache);
    else
        cache = atomic_load(&v->live->cache);
    if (r < 0)
        return r;
    struct vd_cache_read look = {.first_block = first, .nblocks = n, .buf = buf};
    if (cache && vd_cache_read(cache, &look) == 0 && look.nhit == n)
        return 0;
    if (f)
        r = vd__frozen_backing(f, &b);
    if (r < 0)
        return r;
    size_t len = (size_t)n << VD_BLOCK_SHIFT;
    ssize_t got = vd_backing_pread(b, buf, len, first << VD_BLOCK_SHIFT);
    if (got < 0)
        return (int)got;
    count(d, C_BACKING_READS, 1);
    count(d, C_BACKING_READ_BYTES, (uint64_t)got);
    memset(buf + got, 0, len - (size_t)got);
    return 0;
}

int vd__view_read(struct vd_disk *d, struct view *v, uint64_t first, uint32_t nblocks, uint8_t *buf)
{
    for (uint32_t i = 0; i < nblocks;) {
        struct vd_block_owner o = {.kind = VD_OWNED_LIVE};
        uint64_t run = nblocks - i;
        int r = 0;
        if (v->live->lm)
            r = vd_resolve(v->live->lm, v->maps, v->nmaps, first + i, run, true, &o, &run);
        if (r == 0)
            r = read_owner(d, v, &o, first + i, (uint32_t)run, buf + ((size_t)i << VD_BLOCK_SHIFT));
        if (r < 0)
            return r;
        i += (uint32_t)run;
    }
    return 0;
}

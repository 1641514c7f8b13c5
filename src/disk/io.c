// SPDX-License-Identifier: Apache-2.0
/*
 * Memory of requests. A request needs a buffer aligned to a block; malloc of a mebibyte maps and
 * faults it anew each time, which costs more than the read. So a few of each of two sizes are kept
 * a shard; a thread uses its own shard's places first, and what finds no place is freed.
 */
#include "disk.h"

#include <string.h>

static struct io *io_new(bool large)
{
    size_t nblocks = large ? VD_IO_MAX_BLOCKS : IO_SMALL_BLOCKS;
    struct io *io = calloc(1, sizeof(*io));
    if (!io)
        return NULL;
    io->data = aligned_alloc(VD_BLOCK_SIZE, nblocks * VD_BLOCK_SIZE);
    if (!io->data) {
        free(io);
        return NULL;
    }
    io->large = large;
    return io;
}

static void io_free(struct io *io)
{
    free(io->many);
    free(io->data);
    free(io);
}

struct io *vd__disk_io_get(struct vd_disks *ds, uint32_t nblocks)
{
    bool large = nblocks > IO_SMALL_BLOCKS;
    unsigned s = vd_counter_shard();
    struct io *_Atomic *place = large ? ds->ios.shard[s].large : ds->ios.shard[s].small;
    for (int i = 0; i < (large ? IO_KEEP_LARGE : IO_KEEP_SMALL); i++) {
        if (!atomic_load_explicit(&place[i], memory_order_relaxed))
            continue;
        struct io *io = atomic_exchange_explicit(&place[i], NULL, memory_order_acquire);
        if (io)
            return io;
    }
    return io_new(large);
}

void vd__disk_io_put(struct vd_disks *ds, struct io *io)
{
    unsigned s = vd_counter_shard();
    struct io *_Atomic *place = io->large ? ds->ios.shard[s].large : ds->ios.shard[s].small;
    for (int i = 0; i < (io->large ? IO_KEEP_LARGE : IO_KEEP_SMALL); i++) {
        struct io *none = NULL;
        if (!atomic_load_explicit(&place[i], memory_order_relaxed) &&
            atomic_compare_exchange_strong_explicit(&place[i], &none, io, memory_order_release,
                                                    memory_order_relaxed))
            return;
    }
    io_free(io);
}

void vd__disk_io_drain(struct vd_disks *ds)
{
    for (unsigned s = 0; s < IO_SHARDS; s++) {
        for (int i = 0; i < IO_KEEP_SMALL; i++)
            if (ds->ios.shard[s].small[i])
                io_free(atomic_exchange(&ds->ios.shard[s].small[i], NULL));
        for (int i = 0; i < IO_KEEP_LARGE; i++)
            if (ds->ios.shard[s].large[i])
                io_free(atomic_exchange(&ds->ios.shard[s].large[i], NULL));
    }
}

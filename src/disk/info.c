// SPDX-License-Identifier: Apache-2.0
/* What the control socket asks of a disk, and small notices from the FUSE side. */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

static uint64_t *field_of(struct vd_disk_stats *s, unsigned i)
{
    uint64_t *const fields[C_COUNT] = {
        [C_HITS] = &s->hits,
        [C_MISSES] = &s->misses,
        [C_HIT_BYTES] = &s->hit_bytes,
        [C_MISS_BYTES] = &s->miss_bytes,
        [C_BACKING_READS] = &s->backing_reads,
        [C_BACKING_READ_BYTES] = &s->backing_read_bytes,
        [C_COALESCED] = &s->coalesced,
        [C_READAHEAD_BYTES] = &s->readahead_bytes,
        [C_BYPASSED] = &s->bypassed,
        [C_WRITES] = &s->writes,
        [C_WRITE_BYTES] = &s->write_bytes,
        [C_FLUSHES] = &s->flushes,
        [C_ERRORS] = &s->errors,
    };
    return fields[i];
}

/* With ds->mu held: adds what P and the disk D, if it is attached (else NULL), have counted. */
static void add_counts(uint64_t *sum, const struct past_disk *p, struct vd_disk *d)
{
    for (unsigned i = 0; i < C_COUNT; i++)
        sum[i] += p->count[i] + (d ? vd_counter_sum(&d->counters, C_COUNT, i) : 0);
}

/* With ds->mu held. */
static struct vd_disk *attached(const struct past_disk *p, struct vd_disks *ds)
{
    struct vd_list *it;
    vd_list_for_each (it, &ds->disks) {
        struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
        if (d->past == p)
            return d;
    }
    return NULL;
}

static void set_stats(struct vd_disk_stats *s, const uint64_t *sum)
{
    for (unsigned i = 0; i < C_COUNT; i++)
        *field_of(s, i) = sum[i];
}

void vd_disk_get_stats(struct vd_disk *d, struct vd_disk_stats *ret_stats)
{
    uint64_t sum[C_COUNT] = {0};
    pthread_mutex_lock(&d->ds->mu);
    add_counts(sum, d->past, d);
    pthread_mutex_unlock(&d->ds->mu);
    set_stats(ret_stats, sum);
}

int vd_disks_get_stats_of(struct vd_disks *ds, dev_t dev, ino_t ino,
                          struct vd_disk_stats *ret_stats)
{
    uint64_t sum[C_COUNT] = {0};
    int r = -ENOENT;
    struct vd_list *it;
    pthread_mutex_lock(&ds->mu);
    vd_list_for_each (it, &ds->past) {
        struct past_disk *p = vd_list_entry(it, struct past_disk, link);
        if (p->dev != dev || p->ino != ino)
            continue;
        add_counts(sum, p, attached(p, ds));
        r = 0;
    }
    pthread_mutex_unlock(&ds->mu);
    if (r == 0)
        set_stats(ret_stats, sum);
    return r;
}

void vd_disks_get_stats(struct vd_disks *ds, struct vd_disk_stats *ret_stats)
{
    uint64_t sum[C_COUNT] = {0};
    struct vd_list *it;
    pthread_mutex_lock(&ds->mu);
    vd_list_for_each (it, &ds->past) {
        add_counts(sum, vd_list_entry(it, struct past_disk, link), NULL);
    }
    vd_list_for_each (it, &ds->disks) {
        struct vd_disk *d = vd_list_entry(it, struct vd_disk, link);
        for (unsigned i = 0; i < C_COUNT; i++)
            sum[i] += vd_counter_sum(&d->counters, C_COUNT, i);
    }
    pthread_mutex_unlock(&ds->mu);
    set_stats(ret_stats, sum);
}

void vd_disk_get_info(struct vd_disk *d, struct vd_disk_info *ret_info)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_cache_layer *cache = atomic_load(&v->live->cache);
    *ret_info = (struct vd_disk_info){
        .uuid = d->uuid,
        .disk_id = v->live->disk_id,
        .size_bytes = atomic_load(&d->size_bytes),
        .owner_state = atomic_load(&d->state),
        .caching = cache != NULL,
        .cached_bytes = cache ? vd_cache_layer_bytes(cache) : 0,
        .layered = v->live->lm != NULL,
        .nlayers = 1,
        .merge_done = atomic_load(&d->keep.done),
        .merge_total = atomic_load(&d->keep.total),
    };
    for (unsigned i = 0; i < v->nmaps; i++)
        ret_info->nlayers += v->chains[i]->nlayers;
    vd__view_put(v, shard);
    pthread_mutex_lock(&d->ds->mu);
    ret_info->opens = d->opens;
    pthread_mutex_unlock(&d->ds->mu);
    ret_info->generation = atomic_load(&d->generation);
    pthread_mutex_lock(&d->mu);
    ret_info->epoch = d->epoch;
    ret_info->parent = d->parent;
    snprintf(ret_info->path, sizeof(ret_info->path), "%s", d->path);
    pthread_mutex_unlock(&d->mu);
}

/* Where the cache holds what is owned by O. */
static struct vd_cache_layer *cache_of(struct view *v, const struct vd_block_owner *o)
{
    struct vd_cache_layer *cache = NULL;
    if (o->kind == VD_OWNED_LIVE)
        cache = atomic_load(&v->live->cache);
    else if (o->kind == VD_OWNED_FROZEN)
        (void)vd__frozen_cache(v->chains[o->map]->layers[o->layer], true, &cache);
    return cache;
}

static void cached_run(struct view *v, const struct vd_block_owner *o, uint64_t first, uint32_t n,
                       uint32_t at, uint64_t *ret_bits)
{
    struct vd_cache_layer *cache = cache_of(v, o);
    uint64_t bits[4];
    for (uint32_t i = 0; cache && i < n; i += 256) {
        uint32_t part = vd_min(n - i, 256u);
        memset(bits, 0, sizeof(bits));
        vd_cache_map(cache, first + i, part, bits);
        for (uint32_t k = 0; k < part; k++)
            if (bits[k / 64] >> (k % 64) & 1)
                ret_bits[(at + i + k) / 64] |= 1ull << ((at + i + k) % 64);
    }
}

void vd_disk_cached(struct vd_disk *d, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits)
{
    memset(ret_bits, 0, (nblocks + 63u) / 64 * sizeof(*ret_bits));
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    for (uint32_t i = 0; i < nblocks;) {
        struct vd_block_owner o = {.kind = VD_OWNED_LIVE};
        uint64_t run = nblocks - i;
        if (v->live->lm &&
            vd_resolve(v->live->lm, v->maps, v->nmaps, first_block + i, run, true, &o, &run) < 0)
            break;
        cached_run(v, &o, first_block + i, (uint32_t)run, i, ret_bits);
        i += (uint32_t)run;
    }
    vd__view_put(v, shard);
}

int vd_disk_cached_verify(struct vd_disk *d, uint64_t block)
{
    struct io *io = vd__disk_io_get(d->ds, 1);
    if (!io)
        return -ENOMEM;
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_block_owner o = {.kind = VD_OWNED_LIVE};
    uint64_t run, bits = 0;
    int r = -ENODATA;
    if (!v->live->lm || vd_resolve(v->live->lm, v->maps, v->nmaps, block, 1, true, &o, &run) == 0) {
        struct vd_cache_layer *cache = cache_of(v, &o);
        struct vd_cache_read look = {.first_block = block, .nblocks = 1, .buf = io->data};
        if (cache)
            vd_cache_map(cache, block, 1, &bits);
        if (bits && vd_cache_read(cache, &look) == 0)
            r = (int)look.nhit;
    }
    vd__view_put(v, shard);
    vd__disk_io_put(d->ds, io);
    return r;
}

void vd_disk_cache_drop(struct vd_disk *d)
{
    unsigned shard;
    struct view *v = vd__view_get(d, &shard);
    struct vd_cache_layer *cache = atomic_load(&v->live->cache);
    if (cache)
        vd_cache_layer_drop(cache);
    vd__view_put(v, shard);
}

void vd_disk_touched(struct vd_disk *d)
{
    struct vd_identity now;
    if (vd__disk_identity(d, &now) < 0)
        return;
    pthread_mutex_lock(&d->mu);
    bool ours = now.ino == d->identity.ino && now.size_bytes == d->identity.size_bytes &&
                now.mtime_ns == d->identity.mtime_ns;
    if (ours)
        d->identity.ctime_ns = now.ctime_ns;
    pthread_mutex_unlock(&d->mu);
}

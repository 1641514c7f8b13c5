// SPDX-License-Identifier: Apache-2.0
/* What the control socket asks of a disk, and small notices from the FUSE side. */
#include "disk.h"

#include <fcntl.h>
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
    struct vd_cache_layer *layer = atomic_load(&d->layer);
    *ret_info = (struct vd_disk_info){
        .uuid = d->uuid,
        .disk_id = d->disk_id,
        .size_bytes = atomic_load(&d->size_bytes),
        .owner_state = atomic_load(&d->state),
        .caching = layer != NULL,
        .cached_bytes = layer ? vd_cache_layer_bytes(layer) : 0,
    };
    pthread_mutex_lock(&d->ds->mu);
    ret_info->opens = d->opens;
    pthread_mutex_unlock(&d->ds->mu);
    ret_info->generation = atomic_load(&d->generation);
    pthread_mutex_lock(&d->mu);
    ret_info->epoch = d->epoch;
    snprintf(ret_info->path, sizeof(ret_info->path), "%s", d->path);
    pthread_mutex_unlock(&d->mu);
}

void vd_disk_cached(struct vd_disk *d, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits)
{
    memset(ret_bits, 0, (nblocks + 63u) / 64 * sizeof(*ret_bits));
    struct vd_cache_layer *layer = atomic_load(&d->layer);
    if (layer)
        vd_cache_map(layer, first_block, nblocks, ret_bits);
}

int vd_disk_cached_verify(struct vd_disk *d, uint64_t block)
{
    uint64_t bits = 0;
    vd_disk_cached(d, block, 1, &bits);
    if (!bits)
        return -ENODATA;
    struct io *io = vd__disk_io_get(d->ds, 1);
    if (!io)
        return -ENOMEM;
    struct vd_cache_read look = {.first_block = block, .nblocks = 1, .buf = io->data};
    struct vd_cache_layer *layer = atomic_load(&d->layer);
    int r = layer && vd_cache_read(layer, &look) == 0 ? (int)look.nhit : -ENODATA;
    vd__disk_io_put(d->ds, io);
    return r;
}

void vd_disk_cache_drop(struct vd_disk *d)
{
    struct vd_cache_layer *layer = atomic_load(&d->layer);
    if (layer)
        vd_cache_layer_drop(layer);
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

/* ---- what is done later, on the reaper ---- */

struct forget_job {
    struct vd_job job;
    struct vd_disks *ds;
    struct vd_cache_key key;
};

static void forget_run(struct vd_job *job)
{
    struct forget_job *f = vd_container_of(job, struct forget_job, job);
    vd_cache_forget(f->ds->config.cache, &f->key);
    free(f);
}

void vd__disk_forget_later(struct vd_disks *ds, const struct vd_cache_key *key)
{
    struct forget_job *f = calloc(1, sizeof(*f));
    if (!f)
        return; /* the slots are evicted in time */
    f->job.run = forget_run;
    f->ds = ds;
    f->key = *key;
    vd_lane_queue(ds->reaper, &f->job);
}

struct gone_job {
    struct vd_job job;
    struct vd_disks *ds;
    int fd;
};

/* Metadata and slots of a disk that nobody has open and that has no name left. */
static void gone_run(struct vd_job *job)
{
    struct gone_job *g = vd_container_of(job, struct gone_job, job);
    struct vd_disks *ds = g->ds;
    struct vd_id uuid;
    bool made;
    char why[VD_META_WHY];
    int r = vd_meta_bind(ds->config.meta, g->fd, "", false, &uuid, &made, why);
    if (r == 0) {
        vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
        struct vd_disk_record disk;
        struct vd_cache_witness w;
        r = vd_meta_open(ds->config.meta, &uuid, VD_META_READ, &m, why);
        if (r == 0 && vd_meta_get_disk(m, &disk) == 0 && ds->config.cache &&
            vd_cache_witness_load(ds->config.cache, &disk.live_disk_id, &w) == 0) {
            struct vd_cache_key key = {.disk_id = disk.live_disk_id, .generation = w.generation};
            vd_cache_forget(ds->config.cache, &key);
        }
        vd_meta_close(vd_steal_ptr(m));
        r = vd_meta_remove(ds->config.meta, &uuid);
    }
    if (r < 0 && r != -ENOENT && r != -ESTALE)
        vd_log_warning("metadata of a removed disk stays behind: %s", strerror(-r));
    close(g->fd);
    free(g);
}

void vd_disks_gone(struct vd_disks *ds, int path_fd)
{
    struct stat st;
    struct vd_disk *d;
    if (!ds->config.meta || fstatat(path_fd, "", &st, AT_EMPTY_PATH) < 0 || st.st_nlink > 0)
        return;
    if (vd_disks_find(ds, st.st_dev, st.st_ino, &d) == 0) {
        vd_disk_put(d); /* the detach sees it */
        return;
    }
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", path_fd);
    struct gone_job *g = calloc(1, sizeof(*g));
    if (!g)
        return;
    g->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (g->fd < 0) {
        free(g);
        return;
    }
    g->job.run = gone_run;
    g->ds = ds;
    vd_lane_queue(ds->reaper, &g->job);
}

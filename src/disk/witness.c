// SPDX-License-Identifier: Apache-2.0
/*
 * The witness: the proof that this cache saw every write of a disk's live layer.
 *
 * The metadata and the cache both hold a token. Who is about to write draws a new one and makes it
 * durable in the metadata, then in the cache with the mark `written`; a clean detach, after the
 * barrier, takes the mark away and notes the file's identity. So what is cached is good exactly if
 *
 *     both tokens are equal         nobody owned the disk to write but through this cache
 *     and `written` is not set      its last writer through this cache detached cleanly
 *     and the identity is as noted  nothing changed the file outside
 *
 * Cut between any two of these steps and at least one does not hold: cold, never stale. Where they
 * do not hold the cache keys the disk under a new number of its own (the generation, drawn at
 * random), after an fdatasync: from there on, and as long as nobody writes, what is cached is what
 * a power cut would leave.
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

static struct vd_identity identity_in(const struct vd_cache_witness *w)
{
    return (struct vd_identity){.ino = w->ino,
                                .size_bytes = w->size_bytes,
                                .mtime_ns = w->mtime_ns,
                                .ctime_ns = w->ctime_ns};
}

static void set_identity(struct vd_cache_witness *w, const struct vd_identity *id)
{
    w->ino = id->ino;
    w->size_bytes = id->size_bytes;
    w->mtime_ns = id->mtime_ns;
    w->ctime_ns = id->ctime_ns;
}

/* Keeps a place that requests may still use as long as the live layer; with d->mu held. Without
 * memory it is never closed: a leak is better than a use after free. */
static void retire(struct live *l, struct vd_cache_layer *cache)
{
    struct retired_layer *kept = cache ? calloc(1, sizeof(*kept)) : NULL;
    if (!kept)
        return;
    kept->layer = cache;
    vd_list_add_tail(&l->retired, &kept->link);
}

void vd__disk_layer_replace_locked(struct vd_disk *d, struct vd_cache_layer *cache)
{
    struct live *l = vd__live(d);
    if (cache && d->locked == VD_LOCK_NONE)
        retire(l, cache); /* the lock was taken away meanwhile */
    else
        retire(l, atomic_exchange(&l->cache, cache));
}

void vd__disk_layer_replace(struct vd_disk *d, struct vd_cache_layer *cache)
{
    pthread_mutex_lock(&d->mu);
    vd__disk_layer_replace_locked(d, cache);
    pthread_mutex_unlock(&d->mu);
}

/* A generation that no cache has used: 64 random bits, never 0. */
static int draw_generation(uint64_t *ret_generation)
{
    struct vd_id id;
    int r = vd_id_new(&id);
    if (r < 0)
        return r;
    memcpy(ret_generation, id.b, sizeof(*ret_generation));
    *ret_generation |= 1;
    return 0;
}

/* Begins a new generation in W. The old one's slots are freed later. */
static int begin_generation(struct vd_disk *d, struct vd_cache_witness *w, bool had_one,
                            const struct vd_id *token)
{
    struct vd_cache *cache = d->ds->config.cache;
    struct vd_cache_key old = {.disk_id = vd__live(d)->disk_id, .generation = w->generation};
    int r = vd_backing_sync(vd__live(d)->backing, true);
    if (r < 0)
        return r;
    *w = (struct vd_cache_witness){.token = *token};
    r = draw_generation(&w->generation);
    if (r < 0)
        return r;
    set_identity(w, &d->identity);
    r = vd_cache_witness_store(cache, &vd__live(d)->disk_id, w);
    if (r == 0 && had_one)
        vd__disk_forget_later(d->ds, &old);
    return r;
}

/* Sets the disk's layer by what cache and metadata (TOKEN) hold: the old generation if all agree,
 * else a new one (RET_COLD). Leaves it without a layer where the cache cannot keep a witness. */
void vd__disk_witness_check(struct vd_disk *d, const struct vd_id *token, bool *ret_cold)
{
    struct vd_cache *cache = d->ds->config.cache;
    *ret_cold = true;
    if (!cache || d->ds->config.cache_mode == VD_CACHE_OFF || vd_id_is_zero(&d->uuid))
        return;
    struct vd_cache_witness w = {0};
    int r = vd_cache_witness_load(cache, &vd__live(d)->disk_id, &w);
    struct vd_identity noted = identity_in(&w);
    bool warm =
        r == 0 && vd_id_eq(&w.token, token) && !w.written && vd_identity_eq(&noted, &d->identity);
    if (!warm)
        r = begin_generation(d, &w, r == 0, token);
    struct vd_cache_key key = {.disk_id = vd__live(d)->disk_id, .generation = w.generation};
    struct vd_cache_layer *layer = NULL;
    if (r == 0)
        r = vd_cache_layer_open(cache, &key, &layer);
    if (r < 0) {
        vd_log_warning("%s: served uncached: the cache cannot keep its witness: %s", d->path,
                       strerror(-r));
        vd__disk_layer_replace(d, NULL);
        return;
    }
    d->witness = w;
    atomic_store(&d->generation, w.generation);
    *ret_cold = !warm;
    vd__disk_layer_replace(d, layer);
}

/* Before the first write, after TOKEN is durable in the metadata. */
void vd__disk_witness_begin_writes(struct vd_disk *d, const struct vd_id *token)
{
    if (!atomic_load(&vd__live(d)->cache))
        return;
    struct vd_cache_witness w = d->witness;
    w.token = *token;
    w.written = true;
    w.attached = true;
    int r = vd_boot_id(&w.boot_id);
    if (r == 0)
        r = vd_cache_witness_store(d->ds->config.cache, &vd__live(d)->disk_id, &w);
    if (r < 0) {
        /* The token there is an old one, so nothing of this disk is trusted again. */
        vd_log_warning("%s: served uncached: the cache cannot keep its witness: %s", d->path,
                       strerror(-r));
        vd__disk_layer_replace(d, NULL);
        return;
    }
    d->witness = w;
}

/* At a detach, with NOW the file's identity. DURABLE: backing and cache have passed their barriers.
 * What is not noted here is cold at the next attach. */
void vd__disk_witness_detach(struct vd_disk *d, const struct vd_identity *now, bool durable)
{
    struct vd_cache_witness w = d->witness;
    struct vd_identity noted = identity_in(&w);
    if (!atomic_load(&vd__live(d)->cache) || vd_cache_is_dead(d->ds->config.cache))
        return;
    if (w.written && !durable)
        return;
    if (!w.written && (vd_identity_eq(now, &noted) || !vd_identity_eq(now, &d->identity)))
        return; /* as noted, or changed by somebody else */
    w.written = w.attached = false;
    set_identity(&w, now);
    int r = vd_cache_witness_store(d->ds->config.cache, &vd__live(d)->disk_id, &w);
    if (r < 0)
        vd_log_warning("%s: its cache will be cold: the witness cannot be written: %s", d->path,
                       strerror(-r));
}

/* ---- layers that come and go while the disk is attached ---- */

void vd__witness_new(struct vd_disks *ds, const struct vd_id *disk_id, const struct vd_id *token,
                     const struct vd_identity *id, struct vd_cache_witness *ret_w,
                     struct vd_cache_layer **ret_cache)
{
    struct vd_cache *cache = ds->config.cache;
    struct vd_cache_witness w = {
        .token = *token, .attached = true, .written = true, .boot_id = ds->config.self.boot_id};
    *ret_w = (struct vd_cache_witness){0};
    *ret_cache = NULL;
    if (!cache || ds->config.cache_mode == VD_CACHE_OFF || vd_cache_is_dead(cache))
        return;
    set_identity(&w, id);
    struct vd_cache_key key = {.disk_id = *disk_id};
    int r = draw_generation(&w.generation);
    if (r == 0)
        r = vd_cache_witness_store(cache, disk_id, &w);
    key.generation = w.generation;
    if (r == 0)
        r = vd_cache_layer_open(cache, &key, ret_cache);
    if (r == 0)
        *ret_w = w;
    else
        vd_log_warning("a new layer is uncached: the cache cannot keep its witness: %s",
                       strerror(-r));
}

static bool is_good(const struct vd_cache_witness *w, const struct vd_layer_file *file)
{
    return vd_id_eq(&w->token, &file->token) && !w->written && w->size_bytes == file->size_bytes &&
           w->mtime_ns == file->mtime_ns;
}

static struct vd_cache_witness of_frozen(const struct vd_layer_file *file, uint64_t generation)
{
    return (struct vd_cache_witness){.token = file->token,
                                     .generation = generation,
                                     .size_bytes = file->size_bytes,
                                     .mtime_ns = file->mtime_ns};
}

int vd__witness_frozen(struct vd_disks *ds, const struct vd_layer_file *file,
                       struct vd_cache_key *ret_key)
{
    struct vd_cache_witness w = {0};
    int r = vd_cache_witness_load(ds->config.cache, &file->disk_id, &w);
    struct vd_cache_key old = {.disk_id = file->disk_id, .generation = w.generation};
    ret_key->disk_id = file->disk_id;
    if (r == 0 && is_good(&w, file)) {
        ret_key->generation = w.generation;
        return 0;
    }
    bool had_one = r == 0;
    uint64_t generation;
    r = draw_generation(&generation);
    if (r < 0)
        return r;
    w = of_frozen(file, generation);
    r = vd_cache_witness_store(ds->config.cache, &file->disk_id, &w);
    if (r == 0 && had_one)
        vd__disk_forget_later(ds, &old);
    ret_key->generation = generation;
    return r;
}

void vd__witness_freeze(struct vd_disks *ds, const struct vd_layer_file *file,
                        const struct vd_cache_witness *was)
{
    struct vd_cache_witness w = of_frozen(file, was->generation);
    if (!was->generation || vd_cache_is_dead(ds->config.cache))
        return;
    int r = vd_cache_barrier(ds->config.cache);
    if (r == 0)
        r = vd_cache_witness_store(ds->config.cache, &file->disk_id, &w);
    if (r < 0)
        vd_log_warning("the cache of a frozen layer will be cold: %s", strerror(-r));
}

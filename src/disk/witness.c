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

/* Keeps a layer that requests may still use until the detach; with d->mu held. Without memory it is
 * never closed: a leak is better than a use after free. */
static void retire(struct vd_disk *d, struct vd_cache_layer *layer)
{
    struct retired_layer *kept = layer ? calloc(1, sizeof(*kept)) : NULL;
    if (!kept)
        return;
    kept->layer = layer;
    vd_list_add_tail(&d->retired, &kept->link);
}

void vd__disk_layer_replace_locked(struct vd_disk *d, struct vd_cache_layer *layer)
{
    if (layer && d->locked == VD_LOCK_NONE)
        retire(d, layer); /* the lock was taken away meanwhile */
    else
        retire(d, atomic_exchange(&d->layer, layer));
}

void vd__disk_layer_replace(struct vd_disk *d, struct vd_cache_layer *layer)
{
    pthread_mutex_lock(&d->mu);
    vd__disk_layer_replace_locked(d, layer);
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
    struct vd_cache_key old = {.disk_id = d->disk_id, .generation = w->generation};
    int r = vd_backing_sync(d->backing, true);
    if (r < 0)
        return r;
    *w = (struct vd_cache_witness){.token = *token};
    r = draw_generation(&w->generation);
    if (r < 0)
        return r;
    set_identity(w, &d->identity);
    r = vd_cache_witness_store(cache, &d->disk_id, w);
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
    int r = vd_cache_witness_load(cache, &d->disk_id, &w);
    struct vd_identity noted = identity_in(&w);
    bool warm =
        r == 0 && vd_id_eq(&w.token, token) && !w.written && vd_identity_eq(&noted, &d->identity);
    if (!warm)
        r = begin_generation(d, &w, r == 0, token);
    struct vd_cache_key key = {.disk_id = d->disk_id, .generation = w.generation};
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
    if (!atomic_load(&d->layer))
        return;
    struct vd_cache_witness w = d->witness;
    w.token = *token;
    w.written = true;
    w.attached = true;
    int r = vd_boot_id(&w.boot_id);
    if (r == 0)
        r = vd_cache_witness_store(d->ds->config.cache, &d->disk_id, &w);
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
    if (!atomic_load(&d->layer) || vd_cache_is_dead(d->ds->config.cache))
        return;
    if (w.written && !durable)
        return;
    if (!w.written && (vd_identity_eq(now, &noted) || !vd_identity_eq(now, &d->identity)))
        return; /* as noted, or changed by somebody else */
    w.written = w.attached = false;
    set_identity(&w, now);
    int r = vd_cache_witness_store(d->ds->config.cache, &d->disk_id, &w);
    if (r < 0)
        vd_log_warning("%s: its cache will be cold: the witness cannot be written: %s", d->path,
                       strerror(-r));
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Frozen layers and frozen maps as a mount uses them: each is there once, however many disks stand
 * on it. A layer's file is looked at when the layer is first referred to (a changed one is refused),
 * its place in the cache is found when it is first read, its file opened when the cache first has not
 * what is read: so a disk of a thousand layers opens few files, and one that is warm none.
 */
#include "disk.h"

#include <string.h>

#include "vd_log.h"

static struct vd_list *bucket_of(struct vd_disks *ds, const struct vd_id *id)
{
    uint32_t h;
    memcpy(&h, id->b, sizeof(h)); /* IDs are random */
    return &ds->frozen[h % FROZEN_BUCKETS];
}

/* With layers_mu held. */
static struct frozen *find(struct vd_disks *ds, const struct vd_id *id)
{
    struct vd_list *it;
    vd_list_for_each (it, bucket_of(ds, id)) {
        struct frozen *f = vd_list_entry(it, struct frozen, link);
        if (vd_id_eq(&f->file.disk_id, id)) {
            f->refs++;
            return f;
        }
    }
    return NULL;
}

int vd__frozen_get(struct vd_disks *ds, const struct vd_id *disk_id, struct frozen **ret_f,
                   char why[VD_META_WHY])
{
    pthread_mutex_lock(&ds->layers_mu);
    struct frozen *f = find(ds, disk_id);
    pthread_mutex_unlock(&ds->layers_mu);
    if (f) {
        *ret_f = f;
        return 0;
    }
    struct vd_layer_file file;
    int r = vd_layer_verify(ds->config.meta, disk_id, &file, why);
    if (r < 0)
        return r;
    struct frozen *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->refs = 1;
    made->ds = ds;
    made->file = file;
    pthread_mutex_init(&made->mu, NULL);
    pthread_mutex_lock(&ds->layers_mu);
    f = find(ds, disk_id);
    if (!f)
        vd_list_add_tail(bucket_of(ds, disk_id), &made->link);
    pthread_mutex_unlock(&ds->layers_mu);
    if (f) { /* another thread was first */
        pthread_mutex_destroy(&made->mu);
        free(made);
        made = f;
    }
    *ret_f = made;
    return 0;
}

static void frozen_free(struct frozen *f)
{
    vd_cache_layer_close(atomic_load(&f->cache));
    vd_backing_close(atomic_load(&f->backing));
    pthread_mutex_destroy(&f->mu);
    free(f);
}

/* With layers_mu held. */
static void frozen_put(struct frozen *f)
{
    if (--f->refs)
        return;
    vd_list_del(&f->link);
    frozen_free(f);
}

void vd__frozen_put(struct frozen *f)
{
    if (!f)
        return;
    struct vd_disks *ds = f->ds;
    pthread_mutex_lock(&ds->layers_mu);
    frozen_put(f);
    pthread_mutex_unlock(&ds->layers_mu);
}

int vd__frozen_cache(struct frozen *f, bool may_block, struct vd_cache_layer **ret_cache)
{
    if (!atomic_load_explicit(&f->cache_known, memory_order_acquire)) {
        if (!may_block)
            return -EAGAIN;
        pthread_mutex_lock(&f->mu);
        if (!atomic_load(&f->cache_known)) {
            struct vd_disks *ds = f->ds;
            struct vd_cache_key key;
            struct vd_cache_layer *layer = NULL;
            int r = -ENODATA;
            if (ds->config.cache && ds->config.cache_mode != VD_CACHE_OFF)
                r = vd__witness_frozen(ds, &f->file, &key);
            if (r == 0)
                r = vd_cache_layer_open(ds->config.cache, &key, &layer);
            if (r < 0 && r != -ENODATA)
                vd_log_warning(
                    "a frozen layer is read uncached: the cache cannot keep its witness: %s",
                    strerror(-r));
            atomic_store(&f->cache, layer);
            atomic_store_explicit(&f->cache_known, true, memory_order_release);
        }
        pthread_mutex_unlock(&f->mu);
    }
    *ret_cache = atomic_load(&f->cache);
    return 0;
}

void vd__frozen_adopt_cache(struct frozen *f, const struct vd_cache_key *key)
{
    struct vd_cache_layer *layer = NULL;
    pthread_mutex_lock(&f->mu);
    if (!atomic_load(&f->cache_known) && key->generation &&
        vd_cache_layer_open(f->ds->config.cache, key, &layer) == 0) {
        atomic_store(&f->cache, layer);
        atomic_store_explicit(&f->cache_known, true, memory_order_release);
    }
    pthread_mutex_unlock(&f->mu);
}

static int open_backing(struct frozen *f, struct vd_backing **ret_b)
{
    vd_cleanup_close int fd = -1;
    int r = vd_layer_open(f->ds->config.meta, &f->file.disk_id, false, &fd);
    return r < 0 ? r : vd_backing_file_open(fd, false, f->ds->config.backing_direct, ret_b);
}

int vd__frozen_backing(struct frozen *f, struct vd_backing **ret_b)
{
    struct vd_backing *b = atomic_load_explicit(&f->backing, memory_order_acquire);
    int r = 0;
    if (!b) {
        pthread_mutex_lock(&f->mu);
        b = atomic_load(&f->backing);
        if (!b)
            r = open_backing(f, &b);
        if (r == 0)
            atomic_store_explicit(&f->backing, b, memory_order_release);
        pthread_mutex_unlock(&f->mu);
    }
    if (r == 0)
        *ret_b = b;
    return r;
}

/* ---- chains ---- */

/* With layers_mu held. */
static struct chain *find_chain(struct vd_disks *ds, const struct vd_map *map)
{
    struct vd_list *it;
    vd_list_for_each (it, &ds->chains) {
        struct chain *c = vd_list_entry(it, struct chain, link);
        if (c->map == map) {
            c->refs++;
            return c;
        }
    }
    return NULL;
}

static void chain_free(struct vd_disks *ds, struct chain *c)
{
    for (uint32_t i = 0; i < c->nlayers; i++)
        vd__frozen_put(c->layers[i]);
    vd_map_unref(c->map);
    free(c);
}

static int chain_new(struct vd_disks *ds, struct vd_map *map, struct chain **ret_c,
                     char why[VD_META_WHY])
{
    uint32_t n = vd_map_nlayers(map);
    struct chain *c = calloc(1, sizeof(*c) + n * sizeof(c->layers[0]));
    if (!c)
        return -ENOMEM;
    c->refs = 1;
    int r = 0;
    for (uint32_t i = 0; i < n && r == 0; i++) {
        r = vd__frozen_get(ds, vd_map_layer(map, i), &c->layers[i], why);
        c->nlayers += r == 0;
    }
    if (r < 0) {
        chain_free(ds, c);
        return r;
    }
    c->map = map;
    *ret_c = c;
    return 0;
}

int vd__chain_get(struct vd_disks *ds, struct vd_map *map, struct chain **ret_c,
                  char why[VD_META_WHY])
{
    pthread_mutex_lock(&ds->layers_mu);
    struct chain *c = find_chain(ds, map);
    pthread_mutex_unlock(&ds->layers_mu);
    if (c) {
        vd_map_unref(map); /* the chain has its own */
        *ret_c = c;
        return 0;
    }
    struct chain *made;
    int r = chain_new(ds, map, &made, why);
    if (r < 0) {
        vd_map_unref(map);
        return r;
    }
    pthread_mutex_lock(&ds->layers_mu);
    c = find_chain(ds, map);
    if (!c)
        vd_list_add_tail(&ds->chains, &made->link);
    pthread_mutex_unlock(&ds->layers_mu);
    if (c) {
        chain_free(ds, made);
        made = c;
    }
    *ret_c = made;
    return 0;
}

struct chain *vd__chain_ref(struct vd_disks *ds, struct chain *c)
{
    pthread_mutex_lock(&ds->layers_mu);
    c->refs++;
    pthread_mutex_unlock(&ds->layers_mu);
    return c;
}

void vd__chain_put(struct vd_disks *ds, struct chain *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&ds->layers_mu);
    bool last = --c->refs == 0;
    if (last)
        vd_list_del(&c->link);
    pthread_mutex_unlock(&ds->layers_mu);
    if (last)
        chain_free(ds, c);
}

// SPDX-License-Identifier: Apache-2.0
/* Layers: one refcounted struct a key in use, in a table of the engine's, so that all who use the
 * key meet in its lists of fills and writes. The table is touched only when layers open and close,
 * and by flush and forget. */
#include <assert.h>

#include "engine.h"

static struct vd_list *bucket_of(struct vd__engine *e, const struct vd_cache_key *key)
{
    return &e->table[vd__key_hash(key, 0) % VD__TABLE_BUCKETS];
}

static bool same_key(const struct vd_cache_key *a, const struct vd_cache_key *b)
{
    return a->generation == b->generation && vd_id_eq(&a->disk_id, &b->disk_id);
}

/* lock: table_mu */
static struct vd__layer *find(struct vd__engine *e, const struct vd_cache_key *key)
{
    struct vd_list *it, *bucket = bucket_of(e, key);
    vd_list_for_each (it, bucket) {
        struct vd__layer *l = vd_list_entry(it, struct vd__layer, link);
        if (same_key(&l->key, key))
            return l;
    }
    return NULL;
}

static struct vd__layer *layer_new(struct vd__engine *e, const struct vd_cache_key *key)
{
    struct vd__layer *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->layer.ops = e->cache.ops;
    l->layer.cache = &e->cache;
    l->engine = e;
    l->key = *key;
    l->seed = vd__block_seed(key);
    pthread_mutex_init(&l->mu, NULL);
    vd_list_init(&l->fills);
    vd_list_init(&l->writes);
    return l;
}

int vd__layer_open(struct vd_cache *c, const struct vd_cache_key *key,
                   struct vd_cache_layer **ret_layer)
{
    struct vd__engine *e = vd__engine(c);
    assert(!vd_id_is_zero(&key->disk_id)); /* stands for a free slot */
    pthread_mutex_lock(&e->table_mu);
    struct vd__layer *l = find(e, key);
    if (!l && (l = layer_new(e, key)))
        vd_list_add_tail(bucket_of(e, key), &l->link);
    if (l)
        l->refs++;
    pthread_mutex_unlock(&e->table_mu);
    if (!l)
        return -ENOMEM;
    *ret_layer = &l->layer;
    return 0;
}

void vd__layer_close(struct vd_cache_layer *layer)
{
    struct vd__layer *l = vd__layer(layer);
    struct vd__engine *e = l->engine;
    pthread_mutex_lock(&e->table_mu);
    bool last = --l->refs == 0;
    if (last)
        vd_list_del(&l->link);
    pthread_mutex_unlock(&e->table_mu);
    if (!last)
        return;
    assert(vd_list_empty(&l->fills) && vd_list_empty(&l->writes));
    pthread_mutex_destroy(&l->mu);
    free(l);
}

void vd__layer_poison(struct vd__layer *l)
{
    struct vd_list *it;
    pthread_mutex_lock(&l->mu);
    vd_list_for_each (it, &l->fills) {
        vd_list_entry(it, struct vd_cache_fill, link)->poisoned = true;
    }
    vd_list_for_each (it, &l->writes) {
        vd_list_entry(it, struct vd_cache_write, link)->alone = false;
    }
    pthread_mutex_unlock(&l->mu);
}

void vd__poison(struct vd__engine *e, const struct vd_cache_key *key)
{
    struct vd_list *it;
    pthread_mutex_lock(&e->table_mu);
    for (unsigned i = 0; i < VD__TABLE_BUCKETS; i++) {
        vd_list_for_each (it, &e->table[i]) {
            struct vd__layer *l = vd_list_entry(it, struct vd__layer, link);
            if (!key || same_key(&l->key, key))
                vd__layer_poison(l);
        }
    }
    pthread_mutex_unlock(&e->table_mu);
}

void vd__layer_drop(struct vd_cache_layer *layer)
{
    struct vd__layer *l = vd__layer(layer);
    vd__layer_poison(l);
    vd__drop_range(l->engine, &l->key, 0, UINT64_MAX);
}

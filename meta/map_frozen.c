// SPDX-License-Identifier: Apache-2.0
/*
 * Frozen maps: one struct an ID, shared by all who name it; lookups; baking.
 *
 * A struct is found by its ID under maps->mu until its last reference goes. One that has been
 * baked, or that a newly frozen map takes the place of, is outdated: who has it keeps it, and who
 * asks next reads the files.
 */
#include <assert.h>
#include <fcntl.h>

#include "map_live.h"
#include "vd_log.h"

static struct vd_list *bucket_of(struct vd_maps *maps, const struct vd_id *id)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof(h)); /* random as it is */
    return &maps->buckets[h % VD__MAPS_BUCKETS];
}

/* lock: maps->mu */
static struct vd_map *find(struct vd_maps *maps, const struct vd_id *id, bool outdated_too)
{
    struct vd_list *it, *bucket = bucket_of(maps, id);
    vd_list_for_each (it, bucket) {
        struct vd_map *m = vd_list_entry(it, struct vd_map, link);
        if (vd_id_eq(&m->id, id) && (outdated_too || !m->outdated))
            return m;
    }
    return NULL;
}

bool vd__map_in_use(struct vd_maps *maps, const struct vd_id *id)
{
    struct vd_list *it;
    pthread_mutex_lock(&maps->mu);
    bool used = find(maps, id, true);
    vd_list_for_each (it, &maps->live)
        used |= vd_id_eq(&vd_list_entry(it, struct vd_live_map, link)->id, id);
    pthread_mutex_unlock(&maps->mu);
    return used;
}

static struct vd_map *map_new(struct vd_maps *maps, const struct vd_id *id)
{
    struct vd_map *m = calloc(1, sizeof(*m));
    if (!m)
        return NULL;
    m->maps = maps;
    m->id = *id;
    vd_list_init(&m->link);
    atomic_init(&m->refs, 1);
    atomic_flag_clear(&m->complained);
    pthread_mutex_init(&m->bake_mu, NULL);
    return m;
}

static void map_free(struct vd_map *m)
{
    vd__maptab_close(m->table);
    vd__bits_unref(m->bits);
    pthread_mutex_destroy(&m->bake_mu);
    free(m);
}

/* lock: maps->mu */
static void publish(struct vd_map *m)
{
    m->no = ++m->maps->last_no;
    vd_list_add_head(bucket_of(m->maps, &m->id), &m->link);
}

struct vd_map *vd_map_ref(struct vd_map *m)
{
    atomic_fetch_add_explicit(&m->refs, 1, memory_order_relaxed);
    return m;
}

void vd_map_unref(struct vd_map *m)
{
    if (!m)
        return;
    unsigned n = atomic_load_explicit(&m->refs, memory_order_relaxed);
    while (n > 1)
        if (atomic_compare_exchange_weak_explicit(&m->refs, &n, n - 1, memory_order_release,
                                                  memory_order_relaxed))
            return;
    struct vd_maps *maps = m->maps;
    pthread_mutex_lock(&maps->mu);
    bool last = atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) == 1;
    if (last)
        vd_list_del(&m->link);
    pthread_mutex_unlock(&maps->mu);
    if (last)
        map_free(m);
}

/* ---- from files, from a live map ---- */

static int open_files(struct vd_maps *maps, const struct vd_id *id, struct vd_map **ret_map,
                      char why[VD_META_WHY])
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    vd_cleanup(vd__loaded_clear) struct vd__loaded l = {0};
    int r = vd__map_load_any(maps, id, VD_MAP_TRUST_MARKED, &t, &l, why);
    if (r < 0)
        return r;
    struct vd_map *m = map_new(maps, id);
    if (!m)
        return -ENOMEM;
    atomic_init(&m->baked, t != NULL);
    m->nextents = t ? t->head.nextents : l.nextents + l.nrecords;
    m->table = vd_steal_ptr(t);
    m->bits = vd_steal_ptr(l.bits);
    m->layer = l.layer;
    m->size_bytes = l.size_bytes;
    m->first_log = l.first_log;
    m->last_log = l.last_log;
    *ret_map = m;
    return 0;
}

int vd_map_get(struct vd_maps *maps, const struct vd_id *id, struct vd_map **ret_map,
               char ret_why[VD_META_WHY])
{
    struct vd_map *mine = NULL, *m;
    pthread_mutex_lock(&maps->mu);
    m = find(maps, id, false);
    if (!m) {
        pthread_mutex_unlock(&maps->mu);
        int r = open_files(maps, id, &mine, ret_why);
        if (r < 0)
            return r;
        pthread_mutex_lock(&maps->mu);
        m = find(maps, id, false); /* somebody may have been as fast */
    }
    if (m) {
        vd_map_ref(m);
    } else {
        publish(mine);
        m = vd_steal_ptr(mine);
    }
    pthread_mutex_unlock(&maps->mu);
    if (mine)
        map_free(mine);
    *ret_map = m;
    return 0;
}

/* Everything marked, and nobody marking? */
static bool is_marked(struct vd_live_map *lm)
{
    pthread_mutex_lock(&lm->mark_mu);
    bool yes = !lm->marking && lm->marked >= vd_live_map_pending(lm) && (lm->newest || lm->clean);
    pthread_mutex_unlock(&lm->mark_mu);
    return yes;
}

int vd_live_map_freeze(struct vd_live_map *lm, struct vd_map **ret_map)
{
    struct vd_maps *maps = lm->maps;
    if (!is_marked(lm))
        return -EBUSY;
    struct vd_map *m = map_new(maps, &lm->id);
    if (!m)
        return -ENOMEM;
    pthread_mutex_lock(&lm->mu);
    lm->frozen = true;
    m->bits = vd__bits_ref(lm->bits);
    m->layer = lm->layer;
    m->size_bytes = vd_live_map_size(lm);
    m->nextents = atomic_load(&lm->nextents) + atomic_load(&lm->nrecords);
    m->first_log = lm->first_log;
    m->last_log = lm->newest ? lm->newest->head.number : lm->last_log;
    pthread_mutex_unlock(&lm->mu);
    pthread_mutex_lock(&maps->mu);
    struct vd_map *old = find(maps, &m->id, false);
    if (old)
        old->outdated = true;
    publish(m);
    pthread_mutex_unlock(&maps->mu);
    *ret_map = m;
    return 0;
}

/* ---- lookups ---- */

const struct vd_id *vd_map_id(const struct vd_map *m)
{
    return &m->id;
}

uint32_t vd_map_nlayers(const struct vd_map *m)
{
    return m->table ? m->table->head.nlayers : 1;
}

const struct vd_id *vd_map_layer(const struct vd_map *m, uint32_t i)
{
    assert(i < vd_map_nlayers(m));
    return m->table ? &m->table->layers[i] : &m->layer;
}

uint64_t vd_map_nextents(const struct vd_map *m)
{
    return m->nextents;
}

bool vd_map_is_baked(const struct vd_map *m)
{
    return atomic_load(&m->baked);
}

static int find_in_bits(const struct vd_map *m, uint64_t first, uint64_t nblocks,
                        uint32_t *ret_layer, uint64_t *ret_run)
{
    static const uint32_t layer_of[] = {
        [VD_BLOCK_BELOW] = VD_MAP_NONE, [VD_BLOCK_OWN] = 0, [VD_BLOCK_ZERO] = VD_MAP_ZERO};
    *ret_layer = layer_of[vd__bits_get(m->bits, first, nblocks, ret_run)];
    return 0;
}

/* Reads the page, answers from it and keeps it. */
static int find_in_file(struct vd_map *m, uint64_t page, uint64_t block, uint64_t limit,
                        struct vd__extent *ret_e)
{
    char why[VD_META_WHY], name[VD__MAP_NAME];
    _Alignas(8) uint8_t buf[VD__MAPTAB_PAGE_LEN];
    int r = vd__maptab_read(m->table, page, 1, buf, why);
    if (r == -EUCLEAN && !atomic_flag_test_and_set(&m->complained)) {
        vd__map_table_name(&m->id, name);
        vd__map_why(m->maps, name, why, why);
        vd_log_error("%s", why);
    }
    if (r < 0)
        return r;
    const _Atomic uint64_t *words = (const _Atomic uint64_t *)(const void *)buf;
    *ret_e = vd__maptab_page_search(words, block, limit);
    vd__pages_put(m->maps->pages, m->no, page, words);
    return 0;
}

int vd_map_find(struct vd_map *m, uint64_t first, uint64_t nblocks, bool may_block,
                uint32_t *ret_layer, uint64_t *ret_run)
{
    uint64_t page, limit;
    assert(nblocks > 0);
    if (m->bits)
        return find_in_bits(m, first, nblocks, ret_layer, ret_run);
    if (!vd__maptab_locate(m->table, first, &page, &limit)) {
        *ret_layer = VD_MAP_NONE;
        *ret_run = vd_min(nblocks, limit - first);
        return 0;
    }
    struct vd__extent e;
    if (!vd__pages_search(m->maps->pages, m->no, page, first, limit, &e)) {
        int r = may_block ? find_in_file(m, page, first, limit, &e) : -EAGAIN;
        if (r < 0)
            return r;
    }
    *ret_layer = e.layer;
    *ret_run = vd_min(nblocks, e.first + e.nblocks - first);
    return 0;
}

/* ---- baking ---- */

/* Has another program done it? */
static bool is_baked_in_file(struct vd_map *m)
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    char why[VD_META_WHY];
    return vd__map_open_table(m->maps, &m->id, &t, why) == 0 && t->head.flags & VD__MAPTAB_FROZEN;
}

static int bake(struct vd_map *m)
{
    struct vd__maptab_head head = {
        .id = m->id,
        .flags = VD__MAPTAB_FROZEN,
        .first_log = m->last_log + 1,
        .size_bytes = m->size_bytes,
    };
    int r = is_baked_in_file(m) ? 0 : vd__map_write_table(m->maps, &head, &m->layer, m->bits, NULL);
    if (r < 0)
        return r;
    vd__map_unlink_logs(m->maps, &m->id, m->first_log, m->last_log);
    atomic_store(&m->baked, true);
    pthread_mutex_lock(&m->maps->mu);
    m->outdated = true; /* who asks next need not have it all in memory */
    pthread_mutex_unlock(&m->maps->mu);
    return 0;
}

int vd_map_bake(struct vd_map *m)
{
    pthread_mutex_lock(&m->bake_mu);
    int r = vd_map_is_baked(m) ? 0 : bake(m);
    pthread_mutex_unlock(&m->bake_mu);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/* The live map: opening, lookups, changes. Marks are in map_mark.c, folds in map_fold.c. */
#include "map_live.h"

#include <assert.h>

#define FOLD_MIN (64u << 10)
#define FOLD_MAX (256u << 10)

/* ---- open, close ---- */

static struct vd_live_map *live_new(struct vd_maps *maps, const struct vd_id *id,
                                    struct vd__loaded *l)
{
    struct vd_live_map *lm = calloc(1, sizeof(*lm));
    if (!lm)
        return NULL;
    lm->maps = maps;
    lm->id = *id;
    lm->layer = l->layer;
    lm->bits = vd_steal_ptr(l->bits);
    atomic_init(&lm->size_bytes, l->size_bytes);
    pthread_mutex_init(&lm->mu, NULL);
    pthread_mutex_init(&lm->mark_mu, NULL);
    pthread_cond_init(&lm->marked_cond, NULL);
    lm->clean = l->clean;
    lm->last = l->last;
    lm->first_log = l->first_log;
    lm->last_log = l->last_log;
    atomic_init(&lm->nextents, l->nextents);
    atomic_init(&lm->nrecords, l->nrecords);
    pthread_mutex_lock(&maps->mu);
    vd_list_add_tail(&maps->live, &lm->link);
    pthread_mutex_unlock(&maps->mu);
    return lm;
}

int vd_live_map_open(struct vd_maps *maps, const struct vd_id *id, enum vd_map_trust trust,
                     struct vd_live_map **ret_lm, char ret_why[VD_META_WHY])
{
    vd_cleanup(vd__maptab_close_p) struct vd__maptab *t = NULL;
    vd_cleanup(vd__loaded_clear) struct vd__loaded l = {0};
    int r = vd__map_load_any(maps, id, trust, &t, &l, ret_why);
    if (r < 0)
        return r;
    if (t) {
        char name[VD__MAP_NAME];
        vd__map_table_name(id, name);
        return vd__map_why(maps, name, "it is a frozen map, not a live one", ret_why);
    }
    struct vd_live_map *lm = live_new(maps, id, &l);
    if (!lm)
        return -ENOMEM;
    *ret_lm = lm;
    return 0;
}

/* What is known to be durable by now, for who reads the log after us; not synced. Without it the
 * last group of records could not be told, after damage, from one that never got to the disk. */
static void note_known(struct vd_live_map *lm)
{
    struct vd__maplog *l = lm->newest;
    if (!l || lm->mark_error || l->known == l->noted)
        return;
    struct vd__maplog_record m = {
        .type = VD__MAPLOG_MARK,
        .a = lm->marked > l->base ? vd_min(lm->marked - l->base, l->nslots) : 0,
        .b = l->known,
    };
    bool broken;
    int r = vd__maplog_append(l, &m, &broken);
    (void)r;
}

void vd_live_map_close(struct vd_live_map *lm)
{
    if (!lm)
        return;
    note_known(lm);
    pthread_mutex_lock(&lm->maps->mu);
    vd_list_del(&lm->link);
    pthread_mutex_unlock(&lm->maps->mu);
    while (lm->oldest) {
        struct vd__maplog *l = lm->oldest;
        lm->oldest = l->next;
        vd__maplog_close(l);
    }
    vd__bits_unref(lm->bits);
    pthread_cond_destroy(&lm->marked_cond);
    pthread_mutex_destroy(&lm->mark_mu);
    pthread_mutex_destroy(&lm->mu);
    free(lm);
}

/* ---- lookups ---- */

const struct vd_id *vd_live_map_id(const struct vd_live_map *lm)
{
    return &lm->id;
}

const struct vd_id *vd_live_map_layer(const struct vd_live_map *lm)
{
    return &lm->layer;
}

uint64_t vd_live_map_size(const struct vd_live_map *lm)
{
    return atomic_load_explicit(&lm->size_bytes, memory_order_acquire);
}

bool vd_live_map_empty(const struct vd_live_map *lm)
{
    uint64_t run;
    return vd__bits_get(lm->bits, 0, VD_MAP_BLOCKS_MAX, &run) == VD_BLOCK_BELOW &&
           run == VD_MAP_BLOCKS_MAX;
}

enum vd_block_state vd_live_map_get(const struct vd_live_map *lm, uint64_t first, uint64_t nblocks,
                                    uint64_t *ret_run)
{
    return vd__bits_get(lm->bits, first, nblocks, ret_run);
}

int vd_live_map_each(const struct vd_live_map *lm,
                     int (*fn)(void *user, uint64_t first, uint64_t nblocks,
                               enum vd_block_state state),
                     void *user)
{
    uint64_t pos = 0, first, n;
    enum vd_block_state state;
    int r = 0;
    while (r == 0 && vd__bits_next(lm->bits, &pos, &first, &n, &state))
        r = fn(user, first, n, state);
    return r;
}

/* ---- changes ---- */

/* lock: mu */
static int append(struct vd_live_map *lm, const struct vd__maplog_record *rec)
{
    assert(lm->newest); /* begun */
    if (lm->failed)
        return -EIO;
    if (lm->frozen)
        return -EROFS;
    bool broken;
    int r = vd__maplog_append(lm->newest, rec, &broken);
    lm->failed |= broken;
    if (r < 0)
        return r;
    atomic_store_explicit(&lm->pending, lm->newest->base + lm->newest->nslots,
                          memory_order_release);
    atomic_fetch_add_explicit(&lm->nrecords, 1, memory_order_relaxed);
    return 0;
}

int vd_live_map_set(struct vd_live_map *lm, uint64_t first, uint64_t nblocks,
                    enum vd_block_state state)
{
    assert(state == VD_BLOCK_OWN || state == VD_BLOCK_ZERO);
    struct vd__maplog_record rec = {.type = state, .a = first, .b = nblocks};
    int r = vd__bits_prepare(lm->bits, first, nblocks, state);
    if (r < 0)
        return r;
    pthread_mutex_lock(&lm->mu);
    r = append(lm, &rec);
    pthread_mutex_unlock(&lm->mu);
    if (r == 0)
        vd__bits_put(lm->bits, first, nblocks, state);
    return r;
}

int vd_live_map_set_size(struct vd_live_map *lm, uint64_t size_bytes)
{
    struct vd__maplog_record rec = {.type = VD__MAPLOG_SIZE, .a = size_bytes};
    if (size_bytes > INT64_MAX)
        return -EFBIG;
    pthread_mutex_lock(&lm->mu);
    int r = append(lm, &rec);
    if (r == 0)
        atomic_store_explicit(&lm->size_bytes, size_bytes, memory_order_release);
    pthread_mutex_unlock(&lm->mu);
    return r;
}

uint64_t vd_live_map_pending(const struct vd_live_map *lm)
{
    return atomic_load_explicit(&lm->pending, memory_order_acquire);
}

bool vd_live_map_wants_fold(const struct vd_live_map *lm)
{
    uint64_t enough = atomic_load_explicit(&lm->nextents, memory_order_relaxed) / 4;
    enough = vd_max(enough, (uint64_t)FOLD_MIN);
    enough = vd_min(enough, (uint64_t)FOLD_MAX);
    return atomic_load_explicit(&lm->nrecords, memory_order_relaxed) >= enough;
}

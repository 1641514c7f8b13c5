// SPDX-License-Identifier: Apache-2.0
/* Maps used by many threads: changes of neighbouring blocks, lookups, flushes and folds of one live
 * map; lookups of shared frozen maps through a cache too small for them, while they come, go and
 * are baked. */
#include "map_test.h"

#include <pthread.h>
#include <stdatomic.h>

#define BLOCKS 40000u
#define WRITERS 4u
#define CHANGES 30000u

struct shared {
    struct vd_live_map *lm;
    struct model *m;
    atomic_bool stop;
    _Atomic uint8_t state[BLOCKS]; /* of block i: of writer i % WRITERS */
};

struct worker {
    struct shared *s;
    unsigned n;
    int r;
    const char *what;
    struct rng rng;
};

/* Between those of the others; mostly in the same few words. */
static unsigned own_block(struct worker *w)
{
    uint64_t x = rng_next(&w->rng);
    return (unsigned)(x % 8 ? x / 8 % 16 : x / 8 % (BLOCKS / WRITERS)) * WRITERS + w->n;
}

static void *writer(void *arg)
{
    struct worker *w = arg;
    for (unsigned i = 0; w->r == 0 && !w->what && i < CHANGES; i++) {
        unsigned b = own_block(w);
        enum vd_block_state state = rng_next(&w->rng) % 2 ? VD_BLOCK_OWN : VD_BLOCK_ZERO;
        uint64_t run;
        w->r = vd_live_map_set(w->s->lm, b, 1, state);
        atomic_store_explicit(&w->s->state[b], state, memory_order_relaxed);
        b = own_block(w);
        if (vd_live_map_get(w->s->lm, b, 1, &run) !=
            (enum vd_block_state)atomic_load_explicit(&w->s->state[b], memory_order_relaxed))
            w->what = "a writer does not see its own block";
    }
    return NULL;
}

static void *flusher(void *arg)
{
    struct worker *w = arg;
    while (w->r == 0 && !atomic_load(&w->s->stop))
        w->r = try_flush(w->s->lm);
    return NULL;
}

static void *folder(void *arg)
{
    struct worker *w = arg;
    while (w->r == 0 && !atomic_load(&w->s->stop))
        w->r = vd_live_map_fold(w->s->lm, sync_nothing, NULL);
    return NULL;
}

/* A block never goes back to the maps below. */
static void *reader(void *arg)
{
    struct worker *w = arg;
    static _Thread_local bool seen[BLOCKS];
    while (!w->what && !atomic_load(&w->s->stop)) {
        for (uint64_t b = 0, run; b < BLOCKS; b += run) {
            enum vd_block_state state = vd_live_map_get(w->s->lm, b, BLOCKS - b, &run);
            for (uint64_t i = b; i < b + run; i++) {
                if (state == VD_BLOCK_BELOW && seen[i])
                    w->what = "a block went back to the maps below";
                seen[i] = state != VD_BLOCK_BELOW;
            }
        }
    }
    return NULL;
}

START_TEST(one_live_map)
{
    static struct shared s;
    void *(*const body[])(void *) = {writer,  writer,  writer, writer,
                                     flusher, flusher, folder, reader};
    struct mplace p;
    struct worker w[VD_ARRAY_SIZE(body)];
    pthread_t t[VD_ARRAY_SIZE(body)];
    struct vd_id id = map_id(1), layer = map_id(2);
    mplace_make(&p);
    must_make_live(&p, &id, &layer, 0);
    s.lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(s.lm), 0);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(body); i++) {
        w[i] = (struct worker){.s = &s, .n = i, .rng = rng_make(31 + i)};
        ck_assert_int_eq(pthread_create(&t[i], NULL, body[i], &w[i]), 0);
    }
    for (unsigned i = 0; i < VD_ARRAY_SIZE(body); i++) {
        if (i == WRITERS)
            atomic_store(&s.stop, true);
        pthread_join(t[i], NULL);
    }
    for (unsigned i = 0; i < VD_ARRAY_SIZE(body); i++)
        ck_assert_msg(w[i].r == 0 && !w[i].what, "thread %u: %d %s", i, w[i].r,
                      w[i].what ? w[i].what : "");
    ck_assert_int_eq(try_flush(s.lm), 0);
    vd_live_map_close(s.lm);
    s.lm = must_open_live(&p, &id, VD_MAP_TRUST_MARKED);
    for (unsigned b = 0; b < BLOCKS; b++) {
        uint64_t run;
        ck_assert_uint_eq(vd_live_map_get(s.lm, b, 1, &run), s.state[b]);
    }
    vd_live_map_close(s.lm);
    mplace_drop(&p);
}
END_TEST

/* Ranges that meet in the same nodes, made from nothing by all at once. */
#define RANGES 64u

static void *range_writer(void *arg)
{
    struct worker *w = arg;
    for (uint64_t i = w->n; w->r == 0 && i < RANGES * WRITERS; i += WRITERS)
        w->r = vd_live_map_set(w->s->lm, i * 100003, 100003, i % 2 ? VD_BLOCK_OWN : VD_BLOCK_ZERO);
    return NULL;
}

START_TEST(nodes_made_together)
{
    static struct shared s;
    struct mplace p;
    mplace_make(&p);
    printf("no seed\n");
    for (unsigned round = 0; round < 10; round++) {
        struct vd_id id = map_id(round), layer = map_id(2);
        struct worker w[WRITERS];
        pthread_t t[WRITERS];
        must_make_live(&p, &id, &layer, 0);
        s.lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
        ck_assert_int_eq(vd_live_map_begin(s.lm), 0);
        for (unsigned i = 0; i < WRITERS; i++) {
            w[i] = (struct worker){.s = &s, .n = i};
            ck_assert_int_eq(pthread_create(&t[i], NULL, range_writer, &w[i]), 0);
        }
        for (unsigned i = 0; i < WRITERS; i++) {
            pthread_join(t[i], NULL);
            ck_assert_int_eq(w[i].r, 0);
        }
        for (uint64_t i = 0; i < RANGES * WRITERS; i++) {
            uint64_t run;
            ck_assert_uint_eq(vd_live_map_get(s.lm, i * 100003, 200000, &run),
                              i % 2 ? VD_BLOCK_OWN : VD_BLOCK_ZERO);
            ck_assert_uint_eq(run, 100003);
        }
        vd_live_map_close(s.lm);
    }
    mplace_drop(&p);
}
END_TEST

/* ---- frozen ---- */

#define MAPS 3u
#define EXTENTS 60000u /* 236 pages a map; the cache below holds 64 */

struct frozen {
    struct vd_maps *maps;
    struct vd_id id[MAPS];
    atomic_bool stop;
    atomic_uint unread; /* lookups that were not allowed to block and would have */
};

struct lookups {
    struct frozen *f;
    struct rng rng;
    unsigned n;
    char what[VD_META_WHY];
};

/* Block b of map k: extents of two blocks with gaps of one, zero where it says so. */
static uint32_t expected(unsigned k, uint64_t b)
{
    if (b / 3 >= EXTENTS || b % 3 == 2)
        return VD_MAP_NONE;
    return (b / 3 + k) % 5 == 0 ? VD_MAP_ZERO : 0;
}

static void make_map(struct mplace *p, unsigned k, const struct vd_id *id)
{
    struct vd_id layer = map_id(50 + k);
    must_make_live(p, id, &layer, 0);
    struct vd_live_map *lm = must_open_live(p, id, VD_MAP_TRUST_ALL);
    struct vd_map *m;
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (uint64_t e = 0; e < EXTENTS; e++)
        ck_assert_int_eq(
            vd_live_map_set(lm, 3 * e, 2, expected(k, 3 * e) ? VD_BLOCK_ZERO : VD_BLOCK_OWN), 0);
    ck_assert_int_eq(try_flush(lm), 0);
    ck_assert_int_eq(vd_live_map_freeze(lm, &m), 0);
    vd_live_map_close(lm);
    if (k > 0)
        ck_assert_int_eq(vd_map_bake(m), 0);
    vd_map_unref(m);
}

static void look_up(struct lookups *l, struct vd_map *m, unsigned k)
{
    for (int i = 0; i < 200 && !l->what[0]; i++) {
        uint64_t b = rng_next(&l->rng) % (3 * EXTENTS + 6), run = 0;
        uint32_t layer;
        int r = vd_map_find(m, b, 1 + i % 4, i % 2, &layer, &run);
        if (r == -EAGAIN && i % 2 == 0) {
            atomic_fetch_add(&l->f->unread, 1);
            continue;
        }
        if (r < 0 || layer != expected(k, b) || run == 0)
            snprintf(l->what, sizeof(l->what), "map %u block %llu: %d, layer %u", k,
                     (unsigned long long)b, r, layer);
    }
}

static void *looker(void *arg)
{
    struct lookups *l = arg;
    for (int i = 0; i < 150 && !l->what[0]; i++) {
        unsigned k = (unsigned)(rng_next(&l->rng) % MAPS);
        struct vd_map *m;
        int r = vd_map_get(l->f->maps, &l->f->id[k], &m, l->what);
        if (r < 0) {
            snprintf(l->what, sizeof(l->what), "get: %d", r);
            break;
        }
        look_up(l, m, k);
        if (k == 0 && l->n == 1 && i > 40)
            r = vd_map_bake(m);
        if (r < 0)
            snprintf(l->what, sizeof(l->what), "bake: %d", r);
        vd_map_unref(m);
    }
    return NULL;
}

START_TEST(frozen_maps)
{
    struct mplace p;
    struct frozen f = {0};
    mplace_make(&p);
    for (unsigned k = 0; k < MAPS; k++) {
        f.id[k] = map_id(k);
        make_map(&p, k, &f.id[k]);
    }
    ck_assert_int_eq(vd_maps_open(p.p.store, 1, &f.maps), 0); /* the smallest cache there is */
    struct lookups l[4];
    pthread_t t[4];
    struct vd_map *held;
    char why[VD_META_WHY];
    ck_assert_int_eq(vd_map_get(f.maps, &f.id[1], &held, why), 0);
    for (unsigned i = 0; i < 4; i++) {
        l[i] = (struct lookups){.f = &f, .n = i, .rng = rng_make(41 + i)};
        ck_assert_int_eq(pthread_create(&t[i], NULL, looker, &l[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        ck_assert_msg(!l[i].what[0], "%s", l[i].what);
    }
    ck_assert_uint_gt(atomic_load(&f.unread), 0);
    vd_map_unref(held);
    vd_maps_close(f.maps);
    mplace_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {one_live_map, nodes_made_together, frozen_maps};
    return run_suite("map-threads", tests, VD_ARRAY_SIZE(tests), 120);
}

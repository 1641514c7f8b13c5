// SPDX-License-Identifier: Apache-2.0
/* Maps against a model: changes, reopening, folds, freezing, baking, merges. */
#include "map_test.h"

static int count_extents(void *user, uint64_t first, uint64_t nblocks, enum vd_block_state state)
{
    const struct model *m = ((void **)user)[0];
    unsigned *i = ((void **)user)[1];
    while (*i < CELLS && m->state[*i] == VD_BLOCK_BELOW)
        ++*i;
    if (*i == CELLS || m->c->edge[*i] != first || m->state[*i] != state)
        return 1;
    while (*i < CELLS && m->c->edge[*i] < first + nblocks && m->state[*i] == state)
        ++*i;
    return m->c->edge[*i] == first + nblocks ? 0 : 2;
}

static void check_each(struct vd_live_map *lm, const struct model *m)
{
    unsigned i = 0;
    void *user[] = {(void *)m, &i};
    ck_assert_int_eq(vd_live_map_each(lm, count_extents, user), 0);
    while (i < CELLS && m->state[i] == VD_BLOCK_BELOW)
        i++;
    ck_assert_uint_eq(i, CELLS);
}

/* One map through many lives. Every life ends with a close, which is no flush: nobody's power is
 * cut. */
static void live_life(uint64_t seed, bool small)
{
    struct rng r = rng_make(seed);
    struct mplace p;
    struct cells c;
    mplace_make(&p);
    cells_make(&c, &r, small);
    struct model m = {.c = &c, .size_bytes = 12345};
    struct vd_id id = map_id(seed), layer = map_id(77);
    must_make_live(&p, &id, &layer, m.size_bytes);
    ck_assert_int_eq(vd_live_map_make(p.maps, &id, &layer, 1), -EEXIST);
    for (int life = 0; life < 25; life++) {
        struct vd_live_map *lm = must_open_live(&p, &id, VD_MAP_TRUST_ALL);
        check_live(lm, &m);
        check_each(lm, &m);
        ck_assert(vd_id_eq(vd_live_map_layer(lm), &layer));
        ck_assert_int_eq(vd_live_map_begin(lm), 0);
        for (int i = 0; i < 120; i++) {
            ck_assert_int_eq(try_change(lm, &m, &r), 0);
            ck_assert(!vd_live_map_empty(lm) || m.size_bytes != 12345);
            switch (rng_next(&r) % 64) {
            case 0:
            case 1:
            case 4:
                ck_assert_int_eq(try_flush(lm), 0);
                break;
            case 2:
                ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
                break;
            case 3:
                check_live(lm, &m);
            }
        }
        check_live(lm, &m);
        if (rng_next(&r) % 2)
            ck_assert_int_eq(try_flush(lm), 0);
        vd_live_map_close(lm);
        if (rng_next(&r) % 2)
            mplace_again(&p);
    }
    mplace_drop(&p);
}

START_TEST(changes)
{
    live_life(1, false);
    live_life(2, false);
}
END_TEST

START_TEST(changes_of_a_small_map)
{
    live_life(3, true);
}
END_TEST

START_TEST(an_empty_map)
{
    struct mplace p;
    mplace_make(&p);
    struct vd_id id = map_id(1), layer = map_id(2);
    struct vd_live_map *lm;
    char why[VD_META_WHY];
    uint64_t run;
    ck_assert_int_eq(vd_live_map_open(p.maps, &id, VD_MAP_TRUST_ALL, &lm, why), -ENOENT);
    must_make_live(&p, &id, &layer, 99);
    lm = must_open_live(&p, &id, VD_MAP_TRUST_MARKED);
    ck_assert(vd_live_map_empty(lm));
    ck_assert_uint_eq(vd_live_map_size(lm), 99);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
    ck_assert_int_eq(vd_live_map_set(lm, 0, VD_MAP_BLOCKS_MAX, VD_BLOCK_ZERO), 0);
    ck_assert_int_eq(vd_live_map_get(lm, 5, VD_MAP_BLOCKS_MAX - 5, &run), VD_BLOCK_ZERO);
    ck_assert_uint_eq(run, VD_MAP_BLOCKS_MAX - 5);
    ck_assert(!vd_live_map_empty(lm));
    ck_assert(!vd_live_map_wants_fold(lm));
    vd_live_map_close(lm);
    mplace_drop(&p);
}
END_TEST

/* ---- frozen ---- */

#define MAPS 5u

struct stack {
    struct vd_id layer[3 * MAPS];
    struct model model[MAPS];
    struct vd_map *map[MAPS];
};

static void wanted(const struct stack *s, unsigned from, unsigned to, uint32_t *want)
{
    for (unsigned i = 0; i < CELLS; i++) {
        want[i] = VD_MAP_NONE;
        for (unsigned k = from; k < to && want[i] == VD_MAP_NONE; k++)
            if (s->model[k].state[i] != VD_BLOCK_BELOW)
                want[i] = s->model[k].state[i] == VD_BLOCK_OWN ? k : VD_MAP_ZERO;
    }
}

/* A frozen map of random content. Some are folded before, some closed and read from files. */
static void make_frozen(struct mplace *p, struct stack *s, unsigned k, const struct cells *c,
                        struct rng *r, unsigned nchanges)
{
    struct vd_id id = map_id(100 + k);
    s->layer[k] = map_id(200 + k);
    s->model[k] = (struct model){.c = c};
    must_make_live(p, &id, &s->layer[k], 0);
    struct vd_live_map *lm = must_open_live(p, &id, VD_MAP_TRUST_ALL);
    ck_assert_int_eq(vd_live_map_begin(lm), 0);
    for (unsigned i = 0; i < nchanges; i++) {
        ck_assert_int_eq(try_change(lm, &s->model[k], r), 0);
        if (rng_next(r) % 40 == 0)
            ck_assert_int_eq(vd_live_map_fold(lm, sync_nothing, NULL), 0);
    }
    if (nchanges > 0) {
        ck_assert_int_eq(vd_live_map_set_size(lm, 5), 0);
        ck_assert_int_eq(vd_live_map_freeze(lm, &s->map[k]), -EBUSY); /* not marked */
        ck_assert_int_eq(try_flush(lm), 0);
    }
    ck_assert_int_eq(vd_live_map_freeze(lm, &s->map[k]), 0);
    ck_assert_int_eq(vd_live_map_set(lm, 0, 1, VD_BLOCK_OWN), -EROFS);
    s->model[k].size_bytes = vd_live_map_size(lm);
    check_live(lm, &s->model[k]);
    vd_live_map_close(lm);
}

START_TEST(freeze_and_bake)
{
    struct rng r = rng_make(7);
    struct mplace p;
    struct cells c;
    struct stack s;
    char why[VD_META_WHY];
    mplace_make(&p);
    cells_make(&c, &r, false);
    for (unsigned k = 0; k < MAPS; k++) {
        uint32_t want[CELLS];
        struct vd_id id = map_id(100 + k);
        make_frozen(&p, &s, k, &c, &r, 200 * k);
        wanted(&s, k, k + 1, want);
        check_frozen(s.map[k], &c, want, s.layer);
        ck_assert(!vd_map_is_baked(s.map[k]));
        struct vd_map *same;
        ck_assert_int_eq(vd_map_get(p.maps, &id, &same, why), 0);
        ck_assert_ptr_eq(same, s.map[k]);
        vd_map_unref(same);
        if (k % 2) { /* as another program that finds it so */
            vd_map_unref(s.map[k]);
            mplace_again(&p);
            ck_assert_int_eq(vd_map_get(p.maps, &id, &s.map[k], why), 0);
            ck_assert(!vd_map_is_baked(s.map[k]));
            check_frozen(s.map[k], &c, want, s.layer);
        }
        ck_assert_int_eq(vd_map_bake(s.map[k]), 0);
        ck_assert_int_eq(vd_map_bake(s.map[k]), 0);
        ck_assert(vd_map_is_baked(s.map[k]));
        check_frozen(s.map[k], &c, want, s.layer);
        ck_assert_int_eq(vd_map_get(p.maps, &id, &same, why), 0);
        ck_assert(vd_map_is_baked(same) && vd_map_nlayers(same) == 1);
        check_frozen(same, &c, want, s.layer);
        ck_assert_int_eq(vd_maps_remove(p.maps, &id), -EBUSY);
        vd_map_unref(same);
        ck_assert_int_eq(vd_maps_remove(p.maps, &id), -EBUSY);
        vd_map_unref(s.map[k]);
        ck_assert_int_eq(vd_maps_remove(p.maps, &id), 0);
        ck_assert_int_eq(vd_maps_remove(p.maps, &id), 0);
        ck_assert_int_eq(vd_map_get(p.maps, &id, &same, why), -ENOENT);
    }
    mplace_drop(&p);
}
END_TEST

struct clip {
    const struct vd_id *gone;
    unsigned calls;
};

static bool keep(void *user, const struct vd_id *layer)
{
    return !vd_id_eq(layer, ((struct clip *)user)->gone);
}

static int count_progress(void *user, uint64_t done, uint64_t total)
{
    ((struct clip *)user)->calls++;
    return done <= total ? 0 : 1;
}

/* All ways to split the stack of maps into a merged upper and lower part, and their merge. */
START_TEST(merges)
{
    struct rng r = rng_make(8);
    struct mplace p;
    struct cells c;
    struct stack s;
    char why[VD_META_WHY];
    uint32_t want[CELLS];
    mplace_make(&p);
    cells_make(&c, &r, false);
    for (unsigned k = 0; k < MAPS; k++) {
        make_frozen(&p, &s, k, &c, &r, 30);
        if (k % 2)
            ck_assert_int_eq(vd_map_bake(s.map[k]), 0);
    }
    for (unsigned cut = 0; cut <= MAPS; cut++) {
        struct vd_map *part[2], *all;
        struct vd_id id[3] = {map_id(1000 + cut), map_id(2000 + cut), map_id(3000 + cut)};
        struct vd_map_merge up = {s.map, cut, VD_MAP_BLOCKS_MAX, NULL, NULL, NULL};
        struct vd_map_merge low = {s.map + cut, MAPS - cut, UINT64_MAX, NULL, NULL, NULL};
        ck_assert_int_eq(vd_maps_merge(p.maps, &up, &id[0], why), 0);
        ck_assert_int_eq(vd_maps_merge(p.maps, &low, &id[1], why), 0);
        ck_assert_int_eq(vd_maps_merge(p.maps, &low, &id[1], why), -EEXIST);
        for (unsigned i = 0; i < 2; i++)
            ck_assert_int_eq(vd_map_get(p.maps, &id[i], &part[i], why), 0);
        wanted(&s, 0, cut, want);
        check_frozen(part[0], &c, want, s.layer);
        wanted(&s, cut, MAPS, want);
        check_frozen(part[1], &c, want, s.layer);
        struct clip clip = {.gone = &s.layer[cut % MAPS]};
        struct vd_map_merge both = {part, 2, c.edge[CELLS - 100], keep, count_progress, &clip};
        ck_assert_int_eq(vd_maps_merge(p.maps, &both, &id[2], why), 0);
        ck_assert_int_eq(vd_map_get(p.maps, &id[2], &all, why), 0);
        wanted(&s, 0, MAPS, want);
        bool named = false;
        for (unsigned i = 0; i < CELLS; i++) {
            if (i >= CELLS - 100)
                want[i] = VD_MAP_NONE;
            named |= want[i] == cut % MAPS;
        }
        check_frozen(all, &c, want, s.layer);
        ck_assert_uint_eq(vd_map_nlayers(all), named ? MAPS : MAPS - 1);
        ck_assert(vd_map_is_baked(all));
        vd_map_unref(part[0]);
        vd_map_unref(part[1]);
        vd_map_unref(all);
    }
    for (unsigned k = 0; k < MAPS; k++)
        vd_map_unref(s.map[k]);
    mplace_drop(&p);
}
END_TEST

START_TEST(whole)
{
    static const uint64_t lengths[] = {0, 1, UINT32_MAX, 1ull << 34, VD_MAP_BLOCKS_MAX};
    struct mplace p;
    char why[VD_META_WHY];
    mplace_make(&p);
    for (unsigned i = 0; i < VD_ARRAY_SIZE(lengths); i++) {
        struct vd_id id = map_id(i), layer = map_id(50);
        struct vd_map *m;
        uint64_t run, n = lengths[i];
        uint32_t l;
        ck_assert_int_eq(vd_map_make_whole(p.maps, &id, &layer, n), 0);
        ck_assert_int_eq(vd_map_make_whole(p.maps, &id, &layer, n), -EEXIST);
        ck_assert_int_eq(vd_map_get(p.maps, &id, &m, why), 0);
        for (uint64_t pos = 0; pos < n; pos += run) {
            ck_assert_int_eq(vd_map_find(m, pos, n, true, &l, &run), 0);
            ck_assert_uint_eq(l, 0);
        }
        if (n < VD_MAP_BLOCKS_MAX) {
            ck_assert_int_eq(vd_map_find(m, n, 10, true, &l, &run), 0);
            ck_assert(l == VD_MAP_NONE && run == 10);
        }
        ck_assert(vd_id_eq(vd_map_layer(m, 0), &layer));
        vd_map_unref(m);
    }
    mplace_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        changes, changes_of_a_small_map, an_empty_map, freeze_and_bake, merges, whole,
    };
    return run_suite("map-model", tests, VD_ARRAY_SIZE(tests), 60);
}

// SPDX-License-Identifier: Apache-2.0
#include "map_test.h"

void mplace_make(struct mplace *p)
{
    place_make(&p->p);
    ck_assert_int_eq(vd_maps_open(p->p.store, 1 << 20, &p->maps), 0);
}

void mplace_drop(struct mplace *p)
{
    vd_maps_close(p->maps);
    place_drop(&p->p);
}

void mplace_again(struct mplace *p)
{
    vd_maps_close(p->maps);
    ck_assert_int_eq(vd_maps_open(p->p.store, 1 << 20, &p->maps), 0);
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Mostly near each other, some anywhere, some at edges of words, leaves and nodes. */
static uint64_t random_edge(struct rng *r, bool small)
{
    uint64_t x = rng_next(r);
    if (small)
        return x % (8 * CELLS);
    switch (rng_next(r) % 6) {
    case 0:
        return x % (1ull << 44);
    case 1:
        return (x % 64) << 15;
    case 2:
        return (x % 8) << (24 + 9 * (x >> 8 & 1)) | (x >> 16) % 3;
    case 3:
        return (x % 5000) << 5;
    default:
        return x % 300000;
    }
}

void cells_make(struct cells *c, struct rng *r, bool small)
{
    unsigned n = 1;
    c->edge[0] = 0;
    if (!small)
        c->edge[n++] = 1ull << 45; /* a table of more would only be slow */
    while (n <= CELLS) {
        while (n <= CELLS)
            c->edge[n++] = random_edge(r, small);
        qsort(c->edge, n, sizeof(c->edge[0]), by_number);
        unsigned kept = 1;
        for (unsigned i = 1; i < n; i++)
            if (c->edge[i] != c->edge[kept - 1])
                c->edge[kept++] = c->edge[i];
        n = kept;
    }
}

struct vd_id map_id(uint64_t n)
{
    struct vd_id id = {{0xaa}};
    memcpy(id.b + 8, &n, sizeof(n));
    return id;
}

int sync_nothing(void *user)
{
    return 0;
}

struct vd_live_map *must_open_live(struct mplace *p, const struct vd_id *id,
                                   enum vd_map_trust trust)
{
    struct vd_live_map *lm = NULL;
    char why[VD_META_WHY] = "";
    int r = vd_live_map_open(p->maps, id, trust, &lm, why);
    ck_assert_msg(r == 0, "open: %s: %s", strerror(-r), why);
    return lm;
}

void must_make_live(struct mplace *p, const struct vd_id *id, const struct vd_id *layer,
                    uint64_t size_bytes)
{
    ck_assert_int_eq(vd_live_map_make(p->maps, id, layer, size_bytes), 0);
}

int try_change(struct vd_live_map *lm, struct model *m, struct rng *r)
{
    if (rng_next(r) % 50 == 0) {
        uint64_t size = rng_next(r) >> 20;
        int err = vd_live_map_set_size(lm, size);
        if (err == 0)
            m->size_bytes = size;
        return err;
    }
    unsigned i = rng_next(r) % CELLS, n = 1 + rng_next(r) % (rng_next(r) % 8 ? 3 : 60);
    n = vd_min(n, CELLS - i);
    enum vd_block_state state = rng_next(r) % 3 ? VD_BLOCK_OWN : VD_BLOCK_ZERO;
    int err = vd_live_map_set(lm, m->c->edge[i], m->c->edge[i + n] - m->c->edge[i], state);
    if (err == 0)
        memset(&m->state[i], (int)state, n);
    return err;
}

int try_flush(struct vd_live_map *lm)
{
    return vd_live_map_mark(lm, vd_live_map_pending(lm));
}

/* Cells from I on of one state end at this one. */
static unsigned run_end(const struct model *m, unsigned i)
{
    unsigned end = i + 1;
    while (end < CELLS && m->state[end] == m->state[i])
        end++;
    return end;
}

const char *differs(const struct vd_live_map *lm, const struct model *m)
{
    static _Thread_local char text[200];
    uint64_t run;
    for (unsigned i = 0, end; i < CELLS; i = end) {
        end = run_end(m, i);
        uint64_t first = m->c->edge[i], len = m->c->edge[end] - first;
        uint64_t max = end < CELLS ? VD_MAP_BLOCKS_MAX - first : len;
        enum vd_block_state got = vd_live_map_get(lm, first, max, &run);
        if (got != m->state[i] || run != len) {
            snprintf(text, sizeof(text), "cell %u, block %llu: %u for %llu, not %u for %llu", i,
                     (unsigned long long)first, got, (unsigned long long)run, m->state[i],
                     (unsigned long long)len);
            return text;
        }
        uint64_t at = first + len / 2; /* in the middle, and its last block */
        if (vd_live_map_get(lm, at, first + len - at, &run) != m->state[i] ||
            run != first + len - at || vd_live_map_get(lm, first + len - 1, 1, &run) != m->state[i])
            return "the middle or the end of a cell";
    }
    uint64_t behind = m->c->edge[CELLS];
    if (behind < VD_MAP_BLOCKS_MAX && vd_live_map_get(lm, behind, 1, &run) != VD_BLOCK_BELOW)
        return "behind all cells";
    return vd_live_map_size(lm) == m->size_bytes ? NULL : "the size";
}

void check_live(const struct vd_live_map *lm, const struct model *m)
{
    const char *what = differs(lm, m);
    ck_assert_msg(!what, "%s", what);
}

static uint32_t number_of(struct vd_map *map, uint32_t layer, const struct vd_id *layers)
{
    if (layer == VD_MAP_NONE || layer == VD_MAP_ZERO)
        return layer;
    const struct vd_id *id = vd_map_layer(map, layer);
    for (uint32_t i = 0;; i++)
        if (vd_id_eq(&layers[i], id))
            return i;
}

void check_frozen(struct vd_map *map, const struct cells *c, const uint32_t *want,
                  const struct vd_id *layers)
{
    for (unsigned i = 0; i < CELLS; i++) {
        uint64_t pos = c->edge[i], end = c->edge[i + 1];
        while (pos < end) {
            uint32_t layer;
            uint64_t run;
            ck_assert_int_eq(vd_map_find(map, pos, end - pos, true, &layer, &run), 0);
            ck_assert_msg(number_of(map, layer, layers) == want[i],
                          "cell %u, block %llu: layer %u, not %u", i, (unsigned long long)pos,
                          layer, want[i]);
            ck_assert(run > 0 && run <= end - pos);
            pos += run;
        }
    }
}

void map_path(const struct mplace *p, const struct vd_id *id, const char *suffix, char ret[256])
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    snprintf(ret, 256, "%s/.vdiskfs/maps/%s%s", p->p.dir, hex, suffix);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Frozen maps that are made: of a whole plain disk, and by merging.
 *
 * A merge walks all its maps side by side. At each block the first map that knows it says whose it
 * is, up to where that extent ends or one of a map before it begins. Where layers may go from the
 * list, it is done twice: what an extent names is known at the end of the first time, which stops
 * when nothing can go any more.
 */
#include <assert.h>

#include "map_iter.h"
#include "map_load.h"
#include "vd_step.h"

#define PROGRESS_EXTENTS 4096u

/* ---- one pass over the maps ---- */

struct source {
    struct vd__map_iter it;
    struct vd__extent e; /* nblocks 0: there are no more */
    uint32_t base;       /* of its layers in the list of all */
};

struct merging {
    const struct vd_map_merge *merge;
    struct source *src;
    uint64_t done, total; /* extents, of all passes */
    /* Told of each piece of the result, LAYER in the list of all; non-zero ends the pass. */
    int (*emit)(struct merging *g, uint64_t first, uint64_t nblocks, uint32_t layer);

    struct vd_id *layers; /* all, in order */
    uint32_t nlayers;
    uint32_t *place;   /* of a layer in the result's list */
    bool *named;       /* by an extent of the result, or kept in any case */
    uint32_t nunnamed; /* how many are not, so far */
    struct vd__maptab_writer *w;
    char *why;
};

static int advance(struct merging *g, struct source *s)
{
    int r = vd__map_iter_next(&s->it, &s->e, g->why);
    if (r <= 0) {
        s->e.nblocks = 0;
        return r;
    }
    const struct vd_map_merge *m = g->merge;
    if (++g->done % PROGRESS_EXTENTS == 0 && m->progress)
        return m->progress(m->user, vd_min(g->done, g->total), g->total);
    return 0;
}

/* Whose is POS, and up to where? NULL: nobody's. */
static struct source *owner_of(struct merging *g, uint64_t pos, uint64_t *end)
{
    for (unsigned i = 0; i < g->merge->nmaps; i++) {
        struct source *s = &g->src[i];
        if (s->e.nblocks == 0)
            continue;
        if (s->e.first <= pos) {
            *end = vd_min(*end, s->e.first + s->e.nblocks);
            return s;
        }
        *end = vd_min(*end, s->e.first);
    }
    return NULL;
}

static int walk(struct merging *g, uint64_t nblocks)
{
    for (uint64_t pos = 0, end; pos < nblocks; pos = end) {
        int r = 0;
        for (unsigned i = 0; r == 0 && i < g->merge->nmaps; i++) {
            struct source *s = &g->src[i];
            while (r == 0 && s->e.nblocks > 0 && s->e.first + s->e.nblocks <= pos)
                r = advance(g, s);
        }
        if (r != 0)
            return r;
        end = nblocks;
        const struct source *s = owner_of(g, pos, &end);
        if (s)
            r = g->emit(g, pos, end - pos,
                        s->e.layer == VD_MAP_ZERO ? VD_MAP_ZERO : s->base + s->e.layer);
        if (r != 0)
            return r;
    }
    return 0;
}

static void close_sources(struct merging *g)
{
    for (unsigned i = 0; i < g->merge->nmaps; i++) {
        vd__map_iter_close(&g->src[i].it);
        g->src[i].it = (struct vd__map_iter){0};
    }
}

static int pass(struct merging *g)
{
    const struct vd_map_merge *m = g->merge;
    int r = 0;
    for (unsigned i = 0; r == 0 && i < m->nmaps; i++) {
        r = vd__map_iter_open(m->maps[i], &g->src[i].it);
        if (r == 0)
            r = advance(g, &g->src[i]);
    }
    if (r == 0)
        r = walk(g, vd_min(m->nblocks, (uint64_t)VD_MAP_BLOCKS_MAX));
    close_sources(g);
    return r;
}

/* ---- layers ---- */

static int gather_layers(struct merging *g)
{
    const struct vd_map_merge *m = g->merge;
    uint64_t n = 0;
    for (unsigned i = 0; i < m->nmaps; i++) {
        g->src[i].base = (uint32_t)n;
        n += vd_map_nlayers(m->maps[i]);
        g->total += vd_map_nextents(m->maps[i]);
        if (n > VD__MAPTAB_LAYERS_MAX)
            return -E2BIG;
    }
    g->layers = reallocarray(NULL, n + 1, sizeof(*g->layers));
    g->place = calloc(n + 1, sizeof(*g->place));
    g->named = calloc(n + 1, sizeof(*g->named));
    if (!g->layers || !g->place || !g->named)
        return -ENOMEM;
    for (unsigned i = 0; i < m->nmaps; i++)
        for (uint32_t k = 0; k < vd_map_nlayers(m->maps[i]); k++, g->nlayers++)
            g->layers[g->nlayers] = *vd_map_layer(m->maps[i], k);
    for (uint32_t i = 0; i < g->nlayers; i++) {
        g->named[i] = !m->keep_layer || m->keep_layer(m->user, &g->layers[i]);
        g->nunnamed += !g->named[i];
    }
    return 0;
}

static int note_layer(struct merging *g, uint64_t first, uint64_t nblocks, uint32_t layer)
{
    if (layer == VD_MAP_ZERO || g->named[layer])
        return 0;
    g->named[layer] = true;
    return --g->nunnamed == 0 ? 1 : 0; /* 1: seen enough */
}

/* Leaves out what nobody names; sets the places of the others. */
static int choose_layers(struct merging *g)
{
    if (g->nunnamed > 0) {
        g->emit = note_layer;
        g->total *= 2;
        int r = pass(g);
        if (r != 0 && !(r == 1 && g->nunnamed == 0))
            return r;
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < g->nlayers; i++) {
        if (!g->named[i])
            continue;
        g->place[i] = n;
        g->layers[n++] = g->layers[i];
    }
    g->nlayers = n;
    return 0;
}

/* ---- the result ---- */

static int write_piece(struct merging *g, uint64_t first, uint64_t nblocks, uint32_t layer)
{
    return vd__maptab_add(g->w, first, nblocks, layer == VD_MAP_ZERO ? layer : g->place[layer]);
}

static int write_merged(struct vd_maps *maps, struct merging *g, const struct vd_id *id)
{
    vd_cleanup(vd__maptab_writer_free_p) struct vd__maptab_writer *w = NULL;
    vd_cleanup(vd__temp_drop) struct vd__temp t = {.fd = -1};
    struct vd__maptab_head head = {.id = *id, .flags = VD__MAPTAB_FROZEN};
    char name[VD__MAP_NAME];
    vd__map_table_name(id, name);
    int r = vd__temp_make(maps, name, &t);
    if (r == 0)
        r = vd__maptab_writer_new(t.fd, &head, &w);
    if (r < 0)
        return r;
    g->emit = write_piece;
    g->w = w;
    vd_step("map: merge begun");
    r = pass(g);
    if (r == 0)
        r = vd__maptab_finish(w, g->layers, g->nlayers);
    return r != 0 ? r : vd__temp_name(&t, name);
}

int vd_maps_merge(struct vd_maps *maps, const struct vd_map_merge *merge, const struct vd_id *id,
                  char ret_why[VD_META_WHY])
{
    struct merging g = {.merge = merge, .why = ret_why};
    int r = vd__map_taken(maps, id);
    if (r < 0)
        return r;
    g.src = calloc(merge->nmaps + 1, sizeof(*g.src));
    r = g.src ? gather_layers(&g) : -ENOMEM;
    if (r == 0)
        r = choose_layers(&g);
    if (r == 0)
        r = write_merged(maps, &g, id);
    free(g.layers);
    free(g.place);
    free(g.named);
    free(g.src);
    return r;
}

int vd_map_make_whole(struct vd_maps *maps, const struct vd_id *id, const struct vd_id *layer,
                      uint64_t nblocks)
{
    vd_cleanup(vd__bits_unref_p) struct vd__bits *bits = vd__bits_new();
    struct vd__maptab_head head = {.id = *id, .flags = VD__MAPTAB_FROZEN};
    if (!bits)
        return -ENOMEM;
    if (nblocks > VD_MAP_BLOCKS_MAX)
        return -EFBIG;
    int r = vd__map_taken(maps, id);
    if (r == 0 && nblocks > 0)
        r = vd__bits_prepare(bits, 0, nblocks, VD_BLOCK_OWN);
    if (r < 0)
        return r;
    if (nblocks > 0)
        vd__bits_put(bits, 0, nblocks, VD_BLOCK_OWN);
    return vd__map_write_table(maps, &head, layer, bits, NULL);
}

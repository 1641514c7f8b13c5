// SPDX-License-Identifier: Apache-2.0
/*
 * A disk's layers, and which of them holds what.
 *
 *   plain      one layer, the file, which holds everything
 *   attached   the daemon tells: its map in memory is ahead of what the files tell in order,
 *              and maps are merged and removed behind our back (layers_online.c)
 *   else       a session of the metadata, the maps that it names, and vd_resolve; no lock is kept,
 *              so another program may change the disk meanwhile: what is gone is looked up once more
 */
#include <fcntl.h>
#include <string.h>

#include "layers.h"
#include "vd_resolve.h"

#define TRIES 5
#define OPEN_MAX_FILES 128u

/* ---- the list ---- */

int layers_add(struct cli_layers *l, const struct vd_id *id, bool live)
{
    if ((l->n & (l->n - 1)) == 0) {
        size_t room = l->n ? 2 * l->n : 1;
        struct cli_layer *more = realloc(l->v, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        l->v = more;
    }
    struct cli_layer *y = &l->v[l->n++];
    memset(y, 0, sizeof(*y));
    y->fd = -1;
    y->disk_id = *id;
    y->live = live;
    y->file = live && !(l->disk->layered && l->disk->view.home == VD_HOME_LAYERS);
    if (y->file)
        snprintf(y->path, sizeof(y->path), "%s", l->disk->name);
    else
        vd_layer_rel(id, y->path, sizeof(y->path));
    return 0;
}

static void empty(struct cli_layers *l)
{
    for (size_t i = 0; i < l->n; i++)
        vd_close_p(&l->v[i].fd);
    free(l->v);
    for (unsigned i = 0; i < l->nmaps; i++)
        vd_map_unref(l->maps[i]);
    vd_live_map_close(l->live_map);
    l->v = NULL;
    l->live_map = NULL;
    l->n = l->nopen = l->nmaps = 0;
}

void cli_layers_free(struct cli_layers *l)
{
    empty(l);
    memset(l, 0, sizeof(*l));
}

/* ---- from the metadata ---- */

static int name_layer(void *user, const struct vd_snapshot_record *r)
{
    struct cli_layers *l = user;
    for (size_t i = 0; i < l->n; i++)
        if (vd_id_eq(&l->v[i].disk_id, &r->disk_id))
            snprintf(l->v[i].snapshot, sizeof(l->v[i].snapshot), "%s", r->name);
    return 0;
}

/* After a power cut what no mark vouches for may not be what the disk became. */
static enum vd_map_trust trust(const struct vd_disk_record *r)
{
    struct vd_id boot;
    bool same = vd_boot_id(&boot) == 0 && vd_id_eq(&boot, &r->boot_id);
    return r->clean || same ? VD_MAP_TRUST_ALL : VD_MAP_TRUST_MARKED;
}

static int open_maps(struct cli_layers *l, const struct vd_view_record *view,
                     const struct vd_disk_record *record, char *why)
{
    struct vd_maps *maps = cli_maps(l->place);
    if (!maps) {
        snprintf(why, VD_META_WHY, "its maps cannot be opened");
        return -EIO;
    }
    int r = vd_live_map_open(maps, &view->live_map, trust(record), &l->live_map, why);
    if (r == 0)
        r = layers_add(l, &record->live_disk_id, true);
    for (uint32_t i = 0; i < view->nmaps && r == 0; i++) {
        r = vd_map_get(maps, &view->maps[i], &l->maps[i], why);
        if (r < 0)
            break;
        l->nmaps++;
        for (uint32_t k = 0; k < vd_map_nlayers(l->maps[i]) && r == 0; k++)
            r = layers_add(l, vd_map_layer(l->maps[i], k), false);
    }
    return r;
}

static int load_once(struct cli_layers *l, char *why)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    struct vd_disk_record record;
    int r = vd_meta_open(l->place->store, &l->disk->uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &record);
    if (r == 0)
        r = vd_meta_get_view(m, &view);
    if (r < 0) {
        if (m)
            snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
        return r;
    }
    r = open_maps(l, &view, &record, why);
    return r < 0 ? r : vd_meta_each_snapshot(m, name_layer, l);
}

/* The names of a running disk's layers: its daemon keeps none. Without them it is as well. */
static void name_online(struct cli_layers *l)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "";
    int r = vd_meta_open(l->place->store, &l->disk->uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_each_snapshot(m, name_layer, l);
    if (r < 0)
        cli_warn(l->disk->name, "its snapshots are not known: %s", why[0] ? why : strerror(-r));
}

int cli_layers_load(struct cli_place *p, const struct cli_disk *d, struct cli_layers *l, char *why)
{
    memset(l, 0, sizeof(*l));
    l->place = p;
    l->disk = d;
    why[0] = '\0';
    int r = 0;
    if (!d->layered)
        r = layers_add(l, &d->live.disk_id, true);
    else if (d->online)
        r = layers_load_online(l, why);
    if (l->online)
        name_online(l);
    for (int i = 0; d->layered && !l->online && i < TRIES; i++) {
        empty(l);
        why[0] = '\0';
        r = load_once(l, why);
        if (r != -ENOENT)
            break;
    }
    if (r < 0) {
        if (!why[0])
            snprintf(why, VD_META_WHY, "its layers cannot be read: %s", strerror(-r));
        cli_layers_free(l);
    }
    return r;
}

/* ---- extents ---- */

static void close_files(struct cli_layers *l)
{
    for (size_t i = 0; i < l->n; i++) {
        vd_close_p(&l->v[i].fd);
        l->v[i].fd = -1;
    }
    l->nopen = 0;
}

/* The file of layer I, L's; -1 where it cannot be had: then nothing is known of its holes. */
static int file_of(struct cli_layers *l, size_t i)
{
    struct cli_layer *y = &l->v[i];
    if (y->file)
        return l->disk->fd;
    if (y->fd < 0 && l->nopen >= OPEN_MAX_FILES)
        close_files(l);
    if (y->fd < 0 && vd_layer_open(l->place->store, &y->disk_id, false, &y->fd) == 0)
        l->nopen++;
    return y->fd;
}

static int emit(struct extent_walk *w, uint64_t start, uint64_t end, size_t layer, bool zero)
{
    struct cli_extent *e = &w->last;
    if (e->length_bytes && e->start_bytes + e->length_bytes == start && e->layer == layer &&
        e->zero == zero) {
        e->length_bytes += end - start;
        return 0;
    }
    int r = e->length_bytes ? w->fn(w->user, e) : 0;
    *e = (struct cli_extent){start, end - start, layer, zero};
    return r;
}

/* The holes of a layer's file are zero. Where the file system does not tell, all is data. */
static int emit_by_holes(struct extent_walk *w, uint64_t start, uint64_t end, size_t layer)
{
    int fd = file_of(w->l, layer), r = 0;
    off_t stop = (off_t)end;
    if (fd < 0)
        return emit(w, start, end, layer, false);
    for (off_t off = (off_t)start; off < stop && r == 0;) {
        off_t data = lseek(fd, off, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            data = stop;
        else if (data < 0 && errno == EINVAL)
            data = off;
        else if (data < 0)
            return -errno;
        data = vd_min(data, stop);
        if (data > off)
            r = emit(w, (uint64_t)off, (uint64_t)data, layer, true);
        if (data == stop || r != 0)
            break;
        off_t hole = lseek(fd, data, SEEK_HOLE);
        hole = hole < data ? stop : vd_min(hole, stop); /* punched meanwhile, or not told */
        if (hole > data)
            r = emit(w, (uint64_t)data, (uint64_t)hole, layer, false);
        off = hole;
    }
    return r;
}

int layers_emit(struct extent_walk *w, uint64_t start, uint64_t end, size_t layer, bool zero)
{
    if (zero || layer == CLI_NO_LAYER || !w->holes)
        return emit(w, start, end, layer, zero || layer == CLI_NO_LAYER);
    return emit_by_holes(w, start, end, layer);
}

/* An offset after block N, which may be the last of all. */
static uint64_t clip(uint64_t block, uint64_t end)
{
    return block > end >> VD_BLOCK_SHIFT ? end : vd_min(block << VD_BLOCK_SHIFT, end);
}

static int each_resolved(struct extent_walk *w, uint64_t off, uint64_t end)
{
    struct cli_layers *l = w->l;
    int r = 0;
    for (uint64_t at = off; at < end && r == 0;) {
        uint64_t block = at >> VD_BLOCK_SHIFT, run;
        struct vd_block_owner owner;
        r = vd_resolve(l->live_map, l->maps, l->nmaps, block, vd_blocks_touched(at, end - at), true,
                       &owner, &run);
        if (r < 0)
            break;
        int64_t depth = vd_resolve_depth(l->maps, &owner);
        uint64_t stop = clip(block + run, end);
        r = layers_emit(w, at, stop, depth < 0 ? CLI_NO_LAYER : (size_t)depth, depth < 0);
        at = stop;
    }
    return r;
}

int cli_layers_each(struct cli_layers *l, uint64_t off, uint64_t len, bool holes,
                    int (*fn)(void *user, const struct cli_extent *e), void *user, char *why)
{
    struct extent_walk w = {.l = l, .holes = holes, .fn = fn, .user = user};
    uint64_t end = off + len;
    int r;
    why[0] = '\0';
    if (l->online)
        r = layers_each_online(&w, off, end, why);
    else if (l->live_map)
        r = each_resolved(&w, off, end);
    else
        r = len ? layers_emit(&w, off, end, 0, false) : 0;
    if (r == 0 && w.last.length_bytes)
        r = fn(user, &w.last);
    if (r < 0 && !why[0])
        snprintf(why, VD_META_WHY, "its extents cannot be read: %s", strerror(-r));
    return r;
}

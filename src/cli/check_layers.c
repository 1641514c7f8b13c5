// SPDX-License-Identifier: Apache-2.0
/*
 * The layers of a disk: its live map, the frozen maps of its view and of its snapshots, and the
 * file of each layer that those name. Maps and layers are shared, so each is looked at once.
 *
 * Nothing is locked meanwhile. A disk that is in use takes snapshots, folds and merges, which
 * remove what was named a moment ago: what is wrong counts only where the disk still names the same
 * maps afterwards.
 */
#include <string.h>

#include "check.h"
#include "vd_ctl.h"

#define TRIES 5

/* What the metadata names; maps[0] is the live one. */
struct named {
    struct vd_id *maps;
    size_t n;
    char why[VD_META_WHY];
};

static int add(struct named *n, const struct vd_id *id)
{
    for (size_t i = 0; i < n->n; i++)
        if (vd_id_eq(&n->maps[i], id))
            return 0;
    struct vd_id *more = realloc(n->maps, (n->n + 1) * sizeof(*more));
    if (!more)
        return -ENOMEM;
    n->maps = more;
    n->maps[n->n++] = *id;
    return 0;
}

static int add_snapshot(void *user, const struct vd_snapshot_record *r)
{
    int e = 0;
    for (uint32_t i = 0; i < r->nmaps && e == 0; i++)
        e = add(user, &r->maps[i]);
    return e;
}

static int read_names(struct check *c, const struct cli_disk *d, struct named *n)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_view_record view;
    n->n = 0;
    n->why[0] = '\0';
    int r = vd_meta_open(c->place->store, &d->uuid, VD_META_READ, &m, n->why);
    if (r < 0)
        return r;
    r = vd_meta_get_view(m, &view);
    if (r == 0) {
        r = add(n, &view.live_map);
    }
    for (uint32_t i = 0; r == 0 && i < view.nmaps; i++)
        r = add(n, &view.maps[i]);
    if (r == 0)
        r = vd_meta_each_snapshot(m, add_snapshot, n);
    if (r < 0)
        snprintf(n->why, sizeof(n->why), "%s", vd_meta_why(m));
    return r;
}

/* ---- one map ---- */

static int keep_report(void *user, const char *what)
{
    json_array_append_new(user, vd_ctl_text(what));
    return 0;
}

static void verify_map(struct vd_maps *maps, const struct vd_id *id, json_t *found)
{
    char what[200], hex[VD_ID_HEX];
    int r = vd_maps_verify(maps, id, keep_report, found);
    if (r >= 0)
        return;
    vd_id_hex(id, hex);
    if (r == -ENOENT)
        snprintf(what, sizeof(what), "maps/%s: it is missing; restore its files from a backup",
                 hex);
    else
        snprintf(what, sizeof(what), "its map %s cannot be read: %s", hex, strerror(-r));
    keep_report(found, what);
}

struct layer_walk {
    struct check *c;
    const struct cli_disk *d;
    json_t *changed; /* object: layers that are not as they should be, and why */
};

static void look_at_layer(struct layer_walk *w, const struct vd_id *id)
{
    char hex[VD_ID_HEX], why[VD_META_WHY] = "", what[2 * VD_META_WHY];
    vd_id_hex(id, hex);
    check_first(w->c->ids, id);
    if (check_has(w->c->good, id) || json_object_get(w->changed, hex))
        return;
    int r = vd_layer_verify(w->c->place->store, id, NULL, why);
    if (r == 0) {
        check_first(w->c->good, id);
        return;
    }
    snprintf(what, sizeof(what), "%s (%.200s needs it)", why[0] ? why : strerror(-r), w->d->name);
    json_object_set_new(w->changed, hex, vd_ctl_text(what));
}

static void look_at_map(struct layer_walk *w, struct vd_maps *maps, const struct vd_id *id,
                        bool live, json_t *found)
{
    struct vd_map *map = NULL;
    char hex[VD_ID_HEX], why[VD_META_WHY] = "";
    vd_id_hex(id, hex);
    if (json_object_get(w->c->maps, hex))
        return;
    size_t before = json_array_size(found);
    verify_map(maps, id, found);
    if (live || json_array_size(found) > before)
        return;
    int r = vd_map_get(maps, id, &map, why);
    if (r < 0) {
        keep_report(found, why[0] ? why : strerror(-r));
        return;
    }
    for (uint32_t i = 0; i < vd_map_nlayers(map); i++)
        look_at_layer(w, vd_map_layer(map, i));
    vd_map_unref(map);
    json_object_set_new(w->c->maps, hex, json_true());
}

/* ---- the disk ---- */

static void report(struct check *c, const struct cli_disk *d, json_t *found, json_t *changed)
{
    const char *hex;
    json_t *what;
    size_t i;
    json_array_foreach(found, i, what) check_error(c, d->name, false, json_string_value(what));
    json_object_foreach(changed, hex, what)
    {
        struct vd_id id;
        if (vd_id_parse(hex, &id) == 0 && check_first(c->bad, &id))
            check_changed_layer(c, &id, json_string_value(what));
    }
}

static bool same_names(const struct named *a, const struct named *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->maps, b->maps, a->n * sizeof(a->maps[0])) == 0);
}

void check_layers(struct check *c, const struct cli_disk *d)
{
    struct vd_maps *maps = cli_maps(c->place);
    struct named before = {0}, after = {0};
    int r = 0;
    if (!maps) {
        check_error(c, d->name, false, "its maps cannot be opened");
        return;
    }
    for (int i = 0; i < TRIES; i++) {
        json_t *found = json_array(), *changed = json_object();
        struct layer_walk w = {c, d, changed};
        r = read_names(c, d, &before);
        for (size_t k = 0; r == 0 && k < before.n; k++)
            look_at_map(&w, maps, &before.maps[k], k == 0, found);
        bool clean = json_array_size(found) == 0 && json_object_size(changed) == 0;
        /* The daemon appends to the live map's log while we read it. */
        bool moved = r == 0 && !clean && i + 1 < TRIES &&
                     (d->online || (read_names(c, d, &after) == 0 && !same_names(&before, &after)));
        if (r == 0 && !moved)
            report(c, d, found, changed);
        json_decref(found);
        json_decref(changed);
        if (!moved)
            break;
    }
    if (r < 0 && r != -ENOENT) /* that is: it was removed meanwhile, or made plain */
        check_failed(c, d->name, before.why, r);
    free(before.maps);
    free(after.maps);
}

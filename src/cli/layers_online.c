// SPDX-License-Identifier: Apache-2.0
/* A disk's layers and extents as its daemon tells them, page by page. */
#include <string.h>

#include "layers.h"
#include "vd_ctl.h"

#define EXTENTS_MAX 4096 /* of one answer */

static int ask(const struct cli_layers *l, const char *command, json_t *more, json_t **ret_ok,
               char *why)
{
    json_t *args = cli_disk_args(l->disk);
    json_object_set_new(args, "path", vd_ctl_text(l->disk->name));
    if (more)
        json_object_update(args, more);
    json_decref(more);
    return cli_ask(l->place, command, args, CLI_LONG_TIMEOUT_MS, ret_ok, why);
}

static int parse_id(const json_t *v, struct vd_id *ret_id)
{
    const char *hex = json_string_value(v);
    memset(ret_id, 0, sizeof(*ret_id));
    return hex ? vd_id_parse(hex, ret_id) : 0;
}

static int add(struct cli_layers *l, const json_t *o)
{
    struct vd_id id;
    int r = parse_id(json_object_get(o, "disk_id"), &id);
    const char *state = json_string_value(json_object_get(o, "state"));
    if (r == 0)
        r = layers_add(l, &id, state ? strcmp(state, "live") == 0 : l->n == 0);
    if (r < 0)
        return r;
    struct cli_layer *y = &l->v[l->n - 1];
    const char *path = json_string_value(json_object_get(o, "path"));
    const char *snapshot = json_string_value(json_object_get(o, "snapshot"));
    y->file = !path || strncmp(path, VD_META_FOLDER "/", sizeof(VD_META_FOLDER)) != 0;
    snprintf(y->path, sizeof(y->path), "%s", y->file ? l->disk->name : path);
    snprintf(y->snapshot, sizeof(y->snapshot), "%s", snapshot ? snapshot : "");
    return 0;
}

int layers_load_online(struct cli_layers *l, char *why)
{
    json_t *ok = NULL, *o;
    size_t i;
    int r = ask(l, "layers", NULL, &ok, why);
    json_array_foreach(json_object_get(ok, "layers"), i, o)
    {
        if (r == 0)
            r = add(l, o);
    }
    json_decref(ok);
    l->online = r == 0 && l->n > 0;
    return r == -ENOENT ? 0 : r;
}

/* Depth and ID of one answer; a snapshot taken since the layers were told shifts depths only. */
static size_t find(const struct cli_layers *l, int64_t depth, const struct vd_id *id)
{
    if (depth >= 0 && (uint64_t)depth < l->n && vd_id_eq(&l->v[depth].disk_id, id))
        return (size_t)depth;
    for (size_t i = 0; i < l->n; i++)
        if (vd_id_eq(&l->v[i].disk_id, id))
            return i;
    return CLI_NO_LAYER;
}

static int emit(struct extent_walk *w, const json_t *e, uint64_t at, uint64_t end,
                uint64_t *ret_next)
{
    int64_t start = json_integer_value(json_object_get(e, "start"));
    int64_t length = json_integer_value(json_object_get(e, "length"));
    int64_t depth = json_integer_value(json_object_get(e, "depth"));
    struct vd_id id;
    if (length <= 0 || (uint64_t)start != at || (uint64_t)length > end - at ||
        parse_id(json_object_get(e, "disk_id"), &id) < 0)
        return -EPROTO;
    size_t layer = vd_id_is_zero(&id) ? CLI_NO_LAYER : find(w->l, depth, &id);
    bool zero = json_is_true(json_object_get(e, "zero"));
    if (!zero && layer == CLI_NO_LAYER)
        return -ESTALE; /* a layer that came since */
    *ret_next = at + (uint64_t)length;
    return layers_emit(w, at, *ret_next, layer, zero);
}

int layers_each_online(struct extent_walk *w, uint64_t off, uint64_t end, char *why)
{
    int r = 0;
    while (off < end && r == 0) {
        json_t *ok = NULL, *e;
        size_t i;
        json_t *args = json_pack("{s:I, s:I, s:i}", "offset", (json_int_t)off, "length",
                                 (json_int_t)(end - off), "max", EXTENTS_MAX);
        uint64_t before = off;
        r = ask(w->l, "extents", args, &ok, why);
        json_array_foreach(json_object_get(ok, "extents"), i, e)
        {
            if (r == 0)
                r = emit(w, e, off, end, &off);
        }
        json_decref(ok);
        if (r == 0 && off == before)
            r = -EPROTO;
    }
    if (r == -ESTALE || r == -EPROTO)
        snprintf(why, VD_META_WHY, "its layers changed meanwhile; try again");
    return r;
}

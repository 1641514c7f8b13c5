// SPDX-License-Identifier: Apache-2.0
/*
 * Would the next open of a disk be refused? What src/disk/load.c looks at is looked at here, but
 * without its lock: what is wrong counts only if the metadata says afterwards what it said before.
 * A disk that a daemon has open was looked at by that.
 */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"

/* Does the metadata still say what D was loaded with? */
static bool is_unchanged(struct cli_place *p, const struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    struct vd_view_record view;
    char why[VD_META_WHY];
    if (vd_meta_open(p->store, &d->uuid, VD_META_READ, &m, why) < 0 ||
        vd_meta_get_disk(m, &record) < 0 ||
        !vd_id_eq(&record.live_disk_id, &d->record.live_disk_id))
        return false;
    int r = vd_meta_get_view(m, &view);
    if (r < 0 || !d->layered)
        return r == -ENOENT && !d->layered;
    return vd_id_eq(&view.live_map, &d->view.live_map) && view.nmaps == d->view.nmaps &&
           memcmp(view.maps, d->view.maps, view.nmaps * sizeof(view.maps[0])) == 0;
}

/* What is wrong with layer ID, or "". The place's. */
static const char *verdict(struct cli_place *p, const struct vd_id *id)
{
    char hex[VD_ID_HEX], why[VD_META_WHY] = "";
    vd_id_hex(id, hex);
    if (!p->verdicts)
        p->verdicts = json_object();
    const char *known = json_string_value(json_object_get(p->verdicts, hex));
    if (known)
        return known;
    int r = vd_layer_verify(p->store, id, NULL, why);
    if (r < 0 && !why[0])
        snprintf(why, sizeof(why), "a frozen layer cannot be looked at: %s", strerror(-r));
    json_object_set_new(p->verdicts, hex, vd_ctl_text(r < 0 ? why : ""));
    return json_string_value(json_object_get(p->verdicts, hex));
}

/* A live layer with the record of a frozen one: was a freeze cut off, or is the metadata from
 * before it? Then others stand on the layer. */
static void look_at_age(struct cli_place *p, struct cli_disk *d)
{
    struct vd_layer_file file;
    struct vd_id live;
    char why[VD_META_WHY] = "", rel[128];
    struct vd_maps *maps;
    if ((!d->layered && vd_layered_get(d->fd, &live) < 0) ||
        vd_layer_get(p->store, &d->record.live_disk_id, &file, why) == -ENOENT ||
        !(maps = cli_maps(p)))
        return;
    int r = vd_layer_is_frozen(p->store, maps, &d->record.live_disk_id, &d->uuid, why);
    if (r == 0 || (r < 0 && r != -EUCLEAN) || !is_unchanged(p, d))
        return;
    vd_layer_rel(&d->record.live_disk_id, rel, sizeof(rel));
    d->refused = true;
    if (r == 1)
        snprintf(d->why, sizeof(d->why),
                 "its metadata is older than its layers: others stand on %s, which it would write; "
                 "restore its folder in disks/ from a later backup, or run `vdisk adopt PATH "
                 "--as-plain` to take its file's bytes as they are",
                 rel);
    else
        snprintf(d->why, sizeof(d->why), "whether others stand on %s cannot be told: %.340s", rel,
                 why);
}

static void break_it(struct cli_disk *d, const char *why)
{
    d->broken = true;
    snprintf(d->why, sizeof(d->why), "%s", why);
}

static void look_at_live_map(struct vd_maps *maps, struct cli_disk *d)
{
    struct vd_live_map *lm = NULL;
    char why[VD_META_WHY] = "";
    int r = vd_live_map_open(maps, &d->view.live_map, VD_MAP_TRUST_MARKED, &lm, why);
    if (r == -ENOENT)
        break_it(d, "its live map is missing, which says what was written last; restore it from a "
                    "backup");
    else if (r == -EUCLEAN)
        break_it(d, why);
    vd_live_map_close(lm);
}

static void look_at_map(struct cli_place *p, struct vd_maps *maps, struct cli_disk *d,
                        const struct vd_id *id)
{
    struct vd_map *map = NULL;
    char why[VD_META_WHY] = "", hex[VD_ID_HEX];
    int r = vd_map_get(maps, id, &map, why);
    vd_id_hex(id, hex);
    if (r == -ENOENT)
        snprintf(why, sizeof(why), "maps/%s.map: it is missing; restore it from a backup", hex);
    else if (r < 0 && !why[0])
        snprintf(why, sizeof(why), "maps/%s.map: %s", hex, strerror(-r));
    if (r < 0)
        break_it(d, why);
    for (uint32_t k = 0; r == 0 && k < vd_map_nlayers(map) && !d->broken; k++) {
        const char *wrong = verdict(p, vd_map_layer(map, k));
        if (*wrong)
            break_it(d, wrong);
    }
    d->nlayers += r == 0 ? vd_map_nlayers(map) : 0;
    vd_map_unref(map);
}

static void look_at_maps(struct cli_place *p, struct vd_maps *maps, struct cli_disk *d)
{
    d->broken = false;
    d->why[0] = '\0';
    d->nlayers = 1;
    look_at_live_map(maps, d);
    for (uint32_t i = 0; i < d->view.nmaps && !d->broken; i++)
        look_at_map(p, maps, d, &d->view.maps[i]);
}

void cli_disk_probe(struct cli_place *p, struct cli_disk *d)
{
    if (d->online && d->layered)
        d->nlayers = (uint32_t)json_integer_value(json_object_get(d->online, "nlayers"));
    if (d->online || !d->recorded || d->refused)
        return;
    look_at_age(p, d);
    struct vd_maps *maps = d->layered && !d->refused ? cli_maps(p) : NULL;
    if (!maps)
        return;
    look_at_maps(p, maps, d);
    if (d->broken) /* the files of a map change under its name while it is folded */
        look_at_maps(p, maps, d);
    if (d->broken && !is_unchanged(p, d)) {
        d->broken = false; /* it is being changed */
        d->why[0] = '\0';
    }
}

// SPDX-License-Identifier: Apache-2.0
/* vdisk info, vdisk owner: one disk, and who has it. */
#include <fcntl.h>
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"

/* The layers of D, newest first. A disk without metadata has one, its file, which has no ID yet.
 * What cannot be read is warned about, and left out. */
static json_t *layers_json(struct cli_place *p, const struct cli_disk *d)
{
    json_t *list = json_array();
    struct cli_layers l;
    char why[VD_META_WHY];
    if (cli_layers_load(p, d, &l, why) < 0) {
        cli_warn(d->name, "%s", why);
        return list;
    }
    for (size_t i = 0; i < l.n; i++)
        json_array_append_new(
            list,
            json_pack("{s:I, s:o, s:o, s:s, s:o}", "index", (json_int_t)i, "disk_id",
                      cli_id_json(&l.v[i].disk_id, true), "path", vd_ctl_text(l.v[i].path), "state",
                      cli_layer_state(l.v[i].live ? VD_LAYER_LIVE : VD_LAYER_FROZEN), "snapshot",
                      cli_text_json(l.v[i].snapshot[0] ? l.v[i].snapshot : NULL)));
    cli_layers_free(&l);
    return list;
}

/* Background work on the disk's maps, which only its daemon knows of: null where there is none. */
static json_t *merge_json(const struct cli_disk *d)
{
    json_t *merge = json_object_get(d->online, "merge");
    return json_is_object(merge) ? json_incref(merge) : json_null();
}

/* Where the disk is that D was cloned from: what its record says, if that is still so. */
static const char *parent_path(const struct cli_place *p, const struct cli_disk *d,
                               char path[PATH_MAX])
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    struct vd_id uuid;
    char why[VD_META_WHY];
    if (!d->layered || vd_id_is_zero(&d->view.parent) ||
        vd_meta_open(p->store, &d->view.parent, VD_META_READ, &m, why) < 0 ||
        vd_meta_get_disk(m, &record) < 0)
        return NULL;
    vd_cleanup_close int fd = openat(p->source_fd, record.path,
                                     O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0 || !cli_named_uuid(fd, &uuid) || !vd_id_eq(&uuid, &d->view.parent))
        return NULL;
    snprintf(path, PATH_MAX, "%s", record.path);
    return path;
}

static json_t *info_json(const struct cli_disk *d, const char *parent, json_t *layers,
                         json_t *filters, uint64_t cached)
{
    size_t n = vd_max(json_array_size(layers), (size_t)1);
    bool cloned = d->layered && !vd_id_is_zero(&d->view.parent);
    return json_pack(
        "{s:o, s:I, s:o, s:I, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:b, s:o}", "name",
        vd_ctl_text(d->name), "size", (json_int_t)d->size_bytes, "disk_id",
        cli_id_json(&d->record.live_disk_id, d->recorded), "depth", (json_int_t)(n - 1), "state",
        cli_disk_state(d), "uuid", cli_id_json(&d->uuid, d->bound), "parent",
        cli_id_json(&d->view.parent, cloned), "parent_path", cli_text_json(parent), "layers",
        layers, "owner", cli_owner_json(d), "filters", filters, "cached_bytes", (json_int_t)cached,
        "attached", d->online != NULL, "merge", merge_json(d));
}

static const char *id_text(const struct vd_id *id, bool known, char hex[VD_ID_HEX])
{
    vd_id_hex(id, hex);
    return known ? hex : "-";
}

static void print_layers(json_t *layers)
{
    static const struct cli_column columns[] = {
        {"INDEX", true}, {"STATE", false}, {"SNAPSHOT", false}, {"DISK-ID", false}, {"PATH", false},
    };
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    size_t i;
    json_t *layer;
    json_array_foreach(layers, i, layer)
    {
        char index[24];
        snprintf(index, sizeof(index), "%zu", i);
        cli_table_row(t);
        cli_table_set(t, 0, index);
        cli_table_set(t, 1, json_string_value(json_object_get(layer, "state")));
        cli_table_set(t, 2, json_string_value(json_object_get(layer, "snapshot")));
        cli_table_set(t, 3, json_string_value(json_object_get(layer, "disk_id")));
        cli_table_set(t, 4, json_string_value(json_object_get(layer, "path")));
    }
    cli_table_print(t);
}

static int print_info(const struct cli *cli, const struct cli_disk *d, const char *parent,
                      json_t *layers, json_t *filters, uint64_t cached)
{
    size_t i;
    json_t *f;
    char hex[VD_ID_HEX], size[32], owner[300];
    json_t *merge = json_object_get(d->online, "merge");
    printf("name: %s\n", d->name);
    printf("size: %s\n", cli_size(cli, d->size_bytes, size));
    printf("disk ID: %s\n", id_text(&d->record.live_disk_id, d->recorded, hex));
    printf("state: %s\n", cli_disk_state(d));
    printf("depth: %zu\n", vd_max(json_array_size(layers), (size_t)1) - 1);
    if (d->layered)
        printf("cloned from: %s\n",
               parent ? parent : id_text(&d->view.parent, !vd_id_is_zero(&d->view.parent), hex));
    if (d->owned)
        printf("owner: %s, %s, epoch %llu\n", cli_owner_name(d, owner),
               cli_owner_state(d->owner.state), (unsigned long long)d->owner.epoch);
    else
        printf("owner: -\n");
    printf("open in a mount: %s\n", d->online ? "yes" : "no");
    printf("cached: %s\n", cli_size(cli, cached, size));
    if (json_is_object(merge))
        printf("merging its maps: %lld of %lld extents\n",
               (long long)json_integer_value(json_object_get(merge, "done")),
               (long long)json_integer_value(json_object_get(merge, "total")));
    printf("filters:%s", json_array_size(filters) ? "" : " -");
    json_array_foreach(filters, i, f)
        printf("%s %s", i ? "," : "", json_string_value(json_object_get(f, "name")));
    printf("\n\n");
    print_layers(layers);
    json_decref(layers);
    json_decref(filters);
    return ferror(stdout) ? CLI_FAILED : CLI_DONE;
}

int cmd_info(struct cli *cli)
{
    if (cli->nargs != 1)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    cli_disk_probe(&t.place, &d);
    uint64_t cached = cli_cached_bytes(&t.place, &d);
    if (d.refused || d.broken)
        cli_warn(cli->args[0], "refused: %s", d.why);
    json_t *layers = d.refused && d.layered ? json_array() : layers_json(&t.place, &d);
    char path[PATH_MAX];
    const char *parent = parent_path(&t.place, &d, path);
    json_t *filters = cli_filters(&t.place, &d);
    r = cli->json ? cli_print_json(info_json(&d, parent, layers, filters, cached))
                  : print_info(cli, &d, parent, layers, filters, cached);
    cli_close(&t, &d);
    return r;
}

static int print_owner(const struct cli_disk *d)
{
    static const struct cli_column columns[] = {
        {"HOST", false},  {"PID", true}, {"EPOCH", true},
        {"STATE", false}, {"ID", false}, {"ENDPOINT", false},
    };
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    char text[VD_ID_HEX];
    cli_table_row(t);
    for (size_t i = 0; i < VD_ARRAY_SIZE(columns); i++)
        cli_table_set(t, i, NULL);
    cli_table_set(t, 3, "none");
    if (d->owned) {
        cli_table_set(t, 0, d->owner.host);
        snprintf(text, sizeof(text), "%u", d->owner.pid);
        cli_table_set(t, 1, text);
        snprintf(text, sizeof(text), "%llu", (unsigned long long)d->owner.epoch);
        cli_table_set(t, 2, text);
        cli_table_set(t, 3, cli_owner_state(d->owner.state));
        cli_table_set(t, 4, id_text(&d->owner.id, true, text));
        cli_table_set(t, 5, d->owner.endpoint);
    }
    return cli_table_print(t);
}

int cmd_owner(struct cli *cli)
{
    if (cli->nargs != 1)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    if (d.refused)
        r = cli_fail(cli, cli->args[0], "its owner is not known: %s", d.why);
    else
        r = cli->json ? cli_print_json(cli_owner_json(&d)) : print_owner(&d);
    cli_close(&t, &d);
    return r;
}

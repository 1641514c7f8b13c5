// SPDX-License-Identifier: Apache-2.0
/* vdisk ls: the disks of a source, of a folder in it, or of all mounts. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"

enum { NAME, SIZE, DEPTH, LAYERS, STATE, OWNER, CACHED, DISK_ID, SOURCE };

static const struct cli_column columns[] = {
    {"NAME", false},  {"SIZE", true},   {"DEPTH", true},    {"LAYERS", true},  {"STATE", false},
    {"OWNER", false}, {"CACHED", true}, {"DISK-ID", false}, {"SOURCE", false},
};

struct list {
    struct cli *cli;
    struct cli_place *place;
    json_t *disks;           /* with --json */
    struct cli_table *table; /* else */
    bool several;            /* places: say which */
    int failed;
};

static void add_json(struct list *l, const struct cli_disk *d, uint64_t cached)
{
    char owner[300];
    uint32_t layers = d->nlayers;
    json_array_append_new(
        l->disks, json_pack("{s:o, s:I, s:o, s:i, s:i, s:s, s:o, s:I, s:o}", "name",
                            vd_ctl_text(d->name), "size", (json_int_t)d->size_bytes, "disk_id",
                            cli_id_json(&d->record.live_disk_id, d->recorded), "depth",
                            (int)layers - 1, "layers", (int)layers, "state", cli_disk_state(d),
                            "owner", cli_text_json(cli_owner_name(d, owner)), "cached_bytes",
                            (json_int_t)cached, "source", vd_ctl_text(l->place->source)));
}

static void add_row(struct list *l, const struct cli_disk *d, uint64_t cached)
{
    char text[300];
    uint32_t layers = d->nlayers;
    cli_table_row(l->table);
    cli_table_set(l->table, NAME, d->name);
    cli_table_set(l->table, SIZE, cli_size(l->cli, d->size_bytes, text));
    snprintf(text, sizeof(text), "%u", layers - 1);
    cli_table_set(l->table, DEPTH, text);
    snprintf(text, sizeof(text), "%u", layers);
    cli_table_set(l->table, LAYERS, text);
    cli_table_set(l->table, STATE, cli_disk_state(d));
    cli_table_set(l->table, OWNER, cli_owner_name(d, text));
    cli_table_set(l->table, CACHED, cli_size(l->cli, cached, text));
    vd_id_hex(&d->record.live_disk_id, text);
    cli_table_set(l->table, DISK_ID, d->recorded ? text : NULL);
    if (l->several)
        cli_table_set(l->table, SOURCE, l->place->source);
}

static int add(void *user, const char *rel)
{
    struct list *l = user;
    struct cli_disk d;
    int r = cli_disk_load(l->place, rel, &d);
    if (r < 0 && r != -ENOENT && r != -ENODATA) {
        cli_warn(rel, "%s", strerror(-r));
        l->failed = CLI_FAILED;
    }
    if (r == 0 && cli_disk_is(&d)) {
        cli_disk_probe(l->place, &d);
        uint64_t cached = cli_cached_bytes(l->place, &d);
        if (d.refused || d.broken)
            cli_warn(rel, "refused: %s", d.why);
        if (l->disks)
            add_json(l, &d, cached);
        else
            add_row(l, &d, cached);
    }
    cli_disk_free(&d);
    return 0;
}

static int print(struct list *l, struct cli_target *ts, int n)
{
    size_t ncolumns = VD_ARRAY_SIZE(columns) - !l->several;
    if (l->cli->json)
        l->disks = json_array();
    else
        l->table = cli_table_new(columns, ncolumns);
    for (int i = 0; i < n; i++) {
        l->place = &ts[i].place;
        int r = cli_walk(l->place, ts[i].rel, add, l);
        if (r < 0) {
            cli_warn(l->place->source, "%s", strerror(-r));
            l->failed = CLI_FAILED;
        }
    }
    int r = l->disks ? cli_print_json(json_pack("{s:o}", "disks", l->disks))
                     : cli_table_print(l->table);
    return r ? r : l->failed;
}

int cmd_ls(struct cli *cli)
{
    if (cli->nargs > 1)
        return cli_usage_error(cli);
    struct list l = {.cli = cli};
    if (cli->nargs == 1) {
        struct cli_target t;
        int r = cli_resolve(cli, cli->args[0], &t);
        if (r != 0)
            return r;
        r = print(&l, &t, 1);
        cli_target_free(&t);
        return r;
    }
    struct cli_target *ts;
    int n = cli_resolve_all(cli, &ts);
    if (n < 0)
        return CLI_FAILED;
    int r;
    l.several = n > 1;
    if (n == 0)
        r = cli_fail(cli, NULL, "no mount is running; name a directory");
    else
        r = print(&l, ts, n);
    for (int i = 0; i < n; i++)
        cli_target_free(&ts[i]);
    free(ts);
    return r;
}

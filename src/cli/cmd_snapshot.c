// SPDX-License-Identifier: Apache-2.0
/* vdisk snapshot, snapshots, revert, snapshot-rm. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_disk.h"

typedef int (*change_fn)(struct vd_disks *ds, int path_fd, const char *path, const char *name,
                         char ret_why[VD_META_WHY]);

/* The three that change something take PATH and NAME. */
static int change(struct cli *cli, const char *command, change_fn offline)
{
    struct cli_work w;
    if (!cli_args_fit(cli, 2, 2))
        return cli_usage_error(cli);
    const char *name = cli->args[1];
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    json_t *text = cli_work_text(&w, name); /* names are printed as JSON: offline too */
    if (!text) {
        snprintf(w.why, sizeof(w.why), "a snapshot's name must be UTF-8");
        return cli_work_end(&w, -EILSEQ);
    }
    if (w.disks) {
        json_decref(text);
        r = offline(w.disks, w.path_fd, w.t.rel, name, w.why);
    } else {
        r = cli_work_ask(&w, command, json_pack("{s:o}", "name", text), NULL);
    }
    return cli_work_end(&w, r);
}

int cmd_snapshot(struct cli *cli)
{
    return change(cli, "snapshot", vd_disks_snapshot);
}

int cmd_revert(struct cli *cli)
{
    return change(cli, "revert", vd_disks_revert);
}

int cmd_snapshot_rm(struct cli *cli)
{
    return change(cli, "snapshot-rm", vd_disks_snapshot_rm);
}

/* ---- the list ---- */

static int add_json(void *user, const struct vd_snapshot_record *r)
{
    char created[32];
    json_array_append_new(user, json_pack("{s:o, s:o, s:s, s:I}", "name", vd_ctl_text(r->name),
                                          "disk_id", cli_id_json(&r->disk_id, true), "created",
                                          cli_time(r->created_s, created), "size",
                                          (json_int_t)r->size_bytes));
    return 0;
}

static int print_table(const struct cli *cli, json_t *list)
{
    static const struct cli_column columns[] = {
        {"NAME", false}, {"SIZE", true}, {"CREATED", false}, {"DISK-ID", false}};
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    json_t *o;
    size_t i;
    json_array_foreach(list, i, o)
    {
        char size[32];
        uint64_t bytes = (uint64_t)json_integer_value(json_object_get(o, "size"));
        cli_table_row(t);
        cli_table_set(t, 0, json_string_value(json_object_get(o, "name")));
        cli_table_set(t, 1, cli_size(cli, bytes, size));
        cli_table_set(t, 2, json_string_value(json_object_get(o, "created")));
        cli_table_set(t, 3, json_string_value(json_object_get(o, "disk_id")));
    }
    return cli_table_print(t);
}

/* From the metadata: a running daemon does not mind, and keeps no list of its own. */
static int read_list(const struct cli_place *p, const struct cli_disk *d, json_t *list, char *why)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    why[0] = '\0';
    if (!d->recorded)
        return 0;
    int r = vd_meta_open(p->store, &d->uuid, VD_META_READ, &m, why);
    if (r == 0) {
        r = vd_meta_each_snapshot(m, add_json, list);
        if (r < 0)
            snprintf(why, VD_META_WHY, "%s", vd_meta_why(m));
    }
    if (r < 0 && !why[0])
        snprintf(why, VD_META_WHY, "its snapshots cannot be read: %s", strerror(-r));
    return r;
}

int cmd_snapshots(struct cli *cli)
{
    struct cli_target t;
    struct cli_disk d;
    char why[VD_META_WHY];
    if (!cli_args_fit(cli, 1, 1))
        return cli_usage_error(cli);
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    json_t *list = json_array();
    if (read_list(&t.place, &d, list, why) < 0)
        r = cli_fail(cli, cli->args[0], "%s", why);
    else if (d.refused && !d.recorded)
        r = cli_fail(cli, cli->args[0], "refused: %s", d.why);
    else
        r = cli->json ? cli_print_json(json_pack("{s:O}", "snapshots", list))
                      : print_table(cli, list);
    json_decref(list);
    cli_close(&t, &d);
    return r;
}

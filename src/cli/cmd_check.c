// SPDX-License-Identifier: Apache-2.0
/*
 * vdisk check: reads every record of every disk's metadata and every block of the cache, and says
 * what is not as it should be. It changes nothing; a running daemon whose cache has a bad block
 * drops it, which is then reported as repaired.
 */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"

struct check {
    struct cli *cli;
    struct cli_place *place;
    bool whole;      /* the whole source: orphans too, and all of the cache */
    json_t *errors;  /* array */
    json_t *seen;    /* object: UUIDs whose file was found */
    json_t *refused; /* object: paths whose binding cannot be read */
    json_t *ids;     /* array: disk IDs that were checked */
    unsigned left;   /* errors not repaired */
};

static void add_error(struct check *c, const char *path, bool repaired, const char *what)
{
    c->left += !repaired;
    json_array_append_new(c->errors, json_pack("{s:o, s:o, s:b}", "path", vd_ctl_text(path), "what",
                                               vd_ctl_text(what), "repaired", (int)repaired));
    if (!c->cli->json)
        printf("%s: %s%s\n", path, what, repaired ? " (repaired)" : "");
}

/* ---- metadata ---- */

struct walk {
    struct check *c;
    const char *path;
};

static int check_record(void *user, const struct vd_meta_raw *raw)
{
    struct walk *w = user;
    char what[200];
    if (raw->error) {
        snprintf(what, sizeof(what), "a record of its metadata does not verify (database %.64s)",
                 raw->db);
        add_error(w->c, w->path, false, what);
    }
    return 0;
}

static void check_records(struct check *c, const struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "";
    unsigned before = c->left;
    struct walk w = {c, d->name};
    int r = vd_meta_open(c->place->store, &d->uuid, VD_META_READ, &m, why);
    if (r == -ENOENT)
        return; /* made at its next open */
    if (r == 0) {
        r = vd_meta_walk(m, check_record, &w);
        if (r < 0)
            snprintf(why, sizeof(why), "%s", vd_meta_why(m));
    }
    if (r < 0 && c->left == before)
        add_error(c, d->name, false, why[0] ? why : strerror(-r));
}

static int check_file(void *user, const char *rel)
{
    struct check *c = user;
    struct cli_disk d;
    char hex[VD_ID_HEX];
    int r = cli_disk_load(c->place, rel, &d);
    if (r < 0 && r != -ENOENT && r != -ENODATA)
        add_error(c, rel, false, strerror(-r));
    if (r == 0 && d.bound) {
        vd_id_hex(&d.uuid, hex);
        json_object_set_new(c->seen, hex, json_true());
    }
    if (r == 0 && d.recorded)
        json_array_append_new(c->ids, cli_id_json(&d.record.live_disk_id, true));
    if (r == 0 && d.refused) {
        json_object_set_new(c->refused, rel, json_true());
        add_error(c, rel, false, d.why);
    } else if (r == 0 && d.bound) {
        check_records(c, &d);
    }
    cli_disk_free(&d);
    return 0;
}

/* Disks that a daemon has open may have lost their last name; they are gone when it lets go. */
static void see_attached(struct check *c)
{
    json_t *ok = NULL, *disk;
    size_t i;
    char why[VD_META_WHY];
    if (!c->place->socket[0])
        return;
    if (cli_ask(c->place, "disks", NULL, CLI_TIMEOUT_MS, &ok, why) < 0) {
        cli_warn(c->place->mount, "%s", why);
        return;
    }
    json_array_foreach(json_object_get(ok, "disks"), i, disk)
    {
        const char *uuid = json_string_value(json_object_get(disk, "uuid"));
        if (uuid)
            json_object_set_new(c->seen, uuid, json_true());
    }
    json_decref(ok);
}

static int check_orphan(void *user, const struct vd_id *uuid)
{
    struct check *c = user;
    char hex[VD_ID_HEX], path[PATH_MAX], why[VD_META_WHY] = "", what[PATH_MAX + 200];
    vd_id_hex(uuid, hex);
    if (json_object_get(c->seen, hex))
        return 0;
    vd_meta_disk_path(c->place->store, uuid, path, sizeof(path));
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    struct vd_disk_record record;
    int r = vd_meta_open(c->place->store, uuid, VD_META_READ, &m, why);
    if (r == 0)
        r = vd_meta_get_disk(m, &record);
    if (r == -ENOENT)
        return 0; /* removed, or still being made */
    if (r < 0) {
        add_error(c, path, false, why[0] ? why : strerror(-r));
        return 0;
    }
    if (json_object_get(c->refused, record.path))
        return 0; /* said already */
    snprintf(
        what, sizeof(what),
        "no file belongs to it: its data file, last at %s, was removed or replaced outside a mount",
        record.path);
    add_error(c, path, false, what);
    return 0;
}

/* ---- the cache ---- */

static int cache_report(void *user, const char *what)
{
    json_array_append_new(user, vd_ctl_text(what));
    return 0;
}

static bool concerns(const struct check *c, const char *what)
{
    size_t i;
    json_t *id;
    if (c->whole)
        return true;
    json_array_foreach(c->ids, i, id) if (json_is_string(id) &&
                                          strstr(what, json_string_value(id))) return true;
    return false;
}

static void check_cache(struct check *c)
{
    bool online = c->place->socket[0] && !c->cli->cache_dir;
    char why[VD_META_WHY] = "";
    json_t *list = NULL, *ok = NULL, *what;
    int r;
    if (!c->place->cache_dir[0])
        return;
    if (online) {
        r = cli_ask(c->place, "cache-verify", NULL, CLI_LONG_TIMEOUT_MS, &ok, why);
        list = json_incref(json_object_get(ok, "what"));
    } else {
        list = json_array();
        r = vd_cache_scan_verify(c->place->cache_dir, cache_report, list);
    }
    if (r == -EUCLEAN)
        add_error(c, c->place->cache_dir, false,
                  "not a cache, or damaged; the next mount sets it aside and begins an empty one");
    else if (r < 0 && (online || r != -ENOENT))
        add_error(c, c->place->cache_dir, false, why[0] ? why : strerror(-r));
    size_t i;
    json_array_foreach(list, i, what) if (concerns(c, json_string_value(what)))
        add_error(c, c->place->cache_dir, online, json_string_value(what));
    json_decref(list);
    json_decref(ok);
}

static int run(struct cli *cli, struct cli_target *t)
{
    struct check c = {
        .cli = cli,
        .place = &t->place,
        .whole = !t->rel[0],
        .errors = json_array(),
        .seen = json_object(),
        .refused = json_object(),
        .ids = json_array(),
    };
    int r = cli_walk(&t->place, t->rel, check_file, &c);
    if (r < 0)
        add_error(&c, t->place.source, false, strerror(-r));
    if (c.whole && t->place.store) {
        see_attached(&c);
        r = vd_meta_each_disk(t->place.store, check_orphan, &c);
        if (r < 0 && r != -ENOENT)
            add_error(&c, t->place.source, false, strerror(-r));
    }
    check_cache(&c);
    r = cli->json ? cli_print_json(json_pack("{s:o}", "errors", json_incref(c.errors))) : 0;
    json_decref(c.errors);
    json_decref(c.seen);
    json_decref(c.refused);
    json_decref(c.ids);
    return r || c.left || ferror(stdout) ? CLI_FAILED : CLI_DONE;
}

int cmd_check(struct cli *cli)
{
    int n = 0;
    bool repair = false;
    for (int i = 0; i < cli->nargs; i++) {
        if (strcmp(cli->args[i], "--repair") == 0)
            repair = true;
        else
            cli->args[n++] = cli->args[i];
    }
    cli->nargs = n;
    if (n > 1)
        return cli_usage_error(cli);
    if (repair)
        return cli_fail(cli, n ? cli->args[0] : NULL, "--repair is not available in this version");
    struct cli_target t;
    int r = n ? cli_resolve(cli, cli->args[0], &t) : cli_resolve_only(cli, &t);
    if (r != 0)
        return r;
    r = run(cli, &t);
    cli_target_free(&t);
    return r;
}

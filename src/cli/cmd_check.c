// SPDX-License-Identifier: Apache-2.0
/*
 * vdisk check: reads every record of every disk's metadata, every map and the look of every layer's
 * file, and every block of the cache, and says what is not as it should be. It changes nothing
 * without --repair, but that a running daemon whose cache has a bad block drops it, which is then
 * reported as repaired.
 */
#include <string.h>

#include "check.h"
#include "vd_ctl.h"

void check_error(struct check *c, const char *path, bool repaired, const char *what)
{
    c->nleft += !repaired;
    what = cli_cause(path, what);
    json_array_append_new(c->errors, json_pack("{s:o, s:o, s:b}", "path", vd_ctl_text(path), "what",
                                               vd_ctl_text(what), "repaired", (int)repaired));
    if (!c->cli->json)
        printf("%s: %s%s\n", path, what, repaired ? " (repaired)" : "");
}

void check_failed(struct check *c, const char *path, const char *what, int error)
{
    check_error(c, path, false, what && *what ? what : strerror(-error));
}

void check_hold(struct check *c, const char *path, const char *cause)
{
    if (!c->held[0])
        snprintf(c->held, sizeof(c->held), "%.180s %.60s", path, cause);
}

bool check_has(const json_t *set, const struct vd_id *id)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    return json_object_get(set, hex) != NULL;
}

bool check_first(json_t *set, const struct vd_id *id)
{
    char hex[VD_ID_HEX];
    if (check_has(set, id))
        return false;
    vd_id_hex(id, hex);
    json_object_set_new(set, hex, json_true());
    return true;
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
        check_error(w->c, w->path, false, what);
    }
    return 0;
}

static void check_records(struct check *c, const struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "";
    unsigned before = c->nleft;
    struct walk w = {c, d->name};
    int r = vd_meta_open(c->place->store, &d->uuid, VD_META_READ, &m, why);
    if (r == -ENOENT)
        return; /* made at its next open */
    if (r == 0) {
        r = vd_meta_walk(m, check_record, &w);
        if (r < 0)
            snprintf(why, sizeof(why), "%s", vd_meta_why(m));
    }
    if (r < 0 && c->nleft == before)
        check_failed(c, d->name, why, r);
    if (c->nleft > before)
        check_hold(c, d->name, "has metadata that cannot be read");
}

void check_disk(struct check *c, struct cli_disk *d)
{
    if (d->bound)
        check_first(c->seen, &d->uuid);
    if (d->recorded)
        check_first(c->ids, &d->record.live_disk_id);
    cli_disk_probe(c->place, d);
    if (d->refused || d->broken)
        json_object_set_new_nocheck(c->doubtful, d->name, json_true());
    if (d->refused) {
        json_object_set_new_nocheck(c->refused, d->name, json_true());
        check_error(c, d->name, false, d->why);
    } else if (d->bound) {
        check_records(c, d);
    }
    if (d->recorded && d->layered)
        check_layers(c, d);
}

static int check_file(void *user, const char *rel)
{
    struct check *c = user;
    struct cli_disk d;
    int r = cli_disk_load(c->place, rel, &d);
    if (r < 0 && r != -ENOENT && r != -ENODATA) {
        check_failed(c, rel, "", r);
        c->place->unseen++;
    }
    if (r == 0 && !check_is_copy(c, &d))
        check_disk(c, &d);
    cli_disk_free(&d);
    return 0;
}

/* What is still refused after all repairs. Each has an error, or its map or layer has. */
static json_t *list_refused(struct check *c)
{
    json_t *list = json_array(), *v;
    const char *rel;
    json_decref(c->place->verdicts);
    c->place->verdicts = NULL;
    json_object_foreach(c->doubtful, rel, v)
    {
        struct cli_disk d;
        int r = cli_disk_load(c->place, rel, &d);
        if (r == 0)
            cli_disk_probe(c->place, &d);
        if (r == 0 && (d.refused || d.broken)) {
            check_hold(c, rel, "is refused");
            if (!c->nleft)
                check_error(c, rel, false, d.why);
            else if (d.broken && !c->cli->json)
                printf("%s: refused: %s\n", rel, d.why);
            json_array_append_new(list, json_pack("{s:o, s:o}", "path", vd_ctl_text(rel), "what",
                                                  vd_ctl_text(d.why)));
        }
        cli_disk_free(&d);
    }
    return list;
}

/* ---- the cache ---- */

static int cache_report(void *user, const char *what)
{
    json_array_append_new(user, vd_ctl_text(what));
    return 0;
}

static bool concerns(const struct check *c, const char *what)
{
    const char *id;
    json_t *v;
    if (c->whole)
        return true;
    json_object_foreach(c->ids, id, v) if (strstr(what, id)) return true;
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
        check_error(
            c, c->place->cache_dir, false,
            "not a cache, or damaged; the next mount sets it aside and begins an empty one");
    else if (r < 0 && (online || r != -ENOENT))
        check_failed(c, c->place->cache_dir, why, r);
    size_t i;
    json_array_foreach(list, i, what) if (concerns(c, json_string_value(what)))
        check_error(c, c->place->cache_dir, online, json_string_value(what));
    json_decref(list);
    json_decref(ok);
}

static int print(struct check *c, json_t *refused)
{
    if (!c->cli->json)
        return 0;
    json_t *doc = json_pack("{s:O}", "errors", c->errors);
    if (json_array_size(refused))
        json_object_set(doc, "refused", refused);
    if (json_array_size(c->left))
        json_object_set(doc, "leftovers", c->left);
    return cli_print_json(doc);
}

static int run(struct check *c, const char *rel)
{
    json_t **arrays[] = {&c->errors, &c->left, &c->copies};
    json_t **objects[] = {&c->seen, &c->bearing, &c->refused, &c->doubtful,
                          &c->ids,  &c->good,    &c->bad,     &c->maps};
    c->whole = !*rel;
    for (size_t i = 0; i < VD_ARRAY_SIZE(arrays); i++)
        *arrays[i] = json_array();
    for (size_t i = 0; i < VD_ARRAY_SIZE(objects); i++)
        *objects[i] = json_object();
    int r = cli_walk(c->place, rel, check_file, c);
    if (r < 0)
        check_failed(c, c->place->source, "", r);
    if (r < 0 || c->place->unseen)
        check_hold(c, c->place->source, "could not be seen whole");
    if (c->whole && c->place->store)
        check_restored(c);
    json_t *refused = list_refused(c);
    if (c->whole && c->place->store) {
        check_vanished(c);
        check_leftovers(c);
    }
    check_cache(c);
    r = print(c, refused);
    json_decref(refused);
    for (size_t i = 0; i < VD_ARRAY_SIZE(arrays); i++)
        json_decref(*arrays[i]);
    for (size_t i = 0; i < VD_ARRAY_SIZE(objects); i++)
        json_decref(*objects[i]);
    return r || c->nleft || ferror(stdout) ? CLI_FAILED : CLI_DONE;
}

int cmd_check(struct cli *cli)
{
    struct cli_target t;
    struct check c = {.cli = cli, .place = &t.place};
    c.repair = cli_take_flag(cli, "--repair");
    c.accept = cli_take_flag(cli, "--accept");
    if (!cli_args_fit(cli, 0, 1) || (c.accept && !c.repair))
        return cli_usage_error(cli);
    int r = cli->nargs ? cli_resolve(cli, cli->args[0], &t) : cli_resolve_only(cli, &t);
    if (r != 0)
        return r;
    r = run(&c, t.rel);
    cli_target_free(&t);
    return r;
}

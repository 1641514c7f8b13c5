// SPDX-License-Identifier: Apache-2.0
/* vdisk cache stats, flush, drop: all asked of a daemon. */
#include <fcntl.h>
#include <string.h>

#include "cli.h"

/* The place of the one argument, or the only mount. With D the argument names a disk, or a folder
 * of the mount, for which D stays without a file. */
static int open_cache(struct cli *cli, struct cli_target *t, struct cli_disk *d)
{
    memset(d, 0, sizeof(*d));
    d->fd = -1;
    const char *path = cli->nargs ? cli->args[0] : NULL;
    int r = path ? cli_resolve(cli, path, t) : cli_resolve_only(cli, t);
    if (r != 0)
        return r;
    if (!t->place.socket[0])
        r = cli_fail(cli, path, "no mount of %s is running, and only its daemon knows this",
                     t->place.source);
    else if (t->place.rivals)
        r = cli_fail(cli, path, "several mounts serve %s; name a path in one of the mounts",
                     t->place.source);
    if (r != 0)
        cli_target_free(t);
    return r;
}

/* Loads the disk that T names; a folder is none. 0 or 1 (said; T is freed). */
static int load(struct cli *cli, struct cli_target *t, struct cli_disk *d)
{
    int r = cli_disk_load(&t->place, t->rel, d);
    struct stat st;
    bool folder =
        r == -ENODATA &&
        fstatat(t->place.source_fd, *t->rel ? t->rel : ".", &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        S_ISDIR(st.st_mode);
    if (folder || (r == 0 && cli_disk_is(d)))
        return 0;
    r = cli_fail(cli, cli->args[0], "%s", r < 0 && r != -ENODATA ? strerror(-r) : "it is no disk");
    cli_close(t, d);
    return r;
}

static int ask(struct cli *cli, struct cli_target *t, const char *command, json_t *args,
               unsigned timeout_ms, json_t **ret_ok)
{
    char why[VD_META_WHY] = "";
    int r = cli_ask(&t->place, command, args, timeout_ms, ret_ok, why);
    const char *path = cli->nargs ? cli->args[0] : t->place.mount;
    return r < 0 ? cli_fail(cli, path, "%s", why) : 0;
}

static json_t *disk_args(const struct cli_disk *d)
{
    json_t *args =
        json_pack("{s:I, s:I}", "dev", (json_int_t)d->st.st_dev, "ino", (json_int_t)d->st.st_ino);
    if (d->recorded)
        json_object_set_new(args, "disk_id", cli_id_json(&d->record.live_disk_id, true));
    return args;
}

static int print_stats(const struct cli *cli, json_t *stats)
{
    static const struct cli_column columns[] = {{"COUNTER", false}, {"VALUE", true}};
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    const char *key;
    json_t *v;
    json_object_foreach(stats, key, v)
    {
        char text[32];
        const char *value = text;
        size_t len = strlen(key);
        bool bytes = len > 6 && strcmp(key + len - 6, "_bytes") == 0;
        if (json_is_string(v))
            value = json_string_value(v);
        else if (json_is_boolean(v))
            value = json_is_true(v) ? "yes" : "no";
        else if (bytes)
            cli_size(cli, (uint64_t)json_integer_value(v), text);
        else
            snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(v));
        cli_table_row(t);
        cli_table_set(t, 0, key);
        cli_table_set(t, 1, value);
    }
    return cli_table_print(t);
}

int cmd_cache_stats(struct cli *cli)
{
    struct cli_target t;
    struct cli_disk d;
    if (cli->nargs > 1)
        return cli_usage_error(cli);
    int r = open_cache(cli, &t, &d);
    if (r == 0 && cli->nargs)
        r = load(cli, &t, &d);
    if (r != 0)
        return r;
    json_t *ok = NULL;
    r = ask(cli, &t, "cache-stats", d.fd >= 0 ? disk_args(&d) : NULL, CLI_TIMEOUT_MS, &ok);
    if (r == 0)
        r = cli->json ? cli_print_json(json_incref(ok)) : print_stats(cli, ok);
    json_decref(ok);
    cli_close(&t, &d);
    return r;
}

static int finish(struct cli *cli, struct cli_target *t, struct cli_disk *d, int r)
{
    cli_close(t, d);
    return r == 0 && cli->json ? cli_print_json(json_object()) : r;
}

int cmd_cache_flush(struct cli *cli)
{
    struct cli_target t;
    struct cli_disk d;
    if (cli->nargs > 1)
        return cli_usage_error(cli);
    int r = open_cache(cli, &t, &d);
    if (r != 0)
        return r;
    json_t *ok = NULL;
    r = ask(cli, &t, "cache-flush", NULL, CLI_LONG_TIMEOUT_MS, &ok);
    json_decref(ok);
    return finish(cli, &t, &d, r);
}

int cmd_cache_drop(struct cli *cli)
{
    struct cli_target t;
    struct cli_disk d;
    if (cli->nargs != 1)
        return cli_usage_error(cli);
    int r = open_cache(cli, &t, &d);
    if (r == 0)
        r = load(cli, &t, &d);
    if (r != 0)
        return r;
    json_t *ok = NULL;
    if (d.fd < 0)
        r = cli_fail(cli, cli->args[0], "it is a folder; name a disk, or use vdisk cache flush");
    else
        r = ask(cli, &t, "cache-drop", disk_args(&d), CLI_LONG_TIMEOUT_MS, &ok);
    json_decref(ok);
    return finish(cli, &t, &d, r);
}

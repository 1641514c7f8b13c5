// SPDX-License-Identifier: Apache-2.0
/* vdisk filter ls, filter attach, filter detach. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_disk.h"

/* ---- what there is ---- */

static json_t *options_json(const struct vd_filter_option *o)
{
    static const char *const types[] = {"text",     "path",  "number", "size",
                                        "duration", "ratio", "bool",   "choice"};
    json_t *list = json_array();
    for (; o && o->key; o++)
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:o, s:b, s:o, s:o}", "key", o->key, "type",
                            (unsigned)o->type < VD_ARRAY_SIZE(types) ? types[o->type] : "text",
                            "default", cli_text_json(o->default_value), "must", (int)o->must,
                            "choices", cli_text_json(o->choices), "help", cli_text_json(o->help)));
    return list;
}

/* Of one that can be attached `config` holds the defaults. */
static int add_available(void *user, const struct vd_filter_available *a)
{
    json_t *o, *config = json_object();
    const struct vd_filter_ops *ops = a->ops;
    for (const struct vd_filter_option *p = ops ? ops->options : NULL; p && p->key; p++)
        json_object_set_new(config, p->key, cli_text_json(p->default_value));
    o = json_pack("{s:s, s:o, s:o, s:o, s:n, s:n, s:o, s:b, s:o, s:o}", "name", a->name, "class",
                  ops ? json_string(cli_filter_class(ops->filter_class)) : json_null(), "config",
                  config, "state", ops ? json_null() : json_string("missing"), "requests", "errors",
                  "description", cli_text_json(ops ? ops->description : NULL), "required",
                  ops && ops->flags & VD_FILTER_REQUIRED, "options",
                  options_json(ops ? ops->options : NULL), "why",
                  ops ? json_null() : vd_ctl_text(a->why));
    return json_array_append_new(user, o) < 0 ? -ENOMEM : 0;
}

static void join(char *text, size_t len, const char *more)
{
    size_t n = strlen(text);
    snprintf(text + n, len - n, "%s%s", n ? " " : "", more);
}

static int print_available(json_t *list)
{
    static const struct cli_column columns[] = {
        {"NAME", false}, {"CLASS", false}, {"DESCRIPTION", false}, {"KEYS", false}};
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    size_t i, k;
    json_t *f, *o;
    json_array_foreach(list, i, f)
    {
        char keys[512] = "";
        const char *why = json_string_value(json_object_get(f, "why"));
        json_array_foreach(json_object_get(f, "options"), k, o)
            join(keys, sizeof(keys), json_string_value(json_object_get(o, "key")));
        cli_table_row(t);
        cli_table_set(t, 0, json_string_value(json_object_get(f, "name")));
        cli_table_set(t, 1, json_string_value(json_object_get(f, "class")));
        cli_table_set(t, 2, why ? why : json_string_value(json_object_get(f, "description")));
        cli_table_set(t, 3, keys);
    }
    return cli_table_print(t);
}

static int ls_available(struct cli *cli)
{
    struct vd_filters *fs = NULL;
    json_t *list = json_array();
    int r = vd_filters_open(cli->filter_dir, &fs);
    if (r == 0)
        r = vd_filters_each(fs, add_available, list);
    if (r < 0)
        r = cli_fail(cli, fs ? vd_filters_dir(fs) : "the filter folder", "%s", strerror(-r));
    else
        r = cli->json ? cli_print_json(json_pack("{s:O}", "filters", list)) : print_available(list);
    json_decref(list);
    vd_filters_close(fs);
    return r;
}

/* ---- what a disk has ---- */

static void set(json_t *o, const json_t *from, const char *key)
{
    json_t *v = json_object_get(from, key);
    json_object_set_new(o, key, v ? json_incref(v) : json_null());
}

/* What only the daemon knows, added to the record of the same filter. */
static void add_online(json_t *list, const json_t *online)
{
    static const char *const keys[] = {"state",  "why",      "requests",    "errors",
                                       "faults", "deferred", "callback_ns", "status"};
    size_t i, k;
    json_t *f, *o;
    json_array_foreach(list, i, f)
    {
        const char *name = json_string_value(json_object_get(f, "name"));
        json_array_foreach(online, k, o)
        {
            const char *other = json_string_value(json_object_get(o, "name"));
            if (!other || strcmp(name, other) != 0)
                continue;
            for (size_t n = 0; n < VD_ARRAY_SIZE(keys); n++)
                set(f, o, keys[n]);
        }
    }
}

/* Nobody has the disk open: could its next open have the filter? */
static void add_offline(const struct cli_place *p, json_t *list)
{
    struct vd_filters *fs = NULL;
    size_t i;
    json_t *f;
    if (vd_filters_open(p->filter_dir[0] ? p->filter_dir : NULL, &fs) < 0)
        return;
    json_array_foreach(list, i, f)
    {
        struct vd_filter_spec spec = {0};
        char why[VD_FILTER_WHY] = "";
        snprintf(spec.name, sizeof(spec.name), "%s", json_string_value(json_object_get(f, "name")));
        const char *key;
        json_t *v;
        json_object_foreach(json_object_get(f, "config"), key, v)
        {
            size_t n = strlen(spec.config);
            snprintf(spec.config + n, sizeof(spec.config) - n, "%s=%s\n", key,
                     json_string_value(v));
        }
        int r = vd_filter_spec_complete(fs, &spec, why);
        json_object_set_new(f, "state", json_string(r == 0 ? "active" : "missing"));
        json_object_set_new(f, "why", r == 0 ? json_null() : vd_ctl_text(why));
        json_object_set_new(f, "requests", json_integer(0));
        json_object_set_new(f, "errors", json_integer(0));
    }
    vd_filters_close(fs);
}

static void number(const json_t *f, const char *key, char text[32])
{
    json_t *v = json_object_get(f, key);
    snprintf(text, 32, "%lld", (long long)json_integer_value(v));
    if (!json_is_integer(v))
        text[0] = '\0';
}

static int print_attached(json_t *list)
{
    static const struct cli_column columns[] = {
        {"NAME", false},    {"CLASS", false}, {"STATE", false},   {"REQUIRED", false},
        {"REQUESTS", true}, {"ERRORS", true}, {"CALLBACK", true}, {"CONFIG", false}};
    struct cli_table *t = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    size_t i;
    json_t *f, *v;
    json_array_foreach(list, i, f)
    {
        char requests[32], errors[32], ns[40], config[VD_FILTER_CONFIG_MAX] = "";
        const char *key;
        json_object_foreach(json_object_get(f, "config"), key, v)
        {
            join(config, sizeof(config), key);
            size_t n = strlen(config);
            snprintf(config + n, sizeof(config) - n, "=%s", json_string_value(v));
        }
        number(f, "requests", requests);
        number(f, "errors", errors);
        number(f, "callback_ns", ns);
        if (ns[0])
            snprintf(ns + strlen(ns), 8, "ns");
        cli_table_row(t);
        cli_table_set(t, 0, json_string_value(json_object_get(f, "name")));
        cli_table_set(t, 1, json_string_value(json_object_get(f, "class")));
        cli_table_set(t, 2, json_string_value(json_object_get(f, "state")));
        cli_table_set(t, 3, json_is_true(json_object_get(f, "required")) ? "yes" : "no");
        cli_table_set(t, 4, requests);
        cli_table_set(t, 5, errors);
        cli_table_set(t, 6, ns);
        cli_table_set(t, 7, config);
    }
    return cli_table_print(t);
}

static int ls_attached(struct cli *cli)
{
    struct cli_target t;
    struct cli_disk d;
    char why[VD_META_WHY] = "";
    json_t *ok = NULL, *f;
    size_t i;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    json_t *list = cli_filters(&t.place, &d);
    add_offline(&t.place, list);
    if (d.online) {
        int e = cli_ask(&t.place, "filters", cli_disk_args(&d), CLI_TIMEOUT_MS, &ok, why);
        if (e == 0)
            add_online(list, json_object_get(ok, "filters"));
        else if (e != -ENOENT)
            cli_warn(d.name, "%s", why);
        json_decref(ok);
    }
    json_array_foreach(list, i, f)
    {
        const char *cause = json_string_value(json_object_get(f, "why"));
        if (cause)
            cli_warn(cli->args[0], "filter %s is %s: %s",
                     json_string_value(json_object_get(f, "name")),
                     json_string_value(json_object_get(f, "state")), cause);
    }
    r = cli->json ? cli_print_json(json_pack("{s:O}", "filters", list)) : print_attached(list);
    json_decref(list);
    cli_close(&t, &d);
    return r;
}

int cmd_filter_ls(struct cli *cli)
{
    if (cli->nargs > 1)
        return cli_usage_error(cli);
    return cli->nargs ? ls_attached(cli) : ls_available(cli);
}

/* ---- attach, detach ---- */

/* The arguments from the third on as lines. -EINVAL with W->why. */
static int config_of(struct cli_work *w, char config[VD_FILTER_CONFIG_MAX])
{
    size_t n = 0;
    config[0] = '\0';
    for (int i = 2; i < w->cli->nargs; i++) {
        const char *arg = w->cli->args[i];
        if (!strchr(arg, '=') || strchr(arg, '\n')) {
            snprintf(w->why, sizeof(w->why), "%.200s: must be KEY=VALUE, on one line", arg);
            return -EINVAL;
        }
        int len = snprintf(config + n, VD_FILTER_CONFIG_MAX - n, "%s\n", arg);
        if (len < 0 || (size_t)len >= VD_FILTER_CONFIG_MAX - n) {
            snprintf(w->why, sizeof(w->why), "its configuration has more than %u bytes",
                     VD_FILTER_CONFIG_MAX - 1);
            return -E2BIG;
        }
        n += (size_t)len;
    }
    return 0;
}

int cmd_filter_attach(struct cli *cli)
{
    struct cli_work w;
    char config[VD_FILTER_CONFIG_MAX];
    if (cli->nargs < 2)
        return cli_usage_error(cli);
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    const char *name = cli->args[1];
    r = config_of(&w, config);
    json_t *text = r == 0 ? cli_work_text(&w, config) : NULL;
    if (r == 0 && !text)
        r = -EILSEQ;
    if (r == 0 && w.disks)
        r = vd_disks_filter_attach(w.disks, w.path_fd, w.t.rel, name, config, w.why);
    else if (r == 0)
        r = cli_work_ask(&w, "filter-attach", json_pack("{s:s, s:O}", "name", name, "config", text),
                         NULL);
    json_decref(text);
    return cli_work_end(&w, r);
}

int cmd_filter_detach(struct cli *cli)
{
    struct cli_work w;
    if (cli->nargs != 2)
        return cli_usage_error(cli);
    int r = cli_work_open(cli, cli->args[0], &w);
    if (r != 0)
        return r;
    const char *name = cli->args[1];
    r = w.disks ? vd_disks_filter_detach(w.disks, w.path_fd, w.t.rel, name, w.why)
                : cli_work_ask(&w, "filter-detach", json_pack("{s:s}", "name", name), NULL);
    return cli_work_end(&w, r);
}

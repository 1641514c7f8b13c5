// SPDX-License-Identifier: Apache-2.0
/* vdisk map, vdisk explain: where a disk's bytes are. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_size.h"

/* ---- map ---- */

struct map {
    struct cli *cli;
    struct cli_layers layers;
    uint64_t *bits; /* cached blocks */
    json_t *extents;
    struct cli_table *table;
};

/* Cached bytes in [START, END). */
static uint64_t cached_in(const struct map *m, uint64_t start, uint64_t end)
{
    uint64_t bytes = 0;
    for (uint64_t off = start; off < end;) {
        uint64_t block = off >> VD_BLOCK_SHIFT;
        uint64_t stop = vd_min((block + 1) << VD_BLOCK_SHIFT, end);
        if (!m->bits[block / 64] && block % 64 == 0)
            stop = vd_min((block + 64) << VD_BLOCK_SHIFT, end);
        else if (m->bits[block / 64] >> (block % 64) & 1)
            bytes += stop - off;
        off = stop;
    }
    return bytes;
}

static int add_extent(void *user, const struct cli_extent *e)
{
    struct map *m = user;
    uint64_t cached = cached_in(m, e->start_bytes, e->start_bytes + e->length_bytes);
    const struct cli_layer *layer = e->layer == CLI_NO_LAYER ? NULL : &m->layers.v[e->layer];
    int depth = layer ? (int)e->layer : 0;
    if (m->extents) {
        json_array_append_new(
            m->extents,
            json_pack("{s:I, s:I, s:o, s:i, s:b, s:I}", "start", (json_int_t)e->start_bytes,
                      "length", (json_int_t)e->length_bytes, "disk_id",
                      layer ? cli_id_json(&layer->disk_id, true) : json_null(), "depth", depth,
                      "zero", (int)e->zero, "cached_bytes", (json_int_t)cached));
        return 0;
    }
    /* As qemu-img map: exact numbers, so that they can be used. */
    char text[64];
    cli_table_row(m->table);
    snprintf(text, sizeof(text), "%#llx", (unsigned long long)e->start_bytes);
    cli_table_set(m->table, 0, text);
    snprintf(text, sizeof(text), "%#llx", (unsigned long long)e->length_bytes);
    cli_table_set(m->table, 1, text);
    snprintf(text, sizeof(text), "%d", depth);
    cli_table_set(m->table, 2, text);
    cli_table_set(m->table, 3, e->zero ? "zero" : "data");
    cli_table_set(m->table, 4, cli_size(m->cli, cached, text));
    cli_table_set(m->table, 5, layer ? layer->path : NULL);
    return 0;
}

/* What a command about a disk's bytes needs; said where it cannot be had. */
static int load(struct cli *cli, struct cli_target *t, const struct cli_disk *d, struct map *m)
{
    char why[VD_META_WHY];
    *m = (struct map){.cli = cli};
    if (d->refused)
        return cli_fail(cli, cli->args[0], "refused: %s", d->why);
    if (cli_layers_load(&t->place, d, &m->layers, why) < 0)
        return cli_fail(cli, cli->args[0], "%s", why);
    int r = cli_cached_bits(&m->layers, &m->bits);
    if (r == 0)
        return 0;
    cli_layers_free(&m->layers);
    return cli_fail(cli, cli->args[0], "what is cached of it is not known: %s", strerror(-r));
}

static void unload(struct map *m)
{
    free(m->bits);
    cli_layers_free(&m->layers);
}

static int print_map(struct map *m, const struct cli_disk *d)
{
    static const struct cli_column columns[] = {
        {"OFFSET", true}, {"LENGTH", true}, {"DEPTH", true},
        {"TYPE", false},  {"CACHED", true}, {"FILE", false},
    };
    char why[VD_META_WHY];
    if (m->cli->json)
        m->extents = json_array();
    else
        m->table = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    if (cli_layers_each(&m->layers, 0, d->size_bytes, true, add_extent, m, why) < 0) {
        json_decref(m->extents);
        return cli_fail(m->cli, m->cli->args[0], "%s", why);
    }
    return m->extents ? cli_print_json(m->extents) : cli_table_print(m->table);
}

int cmd_map(struct cli *cli)
{
    if (!cli_args_fit(cli, 1, 1))
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    struct map m;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    r = load(cli, &t, &d, &m);
    if (r == 0) {
        r = print_map(&m, &d);
        unload(&m);
    }
    cli_close(&t, &d);
    return r;
}

/* ---- explain ---- */

/* Whether the block that BITS marks as cached is good: true, false, or null where nobody can say.
 */
static json_t *checksum_ok(struct cli_place *p, const struct cli_disk *d, uint64_t block)
{
    char why[VD_META_WHY];
    json_t *ok = NULL, *good = NULL, *args = d->online ? cli_disk_args(d) : NULL;
    json_object_set_new(args, "block", json_integer((json_int_t)block));
    if (d->online && cli_ask(p, "block-verify", args, CLI_TIMEOUT_MS, &ok, why) == 0)
        good = json_incref(json_object_get(ok, "ok"));
    json_decref(ok);
    return good ? good : json_null();
}

static int note_layer(void *user, const struct cli_extent *e)
{
    *(size_t *)user = e->layer;
    return 0;
}

/* Their names, from the top. */
static json_t *filter_names(struct cli_place *p, const struct cli_disk *d)
{
    json_t *names = json_array(), *filters = cli_filters(p, d), *f;
    size_t i;
    json_array_foreach(filters, i, f) json_array_append(names, json_object_get(f, "name"));
    json_decref(filters);
    return names;
}

static int explain_json(struct map *m, struct cli_place *p, const struct cli_disk *d, uint64_t off,
                        char *why, json_t **ret)
{
    uint64_t block = off >> VD_BLOCK_SHIFT;
    size_t at = CLI_NO_LAYER;
    int r = cli_layers_each(&m->layers, off, 1, false, note_layer, &at, why);
    if (r < 0)
        return r;
    const struct cli_layer *layer = at == CLI_NO_LAYER ? NULL : &m->layers.v[at];
    bool cached = m->bits[block / 64] >> (block % 64) & 1;
    char owner[300];
    *ret = json_pack("{s:I, s:I, s:I, s:o, s:i, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "offset",
                     (json_int_t)off, "lba", (json_int_t)(off / 512), "block", (json_int_t)block,
                     "disk_id", layer ? cli_id_json(&layer->disk_id, true) : json_null(), "depth",
                     layer ? (int)at : 0, "layer", cli_text_json(layer ? layer->path : NULL),
                     "layer_offset", layer ? json_integer((json_int_t)off) : json_null(), "cached",
                     (int)cached, "checksum_ok", cached ? checksum_ok(p, d, block) : json_null(),
                     "owner", cli_text_json(cli_owner_name(d, owner)), "epoch",
                     d->owned ? json_integer((json_int_t)d->owner.epoch) : json_null(), "filters",
                     filter_names(p, d));
    return 0;
}

static void print_names(const char *name, const json_t *v)
{
    size_t i;
    json_t *one;
    printf("%s:", name);
    json_array_foreach(v, i, one) printf("%s %s", i ? "," : "", json_string_value(one));
    printf("\n");
}

static void print_value(const char *name, const json_t *v)
{
    if (json_is_integer(v))
        printf("%s: %lld\n", name, (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        printf("%s: %s\n", name, json_is_true(v) ? "yes" : "no");
    else if (json_array_size(v))
        print_names(name, v);
    else
        printf("%s: %s\n", name, json_is_string(v) ? json_string_value(v) : "-");
}

/* In the order in which a read passes. */
static int print_explain(const json_t *o)
{
    static const struct {
        const char *key, *name;
    } lines[] = {
        {"offset", "offset"},   {"lba", "LBA"},
        {"filters", "filters"}, {"owner", "owner"},
        {"epoch", "epoch"},     {"block", "block"},
        {"disk_id", "disk ID"}, {"depth", "depth"},
        {"cached", "cached"},   {"checksum_ok", "checksum good"},
        {"layer", "layer"},     {"layer_offset", "offset in the layer"},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(lines); i++)
        print_value(lines[i].name, json_object_get(o, lines[i].key));
    return ferror(stdout) ? CLI_FAILED : CLI_DONE;
}

static int explain(struct cli *cli, struct cli_target *t, const struct cli_disk *d, uint64_t off)
{
    struct map m;
    json_t *o = NULL;
    char why[VD_META_WHY];
    int r = load(cli, t, d, &m);
    if (r != 0)
        return r;
    if (off >= d->size_bytes)
        r = cli_fail(cli, cli->args[0], "offset %llu is past its end; it has %llu bytes",
                     (unsigned long long)off, (unsigned long long)d->size_bytes);
    else if (explain_json(&m, &t->place, d, off, why, &o) < 0)
        r = cli_fail(cli, cli->args[0], "%s", why);
    else
        r = cli->json ? cli_print_json(json_incref(o)) : print_explain(o);
    json_decref(o);
    unload(&m);
    return r;
}

int cmd_explain(struct cli *cli)
{
    uint64_t off;
    if (!cli_args_fit(cli, 2, 2) || vd_size_parse(cli->args[1], &off) < 0)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    r = explain(cli, &t, &d, off);
    cli_close(&t, &d);
    return r;
}

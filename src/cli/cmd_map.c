// SPDX-License-Identifier: Apache-2.0
/* vdisk map, vdisk explain: where a disk's bytes are. */
#include <string.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_size.h"

/* ---- map ---- */

struct map {
    struct cli *cli;
    const struct cli_disk *d;
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

static void add_extent(struct map *m, uint64_t start, uint64_t end, bool zero)
{
    uint64_t cached = cached_in(m, start, end);
    if (m->extents) {
        json_array_append_new(
            m->extents, json_pack("{s:I, s:I, s:o, s:i, s:b, s:I}", "start", (json_int_t)start,
                                  "length", (json_int_t)(end - start), "disk_id",
                                  cli_id_json(&m->d->record.live_disk_id, m->d->recorded), "depth",
                                  0, "zero", (int)zero, "cached_bytes", (json_int_t)cached));
        return;
    }
    /* As qemu-img map: exact numbers, so that they can be used. */
    char text[64];
    cli_table_row(m->table);
    snprintf(text, sizeof(text), "%#llx", (unsigned long long)start);
    cli_table_set(m->table, 0, text);
    snprintf(text, sizeof(text), "%#llx", (unsigned long long)(end - start));
    cli_table_set(m->table, 1, text);
    cli_table_set(m->table, 2, "0");
    cli_table_set(m->table, 3, zero ? "zero" : "data");
    cli_table_set(m->table, 4, cli_size(m->cli, cached, text));
    cli_table_set(m->table, 5, m->d->name);
}

/* Holes of the file are zero. Where the file system does not tell, all is data. */
static int walk_extents(struct map *m)
{
    off_t size = m->d->st.st_size;
    for (off_t off = 0; off < size;) {
        off_t data = lseek(m->d->fd, off, SEEK_DATA);
        if (data < 0 && errno == ENXIO)
            data = size;
        else if (data < 0 && errno == EINVAL)
            data = off;
        else if (data < 0)
            return -errno;
        data = vd_min(data, size);
        if (data > off)
            add_extent(m, (uint64_t)off, (uint64_t)data, true);
        if (data == size)
            break;
        off_t hole = lseek(m->d->fd, data, SEEK_HOLE);
        hole = hole < data ? size : vd_min(hole, size); /* punched meanwhile, or not told */
        if (hole > data)
            add_extent(m, (uint64_t)data, (uint64_t)hole, false);
        off = hole;
    }
    return 0;
}

int cmd_map(struct cli *cli)
{
    static const struct cli_column columns[] = {
        {"OFFSET", true}, {"LENGTH", true}, {"DEPTH", true},
        {"TYPE", false},  {"CACHED", true}, {"FILE", false},
    };
    if (cli->nargs != 1)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    struct map m = {.cli = cli, .d = &d};
    if (d.refused) {
        r = cli_fail(cli, cli->args[0], "its extents are not known: %s", d.why);
        goto out;
    }
    r = cli_cached_bits(&t.place, &d, vd_blocks_touched(0, (uint64_t)d.st.st_size), &m.bits);
    if (r < 0) {
        r = cli_fail(cli, cli->args[0], "what is cached of it is not known: %s", strerror(-r));
        goto out;
    }
    if (cli->json)
        m.extents = json_array();
    else
        m.table = cli_table_new(columns, VD_ARRAY_SIZE(columns));
    int error = walk_extents(&m);
    if (error < 0) {
        json_decref(m.extents);
        r = cli_fail(cli, cli->args[0], "its extents cannot be read: %s", strerror(-error));
    } else {
        r = cli->json ? cli_print_json(m.extents) : cli_table_print(m.table);
    }
out:
    free(m.bits);
    cli_close(&t, &d);
    return r;
}

/* ---- explain ---- */

/* Whether the block that BITS marks as cached is good: true, false, or null where nobody can say.
 */
static json_t *checksum_ok(const struct cli_place *p, const struct cli_disk *d, uint64_t block)
{
    char why[VD_META_WHY];
    json_t *ok = NULL, *good = NULL;
    if (d->online && cli_ask(p, "block-verify",
                             json_pack("{s:I, s:I, s:I}", "dev", (json_int_t)d->st.st_dev, "ino",
                                       (json_int_t)d->st.st_ino, "block", (json_int_t)block),
                             CLI_TIMEOUT_MS, &ok, why) == 0)
        good = json_incref(json_object_get(ok, "ok"));
    json_decref(ok);
    return good ? good : json_null();
}

static int explain_json(struct cli_place *p, const struct cli_disk *d, uint64_t off, json_t **ret)
{
    uint64_t block = off >> VD_BLOCK_SHIFT;
    vd_cleanup_free uint64_t *bits = NULL;
    int r = cli_cached_bits(p, d, vd_blocks_touched(0, (uint64_t)d->st.st_size), &bits);
    if (r < 0)
        return r;
    bool cached = bits[block / 64] >> (block % 64) & 1;
    char owner[300];
    *ret = json_pack("{s:I, s:I, s:I, s:o, s:i, s:o, s:I, s:b, s:o, s:o, s:o, s:[]}", "offset",
                     (json_int_t)off, "lba", (json_int_t)(off / 512), "block", (json_int_t)block,
                     "disk_id", cli_id_json(&d->record.live_disk_id, d->recorded), "depth", 0,
                     "layer", vd_ctl_text(d->recorded && d->live.path[0] ? d->live.path : d->name),
                     "layer_offset", (json_int_t)off, "cached", (int)cached, "checksum_ok",
                     cached ? checksum_ok(p, d, block) : json_null(), "owner",
                     cli_text_json(cli_owner_name(d, owner)), "epoch",
                     d->owned ? json_integer((json_int_t)d->owner.epoch) : json_null(), "filters");
    return 0;
}

static void print_value(const char *name, const json_t *v)
{
    if (json_is_integer(v))
        printf("%s: %lld\n", name, (long long)json_integer_value(v));
    else if (json_is_boolean(v))
        printf("%s: %s\n", name, json_is_true(v) ? "yes" : "no");
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

int cmd_explain(struct cli *cli)
{
    uint64_t off;
    if (cli->nargs != 2 || vd_size_parse(cli->args[1], &off) < 0)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    json_t *o = NULL;
    if (d.refused)
        r = cli_fail(cli, cli->args[0], "refused: %s", d.why);
    else if (off >= (uint64_t)d.st.st_size)
        r = cli_fail(cli, cli->args[0], "offset %llu is past its end; it has %lld bytes",
                     (unsigned long long)off, (long long)d.st.st_size);
    else if ((r = explain_json(&t.place, &d, off, &o)) < 0)
        r = cli_fail(cli, cli->args[0], "what is cached of it is not known: %s", strerror(-r));
    else
        r = cli->json ? cli_print_json(json_incref(o)) : print_explain(o);
    json_decref(o);
    cli_close(&t, &d);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/* vdisk dump: every record of a disk's metadata as text, and what the cache notes of it. */
#include <inttypes.h>
#include <string.h>
#include <time.h>

#include "cli.h"
#include "vd_ctl.h"
#include "vd_meta_filter.h"
#include "vd_view.h"

#define HEX_MAX 4096u /* bytes of a value of unknown kind */

static json_t *hex_json(const void *data, size_t len)
{
    static char text[2 * HEX_MAX + 1];
    const uint8_t *b = data;
    len = vd_min(len, (size_t)HEX_MAX);
    for (size_t i = 0; i < len; i++)
        snprintf(text + 2 * i, 3, "%02x", b[i]);
    text[2 * len] = '\0';
    return json_string(text);
}

/* The first walk only gathers: getting records during a walk would be two uses of one session at
 * once. */
static int gather(void *user, const struct vd_meta_raw *raw)
{
    json_array_append_new(user,
                          json_pack("{s:s, s:o, s:o, s:b}", "db", raw->db, "key",
                                    hex_json(raw->key, raw->key_len), "value",
                                    hex_json(raw->value, raw->value_len), "bad", raw->error != 0));
    return 0;
}

static json_t *time_json(uint64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;
    char text[64];
    if (!gmtime_r(&t, &tm) || !strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm))
        return json_null();
    return json_string(text);
}

static json_t *identity_json(const struct vd_identity *id)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "ino", (json_int_t)id->ino, "size",
                     (json_int_t)id->size_bytes, "mtime_ns", (json_int_t)id->mtime_ns, "ctime_ns",
                     (json_int_t)id->ctime_ns);
}

/* 64 random bits are no JSON number. */
static json_t *generation_json(uint64_t generation)
{
    char text[20];
    snprintf(text, sizeof(text), "%016" PRIx64, generation);
    return json_string(text);
}

static json_t *disk_json(const struct vd_disk_record *r)
{
    return json_pack("{s:o, s:o, s:I, s:I, s:b, s:o, s:o}", "uuid", cli_id_json(&r->uuid, true),
                     "live_disk_id", cli_id_json(&r->live_disk_id, true), "size",
                     (json_int_t)r->size_bytes, "layers", (json_int_t)r->nlayers, "clean",
                     (int)r->clean, "boot_id", cli_id_json(&r->boot_id, true), "path",
                     vd_ctl_text(r->path));
}

static json_t *layer_json(const struct vd_layer_record *r)
{
    return json_pack("{s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "disk_id",
                     cli_id_json(&r->disk_id, true), "state", cli_layer_state(r->state),
                     "generation", generation_json(r->generation), "token",
                     cli_id_json(&r->token, true), "identity", identity_json(&r->identity),
                     "created", time_json(r->created_s), "path", vd_ctl_text(r->path), "snapshot",
                     vd_ctl_text(r->snapshot));
}

static json_t *owner_json(const struct vd_owner_record *r)
{
    return json_pack("{s:o, s:s, s:I, s:o, s:I, s:o, s:o}", "id", cli_id_json(&r->id, true),
                     "state", cli_owner_state(r->state), "epoch", (json_int_t)r->epoch, "boot_id",
                     cli_id_json(&r->boot_id, true), "pid", (json_int_t)r->pid, "host",
                     vd_ctl_text(r->host), "endpoint", vd_ctl_text(r->endpoint));
}

static json_t *maps_json(const struct vd_id *maps, uint32_t n)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(list, cli_id_json(&maps[i], true));
    return list;
}

static json_t *view_json(const struct vd_view_record *r)
{
    return json_pack(
        "{s:s, s:b, s:I, s:o, s:o, s:o, s:o}", "home", r->home == VD_HOME_FILE ? "file" : "layers",
        "moving", (int)r->moving, "file_ino", (json_int_t)r->file_ino, "live_map",
        cli_id_json(&r->live_map, true), "maps", maps_json(r->maps, r->nmaps), "parent",
        cli_id_json(&r->parent, true), "origin", cli_id_json(&r->origin, true));
}

static json_t *snapshot_json(const struct vd_snapshot_record *r)
{
    return json_pack("{s:o, s:o, s:o, s:I, s:o}", "name", vd_ctl_text(r->name), "disk_id",
                     cli_id_json(&r->disk_id, true), "created", time_json(r->created_s), "size",
                     (json_int_t)r->size_bytes, "maps", maps_json(r->maps, r->nmaps));
}

/* A configuration as it stands in the record, a line an item: what print_fields prints has no line
 * ends in it. */
static json_t *lines_json(const char *text)
{
    char line[VD_META_FILTER_CONFIG];
    json_t *list = json_array();
    for (size_t n; *text; text += n + (text[n] == '\n')) {
        n = strcspn(text, "\n");
        snprintf(line, sizeof(line), "%.*s", (int)n, text);
        json_array_append_new(list, vd_ctl_text(line));
    }
    return list;
}

static json_t *filter_json(const struct vd_filter_record *r)
{
    return json_pack("{s:o, s:I, s:b, s:b, s:I, s:o}", "name", vd_ctl_text(r->name), "class",
                     (json_int_t)r->filter_class, "required", (int)r->required, "cloned",
                     (int)r->cloned, "order", (json_int_t)r->order, "config",
                     lines_json(r->config));
}

/* The text that KEY is in hex, RET_LEN bytes; false where it is longer than any name. */
static bool key_text(const char *key, char ret_text[VD_SNAPSHOT_NAME_MAX + 1], size_t *ret_len)
{
    size_t n = strlen(key) / 2;
    if (n > VD_SNAPSHOT_NAME_MAX)
        return false;
    for (size_t i = 0; i < n; i++) {
        char digits[3] = {key[2 * i], key[2 * i + 1], '\0'};
        ret_text[i] = (char)strtoul(digits, NULL, 16);
    }
    ret_text[n] = '\0';
    *ret_len = n;
    return true;
}

static bool key_name(const char *key, char ret_name[VD_SNAPSHOT_NAME_MAX + 1])
{
    size_t len;
    return key_text(key, ret_name, &len) && strlen(ret_name) == len;
}

/* KEY, in hex: the filter's name, NUL, its own key. */
static json_t *filter_data_json(struct vd_meta *m, const char *key)
{
    static uint8_t value[VD_META_FILTER_DATA];
    char text[VD_SNAPSHOT_NAME_MAX + 1];
    size_t len;
    if (!key_text(key, text, &len) || strlen(text) == len)
        return NULL;
    const char *own = text + strlen(text) + 1;
    if (own + strlen(own) != text + len)
        return NULL;
    int64_t n = vd_meta_get_filter_data(m, text, own, value, sizeof(value));
    return n < 0 ? NULL
                 : json_pack("{s:o, s:o, s:I, s:o}", "filter", vd_ctl_text(text), "key",
                             vd_ctl_text(own), "length", (json_int_t)n, "value",
                             hex_json(value, (size_t)n));
}

struct owner_search {
    struct vd_id id;
    json_t *found;
};

static int match_owner(void *user, const struct vd_owner_record *r)
{
    struct owner_search *s = user;
    if (!vd_id_eq(&r->id, &s->id))
        return 0;
    s->found = owner_json(r);
    return 1;
}

/* The decoded record of DB and KEY (hex), or NULL where it is of no known kind or does not verify.
 */
static json_t *decode(struct vd_meta *m, const char *db, const char *key)
{
    struct vd_disk_record disk;
    struct vd_layer_record layer;
    struct vd_view_record view;
    struct vd_snapshot_record snapshot;
    struct vd_filter_record filter;
    char name[VD_SNAPSHOT_NAME_MAX + 1];
    struct owner_search owner = {0};
    if (strcmp(db, "view") == 0)
        return vd_meta_get_view(m, &view) == 0 ? view_json(&view) : NULL;
    if (strcmp(db, "snapshot") == 0)
        return key_name(key, name) && vd_meta_get_snapshot(m, name, &snapshot) == 0
                   ? snapshot_json(&snapshot)
                   : NULL;
    if (strcmp(db, "filter") == 0)
        return key_name(key, name) && vd_meta_get_filter(m, name, &filter) == 0
                   ? filter_json(&filter)
                   : NULL;
    if (strcmp(db, "filter-data") == 0)
        return filter_data_json(m, key);
    if (strcmp(db, "disk") == 0)
        return vd_meta_get_disk(m, &disk) == 0 ? disk_json(&disk) : NULL;
    if (strcmp(db, "layer") == 0) {
        uint32_t index = (uint32_t)strtoull(key, NULL, 16);
        return vd_meta_get_layer(m, index, &layer) == 0 ? layer_json(&layer) : NULL;
    }
    if (strcmp(db, "owner") == 0 && vd_id_parse(key, &owner.id) == 0 &&
        vd_meta_each_owner(m, match_owner, &owner) < 0 && owner.found) {
        json_decref(owner.found);
        owner.found = NULL;
    }
    return owner.found;
}

static json_t *records_json(struct vd_meta *m, int *ret_nbad)
{
    json_t *list = json_array(), *record;
    size_t i;
    int r = vd_meta_walk(m, gather, list);
    *ret_nbad = r < 0 && json_array_size(list) == 0;
    json_array_foreach(list, i, record)
    {
        bool bad = json_is_true(json_object_get(record, "bad"));
        json_t *value = NULL;
        if (!bad)
            value = decode(m, json_string_value(json_object_get(record, "db")),
                           json_string_value(json_object_get(record, "key")));
        if (value)
            json_object_set_new(record, "value", value);
        json_object_del(record, "bad");
        json_object_set_new(record, "error", bad ? json_string("does not verify") : json_null());
        *ret_nbad += bad;
    }
    return list;
}

static json_t *witness_json(const struct cli_place *p, const struct cli_disk *d)
{
    struct vd_cache_witness w;
    if (!d->recorded || !p->cache_dir[0] ||
        vd_cache_scan_witness(p->cache_dir, &d->record.live_disk_id, &w) < 0)
        return json_null();
    struct vd_identity id = {
        .ino = w.ino, .size_bytes = w.size_bytes, .mtime_ns = w.mtime_ns, .ctime_ns = w.ctime_ns};
    return json_pack("{s:o, s:o, s:b, s:b, s:o, s:o}", "token", cli_id_json(&w.token, true),
                     "generation", generation_json(w.generation), "attached", (int)w.attached,
                     "written", (int)w.written, "boot_id", cli_id_json(&w.boot_id, true),
                     "identity", identity_json(&id));
}

/* ---- as text ---- */

static void print_list(const char *name, json_t *list)
{
    size_t i;
    json_t *v;
    printf("    %s:", name);
    json_array_foreach(list, i, v) printf(" %s", json_is_string(v) ? json_string_value(v) : "-");
    printf("%s\n", json_array_size(list) ? "" : " -");
}

static void print_fields(const char *prefix, json_t *o)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v)
    {
        char name[64];
        snprintf(name, sizeof(name), "%s%s%s", prefix, *prefix ? "." : "", key);
        if (json_is_object(v))
            print_fields(name, v);
        else if (json_is_array(v))
            print_list(name, v);
        else if (json_is_integer(v))
            printf("    %s: %lld\n", name, (long long)json_integer_value(v));
        else if (json_is_boolean(v))
            printf("    %s: %s\n", name, json_is_true(v) ? "yes" : "no");
        else
            printf("    %s: %s\n", name, json_is_string(v) ? json_string_value(v) : "-");
    }
}

static void print_dump(json_t *dump)
{
    size_t i;
    json_t *record, *witness = json_object_get(dump, "witness");
    printf("%s\n", json_string_value(json_object_get(dump, "path")));
    json_array_foreach(json_object_get(dump, "records"), i, record)
    {
        json_t *value = json_object_get(record, "value");
        const char *error = json_string_value(json_object_get(record, "error"));
        printf("  %s %s%s%s\n", json_string_value(json_object_get(record, "db")),
               json_string_value(json_object_get(record, "key")), error ? ": " : "",
               error ? error : "");
        if (json_is_object(value))
            print_fields("", value);
        else
            printf("    bytes: %s\n", json_string_value(value));
    }
    if (json_is_object(witness)) {
        printf("  witness of the cache\n");
        print_fields("", witness);
    }
}

static int dump(struct cli *cli, const struct cli_target *t, const struct cli_disk *d)
{
    vd_cleanup(vd_meta_close_p) struct vd_meta *m = NULL;
    char why[VD_META_WHY] = "", path[PATH_MAX];
    if (!d->bound)
        return cli_fail(cli, cli->args[0], "%s",
                        d->refused ? d->why
                                   : "it has no metadata yet: it was never opened in a mount");
    int r = vd_meta_open(t->place.store, &d->uuid, VD_META_READ, &m, why);
    if (r < 0)
        return cli_fail(cli, cli->args[0], "its metadata cannot be read: %s",
                        why[0] ? why : strerror(-r));
    int nbad = 0;
    vd_meta_disk_path(t->place.store, &d->uuid, path, sizeof(path));
    json_t *records = records_json(m, &nbad);
    json_t *doc = json_pack("{s:o, s:o, s:o, s:o}", "path", vd_ctl_text(path), "uuid",
                            cli_id_json(&d->uuid, true), "records", records, "witness",
                            witness_json(&t->place, d));
    if (!cli->json)
        print_dump(doc);
    r = cli->json ? cli_print_json(json_incref(doc)) : CLI_DONE;
    json_decref(doc);
    if (nbad)
        cli_warn(cli->args[0], "%s", vd_meta_why(m)[0] ? vd_meta_why(m) : "a record is damaged");
    return nbad || ferror(stdout) ? CLI_FAILED : r;
}

int cmd_dump(struct cli *cli)
{
    if (cli->nargs != 1)
        return cli_usage_error(cli);
    struct cli_target t;
    struct cli_disk d;
    int r = cli_open(cli, cli->args[0], &t, &d);
    if (r != 0)
        return r;
    r = dump(cli, &t, &d);
    cli_close(&t, &d);
    return r;
}

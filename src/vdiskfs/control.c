// SPDX-License-Identifier: Apache-2.0
/*
 * The commands of the control socket. They tell what only the daemon knows, and do what only it
 * may; the command line reads the rest from the files itself. A disk is named by st_dev and st_ino
 * of its file in the source, which are the same through whatever path somebody reaches it.
 *
 * Handlers run on libuv's pool, several at a time, and touch the daemon only through interfaces
 * that any thread may call. Numbers from a peer are checked for range here.
 */
#include "control.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "daemon.h"

#define MAP_BLOCKS_MAX (256u << 10) /* of one cached-map: 1 GiB of disk, 32 KiB of bits */
#define REPORTS_MAX 1000u           /* bad blocks that one cache-verify names */

struct request {
    struct vd_daemon *d;
    json_t *args;
    char *why;
    size_t why_len;
};

static VD_PRINTF(3, 4) int fail(const struct request *q, int error, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (q->why_len)
        vsnprintf(q->why, q->why_len, fmt, args);
    va_end(args);
    return error;
}

static int arg_number(const struct request *q, const char *name, uint64_t *ret_value)
{
    json_t *v = json_object_get(q->args, name);
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return fail(q, -EINVAL, "\"%s\" must be a number", name);
    *ret_value = (uint64_t)json_integer_value(v);
    return 0;
}

static int arg_id(const struct request *q, const char *name, struct vd_id *ret_id)
{
    const char *hex = json_string_value(json_object_get(q->args, name));
    if (!hex || vd_id_parse(hex, ret_id) < 0)
        return fail(q, -EINVAL, "\"%s\" must be an ID of 32 hex digits", name);
    return 0;
}

/* The attached disk that the request names: 0 and a reference, -ENOENT, -EINVAL. */
static int arg_disk(const struct request *q, struct vd_disk **ret_disk)
{
    uint64_t dev, ino;
    int r = arg_number(q, "dev", &dev);
    if (r == 0)
        r = arg_number(q, "ino", &ino);
    if (r == 0) {
        r = vd_disks_find(q->d->disks, (dev_t)dev, (ino_t)ino, ret_disk);
        if (r < 0)
            return fail(q, r, "the disk is not open in this mount");
    }
    return r;
}

VD_DEFINE_CLEANUP(struct vd_disk, vd_disk_put)

static json_t *id_or_null(const struct vd_id *id)
{
    char hex[VD_ID_HEX];
    vd_id_hex(id, hex);
    return vd_id_is_zero(id) ? json_null() : json_string(hex);
}

static json_t *rfc3339(time_t t)
{
    char text[32];
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}

static json_t *encode_stats(const struct vd_disk_stats *s)
{
    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        {"hits", s->hits},
        {"misses", s->misses},
        {"hit_bytes", s->hit_bytes},
        {"miss_bytes", s->miss_bytes},
        {"backing_reads", s->backing_reads},
        {"backing_read_bytes", s->backing_read_bytes},
        {"coalesced", s->coalesced},
        {"readahead_bytes", s->readahead_bytes},
        {"bypassed", s->bypassed},
        {"writes", s->writes},
        {"write_bytes", s->write_bytes},
        {"flushes", s->flushes},
        {"errors", s->errors},
    };
    json_t *o = json_object();
    for (size_t i = 0; i < VD_ARRAY_SIZE(fields); i++)
        json_object_set_new(o, fields[i].name, json_integer((json_int_t)fields[i].value));
    return o;
}

static const char *owner_state_name(enum vd_owner_state state)
{
    static const char *const names[] = {
        [VD_OWNER_NONE] = "none",
        [VD_OWNER_SHARED] = "shared",
        [VD_OWNER_EXCLUSIVE] = "exclusive",
        [VD_OWNER_RELEASING] = "releasing",
    };
    return (unsigned)state < VD_ARRAY_SIZE(names) ? names[state] : "none";
}

static json_t *encode_disk(struct vd_disk *disk)
{
    struct vd_disk_info info;
    struct vd_disk_stats stats;
    vd_disk_get_info(disk, &info);
    vd_disk_get_stats(disk, &stats);
    char generation[20]; /* 64 random bits are no JSON number */
    snprintf(generation, sizeof(generation), "%016llx", (unsigned long long)info.generation);
    return json_pack("{s:b, s:o, s:o, s:s, s:I, s:o, s:i, s:s, s:I, s:b, s:I, s:o}", "attached", 1,
                     "uuid", id_or_null(&info.uuid), "disk_id", id_or_null(&info.disk_id),
                     "generation", generation, "size", (json_int_t)info.size_bytes, "path",
                     vd_ctl_text(info.path), "opens", (int)info.opens, "owner_state",
                     owner_state_name(info.owner_state), "epoch", (json_int_t)info.epoch, "caching",
                     (int)info.caching, "cached_bytes", (json_int_t)info.cached_bytes, "stats",
                     encode_stats(&stats));
}

static int do_ping(const struct request *q, json_t **ret_ok)
{
    *ret_ok = vd_control_info(q->d);
    return 0;
}

static int do_info(const struct request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = arg_disk(q, &disk);
    if (r == -ENOENT)
        *ret_ok = json_pack("{s:b}", "attached", 0);
    else if (r == 0)
        *ret_ok = encode_disk(disk);
    return r == -ENOENT ? 0 : r;
}

static int add_disk(void *user, struct vd_disk *disk)
{
    json_array_append_new(user, encode_disk(disk));
    return 0;
}

static int do_disks(const struct request *q, json_t **ret_ok)
{
    json_t *list = json_array();
    vd_disks_each(q->d->disks, add_disk, list);
    *ret_ok = json_pack("{s:o}", "disks", list);
    return 0;
}

/* Runs of cached blocks as [first, count]; "next": where to go on. */
static int do_cached_map(const struct request *q, json_t **ret_ok)
{
    uint64_t first, n;
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = arg_disk(q, &disk);
    if (r == 0)
        r = arg_number(q, "first_block", &first);
    if (r == 0)
        r = arg_number(q, "nblocks", &n);
    if (r < 0)
        return r;
    if (first > (uint64_t)INT64_MAX >> VD_BLOCK_SHIFT)
        return fail(q, -EINVAL, "\"first_block\" is past any disk");
    n = vd_min(n, (uint64_t)MAP_BLOCKS_MAX);
    vd_cleanup_free uint64_t *bits = calloc(MAP_BLOCKS_MAX / 64, sizeof(*bits));
    if (!bits)
        return -ENOMEM;
    vd_disk_cached(disk, first, (uint32_t)n, bits);
    json_t *runs = json_array();
    for (uint64_t i = 0; i < n;) {
        uint64_t end = i;
        while (end < n && bits[end / 64] >> (end % 64) & 1)
            end++;
        if (end > i)
            json_array_append_new(
                runs, json_pack("[I, I]", (json_int_t)(first + i), (json_int_t)(end - i)));
        i = end + 1;
    }
    *ret_ok = json_pack("{s:o, s:I}", "runs", runs, "next", (json_int_t)(first + n));
    return 0;
}

static int do_block_verify(const struct request *q, json_t **ret_ok)
{
    uint64_t block;
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = arg_disk(q, &disk);
    if (r == 0)
        r = arg_number(q, "block", &block);
    if (r < 0)
        return r;
    if (block > (uint64_t)INT64_MAX >> VD_BLOCK_SHIFT)
        return fail(q, -EINVAL, "\"block\" is past any disk");
    int good = vd_disk_cached_verify(disk, block);
    if (good < 0 && good != -ENODATA)
        return good;
    *ret_ok = json_pack("{s:b, s:o}", "cached", good >= 0, "ok",
                        good < 0 ? json_null() : json_boolean(good));
    return 0;
}

/* Of one disk where "dev" and "ino" are given, else of all. What the cache counts only as a whole
 * (capacity, slots, inserts, evictions, invalidations, checksum errors) is the same in both. */
/* Of the disk that the request names; one that was never open here has counted nothing. */
static int disk_stats(const struct request *q, struct vd_disk_stats *ret_s, uint64_t *ret_used)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    struct vd_disk_info info = {0};
    uint64_t dev, ino;
    int r = arg_number(q, "dev", &dev);
    if (r == 0)
        r = arg_number(q, "ino", &ino);
    if (r < 0)
        return r;
    *ret_s = (struct vd_disk_stats){0};
    r = vd_disks_get_stats_of(q->d->disks, (dev_t)dev, (ino_t)ino, ret_s);
    if (r == 0 && vd_disks_find(q->d->disks, (dev_t)dev, (ino_t)ino, &disk) == 0)
        vd_disk_get_info(disk, &info);
    *ret_used = info.cached_bytes;
    return 0;
}

static int do_cache_stats(const struct request *q, json_t **ret_ok)
{
    struct vd_cache_stats c = {0};
    struct vd_disk_stats s;
    if (q->d->cache)
        vd_cache_get_stats(q->d->cache, &c);
    uint64_t used = c.used_bytes, errors = c.errors;
    if (json_object_get(q->args, "ino")) {
        int r = disk_stats(q, &s, &used);
        if (r < 0)
            return r;
        errors = 0;
    } else {
        vd_disks_get_stats(q->d->disks, &s);
    }
    json_t *o =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:o}", "capacity_bytes",
                  (json_int_t)c.capacity_bytes, "used_bytes", (json_int_t)used, "slots",
                  (json_int_t)c.slots, "slot_bytes", (json_int_t)c.slot_bytes, "inserts",
                  (json_int_t)c.inserts, "evictions", (json_int_t)c.evictions, "invalidations",
                  (json_int_t)c.invalidations, "checksum_errors", (json_int_t)c.checksum_errors,
                  "ready", (int)c.ready, "dead", (int)c.dead, "since", rfc3339(q->d->started_s));
    json_object_update_new(o, encode_stats(&s));
    json_object_set_new(o, "errors", json_integer((json_int_t)(s.errors + errors)));
    *ret_ok = o;
    return 0;
}

static int need_cache(const struct request *q)
{
    return q->d->cache ? 0 : fail(q, -EOPNOTSUPP, "this mount runs without a cache");
}

static int do_cache_flush(const struct request *q, json_t **ret_ok)
{
    int r = need_cache(q);
    return r < 0 ? r : vd_cache_flush(q->d->cache);
}

/* Forgets what the cache holds of a disk that is not open, under the generation that it notes. */
static int drop_closed(const struct request *q)
{
    struct vd_cache_witness w;
    struct vd_cache_key key;
    int r = arg_id(q, "disk_id", &key.disk_id);
    if (r == 0)
        r = vd_cache_witness_load(q->d->cache, &key.disk_id, &w);
    if (r == -ENOENT || r == -EUCLEAN)
        return 0; /* nothing of it would ever be served */
    if (r < 0)
        return r;
    key.generation = w.generation;
    return vd_cache_forget(q->d->cache, &key);
}

/* The disk need not be open: then "disk_id" names it, or it is absent where it has none yet. */
static int do_cache_drop(const struct request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = need_cache(q);
    if (r == 0)
        r = arg_disk(q, &disk);
    if (r == 0)
        vd_disk_cache_drop(disk);
    if (r != -ENOENT)
        return r;
    return json_object_get(q->args, "disk_id") ? drop_closed(q) : 0;
}

static int add_report(void *user, const char *what)
{
    if (json_array_size(user) < REPORTS_MAX)
        json_array_append_new(user, vd_ctl_text(what));
    return 0;
}

static int do_cache_verify(const struct request *q, json_t **ret_ok)
{
    int r = need_cache(q);
    if (r < 0)
        return r;
    json_t *list = json_array();
    r = vd_cache_verify(q->d->cache, add_report, list);
    if (r < 0) {
        json_decref(list);
        return fail(q, r, "the cache %s could not be read: %s", q->d->cache_dir, strerror(-r));
    }
    *ret_ok = json_pack("{s:i, s:o}", "bad", r, "what", list);
    return 0;
}

static int do_owner_release(const struct request *q, json_t **ret_ok)
{
    struct vd_id uuid;
    int r = arg_id(q, "uuid", &uuid);
    if (r < 0)
        return r;
    char why[VD_META_WHY] = "";
    r = vd_disks_release_request(q->d->disks, &uuid, why);
    return r < 0 && why[0] ? fail(q, r, "%s", why) : r;
}

json_t *vd_control_info(const struct vd_daemon *d)
{
    return json_pack("{s:i, s:o, s:I, s:o, s:I, s:o, s:o, s:o, s:s, s:s}", "pid", (int)getpid(),
                     "mount", vd_ctl_text(d->mountpoint), "st_dev", (json_int_t)d->mount_dev,
                     "source", vd_ctl_text(d->source), "source_dev", (json_int_t)d->source_dev,
                     "meta", vd_ctl_text(d->meta_dir), "cache", vd_ctl_text(d->cache_dir), "host",
                     vd_ctl_text(d->self.host), "state", "running", "version", VD_VERSION);
}

int vd_control_handle(void *user, const char *command, json_t *args, json_t **ret_ok, char *ret_why,
                      size_t why_len)
{
    static const struct {
        const char *name;
        int (*run)(const struct request *q, json_t **ret_ok);
    } commands[] = {
        {"ping", do_ping},
        {"info", do_info},
        {"disks", do_disks},
        {"cached-map", do_cached_map},
        {"block-verify", do_block_verify},
        {"cache-stats", do_cache_stats},
        {"cache-flush", do_cache_flush},
        {"cache-drop", do_cache_drop},
        {"cache-verify", do_cache_verify},
        {"owner-release", do_owner_release},
    };
    struct request q = {.d = user, .args = args, .why = ret_why, .why_len = why_len};
    for (size_t i = 0; i < VD_ARRAY_SIZE(commands); i++)
        if (strcmp(command, commands[i].name) == 0)
            return commands[i].run(&q, ret_ok);
    return fail(&q, -ENOSYS, "%.64s: this daemon knows no such command", command);
}

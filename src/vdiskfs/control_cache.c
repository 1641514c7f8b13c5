// SPDX-License-Identifier: Apache-2.0
/* Commands about the cache. Capacity, slots, inserts, evictions, invalidations and checksum errors are
 * counted of the cache as a whole, so they are the same in the answer about one disk. */
#include <string.h>
#include <time.h>

#include "request.h"

#define MAP_BLOCKS_MAX (256u << 10) /* of one cached-map: 1 GiB of disk, 32 KiB of bits */
#define REPORTS_MAX 1000u           /* bad blocks that one cache-verify names */

static json_t *rfc3339(time_t t)
{
    char text[32];
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    return json_string(text);
}

/* Runs of cached blocks as [first, count]; "next": where to go on. */
int vd__do_cached_map(const struct vd_request *q, json_t **ret_ok)
{
    uint64_t first, n;
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = vd__request_disk(q, &disk);
    if (r == 0)
        r = vd__request_number(q, "first_block", &first);
    if (r == 0)
        r = vd__request_number(q, "nblocks", &n);
    if (r < 0)
        return r;
    if (first > (uint64_t)INT64_MAX >> VD_BLOCK_SHIFT)
        return vd__request_fail(q, -EINVAL, "\"first_block\" is past any disk");
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

int vd__do_block_verify(const struct vd_request *q, json_t **ret_ok)
{
    uint64_t block;
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = vd__request_disk(q, &disk);
    if (r == 0)
        r = vd__request_number(q, "block", &block);
    if (r < 0)
        return r;
    if (block > (uint64_t)INT64_MAX >> VD_BLOCK_SHIFT)
        return vd__request_fail(q, -EINVAL, "\"block\" is past any disk");
    int good = vd_disk_cached_verify(disk, block);
    if (good < 0 && good != -ENODATA)
        return good;
    *ret_ok = json_pack("{s:b, s:o}", "cached", good >= 0, "ok",
                        good < 0 ? json_null() : json_boolean(good));
    return 0;
}

/* Of the disk that the request names; one that was never open here has counted nothing. */
static int disk_stats(const struct vd_request *q, struct vd_disk_stats *ret_s, uint64_t *ret_used)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    struct vd_disk_info info = {0};
    dev_t dev;
    ino_t ino;
    int r = vd__request_inode(q, &dev, &ino);
    if (r < 0)
        return r;
    *ret_s = (struct vd_disk_stats){0};
    r = vd_disks_get_stats_of(q->d->disks, dev, ino, ret_s);
    if (r == 0 && vd_disks_find(q->d->disks, dev, ino, &disk) == 0)
        vd_disk_get_info(disk, &info);
    *ret_used = info.cached_bytes;
    return 0;
}

int vd__do_cache_stats(const struct vd_request *q, json_t **ret_ok)
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
    json_object_update_new(o, vd__answer_stats(&s));
    json_object_set_new(o, "errors", json_integer((json_int_t)(s.errors + errors)));
    *ret_ok = o;
    return 0;
}

static int need_cache(const struct vd_request *q)
{
    return q->d->cache ? 0 : vd__request_fail(q, -EOPNOTSUPP, "this mount runs without a cache");
}

int vd__do_cache_flush(const struct vd_request *q, json_t **ret_ok)
{
    int r = need_cache(q);
    return r < 0 ? r : vd_cache_flush(q->d->cache);
}

/* Forgets what the cache holds of a disk that is not open, under the generation that it notes. */
static int drop_closed(const struct vd_request *q)
{
    struct vd_cache_witness w;
    struct vd_cache_key key;
    int r = vd__request_id(q, "disk_id", &key.disk_id);
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
int vd__do_cache_drop(const struct vd_request *q, json_t **ret_ok)
{
    vd_cleanup(vd_disk_put_p) struct vd_disk *disk = NULL;
    int r = need_cache(q);
    if (r == 0)
        r = vd__request_disk(q, &disk);
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

int vd__do_cache_verify(const struct vd_request *q, json_t **ret_ok)
{
    int r = need_cache(q);
    if (r < 0)
        return r;
    json_t *list = json_array();
    r = vd_cache_verify(q->d->cache, add_report, list);
    if (r < 0) {
        json_decref(list);
        return vd__request_fail(q, r, "the cache %s could not be read: %s", q->d->cache_dir,
                                strerror(-r));
    }
    *ret_ok = json_pack("{s:i, s:o}", "bad", r, "what", list);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Encoding and decoding walk a payload with a cursor, field by field, in the order of the header's
 * structs; static_asserts at the end of each pair hold the lengths. A decoder fills a struct of its
 * own and hands it out whole, or not at all.
 */
#include "codec.h"

#include <assert.h>

#include "vd_crc.h"
#include "vd_endian.h"

struct vd__key vd__key_index(uint64_t index)
{
    struct vd__key k = {.len = 8};
    vd_put_be64(k.b, index);
    return k;
}

struct vd__key vd__key_id(const struct vd_id *id)
{
    struct vd__key k = {.len = sizeof(id->b)};
    memcpy(k.b, id->b, sizeof(id->b));
    return k;
}

int vd__key_name(const char *name, struct vd__key *ret_k)
{
    size_t n = strnlen(name, VD_SNAPSHOT_NAME_MAX + 1);
    if (n == 0 || n > VD_SNAPSHOT_NAME_MAX)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f || name[i] == '/')
            return -EINVAL;
    ret_k->len = n;
    memcpy(ret_k->b, name, n);
    return 0;
}

/* Length of TEXT, or 0 where it fills all SIZE bytes or has a character that ALLOWED denies. */
static size_t word_len(const char *text, size_t size, bool (*allowed)(unsigned char c))
{
    size_t n = strnlen(text, size);
    for (size_t i = 0; i < n; i++)
        if (!allowed((unsigned char)text[i]))
            return 0;
    return n < size ? n : 0;
}

static bool in_filter_name(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

static bool in_filter_key(unsigned char c)
{
    return c >= ' ' && c <= '~' && c != '/';
}

int vd__key_filter(const char *name, struct vd__key *ret_k)
{
    size_t n = word_len(name, VD_META_FILTER_NAME, in_filter_name);
    if (n == 0)
        return -EINVAL;
    ret_k->len = n;
    memcpy(ret_k->b, name, n);
    return 0;
}

int vd__key_filter_data(const char *name, const char *key, struct vd__key *ret_k)
{
    size_t nname = word_len(name, VD_META_FILTER_NAME, in_filter_name);
    size_t nkey = word_len(key, VD_META_FILTER_KEY, in_filter_key);
    if (nname == 0 || nkey == 0)
        return -EINVAL;
    ret_k->len = nname + 1 + nkey;
    memcpy(ret_k->b, name, nname);
    ret_k->b[nname] = '\0';
    memcpy(ret_k->b + nname + 1, key, nkey);
    return 0;
}
static_assert(VD_META_FILTER_NAME + VD_META_FILTER_KEY <= VD__KEY_MAX, "a key of filter-data");

static bool same_key(const struct vd__key *a, const struct vd__key *b)
{
    return a->len == b->len && memcmp(a->b, b->b, a->len) == 0;
}

static uint32_t record_crc(const char *db, const void *key, size_t key_len, const void *value,
                           size_t len)
{
    uint32_t crc = vd_crc32c(0, db, strlen(db) + 1);
    crc = vd_crc32c(crc, key, key_len);
    return vd_crc32c(crc, value, len);
}

/* ---- writing ---- */

struct out {
    uint8_t *p;
    bool bad;
};

static void out_u32(struct out *o, uint32_t v)
{
    vd_put_le32(o->p, v);
    o->p += 4;
}
static void out_u64(struct out *o, uint64_t v)
{
    vd_put_le64(o->p, v);
    o->p += 8;
}
static void out_id(struct out *o, const struct vd_id *id)
{
    memcpy(o->p, id->b, sizeof(id->b));
    o->p += sizeof(id->b);
}
static void out_text(struct out *o, const char *text, size_t size)
{
    size_t n = strnlen(text, size);
    o->bad |= n == size;
    memcpy(o->p, text, n);
    memset(o->p + n, 0, size - n);
    o->p += size;
}

/* The frozen maps that a disk or snapshot asks: N of them, then zeroes. */
static void out_maps(struct out *o, uint32_t n, const struct vd_id maps[VD_VIEW_MAPS])
{
    static const struct vd_id none;
    o->bad |= n > VD_VIEW_MAPS;
    for (uint32_t i = 0; i < VD_VIEW_MAPS; i++) {
        o->bad |= i < n && vd_id_is_zero(&maps[i]);
        out_id(o, i < n ? &maps[i] : &none);
    }
}

static struct out out_begin(void *value, enum vd__rec_type type, uint32_t len)
{
    vd_put_le16(value, type);
    vd_put_le16((uint8_t *)value + 2, VD__REC_VERSION);
    vd_put_le32((uint8_t *)value + 4, len);
    return (struct out){.p = (uint8_t *)value + VD__REC_HEAD};
}

static ssize_t out_end(struct out *o, void *value, const char *db, const struct vd__key *k)
{
    if (o->bad)
        return -EINVAL;
    size_t len = (size_t)(o->p - (uint8_t *)value);
    assert(len == VD__REC_HEAD + vd_get_le32((uint8_t *)value + 4));
    out_u32(o, record_crc(db, k->b, k->len, value, len));
    return (ssize_t)len + 4;
}

/* ---- reading ---- */

struct in {
    const uint8_t *p;
    const char *bad; /* the first thing that is wrong */
};

static uint32_t in_u32(struct in *i)
{
    i->p += 4;
    return vd_get_le32(i->p - 4);
}
static uint64_t in_u64(struct in *i)
{
    i->p += 8;
    return vd_get_le64(i->p - 8);
}
static struct vd_id in_id(struct in *i)
{
    struct vd_id id;
    memcpy(id.b, i->p, sizeof(id.b));
    i->p += sizeof(id.b);
    return id;
}
static void in_text(struct in *i, char *ret_text, size_t size)
{
    const char *text = (const char *)i->p;
    size_t n = strnlen(text, size);
    if (n == size)
        i->bad = "a text has no end";
    for (size_t k = n; k < size; k++)
        if (text[k])
            i->bad = "a text has bytes after its end";
    memcpy(ret_text, text, size);
    i->p += size;
}
static uint32_t in_u32_range(struct in *i, uint32_t low, uint32_t high, const char *bad)
{
    uint32_t v = in_u32(i);
    if (v < low || v > high)
        i->bad = bad;
    return v;
}

static void in_maps(struct in *i, uint32_t n, struct vd_id ret_maps[VD_VIEW_MAPS])
{
    for (uint32_t k = 0; k < VD_VIEW_MAPS; k++) {
        ret_maps[k] = in_id(i);
        if (vd_id_is_zero(&ret_maps[k]) != (k >= n))
            i->bad = "the list of its maps is not as long as it says";
    }
}

int vd__rec_verify(const char *db, const void *key, size_t key_len, const void *value, size_t len)
{
    if (len < VD__REC_OVERHEAD || vd_get_le32((const uint8_t *)value + 4) != len - VD__REC_OVERHEAD)
        return -EUCLEAN;
    uint32_t crc = vd_get_le32((const uint8_t *)value + len - 4);
    return crc == record_crc(db, key, key_len, value, len - 4) ? 0 : -EUCLEAN;
}

static int refuse(char ret_why[VD__REC_WHY], const char *why)
{
    snprintf(ret_why, VD__REC_WHY, "%s", why);
    return -EUCLEAN;
}

/* Of a payload of any length. */
static int in_begin_any(struct in *i, const char *db, const struct vd__key *k, const void *value,
                        size_t len, enum vd__rec_type type, char ret_why[VD__REC_WHY])
{
    if (vd__rec_verify(db, k->b, k->len, value, len) < 0)
        return refuse(ret_why, "checksum differs");
    const uint8_t *head = value;
    if (vd_get_le16(head) != type)
        return refuse(ret_why, "is of another type");
    unsigned version = vd_get_le16(head + 2);
    if (version != VD__REC_VERSION) {
        snprintf(ret_why, VD__REC_WHY, "version %u; this program knows %u", version,
                 VD__REC_VERSION);
        return -EUCLEAN;
    }
    *i = (struct in){.p = head + VD__REC_HEAD};
    return 0;
}

static int in_begin(struct in *i, const char *db, const struct vd__key *k, const void *value,
                    size_t len, enum vd__rec_type type, uint32_t want, char ret_why[VD__REC_WHY])
{
    int r = in_begin_any(i, db, k, value, len, type, ret_why);
    return r == 0 && len != want + VD__REC_OVERHEAD ? refuse(ret_why, "has another length") : r;
}

/* ---- disk ---- */

ssize_t vd__encode_disk(const struct vd_disk_record *r, void *ret_value)
{
    struct vd__key k = vd__key_index(0);
    struct out o = out_begin(ret_value, VD__REC_DISK, VD__DISK_LEN);
    out_id(&o, &r->uuid);
    out_id(&o, &r->live_disk_id);
    out_u64(&o, r->size_bytes);
    out_u32(&o, r->nlayers);
    out_u32(&o, r->clean);
    out_id(&o, &r->boot_id);
    out_text(&o, r->path, sizeof(r->path));
    return out_end(&o, ret_value, VD__DB_DISK, &k);
}

int vd__decode_disk(const void *value, size_t len, struct vd_disk_record *ret_r,
                    char ret_why[VD__REC_WHY])
{
    struct vd__key k = vd__key_index(0);
    struct vd_disk_record rec;
    struct in i;
    int r = in_begin(&i, VD__DB_DISK, &k, value, len, VD__REC_DISK, VD__DISK_LEN, ret_why);
    if (r < 0)
        return r;
    rec.uuid = in_id(&i);
    rec.live_disk_id = in_id(&i);
    rec.size_bytes = in_u64(&i);
    rec.nlayers = in_u32(&i);
    rec.clean = in_u32_range(&i, 0, 1, "the clean mark is neither 0 nor 1");
    rec.boot_id = in_id(&i);
    in_text(&i, rec.path, sizeof(rec.path));
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__DISK_LEN == 16 + 16 + 8 + 4 + 4 + 16 + sizeof(((struct vd_disk_record *)0)->path),
              "payload of version 1");

/* ---- layer ---- */

ssize_t vd__encode_layer(uint32_t index, const struct vd_layer_record *r, void *ret_value)
{
    struct vd__key k = vd__key_index(index);
    struct out o = out_begin(ret_value, VD__REC_LAYER, VD__LAYER_LEN);
    out_id(&o, &r->disk_id);
    out_u32(&o, r->state);
    out_u32(&o, 0);
    out_u64(&o, r->generation);
    out_id(&o, &r->token);
    out_u64(&o, r->identity.ino);
    out_u64(&o, r->identity.size_bytes);
    out_u64(&o, (uint64_t)r->identity.mtime_ns);
    out_u64(&o, (uint64_t)r->identity.ctime_ns);
    out_u64(&o, r->created_s);
    out_text(&o, r->path, sizeof(r->path));
    out_text(&o, r->snapshot, sizeof(r->snapshot));
    o.bad |= r->state < VD_LAYER_LIVE || r->state > VD_LAYER_FROZEN;
    return out_end(&o, ret_value, VD__DB_LAYER, &k);
}

int vd__decode_layer(uint32_t index, const void *value, size_t len, struct vd_layer_record *ret_r,
                     char ret_why[VD__REC_WHY])
{
    struct vd__key k = vd__key_index(index);
    struct vd_layer_record rec;
    struct in i;
    int r = in_begin(&i, VD__DB_LAYER, &k, value, len, VD__REC_LAYER, VD__LAYER_LEN, ret_why);
    if (r < 0)
        return r;
    rec.disk_id = in_id(&i);
    rec.state = in_u32_range(&i, VD_LAYER_LIVE, VD_LAYER_FROZEN, "has an unknown state");
    in_u32_range(&i, 0, 0, "reserved bytes are not zero");
    rec.generation = in_u64(&i);
    rec.token = in_id(&i);
    rec.identity.ino = in_u64(&i);
    rec.identity.size_bytes = in_u64(&i);
    rec.identity.mtime_ns = (int64_t)in_u64(&i);
    rec.identity.ctime_ns = (int64_t)in_u64(&i);
    rec.created_s = in_u64(&i);
    in_text(&i, rec.path, sizeof(rec.path));
    in_text(&i, rec.snapshot, sizeof(rec.snapshot));
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__LAYER_LEN == 16 + 4 + 4 + 8 + 16 + 4 * 8 + 8 +
                                   sizeof(((struct vd_layer_record *)0)->path) +
                                   sizeof(((struct vd_layer_record *)0)->snapshot),
              "payload of version 1");

/* ---- owner ---- */

ssize_t vd__encode_owner(const struct vd_owner_record *r, void *ret_value)
{
    struct vd__key k = vd__key_id(&r->id);
    struct out o = out_begin(ret_value, VD__REC_OWNER, VD__OWNER_LEN);
    out_id(&o, &r->id);
    out_u32(&o, r->state);
    out_u32(&o, r->pid);
    out_u64(&o, r->epoch);
    out_id(&o, &r->boot_id);
    out_text(&o, r->host, sizeof(r->host));
    out_text(&o, r->endpoint, sizeof(r->endpoint));
    o.bad |= r->state > VD_OWNER_RELEASING;
    return out_end(&o, ret_value, VD__DB_OWNER, &k);
}

int vd__decode_owner(const struct vd__key *key, const void *value, size_t len,
                     struct vd_owner_record *ret_r, char ret_why[VD__REC_WHY])
{
    struct vd_owner_record rec;
    struct in i;
    int r = in_begin(&i, VD__DB_OWNER, key, value, len, VD__REC_OWNER, VD__OWNER_LEN, ret_why);
    if (r < 0)
        return r;
    rec.id = in_id(&i);
    rec.state = in_u32_range(&i, VD_OWNER_NONE, VD_OWNER_RELEASING, "has an unknown state");
    rec.pid = in_u32(&i);
    rec.epoch = in_u64(&i);
    rec.boot_id = in_id(&i);
    in_text(&i, rec.host, sizeof(rec.host));
    in_text(&i, rec.endpoint, sizeof(rec.endpoint));
    if (key->len != sizeof(rec.id.b) || memcmp(key->b, rec.id.b, sizeof(rec.id.b)) != 0)
        i.bad = "names another owner than its key";
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__OWNER_LEN == 16 + 4 + 4 + 8 + 16 + sizeof(((struct vd_owner_record *)0)->host) +
                                   sizeof(((struct vd_owner_record *)0)->endpoint),
              "payload of version 1");

/* ---- view ---- */

ssize_t vd__encode_view(const struct vd_view_record *r, void *ret_value)
{
    struct vd__key k = vd__key_index(0);
    struct out o = out_begin(ret_value, VD__REC_VIEW, VD__VIEW_LEN);
    out_u32(&o, r->home);
    out_u32(&o, r->moving);
    out_u64(&o, r->file_ino);
    out_id(&o, &r->live_map);
    out_u32(&o, r->nmaps);
    out_u32(&o, 0);
    out_maps(&o, r->nmaps, r->maps);
    out_id(&o, &r->parent);
    out_id(&o, &r->origin);
    o.bad |= r->home < VD_HOME_FILE || r->home > VD_HOME_LAYERS || vd_id_is_zero(&r->live_map);
    return out_end(&o, ret_value, VD__DB_VIEW, &k);
}

int vd__decode_view(const void *value, size_t len, struct vd_view_record *ret_r,
                    char ret_why[VD__REC_WHY])
{
    struct vd__key k = vd__key_index(0);
    struct vd_view_record rec;
    struct in i;
    int r = in_begin(&i, VD__DB_VIEW, &k, value, len, VD__REC_VIEW, VD__VIEW_LEN, ret_why);
    if (r < 0)
        return r;
    rec.home =
        in_u32_range(&i, VD_HOME_FILE, VD_HOME_LAYERS, "its live layer is at no known place");
    rec.moving = in_u32_range(&i, 0, 1, "the moving mark is neither 0 nor 1");
    rec.file_ino = in_u64(&i);
    rec.live_map = in_id(&i);
    rec.nmaps = in_u32_range(&i, 0, VD_VIEW_MAPS, "has more maps than can be");
    in_u32_range(&i, 0, 0, "reserved bytes are not zero");
    in_maps(&i, rec.nmaps, rec.maps);
    rec.parent = in_id(&i);
    rec.origin = in_id(&i);
    if (vd_id_is_zero(&rec.live_map))
        i.bad = "names no live map";
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__VIEW_LEN == 4 + 4 + 8 + 16 + 4 + 4 + VD_VIEW_MAPS * 16 + 16 + 16,
              "payload of version 1");

/* ---- snapshot ---- */

ssize_t vd__encode_snapshot(const struct vd_snapshot_record *r, void *ret_value)
{
    struct vd__key k;
    if (vd__key_name(r->name, &k) < 0)
        return -EINVAL;
    struct out o = out_begin(ret_value, VD__REC_SNAPSHOT, VD__SNAPSHOT_LEN);
    out_id(&o, &r->disk_id);
    out_u64(&o, r->created_s);
    out_u64(&o, r->size_bytes);
    out_u32(&o, r->nmaps);
    out_u32(&o, 0);
    out_maps(&o, r->nmaps, r->maps);
    out_text(&o, r->name, sizeof(r->name));
    return out_end(&o, ret_value, VD__DB_SNAPSHOT, &k);
}

int vd__decode_snapshot(const struct vd__key *key, const void *value, size_t len,
                        struct vd_snapshot_record *ret_r, char ret_why[VD__REC_WHY])
{
    struct vd_snapshot_record rec;
    struct vd__key name;
    struct in i;
    int r =
        in_begin(&i, VD__DB_SNAPSHOT, key, value, len, VD__REC_SNAPSHOT, VD__SNAPSHOT_LEN, ret_why);
    if (r < 0)
        return r;
    rec.disk_id = in_id(&i);
    rec.created_s = in_u64(&i);
    rec.size_bytes = in_u64(&i);
    rec.nmaps = in_u32_range(&i, 0, VD_VIEW_MAPS, "has more maps than can be");
    in_u32_range(&i, 0, 0, "reserved bytes are not zero");
    in_maps(&i, rec.nmaps, rec.maps);
    in_text(&i, rec.name, sizeof(rec.name));
    if (!i.bad && vd__key_name(rec.name, &name) < 0)
        i.bad = "its name cannot be a snapshot's";
    else if (!i.bad && (name.len != key->len || memcmp(name.b, key->b, name.len) != 0))
        i.bad = "has another name than its key";
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__SNAPSHOT_LEN == 16 + 8 + 8 + 4 + 4 + VD_VIEW_MAPS * 16 +
                                      sizeof(((struct vd_snapshot_record *)0)->name),
              "payload of version 1");

/* ---- filter ---- */

/* Has CONFIG complete lines only? It ends within its field. */
static bool whole_lines(const char *config)
{
    size_t n = strlen(config);
    return n == 0 || config[n - 1] == '\n';
}

ssize_t vd__encode_filter(const struct vd_filter_record *r, void *ret_value)
{
    struct vd__key k;
    if (vd__key_filter(r->name, &k) < 0)
        return -EINVAL;
    struct out o = out_begin(ret_value, VD__REC_FILTER, VD__FILTER_LEN);
    out_u32(&o, r->filter_class);
    out_u32(&o, r->required);
    out_u32(&o, r->cloned);
    out_u32(&o, 0);
    out_u64(&o, r->order);
    out_text(&o, r->name, sizeof(r->name));
    out_text(&o, r->config, sizeof(r->config));
    o.bad |= r->filter_class < 1 || r->filter_class > 4;
    o.bad = o.bad || !whole_lines(r->config);
    return out_end(&o, ret_value, VD__DB_FILTER, &k);
}

int vd__decode_filter(const struct vd__key *key, const void *value, size_t len,
                      struct vd_filter_record *ret_r, char ret_why[VD__REC_WHY])
{
    struct vd_filter_record rec;
    struct vd__key name;
    struct in i;
    int r = in_begin(&i, VD__DB_FILTER, key, value, len, VD__REC_FILTER, VD__FILTER_LEN, ret_why);
    if (r < 0)
        return r;
    rec.filter_class = in_u32_range(&i, 1, 4, "is of an unknown class");
    rec.required = in_u32_range(&i, 0, 1, "the required mark is neither 0 nor 1");
    rec.cloned = in_u32_range(&i, 0, 1, "the cloned mark is neither 0 nor 1");
    in_u32_range(&i, 0, 0, "reserved bytes are not zero");
    rec.order = in_u64(&i);
    in_text(&i, rec.name, sizeof(rec.name));
    in_text(&i, rec.config, sizeof(rec.config));
    if (!i.bad && vd__key_filter(rec.name, &name) < 0)
        i.bad = "its name cannot be a filter's";
    else if (!i.bad && !same_key(&name, key))
        i.bad = "has another name than its key";
    else if (!i.bad && !whole_lines(rec.config))
        i.bad = "the last line of its configuration has no end";
    if (i.bad)
        return refuse(ret_why, i.bad);
    *ret_r = rec;
    return 0;
}
static_assert(VD__FILTER_LEN == 4 * 4 + 8 + sizeof(((struct vd_filter_record *)0)->name) +
                                    sizeof(((struct vd_filter_record *)0)->config),
              "payload of version 1");
static_assert(VD__FILTER_LEN >= VD__DISK_LEN && VD__FILTER_LEN >= VD__LAYER_LEN &&
                  VD__FILTER_LEN >= VD__OWNER_LEN && VD__FILTER_LEN >= VD__VIEW_LEN &&
                  VD__FILTER_LEN >= VD__SNAPSHOT_LEN,
              "VD__REC_MAX");

/* ---- filter-data ---- */

ssize_t vd__encode_filter_data(const struct vd__key *key, const void *bytes, size_t len,
                               void *ret_value)
{
    if (len > VD_META_FILTER_DATA)
        return -EINVAL;
    struct out o = out_begin(ret_value, VD__REC_FILTER_DATA, VD__FILTER_DATA_HEAD + (uint32_t)len);
    out_u32(&o, (uint32_t)len);
    if (len > 0)
        memcpy(o.p, bytes, len);
    o.p += len;
    return out_end(&o, ret_value, VD__DB_FILTER_DATA, key);
}

/* The two texts that KEY joins; false where it is not of that form. */
static bool split_key(const struct vd__key *key, struct vd__filter_datum *ret_d)
{
    const uint8_t *nul = memchr(key->b, '\0', key->len);
    if (!nul)
        return false;
    size_t nname = (size_t)(nul - key->b), nkey = key->len - nname - 1;
    struct vd__key k;
    if (nname >= sizeof(ret_d->filter) || nkey >= sizeof(ret_d->key))
        return false;
    memcpy(ret_d->filter, key->b, nname);
    ret_d->filter[nname] = '\0';
    memcpy(ret_d->key, nul + 1, nkey);
    ret_d->key[nkey] = '\0';
    return vd__key_filter_data(ret_d->filter, ret_d->key, &k) == 0 && same_key(&k, key);
}

int vd__decode_filter_data(const struct vd__key *key, const void *value, size_t len,
                           struct vd__filter_datum *ret_d, char ret_why[VD__REC_WHY])
{
    struct vd__filter_datum d;
    struct in i;
    int r = in_begin_any(&i, VD__DB_FILTER_DATA, key, value, len, VD__REC_FILTER_DATA, ret_why);
    if (r < 0)
        return r;
    if (len < VD__FILTER_DATA_HEAD + VD__REC_OVERHEAD || len > VD__FILTER_DATA_REC_MAX)
        return refuse(ret_why, "has another length");
    d.len = in_u32(&i);
    if (d.len != len - VD__FILTER_DATA_HEAD - VD__REC_OVERHEAD)
        return refuse(ret_why, "holds more or less than it says");
    if (!split_key(key, &d))
        return refuse(ret_why, "its key is no filter's");
    d.bytes = i.p;
    *ret_d = d;
    return 0;
}

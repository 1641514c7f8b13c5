// SPDX-License-Identifier: Apache-2.0
/*
 * What the cache holds. A daemon knows it of the disks that it has attached. Of all others the slot
 * table tells, which may be read at any time; it is read once, and looked up by key. A layer's
 * blocks count only if the cache's witness says that they would be served: tokens equal, no writer
 * cut short, and, of a live layer, the file unchanged.
 */
#include <string.h>

#include "cli.h"

struct entry {
    struct vd_cache_key key;
    uint64_t first_block;
    uint32_t nblocks;
    uint32_t nvalid;
    size_t words_at; /* valid blocks, bit by bit */
};

struct cli_usage {
    struct entry *entries; /* by key, then block */
    size_t n, room;
    uint64_t *words;
    size_t nwords, words_room;
};

void cli_usage_free(struct cli_usage *u)
{
    if (!u)
        return;
    free(u->entries);
    free(u->words);
    free(u);
}

static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = memcmp(x->key.disk_id.b, y->key.disk_id.b, sizeof(x->key.disk_id.b));
    if (c == 0)
        c = (x->key.generation > y->key.generation) - (x->key.generation < y->key.generation);
    return c ? c : (x->first_block > y->first_block) - (x->first_block < y->first_block);
}

static void *grow(void *v, size_t need, size_t *room, size_t size)
{
    if (need <= *room)
        return v;
    size_t more = vd_max(need, *room ? 2 * *room : (size_t)1024);
    void *p = realloc(v, more * size);
    if (p)
        *room = more;
    return p;
}

static int add_slot(void *user, const struct vd_cache_key *key, uint64_t first_block,
                    const uint64_t *valid, uint32_t nblocks)
{
    struct cli_usage *u = user;
    size_t n = (nblocks + 63) / 64;
    struct entry *entries = grow(u->entries, u->n + 1, &u->room, sizeof(*entries));
    if (!entries)
        return -ENOMEM;
    u->entries = entries;
    uint64_t *words = grow(u->words, u->nwords + n, &u->words_room, sizeof(*words));
    if (!words)
        return -ENOMEM;
    u->words = words;
    uint32_t nvalid = 0;
    for (size_t i = 0; i < n; i++)
        nvalid += (uint32_t)__builtin_popcountll(valid[i]);
    memcpy(&words[u->nwords], valid, n * sizeof(*words));
    entries[u->n++] = (struct entry){*key, first_block, nblocks, nvalid, u->nwords};
    u->nwords += n;
    return 0;
}

static const struct cli_usage *usage_of(struct cli_place *p)
{
    if (p->used)
        return p->used;
    p->used = calloc(1, sizeof(*p->used));
    if (!p->used)
        abort();
    if (p->cache_dir[0]) {
        int r = vd_cache_scan(p->cache_dir, add_slot, p->used);
        if (r < 0 && r != -ENOENT)
            cli_warn(p->cache_dir, "the cache cannot be read: %s", strerror(-r));
        if (r < 0)
            p->used->n = 0;
        if (p->used->n)
            qsort(p->used->entries, p->used->n, sizeof(*p->used->entries), compare);
    }
    return p->used;
}

/* The first entry of KEY that ends after block FIRST, or some entry of another key, or the end. */
static size_t find(const struct cli_usage *u, const struct vd_cache_key *key, uint64_t first)
{
    struct entry wanted = {.key = *key, .first_block = first};
    size_t lo = 0, hi = u->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare(&u->entries[mid], &wanted) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo > 0 && memcmp(&u->entries[lo - 1].key, key, sizeof(*key)) == 0 &&
        u->entries[lo - 1].first_block + u->entries[lo - 1].nblocks > first)
        lo--;
    return lo;
}

/* Is there a block of the layer, under whatever generation? Spares a look at thousands of files. */
static bool holds(const struct cli_usage *u, const struct vd_id *disk_id)
{
    struct vd_cache_key first = {.disk_id = *disk_id};
    size_t i = find(u, &first, 0);
    return i < u->n && vd_id_eq(&u->entries[i].key.disk_id, disk_id);
}

static const struct entry *entry_at(const struct cli_usage *u, const struct vd_cache_key *key,
                                    size_t i)
{
    return i < u->n && memcmp(&u->entries[i].key, key, sizeof(*key)) == 0 ? &u->entries[i] : NULL;
}

/* ---- keys ---- */

bool cli_frozen_key(const char *cache_dir, const struct vd_layer_file *file,
                    struct vd_cache_key *ret_key)
{
    struct vd_cache_witness w;
    if (!*cache_dir || vd_cache_scan_witness(cache_dir, &file->disk_id, &w) < 0 || w.written ||
        !vd_id_eq(&w.token, &file->token) || w.size_bytes != file->size_bytes ||
        w.mtime_ns != file->mtime_ns)
        return false;
    *ret_key = (struct vd_cache_key){file->disk_id, w.generation};
    return true;
}

/* The key under which blocks of D's live layer would be served at its next open. */
static bool live_key(const struct cli_place *p, const struct cli_disk *d,
                     struct vd_cache_key *ret_key)
{
    struct vd_cache_witness w;
    if (!d->recorded || d->refused || !p->cache_dir[0] ||
        vd_cache_scan_witness(p->cache_dir, &d->record.live_disk_id, &w) < 0)
        return false;
    struct vd_identity now, noted = {.ino = w.ino,
                                     .size_bytes = w.size_bytes,
                                     .mtime_ns = w.mtime_ns,
                                     .ctime_ns = w.ctime_ns};
    vd_identity_of(&d->live_st, &now);
    *ret_key = (struct vd_cache_key){d->record.live_disk_id, w.generation};
    return vd_id_eq(&w.token, &d->live.token) && !w.written && vd_identity_eq(&now, &noted);
}

static bool layer_key(struct cli_layers *l, size_t i, struct vd_cache_key *ret_key)
{
    struct vd_layer_file file;
    char why[VD_META_WHY];
    if (l->v[i].live)
        return live_key(l->place, l->disk, ret_key);
    return vd_layer_verify(l->place->store, &l->v[i].disk_id, &file, why) == 0 &&
           cli_frozen_key(l->place->cache_dir, &file, ret_key);
}

/* ---- block by block ---- */

struct bits {
    uint64_t nblocks;
    uint64_t *words;
    const struct cli_usage *used;
    struct vd_cache_key *keys; /* a layer; zero: nothing of it would be served */
};

static void set_bits(struct bits *b, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < b->nblocks && i - first < n; i++)
        b->words[i / 64] |= 1ull << (i % 64);
}

/* What is cached of a layer's extent. */
static int add_extent(void *user, const struct cli_extent *x)
{
    struct bits *b = user;
    if (x->layer == CLI_NO_LAYER || vd_id_is_zero(&b->keys[x->layer].disk_id))
        return 0;
    const struct vd_cache_key *key = &b->keys[x->layer];
    uint64_t first = x->start_bytes >> VD_BLOCK_SHIFT;
    uint64_t end = first + vd_blocks_touched(x->start_bytes, x->length_bytes);
    const struct entry *e;
    for (size_t i = find(b->used, key, first); (e = entry_at(b->used, key, i)); i++) {
        if (e->first_block >= end)
            break;
        uint64_t from = vd_max(e->first_block, first);
        for (uint64_t k = from; k < vd_min(e->first_block + e->nblocks, end); k++) {
            uint64_t at = k - e->first_block;
            if (b->used->words[e->words_at + at / 64] >> (at % 64) & 1)
                set_bits(b, k, 1);
        }
    }
    return 0;
}

static int scan_bits(struct cli_layers *l, struct bits *b)
{
    vd_cleanup_free struct vd_cache_key *keys = calloc(l->n, sizeof(*keys));
    char why[VD_META_WHY];
    bool any = false;
    if (!keys)
        return -ENOMEM;
    b->used = usage_of(l->place);
    b->keys = keys;
    for (size_t i = 0; i < l->n; i++) {
        if (holds(b->used, &l->v[i].disk_id) && layer_key(l, i, &keys[i]))
            any = true;
        else
            memset(&keys[i], 0, sizeof(keys[i]));
    }
    if (!any)
        return 0;
    return cli_layers_each(l, 0, l->disk->size_bytes, false, add_extent, b, why);
}

static int ask_bits(struct cli_place *p, const struct cli_disk *d, struct bits *b)
{
    for (uint64_t first = 0; first < b->nblocks;) {
        json_t *ok = NULL, *run, *args = cli_disk_args(d);
        size_t i;
        char why[VD_META_WHY];
        json_object_set_new(args, "first_block", json_integer((json_int_t)first));
        json_object_set_new(args, "nblocks", json_integer((json_int_t)(b->nblocks - first)));
        int r = cli_ask(p, "cached-map", args, CLI_TIMEOUT_MS, &ok, why);
        if (r == -ENOENT)
            return 0; /* it was closed meanwhile */
        if (r < 0) {
            cli_warn(d->name, "%s", why);
            return r;
        }
        json_array_foreach(json_object_get(ok, "runs"), i, run)
            set_bits(b, (uint64_t)json_integer_value(json_array_get(run, 0)),
                     (uint64_t)json_integer_value(json_array_get(run, 1)));
        uint64_t next = (uint64_t)json_integer_value(json_object_get(ok, "next"));
        json_decref(ok);
        if (next <= first)
            return -EPROTO;
        first = next;
    }
    return 0;
}

int cli_cached_bits(struct cli_layers *l, uint64_t **ret_bits)
{
    uint64_t nblocks = vd_blocks_touched(0, l->disk->size_bytes);
    vd_cleanup_free uint64_t *words = calloc(nblocks / 64 + 1, sizeof(*words));
    if (!words)
        return -ENOMEM;
    struct bits b = {.nblocks = nblocks, .words = words};
    int r = l->disk->online ? ask_bits(l->place, l->disk, &b) : scan_bits(l, &b);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_bits = vd_steal_ptr(words);
    return 0;
}

/* ---- in all ---- */

/* Of a disk with layers: a layer's blocks count where no newer layer has its own. */
static uint64_t layered_bytes(struct cli_place *p, const struct cli_disk *d)
{
    struct cli_layers l;
    vd_cleanup_free uint64_t *bits = NULL;
    char why[VD_META_WHY];
    uint64_t nblocks = 0;
    if (cli_layers_load(p, d, &l, why) < 0)
        return 0;
    if (cli_cached_bits(&l, &bits) == 0)
        for (uint64_t i = 0; i <= vd_blocks_touched(0, d->size_bytes) / 64; i++)
            nblocks += (uint64_t)__builtin_popcountll(bits[i]);
    cli_layers_free(&l);
    return nblocks * VD_BLOCK_SIZE;
}

uint64_t cli_cached_bytes(struct cli_place *p, const struct cli_disk *d)
{
    struct vd_cache_key key;
    const struct entry *e;
    uint64_t nblocks = 0;
    if (d->refused || d->broken)
        return 0;
    if (d->layered)
        return layered_bytes(p, d);
    if (d->online)
        return (uint64_t)json_integer_value(json_object_get(d->online, "cached_bytes"));
    if (!live_key(p, d, &key))
        return 0;
    const struct cli_usage *u = usage_of(p);
    for (size_t i = find(u, &key, 0); (e = entry_at(u, &key, i)); i++)
        nblocks += e->nvalid;
    return nblocks * VD_BLOCK_SIZE;
}

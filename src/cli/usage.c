// SPDX-License-Identifier: Apache-2.0
/*
 * What the cache holds. A daemon knows it of the disks that it has attached. Of all others the slot
 * table tells, which may be read at any time; its blocks count only if the cache's witness says
 * that they would be served: tokens equal, no writer cut short, the file unchanged.
 */
#include <string.h>

#include "cli.h"

struct entry {
    struct vd_cache_key key;
    uint64_t bytes;
};

struct cli_usage {
    struct entry *entries;
    size_t n, room;
};

void cli_usage_free(struct cli_usage *u)
{
    if (!u)
        return;
    free(u->entries);
    free(u);
}

static int compare(const void *a, const void *b)
{
    const struct vd_cache_key *x = a, *y = b;
    int c = memcmp(x->disk_id.b, y->disk_id.b, sizeof(x->disk_id.b));
    return c ? c : (x->generation > y->generation) - (x->generation < y->generation);
}

/* Adds one entry a slot; merged when the walk is over. */
static int add_slot(void *user, const struct vd_cache_key *key, uint64_t first_block,
                    const uint64_t *valid, uint32_t nblocks)
{
    struct cli_usage *u = user;
    if (u->n == u->room) {
        size_t room = u->room ? 2 * u->room : 1024;
        struct entry *more = realloc(u->entries, room * sizeof(*more));
        if (!more)
            return -ENOMEM;
        u->entries = more;
        u->room = room;
    }
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < nblocks; i++)
        blocks += valid[i / 64] >> (i % 64) & 1;
    u->entries[u->n++] = (struct entry){.key = *key, .bytes = blocks * VD_BLOCK_SIZE};
    return 0;
}

static void merge(struct cli_usage *u)
{
    if (u->n == 0)
        return;
    qsort(u->entries, u->n, sizeof(*u->entries), compare);
    size_t to = 0;
    for (size_t i = 1; i < u->n; i++) {
        if (compare(&u->entries[to].key, &u->entries[i].key) == 0)
            u->entries[to].bytes += u->entries[i].bytes;
        else
            u->entries[++to] = u->entries[i];
    }
    u->n = to + 1;
}

static struct cli_usage *usage_of(struct cli_place *p)
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
        merge(p->used);
    }
    return p->used;
}

/* The key under which D's blocks would be served from the cache at its next open. */
static bool warm_key(const struct cli_place *p, const struct cli_disk *d,
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
    vd_identity_of(&d->st, &now);
    *ret_key = (struct vd_cache_key){d->record.live_disk_id, w.generation};
    return vd_id_eq(&w.token, &d->live.token) && !w.written && vd_identity_eq(&now, &noted);
}

uint64_t cli_cached_bytes(struct cli_place *p, const struct cli_disk *d)
{
    struct vd_cache_key key;
    if (d->online)
        return (uint64_t)json_integer_value(json_object_get(d->online, "cached_bytes"));
    if (!warm_key(p, d, &key))
        return 0;
    const struct cli_usage *u = usage_of(p);
    const struct entry *e =
        u->n ? bsearch(&key, u->entries, u->n, sizeof(*u->entries), compare) : NULL;
    return e ? e->bytes : 0;
}

/* ---- block by block ---- */

struct bits {
    struct vd_cache_key key;
    uint64_t nblocks;
    uint64_t *words;
};

static void set_bits(struct bits *b, uint64_t first, uint64_t n)
{
    for (uint64_t i = first; i < b->nblocks && i - first < n; i++)
        b->words[i / 64] |= 1ull << (i % 64);
}

static int add_blocks(void *user, const struct vd_cache_key *key, uint64_t first_block,
                      const uint64_t *valid, uint32_t nblocks)
{
    struct bits *b = user;
    if (compare(key, &b->key) != 0)
        return 0;
    for (uint32_t i = 0; i < nblocks; i++)
        if (valid[i / 64] >> (i % 64) & 1)
            set_bits(b, first_block + i, 1);
    return 0;
}

static int ask_bits(const struct cli_place *p, const struct cli_disk *d, struct bits *b)
{
    for (uint64_t first = 0; first < b->nblocks;) {
        json_t *ok = NULL, *run;
        size_t i;
        char why[VD_META_WHY];
        json_t *args = json_pack("{s:I, s:I, s:I, s:I}", "dev", (json_int_t)d->st.st_dev, "ino",
                                 (json_int_t)d->st.st_ino, "first_block", (json_int_t)first,
                                 "nblocks", (json_int_t)(b->nblocks - first));
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

int cli_cached_bits(struct cli_place *p, const struct cli_disk *d, uint64_t nblocks,
                    uint64_t **ret_bits)
{
    vd_cleanup_free uint64_t *words = calloc(nblocks / 64 + 1, sizeof(*words));
    if (!words)
        return -ENOMEM;
    struct bits b = {.nblocks = nblocks, .words = words};
    int r = 0;
    if (d->online)
        r = ask_bits(p, d, &b);
    else if (warm_key(p, d, &b.key))
        r = vd_cache_scan(p->cache_dir, add_blocks, &b);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret_bits = vd_steal_ptr(words);
    return 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * A hit: the slots by their hints, or by one index snapshot for all that have none; then for each
 * slot its record, one copy a run of valid blocks straight into the caller's buffer, and the
 * checksums there. Nothing is allocated, no lock is taken, and the snapshot has ended before the
 * first byte is copied.
 *
 * What may happen meanwhile: the slot's key changes (its version moves: all of it is a miss), a
 * block is dropped (the read began before that write ended, so the bytes are as good as the
 * checksum says), or dropped and written anew (a torn copy fails its checksum; `writes` or the word
 * has moved, so that is a miss too). A checksum that fails with nothing moved is damage.
 */
#include <string.h>

#include "engine.h"
#include "vd_file.h"
#include "vd_log.h"

#define MAPPED_COPY_MAX (2 * VD_BLOCK_SIZE)

struct hit {
    struct vd__layer *layer;
    struct vd_cache_read *read;
    struct vd__segment seg;
    uint32_t slot;
    struct vd__slot *record;
    uint32_t version, writes;
    uint32_t word[VD__SLOT_MAX_BLOCKS]; /* of the segment's blocks, as they were at the beginning */
    uint64_t good[VD__SLOT_MAX_BLOCKS / 64];
    bool bad; /* some block's checksum failed */
};

struct vd__segment vd__segment(const struct vd__engine *e, uint64_t first, uint32_t n, uint32_t at)
{
    uint64_t block = first + at;
    struct vd__segment s = {.slotno = block / e->slots.slot_blocks,
                            .block = (uint32_t)(block % e->slots.slot_blocks),
                            .at = at};
    s.n = vd_min(n - at, e->slots.slot_blocks - s.block);
    return s;
}

/* A block that is in the slot but cannot be had: it will be read from the backing and admitted
 * again. */
static void drop_bad(struct hit *h, uint32_t i, uint32_t was)
{
    uint32_t word = htole32(was);
    if (vd__slot_version(h->record) != h->version || vd__slot_writes(h->record) != h->writes ||
        !atomic_compare_exchange_strong(&h->record->word[h->seg.block + i], &word, 0))
        return;
    struct vd__engine *e = h->layer->engine;
    vd__count(e, CHECKSUM_ERRORS, 1);
    uint64_t total = vd_counter_sum(&e->counters, NCOUNTERS, CHECKSUM_ERRORS);
    if (!vd_is_pow2(total))
        return; /* a device that goes bad would fill the log */
    char id[VD_ID_HEX];
    vd_id_hex(&h->layer->key.disk_id, id);
    vd_log_warning("cache: %s/data: bad checksum: disk %s generation %llu block %llu in slot %u: "
                   "dropped (%llu so far)",
                   e->dir, id, (unsigned long long)h->layer->key.generation,
                   (unsigned long long)(h->read->first_block + h->seg.at + i), h->slot,
                   (unsigned long long)total);
}

/* A few blocks are copied from the mapping, which saves the system call; more are read, since of a
 * mapping that is not in memory each page would be a fault of its own. A mapping that has failed
 * once (the file was cut short, or its device fails) is not used again; reading says what is left. */
static ssize_t copy_bytes(const struct vd__engine *e, uint8_t *buf, size_t len, off_t off)
{
    if (len <= MAPPED_COPY_MAX && (size_t)off + len <= e->data_map_bytes &&
        !vd_sigbus_dead(e->data_bus)) {
        memcpy(buf, e->data_map + off, len);
        if (!vd_sigbus_dead(e->data_bus))
            return (ssize_t)len;
    }
    return vd_pread_full(e->data_fd, buf, len, off);
}

/* Copies N valid blocks from the segment's block FROM on, and checks them. */
static void copy_run(struct hit *h, uint32_t from, uint32_t n)
{
    struct vd__engine *e = h->layer->engine;
    uint8_t *buf = h->read->buf + (size_t)(h->seg.at + from) * VD_BLOCK_SIZE;
    ssize_t got = copy_bytes(e, buf, (size_t)n * VD_BLOCK_SIZE,
                             vd__data_off(e, h->slot, h->seg.block + from));
    if (got < 0) {
        vd__count(e, ERRORS, 1);
        got = 0;
    }
    uint64_t block = h->read->first_block + h->seg.at + from;
    for (uint32_t i = 0; i < n; i++) {
        if ((size_t)got >= (size_t)(i + 1) * VD_BLOCK_SIZE &&
            vd__block_word(h->layer->seed, block + i, buf + (size_t)i * VD_BLOCK_SIZE) ==
                h->word[from + i])
            vd__set_bit(h->good, from + i);
        else
            h->bad = true;
    }
}

static void read_segment(struct hit *h)
{
    struct vd__slots *s = &h->layer->engine->slots;
    h->record = vd__slot(s, h->slot);
    h->version = vd__slot_version(h->record);
    if (h->version & 1 || !vd__slot_is(h->record, &h->layer->key, h->seg.slotno))
        return;
    h->writes = vd__slot_writes(h->record);
    h->bad = false;
    memset(h->good, 0, (h->seg.n + 63) / 64 * 8);
    for (uint32_t i = 0; i < h->seg.n; i++)
        h->word[i] = vd__slot_word(h->record, h->seg.block + i);
    for (uint32_t i = 0, end; i < h->seg.n; i = end) {
        for (end = i; end < h->seg.n && h->word[end]; end++)
            ;
        if (end > i)
            copy_run(h, i, end - i);
        else
            end++;
    }
    if (vd__slot_version(h->record) != h->version)
        return;
    uint32_t nhit = 0;
    for (uint32_t i = 0; i < h->seg.n; i++) {
        if (vd__bit(h->good, i)) {
            vd__set_bit(h->read->hit, h->seg.at + i);
            nhit++;
        } else if (h->bad && h->word[i]) {
            drop_bad(h, i, h->word[i]);
        }
    }
    if (nhit)
        h->layer->engine->policy->ops->hit(h->layer->engine->policy, h->slot);
    h->read->nhit += nhit;
}

/* The slot of each segment of R, VD_CACHE_NO_SLOT where there is none; how many segments. */
static uint32_t find_slots(struct vd__layer *l, const struct vd_cache_read *r, uint32_t *ret_slot)
{
    struct vd__engine *e = l->engine;
    struct vd__reader *reader = NULL;
    uint32_t nsegs = 0;
    for (uint32_t at = 0; at < r->nblocks; nsegs++) {
        struct vd__segment seg = vd__segment(e, r->first_block, r->nblocks, at);
        uint32_t slot;
        int err;
        at += seg.n;
        ret_slot[nsegs] = VD_CACHE_NO_SLOT;
        if (vd__hint_get(&e->hint, &e->slots, &l->key, seg.slotno, &slot)) {
            ret_slot[nsegs] = slot;
            continue;
        }
        if (!reader)
            reader = vd__index_read_begin(&e->index, false, &err);
        if (reader && vd__index_get(reader, &l->key, seg.slotno, &slot) == 0 &&
            slot < e->slots.nslots) {
            ret_slot[nsegs] = slot;
            vd__hint_set(&e->hint, &l->key, seg.slotno, slot);
        }
    }
    if (reader)
        vd__index_read_end(reader);
    return nsegs;
}

int vd__read(struct vd_cache_layer *layer, struct vd_cache_read *r)
{
    struct vd__layer *l = vd__layer(layer);
    r->nhit = 0;
    memset(r->hit, 0, (r->nblocks + 63) / 64 * 8);
    if (!vd__usable(l->engine))
        return 0;
    uint32_t slot[VD_IO_MAX_BLOCKS];
    uint32_t nsegs = find_slots(l, r, slot);
    struct hit h;
    h.layer = l;
    h.read = r;
    for (uint32_t i = 0, at = 0; i < nsegs; i++, at += h.seg.n) {
        h.seg = vd__segment(l->engine, r->first_block, r->nblocks, at);
        h.slot = slot[i];
        if (h.slot != VD_CACHE_NO_SLOT)
            read_segment(&h);
    }
    return 0;
}

/* map and layer_bytes: walks of the index, unverified. */
struct walk {
    struct vd__layer *layer;
    uint64_t first_block, last_block;
    uint64_t *bits; /* may be NULL */
    uint64_t nvalid;
};

static int walk_slot(void *user, uint64_t slotno, uint32_t slot)
{
    struct walk *w = user;
    struct vd__slots *s = &w->layer->engine->slots;
    if (slot >= s->nslots)
        return 0;
    struct vd__slot *r = vd__slot(s, slot);
    uint64_t base = slotno * s->slot_blocks;
    if (vd__slot_version(r) & 1 || !vd__slot_is(r, &w->layer->key, slotno))
        return 0;
    for (uint32_t i = 0; i < s->slot_blocks; i++) {
        if (base + i < w->first_block || base + i > w->last_block || !vd__slot_word(r, i))
            continue;
        w->nvalid++;
        if (w->bits)
            vd__set_bit(w->bits, (uint32_t)(base + i - w->first_block));
    }
    return 0;
}

static void walk(struct walk *w)
{
    struct vd__engine *e = w->layer->engine;
    int err;
    if (!vd__usable(e))
        return;
    struct vd__reader *reader = vd__index_read_begin(&e->index, true, &err);
    if (!reader)
        return;
    vd__index_each(reader, &w->layer->key, w->first_block / e->slots.slot_blocks,
                   w->last_block / e->slots.slot_blocks, walk_slot, w);
    vd__index_read_end(reader);
}

void vd__map(struct vd_cache_layer *l, uint64_t first_block, uint32_t nblocks, uint64_t *ret_bits)
{
    memset(ret_bits, 0, ((size_t)nblocks + 63) / 64 * 8);
    struct walk w = {vd__layer(l), first_block, first_block + nblocks - 1, ret_bits, 0};
    if (nblocks)
        walk(&w);
}

uint64_t vd__layer_bytes(struct vd_cache_layer *l)
{
    struct walk w = {vd__layer(l), 0, UINT64_MAX, NULL, 0};
    walk(&w);
    return w.nvalid * VD_BLOCK_SIZE;
}

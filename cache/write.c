// SPDX-License-Identifier: Apache-2.0
/*
 * Writes: in their layer's list from before the backing changes until after. Beginning poisons the
 * fills they overlap, then clears the blocks; the order matters (engine.h). Two writes that overlap
 * in time and place are both not alone for good, since neither knows whose bytes the backing ends
 * up with.
 */
#include <string.h>

#include "engine.h"

#define GETS_MAX 32u /* slots that are looked up one by one; more are walked by a cursor */

struct clear {
    struct vd__engine *engine;
    uint64_t first, last; /* blocks */
    uint64_t cleared;
};

static int clear_slot(void *user, uint64_t slotno, uint32_t slot)
{
    struct clear *c = user;
    struct vd__slots *s = &c->engine->slots;
    if (slot >= s->nslots)
        return -EUCLEAN;
    uint64_t base = slotno * s->slot_blocks;
    uint32_t from = c->first > base ? (uint32_t)(c->first - base) : 0;
    uint32_t to = c->last - base < s->slot_blocks ? (uint32_t)(c->last - base) + 1 : s->slot_blocks;
    c->cleared += vd__slot_clear(vd__slot(s, slot), from, to - from);
    return 0;
}

/* Slot by slot; the index is asked only where there is no hint. */
static int clear_each(struct clear *c, const struct vd_cache_key *key, uint64_t slotno,
                      uint64_t last)
{
    struct vd__engine *e = c->engine;
    struct vd__reader *reader = NULL;
    int r = 0;
    for (; slotno <= last && r == 0; slotno++) {
        uint32_t slot;
        if (!vd__hint_get(&e->hint, &e->slots, key, slotno, &slot)) {
            if (!reader)
                reader = vd__index_read_begin(&e->index, true, &r);
            if (reader)
                r = vd__index_get(reader, key, slotno, &slot);
            if (r == -ENOENT) {
                r = 0;
                continue;
            }
        }
        if (r == 0)
            r = clear_slot(c, slotno, slot);
    }
    if (reader)
        vd__index_read_end(reader);
    return r;
}

static int clear_walk(struct clear *c, const struct vd_cache_key *key, uint64_t first,
                      uint64_t last)
{
    int r;
    struct vd__reader *reader = vd__index_read_begin(&c->engine->index, true, &r);
    if (!reader)
        return r;
    r = vd__index_each(reader, key, first, last, clear_slot, c);
    vd__index_read_end(reader);
    return r;
}

void vd__clear_range(struct vd__engine *e, const struct vd_cache_key *key, uint64_t first,
                     uint64_t n)
{
    if (!n)
        return;
    struct clear c = {.engine = e, .first = first, .last = first + (n - 1)};
    uint64_t slotno = c.first / e->slots.slot_blocks, last = c.last / e->slots.slot_blocks;
    int r = last - slotno < GETS_MAX ? clear_each(&c, key, slotno, last)
                                     : clear_walk(&c, key, slotno, last);
    if (c.cleared)
        vd__count(e, INVALIDATIONS, c.cleared);
    if (r < 0)
        vd__die(e, "index.mdb: %s", strerror(-r));
}

void vd__drop_range(struct vd__engine *e, const struct vd_cache_key *key, uint64_t first,
                    uint64_t n)
{
    if (vd__dead(e))
        return;
    struct vd__pending_range range = {*key, first, n};
    if (!atomic_load_explicit(&e->ready, memory_order_acquire) && vd__pending_add(e, &range))
        return;
    vd__clear_range(e, key, first, n);
}

void vd__write_begin(struct vd_cache_layer *layer, struct vd_cache_write *w)
{
    struct vd__layer *l = vd__layer(layer);
    struct vd_list *it;
    w->alone = true;
    pthread_mutex_lock(&l->mu);
    vd_list_for_each (it, &l->writes) {
        struct vd_cache_write *other = vd_list_entry(it, struct vd_cache_write, link);
        if (vd__overlap(other->first_block, other->nblocks, w->first_block, w->nblocks))
            w->alone = other->alone = false;
    }
    vd_list_for_each (it, &l->fills) {
        struct vd_cache_fill *f = vd_list_entry(it, struct vd_cache_fill, link);
        if (vd__overlap(f->first_block, f->nblocks, w->first_block, w->nblocks))
            f->poisoned = true;
    }
    vd_list_add_tail(&l->writes, &w->link);
    pthread_mutex_unlock(&l->mu);
    vd__drop_range(l->engine, &l->key, w->first_block, w->nblocks);
}

void vd__write_end(struct vd_cache_layer *layer, struct vd_cache_write *w, const void *buf,
                   uint64_t first_block, uint32_t nblocks)
{
    struct vd__layer *l = vd__layer(layer);
    if (buf && nblocks) {
        struct vd__admission a = {.layer = l,
                                  .buf = buf,
                                  .first_block = first_block,
                                  .nblocks = nblocks,
                                  .gate = &w->alone,
                                  .open = true};
        vd__admit(&a);
    }
    pthread_mutex_lock(&l->mu);
    vd_list_del(&w->link);
    pthread_mutex_unlock(&l->mu);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Which slot holds which key. A slot found by the index is taken by its stripe and then asked for
 * its key; where there is none, one is allocated under alloc_mu.
 *
 * Changing a slot's key: version odd, words cleared, index changed in one transaction, new key,
 * version even. Cut by a SIGKILL anywhere inside, the odd version makes the rebuild drop the slot.
 * If the index refuses, the slot keeps its old key, empty: index and table agree again.
 */
#include <fcntl.h>
#include <string.h>

#include "engine.h"

#define PREPARE_BYTES (64ull << 20)

int vd__lookup(struct vd__engine *e, const struct vd_cache_key *key, uint64_t slotno,
               uint32_t *ret_slot)
{
    int r;
    struct vd__reader *reader = vd__index_read_begin(&e->index, true, &r);
    if (!reader)
        return r;
    r = vd__index_get(reader, key, slotno, ret_slot);
    vd__index_read_end(reader);
    return r == 0 && *ret_slot >= e->slots.nslots ? -EUCLEAN : r;
}

static bool try_stripe(void *user, uint32_t slot)
{
    return pthread_mutex_trylock(vd__stripe(user, slot)) == 0;
}

/* lock: alloc_mu and the slot's stripe */
static int rekey(struct vd__engine *e, uint32_t slot, const struct vd_cache_key *key,
                 uint64_t slotno)
{
    struct vd__slot *r = vd__slot(&e->slots, slot);
    struct vd__index_entry old = {.slot = slot}, new = {*key, slotno, slot};
    vd__slot_key(r, &old.key, &old.slotno);
    bool victim = !vd_id_is_zero(&old.key.disk_id);
    uint32_t version = vd__slot_version(r) | 1;
    vd__slot_set_version(r, version);
    vd__slot_clear(r, 0, e->slots.slot_blocks);
    int err = vd__index_replace(&e->index, victim ? &old : NULL, &new);
    if (err == 0)
        vd__slot_set_key(r, key, slotno);
    vd__slot_set_version(r, version + 1);
    if (err == 0 || victim)
        e->policy->ops->put(e->policy, slot,
                            err == 0 ? vd__key_hash(key, slotno)
                                     : vd__key_hash(&old.key, old.slotno));
    else
        e->policy->ops->give_back(e->policy, slot);
    if (err == 0 && victim)
        vd__count(e, EVICTIONS, 1);
    return err;
}

/* lock: alloc_mu. Slots are first used in order, so `data` is allocated a piece ahead: one extent instead of
 * one a block, and writes of a block then need none. Where that cannot be, it stays sparse. */
static void prepare(struct vd__engine *e, uint32_t slot)
{
    uint64_t end = (uint64_t)e->slots.nslots * e->slots.slot_bytes;
    uint64_t from = (uint64_t)slot * e->slots.slot_bytes;
    if (from < e->prepared_bytes)
        return;
    uint64_t to = vd_min(end, vd_align_down(from, PREPARE_BYTES) + PREPARE_BYTES);
    e->prepared_bytes = to;
    if (fallocate(e->data_fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)(to - from)) < 0)
        e->prepared_bytes = UINT64_MAX;
}

/* lock: alloc_mu. On success the slot's stripe is held. */
static int allocate(struct vd__engine *e, const struct vd_cache_key *key, uint64_t slotno,
                    uint32_t *ret_slot)
{
    uint32_t slot = e->policy->ops->take(e->policy, try_stripe, e);
    if (slot == VD_CACHE_NO_SLOT)
        return -EBUSY;
    int r = rekey(e, slot, key, slotno);
    if (r == 0)
        prepare(e, slot);
    if (r < 0) {
        pthread_mutex_unlock(vd__stripe(e, slot));
        return r;
    }
    vd__hint_set(&e->hint, key, slotno, slot);
    *ret_slot = slot;
    return 0;
}

static int take_once(struct vd__layer *l, uint64_t slotno, uint32_t *ret_slot)
{
    struct vd__engine *e = l->engine;
    uint32_t slot;
    bool hinted = vd__hint_get(&e->hint, &e->slots, &l->key, slotno, &slot);
    int r = hinted ? 0 : vd__lookup(e, &l->key, slotno, &slot);
    if (r == 0) {
        pthread_mutex_lock(vd__stripe(e, slot));
        if (vd__slot_is(vd__slot(&e->slots, slot), &l->key, slotno)) {
            *ret_slot = slot;
            return 0;
        }
        pthread_mutex_unlock(vd__stripe(e, slot));
    } else if (r != -ENOENT) {
        return r;
    }
    pthread_mutex_lock(&e->alloc_mu);
    r = vd__lookup(e, &l->key, slotno, &slot);
    if (r == 0 && vd__slot_is(vd__slot(&e->slots, slot), &l->key, slotno))
        r = -EAGAIN; /* allocated since: by the stripe again */
    else if (r == 0 || r == -ENOENT)
        r = allocate(e, &l->key, slotno, ret_slot);
    pthread_mutex_unlock(&e->alloc_mu);
    return r;
}

int vd__slot_take(struct vd__layer *l, uint64_t slotno, uint32_t *ret_slot)
{
    int r = -EAGAIN;
    for (unsigned tries = 0; r == -EAGAIN && tries < 8; tries++)
        r = take_once(l, slotno, ret_slot);
    if (r < 0 && r != -EAGAIN && r != -EBUSY) {
        vd__count(l->engine, ERRORS, 1);
        if (!vd__no_room(r))
            vd__die(l->engine, "index.mdb: %s", strerror(-r));
    }
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/* Giving slots back: those of one key, or all. The table is wiped before the index loses an entry,
 * so that a cut in between leaves entries that lead nowhere, never a valid block that no write
 * would find. */
#include <string.h>

#include "engine.h"

#define CHUNK 256u

struct chunk {
    const struct vd_cache_key *key;
    struct vd__index_entry entry[CHUNK];
    size_t n;
};

static int collect(void *user, uint64_t slotno, uint32_t slot)
{
    struct chunk *c = user;
    c->entry[c->n++] = (struct vd__index_entry){*c->key, slotno, slot};
    return c->n == CHUNK;
}

/* lock: alloc_mu */
static void wipe(struct vd__engine *e, uint32_t slot)
{
    pthread_mutex_lock(vd__stripe(e, slot));
    uint32_t cleared = vd__slot_wipe(&e->slots, vd__slot(&e->slots, slot));
    pthread_mutex_unlock(vd__stripe(e, slot));
    if (cleared)
        vd__count(e, INVALIDATIONS, cleared);
    e->policy->ops->give_back(e->policy, slot);
}

/* lock: alloc_mu. How many entries KEY had, at most CHUNK; or -errno. */
static int forget_chunk(struct vd__engine *e, const struct vd_cache_key *key)
{
    struct chunk c = {.key = key};
    int r;
    struct vd__reader *reader = vd__index_read_begin(&e->index, true, &r);
    if (!reader)
        return r;
    r = vd__index_each(reader, key, 0, UINT64_MAX, collect, &c);
    vd__index_read_end(reader);
    if (r < 0)
        return r;
    for (size_t i = 0; i < c.n; i++) {
        const struct vd__index_entry *entry = &c.entry[i];
        if (entry->slot < e->slots.nslots &&
            vd__slot_is(vd__slot(&e->slots, entry->slot), key, entry->slotno))
            wipe(e, entry->slot);
    }
    r = c.n ? vd__index_remove(&e->index, c.entry, c.n) : 0;
    return r < 0 ? r : (int)c.n;
}

static int failed(struct vd__engine *e, int err)
{
    vd__count(e, ERRORS, 1);
    if (!vd__no_room(err))
        vd__die(e, "index.mdb: %s", strerror(-err));
    return err;
}

int vd__forget(struct vd_cache *c, const struct vd_cache_key *key)
{
    struct vd__engine *e = vd__engine(c);
    vd__poison(e, key);
    if (vd__dead(e))
        return -EIO;
    struct vd__pending_range range = {*key, 0, UINT64_MAX};
    if (!atomic_load(&e->ready) && vd__pending_add(e, &range))
        return 0;
    int r = CHUNK;
    while (r == CHUNK) {
        pthread_mutex_lock(&e->alloc_mu);
        r = forget_chunk(e, key);
        pthread_mutex_unlock(&e->alloc_mu);
    }
    return r < 0 ? failed(e, r) : 0;
}

int vd__flush(struct vd_cache *c)
{
    struct vd__engine *e = vd__engine(c);
    vd__poison(e, NULL);
    if (vd__dead(e))
        return -EIO;
    struct vd__pending_range all = {.nblocks = UINT64_MAX};
    if (!atomic_load(&e->ready) && vd__pending_add(e, &all))
        return 0;
    pthread_mutex_lock(&e->alloc_mu);
    for (uint32_t i = 0; i < e->slots.nslots; i++) {
        struct vd_cache_key key;
        uint64_t slotno;
        vd__slot_key(vd__slot(&e->slots, i), &key, &slotno);
        if (!vd_id_is_zero(&key.disk_id))
            wipe(e, i);
    }
    int r = vd__index_empty(&e->index);
    pthread_mutex_unlock(&e->alloc_mu);
    return r < 0 ? failed(e, r) : vd__dead(e) ? -EIO : 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "hint.h"

void vd__hint_init(struct vd__hint *h, uint32_t nslots)
{
    uint32_t n = 1;
    while (n < nslots && n < (1u << 31))
        n <<= 1;
    h->slot = calloc(n, sizeof(*h->slot));
    h->mask = h->slot ? n - 1 : 0;
}

void vd__hint_free(struct vd__hint *h)
{
    free(h->slot);
    *h = (struct vd__hint){0};
}

static _Atomic uint32_t *entry(const struct vd__hint *h, const struct vd_cache_key *key,
                               uint64_t slotno)
{
    return &h->slot[vd__key_hash(key, slotno) & h->mask];
}

bool vd__hint_get(const struct vd__hint *h, const struct vd__slots *s,
                  const struct vd_cache_key *key, uint64_t slotno, uint32_t *ret_slot)
{
    if (!h->slot)
        return false;
    uint32_t slot = atomic_load_explicit(entry(h, key, slotno), memory_order_relaxed);
    if (slot >= s->nslots || !vd__slot_is(vd__slot(s, slot), key, slotno))
        return false;
    *ret_slot = slot;
    return true;
}

void vd__hint_set(const struct vd__hint *h, const struct vd_cache_key *key, uint64_t slotno,
                  uint32_t slot)
{
    if (h->slot)
        atomic_store_explicit(entry(h, key, slotno), slot, memory_order_relaxed);
}

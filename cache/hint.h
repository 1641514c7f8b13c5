// SPDX-License-Identifier: Apache-2.0
/*
 * Hints: where a key's slot was last seen, a table of slot numbers by the key's hash, four bytes each.
 *
 * A hint is never believed: the slot's own record must bear the key. It may then be used in place of an
 * index lookup, for no key is in two slots: a slot takes a key under alloc_mu, after the one that had it
 * was wiped (alloc.c), and the rebuild leaves one of each. So "the record says so" is as much as the index
 * could say; "no hint" or a wrong one says nothing, and the index is asked.
 */
#ifndef VD__CACHE_HINT_H
#define VD__CACHE_HINT_H

#include <stdatomic.h>

#include "slots.h"

struct vd__hint {
    _Atomic uint32_t *slot; /* atomic: each entry by itself; NULL: no memory, no hints */
    uint32_t mask;
};

/* As many entries as NSLOTS, rounded up to a power of two. Never fails. */
void vd__hint_init(struct vd__hint *h, uint32_t nslots);
void vd__hint_free(struct vd__hint *h);

/* Any thread, no lock. */
bool vd__hint_get(const struct vd__hint *h, const struct vd__slots *s,
                  const struct vd_cache_key *key, uint64_t slotno, uint32_t *ret_slot);
void vd__hint_set(const struct vd__hint *h, const struct vd_cache_key *key, uint64_t slotno,
                  uint32_t slot);

#endif

// SPDX-License-Identifier: Apache-2.0
/*
 * Tables of objects under numbers, for node ids and file handles: what the kernel holds is an index
 * and a generation, never a pointer, so that a stale number is noticed and a table could be
 * rebuilt.
 *
 * Slots live in chunks that never move and are never freed before the table, so a lookup takes no
 * lock. That the object stays is the caller's matter: the kernel does not use a number after it
 * gave it back.
 */
#ifndef VD_FS_TABLE_H
#define VD_FS_TABLE_H

#include <pthread.h>
#include <stdatomic.h>

#include "vd_base.h"

#define VD_TABLE_CHUNK_SHIFT 10
#define VD_TABLE_CHUNK_SLOTS (1u << VD_TABLE_CHUNK_SHIFT)
#define VD_TABLE_CHUNKS 16384u /* 16 million slots */

struct vd_table_slot {
    _Atomic(void *) object;      /* NULL: free */
    _Atomic uint32_t generation; /* counts the objects that have been here */
    uint32_t next_free;          /* lock: mu */
};

struct vd_table {
    pthread_mutex_t mu;
    uint32_t nused; /* slots ever used; lock: mu. Slot 0 is never used, so that no number is 0 */
    uint32_t free_head; /* lock: mu */
    _Atomic(struct vd_table_slot *) chunks[VD_TABLE_CHUNKS];
};

void vd__table_init(struct vd_table *t);
void vd__table_clear(struct vd_table *t);

/* The first number is 1. 0, -ENOMEM, -ENFILE. */
int vd__table_add(struct vd_table *t, void *object, uint64_t *ret_id) VD_WARN_UNUSED;
void vd__table_del(struct vd_table *t, uint64_t id);

/* Calls FN for each object; no other call may be under way but FN's own vd__table_del. */
void vd__table_each(struct vd_table *t, void (*fn)(void *user, void *object), void *user);

static inline struct vd_table_slot *vd__table_slot(const struct vd_table *t, uint32_t index)
{
    uint32_t chunk = index >> VD_TABLE_CHUNK_SHIFT;
    if (chunk >= VD_TABLE_CHUNKS)
        return NULL;
    struct vd_table_slot *slots = atomic_load_explicit(&t->chunks[chunk], memory_order_acquire);
    return slots ? &slots[index & (VD_TABLE_CHUNK_SLOTS - 1)] : NULL;
}

/* The object, or NULL for a number that is not (or no longer) given out. Any thread, no lock. */
static inline void *vd__table_get(const struct vd_table *t, uint64_t id)
{
    struct vd_table_slot *s = vd__table_slot(t, (uint32_t)id);
    if (!s || atomic_load_explicit(&s->generation, memory_order_acquire) != (uint32_t)(id >> 32))
        return NULL;
    return atomic_load_explicit(&s->object, memory_order_acquire);
}

#endif

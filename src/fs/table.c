// SPDX-License-Identifier: Apache-2.0
/* Numbers for objects; see table.h. A number is generation << 32 | index. */
#include "table.h"

void vd__table_init(struct vd_table *t)
{
    pthread_mutex_init(&t->mu, NULL);
    t->nused = 1;
    t->free_head = 0;
    for (unsigned i = 0; i < VD_TABLE_CHUNKS; i++)
        atomic_init(&t->chunks[i], NULL);
}

void vd__table_clear(struct vd_table *t)
{
    for (unsigned i = 0; i < VD_TABLE_CHUNKS; i++)
        free(atomic_load(&t->chunks[i]));
    pthread_mutex_destroy(&t->mu);
}

/* A slot that is free; lock: mu. */
static int take_slot(struct vd_table *t, uint32_t *ret_index)
{
    if (t->free_head) {
        *ret_index = t->free_head;
        t->free_head = vd__table_slot(t, t->free_head)->next_free;
        return 0;
    }
    uint32_t chunk = t->nused >> VD_TABLE_CHUNK_SHIFT;
    if (chunk >= VD_TABLE_CHUNKS)
        return -ENFILE;
    if (!atomic_load(&t->chunks[chunk])) {
        struct vd_table_slot *slots = calloc(VD_TABLE_CHUNK_SLOTS, sizeof(*slots));
        if (!slots)
            return -ENOMEM;
        atomic_store_explicit(&t->chunks[chunk], slots, memory_order_release);
    }
    *ret_index = t->nused++;
    return 0;
}

int vd__table_add(struct vd_table *t, void *object, uint64_t *ret_id)
{
    uint32_t index;

    pthread_mutex_lock(&t->mu);
    int r = take_slot(t, &index);
    if (r == 0) {
        struct vd_table_slot *s = vd__table_slot(t, index);
        *ret_id = (uint64_t)atomic_load(&s->generation) << 32 | index;
        atomic_store_explicit(&s->object, object, memory_order_release);
    }
    pthread_mutex_unlock(&t->mu);
    return r;
}

void vd__table_del(struct vd_table *t, uint64_t id)
{
    uint32_t index = (uint32_t)id;

    pthread_mutex_lock(&t->mu);
    struct vd_table_slot *s = vd__table_slot(t, index);
    atomic_store_explicit(&s->object, NULL, memory_order_release);
    atomic_fetch_add_explicit(&s->generation, 1, memory_order_release);
    s->next_free = t->free_head;
    t->free_head = index;
    pthread_mutex_unlock(&t->mu);
}

void vd__table_each(struct vd_table *t, void (*fn)(void *user, void *object), void *user)
{
    for (uint32_t i = 1; i < t->nused; i++) {
        void *object = atomic_load(&vd__table_slot(t, i)->object);
        if (object)
            fn(user, object);
    }
}

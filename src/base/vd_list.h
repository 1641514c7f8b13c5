// SPDX-License-Identifier: Apache-2.0
/* Intrusive circular doubly linked list, after the kernel's list.h. The lists' owners lock. */
#ifndef VD_LIST_H
#define VD_LIST_H

#include <stdbool.h>

#include "vd_base.h"

struct vd_list {
    struct vd_list *next, *prev;
};

#define VD_LIST_INIT(name)                                                                         \
    {                                                                                              \
        &(name), &(name)                                                                           \
    }

static inline void vd_list_init(struct vd_list *l)
{
    l->next = l->prev = l;
}
static inline bool vd_list_empty(const struct vd_list *l)
{
    return l->next == l;
}
/* Adds N before L: at the tail, where L is the head. */
static inline void vd_list_add_tail(struct vd_list *l, struct vd_list *n)
{
    n->prev = l->prev;
    n->next = l;
    l->prev->next = n;
    l->prev = n;
}
static inline void vd_list_add_head(struct vd_list *l, struct vd_list *n)
{
    vd_list_add_tail(l->next, n);
}
/* Takes N out; N is then an empty list of its own, so taking it out twice is harmless. */
static inline void vd_list_del(struct vd_list *n)
{
    n->prev->next = n->next;
    n->next->prev = n->prev;
    vd_list_init(n);
}

#define vd_list_entry(ptr, type, member) vd_container_of(ptr, type, member)
#define vd_list_for_each(it, head) for ((it) = (head)->next; (it) != (head); (it) = (it)->next)
#define vd_list_for_each_safe(it, tmp, head)                                                       \
    for ((it) = (head)->next, (tmp) = (it)->next; (it) != (head); (it) = (tmp), (tmp) = (it)->next)

#endif

// SPDX-License-Identifier: Apache-2.0
/* Memory of a stack, between two guards. */
#ifndef VD__UPCALL_STACK_H
#define VD__UPCALL_STACK_H

#include "vd_base.h"

struct vd__stack {
    uint8_t *map; /* guard, stack, guard; NULL: none */
    uint8_t *low;
    size_t size_bytes;
    unsigned valgrind_id;
};

/* 0 or -errno. */
int vd__stack_make(struct vd__stack *s, size_t size_bytes) VD_WARN_UNUSED;
/* Harmless on a zeroed one. */
void vd__stack_free(struct vd__stack *s);
bool vd__stack_has(const struct vd__stack *s, uintptr_t addr);
/* Or its guards. */
bool vd__stack_near(const struct vd__stack *s, uintptr_t addr);

#endif

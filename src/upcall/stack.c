// SPDX-License-Identifier: Apache-2.0
#include "stack.h"

#include <sys/mman.h>

#include "sanitize.h"
#include "vd_upcall.h"

int vd__stack_make(struct vd__stack *s, size_t size_bytes)
{
    size_t total = size_bytes + 2 * (size_t)VD_UPCALL_GUARD;
    void *map = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return -errno;
    uint8_t *low = (uint8_t *)map + VD_UPCALL_GUARD;
    if (mprotect(low, size_bytes, PROT_READ | PROT_WRITE) < 0) {
        int r = -errno;
        munmap(map, total);
        return r;
    }
    *s = (struct vd__stack){.map = map, .low = low, .size_bytes = size_bytes};
    s->valgrind_id = vd__valgrind_stack(low, low + size_bytes);
    return 0;
}

void vd__stack_free(struct vd__stack *s)
{
    if (!s->map)
        return;
    vd__valgrind_no_stack(s->valgrind_id);
    vd__asan_clean(s->low, s->size_bytes);
    munmap(s->map, s->size_bytes + 2 * (size_t)VD_UPCALL_GUARD);
    *s = (struct vd__stack){0};
}

bool vd__stack_has(const struct vd__stack *s, uintptr_t addr)
{
    return s->map && addr - (uintptr_t)s->low < s->size_bytes;
}

bool vd__stack_near(const struct vd__stack *s, uintptr_t addr)
{
    return s->map && addr - (uintptr_t)s->map < s->size_bytes + 2 * (size_t)VD_UPCALL_GUARD;
}

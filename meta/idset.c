// SPDX-License-Identifier: Apache-2.0
#include "idset.h"

#include "vd_endian.h"

/* The slot of ID, or the empty one where it would be. At most half of the slots are taken. */
static size_t find(const struct vd__idset *s, const struct vd_id *id)
{
    size_t at = vd_get_le64(id->b) & (s->nslots - 1);
    while (!vd_id_is_zero(&s->slots[at]) && !vd_id_eq(&s->slots[at], id))
        at = (at + 1) & (s->nslots - 1);
    return at;
}

static int grow(struct vd__idset *s)
{
    struct vd__idset old = *s;
    size_t nslots = old.nslots ? 2 * old.nslots : 64;
    struct vd_id *slots = calloc(nslots, sizeof(*slots));
    if (!slots)
        return -ENOMEM;
    s->slots = slots;
    s->nslots = nslots;
    for (size_t i = 0; i < old.nslots; i++)
        if (!vd_id_is_zero(&old.slots[i]))
            slots[find(s, &old.slots[i])] = old.slots[i];
    free(old.slots);
    return 0;
}

int vd__idset_add(struct vd__idset *s, const struct vd_id *id)
{
    if (vd_id_is_zero(id))
        return 0;
    int r = 2 * s->n >= s->nslots ? grow(s) : 0;
    if (r < 0)
        return r;
    size_t at = find(s, id);
    if (vd_id_eq(&s->slots[at], id))
        return 0;
    s->slots[at] = *id;
    s->n++;
    return 1;
}

bool vd__idset_has(const struct vd__idset *s, const struct vd_id *id)
{
    return s->n > 0 && !vd_id_is_zero(id) && vd_id_eq(&s->slots[find(s, id)], id);
}

void vd__idset_free(struct vd__idset *s)
{
    free(s->slots);
    *s = (struct vd__idset){0};
}

// SPDX-License-Identifier: Apache-2.0
#include "vd_owner.h"

#include <string.h>

/* What one walk over the records finds out; a walk may not change what it walks over. */
struct gather {
    uint64_t epoch;
    const struct vd_id *self;
    struct vd_id *others;
    size_t nothers;
};

static int gather_one(void *user, const struct vd_owner_record *r)
{
    struct gather *g = user;
    g->epoch = vd_max(g->epoch, r->epoch);
    if (!g->self || vd_id_eq(&r->id, g->self))
        return 0;
    struct vd_id *bigger = reallocarray(g->others, g->nothers + 1, sizeof(*bigger));
    if (!bigger)
        return -ENOMEM;
    g->others = bigger;
    g->others[g->nothers++] = r->id;
    return 0;
}

int vd_owner_epoch(struct vd_meta *m, uint64_t *ret_epoch)
{
    struct gather g = {0};
    int r = vd_meta_each_owner(m, gather_one, &g);
    if (r < 0)
        return r;
    *ret_epoch = g.epoch;
    return 0;
}

int vd_owner_record_put(struct vd_meta *m, const struct vd_owner_self *self,
                        enum vd_owner_state state, uint64_t epoch)
{
    struct gather g = {.self = &self->id};
    int r = state == VD_OWNER_EXCLUSIVE ? vd_meta_each_owner(m, gather_one, &g) : 0;
    for (size_t i = 0; r == 0 && i < g.nothers; i++)
        r = vd_meta_del_owner(m, &g.others[i]);
    free(g.others);
    if (r < 0)
        return r;
    struct vd_owner_record rec = {
        .id = self->id,
        .state = state,
        .epoch = epoch,
        .boot_id = self->boot_id,
        .pid = (uint32_t)getpid(),
    };
    snprintf(rec.host, sizeof(rec.host), "%s", self->host);
    snprintf(rec.endpoint, sizeof(rec.endpoint), "%s", self->endpoint);
    return vd_meta_put_owner(m, &rec);
}

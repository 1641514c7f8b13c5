// SPDX-License-Identifier: Apache-2.0
/*
 * Records of disks with layers. Their databases are made with the first record, in the transaction
 * of that record; before, and in environments that know nothing of layers, they read as empty.
 */
#include <string.h>

#include "records.h"
#include "vd_view.h"

int vd_meta_get_view(struct vd_meta *m, struct vd_view_record *ret_r)
{
    struct vd__key k = vd__key_index(0);
    MDB_val v;
    char cause[VD__REC_WHY];
    int r = vd__records_get(m, VD__ENV_VIEW, &k, &v);
    if (r < 0)
        return r;
    r = vd__decode_view(v.mv_data, v.mv_size, ret_r, cause);
    return r < 0 ? vd__records_refuse(m, VD__ENV_VIEW, cause) : 0;
}

int vd_meta_put_view(struct vd_meta *m, const struct vd_view_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k = vd__key_index(0);
    return vd__records_put(m, VD__ENV_VIEW, &k, value, vd__encode_view(r, value));
}

int vd_meta_del_view(struct vd_meta *m)
{
    struct vd__key k = vd__key_index(0);
    return vd__records_del(m, VD__ENV_VIEW, &k);
}

int vd_meta_get_snapshot(struct vd_meta *m, const char *name, struct vd_snapshot_record *ret_r)
{
    struct vd__key k;
    MDB_val v;
    char cause[VD__REC_WHY];
    int r = vd__key_name(name, &k);
    if (r == 0)
        r = vd__records_get(m, VD__ENV_SNAPSHOT, &k, &v);
    if (r < 0)
        return r;
    r = vd__decode_snapshot(&k, v.mv_data, v.mv_size, ret_r, cause);
    return r < 0 ? vd__records_refuse(m, VD__ENV_SNAPSHOT, cause) : 0;
}

int vd_meta_put_snapshot(struct vd_meta *m, const struct vd_snapshot_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k;
    int e = vd__key_name(r->name, &k);
    return e < 0 ? e
                 : vd__records_put(m, VD__ENV_SNAPSHOT, &k, value, vd__encode_snapshot(r, value));
}

int vd_meta_del_snapshot(struct vd_meta *m, const char *name)
{
    struct vd__key k;
    int r = vd__key_name(name, &k);
    return r < 0 ? r : vd__records_del(m, VD__ENV_SNAPSHOT, &k);
}

/* ---- all snapshots ---- */

struct gather {
    struct vd_meta *m;
    struct vd_snapshot_record *list;
    size_t n, room;
    bool refused; /* a record, by us: the sentence is set; or no memory */
};

static int gather_one(void *user, const MDB_val *key, const MDB_val *value)
{
    struct gather *g = user;
    struct vd__key k = {.len = vd_min(key->mv_size, sizeof(k.b))};
    char cause[VD__REC_WHY];
    memcpy(k.b, key->mv_data, k.len);
    if (g->n == g->room) {
        size_t room = g->room ? 2 * g->room : 16;
        void *list = realloc(g->list, room * sizeof(*g->list));
        if (!list)
            return -ENOMEM;
        g->list = list;
        g->room = room;
    }
    if (vd__decode_snapshot(&k, value->mv_data, value->mv_size, &g->list[g->n], cause) < 0) {
        g->refused = true;
        return vd__records_refuse(g->m, VD__ENV_SNAPSHOT, cause);
    }
    g->n++;
    return 0;
}

static int by_age(const void *a, const void *b)
{
    const struct vd_snapshot_record *x = a, *y = b;
    if (x->created_s != y->created_s)
        return x->created_s < y->created_s ? -1 : 1;
    return strcmp(x->name, y->name);
}

int vd_meta_each_snapshot(struct vd_meta *m,
                          int (*fn)(void *user, const struct vd_snapshot_record *r), void *user)
{
    struct gather g = {.m = m};
    int r = vd__session_alive(m);
    if (r < 0 || m->env.dbi[VD__ENV_SNAPSHOT] == VD__ENV_NO_DBI)
        return r;
    r = vd__env_each(&m->env, m->env.dbi[VD__ENV_SNAPSHOT], gather_one, &g);
    if (!g.refused)
        r = vd__records_checked(m, r);
    if (r == 0 && g.n > 0)
        qsort(g.list, g.n, sizeof(*g.list), by_age);
    for (size_t i = 0; r == 0 && i < g.n; i++)
        r = fn(user, &g.list[i]);
    free(g.list);
    return r;
}

// SPDX-License-Identifier: Apache-2.0
/* Records in and out of a session: key, codec, database. */
#include <string.h>

#include "records.h"

int vd__records_checked(struct vd_meta *m, int r)
{
    return r == -EUCLEAN ? vd__session_refuse_broken(m) : r;
}

int vd__records_refuse(struct vd_meta *m, enum vd__env_db db, const char *cause)
{
    return vd__session_refuse(m, VD__META_NAME, "record of database %s: %s", vd__env_db_names[db],
                              cause);
}

int vd__records_get(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k, MDB_val *ret_v)
{
    int r = vd__session_alive(m);
    if (r < 0)
        return r;
    if (m->env.dbi[db] == VD__ENV_NO_DBI)
        return -ENOENT;
    return vd__records_checked(m, vd__env_get(&m->env, m->env.dbi[db], k->b, k->len, ret_v));
}

static int begin_change(struct vd_meta *m)
{
    int r = vd__session_alive(m);
    if (r == 0)
        r = m->put_error;
    return r < 0 ? r : vd__session_mark_open(m);
}

int vd__records_put(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k,
                    const void *value, ssize_t len)
{
    if (len < 0)
        return (int)len;
    int r = begin_change(m);
    if (r < 0)
        return r;
    r = vd__env_make_db(&m->env, db);
    if (r == 0)
        r = vd__env_put(&m->env, m->env.dbi[db], k->b, k->len, value, (size_t)len);
    m->put_error = r;
    return vd__records_checked(m, r);
}

int vd__records_del(struct vd_meta *m, enum vd__env_db db, const struct vd__key *k)
{
    int r = begin_change(m);
    if (r < 0)
        return r;
    if (m->env.dbi[db] == VD__ENV_NO_DBI)
        return -ENOENT;
    r = vd__env_del(&m->env, m->env.dbi[db], k->b, k->len);
    m->put_error = r == -ENOENT ? 0 : r;
    return vd__records_checked(m, r);
}

int vd_meta_get_disk(struct vd_meta *m, struct vd_disk_record *ret_r)
{
    struct vd__key k = vd__key_index(0);
    MDB_val v;
    char cause[VD__REC_WHY];
    int r = vd__records_get(m, VD__ENV_DISK, &k, &v);
    if (r < 0)
        return r;
    r = vd__decode_disk(v.mv_data, v.mv_size, ret_r, cause);
    return r < 0 ? vd__records_refuse(m, VD__ENV_DISK, cause) : 0;
}

int vd_meta_put_disk(struct vd_meta *m, const struct vd_disk_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k = vd__key_index(0);
    return vd__records_put(m, VD__ENV_DISK, &k, value, vd__encode_disk(r, value));
}

int vd_meta_get_layer(struct vd_meta *m, uint32_t index, struct vd_layer_record *ret_r)
{
    struct vd__key k = vd__key_index(index);
    MDB_val v;
    char cause[VD__REC_WHY];
    int r = vd__records_get(m, VD__ENV_LAYER, &k, &v);
    if (r < 0)
        return r;
    r = vd__decode_layer(index, v.mv_data, v.mv_size, ret_r, cause);
    return r < 0 ? vd__records_refuse(m, VD__ENV_LAYER, cause) : 0;
}

int vd_meta_put_layer(struct vd_meta *m, uint32_t index, const struct vd_layer_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k = vd__key_index(index);
    return vd__records_put(m, VD__ENV_LAYER, &k, value, vd__encode_layer(index, r, value));
}

int vd_meta_put_owner(struct vd_meta *m, const struct vd_owner_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k = vd__key_id(&r->id);
    return vd__records_put(m, VD__ENV_OWNER, &k, value, vd__encode_owner(r, value));
}

int vd_meta_del_owner(struct vd_meta *m, const struct vd_id *id)
{
    struct vd__key k = vd__key_id(id);
    return vd__records_del(m, VD__ENV_OWNER, &k);
}

struct each_owner {
    struct vd_meta *m;
    int (*fn)(void *user, const struct vd_owner_record *r);
    void *user;
    bool refused; /* a record, by us: the sentence is set */
    bool ended;   /* by the caller's function */
};

static int one_owner(void *user, const MDB_val *key, const MDB_val *value)
{
    struct each_owner *e = user;
    struct vd__key k = {.len = vd_min(key->mv_size, sizeof(k.b))};
    struct vd_owner_record rec;
    char cause[VD__REC_WHY];
    memcpy(k.b, key->mv_data, k.len);
    int r = vd__decode_owner(&k, value->mv_data, value->mv_size, &rec, cause);
    if (r < 0) {
        e->refused = true;
        return vd__records_refuse(e->m, VD__ENV_OWNER, cause);
    }
    r = e->fn(e->user, &rec);
    e->ended = r != 0;
    return r;
}

int vd_meta_each_owner(struct vd_meta *m, int (*fn)(void *user, const struct vd_owner_record *r),
                       void *user)
{
    struct each_owner e = {.m = m, .fn = fn, .user = user};
    int r = vd__session_alive(m);
    if (r < 0)
        return r;
    r = vd__env_each(&m->env, m->env.dbi[VD__ENV_OWNER], one_owner, &e);
    return e.refused || e.ended ? r : vd__records_checked(m, r);
}

/* ---- every record, for people ---- */

struct walk {
    const char *db;
    int (*fn)(void *user, const struct vd_meta_raw *r);
    void *user;
    char names[VD__ENV_MAX_DBS][33];
    unsigned nnames;
    bool ended;
};

static int gather_name(void *user, const MDB_val *key, const MDB_val *value)
{
    struct walk *w = user;
    if (w->nnames == VD__ENV_MAX_DBS || key->mv_size >= sizeof(w->names[0]))
        return -EUCLEAN;
    memcpy(w->names[w->nnames], key->mv_data, key->mv_size);
    w->names[w->nnames++][key->mv_size] = '\0';
    return 0;
}

static int one_raw(void *user, const MDB_val *key, const MDB_val *value)
{
    struct walk *w = user;
    struct vd_meta_raw raw = {
        .db = w->db,
        .key = key->mv_data,
        .value = value->mv_data,
        .key_len = key->mv_size,
        .value_len = value->mv_size,
        .error = vd__rec_verify(w->db, key->mv_data, key->mv_size, value->mv_data, value->mv_size),
    };
    int r = w->fn(w->user, &raw);
    w->ended = r != 0;
    return r;
}

int vd_meta_walk(struct vd_meta *m, int (*fn)(void *user, const struct vd_meta_raw *r), void *user)
{
    struct walk w = {.fn = fn, .user = user};
    int r = vd__session_alive(m);
    if (r < 0)
        return r;
    r = vd__env_each(&m->env, VD__ENV_MAIN_DBI, gather_name, &w);
    for (unsigned i = 0; r == 0 && i < w.nnames; i++) {
        MDB_dbi dbi;
        w.db = w.names[i];
        r = vd__env_db(&m->env, w.db, &dbi);
        if (r == 0)
            r = vd__env_each(&m->env, dbi, one_raw, &w);
    }
    return w.ended ? r : vd__records_checked(m, r);
}

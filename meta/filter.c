// SPDX-License-Identifier: Apache-2.0
/*
 * Records of filters and what filters keep. Private data lie side by side by filter, since their
 * keys begin with its name and a NUL, which no name contains: those of "a" end before those of "ab"
 * begin.
 *
 * The walks gather copies before their caller's function sees one: it may take long, or put what it
 * is given into another disk's records (a clone's), and no cursor of LMDB's is open meanwhile.
 */
#include <string.h>

#include "records.h"
#include "vd_meta_filter.h"

/* ---- filters ---- */

int vd_meta_get_filter(struct vd_meta *m, const char *name, struct vd_filter_record *ret_r)
{
    struct vd__key k;
    MDB_val v;
    char cause[VD__REC_WHY];
    int r = vd__key_filter(name, &k);
    if (r == 0)
        r = vd__records_get(m, VD__ENV_FILTER, &k, &v);
    if (r < 0)
        return r;
    r = vd__decode_filter(&k, v.mv_data, v.mv_size, ret_r, cause);
    return r < 0 ? vd__records_refuse(m, VD__ENV_FILTER, cause) : 0;
}

int vd_meta_put_filter(struct vd_meta *m, const struct vd_filter_record *r)
{
    uint8_t value[VD__REC_MAX];
    struct vd__key k;
    int e = vd__key_filter(r->name, &k);
    return e < 0 ? e : vd__records_put(m, VD__ENV_FILTER, &k, value, vd__encode_filter(r, value));
}

/* What the keys of the filter's data begin with: of K, its own key. */
static struct vd__key prefix_of(const struct vd__key *k)
{
    struct vd__key prefix = *k;
    prefix.b[prefix.len++] = '\0';
    return prefix;
}

static int take_key(void *user, const MDB_val *key, const MDB_val *value)
{
    struct vd__key *k = user;
    if (key->mv_size > sizeof(k->b))
        return -EUCLEAN;
    memcpy(k->b, key->mv_data, k->len = key->mv_size);
    return 1;
}

/* One by one, the first that is left: a walk may not change what it walks. RET_N: how many. */
static int del_data(struct vd_meta *m, const struct vd__key *filter, size_t *ret_n)
{
    struct vd__key prefix = prefix_of(filter), k;
    for (*ret_n = 0;; ++*ret_n) {
        int r = vd__session_alive(m);
        if (r < 0 || m->env.dbi[VD__ENV_FILTER_DATA] == VD__ENV_NO_DBI)
            return r;
        r = vd__env_each_prefix(&m->env, m->env.dbi[VD__ENV_FILTER_DATA], prefix.b, prefix.len,
                                take_key, &k);
        if (r <= 0)
            return vd__records_checked(m, r);
        r = vd__records_del(m, VD__ENV_FILTER_DATA, &k);
        if (r < 0)
            return r;
    }
}

int vd_meta_del_filter(struct vd_meta *m, const char *name)
{
    struct vd__key k;
    size_t n;
    int r = vd__key_filter(name, &k);
    if (r < 0)
        return r;
    int found = vd__records_del(m, VD__ENV_FILTER, &k);
    if (found < 0 && found != -ENOENT)
        return found;
    r = del_data(m, &k, &n);
    if (r < 0) {
        m->put_error = r; /* half of it must not be committed */
        return r;
    }
    return n > 0 ? 0 : found;
}

/* Makes room for one more in LIST of N items; the list's new place, or NULL. */
static void *grow(void *list, size_t n, size_t *room, size_t item)
{
    if (n < *room)
        return list;
    size_t more = *room ? 2 * *room : 16;
    void *longer = realloc(list, more * item);
    if (longer)
        *room = more;
    return longer;
}

struct filters {
    struct vd_meta *m;
    struct vd_filter_record *list;
    size_t n, room;
    bool refused; /* a record, by us: the sentence is set */
};

static int gather_filter(void *user, const MDB_val *key, const MDB_val *value)
{
    struct filters *f = user;
    struct vd__key k = {.len = vd_min(key->mv_size, sizeof(k.b))};
    char cause[VD__REC_WHY];
    void *list = grow(f->list, f->n, &f->room, sizeof(*f->list));
    if (!list)
        return -ENOMEM;
    f->list = list;
    memcpy(k.b, key->mv_data, k.len);
    if (vd__decode_filter(&k, value->mv_data, value->mv_size, &f->list[f->n], cause) < 0) {
        f->refused = true;
        return vd__records_refuse(f->m, VD__ENV_FILTER, cause);
    }
    f->n++;
    return 0;
}

static int by_place(const void *a, const void *b)
{
    const struct vd_filter_record *x = a, *y = b;
    if (x->filter_class != y->filter_class)
        return x->filter_class < y->filter_class ? -1 : 1;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return strcmp(x->name, y->name);
}

int vd_meta_each_filter(struct vd_meta *m, int (*fn)(void *user, const struct vd_filter_record *r),
                        void *user)
{
    struct filters f = {.m = m};
    int r = vd__session_alive(m);
    if (r < 0 || m->env.dbi[VD__ENV_FILTER] == VD__ENV_NO_DBI)
        return r;
    r = vd__env_each(&m->env, m->env.dbi[VD__ENV_FILTER], gather_filter, &f);
    if (!f.refused)
        r = vd__records_checked(m, r);
    if (r == 0 && f.n > 0)
        qsort(f.list, f.n, sizeof(*f.list), by_place);
    for (size_t i = 0; r == 0 && i < f.n; i++)
        r = fn(user, &f.list[i]);
    free(f.list);
    return r;
}

/* ---- their data ---- */

/* Copies the record V and decodes the copy, so that what was verified is what is used: the map may
 * change under us. The copy is the caller's to free; RET_D->bytes is in it. */
static int load_datum(struct vd_meta *m, const struct vd__key *k, const MDB_val *v,
                      struct vd__filter_datum *ret_d, void **ret_copy)
{
    vd_cleanup_free void *copy = NULL;
    char cause[VD__REC_WHY];
    if (v->mv_size > VD__FILTER_DATA_REC_MAX)
        return vd__records_refuse(m, VD__ENV_FILTER_DATA, "has another length");
    copy = malloc(v->mv_size + 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, v->mv_data, v->mv_size);
    int r = vd__decode_filter_data(k, copy, v->mv_size, ret_d, cause);
    if (r < 0)
        return vd__records_refuse(m, VD__ENV_FILTER_DATA, cause);
    *ret_copy = vd_steal_ptr(copy);
    return 0;
}

int64_t vd_meta_get_filter_data(struct vd_meta *m, const char *name, const char *key, void *ret_buf,
                                size_t len)
{
    vd_cleanup_free void *copy = NULL;
    struct vd__filter_datum d;
    struct vd__key k;
    MDB_val v;
    int r = vd__key_filter_data(name, key, &k);
    if (r == 0)
        r = vd__records_get(m, VD__ENV_FILTER_DATA, &k, &v);
    if (r == 0)
        r = load_datum(m, &k, &v, &d, &copy);
    if (r < 0)
        return r;
    if (len > 0)
        memcpy(ret_buf, d.bytes, vd_min(d.len, len));
    return (int64_t)d.len;
}

int vd_meta_put_filter_data(struct vd_meta *m, const char *name, const char *key, const void *buf,
                            size_t len)
{
    uint8_t value[VD__FILTER_DATA_REC_MAX];
    struct vd__key k;
    int r = vd__key_filter_data(name, key, &k);
    return r < 0 ? r
                 : vd__records_put(m, VD__ENV_FILTER_DATA, &k, value,
                                   vd__encode_filter_data(&k, buf, len, value));
}

int vd_meta_del_filter_data(struct vd_meta *m, const char *name, const char *key)
{
    struct vd__key k;
    int r = vd__key_filter_data(name, key, &k);
    return r < 0 ? r : vd__records_del(m, VD__ENV_FILTER_DATA, &k);
}

struct datum {
    struct vd__filter_datum d;
    void *copy; /* where d.bytes is */
};

struct data {
    struct vd_meta *m;
    struct datum *list;
    size_t n, room;
    bool refused;
};

static int gather_datum(void *user, const MDB_val *key, const MDB_val *value)
{
    struct data *a = user;
    struct vd__key k = {.len = vd_min(key->mv_size, sizeof(k.b))};
    void *list = grow(a->list, a->n, &a->room, sizeof(*a->list));
    if (!list)
        return -ENOMEM;
    a->list = list;
    memcpy(k.b, key->mv_data, k.len);
    int r = load_datum(a->m, &k, value, &a->list[a->n].d, &a->list[a->n].copy);
    a->refused = r == -EUCLEAN;
    a->n += r == 0;
    return r;
}

int vd_meta_each_filter_data(struct vd_meta *m, const char *name,
                             int (*fn)(void *user, const char *key, const void *value, size_t len),
                             void *user)
{
    struct data a = {.m = m};
    struct vd__key filter, prefix;
    int r = vd__key_filter(name, &filter);
    if (r == 0)
        r = vd__session_alive(m);
    if (r < 0 || m->env.dbi[VD__ENV_FILTER_DATA] == VD__ENV_NO_DBI)
        return r;
    prefix = prefix_of(&filter);
    r = vd__env_each_prefix(&m->env, m->env.dbi[VD__ENV_FILTER_DATA], prefix.b, prefix.len,
                            gather_datum, &a);
    if (!a.refused)
        r = vd__records_checked(m, r);
    for (size_t i = 0; r == 0 && i < a.n; i++)
        r = fn(user, a.list[i].d.key, a.list[i].d.bytes, a.list[i].d.len);
    for (size_t i = 0; i < a.n; i++)
        free(a.list[i].copy);
    free(a.list);
    return r;
}

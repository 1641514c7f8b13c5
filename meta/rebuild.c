// SPDX-License-Identifier: Apache-2.0
#include "rebuild.h"

#include <lmdb.h>

#include "codec.h"
#include "env.h"
#include "error.h"
#include "vd_endian.h"

#define NAME_MAX_LEN 32u

struct copy {
    struct vd__env in, out;
    MDB_dbi out_dbi;
    const char *db; /* being copied */
    char names[VD__ENV_MAX_DBS][NAME_MAX_LEN + 1];
    unsigned nnames;
    size_t nrecords, want; /* of one database */
    uint8_t last_key[512];
    size_t last_len;
    uint8_t *free_pages; /* a bit a page */
    uint64_t npages;
    char *why;
};

static int refuse(struct copy *c, const char *why)
{
    snprintf(c->why, VD_META_WHY, "%s", why);
    return -EUCLEAN;
}

/* LMDB would serve a tree whose keys are out of order, or that loops; we would not. */
static int check_order(struct copy *c, const MDB_val *key)
{
    if (key->mv_size == 0 || key->mv_size > sizeof(c->last_key) - 1)
        return refuse(c, "a key's length is out of range");
    if (++c->nrecords > c->want)
        return refuse(c, "more records than counted");
    size_t n = vd_min(key->mv_size, c->last_len);
    int cmp = memcmp(c->last_key, key->mv_data, n);
    if (c->nrecords > 1 && (cmp > 0 || (cmp == 0 && c->last_len >= key->mv_size)))
        return refuse(c, "keys are out of order");
    memcpy(c->last_key, key->mv_data, key->mv_size);
    c->last_len = key->mv_size;
    return 0;
}

/* A record of the free list: a count, and as many page numbers. */
static int gather_free(void *user, const MDB_val *key, const MDB_val *value)
{
    struct copy *c = user;
    const uint8_t *ids = value->mv_data;
    uint64_t n = value->mv_size < 8 ? 0 : vd_get_le64(ids);
    if (++c->nrecords > c->want || value->mv_size < 8 || n > value->mv_size / 8 - 1)
        return refuse(c, "its free list is damaged");
    for (uint64_t i = 1; i <= n; i++) {
        uint64_t page = vd_get_le64(ids + 8 * i);
        if (page >= c->npages)
            return refuse(c, "its free list is damaged");
        c->free_pages[page / 8] |= (uint8_t)(1u << page % 8);
    }
    return 0;
}

/*
 * Is the page that holds P one of the current state? A pointer gone astray may lead to a page of an
 * earlier transaction, whose records verify: it is in the free list. A leaf (with the keys) says
 * its number.
 */
static int check_page(struct copy *c, const void *p, bool leaf)
{
    uint64_t page = (uint64_t)((const uint8_t *)p - c->in.map) / VD__ENV_PAGE;
    if ((const uint8_t *)p < c->in.map || page < 2 || page >= c->npages)
        return refuse(c, "a record lies outside its pages");
    if (c->free_pages[page / 8] & (1u << page % 8) ||
        (leaf && vd_get_le64(c->in.map + page * VD__ENV_PAGE) != page))
        return refuse(c, "a record lies in a page that is not in use");
    return 0;
}

static int check_record(struct copy *c, const MDB_val *key, const MDB_val *value)
{
    int r = check_page(c, key->mv_data, true);
    if (r == 0)
        r = check_page(c, value->mv_data, false);
    return r < 0 ? r : check_order(c, key);
}

static int gather_name(void *user, const MDB_val *key, const MDB_val *value)
{
    struct copy *c = user;
    int r = check_record(c, key, value);
    if (r < 0)
        return r;
    if (key->mv_size > NAME_MAX_LEN || c->nnames == VD__ENV_MAX_DBS ||
        memchr(key->mv_data, '\0', key->mv_size))
        return refuse(c, "a database's name is out of range");
    memcpy(c->names[c->nnames], key->mv_data, key->mv_size);
    c->names[c->nnames++][key->mv_size] = '\0';
    return 0;
}

static int copy_record(void *user, const MDB_val *key, const MDB_val *value)
{
    struct copy *c = user;
    int r = check_record(c, key, value);
    if (r < 0)
        return r;
    if (vd__rec_verify(c->db, key->mv_data, key->mv_size, value->mv_data, value->mv_size) < 0) {
        snprintf(c->why, VD_META_WHY, "record %zu of database %s: checksum differs", c->nrecords,
                 c->db);
        return -EUCLEAN;
    }
    return vd__env_put(&c->out, c->out_dbi, key->mv_data, key->mv_size, value->mv_data,
                       value->mv_size);
}

/* The count that LMDB keeps of DBI's records, into c->want. */
static int begin_walk(struct copy *c, MDB_dbi dbi)
{
    MDB_stat st;
    unsigned flags = 0;
    int rc = mdb_stat(c->in.txn, dbi, &st);
    if (rc == 0 && dbi > VD__ENV_MAIN_DBI)
        rc = mdb_dbi_flags(c->in.txn, dbi, &flags);
    if (rc)
        return vd__meta_error(rc);
    if (flags)
        return refuse(c, "a database has foreign flags");
    c->nrecords = 0;
    c->last_len = 0;
    c->want = st.ms_entries;
    return 0;
}

static int walk(struct copy *c, MDB_dbi dbi,
                int (*fn)(void *user, const MDB_val *key, const MDB_val *value))
{
    int r = begin_walk(c, dbi);
    if (r == 0)
        r = vd__env_each(&c->in, dbi, fn, c);
    if (r == 0 && c->nrecords != c->want)
        r = refuse(c, "fewer records than counted");
    return r;
}

static int copy_db(struct copy *c, const char *name)
{
    MDB_dbi dbi;
    c->db = name;
    int r = vd__env_db(&c->in, name, &dbi);
    if (r < 0)
        return r;
    r = vd__meta_error(mdb_dbi_open(c->out.txn, name, MDB_CREATE, &c->out_dbi));
    return r < 0 ? r : walk(c, dbi, copy_record);
}

static int copy_all(struct copy *c, uint64_t min_txnid)
{
    if (mdb_txn_id(c->in.txn) < min_txnid)
        return refuse(c, "its last transactions are missing");
    MDB_envinfo info;
    int r = vd__meta_error(mdb_env_info(c->in.env, &info));
    c->npages = info.me_last_pgno + 1;
    c->free_pages = calloc(c->npages / 8 + 1, 1);
    if (r == 0 && !c->free_pages)
        r = -ENOMEM;
    if (r == 0)
        r = walk(c, VD__ENV_FREE_DBI, gather_free);
    if (r == 0)
        r = walk(c, VD__ENV_MAIN_DBI, gather_name);
    for (unsigned i = 0; r == 0 && i < c->nnames; i++)
        r = copy_db(c, c->names[i]);
    return r < 0 ? r : vd__env_commit(&c->out);
}

int vd__rebuild(int in_fd, int out_fd, uint64_t min_txnid, char ret_why[VD_META_WHY])
{
    struct copy *c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->why = ret_why;
    int r = vd__env_open(&c->in, in_fd, VD__ENV_READ | VD__ENV_LOCATE);
    if (r == 0)
        r = vd__env_open(&c->out, out_fd, VD__ENV_MAKE | VD__ENV_NOSYNC);
    if (r == 0)
        r = copy_all(c, min_txnid);
    vd__env_close(&c->out);
    vd__env_close(&c->in);
    free(c->free_pages);
    free(c);
    return r;
}

int vd__fresh(int fd)
{
    struct vd__env e = {0};
    int r = vd__env_open(&e, fd, VD__ENV_MAKE | VD__ENV_NOSYNC);
    if (r == 0)
        r = vd__env_commit(&e);
    vd__env_close(&e);
    return r;
}

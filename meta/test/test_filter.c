// SPDX-License-Identifier: Apache-2.0
/*
 * Records of filters and their private data: round trips, order, limits, whose data go with which
 * filter, damage, recovery. Values are of many lengths, so that some lie in LMDB's leaves and some
 * in pages of their own (overflow pages, beyond 2038 bytes with the key).
 */
#include "meta_test.h"

#include <lmdb.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "vd_crc.h"
#include "vd_endian.h"
#include "vd_file.h"
#include "vd_meta_filter.h"
#include "vd_view.h"

/* One name begins with another, the configurations have all lengths between none and most. */
static const char *const names[] = {"a", "ab",     "a-b",
                                    "0", "mirror", "z23456789-123456789-123456789-"};
#define NFILTERS ((uint32_t)VD_ARRAY_SIZE(names))
#define NDATA 9u

static struct vd_filter_record sample_filter(uint32_t index, uint64_t stamp)
{
    struct vd_filter_record r = {
        .filter_class = 4 - index % 4,
        .required = (index + stamp) % 2,
        .cloned = (index + stamp) % 3 == 0,
        .order = stamp << 33 | (100 - index),
    };
    strcpy(r.name, names[index]);
    size_t n = index * (VD_META_FILTER_CONFIG - 1) / (NFILTERS - 1);
    for (size_t i = 0; i < n; i++)
        r.config[i] = i == n - 1 || i % 50 == 49 ? '\n' : "key=value-\xc3\xbc "[(i + stamp) % 13];
    return r;
}

struct value {
    char key[VD_META_FILTER_KEY];
    uint8_t bytes[VD_META_FILTER_DATA];
    size_t len;
};

static struct value sample_value(uint32_t filter, uint32_t index, uint64_t stamp)
{
    static const size_t lens[NDATA] = {0, 1, 100, 1990, 2010, 2020, 2100, 3999, 4000};
    struct value v = {.len = lens[(index + stamp) % NDATA]};
    snprintf(v.key, sizeof(v.key), "%*u of ~%u", index == 7 ? VD_META_FILTER_KEY - 1 - 6 : 1, index,
             filter);
    for (size_t i = 0; i < v.len; i++)
        v.bytes[i] = (uint8_t)(i * 7 + filter + index * 31 + stamp * 5 + i / 251);
    return v;
}

static bool filter_eq(const struct vd_filter_record *a, const struct vd_filter_record *b)
{
    return strcmp(a->name, b->name) == 0 && a->filter_class == b->filter_class &&
           a->required == b->required && a->cloned == b->cloned && a->order == b->order &&
           strcmp(a->config, b->config) == 0;
}

static int try_put_one(struct vd_meta *m, uint32_t i, uint64_t stamp)
{
    struct vd_filter_record f = sample_filter(i, stamp);
    int r = vd_meta_put_filter(m, &f);
    for (uint32_t k = 0; r == 0 && k < NDATA; k++) {
        struct value v = sample_value(i, k, stamp);
        r = vd_meta_put_filter_data(m, names[i], v.key, v.bytes, v.len);
    }
    return r;
}

static int try_put(struct vd_meta *m, uint64_t stamp)
{
    int r = 0;
    for (uint32_t i = 0; r == 0 && i < NFILTERS; i++)
        r = try_put_one(m, i, stamp);
    return r;
}

struct seen {
    uint64_t stamp;
    uint32_t filter; /* whose data */
    uint32_t n;
    struct vd_filter_record last;
    char last_key[VD_META_FILTER_KEY];
};

static int check_filter(void *user, const struct vd_filter_record *r)
{
    struct seen *s = user;
    uint32_t index = 0;
    while (index < NFILTERS && strcmp(r->name, names[index]) != 0)
        index++;
    ck_assert_uint_lt(index, NFILTERS);
    struct vd_filter_record want = sample_filter(index, s->stamp);
    ck_assert(filter_eq(r, &want));
    if (s->n++)
        ck_assert(s->last.filter_class < r->filter_class ||
                  (s->last.filter_class == r->filter_class && s->last.order < r->order));
    s->last = *r;
    return 0;
}

static int check_datum(void *user, const char *key, const void *value, size_t len)
{
    struct seen *s = user;
    uint32_t index = (uint32_t)strtoul(key, NULL, 10);
    struct value want = sample_value(s->filter, index, s->stamp);
    ck_assert_str_eq(key, want.key);
    ck_assert_uint_eq(len, want.len);
    ck_assert(memcmp(value, want.bytes, len) == 0);
    ck_assert_int_lt(strcmp(s->last_key, key), 0);
    strcpy(s->last_key, key);
    s->n++;
    return 0;
}

static void check_data(struct vd_meta *m, uint32_t filter, uint64_t stamp, uint32_t want)
{
    struct seen s = {.stamp = stamp, .filter = filter};
    int r = vd_meta_each_filter_data(m, names[filter], check_datum, &s);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), vd_meta_why(m));
    ck_assert_uint_eq(s.n, want);
    for (uint32_t k = 0; k < want; k++) {
        struct value v = sample_value(filter, k, stamp);
        uint8_t buf[VD_META_FILTER_DATA];
        int64_t len = vd_meta_get_filter_data(m, names[filter], v.key, buf, sizeof(buf));
        ck_assert_int_eq(len, (int64_t)v.len);
        ck_assert(memcmp(buf, v.bytes, v.len) == 0);
    }
}

static void check_one(struct vd_meta *m, uint32_t i, uint64_t stamp)
{
    struct vd_filter_record f, want = sample_filter(i, stamp);
    ck_assert_int_eq(vd_meta_get_filter(m, names[i], &f), 0);
    ck_assert(filter_eq(&f, &want));
    check_data(m, i, stamp, NDATA);
}

static void check_all(struct vd_meta *m, uint64_t stamp)
{
    struct seen s = {.stamp = stamp};
    int r = vd_meta_each_filter(m, check_filter, &s);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), vd_meta_why(m));
    ck_assert_uint_eq(s.n, NFILTERS);
    for (uint32_t i = 0; i < NFILTERS; i++)
        check_one(m, i, stamp);
}

static void put_all(struct vd_meta *m, uint64_t stamp)
{
    int r = try_put(m, stamp);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), vd_meta_why(m));
}

/* A disk with all samples of STAMP, closed cleanly. */
static struct vd_id make_filtered(struct place *p, uint64_t stamp)
{
    struct vd_id uuid = make_disk(p, 1);
    struct vd_meta *m = must_open(p, &uuid, VD_META_WRITE);
    put_all(m, stamp);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    return uuid;
}

/* The disk's environment, below the library. */
struct env {
    char path[512];
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
};

static void env_begin(struct env *e, struct place *p, const struct vd_id *uuid, const char *db)
{
    vd_meta_disk_path(p->store, uuid, e->path, sizeof(e->path));
    strcat(e->path, "/meta.mdb");
    ck_assert_int_eq(mdb_env_create(&e->env), 0);
    mdb_env_set_maxdbs(e->env, 16);
    ck_assert_int_eq(mdb_env_open(e->env, e->path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0600),
                     0);
    ck_assert_int_eq(mdb_txn_begin(e->env, NULL, 0, &e->txn), 0);
    ck_assert_int_eq(mdb_dbi_open(e->txn, db, 0, &e->dbi), 0);
}

static size_t overflow_pages(struct place *p, const struct vd_id *uuid, const char *db)
{
    struct env e;
    MDB_stat st;
    env_begin(&e, p, uuid, db);
    ck_assert_int_eq(mdb_stat(e.txn, e.dbi, &st), 0);
    mdb_txn_abort(e.txn);
    mdb_env_close(e.env);
    return st.ms_overflow_pages;
}

static bool has_db(struct place *p, const struct vd_id *uuid, const char *db)
{
    struct env e;
    MDB_dbi dbi;
    env_begin(&e, p, uuid, "disk");
    int rc = mdb_dbi_open(e.txn, db, 0, &dbi);
    ck_assert(rc == 0 || rc == MDB_NOTFOUND);
    mdb_txn_abort(e.txn);
    mdb_env_close(e.env);
    return rc == 0;
}

START_TEST(round_trip)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    for (uint64_t stamp = 1; stamp < 11; stamp++) {
        struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
        put_all(m, stamp);
        check_all(m, stamp);
        ck_assert_int_eq(vd_meta_commit(m), 0);
        check_all(m, stamp);
        put_all(m, stamp + 50);
        check_all(m, stamp + 50);
        vd_meta_close(m); /* forgets the second put */
        m = must_open(&p, &uuid, VD_META_READ);
        check_all(m, stamp);
        ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
        struct vd_filter_record f;
        ck_assert_int_eq(vd_meta_get_filter(m, "b", &f), -ENOENT);
        ck_assert_int_eq(vd_meta_get_filter_data(m, "b", "0 of ~0", NULL, 0), -ENOENT);
        ck_assert_int_eq(vd_meta_get_filter_data(m, "a", "0 of ~1", NULL, 0), -ENOENT);
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

START_TEST(deletion)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 3);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct value v = sample_value(4, 8, 3);
    ck_assert_int_eq(vd_meta_del_filter_data(m, names[4], v.key), 0);
    ck_assert_int_eq(vd_meta_del_filter_data(m, names[4], v.key), -ENOENT);
    ck_assert_int_eq(vd_meta_get_filter_data(m, names[4], v.key, &v, 1), -ENOENT);
    check_data(m, 4, 3, NDATA - 1);
    ck_assert_int_eq(vd_meta_del_filter(m, names[4]), 0);
    vd_meta_close(m); /* forgets it */
    m = must_open(&p, &uuid, VD_META_WRITE);
    check_all(m, 3);
    ck_assert_int_eq(vd_meta_del_filter(m, names[4]), 0);
    ck_assert_int_eq(vd_meta_del_filter(m, names[4]), -ENOENT);
    check_data(m, 4, 3, 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    m = must_open(&p, &uuid, VD_META_READ);
    struct vd_filter_record f;
    ck_assert_int_eq(vd_meta_get_filter(m, names[4], &f), -ENOENT);
    check_data(m, 4, 3, 0);
    check_data(m, 5, 3, NDATA);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

/* "a" is what the names of "ab" and "a-b" begin with. */
START_TEST(deletion_takes_the_data_of_one_filter_only)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 2);
    for (uint32_t gone = 0; gone < NFILTERS; gone++) {
        struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
        ck_assert_int_eq(vd_meta_del_filter(m, names[gone]), 0);
        for (uint32_t i = 0; i < NFILTERS; i++) {
            struct vd_filter_record f;
            ck_assert_int_eq(vd_meta_get_filter(m, names[i], &f), i == gone ? -ENOENT : 0);
            check_data(m, i, 2, i == gone ? 0 : NDATA);
        }
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

/* Left by an attach that did not come to its record. */
START_TEST(data_without_a_record)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct value v = sample_value(0, 3, 3);
    struct vd_filter_record f;
    ck_assert_int_eq(vd_meta_put_filter_data(m, "a", v.key, v.bytes, v.len), 0);
    ck_assert_int_eq(vd_meta_get_filter(m, "a", &f), -ENOENT);
    ck_assert_int_eq(vd_meta_del_filter(m, "ab"), -ENOENT);
    ck_assert_int_eq(vd_meta_get_filter_data(m, "a", v.key, NULL, 0), (int64_t)v.len);
    ck_assert_int_eq(vd_meta_del_filter(m, "a"), 0);
    ck_assert_int_eq(vd_meta_get_filter_data(m, "a", v.key, NULL, 0), -ENOENT);
    ck_assert_int_eq(vd_meta_del_filter(m, "a"), -ENOENT);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

static int note_name(void *user, const struct vd_filter_record *r)
{
    char *list = user;
    strcat(strcat(list, r->name), " ");
    return strcmp(r->name, "stop") == 0 ? 17 : 0;
}

START_TEST(order_of_requests)
{
    static const struct {
        const char *name;
        uint32_t filter_class;
        uint64_t order;
    } put[] = {
        {"late", 2, 1ull << 40},  {"quota", 4, 1}, {"early", 2, 2}, {"stop", 3, 7},
        {"first", 1, UINT64_MAX}, {"b", 2, 3},     {"a", 2, 3},
    };
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    for (size_t i = 0; i < VD_ARRAY_SIZE(put); i++) {
        struct vd_filter_record f = {.filter_class = put[i].filter_class, .order = put[i].order};
        strcpy(f.name, put[i].name);
        ck_assert_int_eq(vd_meta_put_filter(m, &f), 0);
    }
    char list[256] = "";
    ck_assert_int_eq(vd_meta_each_filter(m, note_name, list), 17);
    ck_assert_str_eq(list, "first early a b late stop ");
    ck_assert_int_eq(vd_meta_commit(m), 0);
    ck_assert_int_eq(vd_meta_del_filter(m, "stop"), 0);
    list[0] = '\0';
    ck_assert_int_eq(vd_meta_each_filter(m, note_name, list), 0);
    ck_assert_str_eq(list, "first early a b late quota ");
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

struct copy {
    struct vd_meta *from, *to;
    const char *name;
};

static int copy_datum(void *user, const char *key, const void *value, size_t len)
{
    struct copy *c = user;
    return vd_meta_put_filter_data(c->to, c->name, key, value, len);
}

static int copy_filter(void *user, const struct vd_filter_record *r)
{
    struct copy *c = user;
    c->name = r->name;
    int e = vd_meta_put_filter(c->to, r);
    return e < 0 ? e : vd_meta_each_filter_data(c->from, r->name, copy_datum, c);
}

START_TEST(copied_to_a_clone)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 6), clone = make_disk(&p, 2);
    struct copy c = {
        .from = must_open(&p, &uuid, VD_META_READ),
        .to = must_open(&p, &clone, VD_META_WRITE),
    };
    ck_assert_int_eq(vd_meta_each_filter(c.from, copy_filter, &c), 0);
    ck_assert_int_eq(vd_meta_commit(c.to), 0);
    vd_meta_close(c.from);
    vd_meta_close(c.to);
    c.to = must_open(&p, &clone, VD_META_READ);
    check_all(c.to, 6);
    vd_meta_close(c.to);
    place_drop(&p);
}
END_TEST

#define TOO_LONG "123456789-123456789-123456789-123456789-123456789-123456789-1234"

/* What a name, a key or a configuration may not be. */
START_TEST(put_refuses_what_would_not_decode)
{
    static const char *const bad_names[] = {
        "", "A", "a_b", "a/b", "a b", "\xc3\xbc", "a\n", ".", "123456789-123456789-123456789-12"};
    static const char *const bad_keys[] = {"",         "a/b", "/",    "a\n",   "\x7f",
                                           "\xc3\xbc", "\t",  "\x1f", TOO_LONG};
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct vd_filter_record f = sample_filter(3, 1), got;
    struct seen s = {0};
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad_names); i++) {
        memcpy(f.name, bad_names[i], vd_min(strlen(bad_names[i]) + 1, sizeof(f.name)));
        ck_assert_int_eq(vd_meta_put_filter(m, &f), -EINVAL);
        ck_assert_int_eq(vd_meta_get_filter(m, bad_names[i], &got), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter(m, bad_names[i]), -EINVAL);
        ck_assert_int_eq(vd_meta_put_filter_data(m, bad_names[i], "k", "", 1), -EINVAL);
        ck_assert_int_eq(vd_meta_get_filter_data(m, bad_names[i], "k", NULL, 0), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter_data(m, bad_names[i], "k"), -EINVAL);
        ck_assert_int_eq(vd_meta_each_filter_data(m, bad_names[i], check_datum, &s), -EINVAL);
    }
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad_keys); i++) {
        ck_assert_int_eq(vd_meta_put_filter_data(m, "a", bad_keys[i], "", 1), -EINVAL);
        ck_assert_int_eq(vd_meta_get_filter_data(m, "a", bad_keys[i], NULL, 0), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter_data(m, "a", bad_keys[i]), -EINVAL);
    }
    for (uint32_t bad = 0; bad < 8; bad++) {
        f = sample_filter(3, 1);
        f.filter_class = bad;
        ck_assert_int_eq(vd_meta_put_filter(m, &f), bad >= 1 && bad <= 4 ? 0 : -EINVAL);
    }
    f = sample_filter(3, 1);
    memset(f.config, '\n', sizeof(f.config)); /* no end */
    ck_assert_int_eq(vd_meta_put_filter(m, &f), -EINVAL);
    f.config[VD_META_FILTER_CONFIG - 1] = '\0'; /* the longest there is */
    ck_assert_int_eq(vd_meta_put_filter(m, &f), 0);
    ck_assert_int_eq(vd_meta_get_filter(m, f.name, &got), 0);
    ck_assert(filter_eq(&f, &got));
    strcpy(f.config, "rate=1\nburst=2"); /* cut */
    ck_assert_int_eq(vd_meta_put_filter(m, &f), -EINVAL);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

START_TEST(values_of_all_lengths)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    static uint8_t bytes[VD_META_FILTER_DATA + 1];
    static const size_t shorts[] = {0, 1, 1999, 3999, 4000, 4001};
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 13 + i / 256 + 1);
    ck_assert_int_eq(vd_meta_put_filter_data(m, "a", "k", bytes, sizeof(bytes)), -EINVAL);
    ck_assert_int_eq(vd_meta_put_filter_data(m, "a", "k", bytes, SIZE_MAX), -EINVAL);
    ck_assert_int_eq(vd_meta_get_filter_data(m, "a", "k", NULL, 0), -ENOENT);
    for (size_t len = 0; len <= VD_META_FILTER_DATA; len += len % 100 == 99 ? 1 : 99) {
        ck_assert_int_eq(vd_meta_put_filter_data(m, "a", "k", len ? bytes : NULL, len), 0);
        for (size_t i = 0; i < VD_ARRAY_SIZE(shorts); i++) {
            uint8_t buf[VD_META_FILTER_DATA + 2];
            size_t room = shorts[i], want = vd_min(len, room);
            memset(buf, 0xee, sizeof(buf));
            ck_assert_int_eq(vd_meta_get_filter_data(m, "a", "k", room ? buf : NULL, room),
                             (int64_t)len);
            ck_assert(memcmp(buf, bytes, want) == 0);
            ck_assert_uint_eq(buf[want], 0xee);
        }
    }
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

START_TEST(a_reading_session_refuses_changes)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 2), plain = make_disk(&p, 1);
    for (int i = 0; i < 2; i++) {
        struct vd_meta *m = must_open(&p, i ? &plain : &uuid, VD_META_READ);
        struct vd_filter_record f = sample_filter(0, 2);
        struct value v = sample_value(0, 0, 2);
        ck_assert_int_eq(vd_meta_put_filter(m, &f), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter(m, "a"), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter(m, "none"), -EINVAL);
        ck_assert_int_eq(vd_meta_put_filter_data(m, "a", v.key, v.bytes, v.len), -EINVAL);
        ck_assert_int_eq(vd_meta_del_filter_data(m, "a", v.key), -EINVAL);
        ck_assert_int_eq(vd_meta_commit(m), -EINVAL);
        if (i == 0)
            check_all(m, 2);
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

/* Which is every environment of a disk without filters, and what an older program has made. */
START_TEST(an_environment_without_the_databases_is_empty)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    leave_open(&p, &uuid, 1); /* so that the environment is once a copy of ours */
    for (int i = 0; i < 3; i++) {
        ck_assert(!has_db(&p, &uuid, "filter") && !has_db(&p, &uuid, "filter-data"));
        struct vd_meta *m = must_open(&p, &uuid, i == 0 ? VD_META_READ : VD_META_WRITE);
        struct vd_filter_record f;
        struct seen s = {0};
        ck_assert_int_eq(vd_meta_get_filter(m, "a", &f), -ENOENT);
        ck_assert_int_eq(vd_meta_get_filter_data(m, "a", "k", NULL, 0), -ENOENT);
        ck_assert_int_eq(vd_meta_each_filter(m, check_filter, &s), 0);
        ck_assert_int_eq(vd_meta_each_filter_data(m, "a", check_datum, &s), 0);
        ck_assert_uint_eq(s.n, 0);
        if (i > 0) {
            ck_assert_int_eq(vd_meta_del_filter(m, "a"), -ENOENT);
            ck_assert_int_eq(vd_meta_del_filter_data(m, "a", "k"), -ENOENT);
            put_all(m, 4);
            if (i == 2)
                ck_assert_int_eq(vd_meta_commit(m), 0);
            check_all(m, 4);
        }
        vd_meta_close(m);
    }
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    check_all(m, 4);
    vd_meta_close(m);
    ck_assert(has_db(&p, &uuid, "filter") && has_db(&p, &uuid, "filter-data"));
    place_drop(&p);
}
END_TEST

/* ---- a writer died ---- */

/* Beside the filters, so that the environment has every database that there is. */
static const struct vd_view_record view = {.home = VD_HOME_FILE, .live_map = {{1}}};
static const struct vd_snapshot_record snapshot = {.name = "zzz", .size_bytes = 77};

static void die_with(struct place *p, const struct vd_id *uuid, uint64_t stamp)
{
    pid_t pid = fork();
    if (pid == 0) {
        char why[VD_META_WHY];
        struct vd_meta *m;
        if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0)
            _exit(1);
        if (try_put(m, stamp) < 0 || vd_meta_put_view(m, &view) < 0 ||
            vd_meta_put_snapshot(m, &snapshot) < 0)
            _exit(2);
        _exit(vd_meta_commit(m) < 0 ? 3 : 0);
    }
    int status;
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_int_eq(status, 0);
}

START_TEST(recovery_carries_them_over)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    for (uint64_t stamp = 2; stamp < 11; stamp++) {
        die_with(&p, &uuid, stamp);
        ck_assert_uint_eq(overflow_pages(&p, &uuid, "filter"), NFILTERS);
        ck_assert_uint_ge(overflow_pages(&p, &uuid, "filter-data"), 3 * NFILTERS);
        ck_assert_uint_lt(overflow_pages(&p, &uuid, "filter-data"), NDATA * NFILTERS);
        /* Once read from the copy in memory, once put into place, once what was put there. */
        for (int i = 0; i < 3; i++) {
            struct vd_meta *m = must_open(&p, &uuid, i == 1 ? VD_META_WRITE : VD_META_READ);
            struct vd_view_record v;
            struct vd_snapshot_record s;
            check_all(m, stamp);
            ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
            ck_assert_int_eq(vd_meta_get_view(m, &v), 0);
            ck_assert_int_eq(vd_meta_get_snapshot(m, snapshot.name, &s), 0);
            vd_meta_close(m);
        }
    }
    place_drop(&p);
}
END_TEST

/* A page at a time, in its head and behind it: refused by name, or what was not in use. */
START_TEST(after_a_death_damage_is_refused_or_harmless)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(61);
    struct vd_id uuid = make_disk(&p, 1);
    die_with(&p, &uuid, 2);
    die_with(&p, &uuid, 3);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb");
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    int refused = 0, opened = 0, checksums = 0;
    for (size_t i = 0; i < 2 * sound.len / 4096; i++) {
        size_t at = i / 2 * 4096 + (i % 2 ? 16 + rng_next(&g) % 2000 : rng_next(&g) % 16);
        sound.p[at] ^= 0x41;
        file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
        file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
        sound.p[at] ^= 0x41;
        char why[VD_META_WHY] = "";
        struct vd_meta *m;
        int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
        if (r == 0) {
            check_all(m, 3);
            ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
            vd_meta_close(m);
            opened++;
        } else {
            ck_assert_msg(r == -EUCLEAN && strstr(why, "meta.mdb: "), "byte %zu: %d", at, r);
            checksums += strstr(why, "of database filter") != NULL;
            refused++;
        }
    }
    printf("%d refused, %d of them by a record of filters, %d opened whole\n", refused, checksums,
           opened);
    ck_assert_int_gt(checksums, (int)NFILTERS);
    free(sound.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* ---- a page that cannot be read ---- */

/* Makes page PAGE of the environment that this process has mapped one that raises SIGBUS, as on an
 * I/O error. */
static int spoil_page(struct place *p, size_t page)
{
    vd_cleanup_fclose FILE *f = fopen("/proc/self/maps", "re");
    vd_cleanup_close int empty = openat(p->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    unsigned long low, high, map = 0;
    char line[512];
    if (!f || empty < 0)
        return -1;
    while (fgets(line, sizeof(line), f))
        if (sscanf(line, "%lx-%lx r--s", &low, &high) == 2 && high - low >= 4ul << 30)
            map = low;
    void *at = (void *)(map + 4096 * page);
    return map && mmap(at, 4096, PROT_READ, MAP_SHARED | MAP_FIXED, empty, 0) == at ? 0 : -1;
}

/* UNSURE: the commit was refused, perhaps for what it met when it was done. */
enum { DONE, REFUSED, UNSURE, UNFIT };
#define NCHANGES 3
#define CHANGED 4 /* the filter */

static int change(struct vd_meta *m, int which)
{
    struct vd_filter_record f = sample_filter(CHANGED, 5);
    struct value v = sample_value(CHANGED, 5, 3);
    return which == 0   ? vd_meta_put_filter(m, &f)
           : which == 1 ? vd_meta_put_filter_data(m, names[CHANGED], v.key, v.bytes, 7)
                        : vd_meta_del_filter(m, names[CHANGED]);
}

static _Noreturn void change_with_spoiled_page(struct place *p, const struct vd_id *uuid,
                                               size_t page, int which)
{
    char why[VD_META_WHY];
    struct rusage before, after;
    struct vd_meta *m;
    if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0 || spoil_page(p, page) < 0 ||
        getrusage(RUSAGE_SELF, &before) < 0)
        _exit(UNFIT);
    int r = change(m, which), c = vd_meta_commit(m);
    vd_meta_close(m);
    getrusage(RUSAGE_SELF, &after);
    if (after.ru_maxrss - before.ru_maxrss > 256 * 1024 || (r != 0 && r != -EUCLEAN) ||
        (c != 0 && c != -EUCLEAN))
        _exit(UNFIT);
    _exit(r < 0 ? REFUSED : c < 0 ? UNSURE : DONE);
}

/* The change is made, or refused and not made; it takes no memory that matters. */
START_TEST(unreadable_pages_under_a_writer)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    ck_assert_int_eq(try_put_one(m, CHANGED, 3), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    struct bytes sound = file_load(&p, &uuid, "meta.mdb"), sum = file_load(&p, &uuid, "meta.sum");
    int n[NCHANGES][UNFIT] = {0};
    for (size_t page = 2; page < sound.len / 4096; page++)
        for (int which = 0; which < NCHANGES; which++) {
            file_store(&p, &uuid, "meta.mdb", sound.p, sound.len);
            file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
            pid_t pid = fork();
            if (pid == 0)
                change_with_spoiled_page(&p, &uuid, page, which);
            int status;
            ck_assert_int_eq(waitpid(pid, &status, 0), pid);
            ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) < UNFIT, "page %zu: %x", page,
                          status);
            n[which][WEXITSTATUS(status)]++;
            m = must_open(&p, &uuid, VD_META_READ);
            if (WEXITSTATUS(status) == REFUSED)
                check_one(m, CHANGED, 3);
            vd_meta_close(m);
        }
    for (int which = 0; which < NCHANGES; which++)
        ck_assert(n[which][DONE] > 0 && n[which][REFUSED] > 1);
    ck_assert_int_gt(n[2][REFUSED], n[0][REFUSED]);
    free(sound.p);
    free(sum.p);
    place_drop(&p);
}
END_TEST

/* ---- records that are not as they should be, in an environment that is ---- */

/* Makes the record; SEALED: with the checksum that belongs to it. Then nothing vouches for the file
 * but, with VOUCHED, its checksum. */
static void forge(struct place *p, const struct vd_id *uuid, const char *db, MDB_val k,
                  const void *value, size_t len, bool sealed, bool vouched)
{
    struct env e;
    uint8_t copy[8192];
    memcpy(copy, value, len);
    if (sealed) {
        vd_put_le32(copy + 4, (uint32_t)len - 12);
        uint32_t crc = vd_crc32c(vd_crc32c(0, db, strlen(db) + 1), k.mv_data, k.mv_size);
        vd_put_le32(copy + len - 4, vd_crc32c(crc, copy, len - 4));
    }
    MDB_val v = {len, copy};
    env_begin(&e, p, uuid, db);
    ck_assert_int_eq(mdb_put(e.txn, e.dbi, &k, &v, 0), 0);
    ck_assert_int_eq(mdb_txn_commit(e.txn), 0);
    mdb_env_close(e.env);
    struct bytes mdb = file_load(p, uuid, "meta.mdb"), sum = file_load(p, uuid, "meta.sum");
    vd_put_le64(sum.p + 16, mdb.len);
    vd_put_le32(sum.p + 32, vd_crc32c(0, mdb.p, mdb.len));
    vd_put_le32(sum.p + 36, vouched ? vd_crc32c(0, sum.p, 36) : 0);
    file_store(p, uuid, "meta.sum", sum.p, sum.len);
    free(mdb.p);
    free(sum.p);
}

struct grab {
    const char *db;
    size_t key_len, len; /* of the record that is wanted: LEN, of those the last */
    uint8_t key[256], value[8192];
};

static int grab_one(void *user, const struct vd_meta_raw *r)
{
    struct grab *g = user;
    if (strcmp(r->db, g->db) == 0 && (g->len == 0 || r->value_len == g->len)) {
        memcpy(g->key, r->key, g->key_len = r->key_len);
        memcpy(g->value, r->value, r->value_len);
        g->len = r->value_len;
    }
    return 0;
}

static struct grab grab(struct place *p, const struct vd_id *uuid, const char *db, size_t len)
{
    struct grab g = {.db = db, .len = len};
    struct vd_meta *m = must_open(p, uuid, VD_META_READ);
    ck_assert_int_eq(vd_meta_walk(m, grab_one, &g), 0);
    ck_assert_uint_gt(g.key_len, 0);
    vd_meta_close(m);
    return g;
}

/* The first refusal of a session that reads all there is; 0 if there is none. */
static int read_all(struct vd_meta *m)
{
    struct vd_filter_record f;
    for (uint32_t i = 0; i < NFILTERS; i++) {
        int r = vd_meta_get_filter(m, names[i], &f);
        for (uint32_t k = 0; r == 0 && k < NDATA; k++) {
            int64_t len = vd_meta_get_filter_data(m, names[i], sample_value(i, k, 3).key, NULL, 0);
            r = len < 0 ? (int)len : 0;
        }
        if (r < 0)
            return r;
    }
    return 0;
}

static int none(void *user, const struct vd_filter_record *r)
{
    ++*(int *)user;
    return 0;
}

/* Refused with CAUSE, by the call for that record and by the walk, in both kinds of session. */
static void check_refused(struct place *p, const struct vd_id *uuid, const char *db,
                          const char *cause)
{
    bool data = strcmp(db, "filter-data") == 0;
    char want[256];
    snprintf(want, sizeof(want), "meta.mdb: record of database %s: %s;", db, cause);
    for (int write = 0; write < 2; write++) {
        struct vd_meta *m = must_open(p, uuid, write ? VD_META_WRITE : VD_META_READ);
        int seen = 0, r = read_all(m);
        if (r == 0 && data) /* one that no call asks for */
            r = vd_meta_each_filter_data(m, "a", check_datum, &(struct seen){.stamp = 3});
        ck_assert_msg(r == -EUCLEAN, "%s: %d", cause, r);
        ck_assert_msg(strstr(vd_meta_why(m), want), "%s instead of %s", vd_meta_why(m), want);
        ck_assert_int_eq(vd_meta_each_filter(m, none, &seen), data ? 0 : -EUCLEAN);
        ck_assert_int_eq(seen, data ? (int)NFILTERS : 0);
        vd_meta_close(m);
    }
}

/* Bytes of a record in a leaf, of one in a page of its own, and of a filter's: what a dead writer
 * left is refused when it is opened, what the file's checksum vouches for when it is read. */
START_TEST(every_byte_counts)
{
    static const struct {
        const char *db;
        size_t len;
    } cases[] = {{"filter-data", 100 + 16}, {"filter-data", 4000 + 16}, {"filter", 0}};
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 3);
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        struct grab g = grab(&p, &uuid, cases[i].db, cases[i].len);
        MDB_val k = {g.key_len, g.key};
        for (size_t at = 0; at < g.len; at += at < 60 || at + 60 > g.len ? 1 : 1 + at % 97) {
            g.value[at] ^= 0x41;
            forge(&p, &uuid, g.db, k, g.value, g.len, false, false);
            char why[VD_META_WHY] = "";
            struct vd_meta *m;
            int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
            ck_assert_msg(r == -EUCLEAN, "%s byte %zu: %d", g.db, at, r);
            ck_assert_msg(strstr(why, g.db) && strstr(why, "checksum differs"), "%s", why);
            forge(&p, &uuid, g.db, k, g.value, g.len, false, true);
            check_refused(&p, &uuid, g.db, "checksum differs");
            g.value[at] ^= 0x41;
        }
        forge(&p, &uuid, g.db, k, g.value, g.len, false, true);
    }
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    check_all(m, 3);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

/* With checksums that are right: as a later program, or a false one, would write them. */
START_TEST(sound_records_that_mean_nothing)
{
    static const struct {
        size_t at;
        uint8_t byte;
        const char *cause;
    } filter[] =
        {
            {0, 7, "is of another type"},
            {2, 2, "version 2; this program knows 1"},
            {8, 0, "is of an unknown class"},
            {8, 5, "is of an unknown class"},
            {12, 2, "the required mark is neither 0 nor 1"},
            {16, 2, "the cloned mark is neither 0 nor 1"},
            {20, 1, "reserved bytes are not zero"},
            {32, 'b', "has another name than its key"},
            {32, 'B', "its name cannot be a filter's"},
            {32, 0, "its name cannot be a filter's"},
            {32 + 31, 'x', "a text has bytes after its end"},
            {64, 'x', "the last line of its configuration has no end"},
            {64 + 2047, 'x', "a text has bytes after its end"},
        },
      data[] = {
          {0, 6, "is of another type"},
          {2, 2, "version 2; this program knows 1"},
          {8, 99, "holds more or less than it says"},
          {11, 1, "holds more or less than it says"},
      };
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 3);
    struct grab g = {.key = "a", .key_len = 1, .len = 2116};
    MDB_val k = {g.key_len, g.key};
    uint8_t *b = g.value;
    b[0] = 6, b[2] = 1, b[8] = 1, b[32] = 'a';
    for (size_t i = 0; i < VD_ARRAY_SIZE(filter); i++) {
        uint8_t was = b[filter[i].at];
        b[filter[i].at] = filter[i].byte;
        forge(&p, &uuid, "filter", k, b, g.len, true, true);
        check_refused(&p, &uuid, "filter", filter[i].cause);
        b[filter[i].at] = was;
    }
    forge(&p, &uuid, "filter", k, b, g.len - 1, true, true);
    check_refused(&p, &uuid, "filter", "has another length");
    forge(&p, &uuid, "filter", k, b, g.len + 1, true, true);
    check_refused(&p, &uuid, "filter", "has another length");
    forge(&p, &uuid, "filter", k, b, g.len, true, true);

    g = grab(&p, &uuid, "filter-data", 100 + 16);
    k = (MDB_val){g.key_len, g.key};
    for (size_t i = 0; i < VD_ARRAY_SIZE(data); i++) {
        uint8_t was = b[data[i].at];
        b[data[i].at] = data[i].byte;
        forge(&p, &uuid, "filter-data", k, b, g.len, true, true);
        check_refused(&p, &uuid, "filter-data", data[i].cause);
        b[data[i].at] = was;
    }
    forge(&p, &uuid, "filter-data", k, b, 15, true, true);
    check_refused(&p, &uuid, "filter-data", "has another length");
    forge(&p, &uuid, "filter-data", k, b, 4000 + 17, true, true);
    check_refused(&p, &uuid, "filter-data", "has another length");
    forge(&p, &uuid, "filter-data", k, b, g.len, true, true);
    forge(&p, &uuid, "filter-data", (MDB_val){4, "a\0x/"}, b, g.len, true, true);
    check_refused(&p, &uuid, "filter-data", "its key is no filter's");
    place_drop(&p);
}
END_TEST

/* Whole, but of another key, another filter, another database. */
START_TEST(records_in_a_wrong_place)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_filtered(&p, 3);
    struct grab f = grab(&p, &uuid, "filter", 0), d = grab(&p, &uuid, "filter-data", 4000 + 16);
    const struct {
        const char *db;
        MDB_val key;
        const struct grab *value;
    } cases[] = {
        {"filter", {1, "a"}, &f},
        {"filter", {1, "a"}, &d},
        {"filter-data",
         {9, "a\0"
             "1 of ~0"},
         &d},
        {"filter-data",
         {9, "a\0"
             "1 of ~0"},
         &f},
    };
    for (size_t i = 0; i < VD_ARRAY_SIZE(cases); i++) {
        const char *db = cases[i].db;
        struct vd_id other = make_filtered(&p, 3);
        forge(&p, &other, db, cases[i].key, cases[i].value->value, cases[i].value->len, false,
              true);
        check_refused(&p, &other, db, "checksum differs");
    }
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        round_trip,
        deletion,
        deletion_takes_the_data_of_one_filter_only,
        data_without_a_record,
        order_of_requests,
        copied_to_a_clone,
        put_refuses_what_would_not_decode,
        values_of_all_lengths,
        a_reading_session_refuses_changes,
        an_environment_without_the_databases_is_empty,
        recovery_carries_them_over,
        after_a_death_damage_is_refused_or_harmless,
        unreadable_pages_under_a_writer,
        every_byte_counts,
        sound_records_that_mean_nothing,
        records_in_a_wrong_place,
    };
    return run_suite("meta-filter", tests, VD_ARRAY_SIZE(tests), 120);
}

// SPDX-License-Identifier: Apache-2.0
/* Records of views and snapshots: round trips, damage, environments without them, recovery. */
#include "meta_test.h"

#include <lmdb.h>

#include "vd_view.h"

static struct vd_id id_of(uint64_t a, uint64_t b)
{
    struct vd_id id;
    memcpy(id.b, &a, 8);
    memcpy(id.b + 8, &b, 8);
    return id;
}

static struct vd_view_record sample_view(uint64_t stamp)
{
    struct vd_view_record r = {
        .home = stamp % 2 ? VD_HOME_FILE : VD_HOME_LAYERS,
        .moving = stamp % 3 == 0,
        .file_ino = stamp,
        .live_map = id_of(stamp, 1),
        .nmaps = (uint32_t)(stamp % (VD_VIEW_MAPS + 1)),
        .parent = id_of(stamp, 2),
        .origin = id_of(stamp, 3),
    };
    for (uint32_t i = 0; i < r.nmaps; i++)
        r.maps[i] = id_of(stamp, 10 + i);
    return r;
}

static struct vd_snapshot_record sample_snapshot(uint32_t index, uint64_t stamp)
{
    struct vd_snapshot_record r = {
        .disk_id = id_of(stamp, index),
        .created_s = 1700000000 + index / 3,
        .size_bytes = stamp * 4096 + index,
        .nmaps = index % (VD_VIEW_MAPS + 1),
    };
    /* Names whose order is not that of their ages. */
    snprintf(r.name, sizeof(r.name), "%03u monday ü %u", index * 7 % 1000, index);
    for (uint32_t i = 0; i < r.nmaps; i++)
        r.maps[i] = id_of(stamp + i, 10 + index);
    return r;
}

static bool same_maps(const struct vd_id *a, const struct vd_id *b)
{
    return memcmp(a, b, VD_VIEW_MAPS * sizeof(*a)) == 0;
}

static bool view_eq(const struct vd_view_record *a, const struct vd_view_record *b)
{
    return a->home == b->home && a->moving == b->moving && a->file_ino == b->file_ino &&
           a->nmaps == b->nmaps && vd_id_eq(&a->live_map, &b->live_map) &&
           same_maps(a->maps, b->maps) && vd_id_eq(&a->parent, &b->parent) &&
           vd_id_eq(&a->origin, &b->origin);
}

static bool snapshot_eq(const struct vd_snapshot_record *a, const struct vd_snapshot_record *b)
{
    return strcmp(a->name, b->name) == 0 && vd_id_eq(&a->disk_id, &b->disk_id) &&
           a->created_s == b->created_s && a->size_bytes == b->size_bytes && a->nmaps == b->nmaps &&
           same_maps(a->maps, b->maps);
}

static int try_put(struct vd_meta *m, uint32_t nsnapshots, uint64_t stamp)
{
    struct vd_view_record v = sample_view(stamp);
    int r = vd_meta_put_view(m, &v);
    for (uint32_t i = 0; r == 0 && i < nsnapshots; i++) {
        struct vd_snapshot_record s = sample_snapshot(i, stamp);
        r = vd_meta_put_snapshot(m, &s);
    }
    return r;
}

struct walk {
    uint64_t stamp;
    uint32_t n;
    struct vd_snapshot_record last;
};

static int check_snapshot(void *user, const struct vd_snapshot_record *r)
{
    struct walk *w = user;
    uint32_t index = (uint32_t)strtoul(strrchr(r->name, ' '), NULL, 10);
    struct vd_snapshot_record want = sample_snapshot(index, w->stamp);
    ck_assert(snapshot_eq(r, &want));
    if (w->n++)
        ck_assert(w->last.created_s < r->created_s ||
                  (w->last.created_s == r->created_s && strcmp(w->last.name, r->name) < 0));
    w->last = *r;
    return 0;
}

static void check_all(struct vd_meta *m, uint32_t nsnapshots, uint64_t stamp)
{
    struct vd_view_record v, want = sample_view(stamp);
    int r = vd_meta_get_view(m, &v);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), vd_meta_why(m));
    ck_assert(view_eq(&v, &want));
    struct walk w = {.stamp = stamp};
    r = vd_meta_each_snapshot(m, check_snapshot, &w);
    ck_assert_msg(r == 0, "%s: %s", strerror(-r), vd_meta_why(m));
    ck_assert_uint_eq(w.n, nsnapshots);
}

START_TEST(round_trip)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    for (uint64_t stamp = 1; stamp < 8; stamp++) {
        struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
        ck_assert_int_eq(try_put(m, 20, stamp), 0);
        check_all(m, 20, stamp);
        ck_assert_int_eq(vd_meta_commit(m), 0);
        ck_assert_int_eq(try_put(m, 21, stamp + 50), 0);
        vd_meta_close(m); /* forgets the second put */
        m = must_open(&p, &uuid, VD_META_READ);
        check_all(m, 20, stamp);
        ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
        struct vd_snapshot_record s, want = sample_snapshot(5, stamp);
        ck_assert_int_eq(vd_meta_get_snapshot(m, want.name, &s), 0);
        ck_assert(snapshot_eq(&s, &want));
        ck_assert_int_eq(vd_meta_get_snapshot(m, "none", &s), -ENOENT);
        vd_meta_close(m);
    }
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct vd_snapshot_record s = sample_snapshot(3, 7);
    struct vd_view_record v;
    ck_assert_int_eq(vd_meta_del_snapshot(m, s.name), 0);
    ck_assert_int_eq(vd_meta_del_snapshot(m, s.name), -ENOENT);
    ck_assert_int_eq(vd_meta_del_view(m), 0);
    ck_assert_int_eq(vd_meta_del_view(m), -ENOENT);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_int_eq(vd_meta_get_view(m, &v), -ENOENT);
    ck_assert_int_eq(vd_meta_get_snapshot(m, s.name, &s), -ENOENT);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

START_TEST(put_refuses_what_would_not_decode)
{
    static const char *const bad_names[] = {"", "a/b", "/", "a\nb", "\x7f", "\t"};
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct vd_snapshot_record s = sample_snapshot(3, 1), got;
    for (size_t i = 0; i < VD_ARRAY_SIZE(bad_names); i++) {
        strcpy(s.name, bad_names[i]);
        ck_assert_int_eq(vd_meta_put_snapshot(m, &s), -EINVAL);
        ck_assert_int_eq(vd_meta_get_snapshot(m, bad_names[i], &got), -EINVAL);
        ck_assert_int_eq(vd_meta_del_snapshot(m, bad_names[i]), -EINVAL);
    }
    memset(s.name, 'x', sizeof(s.name)); /* no end */
    ck_assert_int_eq(vd_meta_put_snapshot(m, &s), -EINVAL);
    s.name[VD_SNAPSHOT_NAME_MAX] = '\0'; /* the longest there is */
    ck_assert_int_eq(vd_meta_put_snapshot(m, &s), 0);
    ck_assert_int_eq(vd_meta_get_snapshot(m, s.name, &got), 0);
    ck_assert(snapshot_eq(&s, &got));
    s.nmaps = VD_VIEW_MAPS + 1;
    ck_assert_int_eq(vd_meta_put_snapshot(m, &s), -EINVAL);
    s.nmaps = 2;
    s.maps[1] = (struct vd_id){0};
    ck_assert_int_eq(vd_meta_put_snapshot(m, &s), -EINVAL);
    struct vd_view_record v = sample_view(2);
    v.home = 0;
    ck_assert_int_eq(vd_meta_put_view(m, &v), -EINVAL);
    v = sample_view(2);
    v.nmaps = VD_VIEW_MAPS + 1;
    ck_assert_int_eq(vd_meta_put_view(m, &v), -EINVAL);
    v = sample_view(2);
    v.live_map = (struct vd_id){0};
    ck_assert_int_eq(vd_meta_put_view(m, &v), -EINVAL);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_int_eq(vd_meta_put_view(m, &v), -EINVAL);
    ck_assert_int_eq(vd_meta_get_view(m, &v), -ENOENT);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

struct names {
    bool view, snapshot, core;
};

static int note_name(void *user, const struct vd_meta_raw *r)
{
    struct names *n = user;
    n->view |= strcmp(r->db, "view") == 0;
    n->snapshot |= strcmp(r->db, "snapshot") == 0;
    n->core |= strcmp(r->db, "disk") == 0;
    ck_assert_int_eq(r->error, 0);
    return 0;
}

/* Which is every environment of a plain disk, and what an older program has made. */
START_TEST(an_environment_without_the_databases_is_empty)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    for (int i = 0; i < 3; i++) {
        struct vd_meta *m = must_open(&p, &uuid, i == 0 ? VD_META_READ : VD_META_WRITE);
        struct vd_view_record v;
        struct vd_snapshot_record s;
        struct walk w = {0};
        struct names n = {0};
        ck_assert_int_eq(vd_meta_get_view(m, &v), -ENOENT);
        ck_assert_int_eq(vd_meta_get_snapshot(m, "a", &s), -ENOENT);
        ck_assert_int_eq(vd_meta_each_snapshot(m, check_snapshot, &w), 0);
        ck_assert_uint_eq(w.n, 0);
        ck_assert_int_eq(vd_meta_walk(m, note_name, &n), 0);
        ck_assert(n.core && !n.view && !n.snapshot);
        if (i > 0) {
            ck_assert_int_eq(vd_meta_del_view(m), -ENOENT);
            ck_assert_int_eq(vd_meta_del_snapshot(m, "a"), -ENOENT);
            ck_assert_int_eq(try_put(m, 2, 4), 0);
            check_all(m, 2, 4);
            if (i == 2)
                ck_assert_int_eq(vd_meta_commit(m), 0);
            check_all(m, 2, 4);
        }
        vd_meta_close(m);
    }
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    struct names n = {0};
    check_all(m, 2, 4);
    ck_assert_int_eq(vd_meta_walk(m, note_name, &n), 0);
    ck_assert(n.core && n.view && n.snapshot);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

/* The databases made in the first of them, emptied and used in the next. */
START_TEST(several_commits_of_one_session)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    ck_assert_int_eq(try_put(m, 1, 4), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    ck_assert_int_eq(vd_meta_del_view(m), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    ck_assert_int_eq(try_put(m, 3, 5), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    check_all(m, 3, 5);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

static void die_with(struct place *p, const struct vd_id *uuid, uint32_t nsnapshots, uint64_t stamp)
{
    pid_t pid = fork();
    if (pid == 0) {
        char why[VD_META_WHY];
        struct vd_meta *m;
        if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0)
            _exit(1);
        if (try_put(m, nsnapshots, stamp) < 0)
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
    for (uint64_t stamp = 2; stamp < 5; stamp++) {
        die_with(&p, &uuid, 1000, stamp);
        /* Once read from the copy in memory, once put into place, once what was put there. */
        for (int i = 0; i < 3; i++) {
            struct vd_meta *m = must_open(&p, &uuid, i == 1 ? VD_META_WRITE : VD_META_READ);
            check_all(m, 1000, stamp);
            ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
            vd_meta_close(m);
        }
    }
    place_drop(&p);
}
END_TEST

/* Changes a record below the library, keeping its checksum of the file right. */
struct lmdb_record {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
};

static void env_put(struct place *p, const struct vd_id *uuid, const char *db, MDB_val *k,
                    MDB_val *v)
{
    char path[512];
    struct lmdb_record l;
    vd_meta_disk_path(p->store, uuid, path, sizeof(path));
    strcat(path, "/meta.mdb");
    ck_assert_int_eq(mdb_env_create(&l.env), 0);
    mdb_env_set_maxdbs(l.env, 16);
    ck_assert_int_eq(mdb_env_open(l.env, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC, 0600), 0);
    ck_assert_int_eq(mdb_txn_begin(l.env, NULL, 0, &l.txn), 0);
    ck_assert_int_eq(mdb_dbi_open(l.txn, db, 0, &l.dbi), 0);
    ck_assert_int_eq(mdb_put(l.txn, l.dbi, k, v, 0), 0);
    ck_assert_int_eq(mdb_txn_commit(l.txn), 0);
    mdb_env_close(l.env);
    /* No sum: the environment is looked at record by record. */
    snprintf(path + strlen(path) - 3, 8, "sum");
    unlink(path);
}

struct grab {
    const char *db;
    uint8_t key[256], value[2048];
    size_t key_len, len;
};

static int grab_one(void *user, const struct vd_meta_raw *r)
{
    struct grab *g = user;
    if (strcmp(r->db, g->db) == 0) {
        memcpy(g->key, r->key, g->key_len = r->key_len);
        memcpy(g->value, r->value, g->len = r->value_len);
    }
    return 0;
}

START_TEST(every_byte_counts)
{
    static const char *const dbs[] = {"view", "snapshot"};
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    die_with(&p, &uuid, 3, 3);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct grab g[2] = {{.db = dbs[0]}, {.db = dbs[1]}};
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(vd_meta_walk(m, grab_one, &g[i]), 0);
    vd_meta_close(m);
    for (int i = 0; i < 2; i++) {
        ck_assert_uint_gt(g[i].len, 100);
        for (size_t at = 0; at < g[i].len; at++) {
            MDB_val k = {g[i].key_len, g[i].key}, v = {g[i].len, g[i].value};
            g[i].value[at] ^= 0x41;
            env_put(&p, &uuid, dbs[i], &k, &v);
            g[i].value[at] ^= 0x41;
            char why[VD_META_WHY] = "";
            int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
            ck_assert_msg(r == -EUCLEAN, "%s byte %zu: %d", dbs[i], at, r);
            ck_assert_msg(strstr(why, dbs[i]) && strstr(why, "checksum differs"), "%s", why);
            env_put(&p, &uuid, dbs[i], &k, &v);
        }
    }
    m = must_open(&p, &uuid, VD_META_READ);
    check_all(m, 3, 3);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        round_trip,
        put_refuses_what_would_not_decode,
        an_environment_without_the_databases_is_empty,
        several_commits_of_one_session,
        recovery_carries_them_over,
        every_byte_counts,
    };
    return run_suite("meta-view", tests, VD_ARRAY_SIZE(tests), 120);
}

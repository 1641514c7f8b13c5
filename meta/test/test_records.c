// SPDX-License-Identifier: Apache-2.0
/* Round trips, what is refused, the store's folders, removal. */
#include "meta_test.h"

#include <lmdb.h>

#include "vd_crc.h"
#include "vd_endian.h"

START_TEST(round_trip)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 41);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 41);
    struct vd_layer_record l;
    ck_assert_int_eq(vd_meta_get_layer(m, SAMPLE_LAYERS, &l), -ENOENT);
    struct vd_disk_record d = sample_disk(&uuid, 1);
    ck_assert_int_eq(vd_meta_put_disk(m, &d), -EINVAL);
    ck_assert_int_eq(vd_meta_commit(m), -EINVAL);
    vd_meta_close(m);

    m = must_open(&p, &uuid, VD_META_WRITE);
    put_samples(m, &uuid, 42);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    put_samples(m, &uuid, 43);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 43);
    vd_meta_close(m); /* forgets 43 */

    m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 42);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

START_TEST(put_refuses_what_would_not_decode)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    struct vd_disk_record d = sample_disk(&uuid, 2);
    memset(d.path, 'x', sizeof(d.path));
    ck_assert_int_eq(vd_meta_put_disk(m, &d), -EINVAL);
    struct vd_layer_record l = sample_layer(0, 2);
    l.state = 0;
    ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), -EINVAL);
    l = sample_layer(0, 2);
    memset(l.snapshot, 'x', sizeof(l.snapshot));
    ck_assert_int_eq(vd_meta_put_layer(m, 0, &l), -EINVAL);
    struct vd_owner_record o = sample_owner(0, 2);
    o.state = 9;
    ck_assert_int_eq(vd_meta_put_owner(m, &o), -EINVAL);
    struct vd_owner_record other = sample_owner(SAMPLE_OWNERS, 2);
    ck_assert_int_eq(vd_meta_del_owner(m, &other.id), -ENOENT);
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    m = must_open(&p, &uuid, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &uuid), 1);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

static int stop_at_3(void *user, const struct vd_owner_record *r)
{
    return ++*(int *)user == 3 ? 17 : 0;
}

START_TEST(owners_and_their_walk)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
    int n = 0;
    ck_assert_int_eq(vd_meta_each_owner(m, stop_at_3, &n), 17);
    ck_assert_int_eq(n, 3);
    for (uint32_t i = 0; i < SAMPLE_OWNERS; i++) {
        struct vd_owner_record o = sample_owner(i, 1);
        ck_assert_int_eq(vd_meta_del_owner(m, &o.id), 0);
        ck_assert_int_eq(vd_meta_del_owner(m, &o.id), -ENOENT);
    }
    ck_assert_int_eq(vd_meta_commit(m), 0);
    vd_meta_close(m);
    m = must_open(&p, &uuid, VD_META_READ);
    n = 0;
    ck_assert_int_eq(vd_meta_each_owner(m, stop_at_3, &n), 0);
    ck_assert_int_eq(n, 0);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

static int count_raw(void *user, const struct vd_meta_raw *r)
{
    int *n = user;
    n[0]++;
    n[1] += r->error != 0;
    ck_assert_uint_ge(r->value_len, 12);
    return 0;
}

START_TEST(walk_sees_every_record)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
    int n[2] = {0, 0};
    ck_assert_int_eq(vd_meta_walk(m, count_raw, n), 0);
    ck_assert_int_eq(n[0], 1 + SAMPLE_LAYERS + SAMPLE_OWNERS);
    ck_assert_int_eq(n[1], 0);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

/* Sets the version of the disk's record, checksum and all, as a later program would. */
static void set_version(struct place *p, const struct vd_id *uuid, uint16_t version)
{
    char path[512];
    vd_meta_disk_path(p->store, uuid, path, sizeof(path));
    strcat(path, "/meta.mdb");
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    uint8_t key[8] = {0}, value[4096];
    MDB_val k = {sizeof(key), key}, v;
    ck_assert_int_eq(mdb_env_create(&env), 0);
    mdb_env_set_maxdbs(env, 16);
    ck_assert_int_eq(mdb_env_open(env, path, MDB_NOSUBDIR | MDB_NOLOCK, 0600), 0);
    ck_assert_int_eq(mdb_txn_begin(env, NULL, 0, &txn), 0);
    ck_assert_int_eq(mdb_dbi_open(txn, "disk", 0, &dbi), 0);
    ck_assert_int_eq(mdb_get(txn, dbi, &k, &v), 0);
    memcpy(value, v.mv_data, v.mv_size);
    v.mv_data = value;
    vd_put_le16(value + 2, version);
    uint32_t crc = vd_crc32c(vd_crc32c(0, "disk", 5), key, sizeof(key));
    vd_put_le32(value + v.mv_size - 4, vd_crc32c(crc, value, v.mv_size - 4));
    ck_assert_int_eq(mdb_put(txn, dbi, &k, &v, 0), 0);
    ck_assert_int_eq(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    vd_meta_disk_path(p->store, uuid, path, sizeof(path));
    strcat(path, "/meta.sum");
    ck_assert_int_eq(unlink(path), 0); /* as if the writer had died */
}

START_TEST(newer_record_is_refused_by_name)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    set_version(&p, &uuid, 2);
    for (int pass = 0; pass < 2; pass++) { /* from the rebuilt copy, then from the file */
        struct vd_meta *m = must_open(&p, &uuid, pass ? VD_META_WRITE : VD_META_READ);
        struct vd_disk_record d;
        struct vd_layer_record l;
        ck_assert_int_eq(vd_meta_get_disk(m, &d), -EUCLEAN);
        ck_assert_ptr_nonnull(strstr(vd_meta_why(m), "version 2; this program knows 1"));
        ck_assert_ptr_nonnull(strstr(vd_meta_why(m), "meta.mdb"));
        ck_assert_int_eq(vd_meta_get_layer(m, 0, &l), 0);
        int n[2] = {0, 0};
        ck_assert_int_eq(vd_meta_walk(m, count_raw, n), 0);
        ck_assert_int_eq(n[1], 0);
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

START_TEST(newer_sum_is_refused_by_name)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct bytes sum = file_load(&p, &uuid, "meta.sum");
    vd_put_le32(sum.p + 8, 2);
    vd_put_le32(sum.p + 36, vd_crc32c(0, sum.p, 36));
    file_store(&p, &uuid, "meta.sum", sum.p, sum.len);
    char why[VD_META_WHY];
    struct vd_meta *m;
    ck_assert_int_eq(vd_meta_open(p.store, &uuid, VD_META_READ, &m, why), -EUCLEAN);
    ck_assert_ptr_nonnull(strstr(why, "version 2; this program knows 1"));
    free(sum.p);
    place_drop(&p);
}
END_TEST

START_TEST(store_folder_must_be_a_folder)
{
    struct place p;
    place_make(&p);
    vd_meta_store_close(vd_steal_ptr(p.store));
    struct stat st;
    ck_assert_int_eq(fstatat(p.fd, ".vdiskfs", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0700);
    ck_assert_int_eq(renameat(p.fd, ".vdiskfs", p.fd, "real"), 0);
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, false, &p.store), -ENOENT);
    ck_assert_int_eq(symlinkat("real", p.fd, ".vdiskfs"), 0);
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, false, &p.store), -ELOOP);
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, true, &p.store), -ELOOP);
    ck_assert_int_eq(unlinkat(p.fd, ".vdiskfs", 0), 0);
    close(openat(p.fd, ".vdiskfs", O_WRONLY | O_CREAT, 0600));
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, true, &p.store), -ENOTDIR);
    /* A folder that the user names may be a link. */
    char path[160];
    snprintf(path, sizeof(path), "%s/link", p.dir);
    ck_assert_int_eq(symlink("real", path), 0);
    ck_assert_int_eq(vd_meta_store_open(p.fd, path, true, &p.store), 0);
    place_drop(&p);
}
END_TEST

START_TEST(files_are_not_followed_through_links)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    char path[512], why[VD_META_WHY];
    struct vd_meta *m;
    vd_meta_disk_path(p.store, &uuid, path, sizeof(path));
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_eq(renameat(dir, "meta.mdb", p.fd, "elsewhere"), 0);
    ck_assert_int_eq(symlinkat("../../../elsewhere", dir, "meta.mdb"), 0);
    ck_assert_int_eq(vd_meta_open(p.store, &uuid, VD_META_READ, &m, why), -ELOOP);
    ck_assert_int_eq(vd_meta_open(p.store, &uuid, VD_META_WRITE, &m, why), -ELOOP);
    close(dir);
    place_drop(&p);
}
END_TEST

static int count_disk(void *user, const struct vd_id *uuid)
{
    (*(int *)user)++;
    return 0;
}

START_TEST(removal_and_trash)
{
    struct place p;
    place_make(&p);
    struct vd_id a = make_disk(&p, 1), b = make_disk(&p, 2);
    int n = 0;
    ck_assert_int_eq(vd_meta_each_disk(p.store, count_disk, &n), 0);
    ck_assert_int_eq(n, 2);
    ck_assert_int_eq(vd_meta_remove(p.store, &a), 0);
    ck_assert_int_eq(vd_meta_remove(p.store, &a), -ENOENT);
    char why[VD_META_WHY];
    struct vd_meta *m;
    ck_assert_int_eq(vd_meta_open(p.store, &a, VD_META_READ, &m, why), -ENOENT);
    ck_assert_int_eq(vd_meta_open(p.store, &a, VD_META_WRITE, &m, why), -ENOENT);
    /* Cut after the rename: */
    char from[512], to[160];
    vd_meta_disk_path(p.store, &b, from, sizeof(from));
    snprintf(to, sizeof(to), "%s/.vdiskfs/trash/x", p.dir);
    ck_assert_int_eq(rename(from, to), 0);
    ck_assert_int_eq(vd_meta_empty_trash(p.store), 0);
    ck_assert_int_eq(access(to, F_OK), -1);
    n = 0;
    ck_assert_int_eq(vd_meta_each_disk(p.store, count_disk, &n), 0);
    ck_assert_int_eq(n, 0);
    place_drop(&p);
}
END_TEST

START_TEST(read_only_store)
{
    struct place p;
    place_make(&p);
    vd_meta_store_close(vd_steal_ptr(p.store));
    if (!ramfs_mount(&p, p.dir)) {
        printf("SKIP: may not mount\n");
        ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, true, &p.store), 0);
        place_drop(&p);
        return;
    }
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, true, &p.store), 0);
    struct vd_id with_lock = make_disk(&p, 3), without = make_disk(&p, 4);
    char path[512], why[VD_META_WHY];
    vd_meta_disk_path(p.store, &without, path, sizeof(path));
    strcat(path, "/lock");
    ck_assert_int_eq(unlink(path), 0);
    ramfs_remount_ro(p.dir);
    vd_meta_store_close(p.store);
    ck_assert_int_eq(vd_meta_store_open(p.fd, NULL, true, &p.store), 0);
    struct vd_meta *m = must_open(&p, &with_lock, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &with_lock), 3);
    vd_meta_close(m);
    m = must_open(&p, &without, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(m, &without), 4);
    vd_meta_close(m);
    ck_assert_int_eq(vd_meta_open(p.store, &with_lock, VD_META_WRITE, &m, why), -EROFS);
    struct vd_id fresh;
    ck_assert_int_eq(vd_id_new(&fresh), 0);
    ck_assert_int_eq(vd_meta_open(p.store, &fresh, VD_META_MAKE, &m, why), -EROFS);
    ck_assert_int_eq(vd_meta_remove(p.store, &with_lock), -EROFS);
    ramfs_umount(p.dir);
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        round_trip,
        put_refuses_what_would_not_decode,
        owners_and_their_walk,
        walk_sees_every_record,
        newer_record_is_refused_by_name,
        newer_sum_is_refused_by_name,
        store_folder_must_be_a_folder,
        files_are_not_followed_through_links,
        removal_and_trash,
        read_only_store,
    };
    return run_suite("meta-records", tests, VD_ARRAY_SIZE(tests), 30);
}

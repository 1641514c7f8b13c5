// SPDX-License-Identifier: Apache-2.0
/* What must be warm is warm, and what changed behind the cache's back is never served from it. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "rig.h"

#define SIZE (2u << 20)

static void source_path(struct rig *r, const char *name, char path[128])
{
    snprintf(path, 128, "%s/source/%s", r->dir, name);
}

/* Changes a byte of the file outside, as another program would. */
static void poke(struct rig *r, const char *name, uint64_t off, char value)
{
    char path[128];
    source_path(r, name, path);
    vd_cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(pwrite(fd, &value, 1, (off_t)off), 1);
}

static void read_all(struct vd_disk *d, char value)
{
    uint8_t *buf = malloc(SIZE / 2), *want = malloc(SIZE / 2);
    memset(want, value, SIZE / 2);
    for (uint64_t off = 0; off < SIZE; off += SIZE / 2) {
        ck_assert_int_eq(rig_read(d, off, buf, SIZE / 2), SIZE / 2);
        rig_expect(buf, want, SIZE / 2, off);
    }
    free(buf);
    free(want);
}

static bool try_write_all(struct vd_disk *d, char value)
{
    char *buf = malloc(SIZE / 2);
    bool done = true;
    memset(buf, value, SIZE / 2);
    for (int i = 0; done && i < 2; i++)
        done = rig_write(d, (uint64_t)i * (SIZE / 2), buf, SIZE / 2) == SIZE / 2;
    free(buf);
    return done;
}

static void write_all(struct vd_disk *d, char value)
{
    ck_assert(try_write_all(d, value));
}

static void set_up(struct rig *r)
{
    rig_init(r);
    rig_mount(r);
    rig_make(r, "d", SIZE);
}

static void remount(struct rig *r)
{
    rig_umount(r);
    rig_mount(r);
}

START_TEST(reread_is_warm)
{
    struct rig r;
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    read_all(d, 0);
    ck_assert_uint_eq(rig_stats(d).backing_read_bytes, SIZE);
    read_all(d, 0);
    ck_assert_uint_eq(rig_stats(d).backing_read_bytes, SIZE);
    vd_disk_release(d);
    remount(&r);
    d = rig_open(&r, "d");
    read_all(d, 0);
    ck_assert_uint_eq(rig_stats(d).backing_reads, 0);
    /* written through: warm after the write, and after a remount */
    write_all(d, 'w');
    read_all(d, 'w');
    ck_assert_uint_eq(rig_stats(d).backing_reads, 0);
    vd_disk_release(d);
    remount(&r);
    d = rig_open(&r, "d");
    read_all(d, 'w');
    ck_assert_uint_eq(rig_stats(d).backing_reads, 0);
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

START_TEST(attributes_keep_it_warm)
{
    struct rig r;
    char path[128];
    set_up(&r);
    source_path(&r, "d", path);
    struct vd_disk *d = rig_open(&r, "d");
    read_all(d, 0);
    ck_assert_int_eq(chmod(path, 0640), 0);
    vd_disk_touched(d); /* it came through the mount */
    vd_disk_release(d);
    remount(&r);
    d = rig_open(&r, "d");
    read_all(d, 0);
    ck_assert_uint_eq(rig_stats(d).backing_reads, 0);
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

START_TEST(changed_outside)
{
    struct rig r;
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    write_all(d, 'a');
    vd_disk_release(d);
    rig_umount(&r);
    poke(&r, "d", 5000, 'b');
    rig_mount(&r);
    d = rig_open(&r, "d");
    char c;
    ck_assert_int_eq(rig_read(d, 5000, &c, 1), 1);
    ck_assert_int_eq(c, 'b');
    ck_assert_int_eq(rig_read(d, 5001, &c, 1), 1);
    ck_assert_int_eq(c, 'a');
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

/* Another cache, or none, writes in between. */
static void other_writer(enum vd_cache_mode mode)
{
    struct rig r;
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    write_all(d, 'a');
    vd_disk_release(d);
    rig_umount(&r);

    enum vd_cache_mode was = r.mode;
    r.mode = mode;
    r.cache_name = "other";
    rig_mount(&r);
    d = rig_open(&r, "d");
    write_all(d, 'b');
    vd_disk_release(d);
    rig_umount(&r);

    r.mode = was;
    r.cache_name = "cache";
    rig_mount(&r);
    d = rig_open(&r, "d");
    read_all(d, 'b');
    vd_disk_release(d);
    rig_free(&r);
}

START_TEST(written_through_another_cache)
{
    other_writer(VD_CACHE_WRITETHROUGH);
}
END_TEST

START_TEST(written_with_cache_off)
{
    other_writer(VD_CACHE_OFF);
}
END_TEST

static void copy_with_attributes(const char *from, const char *to)
{
    char cmd[300];
    snprintf(cmd, sizeof(cmd), "cp -a %s %s", from, to);
    ck_assert_int_eq(system(cmd), 0);
}

START_TEST(copied_with_attributes)
{
    struct rig r;
    char path[128], copy[128];
    set_up(&r);
    source_path(&r, "d", path);
    source_path(&r, "copy", copy);
    struct vd_disk *d = rig_open(&r, "d");
    write_all(d, 'a');
    vd_disk_release(d);
    rig_umount(&r);
    copy_with_attributes(path, copy);
    ck_assert_int_gt(getxattr(copy, VD_META_XATTR, NULL, 0), 0);
    rig_mount(&r);
    struct vd_disk *c = rig_open(&r, "copy");
    d = rig_open(&r, "d");
    struct vd_disk_info a, b;
    vd_disk_get_info(c, &a);
    vd_disk_get_info(d, &b);
    ck_assert(!vd_id_eq(&a.uuid, &b.uuid));
    ck_assert(!vd_id_eq(&a.disk_id, &b.disk_id));
    write_all(c, 'c');
    read_all(d, 'a');
    write_all(d, 'd');
    read_all(c, 'c');
    vd_disk_release(c);
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

/* A process that is killed while it writes: cold or right, never stale. */
START_TEST(killed_while_writing)
{
    struct rig r;
    rig_init(&r);
    rig_make(&r, "d", SIZE);
    for (int round = 0; round < 5; round++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct vd_disk *d;
            if (rig_try_mount(&r) == 0 && rig_try_open(&r, "d", &d) == 0 &&
                try_write_all(d, (char)('a' + round)))
                raise(SIGKILL); /* no detach */
            _exit(1);
        }
        ck_assert_int_gt(pid, 0);
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        poke(&r, "d", 0, (char)('a' + round)); /* as it is; only the time stamps move */
        rig_mount(&r);
        struct vd_disk *d = rig_open(&r, "d");
        read_all(d, (char)('a' + round));
        vd_disk_release(d);
        rig_umount(&r);
    }
    rig_free(&r);
}
END_TEST

START_TEST(two_mounts)
{
    struct rig a, b;
    set_up(&a);
    b = a;
    b.cache_name = "other";
    b.disks = NULL;
    b.cache = NULL;
    rig_mount(&b);
    struct vd_disk *da = rig_open(&a, "d"), *db = rig_open(&b, "d");
    char c = 'x', why[VD_META_WHY];
    /* In one process there is no control socket to ask by: the shared holder is asked directly. */
    struct vd_disk_info info;
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(info.owner_state, VD_OWNER_SHARED);
    read_all(da, 0);
    read_all(db, 0);
    ck_assert_int_eq(vd_disks_release_request(b.disks, &info.uuid, why), 0);
    ck_assert_int_eq(rig_write(da, 100, &c, 1), 1);
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), -EBUSY);
    char got = 0;
    ck_assert_int_eq(rig_read(db, 100, &got, 1), 1); /* past its cache */
    ck_assert_int_eq(got, 'x');
    ck_assert_int_eq(rig_write(db, 100, &c, 1), -EBUSY);
    rig_close(&a, da);
    c = 'y';
    ck_assert_int_eq(rig_write(db, 100, &c, 1), 1);
    da = rig_open(&a, "d");
    ck_assert_int_eq(rig_read(da, 100, &got, 1), 1);
    ck_assert_int_eq(got, 'y');
    rig_close(&b, db);
    vd_disk_release(da);
    rig_umount(&b);
    rig_umount(&a);
    rig_mount(&a);
    da = rig_open(&a, "d");
    ck_assert_int_eq(rig_read(da, 100, &got, 1), 1);
    ck_assert_int_eq(got, 'y');
    vd_disk_release(da);
    rig_free(&a);
}
END_TEST

void add_stale_tests(Suite *s)
{
    TCase *t = tcase_create("stale");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, reread_is_warm);
    tcase_add_test(t, attributes_keep_it_warm);
    tcase_add_test(t, changed_outside);
    tcase_add_test(t, written_through_another_cache);
    tcase_add_test(t, written_with_cache_off);
    tcase_add_test(t, copied_with_attributes);
    tcase_add_test(t, killed_while_writing);
    tcase_add_test(t, two_mounts);
    suite_add_tcase(s, t);
}

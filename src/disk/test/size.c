// SPDX-License-Identifier: Apache-2.0
/* The size that the disk serves by is the file's: after truncations that race with writes, and after
 * changes that were half done. And what a disk is while its file is short or has no name left. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/xattr.h>

#include "rig.h"

#define SIZE (2u << 20)

static struct stat stat_source(struct rig *r, const char *name)
{
    struct stat st;
    ck_assert_int_eq(fstatat(r->source_fd, name, &st, 0), 0);
    return st;
}

static uint64_t size_of(struct vd_disk *d)
{
    struct vd_disk_info info;
    vd_disk_get_info(d, &info);
    return info.size_bytes;
}

static void set_up(struct rig *r)
{
    rig_init(r);
    rig_mount(r);
    rig_make(r, "d", SIZE);
}

static void *write_tail(void *d)
{
    char buf[4096] = "tail";
    ck_assert_int_eq(rig_write(d, SIZE - sizeof(buf), buf, sizeof(buf)), (ssize_t)sizeof(buf));
    return NULL;
}

static void *cut(void *d)
{
    ck_assert_int_eq(rig_truncate(d, 100), 0);
    return NULL;
}

/* As O_TRUNC does it, which the kernel does not keep apart from writes. */
START_TEST(truncation_races_writes)
{
    struct rig r;
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    for (int round = 0; round < 3000; round++) {
        pthread_t t[4];
        ck_assert_int_eq(rig_truncate(d, SIZE), 0);
        for (int i = 0; i < 4; i++)
            ck_assert_int_eq(pthread_create(&t[i], NULL, i == 1 ? cut : write_tail, d), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
        ck_assert_msg(size_of(d) == (uint64_t)stat_source(&r, "d").st_size,
                      "round %d: %llu, but the file has %llu", round,
                      (unsigned long long)size_of(d),
                      (unsigned long long)stat_source(&r, "d").st_size);
    }
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

/* The first half of a write is in the file, the second found no room. */
START_TEST(half_a_write)
{
    struct rig r;
    char buf[8192], got[8192];
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    memset(buf, 'h', sizeof(buf));
    ck_assert_int_eq(rig_write(d, 0, buf, 1), 1);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit lim;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &lim), 0);
    lim.rlim_cur = SIZE + 4096;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
    ck_assert_int_eq(rig_write(d, SIZE, buf, sizeof(buf)), -EFBIG);
    lim.rlim_cur = lim.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &lim), 0);
    ck_assert_int_eq(stat_source(&r, "d").st_size, SIZE + 4096);
    ck_assert_int_eq(rig_read(d, SIZE, got, sizeof(got)), 4096);
    rig_expect((uint8_t *)got, (uint8_t *)buf, 4096, SIZE);
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

/* On a source without attributes: nobody may write past a disk that is still attached. */
START_TEST(short_and_without_attribute)
{
    struct rig r;
    char path[128];
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(rig_truncate(d, 4096), 0);
    snprintf(path, sizeof(path), "%s/source/d", r.dir);
    ck_assert_int_eq(removexattr(path, VD_META_XATTR), 0);
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    struct stat st = stat_source(&r, "d");
    ck_assert(vd_disks_is_disk(r.disks, fd, &st));
    rig_close(&r, d);
    ck_assert(!vd_disks_is_disk(r.disks, fd, &st));
    rig_free(&r);
}
END_TEST

/* Removed through one mount while another has it open, and has not written yet. */
START_TEST(unlinked_through_another_mount)
{
    struct rig a, b;
    char c = 'x', got = 0;
    set_up(&a);
    b = a;
    b.cache_name = "other";
    rig_mount(&b);
    struct vd_disk *d = rig_open(&b, "d");
    ck_assert_int_eq(rig_read(d, 0, &got, 1), 1);
    vd_cleanup_close int fd = openat(a.source_fd, "d", O_PATH | O_CLOEXEC);
    ck_assert_int_eq(unlinkat(a.source_fd, "d", 0), 0);
    vd_disks_gone(a.disks, fd);
    rig_umount(&a); /* waits for what the reaper does */
    ck_assert_int_eq(rig_write(d, 5, &c, 1), 1);
    ck_assert_int_eq(rig_read(d, 5, &got, 1), 1);
    ck_assert_int_eq(got, 'x');
    vd_disk_release(d);
    rig_umount(&b);
    rig_mount(&a);
    rig_free(&a);
}
END_TEST

/* Who asks a mount that is being torn down waits instead of failing. */
START_TEST(stopping_owner)
{
    struct rig r;
    struct vd_disk_info info;
    char c = 'x', why[VD_META_WHY];
    set_up(&r);
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(rig_write(d, 0, &c, 1), 1);
    vd_disk_get_info(d, &info);
    ck_assert_int_eq(vd_disks_release_request(r.disks, &info.uuid, why), -EBUSY);
    vd_disks_stopping(r.disks);
    ck_assert_int_eq(vd_disks_release_request(r.disks, &info.uuid, why), -EAGAIN);
    vd_disk_release(d);
    rig_free(&r);
}
END_TEST

void add_size_tests(Suite *s)
{
    TCase *t = tcase_create("size");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, truncation_races_writes);
    tcase_add_test(t, half_a_write);
    tcase_add_test(t, short_and_without_attribute);
    tcase_add_test(t, unlinked_through_another_mount);
    tcase_add_test(t, stopping_owner);
    suite_add_tcase(s, t);
}

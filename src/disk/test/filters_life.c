// SPDX-License-Identifier: Apache-2.0
/* Filters before real disks: what they hold is let go, a detach waits for nothing that waits for it, the stamp of the content. */
#include <fcntl.h>
#include <semaphore.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filters_rig.h"

/* ---- what a filter holds for ever is let go when another is attached ---- */

static int holds_for_ever(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || vd_filter_defer_for(a->disk, a->rq, UINT64_MAX) < 0)
        return 0;
    atomic_store(&held, true);
    return VD_FILTER_DEFER;
}

START_TEST(let_go_at_attach)
{
    struct rig r;
    pthread_t t;
    rig_init(&r);
    r.filter_dir = TEST_FILTERS;
    rig_mount(&r);
    rig_make(&r, "d", BYTES);
    ck_assert_int_eq(attach(&r, "d", "hook0", holds_for_ever), 0);
    struct vd_disk *d = rig_open(&r, "d");
    atomic_store(&hold, false);
    for (int i = 0; i < 3; i++) {
        char name[8];
        struct task one = {.d = d, .off = 0, .write = i == 1};
        atomic_store(&held, false);
        pthread_create(&t, NULL, run_task, &one);
        while (!atomic_load(&held))
            nap();
        snprintf(name, sizeof(name), "hook%d", i + 1);
        ck_assert_int_eq(attach(&r, "d", name, hook_inverting), 0);
        pthread_join(t, NULL);
        ck_assert_int_eq(one.result, sizeof(secret)); /* not failed */
    }
    vd_disks_stopping(r.disks); /* as the mount ends */
    struct task last = {.d = d, .off = 0};
    run_task(&last);
    ck_assert_int_eq(last.result, sizeof(secret));
    rig_close(&r, d);
    rig_free(&r);
}
END_TEST

/* ---- a filter below never lets go of a read of the filter above ---- */

static pthread_t reader;
static atomic_bool reading;

static void *read_one(void *arg)
{
    char byte;
    atomic_store(&reading, true);
    (void)vd_filter_read(arg, &byte, 0, 1);
    return NULL;
}

static int reads_by_itself(const struct hook_args *a)
{
    if (a->call == HOOK_START)
        pthread_create(&reader, NULL, read_one, a->disk);
    else if (a->call == HOOK_DETACH)
        pthread_join(reader, NULL);
    return 0;
}

static int keeps(const struct hook_args *a)
{
    uint64_t token;
    if (a->call != HOOK_SUBMIT || vd_filter_defer(a->disk, a->rq, &token) < 0)
        return 0;
    atomic_store(&held, true);
    return VD_FILTER_DEFER;
}

START_TEST(never_let_go)
{
    struct rig r;
    rig_init(&r);
    r.filter_dir = TEST_FILTERS;
    rig_mount(&r);
    rig_make(&r, "d", BYTES);
    atomic_store(&held, false);
    ck_assert_int_eq(attach(&r, "d", "hook6", keeps), 0);
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(attach(&r, "d", "hook0", reads_by_itself), 0);
    while (!atomic_load(&held))
        nap();
    rig_close(&r, d); /* ends */
    rig_free(&r);
}
END_TEST

/* ---- as many opens as there are threads for them wait for a detach, which waits for nothing that wants such a thread ---- */

#define OPENS 256

static int slow_to_close(const struct hook_args *a)
{
    while (a->call == HOOK_CLOSE && atomic_load(&hold))
        nap();
    return 0;
}

struct open_job {
    struct vd_job job;
    struct rig *r;
    atomic_int *begun, *ended;
};

static void open_and_close(struct vd_job *job)
{
    struct open_job *j = vd_container_of(job, struct open_job, job);
    struct vd_disk *d;
    atomic_int *ended_count = j->ended;
    atomic_fetch_add(j->begun, 1);
    if (rig_try_open(j->r, "d", &d) == 0)
        vd_disk_release(d);
    atomic_fetch_add(ended_count, 1);
}

START_TEST(opens_wait_for_detach)
{
    static struct open_job jobs[OPENS];
    static atomic_int begun, ended_count;
    struct rig a, b;
    char why[VD_META_WHY];
    struct vd_disk *da = two_mounts(&a, &b, giving);
    struct own_read o = {.disk = own};
    rig_make(&a, "e", BYTES);
    ck_assert_int_eq(attach(&a, "e", "hook0", slow_to_close), 0);
    struct vd_disk *de = rig_open(&a, "e");
    another_encrypts(&a, &b, da);
    atomic_store(&hold, true);
    for (int i = 0; i < 8; i++) { /* the threads that detach are busy */
        struct vd_disk *d = rig_open(&a, "e");
        ck_assert_int_eq(vd_disk_client_open(d, true, why), 0);
        vd_disk_client_close(d, true);
    }
    vd_disk_release(da);
    begun = ended_count = 0;
    for (int i = 0; i < OPENS; i++) {
        jobs[i] = (struct open_job){
            .job.run = open_and_close, .r = &a, .begun = &begun, .ended = &ended_count};
        vd_disks_run(a.disks, &jobs[i].job);
    }
    while (begun < OPENS)
        nap();
    read_by_own(&o);
    atomic_store(&hold, false);
    for (int i = 0; ended_count < OPENS && i < 20000; i++)
        nap();
    ck_assert_int_eq(ended_count, OPENS);
    rig_close(&a, de);
    rig_umount(&b);
    rig_free(&a);
}
END_TEST

/* ---- the mount ends while a filter holds a read of a disk whose filters are others by now ---- */

static int holds_while_told(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || a->rq->op != VD_FILTER_READ || !atomic_load(&hold) ||
        vd_filter_defer_for(a->disk, a->rq, UINT64_MAX) < 0)
        return 0;
    atomic_store(&held, true);
    return VD_FILTER_DEFER;
}

START_TEST(ends_while_held)
{
    struct rig a, b;
    atomic_int answered = 0;
    struct vd_disk *db, *da = anothers(&a, &b, holds_while_told, &db);
    atomic_store(&hold, true);
    vd_disk_read(da, 0, 512, one_answered, &answered);
    while (!atomic_load(&held))
        nap();
    atomic_store(&hold, false);
    if (_i)
        ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    rig_umount(&a);
    ck_assert_int_eq(answered, 1);
    rig_close(&b, db);
    rig_free(&b);
}
END_TEST

/* ---- a filter below crypt that fails in a way which must not be taken for the end of the data ---- */

static int no_such_address(const struct hook_args *a)
{
    return a->call == HOOK_SUBMIT && a->rq->op == VD_FILTER_READ ? -ENXIO : 0;
}

START_TEST(crypt_above)
{
    struct rig r;
    char why[VD_META_WHY] = "", dir[128], path[160], config[180];
    uint8_t key[64];
    for (unsigned i = 0; i < sizeof(key); i++)
        key[i] = (uint8_t)(i * 7);
    rig_init(&r);
    snprintf(dir, sizeof(dir), "%s/filters", r.dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    snprintf(path, sizeof(path), "%s/hook9.so", dir);
    ck_assert_int_eq(symlink(TEST_FILTERS "/hook9.so", path), 0);
    snprintf(path, sizeof(path), "%s/crypt.so", dir);
    ck_assert_int_eq(symlink(SHIPPED_FILTERS "/crypt.so", path), 0);
    snprintf(path, sizeof(path), "%s/key", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(write(fd, key, sizeof(key)), sizeof(key));
    close(fd);
    r.filter_dir = dir;
    rig_mount(&r);
    rig_make(&r, "d", BYTES);
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(rig_write(d, 4096, secret, sizeof(secret)), sizeof(secret));
    ck_assert_int_eq(attach(&r, "d", "hook9", no_such_address), 0);
    snprintf(config, sizeof(config), "key-file=%s\n", path);
    vd_cleanup_close int disk = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    ck_assert_int_eq(vd_disks_filter_attach(r.disks, disk, "d", "crypt", config, why), -EIO);
    rig_close(&r, d);
    rig_free(&r);
}
END_TEST

/* ---- the stamp of the content ---- */

static uint64_t stamp;
static int nothing(const struct hook_args *a)
{
    if (a->call == HOOK_START ||
        (a->call == HOOK_EVENT && a->event->type == VD_FILTER_EVENT_RELEASE))
        stamp = vd_filter_epoch(a->disk);
    return 0;
}

static uint64_t stamp_at(struct rig *r)
{
    struct vd_disk *d = rig_open(r, "d");
    uint64_t now = stamp;
    rig_close(r, d);
    return now;
}

START_TEST(stamps)
{
    struct rig r;
    char why[VD_META_WHY];
    rig_init(&r);
    r.filter_dir = TEST_FILTERS;
    rig_mount(&r);
    rig_make(&r, "d", BYTES);
    ck_assert_int_eq(attach(&r, "d", "hook0", nothing), 0);
    settled(&r, "d");
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(rig_write(d, 0, secret, sizeof(secret)), sizeof(secret));
    rig_close(&r, d);
    uint64_t ended = stamp; /* of RELEASE */
    ck_assert_uint_ne(ended, 0);
    ck_assert_uint_eq(stamp_at(&r), ended);
    rig_umount(&r);
    rig_mount(&r);
    ck_assert_uint_eq(stamp_at(&r), ended);
    r.filter_dir = TEST_FILTERS;
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    switch (_i) {
    case 0: /* a writer without filters */
        rig_umount(&r);
        r.filter_dir = NULL;
        rig_mount(&r);
        d = rig_open(&r, "d");
        ck_assert_int_eq(rig_write(d, 65536, "x", 1), 1);
        rig_close(&r, d);
        rig_umount(&r);
        r.filter_dir = TEST_FILTERS;
        rig_mount(&r);
        break;
    case 1:
        ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", "s", why), 0);
        break;
    case 2: /* somebody beside every mount */
    {
        vd_cleanup_close int w = openat(r.source_fd, "d", O_WRONLY | O_CLOEXEC);
        ck_assert_int_eq(pwrite(w, "y", 1, 65536), 1);
        break;
    }
    case 3:
        ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", "s", why), 0);
        ended = stamp_at(&r);
        ck_assert_int_eq(vd_disks_revert(r.disks, fd, "d", "s", why), 0);
        break;
    }
    ck_assert_uint_ne(stamp_at(&r), ended);
    rig_free(&r);
}
END_TEST

/* On a disk that stays open: another live layer, another number. And who opened it is told to close it. */
static atomic_uint nopens, ncloses;

static int opened_and_closed(const struct hook_args *a)
{
    nopens += a->call == HOOK_OPEN;
    ncloses += a->call == HOOK_CLOSE;
    return giving(a);
}

START_TEST(while_open)
{
    struct rig r;
    char why[VD_META_WHY];
    rig_init(&r);
    r.filter_dir = TEST_FILTERS;
    rig_mount(&r);
    rig_make(&r, "d", BYTES);
    nopens = ncloses = 0;
    ck_assert_int_eq(attach(&r, "d", "hook0", opened_and_closed), 0);
    struct vd_disk *d = rig_open(&r, "d");
    ck_assert_int_eq(vd_disk_client_open(d, true, why), 0);
    ck_assert_int_eq(rig_write(d, 0, secret, sizeof(secret)), sizeof(secret));
    uint64_t before = vd_filter_epoch(own);
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", "s", why), 0);
    ck_assert_uint_ne(vd_filter_epoch(own), before);
    vd_disk_client_close(d, true);
    for (int i = 0; ncloses == 0 && i < 10000; i++)
        nap();
    ck_assert_uint_eq(nopens, 1);
    ck_assert_uint_eq(ncloses, 1);
    rig_free(&r);
}
END_TEST

void add_filters_life_tests(Suite *s)
{
    TCase *t = tcase_create("lives of filters");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, let_go_at_attach);
    tcase_add_test(t, never_let_go);
    tcase_add_test(t, opens_wait_for_detach);
    tcase_add_loop_test(t, ends_while_held, 0, 2);
    tcase_add_test(t, crypt_above);
    tcase_add_loop_test(t, stamps, 0, 4);
    tcase_add_test(t, while_open);
    suite_add_tcase(s, t);
}

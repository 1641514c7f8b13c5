// SPDX-License-Identifier: Apache-2.0
/*
 * Filters before real disks: what the cache and the image hold, filters that come and go under load, other mounts, clones, sizes.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "filters_rig.h"

/* ---- two filters, played here ---- */

static atomic_uint nsubmits, ndones, nevents;
static atomic_int refuse; /* type of the event to be refused, or -1 */

static int counting(const struct hook_args *a)
{
    if (a->call == HOOK_SUBMIT)
        nsubmits++;
    else if (a->call == HOOK_DONE)
        ndones++;
    else if (a->call == HOOK_EVENT)
        nevents++;
    if (a->call == HOOK_EVENT && (int)a->event->type == atomic_load(&refuse)) {
        vd_filter_why(a->disk, "not now");
        return -EPERM;
    }
    return 0;
}

static int detach(struct rig *r, const char *disk, const char *name)
{
    char why[VD_META_WHY];
    vd_cleanup_close int fd = openat(r->source_fd, disk, O_PATH | O_CLOEXEC);
    return vd_disks_filter_detach(r->disks, fd, disk, name, why);
}

static void begin(struct rig *r)
{
    rig_init(r);
    r->filter_dir = TEST_FILTERS;
    rig_mount(r);
    rig_make(r, "d", BYTES);
    nsubmits = ndones = nevents = 0;
    atomic_store(&refuse, -1);
}

/* ---- plain bytes are above only ---- */

static bool folder_has(const struct rig *r, const char *name)
{
    char path[160];
    snprintf(path, sizeof(path), "%s/%s", r->dir, name);
    vd_cleanup_fclose FILE *f = fopen(path, "re");
    ck_assert_ptr_nonnull(f);
    static uint8_t bytes[8u << 20];
    size_t n = fread(bytes, 1, sizeof(bytes), f);
    return memmem(bytes, n, secret, sizeof(secret)) != NULL;
}

static void expect_secret(struct vd_disk *d, uint64_t off)
{
    char got[sizeof(secret)];
    ck_assert_int_eq(rig_read(d, off, got, sizeof(got)), sizeof(got));
    ck_assert_int_eq(memcmp(got, secret, sizeof(got)), 0);
}

START_TEST(nothing_plain_below)
{
    struct rig r;
    begin(&r);
    r.cache_bytes = 4u << 20;
    rig_umount(&r);
    rig_mount(&r);
    ck_assert_int_eq(attach(&r, "d", "hook6", hook_inverting), 0);
    struct vd_disk *d = rig_open(&r, "d");
    for (uint64_t off = 0; off < BYTES; off += 64 * 1024 + 512)
        ck_assert_int_eq(rig_write(d, off, secret, sizeof(secret)), sizeof(secret));
    expect_secret(d, 0);
    rig_close(&r, d);
    ck_assert(!folder_has(&r, "source/d"));
    /* a cold cache: what is read is admitted as it lies in the image */
    rig_umount(&r);
    r.cache_name = "other";
    rig_mount(&r);
    d = rig_open(&r, "d");
    for (int round = 0; round < 2; round++)
        for (uint64_t off = 0; off < BYTES; off += 64 * 1024 + 512)
            expect_secret(d, off);
    struct vd_disk_stats s = rig_stats(d);
    ck_assert_uint_ge(s.hits, BYTES / (64 * 1024 + 512));
    rig_close(&r, d);
    rig_umount(&r);
    ck_assert(!folder_has(&r, "other/data"));
    ck_assert(!folder_has(&r, "cache/data"));
    r.cache_name = "cache";
    rig_mount(&r);
    rig_free(&r);
}
END_TEST

/* ---- under load ---- */

struct worker {
    struct vd_disk *d;
    uint64_t first; /* block */
    atomic_bool *stop;
    unsigned rounds;
    bool wrong;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    uint8_t out[VD_BLOCK_SIZE], in[VD_BLOCK_SIZE];
    while (!atomic_load(w->stop)) {
        memset(out, (int)(++w->rounds % 250 + 1), sizeof(out));
        uint64_t off = (w->first + w->rounds % 8) * VD_BLOCK_SIZE;
        if (rig_write(w->d, off, out, sizeof(out)) != sizeof(out) ||
            rig_read(w->d, off, in, sizeof(in)) != sizeof(in) || memcmp(in, out, sizeof(in)) != 0 ||
            (w->rounds % 16 == 0 && rig_flush(w->d) != 0)) {
            w->wrong = true;
            break;
        }
    }
    return NULL;
}

START_TEST(come_and_go)
{
    struct rig r;
    pthread_t t[4];
    struct worker w[4];
    atomic_bool stop = false;
    char name[32], why[VD_META_WHY];
    begin(&r);
    struct vd_disk *d = rig_open(&r, "d");
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct worker){.d = d, .first = i * 8, .stop = &stop};
        ck_assert_int_eq(pthread_create(&t[i], NULL, work, &w[i]), 0);
    }
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    for (int i = 0; i < 12; i++) {
        ck_assert_int_eq(attach(&r, "d", "hook0", counting), 0);
        ck_assert_int_eq(attach(&r, "d", "hook9", counting), 0);
        ck_assert_int_eq(attach(&r, "d", "hook9", counting), -EEXIST);
        snprintf(name, sizeof(name), "s%d", i);
        if (i % 4 == 0)
            ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", name, why), 0);
        ck_assert_int_eq(detach(&r, "d", "hook0"), 0);
        ck_assert_int_eq(detach(&r, "d", "hook0"), -ENOENT);
        ck_assert_int_eq(detach(&r, "d", "hook9"), 0);
    }
    atomic_store(&stop, true);
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        ck_assert(!w[i].wrong);
        ck_assert_uint_gt(w[i].rounds, 0);
    }
    ck_assert_uint_gt(nsubmits, 0);
    ck_assert_uint_eq(nsubmits, ndones);
    rig_close(&r, d);
    rig_free(&r);
}
END_TEST

/* ---- kept; another mount ---- */

START_TEST(other_mount)
{
    struct rig a, b;
    char buf[sizeof(secret)];
    begin(&a);
    struct vd_disk *da = rig_open(&a, "d"), *db;
    ck_assert_int_eq(rig_read(da, 0, buf, sizeof(buf)),
                     sizeof(buf)); /* shared, cached, without filters */
    /* the same source, mounted a second time */
    b = a;
    b.cache_name = "other";
    ck_assert_int_eq(rig_try_mount(&b), 0);
    /* a has it shared, and has no control socket that could be asked: its share is given up as if it were */
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), 0);
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    db = rig_open(&b, "d");
    ck_assert_int_eq(rig_write(db, 0, secret, sizeof(secret)), sizeof(secret));
    expect_secret(da, 0); /* past its cache, by b's filters */
    rig_close(&b, db);
    /* a's first write after b has let go meets the filter, too */
    ck_assert_int_eq(rig_write(da, 8192, secret, sizeof(secret)), sizeof(secret));
    rig_close(&a, da);
    ck_assert(!folder_has(&a, "source/d"));
    ck_assert_int_eq(detach(&b, "d", "hook7"), 0);
    da = rig_open(&a, "d");
    ck_assert_int_eq(rig_read(da, 0, buf, sizeof(buf)), sizeof(buf));
    ck_assert_int_eq(buf[0], (char)~secret[0]);
    rig_close(&a, da);
    rig_umount(&b);
    rig_free(&a);
}
END_TEST

/* ---- events ---- */

START_TEST(events)
{
    struct rig r;
    char why[VD_META_WHY] = "";
    begin(&r);
    ck_assert_int_eq(attach(&r, "d", "hook1", counting), 0);
    struct vd_disk *d = rig_open(&r, "d");
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    atomic_store(&refuse, VD_FILTER_EVENT_SNAPSHOT);
    ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", "s", why), -EPERM);
    ck_assert_msg(strstr(why, "hook1: not now"), "%s", why);
    atomic_store(&refuse, VD_FILTER_EVENT_GROW);
    ck_assert_int_eq(rig_truncate(d, BYTES + 4096), -EPERM);
    ck_assert_int_eq(rig_zero(d, VD_ALLOC_EXTEND, BYTES, 4096), -EPERM);
    ck_assert_int_eq(rig_zero(d, VD_ALLOC_KEEP, BYTES, 4096), 0);
    ck_assert_int_eq(rig_truncate(d, BYTES), 0);
    ck_assert_int_eq(rig_truncate(d, BYTES - 4096), 0);
    atomic_store(&refuse, VD_FILTER_EVENT_SHRINK);
    ck_assert_int_eq(rig_truncate(d, BYTES - 8192), -EPERM);
    vd_disk_get_info(d, &(struct vd_disk_info){0});
    atomic_store(&refuse, -1);
    ck_assert_int_eq(vd_disks_snapshot(r.disks, fd, "d", "s", why), 0);
    /* requests of each kind are seen, allocations and seeks are not */
    nsubmits = 0;
    ck_assert_int_eq(rig_zero(d, VD_ZERO_PUNCH, 0, 4096), 0);
    ck_assert_int_eq(rig_zero(d, VD_ZERO_KEEP, 0, 4096), 0);
    ck_assert_int_eq(rig_zero(d, VD_ZERO_EXTEND, 0, 4096), 0);
    ck_assert_int_eq(rig_flush(d), 0);
    ck_assert_int_eq(rig_zero(d, VD_ALLOC_KEEP, 0, 4096), 0);
    ck_assert_uint_eq(nsubmits, 4);
    unsigned before = nevents;
    rig_close(&r, d);
    ck_assert_uint_eq(nevents, before + 2); /* DRAIN, RELEASE */
    rig_free(&r);
}
END_TEST

/* ---- a required filter that has been quarantined ---- */

static int makes_no_sense(const struct hook_args *a)
{
    return a->call == HOOK_SUBMIT && a->rq->op == VD_FILTER_FLUSH ? 77 : 0;
}

START_TEST(refused)
{
    struct rig r;
    char config[80], why[VD_META_WHY] = "", byte = 'x';
    begin(&r);
    struct vd_disk *d = rig_open(&r, "d");
    vd_cleanup_close int fd = openat(r.source_fd, "d", O_PATH | O_CLOEXEC);
    snprintf(config, sizeof(config), "hook=%llu\nrequired=yes\n",
             (unsigned long long)(uintptr_t)makes_no_sense);
    ck_assert_int_eq(vd_disks_filter_attach(r.disks, fd, "d", "hook0", config, why), 0);
    ck_assert_int_eq(rig_truncate(d, BYTES - 4096), 0);
    ck_assert_int_eq(rig_flush(d), -EIO);
    /* no operation goes on, those that filters do not see among them */
    ck_assert_int_eq(rig_read(d, 0, &byte, 1), -EIO);
    ck_assert_int_eq(rig_write(d, 0, &byte, 1), -EIO);
    ck_assert_int_eq(rig_flush(d), -EIO);
    ck_assert_int_eq(rig_zero(d, VD_ZERO_PUNCH, 0, 4096), -EIO);
    ck_assert_int_eq(rig_zero(d, VD_ALLOC_KEEP, 0, 4096), -EIO);
    ck_assert_int_eq(rig_zero(d, VD_ALLOC_EXTEND, BYTES, 4096), -EIO);
    ck_assert_int_eq(rig_truncate(d, BYTES), -EIO);
    ck_assert_int_eq(vd_disk_client_open(d, false, why), -EIO);
    ck_assert_int_eq(detach(&r, "d", "hook0"), 0);
    ck_assert_int_eq(rig_truncate(d, BYTES), 0);
    ck_assert_int_eq(rig_read(d, 0, &byte, 1), 1);
    rig_close(&r, d);
    rig_free(&r);
}
END_TEST

/* ---- the last word of a filter that is attached ---- */

static atomic_uint nreadies, ndetaches;
static atomic_bool refuse_ready, was_disturbed;
static int64_t first_data, behind_data;

static int last_word(const struct hook_args *a)
{
    ndetaches += a->call == HOOK_DETACH;
    if (a->call != HOOK_READY)
        return 0;
    nreadies++;
    unsigned before = nsubmits;
    bool disturbed = ndones != before;
    first_data = vd_filter_next_data(a->disk, 0);
    behind_data = vd_filter_next_data(a->disk, BYTES - 1);
    for (int i = 0; i < 1000; i++)
        sched_yield();
    atomic_store(&was_disturbed, disturbed || nsubmits != before || ndones != before);
    return atomic_load(&refuse_ready) ? -EPERM : 0;
}

START_TEST(ready)
{
    struct rig r;
    pthread_t t;
    atomic_bool stop = false;
    begin(&r);
    nreadies = ndetaches = 0;
    ck_assert_int_eq(attach(&r, "d", "hook0", counting), 0);
    struct vd_disk *d = rig_open(&r, "d");
    struct worker w = {.d = d, .first = 8, .stop = &stop};
    ck_assert_int_eq(pthread_create(&t, NULL, work, &w), 0);
    for (unsigned i = 0; i < 20; i++) {
        atomic_store(&refuse_ready, i % 2);
        ck_assert_int_eq(attach(&r, "d", "hook1", last_word), i % 2 ? -EPERM : 0);
        ck_assert_uint_eq(nreadies, i + 1);
        ck_assert(!was_disturbed);
        ck_assert_int_eq(detach(&r, "d", "hook1"), i % 2 ? -ENOENT : 0);
        ck_assert_uint_eq(ndetaches, i + 1);
    }
    atomic_store(&stop, true);
    pthread_join(t, NULL);
    ck_assert(!w.wrong);
    ck_assert_int_ge(first_data, 0);
    ck_assert_int_lt(first_data, BYTES / 2);
    ck_assert_int_eq(behind_data, -ENXIO);
    /* not where it is found in the metadata */
    atomic_store(&refuse_ready, false);
    ck_assert_int_eq(attach(&r, "d", "hook1", last_word), 0);
    rig_close(&r, d);
    nreadies = 0;
    d = rig_open(&r, "d");
    ck_assert_uint_eq(nreadies, 0);
    rig_close(&r, d);
    rig_free(&r);
}
END_TEST

void add_filters_tests(Suite *s)
{
    TCase *t = tcase_create("filters");
    tcase_set_timeout(t, 200);
    tcase_add_test(t, nothing_plain_below);
    tcase_add_test(t, come_and_go);
    tcase_add_test(t, other_mount);
    tcase_add_test(t, events);
    tcase_add_test(t, refused);
    tcase_add_test(t, ready);
    suite_add_tcase(s, t);
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Filters before real disks: requests and filters' own threads that are under way when another mount changes the filters,
 * a filter that never lets go, the stamp of the content.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hook.h"
#include "rig.h"

#define BYTES (2u << 20)

static const char secret[] = "this is what the guest wrote, and nobody below may see it";

static void invert(uint8_t *to, const uint8_t *from, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        to[i] = (uint8_t)~from[i];
}

static int attach(struct rig *r, const char *disk, const char *name, hook_fn *fn)
{
    char config[64], why[VD_META_WHY] = "";
    vd_cleanup_close int fd = openat(r->source_fd, disk, O_PATH | O_CLOEXEC);
    snprintf(config, sizeof(config), "hook=%llu\n", (unsigned long long)(uintptr_t)fn);
    int e = vd_disks_filter_attach(r->disks, fd, disk, name, config, why);
    if (e < 0)
        fprintf(stderr, "%s\n", why);
    return e;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void settled(struct rig *r, const char *name)
{
    struct vd_disk *d = rig_open(r, name);
    rig_close(r, d);
}

static bool file_has(const struct rig *r, const void *what, size_t len)
{
    static uint8_t bytes[BYTES];
    vd_cleanup_close int fd = openat(r->source_fd, "d", O_RDONLY | O_CLOEXEC);
    ssize_t n = pread(fd, bytes, sizeof(bytes), 0);
    return n > 0 && memmem(bytes, (size_t)n, what, len) != NULL;
}

/* ---- under way while another mount attaches a filter ---- */

static atomic_bool hold, held;

static int blocking(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || !atomic_load(&hold) ||
        (a->rq->offset != 8192 && a->rq->op != VD_FILTER_FLUSH))
        return 0;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    atomic_store(&held, true);
    while (atomic_load(&hold))
        nap();
    return 0;
}

static int passing(const struct hook_args *a)
{
    return 0;
}

struct task {
    struct vd_disk *d;
    uint64_t off;
    bool write, flush;
    char buf[sizeof(secret)];
    ssize_t result;
};

static void *run_task(void *arg)
{
    struct task *t = arg;
    if (t->write)
        memcpy(t->buf, secret, sizeof(secret));
    t->result = t->flush   ? rig_flush(t->d)
                : t->write ? rig_write(t->d, t->off, t->buf, sizeof(t->buf))
                           : rig_read(t->d, t->off, t->buf, sizeof(t->buf));
    return NULL;
}

static enum vd_owner_state state_of(struct vd_disk *d)
{
    struct vd_disk_info info;
    vd_disk_get_info(d, &info);
    return info.owner_state;
}

/* A gives up its share, B attaches hook7, which inverts, and writes the secret at 0 and 8192; B lets go. */
static void another_encrypts(struct rig *a, struct rig *b, struct vd_disk *da)
{
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a->disks, &info.uuid, why), 0);
    ck_assert_int_eq(attach(b, "d", "hook7", hook_inverting), 0);
    struct vd_disk *db = rig_open(b, "d");
    ck_assert_int_eq(rig_write(db, 8192, secret, sizeof(secret)), sizeof(secret));
    rig_close(b, db);
}

static uint8_t inverted[sizeof(secret)];

/* Two mounts of a disk D that hook0 filters; A shares it. */
static struct vd_disk *two_mounts(struct rig *a, struct rig *b, hook_fn *fn)
{
    invert(inverted, (const uint8_t *)secret, sizeof(secret));
    atomic_store(&hold, false);
    atomic_store(&held, false);
    rig_init(a);
    a->filter_dir = TEST_FILTERS;
    rig_mount(a);
    rig_make(a, "d", BYTES);
    if (fn)
        ck_assert_int_eq(attach(a, "d", "hook0", fn), 0);
    settled(a, "d");
    *b = *a;
    b->cache_name = "other";
    ck_assert_int_eq(rig_try_mount(b), 0);
    struct vd_disk *da = rig_open(a, "d");
    ck_assert_int_eq(state_of(da), VD_OWNER_SHARED);
    return da;
}

/* Two mounts of a disk D that B writes, and A only reads; hook0 filters it where FN is given. */
static struct vd_disk *anothers(struct rig *a, struct rig *b, hook_fn *fn, struct vd_disk **ret_db)
{
    rig_close(a, two_mounts(a, b, fn));
    *ret_db = rig_open(b, "d");
    ck_assert_int_eq(rig_write(*ret_db, 65536, "x", 1), 1);
    struct vd_disk *da = rig_open(a, "d");
    ck_assert_int_eq(state_of(da), VD_OWNER_NONE);
    return da;
}

static void end_two(struct rig *a, struct rig *b, struct vd_disk *da)
{
    rig_close(a, da);
    rig_umount(b);
    rig_free(a);
}

/* While a filter holds a first write the disk is its mount's: no other changes the filters meanwhile. */
START_TEST(write_under_way)
{
    struct rig a, b;
    struct vd_disk *da = two_mounts(&a, &b, blocking);
    struct vd_disk_info info;
    char why[VD_META_WHY];
    pthread_t t;
    struct task one = {.d = da, .off = 8192, .write = true};
    vd_disk_get_info(da, &info);
    atomic_store(&hold, true);
    pthread_create(&t, NULL, run_task, &one);
    while (!atomic_load(&held))
        nap();
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), -EBUSY);
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), -EBUSY);
    atomic_store(&hold, false);
    pthread_join(t, NULL);
    ck_assert_int_eq(one.result, sizeof(secret));
    end_two(&a, &b, da);
}
END_TEST

/* The next read of HELD_OFF in the backing waits while HOLD is set. */
#define HELD_OFF 8192
static atomic_bool hold_backing;

ssize_t pread(int fd, void *buf, size_t len, off_t off)
{
    if (off == HELD_OFF && atomic_exchange(&hold_backing, false)) {
        atomic_store(&held, true);
        while (atomic_load(&hold))
            nap();
    }
    return syscall(SYS_pread64, fd, buf, len, off);
}

enum { HELD_IN_FILTER, HELD_BELOW_FILTER, HELD_WITHOUT_FILTER, PLACES };

/* A read is held, another mount attaches a filter and writes by it, and lets go. The reader gets what the guest wrote; at no
 * time what lies below. */
START_TEST(read_under_way)
{
    struct rig a, b;
    int place = _i;
    hook_fn *fns[PLACES] = {[HELD_IN_FILTER] = blocking, [HELD_BELOW_FILTER] = passing};
    struct vd_disk *da = two_mounts(&a, &b, fns[place]);
    char both[4096 + sizeof(secret)] = {0};
    pthread_t t;
    struct task one = {.d = da, .off = HELD_OFF};
    memcpy(both + 4096, secret, sizeof(secret));
    atomic_store(&hold_backing, place != HELD_IN_FILTER);
    atomic_store(&hold, true);
    pthread_create(&t, NULL, run_task, &one);
    while (!atomic_load(&held))
        nap();
    struct vd_disk_info info;
    char why[VD_META_WHY];
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), 0);
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    struct vd_disk *db = rig_open(&b, "d");
    /* another offset than hook0 holds, but those bytes */
    ck_assert_int_eq(rig_write(db, HELD_OFF - 4096, both, sizeof(both)), sizeof(both));
    rig_close(&b, db);
    atomic_store(&hold, false);
    pthread_join(t, NULL);
    ck_assert_int_eq(one.result, sizeof(secret));
    ck_assert(memcmp(one.buf, inverted, sizeof(inverted)) != 0);
    ck_assert_int_eq(memcmp(one.buf, secret, sizeof(secret)), 0);
    ck_assert(!file_has(&a, secret, sizeof(secret)));
    end_two(&a, &b, da);
}
END_TEST

/* ---- a filter's own thread, on a disk whose filters another mount has changed ---- */

static struct vd_filter_disk *own;

static int giving(const struct hook_args *a)
{
    if (a->call == HOOK_START)
        own = a->disk;
    return 0;
}

struct own_read {
    struct vd_filter_disk *disk;
    uint8_t buf[sizeof(secret)];
    int64_t n;
};

static void *read_by_own(void *arg)
{
    struct own_read *o = arg;
    o->n = vd_filter_read(o->disk, o->buf, HELD_OFF, sizeof(o->buf));
    return NULL;
}

/* It reads when they have been changed, or while. It is told an error until its disk has the new ones, and does not wait for them. */
START_TEST(own_thread)
{
    struct rig a, b;
    bool meanwhile = _i == 1;
    struct vd_disk *da = two_mounts(&a, &b, giving);
    struct own_read o = {.disk = own};
    pthread_t t;
    if (meanwhile) {
        atomic_store(&hold_backing, true);
        atomic_store(&hold, true);
        pthread_create(&t, NULL, read_by_own, &o);
        while (!atomic_load(&held))
            nap();
    }
    another_encrypts(&a, &b, da);
    atomic_store(&hold, false);
    if (meanwhile)
        pthread_join(t, NULL);
    else
        read_by_own(&o);
    ck_assert_msg(o.n < 0 || memcmp(o.buf, inverted, sizeof(inverted)) != 0,
                  "the filter's thread read what lies below");
    /* without a request of a client's */
    for (int i = 0; o.n < 0 && i < 10000; i++) {
        nap();
        read_by_own(&o);
    }
    ck_assert_int_eq(o.n, sizeof(secret));
    ck_assert_int_eq(memcmp(o.buf, secret, sizeof(secret)), 0);
    end_two(&a, &b, da);
}
END_TEST

/* ---- changed again while the chain is being made anew ---- */

static uint8_t at_attach[sizeof(secret)];
static int64_t at_attach_n;

/* Reads what it is put before, after a while. */
static int slow_to_attach(const struct hook_args *a)
{
    if (a->call != HOOK_ATTACH || a->info->fresh)
        return 0;
    if (atomic_load(&hold))
        atomic_store(&held, true);
    while (atomic_load(&hold))
        nap();
    at_attach_n = vd_filter_read(a->disk, at_attach, 0, sizeof(at_attach));
    return 0;
}

static void followed(void *user, ssize_t result, const void *data)
{
    sem_post(user);
}

START_TEST(changed_twice)
{
    struct rig a, b;
    pthread_t t1, t2;
    sem_t sem;
    struct vd_disk *db, *da = anothers(&a, &b, NULL, &db);
    atomic_store(&hold, true);
    atomic_store(&held, false);
    ck_assert_int_eq(attach(&b, "d", "hook2", slow_to_attach), 0);
    struct task one = {.d = da, .off = 65536}, two = {.d = da, .off = 0};
    pthread_create(&t1, NULL, run_task, &one); /* makes the chain anew */
    while (!atomic_load(&held))
        nap();
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    ck_assert_int_eq(rig_write(db, 0, secret, sizeof(secret)), sizeof(secret));
    pthread_create(&t2, NULL, run_task, &two); /* has seen that, and waits for the other */
    for (int i = 0; i < 200; i++)
        nap();
    atomic_store(&hold, false);
    pthread_join(t1, NULL);
    pthread_join(t2, NULL);
    /* the one that stays has read by the filters that the disk has now */
    ck_assert_int_eq(at_attach_n, sizeof(at_attach));
    ck_assert_int_eq(memcmp(at_attach, secret, sizeof(secret)), 0);
    ck_assert_msg(two.result < 0 || memcmp(two.buf, inverted, sizeof(inverted)) != 0,
                  "the guest read what lies below");
    sem_init(&sem, 0, 0);
    vd_disk_read(da, 0, 512, followed, &sem);
    sem_wait(&sem);
    ck_assert_int_eq(rig_read(da, 0, two.buf, sizeof(two.buf)), sizeof(two.buf));
    ck_assert_int_eq(memcmp(two.buf, secret, sizeof(secret)), 0);
    rig_close(&b, db);
    end_two(&a, &b, da);
}
END_TEST

/* A change that comes while the chain is being made anew waits for it, and is not failed. */
START_TEST(comes_meanwhile)
{
    struct rig a, b;
    struct vd_disk_info info;
    char why[VD_META_WHY];
    pthread_t t1, t2;
    struct vd_disk *da = two_mounts(&a, &b, NULL);
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), 0);
    atomic_store(&hold, false);
    atomic_store(&held, false);
    ck_assert_int_eq(attach(&b, "d", "hook9", slow_to_attach), 0);
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    settled(&b, "d");
    atomic_store(&hold, true);
    struct task one = {.d = da, .off = 65536, .write = true},
                two = {.d = da, .off = 0, .write = true};
    pthread_create(&t1, NULL, run_task, &one); /* owns the disk, and makes the chain anew */
    while (!atomic_load(&held))
        nap();
    pthread_create(&t2, NULL, run_task, &two);
    for (int i = 0; i < 200; i++)
        nap();
    atomic_store(&hold, false);
    pthread_join(t1, NULL);
    pthread_join(t2, NULL);
    ck_assert_int_eq(one.result, sizeof(secret));
    ck_assert_int_eq(two.result, sizeof(secret));
    ck_assert(!file_has(&a, secret, sizeof(secret)));
    end_two(&a, &b, da);
}
END_TEST

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

/* ---- many requests wait for the new chain ---- */

#define MANY 256

struct many {
    sem_t sem;
    atomic_uint failed, ended;
};

static void many_done(void *user, ssize_t result, const void *data)
{
    struct many *m = user;
    if (result < 0)
        m->failed++;
    m->ended++;
    sem_post(&m->sem);
}

START_TEST(many_wait)
{
    struct rig a, b;
    struct many m = {0};
    struct vd_disk *db, *da = anothers(&a, &b, NULL, &db);
    for (int round = 0; round < 6; round++) {
        char name[8];
        sem_init(&m.sem, 0, 0);
        m.failed = m.ended = 0;
        for (int i = 0; i < MANY; i++) {
            vd_disk_read(da, (uint64_t)i * 4096, 4096, many_done, &m);
            if (i == MANY / 4) {
                snprintf(name, sizeof(name), "hook%d", round);
                ck_assert_int_eq(attach(&b, "d", name, passing), 0);
            }
        }
        for (int i = 0; i < MANY; i++)
            while (sem_wait(&m.sem) < 0)
                ;
        ck_assert_msg(m.failed == 0, "round %d: %u of %d failed", round, m.failed, MANY);
    }
    rig_close(&b, db);
    end_two(&a, &b, da);
}
END_TEST

#define READERS 64

/* One flush is still with a filter, and many have come since, when the filters turn out to be others. */
START_TEST(many_block)
{
    struct rig a, b;
    pthread_t t, many[READERS];
    struct task tasks[READERS];
    struct vd_disk *db, *da = anothers(&a, &b, blocking, &db);
    atomic_store(&hold, true);
    struct task one = {.d = da, .flush = true};
    pthread_create(&t, NULL, run_task, &one);
    while (!atomic_load(&held))
        nap();
    ck_assert_int_eq(attach(&b, "d", "hook9", passing), 0);
    for (int i = 0; i < READERS; i++) {
        tasks[i] = (struct task){.d = da, .off = 65536 + (uint64_t)i * 4096};
        pthread_create(&many[i], NULL, run_task, &tasks[i]);
    }
    for (int i = 0; i < 500; i++) /* not a condition: they have nothing to show */
        nap();
    atomic_store(&hold, false);
    pthread_join(t, NULL);
    unsigned failed = one.result < 0;
    for (int i = 0; i < READERS; i++) {
        pthread_join(many[i], NULL);
        failed += tasks[i].result < 0;
    }
    ck_assert_msg(failed == 0, "%u failed", failed);
    rig_close(&b, db);
    end_two(&a, &b, da);
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

void add_filters_others_tests(Suite *s)
{
    TCase *t = tcase_create("filters and others");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, write_under_way);
    tcase_add_loop_test(t, read_under_way, 0, PLACES);
    tcase_add_loop_test(t, own_thread, 0, 2);
    tcase_add_test(t, changed_twice);
    tcase_add_test(t, comes_meanwhile);
    tcase_add_test(t, let_go_at_attach);
    tcase_add_test(t, many_wait);
    tcase_add_test(t, many_block);
    tcase_add_test(t, never_let_go);
    tcase_add_loop_test(t, stamps, 0, 4);
    tcase_add_test(t, while_open);
    suite_add_tcase(s, t);
}

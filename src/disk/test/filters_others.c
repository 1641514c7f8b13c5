// SPDX-License-Identifier: Apache-2.0
/*
 * Filters before real disks: requests, opens and filters' own threads that are under way when another mount changes the filters,
 * a filter that never lets go, the stamp of the content.
 */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
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

/* ---- changed while the disk is being attached ---- */

static void *open_it(void *arg)
{
    return rig_open(arg, "d");
}

static void one_answered(void *user, ssize_t result, const void *data)
{
    atomic_fetch_add((atomic_int *)user, 1);
}

static void await_one(atomic_int *answered)
{
    for (int i = 0; !*answered && i < 10000; i++)
        nap();
    ck_assert_int_eq(*answered, 1);
}

/* What a filter has read as it was attached is what the guest wrote, and the disk serves. */
START_TEST(changed_at_open)
{
    struct rig a, b;
    pthread_t t;
    void *opened;
    atomic_int answered = 0;
    struct vd_disk *db, *da = anothers(&a, &b, NULL, &db);
    rig_close(&a, da);
    ck_assert_int_eq(attach(&b, "d", "hook2", slow_to_attach), 0);
    atomic_store(&held, false);
    atomic_store(&hold, true);
    pthread_create(&t, NULL, open_it, &a);
    while (!atomic_load(&held))
        nap();
    ck_assert_int_eq(attach(&b, "d", "hook7", hook_inverting), 0);
    ck_assert_int_eq(rig_write(db, 0, secret, sizeof(secret)), sizeof(secret));
    atomic_store(&hold, false);
    pthread_join(t, &opened);
    da = opened;
    ck_assert_int_eq(memcmp(at_attach, secret, sizeof(secret)), 0);
    vd_disk_read(da, 0, 512, one_answered, &answered);
    await_one(&answered);
    rig_close(&b, db);
    end_two(&a, &b, da);
}
END_TEST

/* ---- a filter that keeps what it reads in a callback ---- */

static char kept[4096];
static atomic_bool has_kept;

static int keeps_reads(const struct hook_args *a)
{
    if (a->call != HOOK_SUBMIT || a->rq->op != VD_FILTER_READ || a->rq->offset != HELD_OFF)
        return 0;
    if (!(a->rq->flags & VD_FILTER_MAY_WAIT))
        return VD_FILTER_WAIT;
    if (!has_kept) {
        int64_t n = vd_filter_read(a->disk, kept, HELD_OFF, sizeof(kept));
        if (n < 0)
            return (int)n;
        has_kept = true;
    }
    a->rq->data = vd_filter_alloc(a->disk, a->rq, a->rq->length);
    memcpy(a->rq->data, kept, a->rq->length);
    a->rq->result = (int64_t)a->rq->length;
    return VD_FILTER_COMPLETE;
}

START_TEST(read_in_callback)
{
    struct rig a, b;
    struct vd_disk *da = two_mounts(&a, &b, keeps_reads);
    struct task one = {.d = da, .off = HELD_OFF};
    pthread_t t;
    has_kept = false;
    atomic_store(&hold_backing, true);
    atomic_store(&hold, true);
    pthread_create(&t, NULL, run_task, &one);
    while (!atomic_load(&held))
        nap();
    another_encrypts(&a, &b, da);
    atomic_store(&hold, false);
    pthread_join(t, NULL);
    ck_assert_int_eq(one.result, sizeof(secret));
    ck_assert_int_eq(memcmp(one.buf, secret, sizeof(secret)), 0);
    end_two(&a, &b, da);
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

/* ---- the disk is removed while the chain is being made anew: what its filters were is not known any more ---- */

START_TEST(removed_meanwhile)
{
    struct rig a, b;
    uint8_t buf[sizeof(secret)];
    atomic_int answered = 0;
    struct vd_disk *db, *da = anothers(&a, &b, hook_inverting, &db);
    ck_assert_int_eq(rig_write(db, 0, secret, sizeof(secret)), sizeof(secret));
    ck_assert_int_eq(attach(&b, "d", "hook2", slow_to_attach), 0);
    atomic_store(&held, false);
    atomic_store(&hold, true);
    vd_disk_read(da, 0, 512, one_answered, &answered);
    while (!atomic_load(&held))
        nap();
    ck_assert_int_eq(unlinkat(a.source_fd, "d", 0), 0);
    rig_close(&b, db);
    atomic_store(&hold, false);
    await_one(&answered);
    ssize_t n = rig_read(da, 0, buf, sizeof(buf));
    ck_assert(n < 0 || memcmp(buf, secret, sizeof(buf)) == 0);
    end_two(&a, &b, da);
}
END_TEST

/* ---- who opens is asked of the filters that the disk has now ---- */

static int refuses_open(const struct hook_args *a)
{
    return a->call == HOOK_OPEN ? -EACCES : 0;
}

START_TEST(open_is_asked)
{
    struct rig a, b;
    char why[VD_META_WHY];
    struct vd_disk *db, *da = anothers(&a, &b, passing, &db);
    ck_assert_int_eq(attach(&b, "d", "hook7", refuses_open), 0);
    ck_assert_int_eq(vd_disk_client_open(da, true, why), -EACCES);
    rig_close(&b, db);
    end_two(&a, &b, da);
}
END_TEST

/* ---- detached, and attached again with the same text: another one, as with another key in the same file ---- */

static atomic_int nattaches;

static int counts_attaches(const struct hook_args *a)
{
    nattaches += a->call == HOOK_ATTACH;
    return 0;
}

START_TEST(attached_again)
{
    struct rig a, b;
    char why[VD_META_WHY], byte;
    struct vd_disk *db, *da = anothers(&a, &b, counts_attaches, &db);
    vd_cleanup_close int fd = openat(b.source_fd, "d", O_PATH | O_CLOEXEC);
    ck_assert_int_eq(rig_read(da, 0, &byte, 1), 1);
    nattaches = 0;
    ck_assert_int_eq(vd_disks_filter_detach(b.disks, fd, "d", "hook0", why), 0);
    ck_assert_int_eq(attach(&b, "d", "hook0", counts_attaches), 0);
    ck_assert_int_eq(nattaches, 1);
    ck_assert_int_eq(rig_read(da, 0, &byte, 1), 1);
    ck_assert_int_eq(nattaches, 2);
    rig_close(&b, db);
    end_two(&a, &b, da);
}
END_TEST

/* ---- start reads and writes, also where the chain was made for another mount's change ---- */

static int64_t at_start_read, at_start_write;

static int uses_at_start(const struct hook_args *a)
{
    char buf[16];
    if (a->call != HOOK_START)
        return 0;
    at_start_read = vd_filter_read(a->disk, buf, 0, sizeof(buf));
    at_start_write = vd_filter_write(a->disk, buf, 4096, sizeof(buf));
    return 0;
}

START_TEST(at_start)
{
    struct rig a, b;
    struct vd_disk_info info;
    char why[VD_META_WHY], byte = 'x';
    struct vd_disk *da = two_mounts(&a, &b, NULL);
    vd_disk_get_info(da, &info);
    ck_assert_int_eq(vd_disks_release_request(a.disks, &info.uuid, why), 0);
    ck_assert_int_eq(attach(&b, "d", "hook2", uses_at_start), 0);
    settled(&b, "d");
    at_start_read = at_start_write = 0;
    ck_assert_int_eq(rig_write(da, 65536, &byte, 1), 1);
    ck_assert_int_eq(at_start_read, 16);
    ck_assert_int_eq(at_start_write, 16);
    end_two(&a, &b, da);
}
END_TEST

/* A filter's thread that only writes: its disk gets the new filters, though no client asks for anything. */
START_TEST(own_writes)
{
    struct rig a, b;
    int64_t n = -1;
    struct vd_disk *da = two_mounts(&a, &b, giving);
    struct vd_filter_disk *mine = own;
    another_encrypts(&a, &b, da);
    for (int i = 0; n < 0 && i < 10000; i++) {
        n = vd_filter_write(mine, secret, 0, sizeof(secret));
        nap();
    }
    ck_assert_int_eq(n, sizeof(secret));
    end_two(&a, &b, da);
    ck_assert(!file_has(&a, secret, sizeof(secret)));
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

void add_filters_others_tests(Suite *s)
{
    TCase *t = tcase_create("filters and others");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, write_under_way);
    tcase_add_loop_test(t, read_under_way, 0, PLACES);
    tcase_add_loop_test(t, own_thread, 0, 2);
    tcase_add_test(t, own_writes);
    tcase_add_test(t, read_in_callback);
    tcase_add_test(t, changed_at_open);
    tcase_add_test(t, changed_twice);
    tcase_add_test(t, attached_again);
    tcase_add_test(t, at_start);
    tcase_add_test(t, open_is_asked);
    tcase_add_test(t, removed_meanwhile);
    tcase_add_test(t, opens_wait_for_detach);
    tcase_add_loop_test(t, ends_while_held, 0, 2);
    tcase_add_test(t, crypt_above);
    tcase_add_test(t, comes_meanwhile);
    tcase_add_test(t, let_go_at_attach);
    tcase_add_test(t, many_wait);
    tcase_add_test(t, many_block);
    tcase_add_test(t, never_let_go);
    tcase_add_loop_test(t, stamps, 0, 4);
    tcase_add_test(t, while_open);
    suite_add_tcase(s, t);
}

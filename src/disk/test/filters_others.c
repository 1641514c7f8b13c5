// SPDX-License-Identifier: Apache-2.0
/* Filters before real disks: requests, opens and filters' own threads that are under way when another mount changes the filters. */
#include <fcntl.h>
#include <semaphore.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filters_rig.h"

/* ---- under way while another mount attaches a filter ---- */

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

/* ---- changed while the disk is being attached ---- */

static void *open_it(void *arg)
{
    return rig_open(arg, "d");
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

/* ---- changed again while the chain is being made anew ---- */

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
    await_asleep(&two);
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
    await_asleep(&two);
    atomic_store(&hold, false);
    pthread_join(t1, NULL);
    pthread_join(t2, NULL);
    ck_assert_int_eq(one.result, sizeof(secret));
    ck_assert_int_eq(two.result, sizeof(secret));
    ck_assert(!file_has(&a, secret, sizeof(secret)));
    end_two(&a, &b, da);
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
    for (int i = 0; i < READERS; i++)
        await_asleep(&tasks[i]);
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
    tcase_add_test(t, comes_meanwhile);
    tcase_add_test(t, attached_again);
    tcase_add_test(t, at_start);
    tcase_add_test(t, open_is_asked);
    tcase_add_test(t, removed_meanwhile);
    tcase_add_test(t, many_wait);
    tcase_add_test(t, many_block);
    suite_add_tcase(s, t);
}

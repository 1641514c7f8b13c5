// SPDX-License-Identifier: Apache-2.0
/* Sessions beside each other: threads, processes, and waiting for one that does not end. */
#include "meta_test.h"

#include <pthread.h>

#include "vd_time.h"

#define ROUNDS 40

/* Adds one to the disk's stamp ROUNDS times; 0 or the error. */
static int count_up(struct place *p, const struct vd_id *uuid)
{
    for (int i = 0; i < ROUNDS; i++) {
        char why[VD_META_WHY];
        struct vd_meta *m;
        struct vd_disk_record d;
        int r = vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why);
        if (r < 0)
            return r;
        r = vd_meta_get_disk(m, &d);
        if (r == 0) {
            d = sample_disk(uuid, d.size_bytes + 1);
            r = vd_meta_put_disk(m, &d);
        }
        if (r == 0)
            r = vd_meta_commit(m);
        vd_meta_close(m);
        if (r < 0)
            return r;
    }
    return 0;
}

static uint64_t stamp_now(struct place *p, const struct vd_id *uuid)
{
    struct vd_meta *m = must_open(p, uuid, VD_META_READ);
    struct vd_disk_record d;
    ck_assert_int_eq(vd_meta_get_disk(m, &d), 0);
    vd_meta_close(m);
    return d.size_bytes;
}

START_TEST(two_processes)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 100);
    pid_t pid[3];
    for (size_t i = 0; i < VD_ARRAY_SIZE(pid); i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            _exit(-count_up(&p, &uuid));
    }
    for (size_t i = 0; i < VD_ARRAY_SIZE(pid); i++) {
        int status;
        ck_assert_int_eq(waitpid(pid[i], &status, 0), pid[i]);
        ck_assert_msg(status == 0, "status %x", status);
    }
    ck_assert_uint_eq(stamp_now(&p, &uuid), 100 + 3 * ROUNDS);
    place_drop(&p);
}
END_TEST

struct worker {
    struct place *p;
    const struct vd_id *uuid;
    int r;
};

static void *writer_thread(void *arg)
{
    struct worker *w = arg;
    w->r = count_up(w->p, w->uuid);
    return NULL;
}

/* Reads until it has seen a stamp twice; stamps never go back. */
static void *reader_thread(void *arg)
{
    struct worker *w = arg;
    uint64_t last = 0;
    for (int i = 0; i < 3 * ROUNDS; i++) {
        char why[VD_META_WHY];
        struct vd_meta *m;
        struct vd_disk_record d;
        w->r = vd_meta_open(w->p->store, w->uuid, VD_META_READ, &m, why);
        if (w->r < 0)
            return NULL;
        w->r = vd_meta_get_disk(m, &d);
        vd_meta_close(m);
        if (w->r == 0 && d.size_bytes < last)
            w->r = -ESTALE;
        if (w->r < 0)
            return NULL;
        last = d.size_bytes;
    }
    return NULL;
}

START_TEST(many_threads)
{
    struct place p;
    place_make(&p);
    /* Two disks: sessions of one never meet those of the other. */
    struct vd_id a = make_disk(&p, 100), b = make_disk(&p, 200);
    struct worker w[6] = {{&p, &a, 0}, {&p, &a, 0}, {&p, &a, 0},
                          {&p, &b, 0}, {&p, &b, 0}, {&p, &b, 0}};
    pthread_t t[6];
    for (int i = 0; i < 6; i++)
        ck_assert_int_eq(
            pthread_create(&t[i], NULL, i % 3 == 2 ? reader_thread : writer_thread, &w[i]), 0);
    for (int i = 0; i < 6; i++) {
        pthread_join(t[i], NULL);
        ck_assert_msg(w[i].r == 0, "thread %d: %s", i, strerror(-w[i].r));
    }
    ck_assert_uint_eq(stamp_now(&p, &a), 100 + 2 * ROUNDS);
    ck_assert_uint_eq(stamp_now(&p, &b), 200 + 2 * ROUNDS);
    place_drop(&p);
}
END_TEST

/* Many threads find a dead writer's mark at once. */
START_TEST(threads_after_a_death)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 100);
    leave_open(&p, &uuid, 300);
    struct worker w[4];
    pthread_t t[4];
    for (int i = 0; i < 4; i++) {
        w[i] = (struct worker){&p, &uuid, 0};
        ck_assert_int_eq(pthread_create(&t[i], NULL, i % 2 ? writer_thread : reader_thread, &w[i]),
                         0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        ck_assert_msg(w[i].r == 0, "thread %d: %s", i, strerror(-w[i].r));
    }
    ck_assert_uint_eq(stamp_now(&p, &uuid), 300 + 2 * ROUNDS);
    place_drop(&p);
}
END_TEST

START_TEST(readers_share)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *a = must_open(&p, &uuid, VD_META_READ);
    struct vd_meta *b = must_open(&p, &uuid, VD_META_READ);
    ck_assert_uint_eq(whole_stamp(a, &uuid), 1);
    ck_assert_uint_eq(whole_stamp(b, &uuid), 1);
    vd_meta_close(a);
    vd_meta_close(b);
    place_drop(&p);
}
END_TEST

START_TEST(a_session_that_does_not_end)
{
    struct place p;
    place_make(&p);
    struct vd_id uuid = make_disk(&p, 1);
    struct vd_meta *held = must_open(&p, &uuid, VD_META_WRITE), *m;
    char why[VD_META_WHY];
    uint64_t start = vd_now_ms();
    ck_assert_int_eq(vd_meta_open(p.store, &uuid, VD_META_READ, &m, why), -ETIMEDOUT);
    ck_assert_uint_ge(vd_now_ms() - start, 5000);
    ck_assert_ptr_nonnull(strstr(why, "/lock: held by another process"));
    vd_meta_close(held);
    m = must_open(&p, &uuid, VD_META_READ);
    vd_meta_close(m);
    place_drop(&p);
}
END_TEST

/* Waiting for the lock of a disk that is removed meanwhile: gone, not a session on a grave. */
static void *remover_thread(void *arg)
{
    struct worker *w = arg;
    w->r = vd_meta_remove(w->p->store, w->uuid);
    return NULL;
}

/* Makes the disk, whatever became of it before. */
static void *maker_thread(void *arg)
{
    struct worker *w = arg;
    char why[VD_META_WHY];
    struct vd_meta *m;
    w->r = vd_meta_open(w->p->store, w->uuid, VD_META_MAKE, &m, why);
    if (w->r == 0)
        vd_meta_close(m);
    return NULL;
}

START_TEST(removal_waits_and_is_waited_for)
{
    void *(*const body[])(void *) = {remover_thread, writer_thread, reader_thread, maker_thread};
    struct place p;
    place_make(&p);
    for (int round = 0; round < 60; round++) {
        struct vd_id uuid = make_disk(&p, 1);
        struct vd_meta *m = must_open(&p, &uuid, VD_META_WRITE);
        struct worker w[4];
        pthread_t t[4];
        /* Every third round nobody makes it anew, and in the end it is gone. */
        int n = round % 3 ? 4 : 3;
        for (int i = 0; i < n; i++) {
            w[i] = (struct worker){&p, &uuid, 0};
            ck_assert_int_eq(pthread_create(&t[i], NULL, body[i], &w[i]), 0);
        }
        /* Not a wait for anything: it only makes it likely that all have the lock file open. */
        for (uint64_t end = vd_now_ns() + 1000000; vd_now_ns() < end;)
            ;
        vd_meta_close(m);
        for (int i = 0; i < n; i++)
            pthread_join(t[i], NULL);
        ck_assert_int_eq(w[0].r, 0);
        ck_assert_msg(w[1].r == 0 || w[1].r == -ENOENT, "%d", w[1].r);
        ck_assert_msg(w[2].r == 0 || w[2].r == -ENOENT, "%d", w[2].r);
        if (n == 4)
            ck_assert_msg(w[3].r == 0, "%d", w[3].r);
        char why[VD_META_WHY];
        int r = vd_meta_open(p.store, &uuid, VD_META_READ, &m, why);
        ck_assert(r == -ENOENT || (r == 0 && n == 4));
        if (r == 0)
            vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        two_processes,
        many_threads,
        threads_after_a_death,
        readers_share,
        a_session_that_does_not_end,
        removal_waits_and_is_waited_for,
    };
    return run_suite("meta-sessions", tests, VD_ARRAY_SIZE(tests), 60);
}

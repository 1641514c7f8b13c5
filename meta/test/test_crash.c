// SPDX-License-Identifier: Apache-2.0
/*
 * SIGKILL of a writer at any instant: what opens next is whole, and nothing that was acknowledged
 * is gone. The child tells through a pipe which commit it has seen done; the parent kills it after
 * a random number of those and a random number of nanoseconds.
 */
#include "meta_test.h"

#include <signal.h>

#include "vd_time.h"

static void spin_ns(uint64_t ns)
{
    uint64_t end = vd_now_ns() + ns;
    while (vd_now_ns() < end)
        ;
}

static void kill_and_reap(pid_t pid)
{
    int status;
    ck_assert_int_gt(pid, 0); /* kill(-1) would reach everybody */
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "child ended by itself: %x",
                  status);
}

/* Writes stamps from FIRST on, for ever, now and then two commits a session or none. */
static _Noreturn void writer(struct place *p, const struct vd_id *uuid, uint64_t first, int ack_fd)
{
    for (uint64_t stamp = first;; stamp++) {
        struct vd_meta *m;
        char why[VD_META_WHY];
        if (vd_meta_open(p->store, uuid, VD_META_WRITE, &m, why) < 0)
            _exit(1);
        if (try_put_samples(m, uuid, stamp) < 0 || vd_meta_commit(m) < 0)
            _exit(2);
        if (stamp % 3 == 0) {
            stamp++;
            if (try_put_samples(m, uuid, stamp) < 0 || vd_meta_commit(m) < 0)
                _exit(3);
        }
        if (write(ack_fd, &stamp, sizeof(stamp)) != sizeof(stamp))
            _exit(4);
        if (stamp % 5 == 0 && try_put_samples(m, uuid, 1u << 30) < 0) /* never committed */
            _exit(5);
        vd_meta_close(m);
    }
}

START_TEST(killed_writer)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(7);
    struct vd_id uuid = make_disk(&p, 1);
    uint64_t seen = 1;
    for (int round = 0; round < 100; round++) {
        int ack[2];
        ck_assert_int_eq(pipe2(ack, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0)
            writer(&p, &uuid, seen + 1, ack[1]);
        close(ack[1]);
        uint64_t acked = 0;
        for (uint64_t n = rng_next(&g) % 4 + 1; n > 0; n--)
            ck_assert_int_eq(read(ack[0], &acked, sizeof(acked)), sizeof(acked));
        spin_ns(rng_next(&g) % 3000000);
        kill_and_reap(pid);
        while (read(ack[0], &acked, sizeof(acked)) == sizeof(acked))
            ;
        close(ack[0]);
        struct vd_meta *m = must_open(&p, &uuid, round % 2 ? VD_META_READ : VD_META_WRITE);
        seen = whole_stamp(m, &uuid);
        ck_assert_msg(seen >= acked && seen < acked + 4, "%llu after %llu",
                      (unsigned long long)seen, (unsigned long long)acked);
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

static int check_made(void *user, const struct vd_id *uuid)
{
    struct place *p = user;
    struct vd_meta *m = must_open(p, uuid, VD_META_WRITE);
    struct vd_disk_record d;
    int r = vd_meta_get_disk(m, &d);
    ck_assert(r == -ENOENT || r == 0);
    if (r == 0)
        whole_stamp(m, uuid);
    vd_meta_close(m);
    return 0;
}

START_TEST(killed_maker)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(8);
    for (int round = 0; round < 40; round++) {
        struct vd_id uuid;
        ck_assert_int_eq(vd_id_new(&uuid), 0);
        int go[2];
        ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
        pid_t pid = fork();
        if (pid == 0) {
            char why[VD_META_WHY];
            struct vd_meta *m;
            if (write(go[1], "", 1) != 1 || vd_meta_open(p.store, &uuid, VD_META_MAKE, &m, why) < 0)
                _exit(1);
            if (try_put_samples(m, &uuid, 3) < 0 || vd_meta_commit(m) < 0)
                _exit(2);
            vd_meta_close(m);
            for (;;)
                pause();
        }
        char byte;
        ck_assert_int_eq(read(go[0], &byte, 1), 1);
        spin_ns(rng_next(&g) % 4000000);
        kill_and_reap(pid);
        close(go[0]);
        close(go[1]);
        /* Whatever stage it was in, making it again works. */
        struct vd_meta *m = must_open(&p, &uuid, VD_META_MAKE);
        put_samples(m, &uuid, 4);
        ck_assert_int_eq(vd_meta_commit(m), 0);
        ck_assert_uint_eq(whole_stamp(m, &uuid), 4);
        vd_meta_close(m);
    }
    ck_assert_int_eq(vd_meta_each_disk(p.store, check_made, &p), 0);
    place_drop(&p);
}
END_TEST

/* A writer died; the recovery itself is killed, again and again, then let through. */
START_TEST(killed_recovery)
{
    struct place p;
    place_make(&p);
    struct rng g = rng_make(9);
    struct vd_id uuid = make_disk(&p, 1);
    for (uint64_t round = 0; round < 30; round++) {
        leave_open(&p, &uuid, 10 + round);
        for (int kills = 0; kills < 3; kills++) {
            int go[2];
            ck_assert_int_eq(pipe2(go, O_CLOEXEC), 0);
            pid_t pid = fork();
            if (pid == 0) {
                char why[VD_META_WHY];
                struct vd_meta *m;
                if (write(go[1], "", 1) != 1 ||
                    vd_meta_open(p.store, &uuid, VD_META_WRITE, &m, why) < 0)
                    _exit(1);
                for (;;)
                    pause();
            }
            char byte;
            ck_assert_int_eq(read(go[0], &byte, 1), 1);
            spin_ns(rng_next(&g) % 6000000);
            kill_and_reap(pid);
            close(go[0]);
            close(go[1]);
        }
        struct vd_meta *m = must_open(&p, &uuid, VD_META_READ);
        ck_assert_uint_eq(whole_stamp(m, &uuid), 10 + round);
        vd_meta_close(m);
    }
    place_drop(&p);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {killed_writer, killed_maker, killed_recovery};
    return run_suite("meta-crash", tests, VD_ARRAY_SIZE(tests), 60);
}

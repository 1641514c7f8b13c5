// SPDX-License-Identifier: Apache-2.0
/* The ring in order, full, and under many threads: what was put is there once, in each thread's order. */
#include <check.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "ring.h"

START_TEST(in_order_and_full)
{
    struct ring *r = ring_new(8);
    struct record record = {0};
    uint64_t put = 0, taken = 0;

    ck_assert_ptr_nonnull(r);
    ck_assert(ring_is_empty(r));
    ck_assert(!ring_take(r, &record));
    /* Many laps, with every number of places in use. */
    for (uint64_t fill = 0; fill <= 8; fill++) {
        for (int lap = 0; lap < 5; lap++) {
            for (uint64_t i = 0; i < fill; i++, put++)
                ck_assert(ring_put(r, &(struct record){.id = put, .offset = ~put}));
            if (fill == 8)
                ck_assert(!ring_put(r, &record));
            ck_assert_uint_eq(ring_puts(r) - ring_takes(r), fill);
            for (uint64_t i = 0; i < fill; i++, taken++) {
                ck_assert(!ring_is_empty(r));
                ck_assert(ring_take(r, &record));
                ck_assert_uint_eq(record.id, taken);
                ck_assert_uint_eq(record.offset, ~taken);
            }
            ck_assert(ring_is_empty(r));
            ck_assert(!ring_take(r, &record));
        }
    }
    ring_free(r);
}
END_TEST

#define THREADS 6u
#define EACH 50000u

struct putter {
    struct ring *ring;
    atomic_uint *running;
    uint64_t number;
};

static void *put_many(void *arg)
{
    struct putter *p = arg;

    for (uint64_t i = 0; i < EACH; i++) {
        struct record record = {.id = p->number, .offset = i, .length = i * 3 + p->number};
        while (!ring_put(p->ring, &record))
            sched_yield();
    }
    atomic_fetch_sub(p->running, 1);
    return NULL;
}

START_TEST(many_threads)
{
    struct ring *r = ring_new(64);
    atomic_uint running = THREADS;
    struct putter putters[THREADS];
    pthread_t threads[THREADS];
    uint64_t next[THREADS] = {0};
    struct record record;
    bool bad = false;

    for (unsigned i = 0; i < THREADS; i++) {
        putters[i] = (struct putter){.ring = r, .running = &running, .number = i};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, put_many, &putters[i]), 0);
    }
    for (bool last = false, any = true; !last || any;) {
        last = atomic_load(&running) == 0;
        any = ring_take(r, &record);
        if (any)
            bad = bad || record.id >= THREADS || record.offset != next[record.id]++ ||
                  record.length != record.offset * 3 + record.id;
        else
            sched_yield();
    }
    ck_assert(!bad);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        ck_assert_uint_eq(next[i], EACH);
    }
    ck_assert_uint_eq(ring_puts(r), (uint64_t)THREADS * EACH);
    ck_assert_uint_eq(ring_takes(r), (uint64_t)THREADS * EACH);
    ring_free(r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ring");
    TCase *t = tcase_create("ring");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, in_order_and_full);
    tcase_add_test(t, many_threads);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Readers, fillers and writers on random overlapping ranges of one key, through a cache a fraction
 * of their size, with flush, forget and drop going on: no read may return what was overwritten
 * before it began.
 *
 * The backing is an array of versions, one a block. A writer, as a disk would, begins, changes the
 * backing, ends; `ended` holds for each block the newest version of a write that has ended, and
 * `begun` the newest of any. A read must return a version of at least what had ended when it began.
 * Two writes of a block at once leave whichever the backing got last, so a version only ever goes
 * up there, as by a compare and swap.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "cache_util.h"

#define BLOCKS 1024u
#define LONGEST 48u
#define THREADS 6u

struct world {
    struct vd_cache *cache;
    struct vd_cache_layer *layer;
    _Atomic uint64_t backing[BLOCKS];
    _Atomic uint64_t ended[BLOCKS];
    _Atomic uint64_t next_version;
    _Atomic unsigned stale, foreign, hit, admitted, waited;
    unsigned rounds;
};

struct actor {
    struct world *w;
    unsigned seed;
    pthread_t thread;
    pthread_mutex_t mu; /* of the wait for a fill's end */
    pthread_cond_t cond;
    bool ready; /* lock: mu */
    uint8_t buf[LONGEST * VD_BLOCK_SIZE];
};

static void raise_to(_Atomic uint64_t *v, uint64_t to)
{
    uint64_t was = atomic_load(v);
    while (was < to && !atomic_compare_exchange_weak(v, &was, to))
        ;
}

static void on_ready(struct vd_cache_fill *f)
{
    struct actor *a = f->user;
    pthread_mutex_lock(&a->mu);
    a->ready = true;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->mu);
}

static uint64_t peek(const uint8_t *buf, uint64_t block, struct world *w)
{
    uint64_t v[2], ends[2];
    memcpy(v, buf, 16);
    memcpy(ends, buf + VD_BLOCK_SIZE - 16, 16);
    if (v[0] != block || memcmp(v, ends, 16) != 0)
        atomic_fetch_add(&w->foreign, 1);
    return v[1];
}

static void read_backing(struct actor *a, uint64_t first, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        stamp(a->buf + i * VD_BLOCK_SIZE, first + i, 1, atomic_load(&a->w->backing[first + i]));
}

/* Reads as a disk does: the cache, and what it has not from the backing, under a token if there is
 * one. */
static void do_read(struct actor *a, uint64_t first, uint32_t n)
{
    struct world *w = a->w;
    uint64_t floor[LONGEST], all[VD_CACHE_WORDS];
    for (uint32_t i = 0; i < n; i++)
        floor[i] = atomic_load(&w->ended[first + i]);
    for (;;) {
        struct vd_cache_read r = {.first_block = first, .nblocks = n, .buf = a->buf};
        vd_cache_read(w->layer, &r);
        atomic_fetch_add(&w->hit, r.nhit);
        for (uint32_t i = 0; i < n; i++)
            if (r.hit[i / 64] >> (i % 64) & 1 &&
                peek(a->buf + i * VD_BLOCK_SIZE, first + i, w) < floor[i])
                atomic_fetch_add(&w->stale, 1);
        if (r.nhit == n)
            return;
        struct vd_cache_fill f = {.first_block = first, .nblocks = n, .ready = on_ready, .user = a};
        a->ready = false;
        int got = vd_cache_fill_begin(w->layer, &f);
        if (got == 1) {
            atomic_fetch_add(&w->waited, 1);
            pthread_mutex_lock(&a->mu);
            while (!a->ready)
                pthread_cond_wait(&a->cond, &a->mu);
            pthread_mutex_unlock(&a->mu);
            continue;
        }
        if (got < 0)
            return;
        read_backing(a, first, n);
        if (rand_r(&a->seed) % 4 == 0)
            sched_yield();
        memset(all, 0xff, sizeof(all));
        if (rand_r(&a->seed) % 16)
            vd_cache_fill_commit(w->layer, &f, a->buf, all);
        else
            vd_cache_fill_abort(w->layer, &f);
        return;
    }
}

static void do_write(struct actor *a, uint64_t first, uint32_t n)
{
    struct world *w = a->w;
    struct vd_cache_write op = {.first_block = first, .nblocks = n};
    vd_cache_write_begin(w->layer, &op);
    uint64_t version = atomic_fetch_add(&w->next_version, 1) + 1;
    for (uint32_t i = 0; i < n; i++)
        raise_to(&w->backing[first + i], version);
    if (rand_r(&a->seed) % 4 == 0)
        sched_yield();
    stamp(a->buf, first, n, version);
    bool refresh = rand_r(&a->seed) % 2;
    vd_cache_write_end(w->layer, &op, refresh ? a->buf : NULL, first, n);
    for (uint32_t i = 0; i < n; i++)
        raise_to(&w->ended[first + i], version);
}

static void *act(void *arg)
{
    struct actor *a = arg;
    struct world *w = a->w;
    struct vd_cache_key key = test_key(1, 1);
    for (unsigned i = 0; i < w->rounds; i++) {
        /* half of it in a corner, so that there is something to collide with */
        unsigned span = rand_r(&a->seed) % 2 ? 96 : BLOCKS - LONGEST;
        uint64_t first = (unsigned)rand_r(&a->seed) % span;
        uint32_t n = 1 + (unsigned)rand_r(&a->seed) % LONGEST;
        unsigned what = (unsigned)rand_r(&a->seed) % 1000;
        if (what < 620)
            do_read(a, first, n);
        else if (what < 990)
            do_write(a, first, vd_min(n, 12u));
        else if (what < 994)
            vd_cache_layer_drop(w->layer);
        else if (what < 996)
            vd_cache_forget(w->cache, &key);
        else if (what < 997)
            vd_cache_flush(w->cache);
        else if (what < 998)
            vd_cache_verify(w->cache, NULL, NULL);
        else if (what < 999)
            vd_cache_layer_bytes(w->layer);
        else
            stats_of(w->cache);
    }
    return NULL;
}

static void run(uint64_t cache_bytes, uint32_t slot_bytes, unsigned rounds)
{
    struct world *w = calloc(1, sizeof(*w));
    char why[256];
    const char *times = getenv("VD_TEST_TIMES"); /* a soak asks for more */
    w->rounds = rounds * (times ? (unsigned)atoi(times) : 1);
    ck_assert_int_eq(try_open(cache_bytes, slot_bytes, 0, &w->cache, why), 0);
    w->layer = open_layer(w->cache, 1, 1);
    struct actor *a[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        a[i] = calloc(1, sizeof(*a[i]));
        a[i]->w = w;
        a[i]->seed = 1000 + i;
        pthread_mutex_init(&a[i]->mu, NULL);
        pthread_cond_init(&a[i]->cond, NULL);
        pthread_create(&a[i]->thread, NULL, act, a[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(a[i]->thread, NULL);
        free(a[i]);
    }
    struct vd_cache_stats s = stats_of(w->cache);
    printf("%u hits, %llu inserts, %llu evictions, %llu drops, %u waits\n", w->hit,
           (unsigned long long)s.inserts, (unsigned long long)s.evictions,
           (unsigned long long)s.invalidations, w->waited);
    ck_assert_msg(w->stale == 0, "%u stale blocks", w->stale);
    ck_assert_msg(w->foreign == 0, "%u foreign or torn blocks", w->foreign);
    ck_assert_msg(s.checksum_errors == 0, "%llu checksum errors",
                  (unsigned long long)s.checksum_errors);
    ck_assert(!s.dead && s.errors == 0);
    ck_assert(w->hit > 0 && s.inserts > 0 && s.evictions > 0 && s.invalidations > 0);
    /* and what is left now is what the backing has */
    for (uint64_t b = 0; b < BLOCKS; b++) {
        uint8_t buf[VD_BLOCK_SIZE];
        struct vd_cache_read r = {.first_block = b, .nblocks = 1, .buf = buf};
        vd_cache_read(w->layer, &r);
        if (r.nhit)
            ck_assert_uint_eq(version_of(buf, b), w->backing[b]);
    }
    vd_cache_layer_close(w->layer);
    vd_cache_close(w->cache);
    free(w);
}

START_TEST(never_stale)
{
    run(16 * 64 * KIB, 64 * KIB, 6000);
}
END_TEST

START_TEST(never_stale_small_slots)
{
    run(128 * 4 * KIB, 4 * KIB, 1500);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache_races");
    TCase *t = tcase_create("all");
    tcase_add_checked_fixture(t, dir_setup, dir_teardown);
    tcase_set_timeout(t, 240);
    tcase_add_test(t, never_stale);
    tcase_add_test(t, never_stale_small_slots);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

// SPDX-License-Identifier: Apache-2.0
/* The tree of a live map, without its log: appends take turns, and would keep changes of one word
 * apart that must not need it. The one test of maps that looks behind the public header. */
#include "meta_test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "map_bits.h"

#define THREADS 4u
#define CHANGES 300000u
#define BLOCKS 128u /* four words */

struct worker {
    struct vd__bits *bits;
    uint64_t base;
    unsigned n;
    atomic_bool *go;
    struct rng rng;
    const char *what;
};

static void *worker(void *arg)
{
    struct worker *w = arg;
    uint8_t state[BLOCKS] = {0};
    while (!atomic_load(w->go))
        ;
    for (unsigned i = 0; i < CHANGES && !w->what; i++) {
        uint64_t x = rng_next(&w->rng), run;
        unsigned b = (unsigned)(x % (BLOCKS / THREADS)) * THREADS + w->n;
        state[b] = x >> 32 & 1 ? VD_BLOCK_OWN : VD_BLOCK_ZERO;
        if (vd__bits_prepare(w->bits, w->base + b, 1, state[b]) < 0)
            w->what = "no memory";
        vd__bits_put(w->bits, w->base + b, 1, state[b]);
        b = (unsigned)(x >> 40) % (BLOCKS / THREADS) * THREADS + w->n;
        if (vd__bits_get(w->bits, w->base + b, 1, &run) != (enum vd_block_state)state[b])
            w->what = "a change was lost";
    }
    return NULL;
}

START_TEST(one_word)
{
    /* In a leaf, and where two leaves, and two nodes, meet. */
    static const uint64_t bases[] = {0, (1u << 15) - 64, (1u << 24) - 64, (1ull << 42) - 64};
    for (unsigned i = 0; i < VD_ARRAY_SIZE(bases); i++) {
        struct vd__bits *bits = vd__bits_new();
        struct worker w[THREADS];
        pthread_t t[THREADS];
        atomic_bool go = false;
        for (unsigned k = 0; k < THREADS; k++) {
            w[k] = (struct worker){bits, bases[i], k, &go, rng_make(61 + i * THREADS + k), NULL};
            ck_assert_int_eq(pthread_create(&t[k], NULL, worker, &w[k]), 0);
        }
        atomic_store(&go, true);
        for (unsigned k = 0; k < THREADS; k++) {
            pthread_join(t[k], NULL);
            ck_assert_msg(!w[k].what, "%s", w[k].what);
        }
        vd__bits_unref(bits);
    }
}
END_TEST

/* All find the tree empty and make its nodes at once. */
static void *one_change(void *arg)
{
    struct worker *w = arg;
    while (!atomic_load(w->go))
        ;
    if (vd__bits_prepare(w->bits, w->base + w->n, 1, VD_BLOCK_OWN) < 0)
        w->what = "no memory";
    vd__bits_put(w->bits, w->base + w->n, 1, VD_BLOCK_OWN);
    return NULL;
}

START_TEST(nodes)
{
    for (unsigned i = 0; i < 500; i++) {
        struct vd__bits *bits = vd__bits_new();
        struct worker w[THREADS];
        pthread_t t[THREADS];
        atomic_bool go = false;
        uint64_t run;
        for (unsigned k = 0; k < THREADS; k++) {
            w[k] = (struct worker){.bits = bits, .base = 1ull << i % 48, .n = k, .go = &go};
            ck_assert_int_eq(pthread_create(&t[k], NULL, one_change, &w[k]), 0);
        }
        atomic_store(&go, true);
        for (unsigned k = 0; k < THREADS; k++)
            pthread_join(t[k], NULL);
        ck_assert(vd__bits_get(bits, w[0].base, 100, &run) == VD_BLOCK_OWN && run == THREADS);
        vd__bits_unref(bits);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {one_word, nodes};
    return run_suite("map-bits", tests, VD_ARRAY_SIZE(tests), 120);
}

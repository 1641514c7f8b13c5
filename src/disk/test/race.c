// SPDX-License-Identifier: Apache-2.0
/*
 * Reads and writes of the same blocks by many threads, while fills are in flight, slots are evicted
 * and the cache is dropped. Each block has one writer, which stamps every word of it with a growing
 * number; a read must give, for every word, at least what was complete before the read began and at
 * most what was issued when it ended.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#define NBLOCKS 300u
#define NWRITERS 3u
#define NREADERS 4u
#define SPAN_MAX 20u
#define WRITES_EACH 1500u

struct race {
    struct rig rig;
    struct vd_disk *d;
    _Atomic uint64_t issued[NBLOCKS], complete[NBLOCKS];
    atomic_uint writers_left;
    atomic_uint wrong;
};
struct racer {
    struct race *race;
    unsigned n;
};

/* Writers own blocks by stripes of SPAN_MAX, so that a write of several blocks has one writer. */
static void *writer(void *arg)
{
    struct racer *w = arg;
    struct race *r = w->race;
    uint64_t seed = 77 + w->n;
    uint64_t *buf = aligned_alloc(4096, SPAN_MAX * 4096);
    for (uint64_t version = 1; version <= WRITES_EACH; version++) {
        uint32_t stripes = NBLOCKS / SPAN_MAX / NWRITERS;
        uint32_t stripe = (uint32_t)(rig_random(&seed) % stripes) * NWRITERS + w->n;
        uint32_t first = stripe * SPAN_MAX + (uint32_t)(rig_random(&seed) % SPAN_MAX);
        uint32_t n = 1 + (uint32_t)(rig_random(&seed) % (stripe * SPAN_MAX + SPAN_MAX - first));
        for (size_t i = 0; i < n * 512u; i++)
            buf[i] = version;
        for (uint32_t i = 0; i < n; i++)
            atomic_store(&r->issued[first + i], version);
        if (rig_write(r->d, first * 4096ull, buf, n * 4096u) != (ssize_t)(n * 4096u))
            atomic_fetch_add(&r->wrong, 1);
        for (uint32_t i = 0; i < n; i++)
            atomic_store(&r->complete[first + i], version);
    }
    free(buf);
    atomic_fetch_sub(&r->writers_left, 1);
    return NULL;
}

static void *reader(void *arg)
{
    struct racer *me = arg;
    struct race *r = me->race;
    uint64_t seed = 1234567 + me->n;
    uint64_t *buf = aligned_alloc(4096, SPAN_MAX * 4096), least[SPAN_MAX];
    while (atomic_load(&r->writers_left)) {
        uint32_t first = (uint32_t)(rig_random(&seed) % NBLOCKS);
        uint32_t n = 1 + (uint32_t)(rig_random(&seed) % vd_min(SPAN_MAX, NBLOCKS - first));
        for (uint32_t i = 0; i < n; i++)
            least[i] = atomic_load(&r->complete[first + i]);
        if (rig_read(r->d, first * 4096ull, buf, n * 4096u) != (ssize_t)(n * 4096u))
            atomic_fetch_add(&r->wrong, 1);
        for (uint32_t i = 0; i < n; i++) {
            uint64_t most = atomic_load(&r->issued[first + i]);
            for (uint32_t k = 0; k < 512; k++) {
                uint64_t v = buf[i * 512 + k];
                if (v < least[i] || v > most) {
                    if (!atomic_fetch_add(&r->wrong, 1))
                        fprintf(stderr, "block %u: %llu, not in %llu..%llu\n", first + i,
                                (unsigned long long)v, (unsigned long long)least[i],
                                (unsigned long long)most);
                    break;
                }
            }
        }
        if (rig_random(&seed) % 300 == 0)
            vd_disk_cache_drop(r->d);
    }
    free(buf);
    return NULL;
}

static void run_race(enum vd_cache_mode mode, uint64_t cache_bytes)
{
    struct race *r = calloc(1, sizeof(*r));
    rig_init(&r->rig);
    r->rig.mode = mode;
    r->rig.cache_bytes = cache_bytes;
    rig_mount(&r->rig);
    rig_make(&r->rig, "d", NBLOCKS * 4096);
    r->d = rig_open(&r->rig, "d");
    r->writers_left = NWRITERS;
    pthread_t t[NWRITERS + NREADERS];
    struct racer w[NWRITERS + NREADERS];
    for (unsigned i = 0; i < NWRITERS + NREADERS; i++) {
        w[i] = (struct racer){r, i};
        ck_assert_int_eq(pthread_create(&t[i], NULL, i < NWRITERS ? writer : reader, &w[i]), 0);
    }
    for (unsigned i = 0; i < NWRITERS + NREADERS; i++)
        pthread_join(t[i], NULL);
    ck_assert_uint_eq(atomic_load(&r->wrong), 0);

    /* What is cached at the end, and what a later mount finds, is what was written last. */
    uint64_t *buf = malloc(4096);
    for (int round = 0; round < 2; round++) {
        for (uint32_t b = 0; b < NBLOCKS; b++) {
            ck_assert_int_eq(rig_read(r->d, b * 4096ull, buf, 4096), 4096);
            ck_assert_uint_eq(buf[0], atomic_load(&r->complete[b]));
            ck_assert_uint_eq(buf[511], buf[0]);
        }
        struct vd_disk_stats s = rig_stats(r->d);
        if (mode != VD_CACHE_OFF)
            ck_assert_uint_gt(s.hits, 0);
        vd_disk_release(r->d);
        rig_umount(&r->rig);
        rig_mount(&r->rig);
        r->d = rig_open(&r->rig, "d");
    }
    vd_disk_release(r->d);
    free(buf);
    rig_free(&r->rig);
    free(r);
}

START_TEST(race_large_cache)
{
    run_race(VD_CACHE_WRITETHROUGH, 16u << 20);
}
END_TEST

START_TEST(race_small_cache)
{
    run_race(VD_CACHE_WRITETHROUGH, 256u << 10);
}
END_TEST

START_TEST(race_writearound)
{
    run_race(VD_CACHE_WRITEAROUND, 512u << 10);
}
END_TEST

#define SHARED_BLOCKS 6u
#define SHARED_ROUNDS 300
#define SHARED_WRITES 6u /* few, so that the last ones of a round overlap */

/* Writers that share blocks: what is cached of a block in the end must be what the file has. */
static void *shared_writer(void *arg)
{
    struct racer *w = arg;
    uint64_t seed = 991 + w->n;
    uint8_t *buf = aligned_alloc(4096, 4 * 4096);
    for (unsigned i = 0; i < SHARED_WRITES; i++) {
        uint32_t n = 1 + (uint32_t)(rig_random(&seed) % 4);
        uint32_t first = (uint32_t)(rig_random(&seed) % (SHARED_BLOCKS - n + 1));
        memset(buf, (int)(rig_random(&seed) % 256), n * 4096u);
        if (rig_write(w->race->d, first * 4096ull, buf, n * 4096u) != (ssize_t)(n * 4096u))
            atomic_fetch_add(&w->race->wrong, 1);
    }
    free(buf);
    return NULL;
}

static void compare_with_source(struct race *r)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/source/d", r->rig.dir);
    FILE *f = fopen(path, "re");
    ck_assert_ptr_nonnull(f);
    uint8_t got[4096], want[4096];
    for (uint32_t b = 0; b < SHARED_BLOCKS; b++) {
        ck_assert_uint_eq(fread(want, 1, 4096, f), 4096);
        ck_assert_int_eq(rig_read(r->d, b * 4096ull, got, 4096), 4096);
        rig_expect(got, want, 4096, b * 4096ull);
    }
    fclose(f);
}

START_TEST(writers_of_one_block)
{
    struct race *r = calloc(1, sizeof(*r));
    rig_init(&r->rig);
    rig_mount(&r->rig);
    rig_make(&r->rig, "d", 1u << 20);
    r->d = rig_open(&r->rig, "d");
    for (int round = 0; round < SHARED_ROUNDS; round++) {
        pthread_t t[4];
        struct racer w[4];
        for (unsigned i = 0; i < 4; i++) {
            w[i] = (struct racer){r, i + 4u * (unsigned)round};
            ck_assert_int_eq(pthread_create(&t[i], NULL, shared_writer, &w[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
            pthread_join(t[i], NULL);
        compare_with_source(r);
    }
    ck_assert_uint_eq(atomic_load(&r->wrong), 0);
    vd_disk_release(r->d);
    rig_free(&r->rig);
    free(r);
}
END_TEST

void add_race_tests(Suite *s)
{
    TCase *t = tcase_create("race");
    tcase_set_timeout(t, 200);
    tcase_add_test(t, race_large_cache);
    tcase_add_test(t, race_small_cache);
    tcase_add_test(t, race_writearound);
    tcase_add_test(t, writers_of_one_block);
    suite_add_tcase(s, t);
}

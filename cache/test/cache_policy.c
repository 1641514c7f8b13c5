// SPDX-License-Identifier: Apache-2.0
/* The eviction policy by itself, driven as a replay drives it: with an exact map of what is
 * resident. */
#include <check.h>
#include <string.h>

#include "vd_cache_policy.h"

#define KEYS 100000u

static const struct vd_cache_policy_ops *const ops = &vd_cache_policy_s3fifo;

struct sim {
    struct vd_cache_policy *p;
    uint32_t slot_of[KEYS], key_of[KEYS]; /* + 1; 0: none */
    unsigned hits, misses;
};

static uint64_t hash(uint64_t key)
{
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    return (key ^ (key >> 27)) * 0x94d049bb133111ebu >> 3;
}

static struct sim *sim_new(uint32_t nslots)
{
    struct sim *s = calloc(1, sizeof(*s));
    ck_assert_int_eq(ops->new (nslots, &s->p), 0);
    return s;
}

static void sim_free(struct sim *s)
{
    ops->free(s->p);
    free(s);
}

static void touch(struct sim *s, uint32_t key)
{
    if (s->slot_of[key]) {
        s->hits++;
        ops->hit(s->p, s->slot_of[key] - 1);
        return;
    }
    s->misses++;
    uint32_t slot = ops->take(s->p, NULL, NULL);
    ck_assert_uint_ne(slot, VD_CACHE_NO_SLOT);
    if (s->key_of[slot])
        s->slot_of[s->key_of[slot] - 1] = 0;
    s->key_of[slot] = key + 1;
    s->slot_of[key] = slot + 1;
    ops->put(s->p, slot, hash(key));
}

START_TEST(nothing_evicted_while_there_is_room)
{
    struct sim *s = sim_new(1000);
    for (uint32_t i = 0; i < 1000; i++)
        touch(s, i);
    ck_assert_uint_eq(ops->used(s->p), 1000);
    for (uint32_t i = 0; i < 1000; i++)
        touch(s, i);
    ck_assert_uint_eq(s->misses, 1000);
    sim_free(s);
}
END_TEST

/* A hot set that was used more than once survives a scan of fifty times the cache, even though the
 * scan hits each of its slots sixteen times in a row, as a sequential reader of small blocks does:
 * all but the last few admitted, whose hits did not count yet. */
START_TEST(scan_does_not_flush)
{
    struct sim *s = sim_new(1000);
    for (unsigned round = 0; round < 4; round++)
        for (uint32_t i = 0; i < 500; i++)
            touch(s, i);
    for (uint32_t i = 1000; i < 51000; i++)
        for (unsigned hit = 0; hit < 16; hit++)
            touch(s, i);
    s->hits = 0;
    for (uint32_t i = 0; i < 500; i++)
        if (s->slot_of[i])
            s->hits++;
    ck_assert_msg(s->hits >= 450, "only %u of the hot 500 are left", s->hits);
    sim_free(s);
}
END_TEST

/* And what is hot during the scan is hit throughout. */
START_TEST(hot_set_under_scan)
{
    struct sim *s = sim_new(1000);
    unsigned seed = 1, hot_hits = 0, hot = 0;
    for (uint32_t i = 0; i < 60000; i++) {
        touch(s, 1000 + i);
        for (unsigned n = 0; n < 2; n++) {
            unsigned before = s->hits;
            touch(s, (uint32_t)rand_r(&seed) % 500);
            if (i > 10000) {
                hot++;
                hot_hits += s->hits - before;
            }
        }
    }
    ck_assert_msg(hot_hits > hot / 100 * 95, "%u of %u", hot_hits, hot);
    sim_free(s);
}
END_TEST

/* A hot set that moves is followed. */
START_TEST(adapts)
{
    struct sim *s = sim_new(1000);
    unsigned seed = 1;
    for (unsigned phase = 0; phase < 5; phase++) {
        for (unsigned i = 0; i < 20000; i++)
            touch(s, phase * 2000 + (uint32_t)rand_r(&seed) % 800);
        s->hits = s->misses = 0;
        for (unsigned i = 0; i < 5000; i++)
            touch(s, phase * 2000 + (uint32_t)rand_r(&seed) % 800);
        ck_assert_msg(s->hits > 4900, "phase %u: %u of 5000", phase, s->hits);
    }
    sim_free(s);
}
END_TEST

static bool only_odd(void *user, uint32_t slot)
{
    ++*(unsigned *)user;
    return slot & 1;
}

static bool never(void *user, uint32_t slot)
{
    (void)slot;
    ++*(unsigned *)user;
    return false;
}

START_TEST(refused_slots)
{
    struct sim *s = sim_new(100);
    for (uint32_t i = 0; i < 100; i++)
        touch(s, i);
    unsigned asked = 0;
    for (unsigned i = 0; i < 50; i++) {
        uint32_t slot = ops->take(s->p, only_odd, &asked);
        ck_assert(slot != VD_CACHE_NO_SLOT && slot & 1);
        ops->put(s->p, slot, hash(1000 + i));
    }
    asked = 0;
    ck_assert_uint_eq(ops->take(s->p, never, &asked), VD_CACHE_NO_SLOT);
    ck_assert_uint_le(asked, 100);
    for (uint32_t i = 0; i < 100; i++)
        ops->give_back(s->p, i);
    ck_assert_uint_eq(ops->used(s->p), 0);
    sim_free(s);
}
END_TEST

START_TEST(state)
{
    struct sim *s = sim_new(1000);
    unsigned seed = 3;
    for (unsigned i = 0; i < 30000; i++)
        touch(s, (uint32_t)rand_r(&seed) % (1 + (uint32_t)rand_r(&seed) % 3000));
    size_t len = ops->state_bytes(s->p);
    vd_cleanup_free uint8_t *buf = malloc(len);
    ops->save(s->p, buf);
    struct vd_cache_policy *q;
    ck_assert_int_eq(ops->new (1000, &q), 0);
    ck_assert_int_eq(ops->load(q, buf, len - 1), -EUCLEAN);
    ck_assert_int_eq(ops->load(q, buf, len), 0);
    ck_assert_uint_eq(ops->used(q), 1000);
    /* From here on both choose alike. */
    for (unsigned i = 0; i < 3000; i++) {
        uint32_t a = ops->take(s->p, NULL, NULL), b = ops->take(q, NULL, NULL);
        ck_assert_uint_eq(a, b);
        ops->put(s->p, a, hash(i));
        ops->put(q, b, hash(i));
    }
    ops->free(q);
    /* Any damage is refused or harmless. */
    for (unsigned i = 0; i < 2000; i++) {
        ck_assert_int_eq(ops->new (1000, &q), 0);
        vd_cleanup_free uint8_t *bad = malloc(len);
        memcpy(bad, buf, len);
        bad[(size_t)rand_r(&seed) % (i & 1 ? len : 64)] ^= (uint8_t)(1u << (i % 8));
        if (ops->load(q, bad, len) < 0)
            ck_assert_uint_eq(ops->used(q), 0);
        for (unsigned n = 0; n < 10; n++)
            ops->put(q, ops->take(q, NULL, NULL), n);
        ops->free(q);
    }
    sim_free(s);
}
END_TEST

START_TEST(tiny)
{
    struct sim *s = sim_new((uint32_t)_i);
    unsigned seed = 5;
    for (unsigned i = 0; i < 1000; i++)
        touch(s, (uint32_t)rand_r(&seed) % 10);
    ck_assert_uint_eq(ops->used(s->p), (uint32_t)_i);
    sim_free(s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("cache_policy");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, nothing_evicted_while_there_is_room);
    tcase_add_test(t, scan_does_not_flush);
    tcase_add_test(t, hot_set_under_scan);
    tcase_add_test(t, adapts);
    tcase_add_test(t, refused_slots);
    tcase_add_test(t, state);
    tcase_add_loop_test(t, tiny, 1, 5);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_ENV);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

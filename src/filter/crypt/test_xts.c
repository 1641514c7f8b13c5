// SPDX-License-Identifier: Apache-2.0
/* The cipher: published vectors, holes, that sectors stand for themselves, and what is refused. */
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "xts.h"
#include "xts_vectors.h"

static void from_hex(const char *hex, uint8_t *ret, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned v = 0;
        ck_assert_int_eq(sscanf(hex + 2 * i, "%2x", &v), 1);
        ret[i] = (uint8_t)v;
    }
}

static struct xts *make(uint32_t sector)
{
    uint8_t key[XTS_KEY_BYTES];
    struct xts *x = NULL;
    from_hex(vector_key, key, sizeof(key));
    ck_assert_int_eq(xts_new(key, sector, &x), 0);
    ck_assert_uint_eq(xts_sector(x), sector);
    return x;
}

static void fill(uint8_t *p, size_t len, uint64_t seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(seed >> 56);
    }
}

START_TEST(published_vectors)
{
    struct xts *x = make(512);
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        uint8_t plain[512], expected[512], got[512];
        for (size_t b = 0; b < sizeof(plain); b++)
            plain[b] = (uint8_t)b;
        from_hex(vectors[i].ciphertext, expected, sizeof(expected));
        ck_assert_int_eq(xts_encrypt(x, vectors[i].unit * 512, plain, got, sizeof(got)), 0);
        ck_assert_mem_eq(got, expected, sizeof(got));
        ck_assert_int_eq(xts_decrypt(x, vectors[i].unit * 512, got, sizeof(got)), 0);
        ck_assert_mem_eq(got, plain, sizeof(got));
    }
    xts_free(x);
}
END_TEST

/* A sector's ciphertext depends on its place and its bytes, not on what it is encrypted together with. */
START_TEST(sectors_stand_alone)
{
    for (uint32_t sector = 512; sector <= 4096; sector *= 8) {
        struct xts *x = make(sector);
        size_t len = 32 * (size_t)sector;
        uint8_t *plain = malloc(len), *all = malloc(len), *one = malloc(sector);
        uint64_t at = 7ull << 40;
        fill(plain, len, sector);
        ck_assert_int_eq(xts_encrypt(x, at, plain, all, len), 0);
        for (size_t i = 0; i < len; i += sector) {
            ck_assert_int_eq(xts_encrypt(x, at + i, plain + i, one, sector), 0);
            ck_assert_mem_eq(one, all + i, sector);
            ck_assert_int_eq(xts_encrypt(x, at + i + sector, plain + i, one, sector), 0);
            ck_assert_mem_ne(one, all + i, sector);
        }
        ck_assert_int_eq(xts_encrypt(x, at, plain, plain, len), 0); /* in place */
        ck_assert_mem_eq(plain, all, len);
        free(plain);
        free(all);
        free(one);
        xts_free(x);
    }
}
END_TEST

/* The tweak counts 512 bytes also where sectors are larger: the first 512 bytes of both kinds are then the same. */
START_TEST(tweak_counts_512)
{
    struct xts *small = make(512), *large = make(4096);
    uint8_t plain[4096], a[4096], b[4096];
    fill(plain, sizeof(plain), 1);
    ck_assert_int_eq(xts_encrypt(small, 5 * 4096, plain, a, sizeof(a)), 0);
    ck_assert_int_eq(xts_encrypt(large, 5 * 4096, plain, b, sizeof(b)), 0);
    ck_assert_mem_eq(a, b, 512);
    ck_assert_mem_ne(a + 512, b + 512, 512);
    xts_free(small);
    xts_free(large);
}
END_TEST

START_TEST(holes_are_zeroes)
{
    struct xts *x = make(512);
    uint8_t plain[4 * 512], got[4 * 512], zero[512] = {0};
    fill(plain, sizeof(plain), 2);
    memset(plain + 512, 0, 512); /* zeroes that were written are not a hole */
    ck_assert_int_eq(xts_encrypt(x, 0, plain, got, sizeof(got)), 0);
    ck_assert(!xts_is_hole(got + 512, 512));
    memset(got + 1024, 0, 512); /* a hole is zeroes */
    memset(plain + 1024, 0, 512);
    ck_assert_int_eq(xts_decrypt(x, 0, got, sizeof(got)), 0);
    ck_assert_mem_eq(got, plain, sizeof(got));
    ck_assert_int_eq(xts_decrypt(x, 4096, zero, sizeof(zero)), 0);
    ck_assert(xts_is_hole(zero, sizeof(zero)));
    zero[511] = 1; /* all but zero is ciphertext */
    ck_assert(!xts_is_hole(zero, sizeof(zero)));
    ck_assert_int_eq(xts_decrypt(x, 4096, zero, sizeof(zero)), 0);
    ck_assert(!xts_is_hole(zero, 511));
    ck_assert(xts_is_hole(zero, 0));
    xts_free(x);
}
END_TEST

START_TEST(wrong_sizes)
{
    struct xts *x = make(4096), *none = NULL;
    uint8_t key[XTS_KEY_BYTES], data[8192], before[8192];
    static const struct {
        uint64_t offset;
        size_t len;
    } wrong[] = {{1, 4096}, {512, 4096}, {0, 512}, {4096, 4097}, {4095, 1}};
    fill(data, sizeof(data), 3);
    memcpy(before, data, sizeof(data));
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        ck_assert_int_eq(xts_encrypt(x, wrong[i].offset, data, data, wrong[i].len), -EINVAL);
        ck_assert_int_eq(xts_decrypt(x, wrong[i].offset, data, wrong[i].len), -EINVAL);
    }
    ck_assert_int_eq(xts_encrypt(x, 0, data, data, 0), 0);
    ck_assert_mem_eq(data, before, sizeof(data));
    from_hex(vector_key, key, sizeof(key));
    ck_assert_int_eq(xts_new(key, 1024, &none), -EINVAL);
    ck_assert_int_eq(xts_new(key, 0, &none), -EINVAL);
    memcpy(key + 32, key, 32);
    ck_assert_int_eq(xts_new(key, 512, &none), -EINVAL);
    ck_assert_ptr_null(none);
    xts_free(NULL);
    xts_free(x);
}
END_TEST

struct trip {
    struct xts *x;
    uint64_t seed;
    bool ok;
};

static void *round_trips(void *arg)
{
    struct trip *t = arg;
    uint8_t plain[8 * 512], data[8 * 512];
    t->ok = true;
    for (int i = 0; i < 2000 && t->ok; i++) {
        uint64_t at = (t->seed * 1000 + (uint64_t)i) * 512;
        fill(plain, sizeof(plain), t->seed + (uint64_t)i);
        t->ok = xts_encrypt(t->x, at, plain, data, sizeof(data)) == 0 &&
                memcmp(plain, data, sizeof(data)) != 0 &&
                xts_decrypt(t->x, at, data, sizeof(data)) == 0 &&
                memcmp(plain, data, sizeof(data)) == 0;
    }
    return NULL;
}

/* More threads than places in the pool of contexts. */
START_TEST(many_threads)
{
    struct trip t[40];
    pthread_t thread[40];
    struct xts *x = make(512);
    for (size_t i = 0; i < 40; i++) {
        t[i] = (struct trip){.x = x, .seed = i};
        ck_assert_int_eq(pthread_create(&thread[i], NULL, round_trips, &t[i]), 0);
    }
    for (size_t i = 0; i < 40; i++) {
        pthread_join(thread[i], NULL);
        ck_assert(t[i].ok);
    }
    xts_free(x);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("xts");
    TCase *c = tcase_create("xts");
    tcase_add_test(c, published_vectors);
    tcase_add_test(c, sectors_stand_alone);
    tcase_add_test(c, tweak_counts_512);
    tcase_add_test(c, holes_are_zeroes);
    tcase_add_test(c, wrong_sizes);
    tcase_add_test(c, many_threads);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

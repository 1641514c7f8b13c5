// SPDX-License-Identifier: Apache-2.0
/* Sets of regions against an array of bytes: what was added is there, what was removed wholly is not, growing and
 * coarsening lose nothing. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "regions.h"

#define N 20000u /* regions of the model */

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

#define expect(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg("%s", #condition);                                                        \
    } while (0)

static void compare(const struct regions *s, const uint8_t *model, uint64_t size)
{
    uint64_t n = 0, bytes = 0, at = 0, offset, end;
    for (uint64_t i = 0; i < N; i++) {
        expect(regions_touch(s, i * REGION_BYTES, i * REGION_BYTES + 1) == (model[i] != 0));
        n += model[i];
        if (model[i] && i * REGION_BYTES < size)
            bytes +=
                size - i * REGION_BYTES < REGION_BYTES ? size - i * REGION_BYTES : REGION_BYTES;
    }
    expect(s->count == n);
    expect(regions_bytes(s, size) == bytes);
    for (n = 0; regions_next(s, at, UINT64_MAX, 1 << 20, &offset, &end); at = end) {
        expect(offset % REGION_BYTES == 0 && end > offset && end - offset <= 1 << 20);
        for (uint64_t i = at / REGION_BYTES; i < offset / REGION_BYTES; i++)
            expect(!model[i]);
        for (uint64_t i = offset / REGION_BYTES; i < end / REGION_BYTES; i++, n++)
            expect(model[i]);
    }
    expect(n == s->count);
}

START_TEST(model)
{
    uint64_t seed = (uint64_t)_i + 1, size = N * (uint64_t)REGION_BYTES - 1000;
    uint8_t *m = calloc(1, N);
    struct regions s;
    ck_assert_int_eq(regions_init(&s, next(&seed) % size), 0);
    for (int i = 0; i < 400; i++) {
        uint64_t offset = next(&seed) * 1000 % size,
                 len = 1 + next(&seed) % (i % 3 ? 300000 : size);
        uint64_t end = offset + len < size ? offset + len : size;
        uint64_t r = next(&seed) % 10;
        if (r < 5) {
            regions_add(&s, offset, end);
            memset(m + offset / REGION_BYTES, 1,
                   (end - 1) / REGION_BYTES - offset / REGION_BYTES + 1);
        } else if (r < 9) {
            regions_remove(&s, offset, end, size);
            for (uint64_t b = (offset + REGION_BYTES - 1) / REGION_BYTES; b < N; b++)
                if ((b + 1) * REGION_BYTES <= end || (end == size && b * REGION_BYTES < size))
                    m[b] = 0;
        } else if (i % 5 == 0) {
            regions_clear(&s);
            memset(m, 0, N);
        }
        if (i % 10 == 0)
            compare(&s, m, size);
    }
    compare(&s, m, size);
    regions_free(&s);
    free(m);
}
END_TEST

START_TEST(merges)
{
    struct regions a, b;
    ck_assert_int_eq(regions_init(&a, 1 << 20), 0);
    ck_assert_int_eq(regions_init(&b, 1ull << 42), 0); /* other regions */
    ck_assert_uint_gt(b.region_bytes, a.region_bytes);
    regions_add(&a, 70000, 70001);
    regions_merge(&b, &a);
    ck_assert(regions_touch(&b, 70000, 70001));
    regions_add(&b, 1ull << 41, (1ull << 41) + 1);
    regions_merge(&a, &b);
    ck_assert(regions_touch(&a, 1ull << 41, (1ull << 41) + 1));
    ck_assert(regions_touch(&a, 70000, 70001));
    ck_assert(!regions_touch(&a, 1ull << 40, (1ull << 40) + (1 << 20)));
    regions_free(&a);
    regions_free(&b);
}
END_TEST

START_TEST(becomes_coarser)
{
    struct regions s;
    uint64_t end = 1ull << 44, at[100], seed = 5;
    ck_assert_int_eq(regions_init(&s, 1 << 20), 0);
    for (int i = 0; i < 100; i++) {
        at[i] = next(&seed) % (1u << 30);
        regions_add(&s, at[i], at[i] + 1);
    }
    regions_add(&s, end - 1, end);
    ck_assert_uint_ge(s.region_bytes, 1 << 20);
    for (int i = 0; i < 100; i++)
        expect(regions_touch(&s, at[i], at[i] + 1));
    expect(regions_touch(&s, end - 1, end));
    expect(s.count <= 101);
    regions_add(&s, REGIONS_MAX_BYTES - 1, REGIONS_MAX_BYTES);
    expect(regions_touch(&s, REGIONS_MAX_BYTES - 1, REGIONS_MAX_BYTES));
    expect(regions_touch(&s, at[0], at[0] + 1));
    regions_free(&s);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("regions");
    TCase *c = tcase_create("regions");
    tcase_add_loop_test(c, model, 0, 10);
    tcase_add_test(c, merges);
    tcase_add_test(c, becomes_coarser);
    tcase_set_timeout(c, 60);
    suite_add_tcase(s, c);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

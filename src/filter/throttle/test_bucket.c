// SPDX-License-Identifier: Apache-2.0
/*
 * The bucket in a simulated time: what it lets through in any interval, what it lets through in the
 * long run, what it does with a late timer and with idle time, and that nothing overflows.
 */
#include <check.h>
#include <stdbool.h>

#include "bucket.h"

#define S 1000000000ull
#define START (7 * S) /* any time will do */

static uint64_t next(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return *seed >> 33;
}

/* As ck_assert_msg, for what is asked a million times: that one writes to a file each time. */
#define expect(condition, ...)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            ck_abort_msg(__VA_ARGS__);                                                             \
    } while (0)

static uint64_t max(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

START_TEST(no_limit)
{
    struct bucket b;

    bucket_init(&b, 0, 0);
    for (int i = 0; i < 1000; i++)
        ck_assert_uint_eq(bucket_take(&b, START, UINT64_MAX), START);
}
END_TEST

START_TEST(burst_then_rate)
{
    struct bucket b;

    bucket_init(&b, 100, 10);
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(bucket_take(&b, START, 1), START);
    for (uint64_t i = 1; i <= 100; i++)
        ck_assert_uint_eq(bucket_take(&b, START, 1), START + i * S / 100);
    /* Idle for as long as it takes to pay, and then for the burst: it is whole, and not more. */
    uint64_t later = START + 100 * S;
    for (int i = 0; i < 10; i++)
        ck_assert_uint_eq(bucket_take(&b, later, 1), later);
    ck_assert_uint_eq(bucket_take(&b, later, 1), later + S / 100);
}
END_TEST

/* What costs more than the burst waits for the rest, and goes alone. */
START_TEST(larger_than_the_burst)
{
    struct bucket b;

    bucket_init(&b, 1 << 20, 64 << 10);
    ck_assert_uint_eq(bucket_take(&b, START, 1 << 20), START + S * 15 / 16);
    ck_assert_uint_eq(bucket_take(&b, START, 64 << 10), START + S);
}
END_TEST

static const uint64_t rates[] = {1,     2,          3,         7,         100,
                                 12345, 1000000,    3 * S,     7 * S + 1, 1ull << 40,
                                 S *S,  1ull << 62, INT64_MAX, 1ull << 63};
#define RATES (sizeof(rates) / sizeof(rates[0]))

/* All the time there is something to do, over 10 s: exactly the burst and the rate, at any limit. */
START_TEST(long_run)
{
    uint64_t rate = rates[_i];
    struct bucket b;

    /* About 10000 requests, or what fits of single units. */
    uint64_t units = max(rate / 1000, 1), burst = bucket_default_burst(rate, 1), n = 0;
    bucket_init(&b, rate, burst);
    while (bucket_take(&b, START, units) <= START + 10 * S)
        n++;
    unsigned __int128 passed = (unsigned __int128)n * units;
    unsigned __int128 allowed = (unsigned __int128)rate * 10 + burst;
    ck_assert_msg(passed <= allowed + 1 && passed + units >= allowed,
                  "rate %llu: %llu requests of %llu", (unsigned long long)rate,
                  (unsigned long long)n, (unsigned long long)units);
}
END_TEST

/* Units that cost a third of a nanosecond, and seven thirds. */
START_TEST(fractions_are_kept)
{
    struct bucket b;
    uint64_t at = 0;

    bucket_init(&b, 3 * S, 0);
    for (int i = 0; i < 3000; i++)
        at = bucket_take(&b, START, 1);
    ck_assert_uint_eq(at, START + 1000);
    for (int i = 0; i < 3000; i++)
        at = bucket_take(&b, START, 7);
    ck_assert_uint_eq(at, START + 8000);
}
END_TEST

/* Requests of any size at any time: times do not go back, and after any request no more passes
 * than burst and rate allow. O(n^2), so of each run only the first 300 as beginnings. */
START_TEST(no_interval_sees_more)
{
    enum { N = 2000 };
    static uint64_t at[N], units[N];
    uint64_t rate = rates[_i], seed = 42 + (uint64_t)_i, now = START;
    uint64_t burst = bucket_default_burst(rate, 1);
    struct bucket b;

    bucket_init(&b, rate, burst);
    for (int i = 0; i < N; i++) {
        if (next(&seed) % 4 == 0)
            now += next(&seed) % (S / 100);
        if (next(&seed) % 500 == 0)
            now += next(&seed) % (20 * S);
        units[i] = max(rate / 1000, 1) * (next(&seed) % 4 ? 1 : next(&seed) % 200);
        at[i] = bucket_take(&b, now, units[i]);
        expect(at[i] >= now && (i == 0 || at[i] >= at[i - 1]), "seed %d: request %d", 42 + _i, i);
    }
    for (int i = 0; i < 300; i++) {
        unsigned __int128 sum = 0;
        for (int k = i + 1; k < N; k++) {
            sum += units[k];
            unsigned __int128 ns = at[k] - at[i] + 2; /* two roundings down */
            expect(sum <= burst + ns * rate / S + 1, "seed %d, rate %llu: requests %d to %d",
                   42 + _i, (unsigned long long)rate, i, k);
        }
    }
}
END_TEST

/* One request at a time, each done late by up to most of the burst: the rate is held. */
START_TEST(late_timers_lose_nothing)
{
    uint64_t seed = 3, now = START, n = 0;
    struct bucket b;

    bucket_init(&b, 1000, 100);
    for (; now < START + 10 * S; n++)
        now = bucket_take(&b, now, 1) + next(&seed) % (S / 1000) + (n % 100 == 0 ? S / 50 : 0);
    ck_assert_uint_le(n, 10000 + 100 + 1);
    ck_assert_uint_ge(n, 10000);
}
END_TEST

START_TEST(nothing_overflows)
{
    const uint64_t odd[] = {0, 1, S, UINT64_MAX / S, INT64_MAX, 1ull << 63, UINT64_MAX};
    enum { ODD = sizeof(odd) / sizeof(odd[0]) };

    for (size_t r = 0; r < RATES; r++) {
        for (size_t i = 0; i < ODD * ODD; i++) {
            struct bucket b;
            uint64_t now = START, last = 0;
            bucket_init(&b, rates[r], odd[i % ODD]);
            for (int k = 0; k < 20; k++) {
                uint64_t at = bucket_take(&b, now, odd[i / ODD]);
                expect(at >= now && at >= last && at <= BUCKET_FAR_NS && b.rest < b.rate,
                       "rate %zu, case %zu, request %d", r, i, k);
                last = at;
                now += 3 * S;
            }
            /* The clock runs on behind the largest time that is counted with. */
            ck_assert_uint_ge(bucket_take(&b, BUCKET_FAR_NS + 5, 1), BUCKET_FAR_NS + 5);
        }
    }
}
END_TEST

START_TEST(counting)
{
    ck_assert_uint_eq(bucket_requests(1 << 20, 0), 1);
    ck_assert_uint_eq(bucket_requests(0, 4096), 1);
    ck_assert_uint_eq(bucket_requests(4096, 4096), 1);
    ck_assert_uint_eq(bucket_requests(4097, 4096), 2);
    ck_assert_uint_eq(bucket_requests(UINT64_MAX, 1), UINT64_MAX);
    ck_assert_uint_eq(bucket_requests(UINT64_MAX, 2), 1ull << 63);
    ck_assert_uint_eq(bucket_default_burst(1, 1), 1);
    ck_assert_uint_eq(bucket_default_burst(1000, 1), 100);
    ck_assert_uint_eq(bucket_default_burst(0, 4096), 4096);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("bucket");
    TCase *t = tcase_create("bucket");
    tcase_add_test(t, no_limit);
    tcase_add_test(t, burst_then_rate);
    tcase_add_test(t, larger_than_the_burst);
    tcase_add_loop_test(t, long_run, 0, RATES);
    tcase_add_test(t, fractions_are_kept);
    tcase_add_loop_test(t, no_interval_sees_more, 0, RATES);
    tcase_add_test(t, late_timers_lose_nothing);
    tcase_add_test(t, nothing_overflows);
    tcase_add_test(t, counting);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

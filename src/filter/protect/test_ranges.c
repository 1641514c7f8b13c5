// SPDX-License-Identifier: Apache-2.0
/* Ranges as users write them, right and wrong, and the lookup against a plain search. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "ranges.h"

static const struct {
    const char *text;
    size_t n;
    struct range list[4];
} good[] = {
    {"0-1M,1G+64K", 2, {{0, 1 << 20}, {1 << 30, (1 << 30) + (64 << 10)}}},
    {"all", 1, {{0, RANGES_TO_THE_END}}},
    {"5+1", 1, {{5, 6}}},
    {"1k-2K,4m-1G,1t+1T", 3, {{1024, 2048}, {4 << 20, 1 << 30}, {1ull << 40, 2ull << 40}}},
    {"20-30,0-10", 2, {{0, 10}, {20, 30}}},         /* sorts */
    {"0-10,10-20", 1, {{0, 20}}},                   /* they touch */
    {"0-100,10-20,50+100", 1, {{0, 150}}},          /* within, and over the end */
    {"7-9,7-9,7-8", 1, {{7, 9}}},                   /* the same */
    {"5-6,all", 1, {{0, RANGES_TO_THE_END}}},       /* all takes the others in */
    {"0+9223372036854775807", 1, {{0, INT64_MAX}}}, /* the largest */
    {"9223372036854775806-9223372036854775807", 1, {{INT64_MAX - 1, INT64_MAX}}},
    {"000-0001", 1, {{0, 1}}},
};

START_TEST(right)
{
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct ranges r = {0};
        struct ranges_fault fault;
        ck_assert_msg(ranges_parse(good[i].text, &r, &fault) == 0, "%s", good[i].text);
        ck_assert_msg(r.n == good[i].n, "%s: %zu ranges", good[i].text, r.n);
        for (size_t k = 0; k < r.n; k++) {
            ck_assert_msg(r.list[k].start == good[i].list[k].start, "%s: %zu", good[i].text, k);
            ck_assert_msg(r.list[k].end == good[i].list[k].end, "%s: %zu", good[i].text, k);
        }
        ranges_free(&r);
    }
}
END_TEST

static const struct {
    const char *text, *part; /* PART is what must be blamed */
} bad[] = {
    {"", ""},
    {",", ""},
    {"0-1,", ""},
    {",0-1", ""},
    {"0-1,,2-3", ""},
    {"0", "0"},
    {"-", "-"},
    {"-1", "-1"},
    {"1-", "1-"},
    {"+1", "+1"},
    {"1+", "1+"},
    {"a-b", "a-b"},
    {"0x0-0x10", "0x0-0x10"},
    {" 0-1", " 0-1"},
    {"0-1 ", "0-1 "},
    {"0 - 1", "0 - 1"},
    {"0-1;2-3", "0-1;2-3"},
    {"0-1-2", "0-1-2"},
    {"0-1M+5", "0-1M+5"},
    {"1.5G-2G", "1.5G-2G"},
    {"0-1MiB", "0-1MiB"},
    {"0-1P", "0-1P"},
    {"0-1KK", "0-1KK"},
    {"alles", "alles"},
    {"ALL", "ALL"},
    {"5-5", "5-5"},
    {"5+0", "5+0"},
    {"0-1,1M-1K", "1M-1K"},
    {"0-9223372036854775808", "0-9223372036854775808"},
    {"0-18446744073709551616", "0-18446744073709551616"},
    {"0-99999999999999999999999999", "0-99999999999999999999999999"},
    {"0-8388608T", "0-8388608T"},
    {"1+9223372036854775807", "1+9223372036854775807"},
    {"4611686018427387904+4611686018427387904", "4611686018427387904+4611686018427387904"},
    /* More than a fault has room for: cut. */
    {"0-0000000000000000000000000000000000000000000000000000000000000000000000000000",
     "0-0000000000000000000000000000000000000000000000000000000000000"},
};

START_TEST(wrong)
{
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct ranges r = {.n = 77};
        struct ranges_fault fault = {0};
        ck_assert_msg(ranges_parse(bad[i].text, &r, &fault) == -EINVAL, "'%s'", bad[i].text);
        ck_assert_str_eq(fault.part, bad[i].part);
        ck_assert_ptr_nonnull(fault.what);
        ck_assert_ptr_null(r.list); /* untouched */
        ck_assert_uint_eq(r.n, 77);
    }
}
END_TEST

#define SPACE 64u

static unsigned next(unsigned *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 16;
}

/* Random ranges in a small space; every possible request against a map of its bytes. */
START_TEST(lookup)
{
    unsigned seed = 1;

    for (int round = 0; round < 200; round++) {
        bool map[SPACE] = {0};
        char text[256] = "";
        struct ranges r;
        struct ranges_fault fault;
        size_t used = 0;
        for (unsigned n = next(&seed) % 6 + 1; n; n--) {
            unsigned start = next(&seed) % (SPACE - 1);
            unsigned end = start + 1 + next(&seed) % (SPACE - 1 - start);
            used += (size_t)sprintf(text + used, "%s%u-%u", used ? "," : "", start, end);
            for (unsigned k = start; k < end; k++)
                map[k] = true;
        }
        ck_assert_int_eq(ranges_parse(text, &r, &fault), 0);
        for (size_t k = 1; k < r.n; k++)
            ck_assert_uint_lt(r.list[k - 1].end, r.list[k].start);
        for (unsigned start = 0; start < SPACE; start++) {
            bool any = false;
            ck_assert(!ranges_overlap(&r, start, start)); /* nothing is in no bytes */
            for (unsigned end = start + 1; end <= SPACE; end++) {
                any = any || map[end - 1];
                if (ranges_overlap(&r, start, end) != any)
                    ck_abort_msg("seed 1, round %d: %s: %u-%u", round, text, start, end);
            }
        }
        ranges_free(&r);
    }
}
END_TEST

START_TEST(lookup_at_the_end)
{
    struct ranges r;
    struct ranges_fault fault;

    ck_assert_int_eq(ranges_parse("all", &r, &fault), 0);
    ck_assert(ranges_overlap(&r, 0, 1));
    ck_assert(ranges_overlap(&r, INT64_MAX, UINT64_MAX));
    ck_assert(!ranges_overlap(&r, 10, 5)); /* a shrink that is none */
    ranges_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ranges");
    TCase *t = tcase_create("ranges");
    tcase_add_test(t, right);
    tcase_add_test(t, wrong);
    tcase_add_test(t, lookup);
    tcase_add_test(t, lookup_at_the_end);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}

// SPDX-License-Identifier: Apache-2.0
/*
 * Ranges are parsed once, when the filter is attached, and looked up with every write: so they are
 * kept sorted, with those that overlap or touch made one. Then of all ranges only the first one that
 * ends behind the start of a request can overlap it.
 *
 * A disk has at most 2^63 - 1 bytes. Greater numbers are a mistake of the user's, and refused.
 */
#include "ranges.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reads digits and a unit at *P and goes behind them. NULL, or what is wrong. */
static const char *parse_size(const char **p, uint64_t *ret_bytes)
{
    const char *s = *p;
    uint64_t v = 0;
    unsigned shift = 0;

    if (*s < '0' || *s > '9')
        return "is not START-END or START+LENGTH (numbers may end with K, M, G or T)";
    for (; *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return "has a number that is too large";
    static const char units[] = "KkMmGgTt";
    const char *unit = *s ? strchr(units, *s) : NULL;
    if (unit) {
        shift = 10 * ((unsigned)(unit - units) / 2 + 1);
        s++;
    }
    if (v > (uint64_t)INT64_MAX >> shift)
        return "has a number that is too large";
    *ret_bytes = v << shift;
    *p = s;
    return NULL;
}

/* One part, which goes up to END. NULL, or what is wrong. */
static const char *parse_part(const char *p, const char *end, struct range *ret_range)
{
    struct range range = {0, RANGES_TO_THE_END};
    uint64_t second;

    if (p == end)
        return "is empty: between two commas stands a range";
    if (end - p == 3 && memcmp(p, "all", 3) == 0) {
        *ret_range = range;
        return NULL;
    }
    const char *wrong = parse_size(&p, &range.start);
    if (wrong)
        return wrong;
    char kind = *p;
    if (kind != '-' && kind != '+')
        return "is not START-END or START+LENGTH (numbers may end with K, M, G or T)";
    p++;
    wrong = parse_size(&p, &second);
    if (wrong)
        return wrong;
    if (p != end)
        return "has something behind the range that does not belong there";
    if (kind == '-' && second < range.start)
        return "ends before it starts";
    if (kind == '+' && second > (uint64_t)INT64_MAX - range.start)
        return "ends behind the largest offset there is";
    range.end = kind == '+' ? range.start + second : second;
    if (range.end == range.start)
        return "has no byte in it: END is the first byte behind the range";
    *ret_range = range;
    return NULL;
}

static int compare(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

/* Makes those one that overlap or touch. */
static void merge(struct ranges *r)
{
    size_t last = 0;

    qsort(r->list, r->n, sizeof(*r->list), compare);
    for (size_t i = 1; i < r->n; i++) {
        if (r->list[i].start > r->list[last].end)
            r->list[++last] = r->list[i];
        else if (r->list[i].end > r->list[last].end)
            r->list[last].end = r->list[i].end;
    }
    r->n = last + 1;
}

int ranges_parse(const char *text, struct ranges *ret_ranges, struct ranges_fault *ret_fault)
{
    size_t parts = 1;

    for (const char *p = text; *p; p++)
        parts += *p == ',';
    struct ranges r = {.list = malloc(parts * sizeof(*r.list))};
    if (!r.list)
        return -ENOMEM;
    for (const char *p = text; r.n < parts; r.n++) {
        const char *end = strchrnul(p, ',');
        const char *wrong = parse_part(p, end, &r.list[r.n]);
        if (wrong) {
            snprintf(ret_fault->part, sizeof(ret_fault->part), "%.*s", (int)(end - p), p);
            ret_fault->what = wrong;
            free(r.list);
            return -EINVAL;
        }
        p = end + 1;
    }
    merge(&r);
    *ret_ranges = r;
    return 0;
}

void ranges_free(struct ranges *ranges)
{
    free(ranges->list);
    *ranges = (struct ranges){0};
}

bool ranges_overlap(const struct ranges *ranges, uint64_t start, uint64_t end)
{
    size_t low = 0, high = ranges->n;

    /* The first that ends behind START is at [low, high]. */
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (ranges->list[mid].end > start)
            high = mid;
        else
            low = mid + 1;
    }
    return start < end && low < ranges->n && ranges->list[low].start < end;
}

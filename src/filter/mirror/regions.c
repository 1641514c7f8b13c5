// SPDX-License-Identifier: Apache-2.0
#include "regions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD 64u
#define CHUNK (WORD * WORD)        /* bits of one word of the summary */
#define BITS_WANTED (1ull << 24)   /* 2 MiB: regions become larger above it, up to */
#define REGION_LARGE (64ull << 20) /* this, and above that the set takes more memory */

static uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static uint64_t regions_of(uint64_t region_bytes, uint64_t size)
{
    return size / region_bytes + (size % region_bytes != 0);
}

static int allocate(struct regions *s, uint64_t nbits)
{
    uint64_t *bits = calloc(nbits / WORD, sizeof(*bits));
    uint64_t *summary = calloc(nbits / CHUNK, sizeof(*summary));
    if (!bits || !summary) {
        free(bits);
        free(summary);
        return -ENOMEM;
    }
    free(s->bits);
    free(s->summary);
    s->bits = bits;
    s->summary = summary;
    s->nbits = nbits;
    s->count = 0;
    return 0;
}

int regions_init(struct regions *s, uint64_t size_bytes)
{
    *s = (struct regions){.region_bytes = REGION_BYTES};
    while (regions_of(s->region_bytes, size_bytes) > BITS_WANTED && s->region_bytes < REGION_LARGE)
        s->region_bytes *= 2;
    return allocate(s, round_up(regions_of(s->region_bytes, size_bytes) + 1, CHUNK));
}

void regions_free(struct regions *s)
{
    free(s->bits);
    free(s->summary);
    *s = (struct regions){0};
}

static void set_bit(struct regions *s, uint64_t i)
{
    uint64_t *word = &s->bits[i / WORD], bit = 1ull << i % WORD;
    s->count += !(*word & bit);
    *word |= bit;
    s->summary[i / CHUNK] |= 1ull << i / WORD % WORD;
}

static void set_word(struct regions *s, uint64_t i)
{
    s->count += WORD - (unsigned)__builtin_popcountll(s->bits[i / WORD]);
    s->bits[i / WORD] = UINT64_MAX;
    s->summary[i / CHUNK] |= 1ull << i / WORD % WORD;
}

static void clear_bit(struct regions *s, uint64_t i)
{
    uint64_t *word = &s->bits[i / WORD], bit = 1ull << i % WORD;
    s->count -= (*word & bit) != 0;
    *word &= ~bit;
    if (!*word)
        s->summary[i / CHUNK] &= ~(1ull << i / WORD % WORD);
}

/* The first bit set at or behind FROM; nbits. */
static uint64_t find(const struct regions *s, uint64_t from)
{
    while (from < s->nbits) {
        uint64_t word = s->bits[from / WORD] >> from % WORD;
        if (word)
            return from + (uint64_t)__builtin_ctzll(word);
        from = (from / WORD + 1) * WORD;
        while (from < s->nbits) { /* the next word that is not 0 */
            uint64_t words = s->summary[from / CHUNK] >> from / WORD % WORD;
            if (words) {
                from += (uint64_t)__builtin_ctzll(words) * WORD;
                break;
            }
            from = (from / CHUNK + 1) * CHUNK;
        }
    }
    return s->nbits;
}

/* Regions twice as large: bit i stands for what 2i and 2i + 1 stood for. Goes upwards, so it reads before it writes. */
static void coarsen(struct regions *s)
{
    for (uint64_t i = find(s, 0); i < s->nbits; i = find(s, i + 1)) {
        clear_bit(s, i);
        set_bit(s, i / 2);
    }
    s->region_bytes *= 2;
}

/* Room for what ends at END. */
static void cover(struct regions *s, uint64_t end)
{
    while (regions_of(s->region_bytes, end) > s->nbits) {
        uint64_t need = round_up(regions_of(s->region_bytes, end), CHUNK);
        struct regions old = *s;
        s->bits = s->summary = NULL;
        if ((need <= BITS_WANTED || s->region_bytes >= REGION_LARGE) && allocate(s, need) == 0) {
            memcpy(s->bits, old.bits, old.nbits / 8);
            memcpy(s->summary, old.summary, old.nbits / CHUNK * 8);
            s->count = old.count;
            regions_free(&old);
        } else {
            *s = old;
            coarsen(s);
        }
    }
}

void regions_add(struct regions *s, uint64_t offset, uint64_t end)
{
    if (end <= offset)
        return;
    cover(s, end);
    uint64_t i = offset / s->region_bytes, last = (end - 1) / s->region_bytes;
    while (i <= last) {
        if (i % WORD == 0 && last - i >= WORD - 1) {
            set_word(s, i);
            i += WORD;
        } else {
            set_bit(s, i++);
        }
    }
}

void regions_merge(struct regions *to, const struct regions *from)
{
    for (uint64_t i = find(from, 0); i < from->nbits; i = find(from, i + 1))
        regions_add(to, i * from->region_bytes, (i + 1) * from->region_bytes);
}

void regions_remove(struct regions *s, uint64_t offset, uint64_t end, uint64_t size)
{
    uint64_t first = regions_of(s->region_bytes, offset); /* the first that begins in it */
    uint64_t last = end >= size ? regions_of(s->region_bytes, end) : end / s->region_bytes;
    if (last > s->nbits)
        last = s->nbits;
    for (uint64_t i = find(s, first); i < last; i = find(s, i + 1))
        clear_bit(s, i);
}

void regions_clear(struct regions *s)
{
    for (uint64_t i = 0; i < s->nbits / CHUNK && s->count; i++) {
        if (s->summary[i])
            memset(&s->bits[i * WORD], 0, WORD * sizeof(s->bits[0]));
        s->summary[i] = 0;
    }
    s->count = 0;
}

bool regions_touch(const struct regions *s, uint64_t offset, uint64_t end)
{
    uint64_t first = offset / s->region_bytes;
    if (end <= offset || first >= s->nbits)
        return false;
    uint64_t i = find(s, first);
    return i < s->nbits && i <= (end - 1) / s->region_bytes;
}

bool regions_next(const struct regions *s, uint64_t from, uint64_t limit, uint64_t max,
                  uint64_t *ret_offset, uint64_t *ret_end)
{
    uint64_t first = from / s->region_bytes;
    if (first >= s->nbits)
        return false;
    first = find(s, first);
    if (first >= s->nbits || first * s->region_bytes >= limit)
        return false;
    uint64_t end = first + 1;
    while (end < s->nbits && (end + 1 - first) * s->region_bytes <= max &&
           s->bits[end / WORD] & 1ull << end % WORD)
        end++;
    *ret_offset = first * s->region_bytes;
    *ret_end = end * s->region_bytes;
    return true;
}

uint64_t regions_bytes(const struct regions *s, uint64_t size)
{
    uint64_t last = size / s->region_bytes, bytes = s->count * s->region_bytes;
    if (!s->count)
        return 0;
    for (uint64_t i = find(s, last); i < s->nbits; i = find(s, i + 1))
        bytes -= i == last ? s->region_bytes - size % s->region_bytes : s->region_bytes;
    return bytes;
}

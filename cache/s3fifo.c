// SPDX-License-Identifier: Apache-2.0
/*
 * S3-FIFO over slots. New slots enter the small queue (a tenth of the slots); what was hit there
 * moves on to the main queue when it reaches the end, what was not is evicted and leaves its
 * fingerprint in the ghost table; what comes back while its ghost is there enters the main queue at
 * once. The main queue gives each slot as many further rounds as it was hit, at most three. So one
 * pass over many slots flows through the small queue and leaves the main queue alone.
 *
 * A slot holds many blocks, and a sequential reader hits each slot it has just filled several
 * times; that says nothing about its being used again. Hits therefore count only once `quiet` other
 * slots have been admitted after it (the correlated reference period of LRU-K, O'Neil et al.,
 * SIGMOD 1993).
 *
 * Each list is circular through a sentinel, node nslots + queue; next leads from the newest to the
 * oldest. A slot is on exactly one list, or taken.
 */
#include "vd_cache_policy.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "vd_endian.h"

enum queue { FREE, SMALL, MAIN, TAKEN };

#define NQUEUES 3u
#define MAX_FREQ 3u
#define BUCKET 8u        /* ghosts a bucket, newest first */
#define MAX_STEPS 256u   /* moves in one take before the next usable slot is evicted as it is */
#define MAX_REFUSALS 64u /* of usable(), in one take */
#define MAX_QUIET 4096u
#define HEAD_BYTES 12u
#define SLOT_STATE_BYTES 9u

struct node {
    uint32_t prev, next;
    uint32_t fingerprint;
    _Atomic uint32_t admitted; /* the clock when it became resident */
};

struct s3fifo {
    struct vd_cache_policy policy;
    uint32_t nslots, nbuckets, small_target, quiet;
    uint32_t len[NQUEUES];
    _Atomic uint32_t clock; /* counts admissions */
    _Atomic uint32_t nused;
    struct node *nodes;    /* nslots + NQUEUES */
    uint8_t *queue;        /* enum queue of each slot */
    _Atomic uint8_t *freq; /* of each slot */
    uint32_t *ghosts;      /* nbuckets * BUCKET fingerprints, 0: none */
};

static void list_del(struct s3fifo *s, uint32_t slot)
{
    struct node *n = &s->nodes[slot];
    s->nodes[n->prev].next = n->next;
    s->nodes[n->next].prev = n->prev;
    s->len[s->queue[slot]]--;
    s->queue[slot] = TAKEN;
}

/* Puts a taken slot between sentinel and newest, or, OLDEST, at the other end. */
static void list_add(struct s3fifo *s, uint32_t slot, enum queue q, bool oldest)
{
    uint32_t head = s->nslots + q;
    uint32_t after = oldest ? s->nodes[head].prev : head;
    uint32_t before = s->nodes[after].next;
    s->nodes[slot].prev = after;
    s->nodes[slot].next = before;
    s->nodes[after].next = slot;
    s->nodes[before].prev = slot;
    s->len[q]++;
    s->queue[slot] = (uint8_t)q;
}

static uint32_t oldest_of(const struct s3fifo *s, enum queue q)
{
    return s->nodes[s->nslots + q].prev;
}

static uint32_t *bucket_of(struct s3fifo *s, uint32_t fingerprint)
{
    return &s->ghosts[(size_t)(((uint64_t)(fingerprint * 2654435761u) * s->nbuckets) >> 32) *
                      BUCKET];
}

static void ghost_add(struct s3fifo *s, uint32_t fingerprint)
{
    uint32_t *b = bucket_of(s, fingerprint);
    memmove(b + 1, b, (BUCKET - 1) * sizeof(*b));
    b[0] = fingerprint;
}

static bool ghost_take(struct s3fifo *s, uint32_t fingerprint)
{
    uint32_t *b = bucket_of(s, fingerprint);
    for (unsigned i = 0; i < BUCKET; i++) {
        if (b[i] != fingerprint)
            continue;
        memmove(b + i, b + i + 1, (BUCKET - 1 - i) * sizeof(*b));
        b[BUCKET - 1] = 0;
        return true;
    }
    return false;
}

static void reset(struct s3fifo *s)
{
    for (uint32_t q = 0; q < NQUEUES; q++) {
        s->nodes[s->nslots + q].prev = s->nodes[s->nslots + q].next = s->nslots + q;
        s->len[q] = 0;
    }
    for (uint32_t i = 0; i < s->nslots; i++) {
        list_add(s, i, FREE, false);
        atomic_store_explicit(&s->freq[i], 0, memory_order_relaxed);
    }
    memset(s->ghosts, 0, (size_t)s->nbuckets * BUCKET * sizeof(*s->ghosts));
    atomic_store(&s->nused, 0);
}

static void s3fifo_free(struct vd_cache_policy *p)
{
    struct s3fifo *s = (struct s3fifo *)p;
    if (!s)
        return;
    free(s->nodes);
    free(s->queue);
    free(s->freq);
    free(s->ghosts);
    free(s);
}

static int s3fifo_new(uint32_t nslots, struct vd_cache_policy **ret_policy)
{
    struct s3fifo *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->policy.ops = &vd_cache_policy_s3fifo;
    s->nslots = nslots;
    s->nbuckets = vd_max(1u, nslots / BUCKET);
    s->small_target = vd_max(1u, nslots / 10);
    s->quiet = vd_min(s->small_target / 4 + 1, MAX_QUIET);
    s->nodes = calloc((size_t)nslots + NQUEUES, sizeof(*s->nodes));
    s->queue = calloc(nslots, sizeof(*s->queue));
    s->freq = calloc(nslots, sizeof(*s->freq));
    s->ghosts = calloc((size_t)s->nbuckets * BUCKET, sizeof(*s->ghosts));
    if (!s->nodes || !s->queue || !s->freq || !s->ghosts) {
        s3fifo_free(&s->policy);
        return -ENOMEM;
    }
    reset(s);
    *ret_policy = &s->policy;
    return 0;
}

static void s3fifo_hit(struct vd_cache_policy *p, uint32_t slot)
{
    struct s3fifo *s = (struct s3fifo *)p;
    uint8_t f = atomic_load_explicit(&s->freq[slot], memory_order_relaxed);
    if (f >= MAX_FREQ)
        return;
    uint32_t now = atomic_load_explicit(&s->clock, memory_order_relaxed);
    uint32_t then = atomic_load_explicit(&s->nodes[slot].admitted, memory_order_relaxed);
    if (now - then > s->quiet)
        atomic_store_explicit(&s->freq[slot], (uint8_t)(f + 1), memory_order_relaxed);
}

/* Whether the oldest slot of Q has earned another round; gives it that. */
static bool another_round(struct s3fifo *s, enum queue q, uint32_t slot)
{
    uint8_t f = atomic_load_explicit(&s->freq[slot], memory_order_relaxed);
    if (!f)
        return false;
    atomic_store_explicit(&s->freq[slot], q == SMALL ? 0 : (uint8_t)(f - 1), memory_order_relaxed);
    list_del(s, slot);
    list_add(s, slot, MAIN, false);
    return true;
}

static uint32_t s3fifo_take(struct vd_cache_policy *p, bool (*usable)(void *user, uint32_t slot),
                            void *user)
{
    struct s3fifo *s = (struct s3fifo *)p;
    unsigned refused = 0;
    for (unsigned steps = 0; refused < MAX_REFUSALS; steps++) {
        enum queue q = s->len[FREE]                      ? FREE
                       : s->len[SMALL] > s->small_target ? SMALL
                       : s->len[MAIN]                    ? MAIN
                                                         : SMALL;
        if (!s->len[q])
            break;
        uint32_t slot = oldest_of(s, q);
        if (q != FREE && steps < MAX_STEPS && another_round(s, q, slot))
            continue;
        list_del(s, slot);
        if (usable && !usable(user, slot)) {
            list_add(s, slot, q, false);
            refused++;
            continue;
        }
        if (q == SMALL)
            ghost_add(s, s->nodes[slot].fingerprint);
        if (q == FREE)
            atomic_fetch_add_explicit(&s->nused, 1, memory_order_relaxed);
        return slot;
    }
    return VD_CACHE_NO_SLOT;
}

static void s3fifo_put(struct vd_cache_policy *p, uint32_t slot, uint64_t hash)
{
    struct s3fifo *s = (struct s3fifo *)p;
    assert(s->queue[slot] == TAKEN || s->queue[slot] == FREE);
    if (s->queue[slot] == FREE) {
        list_del(s, slot);
        atomic_fetch_add_explicit(&s->nused, 1, memory_order_relaxed);
    }
    struct node *n = &s->nodes[slot];
    n->fingerprint = (uint32_t)hash ? (uint32_t)hash : 1;
    uint32_t now = atomic_fetch_add_explicit(&s->clock, 1, memory_order_relaxed) + 1;
    atomic_store_explicit(&n->admitted, now, memory_order_relaxed);
    atomic_store_explicit(&s->freq[slot], 0, memory_order_relaxed);
    list_add(s, slot, ghost_take(s, n->fingerprint) ? MAIN : SMALL, false);
}

static void s3fifo_give_back(struct vd_cache_policy *p, uint32_t slot)
{
    struct s3fifo *s = (struct s3fifo *)p;
    if (s->queue[slot] == FREE)
        return;
    if (s->queue[slot] != TAKEN)
        list_del(s, slot);
    list_add(s, slot, FREE, true);
    atomic_fetch_sub_explicit(&s->nused, 1, memory_order_relaxed);
}

static uint32_t s3fifo_used(struct vd_cache_policy *p)
{
    return atomic_load_explicit(&((struct s3fifo *)p)->nused, memory_order_relaxed);
}

static size_t ghost_bytes(const struct s3fifo *s)
{
    return (size_t)s->nbuckets * BUCKET * 4;
}

static size_t s3fifo_state_bytes(struct vd_cache_policy *p)
{
    struct s3fifo *s = (struct s3fifo *)p;
    return HEAD_BYTES + ((size_t)s->len[SMALL] + s->len[MAIN]) * SLOT_STATE_BYTES + ghost_bytes(s);
}

/* Clock and lengths, then each slot of small and main from oldest to newest, then the ghosts. */
static void s3fifo_save(struct vd_cache_policy *p, void *buf)
{
    struct s3fifo *s = (struct s3fifo *)p;
    uint8_t *at = buf;
    vd_put_le32(at, atomic_load(&s->clock));
    vd_put_le32(at + 4, s->len[SMALL]);
    vd_put_le32(at + 8, s->len[MAIN]);
    at += HEAD_BYTES;
    for (uint32_t q = SMALL; q <= MAIN; q++) {
        for (uint32_t i = oldest_of(s, q); i < s->nslots; i = s->nodes[i].prev) {
            vd_put_le32(at, i);
            vd_put_le32(at + 4, s->nodes[i].fingerprint);
            at[8] = atomic_load_explicit(&s->freq[i], memory_order_relaxed);
            at += SLOT_STATE_BYTES;
        }
    }
    for (size_t i = 0; i < (size_t)s->nbuckets * BUCKET; i++, at += 4)
        vd_put_le32(at, s->ghosts[i]);
}

static int s3fifo_load(struct vd_cache_policy *p, const void *buf, size_t len)
{
    struct s3fifo *s = (struct s3fifo *)p;
    const uint8_t *at = buf;
    if (len < HEAD_BYTES + ghost_bytes(s))
        return -EUCLEAN;
    uint32_t clock = vd_get_le32(at), nsmall = vd_get_le32(at + 4), nmain = vd_get_le32(at + 8);
    if (nsmall > s->nslots || nmain > s->nslots - nsmall ||
        len != HEAD_BYTES + ((size_t)nsmall + nmain) * SLOT_STATE_BYTES + ghost_bytes(s))
        return -EUCLEAN;
    at += HEAD_BYTES;
    atomic_store(&s->clock, clock);
    for (uint32_t i = 0; i < nsmall + nmain; i++, at += SLOT_STATE_BYTES) {
        uint32_t slot = vd_get_le32(at);
        if (slot >= s->nslots || s->queue[slot] != FREE) {
            reset(s);
            return -EUCLEAN;
        }
        list_del(s, slot);
        list_add(s, slot, i < nsmall ? SMALL : MAIN, false);
        s->nodes[slot].fingerprint = vd_get_le32(at + 4);
        atomic_store_explicit(&s->nodes[slot].admitted, clock - s->quiet - 1, memory_order_relaxed);
        atomic_store_explicit(&s->freq[slot], vd_min(at[8], (uint8_t)MAX_FREQ),
                              memory_order_relaxed);
    }
    for (size_t i = 0; i < (size_t)s->nbuckets * BUCKET; i++, at += 4)
        s->ghosts[i] = vd_get_le32(at);
    atomic_store(&s->nused, nsmall + nmain);
    return 0;
}

const struct vd_cache_policy_ops vd_cache_policy_s3fifo = {
    .name = "s3fifo",
    .new = s3fifo_new,
    .free = s3fifo_free,
    .hit = s3fifo_hit,
    .take = s3fifo_take,
    .put = s3fifo_put,
    .give_back = s3fifo_give_back,
    .used = s3fifo_used,
    .state_bytes = s3fifo_state_bytes,
    .save = s3fifo_save,
    .load = s3fifo_load,
};

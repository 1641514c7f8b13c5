// SPDX-License-Identifier: Apache-2.0
/* See map_pages.h. Order: a writer makes the number odd, stores the words with release, makes it
 * even; a reader that sees one of the new words therefore sees the odd number, or a later one. */
#include "map_pages.h"

#include <pthread.h>

#define WAYS 4u
#define SHARDS 16u

struct slot {
    atomic_uint seq; /* odd: being changed */
    atomic_bool used;
    _Atomic uint64_t map_no, page; /* map_no 0: empty */
    _Atomic uint64_t word[VD__MAPTAB_PAGE_WORDS];
};

struct vd__pages {
    pthread_mutex_t mu[SHARDS]; /* of who puts into the sets that are equal modulo SHARDS */
    unsigned hand[SHARDS];      /* lock: mu of the same */
    uint64_t nsets;
    struct slot *slots;
};

struct vd__pages *vd__pages_new(size_t bytes)
{
    struct vd__pages *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->nsets = vd_max(bytes / (WAYS * sizeof(struct slot)), (size_t)SHARDS);
    c->slots = calloc(c->nsets * WAYS, sizeof(*c->slots)); /* touched as pages come */
    if (!c->slots) {
        free(c);
        return NULL;
    }
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_init(&c->mu[i], NULL);
    return c;
}

void vd__pages_free(struct vd__pages *c)
{
    if (!c)
        return;
    for (unsigned i = 0; i < SHARDS; i++)
        pthread_mutex_destroy(&c->mu[i]);
    free(c->slots);
    free(c);
}

/* The finalizer of MurmurHash3 (Appleby). */
static uint64_t set_of(const struct vd__pages *c, uint64_t map_no, uint64_t page)
{
    uint64_t h = page + map_no * 0x9e3779b97f4a7c15ull;
    h = (h ^ h >> 33) * 0xff51afd7ed558ccdull;
    h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ull;
    return (uint64_t)((unsigned __int128)(h ^ h >> 33) * c->nsets >> 64);
}

static bool holds(const struct slot *s, uint64_t map_no, uint64_t page)
{
    return atomic_load_explicit(&s->page, memory_order_acquire) == page &&
           atomic_load_explicit(&s->map_no, memory_order_acquire) == map_no;
}

bool vd__pages_search(struct vd__pages *c, uint64_t map_no, uint64_t page, uint64_t block,
                      uint64_t limit, struct vd__extent *ret_e)
{
    struct slot *s = &c->slots[set_of(c, map_no, page) * WAYS];
    for (unsigned i = 0; i < WAYS; i++, s++) {
        unsigned seq = atomic_load_explicit(&s->seq, memory_order_acquire);
        if (seq % 2 || !holds(s, map_no, page))
            continue;
        struct vd__extent e = vd__maptab_page_search(s->word, block, limit);
        if (atomic_load_explicit(&s->seq, memory_order_relaxed) != seq)
            return false;
        if (!atomic_load_explicit(&s->used, memory_order_relaxed))
            atomic_store_explicit(&s->used, true, memory_order_relaxed);
        *ret_e = e;
        return true;
    }
    return false;
}

/* lock: the shard's. Second chance: the first slot that nobody used since the hand last came by. */
static struct slot *victim(struct vd__pages *c, struct slot *set, unsigned *hand)
{
    for (unsigned i = 0; i < WAYS; i++)
        if (atomic_load_explicit(&set[i].map_no, memory_order_relaxed) == 0)
            return &set[i];
    for (;;) {
        struct slot *s = &set[(*hand)++ % WAYS];
        if (!atomic_exchange_explicit(&s->used, false, memory_order_relaxed))
            return s;
    }
}

void vd__pages_put(struct vd__pages *c, uint64_t map_no, uint64_t page,
                   const _Atomic uint64_t *words)
{
    uint64_t n = set_of(c, map_no, page);
    struct slot *set = &c->slots[n * WAYS];
    pthread_mutex_lock(&c->mu[n % SHARDS]);
    bool here = false; /* somebody else missed it too */
    for (unsigned i = 0; i < WAYS; i++)
        here |= holds(&set[i], map_no, page);
    if (!here) {
        struct slot *s = victim(c, set, &c->hand[n % SHARDS]);
        unsigned seq = atomic_load_explicit(&s->seq, memory_order_relaxed);
        atomic_store_explicit(&s->seq, seq + 1, memory_order_relaxed);
        atomic_store_explicit(&s->map_no, map_no, memory_order_release);
        atomic_store_explicit(&s->page, page, memory_order_release);
        for (unsigned i = 0; i < VD__MAPTAB_PAGE_WORDS; i++)
            atomic_store_explicit(&s->word[i],
                                  atomic_load_explicit(&words[i], memory_order_relaxed),
                                  memory_order_release);
        atomic_store_explicit(&s->used, true, memory_order_relaxed);
        atomic_store_explicit(&s->seq, seq + 2, memory_order_release);
    }
    pthread_mutex_unlock(&c->mu[n % SHARDS]);
}
